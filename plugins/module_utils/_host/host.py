# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The machine that runs instances: what is asked of "the host" is asked of this object, here or elsewhere.

What differs between systems is a class of its own for each.
"""

from __future__ import annotations

import abc
import contextlib
import os
import platform
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._model import normal_arch
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime


class HypervisorHost(abc.ABC):
    """A machine that runs instances. A driver whose options lead to another one has a kind of its own for it.

    here -- whether it is the one that this code runs on; name -- as messages have it
    """

    here = False
    name = ""

    @abc.abstractmethod
    def architecture(self) -> str:
        """The kernel's name of its architecture, such as x86_64."""

    @abc.abstractmethod
    def memory(self) -> tuple[int, int]:
        """Bytes of memory that it has in all, and that are available now; 0 where that cannot be known."""

    @abc.abstractmethod
    def processors(self) -> int:
        """How many processors it has; 0 where that cannot be known."""


class ThisHost(HypervisorHost):
    """The machine that this code runs on.

    system -- its name for people; accelerator -- what its kernel has to run machines with, in the words of QEMU
    has_networks -- whether bridges, taps and a user's hub can be had
    """

    here = True
    name = "this host"
    system = ""
    accelerator = ""
    has_networks = False

    def architecture(self) -> str:
        return normal_arch(platform.machine())

    def memory(self) -> tuple[int, int]:
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), 0
        return 0, 0

    def processors(self) -> int:
        return os.cpu_count() or 0

    def obstacle_to_acceleration(self, arch: str, uid: int, groups: t.Container[int]) -> str:
        """Why machines of an architecture cannot be run by the accelerator, as a clause; empty where they can.

        uid, groups -- whom the hypervisor runs as
        """
        if not self.accelerator:
            return f"there is none on {self.system}"
        own = self.architecture()
        return "" if arch == own else f"the instance is {arch} and this host is {own}"

    def start_background(
        self, runtime: Runtime, argv: t.Sequence[str], what: str, title: str, outlasts: str = "", **kwargs: t.Any
    ) -> str:
        """Run a command that leaves a process behind, and have that outlive the session that this run belongs to.

        what -- says what failed if it fails; title -- of the process, for people
        outlasts -- a unit of systemd that is stopped before the process is when the host goes down
        """
        return runtime.check(argv, what, **kwargs)


class Linux(ThisHost):
    """See ThisHost."""

    system = "Linux"
    accelerator = "kvm"
    has_networks = True

    def memory(self) -> tuple[int, int]:
        total = available = 0
        with contextlib.suppress(OSError, ValueError):
            with open("/proc/meminfo", encoding="ascii") as stream:
                for line in stream:
                    if line.startswith("MemTotal:"):
                        total = int(line.split()[1]) << 10
                    elif line.startswith("MemAvailable:"):
                        available = int(line.split()[1]) << 10
        total = total or super().memory()[0]
        with contextlib.suppress(OSError, ValueError):
            with open("/sys/fs/cgroup/memory.max", encoding="ascii") as stream:
                total = min(total, int(stream.read())) if total else total
        return total, available

    def obstacle_to_acceleration(self, arch: str, uid: int, groups: t.Container[int]) -> str:
        found = super().obstacle_to_acceleration(arch, uid, groups)
        if found:
            return found
        try:
            device = os.stat("/dev/kvm")
        except OSError:
            return "this host has no /dev/kvm (virtualisation is off in its firmware, or this is a virtual machine)"
        if arch == "x86_64" and not self._cpu_virtualises():
            # A /dev/kvm that a hypervisor below provides in software opens, and then hangs the guest for ever.
            return "there is a /dev/kvm, but the processor offers neither vmx nor svm, so it would not work"
        if not may_open(device, uid, groups):
            return "the user that QEMU runs as may not open /dev/kvm: make it readable and writable for the group kvm"
        return ""

    @staticmethod
    def _cpu_virtualises() -> bool:
        with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="ascii", errors="replace") as stream:
            for line in stream:
                if line.startswith("flags"):
                    return bool({"vmx", "svm"}.intersection(line.split()))
        return False

    def start_background(
        self, runtime: Runtime, argv: t.Sequence[str], what: str, title: str, outlasts: str = "", **kwargs: t.Any
    ) -> str:
        from ansible_collections.minicloud.local.plugins.module_utils._host import systemd

        return systemd.start(runtime, argv, what, title, outlasts, **kwargs)


class Darwin(ThisHost):
    """See ThisHost. Its guests have the hypervisor's user-mode network."""

    system = "macOS"
    accelerator = "hvf"


class OtherSystem(ThisHost):
    """See ThisHost. A system that no driver of this version runs instances on."""

    @property
    def system(self) -> str:  # type: ignore[override]
        return platform.system()


def this_host() -> ThisHost:
    """The machine that this code runs on."""
    return {"Linux": Linux, "Darwin": Darwin}.get(platform.system(), OtherSystem)()


def may_open(device: os.stat_result, uid: int, groups: t.Container[int]) -> bool:
    """Whether a user may read and write a device."""
    bits = device.st_mode >> (6 if device.st_uid == uid else 3 if device.st_gid in groups else 0) & 0o6
    return uid == 0 or bits == 0o6
