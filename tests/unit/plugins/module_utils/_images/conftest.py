# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import http.server
import json
import os
import ssl
import threading

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._images import index as index_module
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

SAMPLES = os.path.join(os.path.dirname(__file__), "samples")


def read_sample(name):
    """The content of a sample as its server sends it."""
    with open(os.path.join(SAMPLES, name), "rb") as stream:
        return stream.read()


class ImageServer:
    """A web server on the loopback address. files -- what it has, by path; plan -- what it answers instead, in turn."""

    def __init__(self, tls=None):
        self.files = {}
        self.plan = {}
        self.requests = []
        self.etags = True
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def paths(self):
        return [path for path, dummy in self.requests]

    def answer(self, request):
        path = request.path
        self.requests.append((path, dict(request.headers)))
        planned = self.plan.get(path)
        special = planned.pop(0) if planned else None
        body = self.files.get(path)
        if callable(special):
            special(request)
            return
        status = special or (200 if body is not None else 404)
        etag = f'"{hash(body)}"'
        if status == 200 and self.etags and request.headers.get("If-None-Match") == etag:
            status = 304
        content = body if status == 200 else b"" if status == 304 else b"no"
        request.send_response(status)
        if status in (200, 304) and self.etags:
            request.send_header("ETag", etag)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def streams(self, base, sample, products="download"):
        """Serve a sample as a simplestreams server below BASE."""
        index = json.loads(read_sample(f"{sample}-index.json"))
        self.files[f"{base}streams/v1/index.json"] = read_sample(f"{sample}-index.json")
        for entry in index["index"].values():
            if entry["datatype"] == "image-downloads":
                self.files[base + entry["path"]] = read_sample(f"{sample}-{products}.json")


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(index_module, "PAUSE", 0.01)
    made = ImageServer()
    made.streams("/releases/", "released")
    made.streams("/daily/", "daily")
    made.streams("/images/", "images", "products")
    yield made
    made.close()


@pytest.fixture
def runtime():
    return Runtime(run)


@pytest.fixture
def data(tmp_path):
    return DataDirectory(str(tmp_path / "data"))


@pytest.fixture
def local(server):
    """image_hosts that lead all built-in hosts to the test's server."""
    return {
        "release": {"url": f"{server.url}releases/", "allow_http": True, "keyring": "none"},
        "daily": {"url": f"{server.url}daily/", "allow_http": True, "keyring": "none"},
        "minimal": {"url": f"{server.url}minimal/", "allow_http": True, "keyring": "none"},
        "images": {"url": f"{server.url}images/", "allow_http": True},
    }
