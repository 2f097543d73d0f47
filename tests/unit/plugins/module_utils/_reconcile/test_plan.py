# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import itertools

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import ABOUT
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    InUse,
    InvalidOption,
    RestartRequired,
)
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import parse_reference
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ABSENT,
    DEFAULT_DISK,
    DEFAULT_MEMORY,
    DELETED,
    GIB,
    PAUSED,
    RUNNING,
    STOPPED,
    Instance,
    Nic,
    Observed,
    parse_port,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import STATES as MODEL_STATES
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.apply import Applier
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.plan import (
    CHANGES,
    LEFTOVERS,
    MOVED,
    PARTS,
    REFUSED,
    REMOVING,
    RESTARTING,
    STOPPING,
    WAYS,
    WAYS_DOWN,
    WISHES,
    Plan,
    Surroundings,
    comparable,
    disk_size,
    keep_chosen,
    make_plan,
    same_ports,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import Wish

IMAGE = Image("24.04", "ab" * 32, "/d/disk.qcow2", "qcow2", GIB, 3 * GIB, "x86_64", os="ubuntu", user="ubuntu")


def an_instance(**changes):
    values = {
        "name": "web",
        "uuid": "u-1",
        "scope": "qemu",
        "driver": "qemu",
        "created": "2026-01-02T03:04:05Z",
        "arch": "x86_64",
        "cpus": 2,
        "memory": 2 * GIB,
        "disk": 10 * GIB,
        "owner": "qemu",
        "phase": "ready",
        "user": "ubuntu",
        "ssh_port": 40022,
        "booted": True,
        "ready": True,
        "image": {"name": "24.04", "hash": IMAGE.hash},
        "nics": [Nic("user", "52:54:00:00:00:01")],
    }
    return Instance(**{**values, **changes})


# What there may be when a task begins: the record, and what the driver sees.
SITUATIONS = {
    "absent": (None, None),
    "creating": (an_instance(phase="creating", ready=False), Observed(LEFTOVERS)),
    "emptied": (an_instance(phase="removing"), Observed(LEFTOVERS)),
    "stopped": (an_instance(owner="", ready=False), Observed(STOPPED)),
    # Its hypervisor was killed: the record does not know.
    "died": (an_instance(), Observed(STOPPED)),
    "ready": (an_instance(), Observed(RUNNING, ("127.0.0.1",))),
    "starting": (an_instance(ready=False), Observed(RUNNING, ("127.0.0.1",))),
    "paused": (an_instance(), Observed(PAUSED)),
    "stopping": (an_instance(stopping="2026-01-02T03:04:05Z"), Observed(RUNNING)),
}
STATES = ("running", "stopped", "restarted", "present", "absent")


def plan_for(situation="absent", have=IMAGE, **wishes):
    """HAVE is what the vault has of the wished image; it has 26.04 too."""
    if have is IMAGE and wishes.get("image") == "26.04":
        have = Image(**{**IMAGE.to_dict(), "name": "26.04", "hash": "cd" * 32})
    if wishes.get("image"):
        wishes["image"] = parse_reference(wishes["image"])
    current, observed = SITUATIONS[situation] if isinstance(situation, str) else situation
    return make_plan(Wish("web", **wishes), current, observed, have, Surroundings("x86_64", "qemu"))


def running(**changes):
    return an_instance(**changes), Observed(RUNNING, ("127.0.0.1",))


def stopped(**changes):
    return an_instance(owner="", ready=False, **changes), Observed(STOPPED)


class TestEveryStateInEverySituation:
    TABLE = [
        ("running", "absent", "create start wait_ready", RUNNING),
        ("running", "creating", "remove_leftovers create start wait_ready", RUNNING),
        ("running", "emptied", "remove_leftovers create start wait_ready", RUNNING),
        ("running", "stopped", "start wait_ready", RUNNING),
        ("running", "died", "start wait_ready", RUNNING),
        ("running", "ready", "", RUNNING),
        ("running", "starting", "wait_ready", RUNNING),
        ("running", "paused", "resume", RUNNING),
        ("running", "stopping", "await_stop start wait_ready", RUNNING),
        ("stopped", "paused", "stop", STOPPED),
        ("stopped", "stopping", "stop", STOPPED),
        ("restarted", "paused", "stop start wait_ready", RUNNING),
        ("restarted", "stopping", "stop start wait_ready", RUNNING),
        ("present", "paused", "", PAUSED),
        ("present", "stopping", "await_stop", STOPPED),
        ("absent", "paused", "delete", "absent"),
        ("absent", "stopping", "delete", "absent"),
        ("stopped", "absent", "create", STOPPED),
        ("stopped", "creating", "remove_leftovers create", STOPPED),
        ("stopped", "emptied", "remove_leftovers create", STOPPED),
        ("stopped", "stopped", "", STOPPED),
        ("stopped", "died", "", STOPPED),
        ("stopped", "ready", "stop", STOPPED),
        ("stopped", "starting", "stop", STOPPED),
        ("restarted", "absent", "create start wait_ready", RUNNING),
        ("restarted", "creating", "remove_leftovers create start wait_ready", RUNNING),
        ("restarted", "emptied", "remove_leftovers create start wait_ready", RUNNING),
        ("restarted", "stopped", "start wait_ready", RUNNING),
        ("restarted", "died", "start wait_ready", RUNNING),
        ("restarted", "ready", "stop start wait_ready", RUNNING),
        ("restarted", "starting", "stop start wait_ready", RUNNING),
        ("present", "absent", "create", STOPPED),
        ("present", "creating", "remove_leftovers create", STOPPED),
        ("present", "emptied", "remove_leftovers create", STOPPED),
        ("present", "stopped", "", STOPPED),
        ("present", "died", "", STOPPED),
        ("present", "ready", "", RUNNING),
        ("present", "starting", "", RUNNING),
        ("absent", "absent", "", "absent"),
        ("absent", "creating", "delete", "absent"),
        ("absent", "emptied", "delete", "absent"),
        ("absent", "stopped", "delete", "absent"),
        ("absent", "died", "delete", "absent"),
        ("absent", "ready", "delete", "absent"),
        ("absent", "starting", "delete", "absent"),
    ]

    def test_the_table_has_all_there_is(self):
        assert {row[:2] for row in self.TABLE} == set(itertools.product(STATES, SITUATIONS))

    @pytest.mark.parametrize(("state", "situation", "steps", "then"), TABLE)
    def test_steps(self, state, situation, steps, then):
        plan = plan_for(situation, state=state)
        assert plan.steps == steps.split()
        assert plan.state == then
        assert plan.changes == (steps not in ("", "wait_ready"))
        assert (plan.after is None) == (state == "absent")
        assert plan.drift == []

    @pytest.mark.parametrize(
        ("state", "steps"),
        [
            ("running", ["repair_networks"]),
            ("present", ["repair_networks"]),
            ("restarted", ["stop", "start", "wait_ready"]),
            ("stopped", ["stop"]),
            ("absent", ["delete"]),
        ],
    )
    def test_a_network_that_does_not_work_is_put_right_for_whoever_stays(self, state, steps):
        plan = plan_for((an_instance(), Observed(RUNNING, severed=True)), state=state)
        assert plan.steps == steps
        assert plan.changes

    @pytest.mark.parametrize(("state", "situation", "steps", "then"), TABLE)
    def test_without_the_image_it_is_fetched_before_anything_is_touched(self, state, situation, steps, then):
        plan = plan_for(situation, state=state, have=None)
        creates = "create" in steps
        assert plan.steps == (["fetch_image"] if creates else []) + steps.split()

    @pytest.mark.parametrize(("state", "situation", "steps", "then"), TABLE)
    def test_without_waiting_only_the_wait_is_left_out(self, state, situation, steps, then):
        plan = plan_for(situation, state=state, wait=False)
        assert plan.steps == [step for step in steps.split() if step != "wait_ready"]
        assert plan.state == then

    @pytest.mark.parametrize(("state", "situation", "steps", "then"), TABLE)
    def test_planning_changes_nothing(self, state, situation, steps, then):
        before = copy.deepcopy(SITUATIONS[situation])
        plan = plan_for(situation, state=state, cpus=8, tags={"a": 1}, allow_restart=True, ports=[parse_port("80")])
        assert SITUATIONS[situation] == before
        assert plan.after is None or plan.after is not SITUATIONS[situation][0]

    @pytest.mark.parametrize(("state", "situation", "steps", "then"), TABLE)
    def test_what_is_then_needs_nothing_more(self, state, situation, steps, then):
        """From where a plan leads to, the same wish has no plan, but for a restart, which is one each time."""
        after = plan_for(situation, state=state).after
        if after is not None:
            after.phase, after.ready = "ready", then in (RUNNING, PAUSED)
        again = plan_for((after, Observed(then) if after else None), state=state)
        assert again.steps == (["stop", "start", "wait_ready"] if state == "restarted" else [])

    @pytest.mark.parametrize("state", STATES)
    def test_who_owns_it_then(self, state):
        for situation in SITUATIONS:
            plan = plan_for(situation, state=state)
            if "stop" in plan.steps and plan.state == STOPPED:
                assert (plan.after.owner, plan.after.ready) == ("", False)
            if plan.steps == []:
                assert plan.after == SITUATIONS[situation][0]


class TestTables:
    ROWS = (*MODEL_STATES, LEFTOVERS, REMOVING, MOVED, RESTARTING, STOPPING)

    def test_every_pair_is_there(self):
        assert set(WAYS) == set(self.ROWS)
        assert all(tuple(row) == WISHES for row in WAYS.values())

    def test_what_is_changed_is_changed_once_and_every_step_is_known(self):
        for way in (*(way for row in WAYS.values() for way in row.values()), *WAYS_DOWN.values()):
            steps = way.split()
            assert steps.count(CHANGES) <= 1
            assert set(steps) - {CHANGES, REFUSED, *PARTS, "await_stop", "stay_stopped"} <= set(Applier.METHODS)

    def test_whatever_stays_up_while_it_is_changed_has_a_way_down(self):
        staying = set()
        for row in ("running", "paused", "suspended", "stopping"):
            for wish, way in WAYS[row].items():
                before = way.split(CHANGES)[0]
                if CHANGES in way and "stop" not in before:
                    staying.add((row, wish))
        assert staying == set(WAYS_DOWN)
        for way in WAYS_DOWN.values():
            assert "stop CHANGES start" in way

    @pytest.mark.parametrize("wish", WISHES)
    def test_what_is_as_it_is_wished_has_no_step(self, wish):
        if wish in WAYS:
            assert WAYS[wish][wish] in ("", CHANGES)


class TestDeleted:
    THERE = (an_instance(owner="", ready=False, deleted="2026-01-02T03:04:05Z"), Observed(DELETED))
    # Somebody has started it at the hypervisor.
    UP = (an_instance(deleted="2026-01-02T03:04:05Z"), Observed(RUNNING))

    @pytest.mark.parametrize(
        ("state", "steps"),
        [
            ("running", "recover start wait_ready"),
            ("restarted", "recover start wait_ready"),
            ("stopped", "recover"),
            ("present", "recover"),
            ("deleted", ""),
            ("absent", "delete"),
        ],
    )
    def test_what_brings_it_back(self, state, steps):
        plan = plan_for(self.THERE, state=state)
        assert plan.steps == steps.split()
        assert state in ("absent", "deleted") or plan.after.deleted == ""

    @pytest.mark.parametrize("situation", ["stopped", "died", "ready", "paused", "stopping"])
    def test_what_is_up_is_stopped_first(self, situation):
        up = situation in ("ready", "paused", "stopping")
        assert plan_for(situation, state="deleted").steps == (["stop"] if up else []) + ["soft_delete"]

    @pytest.mark.parametrize("situation", ["absent", "creating"])
    def test_what_is_not_there_is_not_made_for_it(self, situation):
        assert plan_for(situation, state="deleted").after is None

    def test_one_that_runs_by_other_means_is_not_deleted_any_more(self):
        assert plan_for(self.UP).steps == ["recover"]
        assert plan_for(self.UP, state="stopped").steps == ["recover", "stop"]
        assert plan_for(self.UP, state="deleted").steps == ["stop", "soft_delete"]

    def test_a_purge_leaves_alone_what_another_run_has_recovered(self):
        wish = {"state": "absent", "deleted_before": "2026-01-02T03:04:06Z"}
        assert plan_for(self.THERE, **wish).steps == ["delete"]
        for there in ("ready", "stopped", "absent", (an_instance(deleted="2026-01-02T03:04:06Z"), Observed(DELETED))):
            assert plan_for(there, **wish).steps == []


class TestRemovalCutOff:
    """Data is still there: only who asks for the removal, or for a replacement, has it removed."""

    THERE = (an_instance(phase="removing", owner=""), Observed(REMOVING, reason="its disk is there, /d/disk"))

    @pytest.mark.parametrize("state", ["running", "present", "stopped", "restarted"])
    @pytest.mark.parametrize("recreate", [True, False])
    def test_it_is_refused_with_what_is_there_and_how_to_go_on(self, state, recreate):
        with pytest.raises(InUse) as caught:
            plan_for(self.THERE, state=state, recreate=recreate)
        assert "its removal was begun and did not come to an end; its disk is there, /d/disk" in str(caught.value)
        assert "state: absent" in caught.value.hint and "force: true" in caught.value.hint

    def test_it_is_finished_for_who_asks_for_it(self):
        assert plan_for(self.THERE, state="absent").steps == ["delete"]
        assert plan_for(self.THERE, user="ann", recreate=True).steps == ["delete", "create", "start", "wait_ready"]

    def test_it_is_kept_by_force(self):
        plan = plan_for((an_instance(phase="removing"), Observed(STOPPED)), force=True)
        assert plan.steps == ["keep", "start", "wait_ready"]
        assert plan.after.phase == "ready"
        plan = plan_for((an_instance(phase="removing"), Observed(RUNNING)), state="present", force=True)
        assert plan.steps == ["keep"]


class TestMoved:
    """Somebody has given it another name at the hypervisor: no twin is made, and nothing there is removed."""

    THERE = (an_instance(), Observed(ABSENT, reason="LXD has it as www in the project minicloud"))

    @pytest.mark.parametrize("state", STATES)
    @pytest.mark.parametrize("recreate", [True, False])
    def test_it_is_refused_with_where_it_is(self, state, recreate):
        with pytest.raises(InUse, match="web is not where it was made: LXD has it as www in the project minicloud"):
            plan_for(self.THERE, state=state, recreate=recreate, user="ann")

    def test_it_is_forgotten_by_force(self):
        assert plan_for(self.THERE, state="absent", force=True).steps == ["delete"]
        with pytest.raises(InUse):
            plan_for(self.THERE, force=True)


class TestChangedByOthers:
    """What the task names is put right, and needs no restart for that: it was changed while the instance ran."""

    def test_what_the_task_names(self):
        there = (an_instance(), Observed(RUNNING, differs=("cpus", "memory", "autostart", "tags", "ports")))
        assert plan_for(there).steps == []
        wishes = {"cpus": 2, "memory": 2 * GIB, "autostart": False, "tags": {}, "ports": []}
        steps = ["set_cpus", "set_memory", "set_autostart", "set_tags", "set_ports"]
        assert plan_for(there, **wishes).steps == steps
        assert plan_for(there, state="present", **wishes).steps == steps
        with pytest.raises(RestartRequired):
            plan_for(there, **{**wishes, "cpus": 4})

    def test_interfaces_that_the_task_names(self):
        there = (an_instance(), Observed(RUNNING, differs=("networks",)))
        assert plan_for(there).steps == []
        assert plan_for(there, networks=list(there[0].nics)).steps == ["set_networks"]

    @pytest.mark.parametrize("state", [RUNNING, STOPPED])
    def test_a_disk_that_was_grown_stays_so(self, state):
        there = (an_instance(), Observed(state, drift=("its disk is larger",), disk=20 * GIB))
        assert plan_for(there, state="present", disk=10 * GIB).steps == []
        assert plan_for(there, state="present").steps == []
        # The record stays what was asked for, so that the same task goes on having nothing to do.
        assert plan_for(there, state="present", disk=10 * GIB, tags={"a": 1}).after.disk == 10 * GIB
        for smaller in (9 * GIB, 15 * GIB):
            with pytest.raises(InvalidOption, match=f"from 20 GiB to {smaller // GIB} GiB"):
                plan_for(there, state="present", disk=smaller)
        grown = plan_for(there, state="present", disk=30 * GIB, allow_restart=True)
        assert "grow_disk" in grown.steps and grown.after.disk == 30 * GIB

    def test_a_disk_that_was_made_smaller_is_grown_again(self):
        there = (an_instance(), Observed(STOPPED, drift=("its disk is smaller",), differs=("disk",)))
        assert plan_for(there, state="present", disk=10 * GIB).steps == ["grow_disk"]


class TestCreation:
    def test_nobody_has_an_opinion(self):
        after = plan_for().after
        assert (after.name, after.driver, after.arch, after.instance_type) == ("web", "qemu", "x86_64", "vm")
        assert (after.cpus, after.memory, after.disk) == (1, DEFAULT_MEMORY, DEFAULT_DISK)
        assert (after.user, after.autostart, after.tags, after.ports) == ("ubuntu", False, {}, [])
        assert after.image["name"] == "24.04"
        assert after.image["hash"] == IMAGE.hash

    def test_all_wishes_count(self):
        port = parse_port("8080:80")
        after = plan_for(
            cpus=4, memory=GIB, disk=20 * GIB, arch="aarch64", user="ann", autostart=True, tags={"a": 1}, ports=[port],
            instance_type="vm", origin={"cloud_init": "f"},
        ).after  # fmt: skip
        assert (after.cpus, after.memory, after.disk, after.arch) == (4, GIB, 20 * GIB, "aarch64")
        assert (after.user, after.autostart, after.tags, after.ports) == ("ann", True, {"a": 1}, [port])
        assert after.origin == {"cloud_init": "f"}

    def test_what_only_the_real_run_can_know_is_left_empty(self):
        after = plan_for().after
        assert (after.uuid, after.created, after.ssh_port, after.host_keys) == ("", "", 0, [])
        assert [nic.mac for nic in after.nics] == [""]

    def test_an_image_that_is_not_here_is_known_by_its_name(self):
        assert plan_for(have=None).after.image == {"name": "lts"}
        assert plan_for(have=None).after.user == ""

    def test_the_plan_does_not_hold_the_wish(self):
        wish = Wish("web", tags={"a": 1}, ports=[parse_port("80")], origin={"user": "x"})
        after = make_plan(wish, None, None, IMAGE, Surroundings("x86_64", "qemu")).after
        after.tags["b"] = 2
        after.ports.append(parse_port("81"))
        after.origin["b"] = "y"
        assert (wish.tags, wish.ports, wish.origin) == ({"a": 1}, [parse_port("80")], {"user": "x"})

    @pytest.mark.parametrize(
        ("wished", "own", "size"),
        [
            (None, 3 * GIB, DEFAULT_DISK),
            (None, 8 * GIB, 8 * GIB),
            (3 * GIB, 3 * GIB, 3 * GIB),
            (4 * GIB, 3 * GIB, 4 * GIB),
        ],
    )
    def test_a_disk_is_never_below_the_image(self, wished, own, size):
        assert disk_size(Wish("web", disk=wished), _sized(own)) == size

    def test_a_disk_below_the_image_is_refused_with_both_sizes(self):
        with pytest.raises(InvalidOption) as caught:
            plan_for(disk=2 * GIB)
        assert "2 GiB" in str(caught.value)
        assert "3 GiB" in str(caught.value)
        assert "24.04" in str(caught.value)

    def test_a_disk_for_an_image_that_is_not_here_is_as_wished(self):
        assert disk_size(Wish("web", disk=GIB), None) == GIB


def _sized(size):
    return Image(**{**IMAGE.to_dict(), "virtual_size": size})


class TestRemovedByOtherMeans:
    """The record is there, and at the hypervisor there is nothing left."""

    @pytest.mark.parametrize(
        ("state", "steps"),
        [
            ("running", ["remove_leftovers", "create", "start", "wait_ready"]),
            ("stopped", ["remove_leftovers", "create"]),
            ("absent", ["delete"]),
        ],
    )
    def test_it_is_made_anew_or_forgotten(self, state, steps):
        plan = make_plan(
            Wish("web", state=state), an_instance(), Observed(ABSENT), IMAGE, Surroundings("x86_64", "qemu")
        )
        assert plan.steps == steps
        assert plan.changes


class TestChanges:
    @pytest.mark.parametrize(
        ("wishes", "shown"),
        [
            ({"cpus": 4}, "cpus from 2 to 4"),
            ({"cpus": 1}, "cpus from 2 to 1"),
            ({"memory": GIB}, "memory from 2 GiB to 1 GiB"),
            ({"disk": 20 * GIB}, "disk from 10 GiB to 20 GiB"),
            ({"cpus": 4, "memory": 4 * GIB}, "cpus from 2 to 4, memory from 2 GiB to 4 GiB"),
        ],
    )
    @pytest.mark.parametrize("state", ["running", "present"])
    def test_what_needs_a_restart_is_refused_and_named(self, wishes, shown, state):
        with pytest.raises(RestartRequired) as caught:
            plan_for("ready", state=state, **wishes)
        assert f"web must be stopped to change {shown}" in str(caught.value)
        assert "allow_restart: true" in caught.value.hint

    @pytest.mark.parametrize(
        ("wishes", "step"),
        [({"cpus": 4}, "set_cpus"), ({"memory": GIB}, "set_memory"), ({"disk": 20 * GIB}, "grow_disk")],
    )
    @pytest.mark.parametrize(
        ("state", "before", "allowed", "steps", "then"),
        [
            ("running", "ready", True, "stop STEP start wait_ready", RUNNING),
            ("running", "stopped", False, "STEP start wait_ready", RUNNING),
            ("present", "ready", True, "stop STEP start wait_ready", RUNNING),
            ("present", "stopped", False, "STEP", STOPPED),
            ("stopped", "ready", False, "stop STEP", STOPPED),
            ("stopped", "stopped", False, "STEP", STOPPED),
            ("restarted", "ready", False, "stop STEP start wait_ready", RUNNING),
            ("restarted", "stopped", False, "STEP start wait_ready", RUNNING),
        ],
    )
    def test_cold_changes(self, wishes, step, state, before, allowed, steps, then):
        plan = plan_for(before, state=state, allow_restart=allowed, **wishes)
        assert plan.steps == steps.replace("STEP", step).split()
        assert plan.state == then
        assert plan.changes
        ((option, value),) = wishes.items()
        assert getattr(plan.after, option) == value

    @pytest.mark.parametrize(
        ("situation", "state", "steps", "restarting"),
        [
            ("stopped", "present", "start wait_ready", True),
            ("stopped", "running", "start wait_ready", True),
            ("stopped", "stopped", "stay_stopped", False),
            ("starting", "present", "wait_ready", False),
            ("running", "present", "", False),
            ("running", "stopped", "stop", False),
        ],
    )
    def test_a_restart_that_was_cut_off(self, situation, state, steps, restarting):
        there = {"stopped": stopped, "starting": lambda **changes: running(ready=False, **changes), "running": running}
        plan = plan_for(there[situation](restarting=True), state=state)
        assert plan.steps == steps.split()
        assert plan.after.restarting == restarting

    @pytest.mark.parametrize("state", ["running", "present"])
    @pytest.mark.parametrize(("kind", "live"), [("container", True), ("vm", False)])
    def test_a_running_container_changes_where_its_driver_can(self, monkeypatch, state, kind, live):
        monkeypatch.setitem(ABOUT, "qemu", ABOUT["qemu"]._replace(capabilities={"live_resize": ("container",)}))
        current = an_instance(instance_type=kind)
        wish = Wish("web", state=state, cpus=4, memory=GIB, disk=20 * GIB)
        if live:
            plan = make_plan(wish, current, Observed(RUNNING), None, Surroundings("x86_64", "qemu"))
            assert plan.steps == ["set_cpus", "set_memory", "grow_disk"]
            assert plan.state == RUNNING
            assert (plan.after.cpus, plan.after.owner, plan.after.ready) == (4, "qemu", True)
        else:
            with pytest.raises(RestartRequired):
                make_plan(wish, current, Observed(RUNNING), None, Surroundings("x86_64", "qemu"))

    @pytest.mark.parametrize("allowed", [True, False])
    @pytest.mark.parametrize("state", ["running", "present"])
    def test_without_a_cold_change_nothing_restarts(self, allowed, state):
        same = {"cpus": 2, "memory": 2 * GIB, "disk": 10 * GIB, "tags": {}, "autostart": False, "ports": []}
        assert plan_for("ready", state=state, allow_restart=allowed, **same).steps == []

    @pytest.mark.parametrize("state", [state for state in STATES if state != "absent"])
    @pytest.mark.parametrize("situation", ["ready", "stopped"])
    def test_a_disk_never_shrinks(self, state, situation):
        with pytest.raises(InvalidOption) as caught:
            plan_for(situation, state=state, disk=9 * GIB, allow_restart=True)
        assert "from 10 GiB to 9 GiB" in str(caught.value)
        assert "cut off data" in str(caught.value)

    def test_a_smaller_disk_does_not_keep_from_removing(self):
        assert plan_for("ready", state="absent", disk=GIB).steps == ["delete"]

    @pytest.mark.parametrize("situation", ["ready", "stopped"])
    def test_tags_and_autostart_change_at_any_time(self, situation):
        plan = plan_for(situation, state="present", tags={"role": "web"}, autostart=True)
        assert plan.steps == ["set_autostart", "set_tags"]
        assert (plan.after.tags, plan.after.autostart) == ({"role": "web"}, True)
        assert plan.changes

    def test_empty_tags_are_a_wish_and_none_are_not(self):
        tagged = running(tags={"a": 1})
        assert plan_for(tagged, tags={}).steps == ["set_tags"]
        assert plan_for(tagged, tags={}).after.tags == {}
        assert plan_for(tagged).steps == []

    def test_false_autostart_is_a_wish(self):
        assert plan_for(running(autostart=True), autostart=False).after.autostart is False

    def test_a_change_while_it_is_starting_waits_too(self):
        assert plan_for("starting", tags={"a": 1}).steps == ["set_tags", "wait_ready"]

    def test_what_is_known_is_kept_through_a_change(self):
        before = an_instance(cloud_init={"status": "done"}, host_keys=["k"], origin={"user": "x"})
        after = plan_for((before, Observed(RUNNING)), cpus=4, allow_restart=True).after
        for name in ("uuid", "created", "ssh_port", "booted", "image", "nics", "host_keys", "origin", "cloud_init"):
            assert getattr(after, name) == getattr(before, name)


class TestPorts:
    @pytest.mark.parametrize(
        ("wanted", "actual"),
        [
            ([], []),
            (["80"], ["41000:80"]),
            (["80"], ["80"]),
            (["8080:80"], ["8080:80"]),
            (["80", "443"], ["41001:443", "41000:80"]),
            (["80", "80"], ["41000:80", "41001:80"]),
            (["80", "8080:80"], ["8080:80", "41000:80"]),
            (["8080:80", "80"], ["8080:80", "41000:80"]),
            (["53/udp", "53"], ["41000:53", "41000:53/udp"]),
        ],
    )
    def test_they_are_what_is_wanted(self, wanted, actual):
        actual = list(map(parse_port, actual))
        assert same_ports(list(map(parse_port, wanted)), actual)
        assert plan_for(running(ports=actual), ports=list(map(parse_port, wanted))).steps == []

    @pytest.mark.parametrize(
        ("wanted", "actual", "then"),
        [
            ([], ["8080:80"], []),
            (["80"], [], ["80"]),
            (["8080:80"], [], ["8080:80"]),
            (["8080:80"], ["41000:80"], ["8080:80"]),
            (["80", "443"], ["41000:80"], ["41000:80", "443"]),
            (["443", "80"], ["41000:80"], ["443", "41000:80"]),
            (["80", "80"], ["41000:80"], ["41000:80", "80"]),
            (["80"], ["41000:80", "41001:80"], ["41000:80"]),
            (["80/udp"], ["41000:80"], ["80/udp"]),
            (["0.0.0.0::80"], ["41000:80"], ["0.0.0.0::80"]),
            (["80", "8080:80"], ["8080:80"], ["8080:80", "80"]),
        ],
    )
    def test_they_change_and_keep_what_was_chosen(self, wanted, actual, then):
        wanted, actual, then = (list(map(parse_port, ports)) for ports in (wanted, actual, then))
        assert not same_ports(wanted, actual)
        plan = plan_for(running(ports=actual), ports=wanted)
        assert plan.steps == ["set_ports"]
        assert sorted(plan.after.ports) == sorted(then)

    def test_a_running_instance_needs_no_restart_for_them(self):
        assert plan_for("ready", ports=[parse_port("80")], allow_restart=False).steps == ["set_ports"]

    def test_no_opinion_keeps_them(self):
        plan = plan_for(running(ports=[parse_port("8080:80")]), state="restarted")
        assert plan.after.ports == [parse_port("8080:80")]

    def test_each_chosen_port_is_kept_for_one_only(self):
        chosen = keep_chosen([parse_port("80")] * 3, [parse_port("41000:80"), parse_port("41001:80")])
        assert sorted(chosen) == sorted(map(parse_port, ["80", "41000:80", "41001:80"]))


class TestDrift:
    @pytest.mark.parametrize(
        ("wishes", "text"),
        [
            ({"image": "26.04"}, "image is 24.04, not 26.04"),
            ({"arch": "aarch64"}, "arch is x86_64, not aarch64"),
            ({"user": "ann"}, "user is ubuntu, not ann"),
            ({"instance_type": "container"}, "instance_type is vm, not container"),
            ({"origin": {"cloud_init": "new"}}, "cloud_init differs from what the instance was made with"),
        ],
    )
    @pytest.mark.parametrize("state", ["running", "stopped", "restarted", "present"])
    @pytest.mark.parametrize("situation", ["ready", "starting", "stopped", "died"])
    def test_it_is_told_and_otherwise_ignored(self, wishes, text, state, situation):
        plan = plan_for(situation, state=state, **wishes)
        assert plan.drift == [text]
        without = plan_for(situation, state=state)
        assert (plan.steps, plan.after, plan.state) == (without.steps, without.after, without.state)

    @pytest.mark.parametrize(("state", "steps"), [
        ("running", ["delete", "create", "start", "wait_ready"]),
        ("restarted", ["delete", "create", "start", "wait_ready"]),
        ("stopped", ["delete", "create"]),
    ])  # fmt: skip
    @pytest.mark.parametrize("situation", ["ready", "stopped", "starting", "died"])
    def test_recreate_acts_on_it(self, state, steps, situation):
        plan = plan_for(situation, state=state, user="ann", recreate=True)
        assert plan.steps == steps
        assert plan.drift == []
        assert plan.after.user == "ann"
        assert plan.after.uuid == ""

    def test_recreate_fetches_before_it_deletes(self):
        plan = plan_for("ready", user="ann", recreate=True, have=None)
        assert plan.steps[:3] == ["fetch_image", "delete", "create"]

    def test_recreate_with_an_impossible_disk_is_refused(self):
        with pytest.raises(InvalidOption, match="smaller than the image"):
            plan_for("ready", user="ann", recreate=True, disk=GIB)

    @pytest.mark.parametrize("situation", ["ready", "stopped"])
    def test_recreate_without_drift_changes_nothing(self, situation):
        assert plan_for(situation, state="present", recreate=True, image_checksum="sha256:x").steps == []

    def test_recreate_is_no_way_around_a_restart(self):
        with pytest.raises(RestartRequired):
            plan_for("ready", cpus=4, recreate=True)

    @pytest.mark.parametrize("differs", [{"user": "ann"}, {}])
    def test_recreate_lets_a_disk_be_smaller(self, differs):
        plan = plan_for("ready", recreate=True, disk=4 * GIB, **differs)
        assert plan.steps == ["delete", "create", "start", "wait_ready"]
        assert plan.after.disk == 4 * GIB

    def test_recreate_lets_a_disk_grow_in_place(self):
        assert "delete" not in plan_for("ready", recreate=True, disk=20 * GIB, allow_restart=True).steps

    @pytest.mark.parametrize("wishes", [{"image": "24.04"}, {"user": "ubuntu"}, {"arch": "x86_64"}, {"origin": {}}])
    def test_what_is_the_same_is_no_drift(self, wishes):
        assert plan_for("ready", **wishes).drift == []

    def test_a_user_that_is_not_known_yet_is_another(self):
        assert plan_for(running(user=""), user="ann").drift == ["user is unknown, not ann"]

    def test_another_name_of_the_same_image_is_no_drift(self):
        assert plan_for("ready", image="noble").drift == []
        assert plan_for("ready", image="noble", recreate=True).steps == []

    def test_the_same_origin_is_no_drift_and_no_opinion_is_none(self):
        made = running(origin={"cloud_init": "a", "meta_data": "b"})
        assert plan_for(made, origin={"cloud_init": "a"}).drift == []
        assert plan_for(made, origin={"cloud_init": "b", "meta_data": "c"}).drift == [
            "cloud_init differs from what the instance was made with",
            "meta_data differs from what the instance was made with",
        ]

    def test_drift_and_a_change_go_together(self):
        plan = plan_for("ready", user="ann", tags={"a": 1})
        assert plan.steps == ["set_tags"]
        assert plan.drift == ["user is ubuntu, not ann"]


class TestDiff:
    def test_nothing_there(self):
        assert comparable(None, "whatever") == {"state": "absent"}

    def test_the_same_instance_is_the_same_in_another_case(self):
        assert comparable(an_instance(name="Web"), RUNNING) == comparable(an_instance(), RUNNING)

    @pytest.mark.parametrize(
        "changes",
        [
            {"cpus": 9},
            {"memory": 9},
            {"disk": 9},
            {"autostart": True},
            {"tags": {"a": 1}},
            {"arch": "z"},
            {"instance_type": "container"},
            {"image": {"name": "x"}},
            {"ports": [parse_port("80")]},
        ],
        ids=str,
    )
    def test_what_a_task_can_change_shows(self, changes):
        before, after = comparable(an_instance(), RUNNING), comparable(an_instance(**changes), RUNNING)
        assert [key for key in before if before[key] != after[key]] == list(changes)

    @pytest.mark.parametrize("changes", [{"ready": False}, {"ssh_port": 1}, {"owner": ""}, {"booted": False}], ids=str)
    def test_what_comes_and_goes_does_not(self, changes):
        assert comparable(an_instance(), RUNNING) == comparable(an_instance(**changes), RUNNING)

    def test_the_state_shows(self):
        assert comparable(an_instance(), RUNNING)["state"] == RUNNING


@pytest.mark.parametrize(
    ("steps", "changes"),
    [([], False), (["wait_ready"], False), (["fetch_image"], True), (["set_tags", "wait_ready"], True)],
)
def test_waiting_is_no_change(steps, changes):
    assert Plan(steps).changes is changes
