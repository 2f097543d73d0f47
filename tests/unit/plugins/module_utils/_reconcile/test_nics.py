# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import types

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._model import Nic
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.nics import find_bridged, parse_nics
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.plan import (
    Surroundings,
    keep_nics,
    with_bridged,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import Wish

MAC, OTHER_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02"


def test_interfaces_in_their_usual_form():
    entries = [
        {},
        {"name": "lab", "address": "10.20.30.40", "mac": "52-54-00-AA-BB-CC", "mode": "auto"},
        {"name": "lab", "mode": "manual", "address": None, "mac": ""},
    ]
    assert parse_nics(entries) == [
        Nic("default", ""),
        Nic("lab", "52:54:00:aa:bb:cc", "auto", "10.20.30.40"),
        Nic("lab", "", "manual"),
    ]


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([{"name": "../x"}], "name"),
        ([{"mac": "52:54:00"}], "mac"),
        ([{"mac": "53:54:00:00:00:01"}], "not the address of one interface"),
        ([{"mac": "00:00:00:00:00:00"}], "not the address of one interface"),
        ([{"address": "10.20.30"}], "not an IPv4 address"),
        ([{"address": "224.0.0.1"}], "not an IPv4 address"),
        ([{"address": "::1"}], "not an IPv4 address"),
        ([{"address": "10.20.30.40/24"}], "without a prefix"),
        ([{"address": "10.20.30.40", "mode": "manual"}], "its mode is manual"),
        ([{"address": "10.0.2.15", "name": "user"}], "every guest has the same"),
        ([{"mac": MAC}, {"mac": MAC}], "mac .* twice"),
        ([{"address": "10.1.1.5"}, {"address": "10.1.1.5"}], "address .* twice"),
        ([{"name": "user"}, {"name": "user"}], "user twice"),
        ([{"name": "lan", "bridged": "br0"}], "both name lan and bridged br0"),
        ([{"bridged": "eth0.7"}], "minicloud.local.network"),
        ([{"bridged": "../x"}], "minicloud.local.network"),
    ],
)
def test_interfaces_that_cannot_be_meant(entries, why):
    with pytest.raises(InvalidOption, match=why):
        parse_nics(entries)


def a_network(name, **changes):
    return Network(name, "qemu", "qemu", "", **changes)


def test_one_that_is_bridged_is_on_the_network_of_that_bridge():
    nics = parse_nics([{"bridged": "br0", "mac": MAC}, {}])
    assert nics == [Nic("bridged-br0", MAC), Nic("default", "")]
    others = [a_network("default"), a_network("lan", mode="bridged", parent="br1")]
    assert find_bridged(nics, others) == nics
    there = [a_network(name, mode="bridged", parent="br0") for name in ("office", "lab")]
    assert find_bridged(nics, [*others, *there]) == [Nic("lab", MAC), Nic("default", "")]
    # The one of that name is the first choice.
    assert find_bridged(nics, [*there, a_network("bridged-br0", mode="bridged", parent="br0")]) == nics


@pytest.mark.parametrize("other", [{"mode": "nat"}, {"mode": "bridged", "parent": "br1"}])
def test_a_network_of_that_name_that_is_not_bridged_there_is_an_error(other):
    with pytest.raises(InvalidOption, match="there is a network Bridged-br0 already"):
        find_bridged([Nic("bridged-br0", "")], [a_network("Bridged-br0", **other)])


@pytest.mark.parametrize(
    ("asked", "has", "then"),
    [
        (None, None, "default lan"),
        (None, "lab", "lab lan"),
        (None, "lab Lan", "lab Lan"),
        ("user", "lab", "user lan"),
        ("lan user", None, "lan user"),
    ],
)
def test_one_more_that_is_bridged(asked, has, then):
    nics, there = (names and [Nic(name, "") for name in names.split()] for names in (asked, has))
    current = there and types.SimpleNamespace(nics=there)
    around = Surroundings("x86_64", "qemu", "default")
    found = with_bridged(Wish("web", networks=nics), Nic("lan", ""), current, around)
    assert " ".join(nic.network for nic in found) == then


def test_what_is_there_keeps_its_mac_and_address():
    actual = [Nic("Lab", MAC, lease="10.1.1.64"), Nic("default", OTHER_MAC, lease="10.2.2.64")]
    assert keep_nics([Nic("lab", ""), Nic("default", "")], actual) == actual
    assert keep_nics([Nic("default", "")], actual) == actual[1:]


def test_a_static_address_takes_the_place_of_the_chosen_one_and_stays_when_it_is_not_asked_for_any_more():
    actual = [Nic("lab", MAC, lease="10.1.1.64")]
    static = keep_nics([Nic("lab", "", address="10.1.1.5")], actual)
    assert static == [Nic("lab", MAC, address="10.1.1.5")]
    assert keep_nics([Nic("lab", "")], static) == [Nic("lab", MAC, lease="10.1.1.5")]


def test_another_mac_is_another_interface():
    assert keep_nics([Nic("lab", OTHER_MAC)], [Nic("lab", MAC, lease="10.1.1.64")]) == [Nic("lab", OTHER_MAC)]


def test_two_on_one_network_are_two():
    actual = [Nic("lab", MAC, lease="10.1.1.64")]
    assert keep_nics([Nic("lab", ""), Nic("lab", "")], actual) == [actual[0], Nic("lab", "")]
