# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Networks of an ordinary user, who may make neither bridges nor rules: a hub process, for QEMU and libvirt alike.

Only guests are on such a network; see _hostnet/hub.py. The way out, ssh and forwarded ports are the user-mode network
of each guest's hypervisor, on an interface of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
import typing as t
import zlib

from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Member, Networks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.status import short_path
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    MissingRequirement,
    NotSupported,
)
from ansible_collections.minicloud.local.plugins.module_utils._files import explained, is_locked
from ansible_collections.minicloud.local.plugins.module_utils._host import systemd
from ansible_collections.minicloud.local.plugins.module_utils._host.host import this_host
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import hub, leases, links, subnets
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.dhcp import check_domain
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.hub_lock import HUB_LOCK, hub_runs
from ansible_collections.minicloud.local.plugins.module_utils._locks import open_lock
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime, find_program
from ansible_collections.minicloud.local.plugins.module_utils._scope import Scope
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_path, write_file

_LAUNCHER = f'umask 077 && echo $$ > {hub.PID} && exec "$@" < /dev/null > {hub.LOG} 2>&1'

# What every guest has on its way out.
USER_MODE_SUBNET = "10.0.2.0/24"


class SegmentNetworks(Networks):
    """See Networks."""

    def __init__(self, runtime: Runtime, scope: Scope) -> None:
        self.runtime = runtime
        self.scope = scope

    # Contract

    def require(self, network: Network) -> None:
        if not this_host().has_networks:
            raise NotSupported("networks of this kind need Linux")
        if network.mode == "bridged":
            raise MissingRequirement(
                f"the network {network.name} cannot be bridged",
                "only root attaches guests to an interface of the host",
                "Run as root (become: true), or use the mode nat or isolated.",
            )
        if network.subnet6:
            raise MissingRequirement(
                f"the network {network.name} cannot have the option subnet6",
                "networks of an ordinary user have IPv4 addresses only",
                "Run as root (become: true), or leave the option out.",
            )
        if network.reaches_host != (network.mode == "nat"):
            way = "the user-mode network of QEMU, their way out, leads to all services of the host"
            raise MissingRequirement(
                f"the {network.mode} network {network.name} cannot have host_access:"
                f" {'true' if network.reaches_host else 'false'}",
                way if network.mode == "nat" else "without root the host is not on it",
                "Run as root (become: true), take the other mode, or leave the option out.",
            )
        self.runtime.program("setsid", "util-linux", "to run the hub of a network in the background")

    def fill_in(self, network: Network, others: t.Sequence[Network]) -> None:
        self.require(network)
        network.domain = check_domain(network.domain)
        taken = [subnets.Taken(subnets.Subnet(USER_MODE_SUBNET), "the user-mode network of all guests")]
        taken += self._taken(network, others)
        # Two users of a host may well have the same: their networks never meet.
        start = zlib.crc32(f"{os.getuid()} {self.scope.networks.directory(network.name)}".encode())
        subnets.fill_in(network, taken, start)

    def is_up(self, network: Network) -> bool:
        return os.path.exists(self._path(network, hub.CONFIG))

    def drift(self, network: Network, members: t.Sequence[Member]) -> list[str]:
        found = []
        if self._read(network, hub.CONFIG) != self._config(network, members).encode():
            found.append("The hub of the network does not know the network's instances.")
        if self.used(network) and not self.runs(network):
            found.append("The hub of the network does not run, so its instances do not reach each other.")
        return found

    def problems(self, network: Network) -> list[str]:
        other = subnets.collision(subnets.parse_subnet(network.subnet), self._taken(network, ()))
        if other is None:
            return []
        return [
            f"The subnet {network.subnet} collides with {other.subnet}, {other.by}: what is there cannot be reached."
        ]

    def apply(self, network: Network, members: t.Sequence[Member]) -> None:
        make_dir(self.scope.networks.directory(network.name))
        config = self._config(network, members).encode()
        if self._read(network, hub.CONFIG) != config:
            # The hub sees by itself that it is another.
            write_file(self._path(network, hub.CONFIG), config)
            self.runtime.report.step("hub_config")
        program = systemd.program_of(hub)
        if self._read(network, hub.PROGRAM) != program:
            self._end(network)
            write_file(self._path(network, hub.PROGRAM), program)
            self.runtime.report.step("hub_program")
        if self.used(network):
            self._ensure(network)

    def remove(self, network: Network) -> None:
        self._end(network)
        directory = self.scope.networks.directory(network.name)
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(directory):
                if name.endswith(hub.PORT_SUFFIX):
                    remove_path(os.path.join(directory, name))
        # The configuration last: it tells that there is something left.
        for name in (hub.SOCKET, hub.PID, hub.LOG, hub.LEASES, hub.MEMBERS, HUB_LOCK, hub.PROGRAM, hub.CONFIG):
            remove_path(os.path.join(directory, name))
        self.runtime.report.step("no_hub")

    def leases(self, networks: t.Sequence[Network]) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for network in networks:
            found.update(leases.active(leases.read_leases(self.scope.networks.directory(network.name))))
        return found

    def _taken(self, network: Network, others: t.Iterable[Network]) -> list[subnets.Taken]:
        if find_program("ip") is None:
            # Guests need no more than that their own networks differ.
            return links.taken(network, others, (), ())
        there = links.read_links(self.runtime).values()
        return links.taken(network, others, there, links.read_routes(self.runtime))

    # For the drivers of guests

    def join(self, network: Network) -> int:
        """Have the hub run for a guest that is about to start, and return the descriptor that keeps it running.

        Whoever starts the guest hands it on to the guest's hypervisor: with the last one that is closed the hub ends.
        """
        with explained(f"the network {network.name} could not be joined"):
            member = open_lock(self._path(network, hub.MEMBERS))
            try:
                # A hub that is just ending has the lock, and a moment later there is none.
                fcntl.flock(member, fcntl.LOCK_SH)
                self._ensure(network)
            except BaseException:
                os.close(member)
                raise
        return member

    def sockets(self, network: Network, mac: str) -> tuple[str, str]:
        """The paths of the socket of a guest's interface, and of that which it sends to."""
        name = f"{mac.lower().replace(':', '')}{hub.PORT_SUFFIX}"
        return self._path(network, name), self._path(network, hub.SOCKET)

    def runs(self, network: Network) -> bool:
        """Whether the hub runs; cheap."""
        return hub_runs(self.scope.networks.directory(network.name))

    def used(self, network: Network) -> bool:
        """Whether a guest that runs is on the network."""
        if is_locked(self._path(network, hub.MEMBERS), fcntl.LOCK_EX):
            return True
        # One that another program has started has no descriptor of ours, but it has its socket.
        with contextlib.suppress(OSError):
            directory = self.scope.networks.directory(network.name)
            for name in os.listdir(directory):
                if name.endswith(hub.PORT_SUFFIX) and _is_read(os.path.join(directory, name)):
                    return True
        return False

    # The hub

    def _path(self, network: Network, name: str) -> str:
        return os.path.join(self.scope.networks.directory(network.name), name)

    def _read(self, network: Network, name: str) -> bytes:
        try:
            with open(self._path(network, name), "rb") as stream:
                return stream.read()
        except OSError:
            return b""

    @staticmethod
    def _config(network: Network, members: t.Sequence[Member]) -> str:
        known = {
            member.mac: hub.Guest(member.name, next((each for each in member.addresses if ":" not in each), ""))
            for member in members
        }
        return hub.Config(network.subnet, network.domain, known, network.mode == "nat", network.mtu).to_text()

    def _ensure(self, network: Network) -> None:
        """Have the hub run."""
        descriptors = []
        with explained(f"the hub of the network {network.name} could not be started"):
            descriptors.append(open_lock(self._path(network, HUB_LOCK)))
            try:
                try:
                    fcntl.flock(descriptors[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return  # it runs, or somebody else starts it
                for name in (hub.SOCKET, hub.PID):
                    remove_path(self._path(network, name))
                # The hub gets its socket open: what guests send from now on waits for it.
                inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                with inbox, short_path(self._path(network, hub.SOCKET)) as address:
                    inbox.bind(address)
                    os.chmod(address, 0o600)
                    descriptors.append(os.dup(inbox.fileno()))
                self._spawn(network, descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def _spawn(self, network: Network, descriptors: list[int]) -> None:
        setsid = self.runtime.program("setsid", "util-linux", "to run the hub of a network in the background")
        if not self._read(network, hub.PROGRAM):
            write_file(self._path(network, hub.PROGRAM), systemd.program_of(hub))
        argv = [setsid, "--fork", "sh", "-c", _LAUNCHER, "sh", sys.executable, "-I", hub.PROGRAM, str(descriptors[1])]
        self.runtime.report.step("hub")
        this_host().start_background(
            self.runtime,
            argv,
            f"the hub of the network {network.name} could not be started",
            f"Network {network.name} of minicloud.local",
            cwd=self.scope.networks.directory(network.name),
            pass_fds=descriptors,
        )
        self.runtime.report.step("hub_started")

    def _end(self, network: Network) -> None:
        """End the hub, and return when it is gone; all the same if it does not run."""
        for dummy in Deadline(10).pauses():
            if not self.runs(network):
                return
            # The lock is held, so the process that wrote this file is the one that holds it, or is about to.
            with contextlib.suppress(OSError, ValueError):
                descriptor = os.pidfd_open(int(self._read(network, hub.PID)))
                try:
                    if self.runs(network):
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                        select.select([descriptor], [], [], 5)
                finally:
                    os.close(descriptor)
        raise HypervisorError(f"the hub of the network {network.name} could not be ended", "it survives even SIGKILL")


def _is_read(path: str) -> bool:
    """Whether a process has a datagram socket open."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out, short_path(path) as address:
        try:
            out.connect(address)
        except OSError:
            return False
    return True
