# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The known_hosts file of the data directory: which host keys its instances answer with."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._guest.keys import locked
from ansible_collections.minicloud.local.plugins.module_utils._scope import explained, make_dir, write_file


def host_pattern(host: str, port: int = 22) -> str:
    """A server's address in the form that known_hosts has it."""
    return host if port == 22 else f"[{host}]:{port}"


def pin(path: str, alias: str, addresses: t.Sequence[str], public_keys: t.Sequence[str]) -> bool:
    """Have ALIAS and ADDRESSES (host_pattern) answer with PUBLIC_KEYS and nothing else; whether that changed the file.

    Lines of other aliases lose these addresses: a port or an address given back is used again. Lines that do not begin
    with an alias but with an address, with a marker or with a hash are somebody else's and stay.
    """
    hosts = ",".join(dict.fromkeys([alias, *addresses]))
    lines = [f"{hosts} {' '.join(key.split()[:2])}" for key in public_keys]
    return _replace(path, alias, set(addresses), lines)


def unpin(path: str, alias: str) -> bool:
    """Forget the keys of ALIAS; whether there were any."""
    return _replace(path, alias, set(), [])


def _replace(path: str, alias: str, addresses: set[str], lines: list[str]) -> bool:
    make_dir(os.path.dirname(path))
    with locked(f"{path}.lock"):
        before = _read(path)
        after: list[str] = []
        pending = lines
        for line in before:
            hosts, space, rest = line.partition(" ")
            patterns = hosts.split(",")
            if patterns[0] == alias:
                after += pending
                pending = []
            elif addresses.isdisjoint(patterns[1:]):
                after.append(line)
            else:
                kept = [patterns[0], *(pattern for pattern in patterns[1:] if pattern not in addresses)]
                after.append(f"{','.join(kept)}{space}{rest}")
        after += pending
        if after == before:
            return False
        # Public keys are no secret, but other users of this host need not know which instances there are.
        write_file(path, "".join(f"{line}\n" for line in after).encode(errors="surrogateescape"), 0o600)
        return True


def _read(path: str) -> list[str]:
    with explained(f"{path} could not be read"):
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as stream:
                return stream.read().splitlines()
        except FileNotFoundError:
            return []
