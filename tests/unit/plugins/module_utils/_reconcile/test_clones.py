# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers import registry
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Clones, Snapshots, Taken
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    Busy,
    HypervisorError,
    InUse,
    InvalidOption,
    NotFound,
    NotSupported,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import GIB, RUNNING, STOPPED, Mount, Nic
from ansible_collections.minicloud.local.plugins.module_utils._reconcile import mounts, purge, snapshots
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot
from ansible_collections.minicloud.local.plugins.module_utils._writing import write_file
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._reconcile.test_clouds import CloudWorld
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._reconcile.world import (
    FakeDriver,
    Killed,
    RecordingReporter,
    three_drivers,
)

SNAPSHOT = "00000000-0000-4000-8000-000000000001"


class FakeSnapshots(Snapshots):
    """Notes in a file beside the disk which snapshots were taken."""

    def __init__(self, driver):
        self.driver = driver

    def why_not(self, instance, with_memory):
        state = self.driver.observe([instance])[0].state
        if state != STOPPED and not self.driver.world.snaps_live:
            return f"it is {state}"
        return ""

    def _path(self, instance, snapshot):
        return os.path.join(self.driver.scope.directory(instance.name), "snapshots", f"{snapshot.uuid}.taken")

    def take(self, instance, snapshot, with_memory):
        assert not with_memory
        assert self.driver.scope.snapshots(instance.name).all()[0][-1].phase == "creating"
        self.driver.world.fail(self.driver.world.fail_before, "take", self.driver.name, (instance,))
        write_file(self._path(instance, snapshot), b"")
        self.driver.runtime.report.step("taken")
        return Taken(0, "crash")

    def restore(self, instance, snapshot):
        raise AssertionError

    def delete(self, instance, snapshot):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(instance, snapshot))

    def listed(self, instances):
        raise AssertionError


class FakeClones(Clones):
    """Gives a clone a disk that tells whose it is and of which snapshot."""

    def __init__(self, driver):
        self.driver = driver

    def make(self, instance, parent, snapshot, seed, full):
        world, scope = self.driver.world, self.driver.scope
        for each in (instance, parent):  # whoever makes a clone holds both locks
            with pytest.raises(Busy), scope.lock(each.name, Deadline(0)):
                pass
        assert scope.read(instance.name).phase == "creating"
        if snapshot is None:
            assert not FakeDriver.alive(self.driver, parent)
        elif snapshot.phase == "creating":
            assert os.path.exists(FakeSnapshots(self.driver)._path(parent, snapshot))
        world.fail(world.fail_before, "make", self.driver.name, (instance,))
        self.driver.runtime.report.step("copying")
        disk = {
            "size": instance.disk,
            "image": instance.image["hash"],
            "disk_uuid": instance.uuid,
            "of": parent.name,
            "at": snapshot.name if snapshot and snapshot.phase == "ready" else "",
        }
        write_file(os.path.join(scope.directory(instance.name), "disk"), json.dumps(disk).encode())
        world.seeds[instance.name] = seed
        self.driver.runtime.report.step("copied")
        world.fail(world.fail_after, "make", self.driver.name, (instance,))
        return "full" if full else "linked"

    def linked(self, parent, others):
        assert all(each.source["uuid"] == parent.uuid for each in others)
        return [each for each in others if each.source.get("copy") == "linked"]


def _snapshots_of(driver):
    return FakeSnapshots(driver)


def _clones_of(driver):
    return FakeClones(driver)


@pytest.fixture
def world(tmp_path, monkeypatch):
    three_drivers(monkeypatch, "snapshots", "clones")
    world = CloudWorld(tmp_path, monkeypatch)
    monkeypatch.setattr(purge, "load", world._load)
    world.snaps_live, world.seeds, world.synced = True, {}, []
    monkeypatch.setattr(FakeDriver, "snapshots", _snapshots_of)
    monkeypatch.setattr(FakeDriver, "clones", _clones_of)
    monkeypatch.setattr(
        "ansible_collections.minicloud.local.plugins.module_utils._reconcile.clones.sync_guest",
        lambda instance, *dummy: world.synced.append(instance.name),
    )
    monkeypatch.setattr(mounts, "check_mounts", lambda *dummy: None)
    return world


def clone(world, source="web", name="copy", **params):
    return world.run(name=name, source=source, **params)


def keep(world, **values):
    """A snapshot that there is of web."""
    there = world.scope.read("web")
    snapshot = Snapshot("Before", SNAPSHOT, "qemu", "", phase="ready", record=there.to_dict())
    world.scope.snapshots("web").write(replace(snapshot, **values))
    return snapshot


