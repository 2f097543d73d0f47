# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Where images come from: names that people know and image hosts do not, and what an image host answers."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._images.reference import (
    DEFAULT_HOST,
    SYSTEMS,
    UBUNTU,
    Reference,
    of_system,
)

_DEBIAN = ("stretch", "buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid")
# An operating system and its release in one word: debian-12, ubuntu24.04, ubuntu-noble.
_TOGETHER = re.compile(r"(?P<system>[A-Za-z]+)(?:[-_ ](?P<release>[A-Za-z0-9.]+)|(?P<version>[0-9.]+))\Z")


def familiar(reference: Reference) -> Reference | None:
    """What is meant by a name that image hosts do not have and people know: `ubuntu:24.04`, `debian:12`, `bookworm`.

    Of an operating system alone it is the name that begins those of its releases.

    None where it is no such name.
    """
    host, name = reference.host.lower(), reference.name
    if host in UBUNTU or host in SYSTEMS:
        return of_system(host, name)
    if host != DEFAULT_HOST:
        return None
    if name.lower() in _DEBIAN:
        return Reference("images", f"debian/{name.lower()}")
    if name.lower() in SYSTEMS:
        return Reference("images", SYSTEMS[name.lower()])
    match = _TOGETHER.match(name)
    if match and match["system"].lower() in SYSTEMS:
        return of_system(match["system"], match["release"] or match["version"])
    return None


def meant(text: str) -> list[str]:
    """Names of images that whoever wrote TEXT, which no image host knows, may have meant."""
    import difflib

    known = {**{name: f"images:debian/{name}" for name in _DEBIAN}, **{name: f"images:{name}/" for name in SYSTEMS}}
    known = {**known, **{name: f"images:{system}/" for name, system in SYSTEMS.items()}}
    near = difflib.get_close_matches(text.lower().partition("/")[0], known, 2, 0.75)
    return list(dict.fromkeys(known[name] for name in near))


class Part(t.NamedTuple):
    """One file of an image: where to get it and what it must be.

    location -- a URL or an absolute path
    sha256, sha512 -- hex, empty where none is promised; size -- bytes, 0 where unknown
    """

    location: str
    sha256: str = ""
    sha512: str = ""
    size: int = 0


class Source(t.NamedTuple):
    """One image as an image host offers it: where to get it and what it must be.

    location -- a URL or an absolute path; empty when the host makes the image itself
    sha256, sha512 -- hex, empty where the host promises none; size -- bytes, 0 where unknown
    os, release, version, arch, user, title -- as in the model's Image
    serial -- which build of the release it is, such as 20250101; empty where unknown
    kind -- disk (of a virtual machine) or container (location is a root file system)
    firmware -- uefi where the disk boots under nothing else, empty where it boots under BIOS too or nobody knows
    metadata -- the file that LXD and Incus need beside it, None where there is none
    fingerprint -- sha256 (hex) of metadata and image together, as LXD and Incus compute it; empty where unknown
    requirements -- what LXD and Incus must set for it, such as ("secureboot", "false")
    """

    reference: Reference
    location: str
    arch: str
    sha256: str = ""
    sha512: str = ""
    size: int = 0
    os: str = ""
    release: str = ""
    version: str = ""
    user: str = ""
    title: str = ""
    serial: str = ""
    kind: str = "disk"
    firmware: str = ""
    metadata: Part | None = None
    fingerprint: str = ""
    requirements: tuple[tuple[str, str], ...] = ()


# Asks an image host for a reference, an architecture, and a kind of image.
Resolver = t.Callable[[Reference, str, str], Source]
