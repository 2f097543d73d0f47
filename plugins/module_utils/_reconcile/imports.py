# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Instances that come from elsewhere: what a task leaves open is filled in from what the file or directory says.

An imported instance is a new one: it gets a new uuid, and so a new instance-id, host keys of its own, the name that the
task gives it, and no user-data but the task's. It keeps its MAC addresses unless another instance here has them.
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import replace

from ansible_collections.minicloud.local.plugins.module_utils._arguments import MOUNT
from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError, InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._images.origin import Brought, Origin
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import Vault
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    BRIDGED_TO,
    DEFAULT_NETWORK,
    MAX_CPUS,
    MIB,
    MIN_DISK,
    MIN_MEMORY,
    USER_NETWORK,
    Instance,
    Mount,
    Nic,
    PortForward,
    format_size,
    key_of,
    ports_exclude,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.source import Exported, Multipass
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import LOGIN_NAME, Wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot

_LOOPBACK = ("127.0.0.1", "::1")
_MOUNT_TYPES = MOUNT["type"]["choices"]


def origin_of(source: Exported | Multipass, runtime: Runtime) -> Origin:
    """What reads a source."""
    if isinstance(source, Multipass):
        from ansible_collections.minicloud.local.plugins.module_utils._images.multipass import MultipassOrigin

        return MultipassOrigin(runtime, source.instance, source.root)
    if source.path.lower().endswith(".ova"):
        from ansible_collections.minicloud.local.plugins.module_utils._images.ova import OvaOrigin

        return OvaOrigin(runtime, source.path)
    from ansible_collections.minicloud.local.plugins.module_utils._images.archive import ArchiveOrigin

    return ArchiveOrigin(runtime, source.path)


