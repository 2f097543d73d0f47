# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Exporting one instance to a file, from what a task wishes to what is there: observe, plan, apply.

What was exported, and to where, is noted beside the instance's record: so a task that is run again knows at a look that
nothing is to be done. The file is written under another name, and gets its own when it is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.minicloud.local.plugins.module_utils._drivers.crew import Crew
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Export
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import load, require_capability
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    ImageError,
    InUse,
    InvalidOption,
    MinicloudError,
    NotFound,
    NotSupported,
)
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import file_stamp
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    OBJECT,
    STOPPED,
    Instance,
    RecordKind,
    as_recorded,
    check_name,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import (
    Deadline,
    Runtime,
    timestamp,
)
from ansible_collections.minicloud.local.plugins.module_utils._scope import (
    DataDirectory,
    read_notes,
    write_record,
)
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot
from ansible_collections.minicloud.local.plugins.module_utils._writing import remove_leftovers, replacing

COMPRESSIONS = ("auto", "zstd", "gzip", "none")

_SUFFIX = ".minicloud"
# What was exported to where: by path, what the file was like then, and what was in it.
_EXPORTS = RecordKind("what an instance was exported to", 1, {"exports": OBJECT})
_FILE = "exports.json"
_MOST_NOTED = 50

# What of an instance's record has no bearing on what it is.
_PASSING = frozenset(
    ("owner", "ready", "restarting", "stopping", "resumed", "ssh_port", "chosen_ports", "renamed_from", "unknown")
)


@dataclass
class ExportWish:
    """What a task asks for. path -- absolute; of the file, or of the directory that it is to be in"""

    instance: str
    path: str
    snapshots: bool = False
    compression: str = "auto"
    force: bool = False
    timeout: float = 300


class ExportOutcome(t.NamedTuple):
    """What a run did, or in check mode would do. view -- the file as users see it"""

    changed: bool
    actions: list[str]
    view: dict[str, t.Any]
    before: dict[str, t.Any]
    after: dict[str, t.Any]


def parse_export_wish(params: t.Mapping[str, t.Any]) -> ExportWish:
    """A wish from a task's options. InvalidOption where one of them cannot be meant."""
    wish = ExportWish(check_name(params["instance"], "instance"), str(params["path"]))
    for option in ("snapshots", "compression", "force", "timeout"):
        if params.get(option) is not None:
            setattr(wish, option, params[option])
    into = wish.path.endswith("/") or os.path.isdir(os.path.expanduser(wish.path))
    wish.path = os.path.abspath(os.path.expanduser(wish.path))
    if into:
        wish.path = os.path.join(wish.path, f"{wish.instance}{_SUFFIX}")
    if not wish.path.isprintable():
        raise InvalidOption(f"path {wish.path!r} has a character in it that cannot be shown", hint="Choose another.")
    return wish


def reconcile_export(
    wish: ExportWish,
    runtime: Runtime,
    data: DataDirectory,
    driver_name: str | None,
    driver_options: t.Mapping[str, t.Any] | None = None,
    check_mode: bool = False,
) -> ExportOutcome:
    """Have an instance be in a file, and tell what was done."""
    runtime.foretells = check_mode
    return _Task(wish, runtime, data, Crew(load(driver_name, runtime, data, driver_options))).run(check_mode)


