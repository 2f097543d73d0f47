# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, RestartRequired
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._reconcile.world import (
    Killed,
    RecordingReporter,
    World,
    three_drivers,
)


@pytest.fixture
def world(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    world.can_suspend = True
    return world


def test_it_is_suspended_and_goes_on(world):
    before = world.run(ports=["8080:80"]).view
    outcome = world.run(state="suspended")
    assert (outcome.actions, outcome.view["state"], outcome.view["owner"]) == (["suspend"], "suspended", "qemu")
    assert world.running() == []
    again = world.run(state="suspended")
    assert (again.changed, again.view) == (False, outcome.view)
    present = world.run(state="present")
    assert (present.changed, present.view["state"]) == (False, "suspended")
    back = world.run()
    assert (back.actions, back.view) == (["start", "wait_ready"], before)
    assert list(world.memories.values()) == [1]
    assert world.clocks == ["minicloud-qemu-web"]
    world.run(state="restarted")
    assert len(world.clocks) == 1


@pytest.mark.parametrize("fatal", range(9))
def test_whichever_step_it_is_cut_off_at_the_next_run_comes_to_the_same(world, fatal):
    world.run()
    with contextlib.suppress(Killed):
        world.run(state="suspended", reporter=RecordingReporter(fatal))
    assert world.run(state="suspended").view["state"] == "suspended"
    with contextlib.suppress(Killed):
        world.run(reporter=RecordingReporter(fatal))
    assert world.run().view["state"] == "running"
    assert list(world.memories.values()) == [1]
    assert world.clocks == ["minicloud-qemu-web"]
    world.check_consistent()


def test_what_cannot_be_loaded_is_said_before_anything_is_done_and_dropped_by_force(world):
    world.run()
    world.run(state="suspended")
    world.unloadable = "the processor is another"
    before = world.everything()
    for check in (True, False):
        with pytest.raises(HypervisorError, match="where it was suspended: the processor is another") as caught:
            world.run(check=check)
        assert "force: true" in caught.value.hint
    assert world.everything() == before
    outcome = world.run(force=True)
    assert outcome.actions == ["drop_memory", "start", "wait_ready"]
    assert (world.saved, world.memories, world.clocks) == ({}, {}, [])


def test_by_force_it_goes_on_where_it_can(world):
    world.run()
    world.run(state="suspended")
    assert world.run(force=True).actions == ["start", "wait_ready"]
    assert list(world.memories.values()) == [1]


@pytest.mark.parametrize(
    ("state", "plain", "forced"),
    [
        ("stopped", ["start", "stop"], ["drop_memory"]),
        ("restarted", ["start", "stop", "start", "wait_ready"], ["drop_memory", "start", "wait_ready"]),
        ("deleted", ["start", "stop", "soft_delete"], ["drop_memory", "soft_delete"]),
        ("absent", ["delete"], ["delete"]),
    ],
)
@pytest.mark.parametrize("force", [True, False])
def test_what_else_can_be_asked_of_it(world, state, plain, forced, force):
    world.run()
    world.run(state="suspended")
    outcome = world.run(state=state, force=force)
    assert outcome.actions == (forced if force else plain)
    assert world.saved == {} or state == "absent"
    there = world.scope.read("web")
    assert there is None or (there.suspended, there.resumed) == ("", False)


def test_what_only_a_stopped_one_takes_on_needs_leave(world):
    world.run()
    world.run(state="suspended")
    with pytest.raises(RestartRequired):
        world.run(cpus=4)
    assert world.run(cpus=4, allow_restart=True).actions == ["start", "stop", "set_cpus", "start", "wait_ready"]


def test_it_belongs_to_its_owner(world, monkeypatch):
    three_drivers(monkeypatch, "suspend")
    world.run()
    world.run(state="suspended")
    with pytest.raises(HypervisorError, match="it was suspended under the driver qemu, and goes on there only"):
        world.run(driver="libvirt")
    assert world.run(driver="libvirt", state="present").view["state"] == "suspended"
    outcome = world.run(driver="libvirt", force=True)
    assert (outcome.actions, outcome.view["owner"]) == (["drop_memory", "start", "wait_ready"], "libvirt")
    assert world.memories == {}


def test_one_that_is_not_there_is_made_for_it(world):
    outcome = world.run(state="suspended")
    assert (outcome.actions, outcome.view["state"]) == (["create", "start", "suspend"], "suspended")


class TestSwitches:
    @pytest.fixture(autouse=True)
    def _drivers(self, monkeypatch):
        three_drivers(monkeypatch, "suspend")

    def test_what_runs_is_suspended_and_goes_on_at_the_way_back(self, world):
        world.run()
        world.switch("lxd")
        assert list(world.saved.values()) == ["qemu"]
        world.switch("qemu")
        assert world.running() == ["qemu/web"]
        assert list(world.memories.values()) == [1]

    def test_what_was_suspended_stays_so(self, world):
        world.run()
        world.run(state="suspended")
        world.switch("lxd")
        world.switch("qemu")
        assert (world.running(), list(world.saved.values())) == ([], ["qemu"])

    def test_where_the_way_back_leads_to_another_driver_of_the_scope_it_goes_on_under_its_owner(self, world):
        world.run()
        world.switch("lxd")
        world.switch("libvirt")
        assert world.running() == ["qemu/web"]
        assert list(world.memories.values()) == [1]

    def test_drivers_that_share_a_scope_hand_on_what_is_stopped(self, world):
        world.run()
        world.switch("libvirt")
        assert (world.saved, world.memories, world.running()) == ({}, {}, ["libvirt/web"])

    def test_what_cannot_be_suspended_is_stopped(self, world):
        world.run()
        world.unloadable = "its machine is in another state"
        world.switch("lxd")
        assert (world.saved, world.running()) == ({}, [])
