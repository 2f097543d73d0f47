# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The driver for virtual machines of VirtualBox, by its program VBoxManage.

A machine has the instance's uuid, by which alone it is found: its name there is for people, who may change it. Its
files are in the instance's directory, in a folder that VirtualBox may rename with the machine.

Looking is done here, with one call for all instances; whatever changes something is in act.py, which a run that only
looks does not import.
"""

from __future__ import annotations

import contextlib
import glob
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Looks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox import answers, service
from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.answers import Machine
from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.manage import (
    LOOK,
    Manage,
    NotRegistered,
)
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._json import understood
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ABSENT,
    RUNNING,
    STOPPED,
    SUSPENDED,
    UP,
    Instance,
    Observed,
    format_size,
)

# In the directory of an instance: where VirtualBox has its folder of the machine, and what the guest says.
MACHINES, CONSOLE = "virtualbox", "console.log"
# In the folder of the machine.
DISK = "disk.vdi"

_HOST = "127.0.0.1"

# The size at which the console of a running instance is cut, and what is kept of it.
_CONSOLE_LIMIT = 16 << 20
_CONSOLE_KEPT = 1 << 20

LOST = (
    "VirtualBox has lost sight of it, because its service VBoxSVC has died: its process sees that and is about to end"
)


class VirtualBoxLooks(Looks):
    """See Looks. manage -- what talks to VirtualBox"""

    capabilities = {"console_log": ("vm",)}

    def __init__(self, *args: t.Any, **kwargs: t.Any) -> None:
        super().__init__(*args, **kwargs)
        self.manage = Manage(self.runtime, self.scope.data)

    def path(self, instance: Instance, name: str) -> str:
        """The path of a file of an instance."""
        return os.path.join(self.scope.directory(instance.name), name)

    def observe(self, instances: t.Sequence[Instance]) -> list[Observed]:
        machines: dict[str, Machine] = {}
        if len(instances) == 1:
            found = self.machine(instances[0])
            machines = {instances[0].uuid: found} if found else {}
        elif instances:
            machines = self.all_machines()
        seen = [self._observed(instance, machines.get(instance.uuid)) for instance in instances]
        # Whom VirtualBox takes for stopped, though it was started under us, may run all the same.
        if any(instance.owner == self.name and each.state not in UP for instance, each in zip(instances, seen)):
            running = service.machines(self.runtime)
            seen = [
                Observed(RUNNING, addresses=(_HOST,), drift=(LOST,))
                if each.state not in UP and instance.uuid in running
                else each
                for instance, each in zip(instances, seen)
            ]
        return seen

    def _observed(self, instance: Instance, machine: Machine | None) -> Observed:
        if machine is None:
            if self.settings(instance):
                return Observed(STOPPED, drift=("it was removed from VirtualBox, and its files are still there",))
            return Observed(ABSENT)
        if not self.is_ours(machine):
            where = f"VirtualBox has it at {machine.settings or 'a place that it does not tell'}"
            return Observed(ABSENT, drift=(f"{where}, where somebody has moved it",), reason=where)
        drift, differs = changed(machine, instance)
        if machine.state not in UP:
            return Observed(machine.state, drift=drift, differs=differs)
        return Observed(machine.state, (_HOST,), drift=drift, differs=differs, reason=machine.reason)

    def settings(self, instance: Instance) -> str:
        """The file of a machine that is, or was, VirtualBox's of an instance; empty where there is none."""
        found = glob.glob(os.path.join(glob.escape(self.path(instance, MACHINES)), "*", "*.vbox"))
        return min(found, default="")

    def is_ours(self, machine: Machine) -> bool:
        """Whether a machine with an instance's uuid is the one of this data directory, and not of a copy of it."""
        return answers.is_below(machine.settings, self.scope.data.path)

    @understood("what VirtualBox says of a machine", HypervisorError)
    def machine(self, instance: Instance) -> Machine | None:
        """What VirtualBox knows of the machine of an instance now; None where it knows none."""
        try:
            said = self.manage.check(
                f"VirtualBox does not tell of {instance.name}",
                *("showvminfo", instance.uuid, "--machinereadable"),
                timeout=LOOK,
            )
        except NotRegistered:
            return None
        return answers.parse_machine(said)

    @understood("what VirtualBox says of its machines", HypervisorError)
    def all_machines(self) -> dict[str, Machine]:
        """What VirtualBox knows of all machines now, by uuid: one call."""
        said = self.manage.check("VirtualBox does not tell of its machines", "list", "--long", "vms", timeout=LOOK)
        return answers.parse_machines(said)

    def alive(self, instance: Instance) -> bool:
        machine = self.machine(instance)
        if machine is not None and self.is_ours(machine) and machine.state in UP:
            return True
        return bool(instance.owner) and instance.uuid in service.machines(self.runtime)

    def remains(self, instance: Instance) -> str:
        if instance.phase != "removing":
            return ""
        found = self.settings(instance)
        return f"the files of its machine are there, {os.path.dirname(found)}" if found else ""

    def ssh_address(self, instance: Instance, seen: Observed | None = None) -> tuple[str, int]:
        return _HOST, instance.ssh_port

    def console_log(self, instance: Instance) -> str:
        return self.path(instance, CONSOLE)

    def tidy(self, instance: Instance) -> None:
        path = self.console_log(instance)
        with contextlib.suppress(OSError):
            status = os.stat(path)
            # VirtualBox goes on where it is: what was cut off before that is a hole, which takes no room.
            if status.st_blocks * 512 > _CONSOLE_LIMIT:
                from ansible_collections.minicloud.local.plugins.module_utils._writing import write_file

                with open(path, "rb") as stream:
                    stream.seek(max(0, status.st_size - _CONSOLE_KEPT))
                    write_file(f"{path}.1", stream.read().lstrip(b"\0"))
                os.truncate(path, 0)


def changed(machine: Machine, instance: Instance) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What somebody has changed of a machine, as sentences, and the options of a task among that."""
    found, differs = [], []
    if machine.name != instance.name:
        found.append(f"its name in VirtualBox is {machine.name}: somebody has changed it")
    # What is saved has its memory and processors, whatever the record says by now.
    if machine.state != SUSPENDED:
        if machine.memory != in_mib(instance.memory):
            found.append(
                f"its memory in VirtualBox is {format_size(machine.memory)}, not {format_size(instance.memory)}:"
                " somebody has changed it"
            )
            differs.append("memory")
        if machine.cpus != instance.cpus:
            found.append(f"its cpus in VirtualBox are {machine.cpus}, not {instance.cpus}: somebody has changed them")
            differs.append("cpus")
    return tuple(found), tuple(differs)


def in_mib(size: int) -> int:
    """Bytes in whole MiB, which is what VirtualBox counts memory in."""
    return size >> 20 << 20
