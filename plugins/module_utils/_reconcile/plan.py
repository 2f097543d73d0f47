# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Desired and observed become a plan: a list of named steps. Pure: nothing here touches the host."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import ABOUT
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption, RestartRequired
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ABSENT,
    DEFAULT_CPUS,
    DEFAULT_DISK,
    DEFAULT_MEMORY,
    DEFAULT_TYPE,
    RUNNING,
    STOPPED,
    USER_NETWORK,
    Image,
    Instance,
    Nic,
    Observed,
    PortForward,
    format_size,
    key_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import Wish

# Steps that change nothing: they fetch, or wait.
_PASSIVE = frozenset({"wait_ready"})

# What an instance's record keeps of its image.
_IMAGE_KEYS = ("name", "hash", "path", "os", "release", "version", "firmware")

# What a running instance cannot take on unless its driver can.
_COLD = ("cpus", "memory", "disk")

# Steps that a hypervisor is told of where nothing else tells it.
RECONFIGURING = frozenset({"set_cpus", "set_memory", "set_autostart", "set_tags", "set_networks", "reconfigure"})


@dataclass
class Plan:
    """What to do, and what will be.

    steps -- names, in order; after -- the instance as it will be (None: gone), with what only the real run can know
    left empty; state -- that it will be in; drift -- what differs but is not acted on, as sentences
    """

    steps: list[str] = field(default_factory=list)
    after: Instance | None = None
    state: str = STOPPED
    drift: list[str] = field(default_factory=list)

    @property
    def changes(self) -> bool:
        """Whether carrying it out changes anything."""
        return any(step not in _PASSIVE for step in self.steps)


class Surroundings(t.NamedTuple):
    """What a plan depends on besides the instance.

    default_network -- of a first interface; networks -- that there are, by what names are compared by
    """

    host_arch: str
    driver: str
    default_network: str = USER_NETWORK
    networks: t.Collection[str] = ()


def make_plan(
    wish: Wish, current: Instance | None, observed: Observed | None, image: Image | None, around: Surroundings
) -> Plan:
    """The way from what is (current and observed; None: there is none) to what is wished.

    image -- the wished image if the vault has it. Raises InvalidOption or RestartRequired.
    """
    # What was removed at the hypervisor has no data left: what the task asks for is made anew.
    gone = observed is not None and observed.state == ABSENT
    leftovers = current is not None and (current.phase != "ready" or gone)
    if wish.state == "absent":
        return Plan(["delete"] if current else [], None, "absent")
    if current is None or leftovers or observed is None:
        return _creation(wish, image, around, ["remove_leftovers"] if leftovers else [])

    drift = _drift(wish, current, image)
    if drift and wish.recreate:
        return _creation(wish, image, around, ["delete"])
    return _change(wish, current, observed, drift, around)


def _creation(wish: Wish, image: Image | None, around: Surroundings, making_room: list[str]) -> Plan:
    after = Instance(
        name=wish.name,
        uuid="",
        scope="",
        driver=around.driver,
        owner=around.driver if wish.wants_running else "",
        created="",
        arch=wish.arch or around.host_arch,
        cpus=wish.cpus or DEFAULT_CPUS,
        memory=wish.memory or DEFAULT_MEMORY,
        disk=disk_size(wish, image),
        instance_type=wish.instance_type or DEFAULT_TYPE,
        user=wish.user or (image.user if image else ""),
        autostart=bool(wish.autostart),
        image=image_of(image) if image else {"name": str(wish.reference)},
        tags=dict(wish.tags or {}),
        ports=list(wish.ports or []),
        nics=list(wish.networks or [Nic(around.default_network, "")]),
        origin=dict(wish.origin),
    )
    # What is there goes only once the image is at hand.
    lacking = any(key_of(nic.network) not in (*around.networks, USER_NETWORK) for nic in after.nics)
    steps = [*([] if image else ["fetch_image"]), *making_room, *(["ensure_network"] if lacking else []), "create"]
    if wish.wants_running:
        steps.append("start")
        if wish.wait:
            steps.append("wait_ready")
    return Plan(steps, after, RUNNING if wish.wants_running else STOPPED)


