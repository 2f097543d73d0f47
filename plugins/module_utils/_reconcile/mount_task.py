# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""One mount, from what a task wishes to what is: a wish for its instance."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import active_driver, scope_of
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._model import check_name, place_in_guest
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.instances import Outcome, reconcile_instance
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.mounts import (
    find_mounts,
    parse_mount,
    parse_target,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import Wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


def reconcile_mount(
    params: t.Mapping[str, t.Any], runtime: Runtime, data: DataDirectory, check_mode: bool
) -> tuple[Outcome, dict[str, t.Any]]:
    """Bring one mount of an instance to what the module's options say: what was done, and the mount as users see it."""
    wish = Wish(name=check_name(params["instance"], "instance"), state="present", force=params["force"])
    source = os.path.normpath(params["source"]) if params["source"] else ""
    target = parse_target(params["target"]) if params["target"] else ""
    there = data.scope(scope_of(params["driver"] or active_driver(data))).read(wish.name)
    if params["state"] == "mounted":
        wish.mount = parse_mount(params)
        same = find_mounts(there, "", wish.mount.target)
        target = wish.mount.target = same[0].target if same else wish.mount.target
    else:
        if not (source or target):
            raise InvalidOption("neither source nor target is given", hint="Say which mount is to go.")
        wish.unmount = tuple(mount.target for mount in find_mounts(there, source, target)) or (target or source,)
    outcome = reconcile_instance(wish, runtime, data, params["driver"], params["driver_options"], check_mode)
    views = outcome.view["mounts"] if outcome.view else []
    if not wish.mount or not outcome.view:
        return outcome, {}
    place = place_in_guest(outcome.view["user"], target) or target
    return outcome, next(view for view in views if view["target"] == place)