def test_it_is_as_its_source_but_for_what_is_its_own(world):
    world.run(cpus=2, memory="2G", disk="20G", tags={"a": "b"}, ports=["80", "8080:81"], autostart=False, user="ann")
    there = world.scope.read("web")
    outcome = clone(world)
    made = world.scope.read("copy")
    assert outcome.actions == ["create", "start", "wait_ready"]
    same = ("cpus", "memory", "disk", "tags", "arch", "instance_type", "image", "user", "autostart")
    assert {name: getattr(made, name) for name in same} == {name: getattr(there, name) for name in same}
    assert [port.guest_port for port in made.ports] == [80, 81]
    assert not {port.host_port for port in made.ports} & {port.host_port for port in there.ports}
    assert made.nics[0].network == there.nics[0].network
    assert made.nics[0].mac != there.nics[0].mac
    assert made.uuid != there.uuid
    assert made.host_keys == ["ssh-ed25519 HOSTKEY copy"]
    assert made.source == {"name": "web", "uuid": there.uuid, "snapshot": "", "copy": "linked"}
    assert (outcome.view["source"], outcome.view["source_copy"]) == ("web", "linked")
    assert (made.snapshot, made.origin, world.scope.snapshots("copy").all()[0]) == ("", {}, [])
    assert world.running() == ["qemu/copy", "qemu/web"]


def test_what_the_task_names_goes_before(world):
    world.run(state="stopped", tags={"a": "b"}, ports=["80"], cpus=2)
    clone(world, cpus=3, memory="3G", disk="30G", tags={}, ports=[], state="present", networks=[{"name": "user"}])
    made = world.scope.read("copy")
    assert (made.cpus, made.memory, made.disk, made.tags, made.ports) == (3, 3 * GIB, 30 * GIB, {}, [])
    assert world.read_disk("copy")["size"] == 30 * GIB


def test_addresses_and_what_is_known_of_mounts_stay_with_the_source(world):
    world.run(state="stopped")
    there = world.scope.read("web")
    nics = [Nic("user", "52:54:00:00:00:01", "manual", "10.0.0.9", "10.0.0.9")]
    mount = Mount("/srv", "/mnt", mechanism="tar", copied="x", failure="y")
    world.scope.write(replace(there, nics=nics, mounts=[mount]))
    clone(world, state="present")
    made = world.scope.read("copy")
    assert [(nic.network, nic.mode, nic.address) for nic in made.nics] == [("user", "manual", "")]
    assert made.nics[0].mac not in ("", nics[0].mac)
    assert made.mounts == [Mount("/srv", "/mnt")]


def test_again_nothing_changes_whatever_has_become_of_the_source(world):
    world.run(state="stopped")
    clone(world)
    assert clone(world, source="WEB").changed is False
    world.run(new_name="www", state="present")
    assert clone(world).changed is False
    assert clone(world, source="www").changed is False
    assert world.reporter.warnings == []
    world.run(name="www", state="absent", force=True)
    assert clone(world).changed is False
    assert clone(world, recreate=True).changed is False
    assert world.reporter.warnings == []


def test_another_source_is_drift(world):
    world.run(state="stopped")
    world.run(name="db", state="stopped")
    clone(world)
    outcome = clone(world, source="db")
    assert not outcome.changed
    assert "source is db, and it is a clone of web" in world.reporter.warnings[0]
    clone(world, source_copy="full")
    assert "source_copy is linked, not full" in world.reporter.warnings[0]
    world.run(name="db", source="web", state="stopped")
    assert "source is web, and it is made from the image" in world.reporter.warnings[0]
    before = world.read_disk("copy")["disk_uuid"]
    again = clone(world, source="db", recreate=True)
    assert again.actions == ["delete", "create", "start", "wait_ready"]
    assert (world.read_disk("copy")["of"], world.read_disk("copy")["disk_uuid"] != before) == ("db", True)


def test_of_a_snapshot_it_is_as_the_source_was_then(world):
    world.run(state="stopped", memory="2G")
    keep(world)
    world.run(state="stopped", memory="4G")
    outcome = clone(world, source="web@before", source_copy="full")
    made = world.scope.read("copy")
    assert (made.memory, world.read_disk("copy")["at"]) == (2 * GIB, "Before")
    assert (outcome.view["source"], outcome.view["source_copy"]) == ("web@before", "full")
    keep(world, name="renamed")
    assert clone(world, source="web@renamed").changed is False
    assert clone(world, source="web").changed is False
    assert "a clone of web@before" in world.reporter.warnings[0]


def test_of_one_that_runs_a_snapshot_is_taken_and_goes_again(world):
    world.run()
    clone(world)
    assert world.synced == ["web"]
    assert world.scope.snapshots("web").all()[0] == []
    assert not [name for name in world.files() if name.endswith(".taken")]


