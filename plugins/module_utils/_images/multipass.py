# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Instances of Multipass, as its data directory has them. It is only read, and only while nothing of Multipass writes.

    multipassd-vm-instances.json                       cpus, memory, disk, MAC addresses, mounts, state of each
    vault/multipassd-instance-image-records.json       from which image each was made, and where its disk is (absolute)
    vault/instances/NAME/                              its disk (qcow2), snapshot-head, NNNN.snapshot.json of each
                                                       snapshot

Paths in there are those of the host that Multipass ran on; only the last part of them counts. Snapshots are internal
ones of the disk, tagged @sNUMBER: each is read out whole, and becomes a layer that has what differs from its parent.
"""

from __future__ import annotations

import os
import re
import typing as t
import uuid

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    ImageError,
    InUse,
    InvalidOption,
    NotFound,
)
from ansible_collections.minicloud.local.plugins.module_utils._files import (
    NotAFile,
    explained,
    read_file,
)
from ansible_collections.minicloud.local.plugins.module_utils._host import processes
from ansible_collections.minicloud.local.plugins.module_utils._images.confined import Layer, QemuImg
from ansible_collections.minicloud.local.plugins.module_utils._images.origin import (
    Brought,
    Description,
    Layered,
    Origin,
    place_disk,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import Vault, file_stamp
from ansible_collections.minicloud.local.plugins.module_utils._json import (
    JsonError,
    parse_json,
    understood,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    BRIDGED_TO,
    DEFAULT_NETWORK,
    MAX_CPUS,
    MAX_SIZE,
    Instance,
    Mount,
    Nic,
    check_name,
    key_of,
    normal_arch,
    parse_size,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir

INSTANCES = "multipassd-vm-instances.json"
_IMAGES = "vault/multipassd-instance-image-records.json"

# Where Multipass keeps its data: as a snap, as a package, on macOS with QEMU and before with Hyperkit.
ROOTS = (
    "/var/snap/multipass/common/data/multipassd",
    "/var/lib/multipass/data/multipassd",
    "/var/root/Library/Application Support/multipassd/qemu",
    "/var/root/Library/Application Support/multipassd",
)
# The same below a copy of such a directory, from its top or from what is above it.
_BELOW = (
    "",
    "qemu",
    "multipassd",
    "multipassd/qemu",
    "data/multipassd",
    "Library/Application Support/multipassd/qemu",
    "Library/Application Support/multipassd",
)

_OFF, _STOPPED, _SUSPENDING, _SUSPENDED = 0, 1, 6, 7
_STATES = ("off", "stopped", "starting", "restarting", "running", "shutting down", "suspending", "suspended", "unknown")

# Bytes of a file, entries of a directory.
_LARGEST, _MOST = 16 << 20, 2000
_SNAPSHOT_FILE = re.compile(r"[0-9]{4,6}\.snapshot\.json")
_MAC = re.compile(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")
_SUSPEND_TAG = "suspend"
# Files in the names of which that is are of 16.04, which starts without UEFI only.
_BIOS_DISK = "disk1.img"
_BIOS_RELEASES = ("16.04", "xenial")

# The user that a mount's ids mean with -1: the first that cloud-init makes.
_DEFAULT_ID = 1000


class MultipassSnapshot(t.NamedTuple):
    """A snapshot, as its file tells. number -- in its tag, @sNUMBER; parent -- that of another, 0 for none"""

    number: int
    parent: int
    name: str
    comment: str
    created: str
    cpus: int
    memory: int
    disk: int


def find_root(given: str) -> str:
    """The directory that has the file of instances. NotFound, which says where it was looked for."""
    places = [os.path.join(given, below) for below in _BELOW] if given else list(ROOTS)
    for place in places:
        path = os.path.normpath(place)
        try:
            if os.path.isfile(os.path.join(path, INSTANCES)):
                return path
        except ValueError:
            break
    raise NotFound(
        "there is no data of Multipass",
        f"{INSTANCES} is neither in {given or ' nor in '.join(ROOTS)}" + (" nor below it" if given else ""),
        "Name the directory that Multipass keeps its data in, or a copy of it, as source_root; usually only root can"
        " read it (become: true).",
    )


def instance_names(root: str) -> list[str]:
    """The names of the instances that Multipass has, also of those that cannot be taken over."""
    return [name for name, spec in sorted(_specs(find_root(root)).items()) if not _is_ghost(spec)]


def _specs(root: str) -> dict[str, dict[str, t.Any]]:
    path = os.path.join(root, INSTANCES)
    found = _read_json(path)
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise _unreadable(path, "it is not what Multipass writes there")
    return found


def _is_ghost(spec: t.Mapping[str, t.Any]) -> bool:
    """Whether a record is one that Multipass leaves behind sometimes: all zero and empty."""
    return not any(
        spec.get(key) not in (0, "0", "", None) for key in ("num_cores", "mem_size", "disk_space", "mac_addr")
    )


def _read_json(path: str) -> t.Any:
    """The content of a file of Multipass; also where an editor has put a byte order mark before it."""
    try:
        content = read_file(path, _LARGEST)
        return parse_json(content[3:] if content.startswith(b"\xef\xbb\xbf") else content, path, _LARGEST, 32)
    except FileNotFoundError as exc:
        raise NotFound(
            f"{path} is missing",
            "Multipass keeps there what it knows of its instances",
            "See whether source_root is right, and the copy whole.",
        ) from exc
    except JsonError as exc:
        raise _unreadable(path, exc.why) from exc
    except NotAFile as exc:
        raise _unreadable(path, str(exc.strerror)) from exc
    except OSError as exc:
        with explained(f"{path} could not be read"):
            raise exc


def _unreadable(path: str, why: str) -> ImageError:
    return ImageError(f"{path} cannot be used", why, "Have Multipass repair it, or restore it; nothing was changed.")


def _number(value: t.Any, most: int) -> int:
    """A whole number, which may be written as text; ValueError where it is none."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 25:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{str(value)[:40]!r} is not a number up to {most}")
    return value


