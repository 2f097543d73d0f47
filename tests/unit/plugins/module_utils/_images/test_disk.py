# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a file really is, and its conversion."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError, NoSpace
from ansible_collections.minicloud.local.plugins.module_utils._images import disk

MIB = 1 << 20


def bootable(size=4 * MIB, seed=1):
    """A raw disk with a partition table and something in its partition."""
    content = bytearray(size)
    content[446:462] = struct.pack("<B3sB3sII", 0x80, b"\0\0\0", 0x83, b"\0\0\0", 2048, size // 512 - 2048)
    content[510:512] = b"\x55\xaa"
    filler = random.Random(seed)
    content[MIB : 2 * MIB] = filler.getrandbits(8 * 65536).to_bytes(65536, "big") * 16
    return bytes(content)


def qemu_img(*argv):
    subprocess.run(["qemu-img", *argv], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    path.write_bytes(bootable())
    return str(path)


def convert(raw, target, *options, format_="qcow2"):
    qemu_img("convert", "-f", "raw", "-O", format_, *options, raw, str(target))
    return str(target)


def content(path):
    done = subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, f"{path}.raw"], check=True)
    assert done.returncode == 0
    with open(f"{path}.raw", "rb") as stream:
        return stream.read()


def info(path):
    return json.loads(
        subprocess.run(["qemu-img", "info", "--output=json", path], check=True, capture_output=True).stdout
    )


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("raw", ()),
        ("qcow2", ()),
        ("qcow2", ("-c",)),
        ("qcow2", ("-c", "-o", "compression_type=zstd")),
        ("qcow2", ("-o", "compat=0.10")),
        ("qcow2", ("-o", "cluster_size=4k")),
        ("vmdk", ()),
        ("vmdk", ("-o", "subformat=streamOptimized")),
        ("vhdx", ()),
        ("vpc", ()),
        ("vpc", ("-o", "subformat=fixed")),
        ("vdi", ()),
        ("vdi", ("-o", "static=on")),
    ],
)
@pytest.mark.parametrize("movable", [False, True])
def test_every_format_becomes_an_uncompressed_qcow2(raw, tmp_path, runtime, format_, options, movable):
    source = convert(raw, tmp_path / "source", *options, format_=format_)
    target = str(tmp_path / "disk.qcow2")
    size = disk.prepare(runtime, source, target, "x", movable)
    facts = info(target)
    assert facts["format"] == "qcow2"
    assert facts["format-specific"]["data"]["compat"] == "1.1"
    assert facts["virtual-size"] == size
    check = subprocess.run(["qemu-img", "check", "--output=json", target], check=True, capture_output=True)
    assert not json.loads(check.stdout).get("compressed-clusters")
    assert content(target)[: 4 * MIB] == bootable()
    assert os.stat(target).st_mode & 0o777 == 0o600
    assert os.path.exists(source) != (movable and format_ == "qcow2" and not options)


def test_an_image_that_is_ready_is_only_moved(raw, tmp_path, runtime):
    source = convert(raw, tmp_path / "source")
    inode = os.stat(source).st_ino
    disk.prepare(runtime, source, str(tmp_path / "disk.qcow2"), "x", movable=True)
    assert os.stat(tmp_path / "disk.qcow2").st_ino == inode


def test_snapshots_do_not_come_along(raw, tmp_path, runtime):
    source = convert(raw, tmp_path / "source")
    qemu_img("snapshot", "-c", "first", source)
    disk.prepare(runtime, source, str(tmp_path / "disk.qcow2"), "x", movable=True)
    assert "snapshots" not in info(str(tmp_path / "disk.qcow2"))


NOT_A_DISK = [
    (b"", "an empty file"),
    (b"\n <!DOCTYPE html><html><body>404</body></html>", "a web page.*leads to a page"),
    (b'{"error": "not found"}', "it seems to be a text. Check"),
    (b"\x1f\x8b\x08\0" + bytes(600), "compressed twice.*gzip"),
    (b"PK\x03\x04" + bytes(600), "a zip archive"),
    (bytes(257) + b"ustar\0" + bytes(600), "a tar archive"),
    (b"hsqs" + bytes(600), "a squashfs file system"),
    (b"\x7fELF" + bytes(600), "a program"),
    (bytes(0x8001) + b"CD001" + bytes(600), "an ISO image.*cloud image"),
    (bytes(510) + b"\x55\xaa" + bytes(0x8001 - 512) + b"CD001" + bytes(600), "an ISO image"),
    (bytes(1080) + b"\x53\xef" + bytes(600), "an ext4 file system without"),
    (b"XFSB" + bytes(600), "an XFS file system without"),
    (bytes(100_000), "nothing but zeros"),
    (bytes(range(256)) * 20, "data of an unknown kind"),
    (b"QED\0" + bytes(600), "format qed"),
    (b"# Disk DescriptorFile\nversion=1\n", "names other files"),
]


@pytest.mark.parametrize(("data", "words"), NOT_A_DISK, ids=[words.split(".*")[0] for dummy, words in NOT_A_DISK])
def test_what_is_no_disk_is_told_by_what_it_is(tmp_path, runtime, data, words):
    (tmp_path / "source").write_bytes(data)
    with pytest.raises(ImageError, match=rf"^the-name is not a disk image.*{words}"):
        disk.prepare(runtime, str(tmp_path / "source"), str(tmp_path / "disk.qcow2"), "the-name")
    assert os.listdir(tmp_path) == ["source"]