def test_where_none_can_be_taken_it_has_to_be_stopped(world):
    world.snaps_live = False
    world.run()
    before = world.everything()
    with pytest.raises(InUse, match=r"copy cannot be made from web: it is running. Stop web first"):
        clone(world)
    assert world.everything() == before
    keep(world)
    assert clone(world, source="web@before").changed


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ({"source": "nobody"}, NotFound, "there is no instance nobody to make copy from"),
        ({"source": "web@nothing"}, NotFound, "web has no snapshot nothing"),
        ({"source": "copy"}, InvalidOption, "copy cannot be made from itself"),
        ({"disk": "1G"}, InvalidOption, "is smaller than that of the source web"),
        ({"instance_type": "container"}, InvalidOption, "cannot have instance_type: container"),
    ],
    ids=str,
)
@pytest.mark.parametrize("check", [True, False])
def test_what_cannot_be_is_refused_before_anything_changes(world, params, error, words, check):
    world.run(state="stopped")
    before = world.everything()
    with pytest.raises(error, match=words):
        world.run(check=check, **{"name": "copy", "source": "web", **params})
    assert world.everything() == before


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"deleted": "2026-01-01T00:00:00Z"}, "web is deleted, since 2026"),
        ({"phase": "removing"}, "web is not whole"),
        ({"restoring": SNAPSHOT}, "back to a snapshot was cut off"),
    ],
    ids=str,
)
def test_a_source_that_is_not_fit_is_refused(world, values, words):
    world.run(state="stopped")
    world.scope.write(replace(world.scope.read("web"), **values))
    before = world.everything()
    with pytest.raises(InUse, match=words):
        clone(world)
    assert world.everything() == before


def test_a_driver_that_has_no_clones_says_so(world, monkeypatch):
    world.run(state="stopped")
    about = registry.ABOUT["qemu"]
    monkeypatch.setitem(registry.ABOUT, "qemu", about._replace(capabilities={"vm": ("vm",), "snapshots": ("vm",)}))
    with pytest.raises(NotSupported, match=r"cannot do source: web.*libvirt"):
        clone(world)


def test_a_prediction_changes_nothing(world):
    world.run(user="ann")
    before = world.everything()
    outcome = world.run(check=True, name="copy", source="web")
    assert (outcome.changed, outcome.actions) == (True, ["create", "start", "wait_ready"])
    assert (outcome.view["source"], outcome.view["source_copy"]) == ("web", "linked")
    assert (outcome.view["user"], outcome.view["ssh"]["user"]) == ("ann", "ann")
    assert outcome.view["ansible_vars"]["ansible_user"] == "ann"
    assert world.run(check=True, name="copy", source="web", user="eve").view["user"] == "eve"
    assert world.everything() == before


def test_what_has_linked_clones_goes_by_force_only(world):
    world.run(state="stopped")
    clone(world)
    clone(world, name="Copy2")
    clone(world, name="own", source_copy="full")
    before = world.everything()
    for check in (True, False):
        for params in ({"state": "absent"}, {"image": "26.04", "recreate": True}):
            with pytest.raises(InUse, match="linked clones were made of it: copy, Copy2") as caught:
                world.run(check=check, **params)
            assert caught.value.facts["clones"] == ["copy", "Copy2"]
            assert world.everything() == before
    world.run(new_name="www", state="present")
    with pytest.raises(InUse, match="www cannot be removed"):
        world.run(name="www", state="absent")
    world.run(name="www", state="deleted")
    world.run(name="www", state="stopped")
    assert world.run(name="www", state="absent", force=True).changed
    assert world.run(name="copy", state="absent").changed


def test_clones_of_a_removed_one_do_not_keep_its_successor(world):
    world.run(state="stopped")
    clone(world)
    world.run(state="absent", force=True)
    world.run(state="stopped")
    assert world.run(state="absent").changed


@pytest.mark.parametrize("there", [STOPPED, RUNNING])
def test_whichever_step_it_is_cut_off_at_the_next_run_comes_to_the_same(tmp_path, world, there):
    world.run(state=there)
    source = world.read_disk("web")
    for fatal in range(60):
        reporter = RecordingReporter(fatal)
        with contextlib.suppress(Killed):
            clone(world, reporter=reporter)
        ended = len(reporter.steps) <= fatal
        outcome = clone(world)
        assert outcome.view["state"] == RUNNING
        assert world.read_disk("copy")["of"] == "web"
        assert clone(world).changed is False
        assert world.read_disk("web") == source
        assert world.scope.snapshots("web").all()[0] == []
        assert not [name for name in world.files() if name.endswith(".taken")]
        assert world.run(name="copy", state="absent").changed
        assert world.run(state=there).changed is False
        if ended:
            break
    assert fatal > 5
    assert ended


