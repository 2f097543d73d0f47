# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Desired and observed become a plan: a list of named steps. Pure: nothing here touches the host."""

from __future__ import annotations

import typing as t
from dataclasses import field, replace

from ansible_collections.minicloud.local.plugins.module_utils._dataclass import dataclass
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import ABOUT
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InUse,
    InvalidOption,
    NotFound,
    RestartRequired,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ABSENT,
    DEFAULT_CPUS,
    DEFAULT_DISK,
    DEFAULT_MEMORY,
    DEFAULT_TYPE,
    DELETED,
    FULL,
    LINKED,
    PAUSED,
    RUNNING,
    STOPPED,
    SUSPENDED,
    UP,
    USER_NETWORK,
    Instance,
    Mount,
    Nic,
    Observed,
    PortForward,
    format_size,
    key_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import Wish

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._image import Image

# Steps that change nothing: they fetch, or wait.
_PASSIVE = frozenset({"wait_ready"})

# Steps that come when all others are done, each under a lock of its own or none.
AT_THE_END = ("wait_ready", "mount")

# What an instance's record keeps of its image.
_IMAGE_KEYS = ("name", "hash", "path", "os", "release", "version", "firmware")

# Options that only a stopped instance can take on, unless its driver has live_resize.
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


class Parent(t.NamedTuple):
    """What a clone is made of.

    then -- the record of the moment whose disk it gets; source -- what its own record keeps of that
    """

    then: Instance
    source: t.Mapping[str, str]


class Surroundings(t.NamedTuple):
    """What a plan depends on besides the instance.

    default_network -- of a first interface; networks -- that there are, by what names are compared by
    parent -- what a new instance is made of that is to be a clone
    sizes -- cpus, memory and disk of a new instance whose task names none, as far as they are set; bytes
    """

    host_arch: str
    driver: str
    default_network: str = USER_NETWORK
    networks: t.Collection[str] = ()
    parent: Parent | None = None
    sizes: t.Mapping[str, int] = {}


# What can be there when a task begins, besides the states that an instance can be in:
# leftovers -- parts in which no guest has ever written anything; removing -- what a removal that was cut off has left,
# the instance's data above all; restarting -- stopped by a run that did not come to start it again; stopping -- up, and
# told to stop by a run that did not see it do so
LEFTOVERS, REMOVING, RESTARTING, STOPPING = "leftovers", "removing", "restarting", "stopping"
# moved -- somebody has given it another name or place at the hypervisor
MOVED = "moved"

# In the tables below: where the steps stand that carry out what the task changes, such as set_cpus; and that the task
# is refused.
CHANGES, REFUSED = "CHANGES", "REFUSED"

WISHES = (RUNNING, "present", STOPPED, "restarted", SUSPENDED, DELETED, ABSENT)

