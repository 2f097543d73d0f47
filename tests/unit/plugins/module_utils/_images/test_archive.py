# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import copy
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    ImageError,
    MinicloudError,
    NotFound,
)
from ansible_collections.minicloud.local.plugins.module_utils._images import archive, tar
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import Vault
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot

from . import foreign

MIB = 1 << 20
SIZE = 4 * MIB
LAYERS = ("11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222")
OTHER = "33333333-3333-3333-3333-333333333333"


def instance(**more):
    values = {"name": "web", "uuid": OTHER, "scope": "qemu", "driver": "qemu", "created": "2026-05-04T10:20:30Z"}
    return Instance(**{**values, "arch": "x86_64", "cpus": 2, "memory": 128 * MIB, "disk": SIZE, **more})


def snapshot(uuid, name, parent=""):
    return Snapshot(name, uuid, "qemu", "2026-05-04T10:20:30Z", parent, record=instance().to_dict())


def fill(path, offset, byte, length=65536):
    command = f"write -q -P {byte} {offset} {length}"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, str(path)], check=True, capture_output=True)


@pytest.fixture
def runtime():
    return Runtime(run, Reporter())


@pytest.fixture
def vault(tmp_path, runtime):
    os.makedirs(tmp_path / "data" / "vault", mode=0o700)
    return Vault(DataDirectory(str(tmp_path / "data")), runtime)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """The files of a disk: an image, two layers that snapshots have made, and what is written on now."""
    tmp_path = tmp_path_factory.mktemp("chain")
    base = foreign.create(tmp_path / "base.qcow2", "qcow2", size=str(SIZE))
    # As the vault has them: with the table of partitions that a disk begins with.
    raw = tmp_path / "raw"
    raw.write_bytes(foreign.bootable(SIZE))
    foreign.qemu_img("convert", "-O", "qcow2", raw, base)
    paths = {"": base}
    below = base
    for number, layer in enumerate((*LAYERS, "disk")):
        path = str(tmp_path / f"{layer}.qcow2")
        foreign.qemu_img("create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", path, str(SIZE))
        fill(path, (number + 1) * MIB, number + 1)
        paths[layer] = below = path
    return paths


def pieces_of(chain):
    pieces = [archive.layer_piece(chain[""], archive.BASE)]
    pieces += [archive.layer_piece(chain[each], f"layers/{each}.qcow2") for each in LAYERS]
    pieces.append(archive.layer_piece(chain["disk"], archive.UPPERMOST))
    content = b"#cloud-config\n{}\n"
    return [*pieces, archive.Piece("seed/user-data", len(content), lambda: [content])]


def manifest_of(pieces, **more):
    values = {
        "snapshots": [snapshot(LAYERS[0], "first"), snapshot(LAYERS[1], "second", LAYERS[0])],
        "disk": LAYERS[1],
        "backing": {LAYERS[0]: "", LAYERS[1]: LAYERS[0]},
        "created": "2026-05-04T10:20:30Z",
        **more,
    }
    return archive.Manifest(instance(), [(piece.name, piece.size) for piece in pieces], **values)


def written(runtime, path, chain, kind="none"):
    pieces = pieces_of(chain)
    with open(path, "wb", buffering=0) as stream:
        packer = archive.Packer(runtime, stream, kind)
        archive.write_archive(packer, manifest_of(pieces).to_bytes(), pieces, 1700000000, runtime)
    return packer


@pytest.mark.parametrize("kind", ["none", "gzip", "zstd"])
def test_what_was_exported_is_read_by_us_and_by_others(tmp_path, runtime, chain, kind):
    path = tmp_path / "web.minicloud"
    packer = written(runtime, path, chain, kind)
    content = path.read_bytes()
    assert (packer.size, packer.checksum) == (len(content), hashlib.sha256(content).hexdigest())
    assert archive.Reading(runtime, str(path)).look().instance == instance()
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-C", out, "-xf", path], check=True)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=out, check=True)
    assert sorted(os.listdir(out / "layers")) == [f"{each}.qcow2" for each in LAYERS]
    for name in (archive.BASE, archive.UPPERMOST, *(f"layers/{each}.qcow2" for each in LAYERS)):
        info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", out / name]))
        assert "backing-filename" not in info
        assert os.path.dirname(chain[""]).encode() not in (out / name).read_bytes()


