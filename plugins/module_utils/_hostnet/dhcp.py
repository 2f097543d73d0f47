# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The DHCP and DNS server of a network: a dnsmasq of its own, on the network's bridge and nowhere else.

Its configuration, leases and process id are in the network's directory, which only root reads. The hosts that it
serves are in a directory under /run: it reads them again when they change, with the rights of an ordinary user.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import struct
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    CommandFailed,
    HypervisorError,
    InUse,
    InvalidOption,
)
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._host import processes, systemd
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._writing import (
    make_dir,
    remove_leftovers,
    remove_path,
    write_file,
)

RUN = "/run/minicloud"

_CONFIG, _PID, _LEASES = "dnsmasq.conf", "dnsmasq.pid", "leases"
_DHCP_HOSTS, _DNS_HOSTS = "dhcp-hosts", "dns-hosts"

# Whom dnsmasq becomes once it has its sockets, first that exists.
_USERS = ("dnsmasq", "nobody")

# Guests keep an address over an hour without server, and ask every other minute whether it is still theirs.
_LEASE, _RENEWAL = 3600, 120

_DOMAIN = re.compile(r"(?=.{1,200}\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*\Z")


class Served(t.NamedTuple):
    """What a server depends on. first, last -- the addresses that it gives to hosts it does not know

    upstream -- whether it may ask other name servers
    """

    interface: str
    gateway: str
    netmask: str
    first: str
    last: str
    domain: str
    subnet6: str = ""
    mtu: int = 0
    upstream: bool = True


class Reservation(t.NamedTuple):
    """A host that keeps its address. address -- empty: it is not given one"""

    name: str
    mac: str
    address: str


def check_domain(text: str) -> str:
    """A domain that names of a network can end with, in its usual form. InvalidOption."""
    domain = text.lower().strip(".")
    if not _DOMAIN.match(domain):
        raise InvalidOption(
            f"domain {text!r} is not one that names can end with",
            hint="It has letters, digits and hyphens, with dots between its parts, such as minicloud or lab.internal.",
        )
    return domain


def program(runtime: Runtime) -> str:
    """The path of dnsmasq."""
    return runtime.program("dnsmasq", "dnsmasq-base (Debian, Ubuntu) or dnsmasq", "to give out addresses and names")


def run_dir(interface: str) -> str:
    """The directory of the hosts that the server of a network knows."""
    return os.path.join(RUN, interface)


def config_text(served: Served) -> str:
    """The configuration of a server."""
    directory = run_dir(served.interface)
    subnet6 = served.subnet6.partition("/")[0]
    lines = [
        f"interface={served.interface}",
        "except-interface=lo",
        "bind-interfaces",
        f"user={_identity().user}",
        f"group={_identity().group}",
        "no-hosts",
        f"addn-hosts={directory}/{_DNS_HOSTS}",
        f"domain={served.domain}",
        f"local=/{served.domain}/",
        "domain-needed",
        "bogus-priv",
        f"dhcp-range={served.first},{served.last},{served.netmask},{_LEASE}",
        f"dhcp-hostsfile={directory}/{_DHCP_HOSTS}",
        f"dhcp-option=option:T1,{_RENEWAL}",
        "dhcp-authoritative",
        "dhcp-no-override",
        "dhcp-lease-max=65536",
        # A host that we do not know might take the name of one that we do.
        "dhcp-ignore-names=tag:!known",
        # Each guest has an address of its own, so dnsmasq need not ask whether one is free.
        "no-ping",
    ]
    if served.subnet6:
        lines += ["enable-ra", f"dhcp-range={subnet6},ra-stateless,ra-names,64,{_LEASE}"]
    if served.mtu:
        lines.append(f"dhcp-option=option:mtu,{served.mtu}")
        lines += [f"ra-param={served.interface},mtu:{served.mtu},0,0"] if served.subnet6 else []
    if not served.upstream:
        lines += ["no-resolv", "dhcp-option=option:router"]
        lines += [f"ra-param={served.interface},0,0"] if served.subnet6 and not served.mtu else []
    return "".join(f"{line}\n" for line in lines)


def hosts_texts(domain: str, hosts: t.Sequence[Reservation]) -> tuple[str, str]:
    """What the server is told of its hosts: for DHCP and for DNS."""
    placed = [host for host in hosts if host.address]
    dhcp = "".join(f"{host.mac},{host.address},{host.name}\n" for host in placed)
    dns = "".join(f"{host.address} {host.name}.{domain} {host.name}\n" for host in placed)
    return dhcp, dns


class _Identity(t.NamedTuple):
    user: str
    group: str
    gid: int


def _identity() -> _Identity:
    """Whom dnsmasq becomes."""
    import grp
    import pwd

    for name in _USERS:
        with contextlib.suppress(KeyError):
            gid = pwd.getpwnam(name).pw_gid
            return _Identity(name, grp.getgrgid(gid).gr_name, gid)
    return _Identity("root", "root", 0)


def end_orphan(interface: str) -> bool:
    """End the dnsmasq that another program has started for an interface and lost; whether there was one."""
    option = os.fsencode(f"--interface={interface}")

    def meant(arguments: t.Sequence[bytes]) -> bool:
        return option in arguments and os.path.basename(arguments[0]) == b"dnsmasq"

    pid = processes.search(meant)
    with processes.held(pid, lambda each: meant(processes.arguments_of(each))) as found:
        return found is not None and processes.end(found)


