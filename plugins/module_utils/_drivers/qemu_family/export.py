# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Disks of instances as files for others."""

from __future__ import annotations

from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Export
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.act import layers_of
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import FamilyLooks
from ansible_collections.minicloud.local.plugins.module_utils._images.confined import QemuImg
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance


class FamilyExport(Export):
    """See Export."""

    capabilities = {"publish": ("vm",)}

    def __init__(self, look: FamilyLooks) -> None:
        self.look = look

    def export_disk(self, instance: Instance, target: str, format_: str) -> None:
        tool = QemuImg(self.look.runtime, f"the disk of {instance.name}")
        layers = layers_of(self.look, instance)
        size = int(tool.info(layers)["virtual-size"])
        tool.convert(layers, target, format_, size)
