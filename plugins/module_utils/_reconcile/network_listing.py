# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""All networks of one or more drivers, and how they are; read without a lock."""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.members import members_of, users_of
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import active_driver, load, scope_of
from ansible_collections.minicloud.local.plugins.module_utils._errors import MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, key_of
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.networks import network_view
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


def list_networks(
    runtime: Runtime,
    data: DataDirectory,
    drivers: t.Iterable[str | None],
    options: t.Mapping[str, t.Any] | None = None,
    names: t.Collection[str] | None = None,
) -> list[dict[str, t.Any]]:
    """The networks of some drivers (None: the active one) as users see them, by name.

    A record that cannot be used, and a driver that does not answer, is a warning: the others are listed all the same.
    """
    found = []
    done: set[str] = set()
    wanted = None if names is None else {key_of(name) for name in names}
    chosen = [name or active_driver(data) for name in drivers]
    for driver_name in chosen:
        if scope_of(driver_name) in done:
            continue
        done.add(scope_of(driver_name))
        try:
            driver = load(driver_name, runtime, data, options, shared=len(chosen) > 1)
            records, broken = driver.scope.networks.all()
            for error in broken:
                runtime.report.warn(str(error))
            guests: dict[str, list[Instance]] = {}
            for instance in driver.scope.instances()[0] if records else ():
                for key in {key_of(nic.network) for nic in instance.nics}:
                    guests.setdefault(key, []).append(instance)
            networks = driver.networks()
            for network in records:
                if wanted is not None and key_of(network.name) not in wanted:
                    continue
                instances = guests.get(key_of(network.name), [])
                drift: list[str] = []
                problems: list[str] = []
                # One that waits for its first instance is not there on purpose.
                if networks and network.phase == "ready" and (networks.is_up(network) or not network.on_demand):
                    drift = networks.drift(network, members_of(network, instances))
                    problems = networks.problems(network)
                found.append(network_view(network, users_of(network, instances), drift, problems))
        except MinicloudError as exc:
            runtime.report.warn(f"The networks of the driver {driver_name} are not listed: {exc}")
    return sorted(found, key=lambda each: (each["name"].lower(), each["scope"]))


def list_host_interfaces(runtime: Runtime, data: DataDirectory) -> list[dict[str, t.Any]]:
    """The interfaces of this host as users see them, by name."""
    from ansible_collections.minicloud.local.plugins.module_utils._hostnet.interfaces import read_interfaces

    networks = [network for scope in data.scopes() for network in scope.networks.all()[0]]
    own = {each.interface: each.name for each in networks if each.interface and each.interface != each.parent}
    return [each.view() for dummy, each in sorted(read_interfaces(runtime, own).items())]
