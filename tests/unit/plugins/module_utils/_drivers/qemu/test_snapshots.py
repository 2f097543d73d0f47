# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots of a machine that runs: its files with the real qemu-img, and a QEMU that knows what it writes to."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu import live, saved_state
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.act import QemuActs
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.driver import QemuDriver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.snapshots import QemuSnapshots
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.layers import Layers
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import DISK
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import ABOUT
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, NoSpace
from ansible_collections.minicloud.local.plugins.module_utils._images.confined import QemuImg
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot

pytestmark = pytest.mark.skipif(not shutil.which("qemu-img"), reason="this host has no qemu-img")

SIZE = 8 << 20
ORIGIN = saved_state.Origin("pc-q35-7.2", "7.2", "", ("-m 128M",))


class Killed(BaseException):
    """The end of a run that nothing in it may catch."""


class Killer(Reporter):
    """Ends the run at a step."""

    def __init__(self):
        super().__init__()
        self.at, self.count = 0, 0

    def step(self, name):
        self.count += 1
        if self.count == self.at:
            raise Killed(name)


class Machine:
    """A QEMU and its monitor. nodes -- by name, the file (its number) that each is; top -- what the guest writes to"""

    def __init__(self, world):
        self.world, self.alive, self.fails = world, True, ""
        self.sets, self.nodes, self.state = {}, {}, "running"
        self.start()

    def start(self):
        self.alive, self.state, self.top, self.sets = True, "running", "disk", {}
        self.nodes = {"disk": os.stat(self.world.layers.path(DISK)).st_ino}

    def status(self):
        return self.state

    def add_to_set(self, name, handle):
        self.sets[name] = os.fstat(handle).st_ino
        return f"/dev/fdset/{name}"

    def hand_over(self, name, handle):
        os.write(handle, b"memory")

    def execute(self, command, **arguments):
        if command == self.fails:
            raise HypervisorError("QEMU refused", command)
        return getattr(self, command.replace("-", "_"))(**{key.replace("-", "_"): arguments[key] for key in arguments})

    def query_block(self):
        return [{}, {"inserted": {"node-name": self.top, "image": {"virtual-size": SIZE}}}]

    def query_named_block_nodes(self, flat):
        return [{"node-name": each} for each in self.nodes]

    def query_fdsets(self):
        return [{"fdset-id": each, "fds": [{"opaque": each}]} for each in self.sets]

    def remove_fd(self, fdset_id):
        del self.sets[fdset_id]

    def blockdev_add(self, driver, node_name, **arguments):
        assert node_name not in self.nodes
        file = arguments["filename"].rpartition("/")[2] if driver == "file" else arguments["file"]
        self.nodes[node_name] = self.sets[file] if driver == "file" else self.nodes[file]

    def blockdev_del(self, node_name):
        if node_name not in self.nodes or node_name == self.top or f"{node_name[:-2]}" in self.nodes:
            raise HypervisorError("QEMU refused", "it is in use, or not there")
        del self.nodes[node_name]

    def blockdev_set_active(self, active):
        raise HypervisorError("QEMU refused", "no such command")

    def blockdev_snapshot(self, node, overlay):
        assert node == self.top
        assert self.state != "running"
        self.top = overlay

    def stop(self):
        self.state = "paused"

    def cont(self):
        # What it writes from now on is the disk, and nothing else.
        assert self.nodes[self.top] == os.stat(self.world.layers.path(DISK)).st_ino
        self.state = "running"

    def migrate_set_parameters(self, **dummy):
        return {}

    def migrate(self, uri):
        assert self.state == "paused"
        self.state = "postmigrate"

    def query_migrate(self):
        return {"status": "failed" if self.fails == "memory" else "completed", "error-desc": "no way"}


