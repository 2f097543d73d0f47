# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The disk of a guest that has run, without a guest: guest_disk.py TARGET

One partition with an ext4 root file system, in it what makes an instance that instance, and what does not.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile

START, SIZE = 1 << 20, 15 << 20
FILES = {
    "etc/hostname": "web\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/ssh/ssh_host_ed25519_key": "the private key of the host\n",
    "etc/ssh/ssh_host_ed25519_key.pub": "public\n",
    "etc/ssh/sshd_config": "Port 22\n",
    "var/lib/cloud/instances/one/user-data.txt": "#cloud-config of the instance\n",
    "var/log/cloud-init.log": "the log of cloud-init\n",
}


def main() -> None:
    """Write the disk."""
    target = sys.argv[1]
    root = tempfile.mkdtemp()
    try:
        for name, content in FILES.items():
            path = os.path.join(root, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="ascii") as file:
                file.write(content)
        with open(target, "wb") as disk:
            partition = struct.pack("<B3sB3sII", 0x80, b"", 0x83, b"", START // 512, SIZE // 512)
            disk.write(bytes(446) + partition + bytes(48) + b"\x55\xaa")
            disk.truncate(START + SIZE)
        argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-d", root, "-E", f"offset={START}", target, f"{SIZE >> 10}k"]
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
        subprocess.run(argv, check=True, env={**os.environ, "PATH": path})
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
