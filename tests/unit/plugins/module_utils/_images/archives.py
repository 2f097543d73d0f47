# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images of containers, made for tests."""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
import tarfile

import pytest

CREATED = 1700000000
METADATA = {
    "architecture": "x86_64",
    "creation_date": CREATED,
    "properties": {"os": "Debian", "release": "trixie", "version": "13", "description": "Debian trixie"},
}
SYSTEM = {"etc/os-release": b"ID=debian\n", "usr/bin/init": b"#!/bin/sh\n", "bin": "usr/bin"}


def noise(seed, size):
    """Bytes that do not compress, always the same."""
    return random.Random(seed).getrandbits(8 * size).to_bytes(size, "big")


def tar(files, prefix="", form=tarfile.GNU_FORMAT):
    """A tar archive of files: content by path; a text is a symbolic link."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.mtime = CREATED
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def bare(seed=1, **more):
    """The root file system of a container as a tar archive."""
    return tar({**SYSTEM, "usr/lib/noise": noise(seed, 300_000), **more}, "./")


def metadata_file(metadata=None):
    """LXD's metadata of an image as a tar archive."""
    return tar({"metadata.yaml": json.dumps(metadata or METADATA).encode(), "templates/x.tpl": b"x"})


def unified(metadata=None, seed=1):
    """The image of a container in one archive."""
    files = {"metadata.yaml": json.dumps(metadata or METADATA).encode(), "templates/x.tpl": b"x"}
    files.update({f"rootfs/{name}": content for name, content in SYSTEM.items()})
    return tar({**files, "rootfs/usr/lib/noise": noise(seed, 300_000)})


def squashfs(directory, seed=1):
    """The root file system of a container as squashfs."""
    if not shutil.which("mksquashfs"):
        pytest.skip("mksquashfs is not installed")
    tree = directory / f"tree{seed}"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "noise").write_bytes(noise(seed, 300_000))
    target = directory / f"root{seed}.squashfs"
    subprocess.run(
        ["mksquashfs", tree, target, "-quiet", "-no-progress", "-mkfs-time", str(CREATED)],
        check=True,
        capture_output=True,
    )
    return target.read_bytes()
