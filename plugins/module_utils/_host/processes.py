# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The processes of this host, as far as this user may look at them. On a system without /proc there are none to see."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import typing as t

# Bytes of what is read of a process; the kernel's own limit for arguments is far less.
_LONGEST = 4 << 20

# Tells of the arguments of a process, its program among them, whether it is the one that is meant.
Meant = t.Callable[[t.Sequence[bytes]], bool]


def all_ids() -> list[int]:
    """The ids of all processes."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def name_of(pid: int) -> str:
    """The name of a process's program, at most 15 characters; empty where there is no such process."""
    return _read(pid, "comm").decode(errors="replace").strip()


def arguments_of(pid: int) -> list[bytes]:
    """With what a process was started, its program first; nothing of one that has ended."""
    return _read(pid, "cmdline").split(b"\0")[:-1]


def open_files_of(pid: int) -> t.Iterator[str]:
    """Paths that lead to the files that a process has open; none of one that has ended."""
    directory = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            yield f"{directory}/{name}"


def _read(pid: int, name: str) -> bytes:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as stream:
        return stream.read(_LONGEST)
    return b""


def search(meant: Meant) -> int:
    """The id of the process that is meant, 0 where there is none."""
    return next((pid for pid in all_ids() if meant(arguments_of(pid))), 0)


@contextlib.contextmanager
def held(pid: int, is_it: t.Callable[[int], bool]) -> t.Iterator[int | None]:
    """A descriptor of a process, which is never one of another process with its id; None where it is not the one.

    is_it -- tells of a process, by its id, whether it is the one that is meant
    """
    descriptor = -1
    opened: t.Callable[[int], int] | None = getattr(os, "pidfd_open", None)  # of Linux
    if opened and pid > 0:
        with contextlib.suppress(OSError):
            descriptor = opened(pid)
    try:
        # It is the one if it has not ended since the descriptor was there.
        there = descriptor >= 0 and is_it(pid) and not select.select([descriptor], [], [], 0)[0]
        yield descriptor if there else None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def end(descriptor: int) -> bool:
    """End the process of a descriptor; False where it survives that."""
    for number, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, number)
        if select.select([descriptor], [], [], seconds)[0]:
            return True
    return False
