# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._hostnet import firewall, links, lookup
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.firewall import DockerChain, Ruleset
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.guest_ports import Guest, GuestPorts
from ansible_collections.minicloud.local.plugins.module_utils._model import parse_port
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime

MAC, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:02"
SETTING = "ipv4/conf/br0/route_localnet"


class Host(Reporter):
    """Stands for the kernel, and for the guests on the bridge."""

    def __init__(self, monkeypatch, directory):
        super().__init__()
        self.tables, self.settings, self.found, self.asked = {}, {SETTING: "0"}, {}, []
        self.chains, self.fatal = [], ""
        self.runtime = Runtime(None, self)
        self.directory = str(directory)
        monkeypatch.setattr(firewall, "put_table", lambda runtime, name, text: self.tables.update({name: text}))
        monkeypatch.setattr(firewall, "remove_table", lambda runtime, name: self.tables.pop(name))
        monkeypatch.setattr(firewall, "read_ruleset", lambda runtime: self.ruleset())
        monkeypatch.setattr(firewall, "add_docker_rules", lambda runtime, *args: self.asked.append(("add", *args)))
        monkeypatch.setattr(firewall, "remove_docker_rules", lambda runtime, *args: self.asked.append(("del", *args)))
        monkeypatch.setattr(links, "read_sysctl", self.settings.get)
        monkeypatch.setattr(links, "write_sysctl", self.write)
        monkeypatch.setattr(lookup, "find_guests", lambda dummy, macs: {mac: self.found.get(mac, ()) for mac in macs})

    def write(self, key, value):
        assert any("early" in text for text in self.tables.values()), "others would reach the loopback addresses"
        self.settings[key] = value

    def ruleset(self):
        return Ruleset({name: firewall.digest(text) for name, text in self.tables.items()}, "", ())

    def step(self, name):
        if name == self.fatal:
            raise KeyboardInterrupt

    def ports(self, name="lan"):
        return GuestPorts(self.runtime, os.path.join(self.directory, name), "br0")

    def apply(self, *guests, name="lan"):
        self.ports(name).apply(guests, self.ruleset(), lambda: self.chains)

    def drift(self, *guests, name="lan"):
        return self.ports(name).drift(guests, self.ruleset(), lambda: self.chains)


@pytest.fixture
def host(monkeypatch, tmp_path):
    return Host(monkeypatch, tmp_path)


def a_guest(*ports, mac=MAC):
    return Guest(mac, tuple(map(parse_port, ports)))


def test_ports_wait_until_the_guest_has_an_address(host):
    guest = a_guest("8080:80")
    host.apply(guest)
    assert (host.tables, host.drift(guest), host.ports().concerned) == ({}, [], False)
    host.found[MAC] = ("192.0.2.50",)
    assert host.drift(guest) == [
        "The firewall rules of forwarded ports are missing.",
        f"The kernel setting net.{SETTING.replace('/', '.')} is not 1.",
    ]
    host.apply(guest)
    assert "dnat ip to 192.0.2.50:80" in host.tables[host.ports().table]
    assert (host.drift(guest), host.settings, host.ports().address(MAC)) == ([], {SETTING: "1"}, "192.0.2.50")
    assert not host.ports().open


def test_they_follow_the_guest_and_stay_while_it_is_silent(host):
    guest = a_guest("8080:80")
    host.found[MAC] = ("192.0.2.50",)
    host.apply(guest)
    host.found[MAC] = ("192.0.2.7", "192.0.2.50")
    assert host.drift(guest) == []
    host.found[MAC] = ()
    assert host.drift(guest) == []
    host.found[MAC] = ("192.0.2.7",)
    assert host.drift(guest) == ["Forwarded ports do not lead to where their instances are now."]
    host.apply(guest)
    assert (host.drift(guest), host.ports().address(MAC)) == ([], "192.0.2.7")


