# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What a task asks of a cloud: a document of instances, networks and images, read and checked as a whole. Pure."""

from __future__ import annotations

import copy
import typing as t
from dataclasses import field

from ansible_collections.minicloud.local.plugins.module_utils._arguments import IMAGE, INSTANCE, NETWORK
from ansible_collections.minicloud.local.plugins.module_utils._dataclass import dataclass
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption, MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ABSENT,
    DEFAULT_TYPE,
    DELETED,
    STOPPED,
    SUSPENDED,
    check_name,
    check_timeout,
    key_of,
    ports_exclude,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.images import ImageWish, parse_image_wish
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.networks import NetworkWish, parse_network
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.source import Clone
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import Wish, parse_wish

# How many instances a document may have: more than any host can run.
MAX_INSTANCES = 1000

# What the names in a document are here that YAML did not read as text.
_NO_TEXTS = ("true", "false", "null", "NaN", "Infinity")

_INSTANCE = {
    option: about for option, about in INSTANCE.items() if option not in ("name", "new_name", "purge_older_than")
}
# The argument specs of what has options of its own in the document.
DEFAULTS: dict[str, t.Any] = _INSTANCE
ENTRY: dict[str, t.Any] = {**_INSTANCE, "count": {"type": "int"}, "after": {"type": "list", "elements": "str"}}
NETWORK_ENTRY: dict[str, t.Any] = {key: about for key, about in NETWORK.items() if key not in ("name", "state")}
IMAGE_ENTRY: dict[str, t.Any] = {
    **{key: IMAGE[key] for key in ("checksum", "arch", "alias", "image_hosts")},
    "instance_type": {**IMAGE["instance_type"], "default": DEFAULT_TYPE},
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "latest"], "default": "present"},
}

# Checks and converts options by an argument spec; the last is what errors name them by.
Checked = t.Callable[[t.Mapping[str, t.Any], dict[str, t.Any], str], dict[str, t.Any]]


@dataclass
class Member:
    """An instance of the document.

    entry -- that it comes from; after -- names of those that are to be ready before it
    """

    entry: str
    wish: Wish
    after: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The instance's name."""
        return self.wish.name

    def fresh(self) -> Wish:
        """What is asked of the instance, for a run that may fill in what it finds."""
        return copy.copy(self.wish)


@dataclass
class CloudWish:
    """What a task asks of a cloud.

    of_all -- whether the task names no instances, and the state is that of all that there are; present has them run
    parallel -- how many instances at once, None: as many as the host carries
    """

    name: str
    state: str = "present"
    networks: list[NetworkWish] = field(default_factory=list)
    images: list[ImageWish] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    of_all: bool = False
    prune: bool = False
    parallel: int | None = None
    force: bool = False
    timeout: float = 300

    @property
    def backwards(self) -> bool:
        """Whether what comes after others is dealt with before them."""
        return self.state != "present"


def parse_cloud(params: t.Mapping[str, t.Any], checked: Checked) -> CloudWish:
    """A wish from a task's options. InvalidOption where one of them cannot be meant, or two exclude each other."""
    wish = CloudWish(check_name(params["name"]), params["state"])
    wish.prune, wish.force = bool(params["prune"]), bool(params["force"])
    wish.of_all = wish.state in (STOPPED, SUSPENDED) and params["instances"] is None
    if wish.state == "present" and not wish.prune:
        # By its name alone a cloud is brought down, and so also up again.
        wish.of_all = all(params[option] is None for option in ("instances", "networks", "images"))
    if wish.of_all and wish.prune:
        raise InvalidOption(
            f"prune cannot go with state: {wish.state} here",
            "it removes what instances does not name, and instances is not given",
            "Leave prune out, or name the instances that stay.",
        )
    wish.parallel = params["parallel"]
    if wish.parallel is not None and not 0 < wish.parallel <= MAX_INSTANCES:
        raise InvalidOption(
            f"parallel {wish.parallel} is not a number of instances", hint=f"Give a number from 1 to {MAX_INSTANCES}."
        )
    wish.timeout = params["timeout"]
    check_timeout(wish.timeout)
    for name, given in _entries(params["networks"], "networks"):
        with_name = {**checked(given, NETWORK_ENTRY, f"networks: {name}"), "name": name, "state": "present"}
        network = _of(f"networks: {name}", lambda: parse_network(with_name))  # noqa: B023 - called at once
        network.cloud = wish.name
        wish.networks.append(network)
    for given in params["images"] or ():
        options = checked(given, IMAGE_ENTRY, "images")
        wish.images.append(_of(f"images: {options['name']}", lambda: parse_image_wish(options)))  # noqa: B023 - as above
    defaults = dict(params["defaults"] or {})
    checked(defaults, DEFAULTS, "defaults")
    for entry, given in _entries(params["instances"], "instances"):
        _parse_entry(wish, entry, checked({**defaults, **given}, ENTRY, f"instances: {entry}"))
    _check_names(wish)
    _resolve_order(wish)
    _check_collisions(wish)
    return wish


