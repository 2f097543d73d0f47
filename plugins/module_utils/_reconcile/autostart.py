# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Networks and instances that start with the host: having that happen, and, when it does, starting them."""

from __future__ import annotations

import contextlib
import sys
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.crew import Crew
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import ABOUT, load
from ansible_collections.minicloud.local.plugins.module_utils._errors import MinicloudError, NoSpace
from ansible_collections.minicloud.local.plugins.module_utils._host import systemd
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.units import Unit
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Reporter, Runner, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory, Scope

Starting = t.Union[Instance, Network]

# Seconds that guests have in all to get the addresses, from others, that ports of this host are to lead to.
_ADDRESSES = 180.0


def needs_unit(record: Starting) -> bool:
    """Whether something is to start with the host that its hypervisor does not start by itself."""
    starts = record.starts_with_host if isinstance(record, Instance) else record.autostart
    return starts and record.phase != "removing" and not ABOUT[record.driver].is_server


def _scope_needs_unit(scope: Scope) -> bool:
    """Whether anything in a scope needs the unit; what has a record that cannot be read may well need it."""
    for found, broken in (scope.networks.all(), scope.instances()):
        if broken or any(map(needs_unit, found)):
            return True
    return False


class Autostart:
    """What is to start with the host, and the unit that starts it where its hypervisor does not."""

    def __init__(self, runtime: Runtime, data: DataDirectory) -> None:
        self.runtime = runtime
        self.data = data

    def is_in_place(self, record: Starting | None) -> bool:
        """Whether the unit is there as far as a record needs it, and no earlier run has left it undecided; cheap."""
        unit = Unit(self.runtime, self.data)
        return unit.is_finished() and (record is None or not needs_unit(record) or unit.is_on())

    @contextlib.contextmanager
    def kept_unit(self) -> t.Iterator[None]:
        """Change records; then the unit is there if anything needs it, and gone if nothing does."""
        unit = Unit(self.runtime, self.data)
        with contextlib.suppress(NoSpace):  # removing is what makes room
            unit.begin()
        try:
            yield
        finally:
            with self.data.lock("autostart", Deadline(60), self.runtime.report):
                unit.finish(any(map(_scope_needs_unit, self.data.scopes())))

    def warn_of_obstacle(self, record: Starting | None) -> None:
        """Tell the user where what is to start with this host will not."""
        if record and needs_unit(record):
            obstacle = Unit(self.runtime, self.data).obstacle()
            if obstacle:
                self.runtime.report.warn(f"autostart of {record.name}: {obstacle}")


def _networks(scope: Scope) -> list[Network]:
    return scope.networks.all()[0]


def _instances(scope: Scope) -> list[Instance]:
    return scope.instances()[0]


class _Journal(Reporter):
    """Tells the journal what happens."""

    def step(self, name: str) -> None:
        return

    def warn(self, text: str) -> None:
        super().warn(text)
        sys.stderr.write(f"warning: {text}\n")
        sys.stderr.flush()


def main(arguments: t.Sequence[str], runner: Runner) -> int:
    """Start what is to start with the host, or suspend it where the host goes down; returns an exit status.

    arguments -- the data directory, and `stop` where the unit is stopped
    """
    data, runtime = DataDirectory(arguments[0]), Runtime(runner, _Journal())
    data.require_own()
    if list(arguments[1:]) == ["stop"]:
        return 1 if systemd.is_going_down(runtime) and suspend_all(runtime, data) else 0
    return 1 if start_all(runtime, data) else 0


def suspend_all(runtime: Runtime, data: DataDirectory) -> dict[str, str]:
    """Suspend what starts with the host and runs, so that it goes on then. Returns what went wrong, by name."""
    failures: dict[str, str] = {}
    for scope in data.scopes():
        for instance in filter(needs_unit, _instances(scope)):
            with _noted(failures, instance.name, runtime):
                _suspend(instance, runtime, data)
    return failures


def _suspend(instance: Instance, runtime: Runtime, data: DataDirectory) -> None:
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile.power import Power

    if not instance.owner:
        return
    crew = Crew(load(instance.owner, runtime, data))
    scope = crew.wanted.scope
    with scope.lock(instance.name, Deadline(60), runtime.report):
        latest = scope.read(instance.name)
        if latest is None or latest.phase != "ready" or not latest.owner:
            return
        driver = crew.of(latest)
        part = driver.suspension()
        if part and part.outlives_host and driver.host.here and driver.alive(latest):
            Power(crew, runtime, data).suspend(latest)


def start_all(runtime: Runtime, data: DataDirectory) -> dict[str, str]:
    """Start the networks, then the instances. Returns what went wrong, by what could not be started."""
    failures: dict[str, str] = {}
    for scope in data.scopes():
        for network in filter(needs_unit, _networks(scope)):
            with _noted(failures, f"network {network.name}", runtime):
                _bring_up(network, runtime, data)
        for instance in filter(needs_unit, _instances(scope)):
            with _noted(failures, instance.name, runtime):
                _start(instance, runtime, data)
    patience = Deadline(_ADDRESSES)
    for scope in data.scopes():
        for instance in filter(needs_unit, _instances(scope)):
            with _noted(failures, f"ports of {instance.name}", runtime):
                _lead_ports(instance, runtime, data, patience)
    return failures


@contextlib.contextmanager
def _noted(failures: dict[str, str], name: str, runtime: Runtime) -> t.Iterator[None]:
    """One that cannot be started does not keep the others."""
    try:
        yield
    except (MinicloudError, OSError) as exc:
        failures[name] = str(exc)
        runtime.report.warn(f"{name}: {exc}")


def _bring_up(network: Network, runtime: Runtime, data: DataDirectory) -> None:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.members import members_of

    driver = load(network.driver, runtime, data, network.handles.get(network.driver))
    networks, scope = driver.networks(), driver.scope
    if networks is None:
        return
    with scope.networks.lock(network.name, Deadline(120), runtime.report):
        latest = scope.networks.read(network.name)
        if latest and needs_unit(latest):
            networks.apply(latest, members_of(latest, scope.instances()[0]))


def _lead_ports(instance: Instance, runtime: Runtime, data: DataDirectory, patience: Deadline) -> None:
    """See to the ports of an instance that gets its address, from others, only after it has started."""
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile.power import Power

    if not instance.ports or not instance.owner:
        return
    crew = Crew(load(instance.owner, runtime, data))
    driver = crew.of(instance)
    for dummy in patience.pauses(first=0.5, longest=2.0):
        if not driver.alive(instance) or driver.ssh_address(instance)[0]:
            break
    with crew.wanted.scope.lock(instance.name, Deadline(120), runtime.report):
        latest = crew.wanted.scope.read(instance.name)
        if latest and latest.phase == "ready" and latest.owner == instance.owner and driver.alive(latest):
            Power(crew, runtime, data).lead_ports(latest)


def _start(instance: Instance, runtime: Runtime, data: DataDirectory) -> None:
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile.attach import Attachment
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile.power import Power

    # Its last owner is the best guess: the record still names one if the host went down without warning.
    crew = Crew(load(instance.owner or instance.driver, runtime, data))
    scope = crew.wanted.scope
    with scope.lock(instance.name, Deadline(120), runtime.report):
        latest = scope.read(instance.name)
        if not latest or latest.phase != "ready" or not needs_unit(latest):
            return
        driver = crew.starter(latest)
        if driver.alive(latest):
            # The unit is run again when a firewall was started anew, whose rules may have been the only ones left.
            Attachment(driver, runtime, data).connect(latest)
        else:
            Power(crew, runtime, data).start(latest)
