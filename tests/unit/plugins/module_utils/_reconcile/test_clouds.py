# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import threading
import time

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Networks
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    CloudIncomplete,
    HypervisorError,
    ImageError,
    InUse,
    InvalidOption,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import GIB
from ansible_collections.minicloud.local.plugins.module_utils._module import checked_options
from ansible_collections.minicloud.local.plugins.module_utils._reconcile import cloud_listing, clouds, networks
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.cloud_document import parse_cloud
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, write_file
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._reconcile.world import (
    FakeDriver,
    Killed,
    RecordingReporter,
    World,
)

DEFAULTS = {
    "state": "present", "defaults": None, "networks": None, "images": None, "instances": None, "prune": False,
    "parallel": None, "force": False, "timeout": 300.0,
}  # fmt: skip
THREE = {"db": {"memory": "2G"}, "web": {"count": 2, "after": ["db"]}}


class CloudReporter(RecordingReporter):
    """Counts the steps of all parts together, whoever does them."""

    def about(self, subject):
        other = Reporter()
        other.step = self.step
        return other


class FakeNetworks(Networks):
    """Networks that are only records. up -- those that are on the host; known -- the instances that each knows"""

    up: set[str] = set()
    known: dict[str, list[str]] = {}

    def require(self, network):
        pass

    def drift(self, network, members):
        return []

    def problems(self, network):
        return []

    def fill_in(self, network, others):
        network.subnet = network.subnet or "10.99.0.0/24"
        start = network.subnet.rpartition(".")[0]
        network.dhcp_range = network.dhcp_range or f"{start}.64-{start}.254"

    def is_up(self, network):
        return network.name in self.up

    def apply(self, network, members):
        self.up.add(network.name)
        self.known[network.name] = sorted(member.name for member in members)

    def remove(self, network):
        self.up.discard(network.name)

    def leases(self, networks):
        return {}


class CloudWorld(World):
    """A host for clouds, which are called shop unless they say otherwise."""

    def __init__(self, path, monkeypatch, **keywords):
        super().__init__(path, monkeypatch, **keywords)
        for user_of_it in (clouds, networks):
            monkeypatch.setattr(user_of_it, "load", self._load)
        FakeNetworks.up, FakeNetworks.known = set(), {}
        monkeypatch.setattr(FakeDriver, "networks", lambda self: FakeNetworks())

    def cloud(self, check=False, reporter=None, driver=None, **params):
        self.calls.clear()
        wish = parse_cloud({**DEFAULTS, "name": "shop", **params}, checked_options)
        self.reporter = reporter or RecordingReporter()
        return clouds.reconcile_cloud(wish, Runtime(None, self.reporter), self.data, driver, None, check)

    def fails(self, **params):
        with pytest.raises(CloudIncomplete) as caught:
            self.cloud(**params)
        return caught.value

    def there(self):
        return sorted(instance.name for instance in self.instances())


@pytest.fixture
def world(tmp_path, monkeypatch):
    return CloudWorld(tmp_path, monkeypatch)


def parsed(**params):
    return parse_cloud({**DEFAULTS, "name": "shop", **params}, checked_options)


# The document


def test_counted_entries_have_numbers_and_defaults_hold_for_who_has_nothing_else():
    wish = parsed(defaults={"memory": "2G", "cpus": 2}, instances={"db": None, "web": {"count": 2, "cpus": 1}})
    found = [(member.name, member.wish.memory, member.wish.cpus) for member in wish.members]
    assert found == [("db", 2 * GIB, 2), ("web-1", 2 * GIB, 1), ("web-2", 2 * GIB, 1)]
    assert {member.wish.cloud for member in wish.members} == {"shop"}
    assert parsed(instances={"web": {"count": 0}}).members == []


def test_what_is_made_from_another_one_comes_after_that():
    wish = parsed(instances={"copy": {"source": "WEB@one"}, "web": {}, "other": {"source": "elsewhere"}})
    assert [member.after for member in wish.members] == [["web"], [], []]
    with pytest.raises(InvalidOption, match="in a circle: a after b after a"):
        parsed(instances={"a": {"source": "b"}, "b": {"source": "a"}})


