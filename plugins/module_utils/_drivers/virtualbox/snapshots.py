# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Snapshots as VirtualBox keeps them itself: named by their uuids there, so that a name of ours can change at any time.

VirtualBox takes none away that two others go on from. Such a one gets another name and goes later, when it can.
"""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Snapshots, Taken
from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.act import VirtualBoxActs
from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.answers import (
    HIDDEN,
    SNAPSHOT,
    Kept,
    Machine,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.look import VirtualBoxLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.manage import LONG
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    RUNNING,
    STOPPED,
    SUSPENDED,
    Instance,
)
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot


class VirtualBoxSnapshots(Snapshots):
    """See Snapshots."""

    capabilities = {"snapshots": ("vm",), "live_snapshots": ("vm",)}
    is_native = True

    def __init__(self, look: VirtualBoxLooks, acts: VirtualBoxActs) -> None:
        self.look = look
        self.acts = acts
        self.manage = acts.manage

    def why_not(self, instance: Instance, with_memory: bool) -> str:
        state = self.look.observe([instance])[0].state
        if with_memory:
            return "" if state == RUNNING else f"it is {state}"
        if state == RUNNING:
            return "it runs, and VirtualBox takes its memory, too"
        return "" if state == STOPPED else f"it is {state}"

    def take(self, instance: Instance, snapshot: Snapshot, with_memory: bool) -> Taken:
        doing = f"VirtualBox could not take a snapshot of {instance.name}"
        self._machine(instance, doing)
        # Of a run that was killed nobody knows when VirtualBox took it.
        self.delete(instance, snapshot)
        self.acts.runtime.report.step("virtualbox_snapshot")
        live = ["--live"] if with_memory else []
        name = f"{SNAPSHOT}{snapshot.uuid}"
        self.manage.check(
            doing, "snapshot", instance.uuid, "take", name, "--description", snapshot.name, *live, timeout=LONG
        )
        self.acts.runtime.report.step("virtualbox_snapshot_taken")
        return Taken(self._memory(instance) if with_memory else 0, "crash" if with_memory else "stopped")

    def _memory(self, instance: Instance) -> int:
        """The bytes of the memory that was saved last."""
        folder = os.path.join(os.path.dirname(self.look.settings(instance)), "Snapshots")
        found = []
        with contextlib.suppress(OSError):
            found = [each.stat() for each in os.scandir(folder) if each.name.endswith(".sav")]
        return max(found, key=lambda status: status.st_mtime).st_size if found else 1

    def restore(self, instance: Instance, snapshot: Snapshot) -> None:
        doing = f"VirtualBox could not bring {instance.name} back to {snapshot.name}"
        machine = self._machine(instance, doing)
        kept = machine.kept(snapshot.uuid)
        if kept is None:
            raise HypervisorError(doing, "somebody has removed it from VirtualBox", "Remove the snapshot here, too.")
        if machine.state == SUSPENDED:
            # What was saved is of a disk that goes; VirtualBox would go back no other way.
            self.manage.check(doing, "discardstate", instance.uuid)
        self.acts.runtime.report.step("virtualbox_restore")
        self.manage.check(doing, "snapshot", instance.uuid, "restore", kept.uuid, timeout=LONG)
        self.acts.runtime.report.step("virtualbox_restored")
        if not snapshot.memory and self._machine(instance, doing).state == SUSPENDED:
            self.manage.check(doing, "discardstate", instance.uuid)

    def delete(self, instance: Instance, snapshot: Snapshot) -> None:
        doing = f"VirtualBox could not remove the snapshot {snapshot.name} of {instance.name}"
        machine = self.look.machine(instance)
        kept = machine.kept(snapshot.uuid) if machine is not None else None
        if machine is None or kept is None:
            return
        if _followers(machine, kept) > 1:
            self.manage.check(doing, "snapshot", instance.uuid, "edit", kept.uuid, "--name", f"{HIDDEN}{snapshot.uuid}")
        else:
            self._delete(instance, kept, doing)
        self.acts.runtime.report.step("virtualbox_snapshot_removed")
        self.consolidate(instance)

    def _delete(self, instance: Instance, kept: Kept, doing: str) -> None:
        self.manage.check(doing, "snapshot", instance.uuid, "delete", kept.uuid, timeout=LONG)

    def listed(self, instances: t.Sequence[Instance]) -> dict[str, dict[str, int]]:
        if len(instances) == 1:
            machine = self.look.machine(instances[0])
            machines = {instances[0].uuid: machine} if machine else {}
        else:
            machines = self.look.all_machines() if instances else {}
        # What each takes by itself, VirtualBox does not tell.
        return {
            uuid: {
                each.name[len(SNAPSHOT) :]: 0
                for each in machine.snapshots
                if each.name.startswith(SNAPSHOT) and not each.name.startswith(HIDDEN)
            }
            for uuid, machine in machines.items()
        }

    def consolidate(self, instance: Instance) -> bool:
        """Take away what could not be when it was to go."""
        done = False
        machine = self.look.machine(instance)
        while machine is not None:
            gone = next(
                (each for each in machine.snapshots if each.name.startswith(HIDDEN) and _followers(machine, each) < 2),
                None,
            )
            if gone is None:
                break
            try:
                self._delete(instance, gone, f"VirtualBox could not tidy the snapshots of {instance.name}")
            except MinicloudError:
                break
            done = True
            machine = self.look.machine(instance)
        return done

    def _machine(self, instance: Instance, doing: str) -> Machine:
        machine = self.look.machine(instance)
        if machine is None or not self.look.is_ours(machine):
            raise HypervisorError(doing, "it was removed from VirtualBox")
        return machine


def _followers(machine: Machine, kept: Kept) -> int:
    """How many things go on from a snapshot: others, and the machine as it is now."""
    return sum(each.parent == kept.uuid for each in machine.snapshots) + (machine.current == kept.uuid)
