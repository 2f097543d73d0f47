# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The forms of what VBoxManage says, as far as anything here relies on them.

It may say more: warnings come before results, on the same stream, and names and descriptions are whatever somebody has
written. So what stands first counts, and what is not understood is left aside.
"""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._model import (
    PAUSED,
    RUNNING,
    STOPPED,
    SUSPENDED,
    PortForward,
)

# The rule that leads to the guest's ssh server.
SSH_RULE = "ssh"
# How the names of our snapshots begin, and of those that wait for being removed; the snapshot's uuid follows.
SNAPSHOT, HIDDEN = "minicloud-", "minicloud-removed-"

# How VirtualBox calls states, without spaces. Those that are not here are of a machine that is up.
_STATES = {
    "poweroff": STOPPED,
    "poweredoff": STOPPED,
    "aborted": STOPPED,
    "teleported": STOPPED,
    "settingup": STOPPED,
    "snapshotting": STOPPED,
    "offlinesnapshotting": STOPPED,
    "deletingsnapshot": STOPPED,
    "restoringsnapshot": STOPPED,
    "saved": SUSPENDED,
    "aborted-saved": SUSPENDED,
    "paused": PAUSED,
    "gurumeditation": PAUSED,
    "teleportingpausedvm": PAUSED,
    "deletingsnapshotlivepaused": PAUSED,
}
_REASONS = {"gurumeditation": "VirtualBox has halted it because of a fault (guru meditation); a restart helps"}

_PAIR = re.compile(r'(?:"([^"]+)"|([A-Za-z][\w/() -]*))=(.*)\Z')
_RULE = re.compile(r"Forwarding\([0-9]+\)\Z")
_SNAPSHOT = re.compile(r"SnapshotName((?:-[0-9]+)*)\Z")
# In columns; a folder that is shared has a name, too, behind one space.
_LISTED = re.compile(r"(Name|UUID|Config file|Memory size|Number of CPUs|State): {2,}(.*)\Z")
_LISTED_SNAPSHOT = re.compile(r"\s+Name: (\S+) \(UUID: ([0-9a-f-]{36})\)")
_MEDIUM = re.compile(r"(UUID|Parent UUID|Location):\s+(.*)\Z")
_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})\.[0-9]{1,4}\S{0,40}\Z")


class Kept(t.NamedTuple):
    """A snapshot of VirtualBox. parent -- the uuid of the one before it, empty of the first"""

    name: str
    uuid: str
    parent: str = ""


class Machine(t.NamedTuple):
    """A machine as VirtualBox knows it.

    status -- in VirtualBox's own words; settings -- the path of its file; memory -- bytes
    rules -- of its first interface, by name; snapshots -- all, those before others first; console -- where it goes
    disk -- the path of what the guest writes on; seed -- the uuid of the medium in its drive
    current -- the uuid of the snapshot that it goes on from, empty before the first
    """

    uuid: str
    name: str
    status: str
    settings: str
    memory: int
    cpus: int
    rules: t.Mapping[str, PortForward] = {}
    snapshots: tuple[Kept, ...] = ()
    console: str = ""
    disk: str = ""
    seed: str = ""
    current: str = ""

    @property
    def state(self) -> str:
        """One of the model's states."""
        return _STATES.get(self.status, RUNNING)

    @property
    def reason(self) -> str:
        """Why it is paused, where that is no one's wish."""
        return _REASONS.get(self.status, "")

    @property
    def forwards(self) -> list[PortForward]:
        """The forwards that are not the one for ssh."""
        return [rule for name, rule in self.rules.items() if name != SSH_RULE]

    def kept(self, uuid: str) -> Kept | None:
        """What is there of a snapshot of ours, by our uuid."""
        return next((each for each in self.snapshots if each.name == f"{SNAPSHOT}{uuid}"), None)


class Medium(t.NamedTuple):
    """A disk or an image that VirtualBox has registered. parent -- the uuid of what it is backed by, or empty"""

    uuid: str
    parent: str
    location: str


def parse_version(text: str) -> tuple[str, tuple[int, int]]:
    """The version that VBoxManage tells of itself, and its first two numbers. ValueError where it tells none."""
    for line in reversed(text.splitlines()):
        found = _VERSION.match(line.strip())
        if found:
            return found[0], (int(found[1]), int(found[2]))
    raise ValueError("it tells no version")


