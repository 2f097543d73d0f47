# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Network interfaces of this host: bridges and taps of networks, what else there is, and where routes lead."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import ipaddress
import json
import os
import stat
import struct
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HostError,
    HypervisorError,
    InUse,
    MissingRequirement,
)
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import subnets
from ansible_collections.minicloud.local.plugins.module_utils._json import understood
from ansible_collections.minicloud.local.plugins.module_utils._model import key_of
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime

# From linux/if_tun.h.
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000


class Link(t.NamedTuple):
    """An interface. kind -- bridge, tun, veth …, empty of a physical one; addresses -- with their prefix lengths."""

    name: str
    number: int
    kind: str
    master: str
    mtu: int
    up: bool
    mac: str
    addresses: tuple[str, ...]
    loopback: bool = False


class Route(t.NamedTuple):
    """A route. destination -- in CIDR form or default; device and gateway may be empty"""

    destination: str
    device: str
    gateway: str
    metric: int = 0


def ip_program(runtime: Runtime) -> str:
    """The path of the program ip."""
    return runtime.program("ip", "iproute2", "to make networks")


def told_by_ip(runtime: Runtime, ip: str, *arguments: str, problem: str = "") -> list[dict[str, t.Any]]:
    """What `ip -j` tells of interfaces or routes.

    ip -- the path of the program; problem -- what CommandFailed says where it fails; without it, nothing is told then
    """
    argv = [ip, "-j", *arguments]
    out = runtime.check(argv, problem) if problem else runtime.run(argv).out
    return [each for each in json.loads(out or "[]") if each]


@understood("what ip says of the interfaces", HostError)
def read_links(runtime: Runtime) -> dict[str, Link]:
    """All interfaces of this host, by name."""
    found = {}
    ip = ip_program(runtime)
    for entry in told_by_ip(runtime, ip, "-d", "address", "show", problem="the interfaces could not be listed"):
        flags = entry.get("flags", ())
        link = Link(
            name=entry["ifname"],
            number=entry["ifindex"],
            kind=entry.get("linkinfo", {}).get("info_kind", ""),
            master=entry.get("master", ""),
            mtu=entry.get("mtu", 0),
            up="UP" in flags,
            mac=entry.get("address", ""),
            addresses=tuple(
                f"{each['local']}/{each['prefixlen']}" for each in entry.get("addr_info", ()) if "local" in each
            ),
            loopback="LOOPBACK" in flags,
        )
        found[link.name] = link
    return found


@understood("what ip says of the routes", HostError)
def read_routes(runtime: Runtime, family: int = 4) -> list[Route]:
    """The unicast routes of all routing tables."""
    arguments = (f"-{family}", "route", "show", "table", "all")
    routes = []
    for entry in told_by_ip(runtime, ip_program(runtime), *arguments, problem="the routes could not be listed"):
        if entry.get("type", "unicast") == "unicast":
            routes.append(
                Route(entry["dst"], entry.get("dev", ""), entry.get("gateway", ""), int(entry.get("metric", 0)))
            )
    return routes


def taken(
    network: Network, others: t.Iterable[Network], there: t.Collection[Link], routes: t.Collection[Route]
) -> list[subnets.Taken]:
    """What of the address space is in use by something else than a network.

    others -- networks, it may be among them; there, routes -- all that this host has
    """
    found = []
    for other in others:
        itself = (other.scope, key_of(other.name)) == (network.scope, key_of(network.name))
        if other.subnet and not itself:
            owner = f"the network {other.name} of the scope {other.scope}"
            found.append(subnets.Taken(ipaddress.IPv4Network(other.subnet), owner))
    for link in there:
        if link.name != network.interface:
            for text in link.addresses:
                if ":" not in text and not link.loopback:
                    found.append(subnets.Taken(_subnet(text), f"the subnet of the interface {link.name}"))
    for route in routes:
        if route.destination != "default" and (not network.interface or route.device != network.interface):
            by = f"the route of {route.device}" if route.device else "a route of this host"
            found.append(subnets.Taken(_subnet(route.destination), by))
    own = {text.partition("/")[0] for link in there for text in link.addresses}
    if network.subnet:
        own.add(subnets.gateway(subnets.parse_subnet(network.subnet)))
    for address in _name_servers() if routes else ():
        # The host may well ask a network of its own.
        if address not in own:
            found.append(subnets.Taken(_subnet(address), "a name server of this host"))
    return found


# The second has those that systemd-resolved asks, when it is asked by way of the first.
_RESOLVERS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")


@functools.cache
def _name_servers() -> tuple[str, ...]:
    """Whom the host asks for names, by IPv4: often beyond its default route, where nothing else tells of them."""
    found = {}
    for path in _RESOLVERS:
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
            for line in stream:
                word, dummy, address = line.partition(" ")
                if word == "nameserver":
                    with contextlib.suppress(ValueError):
                        found[str(ipaddress.IPv4Address(address.strip()))] = True
    return tuple(found)


