# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What the libvirt driver does to an instance: its domain, and with it its machine. See driver.py.

The data directory is private, and QEMU of the system's libvirt runs as a user of its own. So disk, backing image and
seed are handed to libvirt open: no right to a file is widened, and libvirt has no reason to change whose a file is.
What is handed over counts as long as the connection, so only the run that starts a domain can start it: for virsh, its
files are missing.
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import replace

from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt import definition
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.domain import (
    parse_domain,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.domains import Domains
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.look import SAVED_IMAGE, LibvirtLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.placement import Here, Placement
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.remote import Elsewhere
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.saving import fitting
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import machine as qemu_machine
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import usernet
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.act import (
    DROPPING,
    FamilyActs,
    layers_of,
    qemu_img,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.consoles import bound_log
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.layers import sync_directory
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import (
    CONSOLE,
    DISK,
    NVRAM,
    NVRAM_COPY,
)
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InvalidOption,
    MissingRequirement,
)
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import ports
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, PortForward
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline
from ansible_collections.minicloud.local.plugins.module_utils._scope import SEED
from ansible_collections.minicloud.local.plugins.module_utils._writing import remove_path

# The first libvirt that takes the files of a domain open.
_LEAST_VERSION = 9_000_000

# The longest path of a unix socket, in bytes.
_LONGEST_SOCKET = 107

_LOG_DIRECTORIES = {"system": "/var/log/libvirt/qemu", "session": "~/.cache/libvirt/qemu/log"}
_ACCELERATORS = ("auto", "kvm", "tcg")

_LOG_LIMIT = 64 << 10

# Seconds in which a machine that cannot go on pauses again.
_SECOND_THOUGHTS = 1.0


class LibvirtActs(FamilyActs):
    """See Acts."""

    look: LibvirtLooks

    def __init__(self, look: LibvirtLooks) -> None:
        super().__init__(look)
        self.library = look.library()
        self.domains = Domains(look)
        self.placement: Placement = Here(look) if look.host.here else Elsewhere(look)

    # What the host has

    def probe(self) -> dict[str, str]:
        arch = self.look.host.architecture()
        accelerator = self._require(arch)
        with self.look.explained("libvirt does not tell its version"):
            connection = self.look.connection()
            version = f"libvirt {_version(connection.getLibVersion())}, QEMU {_version(connection.getVersion())}"
        return {
            "version": version,
            "accelerator": accelerator.name,
            "accelerator_reason": accelerator.reason,
            "endpoint": self.look.uri,
            "uri": self.look.uri,
        }

    def require(self, arch: str, firmware: str = "", instance_type: str = "vm") -> None:
        self._require(arch, firmware)

    def _require(self, arch: str, firmware: str = "") -> qemu_machine.Accelerator:
        if not hasattr(self.library.virDomain, "FDAssociate"):
            raise MissingRequirement(
                f"the Python library libvirt {_version(self.library.getVersion())} is too old",
                "it cannot hand open files to libvirt",
                "Install version 9.0 or newer (python3-libvirt or libvirt-python).",
                missing_library="libvirt-python",
            )
        with self.look.explained("libvirt does not tell what it is"):
            connection = self.look.connection()
            if connection.getType().lower() != "qemu":
                raise InvalidOption(
                    f"driver_options.uri {self.look.uri!r} does not lead to QEMU",
                    f"it leads to {connection.getType()}",
                    "Use qemu:///system, qemu:///session or another URI that begins with qemu.",
                )
            version = connection.getLibVersion()
            if version < _LEAST_VERSION:
                raise MissingRequirement(
                    f"libvirt {_version(version)} is too old", "it takes no open files", "Install version 9.0 or newer."
                )
        qemu_img(self.runtime)
        self.placement.require(arch, firmware)
        return self._accelerator(arch)

    def _accelerator(self, arch: str) -> qemu_machine.Accelerator:
        wanted = str(self.options.get("accelerator") or "auto")
        if wanted not in _ACCELERATORS:
            raise InvalidOption(
                f"driver_options.accelerator {wanted!r} is not known",
                hint=f"Choose one of: {', '.join(_ACCELERATORS)}.",
            )
        return self.placement.accelerator(wanted, arch)

    # Definition

    def firmware(self, instance: Instance) -> str:
        return super().firmware(instance) if self.placement.has_firmware else ""

    def assemble(self, instance: Instance, seed: t.Mapping[str, bytes], make_disk: t.Callable[[str], None]) -> None:
        super().assemble(instance, seed, make_disk)
        self._define(instance, self._accelerator(instance.arch), self.firmware(instance))
        self.runtime.report.step("defined")

    def reconfigure(self, instance: Instance) -> None:
        """Define the domain of a stopped instance as its record says now; of a running one put right what can be."""
        domain = self._domain(instance)
        known = domain is not None or self.look.name in instance.handles
        if known and (domain is None or not self.look.is_active(domain)):
            domain = self._define(instance, self._accelerator(instance.arch), self.firmware(instance))
        elif domain is not None:
            with self.look.explained(f"the processors of {instance.name} could not be put right"):
                found = parse_domain(domain.XMLDesc())
                if found.defined and found.shape.cpus != found.defined.cpus == instance.cpus:
                    domain.setVcpusFlags(instance.cpus, self.library.VIR_DOMAIN_AFFECT_LIVE)
        if domain is not None:
            with self.look.explained(f"libvirt could not be kept from starting {instance.name} by itself"):
                if domain.autostart():
                    domain.setAutostart(0)

    def rename(self, instance: Instance, name: str) -> None:
        domain = self._domain(instance)
        if domain is not None:
            if self.look.is_active(domain):
                raise HypervisorError(f"{instance.name} cannot be renamed", "its domain runs")
            # The variables that the machine has written go with the instance's own copy.
            self.firmware(instance)
            with self.look.explained(f"the domain of {instance.name} could not be renamed"):
                self.domains.undefine(domain)

    def follow_name(self, instance: Instance) -> None:
        super().follow_name(instance)
        self._define(instance, self._accelerator(instance.arch), self.firmware(instance))

    def _define(self, instance: Instance, accelerator: qemu_machine.Accelerator, code: str) -> t.Any:
        """Have a domain that is as the record says, whatever there is, and return it.

        code -- of the UEFI firmware, empty for none
        """
        self.runtime.report.step("define")
        with self.look.explained(f"the domain of {instance.name} could not be defined"):
            connection = self.look.connection()
            domain = self.look.domain(instance)
            name = self.domains.free_name(connection, instance)
            if domain is not None and domain.name() != name:
                # A definition cannot change the name.
                self.domains.undefine(domain)
            return connection.defineXML(self._definition(instance, accelerator, code, name))

    def _definition(self, instance: Instance, accelerator: qemu_machine.Accelerator, code: str, name: str) -> str:
        """The definition of the domain of an instance, under a name, as the record says."""
        parts = definition.Parts(
            name=name,
            owner=self.look.owner(instance),
            accelerator=accelerator.name,
            files={
                **{name: os.path.realpath(path) for name, path in self._disk_files(instance).items()},
                "disk": self.placement.path(self.look.path(instance, DISK)),
                "seed": self.placement.path(self.look.path(instance, SEED)),
                "console": self.placement.path(self.look.path(instance, CONSOLE)),
            },
            code=code,
            nvram=self.look.path(instance, NVRAM),
            own_nvram=not self.look.is_system(),
            **self.placement.parts(),
            **self._wired(instance),
        )
        return definition.domain_xml(instance, parts)

    def _disk_files(self, instance: Instance) -> dict[str, str]:
        """What is below the disk of an instance: the layers as layer1, layer2 … from the topmost on, and the base."""
        *layers, base = [layer.path for layer in layers_of(self.look, instance)[1:]]
        return {**{f"layer{number}": path for number, path in enumerate(layers, start=1)}, "base": base}

    def _wired(self, instance: Instance) -> dict[str, t.Any]:
        """What Parts has of the interfaces of an instance."""
        if os.geteuid() == 0:
            return {"bridges": self._bridges(instance)}
        wiring = self.wiring(instance)
        longest = max((len(os.fsencode(path)) for paths in wiring.sockets.values() for path in paths), default=0)
        why_alone = self.placement.why_alone()
        if wiring.sockets and why_alone:
            wiring = self.unwired(instance, why_alone)
        elif longest > _LONGEST_SOCKET:
            wiring = self.unwired(instance, f"the path of a socket has at most {_LONGEST_SOCKET} characters")
        return wiring._asdict()

    def _bridges(self, instance: Instance) -> dict[str, definition.Bridge]:
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet.links import tap_name

        found = {}
        for network, nic in self.attached(instance):
            direct = network.bridge_type == "macvtap"
            name = tap_name(network.interface, nic.mac)
            found[nic.mac] = definition.Bridge(network.interface, name, 0 if direct else network.mtu, direct)
        return found

    # Running

    def start(self, instance: Instance) -> None:
        domain = self._domain(instance)
        if domain is not None and self.look.is_active(domain):
            raise HypervisorError(f"{instance.name} cannot be started", "its domain runs already")
        self.prepare_disk(instance)
        if not instance.resumed:
            self.rotate_console(instance)
        accelerator = self._accelerator(instance.arch)
        if accelerator.reason:
            self.runtime.report.warn(
                f"{instance.name} runs under emulation (tcg), which is several times slower: {accelerator.reason}."
            )
        code = self.firmware(instance)
        try:
            self._start(instance, accelerator, code)
        except HypervisorError as exc:
            exc.facts["hypervisor_log"] = self.log(instance)
            if instance.resumed:
                exc.hint = exc.hint or DROPPING
                raise
            remedy = self.placement.kvm_refused(exc) if accelerator.name == "kvm" else ""
            if not remedy:
                raise
            if self.options.get("accelerator") == "kvm":
                exc.hint = f"The user that QEMU runs as there may not use KVM: {remedy}, or use the accelerator auto."
                raise
            self.runtime.report.warn(
                f"{instance.name} runs under emulation (tcg), which is several times slower, because its QEMU may not"
                f" use KVM: {remedy}."
            )
            self._start(instance, qemu_machine.Accelerator("tcg"), code)
        self.runtime.report.step("spawned")

    def _start(self, instance: Instance, accelerator: qemu_machine.Accelerator, code: str) -> None:
        # One that libvirt keeps itself starts from the definition that was saved with it.
        domain = self._domain(instance) if instance.resumed and not self._is_in_file(instance) else None
        saved = domain is not None
        if domain is None:
            domain = self._define(instance, accelerator, code)
            self.runtime.report.step("defined")
        copied = bool(code) and self.look.is_system() and not instance.resumed
        try:
            with self.look.explained(f"libvirt could not start {instance.name}"):
                if copied:
                    self._note_nvram(instance, domain)
                now = self._definition(instance, accelerator, code, domain.name()) if instance.resumed else ""
                if saved:
                    # The layers of its disk may be others by now.
                    domain.managedSaveDefineXML(fitting(domain.managedSaveGetXMLDesc(), now))
                self._launch(instance, domain, copied, now)
        except HypervisorError as exc:
            taken = self.placement.port_taken(instance.name, exc)
            if taken:
                raise taken from exc
            raise
        if self.look.host.here:
            # As it does where virtlogd is told not to (stdio_handler in qemu.conf).
            bound_log(self.runtime, instance.name, self.scope.directory(instance.name))

    def _is_in_file(self, instance: Instance) -> bool:
        return os.path.lexists(self.look.path(instance, SAVED_IMAGE))

    def go_on_from_file(self, instance: Instance) -> None:
        """Have an instance go on that was saved to its file SAVED_IMAGE a moment ago."""
        self._start(replace(instance, resumed=True), self._accelerator(instance.arch), self.firmware(instance))

    def _launch(self, instance: Instance, domain: t.Any, copied: bool, now: str) -> None:
        """now -- the definition of one that goes on from what was saved"""
        files = {
            **{name: (path, os.O_RDONLY) for name, path in self._disk_files(instance).items()},
            "disk": (self.look.path(instance, DISK), os.O_RDWR),
            "seed": (self.look.path(instance, SEED), os.O_RDONLY),
        }
        # If it did not exist, virtlogd would create it, owned by root.
        console = os.open(
            self.look.console_log(instance),
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
        )
        descriptors = [console]
        try:
            if os.geteuid() != 0 and self.look.joins_networks():
                # The hub sees by the sockets when the guest ends, for libvirt hands on no descriptor of ours.
                self.join(instance, descriptors)
            with explained(f"the files of {instance.name} could not be opened"):
                for group, (path, flags) in files.items() if self.placement.hands_over_files else ():
                    descriptors.append(os.open(path, flags | os.O_CLOEXEC))
                    domain.FDAssociate(group, [descriptors[-1]], 0)
            self.runtime.report.step("spawn")
            # Memory that somebody else has saved is of a disk that may have changed since.
            flags = 0 if instance.resumed else self.library.VIR_DOMAIN_START_FORCE_BOOT
            if copied:
                flags |= self.library.VIR_DOMAIN_START_RESET_NVRAM

            def create() -> None:
                if instance.resumed and self._is_in_file(instance):
                    self._load(instance, domain, now)
                else:
                    domain.createWithFlags(flags)

            try:
                create()
            except self.library.libvirtError:
                # A run that was killed has asked for the same, and libvirt has only now come to it. Nobody knows
                # whether that machine is as the record says by now.
                if not self.look.is_active(domain):
                    raise
                self.domains.destroy(domain)
                create()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _load(self, instance: Instance, domain: t.Any, now: str) -> None:
        """Have a domain go on from what was saved to the file SAVED_IMAGE."""
        image, connection = self.look.path(instance, SAVED_IMAGE), self.look.connection()
        xml = fitting(connection.saveImageGetXMLDesc(image, self.library.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE), now)
        connection.restoreFlags(image, xml, self.library.VIR_DOMAIN_SAVE_PAUSED)
        self.runtime.report.step("loaded")
        self._run_on(instance, domain)

    def _run_on(self, instance: Instance, domain: t.Any) -> None:
        """Have a halted domain run. From then on the disk is no longer as it was when it was saved."""
        image = self.look.path(instance, SAVED_IMAGE)
        if os.path.lexists(image):
            remove_path(image)
            sync_directory(os.path.dirname(image))
        self.domains.go_on(domain)

    def _note_nvram(self, instance: Instance, domain: t.Any) -> None:
        """Note where libvirt keeps its copy of the UEFI variables, for whoever starts the instance next."""
        from xml.etree import ElementTree

        copy = ElementTree.fromstring(domain.XMLDesc()).findtext("os/nvram") or ""
        link = self.look.path(instance, NVRAM_COPY)
        with explained(f"{link} could not be made"):
            remove_path(link)
            if copy:
                os.symlink(copy, link)

    def choose_ports(self, instance: Instance, held: t.Sequence[PortForward] | None = None) -> None:
        if not self.placement.sees_ports:
            ports.choose_unseen(instance, self.scope.instances()[0])
        else:
            super().choose_ports(instance, held)

    def forwards(self, instance: Instance) -> list[PortForward]:
        if not self.look.user_mode(instance):
            return self.network_forwards(instance)
        return usernet.forwards(self._monitor(instance), instance)

    def forward_ports(self, instance: Instance, before: t.Sequence[PortForward]) -> None:
        if not self.look.user_mode(instance):
            self.forward_by_network(instance)
            return
        usernet.change_forwards(self._monitor(instance), definition.NETDEV, instance, before)

    def _monitor(self, instance: Instance) -> usernet.Monitor:
        domain = self._domain(instance)
        import libvirt_qemu

        def ask(command: str) -> str:
            with self.look.explained(f"QEMU of {instance.name} does not answer on its monitor"):
                flags = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
                return str(libvirt_qemu.qemuMonitorCommand(domain, command, flags)).strip()

        return ask

    def _domain(self, instance: Instance) -> t.Any:
        with self.look.explained(f"the domain of {instance.name} cannot be looked at"):
            return self.look.domain(instance)

    def set_link(self, instance: Instance, mac: str, up: bool) -> bool:
        from xml.etree import ElementTree

        domain = self._domain(instance)
        with self.look.explained(f"the cable of {instance.name} could not be {'put in' if up else 'pulled out'}"):
            devices = [] if domain is None else ElementTree.fromstring(domain.XMLDesc()).iterfind("devices/interface")
            for interface in devices:
                address = interface.find("mac")
                if address is None or address.get("address", "").lower() != mac.lower():
                    continue
                link = interface.find("link")
                link = ElementTree.SubElement(interface, "link") if link is None else link
                link.set("state", "up" if up else "down")
                xml = ElementTree.tostring(interface, encoding="unicode")
                domain.updateDeviceFlags(xml, self.library.VIR_DOMAIN_AFFECT_LIVE)
                return True
        return False

    def resume(self, instance: Instance) -> None:
        library, domain = self.library, self._domain(instance)
        with self.look.explained(f"{instance.name} could not be resumed"):
            self._run_on(instance, domain)
            self.runtime.report.step("resumed")
            # Once resumed, QEMU repeats the writes that have failed.
            for dummy in Deadline(_SECOND_THOUGHTS).pauses(first=0.02, longest=0.2):
                if domain.state() == [library.VIR_DOMAIN_PAUSED, library.VIR_DOMAIN_PAUSED_IOERROR]:
                    raise HypervisorError(
                        f"{instance.name} was resumed and has paused again at once",
                        "QEMU could not write its disk, most likely because the host's is full",
                        "Free some space where its disk is, and run this again.",
                    )

    def stop(self, instance: Instance, deadline: Deadline, force: bool) -> None:
        domain = self._domain(instance)
        if domain is None:
            return
        with self.look.explained(f"{instance.name} could not be stopped"):
            if force:
                self.domains.destroy(domain)
                return
            ended = self.domains.shut_down(domain, deadline)
        if not ended:
            raise HypervisorError(
                f"{instance.name} did not shut down within {deadline.seconds:g} seconds",
                "the guest does not react to the power button, or takes longer",
                "Use a longer timeout, or force: true, which is like pulling the plug.",
            )

    def remove_machine(self, instance: Instance) -> None:
        with self.look.explained(f"the domain of {instance.name} could not be removed"):
            try:
                if not instance.uuid:
                    self.domains.remove_unknown(instance)
                    return
                domain = self.look.connection().lookupByUUIDString(instance.uuid)
                # Somebody else's domain is left alone: it is not what was made of this instance.
                if not self.look.is_ours(parse_domain(domain.XMLDesc()), instance):
                    return
            except self.library.libvirtError as exc:
                if exc.get_error_code() == self.library.VIR_ERR_NO_DOMAIN:
                    return
                raise
            self.domains.remove(domain)

    def log(self, instance: Instance) -> str:
        """What QEMU has said since its last start, which libvirt notes with a line of its own."""
        if not self.look.host.here:
            return ""  # the file is there
        try:
            with self.look.explained("the domain cannot be looked at"):
                domain = self.look.domain(instance)
                name = instance.name if domain is None else domain.name()
            directory = _LOG_DIRECTORIES["system" if self.look.is_system() else "session"]
            with open(os.path.join(os.path.expanduser(directory), f"{name}.log"), "rb") as stream:
                stream.seek(0, os.SEEK_END)
                stream.seek(max(0, stream.tell() - _LOG_LIMIT))
                text = stream.read().decode(errors="replace")
        except (OSError, HypervisorError):
            return ""
        lines = text.rpartition(": starting up libvirt version")[2].splitlines()
        # The command line goes on over many lines; what QEMU says begins after it.
        said = [line for line in lines[1:] if not line.endswith("\\") and not line.startswith(("-", "LC_ALL="))]
        return "\n".join(said).strip()


def _version(number: int) -> str:
    """A version as libvirt tells it: 9000000 is 9.0.0."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
