# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._hostnet import firewall
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.firewall import DockerChain, Rules
from ansible_collections.minicloud.local.plugins.module_utils._model import PortForward, parse_port
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime

BRIDGE = "mcb01234567"
LOOK = "nft -j list ruleset inet; list ruleset bridge; list chains"
SUBNET = "10.20.30.0/24"


def chain(rules, name):
    text = firewall.table_text(rules)
    body = text[text.index(f"chain {name} {{") :]
    return [line.strip() for line in body[: body.index("  }")].splitlines()[2:] if line.strip()]


def dport(protocol, number):
    return {"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": "dport"}}, "right": number}}


def daddr(ip):
    return {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": ip}}


LOCAL = {"match": {"op": "==", "left": {"fib": {"result": "type", "flags": "daddr"}}, "right": "local"}}


def listing(*entries):
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *entries]})


def rule(table, name, *expressions, handle=7):
    return {"rule": {"family": "inet", "table": table, "chain": name, "handle": handle, "expr": list(expressions)}}


class Commands:
    """A runtime whose commands answer what the test says, and that keeps what was asked."""

    def __init__(self, monkeypatch, answers):
        self.answers, self.asked = answers, []
        self.runtime = Runtime(self.run)
        monkeypatch.setattr(firewall, "nft_program", lambda runtime: "nft")
        monkeypatch.setattr(
            firewall, "find_program", lambda name: name if name in ("iptables", "firewall-cmd") else None
        )

    def run(self, argv, *, stdin=None, **dummy):
        self.asked.append((" ".join(argv), (stdin or b"").decode()))
        return self.answers.get(" ".join(argv), Completed(0, "", ""))


def test_guests_of_a_nat_network_get_out_and_only_answers_come_in():
    rules = chain(Rules(BRIDGE, SUBNET), "forward")
    assert rules == [
        f'iifname "{BRIDGE}" oifname "{BRIDGE}" accept',
        f'iifname "{BRIDGE}" ip saddr {SUBNET} accept',
        f'iifname "{BRIDGE}" drop',
        f'oifname "{BRIDGE}" ct state established,related accept',
        f'oifname "{BRIDGE}" ct status dnat accept',
        f'oifname "{BRIDGE}" drop',
    ]
    assert chain(Rules(BRIDGE, SUBNET), "input") == []
    assert any(line.endswith("masquerade") and "oifname !=" in line for line in chain(Rules(BRIDGE, SUBNET), "source"))


def test_guests_of_an_isolated_network_do_not():
    rules = Rules(BRIDGE, SUBNET, nat=False, host_access=False)
    assert f'iifname "{BRIDGE}" ip saddr {SUBNET} accept' not in chain(rules, "forward")
    assert f'iifname "{BRIDGE}" ct state established,related accept' in chain(rules, "forward")
    assert chain(rules, "input")[-1] == f'iifname "{BRIDGE}" drop'
    assert not [line for line in chain(rules, "source") if "oifname !=" in line]


def test_ipv6_has_rules_only_where_the_network_has_it():
    assert "ip6 " not in firewall.table_text(Rules(BRIDGE, SUBNET))
    with_ipv6 = firewall.table_text(Rules(BRIDGE, SUBNET, "fd12::/64"))
    assert "ip6 saddr fd12::/64 accept" in with_ipv6 and "ip6 daddr != { fd12::/64, ff00::/8 } masquerade" in with_ipv6


def test_a_port_of_the_loopback_address_is_not_forwarded_from_outside():
    forwards = tuple((parse_port(port), "10.20.30.64") for port in ("8080:80", "0.0.0.0:53:53/udp", "192.0.2.7:81:80"))
    rules = Rules(BRIDGE, SUBNET, forwards=forwards)
    udp = "meta nfproto ipv4 fib daddr type local udp dport 53 dnat ip to 10.20.30.64:53"
    own = "meta nfproto ipv4 ip daddr 192.0.2.7 tcp dport 81 dnat ip to 10.20.30.64:80"
    assert chain(rules, "outside") == [udp, own]
    assert chain(rules, "inside") == [
        "meta nfproto ipv4 ip daddr 127.0.0.1 tcp dport 8080 dnat ip to 10.20.30.64:80",
        udp,
        own,
    ]


