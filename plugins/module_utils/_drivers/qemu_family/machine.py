# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The virtual machine that QEMU is asked for: accelerator, devices, command line."""

from __future__ import annotations

import json
import os
import re
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.usernet import forward_rule
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption, MissingRequirement
from ansible_collections.minicloud.local.plugins.module_utils._host.host import ThisHost
from ansible_collections.minicloud.local.plugins.module_utils._model import MIB, Instance, Nic
from ansible_collections.minicloud.local.plugins.module_utils._runtime import find_program


class Firmware(t.NamedTuple):
    """The two files of a UEFI firmware: its code, and what its variables are in a new machine."""

    code: str
    variables: str


class Arch(t.NamedTuple):
    """How QEMU emulates an architecture.

    package -- the distribution's, as Debian calls it; firmware_package -- the same for all of them
    needs_uefi -- whether its machines boot with UEFI whatever the image says
    """

    machine: str
    cpu: str
    package: str
    firmware: tuple[Firmware, ...]
    firmware_package: str
    needs_uefi: bool = False


# Where Debian and Ubuntu, Fedora, Arch and SUSE put the firmware, both files raw; the first pair that exists is used.
# x86_64 needs it only for images that do not boot under QEMU's own BIOS.
ARCHITECTURES = {
    "x86_64": Arch(
        "q35",
        "max",
        "qemu-system-x86",
        (
            Firmware("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
            Firmware("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
            Firmware("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
            Firmware("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
            Firmware("/usr/share/qemu/ovmf-x86_64-4m-code.bin", "/usr/share/qemu/ovmf-x86_64-4m-vars.bin"),
            Firmware("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
        ),
        "ovmf (Debian, Ubuntu), edk2-ovmf (Fedora, Arch) or qemu-ovmf-x86_64 (SUSE)",
    ),
    "aarch64": Arch(
        "virt",
        "max",
        "qemu-system-arm",
        (
            Firmware("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
            Firmware(
                "/usr/share/edk2/aarch64/QEMU_EFI-silent-pflash.raw",
                "/usr/share/edk2/aarch64/vars-template-pflash.raw",
            ),
            Firmware("/usr/share/edk2/aarch64/QEMU_CODE.fd", "/usr/share/edk2/aarch64/QEMU_VARS.fd"),
            Firmware("/usr/share/qemu/aavmf-aarch64-code.bin", "/usr/share/qemu/aavmf-aarch64-vars.bin"),
        ),
        "qemu-efi-aarch64 (Debian, Ubuntu), edk2-aarch64 (Fedora, Arch) or qemu-uefi-aarch64 (SUSE)",
        needs_uefi=True,
    ),
}

# Ports of the machine that folders of the host are plugged into while it runs, which nothing else is put on.
FOLDER_PORTS = tuple(f"folder{number}" for number in range(4))

_BASE = {"driver": "qcow2", "read-only": True, "backing": None}

ACCELERATORS = ("auto", "kvm", "tcg", "hvf")


class Accelerator(t.NamedTuple):
    """What runs the guest's instructions, and why it is not something faster (empty: it is the fastest)."""

    name: str
    reason: str = ""


def architecture(arch: str) -> Arch:
    """What is known of an architecture, or InvalidOption."""
    if arch not in ARCHITECTURES:
        raise InvalidOption(f"QEMU is not used for arch {arch!r}", hint=f"Choose one of: {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[arch]


def emulator(arch: str) -> str:
    """The path of the QEMU for an architecture, or MissingRequirement."""
    package = architecture(arch).package
    path = find_program(f"qemu-system-{arch}")
    if path is None:
        raise MissingRequirement(
            f"QEMU for {arch} was not found on this host",
            hint=f"Install the package {package} (Debian, Ubuntu) or qemu-system-{arch.replace('_', '-')} (Fedora),"
            " or run the role minicloud.local.host.",
            missing_program=f"qemu-system-{arch}",
        )
    return path


def version(told: str) -> str:
    """The version in what `qemu-system-… --version` writes; empty where it is not there."""
    found = re.search(r"\bversion (\S+)", told)
    return found[1] if found else ""


def has_datagrams(told: str) -> bool:
    """Whether a QEMU of that version, as `--version` writes it, can have an interface on a datagram socket."""
    numbers = re.findall(r"\d+", version(told))
    return not numbers or [int(number) for number in numbers[:2]] >= [7, 2]


def firmware(arch: str, wanted: str) -> Firmware | None:
    """The firmware of a machine whose image wants `uefi` or nothing; None where QEMU brings it. MissingRequirement."""
    known = ARCHITECTURES[arch]
    if wanted != "uefi" and not known.needs_uefi:
        return None
    for found in known.firmware:
        if os.path.exists(found.code) and os.path.exists(found.variables):
            return found
    raise MissingRequirement(
        f"no UEFI firmware for {arch} was found on this host",
        "machines of this architecture need it" if known.needs_uefi else "the image boots under nothing else",
        f"Install the package {known.firmware_package}.",
    )


def choose_accelerator(host: ThisHost, wanted: str, arch: str, uid: int, groups: t.Container[int]) -> Accelerator:
    """The accelerator to use for the choice of the user (auto, kvm, tcg or hvf); uid and groups are QEMU's.

    auto is the hypervisor of the host's kernel where that really works, else emulation. MissingRequirement if the
    user insists on one that does not work.
    """
    if wanted == "tcg":
        return Accelerator("tcg")
    native = host.accelerator
    if wanted not in ("auto", native):
        raise MissingRequirement(f"the accelerator {wanted} does not exist on {host.system}", hint="Use auto.")
    obstacle = host.obstacle_to_acceleration(arch, uid, groups)
    if not obstacle:
        return Accelerator(native)
    if wanted == native:
        raise MissingRequirement(f"the accelerator {native} cannot be used", obstacle, "Use auto or tcg.")
    return Accelerator("tcg", obstacle)


def command_line(
    instance: Instance,
    accelerator: Accelerator,
    fds: t.Mapping[str, int],
    monitor_fd: int,
    nics: t.Sequence[Nic] = (),
    backends: t.Mapping[str, str] | None = None,
    isolated: bool = False,
) -> list[str]:
    """The arguments of QEMU for an instance, without the program.

    All files are handed over open (fds: base, the layers between it and the disk from the topmost on as layer1,
    layer2 …, disk, seed, console, and for a machine with UEFI code and nvram; monitor_fd: a listening socket), so the
    process needs no right to any file, and no path in its arguments leads anywhere but to the sockets of an ordinary
    user's networks.

    nics -- the interfaces, unless they are those of the record; backends -- what those are on, by MAC, that are not on
    the user-mode network; isolated -- whether this one does not lead out
    """
    arch = ARCHITECTURES[instance.arch]
    sets = {name: number for number, name in enumerate(fds, start=1)}
    argv = ["-name", f"guest={instance.name},debug-threads=off", "-uuid", instance.uuid]
    argv += ["-nodefaults", "-no-user-config", "-display", "none"]
    argv += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    uefi = "code" in fds
    # What serves folders reads and writes the guest's memory.
    argv += ["-machine", f"{arch.machine},memory-backend=memory" + (",pflash0=code,pflash1=nvram" if uefi else "")]
    size = f"{max(1, instance.memory // MIB)}M"
    argv += ["-object", f"memory-backend-memfd,id=memory,size={size},share=on"]
    argv += ["-accel", "tcg,thread=multi,tb-size=512" if accelerator.name == "tcg" else accelerator.name]
    argv += ["-cpu", arch.cpu if accelerator.name == "tcg" else "host"]
    argv += ["-smp", str(instance.cpus), "-m", size]
    for name, fd in fds.items():
        argv += ["-add-fd", f"fd={fd},set={sets[name]},opaque={name}"]
    argv += [
        *_file("base", sets["base"], read_only=True),
        # Only this notation can say that there is nothing below it, whatever its header names.
        *("-blockdev", json.dumps({**_BASE, "file": "base-file", "node-name": "base"})),
    ]
    below = "base"
    for layer in reversed([name for name in fds if name.startswith("layer")]):
        argv += [
            *_file(layer, sets[layer], read_only=True),
            *_node(layer, "qcow2", read_only=True, extra=f"backing={below}"),
        ]
        below = layer
    argv += [
        *_file("disk", sets["disk"]),
        *_node("disk", "qcow2", extra=f"backing={below},discard=unmap"),
        *_file("seed", sets["seed"], read_only=True),
        *_node("seed", "raw", read_only=True),
    ]
    if uefi:
        argv += [
            *_file("code", sets["code"], read_only=True),
            *_node("code", "raw", read_only=True),
            *_file("nvram", sets["nvram"]),
            *_node("nvram", "raw"),
        ]
    argv += ["-device", "virtio-blk-pci,drive=disk,bootindex=1", "-device", "virtio-blk-pci,drive=seed"]
    closed = ["restrict=on"] if isolated else []
    for number, nic in enumerate(nics or instance.nics):
        if backends and nic.mac in backends:
            kind, dummy, options = backends[nic.mac].partition(",")
            argv += ["-netdev", f"{kind},id=net{number},{options}"]
        else:
            forwards = [f"hostfwd=tcp:127.0.0.1:{instance.ssh_port}-:22"] if number == 0 else []
            forwards += [f"hostfwd={forward_rule(port)}" for port in instance.ports] if number == 0 else []
            argv += ["-netdev", ",".join(["user", f"id=net{number}", *closed, *forwards])]
        argv += ["-device", f"virtio-net-pci,netdev=net{number},mac={nic.mac}"]
    argv += ["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"]
    # After all others, which have the addresses that they would have without them.
    for number, port in enumerate(FOLDER_PORTS, start=1):
        argv += ["-device", f"pcie-root-port,id={port},chassis={number}"]
    argv += ["-chardev", f"file,id=console,path=/dev/fdset/{sets['console']},append=on", "-serial", "chardev:console"]
    argv += ["-chardev", f"socket,id=monitor,fd={monitor_fd},server=on,wait=off"]
    argv += ["-mon", "chardev=monitor,mode=control"]
    return argv


def _file(name: str, fdset: int, read_only: bool = False) -> list[str]:
    options = "read-only=on,auto-read-only=off" if read_only else "discard=unmap"
    return ["-blockdev", f"driver=file,filename=/dev/fdset/{fdset},node-name={name}-file,{options}"]


def _node(name: str, driver: str, read_only: bool = False, extra: str = "") -> list[str]:
    options = [f"driver={driver},file={name}-file,node-name={name}"]
    options += ["read-only=on"] if read_only else []
    options += [extra] if extra else []
    return ["-blockdev", ",".join(options)]
