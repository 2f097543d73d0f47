# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import shutil

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers import registry
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    Busy,
    HypervisorError,
    InUse,
    InvalidOption,
    LaunchError,
    MissingRequirement,
    RecordError,
    SwitchIncomplete,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.scopes import Side, make_switch_plan
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline
from ansible_collections.minicloud.local.plugins.module_utils._writing import write_file
from ansible_collections.minicloud.local.tests.unit import processes
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._reconcile.world import (
    HOST_ARCH,
    Killed,
    RecordingReporter,
    World,
    three_drivers,
)


@pytest.fixture
def drivers(monkeypatch):
    three_drivers(monkeypatch)


@pytest.fixture
def world(tmp_path, monkeypatch, drivers):
    return World(tmp_path, monkeypatch)


def both_sides(world):
    """Running and stopped instances in both scopes, one name in both; qemu is active."""
    for name in ("web", "db"):
        world.run(name=name)
    world.run(name="spare", state="stopped")
    for name in ("web", "box"):
        world.run(name=name, driver="lxd")
    world.run(name="chest", driver="lxd", state="stopped")
    return world


# The plan


def an_instance(name, owner="", ready=True):
    return Instance(name, f"id-{name}", "s", "qemu", "", HOST_ARCH, 1, 1, 1, owner=owner, phase="ready", ready=ready)


WEB, DB, BOX = an_instance("web", "qemu"), an_instance("db", "qemu"), an_instance("box", "lxd")


def side(driver, *instances, running=(), noted=(), scope=""):
    return Side(
        driver,
        scope or driver,
        instances,
        frozenset(each.uuid for each in running),
        {each.uuid: "running" for each in noted},
    )


class TestPlan:
    def test_what_is_active_already(self):
        here = side("qemu", WEB, running=[WEB])
        plan = make_switch_plan(here, here, False, True)
        assert (plan.steps, plan.finish, plan.activate) == ([], False, False)

    def test_between_scopes(self):
        here = side("qemu", WEB, DB, running=[WEB])
        there = side("lxd", BOX, noted=[BOX])
        plan = make_switch_plan(here, there, False, True)
        assert plan.steps == ["stop web", "activate", "start box", "wait_ready box"]
        assert plan.note == {"id-web": "running", "id-db": "stopped"}
        assert make_switch_plan(here, there, False, False).steps == ["stop web", "activate", "start box"]

    def test_what_runs_where_it_is_wanted_is_left_alone(self):
        there = side("lxd", BOX, running=[BOX], noted=[BOX])
        plan = make_switch_plan(side("qemu"), there, False, True)
        assert plan.steps == ["activate"]

    def test_one_that_was_stopped_by_a_killed_run_counts_as_running(self):
        here = side("qemu", WEB, DB, running=[WEB], noted=[DB])
        plan = make_switch_plan(here, side("lxd"), True, True)
        assert plan.steps == ["stop web", "activate"]
        assert plan.note == {"id-web": "running", "id-db": "running"}

    def test_what_runs_is_handed_over_within_a_scope(self):
        mine = an_instance("mine", "libvirt")
        here = side("qemu", WEB, DB, mine, running=[WEB, mine], scope="qemu")
        there = side("libvirt", WEB, DB, mine, running=[WEB, mine], scope="qemu")
        plan = make_switch_plan(here, there, False, True)
        assert plan.steps == ["stop web", "activate", "start web", "wait_ready web"]

    @pytest.mark.parametrize("driver", ["qemu", "lxd"])
    def test_a_switch_that_was_begun_is_finished_or_taken_back(self, driver):
        there = side(driver, WEB, DB, running=[DB], noted=[WEB, DB])
        plan = make_switch_plan(there, there, True, True)
        assert plan.steps == ["start web", "wait_ready web"]
        there = side(driver, WEB, DB, running=[DB, WEB], noted=[WEB, DB])
        assert make_switch_plan(there, there, True, True).steps == ["finish"]

    def test_one_that_is_not_ready_is_waited_for(self):
        slow = an_instance("slow", "lxd", ready=False)
        there = side("lxd", slow, running=[slow], noted=[slow])
        assert make_switch_plan(there, there, True, True).steps == ["wait_ready slow"]
        assert make_switch_plan(there, there, True, False).steps == ["finish"]

    def test_what_is_gone_does_not_come_back(self):
        there = side("lxd", noted=[BOX])
        assert make_switch_plan(side("qemu"), there, False, True).steps == ["activate"]