def test_loopback_addresses_are_never_reached_from_the_network():
    assert chain(Rules(BRIDGE, SUBNET), "early")[0] == f'iifname "{BRIDGE}" ip daddr 127.0.0.0/8 drop'


def test_guests_send_from_addresses_of_their_network_alone():
    assert chain(Rules(BRIDGE, SUBNET, "fd12::/64"), "early")[1:] == [
        f'iifname "{BRIDGE}" {each}'
        for each in (
            "ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept",
            f"ip saddr != {SUBNET} drop",
            "ip saddr 10.20.30.1 drop",
            "ip6 saddr :: meta l4proto != ipv6-icmp drop",
            "ip6 saddr != { ::, fe80::/10, fd12::/64 } drop",
            "ip6 saddr fd12::1 drop",
        )
    ]


def test_a_host_that_is_closed_to_guests_gives_addresses_and_names():
    assert chain(Rules(BRIDGE, SUBNET, "fd12::/64", host_access=False), "input") == [
        f'iifname "{BRIDGE}" {each}'
        for each in (
            "ct state established,related accept",
            "udp dport { 67, 547 } accept",
            "ip daddr 10.20.30.1 meta l4proto { tcp, udp } th dport 53 accept",
            "ip6 daddr { fd12::1, fe80::/10 } meta l4proto { tcp, udp } th dport 53 accept",
            "meta l4proto { icmp, ipv6-icmp } accept",
            "drop",
        )
    ]
    # They get out all the same, and where they do not get out they may reach the host.
    assert chain(Rules(BRIDGE, SUBNET, host_access=False), "forward") == chain(Rules(BRIDGE, SUBNET), "forward")
    assert chain(Rules(BRIDGE, SUBNET, nat=False), "input") == []


def test_guests_do_not_pose_as_their_host_to_each_other():
    rules = Rules(BRIDGE, SUBNET, "fd12::/64", taps=("mct2", "mct1", "mct2"), mac="52:55:01:23:45:67")
    text = firewall.guard_table_text(rules)
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == f"table bridge minicloud_{BRIDGE} {{"
    assert 'iifname { "mct1", "mct2" } jump guests' in lines
    targets = ("0xfe80000000000000505501fffe234567", "0xfd120000000000000000000000000001")
    assert lines[2 : lines.index("}")] == [
        "ether saddr 52:55:01:23:45:67 drop",
        "@ll,96,16 { 0x8100, 0x88a8 } @ll,116,12 0 drop",
        "arp saddr ip 10.20.30.1 drop",
        f"arp saddr ip != {{ 0.0.0.0, {SUBNET} }} drop",
        "ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept",
        f"ip saddr != {SUBNET} drop",
        "ip saddr 10.20.30.1 drop",
        "ip6 saddr :: meta l4proto != ipv6-icmp drop",
        "ip6 saddr != { ::, fe80::/10, fd12::/64 } drop",
        "ip6 saddr fd12::1 drop",
        "ip6 saddr fe80::5055:1ff:fe23:4567 drop",
        "udp sport 67 udp dport 68 drop",
        "udp sport 547 udp dport 546 drop",
        "icmpv6 type { nd-router-advert, nd-redirect } drop",
        f"icmpv6 type nd-neighbor-advert @th,64,128 {{ {', '.join(targets)} }} drop",
    ]
    assert firewall.guard_table_text(Rules(BRIDGE, SUBNET)) == ""


def test_ports_to_a_bridge_of_others_lead_there_from_this_host_and_nobody_reaches_its_loopback():
    forwards = [(parse_port(port), "192.0.2.50") for port in ("8080:80", "0.0.0.0:53:5353/udp")]
    text = firewall.port_table_text("minicloud_ports_x_y", "br0", forwards)
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "table inet minicloud_ports_x_y {"
    for each in ("ip daddr 127.0.0.0/8", "ip saddr 127.0.0.0/8", "ip6 saddr ::1"):
        assert f'iifname "br0" {each} drop' in lines
    loopback = "meta nfproto ipv4 ip daddr 127.0.0.1 tcp dport 8080 dnat ip to 192.0.2.50:80"
    anywhere = "meta nfproto ipv4 fib daddr type local udp dport 53 dnat ip to 192.0.2.50:5353"
    assert (lines.count(loopback), lines.count(anywhere)) == (1, 2)
    # Connections of others through the same bridge keep their addresses.
    assert [line for line in lines if "masquerade" in line] == [
        'oifname "br0" ct status dnat ip daddr 192.0.2.50 tcp dport 80 ct original proto-dst 8080 masquerade',
        'oifname "br0" ct status dnat ip daddr 192.0.2.50 udp dport 5353 ct original proto-dst 53 masquerade',
    ]
    assert not [line for line in lines if "hook forward" in line or "hook input" in line]


