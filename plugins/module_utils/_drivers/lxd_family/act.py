# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What the LXD driver does to instances. See driver.py."""

from __future__ import annotations

import contextlib
import os
import re
import typing as t
from dataclasses import replace

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Acts
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import config as lxd_config
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.client import LxdClient
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.config import NicPlace
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.images import LxdImages
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.look import (
    LxdLooks,
    addresses_of,
    runs_vms,
    storage_drivers,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.mounts import LxdMounts
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.networks import LxdNetworks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.pools import PROFILE, LxdPools
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.seed import renamed, seed_config
from ansible_collections.minicloud.local.plugins.module_utils._drivers.reach import main_nic
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InUse,
    InvalidOption,
    MinicloudError,
    MissingRequirement,
    NotFound,
    NotSupported,
)
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, PortForward
from ansible_collections.minicloud.local.plugins.module_utils._options import TRUE_WORDS
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, find_program
from ansible_collections.minicloud.local.plugins.module_utils._writing import write_file

# Seconds in which a container that is said to run already, while it is frozen, is seen to run.
_RUNS_WITHIN = 10.0

_UNTELLING = re.compile(r"lxc \S+ [0-9.]+ (?:WARN|NOTICE|INFO|DEBUG|TRACE) ")
_LOG_KEPT = 16384

# What keeps an instance from being removed.
_PROTECTED = "security.protection.delete"


