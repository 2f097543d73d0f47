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
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Suspension
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.look import (
    MEMORY,
    MONITOR,
    SAVED,
    QemuLooks,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.saved_state import (
    Origin,
    origin_of,
    save,
    sync_directory,
    why_not_loaded,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.qmp import Qmp
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._files import explained, remove_path
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    LINES,
    NUMBER,
    TEXT,
    Instance,
    RecordKind,
)
from ansible_collections.minicloud.local.plugins.module_utils._scope import read_record, write_record

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.act import QemuActs

_KIND = RecordKind(
    "what a suspended instance was doing",
    1,
    {
        "machine": TEXT._replace(required=True),
        "version": TEXT._replace(required=True),
        "processor": TEXT._replace(required=True),
        "shape": LINES._replace(required=True),
        "memory": NUMBER._replace(required=True),
    },
)


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
        status, report = qmp.status(), self.acts.runtime.report
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
            found = {**origin._asdict(), "shape": list(origin.shape), "memory": size}
            write_record(self.look.path(instance, SAVED), _KIND, found)
        except MinicloudError:
            drop(self.look, instance)
            with contextlib.suppress(MinicloudError, OSError):
                qmp.execute("cont")
            raise
        report.step("saved")

    def drop(self, instance: Instance) -> None:
        drop(self.look, instance)


def saved_origin(look: QemuLooks, instance: Instance) -> Origin | None:
    """The machine that an instance's saved memory is of; None where nothing is saved."""
    found = read_record(look.path(instance, SAVED), _KIND, "Drop what is saved: the same task with force: true")
    if found is None:
        return None
    return Origin(found["machine"], found["version"], found["processor"], tuple(found["shape"]))


def drop(look: QemuLooks, instance: Instance) -> None:
    """Forget what an instance was doing, so that also a power cut does not bring it back."""
    saved = look.path(instance, SAVED)
    if os.path.lexists(saved):
        with explained(f"{saved} could not be removed"):
            remove_path(saved)
            sync_directory(os.path.dirname(saved))
    remove_path(look.path(instance, MEMORY))