def test_each_network_on_a_bridge_has_a_table_of_ports_of_its_own():
    names = {firewall.port_table_name(bridge, path) for bridge in ("br0", "br.0@x") for path in ("/a/lan", "/b/lan")}
    assert len(names) == 4
    assert all(name.replace("_", "").isalnum() and name.startswith("minicloud_ports_") for name in names)
    assert len([name for name in names if name.startswith(firewall.port_table_name("br0"))]) == 2


def test_what_the_kernel_has_is_read(monkeypatch):
    ours = firewall.table_name(BRIDGE)
    text = listing(
        {"table": {"family": "inet", "name": ours, "handle": 3}},
        rule(ours, "inside", daddr("127.0.0.1"), dport("tcp", 8080), {"dnat": {"addr": "10.20.30.64", "port": 80}}),
        rule(ours, "inside", LOCAL, dport("udp", 53), {"dnat": {"addr": "10.20.30.65", "port": 5353}}),
        rule(ours, "outside", LOCAL, dport("udp", 53), {"dnat": {"addr": "10.20.30.65", "port": 5353}}),
        {"table": {"family": "inet", "name": "firewalld", "handle": 4}},
        rule("firewalld", "filter_FORWARD", {"match": {"right": BRIDGE}}),
        {"table": {"family": "inet", "name": "other", "handle": 5}},
    )
    bridges = listing({"table": {"family": "bridge", "name": "firewalld", "handle": 6}})
    commands = Commands(monkeypatch, {LOOK: Completed(0, text + bridges + listing(), "")})
    found = firewall.read_ruleset(commands.runtime)
    assert list(found.tables) == [ours]
    assert found.forwards == (
        (ours, PortForward("127.0.0.1", 8080, 80), "10.20.30.64"),
        (ours, PortForward("0.0.0.0", 53, 5353, "udp"), "10.20.30.65"),
    )
    assert firewall.is_trusted(found, BRIDGE)
    assert not firewall.is_trusted(found, "mcb76543210")


def test_the_fingerprint_of_a_table_is_of_its_rules_and_not_of_their_numbers(monkeypatch):
    name = firewall.table_name(BRIDGE)

    def fingerprint(*rules, bridge=()):
        text = listing(*rules) + listing(*bridge) + listing()
        commands = Commands(monkeypatch, {LOOK: Completed(0, text, "")})
        return firewall.read_ruleset(commands.runtime).tables[name]

    assert fingerprint(rule(name, "forward", LOCAL, handle=1)) == fingerprint(rule(name, "forward", LOCAL, handle=2))
    assert fingerprint(rule(name, "forward", LOCAL)) != fingerprint(rule(name, "forward", daddr("127.0.0.1")))
    guard = {"table": {"family": "bridge", "name": name}}
    assert fingerprint(rule(name, "forward", LOCAL)) != fingerprint(rule(name, "forward", LOCAL), bridge=[guard])


def test_without_firewalld_there_is_nobody_to_trust_anything(monkeypatch):
    commands = Commands(monkeypatch, {})
    assert firewall.is_trusted(firewall.read_ruleset(commands.runtime), BRIDGE)


def test_a_table_is_replaced_in_one_go(monkeypatch):
    commands = Commands(monkeypatch, {})
    rules = Rules(BRIDGE, SUBNET)
    firewall.put_table(commands.runtime, firewall.table_name(BRIDGE), firewall.table_text(rules))
    ((argv, text),) = commands.asked
    assert argv == "nft -f -"
    assert text.startswith(f"table inet minicloud_{BRIDGE} {{}}\ndelete table inet minicloud_{BRIDGE}\ntable inet")
    assert text.endswith(f"table bridge minicloud_{BRIDGE} {{}}\ndelete table bridge minicloud_{BRIDGE}\n")


