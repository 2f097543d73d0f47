# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The virtual machine that QEMU is asked for: accelerator, devices, command line."""

from __future__ import annotations

import os
import platform
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption, MissingRequirement
from ansible_collections.minicloud.local.plugins.module_utils._model import MIB, Instance, PortForward, normal_arch
from ansible_collections.minicloud.local.plugins.module_utils._runtime import find_program


class Arch(t.NamedTuple):
    """How QEMU emulates an architecture. package -- the distribution's, as Debian calls it."""

    machine: str
    cpu: str
    package: str
    firmware: tuple[str, ...] = ()


# The firmware is where distributions put it; the first one that exists is used. x86_64 has QEMU's own SeaBIOS.
ARCHITECTURES = {
    "x86_64": Arch("q35", "max", "qemu-system-x86"),
    "aarch64": Arch(
        "virt",
        "max",
        "qemu-system-arm",
        (
            "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
            "/usr/share/AAVMF/AAVMF_CODE.fd",
            "/usr/share/edk2/aarch64/QEMU_EFI.fd",
            "/usr/share/edk2/aarch64/QEMU_EFI.silent.fd",
        ),
    ),
}

ACCELERATORS = ("auto", "kvm", "tcg", "hvf")


class Accelerator(t.NamedTuple):
    """What runs the guest's instructions, and why it is not something faster (empty: it is the fastest)."""

    name: str
    reason: str = ""


def host_arch() -> str:
    """The architecture of this host."""
    return normal_arch(platform.machine())


def emulator(arch: str) -> str:
    """The path of the QEMU for an architecture, or MissingRequirement."""
    if arch not in ARCHITECTURES:
        raise InvalidOption(
            f"arch {arch!r} is not supported by the driver qemu", hint=f"Choose one of: {', '.join(ARCHITECTURES)}."
        )
    path = find_program(f"qemu-system-{arch}")
    if path is None:
        package = ARCHITECTURES[arch].package
        raise MissingRequirement(
            f"QEMU for {arch} was not found on this host",
            hint=f"Install the package {package} (Debian, Ubuntu) or qemu-system-{arch.replace('_', '-')} (Fedora),"
            " or run the role minicloud.local.host.",
            missing_program=f"qemu-system-{arch}",
        )
    return path


def firmware(arch: str) -> str:
    """The firmware file that an architecture needs; empty where QEMU brings its own."""
    candidates = ARCHITECTURES[arch].firmware
    for path in candidates:
        if os.path.exists(path):
            return path
    if candidates:
        raise MissingRequirement(
            f"no UEFI firmware for {arch} was found on this host", hint="Install the package qemu-efi-aarch64."
        )
    return ""


def choose_accelerator(wanted: str, arch: str, uid: int, groups: t.Container[int]) -> Accelerator:
    """The accelerator to use for the choice of the user (auto, kvm, tcg or hvf); uid and groups are QEMU's.

    auto is the hypervisor of the host's kernel where that really works, else emulation. MissingRequirement if the
    user insists on one that does not work.
    """
    if wanted == "tcg":
        return Accelerator("tcg")
    native = "hvf" if platform.system() == "Darwin" else "kvm"
    if wanted not in ("auto", native):
        raise MissingRequirement(f"the accelerator {wanted} does not exist on {platform.system()}", hint="Use auto.")
    obstacle = _obstacle_to_native(native, arch, uid, groups)
    if not obstacle:
        return Accelerator(native)
    if wanted == native:
        raise MissingRequirement(f"the accelerator {native} cannot be used", obstacle, "Use auto or tcg.")
    return Accelerator("tcg", obstacle)


def _obstacle_to_native(native: str, arch: str, uid: int, groups: t.Container[int]) -> str:
    if arch != host_arch():
        return f"the instance is {arch} and this host is {host_arch()}"
    if native == "hvf":
        return ""
    try:
        device = os.stat("/dev/kvm")
    except OSError:
        return "this host has no /dev/kvm (virtualisation is off in its firmware, or this is a virtual machine)"
    if arch == "x86_64" and not _cpu_virtualises():
        # A /dev/kvm that a hypervisor below provides in software opens, and then hangs the guest for ever.
        return "there is a /dev/kvm, but the processor offers neither vmx nor svm, so it would not work"
    bits = device.st_mode >> (6 if device.st_uid == uid else 3 if device.st_gid in groups else 0) & 0o6
    if uid != 0 and bits != 0o6:
        return "the user that QEMU runs as may not open /dev/kvm: make it readable and writable for the group kvm"
    return ""


