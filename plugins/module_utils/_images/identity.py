# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What makes an instance that instance: the files of it that an image which is made from it is not to have."""

from __future__ import annotations

import re

# Emptied, not removed: an empty one makes systemd take a new identity, also where /etc cannot be written to.
EMPTIED = ("/etc/machine-id",)

# Removed where their name in that directory matches: directory, pattern, whether with all that is in it.
REMOVED = (
    ("/etc/ssh", re.compile(r"ssh_host_.*", re.DOTALL), False),
    # As `cloud-init clean` does: what an image brings as its seed is not state.
    ("/var/lib/cloud", re.compile(r"(?!seed\Z).*", re.DOTALL), True),
    ("/var/log", re.compile(r"cloud-init(-output)?\.log.*", re.DOTALL), False),
    # Its directories are named by the machine-id.
    ("/var/log/journal", re.compile(r".*", re.DOTALL), True),
    ("/var/lib/dbus", re.compile(r"machine-id"), False),
    ("/var/lib/systemd", re.compile(r"random-seed|credential\.secret"), False),
)


def is_removed(path: str, is_directory: bool) -> bool:
    """Whether a file, of which the absolute path is known, is one of those that are removed."""
    for directory, pattern, recursive in REMOVED:
        if path.startswith(f"{directory}/"):
            name, dummy, deeper = path[len(directory) + 1 :].partition("/")
            if pattern.fullmatch(name) and (recursive or not (deeper or is_directory)):
                return True
    return False
