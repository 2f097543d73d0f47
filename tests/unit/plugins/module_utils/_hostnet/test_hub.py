# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import sys

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._hostnet import hub, leases

ONE, TWO, THREE = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03"
GATEWAY = "10.20.30.1"
HUB = bytes.fromhex("52550a000001")
EVERYBODY = b"\xff" * 6


def config(**changes):
    values = {
        "subnet": "10.20.30.0/24",
        "domain": "minicloud",
        "guests": {
            ONE: hub.Guest("One", "10.20.30.64"),
            TWO: hub.Guest("two", "10.20.30.65"),
            THREE: hub.Guest("three", ""),
        },
    }
    return hub.Config(**{**values, **changes})


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def udp(source_mac, source, target, payload, target_mac=HUB):
    """A frame of a guest, made from one of the hub's: the MACs are others."""
    return target_mac + mac(source_mac) + hub.udp_frame(target_mac, source, target, payload)[12:]


def checksum_holds(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF


class TestFrames:
    def test_a_udp_frame_has_checksums_that_hold(self):
        for payload in (b"even", b"odd"):
            frame = hub.udp_frame(mac(ONE), (GATEWAY, 53), ("10.20.30.64", 4000), payload)
            assert checksum_holds(frame[14:34])
            pseudo = frame[26:34] + struct.pack("!BBH", 0, 17, len(frame) - 34)
            assert checksum_holds(pseudo + frame[34:])
            packet = hub.parse_packet(frame)
            assert packet == hub.Packet(17, GATEWAY, "10.20.30.64", 53, 4000, payload)

    def test_padding_is_no_part_of_a_packet(self):
        frame = udp(ONE, ("10.20.30.64", 4000), (GATEWAY, 53), b"x") + bytes(20)
        assert hub.parse_packet(frame).payload == b"x"

    @pytest.mark.parametrize("length", [0, 13, 14, 33, 34, 41])
    def test_what_is_cut_off_is_no_packet(self, length):
        assert hub.parse_packet(udp(ONE, ("10.20.30.64", 4000), (GATEWAY, 53), b"x")[:length]) is None

    def test_a_fragment_is_no_packet(self):
        frame = bytearray(udp(ONE, ("10.20.30.64", 4000), (GATEWAY, 53), b"x"))
        frame[20:22] = b"\x20\x00"
        assert hub.parse_packet(bytes(frame)) is None

    def test_who_asks_for_the_gateway_learns_its_mac(self):
        question = EVERYBODY + mac(ONE) + b"\x08\x06\0\1\x08\0\x06\x04\0\1" + mac(ONE)
        question += socket.inet_aton("10.20.30.64") + bytes(6)
        answer = hub.arp_answer(question + socket.inet_aton(GATEWAY), GATEWAY)
        assert answer[:14] == mac(ONE) + HUB + b"\x08\x06"
        assert answer[20:42] == b"\0\2" + HUB + socket.inet_aton(GATEWAY) + mac(ONE) + socket.inet_aton("10.20.30.64")
        assert hub.arp_answer(question + socket.inet_aton("10.20.30.65"), GATEWAY) is None
        assert hub.arp_answer(question, GATEWAY) is None

    def test_a_ping_comes_back(self):
        echo = struct.pack("!BBHHH", 8, 0, 0, 7, 1) + b"payload!!"
        frame = hub.udp_frame(HUB, ("10.20.30.64", 0), (GATEWAY, 0), b"")
        packet = hub.Packet(1, "10.20.30.64", GATEWAY, 0, 0, echo)
        answer = hub.ping_answer(frame[:6] + mac(ONE) + frame[12:], packet, GATEWAY)
        assert answer[:6] == mac(ONE)
        assert hub.parse_packet(answer)[:3] == (1, GATEWAY, "10.20.30.64")
        assert answer[34:36] == b"\0\0" and checksum_holds(answer[34:]) and answer[38:] == echo[4:]
        assert hub.ping_answer(frame, packet._replace(target="10.20.30.9"), GATEWAY) is None


def dhcp_message(kind, hardware=ONE, options=b"", client="0.0.0.0", flags=0):
    head = struct.pack("!BBBBIHH4s", 1, 1, 6, 0, 0xABCD, 0, flags, socket.inet_aton(client))
    head += bytes(12) + mac(hardware).ljust(16, b"\0") + bytes(192) + b"\x63\x82\x53\x63"
    return head + bytes([53, 1, kind]) + options + b"\xff"


class TestDhcp:
    def answer(self, *args, settings=None, **kwargs):
        offer = hub.dhcp_answer(dhcp_message(*args, **kwargs), settings or config())
        if offer is None:
            return None, None, None
        packet = hub.parse_packet(offer.frame)
        return offer, packet, packet and hub.dhcp_options(packet.payload[240:])

    def test_who_looks_for_a_server_is_offered_its_address(self):
        offer, packet, options = self.answer(1)
        assert (offer.kind, offer.mac, offer.address) == (2, ONE, "10.20.30.64")
        assert packet[1:5] == (GATEWAY, "10.20.30.64", 67, 68) and offer.frame[:6] == mac(ONE)
        assert packet.payload[4:8] == b"\0\0\xab\xcd" and packet.payload[16:20] == socket.inet_aton("10.20.30.64")
        assert options[53] == b"\2" and options[54] == options[6] == socket.inet_aton(GATEWAY)
        assert options[1] == b"\xff\xff\xff\0" and options[28] == socket.inet_aton("10.20.30.255")
        assert options[15] == b"minicloud" and options[12] == b"One"
        # The way out is the other interface, and the hub is no router.
        assert 3 not in options and 26 not in options

    def test_who_cannot_hear_it_otherwise_gets_it_with_all(self):
        offer, packet, dummy = self.answer(1, flags=0x8000)
        assert (offer.frame[:6], packet.target) == (EVERYBODY, "255.255.255.255")

    def test_who_asks_for_its_address_gets_it(self):
        asked = b"\x32\4" + socket.inet_aton("10.20.30.64")
        offer, dummy, options = self.answer(3, options=asked)
        assert offer.kind == 5 and options[53] == b"\5" and options[51] == struct.pack("!I", hub.LEASE_SECONDS)

    def test_who_renews_its_address_keeps_it(self):
        offer, packet, dummy = self.answer(3, client="10.20.30.64")
        assert offer.kind == 5 and packet.target == "10.20.30.64"

    def test_who_asks_for_another_address_is_told_no(self):
        asked = b"\x32\4" + socket.inet_aton("10.20.30.65")
        offer, packet, options = self.answer(3, options=asked)
        assert offer.kind == 6 and options[53] == b"\6" and packet.target == "255.255.255.255"
        assert packet.payload[16:20] == bytes(4)

    def test_who_took_another_servers_offer_gets_no_answer(self):
        asked = b"\x32\4" + socket.inet_aton("10.20.30.64") + b"\x36\4" + socket.inet_aton("10.0.2.2")
        assert self.answer(3, options=asked)[0] is None

    def test_who_gives_its_address_back_gets_no_answer(self):
        assert hub.dhcp_answer(dhcp_message(7, client="10.20.30.64"), config()) == (b"", 7, ONE, "10.20.30.64")

    def test_who_has_an_address_already_gets_the_rest(self):
        offer, packet, options = self.answer(8, client="10.20.30.64")
        assert offer.kind == 5 and 51 not in options and packet.payload[16:20] == bytes(4)

    def test_who_is_not_known_or_has_no_address_gets_none(self):
        assert self.answer(1, hardware="52:54:00:00:00:09")[0] is None
        assert self.answer(1, hardware=THREE)[0] is None

    def test_the_mtu_is_told_where_it_is_not_the_usual(self):
        assert self.answer(1, settings=config(mtu=9000))[2][26] == struct.pack("!H", 9000)

    @pytest.mark.parametrize(
        "message",
        [b"", dhcp_message(1)[:240], dhcp_message(1)[:200], b"\2" + dhcp_message(1)[1:]],
        ids=["empty", "no options", "cut off", "an answer"],
    )
    def test_what_is_no_question_gets_no_answer(self, message):
        assert hub.dhcp_answer(message, config()) is None

    @pytest.mark.parametrize("data", [b"\x35", b"\x35\x05\1", b"\0\0\x35\1", b"\xff\x35\1\1"], ids=range(4))
    def test_options_that_are_cut_off_do_no_harm(self, data):
        assert set(hub.dhcp_options(data)) <= {0x35}


def query(name, kind=1, flags=0x0100, count=1):
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.split(".") if each)
    return struct.pack("!HHHHHH", 0x1234, flags, count, 0, 0, 0) + labels + struct.pack("!BHH", 0, kind, 1)


