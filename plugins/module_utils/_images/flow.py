# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""One pass over an image's bytes for several consumers, each in a thread of its own."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._writing import made_anew

# What is read at once, and how many of these may wait for a consumer: together the memory that a flow takes.
CHUNK = 256 * 1024
WAITING = 8


class Outlet(t.Protocol):
    """Consumes the bytes of an image."""

    def feed(self, data: bytes) -> None:
        """The next bytes, in order."""

    def finish(self) -> None:
        """That was all."""

    def abandon(self) -> None:
        """There will be no more; what was made is of no use."""


class Digest:
    """The checksum of all bytes."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self._hash = hashlib.new(algorithm)

    @property
    def hex(self) -> str:
        """The checksum so far."""
        return self._hash.hexdigest()

    def feed(self, data: bytes) -> None:
        """The next bytes, in order."""
        self._hash.update(data)

    def finish(self) -> None:
        """That was all."""

    def abandon(self) -> None:
        """There will be no more."""


class Copy:
    """A copy of all bytes in a file."""

    def __init__(self, path: str) -> None:
        self._path = path
        with explained(f"{path} could not be written"):
            self._stream = open(made_anew(path), "wb", buffering=0)  # noqa: SIM115

    def feed(self, data: bytes) -> None:
        """The next bytes, in order."""
        with explained(f"{self._path} could not be written"):
            write_all(self._stream, data)

    def finish(self) -> None:
        """That was all."""
        self._stream.close()

    def abandon(self) -> None:
        """There will be no more."""
        self._stream.close()


def write_all(stream: t.IO[bytes], data: bytes) -> None:
    """Write all of DATA to an unbuffered stream: one write may take less when the disk is nearly full."""
    done = stream.write(data)
    while done < len(data):
        done += stream.write(data[done:])


class _Worker(threading.Thread):
    def __init__(self, outlet: Outlet) -> None:
        super().__init__(daemon=True)
        self.outlet = outlet
        self.error: BaseException | None = None
        self.waiting: queue.Queue[bytes | None] = queue.Queue(WAITING)
        self.start()

    def run(self) -> None:
        while True:
            data = self.waiting.get()
            if data is None:
                return
            # After an error the queue is still emptied, so that whoever fills it never hangs.
            if self.error is None:
                try:
                    self.outlet.feed(data)
                except BaseException as exc:
                    self.error = exc

    def stop(self) -> None:
        self.waiting.put(None)
        self.join()


class Flow:
    """Hands bytes to outlets. Bytes put into it must not change afterwards.

    size -- of the bytes so far; failed -- whether an outlet could not make sense of them
    """

    def __init__(self, make_outlets: t.Callable[[], t.Sequence[Outlet]]) -> None:
        """make_outlets -- new outlets, for the start and for each time that the bytes begin anew"""
        self._make = make_outlets
        self.size = 0
        self.failed = False
        self.outlets: t.Sequence[Outlet] = ()
        self._workers: list[_Worker] = []

    def put(self, data: bytes) -> None:
        """The next bytes. Raises what went wrong in an outlet."""
        if not self._workers:
            self.outlets = self._make()
            self._workers = [_Worker(outlet) for outlet in self.outlets]
        self.size += len(data)
        for worker in self._workers:
            if worker.error is not None:
                self.failed = True
                raise worker.error
            worker.waiting.put(data)

    def put_file(self, path: str, on_chunk: t.Callable[[int], None] | None = None) -> None:
        """The bytes of a whole file; on_chunk gets the size so far."""
        with explained(f"{path} could not be read"), open(path, "rb", buffering=0) as stream:
            while True:
                data = stream.read(CHUNK)
                if not data:
                    return
                self.put(data)
                if on_chunk:
                    on_chunk(self.size)

    def finish(self) -> None:
        """All bytes are there: wait until every outlet is done. Raises what went wrong in one."""
        if not self._workers:
            self.put(b"")
        for worker in self._workers:
            worker.stop()
        self.failed = True
        for worker in self._workers:
            if worker.error is not None:
                raise worker.error
            worker.outlet.finish()
        self.failed = False
        self._workers = []

    def restart(self) -> None:
        """Forget all bytes: they begin anew."""
        self.abandon()
        self.size = 0

    def abandon(self) -> None:
        """Stop for good."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.stop()
            with contextlib.suppress(Exception):
                worker.outlet.abandon()
