# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Snapshots of one instance, from what a task wishes to what is: observe, plan, apply.

The record of a snapshot is written before anything is made, and removed when nothing of it is left: one that is not
whole is what a run that was ended has left, and the next run that changes anything takes it away.
"""

from __future__ import annotations

import contextlib
import re
import typing as t
import uuid
from dataclasses import field, replace

from ansible_collections.minicloud.local.plugins.module_utils._dataclass import dataclass
from ansible_collections.minicloud.local.plugins.module_utils._drivers.crew import Crew
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Snapshots
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import load, require_capability
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    InUse,
    InvalidOption,
    MinicloudError,
    NoSpace,
    NotFound,
    NotSupported,
    RecordError,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ABSENT,
    DELETED,
    RUNNING,
    STOPPED,
    SUSPENDED,
    UP,
    Instance,
    Nic,
    as_recorded,
    check_name,
    check_timeout,
    key_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime, timestamp
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile.power import Power

RESTORED = "restored"

# The fields of an instance's record that are restored together with its disk.
_BROUGHT_BACK = ("cpus", "memory", "disk", "ports", "chosen_ports", "nics", "mounts", "booted", "cloud_init")

_DEFAULT_NAME = re.compile(r"snapshot([1-9][0-9]{0,8})\Z", re.IGNORECASE)
_LONGEST_COMMENT = 10_000

# Seconds by which the clock of a guest may be behind.
_UNNOTICED = 0.5


@dataclass
class SnapshotWish:
    """What a task asks of an instance's snapshots.

    name -- empty: of a new one, whose name is chosen; comment -- None where the task has no opinion
    memory -- auto, yes or no; timeout -- seconds for the instance to go down, and to be ready again
    force -- do not wait for a clean shutdown, and keep interfaces whose network is gone as they are
    """

    instance: str
    name: str = ""
    state: str = "present"
    comment: str | None = None
    new_name: str = ""
    memory: str = "auto"
    safeguard: bool = True
    force: bool = False
    wait: bool = True
    timeout: float = 300


@dataclass
class SnapshotPlan:
    """What to do. steps -- names, in order; target -- the snapshot that is there and that it is about, if any."""

    steps: list[str] = field(default_factory=list)
    target: Snapshot | None = None


class SnapshotOutcome(t.NamedTuple):
    """What a run did, or in check mode would do. view -- the snapshot as users see it, None when there is none."""

    changed: bool
    actions: list[str]
    view: dict[str, t.Any] | None
    before: dict[str, t.Any]
    after: dict[str, t.Any]


def parse_snapshot_wish(params: t.Mapping[str, t.Any]) -> SnapshotWish:
    """A wish from a task's options. InvalidOption where one of them cannot be meant."""
    wish = SnapshotWish(check_name(params["instance"], "instance"))
    for option in ("name", "state", "comment", "new_name", "memory", "safeguard", "force", "wait", "timeout"):
        if params.get(option) is not None:
            setattr(wish, option, params[option])
    for option in ("name", "new_name"):
        if params.get(option) is not None:
            check_name(params[option], option)
    check_timeout(wish.timeout)
    if not wish.name and wish.state != "present":
        raise InvalidOption(f"name is missing, and state: {wish.state} needs it", hint="Name the snapshot.")
    if wish.new_name and (wish.state != "present" or not wish.name):
        raise InvalidOption("new_name goes with name and state: present only", hint="Rename it in a task of its own.")
    if len(wish.comment or "") > _LONGEST_COMMENT or "\0" in (wish.comment or ""):
        raise InvalidOption(
            "comment cannot be kept", hint=f"It has at most {_LONGEST_COMMENT} characters, and none is NUL."
        )
    return wish


