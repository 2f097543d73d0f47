# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""One network, from what a task wishes to what is: observe, plan, apply."""

from __future__ import annotations

import contextlib
import typing as t
from dataclasses import replace

from ansible_collections.minicloud.local.plugins.module_utils._dataclass import dataclass
from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.members import members_of, users_of
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Networks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import load
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    InUse,
    InvalidOption,
    MinicloudError,
    NotSupported,
    RecordError,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ABSENT,
    USER_NETWORK,
    Instance,
    check_name,
    key_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.plan import check_member
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime, timestamp
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile.autostart import Autostart

# Options that are compared, in the order of their steps.
_OPTIONS = (
    "mode",
    "parent",
    "bridge_type",
    "subnet",
    "subnet6",
    "dhcp_range",
    "domain",
    "mtu",
    "host_access",
    "autostart",
)

# Options that every network has a value for, given or not. subnet6 is not one: left out, there is no IPv6.
_NEVER_EMPTY = ("mode", "parent", "bridge_type", "subnet", "dhcp_range", "domain")

# Options that mean nothing where the host only passes on what somebody else's network does.
_ROUTED_ONLY = ("subnet", "subnet6", "dhcp_range", "domain", "host_access")


@dataclass
class NetworkWish:
    """What a task asks of a network; None where it has no opinion.

    cloud -- that the network is to be a part of, or to be a part of already; empty where that does not matter
    """

    name: str
    state: str = "present"
    mode: str | None = None
    parent: str | None = None
    bridge_type: str | None = None
    subnet: str | None = None
    subnet6: str | None = None
    dhcp_range: str | None = None
    domain: str | None = None
    mtu: int | None = None
    host_access: bool | None = None
    autostart: bool | None = None
    cloud: str = ""
    confirm_bridge: bool | None = None


class NetworkPlan(t.NamedTuple):
    """What to do, and what will be (None: gone)."""

    steps: list[str]
    after: Network | None


class NetworkOutcome(t.NamedTuple):
    """What a run did, or in check mode would do. view -- the network as users see it, None when it is gone."""

    changed: bool
    actions: list[str]
    view: dict[str, t.Any] | None
    before: dict[str, t.Any]
    after: dict[str, t.Any]


def parse_network(params: t.Mapping[str, t.Any]) -> NetworkWish:
    """A wish from a task's options. InvalidOption where one of them cannot be meant."""
    wish = NetworkWish(check_name(params["name"]))
    if key_of(wish.name) == USER_NETWORK:
        raise InvalidOption(
            f"name {wish.name!r} is not valid for a network",
            "it means the user-mode network, which needs no making",
            "Choose another name.",
        )
    for option in ("state", "confirm_bridge", *_OPTIONS):
        if params.get(option) is not None:
            setattr(wish, option, params[option])
    for option in _NEVER_EMPTY:
        # Nothing, in whatever spelling, is no opinion.
        setattr(wish, option, getattr(wish, option) or None)
    if wish.subnet:
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet.subnets import parse_subnet

        wish.subnet = str(parse_subnet(wish.subnet))
    if wish.subnet6:
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet.subnets import parse_subnet6

        wish.subnet6 = str(parse_subnet6(wish.subnet6))
    if wish.dhcp_range:
        wish.dhcp_range = wish.dhcp_range.replace(" ", "")
    if wish.domain:
        wish.domain = wish.domain.lower().strip(".")
    return wish


