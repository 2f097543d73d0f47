# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The variables of UEFI firmware: a file of each instance that has such firmware."""

from __future__ import annotations

import os
import stat

from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._writing import replacing


def fetch_nvram(nvram: str, copy: str) -> None:
    """Take over what the machine has written into a copy of its variables since the last start."""
    try:
        # Somebody with write access there must not be able to redirect this with a link.
        descriptor = os.open(os.readlink(copy), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        there, here = os.fstat(descriptor), os.stat(nvram)
        newer = there.st_mtime_ns > here.st_mtime_ns
        if newer and stat.S_ISREG(there.st_mode) and there.st_nlink == 1 and there.st_size == here.st_size:
            copy_sparse(f"/dev/fd/{descriptor}", nvram)
    finally:
        os.close(descriptor)


def copy_sparse(source: str, target: str) -> None:
    """Put a copy of a file in place whole; what is zero in it takes no space."""
    with explained(f"{target} could not be made"), open(source, "rb") as old, replacing(target) as new:
        for block in iter(lambda: old.read(1 << 16), b""):
            if block.count(0) == len(block):
                new.seek(len(block), os.SEEK_CUR)
            else:
                new.write(block)
        new.truncate()
