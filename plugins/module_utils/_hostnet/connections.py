# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""TCP connections of this host."""

from __future__ import annotations

import ipaddress
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime, find_program


def end_connections(runtime: Runtime, addresses: t.Iterable[str]) -> None:
    """End this host's TCP connections to addresses, as far as the kernel and this user's rights allow that.

    A guest that is brought back to an earlier moment may still have such a connection, as it was then. Both ends then
    wait for what the other has not sent, for a quarter of an hour: a connection that Ansible keeps open, for one.
    """
    found = [address for address in addresses if address and not ipaddress.ip_address(address).is_loopback]
    program = find_program("ss")
    if not found or not program or os.geteuid() != 0:
        return
    expression = " or ".join(f"dst {address}" for address in found).split(" ")
    runtime.run([program, "--kill", "--tcp", "--numeric", "--no-header", *expression], timeout=30)
