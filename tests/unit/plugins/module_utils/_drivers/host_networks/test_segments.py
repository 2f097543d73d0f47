# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._drivers.host_networks import segments as segment_networks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.host_networks.segments import SegmentNetworks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Member
from ansible_collections.minicloud.local.plugins.module_utils._errors import InUse, MissingRequirement
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import hub
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.links import Link, Route
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

MAC, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:02"
HOSTS = [Member("one", MAC, ("10.20.30.64",)), Member("two", OTHER, ("10.20.30.65", "fd00::2"))]


class Steps(Reporter):
    """Keeps the steps; ends the run at one of them."""

    def __init__(self):
        super().__init__()
        self.steps = []
        self.fatal = ""

    def step(self, name):
        self.steps.append(name)
        if name == self.fatal:
            raise KeyboardInterrupt


def a_network(**changes):
    values = {"name": "lab", "scope": "qemu", "driver": "qemu", "created": "2026-01-02T03:04:05Z"}
    return Network(**{**values, "subnet": "10.20.30.0/24", **changes})


def pid_of(networks, network):
    with open(networks._path(network, hub.PID), encoding="ascii") as stream:
        return int(stream.read())


def wait_for_end(networks, network):
    """Wait until the hub has ended by itself."""
    return any(not networks.runs(network) for dummy in Deadline(30).pauses())


@pytest.fixture
def networks(tmp_path):
    made = SegmentNetworks(Runtime(run, Steps()), DataDirectory(str(tmp_path / "data")).scope("qemu"))
    yield made
    for name in ("lab", "other"):
        with contextlib.suppress(FileNotFoundError):
            made.remove(a_network(name=name))


@pytest.fixture
def quiet_host(monkeypatch):
    """A host with one interface and one route beyond it."""
    there = {"eth0": Link("eth0", 2, "", "", 1500, True, "02:00:00:00:00:01", ("192.168.1.7/24",))}
    routes = [Route("default", "eth0", "192.168.1.1"), Route("10.50.0.0/16", "tun0", "")]
    monkeypatch.setattr(segment_networks.links, "read_links", lambda runtime: there)
    monkeypatch.setattr(segment_networks.links, "read_routes", lambda runtime: routes)
    monkeypatch.setattr(segment_networks, "find_program", lambda name: "/sbin/ip")
    return monkeypatch


class TestSettle:
    def test_a_subnet_is_chosen_that_nothing_uses(self, networks, quiet_host):
        chosen = []
        for name in ("a", "b", "c"):
            network = a_network(name=name, subnet="")
            networks.fill_in(network, chosen)
            chosen.append(network)
        assert len({network.subnet for network in chosen}) == 3
        assert all(network.dhcp_range and network.domain == "minicloud" for network in chosen)

    def test_the_same_network_gets_the_same_again(self, networks, quiet_host):
        first, second = a_network(subnet=""), a_network(subnet="")
        networks.fill_in(first, [])
        networks.fill_in(second, [])
        assert first == second

    @pytest.mark.parametrize("subnet", ["10.0.2.0/25", "192.168.1.0/24", "10.50.7.0/24", "10.99.0.0/24"])
    def test_what_is_taken_is_refused(self, networks, quiet_host, subnet):
        with pytest.raises(InUse):
            networks.fill_in(a_network(subnet=subnet), [a_network(name="there", subnet="10.99.0.0/16")])

    def test_without_the_program_ip_its_own_networks_differ_all_the_same(self, networks, monkeypatch):
        monkeypatch.setattr(segment_networks, "find_program", lambda name: None)
        network = a_network(subnet="")
        networks.fill_in(network, [])
        with pytest.raises(InUse):
            networks.fill_in(a_network(subnet=network.subnet), [a_network(name="x", subnet=network.subnet)])

    @pytest.mark.parametrize(
        "changes",
        [
            {"mode": "bridged"},
            {"subnet6": "fd00::/64"},
            {"host_access": False},
            {"mode": "isolated", "host_access": True},
        ],
        ids=["bridged", "subnet6", "closed", "isolated"],
    )
    def test_what_takes_root_is_refused(self, networks, changes):
        with pytest.raises(MissingRequirement, match="become"):
            networks.fill_in(a_network(**changes), [])

    def test_a_route_that_came_later_is_a_problem(self, networks, quiet_host):
        assert networks.problems(a_network()) == []
        assert "tun0" in networks.problems(a_network(subnet="10.50.3.0/24"))[0]


