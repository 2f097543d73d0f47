# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Whether this host, whose folders they are, can serve folders to guests, and the start of what does that."""

from __future__ import annotations

import platform
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._host import folder_server
from ansible_collections.minicloud.local.plugins.module_utils._host.host import this_host
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime


def why_not_served() -> str:
    """Why this host serves no folders, as a clause; empty where it does."""
    system, machine = this_host().system, platform.machine()
    if system == "Linux" and folder_server.can_enclose(machine):
        return ""
    return f"a guest's access cannot be bounded to the folder on {system} ({machine})"


def start_server(
    runtime: Runtime, argv: t.Sequence[str], what: str, title: str, cwd: str, pass_fds: t.Sequence[int]
) -> None:
    """Run a command that leaves a server of this host behind; see start_background()."""
    this_host().start_background(runtime, argv, what, title, cwd=cwd, pass_fds=pass_fds)
