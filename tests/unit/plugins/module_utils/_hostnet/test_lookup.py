# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._hostnet import lookup, probe

MAC, OTHER = "52:54:00:12:34:56", "52:54:00:ab:cd:ef"
SUBNET = "fd12:3456:789a::/64"
OWN = ipaddress.IPv6Interface("fd12:3456:789a::1/64")


def test_the_address_that_most_guests_make_of_their_mac():
    made = lookup.made_of(MAC.upper(), ipaddress.IPv6Network(SUBNET))
    assert str(made) == "fd12:3456:789a:0:5054:ff:fe12:3456"


class Link:
    """Neighbours on a link, as a socket shows them. at -- addresses, each with the MAC that has it"""

    def __init__(self, monkeypatch, at):
        self.at, self.queue, self.solicited, self.called = at, [], [], 0
        monkeypatch.setattr(probe, "_icmp6", lambda interface: contextlib.nullcontext((self, 7)))
        monkeypatch.setattr(probe.select, "select", lambda reading, *dummy: ([self] if self.queue else [], [], []))
        monkeypatch.setattr(probe, "_IMPATIENCE", 0.01)

    def sendto(self, question, where):
        assert question[0] == 135 and where[0].startswith("ff02::1:ff") and where[3] == 7
        assert question[24:] == struct.pack("!BB6s", 1, 1, bytes.fromhex("525500000001"))
        address = socket.inet_ntop(socket.AF_INET6, question[8:24])
        self.solicited.append(address)
        if address in self.at:
            option = struct.pack("!BB6s", 2, 1, bytes.fromhex(self.at[address].replace(":", "")))
            self.queue.append((struct.pack("!BBHI", 136, 0, 0, 0) + question[8:24] + option, (address, 0, 0, 0)))

    def sendmsg(self, data, ancillary, flags, where):
        assert data[0][0] == 128 and where[0] == "ff02::1"
        ((dummy, kind, source),) = ancillary
        assert kind == socket.IPV6_PKTINFO and source[:16] == OWN.ip.packed
        self.called += 1
        for address in self.at:
            self.queue.append((struct.pack("!BBHI", 129, 0, 0, 0), (address, 0, 0, 7)))

    def recvfrom(self, size):
        return self.queue.pop(0)

    def find(self, *macs):
        network = ipaddress.IPv6Network(SUBNET)
        candidates = {mac: str(lookup.made_of(mac, network)) for mac in macs}
        return probe.find6("mcb0", "52:55:00:00:00:01", OWN, candidates, 0.05)


@pytest.fixture
def usual():
    return str(lookup.made_of(MAC, ipaddress.IPv6Network(SUBNET)))


def test_who_is_where_it_is_expected_is_found_with_one_question(monkeypatch, usual):
    link = Link(monkeypatch, {usual: MAC})
    assert link.find(MAC) == {usual: MAC}
    assert (link.solicited, link.called) == ([usual], 0)


def test_who_has_chosen_another_address_is_found_by_a_call_to_all(monkeypatch, usual):
    elsewhere = "fd12:3456:789a::c001"
    others = {"fd12:3456:789a::9": "52:54:00:00:00:09", "fe80::1": OTHER, "2001:db8::1": OTHER}
    link = Link(monkeypatch, {usual: MAC, elsewhere: OTHER, **others})
    assert link.find(MAC, OTHER) == {usual: MAC, elsewhere: OTHER}
    assert link.called == 1
    # Who answers from elsewhere is not asked.
    assert "fe80::1" not in link.solicited and "2001:db8::1" not in link.solicited


def test_an_address_that_somebody_else_has_is_not_taken_for_the_guests(monkeypatch, usual):
    link = Link(monkeypatch, {usual: OTHER})
    assert link.find(MAC) == {}


def test_silence_ends(monkeypatch):
    assert Link(monkeypatch, {}).find(MAC) == {}


def test_a_host_that_may_not_ask_finds_nobody(monkeypatch):
    def refuse(*dummy):
        raise PermissionError

    monkeypatch.setattr(probe, "find6", refuse)
    assert lookup.find_guests6("lo", SUBNET, [MAC.upper()]) == {MAC.upper(): ()}


def test_addresses_are_told_by_mac_as_it_was_asked(monkeypatch):
    found = {"fd12:3456:789a::c001": MAC, "fd12:3456:789a::9": MAC}
    monkeypatch.setattr(probe, "find6", lambda *dummy: found)
    seen = lookup.find_guests6("lo", SUBNET, [MAC.upper(), OTHER])
    assert seen == {MAC.upper(): ("fd12:3456:789a::9", "fd12:3456:789a::c001"), OTHER: ()}
