# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Containers of LXD on bridged networks, and LXD's networks beside other firewalls.

As bridged.py does, in namespaces HOST and LAN; an LXD of the test's own runs in HOST.

Arguments: a container image of a small guest, and the directory with lxd_server.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import typing as t

# Beside this file.
from bridged import _BANNER, PORT, Test, check, ip, links, raised, snapshot

from ansible_collections.minicloud.local.plugins.module_utils import _command
from ansible_collections.minicloud.local.plugins.module_utils._errors import InUse, InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.instances import reconcile_instance
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.network_listing import list_networks
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.networks import (
    parse_network,
    reconcile_network,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import parse_wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime

# What Docker's rules come to, and those of somebody who has no place for others.
DOCKER = """
table ip filter {
  chain DOCKER-USER { }
  chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; }
}
"""
STRICT = """
table inet strict {
  chain strictly { type filter hook forward priority 10; policy drop; }
}
"""


def main() -> None:
    image, servers = sys.argv[1:3]
    sys.path.insert(0, servers)
    from lxd_server import Server, sweep

    host, lan = f"mxh{os.getpid()}", f"mxl{os.getpid()}"
    directory = tempfile.mkdtemp(prefix="minicloud-on-lxd-")
    os.chmod(directory, 0o755)
    server = Server(directory, "lxd", host)
    try:
        ip(f"netns add {host}")
        ip(f"netns add {lan}")
        server.start()
        done = subprocess.run(
            ["ip", "netns", "exec", host, sys.executable, __file__, "within", lan, directory, image],
            env={**os.environ, "LXD_DIR": server.directory},
            check=False,
        )
        if done.returncode:
            sys.exit("the tests in the namespace failed")
    finally:
        server.end()
        sweep([server])
        for name in (host, lan):
            subprocess.run(["ip", "netns", "delete", name], check=False)
        shutil.rmtree(directory, ignore_errors=True)


class OnLxd(Test):
    def reconcile(self, name: str, **wish: t.Any) -> t.Any:
        params = {"name": name, "image": self.image, "instance_type": "container", "memory": "128M", **wish}
        return reconcile_instance(parse_wish({"user": "debian", **params}), Runtime(_command.run), self.data, "lxd")

    def network_module(self, **wish: t.Any) -> t.Any:
        return reconcile_network(parse_network(wish), Runtime(_command.run), self.data, "lxd")

    def listed(self) -> dict[str, t.Any]:
        return list_networks(Runtime(_command.run), self.data, ["lxd"])[0]

    def attached(self) -> None:
        """A container gets its address from the LAN, which reaches it; on a bridge this host does, too."""
        for what, words in (
            ("existing bridge", {"parent": "br7"}),
            ("bridge", {"confirm_bridge": True}),
            ("macvtap", {"bridge_type": "macvtap"}),
        ):
            with self.fresh(f"a container on a network of the kind {what}"), self.dhcp() as leases:
                if what == "existing bridge":
                    self.own_bridge()
                before, had = links(), snapshot(PORT)
                try:
                    self.container(what, {"parent": PORT, **words}, leases)
                finally:
                    self.reconcile("guest", state="absent")
                    self.network_module(name="lan", state="absent")
                check(links() == before, f"the links are {links()}, not {before}")
                check(snapshot(PORT) == had, f"afterwards: {snapshot(PORT)} instead of {had}")
                if what == "existing bridge":
                    ip("link delete br7")

    def container(self, what: str, words: dict[str, t.Any], leases: str) -> None:
        if what == "bridge":
            unconfirmed = raised(
                InvalidOption, lambda: self.network_module(name="lan", mode="bridged", parent=words["parent"])
            )
            check("confirm_bridge: true" in str(unconfirmed), str(unconfirmed))
        made = self.network_module(name="lan", mode="bridged", **words)
        check(made.changed, "the network was there already")
        check(not self.network_module(name="lan").changed, "the network is not as it was made")
        check(self.listed()["drift"] == [], f"drift {self.listed()['drift']}")
        seen = what != "macvtap"
        view = self.reconcile("guest", networks=[{"name": "lan"}], ports=["0.0.0.0::22"], wait=seen).view
        address = self.leased(leases, view["networks"][0]["mac"])
        check(self.banner(self.lan, address).startswith("SSH-2.0"), "the container does not answer the LAN")
        port = view["ports"][0]["host_port"]
        for name, host in (("", "127.0.0.1"), (self.lan, "10.77.0.2")):
            check(self.banner(name, host, port).startswith("SSH-2.0"), f"port {port} of {host} does not lead there")
        now = self.reconcile("guest", wait=False)
        check(not now.changed, f"another run had something to do: {now.actions}")
        # LXD knows the address in any case; this host reaches it unless it is beside it.
        check(now.view["networks"][0]["addresses"] == [address], f"addresses {now.view['networks']}, not {address}")
        check(now.view["ssh"]["host"] == (address if seen else ""), f"ssh leads to {now.view['ssh']}")
        self.inside("guest", "ip address add 10.77.0.99/24 dev eth0")
        now = self.reconcile("guest", wait=False)
        check("10.77.0.99" in now.view["addresses"], f"the addresses are out of date: {now.view['addresses']}")
        failure = raised(InUse, lambda: self.network_module(name="lan", state="absent"))
        check("guest" in str(failure), str(failure))
        if what == "bridge":
            self.reconcile("guest", state="stopped", force=True)
            ip(f"link delete {made.view['interface']}")
            check(self.listed()["drift"] != [], "nobody notices that the bridge has gone")
            again = self.reconcile("guest").view
            check(again["ssh"]["host"] == address, f"after its bridge had gone: {again['ssh']}")

    def beside_others(self) -> None:
        """Networks of LXD work beside Docker, and say who is in the way elsewhere."""
        with self.fresh("a network of LXD beside other firewalls"):
            try:
                self.network_module(name="lab", subnet="10.41.9.0/24")
                self.reconcile("guest", networks=[{"name": "lab"}])
                check(self.gets_out(), "the container does not get out")
                self.nft(DOCKER)
                check(not self.gets_out(), "Docker's rules have no effect, so this tests nothing")
                check(
                    self.listed()["drift"] == ["Docker's firewall does not let the network pass."], str(self.listed())
                )
                repaired = self.network_module(name="lab")
                check(repaired.actions == ["repair"] and not repaired.view["problems"], str(repaired))
                check(self.gets_out(), "the container does not get out beside Docker")
                check(not self.network_module(name="lab").changed, "there is more to repair")
                self.nft(STRICT)
                check(not self.gets_out(), "the strict rules have no effect, so this tests nothing")
                problems = " ".join(self.listed()["problems"])
                check("strictly of the table inet strict drops" in problems, f"problems: {problems}")
                self.nft("delete table inet strict")
                check(self.listed()["problems"] == [], "problems that have gone are told")
                self.nft("add table ip mine")
                self.network_module(name="lab", mode="isolated")
                check(not self.gets_out(), "an isolated container gets out")
            finally:
                self.reconcile("guest", state="absent")
                self.network_module(name="lab", state="absent")
            rules = subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
            check("minicloud" not in rules and "mcl" not in rules, f"rules are left over: {rules}")
            check("table ip mine" in rules and "DOCKER-USER" in rules, f"rules of others have gone: {rules}")
            self.nft("flush ruleset")

    def gets_out(self) -> bool:
        return "rc=0" in self.inside("guest", "ping -c 1 -W 2 10.77.0.1 >/dev/null; echo rc=$?")

    @staticmethod
    def nft(text: str) -> None:
        subprocess.run(["nft", "-f", "-"], input=text, check=True, text=True)

    @staticmethod
    def inside(name: str, command: str) -> str:
        argv = ["lxc", "exec", "--project", "minicloud", name, "--", "sh", "-c", command]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout

    @staticmethod
    def banner(namespace: str, address: str, port: int = 22) -> str:
        """What answers, as soon as something does."""
        if namespace:
            argv = ["ip", "netns", "exec", namespace, sys.executable, "-c", _BANNER, address, str(port), "60"]
            return subprocess.run(argv, capture_output=True, text=True, check=False).stdout
        for dummy in Deadline(60).pauses():
            with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=10) as guest:
                return guest.recv(64).decode(errors="replace")
        return ""


def within(lan: str, directory: str, image: str) -> None:
    ip("link set lo up")
    test = OnLxd(lan, directory, os.path.join(directory, "data"), image)
    for part in (test.attached, test.beside_others):
        start = time.monotonic()
        part()
        print(f"== {part.__name__}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["within"]:
        within(*sys.argv[2:5])
    else:
        main()
