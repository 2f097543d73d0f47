# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What users write to name an image."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption

DEFAULT_HOST = "release"

_ENDINGS = (
    *(".qcow2", ".img", ".raw", ".vmdk", ".vhdx", ".vdi", ".xz", ".gz", ".zst", ".bz2"),
    *(".squashfs", ".tar", ".tgz"),
)


# Operating systems as people call them, and as the image host `images` does.
SYSTEMS = {
    **{
        name: name
        for name in (
            *("almalinux", "alpine", "amazonlinux", "archlinux", "centos", "debian", "devuan", "fedora", "gentoo"),
            *("kali", "mint", "nixos", "openeuler", "opensuse", "oracle", "rockylinux", "slackware", "ubuntu"),
            *("voidlinux",),
        )
    },
    "alma": "almalinux",
    "amazon": "amazonlinux",
    "arch": "archlinux",
    "oraclelinux": "oracle",
    "rocky": "rockylinux",
    "suse": "opensuse",
    "void": "voidlinux",
}
# LXD's names of the hosts of Ubuntu's images.
UBUNTU = {"ubuntu": "release", "ubuntu-daily": "daily", "ubuntu-minimal": "minimal"}
_MAX_URL = 8000


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
            return shown_url(self.name)
        if self.host in ("url", "file"):
            return self.name
        return self.name if self.host == DEFAULT_HOST else f"{self.host}:{self.name}"


def shown_url(url: str) -> str:
    """A URL as it may be shown: without the user's name and password that it may have."""
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        return url
    place, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{place.rpartition('@')[2]}{slash}{path}"


def parse_reference(text: str) -> Reference:
    """What `24.04`, `daily:26.04`, `https://…`, `file:///…` or a path means. InvalidOption where it means nothing."""
    text = text.strip()
    if not text.isprintable():
        raise InvalidOption(f"image {text!r} has a character in it that cannot be shown", hint="Write it without.")
    if "://" in text:
        scheme = text.split("://", 1)[0].lower()
        if scheme in ("http", "https"):
            return Reference("url", checked_url(scheme + text[len(scheme) :], "image"))
        if scheme == "file":
            return Reference("file", _path_of(text))
        raise InvalidOption(f"image {text!r} has a scheme that is not known", hint="Use https://, http:// or file://.")
    if text.startswith(("/", "./", "../", "~")):
        return Reference("file", os.path.abspath(os.path.expanduser(text)))
    host, colon, name = text.rpartition(":")
    host, name = host.strip(), name.strip()
    if host.lower() in ("file", "url"):
        raise InvalidOption(
            f"image {text!r} is not valid",
            f"{host} is no image host",
            "Write file:///PATH for a file, or the whole URL.",
        )
    if not name or (colon and not host) or ":" in host:
        raise InvalidOption(
            f"image {text!r} is not valid",
            hint="Write a name such as 24.04, HOST:NAME such as daily:26.04 or bootstrap:bookworm, a URL, or a path.",
        )
    if not host and ("/" in name or name.lower().endswith(_ENDINGS)):
        system, dummy, release = name.partition("/")
        if system.lower() in SYSTEMS and release and not name.lower().endswith(_ENDINGS):
            return of_system(system, release)
        raise InvalidOption(
            f"image {text!r} is not the name of an image",
            hint=f"Write ./{text} for a file, or HOST:NAME for another host.",
        )
    return Reference(host.lower() or DEFAULT_HOST, name)


def of_system(system: str, release: str) -> Reference:
    """The image of a release of an operating system."""
    system = system.lower()
    if system in UBUNTU:
        return Reference(UBUNTU[system], release)
    return Reference("images", f"{SYSTEMS[system]}/{release}")


def checked_url(url: str, what: str) -> str:
    """URL if it is one of a server, else InvalidOption; WHAT -- what it was given as"""
    from urllib.parse import urlsplit

    why = ""
    try:
        parts = urlsplit(url)
        if not parts.hostname:
            why = "it names no server"
        else:
            # Both are used later, and raise ValueError now if the URL has no valid port or host name.
            dummy = parts.port
            parts.hostname.encode("idna")
    except ValueError as exc:
        why = str(exc)
    if any(character.isspace() for character in url):
        why = "it has white space in it, which is written as %20"
    elif not url.isprintable():
        why = "it has characters in it that cannot be shown"
    elif len(url) > _MAX_URL:
        why = f"it has more than {_MAX_URL} characters"
    if why:
        raise InvalidOption(f"{what} {url[:200]!r} is not a URL", why, "Write https://SERVER/PATH.")
    return url


def _path_of(url: str) -> str:
    from urllib.parse import unquote, urlsplit

    try:
        parts = urlsplit(url)
        path = os.path.abspath(unquote(parts.path, errors="strict"))
        if parts.netloc in ("", "localhost") and parts.path.startswith("/") and path.isprintable():
            return path
    except ValueError:
        pass
    raise InvalidOption(f"image {url!r} is not a file of this host", hint="Write file:///PATH, or just the path.")
