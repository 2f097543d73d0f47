# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tasks of the module snapshot on instances that run: what is kept, what comes back, and runs that are killed."""

from __future__ import annotations

import contextlib
import json
import os

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Snapshots, Taken
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption, NotSupported
from ansible_collections.minicloud.local.plugins.module_utils._model import STOPPED
from ansible_collections.minicloud.local.plugins.module_utils._reconcile import snapshots
from ansible_collections.minicloud.local.plugins.module_utils._writing import write_file
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._reconcile.world import (
    FakeDriver,
    Killed,
    RecordingReporter,
    World,
    three_drivers,
)


class FakeSnapshots(Snapshots):
    """Keeps what is on the disk, and whether the memory was saved too."""

    def __init__(self, driver):
        self.driver, self.world = driver, driver.world

    def why_not(self, instance, with_memory):
        stopped = self.driver.observe([instance])[0].state == STOPPED
        return "it is stopped" if with_memory and stopped else ""

    def why_not_resumed(self, instance, snapshot):
        return "" if snapshot.driver == self.driver.name else f"it was saved by the driver {snapshot.driver}"

    def _path(self, instance, snapshot):
        return os.path.join(self.driver.scope.directory(instance.name), "snapshots", f"{snapshot.uuid}.taken")

    def take(self, instance, snapshot, with_memory):
        step, runs = self.driver.runtime.report.step, self.driver.alive(instance)
        if runs:
            self.world.paused.add(instance.uuid)
        step("halted")
        write_file(self._path(instance, snapshot), json.dumps(self.world.read_disk()).encode())
        step("kept")
        self.world.paused.discard(instance.uuid)
        step("goes_on")
        return Taken(5 if with_memory else 0, "crash" if runs else "stopped")

    def restore(self, instance, snapshot):
        assert not self.driver.alive(instance)
        with open(self._path(instance, snapshot), "rb") as stream:
            write_file(os.path.join(self.driver.scope.directory(instance.name), "disk"), stream.read())
        self.driver.runtime.report.step("put_back")
        self.world.saved.pop(instance.uuid, None)
        if snapshot.memory:
            self.world.saved[instance.uuid] = self.driver.name
        self.driver.runtime.report.step("memory_back")

    def delete(self, instance, snapshot):
        self.world.paused.discard(instance.uuid)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(instance, snapshot))
        self.driver.runtime.report.step("gone")

    def listed(self, instances):
        return {}


class LiveWorld(World):
    """One instance that runs, whose disk has something on it."""

    def __init__(self, path, monkeypatch):
        super().__init__(path, monkeypatch)
        self.can_suspend = True
        monkeypatch.setattr(snapshots, "load", self._load)
        self.run()
        self.write("one")

    def write(self, text):
        disk = {**self.read_disk(), "data": text}
        write_file(os.path.join(self.scope.directory("web"), "disk"), json.dumps(disk).encode())

    def snapshot(self, reporter=None, driver=None, check=False, **params):
        wish = snapshots.parse_snapshot_wish({"instance": "web", **params})
        return snapshots.reconcile_snapshot(wish, self._runtime(reporter), self.data, driver, None, check)

    def kept(self):
        """The names of the snapshots, and that each is whole and nothing else is there."""
        found = self.scope.snapshots("web").all()[0]
        assert {each.phase for each in found} <= {"ready"}
        there = os.listdir(os.path.join(self.scope.directory("web"), "snapshots")) if found else []
        assert sorted(name for name in there if name.endswith(".taken")) == sorted(f"{e.uuid}.taken" for e in found)
        return sorted(each.name for each in found)

    def state(self):
        there = self.scope.read("web")
        return FakeDriver.observe(self._load(there.owner or "qemu", self._runtime(None), self.data), [there])[0].state


def _snapshots_of(driver):
    return FakeSnapshots(driver)


@pytest.fixture(autouse=True)
def drivers(monkeypatch):
    three_drivers(monkeypatch, "snapshots", "suspend")
    monkeypatch.setattr(FakeDriver, "snapshots", _snapshots_of)
    monkeypatch.setattr(
        "ansible_collections.minicloud.local.plugins.module_utils._reconcile.syncing.sync_guest", lambda *dummy: True
    )


@pytest.fixture
def world(tmp_path, monkeypatch):
    return LiveWorld(tmp_path, monkeypatch)


def test_it_goes_on_from_where_it_was(world):
    taken = world.snapshot(name="a").view
    assert (taken["saved_memory"], taken["state"], taken["file_systems"]) == (5, "running", "synced")
    world.write("two")
    outcome = world.snapshot(name="a", state="restored")
    assert outcome.actions == ["safeguard", "stop", "restore", "start", "wait_ready"]
    assert (world.read_disk()["data"], world.state()) == ("one", "running")
    assert list(world.memories.values()) == [1]
    assert world.kept() == ["a", "snapshot1"]
    world.snapshot(name="snapshot1", state="restored", safeguard=False)
    assert world.read_disk()["data"] == "two"


def test_its_memory_can_be_left_out(world):
    world.snapshot(name="a")
    world.snapshot(name="a", state="restored", memory="no", safeguard=False)
    assert (world.state(), world.memories) == ("running", {})
    assert world.snapshot(name="b", memory="no").view["saved_memory"] == 0
    with pytest.raises(InvalidOption, match="was not saved"):
        world.snapshot(name="b", state="restored", memory="yes")


def test_under_another_driver_it_is_refused_before_anything_changes(world):
    world.snapshot(name="a")
    before = world.scope.read("web").to_dict()
    for check in (True, False):
        with pytest.raises(NotSupported, match="saved by the driver qemu"):
            world.snapshot(name="a", state="restored", driver="libvirt", check=check)
    assert (world.scope.read("web").to_dict(), world.kept()) == (before, ["a"])
    world.snapshot(name="a", state="restored", driver="libvirt", memory="no", safeguard=False)
    assert world.scope.read("web").owner == "libvirt"


def test_a_suspended_one_is_kept_so_and_comes_back_so(world):
    world.run(state="suspended")
    assert world.snapshot(name="a").view["state"] == "suspended"
    world.run()
    world.snapshot(name="a", state="restored")
    assert world.state() == "suspended"
    world.run()
    assert world.state() == "running"


@pytest.mark.parametrize("what", ["take", "restore", "delete"])
def test_a_run_that_is_killed_at_any_step_is_gone_on_with(tmp_path, monkeypatch, what):
    params = {"take": {"name": "b"}, "restore": {"name": "a", "state": "restored"}}.get(what)
    params = params or {"name": "a", "state": "absent"}
    number = 0
    while True:
        world = LiveWorld(tmp_path / str(number), monkeypatch)
        world.snapshot(name="a")
        world.write("two")
        try:
            world.snapshot(RecordingReporter(number), **params)
            ended = True
        except Killed:
            ended = False
        world.snapshot(**params)
        assert world.state() == "running"
        names = world.kept()
        if what == "take":
            assert (names, world.read_disk()["data"]) == (["a", "b"], "two")
        elif what == "restore":
            # What it had become is kept; the number of one that was not finished is not given again.
            assert "a" in names
            assert any(name.startswith("snapshot") for name in names)
            assert world.read_disk()["data"] == "one"
        else:
            assert (names, world.read_disk()["data"]) == ([], "two")
        if ended:
            break
        number += 1
    assert number > 4
