# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The driver for virtual machines of VirtualBox, by its program VBoxManage."""

from __future__ import annotations

import functools
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Acts, Driver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.look import VirtualBoxLooks

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import (
        Snapshots,
        Suspension,
    )
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.act import VirtualBoxActs


class VirtualBoxDriver(VirtualBoxLooks, Driver):
    """See Driver."""

    @functools.cached_property
    def _acts(self) -> VirtualBoxActs:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.act import VirtualBoxActs

        return VirtualBoxActs(self)

    @property
    def acts(self) -> Acts:
        return self._acts

    def suspension(self) -> Suspension:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.suspension import (
            VirtualBoxSuspension,
        )

        return VirtualBoxSuspension(self, self._acts)

    def snapshots(self) -> Snapshots:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.snapshots import (
            VirtualBoxSnapshots,
        )

        return VirtualBoxSnapshots(self, self._acts)
