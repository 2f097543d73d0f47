# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import typing as t

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._hostnet.interfaces import parse_interfaces


def link(name: str, kind: str = "", **values: t.Any) -> dict[str, t.Any]:
    """An entry as `ip -j -d address` has it."""
    entry: dict[str, t.Any] = {"ifname": name, "link_type": "ether", "address": "52:54:00:00:00:01", "mtu": 1500}
    entry["flags"] = ["UP"]
    entry["linkinfo"] = {"info_kind": kind} if kind else {}
    return {**entry, **values}


def parse(*entries: dict[str, t.Any], wifi: str = "", ways: t.Container[str] = (), own: t.Any = None) -> t.Any:
    return parse_interfaces(entries, ways, own or {}, lambda name: name == wifi)


def test_what_an_ordinary_card_is_told_as() -> None:
    info = [{"local": "192.0.2.7", "prefixlen": 24}, {"family": "inet6"}]
    found = parse(link("eth0", addr_info=info), ways={"eth0"})["eth0"]
    assert found.view() == {
        "name": "eth0",
        "kind": "ethernet",
        "mac": "52:54:00:00:00:01",
        "mtu": 1500,
        "up": True,
        "bridge": "",
        "addresses": ["192.0.2.7/24"],
        "default_route": True,
        "bridge_types": ["bridge", "macvtap"],
        "reason": "",
    }


@pytest.mark.parametrize(
    ("entry", "types", "reason"),
    [
        (link("lo", link_type="loopback"), (), "loopback"),
        (link("wg0", "wireguard", link_type="none"), (), "no Ethernet frames"),
        (link("ib0", link_type="infiniband"), (), "of the type infiniband"),
        (link("br0", "bridge"), ("bridge",), "it is a bridge"),
        (link("mcb1", "bridge"), (), "the bridge of the network lan"),
        (link("bond0", "bond"), ("bridge", "macvtap"), ""),
        (link("eth0.7", "vlan", link="eth0"), ("bridge", "macvtap"), ""),
        (link("ipvl0", "ipvlan", link="eth9"), (), "shares the address"),
        (link("vnet3", "tun"), (), "a tap of another program"),
        (link("eth1", master="br0"), (), "in the bridge br0: use that"),
        (link("eth2", master="bond0"), (), "a part of bond0: use that"),
    ],
    ids=["loopback", "wireguard", "infiniband", "bridge", "ours", "bond", "vlan", "ipvlan", "tap", "port", "slave"],
)
def test_what_can_be_bridged(entry: dict[str, t.Any], types: tuple[str, ...], reason: str) -> None:
    others = [each for each in (link("br0", "bridge"), link("bond0", "bond")) if each["ifname"] != entry["ifname"]]
    found = parse(entry, *others, own={"mcb1": "lan"})[entry["ifname"]]
    assert found.types == types
    assert reason in found.reason


def test_wifi_is_refused_in_plain_words() -> None:
    found = parse(link("wlan0"), wifi="wlan0")["wlan0"]
    assert (found.kind, found.types) == ("wifi", ())
    assert "an access point takes frames only from the address of the station that has joined" in found.reason


def test_what_is_on_top_of_an_interface_excludes_others() -> None:
    tap = parse(link("eth0"), link("vm7", "macvtap", link="eth0"))
    assert tap["eth0"].types == ("macvtap",)
    assert tap["vm7"].types == ()
    shared = parse(link("eth0"), link("ipvl0", "ipvlan", link="eth0"))
    assert shared["eth0"].types == ()
    assert "ipvl0 is on top of it" in shared["eth0"].reason


def test_taps_of_instances_are_left_out() -> None:
    assert list(parse(link("eth0"), link("mct0123456789", "tun"), {})) == ["eth0"]
