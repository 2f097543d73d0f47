# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The drivers: which of them this host can use, and why not the others."""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import (
    ABOUT,
    active_driver,
    load,
    scope_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._errors import MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

# What probe() tells of every driver; the rest is the driver's own.
_COMMON = ("version", "accelerator", "accelerator_reason", "endpoint")


def list_drivers(
    runtime: Runtime,
    data: DataDirectory,
    names: t.Sequence[str],
    options: t.Mapping[str, t.Any] | None = None,
) -> list[dict[str, t.Any]]:
    """The return value `drivers`: one entry a name, in that order. One that is broken says why, and fails no other."""
    active = active_driver(data, runtime.report)
    return [
        {
            "name": name,
            "active": name == active,
            "scope": scope_of(name),
            "capabilities": sorted(ABOUT[name].capabilities),
            **_probed(name, runtime, data, options, len(names) > 1),
        }
        for name in names
    ]


def _probed(
    name: str, runtime: Runtime, data: DataDirectory, options: t.Mapping[str, t.Any] | None, shared: bool
) -> dict[str, t.Any]:
    told: t.Mapping[str, str] = {}
    why_not = ""
    try:
        told = load(name, runtime, data, options, shared).acts.probe()
    except MinicloudError as exc:
        why_not = str(exc)
    except Exception as exc:
        # A driver stands on libraries of others, and the rest of the answer is wanted all the same.
        why_not = f"looking at it failed: {type(exc).__name__}: {exc}."
    return {
        "available": not why_not,
        "why_not": why_not,
        **{key: told.get(key, "") for key in _COMMON},
        "details": {key: value for key, value in told.items() if key not in _COMMON},
    }