def told(answer):
    """The code of a reply, and the data of its only answer."""
    identity, flags, dummy, answers = struct.unpack_from("!HHHH", answer)
    assert identity == 0x1234 and flags & 0x8000 and answers <= 1
    data = None
    if answers:
        at = answer.index(b"\xc0\x0c", 12)
        length = struct.unpack_from("!H", answer, at + 10)[0]
        data = answer[at + 12 : at + 12 + length]
        assert len(answer) == at + 12 + length
    return flags & 15, data


class TestNames:
    @pytest.mark.parametrize("name", ["one", "ONE", "One.minicloud", "one.MINICLOUD"])
    def test_an_instance_is_found_by_its_name_with_or_without_domain(self, name):
        assert told(hub.dns_answer(query(name), config())) == (0, socket.inet_aton("10.20.30.64"))

    def test_what_it_has_no_such_record_of_is_there_all_the_same(self):
        assert told(hub.dns_answer(query("one.minicloud", 28), config())) == (0, None)
        assert told(hub.dns_answer(query("minicloud"), config())) == (0, None)

    @pytest.mark.parametrize("name", ["nobody", "nobody.minicloud", "three", "a.one.minicloud"])
    def test_other_names_of_the_network_are_not_there(self, name):
        assert told(hub.dns_answer(query(name), config())) == (3, None)

    def test_names_of_the_world_are_for_others_to_answer(self):
        for name in ("example.org", "one.example.org", "notminicloud.org", "1.2.3.4.in-addr.arpa"):
            assert hub.dns_answer(query(name), config()) is None
            assert told(hub.dns_answer(query(name), config(upstream=False))) == (5, None)

    def test_an_address_has_its_name(self):
        answer = told(hub.dns_answer(query("65.30.20.10.in-addr.arpa", 12), config()))
        assert answer == (0, b"\3two\x09minicloud\0")
        assert told(hub.dns_answer(query("66.30.20.10.in-addr.arpa", 12), config())) == (3, None)
        assert told(hub.dns_answer(query("x.30.20.10.in-addr.arpa", 12), config())) == (3, None)

    @pytest.mark.parametrize(
        "message",
        [b"", b"\x12", query("one")[:15], query("one", count=2), query("one", flags=0x8000), query("a" * 63)[:40]],
        ids=["empty", "a byte", "cut off", "two", "an answer", "cut off in a label"],
    )
    def test_what_is_no_question_is_refused(self, message):
        assert hub.dns_answer(message, config())[3] & 15 == 5

    def test_a_pointer_in_a_question_leads_nowhere(self):
        assert hub.parse_question(query("one")[:12] + b"\xc0\x0c" + b"\0\1\0\1" * 2) is None


