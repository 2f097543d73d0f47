# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Tar archives as they are on disk: headers of members, and a reader that trusts none of them.

tarfile of the standard library reads descriptions of any size, and follows whatever they say. Here a member is a plain
file with a name and a size, handed on while it comes; everything else is refused.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError

BLOCK = 512

# What an extended header may have, bytes, and how many members an archive.
_LARGEST_DESCRIPTION = 1 << 20
_MOST_MEMBERS = 4096
# The largest size in eleven octal digits.
_OCTAL = 1 << 33
_PAX = re.compile(rb"(\d{1,7}) (path|size)=([^\n]*)\n")


class Member(t.Protocol):
    """Takes the bytes of one member, in order."""

    def write(self, data: bytes) -> None:
        """The next bytes."""

    def close(self) -> None:
        """That was all."""


def header_is_whole(block: bytes) -> bool:
    """Whether a block is the header of a tar archive's member: only such a one has its own checksum in it."""
    stated = number(block[148:156])
    return len(block) == BLOCK and stated > 0 and stated == sum(block) - sum(block[148:156]) + 8 * 0x20


def number(field: bytes) -> int:
    """A number in a header, -1 where it is none: octal digits, or binary where it is large."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        return -1


def text(field: bytes) -> str:
    """A text in a header, which ends with a zero unless it fills its field."""
    return field.partition(b"\0")[0].decode("utf-8", "replace")


def header(name: str, size: int, modified: int) -> bytes:
    """The header of a plain file, which only its owner may read: ustar, and of one above 8 GiB with a binary size.

    modified -- seconds since the epoch
    """
    raw = name.encode("ascii")
    if len(raw) > 100:
        raise ValueError(f"{name} is too long for the name of a member")
    length = b"%011o\0" % size if size < _OCTAL else b"\x80" + size.to_bytes(11, "big")
    fields = [raw.ljust(100, b"\0"), b"0000600\0", b"0000000\0", b"0000000\0", length, b"%011o\0" % modified]
    block = b"".join([*fields, b" " * 8, b"0", bytes(100), b"ustar\x0000", bytes(BLOCK - 265)])
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padding(size: int) -> bytes:
    """What comes after the content of a member of that size."""
    return bytes(-size % BLOCK)


# What comes after the last member.
END = bytes(2 * BLOCK)


class Reader:
    """A sink for the bytes of an archive. begin -- is told each member, its name and size, and says what takes it

    ImageError, which speaks of the archive as WHAT, for one that has anything but plain files, or ends too early.
    """

    def __init__(self, what: str, begin: t.Callable[[str, int], Member]) -> None:
        self._what = what
        self._begin = begin
        self._block = bytearray()
        self._members = 0
        self._left = self._fill = 0
        self._member: Member | None = None
        self._description: bytearray | None = None
        self._said: dict[str, bytes] = {}
        self._ended = False

    def write(self, data: bytes) -> None:
        """The next bytes."""
        view = memoryview(data)
        while view:
            if self._ended:
                if bytes(view).strip(b"\0"):
                    raise self.damaged("there is something after its end")
                return
            if self._left:
                part, view = view[: self._left], view[self._left :]
                self._left -= len(part)
                if self._description is not None:
                    self._description += part
                elif self._member:
                    self._member.write(bytes(part))
                if not self._left:
                    self._is_over()
            elif self._fill:
                part, view = view[: self._fill], view[self._fill :]
                self._fill -= len(part)
            else:
                missing = BLOCK - len(self._block)
                self._block += view[:missing]
                view = view[missing:]
                if len(self._block) == BLOCK:
                    block, self._block = bytes(self._block), bytearray()
                    self._header(block)

    def _header(self, block: bytes) -> None:
        if not block.strip(b"\0"):
            self._ended = True
            return
        if not header_is_whole(block):
            raise self.damaged("there is something else in it where a member should begin")
        self._members += 1
        if self._members > _MOST_MEMBERS:
            raise self.damaged(f"it has more than {_MOST_MEMBERS} members")
        kind, size = block[156:157], number(block[124:136])
        if kind in b"xg" and kind:
            if not 0 < size <= _LARGEST_DESCRIPTION:
                raise self.damaged("the description of a member has no usable size")
            self._description = bytearray()
        else:
            said, self._said = self._said, {}
            name = text(block[:100])
            prefix = text(block[345:500]) if block[257:263] == b"ustar\0" else ""
            name = said["path"].decode("utf-8", "replace") if "path" in said else f"{prefix}/{name}" if prefix else name
            size = int(said["size"]) if "size" in said else size
            if kind not in (b"0", b"\0"):
                raise self.refused(f"its member {name!r} is no plain file")
            if size < 0 or size >= 1 << 62:
                raise self.damaged(f"its member {name!r} has no usable size")
            self._member = self._begin(name, size)
        self._left, self._fill = size, -size % BLOCK
        if not self._left:
            self._is_over()

    def _is_over(self) -> None:
        if self._description is not None:
            content, self._description = bytes(self._description), None
            for dummy, key, value in _PAX.findall(content):
                if key == b"size" and not (value.isdigit() and len(value) < 20):
                    raise self.damaged("the description of a member has no usable size")
                self._said[key.decode()] = value
        elif self._member:
            member, self._member = self._member, None
            member.close()

    def close(self) -> None:
        """Nothing more comes."""
        if not self._ended:
            raise self.damaged("it is cut short: its end is missing")

    def damaged(self, why: str) -> ImageError:
        """The error for an archive that is not whole, or never was one."""
        return ImageError(f"{self._what} is damaged", why, "Copy or export it anew; nothing was changed.")

    def refused(self, why: str) -> ImageError:
        """The error for an archive that is not what it should be."""
        return ImageError(f"{self._what} is refused", why, "Nothing was changed. Do not trust where it comes from.")
