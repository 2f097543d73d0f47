# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Folders of the host in domains of libvirt.

They are plugged in on QEMU's monitor, past libvirt: so QEMU is handed the connection to virtiofsd open, and needs no
right to any path.
"""

from __future__ import annotations

import contextlib
import json
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.domain import FOLDER_PORTS, takes_folders
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.look import LibvirtLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.qmp import parsed, returned
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.virtiofs import FamilyMounts
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._json import JsonError
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Mount
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime


class LibvirtMounts(FamilyMounts):
    """See FamilyMounts."""

    ports = FOLDER_PORTS

    def __init__(self, look: LibvirtLooks, runtime: Runtime) -> None:
        super().__init__(look, runtime)
        self.libvirt = look

    def why_not(self, instance: Instance, mount: Mount) -> str:
        if not self.libvirt.host.here:
            return "libvirt is on another host, which has not this one's folders"
        return super().why_not(instance, mount)

    def has_ports(self, instance: Instance) -> bool:
        with self.libvirt.explained(f"the domain of {instance.name} cannot be looked at"):
            domain = self.libvirt.domain(instance)
            return domain is not None and takes_folders(domain.XMLDesc())

    @contextlib.contextmanager
    def monitor(self, instance: Instance, doing: str) -> t.Iterator[DomainMonitor]:
        with self.libvirt.explained(doing):
            domain = self.libvirt.domain(instance)
            if domain is None:
                raise HypervisorError(doing, "its domain is gone")
            yield DomainMonitor(domain)


class DomainMonitor:
    """QEMU's monitor, by way of libvirt. See Monitor; libvirtError where libvirt itself fails."""

    def __init__(self, domain: t.Any) -> None:
        import libvirt_qemu

        self._domain = domain
        self._library = libvirt_qemu

    def execute(self, command: str, **arguments: t.Any) -> t.Any:
        """See Monitor."""
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        return self._answer(command, self._library.qemuMonitorCommand(self._domain, json.dumps(request), 0))

    def hand_over(self, name: str, descriptor: int) -> None:
        """See Monitor."""
        request = json.dumps({"execute": "getfd", "arguments": {"fdname": name}})
        said, dummy = self._library.qemuMonitorCommandWithFiles(self._domain, request, [descriptor], 0)
        self._answer("getfd", said)

    @staticmethod
    def _answer(command: str, said: str) -> t.Any:
        try:
            return returned(parsed(said.encode()), command)
        except (JsonError, ValueError) as exc:
            raise HypervisorError(f"QEMU did not do {command}", str(exc)) from exc
