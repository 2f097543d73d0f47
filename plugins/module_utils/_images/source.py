# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Where images come from: what users write, and what an image host answers."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption

DEFAULT_HOST = "release"

_ENDINGS = (
    *(".qcow2", ".img", ".raw", ".vmdk", ".vhdx", ".vdi", ".xz", ".gz", ".zst", ".bz2"),
    *(".squashfs", ".tar", ".tgz"),
)


class Reference(t.NamedTuple):
    """An image as users name it.

    host -- the image host (release, daily, bootstrap …), or `url` or `file`
    name -- the image's name there, the URL, or the absolute path

    As text it is what may be shown and kept: without the name and password that a URL may have.
    """

    host: str
    name: str

    def __str__(self) -> str:
        if self.host == "url" and "@" in self.name:
            scheme, slashes, rest = self.name.partition("://")
            place, slash, path = rest.partition("/")
            return f"{scheme}{slashes}{place.rpartition('@')[2]}{slash}{path}"
        if self.host in ("url", "file"):
            return self.name
        return self.name if self.host == DEFAULT_HOST else f"{self.host}:{self.name}"


def parse_reference(text: str) -> Reference:
    """What `24.04`, `daily:26.04`, `https://…`, `file:///…` or a path means. InvalidOption where it means nothing."""
    text = text.strip()
    if "://" in text:
        scheme = text.split("://", 1)[0].lower()
        if scheme in ("http", "https"):
            return Reference("url", text)
        if scheme == "file":
            return Reference("file", _path_of(text))
        raise InvalidOption(f"image {text!r} has a scheme that is not known", hint="Use https://, http:// or file://.")
    if text.startswith(("/", "./", "../", "~")):
        return Reference("file", os.path.abspath(os.path.expanduser(text)))
    host, colon, name = text.rpartition(":")
    if not name or (colon and not host) or ":" in host:
        raise InvalidOption(
            f"image {text!r} is not valid",
            hint="Write a name such as 24.04, HOST:NAME such as daily:26.04 or bootstrap:bookworm, a URL, or a path.",
        )
    if not host and ("/" in name or name.lower().endswith(_ENDINGS)):
        raise InvalidOption(
            f"image {text!r} is not the name of an image",
            hint=f"Write ./{text} for a file, or HOST:NAME for another host.",
        )
    return Reference(host or DEFAULT_HOST, name)


def _path_of(url: str) -> str:
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise InvalidOption(f"image {url!r} is not a file of this host", hint="Write file:///PATH, or just the path.")
    return os.path.abspath(unquote(parts.path))


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
