# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The active driver: what a switch finds, and the plan that it makes of that. Asked for in active_driver.py,
and carried out in switch.py.

The setting `driver` is what is active; the setting `switch` says from where to where a switch is under way. A scope
that is not active keeps the states that its instances had when it was left. Whatever of this a killed run leaves
behind, the plan of the next run follows from it and from what runs.
"""

from __future__ import annotations

import typing as t
from dataclasses import field, replace

from ansible_collections.minicloud.local.plugins.module_utils._dataclass import dataclass
from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.crew import Crew
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import (
    DRIVERS,
    active_driver,
    load,
    scope_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InvalidOption,
    MinicloudError,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ABSENT,
    DELETED,
    RUNNING,
    STOPPED,
    UP,
    Instance,
    as_recorded,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


@dataclass
class SwitchWish:
    """What a task asks of the active driver.

    name -- that is to be active; timeout -- seconds for each instance to go down, and for each to be ready again
    wait -- until those that are started are ready; force -- switch off, and go on where an instance stands in the way
    """

    name: str
    wait: bool = True
    timeout: float = 300
    force: bool = False


@dataclass
class Side:
    """The scope of a driver, as a switch finds it.

    instances -- those that are whole, not deleted, and were not removed by other means
    running -- the uuids of those that run, or are paused; noted -- states by uuid
    suspending -- the uuids of those among them that a switch to the other side suspends
    """

    driver: str
    scope: str
    instances: tuple[Instance, ...] = ()
    running: frozenset[str] = frozenset()
    noted: t.Mapping[str, str] = field(default_factory=dict)
    suspending: frozenset[str] = frozenset()

    def wanted(self) -> list[Instance]:
        """The instances that run, or would if no switch had brought them down."""
        return [each for each in self.instances if each.uuid in self.running or self.noted.get(each.uuid) == RUNNING]


@dataclass
class SwitchPlan:
    """What a switch does.

    note -- the states to note of the scope that is left, by uuid; down -- what is stopped there
    suspending -- the uuids of those among them that are suspended instead
    activate -- whether the active driver changes; up -- what is started; waits -- what is waited for
    finish -- whether there is anything to be taken note of at the end
    """

    note: dict[str, str] = field(default_factory=dict)
    down: list[Instance] = field(default_factory=list)
    suspending: frozenset[str] = frozenset()
    activate: bool = False
    up: list[Instance] = field(default_factory=list)
    waits: list[Instance] = field(default_factory=list)
    finish: bool = False

    @property
    def steps(self) -> list[str]:
        """What it does, in order, as users see it."""
        named = [f"{'suspend' if each.uuid in self.suspending else 'stop'} {each.name}" for each in self.down]
        named += ["activate"] if self.activate else []
        named += [f"start {each.name}" for each in self.up]
        named += [f"wait_ready {each.name}" for each in self.waits]
        return named or (["finish"] if self.finish else [])


def suspends(driver: Driver, active: str, wanted: str) -> bool:
    """Whether a switch suspends what a driver runs: where that outlives the host, and nobody else is to run it."""
    if scope_of(active) == scope_of(wanted):
        return False
    part = driver.suspension()
    return part is not None and part.outlives_host


def make_switch_plan(here: Side, there: Side, pending: bool, wait: bool) -> SwitchPlan:
    """The way from the active driver (here) to the wanted one (there). Pure.

    pending -- whether a switch was begun that has not come to its end
    """
    shared = here.scope == there.scope
    if here.driver == there.driver:
        plan = SwitchPlan(finish=pending or bool(there.noted))
        back = [each for each in there.instances if there.noted.get(each.uuid) == RUNNING]
    else:
        plan = SwitchPlan(activate=True, finish=True, suspending=here.suspending)
        running = [each for each in here.instances if each.uuid in here.running]
        # If both drivers share the scope, an instance that the wanted driver runs already needs no move.
        plan.down = [each for each in running if not shared or each.owner != there.driver]
        meant = {each.uuid for each in here.wanted()}
        plan.note = {each.uuid: RUNNING if each.uuid in meant else STOPPED for each in here.instances}
        noted = plan.note if shared else there.noted
        back = [each for each in there.instances if noted.get(each.uuid) == RUNNING]
    down = {each.uuid for each in plan.down}
    plan.up = [each for each in back if each.uuid not in there.running or each.uuid in down]
    if wait:
        started = {each.uuid for each in plan.up}
        plan.waits = [each for each in back if each.uuid in started or not each.ready]
    return plan


class Switch:
    """What a run of the module knows of the two drivers."""

    def __init__(
        self, wish: SwitchWish, runtime: Runtime, data: DataDirectory, options: t.Mapping[str, t.Any] | None = None
    ) -> None:
        self.wish = wish
        self.runtime = runtime
        self.data = data
        self.options = options
        self._crews: dict[str, Crew] = {}
        self._probed = False

    def crew(self, driver: str) -> Crew:
        """The drivers that act on the instances of a driver's scope."""
        if driver not in self._crews:
            self._crews[driver] = Crew(load(driver, self.runtime, self.data, self.options, shared=True))
        return self._crews[driver]

    def look(self) -> tuple[Side, Side, bool]:
        """The side of the active driver, that of the wanted one, and whether a switch was begun."""
        pending = bool(self.data.settings().get("switch"))
        active = active_driver(self.data)
        wanted, scope = self.wish.name, scope_of(self.wish.name)
        if active == wanted:
            if pending or self.data.scope(scope).noted():
                side = self._side(wanted, *self._whole(scope))
            else:
                side = Side(wanted, scope)
            return side, side, pending
        if not self._probed:
            self.crew(wanted).wanted.acts.probe()
            self._probed = True
        instances, noted = self._whole(scope_of(active))
        try:
            here = self._side(active, instances, noted)
        except MinicloudError as exc:
            if not self.wish.force:
                raise HypervisorError(
                    f"which instances of the driver {active} are to be brought down cannot be told",
                    str(exc),
                    "Put that right, or set force: true to switch and leave the instances there as they are.",
                ) from exc
            self.runtime.report.warn(f"The instances of the driver {active} are left as they are: {exc}")
            here = Side(active, scope_of(active), instances, noted=noted)
        if here.scope == scope:
            return here, replace(here, driver=wanted), pending
        return here, self._side(wanted, *self._whole(scope)), pending

    def _whole(self, name: str) -> tuple[tuple[Instance, ...], dict[str, str]]:
        """The instances of a scope that are whole, and the states that are noted."""
        scope = self.data.scope(name)
        found, broken = scope.instances()
        for error in broken:
            self.runtime.report.warn(str(error))
        return tuple(each for each in found if each.phase == "ready"), scope.noted()

    def _side(self, driver: str, instances: tuple[Instance, ...], noted: dict[str, str]) -> Side:
        states: dict[str, str] = {}
        suspending: set[str] = set()
        if instances:  # else there is nothing to ask the hypervisor for, which may not even be there
            for acting, owned in self.crew(driver).group(instances):
                found = {each.uuid: as_recorded(each, seen).state for each, seen in zip(owned, acting.observe(owned))}
                states.update(found)
                up = [uuid for uuid, state in found.items() if state in UP]
                if up and suspends(acting, driver, self.wish.name):
                    suspending.update(up)
        there = tuple(each for each in instances if states[each.uuid] not in (ABSENT, DELETED))
        running = frozenset(each.uuid for each in there if states[each.uuid] in UP)
        return Side(driver, scope_of(driver), there, running, noted, frozenset(suspending))

    def check_options(self) -> None:
        """Raise for a driver_option that neither the active driver nor the wanted one knows."""
        active = active_driver(self.data)
        names = [name for name in dict.fromkeys((active, self.wish.name)) if name in DRIVERS]
        known = {key for name in names for key in self.crew(name).wanted.about.option_names}
        unknown = sorted(set(self.options or ()) - known)
        if unknown:
            raise InvalidOption(
                f"driver_options has the key {unknown[0]!r}, which no driver of this switch knows",
                f"they are {' and '.join(names)}",
                f"They know: {', '.join(sorted(known)) or 'none'}.",
            )

    def check(self, plan: SwitchPlan) -> None:
        """Raise, before anything is changed, for what stands in the way of the plan."""
        for instance in plan.up:
            try:
                starter = self.crew(self.wish.name).starter(instance)
                starter.acts.require(instance.arch, instance.image.get("firmware", ""), instance.instance_type)
            except MinicloudError as exc:
                if not self.wish.force:
                    exc.what = f"{instance.name} could not be started by the driver {self.wish.name}: {exc.what}"
                    raise
                self.runtime.report.warn(f"{instance.name} cannot be started by the driver {self.wish.name}: {exc}")
