# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What many machines do, asked of their monitors (QMP) all at once. To talk with one of them there is qmp.py."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import time
import typing as t


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


# Why a machine is paused, by what QEMU says of it; whatever else it says, the machine runs or comes and goes.
PAUSES: dict[str, str] = {
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
