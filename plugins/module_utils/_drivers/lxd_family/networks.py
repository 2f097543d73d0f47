# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The networks of LXD: managed bridges, with LXD's own DHCP and DNS."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import random
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.api import NotThere
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.client import LxdClient
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.config import OURS, NicPlace
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.look import LxdLooks, addresses_of
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Member, Networks
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InUse,
    InvalidOption,
    MissingRequirement,
    NotFound,
    NotSupported,
)
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import subnets
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Nic
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.host_networks.bridges import HostNetworks

NETWORK, DATA_DIR = f"{OURS}network", f"{OURS}data_dir"
# Seconds for which LXD may go on with what a killed run has asked of it.
_PATIENCE = 20.0
# Bridges belong to LXD's own project, whichever project the instances on them are in.
_WHERE = {"project": "default"}
_MODES = ("nat", "isolated", "bridged")


def config_of(network: Network, data_dir: str) -> dict[str, str]:
    """What LXD is told of a network that it makes, from the record. What is not in here is LXD's own affair."""
    nat = "true" if network.mode == "nat" else "false"
    config = {"ipv4.address": "none", "ipv6.address": "none", "dns.domain": network.domain, "dns.mode": "managed"}
    # Who may reach whom is said by the rules: where LXD does not route at all, it also refuses what guests send each
    # other once the kernel has bridges pass the firewall, as beside Docker.
    if network.subnet:
        subnet = ipaddress.IPv4Network(network.subnet)
        config["ipv4.address"] = f"{subnets.gateway(subnet)}/{subnet.prefixlen}"
        config.update({"ipv4.nat": nat, "ipv4.dhcp": "true", "ipv4.routing": "true"})
        if network.dhcp_range:
            config["ipv4.dhcp.ranges"] = network.dhcp_range
    if network.subnet6:
        subnet6 = ipaddress.IPv6Network(network.subnet6)
        config["ipv6.address"] = f"{subnets.gateway(subnet6)}/{subnet6.prefixlen}"
        config.update({"ipv6.nat": nat, "ipv6.routing": "true"})
    if network.mtu:
        config["bridge.mtu"] = str(network.mtu)
    if network.mode == "isolated":
        # Names of the network only: questions that its server passes on would be a way out.
        config["raw.dnsmasq"] = "no-resolv"
    config.update(
        {
            "security.acls": network.interface,
            "security.acls.default.ingress.action": "drop",
            "security.acls.default.egress.action": "drop",
        }
    )
    return {**config, NETWORK: network.name, DATA_DIR: data_dir}


def rules_of(network: Network, data_dir: str, host: t.Sequence[str] = ()) -> dict[str, t.Any]:
    """The rules of a network, LXD's access control list of the same name: who may reach guests, and whom they may.

    Answers pass, and so does what guests need of DHCP and names; nothing passes from addresses of others. The host is
    in the subnet with them. host -- its addresses, where guests are not to reach them
    """
    # One rule for IPv4 and one for IPv6, because LXD accepts no rule that mixes them.
    families = [("icmp4", network.subnet, network.subnet)] if network.subnet else []
    families += [("icmp6", network.subnet6, f"{network.subnet6},fe80::/10")] if network.subnet6 else []
    sources = ",".join(inside for dummy, dummy, inside in families)
    egress = []
    if network.mode == "nat":
        if not network.reaches_host:
            # LXD has what it drops come before what it allows.
            egress.append({"action": "drop", "destination": ",".join(host)})
        egress.append({"action": "allow", "source": sources})
    else:
        for ping, subnet, inside in families:
            egress.append({"action": "allow", "protocol": ping, "destination": inside, "source": inside})
            if network.reaches_host:
                gateway = subnets.gateway(ipaddress.ip_network(subnet))
                egress.append({"action": "allow", "destination": gateway, "source": inside})
    return {
        "config": {NETWORK: network.name, DATA_DIR: data_dir},
        "ingress": [{"action": "allow", "source": sources, "state": "enabled"}],
        "egress": [{**rule, "state": "enabled"} for rule in egress],
    }


def differences(there: t.Mapping[str, str], wanted: t.Mapping[str, str]) -> list[str]:
    """How a network's configuration differs from the wanted one, as sentences without a full stop."""
    keys = sorted({*wanted, *(key for key in ("ipv4.dhcp.ranges", "bridge.mtu", "raw.dnsmasq") if key in there)})
    return [
        f"{key} is {there.get(key) or 'not set'} instead of {wanted.get(key) or 'not set'}"
        for key in keys
        if there.get(key, "") != wanted.get(key, "")
    ]


