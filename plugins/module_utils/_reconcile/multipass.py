# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""All instances of Multipass at once, each under the name that it has there."""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    InUse,
    InvalidOption,
    MinicloudError,
    NotFound,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.multipass import instance_names
from ansible_collections.minicloud.local.plugins.module_utils._model import ABSENT, DELETED
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.instances import Outcome, reconcile_instance
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import parse_wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

# The source that means all of them.
ALL = "multipass:*"


def take_over_all(
    params: t.Mapping[str, t.Any], runtime: Runtime, data: DataDirectory, check_mode: bool = False
) -> tuple[Outcome, list[dict[str, t.Any]]]:
    """Take over all instances of Multipass that are stopped, with the same options, and tell what they are then.

    One that Multipass has running, suspended or deleted is left out with a warning, as is one whose files are missing.
    Any other error does not keep the others, and is raised at the end, with the fact `taken_over`.
    """
    if params["state"] in (ABSENT, DELETED) or params.get("new_name"):
        raise InvalidOption(
            f"source: {ALL} does not go with {'new_name' if params.get('new_name') else 'state: ' + params['state']}",
            hint="Use it to take over what Multipass has.",
        )
    done: list[str] = []
    views: list[dict[str, t.Any]] = []
    failures: list[MinicloudError] = []
    before: dict[str, t.Any] = {}
    after: dict[str, t.Any] = {}
    changed = False
    for name in instance_names(params.get("source_root") or ""):
        try:
            wish = parse_wish({**params, "name": name, "source": f"multipass:{name}"})
            outcome = reconcile_instance(wish, runtime, data, params["driver"], params["driver_options"], check_mode)
        except (InUse, NotFound) as exc:
            runtime.report.warn(str(exc))
            continue
        except MinicloudError as exc:
            failures.append(exc)
            continue
        changed = changed or outcome.changed
        done += [f"{step} {name}" for step in outcome.actions]
        before[name], after[name] = outcome.before, outcome.after
        views += [outcome.view] if outcome.view else []
    for failure in failures[1:]:
        runtime.report.warn(str(failure))
    if failures:
        failures[0].facts["taken_over"] = [view["name"] for view in views]
        raise failures[0]
    return Outcome(changed, done, None, before, after), views