def make_snapshot_plan(
    wish: SnapshotWish, instance: Instance, state: str, snapshots: t.Sequence[Snapshot], live: bool = False
) -> SnapshotPlan:
    """The way from what is (an instance, its state, its snapshots) to what is wished. Pure. NotFound, InUse.

    live -- whether a snapshot with memory can be taken of the instance as it is
    """
    whole = {key_of(each.name): each for each in snapshots if each.phase == "ready"}
    found, renamed = whole.get(key_of(wish.name)), whole.get(key_of(wish.new_name))
    plan = SnapshotPlan(["remove_leftovers"] if len(whole) < len(snapshots) else [])
    if wish.state == ABSENT:
        plan.target = found
        plan.steps += ["delete"] if found else []
        return plan
    if wish.new_name:
        found = found or renamed
        if renamed and renamed is not found:
            raise InUse(f"{instance.name} has another snapshot {renamed.name}", hint="Choose another new_name.")
    if found is None and (wish.new_name or wish.state == RESTORED):
        known = ", ".join(each.name for each in whole.values()) or "none"
        raise NotFound(f"{instance.name} has no snapshot {wish.name}", hint=f"It has: {known}.")
    plan.target = found
    if wish.state == RESTORED:
        plan.steps += _steps_back(wish, instance, state, t.cast(Snapshot, found), live)
    elif found is None:
        plan.steps.append("take")
    else:
        plan.steps += ["rename"] if wish.new_name and found.name != wish.new_name else []
        plan.steps += ["set_comment"] if wish.comment not in (None, found.comment) else []
    return plan


def _steps_back(wish: SnapshotWish, instance: Instance, state: str, found: Snapshot, live: bool) -> list[str]:
    if state not in (*UP, STOPPED, SUSPENDED):
        raise InUse(
            f"{instance.name} cannot be brought back to {found.name}",
            f"it is {state}",
            "Have it run or stop it first, with minicloud.local.instance.",
        )
    # A run that was ended has taken one before it began.
    guard = ["safeguard"] if wish.safeguard and instance.restoring != found.uuid else []
    if state == SUSPENDED:
        steps = [*guard, "drop_memory"]
    elif state in UP:
        # Its memory is in the snapshot, so ending it by force loses nothing.
        steps = [*guard, "stop"] if live else ["stop", *guard]
    else:
        steps = guard
    steps.append("restore")
    if found.state == RUNNING:
        steps += ["start", *(["wait_ready"] if wish.wait else [])]
    return steps


def next_name(instance: Instance, snapshots: t.Iterable[Snapshot]) -> str:
    """The default name of a new snapshot: a number that none has had before."""
    return f"snapshot{1 + max([instance.snapshot_count, *(_number_of(each.name) for each in snapshots)])}"


def _number_of(name: str) -> int:
    match = _DEFAULT_NAME.match(name)
    return int(match[1]) if match else 0


def reconcile_snapshot(
    wish: SnapshotWish,
    runtime: Runtime,
    data: DataDirectory,
    driver_name: str | None,
    driver_options: t.Mapping[str, t.Any] | None = None,
    check_mode: bool = False,
) -> SnapshotOutcome:
    """Bring the snapshots of one instance to what is wished, and tell what was done."""
    runtime.foretells = check_mode
    return _Task(wish, runtime, data, Crew(load(driver_name, runtime, data, driver_options))).run(check_mode)


