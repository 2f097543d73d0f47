# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.
"""The addresses of guests on somebody else's network: nobody tells this host, so it asks the link itself.

Nothing here runs a command, so that looking stays cheap.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._hostnet import probe
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.leases import neighbours
from ansible_collections.minicloud.local.plugins.module_utils._model import FLAG, TEXT, TEXTS, RecordKind
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline
from ansible_collections.minicloud.local.plugins.module_utils._scope import read_notes

# Beside the record of a network: where guests were found that ports are forwarded to.
PORT_NOTES = "ports.json"
FORWARDS = RecordKind(
    "where forwarded ports lead",
    1,
    {"addresses": TEXTS, "rules": TEXT, "listing": TEXT, "open": FLAG, "route_localnet": TEXT},
)

_SIOCGIFADDR, _SIOCGIFNETMASK, _SIOCGIFHWADDR = 0x8915, 0x891B, 0x8927

# Seconds that a guest has to answer at the address that it is said to have, and at any other.
_CONFIRM, _SEARCH = 0.3, 1.0


def find_guests(interface: str, macs: t.Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The IPv4 addresses that some MACs have now on an interface of this host, by MAC.

    Where they were met before is asked first; then each address of the subnet that this host has there, unless that is
    large. None of a MAC that does not answer, and where this host has no address there.
    """
    wanted = {mac.lower() for mac in macs}
    found: dict[str, list[str]] = {}
    own = own_subnet(interface)
    if own is not None and wanted:
        met = neighbours(interface)
        candidates = [address for mac in wanted for address in met.get(mac, ())]
        with contextlib.suppress(OSError):  # not root, or the interface has just gone
            if candidates:
                found = _by_mac(probe.find(interface, candidates, str(own.ip), Deadline(_CONFIRM), wanted))
            missing = wanted - set(found)
            if missing:
                found.update(_by_mac(probe.sweep(interface, own, missing, _SEARCH)))
    return {mac: tuple(sorted(found.get(mac.lower(), ()), key=ipaddress.IPv4Address)) for mac in macs}


def _by_mac(answers: t.Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for address, mac in answers.items():
        found.setdefault(mac, []).append(address)
    return found


def own_subnet(interface: str) -> ipaddress.IPv4Interface | None:
    """The first IPv4 address of this host on an interface, with its subnet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probing:
        request = struct.pack("256s", interface.encode()[:15])
        try:
            address = fcntl.ioctl(probing, _SIOCGIFADDR, request)[20:24]
            mask = fcntl.ioctl(probing, _SIOCGIFNETMASK, request)[20:24]
        except OSError:
            return None
    return ipaddress.IPv4Interface(f"{socket.inet_ntoa(address)}/{socket.inet_ntoa(mask)}")


def find_guests6(interface: str, subnet6: str, macs: t.Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The IPv6 addresses that some MACs have now in the subnet of a bridge of ours, by MAC: the guests choose them.

    Most make them of their MAC, so that is where they are asked first.
    """
    network = ipaddress.IPv6Network(subnet6)
    own = ipaddress.IPv6Interface((network.network_address + 1, network.prefixlen))
    candidates = {mac.lower(): str(made_of(mac, network)) for mac in macs}
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):  # not root, or the bridge is not there
        found = probe.find6(interface, _own_mac(interface), own, candidates, _CONFIRM)
    by_mac = _by_mac(found)
    return {mac: tuple(sorted(by_mac.get(mac.lower(), ()), key=ipaddress.IPv6Address)) for mac in macs}


def _own_mac(interface: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probing:
        answer = fcntl.ioctl(probing, _SIOCGIFHWADDR, struct.pack("256s", interface.encode()[:15]))
    return answer[18:24].hex(":")


def made_of(mac: str, network: ipaddress.IPv6Network) -> ipaddress.IPv6Address:
    """The address that an interface gives itself in a /64 from its MAC (EUI-64)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]])
    return network.network_address + int.from_bytes(identifier, "big")


def noted_addresses(directory: str) -> dict[str, str]:
    """Where the ports of the host that lead to guests of a network lead, by MAC. directory -- of the network"""
    return dict(read_notes(os.path.join(directory, PORT_NOTES), FORWARDS).get("addresses", {}))
