# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import pathlib

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._hostnet.managers import manager_of


def put(root: pathlib.Path, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def process(root: pathlib.Path, pid: str, cmdline: str, namespace: str = "net:[1]") -> None:
    put(root, f"proc/{pid}/cmdline", cmdline.replace(" ", "\0"))
    (root / f"proc/{pid}/ns").mkdir()
    os.symlink(namespace, root / f"proc/{pid}/ns/net")


def test_nobody(tmp_path: pathlib.Path) -> None:
    assert manager_of("eth0", 2, str(tmp_path)) is None
    put(tmp_path, "run/NetworkManager/devices/2", "[device]\nmanaged=false\n")
    put(tmp_path, "run/systemd/netif/links/2", "ADMIN_STATE=unmanaged\n")
    put(tmp_path, "etc/network/interfaces", "auto lo\niface lo inet loopback\n# iface eth0 inet dhcp\n")
    process(tmp_path, "self", "python")
    process(tmp_path, "7", "/usr/bin/python3 eth0")
    assert manager_of("eth0", 2, str(tmp_path)) is None


@pytest.mark.parametrize("value", ["true", "1"])
def test_network_manager(tmp_path: pathlib.Path, value: str) -> None:
    put(tmp_path, "run/NetworkManager/devices/2", f"[device]\nmanaged={value}\n")
    found = manager_of("eth0", 2, str(tmp_path))
    assert found is not None
    assert (found.name, found.lasting) == ("NetworkManager", True)
    assert "nmcli connection add type ethernet ifname eth0 master br0" in found.hint
    assert manager_of("eth1", 3, str(tmp_path)) is None


def test_networkd(tmp_path: pathlib.Path) -> None:
    put(tmp_path, "run/systemd/netif/links/2", "# private\nADMIN_STATE=configured\nOPER_STATE=routable\n")
    found = manager_of("eth0", 2, str(tmp_path))
    assert found is not None
    assert found.name == "systemd-networkd"
    assert "Bridge=br0" in found.hint


def test_netplan_is_what_the_user_knows(tmp_path: pathlib.Path) -> None:
    put(tmp_path, "run/systemd/netif/links/2", "ADMIN_STATE=configured\n")
    put(tmp_path, "etc/netplan/50-cloud-init.yaml", "network: {}\n")
    found = manager_of("eth0", 2, str(tmp_path))
    assert found is not None
    assert found.name == "systemd-networkd, by netplan,"
    assert "interfaces: [eth0]" in found.hint


@pytest.mark.parametrize(
    ("cmdline", "serves"),
    [
        ("/sbin/dhclient -4 -v -i -pf /run/dhclient.eth0.pid eth0", True),
        ("/bin/sh /sbin/dhclient eth0", True),
        ("dhclient eth1", False),
        ("dhcpcd -b", True),
        ("dhcpcd: eth0 [ip4]", True),
        ("dhcpcd: eth1 [ip4]", False),
        ("udhcpc -i eth0 -q", True),
        ("udhcpc -i eth1", False),
        ("/bin/busybox udhcpc -i eth0", True),
        ("grep dhclient eth0", False),
    ],
)
def test_dhcp_clients(tmp_path: pathlib.Path, cmdline: str, serves: bool) -> None:
    process(tmp_path, "self", "python")
    process(tmp_path, "812", cmdline)
    found = manager_of("eth0", 2, str(tmp_path))
    assert (found is not None) == serves
    if found:
        assert "(process 812)" in found.name
        assert found.lasting


def test_a_client_in_another_network_is_none_of_ours(tmp_path: pathlib.Path) -> None:
    process(tmp_path, "self", "python")
    process(tmp_path, "812", "dhclient eth0", "net:[2]")
    assert manager_of("eth0", 2, str(tmp_path)) is None


@pytest.mark.parametrize("path", ["etc/network/interfaces", "etc/network/interfaces.d/setup"])
def test_ifupdown_is_only_a_warning(tmp_path: pathlib.Path, path: str) -> None:
    put(tmp_path, path, "auto eth0\niface eth0 inet static\n  address 192.0.2.7/24\n")
    found = manager_of("eth0", 2, str(tmp_path))
    assert found is not None
    assert (found.name, found.lasting) == ("ifupdown", False)
    assert path in found.hint
