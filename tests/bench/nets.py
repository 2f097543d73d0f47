# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Networks: how soon a guest's address is known, what comes through, and what looking at them costs."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import socket
import statistics
import struct
import time
import typing as t

from frame import (
    BOOT_LIMIT,
    USER,
    Bench,
    Guest,
    Row,
    a_record,
    beyond_row,
    change,
    change_network,
    in_turns,
    no_change_rows,
    verdict,
)

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import links
from ansible_collections.minicloud.local.plugins.module_utils._model import MIB, Nic
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.listing import list_instances
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

NETWORKS, RESERVATIONS = 50, 1000
LAUNCHES = 3
TRANSFERS = 11
TRANSFER_SECONDS = 1.0

# The bridge made by hand, and its addresses: those that are reserved for documentation, which no host has.
BRIDGE = f"mclbench{os.getpid() % 1000000}"
HAND = "198.51.100"
SINK, SOURCE = 5001, 5002

# Who takes what is sent to it; who sends as many blocks as it is asked for; and who asks for them. Blocks are large:
# the guests' own programs are not what is measured.
_SCRIPTS = r"""
    printf '#!/bin/sh\nexec dd of=/dev/null bs=64k\n' > sink
    printf '#!/bin/sh\nread -r count\nexec dd if=/dev/zero bs=64k count=$count\n' > source
    printf '#!/bin/sh\nread -r began rest < /proc/uptime\ncat /run/count\ndd of=/dev/null bs=64k\n' > take
    echo 'read -r ended rest < /proc/uptime; echo "$began $ended" > /run/took' >> take
    chmod 755 sink source take
"""

_ETH_P_ALL = 0x0003
_SO_TIMESTAMP = 29
_ACK = 5


def networks(bench: Bench) -> list[Row]:
    """Everything about networks of this host, which only root can make."""
    if os.geteuid() != 0:
        return [Row("networks", "", "", "", "", "not measured: only root makes bridges")]
    data = bench.data("networks")
    lan = change_network(data, name="lan")
    small = {"image": bench.tiny(), "user": USER, "memory": "128M", "networks": [{"name": "lan"}]}
    rows = first_address(data, lan["interface"], small)
    rows += no_change_rows(
        lambda name, tasks, count: bench.play(name, tasks, data, count)[1],
        "CPU of a no-change `network` task in a play",
        {"minicloud.local.network": {"name": "lan"}},
        1.5,
    )
    rows += Throughput(bench, data, lan["interface"]).rows()
    return rows + many_networks(bench)


# -- the first address -------------------------------------------------------------------------------------------------


class Acknowledgements:
    """The answers of DHCP servers that leave this host by a bridge, with the time at which the kernel saw them."""

    def __init__(self, bridge: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMP, 1)
        self._socket.bind((bridge, _ETH_P_ALL))
        self._socket.settimeout(30)

    def __enter__(self) -> Acknowledgements:
        return self

    def __exit__(self, *dummy: object) -> None:
        self._socket.close()

    def first(self, mac: str) -> float:
        """When a MAC was first told that it has an address; in seconds since the epoch.

        That may be still to come: of an address that is only offered, this host knows already who is to have it.
        """
        with contextlib.suppress(TimeoutError):
            while True:
                packet, extra, dummy, dummy = self._socket.recvmsg(2048, 256)
                if _acknowledges(packet, mac):
                    ((_level, _type, stamp),) = extra
                    seconds, micro = struct.unpack("ll", stamp[: struct.calcsize("ll")])
                    return float(seconds + micro / 1e6)
        raise RuntimeError(f"no DHCP server has given {mac} an address")


def _acknowledges(packet: bytes, mac: str) -> bool:
    """Whether an IP packet is the answer of a DHCP server that gives a MAC an address."""
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_UDP:
        return False
    segment = packet[(packet[0] & 15) * 4 :]
    message = segment[8:]
    if segment[:2] != struct.pack("!H", 67) or message[28:34].hex(":") != mac.lower():
        return False
    at = 240
    while at + 2 < len(message) and message[at] != 255:
        if message[at] == 53:
            return message[at + 2] == _ACK
        at += 1 if message[at] == 0 else 2 + message[at + 1]
    return False


