# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._guest.console import (
    ConsoleWatch,
    clean,
    login_user_from,
    tail,
)


def test_clean_shows_what_a_person_saw() -> None:
    raw = "\x1b[0;32m[  OK  ]\x1b[0m Started \x1b[1mX\x1b[0m.\r\n\x1b]0;title\x07 10%\r 99%\r100%\n\n\x07done\x1b7\r\n"
    assert clean(raw) == ["[  OK  ] Started X.", "100%", "done"]


def test_tail_of_a_long_log(tmp_path) -> None:
    log = tmp_path / "console.log"
    log.write_text("".join(f"line {number}\r\n" for number in range(10000)))
    assert tail(str(log), lines=2) == ["line 9998", "line 9999"]
    assert tail(str(log), lines=1000, limit=100)[0].startswith("line 99")
    assert tail(str(tmp_path / "none")) == []
    log.write_text("what matters\n" + "[ 1.0] cloud-init[1]: ci-info: | table |\n" * 50)
    assert tail(str(log)) == ["what matters"]


def test_login_user() -> None:
    text = "ci-info: ++++Authorized keys from /home/debian/.ssh/authorized_keys for user debian+++++\n"
    assert login_user_from(text) == "debian"
    assert login_user_from(text.replace("user debian", "user root")) is None
    assert login_user_from("nothing") is None


@pytest.mark.parametrize(
    "line",
    [
        "[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        "You are in emergency mode. After logging in, type ...",
        "ALERT!  UUID=1234 does not exist.  Dropping to a shell!",
        "(initramfs) ",
        "grub rescue> ",
        "No bootable device.",
        "BdsDxe: No bootable option or device was found.",
    ],
)
def test_a_failed_boot_is_seen_even_without_a_newline(tmp_path, line: str) -> None:
    log = tmp_path / "console.log"
    log.write_text(f"Linux version 6.1\r\n\x1b[31m{line}")
    watch = ConsoleWatch(str(log))
    watch.poll()
    assert watch.problem == line.strip()


def test_an_ordinary_boot_is_no_problem(tmp_path) -> None:
    log = tmp_path / "console.log"
    log.write_text("Booting from Hard Disk...\nBoot failed: not a bootable disk\nBooting from Hard Disk...\npanic=-1\n")
    watch = ConsoleWatch(str(log))
    watch.poll()
    assert watch.problem == ""


def test_follows_in_pieces(tmp_path) -> None:
    log = tmp_path / "console.log"
    watch = ConsoleWatch(str(log))
    watch.poll()
    log.write_text("a\nKernel pa")
    watch.poll()
    assert not watch.problem
    with log.open("a") as stream:
        stream.write("nic - not syncing: x\n")
    watch.poll()
    assert watch.problem == "Kernel panic - not syncing: x"


def test_begins_at_the_offset(tmp_path) -> None:
    log = tmp_path / "console.log"
    log.write_text("Kernel panic - not syncing: earlier boot\n")
    watch = ConsoleWatch(str(log), offset=log.stat().st_size)
    watch.poll()
    assert not watch.problem


@pytest.mark.parametrize("replaced", [False, True])
def test_a_log_begun_anew_is_read_from_its_start(tmp_path, replaced: bool) -> None:
    log = tmp_path / "console.log"
    log.write_text("x" * 1000 + "\n")
    watch = ConsoleWatch(str(log))
    watch.poll()
    fresh = tmp_path / "fresh"
    fresh.write_text("Kernel panic - not syncing: now\n" + "y" * (2000 if replaced else 0))
    if replaced:
        os.rename(str(fresh), str(log))
    else:
        log.write_text(fresh.read_text())
    watch.poll()
    assert watch.problem == "Kernel panic - not syncing: now"


def test_memory_is_bounded(tmp_path) -> None:
    log = tmp_path / "console.log"
    log.write_text("z" * 1_000_000)
    watch = ConsoleWatch(str(log))
    watch.poll()
    assert len(watch._rest) <= 4096


def test_notes_are_few_and_different(tmp_path) -> None:
    log = tmp_path / "console.log"
    log.write_text(
        "cloud-init: Used fallback datasource\n" * 20 + "".join(f"I/O error, dev vd{n}\n" for n in range(20))
    )
    watch = ConsoleWatch(str(log))
    watch.poll()
    assert watch.notes[0] == "cloud-init: Used fallback datasource"
    assert len(watch.notes) == len(set(watch.notes)) == 5


def test_a_log_that_is_fetched(tmp_path):
    """Where somebody else keeps the console, each look begins with fetching it."""
    log = tmp_path / "console.log"
    said = ["Linux version 6.1\n", "Linux version 6.1\nKernel panic - not syncing: oh\n"]
    shown = iter([said[0], said[1], said[1]])
    watch = ConsoleWatch(str(log), refresh=lambda: log.write_text(next(shown)) and None)
    watch.poll()
    assert watch.problem == ""
    watch.poll()
    assert watch.problem == "Kernel panic - not syncing: oh"
    assert watch.tail(1) == ["Kernel panic - not syncing: oh"]
