# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import InUse, InvalidOption, RestartRequired
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._reconcile.world import (
    Killed,
    RecordingReporter,
    World,
)


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def without_names(view):
    """What stays as it is: nothing that has the name in it."""
    named = ("name", "ssh", "console_log", "ansible_vars", "state", "owner", "addresses", "networks")
    return {key: value for key, value in view.items() if key not in named}


def test_everything_stays_but_the_name(world):
    before = world.run(state="stopped", tags={"a": "b"}).view
    disk = world.read_disk()
    outcome = world.run(new_name="www", state="present")
    assert (outcome.changed, outcome.actions, outcome.view["name"]) == (True, ["rename"], "www")
    assert (outcome.before["name"], outcome.after["name"]) == ("web", "www")
    assert without_names(outcome.view) == without_names(before)
    assert world.read_disk("www") == disk
    assert world.scope.read("web") is None
    there = world.scope.read("www")
    assert (there.new_name, there.renamed_from) == ("", "")
    world.check_consistent()


def test_both_names_again_change_nothing(world):
    world.run(state="stopped")
    world.run(new_name="www", state="present")
    before = world.everything()
    again = world.run(new_name="www", state="present")
    assert (again.changed, again.actions, again.view["name"]) == (False, [], "www")
    assert world.everything() == before


def test_one_that_is_not_there_is_made_with_the_new_name(world):
    assert world.run(new_name="www").view["name"] == "www"
    assert world.scope.read("web") is None


@pytest.mark.parametrize("state", ["running", "present", "stopped", "restarted"])
def test_one_that_runs_is_stopped_for_it_with_leave_only(world, state):
    world.run()
    before = world.everything()
    with pytest.raises(RestartRequired, match="web must be stopped to be renamed to www"):
        world.run(new_name="www", state=state)
    assert world.everything() == before
    outcome = world.run(new_name="www", state=state, allow_restart=True)
    started = [] if state == "stopped" else ["start", "wait_ready"]
    assert outcome.actions == ["rename", *started]
    assert world.running() == ([] if state == "stopped" else ["qemu/www"])
    with open(world.data.known_hosts, encoding="ascii") as stream:
        assert "minicloud-qemu-web" not in stream.read()
    world.check_consistent()


def test_a_prediction_changes_nothing(world):
    world.run(state="stopped")
    before = world.everything()
    outcome = world.run(check=True, new_name="www", state="present")
    assert (outcome.changed, outcome.actions, outcome.view["name"]) == (True, ["rename"], "www")
    assert world.everything() == before


@pytest.mark.parametrize("fatal", range(14))
@pytest.mark.parametrize("there", ["stopped", "running"])
def test_whichever_step_it_is_cut_off_at_the_next_run_comes_to_the_same(world, fatal, there):
    made = world.run(state=there).view
    disk = world.read_disk()
    with contextlib.suppress(Killed):
        world.run(new_name="www", allow_restart=True, reporter=RecordingReporter(fatal))
    outcome = world.run(new_name="www", allow_restart=True)
    assert (outcome.view["name"], outcome.view["state"]) == ("www", "running")
    assert without_names(outcome.view) | {"cloud_init": 0} == without_names(made) | {"cloud_init": 0}
    assert [each.name for each in world.instances()] == ["www"]
    assert world.read_disk("www") == disk
    there_now = world.scope.read("www")
    assert (there_now.new_name, there_now.renamed_from) == ("", "")
    assert world.run(new_name="www", allow_restart=True).changed is False


def test_what_was_cut_off_is_finished_by_a_start_too(world):
    world.run(state="stopped")
    reporter = RecordingReporter()
    reporter.at["moved"] = reporter.killed
    with pytest.raises(Killed):
        world.run(new_name="www", state="present", reporter=reporter)
    there = world.scope.read("www")
    assert (there.name, there.renamed_from) == ("www", "web")
    assert world.run(name="www").view["state"] == "running"
    assert world.scope.read("www").renamed_from == ""


def test_a_name_that_is_taken_is_refused(world):
    world.run(state="stopped")
    world.run(name="www", state="stopped")
    with pytest.raises(InUse, match="there is an instance of that name"):
        world.run(new_name="www", state="present")
    world.run(name="www", state="deleted")
    with pytest.raises(InUse, match="which is deleted and can be recovered"):
        world.run(new_name="www", state="present")
    world.run(name="www", state="absent")
    os.makedirs(world.scope.directory("www"))
    with pytest.raises(InUse):
        world.run(new_name="www", state="present")
    assert world.scope.read("web").name == "web"


def test_what_is_suspended_is_not_renamed(world):
    world.can_suspend = True
    world.run()
    world.run(state="suspended")
    with pytest.raises(RestartRequired, match="it is suspended"):
        world.run(new_name="www", allow_restart=True)


def test_a_directory_that_somebody_has_renamed_is_still_refused(world):
    world.run(state="stopped")
    os.rename(world.scope.directory("web"), world.scope.directory("www"))
    assert world.scope.instances()[1] != []


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"new_name": "-"}, "new_name"),
        ({"new_name": "WEB"}, "is the name that it has"),
        ({"new_name": "www", "state": "absent"}, "does not go with state: absent"),
    ],
)
def test_what_cannot_be_meant(world, params, error):
    with pytest.raises(InvalidOption, match=error):
        world.run(**params)
