# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers import registry
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InvalidOption,
    MissingRequirement,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.driver_listing import list_drivers
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._reconcile.world import World, three_drivers


@pytest.fixture
def world(tmp_path, monkeypatch):
    three_drivers(monkeypatch)
    return World(tmp_path, monkeypatch)


def look(world, names=("qemu", "libvirt", "lxd"), options=None):
    world.told = Runtime(None, Reporter())
    return {entry["name"]: entry for entry in list_drivers(world.told, world.data, names, options)}


def test_what_is_told_of_each(world):
    found = look(world)
    assert list(found) == ["qemu", "libvirt", "lxd"]
    assert found["libvirt"] == {
        "name": "libvirt",
        "active": False,
        "scope": "qemu",
        "capabilities": ["container", "vm"],
        "available": True,
        "why_not": "",
        "version": "1.0",
        "accelerator": "files",
        "accelerator_reason": "",
        "endpoint": "",
        "details": {"colour": "none"},
    }
    assert [name for name, entry in found.items() if entry["active"]] == ["qemu"]
    assert {entry["scope"] for entry in found.values()} == {"qemu", "lxd"}


def test_the_active_one(world):
    world.switch("lxd")
    assert [name for name, entry in look(world).items() if entry["active"]] == ["lxd"]
    world.data.change_settings(switch={"from": "lxd", "to": "qemu"})
    look(world)
    assert len(world.told.report.warnings) == 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            MissingRequirement("libvirtd does not answer", "no such socket", "Start libvirtd."),
            "libvirtd does not answer: no such socket. Start libvirtd.",
        ),
        (HypervisorError("it is too old"), "it is too old."),
        (ImportError("libvirt.so.0: wrong ELF class"), "looking at it failed: ImportError: libvirt.so.0: wrong ELF"),
    ],
    ids=repr,
)
def test_one_that_is_broken_says_why_and_fails_no_other(world, error, text):
    world.fail_before["probe", "libvirt"] = error
    found = look(world)
    assert found["libvirt"]["why_not"].startswith(text)
    assert [found[name]["available"] for name in ("qemu", "libvirt", "lxd")] == [True, False, True]
    assert (found["libvirt"]["version"], found["libvirt"]["details"]) == ("", {})


def test_one_whose_code_cannot_even_be_had(world, monkeypatch):
    def load(name, *args):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("ansible_collections.minicloud.local.plugins.module_utils._reconcile.driver_listing.load", load)
    assert look(world, ["lxd"])["lxd"]["why_not"] == "looking at it failed: ModuleNotFoundError: No module named 'lxd'."


def test_options_go_to_whom_they_concern(world):
    assert look(world, ["lxd"], {"colour": "red"})["lxd"]["details"] == {"colour": "red"}
    # Of several drivers, each takes what it knows; of one, what it does not know is a mistake.
    assert look(world, options={"shape": "round"})["lxd"]["available"]
    assert "'shape'" in look(world, ["lxd"], {"shape": "round"})["lxd"]["why_not"]


def test_looking_makes_nothing(world):
    look(world)
    assert world.files() == []
    assert set(world.calls) == {"probe"}


@pytest.mark.parametrize("name", registry.DRIVERS)
def test_each_driver_of_the_registry_answers(tmp_path, name):
    def run(argv, **dummy):
        raise InvalidOption(f"{argv[0]} is not run here")

    runtime = Runtime(run)
    (entry,) = list_drivers(runtime, DataDirectory(str(tmp_path)), [name])
    assert entry["available"] is not bool(entry["why_not"])
    assert not entry["why_not"].startswith("looking at it failed")
