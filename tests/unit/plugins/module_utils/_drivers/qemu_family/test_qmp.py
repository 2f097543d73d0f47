# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import socket
import threading
import typing as t

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import qmp as qmp_module
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.qmp import Qmp
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.status import short_path
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError

GREETING: dict[str, t.Any] = {"QMP": {"version": {}, "capabilities": []}}
READY: dict[str, t.Any] = {"return": {}}


class Monitor:
    """A monitor that says what a script tells it to: a list of what it sends at first, then after each request.

    Each entry is a list of answers, sent as lines; CLOSE ends the connection, SILENT says nothing more.
    """

    CLOSE, SILENT = object(), object()

    def __init__(self, path, *script, greeting=(GREETING,), negotiation=(READY,)):
        self.path = path
        self.requests = []
        self._script = [greeting, negotiation, *script]
        self._listener = socket.socket(socket.AF_UNIX)
        with short_path(path) as address:
            self._listener.bind(address)
        self._listener.listen(1)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        connection, dummy = self._listener.accept()
        with connection, connection.makefile("rwb") as stream:
            for number, answers in enumerate(self._script):
                if number:
                    line = stream.readline()
                    if not line:
                        return
                    self.requests.append(json.loads(line))
                for answer in answers:
                    if answer is self.CLOSE:
                        return
                    if answer is self.SILENT:
                        self._done.wait(30)
                        return
                    stream.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode() + b"\n")
                    stream.flush()
            self._done.wait(30)

    def end(self):
        self._done.set()
        self._thread.join(30)
        self._listener.close()
        assert not self._thread.is_alive()


@pytest.fixture
def monitor(tmp_path):
    started = []

    def start(*script, path=None, **beginning):
        started.append(Monitor(path or str(tmp_path / "monitor.sock"), *script, **beginning))
        return started[-1]

    yield start
    for each in started:
        each.end()


def test_it_negotiates_before_anything_else(monitor):
    server = monitor()
    with Qmp(server.path):
        assert server.requests == [{"execute": "qmp_capabilities"}]


def test_a_command_and_its_answer(monitor):
    server = monitor([{"return": {"status": "running"}}], [{"return": {}}])
    with Qmp(server.path) as qmp:
        assert qmp.execute("query-status") == {"status": "running"}
        assert qmp.execute("device_add", driver="virtio", id="a") == {}
    assert server.requests[1:] == [
        {"execute": "query-status"},
        {"execute": "device_add", "arguments": {"driver": "virtio", "id": "a"}},
    ]


def test_events_in_between_are_not_taken_for_answers(monitor):
    event = {"event": "STOP", "timestamp": {"seconds": 1}, "data": {}}
    server = monitor([event, {"return": 1}, event], [event, event, {"return": 2}])
    with Qmp(server.path) as qmp:
        assert qmp.execute("a") == 1
        assert qmp.execute("b") == 2


def test_an_event_may_come_before_the_negotiation_is_over(monitor):
    server = monitor([{"return": 1}], negotiation=[{"event": "RESUME"}, READY])
    with Qmp(server.path) as qmp:
        assert qmp.execute("x") == 1


def test_a_refusal_is_told_in_qemus_words_and_the_connection_goes_on(monitor):
    server = monitor(
        [{"error": {"class": "CommandNotFound", "desc": "The command x has not been found"}}],
        [{"error": {"class": "Strange"}}],
        [{"return": "fine"}],
    )
    with Qmp(server.path) as qmp:
        with pytest.raises(HypervisorError) as caught:
            qmp.execute("x")
        assert str(caught.value) == "QEMU refused x: The command x has not been found."
        with pytest.raises(HypervisorError, match="Strange"):
            qmp.execute("y")
        assert qmp.execute("z") == "fine"


def test_the_human_monitor(monitor):
    server = monitor([{"return": "Could not set up host forwarding rule\r\n"}], [{"return": ""}])
    with Qmp(server.path) as qmp:
        assert qmp.monitor("hostfwd_add net0 x") == "Could not set up host forwarding rule"
        assert qmp.monitor("hostfwd_remove net0 x") == ""
    assert server.requests[1]["arguments"] == {"command-line": "hostfwd_add net0 x"}


@pytest.mark.parametrize("length", [60, 150, 230])
def test_a_path_of_any_length(tmp_path, monitor, length):
    directory = tmp_path / ("d" * length)
    directory.mkdir()
    server = monitor([{"return": 1}], path=str(directory / "monitor.sock"))
    with Qmp(server.path) as qmp:
        assert qmp.execute("x") == 1