def _size(value: t.Any) -> int:
    """Bytes, as Multipass writes them: as text, and before 1.0 with a unit."""
    try:
        return _number(value, MAX_SIZE)
    except ValueError:
        return _number(parse_size(str(value)[:40], "the size"), MAX_SIZE)


class MultipassOrigin(Origin):
    """One instance of Multipass."""

    def __init__(self, runtime: Runtime, name: str, root: str) -> None:
        self.name = name
        self.root = find_root(root)
        self.directory = os.path.join(self.root, "vault", "instances", name)
        super().__init__(runtime, "")
        self.what = f"the instance {name} of Multipass"
        self._found: Description | None = None
        self._snapshots: list[MultipassSnapshot] = []
        self._head = 0

    def describe(self) -> Description:
        if self._found is None:
            with understood(f"what Multipass knows of {self.name}", ImageError):
                self._found = self._describe()
        return self._found

    def _describe(self) -> Description:
        self._refuse_daemon()
        specs = _specs(self.root)
        spec = next((each for name, each in specs.items() if key_of(name) == key_of(self.name)), None)
        if spec is None or _is_ghost(spec):
            known = ", ".join(sorted(name for name, each in specs.items() if not _is_ghost(each))) or "none"
            raise NotFound(
                f"Multipass has no instance {self.name}",
                "only the empty record of one that is gone" if spec else f"in {self.root}",
                f"It has: {known}.",
            )
        self._refuse_others(spec)
        image, query = self._image()
        self.path = self._disk(image)
        uefi = not (self.path.endswith(_BIOS_DISK) or str(query.get("release")) in _BIOS_RELEASES)
        release = str(image.get("original_release") or query.get("release") or "")[:80]
        self._read_snapshots()
        return Description(
            name=self.name,
            cpus=_number(spec.get("num_cores"), MAX_CPUS),
            memory=_size(spec.get("mem_size")),
            disk=_size(spec.get("disk_space")),
            arch=_arch(spec),
            user=str(spec.get("ssh_username") or "ubuntu"),
            image={
                "name": _printable(release) or f"multipass:{self.name}",
                "os": "ubuntu" if "LTS" in release or not image.get("os") else str(image["os"]).lower()[:40],
                "release": "",
                "version": release.split()[0] if re.match(r"[0-9]{2}\.[0-9]{2}\b", release) else "",
                "firmware": "uefi" if uefi else "",
            },
            nics=_nics(spec),
            mounts=[_mount(each) for each in _list(spec.get("mounts"))],
            snapshots=self._as_ours(),
        )

    # What is refused

    def _refuse_daemon(self) -> None:
        lock = os.path.join(self.root, f"{INSTANCES}.lock")
        running = self._daemon() if os.path.realpath(self.root).startswith(tuple(ROOTS)) else ""
        if running or os.path.lexists(lock):
            raise InUse(
                f"{self.what} cannot be taken over",
                f"{running} runs, and changes its data" if running else f"Multipass is writing: there is {lock}",
                "Stop it first: snap stop multipass, or launchctl unload"
                " /Library/LaunchDaemons/com.canonical.multipassd.plist on macOS; or copy its directory and name the"
                " copy as source_root. Remove a lock that a crash has left.",
            )

    @staticmethod
    def _daemon() -> str:
        found = next((pid for pid in processes.all_ids() if processes.name_of(pid) == "multipassd"), 0)
        return f"multipassd (process {found})" if found else ""

    def _refuse_others(self, spec: t.Mapping[str, t.Any]) -> None:
        what = f"{self.what} cannot be taken over"
        if spec.get("deleted"):
            raise InUse(
                what, "it is deleted", f"Recover it first: multipass recover {self.name}; or leave it.", state="deleted"
            )
        state = _number(spec.get("state", _OFF), len(_STATES) - 1)
        if state in (_SUSPENDING, _SUSPENDED):
            raise InUse(
                what,
                f"it is {_STATES[state]}, and what it was doing can be resumed by Multipass only",
                f"Start and stop it first: multipass start {self.name}, multipass stop {self.name}.",
                state=_STATES[state],
            )
        if state not in (_OFF, _STOPPED):
            raise InUse(
                what,
                f"it is {_STATES[state]}",
                f"Stop it first: multipass stop {self.name}. If the host crashed meanwhile, start and stop it once.",
                state=_STATES[state],
            )

    # What there is

    def _image(self) -> tuple[dict[str, t.Any], dict[str, t.Any]]:
        records = _read_json(os.path.join(self.root, _IMAGES))
        record = next((each for name, each in records.items() if key_of(name) == key_of(self.name)), None)
        if record is None:
            raise NotFound(
                f"{self.what} has no disk",
                f"{os.path.join(self.root, _IMAGES)} tells of none",
                "It cannot be taken over.",
            )
        return _dict(record.get("image")), _dict(record.get("query"))

    def _disk(self, image: t.Mapping[str, t.Any]) -> str:
        """The disk: what is called so in its own directory, wherever that was when Multipass wrote it down."""
        name = re.split(r"[/\\]", str(image.get("path") or ""))[-1]
        path = os.path.join(self.directory, name)
        if not name or name in (".", "..") or "\0" in name or os.path.islink(path) or not os.path.isfile(path):
            raise NotFound(
                f"the disk of {self.what} is missing",
                f"there is no file {name!r} in {self.directory}",
                "See whether source_root is right, and the copy whole.",
            )
        return path

    def _read_snapshots(self) -> None:
        try:
            names = sorted(name for name in os.listdir(self.directory) if _SNAPSHOT_FILE.fullmatch(name))
        except OSError as exc:
            with explained(f"{self.directory} could not be read"):
                raise exc
        found: dict[int, MultipassSnapshot] = {}
        for name in names[:_MOST]:
            path = os.path.join(self.directory, name)
            data = _dict(_dict(_read_json(path)).get("snapshot"))
            index = _number(data.get("index"), 1 << 30)
            created = re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", str(data.get("creation_timestamp") or ""))
            if index in found or not index or _number(name.partition(".")[0], 1 << 30) != index:
                raise _unreadable(path, f"it describes the snapshot {index}")
            found[index] = MultipassSnapshot(
                index,
                _number(data.get("parent", 0), 1 << 30),
                str(data.get("name") or f"snapshot{index}"),
                str(data.get("comment") or "")[:10_000].replace("\0", ""),
                f"{created[0]}Z" if created else "",
                _number(data.get("num_cores"), MAX_CPUS),
                _size(data.get("mem_size")),
                _size(data.get("disk_space")),
            )
        # Parents first; whose parent is gone goes on from nothing.
        self._snapshots = []
        left = dict(found)
        while left:
            ready = [each for each in left.values() if each.parent not in left or each.parent == each.number]
            if not ready:
                raise _unreadable(self.directory, "its snapshots are each other's parents")
            for each in ready:
                parent = each.parent if each.parent in found and each.parent != each.number else 0
                self._snapshots.append(left.pop(each.number)._replace(parent=parent))
        self._head = 0
        if found:
            try:
                head = read_file(os.path.join(self.directory, "snapshot-head"), 4096).decode("ascii", "replace")
                self._head = _number(head, 1 << 30)
            except (OSError, ValueError):
                # Which one it goes on from does not matter for what is on its disk.
                self._head = 0
        if self._head not in found:
            self._head = 0

    def _uuid(self, index: int) -> str:
        """The uuid of a snapshot, the same in each run."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"multipass:{self.path}#{index}")) if index else ""

    def _as_ours(self) -> list[Snapshot]:
        names: set[str] = set()
        found = []
        for each in self._snapshots:
            name = each.name
            try:
                check_name(name, "the snapshot")
            except InvalidOption:
                name = f"snapshot{each.number}"
            while key_of(name) in names:
                name = f"{name[:50]}-{each.number}"
            names.add(key_of(name))
            then = Instance(
                name=check_name(self.name, "the instance"),
                uuid=self._uuid(each.number),
                scope="",
                driver="",
                created=each.created,
                arch="",
                cpus=each.cpus,
                memory=each.memory,
                disk=each.disk,
            )
            found.append(
                Snapshot(
                    name,
                    self._uuid(each.number),
                    "",
                    each.created,
                    self._uuid(each.parent),
                    each.comment,
                    quiet="stopped",
                    record=then.to_dict(),
                )
            )
        return found

    # How it comes here

    def unpack(self, vault: Vault, work: str, layered: bool) -> Brought:
        found = self.describe()
        stamp = file_stamp(self.path)
        tool = QemuImg(self.runtime, self.what)
        source = Layer(self.path, "qcow2")
        info = tool.info([source])
        tags = {str(each.get("name")) for each in info.get("snapshots") or ()}
        if _SUSPEND_TAG in tags:
            raise InUse(
                f"{self.what} cannot be taken over",
                "its disk has what it was doing when it was suspended",
                f"Start and stop it first: multipass start {self.name}, multipass stop {self.name}.",
                state="suspended",
            )
        lost = [each.name for each in self._snapshots if f"@s{each.number}" not in tags]
        if lost and layered:
            raise ImageError(
                f"{self.what} cannot be taken over",
                f"its disk does not have its snapshot {lost[0]}",
                f"Remove that snapshot first: multipass delete --purge {self.name}.{lost[0]}.",
            )
        size = int(info["virtual-size"])
        wholes = self._extract(tool, source, make_dir(os.path.join(work, "wholes")), size, layered)
        self.runtime.report.step("extracted")
        if file_stamp(self.path) != stamp:
            raise InUse(f"{self.what} was not taken over", "its disk was written to meanwhile", "Stop Multipass first.")
        first = next(iter(wholes.values()))
        if not layered or not self._snapshots:
            layered_disk = os.path.join(work, "uppermost")
            image = self._placed(vault, work, first, found)
            tool.overlay(layered_disk, image.path, size)
            return Brought(image, Layered(layered_disk, "", {}, {}) if layered else None)
        # The first snapshot is the image, so to say; the others have what differs from their parents.
        files: dict[str, str] = {}
        base = os.path.join(work, "base")
        os.link(first, base)
        by_index = {each.number: each for each in self._snapshots}
        for index, whole in wholes.items():
            below = by_index[index].parent if index else self._head
            path = os.path.join(work, f"layer-{index}")
            tool.difference(path, whole, wholes[below] if below else first)
            files[self._uuid(index) or ""] = path
            self.runtime.report.step("layer")
        disk = files.pop("")
        image = self._placed(vault, work, base, found)
        backing = {self._uuid(each.number): self._uuid(each.parent) for each in self._snapshots}
        return Brought(image, Layered(disk, self._uuid(self._head), files, backing))

    def _extract(self, tool: QemuImg, source: Layer, target: str, size: int, layered: bool) -> dict[int, str]:
        """The disk as it is (0) and as it was at each snapshot, each whole; the first snapshot comes first."""
        wholes: dict[int, str] = {}
        for each in self._snapshots if layered else ():
            wholes[each.number] = os.path.join(target, f"{each.number}.qcow2")
            tool.convert([source], wholes[each.number], "qcow2", size, f"@s{each.number}")
            # It is told with today's size, and may have been smaller.
            if each.disk < size:
                tool.shrink(wholes[each.number], each.disk)
        wholes[0] = os.path.join(target, "0.qcow2")
        tool.convert([source], wholes[0], "qcow2", size)
        return wholes

    def _placed(self, vault: Vault, work: str, path: str, found: Description) -> t.Any:
        import hashlib

        from ansible_collections.minicloud.local.plugins.module_utils._images.flow import Digest, Flow

        flow = Flow(lambda: [Digest("sha256")])
        flow.put_file(path)
        flow.finish()
        content = t.cast(Digest, flow.outlets[0]).hex
        # Of what was converted, so it is not the checksum of any file that others know.
        hash_ = hashlib.sha256(f"multipass {content}".encode()).hexdigest()
        return place_disk(self.runtime, vault, work, path, self.what, hash_, found, self.path)


def _dict(value: t.Any) -> dict[str, t.Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{str(value)[:40]!r} is no object")
    return value


def _list(value: t.Any) -> list[t.Any]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > _MOST:
        raise ValueError(f"{str(value)[:40]!r} is no list")
    return value


def _printable(text: str) -> str:
    return text if text.isprintable() else ""


def _arch(spec: t.Mapping[str, t.Any]) -> str:
    """The architecture that its last machine had; empty where it never had one."""
    metadata = spec.get("metadata")
    machine = str(metadata.get("machine_type") or "") if isinstance(metadata, dict) else ""
    if machine.startswith("virt"):
        return normal_arch("arm64")
    return normal_arch("amd64") if machine.startswith(("pc", "q35")) else ""


def _nics(spec: t.Mapping[str, t.Any]) -> list[Nic]:
    """Its interfaces: the first on the default network, the others on what they were bridged to."""
    nics = [Nic(DEFAULT_NETWORK, _mac(spec.get("mac_addr")))]
    for each in _list(spec.get("extra_interfaces")):
        interface = _dict(each)
        name = str(interface.get("id") or "")
        if not re.fullmatch(r"[A-Za-z0-9_.:@ -]{1,60}", name):
            raise ValueError(f"{name[:40]!r} is not the name of an interface")
        mode = "auto" if interface.get("auto_mode") else "manual"
        nics.append(Nic(f"{BRIDGED_TO}{name}", _mac(interface.get("mac_address")), mode))
    return nics


def _mac(value: t.Any) -> str:
    text = str(value or "").strip().lower()
    if text and not _MAC.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a MAC address")
    return text


def _mount(value: t.Any) -> Mount:
    entry = _dict(value)
    source, target = str(entry.get("source_path") or ""), str(entry.get("target_path") or "")
    if not (os.path.isabs(source) and target) or "\0" in source + target:
        raise ValueError(f"there is a mount of {source[:80]!r} to {target[:80]!r}")
    kind = "native" if entry.get("mount_type") == 1 else "classic"
    return Mount(source, target, kind, _map(entry, "uid"), _map(entry, "gid"))


def _map(entry: t.Mapping[str, t.Any], kind: str) -> list[tuple[int, int]]:
    pairs = []
    for each in _list(entry.get(f"{kind}_mappings")):
        pair = _dict(each)
        host, guest = pair.get(f"host_{kind}"), pair.get(f"instance_{kind}")
        pairs.append((_number(host, 1 << 32), _DEFAULT_ID if guest == -1 else _number(guest, 1 << 32)))
    return pairs
