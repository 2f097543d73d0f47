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
import selectors
import socket
import time
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._json import JsonError, parse_json, understood

# Of what QEMU says at once: bytes, levels; and messages before an answer.
_LONGEST, _DEEPEST, _MOST_EVENTS = 16 << 20, 64, 10_000


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
            # With what reads from it: until then QEMU talks with nobody else.
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
            answer = parse_json(line, "what QEMU says on its monitor", _LONGEST, _DEEPEST)
        except JsonError as exc:
            raise ConnectionAbortedError(str(exc)) from exc
        if not isinstance(answer, dict):
            raise ConnectionAbortedError("QEMU does not speak as a monitor does")
        return answer

    def hand_over(self, name: str, handle: int) -> None:
        """Give QEMU an open file, which it knows by a name then."""
        request = json.dumps({"execute": "getfd", "arguments": {"fdname": name}}).encode() + b"\n"
        self._stream.flush()
        socket.send_fds(self._socket, [request], [handle])
        self._answer("getfd")

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
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                error = answer["error"]
                why = error.get("desc", error) if isinstance(error, dict) else error
                raise HypervisorError(f"QEMU refused {command}", str(why))
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


# Why a machine is paused, by what QEMU says of it; whatever else it says, the machine runs or comes and goes.
PAUSED: dict[str, str] = {
    "paused": "",
    "io-error": "QEMU could not write its disk, most likely because the host's is full",
    "internal-error": "QEMU met an error that the machine cannot go on after; a restart helps",
    "suspended": "its guest has put itself to sleep",
    "watchdog": "its watchdog has stopped it",
    "guest-panicked": "its guest's kernel has panicked; a restart helps",
    "debug": "a debugger has stopped it",
    "postmigrate": "its memory was copied elsewhere",
    "inmigrate": "its memory is being loaded",
}

# Looks at once, so that there are descriptors enough; seconds for each such group.
_LOOKS, _PATIENCE = 200, 0.5
_LONGEST_ANSWER = 1 << 16
_QUESTION = b'{"execute": "qmp_capabilities"}\n{"execute": "query-status"}\n'


def statuses(paths: t.Sequence[str]) -> list[str]:
    """What the machines behind some monitor sockets do, all asked at once; empty where one has no time to answer.

    A monitor talks with one at a time, so one that another run uses tells nothing.
    """
    found: dict[str, str] = {}
    for start in range(0, len(paths), _LOOKS):
        found.update(_ask(paths[start : start + _LOOKS]))
    return [found.get(path, "") for path in paths]


def _ask(paths: t.Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    end = time.monotonic() + _PATIENCE
    with selectors.DefaultSelector() as waiting:
        try:
            for path in paths:
                talk = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                talk.setblocking(False)
                waiting.register(talk, selectors.EVENT_READ, (path, bytearray()))
                try:
                    with short_path(path) as address:
                        talk.connect(address)
                    # It waits in the socket until QEMU reads it.
                    talk.send(_QUESTION)
                except OSError:
                    _hang_up(waiting, talk)
            while waiting.get_map() and time.monotonic() < end:
                for key, dummy in waiting.select(max(0.0, end - time.monotonic())):
                    path, said = key.data
                    status = _listen(t.cast(socket.socket, key.fileobj), said)
                    if status is not None:
                        found[path] = status
                        _hang_up(waiting, t.cast(socket.socket, key.fileobj))
        finally:
            for key in list(waiting.get_map().values()):
                _hang_up(waiting, t.cast(socket.socket, key.fileobj))
    return found


def _hang_up(waiting: selectors.BaseSelector, talk: socket.socket) -> None:
    waiting.unregister(talk)
    talk.close()


def _listen(talk: socket.socket, said: bytearray) -> str | None:
    """The status once QEMU has told it, empty where it never will; None: wait for more."""
    try:
        part = talk.recv(65536)
    except OSError:
        return ""
    said += part
    for line in said.splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return str(json.loads(line)["return"]["status"])
    return None if part and len(said) < _LONGEST_ANSWER else ""