def test_after_names_an_entry_or_one_of_its_instances():
    wish = parsed(instances={"db": {"count": 2}, "web": {"after": ["db"]}, "log": {"after": ["DB-2"]}})
    assert [member.after for member in wish.members] == [[], [], ["db-1", "db-2"], ["db-2"]]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"name": "-n"}, "name '-n' is not valid"),
        ({"instances": {"$(id)": {}}}, r"instances: the name '\$\(id\)' is not valid"),
        ({"instances": {"web": "24.04"}}, "instances: web is no mapping"),
        ({"instances": {True: {}}}, "instances has the name True"),
        ({"networks": {"false": None}}, "networks has the name false.*in quotes"),
        ({"instances": {"web": {"memory": True}}}, "instances: web: memory is true, and text is meant"),
        ({"instances": {"web": {"image": 24.1}}}, "instances: web: image is the number 24.1"),
        ({"instances": {"web": {"ports": [1342]}}}, 'instances: web: ports has the number 1342.*"22:22"'),
        ({"instances": {"web": {"networks": [{"mac": 315282242142}]}}}, "instances: web: networks: mac"),
        ({"instances": {"web": {"memmory": "1G"}}}, "instances: web: .*memmory"),
        ({"instances": {"web": {"memory": "lots"}}}, "instances: web: memory 'lots' is not a size"),
        ({"instances": {"web": {"state": "up"}}}, "instances: web: .*state"),
        ({"instances": {"web": {"name": "other"}}}, "instances: web: .*name"),
        ({"instances": {"web": {"count": -1}}}, "instances: web: count -1"),
        ({"instances": {"web": {"count": 10**9}}}, "instances: web: count 1000000000"),
        ({"instances": {"a": {"count": 900}, "b": {"count": 900}}}, "more than 1000 instances"),
        ({"instances": {"x" * 62: {"count": 2}}}, "is not valid"),
        ({"instances": {"web": {"count": 2}, "WEB-1": {}}}, "instances has WEB-1 twice: it comes from web and from"),
        ({"defaults": {"memmory": "1G"}}, "defaults: .*memmory"),
        ({"defaults": {"count": 2}}, "defaults: .*count"),
        ({"networks": {"lab": {"subnet": "here"}}}, "networks: lab"),
        ({"networks": {"lab": {"state": "absent"}}}, "networks: lab: .*state"),
        ({"networks": {"lab": {}, "LAB": {}}}, "networks has LAB twice"),
        ({"images": [{"name": 24.1}]}, "images: name is the number 24.1"),
        ({"parallel": 0}, "parallel 0"),
        ({"timeout": 0}, "timeout 0"),
        ({"instances": {"web": {"after": ["db"]}}}, "after names db, which is no instance of the cloud"),
        ({"instances": {"web": {"after": ["web"]}}}, "in a circle: web after web"),
        (
            {"instances": {"a": {"after": ["c"]}, "b": {"after": ["a"]}, "c": {"after": ["b"]}, "d": {}}},
            "in a circle: a after c after b after a",
        ),
        (
            {"instances": {"db": {"wait": False}, "web": {"after": ["db"]}}},
            "web comes after db, for which nobody waits",
        ),
        ({"instances": {"a": {"ports": ["80:80"]}, "b": {"ports": ["0.0.0.0:80:8080"]}}}, "a and b both have the host"),
        ({"instances": {"web": {"count": 2, "ports": ["8080:80"]}}}, "web-1 and web-2 both have the host port 8080"),
        (
            {"defaults": {"networks": [{"name": "lab", "address": "10.1.2.9"}]}, "instances": {"a": {}, "b": {}}},
            "a and b both have the address 10.1.2.9",
        ),
        (
            {"instances": {n: {"networks": [{"name": n, "mac": "52:54:00:aa:bb:cc"}]} for n in "ab"}},
            "a and b both have the mac",
        ),
        (
            {
                "networks": {"lab": {"subnet": "10.1.2.0/24"}},
                "instances": {"a": {"networks": [{"name": "lab", "address": "10.1.3.9"}]}},
            },
            "instances: a: ",
        ),
        ({"networks": {"a": {"subnet": "10.0.0.0/8"}, "b": {"subnet": "10.1.0.0/16"}}}, "subnets of a and b overlap"),
    ],
    ids=str,
)
def test_documents_that_cannot_be_meant(params, message):
    with pytest.raises(InvalidOption, match=message):
        parsed(**params)


