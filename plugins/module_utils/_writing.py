# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Changes of files that survive a kill, a power cut and other users: make, replace, remove."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import time
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._files import explained

# What replacing() writes before it is renamed: today's names, and those of versions before, with a process id.
_TEMPORARY = re.compile(r"\.(?:([0-9a-f]{16})|([0-9]{1,10}))\.tmp\Z")

# After this time nobody writes any more under a name with a process id, whoever has that id now.
_OLD = 3600


# -- directories -------------------------------------------------------------------------------------------------------


def make_dir(path: str) -> str:
    """Make a directory and its parents, private to the user whatever the umask; return its path."""
    with explained(f"the directory {path} could not be made"):
        _make_private(path)
    return path


def _make_private(path: str, parents: bool = True) -> None:
    # Not makedirs: it gives the mode to the last directory only.
    try:
        os.mkdir(path, 0o700)
    except FileNotFoundError:
        if not parents:
            raise
        _make_private(os.path.dirname(path))
        _make_private(path, parents=False)
    except FileExistsError:
        # In a directory like /tmp somebody else can have been faster.
        if not os.path.isdir(path) or not {os.lstat(path).st_uid, os.stat(path).st_uid} <= {0, os.geteuid()}:
            raise
    else:
        os.chmod(path, 0o700)


# -- files -------------------------------------------------------------------------------------------------------------


def write_file(path: str, content: bytes, mode: int = 0o600) -> None:
    """Put a file in place whole: whoever opens it, or finds it after a power cut, has the old content or the new."""
    with explained(f"{path} could not be written"), replacing(path, mode) as stream:
        stream.write(content)


def made_anew(path: str, mode: int = 0o666) -> int:
    """The descriptor of a new file, for reading and writing. What a killed run has left under the name goes first.

    mode -- less what the umask takes away
    Never what somebody else has put there meanwhile, nor what a link leads to: FileExistsError.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


@contextlib.contextmanager
def replacing(path: str, mode: int = 0o600) -> t.Iterator[t.BinaryIO]:
    """A new file to write into, that takes the place of another when the block ends; OSError where it cannot.

    If the block fails nothing is left. If the process is killed in it, remove_leftovers() finds what is.
    """
    descriptor, temporary = _new_file(path)
    try:
        with open(descriptor, "wb") as stream:
            os.fchmod(descriptor, mode)
            yield stream
            stream.flush()
            os.fsync(descriptor)
            os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _new_file(path: str) -> tuple[int, str]:
    """A file beside another, under a name that nobody knows before, locked for as long as its writer lives."""
    while True:
        temporary = f"{path}.{os.urandom(8).hex()}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return descriptor, temporary
        except BlockingIOError:
            pass  # remove_leftovers() has it, and takes it away
        except OSError:
            return descriptor, temporary  # a file system without locks: there leftovers stay
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def remove_leftovers(directory: str, name: str = "") -> None:
    """Remove the files in a directory that killed processes had begun to write; those of living ones stay.

    name -- only of what was to become the file of that name: in a directory that is not ours alone
    """
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            match = _TEMPORARY.search(entry.name)
            if match and name in ("", entry.name[: match.start()]):
                with contextlib.suppress(OSError):
                    _remove_abandoned(entry.path, int(match[2] or 0))


def _remove_abandoned(path: str, writer: int) -> None:
    """writer -- the id of the process that wrote it, where the name tells it"""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or (writer and time.time() - found.st_mtime < _OLD and _lives(writer)):
            return
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(descriptor)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def remove_path(path: str) -> None:
    """Remove a file or a whole directory; all the same if it is not there."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass
