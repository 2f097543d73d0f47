# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The contract of a driver: what the collection asks of a hypervisor.

A driver is mechanism. It is given records of instances and does one thing at a time with the hypervisor; what to do,
and in which order, is decided above. It writes no record: a caller that hands in an instance writes its record
before and after.
"""

from __future__ import annotations

import abc
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption, NotSupported
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    USER_NETWORK,
    Image,
    Instance,
    Network,
    Nic,
    Observed,
    PortForward,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import Scope


class Driver(abc.ABC):
    """One hypervisor, working in one scope.

    name -- of the driver; scope_name -- of the scope that its instances live in
    option_names -- the keys of driver_options that it knows
    elsewhere -- whether its instances run on another host than this one
    """

    name = ""
    scope_name = ""
    option_names: tuple[str, ...] = ()
    elsewhere = False

    def __init__(
        self, runtime: Runtime, scope: Scope, options: t.Mapping[str, t.Any] | None = None, shared: bool = False
    ) -> None:
        """shared -- the options are for several drivers: leave those of others aside"""
        self.runtime = runtime
        self.scope = scope
        self.options = {key: value for key, value in (options or {}).items() if key in self.option_names or not shared}
        unknown = sorted(set(self.options) - set(self.option_names))
        if unknown:
            raise InvalidOption(
                f"driver_options has the key {unknown[0]!r}, which the driver {self.name} does not know",
                hint=f"It knows: {', '.join(self.option_names) or 'none'}.",
            )

    def handle(self) -> dict[str, str]:
        """The driver_options that lead to where this driver makes things, for the records of what it makes."""
        return {}

    @property
    def default_network(self) -> str:
        """The network of an instance's first interface, unless the task names another."""
        return USER_NETWORK

    def leads_here(self, handle: t.Mapping[str, str]) -> bool:
        """Whether what has this handle in its record was made where this driver makes things."""
        return dict(handle) == self.handle()

    def networks(self) -> Networks | None:
        """How this driver makes networks; None where its instances have the hypervisor's user-mode network only."""
        return None

    def interfaces(self, instance: Instance) -> list[Nic]:
        """The interfaces that the guest sees: those of its record, and before them one of the driver's own, if any."""
        return instance.nics

    @abc.abstractmethod
    def probe(self) -> dict[str, str]:
        """What driver_info tells of a driver that is usable on this host; else an error that says what is missing.

        version -- of the hypervisor; accelerator -- what runs the instructions of its virtual machines, such as kvm
        or tcg, and accelerator_reason -- why it is not something faster; endpoint -- where the hypervisor is reached.
        Any of them may be left out. More of what is worth telling may be added under keys of the driver's own.
        """

    @abc.abstractmethod
    def require(self, arch: str, firmware: str = "", instance_type: str = "vm") -> None:
        """Return if this host can run instances of an architecture; else MissingRequirement with the remedy.

        firmware -- what their image needs, as in the model's Image; instance_type -- vm or container
        """

    def memory(self) -> tuple[int, int]:
        """Bytes of memory that the other host has in all, and that are available there now; 0 where that is unknown."""
        return 0, 0

    @abc.abstractmethod
    def observe(self, instances: t.Sequence[Instance]) -> list[Observed]:
        """What is known of each of some instances now, in their order: one bulk call to the hypervisor."""

    @abc.abstractmethod
    def create(self, instance: Instance, image: Image, seed: t.Mapping[str, bytes]) -> None:
        """Make the disk, backed by the image, and the seed (NoCloud file name to content). May be called again."""

    @abc.abstractmethod
    def grow_disk(self, instance: Instance) -> None:
        """Grow the disk of an instance to its record's size. With the capability live_resize it may be running."""

    def reconfigure(self, instance: Instance) -> None:
        """Tell the hypervisor of a record that has changed while the instance is not started anew.

        Of a stopped instance this also puts right what observe() reports as drift.
        That is autostart and tags where the hypervisor keeps them, and with the capability live_resize cpus and memory.
        """
        return

    @abc.abstractmethod
    def choose_ports(self, instance: Instance, held: t.Sequence[PortForward] | None = None) -> None:
        """Settle in the record which ports of the host lead to the guest; InUse if one that was asked for is taken.

        held -- the forwards that the running instance has already; None where it does not run
        """

    @abc.abstractmethod
    def start(self, instance: Instance) -> None:
        """Start a stopped instance as its record describes it, and return once the hypervisor runs it.

        InUse with the fact `port` where that port, of another host, turns out to be taken.
        """

    @abc.abstractmethod
    def forwards(self, instance: Instance) -> list[PortForward]:
        """The forwards that a running instance has now, whatever its record says; not the one for ssh."""

    @abc.abstractmethod
    def forward_ports(self, instance: Instance, before: t.Sequence[PortForward]) -> None:
        """Change the forwards of a running instance from those before to its record's."""

    def replug(self, instance: Instance, nic: Nic) -> bool:
        """Have a running guest find the cable of an interface pulled out and, some seconds later, put in again.

        Whether that could be done; not everything that runs guests has such a thing.
        """
        return False

    def plug_in(self, instance: Instance) -> None:
        """Put in the cable of a running guest that a run which has ended pulled out; observe() tells it is severed."""
        return

    @abc.abstractmethod
    def stop(self, instance: Instance, deadline: Deadline, force: bool) -> None:
        """Shut an instance down by its guest, or by force at once; HypervisorError if the guest does not comply."""

    @abc.abstractmethod
    def delete(self, instance: Instance) -> None:
        """End the instance by force and take away all that the driver made outside the instance's directory.

        All the same if there is nothing of it, also where the instance was made under another driver of the scope.
        """

    @abc.abstractmethod
    def endpoint(self, instance: Instance, seen: Observed | None = None) -> tuple[str, int]:
        """The address and port at which this host reaches the guest's ssh server; no address while none is known.

        seen -- what observe() has just told of it, where that is at hand
        """

    @abc.abstractmethod
    def alive(self, instance: Instance) -> bool:
        """Whether the hypervisor runs the instance now; cheap enough to be asked often."""

    @abc.abstractmethod
    def console_log(self, instance: Instance) -> str:
        """The file that keeps what the guest writes to its console."""

    def save_console(self, instance: Instance) -> None:
        """Bring that file up to date, where the hypervisor does not write it itself; not being able to is no error."""
        return

    def export_disk(self, instance: Instance, target: str, format_: str) -> None:
        """Write the whole disk of a stopped instance, without anything that it is backed by, to the file TARGET.

        format_ -- qcow2, or raw (sparse)
        """
        raise NotSupported(f"the driver {self.name} cannot publish an instance as an image")

    @abc.abstractmethod
    def tidy(self, instance: Instance) -> None:
        """Keep what a running instance writes from filling the host's disk."""

    @abc.abstractmethod
    def log(self, instance: Instance) -> str:
        """What the hypervisor itself said of this instance since its last start."""


