# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""A cloud, from what a task wishes to what is: its networks, its images, and its instances side by side.

What is done to each part is what the modules for such parts do. Here is only what concerns them together: all is looked
at before anything changes, in which order it is done, how many at once, and what became of each.

Instances are dealt with in threads: each has a runtime, drivers and a deadline of its own, commands are started in a
way that is safe beside threads, and locks of scope storage are files, opened anew by whoever takes them, so that they
hold between threads as between processes. A run that is killed ends with all its threads.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import typing as t
from dataclasses import field

from ansible_collections.minicloud.local.plugins.module_utils._dataclass import dataclass
from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.crew import Crew
from ansible_collections.minicloud.local.plugins.module_utils._drivers.members import users_of
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import load
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    CloudIncomplete,
    InUse,
    InvalidOption,
    MinicloudError,
)
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ABSENT,
    RUNNING,
    Instance,
    format_size,
    key_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.cloud_document import CloudWish, Member
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.images import (
    ImageOutcome,
    ImageWish,
    reconcile_image,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.instances import (
    Foreseen,
    Outcome,
    foresee_instance,
    reconcile_instance,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.networks import (
    NetworkOutcome,
    NetworkWish,
    comparable,
    reconcile_network,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import Wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

# Seconds that a run waits for another run of the same cloud.
_WAIT = 4 * 3600

# Instances that are dealt with at once for each processor: most of the time they wait for guests.
_FOR_EACH_PROCESSOR = 2


class CloudOutcome(t.NamedTuple):
    """What a run did, or in check mode would do. actions -- each with the part that it was done to before it"""

    changed: bool
    actions: list[str]
    view: dict[str, t.Any]
    before: dict[str, t.Any]
    after: dict[str, t.Any]


_Result = t.Union[Outcome, NetworkOutcome, ImageOutcome]


@dataclass
class _Part:
    """A part of a cloud, and what became of it.

    kind -- instance, network or image; gone -- whether it is to be removed; after -- names of parts that come first
    """

    kind: str
    name: str
    act: t.Callable[[bool], _Result]
    after: list[str] = field(default_factory=list)
    gone: bool = False
    acts: bool = True
    result: _Result | None = None
    error: MinicloudError | None = None
    warnings: list[str] = field(default_factory=list)

    def view(self) -> dict[str, t.Any]:
        """As users see it: what it is, the steps that were taken, and the error."""
        view = dict(self.result.view or {}) if self.result else {}
        found = {"name": self.name, **view, "changed": bool(self.result and self.result.changed)}
        found["actions"] = list(self.result.actions) if self.result else []
        if self.result and self.result.view is None:
            found["state"] = ABSENT
        if self.error:
            facts = {key: value for key, value in self.error.facts.items() if key not in found}
            found.update(facts, error=self.error.kind, msg=str(self.error))
        return found


def reconcile_cloud(
    wish: CloudWish,
    runtime: Runtime,
    data: DataDirectory,
    driver_name: str | None,
    driver_options: t.Mapping[str, t.Any] | None = None,
    check_mode: bool = False,
) -> CloudOutcome:
    """Bring a cloud to what is wished, and tell what was done.

    CloudIncomplete if a part of it fails, after all the others, with the fact `cloud`: what became of each.
    """
    task = _CloudTask(wish, runtime, data, driver_name, driver_options, check_mode)
    task.foresee()
    if not task.acts:
        return task.outcome()
    runtime.begin_changes()
    if check_mode:
        task.predict()
        return task.outcome()
    name = f"{task.driver.scope.name}-cloud-{key_of(wish.name)}"
    with data.lock(name, Deadline(_WAIT), runtime.report):
        # Another run may have changed what is there.
        task = _CloudTask(wish, runtime, data, driver_name, driver_options, check_mode)
        task.foresee()
        task.carry_out()
    return task.outcome()


class _CloudTask:
    """A cloud on its way from what is to what is wished."""

    def __init__(
        self,
        wish: CloudWish,
        runtime: Runtime,
        data: DataDirectory,
        driver_name: str | None,
        driver_options: t.Mapping[str, t.Any] | None,
        check_mode: bool = False,
    ) -> None:
        self.wish = wish
        self.runtime = runtime
        self.data = data
        self.check_mode = check_mode
        self.where = (driver_name, driver_options)
        self.driver: Driver = load(driver_name, runtime, data, driver_options)
        self.networks: list[_Part] = []
        self.images: list[_Part] = []
        self.members: list[_Part] = []
        self.largest = 0

    @property
    def acts(self) -> bool:
        """Whether there is more to do than to tell what is."""
        return any(part.acts for part in self._parts())

    def _parts(self) -> list[_Part]:
        return [*self.networks, *self.images, *self.members]

    # -- before anything changes --------------------------------------------------------------------------------------

    def foresee(self) -> None:
        """Find out what is to be done to each part. Raises for what can be known to fail; nothing has changed then."""
        instances, networks = self._belonging()
        crew = Crew(self.driver)
        if self.wish.of_all:
            self.wish.members = [self._member_that_is(each) for each in instances if not each.deleted]
        named = {key_of(member.name) for member in self.wish.members}
        if self.wish.state != ABSENT:
            for network in self.wish.networks:
                self._foresee_network(network)
            for image in self.wish.images:
                self._foresee_image(image)
        if self.wish.state == ABSENT or self.wish.prune:
            pruned = [each for each in instances if self.wish.state == ABSENT or key_of(each.name) not in named]
            going = frozenset(key_of(each.name) for each in pruned)
            for instance in pruned:
                self._foresee_removal(instance, crew, going)
        changing = {key_of(part.name) for part in self.networks if part.acts}
        seen: list[Foreseen] = []
        if self.wish.state != ABSENT:
            expected: dict[str, tuple[Instance, str]] = {}
            for member in _in_order(self.wish.members):
                found = self._foresee_member(member, crew, changing, expected)
                if found.after:
                    expected[key_of(member.name)] = found.after, found.state
                seen.append(found)
            places = {member.name: number for number, member in enumerate(self.wish.members)}
            self.members.sort(key=lambda part: -1 if part.gone else places[part.name])
        self._check_memory(seen)
        self._foresee_network_removals(networks)

    def _belonging(self) -> tuple[list[Instance], list[Network]]:
        """The instances and networks that this cloud once made."""
        instances, broken = self.driver.scope.instances()
        networks, more = self.driver.scope.networks.all()
        for error in [*broken, *more]:
            self.runtime.report.warn(str(error))
        key = key_of(self.wish.name)
        return [each for each in instances if key_of(each.cloud) == key], [
            each for each in networks if key_of(each.cloud) == key
        ]

    def _member_that_is(self, instance: Instance) -> Member:
        """An instance that the document does not name, and that is to have the state of all."""
        state = RUNNING if self.wish.state == "present" else self.wish.state
        wish = Wish(name=instance.name, state=state, cloud=self.wish.name, timeout=self.wish.timeout)
        return Member(instance.name, wish)

    def _foresee_network(self, wish: NetworkWish, gone: bool = False) -> None:
        part = _Part(
            "network",
            wish.name,
            lambda check: reconcile_network(wish, self._runtime(part), self.data, *self.where, check),
            gone=gone,
        )
        if not gone:
            with _named(part):
                part.result = part.act(True)
            part.acts = part.result.changed
        self.networks.append(part)

    def _foresee_image(self, wish: ImageWish) -> None:
        wish.driver, wish.driver_options = self.where
        wish.arch = wish.arch or self.driver.host.architecture()
        part = _Part(
            "image",
            str(wish.name),
            lambda check: reconcile_image(wish, self._runtime(part), self.data, check),
        )
        # Before anything changes, images are looked up only where no image host has to be asked.
        part.acts = wish.state == "latest" or not self._is_cached(wish)
        if not part.acts:
            with _named(part):
                part.result = part.act(True)
            part.acts = part.result.changed
        self.images.append(part)

    def _is_cached(self, wish: ImageWish) -> bool:
        from ansible_collections.minicloud.local.plugins.module_utils._images.vault import Vault

        return (
            wish.name is not None and Vault(self.data, self.runtime).find(wish.name, wish.arch, wish.kind) is not None
        )

    def _foresee_member(
        self,
        member: Member,
        crew: Crew,
        changing: t.Collection[str],
        expected: dict[str, tuple[Instance, str]],
    ) -> Foreseen:
        part = self._member_part(member.name, member.fresh, list(member.after))
        wish = member.fresh()
        wish.coming = frozenset(changing)
        wish.expected = expected
        wish.going = frozenset(key_of(each.name) for each in self.members if each.gone)
        self._check_addresses(wish)
        with _named(part):
            found = foresee_instance(wish, self._runtime(part), self.data, crew, self.check_mode)
        part.result, part.acts = found.outcome, found.acts
        self.members.append(part)
        return found

    def _check_addresses(self, wish: Wish) -> None:
        """Raise for an address on a network whose subnet is chosen only when it is made."""
        for nic in wish.networks or ():
            network = next((each for each in self.wish.networks if key_of(each.name) == key_of(nic.network)), None)
            if nic.address and network and key_of(nic.network) in wish.coming and not network.subnet:
                current = self.driver.scope.networks.read(nic.network)
                if current is None or not current.subnet:
                    raise InvalidOption(
                        f"instances: {wish.name}: address {nic.address} cannot be given on the network {network.name}",
                        "its subnet is chosen when it is made",
                        f"Give the network {network.name} a subnet.",
                    )

    def _foresee_removal(self, instance: Instance, crew: Crew, going: frozenset[str]) -> None:
        kept = _snapshots_of(self.driver, instance)
        if kept and not self.wish.force and self.wish.state != ABSENT:
            raise InUse(
                f"the instance {instance.name} is no longer named by the cloud {self.wish.name}, and has snapshots",
                f"{kept} of them would go with it",
                "Add force: true to have it removed with them, name it in instances again, or leave out prune.",
                snapshots=kept,
            )

        def wish() -> Wish:
            return Wish(
                name=instance.name,
                state=ABSENT,
                going=going,
                cloud=self.wish.name,
                force=self.wish.force,
                timeout=self.wish.timeout,
            )

        part = self._member_part(instance.name, wish, [])
        part.gone = True
        with _named(part):
            part.result = foresee_instance(wish(), self._runtime(part), self.data, crew, self.check_mode).outcome
        self.members.append(part)

    def _member_part(self, name: str, wish: t.Callable[[], Wish], after: list[str]) -> _Part:
        part = _Part(
            "instance",
            name,
            lambda check: reconcile_instance(wish(), self._runtime(part), self.data, *self.where, check),
            after,
        )
        return part

    def _foresee_network_removals(self, networks: t.Sequence[Network]) -> None:
        named = {key_of(network.name) for network in self.wish.networks}
        going = {key_of(part.name) for part in self.members if part.gone}
        instances = self.driver.scope.instances()[0]
        for network in networks:
            if self.wish.state != ABSENT and (not self.wish.prune or key_of(network.name) in named):
                continue
            users = [name for name in users_of(network, instances) if key_of(name) not in going]
            if users:
                raise InUse(
                    f"the network {network.name} of the cloud {self.wish.name} cannot be removed",
                    f"instances are on it: {', '.join(sorted(users, key=str.lower))}",
                    "Remove them, or give them other networks, first.",
                    users=sorted(users, key=str.lower),
                )
            removal = NetworkWish(network.name, ABSENT, cloud=self.wish.name)
            self._foresee_network(removal, gone=True)

    def _check_memory(self, seen: t.Sequence[Foreseen]) -> None:
        """Raise for more memory than there is, if one of the instances is to be started."""
        wanted = sum(found.memory for found in seen)
        starting = sum(found.memory for found in seen if found.starts)
        self.largest = max((found.memory for found in seen if found.starts), default=0)
        if not starting:
            return
        total, available = self.driver.host.memory()
        host = "this host" if self.driver.host.here else "the host of the hypervisor"
        if total and wanted > total:
            raise InvalidOption(
                f"the instances of the cloud {self.wish.name} need more memory than {host} has",
                f"they are to have {format_size(wanted)} together, and it has {format_size(total)}",
                "Make fewer of them, or give them less.",
            )
        if available and starting > available:
            self.runtime.report.warn(
                f"The instances that the cloud {self.wish.name} starts may use {format_size(starting)} of memory, and"
                f" {host} has {format_size(available)} left now."
            )

    def predict(self) -> None:
        """In check mode, ask also what takes asking others: image hosts; and foretell what goes."""
        for part in [*self.images, *(part for part in self.networks if part.gone)]:
            if part.result is None and part.kind == "image":
                self._carry_out(part, check_mode=True)
            elif part.result is None:
                there = comparable(self.driver.scope.networks.read(part.name))
                part.result = NetworkOutcome(True, ["remove"], None, there, comparable(None))
        wishes = {member.name: member.wish for member in self.wish.members}
        fetched: set[tuple[str, str | None, str | None]] = set()
        for part in self.members:
            wish, found = wishes.get(part.name), part.result
            if wish and isinstance(found, Outcome) and "fetch_image" in found.actions:
                image = (str(wish.reference), wish.arch, wish.instance_type)
                if image in fetched:
                    # It is there by then.
                    steps = [step for step in found.actions if step != "fetch_image"]
                    part.result = found._replace(actions=steps)
                fetched.add(image)

    # -- carrying out -------------------------------------------------------------------------------------------------

    def carry_out(self) -> None:
        """Do what is foreseen. What goes goes first, as it may have what others are to get; a network goes last."""
        for part in self._parts():
            if part.acts:
                part.result = None
        removed = [part for part in self.members if part.gone]
        _in_parallel(removed, self._width(removed), self._carry_out, in_order=False)
        for part in self.networks:
            if part.acts and not part.gone:
                self._carry_out(part)
        for part in self.images:
            if part.acts:
                self._carry_out(part)
        lacking = {key_of(part.name) for part in self.networks if part.error}
        members = [part for part in self.members if not part.gone and part.acts]
        if self.wish.backwards:
            order = {part.name: [each.name for each in members if part.name in each.after] for part in members}
        else:
            order = {part.name: part.after for part in members}
        for part in members:
            part.after = order[part.name]
            self._refuse_without_network(part, lacking)
        _in_parallel(members, self._width(members), self._carry_out, in_order=not self.wish.backwards)
        for part in self.networks:
            if part.gone:
                self._carry_out(part)

    def _refuse_without_network(self, part: _Part, lacking: t.Container[str]) -> None:
        for member in self.wish.members:
            for nic in (member.wish.networks or ()) if member.name == part.name else ():
                if key_of(nic.network) in lacking:
                    part.error = CloudIncomplete(f"{part.name} was not begun", f"its network {nic.network} failed")

    def _width(self, parts: t.Sequence[_Part]) -> int:
        """How many instances to deal with at once."""
        if self.wish.parallel:
            return self.wish.parallel
        width = _FOR_EACH_PROCESSOR * (self.driver.host.processors() or 1)
        available = self.driver.host.memory()[1]
        if available and self.largest:
            width = min(width, available // self.largest)
        return max(1, min(width, len(parts)))

    @staticmethod
    def _carry_out(part: _Part, check_mode: bool = False) -> None:
        """Do to a part what is to be done to it; what fails is its error."""
        try:
            if not part.error:
                with explained(f"the {part.kind} {part.name} failed"):
                    part.result = part.act(check_mode)
        except MinicloudError as exc:
            part.error = exc

    def _runtime(self, part: _Part) -> Runtime:
        """The surroundings of one part: its warnings are its own, and those of its last run count."""
        report = self.runtime.report.about(part.name)
        part.warnings = report.warnings
        return self.runtime.beside(report)

    # -- what became of it --------------------------------------------------------------------------------------------

    def outcome(self) -> CloudOutcome:
        """What was done, and what is now. CloudIncomplete if something failed."""
        for part in self._parts():
            for text in part.warnings:
                self.runtime.report.warn(text)
        view = {
            "name": self.wish.name,
            "scope": self.driver.scope.name,
            "instances": [part.view() for part in self.members if not part.gone],
            "networks": [part.view() for part in self.networks if not part.gone],
            "images": [part.view() for part in self.images],
            "removed": [{"kind": part.kind, **part.view()} for part in (*self.members, *self.networks) if part.gone],
        }
        actions = [
            f"{part.kind} {part.name}: {step}" for part in self._parts() for step in (part.result or _NOTHING).actions
        ]
        before, after = self._sides("before"), self._sides("after")
        failed = [part for part in self._parts() if part.error]
        changed = bool(failed) or any(part.result.changed for part in self._parts() if part.result)
        if failed:
            raise CloudIncomplete(
                f"the cloud {self.wish.name} is not complete: {_listed(failed)} failed",
                "; ".join(f"{part.name}: {str(part.error).rstrip('.')}" for part in failed),
                "The others are as they should be. Run this again to go on with these.",
                cloud=view,
                actions=actions,
                changed=changed,
                failed_parts=[part.name for part in failed],
            )
        return CloudOutcome(changed, actions, view, before, after)

    def _sides(self, side: str) -> dict[str, t.Any]:
        found: dict[str, t.Any] = {}
        for part in self._parts():
            if part.result:
                found.setdefault(f"{part.kind}s", {})[part.name] = getattr(part.result, side)
        return found


_NOTHING = Outcome(False, [], None, {}, {})


def _in_order(members: t.Sequence[Member]) -> list[Member]:
    """Members with those later that come after others."""
    ordered: list[Member] = []
    left = list(members)
    while left:
        done = {member.name for member in ordered}
        free = [member for member in left if done.issuperset(member.after)]
        ordered += free
        left = [member for member in left if member not in free]
    return ordered


def _listed(parts: t.Sequence[_Part]) -> str:
    return f"{len(parts)} of its parts" if len(parts) > 1 else f"the {parts[0].kind} {parts[0].name}"


def _snapshots_of(driver: Driver, instance: Instance) -> int:
    """How many snapshots there are of an instance."""
    try:
        names = os.listdir(os.path.join(driver.scope.directory(instance.name), "snapshots"))
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return sum(name.endswith(".json") and name != "layers.json" for name in names)


@contextlib.contextmanager
def _named(part: _Part) -> t.Iterator[None]:
    """Errors from here name the part of the cloud that they are about."""
    try:
        yield
    except MinicloudError as exc:
        if part.name not in exc.what.split():
            exc.what = f"{part.kind} {part.name}: {exc.what}"
        raise


def _in_parallel(parts: t.Sequence[_Part], width: int, act: t.Callable[[_Part], None], in_order: bool = True) -> None:
    """Act on parts, each when those are done that it comes after, so many at once.

    in_order -- whether one is not begun where one that it comes after has failed
    What nobody foresaw ends the run, as in a run that has one part only.
    """
    names = {part.name for part in parts}
    waiting = {part.name: part for part in parts}
    left = {part.name: {name for name in part.after if name in names} for part in parts}
    done: queue.SimpleQueue[tuple[_Part, BaseException | None]] = queue.SimpleQueue()
    running = 0

    def work(part: _Part) -> None:
        failure: BaseException | None = None
        try:
            act(part)
        except BaseException as exc:
            failure = exc
        done.put((part, failure))

    while waiting or running:
        for part in [part for part in waiting.values() if not left[part.name]][: max(0, width - running)]:
            del waiting[part.name]
            running += 1
            # Daemon threads: an interrupted process ends without waiting for them.
            threading.Thread(target=work, args=(part,), name=part.name, daemon=True).start()
        part, failure = done.get()
        running -= 1
        if failure:
            raise failure
        for other in waiting.values():
            if part.name in left[other.name]:
                left[other.name].discard(part.name)
                if in_order and part.error and not other.error:
                    other.error = CloudIncomplete(
                        f"{other.name} was not begun", f"{part.name}, which it comes after, failed"
                    )
