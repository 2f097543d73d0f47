# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import os
import sys
import types
from xml.etree import ElementTree

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt import act as libvirt_act
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt import look as libvirt_look
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt import placement
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt import remote as libvirt_remote
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.driver import LibvirtDriver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import act as family_act
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import machine as qemu_machine
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import ABOUT
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InUse,
    InvalidOption,
    MinicloudError,
    MissingRequirement,
    NotSupported,
)
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._model import MIB, Instance, Nic, parse_port
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Deadline, Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.module_utils._writing import write_file

IMAGE = Image("lts", "ab" * 32, "/base", "qcow2", 1, 2, "x86_64")


class LibvirtError(Exception):
    def __init__(self, text, code=1):
        super().__init__(text)
        self.code = code

    def get_error_code(self):
        return self.code


NO_DOMAIN, INVALID, AUTH, RPC = 42, 55, 45, 39


class FakeDomain:
    """A domain as libvirt keeps it. xml -- its definition; active -- whether it runs"""

    def __init__(self, connection, xml):
        self.connection, self.xml, self.active, self.persistent = connection, xml, False, True
        self.starts = 0  # by itself, with its host
        self.halted = None  # state and detail while it is up and does nothing
        self.groups = {}

    def root(self):
        return ElementTree.fromstring(self.xml)

    def _gone(self):
        if self not in self.connection.domains:
            raise LibvirtError("Domain not found", NO_DOMAIN)

    def name(self):
        return self.root().findtext("name")

    def UUIDString(self):
        return self.root().findtext("uuid")

    def XMLDesc(self, flags=0):
        self._gone()
        return self.xml

    def ID(self):
        return 7 if self.active else -1

    def isActive(self):
        self._gone()
        return self.active

    def isPersistent(self):
        return self.persistent

    def FDAssociate(self, group, handles, flags):
        self.groups[group] = [os.readlink(f"/proc/self/fd/{handle}") for handle in handles]

    def createWithFlags(self, flags):
        self.connection.starts.append((self.name(), flags))
        if self.connection.refusals:
            refusal = self.connection.refusals.pop(0)
            if callable(refusal):
                refusal(self)
            raise LibvirtError("it did not work", INVALID)
        self.active = True

    def destroy(self):
        if not self.active:
            raise LibvirtError("domain is not running", INVALID)
        self.active = False
        self._vanish()

    def updateDeviceFlags(self, xml, flags):
        assert self.active and flags == 1
        self.connection.updates.append(xml)

    def autostart(self):
        return self.starts

    def setAutostart(self, value):
        self.starts = value

    def setVcpusFlags(self, number, flags):
        assert self.active and flags == 1
        edit(self, "vcpu", str(number))

    def state(self):
        return self.halted or ([1, 1] if self.active else [5, 1])

    def resume(self):
        self.halted = self.connection.halts_again

    def undefineFlags(self, flags):
        self._gone()
        if self.connection.refuses_undefine:
            raise LibvirtError("the domain cannot be undefined")
        self.connection.undefined.append((self.name(), flags))
        self.persistent = False
        self._vanish()

    def _vanish(self):
        if not self.active and not self.persistent:
            self.connection.domains.remove(self)


def _raise(error):
    raise error


class FakeConnection:
    def __init__(self):
        self.domains, self.starts, self.undefined, self.refusals = [], [], [], []
        self.updates = []
        self.lost = False
        self.halts_again, self.refuses_undefine = None, False
        self.version, self.kind, self.hostname, self.kvm = 9_000_000, "QEMU", "elsewhere.test", False
        self.features, self.pools, self.sees = "", [], os.listdir

    def isAlive(self):
        return not self.lost

    def listAllDomains(self, flags=0):
        wanted = {0: lambda domain: True, 32 | 128: lambda domain: domain.halted, 1024: lambda domain: domain.starts}
        return list(filter(wanted[flags], self.domains))

    def _find(self, match):
        for domain in self.domains:
            if match(domain):
                return domain
        raise LibvirtError("Domain not found", NO_DOMAIN)

    def lookupByUUIDString(self, uuid):
        return self._find(lambda domain: domain.UUIDString() == uuid)

    def lookupByName(self, name):
        return self._find(lambda domain: domain.name() == name)

    def defineXML(self, xml):
        new = FakeDomain(self, xml)
        for domain in self.domains:
            if domain.UUIDString() == new.UUIDString():
                if domain.name() != new.name():
                    raise LibvirtError(f"domain {domain.name()!r} is already defined with that uuid")
                domain.xml, domain.persistent = xml, True
                return domain
            if domain.name() == new.name():
                raise LibvirtError(f"domain {new.name()!r} already exists with another uuid")
        self.domains.append(new)
        return new

    def getType(self):
        return self.kind

    def getLibVersion(self):
        return self.version

    def getVersion(self):
        return 7_002_022

    def getInfo(self):
        return ["x86_64", 1024, 2]

    def getHostname(self):
        return self.hostname

    def getCapabilities(self):
        kvm = "<domain type='kvm'/>" if self.kvm else ""
        guest = f"<guest><arch name='x86_64'><domain type='qemu'/>{kvm}</arch></guest>"
        return f"<capabilities><host><cpu><model>Some</model></cpu></host>{guest}</capabilities>"

    def baselineCPU(self, cpus, flags):
        assert "<model>Some</model>" in cpus[0] and flags == 1
        return f"<cpu><model>Some</model><feature name='aes'/>{self.features}</cpu>"

    def getMemoryStats(self, cell):
        assert cell == -1
        return {"total": 4 << 20, "free": 1 << 19, "buffers": 1 << 18, "cached": 1 << 18}

    def storagePoolCreateXML(self, xml):
        self.pools.append(FakePool(self, xml))
        return self.pools[-1]

    def listAllStoragePools(self, flags):
        assert flags == 32
        return list(self.pools)


