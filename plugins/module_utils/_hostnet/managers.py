# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.
"""Who else looks after an interface of this host: whoever does would undo what is changed behind its back."""

from __future__ import annotations

import contextlib
import glob
import os
import typing as t

# Programs that ask for addresses on the interfaces in their arguments; whether on all where there are none.
_CLIENTS = {"dhclient": False, "dhcpcd": True, "udhcpc": False, "dhcp6c": False, "pump": True}

_WRAPPERS = ("sh", "bash", "dash", "busybox")


class Manager(t.NamedTuple):
    """name -- of the program; hint -- how to have it make a bridge, as sentences

    lasting -- whether it looks after the interface all the time, and not only when the host starts
    """

    name: str
    hint: str
    lasting: bool = True


def manager_of(interface: str, index: int, root: str = "/") -> Manager | None:
    """Who looks after an interface, if anybody does. root -- of the file system, for tests"""
    found = _network_manager(interface, index, root) or _networkd(interface, index, root)
    return found or _client(interface, root) or _ifupdown(interface, root)


def _network_manager(interface: str, index: int, root: str) -> Manager | None:
    if _ini(os.path.join(root, f"run/NetworkManager/devices/{index}")).get("managed") not in ("true", "1"):
        return None
    if _netplan(root):
        return Manager("NetworkManager, by netplan,", _NETPLAN.format(interface))
    return Manager(
        "NetworkManager",
        f"Have it make a bridge: nmcli connection add type bridge ifname br0 con-name br0, nmcli connection add type"
        f" ethernet ifname {interface} master br0, nmcli connection up br0; then give parent: br0.",
    )


def _networkd(interface: str, index: int, root: str) -> Manager | None:
    state = _ini(os.path.join(root, f"run/systemd/netif/links/{index}")).get("ADMIN_STATE", "unmanaged")
    if state in ("unmanaged", "failed", "linger"):
        return None
    if _netplan(root):
        return Manager("systemd-networkd, by netplan,", _NETPLAN.format(interface))
    return Manager(
        "systemd-networkd",
        f"Have it make a bridge: a .netdev file with Name=br0 and Kind=bridge, a .network file for {interface} with"
        " Bridge=br0, and what its .network file has now in one for br0; then give parent: br0.",
    )


_NETPLAN = (
    "Have it make a bridge: under network, move what {0} has there (dhcp4, addresses, routes) to bridges: br0, add"
    " interfaces: [{0}] to it, and run netplan apply; then give parent: br0."
)


def _netplan(root: str) -> bool:
    return bool(glob.glob(os.path.join(root, "etc/netplan/*.yaml")))


def _client(interface: str, root: str) -> Manager | None:
    """A DHCP client that runs for the interface in the network that this process is in."""
    proc = os.path.join(root, "proc")
    try:
        here = os.readlink(os.path.join(proc, "self/ns/net"))
        pids = [name for name in os.listdir(proc) if name.isdigit()]
    except OSError:
        return None
    for pid in pids:
        with contextlib.suppress(OSError):
            with open(os.path.join(proc, pid, "cmdline"), "rb") as stream:
                words = stream.read().decode(errors="replace").replace("\0", " ").split()
            # Some write what they do over their arguments: dhcpcd: eth0 [ip4]
            names = [os.path.basename(word).rstrip(":") for word in words[:2]]
            names = names if names[:1] and names[0] in _WRAPPERS else names[:1]
            name = next((each for each in names if each in _CLIENTS), "")
            if not name or os.readlink(os.path.join(proc, pid, "ns/net")) != here:
                continue
            named = [word for word in words[names.index(name) + 1 :] if word[:1] not in ("-", "[", "/")]
            if interface in named or (_CLIENTS[name] and not named):
                return Manager(
                    f"the DHCP client {name} (process {pid})",
                    f"Have the host's network configuration make a bridge with {interface} in it that asks for the"
                    " address instead, and give its name as parent.",
                )
    return None


def _ifupdown(interface: str, root: str) -> Manager | None:
    """ifupdown configures an interface when the host starts, and leaves it alone then."""
    files = [os.path.join(root, "etc/network/interfaces")]
    files += sorted(glob.glob(os.path.join(root, "etc/network/interfaces.d/*")))
    for path in files:
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
            for line in stream:
                if line.split()[:2] == ["iface", interface]:
                    return Manager(
                        "ifupdown",
                        f"Rather have it make a bridge: iface br0 inet … with bridge_ports {interface} instead of"
                        f" iface {interface}, in {path}; then give parent: br0.",
                        lasting=False,
                    )
    return None


def _ini(path: str) -> dict[str, str]:
    """The values of a file of lines KEY=VALUE, whatever its sections; none where there is no such file."""
    found = {}
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            key, equals, value = line.strip().partition("=")
            if equals:
                found[key] = value
    return found