def expected(count):
    """What the disk has when so many layers are above the image."""
    disk = bytearray(foreign.bootable(SIZE))
    for number in range(count):
        disk[(number + 1) * MIB : (number + 1) * MIB + 65536] = bytes([number + 1]) * 65536
    return bytes(disk)


def content_of(path):
    raw = f"{path}.raw"
    foreign.qemu_img("convert", "-O", "raw", path, raw)
    with open(raw, "rb") as stream:
        return stream.read()


@pytest.mark.parametrize("kind", ["none", "zstd"])
def test_a_disk_is_merged_where_layers_cannot_be_had(tmp_path, runtime, vault, chain, kind):
    path = str(tmp_path / "web.minicloud")
    written(runtime, path, chain, kind)
    origin = archive.ArchiveOrigin(runtime, path)
    with origin.bring(vault, "x86_64", layered=False) as brought:
        assert brought.layered is None
        assert content_of(brought.image.path) == expected(3)
    # Again: the vault has it.
    steps = []
    runtime.report.step = steps.append
    with origin.bring(vault, "x86_64", layered=False) as again:
        assert again.image.hash == brought.image.hash
    assert steps == []
    assert not [name for name in os.listdir(vault.path) if name.startswith("work-")]


def test_layers_come_as_they_are(tmp_path, runtime, vault, chain):
    path = str(tmp_path / "web.minicloud")
    written(runtime, path, chain, "gzip")
    with archive.ArchiveOrigin(runtime, path).bring(vault, "x86_64", layered=True) as brought:
        assert content_of(brought.image.path) == expected(0)
        assert brought.layered.backing == {LAYERS[0]: "", LAYERS[1]: LAYERS[0]}
        assert (brought.layered.below, brought.layered.hidden) == (LAYERS[1], ())
        for path in (*brought.layered.files.values(), brought.layered.disk):
            assert path.startswith(vault.path)
            info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", path]))
            assert "backing-filename" not in info
    assert not [name for name in os.listdir(vault.path) if name.startswith("work-")]


def test_layers_without_a_snapshot_are_hidden(tmp_path, runtime, vault, chain):
    path = str(tmp_path / "web.minicloud")
    pieces = pieces_of(chain)
    with open(path, "wb", buffering=0) as stream:
        packer = archive.Packer(runtime, stream, "none")
        archive.write_archive(packer, manifest_of(pieces, snapshots=[]).to_bytes(), pieces, 0, runtime)
    with archive.ArchiveOrigin(runtime, path).bring(vault, "x86_64", layered=True) as brought:
        assert brought.layered.hidden == LAYERS


def test_a_piece_that_changes_meanwhile_is_refused(tmp_path, runtime):
    with open(tmp_path / "x", "wb", buffering=0) as stream:
        for size, blocks in ((3, [b"12"]), (3, [b"12", b"34"])):
            pieces = [archive.Piece("seed/user-data", size, lambda blocks=blocks: blocks)]
            with pytest.raises(MinicloudError, match="changed while it was read"):
                archive.write_archive(archive.Packer(runtime, stream, "none"), b"{}", pieces, 0, runtime)


# What hostile archives are like: each changes a good one.


def members_of(path):
    with tarfile.open(path) as opened:
        return [[each.name, opened.extractfile(each).read()] for each in opened]


def packed(members, sums=True):
    """An archive of members: name, content, and what else their headers say. sums -- whether to put those right"""
    target = io.BytesIO()
    listed = []
    for name, content, *more in members:
        header = tarfile.TarInfo(name)
        header.size = len(content)
        for key, value in (more[0] if more else {}).items():
            setattr(header, key, value)
        if sums and name == "SHA256SUMS" and more != [{"keep": True}]:
            content = "".join(listed).encode()
            header.size = len(content)
        listed.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
        target.write(header.tobuf(tarfile.PAX_FORMAT) + content + tar.padding(len(content)))
    return target.getvalue() + tar.END


def changed(change, sums=True):
    """An archive whose members were changed by CHANGE."""

    def make(members):
        change(members)
        return packed(members, sums)

    return make


