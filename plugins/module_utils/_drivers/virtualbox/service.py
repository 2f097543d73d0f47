# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""VirtualBox's service, VBoxSVC, and the processes of its machines.

Every call of VBoxManage talks to the service, and starts it where it does not run. Calls that start it at once are in
each other's way, and what a call starts ends with the session that the call is made in: so it is started here, once.

Where the service has died while machines ran, their processes see that some ten seconds later, and end. Until then the
next service takes the machines for stopped, and would start them a second time, on the same disks. So who really runs
is seen by the processes.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._host import processes
from ansible_collections.minicloud.local.plugins.module_utils._host.host import this_host
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime, find_program

SERVICE = "VBoxSVC"
# The programs that run a machine: without a window, with one, and with one of another kind.
_RUNNERS = ("VBoxHeadless", "VirtualBoxVM", "VBoxSDL", "VirtualBox")
_STARTED = re.compile(r"--startvm[= ]+\{?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\}?(?: |\Z)", re.IGNORECASE)

# Seconds that the service may take to answer.
_PATIENCE = 20.0
# Runs a program on in the background, with nothing of ours open.
_DETACHED = 'cd / && exec "$@" </dev/null >/dev/null 2>&1 &'


def socket_path(user: str) -> str:
    """Where the service of a user listens."""
    name = os.environ.get("VBOX_IPC_SOCKETID") or user
    directory = next((os.environ[key] for key in ("TMPDIR", "TMP", "TEMP") if os.environ.get(key)), "/tmp")
    return os.path.join(directory, f".vbox-{name}-ipc", "ipcd")


def answers(path: str) -> bool:
    """Whether a service listens there, by the path of its socket.

    Its machines have the socket open, too: where it has died they keep it, and whoever connects waits for ever.
    """
    return _is_service(os.path.join(os.path.dirname(path), "lock")) and _connects(path)


def _is_service(lock: str) -> bool:
    """Whether the process is there, and is the service, that its lock names."""
    try:
        with open(lock, encoding="ascii", errors="replace") as stream:
            pid = int(stream.read(32).split()[0])
        if processes.all_ids():
            return _program(_command_of(pid)) == SERVICE
        os.kill(pid, 0)
    except (OSError, ValueError, IndexError):
        return False
    return True


def _connects(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as talk:
        talk.settimeout(5.0)
        try:
            talk.connect(path)
        except OSError:
            return False
    return True


def start(runtime: Runtime, program: str, env: t.Mapping[str, str], path: str) -> None:
    """Start the service, in a way that outlives this session, and wait until it listens on its socket at PATH.

    It ends by itself some seconds after the last call, unless a machine runs. Not being able to is no error: the call
    that comes next tells why.
    """
    prefix = ["setsid"] if find_program("setsid") else ["nohup"]
    argv = ["sh", "-c", _DETACHED, "sh", *prefix, program, "--auto-shutdown"]
    before = _identity(path)
    with contextlib.suppress(MinicloudError):
        this_host().start_background(
            runtime, argv, "VirtualBox's service could not be started", "VirtualBox's service", env=env, timeout=60
        )
        for dummy in Deadline(_PATIENCE).pauses(first=0.01, longest=0.2):
            # What was there before leads nowhere.
            if _identity(path) not in (None, before) and answers(path):
                return


def _identity(path: str) -> tuple[int, int] | None:
    """What tells a socket from one that was at its place before; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns


def machines(runtime: Runtime) -> dict[str, int]:
    """The processes of this user that run machines, by the machine's uuid."""
    found = {}
    for pid, arguments in _processes(runtime):
        started = _STARTED.search(arguments)
        if started and _program(arguments) in _RUNNERS:
            found[started[1].lower()] = pid
    return found


def _program(arguments: str) -> str:
    return os.path.basename(arguments.split(" --", 1)[0].split(" -", 1)[0].strip())


def _processes(runtime: Runtime) -> list[tuple[int, str]]:
    """The processes of this user, each with its command line, its parts divided by spaces."""
    if processes.all_ids():
        return [(pid, command) for pid in processes.all_ids() if (command := _command_of(pid))]
    done = runtime.run(["ps", "-x", "-ww", "-o", "pid=,args=", "-U", str(os.geteuid())], timeout=30, limit=8 << 20)
    found = []
    for line in done.out.splitlines():
        pid, dummy, arguments = line.strip().partition(" ")
        if pid.isdecimal():
            found.append((int(pid), arguments.strip()))
    return found


def _command_of(pid: int) -> str:
    """The command line of a process; empty where it is not there, has ended, or is another user's."""
    with contextlib.suppress(OSError):
        if os.stat(f"/proc/{pid}").st_uid == os.geteuid():
            return b" ".join(processes.arguments_of(pid)).decode("utf-8", "replace").strip()
    return ""
