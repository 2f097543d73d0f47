# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The nouns of the collection: their shapes, names, sizes and states. No input or output."""

from __future__ import annotations

import functools
import re
import socket
import typing as t
from dataclasses import MISSING, field, fields

from ansible_collections.minicloud.local.plugins.module_utils._dataclass import dataclass
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

DEFAULT_CPUS = 1
DEFAULT_MEMORY = 1 * GIB
DEFAULT_DISK = 5 * GIB
DEFAULT_IMAGE = "lts"
DEFAULT_TYPE = "vm"

# The network that is made when an instance first needs one, and the one that a hypervisor's process plays by itself.
DEFAULT_NETWORK, USER_NETWORK = "default", "user"
# How the name of a network begins that an interface with the key `bridged` is on; what follows is its parent.
BRIDGED_TO = "bridged-"

# No cloud image boots with less. Multipass has the same limits.
MIN_MEMORY = 64 * MIB
MIN_DISK = 64 * MIB
# Upper limits that no hypervisor reaches.
MAX_SIZE = 1024 * TIB
MAX_CPUS = 4096
# A month: longer waits are mistakes, and some clocks bear no more.
MAX_TIMEOUT = 30 * 24 * 3600

# The kinds of images, and what each type of instance is made from.
DISK, CONTAINER = "disk", "container"
KINDS = {"vm": DISK, "container": CONTAINER}

# How the disk of a clone was made: what it has in common with that of the other instance is there once, or twice.
LINKED, FULL = "linked", "full"

# States that an instance can be in. paused -- it has its memory and does nothing; suspended -- its memory is saved, and
# it goes on from there; deleted -- it is stopped, and kept until it is removed or asked for again
RUNNING, PAUSED, STOPPED, SUSPENDED = "running", "paused", "stopped", "suspended"
DELETED, ABSENT = "deleted", "absent"
STATES = (RUNNING, PAUSED, STOPPED, SUSPENDED, DELETED, ABSENT)
# States in which the hypervisor has its machine.
UP = (RUNNING, PAUSED)


_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")
_SIZE = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*(?:([KMGT])(?:I?B)?|B)?\s*\Z", re.IGNORECASE | re.ASCII)
_AGE = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([smhdw]?)\s*\Z", re.IGNORECASE | re.ASCII)
# A smaller number without a unit is more likely to be meant as days.
_LEAST_PLAIN_AGE = 3600
_AGE_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_PORT = re.compile(
    r"(?:(?:(?P<ip>[0-9.]+|\[[0-9A-Fa-f:.]+\]):)?(?P<host>[0-9]{0,5}):)?(?P<guest>[0-9]{1,5})(?:/(?P<protocol>tcp|udp))?\Z"
)
_ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


def check_name(name: str, what: str = "name") -> str:
    """NAME if it is one that an instance (or snapshot, or network) can have, else InvalidOption."""
    if not _NAME.match(name):
        raise InvalidOption(
            f"{what} {name!r} is not valid",
            hint="A name begins with a letter, goes on with letters, digits and hyphens, ends with a letter or digit,"
            " and has at most 63 characters.",
        )
    return name


def key_of(name: str) -> str:
    """What two names must differ in to be two names: they are compared without case."""
    return name.lower()


def parse_size(value: str | int, what: str) -> int:
    """Bytes from `512M`, `1.5G`, `10GiB`, `1T` or plain bytes; units are powers of 1024."""
    match = _SIZE.match(str(value))
    if not match:
        raise InvalidOption(
            f"{what} {value!r} is not a size",
            hint="Write a number with a unit, such as 512M, 1.5G, 10GiB or 1T, or plain bytes.",
        )
    number, unit = match.groups()
    factor = _UNITS[(unit or "").upper()]
    return int(number) * factor if "." not in number else int(float(number) * factor)


