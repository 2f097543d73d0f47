# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.listing import list_instances
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._writing import write_file
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._reconcile.world import World, three_drivers

ALL = ("qemu", "libvirt", "lxd")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """web runs under qemu, db under libvirt in the same scope, and in that of lxd there is another web."""
    three_drivers(monkeypatch)
    world = World(tmp_path, monkeypatch)
    world.run()
    world.run(name="db", driver="libvirt")
    world.run(name="Spare", state="stopped")
    world.run(driver="lxd", state="stopped", cpus=3)
    world.calls.clear()
    return world


def found(world, drivers, options=None):
    world.told = Reporter()
    listed = list_instances(Runtime(None, world.told), world.data, drivers, options)
    return [(each.instance.scope, each.instance.name, each.observed.state, each.driver.name) for each in listed]


QEMU_SCOPE = [
    ("qemu", "db", "running", "libvirt"),
    ("qemu", "Spare", "stopped", "qemu"),
    ("qemu", "web", "running", "qemu"),
]


def test_all_drivers_list_each_instance_once_by_name_and_scope(world):
    assert found(world, ALL) == [QEMU_SCOPE[0], QEMU_SCOPE[1], ("lxd", "web", "stopped", "lxd"), QEMU_SCOPE[2]]
    assert world.told.warnings == []


def test_each_owner_is_asked_once_for_what_it_runs(world):
    found(world, ALL)
    assert world.calls.count("observe") == 3


@pytest.mark.parametrize("driver", ["qemu", "libvirt"])
def test_a_shared_scope_is_the_same_through_each_of_its_drivers(world, driver):
    listed = found(world, [driver])
    assert [each[:3] for each in listed] == [each[:3] for each in QEMU_SCOPE]
    assert {each[1]: each[3] for each in listed} == {"db": "libvirt", "Spare": driver, "web": "qemu"}


def test_none_is_the_active_driver(world):
    assert found(world, [None]) == found(world, ["qemu"])
    world.data.change_settings(driver="lxd")
    assert found(world, [None]) == [("lxd", "web", "stopped", "lxd")]


def test_the_same_name_in_two_scopes_is_two_instances(world):
    listed = list_instances(Runtime(None, Reporter()), world.data, ALL)
    views = {each.instance.scope: each.view(world.data) for each in listed if each.instance.name == "web"}
    assert (views["qemu"]["cpus"], views["lxd"]["cpus"]) == (1, 3)
    assert (views["qemu"]["owner"], views["lxd"]["owner"]) == ("qemu", "")
    assert views["qemu"]["console_log"] != views["lxd"]["console_log"]


@pytest.mark.parametrize(
    ("dead", "left"),
    [
        ("lxd", [("db", "qemu"), ("Spare", "qemu"), ("web", "qemu")]),
        ("libvirt", [("Spare", "qemu"), ("web", "lxd"), ("web", "qemu")]),
        ("qemu", [("db", "qemu"), ("web", "lxd")]),
    ],
)
def test_a_dead_driver_is_a_warning_and_the_others_are_listed(world, dead, left):
    world.fail_before["observe", dead] = HypervisorError(f"{dead} does not answer")
    assert [(name, scope) for scope, name, dummy, dummy in found(world, ALL)] == left
    assert world.told.warnings == [
        f"The instances of the driver {dead} are not listed: {dead} does not answer."
    ]  # fmt: skip


def test_a_driver_that_cannot_even_be_had(world, monkeypatch):
    from ansible_collections.minicloud.local.plugins.module_utils._drivers import registry
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile import listing

    def load(name, *args, **kwargs):
        if name == "libvirt":
            raise InvalidOption("there is no driver 'libvirt'")
        return world._load(name, *args, **kwargs)

    for user_of_it in (registry, listing):
        monkeypatch.setattr(user_of_it, "load", load)
    assert [name for dummy, name, *dummy in found(world, ALL)] == ["Spare", "web", "web"]
    assert len(world.told.warnings) == 1


def test_a_damaged_record_is_a_warning_and_the_others_are_listed(world):
    path = os.path.join(world.scope.directory("web"), "instance.json")
    write_file(path, b"{")
    assert [each[:2] for each in found(world, ALL)] == [("qemu", "db"), ("qemu", "Spare"), ("lxd", "web")]
    (warning,) = world.told.warnings
    assert path in warning


def test_drivers_that_are_named_together_share_options(world):
    assert len(found(world, ALL, {"colour": "red", "uri": "qemu:///session"})) == 4
    assert world.told.warnings == []
    # One alone is asked for what it does not know.
    assert found(world, ["qemu"], {"uri": "qemu:///session"}) == []
    (warning,) = world.told.warnings
    assert "driver_options has the key 'uri', which the driver qemu does not know" in warning


def test_looking_writes_nothing(world):
    before = world.everything()
    found(world, ALL)
    assert world.everything() == before
    assert set(world.calls) <= {"observe"}
