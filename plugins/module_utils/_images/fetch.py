# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Downloads: streamed, resumed after a cut, retried, and never taken for whole when they are not."""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
import time
import typing as t
import urllib.error
import urllib.parse

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    ImageError,
    MinicloudError,
    NoSpace,
    RecordError,
)
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._images.flow import CHUNK, Flow, write_all
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import shown_url
from ansible_collections.minicloud.local.plugins.module_utils._images.unpack import free_space
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    FLAG,
    NUMBER,
    TEXT,
    Field,
    RecordKind,
    format_size,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Reporter
from ansible_collections.minicloud.local.plugins.module_utils._scope import read_record, write_record
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_path

_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (408, 425, 429)
_BEGUN = RecordKind(
    "a download that has begun",
    1,
    {
        "url": TEXT,
        "etag": TEXT,
        "last_modified": TEXT,
        "boot": TEXT,
        "complete": FLAG,
        "total": Field(lambda value: value is None or NUMBER.holds(value), "a size"),
    },
)
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Patience(t.NamedTuple):
    """How long is waited for a server.

    inactivity -- seconds without a byte; attempts -- in a row that bring nothing; pause -- before the second one
    span, least -- seconds, and the bytes that have to come in each such time: no line is so slow, and a server that
    sends a byte now and then would hold a run for ever
    """

    inactivity: float = 30.0
    attempts: int = 4
    pause: float = 0.5
    span: float = 300.0
    least: int = 64 << 10


PATIENCE = Patience()


class Fetched(t.NamedTuple):
    """A download that is whole: the file, its size, and what the server said of its version."""

    path: str
    size: int
    etag: str
    last_modified: str


class Page(t.NamedTuple):
    """A small answer. body -- None where the server says that it has not changed; url -- after redirects"""

    body: bytes | None
    etag: str
    last_modified: str
    url: str


class _Passing(Exception):
    """A trouble that may be over when it is tried again."""