# The steps from what is there (rows) to what a task wishes (columns).
WAYS: dict[str, dict[str, str]] = {
    ABSENT: {
        RUNNING: "create start",
        "present": "create",
        STOPPED: "create",
        "restarted": "create start",
        SUSPENDED: "create start suspend",
        DELETED: "",
        ABSENT: "",
    },
    LEFTOVERS: {
        RUNNING: "remove_leftovers create start",
        "present": "remove_leftovers create",
        STOPPED: "remove_leftovers create",
        "restarted": "remove_leftovers create start",
        SUSPENDED: "remove_leftovers create start suspend",
        DELETED: "delete",
        ABSENT: "delete",
    },
    REMOVING: {
        RUNNING: "REFUSED",
        "present": "REFUSED",
        STOPPED: "REFUSED",
        "restarted": "REFUSED",
        SUSPENDED: "REFUSED",
        DELETED: "REFUSED",
        ABSENT: "delete",
    },
    MOVED: {
        RUNNING: "REFUSED",
        "present": "REFUSED",
        STOPPED: "REFUSED",
        "restarted": "REFUSED",
        SUSPENDED: "REFUSED",
        DELETED: "REFUSED",
        ABSENT: "REFUSED",
    },
    STOPPED: {
        RUNNING: "CHANGES start",
        "present": "CHANGES",
        STOPPED: "CHANGES",
        "restarted": "CHANGES start",
        SUSPENDED: "CHANGES start suspend",
        DELETED: "soft_delete",
        ABSENT: "delete",
    },
    RESTARTING: {
        RUNNING: "CHANGES start",
        "present": "CHANGES start",
        STOPPED: "stay_stopped CHANGES",
        "restarted": "CHANGES start",
        SUSPENDED: "CHANGES start suspend",
        DELETED: "soft_delete",
        ABSENT: "delete",
    },
    RUNNING: {
        RUNNING: "CHANGES",
        "present": "CHANGES",
        STOPPED: "stop CHANGES",
        "restarted": "stop CHANGES start",
        SUSPENDED: "CHANGES suspend",
        DELETED: "stop soft_delete",
        ABSENT: "delete",
    },
    STOPPING: {
        RUNNING: "await_stop CHANGES start",
        "present": "await_stop CHANGES",
        STOPPED: "stop CHANGES",
        "restarted": "stop CHANGES start",
        SUSPENDED: "await_stop CHANGES start suspend",
        DELETED: "stop soft_delete",
        ABSENT: "delete",
    },
    PAUSED: {
        RUNNING: "CHANGES resume",
        "present": "CHANGES",
        STOPPED: "stop CHANGES",
        "restarted": "stop CHANGES start",
        SUSPENDED: "CHANGES suspend",
        DELETED: "stop soft_delete",
        ABSENT: "delete",
    },
    SUSPENDED: {
        RUNNING: "CHANGES start",
        "present": "CHANGES",
        STOPPED: "start stop CHANGES",
        "restarted": "start stop CHANGES start",
        SUSPENDED: "CHANGES",
        DELETED: "start stop soft_delete",
        ABSENT: "delete",
    },
    DELETED: {
        RUNNING: "recover CHANGES start",
        "present": "recover CHANGES",
        STOPPED: "recover CHANGES",
        "restarted": "recover CHANGES start",
        SUSPENDED: "recover CHANGES start suspend",
        DELETED: "",
        ABSENT: "delete",
    },
}

# The same where something changes that only a stopped instance takes on, such as cpus, and the steps above would have
# it up meanwhile: these are taken with allow_restart alone.
WAYS_DOWN: dict[tuple[str, str], str] = {
    (RUNNING, RUNNING): "stop CHANGES start",
    (RUNNING, "present"): "stop CHANGES start",
    (RUNNING, SUSPENDED): "stop CHANGES start suspend",
    (PAUSED, RUNNING): "stop CHANGES start",
    (PAUSED, "present"): "stop CHANGES start",
    (PAUSED, SUSPENDED): "stop CHANGES start suspend",
    (SUSPENDED, RUNNING): "start stop CHANGES start",
    (SUSPENDED, "present"): "start stop CHANGES start",
    (SUSPENDED, SUSPENDED): "start stop CHANGES start suspend",
}

# The state after each step that leads to another.
_LEADS_TO = {
    "create": STOPPED,
    "start": RUNNING,
    "resume": RUNNING,
    "stop": STOPPED,
    "await_stop": STOPPED,
    "suspend": SUSPENDED,
    "soft_delete": DELETED,
    "recover": STOPPED,
    "delete": ABSENT,
    "drop_memory": STOPPED,
}

# Steps that take a part of a driver which not every driver has: its capability.
PARTS = {"suspend": "suspend"}


