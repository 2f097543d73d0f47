# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Ports of the host that lead to guests on a bridge of others, where the addresses are not this host's to choose.

The link is asked where a guest is, and what it said is noted: so a look at the notes tells whether ports lead astray.
A guest that does not answer at the moment, because it restarts, keeps what was noted.
"""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import MissingRequirement
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import firewall, links, lookup
from ansible_collections.minicloud.local.plugins.module_utils._model import PortForward
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import read_notes, write_record
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_path


class Guest(t.NamedTuple):
    """The interface of a running guest, and the ports of the host that are to lead to it."""

    mac: str
    forwards: tuple[PortForward, ...]


Docker = t.Callable[[], t.Sequence[firewall.DockerChain]]


class GuestPorts:
    """The forwards of one network. directory -- of the network; interface -- the bridge"""

    def __init__(self, runtime: Runtime, directory: str, interface: str) -> None:
        self.runtime = runtime
        self.directory = directory
        self.interface = interface
        self.table = firewall.port_table_name(interface, directory)
        self._setting = f"ipv4/conf/{interface}/route_localnet"

    @property
    def concerned(self) -> bool:
        """Whether anything was forwarded that nobody has taken away since."""
        return os.path.exists(self._path)

    @property
    def open(self) -> bool:
        """Whether some of what is forwarded is open to others than this host."""
        return bool(self._notes().get("open"))

    @property
    def _path(self) -> str:
        return os.path.join(self.directory, lookup.PORT_NOTES)

    def address(self, mac: str) -> str:
        """Where ports lead to a guest now; empty where none do."""
        return lookup.noted_addresses(self.directory).get(mac, "")

    def drift(self, guests: t.Sequence[Guest], ruleset: firewall.Ruleset, docker: Docker) -> list[str]:
        """How what is there differs from what is to be, as sentences."""
        return self._differences(self._notes(), _forwards(guests, self._addresses(guests)), ruleset, docker)

    def _differences(
        self,
        notes: dict[str, t.Any],
        forwards: tuple[tuple[PortForward, str], ...],
        ruleset: firewall.Ruleset,
        docker: Docker,
    ) -> list[str]:
        listing = ruleset.tables.get(self.table)
        if not forwards:
            return ["Ports are forwarded to nobody."] if listing is not None or notes else []
        found = []
        if listing is None:
            found.append("The firewall rules of forwarded ports are missing.")
        elif listing != notes.get("listing"):
            found.append("The firewall rules of forwarded ports were changed.")
        elif notes.get("rules") != self._digest(forwards):
            found.append("Forwarded ports do not lead to where their instances are now.")
        if _from_here(forwards) and links.read_sysctl(self._setting) not in ("1", None):
            found.append(f"The kernel setting net.{self._setting.replace('/', '.')} is not 1.")
        if _from_elsewhere(forwards) and any(
            firewall.lacking_docker_rules(chain, self.interface, self.table) for chain in docker()
        ):
            found.append("Docker's firewall does not let forwarded ports pass.")
        return found

    def apply(self, guests: t.Sequence[Guest], ruleset: firewall.Ruleset, docker: Docker) -> None:
        """Have the ports lead to where the guests are; to those that nobody knows where they are, later."""
        addresses = self._addresses(guests)
        forwards = _forwards(guests, addresses)
        if not forwards:
            self.remove(ruleset)
            return
        notes = self._notes()
        if not self._differences(notes, forwards, ruleset, docker):
            return
        # Noted before there is anything to be taken away.
        make_dir(self.directory)
        write_record(self._path, lookup.FORWARDS, notes)
        firewall.put_table(self.runtime, self.table, self._text(forwards))
        self.runtime.report.step("port_rules")
        # With the rule in place that keeps others from the loopback addresses.
        if _from_here(forwards):
            self._open_loopback(notes, ruleset)
        else:
            self._close_loopback(notes, ruleset)
        if _from_elsewhere(forwards):
            for chain in docker():
                firewall.add_docker_rules(self.runtime, chain, self.interface, self.table)
        else:
            firewall.remove_docker_rules(self.runtime, self.interface, self.table)
        listing = firewall.read_ruleset(self.runtime).tables.get(self.table, "")
        notes.update(addresses=addresses, rules=self._digest(forwards), listing=listing)
        notes["open"] = _from_elsewhere(forwards)
        write_record(self._path, lookup.FORWARDS, notes)
        self.runtime.report.step("ports_led")

    def remove(self, ruleset: firewall.Ruleset) -> None:
        """Take away all that apply() made; all the same if there is nothing of it."""
        notes = self._notes()
        if not self.concerned and self.table not in ruleset.tables:
            return
        self._close_loopback(notes, ruleset)
        if self.table in ruleset.tables:
            firewall.remove_table(self.runtime, self.table)
            self.runtime.report.step("no_port_rules")
        firewall.remove_docker_rules(self.runtime, self.interface, self.table)
        remove_path(self._path)

    def _addresses(self, guests: t.Sequence[Guest]) -> dict[str, str]:
        """Where ports are to lead to guests, by MAC; not to those that nobody knows where they are."""
        noted = lookup.noted_addresses(self.directory)
        known = {}
        for mac, now in lookup.find_guests(self.interface, [guest.mac for guest in guests]).items():
            before = noted.get(mac, "")
            # One of several stays the one that was chosen.
            address = before if before in now or not now else now[0]
            if address:
                known[mac] = address
        return known

    def _open_loopback(self, notes: dict[str, t.Any], ruleset: firewall.Ruleset) -> None:
        """Have the kernel let this host's loopback addresses reach guests; what the setting was before is noted."""
        now = links.read_sysctl(self._setting)
        if now is None:
            return
        if "route_localnet" not in notes:
            # Where another network of ours has set it, or this one whose notes are lost, the last takes it back.
            ours = self._shared(ruleset) or self.table in ruleset.tables
            notes["route_localnet"] = "0" if ours else now
            write_record(self._path, lookup.FORWARDS, notes)
            self.runtime.report.step("loopback_noted")
        if now != "1":
            links.write_sysctl(self._setting, "1")

    def _close_loopback(self, notes: dict[str, t.Any], ruleset: firewall.Ruleset) -> None:
        before = notes.get("route_localnet")
        if before is None:
            return
        if before != links.read_sysctl(self._setting) and not self._shared(ruleset):
            with contextlib.suppress(MissingRequirement):  # the bridge has gone, and its settings with it
                links.write_sysctl(self._setting, before)
        del notes["route_localnet"]
        write_record(self._path, lookup.FORWARDS, notes)

    def _shared(self, ruleset: firewall.Ruleset) -> bool:
        """Whether another network has ports on the same bridge."""
        common = firewall.port_table_name(self.interface)
        return any(name != self.table and name.startswith(common) for name in ruleset.tables)

    def _text(self, forwards: tuple[tuple[PortForward, str], ...]) -> str:
        return firewall.port_table_text(self.table, self.interface, forwards)

    def _digest(self, forwards: tuple[tuple[PortForward, str], ...]) -> str:
        return firewall.digest(self._text(forwards))

    def _notes(self) -> dict[str, t.Any]:
        return read_notes(self._path, lookup.FORWARDS)


def _forwards(guests: t.Iterable[Guest], addresses: t.Mapping[str, str]) -> tuple[tuple[PortForward, str], ...]:
    """The ports that are to lead to guests, each with the address of its guest."""
    return tuple(
        (port, addresses[guest.mac])
        for guest in guests
        for port in guest.forwards
        if guest.mac in addresses and port.host_port
    )


def _from_here(forwards: t.Iterable[tuple[PortForward, str]]) -> bool:
    """Whether any port is one of the loopback addresses."""
    return any(port.host_ip == "0.0.0.0" or port.host_ip.startswith("127.") for port, dummy in forwards)


def _from_elsewhere(forwards: t.Iterable[tuple[PortForward, str]]) -> bool:
    """Whether any port is open to others than this host."""
    return any(not port.host_ip.startswith("127.") for port, dummy in forwards)
