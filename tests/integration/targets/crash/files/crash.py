# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ends runs with SIGKILL, at every step and at any moment, and checks that the next run converges and nothing leaks.

Arguments: the data directory, the image of a small guest, and the driver.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import typing as t

# The collection is found on PYTHONPATH.
from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import scope_of
from ansible_collections.minicloud.local.plugins.module_utils._errors import InUse
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.instances import reconcile_instance
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import parse_wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

# Told apart from another test of the same kind on this host.
NAME = f"crash-{sys.argv[3]}"


class Killer(Reporter):
    """Ends its own process at the step of that number; 0: never."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at
        self.seen: list[str] = []

    def step(self, name: str) -> None:
        self.seen.append(name)
        if len(self.seen) == self.at:
            print(f"killed at {name}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


class Test:
    def __init__(self, data_dir: str, image: str, driver: str) -> None:
        self.data = DataDirectory(data_dir)
        self.image = image
        self.driver = driver
        self.processes = containers if driver == "lxd" else processes

    def reconcile(self, at: int = 0, **wish: t.Any) -> t.Any:
        params = {
            "name": NAME,
            "image": self.image,
            "memory": "128M",
            "user": "debian",
            "instance_type": "container" if self.driver == "lxd" else "vm",
            "wait": False,
            "timeout": 600,
            **wish,
        }
        return reconcile_instance(parse_wish(params), Runtime(run, Killer(at)), self.data, self.driver)

    def child(self, at: int, seconds: float | None = None, **wish: t.Any) -> bool:
        """Reconcile in a child that is killed at a step or after some seconds; whether it got to the end."""
        pid = os.fork()
        if pid == 0:
            try:
                self.reconcile(at, **wish)
            except BaseException as exc:
                print(f"the child failed: {exc!r}", flush=True)
                os._exit(3)
            os._exit(0)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        check(os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "a run failed that nobody had killed")
        return not os.WIFSIGNALED(status)

    def converge(self, **wish: t.Any) -> None:
        """The next run brings the instance up, once; the run after it has nothing to do; the last removes it."""
        self.reconcile(**wish)
        # What a killed run has started may be a shell still that is about to become QEMU.
        end = time.monotonic() + 60
        while self.processes() == 0 and time.monotonic() < end:
            time.sleep(0.02)
        count = self.processes()
        check(count == 1, f"{count} instances run instead of one")
        again = self.reconcile(**wish)
        check(not again.changed, f"another run had something to do: {again.actions}")
        self.remove()

    def remove(self) -> None:
        self.reconcile(state="absent")
        check(self.processes() == 0, "a process or a container is left over")
        if self.driver == "libvirt":
            check(NAME not in domains(), "a domain is left over")
        directory = self.data.scope(scope_of(self.driver)).directory(NAME)
        check(not os.path.exists(directory), "the instance's directory is left over")
        check(not os.listdir(os.path.join(self.data.path, "locks")), "a lock is left over")
        with open(self.data.known_hosts, encoding="utf-8") as stream:
            check(f"-{NAME}" not in stream.read(), "a line in known_hosts is left over")
        # The network was made for this instance, so it has gone with it.
        network = self.data.scope(scope_of(self.driver)).networks.read("default")
        if network:
            check(network.interface not in os.listdir("/sys/class/net"), "the bridge of the network is left over")
            check(not os.path.exists(f"/run/minicloud/{network.interface}"), "files of the network are left over")
            listed = run(["nft", "list", "tables"]).out
            check(network.interface not in listed, "firewall rules of the network are left over")
            if self.driver == "lxd":
                listed = run(["lxc", "query", "/1.0/network-acls?project=default"]).out
                check(network.interface not in listed, "the rules that LXD has of the network are left over")
        check(servers(self.data.path) == 0, "a dnsmasq is left over")

    def keep_what_is_left(self) -> None:
        """What a removal that was cut off has left of the data goes only for who asks for that."""
        try:
            self.reconcile()
        except InUse as exc:
            check("did not come to an end" in str(exc), f"it is in the way for another reason: {exc}")
            kept = self.reconcile(force=True)
            check(kept.actions[0] == "keep", f"it was not kept: {kept.actions}")

    def at_every_step(self, what: str, **wish: t.Any) -> None:
        at = 1
        while True:
            if wish.get("state", "running") != "running" or "memory" in wish or "cpus" in wish:
                self.reconcile()
            ended = self.child(at, **wish)
            if wish.get("state") == "absent":
                self.keep_what_is_left()
            self.converge(**{**wish, "state": "present" if wish.get("state") == "present" else "running"})
            if ended:
                break
            at += 1
        check(at > 3, f"{what} has hardly any step")
        print(f"{what}: {at - 1} steps", flush=True)


def processes() -> int:
    """How many QEMU processes of the instance there are."""
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as stream:
                arguments = stream.read().split(b"\0")
        except OSError:
            continue
        count += any(each.startswith(f"guest={NAME},".encode()) for each in arguments) and b"qemu" in arguments[0]
    return count


def servers(data_dir: str) -> int:
    """How many dnsmasq processes of the data directory there are."""
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as stream:
                count += f"--conf-file={data_dir}/".encode() in stream.read()
        except OSError:
            continue
    return count


def domains() -> list[str]:
    """The names of the domains of the system's libvirt."""
    return run(["virsh", "-c", "qemu:///system", "list", "--all", "--name"]).out.split()


def containers() -> int:
    """How many containers of the instance's name LXD has, whatever they do."""
    argv = ["lxc", "query", "/1.0/instances?recursion=1&project=minicloud"]
    found = json.loads(run(argv).out)
    return sum(each["name"] == NAME for each in found)


def check(holds: bool, what: str) -> None:
    if not holds:
        print(f"FAILED: {what}", flush=True)
        sys.exit(1)


def main() -> None:
    test = Test(*sys.argv[1:4])
    test.converge()
    test.at_every_step("launch")
    test.at_every_step("removal", state="absent")
    longest = 0.3
    if test.driver == "lxd":
        test.at_every_step("change while it runs", cpus=2, disk="6G", tags={"role": "test"}, ports=["22"])
        longest = 1.0  # LXD has done it when the run ends
    else:
        change = {"memory": "160M", "allow_restart": True, "force": True}
        test.at_every_step("restart for more memory", state="present", **change)
    random.seed()
    for dummy in range(12):
        test.child(0, random.uniform(0.0, longest))
        test.converge()
    print("12 launches killed at any moment", flush=True)
    test.child(0, random.uniform(0.0, longest))
    test.converge(wait=True)


if __name__ == "__main__":
    main()
