# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The seed of an instance as LXD's configuration. Pure: nothing here asks LXD. Only what acts imports it."""

from __future__ import annotations

import json
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.config import Config
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._guest.cloud_config import (
    NotReadable,
    as_ascii,
    escaped,
    load_yaml,
    to_json,
)

# The files of a seed and the keys that cloud-init's data sources for LXD read them from.
_SEED_KEYS = {
    "user-data": "cloud-init.user-data",
    "vendor-data": "cloud-init.vendor-data",
    "network-config": "cloud-init.network-config",
}
# LXD gives these itself; user-given ones come behind them and count.
_META_KEY = "user.meta-data"

# All of these, and what they were called before.
SEED_KEYS = (
    *_SEED_KEYS.values(), _META_KEY, "user.user-data", "user.vendor-data", "user.network-config",
)  # fmt: skip


def seed_config(seed: t.Mapping[str, bytes]) -> Config:
    """The seed as configuration, in ASCII: in the guest, cloud-init guesses the encoding of what LXD hands it.

    InvalidOption for a network-config that cannot be had that way.
    """
    config = {}
    for name in ("user-data", "vendor-data"):
        if seed.get(name):
            config[_SEED_KEYS[name]] = as_ascii(seed[name])
    if seed.get("network-config"):
        config[_SEED_KEYS["network-config"]] = _ascii_settings(seed["network-config"])
    meta = json.loads(seed["meta-data"])
    # LXD puts lines of its own before these, so that they have to be lines as well; each value is JSON, which is YAML.
    config[_META_KEY] = "".join(f"{_json(key)}: {_json(value)}\n" for key, value in meta.items())
    return config


def renamed(config: t.Mapping[str, str], before: str, name: str) -> Config:
    """The configuration of an instance whose host name has changed, unless the user had given one of their own."""
    old, new = (f"{_json('local-hostname')}: {_json(each)}" for each in (before, name))
    lines = config.get(_META_KEY, "").split("\n")
    changed = "\n".join(new if line == old else line for line in lines)
    return {**config, **({_META_KEY: changed} if _META_KEY in config else {})}


def _json(value: t.Any) -> str:
    return escaped(json.dumps(value, ensure_ascii=False))


def _ascii_settings(content: bytes) -> str:
    if content.isascii():
        return content.decode("ascii")
    try:
        return escaped(to_json(load_yaml(content.decode())))
    except NotReadable as exc:
        raise InvalidOption(
            "network_config has characters beyond ASCII, and cannot be read on this host",
            str(exc.args[0]),
            "Give it as a mapping, or leave them out.",
        ) from exc
