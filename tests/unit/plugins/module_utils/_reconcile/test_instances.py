# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import pwd
import threading

import pytest

from ansible_collections.minicloud.local.plugins.module_utils import _writing
from ansible_collections.minicloud.local.plugins.module_utils._drivers import registry
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    ImageError,
    InUse,
    InvalidOption,
    LaunchError,
    MinicloudError,
    MissingRequirement,
    NoSpace,
    NotSupported,
    RecordError,
    RestartRequired,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import GIB
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._reconcile import apply, power
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.attach import Attachment
from ansible_collections.minicloud.local.plugins.module_utils._writing import write_file
from ansible_collections.minicloud.local.tests.unit import processes
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._reconcile.world import (
    HOST_ARCH,
    FakeDriver,
    Killed,
    RecordingReporter,
    World,
)


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def _raise(error):
    raise error


# One run, and the next


FULL = {
    "cpus": 2,
    "memory": "2G",
    "disk": "6G",
    "ports": ["8080:80", "443"],
    "tags": {"role": "web"},
    "autostart": True,
    "user": "ann",
    "cloud_init": {"packages": ["nginx"]},
}


class TestRuns:
    @pytest.mark.parametrize("state", ["running", "stopped", "present", "restarted"])
    @pytest.mark.parametrize("params", [{}, FULL], ids=["least", "full"])
    def test_a_first_run_makes_it_and_a_second_changes_nothing(self, world, state, params):
        first = world.run(state=state, **params)
        world.check_consistent()
        runs = state in ("running", "restarted")
        assert first.changed
        assert first.actions == ["create", "start", "wait_ready"] if runs else ["create"]
        assert first.before == {"state": "absent"}
        assert first.view["state"] == first.after["state"] == ("running" if runs else "stopped")
        after_first = world.everything()
        if state == "restarted":
            return
        second = world.run(state=state, **params)
        assert (second.changed, second.actions) == (False, [])
        assert second.view == first.view
        assert second.before == second.after == first.after
        assert world.everything() == after_first

    def test_the_view_tells_what_was_asked_for(self, world):
        view = world.run(**FULL).view
        assert (view["name"], view["cpus"], view["memory"], view["disk"]) == ("web", 2, 2 * GIB, 6 * GIB)
        assert [(port["host_port"], port["guest_port"]) for port in view["ports"]] == [(8080, 80), (41000, 443)]
        assert (view["user"], view["tags"], view["autostart"]) == ("ann", {"role": "web"}, True)
        assert (view["owner"], view["driver"], view["scope"]) == ("qemu", "qemu", "qemu")
        assert view["cloud_init"] == {"status": "done", "errors": []}
        assert view["ansible_vars"]["ansible_port"] == view["ssh"]["port"] == 40000
        # Whatever the play's own connection is.
        assert view["ansible_vars"]["ansible_connection"] == "ssh"

    def test_an_image_that_is_not_here_is_fetched_once(self, tmp_path, monkeypatch):
        world = World(tmp_path, monkeypatch, image_is_here=False)
        assert world.run().actions == ["fetch_image", "create", "start", "wait_ready"]
        assert world.run(name="web-2").actions == ["create", "start", "wait_ready"]
        assert world.touched == ["ab" * 32]

    def test_a_checksum_is_held_against_a_cached_image_too(self, world):
        outcome = world.run(image_checksum="sha256:" + "cd" * 32)
        assert world.checksums == ["sha256:" + "cd" * 32]
        assert outcome.actions == ["create", "start", "wait_ready"]
        world.fail_fetch = ImageError("it is not what its checksum promises")
        with pytest.raises(ImageError) as caught:
            world.run(name="web-2", image_checksum="sha256:" + "ef" * 32)
        assert caught.value.facts["stage"] == "image"
        assert world.scope.read("web-2") is None

    def test_it_goes_and_leaves_nothing(self, world):
        world.run(name="other")
        before = world.everything()
        world.run(**FULL)
        outcome = world.run(state="absent")
        assert (outcome.changed, outcome.actions, outcome.view) == (True, ["delete"], None)
        assert outcome.after == {"state": "absent"}
        assert world.everything() == before
        again = world.run(state="absent")
        assert (again.changed, again.actions, again.view) == (False, [], None)

    def test_a_name_in_another_case_is_the_same_instance(self, world):
        world.run(name="Web")
        outcome = world.run(name="wEB")
        assert not outcome.changed
        assert outcome.view["name"] == "Web"

    @pytest.mark.parametrize(
        ("change", "actions"),
        [
            ({"tags": {"role": "db"}}, ["set_tags"]),
            ({"ports": ["443", "9090:90"]}, ["set_ports"]),
            ({"ports": []}, ["set_ports"]),
            ({"cpus": 4, "allow_restart": True}, ["stop", "set_cpus", "start", "wait_ready"]),
            ({"disk": "9G", "allow_restart": True}, ["stop", "grow_disk", "start", "wait_ready"]),
            (
                {"cpus": 4, "memory": "3G", "disk": "9G", "ports": ["22"], "tags": {}, "state": "restarted"},
                ["stop", "set_cpus", "set_memory", "grow_disk", "set_tags", "set_ports", "start", "wait_ready"],
            ),
            ({"state": "stopped", "cpus": 1}, ["stop", "set_cpus"]),
            ({"state": "stopped"}, ["stop"]),
            ({"user": "bob", "recreate": True}, ["delete", "create", "start", "wait_ready"]),
        ],
        ids=str,
    )
    def test_a_change_is_made_once(self, world, change, actions):
        world.run(**FULL)
        outcome = world.run(**{**FULL, **change})
        assert (outcome.changed, outcome.actions) == (True, actions)
        assert outcome.before != outcome.after or "start" in actions
        world.check_consistent()
        again = world.run(**{**FULL, **change, "state": "stopped" if change.get("state") == "stopped" else "running"})
        assert (again.changed, again.actions) == (False, [])
        assert again.view == outcome.view

    def test_a_chosen_port_is_kept_and_told(self, world):
        chosen = world.run(ports=["443"]).view["ports"][0]["host_port"]
        view = world.run(ports=["80", "443"]).view
        assert {port["guest_port"]: port["host_port"] for port in view["ports"]}[443] == chosen
        assert all(port["host_port"] for port in view["ports"])

    def test_it_is_started_again_after_its_hypervisor_was_killed(self, world):
        world.run()
        uuid = world.scope.read("web").uuid
        os.unlink(os.path.join(world.machines, uuid))
        outcome = world.run()
        assert outcome.actions == ["start", "wait_ready"]
        assert outcome.before["state"] == "stopped"
        assert world.scope.read("web").uuid == uuid
        world.check_consistent()

    def test_without_waiting_the_next_run_waits_and_that_is_no_change(self, world):
        assert world.run(wait=False).actions == ["create", "start"]
        outcome = world.run()
        assert (outcome.changed, outcome.actions) == (False, ["wait_ready"])
        assert world.run().actions == []

    def test_drift_is_a_warning_and_no_change(self, world):
        world.run(user="ann")
        outcome = world.run(user="bob", image="26.04")
        assert (outcome.changed, outcome.actions) == (False, [])
        assert world.reporter.warnings == [
            f"web: {text}. Set recreate: true to have the instance replaced."
            for text in ("image is lts, not 26.04", "user is ann, not bob")
        ]
        assert outcome.view["user"] == "ann"

    def test_more_memory_than_the_host_has_is_refused_before_anything_is_made(self, world):
        with pytest.raises(InvalidOption, match=r"memory 65 GiB is more than this host has: it has 64 GiB\."):
            world.run(memory="65G")
        assert world.files() == []

    def test_the_memory_of_another_host_is_what_counts_there(self, world):
        world.memory = (128 * GIB, 1 * GIB)
        with pytest.raises(
            InvalidOption, match=r"129 GiB is more than the host of the hypervisor has: it has 128 GiB\."
        ):
            world.run(memory="129G")
        world.run(memory="65G")
        assert world.reporter.warnings == [
            "web may use 65 GiB of memory, and the host of the hypervisor has 1 GiB left now."
        ]

    def test_more_memory_than_is_free_is_a_warning(self, world):
        world.run(memory="33G")
        assert world.reporter.warnings == ["web may use 33 GiB of memory, and this host has 32 GiB left now."]

    def test_what_the_driver_cannot_do_is_refused_before_anything_is_made(self, world):
        with pytest.raises(NotSupported, match="instance_type: container"):
            world.run(instance_type="container")
        assert world.files() == []

    def test_a_network_that_is_not_there_yet_is_a_warning_in_check_mode(self, world, monkeypatch):
        """An earlier task of the same run may be one that would make it."""
        monkeypatch.setattr(Attachment, "_networks", lambda attachment, nic: None)
        nics = [{"name": "user"}, {"name": "lab", "address": "10.9.9.9", "mac": "52:54:00:00:00:09"}]
        predicted = world.run(check=True, networks=nics)
        assert predicted.actions == ["ensure_network", "create", "start", "wait_ready"]
        assert [nic["name"] for nic in predicted.view["networks"]] == ["user", "lab"]
        (warning,) = world.reporter.warnings
        assert warning.startswith("There is no network lab yet. Unless a task before this one makes it")
        with pytest.raises(InvalidOption, match="there is no network 'lab'"):
            world.run(networks=nics)
        assert world.files() == []

    def test_who_runs_it_has_a_name(self, world, monkeypatch):
        def unknown(uid):
            raise KeyError(uid)

        world.run(state="stopped")
        before = world.files()
        monkeypatch.setattr(pwd, "getpwuid", unknown)
        for check in (True, False):
            for params in ({"name": "other"}, {"state": "running"}):
                with pytest.raises(MissingRequirement, match=r"has no name on this host.*useradd --uid"):
                    world.run(check=check, **params)
        assert world.files() == before
        assert not world.run(state="stopped").changed

    def test_a_network_more_than_once(self, world, monkeypatch):
        monkeypatch.setitem(registry.ABOUT, "qemu", registry.ABOUT["qemu"]._replace(capabilities={"vm": ("vm",)}))
        with pytest.raises(NotSupported, match=r"networks: lab more than once\. Drivers that can: libvirt"):
            world.run(networks=[{"name": "lab"}, {"name": "default"}, {"name": "Lab"}])
        assert world.files() == []

    def test_a_network_and_the_bridge_that_it_is_bridged_to(self, world, monkeypatch):
        monkeypatch.setitem(registry.ABOUT, "qemu", registry.ABOUT["qemu"]._replace(capabilities={"vm": ("vm",)}))
        world.scope.networks.write(Network("lan", "qemu", "qemu", "", mode="bridged", parent="br0", phase="ready"))
        before = world.files()
        with pytest.raises(NotSupported, match="networks: lan more than once"):
            world.run(networks=[{"name": "lan"}, {"bridged": "br0"}])
        assert world.files() == before

    def test_a_damaged_record_stops_its_own_instance_only(self, world):
        world.run()
        path = os.path.join(world.scope.directory("web"), "instance.json")
        write_file(path, b"{")
        for state in ("running", "stopped", "absent"):
            with pytest.raises(RecordError) as caught:
                world.run(state=state)
            assert path in str(caught.value)
        assert world.run(name="other").changed

    @pytest.mark.parametrize("driver", ["qemu", "libvirt"])
    def test_what_is_left_of_a_damaged_record_goes_by_force(self, world, driver):
        before = self.emptied(world)
        world.run(driver=driver)
        path = os.path.join(world.scope.directory("web"), "instance.json")
        write_file(path, b"{")
        for wish in ({"state": "stopped", "force": True}, {"state": "absent"}):
            with pytest.raises(RecordError, match="is damaged") as caught:
                world.run(**wish)
            assert "state: absent and force: true" in str(caught.value)
        assert world.run(check=True, state="absent", force=True, name="WEB").actions == ["delete"]
        assert os.path.exists(path)
        # Whichever driver ran it.
        gone = world.run(state="absent", force=True, name="WEB")
        assert (gone.actions, gone.view, world.running()) == (["delete"], None, [])
        assert f"the record {path} is damaged: whatever is left of WEB goes." in world.reporter.warnings
        assert world.everything() == before
        assert not world.run(state="absent", force=True).changed

    def test_one_whose_host_is_gone_for_good_is_removed_by_force_alone(self, world):
        before = self.emptied(world)
        world.memory = (0, 0)
        world.run()
        os.unlink(os.path.join(world.machines, world.scope.read("web").uuid))
        gone = MissingRequirement("it cannot be reached")
        world.fail_before.update(observe=gone, delete=gone)
        with pytest.raises(MissingRequirement, match="gone for good, add force: true"):
            world.run(state="absent")
        with pytest.raises(MissingRequirement):
            world.run(state="stopped", force=True)
        assert world.run(state="absent", force=True).actions == ["delete"]
        assert world.reporter.warnings[-1].startswith(
            "Whether the driver qemu has anything of web: it cannot be reached"
        )
        world.fail_before.clear()
        assert world.everything() == before

    @staticmethod
    def emptied(world):
        """What there is after an instance has been there and gone."""
        world.run()
        world.run(state="absent")
        return world.everything()

    def test_a_run_that_is_killed_while_it_removes_one_by_force_is_finished(self, world):
        before = self.emptied(world)
        world.run()
        write_file(os.path.join(world.scope.directory("web"), "instance.json"), b"{")
        world.fail_after["delete"] = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            world.run(state="absent", force=True)
        world.fail_after.clear()
        assert world.run(state="absent").actions == ["delete"]
        assert world.everything() == before

    def test_a_record_of_a_newer_version_is_not_removed_by_force(self, world):
        world.run()
        path = os.path.join(world.scope.directory("web"), "instance.json")
        write_file(path, b'{"schema": 99}')
        with pytest.raises(RecordError, match="newer version"):
            world.run(state="absent", force=True)
        assert os.path.exists(path) and os.listdir(world.machines) != []

    def test_a_driver_that_is_not_there_does_not_keep_what_is_left(self, world):
        world.run()
        write_file(os.path.join(world.scope.directory("web"), "instance.json"), b"{")
        world.fail_before["delete", "libvirt"] = MissingRequirement("libvirt cannot be reached")
        world.run(state="absent", force=True)
        assert any("Whether the driver libvirt has anything of web" in each for each in world.reporter.warnings)
        world.run()
        write_file(os.path.join(world.scope.directory("web"), "instance.json"), b"{")
        world.fail_before["delete", "qemu"] = MissingRequirement("QEMU is gone")
        with pytest.raises(MissingRequirement):
            world.run(state="absent", force=True)


