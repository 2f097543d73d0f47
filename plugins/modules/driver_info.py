#!/usr/bin/python

# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: driver_info
short_description: Tell which drivers this host can use
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Tells of each driver whether it can be used on this host and by this user, and if not, what is missing and how to
    get it.
  - Looking changes nothing and takes no lock.
options:
  name:
    description: Only this driver. By default all that there are.
    type: str
    choices: [qemu, libvirt, lxd, incus, virtualbox]
  driver:
    description:
      - Not used; O(name) is. It is accepted so that defaults for the action group may contain it.
extends_documentation_fragment:
  - minicloud.local._attributes
  - minicloud.local._attributes.info_module
  - minicloud.local._attributes.minicloud
  - minicloud.local._common
seealso:
  - module: minicloud.local.driver
"""

EXAMPLES = r"""
- name: Which drivers can be used here
  minicloud.local.driver_info:
  register: found

- name: Show what the others are missing
  ansible.builtin.debug:
    msg: "{{ found.drivers | rejectattr('available') | items2dict(key_name='name', value_name='why_not') }}"

- name: Is QEMU there, and is it fast
  minicloud.local.driver_info:
    name: qemu
  register: qemu
  failed_when: qemu.drivers[0].accelerator != 'kvm'
"""

RETURN = r"""
drivers:
  description: The drivers.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: Its name.
      type: str
      returned: always
      sample: qemu
    active:
      description: Whether it is what tasks use that name none.
      type: bool
      returned: always
      sample: true
    available:
      description: Whether it can be used here.
      type: bool
      returned: always
      sample: true
    why_not:
      description: What is missing, why that is so, and what to do about it; empty where it can be used.
      type: str
      returned: always
      sample: QEMU for x86_64 was not found on this host. Install the package qemu-system-x86 (Debian, Ubuntu).
    version:
      description: The version of the hypervisor; empty where the driver cannot be used.
      type: str
      returned: always
      sample: 7.2.22
    scope:
      description: The set of instances that belongs to it. Drivers with the same one share their instances.
      type: str
      returned: always
      sample: qemu
    capabilities:
      description: What it can do. The guide about drivers explains each.
      type: list
      elements: str
      returned: always
      sample: [console_log, foreign_arch, live_ports, vm]
    accelerator:
      description:
        - What runs the instructions of virtual machines, such as V(kvm), or V(tcg) where they are emulated.
        - Empty where the driver cannot be used, or has no virtual machines.
      type: str
      returned: always
      sample: tcg
    accelerator_reason:
      description: Why it is not something faster; empty where it is the fastest.
      type: str
      returned: always
      sample: this host has no /dev/kvm (virtualisation is off in its firmware, or this is a virtual machine)
    endpoint:
      description: Where the hypervisor is reached, such as a URI or a socket; empty where it is just a program.
      type: str
      returned: always
      sample: ""
    details:
      description: What only this driver tells, by key.
      type: dict
      returned: always
      sample:
        program: /usr/bin/qemu-system-x86_64
        run_as: minicloud
error:
  description: The kind of error, such as V(InvalidOption).
  type: str
  returned: failure
  sample: InvalidOption
"""

from ansible_collections.minicloud.local.plugins.module_utils import _ansiballz
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import DRIVERS
from ansible_collections.minicloud.local.plugins.module_utils._module import ModuleContext, run_module
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.driver_listing import list_drivers

# It was to be imported first, and has done its work.
del _ansiballz

ARGUMENTS = {"name": {"type": "str", "choices": list(DRIVERS)}}


def run(context: ModuleContext) -> dict[str, object]:
    params = context.params
    names = [params["name"]] if params["name"] else DRIVERS
    return {
        "changed": False,
        "drivers": list_drivers(context.runtime, context.data, names, params["driver_options"]),
    }


def main() -> None:
    run_module(run, ARGUMENTS, subject="name")


if __name__ == "__main__":
    main()
