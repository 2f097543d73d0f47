# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.
"""Networks of the mode bridged: instances on a link of this host's, beside it.

The parent of such a network is a bridge that is there already, which stays as it is; or a physical interface. Of that,
a bridge of ours takes the place, addresses and routes and all; or each instance has a macvtap on it.
What the interface had is noted in the network's directory before the first change.
"""

from __future__ import annotations

import ipaddress
import os
import random
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InUse,
    InvalidOption,
    MinicloudError,
)
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import managers, probe
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.guard import Guard, Watch
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.interfaces import (
    BRIDGE,
    MACVTAP,
    SYSFS,
    Interface,
    read_interfaces,
)
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.uplink import (
    Uplink,
    add_commands,
    merged,
    read_uplink,
    remove_commands,
    renamed,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    LINES,
    NUMBER,
    TEXT,
    TEXTS,
    Field,
    RecordKind,
    one_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import read_record, write_record
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_path

_NOTES = "uplink.json"

# What notes are about: a change that has begun, one that is complete, one that is being taken back.
_OVER, _THERE, _BACK = "over", "there", "back"


def _is_uplink(value: t.Any) -> bool:
    if not isinstance(value, dict) or not set(Uplink._fields) <= value.keys():
        return False
    lists = [value["addresses"], value["routes"]]
    return (
        TEXT.holds(value["mac"])
        and NUMBER.holds(value["mtu"])
        and TEXTS.holds(value["settings"])
        and all(isinstance(each, list) and all(isinstance(entry, dict) for entry in each) for each in lists)
    )


_MOVED = RecordKind(
    "how an interface was put into a bridge",
    1,
    {
        "phase": one_of(_OVER, _THERE, _BACK)._replace(required=True),
        "parent": TEXT._replace(required=True),
        "answered": LINES._replace(required=True),
        "uplink": Field(_is_uplink, "what an interface had", required=True),
    },
)

_NO_IPV6 = "ipv6/disable_ipv6"

# Seconds for a gateway to answer before a change, and after it: some switches and network cards take their time.
_ASK_BEFORE, _ASK_AFTER = 3.0, 15.0


class Bridged:
    """Makes bridged networks. directory_of -- where what is known of a network is kept, by its name"""

    def __init__(self, runtime: Runtime, directory_of: t.Callable[[str], str], sysfs: str = SYSFS) -> None:
        self.runtime = runtime
        self.directory_of = directory_of
        self.sysfs = sysfs

    # The methods of Networks, see there.

    def require(self, network: Network) -> None:
        self._ip()

    def fill_in(self, network: Network, others: t.Sequence[Network]) -> None:
        for option in ("subnet", "subnet6", "dhcp_range"):
            if getattr(network, option):
                raise InvalidOption(
                    f"{option} cannot be given to the bridged network {network.name}",
                    "on a bridged network, whoever gives out addresses on the link of its parent does so",
                    "Leave it out, or take the mode nat or isolated.",
                )
        found = self._interfaces(others)
        parent = self._parent(network, found)
        wanted = network.bridge_type
        moved = self._notes(network) is not None
        if wanted not in parent.types and not moved:
            raise InvalidOption(
                f"the parent {parent.name} of the network {network.name} cannot be used with bridge_type: {wanted}",
                parent.reason,
                _choices(found),
            )
        if network.mtu and network.mtu != parent.mtu:
            raise InvalidOption(
                f"mtu {network.mtu} cannot be given to the bridged network {network.name}",
                f"it has that of its parent {parent.name}, {parent.mtu}",
                "Leave it out, or change the parent's.",
            )
        if wanted == MACVTAP or parent.kind == BRIDGE:
            network.interface = parent.name
            return
        if not network.confirm_bridge:
            raise InvalidOption(
                f"the network {network.name} would make a bridge of {parent.name}",
                f"its addresses ({', '.join(parent.addresses) or 'none'}) and routes would move to the bridge, which"
                " can cut this host off",
                "Set confirm_bridge: true of minicloud.local.network to have that done, name a bridge that is there"
                " already, or set bridge_type: macvtap.",
            )
        if not moved:
            self._check_movable(parent.name)
        if not network.interface or network.interface == network.parent:
            network.interface = _free_name(found)

    def drift(self, network: Network) -> list[str]:
        """How what is there differs from the record, as sentences."""
        links = self._interfaces(())
        parent = links.get(network.parent)
        if parent is None:
            return [f"The parent {network.parent} is missing."]
        if not _makes_bridge(network):
            if network.bridge_type == BRIDGE and parent.kind != BRIDGE:
                return [f"The parent {network.parent} is no bridge any more."]
            return [] if parent.up else [f"The parent {network.parent} is down."]
        notes = self._notes(network)
        bridge = links.get(network.interface)
        if notes is None or bridge is None:
            return [f"The bridge {network.interface} is missing."]
        found = []
        if notes["phase"] != _THERE:
            found.append(f"Moving what {network.parent} has to the bridge {network.interface} was interrupted.")
        if bridge.kind != BRIDGE:
            found.append(f"The interface {network.interface} is not a bridge.")
        if parent.master != network.interface:
            found.append(f"The interface {network.parent} is not in the bridge {network.interface}.")
        found += [
            f"The interface {each} is down." for each in (network.interface, network.parent) if not links[each].up
        ]
        stray = [each for each in parent.addresses if not each.startswith("fe80:")]
        found += [f"The address {each} is on {network.parent} instead of the bridge." for each in stray]
        return found

    def problems(self, network: Network) -> list[str]:
        """What keeps the network from working and apply() cannot put right, as sentences."""
        found = []
        parent = self._interfaces(()).get(network.parent)
        if parent and not parent.up and not _makes_bridge(network):
            found.append(f"The interface {network.parent} is down: nothing reaches anybody through it.")
        return found

    def is_up(self, network: Network) -> bool:
        """Whether apply() has made anything of the network that is not removed yet; cheap."""
        return os.path.exists(self._notes_path(network))

    def apply(self, network: Network) -> None:
        """Have the bridge be there, with all that its parent had."""
        links = self._interfaces(())
        if network.parent not in links:
            raise HypervisorError(
                f"the network {network.name} cannot be used", f"this host has no interface {network.parent} any more"
            )
        if not _makes_bridge(network):
            if network.bridge_type == BRIDGE and links[network.parent].kind != BRIDGE:
                raise HypervisorError(
                    f"the network {network.name} cannot be used",
                    f"{network.parent} was a bridge when it was made, and is of the kind"
                    f" {links[network.parent].kind} now",
                    "Make the bridge again, or remove the network and make it anew.",
                )
            return
        guard = self._guard(network)
        guard.wait()
        if not self.drift(network):
            return
        self._check_movable(network.parent)
        self._move_over(network, guard)

    def remove(self, network: Network) -> None:
        """Put back what apply() moved; all the same if there is nothing of it."""
        guard = self._guard(network)
        guard.wait()
        notes = self._notes(network)
        if notes is None:
            return
        self._move_back(network, guard, notes)
        guard.forget()
        remove_path(self._notes_path(network))
        self.runtime.report.step("uplink_forgotten")

    # From the uplink to the bridge

    def _move_over(self, network: Network, guard: Guard) -> None:
        parent, bridge = self._both(network)
        notes = self._notes(network) or {}
        had = self._had(notes, parent, bridge, guard)
        if parent.addresses or "answered" not in notes:
            answered = [each for each in had.gateways() if _answers(network.parent, had, each, _ASK_BEFORE)]
        else:
            answered = notes["answered"]
        had_before = {**notes.get("uplink", {}), **had._asdict()}
        notes = {
            **notes,
            "phase": _OVER,
            "parent": network.parent,
            "answered": answered,
            "uplink": had_before,
        }
        self._note(network, notes)
        self.runtime.report.step("uplink_noted")
        name, port = network.interface, network.parent
        _inherit({key: value for key, value in had.settings.items() if key == _NO_IPV6}, port)
        if bridge is None:
            self._run([f"link add name {name} address {had.mac} mtu {had.mtu} type bridge stp_state 0 forward_delay 0"])
            self.runtime.report.step("uplink_bridge")
            undo = [f"link set dev {port} nomaster", f"link delete dev {name} type bridge"]
        else:  # instances may be on it
            undo = [*remove_commands(renamed(had, port, name), name), f"link set dev {port} nomaster"]
        _inherit(had.settings, name)
        undo += [f"link set dev {port} up", *add_commands(had, port, port)]
        commands = [f"link set dev {name} up", f"link set dev {port} up", *remove_commands(parent, port)]
        commands += [f"link set dev {port} master {name}", *add_commands(had, port, name, bridge)]
        with guard.undoing(undo) as watch:
            self.runtime.report.step("uplink_guarded")
            failure = self._tried(commands, watch)
            self.runtime.report.step("uplink_moved")
            reason = failure or self._lost(network, had, answered)
            if not reason:
                watch.keep()
        if not reason and self._is_over(network):
            self.runtime.report.step("uplink_kept")
            # IPv6 addresses and routes that the kernel gives the port by itself would compete with those of the bridge.
            _write_setting(port, _NO_IPV6, "1")
            self._note(network, {**notes, "phase": _THERE})
            return
        self._check_undone(network, had)
        remove_path(self._notes_path(network))
        raise HypervisorError(
            f"{port} was not put into a bridge for the network {network.name}",
            f"{reason or 'it took too long'}; all was put back as it was",
            "See whether the switch or the hypervisor that this host is on allows further MAC addresses on its port,"
            " or take bridge_type: macvtap.",
        )

    @staticmethod
    def _had(notes: t.Mapping[str, t.Any], parent: Uplink, bridge: Uplink | None, guard: Guard) -> Uplink:
        """All that was the parent's before the first change, wherever it is now."""
        if not notes:
            return parent
        saved = Uplink(**{name: notes["uplink"][name] for name in Uplink._fields})
        parts = [parent, bridge] if bridge else [parent]
        bare = not any(part.addresses for part in parts)
        # The notes count while a change is half done, and when the addresses are on neither interface any more.
        if bare or (notes["phase"] != _THERE and (bridge or guard.unfinished())):
            parts.append(saved)
        # A port of ours has no IPv6, and does not tell what it was like before.
        return merged(parts)._replace(settings=saved.settings if bridge or bare else parent.settings)

    def _lost(self, network: Network, had: Uplink, answered: t.Sequence[str]) -> str:
        """What of the host's connection is gone since the change, as a clause; empty: nothing."""
        now = read_uplink(self.runtime, self._ip(), network.interface)
        if now is None:
            return f"the bridge {network.interface} has gone"
        for family in (4, 6):
            if had.has_default_route(family) and not now.has_default_route(family):
                return f"the host lost its IPv{family} default route"
        for gateway in answered:
            if not _answers(network.interface, now, gateway, _ASK_AFTER):
                return f"the gateway {gateway} answered before, and no more through the bridge"
        return ""

    def _is_over(self, network: Network) -> bool:
        links = self._interfaces(())
        return network.interface in links and links[network.parent].master == network.interface

    def _check_undone(self, network: Network, had: Uplink) -> None:
        now = read_uplink(self.runtime, self._ip(), network.parent)
        lacking = set(had.addresses_text()) - set(now.addresses_text() if now else ())
        if lacking:
            raise HypervisorError(
                f"{network.parent} could not be put into a bridge, and not be put back as it was",
                f"it lacks {', '.join(sorted(lacking))}",
                f"What it had is in {self._notes_path(network)}; have the host's own network configuration set it up.",
            )

    # From the bridge back to the uplink

    def _move_back(self, network: Network, guard: Guard, notes: dict[str, t.Any]) -> None:
        name, port = network.interface, notes["parent"]
        links = self._interfaces(())
        if port not in links:
            self.runtime.report.warn(f"The interface {port} has gone: what the bridge {name} had is dropped.")
            if name in links:
                self._run([f"link delete dev {name} type bridge"])
            return
        parent, bridge = self._both(network)
        had = self._had(notes, parent, bridge, guard)
        self._note(network, {**notes, "phase": _BACK, "uplink": {**notes["uplink"], **had._asdict()}})
        self.runtime.report.step("uplink_noted")
        _inherit({key: value for key, value in had.settings.items() if key == _NO_IPV6}, port)
        # Without what is on the bridge, the bridge goes; nobody gets stuck with half of it.
        away = [f"link set dev {port} nomaster"] if links[port].master == name else []
        away += [f"link delete dev {name} type bridge"] if bridge else []
        commands = [*away, f"link set dev {port} up", *add_commands(had, port, port, parent)]
        with guard.undoing([*away, f"link set dev {port} up", *add_commands(had, port, port)]) as watch:
            self.runtime.report.step("uplink_guarded")
            failure = self._tried(commands, watch)
            self.runtime.report.step("uplink_back")
            if not failure:
                watch.keep()
        self._check_undone(network, had)
        for gateway in notes["answered"]:
            if not _answers(port, had, gateway, _ASK_AFTER):
                self.runtime.report.warn(f"The gateway {gateway} does not answer on {port}.")

    # Parts

    def _ip(self) -> str:
        return self.runtime.program("ip", "iproute2", "to make networks")

    def _run(self, commands: t.Sequence[str], descriptors: t.Sequence[int] = ()) -> None:
        text = "".join(f"{command}\n" for command in commands)
        argv = [self._ip(), "-batch", "-"]
        self.runtime.check(argv, "the network could not be changed", stdin=text.encode(), pass_fds=descriptors)

    def _tried(self, commands: t.Sequence[str], watch: Watch) -> str:
        """Carry out some commands of ip, at one go; what failed, as a clause."""
        try:
            self._run(commands, (watch.descriptor,))
        except MinicloudError as exc:
            return exc.why.splitlines()[0] if exc.why else exc.what
        return ""

    def _guard(self, network: Network) -> Guard:
        return Guard(self.runtime, self.directory_of(network.name), self._ip())

    def _interfaces(self, networks: t.Iterable[Network]) -> dict[str, Interface]:
        own = {each.interface: each.name for each in networks if each.interface and each.interface != each.parent}
        return read_interfaces(self.runtime, own, self.sysfs)

    def _parent(self, network: Network, found: t.Mapping[str, Interface]) -> Interface:
        if not network.parent:
            raise InvalidOption(f"the bridged network {network.name} needs a parent", hint=_choices(found))
        if network.parent not in found:
            raise InvalidOption(
                f"the parent {network.parent!r} of the network {network.name} is not an interface of this host",
                hint=_choices(found),
            )
        return found[network.parent]

    def _both(self, network: Network) -> tuple[Uplink, Uplink | None]:
        """What the parent and the bridge have now, both as if they were the parent's."""
        parent = read_uplink(self.runtime, self._ip(), network.parent)
        if parent is None:
            raise HypervisorError(f"the interface {network.parent} has just gone")
        bridge = read_uplink(self.runtime, self._ip(), network.interface)
        return parent, renamed(bridge, network.interface, network.parent) if bridge else None

    def _check_movable(self, name: str) -> None:
        manager = managers.manager_of(name, _index(self.runtime, self._ip(), name))
        if manager is None:
            return
        if manager.lasting:
            raise InUse(
                f"{name} cannot be put into a bridge",
                f"{manager.name} looks after it, and would give it its addresses again",
                f"{manager.hint} Or set bridge_type: macvtap.",
            )
        self.runtime.report.warn(
            f"{manager.name} sets up {name} when this host starts; the bridge takes over when the network is used"
            f" again or by its autostart. {manager.hint}"
        )

    def _notes_path(self, network: Network) -> str:
        return os.path.join(self.directory_of(network.name), _NOTES)

    def _notes(self, network: Network) -> dict[str, t.Any] | None:
        return read_record(self._notes_path(network), _MOVED)

    def _note(self, network: Network, notes: t.Mapping[str, t.Any]) -> None:
        make_dir(self.directory_of(network.name))
        write_record(self._notes_path(network), _MOVED, notes)


def _makes_bridge(network: Network) -> bool:
    return network.bridge_type == BRIDGE and network.interface != network.parent


def _index(runtime: Runtime, ip: str, name: str) -> int:
    out = runtime.run([ip, "-o", "link", "show", "dev", name]).out
    number = out.partition(":")[0].strip()
    return int(number) if number.isdigit() else 0


def _free_name(found: t.Container[str]) -> str:
    while True:
        name = f"mcb{random.SystemRandom().randrange(1 << 32):08x}"
        if name not in found:
            return name


def _choices(found: t.Mapping[str, Interface]) -> str:
    able = [f"{each.name} ({' or '.join(each.types)})" for each in found.values() if each.types]
    return f"Interfaces that can be a parent: {', '.join(able)}." if able else "This host has none that could be one."


def _answers(interface: str, uplink: Uplink, gateway: str, seconds: float) -> bool:
    """Whether a gateway answers on an interface that has what UPLINK says."""
    source = ""
    for each in uplink.addresses:
        if each["family"] == "inet" and ":" not in gateway:
            own = ipaddress.IPv4Interface(f"{each['local']}/{each['prefixlen']}")
            if ipaddress.IPv4Address(gateway) in own.network or not source:
                source = str(own.ip)
    try:
        return probe.answers(interface, uplink.mac, gateway, source, Deadline(seconds))
    except OSError:
        return False


def _inherit(settings: t.Mapping[str, str], name: str) -> None:
    for key, value in settings.items():
        _write_setting(name, key, value)


def _write_setting(name: str, key: str, value: str) -> None:
    """Change a setting of the kernel; one that this kernel does not have, or not let change, stays as it is."""
    family, dummy, word = key.partition("/")
    path = f"/proc/sys/net/{family}/conf/{name}/{word}"
    try:
        with open(path, encoding="ascii") as stream:
            if stream.read().strip() == value:
                return
        with open(path, "w", encoding="ascii") as stream:
            stream.write(value)
    except OSError:
        pass
