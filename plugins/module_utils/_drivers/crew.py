# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Who acts on an instance."""

from __future__ import annotations

import contextlib
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers import registry
from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance


class Crew:
    """The driver that a task names, and with it those that act on what the task finds: each is loaded once.

    In a scope that drivers share, whoever runs an instance now is its owner, and only the owner can act on it. And
    what was made at one place (a server, a project) stays there, wherever the task's options lead.
    """

    def __init__(self, wanted: Driver) -> None:
        self.wanted = wanted
        self._loaded = [wanted]

    def of(self, instance: Instance) -> Driver:
        """The driver that acts on an instance: its owner, or where nobody runs it the one that the task names."""
        return self._driver(instance.owner or self.wanted.name, instance)

    def starter(self, instance: Instance) -> Driver:
        """The driver that starts an instance which nobody runs: the one that the task names."""
        return self._driver(self.wanted.name, instance)

    def all_of(self, instance: Instance) -> list[Driver]:
        """Every driver that may have made something of an instance."""
        return [self._driver(name, instance) for name in dict.fromkeys([*instance.handles, self.wanted.name])]

    def group(
        self,
        instances: t.Iterable[Instance],
        guarded: t.Callable[[Instance], t.ContextManager[None]] = lambda dummy: contextlib.nullcontext(),
    ) -> list[tuple[Driver, list[Instance]]]:
        """Instances by the driver that acts on them. guarded -- what to do of one whose driver cannot be had"""
        groups: dict[int, tuple[Driver, list[Instance]]] = {}
        for instance in instances:
            with guarded(instance):
                driver = self.of(instance)
                groups.setdefault(id(driver), (driver, []))[1].append(instance)
        return list(groups.values())

    def _driver(self, name: str, instance: Instance) -> Driver:
        handle = instance.handles.get(name)
        for driver in self._loaded:
            if driver.name == name and (handle is None or driver.leads_here(handle)):
                return driver
        options = {**(self.wanted.options if name == self.wanted.name else {}), **(handle or {})}
        driver = registry.load(name, self.wanted.runtime, self.wanted.scope.data, options)
        self._loaded.append(driver)
        return driver
