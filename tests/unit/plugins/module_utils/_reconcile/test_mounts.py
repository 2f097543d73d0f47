# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    CommandFailed,
    HypervisorError,
    InUse,
    InvalidOption,
    NotFound,
    NotSupported,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Mount
from ansible_collections.minicloud.local.plugins.module_utils._reconcile import mounts
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.mount_task import reconcile_mount
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.mounts import (
    find_mounts,
    parse_mount,
    parse_mounts,
    parse_target,
)
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._reconcile.world import World

OPTIONS = {"driver": None, "driver_options": None, "state": "mounted", "force": False, "instance": "web"}


@pytest.fixture(name="world")
def _world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


@pytest.fixture(name="folder")
def _folder(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("content")
    return folder


@pytest.fixture(name="copies")
def _copies(monkeypatch):
    """What was copied: target, delete, first. A target named broken fails."""
    found = []

    def copy(runtime, access, source, target, listing, delete, first, replacing):
        found.append((target, delete, first))
        replacing()
        if target.endswith("broken"):
            raise CommandFailed("it broke")

    monkeypatch.setattr(mounts, "copy_folder", copy)
    monkeypatch.setattr(mounts, "is_missing", lambda runtime, access, target: False)
    return found


def mount(world, check=False, **params):
    runtime = world._runtime(None)
    values = {"source": None, "target": None, **OPTIONS, **params}
    return reconcile_mount(values, runtime, world.data, check)


@pytest.mark.parametrize(
    "text",
    ["/", "//", "/.", "/etc", "/etc/", "/home", "/home/ubuntu", "/dev", "/dev/shm", "/proc/1", "/sys/x", "/boot/efi",
     "/usr", "/root", "../x", "/x/../etc", "~root/x", "x\ny", "x\x1b", ".", "~/"],
)  # fmt: skip
def test_targets_that_are_refused(text):
    with pytest.raises(InvalidOption, match="target"):
        parse_target(text)


@pytest.mark.parametrize(
    ("text", "target"),
    [("x", "x"), ("~/x/", "x"), ("/srv//x/./y", "/srv/x/y"), ("/home/ubuntu/x", "/home/ubuntu/x"),
     ("/device", "/device"), ("/etc/app", "/etc/app"), ("a b'ü", "a b'ü")],
)  # fmt: skip
def test_targets(text, target):
    assert parse_target(text) == target


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"source": ""}, "no source"),
        ({"source": "x"}, "not an absolute path"),
        ({"source": "/"}, "target"),
        ({"source": "/x", "uid_map": ["1000"]}, "pair of numbers"),
        ({"source": "/x", "uid_map": ["default:1000"]}, "pair of numbers"),
        ({"source": "/x", "uid_map": ["1:99999999999"]}, "pair of numbers"),
        ({"source": "/x", "gid_map": ["1:2", "1:3"]}, "maps one id twice"),
        ({"source": "/x", "gid_map": ["1:3", "2:3"]}, "maps one id twice"),
        ({"source": "/x", "type": "copy", "read_only": True}, "has read_only"),
        ({"source": "/x", "type": "copy", "uid_map": ["1:1"]}, "has uid_map"),
        ({"source": "/x", "delete": True}, "has delete"),
    ],
)
def test_options_that_cannot_be_meant(options, match):
    with pytest.raises(InvalidOption, match=match):
        parse_mount(options)


def test_two_mounts_have_two_targets():
    with pytest.raises(InvalidOption, match="twice"):
        parse_mounts([{"source": "/x/a"}, {"source": "/y", "target": "~/a"}])


def test_a_record_keeps_mounts(world, copies, folder):
    world.run(mounts=[{"source": str(folder), "type": "copy"}])
    found = world.instances()[0]
    assert found.mounts[0].copied
    assert Instance.from_dict(found.to_dict()) == found
    made = parse_mount({"source": "/x", "uid_map": ["1000:0"]})
    assert Mount.from_dict({**made.to_dict(), "newer": 1}).to_dict() == {**made.to_dict(), "newer": 1}


def test_a_copy_is_made_once_and_again_when_the_folder_changes(world, copies, folder):
    wished = {"mounts": [{"source": str(folder), "type": "copy", "delete": True}]}
    assert world.run(**wished).actions == ["create", "start", "wait_ready", "mount"]
    assert copies == [("/home/ubuntu/folder", True, True)]
    again = world.run(**wished)
    assert not again.changed
    assert again.view["mounts"][0]["active"]
    (folder / "file").write_text("other content")
    assert world.run(check=True).actions == ["mount"]
    # Also a task that does not name them.
    assert world.run().actions == ["mount"]
    assert copies[1:] == [("/home/ubuntu/folder", True, False)]


