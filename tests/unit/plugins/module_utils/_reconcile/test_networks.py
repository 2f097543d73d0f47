# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.members import members_of
from ansible_collections.minicloud.local.plugins.module_utils._drivers.reach import reached_at
from ansible_collections.minicloud.local.plugins.module_utils._errors import InUse, InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Nic, parse_port
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.networks import (
    NetworkWish,
    comparable,
    parse_network,
    plan_network,
)


def a_network(**changes):
    values = {
        "name": "lab",
        "subnet": "10.1.2.0/24",
        "dhcp_range": "10.1.2.64-10.1.2.254",
        "phase": "ready",
        "interface": "mcb01234567",
    }
    return Network(scope="qemu", driver="qemu", created="", **{**values, **changes})


def plan(current, drift=(), users=(), **wish):
    return plan_network(NetworkWish("lab", **wish), current, drift, users)


def test_options_are_brought_into_their_usual_form():
    wish = parse_network(
        {"name": "Lab", "state": "present", "domain": "Lab.Internal.", "dhcp_range": "10.1.2.5 - 10.1.2.9",
         "subnet6": "fd12:0::/64", "mode": None}
    )  # fmt: skip
    assert (wish.domain, wish.dhcp_range, wish.subnet6, wish.mode) == (
        "lab.internal", "10.1.2.5-10.1.2.9", "fd12::/64", None,
    )  # fmt: skip


@pytest.mark.parametrize("params", [{"name": "user"}, {"name": "-x"}, {"name": "a", "subnet": "10.0.0.1"}])
def test_options_that_cannot_be_meant(params):
    with pytest.raises(InvalidOption):
        parse_network(params)


def test_nothing_is_no_opinion():
    empty = {"subnet": "", "dhcp_range": "", "domain": "", "parent": ""}
    assert parse_network({"name": "lab", **empty}) == parse_network({"name": "lab"})
    # Without IPv6 there is something to take away.
    assert parse_network({"name": "lab", "subnet6": ""}).subnet6 == ""


def test_it_is_made_as_wished():
    made = plan(None, mode="isolated", subnet="10.9.0.0/24")
    assert made.steps == ["create"]
    assert (made.after.mode, made.after.subnet, made.after.domain) == ("isolated", "10.9.0.0/24", "minicloud")
    assert plan(a_network(phase="creating"), mtu=1400).steps == ["create"]
    assert plan(a_network(phase="removing")).steps == ["remove_leftovers", "create"]


def test_nothing_is_done_where_it_is_as_wished():
    assert plan(a_network()).steps == []
    assert plan(a_network(), subnet="10.1.2.0/24", mode="nat", domain="minicloud", mtu=0).steps == []


def test_only_what_differs_is_changed_and_the_range_follows_the_subnet():
    changed = plan(a_network(), subnet="10.9.0.0/24", mode="isolated")
    assert changed.steps == ["set_mode", "set_subnet"]
    assert (changed.after.subnet, changed.after.dhcp_range) == ("10.9.0.0/24", "")
    kept = plan(a_network(), subnet="10.9.0.0/24", dhcp_range="10.9.0.5-10.9.0.9")
    assert kept.after.dhcp_range == "10.9.0.5-10.9.0.9"


def test_the_host_is_open_as_is_usual_for_the_mode_unless_somebody_says_otherwise():
    nat, isolated = a_network(), a_network(mode="isolated")
    assert (nat.reaches_host, isolated.reaches_host) == (True, False)
    for current, usual in ((nat, True), (isolated, False)):
        assert plan(current, host_access=usual).steps == []
        changed = plan(current, host_access=not usual)
        assert changed.steps == ["set_host_access"]
        assert changed.after.reaches_host is not usual
        assert plan(changed.after).steps == plan(changed.after, host_access=not usual).steps == []
        assert comparable(current)["host_access"] is usual
    assert not plan(nat, mode="isolated").after.reaches_host
    kept = plan(nat, mode="isolated", host_access=True)
    assert kept.steps == ["set_mode"]
    assert kept.after.reaches_host
    assert not plan(None, host_access=False).after.reaches_host


def test_drift_is_repaired():
    assert plan(a_network(), drift=["The rules are missing."]).steps == ["repair"]
    assert plan(a_network(), drift=["The rules are missing."], mtu=1400).steps == ["set_mtu"]


def test_one_that_was_made_on_demand_is_kept_once_somebody_asks_for_it():
    kept = plan(a_network(on_demand=True))
    assert kept.steps == ["keep"]
    assert not kept.after.on_demand


