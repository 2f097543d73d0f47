# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""All instances of one or more drivers, read without a lock."""

from __future__ import annotations

import contextlib
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.crew import Crew
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import active_driver, load, scope_of
from ansible_collections.minicloud.local.plugins.module_utils._errors import MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Observed, as_recorded
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.view import instance_view
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


class Listed(t.NamedTuple):
    """An instance, what its driver sees of it, and the driver."""

    instance: Instance
    observed: Observed
    driver: Driver

    def view(self, data: DataDirectory) -> dict[str, t.Any]:
        """The instance as users see it."""
        return instance_view(self.instance, self.observed, self.driver, data)


def list_instances(
    runtime: Runtime,
    data: DataDirectory,
    drivers: t.Iterable[str | None],
    options: t.Mapping[str, t.Any] | None = None,
) -> list[Listed]:
    """The instances of some drivers (None: the active one), by name.

    One bulk call a driver. A record that cannot be used, and a driver that does not answer, is a warning: the others
    are listed all the same. Of a scope that drivers share, each instance is listed once.
    """
    found: list[Listed] = []
    done: set[str] = set()
    names = []
    with _reported(runtime, "that is active"):
        names = [name or active_driver(data, runtime.report) for name in drivers]
    for name in names:
        if scope_of(name) in done:
            continue
        with _reported(runtime, name):
            crew = Crew(load(name, runtime, data, options, shared=len(names) > 1))
            instances, broken = crew.wanted.scope.instances()
            done.add(scope_of(name))
            for error in broken:
                runtime.report.warn(str(error))
            whole = [instance for instance in instances if instance.phase == "ready"]
            for driver, owned in crew.group(whole, lambda instance: _reported(runtime, instance.owner)):
                with _reported(runtime, driver.name):
                    for instance, seen in zip(owned, driver.observe(owned)):
                        found.append(Listed(instance, as_recorded(instance, seen), driver))
                        for text in seen.drift:
                            runtime.report.warn(f"{instance.name}: {text}.")
    return sorted(found, key=lambda entry: (entry.instance.name.lower(), entry.instance.scope))


@contextlib.contextmanager
def _reported(runtime: Runtime, driver: str) -> t.Iterator[None]:
    try:
        yield
    except MinicloudError as exc:
        runtime.report.warn(f"The instances of the driver {driver} are not listed: {exc}")
