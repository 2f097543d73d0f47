# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._hostnet.uplink import (
    Uplink,
    add_commands,
    link_local,
    merged,
    parse_addresses,
    parse_routes,
    remove_commands,
    renamed,
)

FOREVER = 4294967295
MAC = "62:38:e8:71:fe:80"

ADDRESS = {"family": "inet", "local": "10.9.0.2", "prefixlen": 24, "broadcast": "10.9.0.255", "scope": "global"}
LEASED = {
    "family": "inet",
    "local": "10.9.1.2",
    "prefixlen": 24,
    "scope": "global",
    "noprefixroute": True,
    "label": "eth0:x",
    "valid_life_time": 300,
    "preferred_life_time": 200,
}
KERNEL = {"dst": "10.9.0.0/24", "dev": "eth0", "protocol": "kernel", "scope": "link", "prefsrc": "10.9.0.2"}
DEFAULT = {"dst": "default", "gateway": "10.9.0.1", "dev": "eth0", "metric": 100, "flags": []}


def uplink(addresses: t.Sequence[t.Any] = (), routes: t.Sequence[t.Any] = ()) -> Uplink:
    return Uplink(MAC, 1500, [dict(each) for each in addresses], [{"family": 4, **each} for each in routes], {})


def test_addresses_that_the_kernel_makes_are_left_out() -> None:
    def v6(local: str, scope: str = "link", **values: t.Any) -> dict[str, t.Any]:
        return {"family": "inet6", "local": local, "prefixlen": 64, "scope": scope, **values}

    assert link_local(MAC) == "fe80::6038:e8ff:fe71:fe80"
    link = {
        "address": MAC,
        "addr_info": [
            dict(ADDRESS),
            v6("fe80::6038:e8ff:fe71:fe80"),
            v6("fe80::53"),
            v6("fd01::2", "global"),
            v6("fd01::99", "global", temporary=True),
            v6("fd01::98", "global", dadfailed=True),
            {"family": "inet"},
        ],
    }
    assert [each["local"] for each in parse_addresses(link, {})] == ["10.9.0.2", "fe80::53", "fd01::2"]
    # Where they are not made from the MAC, nobody can tell them from others.
    found = parse_addresses(link, {"ipv6/addr_gen_mode": "2"})
    assert [each["local"] for each in found] == ["10.9.0.2", "fd01::2"]


def test_routes_of_others_are_left_out() -> None:
    entries: list[dict[str, t.Any]] = [
        DEFAULT,
        {"dst": "default", "gateway": "10.8.0.1", "dev": "eth1"},
        {"type": "local", "dst": "10.9.0.2", "dev": "eth0", "table": "local"},
        {"type": "broadcast", "dst": "10.9.0.255", "dev": "eth0"},
        {"dst": "10.60.0.0/16", "nexthops": [{"dev": "eth1"}, {"dev": "eth0"}]},
    ]
    assert [each["dst"] for each in parse_routes(entries, "eth0", 4)] == ["default", "10.60.0.0/16"]
    assert parse_routes([{"dst": "fe80::/64", "dev": "eth0"}], "eth0", 6) == []


def test_gateways() -> None:
    hops = [{"gateway": "10.9.0.1", "dev": "eth0"}, {"gateway": "10.9.0.3", "dev": "eth0"}, {"dev": "eth0"}]
    other_table = {"dst": "default", "gateway": "10.9.0.9", "dev": "eth0", "table": "77"}
    found = uplink(routes=[DEFAULT, {"dst": "default", "metric": 7, "nexthops": hops}, other_table])
    assert found.gateways() == ["10.9.0.1", "10.9.0.3"]
    assert found.has_default_route(4)
    assert not found.has_default_route(6)
    assert not uplink(routes=[other_table]).has_default_route(4)


def test_adding_keeps_what_belongs_to_an_address() -> None:
    peer = {"family": "inet", "local": "10.1.1.1", "address": "10.1.1.2", "prefixlen": 32, "scope": "link"}
    v6 = {"family": "inet6", "local": "fd01::2", "prefixlen": 64, "scope": "global", "valid_life_time": FOREVER}
    assert add_commands(uplink([ADDRESS, LEASED, peer, v6]), "eth0", "br0") == [
        "address replace 10.9.0.2/24 dev br0 broadcast 10.9.0.255",
        "address replace 10.9.1.2/24 dev br0 label br0:x noprefixroute valid_lft 300 preferred_lft 200",
        "address replace 10.1.1.1 peer 10.1.1.2/32 dev br0 scope link",
        "address replace fd01::2/64 dev br0 nodad",
    ]
    # A label that would be too long is dropped.
    assert " label " not in add_commands(uplink([LEASED]), "eth0", "averylongname0")[0]


