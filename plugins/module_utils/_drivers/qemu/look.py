# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The driver for QEMU processes of our own, one an instance, controlled over QMP.

A running QEMU holds an flock on `run.lock` in the instance's directory. It inherits it from the run that started it,
from before its first instruction until the kernel ends it, so whether an instance runs is a fact that no crash,
no reused process id and no stale file can falsify.

Looking is done here; whatever changes something is in act.py, which a run that only looks does not import.
"""

from __future__ import annotations

import fcntl
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import FamilyLooks
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._files import (
    is_locked,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    PAUSED,
    RUNNING,
    STOPPED,
    SUSPENDED,
    Instance,
    Observed,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline

# In the directory of an instance.
LOCK, MONITOR = "run.lock", "monitor.sock"
# What a suspended instance was doing: there as long as it is suspended; and its memory.
SAVED, MEMORY = "saved.json", "saved.memory"
# Seconds in which a machine of which all is saved ends.
_MOMENT = 5.0


class QemuLooks(FamilyLooks):
    """See Looks."""

    def observe(self, instances: t.Sequence[Instance]) -> list[Observed]:
        up = [instance for instance in instances if self.alive(instance)]
        states = {instance.uuid: Observed(RUNNING) for instance in up}
        for instance in instances:
            if instance.uuid not in states and os.path.lexists(self.path(instance, SAVED)):
                states[instance.uuid] = Observed(SUSPENDED)
        if up:
            from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.status import (
                PAUSES,
                statuses,
            )

            told = statuses([self.path(instance, MONITOR) for instance in up])
            for instance, status in zip(up, told):
                if not status and os.path.lexists(self.path(instance, SAVED)):
                    status = self._settled(instance)
                    states[instance.uuid] = Observed(RUNNING if status else SUSPENDED)
                if status in PAUSES:
                    states[instance.uuid] = Observed(PAUSED, reason=PAUSES[status])
        return self.located(instances, [states.get(instance.uuid, Observed(STOPPED)) for instance in instances])

    def _settled(self, instance: Instance) -> str:
        """The status of a machine that was saved and ends, or is being loaded; empty once it has ended, or is to."""
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.status import statuses

        for dummy in Deadline(_MOMENT).pauses(first=0.02, longest=0.2):
            if not self.alive(instance):
                break
            status = statuses([self.path(instance, MONITOR)])[0]
            if status:
                return status
        return ""

    def alive(self, instance: Instance) -> bool:
        try:
            return is_locked(self.path(instance, LOCK), fcntl.LOCK_SH)
        except OSError as exc:
            raise HypervisorError(
                f"whether {instance.name} runs cannot be told",
                f"{exc.filename}: {exc.strerror}",
                "Run as the user that the data directory belongs to.",
            ) from exc
