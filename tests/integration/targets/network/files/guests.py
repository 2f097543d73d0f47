# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Networks with guests on them that really run, in network namespaces of its own.

Arguments: the data directory, the image of a small guest, the driver, and which parts to try besides making guests
(none: all).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import typing as t

# Beside this file.
from mechanism import (
    HOST,
    HOST_IP,
    OUTSIDE,
    OUTSIDE_IP,
    UPLINK,
    Echo,
    Test,
    check,
    end_world,
    in_namespace,
    make_world,
    refused,
    servers,
    setns,
    sh,
    traces,
)

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._errors import InUse, InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._reconcile import readdress
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.instances import reconcile_instance
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import parse_wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime

LAB, LAB6, CELL6 = "10.80.0", "fd00:80::/64", "fd00:81::/64"
HOST_IP6, OUTSIDE_IP6 = "2001:db8:80::2", "2001:db8:80::1"


class Guests(Test):
    def __init__(self, data_dir: str, image: str, driver: str) -> None:
        super().__init__(data_dir)
        self.image = image
        self.driver = driver

    def guest(self, name: str, **wish: t.Any) -> t.Any:
        params = {"name": name, "image": self.image, "memory": "128M", "user": "debian", "timeout": 600, **wish}
        options = {"accelerator": "tcg"}
        runtime = Runtime(run)
        outcome = reconcile_instance(parse_wish(params), runtime, self.data, self.driver, options)
        self.warned = runtime.report.warnings
        return outcome

    def inside(self, name: str, command: str) -> str:
        """What a command in a guest says, and how it ended."""
        view = self.guest(name).view
        login = view["ansible_vars"]
        argv = ["ssh", *login["ansible_ssh_common_args"].split(), "-o", "BatchMode=yes", "-p", str(view["ssh"]["port"])]
        argv += [f"{view['user']}@{view['ssh']['host']}", f"{command}; echo rc=$?"]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120).stdout

    def address6(self, name: str) -> str:
        """The IPv6 address of a guest as soon as it has one."""
        for dummy in Deadline(60).pauses():
            for address in self.guest(name).view["networks"][0]["addresses"]:
                if ":" in address:
                    return str(address)
        check(False, f"{name} has no IPv6 address")
        return ""

    def address(self, name: str) -> str:
        return str(self.guest(name).view["networks"][0]["addresses"][0])


def banner(namespace: str, ip: str, port: int, seconds: float = 10.0) -> str:
    """What an ssh server says first, or empty where none can be reached."""

    def connect() -> str:
        try:
            with socket.create_connection((ip, port), seconds) as connection:
                connection.settimeout(seconds)
                return connection.recv(100).decode(errors="replace")
        except OSError:
            return ""

    return in_namespace(namespace, connect) or ""


def refusals(test: Guests) -> None:
    unusable = {f"{LAB}.1": "this host's own", "10.81.0.5": "outside the subnet", f"{LAB}.255": "first or last"}
    for address, why in unusable.items():
        with refused(InvalidOption, why):
            test.guest("web", networks=[{"name": "lab", "address": address}])
    with refused(InvalidOption, "there is no network 'nowhere'"):
        test.guest("web", networks=[{"name": "nowhere"}])
    check(test.scope.names() == [], "a refused instance has left something")


def launch(test: Guests) -> None:
    made = test.guest("web", ports=["8080:22"], networks=[{"name": "lab"}, {"mode": "manual"}])
    check("ensure_network" in made.actions, f"the default network was not made: {made.actions}")
    nics = made.view["networks"]
    check([nic["name"] for nic in nics] == ["lab", "default"], f"{nics}")
    check(nics[0]["addresses"] == [f"{LAB}.64"], f"web has the addresses {nics}")
    check(made.view["ssh"]["host"] == f"{LAB}.64" and made.view["ssh"]["port"] == 22, f"{made.view['ssh']}")
    again = test.guest("web", ports=["8080:22"], networks=[{"name": "lab"}, {"mode": "manual"}])
    check(not again.changed and again.view == made.view, f"the second run did {again.actions}")
    with refused(InUse, "kept for web"):
        test.guest("db", networks=[{"name": "lab", "address": f"{LAB}.64"}])
    with refused(InUse, "web .* has it"):
        test.guest("db", networks=[{"name": "lab", "mac": nics[0]["mac"]}])
    db = test.guest("db", networks=[{"name": "lab", "address": f"{LAB}.10"}])
    check(db.view["addresses"] == [f"{LAB}.10"], f"db has the addresses {db.view['addresses']}")
    iso = test.guest("iso", networks=[{"name": "cell"}])
    check(iso.view["addresses"] != [], "iso has no address")
    with refused(InUse, "instances are on it: db, web"):
        test.network(state="absent")