def test_adding_keeps_what_belongs_to_a_route() -> None:
    routes = [
        {**DEFAULT, "protocol": "dhcp", "prefsrc": "10.9.0.2", "metrics": [{"mtu": 1400, "rtt": 9}]},
        {"dst": "10.50.0.0/16", "gateway": "10.9.7.1", "dev": "eth0", "table": "77", "flags": ["onlink", "linkdown"]},
        {"dst": "10.61.0.0/16", "via": {"family": "inet6", "host": "fe80::1"}, "dev": "eth0"},
        {"dst": "10.62.0.0/16", "dev": "eth0", "scope": "link", "tos": "0x10"},
        {"family": 6, "dst": "default", "gateway": "fe80::1", "dev": "eth0", "expires": 399, "pref": "high"},
        {
            "dst": "10.60.0.0/16",
            "nexthops": [
                {"gateway": "10.9.0.1", "dev": "eth0", "weight": 2, "flags": []},
                {"gateway": "10.8.0.1", "dev": "eth1", "weight": 1, "flags": ["onlink"]},
            ],
        },
    ]
    assert add_commands(uplink([ADDRESS], [KERNEL, *routes]), "eth0", "br0")[1:] == [
        "route append 10.62.0.0/16 tos 0x10 dev br0 scope link",
        "route append 0.0.0.0/0 via 10.9.0.1 dev br0 protocol dhcp metric 100 src 10.9.0.2 mtu 1400",
        "route append 10.50.0.0/16 via 10.9.7.1 dev br0 onlink table 77",
        "route append 10.61.0.0/16 via inet6 fe80::1 dev br0",
        "route append ::/0 via fe80::1 dev br0 pref high expires 399",
        "route append 10.60.0.0/16 nexthop via 10.9.0.1 dev br0 weight 2 nexthop via 10.8.0.1 dev eth1 weight 1 onlink",
    ]


def test_a_prefix_route_that_the_kernel_does_not_make_is_made() -> None:
    own = {**KERNEL, "dst": "10.9.1.0/24", "prefsrc": "10.9.1.2", "metric": 100}
    found = add_commands(uplink([LEASED], [own]), "eth0", "br0")
    assert found[1:] == ["route append 10.9.1.0/24 dev br0 protocol kernel metric 100 scope link src 10.9.1.2"]
    assert add_commands(uplink([ADDRESS], [KERNEL]), "eth0", "br0")[1:] == []


def test_what_is_there_already_is_not_added_again() -> None:
    everything = uplink([ADDRESS, LEASED], [KERNEL, DEFAULT])
    expired = uplink([ADDRESS, LEASED], [KERNEL, {**DEFAULT, "flags": ["linkdown"], "expires": 3}])
    assert add_commands(everything, "eth0", "br0", expired) == []
    half = uplink([ADDRESS], [KERNEL])
    assert [each.split()[2] for each in add_commands(everything, "eth0", "br0", half)] == ["10.9.1.2/24", "0.0.0.0/0"]


def test_removing() -> None:
    peer = {"family": "inet", "local": "10.1.1.1", "address": "10.1.1.2", "prefixlen": 32}
    multi = {"dst": "10.60.0.0/16", "nexthops": [{"gateway": "10.9.0.1", "dev": "eth0"}]}
    assert remove_commands(uplink([ADDRESS, peer], [KERNEL, DEFAULT, multi]), "eth0") == [
        "route delete 10.60.0.0/16",
        "route delete 0.0.0.0/0 via 10.9.0.1 dev eth0 metric 100",
        "address delete 10.1.1.1 peer 10.1.1.2/32 dev eth0",
        "address delete 10.9.0.2/24 dev eth0",
    ]


def test_renaming_there_and_back() -> None:
    multi = {"dst": "10.60.0.0/16", "nexthops": [{"dev": "eth0"}, {"dev": "eth1"}]}
    one = uplink([ADDRESS, LEASED], [DEFAULT, multi])
    other = renamed(one, "eth0", "br0")
    assert other.addresses[1]["label"] == "br0:x"
    assert other.routes[0]["dev"] == "br0"
    assert [hop["dev"] for hop in other.routes[1]["nexthops"]] == ["br0", "eth1"]
    assert renamed(other, "br0", "eth0") == one
    assert one.routes[0]["dev"] == "eth0"


def test_merging() -> None:
    one, other = uplink([ADDRESS], [KERNEL]), uplink([LEASED, ADDRESS], [DEFAULT, KERNEL])
    both = merged([one, other])
    assert both.addresses_text() == ["10.9.0.2/24", "10.9.1.2/24"]
    assert [each["dst"] for each in both.routes] == ["10.9.0.0/24", "default"]
