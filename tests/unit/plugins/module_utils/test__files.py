# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
import time

import pytest

from ansible_collections.minicloud.local.plugins.module_utils import _writing
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption, MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._files import NotAFile, read_file, require_safe_way
from ansible_collections.minicloud.local.plugins.module_utils._locks import open_lock
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.module_utils._writing import (
    made_anew,
    make_dir,
    remove_leftovers,
    replacing,
    write_file,
)
from ansible_collections.minicloud.local.tests.unit import processes

# Users that the system need not know.
ANN, BOB = 61001, 61002

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")


@pytest.fixture
def place():
    """A directory in one that everybody may write in and nobody may tidy, as /tmp is; ours, and open to look."""
    with tempfile.TemporaryDirectory(prefix="minicloud-test-", dir="/tmp") as path:
        os.chmod(path, 0o755)
        yield path


def run_as(uid, body):
    """What BODY raises in a process of a user: the text of a MinicloudError, empty where it raises none."""
    reader, writer = os.pipe()

    def in_child():
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        try:
            body()
        except MinicloudError as exc:
            os.write(writer, str(exc).encode())

    status = processes.run(in_child)
    os.close(writer)
    with open(reader, "rb") as stream:
        text = stream.read().decode()
    assert status == 0
    return text


def directory(path, uid=0, mode=0o755):
    os.mkdir(path)
    os.chmod(path, mode)
    if os.geteuid() == 0:
        os.chown(path, uid, uid)
    return path


class TestSafeWay:
    def test_one_below_a_sticky_directory_is_fine(self, place):
        require_safe_way(f"{place}/data")
        require_safe_way(place)
        require_safe_way("/")
        require_safe_way("/tmp/not/there/yet")

    @pytest.mark.parametrize("mode", [0o777, 0o757, 0o775])
    def test_others_that_may_write_in_a_parent_are_named_with_the_remedy(self, place, mode):
        directory(f"{place}/a", 0 if os.geteuid() == 0 else os.geteuid())
        if mode == 0o775 and os.geteuid() == 0:
            os.chown(f"{place}/a", 0, ANN)  # not root's own group
        os.mkdir(f"{place}/a/b")
        os.chmod(f"{place}/a", mode)
        if mode == 0o775 and os.geteuid() != 0:
            pytest.skip("a group of the user alone is fine")
        with pytest.raises(InvalidOption) as caught:
            require_safe_way(f"{place}/a/b/data")
        assert f"{place}/a may be written in by " in str(caught.value)
        assert "chmod g" in caught.value.hint
        assert "another data_dir" in caught.value.hint
        os.chmod(f"{place}/a", mode | stat.S_ISVTX)
        require_safe_way(f"{place}/a/b/data")

    @as_root
    def test_a_parent_of_somebody_else_is_refused(self, place):
        home = directory(f"{place}/ann", ANN)
        os.mkdir(f"{home}/b")
        with pytest.raises(InvalidOption, match=rf"{home} belongs to uid {ANN}.*become_user"):
            require_safe_way(f"{home}/b/data")
        assert run_as(ANN, lambda: require_safe_way(f"{home}/b/data")) == ""
        assert f"{home} belongs to uid {ANN}" in run_as(BOB, lambda: require_safe_way(f"{home}/b/data"))

    @as_root
    def test_both_ways_are_looked_at_where_a_link_leads_on(self, place):
        safe, bobs = directory(f"{place}/safe"), directory(f"{place}/bob", BOB)
        directory(f"{bobs}/data")
        os.symlink(f"{bobs}/data", f"{safe}/out")
        with pytest.raises(InvalidOption, match=f"{bobs} belongs to uid {BOB}"):
            require_safe_way(f"{safe}/out")
        os.symlink(f"{safe}/data", f"{bobs}/in")
        with pytest.raises(InvalidOption, match=f"{bobs} belongs to uid {BOB}"):
            require_safe_way(f"{bobs}/in")
        os.symlink("../safe/sub/../data", f"{place}/relative")
        directory(f"{safe}/sub")
        require_safe_way(f"{place}/relative")
        os.symlink(f"{safe}/data", f"{place}/anns")
        os.lchown(f"{place}/anns", ANN, ANN)
        with pytest.raises(InvalidOption, match=f"anns belongs to uid {ANN}"):
            require_safe_way(f"{place}/anns")

    def test_links_in_a_circle_end(self, place):
        os.symlink("b", f"{place}/a")
        os.symlink("a", f"{place}/b")
        with pytest.raises(InvalidOption, match="circle"):
            require_safe_way(f"{place}/a/data")

    def test_a_file_on_the_way_is_named(self, place):
        write_file(f"{place}/file", b"")
        with pytest.raises(InvalidOption, match=f"{place}/file is not a directory"):
            require_safe_way(f"{place}/file/data")

    def test_the_group_that_only_the_user_is_in_may_write(self, place, monkeypatch):
        import grp
        import pwd

        path = directory(f"{place}/share", os.geteuid())
        os.chmod(path, 0o775)
        uid, gid = os.stat(path).st_uid, os.stat(path).st_gid
        members = []
        monkeypatch.setattr(pwd, "getpwuid", lambda number: pwd.struct_passwd(("ann", "x", uid, gid, "", "/", "")))
        monkeypatch.setattr(grp, "getgrgid", lambda number: grp.struct_group(("ann", "x", gid, members)))
        require_safe_way(f"{path}/minicloud")
        members.append("ann")
        require_safe_way(f"{path}/minicloud")
        members.append("bob")
        with pytest.raises(InvalidOption, match=r"by a group.*chmod g-w"):
            require_safe_way(f"{path}/minicloud")
        monkeypatch.setattr(grp, "getgrgid", lambda number: grp.struct_group(("users", "x", gid, [])))
        with pytest.raises(InvalidOption, match="by a group"):
            require_safe_way(f"{path}/minicloud")

    @as_root
    def test_a_list_of_rights_makes_the_own_group_no_exception(self, place, monkeypatch):
        import struct

        path = directory(f"{place}/share")
        os.chmod(path, 0o775)
        require_safe_way(f"{path}/minicloud")  # the group root has nobody else in it
        # user::rwx, user:BOB:rwx, group::r-x, mask::rwx, other::r-x
        entries = [(1, 7, 0xFFFFFFFF), (2, 7, BOB), (4, 5, 0xFFFFFFFF), (0x10, 7, 0xFFFFFFFF), (0x20, 5, 0xFFFFFFFF)]
        value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
        try:
            os.setxattr(path, "system.posix_acl_access", value)
        except OSError as exc:
            pytest.skip(f"this file system has no lists of rights: {exc.strerror}")
        with pytest.raises(InvalidOption, match="by a group"):
            require_safe_way(f"{path}/minicloud")

    def test_looking_is_cheap(self, place):
        begun = time.process_time()
        for dummy in range(1000):
            require_safe_way(f"{place}/a/b")
        assert time.process_time() - begun < 1


