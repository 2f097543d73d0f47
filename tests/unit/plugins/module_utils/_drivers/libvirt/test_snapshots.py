# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots of a domain that runs: its files with the real qemu-img, and a libvirt that saves and resumes."""

from __future__ import annotations

import os
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt import look as libvirt_look
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.driver import LibvirtDriver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.look import SAVED_IMAGE
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.snapshots import LibvirtSnapshots
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.layers import Layers
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import DISK
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import ABOUT
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Observed
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot

pytestmark = pytest.mark.skipif(not shutil.which("qemu-img"), reason="this host has no qemu-img")

SIZE = 8 << 20


class Killed(BaseException):
    """The end of a run that nothing in it may catch."""


class LibvirtError(Exception):
    """What the library raises."""


class Killer(Reporter):
    """Ends the run at a step."""

    at = count = 0

    def step(self, name):
        self.count += 1
        if self.count == self.at:
            raise Killed(name)


class World:
    """One instance whose domain runs, and which the part sees."""

    def __init__(self, path, monkeypatch):
        path.mkdir(exist_ok=True)
        scope = DataDirectory(str(path / "data")).scope("qemu")
        base = str(path / "base.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", base, str(SIZE)], check=True)
        self.instance = Instance(
            "web", "00000000-0000-4000-8000-000000000000", "qemu", "libvirt", "", "x86_64", 1, 1, SIZE,
            phase="ready", owner="libvirt", image={"path": base},
        )  # fmt: skip
        scope.write(self.instance)
        self.alive, self.refuses = True, ""
        self.look = LibvirtDriver(ABOUT["libvirt"], Runtime(run, Killer()), scope, {"uri": "qemu:///system"})
        library = SimpleNamespace(libvirtError=LibvirtError, VIR_DOMAIN_SAVE_RUNNING=1, VIR_ERR_RPC=2)
        monkeypatch.setattr(libvirt_look.LibvirtLooks, "library", lambda dummy: library)
        monkeypatch.setattr(libvirt_look.LibvirtLooks, "alive", lambda dummy, each: self.alive)
        monkeypatch.setattr(libvirt_look.LibvirtLooks, "domain", lambda dummy, each: self)
        monkeypatch.setattr(LibvirtError, "get_error_code", lambda dummy: 0, raising=False)
        monkeypatch.setattr(libvirt_look.LibvirtLooks, "_connected", lambda dummy: True)
        monkeypatch.setattr(libvirt_look.LibvirtLooks, "observe", lambda dummy, those: [Observed(self.state)])
        acts = SimpleNamespace(
            library=library, go_on_from_file=self.go_on, placement=SimpleNamespace(hands_over_files=True)
        )
        self.part = LibvirtSnapshots(self.look, acts)
        self.part._tool(self.instance).overlay(self.layers.path(DISK), base, SIZE)

    @property
    def layers(self):
        return Layers(self.look, self.instance)

    @property
    def image(self):
        return self.look.path(self.instance, SAVED_IMAGE)

    @property
    def state(self):
        if self.alive:
            return "running"
        return "suspended" if os.path.exists(self.image) else "stopped"

    # What a domain does.

    def saveFlags(self, path, xml, flags):
        assert self.alive
        if self.refuses:
            raise LibvirtError(self.refuses)
        with open(path, "wb") as stream:
            stream.write(b"memory")
        self.alive = False

    def jobStats(self):
        return {}

    def go_on(self, dummy):
        """See LibvirtActs.go_on_from_file."""
        assert os.path.exists(self.image)
        os.unlink(self.image)
        self.alive = True

    def snapshot(self, number):
        return Snapshot(f"s{number}", f"{number:08d}-0000-4000-8000-000000000000", "libvirt", "", state="running")

    def kept(self):
        names = [name for name in os.listdir(self.layers.directory) if name != "layers.json"]
        return sorted(f"{int(name[:8])}{name[36:]}" for name in names)


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return World(tmp_path, monkeypatch)


def test_it_goes_on_above_the_layer_and_can_be_brought_back_to_where_it_was(world):
    first, second = world.snapshot(1), world.snapshot(2)
    taken = world.part.take(world.instance, first, True)
    assert (taken.memory, taken.quiet, world.state) == (6, "crash", "running")
    assert world.part.take(world.instance, second, False).memory == 0
    assert world.kept() == ["1.memory", "1.qcow2", "2.qcow2"]
    world.alive, first.memory = False, 6
    for dummy in range(2):
        world.part.restore(world.instance, first)
        assert world.state == "suspended"
    first.memory = 0
    world.part.restore(world.instance, first)
    assert world.state == "stopped"
    world.part.delete(world.instance, first)
    assert world.kept() == ["1.qcow2", "2.qcow2"]


def test_where_libvirt_refuses_it_runs_on_and_nothing_is_left(world):
    world.refuses = "no space left on device"
    with pytest.raises(HypervisorError, match="no space left"):
        world.part.take(world.instance, world.snapshot(1), True)
    assert world.state == "running"
    assert world.layers.recover().backing == {}


def test_a_full_disk_has_it_run_on(world, monkeypatch):
    def link(*dummy):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(Exception, match="No space left"):
        world.part.take(world.instance, world.snapshot(1), True)
    assert world.state == "running"
    assert world.layers.recover().backing == {}


def test_what_cannot_be_taken_is_said_before(world, monkeypatch):
    assert world.part.why_not(world.instance, True) == ""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root's" in world.part.why_not(world.instance, True)
    assert world.part.why_not(world.instance, False) == ""
    world.part.acts.placement.hands_over_files = False
    assert "by the network" in world.part.why_not(world.instance, False)
    assert "saved by the driver qemu" in world.part.why_not_resumed(
        world.instance, Snapshot("s", "00000001-0000-4000-8000-000000000000", "qemu", "")
    )
    assert "is not there" in world.part.why_not_resumed(world.instance, world.snapshot(1))


@pytest.mark.parametrize("with_memory", [True, False])
def test_a_kill_at_any_step_leaves_it_running_or_suspended_and_a_whole_disk(tmp_path, monkeypatch, with_memory):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    at = 1
    while True:
        world = World(tmp_path / str(at), monkeypatch)
        first, second = world.snapshot(1), world.snapshot(2)
        world.part.take(world.instance, first, True)
        # A killed run comes to no `finally`.
        world.part.acts.go_on_from_file = lambda dummy: world.go_on(dummy) if report.count < report.at else None  # noqa: B023
        report = world.look.runtime.report
        report.at, report.count = at + report.count, report.count
        try:
            world.part.take(world.instance, second, with_memory)
            ended = True
        except Killed:
            ended = False
        if not ended:
            assert world.state in ("running", "suspended")
        report.at = 0
        world.part.acts.go_on_from_file = world.go_on
        world.part.delete(world.instance, second)
        if world.state == "suspended":
            world.go_on(None)
        stack = world.layers.recover()
        assert set(stack.backing) - set(stack.hidden) == {first.uuid}
        assert [name for name in world.kept() if name != "2.qcow2"] == ["1.memory", "1.qcow2"]
        for layer in (DISK, *stack.backing):
            subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", world.layers.path(layer)], check=True)
        world.part.take(world.instance, world.snapshot(3), True)
        assert world.state == "running"
        if ended:
            break
        at += 1
    assert at > 5
