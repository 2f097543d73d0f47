# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._errors import CommandFailed
from ansible_collections.minicloud.local.plugins.module_utils._guest import folders
from ansible_collections.minicloud.local.plugins.module_utils._guest.folders import (
    copy_folder,
    is_missing,
    list_folder,
    users_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime


@pytest.fixture(name="source")
def _source(tmp_path):
    source = tmp_path / "it's a folder"
    (source / "deep").mkdir(parents=True)
    (source / "-first").write_text("one")
    (source / "deep" / "new\nline").write_text("two")
    (source / "outside").symlink_to("/etc/passwd")
    (source / "setuid").write_text("three")
    (source / "setuid").chmod(0o4755)
    with open(os.path.join(os.fsencode(source), b"bytes\xff"), "wb"):
        pass
    os.mkfifo(source / "pipe")
    return source


@pytest.fixture(name="copy")
def _copy(monkeypatch, source, tmp_path):
    """Copies into a guest that is this host."""
    monkeypatch.setattr(folders, "ssh_argv", lambda access, command, timeout: ["sh", "-c", command])

    def copy(target, delete=False, first=True, replacing=lambda: None):
        copy_folder(Runtime(run), None, str(source), str(target), list_folder(str(source)), delete, first, replacing)

    return copy


def names_in(path):
    top = os.fsencode(path)
    return sorted(os.path.relpath(os.path.join(at, name), top) for at, ds, fs in os.walk(top) for name in ds + fs)


def test_a_listing_has_what_can_be_copied_and_follows_no_links(source):
    listing = list_folder(str(source))
    assert sorted(listing.names) == [
        b"./-first", b"./bytes\xff", b"./deep", b"./deep/new\nline", b"./outside", b"./setuid",
    ]  # fmt: skip
    assert listing.skipped == 1


def test_a_fingerprint_tells_each_change(source):
    found = {list_folder(str(source)).fingerprint}
    for change in (
        lambda: (source / "-first").write_text("other"),
        lambda: (source / "-first").chmod(0o600),
        lambda: (source / "-first").rename(source / "renamed"),
        lambda: ((source / "outside").unlink(), (source / "outside").symlink_to("/etc/shadow")),
        (source / "deep" / "new\nline").unlink,
    ):
        change()
        found.add(list_folder(str(source)).fingerprint)
    assert len(found) == 6
    assert list_folder(str(source)).fingerprint in found


def test_a_copy_has_the_same_names_and_no_rights_of_others(copy, source, tmp_path):
    target = tmp_path / "guest's" / "$(touch x)" / "here"
    copy(target)
    assert names_in(target) == [name[2:] for name in sorted(list_folder(str(source)).names)]
    assert (target / "deep" / "new\nline").read_text() == "two"
    assert os.readlink(target / "outside") == "/etc/passwd"
    assert (target / "setuid").stat().st_mode & 0o7777 == 0o755


def test_what_the_guest_has_besides_stays_unless_it_is_to_go(copy, source, tmp_path):
    target = tmp_path / "guest"
    copy(target)
    (target / "own").write_text("guest's")
    (source / "-first").unlink()
    copy(target)
    assert b"own" in names_in(target)
    assert b"-first" in names_in(target)
    copy(target, delete=True, first=False)
    assert names_in(target) == [name[2:] for name in sorted(list_folder(str(source)).names)]


def test_a_first_copy_removes_nothing(copy, tmp_path):
    target = tmp_path / "guest"
    target.mkdir()
    (target / "own").write_text("guest's")
    with pytest.raises(CommandFailed, match="is not empty, and delete"):
        copy(target, delete=True)
    assert names_in(target) == [b"own"]


def test_a_copy_that_was_cut_off_is_finished_by_the_next(copy, source, tmp_path):
    target = tmp_path / "guest"

    def cut():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(target, delete=True, replacing=cut)
    copy(target, delete=True)
    assert names_in(target) == [name[2:] for name in sorted(list_folder(str(source)).names)]


def test_a_file_that_vanishes_fails_the_copy_and_removes_nothing(monkeypatch, source, tmp_path):
    monkeypatch.setattr(folders, "ssh_argv", lambda access, command, timeout: ["sh", "-c", command])
    listing = list_folder(str(source))
    (source / "-first").unlink()
    with pytest.raises(CommandFailed, match=r"was not copied.*first"):
        copy_folder(Runtime(run), None, str(source), str(tmp_path / "x"), listing, True, True, pytest.fail)


def test_an_empty_folder_is_copied(copy, source, tmp_path):
    for name in ("-first", "outside", "setuid", "pipe", "deep/new\nline"):
        (source / name).unlink()
    os.unlink(os.path.join(os.fsencode(source), b"bytes\xff"))
    (source / "deep").rmdir()
    copy(tmp_path / "guest", delete=True)
    assert names_in(tmp_path / "guest") == []


def test_what_a_guest_says_of_its_processes_is_not_trusted(monkeypatch):
    monkeypatch.setattr(folders, "ssh_argv", lambda access, command, timeout: ["seq", "-f", "%g x\x1b", "1", "100"])
    assert users_of(Runtime(run), None, "/mnt") == ["1", "2", "3", "4", "5"]
    monkeypatch.setattr(folders, "ssh_argv", lambda access, command, timeout: ["false"])
    with pytest.raises(CommandFailed, match="add force: true"):
        users_of(Runtime(run), None, "/mnt")


def test_who_uses_a_folder_is_found(copy, tmp_path, monkeypatch):
    runtime, target = Runtime(run), str(tmp_path / "it's used")
    assert is_missing(runtime, None, target)
    os.mkdir(target)
    assert not is_missing(runtime, None, target)
    if os.geteuid() != 0:
        pytest.skip("asks as root, which sudo might not let it")
    assert users_of(runtime, None, target) == []
    with open(os.path.join(target, "open"), "w", encoding="ascii"):
        assert users_of(runtime, None, target) == [str(os.getpid())]
        assert users_of(runtime, None, target[:-1]) == []
