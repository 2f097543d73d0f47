# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The parts of the contract that a driver has or has not. Each names the capabilities that a driver has with it.

They work as the rest of the contract does: see contract.py. Their code is imported only where a part is used.
"""

from __future__ import annotations

import abc
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import NotSupported
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    Instance,
    Mount,
    PortForward,
)
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import SshAccess
    from ansible_collections.minicloud.local.plugins.module_utils._images.archive import Piece
    from ansible_collections.minicloud.local.plugins.module_utils._images.origin import Layered

# What a driver can, with the types of instances (vm, container) for which it can.
Capabilities = t.Mapping[str, t.Collection[str]]


class Part(abc.ABC):  # noqa: B024 (what its kinds have in common is no method)
    """Something that a driver has or has not.

    capabilities -- those that a driver has because it has this part
    """

    capabilities: t.ClassVar[Capabilities] = {}


class Member(t.NamedTuple):
    """What a network's DHCP and DNS know of one interface of an instance.

    name -- that the instance has; mac -- as in its record; addresses -- that are kept for it, IPv4 and IPv6
    forwards -- the ports of the host that lead to it now
    """

    name: str
    mac: str
    addresses: tuple[str, ...] = ()
    forwards: tuple[PortForward, ...] = ()


class Networks(Part):
    """How a driver makes the networks of its scope. Mechanism, like Driver: which there are is decided above."""

    @abc.abstractmethod
    def require(self, network: Network) -> None:
        """Return if this host can have such a network; else MissingRequirement, NotSupported or InvalidOption."""

    @abc.abstractmethod
    def drift(self, network: Network, members: t.Sequence[Member]) -> list[str]:
        """How what is there differs from the record and its members, as sentences; none: it works as it should."""

    def problems(self, network: Network) -> list[str]:
        """What keeps the network from working and apply() cannot put right, as sentences."""
        return []

    @abc.abstractmethod
    def fill_in(self, network: Network, others: t.Sequence[Network]) -> None:
        """Check the record, and fill in what nobody asked for: subnet, dhcp_range, interface. Touches nothing.

        others -- the networks of all scopes. InUse where what was asked for is taken.
        """

    @abc.abstractmethod
    def is_up(self, network: Network) -> bool:
        """Whether apply() has made anything of the network that is not removed yet; cheap."""

    @abc.abstractmethod
    def apply(self, network: Network, members: t.Sequence[Member]) -> None:
        """Have the network be as its record says, whatever is there already. What is right stays untouched."""

    @abc.abstractmethod
    def remove(self, network: Network) -> None:
        """Take away all that apply() made; all the same if there is nothing of it."""

    @abc.abstractmethod
    def leases(self, networks: t.Sequence[Network]) -> dict[str, tuple[str, ...]]:
        """The addresses that were given out and are in use now, by MAC: one bulk call for some networks."""


class Taken(t.NamedTuple):
    """What a snapshot has become.

    memory -- bytes of saved memory, 0 where none was taken; quiet -- how the guest's file systems were when the disk
    was: frozen, synced (written out, best effort), stopped or suspended; crash where nobody could see to it
    disk -- bytes that the snapshot takes by itself now, 0 where nobody knows
    pause -- seconds for which the guest was halted, and by which its clock is behind
    """

    memory: int
    quiet: str
    disk: int = 0
    pause: float = 0.0


class Snapshots(Part):
    """Kept states of instances. Names, parents and comments are records above; here a snapshot is known by its uuid.

    The capability `snapshots` says for which types of instances; `live_snapshots` of which it can take one with memory.
    Every method can be called again after a run that was killed in it, and then comes to the same end.

    is_native -- whether the hypervisor keeps them in a place of its own, and not as files in the instance's directory:
    then they are listed by listed(), go with the instance, and are renamed with it by the hypervisor
    """

    is_native: t.ClassVar[bool] = False

    @abc.abstractmethod
    def why_not(self, instance: Instance, with_memory: bool) -> str:
        """Why no snapshot can be taken of an instance as it is now, as a clause; empty where one can. Only a look.

        with_memory -- whether its memory, and with it what it is doing, is to be kept too
        """

    def why_not_resumed(self, instance: Instance, snapshot: Snapshot) -> str:
        """Why an instance cannot go on from the memory that was saved with a snapshot, as a clause; empty where it can.

        Only a look. instance -- its record as it will be; it has no owner
        """
        return ""

    @abc.abstractmethod
    def take(self, instance: Instance, snapshot: Snapshot, with_memory: bool) -> Taken:
        """Keep the state of an instance, which goes on as it was (running, stopped, suspended).

        The record of the snapshot is there, with the phase creating. HypervisorError or NoSpace: nothing was taken,
        nothing of it is left, and the guest runs on.
        """

    @abc.abstractmethod
    def restore(self, instance: Instance, snapshot: Snapshot) -> None:
        """Have the disk of a stopped instance be as it was then; all other snapshots stay as they are.

        With memory that was saved by this driver, the next start goes on from there; HypervisorError with the fact
        `memory` where it cannot be used here (another driver, hypervisor or processor): the caller may leave it out by
        handing in a snapshot whose memory is 0.
        """

    @abc.abstractmethod
    def delete(self, instance: Instance, snapshot: Snapshot) -> None:
        """Take a snapshot away; those that were taken after it, and the instance, stay as they are.

        All the same if there is nothing of it. Clones that were made of it keep what they have.
        """

    @abc.abstractmethod
    def listed(self, instances: t.Sequence[Instance]) -> dict[str, dict[str, int]]:
        """The snapshots that are there: the bytes that each takes, by its uuid, by the instance's: one bulk call."""

    def consolidate(self, instance: Instance) -> bool:
        """Shorten what the guest's reads go through, once that is long; whether anything was done. For stopped ones."""
        return False