def test_what_only_looks_like_a_collision():
    parsed(
        networks={"a": {"subnet": "10.1.0.0/24"}, "b": {"subnet": "10.2.0.0/24"}},
        instances={
            "x": {"ports": ["80", "127.0.0.1:81:80", "53:53/udp"], "networks": [{"name": "a", "address": "10.1.0.9"}]},
            "y": {"ports": ["80", "127.0.0.2:81:80", "53:53/tcp"], "networks": [{"name": "b", "address": "10.2.0.9"}]},
            "gone": {"state": "absent", "ports": ["53:53/udp"]},
        },
    )


# Runs


def test_a_first_run_makes_all_and_a_second_changes_nothing(world):
    first = world.cloud(instances=THREE)
    world.check_consistent()
    assert first.changed
    assert [each["name"] for each in first.view["instances"]] == ["db", "web-1", "web-2"]
    assert {each["state"] for each in first.view["instances"]} == {"running"}
    assert {tuple(each["actions"]) for each in first.view["instances"]} == {("create", "start", "wait_ready")}
    assert {each["cloud"] for each in first.view["instances"]} == {"shop"}
    assert first.actions[:2] == ["instance db: create", "instance db: start"]
    assert first.before == {"instances": {name: {"state": "absent"} for name in ("db", "web-1", "web-2")}}
    everything = world.everything()
    second = world.cloud(instances=THREE)
    assert (second.changed, second.actions) == (False, [])
    assert second.before == second.after == first.after
    assert world.everything() == everything
    assert world.reporter.steps == []


def test_check_mode_tells_the_same_and_does_nothing(world):
    told = world.cloud(check=True, instances=THREE, networks={"lab": {"subnet": "10.1.2.0/24"}})
    assert world.instances() == []
    assert world.scope.networks.names() == []
    done = world.cloud(instances=THREE, networks={"lab": {"subnet": "10.1.2.0/24"}})
    assert (told.changed, told.actions) == (done.changed, done.actions)
    assert told.before == done.before
    assert told.after["instances"] == done.after["instances"]
    more = {**THREE, "web": {"count": 1, "after": ["db"]}}
    told = world.cloud(check=True, instances=more, prune=True)
    assert [each["name"] for each in told.view["removed"]] == ["web-2", "lab"]
    assert (world.there(), world.scope.networks.names()) == (["db", "web-1", "web-2"], ["lab"])
    done = world.cloud(instances=more, prune=True)
    assert told.actions == done.actions == ["network lab: remove", "instance web-2: delete"]
    assert (world.there(), world.scope.networks.names()) == (["db", "web-1"], [])


def test_networks_come_before_the_instances_on_them_and_go_after_them(world):
    document = {
        "networks": {"lab": {"subnet": "10.1.2.0/24"}},
        "instances": {"web": {"networks": [{"name": "lab", "address": "10.1.2.9"}]}},
    }
    assert world.cloud(check=True, **document).changed
    done = world.cloud(**document)
    assert done.actions[:2] == ["network lab: create", "instance web: create"]
    assert done.view["networks"][0]["cloud"] == "shop"
    assert done.view["instances"][0]["networks"][0]["address"] == "10.1.2.9"
    assert not world.cloud(**document).changed
    foretold = world.cloud(check=True, state="absent")
    gone = world.cloud(state="absent")
    assert (foretold.actions, foretold.before, foretold.after) == (gone.actions, gone.before, gone.after)
    assert gone.before["networks"]["lab"]["subnet"] == "10.1.2.0/24"
    assert [(each["kind"], each["name"]) for each in gone.view["removed"]] == [("instance", "web"), ("network", "lab")]
    assert (world.there(), world.scope.networks.names()) == ([], [])
    assert not world.cloud(state="absent", **document).changed


def test_a_network_that_is_not_there_or_has_no_subnet_yet_is_refused_before_anything_changes(world):
    with pytest.raises(InvalidOption, match="no network 'nowhere'"):
        world.cloud(instances={"db": {}, "web": {"networks": [{"name": "nowhere"}]}})
    with pytest.raises(InvalidOption, match=r"web: address 10.1.2.9 cannot be given on the network lab"):
        world.cloud(
            networks={"lab": {}}, instances={"db": {}, "web": {"networks": [{"name": "lab", "address": "10.1.2.9"}]}}
        )
    assert (world.there(), world.scope.networks.names()) == ([], [])


