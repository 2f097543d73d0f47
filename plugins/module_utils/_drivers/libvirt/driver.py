# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The driver for virtual machines of libvirt."""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Acts, Driver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.look import LibvirtLooks

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import (
        Clones,
        Export,
        Mounts,
        Snapshots,
        Suspension,
    )


class LibvirtDriver(LibvirtLooks, Driver):
    """See Driver."""

    @property
    def acts(self) -> Acts:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.act import LibvirtActs

        return LibvirtActs(self)

    def suspension(self) -> Suspension:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.act import LibvirtActs
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.suspension import (
            LibvirtSuspension,
        )

        return LibvirtSuspension(self, LibvirtActs(self))

    def mounts(self) -> Mounts:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.mounts import LibvirtMounts

        return LibvirtMounts(self, self.runtime)

    def export(self) -> Export:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.export import FamilyExport

        return FamilyExport(self)

    def snapshots(self) -> Snapshots:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.act import LibvirtActs
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.snapshots import LibvirtSnapshots

        return LibvirtSnapshots(self, LibvirtActs(self))

    def clones(self) -> Clones:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.act import LibvirtActs
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.clones import FamilyClones

        return FamilyClones(self, LibvirtActs(self))
