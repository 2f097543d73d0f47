# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What a task's arguments are when they have come to a module."""

from __future__ import annotations

import datetime
import json
import typing as t


def as_module_gets(value: t.Any) -> t.Any:
    """What becomes of a value on the way to a module, which is JSON: keys are text, and so are dates."""
    if isinstance(value, t.Mapping):
        return {_key(key): as_module_gets(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [as_module_gets(each) for each in value]
    return value.isoformat() if isinstance(value, (datetime.date, datetime.time)) else value


def _key(key: t.Any) -> str:
    if isinstance(key, (bool, int, float, type(None))):
        return json.dumps(key)
    return key if isinstance(key, str) else str(key)
