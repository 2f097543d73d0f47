# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu import suspension
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.act import QemuActs
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.driver import QemuDriver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.saved_state import Origin
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.suspension import QemuSuspension
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import ABOUT
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, RecordError
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Nic
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

ORIGIN = Origin("pc-q35-7.2", "7.2", "", ("-m 128M", "-device virtio-net-pci,mac=52:54:00:00:00:01"))


class Killed(BaseException):
    """The end of a run."""


class Machine:
    """A machine and its monitor, which tells what it does."""

    def __init__(self):
        self.status, self.alive, self.fails, self.said = "running", True, False, []
        self.saved = ""

    def __enter__(self):
        if not self.alive:
            raise ConnectionRefusedError
        return self

    def __exit__(self, *exc):
        pass

    def hand_over(self, name, handle):
        os.write(handle, b"memory")

    def execute(self, command, **arguments):
        self.said.append(command)
        if command == "query-migrate":
            return {"status": "failed" if self.fails else "completed", "error-desc": "no way"}
        if command == "query-version":
            return {"qemu": {"major": 7, "minor": 2}}
        if command == "qom-get":
            return "pc-q35-7.2-machine"
        if command == "stop":
            self.status = "paused"
        if command == "cont":
            assert not os.path.exists(self.saved), "what is saved is of the disk as it was then"
            self.status = "running"
        if command == "migrate":
            # QEMU saves no machine that it has saved and that did not go on.
            assert self.status == "paused"
            self.status = "paused" if self.fails else "postmigrate"
        return {}


class Steps(Reporter):
    """Ends the run at a step."""

    def __init__(self, fatal=""):
        super().__init__()
        self.fatal = fatal

    def step(self, name):
        if name == self.fatal:
            raise Killed


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(suspension, "Qmp", lambda path: StatusMonitor(machine))
    return machine


@pytest.fixture
def world(machine, tmp_path, monkeypatch):
    look = QemuDriver(ABOUT["qemu"], Runtime(None, Reporter()), DataDirectory(str(tmp_path)).scope("qemu"))
    monkeypatch.setattr(QemuDriver, "alive", lambda self, instance: machine.alive)
    instance = Instance(
        "web", "u-1", "qemu", "qemu", "", "x86_64", 1, 1 << 27, 1 << 30, phase="ready", owner="qemu",
        nics=[Nic("user", "52:54:00:00:00:01")],
    )  # fmt: skip
    look.scope.write(instance)
    machine.saved = look.path(instance, "saved.json")
    monkeypatch.setattr(suspension, "origin_of", lambda qmp, pid: ORIGIN)

    def end(dummy):
        machine.alive = False

    acts = SimpleNamespace(
        runtime=Runtime(None, Steps()), end=end, process_of=lambda each: 1, log=lambda each: "it said no",
        planned_origin=lambda each, type_: ORIGIN._replace(machine=type_),
    )  # fmt: skip
    return SimpleNamespace(look=look, instance=instance, acts=acts, part=QemuSuspension(look, acts))


def suspend(world, fatal=""):
    world.acts.runtime.report.fatal = fatal
    world.part.suspend(world.instance)


class StatusMonitor:
    """The monitor as the driver has it."""

    def __init__(self, machine):
        self.machine = machine

    def __enter__(self):
        self.machine.__enter__()
        return self

    def __exit__(self, *exc):
        pass

    def status(self):
        return self.machine.status

    def __getattr__(self, name):
        return getattr(self.machine, name)


def test_it_is_saved_and_ended(world, machine):
    suspend(world)
    assert not machine.alive
    assert world.look.observe([world.instance])[0].state == "suspended"
    assert world.part.why_not(world.instance) == ""
    world.part.drop(world.instance)
    world.part.drop(world.instance)
    assert world.look.observe([world.instance])[0].state == "stopped"
    assert not os.path.exists(world.look.path(world.instance, "saved.memory"))


@pytest.mark.parametrize("fatal", ["halted", "memory", "saved", "ended"])
def test_whichever_step_it_is_cut_off_at_the_next_run_comes_to_the_same(world, machine, fatal):
    with pytest.raises(Killed):
        suspend(world, fatal)
    if machine.alive:
        suspend(world)
    assert not machine.alive
    assert world.look.observe([world.instance])[0].state == "suspended"


@pytest.mark.parametrize("fatal", ["halted", "memory", "saved"])
def test_whichever_step_it_is_cut_off_at_it_can_run_on_and_leaves_nothing_stale(world, machine, fatal):
    with pytest.raises(Killed):
        suspend(world, fatal)
    acts = QemuActs(world.look)
    acts._go_on(world.instance, StatusMonitor(machine))
    assert machine.status == "running"
    assert not os.path.exists(machine.saved)
    machine.alive = False
    assert world.look.observe([world.instance])[0].state == "stopped"


def test_a_failure_has_it_run_on(world, machine):
    machine.fails = True
    with pytest.raises(HypervisorError, match="what web is doing could not be saved: no way"):
        suspend(world)
    assert (machine.status, machine.alive) == ("running", True)
    assert sorted(os.listdir(world.look.scope.directory("web"))) == ["instance.json"]


def test_what_differs_is_said(world, machine):
    suspend(world)
    world.acts.planned_origin = lambda each, type_: ORIGIN._replace(version="8.0")
    assert world.part.why_not(world.instance) == "it was saved by QEMU 7.2, and this is 8.0"


def test_a_damaged_note_is_no_reason_to_load_anything(world, machine):
    suspend(world)
    with open(machine.saved, "w", encoding="ascii") as stream:
        stream.write("{")
    assert "is damaged" in world.part.why_not(world.instance)
    with pytest.raises(RecordError):
        suspension.saved_origin(world.look, world.instance)
    world.part.drop(world.instance)
    assert world.part.why_not(world.instance) == ""


@pytest.mark.parametrize("status", ["suspended", "guest-panicked", "internal-error"])
def test_what_cannot_be_kept_is_said_before(world, machine, status):
    machine.status = status
    assert status in world.part.why_not(world.instance)
