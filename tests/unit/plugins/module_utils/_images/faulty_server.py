# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real web server whose faults are planned."""

from __future__ import annotations

import hashlib
import http.server
import socket
import ssl
import struct
import threading
import time
import typing as t

CHUNK = 64 * 1024


class Sent(t.NamedTuple):
    """A request that was answered: its path, its headers, the status, and how many bytes of a body were sent."""

    path: str
    headers: dict
    status: int
    size: int


class FaultyServer:
    """files -- what it has, by path. plan -- what goes wrong, by path: the first is taken off for each request.

    A fault is a dict: status (answer with it), cut (close after so many bytes), reset (reset after so many), stall
    (be silent after so many), length (claim that length), redirect (to that location), rate (bytes a second).
    """

    def __init__(self, tls: tuple[str, str] | None = None, ranges: bool = True, validators: bool = True) -> None:
        self.files: dict[str, bytes] = {}
        self.plan: dict[str, list[dict]] = {}
        self.sent: list[Sent] = []
        self.ranges = ranges
        self.validators = validators
        self.rate = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer._answer(self)

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def bodies(self, path: str) -> list[Sent]:
        """The answers for PATH that had a body of the file."""
        return [s for s in self.sent if s.path == path and s.status in (200, 206)]

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        path = request.path
        plan = self.plan.get(path)
        fault = plan.pop(0) if plan else {}
        headers = dict(request.headers)
        if "redirect" in fault:
            self._head(request, fault.get("status", 302), 0, {"Location": fault["redirect"]})
            return
        body = self.files.get(path)
        if "status" in fault or body is None:
            self.sent.append(Sent(path, headers, fault.get("status", 404), 0))
            self._head(request, fault.get("status", 404), 2, {})
            request.wfile.write(b"no")
            return
        etag = f'"{hashlib.sha256(body).hexdigest()[:12]}"'
        extra = {"ETag": etag} if self.validators else {}
        if self.ranges:
            extra["Accept-Ranges"] = "bytes"
        if self.validators and headers.get("If-None-Match") == etag:
            self.sent.append(Sent(path, headers, 304, 0))
            self._head(request, 304, 0, extra)
            return
        start, status = 0, 200
        span = headers.get("Range", "")
        if self.ranges and span and headers.get("If-Range", etag) == etag:
            start, status = int(span[len("bytes=") : -1]), 206
            if start >= len(body):
                self.sent.append(Sent(path, headers, 416, 0))
                self._head(request, 416, 0, {"Content-Range": f"bytes */{len(body)}"})
                return
            extra["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self._head(request, status, fault.get("length", len(body) - start), extra)
        self._send(request, Sent(path, headers, status, 0), body[start:], fault)

    def _head(self, request, status: int, length: int, headers: dict) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(length))
        request.end_headers()

    def _send(self, request, record: Sent, body: bytes, fault: dict) -> None:
        stop = min(len(body), *(fault[key] for key in ("cut", "reset", "stall") if key in fault), len(body))
        done = self._write(request, body[:stop], fault)
        self.sent.append(record._replace(size=done))
        if "stall" in fault:
            fault.get("until", threading.Event()).wait(fault.get("seconds", 5))
            if fault.get("go_on"):
                self._write(request, body[stop:], {})
                return
        if "reset" in fault:
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.close()
        if stop < len(body) or "length" in fault:
            request.close_connection = True

    def _write(self, request, body: bytes, fault: dict) -> int:
        """Send bytes at the planned rate; how many were taken."""
        rate = fault.get("rate", self.rate)
        done = 0
        try:
            while done < len(body):
                piece = body[done : done + CHUNK]
                request.wfile.write(piece)
                done += len(piece)
                if rate:
                    time.sleep(len(piece) / rate)
        except OSError:
            pass
        return done
