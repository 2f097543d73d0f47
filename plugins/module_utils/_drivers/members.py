# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What a network is told of the instances that are on it."""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Member
from ansible_collections.minicloud.local.plugins.module_utils._drivers.reach import forwarding_nic
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, key_of
from ansible_collections.minicloud.local.plugins.module_utils._network import Network


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


def users_of(network: Network, instances: t.Iterable[Instance]) -> list[str]:
    """The names of the instances that have an interface on a network."""
    name = key_of(network.name)
    return [each.name for each in instances if any(key_of(nic.network) == name for nic in each.nics)]
