# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Taking out of a disk what makes an instance that instance, without mounting it: with debugfs, so on ext4 only.

What is removed is still there in free blocks, in free inodes, in what is left of its directory entries and in the
journal, beside whatever the instance has removed itself. So all these are made zeros, in every ext4 file system of the
disk, and swap space too.

The file systems were written by a guest, and a guest is never trusted: the programs that read them see nothing but the
disk (see confined.py), and no name from it becomes part of a command unless all its characters are harmless.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import struct
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError
from ansible_collections.minicloud.local.plugins.module_utils._files import (
    explained,
)
from ansible_collections.minicloud.local.plugins.module_utils._images import confined
from ansible_collections.minicloud.local.plugins.module_utils._images.identity import EMPTIED, REMOVED
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._writing import made_anew

_SECTOR = 512
_EXT_MAGIC, _EXT_CLEAN, _EXT_RECOVER, _EXT_64BIT = 0xEF53, 1, 4, 0x80
_DIRECTORY, _LINK = 0o040000, 0o120000
_DEPTH = 32
_PARTITIONS = 128

# The largest journal that mke2fs makes has 1 GiB.
_JOURNAL_LIMIT = 1 << 30
_GROUP = re.compile(r"Group (\d+): ")
_TABLE = re.compile(r"\s+Inode table at (\d+)-\d+")
_FREE = re.compile(r"\s+Free (blocks|inodes): ([\d, -]+)\Z")
_SWAP_MAGIC, _SWAP_PAGE = b"SWAPSPACE2", 4096
_BLANK = bytes(1 << 20)

_PROMPT = "debugfs: "
_LISTED = re.compile(r"/(\d+)/(\d{6})/\d+/\d+/([^/]*)/(\d*)/\Z")
_HARMLESS = re.compile(r"[A-Za-z0-9._@:+=,~-]+\Z")


class Child(t.NamedTuple):
    """What a directory has. name -- empty where it is not harmless; mode -- type and permissions; size -- bytes"""

    name: str
    mode: int
    size: int

    @property
    def is_directory(self) -> bool:
        return self.mode & 0o170000 == _DIRECTORY


def partitions(path: str) -> list[int]:
    """Where on a raw disk (bytes) something may be that is a file system: its partitions, and its beginning."""
    with open(path, "rb") as stream:
        end = os.fstat(stream.fileno()).st_size
        head = stream.read(2 * _SECTOR)
        starts = [0]
        if head[_SECTOR : _SECTOR + 8] == b"EFI PART" and len(head) == 2 * _SECTOR:
            table, count, size = struct.unpack("<QII", head[_SECTOR + 72 : _SECTOR + 88])
            entries = b""
            if table * _SECTOR < end and size >= 128:
                stream.seek(table * _SECTOR)
                entries = stream.read(min(count, _PARTITIONS) * min(size, 4096))
            for offset in range(0, len(entries) - 127, max(size, 128)):
                if entries[offset : offset + 16].strip(b"\0"):
                    starts.append(struct.unpack("<Q", entries[offset + 32 : offset + 40])[0] * _SECTOR)
        elif head[510:512] == b"\x55\xaa":
            for number in range(4):
                entry = head[446 + 16 * number : 462 + 16 * number]
                if entry[4]:
                    starts.append(struct.unpack("<I", entry[8:12])[0] * _SECTOR)
    return sorted({start for start in starts if start < end})