class _Task:
    """The snapshots of one instance on their way from what is to what is wished."""

    def __init__(self, wish: SnapshotWish, runtime: Runtime, data: DataDirectory, crew: Crew) -> None:
        self.wish = wish
        self.runtime = runtime
        self.data = data
        self.crew = crew
        self.scope = crew.wanted.scope
        self.records = self.scope.snapshots(wish.instance)

    def run(self, check_mode: bool) -> SnapshotOutcome:
        """See reconcile_snapshot."""
        if self.wish.state == ABSENT and self.scope.read(self.wish.instance) is None:
            return SnapshotOutcome(False, [], None, {"snapshots": []}, {"snapshots": []})
        instance, state = self._look()
        snapshots = self._snapshots()
        plan = make_snapshot_plan(self.wish, instance, state, snapshots, self._is_live(instance, state))
        before = _comparable(instance, state, snapshots)
        if not plan.steps:
            view = self._view(plan.target, snapshots, instance)
            return SnapshotOutcome(False, [], view, before, before)
        self.runtime.begin_changes()
        self._check(plan, instance, state)
        if check_mode:
            return self._predicted(plan, instance, state, snapshots, before)
        deadline = Deadline(self.wish.timeout)
        with self.scope.lock(self.wish.instance, deadline, self.runtime.report):
            # Another run may have been faster.
            instance, state = self._look()
            plan = make_snapshot_plan(self.wish, instance, state, self._snapshots(), self._is_live(instance, state))
            if plan.steps:
                self._check(plan, instance, state)
            instance, target = self._apply(plan, instance, state, deadline)
        if "wait_ready" in plan.steps:
            instance = self._power().wait_ready(instance, deadline, "warn")
            self._mount(instance)
        snapshots = self._snapshots()
        instance, state = self._look()
        after = _comparable(instance, state, snapshots)
        return SnapshotOutcome(bool(plan.steps), plan.steps, self._view(target, snapshots, instance), before, after)

    # What there is

    def _look(self) -> tuple[Instance, str]:
        """The record of the instance, and the state that it is in."""
        instance = self.scope.read(self.wish.instance)
        if instance is None or instance.phase != "ready":
            raise NotFound(
                f"there is no instance {self.wish.instance} to have snapshots",
                "" if instance is None else "the run that was making or removing it did not get to its end",
                f"Look with minicloud.local.instance_info which instances the driver {self.crew.wanted.name} has.",
            )
        driver = self.crew.of(instance)
        require_capability(driver.name, "snapshots", f"snapshots of a {instance.instance_type}", instance.instance_type)
        seen = as_recorded(instance, driver.observe([instance])[0])
        if seen.state == ABSENT:
            raise NotFound(f"{instance.name} is not there", seen.reason or ". ".join(seen.drift))
        return instance, seen.state

    def _snapshots(self) -> list[Snapshot]:
        """Its snapshots. RecordError where one of their records cannot be used: nothing is decided without it."""
        found, broken = self.records.all()
        if broken:
            raise broken[0]
        return found

    def _part(self, instance: Instance) -> Snapshots:
        return t.cast(Snapshots, self.crew.of(instance).snapshots())

    def _power(self) -> Power:
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.power import Power

        return Power(self.crew, self.runtime, self.data)

    # What stands in the way

    def _check(self, plan: SnapshotPlan, instance: Instance, state: str) -> None:
        """Raise for what stands in the way of a plan; nothing has changed then."""
        if state == DELETED and {"take", "restore"}.intersection(plan.steps):
            raise InUse(
                f"{instance.name} is deleted",
                f"since {instance.deleted}",
                "Recover it first, with state: present of minicloud.local.instance.",
                state=state,
            )
        if "take" in plan.steps or ("safeguard" in plan.steps and plan.steps.index("safeguard") == 0):
            self._with_memory(instance, state)
        if "delete" in plan.steps and not self.wish.force:
            from ansible_collections.minicloud.local.plugins.module_utils._reconcile.clones import (
                linked_clones,
                refuse_to_lose,
            )

            gone = t.cast(Snapshot, plan.target)
            what = f"the snapshot {gone.name} of {instance.name}"
            refuse_to_lose(what, linked_clones(self.crew, instance, gone.uuid))
        if "restore" in plan.steps:
            self._check_memory(t.cast(Snapshot, plan.target), instance)
            after = self._restored(instance, t.cast(Snapshot, plan.target))
            from ansible_collections.minicloud.local.plugins.module_utils._reconcile.attach import Attachment

            driver = self.crew.starter(replace(instance, owner=""))
            driver.acts.require(after.arch, after.image.get("firmware", ""), after.instance_type)
            if after.nics != instance.nics:
                Attachment(driver, self.runtime, self.data).check(after)
            if "start" in plan.steps:
                held = self.crew.of(instance).acts.forwards(instance) if state in UP else []
                driver.acts.choose_ports(replace(after), held)

    def _is_live(self, instance: Instance, state: str) -> bool:
        """Whether an instance that is to be brought back can be kept first with its memory."""
        return self.wish.state == RESTORED and state in UP and not self._part(instance).why_not(instance, True)

    def _with_memory(self, instance: Instance, state: str) -> bool:
        """Whether a snapshot that is taken now gets the memory too. InUse, NotSupported, InvalidOption."""
        part = self._part(instance)
        what = f"no snapshot of {instance.name} can be taken"
        # Before an instance is brought back it is kept as it is.
        memory = "auto" if self.wish.state == RESTORED else self.wish.memory
        if memory != "no" and state in (*UP, SUSPENDED):
            reason = part.why_not(instance, True)
            if not reason:
                return True
            if memory == "yes":
                raise NotSupported(f"{what} with its memory", reason, "Use memory: no, or auto.")
        elif memory == "yes":
            raise InvalidOption(f"{what} with its memory", f"it is {state}", "Use memory: auto, or have it run.")
        reason = part.why_not(instance, False)
        if reason:
            raise InUse(what, reason, "Stop it first, with state: stopped of minicloud.local.instance.", state=state)
        return False

    def _check_memory(self, snapshot: Snapshot, instance: Instance) -> None:
        """Raise where what was saved of the memory is wanted and cannot be had."""
        what = f"{instance.name} cannot go on from where {snapshot.name} was taken"
        if not snapshot.memory and self.wish.memory == "yes":
            raise InvalidOption(what, "its memory was not saved with it", "Use memory: no, or auto.")
        if snapshot.memory and self.wish.memory != "no":
            after = self._restored(replace(instance, owner=""), snapshot)
            part = t.cast(Snapshots, self.crew.starter(after).snapshots())
            why = part.why_not_resumed(after, snapshot)
            if why:
                raise NotSupported(
                    what,
                    why,
                    "To have its disk alone, from which it boots, add memory: no. A snapshot of another driver can be"
                    f" gone on from with driver: {snapshot.driver}.",
                    memory=snapshot.memory,
                )

    def _restored(self, instance: Instance, snapshot: Snapshot) -> Instance:
        """The record of an instance that is brought back to a snapshot, until its disk is."""
        try:
            then = snapshot.then
        except ValueError as exc:
            raise RecordError(f"the snapshot {snapshot.name} cannot be gone back to", str(exc)) from exc
        values = {name: getattr(then, name) for name in _BROUGHT_BACK}
        values["nics"] = self._interfaces(instance, then) if self.wish.force else then.nics
        cold = self.wish.memory == "no"
        return replace(instance, restoring=snapshot.uuid, restoring_cold=cold, ready=False, **values)

    def _interfaces(self, instance: Instance, then: Instance) -> list[Nic]:
        """The interfaces of that moment, unless one of their networks is gone: then those that it has."""
        known = {key_of(name) for name in self.scope.networks.names()}
        now = {key_of(nic.network) for nic in instance.nics}
        gone = [nic.network for nic in then.nics if key_of(nic.network) not in known | now | {"user", "default"}]
        if not gone:
            return then.nics
        self.runtime.report.warn(
            f"{instance.name} keeps the interfaces that it has: of those that it had then, the network {gone[0]} is"
            " gone."
        )
        return instance.nics

    # What is done

    def _apply(
        self, plan: SnapshotPlan, instance: Instance, state: str, deadline: Deadline
    ) -> tuple[Instance, Snapshot | None]:
        """Carry out a plan; the instance as it is then, and the snapshot that it was about."""
        target = plan.target
        for step in plan.steps:
            if step != "wait_ready":  # which comes when the lock is free again
                self.runtime.report.step(step)
            if step == "remove_leftovers":
                instance, state = self._remove_leftovers(instance, state)
            elif step == "take":
                instance, state = self._brought_back(instance, state)
                instance, target = self._take(instance, state, self.wish.name, self.wish.comment or "")
            elif step == "delete":
                instance, state = self._brought_back(instance, state)
                instance = self._remove(instance, t.cast(Snapshot, target))
                target = None
            elif step in ("rename", "set_comment"):
                target = self._described(t.cast(Snapshot, target))
            elif step == "stop":
                kept = plan.steps.index("stop") > 0 and plan.steps[plan.steps.index("stop") - 1] == "safeguard"
                instance = self._power().stop(instance, deadline, self.wish.force or kept)
                state = STOPPED
            elif step == "drop_memory":
                instance = self._power().drop_memory(instance)
                state = STOPPED
            elif step == "safeguard":
                comment = f"Before {t.cast(Snapshot, target).name} was restored"
                instance, state = self._brought_back(instance, state)
                instance, dummy = self._take(instance, state, "", comment)
            elif step == "restore":
                instance = self._restore(instance, t.cast(Snapshot, target))
                state = SUSPENDED if instance.suspended else STOPPED
            elif step == "start":
                instance = self._power().start(instance)
        if state == STOPPED and "start" not in plan.steps and {"take", "restore", "delete"}.intersection(plan.steps):
            self._make_quick(instance)
        return instance, target

    def _remove_leftovers(self, instance: Instance, state: str) -> tuple[Instance, str]:
        """Take away what runs have left that were ended; an instance that ran goes on where one had it not."""
        for each in self._snapshots():
            if each.phase == "ready":
                continue
            instance = self._remove(instance, each)
            # A run that was to suspend it would have noted that.
            if each.state == RUNNING and state == SUSPENDED and not instance.suspended:
                instance = self._power().start(instance)
        # One that was halted runs on.
        seen = as_recorded(instance, self.crew.of(instance).observe([instance])[0])
        return instance, seen.state

    def _brought_back(self, instance: Instance, state: str) -> tuple[Instance, str]:
        """An instance whose disk is what its record says: what a run had begun that was ended is seen to its end."""
        if not instance.restoring:
            return instance, state
        instance = self._power().bring_back(instance)
        return instance, SUSPENDED if instance.suspended else state

    def _take(self, instance: Instance, state: str, name: str, comment: str) -> tuple[Instance, Snapshot]:
        name = name or next_name(instance, self._snapshots())
        with_memory = state in (*UP, SUSPENDED) and self._with_memory(instance, state)
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.syncing import sync_guest

        synced = state == RUNNING and sync_guest(instance, self.crew, self.data, self.runtime)
        instance = self._store(replace(instance, snapshot_count=max(instance.snapshot_count, _number_of(name))))
        snapshot = Snapshot(
            name=name,
            uuid=str(uuid.uuid4()),
            driver=self.crew.of(instance).name,
            created=timestamp(),
            parent=instance.snapshot,
            comment=comment,
            state=RUNNING if state in UP else state,
            record=instance.to_dict(),
        )
        self.records.write(snapshot)
        self.runtime.report.step("snapshot_record")
        instance = self._store(replace(instance, snapshot=snapshot.uuid))
        try:
            with self._saveable(instance, with_memory and state in UP):
                taken = self._part(instance).take(instance, snapshot, with_memory)
        except MinicloudError:
            with contextlib.suppress(MinicloudError):
                self._remove(instance, snapshot)
            raise
        quiet = "synced" if taken.quiet == "crash" and synced else taken.quiet
        self.runtime.report.step("taken")
        snapshot = replace(snapshot, phase="ready", memory=taken.memory, quiet=quiet)
        self.records.write(snapshot)
        if taken.pause > _UNNOTICED and instance.ready:
            self._power().set_clock(instance, instance.user)
        if state in UP and not instance.booted and not taken.memory:
            self.runtime.report.warn(
                f"{instance.name} has not finished its first boot: what is brought back to {name} may go through it"
                " again."
            )
        return instance, snapshot

    def _saveable(self, instance: Instance, with_memory: bool) -> contextlib.AbstractContextManager[None]:
        """What has to be so for a running instance to be saved with its memory; InUse where that cannot be had."""
        if not with_memory or not instance.mounts:
            return contextlib.nullcontext()
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.mounts import set_aside

        return set_aside(instance, self.crew.of(instance), self.runtime, self.data)

    def _mount(self, instance: Instance) -> None:
        """Make the mounts of an instance that was brought back and runs."""
        if not instance.mounts:
            return
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.mounts import Mounter

        with self.scope.lock(instance.name, Deadline(60), self.runtime.report):
            latest = self.scope.read(instance.name)
            if latest and latest.uuid == instance.uuid and self.crew.of(latest).alive(latest):
                Mounter(self.crew.of(latest), self.runtime, self.data, self._store).make(latest, "", True)

    def _remove(self, instance: Instance, snapshot: Snapshot) -> Instance:
        """Whatever there is of a snapshot goes; what came after it goes on from what it went on from."""
        # On a full disk nothing can be noted, and removing is what makes room.
        with contextlib.suppress(NoSpace):
            self.records.write(replace(snapshot, phase="removing"))
        self.runtime.report.step("removing")
        self._part(instance).delete(instance, snapshot)
        self.runtime.report.step("deleted")
        for each in self._snapshots():
            if each.parent == snapshot.uuid:
                self.records.write(replace(each, parent=snapshot.parent))
        if instance.snapshot == snapshot.uuid:
            instance = self._store(replace(instance, snapshot=snapshot.parent))
        self.runtime.report.step("children")
        self.records.remove(snapshot.uuid)
        return instance

    def _described(self, snapshot: Snapshot) -> Snapshot:
        """A snapshot with the name and the comment that the task gives it; nothing but its record changes."""
        wish = self.wish
        name = wish.new_name or snapshot.name
        snapshot = replace(snapshot, name=name, comment=snapshot.comment if wish.comment is None else wish.comment)
        instance = self.scope.read(wish.instance)
        if instance and _number_of(name) > instance.snapshot_count:
            self._store(replace(instance, snapshot_count=_number_of(name)))
        self.records.write(snapshot)
        return snapshot

    def _restore(self, instance: Instance, snapshot: Snapshot) -> Instance:
        """Bring a stopped instance back. Its record comes first: then whoever is next knows what is left to do."""
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet.connections import end_connections
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.attach import Attachment

        before, driver = instance, self.crew.of(instance)
        instance = self._store(self._restored(instance, snapshot))
        self.runtime.report.step("restoring")
        if instance.nics != before.nics:
            attachment = Attachment(driver, self.runtime, self.data)
            instance = attachment.give_addresses(instance)
            attachment.disconnect(before)
        try:
            instance = self._power().bring_back(instance)
        except MinicloudError:
            # The disk is as it was, so all is.
            with contextlib.suppress(MinicloudError):
                self._store(before)
            raise
        driver.acts.reconfigure(instance)
        if driver.host.here:
            end_connections(self.runtime, {address for nic in before.nics for address in (nic.address, nic.lease)})
        return instance

    def _make_quick(self, instance: Instance) -> None:
        """Shorten what the guest's reads go through. Not being able to is no error: it works as it is."""
        try:
            self._part(instance).consolidate(instance)
        except MinicloudError as exc:
            self.runtime.report.warn(f"The layers of the disk of {instance.name} could not be made fewer: {exc}")

    def _store(self, instance: Instance) -> Instance:
        self.scope.write(instance)
        return instance

    # What is told

    def _view(
        self, target: Snapshot | None, snapshots: t.Sequence[Snapshot], instance: Instance
    ) -> dict[str, t.Any] | None:
        if target is None:
            return None
        latest = next((each for each in snapshots if each.uuid == target.uuid), target)
        sizes = self._part(instance).listed([instance]).get(instance.uuid, {})
        return snapshot_view(latest, snapshots, instance, sizes)

    def _predicted(
        self,
        plan: SnapshotPlan,
        instance: Instance,
        state: str,
        snapshots: t.Sequence[Snapshot],
        before: dict[str, t.Any],
    ) -> SnapshotOutcome:
        """What would be, in check mode."""
        left = [each for each in snapshots if each.phase == "ready"]
        target = plan.target
        if "delete" in plan.steps and target is not None:
            gone = target
            left = [
                replace(each, parent=gone.parent) if each.parent == gone.uuid else each
                for each in left
                if each.uuid != gone.uuid
            ]
            target = None
        elif target is not None and {"rename", "set_comment"}.intersection(plan.steps):
            comment = target.comment if self.wish.comment is None else self.wish.comment
            target = replace(target, name=self.wish.new_name or target.name, comment=comment)
            left = [target if each.uuid == target.uuid else each for each in left]
        if {"take", "safeguard"}.intersection(plan.steps):
            name = "" if "safeguard" in plan.steps else self.wish.name
            new = Snapshot(
                name=name or next_name(instance, snapshots),
                uuid="new",
                driver=self.crew.of(instance).name,
                created="",
                parent=instance.snapshot,
                comment=self.wish.comment or "",
                phase="ready",
                state=RUNNING if state in UP else state,
                record=instance.to_dict(),
            )
            left.append(new)
            target = new if "take" in plan.steps else target
            instance = replace(instance, snapshot=new.uuid)
        if "restore" in plan.steps and target is not None:
            instance = replace(self._restored(instance, target), snapshot=target.uuid)
            goes_on = target.memory and self.wish.memory != "no"
            state = RUNNING if "start" in plan.steps else target.state if goes_on else STOPPED
        view = snapshot_view(target, left, instance, {}) if target else None
        return SnapshotOutcome(True, plan.steps, view, before, _comparable(instance, state, left))