def plan_network(
    wish: NetworkWish, current: Network | None, drift: t.Sequence[str], users: t.Sequence[str]
) -> NetworkPlan:
    """The way from what is to what is wished. drift -- of what is there; users -- names of the instances on it."""
    if current:
        check_member(f"network {current.name}", current.cloud, wish.cloud)
    if wish.state == ABSENT:
        if current and users:
            raise InUse(
                f"the network {current.name} cannot be removed",
                f"instances are on it: {', '.join(sorted(users, key=str.lower))}",
                "Remove them, or give them other networks, first.",
                users=sorted(users, key=str.lower),
            )
        return NetworkPlan(["remove"] if current else [], None)
    if current is None or current.phase == "creating":
        after = (current and replace(current)) or Network(wish.name, "", "", "")
        for option in _OPTIONS:
            if getattr(wish, option) is not None:
                setattr(after, option, getattr(wish, option))
        after.confirm_bridge = bool(wish.confirm_bridge)
        after.on_demand = False
        after.cloud = wish.cloud or after.cloud
        _check_mode(after, wish)
        return NetworkPlan(["create"], after)
    if current.phase == "removing":
        plan = plan_network(wish, None, (), ())
        return plan._replace(steps=["remove_leftovers", *plan.steps])
    after = replace(current)
    steps = []
    for option in _OPTIONS:
        wanted = getattr(wish, option)
        if wanted is not None:
            setattr(after, option, wanted)
            if wanted != _value(current, option):
                steps.append(f"set_{option}")
    if "bridged" in (current.mode, after.mode) and _kind(current) != _kind(after):
        raise InvalidOption(
            f"the network {current.name} cannot become another: it is {_kind(current)}, not {_kind(after)}",
            hint="Remove it first, or give the new one another name.",
        )
    _check_mode(after, wish)
    after.confirm_bridge = current.confirm_bridge or bool(wish.confirm_bridge)
    if "set_subnet" in steps and wish.dhcp_range is None:
        after.dhcp_range = ""
    if current.on_demand:
        after.on_demand = False
        steps.append("keep")
    if drift and not steps:
        steps.append("repair")
    return NetworkPlan(steps, after)


def _value(network: Network, option: str) -> t.Any:
    """What an option of a network is; where nobody has ever given it, what that means."""
    return network.reaches_host if option == "host_access" else getattr(network, option)


def _kind(network: Network) -> str:
    return f"{network.mode} to {network.parent} ({network.bridge_type})" if network.mode == "bridged" else network.mode


def _check_mode(network: Network, wish: NetworkWish) -> None:
    if network.mode != "bridged":
        if network.parent or network.bridge_type != "bridge":
            raise InvalidOption(
                f"{'parent' if network.parent else 'bridge_type'} is given for the network {network.name}, which is"
                f" {network.mode}",
                hint="Set mode: bridged, or leave the option out.",
            )
        return
    if not network.parent:
        raise InvalidOption(
            f"the network {network.name} is bridged to nothing",
            hint="Give parent, an interface or a bridge of this host; minicloud.local.network_info lists them.",
        )
    for option in _ROUTED_ONLY:
        if getattr(wish, option) is not None:
            raise InvalidOption(
                f"{option} is given for the network {network.name}, which is bridged",
                f"who reaches whom there, and by which addresses and names, is up to the network that"
                f" {network.parent} is on",
                f"Leave {option} out.",
            )


def reconcile_network(
    wish: NetworkWish,
    runtime: Runtime,
    data: DataDirectory,
    driver_name: str | None,
    driver_options: t.Mapping[str, t.Any] | None = None,
    check_mode: bool = False,
) -> NetworkOutcome:
    """Bring one network to what is wished, and tell what was done."""
    driver = load(driver_name, runtime, data, driver_options)
    return reconcile_network_of(driver, wish, runtime, data, check_mode)