def test_a_boot_loader_may_have_the_magic_of_a_file_system_in_it(tmp_path):
    data = bytearray(bootable())
    data[1080:1082] = b"\x53\xef"
    (tmp_path / "source").write_bytes(data)
    assert disk.inspect(str(tmp_path / "source"), "x").format == "raw"


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(b"secret" * 100_000)
    return str(path)


def test_a_backing_file_is_refused(tmp_path, runtime, secret):
    source = str(tmp_path / "source")
    qemu_img("create", "-f", "qcow2", "-b", secret, "-F", "raw", source)
    with pytest.raises(ImageError, match="is refused: it is an overlay"):
        disk.prepare(runtime, source, str(tmp_path / "disk.qcow2"), "x")


@pytest.mark.parametrize("options", ["", ",data_file_raw=on"])
def test_an_external_data_file_is_refused(tmp_path, runtime, secret, options):
    source = str(tmp_path / "source")
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path}/data{options}", source, "1M")
    with pytest.raises(ImageError, match="is refused: it keeps its data in another file"):
        disk.prepare(runtime, source, str(tmp_path / "disk.qcow2"), "x")


def test_an_overlay_of_the_format_vmdk_is_refused(raw, tmp_path, runtime):
    base = convert(raw, tmp_path / "base", format_="vmdk")
    source = str(tmp_path / "source")
    qemu_img("create", "-f", "vmdk", "-b", base, "-F", "vmdk", source)
    with pytest.raises(ImageError, match="is refused: it is an overlay"):
        disk.prepare(runtime, source, str(tmp_path / "disk.qcow2"), "x")


def test_a_vmdk_that_names_other_files_is_refused(raw, tmp_path, runtime):
    convert(raw, tmp_path / "source", "-o", "subformat=monolithicFlat", format_="vmdk")
    with pytest.raises(ImageError, match="names other files"):
        disk.prepare(runtime, str(tmp_path / "source"), str(tmp_path / "disk.qcow2"), "x")


def test_a_vmdk_without_a_size_of_its_own_is_refused(raw, tmp_path, runtime):
    source = convert(raw, tmp_path / "source", format_="vmdk")
    with open(source, "r+b") as stream:
        stream.seek(12)
        stream.write(bytes(8))
    with pytest.raises(ImageError, match="has its data elsewhere"):
        disk.prepare(runtime, source, str(tmp_path / "disk.qcow2"), "x")


def test_an_encrypted_image_is_refused(raw, tmp_path, runtime):
    source = convert(raw, tmp_path / "source")
    with open(source, "r+b") as stream:
        stream.seek(32)
        stream.write(struct.pack(">I", 2))
    with pytest.raises(ImageError, match="it is encrypted"):
        disk.prepare(runtime, source, str(tmp_path / "disk.qcow2"), "x")


@pytest.mark.parametrize(
    ("format_", "options", "keep"),
    [
        ("qcow2", (), 50),
        ("qcow2", (), 100_000),
        ("qcow2", (), 800_000),
        ("qcow2", ("-c",), 20_000),
        ("vmdk", ("-o", "subformat=streamOptimized"), 30_000),
        ("vdi", (), 1_500_000),
        ("raw", (), 1_500_000),
    ],
)
def test_a_file_that_was_cut_short_is_noticed(raw, tmp_path, runtime, format_, options, keep):
    source = convert(raw, tmp_path / "source", *options, format_=format_)
    os.truncate(source, min(keep, os.path.getsize(source) - 66_000) if "-c" in options else keep)
    with pytest.raises(ImageError, match=r"the-name (is damaged|is not|was not converted)"):
        disk.prepare(runtime, source, str(tmp_path / "disk.qcow2"), "the-name")
    assert not os.path.exists(tmp_path / "disk.qcow2")


def test_a_partition_table_that_reaches_beyond_the_end_is_noticed(tmp_path):
    data = bytearray(bootable())
    data[450] = 0xEE
    data[512:520] = b"EFI PART"
    data[544:552] = struct.pack("<Q", len(data) // 512 - 1)
    (tmp_path / "source").write_bytes(data)
    assert disk.inspect(str(tmp_path / "source"), "x").format == "raw"
    (tmp_path / "source").write_bytes(data[:-512])
    with pytest.raises(ImageError, match="cut short"):
        disk.inspect(str(tmp_path / "source"), "x")


def test_garbage_after_a_good_beginning(raw, tmp_path, runtime):
    source = convert(raw, tmp_path / "source")
    with open(source, "r+b") as stream:
        stream.seek(104)
        stream.write(os.urandom(500_000))
    with pytest.raises(ImageError):
        disk.prepare(runtime, source, str(tmp_path / "disk.qcow2"), "x")


def test_too_little_space_is_noticed_before_the_work(raw, tmp_path, runtime, monkeypatch):
    monkeypatch.setattr(disk, "free_space", lambda path: MIB // 2)
    with pytest.raises(NoSpace, match=r"needs .* and 512 KiB are free"):
        disk.prepare(runtime, raw, str(tmp_path / "disk.qcow2"), "x")
    assert os.listdir(tmp_path) == []
