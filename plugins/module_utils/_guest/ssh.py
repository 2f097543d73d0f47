# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Ways into an instance by ssh: what to run, and whether anybody answers."""

from __future__ import annotations

import shlex
import socket
import typing as t

_LONGEST_GREETING = 4096


class SshEndpoint(t.NamedTuple):
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


def _identity(endpoint: SshEndpoint) -> list[str]:
    """The options that make ssh use our key and accept the pinned host key and no other."""
    return _options(
        f"IdentityFile={_quoted(endpoint.key_file)}",
        "IdentitiesOnly=yes",
        f"UserKnownHostsFile={_quoted(endpoint.known_hosts)}",
        f"HostKeyAlias={endpoint.alias}",
        "StrictHostKeyChecking=yes",
        # Keys are pinned by alias, addresses are used again, and the file is ours to write.
        "CheckHostIP=no",
        "UpdateHostKeys=no",
    )


def ssh_argv(endpoint: SshEndpoint, command: str, timeout: float) -> list[str]:
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
    where = ["-p", str(endpoint.port), "-l", endpoint.user, endpoint.host]
    return ["ssh", "-F", "/dev/null", "-T", *_identity(endpoint), *strict, *where, command]


def login_command(endpoint: SshEndpoint) -> str:
    """The line that a person pastes into a shell to log in."""
    target = f"{endpoint.user}@{endpoint.host}" if endpoint.user else endpoint.host
    # The address is pinned beside the alias, so that this line can be short.
    options = _options(
        f"IdentityFile={_quoted(endpoint.key_file)}",
        "IdentitiesOnly=yes",
        f"UserKnownHostsFile={_quoted(endpoint.known_hosts)}",
        "StrictHostKeyChecking=yes",
    )
    return shlex.join(["ssh", "-p", str(endpoint.port), *options, target])


def common_args(endpoint: SshEndpoint) -> str:
    """The value for ansible_ssh_common_args: ansible's ssh, scp and sftp then use our key and the pinned host key."""
    return shlex.join(_identity(endpoint))


def banner(host: str, port: int, timeout: float) -> bool:
    """Whether an ssh server greets on HOST's PORT within TIMEOUT seconds.

    An accepted connection says nothing: a hypervisor's port forwarding accepts long before the guest listens.
    """
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.settimeout(timeout)
            greeting = b""
            while len(greeting) < _LONGEST_GREETING:
                data = connection.recv(256)
                if not data:
                    return False
                greeting += data
                # Other lines may come before the one that counts.
                if greeting.startswith(b"SSH-") or b"\nSSH-" in greeting:
                    return True
    except OSError:
        return False
    return False