@pytest.mark.parametrize("there", [STOPPED, RUNNING])
@pytest.mark.parametrize("when", ["take", "make", "made"])
def test_what_fails_leaves_nothing_of_the_clone_and_the_source_as_it_was(world, there, when):
    if when == "take" and there == STOPPED:
        return
    world.run(state=there)
    before = world.everything()
    failures = world.fail_after if when == "made" else world.fail_before
    failures["make" if when == "made" else when] = HypervisorError("no")
    with pytest.raises(HypervisorError):
        clone(world)
    after = world.everything()
    for what in ("records", "disks", "machines", "known_hosts"):
        assert getattr(after, what) == getattr(before, what)
    assert not [name for name in after.files if "copy" in name or name.endswith(".taken")]
    assert world.scope.snapshots("web").all()[0] == []


def test_the_login_user_of_the_source_stays_unless_another_is_named(world):
    world.run(user="ann", state="stopped")
    assert clone(world).view["user"] == "ann"
    vendor = world.seeds["copy"]["vendor-data"].decode()
    assert "multipart" in vendor
    assert clone(world, name="two", user="bob").view["user"] == "bob"
    assert clone(world, name="three", cloud_init={"users": [{"name": "eve"}]}).view["user"] == "eve"
    assert clone(world, name="four", cloud_init={"packages": ["nginx"]}).view["user"] == "ann"
    assert world.seeds["copy"]["user-data"].decode().split() == ["#cloud-config", "{}"]
    assert "nginx" in world.seeds["four"]["user-data"].decode()


def test_it_waits_for_a_run_that_changes_the_source(world):
    world.run(state="stopped")
    for name in ("aaa", "zzz"):  # before and after it in the order of names
        with world.scope.lock("web"), pytest.raises(Busy, match="lock on qemu-instance-web"):
            clone(world, name=name, timeout=0.01)
        assert world.scope.read(name) is None
        assert clone(world, name=name, state="stopped").changed


def test_a_cloud_makes_what_others_are_made_from_first(world):
    document = {"copy": {"source": "base", "cpus": 2}, "base": {"memory": "2G"}, "grandchild": {"source": "copy"}}
    for check in (True, False):
        found = world.cloud(instances=document, check=check).view["instances"]
        assert [each["name"] for each in found] == ["copy", "base", "grandchild"]
        assert [each["source"] for each in found] == ["base", "", "copy"]
        assert [(each["memory"], each["cpus"]) for each in found] == [(2 * GIB, 2), (2 * GIB, 1), (2 * GIB, 2)]
    assert [world.read_disk(name)["of"] for name in ("copy", "grandchild")] == ["base", "copy"]
    assert world.cloud(instances=document).changed is False
    with pytest.raises(InUse, match="linked clones were made of it: copy"):
        world.run(name="base", state="absent")
    assert world.cloud(state="absent").changed
    assert world.there() == []


def test_those_that_were_deleted_long_ago_go_with_their_clones(world):
    world.run(state="stopped")
    clone(world, state="stopped")
    for name in ("web", "copy"):
        world.run(name=name, state="deleted")
        world.scope.write(replace(world.scope.read(name), deleted="2026-01-01T00:00:00Z"))
    params = {"state": "absent", "purge_older_than": "1d", "driver": None, "driver_options": None, "data_dir": None}
    outcome = purge.purge_instances({**params, "force": False, "timeout": 9}, world._runtime(None), world.data)
    assert sorted(outcome.after) == ["copy", "web"]
    assert world.there() == []


def test_what_another_kind_of_run_has_left_of_a_snapshot_stays_for_that(world):
    world.run()
    keep(world, phase="creating")
    world.scope.write(replace(world.scope.read("web"), snapshot=SNAPSHOT))
    clone(world)
    assert [each.uuid for each in world.scope.snapshots("web").all()[0]] == [SNAPSHOT]


def test_a_snapshot_that_has_linked_clones_goes_by_force_only(world, monkeypatch):
    monkeypatch.setattr(snapshots, "load", world._load)
    world.run(state="stopped")
    keep(world)
    clone(world, source="web@before")
    clone(world, name="other")

    def remove(check, **wish):
        wish = snapshots.SnapshotWish("web", "before", "absent", **wish)
        return snapshots.reconcile_snapshot(wish, world._runtime(None), world.data, None, None, check)

    for check in (True, False):
        with pytest.raises(InUse, match=r"the snapshot Before of web cannot be removed: linked clones .*: copy\."):
            remove(check)
    assert remove(False, force=True).actions == ["delete"]
    assert clone(world, source="web@before").changed is False