def make_plan(
    wish: Wish, current: Instance | None, observed: Observed | None, image: Image | None, around: Surroundings
) -> Plan:
    """The way from what is (current and observed; None: there is none) to what is wished.

    image -- the wished image if the vault has it. Raises InvalidOption, RestartRequired or InUse.
    """
    row = situation(current, observed)
    way = WAYS[row][wish.state]
    if wish.deleted_before and not (current and "" < current.deleted < wish.deleted_before):
        # Another run has recovered or removed it.
        return Plan([], current, observed.state if observed else ABSENT)
    if current is not None:
        check_member(f"instance {current.name}", current.cloud, wish.cloud)
    if current is None or observed is None or row == LEFTOVERS:
        if wish.mount:
            raise NotFound(f"there is no instance {wish.name}", hint="Make it first with minicloud.local.instance.")
        if wish.unmount:
            return Plan([], None, ABSENT)
        return _creation(wish, image, around, row, current)
    if row == MOVED:
        if wish.state != ABSENT or not wish.force:
            raise InUse(
                f"{current.name} is not where it was made",
                observed.reason,
                "Move it back there; or forget it here, which leaves it alone there: state: absent with force: true.",
            )
        way = "delete"
    if way == "delete":
        return Plan(["delete"], None, ABSENT)
    if current.deleted and (wish.mount or wish.unmount):
        raise InUse(f"{current.name} is deleted", hint="Recover it first: state: present of the module instance.")
    drift = drift_of(wish, current, image)
    if drift and wish.recreate:
        again = _creation(wish, image, around, ABSENT, current)
        again.steps.insert(again.steps.count("fetch_image"), "delete")
        return again
    if way == REFUSED:
        begun = "its removal" if current.phase == "removing" else "making it"
        raise InUse(
            f"{current.name} is not whole",
            f"{begun} was begun and did not come to an end; {observed.reason}",
            "Set state: absent to have it removed, or add force: true to this task to keep it as it is.",
        )
    return _change(wish, current, observed, drift, around)


def situation(current: Instance | None, observed: Observed | None) -> str:
    """The row of the table WAYS for what is there."""
    if current is None:
        return ABSENT
    # An instance removed at the hypervisor has no data left, so it is made anew.
    if observed is None or observed.state == ABSENT:
        return MOVED if observed and observed.reason else LEFTOVERS
    if observed.state in UP and current.stopping:
        return STOPPING
    if observed.state == STOPPED and current.restarting:
        return RESTARTING
    return observed.state


def check_member(what: str, cloud: str, wished: str) -> None:
    """Raise InUse if something is no part of the wished cloud.

    cloud -- that it is part of, empty of none; wished -- empty where that does not matter
    """
    if wished and key_of(cloud) != key_of(wished):
        raise InUse(
            f"the {what} cannot be part of the cloud {wished}",
            f"it is part of the cloud {cloud}" if cloud else "it is there already and was not made by a cloud",
            "Give it another name here, or remove the one that is there.",
            cloud=cloud,
        )


def _creation(wish: Wish, image: Image | None, around: Surroundings, row: str, current: Instance | None) -> Plan:
    """The plan where there is no instance, or leftovers only, or where CURRENT is replaced."""
    way = WAYS[row][wish.state].split()
    if "create" not in way:
        return Plan(way, None, ABSENT)
    runs = "start" in way
    after = _cloned(wish, around.parent, current) if around.parent else _made(wish, image, around, current)
    after.owner = around.driver if runs else ""
    lacking = any(key_of(nic.network) not in (*around.networks, USER_NETWORK) for nic in after.nics)
    if lacking:
        way.insert(way.index("create"), "ensure_network")
    # With recreate, the old instance is removed only when the new image is in the vault.
    fetches = not image and not around.parent
    steps = [
        *(["fetch_image"] if fetches else []),
        *way,
        *(["wait_ready"] if way[-1] == "start" and wish.wait else []),
    ]
    if after.mounts and way[-1] == "start":
        steps.append("mount")
    return Plan(steps, after, _state_after(way, ABSENT))