def passages(test: Guests) -> None:
    outside = Echo(OUTSIDE, OUTSIDE_IP, 80)
    get = f"nc -w 3 {OUTSIDE_IP} 80 </dev/null"
    check(HOST_IP in test.inside("web", get), "web cannot reach the outside")
    check(HOST_IP not in test.inside("iso", get), "iso can reach the outside")
    check("rc=0" in test.inside("web", f"ping -c 1 -W 5 {LAB}.10"), "web cannot reach db")
    check("rc=0" not in test.inside("iso", f"ping -c 1 -W 2 {LAB}.10"), "iso can reach db")
    check("rc=0" not in test.inside("web", f"ping -c 1 -W 2 {test.address('iso')}"), "web can reach iso")
    for name in ("db", "db.minicloud", "DB"):
        # The small guest asks whoever configured its last interface, unless told whom.
        said = test.inside("web", f"nslookup {name} {LAB}.1")
        check(f"{LAB}.10" in said, f"{name} is not known to web: {said}")
    sh(f"ip route add 10.80.0.0/16 via {HOST_IP}", OUTSIDE)
    check(banner(OUTSIDE, f"{LAB}.64", 22, 2) == "", "the outside can reach web")
    check(banner(HOST, f"{LAB}.64", 22).startswith("SSH"), "the host cannot reach web")
    outside.close()


def ports(test: Guests) -> None:
    check(banner(HOST, "127.0.0.1", 8080).startswith("SSH"), "the forwarded port does not lead to web")
    check(banner(OUTSIDE, HOST_IP, 8080, 2) == "", "a port of the loopback address is open to the outside")
    changed = test.guest("web", ports=["0.0.0.0:8081:22"])
    check(changed.actions == ["set_ports"], f"{changed.actions}")
    check(banner(OUTSIDE, HOST_IP, 8081).startswith("SSH"), "the new port does not lead to web")
    check(banner(HOST, HOST_IP, 8081).startswith("SSH"), "the new port is not there on the host")
    check(banner(HOST, "127.0.0.1", 8080, 2) == "", "the old port is still there")
    with refused(InUse, "8081/tcp of 127.0.0.1 is taken: the instance web has it"):
        test.guest("db", ports=["8081:22"])
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", 8082))
        holder.listen()
        with refused(InUse, "python.* listens on it"):
            test.guest("db", ports=["8082:22"])


def damage(test: Guests) -> None:
    bridge = test.record().interface
    sh(f"ip link delete {bridge}")
    check(banner(HOST, f"{LAB}.64", 22, 2) == "", "the deletion of the bridge has no effect, so this tests nothing")
    check(any("is not on the bridge" in each or "is missing" in each for each in test.drift()), f"{test.drift()}")
    test.network()
    check(test.drift() == [], f"{test.drift()}")
    check(banner(HOST, f"{LAB}.64", 22).startswith("SSH"), "web is not back on the bridge")
    for pid in servers():
        os.kill(pid, signal.SIGKILL)
    test.guest("db", state="restarted", force=True)
    check(test.drift() == [], f"starting an instance has not brought the server back: {test.drift()}")
    check("rc=0" in test.inside("db", "nslookup web"), "names are gone")


def ipv6(test: Guests) -> None:
    """The networks get IPv6 while their guests run, and lose it again."""
    for name, subnet6 in (("lab", LAB6), ("cell", CELL6)):
        changed = test.network(name=name, subnet6=subnet6)
        check(changed.actions == ["set_subnet6"], f"{changed.actions}")
    web, db, iso = (test.address6(name) for name in ("web", "db", "iso"))
    check(web.startswith("fd00:80::") and iso.startswith("fd00:81::"), f"web has {web}, and iso {iso}")
    check(test.guest("web").view["ssh"]["host"] == f"{LAB}.64", "ssh leads elsewhere")
    check(not test.guest("web").changed, "a run had something to do")
    check(f"inet6 {web}/64" in test.inside("web", "ip addr"), "that is not the address of web")

    outside = Echo(OUTSIDE, OUTSIDE_IP6, 80)
    get = f"nc -w 3 {OUTSIDE_IP6} 80 </dev/null"
    check(banner(HOST, web, 22).startswith("SSH"), "the host cannot reach web")
    check(banner(HOST, iso, 22).startswith("SSH"), "the host cannot reach iso")
    check("rc=0" in test.inside("web", f"ping6 -c 1 -w 5 {db}"), "web cannot reach db")
    said = test.inside("web", get)
    check(HOST_IP6 in said, f"web cannot reach the outside with the address of the host: {said}")
    check(HOST_IP6 not in test.inside("iso", get), "iso can reach the outside")
    check("rc=0" not in test.inside("iso", f"ping6 -c 1 -w 2 {db}"), "iso can reach db")
    check("rc=0" not in test.inside("web", f"ping6 -c 1 -w 2 {iso}"), "web can reach iso")
    check(banner(OUTSIDE, web, 22, 2) == "" and banner(OUTSIDE, iso, 22, 2) == "", "the outside can reach guests")
    asking = f"nslookup -type=aaaa db.minicloud {LAB}.1"
    # The server takes a name to be an address's once that has answered it.
    known = any(db in test.inside("web", asking) for dummy in Deadline(60).pauses(longest=2))
    check(known, f"db is not known to web by its IPv6 address: {test.inside('web', asking)}")
    outside.close()
    for name in ("lab", "cell"):
        test.network(name=name, subnet6="")
    check(test.guest("web").view["networks"][0]["addresses"] == [f"{LAB}.64"], "an address of a subnet that has gone")
    check(test.drift() == [], f"{test.drift()}")


