# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import time

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._guest.console import (
    ConsoleWatch,
    clean,
    login_user_from,
    plain,
    tail,
    went_down,
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


HOSTILE = [
    "Failed to start " * 16_000,
    "cloud-init " * 24_000,
    "Cloud-init v. " * 18_000,
    "Authorized keys from x" * 12_000,
    "Authorized keys from " + "x" * 260_000,
    "\x1b]" * 130_000,
    "\x1b]" + "a" * 260_000,
    "\x1b[" + "0;" * 130_000,
    "\r" * 260_000,
    "Reached target " * 17_000,
    "a" * 260_000,
    "login: " * 37_000,
    "\n" * 260_000,
    "\x1b[0m\n" * 50_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:20]))
def test_no_text_of_a_guest_takes_long(tmp_path, text: str) -> None:
    log = tmp_path / "console.log"
    log.write_text(text)
    watch = ConsoleWatch(str(log))
    began = time.process_time()
    watch.poll()
    tail(str(log))
    went_down(str(log))
    assert time.process_time() - began < 3
    assert len(watch.problem) <= 300


def test_a_guest_that_writes_without_end_does_not_keep_the_reader(tmp_path) -> None:
    log = tmp_path / "console.log"
    with open(log, "wb") as stream:
        stream.truncate(10 << 30)  # bytes of zero, without taking any room
        stream.seek(0, 2)
        stream.write(b"\nKernel panic - not syncing: x\n")
    watch = ConsoleWatch(str(log))
    began = time.process_time()
    watch.poll()
    assert time.process_time() - began < 5
    assert watch.problem == "Kernel panic - not syncing: x"


def test_the_part_before_a_log_begun_anew_counts_for_its_end(tmp_path) -> None:
    log = tmp_path / "console.log"
    log.write_text("3\n4\n")
    (tmp_path / "console.log.0").write_text("1\n2\n")
    assert tail(str(log)) == ["1", "2", "3", "4"]
    assert tail(str(log), limit=6) == ["3", "4"]
    assert tail(str(log), limit=4) == ["4"]


@pytest.mark.parametrize(
    ("text", "down"),
    [
        ("[   20.1] reboot: Power down\n", True),
        ("[  OK  ] Reached target System Power Off.\n[  OK  ] Reached target poweroff.target\n", True),
        ("Sent SIGKILL to all processes\nRequesting system poweroff\n", True),
        ("web login: \nKernel panic - not syncing: x\n", False),
        ("[  OK  ] Reached target Multi-User System.\n", False),
    ],
)
def test_a_guest_that_goes_down_by_itself_says_so(tmp_path, text: str, down: bool) -> None:
    log = tmp_path / "console.log"
    log.write_text(text)
    assert went_down(str(log)) is down


def test_what_the_console_tells_of_cloud_init(tmp_path) -> None:
    log = tmp_path / "console.log"
    log.write_text("Welcome\n")
    watch = ConsoleWatch(str(log))
    watch.poll()
    assert (watch.prompts, watch.cloud_init_seen) == (False, False)
    log.write_text("Welcome\n\nlocalhost login: ")
    watch.poll()
    assert (watch.prompts, watch.cloud_init_seen) == (True, False)
    log.write_text("Welcome\n\nlocalhost login: \n[ 3.1] cloud-init[300]: Cloud-init v. 22.4 running\n")
    watch.poll()
    assert (watch.prompts, watch.cloud_init_seen) == (True, True)


def test_text_for_other_peoples_terminals() -> None:
    assert plain("\x1b[2Jbad\x07\nnews\x1b]0;x\x07", 100) == "bad\nnews"
    assert len(plain("x" * 10_000, 100)) == 100
