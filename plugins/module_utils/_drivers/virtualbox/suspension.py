# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Suspended instances of VirtualBox: what they were doing is in a file of its own, in the machine's folder."""

from __future__ import annotations

from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Suspension
from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.act import VirtualBoxActs
from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.look import VirtualBoxLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.manage import LONG
from ansible_collections.minicloud.local.plugins.module_utils._model import SUSPENDED, UP, Instance


class VirtualBoxSuspension(Suspension):
    """See Suspension."""

    capabilities = {"suspend": ("vm",)}

    def __init__(self, look: VirtualBoxLooks, acts: VirtualBoxActs) -> None:
        self.look = look
        self.acts = acts

    def why_not(self, instance: Instance) -> str:
        machine = self.look.machine(instance)
        if machine is None or machine.state not in (*UP, SUSPENDED):
            return "its machine does not run, as far as VirtualBox knows"
        # Whether a saved one can be gone on with, VirtualBox sees itself when it loads it.
        return machine.reason

    def suspend(self, instance: Instance) -> None:
        machine = self.look.machine(instance)
        if machine is None or machine.state != SUSPENDED:
            doing = f"what {instance.name} is doing could not be saved"
            self.acts.manage.check(doing, "controlvm", instance.uuid, "savestate", timeout=LONG)
        self.acts.runtime.report.step("saved")

    def drop(self, instance: Instance) -> None:
        machine = self.look.machine(instance)
        if machine is not None and machine.state == SUSPENDED:
            doing = f"what {instance.name} was doing could not be dropped"
            self.acts.manage.check(doing, "discardstate", instance.uuid)
