# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import types

import pytest
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.minicloud.local.plugins.action.transfer import ActionModule
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


class Guest:
    """A connection into a directory of this host, as the home directory of a guest."""

    def __init__(self, home):
        self.home = home

    def exec_command(self, cmd, in_data=None, sudoable=True):
        done = subprocess.run(cmd, shell=True, cwd=self.home, capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def put_file(self, source, target):
        shutil.copyfile(source, target)

    def fetch_file(self, source, target):
        shutil.copyfile(source, target)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The current directory of this host, and the home directory of the guest."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(ActionBase, "run", lambda *dummy: {})
    return here, there


def transfer(places, source, target="", **options):
    action = ActionModule.__new__(ActionModule)
    args = {"source": source if isinstance(source, list) else [source], "target": target, **options}
    action._task = types.SimpleNamespace(args=args)
    action._connection = Guest(places[1])
    action.validate_argument_spec = lambda spec: (
        None,
        {**{name: about.get("default") for name, about in spec.items()}, **args},
    )
    return action.run()


def test_a_path_that_names_an_instance_is_told_which_there_are(places, tmp_path):
    data = DataDirectory(str(tmp_path / "data"))
    data.scope("lxd").write(Instance("Web", "id", "lxd", "lxd", "now", "x86_64", 1, 1 << 28, 1 << 30))
    where = {"data_dir": data.path, "driver": "lxd"}
    with pytest.raises(AnsibleActionFail, match=r"no such file on this host. Nor is there an instance db. .*: Web.$"):
        transfer(places, "db:/etc/motd", **where)
    with pytest.raises(AnsibleActionFail, match=r"Nor is there an instance db. There are: none.$"):
        transfer(places, "db:/etc/motd", data_dir=data.path, driver="incus")
    with pytest.raises(AnsibleActionFail, match=r"on this host. Have the instance Web as the task's host"):
        transfer(places, "web:/etc/motd", **where)
    with pytest.raises(AnsibleActionFail, match=r"no directory db:/tmp/ on this host. Nor is there an instance db."):
        transfer(places, "/etc/motd", "db:/tmp/", fetch=True, **where)
    with pytest.raises(AnsibleActionFail, match=r"there is no such file on this host.$"):
        transfer(places, "./db:file", **where)


HOSTILE = ("-n", "--", "*", "$(touch hit)", "a b", "'q' \"w\"", "grüße", "new\nline")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_arrives_under_its_name_whatever_that_is(places, name):
    here, there = places
    (here / name).write_bytes(b"\0content\xff")
    (here / name).chmod(0o755)
    assert transfer(places, f"./{name}")["changed"]
    assert sorted(os.listdir(there)) == [name]
    assert (there / name).read_bytes() == b"\0content\xff"
    assert (there / name).stat().st_mode & 0o777 == 0o755
    (here / name).unlink()
    transfer(places, name, fetch=True)
    assert os.listdir(here) == [name]


def test_a_name_for_what_arrives(places):
    here, there = places
    (here / "one").write_text("1")
    transfer(places, "one", "-n")
    assert (there / "-n").read_text() == "1"
    (there / "sub").mkdir()
    transfer(places, "one", "sub")
    assert (there / "sub/one").read_text() == "1"
    with pytest.raises(AnsibleActionFail, match="is not there"):
        transfer(places, "one", "nowhere/")


def test_several_go_into_a_directory_only(places):
    here, there = places
    for name in ("a", "b"):
        (here / name).write_text(name)
    with pytest.raises(AnsibleActionFail):
        transfer(places, ["a", "b"], "both")
    (there / "both").mkdir()
    assert transfer(places, ["a", "b"], "both")["transferred"] == ["both/a", "both/b"]


def test_a_directory_with_many_files_goes_there_and_back(places):
    here, there = places
    (here / "many/deep").mkdir(parents=True)
    for number in range(10_000):
        (here / f"many/{number}").write_bytes(b"")
    (here / "many/deep/-n").write_text("x")
    (here / "many/link").symlink_to("deep/-n")
    (here / "many/outside").symlink_to("/etc/passwd")
    os.mkfifo(here / "many/pipe")
    with pytest.raises(AnsibleActionFail, match="recursive"):
        transfer(places, "many")
    assert "pipe" in transfer(places, "many", recursive=True)["warnings"][0]
    assert len(os.listdir(there / "many")) == 10_003
    # A link is a link: nothing that it leads to was copied.
    assert os.readlink(there / "many/outside") == "/etc/passwd"
    with pytest.raises(AnsibleActionFail, match="is a directory"):
        transfer(places, "many", "back", fetch=True)
    found = transfer(places, "many", "back", fetch=True, recursive=True)
    assert len(os.listdir(here / "back")) == 10_002
    assert "outside" in found["warnings"][0]
    assert (here / "back/link").read_text() == "x"


def test_what_a_guest_sends_stays_in_its_place(places, monkeypatch):
    here, there = places
    (there / "dir").mkdir()

    def fetch_file(source, target):
        with tarfile.open(target, "w") as tar:
            for name, kind in (
                ("../escaped", tarfile.REGTYPE),
                ("/tmp/escaped", tarfile.REGTYPE),
                ("null", tarfile.CHRTYPE),
            ):
                member = tarfile.TarInfo(name)
                member.type = kind
                tar.addfile(member)

    monkeypatch.setattr(Guest, "fetch_file", lambda guest, source, target: fetch_file(source, target))
    found = transfer(places, "dir", fetch=True, recursive=True)
    assert os.listdir(here) == ["dir"]
    assert len(found["warnings"]) == 2


def sent_by_guest(monkeypatch, members, mode="w"):
    """Have a guest send an archive of members: name, kind, where a link leads to, content."""

    def fetch_file(guest, source, target):
        with tarfile.open(target, mode) as tar:
            for name, kind, link, content in members:
                member = tarfile.TarInfo(name)
                member.type, member.linkname, member.size = kind, link, len(content)
                tar.addfile(member, io.BytesIO(content))

    monkeypatch.setattr(Guest, "fetch_file", fetch_file)


def test_nothing_is_written_through_links_that_a_guest_sends(places, monkeypatch):
    here, there = places
    (there / "dir").mkdir()
    (here / "mine").mkdir()
    (here / "mine/keys").write_text("kept")
    # As with versions of Python whose filter can be led astray.
    monkeypatch.setattr(tarfile, "data_filter", lambda member, where: member)
    links = [("out", tarfile.SYMTYPE, "../mine", b""), ("file", tarfile.SYMTYPE, "../mine/keys", b"")]
    hard = [("hard", tarfile.LNKTYPE, "out/keys", b""), ("hard", tarfile.REGTYPE, "", b"bad")]
    named = [("again", tarfile.LNKTYPE, "out", b""), ("again/keys", tarfile.REGTYPE, "", b"bad")]
    through = [("out/keys", tarfile.REGTYPE, "", b"bad"), ("out/new", tarfile.SYMTYPE, "/etc", b"")]
    over = [("file", tarfile.REGTYPE, "", b"bad"), ("./out//sub", tarfile.DIRTYPE, "", b"")]
    sent_by_guest(monkeypatch, [*links, *hard, *named, *through, *over])
    found = transfer(places, "dir", fetch=True, recursive=True)
    assert os.listdir(here / "mine") == ["keys"]
    assert (here / "mine/keys").read_text() == "kept"
    assert len([each for each in found["warnings"] if "goes through a link" in each]) == 6
    assert (here / "dir/hard").read_bytes() == (here / "dir/again/keys").read_bytes() == b"bad"


@pytest.mark.parametrize("mode", ["w:gz", "w:xz"])
def test_what_a_guest_sends_is_not_decompressed(places, monkeypatch, mode):
    (places[1] / "dir").mkdir()
    sent_by_guest(monkeypatch, [("zeros", tarfile.REGTYPE, "", bytes(1 << 20))], mode)
    with pytest.raises(AnsibleActionFail, match="is no archive"):
        transfer(places, "dir", fetch=True, recursive=True)
    assert os.listdir(places[0] / "dir") == []


@pytest.mark.parametrize(
    ("source", "options"), [("nothing", {}), ("nothing", {"fetch": True}), ("..", {"fetch": True})]
)
def test_what_is_not_there_is_said_and_nothing_is_left(places, source, options):
    with pytest.raises(AnsibleActionFail, match="could not be"):
        transfer(places, source, **options)
    assert os.listdir(places[0]) == os.listdir(places[1]) == []
