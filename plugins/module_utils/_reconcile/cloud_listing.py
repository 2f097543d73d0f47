# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""All clouds of one or more drivers, read without a lock."""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._model import key_of
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.listing import list_instances
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.network_listing import list_networks
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


def list_clouds(
    runtime: Runtime,
    data: DataDirectory,
    drivers: t.Sequence[str | None],
    options: t.Mapping[str, t.Any] | None = None,
    names: t.Sequence[str] | None = None,
) -> list[dict[str, t.Any]]:
    """The clouds of some drivers (None: the active one) as users see them, by name. names -- only of these"""
    found: dict[tuple[str, str], dict[str, t.Any]] = {}

    def add(view: dict[str, t.Any], kind: str) -> None:
        if view["cloud"]:
            new = {"name": view["cloud"], "scope": view["scope"], "instances": [], "networks": []}
            found.setdefault((key_of(view["cloud"]), view["scope"]), new)[kind].append(view)

    for entry in list_instances(runtime, data, drivers, options):
        add(entry.view(data), "instances")
    for network in list_networks(runtime, data, drivers, options):
        add(network, "networks")
    wanted = None if names is None else {key_of(name) for name in names}
    return [cloud for key, cloud in sorted(found.items()) if wanted is None or key[0] in wanted]
