# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Instances as files for others: their disks, and archives of all that they have."""

from __future__ import annotations

import contextlib
import os
import typing as t
import uuid

from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Content, Export
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.act import layers_of
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.layers import (
    Layers,
    Stack,
    sync_file,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import (
    DISK,
    NVRAM,
    NVRAM_COPY,
    FamilyLooks,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.nvram import copy_sparse, fetch_nvram
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._images import archive
from ansible_collections.minicloud.local.plugins.module_utils._images.confined import (
    Layer,
    QemuImg,
    refuse_other_files,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.origin import Layered
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import file_stamp
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance
from ansible_collections.minicloud.local.plugins.module_utils._scope import SEED
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import UUID, Snapshot
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir


class FamilyExport(Export):
    """See Export."""

    capabilities = {"publish": ("vm",), "export": ("vm",), "export_snapshots": ("vm",)}

    def __init__(self, look: FamilyLooks) -> None:
        self.look = look

    @property
    def name(self) -> str:
        return self.look.name

    def export_disk(self, instance: Instance, target: str, format_: str) -> None:
        tool = self._tool(instance)
        layers = layers_of(self.look, instance)
        size = int(tool.info(layers)["virtual-size"])
        tool.convert(layers, target, format_, size)

    def _tool(self, instance: Instance) -> QemuImg:
        return QemuImg(self.look.runtime, f"the disk of {instance.name}")

    def stamp(self, instance: Instance) -> str:
        paths = [layer.path for layer in layers_of(self.look, instance)]
        return "\n".join(file_stamp(path) for path in (*paths, self.look.path(instance, NVRAM)))

    @contextlib.contextmanager
    def content(self, instance: Instance, snapshots: t.Sequence[Snapshot]) -> t.Iterator[Content]:
        layers = Layers(self.look, instance)
        layers.recover()
        chains = [layers.chain(each.uuid) for each in snapshots]
        disk = layers.chain(DISK)
        names: dict[str, str] = {disk[-1].path: ""}
        backing: dict[str, str] = {}
        pieces = []
        for chain in (*chains, disk[1:]):
            for below, layer in zip(chain[::-1], chain[-2::-1]):
                if layer.path not in names:
                    names[layer.path] = _name_of(layer)
                    backing[names[layer.path]] = names[below.path]
        for path, name in names.items():
            refuse_other_files(path, f"the disk of {instance.name}", backing=True)
            pieces.append(archive.layer_piece(path, f"layers/{name}.qcow2" if name else archive.BASE))
        refuse_other_files(disk[0].path, f"the disk of {instance.name}", backing=True)
        pieces.append(archive.layer_piece(disk[0].path, archive.UPPERMOST))
        nvram = self.look.path(instance, NVRAM)
        if os.path.exists(nvram):
            fetch_nvram(nvram, self.look.path(instance, NVRAM_COPY))
            pieces.append(archive.file_piece(nvram, archive.FIRMWARE))
        yield Content([*pieces, *self._seed(instance)], names[disk[1].path], backing)

    def _seed(self, instance: Instance) -> list[archive.Piece]:
        """The files of the seed, but for the private keys of the host that are in one of them."""
        from ansible_collections.minicloud.local.plugins.module_utils._guest.seed import read_seed

        files = read_seed(self.look.path(instance, SEED), instance.name)
        names = ("meta-data", "user-data", "network-config")
        return [
            archive.Piece(f"seed/{name}", len(files[name]), lambda name=name: [files[name]])  # type: ignore[misc]
            for name in names
            if name in files
        ]

    def take_in(self, instance: Instance, layered: Layered) -> int:
        layers = Layers(self.look, instance)
        stack = Stack(layered.below, dict(layered.backing), layered.hidden)
        tool = self._tool(instance)
        moved = {layers.path(layer): path for layer, path in layered.files.items()}
        make_dir(layers.directory)
        with explained(f"the layers of {instance.name} could not be put in place"):
            for target, path in (*moved.items(), (layers.path(DISK), layered.disk)):
                sync_file(path)
                os.rename(path, target)
        self.look.runtime.report.step("layers")
        layers.write(stack)
        for each in (*stack.backing, DISK):
            # Who looks at them by hand is told a file that there is.
            tool.name_backing(layers.chain(each, stack))
        chain = layers.chain(DISK, stack)
        size = int(tool.info(chain)["virtual-size"])
        nvram = self.look.path(instance, NVRAM)
        if layered.firmware and _same_size(layered.firmware, nvram):
            copy_sparse(layered.firmware, nvram)
        if size < instance.disk:
            tool.resize(chain, instance.disk)
        self.look.runtime.report.step("taken_in")
        return max(size, instance.disk)


def _name_of(layer: Layer) -> str:
    """The uuid of a layer's snapshot; a new one where it has none in this instance."""
    name = os.path.basename(layer.path).partition(".")[0]
    return name if UUID.holds(name) else str(uuid.uuid4())


def _same_size(path: str, other: str) -> bool:
    try:
        return os.path.getsize(path) == os.path.getsize(other)
    except OSError:
        return False