# Runs


class TestSwitching:
    def test_there_and_back_all_is_as_it_was(self, world):
        both_sides(world)
        before = world.everything()
        there = world.switch("lxd")
        assert there.actions == ["stop db", "stop web", "activate"]
        assert there.driver == {"name": "lxd", "scope": "lxd", "previous": "qemu"}
        assert world.running() == ["lxd/box", "lxd/web"]
        back = world.switch("qemu")
        world.check_consistent()
        assert back.actions == [
            "stop box", "stop web", "activate", "start db", "start web", "wait_ready db", "wait_ready web",
        ]  # fmt: skip
        assert (back.brought_down, back.restored) == (["box", "web"], ["db", "web"])
        assert world.running() == ["qemu/db", "qemu/web"]
        again = world.switch("lxd")
        assert again.restored == ["box", "web"]
        assert world.running() == ["lxd/box", "lxd/web"]
        world.switch("qemu")
        world.run(name="box", driver="lxd")
        world.run(name="web", driver="lxd")
        after = world.everything()
        assert after.records == before.records
        assert (after.disks, after.machines) == (before.disks, before.machines)

    def test_the_active_driver_is_what_tasks_use(self, world):
        world.switch("lxd")
        assert world.run().view["scope"] == "lxd"
        assert world.run(driver="qemu").view["scope"] == "qemu"
        world.switch("qemu")
        assert world.run().view["owner"] == "qemu"

    def test_a_second_run_changes_nothing(self, world):
        both_sides(world)
        assert world.switch("lxd").changed
        before = world.everything()
        again = world.switch("lxd")
        assert (again.changed, again.actions, again.before == again.after) == (False, [], True)
        assert world.everything() == before
        assert before.settings == {"driver": "lxd"}

    def test_what_is_active_by_default_makes_nothing(self, world):
        assert not world.switch("qemu").changed
        assert not os.path.exists(world.data.path)
        assert world.calls == []

    def test_the_diff_tells_who_is_active_and_what_runs(self, world):
        both_sides(world)
        outcome = world.switch("lxd")
        assert outcome.before == {"driver": "qemu", "running": {"qemu": ["db", "web"], "lxd": ["box", "web"]}}
        assert outcome.after == {"driver": "lxd", "running": {"qemu": [], "lxd": ["box", "web"]}}

    def test_what_runs_is_handed_over_with_its_ports(self, world):
        world.run(ports=["8080:80", "443"])
        world.run(name="spare", state="stopped")
        before = world.scope.read("web")
        outcome = world.switch("libvirt")
        assert outcome.actions == ["stop web", "activate", "start web", "wait_ready web"]
        world.check_consistent()
        assert world.running() == ["libvirt/web"]
        after = world.scope.read("web")
        assert (after.ports, after.nics, after.host_keys) == (before.ports, before.nics, before.host_keys)
        assert (after.uuid, after.owner, after.driver) == (before.uuid, "libvirt", "qemu")
        assert not world.switch("libvirt").changed
        world.switch("qemu")
        assert world.running() == ["qemu/web"]

    def test_what_the_wanted_driver_owns_already_runs_on(self, world):
        world.run(name="mine", driver="libvirt")
        world.run()
        assert world.switch("libvirt").actions == ["stop web", "activate", "start web", "wait_ready web"]

    def test_from_a_shared_scope_each_is_stopped_by_its_owner(self, world):
        world.run(name="mine", driver="libvirt")
        world.run()
        world.switch("lxd")
        assert world.running() == []
        world.switch("libvirt")
        assert world.running() == ["libvirt/mine", "libvirt/web"]

    def test_what_was_removed_or_made_anew_meanwhile_does_not_start(self, world):
        both_sides(world)
        world.switch("lxd")
        world.run(name="db", driver="qemu", state="absent")
        world.run(driver="qemu", state="absent")
        world.run(driver="qemu", state="stopped")
        assert world.switch("qemu").restored == []

    def test_what_was_started_meanwhile_runs_on(self, world):
        both_sides(world)
        world.switch("lxd")
        world.run(name="spare", driver="qemu")
        world.switch("qemu")
        assert world.running() == ["qemu/db", "qemu/spare", "qemu/web"]

    def test_leftovers_are_left_alone(self, world):
        world.fail_before["create"] = Killed()
        with pytest.raises(Killed):
            world.run()
        world.fail_before.clear()
        world.switch("lxd")
        assert world.scope.read("web").phase == "creating"
        world.switch("qemu")
        assert world.run().changed
        world.check_consistent()

    def test_without_waiting(self, world):
        both_sides(world)
        world.switch("lxd")
        outcome = world.switch("qemu", wait=False)
        assert outcome.actions[-2:] == ["start db", "start web"]
        assert [world.scope.read(name).ready for name in ("db", "web")] == [False, False]
        assert not world.switch("qemu").changed

    def test_a_timeout_that_cannot_be_meant(self, world):
        for timeout in (0, -1, float("nan")):
            with pytest.raises(InvalidOption, match="is not a time to wait"):
                world.switch("lxd", timeout=timeout)

    def test_options_of_both_drivers_are_taken_and_others_refused(self, world):
        assert world.switch("lxd", options={"colour": "red"}).changed
        with pytest.raises(InvalidOption, match=r"driver_options has the key 'shape'.*They know: colour"):
            world.switch("qemu", options={"shape": "round"})
        assert world.data.settings()["driver"] == "lxd"


