# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.
"""The interfaces of this host, and which of them instances can be bridged to."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import HostError
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.links import told_by_ip
from ansible_collections.minicloud.local.plugins.module_utils._json import understood
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime, find_program

BRIDGE, MACVTAP = "bridge", "macvtap"

# Where the kernel tells of interfaces what ip does not.
SYSFS = "/sys/class/net"

# Kinds that take frames with their own address only, or from the host only.
_SELFISH = {
    "ipvlan": "it shares the address of the interface below it",
    "ipvtap": "it shares the address of the interface below it",
    "macvlan": "it takes only frames that are addressed to itself",
    "macvtap": "it belongs to a guest and takes only frames that are addressed to itself",
    "ifb": "it only shapes the traffic of other interfaces",
    "nlmon": "it only watches",
    "vcan": "it carries no Ethernet frames",
    "vrf": "it groups other interfaces and carries no Ethernet frames itself",
}
_OUR_TAPS = "mct"

WIFI_REASON = (
    "it is a Wi-Fi interface: an access point takes frames only from the address of the station that has joined,"
    " and a bridge would send those of the guests' too"
)


class Interface(t.NamedTuple):
    """An interface of this host.

    kind -- ethernet, wifi, loopback, bridge, bond, vlan, veth, tun …; master -- the bridge or bond that it is in
    addresses -- with their prefix lengths; default_route -- whether what leaves this host goes through it
    types -- what a bridged network can use it as: bridge, macvtap, both or nothing
    reason -- why that is not both
    """

    name: str
    kind: str
    mac: str
    mtu: int
    up: bool
    master: str
    addresses: tuple[str, ...]
    default_route: bool
    types: tuple[str, ...]
    reason: str

    def view(self) -> dict[str, t.Any]:
        """As users see it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "mac": self.mac,
            "mtu": self.mtu,
            "up": self.up,
            "bridge": self.master,
            "addresses": list(self.addresses),
            "default_route": self.default_route,
            "bridge_types": list(self.types),
            "reason": self.reason,
        }


@understood("what ip says of the interfaces", HostError)
def read_interfaces(
    runtime: Runtime, own_bridges: t.Mapping[str, str] | None = None, sysfs: str = SYSFS
) -> dict[str, Interface]:
    """All interfaces of this host by name, without the taps of instances; none where the program ip is missing.

    own_bridges -- the bridges that networks of ours are, each with the name of its network
    """
    ip = find_program("ip")
    if ip is None:
        return {}
    entries = told_by_ip(runtime, ip, "-d", "address", "show", problem="the interfaces could not be listed")
    ways: set[str] = set()
    for family in ("-4", "-6"):
        for route in told_by_ip(runtime, ip, family, "route", "show", "default"):
            ways.update(hop.get("dev", "") for hop in route.get("nexthops") or [route])
    return parse_interfaces(entries, ways, own_bridges or {}, lambda name: _is_wifi(name, sysfs))


def _is_wifi(name: str, sysfs: str) -> bool:
    return any(os.path.exists(os.path.join(sysfs, name, mark)) for mark in ("phy80211", "wireless"))


def parse_interfaces(
    entries: t.Iterable[t.Mapping[str, t.Any]],
    ways: t.Container[str],
    own_bridges: t.Mapping[str, str],
    is_wifi: t.Callable[[str], bool],
) -> dict[str, Interface]:
    """Interfaces from what `ip -j -d address` tells. ways -- those that default routes lead through"""
    entries = [entry for entry in entries if entry.get("ifname")]
    kinds = {entry["ifname"]: entry.get("linkinfo", {}).get("info_kind", "") for entry in entries}
    # An interface that one of these kinds is on top of can join no bridge.
    above: dict[str, str] = {}
    for entry in entries:
        kind = kinds[entry["ifname"]]
        if entry.get("link") and kind in ("macvlan", "macvtap", "ipvlan", "ipvtap"):
            above.setdefault(entry["link"], entry["ifname"])
    found = {}
    for entry in entries:
        name = entry["ifname"]
        if name.startswith(_OUR_TAPS):
            continue
        kind = kinds[name] or "ethernet"
        if entry.get("link_type") == "loopback":
            kind = "loopback"
        elif is_wifi(name):
            kind = "wifi"
        types, reason = _usable(entry, kind, own_bridges, above.get(name, ""), kinds)
        found[name] = Interface(
            name=name,
            kind=kind,
            mac=entry.get("address", "") if entry.get("link_type") == "ether" else "",
            mtu=int(entry.get("mtu", 0)),
            up="UP" in entry.get("flags", ()),
            master=entry.get("master", ""),
            addresses=tuple(
                f"{each['local']}/{each['prefixlen']}" for each in entry.get("addr_info", ()) if "local" in each
            ),
            default_route=name in ways,
            types=types,
            reason=reason,
        )
    return found


def _usable(
    entry: t.Mapping[str, t.Any], kind: str, own: t.Mapping[str, str], above: str, kinds: t.Mapping[str, str]
) -> tuple[tuple[str, ...], str]:
    """What an interface can be used as, and why not as more."""
    name, master = entry["ifname"], entry.get("master", "")
    if kind == "loopback":
        return (), "it is the loopback interface, which leads nowhere"
    if kind == "wifi":
        return (), WIFI_REASON
    if entry.get("link_type") != "ether":
        return (), f"it carries no Ethernet frames (it is of the type {entry.get('link_type', 'unknown')})"
    if name in own:
        return (), f"it is the bridge of the network {own[name]}: put instances on that network instead"
    if kind in _SELFISH:
        return (), _SELFISH[kind]
    if master:
        if kinds.get(master) == "bridge":
            return (), f"it is in the bridge {master}: use that instead"
        return (), f"it is a part of {master}: use that instead"
    if kind == "bridge":
        return (BRIDGE,), "it is a bridge: instances are attached to it as they are"
    if above and kinds.get(above) in ("macvtap", "macvlan"):
        return (MACVTAP,), f"{above} is on top of it, which excludes a bridge"
    if above:
        return (), f"{above} is on top of it and has it for itself"
    if kind == "tun":
        return (), "it is a tap of another program, whose other end is no link to others"
    return (BRIDGE, MACVTAP), ""
