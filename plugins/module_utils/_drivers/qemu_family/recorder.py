# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Keeps what a guest writes to its console, and never more than twice LIMIT bytes of it.

A program of its own, one beside each QEMU: whoever is root in a guest could fill the disk of the host else. It reads a
pipe, and ends with the last process that writes to it. The log that is full goes on under another name, in the place of
the one before it, so that the last LIMIT bytes are always there. QEMU's own log, which QEMU writes itself, is cut too.

Where QEMU writes the console log itself, as under a libvirt with stdio_handler = "file", the program looks at that log
often, and ends with QEMU.

Runs with Python alone, and imports as little as it can: there are as many of it as there are instances.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time

LIMIT = 2 << 20
# Seconds: a guest writes byte by byte, and what comes in such a time is written at once; and from look to look at the
# log that QEMU writes itself.
_BATCH, _LOOK = 0.02, 30.0
# From look to look at a console log that QEMU writes itself.
_OFTEN = 1.0

# What the program does, as its first argument.
RECORD, CUT = "record", "cut"


class Log:
    """A file that is begun anew when it would have more than LIMIT bytes. EARLIER -- the name of the part before it"""

    def __init__(self, path: str, earlier: str, limit: int) -> None:
        self.path = path
        self.earlier = earlier
        self.limit = limit
        self.descriptor = self._open()
        self.size = os.fstat(self.descriptor).st_size

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self.path, flags, 0o600)

    def write(self, data: bytes) -> None:
        """Add DATA. Where there is no room on the disk, or no new file can be had, it is lost."""
        try:
            if self.size and self.size + len(data) > self.limit:
                self._begin_anew()
            self.size += os.write(self.descriptor, data)
        except OSError:
            return

    def _begin_anew(self) -> None:
        # Somebody can have removed it, and after an error it is the earlier part already.
        if os.path.lexists(self.path):
            os.replace(self.path, self.earlier)
        full, self.descriptor, self.size = self.descriptor, self._open(), 0
        os.close(full)


def cut(path: str, limit: int) -> None:
    """Empty a log, which others append to, if it has more than LIMIT bytes."""
    try:
        if os.stat(path, follow_symlinks=False).st_size > limit:
            os.truncate(path, 0)
    except OSError:
        return


def record(reader: int, log: Log, other: str) -> None:
    """Write to LOG what comes in by the pipe READER until its end, and keep OTHER, the path of a log, from growing."""
    poll = select.poll()
    poll.register(reader, select.POLLIN | select.POLLHUP)
    looked = time.monotonic()
    while True:
        if poll.poll(_LOOK * 1000):
            data = os.read(reader, 1 << 16)
            if not data:
                return
            log.write(data)
            time.sleep(_BATCH)
        if time.monotonic() - looked >= _LOOK:
            cut(other, log.limit)
            looked = time.monotonic()


def begin_anew(path: str, earlier: str, limit: int) -> None:
    """Empty a log, which others append to, if it has more than LIMIT bytes; the last of these become EARLIER."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        size = os.fstat(descriptor).st_size
        if size <= limit:
            return
        # Where there is no room, it is all the more to be cut.
        with contextlib.suppress(OSError):
            keep(earlier, os.pread(descriptor, limit, size - limit))
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def keep(path: str, content: bytes) -> None:
    """Write a file anew, whole or not at all."""
    new = f"{path}.tmp"
    if os.path.lexists(new):
        os.unlink(new)  # of one that was killed
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        os.replace(new, path)
    except OSError:
        os.unlink(new)
        raise
    finally:
        os.close(descriptor)


def bound(writer: int, path: str, earlier: str, limit: int) -> None:
    """Keep the log PATH from growing until the process ends that writes it. WRITER -- a descriptor of it (pidfd)"""
    poll = select.poll()
    poll.register(writer, select.POLLIN)
    while not poll.poll(_OFTEN * 1000):
        begin_anew(path, earlier, limit)
    begin_anew(path, earlier, limit)


def main() -> None:
    """Arguments: RECORD, the pipe, open, the log, its earlier part, the other log; or CUT, the process, log and part.

    Paths are relative to the directory.
    """
    descriptor, path, earlier = int(sys.argv[2]), sys.argv[3], sys.argv[4]
    if sys.argv[1] == RECORD:
        record(descriptor, Log(path, earlier, LIMIT), sys.argv[5])
    else:
        bound(descriptor, path, earlier, LIMIT)


if __name__ == "__main__":
    main()
