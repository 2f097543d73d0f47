# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""A domain of libvirt, as its XML describes it. The XML of ours is written in definition.py."""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._json import understood
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, format_size

# The XML namespace of the metadata of our domains, and the one of libvirt for arguments of QEMU.
NAMESPACE = "urn:minicloud:local:1"
QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"

# Ports of the machine that folders of the host are plugged into while it runs, as libvirt calls them for QEMU.
FOLDER_PORTS = tuple(f"pci.{number}" for number in range(1, 5))


class Shape(t.NamedTuple):
    """What is compared of two definitions of a domain. memory -- bytes; disks -- their files, in order"""

    memory: int
    cpus: int
    disks: tuple[str, ...]
    macs: tuple[str, ...]


class Domain(t.NamedTuple):
    """A domain as its XML describes it.

    owner -- the attributes of our metadata: instance, scope, data_dir; empty of a domain that is not ours
    defined -- its shape when it was defined by us; None of a domain that is not ours
    """

    name: str
    shape: Shape
    owner: dict[str, str]
    defined: Shape | None


@understood("what libvirt says of a domain", HypervisorError)
def parse_domain(xml: str) -> Domain:
    """A domain from its XML, as libvirt tells it."""
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as exc:
        raise ValueError(str(exc)) from exc
    vcpu = root.find("vcpu")
    cpus = 0 if vcpu is None else int(vcpu.get("current") or vcpu.text or 0)
    disks = [source.get("file") or source.get("dev") or "" for source in root.iterfind("devices/disk/source")]
    macs = [mac.get("address", "") for mac in root.iterfind("devices/interface/mac")]
    for argument in root.iterfind(f"{{{QEMU_NAMESPACE}}}commandline/{{{QEMU_NAMESPACE}}}arg"):
        macs += [word[4:] for word in argument.get("value", "").split(",") if word.startswith("mac=")]
    # libvirt always tells sizes in KiB.
    memory = int(root.findtext("currentMemory") or root.findtext("memory") or 0) << 10
    ours = root.find(f"metadata/{{{NAMESPACE}}}instance")
    defined = None
    if ours is not None:
        defined = Shape(
            int(ours.get("memory", "0")),
            int(ours.get("cpus", "0")),
            tuple(disk.get("file", "") for disk in ours.iterfind(f"{{{NAMESPACE}}}disk")),
            tuple(nic.get("mac", "") for nic in ours.iterfind(f"{{{NAMESPACE}}}nic")),
        )
    shape = Shape(memory, cpus, tuple(disks), tuple(macs))
    owner = {} if ours is None else {key: ours.get(key, "") for key in ("name", "scope", "data_dir")}
    return Domain(root.findtext("name") or "", shape, owner, defined)


@understood("what libvirt says of a domain", HypervisorError)
def takes_folders(xml: str) -> bool:
    """Whether folders can be plugged into a domain: it has ports for them, and memory that others can reach."""
    from xml.etree import ElementTree

    root = ElementTree.fromstring(xml)
    access = root.find("memoryBacking/access")
    ports = {port.get("index") for port in root.iterfind("devices/controller[@model='pcie-root-port']")}
    shared = access is not None and access.get("mode") == "shared"
    return shared and {name.rpartition(".")[2] for name in FOLDER_PORTS} <= ports


def names(instance: Instance) -> tuple[str, str]:
    """The names that the domain of an instance can have: the instance's, or where another domain has that a longer."""
    return instance.name, f"{instance.name}-{instance.uuid[:8]}"


def drift(domain: Domain, instance: Instance) -> tuple[str, ...]:
    """What somebody else has changed in a domain of ours since it was defined."""
    found = []
    actual, defined = domain.shape, domain.defined or domain.shape
    if domain.name not in names(instance):
        found.append(f"its name in libvirt is {domain.name}")
    if actual.memory != defined.memory:
        found.append(f"its memory in libvirt is {format_size(actual.memory)}, not {format_size(defined.memory)}")
    if actual.cpus != defined.cpus:
        found.append(f"its cpus in libvirt are {actual.cpus}, not {defined.cpus}")
    for what, here, there in (
        ("disks", actual.disks, defined.disks),
        ("network interfaces", actual.macs, defined.macs),
    ):
        if sorted(here) != sorted(there):
            found.append(f"its {what} in libvirt are {', '.join(here) or 'none'}, not {', '.join(there) or 'none'}")
    return tuple(f"{text}: somebody has changed its domain" for text in found)


def differing(domain: Domain) -> tuple[str, ...]:
    """The options of a task among what somebody has changed in a domain of ours."""
    actual, defined = domain.shape, domain.defined or domain.shape
    return tuple(option for option in ("cpus", "memory") if getattr(actual, option) != getattr(defined, option))


def offers_kvm(capabilities: t.Any, arch: str) -> bool:
    """Whether libvirt would run machines of an architecture with KVM."""
    return capabilities.find(f"guest/arch[@name='{arch}']/domain[@type='kvm']") is not None


def foreign(domain: Domain) -> str:
    """What is said of a domain that has an instance's uuid and is not of that instance."""
    whose = f"it belongs to the data directory {domain.owner['data_dir']}" if domain.owner else "its metadata are gone"
    return f"the domain {domain.name} of libvirt has its uuid, but {whose}"