class TestRemoval:
    """What is refused leaves the instance as it was; what was begun is finished only for who asks for it."""

    def test_one_that_is_protected_stays_as_it_was(self, world):
        world.run(**FULL)
        before = world.everything()
        world.protected = {"web"}
        for wish in ({"state": "absent"}, {"user": "bob", "recreate": True}):
            with pytest.raises(HypervisorError, match="web is protected"):
                world.run(**wish)
            assert world.everything() == before
        assert world.run(**FULL).actions == []

    @pytest.mark.parametrize("when", ["fail_before", "fail_after"])
    def test_one_that_the_hypervisor_does_not_remove_keeps_its_record(self, world, when):
        world.run(**FULL)
        disk = world.read_disk()
        getattr(world, when)["delete"] = HypervisorError("dataset is busy")
        with pytest.raises(HypervisorError, match="busy"):
            world.run(state="absent")
        world.fail_before, world.fail_after = {}, {}
        assert world.scope.read("web").phase == "ready"
        world.run(**FULL)
        assert world.read_disk() == disk
        world.check_consistent()

    def test_files_that_do_not_go_keep_it_whole(self, world, monkeypatch):
        world.run(**FULL)
        files = world.files()
        remove = _writing.remove_path

        def refuse(path):
            if os.path.basename(path) == "disk":
                raise PermissionError(1, "Operation not permitted", path)
            remove(path)

        with monkeypatch.context() as patch:
            patch.setattr(_writing, "remove_path", refuse)
            with pytest.raises(MinicloudError, match="not permitted"):
                world.run(state="absent")
        assert world.files() == files
        assert world.run(**FULL).actions == ["start", "wait_ready"]

    @pytest.mark.parametrize("state", ["running", "present", "stopped", "restarted"])
    def test_one_that_was_cut_off_is_not_wiped_by_other_wishes(self, world, state):
        world.run(**FULL)
        with pytest.raises(Killed):
            reporter = RecordingReporter()
            reporter.at["removing"] = RecordingReporter.killed
            world.run(state="absent", reporter=reporter)
        disk = world.read_disk()
        for check in (True, False):
            with pytest.raises(InUse, match=r"web is not whole: its removal was begun .* its disk is there"):
                world.run(check=check, **{**FULL, "state": state})
            assert world.read_disk() == disk
        kept = world.run(**{**FULL, "state": state, "force": True})
        assert kept.actions[0] == "keep"
        assert world.read_disk() == disk
        world.check_consistent()
        assert world.run(state="absent").actions == ["delete"]

    def test_where_nobody_can_tell_what_is_left_it_stays_begun(self, world, monkeypatch):
        world.run(**FULL)
        world.fail_before["delete"] = HypervisorError("connection reset")
        with monkeypatch.context() as patch:
            patch.setattr(FakeDriver, "remains", lambda *args: _raise(MissingRequirement("it is gone")))
            with pytest.raises(HypervisorError, match="connection reset"):
                world.run(state="absent")
        world.fail_before.clear()
        assert world.scope.read("web").phase == "removing"
        with pytest.raises(InUse):
            world.run()
        assert world.run(state="absent").actions == ["delete"]


