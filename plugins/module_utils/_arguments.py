# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The argument specs of modules whose options are those of another module too."""

from __future__ import annotations

import typing as t

MOUNT: dict[str, t.Any] = {
    "source": {"type": "path"},
    "target": {"type": "str"},
    "type": {"type": "str", "choices": ["auto", "native", "classic", "copy"], "default": "auto"},
    "uid_map": {"type": "list", "elements": "str"},
    "gid_map": {"type": "list", "elements": "str"},
    "read_only": {"type": "bool", "default": False},
    "delete": {"type": "bool", "default": False},
}

INSTANCE: dict[str, t.Any] = {
    "name": {"type": "str"},
    "state": {
        "type": "str",
        "choices": ["running", "stopped", "suspended", "restarted", "present", "deleted", "absent"],
        "default": "running",
    },
    "purge_older_than": {"type": "str"},
    "new_name": {"type": "str"},
    "image": {"type": "str"},
    "image_checksum": {"type": "str"},
    "image_hosts": {"type": "dict"},
    "source": {"type": "str"},
    "source_copy": {"type": "str", "choices": ["linked", "full"]},
    "source_root": {"type": "path"},
    "cpus": {"type": "int"},
    "memory": {"type": "str"},
    "disk": {"type": "str"},
    "instance_type": {"type": "str", "choices": ["vm", "container"]},
    "arch": {"type": "str"},
    "user": {"type": "str"},
    "ssh_authorized_keys": {"type": "list", "elements": "str", "no_log": False},
    "cloud_init": {"type": "raw"},
    "vendor_data": {"type": "raw"},
    "network_config": {"type": "raw"},
    "meta_data": {"type": "raw"},
    "networks": {
        "type": "list",
        "elements": "dict",
        "options": {
            "name": {"type": "str"},
            "bridged": {"type": "str"},
            "address": {"type": "str"},
            "mac": {"type": "str"},
            "mode": {"type": "str", "choices": ["auto", "manual"], "default": "auto"},
        },
    },
    "bridged": {"type": "str"},
    "ports": {"type": "list", "elements": "str"},
    "mounts": {
        "type": "list",
        "elements": "dict",
        "options": {**MOUNT, "source": {"type": "path", "required": True}},
    },
    "tags": {"type": "dict"},
    "autostart": {"type": "bool"},
    "allow_restart": {"type": "bool", "default": False},
    "wait": {"type": "bool", "default": True},
    "timeout": {"type": "float", "default": 300},
    "cloud_init_errors": {"type": "str", "choices": ["fail", "warn", "ignore"], "default": "fail"},
    "recreate": {"type": "bool", "default": False},
    "force": {"type": "bool", "default": False},
}

NETWORK: dict[str, t.Any] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "mode": {"type": "str", "choices": ["nat", "isolated", "bridged"]},
    "subnet": {"type": "str"},
    "subnet6": {"type": "str"},
    "dhcp_range": {"type": "str"},
    "domain": {"type": "str"},
    "parent": {"type": "str"},
    "bridge_type": {"type": "str", "choices": ["bridge", "macvtap"]},
    "confirm_bridge": {"type": "bool", "default": False},
    "mtu": {"type": "int"},
    "host_access": {"type": "bool"},
    "autostart": {"type": "bool"},
}

IMAGE: dict[str, t.Any] = {
    "name": {"type": "str"},
    "state": {"type": "str", "choices": ["present", "latest", "absent"], "default": "present"},
    "checksum": {"type": "str"},
    "arch": {"type": "str"},
    "instance_type": {"type": "str", "choices": ["vm", "container"]},
    "alias": {"type": "str"},
    "force": {"type": "bool", "default": False},
    "instance": {"type": "str"},
    "clean": {"type": "bool", "default": True},
    "prune_older_than": {"type": "str"},
    "image_hosts": {"type": "dict"},
}
