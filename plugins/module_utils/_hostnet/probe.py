# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Asking neighbours on a link whether they are there: over ARP, and over its counterpart of IPv6."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import select
import socket
import struct
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline

_ETH_P_ARP = 0x0806
_REQUEST, _REPLY = 1, 2
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_SOLICIT, _ADVERTISE = 135, 136
_ECHO, _ECHO_REPLY = 128, 129
_LINK_ADDRESS = 2

# Seconds after which all on a link are asked who they are, where some are not where they were thought to be.
_IMPATIENCE = 0.1

# How long one question waits for its answer before it is asked again, seconds.
_PATIENCE = 1.0

# The largest subnet, in addresses, that is probed address by address.
LARGEST_SWEEP = 1024


def answers(interface: str, mac: str, address: str, source: str, deadline: Deadline) -> bool:
    """Whether a neighbour on an interface answers for an address, IPv4 or IPv6; OSError where it cannot be asked.

    mac -- of the interface; source -- the IPv4 address that this host has there, empty where it has none
    """
    if ":" in address:
        return _answers6(interface, mac, address, deadline)
    return bool(find(interface, [address], source, deadline, enough=1))


def find(
    interface: str,
    addresses: t.Sequence[str],
    source: str,
    deadline: Deadline,
    macs: t.Collection[str] | None = None,
    enough: int = 0,
) -> dict[str, str]:
    """Who answers for some IPv4 addresses on an interface, or without any, who is heard there: address to MAC.

    macs -- count only these; enough -- stop when so many neighbours have answered
    """
    wanted = set(addresses)
    found: dict[str, str] = {}
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ARP)) as link:
        link.bind((interface, _ETH_P_ARP))
        own = link.getsockname()[4]
        sender = socket.inet_aton(source or "0.0.0.0")
        while not deadline.expired():
            for address in wanted - set(found):
                question = _ARP.pack(1, 0x0800, 6, 4, _REQUEST, own, sender, bytes(6), socket.inet_aton(address))
                # A queue that is full now, or a link that comes up, is no answer; the next round asks again.
                with contextlib.suppress(BlockingIOError, InterruptedError):
                    link.sendto(question, (interface, _ETH_P_ARP, 0, 0, b"\xff" * 6))
            patience = Deadline(min(_PATIENCE, deadline.left()))
            while select.select([link], [], [], patience.left())[0]:
                answer = link.recv(128)
                if len(answer) < _ARP.size:
                    continue
                fields = _ARP.unpack(answer[: _ARP.size])
                address, mac = socket.inet_ntoa(fields[6]), fields[5].hex(":")
                # A question tells as well as an answer who asks it.
                known = address in wanted if wanted else address != "0.0.0.0"
                if known and mac != own.hex(":") and (macs is None or mac in macs):
                    found[address] = mac
                    if enough and len(set(found.values())) >= enough:
                        return found
                if patience.expired():
                    break
            if wanted and len(found) == len(wanted):
                break
    return found


def sweep(interface: str, own: ipaddress.IPv4Interface, macs: t.Collection[str], seconds: float) -> dict[str, str]:
    """Where some MACs are, address to MAC, found by asking for each address of the subnet that this host has there.

    A large subnet is not searched: what is heard there meanwhile counts.
    """
    hosts: list[str] = []
    if own.network.num_addresses <= LARGEST_SWEEP:
        hosts = [str(host) for host in own.network.hosts() if host != own.ip]
    return find(interface, hosts, str(own.ip), Deadline(seconds), macs, enough=len(macs))


def find6(
    interface: str, mac: str, own: ipaddress.IPv6Interface, candidates: t.Mapping[str, str], seconds: float
) -> dict[str, str]:
    """Where some MACs are in an IPv6 subnet, address to MAC.

    mac, own -- of this host, with the subnet; candidates -- MACs, each with the address that it is thought to have
    Each is asked there; if one does not answer, all on the link are asked for a sign of life, and who gives one is
    asked for its MAC.
    """
    found: dict[str, str] = {}
    asked = {socket.inet_pton(socket.AF_INET6, address) for address in candidates.values()}
    deadline, impatience = Deadline(seconds), Deadline(min(_IMPATIENCE, seconds))
    with _icmp6(interface) as (raw, index):
        for target in asked:
            _solicit(raw, index, mac, target)
        called = False
        while not deadline.expired() and set(candidates) - set(found.values()):
            if not called and impatience.expired():
                called = True
                _call_all(raw, index, own)
            if not select.select([raw], [], [], (deadline if called else impatience).left())[0]:
                continue
            answer, where = raw.recvfrom(1024)
            source = where[0].partition("%")[0]
            if answer[:1] == bytes([_ADVERTISE]) and answer[8:24] in asked and where[3] in (0, index):
                holder = _link_address(answer)
                if holder in candidates:
                    found[socket.inet_ntop(socket.AF_INET6, answer[8:24])] = holder
            elif answer[:1] == bytes([_ECHO_REPLY]) and ipaddress.IPv6Address(source) in own.network:
                target = socket.inet_pton(socket.AF_INET6, source)
                if target not in asked:
                    asked.add(target)
                    _solicit(raw, index, mac, target)
    return found


@contextlib.contextmanager
def _icmp6(interface: str) -> t.Iterator[tuple[socket.socket, int]]:
    """A socket for what neighbours on an interface say, and the number of the interface."""
    index = socket.if_nametoindex(interface)
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        yield raw, index


def _solicit(raw: socket.socket, index: int, mac: str, target: bytes) -> None:
    """Ask who has an address."""
    group = socket.inet_ntop(socket.AF_INET6, b"\xff\x02" + bytes(9) + b"\x01\xff" + target[-3:])
    own = bytes.fromhex(mac.replace(":", ""))
    question = struct.pack("!BBHI", _SOLICIT, 0, 0, 0) + target + struct.pack("!BB6s", 1, 1, own)
    # While this host's own address is being tested for duplicates, it cannot ask.
    with contextlib.suppress(OSError):
        raw.sendto(question, (group, 0, 0, index))


def _call_all(raw: socket.socket, index: int, own: ipaddress.IPv6Interface) -> None:
    """Have everybody on a link answer, from an address in the subnet of this host's own."""
    question = struct.pack("!BBHHH", _ECHO, 0, 0, os.getpid() & 0xFFFF, 1)
    source = struct.pack("16si", own.ip.packed, index)
    with contextlib.suppress(OSError):
        raw.sendmsg([question], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)], 0, ("ff02::1", 0, 0, index))


def _link_address(advertisement: bytes) -> str:
    """The MAC that an advertisement tells; empty where it tells none."""
    options = advertisement[24:]
    while len(options) >= 8 and options[1]:
        if options[0] == _LINK_ADDRESS:
            return options[2:8].hex(":")
        options = options[options[1] * 8 :]
    return ""


def _answers6(interface: str, mac: str, address: str, deadline: Deadline) -> bool:
    target = socket.inet_pton(socket.AF_INET6, address)
    with _icmp6(interface) as (raw, index):
        while not deadline.expired():
            _solicit(raw, index, mac, target)
            patience = Deadline(min(_PATIENCE, deadline.left()))
            while select.select([raw], [], [], patience.left())[0]:
                answer, where = raw.recvfrom(256)
                if answer[:1] == bytes([_ADVERTISE]) and answer[8:24] == target and where[3] in (0, index):
                    return True
                if patience.expired():
                    break
    return False