def _made(wish: Wish, image: Image | None, around: Surroundings, current: Instance | None) -> Instance:
    """An instance that is to be made from an image, as far as that is known now."""
    return Instance(
        name=wish.name,
        uuid="",
        scope="",
        driver=around.driver,
        created="",
        arch=wish.arch or around.host_arch,
        cpus=wish.cpus or around.sizes.get("cpus", DEFAULT_CPUS),
        memory=wish.memory or around.sizes.get("memory", DEFAULT_MEMORY),
        disk=disk_size(wish, image, around.sizes.get("disk", DEFAULT_DISK)),
        instance_type=wish.instance_type or DEFAULT_TYPE,
        user=wish.user or (image.user if image else ""),
        autostart=bool(wish.autostart),
        image=image_of(image) if image else {"name": str(wish.reference)},
        tags=dict(wish.tags or {}),
        ports=list(wish.ports or []),
        nics=list(wish.networks or [Nic(around.default_network, "")]),
        mounts=wanted_mounts(wish, ()),
        origin=dict(wish.origin),
        source={"name": str(wish.source)} if wish.source else {},
        cloud=wish.cloud or (current.cloud if current else ""),
    )


def _cloned(wish: Wish, parent: Parent, current: Instance | None) -> Instance:
    """An instance that is to be made from another one: like that, but for what the task names and what is its own."""
    then = parent.then
    for option in ("instance_type", "arch"):
        wanted, actual = getattr(wish, option), getattr(then, option)
        if wanted not in (None, actual):
            raise InvalidOption(
                f"{wish.name} cannot have {option}: {wanted}",
                f"that of its source {parent.source['name']} is {actual}",
                "Leave the option out.",
            )
    if wish.disk is not None and wish.disk < then.disk:
        raise InvalidOption(
            f"disk {format_size(wish.disk)} is smaller than that of the source {parent.source['name']}",
            f"it has {format_size(then.disk)}",
            "Ask for at least that, or leave the option out.",
        )
    mounts = then.mounts if wish.mounts is None else wish.mounts
    return Instance(
        name=wish.name,
        uuid="",
        scope="",
        driver=then.driver,
        created="",
        arch=then.arch,
        cpus=wish.cpus or then.cpus,
        memory=wish.memory or then.memory,
        disk=wish.disk or then.disk,
        instance_type=then.instance_type,
        user=wish.user or then.user,
        autostart=then.autostart if wish.autostart is None else wish.autostart,
        image=dict(then.image),
        tags=dict(then.tags if wish.tags is None else wish.tags),
        ports=copied_ports(then) if wish.ports is None else list(wish.ports),
        nics=list(wish.networks or copied_nics(then)),
        mounts=[replace(mount, mechanism="", copied="", failure="", unknown={}) for mount in mounts],
        origin=dict(wish.origin),
        source={**parent.source, "copy": wish.source_copy or LINKED},
        cloud=wish.cloud or (current.cloud if current else ""),
    )


def copied_nics(then: Instance) -> list[Nic]:
    """The interfaces of a clone: on the networks of the other one, with addresses of its own."""
    return [Nic(nic.network, "", nic.mode) for nic in then.nics]


def copied_ports(then: Instance) -> list[PortForward]:
    """The forwards of a clone. The ports of the host are those of the other one, so that others are chosen."""
    return [port._replace(host_port=0) for port in then.ports]


def _state_after(steps: t.Iterable[str], state: str) -> str:
    for step in steps:
        state = _LEADS_TO.get(step, state)
    return state


def image_of(image: Image) -> dict[str, str]:
    """What an instance's record keeps of its image."""
    return {key: str(getattr(image, key)) for key in _IMAGE_KEYS}


def disk_size(wish: Wish, image: Image | None, default: int = DEFAULT_DISK) -> int:
    """The size of a new disk: as asked, or the default, but never below the image's own."""
    own = image.virtual_size if image else 0
    if wish.disk is None:
        return max(default, own)
    if wish.disk < own:
        raise InvalidOption(
            f"disk {format_size(wish.disk)} is smaller than the image {image.name if image else ''}",
            f"the image needs {format_size(own)}",
            "Ask for at least that, or leave the option out.",
        )
    return wish.disk