class World:
    """One instance that runs."""

    def __init__(self, path):
        path.mkdir(exist_ok=True)
        scope = DataDirectory(str(path / "data")).scope("qemu")
        base, self.template = str(path / "base.qcow2"), str(path / "template.qcow2")
        for argv in ([base], ["-b", base, "-F", "qcow2", self.template]):
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *argv, str(SIZE)], check=True)
        self.instance = Instance(
            "web", "00000000-0000-4000-8000-000000000000", "qemu", "qemu", "", "x86_64", 1, 1, SIZE,
            phase="ready", owner="qemu", image={"path": base},
        )  # fmt: skip
        scope.write(self.instance)
        self.runtime = Runtime(run, Killer())
        self.look = QemuDriver(ABOUT["qemu"], self.runtime, scope)
        self.made = 0
        acts = SimpleNamespace(
            monitor=self.monitor, process_of=lambda each: 1, log=lambda each: "", planned_origin=self.planned_origin
        )
        self.part = QemuSnapshots(self.look, acts)
        shutil.copy(self.template, self.layers.path(DISK))
        self.machine = Machine(self)

    def planned_origin(self, instance, machine):
        return ORIGIN._replace(machine=machine)

    @contextlib.contextmanager
    def monitor(self, dummy):
        if not self.machine.alive:
            raise ConnectionRefusedError
        yield self.machine

    @property
    def layers(self):
        return Layers(self.look, self.instance)

    def snapshot(self):
        self.made += 1
        uuid = f"{self.made:08d}-0000-4000-8000-000000000000"
        return Snapshot(f"snapshot{self.made}", uuid, "qemu", "", state="running", record=self.instance.to_dict())

    def take(self, with_memory=True):
        snapshot = self.snapshot()
        taken = self.part.take(self.instance, snapshot, with_memory)
        snapshot.memory = taken.memory
        return snapshot

    def kept(self):
        """The names of all files of snapshots but their table, those of one snapshot under its number."""
        names = [name for name in os.listdir(self.layers.directory) if name != "layers.json"]
        return sorted(f"{int(name[:8])}{name[36:]}" for name in names)

    def check(self, thorough=False):
        stack = self.layers.recover()
        for layer in (DISK, *stack.backing) if thorough else ():
            subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", self.layers.path(layer)], check=True)
        assert not os.path.exists(self.look.path(self.instance, live.HALTED))
        assert self.machine.state == "running"
        assert self.machine.nodes[self.machine.top] == os.stat(self.layers.path(DISK)).st_ino


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(saved_state, "origin_of", lambda qmp, pid: ORIGIN)


@pytest.fixture
def quick_tool(monkeypatch):
    """An empty disk is a copy of one that qemu-img has made: it is called often."""

    def overlay(dummy, target, below, size):
        shutil.copy(os.path.join(target.partition("/data/")[0], "template.qcow2"), target)

    monkeypatch.setattr(QemuImg, "overlay", overlay)


@pytest.fixture
def world(tmp_path, monkeypatch):
    world = World(tmp_path)
    monkeypatch.setattr(QemuDriver, "alive", lambda self, instance: world.machine.alive)
    return world


ONE = ["1.machine", "1.memory", "1.qcow2"]


def test_it_runs_on_above_each_layer_and_what_is_kept_goes_with_the_snapshot(world):
    first = world.take()
    second = world.take(with_memory=False)
    assert (first.memory, second.memory) == (len("memory"), 0)
    world.check()
    assert world.layers.read().below(second.uuid) == [second.uuid, first.uuid]
    assert world.kept() == [*ONE, "2.qcow2"]
    world.part.delete(world.instance, first)
    world.check(thorough=True)
    assert world.kept() == ["1.qcow2", "2.qcow2"]  # which the machine reads
    world.machine.alive = False
    world.part.consolidate(world.instance)
    assert world.kept() == ["2.qcow2"]


def test_one_that_was_paused_stays_so(world):
    world.machine.state = "paused"
    world.take(with_memory=False)
    assert world.machine.state == "paused"
    world.machine.cont()
    world.check()


def test_going_back_makes_it_one_that_was_suspended_then(world):
    snapshot = world.take()
    world.machine.alive = False
    assert world.look.observe([world.instance])[0].state == "stopped"
    assert world.part.why_not_resumed(world.instance, snapshot) == ""
    for dummy in range(2):
        world.part.restore(world.instance, snapshot)
        assert world.look.observe([world.instance])[0].state == "suspended"
    # What is saved is the snapshot's still when the instance has used it up.
    saved_state.drop(world.look, world.instance)
    assert world.kept() == ONE
    snapshot.memory = 0
    world.part.restore(world.instance, snapshot)
    assert world.look.observe([world.instance])[0].state == "stopped"


def test_a_suspended_instance_keeps_its_memory_with_a_snapshot_and_its_own(world):
    world.machine.alive = False
    memory = world.look.path(world.instance, "saved.memory")
    with open(memory, "wb") as stream:
        stream.write(b"memory")
    saved_state.note(world.look, world.instance, ORIGIN, 6)
    snapshot = world.snapshot()
    taken = world.part.take(world.instance, snapshot, True)
    assert (taken.memory, taken.quiet) == (6, "suspended")
    assert world.part.take(world.instance, world.snapshot(), False).quiet == "crash"
    assert world.kept() == [*ONE, "2.qcow2"]
    assert world.look.observe([world.instance])[0].state == "suspended"


def test_memory_that_cannot_be_loaded_is_said_before(world):
    snapshot = world.take()
    world.planned_origin = lambda instance, machine: ORIGIN._replace(version="8.0")
    world.part.acts.planned_origin = world.planned_origin
    assert world.part.why_not_resumed(world.instance, snapshot) == "it was saved by QEMU 7.2, and this is 8.0"
    snapshot.driver = "libvirt"
    assert "saved by the driver libvirt" in world.part.why_not_resumed(world.instance, snapshot)
    snapshot.driver = "qemu"
    os.unlink(world.layers.kept(snapshot.uuid, "machine"))
    assert "not known any more" in world.part.why_not_resumed(world.instance, snapshot)


