# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Instances that are made from others of their scope: what each is made of, and making it.

What is made of one that runs is made of a snapshot, which goes again at once. Its record is never more than begun, so
that any run which changes snapshots takes away what one that was killed has left of it.
"""

from __future__ import annotations

import contextlib
import typing as t
from dataclasses import replace

from ansible_collections.minicloud.local.plugins.module_utils._drivers.crew import Crew
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Clones
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import require_capability
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    InUse,
    InvalidOption,
    MinicloudError,
    NotFound,
    RecordError,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ABSENT,
    DELETED,
    FULL,
    RUNNING,
    UP,
    Instance,
    Observed,
    as_recorded,
    key_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.plan import (
    LEFTOVERS,
    Parent,
    Surroundings,
    drift_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.source import Clone
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.syncing import sync_guest
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import Wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime, timestamp
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot


class Found(t.NamedTuple):
    """What a source is. state -- of the instance; snapshot -- of it, None where that is not what is cloned"""

    instance: Instance
    state: str
    snapshot: Snapshot | None


def around_clone(
    around: Surroundings, wish: Wish, source: Clone, crew: Crew, current: Instance | None, observed: Observed | None
) -> Surroundings:
    """The surroundings of a plan for a clone, with what it is made of where it may have to be made.

    Where the source of one that is there has another name by now, the wish gets the one that it had.
    """
    there = current is not None and observed is not None and observed.state not in (ABSENT, LEFTOVERS)
    if there and current is not None:
        _follow_names(wish, source, crew, current)
        if not wish.recreate or not drift_of(wish, current, None):
            return around
    if wish.state in (ABSENT, DELETED):
        return around
    expected = None if source.snapshot else wish.expected.get(key_of(source.instance))
    found = Found(*expected, None) if expected else find_source(source, wish.name, crew)
    then = found.instance
    if found.snapshot:
        try:
            then = found.snapshot.then
        except ValueError as exc:
            raise RecordError(f"{source} cannot be cloned", str(exc)) from exc
    noted = {
        "name": str(source),
        "uuid": found.instance.uuid,
        "snapshot": found.snapshot.uuid if found.snapshot else "",
    }
    return around._replace(parent=Parent(replace(then, driver=around.driver), noted))


def _follow_names(wish: Wish, source: Clone, crew: Crew, current: Instance) -> None:
    if key_of(str(source)) == key_of(current.source.get("name", "")) or not current.source.get("uuid"):
        return
    parent = crew.wanted.scope.read(source.instance)
    if parent is None or parent.uuid != current.source["uuid"]:
        return
    snapshot = ""
    if source.snapshot:
        snapshots = crew.wanted.scope.snapshots(parent.name).all()[0]
        snapshot = next((each.uuid for each in snapshots if key_of(each.name) == key_of(source.snapshot)), "unknown")
    if snapshot == current.source.get("snapshot", ""):
        name, dummy, kept = current.source["name"].partition("@")
        wish.source = Clone(name, kept)


def find_source(source: Clone, name: str, crew: Crew) -> Found:
    """What the clone NAME is made of. NotFound, InUse, NotSupported, InvalidOption where it cannot be."""
    if key_of(source.instance) == key_of(name):
        raise InvalidOption(f"{name} cannot be made from itself", hint="Name another instance as source.")
    scope = crew.wanted.scope
    instance = scope.read(source.instance)
    if instance is None:
        raise NotFound(
            f"there is no instance {source.instance} to make {name} from",
            hint=f"Look with minicloud.local.instance_info which instances the driver {crew.wanted.name} has.",
        )
    what = f"{name} cannot be made from {source}"
    if instance.phase != "ready":
        raise InUse(what, f"{instance.name} is not whole: a run that made or removed it was cut off")
    if instance.deleted:
        raise InUse(
            what, f"{instance.name} is deleted, since {instance.deleted}", "Recover it first, with state: present."
        )
    for driver_name in (crew.wanted.name, crew.of(instance).name):
        require_capability(driver_name, "clones", f"source: {source}", instance.instance_type)
    snapshots, broken = scope.snapshots(instance.name).all()
    if source.snapshot:
        if broken:
            raise broken[0]
        whole = [each for each in snapshots if each.phase == "ready"]
        snapshot = next((each for each in whole if key_of(each.name) == key_of(source.snapshot)), None)
        if snapshot is None:
            known = ", ".join(each.name for each in whole) or "none"
            raise NotFound(f"{instance.name} has no snapshot {source.snapshot}", hint=f"It has: {known}.")
        return Found(instance, "", snapshot)
    driver = crew.of(instance)
    seen = as_recorded(instance, driver.observe([instance])[0])
    if seen.state == ABSENT:
        raise NotFound(f"{instance.name} is not there", seen.reason or ". ".join(seen.drift))
    if instance.restoring:
        raise InUse(
            what,
            f"a run that brought {instance.name} back to a snapshot was cut off",
            f"Start {instance.name} first, or bring it back again.",
        )
    why = _part(driver.snapshots()).why_not(instance, False)
    if why:
        raise InUse(what, why, f"Stop {instance.name} first: state: stopped. Or name one of its snapshots.")
    return Found(instance, seen.state, None)


_Part = t.TypeVar("_Part")


def _part(part: _Part | None) -> _Part:
    """A part that a driver has, by its capabilities."""
    return t.cast("_Part", part)


def linked_clones(crew: Crew, instance: Instance, snapshot: str = "") -> list[str]:
    """The names of the clones whose disks share something with the instance that they were made of.

    snapshot -- the uuid of one of it, if only those are meant that were made of that
    """
    others = [
        each
        for each in crew.wanted.scope.instances()[0]
        if each.source.get("uuid") == instance.uuid and (not snapshot or each.source.get("snapshot") == snapshot)
    ]
    part = crew.of(instance).clones() if others else None
    return [each.name for each in part.linked(instance, others)] if part else []


def refuse_to_lose(what: str, clones: t.Collection[str]) -> None:
    """Raise InUse where something is to go that clones share. WHAT -- that cannot be removed"""
    if clones:
        names = ", ".join(sorted(clones, key=key_of))
        raise InUse(
            f"{what} cannot be removed",
            f"linked clones were made of it: {names}",
            "Remove them first; or add force: true, which leaves them all that they have, as instances of their own.",
            clones=sorted(clones, key=key_of),
        )


class Cloning:
    """Makes clones of one source. Whoever calls make() holds the locks of both instances."""

    def __init__(self, source: Clone, crew: Crew, runtime: Runtime, data: DataDirectory) -> None:
        self.source = source
        self.crew = crew
        self.runtime = runtime
        self.data = data

    def make(self, instance: Instance, seed: t.Mapping[str, bytes]) -> Instance:
        """Make what an instance consists of; its record, with how its disk was made."""
        found = find_source(self.source, instance.name, self.crew)
        self._remove_leftovers(found.instance)
        full = instance.source.get("copy") == FULL
        part: Clones = _part(self.crew.wanted.clones())
        if found.snapshot or found.state not in UP:
            made = part.make(instance, found.instance, found.snapshot, seed, full)
        else:
            with self._snapshot(found.instance, instance) as snapshot:
                made = part.make(instance, found.instance, snapshot, seed, full)
        return replace(instance, source={**instance.source, "copy": made})

    @contextlib.contextmanager
    def _snapshot(self, parent: Instance, clone: Instance) -> t.Iterator[Snapshot]:
        """A snapshot of an instance that runs, for as long as it is needed."""
        sync_guest(parent, self.crew, self.data, self.runtime)
        snapshot = Snapshot(
            name=clone.name,
            uuid=clone.uuid,
            driver=self.crew.of(parent).name,
            created=timestamp(),
            parent=parent.snapshot,
            state=RUNNING,
            record=parent.to_dict(),
        )
        self.crew.wanted.scope.snapshots(parent.name).write(snapshot)
        self.runtime.report.step("clone_snapshot")
        try:
            _part(self.crew.of(parent).snapshots()).take(parent, snapshot, False)
            self.runtime.report.step("clone_snapshot_taken")
            yield snapshot
        except MinicloudError:
            with contextlib.suppress(MinicloudError):
                self._remove_leftovers(parent)
            raise
        self._remove_leftovers(parent)

    def _remove_leftovers(self, parent: Instance) -> None:
        """Have snapshots go that are not whole: that of this run, and what one that was killed has left.

        What a run that was to keep one has left, the next run that changes snapshots takes away.
        """
        records = self.crew.wanted.scope.snapshots(parent.name)
        for each in records.all()[0]:
            if each.phase == "creating" and each.uuid != parent.snapshot:
                _part(self.crew.of(parent).snapshots()).delete(parent, each)
                records.remove(each.uuid)
                self.runtime.report.step("clone_snapshot_gone")
