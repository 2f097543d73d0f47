# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What an instance can be made from besides an image: what it says of an instance, and how its disk comes here."""

from __future__ import annotations

import abc
import contextlib
import hashlib
import os
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._images import disk
from ansible_collections.minicloud.local.plugins.module_utils._images.confined import Layer, QemuImg
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import Reference
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import (
    DISK_FILE,
    Entry,
    Vault,
    file_stamp,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    DEFAULT_TYPE,
    DISK,
    KINDS,
    Mount,
    Nic,
    PortForward,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import (
    Deadline,
    Runtime,
    timestamp,
)
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_path

# How long a run waits for another one that reads the same file.
WAIT_SECONDS = 3600


@dataclass
class Description:
    """What something says of the instance that can be made from it; empty or 0 where it says nothing.

    memory, disk -- bytes; scope -- that it is from, empty where that is none of ours
    image -- what its record kept of its image: name, os, release, version, firmware
    """

    name: str = ""
    scope: str = ""
    cpus: int = 0
    memory: int = 0
    disk: int = 0
    arch: str = ""
    instance_type: str = DEFAULT_TYPE
    user: str = ""
    autostart: bool = False
    image: dict[str, str] = field(default_factory=dict)
    tags: dict[str, t.Any] = field(default_factory=dict)
    ports: list[PortForward] = field(default_factory=list)
    nics: list[Nic] = field(default_factory=list)
    mounts: list[Mount] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)


class Layered(t.NamedTuple):
    """The disk of an instance with its snapshots, as files that each have only what differs from the one below.

    disk -- the uppermost; below -- the layer that it is backed by, empty for the image
    files, backing -- of the layers, by the uuids of their snapshots; hidden -- those that no snapshot has
    firmware -- the file with the variables of the firmware; empty where there is none
    """

    disk: str
    below: str
    files: t.Mapping[str, str]
    backing: t.Mapping[str, str]
    hidden: tuple[str, ...] = ()
    firmware: str = ""


class Brought(t.NamedTuple):
    """What has come: an image of the vault, and what is above it; None where nothing is."""

    image: Image
    layered: Layered | None = None


class Origin(abc.ABC):
    """Something that an instance can be made from besides an image. path -- the file that it is read from"""

    def __init__(self, runtime: Runtime, path: str) -> None:
        self.runtime = runtime
        self.path = path

    @abc.abstractmethod
    def describe(self) -> Description:
        """What it says, without reading all of it. ImageError, InvalidOption, NotFound, InUse for what cannot be."""

    @abc.abstractmethod
    def unpack(self, vault: Vault, work: str, layered: bool) -> Brought:
        """Verify it, and bring its disk into the vault; what is above the image stays in the directory WORK.

        layered -- whether layers can be used as such; else the image gets all that they have, but no snapshots
        """

    @contextlib.contextmanager
    def bring(self, vault: Vault, arch: str, layered: bool) -> t.Iterator[Brought]:
        """What it has, verified; what is above the image is gone when the block ends. Killed, it can be begun anew."""
        found = self.describe()
        kind = KINDS[found.instance_type]
        reference = Reference("file", self.path)
        key = hashlib.sha256(f"{self.path} {arch} {kind}".encode()).hexdigest()[:16]
        with vault.data.lock(f"image-{key}", Deadline(WAIT_SECONDS), self.runtime.report):
            known = None if layered else vault.find(reference, arch, kind)
            if known:
                yield Brought(_as_described(known, found))
                return
            vault.tidy(held=key)
            work = os.path.join(vault.path, f"work-{key}")
            with explained(f"the left-over {work} could not be removed"):
                remove_path(work)
            make_dir(work)
            try:
                self.runtime.report.step("unpack")
                stamp = file_stamp(self.path)
                brought = self.unpack(vault, work, layered)
                if file_stamp(self.path) != stamp:
                    raise ImageError(
                        f"{self.path} was not used",
                        "it was written to meanwhile",
                        "Run this again when whatever writes it is done.",
                    )
                if not brought.layered:
                    vault.set_entry(reference, arch, Entry(brought.image.hash, stamp=stamp), kind)
                yield brought._replace(image=_as_described(brought.image, found))
            finally:
                with contextlib.suppress(OSError):
                    remove_path(work)


def _as_described(image: Image, found: Description) -> Image:
    """An image with what is known of the one that the instance was made from."""
    then = found.image
    return replace(
        image,
        name=then.get("name") or image.name,
        user=found.user,
        os=then.get("os", ""),
        release=then.get("release", ""),
        version=then.get("version", ""),
        firmware=then.get("firmware", ""),
    )


def place_disk(
    runtime: Runtime, vault: Vault, work: str, path: str, what: str, hash_: str, found: Description, source: str
) -> Image:
    """Have the disk at PATH, which goes, be an image of the vault. hash_ -- that it has there"""
    image = vault.get(hash_, DISK)
    if image:
        remove_path(path)
        return image
    ready = make_dir(os.path.join(work, "ready"))
    target = os.path.join(ready, DISK_FILE)
    virtual_size = disk.prepare(runtime, path, target, what, movable=True)
    image = Image(
        name=found.image.get("name") or source,
        hash=hash_,
        path="",
        format="qcow2",
        size=os.path.getsize(target),
        virtual_size=virtual_size,
        arch=found.arch,
        os=found.image.get("os", ""),
        release=found.image.get("release", ""),
        version=found.image.get("version", ""),
        user=found.user,
        title=f"{found.name}, imported",
        source=source,
        created=timestamp(),
        firmware=found.image.get("firmware", ""),
    )
    vault.place(ready, image)
    runtime.report.step("placed")
    return vault.placed(image)


def checked_layer(runtime: Runtime, path: str, what: str) -> None:
    """Return if a file is a qcow2 file that can be a layer as it is, whose header names nothing; else ImageError."""
    found = disk.inspect(path, what)
    if found.format != "qcow2" or not found.ready:
        raise ImageError(f"{what} is refused", "it is not a layer as this collection writes it", "Export it anew.")
    tool = QemuImg(runtime, what)
    tool.info([Layer(path, "qcow2")])
    checked = tool.check(path)
    if checked.get("corruptions") or checked.get("check-errors") or checked.get("compressed-clusters"):
        raise ImageError(f"{what} is damaged", "its tables have errors", "Copy or export it anew.")
    with explained(f"{path} could not be read"), open(path, "rb") as stream:
        head = stream.read(24)
        size = os.fstat(stream.fileno()).st_size
    # Whatever is there once and counts many times has no bound when it is merged.
    if checked.get("allocated-clusters", 0) << int.from_bytes(head[20:24], "big") > size:
        raise ImageError(f"{what} is refused", "it has the same data in several places", "Export it anew.")
