# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Looking at an LXD server: its API over a unix socket or TLS, with the standard library alone.

What changes instances goes through pylxd, whose import costs more than a whole run that changes nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import stat
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.answers import checked
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.product import Product
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InvalidOption,
    MissingRequirement,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import checked_url
from ansible_collections.minicloud.local.plugins.module_utils._options import FALSE_WORDS, TRUE_WORDS
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, find_program

DEFAULT_PROJECT = "minicloud"
DEFAULT_PORT = 8443

_SOCKET = "unix.socket"
_TIMEOUT = 60.0
# Bytes of an answer: what it knows of many instances, and what a guest has written to its console.
_LONGEST_ANSWER, _LONGEST_TEXT = 256 << 20, 8 << 20
_LONGEST_HEADER = 64 << 10


# What is said of a container that is just ending, whose state cannot be told then; and how many seconds that may last.
_ENDING = "Invalid PID"
_ENDS_WITHIN = 20.0


class NotThere(HypervisorError):
    """LXD knows no such object."""


class Place(t.NamedTuple):
    """An LXD server and the project in it.

    product -- what it calls things
    endpoint -- https://HOST:PORT, or the path of a unix socket; cert, key -- files of the client certificate
    verify -- the file of the server's own certificate, or true (as all TLS) or false (not at all)
    """

    product: Product
    endpoint: str
    cert: str = ""
    key: str = ""
    verify: str = "true"
    project: str = DEFAULT_PROJECT

    @property
    def is_remote(self) -> bool:
        """Whether it is reached over the network."""
        return self.endpoint.startswith("https://")

    @property
    def host(self) -> tuple[str, int]:
        """Host and port of a remote one."""
        from urllib.parse import urlsplit  # imported by Ansible anyway

        parts = urlsplit(self.endpoint)
        return parts.hostname or "", parts.port or DEFAULT_PORT


def place_of(options: t.Mapping[str, t.Any], product: Product) -> Place:
    """The server and project that driver_options lead to. InvalidOption where they cannot be meant."""
    endpoint = str(options.get("endpoint") or "")
    if endpoint.startswith("unix://"):
        endpoint = endpoint[len("unix://") :]
    files = {key: str(options.get(key) or "") for key in ("cert", "key")}
    files = {key: os.path.expanduser(path) for key, path in files.items()}
    verify = str(options.get("verify", "") if options.get("verify") is not None else "").strip() or "true"
    if verify.lower() in TRUE_WORDS + FALSE_WORDS:
        verify = "true" if verify.lower() in TRUE_WORDS else "false"
    else:
        verify = os.path.expanduser(verify)
    project = str(options.get("project") or "")
    place = Place(product, endpoint or default_socket(product), **files, verify=verify, project=project)
    place = place._replace(project=place.project or DEFAULT_PROJECT)
    if not (place.is_remote or place.endpoint.startswith("/")):
        raise InvalidOption(
            f"driver_options.endpoint {endpoint!r} is not an {product} server",
            hint="Write https://HOST:8443, or the path of a unix socket.",
        )
    if not place.is_remote:
        return place._replace(cert="", key="", verify="true")
    checked_url(endpoint, "driver_options.endpoint")
    if not place.cert or not place.key:
        raise InvalidOption(
            "driver_options.endpoint is remote, and the client certificate is missing",
            hint=f"Give cert and key, such as ~/.config/{product.client}/client.crt and client.key, and have the"
            f" server trust it: {product.trust}.",
        )
    for name in ("cert", "key", *(("verify",) if place.verify not in ("true", "false") else ())):
        path = getattr(place, name)
        if not os.access(path, os.R_OK):
            raise InvalidOption(f"driver_options.{name} {path!r} cannot be read", hint="Name a file that is there.")
    return place


def operations_of(groups: t.Mapping[str, t.Any] | None, name: str) -> list[str]:
    """The operations that LXD carries out for an instance now, of all of them (with recursion)."""
    found = []
    for operation in (groups or {}).get("running", ()):
        urls = [url for some in (operation.get("resources") or {}).values() for url in some or ()]
        if any(url.partition("?")[0].rpartition("/")[2] == name for url in urls):
            found.append(str(operation["id"]))
    return found


def default_socket(product: Product) -> str:
    """The unix socket of this host's LXD, there or not."""
    given = os.environ.get(product.variable)
    if given:
        return os.path.join(os.path.abspath(given), _SOCKET)
    paths = [os.path.join(directory, _SOCKET) for directory in product.directories]
    return next((path for path in paths if os.path.exists(path)), paths[-1])


