# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Clones as disks above the same layers: see layers.py.

What is on the disk of an instance becomes a layer, as for a snapshot, and the clone gets that layer, with all below it,
under names of its own in its own directory. So whatever becomes of either of them, the other one has all that it needs.
"""

from __future__ import annotations

import errno
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Clones
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.act import FamilyActs
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.layers import (
    Layers,
    Stack,
    is_shared,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import (
    NVRAM,
    NVRAM_COPY,
    FamilyLooks,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.nvram import copy_sparse, fetch_nvram
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.snapshots import FamilySnapshots
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._images.confined import QemuImg, virtual_size
from ansible_collections.minicloud.local.plugins.module_utils._model import FULL, LINKED, Instance
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot
from ansible_collections.minicloud.local.plugins.module_utils._writing import remove_path

# What a file system says that has no second names for files, or has no more of them for this one.
_NO_LINK = (errno.EMLINK, errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.ENOSYS)


class FamilyClones(Clones):
    """See Clones."""

    capabilities = {"clones": ("vm",)}

    def __init__(self, look: FamilyLooks, acts: FamilyActs) -> None:
        self.look = look
        self.runtime = look.runtime
        self.acts = acts
        self.snapshots = FamilySnapshots(look)

    def make(
        self, instance: Instance, parent: Instance, snapshot: Snapshot | None, seed: t.Mapping[str, bytes], full: bool
    ) -> str:
        layer = snapshot.uuid if snapshot else self.snapshots.freeze(parent)
        theirs, ours = Layers(self.look, parent), Layers(self.look, instance)
        stack = theirs.recover()
        if layer not in stack.backing:
            raise HypervisorError(
                f"{instance.name} cannot be made from {parent.name}",
                f"{theirs.path(layer)} is not there",
                "Restore that file from a backup, or choose another source.",
            )

        def make_disk(disk: str) -> None:
            self._share(theirs, ours, stack, layer)
            what = f"the disk of {instance.name}"
            size = max(virtual_size(ours.path(layer), what), instance.disk)
            QemuImg(self.runtime, what).overlay(disk, ours.path(layer), size)
            self.runtime.report.step("clone_disk")
            self._copy_nvram(instance, parent, snapshot)

        self.acts.assemble(instance, seed, make_disk)
        if full:
            self.snapshots.detach(instance)
            if not snapshot:
                self.snapshots.consolidate(parent)
        copied = not any(is_shared(ours.path(each)) for each in ours.read().backing)
        return FULL if copied else LINKED

    def _share(self, theirs: Layers, ours: Layers, stack: Stack, layer: str) -> None:
        """Have an instance have a layer of another one, with all that is below it."""
        with explained(f"what was begun of {ours.instance.name} could not be removed"):
            remove_path(ours.directory)
        below = stack.below(layer)
        ours.write(Stack(layer, {each: stack.backing[each] for each in below}, tuple(below)))
        self.runtime.report.step("clone_layers")
        for each in below:
            source, target = theirs.path(each), ours.path(each)
            with explained(f"{target} could not be made"):
                try:
                    os.link(source, target, follow_symlinks=False)
                except OSError as exc:
                    if exc.errno not in _NO_LINK:
                        raise
                    copy = ["cp", "--reflink=auto", "--sparse=always", "--no-dereference", "--", source, target]
                    self.runtime.check(copy, f"{source} could not be copied", timeout=3600)
            self.runtime.report.step("clone_layer")

    def _copy_nvram(self, instance: Instance, parent: Instance, snapshot: Snapshot | None) -> None:
        """Have the firmware of a clone know what that of its parent does, such as from where to boot."""
        source = self.look.path(parent, NVRAM)
        if snapshot:
            source = Layers(self.look, parent).kept(snapshot.uuid, "nvram")
        elif os.path.exists(source):
            fetch_nvram(source, self.look.path(parent, NVRAM_COPY))
        if os.path.exists(source):
            copy_sparse(source, self.look.path(instance, NVRAM))

    def linked(self, parent: Instance, others: t.Sequence[Instance]) -> list[Instance]:
        own = self._files(parent)
        return [each for each in others if own & self._files(each)]

    def _files(self, instance: Instance) -> set[tuple[int, int]]:
        """The files of the layers of an instance, whatever they are called."""
        directory = Layers(self.look, instance).directory
        with explained(f"{directory} could not be looked at"):
            names = os.listdir(directory) if os.path.isdir(directory) else []
            found = [os.lstat(os.path.join(directory, name)) for name in names if name.endswith(".qcow2")]
        return {(each.st_dev, each.st_ino) for each in found}
