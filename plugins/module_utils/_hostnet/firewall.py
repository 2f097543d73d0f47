# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The firewall of networks: for each a table of nftables of its own, which nothing else uses.

A table is replaced as a whole in one transaction, so it is there or not, never half. What it must hold is compared
with what the kernel listed right after it was put in place: nft writes rules differently from version to version.
What guests send each other does not pass it: for that there is a second table of the same name, of the family bridge,
which comes and goes in the same transactions.

An accept in one table does not undo a drop in another. Two others are common on hosts, and both have a place that is
meant for what we want: Docker drops what is forwarded but lets rules in its chain DOCKER-USER have their say first,
and firewalld knows zones, of which `trusted` lets pass. What is put there is taken away with the network.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import CommandFailed, HostError
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import subnets
from ansible_collections.minicloud.local.plugins.module_utils._json import understood
from ansible_collections.minicloud.local.plugins.module_utils._model import PortForward
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime, find_program

_COMMENT = "minicloud"
_PREFIX = "minicloud_"
# Docker's chain for rules of others.
_DOCKER = "DOCKER-USER"
_PORTS_PREFIX = f"{_PREFIX}ports_"


class Rules(t.NamedTuple):
    """What the firewall of a network depends on.

    interface -- its bridge; nat -- whether guests reach the world; subnet6 -- empty where it has none
    forwards -- ports of the host, each with the address of the guest that it leads to
    host_access -- whether guests reach all services of the host, not only those of the network
    taps -- the interfaces by which guests are on the bridge; mac -- of the bridge
    """

    interface: str
    subnet: str
    subnet6: str = ""
    nat: bool = True
    forwards: tuple[tuple[PortForward, str], ...] = ()
    host_access: bool = True
    taps: tuple[str, ...] = ()
    mac: str = ""

    @property
    def gateway(self) -> str:
        """The host's address."""
        return subnets.gateway(ipaddress.IPv4Network(self.subnet))

    @property
    def gateway6(self) -> str:
        """The host's IPv6 address; empty where there is none."""
        return subnets.gateway(ipaddress.IPv6Network(self.subnet6)) if self.subnet6 else ""


def table_name(interface: str) -> str:
    """The table of the network with that bridge."""
    return _PREFIX + interface


def nft_program(runtime: Runtime) -> str:
    """The path of the program nft."""
    return runtime.program("nft", "nftables", "to make networks")


def table_text(rules: Rules) -> str:
    """The table of a network, in the language of nft."""
    bridge = f'"{rules.interface}"'
    forward = [f"iifname {bridge} oifname {bridge} accept"]
    input_ = []
    source: list[str] = []
    if rules.nat:
        allowed = [f"ip saddr {rules.subnet}"] + ([f"ip6 saddr {rules.subnet6}"] if rules.subnet6 else [])
        forward += [f"iifname {bridge} {each} accept" for each in allowed]
        source.append(
            f"oifname != {bridge} ip saddr {rules.subnet} ip daddr != {{ {rules.subnet}, 224.0.0.0/4 }} masquerade"
        )
        if rules.subnet6:
            source.append(
                f"oifname != {bridge} ip6 saddr {rules.subnet6} ip6 daddr != {{ {rules.subnet6}, ff00::/8 }} masquerade"
            )
    else:
        # Guests may answer connections that the host or a forwarded port has opened.
        forward.append(f"iifname {bridge} ct state established,related accept")
    if not rules.host_access:
        # The host may have other servers of names, which are none of the guests' business.
        servers = [f"ip daddr {rules.gateway}"]
        servers += [f"ip6 daddr {{ {rules.gateway6}, fe80::/10 }}"] if rules.subnet6 else []
        input_ += [
            f"iifname {bridge} ct state established,related accept",
            f"iifname {bridge} udp dport {{ 67, 547 }} accept",
            *(f"iifname {bridge} {each} meta l4proto {{ tcp, udp }} th dport 53 accept" for each in servers),
            f"iifname {bridge} meta l4proto {{ icmp, ipv6-icmp }} accept",
            f"iifname {bridge} drop",
        ]
    forward += [
        f"iifname {bridge} drop",
        f"oifname {bridge} ct state established,related accept",
        f"oifname {bridge} ct status dnat accept",
        f"oifname {bridge} drop",
    ]
    # A guest answers the host's loopback address, and itself when it comes by way of the host, only if they come from
    # the host's address in its own subnet.
    source += [
        f"oifname {bridge} ip saddr 127.0.0.0/8 masquerade",
        f"oifname {bridge} ip saddr {rules.subnet} ct status dnat masquerade",
    ]
    chains = [
        _early_chain(bridge, _sources(f"iifname {bridge}", rules, bool(rules.subnet6))),
        _chain("forward", "filter hook forward priority filter", forward),
        _chain("input", "filter hook input priority filter", input_),
        *_forward_chains(rules.forwards),
        _chain("source", "nat hook postrouting priority srcnat", source),
    ]
    return _table(table_name(rules.interface), chains)