class FakePool:
    def __init__(self, connection, xml):
        self.connection, self.xml = connection, xml

    def XMLDesc(self):
        return self.xml

    def name(self):
        return ElementTree.fromstring(self.xml).findtext("name")

    def listVolumes(self):
        return self.connection.sees(ElementTree.fromstring(self.xml).findtext("target/path"))

    def destroy(self):
        self.connection.pools.remove(self)


@pytest.fixture
def connection():
    return FakeConnection()


@pytest.fixture
def library(connection, monkeypatch):
    """Stands in for the module libvirt: one that answers as told, where there is no libvirt."""
    fake = types.ModuleType("libvirt")
    fake.libvirtError = LibvirtError
    fake.VIR_ERR_NO_DOMAIN, fake.VIR_ERR_OPERATION_INVALID, fake.VIR_ERR_RPC = NO_DOMAIN, INVALID, RPC
    fake.VIR_ERR_AUTH_FAILED, fake.VIR_ERR_AUTH_CANCELLED, fake.VIR_ERR_AUTH_UNAVAILABLE = AUTH, 79, 80
    fake.VIR_DOMAIN_AFFECT_LIVE = 1
    fake.VIR_DOMAIN_START_FORCE_BOOT, fake.VIR_DOMAIN_START_RESET_NVRAM = 16, 32
    fake.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE, fake.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA = 1, 2
    fake.VIR_DOMAIN_UNDEFINE_NVRAM, fake.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM = 4, 8
    fake.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA = 16
    fake.VIR_CONNECT_LIST_DOMAINS_PAUSED, fake.VIR_CONNECT_LIST_DOMAINS_OTHER = 32, 128
    fake.VIR_CONNECT_LIST_DOMAINS_AUTOSTART = 1024
    fake.VIR_DOMAIN_PAUSED, fake.VIR_DOMAIN_CRASHED, fake.VIR_DOMAIN_PMSUSPENDED = 3, 6, 7
    fake.VIR_DOMAIN_PAUSED_IOERROR, fake.VIR_DOMAIN_PAUSED_WATCHDOG = 5, 6
    fake.VIR_DOMAIN_PAUSED_SAVE = 3
    fake.VIR_DOMAIN_PAUSED_SHUTTING_DOWN, fake.VIR_DOMAIN_PAUSED_SNAPSHOT = 8, 9
    fake.VIR_DOMAIN_PAUSED_CRASHED, fake.VIR_DOMAIN_PAUSED_STARTING_UP = 10, 11
    fake.VIR_DOMAIN_XML_SECURE, fake.VIR_DOMAIN_XML_INACTIVE = 1, 2
    fake.VIR_NODE_MEMORY_STATS_ALL_CELLS = -1
    fake.VIR_CONNECT_LIST_STORAGE_POOLS_TRANSIENT, fake.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES = 32, 1
    fake.virDomain = FakeDomain
    fake.getVersion = lambda: 9_000_000
    fake.registerErrorHandler = lambda handler, context: None
    fake.opened = []

    def open_(uri):
        fake.opened.append(uri)
        connection.lost = False
        return connection

    fake.open = open_
    monkeypatch.setitem(sys.modules, "libvirt", fake)
    return fake


@pytest.fixture
def data(tmp_path):
    return DataDirectory(str(tmp_path / "data"))


def run(argv, **kwargs):
    if "create" in argv:
        write_file(argv[-2], b"QFI\xfb\0\0\0\3" + bytes(96))
    return Completed(0, "", "")


@pytest.fixture
def make(data, library, monkeypatch):
    monkeypatch.setattr(qemu_machine, "emulator", lambda arch: "/usr/bin/qemu")
    monkeypatch.setattr(qemu_machine, "choose_accelerator", lambda *args: qemu_machine.Accelerator("tcg", "slow"))
    monkeypatch.setattr(placement.Here, "_qemu_identity", lambda self: (0, frozenset()))

    def make(**options):
        driver = LibvirtDriver(
            ABOUT["libvirt"], Runtime(run, Reporter()), data.scope("qemu"), {"uri": "qemu:///system", **options}
        )
        monkeypatch.setattr(driver.runtime, "program", lambda name, *args: name)
        return driver

    return make


@pytest.fixture
def driver(make):
    return make()


