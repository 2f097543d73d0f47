# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import CommandFailed, InUse, InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import dhcp, leases, ports
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.dhcp import Reservation, Served, Server
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime

SERVED = Served("mcb01234567", "10.20.30.1", "255.255.255.0", "10.20.30.64", "10.20.30.254", "minicloud")


def lines(**changes):
    return dhcp.config_text(SERVED._replace(**changes)).splitlines()


def test_a_server_is_on_its_bridge_only():
    assert {"interface=mcb01234567", "except-interface=lo", "bind-interfaces"} <= set(lines())
    assert "dhcp-range=10.20.30.64,10.20.30.254,255.255.255.0,3600" in lines()


def test_it_does_not_pass_on_what_an_isolated_network_asks():
    assert "no-resolv" not in lines()
    assert {"no-resolv", "dhcp-option=option:router"} <= set(lines(upstream=False))


def test_ipv6_and_mtu_are_told_where_there_are_such():
    assert not [line for line in lines() if "mtu" in line or "ra" in line.split("=")[0].split("-")]
    told = lines(subnet6="fd12::/64", mtu=1400)
    assert "dhcp-range=fd12::,ra-stateless,ra-names,64,3600" in told
    assert {"enable-ra", "dhcp-option=option:mtu,1400", "ra-param=mcb01234567,mtu:1400,0,0"} <= set(told)


def test_hosts_are_told_with_address_and_both_names():
    hosts = [Reservation("web", "52:54:00:00:00:01", "10.20.30.64"), Reservation("bare", "52:54:00:00:00:02", "")]
    assert dhcp.hosts_texts("lab.internal", hosts) == (
        "52:54:00:00:00:01,10.20.30.64,web\n",
        "10.20.30.64 web.lab.internal web\n",
    )


@pytest.mark.parametrize(
    ("text", "domain"), [("minicloud", "minicloud"), ("Lab.Internal.", "lab.internal"), ("a", "a")]
)
def test_domains(text, domain):
    assert dhcp.check_domain(text) == domain


@pytest.mark.parametrize("text", ["", ".", "a..b", "-a", "a-", "a b", "a/b", "a\nserver=1.2.3.4", "x" * 64, "a." * 120])
def test_what_is_no_domain(text):
    with pytest.raises(InvalidOption, match="domain"):
        dhcp.check_domain(text)


