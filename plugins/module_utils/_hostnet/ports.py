# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Ports of the host: which are free, and what holds one that is not."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import InUse, InvalidOption, MissingRequirement
from ansible_collections.minicloud.local.plugins.module_utils._host import processes
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, PortForward

_TABLES = {"tcp": ("tcp", "tcp6"), "udp": ("udp", "udp6")}
_TCP_LISTEN = "0A"

# Where ports are chosen on a host that cannot be asked which are free: below those that systems give out themselves.
_UNSEEN_PORTS = range(20000, 32768)


def is_free(ip: str, port: int, protocol: str = "tcp") -> bool:
    """Whether this process could listen on a port now. OSError other than `in use` is the caller's to see."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as probe:
        if protocol == "tcp":
            # A connection that lingers from an earlier listener does not hold the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            return False
    return True


def choose(ip: str, protocol: str, taken: t.Container[int]) -> int:
    """A free port of the host that is not among those taken. OSError where nobody can listen on that address."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    for dummy in range(200):
        with socket.socket(family, kind) as probe:
            probe.bind((ip, 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port
    raise InUse(f"no free {protocol} port was found on {ip}", hint="End what holds the ports of this host.")


def holder(port: int, protocol: str = "tcp") -> str:
    """The process that listens on a port, such as `nginx (process 812)`; empty where that cannot be known."""
    inodes = set()
    for table in _TABLES[protocol]:
        with contextlib.suppress(OSError), open(f"/proc/net/{table}", encoding="ascii") as stream:
            for line in stream.readlines()[1:]:
                fields = line.split()
                listening = protocol == "udp" or fields[3] == _TCP_LISTEN
                if listening and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for pid in processes.all_ids() if inodes else ():
        for path in processes.open_files_of(pid):
            with contextlib.suppress(OSError):
                if os.readlink(path) in inodes:
                    return f"{processes.name_of(pid)} (process {pid})"
    return ""


def choose_all(
    instance: Instance,
    others: t.Iterable[Instance],
    held: t.Sequence[PortForward] | None = None,
    elsewhere: t.Sequence[PortForward] = (),
    with_ssh: bool = True,
) -> None:
    """Choose in the record of an instance the ports of the host that lead to it: see Driver.choose_ports.

    others -- instances whose ports are left to them, whether they run or not
    elsewhere -- ports that firewall rules lead to other instances, though nobody listens on them
    with_ssh -- whether it needs one for ssh as well
    """
    others = [other for other in others if other.uuid != instance.uuid]
    reserved = _ports_of(others)
    reserved.update(port.host_port for port in elsewhere)
    asked = {port.host_port for port in instance.ports if port.host_port}
    ours = {(port.host_port, port.protocol) for port in held or ()}
    chosen, picked = [], []
    for port in instance.ports:
        asked_for = port.host_port and port.host_port not in instance.chosen_ports
        led_away = any(_clash(port, other) for other in elsewhere)
        kept = (port.host_port, port.protocol) in ours or (port.host_port and not led_away and _may_have(port))
        if not kept and asked_for:
            raise InUse(
                f"port {port.host_port}/{port.protocol} of {port.host_ip} is taken",
                _why_taken(port, others, led_away),
                "Choose another host port, or end what holds it.",
                port=port.host_port,
            )
        if not kept:  # nobody asked for this very port: another one does as well
            with _usable(port):
                port = port._replace(host_port=choose(port.host_ip, port.protocol, reserved | asked))
            asked.add(port.host_port)
            picked.append(port.host_port)
        chosen.append(port)
    instance.ports = chosen
    ours_still = {port.host_port for port in chosen} & set(instance.chosen_ports)
    instance.chosen_ports = sorted({*ours_still, *picked})
    ssh = instance.ssh_port
    if held is not None or not with_ssh:
        return
    if not ssh or ssh in asked or ssh in reserved or not is_free("127.0.0.1", ssh):
        instance.ssh_port = choose("127.0.0.1", "tcp", reserved | asked)


def choose_unseen(instance: Instance, others: t.Iterable[Instance]) -> None:
    """Choose the ports on another host that lead to an instance; whether they are free is seen when it is started.

    others -- instances whose ports are left to them
    """
    taken = _ports_of(other for other in others if other.uuid != instance.uuid)
    taken.update(port.host_port for port in instance.ports)
    chosen = []
    for port in instance.ports:
        if not port.host_port:
            port = port._replace(host_port=_pick_unseen(taken))
            instance.chosen_ports = sorted({*instance.chosen_ports, port.host_port})
            taken.add(port.host_port)
        chosen.append(port)
    instance.ports = chosen
    if not instance.ssh_port or any(port.host_port == instance.ssh_port for port in chosen):
        instance.ssh_port = _pick_unseen(taken)


def give_back(instance: Instance, port: int | None) -> bool:
    """Have a port that turned out to be taken chosen anew in the record; False where it was asked for by number."""
    if port and port == instance.ssh_port:
        instance.ssh_port = 0
    elif port in instance.chosen_ports:
        instance.ports = [each._replace(host_port=0) if each.host_port == port else each for each in instance.ports]
        instance.chosen_ports = [each for each in instance.chosen_ports if each != port]
    else:
        return False
    return True


def _ports_of(instances: t.Iterable[Instance]) -> set[int]:
    """The ports in the records of some instances, those for ssh among them. What is deleted keeps none."""
    there = (each for each in instances if not each.deleted)
    return {port for each in there for port in (each.ssh_port, *(port.host_port for port in each.ports))}


def _pick_unseen(taken: t.Container[int]) -> int:
    return random.SystemRandom().choice([port for port in _UNSEEN_PORTS if port not in taken])


def _why_taken(port: PortForward, others: t.Iterable[Instance], led_away: bool) -> str:
    for other in others:
        # Whether a rule leads it there or a process of the hypervisor listens for it.
        if other.owner and any(_clash(port, each) for each in other.ports):
            return f"the instance {other.name} has it"
    if led_away:
        return "an instance of another data directory has it"
    return f"{holder(port.host_port, port.protocol) or 'another process of this host'} listens on it"


def _clash(port: PortForward, other: PortForward) -> bool:
    same = (port.host_port, port.protocol) == (other.host_port, other.protocol)
    return same and (port.host_ip == other.host_ip or "0.0.0.0" in (port.host_ip, other.host_ip))


def _may_have(port: PortForward) -> bool:
    with _usable(port):
        return is_free(port.host_ip, port.host_port, port.protocol)


@contextlib.contextmanager
def _usable(port: PortForward) -> t.Iterator[None]:
    """Say why a port of the host cannot be forwarded, if that is not because it is taken."""
    try:
        yield
    except PermissionError as exc:
        raise MissingRequirement(
            f"port {port.host_port} cannot be forwarded",
            "ports below 1024 belong to root",
            "Choose a host port from 1024 on, or run as root.",
        ) from exc
    except OSError as exc:
        raise InvalidOption(
            f"port {port} cannot be forwarded",
            f"{port.host_ip} is not an address of this host ({exc.strerror})",
            "Use an address that it has, such as 127.0.0.1, or 0.0.0.0 for all of them.",
        ) from exc
