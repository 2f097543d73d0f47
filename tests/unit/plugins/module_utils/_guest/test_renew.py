# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._guest import renew
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import SshAccess
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime

ACCESS = SshAccess("10.1.2.64", 22, "debian", "/keys/id", "/keys/known_hosts", "minicloud-qemu-web")
MAC = "52:54:00:00:00:01"


class Guest:
    """Runs what ssh is to run, in a shell with programs of the test's own before the others."""

    def __init__(self, directory):
        self.directory = directory
        self.told = directory / "told"
        self.addresses = "2: eth0    inet 10.1.2.64/24 brd 10.1.2.255 scope global eth0"
        self.program("sudo", 'shift; exec "$@"')
        self.program("sleep", "exit 0")
        self.program("ip", f"cat {directory}/addresses")
        for name in ("networkctl", "nmcli", "dhcpcd"):
            self.program(name, "exit 1")

    def program(self, name, text):
        path = self.directory / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def run(self, argv, *, stdin=None, **dummy):
        assert os.path.basename(argv[0]) == "ssh" and argv[argv.index("-l") + 1] == "debian"
        (self.directory / "addresses").write_text(f"{self.addresses}\n")
        environment = {**os.environ, "PATH": f"{self.directory}:{os.environ['PATH']}", "TOLD": str(self.told)}
        done = subprocess.run(["sh", "-c", argv[-1]], input=stdin, env=environment, capture_output=True, check=False)
        return Completed(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ask(self):
        os.mkfifo(self.told)
        return renew.ask_renewal(Runtime(self.run), ACCESS, MAC, "10.1.2.64")


@pytest.fixture
def guest(tmp_path, monkeypatch):
    monkeypatch.setattr(Runtime, "program", lambda self, name, *dummy: name)
    return Guest(tmp_path)


def test_networkd_configures_the_interface_anew(guest):
    guest.program(
        "networkctl",
        """case "$*" in
    *list*eth0*) echo "  2 eth0 ether routable configured" ;;
    "reconfigure eth0") echo reconfigured > "$TOLD" ;;
esac""",
    )
    assert guest.ask() == "systemd-networkd"
    assert guest.told.read_text() == "reconfigured\n"


def test_an_old_networkd_renews(guest):
    guest.program(
        "networkctl",
        """case "$*" in
    *list*) echo "  2 eth0 ether routable configured" ;;
    "renew eth0") echo renewed > "$TOLD" ;;
    *) exit 1 ;;
esac""",
    )
    assert guest.ask() == "systemd-networkd"
    assert guest.told.read_text() == "renewed\n"


def test_network_manager_brings_its_connection_up_again(guest):
    guest.program("networkctl", 'echo "  2 eth0 ether routable unmanaged"')
    guest.program(
        "nmcli",
        """case "$*" in
    *GENERAL.STATE*eth0) echo "100 (connected)" ;;
    *GENERAL.CON-UUID*eth0) echo 1b2c ;;
    *) echo "$*" > "$TOLD" ;;
esac""",
    )
    assert guest.ask() == "NetworkManager"
    assert guest.told.read_text() == "connection up uuid 1b2c ifname eth0\n"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this host has no /proc")
def test_a_plain_client_is_started_again_as_it_was(guest):
    interface = "mctestnone0"  # of no client that runs here
    guest.addresses = f"2: {interface}    inet 10.1.2.64/24"
    client = guest.directory / "dhclient"
    shutil.copy(shutil.which("sh"), client)
    words = [str(client), "-c", 'echo ready; [ -z "$TOLD" ] || echo "$0 $*" > "$TOLD"; read -r line', "-4", interface]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}) as running:
        assert running.stdout.readline() == b"ready\n"
        assert guest.ask() == "dhclient"
        assert guest.told.read_text() == f"-4 {interface}\n"
        running.wait(timeout=30)


def test_nobody_is_asked_where_nobody_looks_after_it(guest):
    guest.addresses = "2: mctestnone0    inet 10.1.2.64/24"
    assert guest.ask() == ""


def test_nobody_is_asked_where_there_is_no_such_interface(guest):
    guest.addresses = ""
    assert guest.ask() == ""


def test_a_user_who_may_not_become_root_can_ask_nobody(guest):
    guest.program("id", "echo 1000")
    guest.program("sudo", "echo 'sudo: a password is required' >&2; exit 1")
    assert guest.ask() == ""
