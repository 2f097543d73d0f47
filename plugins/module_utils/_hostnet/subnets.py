# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Subnets and addresses of networks: which are free, and which can be meant. Pure: nothing here asks the host."""

from __future__ import annotations

import ipaddress
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import InUse, InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._network import Network

Subnet = ipaddress.IPv4Network
Subnet6 = ipaddress.IPv6Network

# Where a subnet is chosen, in this order: what VPNs, Docker, libvirt and home routers take by themselves comes last.
_POOLS = ("10.128.0.0/9", "10.0.0.0/9", "172.16.0.0/12", "192.168.0.0/16")

# A route to more than this is a default route in disguise (a VPN's 0.0.0.0/1): every subnet is more special than it.
_WIDEST_ROUTE = 7

_LARGEST, _SMALLEST = 8, 29
# The prefix of those that are chosen: some thousand instances, and still hundreds of networks.
_CHOSEN = 20

# The smallest MTU that IPv6 allows.
_SMALLEST_MTU = 1280


class Taken(t.NamedTuple):
    """A part of the address space that is in use; by -- what uses it, such as `the route of tun0`."""

    subnet: Subnet
    by: str


def parse_subnet(text: str, option: str = "subnet") -> Subnet:
    """An IPv4 subnet in CIDR form. InvalidOption where it is none, or too small or too large for a network."""
    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError as exc:
        raise InvalidOption(
            f"{option} {text!r} is not an IPv4 subnet", str(exc), "Write it like 10.20.30.0/24."
        ) from exc
    if "/" not in text or not _LARGEST <= subnet.prefixlen <= _SMALLEST:
        raise InvalidOption(
            f"{option} {text!r} has no size that a network can have",
            hint=f"Give a prefix from /{_LARGEST} to /{_SMALLEST}, such as 10.20.30.0/24.",
        )
    usual = not (
        subnet.is_multicast or subnet.is_loopback or subnet.is_link_local or subnet.network_address.is_reserved
    )
    if not usual or subnet.network_address.packed[0] == 0:
        raise InvalidOption(
            f"{option} {text!r} cannot be used for hosts", hint="Take a private subnet, such as 10.20.30.0/24."
        )
    return subnet


def parse_subnet6(text: str, option: str = "subnet6") -> Subnet6:
    """An IPv6 subnet in CIDR form, a /64 as guests need it to configure themselves. InvalidOption."""
    try:
        subnet = ipaddress.IPv6Network(text)
    except ValueError as exc:
        raise InvalidOption(
            f"{option} {text!r} is not an IPv6 subnet", str(exc), "Write it like fd12:3456:789a::/64."
        ) from exc
    usual = not (
        subnet.is_multicast or subnet.is_link_local or subnet.is_loopback or subnet.network_address.is_reserved
    )
    if subnet.prefixlen != 64 or not usual:
        raise InvalidOption(
            f"{option} {text!r} cannot be used for a network",
            "guests give themselves addresses in a /64 of unique local or global addresses",
            "Write it like fd12:3456:789a::/64.",
        )
    return subnet


def gateway(subnet: Subnet | Subnet6) -> str:
    """The address that this host has in a subnet: its first."""
    return str(subnet.network_address + 1)