@pytest.fixture
def instance(driver, tmp_path):
    base = tmp_path / "base.qcow2"
    base.write_text("base")
    instance = Instance(
        "web", "0b9f7f4e-6c1e-4d0c-9a57-0d8b8f9f3a10", "qemu", "libvirt", "", "x86_64", 2, 256 * MIB, 1,
        phase="ready", ssh_port=40022, nics=[Nic("user", "52:54:00:00:00:01")], image={"path": str(base)},
        handles={"libvirt": driver.handle()},
    )  # fmt: skip
    driver.scope.write(instance)
    driver.acts.create(instance, IMAGE, {})
    return instance


def edit(domain, path, text):
    root = domain.root()
    root.find(path).text = text
    domain.xml = ElementTree.tostring(root, encoding="unicode")


def told(driver, instance):
    (seen,) = driver.observe([instance])
    return seen.state, seen.drift


class TestLooking:
    def test_the_default_uri_is_the_users(self, data, library, monkeypatch):
        for uid, uri in ((0, "qemu:///system"), (1000, "qemu:///session")):
            monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
            assert LibvirtDriver(ABOUT["libvirt"], Runtime(None), data.scope("qemu")).handle() == {"uri": uri}
        assert library.opened == []

    def test_states(self, driver, instance, connection):
        (domain,) = connection.domains
        assert told(driver, instance) == ("stopped", ())
        domain.active = True
        (seen,) = driver.observe([instance])
        assert (seen.state, seen.addresses, seen.drift) == ("running", ("127.0.0.1",), ())
        assert driver.alive(instance)

    @pytest.mark.parametrize(
        ("halted", "state", "reason"),
        [
            ([3, 1], "paused", ""),
            ([3, 5], "paused", "could not write its disk"),
            ([7, 0], "paused", "to sleep"),
            ([6, 1], "paused", "panicked"),
            ([3, 11], "running", ""),
        ],
    )
    def test_one_that_does_nothing(self, driver, instance, connection, halted, state, reason):
        (domain,) = connection.domains
        domain.active, domain.halted = True, halted
        (seen,) = driver.observe([instance])
        assert (seen.state, seen.drift) == (state, ())
        assert reason in seen.reason
        assert driver.alive(instance)

    def test_one_that_is_being_saved_is_waited_for(self, driver, instance, connection, monkeypatch):
        (domain,) = connection.domains
        domain.active, domain.halted = True, [3, 3]

        class Saving:
            def pauses(self, **dummy):
                yield 0
                domain.active, domain.halted = False, [5, 0]
                yield 0

        monkeypatch.setattr(libvirt_look, "Deadline", lambda seconds: Saving())
        assert driver.observe([instance])[0].state == "stopped"
        domain.active, domain.halted = True, [3, 3]
        assert [seen.state for seen in driver.observe([instance] * 2)] == ["paused"] * 2

    def test_many_are_asked_for_with_one_call(self, driver, instance, connection, monkeypatch):
        calls = []
        monkeypatch.setattr(connection, "listAllDomains", lambda *flags: calls.append(flags) or [])
        assert len(driver.observe([instance] * 5)) == 5
        # The others tell which of them are paused, and which start by themselves.
        assert sorted(calls) == [(), (32 | 128,), (1024,)]

    def test_one_that_was_never_under_libvirt_misses_nothing(self, driver, instance, connection):
        connection.domains.clear()
        instance.handles = {"qemu": {}}
        assert told(driver, instance) == ("stopped", ())
        assert not driver.alive(instance)

    def test_what_was_removed_or_changed_is_told(self, driver, instance, connection):
        (domain,) = connection.domains
        edit(domain, "vcpu", "7")
        (seen,) = driver.observe([instance])
        assert seen.drift == ("its cpus in libvirt are 7, not 2: somebody has changed its domain",)
        domain.active, domain.persistent = True, False
        (seen,) = driver.observe([instance])
        assert seen.drift[1:] == ("its domain was undefined while it runs",)
        connection.domains.clear()
        (seen,) = driver.observe([instance])
        assert (seen.state, seen.drift) == ("stopped", ("its domain was removed from libvirt",))

    def test_a_domain_that_goes_while_it_is_looked_at(self, driver, instance, connection, monkeypatch):
        domains = list(connection.domains)
        monkeypatch.setattr(connection, "listAllDomains", lambda *flags: [] if flags else domains)
        connection.domains.clear()
        assert driver.observe([instance])[0].state == "stopped"

    def test_a_connection_that_was_lost_is_opened_again(self, driver, instance, connection, library):
        connection.lost = True
        assert not driver.alive(instance)
        assert library.opened == ["qemu:///system"] * 2


