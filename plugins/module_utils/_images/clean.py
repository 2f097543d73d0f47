# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Taking out of a disk what makes an instance that instance, without mounting it: with debugfs, so on ext4 only.

The file system was written by a guest, and a guest is never trusted: debugfs also has commands that write files of
the host. So no name from the disk becomes part of a command unless all its characters are harmless.
"""

from __future__ import annotations

import os
import re
import struct
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import explained

# Emptied, not removed: an empty one makes systemd take a new identity, also where /etc cannot be written to.
_EMPTIED = ("/etc/machine-id",)

# Removed where their name in that directory matches: directory, pattern, whether with all that is in it.
_REMOVED = (
    ("/etc/ssh", re.compile(r"ssh_host_.*"), False),
    # As `cloud-init clean` does: what an image brings as its seed is not state.
    ("/var/lib/cloud", re.compile(r"(?!seed\Z).*"), True),
    ("/var/log", re.compile(r"cloud-init(-output)?\.log.*"), False),
    ("/var/lib/dbus", re.compile(r"machine-id"), False),
    ("/var/lib/systemd", re.compile(r"random-seed"), False),
)

_SECTOR = 512
_EXT_MAGIC, _EXT_CLEAN, _EXT_RECOVER = 0xEF53, 1, 4
_DIRECTORY, _LINK = 0o040000, 0o120000
_DEPTH = 32

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
        head = stream.read(2 * _SECTOR)
        starts = [0]
        if head[_SECTOR : _SECTOR + 8] == b"EFI PART":
            table, count, size = struct.unpack("<QII", head[_SECTOR + 72 : _SECTOR + 88])
            stream.seek(table * _SECTOR)
            entries = stream.read(min(count, 1024) * min(size, 4096)) if size >= 128 else b""
            for offset in range(0, len(entries) - 127, max(size, 128)):
                if entries[offset : offset + 16].strip(b"\0"):
                    starts.append(struct.unpack("<Q", entries[offset + 32 : offset + 40])[0] * _SECTOR)
        elif head[510:512] == b"\x55\xaa":
            for number in range(4):
                entry = head[446 + 16 * number : 462 + 16 * number]
                if entry[4]:
                    starts.append(struct.unpack("<I", entry[8:12])[0] * _SECTOR)
    return starts


def clean(runtime: Runtime, path: str, name: str) -> bool:
    """Clean the raw disk at PATH, in place; False where it has no root file system that this can be done in.

    name -- of the image, for errors. ImageError where something cannot be removed: then it is not clean.
    """
    debugfs = runtime.program("debugfs", "e2fsprogs", "to clean images")
    e2fsck = runtime.program("e2fsck", "e2fsprogs", "to clean images")
    for start in partitions(path):
        with explained(f"the disk of the image {name} could not be read"):
            needs_repair = _is_dirty(path, start)
        if needs_repair is None:
            continue
        if needs_repair:
            # A journal that is still to be replayed would undo what is done before.
            _repair(runtime, e2fsck, path, start, name)
        system = _FileSystem(runtime, debugfs, path, start, name)
        there = system.children(["/", "/var"])
        # A /var that is elsewhere is empty here: then this is not all that there is to clean.
        if "etc" not in _names(there, "/") or "lib" not in _names(there, "/var"):
            continue
        system.clean()
        _repair(runtime, e2fsck, path, start, name)
        left = _FileSystem(runtime, debugfs, path, start, name).wanted()
        if left:
            raise _failed(name, f"this is left: {', '.join(left[:5])}")
        return True
    return False


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


def _on(path: str, start: int) -> tuple[str, str]:
    """The directory of a disk, and how the tools name what is in it from START on: a path with ? would mislead them."""
    return os.path.dirname(path), f"{os.path.basename(path)}?offset={start}"


def _repair(runtime: Runtime, e2fsck: str, path: str, start: int, name: str) -> None:
    directory, target = _on(path, start)
    done = runtime.run([e2fsck, "-f", "-p", target], cwd=directory)
    if done.rc not in (0, 1):
        raise _failed(name, f"its file system is damaged: {(done.err or done.out).strip()[:500]}")


class _FileSystem:
    """An ext4 file system at START of the raw disk PATH."""

    def __init__(self, runtime: Runtime, debugfs: str, path: str, start: int, name: str) -> None:
        self._runtime = runtime
        self._debugfs = debugfs
        self._cwd, self._target = _on(path, start)
        self._name = name

    def _run(self, commands: t.Sequence[str], write: bool = False) -> Completed:
        argv = [self._debugfs, *(["-w"] if write else []), "-f", "-", self._target]
        return self._runtime.run(argv, stdin="".join(f"{c}\n" for c in commands).encode(), cwd=self._cwd)

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
        tops = {os.path.dirname(path) for path in _EMPTIED} | {directory for directory, *dummy in _REMOVED}
        there = self.children(sorted(tops))
        commands = []
        for path in _EMPTIED:
            directory, base = os.path.split(path)
            for child in there.get(directory, []):
                if child.name == base and child.mode & 0o170000 != _LINK and child.size:
                    commands += [f"punch {path} 0", f"set_inode_field {path} size 0"]
        trees: list[str] = []
        for directory, pattern, recursive in _REMOVED:
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
