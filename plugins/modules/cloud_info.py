#!/usr/bin/python

# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cloud_info
short_description: List local clouds and what is part of them
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Lists the clouds that M(minicloud.local.cloud) has made, with their instances and networks.
  - Looking changes nothing, and takes no lock.
options:
  names:
    description:
      - Only these clouds, compared without case. One that does not exist is simply not in the list.
    type: list
    elements: str
  all_drivers:
    description: Whether to list the clouds of all drivers instead of one.
    type: bool
    default: false
extends_documentation_fragment:
  - minicloud.local._attributes
  - minicloud.local._attributes.info_module
  - minicloud.local._attributes.minicloud
  - minicloud.local._common
seealso:
  - module: minicloud.local.cloud
"""

EXAMPLES = r"""
- name: Which clouds there are
  minicloud.local.cloud_info:
  register: found

- name: Show who is part of them
  ansible.builtin.debug:
    msg: "{{ item.name }}: {{ item.instances | map(attribute='name') | join(', ') }}"
  loop: "{{ found.clouds }}"
"""

RETURN = r"""
clouds:
  description: The clouds, sorted by name.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: Its name.
      type: str
      returned: always
      sample: shop
    scope:
      description: The scope that it is in.
      type: str
      returned: always
      sample: qemu
    instances:
      description: Its instances, sorted by name, each with what RV(minicloud.local.instance#module:instance) has.
      type: list
      elements: dict
      returned: always
      sample: [{"name": "db", "state": "running"}]
    networks:
      description: Its networks, sorted by name, each with what RV(minicloud.local.network#module:network) has.
      type: list
      elements: dict
      returned: always
      sample: [{"name": "backend"}]
"""

from ansible_collections.minicloud.local.plugins.module_utils import _ansiballz
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import DRIVERS
from ansible_collections.minicloud.local.plugins.module_utils._module import ModuleContext, run_module
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.cloud_listing import list_clouds

# It was to be imported first, and has done its work.
del _ansiballz

ARGUMENTS = {
    "names": {"type": "list", "elements": "str"},
    "all_drivers": {"type": "bool", "default": False},
}


def run(context: ModuleContext) -> dict[str, object]:
    params = context.params
    drivers = DRIVERS if params["all_drivers"] else (params["driver"],)
    clouds = list_clouds(context.runtime, context.data, drivers, params["driver_options"], params["names"])
    return {"changed": False, "clouds": clouds}


def main() -> None:
    run_module(run, ARGUMENTS, subject="names")


if __name__ == "__main__":
    main()
