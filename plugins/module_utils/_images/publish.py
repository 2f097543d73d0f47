# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""How a stopped instance becomes an image of the vault, whole and with a name: its disk, or a container's root."""

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
from ansible_collections.minicloud.local.plugins.module_utils._model import DISK, KINDS, Instance
from ansible_collections.minicloud.local.plugins.module_utils._runtime import timestamp
from ansible_collections.minicloud.local.plugins.module_utils._writing import made_anew, make_dir, remove_path

# Of what a container is published as: not compressed, as servers hand it out.
ROOT_FORMAT = "tar"

# Writes the whole disk of the instance to a file, in a format (raw, qcow2).
Export = t.Callable[[str, str], None]
# Has a container's archive of metadata.yaml and rootfs/ come, block by block, for as long as the context lasts.
RootExport = t.Callable[[], "t.ContextManager[t.Iterable[bytes]]"]


def publish(vault: Vault, instance: Instance, export: Export, name: Reference, clean: bool) -> Image:
    """Make the disk of a stopped instance, whose lock the caller holds, an image and let NAME lead to it."""
    runtime = vault.runtime
    if clean:
        for program in ("debugfs", "e2fsck", "dumpe2fs"):
            runtime.program(program, "e2fsprogs, or use clean: false", "to clean images")
    with _work(vault, instance) as work:
        return _publish(vault, instance, export, name, clean, work)


def publish_root(vault: Vault, instance: Instance, export: RootExport, name: Reference, clean: bool) -> Image:
    """As publish(), of a container."""
    from ansible_collections.minicloud.local.plugins.module_utils._images.clean_root import CleanedRoot
    from ansible_collections.minicloud.local.plugins.module_utils._images.root import RootScan

    runtime = vault.runtime
    with _work(vault, instance) as work:
        runtime.report.step("publish_image")
        ready = make_dir(os.path.join(work, "ready"))
        target = os.path.join(ready, f"root.{ROOT_FORMAT}")
        with export() as blocks, explained(f"{target} could not be written"), open(made_anew(target), "wb") as stream:
            cleaned = CleanedRoot(str(name), stream.write) if clean else None
            take = cleaned.write if cleaned else stream.write
            for block in blocks:
                take(block)
            if cleaned:
                cleaned.close()
            stream.flush()
            # The record that comes after this promises that it is there, also after a power cut.
            os.fsync(stream.fileno())
        # Read to its end, it is known to be whole.
        flow = Flow(lambda: [Digest("sha256"), RootScan(str(name), runtime)])
        return _placed(vault, instance, name, ready, target, flow)


@contextlib.contextmanager
def _work(vault: Vault, instance: Instance) -> t.Iterator[str]:
    """A directory to make an image of an instance in, which is gone afterwards."""
    key = hashlib.sha256(f"publish {instance.scope} {instance.uuid}".encode()).hexdigest()[:16]
    with vault.data.lock(f"image-{key}", report=vault.runtime.report):
        vault.tidy(held=key)
        work = os.path.join(vault.path, f"work-{key}")
        with explained(f"the left-over {work} could not be removed"):
            remove_path(work)
        make_dir(work)
        try:
            yield work
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
    return _placed(vault, instance, name, ready, target, Flow(lambda: [Digest("sha256")]), virtual_size)


def _placed(
    vault: Vault, instance: Instance, name: Reference, ready: str, target: str, flow: Flow, virtual_size: int = 0
) -> Image:
    """Have the finished file TARGET, in the directory READY, be in the vault; flow -- reads it, for its checksum."""
    try:
        flow.put_file(target)
        flow.finish()
    finally:
        flow.abandon()
    hash_ = t.cast(Digest, flow.outlets[0]).hex
    image = image_from(instance, name, vault, hash_, os.path.getsize(target), virtual_size)
    vault.place(ready, image)
    vault.set_entry(name, instance.arch, Entry(hash_, instance=instance.name), image.kind)
    return image


def image_from(
    instance: Instance, name: Reference, vault: Vault, hash_: str = "", size: int = 0, virtual_size: int = 0
) -> Image:
    """The image that an instance is published as, with what is known of the one that its own disk is backed by."""
    origin = instance.image
    own = vault.get(origin.get("hash", ""))
    kind = KINDS[instance.instance_type]
    image = Image(
        name=str(name),
        hash=hash_,
        path="",
        kind=kind,
        format="qcow2" if kind == DISK else ROOT_FORMAT,
        size=size,
        virtual_size=(virtual_size or instance.disk) if kind == DISK else 0,
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
    return vault.placed(image) if hash_ else image
