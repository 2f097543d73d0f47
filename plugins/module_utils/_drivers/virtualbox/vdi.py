# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Disks that are larger than what they are backed by.

VirtualBox makes such a disk (`modifymedium --resizebyte`) and then fails to read from it what lies behind the end of
what it is backed by: it looks there for whatever the guest has not written yet. The format has a mark for blocks that
are zero, so the blocks that are new get it.
"""

from __future__ import annotations

import os
import struct

from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._files import explained

# What VirtualBox's blocks have, bytes: sizes are whole blocks here.
BLOCK = 1 << 20

_SIGNATURE, _VERSION = 0xBEDA107F, 0x00010001
# In the header: signature and version; where the map of blocks begins; the disk's size, and that of a block with what
# is kept beside it; how many blocks there are.
_HEADER = 512
_AT_SIGNATURE, _AT_MAP, _AT_SIZE = 0x40, 0x154, 0x170
# What the map has of a block that nobody has written, and of one that is zero.
_FREE, _ZERO = b"\xff\xff\xff\xff", b"\xfe\xff\xff\xff"
# More than any disk has: a map of 4 MiB is one of 1 TiB.
_MOST_BLOCKS = 1 << 28


def whole_blocks(size: int) -> int:
    """A size in whole blocks, at least as large, bytes."""
    return -(-size // BLOCK) * BLOCK


def size_of(path: str) -> int:
    """The size of the disk in a VDI file, bytes."""
    with explained(f"{path} could not be read"), open(path, "rb") as stream:
        return _parsed(path, stream.read(_HEADER))[1]


def mark_zero(path: str, begin: int) -> None:
    """Have the blocks of a disk from the byte BEGIN on, which nobody has written, read as zero. It is not in use."""
    with explained(f"{path} could not be changed"):
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(handle, "r+b") as stream:
            start, size = _parsed(path, stream.read(_HEADER))
            first, count = begin // BLOCK, whole_blocks(size) // BLOCK
            stream.seek(start + 4 * first)
            present = stream.read(4 * (count - first))
            entries = [present[at : at + 4] for at in range(0, len(present), 4)]
            stream.seek(start + 4 * first)
            stream.write(b"".join(_ZERO if entry == _FREE else entry for entry in entries))
            stream.flush()
            os.fsync(stream.fileno())


def _parsed(path: str, header: bytes) -> tuple[int, int]:
    """Where the map of blocks begins, and the size of the disk. HypervisorError where it is another kind of file."""
    if len(header) == _HEADER:
        signature, version = struct.unpack_from("<II", header, _AT_SIGNATURE)
        (start,) = struct.unpack_from("<I", header, _AT_MAP)
        size, block = struct.unpack_from("<QI", header, _AT_SIZE)
        known = (signature, version, block) == (_SIGNATURE, _VERSION, BLOCK)
        if known and start >= _HEADER and size // BLOCK < _MOST_BLOCKS:
            return start, size
    raise HypervisorError(f"{path} is no disk of the kind that VirtualBox makes", hint="Restore it from a backup.")