class Clones(Part):
    """Instances that are made from others of their scope. A driver that has this part has snapshots, too.

    The capability `clones` says for which types of instances.
    """

    @abc.abstractmethod
    def make(
        self, instance: Instance, parent: Instance, snapshot: Snapshot | None, seed: t.Mapping[str, bytes], full: bool
    ) -> str:
        """Make the disk of an instance from that of another one, and the seed, as Acts.create(). May be called again.

        parent -- the other one, which goes on as it is; nobody changes it meanwhile
        snapshot -- of the parent, whose disk of then it is; None: that of now, and the parent is stopped
        full -- whether the two disks are to share nothing
        Returns how it was made: as the model's LINKED or FULL.
        """

    @abc.abstractmethod
    def linked(self, parent: Instance, others: t.Sequence[Instance]) -> list[Instance]:
        """Those of others whose disks share something with that of an instance. Only a look."""


class Suspension(Part):
    """Instances that do nothing, and go on later from where they were. The next start() resumes them.

    The capability `suspend` says for which types of instances. observe() tells the state suspended of them.

    outlives_host -- whether they are still suspended after the host's restart; else they are stopped then
    """

    outlives_host: t.ClassVar[bool] = True

    @abc.abstractmethod
    def why_not(self, instance: Instance) -> str:
        """What stands in the way, as a clause; empty where nothing does. Only a look.

        Of a running instance: why it cannot be suspended. Of a suspended one: why start() could not resume it here and
        now (another version of the hypervisor or machine, processor, number of interfaces …).
        """

    @abc.abstractmethod
    def suspend(self, instance: Instance) -> None:
        """Save what a running instance is doing, and end it. HypervisorError or NoSpace: it runs on."""

    @abc.abstractmethod
    def drop(self, instance: Instance) -> None:
        """Forget what was saved: the instance is stopped then, as if its plug had been pulled when it was suspended.

        All the same if nothing is saved.
        """