def test_networks_that_are_there_know_the_instances_that_do_not_run(world):
    lab = [{"name": "lab"}]
    world.cloud(networks={"lab": {}})
    world.run(name="db", state="stopped", networks=lab)
    assert FakeNetworks.known == {"lab": ["db"]}
    world.run(name="db", new_name="store", state="stopped")
    assert FakeNetworks.known == {"lab": ["store"]}
    world.run(name="web", state="stopped")
    assert world.run(name="web", state="stopped", networks=lab).actions == ["set_networks"]
    assert FakeNetworks.known == {"lab": ["store", "web"]}
    FakeNetworks.up.clear()
    world.run(name="far", state="stopped", networks=lab)
    assert FakeNetworks.known == {"lab": ["store", "web"]}  # the first start brings the network, and tells it


def test_what_another_made_is_refused_before_anything_changes(world):
    world.cloud(name="other", instances={"web-2": {}})
    with pytest.raises(InUse, match="web-2 cannot be part of the cloud shop: it is part of the cloud other"):
        world.cloud(instances=THREE)
    world.run(name="db")
    with pytest.raises(InUse, match="db cannot be part of the cloud shop: it is there already"):
        world.cloud(instances={"db": {}, "a": {}})
    assert world.there() == ["db", "web-2"]
    # Nor is it removed, whatever the document says.
    assert not world.cloud(state="absent", instances={"db": {}, "web-2": {}}).changed
    assert not world.cloud(instances={}, prune=True).changed
    assert world.there() == ["db", "web-2"]


def test_more_memory_than_there_is_together_is_refused(world):
    with pytest.raises(InvalidOption, match=r"need more memory than this host has.*66 GiB together.*64 GiB"):
        world.cloud(instances={"web": {"count": 3, "memory": "22G"}})
    assert world.there() == []
    world.cloud(instances={"web": {"count": 2, "memory": "20G"}})
    assert any("may use 40 GiB" in text for text in world.reporter.warnings)
    # What does not run needs none.
    world.cloud(instances={"web": {"count": 2, "memory": "20G"}, "cold": {"state": "stopped", "memory": "60G"}})


def test_prune_removes_what_the_cloud_once_made_and_nothing_else(world):
    world.run(name="mine")
    world.cloud(name="other", instances={"theirs": {}})
    world.cloud(instances=THREE)
    assert not world.cloud(instances={"db": THREE["db"]}).changed
    pruned = world.cloud(instances={"db": THREE["db"]}, prune=True)
    assert sorted(each["name"] for each in pruned.view["removed"]) == ["web-1", "web-2"]
    assert {(each["kind"], each["state"]) for each in pruned.view["removed"]} == {("instance", "absent")}
    assert world.there() == ["db", "mine", "theirs"]


def test_prune_leaves_an_instance_with_snapshots_unless_forced(world):
    world.cloud(instances=THREE)
    for name in ("0a.json", "layers.json"):
        directory = make_dir(os.path.join(world.scope.directory("web-2"), "snapshots"))
        write_file(os.path.join(directory, name), b"{}")
    fewer = {**THREE, "web": {"count": 1}}
    with pytest.raises(InUse, match=r"web-2 is no longer named by the cloud shop, and has snapshots: 1 of them"):
        world.cloud(instances=fewer, prune=True)
    assert world.there() == ["db", "web-1", "web-2"]
    world.cloud(instances=fewer, prune=True, force=True)
    assert world.there() == ["db", "web-1"]


def test_one_that_is_renamed_and_keeps_its_port_and_addresses_comes_after_the_other_has_gone(world):
    nic = {"name": "lab", "address": "10.1.2.9", "mac": "52:54:00:aa:bb:cc"}
    document = {"networks": {"lab": {"subnet": "10.1.2.0/24"}}}
    entry = {"ports": ["8080:80"], "networks": [nic]}
    world.cloud(instances={"old": entry}, **document)
    with pytest.raises(InUse, match="old"):
        world.cloud(instances={"new": entry}, **document)
    done = world.cloud(instances={"new": entry}, prune=True, **document)
    assert done.view["removed"][0]["name"] == "old"
    assert world.there() == ["new"]


