# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What the VirtualBox driver does to machines. See look.py."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Acts
from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox import answers, prepared, service, vdi
from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.answers import (
    SSH_RULE,
    Machine,
    Medium,
    name_of,
    rule_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.look import (
    CONSOLE,
    DISK,
    LOST,
    MACHINES,
    VirtualBoxLooks,
    in_mib,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox.manage import (
    LONG,
    LOOK,
    missing_module,
    remedy,
)
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InUse,
    MinicloudError,
    MissingRequirement,
    NotSupported,
)
from ansible_collections.minicloud.local.plugins.module_utils._files import explained, read_file
from ansible_collections.minicloud.local.plugins.module_utils._guest.console import EARLIER
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    PAUSED,
    SUSPENDED,
    UP,
    Instance,
    PortForward,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline
from ansible_collections.minicloud.local.plugins.module_utils._scope import SEED
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_path, write_file

# The oldest version whose options are used here.
_OLDEST = (7, 0)
# A setting of VirtualBox that has it interpret machines where there is no kernel module.
_INTERPRETER = "VBoxInternal/HM/FallbackToIEM"

_CONTROLLER = "SATA"
# In the directory of an instance while its disk is made larger: the size that it had.
_GROWING = "growing"
_LOG_KEPT = 16 << 10
# Earlier consoles that are kept.
_KEPT_CONSOLES = 3

# Seconds between two looks at a guest that goes down, and after which its power button is pressed again: early in its
# boot nobody listens.
_GLANCE, _PRESS_AGAIN = 0.3, 15.0
_ENDING = 30.0


class VirtualBoxActs(Acts):
    """See Acts."""

    capabilities = {"vm": ("vm",), "live_ports": ("vm",)}

    def __init__(self, look: VirtualBoxLooks) -> None:
        self.look = look
        self.manage = look.manage
        self.runtime = look.runtime
        self.scope = look.scope

    # What the host has

    def probe(self) -> dict[str, str]:
        version = self._version()
        reason = missing_module()
        self._require_runnable(reason)
        found = {"version": version, "program": self.manage.program(), "accelerator": "virtualbox"}
        if reason:
            found.update(accelerator="interpreter", accelerator_reason=reason)
        return found

    def require(self, arch: str, firmware: str = "", instance_type: str = "vm") -> None:
        self.look.require_platform()
        own = self.look.host.architecture()
        if "x86_64" not in (arch, own) or arch != own:
            raise NotSupported(
                f"VirtualBox does not run instances for {arch} on this host",
                f"this driver makes machines of x86_64 on hosts of x86_64, and this one is {own}",
                "Choose another arch, or the driver qemu, which emulates others.",
            )
        self._version()
        self._require_runnable(missing_module())

    def _version(self) -> str:
        self.manage.require()
        # VirtualBox's service is not asked for it.
        done = self.runtime.run([self.manage.program(), "--version"], env=self.manage.env(), timeout=LOOK)
        try:
            version, numbers = answers.parse_version(done.out)
        except ValueError as exc:
            raise self.manage.error("VBoxManage does not tell its version", done) from exc
        if numbers < _OLDEST:
            raise MissingRequirement(
                f"VirtualBox {version} is too old", "some of what is asked of it came later", "Install 7.0 or newer."
            )
        return version

    def _require_runnable(self, reason: str) -> None:
        """Raise where there is no kernel module, unless VirtualBox was told to do without."""
        if not reason:
            return
        done = self.manage.run("getextradata", "global", _INTERPRETER, timeout=LOOK)
        if done.rc == 0 and done.out.strip().endswith("Value: 1"):
            self.runtime.report.step("interpreted")
            return
        raise MissingRequirement("VirtualBox cannot run machines on this host", reason, remedy())

    # Making and removing

    def create(self, instance: Instance, image: Image, seed: t.Mapping[str, bytes]) -> None:
        from ansible_collections.minicloud.local.plugins.module_utils._guest.iso9660 import iso_image

        doing = f"VirtualBox could not make {instance.name}"
        self._clear(instance)
        self.runtime.report.step("virtualbox_machine")
        self.manage.check(
            doing,
            *("createvm", "--name", instance.name, "--uuid", instance.uuid, "--ostype", "Linux26_64"),
            *("--basefolder", self.look.path(instance, MACHINES), "--register"),
        )
        self.runtime.report.step("virtualbox_registered")
        folder = os.path.dirname(self.look.settings(instance))
        disk = os.path.join(folder, DISK)
        with prepared.held(self.runtime, self.scope.data, image.path):
            base = prepared.prepare(self.runtime, image, lambda path, size: self._resize_unused(path, size, doing))
            self.manage.check(doing, "createmedium", "disk", "--filename", disk, "--diffparent", base)
        self.runtime.report.step("virtualbox_disk")
        self._grow(instance, disk, doing)
        self.runtime.report.step("seed")
        write_file(os.path.join(folder, SEED), iso_image(seed, "cidata"))
        firmware = ("--firmware", "efi") if image.firmware == "uefi" else ()
        self.manage.check(
            doing,
            *("modifyvm", instance.uuid, *firmware, "--description", f"An instance of {self.scope.data.path}"),
            *("--boot1", "disk", "--boot2", "none", "--boot3", "none", "--boot4", "none"),
            *("--bios-boot-menu", "disabled", "--rtc-use-utc", "on", "--audio-enabled", "off", "--usb-ohci", "off"),
            *("--graphicscontroller", "vmsvga"),
            *("--uart1", "0x3f8", "4", *self._settings_of(instance, None)),
        )
        controller = ("--storagectl", _CONTROLLER)
        self.manage.check(
            doing,
            *("storagectl", instance.uuid, "--name", _CONTROLLER, "--add", "sata", "--portcount", "2"),
            *("--bootable", "on"),
        )
        for port, kind, name in (("0", "hdd", DISK), ("1", "dvddrive", SEED)):
            place = (*controller, "--port", port, "--device", "0", "--type", kind)
            self.manage.check(doing, "storageattach", instance.uuid, *place, "--medium", os.path.join(folder, name))
        self.runtime.report.step("virtualbox_made")

    def _settings_of(self, instance: Instance, machine: Machine | None) -> list[str]:
        """What has a machine be as the record says, as options of modifyvm. machine -- as it is; None: just made"""
        found: list[str] = []
        if machine is None or machine.state != SUSPENDED:
            if machine is None or machine.memory != in_mib(instance.memory):
                found += ["--memory", str(instance.memory >> 20)]
            if machine is None or machine.cpus != instance.cpus:
                found += ["--cpus", str(instance.cpus)]
        console = self.look.path(instance, CONSOLE)
        if machine is None or machine.console != console:
            found += ["--uartmode1", "file", console]
        if machine is None:
            found += ["--nic1", "nat", "--nictype1", "virtio"]
            found += ["--macaddress1", instance.nics[0].mac.replace(":", "")] if instance.nics else []
        elif machine.name != instance.name:
            found += ["--name", instance.name]
        wanted = self._rules(instance)
        present = machine.rules if machine else {}
        for name, rule in present.items():
            if wanted.get(name) != rule:
                found += ["--natpf1", "delete", name]
        for name, rule in wanted.items():
            if present.get(name) != rule:
                found += ["--natpf1", rule_of(name, rule)]
        return found

    @staticmethod
    def _rules(instance: Instance) -> dict[str, PortForward]:
        """The rules that lead to a guest, by name, as far as the ports of the host are chosen."""
        ports = {name_of(port): port for port in instance.ports if port.host_port}
        if instance.ssh_port:
            ports[SSH_RULE] = PortForward("127.0.0.1", instance.ssh_port, 22)
        return ports

    def _clear(self, instance: Instance) -> None:
        """Room for an instance: what a killed run has begun of it goes, and what is somebody else's is not touched."""
        machine = self.look.machine(instance)
        if machine is not None and not self.look.is_ours(machine):
            raise InUse(
                f"VirtualBox has another machine with the uuid of {instance.name}",
                f"it is at {machine.settings}",
                "Remove that machine where it belongs, or have this instance made anew.",
            )
        self.delete(instance)
        with explained(f"what there was of {instance.name} could not be removed"):
            remove_path(self.look.path(instance, MACHINES))
            remove_path(self.look.path(instance, _GROWING))
        make_dir(self.look.path(instance, MACHINES))

    def check_removal(self, instance: Instance) -> None:
        machine = self.look.machine(instance)
        if machine is None or not self.look.is_ours(machine):
            return
        media = self._media("hdds")
        own = {each.uuid for each in media if self._is_own(instance, each)}
        others = [each.location for each in media if each.parent in own and each.uuid not in own]
        if others:
            raise InUse(
                f"{instance.name} cannot be removed from VirtualBox",
                f"{others[0]} is backed by its disk: somebody has made a linked clone of it there",
                "Remove that clone first.",
            )

    def delete(self, instance: Instance) -> None:
        doing = f"VirtualBox could not remove {instance.name}"
        self._end_lost(instance)
        machine = self.look.machine(instance) if instance.uuid else None
        if machine is not None and self.look.is_ours(machine):
            if machine.state in UP:
                # It may end by itself meanwhile.
                with contextlib.suppress(HypervisorError):
                    self.manage.check(doing, "controlvm", instance.uuid, "poweroff")
            self._unregister(instance, doing)
        elif os.path.isdir(self.look.path(instance, MACHINES)):
            self._let_go(instance, doing)

    def _unregister(self, instance: Instance, doing: str) -> None:
        """Have VirtualBox forget the machine of an instance, and the media that it has of it; all files stay."""
        self.runtime.report.step("virtualbox_unregister")
        self.manage.check(doing, "unregistervm", instance.uuid)
        self.runtime.report.step("virtualbox_unregistered")
        self._let_go(instance, doing)

    def _let_go(self, instance: Instance, doing: str) -> None:
        """Have VirtualBox forget the media of an instance without a machine, and what nobody is backed by any more."""
        for kind in ("dvds", "hdds"):
            own = [each for each in self._media(kind) if self._is_own(instance, each)]
            # What is backed by something goes before it.
            while own:
                parents = {each.parent for each in own}
                leaves = [each for each in own if each.uuid not in parents] or own
                for each in leaves:
                    self.manage.check(doing, "closemedium", "dvd" if kind == "dvds" else "disk", each.uuid)
                own = [each for each in own if each not in leaves]
        image = instance.image.get("path", "")
        if not image:
            return
        with prepared.held(self.runtime, self.scope.data, image):
            media = self._media("hdds")
            for base in media:
                same = os.path.realpath(base.location) == os.path.realpath(prepared.path_of(image))
                if same and not any(each.parent == base.uuid for each in media):
                    self.manage.check(doing, "closemedium", "disk", base.uuid)

    def _media(self, kind: str) -> list[Medium]:
        """The media that VirtualBox has registered. kind -- hdds, or dvds"""
        said = self.manage.check("VirtualBox does not tell of its media", "list", kind, timeout=LOOK)
        return answers.parse_media(said)

    def _is_own(self, instance: Instance, medium: Medium) -> bool:
        return answers.is_below(medium.location, self.look.path(instance, MACHINES))

    def _end_lost(self, instance: Instance, deadline: Deadline | None = None) -> None:
        """See the end of the process that runs a machine which VirtualBox does not know to run.

        deadline -- by which it has ended by itself; without one it is ended now
        """
        pid = service.machines(self.runtime).get(instance.uuid) if instance.uuid else None
        if pid is None:
            return
        machine = self.look.machine(instance)
        if machine is not None and machine.state in UP:
            return
        self.runtime.report.step("end_lost")
        if deadline is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for dummy in (deadline or Deadline(_ENDING)).pauses(first=0.02):
            if service.machines(self.runtime).get(instance.uuid) != pid:
                return
        raise HypervisorError(
            f"the process {pid}, which runs {instance.name}, does not end",
            LOST,
            "Shut the guest down from inside (ssh), or use force: true, which is like pulling the plug.",
        )

    def grow_disk(self, instance: Instance) -> None:
        doing = f"the disk of {instance.name} could not be grown"
        self._grow(instance, self._registered(instance, doing).disk, doing)

    def _grow(self, instance: Instance, disk: str, doing: str) -> None:
        """Have the disk of a stopped instance be as large as its record says, and be read as zero where it is new."""
        self._finish_growing(instance, disk)
        before, after = vdi.size_of(disk), vdi.whole_blocks(instance.disk)
        if after > before:
            # Should this run be ended meanwhile, the next one does the rest.
            write_file(self.look.path(instance, _GROWING), str(before).encode())
            self._resize(disk, after, doing)
            self.runtime.report.step("virtualbox_resized")
            self._finish_growing(instance, disk)

    def _resize(self, disk: str, size: int, doing: str) -> None:
        self.manage.check(doing, "modifymedium", "disk", disk, "--resizebyte", str(size), timeout=LONG)

    def _resize_unused(self, disk: str, size: int, doing: str) -> None:
        self._resize(disk, size, doing)
        # It may have become one of VirtualBox's by that.
        self.manage.run("closemedium", "disk", disk)

    def _finish_growing(self, instance: Instance, disk: str) -> None:
        marker = self.look.path(instance, _GROWING)
        if not os.path.exists(marker):
            return
        with explained(f"{marker} could not be read"):
            text = read_file(marker, 32)
        vdi.mark_zero(disk, int(text) if text.isdigit() else vdi.size_of(disk))
        remove_path(marker)

    def _registered(self, instance: Instance, doing: str) -> Machine:
        """The machine of an instance, registered anew where somebody has removed it and left its files."""
        machine = self.look.machine(instance)
        if machine is None:
            settings = self.look.settings(instance)
            if not settings:
                raise HypervisorError(doing, "it was removed from VirtualBox")
            self.runtime.report.step("virtualbox_register")
            self.manage.check(doing, "registervm", settings)
            machine = self.look.machine(instance)
        if machine is None or not self.look.is_ours(machine):
            where = machine.settings if machine else "nowhere"
            raise HypervisorError(doing, f"VirtualBox has a machine with its uuid elsewhere: {where}")
        return machine

    def reconfigure(self, instance: Instance) -> None:
        doing = f"VirtualBox did not take on what was changed of {instance.name}"
        machine = self._registered(instance, doing)
        if machine.state not in UP:
            self._configure(instance, machine, doing)

    def _configure(self, instance: Instance, machine: Machine, doing: str) -> None:
        settings = self._settings_of(instance, machine)
        if settings:
            self.runtime.report.step("virtualbox_configure")
            self.manage.check(doing, "modifyvm", instance.uuid, *settings)

    # Names

    def rename(self, instance: Instance, name: str) -> None:
        doing = f"VirtualBox could not rename {instance.name} to {name}"
        machine = self.look.machine(instance)
        if machine is None:
            return  # a run that was cut off has done it
        if not self.look.is_ours(machine) or machine.state in UP:
            raise HypervisorError(doing, "its machine runs, or is not there")
        # Its folder moves with the directory, and VirtualBox finds it again by follow_name().
        self._unregister(instance, doing)

    def follow_name(self, instance: Instance) -> None:
        from ansible_collections.minicloud.local.plugins.module_utils._guest.iso9660 import iso_image
        from ansible_collections.minicloud.local.plugins.module_utils._guest.seed import read_seed, renamed

        doing = f"VirtualBox did not take on the new name of {instance.name}"
        machine = self._registered(instance, doing)
        path = os.path.join(os.path.dirname(machine.settings), SEED)
        files = read_seed(path, instance.name)
        after = {**files, "meta-data": renamed(files["meta-data"], instance.renamed_from, instance.name)}
        if after != files:
            write_file(path, iso_image(after, "cidata"))
        self._configure(instance, machine, doing)

    # Running

    def choose_ports(self, instance: Instance, held: t.Sequence[PortForward] | None = None) -> None:
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet import ports

        ports.choose_all(instance, self.scope.instances()[0], held, with_ssh=True)

    def start(self, instance: Instance) -> None:
        doing = f"VirtualBox could not start {instance.name}"
        # It would write to the same disk.
        self._end_lost(instance, Deadline(_ENDING))
        machine = self._registered(instance, doing)
        if machine.state in UP:
            raise HypervisorError(doing, "its machine runs already")
        resumes = machine.state == SUSPENDED
        if resumes and not instance.resumed:
            self.manage.check(doing, "discardstate", instance.uuid)
            machine = machine._replace(status="poweroff")
            resumes = False
        self._configure(instance, machine, doing)
        if not resumes:
            self._finish_growing(instance, machine.disk)
        self._rotate_console(instance, resumes)
        self.runtime.report.step("virtualbox_start")
        try:
            self.manage.check(doing, "startvm", instance.uuid, "--type", "headless")
        except MinicloudError as exc:
            exc.facts.setdefault("hypervisor_log", self.log(instance).splitlines())
            reason = missing_module()
            if reason and not isinstance(exc, MissingRequirement):
                raise MissingRequirement(doing, f"{exc.why} ({reason})", remedy(), **exc.facts) from exc
            raise
        self.runtime.report.step("virtualbox_started")

    def _rotate_console(self, instance: Instance, resumes: bool) -> None:
        """Make room for the console of a new start, which VirtualBox begins anew; the last few are kept."""
        current = self.look.path(instance, CONSOLE)
        earlier = f"{current}{EARLIER}"
        with contextlib.suppress(OSError):
            if os.path.getsize(current) == 0:
                return
            if resumes:
                # What it said before goes on to belong to this start.
                os.replace(current, earlier)
                return
            remove_path(earlier)
            for number in range(_KEPT_CONSOLES, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{current}.{number - 1}" if number > 1 else current, f"{current}.{number}")

    def resume(self, instance: Instance) -> None:
        doing = f"{instance.name} could not be resumed"
        self.manage.check(doing, "controlvm", instance.uuid, "resume")
        machine = self.look.machine(instance)
        if machine is not None and machine.reason:
            raise HypervisorError(doing, machine.reason)

    def stop(self, instance: Instance, deadline: Deadline, force: bool) -> None:
        doing = f"{instance.name} could not be ended"
        machine = self.look.machine(instance)
        if machine is None or machine.state not in UP:
            self._end_lost(instance, None if force else Deadline(min(deadline.left(), _ENDING)))
            return
        if force:
            self._power_off(instance, doing)
            return
        if machine.state == PAUSED:
            self.resume(instance)
        self._shut_down(instance, deadline)

    def _power_off(self, instance: Instance, doing: str) -> None:
        try:
            self.manage.check(doing, "controlvm", instance.uuid, "poweroff")
        except HypervisorError:
            machine = self.look.machine(instance)
            if machine is not None and machine.state in UP:
                raise

    def _shut_down(self, instance: Instance, deadline: Deadline) -> None:
        doing = f"{instance.name} did not shut down within {deadline.seconds:g} seconds"
        pressed = 0.0
        for dummy in deadline.pauses(first=_GLANCE, longest=_GLANCE):
            if time.monotonic() - pressed > _PRESS_AGAIN:
                pressed = time.monotonic()
                # It may just have gone down.
                self.manage.run("controlvm", instance.uuid, "acpipowerbutton")
            machine = self.look.machine(instance)
            if machine is None or machine.state not in UP:
                return
        raise HypervisorError(
            doing,
            "its guest does not act on the power button",
            "Use a longer timeout, or force: true, which is like pulling the plug.",
        )

    def forwards(self, instance: Instance) -> list[PortForward]:
        machine = self.look.machine(instance)
        if machine is None:
            return []
        # One that VirtualBox has lost sight of holds its ports still.
        holds = machine.state in UP or instance.uuid in service.machines(self.runtime)
        return machine.forwards if holds else []

    def forward_ports(self, instance: Instance, before: t.Sequence[PortForward]) -> None:
        doing = f"the ports of {instance.name} could not be forwarded"
        machine = self._registered(instance, doing)
        wanted = self._rules(instance)
        for name, rule in machine.rules.items():
            if name != SSH_RULE and wanted.get(name) != rule:
                self.manage.check(doing, "controlvm", instance.uuid, "natpf1", "delete", name)
        for name, rule in wanted.items():
            if machine.rules.get(name) != rule and name != SSH_RULE:
                self.manage.check(doing, "controlvm", instance.uuid, "natpf1", rule_of(name, rule))

    def log(self, instance: Instance) -> str:
        folder = os.path.dirname(self.look.settings(instance))
        found = []
        for name in ("VBoxHardening.log", "VBox.log"):
            with contextlib.suppress(OSError), open(os.path.join(folder, "Logs", name), "rb") as stream:
                stream.seek(0, os.SEEK_END)
                stream.seek(max(0, stream.tell() - _LOG_KEPT))
                found.append(stream.read(_LOG_KEPT).decode("utf-8", "replace").strip())
        return "\n".join(found) if folder else ""
