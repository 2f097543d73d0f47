# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Instances and their networks: which addresses are kept for them, and that the networks are there when they start."""

from __future__ import annotations

import contextlib
import typing as t
from dataclasses import replace

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.members import members_of, users_of
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Networks
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    InUse,
    InvalidOption,
    NoSpace,
    NotSupported,
)
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import subnets
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    DEFAULT_NETWORK,
    USER_NETWORK,
    Instance,
    Nic,
    key_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.nics import bridged_parent
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime, timestamp
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


class Attachment:
    """What ties the instances of a driver to the networks of its scope."""

    def __init__(self, driver: Driver, runtime: Runtime, data: DataDirectory) -> None:
        self.driver = driver
        self.runtime = runtime
        self.data = data
        self.scope = driver.scope

    def check(self, instance: Instance, coming: t.Container[str] = (), going: t.Container[str] = ()) -> None:
        """Raise if an instance's interfaces cannot be had; nothing is changed.

        coming -- networks that are made or changed before the instance is on them; going -- other instances that are
            removed before; both by what names are compared by
        """
        for nic in instance.nics:
            if nic.network == USER_NETWORK:
                continue
            networks = self._networks(nic)
            if nic.mac:
                self._check_mac(instance, nic.mac, going)
            if key_of(nic.network) in coming:
                continue
            if self.runtime.foretells and self._is_missing(nic):
                self.runtime.report.warn(
                    f"There is no network {nic.network} yet. Unless a task before this one makes it, with"
                    " minicloud.local.network, the real run refuses it."
                )
                continue
            network = self._read(nic)
            networks.require(network or self._new(nic))
            if network is None and bridged_parent(nic.network):
                networks.fill_in(self._new(nic), all_networks(self.data))
            others = [
                other
                for other in self.scope.instances()[0]
                if key_of(other.name) != key_of(instance.name) and key_of(other.name) not in going
            ]
            if nic.address and network and network.subnet:
                subnet = subnets.parse_subnet(network.subnet)
                address = subnets.parse_address(nic.address, subnet)
                self._check_unused(instance, address, network, others, networks)
            elif nic.address and network:
                raise InvalidOption(
                    f"address {nic.address} cannot be given to {instance.name}",
                    f"addresses on {network.name} are given by the network that {network.parent} is on",
                    "Leave address out, or set it in cloud_init's network configuration.",
                )
            elif nic.address:
                raise InvalidOption(
                    f"address {nic.address} cannot be given to {instance.name} yet",
                    f"the network {nic.network} gets its subnet when it is made, which is now",
                    "Make the network first, with minicloud.local.network and the subnet that you want.",
                )

    def give_addresses(self, instance: Instance) -> Instance:
        """The record of an instance with an address for each interface that has none, stored."""
        nics: list[Nic] = []
        for nic in instance.nics:
            if nic.network != USER_NETWORK:
                networks = self._networks(nic)
                with self._lock(nic.network):
                    network = self._read(nic) or self._make(nic, networks)
                    nic = self._with_address(instance, nic, network, networks)
                    # Stored before anybody else looks for a free address.
                    instance = replace(instance, nics=[*nics, nic, *instance.nics[len(nics) + 1 :]])
                    self.scope.write(instance)
            nics.append(nic)
        return instance

    def connect(self, instance: Instance) -> None:
        """Have the networks of an instance be there, and know it as its record has it now."""
        for name in self._names(instance):
            networks = self.driver.networks()
            with self._lock(name):
                network = self.scope.networks.read(name)
                if network and networks:
                    self.runtime.report.step(f"network {network.name}")
                    networks.apply(network, members_of(network, self.scope.instances()[0]))
                    for text in networks.problems(network):
                        self.runtime.report.warn(f"network {network.name}: {text}")

    def disconnect(self, instance: Instance) -> None:
        """Have the networks of an instance that does not run, as far as they are there, know how it is now.

        Also of one that has just been made, has stopped, has another name, or goes.

        One that was made because an instance needed it leaves the host with the last one.
        """
        for name in self._names(instance):
            networks = self.driver.networks()
            # On a full disk nothing can be noted, and removing is what makes room.
            with contextlib.suppress(NoSpace), self._lock(name):
                network = self.scope.networks.read(name)
                if network is None or networks is None or not networks.is_up(network):
                    continue
                instances, broken = self.scope.instances()
                instances = [each for each in instances if each.phase != "removing"]
                # An instance whose record cannot be read may be on it.
                if network.on_demand and not broken and not users_of(network, instances):
                    networks.remove(network)
                else:
                    networks.apply(network, members_of(network, instances))

    def _names(self, instance: Instance) -> list[str]:
        return list(dict.fromkeys(key_of(nic.network) for nic in instance.nics if nic.network != USER_NETWORK))

    def _lock(self, name: str) -> contextlib.AbstractContextManager[None]:
        return self.scope.networks.lock(name, Deadline(120), self.runtime.report)

    def _networks(self, nic: Nic) -> Networks:
        networks = self.driver.networks()
        if networks is None:
            raise NotSupported(
                f"networks has {nic.network!r}, and the driver {self.driver.name} makes no networks on this host",
                hint="Leave the option networks out.",
            )
        return networks

    def _read(self, nic: Nic) -> Network | None:
        """The record of an interface's network; None only of one that is still to be made because it is needed."""
        if self._is_missing(nic):
            known = ", ".join(each.name for each in self.scope.networks.all()[0]) or "none yet"
            raise InvalidOption(
                f"there is no network {nic.network!r}",
                hint=f"Make it with minicloud.local.network, or name one that is there: {known}.",
            )
        return self.scope.networks.read(nic.network)

    def _is_missing(self, nic: Nic) -> bool:
        """Whether an interface's network is neither there nor made because it is needed."""
        made = key_of(nic.network) == DEFAULT_NETWORK or bridged_parent(nic.network)
        return not made and self.scope.networks.read(nic.network) is None

    def _new(self, nic: Nic) -> Network:
        """A network that is made because an instance needs it."""
        parent = bridged_parent(nic.network)
        return Network(
            nic.network if parent else DEFAULT_NETWORK,
            self.scope.name,
            self.driver.name,
            timestamp(),
            mode="bridged" if parent else "nat",
            parent=parent,
            on_demand=True,
            handles={self.driver.name: self.driver.handle()},
        )

    def _make(self, nic: Nic, networks: Networks) -> Network:
        """The record of a network that is needed, stored; on the host it comes when an instance starts."""
        network = self._new(nic)
        # Two that choose at once would choose alike.
        with self.data.lock("subnets", Deadline(60), self.runtime.report):
            networks.fill_in(network, all_networks(self.data))
            network.phase = "ready"
            self.scope.networks.write(network)
        self.runtime.report.step("network_record")
        return network

    def _with_address(self, instance: Instance, nic: Nic, network: Network, networks: Networks) -> Nic:
        if not network.subnet or nic.mode == "manual":
            return nic
        subnet = subnets.parse_subnet(network.subnet)
        others = [other for other in self.scope.instances()[0] if other.uuid != instance.uuid]
        if nic.address:
            address = subnets.parse_address(nic.address, subnet)
            self._check_unused(instance, address, network, others, networks)
            return replace(nic, address=address, lease="")
        # One that was chosen before the network got another subnet is worth nothing any more.
        if nic.lease and subnets.contains(subnet, nic.lease):
            return nic
        used = {other.address or other.lease for each in (*others, instance) for other in each.nics}
        for mac, addresses in networks.leases([network]).items():
            if mac != nic.mac.lower():
                used.update(addresses)
        return replace(nic, lease=subnets.choose_address(network.dhcp_range, subnet, used))

    @staticmethod
    def _check_unused(
        instance: Instance, address: str, network: Network, others: t.Sequence[Instance], networks: Networks
    ) -> None:
        macs = {}
        for other in others:
            for nic in other.nics:
                macs[nic.mac.lower()] = other
                if key_of(nic.network) == key_of(network.name) and address in (nic.address, nic.lease):
                    raise InUse(
                        f"address {address} cannot be given to {instance.name}",
                        f"it is kept for {described(other)}",
                        "Take another, or give that instance another one first.",
                    )
        for mac, addresses in networks.leases([network]).items():
            holder = macs.get(mac)
            if address in addresses and holder is not None and holder.owner:
                raise InUse(
                    f"address {address} cannot be given to {instance.name}",
                    f"{holder.name} has it still, until it asks for its new one",
                    "Try again in a few minutes, or restart that instance.",
                )

    def _check_mac(self, instance: Instance, mac: str, going: t.Container[str]) -> None:
        for scope in self.data.scopes():
            for other in scope.instances()[0]:
                own = key_of(other.name) == key_of(instance.name) or key_of(other.name) in going
                same = scope.name == self.scope.name and own
                if not same and any(nic.mac.lower() == mac for nic in other.nics):
                    raise InUse(
                        f"mac {mac} cannot be given to {instance.name}",
                        f"{described(other)} (scope {scope.name}) has it",
                        "Give another, or leave it out to have one chosen.",
                    )


def all_networks(data: DataDirectory) -> list[Network]:
    """The networks of all scopes."""
    return [network for scope in data.scopes() for network in scope.networks.all()[0]]


def described(instance: Instance) -> str:
    """An instance by name, for an error about what it has: whoever does not see it is told why it is still there."""
    return f"{instance.name}, which is deleted and can be recovered," if instance.deleted else instance.name
