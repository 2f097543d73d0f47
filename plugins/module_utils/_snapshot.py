# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Snapshots of instances, as data. No input or output."""

from __future__ import annotations

import re
import typing as t
from dataclasses import field

from ansible_collections.minicloud.local.plugins.module_utils._dataclass import dataclass
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    INSTANCE,
    NAMED,
    PHASES,
    RUNNING,
    STOPPED,
    SUSPENDED,
    Field,
    Instance,
    RecordKind,
    fields_of,
    key_of,
    matching,
    one_of,
    plain,
)


def natural(name: str) -> tuple[t.Any, ...]:
    """What names are sorted by so that snapshot10 comes after snapshot9."""
    parts = re.split(r"([0-9]+)", key_of(name))
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)


@dataclass
class Snapshot:
    """What scope storage knows of a snapshot of an instance.

    uuid -- by which drivers know it; parent -- that of the snapshot that the instance went on from, empty of the first
    driver -- which took it; phase -- creating, ready or removing
    state -- that the instance was in: running, stopped or suspended
    memory -- bytes of memory that were saved with it, 0 where none was
    quiet -- how the file systems were: frozen, synced, stopped, suspended or crash (as after a power cut)
    record -- the instance's record of that moment, as plain data
    unknown -- fields of its record that a newer version has written
    """

    name: str
    uuid: str
    driver: str
    created: str
    parent: str = ""
    comment: str = ""
    phase: str = "creating"
    state: str = STOPPED
    memory: int = 0
    quiet: str = ""
    record: dict[str, t.Any] = field(default_factory=dict)
    unknown: dict[str, t.Any] = field(default_factory=dict)

    @property
    def then(self) -> Instance:
        """The instance as it was. ValueError where its record says nothing that this version understands."""
        return Instance.from_dict(self.record)

    def to_dict(self) -> dict[str, t.Any]:
        """As plain data, for the record."""
        return plain(self)

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Snapshot:
        """From a record's data. ValueError says what is wrong with it."""
        return cls(**SNAPSHOT.split(data))


def _is_instance(value: t.Any) -> bool:
    try:
        return isinstance(value, dict) and bool(INSTANCE.checked(value))
    except ValueError:
        return False


_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
UUID = matching(_UUID, "a uuid")
UUID_OR_NONE = matching(f"(?:{_UUID})?", "a uuid, or nothing")
SNAPSHOT = RecordKind(
    "a snapshot",
    1,
    fields_of(
        Snapshot,
        name=NAMED,
        uuid=UUID,
        parent=UUID_OR_NONE,
        phase=one_of(*PHASES),
        state=one_of(RUNNING, STOPPED, SUSPENDED),
        record=Field(_is_instance, "the record of an instance", required=True),
    ),
)
