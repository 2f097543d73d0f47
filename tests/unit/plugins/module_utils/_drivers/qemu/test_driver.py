# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import fcntl
import grp
import json
import os
import platform
import pwd
import shutil
import socket
import stat
import struct
import subprocess
import sys
import time
import types

import pytest

from ansible_collections.minicloud.local.plugins.module_utils import _runtime
from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._drivers.host_networks.bridges import HostNetworks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu import act as qemu_act
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu import look as qemu_look
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.act import Identity, identity_for
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.driver import QemuDriver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import act as family_act
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import look as family_look
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import machine as qemu_machine
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import recorder
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import status as family_status
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.qmp import Qmp
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import ABOUT
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    CommandFailed,
    HypervisorError,
    InUse,
    InvalidOption,
    MinicloudError,
    MissingRequirement,
    NotSupported,
    RecordError,
)
from ansible_collections.minicloud.local.plugins.module_utils._host.host import Linux, this_host
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import leases, lookup
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import ports as host_ports
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Nic, Observed, parse_port
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Deadline, Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, write_file
from ansible_collections.minicloud.local.tests.unit import processes

# A program that stands in for QEMU: it holds what it inherits, and answers on its monitor as told by the environment.
FAKE_QEMU = r"""
import json, os, re, socket, sys

behaviour = os.environ.get("FAKE_QEMU", "")
if behaviour == "ends":
    sys.exit("qemu-system-x86_64: something is wrong with the disk")
words = " ".join(sys.argv)
record = {"argv": sys.argv[1:], "cwd": os.getcwd(), "uid": os.getuid(), "umask": os.umask(0)}
record["files"] = {
    name: os.readlink(f"/proc/self/fd/{fd}") for fd, name in re.findall(r"fd=(\d+),set=\d+,opaque=(\w+)", words)
}
record["sessions"] = [os.getsid(0), os.getppid()]
with open("fake.json", "w") as stream:
    json.dump(record, stream)
console = int(re.search(r"fd=(\d+),set=\d+,opaque=console", words)[1])
os.write(console, b"the guest boots\n")
listener = socket.socket(fileno=int(re.search(r"socket,id=monitor,fd=(\d+)", words)[1]))
forwards, status = [], "running"
while True:
    connection, _ = listener.accept()
    if behaviour == "deaf":
        connection.recv(1 << 20)
        continue
    stream = connection.makefile("rwb")

    def say(answer):
        stream.write(json.dumps(answer).encode() + b"\n")
        stream.flush()

    say({"QMP": {}})
    for line in stream:
        request = json.loads(line)
        command = request["execute"]
        if command in ("quit", "system_powerdown") and behaviour != "stubborn":
            say({"return": {}})
            sys.exit(0)
        answer = {}
        if command == "query-status":
            answer = {"status": status}
        elif command == "stop":
            status = "paused"
        elif command == "cont":
            status = "io-error" if behaviour == "full" else "running"
        if command == "query-rx-filter":
            answer = [{"name": "nic0", "main-mac": "52:54:00:00:00:01"}]
        elif command == "set_link":
            with open("links", "a") as stream_of_links:
                stream_of_links.write(json.dumps(request["arguments"]) + "\n")
        elif command == "human-monitor-command":
            answer = ""
            verb, *rest = request["arguments"]["command-line"].split()
            if verb == "info":
                answer = "\r\n".join(
                    f"  {p.upper()}[HOST_FORWARD] 1 {'*' if ip == '0.0.0.0' else ip} {h} 10.0.2.15 {g} 0 0"
                    for p, ip, h, g in (re.split(":|-:", rule) for rule in forwards)
                )
            elif verb == "hostfwd_remove":
                gone = [rule for rule in forwards if rule.startswith(rest[1] + "-")]
                forwards = [rule for rule in forwards if rule not in gone]
                answer = "removed" if gone else "not found"
            elif rest[1] in forwards or ":6666-" in rest[1]:
                answer = f"Could not set up host forwarding rule '{rest[1]}'"
            else:
                forwards.append(rest[1])
        say({"return": answer})
"""

needs_setsid = pytest.mark.skipif(not shutil.which("setsid"), reason="this host has no setsid")


def an_instance(name="web", **changes):
    values = {
        "uuid": f"id-of-{name}",
        "scope": "qemu",
        "driver": "qemu",
        "created": "",
        "arch": "x86_64",
        "cpus": 1,
        "memory": 1 << 30,
        "disk": 5 << 30,
        "phase": "ready",
        "ssh_port": 40022,
        "nics": [Nic("user", "52:54:00:00:00:01")],
    }
    return Instance(name, **{**values, **changes})


@pytest.fixture
def data(tmp_path):
    return DataDirectory(str(tmp_path / "data"))


# The header of a qcow2 image, for those who look no further.
EMPTY_DISK = b"QFI\xfb" + struct.pack(">I", 3) + bytes(96)


@pytest.fixture
def driver(data, monkeypatch):
    driver = QemuDriver(ABOUT["qemu"], Runtime(run, Reporter()), data.scope("qemu"))
    # Nobody here is as slow as a guest.
    monkeypatch.setattr(qemu_act, "Deadline", lambda seconds: Deadline(seconds / 20))
    monkeypatch.setattr(qemu_act, "Qmp", lambda path, timeout=20: Qmp(path, timeout / 20))
    return driver


@pytest.fixture
def instance(driver, tmp_path):
    instance = an_instance(image={"name": "lts", "path": str(tmp_path / "base.qcow2")})
    driver.scope.write(instance)
    (tmp_path / "base.qcow2").write_text("base")
    for name, content in (("disk.qcow2", EMPTY_DISK), ("seed.iso", b"seed")):
        write_file(os.path.join(driver.scope.directory("web"), name), content)
    return instance


def path_of(driver, name):
    return os.path.join(driver.scope.directory("web"), name)


