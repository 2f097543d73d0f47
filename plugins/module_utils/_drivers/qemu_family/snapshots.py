# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Snapshots as layers of the disk: see layers.py.

Taking one makes the disk a layer and puts an empty disk above it; going back to one puts an empty disk above its layer.
So neither takes time or room with what is in the disk. What is read goes through all layers below, which therefore get
fewer again while the instance is stopped: a layer that no snapshot needs any more becomes one with the only other that
needs it, and above DEEPEST layers the topmost is made one that is backed by the image alone.
"""

from __future__ import annotations

import os
import typing as t
import uuid

from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Snapshots, Taken
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.layers import (
    IMAGE,
    NEW_DISK,
    Layers,
    Stack,
    is_shared,
    sync_file,
    used_bytes,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import (
    DISK,
    NVRAM,
    NVRAM_COPY,
    FamilyLooks,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.nvram import copy_sparse, fetch_nvram
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._images.confined import QemuImg, virtual_size
from ansible_collections.minicloud.local.plugins.module_utils._model import STOPPED, Instance
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot
from ansible_collections.minicloud.local.plugins.module_utils._writing import remove_path

# So many layers below a disk cost nothing that can be measured; sixty make random reads 2.3 times slower.
DEEPEST = 25


class FamilySnapshots(Snapshots):
    """See Snapshots."""

    capabilities = {"snapshots": ("vm",)}

    def __init__(self, look: FamilyLooks) -> None:
        self.look = look
        self.runtime = look.runtime

    def why_not(self, instance: Instance, with_memory: bool) -> str:
        state = self.look.observe([instance])[0].state
        if state != STOPPED:
            return f"it is {state}, and the driver {self.look.name} takes snapshots of stopped instances only"
        return "it is stopped, and has no memory to be kept" if with_memory else ""

    def why_not_resumed(self, instance: Instance, snapshot: Snapshot) -> str:
        if snapshot.driver != self.look.name:
            return f"it was saved by the driver {snapshot.driver}, and {self.look.name} cannot load it"
        return ""

    def take(self, instance: Instance, snapshot: Snapshot, with_memory: bool) -> Taken:
        layers = Layers(self.look, instance)
        stack = layers.recover()
        if snapshot.uuid not in stack.backing:
            size = self._tool(instance).info(layers.chain(DISK, stack))["virtual-size"]
            self._put_above(layers, stack, snapshot.uuid, int(size), keeps=True)
            self.runtime.report.step("layer")
        self._keep_nvram(instance, snapshot)
        return Taken(0, "stopped", used_bytes(layers.path(snapshot.uuid)))

    def freeze(self, instance: Instance) -> str:
        """Have all that is on the disk of a stopped instance be in a layer, and return which; no snapshot needs it."""
        layers = Layers(self.look, instance)
        stack = layers.recover()
        size = virtual_size(layers.path(DISK), f"the disk of {instance.name}")
        if stack.disk != IMAGE and self._is_blank(layers, stack.disk, size):
            return stack.disk
        layer = str(uuid.uuid4())
        self._put_above(layers, stack, layer, size, keeps=True, hides=True)
        self.runtime.report.step("layer")
        return layer

    def _is_blank(self, layers: Layers, layer: str, size: int) -> bool:
        """Whether nothing was written on a disk since it was put above a layer.

        A disk file only gets longer: nothing is written into it without room for it, and for where that is.
        """
        new = layers.path(NEW_DISK)
        self._tool(layers.instance).overlay(new, layers.path(layer), size)
        blank = os.path.getsize(new) == os.path.getsize(layers.path(DISK))
        remove_path(new)
        return blank

    def detach(self, instance: Instance) -> None:
        """Have the disk of a stopped instance be backed by the image alone."""
        layers = Layers(self.look, instance)
        stack = layers.recover()
        if stack.disk != IMAGE:
            self._flatten(layers, stack, stack.disk)

    def _put_above(self, layers: Layers, stack: Stack, layer: str, size: int, keeps: bool, hides: bool = False) -> None:
        """Put an empty disk above a layer. keeps -- whether the present disk becomes that layer; else it goes

        hides -- whether no snapshot needs the layer
        """
        new = layers.path(NEW_DISK)
        self._tool(layers.instance).overlay(new, layers.path(layer), size)
        sync_file(new)
        self.runtime.report.step("overlay")

        backing = {**stack.backing, layer: stack.disk} if keeps else stack.backing
        hidden = (*stack.hidden, layer) if hides else stack.hidden
        after = stack._replace(disk=layer, backing=backing, hidden=hidden)
        layers.change(stack, after, NEW_DISK, self._replacing(layers, layer, keeps))

    def _replacing(self, layers: Layers, layer: str, keeps: bool) -> t.Callable[[], None]:
        """What has the new disk take the place of the present one. keeps -- whether that becomes a layer"""

        def act() -> None:
            if keeps:
                # This way there is a disk at every moment.
                os.link(layers.path(DISK), layers.path(layer))
                self.runtime.report.step("linked")
            os.rename(layers.path(NEW_DISK), layers.path(DISK))
            self.runtime.report.step("replaced")

        return act

    def restore(self, instance: Instance, snapshot: Snapshot) -> None:
        layers = Layers(self.look, instance)
        stack = layers.recover()
        if snapshot.uuid not in stack.backing or not os.path.exists(layers.path(snapshot.uuid)):
            raise HypervisorError(
                f"{instance.name} cannot be brought back to {snapshot.name}",
                f"{layers.path(snapshot.uuid)} is not there",
                "Restore that file from a backup, or remove the snapshot.",
            )
        size = int(self._tool(instance).info(layers.chain(snapshot.uuid, stack))["virtual-size"])
        self._put_above(layers, stack, snapshot.uuid, max(size, instance.disk), keeps=False)
        kept = layers.kept(snapshot.uuid, "nvram")
        if os.path.exists(kept):
            copy_sparse(kept, self.look.path(instance, NVRAM))

    def delete(self, instance: Instance, snapshot: Snapshot) -> None:
        layers = Layers(self.look, instance)
        stack = layers.recover()
        with explained(f"what was kept with {snapshot.name} could not be removed"):
            for kind in ("machine", "memory", "nvram"):
                remove_path(layers.kept(snapshot.uuid, kind))
        if snapshot.uuid in stack.backing and snapshot.uuid not in stack.hidden:
            stack = stack._replace(hidden=(*stack.hidden, snapshot.uuid))
            layers.write(stack)
            self.runtime.report.step("hidden")
        self._tidy(layers, stack)

    def listed(self, instances: t.Sequence[Instance]) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for instance in instances:
            layers = Layers(self.look, instance)
            stack = layers.read()
            shown = [layer for layer in stack.backing if layer not in stack.hidden]
            there = {layer: layers.path(layer) for layer in shown if os.path.exists(layers.path(layer))}
            found[instance.uuid] = {layer: used_bytes(path) for layer, path in there.items()}
        return found

    def consolidate(self, instance: Instance) -> bool:
        layers = Layers(self.look, instance)
        before = layers.recover()
        stack = self._tidy(layers, before)
        if len(stack.below(stack.disk)) > DEEPEST:
            stack = self._flatten(layers, stack, stack.disk)
        return stack != before

    def _flatten(self, layers: Layers, stack: Stack, layer: str) -> Stack:
        """Have a layer be backed by the image alone: it gets what those between have."""
        self.runtime.report.step("flatten")
        path = layers.path(layer)
        new = f"{path}.new"
        # All of this happens to a copy, which only counts when it is whole.
        copy = ["cp", "--reflink=auto", "--sparse=always", "--", path, new]
        self.runtime.check(copy, f"{path} could not be copied", timeout=3600)
        chain = layers.chain(layer, stack)
        if len(chain) > 2:
            self._tool(layers.instance).rebase([chain[0]._replace(path=new), *chain[1:]], chain[-1])
        sync_file(new)
        after = stack._replace(backing={**stack.backing, layer: IMAGE})
        layers.change(stack, after, os.path.relpath(new, layers.top), lambda: os.rename(new, path))
        self.runtime.report.step("flattened")
        return self._tidy(layers, after)

    def _tidy(self, layers: Layers, stack: Stack) -> Stack:
        """Have layers go that no snapshot needs any more, as far as nothing that runs reads them."""
        gone = stack
        while True:  # one that goes may have been the last to need another
            unused = next((layer for layer in gone.hidden if not gone.users(layer)), None)
            if unused is None:
                break
            gone = gone.without(unused)
        if gone is not stack:
            stack = gone
            layers.write(stack)
            layers.recover()
        in_use = set(stack.below(stack.disk)) if self.look.alive(layers.instance) else set()
        for layer in stack.hidden:
            users = stack.users(layer)
            if len(users) == 1 and layer not in in_use and not is_shared(layers.path(layer)):
                return self._tidy(layers, self._merge(layers, stack, layer, users[0]))
        return stack

    def _merge(self, layers: Layers, stack: Stack, layer: str, user: str) -> Stack:
        """Have a layer become one with the only other thing that is backed by it."""
        self.runtime.report.step("merge")
        path, target = layers.path(layer), layers.path(user)
        # What is above hides what is written below it, so that this can be ended and begun anew at any time.
        self._tool(layers.instance).commit(layers.chain(user, stack))
        sync_file(path)
        self.runtime.report.step("merged")
        after = stack.without(layer)
        layers.change(stack, after, os.path.relpath(path, layers.top), lambda: os.rename(path, target))
        return after

    def _tool(self, instance: Instance) -> QemuImg:
        return QemuImg(self.runtime, f"the disk of {instance.name}")

    def _keep_nvram(self, instance: Instance, snapshot: Snapshot) -> None:
        nvram = self.look.path(instance, NVRAM)
        if os.path.exists(nvram):
            fetch_nvram(nvram, self.look.path(instance, NVRAM_COPY))
            copy_sparse(nvram, Layers(self.look, instance).kept(snapshot.uuid, "nvram"))


def prepare_layers(look: FamilyLooks, instance: Instance) -> None:
    """Have the layers of a disk be as they should before a guest runs. What would only make it faster may fail."""
    layers = Layers(look, instance)
    stack = layers.recover()
    if not stack.hidden and len(stack.below(stack.disk)) <= DEEPEST:
        return
    try:
        FamilySnapshots(look).consolidate(instance)
    except MinicloudError as exc:
        look.runtime.report.warn(f"The layers of the disk of {instance.name} could not be made fewer: {exc}")
        layers.recover()
