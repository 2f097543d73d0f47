# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The driver for QEMU processes of our own, one an instance, controlled over QMP.

A running QEMU holds an flock on `run.lock` in the instance's directory. It inherits it from the run that started it,
from before its first instruction until the kernel ends it, so whether an instance runs is a fact that no crash,
no reused process id and no stale file can falsify.

Looking is done here; whatever changes something is in qemu_actions.py, which a run that only looks does not import.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.base import Driver
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    RUNNING,
    STOPPED,
    Image,
    Instance,
    Observed,
    PortForward,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline
from ansible_collections.minicloud.local.plugins.module_utils._scope import write_file

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_actions import QemuActions

# Files in the directory of an instance.
LOCK, LOG, CONSOLE = "run.lock", "qemu.log", "console.log"

# The size at which the console of a running instance is cut.
_CONSOLE_LIMIT = 16 << 20
_CONSOLE_KEPT = 1 << 20


class QemuDriver(Driver):
    """See Driver."""

    name = "qemu"
    scope_name = "qemu"
    option_names = ("accelerator", "run_as")

    def probe(self) -> dict[str, str]:
        return self._actions().probe()

    def require(self, arch: str, firmware: str = "") -> None:
        self._actions().require(arch, firmware)

    def observe(self, instances: t.Sequence[Instance]) -> list[Observed]:
        return [
            Observed(RUNNING, ("127.0.0.1",)) if self.alive(instance) else Observed(STOPPED) for instance in instances
        ]

    def alive(self, instance: Instance) -> bool:
        try:
            handle = os.open(self.path(instance, LOCK), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise HypervisorError(
                f"whether {instance.name} runs cannot be told",
                f"{exc.filename}: {exc.strerror}",
                "Run as the user that the data directory belongs to.",
            ) from exc
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def create(self, instance: Instance, image: Image, seed: t.Mapping[str, bytes]) -> None:
        self._actions().create(instance, image, seed)

    def export_disk(self, instance: Instance, target: str, format_: str) -> None:
        self._actions().export_disk(instance, target, format_)

    def grow_disk(self, instance: Instance) -> None:
        self._actions().grow_disk(instance)

    def choose_ports(self, instance: Instance, held: t.Sequence[PortForward] | None = None) -> None:
        self._actions().choose_ports(instance, held)

    def start(self, instance: Instance) -> None:
        self._actions().start(instance)

    def forwards(self, instance: Instance) -> list[PortForward]:
        return self._actions().forwards(instance)

    def forward_ports(self, instance: Instance, before: t.Sequence[PortForward]) -> None:
        self._actions().forward_ports(instance, before)

    def stop(self, instance: Instance, deadline: Deadline, force: bool) -> None:
        self._actions().stop(instance, deadline, force)

    def delete(self, instance: Instance) -> None:
        self._actions().delete(instance)

    def endpoint(self, instance: Instance) -> tuple[str, int]:
        return "127.0.0.1", instance.ssh_port

    def console_log(self, instance: Instance) -> str:
        return self.path(instance, CONSOLE)

    def tidy(self, instance: Instance) -> None:
        path = self.console_log(instance)
        with contextlib.suppress(OSError):
            size = os.path.getsize(path)
            if size > _CONSOLE_LIMIT:
                with open(path, "rb") as stream:
                    stream.seek(max(0, size - _CONSOLE_KEPT))
                    write_file(f"{path}.1", stream.read())
                # QEMU appends, so it goes on at the new end.
                os.truncate(path, 0)

    def log(self, instance: Instance) -> str:
        try:
            with open(self.path(instance, LOG), encoding="utf-8", errors="replace") as stream:
                return stream.read(16384).strip()
        except OSError:
            return ""

    def path(self, instance: Instance, name: str) -> str:
        """The path of a file of an instance."""
        return os.path.join(self.scope.directory(instance.name), name)

    def _actions(self) -> QemuActions:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_actions import QemuActions

        return QemuActions(self)
