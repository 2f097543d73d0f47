# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

from ansible_collections.minicloud.local.plugins.module_utils._hostnet import links, subnets
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime

LINKS = [
    {"ifindex": 1, "ifname": "lo", "flags": ["LOOPBACK", "UP"], "mtu": 65536, "addr_info": [
        {"family": "inet", "local": "127.0.0.1", "prefixlen": 8}]},
    {"ifindex": 2, "ifname": "eth0", "flags": ["BROADCAST", "UP"], "mtu": 1500, "address": "52:54:00:12:34:56",
     "addr_info": [{"family": "inet", "local": "192.0.2.7", "prefixlen": 24}, {}]},
    {"ifindex": 3, "ifname": "br0", "flags": [], "mtu": 1400, "linkinfo": {"info_kind": "bridge"}},
    {"ifindex": 4, "ifname": "tap0", "master": "br0", "flags": ["UP"], "linkinfo": {"info_kind": "tun"}},
]  # fmt: skip


def runtime(monkeypatch, data, asked=None):
    def run(argv, *, stdin=None, **dummy):
        if asked is not None:
            asked.append((argv[1:], stdin))
        return Completed(0, json.dumps(data), "")

    monkeypatch.setattr(links, "ip_program", lambda runtime: "ip")
    return Runtime(run)


def test_interfaces_are_read(monkeypatch):
    found = links.read_links(runtime(monkeypatch, LINKS))
    assert list(found) == ["lo", "eth0", "br0", "tap0"]
    assert (found["lo"].loopback, found["eth0"].loopback) == (True, False)
    assert found["eth0"].addresses == ("192.0.2.7/24",)
    assert (found["br0"].kind, found["br0"].up, found["br0"].mtu, found["br0"].number) == ("bridge", False, 1400, 3)
    assert found["tap0"].master == "br0"


def test_routes_are_read_without_those_that_lead_nowhere(monkeypatch):
    data = [
        {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0", "metric": 100},
        {"dst": "10.0.0.0/8", "dev": "tun0"},
        {"type": "local", "dst": "127.0.0.1", "dev": "lo"},
        {"type": "blackhole", "dst": "10.9.0.0/16"},
    ]
    found = links.read_routes(runtime(monkeypatch, data))
    assert [(each.destination, each.device) for each in found] == [("default", "eth0"), ("10.0.0.0/8", "tun0")]


def test_commands_go_in_one_batch_and_none_is_none(monkeypatch):
    asked = []
    links.change(runtime(monkeypatch, [], asked), [], "nothing")
    links.change(runtime(monkeypatch, [], asked), ["link set a up", "link set b up"], "two")
    assert asked == [(["-batch", "-"], b"link set a up\nlink set b up\n")]


def test_names_fit_the_kernel_and_differ():
    taps = {
        links.tap_name(bridge, mac)
        for bridge in ("mcb00000001", "mcb00000002")
        for mac in ("52:54:00:00:00:01", "52:54:00:00:00:02")
    }
    assert len(taps) == 4
    assert all(len(tap) <= 15 and tap.startswith("mct") for tap in taps)
    assert links.tap_name("mcb00000001", "52:54:00:00:00:0A") == links.tap_name("mcb00000001", "52:54:00:00:00:0a")


def test_a_bridge_has_a_mac_of_its_own():
    assert links.bridge_mac("mcb0a1b2c3d") == "52:55:0a:1b:2c:3d"


def test_interfaces_that_heed_routers_go_on_when_the_host_forwards(monkeypatch):
    routes = [
        {"dst": "default", "gateway": "fe80::1", "dev": "eth0", "protocol": "ra"},
        {"dst": "default", "nexthops": [{"dev": "eth1"}, {"dev": "eth2"}]},
        {"dst": "default", "dev": "gone0"},
    ]
    asked, written = [], {}
    settings = {f"ipv6/conf/eth{number}/accept_ra": str(number) for number in range(3)}
    settings["ipv6/conf/eth0/accept_ra"] = "1"
    monkeypatch.setattr(links, "read_sysctl", settings.get)
    monkeypatch.setattr(links, "write_sysctl", written.__setitem__)
    links.keep_advertised_routes(runtime(monkeypatch, routes, asked))
    assert asked[0][0] == ["-j", "-6", "route", "show", "default", "proto", "ra"]
    # What heeds none, or heeds them all the same, stays as it is.
    assert written == {"ipv6/conf/eth0/accept_ra": "2", "ipv6/conf/eth1/accept_ra": "2"}


def test_name_servers_beyond_the_default_route_are_in_use(monkeypatch, tmp_path):
    stub, real = tmp_path / "resolv.conf", tmp_path / "real.conf"
    stub.write_text(
        "search example.com\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver\n", encoding="utf-8"
    )
    real.write_text("nameserver 10.255.255.53\nnameserver 10.20.30.1\nnameserver 192.0.2.7\n", encoding="utf-8")
    monkeypatch.setattr(links, "_RESOLVERS", (str(stub), str(real), str(tmp_path / "none")))
    links._name_servers.cache_clear()
    network = Network("lab", "qemu", "qemu", "", subnet="10.20.30.0/24")
    there = links.read_links(runtime(monkeypatch, LINKS)).values()
    routes = [links.Route("default", "eth0", "192.0.2.1")]
    try:
        found = links.taken(network, [], there, routes)
        # Neither the host itself nor the network's own server is in its way.
        assert [str(each.subnet) for each in found if "name server" in each.by] == ["127.0.0.53/32", "10.255.255.53/32"]
        other = subnets.collision(subnets.parse_subnet("10.255.240.0/20"), found)
        assert other is not None
        assert other.by == "a name server of this host"
        assert links.taken(network, [], (), ()) == []
    finally:
        links._name_servers.cache_clear()
