# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Whether the hub of an ordinary user's network runs: it holds a lock in the network's directory. See hub.py."""

from __future__ import annotations

import fcntl
import os

from ansible_collections.minicloud.local.plugins.module_utils._files import (
    is_locked,
)

HUB_LOCK = "hub.lock"


def hub_runs(directory: str) -> bool:
    """Whether the hub of the network with that directory runs; cheap."""
    return is_locked(os.path.join(directory, HUB_LOCK), fcntl.LOCK_SH)


def hub_was_lost(directory: str) -> bool:
    """Whether there was a hub that runs no more."""
    return os.path.exists(os.path.join(directory, HUB_LOCK)) and not hub_runs(directory)
