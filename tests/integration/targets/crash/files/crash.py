# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ends runs with SIGKILL, at every step and at any moment, and checks that the next run converges and nothing leaks.

--kills takes more kills at any moment, of all that a task can ask for; the seed that is printed draws the same again.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import sys
import time
import typing as t

# The collection is found on PYTHONPATH.
from ansible_collections.minicloud.local.plugins.module_utils._arguments import MOUNT
from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import scope_of
from ansible_collections.minicloud.local.plugins.module_utils._errors import InUse, MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.links import tap_name
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.instances import reconcile_instance
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.mount_task import reconcile_mount
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.snapshot_listing import list_snapshots
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.snapshots import (
    parse_snapshot_wish,
    reconcile_snapshot,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import parse_wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

# The instance; told apart from those of other tests of the same kind on this host.
NAME = ""

CHANGE = {"allow_restart": True, "force": True}


class Operation(t.NamedTuple):
    """What is cut off at any moment.

    before -- the state of the instance (empty: nothing is there); wish -- what the run is asked for, of a noun
    snapshot -- whether the instance has one before
    """

    before: str
    wish: dict[str, t.Any]
    noun: str = "instance"
    snapshot: bool = False


OPERATIONS: dict[str, Operation] = {
    "create": Operation("", {}),
    "create stopped": Operation("", {"state": "stopped"}),
    "start": Operation("stopped", {}),
    "stop": Operation("running", {"state": "stopped", "force": True}),
    "restart": Operation("running", {"state": "restarted", "force": True}),
    "resize": Operation("running", {"memory": "160M", "cpus": 2, "disk": "6G", **CHANGE}),
    "ports": Operation("running", {"ports": ["22"], "tags": {"role": "test"}, **CHANGE}),
    "network": Operation("running", {"networks": [{"name": "default", "mac": "52:54:00:77:00:01"}], **CHANGE}),
    "suspend": Operation("running", {"state": "suspended"}),
    "resume": Operation("suspended", {}),
    "snapshot": Operation("stopped", {"state": "present"}, "snapshot"),
    "restore": Operation("stopped", {"state": "restored"}, "snapshot", snapshot=True),
    "delete snapshot": Operation("stopped", {"state": "absent"}, "snapshot", snapshot=True),
    "mount": Operation("running", {"state": "mounted"}, "mount"),
    "absent": Operation("running", {"state": "absent"}),
}
# Those that were never cut off at every step by what is always done.
STEPWISE = ("suspend", "resume", "snapshot", "restore", "delete snapshot", "mount")
# Servers, with their clients.
CLIENTS = {"lxd": "lxc", "incus": "incus"}
SNAPSHOT = "before"


class Fault(Exception):
    """Something does not hold."""


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
        self.stride, self.chance = 1, random.Random()
        self.client = CLIENTS.get(driver, "")
        self.processes = self.containers if self.client else machines if driver == "virtualbox" else processes
        # The taps that the instance has ever had, and the files of the data directory that outlive instances.
        self.taps: set[str] = set()
        self.files: set[str] = set()

    def reconcile(self, at: int = 0, **wish: t.Any) -> t.Any:
        params = {
            "name": NAME,
            "image": self.image,
            "memory": "128M",
            "user": "debian",
            "instance_type": "container" if self.client else "vm",
            "wait": False,
            "timeout": 600,
            **wish,
        }
        return reconcile_instance(parse_wish(params), Runtime(run, Killer(at)), self.data, self.driver)

    def act(self, operation: Operation, at: int = 0) -> t.Any:
        """Do what an operation is; at -- the number of the step at which the process ends, 0: it does not."""
        runtime = Runtime(run, Killer(at))
        if operation.noun == "snapshot":
            wish = parse_snapshot_wish({"instance": NAME, "name": SNAPSHOT, **operation.wish})
            return reconcile_snapshot(wish, runtime, self.data, self.driver)
        if operation.noun == "mount":
            options = {"instance": NAME, "source": self.folder, "target": "/mnt/shared", "force": False}
            # Not every kernel can have a folder appear in a container as somebody else's.
            options |= {"type": "copy", "driver": self.driver, "driver_options": None, **operation.wish}
            params = {key: about.get("default") for key, about in MOUNT.items()} | options
            return reconcile_mount(params, runtime, self.data, False)[0]
        return self.reconcile(at, **operation.wish)

    def prepare(self, operation: Operation) -> None:
        """Have the instance be as the operation finds it."""
        if not operation.before:
            return
        # What is in its guest is changed there, by a login.
        self.reconcile(state="running", wait=operation.noun == "mount", **CHANGE)
        if operation.before != "running":
            self.reconcile(state=operation.before, **CHANGE)
        self.note_taps()
        if operation.snapshot:
            self.act(OPERATIONS["snapshot"])

    def finish(self, operation: Operation) -> None:
        """What was cut off is done by who asks for it again, once; and nothing of it keeps the instance from going."""
        if operation.noun == "instance":
            self.converge(**{**operation.wish, "state": "running"})
            return
        self.act(operation)
        if operation.wish["state"] != "restored":  # which brings it back each time
            again = self.act(operation)
            check(not again.changed, f"another run had something to do: {again.actions}")
        if operation.noun == "snapshot":
            listed = [each["name"] for each in list_snapshots(Runtime(run), self.data, [self.driver], None, [NAME])]
            wanted = [] if operation.wish["state"] == "absent" else [SNAPSHOT]
            check([name for name in listed if name == SNAPSHOT] == wanted, f"its snapshots are {listed}")
        self.converge()

    @property
    def folder(self) -> str:
        """A folder of the host, beside the data directory."""
        path = f"{self.data.path}-crash-folder"
        os.makedirs(path, exist_ok=True)
        file = os.path.join(path, "file")
        if not os.path.exists(file):
            with open(file, "w", encoding="utf-8") as stream:
                stream.write("of the host")
        return path

    def containers(self) -> int:
        """How many containers of the instance's name the server has, whatever they do."""
        found = json.loads(run([self.client, "query", "/1.0/instances?recursion=1&project=minicloud"]).out)
        return sum(each["name"] == NAME for each in found)

    def child(self, operation: Operation, at: int, seconds: float | None = None) -> bool:
        """An operation in a child that is killed at a step or after some seconds; whether it got to the end."""
        pid = os.fork()
        if pid == 0:
            try:
                self.act(operation, at)
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
        self.note_taps()
        self.reconcile(state="absent")
        with self.data.lock("ports"):
            pass  # where its holder was killed, the next one takes the file away
        check(self.processes() == 0, "a process or a container is left over")
        here = set(os.listdir("/sys/class/net"))
        check(not self.taps & here, f"a tap is left over: {self.taps & here}")
        left = self.files_now() - self.files
        check(not self.files or not left, f"files are left over: {sorted(left)}")
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
            if self.client:
                listed = run([self.client, "query", "/1.0/network-acls?project=default"]).out
                check(network.interface not in listed, "the rules that the server has of the network are left over")
        check(servers(self.data.path) == 0, "a dnsmasq is left over")

    def note_taps(self) -> None:
        """Learn the names of the instance's taps, as long as its record tells them."""
        scope = self.data.scope(scope_of(self.driver))
        instance = scope.read(NAME)
        for nic in instance.nics if instance else ():
            network = scope.networks.read(nic.network)
            if network:
                self.taps.add(tap_name(network.interface, nic.mac))

    def files_now(self) -> set[str]:
        """The files of the data directory without images, which come and go by themselves."""
        found = set()
        for top, directories, names in os.walk(self.data.path):
            directories[:] = [name for name in directories if name != "vault"]
            found.update(os.path.join(top, name) for name in names)
        return found

    def keep_what_is_left(self) -> None:
        """What a removal that was cut off has left of the data goes only for who asks for that."""
        try:
            self.reconcile()
        except InUse as exc:
            check("did not come to an end" in str(exc), f"it is in the way for another reason: {exc}")
            kept = self.reconcile(force=True)
            check(kept.actions[0] == "keep", f"it was not kept: {kept.actions}")

    def at_every_step(self, what: str, **wish: t.Any) -> None:
        # Of a stride, another one each time.
        at = 1 + self.chance.randrange(self.stride)
        while True:
            if wish.get("state", "running") != "running" or "memory" in wish or "cpus" in wish:
                self.reconcile()
            ended = self.child(Operation("", wish), at)
            if wish.get("state") == "absent":
                self.keep_what_is_left()
            self.converge(**{**wish, "state": "present" if wish.get("state") == "present" else "running"})
            if ended:
                break
            at += self.stride
        check(at > 3, f"{what} has hardly any step")
        print(f"{what}: up to {at - 1} steps, killed at every {self.stride}. of them", flush=True)

    def through(self, name: str) -> None:
        """Cut an operation off at every step that it has."""
        at, ended = 0, False
        while not ended:
            at += 1
            self.prepare(OPERATIONS[name])
            ended = self.child(OPERATIONS[name], at)
            self.finish(OPERATIONS[name])
        print(f"{name}: {at - 1} steps", flush=True)


class Campaign:
    """Kills at any moment of whatever a task can ask for, and what came of them."""

    def __init__(self, test: Test, kills: int, seed: int) -> None:
        self.test = test
        self.kills = kills
        self.chance = random.Random(seed)
        self.seed = seed
        # How long a run of each operation may go on before it is killed: learned from those that came to their end.
        self.patience = dict.fromkeys(OPERATIONS, 1.0 if test.client else 0.3)
        self.cut = collections.Counter[str]()
        self.faults: list[str] = []

    def run(self) -> None:
        names = list(OPERATIONS)
        for number in range(self.kills):
            # All of them in turn, each round in another order.
            if number % len(names) == 0:
                self.chance.shuffle(names)
            self.one(names[number % len(names)])
        cut = ", ".join(f"{name} {count}" for name, count in sorted(self.cut.items()))
        print(f"{self.kills} runs killed at any moment (seed {self.seed}), before their end: {cut}", flush=True)
        leaks = sum("left over" in fault for fault in self.faults)
        print(f"tried {self.kills}, faults {len(self.faults)}, leaks {leaks}", flush=True)
        check(not self.faults, "; ".join(self.faults))

    def one(self, name: str) -> None:
        """Prepare, kill, converge, look at what is left."""
        operation = OPERATIONS[name]
        seconds = self.chance.uniform(0.0, self.patience[name])
        try:
            self.test.prepare(operation)
            ended = self.test.child(operation, 0, seconds)
            self.patience[name] = seconds if ended else self.patience[name] * 1.1
            self.cut[name] += not ended
            if operation.noun == "instance" and operation.wish.get("state") == "absent":
                self.test.keep_what_is_left()
            self.test.finish(operation)
        except (Fault, MinicloudError) as exc:
            self.faults.append(f"{name} killed after {seconds:.3f} s: {exc}")
            print(f"FAULT: {self.faults[-1]}", flush=True)
            self.clean_up()

    def clean_up(self) -> None:
        """Have the next kill begin with nothing, so that one fault counts once."""
        try:
            self.test.reconcile(state="absent", force=True)
        except MinicloudError as exc:
            print(f"and it cannot be removed: {exc}", flush=True)


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


def machines() -> int:
    """How many processes of VirtualBox run the instance; none of its media may be there where there is no machine."""
    if f'"{NAME}"' not in run(["VBoxManage", "list", "vms"]).out:
        media = run(["VBoxManage", "list", "hdds"]).out + run(["VBoxManage", "list", "dvds"]).out
        check("Location:" not in media, f"a medium is left over: {media}")
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as stream:
                arguments = stream.read().split(b"\0")
        except OSError:
            continue
        count += NAME.encode() in arguments and arguments[0].endswith(b"VBoxHeadless")
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


def check(holds: bool, what: str) -> None:
    if not holds:
        raise Fault(what)


def main() -> None:
    global NAME
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir")
    parser.add_argument("image", help="of a small guest")
    parser.add_argument("driver")
    parser.add_argument("--kills", type=int, default=len(OPERATIONS), help="at any moment (one of each operation)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="default: by chance")
    parser.add_argument("--stride", type=int, default=1, help="of the kills at every step, leave out all but every Nth")
    parser.add_argument("--only-kills", action="store_true", help="leave out the kills at every step")
    parser.add_argument("--every-step", action="store_true", help="kill at every step of all, which takes minutes")
    parser.add_argument("--only-launch", action="store_true", help="kill launches at every step, and nothing else")
    args = parser.parse_args()
    NAME = f"crash-{args.driver}"
    test = Test(args.data_dir, args.image, args.driver)
    test.stride, test.chance = args.stride, random.Random(args.seed)
    try:
        test.converge()
        test.files = test.files_now()
        if args.only_launch:
            test.at_every_step("launch")
            return
        if not args.only_kills:
            at_every_step(test)
        for name in STEPWISE if args.every_step else ():
            test.through(name)
        Campaign(test, args.kills, args.seed).run()
        # A guest of one sector has no ssh.
        test.converge(wait=args.driver != "virtualbox")
    except Fault as exc:
        print(f"FAILED: {exc}", flush=True)
        sys.exit(1)


def at_every_step(test: Test) -> None:
    """Kill at each step of what has the most of them."""
    test.at_every_step("launch")
    test.at_every_step("removal", state="absent")
    if test.client:
        test.at_every_step("change while it runs", cpus=2, disk="6G", tags={"role": "test"}, ports=["22"])
    else:
        test.at_every_step("restart for more memory", state="present", memory="160M", **CHANGE)


if __name__ == "__main__":
    main()
