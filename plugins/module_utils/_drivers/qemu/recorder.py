# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Keeps what a guest writes to its console, and never more than twice LIMIT bytes of it.

A program of its own, one beside each QEMU: whoever is root in a guest could fill the disk of the host else. It reads a
pipe, and ends with the last process that writes to it. The log that is full goes on under another name, in the place of
the one before it, so that the last LIMIT bytes are always there. QEMU's own log, which QEMU writes itself, is cut too.

Runs with Python alone, and imports as little as it can: there are as many of it as there are instances.
"""

from __future__ import annotations

import os
import select
import sys
import time

LIMIT = 2 << 20
# Seconds: a guest writes byte by byte, and what comes in such a time is written at once; and from look to look at the
# log that QEMU writes itself.
_BATCH, _LOOK = 0.02, 30.0


class Log:
    """A file that is begun anew when it would have more than LIMIT bytes. EARLIER -- the name of the part before it"""

    def __init__(self, path: str, earlier: str, limit: int) -> None:
        self.path = path
        self.earlier = earlier
        self.limit = limit
        self.handle = self._open()
        self.size = os.fstat(self.handle).st_size

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self.path, flags, 0o600)

    def write(self, data: bytes) -> None:
        """Add DATA. Where there is no room on the disk, or no new file can be had, it is lost."""
        try:
            if self.size and self.size + len(data) > self.limit:
                self._begin_anew()
            self.size += os.write(self.handle, data)
        except OSError:
            return

    def _begin_anew(self) -> None:
        # Somebody can have removed it, and after an error it is the earlier part already.
        if os.path.lexists(self.path):
            os.replace(self.path, self.earlier)
        full, self.handle, self.size = self.handle, self._open(), 0
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


def main() -> None:
    """Arguments: the pipe, open; the log; its earlier part; the other log. Paths are relative to the directory."""
    reader, path, earlier, other = int(sys.argv[1]), *sys.argv[2:5]
    record(reader, Log(path, earlier, LIMIT), other)


if __name__ == "__main__":
    main()