class TestDataDirectory:
    def test_it_has_one_path_however_it_is_spelled(self, place):
        directory(f"{place}/real", os.geteuid(), 0o700)
        os.symlink("real", f"{place}/link")
        os.symlink(place, f"{place}/real/up")
        spellings = [f"{place}/real", f"{place}/link", f"{place}/link/", f"{place}/real/up/real", f"{place}//real/."]
        found = [DataDirectory(spelling) for spelling in spellings]
        assert {data.path for data in found} == {f"{place}/real"}
        for data in found:
            data.require_own()
            for spelling in spellings:
                assert data.is_at(spelling)
            for other in ("", place, "real", "link", f"{place}/real/x", f"{place}/other", "/", "x\0"):
                assert not data.is_at(other)

    def test_one_with_a_nul_is_no_path(self):
        with pytest.raises(InvalidOption, match="NUL"):
            DataDirectory("/srv/a\0b")

    @as_root
    @pytest.mark.parametrize("linked", [False, True])
    def test_who_owns_a_parent_cannot_have_root_write_elsewhere(self, place, linked):
        """The parent's owner puts links in the way; root refuses before it writes, and reads nothing of theirs."""
        bobs, target = directory(f"{place}/bob", BOB), directory(f"{place}/target", 0, 0o700)
        directory(f"{bobs}/data", 0, 0o700)
        path = f"{bobs}/data"
        if linked:
            os.symlink(path, f"{place}/data")
            path = f"{place}/data"
        with pytest.raises(InvalidOption, match="others can put something else in its place"):
            DataDirectory(path).require_own()
        assert os.listdir(target) == []

    @as_root
    def test_one_that_somebody_else_made_first_is_not_used(self, place):
        """Between the look and the making somebody can have been faster, in a directory like /tmp."""
        shared = directory(f"{place}/tmp", 0, 0o1777)
        data = DataDirectory(f"{shared}/data")
        data.require_own()
        directory(f"{shared}/data", BOB, 0o777)
        with pytest.raises(MinicloudError, match="could not be made: File exists"):
            data.change_settings(driver="qemu")
        os.rmdir(f"{shared}/data")
        os.symlink("/etc", f"{shared}/data")
        os.lchown(f"{shared}/data", BOB, BOB)
        with pytest.raises(MinicloudError, match="could not be made: File exists"):
            data.change_settings(driver="qemu")
        os.unlink(f"{shared}/data")
        data.change_settings(driver="qemu")
        assert os.listdir(f"{shared}/data") != []

    @as_root
    def test_an_ordinary_user_has_one_below_home_and_below_tmp(self, place):
        home = directory(f"{place}/ann", ANN, 0o700)

        def body():
            for path in (f"{home}/.local/share/minicloud", f"/tmp/minicloud-test-{os.getpid()}"):
                data = DataDirectory(path)
                data.require_own()
                data.change_settings(driver="qemu")
                data.require_own()
                assert DataDirectory(path).settings() == {"driver": "qemu"}
                _writing.remove_path(path)

        assert run_as(ANN, body) == ""


