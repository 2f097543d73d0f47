# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd.driver import LXD
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import config as lxd_config
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import mounts
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.mounts import LxdMounts
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._files import is_closed
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Mount

DATA = Mount("/srv/data", "/mnt/data")
MINE = Mount("/home/me", "/mnt/me", uid_map=[(1000, 1000)], gid_map=[(1000, 100)])


class FakeActs:
    """Keeps devices as LXD would; refuses those that the kernel is to shift, if told so."""

    def __init__(self):
        self.devices = {"eth0": {"type": "nic"}}
        self.refuses = ""

    def change_folders(self, instance, change, doing):
        changed = dict(self.devices)
        change(changed)
        if self.refuses and any(device.get("shift") for device in changed.values()):
            raise HypervisorError(doing, self.refuses)
        self.devices = changed


@pytest.fixture(name="box")
def _box():
    return Instance("box", "u-1", "lxd", "lxd", "", "x86_64", 1, 1, 1, owner="lxd", user="me", mounts=[DATA, MINE])


@pytest.fixture(name="record")
def _record(box):
    return {"status": "Running", "config": {lxd_config.UUID: box.uuid}, "devices": {}}


@pytest.fixture(name="acts")
def _acts():
    return FakeActs()


@pytest.fixture(name="part")
def _part(record, acts, box, monkeypatch, tmp_path):
    for kind, text in (("uid", "_lxd:1:9\nroot:100000:65536\nroot:1000:1\n"), ("gid", "root:1000:1\n0:50:100\n")):
        (tmp_path / kind).write_text(text)
        monkeypatch.setitem(mounts._SUBIDS, kind, str(tmp_path / kind))
    monkeypatch.setattr(mounts, "_outsiders_gain", lambda mount: False)
    host = SimpleNamespace(here=True)
    look = SimpleNamespace(host=host, product=LXD, seen={box.name: record}, record=lambda instance: record)
    return LxdMounts(look, lambda: acts)


def test_a_folder_comes_and_goes(part, acts, box, record):
    assert part.why_not(box, DATA) == ""
    assert part.attach(box, DATA, None) == "disk device"
    record["devices"] = acts.devices
    assert part.active([box]) == {"u-1": {"/mnt/data": "disk device"}}
    device = acts.devices[lxd_config.folder_name("/mnt/data")]
    assert device == {
        "type": "disk", "source": "/srv/data", "path": "/mnt/data", "required": "false", "shift": "true",
    }  # fmt: skip
    part.detach(box, DATA, False)
    part.detach(box, DATA, False)
    assert acts.devices == {"eth0": {"type": "nic"}}


def test_ids_that_cannot_be_shifted_leave_nothing(part, acts, box):
    acts.refuses = "Required idmapping abilities not available"
    with pytest.raises(HypervisorError, match="give uid_map"):
        part.attach(box, DATA, None)
    assert acts.devices == {"eth0": {"type": "nic"}}


def test_one_that_is_privileged_needs_no_shift(part, acts, box, record):
    record["expanded_config"] = {"security.privileged": "true"}
    acts.refuses = "no"
    part.attach(box, DATA, None)


@pytest.mark.parametrize(
    ("read_only", "nested", "keys"), [(True, True, ["readonly"]), (False, True, ["recursive"]), (False, False, [])]
)
def test_only_what_has_mounts_in_it_is_recursive(read_only, nested, keys):
    # As nothing recursive starts while its folder is missing.
    device = lxd_config.folder_device(Mount("/a", "/b", read_only=read_only), False, nested)
    assert sorted(set(device) - {"type", "source", "path", "required"}) == keys


def test_ids_are_mapped_at_the_next_start(part, box, record):
    assert "next time" in part.why_not(box, MINE)
    box.owner = ""
    assert part.why_not(box, MINE) == ""
    after = {}
    part.map_ids(box, record["config"], after)
    assert after == {"raw.idmap": "gid 1000 100\nuid 1000 1000", "user.minicloud.idmap": "gid 1000 100\nuid 1000 1000"}
    box.owner = "lxd"
    record["config"].update(after)
    assert part.why_not(box, MINE) == ""
    # And no longer when no mount needs it.
    box.mounts = [DATA]
    later = dict(record["config"])
    part.map_ids(box, record["config"], later)
    assert lxd_config.IDMAP not in later


def test_the_map_of_somebody_else_stays(part, box):
    before = {"raw.idmap": "both 5 5"}
    after = dict(before)
    part.map_ids(box, before, after)
    assert after == before


def test_ids_that_lxd_may_not_use_are_told_before_a_start_fails(part, box, record):
    other = Mount("/x", "/y", uid_map=[(1001, 1)], gid_map=[(149, 1), (150, 2)])
    why = part.why_not(box, other)
    assert "root:1001:1 in " in why
    assert "root:150:1 in " in why
    assert "root:149:1" not in why
    box.mounts = [other]
    after = {}
    part.map_ids(box, record["config"], after)
    assert after == {}


