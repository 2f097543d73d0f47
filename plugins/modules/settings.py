#!/usr/bin/python
# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: settings
short_description: Set what tasks of a data directory use when they name nothing else
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Sets the sizes of new instances, and image hosts and mirrors, for a whole data directory. Tasks that name their own
    are not affected, nor are instances that exist.
  - Without any of its options it changes nothing and tells what is set.
  - The active driver is shown too. M(minicloud.local.driver) changes it.
options:
  cpus:
    description: How many processors an instance gets whose task does not name a number. V(1) unless set.
    type: int
  memory:
    description: How much memory it gets, such as V(2G). V(1G) unless set.
    type: str
  disk:
    description: How large its disk is, such as V(20G). V(5G) unless set, and never less than its image needs.
    type: str
  image_hosts:
    description:
      - Further or other image hosts, by name, as in M(minicloud.local.image). What is set already of others, and of the
        same ones, stays.
      - A host, or a key of one, that is null is no longer set.
    type: dict
  reset:
    description: What is no longer to be set. What other options of the task name is set anew.
    type: list
    elements: str
    choices: [cpus, memory, disk, image_hosts]
  driver:
    description:
      - Not used, as the settings are those of all drivers. It is accepted so that defaults for the action group may
        contain it.
  driver_options:
    description: Not used either.
extends_documentation_fragment:
  - minicloud.local._attributes
  - minicloud.local._attributes.minicloud
  - minicloud.local._common
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
seealso:
  - module: minicloud.local.driver
  - module: minicloud.local.image
"""

EXAMPLES = r"""
- name: Give new instances more than usual
  minicloud.local.settings:
    cpus: 2
    memory: 4G
    disk: 20G

- name: Take Ubuntu's images from a mirror
  minicloud.local.settings:
    image_hosts:
      release:
        mirror: https://mirror.example.com/ubuntu-cloud-images/releases/

- name: Take them from where they come from again
  minicloud.local.settings:
    image_hosts:
      release:

- name: Look at what is set
  minicloud.local.settings:
  register: found
"""

RETURN = r"""
settings:
  description: What counts, be it set or the collection's own.
  type: dict
  returned: success
  contains:
    driver:
      description: The active driver.
      type: str
      returned: always
      sample: qemu
    cpus:
      description: Processors of a new instance.
      type: int
      returned: always
      sample: 1
    memory:
      description: Bytes of memory of a new instance.
      type: int
      returned: always
      sample: 1073741824
    disk:
      description: Bytes of the disk of a new instance.
      type: int
      returned: always
      sample: 5368709120
    image_hosts:
      description: What is set of image hosts.
      type: dict
      returned: always
      sample: {"release": {"mirror": "https://mirror.example.com/ubuntu-cloud-images/releases/"}}
entries:
  description: The same as keys and values, as the playbooks C(get) and C(set) of the collection have them.
  type: list
  elements: dict
  returned: success
  sample: [{"key": "default.memory", "value": "1024M"}]
"""

from ansible_collections.minicloud.local.plugins.module_utils import _ansiballz
from ansible_collections.minicloud.local.plugins.module_utils._module import ModuleContext, run_module
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.settings import change, entries

# It was to be imported first, and has done its work.
del _ansiballz

ARGUMENTS = {
    "cpus": {"type": "int"},
    "memory": {"type": "str"},
    "disk": {"type": "str"},
    "image_hosts": {"type": "dict"},
    "reset": {"type": "list", "elements": "str", "choices": ["cpus", "memory", "disk", "image_hosts"]},
}


def run(context: ModuleContext) -> dict[str, object]:
    changed, before, after = change(context.runtime, context.data, context.params, context.check_mode)
    return {
        "changed": changed,
        "settings": after,
        "entries": entries(after),
        "diff": {"before": before, "after": after},
    }


def main() -> None:
    run_module(run, ARGUMENTS, subject="settings")


if __name__ == "__main__":
    main()