def test_it_is_removed_unless_somebody_is_on_it():
    assert plan(a_network(), state="absent").steps == ["remove"]
    assert plan(None, state="absent").steps == []
    with pytest.raises(InUse, match="instances are on it: Db, web") as caught:
        plan(a_network(), users=["web", "Db"], state="absent")
    assert caught.value.facts["users"] == ["Db", "web"]


@pytest.mark.parametrize(
    ("current", "wish", "why"),
    [
        (None, {"mode": "bridged"}, "bridged to nothing"),
        (None, {"parent": "eth0"}, "parent is given"),
        (None, {"bridge_type": "macvtap"}, "bridge_type is given"),
        (None, {"mode": "bridged", "parent": "eth0", "subnet": "10.1.2.0/24"}, "subnet is given"),
        (None, {"mode": "bridged", "parent": "eth0", "host_access": True}, "host_access is given"),
        (a_network(), {"mode": "bridged", "parent": "eth0"}, "cannot become another"),
        (a_network(mode="bridged", parent="eth0"), {"parent": "eth1"}, "cannot become another"),
        (a_network(mode="bridged", parent="eth0"), {"bridge_type": "macvtap"}, "cannot become another"),
    ],
)
def test_what_contradicts_itself_is_refused(current, wish, why):
    with pytest.raises(InvalidOption, match=why):
        plan(current, **wish)


def test_a_diff_has_what_a_task_can_ask_for():
    assert comparable(None) == {"state": "absent"}
    assert comparable(a_network(phase="removing")) == {"state": "absent"}
    assert comparable(a_network())["subnet"] == "10.1.2.0/24"


def an_instance(name, *nics, **changes):
    values = {"cpus": 1, "memory": 1, "disk": 1, "phase": "ready", "nics": list(nics)}
    return Instance(name, name, "qemu", "qemu", "", "x86_64", **{**values, **changes})


def test_a_network_knows_the_interfaces_on_it():
    first = Nic("Lab", "52:54:00:00:00:01", lease="10.1.2.64")
    second = Nic("lab", "52:54:00:00:00:02", "manual")
    elsewhere = Nic("other", "52:54:00:00:00:03", address="10.9.9.9")
    ports = [parse_port("8080:80")]
    found = members_of(
        a_network(),
        [
            an_instance("web", first, second, owner="qemu", ports=ports),
            an_instance("off", first, ports=ports),
            an_instance("far", elsewhere, first, owner="qemu", ports=ports),
            an_instance("gone", first, phase="removing"),
        ],
    )
    assert [(host.name, host.addresses, len(host.forwards)) for host in found] == [
        ("web", ("10.1.2.64",), 1),
        ("web", (), 0),
        # Who does not run has no ports, and they lead to the first interface only.
        ("off", ("10.1.2.64",), 0),
        ("far", ("10.1.2.64",), 0),
    ]


def test_ports_lead_to_the_first_interface_on_a_network_of_others_where_no_address_is_kept():
    lan, user = Nic("lan", "52:54:00:00:00:01"), Nic("user", "52:54:00:00:00:02")
    left_alone = Nic("lan", "52:54:00:00:00:03", "manual")
    kept = Nic("lab", "52:54:00:00:00:04", lease="10.1.2.64")
    bridged = a_network(name="lan", mode="bridged", subnet="", dhcp_range="", parent="br0")
    ports = [parse_port("8080:80")]

    def forwarded(*nics):
        found = members_of(bridged, [an_instance("web", *nics, owner="qemu", ports=ports)])
        return [host.mac[-1] for host in found if host.forwards]

    assert forwarded(lan) == ["1"]
    assert forwarded(user, lan) == ["1"]
    assert forwarded(left_alone, lan) == ["1"]
    assert forwarded(left_alone) == ["3"]
    assert forwarded(lan, kept) == []


def test_ssh_leads_to_the_address_that_is_kept_whatever_else_the_guest_has_chosen():
    kept = an_instance("web", Nic("lab", "52:54:00:00:00:01", lease="10.1.2.64"), ready=True)
    own = "fd12::1"
    for now, reached in (
        ((), "10.1.2.64"),
        ((own,), "10.1.2.64"),
        (("10.1.2.64", own), "10.1.2.64"),
        # The address was changed, and the guest does not know yet.
        ((own, "10.1.2.7"), "10.1.2.7"),
    ):
        assert reached_at(kept, {"52:54:00:00:00:01": now}) == reached
    others = an_instance("web", Nic("lan", "52:54:00:00:00:01"), ready=True)
    assert reached_at(others, {"52:54:00:00:00:01": (own, "192.0.2.7")}) == "192.0.2.7"
    assert reached_at(others, {"52:54:00:00:00:01": (own,)}) == own
    assert reached_at(others, {}) == ""
