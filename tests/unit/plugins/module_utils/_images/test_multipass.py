# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    ImageError,
    InUse,
    MinicloudError,
    NotFound,
)
from ansible_collections.minicloud.local.plugins.module_utils._images import multipass
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import Vault
from ansible_collections.minicloud.local.plugins.module_utils._model import Mount, Nic
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

from . import foreign

MIB = 1 << 20
SIZE = 4 * MIB
DISK = "ubuntu-22.04-server-cloudimg-amd64.img"


def _generator():
    """The tool that makes such directories, which is not a part of the collection's plugins."""
    path = pathlib.Path(__file__).parents[4] / "tools" / "multipass.py"
    spec = importlib.util.spec_from_file_location("multipass_data", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generator = _generator()


@pytest.fixture
def runtime():
    return Runtime(run, Reporter())


@pytest.fixture
def vault(tmp_path, runtime):
    os.makedirs(tmp_path / "data" / "vault", mode=0o700)
    return Vault(DataDirectory(str(tmp_path / "data")), runtime)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    top = tmp_path_factory.mktemp("disk")
    (top / "raw").write_bytes(foreign.bootable(SIZE))
    foreign.qemu_img("convert", "-O", "qcow2", top / "raw", top / "disk.qcow2")
    return str(top / "disk.qcow2")


@pytest.fixture(params=["1.12", "1.16", "1.17"])
def made(tmp_path, disk, request):
    return generator.make(disk, str(tmp_path / "multipassd"), request.param)


@pytest.fixture
def one(tmp_path, disk):
    """A directory with one instance, web, whose files are still to be written."""
    made = generator.Multipass(str(tmp_path / "multipassd"), disk)
    made.add("web")
    return made


def fill(path, offset, byte):
    command = f"write -q -P {byte} {offset} 65536"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, path], check=True, capture_output=True)


def raw_of(*chain):
    """What a disk reads as whose layers are these, the uppermost first; so large as that is."""
    node = None
    for path in reversed(chain):
        node = {"driver": "qcow2", "file": {"driver": "file", "filename": path}, "backing": node}
    target = f"{chain[0]}.raw"
    foreign.qemu_img("convert", "-O", "raw", f"json:{json.dumps(node)}", target)
    return pathlib.Path(target).read_bytes()


def origin(runtime, made, name="web"):
    return multipass.MultipassOrigin(runtime, name, made.root)


def test_what_can_be_taken_over_is_described(runtime, made):
    found = origin(runtime, made, "plain").describe()
    assert (found.name, found.cpus, found.memory, found.disk) == ("plain", 1, 128 * MIB, SIZE)
    assert (found.user, found.arch, found.nics) == ("ubuntu", "x86_64", [Nic("default", "52:54:00:6d:70:01")])
    # 16.04 starts without UEFI only.
    assert found.image == {"name": "22.04 LTS", "os": "ubuntu", "release": "", "version": "22.04", "firmware": ""}


@pytest.mark.parametrize(
    ("name", "kind", "why"),
    [
        ("running", InUse, "it is running. Stop it first"),
        ("suspended", InUse, "it is suspended, and what it was doing"),
        ("suspending", InUse, "it is suspending"),
        ("starting", InUse, "it is starting"),
        ("unknown", InUse, "it is unknown"),
        ("gone", InUse, "it is deleted. Recover it first"),
        ("ghost", NotFound, "only the empty record of one that is gone"),
        ("lost", NotFound, "the disk of .* is missing"),
        ("nobody", NotFound, "It has: gone, lost, plain"),
    ],
)
def test_others_are_refused_with_what_to_do(runtime, made, name, kind, why):
    with pytest.raises(kind, match=why):
        origin(runtime, made, name).describe()


def test_all_of_it_is_described(runtime, one):
    one.specs["web"].update(
        num_cores=2,
        extra_interfaces=[
            {"id": "br0", "mac_address": "52:54:00:11:22:13", "auto_mode": True},
            {"id": "br1", "mac_address": "52:54:00:11:22:14", "auto_mode": False},
        ],
        mounts=[
            {
                "source_path": "/srv/share",
                "target_path": "/home/ubuntu/share",
                "uid_mappings": [{"host_uid": 1001, "instance_uid": -1}],
                "gid_mappings": [{"host_gid": 1001, "instance_gid": 33}],
                "mount_type": 0,
            },
            {"source_path": "/srv/n", "target_path": "n", "uid_mappings": [], "gid_mappings": [], "mount_type": 1},
        ],
    )
    one.write()
    found = origin(runtime, one).describe()
    assert [(nic.network, nic.mac, nic.mode) for nic in found.nics] == [
        ("default", "52:54:00:6d:70:01", "auto"),
        ("bridged-br0", "52:54:00:11:22:13", "auto"),
        ("bridged-br1", "52:54:00:11:22:14", "manual"),
    ]
    assert found.mounts == [
        Mount("/srv/share", "/home/ubuntu/share", "classic", [(1001, 1000)], [(1001, 33)]),
        Mount("/srv/n", "n", "native"),
    ]
    assert found.image["firmware"] == "uefi"


