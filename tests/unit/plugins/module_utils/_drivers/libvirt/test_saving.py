# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import threading
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt import saving
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.domain import QEMU_NAMESPACE
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime


class LibvirtError(Exception):
    """What the library raises."""


class Progress(Reporter):
    def __init__(self):
        super().__init__()
        self.told = []

    def progress(self, what, done, total, unit="B"):
        self.told.append((done, total))


class Job:
    """A domain that is being saved until somebody says so."""

    def __init__(self, stops=True):
        self.end, self.stops, self.aborted = threading.Event(), stops, False

    def act(self):
        assert self.end.wait(20)
        if self.aborted:
            raise LibvirtError("operation aborted")

    def jobStats(self):
        return {"memory_total": 8, "memory_processed": 2}

    def abortJob(self):
        self.aborted = True
        if self.stops:
            self.end.set()


@pytest.fixture
def look(monkeypatch):
    monkeypatch.setattr(saving, "_SILENCE", 0.01)
    return SimpleNamespace(
        library=lambda: SimpleNamespace(libvirtError=LibvirtError), runtime=Runtime(None, Progress())
    )


def test_it_tells_how_far_it_has_come(look):
    job = Job()
    threading.Timer(0.1, job.end.set).start()
    saving.save(look, job, job.act, "saving", 10)
    assert look.runtime.report.told[0] == (2, 8)
    assert not job.aborted


def test_it_does_not_go_on_for_ever(look):
    job = Job()
    with pytest.raises(HypervisorError, match=r"not done within 0\.05 seconds"):
        saving.save(look, job, job.act, "saving", 0.05)
    assert job.aborted


def test_also_where_libvirt_does_not_end_it(look, monkeypatch):
    monkeypatch.setattr(saving, "_GIVING_UP", 0.05)
    job = Job(stops=False)
    with pytest.raises(HypervisorError, match="saving: that was not done"):
        saving.save(look, job, job.act, "saving", 0.05)
    job.end.set()


def test_what_libvirt_says_is_passed_on(look):
    def fails():
        raise LibvirtError("no space left")

    with pytest.raises(LibvirtError, match="no space"):
        saving.save(look, Job(), fails, "saving")


SAVED = f"""<domain xmlns:qemu="{QEMU_NAMESPACE}"><name>web</name><devices>
<disk type="file"><driver name="qemu"/><source file="/old" fdgroup="disk" index="2"/>
<backingStore type="file"><source file="/base" fdgroup="base"/></backingStore><target dev="vda"/>
<alias name="a"/></disk>
<interface type="bridge"><mac address="52:54:00:00:00:01"/></interface></devices>
<qemu:commandline><qemu:arg value="-netdev"/><qemu:arg value="user,hostfwd=tcp::1-:22"/>
<qemu:arg value="-device"/><qemu:arg value="virtio-net-pci,mac=52:54:00:00:00:02"/></qemu:commandline></domain>"""
NOW = SAVED.replace("/old", "/new").replace("tcp::1-", "tcp::2-").replace(
    '<source file="/base" fdgroup="base"/></backingStore>',
    '<source file="/layer" fdgroup="layer1"/><backingStore><source file="/base" fdgroup="base"/></backingStore>'
    "</backingStore>",
)  # fmt: skip


def test_what_is_behind_the_devices_is_that_of_now_and_all_else_that_of_then():
    root = ElementTree.fromstring(saving.fitting(SAVED, NOW.replace("bridge", "network")))
    assert [each.get("file") for each in root.iterfind("devices/disk//source")] == ["/new", "/layer", "/base"]
    assert root.find("devices/disk/alias") is not None
    assert root.find("devices/interface").get("type") == "bridge"
    assert "tcp::2-" in ElementTree.tostring(root, encoding="unicode")


@pytest.mark.parametrize(("old", "new"), [("mac=52:54:00:00:00:02", "mac=52:54:00:00:00:03"), ("vda", "vdb")])
def test_what_the_guest_would_see_is_refused(old, new):
    with pytest.raises(HypervisorError, match="what was saved has other"):
        saving.fitting(SAVED, NOW.replace(old, new))


def test_what_is_no_definition_is_refused():
    with pytest.raises(HypervisorError, match="cannot be read"):
        saving.fitting("<domain", NOW)
