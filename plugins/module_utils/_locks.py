# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Locks on files (flock), which the kernel gives back when their holder ends, however that was."""

from __future__ import annotations

import contextlib
import fcntl
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import Busy
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Reporter


def open_lock(path: str) -> int:
    """A descriptor of a file to be locked with flock, made if it is not there. OSError where it cannot be had."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def try_lock(descriptor: int) -> bool:
    """Whether an exclusive lock on an open file could be had at once. OSError where it can have none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def held(path: str, name: str, deadline: Deadline, report: Reporter | None) -> t.Iterator[None]:
    """Hold the lock of a file, which is there only meanwhile; Busy if somebody else holds it until the deadline.

    name -- what it locks, for messages
    """
    descriptor = _acquire(path, name, deadline, report)
    try:
        yield
    finally:
        # Unlinked while held: whoever waits on this file finds that the name leads elsewhere and starts again.
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(descriptor)


def _acquire(path: str, name: str, deadline: Deadline, report: Reporter | None) -> int:
    told = False
    while True:
        with explained(f"the lock {path} could not be opened"):
            descriptor = open_lock(path)
        try:
            taken = try_lock(descriptor)
            if not taken and report and not told:
                report.step(f"waiting for the lock on {name}, which process {_holder(descriptor)} holds")
                told = True
            if not taken and not any(try_lock(descriptor) for dummy in deadline.pauses(longest=0.25)):
                raise Busy(
                    f"the lock on {name} was not free within {deadline.seconds:g} seconds",
                    f"process {_holder(descriptor)} holds it",
                    "Wait for that run to end, or end it, and run this again.",
                )
            if _leads_to(path, descriptor):
                with contextlib.suppress(OSError):  # only for the messages of others; a full disk must not matter
                    os.truncate(descriptor, 0)
                    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _leads_to(path: str, descriptor: int) -> bool:
    try:
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