def first_address(data: DataDirectory, bridge: str, options: dict[str, t.Any]) -> list[Row]:
    """From the start of a guest until it is known which address it has; the last two guests stay."""
    names = [f"g{number}" for number in range(LAUNCHES)]
    known, given = [], []
    for name in names:
        with Acknowledgements(bridge) as answers:
            began = time.time()
            view = change(data, name=name, wait=False, **options)
            await_address(data, name)
            known.append(time.time() - began)
            given.append(answers.first(view["networks"][0]["mac"]) - began)
    change(data, name=names[0], state="absent", force=True)
    print(f"  given: {'  '.join(f'{value:.3f}' for value in given)}")
    print(f"  known: {'  '.join(f'{value:.3f}' for value in known)}", flush=True)
    later = statistics.median(after - before for after, before in zip(known, given))
    at = statistics.median(given)
    return [beyond_row("first address of a guest known", at + later, at, "s", "DHCP acknowledgement", 0.3)]


def await_address(data: DataDirectory, name: str) -> None:
    """Look, as instance_info does, until a guest has an address."""
    for dummy in Deadline(BOOT_LIMIT).pauses(first=0.01, longest=0.01):
        for each in list_instances(Runtime(run), data, ["qemu"]):
            if each.instance.name == name and each.view(data)["addresses"]:
                return
    raise RuntimeError(f"{name} has no address after {BOOT_LIMIT:g} s")


# -- throughput --------------------------------------------------------------------------------------------------------


