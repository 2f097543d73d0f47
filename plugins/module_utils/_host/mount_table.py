# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What is mounted where on this host, and with which rights. Without the table of a Linux host nothing is known."""

from __future__ import annotations

import contextlib
import os
import re
import typing as t

_TABLE = "/proc/self/mountinfo"


class Mounted(t.NamedTuple):
    """A line of the table. place -- where; device -- of its file system, as MAJOR:MINOR; options -- of the mount"""

    place: bytes
    device: bytes
    options: frozenset[bytes]


def mounted() -> list[Mounted]:
    """All that is mounted on this host."""
    found = []
    with contextlib.suppress(OSError), open(_TABLE, "rb") as stream:
        for line in stream:
            parts = line.split(b" ")
            # The kernel writes blanks and the like as octal numbers.
            place = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 255]), parts[4])
            found.append(Mounted(place, parts[2], frozenset(parts[5].split(b","))))
    return found


def mounted_below(path: str, table: t.Sequence[Mounted] | None = None) -> list[Mounted]:
    """What is mounted in a folder of this host. table -- all that is mounted, where it is known already"""
    top = os.path.join(os.fsencode(os.path.realpath(path)), b"")
    return [each for each in (mounted() if table is None else table) if each.place.startswith(top)]


def obeys_setuid(path: str) -> bool:
    """Whether a setuid program in a folder, or in what is mounted in it, could be run as one by some way to it."""
    table, device = mounted(), os.stat(path).st_dev
    devices = {each.device for each in mounted_below(path, table)}
    devices.add(f"{os.major(device)}:{os.minor(device)}".encode())
    ways = [each for each in table if each.device in devices]
    return {each.device for each in ways} != devices or any(b"nosuid" not in each.options for each in ways)