@pytest.mark.parametrize("where", ["", "data/multipassd", "Library/Application Support/multipassd/qemu"])
def test_the_directory_is_found_below_what_is_named(tmp_path, disk, where):
    generator.make(disk, str(tmp_path / "top" / where))
    names = ["gone", "lost", "plain", "running", "starting", "suspended", "suspending", "unknown"]
    assert multipass.instance_names(str(tmp_path / "top")) == names


def test_no_directory_is_an_error(tmp_path):
    with pytest.raises(NotFound, match="source_root"):
        multipass.find_root(str(tmp_path))


def rewrite(path, change):
    content = pathlib.Path(path).read_bytes()
    pathlib.Path(path).write_bytes(change(content))


@pytest.mark.parametrize("change", [lambda c: c.replace(b"\n", b"\r\n"), lambda c: b"\xef\xbb\xbf" + c])
def test_other_endings_of_lines_and_a_byte_order_mark_are_read(runtime, one, change):
    one.snapshot("web", 1)
    one.write()
    for path in pathlib.Path(one.root).rglob("*"):
        if path.is_file() and (path.suffix == ".json" or path.name.startswith("snapshot-")):
            rewrite(path, change)
    found = origin(runtime, one).describe()
    assert [each.name for each in found.snapshots] == ["snapshot1"]


HOSTILE = {
    "no JSON": lambda spec: "{",
    "nested": lambda spec: "[" * 100000,
    "a list": lambda spec: [],
    "an instance that is a text": lambda spec: {"web": "x"},
    "cpus that are none": lambda spec: {"web": {**spec, "num_cores": "many"}},
    "cpus without number": lambda spec: {"web": {**spec, "num_cores": 10**9}},
    "cpus that are true": lambda spec: {"web": {**spec, "num_cores": True}},
    "memory that is none": lambda spec: {"web": {**spec, "mem_size": []}},
    "memory without end": lambda spec: {"web": {**spec, "mem_size": "9" * 5000}},
    "a disk of no size": lambda spec: {"web": {**spec, "disk_space": "-1"}},
    "a state that is none": lambda spec: {"web": {**spec, "state": 99}},
    "a MAC that is none": lambda spec: {"web": {**spec, "mac_addr": "$(reboot)"}},
    "interfaces that are none": lambda spec: {"web": {**spec, "extra_interfaces": {"id": 1}}},
    "an interface that is a path": lambda spec: {"web": {**spec, "extra_interfaces": [{"id": "../../x"}]}},
    "a mount of nothing": lambda spec: {"web": {**spec, "mounts": [{"source_path": "x", "target_path": "y"}]}},
    "a mount of numbers": lambda spec: {
        "web": {
            **spec,
            "mounts": [
                {"source_path": "/x", "target_path": "y", "uid_mappings": [{"host_uid": "a", "instance_uid": 1}]}
            ],
        }
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_records_are_refused(runtime, one, name):
    one.write()
    path = pathlib.Path(one.root) / multipass.INSTANCES
    content = HOSTILE[name](one.specs["web"])
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(MinicloudError):
        origin(runtime, one).describe()


@pytest.mark.parametrize("path", ["../../../../etc/passwd", "/etc/passwd", "..", "", "a\0b", "C:\\x\\..", 5, None])
def test_a_disk_elsewhere_is_not_read(runtime, one, path):
    one.images["web"]["image"]["path"] = path
    one.write()
    with pytest.raises((NotFound, ImageError)):
        origin(runtime, one).describe()


def test_a_disk_that_is_a_link_is_not_read(runtime, one, tmp_path):
    disk = pathlib.Path(one.directory("web")) / DISK
    disk.rename(tmp_path / "elsewhere")
    disk.symlink_to(tmp_path / "elsewhere")
    one.write()
    with pytest.raises(NotFound, match="is missing"):
        origin(runtime, one).describe()


@pytest.mark.parametrize("file", [multipass.INSTANCES, "vault/multipassd-instance-image-records.json"])
def test_missing_files_are_named(runtime, one, file):
    one.write()
    os.remove(os.path.join(one.root, file))
    with pytest.raises(NotFound, match=os.path.basename(file)):
        origin(runtime, one).describe()


def test_nothing_is_read_while_multipass_writes(runtime, one):
    one.write()
    pathlib.Path(one.root, f"{multipass.INSTANCES}.lock").touch()
    with pytest.raises(InUse, match="Multipass is writing"):
        origin(runtime, one).describe()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"index": 2}, "describes the snapshot 2"),
        ({"index": "x"}, "not a number"),
        ({"parent": -5}, "not a number"),
        ({"num_cores": None}, "not a number"),
    ],
)
def test_hostile_snapshots_are_refused(runtime, one, change, why):
    one.snapshot("web", 1, **change)
    one.write()
    with pytest.raises(ImageError, match=why):
        origin(runtime, one).describe()


