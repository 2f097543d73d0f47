# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots as layers, with the real qemu-img: what each reads as, whatever was done to the others, and after kills."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.driver import QemuDriver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import snapshots as family
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.layers import Layers
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import DISK
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import ABOUT
from ansible_collections.minicloud.local.plugins.module_utils._errors import RecordError
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot

pytestmark = pytest.mark.skipif(
    not (shutil.which("qemu-img") and shutil.which("qemu-io")), reason="this host has no qemu-img and qemu-io"
)

SIZE = 8 << 20


class Killed(BaseException):
    """The end of a run that nothing in it may catch."""


class Killer(Reporter):
    """Ends the run at a step."""

    def __init__(self, at=0):
        super().__init__()
        self.at, self.count = at, 0

    def step(self, name):
        self.count += 1
        if self.count == self.at:
            raise Killed(name)


class World:
    """One instance whose guest writes with qemu-io."""

    def __init__(self, path):
        path.mkdir(exist_ok=True)
        self.data = DataDirectory(str(path / "data"))
        self.scope = self.data.scope("qemu")
        base = str(path / "base.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", base, str(SIZE)], check=True)
        uuid = "00000000-0000-4000-8000-000000000000"
        self.instance = Instance("web", uuid, "qemu", "qemu", "", "x86_64", 1, 1, SIZE, image={"path": base})
        self.instance.phase = "ready"
        self.scope.write(self.instance)
        self.runtime = Runtime(run, Killer())
        self.driver = QemuDriver(ABOUT["qemu"], self.runtime, self.scope)
        self.part = self.driver.snapshots()
        self.part._tool(self.instance).overlay(self.layers.path(DISK), base, SIZE)
        self.known, self.wanted, self.made = {}, {}, 0

    @property
    def layers(self):
        return Layers(self.driver, self.instance)

    def write(self, number, at=0):
        chain = [layer.path for layer in self.layers.chain(DISK)]
        options = "driver=qcow2,file.driver=file,file.filename="
        image = f"{options}{chain[0]}"
        for depth, below in enumerate(chain[1:], start=1):
            key = "backing." * depth
            image += f",{key}driver=qcow2,{key}file.driver=file,{key}file.filename={below}"
        command = f"write -P {number} {at << 16} 64k"
        subprocess.run(["qemu-io", "--image-opts", image, "-c", command], check=True, capture_output=True)

    def hash_of(self, layer):
        target = os.path.join(self.data.path, "raw")
        self.part._tool(self.instance).convert(self.layers.chain(layer), target, "raw", SIZE)
        with open(target, "rb") as stream:
            found = hashlib.sha256(stream.read().rstrip(b"\0")).hexdigest()
        os.unlink(target)
        return found

    def snapshot(self):
        self.made += 1
        uuid = f"{self.made:08d}-0000-4000-8000-000000000000"
        return Snapshot(f"snapshot{self.made}", uuid, "qemu", "", record=self.instance.to_dict())

    def take(self):
        snapshot = self.snapshot()
        self.part.take(self.instance, snapshot, False)
        self.keep(snapshot)
        return snapshot

    def keep(self, snapshot):
        self.known[snapshot.uuid] = snapshot
        self.wanted[snapshot.uuid] = self.hash_of(DISK)

    def forget(self, snapshot):
        del self.known[snapshot.uuid], self.wanted[snapshot.uuid]

    def check(self):
        """Assert that each snapshot reads as when it was taken, and that nothing is left over."""
        stack = self.layers.recover()
        assert set(stack.backing) - set(stack.hidden) == set(self.known)
        assert {uuid: self.hash_of(uuid) for uuid in self.known} == self.wanted
        there = {name for name in os.listdir(self.layers.directory) if name != "layers.json"}
        assert there == {f"{layer}.qcow2" for layer in stack.backing}
        for layer in (DISK, *stack.backing):
            subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", self.layers.path(layer)], check=True)


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return World(tmp_path)


def three(world):
    """Three snapshots in a row, each with something of its own, and a disk that differs from the last."""
    found = []
    for number in (1, 2, 3):
        world.write(number, number)
        world.write(number)
        found.append(world.take())
    world.write(9)
    return found


def test_each_is_what_it_was_and_the_disk_comes_back(world):
    first, dummy, third = three(world)
    world.check()
    world.part.restore(world.instance, first)
    assert world.hash_of(DISK) == world.wanted[first.uuid]
    world.write(7)
    branch = world.take()
    world.check()
    world.part.restore(world.instance, third)
    assert world.hash_of(DISK) == world.wanted[third.uuid]
    assert world.layers.read().backing[branch.uuid] == first.uuid
    world.check()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_removing_one_leaves_the_others_and_the_disk(world, number):
    found = three(world)
    disk = world.hash_of(DISK)
    world.part.delete(world.instance, found[number])
    world.part.delete(world.instance, found[number])
    world.forget(found[number])
    world.check()
    assert world.hash_of(DISK) == disk
    assert not world.layers.read().hidden


def test_a_layer_that_two_need_stays_until_one_does(world):
    first, second, third = three(world)
    world.part.restore(world.instance, second)
    world.write(8)
    branch = world.take()
    world.part.delete(world.instance, second)
    world.forget(second)
    world.check()
    assert world.layers.read().hidden == (second.uuid,)
    world.part.delete(world.instance, third)
    world.forget(third)
    world.check()
    assert world.layers.read().hidden == ()
    assert world.layers.read().backing[branch.uuid] == first.uuid


def test_deep_disks_become_flat_and_nothing_else_changes(world, monkeypatch):
    monkeypatch.setattr(family, "DEEPEST", 2)
    three(world)
    disk = world.hash_of(DISK)
    assert world.part.consolidate(world.instance)
    assert not world.part.consolidate(world.instance)
    stack = world.layers.read()
    assert len(stack.below(stack.disk)) == 1
    assert world.hash_of(DISK) == disk
    world.check()


def test_without_its_table_nothing_is_touched(world):
    three(world)
    table = os.path.join(world.layers.directory, "layers.json")
    os.unlink(table)
    before = sorted(os.listdir(world.layers.directory))
    with pytest.raises(RecordError, match="is missing"):
        world.take()
    assert sorted(os.listdir(world.layers.directory)) == before


@pytest.mark.parametrize("what", ["take", "restore", "delete", "consolidate"])
def test_a_kill_at_any_step_leaves_every_snapshot_and_the_next_run_comes_to_the_end(tmp_path, monkeypatch, what):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(family, "DEEPEST", 2 if what == "consolidate" else 25)
    at = 1
    while True:
        world = World(tmp_path / str(at))
        found = three(world)
        disk = world.hash_of(DISK)
        new = world.snapshot()
        acts = {
            "take": lambda: world.part.take(world.instance, new, False),  # noqa: B023
            "restore": lambda: world.part.restore(world.instance, found[0]),  # noqa: B023
            "delete": lambda: world.part.delete(world.instance, found[1]),  # noqa: B023
            "consolidate": lambda: world.part.consolidate(world.instance),  # noqa: B023
        }
        world.runtime.report.at, world.runtime.report.count = at, 0
        try:
            acts[what]()
            ended = True
        except Killed:
            ended = False
        world.runtime.report.at = 0
        assert world.hash_of(DISK) in (disk, world.wanted[found[0].uuid])
        acts[what]()
        if what == "take":
            world.keep(new)
        if what == "delete":
            world.forget(found[1])
        assert world.hash_of(DISK) == (world.wanted[found[0].uuid] if what == "restore" else disk)
        world.check()
        if ended:
            break
        at += 1
    assert at > 2
