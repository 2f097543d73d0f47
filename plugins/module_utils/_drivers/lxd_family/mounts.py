# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Folders of the host in containers of LXD: its disk devices."""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import config as lxd_config
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.look import LxdLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Mounts
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._files import is_closed
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import SshAccess
from ansible_collections.minicloud.local.plugins.module_utils._host import mount_table
from ansible_collections.minicloud.local.plugins.module_utils._model import DEFAULT_ID, Instance, Mount
from ansible_collections.minicloud.local.plugins.module_utils._options import TRUE_WORDS

_MECHANISM = "disk device"
# Why a folder is not given away as it is.
_OPEN = (
    "root of the container could leave setuid programs in {}, which other users of this host can get to. Have it in a"
    " directory that only its owner may enter (chmod 700), or mount it with read_only"
)
_SUBIDS = {"uid": "/etc/subuid", "gid": "/etc/subgid"}


class ChangesFolders(t.Protocol):
    """What changes the devices of a running instance that have folders of the host appear."""

    def change_folders(
        self, instance: Instance, change: t.Callable[[lxd_config.Devices], None], doing: str
    ) -> None: ...


class LxdMounts(Mounts):
    """See Mounts. acts -- what changes instances, imported only then

    A container has ids of its own, so those of a folder are nobody's in it. Either the kernel shifts them, which only
    trying can tell: what it says of itself is not true for each file system. Or, with uid_map and gid_map, single ids
    of the host are made known to the container, at its next start.
    """

    capabilities = {"native_mounts": ("container",)}

    def __init__(self, look: LxdLooks, acts: t.Callable[[], ChangesFolders] | None = None) -> None:
        self.look = look
        self._acts = acts

    def why_not(self, instance: Instance, mount: Mount) -> str:
        if not self.look.host.here:
            return f"{self.look.product} runs on another host, which does not have the folders of this one"
        if DEFAULT_ID in [guest for dummy, guest in (*mount.uid_map, *mount.gid_map)]:
            return "its ids are mapped before the guest runs, which alone knows those of its login user"
        if _outsiders_gain(mount):
            return _OPEN.format(mount.source)
        if not (mount.uid_map or mount.gid_map):
            return ""
        missing = self._missing_subids(mount)
        if missing:
            return (
                f"{self.look.product} may not use these ids of the host: {missing}. Add these lines, and it can be"
                " mounted at the next start"
            )
        record = self._seen(instance) if instance.owner else None
        if record and record["status"] == "Running":
            mapped = (record.get("expanded_config") or record["config"]).get(lxd_config.IDMAP, "").split("\n")
            if not set(lxd_config.idmap_of(_only(instance, mount)).split("\n")) <= set(mapped):
                return "its ids are mapped when the instance is started the next time"
        return ""

    def _unmappable(self, mount: Mount) -> bool:
        return bool(self._missing_subids(mount)) or DEFAULT_ID in [
            guest for dummy, guest in mount.uid_map + mount.gid_map
        ]

    @staticmethod
    def _missing_subids(mount: Mount) -> str:
        """The lines that the system's tables of ids lack, which would have a start fail."""
        missing = []
        for kind, pairs in (("uid", mount.uid_map), ("gid", mount.gid_map)):
            allowed = _ranges(_SUBIDS[kind])
            for host, dummy in pairs:
                if not any(first <= host < first + count for first, count in allowed):
                    missing.append(f"root:{host}:1 in {_SUBIDS[kind]}")
        return ", ".join(missing)

    def _seen(self, instance: Instance) -> t.Mapping[str, t.Any] | None:
        seen = self.look.seen.get(instance.name)
        if seen and seen["config"].get(lxd_config.UUID) == instance.uuid:
            return seen
        return self.look.record(instance) if instance.uuid else None

    def kept(self, instance: Instance, devices: t.Mapping[str, t.Mapping[str, str]]) -> lxd_config.Devices:
        """Of the devices that are there, those of folders that the record, and the host, still have."""
        there = (
            mount
            for mount in instance.mounts
            if mount.may_be_native and os.path.isdir(mount.source) and not _outsiders_gain(mount)
        )
        names = {lxd_config.folder_name(instance.place_of(mount)) for mount in there}
        return {name: device for name, device in lxd_config.folders_of(devices).items() if name in names}

    def map_ids(self, instance: Instance, before: t.Mapping[str, str], after: lxd_config.Config) -> None:
        """Have the configuration of a stopped instance map the ids of its mounts, unless somebody else has it so."""
        wanted = lxd_config.idmap_of(_only(instance, *(each for each in instance.mounts if not self._unmappable(each))))
        ours = before.get(lxd_config.OUR_IDMAP, "")
        if before.get(lxd_config.IDMAP, "") != ours:
            return
        for key in (lxd_config.IDMAP, lxd_config.OUR_IDMAP):
            after.pop(key, None)
            if wanted:
                after[key] = wanted

    def attach(self, instance: Instance, mount: Mount, access: SshAccess) -> str:
        doing = f"{self.look.product} could not mount {mount.source} in {instance.name}"
        name = lxd_config.folder_name(mount.target)
        maps = bool(mount.uid_map or mount.gid_map)
        record = self._seen(instance) or {"config": {}}
        privileged = (record.get("expanded_config") or record["config"]).get("security.privileged", "") in TRUE_WORDS
        device = lxd_config.folder_device(
            mount, not maps and not privileged, bool(mount_table.mounted_below(mount.source))
        )
        acts = t.cast("t.Callable[[], ChangesFolders]", self._acts)()
        try:
            acts.change_folders(instance, lambda devices: devices.update({name: device}), doing)
        except HypervisorError as exc:
            with contextlib.suppress(MinicloudError):
                self.detach(instance, mount, True)
            if "shift" in exc.why or "idmap" in exc.why:
                exc.hint = (
                    "This kernel cannot shift the ids of that file system: give uid_map and gid_map, or use type: copy."
                )
            raise
        return _MECHANISM

    def detach(self, instance: Instance, mount: Mount, force: bool) -> None:
        name = lxd_config.folder_name(mount.target)
        acts = t.cast("t.Callable[[], ChangesFolders]", self._acts)()
        doing = f"{self.look.product} could not unmount {mount.target} in {instance.name}"
        acts.change_folders(instance, lambda devices: t.cast(None, devices.pop(name, None)), doing)

    def active(self, instances: t.Sequence[Instance]) -> dict[str, dict[str, str]]:
        found = {}
        for instance in instances:
            record = self._seen(instance)
            folders = lxd_config.folders_of(record["devices"]) if record else {}
            found[instance.uuid] = {device["path"]: _MECHANISM for device in folders.values()}
        return found


