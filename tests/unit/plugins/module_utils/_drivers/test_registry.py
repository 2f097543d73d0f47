# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import platform

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers import registry
from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.look import LibvirtLooks
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption, NotSupported
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


@pytest.fixture
def data(tmp_path):
    return DataDirectory(str(tmp_path))


@pytest.mark.parametrize("name", registry.DRIVERS)
def test_every_driver_can_be_had_by_its_name(data, name):
    driver = registry.load(name, Runtime(None), data)
    assert isinstance(driver, Driver)
    assert driver.name == name
    assert driver.scope.name == driver.about.scope == registry.scope_of(name)
    assert driver.about is registry.ABOUT[name]


@pytest.mark.parametrize("name", registry.DRIVERS)
def test_a_capability_is_there_because_something_of_the_driver_brings_it(data, monkeypatch, name):
    monkeypatch.setattr(LibvirtLooks, "library", lambda self: None)
    driver = registry.load(name, Runtime(None), data)
    brought: dict[str, set[str]] = {}
    for each in (driver, driver.acts, *driver.parts()):
        for capability, types in each.capabilities.items():
            brought.setdefault(capability, set()).update(types)
    about = registry.ABOUT[name]
    assert {capability: set(types) for capability, types in about.capabilities.items()} == brought
    assert about.can("vm") or about.can("container")


def test_the_active_driver_is_used_when_none_is_named(data, monkeypatch):
    monkeypatch.setattr(registry, "default_driver", lambda: "qemu")
    assert registry.load(None, Runtime(None), data).name == "qemu"
    data.change_settings(driver="vanished")
    with pytest.raises(InvalidOption) as caught:
        registry.load(None, Runtime(None), data)
    assert "there is no driver 'vanished'" in str(caught.value)
    assert "qemu" in caught.value.hint
    assert registry.load("qemu", Runtime(None), data).name == "qemu"


@pytest.mark.parametrize(
    ("system", "machine", "there", "name"),
    [
        ("Linux", "x86_64", ("qemu", "lxd"), "qemu"),
        ("Linux", "aarch64", ("qemu", "lxd"), "lxd"),
        ("Linux", "aarch64", ("qemu",), "qemu"),
        ("Darwin", "arm64", ("qemu", "lxd"), "qemu"),
    ],
)
def test_the_default_driver_suits_the_host(monkeypatch, system, machine, there, name):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(registry, "ABOUT", dict.fromkeys(there))
    assert registry.default_driver() == name


def test_every_capability_is_explained():
    had = {capability for about in registry.ABOUT.values() for capability in about.capabilities}
    assert had - set(registry.CAPABILITY_TEXTS) == set()


def test_a_missing_capability_names_the_drivers_that_have_it(monkeypatch):
    both = {"fly": ("vm", "container")}
    for name, capabilities in (("a", {}), ("b", both), ("c", both), ("d", {"fly": ("container",)})):
        about = registry.ABOUT["qemu"]._replace(name=name, capabilities=capabilities)
        monkeypatch.setitem(registry.ABOUT, name, about)
    registry.require_capability("b", "fly", "flying")
    registry.require_capability("d", "fly", "flying")
    registry.require_capability("d", "fly", "flying", "container")
    with pytest.raises(NotSupported) as caught:
        registry.require_capability("a", "fly", "flying")
    assert str(caught.value) == "the driver a cannot do flying. Drivers that can: b, c, d."
    with pytest.raises(NotSupported, match=r"Drivers that can: b, c\."):
        registry.require_capability("d", "fly", "flying", "vm")
    with pytest.raises(NotSupported, match=r"No driver of this version can\."):
        registry.require_capability("a", "dive", "diving")


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("qemu", {"accelerator": False}),
        ("qemu", {"run_as": 1000}),
        ("libvirt", {"uri": ["qemu:///system"]}),
        ("lxd", {"project": 5}),
        ("lxd", {"verify": 1}),
    ],
)
def test_an_option_of_a_driver_is_text(data, driver, options):
    with pytest.raises(InvalidOption, match=f"driver_options.{next(iter(options))} is .*, and text is meant"):
        registry.load(driver, Runtime(None), data, options)


def test_an_option_that_a_driver_does_not_know_is_refused_with_those_it_knows(data):
    with pytest.raises(InvalidOption) as caught:
        registry.load("qemu", Runtime(None), data, {"accelerator": "tcg", "colour": "red"})
    assert "'colour'" in str(caught.value)
    assert "accelerator" in caught.value.hint