class Host(t.NamedTuple):
    """What a network's DHCP and DNS know of one interface of an instance.

    name -- that the instance has; mac -- as in its record; addresses -- that are kept for it, IPv4 and IPv6
    forwards -- the ports of the host that lead to it now
    """

    name: str
    mac: str
    addresses: tuple[str, ...] = ()
    forwards: tuple[PortForward, ...] = ()


class Networks(abc.ABC):
    """How a driver makes the networks of its scope. Mechanism, like Driver: which there are is decided above."""

    @abc.abstractmethod
    def require(self, network: Network) -> None:
        """Return if this host can have such a network; else MissingRequirement, NotSupported or InvalidOption."""

    @abc.abstractmethod
    def drift(self, network: Network, hosts: t.Sequence[Host]) -> list[str]:
        """How what is there differs from the record and its hosts, as sentences; none: it works as it should."""

    def problems(self, network: Network) -> list[str]:
        """What keeps the network from working and apply() cannot put right, as sentences."""
        return []

    @abc.abstractmethod
    def settle(self, network: Network, others: t.Sequence[Network]) -> None:
        """Check the record, and choose in it what nobody asked for: subnet, dhcp_range, interface. Touches nothing.

        others -- the networks of all scopes. InUse where what was asked for is taken.
        """

    @abc.abstractmethod
    def is_up(self, network: Network) -> bool:
        """Whether apply() has made anything of the network that is not removed yet; cheap."""

    @abc.abstractmethod
    def apply(self, network: Network, hosts: t.Sequence[Host]) -> None:
        """Have the network be as its record says, whatever is there already. What is right stays untouched."""

    @abc.abstractmethod
    def remove(self, network: Network) -> None:
        """Take away all that apply() made; all the same if there is nothing of it."""

    @abc.abstractmethod
    def leases(self, networks: t.Sequence[Network]) -> dict[str, tuple[str, ...]]:
        """The addresses that were given out and are in use now, by MAC: one bulk call for some networks."""