def _only(instance: Instance, *mounts: Mount) -> Instance:
    from dataclasses import replace

    return replace(instance, mounts=list(mounts))


def _outsiders_gain(mount: Mount) -> bool:
    """Whether users of the host could run what the container makes in a folder, with rights that they do not have.

    Whoever is root in the container may make setuid programs of all ids that it has: with shifted ids, of all ids.
    """
    if mount.read_only:
        return False
    try:
        return mount_table.obeys_setuid(mount.source) and not is_closed(mount.source, _insiders(mount))
    except OSError:
        return True


def _insiders(mount: Mount) -> set[int]:
    """The users of the host who have all the ids that a container may use in a folder, so that they gain nothing."""
    import pwd

    users = {host for host, dummy in mount.uid_map}
    with contextlib.suppress(KeyError):
        for uid in users if len(users) == 1 else ():
            user = pwd.getpwuid(uid)
            if {host for host, dummy in mount.gid_map} <= set(os.getgrouplist(user.pw_name, user.pw_gid)):
                return users
    return set()


def _ranges(path: str) -> list[tuple[int, int]]:
    """The ids that root may give to containers: first and number of each range."""
    found = []
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            owner, dummy, numbers = line.strip().partition(":")
            first, dummy, count = numbers.partition(":")
            if owner in ("root", "0") and first.isdecimal() and count.isdecimal():
                found.append((int(first), int(count)))
    return found
