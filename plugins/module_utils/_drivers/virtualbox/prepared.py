# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Images in the form that VirtualBox backs disks by: a VDI file beside the image in the vault, made once.

It goes with the image. VirtualBox has it registered as long as any disk is backed by it.
"""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.vdi import BLOCK, whole_blocks
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._images.confined import Layer, QemuImg
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.module_utils._writing import remove_path

FILE = "disk.vdi"

# Seconds that another run may take to make one.
_PATIENCE = 3600.0


def path_of(image: str) -> str:
    """Where the prepared form of the image at this path is, or would be."""
    return os.path.join(os.path.dirname(image), FILE)


@contextlib.contextmanager
def held(runtime: Runtime, data: DataDirectory, image: str) -> t.Iterator[None]:
    """Nobody else makes the prepared form of the image at this path, or has VirtualBox take it or let go of it."""
    with data.lock(f"vdi-{os.path.basename(os.path.dirname(image))[:16]}", Deadline(_PATIENCE), runtime.report):
        yield


def prepare(runtime: Runtime, image: Image, grow: t.Callable[[str, int], None]) -> str:
    """The path of the prepared form of an image, which is made if need be. To be called while it is held.

    grow -- makes a disk larger, to a size in bytes
    """
    path = path_of(image.path)
    if os.path.exists(path):
        return path
    runtime.report.step("prepare_vdi")
    new = f"{path}.new"
    remove_path(new)
    tool = QemuImg(runtime, f"the image {image.name}")
    layers = [Layer(image.path, image.format)]
    size = int(tool.info(layers)["virtual-size"])
    tool.convert(layers, new, "vdi", size)
    if size % BLOCK:
        grow(new, whole_blocks(size))
    with explained(f"{path} could not be made"):
        # Nothing ever writes it: what is backed by it would be worth nothing.
        os.chmod(new, 0o400)
        handle = os.open(new, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        os.rename(new, path)
    runtime.report.step("prepared_vdi")
    return path