@functools.cache
def _subnet(text: str) -> ipaddress.IPv4Network:
    """The subnet that an address with a prefix length is in. Each network of many asks for the same ones."""
    return ipaddress.IPv4Network(text, strict=False)


def change(runtime: Runtime, commands: t.Sequence[str], what: str) -> None:
    """Carry out some commands of ip, one after the other; WHAT says what failed if one does."""
    if commands:
        text = "".join(f"{command}\n" for command in commands)
        runtime.check([ip_program(runtime), "-batch", "-"], what, stdin=text.encode())


def bridge_mac(interface: str) -> str:
    """The MAC of a bridge of ours: its own, and not that of whichever tap is the lowest."""
    digits = interface[-8:]
    return ":".join(["52", "55", *(digits[at : at + 2] for at in range(0, 8, 2))])


def tap_name(interface: str, mac: str) -> str:
    """The name of the tap by which a guest's interface is on a bridge: the same at each start."""
    import hashlib

    return "mct" + hashlib.sha256(f"{interface} {mac.lower()}".encode()).hexdigest()[:10]


def open_tap(name: str) -> int:
    """Make a tap and return the file that is its other end: with the last one that has it open the tap is gone."""
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise MissingRequirement(
            "no interface for a guest can be made on this host",
            f"/dev/net/tun: {exc.strerror}",
            "Load the kernel module tun, or in a container pass the device on.",
        ) from exc
    try:
        request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except OSError as exc:
        os.close(descriptor)
        if exc.errno == errno.EBUSY:
            raise InUse(
                f"the interface {name} is in use", "another process has it", "Stop the instance first."
            ) from exc
        raise HypervisorError(
            f"the interface {name} could not be made", exc.strerror or str(exc), "Run as root."
        ) from exc
    return descriptor


def open_macvtap(runtime: Runtime, name: str, parent: str, mac: str) -> int:
    """Make an interface on top of another one and return the file that is its other end.

    Unlike a tap it does not go by itself: whoever starts the guest again makes it anew, and remove_macvtap() ends it.
    """
    remove_macvtap(runtime, name)
    add = f"link add link {parent} name {name} address {mac} type macvtap mode bridge"
    change(runtime, [add, f"link set dev {name} up"], f"the interface {name} on top of {parent} could not be made")
    runtime.report.step("macvtap")
    found = told_by_ip(runtime, ip_program(runtime), "link", "show", "dev", name, problem=f"{name} is not there")
    device = f"/dev/tap{found[0]['ifindex']}"
    if not os.path.exists(device):
        # For systems where no udev makes the device.
        with open(f"/sys/class/net/{name}/tap{found[0]['ifindex']}/dev", encoding="ascii") as stream:
            major, minor = stream.read().strip().split(":")
        os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(int(major), int(minor)))
    return os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def remove_macvtap(runtime: Runtime, name: str) -> None:
    """Remove an interface of a guest that is on top of another one; all the same if it is not there."""
    found = told_by_ip(runtime, ip_program(runtime), "link", "show", "dev", name)
    if found:
        change(runtime, [f"link delete dev {name} type macvtap"], f"the interface {name} could not be removed")
        with contextlib.suppress(OSError):
            os.unlink(f"/dev/tap{found[0]['ifindex']}")


def keep_advertised_routes(runtime: Runtime) -> None:
    """Have this host keep the IPv6 default routes that routers have told it, also when it begins to forward.

    The kernel drops them then, and listens to routers no more, unless told to do so all the same.
    """
    for route in told_by_ip(runtime, ip_program(runtime), "-6", "route", "show", "default", "proto", "ra"):
        for hop in route.get("nexthops") or [route]:
            key = f"ipv6/conf/{hop.get('dev', '')}/accept_ra"
            if read_sysctl(key) == "1":
                write_sysctl(key, "2")


def read_sysctl(key: str) -> str | None:
    """A setting of the kernel's networking, such as ipv4/ip_forward; None where there is none."""
    try:
        with open(f"/proc/sys/net/{key}", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return None


def write_sysctl(key: str, value: str) -> None:
    """Change a setting of the kernel's networking. MissingRequirement where that is not allowed."""
    try:
        with open(f"/proc/sys/net/{key}", "w", encoding="ascii") as stream:
            stream.write(value)
    except OSError as exc:
        raise MissingRequirement(
            f"the kernel setting net.{key.replace('/', '.')} could not be set to {value}",
            exc.strerror or str(exc),
            "Set it with sysctl, or in a container on its host.",
        ) from exc
