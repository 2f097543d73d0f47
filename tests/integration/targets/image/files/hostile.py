# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disk images that name a file of the host: hostile.py DIRECTORY

DIRECTORY gets the file itself, `bait`, which is root's only, and images that name it as their parent, backing or data.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys

SECTOR = 512
SECRET = b"a secret of the host, which no guest may read. "


def description(parent: str, own: str) -> bytes:
    """A description of a vmdk; the one that names a parent is its own proof that it has one."""
    hint = f'parentFileNameHint="{parent}"\n' if parent else ""
    head = f'# Disk DescriptorFile\nversion=1\nCID=11111111\nparentCID={own}\ncreateType="monolithicSparse"\n'
    return (head + hint + 'RW 2048 SPARSE "x.vmdk"\n').encode()


def vmdk(path: str, parent: str, shown: int) -> None:
    """A sparse vmdk. QEMU looks for a parent at sector 1; shown -- the sector of the description in the header"""
    content = bytearray(128 * SECTOR)
    head = b"KDMV" + struct.pack("<IIQQQQIQQQ", 1, 3, 2048, 128, shown, 20, 512, 0, 41, 128) + b"\0\n \r\n"
    content[: len(head)] = head
    for sector, text in ((1, description(parent, "deadbeef")), (21, description("", "ffffffff"))):
        content[sector * SECTOR : sector * SECTOR + len(text)] = text
    struct.pack_into("<I", content, 41 * SECTOR, 42)
    with open(path, "wb") as file:
        file.write(content)


def qcow2(*options: str) -> None:
    """An empty qcow2."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, "1M"], check=True)


def main() -> None:
    """Write them."""
    os.chdir(sys.argv[1])
    bait = os.path.abspath("bait")
    with open(os.open(bait, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write((SECRET * (1 << 15))[: 1 << 20])
    vmdk("two.vmdk", bait, 21)
    vmdk("parent.vmdk", bait, 1)
    qcow2("-u", "-b", bait, "-F", "raw", "backing.qcow2")
    # The name of its data file is made that of the bait afterwards: of the same length, it needs no other change.
    other = os.path.join(os.path.dirname(bait), "data")
    qcow2("-o", f"data_file={other},data_file_raw=on", "data.qcow2")
    os.unlink(other)
    with open("data.qcow2", "r+b") as file:
        head = file.read(1 << 16)
        file.seek(head.index(other.encode()))
        file.write(bait.encode())


if __name__ == "__main__":
    main()