def with_manifest(change):
    """An archive whose manifest was changed by CHANGE."""

    def make(members):
        manifest = json.loads(members[0][1])
        change(manifest)
        members[0][1] = json.dumps(manifest).encode()
        return packed(members)

    return make


def resized(members, number, content):
    """Have a member another content, of which the manifest knows."""
    members[number][1] = content
    manifest = json.loads(members[0][1])
    manifest["files"][number - 1]["size"] = len(content)
    members[0][1] = json.dumps(manifest).encode()


def with_header(**values):
    return changed(lambda members: members[1].append(values))


def qcow2_with(offset, data):
    def change(members):
        content = bytearray(members[2][1])
        content[offset : offset + len(data)] = data
        members[2][1] = bytes(content)

    return changed(change)


def multiplied(content):
    """A layer whose first table has the same cluster in each place, and which qemu-img check takes for sound."""
    layer = bytearray(content)
    l1 = int.from_bytes(layer[40:48], "big")
    l2 = int.from_bytes(layer[l1 : l1 + 8], "big") & 0x00FFFFFFFFFFFE00
    entries = [layer[l2 + 8 * number : l2 + 8 * number + 8] for number in range(SIZE >> 16)]
    there = next(entry for entry in entries if any(entry))
    layer[l2 : l2 + 8 * len(entries)] = there * len(entries)
    with tempfile.NamedTemporaryFile() as file:
        file.write(layer)
        file.flush()
        # It says what it has repaired by how it ends.
        repair = ["qemu-img", "check", "-q", "-f", "qcow2", "-r", "all", file.name]
        subprocess.run(repair, capture_output=True, check=False)
        foreign.qemu_img("check", "-f", "qcow2", file.name)
        with open(file.name, "rb") as stream:
            return stream.read()


