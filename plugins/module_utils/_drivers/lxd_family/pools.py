# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What instances need in LXD before there are any: a project, a storage pool, a profile with a root disk."""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.api import DEFAULT_PROJECT
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.client import LxdClient
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.look import LxdLooks, storage_drivers
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InUse,
    InvalidOption,
    NoSpace,
    NotFound,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import GIB, format_size

# The storage pool that is made where there is none to use.
POOL = "minicloud"
PROFILE = "default"
_PROFILE_KEYS = ("config", "description", "devices")

# Storage drivers that make a new instance without copying its image, best first.
_COPY_ON_WRITE = ("zfs", "btrfs")
_LEAST_POOL = 5 * GIB


class LxdPools:
    """See prepare()."""

    def __init__(self, look: LxdLooks, client: LxdClient) -> None:
        self.look = look
        self.client = client
        self.place = look.place
        self.product = look.product
        self.runtime = look.runtime
        self.scope = look.scope

    def check(self) -> None:
        """Raise InvalidOption for a project or a pool that a task names and LXD has not: a typing error makes none."""
        place = f"{self.product} at {self.place.endpoint}"
        for option, name, own, kind in (
            ("project", self.place.project, DEFAULT_PROJECT, "projects"),
            ("storage_pool", str(self.look.options.get("storage_pool") or ""), POOL, "storage-pools"),
        ):
            if name in ("", own):
                continue
            listed = self.client.call(
                "get", kind, f"the {kind} of {place} could not be listed", query={"recursion": "1"}, project=""
            )
            names = sorted(str(each["name"]) for each in listed)
            if name not in names:
                raise InvalidOption(
                    f"driver_options.{option} {name!r} is not there",
                    f"{place} has {', '.join(names) or 'none'}",
                    f"Name one of these, or make it first; only {own} is made when it is needed.",
                )

    def prepare(self) -> str:
        """Have the project, a storage pool and the profile; return the pool. Made once, by one run of many."""
        pool = self._profile_pool()
        wanted = str(self.look.options.get("storage_pool") or "")
        if pool and wanted in ("", pool):
            return pool
        self.check()
        if pool and wanted != POOL:  # instances of this task go elsewhere
            return wanted
        if pool:
            self._have_pool(POOL)
            return POOL
        with self.scope.data.lock(f"{self.scope.name}-setup", report=self.runtime.report):
            self._have_project()
            pool = wanted or POOL
            self._have_pool(pool)
            self.runtime.report.step("lxd_profile")
            doing = (
                f"the default profile of the {self.product} project {self.place.project} could not be given a root disk"
            )
            profile = self.client.call("get", f"profiles/{PROFILE}", doing)
            profile["devices"].setdefault("root", {"type": "disk", "path": "/", "pool": pool})
            self.client.call("put", f"profiles/{PROFILE}", doing, json={key: profile[key] for key in _PROFILE_KEYS})
        return pool

    def _profile_pool(self) -> str:
        try:
            profile = self.client.call(
                "get", f"profiles/{PROFILE}", f"the profile of the {self.product} project could not be read"
            )
        except (NotFound, HypervisorError):
            return ""
        return str(profile["devices"].get("root", {}).get("pool", ""))

    def _have_project(self) -> None:
        name = self.place.project
        doing = f"the {self.product} project {name} could not be made"
        self.runtime.report.step("lxd_project")
        config = {"features.images": "true", "features.profiles": "true", "features.storage.volumes": "true"}
        body = {"name": name, "description": "Instances of the Ansible collection minicloud.local", "config": config}
        with contextlib.suppress(InUse):
            self.client.call("post", "projects", doing, json=body, project="")

    def _have_pool(self, name: str) -> None:
        with contextlib.suppress(NotFound):
            pool = self.client.call(
                "get", f"storage-pools/{name}", f"the storage pool {name} could not be looked at", project=""
            )
            if pool.get("status", "Created") == "Created":
                return
        self.runtime.report.step("lxd_pool")
        environment = self.look.server()["environment"]
        supported = storage_drivers(environment)
        failures = []
        for driver in [*(name for name in _COPY_ON_WRITE if name in supported), "dir"]:
            try:
                self._make_pool(name, driver, environment)
            except InUse:
                return  # another run was faster
            except HypervisorError as exc:
                failures.append(f"{driver}: {exc.why}")
                continue
            if driver == "dir":
                why = f" ({'; '.join(failures)})" if failures else ""
                self.runtime.report.warn(
                    f"The storage pool {name} of {self.product} is of the type dir, so that each new instance copies"
                    f" its whole image: this {self.product} can have neither zfs nor btrfs{why}. Install zfsutils-linux"
                    f" or btrfs-progs, start {self.product} anew, make a pool of that type ({self.product.client}"
                    " storage create), and name it in driver_options.storage_pool."
                )
            return
        raise HypervisorError(
            f"{self.product} could not make the storage pool {name}",
            "; ".join(failures),
            f"Make one yourself ({self.product.client} storage create) and name it in driver_options.storage_pool.",
        )

    def _make_pool(self, name: str, driver: str, environment: t.Mapping[str, t.Any]) -> None:
        config = {}
        if driver != "dir":
            size = self._pool_size()
            if size:
                config["size"] = f"{size // GIB}GiB"
        self.client.make_clustered("storage-pools", name, environment, {"driver": driver}, config, ("size",))

    def _pool_size(self) -> int:
        """How large a new pool's file may become: most of what is free now. It takes only what is in use."""
        if not self.look.host.here:
            return 0  # LXD knows its own disk
        directory = os.path.dirname(self.place.endpoint)
        try:
            status = os.statvfs(directory)
        except OSError:
            return 0
        free = status.f_bavail * status.f_frsize
        if free < _LEAST_POOL:
            raise NoSpace(
                f"{directory} has no room for a storage pool of {self.product}",
                f"{format_size(free)} are free, and it should have {format_size(_LEAST_POOL)} at least",
                "Free some space there, or name a pool that exists in driver_options.storage_pool.",
            )
        return max(_LEAST_POOL, free // 5 * 4)
