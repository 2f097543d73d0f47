# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The clock of a guest that was suspended."""

from __future__ import annotations

from ansible_collections.minicloud.local.plugins.module_utils._errors import CommandFailed
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import SshAccess, ssh_argv
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime

_SECONDS = 30.0
_OUTPUT = 1 << 16

# The clock of the machine, which is in UTC, has gone on; the kernel's has not.
_COMMAND = (
    'PATH=$PATH:/usr/sbin:/sbin; if [ "$(id -u)" = 0 ]; then hwclock -s -u 2>&1; else sudo -n hwclock -s -u 2>&1; fi'
)


def set_clock(runtime: Runtime, access: SshAccess) -> str:
    """Set the clock of a guest by that of its machine. Why that could not be done, as a clause; empty where it was."""
    argv = ssh_argv(access, _COMMAND, _SECONDS)
    argv[0] = runtime.program("ssh", "openssh-client", "to reach instances")
    try:
        done = runtime.run(argv, timeout=_SECONDS, limit=_OUTPUT)
    except CommandFailed as exc:  # it does not come to an end
        return str(exc)
    if done.rc == 0:
        return ""
    said = "".join(c for c in " ".join((done.out or done.err).split()) if c.isprintable())[:200]
    return f"hwclock in it failed ({said or f'status {done.rc}'})"
