# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import subprocess
import types

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.mounts import QemuMounts
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import virtiofs
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.machine import FOLDER_PORTS
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._guest import sshfs
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import SshAccess
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Mount
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime

ACCESS = SshAccess("192.0.2.1", 22, "debian", "/key", "/known", "alias")


class FakeQmp:
    """Plugs in what it is told to; a guest that is stuck gives nothing back."""

    def __init__(self, devices=(), stuck=False):
        self.devices = [*FOLDER_PORTS, "type", *devices]
        self.dead = []
        self.stuck = stuck
        self.told = []

    def hand_over(self, name, handle):
        self.told.append(f"getfd {name}")

    def execute(self, command, **arguments):
        self.told.append(command)
        if command == "qom-list":
            return [{"name": name} for name in self.devices]
        if command == "query-chardev":
            plugged = [name for name in self.devices if name.startswith("mc-")]
            return [
                {"label": name, "filename": "disconnected:fd:9" if name in self.dead else "unix:/sock"}
                for name in plugged
            ]
        if command == "device_add":
            self.devices.append(arguments["id"])
        if command == "device_del" and not self.stuck:
            self.devices.remove(arguments["id"])
        return {}


@pytest.fixture(name="part")
def _part(tmp_path, monkeypatch):
    runtime = Runtime(lambda argv, **kwargs: Completed(0, "virtiofsd version 7.2\nusing FUSE kernel interface", ""))
    look = types.SimpleNamespace(
        scope=types.SimpleNamespace(directory=lambda name: str(tmp_path)),
        path=lambda instance, name: os.path.join(tmp_path, name),
    )
    part = QemuMounts(look, runtime)
    part.qmp = FakeQmp()
    part.started = []

    @contextlib.contextmanager
    def monitor(instance, doing):
        yield part.qmp

    @contextlib.contextmanager
    def connection(directory, mount, doing):
        yield 0

    monkeypatch.setattr(part, "monitor", monitor)
    monkeypatch.setattr(part, "_connection", connection)
    monkeypatch.setattr(virtiofs, "virtiofsd", lambda: "/usr/lib/qemu/virtiofsd")
    monkeypatch.setattr(virtiofs, "_UNPLUGGED", 0.01)
    monkeypatch.setattr(sshfs, "start_serving", lambda *arguments: part.started.append(arguments))
    monkeypatch.setattr(sshfs, "await_mounted", lambda *arguments: None)
    return part


@pytest.fixture(name="web")
def _web():
    return Instance("web", "u", "qemu", "qemu", "qemu", "x86_64", 1, 1, 1, user="me")


def test_folders_are_plugged_into_ports_of_their_own(part, web, tmp_path):
    for number in range(len(FOLDER_PORTS)):
        assert part.attach(web, Mount(str(tmp_path), f"/srv/{number}"), ACCESS) == "virtiofs"
    ports = [name.split("-")[1] for name in part.qmp.devices if name.startswith("mc-")]
    assert ports == list(FOLDER_PORTS)
    with pytest.raises(HypervisorError, match="no more ports"):
        part.attach(web, Mount(str(tmp_path), "/srv/x"), ACCESS)
    part.detach(web, Mount(str(tmp_path), "/srv/1"), False)
    part.attach(web, Mount(str(tmp_path), "/srv/x"), ACCESS)
    # Again: what was there goes first.
    part.attach(web, Mount(str(tmp_path), "/srv/x"), ACCESS)
    assert len([name for name in part.qmp.devices if name.startswith("mc-")]) == len(FOLDER_PORTS)


def test_a_guest_that_gives_nothing_back_is_an_error(part, web, tmp_path):
    part.attach(web, Mount(str(tmp_path), "/srv/x"), ACCESS)
    part.qmp.stuck = True
    with pytest.raises(HypervisorError, match="does not give the device back"):
        part.attach(web, Mount(str(tmp_path), "/srv/x"), ACCESS)


def test_a_device_whose_server_has_ended_stays_and_another_is_taken(part, web, tmp_path):
    part.attach(web, Mount(str(tmp_path), "/srv/x"), ACCESS)
    (before,) = [name for name in part.qmp.devices if name.startswith("mc-")]
    part.qmp.dead.append(before)
    part.attach(web, Mount(str(tmp_path), "/srv/x"), ACCESS)
    part.detach(web, Mount(str(tmp_path), "/srv/x"), False)
    # The guest would have to answer for what it was never answered.
    assert [name for name in part.qmp.devices if name.startswith("mc-")] == [before]


def test_what_fails_leaves_nothing(part, web, tmp_path, monkeypatch):
    def fail(*arguments):
        raise HypervisorError("x", "the guest knows no virtiofs")

    monkeypatch.setattr(sshfs, "await_mounted", fail)
    with pytest.raises(HypervisorError, match="knows no virtiofs"):
        part.attach(web, Mount(str(tmp_path), "/srv/x"), ACCESS)
    assert not [name for name in part.qmp.devices if name.startswith("mc-")]


def test_each_virtiofsd_is_told_in_its_own_way(part):
    assert "source=/sys/folder,cache=auto,sandbox=namespace" in part._command()
    part.runtime = Runtime(lambda argv, **kwargs: Completed(0, "virtiofsd 1.10.0", ""))
    assert "--shared-dir=/sys/folder" in part._command()


def test_scripts_are_for_a_shell():
    for script in (virtiofs._MOUNT, virtiofs._LET_GO):
        text = virtiofs._script(script, Mount("/x", "/srv/a 'b'", read_only=True), "tag")
        subprocess.run(["sh", "-n", "-c", text], check=True)


def test_why_not(part, web, tmp_path, monkeypatch):
    mount = Mount(str(tmp_path), "/srv/x")
    monkeypatch.setattr(virtiofs, "why_not_served", lambda: "")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    web.owner = "qemu"
    assert "started without ports" in part.why_not(web, mount)
    web.owner = ""
    assert part.why_not(web, mount) == ""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "one id only" in part.why_not(web, mount)
    monkeypatch.setattr(virtiofs, "virtiofsd", lambda: "")
    assert "no virtiofsd" in part.why_not(web, mount)
    monkeypatch.setattr(virtiofs, "why_not_served", lambda: "not here")
    assert part.why_not(web, mount) == "not here"
