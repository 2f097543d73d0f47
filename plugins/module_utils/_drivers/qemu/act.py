# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What the QEMU driver does to an instance: its disk, its ports, its process. See driver.py."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu import live
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.look import LOCK, MEMORY, MONITOR, QemuLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.saved_state import (
    Origin,
    await_loaded,
    drop,
    loading,
    planned_origin,
    saved_origin,
    stop_saving,
    why_not_loaded,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import usernet
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.act import (
    DROPPING,
    FamilyActs,
    Wiring,
    qemu_img,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.consoles import recorded_pipe
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import (
    NVRAM,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.qmp import Qmp
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.status import PAUSES, short_path
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InvalidOption,
    MissingRequirement,
)
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._host.host import this_host
from ansible_collections.minicloud.local.plugins.module_utils._locks import open_lock
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    USER_NETWORK,
    Instance,
    Nic,
    PortForward,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import SEED
from ansible_collections.minicloud.local.plugins.module_utils._writing import remove_path

_PID, _LOG = "qemu.pid", "qemu.log"

# Seconds in which a machine that cannot go on pauses again.
_SECOND_THOUGHTS = 1.0

# Whom QEMU runs as when root starts it. The users that libvirt or others have for QEMU own guests of theirs.
_USER = "minicloud"

# Where there is no such user, QEMU runs as the first of these that is not in use. Neither distributions nor systemd
# give these numbers to anybody, so no file belongs to them.
_SPARE_IDS = range(60578, 61184)

_LAUNCHER = 'umask 077 && echo $$ > qemu.pid && exec "$@" < /dev/null >> qemu.log 2>&1'


if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.machine import Accelerator


class QemuActs(FamilyActs):
    """See Acts."""

    look: QemuLooks

    def probe(self) -> dict[str, str]:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import (
            machine as qemu_machine,
        )

        arch = self.look.host.architecture()
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
            found["run_as"] = _name_of(identity.uid)
        return found

    def require(self, arch: str, firmware: str = "", instance_type: str = "vm") -> None:
        self._require(arch, firmware)

    def _require(self, arch: str, firmware: str = "") -> Accelerator:
        """What require() does; the accelerator that an instance of this architecture gets."""
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import (
            machine as qemu_machine,
        )

        self.look.require_platform()
        qemu_machine.emulator(arch)
        qemu_machine.firmware(arch, firmware)
        qemu_img(self.runtime)
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
        return qemu_machine.choose_accelerator(this_host(), wanted, arch, identity.uid, identity.groups)

    def start(self, instance: Instance) -> None:
        directory = self.scope.directory(instance.name)
        lock = self._take_run_lock(instance)
        descriptors = [lock]
        try:
            saved = saved_origin(self.look, instance)
            for name in (_PID, _LOG, MONITOR, live.HALTED):
                remove_path(os.path.join(directory, name))
            disk = self.prepare_disk(instance)
            if saved is None:
                self.rotate_console(instance)
            self._spawn(instance, directory, disk, descriptors, saved)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._await_monitor(instance)
        if saved is not None:
            self._resume_saved(instance)

    def _resume_saved(self, instance: Instance) -> None:
        """Have a machine run on that QEMU has just loaded, or is about to."""
        try:
            with self.monitor(instance) as qmp:
                self._go_on(instance, qmp)
        except OSError as exc:
            said = self.log(instance)
            raise HypervisorError(
                f"{instance.name} could not be resumed", said or str(exc), DROPPING, hypervisor_log=said.splitlines()
            ) from exc
        self.runtime.report.step("resumed")

    def planned_origin(self, instance: Instance, machine: str) -> Origin:
        """What QEMU would be like if an instance were started now. machine -- the exact type of its machine"""
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import (
            machine as qemu_machine,
        )

        names = ["base", "disk", "seed", "console", *(("code", "nvram") if self.firmware(instance) else ())]
        nics = instance.nics if os.geteuid() == 0 else self.wiring(instance).nics
        argv = qemu_machine.command_line(instance, self._accelerator(instance.arch), dict.fromkeys(names, 0), 0, nics)
        return self._origin(instance, argv, machine)

    def _origin(self, instance: Instance, argv: t.Sequence[str], machine: str) -> Origin:
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import (
            machine as qemu_machine,
        )

        program = qemu_machine.emulator(instance.arch)
        told = self.runtime.check([program, "--version"], f"{program} does not run")
        return planned_origin(argv, qemu_machine.version(told), machine)

    def process_of(self, instance: Instance) -> int:
        """The id of the process that runs an instance. HypervisorError where that is not known."""
        path = self.look.path(instance, _PID)
        try:
            with open(path, encoding="ascii") as stream:
                return int(stream.read(32))
        except (OSError, ValueError) as exc:
            raise HypervisorError(f"the process of {instance.name} is not known", f"{path}: {exc}") from exc

    def _accelerator(self, arch: str) -> Accelerator:
        """What is used for an architecture; see _require()."""
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import (
            machine as qemu_machine,
        )

        identity = self._identity()
        wanted = str(self.options.get("accelerator") or "auto")
        return qemu_machine.choose_accelerator(this_host(), wanted, arch, identity.uid, identity.groups)

    def _spawn(
        self, instance: Instance, directory: str, disk: t.Sequence[str], descriptors: list[int], saved: Origin | None
    ) -> None:
        """disk -- the files that it consists of"""
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import (
            machine as qemu_machine,
        )

        program = qemu_machine.emulator(instance.arch)
        identity = self._identity()
        accelerator = self._accelerator(instance.arch)
        if accelerator.reason:
            self.runtime.report.warn(
                f"{instance.name} runs under emulation (tcg), which is several times slower: {accelerator.reason}."
            )
        files = [
            ("base", disk[-1], os.O_RDONLY),
            *((f"layer{number}", path, os.O_RDONLY) for number, path in enumerate(disk[1:-1], start=1)),
            ("disk", disk[0], os.O_RDWR),
            ("seed", os.path.join(directory, SEED), os.O_RDONLY),
        ]
        code = self.firmware(instance)
        if code:
            files += [("code", code, os.O_RDONLY), ("nvram", os.path.join(directory, NVRAM), os.O_RDWR)]
        fds: dict[str, int] = {}
        with explained(f"the files of {instance.name} could not be opened"):
            for name, path, flags in files:
                fds[name] = os.open(path, flags | os.O_CLOEXEC, 0o600)
                descriptors.append(fds[name])
            fds["console"] = recorded_pipe(self.runtime, instance.name, directory, _LOG)
            descriptors.append(fds["console"])
            # QEMU gets the socket listening: whoever connects from now on waits for QEMU, or learns that it is gone.
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            monitor = os.path.join(directory, MONITOR)
            with listener, short_path(monitor) as address:
                listener.bind(address)
                os.chmod(monitor, 0o600)
                listener.listen(8)
                monitor_fd = os.dup(listener.fileno())
                descriptors.append(monitor_fd)
        nics, backends, isolated = self._connect(instance, directory, descriptors)
        arguments = qemu_machine.command_line(instance, accelerator, fds, monitor_fd, nics, backends, isolated)
        if saved is not None:
            why = why_not_loaded(saved, self._origin(instance, arguments, saved.machine))
            if why:
                raise HypervisorError(f"{instance.name} cannot be resumed", why, DROPPING)
            with explained(f"the memory of {instance.name} could not be opened"):
                descriptors.append(os.open(os.path.join(directory, MEMORY), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
            arguments = loading(arguments, saved.machine, descriptors[-1])
        argv = ["setsid", "--fork", "sh", "-c", _LAUNCHER, "sh", *identity.prefix(self.runtime, instance), program]
        argv += arguments
        self.runtime.report.step("spawn")
        what, title = f"QEMU could not be started for {instance.name}", f"Instance {instance.name} of minicloud.local"
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet.units import unit_name

        # Before the host ends it, it is suspended.
        unit = unit_name(self.scope.data.path)
        this_host().start_background(self.runtime, argv, what, title, unit, cwd=directory, pass_fds=descriptors)
        self.runtime.report.step("spawned")

    def _connect(
        self, instance: Instance, directory: str, descriptors: list[int]
    ) -> tuple[t.Sequence[Nic], dict[str, str], bool]:
        """See command_line: nics, backends, isolated."""
        if os.geteuid() == 0:
            return (
                instance.nics,
                {mac: f"tap,fd={tap}" for mac, tap in self._open_taps(instance, descriptors).items()},
                False,
            )
        wiring = self.wiring(instance)
        if wiring.sockets:
            wiring = self._with_datagrams(instance, wiring)
        if wiring.sockets:
            self.join(instance, descriptors)
        backends = {}
        for mac, paths in wiring.sockets.items():
            # Relative, for a socket's path is short: QEMU works in the instance's directory.
            own, hub = (os.path.relpath(path, directory) for path in paths)
            backends[mac] = f"dgram,local.type=unix,local.path={own},remote.type=unix,remote.path={hub}"
        return wiring.nics, backends, wiring.isolated

    def _with_datagrams(self, instance: Instance, wiring: Wiring) -> Wiring:
        """The wiring if this QEMU is up to it."""
        from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import (
            machine as qemu_machine,
        )

        program = qemu_machine.emulator(instance.arch)
        told = self.runtime.check([program, "--version"], f"{program} does not run")
        if qemu_machine.has_datagrams(told):
            return wiring
        return self.unwired(
            instance, f"without root that takes QEMU 7.2 or newer, and this is {qemu_machine.version(told)}"
        )

    def _open_taps(self, instance: Instance, descriptors: list[int]) -> dict[str, int]:
        """An open tap for each interface that is on a network of this host, by MAC. They end with QEMU."""
        taps: dict[str, int] = {}
        commands = []
        for network, nic in self.attached(instance):
            from ansible_collections.minicloud.local.plugins.module_utils._hostnet import links

            name = links.tap_name(network.interface, nic.mac)
            if network.bridge_type == "macvtap":
                taps[nic.mac] = links.open_macvtap(self.runtime, name, network.interface, nic.mac)
                descriptors.append(taps[nic.mac])
                continue
            taps[nic.mac] = links.open_tap(name)
            descriptors.append(taps[nic.mac])
            mtu = f" mtu {network.mtu}" if network.mtu else ""
            commands.append(f"link set dev {name} master {network.interface} addrgenmode none{mtu} up")
        if commands:
            links.change(self.runtime, commands, f"{instance.name} could not be put on its networks")
            self.runtime.report.step("taps")
        return taps

    def _remove_macvtaps(self, instance: Instance) -> None:
        """Take away those interfaces of an instance that has ended which do not end with QEMU."""
        from ansible_collections.minicloud.local.plugins.module_utils._hostnet import links

        for nic in instance.nics if os.geteuid() == 0 else ():
            network = self.scope.networks.read(nic.network) if nic.network != USER_NETWORK else None
            if network and network.bridge_type == "macvtap":
                links.remove_macvtap(self.runtime, links.tap_name(network.interface, nic.mac))

    def _take_run_lock(self, instance: Instance) -> int:
        with explained(f"the lock of {instance.name} could not be opened"):
            descriptor = open_lock(self.look.path(instance, LOCK))
        for dummy in Deadline(2).pauses():
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:  # somebody looks at it, which takes no time, or QEMU runs
                pass
        os.close(descriptor)
        raise HypervisorError(f"{instance.name} cannot be started", "a QEMU of this instance runs already")

    def _await_monitor(self, instance: Instance) -> None:
        try:
            with Qmp(self.look.path(instance, MONITOR)) as qmp:
                qmp.execute("query-status")
        except socket.timeout as exc:
            raise HypervisorError(
                f"QEMU was started for {instance.name} but does not answer on its monitor", self.log(instance)
            ) from exc
        except (OSError, ValueError) as exc:
            reason = self.log(instance) or "it ended at once and said nothing"
            raise HypervisorError(
                f"QEMU could not start {instance.name}", reason, hypervisor_log=self.log(instance)
            ) from exc

    def forwards(self, instance: Instance) -> list[PortForward]:
        if not self.look.user_mode(instance):
            return self.network_forwards(instance)
        with self.monitor(instance) as qmp:
            return usernet.forwards(qmp.monitor, instance)

    def forward_ports(self, instance: Instance, before: t.Sequence[PortForward]) -> None:
        if not self.look.user_mode(instance):
            self.forward_by_network(instance)
            return
        with self.monitor(instance) as qmp:
            usernet.change_forwards(qmp.monitor, "net0", instance, before)

    def set_link(self, instance: Instance, mac: str, up: bool) -> bool:
        with self.monitor(instance) as qmp:
            for device in qmp.execute("query-rx-filter"):
                if device["main-mac"].lower() == mac.lower():
                    qmp.execute("set_link", name=device["name"], up=up)
                    return True
        return False

    def resume(self, instance: Instance) -> None:
        with self.monitor(instance) as qmp:
            self._go_on(instance, qmp)
            self.runtime.report.step("resumed")
            # Once resumed, QEMU repeats the writes that have failed.
            for dummy in Deadline(_SECOND_THOUGHTS).pauses(first=0.02, longest=0.2):
                status = qmp.status()
                if status in PAUSES and status not in ("paused", "suspended"):
                    raise HypervisorError(
                        f"{instance.name} was resumed and has paused again at once",
                        PAUSES[status],
                        "Free some space where its disk is, and run this again.",
                    )

    def _go_on(self, instance: Instance, qmp: Qmp) -> None:
        status = qmp.status()
        if status == "inmigrate":
            await_loaded(qmp)
            self.runtime.report.step("loaded")
        stop_saving(qmp)
        live.finish(self.look, instance, qmp)
        # From now on the disk is no longer as it was when the memory was saved.
        drop(self.look, instance)
        qmp.execute("system_wakeup" if status == "suspended" else "cont")
        live.forget(self.look, instance)

    def stop(self, instance: Instance, deadline: Deadline, force: bool) -> None:
        if force:
            drop(self.look, instance)
            self.end(instance)
            return
        with contextlib.suppress(ConnectionError, FileNotFoundError):  # it has just ended by itself
            with self.monitor(instance) as qmp:
                while not deadline.expired():
                    # One that is paused hears nothing.
                    if qmp.status() in PAUSES:
                        self._go_on(instance, qmp)
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
        self._remove_macvtaps(instance)

    def remove_machine(self, instance: Instance) -> None:
        self.end(instance)

    def log(self, instance: Instance) -> str:
        try:
            with open(self.look.path(instance, _LOG), encoding="utf-8", errors="replace") as stream:
                return stream.read(16384).strip()
        except OSError:
            return ""

    def _identity(self) -> Identity:
        return identity_for(str(self.options.get("run_as") or ""))

    @contextlib.contextmanager
    def monitor(self, instance: Instance) -> t.Iterator[Qmp]:
        """The monitor of an instance that is up. OSError where nothing answers, HypervisorError where that is slow."""
        try:
            with Qmp(self.look.path(instance, MONITOR)) as qmp:
                yield qmp
        except socket.timeout as exc:
            raise HypervisorError(
                f"QEMU of {instance.name} does not answer on its monitor", hint="Use force: true to end it."
            ) from exc

    def end(self, instance: Instance) -> None:
        """End QEMU whatever it does, and return when it and what it has left of its interfaces are gone."""
        self._end(instance)
        self._remove_macvtaps(instance)

    def _end(self, instance: Instance) -> None:
        if not self.look.alive(instance):
            return
        with contextlib.suppress(OSError, ValueError, HypervisorError):
            with Qmp(self.look.path(instance, MONITOR), timeout=2) as qmp:
                qmp.execute("quit")
        if self._ended(instance, 3):
            return
        for dummy in Deadline(10).pauses():
            # The lock is held, so the process that wrote this file is the one that holds it, or is about to.
            with contextlib.suppress(OSError, ValueError):
                with open(self.look.path(instance, _PID), encoding="ascii") as stream:
                    os.kill(int(stream.read()), signal.SIGKILL)
            if not self.look.alive(instance):
                return
        raise HypervisorError(f"QEMU of {instance.name} could not be ended", "it survives even SIGKILL")

    def _ended(self, instance: Instance, seconds: float) -> bool:
        for dummy in Deadline(seconds).pauses(first=0.005, longest=0.1):
            if not self.look.alive(instance):
                return True
        return False


def _setpriv(runtime: Runtime) -> str:
    return runtime.program("setpriv", "util-linux", "to run QEMU without root's rights")


class Identity(t.NamedTuple):
    """Whom QEMU runs as. switch -- whether that is somebody else than the user of this run."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    switch: bool

    def prefix(self, runtime: Runtime, instance: Instance) -> list[str]:
        """The command that becomes this user and then runs what follows it."""
        if not self.switch:
            return []
        argv = [_setpriv(runtime)]
        argv += [f"--reuid={self.uid}", f"--regid={self.gid}", "--no-new-privs"]
        argv += [f"--groups={','.join(map(str, self.groups))}"] if self.groups else ["--clear-groups"]
        if any(port.host_port < 1024 for port in instance.ports):
            kept = "-all,+net_bind_service"
            return [*argv, f"--bounding-set={kept}", f"--inh-caps={kept}", f"--ambient-caps={kept}"]
        return [*argv, "--bounding-set=-all", "--inh-caps=-all"]


def identity_for(run_as: str) -> Identity:
    """Whom QEMU runs as: the user of this run, or when that is root an unprivileged one, which owns nothing."""
    if os.geteuid() != 0:
        return Identity(os.geteuid(), os.getegid(), tuple(os.getgroups()), False)
    import pwd

    # Access to /dev/kvm is a matter of its group.
    groups: tuple[int, ...] = ()
    with contextlib.suppress(OSError):
        groups = (os.stat("/dev/kvm").st_gid,)
    groups = groups if groups != (0,) else ()
    try:
        entry = pwd.getpwnam(run_as or _USER)
    except KeyError:
        if not run_as:
            number = _spare_id()
            return Identity(number, number, groups, True)
    else:
        if entry.pw_uid != 0:
            return Identity(entry.pw_uid, entry.pw_gid, groups, True)
    raise InvalidOption(
        f"driver_options.run_as {run_as or _USER!r} is not an unprivileged user of this host",
        hint="QEMU never runs as root: name a user that exists, or create one.",
    )


def _spare_id() -> int:
    """The number of a user and of a group that this host does not have, the same as long as it has neither."""
    import grp
    import pwd

    lent = [*_lent("/etc/subuid"), *_lent("/etc/subgid")]
    for number in _SPARE_IDS:
        if not any(number in each for each in lent):
            with contextlib.suppress(KeyError):
                pwd.getpwuid(number)
                continue
            with contextlib.suppress(KeyError):
                grp.getgrgid(number)
                continue
            return number
    raise MissingRequirement(
        "there is no user that QEMU can run as",
        f"the users {_SPARE_IDS[0]} to {_SPARE_IDS[-1]} are all somebody's on this host",
        f"Make a system user {_USER}, as the role minicloud.local.host does, or set driver_options.run_as.",
    )


def _lent(path: str) -> list[range]:
    """The numbers that users may give away, to containers for example. Lines: NAME:FIRST:COUNT."""
    found = []
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            with contextlib.suppress(ValueError):
                dummy, first, count = line.split(":")
                found.append(range(int(first), int(first) + int(count)))
    return found


def _name_of(uid: int) -> str:
    """The name of a user; the number of one that has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
