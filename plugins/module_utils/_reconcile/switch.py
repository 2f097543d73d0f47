# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Carrying out a switch of the active driver. Each step may be the last before a power cut: the next run goes on."""

from __future__ import annotations

import contextlib
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    InUse,
    MinicloudError,
    SwitchIncomplete,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import PAUSED, RUNNING, Instance, as_recorded
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.power import Power
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.scopes import (
    Side,
    Switch,
    SwitchPlan,
    make_switch_plan,
    suspends,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline

# How often what another run has started meanwhile is brought down too.
_ROUNDS = 3


def carry_out(switch: Switch) -> tuple[Side, Side, SwitchPlan]:
    """Switch, and return what was there before, and what was done.

    Under the lock the plan is made again from what is there then: where another run was faster, nothing is left to do.
    """
    with switch.data.lock("switch", Deadline(switch.wish.timeout), switch.runtime.report):
        _await_stops(switch)
        here, there, pending = switch.look()
        plan = make_switch_plan(here, there, pending, switch.wish.wait)
        if plan.finish:
            switch.check(plan)
            if plan.activate:
                _leave(switch, here, plan)
            _enter(switch, plan)
        return here, there, plan


def _await_stops(switch: Switch) -> None:
    """See the end of what a run that was cut off told to stop, of those that are to run when this one is over."""
    crew = switch.crew(switch.wish.name)
    scope = crew.wanted.scope
    for instance in scope.instances()[0]:
        if instance.phase == "ready" and instance.stopping and instance.owner:
            with scope.lock(instance.name, Deadline(switch.wish.timeout), switch.runtime.report):
                latest = _still(scope.read(instance.name), instance)
                if latest and latest.stopping:
                    Power(crew, switch.runtime, switch.data).await_stop(latest)


def _leave(switch: Switch, here: Side, plan: SwitchPlan) -> None:
    """Bring down what is to come down, and make the wanted driver the active one."""
    data, report = switch.data, switch.runtime.report
    data.change_settings(switch={"from": here.driver, "to": switch.wish.name})
    report.step("begun")
    down, brought_down = plan.down, {each.uuid: each for each in plan.down}
    for dummy in range(_ROUNDS):
        data.scope(here.scope).note(plan.note)
        report.step("noted")
        failures = _each(down, lambda instance: _stop(switch, here, instance, plan))
        if failures:
            raise SwitchIncomplete(
                f"the switch from {here.driver} to {switch.wish.name} has stopped halfway:"
                f" instances of {here.driver} could not be brought down",
                _told(failures),
                f"{here.driver} stays active, and what is down already is noted. Run this again, with a longer timeout"
                " or with force: true, which is like pulling the plug; or go back with"
                f" name: {here.driver}.",
                instances=failures,
            )
        latest, there, pending = switch.look()
        again = make_switch_plan(latest, there, pending, switch.wish.wait)
        down = again.down
        if not down:
            break
        # Another run has started something meanwhile.
        plan.note = again.note
        brought_down.update((each.uuid, each) for each in down)
    else:
        raise InUse(
            f"the switch from {here.driver} to {switch.wish.name} has stopped halfway",
            f"other runs start instances as fast as this one stops them: {', '.join(each.name for each in down)}",
            "End the other runs, and run this again.",
        )
    plan.down = list(brought_down.values())
    # Instances removed meanwhile are not brought back; instances started meanwhile are.
    plan.up, plan.waits = again.up, again.waits
    data.change_settings(driver=switch.wish.name)
    report.step("activated")


def _enter(switch: Switch, plan: SwitchPlan) -> None:
    """Bring back what ran when the scope of the wanted driver was left; then the switch is over."""
    report = switch.runtime.report
    scope = switch.crew(switch.wish.name).wanted.scope
    failures = _each(_halted(switch), lambda instance: _resume(switch, instance))
    failures.update(_each(plan.up, lambda instance: _start(switch, instance)))
    waits = [each for each in plan.waits if each.name not in failures]
    failures.update(_each(waits, lambda instance: _wait(switch, instance)))
    if failures and not switch.wish.force:
        raise SwitchIncomplete(
            f"{switch.wish.name} is the active driver now, but instances of it could not be brought back",
            _told(failures),
            "Run this again to try once more, or with force: true to give them up.",
            instances=failures,
        )
    for name, text in failures.items():
        report.warn(f"{name} could not be brought back: {text}")
    scope.note({})
    report.step("forgotten")
    switch.data.change_settings(switch=None)
    report.step("finished")


def _each(instances: t.Iterable[Instance], act: t.Callable[[Instance], None]) -> dict[str, str]:
    """Act on each instance, whatever becomes of the others: the errors, by name."""
    failures = {}
    for instance in instances:
        try:
            act(instance)
        except MinicloudError as exc:
            failures[instance.name] = str(exc)
    return failures


def _told(failures: t.Mapping[str, str]) -> str:
    return " ".join(f"{name}: {text}" for name, text in failures.items())


def _stop(switch: Switch, here: Side, instance: Instance, plan: SwitchPlan) -> None:
    crew = switch.crew(here.driver)
    deadline = Deadline(switch.wish.timeout)
    with crew.wanted.scope.lock(instance.name, deadline, switch.runtime.report):
        latest = _still(crew.wanted.scope.read(instance.name), instance)
        if latest and crew.of(latest).alive(latest):
            power = Power(crew, switch.runtime, switch.data)
            if suspends(crew.of(latest), here.driver, switch.wish.name):
                with contextlib.suppress(MinicloudError):
                    switch.runtime.report.step(f"suspend {instance.name}")
                    power.suspend(latest)
                    plan.suspending |= {instance.uuid}
                    return
            plan.suspending -= {instance.uuid}
            switch.runtime.report.step(f"stop {instance.name}")
            power.stop(latest, deadline, switch.wish.force)


def _halted(switch: Switch) -> list[Instance]:
    """What ran when the scope of the wanted driver was left, and is halted: a run that suspended it was cut off."""
    crew = switch.crew(switch.wish.name)
    scope = crew.wanted.scope
    noted = scope.noted()
    ran = [each for each in scope.instances()[0] if each.phase == "ready" and noted.get(each.uuid) == RUNNING]
    return [
        instance
        for driver, owned in crew.group(each for each in ran if each.owner)
        for instance, seen in zip(owned, driver.observe(owned))
        if as_recorded(instance, seen).state == PAUSED
    ]


def _resume(switch: Switch, instance: Instance) -> None:
    crew = switch.crew(switch.wish.name)
    with crew.wanted.scope.lock(instance.name, Deadline(switch.wish.timeout), switch.runtime.report):
        latest = _still(crew.wanted.scope.read(instance.name), instance)
        if latest and crew.of(latest).alive(latest):
            switch.runtime.report.step(f"resume {instance.name}")
            crew.of(latest).acts.resume(latest)


def _start(switch: Switch, instance: Instance) -> None:
    crew = switch.crew(switch.wish.name)
    with crew.wanted.scope.lock(instance.name, Deadline(switch.wish.timeout), switch.runtime.report):
        latest = _still(crew.wanted.scope.read(instance.name), instance)
        if latest and not crew.of(latest).alive(latest):
            switch.runtime.report.step(f"start {instance.name}")
            Power(crew, switch.runtime, switch.data).start(latest)


def _wait(switch: Switch, instance: Instance) -> None:
    crew = switch.crew(switch.wish.name)
    latest = _still(crew.wanted.scope.read(instance.name), instance)
    if latest and not latest.ready:
        # Errors of cloud-init were reported when the instance was made, so they are not reported again.
        Power(crew, switch.runtime, switch.data).wait_ready(latest, Deadline(switch.wish.timeout), "ignore")


def _still(latest: Instance | None, instance: Instance) -> Instance | None:
    """The record as it is now, if it is still of this instance."""
    return latest if latest and latest.uuid == instance.uuid and latest.phase == "ready" else None
