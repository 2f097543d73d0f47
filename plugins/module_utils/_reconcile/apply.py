# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Carrying out the plan for one instance. Each step may be the last one before a power cut: the next run goes on."""

from __future__ import annotations

import contextlib
import functools
import random
import typing as t
import uuid
from dataclasses import replace

from ansible_collections.minicloud.local.plugins.module_utils._dataclass import dataclass
from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.crew import Crew
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    InvalidOption,
    LaunchError,
    MinicloudError,
    MissingRequirement,
    NoSpace,
)
from ansible_collections.minicloud.local.plugins.module_utils._guest import keys, known_hosts, seed
from ansible_collections.minicloud.local.plugins.module_utils._guest.cloud_config import CloudConfig, Settings
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ABSENT,
    DEFAULT_TYPE,
    KINDS,
    RUNNING,
    Instance,
    format_size,
    key_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.access import ssh_access
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.attach import Attachment
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.current import (
    look,
    remains,
    surroundings,
    with_parent,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.plan import (
    AT_THE_END,
    RECONFIGURING,
    Plan,
    disk_size,
    image_of,
    make_plan,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.power import Power
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.source import Clone
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import Wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import (
    Deadline,
    Runtime,
    timestamp,
    user_name,
)
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._images.origin import Brought
    from ansible_collections.minicloud.local.plugins.module_utils._images.provide import ProvidedVault
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile.imports import Arrival


@dataclass
class _Work:
    """What the steps of a plan hand on: the instance as it is (None: there is none), and as it is to be."""

    plan: Plan
    current: Instance | None
    after: Instance | None
    image: Image | None
    deadline: Deadline

    @property
    def there(self) -> Instance:
        """The instance as it is, for steps that come only where there is one."""
        return t.cast(Instance, self.current)

    @property
    def wanted(self) -> Instance:
        """The instance as it is to be, for steps that lead to one."""
        return t.cast(Instance, self.after)


class Applier:
    """Carries out plans for one wish. changing -- what is entered while records change, under the instance's lock"""

    def __init__(
        self,
        wish: Wish,
        crew: Crew,
        runtime: Runtime,
        data: DataDirectory,
        host_arch: str,
        changing: t.Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self.wish = wish
        self.changing = changing
        self.crew = crew
        self.driver = crew.wanted  # which makes; what runs is its owner's
        self.runtime = runtime
        self.data = data
        self.host_arch = host_arch
        self.scope = crew.wanted.scope
        self.power = Power(crew, runtime, data)
        self.seed = seed_options(wish)
        # Where the instance is made from a file or directory instead of an image: what reads that, and what it had.
        self.arrival: Arrival | None = None
        self.brought: Brought | None = None

    def receive(self, arrival: Arrival) -> None:
        """Make the instance from what comes from elsewhere. It is another one then, as a clone is."""
        self.arrival = arrival
        known_user = "" if self.wish.user else arrival.found.user
        self.seed = self.seed._replace(known_user=known_user, cloned=True)

    def check_host(self, plan: Plan) -> None:
        """Raise if the host cannot do what the plan needs; nothing was changed then."""
        if "delete" in plan.steps and not self.wish.force:
            self._check_clones(self.scope.read(self.wish.name))
        if plan.after is None:
            return
        if "create" in plan.steps or plan.drift:
            seed.check_seed_options(self.seed)
            if "create" in plan.steps and "wait_ready" in plan.steps:
                seed.check_login(self.seed)
        if "start" in plan.steps or "create" in plan.steps:
            user_name()
            after, driver = plan.after, self._acting(plan)
            driver.acts.require(after.arch, after.image.get("firmware", ""), after.instance_type)
            self._check_memory(after, driver)
        if {"create", "start", "set_networks"}.intersection(plan.steps):
            Attachment(self._acting(plan), self.runtime, self.data).check(plan.after, self.wish.coming, self.wish.going)
        self._check_mounts(plan, plan.after)

    def _check_clones(self, instance: Instance | None) -> None:
        """Raise InUse where an instance that is to go has clones which share its disk, unless that is forced."""
        if instance is None or self.wish.force or instance.phase != "ready":
            return
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.clones import (
            linked_clones,
            refuse_to_lose,
        )

        clones = linked_clones(self.crew, instance)
        refuse_to_lose(instance.name, [name for name in clones if key_of(name) not in self.wish.going])

    def _check_mounts(self, plan: Plan, after: Instance) -> None:
        if not after.mounts or not {"create", "set_mounts"}.intersection(plan.steps):
            return
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.mounts import (
            changed_mounts,
            check_mounts,
        )

        before = None if "create" in plan.steps else self.scope.read(after.name)
        come = changed_mounts(before, after)[1] if before else after.mounts
        check_mounts(after, come, self._acting(plan), self.data)

    def _acting(self, plan: Plan) -> Driver:
        """Whoever deals with the instance as it will be."""
        made = plan.after is None or "create" in plan.steps
        return self.driver if made or plan.after is None else self.crew.starter(plan.after)

    def foreseen_user(self, planned: Instance, image: Image | None) -> str:
        """Whom one logs in as in an instance that is to be made; empty where only the guest can tell."""
        return self._user_of_clone(planned) if isinstance(self.wish.source, Clone) else self.login_user(image)

    def _user_of_clone(self, planned: Instance) -> str:
        # Its disk has the login user of the one that it is made from.
        known_user = "" if self.wish.user else planned.user
        self.seed = self.seed._replace(known_user=known_user, cloned=True)
        login = seed.expected_login_user(self.seed)
        return (login.user if login else "") or planned.user

    def login_user(self, image: Image | None) -> str:
        """Whom one logs in as in an instance made from the image; empty where only the guest can tell."""
        login = seed.expected_login_user(self.seed)
        if login is None:
            return ""
        return login.user or (image.user if image else "")

    def _check_memory(self, instance: Instance, driver: Driver) -> None:
        total, available = driver.host.memory()
        host = "this host" if driver.host.here else "the host of the hypervisor"
        if total and instance.memory > total:
            raise InvalidOption(
                f"memory {format_size(instance.memory)} is more than {host} has",
                f"it has {format_size(total)}",
                "Ask for less.",
            )
        if available and instance.memory > available:
            self.runtime.report.warn(
                f"{instance.name} may use {format_size(instance.memory)} of memory, and {host} has"
                f" {format_size(available)} left now."
            )

    def carry_out(self, plan: Plan) -> tuple[Plan, Instance | None]:
        """Apply the plan and return what was done, and the instance as it is then (None: it is gone).

        Under the instance's lock the plan is made again from what is there then: where another run was faster,
        nothing is left to do.
        """
        done: list[str] = []
        deadline = Deadline(self.wish.timeout)
        if not plan.changes:
            current = self.scope.read(self.wish.name)
        while plan.changes:
            with contextlib.ExitStack() as held:
                image = None
                if "create" in plan.steps and not isinstance(self.wish.source, Clone):
                    image, fetched = self._have_image("fetch_image" in plan.steps, held)
                    done = ["fetch_image"] if fetched else done
                    if "fetch_image" in plan.steps:
                        # Its firmware is known only now that the image is here. Only the vault has changed so far.
                        self.driver.acts.require(self._arch(), image.firmware, self.wish.instance_type or DEFAULT_TYPE)
                deadline = Deadline(self.wish.timeout)
                makes = "create" in plan.steps
                with self._locked(makes, deadline):
                    if "await_stop" in plan.steps and self._await_stop():
                        done.append("await_stop")
                    current, observed = look(self.wish, self.crew)
                    around = surroundings(self.driver, self.host_arch)
                    around = with_parent(around, self.wish, self.crew, current, observed)
                    plan = make_plan(self.wish, current, observed, image, around)
                    if "fetch_image" not in plan.steps and (makes or around.parent is None):
                        with self.changing():
                            current = self._apply(plan, current, image, deadline)
                        break
            # Another run has removed the instance meanwhile, so making it is planned now, which was not checked yet.
            self.check_host(plan)
        plan.steps = done + plan.steps
        if current and "wait_ready" in plan.steps:
            goes_down = "create" in plan.steps and seed.goes_down(self.seed)
            current = self.power.wait_ready(current, deadline, self.wish.cloud_init_errors, goes_down)
        if current and "mount" in plan.steps:
            current = self._mount(plan, current)
        return plan, current

    @contextlib.contextmanager
    def _locked(self, makes: bool, deadline: Deadline) -> t.Iterator[None]:
        """Hold the lock of the instance; of one that is made from another also that one's, always in the same order."""
        names = {key_of(self.wish.name)}
        if makes and isinstance(self.wish.source, Clone):
            names.add(key_of(self.wish.source.instance))
        with contextlib.ExitStack() as locks:
            for name in sorted(names):
                locks.enter_context(self.scope.lock(name, deadline, self.runtime.report))
            yield

    def _mount(self, plan: Plan, instance: Instance) -> Instance:
        """Make the mounts of a running instance that are not there."""
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.mounts import Mounter

        self.runtime.report.step("mount")
        with self.scope.lock(instance.name, Deadline(60), self.runtime.report):
            latest = self.scope.read(instance.name)
            if latest is None or latest.uuid != instance.uuid or not self.crew.of(latest).alive(latest):
                return instance  # another run has stopped or removed it
            mounter = Mounter(self.crew.of(latest), self.runtime, self.data, self._store)
            insisted = self.wish.mount.target if self.wish.mount else ""
            latest, acted = mounter.make(latest, insisted, "start" in plan.steps)
        if not acted:
            plan.steps.remove("mount")
        return latest

    def _await_stop(self) -> bool:
        """See the end of a stop that a run which has ended asked for; whether it came."""
        current = self.scope.read(self.wish.name)
        if current is None or current.phase != "ready" or not current.stopping:
            return False
        self.runtime.report.step("await_stop")
        return not self.power.await_stop(current).owner

    def _apply(self, plan: Plan, current: Instance | None, image: Image | None, deadline: Deadline) -> Instance | None:
        before, after = current, plan.after
        if after is not None and ("create" in plan.steps or "stop" in plan.steps):
            self._foresee(after, current, image, plan.steps)
        work = _Work(plan, current, after, image, deadline)
        for step in plan.steps:
            if step not in AT_THE_END:
                self.runtime.report.step(step)
            act = self.METHODS.get(step)
            if act:
                act(self, work)
        current, after = work.current, work.after
        if after is not None and RECONFIGURING.intersection(plan.steps) and "start" not in plan.steps:
            self.crew.of(after).acts.reconfigure(after)
        if after is not None and before is not None and "set_networks" in plan.steps and "start" not in plan.steps:
            self._readdress(before, after, deadline)
        if after is not None and plan.changes and after is not current:
            current = self._store(after if current is None else self._merged(after, current))
        return current if plan.state != ABSENT else None

    # The steps of a plan. Those that are not here are the record's alone, or come at the end.

    def _remove_step(self, work: _Work) -> None:
        if work.current is not None:
            self._delete(work.current)
        work.current = None

    def _create_step(self, work: _Work) -> None:
        with _stage("create"):
            work.current = work.after = self._create(work.wanted, work.image)
            if "start" not in work.plan.steps:
                Attachment(self.driver, self.runtime, self.data).disconnect(work.after)

    def _keep_step(self, work: _Work) -> None:
        work.current = self._store(replace(work.there, phase="ready"))

    def _soft_delete_step(self, work: _Work) -> None:
        deleted = timestamp()
        work.current = self._store(replace(work.there, phase="ready", restarting=False, deleted=deleted))
        self._tell_autostart(work.current)

    def _recover_step(self, work: _Work) -> None:
        work.current = self._store(replace(work.there, phase="ready", deleted=""))
        self._tell_autostart(work.current)

    def _tell_autostart(self, instance: Instance) -> None:
        """Tell the hypervisor of one that starts with the host, but not while it is deleted."""
        if instance.autostart:
            self.crew.of(instance).acts.reconfigure(instance)

    def _suspend_step(self, work: _Work) -> None:
        work.current = self.power.suspend(work.there)

    def _drop_memory_step(self, work: _Work) -> None:
        work.current = self.power.drop_memory(work.there)

    def _stop_step(self, work: _Work) -> None:
        there = replace(work.there, restarting=work.wanted.restarting)
        work.current = self.power.stop(there, work.deadline, self.wish.force)

    def _start_step(self, work: _Work) -> None:
        with _stage("boot"):
            # A suspended instance can only be resumed by its owner.
            owner = work.current.owner if work.current else ""
            work.current = work.after = self.power.start(replace(work.wanted, owner=owner))
        # A restart that is waited for has not ended yet.
        if work.after.restarting and "wait_ready" not in work.plan.steps:
            work.current = work.after = self._store(replace(work.after, restarting=False))

    def _resume_step(self, work: _Work) -> None:
        self.crew.of(work.wanted).acts.resume(work.wanted)

    def _grow_disk_step(self, work: _Work) -> None:
        self.crew.of(work.wanted).acts.grow_disk(work.wanted)

    def _set_networks_step(self, work: _Work) -> None:
        work.after = self._set_networks(work.wanted, "start" in work.plan.steps)

    def _set_mounts_step(self, work: _Work) -> None:
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.mounts import Mounter, changed_mounts

        driver = self.crew.of(work.there)
        gone = changed_mounts(work.there, work.wanted)[0]
        if gone and "start" not in work.plan.steps:
            runs = driver.observe([work.there])[0].state == RUNNING
            Mounter(driver, self.runtime, self.data, self._store).take_away(work.there, gone, runs, self.wish.force)

    def _set_ports_step(self, work: _Work) -> None:
        self._set_ports(work.wanted, "start" in work.plan.steps)

    def _repair_networks_step(self, work: _Work) -> None:
        self._repair_networks(work.wanted)

    METHODS: t.ClassVar[dict[str, t.Callable[[Applier, _Work], None]]] = {
        "delete": _remove_step,
        "remove_leftovers": _remove_step,
        "create": _create_step,
        "keep": _keep_step,
        "suspend": _suspend_step,
        "drop_memory": _drop_memory_step,
        "soft_delete": _soft_delete_step,
        "recover": _recover_step,
        "stop": _stop_step,
        "start": _start_step,
        "resume": _resume_step,
        "grow_disk": _grow_disk_step,
        "set_networks": _set_networks_step,
        "set_ports": _set_ports_step,
        "set_mounts": _set_mounts_step,
        "repair_networks": _repair_networks_step,
    }

    def _foresee(
        self, after: Instance, current: Instance | None, image: Image | None, steps: t.Collection[str]
    ) -> None:
        """Raise for what would fail halfway, while nothing is stopped or removed yet."""
        if image is not None:
            self._check_image(image)
            given = seed.given_host_keys(self.seed)
            if given:
                keys.pinned_keys(self.runtime, self.data.keys, given.public, given.private)
        # Leftovers may hold the very ports; they go before anything is started.
        leftovers = "remove_leftovers" in steps
        if not leftovers and (self.wish.wants_running or self.wish.state == "present"):
            held = []
            if current and self.crew.of(current).alive(current):
                held = self.crew.of(current).acts.forwards(current)
            self.crew.starter(after).acts.choose_ports(replace(after), held)

    @staticmethod
    def _merged(after: Instance, current: Instance) -> Instance:
        """The planned record with what the steps found out meanwhile."""
        kept = ("owner", "ready", "deleted", "suspended", "resumed")
        return replace(after, **{name: getattr(current, name) for name in kept})

    def _store(self, instance: Instance) -> Instance:
        self.scope.write(instance)
        return instance

    @functools.cached_property
    def _vault(self) -> ProvidedVault:
        from ansible_collections.minicloud.local.plugins.module_utils._images.provide import ProvidedVault, ask_hosts

        return ProvidedVault(self.data, self.runtime, ask_hosts(self.data, self.runtime, self.wish.image_hosts))

    def _arch(self) -> str:
        return self.wish.arch or self.host_arch

    def _kind(self) -> str:
        return KINDS[self.wish.instance_type or DEFAULT_TYPE]

    def _have_image(self, fetch: bool, held: contextlib.ExitStack) -> tuple[Image, bool]:
        """The wished image, and whether it had to be fetched; a promised checksum is held against a cached one too.

        held -- what is to be kept until the instance is made from it
        """
        if self.arrival:
            self.runtime.report.step("fetch_image")
            with _stage("image"):
                self.brought = held.enter_context(self.arrival.bring())
            return self.brought.image, True
        vault = self._vault
        if not fetch and not self.wish.image_checksum:
            image = vault.find(self.wish.reference, self._arch(), self._kind())
            if image:
                vault.touch(image)
                return image, False
        self.runtime.report.step("fetch_image")
        try:
            image, changed = vault.ensure(
                self.wish.reference, self._arch(), self.wish.image_checksum or "", kind=self._kind()
            )
        except MinicloudError as exc:
            exc.facts.setdefault("stage", "image")
            raise
        return image, changed

    def foresee_image(self, plan: Plan) -> None:
        """Raise, in check mode, for an image file that cannot be used; only the real run asks image hosts."""
        if "fetch_image" in plan.steps and self.wish.reference.host == "file" and not self.arrival:
            with _stage("image"):
                self._vault.forecast(
                    self.wish.reference, self._arch(), self.wish.image_checksum or "", kind=self._kind()
                )

    def _create(self, planned: Instance, image: Image | None) -> Instance:
        if image is not None:
            planned = replace(
                planned,
                disk=disk_size(self.wish, image, planned.disk),
                image=image_of(image),
                user=self.login_user(image),
            )
        else:
            planned = replace(planned, user=self._user_of_clone(planned))
        instance = replace(
            planned,
            uuid=str(uuid.uuid4()),
            scope=self.scope.name,
            owner="",
            phase="creating",
            created=timestamp(),
            nics=[replace(nic, mac=nic.mac or self._new_mac()) for nic in planned.nics],
            handles={self.driver.name: self.driver.handle()},
        )
        self._store(instance)
        self.runtime.report.step("record")
        try:
            if image is not None:
                self._check_image(image)
            instance = Attachment(self.driver, self.runtime, self.data).give_addresses(instance)
            self.runtime.report.step("addresses")
            instance = self._make_parts(instance, image)
            if self.arrival and self.brought:
                instance = self.arrival.take_in(instance, self.brought)
        except MinicloudError:
            # Nothing has run in it yet: leave nothing half-made.
            with contextlib.suppress(MinicloudError):
                self._delete(instance)
            raise
        self.runtime.report.step("created")
        return self._store(replace(instance, phase="ready"))

    def _check_image(self, image: Image) -> None:
        """From the record on nobody removes the image: but somebody may have before."""
        if not self._vault.has(image):
            raise LaunchError(
                "image",
                f"the image {image.name} was removed by another run while {self.wish.name} was being made from it",
                hint="Run this again to have it fetched again.",
            )

    def _make_parts(self, instance: Instance, image: Image | None) -> Instance:
        """Make what an instance consists of; its record with what is known of it only then."""
        directory = self.scope.directory(instance.name)
        login = keys.ensure_login_key(self.runtime, self.data.keys)
        self.runtime.report.step("host_key")
        host_key = keys.make_host_key(self.runtime, directory, instance.name)
        given = seed.given_host_keys(self.seed)
        if given:
            instance.host_keys = keys.pinned_keys(self.runtime, directory, given.public, given.private)
        else:
            instance.host_keys = [host_key.public]
        nics = self.driver.interfaces(instance)
        named = instance.instance_type == "container"
        files = seed.seed_files(instance.name, instance.uuid, [login.public], [host_key], self.seed, nics, named)
        if image is not None:
            self.driver.acts.create(instance, image, files)
            return instance
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.clones import Cloning

        source = t.cast(Clone, self.wish.source)
        return Cloning(source, self.crew, self.runtime, self.data).make(instance, files)

    def _new_mac(self) -> str:
        used = {nic.mac for scope in self.data.scopes() for other in scope.instances()[0] for nic in other.nics}
        while True:
            mac = "52:54:00:" + ":".join(f"{random.SystemRandom().randrange(256):02x}" for dummy in range(3))
            if mac not in used:
                return mac

    def _set_ports(self, instance: Instance, starts: bool) -> None:
        """New forwards for a running instance; where it is started anyway, its start chooses them."""
        driver = self.crew.of(instance)
        if starts or not driver.alive(instance):
            return
        with self.data.lock("ports", Deadline(60), self.runtime.report):
            # Not the record's: a run that was killed in the middle of this has changed the one and not the other.
            held = driver.acts.forwards(instance)
            driver.acts.choose_ports(instance, held)
            driver.acts.forward_ports(instance, held)
            self._store(instance)

    def _set_networks(self, instance: Instance, starts: bool) -> Instance:
        """Other interfaces or addresses; where it is started anyway, its start tells the networks."""
        nics = [replace(nic, mac=nic.mac or self._new_mac()) for nic in instance.nics]
        driver = self.crew.of(instance)
        attachment = Attachment(driver, self.runtime, self.data)
        before = self.scope.read(instance.name)
        instance = attachment.give_addresses(replace(instance, nics=nics))
        if not starts:
            if driver.alive(instance):
                attachment.connect(instance)
                self.power.pin(instance)
            else:
                attachment.disconnect(instance)
            if before:
                attachment.disconnect(before)
        return instance

    def _repair_networks(self, instance: Instance) -> None:
        driver = self.crew.of(instance)
        Attachment(driver, self.runtime, self.data).connect(instance)
        driver.acts.plug_in(instance)

    def _readdress(self, before: Instance, after: Instance, deadline: Deadline) -> None:
        """Have a running guest take on the addresses that have changed, and ssh know it there."""
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.readdress import (
            changed_addresses,
            readdress,
        )

        driver = self.crew.of(after)
        changed = changed_addresses(before, after)
        if changed and driver.alive(after):
            readdress(
                self.runtime,
                driver,
                after,
                changed,
                lambda: ssh_access(after, driver, self.data),
                deadline,
                self.wish.wait,
            )
            # Ports that the hypervisor forwards can lead to the guest's new address now.
            driver.acts.reconfigure(after)
            self.power.pin(after)

    def _delete(self, instance: Instance) -> None:
        """Whatever is left of an instance goes; the record tells the next run, should this one not get to the end.

        What is refused leaves the instance, and its record, as they were.
        """
        whole = instance.phase == "ready"
        if whole:
            self._check_clones(instance)
            self._at_each_driver(instance, lambda driver: driver.acts.check_removal(instance))
        noted = instance.phase == "creating"
        if not noted:
            # On a full disk nothing can be noted, and removing is what makes room.
            with contextlib.suppress(NoSpace):
                self._store(replace(instance, phase="removing"))
                noted = True
        self.runtime.report.step("removing")
        try:
            self._at_each_driver(instance, lambda driver: driver.acts.delete(instance))
            self.power.stop_serving(instance)
            self.scope.remove_content(instance.name)
            if not noted:
                # There may be room now.
                with contextlib.suppress(NoSpace):
                    self._store(replace(instance, phase="removing"))
            Attachment(self.driver, self.runtime, self.data).disconnect(instance)
            self._unpin(instance)
            self.scope.remove(instance.name)
        except MinicloudError:
            # If that cannot be found out, the record goes on saying that the removal has begun.
            with contextlib.suppress(MinicloudError):
                if whole and remains(self.crew, replace(instance, phase="removing")):
                    self._store(instance)
            raise
        self.runtime.report.step("removed")

    def _unpin(self, instance: Instance) -> None:
        try:
            known_hosts.unpin(self.data.known_hosts, instance.alias, self.scope.is_stale)
        except NoSpace as exc:
            self.runtime.report.warn(f"The keys of {instance.name} stay in known_hosts until the next run: {exc}")

    def _at_each_driver(self, instance: Instance, act: t.Callable[[Driver], None]) -> None:
        """Act at every driver that may have something of an instance."""
        for driver in self.crew.all_of(instance):
            try:
                act(driver)
            except MissingRequirement as exc:
                # With its record lost, it is unknown which drivers made something for it.
                lost = not instance.uuid and driver.name != self.driver.name
                if not (lost or (not driver.host.here and self.wish.force)):
                    raise
                text = f"Whether the driver {driver.name} has anything of {instance.name}: {exc}"
                if text not in self.runtime.report.warnings:
                    self.runtime.report.warn(text)


@contextlib.contextmanager
def _stage(name: str) -> t.Iterator[None]:
    """Errors from here tell that a launch had come to this stage."""
    try:
        yield
    except MinicloudError as exc:
        exc.facts.setdefault("stage", name)
        raise


def seed_options(wish: Wish) -> seed.SeedOptions:
    """The part of a wish that goes into the seed."""
    return seed.SeedOptions(
        user=wish.user or "",
        ssh_authorized_keys=wish.ssh_authorized_keys or (),
        cloud_init=wish.cloud_init or CloudConfig(),
        vendor_data=wish.vendor_data or CloudConfig(),
        network_config=wish.network_config or Settings(),
        meta_data=wish.meta_data or Settings(),
    )
