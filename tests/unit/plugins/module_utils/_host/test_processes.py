# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import pathlib
import subprocess
import typing as t

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._host import processes

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux has descriptors of processes")

MARK = "minicloud-test-of-processes"
SCRIPT = "echo up; read line"


@pytest.fixture
def sleeper(tmp_path: pathlib.Path) -> t.Iterator[subprocess.Popen[bytes]]:
    (tmp_path / "open").touch()
    with open(tmp_path / "open", "rb") as stream:
        argv = ["sh", "-c", SCRIPT, MARK, ""]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream)
    assert process.stdout and process.stdout.readline() == b"up\n"  # until then it is still what it was forked from
    yield process
    process.kill()
    process.communicate()


def test_what_a_process_is(sleeper: subprocess.Popen[bytes], tmp_path: pathlib.Path) -> None:
    assert sleeper.pid in processes.all_ids()
    assert processes.name_of(sleeper.pid) == "sh"
    assert processes.arguments_of(sleeper.pid) == [b"sh", b"-c", SCRIPT.encode(), MARK.encode(), b""]
    assert any(os.path.samefile(path, tmp_path / "open") for path in processes.open_files_of(sleeper.pid))
    assert processes.search(lambda arguments: MARK.encode() in arguments[-2:-1]) == sleeper.pid
    assert processes.search(lambda arguments: b"no such argument" in arguments) == 0


def test_a_process_that_has_ended_is_nothing(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.communicate()
    pid = sleeper.pid
    assert (processes.name_of(pid), processes.arguments_of(pid), [*processes.open_files_of(pid)]) == ("", [], [])
    with processes.held(pid, lambda dummy: True) as descriptor:
        assert descriptor is None


def test_only_the_process_that_is_meant_is_held_and_ended(sleeper: subprocess.Popen[bytes]) -> None:
    with processes.held(sleeper.pid, lambda dummy: False) as descriptor:
        assert descriptor is None
    with processes.held(0, lambda dummy: True) as descriptor:
        assert descriptor is None
    with processes.held(sleeper.pid, lambda pid: processes.name_of(pid) == "sh") as descriptor:
        assert descriptor is not None and processes.end(descriptor)
    assert sleeper.wait(5) < 0


def test_without_proc_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> t.NoReturn:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert processes.all_ids() == [] and processes.search(lambda dummy: True) == 0


def test_only_this_file_looks_through_the_processes_of_the_host() -> None:
    plugins = pathlib.Path(__file__).parents[5] / "plugins"
    readers = [
        path.name
        for path in plugins.rglob("*.py")
        if any(word in path.read_text(encoding="utf-8") for word in ('listdir("/proc")', '}/cmdline"', '}/comm"'))
    ]
    assert [name for name in readers if name != "processes.py"] == []
