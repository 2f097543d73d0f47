# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""How this host reaches instances by ssh."""

from __future__ import annotations

import os

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import LOGIN_KEY, SshAccess
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Observed
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


def ssh_access(instance: Instance, driver: Driver, data: DataDirectory, observed: Observed | None = None) -> SshAccess:
    """How this host reaches the instance by ssh."""
    host, port = driver.ssh_address(instance, observed)
    return SshAccess(
        host=host,
        port=port,
        user=instance.user,
        key_file=os.path.join(data.keys, LOGIN_KEY),
        known_hosts=data.known_hosts,
        alias=instance.alias,
    )