_Parsed = t.TypeVar("_Parsed")


def _of(what: str, parse: t.Callable[[], _Parsed]) -> _Parsed:
    """What is parsed; errors name the part of the document."""
    try:
        return parse()
    except MinicloudError as exc:
        exc.what = f"{what}: {exc.what}"
        raise


def _entries(given: t.Mapping[str, t.Any] | None, option: str) -> t.Iterator[tuple[str, t.Mapping[str, t.Any]]]:
    for name, options in (given or {}).items():
        if not isinstance(name, str) or name in _NO_TEXTS:
            raise InvalidOption(
                f"{option} has the name {name}",
                "YAML reads yes, no, on, off and the like as true or false, unless they are in quotes",
                "Put the name in quotes; or choose another one, if it is this that is meant.",
            )
        if options is not None and not isinstance(options, t.Mapping):
            raise InvalidOption(
                f"{option}: {name} is no mapping", hint="Write its options below the name, or nothing for none."
            )
        yield check_name(str(name), f"{option}: the name"), options or {}


def _parse_entry(wish: CloudWish, entry: str, options: dict[str, t.Any]) -> None:
    count, after = options.pop("count"), options.pop("after") or []
    if count is not None and not 0 <= count <= MAX_INSTANCES:
        raise InvalidOption(
            f"instances: {entry}: count {count} is not a number of instances",
            hint=f"Give a number from 0 to {MAX_INSTANCES}.",
        )
    names = [entry] if count is None else [f"{entry}-{number}" for number in range(1, count + 1)]
    for name in names:
        member = _of(f"instances: {entry}", lambda: parse_wish({**options, "name": name}))  # noqa: B023 - called at once
        member.cloud = wish.name
        if wish.state in (STOPPED, SUSPENDED) and member.state not in (ABSENT, DELETED):
            member.state = wish.state
        wish.members.append(Member(entry, member, list(after)))
    if len(wish.members) > MAX_INSTANCES:
        raise InvalidOption(f"instances has more than {MAX_INSTANCES} instances", hint="Make several clouds of them.")


def _check_names(wish: CloudWish) -> None:
    seen: dict[str, Member] = {}
    for member in wish.members:
        other = seen.setdefault(key_of(member.name), member)
        if other is not member:
            raise InvalidOption(
                f"instances has {member.name} twice",
                f"it comes from {other.entry} and from {member.entry}, and names are compared without case",
                "Give one of them another name.",
            )
    networks: dict[str, str] = {}
    for network in wish.networks:
        if networks.setdefault(key_of(network.name), network.name) != network.name:
            raise InvalidOption(f"networks has {network.name} twice", "names are compared without case", "Remove one.")


