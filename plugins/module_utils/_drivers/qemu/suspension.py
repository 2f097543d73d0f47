# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Suspended instances of QEMU: what they were doing is in a file, and nothing of them runs.

An instance is suspended from the moment on that the file SAVED is there, and until it is gone. It goes before the
guest runs on, for what it tells is of the disk as it was then.
"""

from __future__ import annotations

import contextlib
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Suspension
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu import live
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.look import MEMORY, MONITOR, QemuLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.saved_state import (
    drop,
    note,
    origin_of,
    save,
    saved_origin,
    stop_saving,
    why_not_loaded,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.qmp import Qmp
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.act import QemuActs


class QemuSuspension(Suspension):
    """See Suspension."""

    capabilities = {"suspend": ("vm",)}

    def __init__(self, look: QemuLooks, acts: QemuActs) -> None:
        self.look = look
        self.acts = acts

    def why_not(self, instance: Instance) -> str:
        if self.look.alive(instance):
            return self._why_not_now(instance)
        try:
            saved = saved_origin(self.look, instance)
            if saved is None:
                return ""
            return why_not_loaded(saved, self.acts.planned_origin(instance, saved.machine))
        except MinicloudError as exc:
            return str(exc)

    def _why_not_now(self, instance: Instance) -> str:
        with contextlib.suppress(OSError), Qmp(self.look.path(instance, MONITOR)) as qmp:
            status = qmp.status()
            if status in ("suspended", "internal-error", "guest-panicked"):
                return f"its machine is in the state {status}, which cannot be kept"
        return ""

    def suspend(self, instance: Instance) -> None:
        doing = f"what {instance.name} is doing could not be saved"
        try:
            with Qmp(self.look.path(instance, MONITOR)) as qmp:
                self._save(instance, qmp, doing)
        except OSError as exc:
            if self.look.alive(instance) or saved_origin(self.look, instance) is None:
                raise HypervisorError(doing, self.acts.log(instance) or str(exc)) from exc
        self.acts.end(instance)
        self.acts.runtime.report.step("ended")

    def _save(self, instance: Instance, qmp: Qmp, doing: str) -> None:
        stop_saving(qmp)
        status, report = qmp.status(), self.acts.runtime.report
        live.finish(self.look, instance, qmp)
        if status == "postmigrate":
            if saved_origin(self.look, instance) is not None:
                return  # a run that was killed has done it, but for the end
            qmp.execute("cont")  # QEMU saves no machine that it has saved and that did not go on
        drop(self.look, instance)
        qmp.execute("stop")
        report.step("halted")
        try:
            origin = origin_of(qmp, self.acts.process_of(instance))
            size = save(qmp, self.look.path(instance, MEMORY), doing)
            report.step("memory")
            note(self.look, instance, origin, size)
        except (MinicloudError, OSError):
            drop(self.look, instance)
            with contextlib.suppress(MinicloudError, OSError):
                qmp.execute("cont")
                live.forget(self.look, instance)
            raise
        report.step("saved")

    def drop(self, instance: Instance) -> None:
        drop(self.look, instance)
