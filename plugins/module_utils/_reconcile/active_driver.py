# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The active driver, from the one that a task wishes to the one that is: look, plan, switch."""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._model import check_timeout
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.scopes import (
    Side,
    Switch,
    SwitchPlan,
    SwitchWish,
    make_switch_plan,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


class SwitchOutcome(t.NamedTuple):
    """What a run did, or in check mode would do."""

    changed: bool
    actions: list[str]
    driver: dict[str, str]
    brought_down: list[str]
    restored: list[str]
    before: dict[str, t.Any]
    after: dict[str, t.Any]


def switch_driver(
    wish: SwitchWish,
    runtime: Runtime,
    data: DataDirectory,
    options: t.Mapping[str, t.Any] | None = None,
    check_mode: bool = False,
) -> SwitchOutcome:
    """Make a driver the active one, and tell what was done."""
    check_timeout(wish.timeout)
    switch = Switch(wish, runtime, data, options)
    if options:
        switch.check_options()
    here, there, pending = switch.look()
    plan = make_switch_plan(here, there, pending, wish.wait)
    if plan.finish:
        runtime.begin_changes()
        switch.check(plan)
        if not check_mode:
            from ansible_collections.minicloud.local.plugins.module_utils._reconcile.switch import carry_out

            here, there, plan = carry_out(switch)
    return _outcome(here, there, plan)


def _outcome(here: Side, there: Side, plan: SwitchPlan) -> SwitchOutcome:
    before, after = _running(here, there), _running(here, there)
    for instance in plan.down:
        after[here.scope].discard(instance.name)
    for instance in plan.up:
        after[there.scope].add(instance.name)
    return SwitchOutcome(
        bool(plan.steps),
        plan.steps,
        {"name": there.driver, "scope": there.scope, "previous": here.driver},
        [each.name for each in plan.down],
        [each.name for each in plan.up],
        {"driver": here.driver, "running": {scope: sorted(names) for scope, names in before.items()}},
        {"driver": there.driver, "running": {scope: sorted(names) for scope, names in after.items()}},
    )


def _running(*sides: Side) -> dict[str, set[str]]:
    return {side.scope: {each.name for each in side.instances if each.uuid in side.running} for side in sides}
