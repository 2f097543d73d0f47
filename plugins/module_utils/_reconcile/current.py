# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What there is of an instance: its record, and what its drivers see. Nothing here changes anything."""

from __future__ import annotations

import typing as t
from dataclasses import replace

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.crew import Crew
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import DRIVERS, scope_of
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    MissingRequirement,
    RecordError,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ABSENT,
    RUNNING,
    STOPPED,
    SUSPENDED,
    Instance,
    Nic,
    Observed,
    as_recorded,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.plan import (
    LEFTOVERS,
    REMOVING,
    Surroundings,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import Wish
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


def look(wish: Wish, crew: Crew) -> tuple[Instance | None, Observed | None]:
    """The record of the wished instance, and what is known of it now: a state, or LEFTOVERS or REMOVING of the plan."""
    current = read_current(wish, crew.wanted)
    if current is None:
        return None, None
    if current.phase == "ready":
        return current, _observe(wish, crew, current)
    if wish.state == ABSENT:
        return current, Observed(LEFTOVERS)
    reason = remains(crew, current)
    if not reason:
        return current, Observed(LEFTOVERS)
    if wish.force:
        # It is to be kept, as what it is.
        return current, _observe(wish, crew, replace(current, phase="ready"))
    return current, Observed(REMOVING, reason=reason)


def remains(crew: Crew, instance: Instance) -> str:
    """What drivers still have of what guests have written in an instance that is not whole; empty for nothing."""
    return next(filter(None, (driver.remains(instance) for driver in crew.all_of(instance))), "")


def _observe(wish: Wish, crew: Crew, instance: Instance) -> Observed:
    """What is known of an instance now; by force it can be removed also where its host is gone for good."""
    driver = crew.of(instance)
    try:
        seen = as_recorded(instance, driver.observe([instance])[0])
        if instance.mounts and seen.state == RUNNING and wish.state != ABSENT:
            from ansible_collections.minicloud.local.plugins.module_utils._reconcile.mounts import is_incomplete

            seen = seen._replace(unmounted=is_incomplete(instance, driver, driver.scope.data))
    except MissingRequirement as exc:
        if driver.host.here or wish.state != ABSENT:
            raise
        if not wish.force:
            exc.hint = f"{exc.hint} If that host is gone for good, add force: true.".strip()
            raise
        return Observed(STOPPED)
    return seen._replace(reason=_why_not_resumed(crew, instance)) if seen.state == SUSPENDED else seen


def _why_not_resumed(crew: Crew, instance: Instance) -> str:
    """Why a suspended instance could not go on from there, by what the task names; empty where it could."""
    owner = crew.of(instance)
    if owner.name != crew.wanted.name:
        return f"it was suspended under the driver {owner.name}, and goes on there only (driver: {owner.name})"
    part = owner.suspension()
    return part.why_not(instance) if part else ""


def read_current(wish: Wish, driver: Driver) -> Instance | None:
    """The record of the wished instance; one that is damaged only to be removed by force, and then as leftovers.

    What was made of it is found by what its drivers have noted there: the instance's name and the data directory.
    """
    try:
        return driver.scope.read(wish.name)
    except RecordError as exc:
        if wish.state != ABSENT or not wish.force or not exc.facts.get("damaged"):
            raise
        driver.runtime.report.warn(f"{exc.what}: whatever is left of {wish.name} goes.")
    names = [name for name in DRIVERS if scope_of(name) == driver.scope.name]
    return Instance(
        name=wish.name,
        uuid="",
        scope=driver.scope.name,
        driver=driver.name,
        created="",
        arch="",
        cpus=0,
        memory=0,
        disk=0,
        phase="removing",
        # On which networks it was nobody knows, so each of them is told.
        nics=[Nic(network.name, "") for network in driver.scope.networks.all()[0]],
        handles={name: driver.handle() if name == driver.name else {} for name in names},
    )


def with_parent(
    around: Surroundings, wish: Wish, crew: Crew, current: Instance | None, observed: Observed | None
) -> Surroundings:
    """The surroundings of a plan, with what the instance is to be made of where that is another one."""
    if wish.source is None:
        return around
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile.clones import around_clone
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile.source import Clone

    if not isinstance(wish.source, Clone):
        return around
    return around_clone(around, wish, wish.source, crew, current, observed)


def surroundings(driver: Driver, host_arch: str, coming: t.Iterable[str] = ()) -> Surroundings:
    """What a plan for an instance of a driver depends on besides the instance; see Surroundings.

    coming -- networks that will be there by then, by what names are compared by
    """
    networks = [*driver.scope.networks.names(), *coming]
    return Surroundings(host_arch, driver.name, driver.default_network, networks, sizes=set_sizes(driver.scope.data))


def set_sizes(data: DataDirectory) -> dict[str, int]:
    """The sizes of new instances that are set for a data directory, of cpus, memory and disk; bytes."""
    settings = data.settings()
    return {name: settings[name] for name in ("cpus", "memory", "disk") if settings.get(name)}
