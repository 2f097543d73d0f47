# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Removing for good the instances that have been deleted for some time."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import load
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption, MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._model import ABSENT, key_of, parse_age
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.instances import Outcome, reconcile_instance
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import Wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime, timestamp
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

# Options that go with it; of the others a task has nothing to say but what they are by default.
_WITH = ("driver", "driver_options", "data_dir", "force", "purge_older_than", "state", "timeout")


def purge_instances(
    params: t.Mapping[str, t.Any], runtime: Runtime, data: DataDirectory, check_mode: bool = False
) -> Outcome:
    """Remove those instances of a driver that were deleted longer ago than the option purge_older_than says.

    One that cannot be removed does not keep the others; the error is raised at the end, with the fact `purged`.
    """
    seconds = parse_age(params["purge_older_than"], "purge_older_than", "that would remove nearly all that is deleted")
    given = [name for name, value in params.items() if name not in _WITH and value not in (None, False)]
    given = [name for name in given if name not in ("wait", "cloud_init_errors")]
    if params["state"] != ABSENT or given:
        raise InvalidOption(
            "purge_older_than does not go with these options",
            f"it is about all that is deleted, and the task has {given[0] if given else 'state: ' + params['state']}",
            "Use it with state: absent, and with neither a name nor what describes an instance.",
        )
    before = timestamp(max(0.0, time.time() - seconds))
    driver = load(params["driver"], runtime, data, params["driver_options"])
    instances, broken = driver.scope.instances()
    for error in broken:
        runtime.report.warn(str(error))
    purged: list[str] = []
    failures: list[MinicloudError] = []
    old = [instance for instance in instances if "" < instance.deleted < before]
    for instance in old:
        wish = Wish(
            name=instance.name,
            state=ABSENT,
            deleted_before=before,
            going=frozenset(key_of(each.name) for each in old),
            timeout=params["timeout"],
            force=params["force"],
        )
        try:
            if reconcile_instance(wish, runtime, data, params["driver"], params["driver_options"], check_mode).changed:
                purged.append(instance.name)
        except MinicloudError as exc:
            failures.append(exc)
    for failure in failures[1:]:
        runtime.report.warn(str(failure))
    if failures:
        failures[0].facts["purged"] = purged
        raise failures[0]
    before_, after = (dict.fromkeys(purged, state) for state in ("deleted", ABSENT))
    return Outcome(bool(purged), [f"delete {name}" for name in purged], None, before_, after)