class Arrival:
    """An instance that is to be made from what a source has.

    wish -- the task's, with what the source says where the task says nothing
    """

    def __init__(self, wish: Wish, driver: Driver, runtime: Runtime, data: DataDirectory, host_arch: str) -> None:
        self.driver = driver
        self.runtime = runtime
        self.data = data
        self.source = t.cast("Exported | Multipass", wish.source)
        self.origin = origin_of(self.source, runtime)
        self.found = self.origin.describe()
        self.found.arch = self.found.arch or host_arch
        self.name, self.going = wish.name, wish.going
        self.wish = self._filled(wish)
        export = driver.export()
        able = driver.about.can("export_snapshots", self.found.instance_type)
        # Layers are kept for the sake of snapshots; and where they need not be merged, nothing is written twice.
        self.layered = export is not None and able
        if self.found.snapshots and not self.layered:
            runtime.report.warn(
                f"The snapshots of {self.found.name} are left out: the driver {driver.name} cannot take them over."
            )

    def bring(self) -> t.ContextManager[Brought]:
        """What the source has, verified and in the vault; see Origin."""
        return self.origin.bring(Vault(self.data, self.runtime), self.found.arch, self.layered)

    def _filled(self, wish: Wish) -> Wish:
        found = self.found
        if found.user and not LOGIN_NAME.match(found.user):
            # It becomes part of command lines, and of paths.
            raise ImageError(
                f"{self.source} is refused",
                f"its login user is {found.user[:40]!r}, which is not a login name",
                "Nothing was changed. Do not trust where it comes from.",
            )
        for option in ("instance_type", "arch"):
            given, there = getattr(wish, option), getattr(found, option)
            if given and given != there:
                raise InvalidOption(
                    f"{option} is {given}, and {self.source} has a {there}"
                    if option == "instance_type"
                    else f"arch is {given}, and {self.source} is for {there}",
                    hint="Leave that option out.",
                )
        if wish.disk is not None and wish.disk < found.disk:
            raise InvalidOption(
                f"disk {format_size(wish.disk)} is smaller than the disk in {self.source}",
                f"that has {format_size(found.disk)}, and cutting it would cut off data",
                "Ask for at least that, or leave the option out.",
            )
        return replace(
            wish,
            cpus=wish.cpus or min(found.cpus, MAX_CPUS) or None,
            memory=wish.memory or _whole(found.memory, MIN_MEMORY),
            disk=wish.disk or _whole(found.disk, MIN_DISK),
            instance_type=found.instance_type,
            arch=found.arch,
            autostart=found.autostart if wish.autostart is None else wish.autostart,
            tags=found.tags if wish.tags is None else wish.tags,
            ports=self._ports() if wish.ports is None else wish.ports,
            networks=self._interfaces() if wish.networks is None else wish.networks,
            mounts=self._mounts() if wish.mounts is None else wish.mounts,
        )

    def _warn(self, text: str) -> None:
        self.runtime.report.warn(f"{self.name}: {text}.")

    @property
    def image(self) -> dict[str, str]:
        """What the instance's record will have of its image, as far as that is known before."""
        return {**self.found.image, "name": self.found.image.get("name") or self.origin.path}

    def _others(self) -> list[Instance]:
        """All other instances that stay: not what a run that was killed has left of this one."""
        going = {key_of(self.name), *self.going}
        return [
            other
            for scope in self.data.scopes()
            for other in scope.instances()[0]
            if scope.name != self.driver.scope.name or key_of(other.name) not in going
        ]

    def _ports(self) -> list[PortForward] | None:
        taken = [port for other in self._others() for port in other.ports]
        kept = []
        for port in self.found.ports:
            if isinstance(self.source, Exported) and port.host_ip not in _LOOPBACK:
                self._warn(
                    f"its port {port.guest_port} is forwarded from 127.0.0.1 only: name {port} in ports if others are"
                    " to reach it"
                )
                port = port._replace(host_ip="127.0.0.1")
            if port.host_port and any(ports_exclude(port, other) for other in taken):
                self._warn(f"its host port {port.host_port} is that of another instance, so another one is chosen")
                port = port._replace(host_port=0)
            kept.append(port)
        return kept or None

    def _interfaces(self) -> list[Nic] | None:
        """Its interfaces, on networks that there are."""
        networks = {key_of(name) for name in self.driver.scope.networks.names()}
        others = self._others()
        macs = {nic.mac.lower() for other in others for nic in other.nics}
        held = {address for other in others for nic in other.nics for address in (nic.address, nic.lease) if address}
        kept: list[Nic] = []
        for nic in self.found.nics:
            network, address = nic.network, nic.address
            usual = key_of(network) in (USER_NETWORK, DEFAULT_NETWORK)
            if network == USER_NETWORK and self.found.scope == self.driver.scope.name:
                pass  # the hypervisor plays it by itself, here as well
            elif usual or (key_of(network) not in networks and not kept):
                if not usual:
                    self._warn(f"there is no network {network}, so it is on {self.driver.default_network} instead")
                network = self.driver.default_network
            elif key_of(network) not in networks:
                remedy = "make it, and name it in networks" if not network.startswith(BRIDGED_TO) else "use bridged"
                self._warn(f"there is no network {network}, and its interface there is left out ({remedy})")
                continue
            if any(key_of(other.network) == key_of(network) for other in kept) and not self.driver.about.can(
                "same_network"
            ):
                self._warn(f"its second interface on {network} is left out")
                continue
            if address and (address in held or not self._has(network, address)):
                self._warn(f"its address {address} cannot be had on {network}, so another one is chosen")
                address = ""
            mac = nic.mac.lower()
            if mac in macs:
                mac = ""
            macs.add(mac)
            kept.append(Nic(network, mac, nic.mode, address))
        return kept or None

    def _has(self, network: str, address: str) -> bool:
        """Whether an address can be given on a network."""
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet import subnets

        there = self.driver.scope.networks.read(network)
        if there is None or not there.subnet:
            return False
        try:
            subnets.parse_address(address, subnets.parse_subnet(there.subnet))
        except InvalidOption:
            return False
        return True

    def _mounts(self) -> list[Mount] | None:
        """Those of Multipass's own data on this host; a file may come from anybody, and names folders of this host."""
        if isinstance(self.source, Exported):
            for mount in self.found.mounts:
                self._warn(
                    f"its mount of {mount.source} is left out: name it in mounts if it is to have it here as well"
                )
            return None
        kept = []
        for mount in self.found.mounts:
            if self.driver.host.here and not os.path.isdir(mount.source):
                self._warn(f"its mount of {mount.source} is left out: there is no such folder on this host")
                continue
            native = self.driver.about.can("native_mounts", self.found.instance_type)
            if mount.type != "copy" and not (native or "classic" in _MOUNT_TYPES):
                self._warn(f"its mount of {mount.source} is left out: the driver {self.driver.name} has no such mounts")
                continue
            kind = mount.type if mount.type in _MOUNT_TYPES and (native or mount.type != "native") else "auto"
            kept.append(Mount(mount.source, mount.target, kind, mount.uid_map, mount.gid_map, mount.read_only))
        return kept or None

    def take_in(self, instance: Instance, brought: Brought) -> Instance:
        """Give a new instance its layers and snapshots; whatever of this is done twice comes to the same end."""
        if brought.layered is None:
            return instance
        export = self.driver.export()
        if export is None:
            return instance
        instance = replace(instance, disk=export.take_in(instance, brought.layered))
        records = self.driver.scope.snapshots(instance.name)
        for snapshot in self.found.snapshots:
            records.write(self._snapshot(snapshot, instance))
            self.runtime.report.step("snapshot_record")
        numbers = [_number_of(each.name) for each in self.found.snapshots]
        return replace(
            instance,
            snapshot=_current(self.found.snapshots, brought.layered.below),
            snapshot_count=max([instance.snapshot_count, *numbers]),
        )

    def _snapshot(self, snapshot: Snapshot, instance: Instance) -> Snapshot:
        """A snapshot of the instance that was exported, as one of the new instance."""
        then = snapshot.then
        record = replace(
            instance,
            cpus=then.cpus,
            memory=then.memory,
            disk=then.disk,
            phase="ready",
            restoring="",
            snapshot=snapshot.parent,
        )
        return replace(
            snapshot,
            driver=self.driver.name,
            phase="ready",
            state="stopped",
            memory=0,
            record=record.to_dict(),
        )


def _current(snapshots: t.Sequence[Snapshot], below: str) -> str:
    return below if any(each.uuid == below for each in snapshots) else ""


def _number_of(name: str) -> int:
    digits = key_of(name)[len("snapshot") :]
    return int(digits) if key_of(name).startswith("snapshot") and digits.isdecimal() and len(digits) < 10 else 0


def _whole(size: int, least: int) -> int | None:
    """A size in whole MiB, at least the least that is allowed; None where there is none."""
    return max(least, -(-size // MIB) * MIB) if size else None
