# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Data of Multipass for tests: multipass.py DISK.qcow2 TARGET [FLAVOUR]

Makes what the directory /var/snap/multipass/common/data/multipassd has, as far as an import reads it, with instances
for whatever can be met there. FLAVOUR is the version of Multipass whose way of writing is imitated: 1.12, 1.16 or 1.17.
Needs qemu-img.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import typing as t

MIB = 1 << 20
STATES = ("off", "stopped", "starting", "restarting", "running", "delayed", "suspending", "suspended", "unknown")

# Where Multipass believed its data to be.
WRITTEN = "/var/snap/multipass/common/data/multipassd"


def qemu_img(*argv: str) -> None:
    """Run qemu-img."""
    subprocess.run(["qemu-img", *argv], check=True, capture_output=True)


class Multipass:
    """A data directory. specs, images -- what its two files have; write() puts them in place"""

    def __init__(self, root: str, disk: str, flavour: str = "1.16") -> None:
        self.root = root
        self.disk = disk
        self.flavour = flavour
        self.specs: dict[str, dict[str, t.Any]] = {}
        self.images: dict[str, dict[str, t.Any]] = {}
        os.makedirs(os.path.join(root, "vault", "instances"), mode=0o700, exist_ok=True)

    def directory(self, name: str) -> str:
        """Where the files of an instance are."""
        return os.path.join(self.root, "vault", "instances", name)

    def add(
        self, name: str, state: str = "stopped", file: str = "ubuntu-22.04-server-cloudimg-amd64.img", **more: t.Any
    ) -> str:
        """Add an instance and return the path of its disk. more -- what its record has otherwise"""
        os.makedirs(self.directory(name), exist_ok=True)
        path = os.path.join(self.directory(name), file)
        shutil.copy(self.disk, path)
        number = len(self.specs) + 1
        size = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", path]))["virtual-size"]
        self.specs[name] = {
            "num_cores": 1,
            "mem_size": str(128 * MIB),
            "disk_space": str(size),
            "ssh_username": "ubuntu",
            "state": STATES.index(state),
            "deleted": False,
            "metadata": {"machine_type": "pc-i440fx-8.0", "arguments": [], "mount_data": {}},
            "mac_addr": f"52:54:00:6d:70:{number:02x}",
            "extra_interfaces": [],
            "mounts": [],
            **more,
        }
        image = {
            "path": f"{WRITTEN}/vault/instances/{name}/{file}",
            "id": "4fd3ae2a2a8e6d5b9b2ed0dbb3d6a1b5e1c3f1f0a6c2e4b7d8091a2b3c4d5e6f",
            "original_release": "22.04 LTS",
            "current_release": "22.04 LTS",
            "release_date": "20260501",
            "aliases": [{"alias": "jammy"}],
        }
        if self.flavour == "1.12":
            image.update(kernel_path=f"{WRITTEN}/vault/vmlinuz", initrd_path=f"{WRITTEN}/vault/initrd")
        query = {"release": "22.04", "persistent": False, "remote_name": "", "query_type": 0}
        self.images[name] = {"image": image, "query": query, "last_accessed": 1779278400000000000}
        return path

    def snapshot(self, instance: str, index: int, /, parent: int = 0, **more: t.Any) -> None:
        """Take a snapshot of an instance, and have that go on from it. more -- what its file has otherwise"""
        spec, directory = self.specs[instance], self.directory(instance)
        disk = os.path.join(directory, self.images[instance]["image"]["path"].rpartition("/")[2])
        qemu_img("snapshot", "-c", f"@s{index}", disk)
        keys = ("num_cores", "mem_size", "disk_space", "extra_interfaces", "metadata", "mounts")
        data = {
            "name": f"snapshot{index}",
            "comment": "",
            "cloud_init_instance_id": instance,
            "parent": parent,
            "index": index,
            "creation_timestamp": f"2026-05-2{index % 10}T10:00:00.123Z",
            "state": STATES.index("stopped"),
            **{key: spec[key] for key in keys},
            **more,
        }
        self._write(os.path.join(directory, f"{index:04d}.snapshot.json"), {"snapshot": data})
        for file in ("snapshot-head", "snapshot-count"):
            with open(os.path.join(directory, file), "w", encoding="ascii") as stream:
                stream.write(f"{index}\n")

    def write(self) -> None:
        """Put the files of all instances in place."""
        self._write(os.path.join(self.root, "multipassd-vm-instances.json"), self.specs)
        self._write(os.path.join(self.root, "vault", "multipassd-instance-image-records.json"), self.images)

    def _write(self, path: str, data: t.Any) -> None:
        text = json.dumps(data, indent=4, sort_keys=self.flavour != "1.17", ensure_ascii=False)
        if self.flavour != "1.17":
            # Qt writes what is empty over two lines.
            text = text.replace("[]", "[\n    ]").replace("{}", "{\n    }")
        with open(path, "w", encoding="utf-8", newline="") as stream:
            stream.write(f"{text}\n")


GHOST = {
    "num_cores": 0,
    "mem_size": "0",
    "disk_space": "0",
    "ssh_username": "",
    "state": 0,
    "deleted": False,
    "metadata": {},
    "mac_addr": "",
    "extra_interfaces": [],
    "mounts": [],
}


def make(disk: str, root: str, flavour: str = "1.16") -> Multipass:
    """A directory with one instance of each kind: of those that can be taken over, plain starts without UEFI."""
    made = Multipass(root, disk, flavour)
    made.add("plain", file="xenial-server-cloudimg-amd64-disk1.img")
    for state in ("running", "suspended", "suspending", "starting", "unknown"):
        made.add(state, state)
    made.add("gone", deleted=True)
    made.specs["ghost"] = dict(GHOST)
    os.remove(made.add("lost"))
    made.write()
    return made


if __name__ == "__main__":
    make(*sys.argv[1:])