class TestReading:
    def test_a_file_is_read_up_to_its_limit(self, place):
        write_file(f"{place}/file", b"abc")
        assert read_file(f"{place}/file", 3) == b"abc"
        with pytest.raises(NotAFile, match="it has 3 bytes, more than 2"):
            read_file(f"{place}/file", 2)
        with pytest.raises(FileNotFoundError):
            read_file(f"{place}/none", 2)

    @pytest.mark.parametrize("kind", ["directory", "link", "pipe", "socket"])
    def test_what_is_no_file_is_not_waited_for(self, place, kind):
        import socket

        path = f"{place}/x"
        if kind == "directory":
            os.mkdir(path)
        elif kind == "link":
            os.symlink("/etc/passwd", path)
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(path)
        with pytest.raises(NotAFile, match=f"it is a {kind}"):
            read_file(path, 100)


class TestWriting:
    def test_a_name_that_was_guessed_leads_nowhere(self, place, monkeypatch):
        """Whatever stands under the temporary name is neither followed nor overwritten."""
        monkeypatch.setattr(os, "urandom", lambda count: b"\x11" * count)
        write_file(f"{place}/victim", b"mine")
        for make in (os.symlink, os.link):
            make(f"{place}/victim", f"{place}/file.{'11' * 8}.tmp")
            with pytest.raises(MinicloudError, match="File exists"):
                write_file(f"{place}/file", b"theirs")
            assert read_file(f"{place}/victim", 10) == b"mine"
            assert not os.path.exists(f"{place}/file")
            os.unlink(f"{place}/file.{'11' * 8}.tmp")

    def test_a_link_in_the_place_of_the_file_is_replaced_and_not_followed(self, place):
        write_file(f"{place}/victim", b"mine")
        os.symlink("victim", f"{place}/file")
        write_file(f"{place}/file", b"new")
        assert read_file(f"{place}/victim", 10) == b"mine"
        assert read_file(f"{place}/file", 10) == b"new"

    def test_a_lock_is_not_taken_through_a_link(self, place):
        os.symlink("elsewhere", f"{place}/lock")
        with pytest.raises(OSError, match="symbolic links") as caught:
            open_lock(f"{place}/lock")
        assert caught.value.errno == errno.ELOOP
        assert not os.path.exists(f"{place}/elsewhere")