def guard_table_text(rules: Rules) -> str:
    """The table of what a network's guests send into its bridge, in the language of nft; empty where there are none.

    Nobody there is the host but the host: not by its addresses, and not by what only it says, as the server of
    addresses and the router. That guests pose as each other is not prevented: some have several addresses or MACs.
    A tag of the VLAN 0 means nothing to whoever gets it, and would hide from these rules what it comes before.
    """
    if not rules.taps:
        return ""
    gateways6 = [str(_link_local(rules.mac)), *filter(None, [rules.gateway6])]
    targets = ", ".join(f"{int(ipaddress.IPv6Address(each)):#034x}" for each in gateways6)
    guests = [
        f"ether saddr {rules.mac} drop",
        "@ll,96,16 { 0x8100, 0x88a8 } @ll,116,12 0 drop",
        f"arp saddr ip {rules.gateway} drop",
        f"arp saddr ip != {{ 0.0.0.0, {rules.subnet} }} drop",
        *_sources("", rules, True),
        f"ip6 saddr {_link_local(rules.mac)} drop",
        "udp sport 67 udp dport 68 drop",
        "udp sport 547 udp dport 546 drop",
        "icmpv6 type { nd-router-advert, nd-redirect } drop",
        # 64 bits into the message is whose neighbour is told of.
        f"icmpv6 type nd-neighbor-advert @th,64,128 {{ {targets} }} drop",
    ]
    taps = ", ".join(f'"{tap}"' for tap in sorted(set(rules.taps)))
    lines = "".join(f"    {rule}\n" for rule in guests)
    chains = [
        f"  chain guests {{\n{lines}  }}\n",
        _chain("early", "filter hook prerouting priority -300", [f"iifname {{ {taps} }} jump guests"]),
    ]
    return _table(table_name(rules.interface), chains, "bridge")


def _sources(match: str, rules: Rules, ipv6: bool) -> list[str]:
    """What drops packets of guests with sources that are not theirs. match -- that come from guests"""
    found = [
        # A guest that has no address yet asks for one by DHCP.
        "ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept",
        f"ip saddr != {rules.subnet} drop",
        f"ip saddr {rules.gateway} drop",
    ]
    if ipv6:
        found += [
            # A guest that chooses its own address first asks whether it is free.
            "ip6 saddr :: meta l4proto != ipv6-icmp drop",
            f"ip6 saddr != {{ {', '.join(filter(None, ['::', 'fe80::/10', rules.subnet6]))} }} drop",
        ]
        found += [f"ip6 saddr {rules.gateway6} drop"] if rules.gateway6 else []
    return [f"{match} {each}".strip() for each in found]


def _link_local(mac: str) -> ipaddress.IPv6Address:
    """The link-local address that is made of a MAC."""
    raw = bytes.fromhex(mac.replace(":", ""))
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:])


def port_table_name(interface: str, directory: str = "") -> str:
    """The table of the ports that a bridged network forwards, of which a bridge can have several.

    directory -- of the network; without it, what the names of all of them on that bridge begin with
    """
    return f"{_PORTS_PREFIX}{digest(interface)[:8]}_{digest(directory)[:8] if directory else ''}"


