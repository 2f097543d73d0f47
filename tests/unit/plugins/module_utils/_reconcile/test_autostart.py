# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import pathlib
import typing as t

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.driver import QemuDriver
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import units
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, parse_port
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._reconcile import attach, autostart, power
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.power import Power
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Deadline, Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


def nothing(argv: t.Sequence[str], **dummy: t.Any) -> Completed:
    return Completed(0, "", "")


@pytest.fixture
def data(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> DataDirectory:
    """A data directory on a host with systemd, whose units are beside it."""
    (tmp_path / "booted").mkdir()
    monkeypatch.setattr(units.Unit.__init__, "__defaults__", (str(tmp_path / "units"), str(tmp_path / "booted")))
    return DataDirectory(str(tmp_path / "data"))


def instance(data: DataDirectory, name: str, **values: t.Any) -> Instance:
    given = {"driver": "qemu", "autostart": True, "phase": "ready", **values}
    made = Instance(name, name, "qemu", created="", arch="x86_64", cpus=1, memory=1, disk=1, **given)
    data.scope("qemu").write(made)
    return made


def network(data: DataDirectory, name: str, **values: t.Any) -> Network:
    given = {"autostart": True, "phase": "ready", **values}
    made = Network(name, "qemu", "qemu", "", **given)
    data.scope("qemu").networks.write(made)
    return made


def test_who_needs_the_unit(data: DataDirectory) -> None:
    assert autostart.needs_unit(instance(data, "a"))
    assert autostart.needs_unit(network(data, "a"))
    assert not autostart.needs_unit(instance(data, "b", autostart=False))
    assert not autostart.needs_unit(instance(data, "c", phase="removing"))


def test_the_unit_comes_with_the_first_and_goes_with_the_last(data: DataDirectory) -> None:
    runtime = Runtime(nothing)
    unit = units.Unit(runtime, data)
    with autostart.Autostart(runtime, data).kept_unit():
        instance(data, "b", autostart=False)
    assert not unit.is_on()
    with autostart.Autostart(runtime, data).kept_unit():
        made = instance(data, "a")
        net = network(data, "lan")
        assert not autostart.Autostart(runtime, data).is_in_place(made)
    assert unit.is_on()
    assert autostart.Autostart(runtime, data).is_in_place(made)
    with autostart.Autostart(runtime, data).kept_unit():
        data.scope("qemu").remove("a")
    assert unit.is_on()
    with autostart.Autostart(runtime, data).kept_unit():
        net.autostart = False
        data.scope("qemu").networks.write(net)
    assert not unit.is_on()
    assert autostart.Autostart(runtime, data).is_in_place(net)
    assert sorted(os.listdir(data.path)) == ["locks", "scopes"]


def test_a_change_that_failed_leaves_nothing_undecided(data: DataDirectory) -> None:
    runtime = Runtime(nothing)
    with pytest.raises(HypervisorError):
        with autostart.Autostart(runtime, data).kept_unit():
            made = instance(data, "a")
            raise HypervisorError("a could not be started")
    assert autostart.Autostart(runtime, data).is_in_place(made)
    assert units.Unit(runtime, data).is_on()


def test_a_unit_that_somebody_removed_is_noticed(data: DataDirectory) -> None:
    runtime = Runtime(nothing)
    with autostart.Autostart(runtime, data).kept_unit():
        made = instance(data, "a")
    os.unlink(units.Unit(runtime, data).path)
    assert not autostart.Autostart(runtime, data).is_in_place(made)
    assert autostart.Autostart(runtime, data).is_in_place(instance(data, "b", autostart=False))


def test_a_host_that_cannot_have_the_unit(data: DataDirectory, tmp_path: pathlib.Path) -> None:
    (tmp_path / "booted").rmdir()
    runtime = Runtime(nothing, Reporter())
    with autostart.Autostart(runtime, data).kept_unit():
        made = instance(data, "a")
    assert autostart.Autostart(runtime, data).is_in_place(made)
    autostart.Autostart(runtime, data).warn_of_obstacle(made)
    assert len(runtime.report.warnings) == 1
    assert "autostart of a: This host does not run systemd" in runtime.report.warnings[0]
    autostart.Autostart(runtime, data).warn_of_obstacle(instance(data, "b", autostart=False))
    autostart.Autostart(runtime, data).warn_of_obstacle(None)
    assert len(runtime.report.warnings) == 1


def test_networks_come_first_and_one_failure_does_not_keep_the_others(
    data: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def start(made: Instance, *dummy: t.Any) -> None:
        seen.append(made.name)
        if made.name == "b":
            raise HypervisorError("b could not be started", "it does not want to")

    monkeypatch.setattr(autostart, "_start", start)
    monkeypatch.setattr(autostart, "_bring_up", lambda made, *dummy: seen.append(f"network {made.name}"))
    for name in ("a", "b", "d"):
        instance(data, name)
    instance(data, "c", autostart=False)
    network(data, "z")
    network(data, "y", autostart=False)
    runtime = Runtime(nothing)
    assert autostart.start_all(runtime, data) == {"b": "b could not be started: it does not want to."}
    assert seen == ["network z", "a", "b", "d"]


def test_one_that_runs_has_its_networks_put_right(data: DataDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(QemuDriver, "alive", lambda self, made: made.name == "a")
    monkeypatch.setattr(attach.Attachment, "connect", lambda self, made: seen.append(f"networks of {made.name}"))
    monkeypatch.setattr(power.Power, "start", lambda self, made: seen.append(f"start of {made.name}"))
    for name in ("a", "b"):
        instance(data, name, owner="qemu")
    assert autostart.start_all(Runtime(nothing), data) == {}
    assert seen == ["networks of a", "start of b"]


def test_ports_wait_for_addresses_that_others_give(data: DataDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    instance(data, "a", ports=[parse_port("8080:80")], owner="qemu")
    instance(data, "b", owner="qemu")
    addresses = iter(["", "", "192.0.2.50"])
    seen: list[str] = []
    monkeypatch.setattr(autostart, "_start", lambda *dummy: None)
    monkeypatch.setattr(QemuDriver, "alive", lambda *dummy: True)

    def access(*dummy: t.Any) -> tuple[str, int]:
        seen.append("asked")
        return next(addresses), 22

    monkeypatch.setattr(QemuDriver, "ssh_address", access)
    monkeypatch.setattr(Power, "lead_ports", lambda dummy, instance: seen.append(instance.name))
    monkeypatch.setattr(Deadline, "pauses", lambda *dummy, **more: iter([0.0] * 9))
    assert autostart.start_all(Runtime(nothing), data) == {}
    assert seen == ["asked", "asked", "asked", "a"]


def test_the_exit_status_tells(data: DataDirectory, monkeypatch: pytest.MonkeyPatch, capsys: t.Any) -> None:
    assert autostart.main([data.path], nothing) == 0
    instance(data, "a")

    def fail(*dummy: t.Any) -> None:
        raise HypervisorError("a could not be started")

    monkeypatch.setattr(autostart, "_start", fail)
    assert autostart.main([data.path], nothing) == 1
    assert "warning: a: a could not be started." in capsys.readouterr().err


@pytest.mark.parametrize(("state", "suspended"), [("running", []), ("stopping", ["web"])])
def test_what_starts_with_the_host_is_suspended_when_it_goes_down(
    data: DataDirectory, monkeypatch: pytest.MonkeyPatch, state: str, suspended: list[str]
) -> None:
    instance(data, "web", owner="qemu")
    instance(data, "stopped")
    instance(data, "ended", owner="qemu")
    instance(data, "other", owner="qemu", autostart=False)
    done: list[str] = []
    monkeypatch.setattr(QemuDriver, "alive", lambda self, instance: instance.name in ("web", "other"))
    monkeypatch.setattr(Power, "suspend", lambda self, instance: done.append(instance.name))

    def told(argv: t.Sequence[str], **dummy: t.Any) -> Completed:
        assert argv[-1] == "is-system-running"
        return Completed(1, f"{state}\n", "")

    assert autostart.main([data.path, "stop"], told) == 0
    assert done == suspended


def test_one_that_cannot_be_suspended_does_not_keep_the_others(
    data: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def suspend(dummy: Power, instance: Instance) -> None:
        if instance.name == "a":
            raise HypervisorError("it cannot be suspended")
        done.append(instance.name)

    for name in ("a", "b"):
        instance(data, name, owner="qemu")
    monkeypatch.setattr(QemuDriver, "alive", lambda self, instance: True)
    monkeypatch.setattr(Power, "suspend", suspend)
    assert list(autostart.suspend_all(Runtime(nothing, Reporter()), data)) == ["a"]
    assert done == ["b"]
