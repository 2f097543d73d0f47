# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""DHCP and DNS on a bridge of this host: whether dnsmasq runs there with what it has to know, and having it do so."""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Member
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import dhcp, firewall, leases, resolved, subnets
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime


class Service:
    """The server of addresses and names of one network, whose records are in a directory."""

    def __init__(self, runtime: Runtime, directory: str, network: Network) -> None:
        self.runtime = runtime
        self.directory = directory
        self.network = network
        self._server = dhcp.Server(runtime, directory, network.interface)

    def _served(self) -> dhcp.Served:
        network = self.network
        subnet = subnets.parse_subnet(network.subnet)
        first, dummy, last = network.dhcp_range.partition("-")
        return dhcp.Served(
            interface=network.interface,
            gateway=subnets.gateway(subnet),
            netmask=str(subnet.netmask),
            first=first,
            last=last,
            domain=network.domain,
            subnet6=network.subnet6,
            mtu=network.mtu,
            upstream=network.mode == "nat",
        )

    def _texts(self, members: t.Sequence[Member]) -> tuple[str, str, str]:
        known = [
            dhcp.Reservation(member.name, member.mac, next((each for each in member.addresses if ":" not in each), ""))
            for member in members
        ]
        return (dhcp.config_text(self._served()), *dhcp.hosts_texts(self.network.domain, known))

    def drift(self, members: t.Sequence[Member], notes: t.Mapping[str, t.Any], index: int) -> list[str]:
        """What is otherwise than it is to be, as sentences.

        notes -- of what was applied last; index -- the kernel's number of the bridge, 0 where there is none
        """
        config, dhcp_hosts, dns_hosts = self._texts(members)
        if not self._server.pid():
            return ["The server of addresses and names (dnsmasq) does not run."]
        found = []
        if notes.get("config") != firewall.digest(config) or not index or notes.get("ifindex") != index:
            found.append("The server of addresses and names (dnsmasq) runs with other settings.")
        if notes.get("hosts") != firewall.digest(dhcp_hosts + dns_hosts):
            found.append("The server of addresses and names (dnsmasq) does not know the network's instances.")
        return found

    def apply(self, members: t.Sequence[Member], notes: t.Mapping[str, t.Any], index: int) -> dict[str, t.Any]:
        """Have it run with what it has to know; what is to be noted of that. See drift()"""
        server, served = self._server, self._served()
        config, dhcp_hosts, dns_hosts = self._texts(members)
        runs = server.pid() and notes.get("config") == firewall.digest(config) and notes.get("ifindex") == index
        owners = {member.addresses[0]: member.mac.lower() for member in members if member.addresses}
        server.write_hosts(dhcp_hosts, dns_hosts)
        self.runtime.report.step("hosts")
        if runs:
            server.reload()
            for lease in leases.read_leases(self.directory):
                # An address that is kept for somebody now is not held back for whoever had it before.
                if owners.get(lease.address, lease.mac) != lease.mac:
                    server.release(served.gateway, lease.address, lease.mac)
        else:
            server.stop()
            server.forget_offline(lambda mac, address: owners.get(address, mac) == mac)
            server.start(served)
        if not resolved.announce(self.runtime, self.network.interface, served.gateway, self.network.domain):
            self.runtime.report.warn(f"systemd-resolved was not told of the names of the network {self.network.name}.")
        return {
            "config": firewall.digest(config),
            "hosts": firewall.digest(dhcp_hosts + dns_hosts),
            "ifindex": index,
        }

    def remove(self) -> None:
        """End it, and take away what it had."""
        self._server.remove()