class TestCheckMode:
    @pytest.mark.parametrize("name", ["qemu", "libvirt", "lxd"])
    @pytest.mark.parametrize("been_there", [True, False])
    def test_it_says_what_would_be_done_and_does_nothing(self, world, name, been_there):
        both_sides(world)
        if been_there:
            world.switch("lxd")
            world.switch("qemu")
        before = world.everything()
        predicted = world.switch(name, check=True)
        assert set(world.calls) <= {"observe", "require", "probe"}
        assert world.everything() == before
        assert world.switch(name) == predicted

    def test_what_would_be_refused_is_refused(self, world):
        both_sides(world)
        world.fail_before["probe", "lxd"] = MissingRequirement("there is no LXD")
        with pytest.raises(MissingRequirement):
            world.switch("lxd", check=True)


# Failures


class TestFailures:
    def test_a_driver_that_cannot_be_used_is_refused_before_anything_changes(self, world):
        both_sides(world)
        before = world.everything()
        world.fail_before["probe", "lxd"] = MissingRequirement("there is no LXD", hint="Install it.")
        for force in (False, True):
            with pytest.raises(MissingRequirement, match=r"there is no LXD\. Install it\."):
                world.switch("lxd", force=force)
        assert world.everything() == before

    def test_an_instance_that_could_not_be_started_is_told_before_anything_changes(self, world):
        both_sides(world)
        before = world.everything()
        world.fail_before["require", "libvirt"] = MissingRequirement("no UEFI firmware", hint="Install ovmf.")
        with pytest.raises(MissingRequirement, match="db could not be started by the driver libvirt: no UEFI firmware"):
            world.switch("libvirt")
        assert world.everything() == before

    def test_one_that_does_not_stop_is_named_and_nothing_is_lost(self, world):
        both_sides(world)
        world.deaf = {"db"}
        with pytest.raises(SwitchIncomplete) as caught:
            world.switch("lxd", timeout=7)
        error = caught.value
        assert error.facts["instances"] == {"db": "db did not shut down within 7 seconds."}
        assert [word for word in ("timeout", "force: true", "name: qemu") if word not in error.hint] == []
        # The others are down, and what comes next knows.
        assert world.running() == ["lxd/box", "lxd/web", "qemu/db"]
        assert world.data.settings() == {"switch": {"from": "qemu", "to": "lxd"}}
        outcome = world.switch("lxd", force=True)
        assert outcome.actions == ["stop db", "activate"]
        world.deaf = set()
        assert world.switch("qemu").restored == ["db", "web"]
        world.check_consistent()

    def test_the_way_back_after_one_that_does_not_stop(self, world):
        both_sides(world)
        before = world.everything()
        world.deaf = {"db"}
        with pytest.raises(SwitchIncomplete):
            world.switch("lxd")
        assert world.switch("qemu").actions == ["start web", "wait_ready web"]
        after = world.everything()
        assert (after.records, after.machines) == (before.records, before.machines)
        assert after.settings == {}

    def test_one_that_another_run_works_on(self, world):
        both_sides(world)
        with world.scope.lock("web"):
            assert processes.run(lambda: _expect(SwitchIncomplete, lambda: world.switch("lxd", timeout=0.1))) == 0
        assert world.data.settings()["switch"]["to"] == "lxd"
        assert world.switch("lxd").actions == ["stop web", "activate"]

    def test_it_says_of_what_it_suspends_that_it_does(self, world):
        both_sides(world)
        world.can_suspend = True
        foretold = world.switch("lxd", check=True)
        assert world.switch("lxd").actions == foretold.actions == ["suspend db", "suspend web", "activate"]
        assert world.switch("qemu").actions[-3:] == ["start web", "wait_ready db", "wait_ready web"]

    @pytest.mark.parametrize("when", ["fail_before", "fail_after"])
    def test_one_that_does_not_start_is_named_and_the_others_run(self, world, when):
        both_sides(world)
        world.switch("lxd")
        getattr(world, when)["start", "db"] = HypervisorError("the disk is gone")
        with pytest.raises(SwitchIncomplete, match="db: the disk is gone") as caught:
            world.switch("qemu")
        assert set(caught.value.facts["instances"]) == {"db"}
        assert "qemu/web" in world.running()
        assert world.data.settings()["driver"] == "qemu"
        getattr(world, when).clear()
        outcome = world.switch("qemu")
        assert outcome.actions == (["start db"] if when == "fail_before" else []) + ["wait_ready db"]
        assert world.running() == ["qemu/db", "qemu/web"]
        world.check_consistent()
        assert not world.switch("qemu").changed

    def test_one_that_cannot_be_started_any_more_is_given_up_by_force(self, world):
        both_sides(world)
        world.switch("lxd")
        world.fail_before["start", "db"] = HypervisorError("the disk is gone")
        world.switch("qemu", force=True)
        assert [text for text in world.reporter.warnings if "db could not be brought back: the disk" in text]
        assert world.running() == ["qemu/web"]
        assert not world.switch("qemu").changed
        assert world.data.settings() == {"driver": "qemu"}

    def test_a_guest_that_does_not_get_ready_is_waited_for_again(self, world):
        both_sides(world)
        world.switch("lxd")
        world.guest_fails = LaunchError("ssh", "web did not answer")
        with pytest.raises(SwitchIncomplete, match="web did not answer"):
            world.switch("qemu")
        world.guest_fails = None
        assert world.switch("qemu").actions == ["wait_ready db", "wait_ready web"]
        assert not world.switch("qemu").changed

    @pytest.mark.parametrize("name", ["lxd", "libvirt"])
    def test_a_hypervisor_that_does_not_answer_is_left_only_by_force(self, world, name):
        both_sides(world)
        before = world.everything()
        world.fail_before["observe", "qemu"] = HypervisorError("there is nobody")
        with pytest.raises(HypervisorError, match=r"cannot be told: there is nobody\. Put that right, or set force"):
            world.switch(name)
        assert world.everything() == before
        outcome = world.switch(name, force=True)
        assert outcome.actions == ["activate"]
        assert [text for text in world.reporter.warnings if "left as they are: there is nobody" in text]
        assert "qemu/web" in world.running()
        world.fail_before.clear()
        world.switch("qemu")
        assert "qemu/web" in world.running()

    def test_a_forced_switch_does_not_forget_what_was_noted(self, world):
        both_sides(world)
        world.deaf = {"web"}
        with pytest.raises(SwitchIncomplete):
            world.switch("lxd")
        world.fail_before["observe", "qemu"] = HypervisorError("there is nobody")
        world.switch("lxd", force=True)
        world.fail_before.clear()
        world.deaf = set()
        assert world.switch("qemu").restored == ["db"]

    def test_a_scope_without_instances_needs_no_hypervisor(self, world):
        world.fail_before["observe", "qemu"] = world.fail_before["probe", "qemu"] = HypervisorError("there is nobody")
        assert world.switch("lxd").actions == ["activate"]

    def test_a_driver_that_this_version_does_not_have_can_be_left(self, world):
        world.data.change_settings(driver="vanished")
        assert world.switch("lxd").driver["previous"] == "vanished"

    def test_a_damaged_record_is_a_warning(self, world):
        both_sides(world)
        path = os.path.join(world.scope.directory("web"), "instance.json")
        with open(path, "rb") as stream:
            whole = stream.read()
        write_file(path, b"{")
        world.switch("lxd")
        assert [text for text in world.reporter.warnings if path in text]
        write_file(path, whole)
        assert "qemu/web" in world.running()

    @pytest.mark.parametrize("content", [b"{", b"[]", b'{"schema": 1, "noted": []}', b'{"schema": 99}'])
    def test_a_damaged_note_is_told_before_anything_changes(self, world, content):
        both_sides(world)
        path = os.path.join(world.data.path, "scopes", "lxd", "scope.json")
        write_file(path, content)
        running = world.running()
        with pytest.raises(RecordError) as caught:
            world.switch("lxd")
        assert path in str(caught.value)
        assert "move its directory away" not in str(caught.value)
        assert (world.running(), world.data.settings()) == (running, {})


