# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import usernet
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.usernet import (
    forward_rule,
    parse_forwards,
)
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, PortForward, parse_port


class TestForwards:
    # As QEMU 7.2 answers.
    ANSWER = (
        "Hub -1 (net0):\r\n"
        "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n"
        "  TCP[ESTABLISHED]   14       10.0.2.15 41414         1.2.3.4   443     0     0\r\n"
        "  TCP[HOST_FORWARD]  11       127.0.0.1 18022       10.0.2.15    22     0     0\r\n"
        "  UDP[HOST_FORWARD]   9               * 18053       10.0.2.15    53     0     0\r\n"
        "  UDP[236 sec]       15       10.0.2.15 45000        10.0.2.3    53     0     0\r\n"
    )

    def test_what_qemu_forwards_now(self):
        assert parse_forwards(self.ANSWER) == [
            PortForward("127.0.0.1", 18022, 22, "tcp"),
            PortForward("0.0.0.0", 18053, 53, "udp"),
        ]

    def test_nothing(self):
        assert parse_forwards("") == []

    def test_a_rule(self):
        assert forward_rule(parse_port("0.0.0.0:53:5353/udp")) == "udp:0.0.0.0:53-:5353"


class FakeMonitor:
    """The forwards of one QEMU, as its monitor tells and changes them. It refuses those to the guest's port 666."""

    def __init__(self, *rules):
        self.rules = [parse_port(rule) for rule in rules]

    def __call__(self, command):
        word, netdev, rule = [*command.split(), ""][:3]
        if command == "info usernet":
            return "\n".join(
                f" {port.protocol.upper()}[HOST_FORWARD] 9 {port.host_ip} {port.host_port} 10.0.2.1 {port.guest_port} 0"
                for port in self.rules
            )
        assert netdev == "usernet"
        protocol, ip, ports = rule.split(":", 2)
        if word == "hostfwd_remove":
            self.rules = [p for p in self.rules if (p.protocol, p.host_ip, p.host_port) != (protocol, ip, int(ports))]
            return "host forwarding rule removed"
        assert word == "hostfwd_add"
        host, guest = ports.split("-:")
        if guest == "666":
            return "Could not set up host forwarding rule"
        self.rules.append(PortForward(ip, int(host), int(guest), protocol))
        return ""


class TestChange:
    def an_instance(self, *ports):
        return Instance(
            "web", "id", "qemu", "qemu", "", "x86_64", 1, 1, 1, ssh_port=40022, ports=list(map(parse_port, ports))
        )

    def test_what_there_is_becomes_what_is_asked_for(self):
        monitor = FakeMonitor("40022:22", "8080:80", "8443:443")
        instance = self.an_instance("8443:443", "5353:53/udp")
        usernet.change_forwards(monitor, "usernet", instance, usernet.forwards(monitor, instance))
        assert sorted(usernet.forwards(monitor, instance)) == sorted(instance.ports)
        assert parse_port("40022:22") in monitor.rules

    def test_all_or_nothing(self):
        monitor = FakeMonitor("40022:22", "8080:80")
        instance = self.an_instance("9090:90", "6666:666")
        with pytest.raises(HypervisorError, match=r"port 127\.0\.0\.1:6666:666/tcp could not be forwarded: Could not"):
            usernet.change_forwards(monitor, "usernet", instance, usernet.forwards(monitor, instance))
        assert usernet.forwards(monitor, instance) == [parse_port("8080:80")]

    def test_a_port_of_root_is_explained(self):
        with pytest.raises(HypervisorError, match="a running QEMU may not take ports below 1024"):
            usernet.change_forwards(FakeMonitor(), "usernet", self.an_instance("80:666"), [])
