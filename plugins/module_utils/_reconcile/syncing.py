# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Having the guest of a running instance write out what it keeps in memory, before its disk is looked at."""

from __future__ import annotations

import contextlib

from ansible_collections.minicloud.local.plugins.module_utils._drivers.crew import Crew
from ansible_collections.minicloud.local.plugins.module_utils._errors import CommandFailed
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import ssh_argv
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.access import ssh_access
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

# Seconds that this may take.
_SYNC = 30.0


def sync_guest(instance: Instance, crew: Crew, data: DataDirectory, runtime: Runtime) -> bool:
    """Have a guest write out what it keeps in memory, as far as that can be; whether it said that it did."""
    if not instance.ready or instance.instance_type == "container":
        return False
    access = ssh_access(instance, crew.of(instance), data)
    with contextlib.suppress(CommandFailed, OSError):
        return runtime.run(ssh_argv(access, "sync", 5), timeout=_SYNC, limit=1 << 16).rc == 0
    return False
