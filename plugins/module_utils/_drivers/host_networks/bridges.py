# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Networks that are bridges of this host, with a DHCP and DNS server and firewall rules: for QEMU and libvirt alike.

What was put in place is noted beside the record: a process tells nobody which configuration it has read.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import random
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.host_networks.service import Service
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Member, Networks
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    InvalidOption,
    MissingRequirement,
    NotSupported,
)
from ansible_collections.minicloud.local.plugins.module_utils._host.host import this_host
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import (
    dhcp,
    firewall,
    leases,
    links,
    subnets,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import NUMBER, TEXT, Nic, PortForward, RecordKind
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime, find_program
from ansible_collections.minicloud.local.plugins.module_utils._scope import Scope, read_notes, write_record
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_path

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._hostnet.bridged import Bridged
    from ansible_collections.minicloud.local.plugins.module_utils._hostnet.guest_ports import Guest, GuestPorts

_NOTES = "applied.json"
_APPLIED = RecordKind(
    "what was applied of a network",
    1,
    {"rules": TEXT, "listing": TEXT, "config": TEXT, "hosts": TEXT, "ifindex": NUMBER},
)


class HostNetworks(Networks):
    """See Networks."""

    def __init__(self, runtime: Runtime, scope: Scope) -> None:
        self.runtime = runtime
        self.scope = scope
        self._links: dict[str, links.Link] | None = None
        self._ruleset: firewall.Ruleset | None = None
        self._docker: list[firewall.DockerChain] | None = None
        self._routes: list[links.Route] | None = None

    @functools.cached_property
    def _bridged(self) -> Bridged:
        """What puts an interface of the host on a bridge, imported only now."""
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet.bridged import Bridged

        return Bridged(self.runtime, self.scope.networks.directory)

    # What is there; read once, and again after a change.

    def _look_links(self) -> dict[str, links.Link]:
        if self._links is None:
            self._links = links.read_links(self.runtime)
        return self._links

    def _look_ruleset(self) -> firewall.Ruleset:
        if self._ruleset is None:
            self._ruleset = firewall.read_ruleset(self.runtime)
        return self._ruleset

    def _look_docker(self) -> list[firewall.DockerChain]:
        if self._docker is None:
            self._docker = firewall.docker_chains(self.runtime, self._look_ruleset())
        return self._docker

    def _look_routes(self) -> list[links.Route]:
        if self._routes is None:
            self._routes = links.read_routes(self.runtime)
        return self._routes

    def _forget(self) -> None:
        self._links = self._ruleset = self._docker = self._routes = None

    # Contract

    def require(self, network: Network) -> None:
        if not this_host().has_networks:
            raise NotSupported("networks of this kind need Linux")
        if os.geteuid() != 0:
            raise MissingRequirement(
                f"the network {network.name} cannot be made",
                "only root makes bridges and firewall rules",
                "Run as root (become: true); without root instances have the user-mode network.",
            )
        links.ip_program(self.runtime)
        if network.mode == "bridged":
            self._bridged.require(network)
            return
        firewall.nft_program(self.runtime)
        dhcp.program(self.runtime)

    def fill_in(self, network: Network, others: t.Sequence[Network]) -> None:
        if network.mode == "bridged":
            self._bridged.fill_in(network, others)
            return
        network.interface = network.interface or self._new_interface()
        network.domain = dhcp.check_domain(network.domain)
        subnets.fill_in(network, self._taken(network, others), int(network.interface[3:], 16))

    def _new_interface(self) -> str:
        there = self._look_links()
        while True:
            name = f"mcb{random.SystemRandom().randrange(1 << 32):08x}"
            if name not in there:
                return name

    def is_up(self, network: Network) -> bool:
        return bool(network.interface) and os.path.exists(self._notes_path(network))

    def _taken(self, network: Network, others: t.Iterable[Network]) -> list[subnets.Taken]:
        """What of the address space is in use by something else than the network."""
        return links.taken(network, others, self._look_links().values(), self._look_routes())

    def drift(self, network: Network, members: t.Sequence[Member]) -> list[str]:
        if network.mode == "bridged":
            stray = self._stray_taps(network, members)
            found = self._bridged.drift(network) + [_not_on_bridge(tap) for tap in stray]
            ports, guests = self._ports(network), self._port_guests(network, members)
            if guests or ports.concerned:
                found += ports.drift(guests, self._look_ruleset(), self._look_docker)
            return found
        found = list(self._link_drift(network, members))
        found += self._firewall_drift(network, members)
        found += self._service(network).drift(members, self._notes(network), self._index(network))
        return found

    def problems(self, network: Network) -> list[str]:
        found = []
        if network.mode == "bridged":
            found = self._bridged.problems(network)
            if network.bridge_type == "bridge":
                found += self._filtered(network.interface)
            return found + (self.blocked(network.interface) if self._ports(network).open else [])
        subnet = subnets.parse_subnet(network.subnet)
        other = subnets.collision(subnet, self._taken(network, ()))
        if other:
            found.append(
                f"The subnet {subnet} collides with {other.subnet}, {other.by}: what is sent there may not arrive."
            )
        return found + (self.blocked(network.interface) if network.mode == "nat" else [])

    def _filtered(self, bridge: str) -> list[str]:
        """Who drops what crosses a bridge that leads to others, as if this host forwarded it."""
        if links.read_sysctl("bridge/bridge-nf-call-iptables") != "1":
            return []
        found = [
            f"The chain {chain} drops what crosses the bridge {bridge}: have it accept what comes from {bridge} and"
            " goes to it, or set net.bridge.bridge-nf-call-iptables to 0."
            for chain in self._look_ruleset().strict
        ]
        for docker in self._look_docker():
            program = os.path.basename(docker.program)
            # Not more than that: it would let others on the bridge into Docker's containers.
            rule = f"DOCKER-USER -i {bridge} -o {bridge} -j ACCEPT"
            if f"-A {rule}" not in docker.rules:
                found.append(f"Docker's firewall drops what crosses the bridge {bridge}: run {program} -I {rule}")
        return found

    def apply(self, network: Network, members: t.Sequence[Member]) -> None:
        self._forget()
        notes = self._notes(network)
        if not self.is_up(network):
            self._note(network, notes)
        if network.mode == "bridged":
            self._bridged.apply(network)
            self._links = None
            taps = [f"link set dev {tap} master {network.interface}" for tap in self._stray_taps(network, members)]
            links.change(self.runtime, taps, f"guests could not be put on {network.interface}")
            self._apply_ports(network, members)
            return
        if self._link_drift(network, members):
            self._apply_link(network, members)
        if self._firewall_drift(network, members):
            self._apply_firewall(network, members, notes)
        service = self._service(network)
        if service.drift(members, self._notes(network), self._index(network)):
            self._note(network, {**notes, **service.apply(members, notes, self._index(network))})
            self.runtime.report.step("served")

    def remove(self, network: Network) -> None:
        self._forget()
        if network.mode == "bridged":
            if self._ports(network).concerned:
                self._ports(network).remove(self._look_ruleset())
            self._bridged.remove(network)
            remove_path(self._notes_path(network))
            self._forget()
            return
        self._service(network).remove()
        self.runtime.report.step("no_dnsmasq")
        links_there = self._look_links()
        if network.interface in links_there:
            links.change(
                self.runtime,
                [f"link delete dev {network.interface} type bridge"],
                f"the bridge {network.interface} could not be removed",
            )
            self.runtime.report.step("no_bridge")
        ruleset = self._look_ruleset()
        if firewall.table_name(network.interface) in ruleset.tables:
            firewall.remove_table(self.runtime, firewall.table_name(network.interface))
            self.runtime.report.step("no_rules")
        firewall.withdraw_passage(self.runtime, ruleset, network.interface)
        remove_path(self._notes_path(network))
        self._forget()

    # For bridges that others make

    def obstacles(self, interface: str) -> list[str]:
        """Which firewalls of this host do not let a bridge's own rules decide: see grant_passage()."""
        return firewall.obstacles(self._look_rules_of_others(), self._look_docker(), interface)

    def blocked(self, interface: str) -> list[str]:
        """Who drops what this host forwards to and from a bridge, and cannot be told."""
        return [
            f"The chain {chain} drops what is forwarded: have it accept what comes from and goes to {interface}."
            for chain in self._look_rules_of_others().strict
        ]

    def grant_passage(self, interface: str) -> None:
        """Have them let pass what comes from and goes to a bridge."""
        self._forget()
        firewall.grant_passage(self.runtime, self._look_rules_of_others(), self._look_docker(), interface)
        self._forget()

    def withdraw_passage(self, interface: str) -> None:
        """Have them forget a bridge."""
        firewall.withdraw_passage(self.runtime, self._look_rules_of_others(), interface)

    def _look_rules_of_others(self) -> firewall.Ruleset:
        """What of the rules is not ours; who makes no rules with nft may have none."""
        return self._look_ruleset() if find_program("nft") else firewall.Ruleset({}, "", ())

    def forwards(self, network: Network, nic: Nic) -> list[PortForward]:
        """The ports of the host that lead to an interface on a network now."""
        ours = self._target(network, nic)
        return [port for where, port, to in self._look_ruleset().forwards if (where, to) == ours]

    def forwarded_elsewhere(self, network: Network | None = None, nic: Nic | None = None) -> list[PortForward]:
        """The ports of the host that lead anywhere but to an interface on a network, of whichever data directory."""
        ours = self._target(network, nic) if network and nic else ("", "")
        return [port for where, port, to in self._look_ruleset().forwards if (where, to) != ours]

    def _target(self, network: Network, nic: Nic) -> tuple[str, str]:
        """The table that forwards ports to an interface, and the address that they lead to; empty where none do."""
        if network.mode == "bridged":
            ports = self._ports(network)
            return ports.table, ports.address(nic.mac)
        return firewall.table_name(network.interface), nic.address or nic.lease

    def leases(self, networks: t.Sequence[Network]) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for network in networks:
            found.update(leases.active(leases.read_leases(self.scope.networks.directory(network.name))))
        return found

    # The bridge

    def _wanted_addresses(self, network: Network) -> list[str]:
        wanted = []
        for text in filter(None, (network.subnet, network.subnet6)):
            subnet = ipaddress.ip_network(text)
            wanted.append(f"{subnets.gateway(subnet)}/{subnet.prefixlen}")
        return wanted

    @staticmethod
    def _settings(network: Network) -> dict[str, str]:
        """What the kernel is to be told of the bridge."""
        name = network.interface
        settings = {
            f"ipv4/conf/{name}/route_localnet": "1",
            "ipv4/ip_forward": "1",
            # Who asks for a guest that is just booting finds it as soon as it is there, not up to a second later. As
            # long as usual, 3 s, it is asked for.
            f"ipv4/neigh/{name}/retrans_time_ms": "200",
            f"ipv4/neigh/{name}/mcast_solicit": "15",
        }
        if os.path.isdir("/proc/sys/net/ipv6"):
            settings[f"ipv6/conf/{name}/accept_ra"] = "0"
            settings[f"ipv6/conf/{name}/disable_ipv6"] = "0" if network.subnet6 else "1"
            if network.subnet6 and network.mode == "nat":
                settings["ipv6/conf/all/forwarding"] = "1"
        return settings

    def _link_drift(self, network: Network, members: t.Sequence[Member]) -> list[str]:
        there = self._look_links()
        bridge = there.get(network.interface)
        if bridge is None:
            return [f"The bridge {network.interface} is missing."]
        found = []
        if bridge.kind != "bridge":
            raise InvalidOption(
                f"the interface {network.interface} of the network {network.name} is not a bridge",
                f"it is of the kind {bridge.kind or 'physical'}",
                "Rename or remove it.",
            )
        if not bridge.up:
            found.append(f"The bridge {network.interface} is down.")
        if bridge.mtu != (network.mtu or 1500):
            found.append(f"The bridge {network.interface} has the mtu {bridge.mtu}.")
        lacking = set(self._wanted_addresses(network)) - set(bridge.addresses)
        found += [f"The bridge {network.interface} lacks the address {address}." for address in sorted(lacking)]
        if not lacking:  # the kernel takes IPv6 addresses away with the setting
            found += [
                f"The bridge {network.interface} has the address {each}." for each in self._strange(network, bridge)
            ]
        for key, value in self._settings(network).items():
            if links.read_sysctl(key) not in (value, None):
                found.append(f"The kernel setting net.{key.replace('/', '.')} is not {value}.")
        found += [_not_on_bridge(tap) for tap in self._stray_taps(network, members)]
        return found

    def _strange(self, network: Network, bridge: links.Link) -> list[str]:
        wanted = self._wanted_addresses(network)
        return [each for each in bridge.addresses if each not in wanted and not each.startswith("fe80:")]

    def _stray_taps(self, network: Network, members: t.Sequence[Member]) -> list[str]:
        there = self._look_links()
        if network.bridge_type == "macvtap":
            return []
        taps = (links.tap_name(network.interface, member.mac) for member in members)
        return [tap for tap in taps if tap in there and there[tap].master != network.interface]

    def _apply_link(self, network: Network, members: t.Sequence[Member]) -> None:
        name = network.interface
        bridge = self._look_links().get(name)
        if bridge is None:
            add = f"link add name {name} address {links.bridge_mac(name)} type bridge stp_state 0 forward_delay 0"
            links.change(self.runtime, [add], f"the bridge {name} could not be made")
            self.runtime.report.step("bridge")
        for key, value in self._settings(network).items():
            if links.read_sysctl(key) not in (value, None):
                if key == "ipv6/conf/all/forwarding":
                    links.keep_advertised_routes(self.runtime)
                links.write_sysctl(key, value)
        commands = []
        strange = self._strange(network, bridge) if bridge else []
        # Without IPv6 the kernel has just taken those away itself.
        gone = [each for each in strange if ":" in each and not network.subnet6]
        commands += [f"address delete {each} dev {name}" for each in strange if each not in gone]
        there = bridge.addresses if bridge else ()
        for address in self._wanted_addresses(network):
            if address not in there:
                nodad = " nodad" if ":" in address else " broadcast +"
                commands.append(f"address add {address}{nodad} dev {name}")
        commands.append(f"link set dev {name} mtu {network.mtu or 1500} up")
        commands += [f"link set dev {tap} master {name}" for tap in self._stray_taps(network, members)]
        links.change(self.runtime, commands, f"the bridge {name} could not be set up")
        self.runtime.report.step("bridge_up")
        self._links = None

    # The firewall

    def _rules(self, network: Network, members: t.Sequence[Member]) -> firewall.Rules:
        forwards = tuple(
            (port, member.addresses[0])
            for member in members
            for port in member.forwards
            if member.addresses and port.host_port
        )
        return firewall.Rules(
            network.interface,
            network.subnet,
            network.subnet6,
            network.mode == "nat",
            forwards,
            network.reaches_host,
            tuple(links.tap_name(network.interface, member.mac) for member in members),
            links.bridge_mac(network.interface),
        )

    def _firewall_drift(self, network: Network, members: t.Sequence[Member]) -> list[str]:
        found = []
        notes = self._notes(network)
        ruleset = self._look_ruleset()
        listing = ruleset.tables.get(firewall.table_name(network.interface))
        if listing is None:
            found.append("The firewall rules are missing.")
        elif listing != notes.get("listing"):
            found.append("The firewall rules were changed.")
        elif notes.get("rules") != _digest(self._rules(network, members)):
            found.append("The firewall rules are not those that the network is to have now.")
        return found + firewall.obstacles(ruleset, self._look_docker(), network.interface)

    def _apply_firewall(self, network: Network, members: t.Sequence[Member], notes: dict[str, t.Any]) -> None:
        rules = self._rules(network, members)
        name = firewall.table_name(network.interface)
        if not firewall.put_table(self.runtime, name, firewall.table_text(rules), firewall.guard_table_text(rules)):
            self.runtime.report.warn(
                f"The kernel of this host cannot filter what instances on the network {network.name} send each other:"
                " they can pose as the network's gateway. Load the kernel module nf_tables_bridge."
            )
        self.runtime.report.step("rules")
        firewall.grant_passage(self.runtime, self._look_ruleset(), self._look_docker(), network.interface)
        self._docker = None
        self._ruleset = None
        notes["rules"] = _digest(rules)
        notes["listing"] = self._look_ruleset().tables.get(name, "")
        self._note(network, notes)

    def _ports(self, network: Network) -> GuestPorts:
        """The ports that a bridged network forwards."""
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet.guest_ports import GuestPorts

        return GuestPorts(self.runtime, self.scope.networks.directory(network.name), network.interface)

    def _port_guests(self, network: Network, members: t.Sequence[Member]) -> list[Guest]:
        """Those guests of a bridged network that have ports and run: then their taps are there."""
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet.guest_ports import Guest

        if network.bridge_type == "macvtap":
            return []
        asking = [member for member in members if member.forwards]
        there = self._look_links() if asking else {}
        return [
            Guest(member.mac, member.forwards)
            for member in asking
            if links.tap_name(network.interface, member.mac) in there
        ]

    def _apply_ports(self, network: Network, members: t.Sequence[Member]) -> None:
        ports, guests = self._ports(network), self._port_guests(network, members)
        if guests or ports.concerned:
            ports.apply(guests, self._look_ruleset(), self._look_docker)
            self._ruleset = self._docker = None

    # Addresses and names

    def _service(self, network: Network) -> Service:
        return Service(self.runtime, self.scope.networks.directory(network.name), network)

    def _index(self, network: Network) -> int:
        """The number that the kernel has for the bridge, 0 where there is none."""
        bridge = self._look_links().get(network.interface)
        return bridge.number if bridge else 0

    # Notes

    def _notes_path(self, network: Network) -> str:
        return os.path.join(self.scope.networks.directory(network.name), _NOTES)

    def _notes(self, network: Network) -> dict[str, t.Any]:
        return read_notes(self._notes_path(network), _APPLIED)

    def _note(self, network: Network, notes: dict[str, t.Any]) -> None:
        make_dir(self.scope.networks.directory(network.name))
        write_record(self._notes_path(network), _APPLIED, notes)


def _digest(rules: firewall.Rules) -> str:
    return firewall.digest(firewall.table_text(rules) + firewall.guard_table_text(rules))


def _not_on_bridge(tap: str) -> str:
    return f"The interface {tap} of a guest is not on the bridge."
