# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The hub of a network of an ordinary user: a switch between guests, and their server of addresses and names.

A program of its own: it imports nothing but the standard library, and runs from a copy in the network's directory, in
which all of its files are. Each guest interface is a datagram socket there, named after its MAC, and sends the frames
of the guest to the hub's. Nobody else can open either, for the directory is private. As datagrams know no
connections, a hub that is started anew goes on where the last one ended.

On the network the hub has the gateway's address, at which it answers ARP, ping, DHCP and DNS. It passes nothing on to
the host or the world, except names that are not of the network to the name servers of the host.

It ends when the last guest has: each QEMU holds a shared lock, and the hub waits for the exclusive one.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import fcntl
import ipaddress
import json
import os
import select
import socket
import struct
import sys
import threading
import time
import typing as t

# Files in the directory of the network.
SOCKET, CONFIG, LEASES, MEMBERS, PID, LOG = "hub.sock", "hub.json", "leases", "members.lock", "hub.pid", "hub.log"
PROGRAM = "hub.py"
PORT_SUFFIX = ".port"

# Guests ask every half of it whether it is still theirs.
LEASE_SECONDS = 3600

_MAC = bytes.fromhex("52550a000001")
_BROADCAST = b"\xff" * 6
_IPV4, _ARP = 0x0800, 0x0806
_ICMP, _UDP = 1, 17
_COOKIE = b"\x63\x82\x53\x63"
_DISCOVER, _OFFER, _REQUEST, _ACK, _NAK, _RELEASE, _INFORM = 1, 2, 3, 5, 6, 7, 8
_A, _PTR, _AAAA, _ANY = 1, 12, 28, 255
_REFUSED, _NXDOMAIN, _SERVFAIL = 5, 3, 2

# Frames that wait for a guest that is busy; what comes on top is lost, as on any network.
_QUEUE = 512
# MACs that are remembered, questions that are under way, and seconds that an answer may take.
_MOST_MACS, _MOST_QUESTIONS, _PATIENCE = 8192, 128, 8.0
# Where a guest is looked for that holds no lock: one that another program has started.
_LOOK_AGAIN = 10.0


class Guest(t.NamedTuple):
    """A guest interface that the hub knows: the guest's name, and the address that is kept for it."""

    name: str
    address: str


class Config:
    """What the hub serves.

    gateway -- its own address; guests -- by MAC; upstream -- whether it asks other name servers; mtu -- 0: the usual
    """

    def __init__(
        self, subnet: str, domain: str, guests: t.Mapping[str, Guest], upstream: bool = True, mtu: int = 0
    ) -> None:
        network = ipaddress.IPv4Network(subnet)
        self.subnet = network
        self.gateway = str(network.network_address + 1)
        self.domain = domain.lower()
        self.guests = {mac.lower(): guest for mac, guest in guests.items()}
        self.upstream = upstream
        self.mtu = mtu
        self.by_name = {guest.name.lower(): guest.address for guest in self.guests.values() if guest.address}
        self.by_address = {guest.address: guest.name for guest in self.guests.values() if guest.address}

    def to_text(self) -> str:
        """As the file that the hub reads."""
        data = {
            "subnet": str(self.subnet),
            "domain": self.domain,
            "hosts": {mac: list(guest) for mac, guest in sorted(self.guests.items())},
            "upstream": self.upstream,
            "mtu": self.mtu,
        }
        return json.dumps(data, indent=1) + "\n"

    @classmethod
    def from_text(cls, text: str) -> Config:
        """From that file. ValueError, KeyError or TypeError where it is none."""
        data = json.loads(text)
        guests = {mac: Guest(*entry) for mac, entry in data["hosts"].items()}
        return cls(data["subnet"], data["domain"], guests, data["upstream"], data["mtu"])


# Frames


def _checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _ipv4(protocol: int, source: bytes, target: bytes, payload: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0x4000, 64, protocol, 0, source, target)
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + payload


