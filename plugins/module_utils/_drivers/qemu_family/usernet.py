# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Port forwards of QEMU's user-mode network, as its command line and its human monitor have them."""

from __future__ import annotations

import contextlib
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._json import understood
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, PortForward

# Asks the human monitor of one QEMU.
Monitor = t.Callable[[str], str]


def forward_rule(port: PortForward) -> str:
    """A port forward in the words of QEMU's user-mode network."""
    return f"{port.protocol}:{port.host_ip}:{port.host_port}-:{port.guest_port}"


@understood("what QEMU says of its user-mode network", HypervisorError)
def parse_forwards(usernet: str) -> list[PortForward]:
    """The port forwards in what QEMU's monitor answers to `info usernet`."""
    found = []
    for line in usernet.splitlines():
        fields = line.split()
        if fields and fields[0] in ("TCP[HOST_FORWARD]", "UDP[HOST_FORWARD]"):
            ip = "0.0.0.0" if fields[2] == "*" else fields[2]
            host_port, guest_port = int(fields[3]), int(fields[5])
            if not (0 <= host_port < 65536 and 0 <= guest_port < 65536):
                raise ValueError(f"there is no such port in {line.strip()[:80]!r}")
            found.append(PortForward(ip, host_port, guest_port, fields[0][:3].lower()))
    return found


def forwards(monitor: Monitor, instance: Instance) -> list[PortForward]:
    """The forwards that a running instance has; not the one for ssh."""
    found = parse_forwards(monitor("info usernet"))
    return [port for port in found if (port.host_port, port.guest_port) != (instance.ssh_port, 22)]


def change_forwards(monitor: Monitor, netdev: str, instance: Instance, before: t.Sequence[PortForward]) -> None:
    """Change the forwards of a running instance from those before to its record's: all of them, or none."""
    try:
        _replace(monitor, netdev, before, instance.ports)
    except HypervisorError:
        with contextlib.suppress(HypervisorError):
            _replace(monitor, netdev, forwards(monitor, instance), before)
        raise


def _replace(monitor: Monitor, netdev: str, before: t.Sequence[PortForward], after: t.Sequence[PortForward]) -> None:
    for port in before:
        if port not in after:
            monitor(f"hostfwd_remove {netdev} {port.protocol}:{port.host_ip}:{port.host_port}")
    for port in after:
        if port not in before:
            answer = monitor(f"hostfwd_add {netdev} {forward_rule(port)}")
            if answer:
                why = answer
                if port.host_port < 1024:
                    why = f"{answer} (a running QEMU may not take ports below 1024; stop the instance first)"
                raise HypervisorError(f"port {port} could not be forwarded", why)
