# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Starting and stopping an instance that is there, and waiting for its guest, with all that belongs to it."""

from __future__ import annotations

import contextlib
import time
import typing as t
from dataclasses import replace

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.crew import Crew
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Suspension
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InUse,
    LaunchError,
    MinicloudError,
    NoSpace,
    NotSupported,
)
from ansible_collections.minicloud.local.plugins.module_utils._guest import known_hosts
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.ports import give_back
from ansible_collections.minicloud.local.plugins.module_utils._model import SUSPENDED, Instance, PortForward
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.access import ssh_access
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.attach import Attachment
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime, seconds_of, timestamp
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

# Seconds after which a guest that was told to shut down and has not done so goes on: systemd gives its services 90.
_SHUTDOWN = 120.0

# How often a start is tried where ports that nobody asked for turn out to be taken.
_TRIES = 5


class Power:
    """Starts and stops instances of one scope. Whoever calls start() or stop() holds the instance's lock."""

    def __init__(self, crew: Crew, runtime: Runtime, data: DataDirectory) -> None:
        self.crew = crew
        self.runtime = runtime
        self.data = data
        self.scope = crew.wanted.scope

    def stop(self, instance: Instance, deadline: Deadline, force: bool) -> Instance:
        """Have its owner stop an instance that is up. Until it is seen to be down, the record says that it is to be."""
        driver = self.crew.of(instance)
        with contextlib.suppress(NoSpace):
            self._store(replace(instance, stopping=timestamp()))
        try:
            driver.acts.stop(instance, deadline, force)
        except MinicloudError:
            with contextlib.suppress(NoSpace):
                self._store(replace(instance, stopping=timestamp()))
            raise
        instance = self._store(replace(instance, owner="", ready=False, stopping="", suspended="", resumed=False))
        self.stop_serving(instance)
        if instance.ports and not instance.user_mode:
            Attachment(driver, self.runtime, self.data).disconnect(instance)
        return instance

    def suspend(self, instance: Instance) -> Instance:
        """Have its owner suspend an instance that is up; it stays its owner. HypervisorError where it cannot."""
        driver = self.crew.of(instance)
        part = self._suspension(driver)
        why = part.why_not(instance)
        if why:
            raise HypervisorError(
                f"{instance.name} cannot be suspended", why, "Put that right, or stop it: state: stopped."
            )
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.mounts import set_aside

        with set_aside(instance, driver, self.runtime, self.data, comes_back=False):
            part.suspend(instance)
        instance = self._store(replace(instance, ready=False, stopping="", resumed=False, suspended=timestamp()))
        if instance.ports and not instance.user_mode:
            Attachment(driver, self.runtime, self.data).disconnect(instance)
        if not part.outlives_host:
            self.runtime.report.warn(
                f"{instance.name} is suspended in the memory of its host: after a restart of the host it is stopped."
            )
        return instance

    def stop_serving(self, instance: Instance) -> None:
        """End what serves folders of the host to an instance that is down."""
        if any(mount.type != "copy" for mount in instance.mounts):
            from ansible_collections.minicloud.local.plugins.module_utils._guest import sshfs

            sshfs.stop_all(self.scope.directory(instance.name))

    def drop_memory(self, instance: Instance) -> Instance:
        """Forget what a suspended instance was doing: it is stopped then."""
        self._suspension(self.crew.of(instance)).drop(instance)
        return self._store(replace(instance, owner="", ready=False, suspended="", resumed=False))

    def follow_name(self, instance: Instance) -> Instance:
        """Have all else follow the new name of an instance that is stopped."""
        for driver in self.crew.all_of(instance):
            driver.acts.follow_name(instance)
        Attachment(self.crew.of(instance), self.runtime, self.data).disconnect(instance)
        self.runtime.report.step("followed")
        before = replace(instance, name=instance.renamed_from)
        with contextlib.suppress(NoSpace):
            known_hosts.unpin(self.data.known_hosts, before.alias, self.scope.is_stale)
        return self._store(replace(instance, renamed_from=""))

    @staticmethod
    def _suspension(driver: Driver) -> Suspension:
        part = driver.suspension()
        if part is None:
            raise NotSupported(f"the driver {driver.name} cannot suspend instances")
        return part

    def await_stop(self, instance: Instance) -> Instance:
        """See whether an instance that was told to stop, by a run that did not see it do so, does so."""
        driver = self.crew.of(instance)
        try:
            told = seconds_of(instance.stopping)
        except ValueError:
            told = time.time()
        grace = Deadline(min(_SHUTDOWN, max(0.0, told + _SHUTDOWN - time.time())))
        while driver.alive(instance):
            if grace.expired():
                return self._store(replace(instance, stopping=""))
            time.sleep(0.2)
        return self._store(replace(instance, owner="", ready=False, stopping=""))

    def start(self, instance: Instance) -> Instance:
        """Start an instance that nobody runs, under the driver that the task names.

        One that is suspended goes on under its owner.
        """
        if instance.restoring:
            self._check_nobody_runs(instance)
            instance = self.bring_back(instance)
        driver = self.crew.of(instance)
        goes_on = driver.suspension() is not None and self._is_suspended(driver, instance)
        if not goes_on:
            driver = self.crew.starter(instance)
            self._check_nobody_runs(instance)
            part = driver.suspension()
            if part:
                # Memory that was saved under another owner belongs to a disk that has changed since.
                part.drop(instance)
        if instance.renamed_from:
            instance = self.follow_name(instance)
        instance = replace(instance, suspended="", resumed=goes_on)
        attachment = Attachment(driver, self.runtime, self.data)
        # A paused instance still holds its ports.
        held = driver.acts.forwards(instance) if goes_on and driver.alive(instance) else None
        instance = self._choose_ports(driver, attachment.give_addresses(instance), held)
        attachment.connect(instance)
        for tries_left in reversed(range(_TRIES)):
            self.pin(instance)
            self.runtime.report.step("pinned")
            try:
                driver.acts.start(instance)
                break
            except InUse as exc:
                # Which ports of another host are free is seen only now.
                if not tries_left or not give_back(instance, exc.facts.get("port")):
                    raise
                instance = self._choose_ports(driver, instance)
        return instance

    @staticmethod
    def _is_suspended(driver: Driver, instance: Instance) -> bool:
        return driver.observe([replace(instance, phase="ready")])[0].state == SUSPENDED

    def bring_back(self, instance: Instance) -> Instance:
        """Bring the disk of a stopped instance back to the snapshot that its record names, whoever has begun that.

        With memory that was saved with it, the instance is suspended then.
        """
        driver = self.crew.of(instance)
        part = driver.snapshots()
        found = [each for each in self.scope.snapshots(instance.name).all()[0] if each.uuid == instance.restoring]
        if part is None or not found:
            raise InUse(
                f"{instance.name} cannot be used as it is",
                f"it was to be brought back to the snapshot {instance.restoring}, which is not there any more",
                "Bring it back to another one, with state: restored of minicloud.local.snapshot.",
            )
        snapshot = found[0]
        if snapshot.memory:
            why = "" if instance.restoring_cold else part.why_not_resumed(replace(instance, owner=""), snapshot)
            if why:
                self.runtime.report.warn(f"{instance.name} does not go on from where {snapshot.name} was taken: {why}.")
            snapshot = replace(snapshot, memory=0) if why or instance.restoring_cold else snapshot
        self.runtime.report.step("bring_back")
        part.restore(instance, snapshot)
        self.runtime.report.step("brought_back")
        instance = replace(instance, restoring="", restoring_cold=False, snapshot=snapshot.uuid)
        if snapshot.memory:
            instance = replace(instance, owner=driver.name, suspended=timestamp())
        return self._store(instance)

    def _choose_ports(
        self, driver: Driver, instance: Instance, held: t.Sequence[PortForward] | None = None
    ) -> Instance:
        # One run at a time, so that two starts do not choose the same ones.
        with self.data.lock("ports", Deadline(60), self.runtime.report):
            driver.acts.choose_ports(instance, held)
            handles = {**instance.handles, driver.name: driver.handle()}
            instance = self._store(replace(instance, owner=driver.name, ready=False, stopping="", handles=handles))
            self.runtime.report.step("ports")
        return instance

    def _store(self, instance: Instance) -> Instance:
        self.scope.write(instance)
        return instance

    def _check_nobody_runs(self, instance: Instance) -> None:
        """Raise where another driver runs the instance after all: somebody has started it there by hand."""
        driver = self.crew.starter(instance)
        for other in self.crew.all_of(instance):
            if other is driver:
                continue
            alive = False
            # One that cannot be asked may as well have gone; hypervisors lock the disks that they use.
            try:
                alive = other.alive(instance)
            except MinicloudError as exc:
                if not other.host.here:
                    self.runtime.report.warn(
                        f"Whether {instance.name} was started elsewhere by hand is not known: {exc}"
                    )
            if alive:
                raise InUse(
                    f"{instance.name} cannot be started by the driver {driver.name}",
                    f"it was started by hand and runs under the driver {other.name}",
                    f"Stop it first: state: stopped with driver: {other.name}.",
                )

    def pin(self, instance: Instance) -> None:
        """Have ssh know the host key of an instance at the address that it has now."""
        host, port = self.crew.of(instance).ssh_address(instance)
        addresses = [known_hosts.host_pattern(host, port)] if host else []
        known_hosts.pin(self.data.known_hosts, instance.alias, addresses, instance.host_keys, self.scope.is_stale)

    def _locate(self, instance: Instance) -> tuple[str, int]:
        """Where the ssh server of a starting instance is, from the moment on that this is known."""
        host, port = self.crew.of(instance).ssh_address(instance)
        if host:
            self.pin(instance)
        return host, port

    def wait_ready(
        self, instance: Instance, deadline: Deadline, cloud_init_errors: str, goes_down: bool = False
    ) -> Instance:
        """Wait until the guest is ready. No lock is held meanwhile: another run may stop or remove it.

        goes_down -- whether user-data tells it to shut itself down
        """
        from ansible_collections.minicloud.local.plugins.module_utils._guest.console import ConsoleWatch
        from ansible_collections.minicloud.local.plugins.module_utils._guest.ready import wait_ready

        self.runtime.report.step("wait_ready")
        driver = self.crew.of(instance)
        readiness = wait_ready(
            self.runtime,
            ssh_access(instance, driver, self.data),
            deadline,
            lambda: self._check_alive(instance, goes_down),
            ConsoleWatch(driver.console_log(instance), refresh=lambda: driver.acts.save_console(instance)),
            cloud_init_errors,
            lambda: self._locate(instance),
        )
        if instance.resumed:
            self.set_clock(instance, readiness.user or instance.user)
        with self.scope.lock(instance.name, Deadline(60), self.runtime.report):
            latest = self.scope.read(instance.name)
            if latest is None or not self._is_still(instance, latest):
                raise self._removed("cloud-init", instance)
            found = {"status": readiness.status, "errors": [str(each) for each in readiness.errors]}
            user = latest.user or readiness.user
            self.lead_ports(latest)
            return self._store(
                replace(latest, ready=True, booted=True, restarting=False, resumed=False, cloud_init=found, user=user)
            )

    def set_clock(self, instance: Instance, user: str) -> None:
        """Set the clock of a guest that has not seen time go by, by that of its machine, which has."""
        from ansible_collections.minicloud.local.plugins.module_utils._guest.clock import set_clock

        if instance.instance_type != "vm":
            return
        self.runtime.report.step("set_clock")
        access = ssh_access(instance, self.crew.of(instance), self.data)._replace(user=user)
        why = set_clock(self.runtime, access) if access.host and user else "nobody can log in"
        if why:
            self.runtime.report.warn(f"The clock of {instance.name} may be behind by the time of its pause: {why}.")

    def lead_ports(self, instance: Instance) -> None:
        """Have forwarded ports lead to an instance that got its address, from others, since they were asked for."""
        driver = self.crew.of(instance)
        if instance.ports and driver.observe([instance])[0].severed:
            Attachment(driver, self.runtime, self.data).connect(instance)

    @staticmethod
    def _is_still(instance: Instance, latest: Instance | None) -> bool:
        """Whether the record of that name is still of this instance, and not of one that goes or has replaced it."""
        return latest is not None and latest.uuid == instance.uuid and latest.phase == "ready"

    @staticmethod
    def _removed(stage: str, instance: Instance) -> LaunchError:
        return LaunchError(
            stage,
            f"{instance.name} was removed by another run while this one waited",
            hint="Run this again to have it made anew.",
        )

    def _check_alive(self, instance: Instance, goes_down: bool) -> None:
        driver = self.crew.of(instance)
        if driver.alive(instance):
            return
        from ansible_collections.minicloud.local.plugins.module_utils._guest.console import tail, went_down
        from ansible_collections.minicloud.local.plugins.module_utils._guest.ready import GOING_DOWN

        latest = self.scope.read(instance.name)
        if latest is None or not self._is_still(instance, latest):
            raise self._removed("boot", instance)
        driver.acts.save_console(instance)
        log = driver.acts.log(instance)
        path = driver.console_log(instance)
        console = tail(path)
        why, hint = log, "The last lines of its console are in the result; run this again to start it once more."
        if not latest.owner:
            why = "another run has stopped it"
        elif latest.suspended:
            why = "another run has suspended it"
        elif goes_down:
            why, hint = GOING_DOWN
        elif went_down(path):
            # An error of the hypervisor here is a consequence, not the cause, so it is not reported.
            why = "the guest shut itself down, as the end of its console shows"
        raise LaunchError(
            "boot",
            f"{instance.name} ended while it was starting",
            why or "the guest shut itself down, or its hypervisor was ended",
            hint,
            console=console,
            hypervisor_log=log.splitlines(),
        )
