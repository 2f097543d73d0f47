# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Which drivers there are, what each can do, and which one a task uses. A driver's own code is imported only here."""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import About, Driver
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption, NotSupported
from ansible_collections.minicloud.local.plugins.module_utils._host.host import this_host
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory, Scope

Options = t.Optional[t.Mapping[str, t.Any]]

# What all drivers can whose instances are files of ours that QEMU runs.
_FAMILY = (
    *("vm", "foreign_arch", "live_ports", "same_network", "console_log", "publish", "suspend", "snapshots"),
    *("live_snapshots", "clones"),
    *("export", "export_snapshots"),
)
_VM, _BOTH, _CONTAINER = ("vm",), ("vm", "container"), ("container",)


def _load_qemu(about: About, runtime: Runtime, scope: Scope, options: Options, shared: bool) -> Driver:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.driver import QemuDriver

    return QemuDriver(about, runtime, scope, options, shared)


def _load_libvirt(about: About, runtime: Runtime, scope: Scope, options: Options, shared: bool) -> Driver:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.driver import LibvirtDriver

    return LibvirtDriver(about, runtime, scope, options, shared)


def _load_lxd(about: About, runtime: Runtime, scope: Scope, options: Options, shared: bool) -> Driver:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd.driver import LxdDriver

    return LxdDriver(about, runtime, scope, options, shared)


def _load_incus(about: About, runtime: Runtime, scope: Scope, options: Options, shared: bool) -> Driver:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.incus.driver import IncusDriver

    return IncusDriver(about, runtime, scope, options, shared)


def _load_virtualbox(about: About, runtime: Runtime, scope: Scope, options: Options, shared: bool) -> Driver:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.driver import VirtualBoxDriver

    return VirtualBoxDriver(about, runtime, scope, options, shared)


_LXD = About(
    name="lxd",
    scope="lxd",
    title="containers and virtual machines of LXD",
    option_names=("endpoint", "cert", "key", "verify", "project", "storage_pool", "target"),
    capabilities={
        "vm": _VM,
        "container": _CONTAINER,
        "live_ports": _BOTH,
        "live_resize": _CONTAINER,
        "ipv6_ports": _BOTH,
        "console_log": _BOTH,
        "snapshots": _BOTH,
        "clones": _BOTH,
        "remote": _BOTH,
        "suspend": _BOTH,
        "native_mounts": _CONTAINER,
        "exec": _CONTAINER,
        "publish": _CONTAINER,
        "export": _CONTAINER,
    },
    image_formats={"disk": ("qcow2",)},
    is_server=True,
    platforms=("Linux",),
    load=_load_lxd,
)

# All drivers, in the order in which they are named to users.
ABOUT: dict[str, About] = {
    about.name: about
    for about in (
        About(
            name="qemu",
            scope="qemu",
            title="QEMU/KVM, without a daemon",
            option_names=("accelerator", "run_as"),
            capabilities=dict.fromkeys((*_FAMILY, "native_mounts"), _VM),
            image_formats={"disk": ("qcow2",)},
            is_server=False,
            platforms=("Linux",),
            load=_load_qemu,
        ),
        About(
            name="libvirt",
            scope="qemu",
            title="QEMU/KVM under libvirt",
            option_names=("uri", "accelerator"),
            capabilities=dict.fromkeys((*_FAMILY, "native_mounts", "remote"), _VM),
            image_formats={"disk": ("qcow2",)},
            is_server=False,
            platforms=("Linux",),
            load=_load_libvirt,
        ),
        _LXD,
        # A fork of LXD, which can the same.
        _LXD._replace(name="incus", scope="incus", title="containers and virtual machines of Incus", load=_load_incus),
        About(
            name="virtualbox",
            scope="virtualbox",
            title="virtual machines of VirtualBox",
            option_names=(),
            capabilities=dict.fromkeys(
                ("vm", "live_ports", "console_log", "suspend", "snapshots", "live_snapshots"), _VM
            ),
            image_formats={"disk": ("qcow2",)},
            is_server=False,
            platforms=("Linux", "macOS"),
            load=_load_virtualbox,
        ),
    )
}
DRIVERS = tuple(ABOUT)

# What each capability means, for the guide about drivers.
CAPABILITY_TEXTS: dict[str, str] = {
    "vm": "makes virtual machines: ``instance_type: vm``",
    "container": "makes system containers: ``instance_type: container``",
    "foreign_arch": "emulates instances of another architecture than the host's: ``arch``",
    "remote": "works on another host than the one that the task runs on",
    "live_ports": "changes ``ports`` of an instance while it runs",
    "live_resize": "changes ``cpus``, ``memory`` and ``disk`` of an instance while it runs",
    "ipv6_ports": "forwards ports of IPv6 addresses of the host",
    "same_network": "attaches an instance to one network more than once: ``networks``",
    "console_log": "keeps what the guest writes to its console: ``console_log``",
    "publish": "publishes a stopped instance as an image: ``instance`` of the module ``image``",
    "export": "exports a stopped instance to a file that another host or driver can import: the module ``export``",
    "export_snapshots": "exports its snapshots with it: ``snapshots`` of the module ``export``",
    "snapshots": "keeps states of an instance that it can go back to",
    "clones": "makes an instance from another one, or from a snapshot of it: ``source``",
    "live_snapshots": "takes snapshots of a running instance, with its memory",
    "suspend": "suspends instances: ``state: suspended``",
    "exec": "runs commands in instances, and moves files, without ssh: the connection ``minicloud.local.instance``",
    "native_mounts": "has folders of the host appear in instances by the hypervisor's own means",
}


def default_driver() -> str:
    """The driver of a data directory in which none was made active."""
    wanted = "qemu"
    host = this_host()
    if host.system == "Linux" and host.architecture() != "x86_64":
        wanted = "lxd"
    return wanted if wanted in ABOUT else "qemu"


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
    return ABOUT[driver].scope if driver in ABOUT else driver


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
    about = ABOUT.get(name)
    if about:
        return about.load(about, runtime, data.scope(about.scope), options, shared)
    raise InvalidOption(f"there is no driver {name!r}", hint=f"Choose one of: {', '.join(DRIVERS)}.")


def require_capability(driver: str, capability: str, what: str, instance_type: str = "") -> None:
    """Return if the driver has the capability that WHAT needs; else NotSupported, naming the drivers that have it.

    instance_type -- for which it needs it; empty: for any
    """
    if ABOUT[driver].can(capability, instance_type):
        return
    able = drivers_that_can(capability, instance_type)
    raise NotSupported(
        f"the driver {driver} cannot do {what}",
        hint=f"Drivers that can: {', '.join(able)}." if able else "No driver of this version can.",
    )


def drivers_that_can(capability: str, instance_type: str = "") -> list[str]:
    """The names of the drivers that have a capability: for a type of instances, or for any."""
    return sorted(about.name for about in ABOUT.values() if about.can(capability, instance_type))
