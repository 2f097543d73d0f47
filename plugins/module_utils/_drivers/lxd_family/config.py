# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What LXD is told of an instance: its configuration and devices, from the record. Pure: nothing here asks LXD."""

from __future__ import annotations

import hashlib
import json
import re
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.reach import main_nic
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    Instance,
    Mount,
    PortForward,
    format_size,
)
from ansible_collections.minicloud.local.plugins.module_utils._options import TRUE_WORDS

# The keys of an instance's configuration that tell whose it is and what it is.
OURS = "user.minicloud."
UUID, TAG = f"{OURS}uuid", f"{OURS}tag."

# Devices that this driver makes: the root disk, interfaces, forwards, and the way to the ssh server of a remote one.
ROOT, SSH = "root", "ssh"
LOOPBACK = "127.0.0.1"
_NIC, _PORT, _FOLDER = "eth", "port-", "folder-"
_NIC_NAME = re.compile(rf"{_NIC}[0-9]+\Z")
# Which ids of the host are which of the guest: the configuration key, and the copy by which ours is known.
IDMAP, OUR_IDMAP = "raw.idmap", f"{OURS}idmap"

_ADDRESS = re.compile(r"(tcp|udp):(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):([0-9]+)\Z")

_SIZE = re.compile(r"([0-9]{1,18})(|B|[kMGTPE]B|[KMGTPE]iB)\Z", re.ASCII)
_UNITS = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGTPE", 1)},
}

Config = dict[str, str]
Devices = dict[str, dict[str, str]]


class NicPlace(t.NamedTuple):
    """How an interface is attached: the device's keys, and whether LXD can keep an address for it."""

    keys: t.Mapping[str, str]
    keeps_address: bool = True


def config_of(instance: Instance, data_dir: str) -> Config:
    """The part of the configuration that follows the record all its life."""
    config = {
        "limits.cpu": str(instance.cpus),
        "limits.memory": f"{instance.memory >> 20}MiB",
        "boot.autostart": "true" if instance.starts_with_host else "false",
        UUID: instance.uuid,
        f"{OURS}data_dir": data_dir,
        f"{OURS}created": instance.created,
        f"{OURS}image": instance.image.get("name", ""),
        f"{OURS}image_hash": instance.image.get("hash", ""),
    }
    return {key: value for key, value in {**config, **_tags(instance)}.items() if value}


def devices_of(instance: Instance, pool: str, nics: t.Sequence[NicPlace], ssh: str = "", guest: str = "") -> Devices:
    """The devices of an instance.

    nics -- of each interface of the record, in order; ssh -- listen there for ssh too; guest -- where forwarded
    connections go in it, its own address unless given
    """
    devices: Devices = {ROOT: {"type": "disk", "path": "/", "pool": pool, "size": f"{instance.disk >> 20}MiB"}}
    for number, (nic, place) in enumerate(zip(instance.nics, nics)):
        device = {"type": "nic", "name": f"{_NIC}{number}", "hwaddr": nic.mac.lower(), **place.keys}
        address = nic.address or nic.lease
        if address and place.keeps_address and nic.mode == "auto":
            device["ipv4.address"] = address
        devices[f"{_NIC}{number}"] = device
    guest = guest or guest_address(instance)
    for port in instance.ports:
        devices[port_name(port)] = port_device(port, guest)
    if ssh:
        devices[SSH] = {"type": "proxy", "listen": f"tcp:{ssh}", "connect": f"tcp:{guest}:22"}
    return devices


def guest_address(instance: Instance) -> str:
    """Where forwarded connections go in the guest.

    To its own address where that is known, so that a service is reached that listens there and
    one that listens on the loopback interface alone is not: as with forwards of a hypervisor.
    """
    nic = main_nic(instance)
    return (nic.address or nic.lease) if nic else LOOPBACK


def port_name(port: PortForward) -> str:
    """The name of the device that makes a forward."""
    ip = port.host_ip.replace(":", "_")
    return f"{_PORT}{port.protocol}-{ip}-{port.host_port}"


def port_device(port: PortForward, guest: str) -> dict[str, str]:
    """The device that makes a forward to a guest's address."""
    ip = f"[{port.host_ip}]" if ":" in port.host_ip else port.host_ip
    return {
        "type": "proxy",
        "listen": f"{port.protocol}:{ip}:{port.host_port}",
        "connect": f"{port.protocol}:{guest}:{port.guest_port}",
    }


def forwards_of(devices: t.Mapping[str, t.Mapping[str, str]]) -> list[PortForward]:
    """The forwards that an instance's devices make."""
    found = []
    for name, device in sorted(devices.items()):
        listen, connect = (_ADDRESS.match(device.get(key, "")) for key in ("listen", "connect"))
        if name.startswith(_PORT) and device.get("type") == "proxy" and listen and connect:
            host_ip = listen[2] or listen[3]
            found.append(PortForward(host_ip, int(listen[4]), int(connect[4]), listen[1]))
    return found


def is_ours(name: str) -> bool:
    """Whether a device of that name is one that this driver makes; others were added by hand and stay."""
    return name in (ROOT, SSH) or name.startswith((_PORT, _FOLDER)) or bool(_NIC_NAME.match(name))


