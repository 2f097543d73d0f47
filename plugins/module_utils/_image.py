# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Images, as data. No input or output."""

from __future__ import annotations

import typing as t
from dataclasses import asdict

from ansible_collections.minicloud.local.plugins.module_utils._dataclass import dataclass
from ansible_collections.minicloud.local.plugins.module_utils._model import DISK


@dataclass
class Image:
    """A prepared image in the vault: what a disk can be backed by, or what a container is made from.

    hash -- sha256 (hex) of the image as its source publishes it; of a bootstrap image, of the file that was built; of
        a container image with metadata, of metadata and root together: always what LXD has as its fingerprint
    kind -- disk, or container: the root file system of one
    format -- of the file at path (qcow2; of a container squashfs, tar.xz …); size -- of that file, bytes
    virtual_size -- of the disk in it, bytes; 0 of a container
    metadata -- path of the file that LXD needs beside a container's root; empty where path has both, and of a disk
    os, release, version -- such as debian, bookworm, 12; empty where unknown
    arch -- x86_64, aarch64 …; user -- the image's own login user, empty where unknown
    source -- where it came from: a URL, a path or the package archive's release
    firmware -- uefi where it boots under nothing else, empty where it boots under BIOS too or nobody knows
    """

    name: str
    hash: str
    path: str
    format: str
    size: int
    virtual_size: int
    arch: str
    os: str = ""
    release: str = ""
    version: str = ""
    user: str = ""
    title: str = ""
    source: str = ""
    created: str = ""
    firmware: str = ""
    kind: str = DISK
    metadata: str = ""

    def to_dict(self) -> dict[str, t.Any]:
        """As plain data, for a record or a result."""
        return asdict(self)
