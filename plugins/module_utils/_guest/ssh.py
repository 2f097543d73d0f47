# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Ways into an instance by ssh: what to run, and whether anybody answers."""

from __future__ import annotations

import select
import shlex
import socket
import time
import typing as t

# The private key of a data directory, in its directory of keys.
LOGIN_KEY = "id_ed25519"

_LONGEST_GREETING, _SHOWN_GREETING = 4096, 200

# How many connections wait for a greeting at once, and the seconds from one to the next. Servers limit the number.
_CONNECTIONS = 3
NEXT_CONNECTION = 0.3
_MORE_PATIENCE = 1.3


class SshAccess(t.NamedTuple):
    """Where and how an instance is logged in to.

    user -- empty while it is not known; key_file, known_hosts -- paths; alias -- whose key in known_hosts is expected
    """

    host: str
    port: int
    user: str
    key_file: str
    known_hosts: str
    alias: str


def _quoted(path: str) -> str:
    """A path as the value of an ssh option, whatever characters it has."""
    if not set(path) & set(" \t\"'\\%"):
        return path
    return '"' + path.replace("%", "%%").replace('"', '\\"') + '"'


def _options(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("-o", setting)]


def _identity(access: SshAccess) -> list[str]:
    """The options that make ssh use our key and accept the pinned host key and no other."""
    return _options(
        f"IdentityFile={_quoted(access.key_file)}",
        "IdentitiesOnly=yes",
        f"UserKnownHostsFile={_quoted(access.known_hosts)}",
        f"HostKeyAlias={access.alias}",
        "StrictHostKeyChecking=yes",
        # Keys are pinned by alias, addresses are used again, and the file is ours to write.
        "CheckHostIP=no",
        "UpdateHostKeys=no",
    )


def ssh_argv(access: SshAccess, command: str, timeout: float) -> list[str]:
    """The command line that runs COMMAND (for the login shell) in the instance; nothing of the user's ssh setup counts.

    timeout -- seconds for the connection to come about; one that went dead is given up after 15 s
    """
    strict = _options(
        "GlobalKnownHostsFile=/dev/null",
        "IdentityAgent=none",
        "PreferredAuthentications=publickey",
        "BatchMode=yes",
        "ControlMaster=no",
        "ControlPath=none",
        "LogLevel=ERROR",
        f"ConnectTimeout={max(1, round(timeout))}",
        "ServerAliveInterval=5",
        "ServerAliveCountMax=3",
    )
    where = ["-p", str(access.port), "-l", access.user, access.host]
    return ["ssh", "-F", "/dev/null", "-T", *_identity(access), *strict, *where, command]


def login_command(access: SshAccess) -> str:
    """The line that a person pastes into a shell to log in."""
    target = f"{access.user}@{access.host}" if access.user else access.host
    # The address is pinned beside the alias, so that this line can be short.
    options = _options(
        f"IdentityFile={_quoted(access.key_file)}",
        "IdentitiesOnly=yes",
        f"UserKnownHostsFile={_quoted(access.known_hosts)}",
        "StrictHostKeyChecking=yes",
    )
    return shlex.join(["ssh", "-p", str(access.port), *options, target])


def common_args(access: SshAccess) -> str:
    """The value for ansible_ssh_common_args: ansible's ssh, scp and sftp then use our key and the pinned host key."""
    return shlex.join(_identity(access))


def greets(greeting: str) -> bool:
    """Whether what a server says is the greeting of ssh."""
    return greeting.startswith("SSH-")


def greeting_of(host: str, port: int, timeout: float, interval: float = NEXT_CONNECTION) -> str:
    """The greeting of the ssh server on HOST's PORT, or what is said there instead.

    It is empty where nothing is said within TIMEOUT seconds.

    An accepted connection says nothing where a hypervisor forwards the port: it accepts long before the guest listens,
    and a connection from that time may stay dead for seconds when the guest does. So every INTERVAL seconds another
    one is opened beside the first. Elsewhere nobody but the guest accepts. One that is not there yet would be asked
    again only after a second or more: so what is not accepted within INTERVAL is given up for another attempt, each
    with a little more time, for a slow guest.
    """
    forwarded = host == "127.0.0.1"
    patience = interval
    end = time.monotonic() + timeout
    greetings: dict[socket.socket, bytes] = {}
    speaking: list[socket.socket] = []
    try:
        while True:
            left = end - time.monotonic()
            if left <= 0:
                return ""
            # Whoever has begun to speak is heard out: a server that has too many connections must not get another one.
            if not speaking:
                if len(greetings) == _CONNECTIONS:
                    # The first one has all the time there is: a slow server may need it.
                    second = list(greetings)[1]
                    second.close()
                    del greetings[second]
                try:
                    connection = socket.create_connection((host, port), min(patience, left))
                except socket.timeout:
                    patience *= _MORE_PATIENCE
                    continue
                connection.setblocking(False)
                greetings[connection] = b""
            speaking = select.select(list(greetings), [], [], min(interval, left) if forwarded else left)[0]
            for answering in speaking:
                data = answering.recv(256)
                greeting = greetings[answering] = greetings[answering] + data
                # Other lines may come before the one that counts.
                begin = 0 if greeting.startswith(b"SSH-") else greeting.find(b"\nSSH-") + 1
                if begin or greeting.startswith(b"SSH-"):
                    return greeting[begin : begin + _SHOWN_GREETING].decode(errors="replace")
                if not data or len(greeting) >= _LONGEST_GREETING:
                    return greeting[:_SHOWN_GREETING].decode(errors="replace").strip()
    except OSError:
        return ""
    finally:
        for connection in greetings:
            connection.close()
