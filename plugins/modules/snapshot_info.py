#!/usr/bin/python

# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: snapshot_info
short_description: List snapshots of local instances
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Lists the snapshots of instances as the module M(minicloud.local.snapshot) returns them.
  - Looking changes nothing and takes no lock. A snapshot whose data were removed by other means is a warning.
options:
  instances:
    description:
      - Only the snapshots of these instances, compared without case. One that does not exist has none.
    type: list
    elements: str
  all_drivers:
    description: Whether to list the snapshots of the instances of all drivers instead of one.
    type: bool
    default: false
extends_documentation_fragment:
  - minicloud.local._attributes
  - minicloud.local._attributes.info_module
  - minicloud.local._attributes.minicloud
  - minicloud.local._common
seealso:
  - module: minicloud.local.snapshot
"""

EXAMPLES = r"""
- name: Look at the snapshots of an instance
  minicloud.local.snapshot_info:
    instances: [web]
  register: found

- name: Show what it goes on from
  ansible.builtin.debug:
    msg: "{{ found.snapshots | selectattr('current') | map(attribute='name') | list }}"
"""

RETURN = r"""
snapshots:
  description: The snapshots, sorted by the name of the instance and then by age, the oldest first.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: Its name.
      type: str
      returned: always
      sample: before-upgrade
    instance:
      description: The name of the instance.
      type: str
      returned: always
      sample: web
    scope:
      description: The scope that the instance belongs to.
      type: str
      returned: always
      sample: qemu
    driver:
      description: The driver that took it.
      type: str
      returned: always
      sample: qemu
    parent:
      description: The name of the snapshot that the instance was at when this one was taken; empty of the first.
      type: str
      returned: always
      sample: snapshot1
    children:
      description: The names of those whose parent it is.
      type: list
      elements: str
      returned: always
      sample: []
    current:
      description: Whether the instance goes on from it.
      type: bool
      returned: always
      sample: true
    comment:
      description: The text that is kept with it.
      type: str
      returned: always
      sample: As delivered
    created:
      description: When it was taken, in UTC; empty in check mode.
      type: str
      returned: always
      sample: "2026-05-04T10:20:30Z"
    state:
      description: What the instance was when it was taken, V(running), V(stopped) or V(suspended).
      type: str
      returned: always
      sample: stopped
    file_systems:
      description:
        - How the file systems were. V(stopped) or V(suspended) of an instance that was; V(frozen) while it was frozen;
          V(synced) where they were written out right before; V(crash) where they are as after a power cut.
        - Empty in check mode.
      type: str
      returned: always
      sample: stopped
    saved_memory:
      description: The bytes of memory that were saved with it; V(0) where none was.
      type: int
      returned: always
      sample: 0
    cpus:
      description: The number of virtual processors that the instance had.
      type: int
      returned: always
      sample: 2
    memory:
      description: The size of the memory that it had, in bytes.
      type: int
      returned: always
      sample: 2147483648
    disk:
      description: The size of the disk that it had, in bytes.
      type: int
      returned: always
      sample: 10737418240
    size:
      description: The bytes that the snapshot takes by itself now; V(0) where nobody knows.
      type: int
      returned: always
      sample: 1376256
error:
  description: The kind of error, such as V(InvalidOption) or V(RecordError).
  type: str
  returned: failure
  sample: InvalidOption
"""

from ansible_collections.minicloud.local.plugins.module_utils import _ansiballz
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import DRIVERS
from ansible_collections.minicloud.local.plugins.module_utils._module import ModuleContext, run_module
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.snapshot_listing import list_snapshots

# It was to be imported first, and has done its work.
del _ansiballz

ARGUMENTS = {
    "instances": {"type": "list", "elements": "str"},
    "all_drivers": {"type": "bool", "default": False},
}


def run(context: ModuleContext) -> dict[str, object]:
    params = context.params
    drivers = DRIVERS if params["all_drivers"] else [params["driver"]]
    found = list_snapshots(context.runtime, context.data, drivers, params["driver_options"], params["instances"])
    return {"changed": False, "snapshots": found}


def main() -> None:
    run_module(run, ARGUMENTS, subject="instances")


if __name__ == "__main__":
    main()