def test_mounts_come_when_a_stopped_instance_is_started(world, copies, folder):
    world.run(state="stopped")
    outcome, view = mount(world, source=str(folder), type="copy")
    assert outcome.actions == ["set_mounts"]
    assert (view["active"], view["reason"]) == (False, "the instance is stopped")
    assert copies == []
    assert world.run().actions == ["start", "wait_ready", "mount"]
    assert world.run().view["mounts"][0]["active"]


def test_nobody_waits_for_a_guest_to_copy_into(world, copies, folder):
    outcome = world.run(wait=False, mounts=[{"source": str(folder), "type": "copy"}])
    assert outcome.actions == ["create", "start"]
    assert "nobody has waited" in outcome.view["mounts"][0]["reason"]
    assert copies == []
    assert world.run().actions == ["wait_ready", "mount"]


def test_what_is_paused_is_not_asked_who_uses_a_mount(world, copies, folder):
    world.run(mounts=[{"source": str(folder), "type": "copy"}])
    world.paused.add(world.instances()[0].uuid)
    outcome, view = mount(world, source=str(folder), state="unmounted")
    assert (outcome.actions, view) == (["set_mounts"], {})


def test_the_module_adds_and_takes_away(world, copies, folder):
    world.run()
    assert mount(world, check=True, source=str(folder), type="copy")[0].actions == ["set_mounts", "mount"]
    assert world.instances()[0].mounts == []
    outcome, view = mount(world, source=str(folder), type="copy")
    assert outcome.actions == ["set_mounts", "mount"]
    assert (view["target"], view["mechanism"], view["active"]) == ("/home/ubuntu/folder", "tar", True)
    assert not mount(world, source=str(folder), target="/home/ubuntu/folder", type="copy")[0].changed
    mount(world, source=str(folder), target="/srv/x", type="copy")
    assert mount(world, target="~/folder", state="unmounted")[0].actions == ["set_mounts"]
    assert [each.target for each in world.instances()[0].mounts] == ["/srv/x"]
    assert mount(world, source=str(folder), state="unmounted")[1] == {}
    assert not mount(world, source=str(folder), state="unmounted")[0].changed
    assert world.instances()[0].mounts == []


def test_a_mount_that_fails_stays_and_is_tried_again(world, copies, folder):
    outcome = world.run(mounts=[{"source": str(folder), "target": "broken", "type": "copy"}])
    assert outcome.actions == ["create", "start", "wait_ready"]
    assert any("it broke" in text for text in world.reporter.warnings)
    assert not outcome.view["mounts"][0]["active"]
    assert "it broke" in outcome.view["mounts"][0]["reason"]
    assert not world.run().changed
    assert len(copies) == 2
    with pytest.raises(CommandFailed, match="it broke"):
        mount(world, source=str(folder), target="broken", type="copy", delete=True)
    world.run()
    # What it has begun to replace is its own.
    assert copies[-1] == ("/home/ubuntu/broken", True, False)
    os.rename(folder, f"{folder}-away")
    assert "no such folder" in world.run().view["mounts"][0]["reason"]


@pytest.mark.parametrize("place", ["data", ".", "data/scopes", "file", "nothing"])
def test_folders_that_are_refused_change_nothing(world, copies, tmp_path, place):
    world.run()
    (tmp_path / "file").write_text("")
    before = world.everything()
    with pytest.raises(InvalidOption, match="cannot be mounted"):
        mount(world, source=str(tmp_path / place), target="x", type="copy")
    with pytest.raises(InvalidOption, match="cannot be mounted"):
        world.run(name="new", mounts=[{"source": str(tmp_path / place), "target": "x", "type": "copy"}])
    assert world.everything() == before


def test_a_driver_without_mounts_says_so(world, folder, monkeypatch):
    monkeypatch.setattr(mounts.sshfs, "why_not", lambda mount: "there is no sftp-server")
    world.run()
    for type_, why in (
        ("auto", "by the hypervisor: .*; by ssh: "),
        ("native", "has no folders"),
        ("classic", "no sftp"),
    ):
        with pytest.raises(NotSupported, match=f"{why}.*type: copy"):
            mount(world, source=str(folder), type=type_)


