# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Suspended instances of LXD: their processes are frozen, and stay in memory.

What LXD can save to a disk takes CRIU for containers, which fails for most of them. Who has frozen an instance, we or
somebody else, only its record tells.
"""

from __future__ import annotations

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.act import LxdActs
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.look import FROZEN, LxdLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Suspension
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance


class LxdSuspension(Suspension):
    """See Suspension."""

    capabilities = {"suspend": ("vm", "container")}
    outlives_host = False

    def __init__(self, look: LxdLooks, acts: LxdActs) -> None:
        self.look = look
        self.acts = acts

    def why_not(self, instance: Instance) -> str:
        return ""

    def suspend(self, instance: Instance) -> None:
        record = self.look.record(instance)
        if record is None or record["status"] not in FROZEN:
            self.acts.change_state(instance, "freeze", f"{instance.name} could not be frozen")
        self.look.seen.pop(instance.name, None)
        self.acts.runtime.report.step("frozen")

    def drop(self, instance: Instance) -> None:
        record = self.look.record(instance)
        if record is not None and record["status"] in FROZEN:
            self.acts.change_state(instance, "stop", f"{instance.name} could not be ended", force=True)
        self.look.seen.pop(instance.name, None)
