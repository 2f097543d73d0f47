# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import shlex
import socket
import threading
import time
import types
import typing as t

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._guest import ssh
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import (
    SshAccess,
    common_args,
    greeting_of,
    greets,
    login_command,
    ssh_argv,
)

ACCESS = SshAccess("127.0.0.1", 2201, "debian", "/d/keys/id", "/d/known_hosts", "minicloud-qemu-web")


@pytest.fixture
def server() -> t.Iterator[t.Callable[..., int]]:
    """Start servers that say something on accepting, and maybe close then; gives their port."""
    opened: list[socket.socket] = []

    def start(says: bytes, close: bool = False) -> int:
        listener = socket.socket()
        opened.append(listener)
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            opened.append(connection)
            connection.sendall(says)
            if close:
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        return int(listener.getsockname()[1])

    yield start
    for one in opened:
        one.close()


def test_banner_of_a_server(server) -> None:
    assert greets(greeting_of("127.0.0.1", server(b"SSH-2.0-OpenSSH_9.2p1\r\n"), 5))
    assert greets(greeting_of("127.0.0.1", server(b"hello\r\nSSH-2.0-dropbear\r\n"), 5))


def test_accepting_is_not_enough(server) -> None:
    assert greeting_of("127.0.0.1", server(b""), 0.2) == ""
    assert greeting_of("127.0.0.1", server(b"", close=True), 5) == ""
    assert greeting_of("127.0.0.1", server(b"HTTP/1.0 400\r\n" * 1000), 1).startswith("HTTP/1.0 400")
    assert greeting_of("127.0.0.1", server(b"Exceeded MaxStartups\r\n", close=True), 5) == "Exceeded MaxStartups"
    assert not greets("Exceeded MaxStartups")


def test_a_connection_that_stays_dead_does_not_hold_up_the_next() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        dead: list[socket.socket] = []

        def serve() -> None:
            dead.append(listener.accept()[0])
            second = listener.accept()[0]
            second.sendall(b"SSH-2.0-late\r\n")
            dead.append(second)

        thread = threading.Thread(target=serve)
        thread.start()
        assert greets(greeting_of("127.0.0.1", listener.getsockname()[1], 60))
        thread.join()
        for connection in dead:
            connection.close()


def test_a_guest_that_is_reached_directly_gets_one_connection_at_a_time() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.2", 0))
        listener.listen()
        listener.settimeout(0.5)
        accepted: list[socket.socket] = []

        def serve() -> None:
            accepted.append(listener.accept()[0])
            with contextlib.suppress(socket.timeout):
                accepted.append(listener.accept()[0])
            accepted[0].sendall(b"SSH-2.0-late\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        assert greets(greeting_of("127.0.0.2", listener.getsockname()[1], 60, 0.05))
        thread.join()
        assert len(accepted) == 1
        accepted[0].close()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
def test_who_has_begun_to_speak_is_heard_out(address: str) -> None:
    with socket.socket() as listener:
        listener.bind((address, 0))
        listener.listen()
        listener.settimeout(0.5)
        accepted: list[socket.socket] = []

        def serve() -> None:
            accepted.append(listener.accept()[0])
            for piece in (b"Exceeded", b" Max", b"Startups\r\n"):
                accepted[0].sendall(piece)
                time.sleep(0.05)
            accepted[0].close()
            with contextlib.suppress(socket.timeout):
                accepted.append(listener.accept()[0])

        thread = threading.Thread(target=serve)
        thread.start()
        assert greeting_of(address, listener.getsockname()[1], 60, 20.0) == "Exceeded MaxStartups"
        thread.join()
        assert len(accepted) == 1


def test_a_guest_that_is_not_there_yet_is_asked_again_soon(server, monkeypatch: pytest.MonkeyPatch) -> None:
    port = server(b"SSH-2.0-OpenSSH_9.2p1\r\n")
    patience: list[float] = []

    def connect(address: tuple[str, int], seconds: float) -> socket.socket:
        patience.append(seconds)
        if len(patience) < 4:
            raise socket.timeout
        return socket.create_connection(("127.0.0.1", port), seconds)

    stand_in = types.SimpleNamespace(create_connection=connect, timeout=socket.timeout, socket=socket.socket)
    monkeypatch.setattr(ssh, "socket", stand_in)
    assert greets(greeting_of("10.1.2.3", 22, 60, 0.5))
    assert patience[0] == 0.5
    assert patience == sorted(set(patience))


def test_nobody_there() -> None:
    with socket.socket() as silent:
        # Nobody listens, and nobody else can get the port meanwhile.
        silent.bind(("127.0.0.1", 0))
        assert greeting_of("127.0.0.1", silent.getsockname()[1], 1) == ""
    assert greeting_of("no-such-host.invalid", 22, 1) == ""


def test_argv_is_strict_and_free_of_the_users_setup() -> None:
    argv = ssh_argv(ACCESS, "true", 4.4)
    options = [argv[i + 1] for i, word in enumerate(argv) if word == "-o"]
    assert argv[:3] == ["ssh", "-F", "/dev/null"]
    assert argv[-4:] == ["-l", "debian", "127.0.0.1", "true"]
    for expected in (
        "StrictHostKeyChecking=yes",
        "HostKeyAlias=minicloud-qemu-web",
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "ControlMaster=no",
        "ConnectTimeout=4",
        "ServerAliveInterval=5",
    ):
        assert expected in options


def test_connect_timeout_is_never_zero() -> None:
    assert "ConnectTimeout=1" in ssh_argv(ACCESS, "true", 0.0)  # 0 would mean: wait for ever


def test_paths_are_quoted_for_ssh() -> None:
    odd = ACCESS._replace(key_file="/a b/50%/id", known_hosts='/q"q')
    assert 'IdentityFile="/a b/50%%/id"' in ssh_argv(odd, "true", 1)
    assert 'UserKnownHostsFile="/q\\"q"' in ssh_argv(odd, "true", 1)


def test_lines_for_people_and_ansible() -> None:
    words = shlex.split(login_command(ACCESS))
    assert words[:3] == ["ssh", "-p", "2201"]
    assert words[-1] == "debian@127.0.0.1"
    assert "StrictHostKeyChecking=yes" in shlex.split(common_args(ACCESS))
    assert "HostKeyAlias=minicloud-qemu-web" in shlex.split(common_args(ACCESS))
    assert shlex.split(login_command(ACCESS._replace(user="")))[-1] == "127.0.0.1"
