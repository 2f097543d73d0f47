# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The file of an exported instance: a tar archive, plain or compressed as a whole, that other tools can read as well.

    manifest.json       first: what follows, and the record of the instance, its snapshots and their order
    base.qcow2          of a virtual machine: the image, and above it the layers of the disk, each of which has only
    layers/UUID.qcow2   what differs from the one below; their headers name no other file
    disk.qcow2          the uppermost layer
    firmware.fd         the variables of its UEFI firmware, where it has some
    container.tar       of a container: LXD's archive of an image, with metadata.yaml and rootfs/
    seed/NAME           the cloud-init data that it was made with
    SHA256SUMS          last: the checksums of all the others, as sha256sum --check reads them

What is read was written by anybody. The manifest says which members come, in which order and how large; any other
member, order or size is refused, and no name in the archive ever becomes the name of a file on this host. Nothing
counts before the last member has come and all checksums are right.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import typing as t
import zlib
from dataclasses import dataclass, field

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HostError,
    ImageError,
    NoSpace,
    NotFound,
)
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._images import disk, tar
from ansible_collections.minicloud.local.plugins.module_utils._images.confined import (
    LARGEST,
    Layer,
    QemuImg,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.flow import CHUNK, write_all
from ansible_collections.minicloud.local.plugins.module_utils._images.origin import (
    Brought,
    Description,
    Layered,
    Origin,
    checked_layer,
    place_disk,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.unpack import (
    Piped,
    Sparse,
    Unpacker,
    check_growth,
    compression,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import Vault
from ansible_collections.minicloud.local.plugins.module_utils._json import JsonError, parse_json
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    CONTAINER,
    KINDS,
    OBJECT,
    TEXT,
    TEXTS,
    Field,
    Instance,
    RecordKind,
    key_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime, find_program
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_path

SUFFIX = ".minicloud"
MANIFEST, SUMS = "manifest.json", "SHA256SUMS"
BASE, UPPERMOST, FIRMWARE, ROOT = "base.qcow2", "disk.qcow2", "firmware.fd", "container.tar"

COMPRESSIONS = ("zstd", "gzip", "none")

# Bytes: of a manifest, of the list of checksums, of what is neither disk nor root file system.
_LARGEST_MANIFEST, _LARGEST_SUMS, _LARGEST_OTHER = 8 << 20, 1 << 20, 128 << 20
_MOST_LAYERS = 1000

_MEMBER = re.compile(
    r"(?:base|disk)\.qcow2|layers/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.qcow2|firmware\.fd|container\.tar"
    r"|seed/[a-z0-9-]{1,40}"
)
_SUM = re.compile(r"([0-9a-f]{64})  ([!-~]{1,100})")
_ANEW = "Export the instance anew, or copy the file again; nothing was changed."


def _is_files(value: t.Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict)
        and isinstance(each.get("name"), str)
        and _MEMBER.fullmatch(each["name"])
        and isinstance(each.get("size"), int)
        and not isinstance(each["size"], bool)
        and 0 <= each["size"] <= LARGEST
        for each in value
    )


def _is_objects(value: t.Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


# The manifest. `format` is always the same word; `layers` has what the disk and each layer are backed by.
MANIFEST_KIND = RecordKind(
    "an exported instance",
    1,
    {
        "format": Field(lambda value: value == "minicloud", "minicloud", required=True),
        "created": TEXT,
        "state": TEXT,
        "instance": OBJECT._replace(required=True),
        "snapshots": Field(_is_objects, "a list of snapshots"),
        "layers": OBJECT,
        "files": Field(_is_files, "a list of files that an exported instance has, with their sizes", required=True),
    },
)


class Piece(t.NamedTuple):
    """A member of an archive. size -- bytes; blocks -- its content, in order, of which no block changes any more"""

    name: str
    size: int
    blocks: t.Callable[[], t.Iterable[bytes]]


@dataclass
class Manifest:
    """What an archive has, checked.

    files -- name and size of each member but the manifest itself and the checksums, in their order
    disk -- the layer below the uppermost one; backing -- what is below each layer, empty for the base
    state -- a fingerprint of what was exported
    """

    instance: Instance
    files: list[tuple[str, int]]
    snapshots: list[Snapshot] = field(default_factory=list)
    disk: str = ""
    backing: dict[str, str] = field(default_factory=dict)
    created: str = ""
    state: str = ""

    def to_bytes(self) -> bytes:
        """As it is in the archive."""
        data = {
            "format": "minicloud",
            "created": self.created,
            "state": self.state,
            "instance": self.instance.to_dict(),
            "snapshots": [each.to_dict() for each in self.snapshots],
            "layers": {"disk": self.disk, "backing": self.backing},
            "files": [{"name": name, "size": size} for name, size in self.files],
        }
        return json.dumps({"schema": MANIFEST_KIND.schema, **data}, indent=1).encode() + b"\n"


def parse_manifest(content: bytes, path: str) -> Manifest:
    """The manifest of the archive at PATH. ImageError where this version cannot use it, or it contradicts itself."""
    try:
        data = parse_json(content, f"the manifest of {path}", _LARGEST_MANIFEST, 64)
        schema = data.pop("schema", None) if isinstance(data, dict) else None
        if isinstance(schema, int) and not isinstance(schema, bool) and schema > MANIFEST_KIND.schema:
            raise ImageError(
                f"{path} was exported by a newer version of minicloud.local",
                f"its schema is {schema}, and this version knows up to {MANIFEST_KIND.schema}",
                "Upgrade the collection on this host; nothing was changed.",
            )
        if schema != MANIFEST_KIND.schema:
            raise ValueError("it has no schema number")
        found = MANIFEST_KIND.split(data)
        layers = found.get("layers", {})
        if not TEXTS.holds(layers.get("backing", {})) or not TEXT.holds(layers.get("disk", "")):
            raise ValueError("layers is not what an exported instance has")
        manifest = Manifest(
            Instance.from_dict(found["instance"]),
            [(each["name"], each["size"]) for each in found["files"]],
            [Snapshot.from_dict(each) for each in found.get("snapshots", ())],
            layers.get("disk", ""),
            layers.get("backing", {}),
            found.get("created", ""),
            found.get("state", ""),
        )
        # A record that cannot be read is found before anything is made of the others.
        for each in manifest.snapshots:
            Instance.from_dict(each.record)
        _check_files(manifest)
    except (JsonError, ValueError) as exc:
        raise ImageError(f"the manifest of {path} cannot be used", str(getattr(exc, "why", exc)), _ANEW) from exc
    return manifest


def _check_files(manifest: Manifest) -> None:
    """Raise ValueError where what a manifest says of its members is not what an instance consists of."""
    names = [name for name, dummy in manifest.files]
    if len(set(names)) < len(names):
        raise ValueError("it has a file twice")
    for name, size in manifest.files:
        if name.startswith("seed/") or name == FIRMWARE:
            if size > _LARGEST_OTHER:
                raise ValueError(f"{name} has {size} bytes")
    if KINDS[manifest.instance.instance_type] == CONTAINER:
        if ROOT not in names or any(name.endswith(".qcow2") for name in names) or manifest.backing:
            raise ValueError("it is of a container, and its files are those of something else")
        if manifest.snapshots:
            raise ValueError("it is of a container, and has snapshots")
        return
    layers = [_MEMBER.fullmatch(name)[1] for name in names if name.startswith("layers/")]  # type: ignore[index]
    if ROOT in names or BASE not in names or UPPERMOST not in names:
        raise ValueError("it is of a virtual machine, and its files are those of something else")
    backing = manifest.backing
    if sorted(layers) != sorted(backing) or len(layers) > _MOST_LAYERS:
        raise ValueError("its files are not its layers")
    # Whatever is backed by something comes after it, so nothing is backed by itself.
    seen = {""}
    for layer in layers:
        if backing[layer] not in seen:
            raise ValueError(f"the layer {layer} is backed by nothing that comes before it")
        seen.add(layer)
    if manifest.disk not in seen:
        raise ValueError("the disk is backed by a layer that is not there")
    uuids = {each.uuid for each in manifest.snapshots}
    if len(uuids) < len(manifest.snapshots) or not uuids <= seen - {""}:
        raise ValueError("a snapshot is there twice, or has no layer")
    if any(each.parent and each.parent not in uuids for each in manifest.snapshots):
        raise ValueError("the parent of a snapshot is not there")
    if len({key_of(each.name) for each in manifest.snapshots}) < len(manifest.snapshots):
        raise ValueError("two snapshots have the same name")


# -- writing -----------------------------------------------------------------------------------------------------------


class Packer:
    """Compresses what comes into an open file, and knows size and checksum (sha256, hex) of what was written."""

    def __init__(self, runtime: Runtime, stream: t.IO[bytes], kind: str) -> None:
        """kind -- one of COMPRESSIONS"""
        self._stream = stream
        self._digest = hashlib.sha256()
        self.size = 0
        self._zlib = zlib.compressobj(6, zlib.DEFLATED, 31) if kind == "gzip" else None
        self._piped = None
        if kind == "zstd":
            argv = [runtime.program("zstd", purpose="for compression: zstd"), "-qcf", "-3", "-T0"]
            self._piped = Piped(argv, runtime, self, lambda said: HostError("nothing was compressed", said))

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        if self._piped:
            self._piped.feed(data)
        else:
            self.write(self._zlib.compress(data) if self._zlib else data)

    def finish(self) -> None:
        """That was all."""
        if self._piped:
            self._piped.finish()
        elif self._zlib:
            self.write(self._zlib.flush())

    def abandon(self) -> None:
        """There will be no more."""
        if self._piped:
            self._piped.stop()

    def write(self, data: bytes) -> None:
        """The next bytes, as they are in the file."""
        with explained("the file could not be written"):
            write_all(self._stream, data)
        self._digest.update(data)
        self.size += len(data)

    def close(self) -> None:
        """Nothing more comes."""

    @property
    def checksum(self) -> str:
        """The checksum so far."""
        return self._digest.hexdigest()


def choose_compression(wanted: str) -> str:
    """What `auto` means on this host: zstd where the program is there, else gzip; others are as they are."""
    if wanted != "auto":
        return wanted
    return "zstd" if find_program("zstd") else "gzip"


def write_archive(packer: Packer, manifest: bytes, pieces: t.Sequence[Piece], modified: int, runtime: Runtime) -> None:
    """Write an archive, piece by piece as they come. modified -- the time of its members, seconds since the epoch

    HostError where a piece has more or fewer bytes than it should.
    """
    sums = []
    done, total = 0, sum(piece.size for piece in pieces)
    for piece in (Piece(MANIFEST, len(manifest), lambda: [manifest]), *pieces):
        packer.feed(tar.header(piece.name, piece.size, modified))
        digest, left = hashlib.sha256(), piece.size
        for block in piece.blocks():
            left -= len(block)
            if left < 0:
                break
            digest.update(block)
            packer.feed(block)
            done += len(block)
            runtime.report.progress("export", min(done, total), total)
        if left:
            raise HostError(f"{piece.name} was not exported", "it changed while it was read", "Run this again.")
        packer.feed(tar.padding(piece.size))
        sums.append(f"{digest.hexdigest()}  {piece.name}\n")
        runtime.report.step(f"exported {piece.name}")
    content = "".join(sums).encode()
    packer.feed(tar.header(SUMS, len(content), modified) + content + tar.padding(len(content)) + tar.END)
    packer.finish()


def file_piece(path: str, name: str) -> Piece:
    """A file as a member."""

    def blocks() -> t.Iterator[bytes]:
        with explained(f"{path} could not be read"), open(path, "rb", buffering=0) as stream:
            while True:
                data = stream.read(CHUNK)
                if not data:
                    return
                yield data

    with explained(f"{path} could not be read"):
        return Piece(name, os.path.getsize(path), blocks)


def layer_piece(path: str, name: str) -> Piece:
    """A qcow2 file as a member, whose header names no other file any more."""
    whole = file_piece(path, name)

    def blocks() -> t.Iterator[bytes]:
        first = True
        for block in whole.blocks():
            yield _without_backing(block) if first else block
            first = False

    return whole._replace(blocks=blocks)


def _without_backing(start: bytes) -> bytes:
    """The beginning of a qcow2 file, at least its first cluster, without the name of a backing file."""
    begun = bytearray(start)
    offset, size = int.from_bytes(start[8:16], "big"), int.from_bytes(start[16:20], "big")
    begun[8:20] = bytes(12)
    if offset and offset + size <= len(begun) and size < 1024:
        begun[offset : offset + size] = bytes(size)
    return bytes(begun)


# -- reading -----------------------------------------------------------------------------------------------------------


class _Enough(Exception):
    """The manifest is here."""


class _Nowhere:
    """Takes bytes that nobody needs."""

    def write(self, data: bytes) -> None:
        return

    def close(self) -> None:
        return


class _Kept(_Nowhere):
    """Keeps a few bytes."""

    def __init__(self, done: t.Callable[[bytes], None]) -> None:
        self._content = bytearray()
        self._done = done

    def write(self, data: bytes) -> None:
        self._content += data

    def close(self) -> None:
        self._done(bytes(self._content))


class _Hashed:
    """A member on its way to wherever it goes, and its checksum."""

    def __init__(self, inner: tar.Member, done: t.Callable[[str], None]) -> None:
        self._inner = inner
        self._done = done
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """See tar.Member."""
        self._digest.update(data)
        self._inner.write(data)

    def close(self) -> None:
        """See tar.Member."""
        self._inner.close()
        self._done(self._digest.hexdigest())


class Reading:
    """One pass over an archive, from its manifest to the checksums at its end.

    sums -- of the members that have come, by name; whole -- of the file itself, when all have
    written -- where the members are, by name: files of our own
    """

    def __init__(self, runtime: Runtime, path: str) -> None:
        self._runtime = runtime
        self._path = path
        self._reader = tar.Reader(path, self._begin)
        self._next: list[tuple[str, int]] = []
        self._work = ""
        self._fed = self._out = 0
        self._stated: dict[str, str] | None = None
        self._targets: list[Sparse] = []
        self._packed = False
        self.manifest: Manifest | None = None
        self.sums: dict[str, str] = {}
        self.written: dict[str, str] = {}
        self.whole = ""

    def look(self) -> Manifest:
        """The manifest alone: a few blocks of the file are read, and nothing is verified but itself."""
        with contextlib.suppress(_Enough):
            self._read("")
        return self._seen()

    def extract(self, work: str) -> Manifest:
        """Write the members into a directory of our own, under names of our own: see written; and verify all of it."""
        self._work = make_dir(work)
        self._read(work)
        manifest = self._seen()
        if self._stated is None or self._next:
            raise self._reader.damaged("its end is missing: not all of its files have come")
        if self._stated != self.sums:
            wrong = sorted(
                name for name in {*self._stated, *self.sums} if self._stated.get(name) != self.sums.get(name)
            )
            raise self._reader.damaged(f"{wrong[0]} does not match its checksum")
        return manifest

    def _seen(self) -> Manifest:
        if self.manifest is None:
            raise ImageError(
                f"{self._path} is not an exported instance",
                "it does not begin with a manifest",
                f"Give a file that minicloud.local.export has written, usually *{SUFFIX}, or an OVA.",
            )
        return self.manifest

    def _read(self, work: str) -> None:
        digest = hashlib.sha256()
        unpacker = Unpacker("", self._runtime, sink=self)
        try:
            with open_regular(self._path) as stream:
                size = os.fstat(stream.fileno()).st_size
                while True:
                    data = stream.read(CHUNK)
                    if not data:
                        break
                    if not self._fed:
                        self._packed = bool(compression(data[:16].ljust(16, b"\0")))
                    self._fed += len(data)
                    digest.update(data)
                    if work:
                        self._runtime.report.progress(os.path.basename(self._path), self._fed, size)
                    if self._packed:
                        unpacker.feed(data)
                    else:
                        self.write(data)
            if self._packed:
                unpacker.finish()
            self._reader.close()
            self.whole = digest.hexdigest()
        finally:
            with contextlib.suppress(Exception):
                unpacker.abandon()
            for target in self._targets:
                with contextlib.suppress(OSError, ValueError):
                    target.close()

    def write(self, data: bytes) -> None:
        """The next bytes, decompressed."""
        self._out += len(data)
        check_growth(self._out, self._fed)
        self._reader.write(data)

    def close(self) -> None:
        """Nothing more comes."""

    def _begin(self, name: str, size: int) -> tar.Member:
        if self.manifest is None:
            if name != MANIFEST:
                raise ImageError(
                    f"{self._path} is not an exported instance",
                    f"it begins with {name[:80]!r}, and not with a manifest",
                    f"Give a file that minicloud.local.export has written, usually *{SUFFIX}, or an OVA.",
                )
            if size > _LARGEST_MANIFEST:
                raise self._reader.damaged(f"its manifest has {size} bytes")
            return _Hashed(_Kept(self._keep_manifest), lambda sum_: self.sums.update({MANIFEST: sum_}))
        if self._stated is not None:
            raise self._reader.damaged(f"there is something after its checksums: {name[:80]!r}")
        if not self._next:
            if name != SUMS or size > _LARGEST_SUMS:
                raise self._reader.refused(f"its manifest does not tell of {name[:80]!r}")
            return _Kept(self._keep_sums)
        wanted = self._next.pop(0)
        if (name, size) != wanted:
            raise self._reader.refused(
                f"its manifest tells of {wanted[0]} with {wanted[1]} bytes, and there is {name[:80]!r} with {size}"
            )
        return _Hashed(self._place(name, size), lambda sum_: self.sums.update({name: sum_}))

    def _place(self, name: str, size: int) -> tar.Member:
        if not (name.endswith(".qcow2") or name in (FIRMWARE, ROOT)):
            return _Nowhere()
        self.written[name] = os.path.join(self._work, f"member-{len(self.written)}")
        self._targets.append(Sparse(self.written[name], size, lambda: self._fed))
        return self._targets[-1]

    def _keep_manifest(self, content: bytes) -> None:
        self.manifest = parse_manifest(content, self._path)
        self._next = list(self.manifest.files)
        if not self._work:
            raise _Enough
        needed = sum(size for dummy, size in self._next)
        # What is zero takes no space here, so only what cannot be is refused at once.
        if not self._packed:
            self._check_room(needed)

    def _check_room(self, needed: int) -> None:
        from ansible_collections.minicloud.local.plugins.module_utils._images.unpack import free_space

        used = os.stat(self._path).st_blocks * 512
        if min(needed, used) > free_space(self._work):
            raise NoSpace(
                f"{self._path} was not unpacked",
                f"it needs {min(needed, used) >> 20} MiB",
                "Free some space on that file system, or use another data_dir.",
            )

    def _keep_sums(self, content: bytes) -> None:
        found: dict[str, str] = {}
        for line in content.decode("ascii", "replace").splitlines():
            match = _SUM.fullmatch(line)
            if not match or match[2] in found:
                raise self._reader.damaged("its checksums cannot be read")
            found[match[2]] = match[1]
        self._stated = found


@contextlib.contextmanager
def open_regular(path: str) -> t.Iterator[t.IO[bytes]]:
    """A file that is read from its beginning; NotFound, ImageError where there is none. Nothing is waited for."""
    import stat

    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise NotFound(
            f"the file {path} was not found",
            "there is no such file on this host",
            "Check the path; it is one of the host that runs the instances.",
        ) from exc
    except OSError as exc:
        with explained(f"{path} could not be read"):
            raise exc
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ImageError(f"{path} was not read", "it is not a regular file", "Give the path of a file.")
    with explained(f"{path} could not be read"), open(handle, "rb", buffering=0) as stream:
        yield stream


class ArchiveOrigin(Origin):
    """An exported instance."""

    def describe(self) -> Description:
        manifest = Reading(self.runtime, self.path).look()
        return describe(manifest)

    def unpack(self, vault: Vault, work: str, layered: bool) -> Brought:
        reading = Reading(self.runtime, self.path)
        manifest = reading.extract(os.path.join(work, "members"))
        self.runtime.report.step("verified")
        found = describe(manifest)
        if KINDS[found.instance_type] == CONTAINER:
            return Brought(self._root(vault, work, reading.written[ROOT], found))
        what = f"the disk in {self.path}"
        chain = [UPPERMOST, *(f"layers/{each}.qcow2" for each in _below(manifest, manifest.disk))]
        for name in reading.written:
            if name.endswith(".qcow2") and name != BASE:
                checked_layer(self.runtime, reading.written[name], what)
        if layered:
            image = place_disk(
                self.runtime, vault, work, reading.written[BASE], what, reading.sums[BASE], found, self.path
            )
            return Brought(image, self._layers(manifest, reading.written))
        base = reading.written[BASE]
        flat = os.path.join(work, "flat")
        disk.prepare(self.runtime, base, flat, what, movable=True)
        paths = [*(reading.written[name] for name in chain), flat]
        tool = QemuImg(self.runtime, what)
        while len(paths) > 1:
            tool.commit([Layer(path, "qcow2") for path in paths])
            self.runtime.report.step("merged")
            remove_path(paths.pop(0))
        return Brought(place_disk(self.runtime, vault, work, flat, what, reading.whole, found, self.path))

    @staticmethod
    def _layers(manifest: Manifest, written: t.Mapping[str, str]) -> Layered:
        shown = {each.uuid for each in manifest.snapshots}
        return Layered(
            written[UPPERMOST],
            manifest.disk,
            {layer: written[f"layers/{layer}.qcow2"] for layer in manifest.backing},
            dict(manifest.backing),
            tuple(layer for layer in manifest.backing if layer not in shown),
            written.get(FIRMWARE, ""),
        )

    def _root(self, vault: Vault, work: str, path: str, found: Description) -> Image:
        from ansible_collections.minicloud.local.plugins.module_utils._images.acquire_root import place_root

        return place_root(vault, work, path, self.path, found.arch)


def _below(manifest: Manifest, layer: str) -> list[str]:
    found = []
    while layer:
        found.append(layer)
        layer = manifest.backing[layer]
    return found


def describe(manifest: Manifest) -> Description:
    """What an archive says of its instance."""
    then = manifest.instance
    return Description(
        name=then.name,
        scope=then.scope,
        cpus=then.cpus,
        memory=then.memory,
        disk=then.disk,
        arch=then.arch,
        instance_type=then.instance_type,
        user=then.user,
        autostart=then.autostart,
        image={key: str(value) for key, value in then.image.items() if key not in ("path", "hash")},
        tags=then.tags,
        ports=then.ports,
        nics=then.nics,
        mounts=then.mounts,
        snapshots=manifest.snapshots,
    )
