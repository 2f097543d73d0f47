# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import SshAccess
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Nic, Observed
from ansible_collections.minicloud.local.plugins.module_utils._reconcile import readdress
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Reporter, Runtime

MAC, OLD, NEW = "52:54:00:00:00:01", "10.1.2.64", "10.1.2.77"


class World:
    """A guest that takes on its address at certain steps. has -- what it has now"""

    def __init__(self, monkeypatch, at=(), by_ssh="systemd-networkd", cable=True):
        self.has, self.at, self.by_ssh, self.cable, self.steps = OLD, at, by_ssh, cable, []
        self.runtime = Runtime(None, Reporter())
        monkeypatch.setattr(readdress, "ask_renewal", self.ask)
        monkeypatch.setattr(readdress, "greeting_of", lambda host, *dummy: self.steps.append(f"greeted at {host}"))
        monkeypatch.setattr(Deadline, "pauses", lambda *dummy, **more: iter([0.0] * 3))

    def _step(self, name):
        self.steps.append(name)
        self.has = NEW if name in self.at else self.has

    def ask(self, dummy, access, mac, address):
        assert (access.host, mac, address) == (OLD, MAC, OLD)
        self._step("asked")
        return self.by_ssh

    @property
    def acts(self):
        return self

    def replug(self, instance, nic):
        self._step("replugged")
        return self.cable

    def observe(self, instances):
        return [Observed("running", by_mac={MAC: (self.has,)} if self.has else {})]

    def run(self, ready=True, wait=True):
        instance = dataclasses.replace(an_instance(NEW), ready=ready)
        changed = readdress.changed_addresses(an_instance(OLD), instance)
        readdress.readdress(self.runtime, self, instance, changed, self.locate, Deadline(60), wait)
        return self.steps

    def locate(self):
        return SshAccess(self.has, 22, "debian", "", "", "")

    @property
    def warnings(self):
        return self.runtime.report.warnings


def an_instance(address, **changes):
    nics = [Nic("lab", MAC, address=address)]
    values = {"created": "", "arch": "x86_64", "cpus": 1, "memory": 1, "disk": 1, "nics": nics, **changes}
    return Instance("web", "id", "qemu", "qemu", **values)


def test_what_has_changed_is_what_was_and_will_be_kept():
    lease = [Nic("lab", MAC, lease=OLD)]
    other = [Nic("lab", "52:54:00:00:00:02", address=NEW)]
    find = readdress.changed_addresses
    assert find(an_instance(OLD), an_instance("", nics=lease)) == []
    assert find(an_instance("", nics=lease), an_instance(NEW)) == [(Nic("lab", MAC, address=NEW), OLD)]
    assert find(an_instance(OLD), an_instance("", nics=other)) == []
    assert find(an_instance(""), an_instance(NEW)) == []


def test_a_guest_that_is_told_keeps_its_cable(monkeypatch):
    world = World(monkeypatch, at=("asked",))
    assert world.run() == ["asked", f"greeted at {NEW}"]
    assert world.warnings == []


@pytest.mark.parametrize(("ready", "by_ssh", "asked"), [(True, "", 1), (True, "udhcpc", 1), (False, "", 0)])
def test_one_that_cannot_be_told_or_does_not_heed_finds_it_pulled(monkeypatch, ready, by_ssh, asked):
    world = World(monkeypatch, at=("replugged",), by_ssh=by_ssh)
    assert world.run(ready=ready)[: asked + 1] == [*["asked"] * asked, "replugged"]
    assert world.warnings == []


@pytest.mark.parametrize("cable", [True, False])
def test_one_that_heeds_neither_is_warned_of(monkeypatch, cable):
    world = World(monkeypatch, cable=cable)
    assert world.run() == ["asked", "replugged"]
    assert f"web does not take on the address {NEW} instead of {OLD} yet" in world.warnings[0]


def test_who_does_not_wait_only_tells_it(monkeypatch):
    world = World(monkeypatch)
    assert world.run(wait=False) == ["asked"]
    assert world.warnings == []


def test_one_without_an_address_asks_for_the_new_one_by_itself(monkeypatch):
    world = World(monkeypatch)
    world.has = ""
    assert world.run() == []