def udp_frame(mac: bytes, source: tuple[str, int], target: tuple[str, int], payload: bytes) -> bytes:
    """A frame from the hub to a MAC with a UDP datagram."""
    sender, receiver = socket.inet_aton(source[0]), socket.inet_aton(target[0])
    head = struct.pack("!HHHH", source[1], target[1], 8 + len(payload), 0)
    pseudo = sender + receiver + struct.pack("!BBH", 0, _UDP, 8 + len(payload))
    total = _checksum(pseudo + head + payload) or 0xFFFF
    datagram = head[:6] + struct.pack("!H", total) + payload
    return mac + _MAC + struct.pack("!H", _IPV4) + _ipv4(_UDP, sender, receiver, datagram)


def arp_answer(frame: bytes, gateway: str) -> bytes | None:
    """The answer to a frame that asks for the MAC of the hub, else None."""
    if len(frame) < 42 or frame[14:22] != b"\0\1\x08\0\x06\x04\0\1" or frame[38:42] != socket.inet_aton(gateway):
        return None
    asker = frame[22:28]
    head = asker + _MAC + struct.pack("!H", _ARP) + b"\0\1\x08\0\x06\x04\0\2"
    return head + _MAC + frame[38:42] + frame[22:32]


class Packet(t.NamedTuple):
    """An IPv4 packet that is no fragment. payload -- of the protocol; ports are those of UDP, else 0"""

    protocol: int
    source: str
    target: str
    source_port: int
    target_port: int
    payload: bytes


def parse_packet(frame: bytes) -> Packet | None:
    """The IPv4 packet in a frame; None where there is no whole one."""
    if len(frame) < 34 or frame[14] >> 4 != 4:
        return None
    head = (frame[14] & 15) * 4
    total, dummy, fragment = struct.unpack_from("!HHH", frame, 16)
    if head < 20 or total < head or len(frame) < 14 + total or fragment & 0x3FFF:
        return None
    source, target = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
    payload = frame[14 + head : 14 + total]
    if frame[23] != _UDP:
        return Packet(frame[23], source, target, 0, 0, payload)
    if len(payload) < 8:
        return None
    source_port, target_port, length = struct.unpack_from("!HHH", payload)
    return Packet(_UDP, source, target, source_port, target_port, payload[8 : max(8, length)])


def ping_answer(frame: bytes, packet: Packet, gateway: str) -> bytes | None:
    """The answer to a ping of the hub, else None."""
    if packet.protocol != _ICMP or packet.target != gateway or len(packet.payload) < 8 or packet.payload[0] != 8:
        return None
    rest = packet.payload[4:]
    message = struct.pack("!BBH", 0, 0, _checksum(b"\0\0\0\0" + rest)) + rest
    addresses = socket.inet_aton(gateway), socket.inet_aton(packet.source)
    return frame[6:12] + _MAC + struct.pack("!H", _IPV4) + _ipv4(_ICMP, *addresses, message)


# DHCP


