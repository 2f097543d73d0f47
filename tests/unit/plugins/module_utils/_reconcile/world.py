# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host for tests of reconciling: scope storage is real, the hypervisor, the vault and the guests are not.

What the hypervisor runs is kept in files outside the data directory, so that it outlives a killed run and is the same
for all processes.
"""

from __future__ import annotations

import collections.abc
import copy
import json
import os
import platform
import re
import types

from ansible_collections.minicloud.local.plugins.module_utils._drivers import registry
from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import About, Acts, Driver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Suspension
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, InUse
from ansible_collections.minicloud.local.plugins.module_utils._guest import clock, keys, ready
from ansible_collections.minicloud.local.plugins.module_utils._host.host import HypervisorHost
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._images import provide, vault
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    GIB,
    PAUSED,
    RUNNING,
    STOPPED,
    SUSPENDED,
    Instance,
    Observed,
    normal_arch,
    parse_port,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile import (
    active_driver,
    driver_listing,
    instances,
    listing,
    power,
    scopes,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import parse_wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, write_file

HOST_ARCH = normal_arch(platform.machine())
VOLATILE = ("uuid", "created", "ssh_port", "nics", "host_keys", "disk_uuid")


def three_drivers(monkeypatch, *capabilities):
    """Three drivers instead of those of the registry; two of them share a scope. capabilities -- that they have, too"""
    names = ("qemu", "libvirt", "lxd")
    for name in registry.DRIVERS:
        monkeypatch.delitem(registry.ABOUT, name)
    for name in names:
        monkeypatch.setitem(registry.ABOUT, name, about(name, "qemu" if name == "libvirt" else name, *capabilities))
    monkeypatch.setattr(registry, "default_driver", lambda: "qemu")
    monkeypatch.setattr(scopes, "DRIVERS", names)


class Killed(BaseException):
    """The end of a run that nothing in it may catch."""


class RecordingReporter(Reporter):
    """Keeps the steps; kills the run, by CALL, when it comes to step number FATAL."""

    def __init__(self, fatal=None, call=None):
        super().__init__()
        self.steps = []
        self.fatal = fatal
        self.call = call or self.killed
        self.at = {}

    @staticmethod
    def killed():
        raise Killed

    def step(self, name):
        self.steps.append(name)
        if len(self.steps) - 1 == self.fatal:
            self.call()
        if name in self.at:
            self.at.pop(name)()


def about(name, scope, *more):
    """A driver that the registry knows."""
    capabilities = {"vm": ("vm",), "container": ("container",), **dict.fromkeys(more, ("vm",))}
    return About(name, scope, "", ("colour",), capabilities, {}, False, ("linux",), None)


class FakeHost(HypervisorHost):
    """Where instances run: here, unless the world tells of the memory of another host."""

    def __init__(self, world):
        self.world, self.here = world, not world.memory

    def architecture(self):
        return HOST_ARCH

    def memory(self):
        return self.world.memory or (64 * GIB, 32 * GIB)

    def processors(self):
        return 8


class FakeDriver(Driver, Acts):
    """A hypervisor whose machines are files. It insists on being used as the contract says."""

    def __init__(self, world, runtime, scope, options=None, shared=False, name="qemu"):
        super().__init__(about(name, scope.name), runtime, scope, options, shared)
        self.world = world
        self.host = FakeHost(world)

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name not in CONTRACT:
            return found

        def call(*args, **kwargs):
            self.world.calls.append(name)
            self.world.fail(self.world.fail_before, name, self.name, args)
            result = found(*args, **kwargs)
            self.world.fail(self.world.fail_after, name, self.name, args)
            return result

        return call

    @property
    def acts(self):
        return self

    def _machine(self, instance):
        return os.path.join(self.world.machines, instance.uuid)

    def _running(self):
        # Not what another run is just about to put in place.
        uuids = [name for name in os.listdir(self.world.machines) if not name.endswith(".tmp")]
        return {uuid: self.world.read_machine(uuid) for uuid in uuids}

    def probe(self):
        return {"version": "1.0", "accelerator": "files", "colour": self.options.get("colour", "none")}

    def require(self, arch, firmware="", instance_type="vm"):
        pass

    def observe(self, instances):
        for instance in instances:
            assert instance.phase == "ready"
        return [
            Observed(
                (PAUSED if each.uuid in self.world.paused else RUNNING)
                if IS_ALIVE(self, each)
                else (SUSPENDED if self.world.saved.get(each.uuid) == self.name else STOPPED),
                ("127.0.0.1",) if IS_ALIVE(self, each) else (),
                drift=self.world.drift.get((self.name, each.name), ()),
            )
            for each in instances
        ]

    def reconfigure(self, instance):
        self.world.reconfigured.append((self.name, instance.name))
        if not IS_ALIVE(self, instance):
            self.world.drift.pop((self.name, instance.name), None)

    def create(self, instance, image, seed):
        directory = make_dir(self.scope.directory(instance.name))
        assert self.scope.read(instance.name).phase == "creating"
        self.runtime.report.step("overlay")
        disk = {"size": instance.disk, "image": image.hash, "disk_uuid": instance.uuid}
        write_file(os.path.join(directory, "disk"), json.dumps(disk).encode())
        self.runtime.report.step("seed")
        write_file(os.path.join(directory, "seed"), json.dumps(sorted(seed)).encode())

    def grow_disk(self, instance):
        assert not IS_ALIVE(self, instance)
        disk = self.world.read_disk(instance.name, self.scope)
        assert disk["size"] <= instance.disk
        disk["size"] = instance.disk
        self.runtime.report.step("grow")
        write_file(os.path.join(self.scope.directory(instance.name), "disk"), json.dumps(disk).encode())

    def choose_ports(self, instance, held=None):
        used = {port for machine in self._running().values() for port in machine["host_ports"]} | self.world.met
        others = {each.ssh_port for each in self.scope.instances()[0] if each.uuid != instance.uuid}
        chosen = []
        for port in instance.ports:
            asked = port.host_port and port.host_port not in instance.chosen_ports
            if asked and port not in (held or ()) and port.host_port in used | self.world.taken:
                raise InUse(f"port {port} is taken")
            if not port.host_port:
                port = port._replace(host_port=next(p for p in range(41000, 42000) if p not in used))
                instance.chosen_ports = [*instance.chosen_ports, port.host_port]
            used.add(port.host_port)
            chosen.append(port)
        instance.ports = chosen
        if held is None:
            instance.ssh_port = next(port for port in range(40000, 41000) if port not in used | others)

    def start(self, instance):
        assert self.scope.read(instance.name).owner == self.name
        assert instance.ssh_port
        assert self.world.pinned(instance) == [f"[127.0.0.1]:{instance.ssh_port}"]
        if os.path.exists(self._machine(instance)):
            raise HypervisorError(f"{instance.name} runs already")
        assert self.world.read_disk(instance.name, self.scope)["disk_uuid"] == instance.uuid
        for port in (instance.ssh_port, *(each.host_port for each in instance.ports)):
            if port in self.world.taken_there:
                self.world.met.add(port)
                raise InUse(f"port {port} is taken there", port=port)
        self.runtime.report.step("spawn")
        assert self.world.called.get(instance.uuid, instance.name) == instance.name
        assert instance.uuid not in self.world.called or instance.uuid in self.world.followed
        # What was saved is gone on with by its driver, and by it alone.
        assert self.world.saved.get(instance.uuid, self.name) == self.name
        assert instance.resumed == (instance.uuid in self.world.saved)
        if self.world.saved.pop(instance.uuid, ""):
            self.world.memories[instance.uuid] = self.world.memories.get(instance.uuid, 0) + 1
        self.world.drift.pop((self.name, instance.name), None)
        self._write(instance)
        self.runtime.report.step("spawned")

    def _write(self, instance):
        machine = {
            "driver": self.name,
            "cpus": instance.cpus,
            "memory": instance.memory,
            "ports": [str(port) for port in instance.ports],
            "host_ports": [instance.ssh_port, *(port.host_port for port in instance.ports)],
        }
        self.world.names[instance.uuid] = instance.name.lower()
        write_file(self._machine(instance), json.dumps(machine).encode())

    def forwards(self, instance):
        return list(map(parse_port, self.world.read_machine(instance.uuid)["ports"]))

    def forward_ports(self, instance, before):
        machine = self.world.read_machine(instance.uuid)
        assert sorted(map(str, before)) == sorted(machine["ports"])
        self.runtime.report.step("forward")
        self._write(instance)
        self.runtime.report.step("forwarded")

    def stop(self, instance, deadline, force):
        self.runtime.report.step("powerdown")
        assert IS_ALIVE(self, instance)
        if instance.name in self.world.deaf and not force:
            raise HypervisorError(f"{instance.name} did not shut down within {deadline.seconds:g} seconds")
        self.runtime.report.step("pressed")
        os.unlink(self._machine(instance))
        self.world.paused.discard(instance.uuid)
        self.runtime.report.step("down")

    def suspension(self):
        return FakeSuspension(self) if self.world.can_suspend else None

    def rename(self, instance, name):
        assert not IS_ALIVE(self, instance)
        assert self.world.called.get(instance.uuid, instance.name) in (instance.name, name)
        self.world.called[instance.uuid] = name
        self.runtime.report.step("called")

    def follow_name(self, instance):
        assert self.world.called[instance.uuid] == instance.name != instance.renamed_from
        self.world.followed.add(instance.uuid)

    def resume(self, instance):
        assert IS_ALIVE(self, instance)
        self.world.paused.remove(instance.uuid)
        self.runtime.report.step("resumed")

    def check_removal(self, instance):
        if instance.name in self.world.protected:
            raise HypervisorError(f"{instance.name} is protected")

    def remains(self, instance):
        disk = os.path.join(self.scope.directory(instance.name), "disk")
        return f"its disk is there, {disk}" if instance.phase == "removing" and os.path.exists(disk) else ""

    def delete(self, instance):
        if not instance.uuid:  # its record was lost, but a hypervisor knows names
            for uuid, machine in self._running().items():
                if (machine["driver"], self.world.names.get(uuid)) == (self.name, instance.name.lower()):
                    os.unlink(os.path.join(self.world.machines, uuid))
            return
        if IS_ALIVE(self, instance):
            os.unlink(self._machine(instance))
            self.runtime.report.step("ended")

    def ssh_address(self, instance, seen=None):
        return "127.0.0.1", instance.ssh_port

    def alive(self, instance):
        path = self._machine(instance)
        return os.path.exists(path) and self.world.read_machine(instance.uuid)["driver"] == self.name

    def console_log(self, instance):
        return os.path.join(self.scope.directory(instance.name), "console.log")

    def tidy(self, instance):
        pass

    def log(self, instance):
        return "the hypervisor's last words"


class FakeSuspension(Suspension):
    """Keeps which driver has saved what a machine was doing."""

    def __init__(self, driver):
        self.driver = driver

    def why_not(self, instance):
        return self.driver.world.unloadable

    def suspend(self, instance):
        world, report = self.driver.world, self.driver.runtime.report
        world.paused.add(instance.uuid)
        report.step("halted")
        world.saved[instance.uuid] = self.driver.name
        report.step("saved")
        if IS_ALIVE(self.driver, instance):
            os.unlink(self.driver._machine(instance))
        world.paused.discard(instance.uuid)
        report.step("ended")

    def drop(self, instance):
        self.driver.world.saved.pop(instance.uuid, None)


# Without being counted as a call from outside, and without the faults.
IS_ALIVE = FakeDriver.alive
CONTRACT = (Driver.__abstractmethods__ | Acts.__abstractmethods__) - {"acts"}


class FakeVault:
    """Has the image once the file is there."""

    def __init__(self, world, data, runtime):
        self.world = world
        self.runtime = runtime

    def find(self, reference, arch, kind="disk"):
        assert (arch, kind) == (HOST_ARCH, "disk")
        return self.world.image(str(reference)) if os.path.exists(self.world.image_file) else None

    def ensure(self, reference, arch, checksum="", kind="disk"):
        assert kind == "disk"
        self.world.checksums.append(checksum)
        if self.world.fail_fetch:
            raise self.world.fail_fetch
        found = self.find(reference, arch)
        if not found:
            self.runtime.report.step("fetching")
            write_file(self.world.image_file, b"")
        return self.world.image(str(reference)), not found

    def has(self, image):
        return os.path.exists(self.world.image_file)

    def touch(self, image):
        self.world.touched.append(image.hash)


class Saved(collections.abc.MutableMapping):
    """Which driver has saved what a machine was doing, by uuid: files, so that it is there for other processes too."""

    def __init__(self, directory):
        self.directory = directory
        os.makedirs(directory, exist_ok=True)

    def __getitem__(self, uuid):
        try:
            with open(os.path.join(self.directory, uuid), encoding="ascii") as stream:
                return stream.read()
        except FileNotFoundError:
            raise KeyError(uuid) from None

    def __setitem__(self, uuid, driver):
        write_file(os.path.join(self.directory, uuid), driver.encode())

    def __delitem__(self, uuid):
        os.unlink(os.path.join(self.directory, uuid))

    def __iter__(self):
        return iter(os.listdir(self.directory))

    def __len__(self):
        return len(os.listdir(self.directory))


class World:
    """One host. Params are those of a task; the instance is called web unless they say otherwise."""

    def __init__(self, path, monkeypatch, image_is_here=True):
        self.data = DataDirectory(str(path / "data"))
        self.scope = self.data.scope("qemu")
        self.machines = str(path / "machines")
        self.image_file = str(path / "image")
        os.makedirs(self.machines, exist_ok=True)
        if image_is_here:
            write_file(self.image_file, b"")
        self.calls, self.checksums, self.touched, self.taken = [], [], [], set()
        self.memory = None  # of another host where instances run: all, and available
        self.taken_there, self.met = set(), set()  # ports of it, and those of them that were tried
        self.fail_before, self.fail_after, self.fail_fetch, self.guest_fails = {}, {}, None, None
        self.names = {}  # of machines, by uuid
        self.paused, self.protected = set(), set()  # uuids of machines; names of instances
        self.deaf = set()  # names of guests that hear no power button
        self.drift, self.reconfigured = {}, []  # what was changed behind a driver's back: (driver, name) -> sentences
        self.saved = Saved(str(path / "saved"))
        self.memories, self.unloadable = {}, ""  # how often it went on, by uuid; why it could not
        self.called, self.followed = {}, set()  # what hypervisors call renamed ones, by uuid; those whose seed followed
        self.can_suspend = False
        self.in_guest = lambda: None
        self.image_user = "ubuntu"
        for user_of_it in (registry, driver_listing, instances, listing, scopes):
            monkeypatch.setattr(user_of_it, "load", self._load)
        monkeypatch.setattr(provide, "ProvidedVault", lambda data, runtime, *args: FakeVault(self, data, runtime))
        monkeypatch.setattr(vault, "Vault", lambda data, runtime, *args: FakeVault(self, data, runtime))
        monkeypatch.setattr(keys, "ensure_login_key", self._login_key)
        monkeypatch.setattr(keys, "make_host_key", self._host_key)
        monkeypatch.setattr(ready, "wait_ready", self._wait_ready)
        self.clocks = []  # those who had their clock set
        monkeypatch.setattr(clock, "set_clock", lambda runtime, access: self.clocks.append(access.alias) or "")
        # Its machines stop when they are told, or never.
        monkeypatch.setattr(power, "_SHUTDOWN", 0.0)
        monkeypatch.setattr(os, "fsync", lambda handle: None)  # no power cuts here, and hundreds of writes

    def _load(self, name, runtime, data, options=None, shared=False):
        name = name or registry.active_driver(data, runtime.report)
        return FakeDriver(self, runtime, data.scope(registry.scope_of(name)), options, shared, name)

    @staticmethod
    def fail(failures, method, driver, args):
        """Raise what is planned for a method of the contract: for all, or for those of one driver or instance."""
        for key in (method, (method, driver), *((method, each.name) for each in args if isinstance(each, Instance))):
            if key in failures:
                raise failures[key]

    def _login_key(self, runtime, directory):
        write_file(os.path.join(make_dir(directory), "id_ed25519"), b"")
        return keys.LoginKey(os.path.join(directory, "id_ed25519"), "ssh-ed25519 LOGIN")

    def _host_key(self, runtime, directory, name):
        write_file(os.path.join(directory, "host_key"), b"")
        return keys.HostKey("PRIVATE", f"ssh-ed25519 HOSTKEY {name}")

    def _wait_ready(self, runtime, access, deadline, check_alive, console, cloud_init_errors, locate):
        self.in_guest()
        check_alive()
        failure: BaseException | None = self.guest_fails
        if failure is not None:
            raise failure
        return ready.Readiness(access.user, "done", [], {})

    def image(self, name):
        return Image(
            name,
            ("cd" if name == "26.04" else "ab") * 32,
            self.image_file,
            "qcow2",
            1,
            3 * GIB,
            HOST_ARCH,
            os="ubuntu",
            user=self.image_user,
        )

    def run(self, check=False, reporter=None, driver=None, **params):
        """One task."""
        runtime = self._runtime(reporter)
        wish = parse_wish({"name": "web", **params})
        return instances.reconcile_instance(wish, runtime, self.data, driver, None, check)

    def switch(self, name, check=False, reporter=None, options=None, **wish):
        """One task of the module driver."""
        return active_driver.switch_driver(
            scopes.SwitchWish(name, **wish), self._runtime(reporter), self.data, options, check
        )

    def _runtime(self, reporter):
        self.reporter = reporter or RecordingReporter()
        self.calls.clear()
        return Runtime(None, self.reporter)

    # What is there

    def read_machine(self, uuid):
        with open(os.path.join(self.machines, uuid), encoding="ascii") as stream:
            return json.load(stream)

    def instances(self):
        """Those of all scopes."""
        found = []
        for scope in self.data.scopes():
            whole, broken = scope.instances()
            assert broken == []
            found += whole
        return found

    def running(self):
        """What runs, as driver/name."""
        names = {each.uuid: each.name for each in self.instances()}
        uuids = os.listdir(self.machines)
        return sorted(f"{self.read_machine(uuid)['driver']}/{names[uuid]}" for uuid in uuids)

    def read_disk(self, name="web", scope=None):
        with open(os.path.join((scope or self.scope).directory(name), "disk"), encoding="ascii") as stream:
            return json.load(stream)

    def known_hosts(self):
        try:
            with open(self.data.known_hosts, encoding="ascii") as stream:
                return stream.read().splitlines()
        except FileNotFoundError:
            return []

    def pinned(self, instance):
        lines = [line.split() for line in self.known_hosts()]
        return [each for hosts, *key in lines for each in hosts.split(",")[1:] if hosts.split(",")[0] == instance.alias]

    def files(self):
        top = self.data.path
        return sorted(os.path.relpath(os.path.join(at, name), top) for at, ds, fs in os.walk(top) for name in ds + fs)

    def everything(self):
        """All that there is on this host, without what differs from one run to the other by nature."""
        found = self.instances()
        names = {each.uuid: each.name for each in found}
        return types.SimpleNamespace(
            files=self.files(),
            records=[self._settled_record(each) for each in found],
            disks=[settled(self._disk_of(instance)) for instance in found if instance.phase == "ready"],
            machines=sorted((self.read_machine(uuid) for uuid in os.listdir(self.machines)), key=str),
            known_hosts=[re.sub(r":[0-9]+ ", ":PORT ", line) for line in self.known_hosts()],
            settings=self.data.settings(),
            noted={
                scope.name: {names[uuid]: state for uuid, state in scope.noted().items() if uuid in names}
                for scope in self.data.scopes()
            },
        )

    def _disk_of(self, instance):
        return self.read_disk(instance.name, self.data.scope(instance.scope))

    def _settled_record(self, instance):
        record = settled(instance.to_dict())
        record["image"]["path"] = ""
        # When it was suspended; whether it is, its driver knows.
        del record["suspended"]
        if instance.uuid not in os.listdir(self.machines):
            # What they mean needs a machine that runs.
            del record["owner"], record["ready"], record["stopping"]
        return record

    def check_consistent(self):
        """Assert that what runs is what the records say, and that every record's parts belong together."""
        found = self.instances()
        assert {each.phase for each in found} <= {"ready"}
        uuids = {each.uuid: each for each in found}
        assert set(os.listdir(self.machines)) <= set(uuids)
        for uuid in os.listdir(self.machines):
            machine, instance = self.read_machine(uuid), uuids[uuid]
            assert (machine["cpus"], machine["memory"]) == (instance.cpus, instance.memory)
            assert sorted(map(parse_port, machine["ports"])) == sorted(instance.ports)
            assert self.pinned(instance) == [f"[127.0.0.1]:{instance.ssh_port}"]
            assert instance.owner == machine["driver"]
        for instance in found:
            assert self._disk_of(instance) == {
                "size": instance.disk, "image": instance.image["hash"], "disk_uuid": instance.uuid,
            }  # fmt: skip
        assert [name for name in self.files() if name.endswith(".tmp")] == []
        # A killed run leaves the file of a lock, which nobody holds, and the next who takes it removes it.
        for name in os.listdir(os.path.join(self.data.path, "locks")):
            with self.data.lock(name[: -len(".lock")], Deadline(0)):
                pass


def settled(data):
    return {key: value for key, value in copy.deepcopy(data).items() if key not in VOLATILE}