class TestForeign:
    """A domain with the uuid of an instance, which is not this instance's: of a copied data directory, or edited."""

    @pytest.fixture(autouse=True)
    def somebody_elses(self, instance, connection):
        (domain,) = connection.domains
        domain.xml = domain.xml.replace('/data"', '/copy"')
        domain.active = True
        return domain

    def test_it_is_told_and_does_not_count(self, driver, instance):
        (seen,) = driver.observe([instance])
        assert seen.state == "stopped"
        assert "it belongs to the data directory" in seen.drift[0]

    @pytest.mark.parametrize("act", ["start", "reconfigure", "alive", "forwards"])
    def test_nothing_is_done_to_it(self, driver, instance, connection, somebody_elses, act):
        before = somebody_elses.xml
        with pytest.raises(HypervisorError) as caught:
            getattr(driver if act == "alive" else driver.acts, act)(instance)
        assert "cannot be used under libvirt: the domain web of libvirt has its uuid" in str(caught.value)
        assert "virsh -c qemu:///system undefine web" in caught.value.hint
        assert (somebody_elses.xml, somebody_elses.active, connection.starts) == (before, True, [])

    def test_it_stays_when_the_instance_goes(self, driver, instance, connection, somebody_elses):
        driver.acts.delete(instance)
        assert connection.domains == [somebody_elses]
        assert somebody_elses.active


