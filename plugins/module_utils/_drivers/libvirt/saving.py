# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What a domain is doing, saved to a file by libvirt: within bounds, and as a definition that fits the files of now."""

from __future__ import annotations

import contextlib
import threading
import typing as t
from xml.etree import ElementTree

from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.domain import NAMESPACE, QEMU_NAMESPACE
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.look import LibvirtLooks
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline

# Seconds for saving memory, and after that for giving up.
PATIENCE, _GIVING_UP = 900.0, 60.0
# Seconds without a word of what is going on.
_SILENCE = 1.0


def save(look: LibvirtLooks, domain: t.Any, act: t.Callable[[], t.Any], what: str, patience: float = PATIENCE) -> None:
    """Do ACT, by which libvirt saves a domain, and tell how far it has come; the domain has ended then.

    what -- is done, for people; patience -- seconds after which it is given up. HypervisorError, or what libvirt
    raises: the domain runs on
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as exc:
            failures.append(exc)

    deadline, library = Deadline(patience), look.library()
    work = threading.Thread(target=run, daemon=True)
    work.start()
    while work.is_alive() and not deadline.expired():
        work.join(min(_SILENCE, deadline.left()))
        with contextlib.suppress(library.libvirtError):
            job = domain.jobStats() if work.is_alive() else {}
            if job.get("memory_total"):
                look.runtime.report.progress(what, job.get("memory_processed", 0), job["memory_total"])
    if work.is_alive():
        with contextlib.suppress(library.libvirtError):
            domain.abortJob()
        work.join(_GIVING_UP)
        # It may have come to its end meanwhile all the same.
        if work.is_alive() or failures:
            raise HypervisorError(
                what,
                f"that was not done within {patience:g} seconds",
                "Look at the load of the host and at the disk where libvirt saves.",
            )
    if failures:
        raise failures[0]


def fitting(saved: str, now: str) -> str:
    """The definition that a saved domain goes on with: what its guest sees as it was, what is behind that as it is now.

    saved -- the XML of what was saved; now -- of the definition that the domain would be started with
    HypervisorError where the guest would see something else.
    """
    ElementTree.register_namespace("minicloud", NAMESPACE)
    ElementTree.register_namespace("qemu", QEMU_NAMESPACE)
    try:
        root, wanted = ElementTree.fromstring(saved), ElementTree.fromstring(now)
    except ElementTree.ParseError as exc:
        raise HypervisorError("what libvirt has saved cannot be read", str(exc)) from exc
    disks = {_target(disk): disk for disk in wanted.iterfind("devices/disk")}
    for disk in root.iterfind("devices/disk"):
        new = disks.get(_target(disk))
        if new is None:
            raise HypervisorError("what was saved has other disks", f"{_target(disk)} is not there any more")
        for tag in ("source", "backingStore"):
            for old in disk.findall(tag):
                disk.remove(old)
            for part in new.findall(tag):
                disk.append(part)
    place = f"{{{QEMU_NAMESPACE}}}commandline"
    old_line, new_line = root.find(place), wanted.find(place)
    if _devices(old_line) != _devices(new_line):
        raise HypervisorError("what was saved has other network interfaces", "they are not what its record says")
    if old_line is not None and new_line is not None:
        # The ports of this host may be others by now.
        root.remove(old_line)
        root.append(new_line)
    return ElementTree.tostring(root, encoding="unicode")


def _target(disk: t.Any) -> str:
    target = disk.find("target")
    return "" if target is None else str(target.get("dev", ""))


def _devices(commandline: t.Any) -> list[str]:
    """The devices that arguments of QEMU add."""
    values = [] if commandline is None else [each.get("value", "") for each in commandline]
    return [value for option, value in zip(values, values[1:]) if option == "-device"]