class Mounts(Part):
    """Folders of the host in guests by the hypervisor's own means: the mounts of type native.

    Those of type classic, by ssh, need no driver. The capability `native_mounts` says for which types of instances.

    blocks_saving -- whether what is attached keeps the instance from being suspended, and from a snapshot with memory
    guest_mounts -- the type of the file system that the guest itself mounts for it; empty where it sees it anyway
    """

    blocks_saving: t.ClassVar[bool] = False
    guest_mounts: t.ClassVar[str] = ""

    @abc.abstractmethod
    def why_not(self, instance: Instance, mount: Mount) -> str:
        """Why a mount does not work for an instance as it is now, as a clause; empty where it does. Only a look.

        A reason may go with the next start ("the instance was started without it"): the caller can tell by asking
        again of the instance as it will be, which has no owner.
        """

    @abc.abstractmethod
    def attach(self, instance: Instance, mount: Mount, access: SshAccess) -> str:
        """Have a folder be there in a running instance, whatever is there of it already, helpers of it included.

        access -- the way into the guest; returns the mechanism: virtiofs, disk device …
        HypervisorError: nothing of it is left. Before start() it is called for none: whatever must be there from the
        beginning start() sees to by itself, from the record.
        """

    @abc.abstractmethod
    def detach(self, instance: Instance, mount: Mount, force: bool) -> None:
        """Take it away from a running instance, in which it is unmounted; all the same if it is not there.

        force -- also where the guest still holds it
        """

    @abc.abstractmethod
    def active(self, instances: t.Sequence[Instance]) -> dict[str, dict[str, str]]:
        """What is attached now: the mechanism by target, by the instance's uuid. One bulk call.

        What is dead (a helper that has ended) is not told, and attach() puts it right.
        """


class Content(t.NamedTuple):
    """What the data of an instance consists of, as the members of an archive: see _images/archive.py.

    pieces -- in their order; disk, backing -- the layers of a virtual machine's disk, as in the archive's manifest
    """

    pieces: t.Sequence[Piece]
    disk: str = ""
    backing: t.Mapping[str, str] = {}


class Export(Part):
    """Instances as files for others, and back.

    The capabilities say of which types of instances: `publish` has disks as files, or of a container its root;
    `export` has archives, and `export_snapshots` those with snapshots in them.
    """

    def export_disk(self, instance: Instance, target: str, format_: str) -> None:
        """Write the whole disk of a stopped instance, without anything that it is backed by, to the file TARGET.

        format_ -- qcow2, or raw (sparse)
        """
        raise NotSupported(f"the driver {self.name} hands out no disks")

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The driver's name."""

    @abc.abstractmethod
    def stamp(self, instance: Instance) -> str:
        """What changes when the data of a stopped instance does. Only a look."""

    @abc.abstractmethod
    def content(self, instance: Instance, snapshots: t.Sequence[Snapshot]) -> t.ContextManager[Content]:
        """The data of a stopped instance, with some of its snapshots, for as long as the block lasts.

        Of a container it is one piece, an image of it as the server makes them: metadata.yaml and rootfs/.

        What the driver has made for that is gone afterwards, or where the run was killed by and by.
        """

    def take_in(self, instance: Instance, layered: Layered) -> int:
        """Give an instance that create() has just made the disk and the layers of an archive, and grow that disk.

        The size that the disk has then, bytes: its record's, or that of the archive's where that is larger.
        """
        raise NotSupported(f"the driver {self.name} has no layers")


class GuestCommand(abc.ABC):
    """A command that runs in a guest. What is lost on the way to it is HypervisorError.

    status -- its exit status once it has ended, 128 and more for a signal; unsent -- bytes of input not handed over yet
    """

    status = 0
    unsent = 0

    @abc.abstractmethod
    def send(self, data: bytes) -> None:
        """Have it get more input; that is handed over while receive() waits. What it does not read is dropped."""

    @abc.abstractmethod
    def end_input(self) -> None:
        """Have it find the end of its input after what was sent."""

    @abc.abstractmethod
    def receive(self, seconds: float) -> tuple[bytes, bytes] | None:
        """What it has said meanwhile on its standard output and error: at most some MiB; None once it has ended.

        seconds -- how long to wait for anything to happen
        """

    @abc.abstractmethod
    def end(self) -> None:
        """Let go of it, and end it if it still runs."""


class Execution(Part):
    """Commands and files in guests by the hypervisor's own means, as the guest's root.

    The capability `exec` says for which types of instances it starts commands that are talked with, `guest_agent` for
    which it asks an agent in the guest, which takes all input at once and tells all output at the end.
    """

    @abc.abstractmethod
    def why_not(self, instance: Instance) -> str:
        """Why no command can be run in an instance as it is now, as a clause; empty where one can. Only a look."""

    @abc.abstractmethod
    def start(self, instance: Instance, argv: t.Sequence[str]) -> GuestCommand:
        """Start a command in a running instance."""
