# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The driver for containers and virtual machines of LXD, in an LXD project of their own.

Looking is done here, with one request for all instances; whatever changes something is in act.py, which a run
that only looks does not import.
"""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Looks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import config as lxd_config
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.api import (
    LxdApi,
    NotThere,
    operations_of,
    place_of,
    untrusted,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.product import Product
from ansible_collections.minicloud.local.plugins.module_utils._drivers.reach import reached_at
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    MissingRequirement,
)
from ansible_collections.minicloud.local.plugins.module_utils._host.host import HypervisorHost
from ansible_collections.minicloud.local.plugins.module_utils._json import understood
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ABSENT,
    DEFAULT_NETWORK,
    PAUSED,
    RUNNING,
    STOPPED,
    SUSPENDED,
    Instance,
    Observed,
    normal_arch,
)

CONSOLE = "console.log"
# How the server calls what is frozen, or about to be.
FROZEN = ("Frozen", "Freezing")

# What an LXD must know; all versions since 5.0 do.
_NEEDED = ("projects", "instances", "cloud_init", "instance_get_full")


class LxdHost(HypervisorHost):
    """The machine of an LXD server on the network, or of the member of its cluster that instances are placed on.

    Where none is named, it is the member that answers.
    """

    def __init__(self, look: LxdLooks) -> None:
        self._look = look
        self.here = not look.place.is_remote
        self.name = look.place.host[0] if look.place.is_remote else look.target
        self._place = {"target": look.target} if look.target else {}

    @understood("what the server says of itself", HypervisorError)
    def architecture(self) -> str:
        environment = self._look.server()["environment"]
        if self._look.target and environment.get("server_clustered"):
            for member in self._look.api.get("cluster/members", recursion="1"):
                if member["server_name"] == self._look.target:
                    return normal_arch(str(member["architecture"]))
        return normal_arch(str(environment["kernel_architecture"]))

    @understood("what the server says of its resources", HypervisorError)
    def memory(self) -> tuple[int, int]:
        told = self._look.api.get("resources", **self._place)["memory"]
        total = int(told.get("total") or 0)
        return total, max(0, total - int(told.get("used") or 0))

    @understood("what the server says of its resources", HypervisorError)
    def processors(self) -> int:
        return int(self._look.api.get("resources", **self._place)["cpu"].get("total") or 0)


class LxdLooks(Looks):
    """See Looks."""

    product: t.ClassVar[Product]
    capabilities = {"console_log": ("vm", "container"), "remote": ("vm", "container")}

    def __init__(self, *args: t.Any, **kwargs: t.Any) -> None:
        super().__init__(*args, **kwargs)
        self.place = place_of(self.options, self.product)
        self.target = str(self.options.get("target") or "")
        if self.place.is_remote or self.target:
            self.host = LxdHost(self)
        self.api = LxdApi(self.place)
        # What LXD has said of instances, by name, and the addresses of members of a cluster.
        self.seen: dict[str, dict[str, t.Any]] = {}
        self._members: dict[str, str] = {}

    def handle(self) -> dict[str, str]:
        keys = ("endpoint", "project", *(("cert", "key", "verify") if self.place.is_remote else ()))
        return {key: getattr(self.place, key) for key in keys}

    def leads_here(self, handle: t.Mapping[str, str]) -> bool:
        # Not the credentials: files may have been moved since.
        return all(handle.get(key) == getattr(self.place, key) for key in ("endpoint", "project"))

    @property
    def default_network(self) -> str:
        return DEFAULT_NETWORK

    @understood("what the server says of itself", HypervisorError)
    def server(self) -> dict[str, t.Any]:
        """What LXD says of itself. MissingRequirement where it does not let us in, or is too old."""
        server: dict[str, t.Any] = self.api.get("")
        if server.get("auth") != "trusted":
            raise untrusted(self.place, "it knows no such certificate")
        missing = [name for name in _NEEDED if name not in server["api_extensions"]]
        if missing:
            raise MissingRequirement(
                f"{self.product} at {self.place.endpoint} is too old",
                f"it is {server['environment']['server_version']} and lacks {missing[0]}",
                f"Install {self.product} {self.product.oldest} or newer.",
            )
        return server

    def observe(self, instances: t.Sequence[Instance]) -> list[Observed]:
        records: dict[str, dict[str, t.Any]] = {}
        with contextlib.suppress(NotThere):
            if len(instances) == 1:
                records[instances[0].name] = self._at_rest(instances[0])
            elif instances:
                records = self.all_records()
        self.seen.update(records)
        found = [self._observed(instance, records.get(instance.name)) for instance in instances]
        if not any(each.state == ABSENT for each in found):
            return found
        everywhere = self._everywhere()
        return [
            self._moved(instance, everywhere) or each if each.state == ABSENT else each
            for instance, each in zip(instances, found)
        ]

    def _everywhere(self) -> list[dict[str, t.Any]]:
        """What LXD knows of all instances of all projects that we may see."""
        try:
            found: list[dict[str, t.Any]] = self.api.get(
                "instances", recursion="1", project="", **{"all-projects": "true"}
            )
        except HypervisorError:  # an older one, or one that lets us see our own project only
            found = self.api.get("instances", recursion="1")
        return found

    def _moved(self, instance: Instance, records: t.Iterable[t.Mapping[str, t.Any]]) -> Observed | None:
        """What is seen of an instance that has another name, or is in another project, than its record says."""
        for record in records:
            if _is_ours(instance, record):
                project = record.get("project") or self.place.project
                where = f"{self.product} has it as {record['name']} in the project {project}"
                return Observed(ABSENT, drift=(f"{where}, where somebody has moved it",), reason=where)
        return None

    def _at_rest(self, instance: Instance) -> dict[str, t.Any]:
        """What LXD knows of an instance, once it has done what a run that was killed has asked of it."""
        path = f"instances/{instance.name}"
        found: dict[str, t.Any] = self.api.get(path, recursion="1")
        # It was started under us, so it has ended since, or LXD is still at it.
        if instance.owner and not _is_up(found):
            begun = operations_of(self.api.get("operations", recursion="1"), instance.name)
            for identifier in begun:
                with contextlib.suppress(HypervisorError):  # whatever comes of it
                    self.api.get(f"operations/{identifier}/wait")
            if begun:
                found = self.api.get(path, recursion="1")
        return found

    def all_records(self) -> dict[str, dict[str, t.Any]]:
        """What LXD knows of all instances now, by name; of those that run with their state."""
        records: dict[str, dict[str, t.Any]] = {each["name"]: each for each in self.api.get("instances", recursion="1")}
        up = [name for name, record in records.items() if _is_up(record)]
        # LXD looks at the disk of each instance whose state it tells, which takes far longer than all the rest: of many
        # that are stopped it is not asked.
        if 2 * len(up) > len(records):
            return {each["name"]: each for each in self.api.get("instances", recursion="2")}
        for name in up:
            with contextlib.suppress(NotThere):
                records[name]["state"] = self.api.get(f"instances/{name}/state")
        return records

    def record(self, instance: Instance) -> dict[str, t.Any] | None:
        """What LXD knows of an instance now; None where it has none, or one of that name that is somebody else's."""
        try:
            found: dict[str, t.Any] = self.api.get(f"instances/{instance.name}", recursion="1")
        except NotThere:
            self.seen.pop(instance.name, None)
            return None
        self.seen[instance.name] = found
        return found if _is_ours(instance, found) else None

    def remains(self, instance: Instance) -> str:
        record = self.record(instance)
        if record is None:
            return ""
        # LXD dates the last start of what was never started before all times. A clone has data all the same, and so has
        # what was imported, but not before either is whole.
        whole = instance.phase == "removing" and bool(instance.source)
        if not whole and str(record.get("last_used_at") or "")[:4] in ("", "0001", "1970"):
            return ""
        return f"{self.product} has it still, with its disk, as {instance.name} in the project {self.place.project}"

    def alive(self, instance: Instance) -> bool:
        return _is_up(self.record(instance))

    def ssh_address(self, instance: Instance, seen: Observed | None = None) -> tuple[str, int]:
        latest = self.seen.get(instance.name)
        host, port = self._endpoint_from(instance, latest if latest and _is_ours(instance, latest) else None)
        # A running instance may still use another address than the one reserved for it.
        if instance.owner and (not host or (instance.ready and not latest)):
            host, port = self._endpoint_from(instance, self.record(instance))
        return host, port

    def _endpoint_from(self, instance: Instance, seen: dict[str, t.Any] | None) -> tuple[str, int]:
        """Where ssh answers: directly on the instance's network, or from afar on a port of the server that has it."""
        if self.place.is_remote:
            if not seen:
                return "", 22
            forwarded = lxd_config.listener_of(seen["devices"].get(lxd_config.SSH, {}))
            return forwarded if forwarded[0] else (self.member_address(seen), instance.ssh_port or 22)
        by_mac = dict(self._observed(instance, seen).by_mac) if seen else {}
        for nic in instance.nics if by_mac else ():
            network = None if nic.address or nic.lease else self.scope.networks.read(nic.network)
            if network and network.bridge_type == "macvtap":
                # A macvlan on an interface of this host cannot reach this host.
                by_mac.pop(nic.mac, None)
        return reached_at(instance, by_mac), 22

    def member_address(self, seen: t.Mapping[str, t.Any]) -> str:
        """The address of the server that runs an instance."""
        member = str(seen.get("location") or "none")
        if member == "none":
            return self.place.host[0]
        if member not in self._members:
            url = str(self.api.get(f"cluster/members/{member}")["url"])
            self._members[member] = self.place._replace(endpoint=url).host[0]
        return self._members[member]

    def _observed(self, instance: Instance, record: t.Mapping[str, t.Any] | None) -> Observed:
        if record is None:
            return Observed(ABSENT, drift=(f"it was removed from {self.product} by other means, and its data with it",))
        if not _is_ours(instance, record):
            why = f"it was removed from {self.product} by other means, and another instance has its name there"
            return Observed(ABSENT, drift=(why,))
        drift = lxd_config.drift_of(instance, record["config"], record["devices"], self.product.name)
        size = lxd_config.root_size(record["devices"])
        grown = size if size > instance.disk else 0
        # A disk that somebody has grown is not shrunk.
        differs = tuple(option for option in drift if not (option == "disk" and grown))
        seen = Observed(STOPPED, drift=tuple(drift.values()), differs=differs, disk=grown)
        if not _is_up(record):
            return seen
        halted = SUSPENDED if instance.suspended else PAUSED
        state = halted if record["status"] in FROZEN else RUNNING
        by_mac = addresses_of(record.get("state") or {})
        ours = {nic.mac: by_mac.get(nic.mac.lower(), ()) for nic in instance.nics}
        addresses = tuple(address for found in ours.values() for address in found)
        return seen._replace(state=state, addresses=addresses, by_mac=ours)

    def console_log(self, instance: Instance) -> str:
        return os.path.join(self.scope.directory(instance.name), CONSOLE)