def parse_age(text: str, what: str, would: str) -> float:
    """Seconds from `14d`, `12h`, `2w`, `1.5d` or plain seconds. InvalidOption where it is none.

    what -- the option; would -- what a number without a unit would do that is more likely meant as days
    """
    match = _AGE.match(str(text))
    if not match:
        raise InvalidOption(f"{what} {text!r} is not a time", hint="Write a number with s, m, h, d or w, such as 14d.")
    number, unit = float(match[1]), match[2].lower()
    if not unit and 0 < number < _LEAST_PLAIN_AGE:
        raise InvalidOption(
            f"{what} {text!r} is so many seconds", would, f"Did you mean {match[1]}d? Write {match[1]}s for seconds."
        )
    return number * _AGE_UNITS[unit]


def likely_size(value: str | int) -> str:
    """What whoever wrote so few bytes may have meant, as a sentence: 512 as 512M, 20 as 20G; empty where none."""
    text = str(value).strip()
    if not re.match(r"[0-9]{1,6}(?:\.[0-9]+)?\Z", text) or not float(text):
        return ""
    return f"A number without a unit is bytes: did you mean {text}{'G' if float(text) < 64 else 'M'}?"


def check_timeout(seconds: float) -> None:
    """Raise InvalidOption if nobody can wait for so long."""
    if not 0 < seconds <= MAX_TIMEOUT:  # nan is neither
        raise InvalidOption(
            f"timeout {seconds:g} is not a time to wait",
            hint=f"Give seconds, more than 0 and at most {MAX_TIMEOUT} (30 days).",
        )


def format_size(size: int) -> str:
    """A size for people: the largest unit that leaves a number of at least one, at most two decimals."""
    for unit, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size >= factor:
            return f"{size / factor:.2f}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{size} bytes"


def normal_arch(arch: str) -> str:
    """The kernel's name of an architecture (x86_64, aarch64), also from Debian's (amd64, arm64)."""
    return _ARCHITECTURES.get(arch.lower(), arch.lower())


class PortForward(t.NamedTuple):
    """A port of the host that leads to a port of the guest. A host_port of 0 is chosen when it is needed."""

    host_ip: str
    host_port: int
    guest_port: int
    protocol: str = "tcp"

    def __str__(self) -> str:
        ip = f"[{self.host_ip}]" if ":" in self.host_ip else self.host_ip
        return f"{ip}:{self.host_port or ''}:{self.guest_port}/{self.protocol}"

    def wants(self, other: PortForward) -> bool:
        """Whether OTHER is what this asks for, its host port chosen or not."""
        return self == other or (not self.host_port and self == other._replace(host_port=0))


def parse_port(text: str) -> PortForward:
    """A forward from `[[host_ip:]host_port:]guest_port[/tcp|udp]`; the host's address is 127.0.0.1 unless given."""
    match = _PORT.match(str(text).strip())
    if match:
        ip = _normal_ip((match["ip"] or "127.0.0.1").strip("[]"))
        forward = PortForward(ip, int(match["host"] or 0), int(match["guest"]), match["protocol"] or "tcp")
        if ip and forward.host_port < 65536 and 0 < forward.guest_port < 65536:
            return forward
    raise InvalidOption(
        f"port {text!r} is not valid",
        hint="Write [[host_ip:]host_port:]guest_port[/tcp|udp], such as 80, 8080:80, 0.0.0.0:8080:80 or 5353:53/udp;"
        " ports are 1 to 65535, and host_ip is an address of the host.",
    )


def ports_exclude(port: PortForward, other: PortForward) -> bool:
    """Whether two forwards, each with a host port, cannot be had at once."""
    same = (port.host_port, port.protocol) == (other.host_port, other.protocol)
    # A listener on all addresses takes the port on each of them.
    return same and (port.host_ip == other.host_ip or bool({port.host_ip, other.host_ip} & {"0.0.0.0", "::"}))


# Ports in records are checked first and used afterwards.
_known_port = functools.lru_cache(maxsize=256)(parse_port)