def image_of(image: Image) -> dict[str, str]:
    """What an instance's record keeps of its image."""
    return {key: str(getattr(image, key)) for key in _IMAGE_KEYS}


def disk_size(wish: Wish, image: Image | None) -> int:
    """The size of a new disk: as asked, or the default, but never below the image's own."""
    own = image.virtual_size if image else 0
    if wish.disk is None:
        return max(DEFAULT_DISK, own)
    if wish.disk < own:
        raise InvalidOption(
            f"disk {format_size(wish.disk)} is smaller than the image {image.name if image else ''}",
            f"the image needs {format_size(own)}",
            "Ask for at least that, or leave the option out.",
        )
    return wish.disk


def _drift(wish: Wish, current: Instance, image: Image | None) -> list[str]:
    """What the task asks for that only counts when an instance is made, and that this one was not made with.

    image -- the wished image if the vault has it: one image can have many names
    """
    found = []
    name = current.image.get("name", "")
    same = image is not None and image.hash == current.image.get("hash")
    if wish.image is not None and str(wish.image) != name and not same:
        found.append(f"image is {name}, not {wish.image}")
    for option in ("instance_type", "arch", "user"):
        wanted, actual = getattr(wish, option), getattr(current, option)
        if wanted is not None and wanted != actual:
            found.append(f"{option} is {actual or 'unknown'}, not {wanted}")
    for option, fingerprint in wish.origin.items():
        if current.origin.get(option) != fingerprint:
            found.append(f"{option} differs from what the instance was made with")
    return found


def _cold_options(current: Instance, driver: str) -> tuple[str, ...]:
    """The options whose change needs an instance stopped."""
    live = ABOUT[current.owner or driver].can("live_resize", current.instance_type)
    return () if live else _COLD


def _change(wish: Wish, current: Instance, observed: Observed, drift: list[str], around: Surroundings) -> Plan:
    after = replace(current)
    running = observed.state == RUNNING
    changes = []
    for option in ("cpus", "memory", "disk", "autostart", "tags"):
        wanted = getattr(wish, option)
        if wanted is not None and wanted != getattr(current, option):
            setattr(after, option, wanted)
            changes.append(option)
    if after.disk < current.disk:
        raise InvalidOption(
            f"the disk of {current.name} cannot shrink from {format_size(current.disk)} to {format_size(after.disk)}",
            "that would cut off data",
            "Ask for more, or leave the option out.",
        )
    if wish.ports is not None and not same_ports(wish.ports, current.ports):
        after.ports = keep_chosen(wish.ports, current.ports)
        changes.append("ports")

    if wish.networks is not None:
        after.nics = keep_nics(wish.networks, current.nics)
        if after.nics != current.nics:
            changes.append("networks")

    colds = _cold_options(current, around.driver)
    cold = [option for option in colds if option in changes]
    # What it is attached to is the machine's; which address it has there is the network's.
    if "networks" in changes and _attachments(after.nics) != _attachments(current.nics):
        cold.append("networks")
    goes_down = wish.state in (STOPPED, "restarted")
    if cold and running and not goes_down and not wish.allow_restart:
        what = ", ".join(f"{option} from {_shown(option, current)} to {_shown(option, after)}" for option in cold)
        raise RestartRequired(
            f"{current.name} must be stopped to change {what}",
            hint="Set allow_restart: true to have it stopped, changed and started again, or stop it first.",
        )

    steps = []
    stops = running and (goes_down or bool(cold))
    if stops:
        steps.append("stop")
        after.ready = False
        after.owner = ""
    steps += [{"disk": "grow_disk"}.get(option, f"set_{option}") for option in changes]
    # A run that was cut off after the stop has left the start to this one.
    resumes = wish.state == "present" and (stops or (current.restarting and not running))
    if (wish.wants_running and (not running or stops)) or resumes:
        steps.append("start")
        running = True
        after.ready = False
        after.owner = ""
    elif stops:
        running = False
    elif observed.drift and not running:
        # Nothing else puts it right.
        steps.append("reconfigure")
    after.restarting = "start" in steps and (stops or current.restarting)
    if current.restarting and not running and not steps:
        steps.append("stay_stopped")
    if observed.severed and running and "start" not in steps:
        steps.append("repair_networks")
    resumed = wish.state == "present" and current.restarting and running
    if wish.wait and not after.ready and (wish.wants_running or "start" in steps or resumed):
        steps.append("wait_ready")
    return Plan(steps, after, RUNNING if running else STOPPED, drift)


