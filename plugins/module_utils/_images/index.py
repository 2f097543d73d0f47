# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The index of one image host: fetched, verified, and kept in the data directory.

    vault/hosts/<host>/state.json                  what was fetched when, its validators, and the identity of all of it
    vault/hosts/<host>/<sha256>.json               a file as it was fetched (and verified), by its content
    vault/hosts/<host>/<identity>.<arch>.<form>    what lookups need of it, a few hundredths of its size

Files are only ever added under names that tell their content; state.json is replaced last and decides which of them
count. So a reader needs no lock, and a run that is killed leaves nothing that the next one would believe.
"""

from __future__ import annotations

import json
import os
import re
import time
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError, RecordError, Unreachable
from ansible_collections.minicloud.local.plugins.module_utils._images import simplestreams
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import shown_url
from ansible_collections.minicloud.local.plugins.module_utils._images.simplestreams import Product
from ansible_collections.minicloud.local.plugins.module_utils._json import JsonError, parse_json
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    LINES,
    SECONDS,
    TEXT,
    TEXTS,
    Field,
    RecordKind,
    matching,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory, read_record, write_record
from ansible_collections.minicloud.local.plugins.module_utils._writing import (
    make_dir,
    remove_leftovers,
    remove_path,
    write_file,
)

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._images import fetch

# For so many seconds an index is used without asking its host again; the same for one that could not be reached.
FRESH = 15 * 60
RETRY_UNREACHABLE = 60

# Bytes; the largest index in use has about ten million.
LARGEST = 128 << 20

# How long a host is waited for: seconds without a byte, for the whole of a file, and before the second attempt.
INACTIVITY = 10.0
LONGEST = 300.0
ATTEMPTS = 3
PAUSE = 0.3

# The form of the distilled files: a change of it makes older ones count for nothing.
_FORM = "1"

SIMPLESTREAMS, MANIFEST = "simplestreams", "manifest"

# How many lists and objects an index may have inside each other; those in use have ten.
_DEEPEST = 32

_HEX = re.compile(r"[0-9a-f]{64}\Z")


def _are_documents(value: t.Any) -> bool:
    return isinstance(value, list) and all(
        TEXTS.holds(each) and "url" in each and _HEX.match(each.get("sha256", "")) for each in value
    )


_STATE = RecordKind(
    "the cache of an image host",
    1,
    {
        "host": LINES._replace(required=True),
        "checked": SECONDS._replace(required=True),
        "documents": Field(lambda value: bool(value) and _are_documents(value), "a list of documents", required=True),
        "identity": matching("[0-9a-f]+", "a checksum")._replace(required=True),
        "failed": SECONDS,
        "failure": TEXT,
    },
)


class ImageHost(t.NamedTuple):
    """An image host.

    url -- the base of a simplestreams server, or the URL of a manifest
    allow_http -- whether plain http is good enough; keyring -- what its index must be signed with, empty: unsigned
    mirror -- base URL that files are downloaded from instead; user -- its images' login user, empty: their own
    """

    name: str
    url: str
    type: str = SIMPLESTREAMS
    allow_http: bool = False
    keyring: str = ""
    mirror: str = ""
    user: str = ""

    def locate(self, path: str) -> str:
        """The URL of one of its files, by what its index says: a path, or a URL, to which no mirror applies.

        ImageError where that is not https, and the host need be: without encryption, only its own servers are trusted.
        """
        if "://" in path:
            scheme, separator, rest = path.partition("://")
            location = scheme.lower() + separator + rest
        elif self.type == MANIFEST and not self.mirror:
            from urllib.parse import urljoin

            location = urljoin(self.url, path)
        else:
            from urllib.parse import quote

            location = f"{(self.mirror or self.url).rstrip('/')}/{quote(path.lstrip('/'), safe='/:@+,;=~%')}"
        own = {server_of(self.url), server_of(self.mirror)}
        check_scheme(
            location, self.allow_http and server_of(location) in own, self.name, server_of(location) not in own
        )
        return location


class Index:
    """What one image host offers, from the cache where that is good enough."""

    def __init__(self, host: ImageHost, data: DataDirectory, runtime: Runtime) -> None:
        self.host = host
        self._data = data
        self._runtime = runtime
        self._directory = os.path.join(data.vault, "hosts", host.name)
        self._record = os.path.join(self._directory, "state.json")
        self._current = False
        self._products: dict[str, list[Product]] = {}
        self._parsed: dict[str, t.Any] = {}

    def products(self, arch: str, refresh: bool = False) -> list[Product]:
        """The products for an architecture. Asks the host if the cache is older than 15 minutes, or with REFRESH.

        Where the host cannot be reached, what is cached is used, with a warning that tells its age;
        ImageError where nothing is, BadSignature where the index has a signature that is not good.
        """
        arch = simplestreams.arch_name(arch)
        if refresh and not self._current:
            self._products.clear()
        elif arch in self._products:
            return self._products[arch]
        else:
            state = self._state()
            products = self._distilled(state, arch) if state and self._fresh(state) else None
            if products is not None:
                self._products[arch] = products
                return products
        self._runtime.begin_changes()
        with self._data.lock(f"image-host-{self.host.name}", report=self._runtime.report):
            state = self._state()
            if state is None or not self._fresh(state) or (refresh and not self._current):
                state = self._refresh(state)
                self._current = True
            products = self._distilled(state, arch)
            if products is None:
                products = self._distil(state, arch)
            self._tidy(state)
        self._parsed.clear()
        self._products[arch] = products
        return products

    def architectures(self) -> list[str]:
        """The architectures that the host has images for, as far as the cache knows."""
        state = self._state()
        found: set[str] = set()
        for content in self._contents(state) or () if state else ():
            found |= _parser(self.host).architectures(content)
        return sorted(found)

    def _state(self) -> dict[str, t.Any] | None:
        """What is known of the cache, None where it holds nothing of this host as it is set now."""
        try:
            state = read_record(self._record, _STATE)
        except RecordError:
            return None
        if state is None or state.get("host") != _identity(self.host):
            return None
        return state

    def _fresh(self, state: dict[str, t.Any]) -> bool:
        now = time.time()
        if 0 <= now - state["checked"] < FRESH:
            return True
        if 0 <= now - state.get("failed", 0) < RETRY_UNREACHABLE:
            self._warn_stale(state, state.get("failure", ""))
            return True
        return False

    def _warn_stale(self, state: dict[str, t.Any], why: str) -> None:
        self._runtime.report.warn(
            f"The image host {self.host.name} ({shown_url(self.host.url)}) cannot be asked"
            f"{': ' + why if why else ''}. Its index of {_age(time.time() - state['checked'])} ago is used instead:"
            " it may not know the newest images, and may name some that are gone."
        )

    def _refresh(self, state: dict[str, t.Any] | None) -> dict[str, t.Any]:
        """Ask the host for what is new, and put it and the new state into the cache."""
        import hashlib

        make_dir(self._directory)
        remove_leftovers(self._directory)
        try:
            documents = self._fetch_all(state)
        except Unreachable as exc:
            if state is None or self._contents(state) is None:
                raise
            why = exc.why or exc.what
            self._warn_stale(state, why)
            state = {**state, "failed": time.time(), "failure": why}
            write_record(self._record, _STATE, state)
            return state
        digests = "".join(document["sha256"] for document in documents)
        state = {
            "host": _identity(self.host),
            "checked": time.time(),
            "documents": documents,
            "identity": hashlib.sha256(digests.encode()).hexdigest()[:32],
        }
        write_record(self._record, _STATE, state)
        return state

    def _fetch_all(self, state: dict[str, t.Any] | None) -> list[dict[str, str]]:
        known = {document["url"]: document for document in state["documents"]} if state else {}
        if self.host.type == MANIFEST:
            document, content = self._fetch(self.host.url, known)
            self._check(content, document["url"])
            return [document]
        from ansible_collections.minicloud.local.plugins.module_utils._images import trust

        suffix = "sjson" if self.host.keyring else "json"
        base = self.host.url.rstrip("/")
        document, index = self._fetch(f"{base}/streams/v1/index.{suffix}", known)
        try:
            paths = simplestreams.product_paths(index)
        except ValueError as exc:
            raise self._unusable(document["url"], str(exc)) from exc
        documents = [document]
        for content_id, path in paths:
            if self.host.keyring and path.endswith(".json"):
                path = path[: -len("json")] + suffix
            document, content = self._fetch(f"{base}/{path.lstrip('/')}", known)
            self._check(content, document["url"])
            if self.host.keyring and content.get("content_id") != content_id:
                # Both are signed, but not for each other: the index of another stream in this one's place.
                raise trust.BadSignature(
                    f"the image host {self.host.name} gives another index than it names",
                    f"{shown_url(document['url'])} is signed as {content.get('content_id')!r}, not as {content_id!r}",
                    "Somebody may have exchanged them: nothing of it was used or kept.",
                )
            documents.append(document)
        return documents

    def _check(self, content: t.Any, url: str) -> None:
        try:
            _parser(self.host).architectures(content)
        except (ValueError, AttributeError, TypeError) as exc:
            raise self._unusable(url, str(exc)) from exc

    def _unusable(self, url: str, why: str) -> Unreachable:
        return Unreachable(
            f"what the image host {self.host.name} offers cannot be read",
            f"{shown_url(url)}: {why}",
            "Check the host's url and type, and that no proxy or login page answers in its place.",
        )

    def _fetch(self, url: str, known: t.Mapping[str, dict[str, str]]) -> tuple[dict[str, str], t.Any]:
        """One file of the index as it is now: how it is kept, and its content."""
        import hashlib

        before = known.get(url)
        cached = self._content(before["sha256"]) if before else None
        page = self._ask(url, before if before and cached is not None else {})
        if page.body is None:
            if before is None or cached is None:
                raise self._unusable(url, "the server says that it has not changed, which nobody asked")
            return before, cached
        content = page.body
        if self.host.keyring:
            from ansible_collections.minicloud.local.plugins.module_utils._images import trust

            what = f"the index {shown_url(url)} of the image host {self.host.name}"
            content = trust.verify(content, self.host.keyring, self._runtime, self._directory, what)
        try:
            parsed = parse_json(content, "it", LARGEST, _DEEPEST)
        except JsonError as exc:
            raise self._unusable(url, str(exc).rstrip(".")) from exc
        digest = hashlib.sha256(content).hexdigest()
        if not before or digest != before["sha256"] or cached is None:
            write_file(os.path.join(self._directory, f"{digest}.json"), content)
        self._parsed[digest] = parsed
        return {"url": url, "sha256": digest, "etag": page.etag, "modified": page.last_modified}, parsed

    def _ask(self, url: str, known: t.Mapping[str, str]) -> fetch.Page:
        from ansible_collections.minicloud.local.plugins.module_utils._images import fetch

        check_scheme(url, self.host.allow_http, self.host.name)
        try:
            return fetch.read_url(
                url,
                limit=LARGEST,
                etag=known.get("etag", ""),
                last_modified=known.get("modified", ""),
                patience=fetch.Patience(INACTIVITY, ATTEMPTS, PAUSE),
                deadline=Deadline(LONGEST),
            )
        except ImageError as exc:
            raise self._unreachable(url, exc.why or exc.what) from exc

    def _unreachable(self, url: str, why: str) -> Unreachable:
        return Unreachable(
            f"the image host {self.host.name} cannot be asked",
            f"{shown_url(url)}: {why}",
            "Check the network, the proxy settings in the environment and the host's url. Images that are in the vault"
            " already can be used without it.",
        )

    def _content(self, digest: str) -> t.Any:
        """A cached file of the index, None where it is missing or damaged."""
        import hashlib

        if digest not in self._parsed:
            try:
                with open(os.path.join(self._directory, f"{digest}.json"), "rb") as stream:
                    content = stream.read()
            except OSError:
                return None
            if hashlib.sha256(content).hexdigest() != digest:
                return None
            self._parsed[digest] = json.loads(content)
        return self._parsed[digest]

    def _contents(self, state: dict[str, t.Any]) -> list[t.Any] | None:
        """The cached files with products, None where one of them is missing or damaged."""
        documents = state["documents"] if self.host.type == MANIFEST else state["documents"][1:]
        contents = [self._content(document["sha256"]) for document in documents]
        return None if None in contents else contents

    def _distilled_path(self, state: dict[str, t.Any], arch: str) -> str:
        return os.path.join(self._directory, f"{state['identity']}.{arch}.{_FORM}")

    def _distilled(self, state: dict[str, t.Any], arch: str) -> list[Product] | None:
        try:
            with open(self._distilled_path(state, arch), "rb") as stream:
                return simplestreams.from_rows(json.loads(stream.read())["products"])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def _distil(self, state: dict[str, t.Any], arch: str) -> list[Product]:
        contents = self._contents(state)
        if contents is None:
            # Somebody damaged the cache. What it was made from is asked for anew, without validators.
            remove_path(self._record)
            state.update(self._refresh(None))
            contents = self._contents(state) or []
        products: dict[str, Product] = {}
        for content in contents:
            for product in _parser(self.host).parse_products(content, arch):
                products.setdefault(product.key, product)
        rows = {"products": simplestreams.to_rows(products.values())}
        write_file(self._distilled_path(state, arch), json.dumps(rows, separators=(",", ":")).encode())
        return list(products.values())

    def _tidy(self, state: dict[str, t.Any]) -> None:
        """Remove what earlier indexes and killed runs left. The lock is held."""
        wanted = {f"{document['sha256']}.json" for document in state["documents"]} | {"state.json"}
        for entry in os.listdir(self._directory):
            distilled = entry.startswith(f"{state['identity']}.") and entry.endswith(f".{_FORM}")
            if entry not in wanted and not distilled:
                remove_path(os.path.join(self._directory, entry))


class _Parser(t.Protocol):
    def architectures(self, content: t.Any) -> set[str]: ...

    def parse_products(self, content: t.Any, arch: str) -> list[Product]: ...


def _parser(host: ImageHost) -> _Parser:
    if host.type == MANIFEST:
        from ansible_collections.minicloud.local.plugins.module_utils._images import manifest

        return manifest
    return simplestreams


def _identity(host: ImageHost) -> list[str]:
    """What a cached index depends on: another url or keyring makes it another host's."""
    return [host.url, host.type, host.keyring]


def server_of(url: str) -> str:
    """The server and port in a URL."""
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2].lower()


def check_scheme(url: str, allow_http: bool, name: str, elsewhere: bool = False) -> None:
    """ImageError where a URL is neither https nor allowed http. elsewhere -- on a server that is not the host's own"""
    scheme = url.partition("://")[0].lower()
    if scheme == "https" or (scheme == "http" and allow_http):
        return
    hint = "If that server is to be trusted without encryption, set allow_http: true for this host in image_hosts."
    if elsewhere:
        hint = f"Only the servers of url and mirror are trusted without encryption: set mirror to http://{server_of(url)}/…"
    raise ImageError(
        f"the image host {name} leads to {shown_url(url)}, which is not https", hint=hint if scheme == "http" else ""
    )


def _age(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"
