# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""A client of QMP, the machine protocol of QEMU's monitor."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError


@contextlib.contextmanager
def short_path(path: str) -> t.Iterator[str]:
    """A way to PATH that fits into a socket address, which holds some 100 characters, however long PATH is."""
    if len(os.fsencode(path)) < 100:
        yield path
        return
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    finally:
        os.close(directory)


class Qmp:
    """A connection to the monitor socket of one QEMU. Opening one that nothing answers raises OSError."""

    def __init__(self, path: str, timeout: float = 20.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            with short_path(path) as address:
                self._socket.connect(address)
            self._stream = self._socket.makefile("rwb")
            self._read()  # the greeting
            self.execute("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Qmp:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; QEMU runs on."""
        with contextlib.suppress(OSError):
            self._stream.close()
        self._socket.close()

    def _read(self) -> dict[str, t.Any]:
        line = self._stream.readline()
        if not line:
            raise ConnectionResetError("QEMU closed its monitor")
        return t.cast("dict[str, t.Any]", json.loads(line))

    def execute(self, command: str, **arguments: t.Any) -> t.Any:
        """The command's answer. HypervisorError with QEMU's own words if it refuses."""
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self._stream.write(json.dumps(request).encode() + b"\n")
        self._stream.flush()
        while True:
            answer = self._read()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise HypervisorError(f"QEMU refused {command}", str(answer["error"].get("desc", answer["error"])))

    def monitor(self, command: str) -> str:
        """What QEMU's human monitor answers to a command: the only way to some of what it can do."""
        return str(self.execute("human-monitor-command", **{"command-line": command})).strip()

    def wait_closed(self, seconds: float) -> bool:
        """Wait until QEMU has closed the connection, as it does when it ends; False if it did not in time."""
        end = time.monotonic() + seconds
        while True:
            readable, dummy, dummy = select.select([self._socket], [], [], max(0.0, end - time.monotonic()))
            if not readable:
                return False
            try:
                if not self._socket.recv(65536):
                    return True
            except OSError:
                return True
