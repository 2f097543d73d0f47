# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The known_hosts file of the data directory: which host keys its instances answer with."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._files import explained, read_file
from ansible_collections.minicloud.local.plugins.module_utils._guest.keys import locked
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_leftovers, write_file

# Bytes; of thousands of instances it has one or two million.
_LARGEST = 64 << 20


def host_pattern(host: str, port: int = 22) -> str:
    """A server's address in the form that known_hosts has it."""
    return host if port == 22 else f"[{host}]:{port}"


def pin(
    path: str,
    alias: str,
    addresses: t.Sequence[str],
    public_keys: t.Sequence[str],
    is_stale: t.Callable[[str], bool] | None = None,
) -> bool:
    """Have ALIAS and ADDRESSES (host_pattern) answer with PUBLIC_KEYS and nothing else; whether that changed the file.

    Lines of other aliases lose these addresses: a port or an address given back is used again. Lines that do not begin
    with an alias but with an address, with a marker or with a hash are somebody else's and stay.

    is_stale -- whether an alias is one that an earlier run could not unpin, as on a full disk: then it goes now
    """
    hosts = ",".join(dict.fromkeys([alias, *addresses]))
    lines = [f"{hosts} {' '.join(key.split()[:2])}" for key in public_keys]
    return _replace(path, alias, set(addresses), lines, is_stale)


def unpin(path: str, alias: str, is_stale: t.Callable[[str], bool] | None = None) -> bool:
    """Forget the keys of ALIAS; whether that changed the file. is_stale -- see pin()"""
    return _replace(path, alias, set(), [], is_stale)


def _replace(
    path: str, alias: str, addresses: set[str], lines: list[str], is_stale: t.Callable[[str], bool] | None
) -> bool:
    make_dir(os.path.dirname(path))
    with locked(f"{path}.lock"):
        remove_leftovers(os.path.dirname(path))
        before = _read(path)
        after: list[str] = []
        pending = lines
        for line in before:
            hosts, space, rest = line.partition(" ")
            patterns = hosts.split(",")
            if patterns[0] == alias:
                after += pending
                pending = []
            elif is_stale and is_stale(patterns[0]):
                continue
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
            return read_file(path, _LARGEST).decode(errors="surrogateescape").splitlines()
        except FileNotFoundError:
            return []