def parse_machine(text: str) -> Machine:
    """What `showvminfo --machinereadable` says. ValueError where that is no machine."""
    pairs: dict[str, str] = {}
    rules: dict[str, PortForward] = {}
    snapshots: list[Kept] = []
    by_place: dict[str, str] = {}
    names: list[str] = []
    for key, value in _pairs(text):
        if _RULE.match(key):
            # They stand before the interface after the one that they belong to, and are counted anew for each.
            name, rule = _rule(value)
            if "nic2" not in pairs and rule is not None:
                rules[name] = rule
        snapshot = _SNAPSHOT.match(key)
        if snapshot and f"SnapshotUUID{snapshot[1]}" not in pairs:
            names.append(value)
        elif key.startswith("SnapshotUUID") and key not in pairs and names:
            place = key[len("SnapshotUUID") :]
            by_place[place] = value
            snapshots.append(Kept(names[-1], value, by_place.get(place.rpartition("-")[0], "") if place else ""))
        pairs.setdefault(key, value)
    if "UUID" not in pairs:
        raise ValueError("it describes no machine")
    return Machine(
        uuid=pairs["UUID"].lower(),
        name=pairs.get("name", ""),
        status=_status(pairs.get("VMState", "")),
        settings=pairs.get("CfgFile", ""),
        memory=_number(pairs.get("memory", "")) << 20,
        cpus=_number(pairs.get("cpus", "")),
        rules=rules,
        snapshots=tuple(snapshots),
        console=pairs.get("uartmode1", "").partition(",")[2],
        disk=_medium(pairs.get("SATA-0-0", "")),
        seed=pairs.get("SATA-ImageUUID-1-0", ""),
        current=pairs.get("CurrentSnapshotUUID", ""),
    )


def parse_machines(text: str) -> dict[str, Machine]:
    """What `list --long vms` says, by uuid. Of rules and media it has what parse_machine() has, in another form."""
    found: dict[str, Machine] = {}
    block: dict[str, str] = {}
    snapshots: list[Kept] = []

    def close() -> None:
        uuid = block.get("UUID", "").lower()
        if uuid and "State" in block and uuid not in found:
            found[uuid] = Machine(
                uuid=uuid,
                name=block.get("Name", ""),
                status=_status(block["State"].partition(" (since")[0]),
                settings=block.get("Config file", ""),
                memory=_number(block.get("Memory size", "").replace("MB", "")) << 20,
                cpus=_number(block.get("Number of CPUs", "")),
                snapshots=tuple(snapshots),
            )

    for line in text.splitlines():
        pair = _LISTED.match(line)
        if pair and pair[1] == "Name":
            close()
            block, snapshots = {"Name": pair[2]}, []
        elif pair:
            block.setdefault(pair[1], pair[2])
        else:
            kept = _LISTED_SNAPSHOT.match(line)
            if kept:
                snapshots.append(Kept(kept[1], kept[2]))
    close()
    return found


def parse_media(text: str) -> list[Medium]:
    """What `list hdds` or `list dvds` says."""
    found: list[Medium] = []
    block: dict[str, str] = {}
    for line in [*text.splitlines(), ""]:
        pair = _MEDIUM.match(line)
        if pair:
            block.setdefault(pair[1], pair[2])
        elif not line.strip():
            if "UUID" in block:
                parent = block.get("Parent UUID", "")
                found.append(Medium(block["UUID"], "" if parent == "base" else parent, block.get("Location", "")))
            block = {}
    return found


def is_below(path: str, directory: str) -> bool:
    """Whether a path is inside of a directory, links resolved."""
    return os.path.realpath(path).startswith(os.path.join(os.path.realpath(directory), ""))


def rule_of(name: str, port: PortForward) -> str:
    """A rule as VBoxManage takes it."""
    return f"{name},{port.protocol},{port.host_ip},{port.host_port},,{port.guest_port}"


def name_of(port: PortForward) -> str:
    """The name of the rule for a forward."""
    return f"{port.protocol}-{port.host_ip}-{port.host_port}"


def _pairs(text: str) -> t.Iterator[tuple[str, str]]:
    for line in text.splitlines():
        pair = _PAIR.match(line)
        if pair:
            yield pair[1] or pair[2], _unquoted(pair[3])


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        return value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return value


def _rule(value: str) -> tuple[str, PortForward | None]:
    """The name of a rule and what it does; None where that is nothing that a forward of ours could be."""
    fields = value.split(",")
    if len(fields) != 6 or fields[1] not in ("tcp", "udp"):
        return fields[0], None
    host_port, guest_port = _number(fields[3]), _number(fields[5])
    if not (0 < host_port < 65536 and 0 < guest_port < 65536):
        return fields[0], None
    return fields[0], PortForward(fields[2] or "0.0.0.0", host_port, guest_port, fields[1])


def _number(text: str) -> int:
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _status(text: str) -> str:
    return text.replace(" ", "").lower()


def _medium(text: str) -> str:
    return "" if text in ("none", "emptydrive") else text