class Progress:
    """Tells a reporter how far something is, at most four times a second."""

    def __init__(self, report: Reporter, what: str) -> None:
        self._report, self._what, self._next = report, what, 0.0

    def __call__(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now >= self._next or done == total:
            self._next = now + 0.25
            self._report.progress(self._what, done, total)


def read_url(
    url: str,
    limit: int = 64 << 20,
    etag: str = "",
    last_modified: str = "",
    patience: Patience = PATIENCE,
    deadline: Deadline | None = None,
) -> Page:
    """A small file, at most LIMIT bytes: a list, an index. With the version that is known, only if there is another."""
    headers = _conditions(etag, last_modified)

    def attempt() -> Page:
        try:
            answer, final = _request(url, headers, patience.inactivity)
        except urllib.error.HTTPError as exc:
            if exc.code == 304:
                exc.close()
                return Page(None, etag, last_modified, url)
            raise
        with contextlib.closing(answer):
            parts = []
            size = 0
            for data in _body(answer, _length(answer), url, patience):
                if deadline and deadline.expired():
                    raise _late(url, 0, deadline)
                size += len(data)
                if size > limit:
                    raise ImageError(
                        f"{shown_url(url)} was not fetched",
                        f"it is larger than {format_size(limit)}, which is more than such a file has",
                        "Check the URL.",
                    )
                parts.append(data)
        return Page(b"".join(parts), *_version(answer), final)

    return _persistently(attempt, url, patience, deadline, lambda: 0)


def is_current(url: str, etag: str, last_modified: str, patience: Patience, deadline: Deadline | None) -> bool:
    """Whether the server still has the version that is known, as far as it says so; its body is not fetched."""
    headers = _conditions(etag, last_modified)
    if not headers:
        return False

    def attempt() -> bool:
        try:
            answer, dummy = _request(url, headers, patience.inactivity)
        except urllib.error.HTTPError as exc:
            if exc.code == 304:
                exc.close()
                return True
            raise
        with contextlib.closing(answer):
            return bool(etag) and _version(answer)[0] == etag

    return bool(_persistently(attempt, url, patience, deadline, lambda: 0))


class Download:
    """One download into a file that can be gone on with later.

    path.part holds what has come, path.json whose it is. Both stay after a cut; discard() removes them.
    """

    def __init__(
        self,
        url: str,
        path: str,
        flow: Flow,
        report: Reporter,
        size: int = 0,
        trusted: bool = False,
        patience: Patience = PATIENCE,
        deadline: Deadline | None = None,
    ) -> None:
        """size -- what it must have, bytes, if somebody has said. trusted -- its checksum is known and is compared"""
        self.url = url
        self.path = f"{path}.part"
        self.resumed = False
        self._note = f"{path}.json"
        self._flow = flow
        self._progress = Progress(report, shown_url(url).rpartition("/")[2] or shown_url(url))
        self._size = size
        self._trusted = trusted
        self._patience = patience
        self._deadline = deadline
        self._state: dict[str, t.Any] = {}

    def run(self, etag: str = "", last_modified: str = "") -> Fetched | None:
        """Download all of it. With the version that is known: None if the server has no other."""
        make_dir(os.path.dirname(self.path))
        try:
            self._recall()
            known = (etag, last_modified)
            with explained(f"{self.path} could not be written"):
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(descriptor, "r+b", buffering=0) as stream:
                stream.seek(0, os.SEEK_END)
                whole = _persistently(
                    lambda: self._attempt(stream, *known),
                    self.url,
                    self._patience,
                    self._deadline,
                    lambda: self._flow.size,
                )
            if not whole:
                self.discard()
                return None
            self._flow.finish()
        except MinicloudError as exc:
            # A full disk is relieved; bytes that mean nothing, or none at all, will not mean more the next time.
            if isinstance(exc, NoSpace) or self._flow.failed or not self._flow.size:
                self.discard()
            raise
        finally:
            self._flow.abandon()
        return Fetched(self.path, self._flow.size, self._state.get("etag", ""), self._state.get("last_modified", ""))

    def discard(self) -> None:
        """Remove what has come: the next download begins at the beginning."""
        remove_path(self._note)
        remove_path(self.path)

    def _recall(self) -> None:
        """Take up what an earlier run has left, if it can be known to belong to the same file."""
        state: dict[str, t.Any] = {}
        with contextlib.suppress(RecordError):
            state = read_record(self._note, _BEGUN) or {}
        size = os.path.getsize(self.path) if os.path.exists(self.path) else 0
        total = state.get("total") or self._size
        # After a power cut, parts of the file may be missing although its size is right.
        certain = self._trusted or (_validator(state) and state.get("boot") == _boot_id())
        if not size or state.get("url") != self.url or not certain or (total and size > total):
            self.discard()
            return
        self._state = state
        self.resumed = True
        self._flow.put_file(self.path)

    def _attempt(self, stream: t.IO[bytes], etag: str, last_modified: str) -> bool:
        """One request, and all that comes of it. False: nothing has changed since the version that is known."""
        have = self._flow.size
        headers: dict[str, str] = {}
        validator = _validator(self._state)
        if have and self._state.get("complete"):
            if self._trusted:
                return True
            headers = _conditions(self._state.get("etag", ""), self._state.get("last_modified", ""))
        elif have and (validator or self._trusted):
            headers["Range"] = f"bytes={have}-"
            if validator:
                headers["If-Range"] = validator
        elif not have:
            headers = _conditions(etag, last_modified)
        try:
            answer, dummy = _request(self.url, headers, self._patience.inactivity)
        except urllib.error.HTTPError as exc:
            if exc.code == 304:
                exc.close()
                return bool(have)
            if exc.code == 416 and have:
                exc.close()
                if self._unsatisfied(exc.headers.get("Content-Range", ""), have):
                    return True
                self._begin_anew(stream)
                raise _Passing("the server has less than was fetched before") from exc
            raise
        with contextlib.closing(answer):
            total = self._accept(answer, stream, have)
            done = self._flow.size
            for data in _body(answer, None if total is None else total - done, self.url, self._patience):
                if self._size and self._flow.size + len(data) > self._size:
                    raise self._wrong_size(f"the server sends more than {self._size} bytes")
                with explained(f"{self.path} could not be written"):
                    write_all(stream, data)
                self._flow.put(data)
                self._progress(self._flow.size, total)
                if self._deadline and self._deadline.expired():
                    raise _late(self.url, self._flow.size, self._deadline)
        if self._size and self._flow.size != self._size:
            raise self._wrong_size(f"the server sent {self._flow.size} bytes, and {self._size} were promised")
        self._remember(complete=True)
        return True

    def _accept(self, answer: t.Any, stream: t.IO[bytes], have: int) -> int | None:
        """Make ready for the body of an answer: goes it on, or does it begin anew? The size of the whole file."""
        etag, last_modified = _version(answer)
        if answer.status == 206:
            span, dummy, size = answer.headers.get("Content-Range", "").partition("/")
            total = _size(size)
            changed = self._state.get("etag") and etag and etag != self._state["etag"]
            same = total is None or not self._state.get("total") or total == self._state["total"]
            if changed or not same or not span.replace("bytes=", "bytes ").startswith(f"bytes {have}-"):
                self._begin_anew(stream)
                raise _Passing("the file has changed on the server")
        elif answer.status == 200:
            self._begin_anew(stream)
            total = _length(answer)
            self._state = {"etag": etag, "last_modified": last_modified, "total": total, "boot": _boot_id()}
        else:
            raise ImageError(f"{shown_url(self.url)} was not fetched", f"the server answered with {answer.status}")
        if self._size and total is not None and total != self._size:
            raise self._wrong_size(f"the server offers {total} bytes, and {self._size} were promised")
        room = free_space(os.path.dirname(self.path))
        if total is not None and total - self._flow.size > room:
            raise NoSpace(
                f"{shown_url(self.url)} was not fetched",
                f"{format_size(total - self._flow.size)} are to come and {format_size(room)} are free in"
                f" {os.path.dirname(self.path)}",
                "Free some space on that file system, or use another data_dir.",
            )
        if answer.status == 200:
            self._remember(complete=False)
        return total

    def _unsatisfied(self, span: str, have: int) -> bool:
        """Whether a refusal of a range says that there is no more than what is here."""
        size = span.rpartition("/")[2]
        stated = (size, self._state.get("total") or have, self._size or have)
        if any(str(known) != str(have) for known in stated):
            return False
        self._remember(complete=True)
        return True

    def _begin_anew(self, stream: t.IO[bytes]) -> None:
        self.resumed = False
        self._state = {}
        self._flow.restart()
        with explained(f"{self.path} could not be written"):
            stream.seek(0)
            stream.truncate()

    def _remember(self, complete: bool) -> None:
        self._state["complete"] = complete
        write_record(self._note, _BEGUN, {**self._state, "url": self.url})

    def _wrong_size(self, why: str) -> ImageError:
        self.discard()
        return ImageError(
            f"{shown_url(self.url)} was not fetched",
            why,
            "The file and its description do not belong together; try again later, or use another mirror.",
        )


def _persistently(
    attempt: t.Callable[[], t.Any],
    url: str,
    patience: Patience,
    deadline: Deadline | None,
    progress: t.Callable[[], int],
) -> t.Any:
    """Try until it works, as long as each attempt brings something or the patience lasts."""
    fruitless = 0
    furthest = progress()
    while True:
        try:
            return attempt()
        except urllib.error.HTTPError as exc:
            exc.close()
            if exc.code < 500 and exc.code not in _PASSING:
                raise _refused(url, exc) from exc
            cause: Exception = exc
            why = f"the server answered with {exc.code} {exc.reason}"
        except urllib.error.URLError as exc:
            if isinstance(exc.reason, ssl.SSLCertVerificationError):
                raise ImageError(
                    f"{shown_url(url)} was not fetched",
                    f"the server's certificate is not trusted ({exc.reason.verify_message})",
                    "Install the certificate of its authority on this host, or name a file that has it in the"
                    " environment variable SSL_CERT_FILE.",
                ) from exc
            cause, why = exc, _said(exc.reason)
        except (http.client.InvalidURL, ValueError) as exc:
            raise ImageError(f"{shown_url(url)} was not fetched", str(exc), "Check the URL.") from exc
        except (http.client.HTTPException, OSError, _Passing) as exc:
            cause, why = exc, _said(exc)
        have = progress()
        # Getting as far as before, after beginning anew, is no progress: that could go on for ever.
        fruitless = 1 if have > furthest else fruitless + 1
        furthest = max(furthest, have)
        kept = f" {format_size(have)} are kept, and the next run goes on from there." if have else ""
        if fruitless >= patience.attempts:
            raise ImageError(
                f"{shown_url(url)} was not fetched",
                f"{why}, also after {fruitless} attempts",
                f"Check the network, the proxy settings and the server.{kept}",
            ) from cause
        pause = patience.pause * 2 ** (fruitless - 1)
        if deadline and deadline.left() <= pause:
            raise _late(url, have, deadline, why) from cause
        time.sleep(pause)


def _late(url: str, have: int, deadline: Deadline, why: str = "") -> ImageError:
    kept = f"{format_size(have)} are kept, and the next run goes on from there." if have else ""
    return ImageError(
        f"{shown_url(url)} was not fetched within {deadline.seconds:g} seconds", why, kept or "Allow more time."
    )


def _refused(url: str, exc: urllib.error.HTTPError) -> ImageError:
    hints = {
        401: "The server wants a user's name and password: write https://USER:PASSWORD@… or use a .netrc file.",
        403: "The server does not give this file to this host.",
        404: "Check the URL; images are often removed when newer ones are published.",
        407: "Put the proxy's user and password into the environment variable https_proxy.",
        410: "It was removed; look for a newer one.",
    }
    return ImageError(
        f"{shown_url(url)} was not fetched",
        f"the server answered with {exc.code} {exc.reason}",
        hints.get(exc.code, "Check the URL."),
        status=exc.code,
    )


def _said(exc: t.Any) -> str:
    if isinstance(exc, TimeoutError) or "timed out" in str(exc):
        return "the server was silent for too long"
    if isinstance(exc, http.client.IncompleteRead):
        return "the connection was cut"
    return str(getattr(exc, "strerror", None) or exc) or type(exc).__name__


def _request(url: str, headers: t.Mapping[str, str], inactivity: float) -> tuple[t.Any, str]:
    """Send one request, follow redirects, never from https to http. The answer, and the URL that gave it."""
    from ansible.module_utils.urls import open_url

    current = url
    for dummy in range(10):
        try:
            # As the server has it: a checksum is of the file, not of what a transfer encoding makes of it.
            answer = open_url(
                current,
                headers={"Accept-Encoding": "identity", **headers},
                timeout=inactivity,
                http_agent="minicloud.local",
                follow_redirects="none",
                decompress=False,
            )
            return answer, current
        except urllib.error.HTTPError as exc:
            location = exc.headers.get("Location") if exc.code in _REDIRECTS and exc.headers else None
            if not location:
                raise
            exc.close()
            target = urllib.parse.urljoin(current, location)
            scheme, before = (urllib.parse.urlsplit(each).scheme for each in (target, current))
            if scheme not in ("http", "https") or (scheme == "http" and before == "https"):
                raise ImageError(
                    f"{shown_url(url)} was not fetched",
                    f"the server redirects to {shown_url(target)}, which is not protected as https is",
                    "Use a server that stays with https, or that URL itself together with a checksum.",
                ) from exc
            current = target
    raise ImageError(f"{shown_url(url)} was not fetched", "the server redirects for ever", "Check the URL.")


def _body(answer: t.Any, length: int | None, url: str, patience: Patience) -> t.Iterator[bytes]:
    """The body as it arrives; length -- what must come, where that is known. A short one is an error."""
    left = length
    begun, come = time.monotonic(), 0
    while left is None or left > 0:
        data = answer.read1(CHUNK if left is None else min(CHUNK, left))
        now, come = time.monotonic(), come + len(data)
        if now - begun > patience.span:
            if come < patience.least:
                raise ImageError(
                    f"{shown_url(url)} was not fetched",
                    f"the server sent {come} bytes in {now - begun:.0f} seconds",
                    "Try another server, or later.",
                )
            begun, come = now, 0
        if not data:
            if left:
                raise _Passing(f"the connection was cut {format_size(left)} before the end")
            return
        if left is not None:
            left -= len(data)
        yield data


def _length(answer: t.Any) -> int | None:
    length = answer.headers.get("Content-Length", "")
    return None if answer.headers.get("Transfer-Encoding") else _size(length)


def _size(text: str) -> int | None:
    """A number of bytes that a server tells, None where it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


def _version(answer: t.Any) -> tuple[str, str]:
    return answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")


def _conditions(etag: str, last_modified: str) -> dict[str, str]:
    """The headers that ask for a file only if it is not this version."""
    if etag:
        return {"If-None-Match": etag}
    return {"If-Modified-Since": last_modified} if last_modified else {}


def _validator(state: t.Mapping[str, t.Any]) -> str:
    """What a range can be tied to, so that it never goes on with another file."""
    etag = str(state.get("etag", ""))
    return etag if etag and not etag.startswith("W/") else str(state.get("last_modified", ""))


def _boot_id() -> str:
    try:
        with open(_BOOT_ID, encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""
