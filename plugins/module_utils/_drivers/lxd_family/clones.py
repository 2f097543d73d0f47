# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Clones as LXD makes them itself: a copy on its server, of an instance or of a snapshot of one.

Whether they share anything is its storage's affair: with zfs and btrfs they do until one of them changes it, and what
becomes of either of them, the other one keeps all that it has.
"""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import config as lxd_config
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.act import LxdActs
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.look import LxdLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.pools import PROFILE
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.seed import SEED_KEYS, seed_config
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Clones
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._model import FULL, LINKED, Instance
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot

# Storage that makes a copy without copying what is in it.
_COPY_ON_WRITE = ("zfs", "btrfs", "ceph", "lvm")


class LxdClones(Clones):
    """See Clones."""

    capabilities = {"clones": ("vm", "container")}

    def __init__(self, look: LxdLooks, acts: LxdActs) -> None:
        self.look = look
        self.acts = acts
        self.client = acts.client
        self.product = look.product
        self.runtime = look.runtime

    def make(
        self, instance: Instance, parent: Instance, snapshot: Snapshot | None, seed: t.Mapping[str, bytes], full: bool
    ) -> str:
        doing = f"{self.product} could not make {instance.name} from {parent.name}"
        self.client.await_operations(parent.name)
        theirs = self.client.call("get", f"instances/{parent.name}", doing)
        if theirs["config"].get(lxd_config.UUID) != parent.uuid:
            raise HypervisorError(
                doing, f"{parent.name} was removed from {self.product}, and another instance has its name there"
            )
        pool = (theirs.get("expanded_devices") or theirs["devices"]).get(lxd_config.ROOT, {}).get("pool", "")
        self.acts.make_room(instance)
        self.runtime.report.step("lxd_copy")
        wanted = {**lxd_config.config_of(instance, self.look.scope.data.path), **seed_config(seed)}
        devices = lxd_config.devices_of(instance, pool or self.acts.pools.prepare(), self.acts.nic_places(instance))
        body = {
            "name": instance.name,
            "type": theirs["type"],
            "source": {
                "type": "copy",
                "source": f"{parent.name}/{snapshot.uuid}" if snapshot else parent.name,
                "project": self.look.place.project,
                "instance_only": True,
            },
            "profiles": [PROFILE],
            "config": wanted,
            "devices": devices,
        }
        target = {"target": str(theirs["location"])} if theirs.get("location") not in (None, "", "none") else {}
        self.client.call("post", "instances", doing, json=body, query=target)
        self.runtime.report.step("lxd_copied")
        self._clean(instance, wanted, devices, doing)
        return FULL if full or self._copies(pool) else LINKED

    def _clean(self, instance: Instance, wanted: lxd_config.Config, devices: lxd_config.Devices, doing: str) -> None:
        """Have nothing be there that the server has taken over from the parent and that is that one's alone."""
        there = self.client.call("get", f"instances/{instance.name}", doing)
        config = {
            key: value
            for key, value in there["config"].items()
            if not key.startswith(lxd_config.OURS) and key not in SEED_KEYS and key != lxd_config.IDMAP
        }
        devices = {**({"seed": there["devices"]["seed"]} if "seed" in there["devices"] else {}), **devices}
        self.acts.put(instance, there, ({**config, **wanted}, devices), doing)
        self.runtime.report.step("lxd_cleaned")

    def _copies(self, pool: str) -> bool:
        """Whether the storage copies all that is in an instance."""
        doing = f"{self.product} does not tell of its pool {pool}"
        found = self.client.call("get", f"storage-pools/{pool}", doing, project="") if pool else {}
        return found.get("driver") not in _COPY_ON_WRITE

    def linked(self, parent: Instance, others: t.Sequence[Instance]) -> list[Instance]:
        # The server sees to it that each keeps what it has.
        return []
