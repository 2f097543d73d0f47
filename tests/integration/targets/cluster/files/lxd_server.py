# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An LXD server of the tests' own, in a network namespace that is there already."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import typing as t

# The namespace's own interfaces in /sys, and the control groups as well, which `ip netns exec` would hide.
LAUNCHER = """
mkdir -p "$1"
mount --rbind /sys/fs/cgroup "$1"
mount -t sysfs sysfs /sys
mount --rbind "$1" /sys/fs/cgroup
exec lxd --logfile "$2"
"""


def run(*argv: str, stdin: str = "", lxd_dir: str = "", check: bool = True) -> str:
    """The output of a command. lxd_dir -- of the server that it talks to"""
    env = {**os.environ, "LC_ALL": "C", "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    if lxd_dir:
        env["LXD_DIR"] = lxd_dir
    done = subprocess.run(argv, input=stdin, env=env, capture_output=True, text=True, timeout=240, check=False)
    if check and done.returncode != 0:
        raise SystemExit(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Server:
    """One server. top -- a directory for all that belongs to it and others like it"""

    def __init__(self, top: str, name: str, namespace: str) -> None:
        self.top = top
        self.name = name
        self.namespace = namespace
        self.directory = os.path.join(top, name)

    def run(self, *argv: str, stdin: str = "", check: bool = True) -> str:
        """The output of a command that talks to it."""
        return run(*argv, stdin=stdin, lxd_dir=self.directory, check=check)

    def start(self) -> None:
        """Start it. What it mounts is in a namespace of its own, and goes with its last process."""
        os.makedirs(self.directory, mode=0o711)
        place = os.path.join(self.top, self.name)
        launcher = ["sh", "-ec", LAUNCHER, "sh", f"{place}.cgroup", f"{place}.log"]
        with open(f"{place}.out", "w", encoding="utf-8") as out:
            process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.namespace}", "unshare", "--mount", *launcher],
                env={**os.environ, "LXD_DIR": self.directory},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        with open(f"{place}.pid", "w", encoding="ascii") as file:
            file.write(str(process.pid))
        self.run("lxd", "waitready", "--timeout", "60")

    def end(self) -> None:
        """End it, if it runs, and whatever runs in its namespace."""
        pid = self._pid()
        if pid and alive(pid):
            self.run("timeout", "60", "lxd", "shutdown", "--timeout", "20", check=False)
            for number in (signal.SIGTERM, signal.SIGKILL):
                if wait_gone(pid, 15):
                    break
                os.kill(pid, number)
        for word in run("ip", "netns", "pids", self.namespace, check=False).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(word), signal.SIGKILL)

    def _pid(self) -> int:
        """The process that start() has started, if it is still one of LXD."""
        try:
            with open(os.path.join(self.top, f"{self.name}.pid"), encoding="ascii") as file:
                pid = int(file.read())
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                return pid if b"lxd" in file.read() else 0
        except (OSError, ValueError):
            return 0


def sweep(servers: t.Iterable[Server]) -> None:
    """Take away what servers that have ended have left mounted or attached."""
    tops = {f"{server.top}/" for server in servers}
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = file.read().splitlines()
    for line in reversed(mounts):
        path = line.split()[4].replace("\\040", " ")
        if any(path.startswith(top) for top in tops):
            run("umount", "-l", path, check=False)
    for line in run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE", check=False).splitlines():
        device, dummy, backing = line.partition(" ")
        if any(backing.strip().startswith(top) for top in tops):
            run("losetup", "--detach", device, check=False)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_gone(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while alive(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
