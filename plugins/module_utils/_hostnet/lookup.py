# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.
"""The addresses of guests on somebody else's network: nobody tells this host, so it asks the link itself.

Nothing here runs a command, so that looking stays cheap.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct

from ansible_collections.minicloud.local.plugins.module_utils._hostnet import probe
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.leases import neighbours
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline

_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B

# Seconds that a guest has to answer at the address that it is said to have, and at any other.
_CONFIRM, _SEARCH = 0.3, 1.0


def find_guest(interface: str, mac: str) -> tuple[str, ...]:
    """The IPv4 addresses that a MAC has now on an interface of this host.

    Where it was met before is asked first; then each address of the subnet that this host has there, unless that is
    large. None where it does not answer, and where this host has no address there.
    """
    own = own_subnet(interface)
    if own is None:
        return ()
    mac = mac.lower()
    candidates = neighbours(interface).get(mac, ())
    try:
        found = list(probe.find(interface, candidates, str(own.ip), Deadline(_CONFIRM), {mac}) if candidates else ())
        found = found or probe.sweep(interface, own, mac, _SEARCH)
    except OSError:  # not root, or the interface has just gone
        return ()
    return tuple(sorted(found, key=ipaddress.IPv4Address))


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
