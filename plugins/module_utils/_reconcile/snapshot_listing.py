# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The snapshots of some instances; read without a lock."""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.crew import Crew
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import active_driver, load, scope_of
from ansible_collections.minicloud.local.plugins.module_utils._errors import MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._model import key_of
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.snapshots import snapshot_view
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


def list_snapshots(
    runtime: Runtime,
    data: DataDirectory,
    drivers: t.Iterable[str | None],
    options: t.Mapping[str, t.Any] | None = None,
    instances: t.Collection[str] | None = None,
) -> list[dict[str, t.Any]]:
    """The snapshots of the instances of some drivers (None: the active one) as users see them: by instance, by age.

    A record that cannot be used, and a driver that does not answer, is a warning: the others are listed all the same.
    """
    found = []
    done: set[str] = set()
    wanted = None if instances is None else {key_of(name) for name in instances}
    chosen = [name or active_driver(data, runtime.report) for name in drivers]
    for driver_name in chosen:
        if scope_of(driver_name) in done:
            continue
        done.add(scope_of(driver_name))
        try:
            crew = Crew(load(driver_name, runtime, data, options, shared=len(chosen) > 1))
            scope = crew.wanted.scope
            records, broken = scope.instances()
            for error in broken:
                runtime.report.warn(str(error))
            snapshots = {}
            having = []
            for instance in records:
                if instance.phase != "ready" or (wanted is not None and key_of(instance.name) not in wanted):
                    continue
                snapshots[instance.uuid], broken = scope.snapshots(instance.name).all()
                for error in broken:
                    runtime.report.warn(str(error))
                if snapshots[instance.uuid]:
                    having.append(instance)
            for driver, owned in crew.group(having):
                part = driver.snapshots()
                sizes = part.listed(owned) if part else {}
                for instance in owned:
                    for each in snapshots[instance.uuid]:
                        if each.phase != "ready":
                            continue
                        own = sizes.get(instance.uuid, {})
                        if each.uuid not in own:
                            runtime.report.warn(
                                f"The snapshot {each.name} of {instance.name} was removed by other means, and its data"
                                " with it."
                            )
                        found.append((instance, snapshot_view(each, snapshots[instance.uuid], instance, own)))
        except MinicloudError as exc:
            runtime.report.warn(f"The snapshots of the driver {driver_name} are not listed: {exc}")
    found.sort(key=lambda each: (key_of(each[0].name), each[0].scope))
    return [view for dummy, view in found]
