# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Folders of the host in machines of QEMU, whoever runs it: virtiofs, plugged in while the guest runs.

Each has a virtiofsd, which a process beside it looks after; see folder_server.py. A machine has ports for them, and
memory that they can reach, from its start.
"""

from __future__ import annotations

import abc
import contextlib
import os
import re
import shlex
import socket
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Mounts
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import FamilyLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.status import short_path
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._guest import sshfs
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import SshAccess, ssh_argv
from ansible_collections.minicloud.local.plugins.module_utils._host import folder_server
from ansible_collections.minicloud.local.plugins.module_utils._host.serving import why_not_served
from ansible_collections.minicloud.local.plugins.module_utils._json import understood
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Mount
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime

_MECHANISM = "virtiofs"

# Where distributions have it: the one in Rust, and the one in C that came with QEMU until version 8.
_PROGRAMS = ("/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/libexec/qemu/virtiofsd")
_TAG_LENGTH = 36
# Seconds: for virtiofsd to listen, for a guest to give a device back, for a connection.
_LISTENING, _UNPLUGGED, _CONNECT = 10.0, 8.0, 15.0
_DEVICE = re.compile(r"mc-([a-z0-9.]+)-([0-9a-f]{16})\Z", re.ASCII)

# In the guest. The device may still be about to appear. It stays until the other end is gone.
_MOUNT = f"""{sshfs.PREAMBLE}case $(kind) in
  '') ;;
  virtiofs)
    # One that is served no longer waits for that.
    s umount -l "$t" > /dev/null 2>&1 < /dev/null &
    n=0
    while [ -n "$(kind)" ] && [ $n -lt 50 ]; do n=$((n + 1)); sleep 0.1; done
    ;;
  *) echo "something else is mounted on $t in the guest: $(kind)" >&2; exit 1 ;;
esac
if [ ! -d "$t" ] && ! mkdir -p "$t" 2> /dev/null; then
  s mkdir -p "$t" && s chown "$(id -u):$(id -g)" "$t" || exit 1
fi
s modprobe virtiofs > /dev/null 2>&1
n=0
until said=$(s mount -t virtiofs -o nosuid,nodev{{read_only}} {{tag}} "$t" 2>&1); do
  n=$((n + 1))
  if [ $n -ge 50 ]; then echo "$said" >&2; exit 1; fi
  sleep 0.1
done
echo "{folder_server.IS_MOUNTED}" >&2
exec cat
"""

# In the guest, once nobody serves the folder any more: nobody else is to wait for that. Who waits already goes on doing
# so until the guest is restarted, as QEMU cannot connect to another virtiofsd.
_LET_GO = f"""{sshfs.PREAMBLE}s umount -l "$t"
"""


def virtiofsd() -> str:
    """The path of virtiofsd on this host; empty where there is none."""
    return next((path for path in _PROGRAMS if os.access(path, os.X_OK)), "")


class Monitor(t.Protocol):
    """The monitor of a machine. HypervisorError, with QEMU's words, where it refuses something."""

    def execute(self, command: str, **arguments: t.Any) -> t.Any:
        """What QEMU answers to a command."""

    def hand_over(self, name: str, descriptor: int) -> None:
        """Give QEMU an open file, which it knows by a name then."""


