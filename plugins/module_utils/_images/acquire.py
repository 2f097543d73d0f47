# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""How an image comes into the vault: found, fetched or built, verified, prepared, put in place.

One run works on a source at a time, under its lock; others that want the same wait and then find it done. Everything
is made in a work directory that is named by the lock, so that the next holder removes what a killed run has left.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import typing as t
import urllib.parse
from dataclasses import replace

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    Busy,
    ChecksumMismatch,
    InvalidOption,
    NotFound,
)
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._images import disk, fetch
from ansible_collections.minicloud.local.plugins.module_utils._images.content import (
    Content,
    check_stamp,
    digests_of,
    stamp_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.flow import Copy, Digest, Flow, Outlet
from ansible_collections.minicloud.local.plugins.module_utils._images.guess import guess
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import (
    Reference,
    parse_reference,
    shown_url,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.source import Part, Resolver, Source
from ansible_collections.minicloud.local.plugins.module_utils._images.unpack import Unpacker, compression
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import (
    DISK_FILE,
    Entry,
    Vault,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import DISK, normal_arch
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, timestamp
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_path

# How long a run waits for another one that fetches the same image, unless a deadline is given.
WAIT_SECONDS = 3600


class Acquisition:
    """One request to have an image in the vault: a disk. What is different for others, others override."""

    kind = DISK
    # The format of the finished file; empty where only the image itself tells it.
    format = "qcow2"

    def __init__(
        self,
        vault: Vault,
        reference: Reference,
        arch: str,
        checksum: str = "",
        refresh: bool = False,
        deadline: Deadline | None = None,
        patience: fetch.Patience | None = None,
        force: bool = False,
        resolve: Resolver | None = None,
    ) -> None:
        self._vault = vault
        self._resolve = resolve
        self._runtime = vault.runtime
        self._report = vault.runtime.report
        self._reference = reference
        self._arch = normal_arch(arch)
        self._checksum = checksum.strip()
        self._refresh = refresh
        self._deadline = deadline
        self._patience = patience or fetch.PATIENCE
        self._force = force
        self._content = Content(reference, self._report, checksum, patience or fetch.PATIENCE, deadline)

    def run(self) -> tuple[Image, bool]:
        """The image, and whether anything was changed."""
        vault, reference, arch = self._vault, self._reference, self._arch
        entry = vault.entry(reference, arch, self.kind)
        if entry and entry.alias_of and (self._refresh or self._force):
            return self._refresh_alias(entry)
        image = vault.find(reference, arch, self.kind)
        if self._is_enough(image, entry):
            return t.cast(Image, image), False
        source = self._source()
        location = source.location or str(source.reference)
        key = hashlib.sha256(self._key_of(location).encode()).hexdigest()[:16]
        with self._turn(key):
            image = vault.find(reference, arch, self.kind)
            entry = vault.entry(reference, arch, self.kind)
            if self._is_enough(image, entry):
                return t.cast(Image, image), False
            vault.tidy(held=key)
            work = os.path.join(vault.path, f"work-{key}")
            with explained(f"the left-over {work} could not be removed"):
                remove_path(work)
            make_dir(work)
            try:
                if source.location.startswith(("http://", "https://")):
                    return self._fetched(source, entry, work, os.path.join(vault.partial, key))
                if source.location:
                    return self._imported(source, work)
                return self._built(source, work)
            finally:
                with contextlib.suppress(OSError):
                    remove_path(work)

    def forecast(self) -> Image | None:
        """What run() would bring as far as that is known before, without content; None where nothing new."""
        vault, reference, arch = self._vault, self._reference, self._arch
        entry = vault.entry(reference, arch, self.kind)
        if entry and entry.alias_of and self._refresh:
            target = parse_reference(entry.alias_of)
            found = self._like_this(target).forecast()
            return replace(found, name=str(reference)) if found else None
        image = vault.find(reference, arch, self.kind)
        if self._is_enough(image, entry):
            return None
        source = self._source()
        if reference.host == "file":
            stamp_of(source.location)
        sha256 = source.sha256.lower()
        if self._content.promise and self._content.promise.algorithm == "sha256":
            sha256 = self._content.expected(self._content.promise)
        if image and entry and self._is_current(image, entry, source, sha256):
            return None
        there = self._there(source, sha256)
        if there:
            return replace(there, name=str(reference))
        return self._image(source, self._hash_of(source, sha256))

    def _is_enough(self, image: Image | None, entry: Entry | None) -> bool:
        """Whether what the vault has is all that is asked for."""
        # An image that was published from an instance has no source, so there is nothing newer to look for.
        refresh = self._refresh and not (entry and entry.instance)
        return image is not None and not refresh and not self._force and self._is_promised(image, entry)

    def _is_current(self, image: Image, entry: Entry, source: Source, sha256: str) -> bool:
        """Whether the source has nothing newer than the image, as far as it says so."""
        if sha256 or not source.location:
            return self._digest(image, "sha256") == sha256
        if not source.location.startswith(("http://", "https://")):
            return True
        if not self._refresh:
            return False
        return fetch.is_current(source.location, entry.etag, entry.last_modified, self._patience, self._deadline)

    # -- what is there, and what is asked for -----------------------------------------------------------------------

    def _like_this(self, target: Reference) -> Acquisition:
        """The request to have the newest version of another reference."""
        given = (self._arch, self._checksum, True, self._deadline, self._patience)
        return type(self)(self._vault, target, *given, resolve=self._resolve)

    def _refresh_alias(self, entry: Entry) -> tuple[Image, bool]:
        target = parse_reference(entry.alias_of)
        found = self._like_this(target).run()
        moved = self._vault.set_entry(self._reference, self._arch, entry._replace(hash=found[0].hash), self.kind)
        return found[0], found[1] or moved

    def _is_promised(self, image: Image, entry: Entry | None) -> bool:
        """Whether the cached image is what the checksum says; False where only fetching it anew can tell."""
        promise = self._content.promise
        if not promise or (entry and entry.checksum == self._checksum):
            return True
        expected = self._content.expected(promise)
        actual = self._digest(image, promise.algorithm)
        if not actual:
            return False
        if actual != expected:
            raise ChecksumMismatch(
                f"the image {self._reference} in the vault does not match its checksum",
                f"{promise.algorithm} {expected} is expected, and it has {actual}",
                "Ask for its newest version with state: latest of minicloud.local.image if that is what the checksum"
                " belongs to; otherwise correct the checksum.",
                expected=expected,
                actual=actual,
            )
        return True

    def _key_of(self, location: str) -> str:
        """What tells this source from others."""
        return f"{location} {self._arch}"

    def _digest(self, image: Image, algorithm: str) -> str:
        """The checksum (hex) of an image's file as it was published, empty where it is not known."""
        return image.hash if algorithm == "sha256" else self._vault.extra(image.hash, algorithm)

    def _hash_of(self, source: Source, sha256: str) -> str:
        """The hash that the image will have, empty where only fetching it can tell. sha256 -- of its file, if known"""
        return sha256

    def _there(self, source: Source, sha256: str) -> Image | None:
        """The image of the vault that the source offers, as far as that can be told."""
        hash_ = self._hash_of(source, sha256)
        return self._vault.get(hash_, self.kind) if hash_ else None

    def _source(self) -> Source:
        reference, arch = self._reference, self._arch
        entry = self._vault.entry(reference, arch, self.kind)
        if entry and entry.instance:
            raise NotFound(
                f"the image {reference} cannot be fetched",
                f"it was published from the instance {entry.instance}, and has no other source",
                f"Publish it again, with instance: {entry.instance}; or remove the name with state: absent.",
            )
        if reference.host == "bootstrap":
            from ansible_collections.minicloud.local.plugins.module_utils._images import bootstrap

            release = bootstrap.RELEASES.get(reference.name)
            if release is None:
                raise NotFound(
                    f"the image host bootstrap has no release {reference.name}",
                    "",
                    f"It can build: {', '.join(sorted(bootstrap.RELEASES))}.",
                )
            return Source(
                reference,
                "",
                arch,
                os=bootstrap.OS,
                release=reference.name,
                version=release.version,
                user=bootstrap.USER,
                kind=self.kind,
            )
        if reference.host not in ("url", "file"):
            if self._resolve is None:
                raise NotFound(
                    f"the image {reference} is not in the vault",
                    f"the image host {reference.host} is not known",
                    "Use bootstrap:bookworm, a URL or a path.",
                )
            return self._resolve(reference, arch, self.kind)
        path = urllib.parse.urlsplit(reference.name).path if reference.host == "url" else reference.name
        guessed = guess(os.path.basename(urllib.parse.unquote(path)))
        if guessed.arch and guessed.arch != arch:
            self._report.warn(
                f"The name of the image {reference} says that it is for {guessed.arch}, and {arch} is asked for."
            )
        return Source(
            reference,
            reference.name,
            arch,
            os=guessed.os,
            release=guessed.release,
            version=guessed.version,
            user=guessed.user,
            kind=self.kind,
        )

    @contextlib.contextmanager
    def _turn(self, key: str) -> t.Iterator[None]:
        """Hold the lock of a source; say so if another run must be waited for."""
        lock = f"image-{key}"
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._vault.data.lock(lock, Deadline(0.05)))
            except Busy:
                self._report.step(f"waiting for another run that fetches the image {self._reference}")
                stack.enter_context(self._vault.data.lock(lock, self._deadline or Deadline(WAIT_SECONDS)))
            yield

    # -- the three ways -----------------------------------------------------------------------------------------------

    def _fetched(self, source: Source, entry: Entry | None, work: str, partial: str) -> tuple[Image, bool]:
        """The image from a URL, unless what is here is still the same. partial -- where a download can be resumed"""
        sha256, sha512 = self._content.promised(source)
        image = self._there(source, sha256)
        if image and not self._force:
            return self._named(image, source, entry or Entry(image.hash))
        cached = self._vault.get(entry.hash, self.kind) if entry else None
        known = (
            (entry.etag, entry.last_modified)
            if entry and cached and not (sha256 or sha512 or self._force)
            else ("", "")
        )
        self._report.step("fetch_image")
        part = Part(source.location, sha256, sha512, source.size)
        return self._brought(source, part, cached, entry, work, partial, known)

    def _brought(
        self,
        source: Source,
        part: Part,
        cached: Image | None,
        entry: Entry | None,
        work: str,
        partial: str,
        known: tuple[str, str],
    ) -> tuple[Image, bool]:
        """The image in PART, or what is CACHED where the server has nothing newer than what is KNOWN."""

        def outlets() -> list[Outlet]:
            return [Unpacker(os.path.join(work, "unpacked"), self._runtime)]

        fetched = self._content.download(part, outlets, partial, known)
        if fetched is None and cached:
            return self._named(cached, source, entry or Entry(cached.hash))
        result, flow = t.cast("tuple[fetch.Fetched, Flow]", fetched)
        digests = digests_of(flow)
        unpacked = next(o for o in flow.outlets if isinstance(o, Unpacker))
        actual = digests["sha256"]
        self._content.tell_unverified(part, actual)
        try:
            if unpacked.kind:
                remove_path(result.path)
                image, placed = self._prepared(source, actual, unpacked.target, work, digests)
            else:
                image, placed = self._prepared(source, actual, result.path, work, digests)
        finally:
            remove_path(result.path)
            remove_path(f"{partial}.json")
        named = self._named(image, source, Entry(actual, etag=result.etag, last_modified=result.last_modified))
        return named[0], placed or named[1]

    def _begin_import(self, path: str) -> str:
        stamp = stamp_of(path)
        if self._vault.known(self._reference, self._arch, self.kind) and not self._refresh:
            self._report.step(f"the file {path} has changed since it was last imported")
        self._report.step("import_image")
        return stamp

    def _imported(self, source: Source, work: str) -> tuple[Image, bool]:
        """The image from a file of this host."""
        path = source.location
        stamp = self._begin_import(path)
        name = str(self._reference)
        with explained(f"the image {path} could not be read"), open(path, "rb") as stream:
            packed = compression(stream.read(8))
        found = None if packed else disk.inspect(path, name)
        unpacked = os.path.join(work, "unpacked")
        copied = os.path.join(work, "copied")
        sha512 = self._content.promise is not None and self._content.promise.algorithm == "sha512"
        # A copy is only worth its space where it may become the disk as it is.
        cloned = bool(found and found.ready) and disk.clone(path, copied)

        def outlets() -> list[Outlet]:
            wanted: list[Outlet] = [Digest("sha256")]
            if sha512:
                wanted.append(Digest("sha512"))
            if packed:
                wanted.append(Unpacker(unpacked, self._runtime))
            elif found and found.ready and not cloned:
                wanted.append(Copy(copied))
            return wanted

        digests = self._content.read(source, copied if cloned else path, Flow(outlets))
        actual = digests["sha256"]
        image = self._vault.get(actual, self.kind)
        placed = False
        if not image or self._force:
            origin = unpacked if packed else copied if os.path.exists(copied) else path
            image, placed = self._prepared(source, actual, origin, work, digests, movable=origin != path, stamp=stamp)
        named = self._named(image, source, Entry(actual, stamp=stamp))
        return named[0], placed or named[1]

    def _built(self, source: Source, work: str) -> tuple[Image, bool]:
        """The image, made on this host."""
        from ansible_collections.minicloud.local.plugins.module_utils._images import bootstrap

        release = source.reference.name
        if self._content.promise:
            raise InvalidOption(
                f"a checksum cannot be given for the image {self._reference}",
                "it is built on this host, from packages that are verified themselves",
                "Leave the checksum out.",
            )
        recipe = bootstrap.recipe_hash(release, self._arch, self.kind)
        self._report.step("build_image")
        made = os.path.join(work, "built")
        scratch = make_dir(os.path.join(work, "build"))
        built = bootstrap.build(self._runtime, release, self._arch, made, scratch, self.kind)
        remove_path(scratch)
        flow = Flow(lambda: [Digest("sha256")])
        flow.put_file(made)
        flow.finish()
        digest = t.cast(Digest, flow.outlets[0])
        source = source._replace(
            os=built.os, release=built.release, version=built.version, user=built.user, title=built.title
        )
        image, placed = self._prepared(source, digest.hex, made, work, {"sha256": digest.hex})
        named = self._named(image, source, Entry(image.hash, stamp=recipe))
        return named[0], placed or named[1]

    # -- the end of all ways ------------------------------------------------------------------------------------------

    def _prepared(
        self,
        source: Source,
        hash_: str,
        origin: str,
        work: str,
        digests: t.Mapping[str, str],
        movable: bool = True,
        stamp: str = "",
    ) -> tuple[Image, bool]:
        """Make the verified file ORIGIN an image of the vault; whether it was not there before.

        stamp -- of the file at the source's location, which must not have changed since
        """
        image = self._vault.get(hash_, self.kind)
        if image and not self._force:
            return image, False
        ready = make_dir(os.path.join(work, "ready"))
        target = os.path.join(ready, DISK_FILE)
        virtual_size = disk.prepare(self._runtime, origin, target, str(self._reference), movable)
        check_stamp(source, stamp)
        image = self._image(source, hash_, os.path.getsize(target), virtual_size)
        extra = {"sha512": digests["sha512"]} if "sha512" in digests else {}
        return image, self._vault.place(ready, image, self._force, **extra)

    def _image(
        self,
        source: Source,
        hash_: str,
        size: int = 0,
        virtual_size: int = 0,
        format_: str = "",
        metadata: str = "",
    ) -> Image:
        """The image of a source; metadata -- the name of the file that goes beside its own"""
        format_ = format_ or self.format
        image = Image(
            name=str(self._reference),
            hash=hash_,
            path="",
            format=format_,
            size=size,
            virtual_size=virtual_size,
            arch=normal_arch(source.arch),
            os=source.os,
            release=source.release,
            version=source.version,
            user=source.user,
            title=source.title,
            source=shown_url(source.location) if source.location else str(source.reference),
            created=timestamp(),
            firmware=source.firmware,
            kind=self.kind,
            metadata=metadata,
        )
        return self._vault.placed(image) if hash_ and format_ else image

    def _named(self, image: Image, source: Source, entry: Entry) -> tuple[Image, bool]:
        """Let the name lead to the image; whether it led elsewhere before."""
        entry = entry._replace(hash=image.hash, checksum=self._checksum)
        moved = self._vault.set_entry(self._reference, self._arch, entry, self.kind)
        return replace(image, name=str(self._reference)), moved
