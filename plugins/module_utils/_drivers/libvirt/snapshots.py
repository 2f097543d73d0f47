# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Snapshots of libvirt's domains, also of those that run: saved, its disk made a layer, and resumed at once.

libvirt can go back to no snapshot of its own that is a layer, and takes no new disk that is handed over open while a
domain runs. So the domain ends for a moment, as when it is suspended; its guest only sees that time has gone by. While
it is down the file SAVED_IMAGE is there, and so whoever comes after a run that was killed has it go on.
"""

from __future__ import annotations

import os
import time
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.look import SAVED_IMAGE, LibvirtLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.saving import save
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.suspension import why_not_loaded
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Taken
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.layers import (
    Layers,
    sync_directory,
    sync_file,
    used_bytes,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import DISK
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.snapshots import FamilySnapshots
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._model import PAUSED, RUNNING, STOPPED, Instance
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot
from ansible_collections.minicloud.local.plugins.module_utils._writing import remove_path

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.act import LibvirtActs


class LibvirtSnapshots(FamilySnapshots):
    """See Snapshots."""

    capabilities = {"snapshots": ("vm",), "live_snapshots": ("vm",)}
    look: LibvirtLooks

    def __init__(self, look: LibvirtLooks, acts: LibvirtActs) -> None:
        super().__init__(look)
        self.acts = acts

    def why_not(self, instance: Instance, with_memory: bool) -> str:
        state = self.look.observe([instance])[0].state
        if state == STOPPED:
            return "it is stopped, and has no memory to be kept" if with_memory else ""
        if state == PAUSED:
            return "it is paused, and libvirt saves what runs"
        if state != RUNNING:
            return f"it is {state}, and what libvirt has saved goes with the disk as it is"
        if not self.acts.placement.hands_over_files:
            return "libvirt that is reached by the network takes snapshots of stopped instances only"
        if with_memory and self.look.is_system() and os.geteuid() != 0:
            return "what the system's libvirt saves is root's"
        return ""

    def why_not_resumed(self, instance: Instance, snapshot: Snapshot) -> str:
        why = super().why_not_resumed(instance, snapshot)
        if why:
            return why
        memory = Layers(self.look, instance).kept(snapshot.uuid, "memory")
        if not os.path.exists(memory):
            return f"{memory} is not there"
        try:
            with self.look.explained("what libvirt has saved cannot be looked at"):
                return why_not_loaded(self.look, self.look.connection().saveImageGetXMLDesc(memory))
        except MinicloudError as exc:
            return str(exc)

    def take(self, instance: Instance, snapshot: Snapshot, with_memory: bool) -> Taken:
        if not self.look.alive(instance):
            return super().take(instance, snapshot, with_memory)
        doing = f"no snapshot of {instance.name} could be taken"
        layers, image = Layers(self.look, instance), self.look.path(instance, SAVED_IMAGE)
        stack = layers.recover()
        if snapshot.uuid in stack.backing:
            return Taken(0, "crash", used_bytes(layers.path(snapshot.uuid)))
        remove_path(image)
        layers.write(stack)
        with self.look.explained(doing):
            domain = self.look.domain(instance)
            self.runtime.report.step("save")
            begun = time.monotonic()
            flags = self.acts.library.VIR_DOMAIN_SAVE_RUNNING
            save(self.look, domain, lambda: domain.saveFlags(image, None, flags), doing)
        self.runtime.report.step("saved")
        memory = 0
        try:
            if with_memory:
                with explained(doing):
                    os.link(image, layers.kept(snapshot.uuid, "memory"))
                    memory = os.stat(image).st_size
                self.runtime.report.step("memory")
            # libvirt does not tell it of a disk that was handed over open.
            size = self._tool(instance).info(layers.chain(DISK, stack))["virtual-size"]
            self._put_above(layers, stack, snapshot.uuid, int(size), keeps=True)
            self.runtime.report.step("layer")
            self._keep_nvram(instance, snapshot)
        finally:
            self.acts.go_on_from_file(instance)
            self.runtime.report.step("goes_on")
        pause = time.monotonic() - begun
        if memory:
            with explained(doing):
                sync_file(layers.kept(snapshot.uuid, "memory"))
                sync_directory(layers.directory)
        return Taken(memory, "crash", used_bytes(layers.path(snapshot.uuid)), pause)

    def restore(self, instance: Instance, snapshot: Snapshot) -> None:
        image = self.look.path(instance, SAVED_IMAGE)
        with explained(f"{image} could not be removed"):
            remove_path(image)
        super().restore(instance, snapshot)
        if not snapshot.memory:
            return
        doing = f"{instance.name} cannot go on from {snapshot.name}"
        memory = Layers(self.look, instance).kept(snapshot.uuid, "memory")
        if not os.path.exists(memory):
            raise HypervisorError(
                doing,
                f"{memory} is not there",
                "Restore that file from a backup, or leave the memory out: memory: no.",
                memory=snapshot.memory,
            )
        with explained(doing):
            os.link(memory, image)
            sync_directory(os.path.dirname(image))
        self.runtime.report.step("memory_back")