class TestLeftovers:
    @staticmethod
    def killed(path):
        """The process that a kill ends while it writes a file; nothing of it but its leftover is there then."""

        def body():
            with replacing(path) as stream:
                stream.write(b"half")
                stream.flush()
                processes.kill_myself()

        assert processes.run(body) == -9

    def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(self, place):
        self.killed(f"{place}/a.json")
        self.killed(f"{place}/b.json")
        assert len(os.listdir(place)) == 2
        with replacing(f"{place}/c.json") as stream:
            remove_leftovers(place)
            assert len(os.listdir(place)) == 1
            stream.write(b"whole")
        assert os.listdir(place) == ["c.json"]

    def test_only_those_of_one_file_where_the_directory_is_not_ours(self, place):
        self.killed(f"{place}/a.service")
        self.killed(f"{place}/b.service")
        remove_leftovers(place, "a.service")
        (left,) = os.listdir(place)
        assert left.startswith("b.service.")

    def test_those_of_versions_before_go_when_their_writer_is_gone(self, place):
        pid = processes.start(lambda: None)
        processes.end(pid)
        write_file(f"{place}/x.json.{pid}.tmp", b"")
        write_file(f"{place}/y.json.{os.getpid()}.tmp", b"")
        write_file(f"{place}/z.json.{os.getppid()}.tmp", b"")
        os.utime(f"{place}/z.json.{os.getppid()}.tmp", (1, 1))  # another process has the id now
        remove_leftovers(place)
        assert os.listdir(place) == [f"y.json.{os.getpid()}.tmp"]

    @pytest.mark.parametrize(
        "name", ["x.tmp", "x.json.tmp", "x.json.0123456789abcdeg.tmp", "x.0123456789abcdef.tmp.gz"]
    )
    def test_other_names_are_not_ours(self, place, name):
        write_file(f"{place}/{name}", b"")
        remove_leftovers(place)
        assert os.listdir(place) == [name]

    def test_links_and_directories_of_such_a_name_stay(self, place):
        os.mkdir(f"{place}/d.{'0' * 16}.tmp")
        os.symlink("/etc/passwd", f"{place}/l.{'0' * 16}.tmp")
        os.mkfifo(f"{place}/p.{'0' * 16}.tmp")
        remove_leftovers(place)
        assert len(os.listdir(place)) == 3
        remove_leftovers(f"{place}/none")

    def test_a_writer_whose_new_file_is_taken_away_at_once_begins_again(self, place, monkeypatch):
        taken = []
        flock = fcntl.flock

        def late(handle, kind):
            if not taken:
                taken.extend(os.listdir(place))
                os.unlink(f"{place}/{taken[0]}")
            flock(handle, kind)

        monkeypatch.setattr(fcntl, "flock", late)
        write_file(f"{place}/file", b"x")
        assert taken
        assert os.listdir(place) == ["file"]

    @pytest.mark.parametrize("kind", ["instance", "network"])
    def test_the_next_run_that_has_the_lock_takes_them_away(self, place, kind):
        data = DataDirectory(f"{place}/data")
        scope = data.scope("qemu")
        records = scope if kind == "instance" else scope.networks
        path = os.path.join(make_dir(records.directory("web")), f"{kind}.json")
        self.killed(path)
        with records.lock("web"):
            assert os.listdir(os.path.dirname(path)) == []

    def test_those_of_the_settings_go_with_the_next_change(self, place):
        data = DataDirectory(f"{place}/data")
        data.change_settings(driver="qemu")
        self.killed(f"{data.path}/settings.json")
        self.killed(f"{data.path}/known_hosts")
        data.change_settings(driver="lxd")
        assert sorted(os.listdir(data.path)) == ["locks", "settings.json"]


def test_a_file_by_a_known_name_is_never_what_somebody_else_put_there(place, monkeypatch):
    path, secret = f"{place}/name", f"{place}/secret"
    write_file(secret, b"kept")
    os.symlink(secret, path)
    os.close(made_anew(path))
    assert not os.path.islink(path)
    os.link(secret, f"{place}/other")
    os.rename(f"{place}/other", path)
    os.close(made_anew(path, 0o600))
    assert (os.stat(path).st_nlink, stat.S_IMODE(os.stat(path).st_mode)) == (1, 0o600)
    assert read_file(secret, 10) == b"kept"
    # And in the moment between taking away what is there and making it.
    monkeypatch.setattr(_writing.os, "unlink", lambda path: None)
    with pytest.raises(FileExistsError):
        made_anew(path)
    os.remove(path)
    os.symlink(f"{place}/nothing", path)
    with pytest.raises(FileExistsError):
        made_anew(path)
    assert not os.path.lexists(f"{place}/nothing")
