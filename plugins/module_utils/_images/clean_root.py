# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Taking out of the archive of a container what makes an instance that instance, while it comes.

What stays, stays byte by byte: nothing is unpacked, and no name or attribute of a file is written anew. The hypervisor
wrote the archive, but the guest chose the names, so they are compared, and used for nothing else.
"""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError
from ansible_collections.minicloud.local.plugins.module_utils._images import lxd_metadata
from ansible_collections.minicloud.local.plugins.module_utils._images.identity import EMPTIED, is_removed
from ansible_collections.minicloud.local.plugins.module_utils._images.tar import BLOCK, header_is_whole, number, text

_LARGEST_DESCRIPTION = 1 << 20
_ROOT, _METADATA = "rootfs", lxd_metadata.FILE
# Where most images have the server write the seed of an instance; others say in their metadata where it goes.
_SEED = "/var/lib/cloud/seed/nocloud-net"
# How the descriptions of older tar archives are called in newer ones: a name, and where a link leads.
_CALLED = {b"L": "path", b"K": "linkpath"}
_FILE, _HARD_LINK, _DIRECTORY, _SPARSE = b"0\0", b"1", b"5", b"S"
_WITHOUT_CONTENT = b"123456"


class CleanedRoot:
    """Hands an archive with metadata.yaml and rootfs/ on to SINK, without those files. ImageError speaks of NAME."""

    def __init__(self, name: str, sink: t.Callable[[bytes], t.Any]) -> None:
        self._name = name
        self._sink = sink
        self._block = bytearray()
        # Bytes to come of what is being read, with what fills its last block; and whether they are handed on.
        self._left = 0
        self._kept = True
        # What describes the next member: as it came, and as it is understood.
        self._pending: list[bytes] = []
        self._said: dict[str, bytes] = {}
        self._description: bytearray | None = None
        self._describes, self._size = b"", 0
        self._metadata: bytearray | None = None
        # The files that the server writes anew for each instance.
        self._written: set[str] = set()
        self._ended = False

    def write(self, data: bytes) -> None:
        """The next bytes."""
        view = memoryview(data)
        while view:
            if self._ended:
                self._sink(bytes(view))
                return
            if self._left:
                part, view = bytes(view[: self._left]), view[self._left :]
                self._left -= len(part)
                if self._description is not None:
                    self._description += part
                    if not self._left:
                        self._described(bytes(self._description))
                elif self._kept:
                    self._sink(part)
                if self._metadata is not None:
                    self._metadata += part
                    if not self._left:
                        self._written = lxd_metadata.written(bytes(self._metadata[: self._size]))
                        self._metadata = None
                continue
            missing = BLOCK - len(self._block)
            self._block += view[:missing]
            view = view[missing:]
            if len(self._block) == BLOCK:
                block, self._block = bytes(self._block), bytearray()
                self._header(block)

    def close(self) -> None:
        """Nothing more comes."""
        if not self._ended:
            raise self._damaged("it is cut short: the end of the archive is missing")

    def _header(self, block: bytes) -> None:
        if not block.strip(b"\0"):
            self._ended = True
            self._sink(block)
            return
        if not header_is_whole(block):
            raise self._damaged("there is something else in it where a member should begin")
        kind, size = block[156:157], number(block[124:136])
        if kind in (b"x", *_CALLED):
            if not 0 < size <= _LARGEST_DESCRIPTION:
                raise self._damaged("the description of a member has no usable size")
            self._pending.append(block)
            self._description, self._describes, self._size = bytearray(), kind, size
        elif kind == b"g":
            self._sink(block)
            self._kept = True
        else:
            size = 0 if kind in _WITHOUT_CONTENT else int(self._said.get("size", size))
            if size < 0 or kind == _SPARSE:
                raise self._damaged("a member of it has no usable size")
            size = self._member(block, kind, size)
            self._pending, self._said = [], {}
        self._left = size + -size % BLOCK

    def _described(self, content: bytes) -> None:
        self._description = None
        self._pending.append(content)
        content = content[: self._size]
        if self._describes in _CALLED:
            self._said[_CALLED[self._describes]] = content.rstrip(b"\0")
            return
        while content:
            # An attribute of a file may have anything in it, so that only its length tells where it ends.
            length = content[:8].partition(b" ")[0]
            end = int(length) if length.isdigit() else 0
            key, equals, value = content[len(length) + 1 : end - 1].partition(b"=")
            if not equals or end > len(content) or (key == b"size" and not (value.isdigit() and len(value) < 20)):
                raise self._damaged("the description of a member cannot be read")
            self._said[key.decode("utf-8", "replace")] = value
            content = content[end:]

    def _member(self, block: bytes, kind: bytes, size: int) -> int:
        """Hand the header of a member on, unless it goes; the bytes that come of it."""
        prefix = text(block[345:500]) if block[257:263] == b"ustar\0" else ""
        path = self._in_guest("path", f"{prefix}/{text(block[:100])}")
        if path == _METADATA and kind in _FILE and 0 < size <= _LARGEST_DESCRIPTION:
            # It comes before the files, as servers write it.
            self._metadata, self._size = bytearray(), size
        self._kept = not self._goes(path, kind == _DIRECTORY)
        if not self._kept:
            return size
        if kind == _HARD_LINK:
            target = self._in_guest("linkpath", text(block[157:257]))
            if self._goes(target, False):
                raise ImageError(
                    f"the image {self._name} could not be cleaned",
                    f"{target}, which is to be removed, is also called {path} there",
                    "Remove one of them in the instance, stop that, and publish it again.",
                )
        if path in EMPTIED and (kind == _HARD_LINK or (kind in _FILE and size)):
            self._sink(_emptied(block))
            self._kept = False
            return size
        for each in self._pending:
            self._sink(each)
        self._sink(block)
        return size

    def _in_guest(self, key: str, plain: str) -> str:
        """The absolute path of a file in the guest; another one for what is beside its root file system."""
        name = self._said[key].decode("utf-8", "replace") if key in self._said else plain
        parts = [part for part in name.split("/") if part not in ("", ".")]
        return "/" + "/".join(parts[1:]) if parts[:1] == [_ROOT] else "/".join(parts)

    def _goes(self, path: str, is_directory: bool) -> bool:
        if path in self._written and not is_directory:
            return True
        return is_removed(path, is_directory) or path.startswith(f"{_SEED}/")

    def _damaged(self, why: str) -> ImageError:
        return ImageError(f"what the hypervisor handed out for the image {self._name} is damaged", why, "Try again.")


def _emptied(block: bytes) -> bytes:
    """The header of a plain file without content, with the owner and permissions of another one."""
    fields = [block[:124], b"%011o\0" % 0, block[136:148], b" " * 8, b"0", bytes(100), block[257:]]
    made = b"".join(fields)
    return made[:148] + b"%06o\0 " % sum(made) + made[156:]