def _normal_ip(text: str) -> str:
    """An address that a host can have, in its usual form, so that two of the same are equal; empty where it is none."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        raw = socket.inet_pton(family, text)
    except OSError:
        return ""
    # Multicast, broadcast and what is reserved; of those that begin with 0 only that which stands for all.
    if (raw[0] >= 224 and len(raw) == 4) or raw[0] == 255 or (raw[0] == 0 and len(raw) == 4 and any(raw)):
        return ""
    return socket.inet_ntop(family, raw)


# -- records ----------------------------------------------------------------------------------------------------------


class Field(t.NamedTuple):
    """A field of a record. holds -- whether a value is one of its type; what -- the type, as in "it is not WHAT"."""

    holds: t.Callable[[t.Any], bool]
    what: str
    required: bool = False


class RecordKind(t.NamedTuple):
    """A kind of record: what its file has to have for this version to use it.

    name -- with its article, as in "it does not describe NAME"
    schema -- the number of the form that this version writes, the newest that it reads
    fields -- by name; of the kinds that are dataclasses made by fields_of()
    migrations -- by the number of an older form: what makes data of it data of the next one

    A field is added by a line in the dataclass (or in the table) with a default: records that do not have it yet are
    read as before, and versions that do not know it keep it and write it back (`unknown`). The schema is raised only
    where an older version would do harm to what it does not know: it refuses such a record then, whatever it is asked.
    """

    name: str
    schema: int
    fields: t.Mapping[str, Field]
    migrations: t.Mapping[int, t.Callable[[dict[str, t.Any]], dict[str, t.Any]]] = {}

    def checked(self, data: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        """The data of a record of this kind, its types checked; ValueError says what is wrong with it."""
        self.split(data)
        return dict(data)

    def split(self, data: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        """The fields of a record by name, and under `unknown` those that this version does not know. See checked()."""
        found: dict[str, t.Any] = {}
        unknown: dict[str, t.Any] = {}
        for name, value in data.items():
            known = self.fields.get(name)
            if known is None:
                unknown[name] = value
            elif known.holds(value):
                found[name] = value
            else:
                raise ValueError(f"{name} is not {known.what}")
        if len(found) < len(self.fields):
            for name, each in self.fields.items():
                if each.required and name not in found:
                    raise ValueError(f"{name} is missing")
        found["unknown"] = unknown
        return found


def fields_of(cls: t.Any, **narrower: Field) -> dict[str, Field]:
    """The fields of a dataclass as those of a record: their types by their annotations, unless narrower is said.

    A field without a default is required, and one that narrower says is.
    """
    found = {}
    for each in fields(cls):
        if each.name != "unknown":
            type_ = narrower.get(each.name) or _TYPES[str(each.type)]
            required = type_.required or (each.default is MISSING and each.default_factory is MISSING)
            found[each.name] = type_._replace(required=required)
    return found


def _is_text(value: t.Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_number(value: t.Any) -> bool:
    # Ansible's own numbers are of a class that derives from int.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _is_texts(value: t.Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_handles(value: t.Any) -> bool:
    return isinstance(value, dict) and all(map(_is_texts, value.values()))


def _is_lines(value: t.Any) -> bool:
    return isinstance(value, list) and all(_is_text(line) and "\n" not in line for line in value)


def _is_pairs(value: t.Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and all(map(_is_number, pair)) for pair in value
    )


def _is_object(value: t.Any) -> bool:
    return isinstance(value, dict)


def _is_port(value: t.Any) -> bool:
    try:
        return _is_text(value) and bool(_known_port(value))
    except InvalidOption:
        return False


def _is_name(value: t.Any) -> bool:
    return isinstance(value, str) and bool(_NAME.match(value))


def is_address(value: t.Any) -> bool:
    """An address, or none."""
    return value == "" or (_is_text(value) and bool(_normal_ip(value)))


def _is_subnet(value: t.Any) -> bool:
    """A subnet in CIDR form, or none."""
    if value == "":
        return True
    address, slash, prefix = value.partition("/") if isinstance(value, str) else ("", "", "")
    longest = 128 if ":" in address else 32
    return bool(slash) and is_address(address) and prefix.isdecimal() and len(prefix) < 4 and int(prefix) <= longest


def _is_image(value: t.Any) -> bool:
    """What an instance keeps of its image. What newer versions keep besides need not be text."""
    known = ("name", "hash", "path", "os", "release", "version", "firmware")
    return isinstance(value, dict) and all(_is_text(value.get(key, "")) for key in known)


def _is_cloud_init(value: t.Any) -> bool:
    """What cloud-init reported: its status as text, its errors as texts."""
    return isinstance(value, dict) and _is_text(value.get("status", "")) and _is_lists_of_text(value.get("errors", []))


def _is_lists_of_text(value: t.Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def one_of(*values: str) -> Field:
    """A field that has one of a few values. One that is not known may be of a newer version."""
    return Field(
        lambda value: isinstance(value, str) and value in values, f"one that this version knows: {', '.join(values)}"
    )


def matching(pattern: str, what: str) -> Field:
    """A field whose text matches a regular expression as a whole."""
    compiled = re.compile(pattern)
    return Field(lambda value: isinstance(value, str) and bool(compiled.fullmatch(value)), what)


TEXT = Field(_is_text, "text")
NUMBER = Field(_is_number, "a whole number of a sensible size")
SECONDS = Field(
    lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1 << 63,
    "a time in seconds",
)
FLAG = Field(lambda value: isinstance(value, bool), "true or false")
OBJECT = Field(_is_object, "an object")
TEXTS = Field(_is_texts, "an object of texts")
LINES = Field(_is_lines, "a list of lines of text")
ADDRESS = Field(is_address, "an address")
SUBNET = Field(_is_subnet, "a subnet")
_PORTS = Field(lambda value: isinstance(value, list) and all(map(_is_port, value)), "a list of port forwards")
_TYPES: t.Mapping[str, Field] = {
    "str": TEXT,
    "int": NUMBER,
    "bool": FLAG,
    "bool | None": Field(lambda value: value is None or isinstance(value, bool), "true, false or null"),
    "list[str]": LINES,
    "list[int]": Field(
        lambda value: isinstance(value, list) and all(map(_is_number, value)), "a list of whole numbers"
    ),
    "list[PortForward]": _PORTS,
    "list[Mount]": Field(lambda value: isinstance(value, list) and all(map(_is_object, value)), "a list of mounts"),
    "list[tuple[int, int]]": Field(_is_pairs, "a list of pairs of whole numbers"),
    "list[Nic]": Field(
        lambda value: isinstance(value, list) and all(map(_is_object, value)), "a list of network interfaces"
    ),
    "dict[str, str]": TEXTS,
    "dict[str, t.Any]": OBJECT,
    "dict[str, dict[str, str]]": Field(_is_handles, "an object of objects of texts"),
}

# How far a thing is: its parts are being made, they are all there, it is being removed.
PHASES = ("creating", "ready", "removing")


@dataclass
class Nic:
    """A network interface of an instance.

    network -- its name; mode -- auto (the network configures it) or manual (nobody does)
    address -- the static one that was asked for; empty where the network may choose
    lease -- the address that the network keeps for this MAC; empty where it keeps none
    unknown -- fields of its record that a newer version has written
    """

    network: str
    mac: str
    mode: str = "auto"
    address: str = ""
    lease: str = ""
    unknown: dict[str, t.Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, t.Any]:
        """As plain data, for the record."""
        return plain(self)

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Nic:
        """From a record's data. ValueError says what is wrong with it."""
        return cls(**NIC.split(data))