class TestIdentity:
    """Which process the server is."""

    @pytest.fixture
    def directory(self, tmp_path):
        return str(tmp_path)

    @pytest.fixture
    def process(self, directory):
        """A process that looks like the server of the directory."""
        script = "import sys; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()"
        argv = [sys.executable, "-c", script, f"--conf-file={directory}/dnsmasq.conf"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as found:
            found.stdout.read(1)
            yield found
            found.stdin.close()

    def note(self, directory, pid):
        with open(os.path.join(directory, "dnsmasq.pid"), "w", encoding="ascii") as stream:
            stream.write(f"{pid}\n")

    def test_it_is_who_has_the_id_and_our_file(self, directory, process):
        self.note(directory, process.pid)
        assert Server(Runtime(None), directory, "mcb01234567").pid() == process.pid

    @pytest.mark.parametrize("text", ["", "none", "0", "-1", "99999999"])
    def test_it_does_not_run_where_the_id_leads_nowhere(self, directory, text):
        self.note(directory, text)
        assert Server(Runtime(None), directory, "mcb01234567").pid() == 0

    def test_another_process_that_got_the_id_is_left_alone(self, directory):
        self.note(directory, os.getpid())
        server = Server(Runtime(None), directory, "mcb01234567")
        assert server.pid() == 0
        server.stop()

    def test_it_is_found_and_ended_where_the_id_is_lost(self, directory, process):
        server = Server(Runtime(None), directory, "mcb01234567")
        assert server.pid() == 0
        server.stop()
        assert process.wait(10) == -15

    def test_one_that_was_started_through_a_link_to_the_directory_is_ours(self, directory, process, tmp_path):
        there = tmp_path / "there"
        there.mkdir()
        for name in ("link", "dnsmasq.conf"):
            (there / name).symlink_to(directory if name == "link" else os.path.join(directory, "dnsmasq.conf"))
        self.note(str(there), process.pid)
        with open(os.path.join(directory, "dnsmasq.conf"), "w", encoding="ascii"):
            pass
        server = Server(Runtime(None), str(there / "link"), "mcb01234567")
        self.note(directory, process.pid)
        assert server.pid() == process.pid

    def test_one_of_another_directory_is_left_alone(self, directory, process, tmp_path):
        other = tmp_path / "other"
        other.mkdir()
        self.note(str(other), process.pid)
        Server(Runtime(None), str(other), "mcb01234567").stop()
        assert process.poll() is None


class TestStart:
    def server(self, tmp_path, monkeypatch, answer):
        asked = []

        def run(argv, **dummy):
            asked.append(argv)
            return answer

        monkeypatch.setattr(dhcp, "program", lambda runtime: "dnsmasq")
        return Server(Runtime(run), str(tmp_path), "mcb01234567"), asked

    def test_it_is_told_its_files(self, tmp_path, monkeypatch):
        server, asked = self.server(tmp_path, monkeypatch, Completed(0, "", ""))
        server.start(SERVED)
        assert asked == [[
            "dnsmasq", f"--conf-file={tmp_path}/dnsmasq.conf", f"--pid-file={tmp_path}/dnsmasq.pid",
            f"--dhcp-leasefile={tmp_path}/leases",
        ]]  # fmt: skip
        assert (tmp_path / "dnsmasq.conf").read_text() == dhcp.config_text(SERVED)
        assert oct((tmp_path / "leases").stat().st_mode)[-3:] == "600"

    def test_who_holds_its_port_is_named(self, tmp_path, monkeypatch):
        failed = Completed(2, "", "dnsmasq: failed to create listening socket for 10.20.30.1: Address already in use")
        server, dummy = self.server(tmp_path, monkeypatch, failed)
        monkeypatch.setattr(ports, "holder", lambda port, protocol: f"unbound (process {port})")
        with pytest.raises(InUse, match=r"port 53 of 10\.20\.30\.1 is taken by unbound \(process 53\)"):
            server.start(SERVED)

    def test_other_failures_are_told_in_its_words(self, tmp_path, monkeypatch):
        server, dummy = self.server(tmp_path, monkeypatch, Completed(1, "", "dnsmasq: unknown user or group: dnsmasq"))
        with pytest.raises(CommandFailed, match="unknown user or group"):
            server.start(SERVED)


def test_leases_that_contradict_what_is_kept_are_dropped(tmp_path):
    text = (
        "1700000000 52:54:00:00:00:01 10.20.30.64 web *\n"
        "1700000000 52:54:00:00:00:09 10.20.30.65 old *\n"
        "duid 00:01:00:01:2c:11:22:33:52:54:00:00:00:01\n"
    )
    (tmp_path / "leases").write_text(text)
    server = Server(Runtime(None), str(tmp_path), "mcb01234567")
    server.forget_offline(lambda mac, address: mac != "52:54:00:00:00:09")
    assert (tmp_path / "leases").read_text() == text.replace(text.splitlines(keepends=True)[1], "")
    assert [each.address for each in leases.read_leases(str(tmp_path))] == ["10.20.30.64"]


def test_leases_are_active_until_they_end(tmp_path):
    (tmp_path / "leases").write_text(
        "1 52:54:00:00:00:01 10.20.30.64 web *\n"
        "0 52:54:00:00:00:02 10.20.30.65 db *\n"
        "99999999999 52:54:00:00:00:03 10.20.30.66 * *\n"
        "99999999999 52:54:00:00:00:03 10.20.30.67 * *\n"
        "not a lease\n"
    )
    assert leases.active(leases.read_leases(str(tmp_path))) == {
        "52:54:00:00:00:02": ("10.20.30.65",),
        "52:54:00:00:00:03": ("10.20.30.66", "10.20.30.67"),
    }
    assert leases.read_leases(str(tmp_path / "nowhere")) == []


def test_a_server_that_its_program_has_lost_is_ended():
    script = ["-c", "read line", "--keep-in-foreground", "--interface=mcltest1"]
    lost, other = (
        subprocess.Popen([name, *script], executable="/bin/sh", stdin=subprocess.PIPE) for name in ("dnsmasq", "other")
    )
    with lost, other:
        try:
            assert not dhcp.end_orphan("mcltest")
            assert dhcp.end_orphan("mcltest1")
            assert lost.wait(10) < 0
            assert other.poll() is None
            assert not dhcp.end_orphan("mcltest1")
        finally:
            lost.kill()
            other.kill()


def test_lines_that_are_no_leases_are_passed_over(tmp_path):
    good = "0 52:54:00:00:00:01 10.20.30.64 web *"
    bad = [
        "0 52:54:00:00:00:01 10.20 web *",
        "0 52:54:00:00:00:01 \0.2.3.4 web *",
        "² 52:54:00:00:00:01 10.20.30.65 w *",
    ]
    (tmp_path / "leases").write_text("\n".join([*bad, good, f"{'9' * 5000} 52:54:00:00:00:02 10.20.30.66 x *"]))
    assert [each.address for each in leases.read_leases(str(tmp_path))] == ["10.20.30.64", "10.20.30.66"]