def test_another_host_does_not_have_the_folders_of_this_one(part, box):
    part.look.host.here = False
    assert "another host" in part.why_not(box, DATA)


def test_what_the_record_or_the_host_has_no_longer_is_not_kept(part, box, monkeypatch):
    # An instance with a device of a folder that is missing might not start.
    monkeypatch.setattr(mounts.os.path, "isdir", lambda path: path == "/srv/data")
    devices = {
        lxd_config.folder_name(place): {"type": "disk", "path": place} for place in ("/mnt/data", "/mnt/old", "/mnt/me")
    }
    assert list(part.kept(box, devices)) == [lxd_config.folder_name("/mnt/data")]


@pytest.fixture(name="folder")
def _folder(tmp_path, monkeypatch):
    """A folder with two directories above it, on a file system where setuid programs are obeyed."""
    folder = tmp_path / "house" / "room" / "folder"
    folder.mkdir(parents=True)
    monkeypatch.setattr(mounts, "is_closed", lambda path, users: is_closed_below(tmp_path, path, users))
    monkeypatch.setattr(mounts.mount_table, "obeys_setuid", lambda path: True)
    return folder


def is_closed_below(top, path, users):
    """As is_closed, of what is below TOP alone: where tests run is closed to others as a rule."""
    modes = [(each, each.stat().st_mode) for each in (top, *top.parents)]
    try:
        for each, mode in modes:
            each.chmod(mode | 0o011)
        return is_closed(path, users)
    finally:
        for each, mode in modes:
            each.chmod(mode & 0o7777)


@pytest.mark.skipif(os.geteuid() != 0, reason="opens the directories that tests run in, which belong to root")
class TestSetuidPrograms:
    def test_a_folder_that_others_can_get_to_is_not_given_away_as_it_is(self, folder):
        assert mounts._outsiders_gain(Mount(str(folder), "/mnt"))

    def test_the_folder_itself_may_be_opened_from_within(self, folder):
        folder.chmod(0o700)
        assert mounts._outsiders_gain(Mount(str(folder), "/mnt"))

    def test_one_in_a_closed_directory_is(self, folder):
        folder.parent.parent.chmod(0o700)
        assert not mounts._outsiders_gain(Mount(str(folder), "/mnt"))

    def test_nor_do_links_lead_around_it(self, folder, tmp_path):
        folder.parent.chmod(0o700)
        link = tmp_path / "link"
        link.symlink_to(folder)
        assert not mounts._outsiders_gain(Mount(str(link), "/mnt"))

    @pytest.mark.parametrize("mode", [0o710, 0o701, 0o711, 0o755])
    def test_who_may_enter_counts_not_who_may_read(self, folder, mode):
        folder.parent.chmod(mode)
        assert mounts._outsiders_gain(Mount(str(folder), "/mnt"))

    def test_a_user_s_directory_is_closed_for_ids_of_that_user_alone(self, folder, monkeypatch):
        folder.parent.chmod(0o700)
        os.chown(folder.parent, 4321, 4321)
        user = SimpleNamespace(pw_name="me", pw_gid=4321)
        monkeypatch.setattr("pwd.getpwuid", lambda uid: user if uid == 4321 else {}[uid])
        monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, 50])

        def gain(uids, gids):
            ids = [(each, each) for each in uids], [(each, each) for each in gids]
            return mounts._outsiders_gain(Mount(str(folder), "/mnt", uid_map=ids[0], gid_map=ids[1]))

        assert not gain([4321], [4321])
        assert not gain([4321], [50])
        assert not gain([4321], [])
        assert gain([], [])
        assert gain([4321, 0], [])
        assert gain([4321], [51])
        assert gain([4322], [])

    def test_what_cannot_be_written_or_is_not_obeyed_harms_nobody(self, folder, monkeypatch):
        assert not mounts._outsiders_gain(Mount(str(folder), "/mnt", read_only=True))
        monkeypatch.setattr(mounts.mount_table, "obeys_setuid", lambda path: False)
        assert not mounts._outsiders_gain(Mount(str(folder), "/mnt"))

    def test_what_cannot_be_looked_at_is_not_trusted(self, folder):
        assert mounts._outsiders_gain(Mount(str(folder / "nothing"), "/mnt"))

    def test_it_is_said_and_a_device_that_is_there_is_not_kept(self, box, record, acts, folder):
        look = SimpleNamespace(
            host=SimpleNamespace(here=True), product=LXD, seen={box.name: record}, record=lambda instance: record
        )
        part = LxdMounts(look, lambda: acts)
        mount = Mount(str(folder), "/mnt/data")
        assert "setuid" in part.why_not(box, mount)
        assert str(folder) in part.why_not(box, mount)
        box.mounts = [mount]
        devices = {lxd_config.folder_name("/mnt/data"): {"type": "disk", "path": "/mnt/data"}}
        assert part.kept(box, devices) == {}
        folder.parent.chmod(0o700)
        assert part.why_not(box, mount) == ""
        assert part.kept(box, devices) == devices