# In the place of a guest's id: that of its login user.
DEFAULT_ID = -1


@dataclass
class Mount:
    """A folder of the host in a guest.

    source -- an absolute path of the host
    target -- a path of the guest, absolute or from the home directory of the login user
    type -- auto, native, classic or copy, as asked for
    uid_map, gid_map -- pairs of an id of the host and the id (or DEFAULT_ID) that it is in the guest; none: as they are
    delete -- whether what is not in a copied folder is removed from the guest
    mechanism -- what it was made with last, such as disk device or tar; empty where it never was
    copied -- fingerprint of what was copied last
    failure -- why the last attempt to make it failed; empty where it did not
    not_native -- why one of the type auto was not made by the hypervisor's means; empty where it was
    unknown -- fields of its record that a newer version has written
    """

    source: str
    target: str
    type: str = "auto"
    uid_map: list[tuple[int, int]] = field(default_factory=list)
    gid_map: list[tuple[int, int]] = field(default_factory=list)
    read_only: bool = False
    delete: bool = False
    mechanism: str = ""
    copied: str = ""
    failure: str = ""
    not_native: str = ""
    unknown: dict[str, t.Any] = field(default_factory=dict)

    @property
    def may_be_native(self) -> bool:
        """Whether the hypervisor's own means are used for it where that can be."""
        return self.type in ("auto", "native")

    @property
    def may_be_classic(self) -> bool:
        """Whether ssh is used for it where need be."""
        return self.type in ("auto", "classic")

    def to_dict(self) -> dict[str, t.Any]:
        """As plain data, for the record."""
        return plain(self)

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Mount:
        """From a record's data. ValueError says what is wrong with it."""
        values = MOUNT.split(data)
        for key in ("uid_map", "gid_map"):
            values[key] = [(pair[0], pair[1]) for pair in values.get(key, ())]
        return cls(**values)


