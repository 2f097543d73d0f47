# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Images as users see them: what the vault has, and what image hosts offer. Nothing here changes anything."""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import ABOUT
from ansible_collections.minicloud.local.plugins.module_utils._errors import RecordError
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import Vault
from ansible_collections.minicloud.local.plugins.module_utils._model import CONTAINER, DISK, normal_arch
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime, timestamp
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


def list_images(runtime: Runtime, data: DataDirectory) -> list[dict[str, t.Any]]:
    """All images of the vault as users see them; a record that cannot be used is a warning."""
    vault = Vault(data, runtime)
    images, broken = vault.images()
    for error in broken:
        runtime.report.warn(str(error))
    try:
        users = users_of(data)
    except RecordError as exc:
        runtime.report.warn(str(exc))
        users = {}
    listed = []
    for image in images:
        used = timestamp(vault.last_used(image))
        instances = [user.partition(" ")[0] for user in users.get(image.hash, [])]
        listed.append(
            {**image_view(vault, image), "names": vault.names_of(image), "last_used": used, "instances": instances}
        )
    return listed


def offered_images(
    query: str,
    runtime: Runtime,
    data: DataDirectory,
    arch: str,
    hosts: t.Mapping[str, t.Any] | None = None,
    unsupported: bool = False,
    refresh: bool = False,
) -> list[dict[str, t.Any]]:
    """What image hosts offer for an architecture; query -- nothing, HOST:, or [HOST:]NAME"""
    arch = normal_arch(arch)
    host, colon, name = query.strip().partition(":")
    if colon and host == "bootstrap":
        return _buildable(name, arch)
    from ansible_collections.minicloud.local.plugins.module_utils._images.hosts import ImageHosts

    offers = ImageHosts(data, runtime, hosts).query(query, arch, unsupported, refresh)
    return [offer.to_dict() for offer in offers]


def _buildable(name: str, arch: str) -> list[dict[str, t.Any]]:
    from ansible_collections.minicloud.local.plugins.module_utils._images.bootstrap import OS, RELEASES, USER

    return [
        {
            "host": "bootstrap",
            "aliases": [release],
            "os": OS,
            "release": release,
            "version": known.version,
            "serial": "",
            "title": f"Debian {known.version} ({release}), built on this host",
            "variant": "",
            "supported": True,
            "arch": arch,
            "hash": "",
            "size": 0,
            "kinds": [DISK, CONTAINER],
            "user": USER,
        }
        for release, known in reversed(list(RELEASES.items()))
        if name in release
    ]


def users_of(data: DataDirectory) -> dict[str, list[str]]:
    """The instances of all scopes that are made from images, by the image's hash.

    RecordError where an instance's record cannot be read: nobody can know which image it needs.
    """
    found: dict[str, list[str]] = {}
    for scope in data.scopes():
        instances, broken = scope.instances()
        if broken:
            raise RecordError(
                "it cannot be known which images are in use",
                str(broken[0]),
                "Repair that first; no image was removed.",
                **broken[0].facts,
            )
        for instance in instances:
            if instance.image.get("hash"):
                found.setdefault(instance.image["hash"], []).append(f"{instance.name} ({scope.name})")
    return found


def image_view(vault: Vault, image: Image) -> dict[str, t.Any]:
    """The return value `image` of the modules."""
    drivers = sorted(about.name for about in ABOUT.values() if about.takes(image))
    aliases = vault.aliases_of(image) if image.hash else []
    return {**image.to_dict(), "aliases": aliases, "drivers": drivers}