def drift_of(wish: Wish, current: Instance, image: Image | None) -> list[str]:
    """What the task asks for that only counts when an instance is made, and that this one was not made with.

    image -- the wished image if the vault has it: one image can have many names
    """
    found = []
    name = current.image.get("name", "")
    same = image is not None and image.hash == current.image.get("hash")
    if wish.image is not None and str(wish.image) != name and not same:
        found.append(f"image is {name}, not {wish.image}")
    source = current.source.get("name", "")
    if wish.source is not None and key_of(str(wish.source)) != key_of(source):
        what = f"a clone of {source}" if "uuid" in current.source else source or f"made from the image {name}"
        found.append(f"source is {wish.source}, and it is {what}")
    elif wish.source_copy == FULL and current.source.get("copy") == LINKED:
        found.append("source_copy is linked, not full")
    for option in ("instance_type", "arch", "user"):
        wanted, actual = getattr(wish, option), getattr(current, option)
        if wanted is not None and wanted != actual:
            found.append(f"{option} is {actual or 'unknown'}, not {wanted}")
    if wish.recreate and wish.disk is not None and wish.disk < current.disk:
        # Any other change of the disk is made without losing it.
        found.append(f"disk is {format_size(current.disk)}, not {format_size(wish.disk)}")
    for option, fingerprint in wish.origin.items():
        if current.origin.get(option) != fingerprint:
            found.append(f"{option} differs from what the instance was made with")
    return found


def _cold_options(current: Instance, driver: str) -> tuple[str, ...]:
    """The options whose change needs an instance stopped."""
    live = ABOUT[current.owner or driver].can("live_resize", current.instance_type)
    return () if live else _COLD


def _change(wish: Wish, current: Instance, observed: Observed, drift: list[str], around: Surroundings) -> Plan:
    after = replace(current, phase="ready")
    changes: list[str] = []
    way = WAYS[situation(current, observed)][wish.state].split()
    if CHANGES in way:
        changes = _changes(wish, current, after, observed)
        way = _way(wish, current, after, observed, changes, around).split()
        at = way.index(CHANGES)
        way[at : at + 1] = [{"disk": "grow_disk"}.get(option, f"set_{option}") for option in changes]
    if observed.state == SUSPENDED and "start" in way:
        way = _resuming(wish, current, observed, way)
    state = _state_after(way, observed.state)
    if current.deleted and state != DELETED:
        after.deleted = ""
        if "recover" not in way:  # it was started by other means
            way.insert(0, "recover")
    if current.phase != "ready":
        way.insert(0, "keep")
    starts, goes_down = "start" in way, bool({"stop", "await_stop", "drop_memory"}.intersection(way))
    if starts or goes_down:
        after.ready, after.owner, after.stopping = False, "", ""
    elif len(observed.drift) > bool(observed.disk) and state in (STOPPED, DELETED) and not changes:
        # No other step corrects the drift. A disk that somebody has grown is left as it is.
        way.append("reconfigure")
    after.restarting = starts and (goes_down or current.restarting)
    if "suspend" in way:
        after.ready = False
    if observed.severed and state == RUNNING and not starts:
        way.append("repair_networks")
    # The run that restarted it was ended before it could wait.
    resumed = wish.state == "present" and current.restarting and state == RUNNING
    if wish.wait and not after.ready and state == RUNNING and (wish.wants_running or starts or resumed):
        way.append("wait_ready")
    if after.mounts and state == RUNNING and (starts or observed.unmounted or "mounts" in changes):
        way.append("mount")
    return Plan(way, after, state, drift)


def _resuming(wish: Wish, current: Instance, observed: Observed, way: list[str]) -> list[str]:
    """The way of a suspended instance that begins with going on from there. HypervisorError where it cannot.

    By force it does not go on only to be stopped, and need not where it cannot: what it was doing is dropped then.
    """
    to_be_stopped = way[:2] == ["start", "stop"]
    if wish.force and (to_be_stopped or observed.reason):
        return ["drop_memory", *(way[2:] if to_be_stopped else way)]
    if observed.reason:
        raise HypervisorError(
            f"{current.name} cannot go on from where it was suspended",
            observed.reason,
            "Put that right; or add force: true, which drops what it was doing, as if its plug had been pulled then.",
        )
    return way