class FamilyMounts(Mounts):
    """See Mounts. runtime -- for what attaches them

    ports -- of a machine, that folders are plugged into and nothing else
    """

    capabilities = {"native_mounts": ("vm",)}
    blocks_saving = True
    guest_mounts = "virtiofs"
    ports: t.ClassVar[tuple[str, ...]]

    def __init__(self, look: FamilyLooks, runtime: Runtime) -> None:
        self.look = look
        self.runtime = runtime

    @abc.abstractmethod
    def has_ports(self, instance: Instance) -> bool:
        """Whether an instance was started with what plugging folders in takes."""

    @abc.abstractmethod
    def monitor(self, instance: Instance, doing: str) -> contextlib.AbstractContextManager[Monitor]:
        """The monitor of a running instance. HypervisorError where it does not answer. doing -- what cannot be, then"""

    def _directory(self, instance: Instance) -> str:
        return self.look.scope.directory(instance.name)

    def why_not(self, instance: Instance, mount: Mount) -> str:
        why = why_not_served()
        if why:
            return why
        if not virtiofsd():
            return "this host has no virtiofsd: install the package virtiofsd"
        if os.geteuid() != 0:
            return "a user other than root has one id only, and most of a guest's users could make no files"
        if os.path.realpath(mount.source).startswith(("/proc/", "/sys/", "/dev/")):
            return "it is a folder of the host's kernel"
        if instance.owner and not self.has_ports(instance):
            return "the instance was started without ports for folders, which it gets when it is started the next time"
        return ""

    def attach(self, instance: Instance, mount: Mount, access: SshAccess) -> str:
        directory = self._directory(instance)
        self._take_away(instance, mount.target)
        doing = f"{mount.source} could not be mounted in {instance.name}"
        with self.monitor(instance, doing) as qmp:
            port = self._free_port(qmp, doing)
        stem = sshfs.stem_of(mount.target, _MECHANISM)
        device = f"mc-{port}-{stem}"
        tag = f"minicloud-{port}-{stem}"[:_TAG_LENGTH]
        config = {
            "server": self._command(),
            "ssh": ssh_argv(access, f"sh -c {shlex.quote(_script(_MOUNT, mount, tag))}", _CONNECT),
            "let_go": ssh_argv(access, f"sh -c {shlex.quote(_script(_LET_GO, mount, tag))}", _CONNECT),
            "listens": True,
            **self._identities(access, mount),
        }
        try:
            sshfs.start_serving(self.runtime, directory, mount, instance.name, config, _MECHANISM)
            self.runtime.report.step("virtiofsd")
            with self._connection(directory, mount, doing) as handle, self.monitor(instance, doing) as qmp:
                backend = {"addr": {"type": "fd", "data": {"str": device}}, "server": False}
                qmp.hand_over(device, handle)
                qmp.execute("chardev-add", id=device, backend={"type": "socket", "data": backend})
                arguments = {"id": device, "chardev": device, "tag": tag, "bus": port}
                qmp.execute("device_add", driver="vhost-user-fs-pci", **arguments)
            self.runtime.report.step("plugged")
            sshfs.await_mounted(directory, mount, instance.name, _MECHANISM)
        except BaseException:
            with contextlib.suppress(MinicloudError, OSError):
                self._take_away(instance, mount.target)
            raise
        return _MECHANISM

    def _identities(self, access: SshAccess, mount: Mount) -> dict[str, t.Any]:
        """See sshfs. virtiofsd is meant to run as root, as whom it gives and takes its rights by itself."""
        found = sshfs.identities(self.runtime, access, mount)
        for kind in ("uid", "gid"):
            if any(first <= 0 < first + count for first, dummy, count in found[f"{kind}s"]):
                found[kind] = 0
        return found

    def _command(self) -> list[str]:
        program = virtiofsd()
        told = self.runtime.run([program, "--version"])
        place = f"{folder_server.ROOT}{folder_server.FOLDER}"
        if "FUSE kernel" in told.out + told.err:  # the one in C
            return [program, "--fd=3", "-o", f"source={place},cache=auto,sandbox=namespace", "-o", "log_level=err"]
        # It has namespaces already, and would want others of its own where it does not run as root.
        return [program, "--fd=3", f"--shared-dir={place}", "--cache=auto", "--sandbox=chroot", "--log-level=error"]

    @contextlib.contextmanager
    def _connection(self, directory: str, mount: Mount, doing: str) -> t.Iterator[int]:
        """A connection to virtiofsd."""
        path = sshfs.path_of(directory, mount.target, ".sock", _MECHANISM)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as talk:
            for dummy in Deadline(_LISTENING).pauses():
                with contextlib.suppress(OSError), short_path(path) as address:
                    talk.connect(address)
                    break
            else:
                raise HypervisorError(doing, "virtiofsd does not run")
            yield talk.fileno()

    @staticmethod
    def _devices(qmp: Monitor) -> dict[str, str]:
        """The folders that are plugged in: the port by the device's name."""
        names = [str(entry["name"]) for entry in qmp.execute("qom-list", path="/machine/peripheral")]
        return {name: found[1] for name in names for found in [_DEVICE.match(name)] if found}

    def _free_port(self, qmp: Monitor, doing: str) -> str:
        used = self._devices(qmp).values()
        for port in self.ports:
            if port not in used:
                return port
        raise HypervisorError(doing, f"it has {len(self.ports)} folders by virtiofs, and a machine has no more ports")

    def detach(self, instance: Instance, mount: Mount, force: bool) -> None:
        self._take_away(instance, mount.target)

    def _take_away(self, instance: Instance, target: str) -> None:
        """Unplug a folder, and end its server: in this order, or the guest would wait for that.

        A device whose server has ended stays until the machine is started anew: see folder_server.py.
        """
        stem = sshfs.stem_of(target, _MECHANISM)
        doing = f"{target} could not be taken from {instance.name}"
        with self.monitor(instance, doing) as qmp:
            dead = self._dead(qmp)
            for device in [name for name in self._devices(qmp) if name.endswith(stem) and name not in dead]:
                self._unplug(qmp, device, doing)
                with contextlib.suppress(HypervisorError):
                    qmp.execute("chardev-remove", id=device)
        sshfs.stop_serving(self._directory(instance), target, _MECHANISM)

    @staticmethod
    @understood("what QEMU says of its character devices", HypervisorError)
    def _dead(qmp: Monitor) -> set[str]:
        """The devices whose connection to virtiofsd has ended."""
        devices = qmp.execute("query-chardev")
        return {str(each["label"]) for each in devices if str(each["filename"]).startswith("disconnected:")}

    def _unplug(self, qmp: Monitor, device: str, doing: str) -> None:
        qmp.execute("device_del", id=device)
        for dummy in Deadline(_UNPLUGGED).pauses(first=0.02, longest=0.3):
            if device not in self._devices(qmp):
                return
            if device in self._dead(qmp):
                break
        raise HypervisorError(doing, "the guest does not give the device back", "Try again, or restart the instance.")

    def active(self, instances: t.Sequence[Instance]) -> dict[str, dict[str, str]]:
        return {
            instance.uuid: {
                place: _MECHANISM
                for place in map(instance.place_of, instance.mounts)
                if place and sshfs.is_served(self._directory(instance), place, _MECHANISM)
            }
            for instance in instances
        }


def _script(script: str, mount: Mount, tag: str) -> str:
    return script.format(
        target=shlex.quote(mount.target),
        escaped=shlex.quote(sshfs.escaped(mount.target)),
        read_only=",ro" if mount.read_only else "",
        tag=tag,
    )