def plain(record: t.Any) -> dict[str, t.Any]:
    """The fields of a record, those of newer versions beside its own."""
    data = dict(vars(record))
    return {**data.pop("unknown"), **data}


def place_in_guest(user: str, target: str) -> str:
    """The absolute path of a target, where the login user is known who has it in the home directory; else empty."""
    if target.startswith("/"):
        return target
    home = "/root" if user == "root" else f"/home/{user}"
    return f"{home}/{target}" if user else ""


@dataclass
class Instance:
    """What scope storage knows of an instance.

    driver -- which made it; owner -- under which it was last started
    phase -- creating (its parts are being made), ready (they are all there) or removing
    cpus -- number; memory, disk -- bytes; user -- login user, empty until known
    image -- name, hash, path, os, release, version, firmware of what its disk is backed by
    origin -- fingerprints of the options that only count when an instance is made, by option
    chosen_ports -- the ports of the host among those of ports that nobody asked for by number
    ssh_port -- the port of the host's loopback address that leads to the guest's ssh server
    booted -- whether it has ever become ready; ready -- whether it has since its last start
    restarting -- whether it was stopped only to be changed and started again
    stopping -- when it was told to stop (UTC, as created), if it was not seen to do so; empty otherwise
    deleted -- since when it is deleted (UTC, as created), and can be recovered; empty otherwise
    suspended -- since when it is suspended (UTC, as created); empty otherwise
    resumed -- whether it goes on from where it was suspended, and its clock has not been set since
    new_name -- that it is about to get, as of the moment at which its directory has it; empty otherwise
    renamed_from -- the name that it had, until all that goes by its name has followed; empty otherwise
    cloud_init -- status and errors, as cloud-init reported them
    source -- what it was made from where that was no image: name, as its task told; of a clone also uuid (of the other
        instance), snapshot (the uuid of that one's, empty of none) and copy (linked or full)
    cloud -- the name of the cloud that it was made as a part of, empty of none
    snapshot -- the uuid of the snapshot that it goes on from; empty before the first
    snapshot_count -- the number in the last of its snapshots' default names, which are never given twice
    restoring -- the uuid of the snapshot that its disk is still to be brought back to; empty otherwise
    restoring_cold -- whether the memory that was saved with that is left out
    handles -- the drivers that have had it, each with what it needs to find what it made of it outside its directory
    unknown -- fields of its record that a newer version has written
    """

    name: str
    uuid: str
    scope: str
    driver: str
    created: str
    arch: str
    cpus: int
    memory: int
    disk: int
    owner: str = ""
    phase: str = "creating"
    instance_type: str = "vm"
    user: str = ""
    autostart: bool = False
    ssh_port: int = 0
    booted: bool = False
    ready: bool = False
    restarting: bool = False
    stopping: str = ""
    deleted: str = ""
    suspended: str = ""
    resumed: bool = False
    new_name: str = ""
    renamed_from: str = ""
    image: dict[str, str] = field(default_factory=dict)
    tags: dict[str, t.Any] = field(default_factory=dict)
    ports: list[PortForward] = field(default_factory=list)
    chosen_ports: list[int] = field(default_factory=list)
    nics: list[Nic] = field(default_factory=list)
    mounts: list[Mount] = field(default_factory=list)
    host_keys: list[str] = field(default_factory=list)
    origin: dict[str, str] = field(default_factory=dict)
    cloud_init: dict[str, t.Any] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)
    cloud: str = ""
    snapshot: str = ""
    snapshot_count: int = 0
    restoring: str = ""
    restoring_cold: bool = False
    handles: dict[str, dict[str, str]] = field(default_factory=dict)
    unknown: dict[str, t.Any] = field(default_factory=dict)

    @property
    def user_mode(self) -> bool:
        """Whether its first interface is on no network of this host: only forwarded ports lead to it."""
        return not self.nics or self.nics[0].network == USER_NETWORK

    @property
    def starts_with_host(self) -> bool:
        """Whether it is to start with the host now: one that is deleted is not, until it is recovered."""
        return self.autostart and not self.deleted

    @property
    def alias(self) -> str:
        """The name under which ssh knows the instance's host key: unique in the data directory."""
        return f"minicloud-{self.scope}-{key_of(self.name)}"

    def place_of(self, mount: Mount) -> str:
        """The absolute target of a mount; empty while it is below the home of a user that is not known yet."""
        return place_in_guest(self.user, mount.target)

    def to_dict(self) -> dict[str, t.Any]:
        """As plain data, for the record."""
        data = plain(self)
        data["ports"] = [str(port) for port in self.ports]
        data["nics"] = [nic.to_dict() for nic in self.nics]
        data["mounts"] = [mount.to_dict() for mount in self.mounts]
        return data

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Instance:
        """From a record's data. ValueError says what is wrong with it."""
        values = INSTANCE.split(data)
        values["ports"] = [_known_port(port) for port in values["ports"]]
        values["nics"] = [Nic.from_dict(nic) for nic in values["nics"]]
        values["mounts"] = [Mount.from_dict(mount) for mount in values.get("mounts", ())]
        return cls(**values)


