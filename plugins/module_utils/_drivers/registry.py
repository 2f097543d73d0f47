# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Which drivers there are, what each can do, and which one a task uses. A driver's own code is imported only here."""

from __future__ import annotations

import contextlib
import platform
import sys
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption, NotSupported
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

# The capabilities, by driver: known without importing the driver.
CAPABILITIES: dict[str, frozenset[str]] = {
    "qemu": frozenset({"vm", "foreign_arch", "live_ports", "same_network", "console_log"}),
    "libvirt": frozenset({"vm", "foreign_arch", "live_ports", "same_network", "console_log", "remote"}),
    "lxd": frozenset({"vm", "container", "live_ports", "live_resize", "ipv6_ports", "console_log", "remote"}),
}
DRIVERS = tuple(CAPABILITIES)

# What each capability means, for the guide about drivers.
CAPABILITY_TEXTS: dict[str, str] = {
    "vm": "makes virtual machines: ``instance_type: vm``",
    "container": "makes system containers: ``instance_type: container``",
    "foreign_arch": "emulates instances of another architecture than the host's: ``arch``",
    "remote": "works on another host than the one that the task runs on",
    "live_ports": "changes ``ports`` of an instance while it runs",
    "live_resize": "changes ``cpus``, ``memory`` and ``disk`` of a container while it runs",
    "ipv6_ports": "forwards ports of IPv6 addresses of the host",
    "same_network": "attaches an instance to one network more than once: ``networks``",
    "console_log": "keeps what the guest writes to its console: ``console_log``",
}

# Drivers whose hypervisor is a server that starts instances with its host by itself.
SERVERS = frozenset({"lxd"})

# Drivers that share the scope of another.
_SCOPES: dict[str, str] = {"libvirt": "qemu"}


def default_driver() -> str:
    """The driver of a data directory in which none was made active."""
    wanted = "qemu"
    if sys.platform.startswith("linux") and platform.machine() not in ("x86_64", "amd64"):
        wanted = "lxd"
    return wanted if wanted in CAPABILITIES else "qemu"


def active_driver(data: DataDirectory, report: Reporter | None = None) -> str:
    """The driver that is used when a task names none. report -- who is told of a switch that is not finished"""
    settings = data.settings()
    active = str(settings.get("driver") or default_driver())
    switch = settings.get("switch")
    if switch and report:
        report.warn(
            f"The switch of the active driver from {switch['from']} to {switch['to']} is not finished; until it is,"
            f" tasks that name no driver use {active}. If no run is at it any more, run minicloud.local.driver with"
            f" name: {switch['to']} to finish it."
        )
    return active


def scope_of(driver: str) -> str:
    """The scope in which a driver's instances live."""
    return _SCOPES.get(driver, driver)


def load(
    name: str | None,
    runtime: Runtime,
    data: DataDirectory,
    options: t.Mapping[str, t.Any] | None = None,
    shared: bool = False,
) -> Driver:
    """The driver of that name (none: the active one), working in the data directory.

    shared -- the options are for several drivers
    """
    name = name or active_driver(data, runtime.report)
    scope = data.scope(scope_of(name))
    if name == "qemu":
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.driver import QemuDriver

        return QemuDriver(runtime, scope, options, shared)
    if name == "libvirt":
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.driver import LibvirtDriver

        return LibvirtDriver(runtime, scope, options, shared)
    if name == "lxd":
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd.driver import LxdDriver

        return LxdDriver(runtime, scope, options, shared)
    raise InvalidOption(f"there is no driver {name!r}", hint=f"Choose one of: {', '.join(DRIVERS)}.")


class Crew:
    """The driver that a task names, and with it those that act on what the task finds: each is loaded once.

    In a scope that drivers share, whoever runs an instance now is its owner, and only the owner can act on it. And
    what was made at one place (a server, a project) stays there, wherever the task's options lead.
    """

    def __init__(self, wanted: Driver) -> None:
        self.wanted = wanted
        self._loaded = [wanted]

    def of(self, instance: Instance) -> Driver:
        """The driver that acts on an instance: its owner, or where nobody runs it the one that the task names."""
        return self._driver(instance.owner or self.wanted.name, instance)

    def starter(self, instance: Instance) -> Driver:
        """The driver that starts an instance which nobody runs: the one that the task names."""
        return self._driver(self.wanted.name, instance)

    def all_of(self, instance: Instance) -> list[Driver]:
        """Every driver that may have made something of an instance."""
        return [self._driver(name, instance) for name in dict.fromkeys([*instance.handles, self.wanted.name])]

    def group(
        self,
        instances: t.Iterable[Instance],
        guarded: t.Callable[[Instance], t.ContextManager[None]] = lambda dummy: contextlib.nullcontext(),
    ) -> list[tuple[Driver, list[Instance]]]:
        """Instances by the driver that acts on them. guarded -- what to do of one whose driver cannot be had"""
        groups: dict[int, tuple[Driver, list[Instance]]] = {}
        for instance in instances:
            with guarded(instance):
                driver = self.of(instance)
                groups.setdefault(id(driver), (driver, []))[1].append(instance)
        return list(groups.values())

    def _driver(self, name: str, instance: Instance) -> Driver:
        handle = instance.handles.get(name)
        for driver in self._loaded:
            if driver.name == name and (handle is None or driver.leads_here(handle)):
                return driver
        options = {**(self.wanted.options if name == self.wanted.name else {}), **(handle or {})}
        driver = load(name, self.wanted.runtime, self.wanted.scope.data, options)
        self._loaded.append(driver)
        return driver


def require_capability(driver: str, capability: str, what: str) -> None:
    """Return if the driver has the capability that WHAT needs; else NotSupported, naming the drivers that have it."""
    if capability in CAPABILITIES[driver]:
        return
    able = sorted(name for name, capabilities in CAPABILITIES.items() if capability in capabilities)
    raise NotSupported(
        f"the driver {driver} cannot do {what}",
        hint=f"Drivers that can: {', '.join(able)}." if able else "No driver of this version can.",
    )
