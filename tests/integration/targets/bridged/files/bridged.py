# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bridges of physical interfaces, tried in network namespaces that are made for it and go again.

Namespace HOST has an interface with addresses and routes, like a host; LAN is the other end of its cable, with its
gateway. This makes both, runs itself within HOST, and removes them.

Arguments: a data directory, the image of a small guest, and the names of the parts to be tried (none: all).
"""

from __future__ import annotations

import contextlib
import functools
import glob
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import typing as t

# The collection is found on PYTHONPATH.
from ansible_collections.minicloud.local.plugins.module_utils import _command
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InUse,
    InvalidOption,
    MinicloudError,
    NotSupported,
)
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import bridged, lookup, probe
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.interfaces import read_interfaces
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.autostart import start_all
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.instances import reconcile_instance
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.network_listing import list_networks
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.networks import (
    parse_network,
    reconcile_network,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import parse_wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

PORT = "uplink0"


def ip(words: str) -> str:
    return subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True).stdout


def main() -> None:
    host, lan = f"mch{os.getpid()}", f"mcl{os.getpid()}"
    directory = tempfile.mkdtemp(prefix="minicloud-bridged-")
    os.chmod(directory, 0o755)
    try:
        ip(f"netns add {host}")
        ip(f"netns add {lan}")
        done = subprocess.run(
            ["ip", "netns", "exec", host, sys.executable, __file__, "within", lan, directory, *sys.argv[1:]],
            check=False,
        )
        if done.returncode:
            sys.exit("the tests in the namespace failed")
    finally:
        for name in (host, lan):
            subprocess.run(["ip", "netns", "delete", name], check=False)
        shutil.rmtree(directory)


class Hooks(Reporter):
    """Does something at a step, such as ending this process."""

    def __init__(self, **at: t.Callable[[], None]) -> None:
        super().__init__()
        self.at = at
        self.seen: list[str] = []

    def step(self, name: str) -> None:
        self.seen.append(name)
        if name in self.at:
            self.at[name]()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Test:
    def __init__(self, lan: str, directory: str, data_dir: str = "", image: str = "") -> None:
        self.lan = lan
        self.directory = directory
        self.data = DataDirectory(data_dir or directory)
        self.image = image

    def cable(self) -> None:
        """A host with a network card, and what is at the other end of its cable."""
        ip(f"link add {PORT} type veth peer name gw0 netns {self.lan}")
        for command in (
            "link set lo up",
            "link set gw0 up",
            "addr add 10.77.0.1/24 dev gw0",
            "addr add 10.77.0.3/24 dev gw0",
        ):
            ip(f"-n {self.lan} {command}")
        ip(f"-n {self.lan} addr add fd77::1/64 dev gw0 nodad")
        ip(f"link set {PORT} up")
        ip(f"addr add 10.77.0.2/24 broadcast + dev {PORT}")
        ip(f"addr add 10.78.0.2/24 dev {PORT} label {PORT}:two metric 70")
        ip(f"addr add fd77::2/64 dev {PORT} nodad")
        ip(f"addr add fd78::2/64 dev {PORT} nodad")
        ip(f"route add default via 10.77.0.1 dev {PORT} proto static metric 100 src 10.77.0.2 mtu 1400")
        ip(f"route add 10.50.0.0/16 via 10.99.0.1 dev {PORT} onlink table 77")
        ip(f"route add 10.60.0.0/16 nexthop via 10.77.0.1 dev {PORT} weight 2 nexthop via 10.77.0.3 dev {PORT}")
        ip(f"-6 route add default via fd77::1 dev {PORT} metric 512")
        ip("link add other0 type bridge")
        ip("link set other0 up")
        # The same prefix on another interface must survive.
        ip("addr add fd78::9/64 dev other0 nodad")

    @staticmethod
    def own_bridge() -> None:
        """Put the network card into a bridge, as who runs the host may have done."""
        for command in ("link add br7 type bridge", "link set br7 up", f"link set {PORT} master br7"):
            ip(command)
        ip("addr add 10.77.0.2/24 dev br7")
        ip(f"addr flush dev {PORT}")

    def uncable(self) -> None:
        for name in (PORT, "other0", *[each for each in links() if each.startswith("mcb")]):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip(f"link delete {name}")
        shutil.rmtree(os.path.join(self.directory, "net"), ignore_errors=True)

    @contextlib.contextmanager
    def fresh(self, what: str) -> t.Iterator[None]:
        self.cable()
        try:
            yield
        finally:
            self.uncable()
        print(f"ok: {what}", flush=True)

    def backend(self, report: Reporter | None = None, runner: t.Any = None, **kwargs: t.Any) -> bridged.Bridged:
        runtime = Runtime(runner or _command.run, report)
        return bridged.Bridged(runtime, lambda name: os.path.join(self.directory, name), **kwargs)

    def network(self, **values: t.Any) -> Network:
        given = {"name": "net", "parent": PORT, "confirm_bridge": True, **values}
        network = Network(scope="qemu", driver="qemu", created="", mode="bridged", **given)
        self.backend().fill_in(network, [])
        return network

    def killed(self, method: str, network: Network, step: str) -> None:
        """Apply or remove a network in a child that is killed at a step."""
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                getattr(self.backend(Hooks(**{step: die})), method)(network)
            os._exit(7)
        status = os.waitpid(pid, 0)[1]
        check(os.WIFSIGNALED(status), f"a run ended with {status} that was to be killed")

    # What is tried

    def over_and_back(self) -> None:
        with self.fresh("over, nothing to do, and back"):
            before, other = snapshot(PORT), snapshot("other0")
            mac = links()[PORT]["address"]
            network = self.network()
            self.backend().apply(network)
            bridge = network.interface
            check(snapshot(bridge) == before, f"the bridge has something else: {snapshot(bridge)} instead of {before}")
            check(links()[bridge]["address"] == mac, "the bridge has another MAC")
            check(links()[PORT].get("master") == bridge, "the interface is not in the bridge")
            check(not snapshot(PORT)["addresses"], "the interface has addresses still")
            check(not snapshot(PORT)["routes"], "the interface has routes still")
            reach("10.77.0.1")
            reach("fd77::1")
            hooks = Hooks()
            self.backend(hooks).apply(network)
            check(not hooks.seen, f"the second run had something to do: {hooks.seen}")
            check(not self.backend().drift(network), "there is drift after apply()")
            self.backend().remove(network)
            check(snapshot("other0") == other, "another interface lost something")
            self.backend().remove(network)
            check(snapshot(PORT) == before, f"afterwards: {snapshot(PORT)} instead of {before}")
            check(snapshot("other0") == other, "another interface lost something")
            check(bridge not in links(), "the bridge is left over")
            reach("10.77.0.1")
            reach("fd77::1")
            left = os.listdir(os.path.join(self.directory, "net"))
            check(not left, f"files are left over: {left}")

    def gateway_lost(self) -> None:
        with self.fresh("roll-back when the gateway does not answer through the bridge"):
            before = snapshot(PORT)
            network = self.network()
            hooks = Hooks(uplink_moved=lambda: gone.append(ip(f"-n {self.lan} addr delete 10.77.0.1/24 dev gw0")))
            gone: list[str] = []
            failure = raised(HypervisorError, lambda: self.backend(hooks).apply(network))
            check("gateway 10.77.0.1 answered before" in str(failure), f"another failure: {failure}")
            check(gone == [""], "the gateway was not taken away")
            check(snapshot(PORT) == before, f"not rolled back: {snapshot(PORT)}")
            check(network.interface not in links(), "the bridge is left over")
            check(not self.backend().is_up(network), "notes are left over")

    def route_lost(self) -> None:
        with self.fresh("roll-back when the default route is lost"):
            before = snapshot(PORT)
            network = self.network()
            hooks = Hooks(uplink_moved=lambda: ip("route delete default") and None)
            failure = raised(HypervisorError, lambda: self.backend(hooks).apply(network))
            check("lost its IPv4 default route" in str(failure), f"another failure: {failure}")
            check(snapshot(PORT) == before, f"not rolled back: {snapshot(PORT)}")
            check(network.interface not in links(), "the bridge is left over")

    def silent_gateway(self) -> None:
        with self.fresh("a gateway that never answered is no reason to roll back"):
            ip(f"-n {self.lan} addr delete 10.77.0.1/24 dev gw0")
            network = self.network()
            self.backend().apply(network)
            check(not self.backend().drift(network), "it was not made")
            self.backend().remove(network)

    def refused_command(self) -> None:
        with self.fresh("roll-back when a command fails halfway"):
            before = snapshot(PORT)
            network = self.network()

            def sabotage(argv: t.Sequence[str], **kwargs: t.Any) -> t.Any:
                text = kwargs.get("stdin") or b""
                if b" master " in text:
                    kwargs["stdin"] = text.replace(b"master ", b"master nowhere")
                return _command.run(argv, **kwargs)

            raised(HypervisorError, lambda: self.backend(runner=sabotage).apply(network))
            check(snapshot(PORT) == before, f"not rolled back: {snapshot(PORT)}")
            check(network.interface not in links(), "the bridge is left over")

    def killed_at_each_step(self) -> None:
        with self.fresh("steps listed"):
            network, hooks = self.network(), Hooks()
            self.backend(hooks).apply(network)
            steps = list(hooks.seen)
            hooks = Hooks()
            self.backend(hooks).remove(network)
            back = list(hooks.seen)
        check(len(steps) >= 5 and len(back) >= 4, f"hardly any step: {steps} {back}")
        for step in steps:
            for finish in (True, False):
                with self.fresh(f"killed at {step}, then {'finished' if finish else 'removed'}"):
                    before, network = snapshot(PORT), self.network()
                    self.killed("apply", network, step)
                    self.converge(network, before, finish)
        for step in back:
            for finish in (True, False):
                with self.fresh(f"removal killed at {step}, then {'made again' if finish else 'removed'}"):
                    before, network = snapshot(PORT), self.network()
                    self.backend().apply(network)
                    self.killed("remove", network, step)
                    self.converge(network, before, finish)

    def killed_in_the_batch(self) -> None:
        """Only the first few commands of a batch come through, then the run dies; and its guard undoes or finishes."""
        for method in ("apply", "remove"):
            number, died = 1, True
            while died:
                with self.fresh(f"{method}: killed after {number} commands"):
                    before, network = snapshot(PORT), self.network()
                    if method == "remove":
                        self.backend().apply(network)
                    died = self.killed_after(method, network, number)
                    # Nobody runs this again: the host must have its addresses and routes all the same.
                    self.backend()._guard(network).wait()
                    check(snapshot(PORT) == before, f"the guard left {snapshot(PORT)}")
                    self.converge(network, before, finish=number % 2 == 0)
                number += 1
            check(number > 5, f"{method}: hardly any command")

    def killed_after(self, method: str, network: Network, number: int) -> bool:
        """Apply or remove a network in a child that dies after so many commands; whether there are as many."""

        def cut(argv: t.Sequence[str], **kwargs: t.Any) -> t.Any:
            lines = (kwargs.get("stdin") or b"").splitlines(keepends=True)
            if not any(b"master" in line for line in lines):
                return _command.run(argv, **kwargs)
            _command.run(argv, **{**kwargs, "stdin": b"".join(lines[:number])})
            if number <= len(lines):
                die()
            os._exit(0)

        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                getattr(self.backend(runner=cut), method)(network)
            os._exit(7)
        status = os.waitpid(pid, 0)[1]
        check(status in (0, signal.SIGKILL), f"a run ended with {status}")
        return status != 0

    def converge(self, network: Network, before: t.Any, finish: bool) -> None:
        if finish:
            self.backend().apply(network)
            check(snapshot(network.interface) == before, f"the bridge has {snapshot(network.interface)}, not {before}")
            check(not snapshot(PORT)["addresses"], "the interface has addresses still")
            hooks = Hooks()
            self.backend(hooks).apply(network)
            check(not hooks.seen, f"the run after had something to do: {hooks.seen}")
        self.backend().remove(network)
        check(snapshot(PORT) == before, f"afterwards: {snapshot(PORT)} instead of {before}")
        check(network.interface not in links(), "the bridge is left over")

    def drift(self) -> None:
        with self.fresh("a bridge deleted by hand comes back with its addresses"):
            before, network = snapshot(PORT), self.network()
            self.backend().apply(network)
            ip(f"link delete {network.interface}")
            check(self.backend().drift(network), "nothing noticed")
            self.backend().apply(network)
            check(snapshot(network.interface) == before, f"it has {snapshot(network.interface)}")
            self.backend().remove(network)
            check(snapshot(PORT) == before, f"afterwards {snapshot(PORT)}")
        with self.fresh("an interface taken out of its bridge by hand goes in again"):
            before, network = snapshot(PORT), self.network()
            self.backend().apply(network)
            ip(f"link set {PORT} nomaster")
            self.backend().apply(network)
            check(snapshot(network.interface) == before, f"it has {snapshot(network.interface)}")
            check(not self.backend().drift(network), "there is drift still")
        with self.fresh("after a restart of the host, what it has then is moved"):
            network = self.network()
            self.backend().apply(network)
            shutil.copytree(os.path.join(self.directory, "net"), os.path.join(self.directory, "kept"))
            self.uncable()
            os.rename(os.path.join(self.directory, "kept"), os.path.join(self.directory, "net"))
            self.cable()
            ip(f"addr add 10.79.0.2/24 dev {PORT}")
            before = snapshot(PORT)
            self.backend().apply(network)
            check(snapshot(network.interface) == before, f"it has {snapshot(network.interface)}")
            self.backend().remove(network)
            check(snapshot(PORT) == before, f"afterwards {snapshot(PORT)}")
        with self.fresh("what was changed on the bridge goes back to the interface"):
            network = self.network()
            self.backend().apply(network)
            ip(f"addr add 10.79.0.2/24 dev {network.interface}")
            ip(f"addr delete 10.78.0.2/24 dev {network.interface}")
            now = snapshot(network.interface)
            self.backend().remove(network)
            check(snapshot(PORT) == now, f"afterwards {snapshot(PORT)} instead of {now}")
        with self.fresh("an interface that was taken out of the host"):
            network = self.network()
            self.backend().apply(network)
            ip(f"link delete {PORT}")
            raised(HypervisorError, lambda: self.backend().apply(network))
            check(self.backend().drift(network) == [f"The parent {PORT} is missing."], "nothing noticed")
            self.backend().remove(network)
            check(network.interface not in links(), "the bridge is left over")

    def existing_bridge(self) -> None:
        with self.fresh("a bridge that is there stays as it is"):
            ip("link add br7 type bridge")
            ip("link set br7 up")
            ip("addr add 10.80.0.1/24 dev br7")
            before = snapshot("br7"), snapshot(PORT), links()
            network = self.network(parent="br7", confirm_bridge=False)
            check(network.interface == "br7", "another interface was chosen")
            self.backend().apply(network)
            check(not self.backend().drift(network), "there is drift")
            check(not self.backend().is_up(network), "something is noted")
            self.backend().remove(network)
            check((snapshot("br7"), snapshot(PORT), links()) == before, "something was changed")
            ip("link delete br7")
            raised(HypervisorError, lambda: self.backend().apply(network))

    def macvtap(self) -> None:
        with self.fresh("macvtap changes nothing on the host"):
            before = snapshot(PORT), links()
            network = self.network(bridge_type="macvtap", confirm_bridge=False)
            check(network.interface == PORT, "another interface was chosen")
            self.backend().apply(network)
            check(not self.backend().drift(network), "there is drift")
            self.backend().remove(network)
            check((snapshot(PORT), links()) == before, "something was changed")

    def refusals(self) -> None:
        with self.fresh("what cannot be is refused, and says why"):
            for error, words, values in (
                (InvalidOption, "confirm_bridge: true", {"confirm_bridge": False}),
                (InvalidOption, "loopback", {"parent": "lo"}),
                (InvalidOption, f"{PORT} (bridge or macvtap)", {"parent": ""}),
                (InvalidOption, "not an interface of this host", {"parent": "nowhere0"}),
                (InvalidOption, "subnet cannot be given", {"subnet": "10.1.2.0/24"}),
                (InvalidOption, "it has that of its parent", {"mtu": 9000}),
            ):
                failure = raised(error, functools.partial(self.network, **values))
                check(words in str(failure), f"{values}: {failure}")
            ip("link add br7 type bridge")
            ip(f"link set {PORT} master br7")
            failure = raised(InvalidOption, self.network)
            check("in the bridge br7: use that instead" in str(failure), str(failure))
            ip("link delete br7")
            ip(f"link add link {PORT} name vtap7 type macvtap mode bridge")
            failure = raised(InvalidOption, self.network)
            check("excludes a bridge" in str(failure), str(failure))
        with self.fresh("Wi-Fi is refused"):
            sysfs = os.path.join(self.directory, "sys")
            os.makedirs(os.path.join(sysfs, PORT, "phy80211"))
            wifi = Network("net", "qemu", "qemu", "", mode="bridged", parent=PORT, confirm_bridge=True)
            failure = raised(InvalidOption, lambda: self.backend(sysfs=sysfs).fill_in(wifi, []))
            check("an access point takes frames only from the address of the station" in str(failure), str(failure))
            shutil.rmtree(sysfs)
        with self.fresh("an interface that a DHCP client looks after is refused"):
            # All that counts of it is its name, its arguments and its network.
            argv = ["dhclient", "-c", "read line", PORT]
            with subprocess.Popen(argv, executable="/bin/sh", stdin=subprocess.PIPE) as client:
                try:
                    failure = raised(InUse, self.network)
                    check(f"the DHCP client dhclient (process {client.pid})" in str(failure), str(failure))
                finally:
                    client.kill()

    def neighbours(self) -> None:
        with self.fresh("neighbours are found by their MAC"):
            mac = json.loads(ip(f"-n {self.lan} -j link show gw0"))[0]["address"]
            # The guest has a moment to answer, and on a busy machine a moment may not be enough.
            found = found_soon(mac)
            check(set(found) <= {"10.77.0.1", "10.77.0.3"} and len(found) == 1, f"found {found}")
            ip(f"-n {self.lan} addr delete {found[0]}/24 dev gw0")
            # With the first address of a subnet the kernel takes away the others.
            (other,) = {"10.77.0.1", "10.77.0.3"} - {found[0]}
            ip(f"-n {self.lan} addr replace {other}/24 dev gw0")
            moved = found_soon(mac)
            check({*found, *moved} == {"10.77.0.1", "10.77.0.3"}, f"an address that has gone was told: {moved}")
            check(lookup.find_guests(PORT, ["52:54:00:00:00:07"]) == {"52:54:00:00:00:07": ()}, "an address of nobody")
            check(lookup.find_guests("other0", [mac]) == {mac: ()}, "an address where this host has none")
            ip(f"-n {self.lan} addr add 10.77.0.1/24 dev gw0") if found[0] == "10.77.0.1" else None
            check(probe.find(PORT, ["10.77.0.9"], "10.77.0.2", Deadline(0.5)) == {}, "an answer from nobody")
            own = links()[PORT]["address"]
            check(probe.answers(PORT, own, "fd77::1", "", Deadline(5)), "no answer over IPv6")
            check(not probe.answers(PORT, own, "fd77::8", "", Deadline(0.5)), "an answer from nobody")
            found_interfaces = read_interfaces(Runtime(_command.run))
            check(found_interfaces[PORT].default_route, "the default route is not seen")
            check(found_interfaces[PORT].types == ("bridge", "macvtap"), f"{found_interfaces[PORT]}")

    def starts_with_the_host(self) -> None:
        with self.fresh("a network that starts with the host takes over again"):
            try:
                made = self.network_module(name="lan", mode="bridged", parent=PORT, confirm_bridge=True, autostart=True)
                bridge = made.view["interface"]
                ip(f"link delete {bridge}")
                ip(f"link delete {PORT}")
                ip("link delete other0")
                self.cable()
                before = snapshot(PORT)
                failures = start_all(Runtime(_command.run), self.data)
                check(not failures, f"it did not start: {failures}")
                check(snapshot(bridge) == before, f"the bridge has {snapshot(bridge)}, not {before}")
                check(not self.network_module(name="lan").changed, "it was not complete")
            finally:
                self.network_module(name="lan", state="absent")
            check(snapshot(PORT) == before, f"afterwards: {snapshot(PORT)} instead of {before}")
            check(not os.path.exists(os.path.join(self.data.path, "autostart.pyz")), "what starts it is left over")

    # With guests

    def guests(self) -> None:
        """A guest gets its address from the LAN, which reaches it; on a bridge this host does, too."""
        for what, words in (
            ("bridge", {"confirm_bridge": True}),
            ("macvtap", {"bridge_type": "macvtap"}),
            ("existing bridge", {"parent": "br7"}),
        ):
            with self.fresh(f"a guest on a network of the kind {what}"), self.dhcp() as leases:
                if what == "existing bridge":
                    self.own_bridge()
                before = links()
                try:
                    self.guest(what, words, leases)
                finally:
                    self.reconcile("guest", state="absent")
                    self.network_module(name="lan", state="absent")
                left = {each: entry for each, entry in links().items() if each not in before}
                check(not left, f"interfaces are left over: {left}")
                if what == "existing bridge":
                    ip("link delete br7")

    def guest(self, what: str, words: dict[str, t.Any], leases: str) -> None:
        made = self.network_module(name="lan", mode="bridged", **{"parent": PORT, **words})
        check(made.changed, "the network was there already")
        check(not self.network_module(name="lan").changed, "the network is not as it was made")
        wait, ports = what == "bridge", ["2222:22", "0.0.0.0:2223:22"]
        if what == "macvtap":
            failure = raised(NotSupported, lambda: self.reconcile("guest", ports=["2222"], networks=[{"name": "lan"}]))
            check("(macvtap), where this host and the instance cannot reach each other" in str(failure), str(failure))
            ports = []
        before = traces()
        view = self.reconcile("guest", networks=[{"name": "lan"}], wait=wait, ports=ports).view
        mac = view["networks"][0]["mac"]
        address = self.leased(leases, mac)
        # What is outside reaches it.
        said = self.outside(address)
        check(said.startswith("SSH-2.0"), f"the guest does not answer the LAN: {said}")
        now = self.reconcile("guest", wait=False)
        # Who did not wait for the address leaves it to the next run to lead the ports there.
        expected_actions = ["repair_networks"] if what == "existing bridge" else []
        check(now.actions == expected_actions, f"another run had this to do: {now.actions}")
        check(not self.reconcile("guest", wait=False).changed, "the third run had something to do")
        expected = [] if what == "macvtap" else [address]
        check(now.view["addresses"] == expected, f"addresses {now.view['addresses']} instead of {expected}")
        check(now.view["ssh"]["host"] == "".join(expected), f"ssh leads to {now.view['ssh']}")
        if ports:
            self.ports_lead_there()
        if wait:
            self.ports_change(address)
        failure = raised(InUse, lambda: self.network_module(name="lan", state="absent"))
        check("guest" in str(failure), str(failure))
        if what == "existing bridge":
            stopped = self.reconcile("guest", state="stopped", force=True)
            check(stopped.view["ports"] != [], "the ports are forgotten")
        else:
            self.reconcile("guest", state="absent")
        check(traces() == before, f"ports have left something: {traces()} instead of {before}")

    def ports_lead_there(self) -> None:
        check(greeting("127.0.0.1", 2222).startswith("SSH"), "the port of the loopback address leads nowhere")
        check(greeting("127.0.0.1", 2223).startswith("SSH"), "the open port is not there on the loopback address")
        check(greeting("10.77.0.2", 2223).startswith("SSH"), "the open port is not there on the host")
        check(self.outside("10.77.0.2", 2223).startswith("SSH"), "the open port cannot be reached from outside")
        check(self.outside("10.77.0.2", 2222, 2) == "", "a port of the loopback address is open to others")

    def ports_change(self, address: str) -> None:
        """The guest runs and has another address; somebody takes the rules away; other ports are asked for."""
        failure = raised(InUse, lambda: self.reconcile("second", ports=["2222:22"], networks=[{"name": "lan"}]))
        check("the instance guest has it" in str(failure), str(failure))
        self.reconcile("second", state="absent")
        changed = self.reconcile("guest", ports=["0.0.0.0:2223:22", "2224:22"])
        check(changed.actions == ["set_ports"], f"{changed.actions}")
        check(greeting("127.0.0.1", 2224).startswith("SSH"), "the new port leads nowhere")
        check(greeting("127.0.0.1", 2222, 2) == "", "the old port is still there")

        subprocess.run(["nft", "flush", "ruleset"], check=True)
        check(self.network_drift() == ["The firewall rules of forwarded ports are missing."], f"{self.network_drift()}")
        check(self.network_module(name="lan").actions == ["repair"], "nothing was repaired")
        check(greeting("127.0.0.1", 2224).startswith("SSH"), "the repaired port leads nowhere")

        login = self.reconcile("guest").view["ansible_vars"]
        argv = ["ssh", *shlex.split(login["ansible_ssh_common_args"]), "-o", "BatchMode=yes", f"debian@{address}"]
        move = "killall udhcpc; ip addr del $OLD dev eth0; ip addr add 10.77.0.70/24 dev eth0"
        move = f"(sleep 1; {move.replace('$OLD', f'{address}/24')}) >/dev/null 2>&1 </dev/null &"
        subprocess.run([*argv, move], check=True, timeout=60)
        arrived = any(greeting("10.77.0.70", 22, 2) for dummy in Deadline(60).pauses())
        check(arrived, "the guest has no other address, so this tests nothing")
        check(
            self.network_drift() == ["Forwarded ports do not lead to where their instances are now."],
            f"drift: {self.network_drift()}",
        )
        moved = self.reconcile("guest")
        check(moved.actions == ["repair_networks"], f"{moved.actions}")
        check(moved.view["addresses"] == ["10.77.0.70"], f"{moved.view['addresses']}")
        check(greeting("127.0.0.1", 2224).startswith("SSH"), "the port did not follow the guest")
        check(not self.reconcile("guest").changed and not self.network_drift(), "something is left to do")

    def network_drift(self) -> list[str]:
        (found,) = list_networks(Runtime(_command.run), self.data, ["qemu"], None, ["lan"])
        return list(found["drift"])

    def outside(self, address: str, port: int = 22, seconds: int = 120) -> str:
        """What greets the LAN at an address."""
        command = [sys.executable, "-c", _BANNER, address, str(port), str(seconds)]
        argv = ["ip", "netns", "exec", self.lan, *command]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    @contextlib.contextmanager
    def dhcp(self) -> t.Iterator[str]:
        """The LAN gives out addresses. Yields the file of its leases."""
        leases = os.path.join(self.directory, "leases")
        argv = ["ip", "netns", "exec", self.lan, "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0"]
        argv += ["--interface=gw0", "--dhcp-range=10.77.0.50,10.77.0.60,1h"]
        argv += [f"--dhcp-leasefile={leases}", "--user=root", "--dhcp-authoritative", "--no-ping"]
        with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as server:
            try:
                yield leases
            finally:
                server.terminate()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(leases)

    @staticmethod
    def leased(leases: str, mac: str) -> str:
        for dummy in Deadline(300).pauses():
            with contextlib.suppress(FileNotFoundError), open(leases, encoding="ascii") as stream:
                for line in stream:
                    if line.split()[1:2] == [mac]:
                        return line.split()[2]
        sys.exit(f"FAILED: {mac} has not got an address from the LAN")

    def reconcile(self, name: str, **wish: t.Any) -> t.Any:
        params = {"name": name, "image": self.image, "memory": "128M", "user": "debian", "timeout": 600, **wish}
        return reconcile_instance(parse_wish(params), Runtime(_command.run), self.data, "qemu")

    def network_module(self, **wish: t.Any) -> t.Any:
        return reconcile_network(parse_network(wish), Runtime(_command.run), self.data, "qemu")


# Says what answers at an address as soon as something does.
_BANNER = """
import socket, sys, time
end = time.monotonic() + int(sys.argv[3])
while time.monotonic() < end:
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=min(10, int(sys.argv[3]))) as guest:
            print(guest.recv(64).decode(errors="replace"))
            break
    except OSError:
        time.sleep(0.5)
