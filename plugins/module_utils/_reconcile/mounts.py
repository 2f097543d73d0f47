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
    HypervisorError,
    InUse,
    InvalidOption,
    MinicloudError,
    NotSupported,
    RestartRequired,
)
from ansible_collections.minicloud.local.plugins.module_utils._guest import sshfs
from ansible_collections.minicloud.local.plugins.module_utils._guest.folders import (
    copy_folder,
    is_missing,
    list_folder,
    users_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    DEFAULT_ID,
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

_MAP = re.compile(r"([0-9]{1,10}):([0-9]{1,10}|default)\Z", re.ASCII)
_LARGEST_ID = (1 << 32) - 2

# Why a copy was not brought yet, and a mount not made.
_LONGEST_FAILURE = 1000
_LATER_MOUNTED = "The next run for the instance mounts it."
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
        if not match or int(match[1]) > _LARGEST_ID or (match[2] != "default" and int(match[2]) > _LARGEST_ID):
            raise InvalidOption(
                f"{option} has {text!r}",
                "it is no pair of numbers",
                "Write host:guest in quotes, such as '1000:1000', or '1000:default' for the guest's login user.",
            )
        pair = (int(match[1]), DEFAULT_ID if match[2] == "default" else int(match[2]))
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
            why = _obstacle(replace(instance, owner=""), mount, driver)
            if why:
                other = "copy, which brings the content of the folder into the guest"
                if mount.type == "native" and not sshfs.why_not(mount):
                    other = "auto, which goes by ssh where it has to"
                raise NotSupported(
                    f"{mount.source} cannot be mounted in {instance.name}",
                    why,
                    f"Put that right, or use type: {other}.",
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


def _obstacle(instance: Instance, mount: Mount, driver: Driver) -> str:
    """Why a mount cannot be made, by any of the means that it may be made by."""
    native = _native_obstacle(instance, mount, driver) if mount.may_be_native else ""
    if not mount.may_be_classic or (mount.may_be_native and not native):
        return native
    classic = sshfs.why_not(mount)
    return f"by the hypervisor: {native}; by ssh: {classic}" if native and classic else classic


def _attached(instance: Instance, driver: Driver) -> dict[str, str]:
    """The mounts of a running instance that are there: their mechanism by place."""
    found: dict[str, str] = {}
    part = _part(driver, instance)
    if part is not None and any(mount.may_be_native for mount in instance.mounts):
        found.update(part.active([instance]).get(instance.uuid, {}))
    directory = driver.scope.directory(instance.name)
    for mount in instance.mounts:
        place = instance.place_of(mount)
        if mount.may_be_classic and place and place not in found and sshfs.is_served(directory, place):
            found[place] = sshfs.MECHANISM
    return found


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
        elif not _obstacle(instance, mount, driver):
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
                reason = _obstacle(instance, mount, driver)
            reason = reason or mount.failure or _NEXT_RUN
        views.append(
            {
                "source": mount.source,
                "target": instance.place_of(mount) or mount.target,
                "type": mount.type,
                "mechanism": mount.mechanism,
                "active": not reason,
                "reason": reason,
                "not_native": mount.not_native,
                "read_only": mount.read_only,
                "uid_map": _shown(mount.uid_map),
                "gid_map": _shown(mount.gid_map),
                "delete": mount.delete,
            }
        )
    return views


def _shown(pairs: t.Sequence[tuple[int, int]]) -> list[str]:
    return [f"{host}:{'default' if guest == DEFAULT_ID else guest}" for host, guest in pairs]


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
                # What was mounted in it is below it now, where nobody sees it.
                below = f"{instance.place_of(mount)}/"
                attached = {place: found for place, found in attached.items() if not place.startswith(below)}
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
        if not mount.may_be_native:
            return self._serve(instance, mount, place)
        try:
            return self._attach(instance, mount, place)
        except (RestartRequired, NotSupported, HypervisorError) as exc:
            if not mount.may_be_classic:
                raise
            why = sshfs.why_not(mount)
            if why:
                exc.why = f"by the hypervisor: {exc.why or exc.what}; by ssh: {why}"
                raise
            not_native = (exc.why or exc.what)[:_LONGEST_FAILURE]
        return replace(self._serve(instance, mount, place), not_native=not_native)

    def _attach(self, instance: Instance, mount: Mount, place: str) -> Mount:
        """Have the hypervisor make a mount."""
        why = _native_obstacle(instance, mount, self.driver)
        part = _part(self.driver, instance)
        if why and not _native_obstacle(replace(instance, owner=""), mount, self.driver):
            raise RestartRequired(f"{mount.source} cannot be mounted now", why, "Set state: restarted to have it so.")
        if why or part is None:
            raise NotSupported(f"{mount.source} cannot be mounted", why)
        self.runtime.report.step("attach_folder")
        if part.guest_mounts and not instance.ready:
            raise NotSupported(f"{mount.source} is not mounted yet", "nobody has waited for the guest", _LATER_MOUNTED)
        access = ssh_access(instance, self.driver, self.data)
        mechanism = part.attach(instance, replace(mount, target=place), access)
        self.runtime.report.step("attached_folder")
        return replace(mount, mechanism=mechanism, failure="", not_native="")

    def _serve(self, instance: Instance, mount: Mount, place: str) -> Mount:
        """Have a mount made by way of ssh."""
        why = sshfs.why_not(mount)
        if why:
            raise NotSupported(f"{mount.source} cannot be mounted", why)
        if not instance.ready:
            raise NotSupported(f"{mount.source} is not mounted yet", "nobody has waited for the guest", _LATER_MOUNTED)
        access = ssh_access(instance, self.driver, self.data)
        self.runtime.report.step("serve_folder")
        sshfs.serve(self.runtime, self._directory(instance), access, replace(mount, target=place), instance.name)
        self.runtime.report.step("served_folder")
        return replace(mount, mechanism=sshfs.MECHANISM, failure="", not_native="")

    def _directory(self, instance: Instance) -> str:
        return self.driver.scope.directory(instance.name)

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

    def take_away(self, instance: Instance, mounts: t.Sequence[Mount], runs: bool, force: bool) -> None:
        """Take mounts from an instance. Copies stay. InUse where the guest uses one, unless by force.

        runs -- whether it does: what does nothing cannot be asked, and gives them up when it goes on
        """
        attached = _attached(instance, self.driver) if runs else {}
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
        for mount in sorted(gone, key=lambda each: each.target, reverse=True):
            if attached[mount.target] == sshfs.MECHANISM:
                self._unmount(instance, mount.target, force, "fuse.sshfs")
                sshfs.stop_serving(self._directory(instance), mount.target)
            elif part:
                if part.guest_mounts:
                    self._unmount(instance, mount.target, force, part.guest_mounts)
                part.detach(instance, mount, force)
        for mount in mounts:
            # Also one that waits for its guest.
            if mount.may_be_classic and instance.place_of(mount):
                sshfs.stop_serving(self._directory(instance), instance.place_of(mount))

    def _unmount(self, instance: Instance, place: str, force: bool, kind: str) -> None:
        """Have the guest let a folder go, before it is served no longer: so nothing that was written is lost."""
        access = ssh_access(instance, self.driver, self.data)
        try:
            sshfs.unmount(self.runtime, access, place, force, kind)
        except MinicloudError as exc:
            if not force:
                raise InUse(
                    f"{place} of {instance.name} could not be unmounted",
                    exc.why,
                    "Put that right; or add force: true, and whoever uses it loses what is open.",
                ) from exc


@contextlib.contextmanager
def set_aside(
    instance: Instance, driver: Driver, runtime: Runtime, data: DataDirectory, comes_back: bool = True
) -> t.Iterator[None]:
    """Have no mount keep a running instance from being saved: those that would are taken off, and put back.

    comes_back -- whether the instance runs on at the end; else they are only put back where saving it fails
    InUse where the guest uses one; nothing has changed then.
    """
    part = _part(driver, instance)
    attached = _attached(instance, driver) if instance.mounts else {}
    mounts = [each for each in instance.mounts if instance.place_of(each) in attached]
    # One by ssh goes on after a moment, but not after hours.
    served = [each for each in mounts if attached[instance.place_of(each)] == sshfs.MECHANISM and not comes_back]
    plugged = [each for each in mounts if attached[instance.place_of(each)] != sshfs.MECHANISM]
    plugged = plugged if part and part.blocks_saving else []
    if not (served or plugged):
        yield
        return
    runtime.report.step("set_mounts_aside")
    mounter = Mounter(driver, runtime, data, lambda record: record)
    mounter.take_away(instance, plugged, True, force=False)
    mounter.take_away(instance, served, True, force=True)
    saved = False
    try:
        yield
        saved = True
    finally:
        if comes_back or not saved:
            runtime.report.step("put_mounts_back")
            mounter.make(replace(instance, mounts=[*plugged, *served]), "", False)


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