class TestActing:
    def test_files_are_handed_over_open_and_stay_private(self, driver, instance, connection):
        driver.acts.start(instance)
        (domain,) = connection.domains
        directory = driver.scope.directory("web")
        assert domain.groups == {
            "base": [instance.image["path"]],
            "disk": [f"{directory}/disk.qcow2"],
            "seed": [f"{directory}/seed.iso"],
        }
        assert connection.starts == [("web", 16)]
        for name in ("disk.qcow2", "seed.iso", "console.log"):
            assert os.stat(os.path.join(directory, name)).st_mode & 0o077 == 0

    def test_this_run_keeps_no_handle(self, driver, instance):
        before = len(os.listdir("/proc/self/fd"))
        driver.acts.start(instance)
        assert len(os.listdir("/proc/self/fd")) == before

    def test_a_start_puts_right_what_somebody_has_changed(self, driver, instance, connection):
        (domain,) = connection.domains
        edit(domain, "vcpu", "7")
        edit(domain, "name", "renamed")
        driver.acts.start(instance)
        assert [each.name() for each in connection.domains] == ["web"]
        (seen,) = driver.observe([instance])
        assert (seen.state, seen.drift) == ("running", ())
        assert connection.undefined[0][0] == "renamed"

    def test_a_removed_domain_is_defined_again(self, driver, instance, connection):
        connection.domains.clear()
        driver.acts.reconfigure(instance)
        assert told(driver, instance) == ("stopped", ())

    def test_only_who_has_been_under_libvirt_gets_a_domain_for_its_tags(self, driver, instance, connection):
        connection.domains.clear()
        instance.handles = {"qemu": {}}
        driver.acts.reconfigure(instance)
        assert connection.domains == []

    def test_a_running_one_is_not_defined_anew(self, driver, instance, connection):
        driver.acts.start(instance)
        instance.cpus = 3
        driver.acts.reconfigure(instance)
        assert connection.domains[0].root().findtext("vcpu") == "2"

    def test_a_name_that_another_domain_has(self, driver, instance, connection):
        connection.domains.clear()
        other = FakeDomain(connection, "<domain><name>web</name><uuid>other</uuid></domain>")
        connection.domains.append(other)
        driver.acts.start(instance)
        assert sorted(each.name() for each in connection.domains) == ["web", "web-0b9f7f4e"]
        assert driver.observe([instance])[0].drift == ()
        driver.acts.delete(instance)
        assert connection.domains == [other]

    def test_a_second_start_is_refused(self, driver, instance):
        driver.acts.start(instance)
        with pytest.raises(HypervisorError, match="its domain runs already"):
            driver.acts.start(instance)

    def test_a_failure_is_told_in_libvirts_words(self, driver, instance, connection):
        connection.refusals.append(None)
        with pytest.raises(HypervisorError, match="libvirt could not start web: it did not work") as caught:
            driver.acts.start(instance)
        assert "hypervisor_log" in caught.value.facts
        driver.acts.start(instance)

    def test_what_a_killed_run_has_asked_for_is_replaced(self, driver, instance, connection):
        connection.refusals.append(lambda domain: setattr(domain, "active", True))
        driver.acts.start(instance)
        assert len(connection.starts) == 2
        assert driver.alive(instance)

    def test_a_cable_is_pulled_out_and_put_in_again(self, driver, instance, connection, monkeypatch):
        monkeypatch.setattr(family_act, "time", types.SimpleNamespace(sleep=lambda seconds: None))
        driver.acts.start(instance)
        (domain,) = connection.domains
        root = domain.root()
        devices = root.find("devices")
        for mac in ("52:54:00:00:00:08", "52:54:00:00:00:09"):
            interface = ElementTree.SubElement(devices, "interface", type="bridge")
            ElementTree.SubElement(interface, "mac", address=mac)
            ElementTree.SubElement(interface, "source", bridge="br0")
        domain.xml = ElementTree.tostring(root, encoding="unicode")
        assert driver.acts.replug(instance, Nic("lab", "52:54:00:00:00:09"))
        told = [ElementTree.fromstring(xml) for xml in connection.updates]
        assert [each.find("link").get("state") for each in told] == ["down", "up"]
        assert {each.find("mac").get("address") for each in told} == {"52:54:00:00:00:09"}
        assert all(each.find("source").get("bridge") == "br0" for each in told)
        # One of QEMU's own has no cable that libvirt knows of.
        assert not driver.acts.replug(instance, instance.nics[0])

    def test_force_is_the_plug_and_may_come_too_late(self, driver, instance, connection):
        driver.acts.start(instance)
        driver.acts.stop(instance, Deadline(5), force=True)
        assert not driver.alive(instance)
        driver.acts.stop(instance, Deadline(5), force=True)
        connection.domains.clear()
        driver.acts.stop(instance, Deadline(5), force=False)

    def test_it_goes_with_all_that_libvirt_has_of_it(self, driver, instance, connection):
        driver.acts.start(instance)
        driver.acts.delete(instance)
        assert connection.domains == []
        assert connection.undefined == [("web", 1 | 2 | 4 | 16)]
        driver.acts.delete(instance)

    def test_one_that_libvirt_does_not_undefine_runs_on(self, driver, instance, connection):
        driver.acts.start(instance)
        connection.refuses_undefine = True
        with pytest.raises(HypervisorError, match="could not be removed: the domain cannot be undefined"):
            driver.acts.delete(instance)
        assert driver.alive(instance)
        assert connection.domains[0].persistent

    def test_one_that_does_not_end_stays_defined(self, driver, instance, connection, monkeypatch):
        driver.acts.start(instance)
        with monkeypatch.context() as patch:
            patch.setattr(FakeDomain, "destroy", lambda domain: _raise(LibvirtError("device or resource busy")))
            with pytest.raises(HypervisorError, match="busy"):
                driver.acts.delete(instance)
        assert driver.alive(instance)
        assert connection.domains[0].persistent

    def test_what_somebody_has_changed_of_it_while_it_runs_is_put_right(self, driver, instance, connection):
        driver.acts.start(instance)
        (domain,) = connection.domains
        edit(domain, "vcpu", "1")
        domain.starts = 1
        (seen,) = driver.observe([instance])
        assert set(seen.differs) == {"cpus", "autostart"}
        driver.acts.reconfigure(instance)
        (seen,) = driver.observe([instance])
        assert (seen.differs, seen.drift, domain.starts) == ((), (), 0)

    def test_one_that_is_paused_goes_on(self, driver, instance, connection):
        driver.acts.start(instance)
        connection.domains[0].halted = [3, 1]
        driver.acts.resume(instance)
        assert driver.observe([instance])[0].state == "running"
        connection.domains[0].halted = connection.halts_again = [3, 5]
        with pytest.raises(HypervisorError, match="paused again at once: QEMU could not write its disk"):
            driver.acts.resume(instance)

    def test_one_whose_record_was_lost_is_known_by_its_name_and_place(self, driver, instance, connection):
        driver.acts.start(instance)
        other = dataclasses.replace(instance, name="db", uuid="0b9f7f4e-6c1e-4d0c-9a57-0d8b8f9f3a11")
        driver.scope.write(other)
        driver.acts.create(other, IMAGE, {})
        driver.acts.delete(dataclasses.replace(instance, name="WEB", uuid="", nics=[]))
        assert [domain.name() for domain in connection.domains] == ["db"]
        elsewhere = connection.domains[0]
        elsewhere.xml = elsewhere.xml.replace(driver.scope.data.path, "/elsewhere")
        driver.acts.delete(dataclasses.replace(other, uuid=""))
        assert connection.domains == [elsewhere]

    def test_one_that_was_undefined_while_it_runs_goes_too(self, driver, instance, connection):
        driver.acts.start(instance)
        connection.domains[0].persistent = False
        driver.acts.delete(instance)
        assert connection.domains == []

    def test_uefi_variables_go_to_libvirt_and_come_back(self, driver, instance, connection, monkeypatch, tmp_path):
        (tmp_path / "vars").write_bytes(b"new")
        firmware = qemu_machine.Firmware("/code.fd", str(tmp_path / "vars"))
        monkeypatch.setattr(qemu_machine, "firmware", lambda arch, wanted: firmware)
        copy = tmp_path / "libvirts-copy"

        def tell(domain):
            root = ElementTree.fromstring(domain.xml)
            root.find("os/nvram").text = str(copy)
            return ElementTree.tostring(root, encoding="unicode")

        monkeypatch.setattr(FakeDomain, "XMLDesc", tell)
        connection.domains.clear()
        driver.acts.start(instance)
        assert connection.starts[-1] == ("web", 16 | 32)
        own = os.path.join(driver.scope.directory("web"), "nvram.fd")
        with open(own, "rb") as stream:
            assert stream.read() == b"new"
        (tmp_path / "secret").write_bytes(b"???")
        for make_copy, taken in (
            (lambda: copy.symlink_to(tmp_path / "secret"), b"new"),
            (lambda: copy.write_bytes(b"longer than it was"), b"new"),
            (lambda: copy.write_bytes(b"old"), b"old"),
        ):
            copy.unlink(missing_ok=True)
            make_copy()
            os.utime(copy, ns=(0, os.stat(own).st_mtime_ns + 1))
            driver.acts.firmware(instance)
            with open(own, "rb") as stream:
                assert stream.read() == taken


