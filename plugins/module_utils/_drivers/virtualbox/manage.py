# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""VBoxManage: finding it, running it within bounds, and what its errors mean."""

from __future__ import annotations

import os
import platform
import re
import time
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox import service
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    CommandFailed,
    HypervisorError,
    InUse,
    MinicloudError,
    MissingRequirement,
    NoSpace,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import (
    Completed,
    Deadline,
    find_program,
    user_name,
)
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime

PROGRAM = "VBoxManage"
# Where it is installed and PATH may not lead: packages of distributions, Oracle's, and macOS.
DIRECTORIES = (
    "/usr/lib/virtualbox",
    "/usr/lib64/virtualbox",
    "/opt/VirtualBox",
    "/Applications/VirtualBox.app/Contents/MacOS",
)
DEVICE = "/dev/vboxdrv"

# Seconds for a look, and for what changes something; what moves a guest's memory or disk has more.
LOOK, ACT, LONG = 60.0, 300.0, 3600.0
# Bytes: a machine is told in 5 KiB.
_OUTPUT = 32 << 20

# The service is about to come, or to go.
_PASSING = re.compile(
    r"Failed to create the VirtualBox object|NS_ERROR_FACTORY_NOT_REGISTERED|NS_ERROR_ABORT|NS_ERROR_CALL_FAILED"
    r"|NS_ERROR_SOCKET_FAIL"
)
# What only looks. While a machine ends, that fails in many words.
_LOOKS = ("showvminfo", "list")
# Who has just used the machine is about to let go of it.
_HELD = re.compile(r"already locked (?:for|by) a session|is already locked|being (?:un)?locked|while it is locked")
_UNKNOWN = re.compile(r"Could not find a registered machine")
_FULL = re.compile(r"VERR_DISK_FULL|No space left|VERR_DISK_QUOTA", re.IGNORECASE)
# What VirtualBox says of the host, and what helps. The last is what says least.
_HOST = (
    (r"VERR_VM_DRIVER_VERSION_MISMATCH|VERR_SUPDRV_.*MISMATCH|-1912\b", "of another version than VirtualBox itself"),
    (r"VERR_VM_DRIVER_NOT_ACCESSIBLE|-1909\b", "not accessible"),
    (r"VERR_VM_DRIVER_NOT_INSTALLED|Kernel driver not installed|-1908\b|VERR_SUP_DRIVERLESS", "not loaded"),
)
_PROCESSOR = re.compile(
    r"VERR_(?:VMX_(?:MSR_)?\w*DISABLED|VMX_NO_VMX|SVM_DISABLED|SVM_NO_SVM)|VT-x is (?:not available|disabled)"
    r"|AMD-V is (?:not available|disabled)"
)
_OTHER_HYPERVISOR = re.compile(r"VERR_VMX_IN_VMX_ROOT_MODE|VERR_SVM_IN_USE|is using VT-x|is being used by another hyp")
_CODE = re.compile(r"error: (?:Context|Details):")
_LOUD = re.compile(r"^(?:WARNING:|0%\.\.\.|Waiting for VM)|^\s*$|^\s+(?:You|and|/sbin|Please)")


class NotRegistered(HypervisorError):
    """VirtualBox does not know the machine."""


