# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""How the disk of a stopped instance becomes an image of the vault, whole and with a name."""

from __future__ import annotations

import contextlib
import hashlib
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._images import disk
from ansible_collections.minicloud.local.plugins.module_utils._images.flow import Digest, Flow
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import Reference
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import DISK_FILE, Entry, Vault
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance
from ansible_collections.minicloud.local.plugins.module_utils._runtime import timestamp
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_path

# Writes the whole disk of the instance to a file, in a format (raw, qcow2).
Export = t.Callable[[str, str], None]


def publish(vault: Vault, instance: Instance, export: Export, name: Reference, clean: bool) -> Image:
    """Make the disk of a stopped instance, whose lock the caller holds, an image and let NAME lead to it."""
    runtime = vault.runtime
    if clean:
        for program in ("debugfs", "e2fsck", "dumpe2fs"):
            runtime.program(program, "e2fsprogs, or use clean: false", "to clean images")
    key = hashlib.sha256(f"publish {instance.scope} {instance.uuid}".encode()).hexdigest()[:16]
    with vault.data.lock(f"image-{key}", report=runtime.report):
        vault.tidy(held=key)
        work = os.path.join(vault.path, f"work-{key}")
        with explained(f"the left-over {work} could not be removed"):
            remove_path(work)
        make_dir(work)
        try:
            return _publish(vault, instance, export, name, clean, work)
        finally:
            with contextlib.suppress(OSError):
                remove_path(work)


def _publish(vault: Vault, instance: Instance, export: Export, name: Reference, clean: bool, work: str) -> Image:
    runtime = vault.runtime
    runtime.report.step("publish_image")
    ready = make_dir(os.path.join(work, "ready"))
    target = os.path.join(ready, DISK_FILE)
    if clean:
        from ansible_collections.minicloud.local.plugins.module_utils._images.clean import clean as clean_disk

        raw = os.path.join(work, "disk.raw")
        export(raw, "raw")
        runtime.report.step("clean")
        if not clean_disk(runtime, raw, str(name)):
            runtime.report.warn(
                f"The image {name} was not cleaned: no ext4 root file system was found on the disk of {instance.name},"
                " and only such ones can be. Its machine-id, host keys and cloud-init's records of"
                f" {instance.name} are still in it."
            )
        virtual_size = disk.prepare(runtime, raw, target, str(name))
        remove_path(raw)
    else:
        flat = os.path.join(work, "disk.qcow2")
        export(flat, "qcow2")
        virtual_size = disk.prepare(runtime, flat, target, str(name), movable=True)
    flow = Flow(lambda: [Digest("sha256")])
    flow.put_file(target)
    flow.finish()
    hash_ = t.cast(Digest, flow.outlets[0]).hex
    image = image_from(instance, name, vault, hash_, os.path.getsize(target), virtual_size)
    vault.place(ready, image)
    vault.set_entry(name, instance.arch, Entry(hash_, instance=instance.name))
    return image


def image_from(
    instance: Instance, name: Reference, vault: Vault, hash_: str = "", size: int = 0, virtual_size: int = 0
) -> Image:
    """The image that an instance is published as, with what is known of the one that its own disk is backed by."""
    origin = instance.image
    own = vault.get(origin.get("hash", ""))
    return Image(
        name=str(name),
        hash=hash_,
        path=os.path.join(vault.directory(hash_), DISK_FILE) if hash_ else "",
        format="qcow2",
        size=size,
        virtual_size=virtual_size or instance.disk,
        arch=instance.arch,
        os=origin.get("os", ""),
        release=origin.get("release", ""),
        version=origin.get("version", ""),
        user=own.user if own else instance.user,
        title=f"{instance.name}, published",
        source=f"instance {instance.name}",
        created=timestamp(),
        firmware=origin.get("firmware", ""),
    )