class TestPaused:
    def pause(self, world):
        world.run(**FULL)
        world.paused.add(world.scope.read("web").uuid)

    @pytest.mark.parametrize(
        ("state", "actions", "then"),
        [
            ("running", ["resume"], "running"),
            ("present", [], "paused"),
            ("stopped", ["stop"], "stopped"),
            ("restarted", ["stop", "start", "wait_ready"], "running"),
            ("absent", ["delete"], None),
        ],
    )
    def test_what_becomes_of_it(self, world, state, actions, then):
        self.pause(world)
        predicted = world.run(check=True, **{**FULL, "state": state})
        outcome = world.run(**{**FULL, "state": state})
        assert predicted.actions == outcome.actions == actions
        for each in (predicted, outcome):
            assert (each.view or {}).get("state") == then
        assert outcome.before["state"] == "paused"
        world.check_consistent()


class TestStopThatWasCutOff:
    """The guest has been told to shut down, and the run that told it so has ended."""

    def begin(self, world, wish=None):
        world.run(**FULL)
        reporter = RecordingReporter()
        reporter.at["pressed"] = RecordingReporter.killed
        with pytest.raises(Killed):
            world.run(reporter=reporter, **{**FULL, "state": "stopped", **(wish or {})})
        assert world.scope.read("web").stopping

    def goes_down(self, world, monkeypatch):
        """The machine ends while the next run waits for that."""
        uuid = world.scope.read("web").uuid
        monkeypatch.setattr(power, "_SHUTDOWN", 60.0)
        monkeypatch.setattr(power.time, "sleep", lambda dummy: os.unlink(os.path.join(world.machines, uuid)))

    def test_running_sees_its_end_and_starts_it(self, world, monkeypatch):
        self.begin(world)
        assert world.run(check=True, **FULL).actions == ["await_stop", "start", "wait_ready"]
        self.goes_down(world, monkeypatch)
        outcome = world.run(**FULL)
        assert (outcome.actions, outcome.view["state"]) == (["await_stop", "start", "wait_ready"], "running")
        assert world.scope.read("web").stopping == ""
        world.check_consistent()

    def test_present_sees_its_end(self, world, monkeypatch):
        self.begin(world)
        self.goes_down(world, monkeypatch)
        outcome = world.run(state="present")
        assert (outcome.actions, outcome.view["state"]) == (["await_stop"], "stopped")

    def test_a_restart_for_a_change_is_finished(self, world, monkeypatch):
        change = {"state": "present", "cpus": 4, "allow_restart": True}
        self.begin(world, change)
        self.goes_down(world, monkeypatch)
        outcome = world.run(**{**FULL, **change})
        assert outcome.actions == ["await_stop", "set_cpus", "start", "wait_ready"]
        world.check_consistent()

    def test_a_guest_that_did_not_hear_it_runs_on(self, world):
        self.begin(world)
        outcome = world.run(**FULL)
        assert (outcome.actions, outcome.changed, outcome.view["state"]) == ([], False, "running")
        assert world.scope.read("web").stopping == ""
        assert world.run(**FULL).actions == []