class LxdActs(Acts):
    """See Acts."""

    capabilities = {
        "vm": ("vm",),
        "container": ("container",),
        "live_ports": ("vm", "container"),
        "live_resize": ("container",),
        "ipv6_ports": ("vm", "container"),
    }

    def __init__(self, look: LxdLooks, client: LxdClient) -> None:
        self.look = look
        self.client = client
        self.api = look.api
        self.place = look.place
        self.product = look.product
        self.runtime = look.runtime
        self.scope = look.scope
        self.pools = LxdPools(look, client)
        self.images = LxdImages(look, client)
        self.networks = LxdNetworks(look, client)
        self.mounts = LxdMounts(look)

    def probe(self) -> dict[str, str]:
        environment = self.look.server()["environment"]
        self.client.require_library()
        found = {
            "version": environment["server_version"],
            "endpoint": self.place.endpoint,
            "project": self.place.project,
            "instance_types": "container, vm" if runs_vms(environment) else "container",
            "storage_drivers": ", ".join(storage_drivers(environment)),
            "clustered": "true" if environment.get("server_clustered") else "false",
        }
        if runs_vms(environment):
            found["accelerator"] = "kvm"
        return found

    def require(self, arch: str, firmware: str = "", instance_type: str = "vm") -> None:
        environment = self.look.server()["environment"]
        if arch not in environment["architectures"]:
            raise NotSupported(
                f"{self.product} at {self.place.endpoint} does not run instances for {arch}",
                f"it runs {', '.join(environment['architectures'])}",
                "Choose another arch, or the driver qemu, which emulates others.",
            )
        if instance_type == "vm" and not runs_vms(environment):
            raise MissingRequirement(
                f"{self.product} at {self.place.endpoint} cannot run virtual machines",
                "it needs QEMU, a usable /dev/kvm and the kernel module vhost_vsock, and found them not all there",
                "Use instance_type: container or the driver qemu; or see to it that the host has hardware"
                f" virtualisation, run modprobe vhost_vsock, and start {self.product} anew.",
            )
        self._check_target(environment)
        self.pools.check()
        self.client.require_library()

    def _check_target(self, environment: t.Mapping[str, t.Any]) -> None:
        target = self.look.target
        if not target:
            return
        names: list[str] = []
        if environment.get("server_clustered"):
            names = [url.rpartition("/")[2] for url in self.api.get("cluster/members")]
        if target not in names:
            raise InvalidOption(
                f"driver_options.target {target!r} is not a member of the cluster of {self.product} at"
                f" {self.place.endpoint}",
                "" if names else f"that {self.product} is in no cluster",
                f"It has: {', '.join(sorted(names))}." if names else "Leave it out.",
            )

    def create(self, instance: Instance, image: Image, seed: t.Mapping[str, bytes]) -> None:
        if image.kind == "container" and instance.instance_type != "container":
            raise InvalidOption(
                f"the image {image.name} is for containers", hint="Use instance_type: container, or another image."
            )
        pool = self.pools.prepare()
        fingerprint = self.images.have(image)
        self.make_room(instance)
        self.runtime.report.step("lxd_instance")
        config = {**lxd_config.config_of(instance, self.scope.data.path), **seed_config(seed)}
        devices = lxd_config.devices_of(instance, pool, self.nic_places(instance))
        if instance.instance_type == "vm":
            # The seed reaches any image that has cloud-init, on a disk labelled cidata; and not all are signed.
            devices["seed"] = {"type": "disk", "source": "cloud-init:config"}
            config["security.secureboot"] = "false"
        body = {
            "name": instance.name,
            "type": "virtual-machine" if instance.instance_type == "vm" else "container",
            "source": {"type": "image", "fingerprint": fingerprint},
            "profiles": [PROFILE],
            "config": config,
            "devices": devices,
        }
        target = {"target": self.look.target} if self.look.target else {}
        doing = f"{self.product} could not make {instance.name}"
        for last in (False, False, True):
            try:
                self.client.call("post", "instances", doing, json=body, query=target)
                break
            except HypervisorError as exc:
                # What a killed run has asked for may have taken away the network between our look at it and this.
                if last or "Network not found" not in exc.why:
                    raise
            self.nic_places(instance)
        self.runtime.report.step("lxd_instance_made")

    def tidy_images(self) -> None:
        self.images.tidy()

    def make_room(self, instance: Instance) -> None:
        """Room for an instance: what a killed run has begun of it goes, and what is somebody else's is not touched."""
        self.client.await_operations(instance.name)
        with contextlib.suppress(NotFound):
            there = self.client.call(
                "get", f"instances/{instance.name}", f"{self.product} could not be asked for {instance.name}"
            )
            if there["config"].get(lxd_config.UUID) != instance.uuid:
                raise InUse(
                    f"the {self.product} project {self.place.project} has another instance named {instance.name}",
                    _whose(there["config"]),
                    "Choose another name, remove that instance where it belongs, or use another"
                    " driver_options.project.",
                )
            self.delete(instance)

    def nic_places(self, instance: Instance) -> list[NicPlace]:
        """How the interfaces of an instance are attached."""
        return [self.networks.place_of(instance, nic) for nic in instance.nics]

    def _configure(self, instance: Instance, doing: str, record: t.Mapping[str, t.Any] | None = None) -> None:
        """Have LXD's configuration of an instance follow its record; what others have added to it stays."""
        there = record or self.client.call("get", f"instances/{instance.name}", doing)
        if there["config"].get(lxd_config.UUID) != instance.uuid:
            raise HypervisorError(doing, f"it was removed from {self.product}, and another instance has its name there")
        pool = there["devices"].get(lxd_config.ROOT, {}).get("pool") or self.pools.prepare()
        ssh = ""
        if not self.look.host.here and instance.ssh_port:
            host = self.look.member_address(there)
            ssh = f"{f'[{host}]' if ':' in host else host}:{instance.ssh_port}"
        wanted = lxd_config.config_of(instance, self.scope.data.path)
        guest = self._guest_now(instance) if there["status"] == "Running" else ""
        # A disk that somebody has grown is not shrunk.
        instance = replace(instance, disk=max(instance.disk, lxd_config.root_size(there["devices"])))
        devices = lxd_config.devices_of(instance, pool, self.nic_places(instance), ssh, guest)
        devices.update(self.mounts.kept(instance, there["devices"]))
        after = lxd_config.updated(there["config"], there["devices"], wanted, devices)
        if there["status"] != "Running":
            self.mounts.map_ids(instance, there["config"], after[0])
        self.put(instance, there, after, doing)

    def put(
        self,
        instance: Instance,
        there: t.Mapping[str, t.Any],
        after: tuple[lxd_config.Config, lxd_config.Devices],
        doing: str,
    ) -> None:
        """Have an instance have another configuration and other devices than there are, as the server tells of it."""
        if after == (there["config"], there["devices"]):
            return
        self.runtime.report.step("lxd_configure")
        keys = ("architecture", "ephemeral", "profiles", "stateful", "description")
        body: dict[str, t.Any] = {key: there[key] for key in keys if key in there}
        body.update(config=after[0], devices=after[1])
        self.client.call("put", f"instances/{instance.name}", doing, json=body)
        self.look.seen.pop(instance.name, None)

    def change_folders(self, instance: Instance, change: t.Callable[[lxd_config.Devices], None], doing: str) -> None:
        """Change the devices of a running instance that have folders of the host appear."""
        there = self.client.call("get", f"instances/{instance.name}", doing)
        if there["config"].get(lxd_config.UUID) != instance.uuid:
            raise HypervisorError(doing, f"it was removed from {self.product}, and another instance has its name there")
        devices = {name: dict(device) for name, device in there["devices"].items()}
        change(devices)
        self.put(instance, there, (dict(there["config"]), devices), doing)

    def _guest_now(self, instance: Instance) -> str:
        """Where forwards lead in a container whose address was changed while it runs; empty: to its address.

        It has the old one now, and the new one at some time before its next start.
        """
        nic = main_nic(instance)
        if not nic or instance.instance_type != "container" or not (instance.ports or instance.ssh_port):
            return ""
        now = addresses_of((self.look.record(instance) or {}).get("state") or {}).get(nic.mac.lower(), ())
        return "" if not now or (nic.address or nic.lease) in now else lxd_config.LOOPBACK

    def choose_ports(self, instance: Instance, held: t.Sequence[PortForward] | None = None) -> None:
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet import ports

        others = self.scope.instances()[0]
        if not self.look.host.here:
            # LXD says what is taken when it starts the instance.
            ports.choose_unseen(instance, others)
        else:
            elsewhere: t.Sequence[PortForward] = ()
            if instance.ports and os.geteuid() == 0 and find_program("nft"):
                # Networks of other drivers lead ports away before they come to who listens on them.
                from ansible_collections.minicloud.local.plugins.module_utils._drivers.host_networks.bridges import (
                    HostNetworks,
                )

                elsewhere = HostNetworks(self.runtime, self.scope).forwarded_elsewhere()
            # The guest is reached at its own address.
            ports.choose_all(instance, others, held, elsewhere, with_ssh=False)

    def start(self, instance: Instance) -> None:
        doing = f"{self.product} could not start {instance.name}"
        self.client.await_operations(instance.name)
        there = self.client.call("get", f"instances/{instance.name}", doing)
        self._configure(instance, doing, there)
        if there["status"] == "Frozen":
            self.change_state(instance, "unfreeze", doing)
        elif there["status"] != "Running":
            self.runtime.report.step("lxd_start")
            try:
                self.change_state(instance, "start", doing)
            except HypervisorError as exc:
                taken = re.search(r":([0-9]+): bind: address already in use", exc.why)
                if taken and not self.look.host.here:
                    hint = "Choose another host port, or end what holds it there."
                    raise InUse(
                        f"port {taken[1]} of {self.product}'s host is taken", exc.why, hint, port=int(taken[1])
                    ) from exc
                exc.facts.setdefault("hypervisor_log", self.log(instance).splitlines())
                raise
            self.runtime.report.step("lxd_started")
        self.look.seen.pop(instance.name, None)

    def change_state(self, instance: Instance, action: str, doing: str, timeout: int = -1, force: bool = False) -> None:
        """Have the server do what its API calls an action, such as start or freeze; DOING is what fails otherwise."""
        body = {"action": action, "timeout": timeout, "force": force}
        self.client.call("put", f"instances/{instance.name}/state", doing, json=body)

    def resume(self, instance: Instance) -> None:
        # What a killed run has asked for may come about only now, or be taken back.
        self.client.await_operations(instance.name)
        try:
            self.change_state(instance, "unfreeze", f"{instance.name} could not be resumed")
        except HypervisorError:
            if not any(self._runs(instance) for dummy in Deadline(_RUNS_WITHIN).pauses()):
                raise
        self.look.seen.pop(instance.name, None)

    def _runs(self, instance: Instance) -> bool:
        record = self.look.record(instance)
        return record is not None and record["status"] == "Running"

    def stop(self, instance: Instance, deadline: Deadline, force: bool) -> None:
        self.save_console(instance)
        self.client.await_operations(instance.name)
        there = self.client.call("get", f"instances/{instance.name}", f"{self.product} could not stop {instance.name}")
        self.look.seen.pop(instance.name, None)
        if there["status"] in ("Stopped", "Error"):
            return
        if force:
            self.change_state(instance, "stop", f"{instance.name} could not be ended", force=True)
            return
        doing = f"{instance.name} did not shut down within {deadline.seconds:g} seconds"
        try:
            if there["status"] == "Frozen":
                self.change_state(instance, "unfreeze", f"{instance.name} could not be resumed to be shut down")
            self.change_state(instance, "stop", doing, timeout=max(1, round(deadline.left())))
        except HypervisorError as exc:
            if self.look.alive(instance):
                raise HypervisorError(
                    doing, exc.why, "Use a longer timeout, or force: true, which is like pulling the plug."
                ) from exc

    def delete(self, instance: Instance) -> None:
        doing = f"{self.product} could not remove {instance.name}"
        self.client.await_operations(instance.name)
        try:
            there = self.client.call("get", f"instances/{instance.name}", doing)
        except NotFound:
            return
        if not self._is_ours(there["config"], instance):
            return  # somebody else's
        self.look.seen.pop(instance.name, None)
        was_up = there["status"] not in ("Stopped", "Error")
        if was_up:
            with contextlib.suppress(HypervisorError):  # it may end by itself meanwhile
                self.change_state(instance, "stop", doing, force=True)
        try:
            with contextlib.suppress(NotFound):
                self.client.call("delete", f"instances/{instance.name}", doing)
        except MinicloudError:
            # It stays, so it is left as it was; only what is stopped can be removed.
            if was_up:
                with contextlib.suppress(MinicloudError):
                    self.change_state(instance, "start", doing)
            raise

    def rename(self, instance: Instance, name: str) -> None:
        doing = f"{self.place.product} could not rename {instance.name} to {name}"
        for current in (instance.name, name):
            self.client.await_operations(current)
        self.look.seen.pop(instance.name, None)
        try:
            there = self.client.call("get", f"instances/{instance.name}", doing)
        except NotFound:
            # A run that was cut off has done it.
            there = self.client.call("get", f"instances/{name}", doing)
            if self._is_ours(there["config"], instance):
                return
            raise
        if not self._is_ours(there["config"], instance):
            raise HypervisorError(doing, "another instance has its name there")
        self.client.call("post", f"instances/{instance.name}", doing, json={"name": name})

    def follow_name(self, instance: Instance) -> None:
        doing = f"{self.place.product} did not take on the new name of {instance.name}"
        there = self.client.call("get", f"instances/{instance.name}", doing)
        config = renamed(there["config"], instance.renamed_from, instance.name)
        if config != there["config"]:
            keys = ("architecture", "ephemeral", "profiles", "stateful", "description", "devices")
            body: dict[str, t.Any] = {key: there[key] for key in keys if key in there}
            self.client.call("put", f"instances/{instance.name}", doing, json={**body, "config": config})

    def check_removal(self, instance: Instance) -> None:
        doing = f"{self.product} does not remove {instance.name}"
        try:
            there = self.client.call("get", f"instances/{instance.name}", doing)
        except NotFound:
            return
        config = there.get("expanded_config") or there["config"]
        if self._is_ours(there["config"], instance) and config.get(_PROTECTED, "") in TRUE_WORDS:
            raise HypervisorError(
                doing,
                f"it is protected there ({_PROTECTED})",
                f"If it is to go: {self.product.client} config set {instance.name} {_PROTECTED}=false --project"
                f" {self.place.project}.",
            )

    def _is_ours(self, config: t.Mapping[str, str], instance: Instance) -> bool:
        if instance.uuid:
            return config.get(lxd_config.UUID) == instance.uuid
        # Its record was lost; LXD has the data directory that it is of.
        return self.scope.data.is_at(config.get(f"{lxd_config.OURS}data_dir", ""))

    def grow_disk(self, instance: Instance) -> None:
        self._configure(instance, f"the disk of {instance.name} could not be grown")

    def reconfigure(self, instance: Instance) -> None:
        self._configure(instance, f"{self.product} did not take on what was changed of {instance.name}")

    def forwards(self, instance: Instance) -> list[PortForward]:
        record = self.look.record(instance)
        return lxd_config.forwards_of(record["devices"]) if record else []

    def forward_ports(self, instance: Instance, before: t.Sequence[PortForward]) -> None:
        self._configure(instance, f"the ports of {instance.name} could not be forwarded")

    def save_console(self, instance: Instance) -> None:
        # LXD has no log of a stopped container, so the one seen last is kept.
        with contextlib.suppress(MinicloudError):
            content = self.api.text(f"instances/{instance.name}/console")
            if content and os.path.isdir(self.scope.directory(instance.name)):
                write_file(self.look.console_log(instance), content)

    def log(self, instance: Instance) -> str:
        name = "qemu.log" if instance.instance_type == "vm" else "lxc.log"
        try:
            content = self.api.text(f"instances/{instance.name}/logs/{name}")
        except MinicloudError:
            return ""
        text = content[-_LOG_KEPT:].decode("utf-8", "replace").strip()
        if name == "lxc.log":
            # Each start has warnings, such as of files in /sys that this kernel does not have: they explain nothing.
            text = "\n".join(line for line in text.splitlines() if not _UNTELLING.match(line))
        return text


def _whose(config: t.Mapping[str, str]) -> str:
    owner = config.get(f"{lxd_config.OURS}data_dir")
    return f"it was made by the data directory {owner}" if owner else "it was not made by this collection"