def _expect(error, body):
    with pytest.raises(error):
        body()


# Killed runs


class TestKilledRuns:
    """Whatever step a switch is killed at, the next one ends where an undisturbed one does."""

    SCENARIOS = {
        "to the other scope": ([], "lxd"),
        "and back": (["lxd"], "qemu"),
        "hand-over": ([], "libvirt"),
        "into the shared scope": (["lxd"], "libvirt"),
    }

    def begin(self, path, monkeypatch, scenario, suspending=False):
        def world(where):
            made = World(where, monkeypatch)
            made.can_suspend = suspending
            return made

        # The same for each step, so it is made once and copied.
        first = path.parent / "first"
        if not first.exists():
            begun = both_sides(world(first))
            for name in self.SCENARIOS[scenario][0]:
                begun.switch(name)
        shutil.copytree(first, path)
        return world(path)

    @pytest.mark.parametrize("scenario", SCENARIOS)
    @pytest.mark.parametrize(
        ("how", "suspending"), [("interrupted", False), ("interrupted", True), ("killed", False), ("killed", True)]
    )
    def test_the_next_run_finishes_it(self, tmp_path, monkeypatch, drivers, scenario, how, suspending):
        name = self.SCENARIOS[scenario][1]
        undisturbed = self.begin(tmp_path / "undisturbed", monkeypatch, scenario, suspending)
        undisturbed.switch(name)
        steps, then = undisturbed.reporter.steps, undisturbed.everything()
        assert len(steps) > 8
        for number, step in enumerate(steps):
            world = self.begin(tmp_path / str(number), monkeypatch, scenario, suspending)
            self.kill(world, name, number, how)
            where = f"killed at step {number} ({step}) of {steps}"
            world.switch(name)
            world.check_consistent()
            assert world.everything() == then, where
            assert not world.switch(name).changed, where

    @pytest.mark.parametrize("scenario", SCENARIOS)
    @pytest.mark.parametrize("suspending", [False, True])
    def test_or_another_run_takes_it_back(self, tmp_path, monkeypatch, drivers, scenario, suspending):
        name = self.SCENARIOS[scenario][1]
        counted = self.begin(tmp_path / "counted", monkeypatch, scenario, suspending)
        before, running = registry.active_driver(counted.data), counted.running()
        counted.switch(name)
        for number, step in enumerate(counted.reporter.steps):
            world = self.begin(tmp_path / str(number), monkeypatch, scenario, suspending)
            self.kill(world, name, number, "interrupted")
            world.switch(before)
            world.check_consistent()
            here = [each for each in world.running() if registry.scope_of(each.split("/")[0]) == before]
            was = [each for each in running if registry.scope_of(each.split("/")[0]) == before]
            assert here == was, f"killed at step {number} ({step})"
            assert not world.paused, f"killed at step {number} ({step})"
            assert "switch" not in world.data.settings()

    @pytest.mark.parametrize("scenario", ["to the other scope", "hand-over"])
    def test_or_it_goes_on_elsewhere(self, tmp_path, monkeypatch, drivers, scenario):
        name = self.SCENARIOS[scenario][1]
        other = {"lxd": "libvirt", "libvirt": "lxd"}[name]
        counted = self.begin(tmp_path / "counted", monkeypatch, scenario)
        counted.switch(name)
        for number, step in enumerate(counted.reporter.steps):
            world = self.begin(tmp_path / str(number), monkeypatch, scenario)
            self.kill(world, name, number, "interrupted")
            world.switch(other)
            world.switch("qemu")
            world.check_consistent()
            here = [each for each in world.running() if not each.startswith("lxd/")]
            assert here == ["qemu/db", "qemu/web"], f"killed at step {number} ({step})"

    @staticmethod
    def kill(world, name, number, how):
        if how == "interrupted":
            with pytest.raises(Killed):
                world.switch(name, reporter=RecordingReporter(number))
        else:
            dies = RecordingReporter(number, processes.kill_myself)
            assert processes.run(lambda: world.switch(name, reporter=dies)) == -9

    def test_tasks_meanwhile_use_what_is_active_and_say_so(self, world):
        both_sides(world)
        with pytest.raises(Killed):
            world.switch("lxd", reporter=RecordingReporter(2))
        outcome = world.run(name="late")
        assert outcome.view["scope"] == "qemu"
        (warning,) = world.reporter.warnings
        assert "from qemu to lxd is not finished" in warning
        assert "tasks that name no driver use qemu" in warning
        world.run(name="late", driver="qemu")
        assert world.reporter.warnings == []
        world.switch("lxd")
        assert world.switch("qemu").restored == ["db", "late", "web"]
        world.run(name="late")
        assert world.reporter.warnings == []