def clean(runtime: Runtime, path: str, name: str) -> bool:
    """Clean the raw disk at PATH, in place; False where it has no root file system that this can be done in.

    name -- of the image, for errors. ImageError where something cannot be removed: then it is not clean.
    """
    for program in ("debugfs", "e2fsck", "dumpe2fs"):
        runtime.program(program, "e2fsprogs", "to clean images")
    found = []
    for start in partitions(path):
        with explained(f"the disk of the image {name} could not be read"):
            needs_repair = _is_dirty(path, start)
        if needs_repair is not None:
            system = _FileSystem(runtime, path, start, name)
            if needs_repair:
                # A journal that is still to be replayed would undo what is done before.
                system.replay()
            found.append(system)
    root = next((system for system in found if system.is_root()), None)
    if root is None:
        return False
    root.clean()
    for system in found:
        system.repair("-D")
        system.wipe()
        system.repair()
    _wipe_swap(path, name)
    left = root.wanted()
    if left:
        raise _failed(name, f"this is left: {', '.join(left[:5])}")
    return True


def _is_dirty(path: str, start: int) -> bool | None:
    """Whether an ext2, ext3 or ext4 file system was not unmounted; None where there is none."""
    with open(path, "rb") as stream:
        stream.seek(start + 1024)
        block = stream.read(1024)
    if len(block) < 1024 or struct.unpack("<H", block[56:58])[0] != _EXT_MAGIC:
        return None
    state, features = struct.unpack("<H", block[58:60])[0], struct.unpack("<I", block[96:100])[0]
    return state != _EXT_CLEAN or bool(features & _EXT_RECOVER)


def _names(there: t.Mapping[str, list[Child]], directory: str) -> set[str]:
    return {child.name for child in there.get(directory, [])}


def _failed(name: str, why: str) -> ImageError:
    return ImageError(
        f"the image {name} could not be cleaned", why, "Clean it in the instance, stop that, and use clean: false."
    )


def _pieces(descriptor: int, start: int, end: int) -> t.Iterator[tuple[int, bytes]]:
    """What is in part of a file, piece by piece, each with its offset; neither holes nor zeros alone."""
    end = min(end, os.fstat(descriptor).st_size)
    while start < end:
        try:
            start = os.lseek(descriptor, start, os.SEEK_DATA)
            stop = min(end, os.lseek(descriptor, start, os.SEEK_HOLE))
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            return
        while start < stop:
            piece = os.pread(descriptor, min(stop - start, len(_BLANK)), start)
            if not piece:
                return
            if piece.strip(b"\0"):
                yield start, piece
            start += len(piece)


def _zero(stream: t.BinaryIO, start: int, end: int) -> None:
    """Make part of a file zeros; what is a hole in it stays one."""
    for offset, piece in _pieces(stream.fileno(), start, end):
        os.pwrite(stream.fileno(), _BLANK[: len(piece)], offset)


def _wipe_swap(path: str, name: str) -> None:
    """Make zeros of what is in swap partitions: it was the memory of the instance."""
    with explained(f"the disk of the image {name} could not be written"):
        for start in partitions(path):
            with open(path, "r+b", buffering=0) as stream:
                stream.seek(start)
                head = stream.read(_SWAP_PAGE)
                if head.endswith(_SWAP_MAGIC):
                    last_page = struct.unpack("<I", head[1028:1032])[0]
                    _zero(stream, start + _SWAP_PAGE, start + (last_page + 1) * _SWAP_PAGE)