HOSTILE = {
    "nothing": (lambda members: b"", "cut short|not an exported"),
    "noise": (lambda members: b"x" * 4096, "something else in it"),
    "a member before the manifest": (changed(lambda m: m.insert(0, ["evil", b"x"])), "not with a manifest"),
    "a path": (changed(lambda m: m[1].__setitem__(0, "../../etc/passwd")), "tells of base.qcow2"),
    "an absolute path": (changed(lambda m: m[1].__setitem__(0, "/etc/passwd")), "tells of base.qcow2"),
    "a symbolic link": (with_header(type=tarfile.SYMTYPE, linkname="/etc/passwd"), "is no plain file"),
    "a hard link": (with_header(type=tarfile.LNKTYPE, linkname="/etc/passwd"), "is no plain file"),
    "a device": (with_header(type=tarfile.BLKTYPE), "is no plain file"),
    "a pipe": (with_header(type=tarfile.FIFOTYPE), "is no plain file"),
    "a sparse member": (with_header(type=tarfile.GNUTYPE_SPARSE), "is no plain file"),
    "a long name of GNU": (changed(lambda m: m[1].__setitem__(0, "a" * 300)), "tells of base.qcow2"),
    "a member twice": (changed(lambda m: m.insert(2, list(m[1]))), "tells of layers"),
    "the manifest twice": (changed(lambda m: m.insert(1, list(m[0]))), "tells of base.qcow2"),
    "one more member": (changed(lambda m: m.insert(-1, ["evil", b"x"])), "does not tell of"),
    "something after the end": (lambda m: packed(m) + b"x" * 512, "something after its end"),
    "something after the checksums": (changed(lambda m: m.append(["evil", b"x"])), "after its checksums"),
    "another order": (changed(lambda m: m.insert(1, m.pop(2))), "tells of base.qcow2"),
    "a member that is missing": (changed(lambda m: m.pop(2)), "tells of layers"),
    "no checksums": (changed(lambda m: m.pop()), "not all of its files|its end"),
    "wrong checksums": (changed(lambda m: m[-1].__setitem__(1, m[-1][1].replace(b"a", b"b")), False), "not match"),
    "fewer checksums": (changed(lambda m: m[-1].__setitem__(1, m[-1][1][:87]), False), "not match|cannot be read"),
    "checksums that are none": (changed(lambda m: m[-1].__setitem__(1, b"\xff\xfe"), False), "cannot be read"),
    "cut short": (lambda m: packed(m)[:-2000], "cut short"),
    "cut short in a disk": (lambda m: packed(m)[:400000], "cut short"),
    "a size beyond all bounds": (with_header(size=1 << 60), "tells of base.qcow2"),
    "a description without an end": (
        lambda m: (
            packed(m[:1], False)[:-1024] + tar.header("x", 1 << 40, 0).replace(b"0" + bytes(100), b"0" * 101)[:512]
        ),
        ".",
    ),
    "a manifest that is no JSON": (changed(lambda m: m[0].__setitem__(1, b"{")), "Expecting property name"),
    "a manifest that is nested": (changed(lambda m: m[0].__setitem__(1, b"[" * 100000)), "manifest"),
    "a manifest that is a list": (changed(lambda m: m[0].__setitem__(1, b"[]")), "schema"),
    "a manifest without a schema": (with_manifest(lambda m: m.pop("schema")), "schema"),
    "a newer manifest": (with_manifest(lambda m: m.update(schema=2)), "newer version"),
    "another format": (with_manifest(lambda m: m.update(format="other")), "format is not"),
    "a file that none has": (with_manifest(lambda m: m["files"].append({"name": "x", "size": 1})), "files is not"),
    "a file twice": (with_manifest(lambda m: m["files"].append(m["files"][0])), "a file twice"),
    "a negative size": (with_manifest(lambda m: m["files"][0].update(size=-1)), "files is not"),
    "a size that is true": (with_manifest(lambda m: m["files"][0].update(size=True)), "files is not"),
    "a size of 100 PiB": (with_manifest(lambda m: m["files"][0].update(size=100 << 50)), "files is not"),
    "another size": (with_manifest(lambda m: m["files"][0].update(size=5)), "tells of base.qcow2 with 5"),
    "an instance that is none": (with_manifest(lambda m: m["instance"].pop("cpus")), "cpus is missing"),
    "an instance with a path as its name": (with_manifest(lambda m: m["instance"].update(name="../x")), "name is not"),
    "a layer of itself": (
        with_manifest(lambda m: m["layers"]["backing"].update({LAYERS[0]: LAYERS[0]})),
        "backed by nothing that comes before",
    ),
    "layers in a circle": (
        with_manifest(lambda m: m["layers"]["backing"].update({LAYERS[0]: LAYERS[1]})),
        "backed by nothing that comes before",
    ),
    "a layer that is nowhere": (with_manifest(lambda m: m["layers"]["backing"].update({OTHER: ""})), "not its layers"),
    "a disk above nothing": (with_manifest(lambda m: m["layers"].update(disk=OTHER)), "is not there"),
    "layers that are a list": (with_manifest(lambda m: m["layers"].update(backing=[])), "layers is not"),
    "a layer whose name is no uuid": (
        with_manifest(lambda m: m["files"].append({"name": f"layers/{'-' * 36}.qcow2", "size": 1})),
        "files is not",
    ),
    "a layer above a list": (with_manifest(lambda m: m["layers"]["backing"].update({LAYERS[0]: []})), "layers is not"),
    "a snapshot of what no instance was": (
        with_manifest(lambda m: m["snapshots"][0]["record"].update(nics=[{}])),
        "network is missing",
    ),
    "a layer that has one cluster in many places": (changed(lambda m: resized(m, 2, multiplied(m[2][1]))), "several"),
    "a snapshot without a layer": (with_manifest(lambda m: m["snapshots"][0].update(uuid=OTHER)), "has no layer"),
    "a snapshot twice": (with_manifest(lambda m: m["snapshots"].append(m["snapshots"][0])), "twice"),
    "a snapshot's name twice": (with_manifest(lambda m: m["snapshots"][1].update(name="First")), "same name"),
    "a parent that is not there": (with_manifest(lambda m: m["snapshots"][1].update(parent=OTHER)), "not there"),
    "a container with disks": (
        with_manifest(lambda m: m["instance"].update(instance_type="container")),
        "of a container",
    ),
    "a layer that names a file": (qcow2_with(8, bytes([0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 11])), "overlay"),
    "a layer that has its data elsewhere": (qcow2_with(72, bytes([0, 0, 0, 0, 0, 0, 0, 4])), "another file"),
    "a layer that is encrypted": (qcow2_with(32, bytes([0, 0, 0, 1])), "encrypted"),
    "a layer that is marked as corrupt": (qcow2_with(72, bytes([0, 0, 0, 0, 0, 0, 0, 2])), "corrupt"),
    "a layer that is raw": (changed(lambda m: resized(m, 2, foreign.bootable(MIB))), "is not a layer"),
    "a layer that is nothing": (changed(lambda m: resized(m, 2, b"")), "empty file"),
    "a layer with broken tables": (qcow2_with(65536, b"\xff" * 4096), "errors|damaged"),
    "a bomb": (
        changed(lambda m: resized(m, 2, bytes(24 * MIB))),
        ".",
    ),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory, chain):
    """The members of an archive in which nothing is wrong."""
    path = tmp_path_factory.mktemp("good") / "good.minicloud"
    written(Runtime(run, Reporter()), path, chain)
    return members_of(path)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_and_leave_nothing(tmp_path, runtime, vault, good, name):
    make, why = HOSTILE[name]
    content = make(copy.deepcopy(good))
    path = tmp_path / "bad.minicloud"
    # Some come compressed: it is all the same.
    path.write_bytes(gzip.compress(content, 1) if len(name) % 2 else content)
    before = sorted(os.walk(tmp_path / "data"))
    with pytest.raises(MinicloudError, match=why) as raised:
        with archive.ArchiveOrigin(runtime, str(path)).bring(vault, "x86_64", layered=True):
            pass
    assert raised.value.hint
    after = sorted(entry for entry in os.walk(tmp_path / "data") if "locks" not in entry[0])
    assert [entry for entry in after if entry[2]] == [entry for entry in before if entry[2]]
    assert not [each for each in os.listdir(vault.path) if each.startswith("work-")]


