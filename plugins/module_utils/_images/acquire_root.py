# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""How the image of a container comes into the vault: as it was published, neither decompressed nor converted.

Its hash is LXD's fingerprint: of metadata and root file system together, or of the one file that has both. A root file
system that comes without metadata is given some, which depend on nothing but its content and architecture.
"""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._images import disk, lxd_metadata
from ansible_collections.minicloud.local.plugins.module_utils._images.acquire import Acquisition
from ansible_collections.minicloud.local.plugins.module_utils._images.content import check_stamp, digests_of
from ansible_collections.minicloud.local.plugins.module_utils._images.flow import (
    Copy,
    Digest,
    Flow,
    Outlet,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import Reference
from ansible_collections.minicloud.local.plugins.module_utils._images.root import Root, RootScan
from ansible_collections.minicloud.local.plugins.module_utils._images.simplestreams import arch_name, default_user
from ansible_collections.minicloud.local.plugins.module_utils._images.source import Part, Source
from ansible_collections.minicloud.local.plugins.module_utils._images.unpack import compression
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import Entry, Vault
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    CONTAINER,
    MIB,
    format_size,
)
from ansible_collections.minicloud.local.plugins.module_utils._writing import (
    make_dir,
    remove_path,
    write_file,
)

# Templates and a few lines of text: more is something else.
_METADATA_SIZE = 16 * MIB


class _Together(Digest):
    """The checksum of something, and of all bytes after it. algorithm -- empty: it is not that of the bytes alone"""

    def __init__(self, before: bytes) -> None:
        super().__init__("sha256")
        self.algorithm = ""
        self.feed(before)


class RootAcquisition(Acquisition):
    """One request to have the image of a container in the vault."""

    kind = CONTAINER
    format = ""

    def _key_of(self, location: str) -> str:
        return f"{super()._key_of(location)} {self.kind}"

    def _digest(self, image: Image, algorithm: str) -> str:
        return self._vault.extra(image.hash, algorithm)

    def _hash_of(self, source: Source, sha256: str) -> str:
        if source.fingerprint or source.metadata:
            return source.fingerprint
        # If that file has no metadata in it, this is not its hash, and no image has it.
        return sha256 if self._vault.get(sha256, self.kind) else ""

    def _is_current(self, image: Image, entry: Entry, source: Source, sha256: str) -> bool:
        if source.fingerprint:
            return image.hash == source.fingerprint
        return super()._is_current(image, entry, source, sha256)

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
        before = self._fetch_metadata(source.metadata, f"{partial}.metadata") if source.metadata else b""

        def outlets() -> list[Outlet]:
            # An image with separate metadata is described by its host, others only by their content.
            scan = RootScan(str(self._reference), self._runtime, deep=not before)
            return [scan, _Together(before)] if before else [scan]

        fetched: t.Any = self._content.download(part, outlets, partial, known)
        if fetched is None and cached:
            return self._named(cached, source, entry or Entry(cached.hash))
        result, flow = fetched
        together = next((o.hex for o in flow.outlets if isinstance(o, _Together)), "")
        root = next(o.root for o in flow.outlets if isinstance(o, RootScan))
        digests = digests_of(flow)
        self._content.tell_unverified(part, digests["sha256"])
        try:
            if together and source.fingerprint and together != source.fingerprint:
                raise self._content.mismatch(
                    "sha256", source.fingerprint, together, "metadata and root file system have"
                )
            image, placed = self.prepared_root(source, root, result.path, work, digests, before, together)
        finally:
            remove_path(result.path)
            remove_path(f"{partial}.json")
        named = self._named(image, source, Entry(image.hash, etag=result.etag, last_modified=result.last_modified))
        return named[0], placed or named[1]

    def _fetch_metadata(self, part: Part, partial: str) -> bytes:
        """The file that LXD needs beside a root file system."""
        if part.size > _METADATA_SIZE:
            raise self._too_large(part.size)
        part = part._replace(sha256=part.sha256.lower(), sha512=part.sha512.lower())
        fetched: t.Any = self._content.download(part, list, partial)
        path = fetched[0].path
        try:
            if os.path.getsize(path) > _METADATA_SIZE:
                raise self._too_large(os.path.getsize(path))
            with explained(f"{path} could not be read"), open(path, "rb") as stream:
                return stream.read()
        finally:
            remove_path(path)
            remove_path(f"{partial}.json")

    def _too_large(self, size: int) -> ImageError:
        return ImageError(
            f"the image {self._reference} cannot be used",
            f"its metadata have {format_size(size)}, and no image's have so much",
            "Choose another image.",
        )

    def _imported(self, source: Source, work: str) -> tuple[Image, bool]:
        path = source.location
        stamp = self._begin_import(path)
        copied = os.path.join(work, "copied")
        sha512 = self._content.promise is not None and self._content.promise.algorithm == "sha512"
        cloned = disk.clone(path, copied)
        scan = RootScan(str(self._reference), self._runtime)

        def outlets() -> list[Outlet]:
            wanted: list[Outlet] = [Digest("sha256"), *([Digest("sha512")] if sha512 else []), scan]
            return wanted if cloned else [*wanted, Copy(copied)]

        digests = self._content.read(source, copied if cloned else path, Flow(outlets))
        image, placed = self.prepared_root(source, scan.root, copied, work, digests, stamp=stamp)
        named = self._named(image, source, Entry(image.hash, stamp=stamp))
        return named[0], placed or named[1]

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
        """What was built on this host: one archive that has all."""
        return self.prepared_root(source, Root("tar", unified=True), origin, work, digests)

    def prepared_root(
        self,
        source: Source,
        root: Root,
        origin: str,
        work: str,
        digests: t.Mapping[str, str],
        metadata: bytes = b"",
        together: str = "",
        stamp: str = "",
    ) -> tuple[Image, bool]:
        """Make the verified file ORIGIN, which goes, an image of the vault; whether it was not there before.

        metadata -- the file that comes with it, if any; together -- the checksum of both
        """
        if root.unified:
            source = self._described(source, lxd_metadata.describe(root.metadata)) if root.metadata else source
        elif not metadata:
            metadata = self._made_metadata(source, root)
        hash_ = together or digests["sha256"]
        if metadata and not together:
            flow = Flow(lambda: [_Together(metadata)])
            flow.put_file(origin)
            flow.finish()
            hash_ = t.cast(_Together, flow.outlets[0]).hex
        image = self._vault.get(hash_, self.kind)
        if image and not self._force:
            return image, False
        self._report.step("prepare_image")
        ready = make_dir(os.path.join(work, "ready"))
        beside = f"metadata.tar{_ENDINGS[compression(metadata)]}" if metadata else ""
        image = self._image(source, hash_, os.path.getsize(origin), format_=root.format, metadata=beside)
        if metadata:
            write_file(os.path.join(ready, beside), metadata)
        target = os.path.join(ready, os.path.basename(image.path))
        with explained(f"the image {self._reference} could not be moved"):
            os.rename(origin, target)
            os.chmod(target, 0o600)
            descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
            with contextlib.closing(os.fdopen(descriptor, "rb")):
                # The record that comes after this promises that it is there, also after a power cut.
                os.fsync(descriptor)
        check_stamp(source, stamp)
        return image, self._vault.place(ready, image, self._force, **digests)

    def _described(self, source: Source, said: lxd_metadata.Description) -> Source:
        """A source with what the image says of itself, where nobody else has said it."""
        arch = arch_name(said.arch) if said.arch else self._arch
        if arch != arch_name(self._arch):
            raise ImageError(
                f"the image {self._reference} is not for {self._arch}",
                f"its metadata say that it is for {arch}",
                f"Set arch: {arch}, or choose another image.",
            )
        return source._replace(
            os=source.os or said.os,
            release=source.release or said.release,
            version=source.version or said.version,
            user=source.user or default_user(said.os),
            title=source.title or said.title,
        )

    @staticmethod
    def _made_metadata(source: Source, root: Root) -> bytes:
        """Metadata for a root file system that comes without."""
        # No file name and no time in it, so that the same content always has the same hash.
        arch = arch_name(source.arch)
        return lxd_metadata.tarball(lxd_metadata.files(arch, root.created, {"architecture": arch}), root.created)


_ENDINGS = {"": "", "gzip": ".gz", "xz": ".xz", "bzip2": ".bz2", "zstd": ".zst"}


def place_root(vault: Vault, work: str, path: str, source: str, arch: str) -> Image:
    """Have the container image at PATH, which goes, be in the vault. source -- the file that it was in"""
    reference = Reference("file", source)
    scan = RootScan(source, vault.runtime)
    flow = Flow(lambda: [Digest("sha256"), scan])
    try:
        flow.put_file(path)
        flow.finish()
    finally:
        flow.abandon()
    request = RootAcquisition(vault, reference, arch)
    what = Source(reference, source, arch, kind=CONTAINER)
    return request.prepared_root(what, scan.root, path, work, digests_of(flow))[0]
