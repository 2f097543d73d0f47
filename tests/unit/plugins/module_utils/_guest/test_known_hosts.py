# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._guest.known_hosts import host_pattern, pin, unpin

WEB = "minicloud-qemu-web"
DB = "minicloud-qemu-db"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "data" / "known_hosts")


def test_patterns() -> None:
    assert host_pattern("10.0.0.5") == "10.0.0.5"
    assert host_pattern("127.0.0.1", 2201) == "[127.0.0.1]:2201"


def test_pin_and_unpin(path: str) -> None:
    assert pin(path, WEB, ["[127.0.0.1]:2201"], ["ssh-ed25519 AAAA comment", "ssh-rsa BBBB"]) is True
    expected = f"{WEB},[127.0.0.1]:2201 ssh-ed25519 AAAA\n{WEB},[127.0.0.1]:2201 ssh-rsa BBBB\n"
    assert Path(path).read_text() == expected
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert unpin(path, WEB) is True
    assert Path(path).read_text() == ""
    assert unpin(path, WEB) is False


def test_the_same_again_writes_nothing(path: str) -> None:
    pin(path, WEB, ["10.0.0.5"], ["ssh-ed25519 AAAA"])
    before = os.stat(path)
    assert pin(path, WEB, ["10.0.0.5"], ["ssh-ed25519 AAAA"]) is False
    assert os.stat(path).st_ino == before.st_ino


def test_another_key_takes_the_place_of_the_old_one(path: str) -> None:
    pin(path, WEB, [], ["ssh-ed25519 AAAA"])
    pin(path, DB, [], ["ssh-ed25519 CCCC"])
    assert pin(path, WEB, ["10.0.0.5"], ["ssh-ed25519 BBBB"]) is True
    assert Path(path).read_text() == f"{WEB},10.0.0.5 ssh-ed25519 BBBB\n{DB} ssh-ed25519 CCCC\n"


def test_an_address_in_new_use_leaves_its_old_alias(path: str) -> None:
    pin(path, DB, ["10.0.0.5", "10.0.0.6"], ["ssh-ed25519 AAAA"])
    pin(path, WEB, ["10.0.0.5"], ["ssh-ed25519 BBBB"])
    assert Path(path).read_text() == f"{DB},10.0.0.6 ssh-ed25519 AAAA\n{WEB},10.0.0.5 ssh-ed25519 BBBB\n"


def test_lines_of_others_stay(path: str) -> None:
    others = "# mine\n\n10.0.0.5 ssh-ed25519 XXXX\n@revoked * ssh-rsa YYYY\n"
    others += "|1|abc|def ssh-rsa ZZZZ\ncaf\udce9 ssh-rsa WWWW\n"
    os.makedirs(os.path.dirname(path))
    Path(path).write_text(others, errors="surrogateescape")
    pin(path, WEB, ["10.0.0.5"], ["ssh-ed25519 AAAA"])
    unpin(path, WEB)
    assert Path(path).read_text(errors="surrogateescape") == others


def test_an_alias_that_begins_like_another(path: str) -> None:
    pin(path, f"{WEB}2", [], ["ssh-ed25519 AAAA"])
    assert unpin(path, WEB) is False


def test_many_at_once(path: str) -> None:
    threads = [
        threading.Thread(target=pin, args=(path, f"minicloud-qemu-n{n}", [f"10.0.0.{n}"], ["ssh-ed25519 AAAA"]))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Path(path).read_text().splitlines()) == 20