class LxdApi:
    """Asks one LXD server, within one project."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.product = place.product

    def get(self, path: str, **query: str) -> t.Any:
        """The metadata of PATH (such as instances/web). NotThere where LXD knows none, else HypervisorError."""
        for dummy in Deadline(_ENDS_WITHIN).pauses():
            try:
                return self._asked(path, query)
            except HypervisorError as exc:
                if _ENDING not in exc.why:
                    raise
        return self._asked(path, query)

    def begin(self, path: str, body: t.Any) -> t.Any:
        """Begin an operation, and return what LXD says of it. Errors as of get()."""
        return self._asked(path, {}, json.dumps(body).encode())

    def _asked(self, path: str, query: t.Mapping[str, str], content: bytes | None = None) -> t.Any:
        status, body = self._exchange(path, query, content=content)
        try:
            answer = json.loads(body)
            if status in (200, 202):
                return checked(path, answer["metadata"]) if content is None else answer["metadata"]
            why = str(answer["error"])
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            raise HypervisorError(
                f"{self.product} at {self.place.endpoint} gave an answer that cannot be read",
                f"{exc} in {body[:200]!r}",
            ) from exc
        if status == 403:
            raise untrusted(self.place, why)
        raise (NotThere if status == 404 else HypervisorError)(f"{self.product} did not answer for {path}", why)

    def text(self, path: str) -> bytes:
        """What LXD keeps as a file under PATH; empty where there is nothing."""
        status, body = self._exchange(path, {}, _LONGEST_TEXT)
        return body if status == 200 else b""

    @contextlib.contextmanager
    def download(self, path: str) -> t.Iterator[tuple[int, t.Iterator[bytes]]]:
        """A file that LXD hands out under PATH: its size in bytes, and its content while it comes. HypervisorError"""
        doing = f"{self.product} did not hand out {path}"
        try:
            with self.connect() as connection:
                connection.sendall(self._request(path, {}))
                answer = bytearray()
                while b"\r\n\r\n" not in answer and len(answer) < _LONGEST_HEADER:
                    part = connection.recv(1 << 16)
                    if not part:
                        break
                    answer += part
                header, dummy, body = bytes(answer).partition(b"\r\n\r\n")
                size = re.search(rb"(?im)^content-length: *([0-9]{1,18})\r?$", header)
                if not header.startswith((b"HTTP/1.0 200", b"HTTP/1.1 200")) or not size:
                    raise HypervisorError(doing, f"it says {header[:100]!r} {body[:200]!r}")

                def blocks() -> t.Iterator[bytes]:
                    yield body
                    yield from iter(lambda: connection.recv(1 << 18), b"")

                yield int(size[1]), blocks()
        except OSError as exc:
            raise HypervisorError(doing, str(exc)) from exc

    def _request(self, path: str, query: t.Mapping[str, str], content: bytes | None = None) -> bytes:
        # Of version 1.0 an answer is whole when the connection ends, and comes in one piece.
        parameters = "&".join(
            f"{key}={_quoted(value)}" for key, value in {"project": self.place.project, **query}.items()
        )
        head = f"{'GET' if content is None else 'POST'} /1.0{'/' if path else ''}{path}?{parameters} HTTP/1.0\r\n"
        head += "Host: localhost\r\n"
        if content is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        return f"{head}\r\n".encode() + (content or b"")

    def _exchange(
        self, path: str, query: t.Mapping[str, str], limit: int = _LONGEST_ANSWER, content: bytes | None = None
    ) -> tuple[int, bytes]:
        parts = []
        size = 0
        try:
            with self.connect() as connection:
                connection.sendall(self._request(path, query, content))
                for part in iter(lambda: connection.recv(1 << 16), b""):
                    parts.append(part)
                    size += len(part)
                    if size > limit:
                        raise OSError(f"its answer for {path} has more than {limit >> 20} MiB")
        except OSError as exc:
            if "certificate required" in str(exc) or "bad certificate" in str(exc):
                raise untrusted(self.place, str(exc)) from exc
            raise HypervisorError(f"{self.product} at {self.place.endpoint} does not answer", str(exc)) from exc
        header, dummy, body = b"".join(parts).partition(b"\r\n\r\n")
        try:
            return int(header.split(None, 2)[1]), body
        except (IndexError, ValueError) as exc:
            raise HypervisorError(
                f"{self.place.endpoint} does not speak as {self.product} does", f"it says {header[:100]!r}"
            ) from exc

    def connect(self) -> socket.socket:
        """A new connection to the server, on which nothing was said yet."""
        if self.place.is_remote:
            return self._connect_tls()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_TIMEOUT)
        try:
            connection.connect(self.place.endpoint)
        except OSError as exc:
            connection.close()
            raise _no_socket(self.place, exc) from exc
        return connection

    def _connect_tls(self) -> socket.socket:
        import ssl

        place = self.place
        context = ssl.create_default_context()
        if place.verify != "true":
            # A certificate that is pinned need not have a name in it, nor anybody's signature.
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            context.load_cert_chain(place.cert, place.key)
            connection = context.wrap_socket(
                socket.create_connection(place.host, _TIMEOUT), server_hostname=place.host[0]
            )
        except ssl.SSLCertVerificationError as exc:
            raise MissingRequirement(
                f"the certificate of the {place.product} server {place.endpoint} is not trusted here",
                exc.verify_message,
                "Give the server's own certificate as driver_options.verify; on the server it is server.crt, or"
                " cluster.crt in a cluster.",
            ) from exc
        except ssl.SSLError as exc:
            raise MissingRequirement(
                f"no TLS connection to the {place.product} server {place.endpoint} came about",
                str(exc),
                "See whether driver_options.cert and key belong together.",
            ) from exc
        except OSError as exc:
            raise MissingRequirement(
                f"the {place.product} server {place.endpoint} cannot be reached",
                exc.strerror or str(exc),
                f"See whether it runs and listens on the network: {self.product.client} config get core.https_address.",
            ) from exc
        if place.verify not in ("true", "false"):
            try:
                with open(place.verify, encoding="ascii") as stream:
                    pinned = ssl.PEM_cert_to_DER_cert(stream.read().strip())
            except (OSError, ValueError) as exc:
                connection.close()
                raise InvalidOption(
                    f"driver_options.verify {place.verify!r} is not a certificate", str(exc), "Give a file in PEM form."
                ) from exc
            if connection.getpeercert(binary_form=True) != pinned:
                connection.close()
                raise MissingRequirement(
                    f"the {self.product} server {place.endpoint} has another certificate than the one in"
                    f" {place.verify}",
                    "it is another server, or it was given a new certificate",
                    "Make sure which of the two, and put the right certificate into that file.",
                )
        return connection


def _quoted(text: str) -> str:
    from urllib.parse import quote  # imported by Ansible anyway

    return quote(text, safe="")


def untrusted(place: Place, why: str) -> MissingRequirement:
    """The error for an LXD that does not let us in."""
    if not place.is_remote:
        return MissingRequirement(f"{place.product} at {place.endpoint} refuses this user", why, _group_hint(place))
    return MissingRequirement(
        f"the {place.product} server {place.endpoint} does not trust the client certificate {place.cert}",
        why,
        f"On that server: {place.product.trust} {os.path.basename(place.cert)}.",
    )


def _group_hint(place: Place) -> str:
    group = place.product.group
    return f"Run as root (become: true), or add the user to the group {group}: usermod --append --groups {group} USER."


def _no_socket(place: Place, exc: OSError) -> MissingRequirement:
    path, product = place.endpoint, place.product
    if isinstance(exc, PermissionError):
        return MissingRequirement(
            f"this user may not use {product}", f"{path}: {exc.strerror}{_group_of(path)}", _group_hint(place)
        )
    installed = any(os.path.exists(each) if "/" in each else find_program(each) for each in product.programs)
    if installed or os.path.exists(path):
        return MissingRequirement(
            f"{product} does not run on this host",
            f"{path}: {exc.strerror}",
            f"Start it: {product.start}.",
        )
    return MissingRequirement(
        f"{product} is not installed on this host",
        f"{path}: {exc.strerror}",
        f"Install it: {product.install}. Or name another server in driver_options.endpoint.",
    )


def _group_of(path: str) -> str:
    try:
        import grp

        found = os.stat(path)
        if not found.st_mode & stat.S_IWGRP:
            return ""
        return f", it belongs to the group {grp.getgrgid(found.st_gid).gr_name}"
    except (ImportError, KeyError, OSError):
        return ""
