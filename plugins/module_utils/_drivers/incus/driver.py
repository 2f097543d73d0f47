# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The driver for containers and virtual machines of Incus."""

from __future__ import annotations

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.base import LxdFamilyDriver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.product import Product

INCUS = Product(
    name="Incus",
    client="incus",
    variable="INCUS_DIR",
    directories=("/var/lib/incus",),
    programs=("incusd", "/usr/libexec/incus/incusd", "/usr/lib/incus/incusd", "/opt/incus/bin/incusd"),
    group="incus-admin",
    image_headers="X-Incus-",
    oldest="6.0",
    trust="incus config trust add-certificate",
    start="systemctl start incus",
    install="apt-get install incus, or on Debian 12 apt-get install -t bookworm-backports incus-base",
)


class IncusDriver(LxdFamilyDriver):
    """See Driver."""

    product = INCUS
