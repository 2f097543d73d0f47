# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Folders of the host in guests: what a task asks for, what there is of it, and how it comes about."""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import typing as t
from dataclasses import replace

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Mounts
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import (
    ABOUT,
)
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    InUse,
    InvalidOption,
    MinicloudError,
    NotSupported,
    RestartRequired,
)
from ansible_collections.minicloud.local.plugins.module_utils._guest.folders import (
    copy_folder,
    is_missing,
    list_folder,
    users_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    RUNNING,
    Instance,
    Mount,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.access import ssh_access
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

# Folders of a guest that nothing may be mounted on: it would not work without them. Of the first, nor below them.
_SYSTEM_TREES = ("/dev", "/proc", "/sys", "/boot", "/bin", "/sbin", "/lib")
_SYSTEM_FOLDERS = ("/", "/etc", "/home", "/lib32", "/lib64", "/libx32", "/opt", "/root", "/run", "/usr", "/var", "/tmp")

_MAP = re.compile(r"([0-9]{1,10}):([0-9]{1,10})\Z", re.ASCII)
_LARGEST_ID = (1 << 32) - 2

# Why a copy was not brought yet, and a mount not made.
_LONGEST_FAILURE = 1000
_LATER = "The next run for the instance copies it."
_NEXT_RUN = "the next run for the instance sees to it"


def parse_mounts(entries: t.Sequence[t.Mapping[str, t.Any]]) -> list[Mount]:
    """The mounts that a task lists. InvalidOption."""
    mounts = [parse_mount(entry) for entry in entries]
    targets = [mount.target for mount in mounts]
    for target in targets:
        if targets.count(target) > 1:
            raise InvalidOption(f"mounts has the target {target!r} twice", hint="Give each mount a target of its own.")
    return mounts


def parse_mount(entry: t.Mapping[str, t.Any]) -> Mount:
    """One mount from its options. InvalidOption."""
    source = entry.get("source")
    if not source:
        raise InvalidOption("a mount has no source", hint="Give the path of a folder of this host.")
    # The task is to name it: a path that depends on where a module happens to run is none.
    if not os.path.isabs(source):
        raise InvalidOption(f"source {source!r} is not an absolute path", hint="Begin it with /, or with ~/.")
    source = os.path.normpath(source)
    target = parse_target(entry.get("target") or posixpath.basename(source))
    mount = Mount(source, target, entry.get("type") or "auto")
    for option in ("uid_map", "gid_map"):
        setattr(mount, option, _parse_map(option, entry.get(option) or ()))
    mount.read_only = bool(entry.get("read_only"))
    mount.delete = bool(entry.get("delete"))
    if mount.type == "copy":
        for option in ("uid_map", "gid_map", "read_only"):
            if getattr(mount, option):
                raise InvalidOption(
                    f"the mount {source} has {option}, and type: copy does not know it",
                    "a copy belongs to the login user, and the guest does with it what it likes",
                    f"Leave {option} out, or use another type.",
                )
    elif mount.delete:
        raise InvalidOption(
            f"the mount {source} has delete, which is for type: copy", hint="Leave it out, or add type: copy."
        )
    return mount


def parse_target(text: str) -> str:
    """A target as it is kept: a path without dots, absolute or from the login user's home directory. InvalidOption"""
    target = text[2:] if text.startswith("~/") else text
    parts = target.split("/")
    if ".." in parts or any(not character.isprintable() for character in target) or target.startswith("~"):
        raise InvalidOption(
            f"target {text!r} is not a path in a guest",
            "it has .., a ~ of another user, or characters that cannot be printed",
            "Write it out.",
        )
    clean = "/" * target.startswith("/") + "/".join(part for part in parts if part not in ("", "."))
    tree = next((tree for tree in _SYSTEM_TREES if clean == tree or clean.startswith(f"{tree}/")), "")
    if tree or clean in _SYSTEM_FOLDERS or not clean or re.fullmatch("/home/[^/]+", clean):
        raise InvalidOption(
            f"target {text!r} is refused", "the guest does not work without what is there", "Choose another folder."
        )
    return clean


def _parse_map(option: str, pairs: t.Sequence[str]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for text in pairs:
        match = _MAP.match(text)
        pair = (int(match[1]), int(match[2])) if match else (-1, -1)
        if not match or max(pair) > _LARGEST_ID:
            raise InvalidOption(
                f"{option} has {text!r}", "it is no pair of numbers", "Write host:guest in quotes, such as '1000:1000'."
            )
        if any(pair[0] == other[0] or pair[1] == other[1] for other in found):
            raise InvalidOption(f"{option} maps one id twice", f"with {text!r}", "Give each id one other.")
        found.append(pair)
    return found


def check_mounts(instance: Instance, mounts: t.Sequence[Mount], driver: Driver, data: DataDirectory) -> None:
    """Raise for mounts that cannot be made in an instance as it will be. Nothing was changed then."""
    places = [instance.place_of(mount) or mount.target for mount in instance.mounts]
    for place in places:
        if places.count(place) > 1:
            raise InvalidOption(f"two mounts of {instance.name} have the target {place}", hint="Choose another one.")
    for mount in mounts:
        why = source_obstacle(mount, data)
        if why:
            raise InvalidOption(
                f"{mount.source} cannot be mounted in {instance.name}", why, "Name another folder, or put that right."
            )
        if mount.type == "copy":
            list_folder(mount.source)
        else:
            # What goes with the next start is no reason to refuse it.
            why = _native_obstacle(replace(instance, owner=""), mount, driver)
            if why:
                raise NotSupported(
                    f"{mount.source} cannot be mounted in {instance.name}",
                    why,
                    "Use type: copy, which brings the content of the folder into the guest.",
                )


def source_obstacle(mount: Mount, data: DataDirectory) -> str:
    """Why this host cannot give a folder, as a clause; empty where it can."""
    if not os.path.isdir(mount.source):
        return "it is not a folder" if os.path.lexists(mount.source) else "there is no such folder"
    if not os.access(mount.source, os.R_OK | os.X_OK):
        return "this user may not read it"
    real, own = os.path.realpath(mount.source), os.path.realpath(data.path)
    if os.path.commonpath([real, own]) in (real, own):
        return f"the data directory {data.path} is in it, or it is in that, and with it keys and disks of all instances"
    return ""


def _native_obstacle(instance: Instance, mount: Mount, driver: Driver) -> str:
    part = _part(driver, instance)
    if part is None:
        return f"the driver {driver.name} has no folders of the host in instances of the type {instance.instance_type}"
    return part.why_not(instance, mount)


def _part(driver: Driver, instance: Instance) -> Mounts | None:
    can = ABOUT[driver.name].can("native_mounts", instance.instance_type)
    return driver.mounts() if can else None


def _attached(instance: Instance, driver: Driver) -> t.Mapping[str, str]:
    part = _part(driver, instance)
    if part is None or all(mount.type == "copy" for mount in instance.mounts):
        return {}
    return part.active([instance]).get(instance.uuid, {})


def is_incomplete(instance: Instance, driver: Driver, data: DataDirectory) -> bool:
    """Whether a running instance lacks a mount of its record that could be there, or has an older copy."""
    attached = _attached(instance, driver)
    for mount in instance.mounts:
        if instance.place_of(mount) in attached or source_obstacle(mount, data) or not instance.place_of(mount):
            continue
        if mount.type == "copy":
            with contextlib.suppress(InvalidOption):  # some of it cannot be read
                if list_folder(mount.source).fingerprint != mount.copied:
                    return True
        elif not _native_obstacle(instance, mount, driver):
            return True
    return False


def mount_views(instance: Instance, state: str, driver: Driver, data: DataDirectory) -> list[dict[str, t.Any]]:
    """The mounts of an instance as users see them. state -- that it is in"""
    attached = _attached(instance, driver) if state == RUNNING and instance.mounts else {}
    views = []
    for mount in instance.mounts:
        reason = "" if state == RUNNING else f"the instance is {state}"
        if state == RUNNING and not (mount.copied if mount.type == "copy" else instance.place_of(mount) in attached):
            reason = source_obstacle(mount, data)
            if not reason and mount.type != "copy":
                reason = _native_obstacle(instance, mount, driver)
            reason = reason or mount.failure or _NEXT_RUN
        views.append(
            {
                "source": mount.source,
                "target": instance.place_of(mount) or mount.target,
                "type": mount.type,
                "mechanism": mount.mechanism,
                "active": not reason,
                "reason": reason,
                "read_only": mount.read_only,
                "uid_map": [f"{host}:{guest}" for host, guest in mount.uid_map],
                "gid_map": [f"{host}:{guest}" for host, guest in mount.gid_map],
                "delete": mount.delete,
            }
        )
    return views


class Mounter:
    """Makes and takes away the mounts of one instance, whose lock the caller holds.

    store -- keeps the record of the instance
    """

    def __init__(
        self, driver: Driver, runtime: Runtime, data: DataDirectory, store: t.Callable[[Instance], Instance]
    ) -> None:
        self.driver = driver
        self.runtime = runtime
        self.data = data
        self.store = store

    def make(self, instance: Instance, insisted: str, started: bool) -> tuple[Instance, bool]:
        """Have each mount of a running instance be there; whether anything was done for that.

        What cannot be made stays in the record, and is warned of. insisted -- the target of one whose failure is an
        error; started -- whether the guest was, since anybody looked at its copies
        """
        attached = _attached(instance, self.driver)
        acted = False
        for mount in sorted(instance.mounts, key=instance.place_of):
            if instance.place_of(mount) in attached:
                continue
            try:
                made = self._make(instance, mount, started)
            except MinicloudError as exc:
                if str(exc)[:_LONGEST_FAILURE] != mount.failure:
                    instance = self._noted(instance, replace(mount, failure=str(exc)[:_LONGEST_FAILURE]))
                if mount.target == insisted and not isinstance(exc, RestartRequired):
                    raise
                self.runtime.report.warn(f"{mount.source} is not mounted in {instance.name}: {exc}")
                continue
            if made:
                instance, acted = self._noted(instance, made), True
        return instance, acted

    def _noted(self, instance: Instance, mount: Mount) -> Instance:
        mounts = [mount if each.target == mount.target else each for each in instance.mounts]
        return self.store(replace(instance, mounts=mounts))

    def _make(self, instance: Instance, mount: Mount, started: bool) -> Mount | None:
        """The mount as it is now; None where it was so before."""
        why = source_obstacle(mount, self.data)
        place = instance.place_of(mount)
        if not why and not place:
            why = "the login user is not known before the first boot of the guest has ended"
        if why:
            raise InvalidOption(f"{mount.source} cannot be mounted", why)
        if mount.type == "copy":
            return self._copy(instance, mount, place, started)
        why = _native_obstacle(instance, mount, self.driver)
        part = _part(self.driver, instance)
        if why and not _native_obstacle(replace(instance, owner=""), mount, self.driver):
            raise RestartRequired(f"{mount.source} cannot be mounted now", why, "Set state: restarted to have it so.")
        if why or part is None:
            raise NotSupported(f"{mount.source} cannot be mounted", why)
        self.runtime.report.step("attach_folder")
        attached = part.attach(instance, replace(mount, target=place))
        self.runtime.report.step("attached_folder")
        return replace(mount, mechanism=attached.mechanism, failure="")

    def _copy(self, instance: Instance, mount: Mount, place: str, started: bool) -> Mount | None:
        if started and not instance.ready:
            raise NotSupported(f"{mount.source} is not copied yet", "nobody has waited for the guest", _LATER)
        listing = list_folder(mount.source)
        access = ssh_access(instance, self.driver, self.data)
        if listing.fingerprint == mount.copied and not (started and is_missing(self.runtime, access, place)):
            return None
        if listing.skipped:
            self.runtime.report.warn(
                f"Of {mount.source} {listing.skipped} entries are not copied: they are no files, folders or links."
            )
        first = not mount.mechanism
        self.runtime.report.step("copy_folder")

        def replacing() -> None:
            # What is in the guest's folder from now on is ours, also if this does not come to its end.
            mount.mechanism, mount.copied = "tar", ""
            self._noted(instance, mount)

        copy_folder(
            self.runtime,
            access,
            mount.source,
            place,
            listing,
            mount.delete,
            first,
            replacing,
        )
        self.runtime.report.step("copied_folder")
        return replace(mount, mechanism="tar", copied=listing.fingerprint, failure="")

    def take_away(self, instance: Instance, mounts: t.Sequence[Mount], force: bool) -> None:
        """Take mounts from a running instance. Copies stay. InUse where the guest uses one, unless by force."""
        attached = _attached(instance, self.driver)
        part = _part(self.driver, instance)
        gone = [replace(each, target=instance.place_of(each)) for each in mounts if instance.place_of(each) in attached]
        for mount in gone if not force else ():
            access = ssh_access(instance, self.driver, self.data)
            users = users_of(self.runtime, access, mount.target)
            if users:
                raise InUse(
                    f"{mount.target} of {instance.name} is in use",
                    f"by processes of the guest with the numbers {', '.join(users)}",
                    "End them; or add force: true, and they lose what they have open.",
                )
        for mount in gone:
            if part:
                part.detach(instance, mount, force)


@contextlib.contextmanager
def set_aside(
    instance: Instance, driver: Driver, runtime: Runtime, data: DataDirectory, comes_back: bool = True
) -> t.Iterator[None]:
    """Have no mount keep a running instance from being saved: those that would are taken off, and put back.

    comes_back -- whether the instance runs on at the end; else they are only put back where saving it fails
    InUse where the guest uses one; nothing has changed then.
    """
    part = _part(driver, instance)
    attached = _attached(instance, driver) if part and part.blocks_saving else {}
    if part is None or not attached:
        yield
        return
    mounts = [each for each in instance.mounts if instance.place_of(each) in attached]
    runtime.report.step("set_mounts_aside")
    Mounter(driver, runtime, data, lambda record: record).take_away(instance, mounts, force=False)
    saved = False
    try:
        yield
        saved = True
    finally:
        if comes_back or not saved:
            runtime.report.step("put_mounts_back")
            for mount in mounts:
                try:
                    part.attach(instance, replace(mount, target=instance.place_of(mount)))
                except MinicloudError as exc:
                    runtime.report.warn(f"{mount.source} is not mounted in {instance.name} any more: {exc}")


def changed_mounts(before: Instance, after: Instance) -> tuple[list[Mount], list[Mount]]:
    """The mounts that go from one record to the next, and those that come; one that is to be otherwise is in both."""
    asked = ("source", "target", "type", "uid_map", "gid_map", "read_only")

    def all_of(instance: Instance) -> dict[str, Mount]:
        return {repr([getattr(mount, key) for key in asked]): mount for mount in instance.mounts}

    old, new = all_of(before), all_of(after)
    return [old[key] for key in old if key not in new], [new[key] for key in new if key not in old]


def find_mounts(instance: Instance | None, source: str, target: str) -> list[Mount]:
    """The mounts of an instance that have a source or a target, of those which are given (empty: not)."""
    found = []
    for mount in instance.mounts if instance else ():
        wanted = replace(mount, target=target)
        at_target = instance is not None and target in (mount.target, instance.place_of(mount))
        at_target = at_target or (instance is not None and instance.place_of(wanted) == instance.place_of(mount) != "")
        if (not target or at_target) and (not source or source == mount.source):
            found.append(mount)
    return found