def _changes(wish: Wish, current: Instance, after: Instance, observed: Observed) -> list[str]:
    """The options that the task names and that are otherwise; AFTER, as it is now, gets them as they are to be."""
    found = []
    for option in ("cpus", "memory", "disk", "autostart", "tags"):
        wanted, actual = getattr(wish, option), getattr(after, option)
        if option == "disk":
            actual = max(actual, observed.disk)
        # A disk that somebody else has grown stays so.
        if wanted is None or (option == "disk" and wanted == current.disk and option not in observed.differs):
            continue
        if option == "disk" and wanted < actual:
            raise InvalidOption(
                f"the disk of {after.name} cannot shrink from {format_size(actual)} to {format_size(wanted)}",
                "that would cut off data",
                "Ask for more, or leave the option out; or have the instance replaced, its data included, with"
                " recreate: true.",
            )
        if wanted != actual or option in observed.differs:
            setattr(after, option, wanted)
            found.append(option)
    if wish.ports is not None and (not same_ports(wish.ports, after.ports) or "ports" in observed.differs):
        after.ports = keep_chosen(wish.ports, after.ports)
        found.append("ports")
    if wish.networks is not None:
        nics = keep_nics(wish.networks, after.nics)
        if nics != after.nics or "networks" in observed.differs:
            after.nics = nics
            found.append("networks")
    mounts = wanted_mounts(wish, after.mounts)
    if mounts != after.mounts:
        after.mounts = mounts
        found.append("mounts")
    return found


def _way(
    wish: Wish, current: Instance, after: Instance, observed: Observed, changes: list[str], around: Surroundings
) -> str:
    """The steps to what is wished, with the mark where those of the changes stand. RestartRequired."""
    row = situation(current, observed)
    # An option whose recorded value stays the same was only changed at the hypervisor: no stop is needed for it.
    cold = [
        option
        for option in _cold_options(current, around.driver)
        if option in changes and getattr(after, option) != getattr(current, option)
    ]
    # Other networks mean other interfaces, which need a stop. Another address on the same network does not.
    if "networks" in changes and _attachments(after.nics) != _attachments(current.nics):
        cold.append("networks")
    if not cold or (row, wish.state) not in WAYS_DOWN:
        return WAYS[row][wish.state]
    if not wish.allow_restart:
        what = ", ".join(f"{option} from {_shown(option, current)} to {_shown(option, after)}" for option in cold)
        raise RestartRequired(
            f"{current.name} must be stopped to change {what}",
            hint="Set allow_restart: true to have it stopped, changed and started again, or stop it first.",
        )
    return WAYS_DOWN[row, wish.state]


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
    if nics is None and current is None and around.parent:
        nics = copied_nics(around.parent.then)
    elif nics is None:
        nics = current.nics if current else [Nic(around.default_network, "")]
    there = any(key_of(nic.network) == key_of(bridged.network) for nic in nics)
    return list(nics) if there else [*nics, bridged]


def wanted_mounts(wish: Wish, actual: t.Sequence[Mount]) -> list[Mount]:
    """The mounts that a task asks for, in the order of their targets, with what is known of those that are there."""
    wanted = list(actual if wish.mounts is None else wish.mounts)
    if wish.mount:
        wanted = [*(each for each in wanted if each.target != wish.mount.target), wish.mount]
    wanted = [each for each in wanted if each.target not in wish.unmount]
    there = {each.target: each for each in actual}
    kept = []
    for mount in sorted(wanted, key=lambda each: each.target):
        same = there.get(mount.target)
        if same:
            known = {key: getattr(same, key) for key in ("mechanism", "copied", "failure", "not_native", "unknown")}
            found = replace(mount, **known)
            mount = found if found == same else replace(found, copied="", failure="", not_native="")
        kept.append(mount)
    return kept


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
        "mounts": [
            {key: getattr(mount, key) for key in ("source", "target", "type", "read_only")} for mount in instance.mounts
        ],
        "tags": instance.tags,
    }
