# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.
"""A change of the host's network that is undone unless somebody says in time that all is well.

Who says so may have been cut off by the very change, or ended: the one that undoes it is a process of its own, which
waits at a pipe for that word or for the pipe's end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._locks import open_lock
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_path, write_file

# Seconds after which the change is undone even if whoever made it is still at it.
PATIENCE = 60

# Arguments: the numbers of the pipe and the lock, ip, the commands. Many shells redirect from numbers up to 9 only.
_WATCH = (
    'exec > /dev/null 2>&1; cd /; word=$(timeout "$5" head -n 1 "/proc/self/fd/$1"); [ "$word" = keep ]'
    ' || "$3" -force -batch "$4"; exec rm -f "$4"'
)


class Watch(t.NamedTuple):
    """What whoever makes the change has of its guard.

    descriptor -- to be passed on to commands: what they do is not undone before they have ended
    """

    descriptor: int

    def keep(self) -> None:
        """The change is good."""
        # A guard that has lost its patience has undone it already, and reads no more: what follows will notice.
        with contextlib.suppress(BrokenPipeError):
            os.write(self.descriptor, b"keep\n")


class Guard:
    """Guards changes of one network. directory -- of the network; ip -- the path of the program"""

    def __init__(self, runtime: Runtime, directory: str, ip: str) -> None:
        self.runtime = runtime
        self.directory = directory
        self.ip = ip
        self._undo = os.path.join(directory, "undo.ip")
        self._lock = os.path.join(directory, "guard.lock")

    def wait(self) -> None:
        """Return when no guard of an earlier change is at work any more."""
        if os.path.exists(self._lock):
            os.close(self._locked())

    def unfinished(self) -> bool:
        """Whether a guard was ended before it had done what it was to do."""
        return os.path.exists(self._undo)

    @contextlib.contextmanager
    def undoing(self, commands: t.Sequence[str]) -> t.Iterator[Watch]:
        """Carry out COMMANDS of ip at the end, or at the end of this process, unless keep() was called until then.

        Each of them is carried out whatever becomes of those before.
        """
        make_dir(self.directory)
        lock = self._locked()
        write_file(self._undo, "".join(f"{command}\n" for command in commands).encode())
        reader, writer = os.pipe()
        try:
            argv = ["setsid", "--fork", "sh", "-c", _WATCH, "sh", str(reader), str(lock), self.ip, self._undo]
            self.runtime.check(
                [*argv, str(PATIENCE)], "what undoes the change could not be started", pass_fds=(reader, lock)
            )
        except BaseException:
            os.close(writer)
            raise
        finally:
            os.close(reader)
            os.close(lock)
        try:
            yield Watch(writer)
        finally:
            os.close(writer)
            self.wait()

    def forget(self) -> None:
        """Remove the files of earlier changes."""
        remove_path(self._undo)
        remove_path(self._lock)

    def _locked(self) -> int:
        """The lock, taken: whoever inherits it has it until it ends."""
        with explained(f"the lock {self._lock} could not be opened"):
            descriptor = open_lock(self._lock)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor
