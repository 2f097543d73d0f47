# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Containers as files for others: the server makes an image of one, which is read from there and goes again."""

from __future__ import annotations

import contextlib
import json
import time
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.client import LxdClient
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.images import HASH
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.look import LxdLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Content, Export
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, NotFound
from ansible_collections.minicloud.local.plugins.module_utils._images import archive
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot

# Seconds after which the server itself removes an image that a killed run has left.
_FORGOTTEN = 24 * 3600
# The property of such an image, with the uuid of the instance.
_EXPORT = "minicloud.export"


class LxdExport(Export):
    """See Export."""

    capabilities = {"publish": ("container",), "export": ("container",)}

    def __init__(self, look: LxdLooks, client: LxdClient) -> None:
        self.look = look
        self.client = client
        self.product = look.product

    @property
    def name(self) -> str:
        return self.look.name

    def stamp(self, instance: Instance) -> str:
        record = self.look.record(instance) or {}
        known = {key: record.get(key) for key in ("created_at", "last_used_at", "config")}
        return json.dumps(known, sort_keys=True)

    @contextlib.contextmanager
    def content(self, instance: Instance, snapshots: t.Sequence[Snapshot]) -> t.Iterator[Content]:
        doing = f"{self.product} could not export {instance.name}"
        self.client.await_operations(instance.name)
        self._remove_left(instance, doing)
        self.look.runtime.report.step("lxd_publish")
        # They are in the file, too: whoever makes an image of it knows them from there.
        known = {key: instance.image.get(key, "") for key in ("os", "release", "version")}
        properties = {"description": instance.name, **{key: value for key, value in known.items() if value}}
        body = {
            "public": False,
            "properties": {**properties, _EXPORT: instance.uuid},
            "expires_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + _FORGOTTEN)),
            "compression_algorithm": "none",
            "source": {"type": "instance", "name": instance.name},
        }
        operation = self.client.call("post", "images", doing, json=body)
        fingerprint = str(operation["metadata"]["fingerprint"])
        self.look.runtime.report.step("lxd_published")
        try:
            with self.look.api.download(f"images/{fingerprint}/export") as (size, blocks):
                yield Content([archive.Piece(archive.ROOT, size, lambda: blocks)])
        finally:
            with contextlib.suppress(HypervisorError, NotFound):
                self.client.call("delete", f"images/{fingerprint}", doing)

    def _remove_left(self, instance: Instance, doing: str) -> None:
        """Take away what a run that was killed has left; not images that were made from what was exported."""
        for known in self.client.call("get", "images", doing, query={"recursion": "1"}):
            properties = known["properties"]
            if properties.get(_EXPORT) == instance.uuid and HASH not in properties:
                with contextlib.suppress(NotFound):
                    self.client.call("delete", f"images/{known['fingerprint']}", doing)
