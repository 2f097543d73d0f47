# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""One instance, from what a task wishes to what is: observe, plan, apply."""

from __future__ import annotations

import contextlib
import platform
import typing as t
from dataclasses import replace

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.crew import Crew
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import (
    DRIVERS,
    load,
    require_capability,
    scope_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._errors import MissingRequirement, RecordError
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ABSENT,
    BRIDGED_TO,
    DEFAULT_TYPE,
    KINDS,
    RUNNING,
    STOPPED,
    Image,
    Instance,
    Nic,
    Observed,
    key_of,
    normal_arch,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.plan import (
    Plan,
    Surroundings,
    comparable,
    make_plan,
    with_bridged,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.view import instance_view
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import Wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


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
    crew = Crew(load(driver_name, runtime, data, driver_options))
    driver = crew.wanted
    instance_type = wish.instance_type or DEFAULT_TYPE
    require_capability(driver.name, instance_type, f"instance_type: {instance_type}")
    host_arch = normal_arch(platform.machine())
    if wish.arch and wish.arch != host_arch:
        require_capability(driver.name, "foreign_arch", f"arch: {wish.arch} on a host that is {host_arch}")

    for port in wish.ports or ():
        if ":" in port.host_ip:
            require_capability(driver.name, "ipv6_ports", f"ports: {port}")

    current, observed = _observe(wish, crew)
    there = observed is not None and observed.state != ABSENT
    around = surroundings(driver, host_arch)
    _choose_networks(wish, current if there else None, driver, around)
    image = _cached_image(wish, current if there else None, runtime, data, host_arch)
    plan = make_plan(wish, current, observed, image, around)
    for text in plan.drift:
        runtime.report.warn(f"{wish.name}: {text}. Set recreate: true to have the instance replaced.")
    if observed and wish.state != ABSENT:
        for text in observed.drift:
            runtime.report.warn(f"{wish.name}: {text}.")
    concerned = wish.autostart is not None or wish.state == ABSENT or (current and current.autostart)
    keeper = _autostart() if concerned else None
    repair = keeper is not None and not plan.changes and not keeper.is_settled(current, runtime, data)
    before = comparable(current if there else None, observed.state if observed else ABSENT)
    if plan.steps or plan.drift or repair:
        runtime.begin_changes()
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.apply import Applier

        changing = (lambda: keeper.kept_unit(runtime, data)) if keeper else contextlib.nullcontext
        applier = Applier(wish, crew, runtime, data, host_arch, changing)
        applier.check_host(plan)
        if check_mode:
            applier.foresee_image(plan)
            current = _predicted(plan, crew, applier.login_user(image))
            addresses = observed.addresses if observed and plan.state == RUNNING else ()
            by_mac = observed.by_mac if addresses and observed else {}
            observed = Observed(plan.state, addresses, by_mac) if current else None
        else:
            if keeper and repair:
                # Another run that has changed the instance sees to it, too, before it gives the lock back.
                with driver.scope.lock(wish.name, report=runtime.report):
                    repair = not keeper.is_settled(driver.scope.read(wish.name), runtime, data)
                    with changing() if repair else contextlib.nullcontext():
                        pass
            plan, current = applier.carry_out(plan)
            observed = crew.of(current).observe([current])[0] if current else None
    if current and observed and observed.state == RUNNING and not check_mode:
        crew.of(current).tidy(current)
    if keeper:
        keeper.warn_of_obstacle(current, runtime, data)
    steps = [*plan.steps, "repair_autostart"] if repair else plan.steps
    view = instance_view(current, observed, crew.of(current), data) if current and observed else None
    after = comparable(current, observed.state if observed else ABSENT)
    return Outcome(plan.changes or repair, steps, view, before, after)


def _autostart() -> t.Any:
    """What sees to the start with the host, imported only now."""
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile import autostart

    return autostart


def surroundings(driver: Driver, host_arch: str) -> Surroundings:
    """What a plan for an instance of a driver depends on besides the instance."""
    return Surroundings(host_arch, driver.name, driver.default_network, driver.scope.networks.names())


def _choose_networks(wish: Wish, current: Instance | None, driver: Driver, around: Surroundings) -> None:
    """Have the wish name the networks of all its interfaces, also of those that tell only what they are bridged to."""
    asked = [*(wish.networks or ()), *([wish.bridged] if wish.bridged else ())]
    if wish.state != ABSENT and any(nic.network.startswith(BRIDGED_TO) for nic in asked):
        _find_bridged(wish, current, driver, around)
    # Only now: two entries can come to the same network.
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


def _observe(wish: Wish, crew: Crew) -> tuple[Instance | None, Observed | None]:
    """The record of an instance, and what the driver sees of it if it is more than leftovers."""
    current = read_current(wish, crew.wanted)
    if current is None or current.phase != "ready":
        return current, None
    return current, observe(wish, crew, current)


def observe(wish: Wish, crew: Crew, instance: Instance) -> Observed:
    """What is known of an instance now; by force it can be removed also where its host is gone for good."""
    driver = crew.of(instance)
    try:
        return driver.observe([instance])[0]
    except MissingRequirement as exc:
        if not (driver.elsewhere and wish.state == ABSENT):
            raise
        if not wish.force:
            exc.hint = f"{exc.hint} If that host is gone for good, add force: true.".strip()
            raise
        return Observed(STOPPED)


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


def _predicted(plan: Plan, crew: Crew, login_user: str) -> Instance | None:
    if plan.after is None:
        return None
    owner = crew.wanted.name if "start" in plan.steps else plan.after.owner
    user = login_user if "create" in plan.steps else plan.after.user
    return replace(plan.after, owner=owner, scope=crew.wanted.scope.name, user=user)


def _cached_image(
    wish: Wish, current: Instance | None, runtime: Runtime, data: DataDirectory, host_arch: str
) -> Image | None:
    """The wished image if the vault has it; not looked for where nothing is made from it.

    current -- the instance, if there is more of it than leftovers
    """
    same = current is not None and (wish.image is None or str(wish.image) == current.image.get("name"))
    if wish.state == ABSENT or (same and not wish.recreate):
        return None
    from ansible_collections.minicloud.local.plugins.module_utils._images.vault import Vault

    type_ = wish.instance_type or (current.instance_type if current and not wish.recreate else DEFAULT_TYPE)
    return Vault(data, runtime).find(wish.reference, wish.arch or host_arch, KINDS[type_])