class TestHubOfANetwork:
    def test_without_guests_nothing_runs(self, networks):
        assert not networks.is_up(a_network())
        networks.apply(a_network(), HOSTS)
        assert networks.is_up(a_network())
        assert not networks.runs(a_network())
        assert networks.drift(a_network(), HOSTS) == []

    def test_it_knows_the_instances(self, networks):
        networks.apply(a_network(mode="isolated"), HOSTS)
        with open(networks._path(a_network(), hub.CONFIG), encoding="utf-8") as stream:
            known = hub.Config.from_text(stream.read())
        assert known.guests == {MAC: ("one", "10.20.30.64"), OTHER: ("two", "10.20.30.65")}
        assert not known.upstream
        assert networks.drift(a_network(mode="isolated"), HOSTS[:1]) != []

    def test_nothing_is_done_twice(self, networks):
        networks.apply(a_network(), HOSTS)
        networks.runtime.report.steps.clear()
        networks.apply(a_network(), HOSTS)
        assert networks.runtime.report.steps == []

    def test_it_runs_as_long_as_somebody_is_on_it(self, networks):
        network = a_network()
        networks.apply(network, HOSTS)
        first, second = networks.join(network), networks.join(network)
        pid = pid_of(networks, network)
        assert networks.runs(network) and networks.used(network)
        os.close(first)
        assert networks.runs(network)
        networks.apply(network, HOSTS)
        assert pid_of(networks, network) == pid
        os.close(second)
        assert wait_for_end(networks, network)
        assert not networks.used(network)
        os.close(networks.join(network))
        assert wait_for_end(networks, network)

    def test_one_that_was_killed_is_started_again(self, networks):
        network = a_network()
        networks.apply(network, HOSTS)
        member = networks.join(network)
        try:
            handle = os.pidfd_open(pid_of(networks, network))
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            assert select.select([handle], [], [], 20)[0]
            os.close(handle)
            assert "does not run" in networks.drift(network, HOSTS)[0]
            networks.apply(network, HOSTS)
            assert networks.drift(network, HOSTS) == []
        finally:
            os.close(member)

    def test_another_version_of_the_program_takes_over(self, networks):
        network = a_network()
        networks.apply(network, HOSTS)
        member = networks.join(network)
        try:
            pid = pid_of(networks, network)
            with open(networks._path(network, hub.PROGRAM), "a", encoding="utf-8") as stream:
                stream.write("# older\n")
            networks.apply(network, HOSTS)
            assert networks.runs(network) and pid_of(networks, network) != pid
        finally:
            os.close(member)

    def test_a_guest_of_another_program_counts_by_its_socket(self, networks, tmp_path, monkeypatch):
        network = a_network()
        networks.apply(network, HOSTS)
        own, dummy = networks.sockets(network, MAC)
        monkeypatch.chdir(os.path.dirname(own))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as guest:
            guest.bind(os.path.basename(own))
            assert networks.used(network)
            os.close(networks.join(network))
            # Whatever holds its lock has gone: the hub has looked for sockets before it ends.
            guest.settimeout(20)
            guest.sendto(b"\xff" * 6 + bytes.fromhex("525400000001") + bytes(50), hub.SOCKET)
            assert networks.runs(network)
        assert not networks.used(network)

    def test_networks_are_apart(self, networks):
        networks.apply(a_network(), HOSTS)
        networks.apply(a_network(name="other", subnet="10.20.31.0/24"), [])
        assert networks.sockets(a_network(), MAC)[1] != networks.sockets(a_network(name="other"), MAC)[1]

    def test_a_long_path_does_not_matter(self, tmp_path):
        long = tmp_path.joinpath(*["d" * 60] * 3)
        networks = SegmentNetworks(Runtime(run, Steps()), DataDirectory(str(long)).scope("qemu"))
        networks.apply(a_network(), HOSTS)
        member = networks.join(a_network())
        try:
            assert networks.runs(a_network())
        finally:
            os.close(member)
            networks.remove(a_network())

    def test_nobody_else_gets_at_it(self, networks):
        networks.apply(a_network(), HOSTS)
        member = networks.join(a_network())
        try:
            directory = os.path.dirname(networks._path(a_network(), hub.SOCKET))
            assert os.stat(directory).st_mode & 0o077 == 0
            for name in os.listdir(directory):
                assert os.stat(os.path.join(directory, name)).st_mode & 0o077 == 0, name
        finally:
            os.close(member)

    def test_nothing_is_left_of_one_that_is_removed(self, networks):
        network = a_network()
        networks.apply(network, HOSTS)
        member = networks.join(network)
        networks.remove(network)
        os.close(member)
        assert not networks.runs(network) and not networks.is_up(network)
        assert os.listdir(os.path.dirname(networks._path(network, hub.SOCKET))) == []
        networks.remove(network)

    @pytest.mark.parametrize("step", ["hub_config", "hub_program", "hub", "hub_started"])
    def test_a_run_that_ends_anywhere_leaves_nothing_that_stays(self, networks, step):
        network = a_network()
        networks.runtime.report.fatal = step
        with pytest.raises(KeyboardInterrupt):
            networks.apply(network, HOSTS)
            networks.join(network)
        assert wait_for_end(networks, network)
        networks.runtime.report.fatal = ""
        networks.apply(network, HOSTS)
        os.close(networks.join(network))
        assert wait_for_end(networks, network)

    def test_leases_are_what_the_hub_has_noted(self, networks):
        network = a_network()
        networks.apply(network, HOSTS)
        assert networks.leases([network]) == {}
        with open(networks._path(network, hub.LEASES), "w", encoding="ascii") as stream:
            stream.write(f"9999999999 {MAC} 10.20.30.64 one *\n1 {OTHER} 10.20.30.65 two *\n")
        assert networks.leases([network]) == {MAC: ("10.20.30.64",)}
