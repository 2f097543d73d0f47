# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Snapshots as LXD keeps them itself: named by their uuids there, so that a name of ours can change at any time."""

from __future__ import annotations

import contextlib
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import config as lxd_config
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.api import NotThere
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.client import LxdClient
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.look import LxdLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Snapshots, Taken
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, NotFound
from ansible_collections.minicloud.local.plugins.module_utils._model import PAUSED, RUNNING, STOPPED, Instance
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot

# Of storage that takes all of a file system at one moment; with any other LXD freezes the instance and syncs.
_ATOMIC = ("btrfs", "zfs")


class LxdSnapshots(Snapshots):
    """See Snapshots."""

    capabilities = {"snapshots": ("vm", "container")}
    is_native = True

    def __init__(self, look: LxdLooks, client: LxdClient) -> None:
        self.look = look
        self.client = client
        self.runtime = look.runtime
        self.product = look.product

    def why_not(self, instance: Instance, with_memory: bool) -> str:
        state = self.look.observe([instance])[0].state
        if with_memory:
            return "it is stopped" if state == STOPPED else f"{self.product} keeps what is on disks only"
        return "" if state in (RUNNING, STOPPED, PAUSED) else f"it is {state}"

    def take(self, instance: Instance, snapshot: Snapshot, with_memory: bool) -> Taken:
        doing = f"{self.product} could not take a snapshot of {instance.name}"
        there = self._at_rest(instance, doing)
        # One of this uuid would be from a run that was killed, and nobody knows when LXD took it.
        self.delete(instance, snapshot)
        self.runtime.report.step("lxd_snapshot")
        body = {"name": snapshot.uuid, "stateful": False}
        self.client.call("post", f"instances/{instance.name}/snapshots", doing, json=body)
        self.runtime.report.step("lxd_snapshot_taken")
        quiet = "stopped" if there["status"] in ("Stopped", "Error") else self._quiet(instance, there)
        return Taken(0, quiet, self._sizes(instance).get(snapshot.uuid, 0))

    def _quiet(self, instance: Instance, there: t.Mapping[str, t.Any]) -> str:
        """How the file systems of an instance that runs were when LXD took its disk."""
        if instance.instance_type != "container":
            return "crash"
        pool = (there.get("expanded_devices") or there["devices"]).get(lxd_config.ROOT, {}).get("pool", "")
        found = self.client.call(
            "get", f"storage-pools/{pool}", f"{self.product} does not tell of its pool {pool}", project=""
        )
        return "synced" if found.get("driver") in _ATOMIC else "frozen"

    def _at_rest(self, instance: Instance, doing: str) -> dict[str, t.Any]:
        """What LXD knows of an instance, once it has done what a run that was killed has asked of it."""
        self.client.await_operations(instance.name)
        there: dict[str, t.Any] = self.client.call("get", f"instances/{instance.name}", doing)
        if there["config"].get(lxd_config.UUID) != instance.uuid:
            raise HypervisorError(doing, f"it was removed from {self.product}, and another instance has its name there")
        return there

    def restore(self, instance: Instance, snapshot: Snapshot) -> None:
        doing = f"{self.product} could not bring {instance.name} back to {snapshot.name}"
        self._at_rest(instance, doing)
        self.runtime.report.step("lxd_restore")
        try:
            self.client.call("put", f"instances/{instance.name}", doing, json={"restore": snapshot.uuid})
        except HypervisorError as exc:
            if "subsequent" in exc.why:
                exc.hint = "Its storage (zfs) goes back to the newest snapshot only: remove those that are newer first."
            raise
        self.runtime.report.step("lxd_restored")
        self.look.seen.pop(instance.name, None)

    def delete(self, instance: Instance, snapshot: Snapshot) -> None:
        doing = f"{self.product} could not remove the snapshot {snapshot.name} of {instance.name}"
        self.client.await_operations(instance.name)
        with contextlib.suppress(NotFound):
            self.client.call("delete", f"instances/{instance.name}/snapshots/{snapshot.uuid}", doing)
            self.runtime.report.step("lxd_snapshot_removed")

    def listed(self, instances: t.Sequence[Instance]) -> dict[str, dict[str, int]]:
        if len(instances) == 1:
            with contextlib.suppress(NotThere):
                return {instances[0].uuid: self._sizes(instances[0])}
            return {}
        found = {}
        for record in self.look.api.get("instances", recursion="2") if instances else ():
            sizes = {_name_of(each): int(each.get("size") or 0) for each in record.get("snapshots") or ()}
            found[str(record["config"].get(lxd_config.UUID))] = sizes
        return found

    def _sizes(self, instance: Instance) -> dict[str, int]:
        listed = self.look.api.get(f"instances/{instance.name}/snapshots", recursion="1")
        return {_name_of(each): max(0, int(each.get("size") or 0)) for each in listed}


def _name_of(record: t.Mapping[str, t.Any]) -> str:
    """The name of a snapshot, which some versions tell with that of the instance before it."""
    return str(record["name"]).rpartition("/")[2]
