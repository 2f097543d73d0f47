# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import json
import sys
import types

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt import mounts
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.definition import (
    Parts,
    domain_xml,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.domain import FOLDER_PORTS
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.mounts import LibvirtMounts
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import virtiofs
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._guest import sshfs
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import SshAccess
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Mount, Nic
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime

ACCESS = SshAccess("192.0.2.1", 22, "debian", "/key", "/known", "alias")
FILES = {"base": "/v/base.qcow2", "disk": "/d/disk.qcow2", "seed": "/d/seed.iso", "console": "/d/console.log"}


class Library:
    """The module libvirt_qemu, and the machine behind it."""

    def __init__(self):
        self.devices, self.files, self.refuses = ["type", *FOLDER_PORTS], [], ""

    def qemuMonitorCommand(self, domain, command, flags):  # pylint: disable=invalid-name
        request = json.loads(command)
        arguments = request.get("arguments", {})
        if request["execute"] == self.refuses:
            return json.dumps({"id": "x", "error": {"class": "GenericError", "desc": "not today"}})
        if request["execute"] == "qom-list":
            return json.dumps({"return": [{"name": name, "type": "x"} for name in self.devices]})
        if request["execute"] == "query-chardev":
            return json.dumps({"return": [{"label": "charmonitor", "filename": "unix:/x"}]})
        if request["execute"] == "device_add":
            assert arguments["id"] in self.files and arguments["bus"] in FOLDER_PORTS
            self.devices.append(arguments["id"])
        if request["execute"] == "device_del":
            self.devices.remove(arguments["id"])
        return json.dumps({"return": {}, "id": "libvirt-1"})


def with_files(library):
    def command_with_files(domain, command, files, flags):
        request = json.loads(command)
        assert request["execute"] == "getfd" and len(files) == 1
        library.files.append(request["arguments"]["fdname"])
        return json.dumps({"return": {}}), []

    library.qemuMonitorCommandWithFiles = command_with_files
    return library


@pytest.fixture(name="library")
def _library(monkeypatch):
    library = with_files(Library())
    monkeypatch.setitem(sys.modules, "libvirt_qemu", library)
    return library


@pytest.fixture(name="web")
def _web():
    return Instance(
        "web", "u", "qemu", "qemu", "libvirt", "x86_64", 1, 1, 1, user="me", nics=[Nic("user", "52:54:00:1:2:3")]
    )


@pytest.fixture(name="part")
def _part(tmp_path, monkeypatch, library, web):
    xml = domain_xml(web, Parts("web", {}, "tcg", FILES))
    look = types.SimpleNamespace(
        scope=types.SimpleNamespace(directory=lambda name: str(tmp_path)),
        host=types.SimpleNamespace(here=True),
        uri="qemu:///system",
        domain=lambda instance: types.SimpleNamespace(XMLDesc=lambda: xml),
        explained=lambda what: contextlib.nullcontext(),
    )
    part = LibvirtMounts(look, Runtime(lambda argv, **kwargs: Completed(0, "virtiofsd 1.10.0", "")))
    part.started = []
    monkeypatch.setattr(part, "_connection", lambda *arguments: contextlib.nullcontext(0))
    monkeypatch.setattr(virtiofs, "virtiofsd", lambda: "/usr/libexec/virtiofsd")
    monkeypatch.setattr(virtiofs, "why_not_served", lambda: "")
    monkeypatch.setattr(virtiofs.os, "geteuid", lambda: 0)
    monkeypatch.setattr(sshfs, "start_serving", lambda *arguments: part.started.append(arguments))
    monkeypatch.setattr(sshfs, "await_mounted", lambda *arguments: None)
    monkeypatch.setattr(sshfs, "identities", lambda *arguments: {"uid": 0, "uids": [], "gid": 0, "gids": []})
    return part


def test_folders_are_plugged_in_and_out(part, web, library, tmp_path):
    for number in range(len(FOLDER_PORTS)):
        assert part.attach(web, Mount(str(tmp_path), f"/srv/{number}"), ACCESS) == "virtiofs"
    plugged = [name for name in library.devices if name.startswith("mc-")]
    assert [name.split("-")[1] for name in plugged] == list(FOLDER_PORTS)
    with pytest.raises(HypervisorError, match="no more ports"):
        part.attach(web, Mount(str(tmp_path), "/srv/x"), ACCESS)
    part.detach(web, Mount(str(tmp_path), "/srv/1"), False)
    assert [name for name in library.devices if name.startswith("mc-")] == [plugged[0], *plugged[2:]]


def test_what_qemu_refuses_is_said_and_leaves_nothing(part, web, library, tmp_path):
    library.refuses = "device_add"
    with pytest.raises(HypervisorError, match="not today"):
        part.attach(web, Mount(str(tmp_path), "/srv/x"), ACCESS)
    assert not [name for name in library.devices if name.startswith("mc-")]


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"error": 1}', '{"error": {}}', "[" * 10000])
def test_answers_in_other_forms_are_errors(library, said):
    library.qemuMonitorCommand = lambda *arguments: said
    with pytest.raises(HypervisorError):
        mounts.DomainMonitor(None).execute("query-status")


def test_why_not(part, web, tmp_path):
    mount = Mount(str(tmp_path), "/srv/x")
    web.owner = "libvirt"
    assert part.why_not(web, mount) == ""
    part.libvirt.domain = lambda instance: types.SimpleNamespace(XMLDesc=lambda: "<domain/>")
    assert "without ports" in part.why_not(web, mount)
    part.libvirt.domain = lambda instance: None
    assert "without ports" in part.why_not(web, mount)
    part.libvirt.host.here = False
    assert "another host" in part.why_not(web, mount)
