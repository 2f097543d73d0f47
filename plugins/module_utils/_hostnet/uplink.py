# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What makes an interface the host's way to others: its addresses and routes; and the commands that move them."""

from __future__ import annotations

import ipaddress
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import HostError
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.links import told_by_ip
from ansible_collections.minicloud.local.plugins.module_utils._json import understood
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime

# How ip writes that an address lives for ever.
_FOREVER = 0xFFFFFFFF

# What an interface inherits from the one whose place it takes, as far as the kernel has the setting.
_SETTINGS = {
    "ipv4": (
        "accept_local", "accept_redirects", "arp_announce", "arp_filter", "arp_ignore", "forwarding", "log_martians",
        "proxy_arp", "route_localnet", "rp_filter", "secure_redirects", "send_redirects", "src_valid_mark",
    ),
    "ipv6": (
        "accept_dad", "accept_ra", "accept_ra_defrtr", "accept_ra_pinfo", "accept_redirects", "addr_gen_mode",
        "autoconf", "disable_ipv6", "forwarding", "proxy_ndp", "use_tempaddr",
    ),
}  # fmt: skip

# Attributes of routes that ip takes as it tells them, by the name that they have in its JSON.
_ROUTE_WORDS = {"table": "table", "protocol": "protocol", "metric": "metric"}
_ROUTE_METRICS = ("mtu", "advmss", "window", "initcwnd", "initrwnd", "hoplimit", "quickack")


class Uplink(t.NamedTuple):
    """What an interface has of its own, as ip tells it, in plain data.

    mac -- its hardware address; mtu -- bytes
    addresses -- those that somebody gave it, not the link-local ones that the kernel makes by itself
    routes -- the unicast routes of all tables that lead through it, with their family (4 or 6)
    settings -- of the kernel, by their path below /proc/sys/net/FAMILY/conf/INTERFACE, such as `ipv4/rp_filter`
    """

    mac: str
    mtu: int
    addresses: list[dict[str, t.Any]]
    routes: list[dict[str, t.Any]]
    settings: dict[str, str]

    def gateways(self) -> list[str]:
        """The gateways of its default routes in the main table."""
        found = []
        for route in self.routes:
            if route["dst"] == "default" and "table" not in route:
                for hop in route.get("nexthops") or [route]:
                    found += [hop["gateway"]] if "gateway" in hop else []
        return list(dict.fromkeys(found))

    def has_default_route(self, family: int) -> bool:
        """Whether what leaves this host for anywhere goes through it."""
        return any(
            route["dst"] == "default" and route["family"] == family and "table" not in route for route in self.routes
        )

    def addresses_text(self) -> list[str]:
        """Its addresses with their prefix lengths."""
        return [f"{each['local']}/{each['prefixlen']}" for each in self.addresses]


@understood("what ip says of an interface and its routes", HostError)
def read_uplink(runtime: Runtime, ip: str, name: str) -> Uplink | None:
    """What an interface has now; None where there is no such interface. ip -- the path of the program"""
    links = told_by_ip(runtime, ip, "-d", "address", "show", "dev", name)
    if not links:
        return None
    routes = []
    for family in (4, 6):
        told = told_by_ip(runtime, ip, f"-{family}", "route", "show", "table", "all")
        routes += parse_routes(told, name, family)
    settings = read_settings(name)
    return Uplink(links[0]["address"], links[0]["mtu"], parse_addresses(links[0], settings), routes, settings)


def read_settings(name: str) -> dict[str, str]:
    """The kernel settings of an interface that another inherits."""
    found = {}
    for family, keys in _SETTINGS.items():
        for key in keys:
            try:
                with open(f"/proc/sys/net/{family}/conf/{name}/{key}", encoding="ascii") as stream:
                    found[f"{family}/{key}"] = stream.read().strip()
            except OSError:
                pass
    return found


