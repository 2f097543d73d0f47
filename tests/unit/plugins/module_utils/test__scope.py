# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import json
import os
import stat
import time

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    Busy,
    HostError,
    InvalidOption,
    MinicloudError,
    MissingRequirement,
    NoSpace,
    RecordError,
)
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Nic, PortForward, RecordKind
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Reporter
from ansible_collections.minicloud.local.plugins.module_utils._scope import (
    DataDirectory,
    default_data_dir,
    read_record,
    write_record,
)
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_path, write_file
from ansible_collections.minicloud.local.tests.unit import processes

# A kind of record of which nothing is known but its schema.
THING = RecordKind("a thing", 1, {})


@pytest.fixture
def data(tmp_path):
    return DataDirectory(str(tmp_path / "data"))


@pytest.fixture
def scope(data):
    return data.scope("qemu")


@pytest.fixture
def umask():
    """Set the umask; it is put back afterwards."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def an_instance(name="web", **changes):
    values = {"uuid": f"id-of-{name}", "scope": "qemu", "driver": "qemu", "created": "", "arch": "x86_64"}
    return Instance(name, **{**values, "cpus": 1, "memory": 1 << 30, "disk": 5 << 30, "phase": "ready", **changes})


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def tree(path):
    return sorted(os.path.relpath(os.path.join(top, name), path) for top, ds, fs in os.walk(path) for name in ds + fs)


class TestWhereItIs:
    def test_the_environment_decides_first(self, monkeypatch):
        monkeypatch.setenv("MINICLOUD_DATA_DIR", "/srv/../srv/cloud")
        assert default_data_dir() == DataDirectory().path == "/srv/cloud"

    def test_the_environment_may_name_the_home_directory(self, monkeypatch):
        monkeypatch.setenv("HOME", "/home/ann")
        monkeypatch.setenv("MINICLOUD_DATA_DIR", "~/cloud")
        assert default_data_dir() == "/home/ann/cloud"

    def test_root_has_the_system_directory(self, monkeypatch):
        monkeypatch.delenv("MINICLOUD_DATA_DIR", raising=False)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        assert default_data_dir() == "/var/lib/minicloud"

    @pytest.mark.parametrize(
        ("xdg", "path"), [("/x/share", "/x/share/minicloud"), ("", "/home/ann/.local/share/minicloud")]
    )
    def test_others_have_one_of_their_own(self, monkeypatch, xdg, path):
        monkeypatch.setenv("MINICLOUD_DATA_DIR", "")
        monkeypatch.setenv("HOME", "/home/ann")
        monkeypatch.setenv("XDG_DATA_HOME", xdg)
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert default_data_dir() == path

    def test_an_option_decides_over_the_environment(self, monkeypatch, tmp_path):
        monkeypatch.setenv("MINICLOUD_DATA_DIR", "/srv/cloud")
        assert DataDirectory(f"{tmp_path}/a/../b").path == f"{tmp_path}/b"

    def test_looking_makes_nothing(self, data, scope):
        assert data.settings() == {}
        assert data.scopes() == []
        assert scope.instances() == ([], [])
        assert scope.read("web") is None
        scope.remove("web")
        assert not os.path.exists(data.path)


class TestFiles:
    @pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o777])
    def test_everything_is_private_whatever_the_umask(self, data, scope, umask, mask):
        umask(mask)
        scope.write(an_instance())
        data.change_settings(driver="qemu")
        for top, directories, files in os.walk(data.path):
            assert mode_of(top) == 0o700
            assert [name for name in directories if mode_of(os.path.join(top, name)) != 0o700] == []
            assert [name for name in files if mode_of(os.path.join(top, name)) != 0o600] == []
        assert scope.read("web") == an_instance()

    @pytest.mark.parametrize("mask", [0, 0o077])
    def test_a_file_has_the_mode_that_is_asked_for(self, tmp_path, umask, mask):
        umask(mask)
        path = str(tmp_path / "key.pub")
        write_file(path, b"x", 0o644)
        assert mode_of(path) == 0o644

    def test_a_directory_that_is_there_already_is_left_as_it_is(self, tmp_path):
        path = tmp_path / "shared"
        path.mkdir()
        path.chmod(0o750)
        make_dir(str(path / "a" / "b"))
        assert mode_of(path) == 0o750
        assert mode_of(path / "a") == mode_of(path / "a" / "b") == 0o700

    def test_a_directory_below_a_file_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(MinicloudError, match="could not be made"):
            make_dir(str(tmp_path / "file" / "a" / "b"))
        with pytest.raises(MinicloudError, match="could not be made"):
            make_dir(str(tmp_path / "file"))

    def test_a_directory_where_none_can_be_ends_with_an_error(self):
        with pytest.raises(MinicloudError, match="could not be made"):
            make_dir("/proc/minicloud/a/b")

    def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(self, tmp_path):
        path = str(tmp_path / "file")
        write_file(path, b"old")
        with open(path, "rb") as reader:
            write_file(path, b"new and longer")
            assert reader.read() == b"old"
        with open(path, "rb") as reader:
            assert reader.read() == b"new and longer"
        assert tree(tmp_path) == ["file"]

    @pytest.mark.parametrize("call", ["write", "fsync", "rename"])
    def test_killed_while_writing_the_old_content_stays(self, tmp_path, call, monkeypatch):
        path = str(tmp_path / "instance.json")
        write_record(path, THING, {"a": "old"})

        def body():
            if call == "write":
                monkeypatch.setattr(os, "fchmod", lambda *args: processes.kill_myself())
            else:
                monkeypatch.setattr(os, call, lambda *args: processes.kill_myself())
            write_record(path, THING, {"a": "new"})

        assert processes.run(body) == -9
        assert read_record(path, THING) == {"a": "old"}
        write_record(path, THING, {"a": "newer"})
        assert read_record(path, THING) == {"a": "newer"}

    def test_the_content_is_on_the_disk_before_the_name_leads_to_it(self, tmp_path, monkeypatch):
        calls = []
        fsync, rename = os.fsync, os.rename
        monkeypatch.setattr(os, "fsync", lambda fd: calls.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
        monkeypatch.setattr(os, "rename", lambda a, b: calls.append("rename") or rename(a, b))
        write_file(str(tmp_path / "file"), b"x")
        assert len(calls) == 3
        assert calls[0].startswith(f"{tmp_path}/file")
        assert calls[1:] == ["rename", str(tmp_path)]

    @pytest.mark.parametrize("call", ["open", "fsync", "rename"])
    @pytest.mark.parametrize(
        ("number", "error", "advice"),
        [
            (errno.ENOSPC, NoSpace, "Free some space"),
            (errno.EDQUOT, NoSpace, "Free some space"),
            (errno.EROFS, MissingRequirement, "another data_dir"),
            (errno.EACCES, MissingRequirement, "Run as the user"),
            (errno.EIO, HostError, "Input/output error"),
        ],
    )
    def test_a_file_system_that_refuses_is_explained(self, tmp_path, monkeypatch, call, number, error, advice):
        path = str(tmp_path / "instance.json")
        write_record(path, THING, {"a": "old"})
        with monkeypatch.context() as patch:

            def fail(*args):
                raise OSError(number, os.strerror(number), path)

            patch.setattr(os, call, fail) if call != "open" else patch.setattr(os, "fchmod", fail)
            with pytest.raises(error) as caught:
                write_record(path, THING, {"a": "new"})
        assert caught.type is error
        assert f"{path} could not be written: {os.strerror(number)}" in str(caught.value)
        assert advice in str(caught.value)
        assert read_record(path, THING) == {"a": "old"}
        assert tree(tmp_path) == ["instance.json"]

    def test_explained_leaves_other_errors_alone(self):
        with pytest.raises(ValueError, match="mine"):
            with explained("x"):
                raise ValueError("mine")

    @pytest.mark.parametrize("kind", ["file", "directory", "link", "link to a directory", "nothing"])
    def test_what_is_removed_is_only_that(self, tmp_path, kind):
        kept = tmp_path / "kept"
        kept.mkdir()
        (kept / "file").write_text("")
        path = tmp_path / "gone"
        if kind == "file":
            path.write_text("")
        elif kind == "directory":
            (path / "a").mkdir(parents=True)
            (path / "a" / "link").symlink_to(kept)
        elif kind != "nothing":
            path.symlink_to(kept if "directory" in kind else kept / "file")
        remove_path(str(path))
        assert tree(tmp_path) == ["kept", "kept/file"]


class TestRecords:
    def test_a_record_comes_back_and_has_a_schema_number(self, tmp_path):
        path = str(tmp_path / "r.json")
        write_record(path, THING, {"a": [1, {"ü": None}]})
        assert read_record(path, THING) == {"a": [1, {"ü": None}]}
        with open(path, encoding="utf-8") as stream:
            assert json.load(stream)["schema"] == THING.schema

    def test_no_record(self, tmp_path):
        (tmp_path / "file").write_text("")
        assert read_record(str(tmp_path / "none.json"), THING) is None
        assert read_record(str(tmp_path / "file" / "r.json"), THING) is None

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"null",
            b"[]",
            b"7",
            b'"x"',
            b"{}",
            b'{"schema": "1"}',
            b'{"schema": null}',
            b"\xff\xfe",
            b"\0" * 9,
        ],
        ids=repr,
    )
    def test_a_damaged_record_is_named_with_what_to_do(self, tmp_path, content):
        path = tmp_path / "r.json"
        path.write_bytes(content)
        with pytest.raises(RecordError) as caught:
            read_record(str(path), THING)
        assert f"the record {path} is damaged" in str(caught.value)
        assert "backup" in caught.value.hint
        assert "nothing was changed" in caught.value.hint
        assert caught.value.facts == {"record": str(path), "damaged": True}
        assert path.read_bytes() == content

    def test_a_record_cut_short_anywhere_is_damaged_never_believed(self, scope):
        scope.write(an_instance())
        path = os.path.join(scope.directory("web"), "instance.json")
        with open(path, "rb") as stream:
            whole = stream.read()
        for length in range(len(whole) - 2):  # without the newline and the last brace
            with open(path, "wb") as stream:
                stream.write(whole[:length])
            with pytest.raises(RecordError, match="is damaged"):
                scope.read("web")

    def test_a_record_of_a_newer_version_is_refused(self, tmp_path):
        path = tmp_path / "r.json"
        path.write_text(json.dumps({"schema": THING.schema + 1, "whatever": 1}))
        with pytest.raises(RecordError) as caught:
            read_record(str(path), THING)
        assert str(path) in str(caught.value)
        assert "written by a newer version" in str(caught.value)
        assert "Upgrade the collection" in caught.value.hint

    def test_a_record_that_may_not_be_read_is_named(self, tmp_path, monkeypatch):
        path = tmp_path / "r.json"
        path.write_text("{}")

        def refuse(*args):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(RecordError) as caught:
            read_record(str(path), THING)
        assert f"the record {path} cannot be read: Permission denied" in str(caught.value)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_record_without_permission_says_whose_it_must_be(self, tmp_path):
        path = tmp_path / "r.json"
        path.write_text("{}")
        path.chmod(0)
        with pytest.raises(RecordError, match="Run as the user that the data directory belongs to"):
            read_record(str(path), THING)


class TestSettings:
    def test_settings_are_kept_changed_and_taken_away(self, data):
        data.change_settings(driver="qemu", colour="red")
        data.change_settings(driver="lxd")
        assert data.settings() == {"driver": "lxd", "colour": "red"}
        data.change_settings(colour=None)
        assert data.settings() == {"driver": "lxd"}

    def test_processes_that_change_settings_at_once_lose_none(self, data):
        def body(number):
            for count in range(10):
                data.change_settings(**{f"key_{number}_{count}": 1})

        pids = [processes.start(lambda number=number: body(number)) for number in range(4)]
        assert [processes.end(pid) for pid in pids] == [0] * 4
        assert len(data.settings()) == 40

    def test_settings_of_a_newer_version_are_left_alone(self, data):
        make_dir(data.path)
        path = os.path.join(data.path, "settings.json")
        write_file(path, b'{"schema": 99}')
        with pytest.raises(RecordError, match="newer version"):
            data.change_settings(driver="lxd")
        with open(path, "rb") as stream:
            assert stream.read() == b'{"schema": 99}'


class TestLocks:
    def test_a_lock_leaves_nothing_behind(self, data):
        with data.lock("a"):
            assert tree(data.path) == ["locks", "locks/a.lock"]
        assert tree(data.path) == ["locks"]

    def test_a_lock_is_free_after_an_error(self, data):
        with pytest.raises(ZeroDivisionError):
            with data.lock("a"):
                raise ZeroDivisionError
        with data.lock("a", Deadline(0)):
            pass

    def test_a_free_lock_is_had_even_when_the_time_is_up(self, data):
        with data.lock("a", Deadline(0)):
            pass

    def test_different_locks_do_not_meet(self, data, scope):
        with data.lock("a"), data.lock("b", Deadline(0)), scope.lock("a", Deadline(0)):
            with data.scope("lxd").lock("a", Deadline(0)):
                pass

    def test_names_that_differ_in_case_share_a_lock(self, scope):
        with scope.lock("Web"):
            with pytest.raises(Busy):
                with scope.lock("wEB", Deadline(0.05)):
                    pass

    def test_busy_names_the_holder_and_the_time(self, data):
        held, done = processes.Signal(), processes.Signal()

        def body():
            with data.lock("a"):
                held.give()
                done.wait()

        with processes.running(body) as pid:
            held.wait()
            report = RecordingReporter()
            with pytest.raises(Busy) as caught:
                with data.lock("a", Deadline(0.1), report):
                    pass
        assert str(caught.value) == (
            f"the lock on a was not free within 0.1 seconds: process {pid} holds it. "
            "Wait for that run to end, or end it, and run this again."
        )
        assert report.steps == [f"waiting for the lock on a, which process {pid} holds"]

    def test_who_waits_gets_the_lock_when_it_is_given_back(self, data):
        held, waits = processes.Signal(), processes.Signal()

        class TellsThatItWaits(Reporter):
            def step(self, name):
                waits.give()

        def body():
            with data.lock("a"):
                held.give()
                waits.wait()

        pid = processes.start(body)
        held.wait()
        with data.lock("a", Deadline(30), TellsThatItWaits()):
            assert tree(data.path) == ["locks", "locks/a.lock"]
        assert processes.end(pid) == 0
        assert tree(data.path) == ["locks"]

    def test_a_killed_holder_holds_nothing(self, data):
        def body():
            with data.lock("a"):
                processes.kill_myself()

        assert processes.run(body) == -9
        with data.lock("a", Deadline(0)):
            pass
        assert tree(data.path) == ["locks"]

    def test_a_program_that_a_holder_starts_does_not_hold_the_lock(self, data):
        with data.lock("a"):
            read, write = os.pipe()
            pid = os.fork()
            if not pid:
                os.set_inheritable(read, True)
                os.execv("/bin/sh", ["sh", "-c", f"read line <&{read}"])
            os.close(read)
        try:
            with data.lock("a", Deadline(10)):  # as soon as the program has replaced the copy of this process
                pass
        finally:
            os.close(write)
            processes.end(pid)

    def test_one_at_a_time_among_many(self, data, tmp_path):
        rounds, workers = 50, 4
        counter = tmp_path / "counter"
        counter.write_text("0")
        inside = str(tmp_path / "inside")

        def body():
            for dummy in range(rounds):
                with data.lock("a", Deadline(50)):
                    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                    count = int(counter.read_text())
                    counter.write_text(str(count + 1))
                    os.unlink(inside)

        pids = [processes.start(body) for dummy in range(workers)]
        assert [processes.end(pid) for pid in pids] == [0] * workers
        assert counter.read_text() == str(rounds * workers)
        assert tree(data.path) == ["locks"]

    @pytest.mark.parametrize("call", ["pwrite", "truncate"])
    def test_a_full_disk_does_not_keep_from_locking(self, data, monkeypatch, call):
        def fail(*args):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, call, fail)
        with data.lock("a"):
            with pytest.raises(Busy, match="process unknown holds it"):
                with data.lock("a", Deadline(0.05)):
                    pass

    def test_an_interrupted_wait_leaves_no_handle(self, data):
        class Interrupted(Reporter):
            def step(self, name):
                raise KeyboardInterrupt

        with data.lock("a"):
            before = os.listdir("/proc/self/fd")
            with pytest.raises(KeyboardInterrupt):
                with data.lock("a", Deadline(5), Interrupted()):
                    pass
            assert os.listdir("/proc/self/fd") == before

    def test_a_lock_that_cannot_be_made_is_explained(self, data):
        write_file(make_dir(data.path) + "/locks", b"")
        with pytest.raises(MinicloudError, match="could not be made: File exists"):
            with data.lock("a"):
                pass


class RecordingReporter(Reporter):
    def __init__(self):
        super().__init__()
        self.steps = []

    def step(self, name):
        self.steps.append(name)


class TestScopes:
    def test_an_instance_is_kept_and_found_without_case(self, scope):
        instance = an_instance("Web", ports=[PortForward("::1", 0, 80)], nics=[Nic("user", "52:54:00:00:00:01")])
        scope.write(instance)
        assert scope.read("wEB") == instance
        assert scope.read("web-2") is None
        assert os.path.basename(scope.directory("WEB")) == "web"

    def test_scopes_are_apart(self, data, scope):
        scope.write(an_instance())
        data.scope("lxd").write(an_instance(scope="lxd", cpus=7))
        assert scope.read("web").cpus == 1
        assert data.scope("lxd").read("web").cpus == 7
        assert [each.name for each in data.scopes()] == ["lxd", "qemu"]

    def test_instances_are_sorted_by_name(self, scope):
        for name in ("c", "A", "b"):
            scope.write(an_instance(name))
        assert [each.name for each in scope.instances()[0]] == ["A", "b", "c"]

    def test_strange_files_are_no_instances_and_no_harm(self, data, scope):
        scope.write(an_instance())
        write_file(os.path.join(data.path, "scopes", "note.txt"), b"")
        write_file(os.path.join(data.path, "scopes", ".hidden"), b"")
        write_file(os.path.join(data.path, "scopes", "qemu", "instances", "note.txt"), b"")
        make_dir(scope.directory("empty"))
        found = [instance.name for each in data.scopes() for instance in each.instances()[0]]
        assert found == ["web"]
        assert [error for each in data.scopes() for error in each.instances()[1]] == []

    @pytest.mark.parametrize(
        "content",
        [
            b'{"schema": 1, "na',
            b'{"schema": 2}',
            b'{"schema": 1}',
            b'{"schema": 1, "ports": [], "nics": [], "name": "b"}',
            b"",
        ],
        ids=repr,
    )
    def test_a_bad_record_does_not_hide_the_others(self, scope, content):
        for name in ("a", "b", "c"):
            scope.write(an_instance(name))
        path = os.path.join(scope.directory("b"), "instance.json")
        write_file(path, content)
        found, broken = scope.instances()
        assert [each.name for each in found] == ["a", "c"]
        assert [error.facts["record"] for error in broken] == [path]

    @pytest.mark.parametrize("name", [None, 5, ["b"], "a", "b\n"], ids=repr)
    def test_a_record_with_another_name_than_its_directory_is_damaged(self, scope, name):
        scope.write(an_instance("b"))
        path = os.path.join(scope.directory("b"), "instance.json")
        write_record(path, THING, {**read_record(path, THING), "name": name})
        with pytest.raises(RecordError, match="is damaged"):
            scope.read("b")

    def test_a_copied_instance_is_not_taken_for_the_other(self, scope):
        scope.write(an_instance("web"))
        os.rename(scope.directory("web"), scope.directory("copy"))
        scope.write(an_instance("web"))
        with pytest.raises(RecordError, match="it describes the instance web of the scope qemu"):
            scope.read("copy")
        assert [each.name for each in scope.instances()[0]] == ["web"]

    def test_removing_takes_all_away_and_nothing_else(self, data, scope):
        scope.write(an_instance("web"))
        scope.write(an_instance("web-2"))
        write_file(os.path.join(scope.directory("web"), "disk.qcow2"), b"")
        make_dir(os.path.join(scope.directory("web"), "sub"))
        scope.remove("WEB")
        assert tree(data.path) == [
            "scopes",
            "scopes/qemu",
            "scopes/qemu/instances",
            "scopes/qemu/instances/web-2",
            "scopes/qemu/instances/web-2/instance.json",
        ]

    def test_the_record_is_the_last_to_go(self, scope, monkeypatch):
        scope.write(an_instance())
        directory = scope.directory("web")
        for name in ("a", "disk.qcow2", "zzz"):
            write_file(os.path.join(directory, name), b"")
        make_dir(os.path.join(directory, "sub"))

        write_file(os.path.join(scope.directory("web"), "seed.iso"), b"x" * 100_000)
        removed = []
        unlink, rmdir = os.unlink, os.rmdir

        def recorded(function):
            def remove(path, *args, **kwargs):
                removed.append(os.path.basename(path))
                function(path, *args, **kwargs)

            return remove

        monkeypatch.setattr(os, "unlink", recorded(unlink))
        monkeypatch.setattr(os, "rmdir", recorded(rmdir))
        scope.remove("web")
        assert sorted(removed[:-3]) == ["a", "disk.qcow2", "sub", "zzz"]
        # The largest of all, but what is kept of an instance cannot be started without it.
        assert removed[-3:] == ["seed.iso", "instance.json", "web"]

    def test_a_removal_that_fails_says_so_and_keeps_the_record(self, scope, monkeypatch):
        scope.write(an_instance())
        path = os.path.join(scope.directory("web"), "disk.qcow2")
        write_file(path, b"")

        def fail(path, **kwargs):
            raise OSError(errno.EROFS, "Read-only file system", path)

        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", fail)
            with pytest.raises(MissingRequirement, match="could not be removed: Read-only file system"):
                scope.remove("web")
        assert scope.read("web") == an_instance()

    def test_readers_need_no_lock_and_never_see_half_a_record(self, scope):
        scope.write(an_instance(tags={"size": "x"}))

        def body():
            end = time.monotonic() + 60
            for count in range(300):
                scope.write(an_instance(tags={"size": "x" * (count * 37 % 5000)}))
                assert time.monotonic() < end

        pid = processes.start(body)
        reads = 0
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            assert scope.read("web").uuid == "id-of-web"
            reads += 1
        assert reads > 0
        assert len(scope.read("web").tags["size"]) == 299 * 37 % 5000


class TestWhoseItIs:
    def test_ones_own_is_fine_and_so_is_none(self, tmp_path):
        data = DataDirectory(str(tmp_path / "data"))
        data.require_own()
        data.change_settings(driver="qemu")
        data.require_own()

    @pytest.mark.parametrize("part", ["", "locks", "scopes", "vault", "keys"])
    def test_one_that_others_may_write_in_is_refused(self, tmp_path, part):
        path = tmp_path / "data" / part
        path.mkdir(parents=True, mode=0o700)
        path.chmod(0o770)
        with pytest.raises(InvalidOption, match="others may write in it"):
            DataDirectory(str(tmp_path / "data")).require_own()

    def test_somebody_elses_is_refused(self, tmp_path, monkeypatch):
        (tmp_path / "data").mkdir(mode=0o700)
        uid = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
        with pytest.raises(InvalidOption, match=f"it belongs to uid {uid}"):
            DataDirectory(str(tmp_path / "data")).require_own()

    def test_a_link_in_it_is_refused(self, tmp_path):
        (tmp_path / "data").mkdir(mode=0o700)
        (tmp_path / "data" / "locks").symlink_to("/tmp")
        with pytest.raises(InvalidOption, match="locks is not a directory"):
            DataDirectory(str(tmp_path / "data")).require_own()


class TestNetworks:
    def test_they_are_kept_beside_instances(self, data, scope):
        network = Network("Lab", "qemu", "qemu", "", subnet="10.1.2.0/24", handles={"qemu": {"uri": "x"}})
        assert scope.networks.read("lab") is None
        with scope.networks.lock("LAB"):
            scope.networks.write(network)
        scope.write(an_instance("lab"))
        assert scope.networks.read("LAB") == network
        assert os.path.exists(os.path.join(data.path, "scopes", "qemu", "networks", "lab", "network.json"))
        assert scope.networks.all() == ([network], [])
        assert [each.name for each in scope.instances()[0]] == ["lab"]
        scope.networks.remove("lab")
        assert scope.networks.all() == ([], [])
        assert scope.read("lab")

    def test_a_record_that_is_none_is_told_of(self, scope):
        path = os.path.join(make_dir(scope.networks.directory("lab")), "network.json")
        write_record(path, THING, {"name": "lab", "scope": "qemu", "colour": "red"})
        with pytest.raises(RecordError, match="does not describe a network"):
            scope.networks.read("lab")
        write_record(path, THING, Network("other", "qemu", "qemu", "").to_dict())
        with pytest.raises(RecordError, match="describes the network other of the scope qemu"):
            scope.networks.read("lab")
        found, broken = scope.networks.all()
        assert (found, len(broken)) == ([], 1)
