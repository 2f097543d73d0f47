# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The face of the drivers for servers of LXD's kind."""

from __future__ import annotations

import functools
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Acts, Driver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.look import LxdLooks

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import (
        Clones,
        Execution,
        Export,
        Mounts,
        Networks,
        Snapshots,
        Suspension,
    )

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.act import LxdActs
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.client import LxdClient


class LxdFamilyDriver(LxdLooks, Driver):
    """See Driver."""

    @functools.cached_property
    def client(self) -> LxdClient:
        """What has the server do things."""
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.client import LxdClient

        return LxdClient(self.api)

    @functools.cached_property
    def acts(self) -> Acts:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.act import LxdActs

        return LxdActs(self, self.client)

    def suspension(self) -> Suspension:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.act import LxdActs
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.suspension import (
            LxdSuspension,
        )

        return LxdSuspension(self, LxdActs(self, self.client))

    def networks(self) -> Networks:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.networks import LxdNetworks

        return LxdNetworks(self, self.client)

    def mounts(self) -> Mounts:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.mounts import LxdMounts

        return LxdMounts(self, lambda: t.cast("LxdActs", self.acts))

    def execution(self) -> Execution:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.execution import LxdExecution

        return LxdExecution(self)

    def snapshots(self) -> Snapshots:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.snapshots import LxdSnapshots

        return LxdSnapshots(self, self.client)

    def export(self) -> Export:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.export import LxdExport

        return LxdExport(self, self.client)

    def clones(self) -> Clones:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.clones import LxdClones

        return LxdClones(self, t.cast("LxdActs", self.acts))