def _cpu_virtualises() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as stream:
            for line in stream:
                if line.startswith("flags"):
                    flags = line.split()
                    return "vmx" in flags or "svm" in flags
    except OSError:
        pass
    return False


def command_line(instance: Instance, accelerator: Accelerator, fds: t.Mapping[str, int], monitor_fd: int) -> list[str]:
    """The arguments of QEMU for an instance, without the program.

    All files are handed over open (fds: base, disk, seed, console; monitor_fd: a listening socket), so the process
    needs no right to any file, and no path in its arguments leads anywhere.
    """
    arch = ARCHITECTURES[instance.arch]
    sets = {name: number for number, name in enumerate(fds, start=1)}
    argv = ["-name", f"guest={instance.name},debug-threads=off", "-uuid", instance.uuid]
    argv += ["-nodefaults", "-no-user-config", "-display", "none"]
    argv += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    argv += ["-machine", arch.machine]
    argv += ["-accel", "tcg,thread=multi,tb-size=512" if accelerator.name == "tcg" else accelerator.name]
    argv += ["-cpu", arch.cpu if accelerator.name == "tcg" else "host"]
    argv += ["-smp", str(instance.cpus), "-m", f"{max(1, instance.memory // MIB)}M"]
    bios = firmware(instance.arch)
    if bios:
        argv += ["-bios", bios]
    for name, fd in fds.items():
        argv += ["-add-fd", f"fd={fd},set={sets[name]},opaque={name}"]
    argv += [
        *_file("base", sets["base"], read_only=True),
        *_node("base", "qcow2", read_only=True),
        *_file("disk", sets["disk"]),
        *_node("disk", "qcow2", extra="backing=base,discard=unmap"),
        *_file("seed", sets["seed"], read_only=True),
        *_node("seed", "raw", read_only=True),
    ]
    argv += ["-device", "virtio-blk-pci,drive=disk,bootindex=1", "-device", "virtio-blk-pci,drive=seed"]
    forwards = [f"hostfwd=tcp:127.0.0.1:{instance.ssh_port}-:22"] + [
        f"hostfwd={forward_rule(port)}" for port in instance.ports
    ]
    argv += ["-netdev", ",".join(["user", "id=net0", *forwards])]
    argv += ["-device", f"virtio-net-pci,netdev=net0,mac={instance.nics[0].mac}"]
    argv += ["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"]
    argv += ["-chardev", f"file,id=console,path=/dev/fdset/{sets['console']},append=on", "-serial", "chardev:console"]
    argv += ["-chardev", f"socket,id=monitor,fd={monitor_fd},server=on,wait=off"]
    argv += ["-mon", "chardev=monitor,mode=control"]
    return argv


def forward_rule(port: t.Any) -> str:
    """A port forward in the words of QEMU's user-mode network."""
    return f"{port.protocol}:{port.host_ip}:{port.host_port}-:{port.guest_port}"


def forwards(usernet: str) -> list[PortForward]:
    """The port forwards in what QEMU's monitor answers to `info usernet`."""
    found = []
    for line in usernet.splitlines():
        fields = line.split()
        if fields and fields[0] in ("TCP[HOST_FORWARD]", "UDP[HOST_FORWARD]"):
            ip = "0.0.0.0" if fields[2] == "*" else fields[2]
            found.append(PortForward(ip, int(fields[3]), int(fields[5]), fields[0][:3].lower()))
    return found


def _file(name: str, fdset: int, read_only: bool = False) -> list[str]:
    options = "read-only=on,auto-read-only=off" if read_only else "discard=unmap"
    return ["-blockdev", f"driver=file,filename=/dev/fdset/{fdset},node-name={name}-file,{options}"]


def _node(name: str, driver: str, read_only: bool = False, extra: str = "") -> list[str]:
    options = [f"driver={driver},file={name}-file,node-name={name}"]
    options += ["read-only=on"] if read_only else []
    options += [extra] if extra else []
    return ["-blockdev", ",".join(options)]
