#!/usr/bin/python

# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mount_info
short_description: List the mounts of local instances
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Lists folders of the host that are mounted in instances, or copied into them, and why those that are not there are
    not.
  - Looking changes nothing, needs no access to the instances themselves, and takes no lock.
options:
  instance:
    description: Only the mounts of this instance, compared without case.
    type: str
  all_drivers:
    description: Whether to list those of the instances of all drivers instead of one.
    type: bool
    default: false
extends_documentation_fragment:
  - minicloud.local._attributes
  - minicloud.local._attributes.info_module
  - minicloud.local._attributes.minicloud
  - minicloud.local._common
seealso:
  - module: minicloud.local.mount
"""

EXAMPLES = r"""
- name: Which mounts are not there, and why
  minicloud.local.mount_info:
  register: found

- name: Show them
  ansible.builtin.debug:
    msg: "{{ found.mounts | rejectattr('active') | map(attribute='reason') | list }}"
"""

RETURN = r"""
mounts:
  description: The mounts, by instance and target.
  type: list
  elements: dict
  returned: success
  contains:
    instance:
      description: The instance.
      type: str
      returned: always
      sample: web
    source:
      description: The folder of the host.
      type: str
      returned: always
      sample: /srv/data
    target:
      description: Where it is in the guest.
      type: str
      returned: always
      sample: /mnt/data
    type:
      description: The O(minicloud.local.mount#module:type) that was asked for.
      type: str
      returned: always
      sample: auto
    mechanism:
      description: What it was made with last, such as C(disk device), C(sshfs) or C(tar); empty where it never was.
      type: str
      returned: always
      sample: disk device
    active:
      description: Whether it is there now; of a copy, whether the guest has it.
      type: bool
      returned: always
      sample: true
    reason:
      description: Why it is not there; empty where it is.
      type: str
      returned: always
      sample: ""
    not_native:
      description: Why one of the type V(auto) was not made by the hypervisor's own means; empty where it was.
      type: str
      returned: always
      sample: ""
    read_only:
      description: Whether the guest can only read.
      type: bool
      returned: always
      sample: true
    uid_map:
      description: Which users of the host are which in the guest.
      type: list
      elements: str
      returned: always
      sample: []
    gid_map:
      description: Which groups of the host are which in the guest.
      type: list
      elements: str
      returned: always
      sample: []
    delete:
      description: Whether what a copied folder does not have goes from the guest's.
      type: bool
      returned: always
      sample: false
"""

from ansible_collections.minicloud.local.plugins.module_utils import _ansiballz
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import DRIVERS
from ansible_collections.minicloud.local.plugins.module_utils._model import key_of
from ansible_collections.minicloud.local.plugins.module_utils._module import ModuleContext, run_module
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.listing import list_instances

# It was to be imported first, and has done its work.
del _ansiballz

ARGUMENTS = {
    "instance": {"type": "str"},
    "all_drivers": {"type": "bool", "default": False},
}


def run(context: ModuleContext) -> dict[str, object]:
    params = context.params
    drivers = DRIVERS if params["all_drivers"] else (params["driver"],)
    mounts = []
    for entry in list_instances(context.runtime, context.data, drivers, params["driver_options"]):
        name = entry.instance.name
        if params["instance"] is None or key_of(params["instance"]) == key_of(name):
            mounts += [{"instance": name, **mount} for mount in entry.view(context.data)["mounts"]]
    return {"changed": False, "mounts": mounts}


def main() -> None:
    run_module(run, ARGUMENTS, subject="instance")


if __name__ == "__main__":
    main()