def test_a_kernel_that_does_not_look_into_bridges_has_the_other_rules(monkeypatch):
    commands = Commands(monkeypatch, {})

    def run(argv, *, stdin=None, **dummy):
        refuses = b"table bridge" in stdin
        commands.asked.append(stdin.decode())
        return Completed(1, "", "Operation not supported") if refuses else Completed(0, "", "")

    runtime = Runtime(run)
    name = firewall.table_name(BRIDGE)
    guarded = Rules(BRIDGE, SUBNET, taps=("mct1",), mac="52:55:01:23:45:67")
    assert not firewall.put_table(runtime, name, firewall.table_text(guarded), firewall.guard_table_text(guarded))
    assert f"table inet {name} {{\n  chain early" in commands.asked[-1]
    assert firewall.put_table(runtime, name, firewall.table_text(guarded))
    firewall.remove_table(runtime, name)
    assert commands.asked[-1] == f"table inet {name} {{}}\ndelete table inet {name}\n"


class TestDocker:
    def rules(self, interface=BRIDGE):
        comment = "-m comment --comment minicloud -j ACCEPT"
        return [f"-A DOCKER-USER -i {interface} {comment}", f"-A DOCKER-USER -o {interface} {comment}"]

    def chain(self, *rules):
        return DockerChain("iptables", ("-N DOCKER-USER", *rules))

    def test_nothing_is_done_without_it(self, monkeypatch):
        commands = Commands(monkeypatch, {"iptables -w 5 -S DOCKER-USER": Completed(1, "", "no such chain")})
        assert firewall.docker_chains(commands.runtime) == []

    @pytest.mark.parametrize(
        ("families", "legacy", "asked"), [((), False, 0), (("ip",), False, 1), (("ip6",), False, 0), ((), True, 1)]
    )
    def test_nobody_is_asked_in_vain(self, monkeypatch, families, legacy, asked):
        monkeypatch.setattr(firewall, "_has_legacy_filter", lambda family: legacy)
        commands = Commands(monkeypatch, {})
        firewall.docker_chains(commands.runtime, firewall.Ruleset({}, "", (), (), frozenset(families)))
        assert len(commands.asked) == asked

    def test_what_lacks_is_added(self, monkeypatch):
        commands = Commands(monkeypatch, {})
        assert len(firewall.lacking_docker_rules(self.chain(*self.rules("mcb76543210")), BRIDGE)) == 2
        firewall.add_docker_rules(commands.runtime, self.chain(self.rules()[0]), BRIDGE)
        assert [argv for argv, dummy in commands.asked] == [
            f"iptables -w 5 -I DOCKER-USER -o {BRIDGE} -m comment --comment minicloud -j ACCEPT"
        ]

    def test_where_ports_only_are_forwarded_nothing_else_passes(self, monkeypatch):
        commands = Commands(monkeypatch, {})
        firewall.add_docker_rules(commands.runtime, self.chain(*self.rules("br0")), "br0", "minicloud_ports_x")
        added = [argv.partition("DOCKER-USER ")[2] for argv, dummy in commands.asked]
        rule = "br0 -m conntrack --ctstate DNAT -m comment --comment minicloud_ports_x -j ACCEPT"
        assert added == [f"-i {rule}", f"-o {rule}"]
        there = self.chain(f"-A DOCKER-USER -i {rule}", f"-A DOCKER-USER -o {rule}")
        assert firewall.lacking_docker_rules(there, "br0", "minicloud_ports_x") == []
        assert len(firewall.lacking_docker_rules(there, "br0", "minicloud_ports_y")) == 2

    def test_what_is_ours_is_removed_and_nothing_else(self, monkeypatch):
        others = [*self.rules("mcb76543210"), f"-A DOCKER-USER -i {BRIDGE} -j DROP"]
        told = "\n".join(["-N DOCKER-USER", *self.rules(), self.rules()[0], *others])
        commands = Commands(monkeypatch, {"iptables -w 5 -S DOCKER-USER": Completed(0, told, "")})
        firewall.remove_docker_rules(commands.runtime, BRIDGE)
        removed = [argv.replace("iptables -w 5 -D", "-A") for argv, dummy in commands.asked if " -D " in argv]
        assert removed == [self.rules()[0], self.rules()[0], self.rules()[1]]


