# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Networks, as data. No input or output."""

from __future__ import annotations

import typing as t
from dataclasses import field

from ansible_collections.minicloud.local.plugins.module_utils._dataclass import dataclass
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    NAMED,
    PHASES,
    SUBNET,
    Field,
    RecordKind,
    fields_of,
    is_address,
    matching,
    one_of,
    plain,
)


@dataclass
class Network:
    """What scope storage knows of a network.

    mode -- nat, isolated or bridged; subnet, subnet6 -- in CIDR form, empty where there is none
    dhcp_range -- first and last address of those that are given out, with a hyphen between
    domain -- that names in it end with; parent -- the host's interface or bridge of a bridged one
    bridge_type -- how a bridged one uses its parent: bridge or macvtap
    confirm_bridge -- whether the parent's own addresses may move to a bridge
    mtu -- bytes, 0 for the usual; interface -- the bridge of this host that it is
    host_access -- whether instances reach the services of the host; None: what is usual for the mode
    cloud -- as of an instance
    on_demand -- made because an instance needed it: nothing of it stays on the host when the last one is removed
    phase -- creating, ready or removing
    handles -- as of an instance
    unknown -- fields of its record that a newer version has written
    """

    name: str
    scope: str
    driver: str
    created: str
    mode: str = "nat"
    subnet: str = ""
    subnet6: str = ""
    dhcp_range: str = ""
    domain: str = "minicloud"
    parent: str = ""
    bridge_type: str = "bridge"
    confirm_bridge: bool = False
    mtu: int = 0
    host_access: bool | None = None
    interface: str = ""
    autostart: bool = False
    on_demand: bool = False
    phase: str = "creating"
    cloud: str = ""
    handles: dict[str, dict[str, str]] = field(default_factory=dict)
    unknown: dict[str, t.Any] = field(default_factory=dict)

    @property
    def reaches_host(self) -> bool:
        """Whether instances reach the services of the host."""
        return self.mode != "isolated" if self.host_access is None else self.host_access

    def to_dict(self) -> dict[str, t.Any]:
        """As plain data, for the record."""
        return plain(self)

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Network:
        """From a record's data. ValueError says what is wrong with it."""
        return cls(**NETWORK.split(data))


def _is_range(value: t.Any) -> bool:
    """Two addresses with a hyphen between, or none."""
    return value == "" or (isinstance(value, str) and [*map(is_address, value.split("-"))] == [True, True])


NETWORK = RecordKind(
    "a network",
    1,
    fields_of(
        Network,
        name=NAMED,
        mode=one_of("nat", "isolated", "bridged"),
        subnet=SUBNET,
        subnet6=SUBNET,
        dhcp_range=Field(_is_range, "a range of addresses"),
        domain=matching("[A-Za-z0-9_.-]*", "a domain"),
        bridge_type=one_of("bridge", "macvtap"),
        interface=matching("[^\\s/]{0,15}", "the name of an interface"),
        phase=one_of(*PHASES),
    ),
)