@pytest.fixture(name="served")
def _served(monkeypatch):
    """What is served, by target. One named broken fails, and one named busy is not unmounted."""
    found = {}
    told = []

    def serve(runtime, directory, access, mount, name):
        if mount.target.endswith("broken"):
            raise HypervisorError("it broke")
        told.append(f"serve {mount.target}")
        found[mount.target] = mount

    def unmount(runtime, access, target, lazily, kind=""):
        if target.endswith("busy") and not lazily:
            raise CommandFailed("x", "target is busy")
        told.append(f"unmount {target}")

    def stop(directory, target):
        if found.pop(target, None):
            told.append(f"stop {target}")

    monkeypatch.setattr(mounts.sshfs, "why_not", lambda mount: "")
    monkeypatch.setattr(mounts.sshfs, "is_served", lambda directory, target: target in found)
    monkeypatch.setattr(mounts.sshfs, "serve", serve)
    monkeypatch.setattr(mounts.sshfs, "unmount", unmount)
    monkeypatch.setattr(mounts.sshfs, "stop_serving", stop)
    monkeypatch.setattr(mounts.sshfs, "stop_all", lambda directory: found.clear())
    monkeypatch.setattr(mounts, "users_of", lambda runtime, access, target: ["7"] if target.endswith("used") else [])
    found["told"] = told
    return found


def test_auto_is_classic_where_nothing_else_works_and_says_why(world, folder, served):
    world.run()
    view = mount(world, source=str(folder), type="auto")[1]
    assert (view["mechanism"], view["active"]) == ("sshfs", True)
    assert "no folders of the host" in view["not_native"]
    assert not mount(world, source=str(folder), type="auto")[0].changed
    assert mount(world, source=str(folder), type="classic")[1]["not_native"] == ""
    assert mount(world, source=str(folder), state="unmounted")[0].actions == ["set_mounts"]
    assert served["told"][-2:] == ["unmount /home/ubuntu/folder", "stop /home/ubuntu/folder"]


def test_folders_that_are_served_come_and_go_in_order(world, folder, served):
    wished = [{"source": str(folder), "target": each, "type": "classic"} for each in ("/srv/a/b", "/srv/a")]
    world.run(mounts=wished)
    assert served["told"] == ["serve /srv/a", "serve /srv/a/b"]
    served.pop("/srv/a")
    assert world.run().actions == ["mount"]
    # What was mounted in it is made anew.
    assert served["told"][2:] == ["serve /srv/a", "serve /srv/a/b"]
    del served["told"][:]
    world.run(mounts=[])
    assert served["told"] == ["unmount /srv/a/b", "stop /srv/a/b", "unmount /srv/a", "stop /srv/a"]


def test_what_is_used_is_taken_away_by_force_only(world, folder, served):
    world.run(
        mounts=[{"source": str(folder), "target": each, "type": "classic"} for each in ("/srv/used", "/srv/busy")]
    )
    for target in ("/srv/used", "/srv/busy"):
        with pytest.raises(InUse, match="force"):
            mount(world, target=target, state="unmounted")
        assert target in served
        mount(world, target=target, state="unmounted", force=True)
        assert target not in served


def test_folders_are_served_no_longer_than_the_guest_runs(world, folder, served):
    world.run(mounts=[{"source": str(folder), "target": "/srv/a", "type": "classic"}])
    world.run(state="stopped")
    assert "/srv/a" not in served
    assert world.run().actions == ["start", "wait_ready", "mount"]
    assert "/srv/a" in served
    assert not world.run().changed
    world.run(state="absent")
    assert "/srv/a" not in served


def test_nobody_waits_for_a_guest_to_serve(world, folder, served):
    outcome = world.run(wait=False, mounts=[{"source": str(folder), "type": "classic"}])
    assert "nobody has waited" in outcome.view["mounts"][0]["reason"]
    assert world.run().view["mounts"][0]["active"]


def test_there_must_be_an_instance(world, folder):
    with pytest.raises(NotFound):
        mount(world, source=str(folder), type="copy")
    assert not mount(world, source=str(folder), state="unmounted")[0].changed
    assert world.instances() == []
    with pytest.raises(InvalidOption, match="neither source nor target"):
        mount(world, state="unmounted")


def test_mounts_are_found_by_what_is_given():
    there = Instance("web", "u", "qemu", "qemu", "", "x86_64", 1, 1, 1, user="me")
    there.mounts = [Mount("/a", "x"), Mount("/a", "/srv/y"), Mount("/b", "/home/me/z")]
    assert [each.target for each in find_mounts(there, "/a", "")] == ["x", "/srv/y"]
    assert [each.target for each in find_mounts(there, "", "/home/me/x")] == ["x"]
    assert [each.target for each in find_mounts(there, "", "z")] == ["/home/me/z"]
    assert find_mounts(there, "/b", "x") == []
    assert find_mounts(None, "/b", "") == []
