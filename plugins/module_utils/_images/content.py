# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The bytes of an image on their way into the vault: fetched or read, and verified by what was promised of them."""

from __future__ import annotations

import os
import typing as t
import urllib.parse

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    ChecksumMismatch,
    ImageError,
    InvalidOption,
    NotFound,
)
from ansible_collections.minicloud.local.plugins.module_utils._images import fetch
from ansible_collections.minicloud.local.plugins.module_utils._images.checksum import (
    Promise,
    find_in_list,
    parse_checksum,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.flow import Digest, Flow, Outlet
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import (
    Reference,
    shown_url,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.source import Part, Source
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import (
    file_stamp,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Reporter


class Content:
    """The content of one image. promise -- the checksum that a task gives; None where it gives none"""

    def __init__(
        self,
        reference: Reference,
        report: Reporter,
        checksum: str,
        patience: fetch.Patience,
        deadline: Deadline | None,
    ) -> None:
        self._reference = reference
        self._report = report
        self._checksum = checksum.strip()
        self._patience = patience
        self._deadline = deadline
        self.promise: Promise | None = parse_checksum(checksum)

    def expected(self, promise: Promise) -> str:
        """The checksum (hex) that is promised, looked up where only a list was named."""
        if not promise.url:
            return promise.value
        location = self._reference.name
        filename = urllib.parse.unquote(urllib.parse.urlsplit(location).path if "://" in location else location)
        if self._reference.host not in ("url", "file"):
            raise InvalidOption(
                f"checksum {self._checksum!r} is not valid for the image {self._reference}",
                "a list of checksums is looked up by file name, and only images from a URL or path have one",
                "Leave the checksum out: image hosts say themselves what their images must be.",
            )
        page = fetch.read_url(promise.url, patience=self._patience, deadline=self._deadline)
        text = (page.body or b"").decode("utf-8", "replace")
        value = find_in_list(text, os.path.basename(filename), promise.algorithm, shown_url(promise.url))
        self.promise = promise._replace(value=value)
        return value

    def promised(self, source: Source) -> tuple[str, str]:
        """The sha256 and sha512 (hex) that the image's file must have, each empty where nobody has promised it."""
        sha256, sha512 = source.sha256.lower(), source.sha512.lower()
        if self.promise:
            expected = self.expected(self.promise)
            stated = sha256 if self.promise.algorithm == "sha256" else sha512
            if stated and stated != expected:
                raise self.mismatch(self.promise.algorithm, expected, stated, "its image host states")
            if self.promise.algorithm == "sha256":
                sha256 = expected
            else:
                sha512 = expected
        return sha256, sha512

    def tell_unverified(self, part: Part, actual: str) -> None:
        """Warn of what was fetched without a checksum to compare it with. actual -- its sha256"""
        if not (part.sha256 or part.sha512):
            self._report.warn(
                f"The image {shown_url(part.location)} was fetched without a checksum to compare it with; it has"
                f" sha256:{actual}. Give that as its checksum to be sure of getting the same again."
            )

    def download(
        self, part: Part, outlets: t.Callable[[], list[Outlet]], partial: str, known: tuple[str, str] = ("", "")
    ) -> tuple[fetch.Fetched, Flow] | None:
        """Fetch and verify; what an earlier run had left, and was no good, is fetched once more from the beginning.

        outlets -- for the bytes, beside those of the checksums
        """
        promised = {"sha256": part.sha256, "sha512": part.sha512}

        def all_outlets() -> list[Outlet]:
            return [Digest("sha256"), *([Digest("sha512")] if part.sha512 else []), *outlets()]

        while True:
            flow = Flow(all_outlets)
            download = fetch.Download(
                part.location,
                partial,
                flow,
                self._report,
                part.size,
                bool(part.sha256 or part.sha512),
                self._patience,
                self._deadline,
            )
            try:
                result = download.run(*known)
                if result is None:
                    return None
                for algorithm, actual in digests_of(flow).items():
                    expected = promised[algorithm]
                    if expected and actual != expected:
                        raise self.mismatch(algorithm, expected, actual, "what was fetched has")
                return result, flow
            except ImageError as exc:
                if isinstance(exc, ChecksumMismatch):
                    download.discard()
                elif not flow.failed:
                    raise
                if not download.resumed:
                    raise

    def mismatch(self, algorithm: str, expected: str, actual: str, who: str) -> ChecksumMismatch:
        """The error to raise. who -- has the actual checksum, with a verb: "the file has"."""
        return ChecksumMismatch(
            f"the image {self._reference} does not match its checksum",
            f"{algorithm} {expected} is expected, and {who} {actual}",
            "Nothing of it was kept. If the publisher has replaced the file, use the checksum of the new one;"
            " otherwise do not trust this server.",
            expected=expected,
            actual=actual,
        )

    def read(self, source: Source, path: str, flow: Flow) -> dict[str, str]:
        """Read a whole file into FLOW, and return its checksums, which are what they should be."""
        progress = fetch.Progress(self._report, os.path.basename(source.location))
        try:
            size = os.path.getsize(path)
            flow.put_file(path, lambda done: progress(done, size))
            flow.finish()
        finally:
            flow.abandon()
        digests = digests_of(flow)
        expected = {"sha256": source.sha256.lower(), "sha512": source.sha512.lower()}
        if self.promise:
            expected[self.promise.algorithm] = self.expected(self.promise)
        for algorithm, value in digests.items():
            if expected[algorithm] and expected[algorithm] != value:
                raise self.mismatch(algorithm, expected[algorithm], value, "the file has")
        return digests


def stamp_of(path: str) -> str:
    """The stamp of a file that is to be imported; NotFound where there is none."""
    stamp = file_stamp(path)
    if not stamp or not os.path.isfile(path):
        raise NotFound(
            f"the image {path} was not found",
            "it is not a file" if stamp else "there is no such file on this host",
            "Check the path; it is one of the host that runs the instances.",
        )
    return stamp


def check_stamp(source: Source, stamp: str) -> None:
    """Raise if the file at the source's location is no longer the one with this stamp; without one: return."""
    if stamp and file_stamp(source.location) != stamp:
        raise ImageError(
            f"the image {source.location} was not imported",
            "the file was written to meanwhile",
            "Run this again when whatever writes it is done.",
        )


def digests_of(flow: Flow) -> dict[str, str]:
    """The checksums (hex) of what has come through a flow, by algorithm."""
    return {outlet.algorithm: outlet.hex for outlet in flow.outlets if isinstance(outlet, Digest) and outlet.algorithm}
