#!/usr/bin/python

# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: driver
short_description: Switch the active driver
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Makes a driver the active one of a data directory, which is the driver that tasks use when they name none.
  - The states of the instances of the old driver's scope are noted, those that run are shut down by their guests, and
    the instances of the new driver's scope that ran when that scope was last left are started again.
  - Where both drivers share a scope, as V(qemu) and V(libvirt) do, all instances stay at hand. Those that run are
    handed over, which means that they are shut down, and started by the new driver with the same disk, addresses and
    ports.
  - A driver that this host cannot use is refused before anything is changed.
  - Runs may be interrupted at any point, and several may run at once; the next run finishes what is left. Until then,
    or while a switch goes on, tasks that name no driver use the driver that is active at that moment, and warn.
notes:
  - A task that names a driver with O(minicloud.local.instance#module:driver) works in the scope of that driver without
    any switch.
  - An instance that is not to run, and was started meanwhile by a task that named its driver, is left running.
options:
  name:
    description:
      - The driver that is to be the active one.
      - Until one was made active, it is V(lxd) on Linux where the processor is not an x86_64, else V(qemu).
    type: str
    required: true
    choices: [qemu, libvirt, lxd, incus, virtualbox]
  state:
    description: V(active) is what the driver becomes.
    type: str
    choices: [active]
    default: active
  wait:
    description: Whether to wait until the instances that are started again are ready.
    type: bool
    default: true
  timeout:
    description:
      - How many seconds to wait for each instance to shut down, for each that is started again to be ready, and for
        another run that switches.
    type: float
    default: 300
  force:
    description:
      - Switch instances off instead of waiting for a clean shutdown, which is like pulling the plug.
      - Also go on where the hypervisor of the old driver does not answer, which leaves its instances as they are, and
        give up instances that cannot be started again. Each of these is a warning.
    type: bool
    default: false
  driver:
    description:
      - Not used, as this module does not work in the scope of one driver. It is accepted so that defaults for the
        action group may contain it.
  driver_options:
    description:
      - What only one driver needs, by key, as for the other modules. Keys of the old driver and of the new one may be
        given.
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
  - module: minicloud.local.driver_info
  - module: minicloud.local.instance
"""

EXAMPLES = r"""
- name: Use QEMU from now on
  minicloud.local.driver:
    name: qemu

- name: The same with ten minutes for each guest to shut down
  minicloud.local.driver:
    name: qemu
    timeout: 600

- name: What would be stopped and started
  minicloud.local.driver:
    name: qemu
  check_mode: true
  register: switch
"""

RETURN = r"""
actions:
  description:
    - The steps that were taken, or in check mode would be taken, in order. Without a change there is none.
    - They are C(suspend NAME), C(stop NAME), C(activate), C(start NAME), C(wait_ready NAME), and V(finish) where
      nothing but the end of an interrupted switch was missing.
  type: list
  elements: str
  returned: success
  sample: [stop web, activate, start db, wait_ready db]
driver:
  description: The active driver.
  type: dict
  returned: success
  contains:
    name:
      description: Its name.
      type: str
      returned: always
      sample: qemu
    scope:
      description: The set of instances that belongs to it.
      type: str
      returned: always
      sample: qemu
    previous:
      description: The driver that was active before.
      type: str
      returned: always
      sample: lxd
brought_down:
  description: The instances that were stopped.
  type: list
  elements: str
  returned: success
  sample: [web]
restored:
  description: The instances that were started.
  type: list
  elements: str
  returned: success
  sample: [db]
error:
  description: The kind of error, such as V(SwitchIncomplete) or V(MissingRequirement).
  type: str
  returned: failure
  sample: SwitchIncomplete
instances:
  description: What went wrong with each instance that the switch could not stop or start, by name.
  type: dict
  returned: when RV(error) is V(SwitchIncomplete)
  sample:
    web: web did not shut down within 300 seconds.
"""

from ansible_collections.minicloud.local.plugins.module_utils import _ansiballz
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import DRIVERS
from ansible_collections.minicloud.local.plugins.module_utils._module import ModuleContext, run_module
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.active_driver import switch_driver
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.scopes import SwitchWish

# It was to be imported first, and has done its work.
del _ansiballz

ARGUMENTS = {
    "name": {"type": "str", "required": True, "choices": list(DRIVERS)},
    "state": {"type": "str", "choices": ["active"], "default": "active"},
    "wait": {"type": "bool", "default": True},
    "timeout": {"type": "float", "default": 300},
    "force": {"type": "bool", "default": False},
}


def run(context: ModuleContext) -> dict[str, object]:
    params = context.params
    outcome = switch_driver(
        SwitchWish(params["name"], params["wait"], params["timeout"], params["force"]),
        context.runtime,
        context.data,
        params["driver_options"],
        context.check_mode,
    )
    return {
        "changed": outcome.changed,
        "actions": outcome.actions,
        "driver": outcome.driver,
        "brought_down": outcome.brought_down,
        "restored": outcome.restored,
        "diff": {"before": outcome.before, "after": outcome.after},
    }


def main() -> None:
    run_module(run, ARGUMENTS, subject="name")


if __name__ == "__main__":
    main()
