# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Another name for an instance.

It has the new name from the moment on that its directory has. Before that, its record says what name it is to get, so
that the hypervisor may have it already; after that, what name it had, until everything else has followed.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

from ansible_collections.minicloud.local.plugins.module_utils._drivers.crew import Crew
from ansible_collections.minicloud.local.plugins.module_utils._errors import InUse, RestartRequired
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ABSENT,
    STOPPED,
    SUSPENDED,
    UP,
    Instance,
    as_recorded,
    key_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.power import Power
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import Wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


class Renaming:
    """One instance that a task wishes to have another name."""

    def __init__(self, wish: Wish, crew: Crew, runtime: Runtime, data: DataDirectory) -> None:
        self.wish = wish
        self.crew = crew
        self.runtime = runtime
        self.data = data
        self.scope = crew.wanted.scope
        self.power = Power(crew, runtime, data)

    def is_due(self) -> bool:
        """Whether there is an instance with the old name, which can get the new one. Raises for what is in the way."""
        current = self.scope.read(self.wish.name)
        if current is None:
            there = self.scope.read(self.wish.new_name)
            return there is not None and bool(there.renamed_from)
        self._check(current)
        return True

    def _check(self, current: Instance) -> str:
        """The state that it is in; raise for what stands in the way."""
        old, new = current.name, self.wish.new_name
        other = self.scope.read(new)
        if other is not None or os.path.lexists(self.scope.directory(new)):
            deleted = other is not None and bool(other.deleted)
            raise InUse(
                f"{old} cannot be renamed to {new}",
                f"there is an instance of that name{', which is deleted and can be recovered' if deleted else ''}",
                f"Choose another name, or remove that one first: name: {new} with state: absent.",
            )
        if current.phase != "ready":
            raise InUse(
                f"{old} cannot be renamed",
                "it is not whole: a run that made or removed it was cut off",
                "Have that finished first, with state: present or state: absent.",
            )
        if key_of(current.new_name) == key_of(new):
            return STOPPED  # begun by a run that was cut off
        top = os.path.join(self.scope.directory(old), "")
        for each in self.scope.instances()[0]:
            if each.uuid != current.uuid and each.image.get("path", "").startswith(top):
                raise InUse(
                    f"{old} cannot be renamed", f"the disk of {each.name} is backed by its files", "Remove that first."
                )
        seen = as_recorded(current, self.crew.of(current).observe([current])[0])
        if seen.state == ABSENT:
            raise InUse(f"{old} cannot be renamed", seen.reason or "it was removed at the hypervisor by other means")
        if seen.state == SUSPENDED or (seen.state in UP and not self.wish.allow_restart):
            hint = "Set allow_restart: true to have it stopped, renamed and started again, or stop it first."
            raise RestartRequired(
                f"{old} must be stopped to be renamed to {new}",
                "it is suspended" if seen.state == SUSPENDED else "",
                "Stop it first: state: stopped." if seen.state == SUSPENDED else hint,
            )
        return seen.state

    def carry_out(self) -> None:
        """Rename it, or do what a run that was cut off has left to do."""
        deadline = Deadline(self.wish.timeout)
        names = sorted({key_of(self.wish.name), key_of(self.wish.new_name)})
        with contextlib.ExitStack() as locks:
            for name in names:
                locks.enter_context(self.scope.lock(name, deadline, self.runtime.report))
            current = self.scope.read(self.wish.name)
            if current is not None:
                self._rename(current, deadline)
            there = self.scope.read(self.wish.new_name)
            if there is not None and there.renamed_from:
                self.power.follow_name(there)

    def _rename(self, current: Instance, deadline: Deadline) -> None:
        report, new = self.runtime.report, self.wish.new_name
        if self._check(current) in UP:
            report.step("stop")
            again = self.wish.wants_running or self.wish.state == "present"
            current = self.power.stop(replace(current, restarting=again), deadline, self.wish.force)
        report.step("rename")
        current = replace(current, new_name=new)
        self.scope.write(current)
        report.step("noted")
        for driver in self.crew.all_of(current):
            driver.acts.rename(current, new)
        report.step("hypervisor")
        self.scope.rename(current.name, new)
        report.step("moved")