def test_more_than_a_file_can_have_in_it_is_refused(tmp_path, runtime, vault, monkeypatch):
    from ansible_collections.minicloud.local.plugins.module_utils._images import unpack

    monkeypatch.setattr(unpack, "HARMLESS", MIB)
    monkeypatch.setattr(unpack, "HIGHEST_RATIO", 2)
    path = tmp_path / "bomb.minicloud"
    files = [{"name": "base.qcow2", "size": 64 * MIB}, {"name": "disk.qcow2", "size": 1}]
    data = {"schema": 1, "format": "minicloud", "instance": instance().to_dict(), "files": files}
    manifest = json.dumps(data).encode()
    content = tar.header(archive.MANIFEST, len(manifest), 0) + manifest + tar.padding(len(manifest))
    path.write_bytes(gzip.compress(content + tar.header(archive.BASE, 64 * MIB, 0) + bytes(64 * MIB)))
    with pytest.raises(ImageError, match="which no image does"):
        with archive.ArchiveOrigin(runtime, str(path)).bring(vault, "x86_64", layered=True):
            pass


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe"])
def test_what_is_no_file_is_not_waited_for(tmp_path, runtime, kind):
    path = tmp_path / "x.minicloud"
    with contextlib.suppress(KeyError):
        {"directory": os.mkdir, "pipe": os.mkfifo}[kind](path)
    with pytest.raises((NotFound, ImageError)):
        archive.ArchiveOrigin(runtime, str(path)).describe()


@pytest.mark.parametrize("step", ["unpack", "verified", "merged", "placed", "prepare_image"])
def test_a_run_that_is_killed_is_followed_by_one_that_ends(tmp_path, runtime, vault, chain, step):
    path = str(tmp_path / "web.minicloud")
    written(runtime, path, chain)

    class Killed(BaseException):
        pass

    def die(name):
        if name == step:
            raise Killed

    runtime.report.step = die
    with pytest.raises(Killed):
        with archive.ArchiveOrigin(runtime, path).bring(vault, "x86_64", layered=False):
            pass
    runtime.report.step = lambda dummy: None
    with archive.ArchiveOrigin(runtime, path).bring(vault, "x86_64", layered=False) as brought:
        assert content_of(brought.image.path) == expected(3)
