# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""One instance, from what a task wishes to what is: observe, plan, apply."""

from __future__ import annotations

import contextlib
import functools
import typing as t
from dataclasses import replace

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.crew import Crew
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import load, require_capability
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ABSENT,
    BRIDGED_TO,
    DEFAULT_TYPE,
    DELETED,
    KINDS,
    PAUSED,
    RUNNING,
    Instance,
    Observed,
    as_recorded,
    key_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.current import look, surroundings, with_parent
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.plan import (
    LEFTOVERS,
    PARTS,
    Plan,
    Surroundings,
    comparable,
    make_plan,
    with_bridged,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.source import Clone
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.view import instance_view
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import Wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._image import Image
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile.apply import Applier
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile.autostart import Autostart


class Outcome(t.NamedTuple):
    """What a run did, or in check mode would do. view -- the instance as users see it, None when it is gone."""

    changed: bool
    actions: list[str]
    view: dict[str, t.Any] | None
    before: dict[str, t.Any]
    after: dict[str, t.Any]


def reconcile_instance(
    wish: Wish,
    runtime: Runtime,
    data: DataDirectory,
    driver_name: str | None,
    driver_options: t.Mapping[str, t.Any] | None = None,
    check_mode: bool = False,
) -> Outcome:
    """Bring one instance to what is wished, and tell what was done."""
    runtime.foretells = check_mode
    crew = Crew(load(driver_name, runtime, data, driver_options))
    if wish.new_name:
        return _renamed(wish, runtime, data, crew, check_mode)
    return _reconcile(wish, runtime, data, crew, check_mode)


def _renamed(wish: Wish, runtime: Runtime, data: DataDirectory, crew: Crew, check_mode: bool) -> Outcome:
    """Have the instance its new name first; where it has it already, that is all there is to it."""
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile.rename import Renaming

    renaming, new_name = Renaming(wish, crew, runtime, data), wish.new_name
    if not renaming.is_due():
        return _reconcile(replace(wish, name=new_name, new_name=""), runtime, data, crew, check_mode)
    runtime.begin_changes()
    if check_mode:
        there = wish.name if crew.wanted.scope.read(wish.name) else new_name
        outcome = _reconcile(replace(wish, name=there, new_name=""), runtime, data, crew, check_mode)
        view = {**outcome.view, "name": new_name} if outcome.view else None
        after = {**outcome.after, "name": key_of(new_name)}
        return Outcome(True, ["rename", *outcome.actions], view, outcome.before, after)
    renaming.carry_out()
    outcome = _reconcile(replace(wish, name=new_name, new_name=""), runtime, data, crew, check_mode)
    before = {**outcome.before, "name": key_of(wish.name)}
    return Outcome(True, ["rename", *outcome.actions], outcome.view, before, outcome.after)


def _reconcile(wish: Wish, runtime: Runtime, data: DataDirectory, crew: Crew, check_mode: bool) -> Outcome:
    task = _Task(wish, runtime, data, crew)
    task.consider()
    if task.acts:
        task.prepare()
        if check_mode:
            task.predict()
        else:
            task.carry_out()
    return task.outcome(check_mode)


class Foreseen(t.NamedTuple):
    """What a run would do.

    acts -- whether there is anything to do; memory -- bytes that the instance then runs with
    after, state -- the instance as it then is, None where it is gone
    """

    outcome: Outcome
    acts: bool
    starts: bool
    memory: int
    after: Instance | None
    state: str


def foresee_instance(wish: Wish, runtime: Runtime, data: DataDirectory, crew: Crew, check_mode: bool) -> Foreseen:
    """What reconcile_instance() would do, and raise for: nothing is changed. crew -- that may look at others, too"""
    runtime.foretells = check_mode
    task = _Task(wish, runtime, data, crew)
    task.consider()
    if task.acts:
        task.prepare()
        task.predict()
    after = task.plan.after
    memory = after.memory if after and task.plan.state == RUNNING else 0
    outcome = task.outcome(task.acts)
    return Foreseen(outcome, task.acts, "start" in task.plan.steps, memory, after, task.plan.state)


class _Task:
    """One instance on its way from what is to what is wished. The methods are called once, in their order."""

    current: Instance | None
    observed: Observed | None
    plan: Plan

    def __init__(self, wish: Wish, runtime: Runtime, data: DataDirectory, crew: Crew) -> None:
        self.wish = wish
        self.runtime = runtime
        self.data = data
        self.crew = crew
        # What a new instance is made from besides an image; imported only where it is.
        self.arrival: t.Any = None

    @functools.cached_property
    def host_arch(self) -> str:
        """The architecture of the host that the driver makes instances on."""
        return self.crew.wanted.host.architecture()

    def consider(self) -> None:
        """Look at what there is, and plan the way from there."""
        self.check_capabilities()
        self.look()
        self.make_plan()
        self.tell()

    def check_capabilities(self) -> None:
        """Raise NotSupported for what the driver can do for no instance at all."""
        wish, name = self.wish, self.crew.wanted.name
        instance_type = wish.instance_type or DEFAULT_TYPE
        require_capability(name, instance_type, f"instance_type: {instance_type}")
        if wish.arch and wish.arch != self.host_arch:
            require_capability(name, "foreign_arch", f"arch: {wish.arch} on a host that is {self.host_arch}")
        for port in wish.ports or ():
            if ":" in port.host_ip:
                require_capability(name, "ipv6_ports", f"ports: {port}")

    def look(self) -> None:
        """Find out what there is, before anything changes."""
        self.current, self.observed = look(self.wish, self.crew)
        there = self.observed is not None and self.observed.state not in (ABSENT, LEFTOVERS)
        self.found = self.current if there else None
        self.before = comparable(self.found, self.observed.state if self.observed else ABSENT)

    def make_plan(self) -> None:
        """Plan the way from there."""
        driver = self.crew.wanted
        # The architecture of an existing instance is in its record: no need to ask a host elsewhere.
        there = self.found.arch if self.found and not self.wish.recreate else ""
        around = surroundings(driver, there or self.host_arch, self.wish.coming)
        brought = self.wish.source and not isinstance(self.wish.source, Clone)
        if brought and self.wish.state not in (ABSENT, DELETED) and (not self.found or self.wish.recreate):
            self._read_source()
        around = with_parent(around, self.wish, self.crew, self.current, self.observed)
        _choose_networks(self.wish, self.found, driver, around)
        self.image = _cached_image(self.wish, self.found, self.runtime, self.data, around.host_arch)
        self.plan = make_plan(self.wish, self.current, self.observed, self.image, around)
        if self.arrival and self.plan.after and "create" in self.plan.steps:
            self.plan.after.image = self.arrival.image
        for part in filter(None, map(PARTS.get, self.plan.steps)):
            require_capability(driver.name, part, f"state: {self.wish.state}")
        autostart = self.wish.autostart is not None or any(
            each and each.autostart for each in (self.current, self.plan.after)
        )
        self.autostart = _autostart(self.runtime, self.data) if autostart or self.wish.state == ABSENT else None
        self.repairs = (
            self.autostart is not None and not self.plan.changes and not self.autostart.is_in_place(self.current)
        )

    def _read_source(self) -> None:
        """Have the wish name what its source says where it names nothing itself."""
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.imports import Arrival

        self.arrival = Arrival(self.wish, self.crew.wanted, self.runtime, self.data, self.host_arch)
        self.wish = self.arrival.wish
        self.check_capabilities()

    @property
    def acts(self) -> bool:
        """Whether there is more to do than to tell what is."""
        return bool(self.plan.steps or self.plan.drift or self.repairs)

    def tell(self) -> None:
        """Warn of what is otherwise than the task or the record says."""
        warn = self.runtime.report.warn
        for text in self.plan.drift:
            warn(f"{self.wish.name}: {text}. Set recreate: true to have the instance replaced.")
        if self.observed and self.wish.state != ABSENT:
            for text in self.observed.drift:
                warn(f"{self.wish.name}: {text}.")
            if self.observed.state == PAUSED and self.observed.reason:
                warn(f"{self.wish.name} is paused: {self.observed.reason}.")

    def prepare(self) -> None:
        """Raise for what stands in the way of the plan; nothing has changed then."""
        self.runtime.begin_changes()
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.apply import Applier

        self.applier = Applier(self.wish, self.crew, self.runtime, self.data, self.host_arch, self._changing)
        if self.arrival:
            self.applier.receive(self.arrival)
        self.applier.check_host(self.plan)

    def _changing(self) -> t.ContextManager[None]:
        if self.autostart:
            return self.autostart.kept_unit()
        return contextlib.nullcontext()

    def predict(self) -> None:
        """Tell, in check mode, what would be."""
        self.applier.foresee_image(self.plan)
        self.current = _predicted(self.plan, self.crew, self.applier, self.image)
        addresses = self.observed.addresses if self.observed and self.plan.state == RUNNING else ()
        by_mac = self.observed.by_mac if addresses and self.observed else {}
        self.observed = Observed(self.plan.state, addresses, by_mac) if self.current else None

    def carry_out(self) -> None:
        """Do what is planned, and look at what is then."""
        if self.repairs and self.autostart:
            self._repair(self.autostart)
        self.plan, self.current = self.applier.carry_out(self.plan)
        current = self.current
        self.observed = as_recorded(current, self.crew.of(current).observe([current])[0]) if current else None

    def _repair(self, autostart: Autostart) -> None:
        # Another run that has changed the instance sees to it, too, before it gives the lock back.
        scope = self.crew.wanted.scope
        with scope.lock(self.wish.name, report=self.runtime.report):
            self.repairs = not autostart.is_in_place(scope.read(self.wish.name))
            if self.repairs:
                with autostart.kept_unit():
                    pass

    def outcome(self, check_mode: bool) -> Outcome:
        """What was done, and what is now."""
        current, observed = self.current, self.observed
        if current and observed and observed.state == RUNNING and not check_mode:
            self.crew.of(current).tidy(current)
        if self.autostart:
            self.autostart.warn_of_obstacle(current)
        steps = [*self.plan.steps, "repair_autostart"] if self.repairs else self.plan.steps
        view = instance_view(current, observed, self.crew.of(current), self.data) if current and observed else None
        after = comparable(current, observed.state if observed else ABSENT)
        return Outcome(self.plan.changes or self.repairs, steps, view, self.before, after)


def _autostart(runtime: Runtime, data: DataDirectory) -> Autostart:
    """What sees to the start with the host, imported only now."""
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile.autostart import Autostart

    return Autostart(runtime, data)


def _choose_networks(wish: Wish, current: Instance | None, driver: Driver, around: Surroundings) -> None:
    """Have the wish name the networks of all its interfaces, also of those that tell only what they are bridged to."""
    asked = [*(wish.networks or ()), *([wish.bridged] if wish.bridged else ())]
    if wish.state != ABSENT and any(nic.network.startswith(BRIDGED_TO) for nic in asked):
        _find_bridged(wish, current, driver, around)
    # Checked only now, because two entries may turn out to mean the same network.
    names = [key_of(nic.network) for nic in wish.networks or ()]
    for name in names:
        if names.count(name) > 1:
            require_capability(driver.name, "same_network", f"networks: {name} more than once")


def _find_bridged(wish: Wish, current: Instance | None, driver: Driver, around: Surroundings) -> None:
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile.nics import find_bridged

    networks = driver.scope.networks.all()[0]
    if wish.networks is not None:
        wish.networks = find_bridged(wish.networks, networks)
    if wish.bridged is not None:
        (bridged,) = find_bridged([wish.bridged], networks)
        wish.networks = with_bridged(wish, bridged, current, around)


def _predicted(plan: Plan, crew: Crew, applier: Applier, image: Image | None) -> Instance | None:
    if plan.after is None:
        return None
    owner = crew.wanted.name if "start" in plan.steps else plan.after.owner
    user = applier.foreseen_user(plan.after, image) if "create" in plan.steps else plan.after.user
    return replace(plan.after, owner=owner, scope=crew.wanted.scope.name, user=user)


def _cached_image(
    wish: Wish, current: Instance | None, runtime: Runtime, data: DataDirectory, host_arch: str
) -> Image | None:
    """The wished image if the vault has it; not looked for where nothing is made from it.

    current -- the instance, if there is more of it than leftovers
    """
    if wish.source is not None:
        return None
    same = current is not None and (wish.image is None or str(wish.image) == current.image.get("name"))
    if wish.state == ABSENT or (same and not wish.recreate):
        return None
    from ansible_collections.minicloud.local.plugins.module_utils._images.vault import Vault

    type_ = wish.instance_type or (current.instance_type if current and not wish.recreate else DEFAULT_TYPE)
    return Vault(data, runtime).find(wish.reference, wish.arch or host_arch, KINDS[type_])
