#!/usr/bin/python

# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cloud
short_description: Manage several local instances, and what they need, as one
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Brings a whole cloud to what one document says of it, which is its networks, its images and its instances.
  - What is done to each part is what M(minicloud.local.network), M(minicloud.local.image) and
    M(minicloud.local.instance) do. Instances are dealt with side by side, each in its own time.
  - The whole document is checked, and what is there is looked at, before anything changes. Names, addresses and ports
    that collide, more memory than the host has, or an instance that belongs to another cloud, are errors that leave
    everything as it was.
  - An instance that fails then does not stop the others. The task goes on with them, fails at the end, and names those
    that failed; the next run goes on with these.
  - What is made by this is part of the cloud from then on, which is in its record. The cloud never removes anything
    else, and takes nothing over that is there already.
notes:
  - A run may be interrupted at any point; the next one finishes what is left. Two runs of one cloud wait for each
    other, runs of different clouds do not.
options:
  name:
    description: The cloud's name, in the form of the names of instances.
    type: str
    required: true
  state:
    description:
      - V(present) has each instance in the O(minicloud.local.instance#module:state) that the document gives it, which
        is V(running) unless it says otherwise. With neither O(instances), O(networks), O(images) nor O(prune), it
        starts all instances that the cloud has made and that are not deleted.
      - V(stopped) and V(suspended) have all instances in that state; those whose own state is V(deleted) or V(absent)
        stay so. V(suspended) needs a driver that can suspend. Without O(instances), they concern all instances that
        the cloud has made and that are not deleted.
      - V(absent) removes all instances and networks that the cloud has made, whatever the document says. Images stay.
    type: str
    choices: [present, stopped, suspended, absent]
    default: present
  defaults:
    description:
      - Options of M(minicloud.local.instance) that all instances have which do not have them themselves.
      - An option of an instance replaces the default as a whole, also where it is a mapping or a list.
    type: dict
  networks:
    description:
      - Networks of the cloud, by name, with the options of M(minicloud.local.network). They are made before the
        instances.
    type: dict
  images:
    description:
      - Images to have in the vault before instances are made. The images of O(instances) need not be here.
      - A plain name is short for an entry with O(images[].name) alone.
    type: list
    elements: dict
    suboptions:
      name:
        description: The image, as in M(minicloud.local.image).
        type: str
        required: true
      state:
        description: V(latest) asks the image host for its newest version each time.
        type: str
        choices: [present, latest]
        default: present
      checksum:
        description: As in M(minicloud.local.image).
        type: str
      arch:
        description: As in M(minicloud.local.image).
        type: str
      instance_type:
        description: The type of instance that it is for.
        type: str
        choices: [vm, container]
        default: vm
      alias:
        description: As in M(minicloud.local.image).
        type: str
      image_hosts:
        description: As in M(minicloud.local.image).
        type: dict
  instances:
    description:
      - The instances, by name, each with the options of M(minicloud.local.instance) but C(name), and with two more.
      - C(count) makes so many of it, named with a hyphen and a number, such as C(web-1) to C(web-3). Without it, there
        is one that has the name itself.
      - C(after) is a list of instances that are to be ready before this one is begun. A name of an entry with C(count)
        means all that come from it. They are stopped in the opposite order. One whose predecessor fails is not begun.
        An instance whose C(source) is another one of the cloud comes after that without being told to.
    type: dict
  prune:
    description:
      - Whether to remove instances and networks that the cloud once made and that the document no longer names.
      - An instance that has snapshots is removed only with O(force=true).
    type: bool
    default: false
  parallel:
    description:
      - How many instances to deal with at once. By default two for each processor, but no more than the memory that is
        available is enough for.
    type: int
  force:
    description:
      - Whether to switch off what is removed instead of shutting it down, and to remove instances that have snapshots.
    type: bool
    default: false
  timeout:
    description: Seconds that an instance which is removed has to shut down. Others have their own.
    type: float
    default: 300
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
extends_documentation_fragment:
  - minicloud.local._attributes
  - minicloud.local._attributes.minicloud
  - minicloud.local._common
seealso:
  - module: minicloud.local.cloud_info
  - module: minicloud.local.instance
  - module: minicloud.local.network
  - plugin: minicloud.local.instances
    plugin_type: inventory
"""

EXAMPLES = r"""
- name: Have a database and two web servers on a network of their own
  minicloud.local.cloud:
    name: shop
    defaults:
      image: "24.04"
      memory: 1G
      networks: [backend]
    networks:
      backend:
        subnet: 10.30.0.0/24
    instances:
      db:
        memory: 2G
        tags: {role: database}
      web:
        count: 2
        after: [db]
        ports: ["80"]
        tags: {role: web}

- name: Stop all of it, the web servers first
  minicloud.local.cloud:
    name: shop
    state: stopped
    instances:
      db:
      web:
        count: 2
        after: [db]

- name: Have one web server less, and remove what is no longer named
  minicloud.local.cloud:
    name: shop
    instances:
      db:
      web:
        count: 1
        after: [db]
    prune: true

- name: Remove all that the cloud has made
  minicloud.local.cloud:
    name: shop
    state: absent
"""

RETURN = r"""
actions:
  description: The steps that were taken, each after the part of the cloud; in check mode, that would be taken.
  type: list
  elements: str
  returned: always
  sample: ["network backend: create", "instance db: create", "instance db: start", "instance db: wait_ready"]
cloud:
  description: The cloud, also when the task has failed at some of its parts.
  type: dict
  returned: success, or when RV(error) is V(CloudIncomplete)
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
      description:
        - The instances of the document, in its order, each with what RV(minicloud.local.instance#module:instance) has,
          with C(changed) and with C(actions).
        - One that failed has C(name), C(changed), C(actions), the C(error) and C(msg) of it, and what else
          M(minicloud.local.instance) returns of a failure, such as C(stage) and C(console).
      type: list
      elements: dict
      returned: always
      sample: [{"name": "db", "state": "running", "changed": true, "actions": ["create", "start", "wait_ready"]}]
    networks:
      description: Its networks, each with what RV(minicloud.local.network#module:network) has, and as instances above.
      type: list
      elements: dict
      returned: always
      sample: [{"name": "backend", "changed": true, "actions": ["create"]}]
    images:
      description: The entries of O(images), each with what RV(minicloud.local.image#module:image) has, and as above.
      type: list
      elements: dict
      returned: always
      sample: []
    removed:
      description: What was removed, each with its C(kind) (V(instance) or V(network)), and as above.
      type: list
      elements: dict
      returned: always
      sample: []
failed_parts:
  description: The names of the parts that failed.
  type: list
  elements: str
  returned: when RV(error) is V(CloudIncomplete)
  sample: [web-2]
error:
  description: The kind of error, such as V(InvalidOption), or V(CloudIncomplete) where only some parts failed.
  type: str
  returned: failure
  sample: CloudIncomplete
"""

from ansible_collections.minicloud.local.plugins.module_utils import _ansiballz
from ansible_collections.minicloud.local.plugins.module_utils._module import (
    ModuleContext,
    checked_options,
    run_module,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.cloud_document import IMAGE_ENTRY, parse_cloud
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.clouds import reconcile_cloud

# It was to be imported first, and has done its work.
del _ansiballz

ARGUMENTS = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "stopped", "suspended", "absent"], "default": "present"},
    "defaults": {"type": "dict"},
    "networks": {"type": "dict"},
    "images": {"type": "list", "elements": "dict", "options": IMAGE_ENTRY},
    "instances": {"type": "dict"},
    "prune": {"type": "bool", "default": False},
    "parallel": {"type": "int"},
    "force": {"type": "bool", "default": False},
    "timeout": {"type": "float", "default": 300},
}


def run(context: ModuleContext) -> dict[str, object]:
    params = context.params
    outcome = reconcile_cloud(
        parse_cloud(params, checked_options),
        context.runtime,
        context.data,
        params["driver"],
        params["driver_options"],
        context.check_mode,
    )
    return {
        "changed": outcome.changed,
        "actions": outcome.actions,
        "cloud": outcome.view,
        "diff": {"before": outcome.before, "after": outcome.after},
    }


def main() -> None:
    run_module(run, ARGUMENTS, subject="name")


if __name__ == "__main__":
    main()
