#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: instance
short_description: Manage a local cloud-style instance
version_added: 1.0.0
"""

EXAMPLES = r"""
"""

RETURN = r"""
"""

from ansible_collections.minicloud.local.plugins.module_utils._module import ModuleContext, run_module
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.instances import (
    parse_wish,
    reconcile_instance,
)

ARGUMENTS = {
    "name": {"type": "str", "required": True},
    "state": {
        "type": "str",
        "choices": ["running", "stopped", "restarted", "present", "absent"],
        "default": "running",
    },
    "image": {"type": "str"},
    "image_checksum": {"type": "str"},
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
    "ports": {"type": "list", "elements": "str"},
    "tags": {"type": "dict"},
    "autostart": {"type": "bool"},
    "allow_restart": {"type": "bool", "default": False},
    "wait": {"type": "bool", "default": True},
    "timeout": {"type": "float", "default": 300},
    "cloud_init_errors": {"type": "str", "choices": ["fail", "warn", "ignore"], "default": "fail"},
    "recreate": {"type": "bool", "default": False},
    "force": {"type": "bool", "default": False},
}


def run(context: ModuleContext) -> dict[str, object]:
    params = context.params
    outcome = reconcile_instance(
        parse_wish(params),
        context.runtime,
        context.data,
        params["driver"],
        params["driver_options"],
        context.check_mode,
    )
    return {
        "changed": outcome.changed,
        "actions": outcome.actions,
        "instance": outcome.view,
        "diff": {"before": outcome.before, "after": outcome.after},
    }


def main() -> None:
    run_module(run, ARGUMENTS, subject="name")


if __name__ == "__main__":
    main()
