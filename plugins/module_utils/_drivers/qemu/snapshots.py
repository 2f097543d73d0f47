# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Snapshots of QEMU's machines, also of those that run: the disk becomes a layer below a machine that is halted.

Its memory is saved while it is halted, into a file beside the layer, as that of a suspended instance is. Going back to
such a snapshot makes the instance one that was suspended at that moment, and its next start goes on from there.
"""

from __future__ import annotations

import contextlib
import os
import time
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Taken
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu import live, saved_state
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.look import (
    MEMORY,
    MONITOR,
    SAVED,
    QemuLooks,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.layers import (
    NEW_DISK,
    Layers,
    Stack,
    sync_directory,
    sync_file,
    used_bytes,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import DISK
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.qmp import Qmp
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.snapshots import FamilySnapshots
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    PAUSED,
    RUNNING,
    STOPPED,
    SUSPENDED,
    Instance,
)
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot
from ansible_collections.minicloud.local.plugins.module_utils._writing import remove_path

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.act import QemuActs

_REMEDY = "Restore that file from a backup, or leave the memory out: memory: no"


class QemuSnapshots(FamilySnapshots):
    """See Snapshots."""

    capabilities = {"snapshots": ("vm",), "live_snapshots": ("vm",)}
    look: QemuLooks

    def __init__(self, look: QemuLooks, acts: QemuActs) -> None:
        super().__init__(look)
        self.acts = acts

    def why_not(self, instance: Instance, with_memory: bool) -> str:
        state = self.look.observe([instance])[0].state
        if state not in (RUNNING, PAUSED, STOPPED, SUSPENDED):
            return f"it is {state}"
        if with_memory and state == STOPPED:
            return "it is stopped, and has no memory to be kept"
        if with_memory and state == PAUSED:
            with contextlib.suppress(OSError, MinicloudError), Qmp(self.look.path(instance, MONITOR)) as qmp:
                status = qmp.status()
                # One that a killed run has halted is seen to before it is saved.
                if status != "paused" and not os.path.lexists(self.look.path(instance, live.HALTED)):
                    return f"its machine is in the state {status}, which cannot be kept"
        return ""

    def why_not_resumed(self, instance: Instance, snapshot: Snapshot) -> str:
        why = super().why_not_resumed(instance, snapshot)
        if why:
            return why
        try:
            saved = saved_state.read_origin(Layers(self.look, instance).kept(snapshot.uuid, "machine"), _REMEDY)
            if saved is None:
                return "the machine that it is of is not known any more"
            return saved_state.why_not_loaded(saved, self.acts.planned_origin(instance, saved.machine))
        except MinicloudError as exc:
            return str(exc)

    def take(self, instance: Instance, snapshot: Snapshot, with_memory: bool) -> Taken:
        if not self.look.alive(instance):
            live.forget(self.look, instance)
            taken = super().take(instance, snapshot, with_memory)
            saved = saved_state.saved_origin(self.look, instance)
            if saved is None:
                return taken
            return (
                self._keep_suspended(instance, snapshot, saved, taken) if with_memory else taken._replace(quiet="crash")
            )
        doing = f"no snapshot of {instance.name} could be taken"
        try:
            with self.acts.monitor(instance) as qmp:
                self._see_to_the_end(instance, qmp)
                return self._take_live(instance, snapshot, with_memory, qmp, doing)
        except OSError as exc:
            raise HypervisorError(doing, self.acts.log(instance) or str(exc)) from exc

    def _keep_suspended(self, instance: Instance, snapshot: Snapshot, saved: saved_state.Origin, taken: Taken) -> Taken:
        layers = Layers(self.look, instance)
        memory = layers.kept(snapshot.uuid, "memory")
        with explained(f"the memory of {instance.name} could not be kept"):
            remove_path(memory)
            os.link(self.look.path(instance, MEMORY), memory)
            size = os.stat(memory).st_size
        saved_state.write_origin(layers.kept(snapshot.uuid, "machine"), saved, size)
        self.runtime.report.step("memory_kept")
        return Taken(size, "suspended", taken.disk)

    def _see_to_the_end(self, instance: Instance, qmp: Qmp) -> None:
        """Have a machine that a killed run has halted go on."""
        runs = live.finish(self.look, instance, qmp)
        live.let_go_on(self.look, instance, qmp, runs)

    def _take_live(self, instance: Instance, snapshot: Snapshot, with_memory: bool, qmp: Qmp, doing: str) -> Taken:
        layers, layer = Layers(self.look, instance), snapshot.uuid
        before = layers.recover()
        if layer in before.backing:
            memory = layers.kept(layer, "memory")
            return Taken(
                os.stat(memory).st_size if os.path.exists(memory) else 0, "crash", used_bytes(layers.path(layer))
            )
        after = before._replace(disk=layer, backing={**before.backing, layer: before.disk})
        temporary = f"{layers.kept(layer, 'memory')}.new"
        size = 0
        # What takes time and need not be done while the machine is halted.
        new = layers.path(NEW_DISK)
        try:
            layers.write(before)
            self._tool(instance).overlay(new, layers.path(layer), live.top_of(qmp).size)
            sync_file(new)
            self.runtime.report.step("overlay")
            live.have_node(qmp, layer, new)
            self.runtime.report.step("node")
            begun = time.monotonic()
            runs = live.halt(self.look, instance, qmp, layer)
            self.runtime.report.step("halted")
            if with_memory:
                origin = saved_state.origin_of(qmp, self.acts.process_of(instance))
                size = saved_state.save_unsynced(qmp, temporary, doing)
                self.runtime.report.step("memory")
            self._replace_disk(instance, snapshot, qmp, layers, before, after)
        except (MinicloudError, OSError):
            with contextlib.suppress(MinicloudError, OSError):
                self._see_to_the_end(instance, qmp)
                live.drop_node(qmp, layer)
            with contextlib.suppress(MinicloudError, OSError):
                remove_path(temporary)
                layers.recover()
            raise
        live.let_go_on(self.look, instance, qmp, runs)
        pause = time.monotonic() - begun if runs else 0.0
        self.runtime.report.step("goes_on")
        if with_memory:
            saved_state.put_in_place(temporary, layers.kept(layer, "memory"), doing)
            self.runtime.report.step("memory_kept")
            saved_state.write_origin(layers.kept(layer, "machine"), origin, size)
            self.runtime.report.step("machine_kept")
        return Taken(size, "crash", used_bytes(layers.path(layer)), pause)

    def _replace_disk(
        self, instance: Instance, snapshot: Snapshot, qmp: Qmp, layers: Layers, before: Stack, after: Stack
    ) -> None:
        """Make the disk of a halted machine a layer below the new one, in the files first and then in QEMU."""
        self._keep_nvram(instance, snapshot)
        layers.change(before, after, NEW_DISK, self._replacing(layers, snapshot.uuid, keeps=True))
        self.runtime.report.step("layer")
        try:
            live.go_on_above(qmp, snapshot.uuid)
        except HypervisorError:
            # QEMU writes to what was the disk still, so that has to be it again.
            path = layers.path(snapshot.uuid)
            undone = os.path.relpath(path, layers.top)
            layers.change(after, before, undone, lambda: os.rename(path, layers.path(DISK)))
            raise
        self.runtime.report.step("switched")

    def restore(self, instance: Instance, snapshot: Snapshot) -> None:
        live.forget(self.look, instance)
        saved_state.drop(self.look, instance)
        super().restore(instance, snapshot)
        if not snapshot.memory:
            return
        layers = Layers(self.look, instance)
        doing = f"{instance.name} cannot go on from {snapshot.name}"
        memory = layers.kept(snapshot.uuid, "memory")
        origin = saved_state.read_origin(layers.kept(snapshot.uuid, "machine"), _REMEDY)
        if origin is None or not os.path.exists(memory):
            raise HypervisorError(doing, f"{memory} is not there", f"{_REMEDY}.", memory=snapshot.memory)
        with explained(doing):
            os.link(memory, self.look.path(instance, MEMORY))
            sync_directory(layers.top)
        self.runtime.report.step("memory_back")
        saved_state.write_origin(self.look.path(instance, SAVED), origin, snapshot.memory)
        self.runtime.report.step("suspended")

    def delete(self, instance: Instance, snapshot: Snapshot) -> None:
        if os.path.lexists(self.look.path(instance, live.HALTED)) and self.look.alive(instance):
            with contextlib.suppress(OSError), self.acts.monitor(instance) as qmp:
                self._see_to_the_end(instance, qmp)
        super().delete(instance, snapshot)