def hold_run_lock(driver, told):
    """What a QEMU does as far as its lock is concerned."""
    handle = os.open(path_of(driver, "run.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    told.give()
    signal_that_never_comes = processes.Signal()
    signal_that_never_comes.wait()


class TestAlive:
    def test_whoever_holds_the_lock_is_alive_until_it_is_killed(self, driver, instance):
        assert not driver.alive(instance)
        told = processes.Signal()
        with processes.running(lambda: hold_run_lock(driver, told)):
            told.wait()
            assert driver.alive(instance)
            assert driver.observe([instance]) == [Observed("running", ("127.0.0.1",))]
        assert not driver.alive(instance)
        assert driver.observe([instance]) == [Observed("stopped")]

    def test_one_that_has_been_saved_and_ends_is_suspended(self, driver, instance, monkeypatch):
        # Nobody answers any more at its monitor.
        write_file(path_of(driver, "saved.json"), b"{}")
        alive = iter([True, True, True, False])
        monkeypatch.setattr(type(driver), "alive", lambda self, instance: next(alive))
        assert driver.observe([instance])[0].state == "suspended"
        assert not list(alive)

    def test_one_that_is_being_loaded_says_so_in_a_moment(self, driver, instance, monkeypatch):
        write_file(path_of(driver, "saved.json"), b"{}")
        told = iter(["", "", "inmigrate"])
        monkeypatch.setattr(type(driver), "alive", lambda self, instance: True)
        monkeypatch.setattr(family_status, "statuses", lambda paths: [next(told)])
        assert driver.observe([instance])[0].state == "paused"

    def test_one_that_neither_answers_nor_ends_is_not_waited_for_without_end(self, driver, instance, monkeypatch):
        write_file(path_of(driver, "saved.json"), b"{}")
        monkeypatch.setattr(qemu_look, "_MOMENT", 0.1)
        monkeypatch.setattr(type(driver), "alive", lambda self, instance: True)
        assert driver.observe([instance])[0].state == "suspended"

    def test_a_file_alone_says_nothing(self, driver, instance):
        for name in ("run.lock", "qemu.pid", "monitor.sock"):
            write_file(path_of(driver, name), b"1")
        assert not driver.alive(instance)

    def test_lookers_do_not_take_each_other_for_a_qemu(self, driver, instance):
        write_file(path_of(driver, "run.lock"), b"")
        with open(path_of(driver, "run.lock"), encoding="ascii") as looker:
            fcntl.flock(looker, fcntl.LOCK_SH)
            assert not driver.alive(instance)

    def test_looking_leaves_nothing_behind(self, driver, instance):
        before = os.listdir(driver.scope.directory("web")), len(os.listdir("/proc/self/fd"))
        for dummy in range(10):
            driver.alive(instance)
        assert (os.listdir(driver.scope.directory("web")), len(os.listdir("/proc/self/fd"))) == before

    def test_many_in_their_order(self, driver, instance):
        other = an_instance("other")
        driver.scope.write(other)
        told = processes.Signal()
        with processes.running(lambda: hold_run_lock(driver, told)):
            told.wait()
            states = [each.state for each in driver.observe([other, instance, other])]
        assert states == ["stopped", "running", "stopped"]

    def test_the_addresses_of_many_are_read_once(self, driver, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(driver, "alive", lambda dummy: True)
        macs = [f"52:54:00:00:00:{number:02X}" for number in range(20)]
        lines = "".join(f"0 {mac.lower()} 10.1.2.{number + 10} web *\n" for number, mac in enumerate(macs))
        make_dir(driver.scope.networks.directory("lan"))
        write_file(os.path.join(driver.scope.networks.directory("lan"), "leases"), lines.encode())
        read = []
        for name in ("read_leases", "neighbours"):
            real = getattr(leases, name)
            monkeypatch.setattr(leases, name, lambda *args, real=real: read.append(args) or real(*args))
        many = [an_instance(f"web{mac[-2:]}".lower(), owner="qemu", nics=[Nic("lan", mac)]) for mac in macs]
        seen = driver.observe(many)
        addresses = [(f"10.1.2.{number + 10}",) for number in range(20)]
        assert [(each.addresses, each.by_mac) for each in seen] == [
            (own, {mac: own}) for own, mac in zip(addresses, macs)
        ]
        assert [driver.ssh_address(*each) for each in zip(many, seen)] == [(own, 22) for (own,) in addresses]
        assert read == [(driver.scope.networks.directory("lan"),), ()]


class TestPortsOnABridge:
    """With a host that is root's, has a bridge, and whose firewall forwards what the test says."""

    MAC = "52:54:00:00:00:11"

    @pytest.fixture(autouse=True)
    def host(self, driver, monkeypatch):
        self.there, self.elsewhere, self.subnet = {self.MAC: ("192.0.2.50",)}, [], "192.0.2.2/24"
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(driver, "alive", lambda dummy: True)
        monkeypatch.setattr(lookup, "find_guests", lambda dummy, macs: {mac: self.there[mac] for mac in macs})
        monkeypatch.setattr(lookup, "own_subnet", lambda dummy: self.subnet)
        monkeypatch.setattr(HostNetworks, "forwarded_elsewhere", lambda *dummy: list(self.elsewhere))
        self.network(driver)

    @staticmethod
    def network(driver, **values):
        given = {"mode": "bridged", "parent": "br0", "interface": "br0", "phase": "ready", **values}
        driver.scope.networks.write(Network("lan", "qemu", "qemu", "", **given))

    def instance(self, driver, name="web", **values):
        given = {"nics": [Nic("lan", self.MAC)], "ports": [parse_port("48080:80")], "owner": "qemu", **values}
        instance = an_instance(name, **given)
        driver.scope.write(instance)
        return instance

    @staticmethod
    def note(driver, address):
        path = os.path.join(driver.scope.networks.directory("lan"), lookup.PORT_NOTES)
        write_file(path, json.dumps({"schema": 1, "addresses": {TestPortsOnABridge.MAC: address}}).encode())

    def test_ports_that_lead_elsewhere_are_noticed_without_a_look_at_the_firewall(self, driver):
        instance = self.instance(driver)
        assert driver.observe([instance])[0].severed
        self.note(driver, "192.0.2.50")
        assert not driver.observe([instance])[0].severed
        self.note(driver, "192.0.2.7")
        assert driver.observe([instance])[0].severed
        # Nobody knows better while it does not answer.
        self.there[self.MAC] = ()
        assert not driver.observe([instance])[0].severed

    def test_nothing_is_severed_that_has_no_ports_there(self, driver):
        assert not driver.observe([self.instance(driver, ports=[])])[0].severed
        kept = [Nic("lan", self.MAC), Nic("default", "52:54:00:00:00:12", lease="10.1.2.64")]
        assert not driver.observe([self.instance(driver, nics=kept)])[0].severed

    def test_on_top_of_an_interface_no_port_can_be_forwarded(self, driver):
        self.network(driver, bridge_type="macvtap")
        with pytest.raises(NotSupported, match="this host and the instance cannot reach each other"):
            driver.acts.choose_ports(self.instance(driver))
        driver.acts.choose_ports(self.instance(driver, ports=[]))

    def test_a_host_without_an_address_there_is_warned(self, driver):
        driver.acts.choose_ports(self.instance(driver))
        assert driver.runtime.report.warnings == []
        self.subnet = None
        driver.acts.choose_ports(self.instance(driver))
        assert "no IPv4 address on br0" in driver.runtime.report.warnings[0]

    def test_a_port_of_an_instance_that_has_no_address_yet_is_taken(self, driver):
        other = self.instance(driver, "db", nics=[Nic("lan", "52:54:00:00:00:13")])
        with pytest.raises(InUse, match="the instance db has it"):
            driver.acts.choose_ports(self.instance(driver))
        driver.scope.write(dataclasses.replace(other, owner=""))
        driver.acts.choose_ports(self.instance(driver))


@needs_setsid
class TestRunning:
    @pytest.fixture(autouse=True)
    def program(self, tmp_path, monkeypatch, driver, instance):
        path = tmp_path / "bin" / "qemu-system-x86_64"
        path.parent.mkdir()
        path.write_text(f"#!{sys.executable}\n{FAKE_QEMU}")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr(qemu_act, "identity_for", lambda name: Identity(os.getuid(), os.getgid(), (), False))
        yield path
        # Whatever a test has left running.
        try:
            with open(path_of(driver, "qemu.pid"), encoding="ascii") as stream:
                pid = int(stream.read())
            if driver.alive(instance):
                os.kill(pid, 9)
        except FileNotFoundError:
            pass

    def told(self, driver):
        with open(path_of(driver, "fake.json"), encoding="utf-8") as stream:
            return json.load(stream)

    def test_it_starts_runs_and_ends(self, driver, instance):
        driver.acts.start(instance)
        assert driver.alive(instance)
        driver.acts.stop(instance, Deadline(20), force=False)
        assert not driver.alive(instance)
        driver.acts.start(instance)
        assert driver.alive(instance)
        driver.acts.stop(instance, Deadline(20), force=True)
        assert not driver.alive(instance)
        driver.acts.stop(instance, Deadline(20), force=True)

    def test_one_that_is_paused_is_seen_and_goes_on(self, driver, instance, monkeypatch):
        monkeypatch.setattr(qemu_act, "_SECOND_THOUGHTS", 0.1)
        driver.acts.start(instance)
        self.pause(driver)
        assert (driver.observe([instance])[0].state, driver.alive(instance)) == ("paused", True)
        driver.acts.resume(instance)
        assert driver.observe([instance])[0].state == "running"
        self.pause(driver)
        driver.acts.stop(instance, Deadline(20), force=False)
        assert driver.observe([instance])[0].state == "stopped"

    def pause(self, driver):
        with Qmp(os.path.join(driver.scope.directory("web"), "monitor.sock")) as qmp:
            qmp.execute("stop")

    def test_one_that_pauses_again_at_once(self, driver, instance, monkeypatch):
        monkeypatch.setenv("FAKE_QEMU", "full")
        driver.acts.start(instance)
        self.pause(driver)
        with pytest.raises(HypervisorError, match=r"paused again at once: .* disk.* Free some space"):
            driver.acts.resume(instance)
        (seen,) = driver.observe([instance])
        assert seen.state == "paused" and "could not write its disk" in seen.reason
        driver.acts.delete(instance)

    def test_one_whose_monitor_says_nothing_counts_as_running_and_holds_nobody_up(self, driver, instance, monkeypatch):
        driver.acts.start(instance)
        begun = time.monotonic()
        with Qmp(os.path.join(driver.scope.directory("web"), "monitor.sock")):
            assert driver.observe([instance])[0].state == "running"
        assert time.monotonic() - begun < 15  # a patient monitor waits 20 s; a busy machine takes some, too
        driver.acts.delete(instance)

    def test_what_remains_of_a_removal_is_its_disk(self, driver, instance, data):
        assert driver.remains(instance) == ""
        driver.acts.start(instance)
        driver.acts.delete(instance)
        removing = dataclasses.replace(instance, phase="removing")
        assert driver.remains(removing).startswith("its disk is there, ")
        assert driver.remains(dataclasses.replace(instance, phase="creating")) == ""

    def test_it_has_what_it_needs_and_knows_no_path(self, driver, instance, data):
        driver.acts.start(instance)
        told = self.told(driver)
        directory = driver.scope.directory("web")
        console = told["files"].pop("console")
        assert told["files"] == {
            "base": instance.image["path"],
            "disk": f"{directory}/disk.qcow2",
            "seed": f"{directory}/seed.iso",
        }
        # What is written there is kept by a process that does not keep it without end.
        assert console.startswith("pipe:")
        assert [word for word in told["argv"] if data.path in word or instance.image["path"] in word] == []
        assert told["umask"] == 0o077
        driver.acts.delete(instance)

    @pytest.fixture
    def ordinary(self, driver, instance, monkeypatch):
        """The instance of an ordinary user, on a network."""
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        network = Network("lab", "qemu", "qemu", "", subnet="10.20.30.0/24", phase="ready")
        driver.scope.networks.write(network)
        instance.nics = [Nic("lab", "52:54:00:00:00:01", lease="10.20.30.64")]
        instance.uuid = "0b9f7f4e-6c1e-4d0c-9a57-0d8b8f9f3a10"
        driver.networks().apply(network, [])
        yield network
        driver.acts.delete(instance)
        driver.networks().remove(network)

    @pytest.fixture
    def told_version(self, driver, monkeypatch):
        def answer(version):
            def run_(argv, **kwargs):
                return (
                    Completed(0, f"QEMU emulator version {version}", "") if "--version" in argv else run(argv, **kwargs)
                )

            monkeypatch.setattr(driver.runtime, "run", run_)

        return answer

    @pytest.mark.parametrize("mode", ["nat", "isolated"])
    def test_an_ordinary_users_is_on_its_networks_and_has_a_way_out_of_its_own(
        self, driver, instance, ordinary, told_version, mode
    ):
        told_version("7.2.0")
        ordinary.mode = mode
        driver.scope.networks.write(ordinary)
        driver.acts.start(instance)
        line = self.told(driver)["argv"]
        out, lab = [line[at + 1] for at, word in enumerate(line) if word == "-netdev"]
        assert out.startswith("user,id=net0,") and "hostfwd=tcp:127.0.0.1:40022-:22" in out
        assert ("restrict=on" in out) == (mode == "isolated")
        port, hub = "../../networks/lab/525400000001.port", "../../networks/lab/hub.sock"
        assert lab == f"dgram,id=net1,local.type=unix,local.path={port},remote.type=unix,remote.path={hub}"
        macs = [word.partition("mac=")[2] for word in line if word.startswith("virtio-net")]
        assert macs == [nic.mac for nic in driver.interfaces(instance)] and macs[1] == "52:54:00:00:00:01"
        assert driver.ssh_address(instance) == ("127.0.0.1", 40022)
        assert driver.acts.forwards(instance) == []

    def test_its_hub_runs_as_long_as_it_does(self, driver, instance, ordinary, told_version):
        told_version("7.2.0")
        driver.acts.start(instance)
        networks = driver.networks()
        write_file(networks.sockets(ordinary, instance.nics[0].mac)[0], b"")
        assert networks.runs(ordinary)
        assert not driver.observe([instance])[0].severed
        networks._end(ordinary)
        assert driver.observe([instance])[0].severed
        networks.apply(ordinary, [])
        assert not driver.observe([instance])[0].severed
        driver.acts.delete(instance)
        assert any(not networks.runs(ordinary) for dummy in Deadline(30).pauses())
        assert not os.path.exists(networks.sockets(ordinary, instance.nics[0].mac)[0])

    def test_a_qemu_that_is_too_old_for_networks_is_a_warning(self, driver, instance, ordinary, told_version):
        told_version("6.2.0 (Debian 1:6.2+dfsg-2)")
        driver.acts.start(instance)
        line = self.told(driver)["argv"]
        assert [line[at + 1].partition(",")[0] for at, word in enumerate(line) if word == "-netdev"] == ["user"]
        (warning,) = [each for each in driver.runtime.report.warnings if "networks" in each]
        assert "7.2" in warning and "6.2.0" in warning
        assert not driver.networks().runs(ordinary)

    def test_an_ordinary_users_network_that_is_gone_is_told(self, driver, instance, ordinary):
        instance.nics = [Nic("nowhere", "52:54:00:00:00:01")]
        with pytest.raises(HypervisorError, match="nowhere"):
            driver.acts.start(instance)
        assert not driver.alive(instance)

    def test_it_outlives_this_run(self, driver, instance):
        driver.acts.start(instance)
        session, parent = self.told(driver)["sessions"]
        assert session != os.getsid(0)
        assert parent != os.getpid()
        driver.acts.delete(instance)

    def test_its_files_are_private(self, driver, instance):
        driver.acts.start(instance)
        for name in ("console.log", "monitor.sock", "run.lock", "qemu.pid", "qemu.log"):
            assert stat.S_IMODE(os.stat(path_of(driver, name)).st_mode) & 0o077 == 0, name
        driver.acts.delete(instance)

    def test_this_run_keeps_no_handle_of_it(self, driver, instance):
        before = len(os.listdir("/proc/self/fd"))
        driver.acts.start(instance)
        assert len(os.listdir("/proc/self/fd")) == before
        driver.acts.delete(instance)

    def test_a_second_one_is_refused(self, driver, instance):
        driver.acts.start(instance)
        with pytest.raises(HypervisorError, match="a QEMU of this instance runs already"):
            driver.acts.start(instance)
        assert driver.alive(instance)
        driver.acts.delete(instance)

    def test_one_that_ends_at_once_is_told_with_its_own_words(self, driver, instance, monkeypatch):
        monkeypatch.setenv("FAKE_QEMU", "ends")
        with pytest.raises(HypervisorError) as caught:
            driver.acts.start(instance)
        assert "QEMU could not start web: qemu-system-x86_64: something is wrong with the disk" in str(caught.value)
        assert caught.value.facts["hypervisor_log"] == driver.acts.log(instance)
        monkeypatch.delenv("FAKE_QEMU")
        driver.acts.start(instance)
        assert driver.acts.log(instance) == ""
        driver.acts.delete(instance)

    def test_one_that_does_not_answer_is_told_and_can_be_ended(self, driver, instance, monkeypatch):
        monkeypatch.setenv("FAKE_QEMU", "deaf")
        monkeypatch.setattr(qemu_act, "Qmp", lambda path, timeout=20: Qmp(path, 0.1))
        with pytest.raises(HypervisorError, match="does not answer on its monitor"):
            driver.acts.start(instance)
        assert driver.alive(instance)
        with pytest.raises(HypervisorError, match="does not answer on its monitor") as caught:
            driver.acts.stop(instance, Deadline(5), force=False)
        assert "force: true" in caught.value.hint
        driver.acts.stop(instance, Deadline(5), force=True)
        assert not driver.alive(instance)

    def test_one_whose_guest_does_not_shut_down(self, driver, instance, monkeypatch):
        monkeypatch.setenv("FAKE_QEMU", "stubborn")
        driver.acts.start(instance)
        with pytest.raises(HypervisorError) as caught:
            driver.acts.stop(instance, Deadline(0.1), force=False)
        assert "web did not shut down within 0.1 seconds" in str(caught.value)
        assert "force: true" in caught.value.hint
        assert driver.alive(instance)
        driver.acts.delete(instance)
        assert not driver.alive(instance)

    def test_one_that_has_ended_by_itself_is_stopped(self, driver, instance):
        driver.acts.stop(instance, Deadline(1), force=False)
        driver.acts.start(instance)
        driver.acts.delete(instance)
        driver.acts.stop(instance, Deadline(1), force=False)

    def test_the_console_is_kept_from_start_to_start(self, driver, instance):
        for number in range(6):
            driver.acts.start(instance)
            for dummy in Deadline(30).pauses():
                with open(path_of(driver, "console.log"), encoding="ascii") as stream:
                    if stream.read():
                        break
            driver.acts.delete(instance)
            with open(path_of(driver, "console.log"), "a", encoding="ascii") as stream:
                stream.write(f"boot {number}\n")
        texts = []
        for name in ("console.log", "console.log.1", "console.log.2", "console.log.3"):
            with open(path_of(driver, name), encoding="ascii") as stream:
                texts.append(stream.read())
        assert texts == [f"the guest boots\nboot {number}\n" for number in (5, 4, 3, 2)]
        assert not os.path.exists(path_of(driver, "console.log.4"))

    def test_emulation_is_a_warning_with_its_reason(self, driver, instance, monkeypatch):
        for reason, warnings in (("because", 1), ("", 1)):
            chosen = qemu_machine.Accelerator("tcg", reason)
            monkeypatch.setattr(qemu_machine, "choose_accelerator", lambda *args, chosen=chosen: chosen)
            driver.acts.start(instance)
            driver.acts.delete(instance)
            assert len(driver.runtime.report.warnings) == warnings
        assert "emulation" in driver.runtime.report.warnings[0]
        assert "because" in driver.runtime.report.warnings[0]

    @pytest.mark.parametrize("image", [{}, {"path": ""}, {"path": "disk.qcow2"}])
    def test_a_record_that_does_not_tell_its_image_starts_nothing(self, driver, instance, image):
        instance.image = image
        with pytest.raises(RecordError, match="does not tell which image"):
            driver.acts.start(instance)

    def test_a_missing_disk_is_explained_and_starts_nothing(self, driver, instance):
        os.unlink(path_of(driver, "disk.qcow2"))
        with pytest.raises(Exception, match=r"disk\.qcow2 could not be read: No such file") as caught:
            driver.acts.start(instance)
        assert path_of(driver, "disk.qcow2") in str(caught.value)
        assert not driver.alive(instance)

    def test_a_program_that_cannot_be_started(self, driver, instance, monkeypatch):
        def fail(argv, **kwargs):
            return Completed(1, "", "setsid: no") if "qemu.pid" in str(argv) else run(argv, **kwargs)

        monkeypatch.setattr(driver.runtime, "run", fail)
        with pytest.raises(CommandFailed, match="QEMU could not be started for web: setsid: no"):
            driver.acts.start(instance)
        assert not driver.alive(instance)

    def test_forwards_change_while_it_runs(self, driver, instance):
        driver.acts.start(instance)
        assert driver.acts.forwards(instance) == []
        for wanted in (["8080:80", "0.0.0.0:5353:53/udp"], ["8080:81", "9090:90"], []):
            instance.ports = list(map(parse_port, wanted))
            driver.acts.forward_ports(instance, driver.acts.forwards(instance))
            assert sorted(driver.acts.forwards(instance)) == sorted(instance.ports)
        driver.acts.delete(instance)

    def links(self, driver):
        with open(path_of(driver, "links"), encoding="ascii") as stream:
            return [(each["name"], each["up"]) for each in map(json.loads, stream)]

    def test_a_cable_is_pulled_out_and_put_in_again(self, driver, instance, monkeypatch):
        pauses = []
        monkeypatch.setattr(family_act, "time", types.SimpleNamespace(sleep=pauses.append))
        driver.acts.start(instance)
        assert driver.acts.replug(instance, instance.nics[0])
        assert self.links(driver) == [("nic0", False), ("nic0", True)]
        assert pauses == [family_act._CABLE_OUT]
        assert not driver.acts.replug(instance, Nic("user", "52:54:00:00:00:99"))
        assert not driver.observe([instance])[0].severed
        driver.acts.delete(instance)

    def test_a_cable_that_a_killed_run_pulled_out_is_put_in_by_the_next(self, driver, instance, monkeypatch):
        def killed(seconds):
            raise KeyboardInterrupt

        monkeypatch.setattr(family_act, "time", types.SimpleNamespace(sleep=killed))
        monkeypatch.setattr(family_act.FamilyActs, "plug_in", lambda *dummy: None)
        driver.acts.start(instance)
        with pytest.raises(KeyboardInterrupt):
            driver.acts.replug(instance, instance.nics[0])
        monkeypatch.undo()
        assert driver.observe([instance])[0].severed
        driver.acts.plug_in(instance)
        assert self.links(driver) == [("nic0", False), ("nic0", True)]
        assert not driver.observe([instance])[0].severed
        driver.acts.plug_in(instance)
        assert len(self.links(driver)) == 2
        driver.acts.delete(instance)

    def test_the_forward_for_ssh_is_not_one_of_the_users(self, driver, instance):
        driver.acts.start(instance)
        with Qmp(path_of(driver, "monitor.sock")) as qmp:
            qmp.monitor(f"hostfwd_add net0 tcp:127.0.0.1:{instance.ssh_port}-:22")
        assert driver.acts.forwards(instance) == []
        driver.acts.delete(instance)

    def test_a_forward_that_qemu_refuses_is_told_in_its_words(self, driver, instance):
        driver.acts.start(instance)
        instance.ports = [parse_port("6666:80")]
        with pytest.raises(HypervisorError) as caught:
            driver.acts.forward_ports(instance, [])
        assert "port 127.0.0.1:6666:80/tcp could not be forwarded" in str(caught.value)
        assert "Could not set up host forwarding rule" in str(caught.value)
        driver.acts.delete(instance)


class TestConsole:
    def test_a_console_that_grows_is_cut(self, driver, instance, monkeypatch):
        monkeypatch.setattr(family_look, "_CONSOLE_LIMIT", 10)
        path = driver.console_log(instance)
        driver.tidy(instance)
        write_file(path, b"x" * 10)
        driver.tidy(instance)
        assert os.path.getsize(path) == 10
        monkeypatch.setattr(recorder, "LIMIT", 4)
        write_file(path, b"begin - end")
        driver.tidy(instance)
        assert os.path.getsize(path) == 0
        with open(f"{path}.0", "rb") as stream:
            assert stream.read() == b" end"

    def test_the_limit_is_what_a_host_can_spare(self):
        assert 1 << 20 <= family_look._CONSOLE_LIMIT <= 64 << 20


class TestPorts:
    @pytest.fixture
    def listener(self):
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen(1)
            yield server.getsockname()[1]

    @pytest.fixture
    def all_free(self, monkeypatch):
        """No port is taken, whatever else runs on this host."""
        monkeypatch.setattr(host_ports, "is_free", lambda *args: True)

    def test_ports_are_chosen_and_kept(self, driver, all_free):
        instance = an_instance(ssh_port=0, ports=[parse_port("80"), parse_port("443"), parse_port("53/udp")])
        driver.acts.choose_ports(instance)
        chosen = [port.host_port for port in instance.ports]
        assert 0 not in [*chosen, instance.ssh_port]
        assert len({*chosen, instance.ssh_port}) == 4
        assert [port.guest_port for port in instance.ports] == [80, 443, 53]
        before = instance.ssh_port, list(instance.ports)
        driver.acts.choose_ports(instance)
        assert (instance.ssh_port, instance.ports) == before

    def test_a_port_that_is_taken_names_who_has_it(self, driver, listener):
        instance = an_instance(ports=[parse_port(f"{listener}:80")])
        with pytest.raises(InUse) as caught:
            driver.acts.choose_ports(instance)
        assert f"port {listener}/tcp of 127.0.0.1 is taken" in str(caught.value)
        assert f"(process {os.getpid()}) listens on it" in str(caught.value)
        assert caught.value.facts == {"port": listener}

    def test_a_port_that_nobody_asked_for_by_number_is_replaced_when_it_is_taken(self, driver, listener):
        instance = an_instance(ports=[parse_port("80")])
        driver.acts.choose_ports(instance)
        (first,) = instance.ports
        assert instance.chosen_ports == [first.host_port]
        # Of the port that was chosen nobody can be sure; the listener's is taken for certain.
        instance.ports, instance.chosen_ports = [first._replace(host_port=listener)], [listener]
        driver.acts.choose_ports(instance)
        (second,) = instance.ports
        assert second.host_port != listener
        assert second.guest_port == 80
        assert instance.chosen_ports == [second.host_port]

    def test_a_taken_port_for_ssh_is_replaced(self, driver, listener):
        instance = an_instance(ssh_port=listener)
        driver.acts.choose_ports(instance)
        assert instance.ssh_port != listener

    def test_the_port_for_ssh_makes_way_for_one_that_is_asked_for(self, driver, all_free):
        port = 41000
        instance = an_instance(ssh_port=port, ports=[parse_port(f"{port}:80")])
        driver.acts.choose_ports(instance)
        assert instance.ports == [parse_port(f"{port}:80")]
        assert instance.ssh_port != port

    def test_ports_of_stopped_instances_are_left_to_them(self, driver, monkeypatch, all_free):
        ports = [41001, 41002, 41003, 41004]
        driver.scope.write(an_instance("other", ssh_port=ports[0], ports=[parse_port(f"{ports[1]}:80")]))
        offered = []

        def choose(ip, protocol, taken):
            offered.append(next(port for port in ports if port not in taken))
            return offered[-1]

        monkeypatch.setattr(host_ports, "choose", choose)
        instance = an_instance(ssh_port=ports[0], ports=[parse_port("80")])
        driver.acts.choose_ports(instance)
        assert sorted([instance.ssh_port, instance.ports[0].host_port]) == sorted(ports[2:])

    def test_what_the_running_instance_has_is_not_taken(self, driver, listener):
        held = [parse_port(f"{listener}:80")]
        instance = an_instance(ssh_port=40022, ports=[parse_port(f"{listener}:80"), parse_port("443")])
        driver.acts.choose_ports(instance, held)
        assert instance.ports[0] == held[0]
        assert instance.ports[1].host_port
        assert instance.ssh_port == 40022
        # The same port of the host may lead elsewhere.
        instance = an_instance(ports=[parse_port(f"{listener}:8080")])
        driver.acts.choose_ports(instance, held)
        with pytest.raises(InUse):
            driver.acts.choose_ports(an_instance(ports=[parse_port(f"{listener}:8080")]), [])

    @pytest.mark.parametrize("port", ["192.0.2.1:8080:80", "192.0.2.1::80"])
    def test_an_address_that_the_host_does_not_have_is_told_so(self, driver, port):
        with pytest.raises(InvalidOption, match=r"192\.0\.2\.1 is not an address of this host"):
            driver.acts.choose_ports(an_instance(ports=[parse_port(port)]))

    def test_a_port_that_only_root_may_have(self, driver, monkeypatch):
        def refuse(*args):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(host_ports, "is_free", refuse)
        with pytest.raises(MissingRequirement, match="ports below 1024 belong to root"):
            driver.acts.choose_ports(an_instance(ports=[parse_port("80:80")]))


class TestDisks:
    @pytest.fixture
    def commands(self, driver, monkeypatch):
        commands = []

        def record(argv, **kwargs):
            commands.append(list(argv))
            if "create" in argv:
                write_file(argv[-2], b"", 0o644)
            return Completed(0, "", "")

        monkeypatch.setattr(driver.runtime, "run", record)
        monkeypatch.setattr(driver.runtime, "program", lambda name, *args: name)
        return commands

    def test_the_disk_is_an_overlay_and_private(self, driver, commands):
        image = Image("lts", "ab" * 32, "/d/base.qcow2", "qcow2", 1, 2, "x86_64")
        instance = an_instance(disk=7 << 30)
        driver.acts.create(instance, image, {"meta-data": b"a", "user-data": b"b"})
        (command,) = commands
        assert command[:2] == ["qemu-img", "create"]
        assert command[command.index("-b") + 1] == "/d/base.qcow2"
        assert command[command.index("-F") + 1] == "qcow2"
        assert command[-1] == str(7 << 30)
        assert stat.S_IMODE(os.stat(path_of(driver, "disk.qcow2")).st_mode) == 0o600
        with open(path_of(driver, "seed.iso"), "rb") as stream:
            assert b"cidata" in stream.read().lower()
        driver.acts.create(instance, image, {"meta-data": b"a", "user-data": b"b"})

    def test_a_uefi_machine_has_variables_of_its_own(self, driver, commands, monkeypatch, tmp_path):
        variables = tmp_path / "vars.fd"
        variables.write_bytes(b"v" * 100 + bytes(200_000))
        found = {"uefi": qemu_machine.Firmware("/code.fd", str(variables)), "": None}
        monkeypatch.setattr(qemu_machine, "firmware", lambda arch, wanted: found[wanted])
        image = Image("lts", "ab" * 32, "/d/base.qcow2", "qcow2", 1, 2, "x86_64")
        nvram = path_of(driver, "nvram.fd")
        driver.acts.create(an_instance(image={"firmware": "uefi"}), image, {})
        with open(nvram, "rb") as stream:
            assert stream.read() == variables.read_bytes()
        assert stat.S_IMODE(os.stat(nvram).st_mode) == 0o600
        driver.acts.create(an_instance(), image, {})
        assert not os.path.exists(nvram)

    @pytest.mark.parametrize("words", ["Permission denied", "No space left on device"])
    def test_a_disk_that_cannot_be_made_is_told_in_the_tools_words(self, driver, commands, monkeypatch, words):
        monkeypatch.setattr(driver.runtime, "run", lambda argv, **kwargs: Completed(1, "", words))
        with pytest.raises(MinicloudError, match=f"the disk of web could not be made: {words}"):
            driver.acts.create(an_instance(), Image("lts", "", "/b", "qcow2", 1, 2, "x86_64"), {})

    @pytest.fixture
    def overlay(self, driver, tmp_path):
        """A stopped instance with a real disk of 1 MiB over a real image."""
        base = str(tmp_path / "base.qcow2")
        instance = an_instance(disk=1 << 20, image={"path": base})
        make_dir(driver.scope.directory("web"))
        for argv in (
            ["-f", "qcow2", base, "1M"],
            ["-f", "qcow2", "-b", base, "-F", "qcow2", path_of(driver, "disk.qcow2"), "1M"],
        ):
            subprocess.run(["qemu-img", "create", "-q", *argv], check=True)
        return instance

    def told(self, driver):
        argv = ["qemu-img", "info", "-U", "--output=json", path_of(driver, "disk.qcow2")]
        return json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)

    def test_a_disk_grows_to_what_the_record_says(self, driver, overlay):
        overlay.disk = 3 << 20
        driver.acts.grow_disk(overlay)
        assert self.told(driver)["virtual-size"] == 3 << 20
        overlay.disk = 2 << 20
        with pytest.raises(MinicloudError, match="the disk of web was not written"):
            driver.acts.grow_disk(overlay)

    def test_a_backing_file_that_the_header_names_is_never_opened(self, driver, overlay, tmp_path):
        bait = tmp_path / "bait"
        bait.write_bytes(b"of the host only" * 4096)
        disk = path_of(driver, "disk.qcow2")
        subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", str(bait), "-F", "raw", disk], check=True)
        overlay.disk = 2 << 20
        driver.acts.grow_disk(overlay)
        driver.export().export_disk(overlay, str(tmp_path / "out"), "raw")
        assert (tmp_path / "out").read_bytes() == bytes(2 << 20)

    @pytest.mark.parametrize("act", ["grow_disk", "export_disk", "start"])
    def test_a_data_file_that_a_hostile_qemu_has_named_is_refused(self, driver, overlay, tmp_path, act):
        disk = path_of(driver, "disk.qcow2")
        argv = ["create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path}/bait,data_file_raw=on", disk, "1M"]
        subprocess.run(["qemu-img", *argv], check=True)
        (tmp_path / "bait").write_bytes(b"of the host only" * 65536)
        args = (str(tmp_path / "out"), "raw") if act == "export_disk" else ()
        with pytest.raises(MinicloudError, match="the disk of web is refused: it keeps its data in another file"):
            getattr(driver.export() if args else driver.acts, act)(overlay, *args)
        assert not os.path.exists(tmp_path / "out")
        assert not driver.alive(overlay)


class TestRequire:
    def test_an_accelerator_that_does_not_exist(self, data, monkeypatch):
        monkeypatch.setattr(qemu_machine, "emulator", lambda arch: "qemu")
        driver = QemuDriver(ABOUT["qemu"], Runtime(run, Reporter()), data.scope("qemu"), {"accelerator": "warp"})
        monkeypatch.setattr(driver.runtime, "program", lambda name, *args: name)
        with pytest.raises(InvalidOption) as caught:
            driver.acts.require("x86_64")
        assert "'warp'" in str(caught.value)
        assert "auto, kvm, tcg, hvf" in caught.value.hint


class TestProbe:
    @pytest.fixture
    def host(self, tmp_path, monkeypatch, driver):
        """A host that has programs of these names and nothing else."""
        directory = tmp_path / "bin"
        directory.mkdir()
        for name in (f"qemu-system-{this_host().architecture()}", "qemu-img", "setsid", "setpriv"):
            (directory / name).write_text("#!/bin/sh\necho 'QEMU emulator version 9.8.7 (Debian 1:9.8)'\n")
            (directory / name).chmod(0o755)
        monkeypatch.setattr(qemu_machine, "find_program", lambda name: shutil.which(name, path=str(directory)))
        monkeypatch.setattr(_runtime, "find_program", qemu_machine.find_program)
        monkeypatch.setattr(qemu_machine, "firmware", lambda arch, wanted: None)
        monkeypatch.setattr(qemu_act, "identity_for", lambda name: Identity(os.getuid(), 0, (), True))
        return directory

    def test_what_a_usable_one_tells(self, host, driver, monkeypatch):
        monkeypatch.setattr(Linux, "obstacle_to_acceleration", lambda *args: "")
        told = driver.acts.probe()
        assert told == {
            "version": "9.8.7",
            "accelerator": "kvm",
            "accelerator_reason": "",
            "program": str(host / f"qemu-system-{this_host().architecture()}"),
            "run_as": pwd.getpwuid(os.getuid()).pw_name,
        }
        monkeypatch.setattr(Linux, "obstacle_to_acceleration", lambda *args: "there is no /dev/kvm")
        told = driver.acts.probe()
        assert (told["accelerator"], told["accelerator_reason"]) == ("tcg", "there is no /dev/kvm")

    @pytest.mark.parametrize(
        ("program", "package"),
        [
            (f"qemu-system-{this_host().architecture()}", "qemu-system-"),
            ("qemu-img", "qemu-utils"),
            ("setsid", "util-linux"),
            ("setpriv", "util-linux"),
        ],
    )
    def test_what_is_missing_is_named_with_its_package(self, host, driver, program, package):
        (host / program).unlink()
        for ask in (driver.acts.probe, lambda: driver.acts.require(this_host().architecture())):
            with pytest.raises(MissingRequirement) as caught:
                ask()
            assert caught.value.facts["missing_program"] == program
            assert package in caught.value.hint

    def test_a_program_that_does_not_run(self, host, driver):
        path = host / f"qemu-system-{this_host().architecture()}"
        path.write_text("#!/bin/sh\necho 'error while loading shared libraries: libz' >&2\nexit 127\n")
        with pytest.raises(CommandFailed, match="does not run: error while loading"):
            driver.acts.probe()

    def test_another_system(self, driver, monkeypatch):
        monkeypatch.setattr(platform, "system", lambda: "Windows")
        with pytest.raises(NotSupported, match="It runs on Linux"):
            driver.acts.probe()


LENT = qemu_act._lent


class TestIdentity:
    USERS = {"nobody": 65534, "libvirt-qemu": 107, "qemu": 108, "toor": 0}

    @pytest.fixture(autouse=True)
    def users(self, monkeypatch):
        """The users that the host has, each with a group of that number."""
        users = dict(self.USERS)

        def of_name(name):
            return types.SimpleNamespace(pw_uid=users[name], pw_gid=users[name])

        def of_number(number):
            if number not in users.values():
                raise KeyError(number)

        monkeypatch.setattr(pwd, "getpwnam", of_name)
        monkeypatch.setattr(pwd, "getpwuid", of_number)
        monkeypatch.setattr(grp, "getgrgid", of_number)
        monkeypatch.setattr(qemu_act, "_lent", lambda path: [])
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        self.kvm_group(monkeypatch, 36)
        return users

    def kvm_group(self, monkeypatch, gid):
        real = os.stat

        def stat(path, **kwargs):
            if path != "/dev/kvm":
                return real(path, **kwargs)
            if gid is None:
                raise FileNotFoundError(path)
            return types.SimpleNamespace(st_gid=gid)

        monkeypatch.setattr(os, "stat", stat)

    def test_an_ordinary_user_stays_who_they_are(self, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setattr(os, "getegid", lambda: 1001)
        monkeypatch.setattr(os, "getgroups", lambda: [1001, 36])
        identity = identity_for("")
        assert identity == Identity(1000, 1001, (1001, 36), False)
        assert identity.prefix(None, an_instance()) == []

    def test_root_becomes_the_user_that_is_there_for_it_and_no_other(self, users):
        users["minicloud"] = 990
        assert identity_for("") == Identity(990, 990, (36,), True)
        users["minicloud"] = 0
        with pytest.raises(InvalidOption, match="'minicloud' is not an unprivileged user"):
            identity_for("")

    def test_without_that_user_root_becomes_nobody_that_there_is(self, users, monkeypatch):
        assert identity_for("") == identity_for("") == Identity(60578, 60578, (36,), True)
        assert qemu_act._name_of(60578) == "60578"
        users["somebody"] = 60578
        assert identity_for("").uid == 60579
        monkeypatch.setattr(qemu_act, "_lent", lambda path: [range(60500, 60600)])
        assert identity_for("").uid == 60600
        monkeypatch.setattr(qemu_act, "_lent", lambda path: [range(60500, 70000)])
        with pytest.raises(MissingRequirement, match="Make a system user minicloud"):
            identity_for("")

    def test_root_becomes_whom_it_is_told(self):
        assert identity_for("nobody") == Identity(65534, 65534, (36,), True)

    def test_numbers_that_users_may_give_away(self, tmp_path):
        path = tmp_path / "subuid"
        path.write_text("anna:100000:65536\nbroken\n::\nben:60578:10\n", encoding="utf-8")
        assert LENT(str(path)) == [range(100000, 165536), range(60578, 60588)]
        assert LENT(str(tmp_path / "missing")) == []

    @pytest.mark.parametrize("gid", [None, 0])
    def test_no_group_where_kvm_has_none(self, monkeypatch, gid):
        self.kvm_group(monkeypatch, gid)
        assert identity_for("nobody").groups == ()

    @pytest.mark.parametrize("name", ["toor", "nobody-at-all"])
    def test_never_as_root_and_never_as_somebody_who_is_not_there(self, name):
        with pytest.raises(InvalidOption) as caught:
            identity_for(name)
        assert repr(name) in str(caught.value)
        assert "never runs as root" in caught.value.hint

    @pytest.mark.parametrize(
        ("ports", "groups", "present", "missing"),
        [
            (
                [],
                (36,),
                ["--reuid=107", "--regid=107", "--groups=36", "--no-new-privs", "--bounding-set=-all"],
                ["+net"],
            ),
            ([], (), ["--clear-groups"], ["--groups"]),
            (["80:80"], (), ["--ambient-caps=-all,+net_bind_service"], ["--bounding-set=-all "]),
            (["8080:80"], (), ["--inh-caps=-all"], ["net_bind_service"]),
        ],
    )
    def test_how_root_becomes_somebody_else(self, ports, groups, present, missing):
        runtime = types.SimpleNamespace(program=lambda name, *args: f"/usr/bin/{name}")
        argv = Identity(107, 107, groups, True).prefix(runtime, an_instance(ports=list(map(parse_port, ports))))
        assert argv[0] == "/usr/bin/setpriv"
        assert [word for word in present if word not in argv] == []
        assert [word for word in missing if word in " ".join(argv) + " "] == []
