# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The images of an LXD server that instances are made from: those of the vault, handed over when they are needed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import typing as t
from urllib.parse import urlencode

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.client import LxdClient
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.look import LxdLooks
from ansible_collections.minicloud.local.plugins.module_utils._errors import Busy, HypervisorError, NotFound
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline

# Properties of an image in LXD that tell where it came from.
HASH, _DATA_DIR = "minicloud.hash", "minicloud.data_dir"

_IMAGE_WAIT, _MOMENT = 3600.0, 0.05


class LxdImages:
    """See have()."""

    def __init__(self, look: LxdLooks, client: LxdClient) -> None:
        self.client = client
        self.product = look.product
        self.runtime = look.runtime
        self.scope = look.scope

    def have(self, image: Image) -> str:
        """The fingerprint that LXD knows an image by; imported if it is not there yet, by one run of many."""
        with self._turn(image.hash, _IMAGE_WAIT):
            images = self._listed()
            for known in images:
                if known["properties"].get(HASH) == image.hash:
                    return str(known["fingerprint"])
            self.runtime.report.step("lxd_image")
            fingerprint = self._import(image)
            self.runtime.report.step("lxd_image_imported")
            self._remove_unused(images)
        return fingerprint

    def tidy(self) -> None:
        """Take those images away that the vault has no more."""
        self._remove_unused(self._listed())

    def _turn(self, hash_: str, seconds: float) -> t.ContextManager[None]:
        """Hold the lock of what the server has of an image; SECONDS -- to wait for it."""
        return self.scope.data.lock(f"{self.scope.name}-image-{hash_[:16]}", Deadline(seconds), self.runtime.report)

    def _listed(self) -> list[dict[str, t.Any]]:
        found: list[dict[str, t.Any]] = self.client.call(
            "get", "images", f"the images of {self.product} could not be listed", query={"recursion": "1"}
        )
        return found

    def _import(self, image: Image) -> str:
        doing = f"{self.product} could not import the image {image.name}"
        properties = {
            "description": image.title or image.name,
            "os": image.os,
            "release": image.release,
            "version": image.version,
            HASH: image.hash,
            _DATA_DIR: self.scope.data.path,
        }
        headers = {
            f"{self.product.image_headers}properties": urlencode(
                {key: value for key, value in properties.items() if value}
            ),
            f"{self.product.image_headers}filename": f"{image.hash[:12]}.{image.format}",
        }
        with contextlib.ExitStack() as stack:
            root = stack.enter_context(open(image.path, "rb"))
            data: t.Any = root
            if image.kind == "disk" or image.metadata:
                from requests_toolbelt import MultipartEncoder  # which pylxd needs

                if image.kind == "disk":
                    metadata: t.BinaryIO = io.BytesIO(_vm_metadata(image))
                else:
                    metadata = stack.enter_context(open(image.metadata, "rb"))
                part = "rootfs.img" if image.kind == "disk" else "rootfs"
                files = {"metadata": ("metadata", metadata), part: (part, root)}
                data = MultipartEncoder({key: (*value, "application/octet-stream") for key, value in files.items()})
                headers["Content-Type"] = data.content_type
            else:
                headers["Content-Type"] = "application/octet-stream"
            try:
                operation = self.client.call("post", "images", doing, data=data, headers=headers)
            except HypervisorError as exc:
                if "fingerprint already exists" not in exc.why:
                    raise
                return _fingerprint(image)
        return str(operation["metadata"]["fingerprint"])

    def _remove_unused(self, images: t.Iterable[t.Mapping[str, t.Any]]) -> None:
        """Take those images from LXD that came from this vault, which has them no more. No instance needs them."""
        for known in images:
            hash_, origin = (known["properties"].get(key, "") for key in (HASH, _DATA_DIR))
            if not (hash_ and self.scope.data.is_at(origin)) or self._in_vault(hash_):
                continue
            # Whoever has just got it into the vault anew finds it here, or not, but never half gone.
            with contextlib.suppress(HypervisorError, NotFound, Busy), self._turn(hash_, _MOMENT):
                if not self._in_vault(hash_):
                    self.client.call("delete", f"images/{known['fingerprint']}", "an image could not be removed")

    def _in_vault(self, hash_: str) -> bool:
        return os.path.isdir(os.path.join(self.scope.data.vault, hash_))


def _vm_metadata(image: Image) -> bytes:
    """What LXD needs beside a disk: the same bytes for the same image, since they count for its fingerprint."""
    import tarfile

    properties = {"description": image.title or image.name, "os": image.os, "release": image.release}
    text = json.dumps({"architecture": image.arch, "creation_date": 1, "properties": properties}).encode()
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        entry = tarfile.TarInfo("metadata.yaml")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    return target.getvalue()


def _fingerprint(image: Image) -> str:
    """What LXD calls an image: the checksum of its metadata and its root together."""
    digest = hashlib.sha256(_vm_metadata(image) if image.kind == "disk" else b"")
    for path in filter(None, (image.metadata, image.path)):
        with open(path, "rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()
