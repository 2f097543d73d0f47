# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Disks of instances as files for others."""

from __future__ import annotations

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Export
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.act import qemu_img
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import DISK, FamilyLooks
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance
from ansible_collections.minicloud.local.plugins.module_utils._runtime import LONG_COMMAND_TIMEOUT


class FamilyExport(Export):
    """See Export."""

    capabilities = {"publish": ("vm",)}

    def __init__(self, look: FamilyLooks) -> None:
        self.look = look

    def export_disk(self, instance: Instance, target: str, format_: str) -> None:
        runtime = self.look.runtime
        argv = [qemu_img(runtime), "convert", "-f", "qcow2", "-O", format_, "-W", "-m", "8"]
        argv += ["-o", "compat=1.1"] if format_ == "qcow2" else []
        argv += [self.look.path(instance, DISK), target]
        runtime.check(argv, f"the disk of {instance.name} could not be copied", timeout=LONG_COMMAND_TIMEOUT)