def port_table_text(name: str, interface: str, forwards: t.Sequence[tuple[PortForward, str]]) -> str:
    """The table of the ports that a bridged network forwards, in the language of nft.

    A guest there would answer others on its link itself, at an address that they did not ask: so all comes to it from
    this host's address.
    """
    bridge = f'"{interface}"'
    source = [
        f"oifname {bridge} ct status dnat ip daddr {address} {port.protocol} dport {port.guest_port}"
        f" ct original proto-dst {port.host_port} masquerade"
        for port, address in forwards
    ]
    chains = [
        # Others there have addresses of their own, of which this host knows only that they are not these.
        _early_chain(bridge, [f"iifname {bridge} ip saddr 127.0.0.0/8 drop", f"iifname {bridge} ip6 saddr ::1 drop"]),
        *_forward_chains(forwards),
        _chain("source", "nat hook postrouting priority srcnat", source),
    ]
    return _table(name, chains)


def _table(name: str, chains: t.Sequence[str], family: str = "inet") -> str:
    return f"table {family} {name} {{\n{''.join(chains)}}}\n"


def _early_chain(bridge: str, sources: t.Sequence[str]) -> str:
    """Before connection tracking: with route_localnet on the bridge, nobody must reach the host's loopback by it.

    sources -- rules that drop packets for where they claim to come from
    """
    rules = [f"iifname {bridge} ip daddr 127.0.0.0/8 drop", *sources]
    return _chain("early", "filter hook prerouting priority raw", rules)


def _forward_chains(forwards: t.Iterable[tuple[PortForward, str]]) -> list[str]:
    """What leads ports of the host to guests: for whoever comes from outside, and for the host itself."""
    outside, inside = [], []
    for port, address in forwards:
        target = f"{port.protocol} dport {port.host_port} dnat ip to {address}:{port.guest_port}"
        where = "fib daddr type local" if port.host_ip == "0.0.0.0" else f"ip daddr {port.host_ip}"
        inside.append(f"meta nfproto ipv4 {where} {target}")
        if not port.host_ip.startswith("127."):
            outside.append(f"meta nfproto ipv4 {where} {target}")
    return [
        _chain("outside", "nat hook prerouting priority dstnat", outside),
        _chain("inside", "nat hook output priority -100", inside),
    ]


def _chain(name: str, hook: str, rules: t.Sequence[str]) -> str:
    lines = "".join(f"    {rule}\n" for rule in rules)
    return f"  chain {name} {{\n    type {hook}; policy accept;\n{lines}  }}\n"


