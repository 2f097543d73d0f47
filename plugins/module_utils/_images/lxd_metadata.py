# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What LXD needs beside the root file system of a container: metadata.yaml, and templates of files in it.

The templates hand the cloud-init.* keys of an instance (or user.*, as older LXDs call them) to cloud-init as a NoCloud
seed, for a cloud-init that does not know LXD or must not ask it. See LXD's documentation of the image format.
"""

from __future__ import annotations

import io
import json
import tarfile
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._guest.cloud_config import NotReadable, load_yaml

FILE = "metadata.yaml"

_SEED = "/var/lib/cloud/seed/nocloud-net"
_NETWORK = (
    "version: 1\nconfig:\n  - type: physical\n    name: eth0\n    subnets:\n      - type: dhcp\n        control: auto\n"
)


_META_DATA = """instance-id: {{ container.name }}
local-hostname: {{ container.name }}
{{ config_get("user.meta-data", "") }}
"""


def _asking(key: str) -> str:
    return f'{{{{ config_get("cloud-init.{key}", config_get("user.{key}", properties.default)) }}}}\n'


# Path in the container, name of the template, its text, and what it says where no key is set.
_TEMPLATES = (
    ("/etc/hostname", "hostname.tpl", "{{ container.name }}\n", ""),
    (
        f"{_SEED}/meta-data",
        "cloud-init-meta.tpl",
        _META_DATA,
        "",
    ),
    (f"{_SEED}/user-data", "cloud-init-user.tpl", _asking("user-data"), "#cloud-config\n{}"),
    (f"{_SEED}/vendor-data", "cloud-init-vendor.tpl", _asking("vendor-data"), "#cloud-config\n{}"),
    (f"{_SEED}/network-config", "cloud-init-network.tpl", _asking("network-config"), _NETWORK),
)


class Description(t.NamedTuple):
    """What an image's metadata says of it; empty where it does not. arch -- the kernel's name of it"""

    arch: str = ""
    os: str = ""
    release: str = ""
    version: str = ""
    title: str = ""


def files(arch: str, created: int, properties: t.Mapping[str, str]) -> dict[str, bytes]:
    """The metadata of an image, by file name: created -- seconds since the epoch; properties -- os, release …"""
    templates = {
        path: {"when": ["create", "copy"], "template": name, "properties": {"default": default} if default else {}}
        for path, name, dummy, default in _TEMPLATES
    }
    # LXD takes 0 for missing.
    metadata = {"architecture": arch, "creation_date": created or 1, "properties": properties, "templates": templates}
    found = {FILE: (json.dumps(metadata, indent=1) + "\n").encode()}  # JSON is YAML, too.
    found.update({f"templates/{name}": text.encode() for dummy, name, text, dummy in _TEMPLATES})
    return found


def tarball(content: t.Mapping[str, bytes], created: int) -> bytes:
    """Files as a tarball that is always the same for the same files."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(data), created, 0o644
            archive.addfile(member, io.BytesIO(data))
    return target.getvalue()


def describe(text: bytes) -> Description:
    """What a metadata.yaml says; nothing where it cannot be read, for it is LXD that must understand it."""
    data = _read(text)
    properties = data.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    known = {key: str(properties.get(key) or "") for key in ("os", "release", "version", "description")}
    arch = str(data.get("architecture") or properties.get("architecture") or "")
    return Description(arch, known["os"].lower(), known["release"], known["version"], known["description"])


def written(text: bytes) -> set[str]:
    """The files that a metadata.yaml has the server write from templates into each instance that is made; as above."""
    templates = _read(text).get("templates")
    found = set()
    for path, template in templates.items() if isinstance(templates, dict) else ():
        when = template.get("when") if isinstance(template, dict) else None
        if isinstance(when, list) and ("create" in when or "start" in when):
            found.add(str(path))
    return found


def _read(text: bytes) -> dict[str, t.Any]:
    try:
        data = load_yaml(text.decode("utf-8", "replace"))
    except NotReadable:
        return {}
    return data if isinstance(data, dict) else {}
