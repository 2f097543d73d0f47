# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What a network is told of the instances that are on it."""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Member
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    USER_NETWORK,
    Instance,
    Network,
    Nic,
    key_of,
)


def members_of(network: Network, instances: t.Iterable[Instance]) -> list[Member]:
    """The interfaces on a network, of those instances that are not being removed."""
    found = []
    for instance in instances:
        if instance.phase == "removing":
            continue
        main = forwarding_nic(instance)
        for nic in instance.nics:
            if key_of(nic.network) == key_of(network.name):
                addresses = (nic.address or nic.lease,) if nic.address or nic.lease else ()
                forwards = tuple(instance.ports) if nic is main and instance.owner and not instance.suspended else ()
                found.append(Member(instance.name, nic.mac, addresses, forwards))
    return found


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
        # What is kept is an IPv4 address, and it does not matter what else the guest has chosen.
        now = sorted(by_mac.get(nic.mac, ()), key=lambda address: ":" in address)
        has_none = not now or ":" in now[0]
        # An address that was changed while it ran reaches the guest when it asks for it: at its start, or some time
        # later.
        if kept and (kept in now or has_none or not instance.ready):
            return kept
        if now:
            return now[0]
    return ""


def users_of(network: Network, instances: t.Iterable[Instance]) -> list[str]:
    """The names of the instances that have an interface on a network."""
    name = key_of(network.name)
    return [each.name for each in instances if any(key_of(nic.network) == name for nic in each.nics)]
