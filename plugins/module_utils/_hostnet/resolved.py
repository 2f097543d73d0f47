# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The host's own resolver, where that is systemd-resolved, which has settings for each interface."""

from __future__ import annotations

import os

from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime, find_program

# There while it runs.
_SIGN = "/run/systemd/resolve"


def announce(runtime: Runtime, interface: str, server: str, domain: str) -> bool:
    """Have the host ask a network's server for the names of its domain, and for nothing else; whether that went well.

    Where systemd-resolved does not run nothing is done, and that is well.
    """
    program = find_program("resolvectl") if os.path.isdir(_SIGN) else None
    if program is None:
        return True
    settings = {"dns": [server], "domain": [f"~{domain}", domain], "default-route": ["no"]}
    return all(runtime.run([program, what, interface, *values]).rc == 0 for what, values in settings.items())