def _resolve_order(wish: CloudWish) -> None:
    """Turn what members come after, or are made from, into names of instances.

    InvalidOption where there is none, or no first one.
    """
    named: dict[str, list[Member]] = {}
    for member in wish.members:
        for name in sorted({key_of(member.entry), key_of(member.name)}):
            named.setdefault(name, []).append(member)
    for member in wish.members:
        found: dict[str, Member] = {}
        for name in member.after:
            if key_of(name) not in named:
                raise InvalidOption(
                    f"instances: {member.entry}: after names {name}, which is no instance of the cloud",
                    hint="Name one of instances, with or without its number.",
                )
            found.update((other.name, other) for other in named[key_of(name)])
        for other in found.values():
            if not other.wish.wait and wish.state == "present" and other.wish.wants_running:
                raise InvalidOption(
                    f"instances: {member.entry} comes after {other.name}, for which nobody waits",
                    "it has wait: false",
                    f"Leave wait out of {other.entry}, or after out of {member.entry}.",
                )
        source = member.wish.source
        if isinstance(source, Clone):
            found.update((other.name, other) for other in wish.members if key_of(other.name) == key_of(source.instance))
        member.after = list(found)
    _refuse_circles({member.name: member.after for member in wish.members})


def _refuse_circles(after: t.Mapping[str, t.Sequence[str]]) -> None:
    left = {name: set(others) for name, others in after.items()}
    while True:
        free = [name for name, others in left.items() if not others & set(left)]
        if not free:
            break
        for name in free:
            del left[name]
    if not left:
        return
    # Each of the rest depends on another of the rest, so following them finds a circle.
    way = [next(iter(left))]
    while way.count(way[-1]) < 2:
        way.append(next(name for name in after[way[-1]] if name in left))
    circle = way[way.index(way[-1]) :]
    raise InvalidOption(
        "instances come after each other in a circle",
        " after ".join(circle),
        "Leave out one of these after.",
    )


def _check_collisions(wish: CloudWish) -> None:
    """Raise InvalidOption for what no two instances, or networks, can have at once."""
    ports: list[tuple[t.Any, str]] = []
    taken: dict[tuple[str, str, str], str] = {}
    subnets = {key_of(network.name): network for network in wish.networks}
    for member in wish.members:
        if member.wish.state == ABSENT:
            continue
        for port in member.wish.ports or ():
            for other, name in ports if port.host_port else ():
                if name != member.name and ports_exclude(port, other):
                    raise InvalidOption(
                        f"ports: {name} and {member.name} both have the host port {port.host_port}/{port.protocol}",
                        f"{other} and {port} exclude each other",
                        "Give one of them another host port, or leave host ports out to have free ones chosen.",
                    )
            if port.host_port:
                ports.append((port, member.name))
        for nic in member.wish.networks or ():
            key = key_of(nic.network)
            for what, value in (("address", nic.address), ("mac", nic.mac)):
                # An address is one of a network; a MAC is one of the whole host.
                place = (what, key if what == "address" else "", value)
                holder = taken.setdefault(place, member.name) if value else member.name
                if holder != member.name:
                    raise InvalidOption(
                        f"networks: {holder} and {member.name} both have the {what} {value}",
                        hint="Give each its own, or leave it out to have one chosen.",
                    )
            if nic.address and key in subnets:
                _check_address(member.name, nic.address, subnets[key])
    _check_subnets(wish.networks)


def _check_address(name: str, address: str, network: NetworkWish) -> None:
    from ansible_collections.minicloud.local.plugins.module_utils._hostnet.subnets import parse_address, parse_subnet

    if network.subnet:
        _of(f"instances: {name}", lambda: parse_address(address, parse_subnet(t.cast(str, network.subnet))))


def _check_subnets(networks: t.Sequence[NetworkWish]) -> None:
    import ipaddress

    known: list[tuple[t.Any, str]] = []
    for network in networks:
        for text in filter(None, (network.subnet, network.subnet6)):
            subnet = ipaddress.ip_network(text, strict=False)
            for other, name in known:
                if other.version == subnet.version and other.overlaps(subnet):
                    raise InvalidOption(
                        f"networks: the subnets of {name} and {network.name} overlap",
                        f"{other} and {subnet} have addresses in common",
                        "Give one of them another subnet.",
                    )
            known.append((subnet, network.name))