def test_snapshots_that_are_each_others_parents_are_refused(runtime, one):
    one.snapshot("web", 1, parent=2)
    one.snapshot("web", 2, parent=1)
    one.write()
    with pytest.raises(ImageError, match="each other's parents"):
        origin(runtime, one).describe()


def test_names_of_snapshots_become_ours(runtime, one):
    one.snapshot("web", 1, name="a.b")
    one.snapshot("web", 2, parent=1, name="Same")
    one.snapshot("web", 3, parent=99, name="same", comment="ü\0")
    one.write()
    found = {each.name: each for each in origin(runtime, one).describe().snapshots}
    # Those without a parent come first.
    assert sorted(found) == ["Same-2", "same", "snapshot1"]
    assert found["Same-2"].parent == found["snapshot1"].uuid
    assert (found["same"].parent, found["same"].comment) == ("", "ü")


@pytest.fixture
def snappy(one):
    """A tree of snapshots: 1 before 2 and 3, of which it goes on from 3; the disk has grown since 1."""
    disk = os.path.join(one.directory("web"), DISK)
    foreign.qemu_img("amend", "-o", "compat=1.1", disk)
    states = {}

    def write(offset, byte):
        fill(disk, offset, byte)

    write(MIB, 1)
    one.snapshot("web", 1)
    states[1] = raw_of(disk)
    foreign.qemu_img("resize", disk, str(2 * SIZE))
    write(2 * MIB, 2)
    one.specs["web"]["disk_space"] = str(2 * SIZE)
    one.snapshot("web", 2, parent=1)
    states[2] = raw_of(disk)
    foreign.qemu_img("snapshot", "-a", "@s2", disk)
    write(MIB, 0)
    write(5 * MIB, 3)
    one.snapshot("web", 3, parent=1)
    states[3] = raw_of(disk)
    write(6 * MIB, 4)
    states[0] = raw_of(disk)
    one.write()
    os.remove(f"{disk}.raw")
    return one, states


def test_internal_snapshots_become_layers(runtime, vault, snappy):
    made, states = snappy
    before = {path: path.read_bytes() for path in pathlib.Path(made.root).rglob("*") if path.is_file()}
    source = origin(runtime, made)
    uuids = {each.name: each.uuid for each in source.describe().snapshots}
    with source.bring(vault, "x86_64", layered=True) as brought:
        layered, base = brought.layered, brought.image.path
        first, second, third = (uuids[f"snapshot{number}"] for number in (1, 2, 3))
        assert layered.backing == {first: "", second: first, third: first}
        assert layered.below == third
        files = layered.files
        assert raw_of(files[first], base) == states[1]
        assert raw_of(files[second], files[first], base) == states[2]
        assert raw_of(files[third], files[first], base) == states[3]
        assert raw_of(layered.disk, files[third], files[first], base) == states[0]
        # Each has only what differs.
        for path in (files[first], files[second], layered.disk):
            assert os.path.getsize(path) < 600_000
    # It was only read.
    assert before == {path: path.read_bytes() for path in pathlib.Path(made.root).rglob("*") if path.is_file()}
    assert not [name for name in os.listdir(vault.path) if name.startswith("work-")]


def test_without_layers_the_disk_comes_as_it_is_now(runtime, vault, snappy):
    made, states = snappy
    with origin(runtime, made).bring(vault, "x86_64", layered=False) as brought:
        assert brought.layered is None
        assert raw_of(brought.image.path) == states[0]


def test_a_snapshot_that_the_disk_does_not_have_is_an_error(runtime, vault, one):
    one.snapshot("web", 1)
    one.write()
    foreign.qemu_img("snapshot", "-d", "@s1", os.path.join(one.directory("web"), DISK))
    with pytest.raises(ImageError, match="does not have its snapshot"):
        with origin(runtime, one).bring(vault, "x86_64", layered=True):
            pass


def test_a_disk_with_a_suspended_machine_in_it_is_refused(runtime, vault, one):
    one.write()
    disk = os.path.join(one.directory("web"), DISK)
    foreign.qemu_img("snapshot", "-c", "suspend", disk)
    with pytest.raises(InUse, match="when it was suspended"):
        with origin(runtime, one).bring(vault, "x86_64", layered=True):
            pass


def test_a_disk_that_names_another_file_is_refused(runtime, vault, one, tmp_path):
    disk = os.path.join(one.directory("web"), DISK)
    foreign.patch(disk, 8, (0x300).to_bytes(8, "big") + (11).to_bytes(4, "big"))
    one.write()
    with pytest.raises(ImageError, match="overlay"):
        with origin(runtime, one).bring(vault, "x86_64", layered=True):
            pass
    assert not [name for name in os.listdir(vault.path) if name.startswith("work-")]
