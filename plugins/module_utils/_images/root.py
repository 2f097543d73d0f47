# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Container images: what a file really is. It is read while it comes, and nothing of it is ever written elsewhere.

A container is made from a squashfs file system or a tar archive of a root file system, with LXD's metadata beside it;
or from one tar archive that has both (`metadata.yaml`, `rootfs/`). Archives are read to their end: one that was cut
short would be found out only when a container is made from it.
"""

from __future__ import annotations

import re
import struct
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError
from ansible_collections.minicloud.local.plugins.module_utils._images import disk, lxd_metadata
from ansible_collections.minicloud.local.plugins.module_utils._images.tar import (
    BLOCK,
    header_is_whole,
    number,
    text,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.unpack import (
    Unpacker,
    check_growth,
    compression,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime

SQUASHFS = "squashfs"

# Enough of the beginning for everything that a file may be taken for.
_HEAD = 70 * 1024
_ENDINGS = {"": "tar", "gzip": "tar.gz", "xz": "tar.xz", "bzip2": "tar.bz2", "zstd": "tar.zst"}

# What is kept of an archive's own content: its metadata, and the extended header of one member.
_KEPT = 1 << 20

_SYSTEM = {"bin", "usr", "sbin"}
_PAX_SIZE = re.compile(rb"\d+ size=(\d+)\n")
# No file has a size with more digits, and Python refuses to read much longer numbers.
_PAX_DIGITS = 20
_HINT = (
    "Give the image of a container: one tar archive with metadata.yaml and rootfs/, or a root file system as squashfs"
    " or tar archive."
)


class Root(t.NamedTuple):
    """A root file system of a container.

    format -- squashfs, tar, tar.gz, tar.xz, tar.bz2 or tar.zst; created -- seconds since the epoch, 0 where unknown
    metadata -- LXD's metadata.yaml, where it is in the same archive (unified); empty where there is none
    """

    format: str
    created: int = 0
    metadata: bytes = b""
    unified: bool = False


class RootScan:
    """An outlet that finds out what container image its bytes are. ImageError, which speaks of it as NAME, for others.

    deep -- read an archive to its end; else only its beginning counts
    """

    def __init__(self, name: str, runtime: Runtime, deep: bool = True) -> None:
        self._deep = deep
        self._begun = False
        self._start = b""
        self._packed = ""
        self._content = _Content(name, self._check_growth)
        self._unpacker = Unpacker("", runtime, sink=self._content)
        self._root: Root | None = None

    @property
    def root(self) -> Root:
        """What it is; known when all bytes have come."""
        if self._root is None:
            raise LookupError("the image has not come to its end")
        return self._root

    def _check_growth(self, size: int) -> None:
        check_growth(size, self._unpacker.fed)

    def feed(self, data: bytes) -> None:
        """The next bytes, in order."""
        if not self._begun:
            self._start += data
            if len(self._start) < BLOCK:
                return
            self._begin()
        else:
            self._pass_on(data)

    def _begin(self) -> None:
        self._begun = True
        self._packed = compression(self._start)
        self._pass_on(self._start)

    def _pass_on(self, data: bytes) -> None:
        if not self._packed:
            self._content.write(data)
        elif self._deep:
            self._unpacker.feed(data)

    def finish(self) -> None:
        """That was all."""
        if not self._begun:
            self._begin()
        if not self._packed:
            self._root = self._content.root("")
        elif self._deep:
            self._unpacker.finish()
            self._root = self._content.root(self._packed)
        else:
            self._root = Root(_ENDINGS[self._packed])

    def abandon(self) -> None:
        """There will be no more."""
        self._unpacker.abandon()


class _Content:
    """What is in an image when it is decompressed."""

    def __init__(self, name: str, check: t.Callable[[int], None]) -> None:
        """check -- raises when so many bytes cannot have come out honestly"""
        self._name = name
        self._check = check
        self._head = b""
        self._size = 0
        self._archive: _Archive | None = None

    def write(self, data: bytes) -> None:
        """The next bytes."""
        self._size += len(data)
        self._check(self._size)
        if self._archive:
            self._archive.write(data)
        elif len(self._head) < _HEAD:
            self._head += data
            if len(self._head) >= BLOCK and header_is_whole(self._head[:BLOCK]):
                self._archive = _Archive(self._name)
                self._archive.write(self._head)
            elif len(self._head) >= _HEAD:
                self._refuse_others()

    def close(self) -> None:
        """Nothing more comes."""

    def _refuse_others(self) -> None:
        if self._head.startswith(b"hsqs"):
            return
        found = disk.name_of(self._head)
        if found:
            raise ImageError(
                f"{self._name} is not the image of a container",
                f"it is the disk of a virtual machine ({found})",
                "Use instance_type: vm for it, or give the image of a container.",
            )
        what = disk.other(self._head, self._size)[0] or "data of an unknown kind"
        raise ImageError(f"{self._name} is not the image of a container", f"it seems to be {what}", _HINT)

    def root(self, packed: str) -> Root:
        """What it is; packed -- how the file was compressed."""
        if self._archive:
            return self._archive.root(packed)
        self._refuse_others()
        if packed:
            raise ImageError(
                f"the image {self._name} cannot be used",
                f"it is a squashfs file system that was compressed with {packed}, and LXD takes only the file system",
                "Decompress it.",
            )
        if len(self._head) < 96 or struct.unpack("<H", self._head[28:30])[0] != 4:
            raise _damaged(self._name, "its header is not one of squashfs 4.0")
        created, end = struct.unpack("<I", self._head[8:12])[0], struct.unpack("<Q", self._head[40:48])[0]
        if end > self._size:
            raise _damaged(self._name, f"it is cut short: it should have {end} bytes, and it has {self._size}")
        return Root(SQUASHFS, created)


class _Archive:
    """A tar archive, member by member, of any size."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._block = b""
        self._left = 0
        self._kept: bytearray | None = None
        self._keeps = ""
        self._kept_size = 0
        self._sparse = self._ended = False
        self._member_size = -1
        self._tops: set[str] = set()
        self._created = 0
        self._metadata = b""

    def write(self, data: bytes) -> None:
        """The next bytes."""
        position, end = 0, len(data)
        while position < end and not self._ended:
            if self._left and not self._sparse:
                stop = min(end, position + self._left)
                if self._kept is not None:
                    self._kept += data[position:stop]
                self._left -= stop - position
                position = stop
                if not self._left:
                    self._member_is_over()
                continue
            stop = min(end, position + BLOCK - len(self._block))
            self._block += data[position:stop]
            position = stop
            if len(self._block) == BLOCK:
                block, self._block = self._block, b""
                self._header(block)

    def _header(self, block: bytes) -> None:
        if self._sparse:  # a further list of the holes in a member
            self._sparse = bool(block[504])
            return
        if not block.strip(b"\0"):
            self._ended = True
            return
        if not header_is_whole(block):
            raise _damaged(self._name, "there is something else in it where a member should begin")
        kind = block[156:157]
        size = number(block[124:136])
        if self._member_size >= 0 and kind not in b"xgLK":
            size, self._member_size = self._member_size, -1
        if kind in (b"1", b"2", b"3", b"4", b"5", b"6"):
            size = 0
        if size < 0:
            raise _damaged(self._name, "a member of it has no usable size")
        self._sparse = kind == b"S" and bool(block[482])
        self._left = (size + BLOCK - 1) // BLOCK * BLOCK
        self._kept, self._keeps = None, ""
        if kind == b"x":
            self._keep("x", size)
        elif kind not in b"gLK":
            self._member(text(block[:100]), block, size, kind in b"0\0")
        if not self._left:
            self._member_is_over()

    def _keep(self, what: str, size: int) -> None:
        if size > _KEPT:
            raise _damaged(self._name, "a member of it has a description of more than a mebibyte")
        self._kept, self._keeps, self._kept_size = bytearray(), what, size

    def _member(self, name: str, block: bytes, size: int, is_file: bool) -> None:
        prefix = text(block[345:500]) if block[257:263] == b"ustar\0" else ""
        parts = [part for part in f"{prefix}/{name}".split("/") if part not in ("", ".")]
        if not self._created:
            self._created = max(0, number(block[136:148]))
        if not parts:
            return
        if len(self._tops) < 1000:
            self._tops.add(parts[0])
        if parts == [lxd_metadata.FILE] and is_file:
            self._keep(lxd_metadata.FILE, size)

    def _member_is_over(self) -> None:
        kept, self._kept = self._kept, None
        if kept is None:
            return
        content = bytes(kept[: self._kept_size])
        if self._keeps == "x":
            found = _PAX_SIZE.search(content)
            if found and len(found[1]) > _PAX_DIGITS:
                raise _damaged(self._name, "a member of it has no usable size")
            self._member_size = int(found[1]) if found else -1
        else:
            self._metadata = content

    def root(self, packed: str) -> Root:
        """What it is; packed -- how the file was compressed."""
        if not self._ended:
            raise _damaged(self._name, "it is cut short: the end of the archive is missing")
        tops = self._tops
        if self._metadata and "rootfs" in tops:
            return Root(_ENDINGS[packed], self._created, self._metadata, unified=True)
        if "etc" in tops and tops & _SYSTEM:
            return Root(_ENDINGS[packed], self._created)
        why, hint = "it is a tar archive of something else", _HINT
        if "backup" in tops:
            why, hint = "it is the backup of an instance, as lxc export makes it", "Restore it with lxc import."
        elif self._metadata:
            why = "it is only the metadata of one: there is no rootfs/ in it"
            hint = "Give the archive that has both, or the root file system that belongs to it."
        elif "rootfs" in tops:
            why = "it has a rootfs/, but no metadata.yaml beside it"
            hint = "Archive the content of rootfs/ itself, as in tar -C rootfs -cf root.tar ."
        elif tops & {"oci-layout", "manifest.json", "repositories"}:
            why, hint = "it is an image of Docker or OCI", "Such images have no init system. " + _HINT
        elif any(top.endswith((".raw", ".qcow2", ".img", ".vmdk", ".vhdx")) for top in tops):
            why = "it is a tar archive with the disk of a virtual machine"
            hint = "Unpack it and use the disk with instance_type: vm, or give the image of a container."
        raise ImageError(f"{self._name} is not the image of a container", why, hint)


def _damaged(name: str, why: str) -> ImageError:
    return ImageError(
        f"the image {name} is damaged", why, "Fetch or copy it anew, and compare its checksum with the publisher's."
    )
