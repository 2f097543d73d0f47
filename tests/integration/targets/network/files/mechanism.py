# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes, breaks, repairs and removes networks on the real kernel, in network namespaces of its own.

Argument: the data directory. What stands for a guest here is a namespace with one interface on a network's bridge.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import typing as t

# The collection is found on PYTHONPATH.
from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import load
from ansible_collections.minicloud.local.plugins.module_utils._errors import InUse, InvalidOption, MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import links
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Nic, parse_port
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.network_listing import (
    list_host_interfaces,
    list_networks,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.networks import (
    parse_network,
    reconcile_network,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

Result = t.TypeVar("Result")

HOST, OUTSIDE, GUEST, OTHER = "mctest-host", "mctest-outside", "mctest-guest", "mctest-other"
UPLINK, HOST_IP, OUTSIDE_IP = "up0", "192.0.2.2", "192.0.2.1"

# What Docker's rules come to, as plain nftables.
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

# A guest that sends packets for loopback addresses over its network.
ASTRAY = """
ip route add 127.0.0.0/8 via 10.74.0.1 table 100
ip rule add to 127.0.0.0/8 lookup 100 pref 0
sysctl -qw net.ipv4.conf.all.route_localnet=1
ip rule add lookup local pref 10
ip rule del pref 0 lookup local
"""


class Killer(Reporter):
    """Ends its own process at the step of that number; 0: never."""

    def __init__(self, at: int = 0) -> None:
        super().__init__()
        self.at = at
        self.seen: list[str] = []

    def step(self, name: str) -> None:
        self.seen.append(name)
        if len(self.seen) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def check(holds: bool, what: str) -> None:
    if not holds:
        print(f"FAILED: {what}", flush=True)
        sys.exit(1)


def sh(command: str, namespace: str = "", fail: bool = True) -> str:
    argv = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
    done = subprocess.run([*argv, "sh", "-c", command], capture_output=True, text=True, check=False)
    check(done.returncode == 0 or not fail, f"{command}: {done.stderr}")
    return done.stdout


@contextlib.contextmanager
def refused(error: type[MinicloudError], pattern: str) -> t.Iterator[None]:
    try:
        yield
    except error as exc:
        check(re.search(pattern, str(exc)) is not None, f"the error is not about {pattern!r} but: {exc}")
        print(f"refused: {exc}", flush=True)
        return
    check(False, f"nothing was refused that matches {pattern!r}")


def in_namespace(namespace: str, body: t.Callable[[], Result]) -> Result:
    """What body returns when it runs in a thread that is in another network namespace."""
    found: list[Result] = []

    def work() -> None:
        with open(f"/run/netns/{namespace}", encoding="ascii") as handle:
            setns(handle.fileno())
        found.append(body())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


def setns(handle: int) -> None:
    import ctypes

    check(ctypes.CDLL(None, use_errno=True).setns(handle, 0x40000000) == 0, "setns failed")


class Echo:
    """A TCP server in a namespace that answers each connection with who it is from."""

    def __init__(self, namespace: str, ip: str, port: int) -> None:
        def listen() -> socket.socket:
            server = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((ip, port))
            server.listen(16)
            return server

        self.server = in_namespace(namespace, listen)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, peer = self.server.accept()
                with connection:
                    connection.sendall(peer[0].encode())

    def close(self) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()


def reach(namespace: str, ip: str, port: int, seconds: float = 1.0) -> str:
    """Who the other side says that we are, or empty where it cannot be reached."""

    def connect() -> str:
        try:
            with socket.create_connection((ip, port), seconds) as connection:
                return connection.recv(100).decode()
        except OSError:
            return ""

    return in_namespace(namespace, connect)


class Test:
    def __init__(self, data_dir: str) -> None:
        self.data = DataDirectory(data_dir)
        self.scope = self.data.scope("qemu")

    def network(self, at: int = 0, check_mode: bool = False, **params: t.Any) -> t.Any:
        runtime = Runtime(run, Killer(at))
        outcome = reconcile_network(
            parse_network({"name": "lab", **params}), runtime, self.data, "qemu", None, check_mode
        )
        self.warnings = runtime.report.warnings
        note_bridges()
        return outcome

    def killed(self, at: int, **params: t.Any) -> bool:
        """Run in a child that is killed at a step; whether it got to the end."""
        pid = os.fork()
        if pid == 0:
            try:
                self.network(at, **params)
            except BaseException as exc:
                print(f"the child failed: {exc!r}", flush=True)
                os._exit(3)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        check(os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "a run failed that nobody had killed")
        return not os.WIFSIGNALED(status)

    def instance(self, name: str, address: str, mac: str, running: bool = False, ports: t.Sequence[str] = ()) -> None:
        """The record of an instance on the network; nothing of it runs."""
        self.scope.write(
            Instance(
                name, f"id-of-{name}", "qemu", "qemu", "", "x86_64", 1, 1 << 27, 1 << 30,
                owner="qemu" if running else "", phase="ready", nics=[Nic("lab", mac, lease=address)],
                ports=[parse_port(port) for port in ports],
            )
        )  # fmt: skip

    def drift(self, name: str = "lab") -> list[str]:
        found = list_networks(Runtime(run), self.data, ["qemu"], None, [name])
        check(len(found) == 1, f"{name} is not listed")
        return list(found[0]["drift"])

    def record(self) -> Network:
        network = self.scope.networks.read("lab")
        check(network is not None, "there is no record")
        return t.cast(Network, network)


# The bridges that networks of this test have had: others on this host may be at work too.
SEEN: set[str] = set()


def note_bridges() -> None:
    networks = DataDirectory(sys.argv[1]).scope("qemu").networks.all()[0]
    SEEN.update(network.interface for network in networks)


def traces() -> dict[str, t.Any]:
    """What networks leave on a host: links, rules, processes and files."""
    note_bridges()
    return {
        "links": sorted(links.read_links(Runtime(run))),
        "rules": sh("nft list ruleset"),
        "routes": sh("ip route; ip -6 route"),
        "processes": sorted(servers()),
        "files": sorted(SEEN.intersection(os.listdir("/run/minicloud"))) if os.path.isdir("/run/minicloud") else [],
    }


def servers() -> list[int]:
    """The dnsmasq processes of this test's data directory."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as stream:
            arguments = stream.read().split(b"\0")
            if b"dnsmasq" in arguments[0] and os.fsencode(sys.argv[1]) in b" ".join(arguments):
                found.append(int(pid))
    return found


def life(test: Test) -> None:
    before = traces()
    foreseen = test.network(check_mode=True, domain="lab.internal")
    check(foreseen.changed and foreseen.actions == ["create"], "check mode foresees something else")
    check(traces() == before and not test.scope.networks.names(), "check mode has changed something")
    made = test.network(domain="lab.internal")
    check(made.actions == ["create"] and made.before == {"state": "absent"}, "it was made otherwise")
    check(made.view["subnet"].startswith("10.") and made.view["gateway"].endswith(".1"), "no subnet was chosen")
    check(made.view["drift"] == [] and made.view["problems"] == [], f"something is wrong with it: {made.view}")
    again = test.network(domain="lab.internal")
    check(not again.changed and again.view == made.view, "the second run is not like the first")
    check(again.before == again.after, "a diff where nothing differs")
    check(not test.network(check_mode=True).changed, "check mode sees a change")
    check(len(servers()) == 1, "there is not one dnsmasq")
    status = sh(f"cat /proc/{servers()[0]}/status")
    check(re.search(r"^Uid:\s+0\b", status, re.MULTILINE) is None, "dnsmasq is root")

    changed = test.network(
        mode="isolated", mtu=1400, dhcp_range=made.view["gateway"][:-1] + "100-" + made.view["gateway"][:-1] + "120"
    )
    check(changed.actions == ["set_mode", "set_dhcp_range", "set_mtu"], f"it was changed otherwise: {changed.actions}")
    check(test.drift() == [] and len(servers()) == 1, "the changed network is not as it should be")
    check("mtu 1400" in sh(f"ip link show {test.record().interface}"), "the bridge has another mtu")
    moved = test.network(subnet="10.77.5.0/24", mode="nat")
    check(moved.view["dhcp_range"] == "10.77.5.64-10.77.5.254", "the range did not follow the subnet")
    check("10.77.5.1/24" in sh(f"ip addr show {test.record().interface}"), "the bridge has another address")
    check(made.view["gateway"] not in sh(f"ip addr show {test.record().interface}"), "the bridge has the old address")

    test.instance("web", "10.77.5.64", "52:54:00:00:00:01")
    with refused(InUse, "instances are on it: web"):
        test.network(state="absent")
    test.scope.remove("web")
    gone = test.network(state="absent")
    check(gone.actions == ["remove"] and gone.view is None, "it was removed otherwise")
    check(not test.network(state="absent").changed, "it was removed twice")
    check(traces() == before, f"something is left over: {traces()} instead of {before}")
    print("life: made, changed, removed", flush=True)


def refusals(test: Test) -> None:
    with refused(InUse, r"collides with 192\.0\.2\.0/24: that is the subnet of the interface up0"):
        test.network(subnet="192.0.2.0/25")
    sh("ip route add 10.66.0.0/16 via 192.0.2.1")
    with refused(InUse, r"collides with 10\.66\.0\.0/16: that is the route of up0"):
        test.network(subnet="10.66.7.0/24")
    with refused(InvalidOption, "not within the subnet"):
        test.network(subnet="10.67.7.0/24", dhcp_range="10.68.0.1-10.68.0.5")
    with refused(InvalidOption, "mtu 100"):
        test.network(mtu=100)
    with refused(InvalidOption, "domain"):
        test.network(domain="-no-.x")
    with refused(InvalidOption, "bridged to nothing"):
        test.network(mode="bridged")
    check(test.scope.networks.names() == [], "a refused network has left a record")
    # A route that comes later, as a VPN brings it, is reported; routes to half of everything are no collision.
    test.network(subnet="10.67.7.0/24")
    sh("ip route add 0.0.0.0/1 via 192.0.2.1; ip route add 128.0.0.0/1 via 192.0.2.1")
    check(test.network().view["problems"] == [], "a default route in halves was taken for a collision")
    sh("ip route add 10.67.0.0/16 via 192.0.2.1")
    problems = test.network().view["problems"]
    check(len(problems) == 1 and "collides with 10.67.0.0/16, the route of up0" in problems[0], f"{problems}")
    check(len(test.warnings) == 1, "the collision is not warned of")
    sh("ip route del 10.67.0.0/16; ip route del 10.66.0.0/16; ip route del 0.0.0.0/1; ip route del 128.0.0.0/1")
    test.network(state="absent")


def repairs(test: Test) -> None:
    test.network(subnet="10.70.0.0/24", subnet6="fd00:70::/64")
    test.instance("web", "10.70.0.64", "52:54:00:00:00:01")
    check(test.network().actions == ["repair"], "an instance that came by other means is not made known")
    bridge = test.record().interface
    damages = {
        "the bridge deleted": f"ip link delete {bridge}",
        "the bridge down": f"ip link set {bridge} down",
        "an address gone": f"ip addr del 10.70.0.1/24 dev {bridge}",
        "an IPv6 address gone": f"ip addr del fd00:70::1/64 dev {bridge}",
        "a strange address": f"ip addr add 10.99.0.1/24 dev {bridge}",
        "another mtu": f"ip link set {bridge} mtu 1300",
        "the rules gone": f"nft delete table inet minicloud_{bridge}",
        "all rules gone": "nft flush ruleset",
        "a rule more": f"nft insert rule inet minicloud_{bridge} forward accept",
        "a rule less": f"nft flush chain inet minicloud_{bridge} early",
        "dnsmasq killed": "kill -9 {pid}",
        "forwarding off": "echo 0 > /proc/sys/net/ipv4/ip_forward",
        "the notes gone": f"rm {test.scope.networks.directory('lab')}/applied.json",
        "the hosts gone": f"rm -r /run/minicloud/{bridge}; rm {test.scope.networks.directory('lab')}/applied.json",
        "the pid gone": f"rm {test.scope.networks.directory('lab')}/dnsmasq.pid",
        "the pid of another": f"echo $$ > {test.scope.networks.directory('lab')}/dnsmasq.pid",
    }
    for what, command in damages.items():
        sh(command.format(pid=servers()[0]))
        drift = test.drift()
        check(drift != [], f"{what}: no drift is seen")
        check(test.network(check_mode=True).actions == ["repair"], f"{what}: check mode foresees no repair")
        outcome = test.network()
        check(outcome.actions == ["repair"], f"{what}: not repaired but {outcome.actions}")
        check(test.drift() == [], f"{what}: there is still {test.drift()}")
        check(not test.network().changed, f"{what}: repaired twice")
        check(len(servers()) == 1, f"{what}: there are {len(servers())} dnsmasq")
        print(f"{what}: {drift[0]}", flush=True)
    answer = query("10.70.0.1", "web.minicloud")
    check(answer == "10.70.0.64", f"web.minicloud is {answer!r}")
    check(query("10.70.0.1", "WEB") == "10.70.0.64", "the name without domain is not known")
    test.scope.remove("web")
    test.network(state="absent")


def query(server: str, name: str) -> str:
    """The first IPv4 address of a name, asked of a name server; empty where it knows none."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(5)
        asker.sendto(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0" + labels + b"\0\x01\0\x01", (server, 53))
        answer = asker.recv(512)
    return socket.inet_ntoa(answer[-4:]) if answer[7] else ""


def taken_port(test: Test) -> None:
    """Another name server has taken port 53 of every address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        udp.bind(("0.0.0.0", 53))
        tcp.bind(("0.0.0.0", 53))
        tcp.listen()
        before = traces()
        with refused(InUse, r"port 53 of 10\.71\.0\.1 is taken by python"):
            test.network(subnet="10.71.0.0/24")
        check(test.scope.networks.names() == [], "a failed network has left a record")
        check(traces() == before, "a failed network has left something")
    test.network(subnet="10.71.0.0/24")
    test.network(state="absent")


def killed_runs(test: Test) -> None:
    before = traces()
    steps = 0
    for what, params in (
        ("creation", {}),
        ("change", {"mode": "isolated", "subnet": "10.72.0.0/24"}),
        ("removal", {"state": "absent"}),
    ):
        at = 1
        while True:
            if what != "creation":
                test.network(mode="nat", subnet="10.73.0.0/24")
            ended = test.killed(at, **params)
            if what == "removal":
                test.network(**params)
                check(traces() == before, f"{what} killed at step {at}: {traces()} instead of {before}")
            else:
                test.network(**params)
                check(not test.network(**params).changed, f"{what} killed at step {at}: not done at once")
                check(test.drift() == [], f"{what} killed at step {at}: {test.drift()}")
                check(len(servers()) == 1, f"{what} killed at step {at}: {len(servers())} dnsmasq")
                test.network(state="absent")
                check(traces() == before, f"{what} killed at step {at}: something is left over")
            steps += 1
            if ended:
                break
            at += 1
        check(at > 3, f"{what} has hardly any step")
    print(f"killed at each of {steps} steps", flush=True)


def passages(test: Test) -> None:
    """Who reaches whom."""
    test.network(subnet="10.74.0.0/24")
    test.network(name="other", subnet="10.75.0.0/24")
    test.instance("web", "10.74.0.64", "52:54:00:00:00:01", True, ["8080:80", "0.0.0.0:8081:80"])
    test.network()
    bridges = {name: test.scope.networks.read(name).interface for name in ("lab", "other")}
    guest(GUEST, bridges["lab"], "10.74.0.64/24", "10.74.0.1")
    guest(OTHER, bridges["other"], "10.75.0.64/24", "10.75.0.1")
    # Somebody outside who knows the way to the private networks.
    sh(f"ip route add 10.74.0.0/15 via {HOST_IP}", OUTSIDE)
    servers_ = [
        Echo(OUTSIDE, OUTSIDE_IP, 80),
        Echo(GUEST, "10.74.0.64", 80),
        Echo(HOST, "0.0.0.0", 90),
        Echo(OTHER, "10.75.0.64", 80),
        Echo(HOST, "127.0.0.1", 91),
    ]
    expected = {
        "guest to outside": (GUEST, OUTSIDE_IP, 80, HOST_IP),
        "outside to guest": (OUTSIDE, "10.74.0.64", 80, ""),
        "host to guest": (HOST, "10.74.0.64", 80, "10.74.0.1"),
        "guest to host": (GUEST, "10.74.0.1", 90, "10.74.0.64"),
        "network to network": (OTHER, "10.74.0.64", 80, ""),
        "the other way": (GUEST, "10.75.0.64", 80, ""),
        "port on loopback": (HOST, "127.0.0.1", 8080, "10.74.0.1"),
        "port on loopback from outside": (OUTSIDE, HOST_IP, 8080, ""),
        "open port from outside": (OUTSIDE, HOST_IP, 8081, OUTSIDE_IP),
        "open port from the guest itself": (GUEST, HOST_IP, 8081, "10.74.0.1"),
        "open port from another network": (OTHER, HOST_IP, 8081, "10.74.0.1"),
    }
    # Whether bridged packets pass the firewall as well is up to the host; where they do, a guest cannot reach itself
    # by way of the host.
    switch = "/proc/sys/net/bridge/bridge-nf-call-iptables"
    for value in "01" if os.path.exists(switch) else "":
        with open(switch, "w", encoding="ascii") as stream:
            stream.write(value)
        passed({what: how for what, how in expected.items() if value == "0" or "itself" not in what})
    check(reach(HOST, HOST_IP, 8081) != "", "an open port cannot be reached from the host")
    sh(ASTRAY, GUEST)
    check(reach(GUEST, "127.0.0.1", 91) == "", "a guest reaches the host's loopback address")

    check(test.network(host_access=False).actions == ["set_host_access"], "the host was closed otherwise")
    check(not test.network(host_access=False).changed, "it is closed again and again")
    test.network(name="other", host_access=False)
    passed({
        **{each: expected[each] for each in ("guest to outside", "host to guest", "open port from outside")},
        "guest to a closed host": (GUEST, "10.74.0.1", 90, ""),
        "guest to another address of a closed host": (GUEST, HOST_IP, 90, ""),
        "open port from a guest of a closed host": (OTHER, HOST_IP, 8081, "10.74.0.1"),
    })  # fmt: skip
    check(in_namespace(GUEST, lambda: query("10.74.0.1", "web.minicloud")) == "10.74.0.64", "no names on a closed host")
    test.network(mode="isolated", host_access=True)
    passed({
        "isolated guest to an open host": (GUEST, "10.74.0.1", 90, "10.74.0.64"),
        "isolated guest to the outside of an open host": (GUEST, OUTSIDE_IP, 80, ""),
    })  # fmt: skip
    test.network(host_access=False)
    passed({
        "isolated guest to outside": (GUEST, OUTSIDE_IP, 80, ""),
        "isolated guest to a service of the host": (GUEST, "10.74.0.1", 90, ""),
        "outside to isolated guest": (OUTSIDE, "10.74.0.64", 80, ""),
        "host to isolated guest": (HOST, "10.74.0.64", 80, "10.74.0.1"),
        "port of an isolated guest": (HOST, "127.0.0.1", 8080, "10.74.0.1"),
    })  # fmt: skip
    test.network(mode="nat", host_access=True)

    # Docker comes.
    sh(f"nft -f - <<'END'\n{DOCKER}END")
    check(reach(GUEST, OUTSIDE_IP, 80) == "", "Docker's rules drop nothing, so this tests nothing")
    check("Docker's firewall does not let the network pass." in test.drift(), f"no drift: {test.drift()}")
    check(test.network().actions == ["repair"], "nothing was done about Docker")
    passed(
        {
            each: expected[each]
            for each in ("guest to outside", "outside to guest", "network to network", "open port from outside")
        }
    )
    check(not test.network().changed, "Docker's chain is written to again and again")
    rules = sh("nft list chain ip filter DOCKER-USER")
    check(rules.count("accept") == 2, f"in Docker's chain there is: {rules}")
    test.network(name="other")
    test.network(name="other", state="absent")
    rules = sh("nft list chain ip filter DOCKER-USER")
    check(rules.count("accept") == 2, f"after the removal of another network there is: {rules}")
    sh("nft delete table ip filter")
    # Somebody's own strict firewall.
    sh(f"nft -f - <<'END'\n{STRICT}END")
    problems = test.network().view["problems"]
    check(any("strictly of the table inet strict drops" in each for each in problems), f"not reported: {problems}")
    sh("nft delete table inet strict")
    for server in servers_:
        server.close()
    for name in (GUEST, OTHER):
        sh(f"ip netns delete {name}")
    sh("ip route del 10.74.0.0/15", OUTSIDE)
    test.scope.remove("web")
    test.network(state="absent")
    print("passages: as they should be", flush=True)


def impostors(test: Test) -> None:
    """What guests send as somebody else, to their host and to each other."""
    macs = {GUEST: "52:54:00:00:00:01", OTHER: "52:54:00:00:00:02"}
    test.network(subnet="10.74.0.0/24", subnet6="fd00:74::/64")
    for (namespace, mac), address in zip(macs.items(), ("10.74.0.64", "10.74.0.65")):
        test.instance(namespace[7:], address, mac, running=True)
    test.network()
    bridge = test.record().interface
    for (namespace, mac), address in zip(macs.items(), ("10.74.0.64/24", "10.74.0.65/24")):
        guest(namespace, bridge, address, "10.74.0.1", mac)
    host = links.bridge_mac(bridge)
    router = sh(f"ip -6 -o addr show dev {bridge} scope link").split()[3].partition("/")[0]
    own6, other6 = "fd00:74::64", "fd00:74::65"
    everybody = "ff:ff:ff:ff:ff:ff"
    for each, forged in (
        ("10.74.0.64", False), ("127.0.0.1", True), ("127.9.9.9", True), ("10.74.0.1", True), ("10.99.0.1", True),
        ("192.0.2.2", True), ("0.0.0.0", True), (own6, False), ("::1", True), ("fd00:74::1", True),
        ("fd00:99::1", True), (router, True), ("::", True),
    ):  # fmt: skip
        there = "fd00:74::1" if ":" in each else "10.74.0.1"
        frame = udp_frame(macs[GUEST], host, each, there, 4444, 4444)
        reached = heard_by_socket(HOST, there, 4444, lambda frame=frame: send_frame(GUEST, frame))
        check(reached != forged, f"the host {'hears' if forged else 'does not hear'} a guest as {each}")
    frames = {
        "its own ARP": (arp_frame(macs[GUEST], "10.74.0.64"), True),
        "ARP of who asks whether an address is free": (arp_frame(macs[GUEST], "0.0.0.0"), True),
        "ARP as the host": (arp_frame(macs[GUEST], "10.74.0.1"), False),
        "ARP of elsewhere": (arp_frame(macs[GUEST], "10.99.0.1"), False),
        "the host's MAC": (udp_frame(host, macs[OTHER], "10.74.0.64", "10.74.0.65", 9, 9), False),
        "its own packet": (udp_frame(macs[GUEST], macs[OTHER], "10.74.0.64", "10.74.0.65", 9, 9), True),
        "the host's packet": (udp_frame(macs[GUEST], macs[OTHER], "10.74.0.1", "10.74.0.65", 9, 9), False),
        "a packet of 127.0.0.1": (udp_frame(macs[GUEST], macs[OTHER], "127.0.0.1", "10.74.0.65", 9, 9), False),
        "a question for an address": (udp_frame(macs[GUEST], everybody, "0.0.0.0", "255.255.255.255", 68, 67), True),
        "an offer of addresses": (udp_frame(macs[GUEST], everybody, "10.74.0.64", "255.255.255.255", 67, 68), False),
        "an offer of IPv6 addresses": (udp_frame(macs[GUEST], macs[OTHER], "fe80::64", other6, 547, 546), False),
        "its own IPv6 packet": (udp_frame(macs[GUEST], macs[OTHER], own6, other6, 9, 9), True),
        "the router's packet": (udp_frame(macs[GUEST], macs[OTHER], router, other6, 9, 9), False),
        "a router's advertisement": (icmp6_frame(macs[GUEST], "fe80::64", "ff02::1", 134), False),
        "a redirection": (icmp6_frame(macs[GUEST], "fe80::64", other6, 137), False),
        "its own neighbour's advertisement": (icmp6_frame(macs[GUEST], own6, "ff02::1", 136, own6), True),
        "the host's neighbour's advertisement": (icmp6_frame(macs[GUEST], own6, "ff02::1", 136, "fd00:74::1"), False),
        "the router's neighbour's advertisement": (icmp6_frame(macs[GUEST], own6, "ff02::1", 136, router), False),
        "the question whether an address is free": (icmp6_frame(macs[GUEST], "::", "ff02::1:ff00:64", 135, own6), True),
    }
    arrived = heard_on_link(OTHER, [frame for frame, dummy in frames.values()], lambda frame: send_frame(GUEST, frame))
    for what, (frame, passes) in frames.items():
        check((frame in arrived) == passes, f"{what} of a guest {'does not come' if passes else 'comes'} to another")
    # Whoever gets a tag of the VLAN 0 takes it away and reads on; one of another VLAN is for those who have that.
    tags = {"81000000": False, "8100e000": False, "88a80000": False, "8100000081000000": False, "81000005": True}
    sources = [f"52:54:00:00:01:{number:02}" for number in range(len(tags))]
    tagged = [
        frame[:12] + bytes.fromhex(tag) + frame[12:]
        for tag, frame in zip(tags, (arp_frame(mac, "10.74.0.1") for mac in sources))
    ]
    arrived = heard_on_link(OTHER, tagged, lambda frame: send_frame(GUEST, frame))
    for (tag, passes), mac in zip(tags.items(), sources):
        came = any(frame[6:12].hex(":") == mac for frame in arrived)
        check(came == passes, f"ARP as the host with the tag {tag} {'does not come' if passes else 'comes'} to another")
    # An older version of the rules is replaced, and what somebody takes away is put back.
    for command in (f"nft delete table bridge minicloud_{bridge}", f"nft flush chain inet minicloud_{bridge} early"):
        sh(command)
        check(test.network().actions == ["repair"], f"not repaired after {command}")
        check(test.drift() == [], f"after the repair there is {test.drift()}")
    for name in (GUEST, OTHER):
        sh(f"ip netns delete {name}")
        test.scope.remove(name[7:])
    test.network()
    check("minicloud" not in sh("nft list tables bridge"), "rules of guests that are gone are there still")
    test.network(state="absent")
    print(f"impostors: {len(frames) + len(tags)} kinds of frames", flush=True)


def checksum(content: bytes) -> int:
    content += b"\0" * (len(content) % 2)
    total = sum(struct.unpack(f"!{len(content) // 2}H", content))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame_of(source: str, to: str, kind: int, content: bytes) -> bytes:
    return b"".join(bytes.fromhex(mac.replace(":", "")) for mac in (to, source)) + struct.pack("!H", kind) + content


def packet(source: str, to: str, protocol: int, content: bytes, checksum_at: int) -> tuple[int, bytes]:
    """An IP packet, and its Ethernet type. checksum_at -- where its content has its checksum"""
    if ":" not in source:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(content), 1, 0, 64, protocol, 0)
        head += socket.inet_aton(source) + socket.inet_aton(to)
        return 0x0800, head[:10] + struct.pack("!H", checksum(head)) + head[12:] + content
    ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, to)
    total = checksum(ends + struct.pack("!IHBB", len(content), 0, 0, protocol) + content)
    content = content[:checksum_at] + struct.pack("!H", total) + content[checksum_at + 2 :]
    return 0x86DD, struct.pack("!IHBB", 0x60000000, len(content), protocol, 255) + ends + content


def udp_frame(mac: str, to_mac: str, source: str, to: str, source_port: int, port: int) -> bytes:
    content = struct.pack("!HHHH", source_port, port, 8 + 16, 0) + b"minicloud-frame!"
    return frame_of(mac, to_mac, *packet(source, to, 17, content, 6))


def icmp6_frame(mac: str, source: str, to: str, kind: int, target: str = "::") -> bytes:
    content = struct.pack("!BBHI", kind, 0, 0, 0) + socket.inet_pton(socket.AF_INET6, target) + bytes(16)
    to_mac = "33:33" + "".join(f":{each:02x}" for each in socket.inet_pton(socket.AF_INET6, to)[-4:])
    return frame_of(mac, to_mac, *packet(source, to, 58, content, 2))


def arp_frame(mac: str, source: str) -> bytes:
    own = bytes.fromhex(mac.replace(":", ""))
    content = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + own + socket.inet_aton(source)
    return frame_of(mac, "ff:ff:ff:ff:ff:ff", 0x0806, content + own + socket.inet_aton("10.74.0.65"))


def send_frame(namespace: str, frame: bytes) -> None:
    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
            out.bind(("eth0", 0))
            out.send(frame)

    in_namespace(namespace, send)


def heard_by_socket(namespace: str, ip: str, port: int, send: t.Callable[[], None]) -> bool:
    """Whether a UDP server hears what is sent."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with in_namespace(namespace, lambda: socket.socket(family, socket.SOCK_DGRAM)) as server:
        server.bind((ip, port))
        server.settimeout(0.3)
        send()
        with contextlib.suppress(socket.timeout):
            return bool(server.recv(100))
    return False


def heard_on_link(namespace: str, frames: t.Sequence[bytes], send: t.Callable[[bytes], None]) -> set[bytes]:
    """Those frames that come to the interface of a guest."""
    heard = set()
    kind = socket.htons(3)  # all there are
    with in_namespace(namespace, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, kind)) as tap:
        tap.bind(("eth0", 3))
        tap.settimeout(0.5)
        for frame in frames:
            send(frame)
        with contextlib.suppress(socket.timeout):
            while True:
                heard.add(tap.recv(2000))
    return heard


def passed(expected: t.Mapping[str, tuple[str, str, int, str]]) -> None:
    for what, (namespace, ip, port, who) in expected.items():
        seen = reach(namespace, ip, port, 2 if who else 0.5)
        check(seen == who, f"{what}: it is {seen!r} instead of {who!r}")


def guest(namespace: str, bridge: str, address: str, gateway: str, mac: str = "") -> None:
    """A guest with that address on the bridge. mac -- with which it is known to the network"""
    name = links.tap_name(bridge, mac) if mac else f"mcv-{namespace[7:]}"
    with_mac = f" address {mac}" if mac else ""
    sh(f"ip netns add {namespace}")
    sh(f"ip link add {name} type veth peer name eth0{with_mac} netns {namespace}")
    sh(f"ip link set {name} master {bridge} up")
    sh(
        f"ip link set lo up; ip addr add {address} dev eth0; ip link set eth0 up; ip route add default via {gateway}",
        namespace,
    )


def bridged(test: Test) -> None:
    """That the mode is there; what can go wrong with it is tried by the target of that name."""
    before = traces()
    # An existing bridge is used as it is.
    sh("ip link add br0 type bridge; ip link set br0 up")
    made = test.network(mode="bridged", parent="br0")
    check(made.view["interface"] == "br0" and made.view["subnet"] == "", f"{made.view}")
    check(not test.network(mode="bridged", parent="br0").changed, "made twice")
    with refused(InvalidOption, "cannot become another"):
        test.network(mode="nat")
    test.network(state="absent")
    check("br0" in sh("ip -br link"), "a bridge of the host's was removed")
    sh("ip link delete br0")

    interfaces = {each["name"]: each for each in list_host_interfaces(Runtime(run), test.data)}
    check(interfaces[UPLINK]["bridge_types"] and interfaces[UPLINK]["default_route"], f"{interfaces}")
    with refused(InvalidOption, "confirm_bridge"):
        test.network(mode="bridged", parent=UPLINK)
    with refused(InvalidOption, "'eth77' of the network lab is not an interface of this host"):
        test.network(mode="bridged", parent="eth77")
    with refused(InvalidOption, "subnet is given"):
        test.network(mode="bridged", parent=UPLINK, subnet="10.1.2.0/24")
    check(traces() == before, "a refused network has left something")
    test.network(mode="bridged", parent=UPLINK, bridge_type="macvtap")
    check(traces()["links"] == before["links"], "macvtap needs no bridge")
    test.network(state="absent")
    echo = Echo(OUTSIDE, OUTSIDE_IP, 80)
    test.network(mode="bridged", parent=UPLINK, confirm_bridge=True)
    bridge = test.record().interface
    check(f"{HOST_IP}/24" in sh(f"ip addr show {bridge}"), "the host's address did not move")
    check(reach(HOST, OUTSIDE_IP, 80) == HOST_IP, "the host is cut off")
    check(not test.network(mode="bridged", parent=UPLINK).changed, "made twice")
    guest(GUEST, bridge, "192.0.2.64/24", OUTSIDE_IP)
    check(reach(GUEST, OUTSIDE_IP, 80) == "192.0.2.64", "a guest is not beside the host")
    sh(f"ip netns delete {GUEST}")
    test.network(state="absent")
    check(reach(HOST, OUTSIDE_IP, 80) == HOST_IP, "the host is cut off after the removal")
    check(traces() == before, f"something is left over: {traces()} instead of {before}")
    echo.close()


def cycles(test: Test) -> None:
    before = traces()
    start = time.monotonic()
    for number in range(200):
        test.network(name=f"n{number}")
        test.network(name=f"n{number}", state="absent")
    check(traces() == before, f"something is left over: {traces()} instead of {before}")
    print(f"200 cycles in {time.monotonic() - start:.1f} s", flush=True)


def many(test: Test) -> None:
    """What looking at 50 networks with 1,000 reservations costs."""
    driver = load("qemu", Runtime(run), test.data)
    for number in range(50):
        network = Network(f"m{number}", "qemu", "qemu", "", phase="ready")
        driver.networks().fill_in(network, test.scope.networks.all()[0])
        test.scope.networks.write(network)
        for guest_number in range(20):
            name = f"g{number}-{guest_number}"
            mac = f"52:54:00:01:{number:02x}:{guest_number:02x}"
            address = f"{network.subnet[:-4]}{64 + guest_number}"
            nic = Nic(network.name, mac, lease=address)
            test.scope.write(
                Instance(name, name, "qemu", "qemu", "", "x86_64", 1, 1 << 27, 1 << 30, phase="ready", nics=[nic])
            )
        test.network(name=network.name)
    start, cpu = time.monotonic(), time.process_time()
    found = list_networks(Runtime(run), test.data, ["qemu"])
    took, used = time.monotonic() - start, time.process_time() - cpu
    check(len(found) == 50 and all(not each["drift"] for each in found), "the many networks are not as they should be")
    check(sum(len(each["instances"]) for each in found) == 1000, "some reservations are missing")
    print(f"50 networks with 1,000 reservations: looked at in {took:.2f} s ({used:.2f} s of this process)", flush=True)
    for instance in test.scope.instances()[0]:
        test.scope.remove(instance.name)
    for number in range(50):
        test.network(name=f"m{number}", state="absent")


def make_world() -> None:
    for name in (HOST, OUTSIDE):
        sh(f"ip netns add {name}")
        sh("ip link set lo up", name)
    sh(f"ip link add {UPLINK} netns {HOST} type veth peer name out0 netns {OUTSIDE}")
    sh(f"ip addr add {HOST_IP}/24 dev {UPLINK}; ip link set {UPLINK} up; ip route add default via {OUTSIDE_IP}", HOST)
    sh(f"ip addr add {OUTSIDE_IP}/24 dev out0; ip link set out0 up", OUTSIDE)


def end_world() -> None:
    for pid in servers():
        os.kill(pid, signal.SIGKILL)
    for name in (HOST, OUTSIDE, GUEST, OTHER):
        sh(f"ip netns delete {name}", fail=False)


def main() -> None:
    end_world()
    make_world()
    try:
        # All of this process, and whatever it starts, is in the namespace of the host from here on.
        with open(f"/run/netns/{HOST}", encoding="ascii") as handle:
            setns(handle.fileno())
        test = Test(sys.argv[1])
        wanted = sys.argv[2:]
        for part in (life, refusals, repairs, taken_port, killed_runs, passages, impostors, bridged, many, cycles):
            if not wanted or part.__name__ in wanted:
                print(f"== {part.__name__}", flush=True)
                part(test)
    finally:
        end_world()


if __name__ == "__main__":
    main()
