# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd.driver import LXD
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import config as lxd_config
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import mounts
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.mounts import LxdMounts
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
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


def test_mounts_in_a_folder_are_found(tmp_path, monkeypatch):
    table = tmp_path / "mountinfo"
    table.write_bytes(b"1 2 0:1 / /srv/a\\040b/c rw - tmpfs none rw\n1 2 0:1 / /srv/xy rw - tmpfs none rw\n")
    monkeypatch.setattr(mounts, "_MOUNTED", str(table))
    found = [path for path in ("/srv", "/srv/a b", "/srv/a b/c", "/srv/x", "/") if mounts._has_mounts_below(path)]
    assert found == ["/srv", "/srv/a b", "/"]


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
