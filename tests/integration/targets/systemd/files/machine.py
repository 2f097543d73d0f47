# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine that systemd runs, beside the tests: it is started, has its power cut, and is started again.

Its programs are those of this host; what it writes is in memory. It has a mount namespace of its own that ends with it,
so nothing is left. Use: machine.py up|boot|cut|down DIRECTORY
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import typing as t

# What it has that this host need not have.
PACKAGES = ["dbus", "firewalld", "libpam-systemd", "openssh-server", "systemd-resolved", "systemd-sysv"]

# The link between this host, which is the outside, and the machine.
BRIDGE, OUTSIDE, ADDRESS, PREFIX = "mcsystemd0", "10.43.250.1", "10.43.250.2", 24

# What of this host it sees, and may change for itself.
SEEN = ["usr", "etc", "var/lib/dpkg", "var/lib/apt"]

UNITS = {
    "multi-user.target.wants": ["systemd-networkd", "systemd-resolved", "firewalld", "ssh"],
    "network-online.target.wants": ["systemd-networkd-wait-online"],
}

# nspawn leaves it to others to start a machine again that wants to.
_AGAIN = 'while :; do "$@"; status=$?; [ $status = 133 ] || exit $status; done'

# Seconds that anything may take on a machine that is busy with something else.
PATIENCE = 180


