# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The addresses that guests have now: what DHCP servers gave out, and whom the host has seen as its neighbour."""

from __future__ import annotations

import os
import socket
import time
import typing as t

_COMPLETE = 0x2


class Lease(t.NamedTuple):
    """An address that dnsmasq gave out. expires -- seconds since the epoch, 0: never"""

    expires: int
    mac: str
    address: str


def read_leases(directory: str) -> list[Lease]:
    """The IPv4 leases in the directory of a network, those that have ended too."""
    found = []
    try:
        with open(os.path.join(directory, "leases"), encoding="ascii", errors="replace") as stream:
            for line in stream:
                fields = line.split()
                if len(fields) >= 4 and fields[0].isdigit() and fields[1].count(":") == 5 and _is_address(fields[2]):
                    # No time has more digits.
                    found.append(Lease(int(fields[0][:20]), fields[1].lower(), fields[2]))
    except OSError:
        pass
    return found


def _is_address(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):
        return False
    return True


def active(leases: t.Iterable[Lease]) -> dict[str, tuple[str, ...]]:
    """The addresses that are given out now, by MAC."""
    now = time.time()
    found: dict[str, tuple[str, ...]] = {}
    for lease in leases:
        if not lease.expires or lease.expires > now:
            found[lease.mac] = (*found.get(lease.mac, ()), lease.address)
    return found


def neighbours(interface: str = "") -> dict[str, tuple[str, ...]]:
    """The IPv4 addresses at which the host has met its neighbours, by MAC. interface -- only those on it"""
    found: dict[str, tuple[str, ...]] = {}
    try:
        with open("/proc/net/arp", encoding="ascii", errors="replace") as stream:
            for line in stream.readlines()[1:]:
                fields = line.split()
                if len(fields) >= 6 and int(fields[2], 16) & _COMPLETE and interface in ("", fields[5]):
                    mac = fields[3].lower()
                    found[mac] = (*found.get(mac, ()), fields[0])
    except (OSError, ValueError):
        pass
    return found
