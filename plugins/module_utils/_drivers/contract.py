# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The contract of a driver: what the collection asks of a hypervisor.

A driver is mechanism. It is given records of instances and does one thing at a time with the hypervisor; what to do,
and in which order, is decided above. It writes no record: a caller that hands in an instance writes its record
before and after.

Looks are cheap and often all that a run needs. Acts change something; their code is imported only then. Parts are what
a driver has or has not: where it has one, it has the capabilities that the part names.
"""

from __future__ import annotations

import abc
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption, NotSupported
from ansible_collections.minicloud.local.plugins.module_utils._host.host import HypervisorHost, this_host
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    KINDS,
    USER_NETWORK,
    Instance,
    Nic,
    Observed,
    PortForward,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import Scope

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import (
        Capabilities,
        Clones,
        Execution,
        Export,
        Mounts,
        Networks,
        Part,
        Snapshots,
        Suspension,
    )
    from ansible_collections.minicloud.local.plugins.module_utils._image import Image


class About(t.NamedTuple):
    """What is known of a driver without importing it. The documentation's lists of drivers are made from this.

    name -- of the driver; scope -- that its instances live in; title -- what it is, a few words
    option_names -- the keys of driver_options that it knows
    capabilities -- what it can: what Looks, Acts and its parts name, and nothing else
    image_formats -- of the files that it makes instances from, by the kind of image: disk, container. Of a kind that is
    not there, it takes any
    is_server -- whether its hypervisor is a server that starts instances with its host by itself
    platforms -- the systems on which its hypervisor can be on this host, as people call them
    load -- imports the driver and makes it
    """

    name: str
    scope: str
    title: str
    option_names: tuple[str, ...]
    capabilities: Capabilities
    image_formats: t.Mapping[str, t.Collection[str]]
    is_server: bool
    platforms: tuple[str, ...]
    load: t.Callable[[About, Runtime, Scope, t.Mapping[str, t.Any] | None, bool], Driver]

    def can(self, capability: str, instance_type: str = "") -> bool:
        """Whether the driver has a capability: for a type of instances, or for any."""
        types = self.capabilities.get(capability, ())
        return instance_type in types if instance_type else bool(types)

    def takes(self, image: Image) -> bool:
        """Whether the driver makes instances from such an image."""
        able = any(kind == image.kind and self.can(type_) for type_, kind in KINDS.items())
        return able and image.format in self.image_formats.get(image.kind, (image.format,))


class Looks(abc.ABC):
    """What is asked of one hypervisor, working in one scope, without changing anything.

    host -- the machine that runs its instances
    capabilities -- those that come with what is here
    """

    capabilities: t.ClassVar[Capabilities] = {}

    def __init__(
        self,
        about: About,
        runtime: Runtime,
        scope: Scope,
        options: t.Mapping[str, t.Any] | None = None,
        shared: bool = False,
    ) -> None:
        """shared -- the options are for several drivers: leave those of others aside"""
        self.about = about
        self.host: HypervisorHost = this_host()
        self.name = about.name
        self.runtime = runtime
        self.scope = scope
        names = about.option_names
        self.options = {key: value for key, value in (options or {}).items() if key in names or not shared}
        unknown = sorted(set(self.options) - set(names))
        if unknown:
            raise InvalidOption(
                f"driver_options has the key {unknown[0]!r}, which the driver {self.name} does not know",
                hint=f"It knows: {', '.join(names) or 'none'}.",
            )
        for key, value in self.options.items():
            # Whether to verify is told by true and false, too.
            if not isinstance(value, (str, type(None))) and not (key == "verify" and isinstance(value, bool)):
                raise InvalidOption(
                    f"driver_options.{key} is {value!r}, and text is meant",
                    hint="Put it in quotes, as it is to be read.",
                )

    def require_platform(self) -> None:
        """Return if the hypervisor can be on this host, as far as the system goes; else NotSupported."""
        system = this_host().system
        if self.host.here and system not in self.about.platforms:
            raise NotSupported(
                f"the driver {self.name} does not run on {system}",
                hint=f"It runs on {', '.join(self.about.platforms)}.",
            )

    def handle(self) -> dict[str, str]:
        """The driver_options that lead to where this driver makes things, for the records of what it makes."""
        return {}

    def leads_here(self, handle: t.Mapping[str, str]) -> bool:
        """Whether what has this handle in its record was made where this driver makes things."""
        return dict(handle) == self.handle()

    @property
    def default_network(self) -> str:
        """The network of an instance's first interface, unless the task names another."""
        return USER_NETWORK

    def interfaces(self, instance: Instance) -> list[Nic]:
        """The interfaces that the guest sees: those of its record, and before them one of the driver's own, if any."""
        return instance.nics

    @abc.abstractmethod
    def observe(self, instances: t.Sequence[Instance]) -> list[Observed]:
        """What is known of each of some instances now, in their order: one bulk call to the hypervisor."""

    @abc.abstractmethod
    def alive(self, instance: Instance) -> bool:
        """Whether the hypervisor has the instance up now, be it paused; cheap enough to be asked often."""

    def remains(self, instance: Instance) -> str:
        """What is there of an instance whose making or removal was cut off, as the rest of a sentence.

        Empty where there is nothing, or nothing that a guest has ever written anything in.
        """
        return ""

    @abc.abstractmethod
    def ssh_address(self, instance: Instance, seen: Observed | None = None) -> tuple[str, int]:
        """The address and port at which this host reaches the guest's ssh server; no address while none is known.

        seen -- what observe() has just told of it, where that is at hand
        """

    @abc.abstractmethod
    def console_log(self, instance: Instance) -> str:
        """The file that keeps what the guest writes to its console."""

    def tidy(self, instance: Instance) -> None:
        """Keep what a running instance writes from filling the host's disk."""
        return