class TestMissing:
    def test_the_library(self, make, monkeypatch):
        monkeypatch.setitem(sys.modules, "libvirt", None)
        with pytest.raises(MissingRequirement) as caught:
            make().acts.require("x86_64")
        assert f"the Python library libvirt is missing for {sys.executable} on" in str(caught.value)
        assert "python3-libvirt" in caught.value.hint
        assert "ansible_python_interpreter" in caught.value.hint

    def test_a_library_that_is_too_old(self, make, library):
        library.virDomain = object
        with pytest.raises(MissingRequirement, match="is too old: it cannot hand open files to libvirt"):
            make().acts.require("x86_64")

    @pytest.mark.parametrize(
        ("words", "code", "hint"),
        [
            (
                "Failed to connect socket to '/run/libvirt/libvirt-sock': No such file or directory",
                38,
                "start libvirtd",
            ),
            ("Failed to connect socket to '/run/libvirt/libvirt-sock': Connection refused", 38, "start libvirtd"),
            ("Failed to connect socket to '/run/libvirt/libvirt-sock': Permission denied", 38, "group libvirt"),
            ("authentication unavailable: no polkit agent available", AUTH, "group libvirt"),
            ("internal error: no connection driver available", 1, "driver_options.uri"),
        ],
    )
    def test_libvirt_itself(self, make, library, words, code, hint):
        def refuse(uri):
            raise LibvirtError(words, code)

        library.open = refuse
        for act in (
            lambda driver: driver.acts.require("x86_64"),
            lambda driver: driver.observe([]),
            lambda driver: driver.acts.probe(),
        ):
            with pytest.raises(MissingRequirement) as caught:
                act(make())
            assert f"libvirt cannot be reached at qemu:///system: {words}" in str(caught.value)
            assert hint in caught.value.hint

    def test_a_libvirt_that_is_too_old(self, driver, connection):
        connection.version = 8_010_000
        with pytest.raises(MissingRequirement, match=r"libvirt 8\.10\.0 is too old.*Install version 9\.0"):
            driver.acts.require("x86_64")

    def test_another_hypervisor(self, driver, connection):
        connection.kind = "Xen"
        with pytest.raises(InvalidOption, match="does not lead to QEMU: it leads to Xen"):
            driver.acts.require("x86_64")

    def test_qemu(self, driver, monkeypatch):
        def missing(arch):
            raise MissingRequirement("QEMU for x86_64 was not found on this host")

        monkeypatch.setattr(qemu_machine, "emulator", missing)
        with pytest.raises(MissingRequirement, match="QEMU for x86_64 was not found"):
            driver.acts.require("x86_64")

    def test_an_accelerator_that_does_not_exist(self, make):
        with pytest.raises(InvalidOption, match=r"'warp' is not known\. Choose one of: auto, kvm, tcg"):
            make(accelerator="warp").acts.require("x86_64")

    def test_a_kvm_that_libvirt_does_not_offer(self, make, connection, monkeypatch):
        monkeypatch.setattr(qemu_machine, "choose_accelerator", lambda *args: qemu_machine.Accelerator("kvm"))
        assert make().acts.probe()["accelerator"] == "tcg"
        with pytest.raises(MissingRequirement, match="kvm cannot be used: libvirt does not offer KVM here"):
            make(accelerator="kvm").acts.require("x86_64")
        connection.kvm = True
        assert make(accelerator="kvm").acts.probe()["accelerator"] == "kvm"

    def test_a_kvm_that_makes_libvirt_slow_is_a_warning(self, make, monkeypatch):
        monkeypatch.setattr(placement.Here, "_qemu_identity", lambda self: (64055, frozenset()))
        monkeypatch.setattr(placement, "may_open", lambda *args: False)
        monkeypatch.setattr(libvirt_act.os, "stat", lambda path: types.SimpleNamespace(st_mode=0o600))
        driver = make()
        driver.acts.require("x86_64")
        assert "half a minute to define a domain" in driver.runtime.report.warnings[0]

    def test_the_library_where_another_driver_needs_it(self, driver, instance, monkeypatch):
        monkeypatch.setitem(sys.modules, "libvirt", None)
        with pytest.raises(MissingRequirement, match="the Python library libvirt is missing"):
            driver.alive(instance)

    def test_a_libvirt_that_ends_meanwhile(self, driver, instance, connection, monkeypatch):
        def end(*flags):
            connection.lost = True
            raise LibvirtError("client socket is closed", RPC)

        monkeypatch.setattr(connection, "listAllDomains", end)
        with pytest.raises(MinicloudError, match="The connection to libvirt has ended"):
            driver.observe([instance])


def test_what_it_works_with(driver):
    told = driver.acts.probe()
    assert told["version"] == "libvirt 9.0.0, QEMU 7.2.22"
    assert (told["accelerator"], told["accelerator_reason"]) == ("tcg", "slow")
    assert told["uri"] == told["endpoint"] == "qemu:///system"