class _FileSystem:
    """An ext2, ext3 or ext4 file system at START of the raw disk PATH."""

    def __init__(self, runtime: Runtime, path: str, start: int, name: str) -> None:
        self._runtime = runtime
        self._path = path
        self._start = start
        self._name = name

    def _program(self, name: str, *options: str, stdin: bytes | None = None, write: bool = False) -> Completed:
        return confined.run(
            self._runtime,
            self._runtime.program(name, "e2fsprogs", "to clean images"),
            lambda names: [*options, f"{names[0]}?offset={self._start}"],
            [confined.File(self._path, write)],
            stdin=stdin,
            writes=os.path.getsize(self._path),
        )

    def _run(self, commands: t.Sequence[str], write: bool = False) -> Completed:
        stdin = "".join(f"{command}\n" for command in commands).encode()
        return self._program("debugfs", *(["-w"] if write else []), "-f", "-", stdin=stdin, write=write)

    def repair(self, *options: str) -> None:
        """Have it whole. options -- more for e2fsck, such as -D, which writes directories anew"""
        done = self._program("e2fsck", "-f", "-p", *options, write=True)
        if done.rc not in (0, 1):
            raise _failed(self._name, f"its file system is damaged: {(done.err or done.out).strip()[:500]}")

    def replay(self) -> None:
        """Have it whole where its journal is still to be replayed.

        For that e2fsck opens the file system twice, and the second time it has forgotten at which offset: so this is
        done in a copy, which begins with it.
        """
        start, copy = self._start, f"{self._path}.journal"
        try:
            with explained(f"the disk of the image {self._name} could not be read"):
                end = self._end()
                with open(self._path, "rb") as disk, open(made_anew(copy), "w+b", buffering=0) as stream:
                    stream.truncate(end - start)
                    for offset, piece in _pieces(disk.fileno(), start, end):
                        os.pwrite(stream.fileno(), piece, offset - start)
            _FileSystem(self._runtime, copy, 0, self._name).repair()
            with explained(f"the disk of the image {self._name} could not be written"):
                with open(copy, "rb") as stream, open(self._path, "r+b", buffering=0) as disk:
                    there, made = disk.fileno(), stream.fileno()
                    for offset, piece in _pieces(there, start, end):
                        wanted = os.pread(made, len(piece), offset - start)
                        if wanted != piece:
                            os.pwrite(there, wanted, offset)
                    for offset, piece in _pieces(made, 0, end - start):
                        if os.pread(there, len(piece), start + offset) != piece:
                            os.pwrite(there, piece, start + offset)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(copy)

    def _end(self) -> int:
        """Where it ends on the disk, bytes."""
        with open(self._path, "rb") as stream:
            stream.seek(self._start + 1024)
            block = stream.read(1024)
        blocks = struct.unpack("<I", block[4:8])[0]
        if struct.unpack("<I", block[96:100])[0] & _EXT_64BIT:
            blocks += struct.unpack("<I", block[336:340])[0] << 32
        return min(self._start + blocks * self._geometry()[0], os.path.getsize(self._path))

    def is_root(self) -> bool:
        """Whether it has all that there is to clean; a /var that is elsewhere is empty here."""
        there = self.children(["/", "/var"])
        return "etc" in _names(there, "/") and "lib" in _names(there, "/var")

    def wipe(self) -> None:
        """Make zeros of its journal, its free blocks and its free inodes. It must be whole."""
        told = self._run(["stat <8>"]).out
        size = re.search(r"\bSize: (\d+)\s", told)
        block, inode, per_group = self._geometry()
        blocks = int(size[1]) // block if size and re.search(r"Type: regular", told) else 0
        if blocks * block > _JOURNAL_LIMIT:
            raise _failed(self._name, "its journal is larger than any")
        # The first one says that there is nothing in the others.
        done = self._run([f"zap_block -f <8> {number}" for number in range(1, blocks)], write=True)
        if done.rc == 0:
            done = self._program("dumpe2fs", "-f")
        if done.rc != 0:
            raise _failed(self._name, f"its free blocks were not found: {done.err.strip()[:500]}")
        with explained(f"the disk of the image {self._name} could not be written"):
            with open(self._path, "r+b", buffering=0) as stream:
                for start, end in _free(done.out, block, inode, per_group):
                    _zero(stream, self._start + start, self._start + end)

    def _geometry(self) -> tuple[int, int, int]:
        """The bytes of a block and of an inode, and the inodes of a group."""
        with open(self._path, "rb") as stream:
            stream.seek(self._start + 1024)
            block = stream.read(1024)
        shift, revision = struct.unpack("<I", block[24:28])[0], struct.unpack("<I", block[76:80])[0]
        inode = struct.unpack("<H", block[88:90])[0] if revision else 128
        return 1024 << min(shift, 6), inode, struct.unpack("<I", block[40:44])[0]

    def children(self, directories: t.Sequence[str]) -> dict[str, list[Child]]:
        """What is in some directories; those that do not exist have nothing."""
        found: dict[str, list[Child]] = {}
        done = self._run([f"ls -p {directory}" for directory in directories])
        if done.rc != 0:
            raise _failed(self._name, f"its file system cannot be read: {done.err.strip()[:500]}")
        current = ""
        for line in done.out.splitlines():
            if line.startswith(f"{_PROMPT}ls -p /"):
                current = line[len(f"{_PROMPT}ls -p ") :]
                continue
            match = _LISTED.match(line)
            if match and _HARMLESS.match(match[3]):
                if match[3] not in (".", ".."):
                    found.setdefault(current, []).append(Child(match[3], int(match[2], 8), int(match[4] or 0)))
            elif line.strip():
                # A name with other characters, or what follows the end of a line in one.
                found.setdefault(current, []).append(Child("", 0, 0))
        return found

    def wanted(self) -> list[str]:
        """The commands that clean it, in their order."""
        tops = {os.path.dirname(path) for path in EMPTIED} | {directory for directory, *dummy in REMOVED}
        there = self.children(sorted(tops))
        commands = []
        for path in EMPTIED:
            directory, base = os.path.split(path)
            for child in there.get(directory, []):
                if child.name == base and child.mode & 0o170000 != _LINK and child.size:
                    commands += [f"punch {path} 0", f"set_inode_field {path} size 0"]
        trees: list[str] = []
        for directory, pattern, recursive in REMOVED:
            for child in there.get(directory, []):
                if child.name and not pattern.fullmatch(child.name):
                    continue
                if not child.name:
                    # Elsewhere than where everything goes, it is nobody's business here.
                    if recursive:
                        raise self._strange(directory)
                elif not child.is_directory:
                    commands.append(f"rm {directory}/{child.name}")
                elif recursive:
                    trees.append(f"{directory}/{child.name}")
        return commands + self._removal(trees)

    def _removal(self, level: list[str]) -> list[str]:
        """The commands that remove directories with all that is in them: files first, then the deepest directory."""
        files: list[str] = []
        directories: list[str] = []
        for dummy in range(_DEPTH):
            if not level:
                return [f"rm {path}" for path in files] + [f"rmdir {path}" for path in reversed(directories)]
            there = self.children(level)
            directories += level
            deeper: list[str] = []
            for directory in level:
                for child in there.get(directory, []):
                    if not child.name:
                        raise self._strange(directory)
                    (deeper if child.is_directory else files).append(f"{directory}/{child.name}")
            level = deeper
        raise _failed(self._name, "its directories are nested too deeply")

    def _strange(self, directory: str) -> ImageError:
        return _failed(self._name, f"{directory} in it has a file with a name that is not safe to handle from outside")

    def clean(self) -> None:
        done = self._run(self.wanted(), write=True)
        if done.rc != 0:
            raise _failed(self._name, done.err.strip()[:500])


def _free(told: str, block: int, inode: int, per_group: int) -> t.Iterator[tuple[int, int]]:
    """Where in a file system nothing is: beginning and end of each part, bytes. TOLD -- what dumpe2fs writes"""
    group = table = -1
    for line in told.splitlines():
        match = _GROUP.match(line)
        if match:
            group, table = int(match[1]), -1
            continue
        match = _TABLE.match(line)
        if match:
            table = int(match[1])
            continue
        match = _FREE.match(line)
        for part in match[2].split(",") if match else ():
            first, dummy, last = part.strip().partition("-")
            if not first.isdigit() or not (last or first).isdigit():
                continue
            low, high = int(first), int(last or first) + 1
            if t.cast("re.Match[str]", match)[1] == "blocks":
                yield low * block, high * block
            elif table >= 0:
                # They are counted from 1, and each group has its own.
                base = table * block - (1 + group * per_group) * inode
                yield base + low * inode, base + high * inode
