# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What the QEMU driver does to an instance: its disk, its ports, its process. See qemu.py."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import signal
import socket
import sys
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu import CONSOLE, LOCK, LOG, QemuDriver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qmp import Qmp, short_path
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InUse,
    InvalidOption,
    MissingRequirement,
    NotSupported,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    Image,
    Instance,
    PortForward,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import (
    explained,
    make_dir,
    remove_path,
    write_file,
)

_DISK, _SEED, _NVRAM = "disk.qcow2", "seed.iso", "nvram.fd"
_PID, _MONITOR = "qemu.pid", "monitor.sock"

# Earlier consoles that are kept.
_KEPT_CONSOLES = 3

# Whom QEMU runs as when root starts it, first that exists.
_USERS = ("minicloud", "libvirt-qemu", "qemu", "nobody")

_LAUNCHER = 'umask 077 && echo $$ > qemu.pid && exec "$@" < /dev/null > qemu.log 2>&1'


if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_machine import Accelerator


class QemuActions:
    """The methods of QemuDriver that change something; see Driver."""

    def __init__(self, driver: QemuDriver) -> None:
        self.driver = driver
        self.runtime = driver.runtime
        self.scope = driver.scope
        self.options = driver.options

    def probe(self) -> dict[str, str]:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers import qemu_machine

        arch = qemu_machine.host_arch()
        accelerator = self._require(arch)
        program = qemu_machine.emulator(arch)
        told = self.runtime.check([program, "--version"], f"{program} does not run")
        found = {
            "version": qemu_machine.version(told),
            "accelerator": accelerator.name,
            "accelerator_reason": accelerator.reason,
            "program": program,
        }
        identity = self._identity()
        if identity.switch:
            import pwd

            found["run_as"] = pwd.getpwuid(identity.uid).pw_name
        return found

    def require(self, arch: str, firmware: str = "") -> None:
        self._require(arch, firmware)

    def _require(self, arch: str, firmware: str = "") -> Accelerator:
        """What require() does; the accelerator that an instance of this architecture gets."""
        from ansible_collections.minicloud.local.plugins.module_utils._drivers import qemu_machine

        if not sys.platform.startswith("linux"):
            raise NotSupported(f"the driver qemu does not run on {platform.system()}", hint="It runs on Linux.")
        qemu_machine.emulator(arch)
        qemu_machine.firmware(arch, firmware)
        self.runtime.program("qemu-img", "qemu-utils", "to make disks")
        self.runtime.program("setsid", "util-linux", "to start QEMU in the background")
        wanted = str(self.options.get("accelerator") or "auto")
        if wanted not in qemu_machine.ACCELERATORS:
            raise InvalidOption(
                f"driver_options.accelerator {wanted!r} is not known",
                hint=f"Choose one of: {', '.join(qemu_machine.ACCELERATORS)}.",
            )
        identity = self._identity()
        if identity.switch:
            _setpriv(self.runtime)
        return qemu_machine.choose_accelerator(wanted, arch, identity.uid, identity.groups)

    def create(self, instance: Instance, image: Image, seed: t.Mapping[str, bytes]) -> None:
        from ansible_collections.minicloud.local.plugins.module_utils._guest.iso9660 import iso_image

        directory = make_dir(self.scope.directory(instance.name))
        disk = os.path.join(directory, _DISK)
        remove_path(disk)
        self.runtime.report.step("overlay")
        argv = [self._qemu_img(), "create", "-q", "-f", "qcow2", "-b", image.path, "-F", image.format]
        self.runtime.check([*argv, disk, str(instance.disk)], f"the disk of {instance.name} could not be made")
        with explained(f"{disk} could not be made private"):
            os.chmod(disk, 0o600)
        remove_path(os.path.join(directory, _NVRAM))
        self._firmware(instance)
        self.runtime.report.step("seed")
        write_file(os.path.join(directory, _SEED), iso_image(seed, "cidata"))

    def _firmware(self, instance: Instance) -> str:
        """The code of the UEFI firmware that an instance needs (empty: none), and variables of its own beside it."""
        from ansible_collections.minicloud.local.plugins.module_utils._drivers import qemu_machine

        firmware = qemu_machine.firmware(instance.arch, instance.image.get("firmware", ""))
        if firmware is None:
            return ""
        nvram = self.driver.path(instance, _NVRAM)
        if not os.path.exists(nvram):
            self.runtime.report.step("nvram")
            _copy_sparse(firmware.variables, nvram)
        return firmware.code

    def export_disk(self, instance: Instance, target: str, format_: str) -> None:
        argv = [self._qemu_img(), "convert", "-f", "qcow2", "-O", format_, "-W", "-m", "8"]
        argv += ["-o", "compat=1.1"] if format_ == "qcow2" else []
        argv += [self.driver.path(instance, _DISK), target]
        self.runtime.check(argv, f"the disk of {instance.name} could not be copied")

    def grow_disk(self, instance: Instance) -> None:
        argv = [self._qemu_img(), "resize", "-q", "-f", "qcow2", self.driver.path(instance, _DISK), str(instance.disk)]
        self.runtime.check(argv, f"the disk of {instance.name} could not be grown")

    def choose_ports(self, instance: Instance, held: t.Sequence[PortForward] | None = None) -> None:
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet import ports as host_ports

        others = [other for other in self.scope.instances()[0] if other.uuid != instance.uuid]
        reserved = {other.ssh_port for other in others}
        reserved.update(port.host_port for other in others for port in other.ports)
        asked = {port.host_port for port in instance.ports if port.host_port}
        ours = {(port.host_port, port.protocol) for port in held or ()}
        chosen, picked = [], []
        for port in instance.ports:
            asked_for = port.host_port and port.host_port not in instance.chosen_ports
            kept = (port.host_port, port.protocol) in ours or (port.host_port and self._is_free(port, host_ports))
            if not kept and asked_for:
                holder = host_ports.holder(port.host_port, port.protocol)
                raise InUse(
                    f"port {port.host_port}/{port.protocol} of {port.host_ip} is taken",
                    f"{holder} listens on it" if holder else "another process of this host listens on it",
                    "Choose another host port, or end what holds it.",
                    port=port.host_port,
                )
            if not kept:  # nobody asked for this very port: another one does as well
                with _usable(port):
                    port = port._replace(host_port=host_ports.choose(port.host_ip, port.protocol, reserved | asked))
                asked.add(port.host_port)
                picked.append(port.host_port)
            chosen.append(port)
        instance.ports = chosen
        ours_still = {port.host_port for port in chosen} & set(instance.chosen_ports)
        instance.chosen_ports = sorted({*ours_still, *picked})
        ssh = instance.ssh_port
        if held is not None:
            return
        if not ssh or ssh in asked or ssh in reserved or not host_ports.is_free("127.0.0.1", ssh):
            instance.ssh_port = host_ports.choose("127.0.0.1", "tcp", reserved | asked)

    def _is_free(self, port: PortForward, host_ports: t.Any) -> bool:
        with _usable(port):
            return bool(host_ports.is_free(port.host_ip, port.host_port, port.protocol))

    def start(self, instance: Instance) -> None:
        directory = self.scope.directory(instance.name)
        lock = self._take_run_lock(instance)
        handles = [lock]
        try:
            for name in (_PID, LOG, _MONITOR):
                remove_path(os.path.join(directory, name))
            self._rotate_console(instance)
            self._spawn(instance, directory, handles)
        finally:
            for handle in handles:
                os.close(handle)
        self._await_monitor(instance)

    def _spawn(self, instance: Instance, directory: str, handles: list[int]) -> None:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers import qemu_machine

        program = qemu_machine.emulator(instance.arch)
        identity = self._identity()
        accelerator = qemu_machine.choose_accelerator(
            str(self.options.get("accelerator") or "auto"), instance.arch, identity.uid, identity.groups
        )
        if accelerator.reason:
            self.runtime.report.warn(
                f"{instance.name} runs under emulation (tcg), which is several times slower: {accelerator.reason}."
            )
        files = [
            ("base", instance.image["path"], os.O_RDONLY),
            ("disk", os.path.join(directory, _DISK), os.O_RDWR),
            ("seed", os.path.join(directory, _SEED), os.O_RDONLY),
            ("console", os.path.join(directory, CONSOLE), os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        ]
        code = self._firmware(instance)
        if code:
            files += [("code", code, os.O_RDONLY), ("nvram", os.path.join(directory, _NVRAM), os.O_RDWR)]
        fds: dict[str, int] = {}
        with explained(f"the files of {instance.name} could not be opened"):
            for name, path, flags in files:
                fds[name] = os.open(path, flags | os.O_CLOEXEC, 0o600)
                handles.append(fds[name])
            # QEMU gets the socket listening: whoever connects from now on waits for QEMU, or learns that it is gone.
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            monitor = os.path.join(directory, _MONITOR)
            with listener, short_path(monitor) as address:
                listener.bind(address)
                os.chmod(monitor, 0o600)
                listener.listen(8)
                handles.append(os.dup(listener.fileno()))
        argv = ["setsid", "--fork", "sh", "-c", _LAUNCHER, "sh", *identity.prefix(self, instance), program]
        argv += qemu_machine.command_line(instance, accelerator, fds, handles[-1])
        self.runtime.report.step("spawn")
        self.runtime.check(argv, f"QEMU could not be started for {instance.name}", cwd=directory, pass_fds=handles)
        self.runtime.report.step("spawned")

    def _take_run_lock(self, instance: Instance) -> int:
        with explained(f"the lock of {instance.name} could not be opened"):
            handle = os.open(self.driver.path(instance, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for dummy in Deadline(2).pauses():
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return handle
            except BlockingIOError:  # somebody looks at it, which takes no time, or QEMU runs
                pass
        os.close(handle)
        raise HypervisorError(f"{instance.name} cannot be started", "a QEMU of this instance runs already")

    def _await_monitor(self, instance: Instance) -> None:
        try:
            with Qmp(self.driver.path(instance, _MONITOR)) as qmp:
                qmp.execute("query-status")
        except socket.timeout as exc:
            raise HypervisorError(
                f"QEMU was started for {instance.name} but does not answer on its monitor", self.driver.log(instance)
            ) from exc
        except (OSError, ValueError) as exc:
            reason = self.driver.log(instance) or "it ended at once and said nothing"
            raise HypervisorError(
                f"QEMU could not start {instance.name}", reason, hypervisor_log=self.driver.log(instance)
            ) from exc

    def forwards(self, instance: Instance) -> list[PortForward]:
        with self._monitor(instance) as qmp:
            return _forwards(qmp, instance)

    def forward_ports(self, instance: Instance, before: t.Sequence[PortForward]) -> None:
        with self._monitor(instance) as qmp:
            try:
                _replace_forwards(qmp, before, instance.ports)
            except HypervisorError:
                # All or nothing: what there was is put back.
                with contextlib.suppress(HypervisorError):
                    _replace_forwards(qmp, _forwards(qmp, instance), before)
                raise

    def stop(self, instance: Instance, deadline: Deadline, force: bool) -> None:
        if force:
            self._end(instance)
            return
        with contextlib.suppress(ConnectionError, FileNotFoundError):  # it has just ended by itself
            with self._monitor(instance) as qmp:
                while not deadline.expired():
                    # A guest that is still booting does not hear the button: press it again from time to time.
                    qmp.execute("system_powerdown")
                    if qmp.wait_closed(min(10.0, deadline.left())):
                        break
        if not self._ended(instance, 2):
            raise HypervisorError(
                f"{instance.name} did not shut down within {deadline.seconds:g} seconds",
                "the guest does not react to the power button, or takes longer",
                "Use a longer timeout, or force: true, which is like pulling the plug.",
            )

    def delete(self, instance: Instance) -> None:
        self._end(instance)

    def _qemu_img(self) -> str:
        return self.runtime.program("qemu-img", "qemu-utils", "to make disks")

    def _identity(self) -> Identity:
        return identity_for(str(self.options.get("run_as") or ""))

    @contextlib.contextmanager
    def _monitor(self, instance: Instance) -> t.Iterator[Qmp]:
        try:
            with Qmp(self.driver.path(instance, _MONITOR)) as qmp:
                yield qmp
        except socket.timeout as exc:
            raise HypervisorError(
                f"QEMU of {instance.name} does not answer on its monitor", hint="Use force: true to end it."
            ) from exc

    def _end(self, instance: Instance) -> None:
        """End QEMU whatever it does, and return when it is gone."""
        if not self.driver.alive(instance):
            return
        with contextlib.suppress(OSError, ValueError, HypervisorError):
            with Qmp(self.driver.path(instance, _MONITOR), timeout=2) as qmp:
                qmp.execute("quit")
        if self._ended(instance, 3):
            return
        for dummy in Deadline(10).pauses():
            # The lock is held, so the process that wrote this file is the one that holds it, or is about to.
            with contextlib.suppress(OSError, ValueError):
                with open(self.driver.path(instance, _PID), encoding="ascii") as stream:
                    os.kill(int(stream.read()), signal.SIGKILL)
            if not self.driver.alive(instance):
                return
        raise HypervisorError(f"QEMU of {instance.name} could not be ended", "it survives even SIGKILL")

    def _ended(self, instance: Instance, seconds: float) -> bool:
        for dummy in Deadline(seconds).pauses(first=0.005, longest=0.1):
            if not self.driver.alive(instance):
                return True
        return False

    def _rotate_console(self, instance: Instance) -> None:
        current = self.driver.path(instance, CONSOLE)
        try:
            if os.path.getsize(current) == 0:
                return
        except OSError:
            return
        for number in range(_KEPT_CONSOLES, 0, -1):
            older = f"{current}.{number}"
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{current}.{number - 1}" if number > 1 else current, older)


def _copy_sparse(source: str, target: str) -> None:
    """Put a copy of a file in place whole; what is zero in it takes no space."""
    temporary = f"{target}.{os.getpid()}.tmp"
    with explained(f"{target} could not be made"):
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(source, "rb") as old, open(handle, "wb") as new:
                for block in iter(lambda: old.read(1 << 16), b""):
                    if block.count(0) == len(block):
                        new.seek(len(block), os.SEEK_CUR)
                    else:
                        new.write(block)
                new.truncate()
            os.rename(temporary, target)
        except BaseException:
            remove_path(temporary)
            raise


@contextlib.contextmanager
def _usable(port: PortForward) -> t.Iterator[None]:
    """Say why a port of the host cannot be forwarded, if that is not because it is taken."""
    try:
        yield
    except PermissionError as exc:
        raise MissingRequirement(
            f"port {port.host_port} cannot be forwarded",
            "ports below 1024 belong to root",
            "Choose a host port from 1024 on, or run as root.",
        ) from exc
    except OSError as exc:
        raise InvalidOption(
            f"port {port} cannot be forwarded",
            f"{port.host_ip} is not an address of this host ({exc.strerror})",
            "Use an address that it has, such as 127.0.0.1, or 0.0.0.0 for all of them.",
        ) from exc


def _forwards(qmp: Qmp, instance: Instance) -> list[PortForward]:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers import qemu_machine

    found = qemu_machine.forwards(qmp.monitor("info usernet"))
    return [port for port in found if (port.host_port, port.guest_port) != (instance.ssh_port, 22)]


def _replace_forwards(qmp: Qmp, before: t.Sequence[PortForward], after: t.Sequence[PortForward]) -> None:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers import qemu_machine

    for port in before:
        if port not in after:
            qmp.monitor(f"hostfwd_remove net0 {port.protocol}:{port.host_ip}:{port.host_port}")
    for port in after:
        if port not in before:
            answer = qmp.monitor(f"hostfwd_add net0 {qemu_machine.forward_rule(port)}")
            if answer:
                why = answer
                if port.host_port < 1024:
                    why = f"{answer} (a running QEMU may not take ports below 1024; stop the instance first)"
                raise HypervisorError(f"port {port} could not be forwarded", why)


def _setpriv(runtime: Runtime) -> str:
    return runtime.program("setpriv", "util-linux", "to run QEMU without root's rights")


class Identity(t.NamedTuple):
    """Whom QEMU runs as. switch -- whether that is somebody else than the user of this run."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    switch: bool

    def prefix(self, actions: QemuActions, instance: Instance) -> list[str]:
        """The command that becomes this user and then runs what follows it."""
        if not self.switch:
            return []
        argv = [_setpriv(actions.runtime)]
        argv += [f"--reuid={self.uid}", f"--regid={self.gid}", "--no-new-privs"]
        argv += [f"--groups={','.join(map(str, self.groups))}"] if self.groups else ["--clear-groups"]
        if any(port.host_port < 1024 for port in instance.ports):
            kept = "-all,+net_bind_service"
            return [*argv, f"--bounding-set={kept}", f"--inh-caps={kept}", f"--ambient-caps={kept}"]
        return [*argv, "--bounding-set=-all", "--inh-caps=-all"]


def identity_for(run_as: str) -> Identity:
    """Whom QEMU runs as: the user of this run, or when that is root an unprivileged one."""
    if os.geteuid() != 0:
        return Identity(os.geteuid(), os.getegid(), tuple(os.getgroups()), False)
    import pwd

    for name in (run_as,) if run_as else _USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            break
        # Access to /dev/kvm is a matter of its group.
        groups: tuple[int, ...] = ()
        with contextlib.suppress(OSError):
            groups = (os.stat("/dev/kvm").st_gid,)
        return Identity(entry.pw_uid, entry.pw_gid, groups if groups != (0,) else (), True)
    raise InvalidOption(
        f"driver_options.run_as {run_as or 'nobody'!r} is not an unprivileged user of this host",
        hint="QEMU never runs as root: name a user that exists, or create one.",
    )
