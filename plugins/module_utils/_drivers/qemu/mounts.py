# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Folders of the host in machines of QEMU that we have started ourselves."""

from __future__ import annotations

import contextlib
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.look import MONITOR
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.machine import FOLDER_PORTS
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.qmp import Qmp
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.virtiofs import FamilyMounts
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._host import processes
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance


class QemuMounts(FamilyMounts):
    """See FamilyMounts."""

    ports = FOLDER_PORTS

    def has_ports(self, instance: Instance) -> bool:
        with contextlib.suppress(OSError, ValueError):
            with open(self.look.path(instance, "qemu.pid"), encoding="ascii") as stream:
                pid = int(stream.read(32))
            last = f"id={FOLDER_PORTS[-1]},".encode()
            return any(last in argument for argument in processes.arguments_of(pid))
        return False

    @contextlib.contextmanager
    def monitor(self, instance: Instance, doing: str) -> t.Iterator[Qmp]:
        try:
            with Qmp(self.look.path(instance, MONITOR)) as qmp:
                yield qmp
        except OSError as exc:
            raise HypervisorError(doing, f"QEMU does not answer on its monitor: {exc}") from exc
