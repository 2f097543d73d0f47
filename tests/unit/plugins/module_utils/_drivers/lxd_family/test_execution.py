# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
import types

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import execution
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.execution import (
    LxdExecution,
    WebSocket,
    masked,
    parse_frame,
    pump,
)
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance

UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


def frame(kind, data):
    return (
        bytes([0x80 | kind, len(data)]) + data
        if len(data) < 126
        else b"".join([bytes([0x80 | kind, 126]), len(data).to_bytes(2, "big"), data])
    )


class Server:
    """The other end of one stream."""

    def __init__(self, answer=UPGRADED):
        self.end, mine = socket.socketpair()
        mine.sendall(answer)
        self.mine = mine
        place = types.SimpleNamespace(endpoint="/run/it")
        self.api = types.SimpleNamespace(connect=lambda: self.end, product="LXD", place=place)

    def stream(self):
        return WebSocket(self.api, "operations/1/websocket", "secret")


def test_what_a_stream_says_comes_out_whole_however_it_was_cut():
    server = Server(UPGRADED + frame(2, b"first ")[:3])
    stream = server.stream()
    assert b"GET /1.0/operations/1/websocket?secret=secret HTTP/1.1\r\n" in server.mine.recv(4096)
    server.mine.sendall(frame(2, b"first ")[3:] + frame(2, b"x" * 300))
    assert pump([stream], 1)
    assert stream.take() == b"first " + b"x" * 300
    assert not stream.over
    server.mine.sendall(frame(1, b""))
    pump([stream], 1)
    assert stream.over


def test_what_came_with_the_answer_counts():
    stream = Server(UPGRADED + frame(2, b"quick") + frame(1, b"") + frame(8, b"")).stream()
    assert stream.over
    assert stream.take() == b"quick"


def test_what_was_said_before_the_other_end_closed_is_not_lost():
    server = Server(UPGRADED + frame(9, b"there?"))
    stream = server.stream()
    server.mine.sendall(frame(2, b"last words"))
    server.mine.close()
    # There is an answer to be sent, and nobody to take it.
    assert stream.unsent
    while not stream.over:
        pump([stream], 1)
    assert stream.take() == b"last words"
    stream.put(2, b"more")
    assert stream.unsent == 0


def test_input_is_sent_in_frames_that_are_masked():
    server = Server()
    stream = server.stream()
    server.mine.recv(4096)
    data = bytes(range(256)) * 300
    stream.put(2, data)
    stream.put(1, b"")
    got = b""
    server.mine.settimeout(5)
    while stream.unsent:
        pump([stream], 1)
        got += server.mine.recv(1 << 20)
    told, kinds = b"", []
    while got:
        length, start = got[1] & 0x7F, 2
        if length == 126:
            length, start = int.from_bytes(got[2:4], "big"), 4
        elif length == 127:
            length, start = int.from_bytes(got[2:10], "big"), 10
        kinds.append(got[0] & 15)
        told += masked(got[start + 4 : start + 4 + length], got[start : start + 4])
        got = got[start + 4 + length :]
    assert told == data
    assert kinds == [2, 2, 1]


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 500 No\r\n\r\n", b"x" * (1 << 17), b"\r\n\r\n", b"HTTP/1.1 101 x\r\n\r\n\xf2\xff"]
)
def test_a_server_that_speaks_otherwise_is_an_error(answer):
    server = Server(answer)
    server.mine.shutdown(socket.SHUT_WR)
    with pytest.raises(HypervisorError):
        server.stream()


@pytest.mark.parametrize("data", [b"\x82\xff", b"\xf2\x01a", b"\x82\x7f" + (1 << 40).to_bytes(8, "big")])
def test_a_frame_that_no_server_sends_is_an_error(data):
    with pytest.raises(HypervisorError):
        parse_frame(data)


@pytest.mark.parametrize("data", [b"", b"\x82", b"\x82\x7e\x01", b"\x82\x05four"])
def test_a_frame_that_is_not_all_there_is_waited_for(data):
    assert parse_frame(data) is None


def command(monkeypatch, done, status="Running"):
    """A command whose streams have ended, of an operation that ended as told."""
    servers = [Server(UPGRADED + frame(1, b"")) for dummy in range(4)]
    order = iter(servers)
    record = {"status": status, "config": {}}
    api = types.SimpleNamespace(
        begin=lambda path, body: {"id": "1", "metadata": {"fds": dict.fromkeys(("0", "1", "2", "control"), "s")}},
        get=lambda path, **query: done,
        connect=lambda: next(order).end,
        product="LXD",
        place=types.SimpleNamespace(endpoint="/run/it"),
    )
    look = types.SimpleNamespace(api=api, product="LXD", record=lambda instance: record)
    instance = Instance("web", "1", "lxd", "lxd", "", "x86_64", 1, 1, 1, instance_type="container")
    return LxdExecution(look).start(instance, ["true"])


def test_the_status_of_a_command_is_told(monkeypatch):
    found = command(monkeypatch, {"metadata": {"return": 3}})
    assert found.receive(1) is None
    assert found.status == 3


@pytest.mark.parametrize("done", [{"metadata": {"return": 137}}, {"metadata": {"return": -1}, "err": "gone"}])
def test_a_command_that_ended_with_its_instance_is_lost(monkeypatch, done):
    with pytest.raises(HypervisorError, match="stopped"):
        command(monkeypatch, done, "Stopped").receive(1)


def test_a_command_whose_instance_is_said_to_be_stopped_a_moment_later_is_lost(monkeypatch):
    found = command(monkeypatch, {"metadata": {"return": 137}})
    said = iter(["Running", "Running", "Stopped"])
    found.execution.look.record = lambda instance: {"status": next(said), "config": {}}
    with pytest.raises(HypervisorError, match="stopped"):
        found.receive(1)


def test_a_command_ended_by_a_signal_in_an_instance_that_runs_is_not_lost(monkeypatch):
    monkeypatch.setattr(execution, "_SETTLING", 0.2)
    found = command(monkeypatch, {"metadata": {"return": 137}})
    assert found.receive(1) is None
    assert found.status == 137


def test_a_frozen_instance_is_found_out(monkeypatch):
    monkeypatch.setattr(execution, "_SILENCE", 0.0)
    servers = [Server() for dummy in range(4)]
    order = iter(servers)
    found = command(monkeypatch, {})
    found.streams = {name: next(order).stream() for name in found.streams}
    found.execution.look.record = lambda instance: {"status": "Frozen", "config": {}}
    with pytest.raises(HypervisorError, match="frozen"):
        found.receive(0.01)