class Server:
    """The server of the network whose records are in a directory."""

    def __init__(self, runtime: Runtime, directory: str, interface: str) -> None:
        self.runtime = runtime
        self.directory = directory
        self.interface = interface

    def pid(self) -> int:
        """The process of the server, 0 where it does not run."""
        with self._process() as found:
            return found[0] if found else 0

    @contextlib.contextmanager
    def _process(self, search: bool = False) -> t.Iterator[tuple[int, int] | None]:
        """The process that is the server, and a descriptor that is of this process and never of another with its id.

        search -- look for it also where the file with its id is lost
        """
        pid = 0
        with contextlib.suppress(OSError, ValueError):
            with open(self._path(_PID), encoding="ascii") as stream:
                pid = int(stream.read())
        if search and not self._is_ours(processes.arguments_of(pid)):
            pid = processes.search(self._is_ours)
        with processes.held(pid, lambda each: self._is_ours(processes.arguments_of(each))) as found:
            yield None if found is None else (pid, found)

    def _is_ours(self, arguments: t.Sequence[bytes]) -> bool:
        """Ours is who was started with this very file, however its path was spelled."""
        option, ours = b"--conf-file=", os.fsencode(self._path(_CONFIG))
        files = [each[len(option) :] for each in arguments if each.startswith(option)]
        return ours in files or os.path.realpath(ours) in map(os.path.realpath, files)

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def write_hosts(self, dhcp: str, dns: str) -> None:
        """Put in place what the server knows of its hosts, for it to read at its start or when told to."""
        with explained(f"{RUN} could not be written"):
            if not os.path.isdir(RUN):
                os.makedirs(RUN, exist_ok=True)
                os.chmod(RUN, 0o755)
            directory = make_dir(run_dir(self.interface))
            group = _identity().gid
            os.chown(directory, 0, group)
            os.chmod(directory, 0o750)
            remove_leftovers(directory)
            for name, text in ((_DHCP_HOSTS, dhcp), (_DNS_HOSTS, dns)):
                path = os.path.join(directory, name)
                write_file(path, text.encode(), 0o640)
                os.chown(path, 0, group)

    def reload(self) -> None:
        """Have the running server read its hosts again."""
        with self._process() as found:
            if found:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(found[1], signal.SIGHUP)

    def start(self, served: Served) -> None:
        """Start the server, instead of the one that runs. InUse where another holds its port."""
        self.stop()
        make_dir(self.directory)
        write_file(self._path(_CONFIG), config_text(served).encode())
        # Created here, because dnsmasq would create it as the user that it changes to.
        with explained(f"{self._path(_LEASES)} could not be made"):
            os.close(os.open(self._path(_LEASES), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        argv = [program(self.runtime), f"--conf-file={self._path(_CONFIG)}"]
        argv += [f"--pid-file={self._path(_PID)}", f"--dhcp-leasefile={self._path(_LEASES)}"]
        self.runtime.report.step("dnsmasq")
        try:
            title = f"Addresses and names on {self.interface} of minicloud.local"
            systemd.start(self.runtime, argv, f"dnsmasq could not be started on {self.interface}", title)
        except CommandFailed as exc:
            raise self._explained(exc, served) from exc

    def _explained(self, failure: CommandFailed, served: Served) -> Exception:
        if "address already in use" not in failure.why.lower() and "address in use" not in failure.why.lower():
            return failure
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet import ports

        number, protocol = (67, "udp") if "DHCP" in failure.why else (53, "udp")
        holder = ports.holder(number, protocol)
        return InUse(
            f"addresses and names cannot be served on {self.interface}",
            f"port {number} of {served.gateway} is taken by {holder or 'another process'}",
            f"Have it leave {self.interface} alone (of a dnsmasq: bind-interfaces, or except-interface="
            f"{self.interface}), or end it.",
            port=number,
        )

    def stop(self) -> None:
        """End the server and return when it has ended; all the same if it does not run."""
        with self._process(search=True) as found:
            if found is None:
                return
            if processes.end(found[1]):
                remove_path(self._path(_PID))
                return
        raise HypervisorError(f"dnsmasq of {self.interface} could not be ended", "it survives even SIGKILL")

    def remove(self) -> None:
        """End the server and take away what it left."""
        self.stop()
        for name in (_CONFIG, _PID, _LEASES):
            remove_path(self._path(name))
        remove_path(run_dir(self.interface))
        with contextlib.suppress(OSError):
            os.rmdir(RUN)

    def release(self, gateway: str, address: str, mac: str) -> None:
        """Have the server forget that it gave an address to a MAC, as if that one had said so itself."""
        hardware = bytes.fromhex(mac.replace(":", ""))
        message = struct.pack(
            "!BBBBIHH4s4s4s4s16s64s128sI", 1, 1, 6, 0, int.from_bytes(os.urandom(4), "big"), 0, 0,
            socket.inet_aton(address), bytes(4), bytes(4), bytes(4), hardware, b"", b"", 0x63825363,
        )  # fmt: skip
        message += b"\x35\x01\x07" + b"\x36\x04" + socket.inet_aton(gateway) + b"\xff"
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.interface.encode())
            out.sendto(message, (gateway, 67))

    def forget_offline(self, keep: t.Callable[[str, str], bool]) -> None:
        """Drop from the file of leases, while no server runs, those for which KEEP (MAC, address) is false."""
        try:
            with open(self._path(_LEASES), "rb") as stream:
                lines = stream.readlines()
        except FileNotFoundError:
            return
        kept = []
        for line in lines:
            fields = line.decode(errors="replace").split()
            if len(fields) < 4 or fields[1].count(":") != 5 or keep(fields[1].lower(), fields[2]):
                kept.append(line)
        if len(kept) != len(lines):
            write_file(self._path(_LEASES), b"".join(kept))
