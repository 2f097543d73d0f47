# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import re
import types

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu import saved_state
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.saved_state import (
    loading,
    planned_origin,
    processor_of,
    save,
    shape_of,
    why_not_loaded,
)
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, NoSpace

ARGV = [
    "-uuid", "u", "-machine", "q35,pflash0=code", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1",
    "-m", "128M", "-add-fd", "fd=5,set=1", "-netdev", "tap,id=net0,fd=7",
    "-device", "virtio-net-pci,netdev=net0,mac=52:54:00:00:00:01",
    "-chardev", "socket,id=monitor,fd=9",
]  # fmt: skip
ORIGIN = planned_origin(ARGV, "7.2.11", "pc-q35-7.2")


class FakeQmp:
    """Answers, and writes a file as QEMU does."""

    def __init__(self, statuses, content=b"memory", error=""):
        self.statuses, self.content, self.error, self.said = list(statuses), content, error, []

    def hand_over(self, name, handle):
        os.write(handle, self.content)

    def execute(self, command, **arguments):
        self.said.append(command)
        if command == "query-migrate":
            return {"status": self.statuses.pop(0), **({"error-desc": self.error} if self.error else {})}
        return {}


def test_what_differs_only_in_numbers_of_files_and_ports_is_the_same_machine():
    other = [value.replace("fd=7", "fd=70").replace("fd=9", "fd=10") for value in ARGV]
    assert shape_of(other) == shape_of(ARGV)
    assert why_not_loaded(ORIGIN, planned_origin(other, "7.2.14", "pc-q35-7.2")) == ""


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("52:54:00:00:00:01", "52:54:00:00:00:02", "the machine is another"),
        ("128M", "256M", "with -m 256M"),
        ("tcg,thread=multi", "kvm", "the processor is another|the machine is another"),
        ("q35,pflash0=code", "q35", "the machine is another"),
        ("virtio-net-pci,", "e1000,", "with -device e1000"),
    ],
)
def test_what_the_guest_would_see_is_another_machine(old, new, why):
    now = planned_origin([value.replace(old, new) for value in ARGV], "7.2.11", "pc-q35-7.2")
    assert re.search(why, why_not_loaded(ORIGIN, now))


def test_one_interface_more_or_less_is_another_machine():
    more = [*ARGV, "-device", "virtio-net-pci,netdev=net1,mac=52:54:00:00:00:09"]
    assert "52:54:00:00:00:09" in why_not_loaded(ORIGIN, planned_origin(more, "7.2", "pc-q35-7.2"))
    assert "without -device" in why_not_loaded(planned_origin(more, "7.2", "pc-q35-7.2"), ORIGIN)


def test_another_qemu_or_machine_is_said():
    assert "saved by QEMU 7.2, and this is 8.0" in why_not_loaded(ORIGIN, planned_origin(ARGV, "8.0.1", "pc-q35-7.2"))
    assert "pc-q35-7.2" in why_not_loaded(ORIGIN, planned_origin(ARGV, "7.2", "pc-q35-8.0"))
    assert "the processor is another" in why_not_loaded(ORIGIN._replace(processor="Xeon 12ab"), ORIGIN)


def test_only_a_real_processor_is_one_of_the_host():
    assert processor_of(ARGV) == ""
    assert processor_of(["-accel", "kvm"]) != ""


def test_the_arguments_that_load():
    assert loading(ARGV, "pc-q35-7.2", 11)[-2:] == ["-incoming", "fd:11"]
    assert "pc-q35-7.2,pflash0=code" in loading(ARGV, "pc-q35-7.2", 11)


def test_a_file_is_there_only_when_it_is_whole(tmp_path):
    path = str(tmp_path / "memory")
    assert save(FakeQmp(["active", "completed"]), path, "it could not be saved") == 6
    assert os.listdir(tmp_path) == ["memory"]
    assert os.stat(path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("free", "kind"), [(1 << 30, HypervisorError), (1 << 20, NoSpace)])
def test_a_failure_leaves_no_file_and_says_why(tmp_path, monkeypatch, free, kind):
    monkeypatch.setattr(os, "statvfs", lambda path: types.SimpleNamespace(f_bavail=free, f_frsize=1))
    with pytest.raises(kind, match="it could not be saved: Unable to write"):
        save(FakeQmp(["failed"], error="Unable to write"), str(tmp_path / "memory"), "it could not be saved")
    assert os.listdir(tmp_path) == []


def test_it_does_not_wait_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_state, "_PATIENCE", 0.05)
    qmp = FakeQmp(["active"] * 100)
    with pytest.raises(HypervisorError):
        save(qmp, str(tmp_path / "memory"), "it could not be saved")
    assert "migrate_cancel" in qmp.said


def test_what_a_killed_run_has_begun_to_save_is_given_up():
    told = ["active", "cancelling", "cancelled"]
    asked = []

    def execute(command):
        asked.append(command)
        return {"status": told.pop(0)} if command == "query-migrate" else {}

    saved_state.stop_saving(types.SimpleNamespace(execute=execute))
    assert asked == ["query-migrate", "migrate_cancel", "query-migrate", "query-migrate"]
    # QEMU tells nothing where nothing was ever saved.
    saved_state.stop_saving(types.SimpleNamespace(execute=lambda command: {}))
