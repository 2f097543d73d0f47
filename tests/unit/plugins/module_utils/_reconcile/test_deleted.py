# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import config as lxd_config
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import ports
from ansible_collections.minicloud.local.plugins.module_utils._model import PortForward
from ansible_collections.minicloud.local.plugins.module_utils._reconcile import autostart, purge
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.instances import reconcile_instance
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.listing import list_instances
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._reconcile.world import (
    Killed,
    RecordingReporter,
    World,
    three_drivers,
)


@pytest.fixture
def world(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    monkeypatch.setattr(purge, "load", world._load)
    return world


def purged(world, age, check=False, **params):
    """One task that purges."""
    options = {
        "state": "absent", "purge_older_than": age, "force": False, "timeout": 300, "driver": None,
        "driver_options": None, "name": None, "wait": True, "cloud_init_errors": "fail", "recreate": False, **params,
    }  # fmt: skip
    return purge.purge_instances(options, world._runtime(None), world.data, check)


def age(world, name, when):
    world.scope.write(replace(world.scope.read(name), deleted=when))


def test_it_is_put_aside_and_comes_back_as_it_was(world):
    before = world.run(ports=["8080:80"], tags={"a": "b"}).view
    disk = world.read_disk()
    outcome = world.run(state="deleted")
    assert outcome.actions == ["stop", "soft_delete"]
    assert (outcome.view["state"], outcome.view["owner"]) == ("deleted", "")
    assert outcome.view["deleted"] >= outcome.view["created"]
    assert world.running() == []
    again = world.run(state="deleted")
    assert (again.changed, again.view) == (False, outcome.view)
    back = world.run()
    assert back.actions == ["recover", "start", "wait_ready"]
    assert back.view == before
    assert world.read_disk() == disk
    world.check_consistent()


@pytest.mark.parametrize("fatal", range(12))
@pytest.mark.parametrize("there", ["running", "stopped"])
def test_whichever_step_it_is_cut_off_at_the_next_run_comes_to_the_same(world, fatal, there):
    world.run(state=there)
    with contextlib.suppress(Killed):
        world.run(state="deleted", reporter=RecordingReporter(fatal))
    assert world.run(state="deleted").view["state"] == "deleted"
    with contextlib.suppress(Killed):
        world.run(reporter=RecordingReporter(fatal))
    back = world.run().view
    assert (back["state"], back["deleted"]) == ("running", "")
    world.check_consistent()


def test_it_gives_up_its_ports(world):
    world.run()
    there = world.scope.read("web")
    there.ports = [PortForward("127.0.0.1", 8080, 80)]
    assert ports._ports_of([there]) == {8080, there.ssh_port}
    there.deleted = "2020-01-01T00:00:00Z"
    assert ports._ports_of([there]) == set()


def test_it_does_not_start_with_the_host(world):
    world.run(autostart=True)
    assert autostart.needs_unit(world.scope.read("web"))
    world.run(state="deleted")
    there = world.scope.read("web")
    assert not autostart.needs_unit(there)
    assert ("qemu", "web") in world.reconfigured
    assert lxd_config.config_of(there, "/data")["boot.autostart"] == "false"
    world.reconfigured.clear()
    world.run(state="stopped")
    assert autostart.needs_unit(world.scope.read("web"))
    assert ("qemu", "web") in world.reconfigured


def test_it_is_listed(world):
    world.run(state="stopped")
    world.run(state="deleted")
    (found,) = list_instances(world._runtime(None), world.data, [None])
    assert found.observed.state == "deleted"


def test_one_that_somebody_has_started_is_told_as_running(world):
    world.run()
    age(world, "web", "2020-01-01T00:00:00Z")
    outcome = world.run(state="present")
    assert (outcome.actions, outcome.view["state"], outcome.view["deleted"]) == (["recover"], "running", "")


def test_a_switch_leaves_it_alone(world, monkeypatch):
    three_drivers(monkeypatch)
    world.run()
    world.run(state="deleted")
    assert world.switch("lxd").actions == ["activate"]
    assert world.switch("qemu").actions == ["activate"]
    assert world.running() == []
    assert world.run(state="deleted").changed is False


def test_what_is_older_is_purged(world):
    for name in ("old", "new", "there"):
        world.run(name=name, state="stopped")
    for name in ("old", "new"):
        world.run(name=name, state="deleted")
    age(world, "old", "2020-01-01T00:00:00Z")
    check = purged(world, "14d", check=True)
    assert (check.changed, check.actions, world.scope.read("old") is not None) == (True, ["delete old"], True)
    outcome = purged(world, "14d")
    assert (outcome.changed, outcome.actions, outcome.view) == (True, ["delete old"], None)
    assert [each.name for each in world.instances()] == ["new", "there"]
    assert purged(world, "14d").changed is False


def test_one_that_stays_does_not_keep_the_others(world):
    for name in ("a", "b"):
        world.run(name=name, state="stopped")
        world.run(name=name, state="deleted")
        age(world, name, "2020-01-01T00:00:00Z")
    world.protected.add("a")
    with pytest.raises(HypervisorError, match="a is protected") as caught:
        purged(world, "1h")
    assert caught.value.facts["purged"] == ["b"]
    assert [each.name for each in world.instances()] == ["a"]


def test_one_that_is_recovered_meanwhile_stays(world):
    world.run(state="stopped")
    world.run(state="deleted")
    age(world, "web", "2020-01-01T00:00:00Z")
    reporter = RecordingReporter()
    wish = purge.Wish("web", state="absent", deleted_before="2021-01-01T00:00:00Z")
    reporter.at["delete"] = lambda: None
    world.run(state="present")
    outcome = reconcile_instance(wish, world._runtime(reporter), world.data, None)
    assert (outcome.changed, outcome.view["state"]) == (False, "stopped")


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"age": "14"}, "Did you mean 14d"),
        ({"age": "soon"}, "is not a time"),
        ({"age": "14d", "name": "web"}, "the task has name"),
        ({"age": "14d", "state": "running"}, "the task has state: running"),
        ({"age": "14d", "recreate": True}, "the task has recreate"),
    ],
)
def test_what_cannot_be_meant(world, params, error):
    params = dict(params)
    with pytest.raises(InvalidOption, match=error):
        purged(world, params.pop("age"), **params)