def test_what_qemu_has_said_since_its_last_start(driver, instance, monkeypatch, tmp_path):
    monkeypatch.setattr(libvirt_act, "_LOG_DIRECTORIES", {"system": str(tmp_path)})
    assert driver.acts.log(instance) == ""
    (tmp_path / "web.log").write_text(
        "2026-01-01 00:00:00.0+0000: starting up libvirt version: 9.0.0\nold words\n"
        "2026-01-01 00:00:01.0+0000: starting up libvirt version: 9.0.0, qemu version: 7.2.22\n"
        "LC_ALL=C \\\n/usr/bin/qemu-system-x86_64 \\\n-name guest=web \\\n-msg timestamp=on\n"
        "qemu: it has no disk\n"
    )
    assert driver.acts.log(instance) == "qemu: it has no disk"


def test_a_port_of_a_record_is_in_the_definition_at_the_next_start(driver, instance, connection):
    instance.ports = [parse_port("8080:80")]
    driver.acts.start(instance)
    assert "hostfwd=tcp:127.0.0.1:8080-:80" in connection.domains[0].xml


class TestOnAnotherHost:
    """What is different where the URI leads to libvirt by the network."""

    @pytest.fixture(autouse=True)
    def ordinary_user(self, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setattr(os, "getegid", lambda: 1001)

    @pytest.fixture
    def there(self, make, monkeypatch):
        addresses = {"elsewhere.test": [(2, 1, 6, "", ("198.51.100.7", 0))]}

        def getaddrinfo(host, *dummy):
            if host not in addresses:
                raise OSError("Name or service not known")
            return addresses[host]

        monkeypatch.setattr(libvirt_remote.socket, "getaddrinfo", getaddrinfo)
        return make(uri="qemu+ssh://me@elsewhere.test/system")

    def test_what_it_needs(self, there, connection, data):
        there.acts.require("x86_64")
        assert connection.pools == []

    def test_another_directory_there(self, there, connection, data):
        connection.sees = lambda path: []
        with pytest.raises(MissingRequirement, match=r"reached from elsewhere\.test.*is another directory there"):
            there.acts.require("x86_64")
        assert connection.pools == []
        assert not any(name.startswith("minicloud-probe") for name in os.listdir(os.path.dirname(data.path)))

    def test_no_such_directory_there(self, there, connection, data, monkeypatch):
        def create(xml):
            raise LibvirtError("cannot open directory: No such file or directory")

        monkeypatch.setattr(connection, "storagePoolCreateXML", create)
        with pytest.raises(MissingRequirement, match=r"cannot open directory: No such file or directory.*same uid"):
            there.acts.require("x86_64")
        assert not os.path.exists(data.path)

    def test_what_killed_runs_have_left_is_taken_away_and_nothing_else(self, there, connection, data):
        place = os.path.realpath(data.path)
        for name in ("minicloud-probe-older", "minicloud-probe-now", "scopes"):
            os.makedirs(os.path.join(place, name))
            os.utime(os.path.join(place, name), None if name.endswith("now") else (0, 0))

        def pool(name, path):
            connection.storagePoolCreateXML(f"<pool><name>{name}</name><target><path>{path}</path></target></pool>")

        pool("minicloud-probe-old", f"{place}/minicloud-probe-old")
        pool("minicloud-probe-older", f"{place}/minicloud-probe-older")
        pool("minicloud-probe-now", f"{place}/minicloud-probe-now")
        pool("minicloud-probe-else", "/elsewhere/minicloud-probe-else")
        pool("images", f"{place}/images")
        there.acts.require("x86_64")
        assert [each.name() for each in connection.pools] == ["minicloud-probe-now", "minicloud-probe-else", "images"]
        assert sorted(os.listdir(place)) == ["minicloud-probe-now", "scopes"]

    def test_root_whose_files_nobody_there_may_open(self, there, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        with pytest.raises(MissingRequirement, match="they are root's, and QEMU does not run as root there"):
            there.acts.require("x86_64")

    def test_what_it_cannot_run(self, make, there):
        with pytest.raises(NotSupported, match="UEFI, which the image needs, cannot be had"):
            there.acts.require("x86_64", "uefi")
        with pytest.raises(MissingRequirement, match="this host knows no IPv4 address of nowhere"):
            make(uri="qemu+ssh://nowhere/system").acts.require("x86_64")

    def test_an_architecture_that_is_not_there(self, there, connection, monkeypatch):
        monkeypatch.setattr(connection, "getCapabilities", lambda: "<capabilities/>")
        with pytest.raises(MissingRequirement, match="QEMU for x86_64 is not installed where"):
            there.acts.require("x86_64")

    def test_its_accelerator(self, make, there, connection):
        uri = {"uri": there.uri}
        assert make(**uri, accelerator="tcg").acts.probe()["accelerator_reason"] == ""
        assert "offers no KVM for x86_64" in there.acts.probe()["accelerator_reason"]
        connection.kvm = True
        assert "has neither vmx nor svm" in there.acts.probe()["accelerator_reason"]
        with pytest.raises(MissingRequirement, match="the accelerator kvm cannot be used: libvirt on elsewhere"):
            make(**uri, accelerator="kvm").acts.require("x86_64")
        connection.features = "<feature name='svm'/>"
        assert there.acts.probe()["accelerator"] == "kvm"

    def test_its_memory(self, there, driver):
        assert there.host.memory() == (4 << 30, 1 << 30)
        assert (there.host.processors(), there.host.here, driver.host.here) == (2, False, True)

    def test_a_domain_that_opens_its_files_itself(self, there, instance, connection):
        there.acts.choose_ports(instance)
        there.acts.start(instance)
        (domain,) = connection.domains
        assert domain.groups == {}
        assert [source.get("fdgroup") for source in domain.root().iterfind("devices/disk/source")] == [None, None]
        assert domain.root().findtext("seclabel/label") == "+1000:+1001"
        assert f"hostfwd=tcp:198.51.100.7:{instance.ssh_port}-:22" in domain.xml
        assert there.ssh_address(instance) == ("elsewhere.test", instance.ssh_port)
        (seen,) = there.observe([instance])
        assert (seen.state, seen.addresses, seen.severed) == ("running", ("elsewhere.test",), False)

    def test_a_users_own_libvirt_there(self, make, there, instance, connection):
        make(uri="qemu+ssh://elsewhere.test/session").acts.start(instance)
        assert connection.domains[0].root().find("seclabel") is None

    def test_ports_that_nobody_asked_for_by_number(self, there, instance):
        instance.ports, instance.ssh_port = [parse_port("80"), parse_port("8080:81")], 0
        there.acts.choose_ports(instance)
        (chosen,) = instance.chosen_ports
        assert [port.host_port for port in instance.ports] == [chosen, 8080]
        assert len({instance.ssh_port, chosen, 8080}) == 3

    def test_a_port_for_ssh_is_none_of_those_asked_for(self, there, instance):
        instance.ports = [parse_port(f"{instance.ssh_port}:80")]
        there.acts.choose_ports(instance)
        assert instance.ssh_port != instance.ports[0].host_port

    def test_a_port_that_is_taken_there(self, there, instance, connection):
        def taken(domain):
            raise LibvirtError("qemu: -netdev user: Could not set up host forwarding rule 'tcp:0.0.0.0:8080-:80'")

        connection.refusals = [taken]
        with pytest.raises(InUse, match=r"port 8080 of 0\.0\.0\.0 is taken on elsewhere\.test: .*qemu") as refused:
            there.acts.start(instance)
        assert refused.value.facts["port"] == 8080

    def test_a_kvm_that_its_user_may_not_use(self, make, there, instance, connection):
        def refused(domain):
            raise LibvirtError("Could not access KVM kernel module: Permission denied")

        connection.kvm, connection.features = True, "<feature name='vmx'/>"
        connection.refusals = [refused]
        there.acts.start(instance)
        assert connection.domains[0].root().get("type") == "qemu"
        assert "add the user of this task to the group kvm on elsewhere.test" in there.runtime.report.warnings[-1]
        connection.domains[0].active = False
        connection.refusals = [refused]
        with pytest.raises(HypervisorError, match=r"Permission denied\. The user that QEMU runs as there may not use"):
            make(uri=there.uri, accelerator="kvm").acts.start(instance)

    def test_other_failures_are_told_as_they_are(self, there, instance, connection):
        connection.refusals = [None]
        with pytest.raises(HypervisorError, match="it did not work"):
            there.acts.start(instance)

    def test_files_behind_a_link_that_is_only_here(self, there, instance, connection, data, tmp_path):
        os.rename(data.path, tmp_path / "shared")
        os.symlink(tmp_path / "shared", data.path)
        connection.domains.clear()
        there.acts.start(instance)
        sources = [source.get("file") for source in connection.domains[0].root().iterfind("devices/disk/source")]
        assert all(source.startswith(f"{tmp_path}/shared/scopes/") for source in sources)

    def test_nothing_is_made_for_a_look(self, there, data, tmp_path):
        there.acts.probe()
        assert not os.path.exists(data.path)
        assert os.listdir(tmp_path) == []

    def test_what_is_no_uri(self, make):
        with pytest.raises(InvalidOption, match=r"'qemu\+ssh://\[::1/system' is no URI"):
            make(uri="qemu+ssh://[::1/system")

    def test_an_architecture_that_qemu_is_not_used_for(self, there):
        with pytest.raises(InvalidOption, match="QEMU is not used for arch 'riscv64'"):
            there.acts.require("riscv64")

    def test_a_host_that_does_not_let_us_in(self, there, library, monkeypatch):
        def refuse(uri):
            raise LibvirtError("Permission denied (publickey)", AUTH)

        monkeypatch.setattr(library, "open", refuse)
        with pytest.raises(MissingRequirement, match=r"runs on elsewhere.*without being asked anything: virsh -c qemu"):
            there.acts.require("x86_64")
