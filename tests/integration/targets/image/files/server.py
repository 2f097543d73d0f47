# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An image host of the test's own: server.py DIRECTORY

A simplestreams server on the loopback address, whose port is in DIRECTORY/port and whose log in DIRECTORY/requests.
It has a disk for 24.04, a newer one from the moment that /newer is asked for, and ends when /quit is. For a container
it has a root file system and its metadata under the same name, and both in one archive under /unified.tar.

    /slow/NAME  a disk that takes its time
    /cut/NAME   a disk whose first answer ends in the middle
"""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import lzma
import os
import platform
import random
import sys
import tarfile
import threading
import time

DIRECTORY = sys.argv[1]
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
SIZE = 2 << 20
DISKS: dict[str, bytes] = {}
SERIALS = ["20260101"]
SEEN: set[str] = set()
LOCK = threading.Lock()


def disk(name: str) -> bytes:
    """The disk of this name: bootable as far as its first sector tells, and always the same."""
    with LOCK:
        if name not in DISKS:
            DISKS[name] = bytes(510) + b"\x55\xaa" + random.Random(name).randbytes(SIZE - 512)
        return DISKS[name]


def archive(members: dict[str, bytes]) -> bytes:
    """A tar archive, always the same for the same members."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1700000000
            tar.addfile(member, io.BytesIO(content))
    return target.getvalue()


SYSTEM = {"etc/os-release": b"ID=debian\n", "usr/bin/init": b"#!/bin/sh\n"}
METADATA = {"metadata.yaml": json.dumps({"architecture": platform.machine(), "creation_date": 1700000000}).encode()}
CONTAINER = {
    "/root.tar.xz": lzma.compress(archive(SYSTEM)),
    "/lxd.tar.xz": lzma.compress(archive(METADATA)),
    "/unified.tar": archive({**METADATA, **{f"rootfs/{name}": content for name, content in SYSTEM.items()}}),
}


def index() -> dict[str, object]:
    """What the server has, as simplestreams tells it."""
    return {
        "format": "index:1.0",
        "index": {
            "test": {"datatype": "image-downloads", "path": "streams/v1/test.json", "products": ["test:24.04"]},
        },
    }


def products() -> dict[str, object]:
    """The builds that there are now."""
    versions = {}
    for serial in SERIALS:
        content = disk(serial)
        item = {"ftype": "disk1.img", "path": f"disks/{serial}", "size": len(content)}
        items = {"disk1.img": {**item, "sha256": hashlib.sha256(content).hexdigest()}}
        for name in ("root.tar.xz", "lxd.tar.xz"):
            content = CONTAINER[f"/{name}"]
            item = {"ftype": name, "path": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            items[name] = item
        both = CONTAINER["/lxd.tar.xz"] + CONTAINER["/root.tar.xz"]
        items["lxd.tar.xz"]["combined_rootxz_sha256"] = hashlib.sha256(both).hexdigest()
        versions[serial] = {"items": items}
    product = {
        "aliases": "24.04,lts,noble",
        "arch": ARCH,
        "os": "ubuntu",
        "release": "noble",
        "release_title": "24.04 LTS",
        "supported": True,
        "version": "24.04",
        "versions": versions,
    }
    return {"format": "products:1.0", "datatype": "image-downloads", "products": {"test:24.04": product}}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request at a time, in a thread of its own."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        with LOCK, open(os.path.join(DIRECTORY, "requests"), "a", encoding="utf-8") as log:
            log.write(f"{self.path} {self.headers.get('Range', '')}\n")
        if self.path == "/streams/v1/index.json":
            self.answer(json.dumps(index()).encode())
        elif self.path == "/streams/v1/test.json":
            self.answer(json.dumps(products()).encode())
        elif self.path == "/newer":
            SERIALS.append("20260202")
            self.answer(b"")
        elif self.path == "/quit":
            self.answer(b"")
            threading.Thread(target=self.server.shutdown).start()
        elif self.path in CONTAINER:
            self.answer(CONTAINER[self.path])
        elif self.path.startswith(("/disks/", "/slow/", "/cut/")):
            self.answer(disk(self.path.rpartition("/")[2]))
        else:
            self.send_error(404)

    def answer(self, body: bytes) -> None:
        start = 0
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes=") and asked.endswith("-"):
            start = int(asked[len("bytes=") : -1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()[:16]}"')
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        with LOCK:
            first = self.path not in SEEN
            SEEN.add(self.path)
        end = len(body)
        if self.path.startswith("/cut/") and first:
            end //= 2
            self.close_connection = True
        for offset in range(start, end, 1 << 18):
            self.wfile.write(body[offset : min(offset + (1 << 18), end)])
            if self.path.startswith("/slow/"):
                time.sleep(0.4)


def main() -> None:
    """Serve until /quit, or for half an hour if nobody asks for it."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    timer = threading.Timer(1800, server.shutdown)
    timer.daemon = True
    timer.start()
    temporary = os.path.join(DIRECTORY, "port.new")
    with open(temporary, "w", encoding="ascii") as file:
        file.write(str(server.server_port))
    os.rename(temporary, os.path.join(DIRECTORY, "port"))
    server.serve_forever(0.1)


if __name__ == "__main__":
    main()