def folder_name(target: str) -> str:
    """The name of the device that has a folder of the host appear at a target."""
    return _FOLDER + hashlib.sha256(target.encode()).hexdigest()[:24]


def folder_device(mount: Mount, shift: bool, nested: bool) -> dict[str, str]:
    """The device that has a folder of the host appear.

    shift -- whether the kernel is to shift its ids; nested -- whether anything is mounted below the folder
    """
    device = {"type": "disk", "source": mount.source, "path": mount.target}
    if mount.read_only:
        # LXD knows no folders that are read-only with all that is mounted in them.
        device["readonly"] = "true"
    elif nested:
        device["recursive"] = "true"
    # The server starts the instance where the folder is missing, unless it is recursive.
    device["required"] = "false"
    return {**device, "shift": "true"} if shift else device


def folders_of(devices: t.Mapping[str, t.Mapping[str, str]]) -> Devices:
    """The devices that have folders of the host appear."""
    return {name: dict(device) for name, device in devices.items() if name.startswith(_FOLDER)}


def idmap_of(instance: Instance) -> str:
    """The ids that the mounts of an instance map, as LXD takes them; empty for none."""
    lines: list[str] = []
    for mount in instance.mounts:
        if not mount.may_be_native:
            continue
        for kind, pairs in (("uid", mount.uid_map), ("gid", mount.gid_map)):
            lines += [f"{kind} {host} {guest}" for host, guest in pairs]
    return "\n".join(sorted(set(lines)))


def listener_of(device: t.Mapping[str, str]) -> tuple[str, int]:
    """Address and port on which a proxy device listens; empty and 22 where there is none."""
    found = _ADDRESS.match(device.get("listen", ""))
    return (found[2] or found[3], int(found[4])) if found else ("", 22)


def updated(
    config: t.Mapping[str, str], devices: t.Mapping[str, t.Mapping[str, str]], wanted: Config, wanted_devices: Devices
) -> tuple[Config, Devices]:
    """Configuration and devices of an instance with what is ours as wanted, and everything else as it was."""
    kept = {key: value for key, value in config.items() if not key.startswith(OURS) and key not in wanted}
    others = {name: dict(device) for name, device in devices.items() if not is_ours(name)}
    return {**kept, **wanted}, {**others, **wanted_devices}


def drift_of(
    instance: Instance, config: t.Mapping[str, str], devices: t.Mapping[str, t.Mapping[str, str]], server: str
) -> dict[str, str]:
    """What somebody has changed with the server itself, as sentences without a full stop, by the option it is about.

    server -- its name, such as LXD
    """
    found = {}
    cpus = config.get("limits.cpu", "")
    if cpus != str(instance.cpus):
        found["cpus"] = f"its cpus were changed in {server} to {cpus or 'all'}, from {instance.cpus}"
    memory = config.get("limits.memory", "")
    if size_of(memory) != instance.memory >> 20 << 20:
        found["memory"] = (
            f"its memory was changed in {server} to {memory or 'all'}, from {format_size(instance.memory)}"
        )
    size = root_size(devices)
    if size and size != instance.disk >> 20 << 20:
        text = f"its disk was changed in {server} to {format_size(size)}, from {format_size(instance.disk)}"
        found["disk"] = f"{text}, and stays so" if size > instance.disk else text
    if (config.get("boot.autostart", "") in TRUE_WORDS) != instance.starts_with_host:
        found["autostart"] = f"its autostart was changed in {server}, from {str(instance.starts_with_host).lower()}"
    if {key: value for key, value in config.items() if key.startswith(TAG)} != _tags(instance):
        found["tags"] = f"its tags were changed in {server}"
    wanted = {port_name(port): port_device(port, "")["listen"] for port in instance.ports}
    actual = {name: device.get("listen", "") for name, device in devices.items() if name.startswith(_PORT)}
    missing = [str(port) for port in instance.ports if port_name(port) not in devices]
    if missing:
        found["ports"] = f"its port forwards were taken away in {server}: {', '.join(missing)}"
    elif actual != wanted:
        found["ports"] = f"its port forwards were changed in {server}"
    macs = [device.get("hwaddr", "").lower() for name, device in devices.items() if _NIC_NAME.match(name)]
    if sorted(macs) != sorted(nic.mac.lower() for nic in instance.nics):
        found["networks"] = f"its network interfaces were changed in {server}"
    return found


def _tags(instance: Instance) -> Config:
    return {
        f"{TAG}{name}": value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for name, value in instance.tags.items()
        if value != ""
    }


def root_size(devices: t.Mapping[str, t.Mapping[str, str]]) -> int:
    """The size of an instance's own root disk, bytes; 0 where it has none, or one without a limit."""
    return size_of(devices.get(ROOT, {}).get("size", ""))


def size_of(text: str) -> int:
    """Bytes from a size as LXD writes it, such as 512MiB or 1GB; 0 for none, and for what is no size of its."""
    match = _SIZE.match(text)
    return int(match[1]) * _UNITS[match[2]] if match else 0