class LxdNetworks(Networks):
    """See Networks. A network in mode bridged is the host's own affair: LXD only attaches interfaces to it."""

    def __init__(self, look: LxdLooks, client: LxdClient) -> None:
        self.look = look
        self.client = client
        self.product = look.product
        self.data = look.scope.data
        self._host: HostNetworks | None = None
        if look.host.here and os.geteuid() == 0:
            from ansible_collections.minicloud.local.plugins.module_utils._drivers.host_networks.bridges import (
                HostNetworks,
            )

            self._host = HostNetworks(look.runtime, look.scope)

    def require(self, network: Network) -> None:
        if network.mode not in _MODES:
            raise NotSupported(
                f"the driver {self.look.name} has no networks of the mode {network.mode}",
                hint=f"It has: {', '.join(_MODES)}.",
            )
        if network.mode != "bridged":
            if self.look.server()["environment"].get("server_clustered") and self._avoids_host(network):
                raise NotSupported(
                    f"the network {network.name} cannot have host_access: false",
                    f"each member of the cluster has addresses of its own, and {self.product} has the same rules for"
                    " all",
                    "Take the mode isolated, or leave the option out.",
                )
        elif self._host:
            self._host.require(network)
        else:
            self._require_parent(network)

    def _require_parent(self, network: Network) -> None:
        """Return if LXD can attach interfaces to the parent of a bridged network as it is."""
        doing = f"the network {network.name} cannot be bridged to {network.parent}"
        try:
            found = self.look.api.get(f"networks/{network.parent}", **_WHERE)
        except NotThere as exc:
            raise MissingRequirement(
                doing,
                f"the host of {self.product} at {self.look.place.endpoint} has no such interface",
                "Name one that it has, or a bridge.",
            ) from exc
        if network.bridge_type == "bridge" and found.get("type") != "bridge":
            raise MissingRequirement(
                doing,
                "it is no bridge, and only root of the host itself makes one of it",
                "Name a bridge, or set bridge_type: macvtap.",
            )
        if network.bridge_type == "macvtap" and found.get("type") == "bridge":
            raise InvalidOption(doing, "it is a bridge, which instances are attached to", "Leave bridge_type out.")

    def fill_in(self, network: Network, others: t.Sequence[Network]) -> None:
        if network.mode == "bridged":
            # Addresses of a bridged network are assigned by others.
            if self._host:
                self._host.fill_in(network, others)
            else:
                network.interface = network.parent
            return
        there = self.look.api.get("networks", recursion="1", **_WHERE)
        # One that a killed run has made of this very record is no other.
        names = {entry["name"] for entry in there if not self._is_ours(network, entry.get("config") or {})}
        while not network.interface or (network.phase == "creating" and network.interface in names):
            network.interface = f"mcl{random.SystemRandom().randrange(1 << 32):08x}"
        subnets.fill_in(network, self._taken(network, others, names), int(network.interface[3:], 16))

    def _taken(self, network: Network, others: t.Iterable[Network], names: t.Iterable[str]) -> list[subnets.Taken]:
        """What of the address space is in use by something else than the network, on the host of LXD."""
        found = []
        for other in others:
            if other.subnet and other.interface != network.interface:
                owner = f"the network {other.name} of the scope {other.scope}"
                found.append(subnets.Taken(ipaddress.IPv4Network(other.subnet), owner))
        for name in set(names) - {network.interface}:
            for entry in self._addresses(name):
                if entry.get("family") == "inet":
                    where = ipaddress.IPv4Interface(f"{entry['address']}/{entry['netmask']}").network
                    found.append(subnets.Taken(where, f"the subnet of the interface {name}"))
        if self.look.host.here:
            from ansible_collections.minicloud.local.plugins.module_utils._hostnet import links

            for route in links.read_routes(self.look.runtime):
                if route.destination != "default" and route.device != network.interface:
                    by = f"the route of {route.device}" if route.device else "a route of this host"
                    found.append(subnets.Taken(ipaddress.IPv4Network(route.destination), by))
        return found

    def _addresses(self, interface: str) -> list[dict[str, str]]:
        """The addresses of an interface of the host of LXD, as LXD tells them."""
        try:
            return self.look.api.get(f"networks/{interface}/state", **_WHERE).get("addresses") or []
        except HypervisorError:
            return []  # one that is not finished, or has gone

    @staticmethod
    def _avoids_host(network: Network) -> bool:
        """Whether guests reach everybody but the host."""
        return network.mode == "nat" and not network.reaches_host

    def _wanted_rules(self, network: Network) -> dict[str, t.Any]:
        """See rules_of()."""
        if not self._avoids_host(network):
            return rules_of(network, self.data.path)
        found = {subnets.gateway(ipaddress.ip_network(each)) for each in (network.subnet, network.subnet6) if each}
        told = [
            each["address"]
            for entry in self.look.api.get("networks", recursion="1", **_WHERE)
            for each in self._addresses(entry["name"])
        ]
        if self.look.host.here:
            # Not every server tells of all kinds of interfaces: tunnels and virtual cables are missing with Incus.
            from ansible_collections.minicloud.local.plugins.module_utils._hostnet import links

            for link in links.read_links(self.look.runtime).values():
                told += [each.partition("/")[0] for each in link.addresses]
        for text in told:
            address = ipaddress.ip_address(text)
            if not address.is_loopback and not address.is_link_local:
                found.add(str(address))
        return rules_of(network, self.data.path, [*sorted(found), *(["fe80::/10"] if network.subnet6 else [])])

    def _is_ours(self, network: Network, config: t.Mapping[str, str]) -> bool:
        return config.get(NETWORK) == network.name and self.data.is_at(config.get(DATA_DIR, ""))

    def _spelled(self, config: t.Mapping[str, str]) -> str:
        """The data directory's path as a configuration has it, where it means ours; else as it is to be."""
        there = config.get(DATA_DIR, "")
        return there if self.data.is_at(there) else self.data.path

    def is_up(self, network: Network) -> bool:
        if network.mode == "bridged":
            return self._host is not None and self._host.is_up(network)
        # A removal that was cut off may have left the rules.
        return bool(network.interface) and (self.has(network) or self._rules(network) is not None)

    def has(self, network: Network) -> bool:
        """Whether LXD has a network, finished or not."""
        return self._look(network) is not None

    def _look(self, network: Network) -> dict[str, t.Any] | None:
        """What LXD knows of a network; None where it has none, even if the host has such an interface still."""
        try:
            there: dict[str, t.Any] = self.look.api.get(f"networks/{network.interface}", **_WHERE)
        except NotThere:
            return None
        return there if there.get("managed", True) else None

    def drift(self, network: Network, members: t.Sequence[Member]) -> list[str]:
        if network.mode == "bridged":
            # Ports are forwarded by LXD.
            return self._host.drift(network, ()) if self._host else []
        there = self._look(network)
        if there is None:
            return [f"{self.product} has no network {network.interface}"]
        if not _is_finished(there):
            return [f"{self.product} has not finished making the network {network.interface}"]
        found = differences(there["config"], config_of(network, self._spelled(there["config"])))
        if self._rules_differ(network, self._rules(network)):
            found.append(f"its rules ({self.product.client} network acl) are not those that the network is to have")
        return found + (self._host.obstacles(network.interface) if self._host else [])

    def _rules(self, network: Network) -> dict[str, t.Any] | None:
        """The rules that LXD has for a network."""
        try:
            return t.cast("dict[str, t.Any]", self.look.api.get(f"network-acls/{network.interface}", **_WHERE))
        except NotThere:
            return None

    def _rules_differ(self, network: Network, there: t.Mapping[str, t.Any] | None) -> bool:
        wanted = self._wanted_rules(network)
        # LXD leaves out what is empty.
        return there is None or any(
            [{key: value for key, value in rule.items() if value} for rule in there.get(key) or []] != wanted[key]
            for key in ("ingress", "egress")
        )

    def problems(self, network: Network) -> list[str]:
        if not self._host:
            return []
        if network.mode == "bridged":
            return self._host.problems(network)
        return self._host.blocked(network.interface) if network.mode == "nat" else []

    def apply(self, network: Network, members: t.Sequence[Member]) -> None:
        # Addresses of hosts are kept by the devices of the instances.
        if network.mode == "bridged":
            if self._host:
                self._host.apply(network, ())
            else:
                self._require_parent(network)
            return
        wanted = config_of(network, self.data.path)
        doing = f"{self.product} could not change the network {network.interface}"
        there = self._look(network)
        finished = _is_finished(there)
        if there is not None and finished and there.get("config", {}).get(NETWORK) != network.name:
            raise InUse(
                f"{self.product} has another network {network.interface}",
                "it was not made for this data directory",
                "Remove it, or choose another name.",
            )
        self._put_rules(network)
        if there is None or not finished:
            self.look.runtime.report.step("lxd_network")
            self._make(network, wanted)
        elif differences(there["config"], wanted):
            self.look.runtime.report.step("lxd_network")
            config = {key: value for key, value in there["config"].items() if key.startswith("volatile.")}
            body = {"config": {**config, **wanted}, "description": there.get("description", "")}
            self.client.call("put", f"networks/{network.interface}", doing, json=body, project="")
        if self._host and self._host.obstacles(network.interface):
            self._host.grant_passage(network.interface)

    def _put_rules(self, network: Network) -> None:
        there = self._rules(network)
        if not self._rules_differ(network, there):
            return
        call = self.client.call
        doing = f"{self.product} could not be given the rules of the network {network.interface}"
        self.look.runtime.report.step("lxd_rules")
        rules = {"description": "", **self._wanted_rules(network)}
        if there is None:
            call("post", "network-acls", doing, json={"name": network.interface, **rules}, project="")
        else:
            call("put", f"network-acls/{network.interface}", doing, json=rules, project="")

    def _make(self, network: Network, wanted: dict[str, str]) -> None:
        environment = self._environment()
        for dummy in Deadline(_PATIENCE).pauses():
            try:
                self.client.make_clustered("networks", network.interface, environment, {"type": "bridge"}, wanted)
                return
            except (InUse, HypervisorError) as exc:
                if not isinstance(exc, InUse) and "already in use" not in exc.why:
                    raise
                # What a killed run has asked for is done by and by: the network has come, or its bridge will go.
                if self._look(network) is not None:
                    return
                self._end_orphan(network)
                refused = exc
        raise refused

    def remove(self, network: Network) -> None:
        if network.mode == "bridged":
            if self._host:
                self._host.remove(network)
            return
        there = self._look(network) if network.interface else None
        if there is None:
            self._remove_rules(network)
            return
        if there.get("config", {}).get(NETWORK) not in (None, network.name):
            return
        users = there.get("used_by") or []
        if users:
            what = f"{self.product} keeps the network {network.interface} ({network.name})"
            why = f"it is used by {', '.join(users)}, which this collection did not make"
            if not network.on_demand:
                raise InUse(what, why, "Take it from those first.")
            self.look.runtime.report.warn(f"{what}: {why}.")
            return
        with contextlib.suppress(NotFound):
            doing = f"{self.product} could not remove the network {network.interface}"
            self.client.call("delete", f"networks/{network.interface}", doing, project="")
        self._remove_rules(network)

    def _remove_rules(self, network: Network) -> None:
        """Take away what is there beside a network that LXD has no more."""
        if not network.interface:
            return
        if self._host:
            self._host.withdraw_passage(network.interface)
        self._end_orphan(network)
        if self._is_ours(network, (self._rules(network) or {}).get("config") or {}):
            doing = f"{self.product} could not remove the rules of the network {network.interface}"
            with contextlib.suppress(NotFound):
                self.client.call("delete", f"network-acls/{network.interface}", doing, project="")

    def _end_orphan(self, network: Network) -> None:
        """End the server that LXD has started for a network and, having forgotten that one, would leave for good."""
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet import dhcp

        if self._host and dhcp.end_orphan(network.interface):
            self.look.runtime.report.step("lxd_orphan")

    def leases(self, networks: t.Sequence[Network]) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        with contextlib.suppress(NotThere):
            for record in self.look.all_records().values():
                found.update(addresses_of(record.get("state") or {}))
        return {mac: addresses for mac, addresses in found.items() if addresses}

    def _environment(self) -> t.Mapping[str, t.Any]:
        return t.cast(t.Mapping[str, t.Any], self.look.server()["environment"])

    def place_of(self, instance: Instance, nic: Nic) -> NicPlace:
        """How an interface is attached to its network, which is there then."""
        network = self.look.scope.networks.read(nic.network)
        if network is None:
            raise HypervisorError(
                f"{instance.name} cannot be attached to the network {nic.network}", "there is no such network"
            )
        bridged = network.mode == "bridged"
        if self.drift(network, ()) if bridged else not _is_finished(self._look(network)):
            # LXD makes no instance on a network that is not there, whether it starts or not.
            with self.look.scope.networks.lock(network.name, report=self.look.runtime.report):
                self.apply(network, ())
        if not bridged:
            return NicPlace({"network": network.interface})
        kind = "macvlan" if network.bridge_type == "macvtap" else "bridged"
        return NicPlace({"nictype": kind, "parent": network.interface}, keeps_address=False)


def _is_finished(there: t.Mapping[str, t.Any] | None) -> bool:
    """Whether a network that LXD tells of is made: not one that a killed run has asked for, and that was given up."""
    return there is not None and there.get("status", "Created") == "Created"