def digest(text: str) -> str:
    """A short fingerprint."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Ruleset(t.NamedTuple):
    """What the kernel has of nftables that concerns us.

    tables -- fingerprints of the tables of this host's networks, by name, those of the same name in one
    firewalld -- its table as text, empty: none
    forwards -- the ports of the host that networks of any data directory forward: table, port, and address of the guest
    strict -- the chains that drop what is forwarded unless told otherwise, and that we have no way of telling
    docker -- the families (ip, ip6) in which Docker has its chain
    """

    tables: dict[str, str]
    firewalld: str
    forwards: tuple[tuple[str, PortForward, str], ...]
    strict: tuple[str, ...] = ()
    docker: frozenset[str] = frozenset()


@understood("what nft says of the firewall", HostError)
def read_ruleset(runtime: Runtime) -> Ruleset:
    """The rules that are in place now."""
    # The rules of others may be many: of those only the chains are read.
    argv = [nft_program(runtime), "-j", "list ruleset inet; list ruleset bridge; list chains"]
    entries, bridging, others = _listings(runtime.check(argv, "the firewall could not be read"))
    chains = [entry["chain"] for entry in others if "chain" in entry]
    parts: dict[str, list[t.Any]] = {}
    forwards = []
    for entry in [*entries, *bridging]:
        kind, value = next(iter(entry.items()))
        if kind == "metainfo":
            continue
        table = value["name"] if kind == "table" else value["table"]
        if value["family"] == "bridge" and not table.startswith(_PREFIX):
            continue
        value.pop("handle", None)
        parts.setdefault(table, []).append(entry)
        if kind == "rule" and table.startswith(_PREFIX) and value["chain"] == "inside":
            forwards += [(table, *found) for found in _forward(value["expr"])]
    ours = {
        name: digest(json.dumps(entries, sort_keys=True)) for name, entries in parts.items() if name.startswith(_PREFIX)
    }
    docker = frozenset(each["family"] for each in chains if each["name"] == _DOCKER)
    firewalld = json.dumps(parts.get("firewalld", "")).strip('"')
    return Ruleset(ours, firewalld, tuple(forwards), tuple(_strict_forwarders(chains)), docker)


def _listings(text: str) -> list[list[dict[str, t.Any]]]:
    """What each of three commands has listed."""
    found: list[list[dict[str, t.Any]]] = []
    rest = text.strip()
    while rest:
        listing, end = json.JSONDecoder().raw_decode(rest)
        found.append(listing["nftables"])
        rest = rest[end:].strip()
    return (found + [[], [], []])[:3]


def _strict_forwarders(chains: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    with_docker = {(each["family"], each["table"]) for each in chains if each["name"] == _DOCKER}
    return [
        f"{each['name']} of the table {each['family']} {each['table']}"
        for each in chains
        if each.get("hook") == "forward"
        and each.get("policy") == "drop"
        and (each["family"], each["table"]) not in with_docker
        and each["family"] in ("ip", "inet")
    ]


def _forward(expressions: t.Iterable[t.Mapping[str, t.Any]]) -> t.Iterator[tuple[PortForward, str]]:
    """What a rule of ours forwards, and to which address."""
    ip, protocol, number = "0.0.0.0", "", 0
    for each in expressions:
        left = each.get("match", {}).get("left")
        payload = left.get("payload", {}) if isinstance(left, dict) else {}
        if payload.get("field") == "daddr":
            ip = each["match"]["right"]
        elif payload.get("field") == "dport":
            protocol, number = payload["protocol"], int(each["match"]["right"])
        elif "dnat" in each:
            yield PortForward(ip, number, int(each["dnat"]["port"]), protocol), each["dnat"]["addr"]


def put_table(runtime: Runtime, name: str, content: str, guard: str = "") -> bool:
    """Put a table in place, instead of the one of that name that is there. content -- as of table_text()

    guard -- as of guard_table_text(), to go with it; False where this kernel cannot have it
    """
    doing = "the firewall rules could not be loaded"
    try:
        _load(runtime, _fresh(name) + content + _fresh(name, "bridge") + guard, doing)
    except CommandFailed:
        _load(runtime, _fresh(name) + content, doing)
        return not guard
    return True


def remove_table(runtime: Runtime, name: str) -> None:
    """Remove a table, and the guard of that name; all the same if there is none."""
    try:
        _load(runtime, _fresh(name) + _fresh(name, "bridge"), "the firewall rules could not be removed")
    except CommandFailed:  # a kernel that has no tables of bridges
        _load(runtime, _fresh(name), "the firewall rules could not be removed")


def _fresh(name: str, family: str = "inet") -> str:
    """What removes a table. The first line has the second always find one to remove."""
    return f"table {family} {name} {{}}\ndelete table {family} {name}\n"


def _load(runtime: Runtime, text: str, doing: str) -> None:
    runtime.check([nft_program(runtime), "-f", "-"], doing, stdin=text.encode())


# Docker


class DockerChain(t.NamedTuple):
    """The chain that Docker keeps for rules of others. program -- that reads it; rules -- as that program lists them"""

    program: str
    rules: tuple[str, ...]


def docker_chains(runtime: Runtime, ruleset: Ruleset | None = None) -> list[DockerChain]:
    """Docker's chains for rules of others, for IPv4 and IPv6, where there are such.

    ruleset -- what is in place now, where that is known already: then nobody is asked in vain
    """
    found = []
    for family, name in (("ip", "iptables"), ("ip6", "ip6tables")):
        if ruleset and family not in ruleset.docker and not _has_legacy_filter(family):
            continue
        program = find_program(name)
        if program is None:
            continue
        done = runtime.run([program, "-w", "5", "-S", _DOCKER])
        if done.rc == 0:
            found.append(DockerChain(program, tuple(done.out.splitlines())))
    return found


def _has_legacy_filter(family: str) -> bool:
    """Whether the host has rules of the older kind, which nft does not list."""
    try:
        with open(f"/proc/net/{family}_tables_names", encoding="ascii") as stream:
            return "filter" in stream.read().split()
    except OSError:
        return False


def _docker_rules(interface: str, ports_of: str) -> tuple[str, ...]:
    what = f"-m conntrack --ctstate DNAT -m comment --comment {ports_of}" if ports_of else ""
    what = what or f"-m comment --comment {_COMMENT}"
    return (f"-i {interface} {what} -j ACCEPT", f"-o {interface} {what} -j ACCEPT")


def lacking_docker_rules(chain: DockerChain, interface: str, ports_of: str = "") -> list[str]:
    """Those of a network's rules that are not in Docker's chain.

    ports_of -- where forwarded ports only are to pass, the table that forwards them
    """
    return [rule for rule in _docker_rules(interface, ports_of) if f"-A DOCKER-USER {rule}" not in chain.rules]


def add_docker_rules(runtime: Runtime, chain: DockerChain, interface: str, ports_of: str = "") -> None:
    """Have Docker let pass what our own table decides about. ports_of -- as above"""
    for rule in lacking_docker_rules(chain, interface, ports_of):
        runtime.check([chain.program, "-w", "5", "-I", _DOCKER, *rule.split()], "Docker's firewall could not be told")


def remove_docker_rules(runtime: Runtime, interface: str, ports_of: str = "") -> None:
    """Take a network's rules out of Docker's chains. ports_of -- as above"""
    for chain in docker_chains(runtime):
        for rule in _docker_rules(interface, ports_of):
            for dummy in range(chain.rules.count(f"-A DOCKER-USER {rule}")):
                runtime.run([chain.program, "-w", "5", "-D", _DOCKER, *rule.split()])


# firewalld

_ZONE = "trusted"

# The zone as somebody has configured it, and as it comes with firewalld.
_CONFIGURED = f"/etc/firewalld/zones/{_ZONE}.xml"
_SHIPPED = f"/usr/lib/firewalld/zones/{_ZONE}.xml"


def is_trusted(ruleset: Ruleset, interface: str) -> bool:
    """Whether firewalld, if it runs, lets pass what comes from and goes to a bridge."""
    return not ruleset.firewalld or f'"{interface}"' in ruleset.firewalld


def trust(runtime: Runtime, interface: str) -> None:
    """Have firewalld let pass what our own table decides about."""
    program = runtime.program("firewall-cmd", "firewalld", "to have firewalld let the network pass")
    # Rules that are not in firewalld's configuration are lost at its next reload.
    for lasting in (["--permanent"], []):
        runtime.check(
            [program, *lasting, f"--zone={_ZONE}", f"--change-interface={interface}"], "firewalld could not be told"
        )


def distrust(runtime: Runtime, ruleset: Ruleset, interface: str) -> None:
    """Have firewalld forget a bridge, whether or not it runs now."""
    running = bool(ruleset.firewalld)
    program = find_program("firewall-cmd" if running else "firewall-offline-cmd")
    if program is None:
        return
    change = [f"--zone={_ZONE}", f"--remove-interface={interface}"]
    if running and is_trusted(ruleset, interface):
        runtime.run([program, *change])
    if f'"{interface}"' in _text(_CONFIGURED):
        lasting = [program, *(["--permanent"] if running else [])]
        runtime.run([*lasting, *change])
        # The zone has a file of its own only where somebody has changed it.
        if _text(_CONFIGURED).split() == _text(_SHIPPED).split():
            runtime.run([*lasting, f"--load-zone-defaults={_ZONE}"])


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


# Docker and firewalld


def obstacles(ruleset: Ruleset, docker: t.Iterable[DockerChain], interface: str) -> list[str]:
    """Who does not let pass what our own rules decide about, as sentences: grant_passage() tells them."""
    found = []
    if not is_trusted(ruleset, interface):
        found.append("firewalld does not let the network pass.")
    if any(lacking_docker_rules(chain, interface) for chain in docker):
        found.append("Docker's firewall does not let the network pass.")
    return found


def grant_passage(runtime: Runtime, ruleset: Ruleset, docker: t.Iterable[DockerChain], interface: str) -> None:
    """Have firewalld and Docker let pass what comes from and goes to a bridge."""
    if not is_trusted(ruleset, interface):
        trust(runtime, interface)
    for chain in docker:
        add_docker_rules(runtime, chain, interface)


def withdraw_passage(runtime: Runtime, ruleset: Ruleset, interface: str) -> None:
    """Have them forget the bridge."""
    remove_docker_rules(runtime, interface)
    distrust(runtime, ruleset, interface)