def reconcile_network_of(
    driver: Driver, wish: NetworkWish, runtime: Runtime, data: DataDirectory, check_mode: bool
) -> NetworkOutcome:
    """See reconcile_network()."""
    task = _Task(wish, driver, data)
    current, plan = task.look()
    before = comparable(current)
    autostart = _autostart(runtime, data) if _concerns_start(wish, current) else None
    repair = autostart is not None and not plan.steps and not autostart.is_in_place(current)
    if plan.steps or repair:
        runtime.begin_changes()
        if check_mode:
            plan = task.foresee(plan)
        else:
            with autostart.kept_unit() if autostart else contextlib.nullcontext():
                plan = task.carry_out()
    if autostart:
        autostart.warn_of_obstacle(plan.after)
    steps = [*plan.steps, "repair_autostart"] if repair else plan.steps
    view = None
    if plan.after:
        instances = task.scope.instances()[0]
        drift = [] if plan.steps else task.drift
        view = network_view(plan.after, users_of(plan.after, instances), drift, task.problems(plan.after, check_mode))
        for text in view["problems"]:
            runtime.report.warn(f"network {plan.after.name}: {text}")
    return NetworkOutcome(bool(steps), steps, view, before, comparable(plan.after))


def _concerns_start(wish: NetworkWish, current: Network | None) -> bool:
    """Whether the start with the host has to be looked at."""
    return wish.autostart is not None or wish.state == ABSENT or bool(current and current.autostart)


def _autostart(runtime: Runtime, data: DataDirectory) -> Autostart:
    """What sees to the start with the host, imported only now."""
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile.autostart import Autostart

    return Autostart(runtime, data)


class _Task:
    """Looks at one network and carries out plans for it."""

    def __init__(self, wish: NetworkWish, driver: Driver, data: DataDirectory) -> None:
        self.wish = wish
        self.driver = driver
        self.data = data
        self.runtime = driver.runtime
        self.scope = driver.scope
        self.networks = networks_of(driver)
        self.drift: list[str] = []

    def look(self) -> tuple[Network | None, NetworkPlan]:
        """The record of the network, and the plan that follows from what is there."""
        current = self.scope.networks.read(self.wish.name)
        instances = self._instances() if current else []
        self.drift = []
        plan = plan_network(self.wish, current, (), users_of(current, instances) if current else ())
        if current and current.phase == "ready" and not plan.steps and self.wish.state != ABSENT:
            self.drift = self.networks.drift(current, members_of(current, instances))
            plan = plan_network(self.wish, current, self.drift, ())
        return current, plan

    def _instances(self) -> list[Instance]:
        """The instances that may be on the network. RecordError where it is to go, and one cannot be read."""
        instances, broken = self.scope.instances()
        if broken and self.wish.state == ABSENT:
            raise RecordError(
                f"it cannot be known which instances are on the network {self.wish.name}",
                str(broken[0]),
                "Repair that first; the network was not removed.",
                **broken[0].facts,
            )
        return instances

    def problems(self, network: Network, check_mode: bool) -> list[str]:
        """What keeps it from working although it is as it should be."""
        return [] if check_mode and network.phase != "ready" else self.networks.problems(network)

    def foresee(self, plan: NetworkPlan) -> NetworkPlan:
        """Raise for what carrying out the plan would fail at; what only the real run can know is left out."""
        if plan.after:
            network = self._filled(plan.after)
            asked = replace(network)
            self._check(network)
            if network.phase == "creating":
                network = replace(
                    network, interface="", subnet=asked.subnet, dhcp_range=asked.dhcp_range and network.dhcp_range
                )
            return plan._replace(after=network)
        return plan

    def carry_out(self) -> NetworkPlan:
        """Plan again from what is there under the network's lock, and do it."""
        with self.scope.networks.lock(self.wish.name, Deadline(120), self.runtime.report):
            current, plan = self.look()
            after = plan.after
            for step in plan.steps:
                self.runtime.report.step(step)
                if step in ("remove", "remove_leftovers") and current:
                    self._remove(current)
            if after and plan.steps:
                after = self._filled(after)
                # Two that choose at once would choose alike.
                with self.data.lock("subnets", Deadline(60), self.runtime.report):
                    self._check(after)
                    self._store(after)
                try:
                    self.networks.apply(after, members_of(after, self.scope.instances()[0]))
                except MinicloudError:
                    # Nobody is on it yet: leave nothing half-made.
                    if after.phase == "creating":
                        with contextlib.suppress(MinicloudError):
                            self._remove(after)
                    raise
                after = self._store(replace(after, phase="ready"))
            return plan._replace(after=after)

    def _filled(self, network: Network) -> Network:
        """The record with what belongs to it whoever wishes it."""
        return replace(
            network,
            scope=self.scope.name,
            driver=network.driver or self.driver.name,
            created=network.created or timestamp(),
            handles={**network.handles, self.driver.name: self.driver.handle()},
        )

    def _check(self, network: Network) -> None:
        """Have the driver check the record and fill in the rest; raise for what instances on it could not bear."""
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.attach import all_networks

        self.networks.require(network)
        others = [other for other in all_networks(self.data) if not self._is_it(other)]
        current = self.scope.networks.read(network.name)
        moved = current is not None and current.phase == "ready" and current.subnet != network.subnet
        # A subnet that is new is checked as if the network were.
        checked = replace(network, phase="creating") if moved else network
        self.networks.fill_in(checked, others)
        for option in ("subnet", "subnet6", "dhcp_range", "domain", "interface"):
            setattr(network, option, getattr(checked, option))
        if moved and current:
            self._check_users(network, self.scope.instances()[0])

    def _is_it(self, network: Network) -> bool:
        return network.scope == self.scope.name and key_of(network.name) == key_of(self.wish.name)

    def _check_users(self, network: Network, instances: t.Sequence[Instance]) -> None:
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet.subnets import (
            parse_address,
            parse_subnet,
        )

        for instance in instances:
            nics = [nic for nic in instance.nics if key_of(nic.network) == key_of(network.name)]
            if nics and instance.owner:
                raise InUse(
                    f"the subnet of the network {network.name} cannot be changed",
                    f"{instance.name} runs with an address of it",
                    "Stop the instances that are on it first.",
                )
            for nic in nics:
                if nic.address:
                    parse_address(nic.address, parse_subnet(network.subnet), f"the address of {instance.name}")

    def _store(self, network: Network) -> Network:
        self.scope.networks.write(network)
        self.runtime.report.step("record")
        return network

    def _remove(self, network: Network) -> None:
        self._store(replace(network, phase="removing"))
        self.networks.remove(network)
        self.scope.networks.remove(network.name)
        self.runtime.report.step("removed")


