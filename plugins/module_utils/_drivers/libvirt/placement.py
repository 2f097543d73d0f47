# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What is different between a libvirt of this host and one that is reached by the network: see remote.py for that."""

from __future__ import annotations

import abc
import contextlib
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.domain import offers_kvm
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.look import LibvirtLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import machine as qemu_machine
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, InUse, MissingRequirement
from ansible_collections.minicloud.local.plugins.module_utils._host.host import may_open, this_host

# Whom QEMU runs as under the system's libvirt, by distribution.
_QEMU_USERS = ("libvirt-qemu", "qemu")


class Placement(abc.ABC):
    """Where libvirt runs the instances of this data directory.

    hands_over_files -- whether the files of an instance are handed over open
    sees_ports -- whether it can be known from here which ports of that host are free
    has_firmware -- whether UEFI firmware can be used
    """

    hands_over_files = True
    sees_ports = True
    has_firmware = True

    def __init__(self, look: LibvirtLooks) -> None:
        self.look = look

    @abc.abstractmethod
    def require(self, arch: str, firmware: str) -> None:
        """Return if it can run instances of this data directory; else MissingRequirement or NotSupported."""

    @abc.abstractmethod
    def accelerator(self, wanted: str, arch: str) -> qemu_machine.Accelerator:
        """The accelerator to use for the choice of the user: auto, kvm or tcg."""

    @abc.abstractmethod
    def path(self, path: str) -> str:
        """A path as libvirt is told it."""

    def parts(self) -> dict[str, t.Any]:
        """What the Parts of a definition have that others have not."""
        return {}

    @abc.abstractmethod
    def why_alone(self) -> str:
        """Why instances cannot be on the networks of an ordinary user, as a clause; empty where they can."""

    def port_taken(self, name: str, exc: HypervisorError) -> InUse | None:
        """What is said where QEMU could not start for the sake of a port; None where it was something else."""
        return None

    def kvm_refused(self, exc: HypervisorError) -> str:
        """What to do where QEMU could not start because it may not use KVM; empty where it was something else."""
        return ""


class Here(Placement):
    """libvirt of this host: free ports are chosen, and QEMU is known to be able to use what it is told to use."""

    def require(self, arch: str, firmware: str) -> None:
        qemu_machine.emulator(arch)
        qemu_machine.firmware(arch, firmware)

    def accelerator(self, wanted: str, arch: str) -> qemu_machine.Accelerator:
        uid, groups = self._qemu_identity()
        try:
            chosen = qemu_machine.choose_accelerator(this_host(), wanted, arch, uid, groups)
        finally:
            self._warn_of_slow_definitions(uid, groups)
        if chosen.name == "kvm" and not offers_kvm(self.look.host_capabilities(), arch):
            obstacle = "libvirt does not offer KVM here: see that QEMU's user may open /dev/kvm, and restart libvirtd"
            if wanted == "kvm":
                raise MissingRequirement("the accelerator kvm cannot be used", obstacle, "Use auto or tcg.")
            return qemu_machine.Accelerator("tcg", obstacle)
        return chosen

    def _qemu_identity(self) -> tuple[int, frozenset[int]]:
        """Whom QEMU runs as: the system's libvirt has a user for it, a session's is the user's own."""
        if not self.look.is_system():
            return os.geteuid(), frozenset({os.getegid(), *os.getgroups()})
        import grp
        import pwd

        for name in _QEMU_USERS:
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                groups = {group.gr_gid for group in grp.getgrall() if name in group.gr_mem}
                return entry.pw_uid, frozenset({entry.pw_gid, *groups})
        return 0, frozenset()

    def _warn_of_slow_definitions(self, uid: int, groups: t.Container[int]) -> None:
        """libvirt sees a KVM that its QEMU may not use, does not believe it, and looks again at each definition."""
        if self.look.is_system() and uid != 0:
            with contextlib.suppress(OSError):
                device = os.stat("/dev/kvm")
                if not may_open(device, uid, groups):
                    self.look.runtime.report.warn(
                        "libvirt may take half a minute to define a domain, because the user that its QEMU runs as may"
                        " not open /dev/kvm: make that readable and writable for the group kvm (or for all), and"
                        " restart libvirtd."
                    )

    def path(self, path: str) -> str:
        return path

    def why_alone(self) -> str:
        return "" if self.look.joins_networks() else "what qemu:///system runs may not open sockets of a user"
