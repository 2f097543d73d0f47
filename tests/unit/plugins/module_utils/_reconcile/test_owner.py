# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two drivers that share a scope: whoever runs an instance acts on it, whichever of them a task names."""

from __future__ import annotations

import os

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, InUse
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._reconcile.world import (
    Killed,
    RecordingReporter,
    World,
)

BOTH = ("qemu", "libvirt")


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def running_under(world):
    return [world.read_machine(uuid)["driver"] for uuid in os.listdir(world.machines)]


def other(driver):
    return BOTH[1 - BOTH.index(driver)]


@pytest.mark.parametrize("driver", BOTH)
class TestOneRunsIt:
    @pytest.fixture(autouse=True)
    def launched(self, world, driver):
        world.run(driver=driver)

    def test_the_other_finds_nothing_to_do(self, world, driver):
        seen = world.run(driver=other(driver))
        assert (seen.changed, seen.view["owner"]) == (False, driver)
        assert running_under(world) == [driver]

    def test_the_other_has_it_stopped_by_its_owner_and_starts_it(self, world, driver):
        assert world.run(driver=other(driver), state="stopped").actions == ["stop"]
        assert running_under(world) == []
        assert world.scope.read("web").owner == ""
        started = world.run(driver=other(driver))
        assert started.actions == ["start", "wait_ready"]
        assert started.view["owner"] == other(driver)
        assert started.view["driver"] == driver
        assert running_under(world) == [other(driver)]
        assert sorted(world.scope.read("web").handles) == sorted(BOTH)

    def test_a_restart_through_the_other_makes_it_the_owner(self, world, driver):
        done = world.run(driver=other(driver), cpus=2, allow_restart=True)
        assert done.actions == ["stop", "set_cpus", "start", "wait_ready"]
        assert running_under(world) == [other(driver)]
        assert world.run(driver=driver, cpus=2).view["owner"] == other(driver)

    def test_a_prediction_names_the_new_owner(self, world, driver):
        predicted = world.run(check=True, driver=other(driver), state="restarted")
        assert predicted.view["owner"] == other(driver)
        assert running_under(world) == [driver]

    def test_its_ports_are_changed_by_its_owner(self, world, driver):
        assert world.run(driver=other(driver), ports=["8080:80"]).actions == ["set_ports"]
        assert running_under(world) == [driver]
        world.check_consistent()

    def test_its_owner_hears_of_its_tags(self, world, driver):
        world.run(driver=other(driver), tags={"role": "web"})
        assert world.reconfigured == [(driver, "web")]

    def test_it_is_removed_through_the_other(self, world, driver):
        assert world.run(driver=other(driver), state="absent").actions == ["delete"]
        assert running_under(world) == []
        assert world.instances() == []

    def test_it_is_replaced_through_the_other(self, world, driver):
        assert "delete" in world.run(driver=other(driver), image="26.04", recreate=True).actions
        assert running_under(world) == [other(driver)]

    def test_an_owner_that_has_ended_by_itself_owns_it_no_more(self, world, driver):
        (uuid,) = os.listdir(world.machines)
        os.unlink(os.path.join(world.machines, uuid))
        assert world.run(driver=other(driver), state="stopped").view["owner"] == ""
        assert world.run(driver=other(driver)).view["owner"] == other(driver)

    def test_an_owner_that_cannot_be_asked_is_an_error_and_nothing_is_started(self, world, driver):
        world.fail_before["observe", driver] = HypervisorError(f"{driver} does not answer")
        with pytest.raises(HypervisorError, match=f"{driver} does not answer"):
            world.run(driver=other(driver))
        assert running_under(world) == [driver]

    def test_what_was_started_by_hand_is_not_started_twice(self, world, driver):
        world.run(driver=other(driver), state="restarted")
        instance = world.scope.read("web")
        world.scope.write(type(instance)(**{**vars(instance), "owner": ""}))
        with pytest.raises(InUse) as caught:
            world.run(driver=driver)
        assert f"runs under the driver {other(driver)}" in str(caught.value)
        assert f"driver: {other(driver)}" in caught.value.hint
        assert running_under(world) == [other(driver)]


@pytest.mark.parametrize("method", ["start", "stop", "delete"])
def test_a_failure_of_the_one_leaves_the_other_able(world, method):
    world.run(driver="libvirt")
    if method != "start":
        world.fail_before[method, "libvirt"] = HypervisorError("not now")
        with pytest.raises(HypervisorError, match="not now"):
            world.run(driver="qemu", state="absent" if method == "delete" else "stopped")
        world.fail_before.clear()
    else:
        world.run(state="stopped")
        world.fail_before["start", "libvirt"] = HypervisorError("not now")
        with pytest.raises(HypervisorError, match="not now"):
            world.run(driver="libvirt")
    assert world.run(driver="qemu").view["state"] == "running"
    assert len(running_under(world)) == 1


def test_a_handover_that_is_killed_anywhere_is_finished_by_the_next_run(tmp_path, monkeypatch):
    at = 0
    while True:
        world = World(tmp_path / str(at), monkeypatch)
        world.run(driver="qemu")
        try:
            world.run(driver="libvirt", memory="2G", allow_restart=True, reporter=RecordingReporter(at))
            break
        except Killed:
            pass
        world.run(driver="libvirt", memory="2G", allow_restart=True)
        again = world.run(driver="libvirt", memory="2G", allow_restart=True)
        assert not again.changed, at
        assert running_under(world) == ["libvirt"], at
        assert world.scope.read("web").memory == 2 << 30
        world.check_consistent()
        at += 1
    assert at > 6


class TestChangedBehindItsBack:
    def test_a_stopped_one_is_reported_and_put_right_once(self, world):
        world.run(driver="libvirt", state="stopped")
        world.drift["libvirt", "web"] = ("its cpus are 3, not 1",)
        predicted = world.run(check=True, driver="libvirt", state="stopped")
        assert predicted.actions == ["reconfigure"]
        assert world.reconfigured == []
        done = world.run(driver="libvirt", state="stopped")
        assert done.actions == ["reconfigure"]
        assert world.reporter.warnings == ["web: its cpus are 3, not 1."]
        assert not world.run(driver="libvirt", state="stopped").changed
        assert world.reporter.warnings == []

    def test_a_start_puts_it_right_by_itself(self, world):
        world.run(driver="libvirt", state="stopped")
        world.drift["libvirt", "web"] = ("its cpus are 3, not 1",)
        assert world.run(driver="libvirt").actions == ["start", "wait_ready"]
        assert not world.run(driver="libvirt").changed

    def test_a_running_one_is_reported_and_left_alone(self, world):
        world.run(driver="libvirt")
        world.drift["libvirt", "web"] = ("its cpus are 3, not 1",)
        assert not world.run(driver="qemu").changed
        assert world.reporter.warnings == ["web: its cpus are 3, not 1."]