def test_who_waits_for_an_address_does_not_keep_the_others(host):
    host.found[MAC] = ("192.0.2.50",)
    host.apply(a_guest("8080:80"), a_guest("8081:80", mac=OTHER))
    text = host.tables[host.ports().table]
    assert "8080" in text and "8081" not in text


def test_changed_rules_are_noticed_and_put_right(host):
    guest = a_guest("8080:80")
    host.found[MAC] = ("192.0.2.50",)
    host.apply(guest)
    host.tables[host.ports().table] += "something"
    assert host.drift(guest) == ["The firewall rules of forwarded ports were changed."]
    host.apply(guest)
    assert host.drift(guest) == []


def test_with_the_last_port_everything_is_as_before(host):
    host.found[MAC] = ("192.0.2.50",)
    host.apply(a_guest("0.0.0.0:8080:80"))
    assert host.ports().open
    host.apply(a_guest("192.0.2.2:8080:80"))
    assert host.settings == {SETTING: "0"}
    host.apply(a_guest("8080:80"))
    assert host.settings == {SETTING: "1"}
    assert host.drift() == ["Ports are forwarded to nobody."]
    host.apply()
    assert (host.tables, host.settings, host.drift(), os.listdir(host.ports().directory)) == (
        {},
        {SETTING: "0"},
        [],
        [],
    )


def test_a_setting_that_was_there_before_stays(host):
    host.settings[SETTING] = "1"
    host.found[MAC] = ("192.0.2.50",)
    host.apply(a_guest("8080:80"))
    host.apply()
    assert host.settings == {SETTING: "1"}


@pytest.mark.parametrize("order", [("lan", "office"), ("office", "lan")])
def test_of_two_networks_on_a_bridge_the_last_takes_the_setting_back(host, order):
    host.found[MAC] = ("192.0.2.50",)
    for name in ("lan", "office"):
        host.apply(a_guest("8080:80"), name=name)
    host.apply(name=order[0])
    assert host.settings == {SETTING: "1"}
    host.apply(name=order[1])
    assert (host.settings, host.tables) == ({SETTING: "0"}, {})


def test_docker_is_told_only_of_ports_that_are_open(host):
    host.found[MAC] = ("192.0.2.50",)
    host.chains = [DockerChain("iptables", ())]
    host.apply(a_guest("8080:80"))
    assert host.drift(a_guest("8080:80")) == []
    assert [each[0] for each in host.asked] == ["del"]
    guest = a_guest("0.0.0.0:8080:80")
    assert "Docker's firewall does not let forwarded ports pass." in host.drift(guest)
    host.apply(guest)
    assert host.asked[-1] == ("add", host.chains[0], "br0", host.ports().table)


@pytest.mark.parametrize("step", ["port_rules", "loopback_noted"])
def test_a_run_that_ends_halfway_is_finished_or_undone_by_the_next(host, step):
    guest = a_guest("8080:80")
    host.found[MAC] = ("192.0.2.50",)
    for finish in (True, False):
        host.fatal = step
        with pytest.raises(KeyboardInterrupt):
            host.apply(guest)
        host.fatal = ""
        assert host.drift(guest) != [] and host.drift() != []
        if finish:
            host.apply(guest)
            assert (host.drift(guest), host.settings) == ([], {SETTING: "1"})
        host.apply()
        assert (host.tables, host.settings, host.drift()) == ({}, {SETTING: "0"}, [])


def test_notes_that_cannot_be_read_are_made_anew(host):
    guest = a_guest("8080:80")
    host.found[MAC] = ("192.0.2.50",)
    host.apply(guest)
    with open(os.path.join(host.ports().directory, lookup.PORT_NOTES), "w", encoding="ascii") as stream:
        stream.write("{")
    assert lookup.noted_addresses(host.ports().directory) == {}
    assert host.drift(guest) != []
    host.apply(guest)
    assert host.drift(guest) == []
    host.apply()
    assert host.settings == {SETTING: "0"}