def test_a_short_path_is_used_as_it_is_and_a_long_one_is_made_short(tmp_path):
    with short_path("/run/monitor.sock") as path:
        assert path == "/run/monitor.sock"
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    (directory / "file").write_text("here")
    with short_path(str(directory / "file")) as path:
        assert len(path) < 100
        with open(path, encoding="ascii") as stream:
            assert stream.read() == "here"
    assert not os.path.exists(path)  # the handle that it led through is closed


def test_nobody_is_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        Qmp(str(tmp_path / "monitor.sock"))


def test_a_socket_that_is_left_over(tmp_path):
    path = str(tmp_path / "monitor.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        Qmp(path)


def test_qemu_goes_away_before_it_greets(monitor):
    server = monitor(greeting=[Monitor.CLOSE])
    with pytest.raises(ConnectionError):
        Qmp(server.path)


def test_qemu_goes_away_instead_of_answering(monitor):
    server = monitor([Monitor.CLOSE])
    with Qmp(server.path) as qmp, pytest.raises(ConnectionError):
        qmp.execute("quit")


def test_qemu_does_not_answer(monitor):
    server = monitor([Monitor.SILENT])
    with Qmp(server.path, timeout=0.05) as qmp, pytest.raises(socket.timeout):
        qmp.execute("query-status")


def test_what_answers_is_no_qemu(monitor):
    server = monitor(greeting=[b"SSH-2.0-OpenSSH\n"])
    with pytest.raises(ConnectionError):
        Qmp(server.path)


def test_a_monitor_that_says_too_much(monitor, monkeypatch):
    monkeypatch.setattr(qmp_module, "_MOST_EVENTS", 50)
    monkeypatch.setattr(qmp_module, "_LONGEST", 4096)
    event = {"event": "STOP", "timestamp": {}}
    made = monitor([event] * 100)
    with Qmp(made.path) as qmp, pytest.raises(ConnectionError, match="does not answer"):
        qmp.execute("query-status")


@pytest.mark.parametrize("answer", [{"return": "x" * 5000}, [], 7, {"error": 5}, {"return": [[[[[]]]]] * 30}])
def test_an_answer_that_is_none(monitor, monkeypatch, answer):
    monkeypatch.setattr(qmp_module, "_LONGEST", 4096)
    monkeypatch.setattr(qmp_module, "_DEEPEST", 4)
    made = monitor([answer])
    with Qmp(made.path) as qmp, pytest.raises((ConnectionError, HypervisorError)):
        qmp.execute("query-status")


@pytest.mark.parametrize("answer", [{"return": "running"}, {"return": {}}, {"return": None}, {"return": [1]}])
def test_a_status_that_is_none(monitor, answer):
    made = monitor([answer])
    with Qmp(made.path) as qmp, pytest.raises(HypervisorError, match="what QEMU says of its machine"):
        qmp.status()


def test_who_does_not_greet_as_qemu_does_is_left_at_once(monitor):
    made = monitor(greeting=([],))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConnectionError) as caught:
        Qmp(made.path)
    assert len(os.listdir("/proc/self/fd")) <= before + 1, caught  # the monitor's own end may still be open


def test_a_connection_that_fails_leaves_no_handle(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for dummy in range(5):
        with pytest.raises(FileNotFoundError):
            Qmp(str(tmp_path / "d" / "monitor.sock"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_waiting_for_the_end(monitor):
    server = monitor([READY, {"event": "POWERDOWN"}, {"event": "SHUTDOWN"}, Monitor.CLOSE])
    with Qmp(server.path) as qmp:
        qmp.execute("system_powerdown")
        assert qmp.wait_closed(30) is True
        assert qmp.wait_closed(30) is True


def test_waiting_for_an_end_that_does_not_come(monitor):
    server = monitor([READY, {"event": "POWERDOWN"}], [READY])
    with Qmp(server.path) as qmp:
        qmp.execute("system_powerdown")
        assert qmp.wait_closed(0.05) is False
        assert qmp.wait_closed(0) is False
        # The button can be pressed again.
        assert qmp.execute("system_powerdown") == {}


def test_closing_twice_does_no_harm(monitor):
    qmp = Qmp(monitor().path)
    qmp.close()
    qmp.close()