class _Task:
    def __init__(self, wish: ExportWish, runtime: Runtime, data: DataDirectory, crew: Crew) -> None:
        self.wish = wish
        self.runtime = runtime
        self.data = data
        self.crew = crew
        self.scope = crew.wanted.scope
        self.notes = os.path.join(self.scope.directory(wish.instance), _FILE)

    def run(self, check_mode: bool) -> ExportOutcome:
        """See reconcile_export."""
        instance = self._exportable()
        noted = self._noted(instance)
        before = _comparable(self.wish.path, noted)
        if noted and not self.wish.force:
            return ExportOutcome(False, [], self._view(noted), before, before)
        self.runtime.begin_changes()
        self._check_target(instance)
        if check_mode:
            predicted = {"size": 0, "checksum": "", "state": self._state(instance)}
            return ExportOutcome(
                True, ["export"], self._view(predicted), before, _comparable(self.wish.path, predicted)
            )
        with self.scope.lock(self.wish.instance, Deadline(self.wish.timeout), self.runtime.report):
            instance = self._exportable()
            made = self._export(instance)
        return ExportOutcome(True, ["export"], self._view(made), before, _comparable(self.wish.path, made))

    def _view(self, noted: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        return {
            "path": self.wish.path,
            "size": noted["size"],
            "checksum": f"sha256:{noted['checksum']}" if noted["checksum"] else "",
            "instance": self.wish.instance,
            "snapshots": self.wish.snapshots,
        }

    # What there is

    def _exportable(self) -> Instance:
        """The record of the instance, which is stopped and whole."""
        wish = self.wish
        instance = self.scope.read(wish.instance)
        if instance is None or instance.phase != "ready":
            raise NotFound(
                f"there is no instance {wish.instance} to export",
                "" if instance is None else "the run that was making or removing it did not get to its end",
                f"Look with minicloud.local.instance_info which instances the driver {self.crew.wanted.name} has.",
            )
        what = f"the instance {instance.name} cannot be exported"
        driver = self.crew.of(instance)
        require_capability(driver.name, "export", f"export of a {instance.instance_type}", instance.instance_type)
        if wish.snapshots and not driver.about.can("export_snapshots", instance.instance_type):
            raise NotSupported(
                f"the snapshots of {instance.name} cannot be exported",
                f"the driver {driver.name} keeps those of a {instance.instance_type} where nobody else can read them",
                "Leave snapshots out; to keep a snapshot, bring the instance back to it and export that.",
            )
        if instance.restoring:
            raise InUse(
                what,
                "bringing it back to a snapshot was begun and did not come to an end",
                "Run that again first, with minicloud.local.snapshot.",
            )
        seen = as_recorded(instance, driver.observe([instance])[0])
        if seen.state != STOPPED:
            hints = {
                "deleted": "Recover it first, with state: present of minicloud.local.instance.",
                "absent": "It was removed at the hypervisor by other means.",
            }
            raise InUse(
                what,
                f"it is {seen.state}" + (", and its disk changes all the time" if seen.state == "running" else ""),
                hints.get(seen.state, "Stop it first, with state: stopped of minicloud.local.instance."),
                state=seen.state,
            )
        return instance

    def _snapshots(self) -> list[Snapshot]:
        if not self.wish.snapshots:
            return []
        found, broken = self.scope.snapshots(self.wish.instance).all()
        if broken:
            raise broken[0]
        return [each for each in found if each.phase == "ready"]

    def _part(self, instance: Instance) -> Export:
        return t.cast(Export, self.crew.of(instance).export())

    def _state(self, instance: Instance) -> str:
        """What changes when what would be in the file does."""
        record = {key: value for key, value in instance.to_dict().items() if key not in _PASSING}
        known = [
            record,
            [each.to_dict() for each in self._snapshots()],
            self._part(instance).stamp(instance),
            [self.wish.snapshots, self.wish.compression],
        ]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def _noted(self, instance: Instance) -> dict[str, t.Any] | None:
        """What is known of the file, where it is there as it was written, of the instance as it is now."""
        noted = read_notes(self.notes, _EXPORTS).get("exports", {}).get(self.wish.path)
        try:
            good = (
                isinstance(noted["size"], int)
                and isinstance(noted["checksum"], str)
                and noted["file"] == file_stamp(self.wish.path) != ""
                and noted["state"] == self._state(instance)
            )
        except (TypeError, KeyError):
            return None
        return dict(noted) if good else None

    def _check_target(self, instance: Instance) -> None:
        """Raise for what cannot be written, or is something else than an earlier export of this instance."""
        path = self.wish.path
        directory = os.path.dirname(path)
        what = f"{self.wish.instance} cannot be exported to {path}"
        if not os.path.isdir(directory):
            raise InvalidOption(what, f"there is no directory {directory}", "Make it, or choose another path.")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise InvalidOption(what, f"this user may not write in {directory}", "Choose another path.")
        if not os.path.lexists(path):
            return
        if os.path.islink(path) or not os.path.isfile(path):
            raise InvalidOption(what, "what is there is no plain file", "Choose another path.")
        if self.wish.force:
            return
        noted = read_notes(self.notes, _EXPORTS).get("exports", {}).get(path)
        if isinstance(noted, dict) and noted.get("file") == file_stamp(path):
            return
        from ansible_collections.minicloud.local.plugins.module_utils._images.archive import Reading

        hint = "Choose another path, remove that file, or add force: true, which overwrites it."
        try:
            there = Reading(self.runtime, path).look().instance
        except (ImageError, MinicloudError) as exc:
            raise InUse(what, "there is a file which is no exported instance", hint) from exc
        if there.uuid != instance.uuid:
            raise InUse(what, f"there is an export of another instance, {there.name}", hint)

    # What is done

    def _export(self, instance: Instance) -> dict[str, t.Any]:
        from ansible_collections.minicloud.local.plugins.module_utils._images import archive

        report = self.runtime.report
        report.step("export")
        path = self.wish.path
        snapshots = self._snapshots()
        now = timestamp()
        kind = archive.choose_compression(self.wish.compression)
        remove_leftovers(os.path.dirname(path), os.path.basename(path))
        with self._part(instance).content(instance, snapshots) as content:
            state = self._state(instance)
            manifest = archive.Manifest(
                _portable(instance),
                [(piece.name, piece.size) for piece in content.pieces],
                [replace(each, record=_portable(each.then).to_dict()) for each in snapshots],
                content.disk,
                dict(content.backing),
                now,
                state,
            ).to_bytes()
            with explained(f"{path} could not be written"), replacing(path) as stream:
                packer = archive.Packer(self.runtime, stream, kind)
                try:
                    archive.write_archive(packer, manifest, content.pieces, int(time.time()), self.runtime)
                except BaseException:
                    with contextlib.suppress(Exception):
                        packer.abandon()
                    raise
                report.step("written")
        report.step("in_place")
        made = {
            "file": file_stamp(path),
            "size": packer.size,
            "checksum": packer.checksum,
            "state": state,
            "created": now,
        }
        exports = read_notes(self.notes, _EXPORTS).get("exports", {})
        exports = {each: noted for each, noted in exports.items() if os.path.exists(each) and each != path}
        newest = dict(list(exports.items())[-_MOST_NOTED:])
        write_record(self.notes, _EXPORTS, {"exports": {**newest, path: made}})
        return made


def _portable(instance: Instance) -> Instance:
    """A record without what only has a meaning on this host."""
    image = {key: value for key, value in instance.image.items() if key != "path"}
    return replace(
        instance,
        owner="",
        handles={},
        ssh_port=0,
        chosen_ports=[],
        host_keys=[],
        restarting=False,
        stopping="",
        resumed=False,
        cloud="",
        image=image,
    )


def _comparable(path: str, noted: t.Mapping[str, t.Any] | None) -> dict[str, t.Any]:
    return {"path": path, "state": noted["state"]} if noted else {"path": path}