# Runs at the same time


class TestRunsAtOnce:
    def test_the_second_waits_and_has_nothing_to_do(self, world):
        both_sides(world)
        read, write = os.pipe()
        ready, go = processes.Signal(), processes.Signal()

        def body():
            reporter = RecordingReporter()
            ready.give()
            go.wait()
            outcome = world.switch("lxd", reporter=reporter)
            os.write(write, f"{outcome.changed}\n".encode())

        pids = [processes.start(body) for dummy in range(3)]
        for dummy in pids:
            ready.wait()
        go.give(len(pids))
        assert [processes.end(pid) for pid in pids] == [0] * 3
        os.close(write)
        with open(read, encoding="ascii") as stream:
            assert sorted(stream.read().split()) == ["False", "False", "True"]
        assert world.running() == ["lxd/box", "lxd/web"]

    def test_one_that_takes_too_long_is_named(self, world):
        both_sides(world)
        with world.data.lock("switch", Deadline(1)):
            assert processes.run(lambda: _expect(Busy, lambda: world.switch("lxd", timeout=0.1))) == 0
        assert world.data.settings() == {}

    def test_what_another_run_starts_meanwhile_comes_down_too(self, world):
        both_sides(world)
        reporter = RecordingReporter()

        def launch_another():
            assert processes.run(lambda: World.run(world, name="late")) == 0

        reporter.at["stop web"] = launch_another
        outcome = world.switch("lxd", reporter=reporter)
        assert outcome.brought_down == ["db", "web", "late"]
        assert world.running() == ["lxd/box", "lxd/web"]
        assert world.switch("qemu").restored == ["db", "late", "web"]

    def test_runs_that_start_without_end_are_told(self, world):
        both_sides(world)

        class Starter(RecordingReporter):
            def step(self, name):
                super().step(name)
                if name.startswith("stop "):
                    assert processes.run(lambda: World.run(world, name=f"late-{len(self.steps)}")) == 0

        with pytest.raises(InUse, match="other runs start instances as fast"):
            world.switch("lxd", reporter=Starter())
        assert registry.active_driver(world.data) == "qemu"
        world.switch("lxd")
        assert {"db", "web"} <= set(world.switch("qemu").restored)

    def test_removed_and_stopped_meanwhile(self, world):
        both_sides(world)
        world.switch("lxd")
        reporter = RecordingReporter()
        reporter.at["activated"] = lambda: processes.run(
            lambda: World.run(world, name="db", driver="qemu", state="absent")
        )
        world.switch("qemu", reporter=reporter)
        assert world.running() == ["qemu/web"]
        assert world.data.settings() == {"driver": "qemu"}