def addresses(test: Guests) -> None:
    with refused(InUse, "kept for db"):
        test.guest("web", networks=[{"name": "lab", "address": f"{LAB}.10"}, {"mode": "manual"}])
    changed = test.guest("web", networks=[{"name": "lab", "address": f"{LAB}.77"}, {"mode": "manual"}])
    check(changed.actions == ["set_networks"], f"{changed.actions}")
    # It has the new one when the run has ended.
    check(changed.view["networks"][0]["addresses"] == [f"{LAB}.77"], f"{changed.view['networks']}")
    check(changed.view["ssh"]["host"] == f"{LAB}.77", f"{changed.view['ssh']}")
    check(banner(HOST, f"{LAB}.77", 22).startswith("SSH"), "web does not answer at its new address")
    check(banner(HOST, f"{LAB}.64", 22, 2) == "", "web answers at its old address still")
    check(banner(OUTSIDE, HOST_IP, 8081).startswith("SSH"), "the port did not follow the address")
    # It keeps the address that it has when no particular one is asked for any more.
    plain = test.guest("web", networks=[{"name": "lab"}, {"mode": "manual"}])
    check(plain.actions == ["set_networks"], f"{plain.actions}")
    check(plain.view["networks"][0]["addresses"] == [f"{LAB}.77"], f"{plain.view['networks']}")
    # One that cannot be told, for nobody can log in, finds its cable pulled out; this guest does not mind that.
    readdress._PLUGGED = 5.0
    key = test.data.keys
    os.rename(key, f"{key}.away")
    try:
        deaf = test.guest("db", networks=[{"name": "lab", "address": f"{LAB}.64"}])
    finally:
        os.rename(f"{key}.away", key)
    check(deaf.actions == ["set_networks"], f"{deaf.actions}")
    check(any("does not take on the address" in each for each in test.warned), f"{test.warned}")
    check(deaf.view["ssh"]["host"] == f"{LAB}.10", f"{deaf.view['ssh']}")
    check(banner(HOST, f"{LAB}.10", 22).startswith("SSH"), "db is not found where it was")
    started = test.guest("db", state="restarted", force=True)
    check(
        started.view["addresses"] == [f"{LAB}.64"], f"db did not get what web had before: {started.view['addresses']}"
    )


def remove(test: Guests) -> None:
    for name in ("web", "db", "iso"):
        test.guest(name, state="absent")
    for name in ("lab", "cell"):
        test.network(name=name, state="absent")


def main() -> None:
    end_world()
    make_world()
    try:
        with open(f"/run/netns/{HOST}", encoding="ascii") as handle:
            setns(handle.fileno())
        sh(f"ip addr add {HOST_IP6}/64 dev {UPLINK} nodad; ip -6 route add default via {OUTSIDE_IP6}")
        sh(f"ip addr add {OUTSIDE_IP6}/64 dev out0 nodad; ip -6 route add fd00:80::/31 via {HOST_IP6}", OUTSIDE)
        before = traces()
        test = Guests(*sys.argv[1:4])
        try:
            test.network(subnet=f"{LAB}.0/24")
            test.network(name="cell", mode="isolated")
            for part in (refusals, launch, passages, ports, damage, ipv6, addresses):
                if sys.argv[4:] and part is not launch and part.__name__ not in sys.argv[4:]:
                    continue
                start = time.monotonic()
                part(test)
                print(f"== {part.__name__}: {time.monotonic() - start:.0f} s", flush=True)
        finally:
            with contextlib.suppress(Exception):
                remove(test)
        check(traces() == before, f"something is left over: {traces()} instead of {before}")
    finally:
        end_world()


if __name__ == "__main__":
    main()