def networks_of(driver: Driver) -> Networks:
    """How a driver makes networks; NotSupported where it makes none."""
    networks = driver.networks()
    if networks is None:
        raise NotSupported(f"the driver {driver.name} makes no networks on this host")
    return networks


def network_view(
    network: Network, users: t.Sequence[str], drift: t.Sequence[str], problems: t.Sequence[str]
) -> dict[str, t.Any]:
    """The return value `network` of the modules."""
    gateway = ""
    if network.subnet:
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet.subnets import (
            gateway as first,
        )
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet.subnets import (
            parse_subnet,
        )

        gateway = first(parse_subnet(network.subnet))
    return {
        "name": network.name,
        "scope": network.scope,
        "driver": network.driver,
        "mode": network.mode,
        "subnet": network.subnet,
        "subnet6": network.subnet6,
        "gateway": gateway,
        "dhcp_range": network.dhcp_range,
        "domain": network.domain if network.mode != "bridged" else "",
        "parent": network.parent,
        "bridge_type": network.bridge_type if network.mode == "bridged" else "",
        "mtu": network.mtu,
        "host_access": network.reaches_host,
        "interface": network.interface,
        "autostart": network.autostart,
        "created": network.created,
        "cloud": network.cloud,
        "instances": sorted(users, key=str.lower),
        "drift": list(drift),
        "problems": list(problems),
    }


def comparable(network: Network | None) -> dict[str, t.Any]:
    """A network for a diff: what a task can ask for."""
    if network is None or network.phase == "removing":
        return {"state": ABSENT}
    return {"state": "present", "name": key_of(network.name), **{each: _value(network, each) for each in _OPTIONS}}
