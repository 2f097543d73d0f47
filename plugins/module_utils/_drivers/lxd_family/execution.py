# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Commands in containers by LXD's own exec: one websocket for each standard stream, and one to send signals."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import time
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.api import LxdApi
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.look import LxdLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Execution, GuestCommand
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._json import understood
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline

# What a websocket's frame is: more of the one before, text, bytes, the end, a question whether anybody is there.
_MORE, _TEXT, _BYTES, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
# Bytes: of a frame that is taken, of one that is sent, of what is read at once.
_LONGEST_FRAME, _FRAME, _PART = 64 << 20, 1 << 16, 1 << 18
_MOST_AT_ONCE = 4 << 20
# Seconds: to open a stream; without a word before it is asked whether the instance still runs.
_OPENING, _SILENCE = 20.0, 10.0
# The status of a command that nobody knows the end of, and of those that ended with the instance.
_UNKNOWN = -1
_SIGNALS = (129, 137, 143)
# Seconds after which an instance that is being stopped is said to be.
_SETTLING = 2.0


class LxdExecution(Execution):
    """See Execution."""

    capabilities = {"exec": ("container",)}

    def __init__(self, look: LxdLooks) -> None:
        self.look = look

    def why_not(self, instance: Instance) -> str:
        if instance.instance_type != "container":
            return f"{self.look.product} runs commands in containers, and it is a virtual machine"
        record = self.look.record(instance)
        if record is None:
            return f"{self.look.product} does not have it"
        status = str(record.get("status"))
        return "" if status == "Running" else f"{self.look.product} says that it is {status.lower()}"

    def start(self, instance: Instance, argv: t.Sequence[str]) -> GuestCommand:
        body = {"command": list(argv), "wait-for-websocket": True, "interactive": False, "environment": {}}
        begun = self.look.api.begin(f"instances/{instance.name}/exec", body)
        with understood("what the server says of a command", HypervisorError):
            path, secrets = f"operations/{begun['id']}", dict(begun["metadata"]["fds"])
            # With the last of those that it waits for the command begins, and may end.
            names = {name: str(secrets[name]) for name in ("control", "2", "1", "0")}
        return _LxdCommand(self, instance, path, names)


class _LxdCommand(GuestCommand):
    def __init__(self, execution: LxdExecution, instance: Instance, path: str, secrets: t.Mapping[str, str]) -> None:
        self.execution = execution
        self.instance = instance
        self.path = path
        self.ended = False
        self.streams: dict[str, WebSocket] = {}
        self.quiet_since = time.monotonic()
        try:
            for name, secret in secrets.items():
                self.streams[name] = WebSocket(execution.look.api, f"{path}/websocket", secret)
        except BaseException:
            self._close()
            raise

    def send(self, data: bytes) -> None:
        self.streams["0"].put(_BYTES, data)
        self.unsent = self.streams["0"].unsent

    def end_input(self) -> None:
        # Its way of saying that a stream is at its end.
        self.streams["0"].put(_TEXT, b"")

    def receive(self, seconds: float) -> tuple[bytes, bytes] | None:
        out, err = self.streams["1"], self.streams["2"]
        if out.over and err.over:
            # What came with the very answer to the upgrade is there yet.
            rest = out.take(), err.take()
            if any(rest):
                return rest
            self._learn_status()
            return None
        if pump(list(self.streams.values()), seconds):
            self.quiet_since = time.monotonic()
        elif time.monotonic() - self.quiet_since > _SILENCE:
            self._require_running()
            self.quiet_since = time.monotonic()
        self.unsent = self.streams["0"].unsent
        return out.take(), err.take()

    def _require_running(self) -> None:
        why = self.execution.why_not(self.instance)
        if why:
            raise HypervisorError(f"the connection to {self.instance.name} was lost", why)

    def _learn_status(self) -> None:
        if self.ended:
            return
        try:
            done = self.execution.look.api.get(f"{self.path}/wait", timeout=str(int(_OPENING)))
        except HypervisorError:
            self._require_running()
            raise
        with understood("what the server says of a command", HypervisorError):
            told = (done.get("metadata") or {}).get("return")
            self.status = _UNKNOWN if told is None else int(told)
            why = str(done.get("err") or "")
        if self.status in (_UNKNOWN, *_SIGNALS):
            # Whether it has ended, or the instance with it, which the server says of itself a moment later.
            for dummy in Deadline(_SETTLING).pauses(first=0.1, longest=0.5):
                self._require_running()
        if self.status == _UNKNOWN:
            raise HypervisorError(f"nobody knows what became of a command in {self.instance.name}", why)
        self.ended = True
        self._close()

    def end(self) -> None:
        if not self.ended and self.streams:
            with contextlib.suppress(OSError, HypervisorError):
                for number in (15, 9):
                    self.streams["control"].put(_TEXT, json.dumps({"command": "signal", "signal": number}).encode())
                    until = time.monotonic() + 1
                    while time.monotonic() < until and not (self.streams["1"].over and self.streams["2"].over):
                        pump(list(self.streams.values()), 0.1)
                        self.streams["1"].take()
                        self.streams["2"].take()
        self._close()

    def _close(self) -> None:
        for stream in self.streams.values():
            stream.close()