def test_one_that_fails_does_not_stop_the_others_and_the_next_run_goes_on(world):
    world.fail_before["start", "web-1"] = HypervisorError("no", "the disk is on fire")
    failure = world.fails(instances={"web": {"count": 3}})
    assert "the instance web-1 failed" in str(failure)
    assert "the disk is on fire" in str(failure)
    assert (failure.kind, failure.facts["failed_parts"], failure.facts["changed"]) == (
        "CloudIncomplete",
        ["web-1"],
        True,
    )
    one, two, three = failure.facts["cloud"]["instances"]
    assert (one["name"], one["error"], one["stage"]) == ("web-1", "HypervisorError", "boot")
    assert "on fire" in one["msg"]
    assert two["actions"] == three["actions"] == ["create", "start", "wait_ready"]
    assert world.running() == ["qemu/web-2", "qemu/web-3"]
    world.fail_before.clear()
    done = world.cloud(instances={"web": {"count": 3}})
    assert done.actions == ["instance web-1: start", "instance web-1: wait_ready"]
    world.check_consistent()


def test_who_comes_after_one_that_fails_is_not_begun(world):
    world.fail_before["start", "db"] = HypervisorError("no")
    failure = world.fails(instances={**THREE, "log": {"after": ["web"]}, "alone": {}})
    assert failure.facts["failed_parts"] == ["db", "web-1", "web-2", "log"]
    found = {each["name"]: each for each in failure.facts["cloud"]["instances"]}
    assert found["web-1"]["msg"] == "web-1 was not begun: db, which it comes after, failed."
    assert world.there() == ["alone", "db"]


def test_an_image_is_fetched_once_and_so_it_is_foretold(tmp_path, monkeypatch):
    world = CloudWorld(tmp_path, monkeypatch, image_is_here=False)
    told = world.cloud(check=True, instances=THREE)
    done = world.cloud(instances=THREE)
    assert told.actions == done.actions
    assert [action for action in done.actions if "fetch" in action] == ["instance db: fetch_image"]


def test_an_image_that_cannot_be_fetched_fails_who_is_made_from_it(tmp_path, monkeypatch):
    world = CloudWorld(tmp_path, monkeypatch, image_is_here=False)
    world.fail_fetch = ImageError("no image host answers")
    failure = world.fails(instances={"web": {"count": 2}})
    assert [each["stage"] for each in failure.facts["cloud"]["instances"]] == ["image", "image"]
    assert world.there() == []


def test_states_of_all_and_their_order(world):
    world.cloud(instances=THREE)
    order = []
    stop = FakeDriver.stop

    def noted(self, instance, deadline, force):
        order.append(instance.name)
        stop(self, instance, deadline, force)

    FakeDriver.stop, kept = noted, stop
    try:
        stopped = world.cloud(state="stopped", instances=THREE)
    finally:
        FakeDriver.stop = kept
    assert order[-1] == "db"
    assert {each["state"] for each in stopped.view["instances"]} == {"stopped"}
    assert not world.cloud(state="stopped", instances=THREE).changed
    assert world.cloud(instances=THREE).changed
    world.can_suspend = True
    suspended = world.cloud(state="suspended", instances=THREE)
    assert {each["state"] for each in suspended.view["instances"]} == {"suspended"}
    assert not world.cloud(state="suspended", instances=THREE).changed


def test_without_instances_the_state_is_that_of_all_that_the_cloud_made(world):
    world.run(name="alone")
    world.cloud(instances=THREE)
    world.run(name="web-1", state="deleted")
    told = world.cloud(check=True, state="stopped")
    done = world.cloud(state="stopped")
    assert told.actions == done.actions == ["instance db: stop", "instance web-2: stop"]
    assert world.running() == ["qemu/alone"]
    assert world.scope.read("web-1").deleted
    assert not world.cloud(state="stopped").changed
    assert not world.cloud(state="stopped", instances={}).changed
    with pytest.raises(InvalidOption, match="prune cannot go with state: stopped"):
        world.cloud(state="stopped", prune=True)
    world.can_suspend = True
    assert {each["state"] for each in world.cloud(state="suspended").view["instances"]} == {"suspended"}
    assert not world.cloud(name="other", state="stopped").changed
    assert world.running() == ["qemu/alone"]


def test_by_its_name_alone_a_cloud_is_brought_up_again(world):
    world.run(name="alone", state="stopped")
    world.cloud(instances=THREE)
    world.run(name="web-1", state="deleted")
    world.cloud(state="stopped")
    for document in ({"networks": {}}, {"images": []}, {"instances": {}}):
        assert not world.cloud(**document).changed
    told = world.cloud(check=True)
    done = world.cloud()
    assert told.actions == done.actions
    assert {each.partition(":")[0] for each in done.actions} == {"instance db", "instance web-2"}
    assert world.running() == ["qemu/db", "qemu/web-2"]
    assert world.scope.read("web-1").deleted
    assert not world.cloud().changed
    assert world.cloud(prune=True).changed
    assert world.there() == ["alone"]