def parse_addresses(link: t.Mapping[str, t.Any], settings: t.Mapping[str, str]) -> list[dict[str, t.Any]]:
    """The addresses of an interface that it was given, from what `ip -j address` tells of it."""
    found = []
    for each in link.get("addr_info", ()):
        if "local" not in each or each.get("temporary") or each.get("dadfailed"):
            continue
        if each["family"] == "inet6" and each.get("scope") == "link":
            # The kernel makes this one again; another was given by hand where the kernel makes them from the MAC.
            if settings.get("ipv6/addr_gen_mode", "0") != "0" or each["local"] == link_local(link["address"]):
                continue
        found.append(dict(each))
    return found


def link_local(mac: str) -> str:
    """The link-local address that the kernel makes from a MAC."""
    octets = [int(part, 16) for part in mac.split(":")]
    if len(octets) != 6:
        return ""
    host = bytes([octets[0] ^ 0x02, *octets[1:3], 0xFF, 0xFE, *octets[3:]])
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + host))


def parse_routes(entries: t.Iterable[t.Mapping[str, t.Any]], name: str, family: int) -> list[dict[str, t.Any]]:
    """The routes through an interface, those of other interfaces left out."""
    found = []
    for entry in entries:
        devices = [hop.get("dev") for hop in entry.get("nexthops", ())] or [entry.get("dev")]
        ours = name in devices and entry.get("type", "unicast") == "unicast" and entry.get("table") != "local"
        if ours and not (family == 6 and entry["dst"] in ("fe80::/64", "ff00::/8")):
            found.append({**entry, "family": family})
    return found


def _is_automatic(route: t.Mapping[str, t.Any], addresses: t.Iterable[t.Mapping[str, t.Any]]) -> bool:
    """Whether the kernel makes a route by itself when it is told of the addresses."""
    if route.get("protocol") != "kernel":
        return False
    for each in addresses:
        if not each.get("noprefixroute"):
            own = ipaddress.ip_interface(f"{each.get('address') or each['local']}/{each['prefixlen']}").network
            if str(own) == route["dst"] or str(own.network_address) == route["dst"]:
                return True
    return False


def _address_words(address: t.Mapping[str, t.Any], source: str, target: str) -> str:
    """What follows `address add` or `address replace`. source -- the interface that it was read from"""
    words = [address["local"]]
    if address.get("address"):
        words += ["peer", address["address"]]
    words[-1] += f"/{address['prefixlen']}"
    words += ["dev", target]
    if address.get("broadcast"):
        words += ["broadcast", address["broadcast"]]
    if address.get("scope", "global") != "global":
        words += ["scope", address["scope"]]
    label = str(address.get("label", ""))
    if label.startswith(f"{source}:") and len(target + label[len(source) :]) < 16:
        words += ["label", target + label[len(source) :]]
    if address.get("metric"):
        words += ["metric", str(address["metric"])]
    # It was in use on this link a moment ago: nobody else has it.
    words += ["nodad"] if address["family"] == "inet6" else []
    words += [flag for flag in ("noprefixroute", "home", "mngtmpaddr") if address.get(flag)]
    valid = address.get("valid_life_time", _FOREVER)
    if valid != _FOREVER:
        preferred = address.get("preferred_life_time", valid)
        words += ["valid_lft", str(valid), "preferred_lft", str(preferred) if preferred != _FOREVER else "forever"]
    return " ".join(words)


def _destination(route: t.Mapping[str, t.Any]) -> str:
    if route["dst"] == "default":
        return "0.0.0.0/0" if route["family"] == 4 else "::/0"
    return str(route["dst"])


def _hop_words(hop: t.Mapping[str, t.Any], source: str, target: str) -> list[str]:
    words = []
    if "via" in hop:
        words += ["via", hop["via"]["family"], hop["via"]["host"]]
    elif "gateway" in hop:
        words += ["via", hop["gateway"]]
    if "dev" in hop:
        words += ["dev", target if hop["dev"] == source else hop["dev"]]
    return words