@pytest.mark.parametrize("fails", ["blockdev-add", "stop", "memory", "blockdev-snapshot"])
def test_where_it_fails_the_machine_runs_on_and_nothing_is_left(world, fails):
    before = os.stat(world.layers.path(DISK)).st_ino
    world.machine.fails = fails
    with pytest.raises(HypervisorError):
        world.take()
    world.check()
    assert world.kept() == []
    assert os.stat(world.layers.path(DISK)).st_ino == before
    assert list(world.machine.nodes) == ["disk"]
    world.machine.fails = ""
    world.take()
    world.check()


@pytest.mark.parametrize("full", ["halted.json", "memory.new", "layers.json", "machine"])
def test_a_full_disk_at_any_file_has_the_machine_run_on(world, monkeypatch, full):
    """Whatever there is of a snapshot then, removing it takes away."""
    real = os.rename

    def rename(old, new):
        if str(new).endswith(full) and (full != "layers.json" or world.machine.state != "running"):
            raise OSError(28, "No space left on device")
        real(old, new)

    real_open = os.open

    def opened(path, *args, **kwargs):
        if str(path).endswith(full):
            raise OSError(28, "No space left on device")
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "rename", rename)
    if full == "memory.new":
        monkeypatch.setattr(os, "open", opened)
    with pytest.raises(NoSpace):
        world.take()
    monkeypatch.undo()
    monkeypatch.setattr(QemuDriver, "alive", lambda self, instance: world.machine.alive)
    monkeypatch.setattr(saved_state, "origin_of", lambda qmp, pid: ORIGIN)
    world.part.delete(world.instance, SimpleNamespace(uuid="00000001-0000-4000-8000-000000000000", name="snapshot1"))
    world.check()
    assert world.kept() in ([], ["1.qcow2"])


@pytest.mark.parametrize("then", ["removed", "resumed", "gone"])
@pytest.mark.parametrize("with_memory", [True, False])
def test_a_kill_at_any_step_of_a_live_snapshot(tmp_path, quick_tool, monkeypatch, with_memory, then):
    """What comes next has the machine run on and write its disk alone: removal, resuming, or the end of QEMU too."""
    at = 1
    while True:
        world = World(tmp_path / str(at))
        monkeypatch.setattr(QemuDriver, "alive", lambda self, instance: world.machine.alive)  # noqa: B023
        first = world.take()
        snapshot = world.snapshot()
        world.runtime.report.at, world.runtime.report.count = at, 0
        try:
            world.part.take(world.instance, snapshot, with_memory)
            ended = True
        except Killed:
            ended = False
        world.runtime.report.at = 0
        if then == "resumed" and world.machine.state != "running":
            QemuActs(world.look)._go_on(world.instance, world.machine)
            world.check()
        if then == "gone":
            world.machine.alive = False
        world.part.delete(world.instance, snapshot)
        if then == "gone":
            world.part.consolidate(world.instance)
            live.forget(world.look, world.instance)
            world.machine.start()
        world.check()
        stack = world.layers.read()
        assert set(stack.backing) - set(stack.hidden) == {first.uuid}
        assert [name for name in world.kept() if name != "2.qcow2"] == ONE
        third = world.take()
        world.check()
        assert third.uuid in world.layers.read().backing
        if ended:
            world.check(thorough=True)
            break
        at += 1
    assert at > 8


@pytest.mark.parametrize("what", ["restore", "delete"])
def test_a_kill_at_any_step_of_going_back_and_removing(tmp_path, quick_tool, monkeypatch, what):
    at = 1
    while True:
        world = World(tmp_path / str(at))
        monkeypatch.setattr(QemuDriver, "alive", lambda self, instance: world.machine.alive)  # noqa: B023
        first, second = world.take(), world.take()
        world.machine.alive = False
        act = {
            "restore": lambda: world.part.restore(world.instance, first),  # noqa: B023
            "delete": lambda: world.part.delete(world.instance, second),  # noqa: B023
        }[what]
        world.runtime.report.at, world.runtime.report.count = at, 0
        try:
            act()
            ended = True
        except Killed:
            ended = False
        world.runtime.report.at = 0
        act()
        state = world.look.observe([world.instance])[0].state
        if what == "restore":
            assert state == "suspended"
            assert world.layers.read().disk == first.uuid
            assert world.kept() == [*ONE, *(name.replace("1", "2") for name in ONE)]
        else:
            assert world.kept() == ONE
        saved_state.drop(world.look, world.instance)
        world.machine.start()
        world.check()
        if ended:
            break
        at += 1
    assert at > 3


def test_a_hundred_snapshots_of_one_that_runs(world, quick_tool):
    found = [world.take(with_memory=False) for dummy in range(100)]
    world.check()
    assert len(world.part.listed([world.instance])[world.instance.uuid]) == 100
    for each in found[20:]:
        world.part.delete(world.instance, each)
    world.check()
    world.machine.alive = False
    world.part.restore(world.instance, found[3])
    world.part.consolidate(world.instance)
    # Of those that were removed nothing is needed any more.
    assert len(world.part.listed([world.instance])[world.instance.uuid]) == 20
    assert not world.layers.read().hidden
