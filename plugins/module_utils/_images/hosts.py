# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The image hosts that there are, and the one image that a user's words mean.

`image_hosts`, as a module's option or in the data directory's settings, adds hosts and changes built-in ones:

    image_hosts:
      release:
        mirror: https://mirror.example.com/ubuntu-cloud-images/releases/
      ours:
        url: https://images.example.com/
        keyring: /etc/minicloud/ours.gpg
      distributions:
        type: manifest
        url: https://example.com/distribution-info.json

url -- base of a simplestreams server, or the URL of a manifest; replaces a built-in host's own
type -- simplestreams (default) or manifest
mirror -- base URL to download files from; the index, and with it every hash, still comes from url
keyring -- file of the keys that the index must be signed with (gpgv's form); none: take it unsigned. Unless given, a
    built-in host of Ubuntu uses the distribution's keyring where it is installed, and others take it unsigned
allow_http -- take index and files without encryption too; default false
user -- login user of the host's images; default: what their operating system is known for

The option counts before the settings, key by key, and both before what is built in.
"""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError, InvalidOption, Unreachable
from ansible_collections.minicloud.local.plugins.module_utils._images import simplestreams
from ansible_collections.minicloud.local.plugins.module_utils._images.index import (
    MANIFEST,
    SIMPLESTREAMS,
    ImageHost,
    Index,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import (
    DEFAULT_HOST,
    Reference,
    checked_url,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.simplestreams import (
    Build,
    Product,
    UnknownName,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.source import Part, Source, familiar, meant
from ansible_collections.minicloud.local.plugins.module_utils._model import CONTAINER, DISK
from ansible_collections.minicloud.local.plugins.module_utils._options import FALSE_WORDS, TRUE_WORDS
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

SETTING = "image_hosts"

# Where images are looked for that `release` does not have: releases under development are only there.
FALLBACK_HOST = "daily"

BUILT_IN: t.Mapping[str, str] = {
    "release": "https://cloud-images.ubuntu.com/releases/",
    "daily": "https://cloud-images.ubuntu.com/daily/",
    "minimal": "https://cloud-images.ubuntu.com/minimal/releases/",
    "images": "https://images.lxd.canonical.com/",
}
_SIGNED_BY_UBUNTU = ("release", "daily", "minimal")

# Words before the colon of a reference that are not names of image hosts.
_RESERVED = ("bootstrap", "file", "http", "https", "url")

_HOST_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}\Z")
_KEYS = ("url", "type", "mirror", "keyring", "allow_http", "user")


class Offer(t.NamedTuple):
    """An image that a host offers.

    aliases -- the names it can be asked for by; empty for a build that only NAME@SERIAL or its hash leads to
    version -- of the operating system, such as 24.04; serial -- of the build, such as 20250101
    hash -- of the disk, or of the container's root file system where there is no disk; size -- of that file, bytes
    kinds -- disk, container: what can be made from it
    """

    host: str
    aliases: tuple[str, ...]
    os: str
    release: str
    version: str
    serial: str
    title: str
    variant: str
    supported: bool
    arch: str
    hash: str
    size: int
    kinds: tuple[str, ...]
    user: str

    def to_dict(self) -> dict[str, t.Any]:
        """As plain data, for a result."""
        return {**self._asdict(), "aliases": list(self.aliases), "kinds": list(self.kinds)}


class ImageHosts:
    """The image hosts of a data directory. EXTRA is the option image_hosts; InvalidOption where it is not valid."""

    def __init__(self, data: DataDirectory, runtime: Runtime, extra: t.Mapping[str, t.Any] | None = None) -> None:
        self._data = data
        self._runtime = runtime
        self.hosts = host_table(data.settings().get(SETTING), extra)
        self._indexes: dict[str, Index] = {}

    def resolve(self, reference: Reference, arch: str, kind: str = DISK, refresh: bool = False) -> Source:
        """The image that REFERENCE means on an architecture, as a disk or for a container (KIND).

        The name is a version (24.04), a release (noble), an alias (lts, debian/13), any of these followed by @SERIAL
        for a build that is not the newest, or at least eight digits of a hash. What release: does not have is looked
        for in daily:. A name that no host has is taken for what people mean by it: `debian:12` or `bookworm` for
        images:debian/12, `ubuntu:24.04` for 24.04. With REFRESH the host is asked even if its index is fresh.
        """
        if kind not in (DISK, CONTAINER):
            raise ValueError(f"no such kind of image: {kind}")
        known = familiar(reference)
        if known and reference.host not in self.hosts:
            return self.resolve(known, arch, kind, refresh)._replace(reference=reference)
        index = self._index(reference.host)
        products = index.products(arch, refresh)
        try:
            product, build = simplestreams.pick(products, reference.name, kind, reference.host)
        except UnknownName as exc:
            found = self._from_fallback(reference, arch, kind, refresh)
            if found is None and known and reference.host == DEFAULT_HOST:
                return self.resolve(known, arch, kind, refresh)._replace(reference=reference)
            if found is None:
                raise self._unknown(reference, index, products, arch, exc) from exc
            index, product, build = found
        source = _source(reference, index.host, product, build, arch, kind)
        self._warn(reference, product)
        return source

    def query(
        self, reference: Reference | str = "", arch: str = "x86_64", unsupported: bool = False, refresh: bool = False
    ) -> list[Offer]:
        """What image hosts offer for an architecture, by operating system and version, the newest first.

        REFERENCE is nothing (release:, and what only daily: has), `HOST:` (all that the host has), `[HOST:]NAME` (what
        has this name or hash, else what has it in its names), or `[HOST:]NAME@` (all builds of it).
        What its publisher no longer supports is left out unless UNSUPPORTED.
        """
        host, name = _host_and_name(reference)
        known = familiar(Reference(host, name)) if host and host not in self.hosts else None
        host, name = known or (host, name)
        offers = self._offers(host or DEFAULT_HOST, name, arch, unsupported, refresh)
        if not host and FALLBACK_HOST in self.hosts and not (name and offers):
            there = {(offer.os, offer.release) for offer in offers}
            try:
                more = self._offers(FALLBACK_HOST, name, arch, unsupported, refresh)
            except Unreachable as exc:
                self._runtime.report.warn(str(exc))
                more = []
            offers += [offer for offer in more if (offer.os, offer.release) not in there]
        elsewhere = familiar(Reference(DEFAULT_HOST, name)) if not host and not offers else None
        if elsewhere and elsewhere.host in self.hosts:
            return self._offers(*elsewhere, arch, unsupported, refresh)
        return offers

    def _offers(self, host: str, name: str, arch: str, unsupported: bool, refresh: bool) -> list[Offer]:
        index = self._index(host)
        products = index.products(arch, refresh)
        name, at, serial = name.partition("@")
        chosen: list[tuple[Product, Build]] = []
        exact = simplestreams.named(products, name) if name else []
        # A name without a variant stands for the variant that has cloud-init, if there is one.
        exact = [simplestreams.with_cloud_init(products, product, name) for product in exact]
        if exact and at:
            chosen = [(product, build) for product in exact for build in product.builds if serial in ("", build.serial)]
        elif exact:
            chosen = [(product, product.builds[0]) for product in exact]
        else:
            hits = {
                (product.key, build.serial): (product, build)
                for product, build, dummy in simplestreams.hashed(products, name)
            }
            chosen = list(hits.values()) or [
                (product, product.builds[0])
                for product in products
                if any(name.lower() in known for known in product.names())
            ]
        return [
            _offer(index.host, product, build, arch)
            for product, build in sorted(chosen, key=_rank, reverse=True)
            if product.supported or unsupported
        ]

    def _index(self, name: str) -> Index:
        if name not in self._indexes:
            host = self.hosts.get(name)
            if host is None:
                import difflib

                hosts = sorted([*self.hosts, "bootstrap"])
                near = [f"{near}:" for near in difflib.get_close_matches(name, hosts, 1)] or meant(name)
                raise InvalidOption(
                    f"the image host {name!r} is not known",
                    f"there are {', '.join(f'{host}:' for host in hosts)}",
                    f"Did you mean {' or '.join(near)}?" if near else f"Add it to {SETTING}, or use one of these.",
                )
            self._indexes[name] = Index(host, self._data, self._runtime)
        return self._indexes[name]

    def _from_fallback(
        self, reference: Reference, arch: str, kind: str, refresh: bool
    ) -> tuple[Index, Product, Build] | None:
        if reference.host != DEFAULT_HOST or FALLBACK_HOST not in self.hosts:
            return None
        index = self._index(FALLBACK_HOST)
        try:
            product, build = simplestreams.pick(index.products(arch, refresh), reference.name, kind, FALLBACK_HOST)
        except ImageError:
            return None
        if reference.name.lower() != "devel":
            self._runtime.report.warn(
                f"The image {reference.name} was not found in {DEFAULT_HOST}: and is taken from {FALLBACK_HOST}:,"
                " whose images are not released."
            )
        return index, product, build

    def _unknown(
        self, reference: Reference, index: Index, products: list[Product], arch: str, exc: UnknownName
    ) -> ImageError:
        arch = simplestreams.arch_name(arch)
        host = reference.host
        listing = f"Query {host}: with minicloud.local.image_info to see all that it has."
        if "candidates" in exc.facts:
            return ImageError(exc.what, exc.why, f"Choose one of these, or leave @ and what follows out. {listing}")
        others = [
            other
            for other in index.architectures()
            if other != arch and simplestreams.named(index.products(other), reference.name.partition("@")[0])
        ]
        if others:
            return ImageError(
                f"the image host {host} has no image {reference.name!r} for {arch}",
                f"it has it for {', '.join(others)}",
                "Choose another image, or one of these as arch.",
                arches=others,
            )
        suggestions = simplestreams.similar(products, reference.name)
        if host == DEFAULT_HOST:
            suggestions = [*suggestions, *meant(reference.name)]
        else:
            suggestions = [f"{host}:{name}" for name in suggestions]
        hint = f"Did you mean {', '.join(suggestions)}? {listing}" if suggestions else listing
        return ImageError(
            exc.what, f"nothing that it has for {arch} has this name or hash", hint, suggestions=suggestions
        )

    def _warn(self, reference: Reference, product: Product) -> None:
        if not product.supported:
            since = f" since {product.eol}" if product.eol else ""
            self._runtime.report.warn(
                f"The image {reference} ({product.title}) is not supported by its publisher{since}:"
                " it gets no security updates."
            )
        if not product.configures_itself:
            self._runtime.report.warn(
                f"The image {reference} ({product.title}) is said to come without cloud-init: an instance of it has no"
                " user, key or host name of its own and will not become ready. Choose a variant that ends in /cloud"
                " where there is one."
            )


def host_table(settings: t.Any = None, extra: t.Any = None) -> dict[str, ImageHost]:
    """All image hosts by name, from what is built in, the settings and the option. InvalidOption as described above."""
    merged: dict[str, dict[str, t.Any]] = {name: {"url": url} for name, url in BUILT_IN.items()}
    for where, given in ((f"the setting {SETTING}", settings), (SETTING, extra)):
        if given is None:
            continue
        if not isinstance(given, t.Mapping):
            raise InvalidOption(
                f"{where} is not a dictionary", hint="Write the name of a host and its options below it."
            )
        for name, options in given.items():
            _check_host(where, name, options)
            kept = {key: value for key, value in options.items() if value is not None}
            merged[name] = {**merged.get(name, {}), **kept}
    return {name: _host(name, options) for name, options in merged.items()}


def _check_host(where: str, name: t.Any, options: t.Any) -> None:
    if not isinstance(name, str) or not _HOST_NAME.match(name) or name in _RESERVED:
        raise InvalidOption(
            f"{where} has a host {name!r}, which cannot be the name of one",
            f"{name} has a meaning of its own" if name in _RESERVED else "",
            "A name has lower-case letters, digits and hyphens, begins with a letter, and has at most 32 characters.",
        )
    what = f"{where}.{name}"
    if not isinstance(options, t.Mapping):
        raise InvalidOption(f"{what} is not a dictionary", hint=f"Its keys are {', '.join(_KEYS)}.")
    for key, value in options.items():
        if key not in _KEYS:
            raise InvalidOption(f"{what} has an unknown key {key!r}", hint=f"Keys are {', '.join(_KEYS)}.")
        if value is not None and key != "allow_http" and not isinstance(value, str):
            raise InvalidOption(f"{what}.{key} is not a text", f"it is {value!r}")


def _host(name: str, options: t.Mapping[str, t.Any]) -> ImageHost:
    what = f"{SETTING}.{name}"
    allow_http = _truth(f"{what}.allow_http", options.get("allow_http", False))
    kind = options.get("type", SIMPLESTREAMS)
    if kind not in (SIMPLESTREAMS, MANIFEST):
        raise InvalidOption(f"{what}.type {kind!r} is not known", hint=f"Types are {SIMPLESTREAMS} and {MANIFEST}.")
    if not options.get("url"):
        raise InvalidOption(f"{what} has no url", hint="A host that is not built in needs one.")
    urls = {}
    for key in ("url", "mirror"):
        urls[key] = _checked_url(f"{what}.{key}", options[key], allow_http) if options.get(key) else ""
    return ImageHost(
        name=name,
        url=urls["url"],
        type=kind,
        allow_http=allow_http,
        keyring=_keyring(name, what, options.get("keyring", "")),
        mirror=urls["mirror"],
        user=options.get("user", ""),
    )


def _truth(what: str, value: t.Any) -> bool:
    text = str(value).lower()
    if text not in TRUE_WORDS + FALSE_WORDS:
        raise InvalidOption(f"{what} {value!r} is neither true nor false")
    return text in TRUE_WORDS


def _checked_url(what: str, url: str, allow_http: bool) -> str:
    """A URL with its scheme in lower case."""
    scheme = checked_url(url, what).partition("://")[0]
    if scheme.lower() not in ("http", "https"):
        raise InvalidOption(f"{what} {url!r} is not a URL", hint="Write https://SERVER/PATH.")
    if scheme.lower() == "http" and not allow_http:
        raise InvalidOption(
            f"{what} {url} is not https",
            hint="If that server is to be trusted without encryption, set allow_http: true beside it.",
        )
    return scheme.lower() + url[len(scheme) :]


def _keyring(name: str, what: str, given: str) -> str:
    if given == "none":
        return ""
    if given:
        path = os.path.expanduser(given)
        if not os.path.isabs(path):
            raise InvalidOption(f"{what}.keyring {given!r} is not an absolute path", hint="Write one, or none.")
        return path
    if name in _SIGNED_BY_UBUNTU:
        from ansible_collections.minicloud.local.plugins.module_utils._images import trust

        return trust.installed_keyring(trust.UBUNTU_KEYRINGS)
    return ""


def _host_and_name(reference: Reference | str) -> tuple[str, str]:
    """What to search where; no host unless one is named."""
    if isinstance(reference, Reference):
        return reference.host, reference.name
    host, colon, name = reference.strip().partition(":")
    return (host, name) if colon else ("", host)


def _source(reference: Reference, host: ImageHost, product: Product, build: Build, arch: str, kind: str) -> Source:
    file = build.needed(kind)
    metadata = build.metadata
    return Source(
        reference=reference,
        location=host.locate(file.path),
        arch=simplestreams.arch_name(arch),
        sha256=file.sha256,
        sha512=file.sha512,
        size=file.size,
        os=product.os,
        release=product.release,
        version=product.version,
        user=host.user or product.user,
        title=product.title,
        serial=build.serial,
        kind=kind,
        firmware=file.firmware,
        metadata=Part(host.locate(metadata.path), metadata.sha256, metadata.sha512, metadata.size)
        if metadata
        else None,
        fingerprint=file.combined,
        requirements=product.requirements,
    )


def _offer(host: ImageHost, product: Product, build: Build, arch: str) -> Offer:
    file = build.needed()
    newest = build.serial == product.builds[0].serial
    return Offer(
        host=host.name,
        aliases=product.aliases if newest else (),
        os=product.os,
        release=product.release,
        version=product.version,
        serial=build.serial,
        title=product.title,
        variant=product.variant,
        supported=product.supported,
        arch=simplestreams.arch_name(arch),
        hash=file.hash,
        size=file.size,
        kinds=tuple(kind for kind in (DISK, CONTAINER) if build.file(kind)),
        user=host.user or product.user,
    )


def _rank(found: tuple[Product, Build]) -> tuple[t.Any, ...]:
    product, build = found
    return (
        product.os,
        simplestreams.version_key(product.version),
        product.variant,
        simplestreams.version_key(build.serial),
    )