"""


def links() -> dict[str, dict[str, t.Any]]:
    keys = ("ifname", "master", "address", "mtu")
    entries = json.loads(ip("-j link"))
    return {each["ifname"]: {key: each[key] for key in keys if key in each} for each in entries}


def snapshot(name: str) -> dict[str, list[str]]:
    """The addresses and routes of an interface, its name left out."""
    if name not in links():
        return {}
    out = json.loads(ip(f"-j address show dev {name}"))[0]["addr_info"]
    addresses = [each for each in out if each["scope"] != "link"]
    routes = []
    for family in (4, 6):
        for route in json.loads(ip(f"-j -{family} route show table all")):
            devices = [hop.get("dev") for hop in route.get("nexthops", [route])]
            kernels = route["dst"] in ("fe80::/64", "ff00::/8") or route.get("table") == "local"
            if name in devices and not kernels:
                route["flags"] = [each for each in route["flags"] if each == "onlink"]
                routes.append(route)
    return {
        "addresses": sorted(json.dumps(each).replace(name, "X") for each in addresses),
        "routes": sorted(json.dumps(each).replace(name, "X") for each in routes),
    }


def greeting(address: str, port: int, seconds: float = 20.0) -> str:
    """What a server says first to this host; empty where none can be reached."""
    try:
        with socket.create_connection((address, port), seconds) as connection:
            connection.settimeout(seconds)
            return connection.recv(100).decode(errors="replace")
    except OSError:
        return ""


def traces() -> list[str]:
    """What forwarded ports leave on a host."""
    rules = subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
    settings = []
    for path in sorted(glob.glob("/proc/sys/net/ipv4/conf/*/route_localnet")):
        with open(path, encoding="ascii") as stream:
            settings += [path] if stream.read().strip() != "0" else []
    return [rules, *settings]


def reach(address: str) -> None:
    """Whatever is there refuses the connection, and so has got it."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probing:
        probing.settimeout(10)
        try:
            probing.connect((address, 9))
        except ConnectionRefusedError:
            return
        except OSError as exc:
            sys.exit(f"FAILED: {address} cannot be reached: {exc}")


