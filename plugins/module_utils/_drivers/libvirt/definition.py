# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The definition of a libvirt domain: the virtual machine that qemu_family/machine.py describes on a command line."""

from __future__ import annotations

import typing as t
from xml.etree import ElementTree

from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.domain import (
    FOLDER_PORTS,
    NAMESPACE,
    QEMU_NAMESPACE,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.machine import ARCHITECTURES
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.usernet import forward_rule
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    MIB,
    USER_NETWORK,
    Instance,
    Nic,
)

# What QEMU's own network is called at the first interface, which ports are forwarded to.
NETDEV = "usernet0"

Element = ElementTree.Element


class Bridge(t.NamedTuple):
    """How an interface is on a network of the host.

    interface -- the bridge, or with direct what the guest is on top of (macvtap); mtu -- 0 for the usual
    tap -- the name by which the network finds the guest's end again
    """

    interface: str
    tap: str
    mtu: int = 0
    direct: bool = False


class Parts(t.NamedTuple):
    """What a domain consists of besides what is in the instance's record.

    name -- of the domain; owner -- what ties it to the record
    accelerator -- kvm or tcg; files -- paths of base, the layers between it and the disk from the topmost on as layer1,
    layer2 …, disk, seed and console
    open_files -- whether all these but the console are handed over open, so that QEMU needs no right to any path
    code, nvram -- the firmware's code and this machine's variables; empty without UEFI
    own_nvram -- whether QEMU may write to nvram itself; else libvirt makes a copy of its own from it at each start
    bridges -- of the interfaces that are on networks of the host, by MAC
    nics -- the interfaces, unless they are those of the record
    sockets -- of interfaces on networks of an ordinary user, by MAC: the interface's own, and the hub's
    isolated -- whether the user-mode network does not lead out
    ssh_ip -- the address at which the user-mode network listens for ssh
    run_as -- the uid and gid that QEMU is to run as, where that is not libvirt's choice
    """

    name: str
    owner: t.Mapping[str, str]
    accelerator: str
    files: t.Mapping[str, str]
    open_files: bool = True
    code: str = ""
    nvram: str = ""
    own_nvram: bool = False
    bridges: t.Mapping[str, Bridge] = {}
    nics: t.Sequence[Nic] = ()
    sockets: t.Mapping[str, tuple[str, str]] = {}
    isolated: bool = False
    ssh_ip: str = "127.0.0.1"
    run_as: tuple[int, int] | None = None