@pytest.mark.parametrize(
    ("policy", "hook", "family", "reported"),
    [("drop", "forward", "inet", True), ("accept", "forward", "inet", False), ("drop", "input", "inet", False),
     ("drop", "forward", "bridge", False)],
)  # fmt: skip
def test_who_drops_what_is_forwarded_is_named(monkeypatch, policy, hook, family, reported):
    entry = {"chain": {"family": family, "table": "mine", "name": "strict", "hook": hook, "policy": policy}}
    commands = Commands(monkeypatch, {LOOK: Completed(0, "\n".join([listing(), listing(), listing(entry)]), "")})
    assert firewall.read_ruleset(commands.runtime).strict == ((f"strict of the table {family} mine",) * reported)


def test_docker_is_not_reported_for_it_has_a_place_for_our_rules(monkeypatch):
    chains = [{"name": "FORWARD", "hook": "forward", "policy": "drop"}, {"name": "DOCKER-USER"}]
    entries = [{"chain": {"family": "ip", "table": "filter", **each}} for each in chains]
    commands = Commands(monkeypatch, {LOOK: Completed(0, listing() + listing() + listing(*entries), "")})
    found = firewall.read_ruleset(commands.runtime)
    assert (found.strict, found.docker) == ((), {"ip"})


class TestFirewalld:
    ZONE = '<zone target="ACCEPT">\n  <forward/>{}\n</zone>\n'

    @pytest.fixture
    def zone(self, monkeypatch, tmp_path):
        """The file of the zone as it is configured; it has our bridge."""
        shipped, configured = tmp_path / "shipped.xml", tmp_path / "configured.xml"
        shipped.write_text(self.ZONE.format(""), encoding="utf-8")
        configured.write_text(self.ZONE.format(f'<interface name="{BRIDGE}"/>'), encoding="utf-8")
        monkeypatch.setattr(firewall, "_SHIPPED", str(shipped))
        monkeypatch.setattr(firewall, "_CONFIGURED", str(configured))
        monkeypatch.setattr(firewall, "find_program", lambda name: name)
        return configured

    def ruleset(self, rules):
        return firewall.Ruleset({}, rules, ())

    def distrust(self, zone, rules, left=""):
        asked = []

        def run(argv, **dummy):
            asked.append(" ".join(argv))
            if "--remove-interface" in asked[-1] and ("offline" in asked[-1] or "permanent" in asked[-1]):
                zone.write_text(self.ZONE.format(left), encoding="utf-8")
            return Completed(0, "", "")

        firewall.distrust(Runtime(run), self.ruleset(rules), BRIDGE)
        return asked

    def test_a_bridge_is_trusted_now_and_after_a_reload(self, monkeypatch):
        commands = Commands(monkeypatch, {})
        monkeypatch.setattr(Runtime, "program", lambda self, name, *dummy: name)
        firewall.trust(commands.runtime, BRIDGE)
        # The configuration comes first: whoever is ended between them is found to have done neither.
        assert [argv for argv, dummy in commands.asked] == [
            f"firewall-cmd --permanent --zone=trusted --change-interface={BRIDGE}",
            f"firewall-cmd --zone=trusted --change-interface={BRIDGE}",
        ]

    def test_nothing_is_left_of_it(self, zone):
        assert self.distrust(zone, f'"{BRIDGE}"') == [
            f"firewall-cmd --zone=trusted --remove-interface={BRIDGE}",
            f"firewall-cmd --permanent --zone=trusted --remove-interface={BRIDGE}",
            "firewall-cmd --permanent --load-zone-defaults=trusted",
        ]

    def test_what_others_have_in_the_zone_stays(self, zone):
        asked = self.distrust(zone, f'"{BRIDGE}"', left='<interface name="wg0"/>')
        assert not [each for each in asked if "defaults" in each]

    def test_it_forgets_also_while_it_does_not_run(self, zone):
        assert self.distrust(zone, "") == [
            f"firewall-offline-cmd --zone=trusted --remove-interface={BRIDGE}",
            "firewall-offline-cmd --load-zone-defaults=trusted",
        ]

    def test_where_it_knows_nothing_of_us_it_is_left_alone(self, zone):
        zone.unlink()
        assert self.distrust(zone, '"wg0"') == []
        assert self.distrust(zone, "") == []
