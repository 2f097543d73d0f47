# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What is set for a whole data directory, besides its active driver."""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import active_driver
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    DEFAULT_CPUS,
    DEFAULT_DISK,
    DEFAULT_MEMORY,
    MIB,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import Wish, parse_sizes
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

SIZES: t.Mapping[str, int] = {"cpus": DEFAULT_CPUS, "memory": DEFAULT_MEMORY, "disk": DEFAULT_DISK}
_IMAGE_HOSTS = "image_hosts"


def effective_settings(data: DataDirectory) -> dict[str, t.Any]:
    """What counts: what is set, and else the collection's own."""
    return _effective(data, data.settings())


def entries(settings: t.Mapping[str, t.Any]) -> list[dict[str, t.Any]]:
    """What counts as keys and values, as the commands get and set have them; sizes in MiB."""
    found = {"local.driver": settings["driver"], "default.cpus": settings["cpus"]}
    found.update({f"default.{name}": f"{settings[name] // MIB}M" for name in ("memory", "disk")})
    for host, keys in settings[_IMAGE_HOSTS].items():
        found.update({f"{_IMAGE_HOSTS}.{host}.{key}": value for key, value in keys.items()})
    return [{"key": key, "value": value} for key, value in found.items()]


def _effective(data: DataDirectory, settings: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    sizes = {name: settings.get(name) or default for name, default in SIZES.items()}
    return {"driver": active_driver(data), **sizes, _IMAGE_HOSTS: settings.get(_IMAGE_HOSTS) or {}}


def change(
    runtime: Runtime, data: DataDirectory, params: t.Mapping[str, t.Any], check_mode: bool
) -> tuple[bool, dict[str, t.Any], dict[str, t.Any]]:
    """Bring the settings to what a task asks for: whether anything changes, and what counts before and after.

    params -- the options of the module settings. InvalidOption where one cannot be meant: nothing is changed then.
    """
    wish = Wish("settings")
    parse_sizes(wish, params)
    before = data.settings()
    wanted = _wanted(wish, params, before)
    changes = {name: value for name, value in wanted.items() if value != before.get(name)}
    after = {name: value for name, value in {**before, **changes}.items() if value is not None}
    told = _effective(data, before), _effective(data, after)
    if changes:
        runtime.begin_changes()
        if not check_mode:
            with data.lock("settings-task"):
                # Another run may have changed others of them meanwhile.
                now = _wanted(wish, params, data.settings())
                data.change_settings(**now)
    return bool(changes), *told


def _wanted(wish: Wish, params: t.Mapping[str, t.Any], before: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The settings that the task is about, as they are to be; None for one that is to go."""
    wanted: dict[str, t.Any] = dict.fromkeys(params.get("reset") or ())
    for name in SIZES:
        if getattr(wish, name) is not None:
            wanted[name] = getattr(wish, name)
    given = params.get(_IMAGE_HOSTS)
    if given is not None:
        # Imported only now: most tasks do not touch them.
        from ansible_collections.minicloud.local.plugins.module_utils._images.hosts import host_table

        hosts = {} if _IMAGE_HOSTS in wanted else dict(before.get(_IMAGE_HOSTS) or {})
        for name, options in given.items():
            if options is None:
                hosts.pop(name, None)
            else:
                merged = {**hosts.get(name, {}), **options} if isinstance(options, dict) else options
                hosts[name] = (
                    {key: value for key, value in merged.items() if value is not None}
                    if isinstance(merged, dict)
                    else merged
                )
        hosts = {name: options for name, options in hosts.items() if options != {}}
        host_table(hosts)
        wanted[_IMAGE_HOSTS] = hosts or None
    return wanted
