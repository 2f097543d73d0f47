# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What the drivers have in common whose instances are files in the instance's directory on this host.

They share these files: what one of them made, another of the same scope starts.
Looking is done here; what changes something is in act.py, which a run that only looks does not import.
"""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Looks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.reach import forwarding_nic, reached_at
from ansible_collections.minicloud.local.plugins.module_utils._host.host import this_host
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import leases
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    DEFAULT_NETWORK,
    UP,
    USER_NETWORK,
    Instance,
    Nic,
    Observed,
)

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.host_networks.bridges import HostNetworks
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.host_networks.segments import SegmentNetworks

# Files in the directory of an instance.
DISK, NVRAM, CONSOLE = "disk.qcow2", "nvram.fd", "console.log"
# A link to the copy of NVRAM that a hypervisor works on, where it wants one in a place of its own.
NVRAM_COPY = "nvram.copy"
# There while an interface is unplugged; it has that one's MAC.
UNPLUGGED = "unplugged"

# The size at which the console of a running instance is cut.
_CONSOLE_LIMIT = 16 << 20


class FamilyLooks(Looks):
    """See Looks.

    forwarding_host -- where this host finds the ports of the hypervisor's user-mode network
    """

    capabilities = {"console_log": ("vm",)}
    forwarding_host = "127.0.0.1"

    def path(self, instance: Instance, name: str) -> str:
        """The path of a file of an instance."""
        return os.path.join(self.scope.directory(instance.name), name)

    @property
    def default_network(self) -> str:
        return DEFAULT_NETWORK if this_host().has_networks else USER_NETWORK

    def networks(self) -> HostNetworks | SegmentNetworks | None:
        """See Driver."""
        return self.bridges() or self.segments()

    def segments(self) -> SegmentNetworks | None:
        """The networks of an ordinary user."""
        if os.geteuid() == 0 or self.default_network == USER_NETWORK:
            return None
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.host_networks.segments import (
            SegmentNetworks,
        )

        return SegmentNetworks(self.runtime, self.scope)

    def bridges(self) -> HostNetworks | None:
        """The networks of root."""
        if os.geteuid() != 0 or self.default_network == USER_NETWORK:
            return None
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.host_networks.bridges import HostNetworks

        return HostNetworks(self.runtime, self.scope)

    def user_mode(self, instance: Instance) -> bool:
        """Whether this host reaches an instance by forwarded ports of the hypervisor's user-mode network only."""
        return instance.user_mode or os.geteuid() != 0

    def joins_networks(self) -> bool:
        """Whether instances can be on the networks of their scope."""
        return True

    def uplink(self, instance: Instance) -> Nic | None:
        """The interface that an instance has for ssh, ports and the way out where its networks have no such thing.

        That is so where an ordinary user's networks connect guests with each other only.
        """
        if instance.user_mode or os.geteuid() == 0:
            return None
        return Nic(USER_NETWORK, f"52:55:{instance.uuid[:2]}:{instance.uuid[2:4]}:{instance.uuid[4:6]}:02")

    def interfaces(self, instance: Instance) -> list[Nic]:
        uplink = self.uplink(instance)
        return [uplink, *instance.nics] if uplink else instance.nics

    def located(self, instances: t.Sequence[Instance], seen: t.Sequence[Observed]) -> list[Observed]:
        """What is seen of some instances, completed by the addresses of those that run."""
        running = [instance for instance, each in zip(instances, seen) if each.state in UP]
        by_mac = self.addresses(running) if self.joins_networks() else {}
        severed = self._severed_networks(running)
        found = []
        for instance, each in zip(instances, seen):
            if each.state in UP:
                own = {nic.mac: by_mac[nic.mac] for nic in instance.nics if nic.mac in by_mac}
                addresses = tuple(address for some in own.values() for address in some)
                if instance.user_mode and not own:
                    addresses = (self.forwarding_host,)
                cut_off = any(nic.network in severed for nic in instance.nics) or self._is_astray(instance, own)
                cut_off = cut_off or os.path.exists(self.path(instance, UNPLUGGED))
                each = each._replace(addresses=addresses, by_mac=own, severed=cut_off)
            found.append(each)
        return found

    def addresses(self, instances: t.Sequence[Instance]) -> dict[str, tuple[str, ...]]:
        """The addresses that running instances have now, by the MAC of their interfaces."""
        nics = [nic for instance in instances for nic in instance.nics if nic.network != USER_NETWORK]
        by_network: dict[str, list[Nic]] = {}
        for nic in nics:
            by_network.setdefault(nic.network, []).append(nic)
        # However many instances there are, what is known of a network is read once.
        given: dict[str, tuple[str, ...]] = {}
        for name in by_network:
            given.update(leases.active(leases.read_leases(self.scope.networks.directory(name))))
        # A guest without an address from this host may have configured one by itself.
        met = leases.neighbours() if nics else {}
        found = {nic.mac: given.get(nic.mac.lower()) or met.get(nic.mac.lower(), ()) for nic in nics}
        for name, its_nics in by_network.items() if os.geteuid() == 0 else ():
            found.update(self._looked_up(name, its_nics, found))
        return {mac: addresses for mac, addresses in found.items() if addresses}

    def _looked_up(
        self, name: str, nics: t.Sequence[Nic], given: t.Mapping[str, tuple[str, ...]]
    ) -> dict[str, tuple[str, ...]]:
        """The addresses on a network that others, or the guests themselves, choose: the link itself is asked.

        given -- what is known already. What this host has merely heard of them may be long past.
        """
        network = self.scope.networks.read(name)
        if network is None or (network.mode != "bridged" and not network.subnet6):
            return {}
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet.lookup import find_guests, find_guests6

        if network.mode != "bridged":
            own = find_guests6(network.interface, network.subnet6, [nic.mac for nic in nics])
            return {mac: (*given.get(mac, ()), *addresses) for mac, addresses in own.items()}
        # On a network of this collection every guest has a reserved address.
        macs = [nic.mac for nic in nics if not nic.address and not nic.lease]
        # A guest on top of an interface hears nothing of this host, and this host nothing of it.
        if network.bridge_type == "macvtap":
            return dict.fromkeys(macs, ())
        return find_guests(network.interface, macs)

    def _is_astray(self, instance: Instance, by_mac: t.Mapping[str, tuple[str, ...]]) -> bool:
        """Whether ports lead elsewhere than to where an instance is now, on a network of others."""
        nic = forwarding_nic(instance) if instance.ports and not self.user_mode(instance) else None
        if nic is None or nic.address or nic.lease or not by_mac.get(nic.mac):
            return False
        network = self.scope.networks.read(nic.network)
        if network is None or network.mode != "bridged" or network.bridge_type == "macvtap":
            return False
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet.lookup import noted_addresses

        noted = noted_addresses(self.scope.networks.directory(nic.network))
        return noted.get(nic.mac) not in by_mac[nic.mac]

    def _severed_networks(self, instances: t.Sequence[Instance]) -> set[str]:
        """The networks of running instances, an ordinary user's, that have lost their hub."""
        if os.geteuid() == 0 or not self.joins_networks():
            return set()
        names = {nic.network for instance in instances for nic in instance.nics if nic.network != USER_NETWORK}
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet.hub_lock import hub_was_lost

        return {name for name in names if hub_was_lost(self.scope.networks.directory(name))}

    def remains(self, instance: Instance) -> str:
        disk = self.path(instance, DISK)
        # One that is still being made was never started.
        return f"its disk is there, {disk}" if instance.phase == "removing" and os.path.exists(disk) else ""

    def ssh_address(self, instance: Instance, seen: Observed | None = None) -> tuple[str, int]:
        if self.user_mode(instance):
            return self.forwarding_host, instance.ssh_port
        if seen is not None:
            by_mac = seen.by_mac
        else:
            by_mac = self.addresses([instance]) if instance.owner else {}
        return reached_at(instance, by_mac), 22

    def console_log(self, instance: Instance) -> str:
        return self.path(instance, CONSOLE)

    def tidy(self, instance: Instance) -> None:
        path = self.console_log(instance)
        with contextlib.suppress(OSError):
            if os.path.getsize(path) > _CONSOLE_LIMIT:
                from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import recorder
                from ansible_collections.minicloud.local.plugins.module_utils._guest.console import EARLIER

                recorder.begin_anew(path, f"{path}{EARLIER}", recorder.LIMIT)