def test_one_that_does_not_stop_does_not_keep_the_others_running(world):
    world.cloud(instances=THREE)
    world.deaf.add("web-1")
    assert world.fails(state="stopped", instances=THREE).facts["failed_parts"] == ["web-1"]
    assert world.running() == ["qemu/web-1"]


def test_several_at_once_but_no_more_than_is_said(world):
    lock, now, most = threading.Lock(), [0], [0]
    together = threading.Barrier(3, timeout=60)

    def boots():
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        together.wait()
        with lock:
            now[0] -= 1

    world.in_guest = boots
    world.cloud(instances={"web": {"count": 6, "memory": "64M"}}, parallel=3)
    assert most[0] == 3
    most[0], together = 0, threading.Barrier(1)
    world.cloud(name="b", instances={"one": {"count": 4, "memory": "64M"}}, parallel=1)
    assert most[0] == 1
    world.check_consistent()


def test_by_default_no_more_at_once_than_the_memory_that_is_left_carries(world):
    task = clouds._CloudTask(parsed(), Runtime(None), world.data, None, None)
    parts = [None] * 40
    for largest, width in ((1 * GIB, 16), (10 * GIB, 3), (60 * GIB, 1), (0, 16)):
        task.largest = largest
        assert task._width(parts) == width


def test_a_second_run_of_the_cloud_waits_and_one_of_another_does_not(world):
    with world.data.lock("qemu-cloud-shop"):
        world.cloud(name="other", instances={"theirs": {}})
        second = threading.Thread(target=lambda: world.cloud(instances={"web": {}}))
        second.start()
        time.sleep(0.1)
        assert world.there() == ["theirs"]
    second.join(timeout=20)
    assert world.there() == ["theirs", "web"]


def test_killed_at_any_step_the_next_run_converges(tmp_path, monkeypatch):
    document = {"networks": {"lab": {"subnet": "10.1.2.0/24"}}, "parallel": 1, "defaults": {"networks": ["lab"]}}
    document["instances"] = {"db": {}, "web": {"after": ["db"]}}
    whole = CloudWorld(make_dir(str(tmp_path / "whole")) and tmp_path / "whole", monkeypatch)
    whole.cloud(reporter=CloudReporter(), **document)
    steps, wanted = whole.reporter.steps, whole.everything()
    assert len(steps) > 20
    for fatal in range(len(steps)):
        world = CloudWorld(make_dir(str(tmp_path / str(fatal))) and tmp_path / str(fatal), monkeypatch)
        with pytest.raises(Killed):
            world.cloud(reporter=CloudReporter(fatal), **document)
        world.cloud(**document)
        world.check_consistent()
        assert world.everything() == wanted, steps[fatal]
        assert not world.cloud(**document).changed
        with pytest.raises(Killed):
            world.cloud(reporter=CloudReporter(fatal % 4), state="absent")
        world.cloud(state="absent")
        assert (world.there(), world.scope.networks.names()) == ([], [])


def test_membership_stays_whoever_changes_or_replaces_the_instance(world):
    world.cloud(instances={"web": {}})
    world.run(cpus=2, allow_restart=True)
    assert world.scope.read("web").cloud == "shop"
    world.run(image="26.04", recreate=True)
    assert world.scope.read("web").cloud == "shop"
    assert world.run().view["cloud"] == "shop"


def test_clouds_are_listed_with_what_is_part_of_them(world, monkeypatch):
    monkeypatch.setattr(
        cloud_listing, "list_networks", lambda *args: [{"name": "lab", "cloud": "shop", "scope": "qemu"}]
    )
    world.run(name="alone")
    world.cloud(instances=THREE)
    world.cloud(name="b", instances={"x": {}})
    found = cloud_listing.list_clouds(Runtime(None), world.data, [None])
    told = [(each["name"], [i["name"] for i in each["instances"]], len(each["networks"])) for each in found]
    assert told == [("b", ["x"], 0), ("shop", ["db", "web-1", "web-2"], 1)]
    assert [each["name"] for each in cloud_listing.list_clouds(Runtime(None), world.data, [None], None, ["SHOP"])] == [
        "shop"
    ]
    assert Deadline(0).expired()
