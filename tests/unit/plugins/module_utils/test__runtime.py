# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

import pytest

from ansible_collections.minicloud.local.plugins.module_utils import _runtime
from ansible_collections.minicloud.local.plugins.module_utils._errors import CommandFailed, MissingRequirement
from ansible_collections.minicloud.local.plugins.module_utils._runtime import (
    Completed,
    Deadline,
    Reporter,
    Runtime,
    find_program,
)


class FakeRunner:
    """Answers each command with the same result and remembers how it was called."""

    def __init__(self, rc=0, out="", err=""):
        self.answer = Completed(rc, out, err)
        self.calls = []

    def __call__(self, argv, *, stdin=None, cwd=None, env=None, pass_fds=()):
        self.calls.append((list(argv), stdin, cwd, env, tuple(pass_fds)))
        return self.answer


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now = 1000.0
        self.sleeps = []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    fake = FakeTime()
    monkeypatch.setattr(_runtime, "time", fake)
    return fake


@pytest.fixture
def program(tmp_path, monkeypatch):
    """An executable that lies in a directory of PATH."""
    path = tmp_path / "bin" / "minicloud-test-program"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent))
    return path


# Reporter


def test_reporter_keeps_each_warning_once_and_in_order():
    report = Reporter()
    for text in ("b", "a", "b"):
        report.warn(text)
    assert report.warnings == ["b", "a"]


def test_reporter_is_quiet(capsys):
    report = Reporter()
    report.step("create")
    report.progress("image", 1, None)
    report.warn("careful")
    assert capsys.readouterr() == ("", "")


def test_runtime_makes_its_own_reporter_or_takes_one():
    mine = Reporter()
    assert Runtime(FakeRunner(), mine).report is mine
    assert Runtime(FakeRunner()).report is not Runtime(FakeRunner()).report


# Programs


def test_program_is_found_on_path(program):
    assert find_program(program.name) == str(program)
    assert Runtime(FakeRunner()).program(program.name) == str(program)


def test_program_without_execute_permission_is_not_found(program):
    program.chmod(0o644)
    assert find_program(program.name) is None


def test_program_is_found_in_system_directories_that_path_leaves_out(program, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(_runtime, "_SYSTEM_PATH", (str(program.parent),))
    assert find_program(program.name) == str(program)


def test_path_comes_before_system_directories(program, monkeypatch, tmp_path):
    other = tmp_path / "sbin" / program.name
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setattr(_runtime, "_SYSTEM_PATH", (str(other.parent),))
    assert find_program(program.name) == str(program)


def test_program_is_found_without_any_path(program, monkeypatch):
    monkeypatch.delenv("PATH")
    monkeypatch.setattr(_runtime, "_SYSTEM_PATH", (str(program.parent),))
    assert find_program(program.name) == str(program)


def test_missing_program_names_the_package_and_the_purpose():
    with pytest.raises(MissingRequirement) as caught:
        Runtime(FakeRunner()).program("no-such-program", "some-package", "to test")
    assert str(caught.value) == (
        "the program no-such-program was not found on this host: it is needed to test. "
        "Install the package some-package."
    )
    assert caught.value.facts == {"missing_program": "no-such-program"}


def test_missing_program_without_a_package_names_itself():
    with pytest.raises(MissingRequirement) as caught:
        Runtime(FakeRunner()).program("no-such-program")
    assert str(caught.value).endswith("was not found on this host. Install the package no-such-program.")


# Commands


def test_check_returns_the_output_and_hands_everything_on():
    runner = FakeRunner(out="fine\n")
    out = Runtime(runner).check(("a", "b"), "a failed", stdin=b"in", cwd=os.sep, env={"K": "v"}, pass_fds=(5,))
    assert out == "fine\n"
    assert runner.calls == [(["a", "b"], b"in", os.sep, {"K": "v"}, (5,))]


@pytest.mark.parametrize(
    ("out", "err", "reason"),
    [
        ("out", " err\n", "err"),
        ("out\n", "  \n", "out"),
        ("", "", "tool ended with status 3 and said nothing"),
    ],
)
def test_check_gives_the_reason_of_a_failure(out, err, reason):
    with pytest.raises(CommandFailed) as caught:
        Runtime(FakeRunner(3, out, err)).check(["tool", "-x"], "the tool failed")
    assert caught.value.what == "the tool failed"
    assert caught.value.why == reason
    assert caught.value.facts == {"cmd": ["tool", "-x"], "rc": 3, "stdout": out, "stderr": err}


# Time


def test_deadline_counts_down_and_stops_at_zero(clock):
    deadline = Deadline(10)
    assert (deadline.left(), deadline.expired()) == (10, False)
    clock.now += 9
    assert (deadline.left(), deadline.expired()) == (1, False)
    clock.now += 1
    assert (deadline.left(), deadline.expired()) == (0, True)
    clock.now += 1
    assert deadline.left() == 0


def test_pauses_grow_to_the_longest_and_end_at_the_deadline(clock):
    yielded = list(Deadline(2).pauses(first=0.1, longest=0.5, factor=2))
    assert yielded == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5, 0.5])
    assert clock.sleeps == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5, 0.3])
    assert clock.now == pytest.approx(1002)


def test_pauses_do_not_sleep_before_the_first_look(clock):
    next(Deadline(2).pauses())
    assert clock.sleeps == []


def test_no_pause_after_the_deadline(clock):
    assert list(Deadline(0).pauses()) == []