def domain_xml(instance: Instance, parts: Parts) -> str:
    """The definition of the domain of an instance."""
    ElementTree.register_namespace("minicloud", NAMESPACE)
    ElementTree.register_namespace("qemu", QEMU_NAMESPACE)
    arch = ARCHITECTURES[instance.arch]
    root = Element("domain", type="kvm" if parts.accelerator == "kvm" else "qemu")
    _text(root, "name", parts.name)
    _text(root, "uuid", instance.uuid)
    root.append(_metadata(instance, parts))
    _text(root, "memory", str(_memory(instance) >> 10), unit="KiB")
    _text(root, "currentMemory", str(_memory(instance) >> 10), unit="KiB")
    # What serves folders reads and writes the guest's memory.
    backing = _child(root, "memoryBacking")
    _child(backing, "source", type="memfd")
    _child(backing, "access", mode="shared")
    _text(root, "vcpu", str(instance.cpus))
    root.append(_os(instance, parts, arch.machine))
    features = _child(root, "features")
    _child(features, "acpi")
    if instance.arch == "x86_64":
        _child(features, "apic")
    if parts.accelerator == "kvm":
        _child(root, "cpu", mode="host-passthrough")
    else:
        _text(_child(features, "tcg"), "tb-cache", "512", unit="MiB")
        _child(root, "cpu", mode="maximum")
    _child(root, "clock", offset="utc")
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        _text(root, f"on_{event}", action)
    devices = _child(root, "devices")
    _child(devices, "controller", type="usb", model="none")
    _child(devices, "memballoon", model="none")
    slots = iter(range(1, 31))
    devices.append(_disk(parts, "disk", "vda", next(slots)))
    devices.append(_disk(parts, "seed", "vdb", next(slots)))
    arguments: list[str] = []
    for number, nic in enumerate(parts.nics or instance.nics):
        if nic.network == USER_NETWORK:
            arguments += _user_network(instance, parts, number, nic, next(slots))
        elif nic.mac in parts.sockets:
            arguments += _socket_network(*parts.sockets[nic.mac], nic.mac, next(slots))
        else:
            devices.append(_interface(parts.bridges[nic.mac], nic, next(slots)))
    rng = _child(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    _address(rng, next(slots))
    # After all others, which have the addresses that they would have without them.
    for name in FOLDER_PORTS:
        port = _child(devices, "controller", type="pci", index=name.rpartition(".")[2], model="pcie-root-port")
        _address(port, next(slots))
    serial = _child(devices, "serial", type="pty")
    _child(serial, "log", file=parts.files["console"], append="on")
    if parts.run_as:
        label = _child(root, "seclabel", type="static", model="dac", relabel="no")
        # Numbers, not names: it is by them that files are shared.
        _text(label, "label", "+{}:+{}".format(*parts.run_as))
    if arguments:
        commandline = _child(root, f"{{{QEMU_NAMESPACE}}}commandline")
        for argument in arguments:
            _child(commandline, f"{{{QEMU_NAMESPACE}}}arg", value=argument)
    return ElementTree.tostring(root, encoding="unicode")


def _memory(instance: Instance) -> int:
    """Bytes, whole MiB as QEMU counts them."""
    return max(1, instance.memory // MIB) * MIB


def _metadata(instance: Instance, parts: Parts) -> Element:
    metadata = Element("metadata")
    shape = {"memory": str(_memory(instance)), "cpus": str(instance.cpus)}
    ours = _child(metadata, f"{{{NAMESPACE}}}instance", **parts.owner, **shape)
    for disk in ("disk", "seed"):
        _child(ours, f"{{{NAMESPACE}}}disk", file=parts.files[disk])
    for nic in parts.nics or instance.nics:
        _child(ours, f"{{{NAMESPACE}}}nic", network=nic.network, mac=nic.mac)
    return metadata


def _os(instance: Instance, parts: Parts, machine: str) -> Element:
    element = Element("os")
    _text(element, "type", "hvm", arch=instance.arch, machine=machine)
    if parts.code:
        _text(element, "loader", parts.code, readonly="yes", type="pflash")
        if parts.own_nvram:
            _text(element, "nvram", parts.nvram)
        else:
            _child(element, "nvram", template=parts.nvram)
    return element


def _disk(parts: Parts, which: str, target: str, slot: int) -> Element:
    disk = Element("disk", type="file", device="disk")
    if which == "disk":
        _child(disk, "driver", name="qemu", type="qcow2", discard="unmap")
    else:
        _child(disk, "driver", name="qemu", type="raw")
    _source(disk, parts, which)
    backing = _child(disk, "backingStore")
    layers = [name for name in parts.files if name.startswith("layer")]
    for below in (*layers, "base") if which == "disk" else ():
        backing.set("type", "file")
        _child(backing, "format", type="qcow2")
        _source(backing, parts, below)
        backing = _child(backing, "backingStore")
    _child(disk, "target", dev=target, bus="virtio")
    if which == "disk":
        _child(disk, "boot", order="1")
    else:
        _child(disk, "readonly")
    _address(disk, slot)
    return disk


def _source(parent: Element, parts: Parts, which: str) -> None:
    source = _child(parent, "source", file=parts.files[which])
    if parts.open_files:
        source.set("fdgroup", which)


def _interface(bridge: Bridge, nic: Nic, slot: int) -> Element:
    interface = Element("interface", type="direct" if bridge.direct else "bridge")
    _child(interface, "mac", address=nic.mac)
    if bridge.direct:
        _child(interface, "source", dev=bridge.interface, mode="bridge")
    else:
        _child(interface, "source", bridge=bridge.interface)
    _child(interface, "target", dev=bridge.tap)
    _child(interface, "model", type="virtio")
    if bridge.mtu:
        _child(interface, "mtu", size=str(bridge.mtu))
    _address(interface, slot)
    return interface


def _user_network(instance: Instance, parts: Parts, number: int, nic: Nic, slot: int) -> list[str]:
    """Arguments of QEMU: libvirt has no port forwards for this kind of network."""
    rules: list[str] = []
    if number == 0 and instance.ssh_port:
        rules = [f"tcp:{parts.ssh_ip}:{instance.ssh_port}-:22", *map(forward_rule, instance.ports)]
    netdev = f"usernet{number}"
    closed = ["restrict=on"] if parts.isolated else []
    argument = ",".join(["user", f"id={netdev}", *closed, *(f"hostfwd={rule}" for rule in rules)])
    device = f"virtio-net-pci,netdev={netdev},mac={nic.mac},bus=pcie.0,addr={slot:#x}"
    return ["-netdev", argument, "-device", device]


def _socket_network(own: str, hub: str, mac: str, slot: int) -> list[str]:
    """Arguments of QEMU: libvirt knows no interface on a datagram socket with a path."""
    identity = f"mc{mac.replace(':', '')}"
    # A comma in a value is doubled.
    local, remote = (path.replace(",", ",,") for path in (own, hub))
    netdev = f"dgram,id={identity},local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"
    return ["-netdev", netdev, "-device", f"virtio-net-pci,netdev={identity},mac={mac},bus=pcie.0,addr={slot:#x}"]


def _address(device: Element, slot: int) -> None:
    """Where QEMU puts it by itself: so the guest's interfaces have the same names under each driver."""
    _child(device, "address", type="pci", domain="0", bus="0", slot=str(slot), function="0")


def _child(parent: Element, tag: str, **attributes: str) -> Element:
    return ElementTree.SubElement(parent, tag, attributes)


def _text(parent: Element, tag: str, text: str, **attributes: str) -> Element:
    child = _child(parent, tag, **attributes)
    child.text = text
    return child
