# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The driver for containers and virtual machines of LXD."""

from __future__ import annotations

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.base import LxdFamilyDriver


class LxdDriver(LxdFamilyDriver):
    """See Driver."""