class Throughput:
    """What two guests send and receive on a network of the collection, and on a bridge made by hand.

    They are the same guests all the time: their taps are moved from bridge to bridge, and they have addresses on both.
    """

    def __init__(self, bench: Bench, data: DataDirectory, bridge: str) -> None:
        self.bench = bench
        self.bridge = bridge
        self.guest = Guest(data)
        found = [each.view(data) for each in list_instances(Runtime(run), data, ["qemu"])]
        self.taps = [links.tap_name(bridge, view["networks"][0]["mac"]) for view in found]
        self.addresses = [view["addresses"][0] for view in found]
        self.size = 4 * MIB

    def rows(self) -> list[Row]:
        """Measure in turns."""
        self.prepare()
        found = {}
        for what, measure in (("guest to guest", self.between_guests), ("host to guest", self.from_host)):
            self.size = 4 * MIB
            for dummy in range(2):  # the first one warms up the emulator
                seconds = measure(self.addresses)
                self.size = max(MIB, int(self.size * TRANSFER_SECONDS / seconds) // MIB * MIB)
            found[what] = self.compared(what, measure), self.size / 10**6
        return [self.row(what, times, size) for what, (times, size) in found.items()]

    def prepare(self) -> None:
        """The bridge, the addresses on it, and who receives."""
        for address in self.addresses:
            self.guest.await_login(22, address)
        self.bench.afterwards(lambda: self.ip("link", "delete", BRIDGE))
        self.ip("link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
        self.ip("address", "add", f"{HAND}.1/24", "dev", BRIDGE)
        self.ip("link", "set", BRIDGE, "up")
        for number, address in enumerate(self.addresses):
            # A renewed lease would take the other address away.
            command = f"killall udhcpc; ip address add {HAND}.{number + 2}/24 dev eth0; cd /run; {_SCRIPTS}"
            servers = f"nc -ll -p {SINK} -e /run/sink & nc -ll -p {SOURCE} -e /run/source &"
            self.login(address, f"{command} exec </dev/null >/dev/null 2>&1; {servers}")

    def ip(self, *argv: str) -> None:
        """The command ip."""
        self.bench.program(["ip", *argv])

    def login(self, address: str, command: str) -> str:
        """What a command in a guest says."""
        done = self.guest.run(22, command, address)
        if done.rc:
            raise RuntimeError(f"{command} in {address}: {done.err or done.out}")
        return done.out

    def compared(self, what: str, measure: t.Callable[[t.Sequence[str]], float]) -> dict[str, float]:
        """The seconds of a transfer on either bridge."""

        def moved(bridge: str, addresses: t.Sequence[str]) -> float:
            for tap in self.taps:
                self.ip("link", "set", "dev", tap, "master", bridge)
            return measure(addresses)

        try:
            return in_turns(
                TRANSFERS,
                {
                    f"{what}, by hand": lambda: moved(BRIDGE, [f"{HAND}.{number + 2}" for number in (0, 1)]),
                    f"{what}, collection": lambda: moved(self.bridge, self.addresses),
                },
            )
        finally:
            for tap in self.taps:
                self.ip("link", "set", "dev", tap, "master", self.bridge)

    def between_guests(self, addresses: t.Sequence[str]) -> float:
        """The seconds that the first guest takes to receive from the second, by its own clock."""
        command = f"echo {self.size >> 16} > /run/count; nc {addresses[1]} {SOURCE} -e /run/take; cat /run/took"
        began, ended = map(float, self.login(addresses[0], command).split())
        return ended - began

    def from_host(self, addresses: t.Sequence[str]) -> float:
        """The seconds that this host takes to send to the second guest."""
        block = bytes(64 << 10)
        with socket.create_connection((addresses[1], SINK), 60) as connection:
            began = time.perf_counter()
            for dummy in range(self.size // len(block)):
                connection.sendall(block)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
            return time.perf_counter() - began

    @staticmethod
    def row(what: str, times: dict[str, float], size: float) -> Row:
        """The medians of both sides as rates."""
        theirs, ours = (size / seconds for seconds in times.values())
        ratio = ours / theirs
        return Row(
            f"throughput, {what}",
            f"{ours:.0f} MB/s",
            f"{theirs:.0f} MB/s (the same guests, bridge made by hand)",
            f"{ratio:.2f} ×",
            "≥ 0.95 ×",
            verdict(ratio >= 0.95),
        )


# -- many networks -----------------------------------------------------------------------------------------------------


def many_networks(bench: Bench) -> list[Row]:
    """A look at many networks, each with addresses that are kept for instances which do not run."""
    data = bench.data("many-networks")
    scope = data.scope("qemu")
    # What was only written down needs no removal step by step.
    bench.afterwards(lambda: shutil.rmtree(os.path.join(data.path, "scopes", "qemu", "instances"), ignore_errors=True))
    for number in range(NETWORKS):
        view = change_network(data, name=f"net-{number:02}")
        hosts = list(ipaddress.IPv4Network(view["subnet"]).hosts())
        for host in range(RESERVATIONS // NETWORKS):
            record = a_record(
                f"n{number:02}-{host:02}",
                f"00000000-0000-4000-8000-{number:06}{host:06}",
                cpus=1,
                nics=[Nic(view["name"], f"52:54:00:01:{number:02x}:{host:02x}", lease=str(hosts[host + 9]))],
            )
            scope.write(record)
        change_network(data, name=view["name"])
    modules = {
        "ping": bench.packed("ansible.builtin.ping", {}, data),
        "network_info": bench.packed("minicloud.local.network_info", {}, data),
    }

    def module(name: str) -> tuple[float, str]:
        seconds, dummy, output = bench.program([bench.python, modules[name]], data)
        return seconds, output

    listed = json.loads(module("network_info")[1])["networks"]
    kept = sum(len(network["instances"]) for network in listed)
    wrong = [text for network in listed for text in network["drift"]]
    if len(listed) != NETWORKS or kept != RESERVATIONS or wrong:
        raise RuntimeError(f"{len(listed)} networks with {kept} reservations; {wrong[:1]}")
    found = in_turns(7, {name: lambda name=name: module(name)[0] for name in modules})
    what = f"`network_info` of {NETWORKS} networks with {RESERVATIONS:,} reservations"
    return [beyond_row(what, found["network_info"], found["ping"], "s", "the module `ping`", 0.5)]
