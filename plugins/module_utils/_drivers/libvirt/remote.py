# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What is different where libvirt is on another host, or reached by the network: see placement.py.

Both hosts share the data directory, under the same path. Files cannot be handed over open by the network, so QEMU opens
them there by itself, as the user whose they are.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
import time
import typing as t
from xml.etree import ElementTree

from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.domain import offers_kvm
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.placement import Placement
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.machine import (
    Accelerator,
    architecture,
)
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InUse,
    MissingRequirement,
    NotSupported,
)
from ansible_collections.minicloud.local.plugins.module_utils._files import (
    explained,
)

# What the pools are called by which libvirt is asked what it sees of the data directory, and the directories of those.
_PROBE = "minicloud-probe-"
# Seconds after which whoever has asked was killed.
_PROBE_OVER = 600


class Elsewhere(Placement):
    """libvirt of another host, or of this one by the network."""

    hands_over_files = False
    sees_ports = False
    # Its files would have to be those of the other host.
    has_firmware = False

    def require(self, arch: str, firmware: str) -> None:
        """Return if libvirt there can run instances of this data directory; else MissingRequirement or NotSupported."""
        if firmware == "uefi" or architecture(arch).needs_uefi:
            needy = "the image" if firmware == "uefi" else arch
            raise NotSupported(
                f"UEFI, which {needy} needs, cannot be had where {self.look.uri!r} leads",
                "its files would have to be those of this host",
                "Run the task on that host itself, with a local URI.",
            )
        self._forwarding_address()
        if self.look.host_capabilities().find(f"guest/arch[@name='{arch}']") is None:
            raise MissingRequirement(
                f"QEMU for {arch} is not installed where {self.look.uri!r} leads",
                "libvirt there cannot run instances of that architecture",
                f"Install the package {architecture(arch).package} there, and restart libvirt.",
            )
        self._require_files()

    def _require_files(self) -> None:
        with self.look.explained("libvirt does not tell on which host it runs"):
            there = self.look.connection().getHostname()
        doing = f"the disks of instances cannot be reached from {there}, where {self.look.uri!r} leads"
        if os.geteuid() == 0:
            raise MissingRequirement(
                doing,
                "they are root's, and QEMU does not run as root there",
                "Run the task as an ordinary user with a data directory that both hosts share (become: false), or on"
                " that host itself, with a local URI.",
            )
        seen, why = self._sees()
        if not seen:
            raise MissingRequirement(
                doing,
                why or f"{self.look.scope.data.path} is another directory there",
                "Let both hosts share the data directory, under the same path and with the same uid of the user, and"
                " use a URI that ends with /session where root there may not read it; or run the task on that host"
                " itself, with a local URI.",
            )

    def _sees(self) -> tuple[bool, str]:
        """Whether libvirt finds in the data directory what was just put there, and else what it said."""
        library, connection = self.look.library(), self.look.connection()
        directory = self.look.scope.data.path
        while not os.path.exists(directory):  # nothing is made for a look
            directory = os.path.dirname(directory)
        self._forget_old(directory)
        # A directory of its own: another pool may have the data directory, and two pools cannot have the same one.
        with explained(f"{directory} cannot be written to"):
            place = tempfile.mkdtemp(prefix=_PROBE, dir=directory)
            name = os.path.basename(place)
            with open(os.path.join(place, name), "xb"):
                pass
        try:
            root = ElementTree.Element("pool", type="dir")
            ElementTree.SubElement(root, "name").text = name
            ElementTree.SubElement(ElementTree.SubElement(root, "target"), "path").text = place
            pool = connection.storagePoolCreateXML(ElementTree.tostring(root, encoding="unicode"))
            try:
                return name in pool.listVolumes(), ""
            finally:
                pool.destroy()
        except library.libvirtError as exc:
            return False, str(exc)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _forget_old(self, directory: str) -> None:
        """Take away what is left of runs that were killed while they asked; it holds nothing."""
        library = self.look.library()
        with contextlib.suppress(OSError):
            for name in os.listdir(directory):
                place = os.path.join(directory, name)
                if name.startswith(_PROBE) and os.stat(place).st_mtime < time.time() - _PROBE_OVER:
                    shutil.rmtree(place, ignore_errors=True)
        with contextlib.suppress(library.libvirtError):
            for pool in self.look.connection().listAllStoragePools(library.VIR_CONNECT_LIST_STORAGE_POOLS_TRANSIENT):
                if pool.name().startswith(_PROBE):
                    path = ElementTree.fromstring(pool.XMLDesc()).findtext("target/path")
                    if path == os.path.join(directory, pool.name()) and not os.path.exists(path):
                        pool.destroy()

    def accelerator(self, wanted: str, arch: str) -> Accelerator:
        """The accelerator to use there for the choice of the user (auto, kvm or tcg)."""
        if wanted == "tcg":
            return Accelerator("tcg")
        with self.look.explained("libvirt does not tell its capabilities"):
            obstacle = self._obstacle_to_kvm(arch)
        if not obstacle:
            return Accelerator("kvm")
        if wanted == "kvm":
            raise MissingRequirement("the accelerator kvm cannot be used", obstacle, "Use auto or tcg.")
        return Accelerator("tcg", obstacle)

    def _obstacle_to_kvm(self, arch: str) -> str:
        there = self.look.connection().getHostname()
        capabilities = self.look.host_capabilities()
        if not offers_kvm(capabilities, arch):
            return f"libvirt on {there} offers no KVM for {arch}"
        cpu = capabilities.find("host/cpu")
        if arch != "x86_64" or cpu is None:
            return ""
        # libvirt lists the features of the CPU's model only when asked to expand it.
        flag = self.look.library().VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
        expanded = self.look.connection().baselineCPU([ElementTree.tostring(cpu, encoding="unicode")], flag)
        if {"vmx", "svm"} & {feature.get("name") for feature in ElementTree.fromstring(expanded).iterfind("feature")}:
            return ""
        return f"libvirt on {there} offers KVM, but the processor has neither vmx nor svm, so it would not work"

    def _forwarding_address(self) -> str:
        """The IPv4 address that instances are reached at by ssh there: the one that this host knows that host by."""
        try:
            found = socket.getaddrinfo(self.look.host.name, None, socket.AF_INET, socket.SOCK_STREAM)
        except OSError as exc:
            raise MissingRequirement(
                f"this host knows no IPv4 address of {self.look.host.name}, where {self.look.uri!r} leads",
                str(exc),
                "Instances are reached by ssh at that address: use a name in the URI that has one, or the address"
                " itself.",
            ) from exc
        return str(found[0][4][0])

    def port_taken(self, name: str, exc: HypervisorError) -> InUse | None:
        """What is said where QEMU could not start there for the sake of a port; None where it was something else."""
        found = re.search(r"'(?:tcp|udp):([0-9.]+):([0-9]+)-[^']*:[0-9]+'", exc.why)
        if found is None:
            return None
        address, port = found[1], int(found[2])
        return InUse(
            f"port {port} of {address} is taken on {self.look.host.name}",
            exc.why,
            f"Choose another host port for {name}, or end what holds it there. Where that host itself has no such"
            " address, because it is reached through another one, use an address that it has.",
            port=port,
        )

    def path(self, path: str) -> str:
        # A symbolic link on this host may be something else on the other.
        return os.path.realpath(path)

    def parts(self) -> dict[str, t.Any]:
        return {
            "open_files": False,
            "ssh_ip": self._forwarding_address(),
            "run_as": (os.geteuid(), os.getegid()) if self.look.is_system() else None,
        }

    def why_alone(self) -> str:
        return f"they are on this host, and the instance is on {self.look.host.name}"

    def kvm_refused(self, exc: HypervisorError) -> str:
        # libvirt offers it all the same.
        if "kvm" not in exc.why.lower() or "permission denied" not in exc.why.lower():
            return ""
        return f"add the user of this task to the group kvm on {self.look.host.name}"