NIC = RecordKind(
    "a network interface",
    1,
    fields_of(
        Nic,
        mac=matching("(?:(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2})?", "a MAC address"),
        mode=one_of("auto", "manual"),
        address=ADDRESS,
        lease=ADDRESS,
    ),
)
MOUNT = RecordKind("a mount", 1, fields_of(Mount))
NAMED = Field(_is_name, "a name")
INSTANCE = RecordKind(
    "an instance",
    1,
    fields_of(
        Instance,
        name=NAMED,
        phase=one_of(*PHASES),
        instance_type=one_of(*KINDS),
        image=Field(_is_image, "what an image is called and where it is, in texts"),
        cloud_init=Field(_is_cloud_init, "what cloud-init reported"),
        ports=_TYPES["list[PortForward]"]._replace(required=True),
        nics=_TYPES["list[Nic]"]._replace(required=True),
    ),
)


class Observed(t.NamedTuple):
    """What a driver sees of an instance now.

    state -- one of STATES; absent where the instance was removed at the hypervisor by other means
    addresses -- of the guest, as far as the driver knows them; by_mac -- the same by network interface
    drift -- what somebody changed at the hypervisor, as sentences; the next start puts it right
    severed -- whether it runs, and a network that it is on does not work, or forwards its ports to where it is not
    reason -- why it is paused, where that is known and is no one's wish; empty otherwise
    differs -- the options of a task among what somebody changed: what a task names of them is put right
    disk -- bytes, where the hypervisor has it larger than the record; else 0
    unmounted -- whether it runs without a mount of its record that could be there now
    """

    state: str
    addresses: tuple[str, ...] = ()
    by_mac: t.Mapping[str, tuple[str, ...]] = {}
    drift: tuple[str, ...] = ()
    severed: bool = False
    reason: str = ""
    differs: tuple[str, ...] = ()
    disk: int = 0
    unmounted: bool = False


def as_recorded(instance: Instance, seen: Observed) -> Observed:
    """What a driver sees of an instance, with what only its record knows: that it is deleted."""
    return seen._replace(state=DELETED) if instance.deleted and seen.state == STOPPED else seen