def _shown(option: str, instance: Instance) -> str:
    if option == "networks":
        return ", ".join(nic.network for nic in instance.nics)
    value = getattr(instance, option)
    return str(value) if option == "cpus" else format_size(value)


def same_ports(wanted: t.Sequence[PortForward], actual: t.Sequence[PortForward]) -> bool:
    """Whether each wanted forward is there and no other, the order aside; a host port that was chosen counts."""
    return len(wanted) == len(actual) and set(keep_chosen(wanted, actual)) == set(actual)


def keep_chosen(wanted: t.Sequence[PortForward], actual: t.Sequence[PortForward]) -> list[PortForward]:
    """The wanted forwards, those without a host port with the one that was chosen for them earlier."""
    left = list(actual)
    kept = []
    for port in sorted(wanted, key=lambda each: not each.host_port):
        match = next((other for other in left if port.wants(other)), None)
        if match:
            left.remove(match)
        kept.append(match or port)
    return kept


def with_bridged(wish: Wish, bridged: Nic, current: Instance | None, around: Surroundings) -> list[Nic]:
    """The interfaces that a task asks for, with one more unless its network is among theirs."""
    nics = wish.networks
    if nics is None:
        nics = current.nics if current else [Nic(around.default_network, "")]
    there = any(key_of(nic.network) == key_of(bridged.network) for nic in nics)
    return list(nics) if there else [*nics, bridged]


def _attachments(nics: t.Iterable[Nic]) -> list[tuple[str, str]]:
    return [(key_of(nic.network), nic.mac.lower()) for nic in nics]


def keep_nics(wanted: t.Sequence[Nic], actual: t.Sequence[Nic]) -> list[Nic]:
    """The wanted interfaces, with the MAC and the address that those have which are there already."""
    left = list(actual)
    kept = []
    for nic in wanted:
        match = next(
            (each for each in left if key_of(each.network) == key_of(nic.network) and nic.mac in ("", each.mac)), None
        )
        if match:
            left.remove(match)
            # An address that is no longer asked for is as good as any other that the network may choose.
            lease = (match.lease or match.address) if nic.mode == "auto" and not nic.address else ""
            nic = replace(nic, network=match.network, mac=match.mac, lease=lease)
        kept.append(nic)
    return kept


def comparable(instance: Instance | None, state: str) -> dict[str, t.Any]:
    """An instance for a diff: what a task can ask for, without what only describes it."""
    if instance is None:
        return {"state": "absent"}
    return {
        "state": state,
        "name": key_of(instance.name),
        "image": instance.image.get("name", ""),
        "instance_type": instance.instance_type,
        "arch": instance.arch,
        "cpus": instance.cpus,
        "memory": instance.memory,
        "disk": instance.disk,
        "autostart": instance.autostart,
        "ports": [str(port) for port in instance.ports],
        "networks": [{"name": nic.network, "address": nic.address, "mode": nic.mode} for nic in instance.nics],
        "tags": instance.tags,
    }