def dhcp_options(data: bytes) -> dict[int, bytes]:
    """The options of a DHCP message, without the cookie before them."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        if at + 1 >= len(data):
            break
        length = data[at + 1]
        found[data[at]] = found.get(data[at], b"") + data[at + 2 : at + 2 + length]
        at += 2 + length
    return found


class Offer(t.NamedTuple):
    """The answer to a DHCP message. frame -- that has it; kind -- as in the message; mac and address -- of the guest"""

    frame: bytes
    kind: int
    mac: str
    address: str


def dhcp_answer(message: bytes, config: Config) -> Offer | None:
    """The answer to what a guest sent to the DHCP server, None where it gets none."""
    if len(message) < 240 or message[:3] != b"\1\1\6" or message[236:240] != _COOKIE:
        return None
    xid, dummy, flags, client = struct.unpack_from("!IHH4s", message, 4)
    hardware = message[28:34]
    mac = ":".join(f"{byte:02x}" for byte in hardware)
    guest = config.guests.get(mac)
    options = dhcp_options(message[240:])
    asked = options.get(53, b"")[:1]
    if guest is None or not guest.address or not asked:
        return None
    gateway, address = socket.inet_aton(config.gateway), socket.inet_aton(guest.address)
    given = address
    if asked[0] == _DISCOVER:
        kind = _OFFER
    elif asked[0] == _REQUEST:
        if options.get(54, gateway) != gateway:
            return None  # it took what another server offered
        kind = _ACK if options.get(50, client) == address else _NAK
    elif asked[0] == _RELEASE:
        return Offer(b"", _RELEASE, mac, guest.address)
    elif asked[0] == _INFORM:
        kind, given = _ACK, bytes(4)
    else:
        return None
    if kind == _NAK:
        given, client, flags = bytes(4), bytes(4), flags | 0x8000
    reply = struct.pack("!BBBBIHH", 2, 1, 6, 0, xid, 0, flags) + (client if kind == _ACK else bytes(4))
    reply += given + gateway + bytes(4) + hardware.ljust(16, b"\0") + bytes(192) + _COOKIE
    reply += bytes([53, 1, kind, 54, 4]) + gateway
    if kind != _NAK:
        if given != bytes(4):
            reply += struct.pack("!BBI", 51, 4, LEASE_SECONDS)
        reply += b"\1\4" + config.subnet.netmask.packed + b"\x1c\4" + config.subnet.broadcast_address.packed
        reply += b"\6\4" + gateway
        for number, text in ((15, config.domain), (12, guest.name)):
            reply += bytes([number, len(text)]) + text.encode()
        if config.mtu:
            reply += struct.pack("!BBH", 26, 2, config.mtu)
    reply = (reply + b"\xff").ljust(300, b"\0")
    # A client without an address receives broadcasts, or what is sent to the address it is offered.
    target = socket.inet_ntoa(client) if kind == _ACK and client != bytes(4) else socket.inet_ntoa(given)
    if flags & 0x8000 or given == bytes(4) == client:
        hardware, target = _BROADCAST, "255.255.255.255"
    return Offer(udp_frame(hardware, (config.gateway, 67), (target, 68), reply), kind, mac, guest.address)


# DNS


class Question(t.NamedTuple):
    """The question of a DNS message. raw -- as it is in the message"""

    name: str
    kind: int
    raw: bytes


def parse_question(message: bytes) -> Question | None:
    """The question of a DNS query that has exactly one, in lower case; None where it has not."""
    if len(message) < 17:
        return None
    dummy, flags, count = struct.unpack_from("!HHH", message)
    if flags & 0xF800 or count != 1:
        return None
    labels, at = [], 12
    while at < len(message) and message[at]:
        length = message[at]
        if length > 63 or at + 1 + length >= len(message):
            return None
        labels.append(message[at + 1 : at + 1 + length].decode("ascii", "replace").lower())
        at += 1 + length
    if at + 5 > len(message):
        return None
    kind, class_ = struct.unpack_from("!HH", message, at + 1)
    if class_ != 1:
        return None
    return Question(".".join(labels), kind, message[12 : at + 5])


def dns_answer(message: bytes, config: Config) -> bytes | None:
    """The answer to a query that the network itself can answer; None where other name servers have to."""
    question = parse_question(message)
    if question is None:
        return _dns_reply(message, None, _REFUSED)
    name, suffix = question.name, f".{config.domain}"
    if name.endswith(".in-addr.arpa"):
        return _reverse(message, question, config)
    if name == config.domain:
        return _dns_reply(message, question)
    inner = name[: -len(suffix)] if name.endswith(suffix) else name
    if inner in config.by_name:
        if question.kind not in (_A, _ANY):
            return _dns_reply(message, question)
        return _dns_reply(message, question, 0, _A, socket.inet_aton(config.by_name[inner]))
    if inner is not name or (name and "." not in name):
        return _dns_reply(message, question, _NXDOMAIN)
    return None if config.upstream else _dns_reply(message, question, _REFUSED)


def _reverse(message: bytes, question: Question, config: Config) -> bytes | None:
    try:
        address = ipaddress.IPv4Address(".".join(reversed(question.name[: -len(".in-addr.arpa")].split("."))))
    except ValueError:
        return _dns_reply(message, question, _NXDOMAIN)
    if address not in config.subnet:
        return None if config.upstream else _dns_reply(message, question, _REFUSED)
    name = config.by_address.get(str(address))
    if name is None:
        return _dns_reply(message, question, _NXDOMAIN)
    if question.kind not in (_PTR, _ANY):
        return _dns_reply(message, question)
    labels = [label.encode() for label in f"{name}.{config.domain}".split(".")]
    return _dns_reply(message, question, 0, _PTR, b"".join(bytes([len(each)]) + each for each in labels) + b"\0")


def _dns_reply(message: bytes, question: Question | None, code: int = 0, kind: int = 0, data: bytes = b"") -> bytes:
    """A reply without an answer, or where there is data with one that holds for as long as it takes to read it."""
    wanted = struct.unpack_from("!H", message, 2)[0] & 0x0100 if len(message) >= 4 else 0
    head = message[:2].ljust(2, b"\0") + struct.pack("!H", 0x8480 | wanted | code)
    head += struct.pack("!HHHH", 1 if question else 0, 1 if data else 0, 0, 0)
    answer = struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(data)) + data if data else b""
    return head + (question.raw if question else b"") + answer


def name_servers(path: str = "/etc/resolv.conf") -> list[str]:
    """The name servers of this host."""
    found = []
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                found.append(words[1])
    return found


class _Pending(t.NamedTuple):
    """A query that a name server of the host was asked. mac, target -- of who wants to know"""

    out: socket.socket
    mac: bytes
    target: tuple[str, int]
    until: float


class _Port:
    """The socket of a guest interface, as the hub writes to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.out: socket.socket | None = None
        self.waiting: collections.deque[bytes] = collections.deque()

    def connect(self) -> bool:
        """Whether there is somebody who reads it."""
        self.close()
        out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        out.setblocking(False)
        try:
            out.connect(self.name)
        except OSError:
            out.close()
            return False
        self.out = out
        return True

    def close(self) -> None:
        if self.out is not None:
            self.out.close()
            self.out = None
        self.waiting.clear()