def test_the_configuration_survives_its_file():
    there = hub.Config.from_text(config(mtu=1400, upstream=False).to_text())
    assert vars(there) == vars(config(mtu=1400, upstream=False))


def test_name_servers_of_the_host(tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text("# nameserver 1.1.1.1\nsearch x\nnameserver 192.0.2.1\nnameserver ::1 # here\nnameserver\n")
    assert hub.name_servers(str(path)) == ["192.0.2.1", "::1"]
    assert hub.name_servers(str(tmp_path / "none")) == []


class Guest:
    """The interface of a guest."""

    def __init__(self, directory, address):
        self.mac = address
        self.hub = str(directory / hub.SOCKET)
        self.path = str(directory / f"{address.replace(':', '')}{hub.PORT_SUFFIX}")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(20)
        self.socket.bind(self.path)

    def send(self, target, payload, kind=0x88B5):
        self.socket.sendto(target + mac(self.mac) + struct.pack("!H", kind) + payload, self.hub)

    def hear(self):
        """The next frame: its sender's MAC, and what it has."""
        frame = self.socket.recv(65536)
        return frame[6:12], frame[14:]

    def ask(self, frame):
        self.socket.sendto(frame, self.hub)
        return self.socket.recv(65536)

    def hears_nothing(self):
        """Whether nothing came before what it can have from the hub itself: an answer to a question of its own."""
        echo = b"\0\1\x08\0\x06\x04\0\1" + mac(self.mac) + bytes(10) + socket.inet_aton(GATEWAY)
        self.send(HUB, echo, 0x0806)
        return self.hear()[0] == HUB


class Running:
    """A hub in a directory, with a guest's lock held."""

    def __init__(self, directory):
        self.directory = directory
        (directory / hub.CONFIG).write_text(config().to_text())
        self.member = os.open(directory / hub.MEMBERS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.member, fcntl.LOCK_SH)
        self.start()

    def start(self):
        path = str(self.directory / hub.SOCKET)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
            inbox.bind(path)
            argv = [sys.executable, "-I", hub.__file__, str(inbox.fileno())]
            self.process = subprocess.Popen(argv, cwd=self.directory, pass_fds=[inbox.fileno()])

    def close(self):
        if self.member >= 0:
            os.close(self.member)
            self.member = -1


@pytest.fixture
def running(tmp_path, monkeypatch):
    # The path of a socket is short.
    monkeypatch.chdir(tmp_path)
    hub_ = Running(tmp_path)
    yield hub_
    hub_.close()
    hub_.process.kill()
    hub_.process.wait(20)


class TestHub:
    def test_guests_hear_each_other_and_only_what_is_for_them(self, running, tmp_path):
        one, two, three = (Guest(tmp_path, each) for each in (ONE, TWO, THREE))
        for guest in (one, two, three):
            assert guest.hears_nothing()
        one.send(EVERYBODY, b"to all")
        assert two.hear() == (mac(ONE), b"to all") == three.hear()
        assert one.hears_nothing()
        two.send(mac(ONE), b"to one")
        assert one.hear() == (mac(TWO), b"to one")
        assert three.hears_nothing()

    def test_a_hub_that_was_killed_is_missed_by_nobody_once_there_is_another(self, running, tmp_path):
        one, two = Guest(tmp_path, ONE), Guest(tmp_path, TWO)
        assert one.hears_nothing() and two.hears_nothing()
        running.process.kill()
        running.process.wait(20)
        with pytest.raises(ConnectionRefusedError):
            one.send(mac(TWO), b"lost")
        running.start()
        one.send(mac(TWO), b"found")
        assert two.hear() == (mac(ONE), b"found")

    def test_a_guest_that_starts_again_is_found_at_its_new_socket(self, running, tmp_path):
        one, two = Guest(tmp_path, ONE), Guest(tmp_path, TWO)
        assert one.hears_nothing() and two.hears_nothing()
        two.socket.close()
        two = Guest(tmp_path, TWO)
        one.send(mac(TWO), b"again")
        assert two.hear() == (mac(ONE), b"again")

    def test_a_guest_that_has_gone_holds_up_nobody(self, running, tmp_path):
        one, two, three = (Guest(tmp_path, each) for each in (ONE, TWO, THREE))
        for guest in (one, two, three):
            assert guest.hears_nothing()
        two.socket.close()
        one.send(EVERYBODY, b"who is there")
        assert three.hear() == (mac(ONE), b"who is there")

    def test_a_guest_that_is_busy_loses_nothing_that_fits_in_the_queue(self, running, tmp_path):
        one, two = Guest(tmp_path, ONE), Guest(tmp_path, TWO)
        assert one.hears_nothing() and two.hears_nothing()
        count = 300
        for number in range(count):
            one.send(mac(TWO), struct.pack("!I", number))
        assert [struct.unpack("!I", two.hear()[1])[0] for dummy in range(count)] == list(range(count))

    def test_addresses_and_names(self, running, tmp_path):
        one = Guest(tmp_path, ONE)
        asked = dhcp_message(3, options=b"\x32\4" + socket.inet_aton("10.20.30.64"))
        answer = one.ask(udp(ONE, ("0.0.0.0", 68), ("255.255.255.255", 67), asked, EVERYBODY))
        assert hub.dhcp_options(hub.parse_packet(answer).payload[240:])[53] == b"\5"
        assert leases.active(leases.read_leases(str(tmp_path))) == {ONE: ("10.20.30.64",)}
        question = udp(ONE, ("10.20.30.64", 4444), (GATEWAY, 53), query("two.minicloud"))
        packet = hub.parse_packet(one.ask(question))
        assert packet[1:5] == (GATEWAY, "10.20.30.64", 53, 4444)
        assert told(packet.payload) == (0, socket.inet_aton("10.20.30.65"))
        # An instance that was made later is known from then on.
        (tmp_path / "new").write_text(config(guests={TWO: hub.Guest("two", "10.20.30.99")}).to_text())
        os.rename(tmp_path / "new", tmp_path / hub.CONFIG)
        assert told(hub.parse_packet(one.ask(question)).payload) == (0, socket.inet_aton("10.20.30.99"))

    def test_leases_outlive_the_hub(self, running, tmp_path):
        one, two = Guest(tmp_path, ONE), Guest(tmp_path, TWO)
        for guest, address in ((one, "10.20.30.64"), (two, "10.20.30.65")):
            message = dhcp_message(3, guest.mac, b"\x32\4" + socket.inet_aton(address))
            guest.ask(udp(guest.mac, ("0.0.0.0", 68), (GATEWAY, 67), message))
            running.process.kill()
            running.process.wait(20)
            running.start()
        assert set(leases.active(leases.read_leases(str(tmp_path)))) == {ONE, TWO}

    def test_rubbish_does_no_harm(self, running, tmp_path):
        one = Guest(tmp_path, ONE)
        for kind in (0x0800, 0x0806, 0x86DD, 0):
            for length in (0, 1, 20, 28, 300):
                one.send(HUB, b"\x45" + b"\xff" * length, kind)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
            nameless.sendto(bytes(60), str(tmp_path / hub.SOCKET))
        assert one.hears_nothing()
        assert running.process.poll() is None

    def test_it_ends_with_the_last_guest(self, running, tmp_path):
        again = os.open(tmp_path / hub.MEMBERS, os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(again, fcntl.LOCK_SH)
        running.close()
        one = Guest(tmp_path, ONE)
        assert one.hears_nothing()
        one.socket.close()
        os.close(again)
        assert running.process.wait(30) == 0
        assert not (tmp_path / hub.SOCKET).exists()
