# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""A client of QMP, the machine protocol of QEMU's monitor."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.status import short_path
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._json import JsonError, parse_json, understood

# Of what QEMU says at once: bytes, levels; and messages before an answer.
_LONGEST, _DEEPEST, _MOST_EVENTS = 16 << 20, 64, 10_000


def parsed(said: bytes) -> dict[str, t.Any]:
    """What QEMU says at once on its monitor. JsonError, ValueError where it does not speak as a monitor does."""
    answer = parse_json(said, "what QEMU says on its monitor", _LONGEST, _DEEPEST)
    if not isinstance(answer, dict):
        raise ValueError("QEMU does not speak as a monitor does")
    return answer


def returned(answer: t.Mapping[str, t.Any], command: str) -> t.Any:
    """What a command has returned. HypervisorError, with QEMU's own words, where it was refused."""
    if "return" in answer:
        return answer["return"]
    error = answer.get("error")
    why = error.get("desc", error) if isinstance(error, dict) else error
    raise HypervisorError(f"QEMU refused {command}", str(why))


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
            # Also close the reading side: QEMU serves no other client until then.
            self.close()
            raise

    def __enter__(self) -> Qmp:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; QEMU runs on."""
        with contextlib.suppress(OSError, AttributeError):
            self._stream.close()
        self._socket.close()

    def _read(self) -> dict[str, t.Any]:
        line = self._stream.readline(_LONGEST + 1)
        if not line:
            raise ConnectionResetError("QEMU closed its monitor")
        try:
            return parsed(line)
        except (JsonError, ValueError) as exc:
            raise ConnectionAbortedError(str(exc)) from exc

    def hand_over(self, name: str, descriptor: int) -> None:
        """Give QEMU an open file, which it knows by a name then."""
        self._hand_over("getfd", {"fdname": name}, descriptor)

    def add_to_set(self, name: str, descriptor: int) -> str:
        """Give QEMU an open file for a block device, which opens it by the path that is returned. name -- of its set"""
        found = self._hand_over("add-fd", {"opaque": name}, descriptor)
        return f"/dev/fdset/{int(found['fdset-id'])}"

    def _hand_over(self, command: str, arguments: t.Mapping[str, t.Any], descriptor: int) -> t.Any:
        request = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        self._stream.flush()
        socket.send_fds(self._socket, [request], [descriptor])
        return self._answer(command)

    def execute(self, command: str, **arguments: t.Any) -> t.Any:
        """The command's answer. HypervisorError with QEMU's own words if it refuses."""
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self._stream.write(json.dumps(request).encode() + b"\n")
        self._stream.flush()
        return self._answer(command)

    def _answer(self, command: str) -> t.Any:
        # Before the answer come events, which a guest can cause: but not so many.
        for dummy in range(_MOST_EVENTS):
            answer = self._read()
            if "return" in answer or "error" in answer:
                return returned(answer, command)
        raise ConnectionAbortedError(f"QEMU does not answer {command}")

    def status(self) -> str:
        """What the machine does, in QEMU's words: running, paused, io-error …"""
        with understood("what QEMU says of its machine", HypervisorError):
            return str(self.execute("query-status")["status"])

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