class Hub:
    """Switches frames and serves, in the current directory."""

    def __init__(self, inbox: socket.socket) -> None:
        """inbox -- what the guests send to"""
        self.poll = select.epoll()
        self.ports: dict[str, _Port] = {}
        self.macs: dict[bytes, _Port] = {}
        self.blocked: dict[int, _Port] = {}
        self.pending: dict[int, _Pending] = {}
        self.config: Config | None = None
        self._stamp: tuple[int, int, int] = (0, 0, 0)
        self._leases: dict[str, tuple[int, str, str]] = {}
        self.inbox = inbox
        self.inbox.setblocking(False)
        self.poll.register(self.inbox, select.EPOLLIN)
        # Guests that were there before this hub.
        for name in sorted(os.listdir(".")):
            if name.endswith(PORT_SUFFIX):
                self._port(name)

    def run(self) -> None:
        """Serve for ever."""
        inbox = self.inbox.fileno()
        while True:
            for descriptor, dummy in self.poll.poll(1.0 if self.pending else -1):
                if descriptor == inbox:
                    self._receive()
                elif descriptor in self.blocked:
                    self._unblock(descriptor)
                else:
                    self._relay(descriptor)
            self._forget_late()

    def _receive(self) -> None:
        receive = self.inbox.recvfrom
        for dummy in range(64):  # the others have their turn, too
            try:
                frame, sender = receive(65600)
            except BlockingIOError:
                return
            if len(frame) >= 14 and sender:
                port = self._port(os.path.basename(sender))
                if port is not None:
                    self._switch(frame, port)

    def _port(self, name: str) -> _Port | None:
        port = self.ports.get(name)
        if port is None and name.endswith(PORT_SUFFIX):
            port = _Port(name)
            if not port.connect():
                return None
            self.ports[name] = port
        return port

    def _switch(self, frame: bytes, sender: _Port) -> None:
        target, source = frame[:6], frame[6:12]
        if not source[0] & 1 and source != _MAC and self.macs.get(source) is not sender:
            if len(self.macs) >= _MOST_MACS:
                self.macs.clear()
            self.macs[source] = sender
        if target == _MAC:
            self._serve(frame, sender)
            return
        known = self.macs.get(target)
        if known is not None:
            if known is not sender:
                self._send(known, frame)
            return
        for port in list(self.ports.values()):
            if port is not sender:
                self._send(port, frame)
        if target[0] & 1:
            self._serve(frame, sender)

    def _send(self, port: _Port, frame: bytes) -> None:
        if port.waiting:
            if len(port.waiting) < _QUEUE:
                port.waiting.append(frame)
            return
        for dummy in range(2):
            if port.out is None:
                break
            try:
                port.out.send(frame)
                return
            except BlockingIOError:
                port.waiting.append(frame)
                self.blocked[port.out.fileno()] = port
                self.poll.register(port.out, select.EPOLLOUT)
                return
            except OSError as exc:
                if exc.errno not in (errno.ECONNREFUSED, errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE):
                    return  # this frame does not get through; the next may
            # The guest has gone; the same interface may be there anew, with another socket.
            if not port.connect():
                break
        self._drop(port)

    def _unblock(self, descriptor: int) -> None:
        port = self.blocked[descriptor]
        while port.waiting and port.out is not None:
            try:
                port.out.send(port.waiting[0])
            except BlockingIOError:
                return
            except OSError:
                self.blocked.pop(descriptor)
                self.poll.unregister(descriptor)
                port.waiting.clear()
                if not port.connect():
                    self._drop(port)
                return
            port.waiting.popleft()
        self.blocked.pop(descriptor)
        self.poll.unregister(descriptor)

    def _drop(self, port: _Port) -> None:
        if port.out is not None and port.out.fileno() in self.blocked:
            self.blocked.pop(port.out.fileno())
            self.poll.unregister(port.out)
        port.close()
        self.ports.pop(port.name, None)
        self.macs = {mac: other for mac, other in self.macs.items() if other is not port}

    # What it answers itself

    def _refresh(self) -> Config | None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = os.stat(CONFIG)
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if stamp != self._stamp:
                with open(CONFIG, encoding="utf-8") as stream:
                    self.config = Config.from_text(stream.read())
                self._stamp = stamp
        return self.config

    def _serve(self, frame: bytes, sender: _Port) -> None:
        kind = frame[12] << 8 | frame[13]
        if kind not in (_IPV4, _ARP):
            return
        packet = parse_packet(frame) if kind == _IPV4 else None
        if kind == _IPV4 and (packet is None or (frame[0] & 1 and packet.target_port != 67)):
            return
        config = self._refresh()
        if config is None:
            return
        answer: bytes | None = None
        if packet is None:
            answer = arp_answer(frame, config.gateway)
        elif packet.protocol == _UDP and packet.target_port == 67:
            answer = self._lease(packet.payload, config)
        elif packet.protocol == _UDP and packet.target_port == 53 and packet.target == config.gateway:
            answer = self._name(frame[6:12], packet, config)
        else:
            answer = ping_answer(frame, packet, config.gateway)
        if answer:
            self._send(sender, answer)

    def _lease(self, message: bytes, config: Config) -> bytes | None:
        offer = dhcp_answer(message, config)
        if offer is None:
            return None
        if offer.kind in (_ACK, _RELEASE):
            if offer.kind == _ACK:
                name = config.guests[offer.mac].name
                self._leases[offer.mac] = (int(time.time()) + LEASE_SECONDS, offer.address, name)
            else:
                self._leases.pop(offer.mac, None)
            self._write_leases()
        return offer.frame

    def _write_leases(self) -> None:
        """In the form that dnsmasq has them in."""
        lines = [f"{until} {mac} {address} {name} *\n" for mac, (until, address, name) in self._leases.items()]
        with contextlib.suppress(OSError):  # a full disk: guests have their addresses all the same
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{LEASES}.tmp")
            with open(f"{LEASES}.tmp", "x", encoding="ascii") as stream:
                stream.writelines(lines)
            os.rename(f"{LEASES}.tmp", LEASES)

    def read_leases(self) -> None:
        """Take over what an earlier hub gave out."""
        with contextlib.suppress(OSError, ValueError), open(LEASES, encoding="ascii") as stream:
            for line in stream:
                until, mac, address, name, dummy = line.split()
                if int(until) > time.time():
                    self._leases[mac] = (int(until), address, name)

    def _name(self, mac: bytes, packet: Packet, config: Config) -> bytes | None:
        asker = (packet.source, packet.source_port)
        answer = dns_answer(packet.payload, config)
        if answer is None:
            if self._ask(packet.payload, mac, asker):
                return None
            answer = _dns_reply(packet.payload, parse_question(packet.payload), _SERVFAIL)
        return udp_frame(mac, (config.gateway, 53), asker, answer)

    def _ask(self, message: bytes, mac: bytes, target: tuple[str, int]) -> bool:
        """Hand a query to the first name server of the host that takes it. Its answer comes later, if it comes."""
        if len(self.pending) >= _MOST_QUESTIONS:
            return False
        for server in name_servers():
            out = None
            try:
                out = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
                out.setblocking(False)
                out.connect((server, 53))
                out.send(message)
            except OSError:
                if out is not None:
                    out.close()
                continue
            self.pending[out.fileno()] = _Pending(out, mac, target, time.monotonic() + _PATIENCE)
            self.poll.register(out, select.EPOLLIN)
            return True
        return False

    def _relay(self, descriptor: int) -> None:
        """Hand the answer of a name server to the guest that has asked."""
        pending = self.pending.get(descriptor)
        port = self.macs.get(pending.mac) if pending else None
        if pending is None:
            return
        with contextlib.suppress(OSError):
            answer = pending.out.recv(65535)
            limit = (self.config.mtu if self.config and self.config.mtu else 1500) - 28
            if port is not None and self.config is not None and 12 <= len(answer) <= limit:
                self._send(port, udp_frame(pending.mac, (self.config.gateway, 53), pending.target, answer))
        self._close(descriptor)

    def _close(self, descriptor: int) -> None:
        pending = self.pending.pop(descriptor)
        self.poll.unregister(descriptor)
        pending.out.close()

    def _forget_late(self) -> None:
        if self.pending:
            now = time.monotonic()
            for descriptor in [descriptor for descriptor, each in self.pending.items() if each.until < now]:
                self._close(descriptor)


def _anybody() -> bool:
    """Whether a guest reads one of the sockets."""
    for name in os.listdir("."):
        if name.endswith(PORT_SUFFIX):
            port = _Port(name)
            if port.connect():
                port.close()
                return True
    return False


def _end_with_the_last() -> None:
    """Wait until no guest is left, and end this process."""
    descriptor = os.open(MEMBERS, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    while True:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not _anybody():
            break
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        time.sleep(_LOOK_AGAIN)
    # A run that starts a guest now waits for the lock. It gets it when this process ends, and then starts a new hub.
    for name in (SOCKET, PID):
        with contextlib.suppress(OSError):
            os.unlink(name)
    os._exit(0)


def main() -> None:
    """Run in the current directory, the network's, until the last guest has ended. Argument: SOCKET, open."""
    os.umask(0o077)
    hub = Hub(socket.socket(fileno=int(sys.argv[1])))
    hub.read_leases()
    threading.Thread(target=_end_with_the_last, daemon=True).start()
    hub.run()


if __name__ == "__main__":
    main()