# Check mode


class TestCheckMode:
    BEGINNINGS = {
        "nothing": [],
        "running": [{}],
        "full": [FULL],
        "stopped": [{**FULL, "state": "stopped"}],
        "starting": [{"wait": False}],
    }
    WISHES = [
        {},
        FULL,
        {"wait": False},
        {"state": "stopped"},
        {"state": "present"},
        {"state": "restarted"},
        {"state": "absent"},
        {"cpus": 4, "memory": "4G", "disk": "8G", "allow_restart": True},
        {"state": "stopped", "cpus": 4},
        {"ports": ["9090:90"], "tags": {"a": "b"}},
        {"user": "bob"},
        {"user": "bob", "recreate": True},
        {"cloud_init": {"user": "carol"}, "recreate": True},
    ]
    # What only a real run can know.
    UNKNOWN = ("addresses", "networks", "ports", "ssh", "ansible_vars", "created", "cloud_init")

    @pytest.mark.parametrize("beginning", BEGINNINGS)
    @pytest.mark.parametrize("params", WISHES, ids=str)
    def test_it_says_what_would_be_done_and_does_nothing(self, tmp_path, monkeypatch, beginning, params):
        world = World(tmp_path, monkeypatch)
        for each in self.BEGINNINGS[beginning]:
            world.run(**each)
        before = world.everything()
        if params is FULL and beginning in ("running", "starting"):
            params = {**FULL, "allow_restart": True}
        predicted = world.run(check=True, **params)
        assert world.everything() == before
        assert set(world.calls) <= {"observe", "require", "ssh_address", "console_log", "alive"}
        warnings = world.reporter.warnings
        real = world.run(**params)
        assert world.reporter.warnings == warnings
        assert (predicted.changed, predicted.actions) == (real.changed, real.actions)
        assert predicted.before == real.before
        assert known(predicted.after, "ports") == known(real.after, "ports")
        assert (predicted.view is None) == (real.view is None)
        if real.view:
            assert known(predicted.view, *self.UNKNOWN) == known(real.view, *self.UNKNOWN)
            if real.view["state"] == "stopped":
                assert predicted.view["addresses"] == real.view["addresses"] == []
            assert predicted.view["ssh"]["user"] == real.view["ssh"]["user"]

    def test_an_image_that_is_not_here_is_not_fetched(self, tmp_path, monkeypatch):
        world = World(tmp_path, monkeypatch, image_is_here=False)
        predicted = world.run(check=True)
        assert world.checksums == []
        assert predicted.actions == world.run().actions == ["fetch_image", "create", "start", "wait_ready"]

    def test_nothing_at_all_is_made_for_a_first_instance(self, world):
        assert world.run(check=True).changed
        assert not os.path.exists(world.data.path)

    @pytest.mark.parametrize(
        ("params", "error"),
        [
            ({"cpus": 4}, RestartRequired),
            ({"disk": "4G"}, InvalidOption),
            ({"name": "new", "memory": "65G"}, InvalidOption),
            ({"name": "new", "disk": "1G"}, InvalidOption),
            ({"name": "new", "cloud_init": "#cloud-config\n- a list\n"}, InvalidOption),
        ],
        ids=str,
    )
    def test_what_would_be_refused_is_refused(self, world, params, error):
        world.run(**FULL)
        for check in (True, False):
            with pytest.raises(error):
                world.run(check=check, **{"cpus": 2, **params})

    def test_a_change_leaves_no_half_told_diff(self, world):
        world.run(**FULL)
        outcome = world.run(check=True, **{**FULL, "cpus": 4, "allow_restart": True})
        assert {key for key in outcome.before if outcome.before[key] != outcome.after[key]} == {"cpus"}
        assert (outcome.before["cpus"], outcome.after["cpus"]) == (2, 4)