class WebSocket:
    """One stream of a command, which blocks nobody. over -- whether nothing comes from it any more"""

    def __init__(self, api: LxdApi, path: str, secret: str) -> None:
        self.over = False
        self._deaf = False
        self._read = bytearray()
        self._said = bytearray()
        self._unsent = bytearray()
        self.socket = api.connect()
        try:
            self._upgrade(api, path, secret)
        except OSError as exc:
            self.close()
            raise HypervisorError(f"{api.product} at {api.place.endpoint} opens no stream", str(exc)) from exc
        except BaseException:
            self.close()
            raise

    def _upgrade(self, api: LxdApi, path: str, secret: str) -> None:
        self.socket.settimeout(_OPENING)
        # The key only shows that whoever answers has read it; who that is was seen when the connection was made.
        head = (
            f"GET /1.0/{path}?secret={secret} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bWluaWNsb3VkLmxvY2FsLg==\r\n\r\n"
        )
        self.socket.sendall(head.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            part = self.socket.recv(4096)
            if not part or len(answer) > 1 << 16:
                raise OSError(f"it says {answer[:200]!r}")
            answer += part
        header, dummy, rest = answer.partition(b"\r\n\r\n")
        if b" 101 " not in header.split(b"\r\n")[0]:
            raise OSError(f"it says {answer[:200]!r}")
        self._read += rest
        self.socket.setblocking(False)
        self._understand()

    @property
    def unsent(self) -> int:
        """Bytes that wait for being sent."""
        return len(self._unsent)

    def put(self, kind: int, data: bytes) -> None:
        """Have a message sent. What nobody listens to any more is dropped."""
        if self.over or self._deaf:
            return
        for start in range(0, max(1, len(data)), _FRAME):
            part = data[start : start + _FRAME]
            key = os.urandom(4)
            self._unsent += _head(kind, len(part)) + key + masked(part, key)

    def take(self) -> bytes:
        """What was said since the last time."""
        said = bytes(self._said)
        self._said.clear()
        return said

    def waits(self) -> bool:
        """Whether more was read than the socket shows."""
        return bool(getattr(self.socket, "pending", int)())

    def write(self) -> None:
        """Send what can be sent now."""
        try:
            while self._unsent:
                sent = self.socket.send(self._unsent[:_PART])
                del self._unsent[:sent]
        except OSError as exc:
            if not _would_block(exc):
                # What was said before may be there to be read.
                self._deaf = True
                self._unsent.clear()

    def read(self) -> None:
        """Take in what has come."""
        try:
            while not self.over and len(self._said) < _MOST_AT_ONCE:
                part = self.socket.recv(_PART)
                if not part:
                    self._end()
                    return
                self._read += part
                self._understand()
        except OSError as exc:
            if not _would_block(exc):
                self._end()

    def _understand(self) -> None:
        while not self.over:
            found = parse_frame(self._read)
            if found is None:
                return
            kind, start, end = found
            payload = bytes(self._read[start:end])
            del self._read[:end]
            if kind in (_BYTES, _MORE) or (kind == _TEXT and payload):
                self._said += payload
            elif kind in (_CLOSE, _TEXT):
                self._end()
            elif kind == _PING:
                self.put(_PONG, payload)

    def _end(self) -> None:
        self.over = True
        self._unsent.clear()

    def close(self) -> None:
        """End it."""
        self.over = True
        self.socket.close()


def pump(streams: t.Sequence[WebSocket], seconds: float) -> bool:
    """Send and take in what streams have, after waiting for it that long; whether there was anything."""
    open_ = [stream for stream in streams if not stream.over]
    if not open_:
        return True
    ready = [stream for stream in open_ if stream.waits()]
    sockets = {stream.socket: stream for stream in open_}
    sending = [stream.socket for stream in open_ if stream.unsent]
    readable, writable, dummy = select.select(list(sockets), sending, [], 0 if ready else seconds)
    for each in writable:
        sockets[each].write()
    for stream in {*ready, *(sockets[each] for each in readable)}:
        stream.read()
    return bool(ready or readable or writable)


def masked(data: bytes, key: bytes) -> bytes:
    """Data as a client has to send them, and back."""
    if not data:
        return b""
    whole = (key * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "little") ^ int.from_bytes(whole, "little")).to_bytes(len(data), "little")


def _head(kind: int, length: int) -> bytes:
    if length < 126:
        return bytes([0x80 | kind, 0x80 | length])
    if length < 1 << 16:
        return bytes([0x80 | kind, 0x80 | 126]) + length.to_bytes(2, "big")
    return bytes([0x80 | kind, 0x80 | 127]) + length.to_bytes(8, "big")


def parse_frame(data: bytes | bytearray) -> tuple[int, int, int] | None:
    """The kind of the first frame in what a server has sent, and where what is in it begins and ends.

    None where it is not all there yet. HypervisorError where it is none, or too long.
    """
    if len(data) < 2:
        return None
    length, start = data[1] & 0x7F, 2
    if data[1] & 0x80 or data[0] & 0x70:
        raise HypervisorError("the server speaks on a stream as none does", f"{bytes(data[:16])!r}")
    if length > 125:
        start += 2 if length == 126 else 8
        if len(data) < start:
            return None
        length = int.from_bytes(data[2:start], "big")
    if length > _LONGEST_FRAME:
        raise HypervisorError("the server speaks on a stream as none does", f"a frame of {length} bytes")
    if len(data) < start + length:
        return None
    return data[0] & 0x0F, start, start + length


def _would_block(exc: OSError) -> bool:
    # Of TLS, whose module need not be loaded.
    names = ("SSLWantReadError", "SSLWantWriteError")
    return exc.errno in (errno.EAGAIN, errno.EWOULDBLOCK) or type(exc).__name__ in names
