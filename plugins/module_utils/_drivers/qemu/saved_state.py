# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What a machine of QEMU is doing, saved in a file: its memory, and the state of its devices.

QEMU checks little of what it loads: other interfaces, or others' addresses, it takes without a word. So what the
machine was like is kept beside the file, and compared before anything is started.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.look import MEMORY, SAVED, QemuLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.layers import (
    sync_directory,
    sync_file,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.qmp import Qmp
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, NoSpace
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._host import processes
from ansible_collections.minicloud.local.plugins.module_utils._model import LINES, NUMBER, TEXT, Instance, RecordKind
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline
from ansible_collections.minicloud.local.plugins.module_utils._scope import read_record, write_record
from ansible_collections.minicloud.local.plugins.module_utils._writing import made_anew, remove_path

# Seconds for saving memory, and for loading it.
_PATIENCE = 900.0
# And for giving up to save it. How a migration can stand that goes no further, in QEMU's words.
_GIVING_UP, _AT_REST = 60.0, ("none", "completed", "failed", "cancelled")

# QEMU saves with 128 MiB a second unless told otherwise, which is for networks.
_BANDWIDTH = 1 << 40

# Where less is left, a failure is for want of space.
_ROOM = 32 << 20

# Arguments of QEMU that make the machine what its guest sees.
_SHAPING = ("-machine", "-accel", "-cpu", "-smp", "-m", "-device", "-object")
# What the parts of them are called that go with the process, not with the machine: numbers of open files.
_PASSING = re.compile(r"fd=\d+")


_KIND = RecordKind(
    "what a suspended instance was doing",
    1,
    {
        "machine": TEXT._replace(required=True),
        "version": TEXT._replace(required=True),
        "processor": TEXT._replace(required=True),
        "shape": LINES._replace(required=True),
        "memory": NUMBER._replace(required=True),
    },
)


class Origin(t.NamedTuple):
    """The machine that memory was saved of.

    machine -- its exact type, such as pc-q35-7.2; version -- of QEMU, such as 7.2
    processor -- of the host, as far as the guest's depends on it; empty where it was emulated
    shape -- the arguments of QEMU that the guest sees something of, each with its option
    """

    machine: str
    version: str
    processor: str
    shape: tuple[str, ...]


def origin_of(qmp: Qmp, pid: int) -> Origin:
    """What a running QEMU is like. pid -- of its process. HypervisorError where it does not tell."""
    told = qmp.execute("query-version")["qemu"]
    type_ = str(qmp.execute("qom-get", path="/machine", property="type"))
    argv = [each.decode(errors="surrogateescape") for each in processes.arguments_of(pid)[1:]]
    if not argv:
        raise HypervisorError("how QEMU was started is not known", f"its process {pid} cannot be looked at")
    version = f"{told['major']}.{told['minor']}"
    return Origin(type_.partition("-machine")[0], version, processor_of(argv), shape_of(argv))


def planned_origin(argv: t.Sequence[str], version: str, machine: str) -> Origin:
    """What a QEMU would be like. version -- as it tells it; machine -- the exact type that it is given"""
    return Origin(machine, ".".join(re.findall(r"\d+", version)[:2]), processor_of(argv), shape_of(argv))


def shape_of(argv: t.Sequence[str]) -> tuple[str, ...]:
    """The arguments of QEMU that make the machine what its guest sees, each with its option."""
    found = []
    for option, value in zip(argv, argv[1:]):
        if option in _SHAPING:
            if option == "-accel":
                value = value.partition(",")[0]
            elif option == "-machine":
                # Which type it is exactly, is told apart.
                value = ",".join(["", *value.split(",")[1:]])
            found.append(f"{option} {_PASSING.sub('fd', value)}")
    return tuple(found)


def processor_of(argv: t.Sequence[str]) -> str:
    """What of the host's processor the guest has; empty under emulation."""
    accelerator = next((value for option, value in zip(argv, argv[1:]) if option == "-accel"), "")
    if accelerator.startswith("tcg"):
        return ""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
        parts = [line.partition(":") for line in stream.read(1 << 16).split("\n\n")[0].splitlines()]
        fields = {name.strip(): value.strip() for name, dummy, value in parts}
        features = fields.get("flags") or fields.get("Features") or ""
        digest = hashlib.sha256(" ".join(sorted(features.split())).encode()).hexdigest()[:16]
        return f"{fields.get('model name') or fields.get('CPU part') or 'processor'} {digest}"
    return ""


def why_not_loaded(saved: Origin, now: Origin) -> str:
    """Why memory that was saved of one machine cannot be loaded into another, as a clause; empty where it can."""
    if saved.version != now.version:
        return f"it was saved by QEMU {saved.version}, and this is {now.version}"
    if saved.machine != now.machine:
        return f"it was saved of a machine of the type {saved.machine}, and this is {now.machine}"
    if saved.processor != now.processor:
        before, after = saved.processor or "an emulated one", now.processor or "an emulated one"
        return f"the processor is another: {after} instead of {before}"
    gone = [part for part in saved.shape if part not in now.shape]
    new = [part for part in now.shape if part not in saved.shape]
    if gone or new:
        told = [*(f"without {part}" for part in gone), *(f"with {part}" for part in new)]
        return f"the machine is another: it would be started {', '.join(told)}"
    if saved.shape != now.shape:
        return "the devices of the machine are in another order"
    return ""


def save(qmp: Qmp, path: str, doing: str) -> int:
    """Write what a stopped machine is doing to a file that is whole on the disk then; its bytes.

    The machine stays stopped, and goes on with `cont`. doing -- what fails, as a clause. NoSpace, HypervisorError: no
    file is left.
    """
    temporary = f"{path}.new"
    size = save_unsynced(qmp, temporary, doing)
    put_in_place(temporary, path, doing)
    return size


def save_unsynced(qmp: Qmp, path: str, doing: str) -> int:
    """The same as save(), into a file that a power cut may still take: put_in_place() is to follow."""
    try:
        with explained(doing):
            descriptor = made_anew(path, 0o600)
        try:
            qmp.hand_over("saved-memory", descriptor)
            qmp.execute("migrate-set-parameters", **{"max-bandwidth": _BANDWIDTH})
            qmp.execute("migrate", uri="fd:saved-memory")
            _await_saved(qmp, path, doing)
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            remove_path(path)
        raise


def put_in_place(temporary: str, path: str, doing: str) -> None:
    """Have a file that save_unsynced() wrote be whole on the disk, as PATH. NoSpace: no file is left."""
    try:
        with explained(doing):
            sync_file(temporary)
            os.rename(temporary, path)
            sync_directory(os.path.dirname(path))
    except BaseException:
        with contextlib.suppress(OSError):
            remove_path(temporary)
        raise


def _await_saved(qmp: Qmp, path: str, doing: str) -> None:
    told: dict[str, t.Any] = {}
    for dummy in Deadline(_PATIENCE).pauses(first=0.005, longest=0.2):
        told = qmp.execute("query-migrate")
        if told.get("status") == "completed":
            return
        if told.get("status") in ("failed", "cancelled"):
            break
    else:
        with contextlib.suppress(HypervisorError):
            qmp.execute("migrate_cancel")
    why = str(told.get("error-desc") or f"QEMU tells the status {told.get('status', 'unknown')}")
    room = os.statvfs(os.path.dirname(path))
    if room.f_bavail * room.f_frsize < _ROOM:
        raise NoSpace(doing, why, "Free some space on that file system.")
    raise HypervisorError(doing, why)


def stop_saving(qmp: Qmp) -> None:
    """Give up what a run that was killed has begun to save: at the end of that QEMU halts its machine once more."""
    for dummy in Deadline(_GIVING_UP).pauses(first=0.005, longest=0.2):
        status = qmp.execute("query-migrate").get("status", "none")
        if status in _AT_REST:
            return
        if status != "cancelling":
            qmp.execute("migrate_cancel")
    raise HypervisorError("QEMU does not give up saving the memory of its guest")


def await_loaded(qmp: Qmp) -> None:
    """Return when a QEMU that was started with memory to load has done so; it is paused then.

    HypervisorError where it takes too long; OSError where QEMU has ended, as it does when it cannot.
    """
    for dummy in Deadline(_PATIENCE).pauses(first=0.005, longest=0.2):
        if qmp.status() not in ("inmigrate", "prelaunch"):
            return
    raise HypervisorError("QEMU does not come to an end of loading the memory of its guest")


def loading(argv: t.Sequence[str], machine: str, descriptor: int) -> list[str]:
    """The arguments of a QEMU that is to load what was saved of a machine of an exact type, from an open file."""
    found = list(argv)
    at = found.index("-machine") + 1
    found[at] = ",".join([machine, *found[at].split(",")[1:]])
    return [*found, "-incoming", f"fd:{descriptor}"]


def saved_origin(look: QemuLooks, instance: Instance) -> Origin | None:
    """The machine that an instance's saved memory is of; None where nothing is saved."""
    return read_origin(look.path(instance, SAVED), "Drop what is saved: the same task with force: true")


def read_origin(path: str, remedy: str) -> Origin | None:
    """The machine that memory was saved of, as noted in a file; None where that is not there. RecordError."""
    found = read_record(path, _KIND, remedy)
    if found is None:
        return None
    return Origin(found["machine"], found["version"], found["processor"], tuple(found["shape"]))


def note(look: QemuLooks, instance: Instance, origin: Origin, size: int) -> None:
    """Have an instance be suspended. origin -- the machine that its saved memory is of; size -- of that, bytes"""
    write_origin(look.path(instance, SAVED), origin, size)


def write_origin(path: str, origin: Origin, size: int) -> None:
    """Note in a file which machine some memory was saved of. size -- of that, bytes"""
    write_record(path, _KIND, {**origin._asdict(), "shape": list(origin.shape), "memory": size})


def drop(look: QemuLooks, instance: Instance) -> None:
    """Forget what an instance was doing, so that also a power cut does not bring it back."""
    saved = look.path(instance, SAVED)
    if os.path.lexists(saved):
        with explained(f"{saved} could not be removed"):
            remove_path(saved)
            sync_directory(os.path.dirname(saved))
    remove_path(look.path(instance, MEMORY))