def known(data, *without):
    return {key: value for key, value in data.items() if key not in without}


# Failures


class TestPortsOfAnotherHost:
    """Which of them are free is seen only at the start."""

    def test_another_is_chosen_and_kept(self, world):
        world.taken_there = {40000, 40001, 41000}
        launched = world.run(ports=["80"])
        assert launched.view["ssh"]["port"] == 40002
        record = world.scope.read("web")
        assert (record.ssh_port, record.chosen_ports) == (40002, [41001])
        assert [port.host_port for port in record.ports] == [41001]
        assert world.pinned(record) == ["[127.0.0.1]:40002"]
        assert not world.run(ports=["80"]).changed

    def test_one_that_was_asked_for_is_an_error(self, world):
        world.taken_there = {8080}
        with pytest.raises(InUse, match="port 8080 is taken there"):
            world.run(ports=["8080:80"])
        world.taken_there, world.met = set(), set()
        assert world.run(ports=["8080:80"]).view["state"] == "running"

    def test_there_is_an_end(self, world):
        world.taken_there = set(range(40000, 41000))
        with pytest.raises(InUse):
            world.run()
        assert len(world.met) == 5


class TestForesight:
    def test_nothing_is_removed_for_a_replacement_that_cannot_be_made(self, world):
        world.run(**FULL)
        before = world.scope.read("web")
        world.taken = {9999}
        with pytest.raises(InUse):
            world.run(**{**FULL, "user": "bob", "recreate": True, "ports": ["9999:80"]})
        assert world.scope.read("web") == before
        assert world.run(**FULL).changed is False

    def test_nothing_is_stopped_for_a_change_that_cannot_be_made(self, world):
        world.run(**FULL)
        world.taken = {9999}
        with pytest.raises(InUse):
            world.run(**{**FULL, "memory": "3G", "allow_restart": True, "ports": ["9999:80"]})
        assert world.run(**FULL).changed is False