def _route_words(route: t.Mapping[str, t.Any], source: str, target: str) -> str:
    """What follows `route append`."""
    words = [_destination(route)]
    if route.get("tos"):
        words += ["tos", str(route["tos"])]
    if not route.get("nexthops"):
        words += _hop_words(route, source, target)
        words += ["onlink"] if "onlink" in route.get("flags", ()) else []
    for key, word in _ROUTE_WORDS.items():
        if key in route:
            words += [word, str(route[key])]
    if route["family"] == 4 and "scope" in route:
        words += ["scope", str(route["scope"])]
    if "prefsrc" in route:
        words += ["src", route["prefsrc"]]
    for metrics in route.get("metrics", ()):
        for key in _ROUTE_METRICS:
            words += [key, str(metrics[key])] if key in metrics else []
    if route.get("pref", "medium") != "medium":
        words += ["pref", route["pref"]]
    if "expires" in route:
        words += ["expires", str(route["expires"])]
    for hop in route.get("nexthops", ()):
        words += ["nexthop", *_hop_words(hop, source, target), "weight", str(hop.get("weight", 1))]
        words += ["onlink"] if "onlink" in hop.get("flags", ()) else []
    return " ".join(words)


def _route_key(route: t.Mapping[str, t.Any], source: str, target: str) -> str:
    """What tells a route from others, once it leads through another interface."""
    return _route_words({**route, "expires": 0, "metrics": ()}, source, target)


def remove_commands(uplink: Uplink, name: str) -> list[str]:
    """The commands that take addresses and routes from the interface that has them."""
    commands = []
    for route in reversed(uplink.routes):
        if not _is_automatic(route, uplink.addresses):
            words = [_destination(route)]
            words += [] if route.get("nexthops") else _hop_words(route, name, name)
            for key, word in _ROUTE_WORDS.items():
                words += [word, str(route[key])] if key in route else []
            commands.append(f"route delete {' '.join(words)}")
    for each in reversed(uplink.addresses):
        peer = f" peer {each['address']}" if each.get("address") else ""
        commands.append(f"address delete {each['local']}{peer}/{each['prefixlen']} dev {name}")
    return commands


def add_commands(uplink: Uplink, source: str, target: str, there: Uplink | None = None) -> list[str]:
    """The commands that give an interface the addresses and routes that another had.

    source -- the interface that they were read from; target -- the one that gets them
    there -- what that has already, as if it were the source's
    """
    have = set(there.addresses_text()) if there else set()
    commands = []
    for each in uplink.addresses:
        if f"{each['local']}/{each['prefixlen']}" not in have:
            commands.append(f"address replace {_address_words(each, source, target)}")
    known = {_route_key(route, source, target) for route in there.routes} if there else set()
    # A route to a gateway is of use to the kernel only when it knows where the gateway is.
    for route in sorted(uplink.routes, key=lambda each: "gateway" in each or "via" in each or "nexthops" in each):
        if not _is_automatic(route, uplink.addresses) and _route_key(route, source, target) not in known:
            commands.append(f"route append {_route_words(route, source, target)}")
    return commands


def renamed(uplink: Uplink, old: str, new: str) -> Uplink:
    """The same as if another interface had it."""

    def moved(hop: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        return {**hop, **({"dev": new} if hop.get("dev") == old else {})}

    routes = [moved(route) for route in uplink.routes]
    for route in routes:
        if route.get("nexthops"):
            route["nexthops"] = [moved(hop) for hop in route["nexthops"]]
    addresses = []
    for each in uplink.addresses:
        label = str(each.get("label", ""))
        if label == old or label.startswith(f"{old}:"):
            each = {**each, "label": new + label[len(old) :]}
        addresses.append(each)
    return uplink._replace(addresses=addresses, routes=routes)


def merged(parts: t.Sequence[Uplink]) -> Uplink:
    """All that some have of one interface's, those before coming first; the rest is the first one's."""
    addresses: dict[str, dict[str, t.Any]] = {}
    routes: dict[str, dict[str, t.Any]] = {}
    for part in parts:
        for each in part.addresses:
            addresses.setdefault(f"{each['local']}/{each['prefixlen']}", each)
        for route in part.routes:
            routes.setdefault(_route_key(route, "", ""), route)
    return parts[0]._replace(addresses=list(addresses.values()), routes=list(routes.values()))