class Acts(abc.ABC):
    """What one hypervisor is told to do, or asked at some cost.

    capabilities -- those that come with what is here
    """

    capabilities: t.ClassVar[Capabilities] = {}

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

    @abc.abstractmethod
    def create(self, instance: Instance, image: Image, seed: t.Mapping[str, bytes]) -> None:
        """Make the disk, backed by the image, and the seed (NoCloud file name to content). May be called again."""

    def tidy_images(self) -> None:
        """Take away the copies that the hypervisor has of images which the vault has no more: nothing needs those."""
        return

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
        """Choose in the record which ports of the host lead to the guest; InUse if one that was asked for is taken.

        held -- the forwards that the running instance has already; None where it does not run
        """

    @abc.abstractmethod
    def start(self, instance: Instance) -> None:
        """Start a stopped instance as its record describes it, and return once the hypervisor runs it.

        One whose memory was saved (Suspension, or a snapshot that was gone back to) goes on from there.
        InUse with the fact `port` where that port, of another host, turns out to be taken.
        """

    @abc.abstractmethod
    def stop(self, instance: Instance, deadline: Deadline, force: bool) -> None:
        """Shut an instance down by its guest, or by force at once; HypervisorError if the guest does not comply."""

    @abc.abstractmethod
    def resume(self, instance: Instance) -> None:
        """Have a paused instance run on; HypervisorError, with the reason, if it pauses again at once."""

    def rename(self, instance: Instance, name: str) -> None:
        """Have what the hypervisor has of a stopped instance go by another name, or be gone until follow_name().

        Its directory gets the name afterwards. All the same where a run that was cut off has done it.
        """
        return

    def follow_name(self, instance: Instance) -> None:
        """See to what goes by the name of a stopped instance that was just renamed, its seed above all.

        All the same where it is done already.
        """
        return

    def check_removal(self, instance: Instance) -> None:
        """Raise HypervisorError for what would have delete() refused, as far as it can be known before it is tried."""
        return

    @abc.abstractmethod
    def delete(self, instance: Instance) -> None:
        """End the instance by force and take away all that the driver made outside the instance's directory.

        Where that is refused, the instance is left as it was as far as that can be.
        All the same if there is nothing of it, also where the instance was made under another driver of the scope.
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

    def save_console(self, instance: Instance) -> None:
        """Bring the file of console_log() up to date, where the hypervisor does not write it itself.

        Not being able to is no error.
        """
        return

    @abc.abstractmethod
    def log(self, instance: Instance) -> str:
        """What the hypervisor itself said of this instance since its last start."""


class Driver(Looks):
    """One hypervisor, working in one scope: what it is asked, what it is told, and the parts that it has."""

    @property
    @abc.abstractmethod
    def acts(self) -> Acts:
        """What changes something, imported only now."""

    def networks(self) -> Networks | None:
        """How this driver makes networks; None where its instances have the hypervisor's user-mode network only."""
        return None

    def snapshots(self) -> Snapshots | None:
        """How this driver keeps states of disks; None where it cannot."""
        return None

    def suspension(self) -> Suspension | None:
        """How this driver suspends instances; None where it cannot."""
        return None

    def mounts(self) -> Mounts | None:
        """How this driver has folders of the host appear in guests; None where only the guest can fetch them."""
        return None

    def export(self) -> Export | None:
        """How this driver hands out disks; None where it does not."""
        return None

    def execution(self) -> Execution | None:
        """How this driver runs commands in guests without ssh; None where it cannot."""
        return None

    def clones(self) -> Clones | None:
        """How this driver makes instances from others; None where it cannot."""
        return None

    def parts(self) -> list[Part]:
        """The parts that it has."""
        makers = (self.networks, self.snapshots, self.suspension, self.mounts, self.export, self.execution, self.clones)
        all_: list[Part | None] = [make() for make in makers]
        return [part for part in all_ if part is not None]