class TestFailures:
    @pytest.mark.parametrize("when", ["fail_before", "fail_after"])
    @pytest.mark.parametrize("method", ["require", "create", "choose_ports", "start"])
    @pytest.mark.parametrize(
        "error", [HypervisorError("no", "because"), NoSpace("no"), MissingRequirement("no"), Killed()], ids=repr
    )
    def test_of_a_launch(self, world, method, when, error):
        world.run(name="other", ports=["8443:443"])
        before = world.everything()
        getattr(world, when)[method] = error
        with pytest.raises(type(error)):
            world.run(**FULL)
        if method in ("require", "create") and not isinstance(error, Killed):
            assert world.everything() == before
        world.fail_before, world.fail_after = {}, {}
        world.run(**FULL)
        world.check_consistent()
        assert len(world.everything().machines) == 2
        world.run(state="absent")
        assert world.everything() == before

    @pytest.mark.parametrize("when", ["fail_before", "fail_after"])
    @pytest.mark.parametrize(
        ("method", "change"),
        [
            ("stop", {"state": "restarted"}),
            ("start", {"state": "restarted"}),
            ("stop", {"state": "stopped"}),
            ("grow_disk", {"disk": "9G", "allow_restart": True}),
            ("start", {"disk": "9G", "cpus": 4, "allow_restart": True}),
            ("choose_ports", {"cpus": 4, "allow_restart": True}),
            ("choose_ports", {"ports": ["9090:90"]}),
            ("delete", {"state": "absent"}),
            ("delete", {"user": "bob", "recreate": True}),
            ("create", {"user": "bob", "recreate": True}),
            ("start", {"user": "bob", "recreate": True}),
        ],
        ids=str,
    )
    def test_of_a_change(self, tmp_path, monkeypatch, method, when, change):
        params = {**FULL, **change}
        undisturbed = World(tmp_path / "undisturbed", monkeypatch)
        undisturbed.run(**FULL)
        undisturbed.run(**params)
        world = World(tmp_path / "disturbed", monkeypatch)
        world.run(**FULL)
        getattr(world, when)[method] = HypervisorError("no")
        with pytest.raises(HypervisorError):
            world.run(**params)
        world.fail_before, world.fail_after = {}, {}
        world.run(**params)
        world.check_consistent()
        assert world.everything() == undisturbed.everything()

    def test_a_port_that_is_taken_makes_no_half_instance(self, world):
        world.taken = {8080}
        with pytest.raises(InUse):
            world.run(**FULL)
        assert world.scope.read("web") is None
        assert world.run(**{**FULL, "ports": ["8081:80", "443"]}).view["state"] == "running"
        world.check_consistent()

    def test_an_image_that_cannot_be_had_leaves_nothing_and_tells_the_stage(self, tmp_path, monkeypatch):
        world = World(tmp_path, monkeypatch, image_is_here=False)
        world.fail_fetch = ImageError("the server is gone")
        with pytest.raises(ImageError) as caught:
            world.run()
        assert caught.value.facts["stage"] == "image"
        assert world.files() == []

    def test_recreate_without_its_image_keeps_the_instance(self, world):
        world.run(**FULL)
        before = world.everything()
        os.unlink(world.image_file)
        world.fail_fetch = ImageError("the server is gone")
        with pytest.raises(ImageError):
            world.run(**{**FULL, "user": "bob", "recreate": True})
        assert world.everything() == before

    def test_a_guest_that_does_not_get_ready_stays_for_a_look_and_is_waited_for_again(self, world):
        world.guest_fails = LaunchError("cloud-init", "cloud-init failed")
        with pytest.raises(LaunchError):
            world.run()
        record = world.scope.read("web")
        assert (record.phase, record.ready, record.booted) == ("ready", False, False)
        world.check_consistent()
        with pytest.raises(LaunchError):
            world.run()
        world.guest_fails = None
        outcome = world.run()
        assert (outcome.changed, outcome.actions) == (False, ["wait_ready"])
        assert world.scope.read("web").ready

    def test_a_hypervisor_that_ends_while_the_guest_boots_is_told_with_the_evidence(self, world):
        def end():
            os.unlink(os.path.join(world.machines, world.scope.read("web").uuid))

        world.in_guest = end
        with pytest.raises(LaunchError) as caught:
            world.run()
        assert caught.value.stage == "boot"
        assert "the hypervisor's last words" in str(caught.value)
        assert caught.value.facts["hypervisor_log"] == ["the hypervisor's last words"]
        world.in_guest = lambda: None
        assert world.run().actions == ["start", "wait_ready"]

    def test_on_a_full_disk_an_instance_can_still_be_removed(self, world, monkeypatch):
        world.run(name="other")
        before = world.everything()
        world.run(**FULL)

        def full(*args):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            world.run(state="absent")
        assert world.scope.read("web") is None
        assert os.listdir(world.scope.directory("other"))
        after = world.everything()
        assert (after.files, after.records, after.machines) == (before.files, before.records, before.machines)
        (warning,) = [text for text in world.reporter.warnings if "known_hosts" in text]
        assert "The keys of web stay in known_hosts until the next run" in warning
        assert "No space left" in warning
        # Whatever the next run is about, what was left is taken away.
        world.run(name="third")
        world.run(name="third", state="absent")
        assert world.everything() == before

    def test_on_a_full_disk_what_is_removed_makes_room_for_the_rest(self, world, monkeypatch):
        world.run(name="other")
        before = world.everything()
        world.run(**FULL)
        directory, fsync = world.scope.directory("web"), os.fsync
        filler = os.path.join(directory, "disk.qcow2")
        write_file(filler, b"")

        def full(handle):
            if os.path.exists(filler):
                raise OSError(28, "No space left on device")
            fsync(handle)

        monkeypatch.setattr(os, "fsync", full)
        world.run(state="absent")
        assert [text for text in world.reporter.warnings if "known_hosts" in text] == []
        assert world.everything() == before