def snapshot_view(
    snapshot: Snapshot, snapshots: t.Iterable[Snapshot], instance: Instance, sizes: t.Mapping[str, int]
) -> dict[str, t.Any]:
    """The return value `snapshot` of the modules. sizes -- the bytes that each takes, by uuid"""
    whole = [each for each in snapshots if each.phase == "ready"]
    names = {each.uuid: each.name for each in whole}
    return {
        "name": snapshot.name,
        "instance": instance.name,
        "scope": instance.scope,
        "driver": snapshot.driver,
        "parent": names.get(snapshot.parent, ""),
        "children": [each.name for each in whole if each.parent == snapshot.uuid],
        "current": instance.snapshot == snapshot.uuid,
        "comment": snapshot.comment,
        "created": snapshot.created,
        "state": snapshot.state,
        "file_systems": snapshot.quiet,
        "saved_memory": snapshot.memory,
        "cpus": snapshot.record.get("cpus", 0),
        "memory": snapshot.record.get("memory", 0),
        "disk": snapshot.record.get("disk", 0),
        "size": sizes.get(snapshot.uuid, 0),
    }


def _comparable(instance: Instance, state: str, snapshots: t.Iterable[Snapshot]) -> dict[str, t.Any]:
    """An instance and its snapshots for a diff."""
    whole = [each for each in snapshots if each.phase == "ready"]
    names = {each.uuid: each.name for each in whole}
    return {
        "state": state,
        "goes_on_from": names.get(instance.snapshot, ""),
        "cpus": instance.cpus,
        "memory": instance.memory,
        "disk": instance.disk,
        "ports": [str(port) for port in instance.ports],
        "networks": [nic.network for nic in instance.nics],
        "snapshots": [
            {"name": each.name, "parent": names.get(each.parent, ""), "comment": each.comment} for each in whole
        ],
    }