class Machine:
    """directory -- where what is to be known of it is"""

    def __init__(self, directory: str) -> None:
        self.directory = pathlib.Path(directory)
        self.root = self.directory / "root"
        self.keeper = self.directory / "keeper.pid"
        self.runner = self.directory / "nspawn.pid"

    def up(self) -> None:
        """Make it, as it would be right after it was installed."""
        self.down()  # one of a run that was ended
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.mkdir(exist_ok=True)
        keeper = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep infinity"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert keeper.stdout
        keeper.stdout.readline()
        self.keeper.write_text(str(keeper.pid), encoding="ascii")
        self._inside([sys.executable, os.path.abspath(__file__), "fill", str(self.directory)])
        run(["ip", "link", "add", BRIDGE, "type", "bridge"])
        run(["ip", "address", "add", f"{OUTSIDE}/{PREFIX}", "dev", BRIDGE])
        run(["ip", "link", "set", BRIDGE, "up"])

    def fill(self) -> None:
        """Make its file system, in its mount namespace."""
        # What nspawn notes below /run is not for this host.
        run(["mount", "-t", "tmpfs", "-o", "mode=755", "run", "/run"])
        run(["mount", "-t", "tmpfs", "-o", "mode=755", "root", str(self.root)])
        empty = ["dev", "home", "proc", "root", "run", "srv", "sys", "tmp", "var/log", "var/tmp", ".changes"]
        for name in (*empty, "var/cache/apt/archives/partial", "var/cache/debconf"):
            (self.root / name).mkdir(parents=True)
        for name in ("tmp", "var/tmp"):
            (self.root / name).chmod(0o1777)
        for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
            if os.path.islink(f"/{name}"):
                (self.root / name).symlink_to(os.readlink(f"/{name}"))
        for name in SEEN:
            place = self.root / ".changes" / name.replace("/", "-")
            (place / "upper").mkdir(parents=True)
            (place / "work").mkdir()
            (self.root / name).mkdir(parents=True, exist_ok=True)
            options = f"lowerdir=/{name},upperdir={place}/upper,workdir={place}/work"
            run(["mount", "-t", "overlay", "-o", options, "overlay", str(self.root / name)])
        # What starts on this host does not start there.
        shutil.rmtree(self.root / "etc/systemd/system")
        (self.root / "etc/systemd/system").mkdir()
        # Services are not started while there is no systemd.
        apt = ["apt-get", "-q", "-o", "Acquire::http::Timeout=15", "-o", "Acquire::Retries=3"]
        install = [*apt, "install", "-y", "--no-install-recommends", *PACKAGES]
        argv = [*self._nspawn(), "--as-pid2", "--setenv=DEBIAN_FRONTEND=noninteractive"]
        if subprocess.run([*argv, *install], stdin=subprocess.DEVNULL, check=False).returncode != 0:
            run([*argv, *apt, "update"])
            run([*argv, *install])
        self._configure()

    def _configure(self) -> None:
        etc = self.root / "etc"
        for target, names in UNITS.items():
            (etc / "systemd/system" / target).mkdir(exist_ok=True)
            for name in names:
                link = etc / "systemd/system" / target / f"{name}.service"
                link.unlink(missing_ok=True)
                link.symlink_to(f"/lib/systemd/system/{name}.service")
        default = etc / "systemd/system/default.target"
        default.unlink(missing_ok=True)
        default.symlink_to("/lib/systemd/system/multi-user.target")
        (etc / "systemd/network").mkdir(exist_ok=True)
        (etc / "systemd/network/10-host0.network").write_text(
            textwrap.dedent(f"""\
                [Match]
                Name=host0
                [Network]
                Address={ADDRESS}/{PREFIX}
                Gateway={OUTSIDE}
                LinkLocalAddressing=no
                """),
            encoding="ascii",
        )
        (etc / "hostname").write_text("mcsystemd\n", encoding="ascii")
        (etc / "machine-id").write_text("", encoding="ascii")
        (etc / "fstab").write_text("", encoding="ascii")
        resolv = etc / "resolv.conf"
        resolv.unlink(missing_ok=True)
        resolv.symlink_to("../run/systemd/resolve/stub-resolv.conf")
        key = self.directory / "key"
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)])
        (self.root / "root/.ssh").mkdir(mode=0o700)
        shutil.copy(f"{key}.pub", self.root / "root/.ssh/authorized_keys")

    def _nspawn(self) -> list[str]:
        return ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--directory={self.root}"]

    def boot(self) -> None:
        """Switch it on, and return when it can be reached."""
        argv = [*self._nspawn(), "--boot", "--console=pipe", "--machine=mcsystemd", f"--network-bridge={BRIDGE}"]
        argv += ["--bind=/dev/net/tun", "--capability=all", "--resolv-conf=off", "--timezone=off"]
        with open(self.directory / "console.log", "ab") as console:
            runner = subprocess.Popen(
                self._entered(["sh", "-c", _AGAIN, "sh", *argv]),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                start_new_session=True,
            )
        self.runner.write_text(str(runner.pid), encoding="ascii")
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection((ADDRESS, 22), 2) as connection:
                if connection.recv(4) == b"SSH-":
                    return
            if runner.poll() is not None or time.monotonic() > deadline:
                console_text = (self.directory / "console.log").read_text(encoding="utf-8", errors="replace")
                raise SystemExit(f"the machine does not come up:\n{console_text[-4000:]}")
            time.sleep(0.2)

    def cut(self) -> None:
        """Take its power away."""
        runner = pid_of(self.runner)
        if runner:
            handle = os.pidfd_open(runner)
            for nspawn in children(runner):
                for init in children(nspawn):
                    os.kill(init, signal.SIGKILL)
            if not select.select([handle], [], [], PATIENCE)[0]:
                raise SystemExit("the machine does not end")
            os.close(handle)
        self.runner.unlink(missing_ok=True)

    def down(self) -> None:
        """Remove it with all that it had; all the same if it is not there."""
        self.cut()
        keeper = pid_of(self.keeper)
        if keeper:
            os.kill(keeper, signal.SIGKILL)
        subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _entered(self, argv: t.Sequence[str]) -> list[str]:
        return ["nsenter", f"--mount=/proc/{pid_of(self.keeper)}/ns/mnt", *argv]

    def _inside(self, argv: t.Sequence[str]) -> None:
        run(self._entered(argv))


def pid_of(path: pathlib.Path) -> int:
    """The process whose id a file has, 0 where there is none."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(path.read_text(encoding="ascii"))
        os.kill(pid, 0)
        return pid
    return 0


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(each) for each in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def run(argv: t.Sequence[str]) -> None:
    subprocess.run(argv, stdin=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    getattr(Machine(sys.argv[2]), sys.argv[1])()