# Killed runs


class TestKilledRuns:
    """Whatever step a run is killed at, the same task run again ends where an undisturbed one does."""

    SCENARIOS = {
        "launch": ([], FULL),
        "launch with the image": ([], FULL),
        "launch, stopped": ([], {"state": "stopped"}),
        "restart": ([FULL], {**FULL, "state": "restarted"}),
        "stop": ([FULL], {"state": "stopped"}),
        "cold change": ([FULL], {**FULL, "cpus": 4, "memory": "3G", "disk": "9G", "allow_restart": True}),
        "cold change of one that is to be as it is": ([FULL], {"state": "present", "cpus": 4, "allow_restart": True}),
        "ports": ([FULL], {**FULL, "ports": ["443", "9090:90"]}),
        "recreate": ([FULL], {**FULL, "user": "bob", "recreate": True}),
        "remove": ([FULL], {"state": "absent"}),
        "remove a stopped one": ([{**FULL, "state": "stopped"}], {"state": "absent"}),
    }

    def begin(self, path, monkeypatch, scenario):
        world = World(path, monkeypatch)
        for params in [{"name": "other", "ports": ["8443:443"]}, *self.SCENARIOS[scenario][0]]:
            world.run(**params)
        if scenario == "launch with the image":
            os.unlink(world.image_file)
        return world

    @pytest.mark.parametrize("scenario", SCENARIOS)
    @pytest.mark.parametrize("how", ["interrupted", "killed"])
    def test_the_next_run_converges(self, tmp_path, monkeypatch, scenario, how):
        params = self.SCENARIOS[scenario][1]
        undisturbed = self.begin(tmp_path / "undisturbed", monkeypatch, scenario)
        undisturbed.run(**params)
        steps = undisturbed.reporter.steps
        then = undisturbed.everything()
        undisturbed.run(state="absent")
        alone = undisturbed.everything()
        assert len(steps) >= 2
        for number, step in enumerate(steps):
            world = self.begin(tmp_path / str(number), monkeypatch, scenario)
            if how == "interrupted":
                with pytest.raises(Killed):
                    world.run(reporter=RecordingReporter(number), **params)
            else:
                dies = RecordingReporter(number, processes.kill_myself)
                assert processes.run(lambda world=world, dies=dies: world.run(reporter=dies, **params)) == -9
            where = f"killed at step {number} ({step}) of {steps}"
            world.run(**params)
            world.check_consistent()
            assert world.everything() == then, where
            again = params.get("state", "running").replace("restarted", "running")
            assert world.run(**{**params, "state": again}).actions == []
            world.run(state="absent")
            assert world.everything() == alone, where

    def test_stopping_it_ends_a_restart_that_was_cut_off(self, tmp_path, monkeypatch):
        world = World(tmp_path, monkeypatch)
        change = {"state": "present", "cpus": 4, "allow_restart": True}
        world.run(**FULL)
        world.run(**change)
        at = world.reporter.steps.index("start")
        world.run(**{**FULL, "allow_restart": True})
        with pytest.raises(Killed):
            world.run(reporter=RecordingReporter(at), **change)
        assert world.run(state="stopped").actions == ["stay_stopped"]
        assert world.run(**change).actions == ["set_cpus"]
        assert world.run(state="stopped").actions == []

    @pytest.mark.parametrize("scenario", ["launch", "recreate"])
    def test_another_task_after_it_converges_too(self, tmp_path, monkeypatch, scenario):
        params = self.SCENARIOS[scenario][1]
        counted = self.begin(tmp_path / "counted", monkeypatch, scenario)
        beginning = counted.everything()
        counted.run(**params)
        for number, step in enumerate(counted.reporter.steps):
            world = self.begin(tmp_path / str(number), monkeypatch, scenario)
            with pytest.raises(Killed):
                world.run(reporter=RecordingReporter(number), **params)
            world.run(state="absent")
            world.check_consistent()
            assert world.scope.read("web") is None
            if scenario == "launch":
                assert world.everything() == beginning, f"killed at step {number} ({step})"


# Runs at the same time


