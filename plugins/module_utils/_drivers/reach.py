# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""At which interface and address an instance is reached."""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._model import USER_NETWORK, Instance, Nic


def main_nic(instance: Instance) -> Nic | None:
    """The interface at which this host reaches an instance: the first that has an address on a network of the host."""
    return next((nic for nic in instance.nics if nic.address or nic.lease), None)


def forwarding_nic(instance: Instance) -> Nic | None:
    """The interface that ports of this host lead to, where networks forward them: the one above all, if there is one.

    Else it is the first on a network of others, who give it an address that this host has to find.
    """
    nics = [nic for nic in instance.nics if nic.network != USER_NETWORK]
    found = main_nic(instance) or next((nic for nic in nics if nic.mode == "auto"), None)
    return found or next(iter(nics), None)


def reached_at(instance: Instance, by_mac: t.Mapping[str, t.Sequence[str]]) -> str:
    """The address at which this host reaches an instance, empty while none is known. by_mac -- those that it has now"""
    for nic in instance.nics:
        kept = nic.address or nic.lease
        # A reserved address is an IPv4 one; IPv6 addresses that the guest has besides do not matter.
        now = sorted(by_mac.get(nic.mac, ()), key=lambda address: ":" in address)
        has_none = not now or ":" in now[0]
        # An address that was changed while it ran reaches the guest when it asks for it: at its start, or some time
        # later.
        if kept and (kept in now or has_none or not instance.ready):
            return kept
        if now:
            return now[0]
    return ""
