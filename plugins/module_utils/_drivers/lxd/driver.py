# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The driver for containers and virtual machines of LXD."""

from __future__ import annotations

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.base import LxdFamilyDriver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.product import Product

LXD = Product(
    name="LXD",
    client="lxc",
    variable="LXD_DIR",
    # As a snap, and as a package of the distribution.
    directories=("/var/snap/lxd/common/lxd", "/var/lib/lxd"),
    programs=("lxd", "lxd.lxc", "/snap/bin/lxd"),
    group="lxd",
    image_headers="X-LXD-",
    oldest="5.0",
    trust="lxc config trust add",
    start="systemctl start lxd, or snap start lxd where it is a snap",
    install="apt-get install lxd, or snap install lxd",
)


class LxdDriver(LxdFamilyDriver):
    """See Driver."""

    product = LXD
