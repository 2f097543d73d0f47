# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What the LXD driver does, with the library pylxd: project, storage pool, images, instances. See driver.py."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import sys
import typing as t
from urllib.parse import quote, urlencode

from ansible_collections.minicloud.local.plugins.module_utils._drivers.hosts import main_nic
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd import config as lxd_config
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd.api import NotThere
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd.config import Config, NicPlace
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd.driver import (
    LxdDriver,
    addresses_of,
    storage_drivers,
)
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InUse,
    InvalidOption,
    MissingRequirement,
    NoSpace,
    NotFound,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    GIB,
    Image,
    Instance,
    PortForward,
    format_size,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, find_program

# The storage pool that is made where there is none to use.
POOL = "minicloud"
_PROFILE = "default"

# Storage drivers that make a new instance without copying its image, best first.
_COPY_ON_WRITE = ("zfs", "btrfs")
_LEAST_POOL = 5 * GIB

# Properties of an image in LXD that tell where it came from.
_HASH, _DATA_DIR = "minicloud.hash", "minicloud.data_dir"

_IMAGE_WAIT = 3600.0


class LxdActions:
    """The methods of LxdDriver that change something; see Driver."""

    def __init__(self, driver: LxdDriver) -> None:
        self.driver = driver
        self.api = driver.api
        self.place = driver.place
        self.runtime = driver.runtime
        self.scope = driver.scope
        self.options = driver.options
        self._client: t.Any = None

    # -- LXD ------------------------------------------------------------------------------------------------------

    def require_library(self) -> t.Any:
        """The library pylxd; MissingRequirement where this Python has none."""
        try:
            import pylxd
        except ImportError as exc:
            from ansible.module_utils.basic import missing_required_lib

            raise MissingRequirement(
                missing_required_lib("pylxd", reason="to make and change instances of LXD"),
                str(exc),
                missing_library="pylxd",
            ) from exc
        return pylxd

    def call(
        self,
        method: str,
        path: str,
        doing: str,
        json: t.Any = None,
        query: t.Mapping[str, str] | None = None,
        project: str | None = None,
        **kwargs: t.Any,
    ) -> t.Any:
        """Ask LXD for something, wait until it is done, and return its metadata.

        doing -- what failed if it fails; project -- another than ours, empty for none
        NotFound where there is no such object, InUse where it is there already; else HypervisorError.
        """
        params = dict(query or {})
        project = self.place.project if project is None else project
        if project:
            params["project"] = project
        if method == "get":
            try:
                return self.api.get(path, **{"project": "default", **params})
            except NotThere as exc:
                raise NotFound(doing, exc.why) from exc
            except HypervisorError as exc:
                raise HypervisorError(doing, exc.why) from exc
        pylxd = self.require_library()
        import requests

        if json is not None:
            kwargs["json"] = json
        try:
            node = self._connected(pylxd).api
            for part in filter(None, path.split("/")):
                node = node[part]
            body = getattr(node, method)(params=params, **kwargs).json()
            while body.get("type") == "async":
                operation = self._connected(pylxd).api.operations[body["metadata"]["id"]]
                body = operation.wait.get(params=params).json()
        except pylxd.exceptions.LXDAPIException as exc:
            raise self._error(doing, exc) from exc
        except requests.RequestException as exc:
            raise HypervisorError(doing, str(exc)) from exc
        metadata = body.get("metadata")
        if isinstance(metadata, dict) and metadata.get("err"):
            raise _explained(doing, str(metadata["err"]))
        return metadata

    def _connected(self, pylxd: t.Any) -> t.Any:
        if self._client is None:
            place = self.place
            endpoint, options = f"http+unix://{quote(place.endpoint, safe='')}", {}
            if place.is_remote:
                if not hasattr(pylxd.client, "get_session_for_url"):
                    raise MissingRequirement(
                        f"the LXD server {place.endpoint} cannot be used",
                        f"the library pylxd of {sys.executable} is older than 2.3.2, and serves this host only",
                        "Install pylxd 2.3.2 or newer for that Python.",
                        missing_library="pylxd",
                    )
                verify = {"true": True, "false": False}.get(place.verify, place.verify)
                session = pylxd.client.get_session_for_url(place.endpoint, verify, (place.cert, place.key))
                # The environment may name certificates, which would count more than the one that is pinned.
                session.trust_env = False
                endpoint, options = place.endpoint.rstrip("/"), {"session": session}
            try:
                self._client = pylxd.Client(endpoint=endpoint, **options)
            except pylxd.exceptions.ClientConnectionFailed as exc:
                self.api.get("")  # which knows more of what may be wrong
                raise HypervisorError(f"LXD at {place.endpoint} cannot be reached", str(exc)) from exc
        return self._client

    def _error(self, doing: str, exc: t.Any) -> Exception:
        status = exc.response.status_code
        if status == 404:
            return NotFound(doing, str(exc))
        if status == 409 or (status == 400 and "already exists" in str(exc)):
            return InUse(doing, str(exc))
        return _explained(doing, str(exc))

    # -- what instances need --------------------------------------------------------------------------------------

    def prepare(self) -> str:
        """Have the project, a storage pool and the profile; return the pool. Made once, by one run of many."""
        pool = self._profile_pool()
        wanted = str(self.options.get("storage_pool") or "")
        if pool and wanted in ("", pool):
            return pool
        if pool:  # instances of this task go elsewhere
            self._have_pool(wanted, explicit=True)
            return wanted
        with self.scope.data.lock(f"{self.scope.name}-setup", report=self.runtime.report):
            self._have_project()
            pool = wanted or POOL
            self._have_pool(pool, explicit=bool(wanted))
            self.runtime.report.step("lxd_profile")
            doing = f"the default profile of the LXD project {self.place.project} could not be given a root disk"
            profile = self.call("get", f"profiles/{_PROFILE}", doing)
            profile["devices"].setdefault("root", {"type": "disk", "path": "/", "pool": pool})
            self.call("put", f"profiles/{_PROFILE}", doing, json={key: profile[key] for key in _PROFILE_KEYS})
        return pool

    def _profile_pool(self) -> str:
        try:
            profile = self.call("get", f"profiles/{_PROFILE}", "the profile of the LXD project could not be read")
        except (NotFound, HypervisorError):
            return ""
        return str(profile["devices"].get("root", {}).get("pool", ""))

    def _have_project(self) -> None:
        name = self.place.project
        doing = f"the LXD project {name} could not be made"
        self.runtime.report.step("lxd_project")
        config = {"features.images": "true", "features.profiles": "true", "features.storage.volumes": "true"}
        body = {"name": name, "description": "Instances of the Ansible collection minicloud.local", "config": config}
        with contextlib.suppress(InUse):
            self.call("post", "projects", doing, json=body, project="")

    def _have_pool(self, name: str, explicit: bool) -> None:
        with contextlib.suppress(NotFound):
            pool = self.call(
                "get", f"storage-pools/{name}", f"the storage pool {name} could not be looked at", project=""
            )
            if pool.get("status", "Created") == "Created":
                return
        self.runtime.report.step("lxd_pool")
        environment = self.driver.server()["environment"]
        supported = storage_drivers(environment)
        failures = []
        for driver in [*(name for name in _COPY_ON_WRITE if name in supported), "dir"]:
            try:
                self._make_pool(name, driver, environment)
            except InUse:
                return  # another run was faster
            except HypervisorError as exc:
                failures.append(f"{driver}: {exc.why}")
                continue
            if driver == "dir":
                why = f" ({'; '.join(failures)})" if failures else ""
                self.runtime.report.warn(
                    f"The storage pool {name} of LXD is of the type dir, so that each new instance copies its whole"
                    f" image: this LXD can have neither zfs nor btrfs{why}. Install zfsutils-linux or btrfs-progs,"
                    " start LXD anew, and name a pool that is made then in driver_options.storage_pool."
                )
            return
        raise HypervisorError(
            f"LXD could not make the storage pool {name}",
            "; ".join(failures),
            "Make one yourself (lxc storage create) and name it in driver_options.storage_pool.",
        )

    def _make_pool(self, name: str, driver: str, environment: t.Mapping[str, t.Any]) -> None:
        config = {}
        if driver != "dir":
            size = self._pool_size()
            if size:
                config["size"] = f"{size // GIB}GiB"
        self.make_clustered("storage-pools", name, environment, {"driver": driver}, config, ("size",))

    def make_clustered(
        self,
        kind: str,
        name: str,
        environment: t.Mapping[str, t.Any],
        more: t.Mapping[str, str],
        config: Config,
        by_member: t.Collection[str] = (),
        project: str = "",
    ) -> None:
        """Make a pool or a network; in a cluster it is announced on each member first.

        by_member -- the keys of the configuration that each member has of its own
        """
        doing = f"LXD could not make {_ARTICLES[kind]} {name}"
        body: dict[str, t.Any] = {"name": name, **more}
        if environment.get("server_clustered"):
            own = {key: value for key, value in config.items() if key in by_member}
            for member in self.members():
                with contextlib.suppress(InUse):
                    self.call(
                        "post", kind, doing, json={**body, "config": own}, query={"target": member}, project=project
                    )
            config = {key: value for key, value in config.items() if key not in by_member}
        body["description"] = "Made by the Ansible collection minicloud.local"
        self.call("post", kind, doing, json={**body, "config": config}, project=project)

    def members(self) -> list[str]:
        """The names of the members of the cluster."""
        urls = self.call("get", "cluster/members", "the members of the LXD cluster could not be listed", project="")
        return [url.rpartition("/")[2] for url in urls]

    def _pool_size(self) -> int:
        """How large a new pool's file may become: most of what is free now. It takes only what is in use."""
        if self.place.is_remote:
            return 0  # LXD knows its own disk
        directory = os.path.dirname(self.place.endpoint)
        try:
            status = os.statvfs(directory)
        except OSError:
            return 0
        free = status.f_bavail * status.f_frsize
        if free < _LEAST_POOL:
            raise NoSpace(
                f"{directory} has no room for a storage pool of LXD",
                f"{format_size(free)} are free, and it should have {format_size(_LEAST_POOL)} at least",
                "Free some space there, or name a pool that exists in driver_options.storage_pool.",
            )
        return max(_LEAST_POOL, free // 5 * 4)

    # -- images ---------------------------------------------------------------------------------------------------

    def have_image(self, image: Image) -> str:
        """The fingerprint that LXD knows an image by; imported if it is not there yet, by one run of many."""
        with self.scope.data.lock(
            f"{self.scope.name}-image-{image.hash[:16]}", Deadline(_IMAGE_WAIT), self.runtime.report
        ):
            images = self.call("get", "images", "the images of LXD could not be listed", query={"recursion": "1"})
            for known in images:
                if known["properties"].get(_HASH) == image.hash:
                    return str(known["fingerprint"])
            self.runtime.report.step("lxd_image")
            fingerprint = self._import(image)
            self.runtime.report.step("lxd_image_imported")
            self._remove_unused(images)
        return fingerprint

    def _import(self, image: Image) -> str:
        doing = f"LXD could not import the image {image.name}"
        properties = {
            "description": image.title or image.name,
            "os": image.os,
            "release": image.release,
            "version": image.version,
            _HASH: image.hash,
            _DATA_DIR: self.scope.data.path,
        }
        headers = {
            "X-LXD-properties": urlencode({key: value for key, value in properties.items() if value}),
            "X-LXD-filename": f"{image.hash[:12]}.{image.format}",
        }
        with contextlib.ExitStack() as stack:
            root = stack.enter_context(open(image.path, "rb"))
            data: t.Any = root
            if image.kind == "disk" or image.metadata:
                from requests_toolbelt import MultipartEncoder  # which pylxd needs

                if image.kind == "disk":
                    metadata: t.BinaryIO = io.BytesIO(_vm_metadata(image))
                else:
                    metadata = stack.enter_context(open(image.metadata, "rb"))
                part = "rootfs.img" if image.kind == "disk" else "rootfs"
                files = {"metadata": ("metadata", metadata), part: (part, root)}
                data = MultipartEncoder({key: (*value, "application/octet-stream") for key, value in files.items()})
                headers["Content-Type"] = data.content_type
            else:
                headers["Content-Type"] = "application/octet-stream"
            try:
                operation = self.call("post", "images", doing, data=data, headers=headers)
            except HypervisorError as exc:
                if "fingerprint already exists" not in exc.why:
                    raise
                return _fingerprint(image)
        return str(operation["metadata"]["fingerprint"])

    def _remove_unused(self, images: t.Iterable[t.Mapping[str, t.Any]]) -> None:
        """Take those images from LXD that came from this vault, which has them no more. No instance needs them."""
        vault = self.scope.data.vault
        for known in images:
            hash_, origin = (known["properties"].get(key, "") for key in (_HASH, _DATA_DIR))
            if origin == self.scope.data.path and hash_ and not os.path.isdir(os.path.join(vault, hash_)):
                with contextlib.suppress(HypervisorError, NotFound):
                    self.call("delete", f"images/{known['fingerprint']}", "an image could not be removed")

    # -- instances ------------------------------------------------------------------------------------------------

    def create(self, instance: Instance, image: Image, seed: t.Mapping[str, bytes]) -> None:
        if image.kind == "container" and instance.instance_type != "container":
            raise InvalidOption(
                f"the image {image.name} is for containers", hint="Use instance_type: container, or another image."
            )
        pool = self.prepare()
        fingerprint = self.have_image(image)
        self._clear(instance)
        self.runtime.report.step("lxd_instance")
        config = {**lxd_config.config_of(instance, self.scope.data.path), **lxd_config.seed_config(seed)}
        devices = lxd_config.devices_of(instance, pool, self._nic_places(instance))
        if instance.instance_type == "vm":
            # The seed reaches any image that has cloud-init, on a disk labelled cidata; and not all are signed.
            devices["seed"] = {"type": "disk", "source": "cloud-init:config"}
            config["security.secureboot"] = "false"
        body = {
            "name": instance.name,
            "type": "virtual-machine" if instance.instance_type == "vm" else "container",
            "source": {"type": "image", "fingerprint": fingerprint},
            "profiles": [_PROFILE],
            "config": config,
            "devices": devices,
        }
        target = {"target": str(self.options["target"])} if self.options.get("target") else {}
        doing = f"LXD could not make {instance.name}"
        for last in (False, False, True):
            try:
                self.call("post", "instances", doing, json=body, query=target)
                break
            except HypervisorError as exc:
                # What a killed run has asked for may have taken away the network between our look at it and this.
                if last or "Network not found" not in exc.why:
                    raise
            self._nic_places(instance)
        self.runtime.report.step("lxd_instance_made")

    def _clear(self, instance: Instance) -> None:
        """Room for an instance: what a killed run has begun of it goes, and what is somebody else's is not touched."""
        self._settle(instance)
        with contextlib.suppress(NotFound):
            there = self.call("get", f"instances/{instance.name}", f"LXD could not be asked for {instance.name}")
            if there["config"].get(lxd_config.UUID) != instance.uuid:
                raise InUse(
                    f"the LXD project {self.place.project} has another instance named {instance.name}",
                    _whose(there["config"]),
                    "Choose another name, remove that instance where it belongs, or use another"
                    " driver_options.project.",
                )
            self.delete(instance)

    def _settle(self, instance: Instance) -> None:
        """Wait for what a run that was killed has asked of LXD, which does it all the same."""
        doing = f"the operations of LXD on {instance.name} could not be waited for"
        groups = self.call("get", "operations", doing, query={"recursion": "1"}) or {}
        for operation in groups.get("running", ()):
            urls = [url for found in (operation.get("resources") or {}).values() for url in found or ()]
            if any(url.partition("?")[0].rpartition("/")[2] == instance.name for url in urls):
                with contextlib.suppress(HypervisorError, NotFound):
                    self.call("get", f"operations/{operation['id']}/wait", doing)

    def _nic_places(self, instance: Instance) -> list[NicPlace]:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd.networks import nic_place

        return [nic_place(self, instance, nic) for nic in instance.nics]

    def configure(self, instance: Instance, doing: str, record: t.Mapping[str, t.Any] | None = None) -> None:
        """Have LXD's configuration of an instance follow its record; what others have added to it stays."""
        there = record or self.call("get", f"instances/{instance.name}", doing)
        if there["config"].get(lxd_config.UUID) != instance.uuid:
            raise HypervisorError(doing, "it was removed from LXD, and another instance has its name there")
        pool = there["devices"].get(lxd_config.ROOT, {}).get("pool") or self.prepare()
        ssh = ""
        if self.place.is_remote and instance.ssh_port:
            host = self.driver.member_address(there)
            ssh = f"{f'[{host}]' if ':' in host else host}:{instance.ssh_port}"
        wanted = lxd_config.config_of(instance, self.scope.data.path)
        guest = self._guest_now(instance) if there["status"] == "Running" else ""
        devices = lxd_config.devices_of(instance, pool, self._nic_places(instance), ssh, guest)
        after = lxd_config.updated(there["config"], there["devices"], wanted, devices)
        if after == (there["config"], there["devices"]):
            return
        self.runtime.report.step("lxd_configure")
        keys = ("architecture", "ephemeral", "profiles", "stateful", "description")
        body: dict[str, t.Any] = {key: there[key] for key in keys if key in there}
        body.update(config=after[0], devices=after[1])
        self.call("put", f"instances/{instance.name}", doing, json=body)
        self.driver.seen.pop(instance.name, None)

    def _guest_now(self, instance: Instance) -> str:
        """Where forwards lead in a container whose address was changed while it runs; empty: to its address.

        It has the old one now, and the new one at some time before its next start.
        """
        nic = main_nic(instance)
        if not nic or instance.instance_type != "container" or not (instance.ports or instance.ssh_port):
            return ""
        now = addresses_of((self.driver.record(instance) or {}).get("state") or {}).get(nic.mac.lower(), ())
        return "" if not now or (nic.address or nic.lease) in now else lxd_config.LOOPBACK

    def choose_ports(self, instance: Instance, held: t.Sequence[PortForward] | None = None) -> None:
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet import ports

        others = self.scope.instances()[0]
        if self.place.is_remote:
            # LXD says what is taken when it starts the instance.
            ports.settle_unseen(instance, others)
        else:
            elsewhere: t.Sequence[PortForward] = ()
            if instance.ports and os.geteuid() == 0 and find_program("nft"):
                # Networks of other drivers lead ports away before they come to who listens on them.
                from ansible_collections.minicloud.local.plugins.module_utils._drivers.host_networks.bridges import (
                    HostNetworks,
                )

                elsewhere = HostNetworks(self.runtime, self.scope).forwarded_elsewhere()
            # The guest is reached at its own address.
            ports.settle(instance, others, held, elsewhere, with_ssh=False)

    def start(self, instance: Instance) -> None:
        doing = f"LXD could not start {instance.name}"
        self._settle(instance)
        there = self.call("get", f"instances/{instance.name}", doing)
        self.configure(instance, doing, there)
        if there["status"] == "Frozen":
            self._change_state(instance, "unfreeze", doing)
        elif there["status"] != "Running":
            self.runtime.report.step("lxd_start")
            try:
                self._change_state(instance, "start", doing)
            except HypervisorError as exc:
                taken = re.search(r":([0-9]+): bind: address already in use", exc.why)
                if taken and self.place.is_remote:
                    hint = "Choose another host port, or end what holds it there."
                    raise InUse(f"port {taken[1]} of LXD's host is taken", exc.why, hint, port=int(taken[1])) from exc
                exc.facts.setdefault("hypervisor_log", self.driver.log(instance).splitlines())
                raise
            self.runtime.report.step("lxd_started")
        self.driver.seen.pop(instance.name, None)

    def _change_state(
        self, instance: Instance, action: str, doing: str, timeout: int = -1, force: bool = False
    ) -> None:
        body = {"action": action, "timeout": timeout, "force": force}
        self.call("put", f"instances/{instance.name}/state", doing, json=body)

    def stop(self, instance: Instance, deadline: Deadline, force: bool) -> None:
        self.driver.save_console(instance)
        self._settle(instance)
        there = self.call("get", f"instances/{instance.name}", f"LXD could not stop {instance.name}")
        self.driver.seen.pop(instance.name, None)
        if there["status"] in ("Stopped", "Error"):
            return
        if force:
            self._change_state(instance, "stop", f"{instance.name} could not be ended", force=True)
            return
        doing = f"{instance.name} did not shut down within {deadline.seconds:g} seconds"
        try:
            if there["status"] == "Frozen":
                self._change_state(instance, "unfreeze", f"{instance.name} could not be resumed to be shut down")
            self._change_state(instance, "stop", doing, timeout=max(1, round(deadline.left())))
        except HypervisorError as exc:
            if self.driver.alive(instance):
                raise HypervisorError(
                    doing, exc.why, "Use a longer timeout, or force: true, which is like pulling the plug."
                ) from exc

    def delete(self, instance: Instance) -> None:
        doing = f"LXD could not remove {instance.name}"
        self._settle(instance)
        try:
            there = self.call("get", f"instances/{instance.name}", doing)
        except NotFound:
            return
        if not self._is_ours(there["config"], instance):
            return  # somebody else's
        self.driver.seen.pop(instance.name, None)
        if there["status"] not in ("Stopped", "Error"):
            with contextlib.suppress(HypervisorError):  # it may end by itself meanwhile
                self._change_state(instance, "stop", doing, force=True)
        with contextlib.suppress(NotFound):
            self.call("delete", f"instances/{instance.name}", doing)

    def _is_ours(self, config: t.Mapping[str, str], instance: Instance) -> bool:
        if instance.uuid:
            return config.get(lxd_config.UUID) == instance.uuid
        # Its record was lost; LXD has the data directory that it is of.
        return config.get(f"{lxd_config.OURS}data_dir") == os.path.realpath(self.scope.data.path)


_PROFILE_KEYS = ("config", "description", "devices")
_ARTICLES = {"storage-pools": "the storage pool", "networks": "the network"}


def _explained(doing: str, why: str) -> HypervisorError | NoSpace:
    if "no space left on device" in why.lower() or "disk quota exceeded" in why.lower():
        return NoSpace(doing, why, "Free some space in the storage pool of LXD: lxc storage info.")
    return HypervisorError(doing, why)


def _whose(config: t.Mapping[str, str]) -> str:
    owner = config.get(f"{lxd_config.OURS}data_dir")
    return f"it was made by the data directory {owner}" if owner else "it was not made by this collection"


def _vm_metadata(image: Image) -> bytes:
    """What LXD needs beside a disk: the same bytes for the same image, since they count for its fingerprint."""
    import tarfile

    properties = {"description": image.title or image.name, "os": image.os, "release": image.release}
    text = json.dumps({"architecture": image.arch, "creation_date": 1, "properties": properties}).encode()
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        entry = tarfile.TarInfo("metadata.yaml")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    return target.getvalue()


def _fingerprint(image: Image) -> str:
    """What LXD calls an image: the checksum of its metadata and its root together."""
    digest = hashlib.sha256(_vm_metadata(image) if image.kind == "disk" else b"")
    for path in filter(None, (image.metadata, image.path)):
        with open(path, "rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()