class Manage:
    """VBoxManage, for the user of this run."""

    def __init__(self, runtime: Runtime, data: DataDirectory) -> None:
        self.runtime = runtime
        self._data = data
        self._env: dict[str, str] | None = None

    def program(self, name: str = PROGRAM) -> str:
        """The path of one of VirtualBox's programs, empty where it is not there.

        Those of its own directory come first: the one in PATH may be a script around it, which adds words of its own.
        """
        found = find_program(name)
        beside = find_program(PROGRAM)
        directories = [os.path.dirname(os.path.realpath(beside))] if beside else []
        for directory in (*directories, *DIRECTORIES):
            path = os.path.join(directory, name)
            if os.access(path, os.X_OK) and (os.path.exists(os.path.join(directory, service.SERVICE)) or not found):
                return path
        return found or ""

    def require(self) -> str:
        """The path of VBoxManage, or MissingRequirement."""
        path = self.program()
        if path:
            return path
        hint = "Install VirtualBox 7.0 or newer, from its makers or as the package virtualbox."
        if "microsoft" in platform.release().lower():
            hint = "The VirtualBox of Windows cannot be used from here; use the driver qemu or lxd."
        raise MissingRequirement(
            f"the program {PROGRAM} was not found on this host",
            "it is needed to have VirtualBox do anything",
            hint,
            missing_program=PROGRAM,
        )

    def env(self) -> dict[str, str]:
        """What leads to this user's VirtualBox, also after a change of user, and has it take any path."""
        if self._env is None:
            home = os.path.expanduser("~")
            name = user_name()
            utf8 = "en_US.UTF-8" if platform.system() == "Darwin" else "C.UTF-8"
            # Text of errors stays English, and names of files may have any letters.
            self._env = {"LC_ALL": utf8, "LANGUAGE": "C", "LOGNAME": name, "USER": name}
            if os.geteuid() == 0 or not os.environ.get("HOME"):
                self._env["HOME"] = _home(home)
        return self._env

    def listens(self) -> bool:
        """Whether this user's service can be talked to."""
        return service.answers(self._socket())

    def _socket(self) -> str:
        return service.socket_path(self.env()["LOGNAME"])

    def run(self, *words: str, timeout: float = ACT) -> Completed:
        """Have VBoxManage do something, whatever comes of it. HypervisorError where it does not end in time."""
        program = self.require()
        self._have_service()
        for last in (False, False, False, False, True):
            try:
                done = self.runtime.run([program, *words], env=self.env(), timeout=timeout, limit=_OUTPUT)
            except CommandFailed as exc:
                raise self._endless(exc) from exc
            looks = words[0] in _LOOKS and not _UNKNOWN.search(done.err)
            if done.rc == 0 or last or not (looks or _PASSING.search(done.err)):
                return done
            time.sleep(0.5)
            self._have_service()
        raise AssertionError

    def check(self, what: str, *words: str, timeout: float = ACT, patience: float = 10.0) -> str:
        """Have VBoxManage do something that must succeed; what it says. WHAT says what failed if it does not.

        patience -- seconds for whoever has just used the machine to let go of it
        """
        deadline = Deadline(patience)
        while True:
            done = self.run(*words, timeout=timeout)
            if done.rc == 0 and "VBoxManage: error:" not in done.err:
                return done.out
            if not _HELD.search(done.err) or deadline.expired():
                raise self.error(what, done)
            time.sleep(0.1)

    def _have_service(self) -> None:
        if self.listens():
            return
        with self._data.lock("virtualbox-service", Deadline(60), self.runtime.report):
            program = self.program(service.SERVICE)
            if self.listens() or not program:
                return
            service.start(self.runtime, program, self.env(), self._socket())

    def _endless(self, exc: CommandFailed) -> HypervisorError:
        return HypervisorError(
            "VirtualBox does not answer",
            exc.why,
            "See whether its service VBoxSVC hangs; once no machine runs, it can be ended, and comes again by itself.",
            **exc.facts,
        )

    def error(self, what: str, done: Completed) -> MinicloudError:
        """What it means that a call has failed."""
        why = told(done)
        facts: dict[str, t.Any] = {"rc": done.rc, "stderr": done.err[-(64 << 10) :]}
        if _UNKNOWN.search(done.err):
            return NotRegistered(what, why, "It was removed from VirtualBox.", **facts)
        if _FULL.search(why):
            return NoSpace(what, why, "Free some space on that file system, or use another data_dir.", **facts)
        if _HELD.search(why):
            hint = "Close its window and its settings in VirtualBox, or end the program that holds it."
            return InUse(what, why, hint, **facts)
        return obstacle(what, why, facts) or HypervisorError(what, why, **facts)


def told(done: Completed) -> str:
    """What VBoxManage says of a failure, without progress, warnings and where in its code that was."""
    lines = [line for line in done.err.splitlines() if not _LOUD.match(line)]
    errors = [line.partition("error: ")[2] or line for line in lines if not _CODE.search(line)]
    return " ".join(dict.fromkeys(errors)) or f"VBoxManage ended with status {done.rc} and said nothing"


def obstacle(what: str, why: str, facts: t.Mapping[str, t.Any] | None = None) -> MissingRequirement | None:
    """The error for what VirtualBox says of this host: its kernel module, its processor; None where it says no such."""
    for pattern, state in _HOST:
        if re.search(pattern, why):
            return MissingRequirement(what, f"VirtualBox's kernel module is {state}: {why}", remedy(), **(facts or {}))
    if _PROCESSOR.search(why):
        return MissingRequirement(
            what,
            why,
            "Switch on virtualisation (VT-x, AMD-V) in the firmware of this host; in a virtual machine, nested"
            " virtualisation.",
            **(facts or {}),
        )
    if _OTHER_HYPERVISOR.search(why):
        return MissingRequirement(
            what,
            why,
            "Another hypervisor uses the processor's virtualisation: stop its instances, such as those of the driver"
            " qemu, or use VirtualBox 7.2 or newer with a kernel from 6.12 on.",
            **(facts or {}),
        )
    return None


def secure_boot() -> bool:
    """Whether this host loads only signed kernel modules because it was booted that way."""
    directory = "/sys/firmware/efi/efivars"
    try:
        names = [name for name in os.listdir(directory) if name.startswith("SecureBoot-")]
        for name in names:
            with open(os.path.join(directory, name), "rb") as stream:
                return stream.read(16)[-1:] == b"\x01"
    except OSError:
        pass
    return False


def missing_module() -> str:
    """Why machines cannot be run by the processor as far as the kernel module goes, as a clause; empty where they can.

    Only Linux is asked: elsewhere VirtualBox uses what the system has.
    """
    if platform.system() != "Linux":
        return ""
    try:
        os.stat(DEVICE)
    except FileNotFoundError:
        signed = ", and this host was booted with secure boot, which takes signed modules only" if secure_boot() else ""
        return f"the kernel module vboxdrv is not loaded: there is no {DEVICE}{signed}"
    except OSError as exc:
        return f"{DEVICE} cannot be seen: {exc.strerror}"
    return ""


def remedy() -> str:
    """What helps where the kernel module is not as it should be."""
    build = (
        "Install the module for the running kernel (virtualbox-dkms and the kernel's headers on Debian and Ubuntu;"
        " /sbin/vboxconfig of Oracle's package), and load it: modprobe vboxdrv."
    )
    if secure_boot():
        build += " Secure boot refuses unsigned modules: sign it with a key that was enrolled with mokutil."
    return build


def _home(known: str) -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return known