class TestRunsAtOnce:
    @pytest.mark.parametrize("image_is_here", [True, False])
    def test_one_creates_and_the_others_report_no_change(self, tmp_path, monkeypatch, image_is_here):
        world = World(tmp_path, monkeypatch, image_is_here)
        read, write = os.pipe()
        ready, go = processes.Signal(), processes.Signal()

        def body():
            reporter = RecordingReporter()
            ready.give()
            go.wait()
            outcome = world.run(reporter=reporter, **FULL)
            actions = ",".join(outcome.actions) or "-"
            os.write(write, f"{outcome.changed} {actions} {outcome.view['created']}\n".encode())

        pids = [processes.start(body) for dummy in range(4)]
        for dummy in pids:
            ready.wait()
        go.give(len(pids))
        assert [processes.end(pid) for pid in pids] == [0] * 4
        os.close(write)
        with open(read, encoding="ascii") as stream:
            told = [line.split() for line in stream]
        changes = [actions for changed, actions, dummy in told if changed == "True" and "create" in actions]
        assert len(changes) == 1
        # Who fetched the image need not be who made the instance.
        others = {actions for dummy, actions, dummy in told if "create" not in actions}
        assert others <= {"-", "wait_ready", "fetch_image", "fetch_image,wait_ready"}
        assert sum("fetch_image" in actions for dummy, actions, dummy in told) <= (0 if image_is_here else 4)
        if image_is_here:
            assert [changed for changed, *dummy in told].count("True") == 1
        assert len({created for *dummy, created in told}) == 1
        world.check_consistent()
        assert len(world.everything().machines) == 1

    def test_who_comes_second_waits_and_reports_no_change(self, world):
        """The second run plans a creation before the first one has made anything, and gets its turn after it."""
        planned, made = threading.Event(), threading.Event()
        outcome = {}

        def second():
            outcome["second"] = World.run(world, reporter=RecordingReporter(), **FULL)

        original = apply.Applier.carry_out

        def late(self, plan):
            if threading.current_thread() is not threading.main_thread():
                assert "create" in plan.steps
                planned.set()
                assert made.wait(30)
            return original(self, plan)

        apply.Applier.carry_out = late
        try:
            thread = threading.Thread(target=second)
            thread.start()
            assert planned.wait(30)
            first = world.run(**FULL)
            made.set()
            thread.join(30)
        finally:
            apply.Applier.carry_out = original
        assert first.changed
        assert (outcome["second"].changed, outcome["second"].actions) == (False, [])
        assert outcome["second"].view == first.view

    def test_removed_while_another_run_waits_for_it(self, world):
        def remove():
            assert processes.run(lambda: World.run(world, state="absent")) == 0

        world.in_guest = remove
        with pytest.raises(LaunchError, match="was removed by another run"):
            world.run()
        assert world.scope.read("web") is None
        assert world.everything().machines == []

    def test_replaced_while_another_run_waits_for_it(self, world):
        def replace():
            world.in_guest = lambda: None
            assert processes.run(lambda: World.run(world, user="bob", recreate=True)) == 0

        world.in_guest = replace
        with pytest.raises(LaunchError, match="was removed by another run"):
            world.run()
        assert world.scope.read("web").user == "bob"
        world.check_consistent()

    def test_removed_between_the_plan_and_its_turn_it_is_made_anew(self, tmp_path, monkeypatch):
        world = World(tmp_path, monkeypatch)
        world.run(state="stopped")
        original = apply.Applier.carry_out

        def late(applier, plan):
            monkeypatch.setattr(apply.Applier, "carry_out", original)
            assert plan.steps == ["start", "wait_ready"]
            assert processes.run(lambda: World.run(world, state="absent")) == 0
            os.unlink(world.image_file)
            return original(applier, plan)

        monkeypatch.setattr(apply.Applier, "carry_out", late)
        outcome = world.run()
        assert outcome.actions == ["fetch_image", "create", "start", "wait_ready"]
        world.check_consistent()

    def test_stopped_while_another_run_waits_for_it(self, world):
        world.in_guest = lambda: processes.run(lambda: World.run(world, state="stopped")) and None
        with pytest.raises(LaunchError, match="ended while it was starting: another run has stopped it"):
            world.run()
        assert world.scope.read("web").phase == "ready"

    @pytest.mark.parametrize(
        ("console", "cloud_init", "why"),
        [
            ("[ 9.1] reboot: Power down\n", None, "the guest shut itself down, as the end of its console shows"),
            ("", {"power_state": {"mode": "poweroff"}}, "as it was told to, by power_state"),
            ("Linux version 6.1\n", None, "the hypervisor's last words"),
        ],
    )
    def test_an_end_has_its_own_reason(self, world, console, cloud_init, why):
        def end():
            for name in os.listdir(world.machines):
                os.unlink(os.path.join(world.machines, name))
            with open(os.path.join(world.scope.directory("web"), "console.log"), "w") as stream:
                stream.write(console)

        world.in_guest = end
        with pytest.raises(LaunchError, match=why) as caught:
            world.run(cloud_init=cloud_init)
        assert caught.value.facts["hypervisor_log"] == ["the hypervisor's last words"]

    def test_user_data_that_gives_no_login_is_refused_before_anything_is_made(self, world):
        with pytest.raises(InvalidOption, match="password that expires at once"):
            world.run(cloud_init={"password": "x"})
        assert world.scope.read("web") is None
        assert world.run(cloud_init={"password": "x"}, wait=False).changed

    def test_instances_do_not_wait_for_each_other(self, world):
        def in_guest():
            world.in_guest = lambda: None
            assert processes.run(lambda: World.run(world, name="other", timeout=20)) == 0

        world.in_guest = in_guest
        assert world.run().changed
        world.check_consistent()
        assert len(world.everything().machines) == 2


def test_the_architecture_is_the_hosts(world):
    assert world.run().view["arch"] == HOST_ARCH