def storage_drivers(environment: t.Mapping[str, t.Any]) -> list[str]:
    """The storage drivers that an LXD supports."""
    entries = environment.get("storage_supported_drivers") or []
    return sorted(str(entry.get("Name") or entry.get("name")) for entry in entries)


def runs_vms(environment: t.Mapping[str, t.Any]) -> bool:
    """Whether an LXD can run virtual machines."""
    return "qemu" in str(environment.get("driver", ""))


def _is_ours(instance: Instance, record: t.Mapping[str, t.Any]) -> bool:
    return bool(record["config"].get(lxd_config.UUID) == instance.uuid)


def _is_up(record: t.Mapping[str, t.Any] | None) -> bool:
    return record is not None and record["status"] not in ("Stopped", "Error")


def addresses_of(state: t.Mapping[str, t.Any]) -> dict[str, tuple[str, ...]]:
    """The addresses of a running instance by MAC, IPv4 first; not those that lead nowhere."""
    found = {}
    for interface in (state.get("network") or {}).values():
        entries = [entry for entry in interface.get("addresses") or [] if entry.get("scope") == "global"]
        entries.sort(key=lambda entry: entry.get("family") != "inet")
        if interface.get("hwaddr"):
            found[interface["hwaddr"].lower()] = tuple(entry["address"] for entry in entries)
    return found
