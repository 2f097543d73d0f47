# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import InUse, InvalidOption, NotFound
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    DELETED,
    RUNNING,
    STOPPED,
    SUSPENDED,
    Instance,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.snapshots import (
    SnapshotWish,
    make_snapshot_plan,
    next_name,
    parse_snapshot_wish,
)
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot

WEB = Instance("web", "u", "qemu", "qemu", "", "x86_64", 1, 1, 1)


def snapshot(name, **values):
    return Snapshot(name, f"uuid of {name}", "qemu", "", **{"phase": "ready", **values})


def steps(snapshots=(), now=STOPPED, /, **wish):
    return make_snapshot_plan(SnapshotWish("web", **wish), WEB, now, snapshots).steps


def test_names_are_never_given_twice():
    assert next_name(WEB, []) == "snapshot1"
    assert next_name(WEB, [snapshot("Snapshot7"), snapshot("other9")]) == "snapshot8"
    used = Instance("web", "u", "qemu", "qemu", "", "x86_64", 1, 1, 1, snapshot_count=12)
    assert next_name(used, [snapshot("snapshot3")]) == "snapshot13"


def test_what_is_there_is_not_taken_again_and_names_have_no_case():
    a = snapshot("A")
    assert steps([a], name="b") == ["take"]
    assert steps([a]) == ["take"]
    assert steps([a], name="a") == []
    assert steps([a], name="a", comment="x") == ["set_comment"]
    assert steps([a], name="a", new_name="c", comment="x") == ["rename", "set_comment"]
    assert steps([a], name="old", new_name="A") == []
    assert steps([a], name="a", state="absent") == ["delete"]
    assert steps([a], name="b", state="absent") == []


def test_what_a_killed_run_has_left_goes():
    assert steps([snapshot("a", phase="creating")], name="a") == ["remove_leftovers", "take"]
    assert steps([snapshot("a", phase="removing")], name="a", state="absent") == ["remove_leftovers"]


def test_the_way_back():
    a, live = snapshot("a"), snapshot("live", state=RUNNING)
    assert steps([a], name="a", state="restored") == ["safeguard", "restore"]
    assert steps([a], RUNNING, name="a", state="restored", safeguard=False) == ["stop", "restore"]
    assert steps([live], RUNNING, name="live", state="restored")[-3:] == ["restore", "start", "wait_ready"]
    begun = Instance("web", "u", "qemu", "qemu", "", "x86_64", 1, 1, 1, restoring=a.uuid)
    plan = make_snapshot_plan(SnapshotWish("web", "a", "restored"), begun, STOPPED, [a])
    assert plan.steps == ["restore"]
    assert steps([a], SUSPENDED, name="a", state="restored") == ["safeguard", "drop_memory", "restore"]
    with pytest.raises(InUse):
        steps([a], DELETED, name="a", state="restored")


def test_one_that_can_be_kept_as_it_runs_is_and_then_need_not_shut_down():
    plan = make_snapshot_plan(SnapshotWish("web", "a", "restored"), WEB, RUNNING, [snapshot("a")], live=True)
    assert plan.steps == ["safeguard", "stop", "restore"]
    assert steps([snapshot("a")], RUNNING, name="a", state="restored") == ["stop", "safeguard", "restore"]


def test_what_cannot_be():
    with pytest.raises(NotFound, match="no snapshot b"):
        steps([snapshot("a")], name="b", state="restored")
    with pytest.raises(NotFound):
        steps([snapshot("a")], name="b", new_name="c")
    with pytest.raises(InUse):
        steps([snapshot("a"), snapshot("b")], name="a", new_name="b")
    for params in ({"state": "absent"}, {"new_name": "b"}, {"name": "../b"}, {"name": "a", "comment": "\0"}):
        with pytest.raises(InvalidOption):
            parse_snapshot_wish({"instance": "web", **params})