def raised(kind: type[MinicloudError], work: t.Callable[[], t.Any]) -> MinicloudError:
    try:
        work()
    except kind as exc:
        return exc
    sys.exit(f"FAILED: nothing was raised, instead of {kind.__name__}")


def found_soon(mac: str) -> tuple[str, ...]:
    """The addresses of a neighbour as soon as there are any."""
    return next((found for dummy in Deadline(60).pauses() if (found := lookup.find_guests(PORT, [mac])[mac])), ())


def check(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"FAILED: {what}")


def within(lan: str, directory: str, data_dir: str = "", image: str = "", *wanted: str) -> None:
    bridged._ASK_AFTER = 4.0  # the gateway is at the other end of a short cable
    bridged._ASK_BEFORE = 2.0
    ip("link set lo up")
    test = Test(lan, directory, data_dir, image)
    for part in (
        test.over_and_back,
        test.existing_bridge,
        test.macvtap,
        test.refusals,
        test.neighbours,
        test.gateway_lost,
        test.route_lost,
        test.silent_gateway,
        test.refused_command,
        test.drift,
        test.killed_at_each_step,
        test.killed_in_the_batch,
        test.starts_with_the_host,
        test.guests,
    ):
        if not wanted or part.__name__ in wanted:
            part()


if __name__ == "__main__":
    if sys.argv[1:2] == ["within"]:
        within(*sys.argv[2:])
    else:
        main()
