# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What the drivers do to the files of an instance, its disk above all: see look.py."""

from __future__ import annotations

import abc
import contextlib
import os
import time
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Acts
from ansible_collections.minicloud.local.plugins.module_utils._drivers.members import members_of
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.layers import Layers
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import (
    CONSOLE,
    DISK,
    NVRAM,
    NVRAM_COPY,
    UNPLUGGED,
    FamilyLooks,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.nvram import (
    copy_sparse,
    fetch_nvram,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.reach import forwarding_nic
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    MissingRequirement,
    NotSupported,
)
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._guest.console import EARLIER
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._images.confined import (
    Layer,
    QemuImg,
    refuse_other_files,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import USER_NETWORK, Instance, Nic, PortForward
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import SEED
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_path, write_file

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.host_networks.bridges import HostNetworks

# The remedy where a suspended instance cannot be resumed.
DROPPING = "To start it anew, without what it was doing, add force: true."

# Earlier consoles that are kept.
_KEPT_CONSOLES = 3

# Seconds that a cable is out: NetworkManager of the guest takes no notice of less than 5.
_CABLE_OUT = 6.0


class Wiring(t.NamedTuple):
    """How the interfaces of a guest are connected.

    nics -- all that it has; sockets -- of those on networks of an ordinary user, by MAC: its own, and the hub's
    isolated -- whether the user-mode network does not lead out
    """

    nics: t.Sequence[Nic]
    sockets: t.Mapping[str, tuple[str, str]]
    isolated: bool


class FamilyActs(Acts):
    """See Acts."""

    capabilities = {"vm": ("vm",), "foreign_arch": ("vm",), "live_ports": ("vm",), "same_network": ("vm",)}

    def __init__(self, look: FamilyLooks) -> None:
        self.look = look
        self.runtime = look.runtime
        self.scope = look.scope
        self.options = look.options

    def create(self, instance: Instance, image: Image, seed: t.Mapping[str, bytes]) -> None:
        tool = QemuImg(self.runtime, f"the disk of {instance.name}")
        # qemu-img need not examine the image: the vault did that when it was added.
        self.assemble(instance, seed, lambda disk: tool.overlay(disk, image.path, instance.disk))

    def assemble(self, instance: Instance, seed: t.Mapping[str, bytes], make_disk: t.Callable[[str], None]) -> None:
        """Make all files of an instance, and whatever else is made of it before it is started.

        make_disk -- makes its disk, at the path that it is told, and may put the variables of its firmware beside it
        """
        from ansible_collections.minicloud.local.plugins.module_utils._guest.iso9660 import iso_image

        directory = make_dir(self.scope.directory(instance.name))
        for name in (DISK, NVRAM, NVRAM_COPY):
            remove_path(os.path.join(directory, name))
        self.runtime.report.step("overlay")
        make_disk(os.path.join(directory, DISK))
        self.firmware(instance)
        self.runtime.report.step("seed")
        write_file(os.path.join(directory, SEED), iso_image(seed, "cidata"))

    def follow_name(self, instance: Instance) -> None:
        from ansible_collections.minicloud.local.plugins.module_utils._guest.iso9660 import iso_image
        from ansible_collections.minicloud.local.plugins.module_utils._guest.seed import read_seed, renamed

        path = self.look.path(instance, SEED)
        files = read_seed(path, instance.name)
        after = {**files, "meta-data": renamed(files["meta-data"], instance.renamed_from, instance.name)}
        if after != files:
            write_file(path, iso_image(after, "cidata"))

    def firmware(self, instance: Instance) -> str:
        """The code of the UEFI firmware that an instance needs (empty: none), and variables of its own beside it."""
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import (
            machine as qemu_machine,
        )

        firmware = qemu_machine.firmware(instance.arch, instance.image.get("firmware", ""))
        if firmware is None:
            return ""
        nvram = self.look.path(instance, NVRAM)
        if not os.path.exists(nvram):
            self.runtime.report.step("nvram")
            copy_sparse(firmware.variables, nvram)
        fetch_nvram(nvram, self.look.path(instance, NVRAM_COPY))
        return firmware.code

    def grow_disk(self, instance: Instance) -> None:
        QemuImg(self.runtime, f"the disk of {instance.name}").resize(layers_of(self.look, instance), instance.disk)

    def prepare_disk(self, instance: Instance) -> list[str]:
        """The files that the disk of an instance which is to start consists of, from the one that the guest writes on.

        ImageError where one of them keeps data in another file: nothing of ours has written that.
        """
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.snapshots import (
            prepare_layers,
        )

        prepare_layers(self.look, instance)
        paths = [layer.path for layer in layers_of(self.look, instance)]
        for path in paths[:-1]:
            refuse_other_files(path, f"the disk of {instance.name}", backing=True)
        return paths

    def choose_ports(self, instance: Instance, held: t.Sequence[PortForward] | None = None) -> None:
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet import ports

        instances = self.scope.instances()[0]
        elsewhere: list[PortForward] = []
        user_mode = self.look.user_mode(instance)
        if instance.ports and not user_mode:
            network, networks = self._main_network(instance)
            self._check_forwardable(instance, network)
            elsewhere = networks.forwarded_elsewhere(network, forwarding_nic(instance))
            # Those that lead nowhere yet, because the guest has no address, are taken as well.
            others = [other for other in instances if other.uuid != instance.uuid and other.owner]
            elsewhere += [port for other in others if not other.user_mode for port in other.ports]
        ports.choose_all(instance, instances, held, elsewhere, with_ssh=user_mode)

    def wiring(self, instance: Instance) -> Wiring:
        """How an instance of an ordinary user is connected; nothing is done for it yet."""
        networks = self.look.segments()
        interfaces = self.look.interfaces(instance)
        attached = self.attached(instance) if networks else []
        sockets = {nic.mac: networks.sockets(network, nic.mac) for network, nic in attached} if networks else {}
        # The way out is the user-mode network, unless the record itself says what that is for.
        isolated = len(interfaces) > len(instance.nics) and all(
            network.mode == "isolated" for network, dummy in attached
        )
        return Wiring(interfaces, sockets, isolated)

    def unwired(self, instance: Instance, why: str) -> Wiring:
        """How it is connected where it can be on none of its networks; WHY is the end of a sentence."""
        self.runtime.report.warn(
            f"{instance.name} is on none of its networks, and only ssh and forwarded ports lead to it: {why}."
        )
        return Wiring([nic for nic in self.look.interfaces(instance) if nic.network == USER_NETWORK], {}, False)

    def join(self, instance: Instance, descriptors: list[int]) -> None:
        """Join the networks of an ordinary user that an instance is on; their hubs run on while those are open."""
        networks = self.look.segments()
        if networks:
            descriptors += [networks.join(network) for network, dummy in self.attached(instance)]

    def attached(self, instance: Instance) -> list[tuple[Network, Nic]]:
        """The interfaces of an instance that are on networks of its scope, each with the network."""
        found = []
        for nic in instance.nics:
            if nic.network != USER_NETWORK:
                network = self.scope.networks.read(nic.network)
                if network is None:
                    raise HypervisorError(f"{instance.name} cannot be started", f"the network {nic.network} is gone")
                found.append((network, nic))
        return found

    def delete(self, instance: Instance) -> None:
        self.remove_machine(instance)
        self._remove_sockets(instance)

    @abc.abstractmethod
    def remove_machine(self, instance: Instance) -> None:
        """End an instance by force, and take away what the hypervisor has of it."""

    def _remove_sockets(self, instance: Instance) -> None:
        """Take away what the interfaces of an instance that has ended left in networks of an ordinary user."""
        networks = self.look.segments()
        if networks is None:
            return
        for nic in instance.nics:
            network = self.scope.networks.read(nic.network) if nic.network != USER_NETWORK else None
            if network:
                remove_path(networks.sockets(network, nic.mac)[0])

    def _check_forwardable(self, instance: Instance, network: Network | None) -> None:
        """Raise where no port can be forwarded to an instance on the network that is to do it; warn where not yet."""
        if not instance.ports or network is None or network.mode != "bridged":
            return
        if network.bridge_type == "macvtap":
            raise NotSupported(
                f"no port can be forwarded to {instance.name}",
                f"it is on top of {network.parent} (macvtap), where this host and the instance cannot reach each other",
                "Give it an interface on a private network as well, such as default, or on a bridge, and name that"
                " first.",
            )
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet.lookup import own_subnet

        if own_subnet(network.interface) is None:
            self.runtime.report.warn(
                f"The ports of {instance.name} lead nowhere as long as this host has no IPv4 address on"
                f" {network.interface}: it cannot reach the instance."
            )

    def _main_network(self, instance: Instance) -> tuple[Network | None, HostNetworks]:
        """The network whose firewall forwards ports to an instance, and what makes it."""
        networks = self.look.bridges()
        if networks is None:
            raise MissingRequirement(
                f"the networks of {instance.name} cannot be had", "only root makes them", "Run as root (become: true)."
            )
        nic = forwarding_nic(instance)
        return (self.scope.networks.read(nic.network) if nic else None), networks

    def network_forwards(self, instance: Instance) -> list[PortForward]:
        """The ports of the host that networks forward to an instance now."""
        network, networks = self._main_network(instance)
        nic = forwarding_nic(instance)
        return networks.forwards(network, nic) if network and nic else []

    def forward_by_network(self, instance: Instance) -> None:
        """Have the network forward the ports that the record of a running instance has."""
        network, networks = self._main_network(instance)
        if network:
            with self.scope.networks.lock(network.name, report=self.runtime.report):
                others = [other for other in self.scope.instances()[0] if other.uuid != instance.uuid]
                networks.apply(network, members_of(network, [*others, instance]))

    @abc.abstractmethod
    def set_link(self, instance: Instance, mac: str, up: bool) -> bool:
        """Pull out or put in the cable of an interface of a running instance; False where it has no such interface."""

    def replug(self, instance: Instance, nic: Nic) -> bool:
        # Should this run be ended meanwhile, the next one puts it in again.
        write_file(self.look.path(instance, UNPLUGGED), nic.mac.encode())
        try:
            if not self.set_link(instance, nic.mac, False):
                return False
            self.runtime.report.step("unplugged")
            time.sleep(_CABLE_OUT)
        finally:
            self.plug_in(instance)
        return True

    def plug_in(self, instance: Instance) -> None:
        marker = self.look.path(instance, UNPLUGGED)
        if not os.path.exists(marker):
            return
        with explained(f"{marker} could not be read"), open(marker, encoding="ascii", errors="replace") as stream:
            self.set_link(instance, stream.read().strip(), True)
        remove_path(marker)

    def rotate_console(self, instance: Instance) -> None:
        """Make room for the console of a new start; the last few are kept."""
        remove_path(self.look.path(instance, UNPLUGGED))
        current = self.look.path(instance, CONSOLE)
        # The last part is what is kept of an earlier start.
        remove_path(f"{current}{EARLIER}")
        try:
            if os.path.getsize(current) == 0:
                return
        except OSError:
            return
        for number in range(_KEPT_CONSOLES, 0, -1):
            older = f"{current}.{number}"
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{current}.{number - 1}" if number > 1 else current, older)


def layers_of(look: FamilyLooks, instance: Instance) -> list[Layer]:
    """The disk of an instance as its records say, whatever the guest's QEMU may have written into its header."""
    return Layers(look, instance).chain(DISK)


def qemu_img(runtime: Runtime) -> str:
    """The program qemu-img, or MissingRequirement."""
    return runtime.program("qemu-img", "qemu-utils", "to make disks")
