# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Ports of the host: which are free, and what holds one that is not."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import InUse

_TABLES = {"tcp": ("tcp", "tcp6"), "udp": ("udp", "udp6")}
_TCP_LISTEN = "0A"


def is_free(ip: str, port: int, protocol: str = "tcp") -> bool:
    """Whether this process could listen on a port now. OSError other than `in use` is the caller's to see."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as probe:
        if protocol == "tcp":
            # A connection that lingers from an earlier listener does not hold the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            return False
    return True


def choose(ip: str, protocol: str, taken: t.Container[int]) -> int:
    """A free port of the host that is not among those taken. OSError where nobody can listen on that address."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    for dummy in range(200):
        with socket.socket(family, kind) as probe:
            probe.bind((ip, 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port
    raise InUse(f"no free {protocol} port was found on {ip}", hint="End what holds the ports of this host.")


def holder(port: int, protocol: str = "tcp") -> str:
    """The process that listens on a port, such as `nginx (process 812)`; empty where that cannot be known."""
    inodes = set()
    for table in _TABLES[protocol]:
        with contextlib.suppress(OSError), open(f"/proc/net/{table}", encoding="ascii") as stream:
            for line in stream.readlines()[1:]:
                fields = line.split()
                listening = protocol == "udp" or fields[3] == _TCP_LISTEN
                if listening and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    if not inodes or not os.path.isdir("/proc"):
        return ""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for handle in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{handle}") in inodes:
                        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
                            return f"{stream.read().strip()} (process {pid})"
    return ""