def default_range(subnet: Subnet) -> str:
    """The addresses that are given out unless the user says which: the first quarter is left for static ones."""
    first = subnet.network_address + max(2, subnet.num_addresses // 4)
    return f"{first}-{subnet.broadcast_address - 1}"


def parse_range(text: str, subnet: Subnet, option: str = "dhcp_range") -> tuple[int, int]:
    """First and last address, as numbers, of a range `first-last` in a subnet. InvalidOption."""
    first_text, dash, last_text = (part.strip() for part in text.partition("-"))
    try:
        first, last = ipaddress.IPv4Address(first_text), ipaddress.IPv4Address(last_text)
    except ValueError as exc:
        raise InvalidOption(
            f"{option} {text!r} is not a range of addresses",
            str(exc) if dash else "there is no hyphen in it",
            f"Write first and last address with a hyphen between, such as {default_range(subnet)}.",
        ) from exc
    if first > last:
        raise InvalidOption(f"{option} {text!r} ends before it begins", hint=f"Try {default_range(subnet)}.")
    lowest, highest = subnet.network_address + 2, subnet.broadcast_address - 1
    if first < lowest or last > highest:
        raise InvalidOption(
            f"{option} {text!r} is not within the subnet {subnet}",
            f"guests of it can have {lowest} to {highest}; {gateway(subnet)} is the host's",
            f"Take a part of that, such as {default_range(subnet)}.",
        )
    return int(first), int(last)


def normal_range(text: str, subnet: Subnet) -> str:
    """A range in its usual form."""
    return "-".join(str(ipaddress.IPv4Address(end)) for end in parse_range(text, subnet))


def collision(subnet: Subnet, taken: t.Iterable[Taken]) -> Taken | None:
    """The first of those taken that a subnet overlaps; default routes overlap with nothing."""
    for other in taken:
        if other.subnet.prefixlen > _WIDEST_ROUTE and subnet.overlaps(other.subnet):
            return other
    return None


def check_free(subnet: Subnet, taken: t.Iterable[Taken], option: str = "subnet") -> None:
    """InUse where a subnet overlaps with one that is taken, naming what takes it."""
    other = collision(subnet, taken)
    if other:
        raise InUse(
            f"{option} {subnet} collides with {other.subnet}",
            f"that is {other.by}",
            "Choose another subnet, or leave the option out to have a free one chosen.",
        )


def choose_subnet(taken: t.Sequence[Taken], start: int) -> Subnet:
    """A free subnet of the private ranges. start -- a number that leads different networks to different ones. InUse."""
    for pool in map(ipaddress.IPv4Network, _POOLS):
        count = 1 << (_CHOSEN - pool.prefixlen)
        base = int(pool.network_address)
        close = [other for other in taken if other.subnet.prefixlen > _WIDEST_ROUTE and other.subnet.overlaps(pool)]
        if any(pool.subnet_of(other.subnet) for other in close):
            continue
        for number in range(count):
            subnet = ipaddress.IPv4Network((base + ((start + number) % count << (32 - _CHOSEN)), _CHOSEN))
            if not collision(subnet, close):
                return subnet
    raise InUse(
        "no free subnet was found",
        "the routes and interfaces of this host cover all private ranges",
        "Give the option subnet.",
    )


def fill_in(network: Network, taken: t.Sequence[Taken], start: int) -> None:
    """Check subnets, dhcp_range and mtu in a network's record, and choose those that nobody asked for.

    taken -- what of the address space is in use by something else; start -- as of choose_subnet
    """
    if network.subnet:
        subnet = parse_subnet(network.subnet)
        if network.phase == "creating":
            check_free(subnet, taken)
    else:
        subnet = choose_subnet(taken, start)
    network.subnet = str(subnet)
    network.dhcp_range = normal_range(network.dhcp_range or default_range(subnet), subnet)
    if network.subnet6:
        network.subnet6 = str(parse_subnet6(network.subnet6))
    if network.mtu and not _SMALLEST_MTU <= network.mtu <= 65535:
        raise InvalidOption(
            f"mtu {network.mtu} is not one that a network can have", hint=f"Give {_SMALLEST_MTU} to 65535."
        )


def parse_address(text: str, subnet: Subnet, option: str = "address") -> str:
    """An address that a guest can have in a subnet, in its usual form. InvalidOption."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError as exc:
        raise InvalidOption(f"{option} {text!r} is not an IPv4 address", str(exc)) from exc
    reason = ""
    if address not in subnet:
        reason = f"it is outside the subnet {subnet}"
    elif str(address) == gateway(subnet):
        reason = "it is this host's own, the gateway of the network"
    elif address in (subnet.network_address, subnet.broadcast_address):
        reason = f"it is the first or last of the subnet {subnet}, which no host can have"
    if reason:
        raise InvalidOption(
            f"{option} {address} cannot be given to an instance",
            reason,
            f"Take one from {subnet.network_address + 2} to {subnet.broadcast_address - 1}.",
        )
    return str(address)


def contains(subnet: Subnet, address: str) -> bool:
    """Whether an address is in a subnet."""
    return ipaddress.IPv4Address(address) in subnet


def choose_address(dhcp_range: str, subnet: Subnet, used: t.Container[str]) -> str:
    """The lowest address of a range that is not used. InUse where there is none left."""
    first, last = parse_range(dhcp_range, subnet)
    for number in range(first, last + 1):
        address = str(ipaddress.IPv4Address(number))
        # Not every program takes an address that would be none of a host's in a subnet of the usual size.
        if number & 0xFF not in (0, 0xFF) and address not in used:
            return address
    raise InUse(
        f"the dhcp_range {dhcp_range} has no free address left",
        hint="Give the network a larger dhcp_range, or the instance a static address.",
    )
