# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images of containers: what a file is, however it comes."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import tarfile

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError
from ansible_collections.minicloud.local.plugins.module_utils._images import lxd_metadata, unpack
from ansible_collections.minicloud.local.plugins.module_utils._images.root import Root, RootScan
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._images.archives import (
    CREATED,
    METADATA,
    SYSTEM,
    bare,
    metadata_file,
    noise,
    squashfs,
    tar,
    unified,
)


def scan(runtime, data, chunk=1 << 18, deep=True):
    outlet = RootScan("it", runtime, deep)
    try:
        for start in range(0, len(data), chunk):
            outlet.feed(data[start : start + chunk])
        outlet.finish()
    finally:
        outlet.abandon()
    return outlet.root


PACKERS = {"tar": bytes, "tar.gz": gzip.compress, "tar.xz": lzma.compress, "tar.bz2": bz2.compress}


@pytest.mark.parametrize("chunk", [333, 512, 4096, 1 << 20])
@pytest.mark.parametrize("format_", list(PACKERS))
def test_archives_in_pieces_of_any_size(runtime, format_, chunk):
    pack = PACKERS[format_]
    assert scan(runtime, pack(bare()), chunk) == Root(format_, CREATED)
    found = scan(runtime, pack(unified()), chunk)
    assert (found.format, found.unified, json.loads(found.metadata)) == (format_, True, METADATA)


def test_an_archive_compressed_with_zstd(runtime, tmp_path):
    if not unpack.find_program("zstd"):
        pytest.skip("zstd is not installed")
    packed = subprocess.run(["zstd", "-c"], input=unified(), check=True, capture_output=True).stdout
    assert scan(runtime, packed)[::3] == ("tar.zst", True)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_every_kind(runtime, form):
    long = "rootfs/" + "/".join(["d" * 60] * 2) + "/" + "f" * 90
    data = tar({"metadata.yaml": json.dumps(METADATA).encode(), long: b"x" * 700, "rootfs/etc/z": b""}, form=form)
    assert scan(runtime, data).unified


def test_what_tar_itself_makes(runtime, tmp_path):
    tree = tmp_path / "rootfs"
    (tree / "etc").mkdir(parents=True)
    (tree / "usr" / ("é" * 60) / ("x" * 200)).mkdir(parents=True)
    with open(tree / "etc" / "sparse", "wb") as stream:
        for number in range(40):  # more holes than one header tells of
            stream.seek(number * 100_000)
            stream.write(b"data")
    (tmp_path / "metadata.yaml").write_text(json.dumps(METADATA))
    for form in ("gnu", "posix", "pax"):
        argv = ["tar", "-S", f"--format={form}", "-C", str(tmp_path), "-cf", "-", "rootfs", "metadata.yaml"]
        data = subprocess.run(argv, check=True, capture_output=True).stdout
        assert scan(runtime, data).unified


def test_squashfs(runtime, tmp_path):
    data = squashfs(tmp_path)
    assert scan(runtime, data) == Root("squashfs", CREATED)
    assert scan(runtime, data, deep=False) == Root("squashfs", CREATED)
    with pytest.raises(ImageError, match="damaged: it is cut short"):
        scan(runtime, data[:-5000])
    with pytest.raises(ImageError, match=r"compressed with gzip.*Decompress it"):
        scan(runtime, gzip.compress(data))


@pytest.mark.parametrize("format_", list(PACKERS))
@pytest.mark.parametrize("left", [0.3, 0.9])
def test_archives_that_are_cut_short(runtime, format_, left):
    data = PACKERS[format_](bare())
    with pytest.raises(ImageError, match=r"it is cut short|ends too early"):
        scan(runtime, data[: int(len(data) * left)])


def test_an_archive_with_something_else_in_the_middle(runtime):
    data = bytearray(bare())
    data[512 * 2 : 512 * 3] = noise(3, 512)
    with pytest.raises(ImageError, match="something else in it where a member should begin"):
        scan(runtime, bytes(data))


QCOW2 = b"QFI\xfb" + bytes(200_000)
RAW = bytes(510) + b"\x55\xaa" + b"x" * 200_000


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (QCOW2, r"disk of a virtual machine \(qcow2\)\. Use instance_type: vm"),
        (QCOW2[:3000], r"disk of a virtual machine \(qcow2\)"),
        (RAW, r"disk of a virtual machine \(raw\)"),
        (gzip.compress(RAW), r"disk of a virtual machine \(raw\)"),
        (lzma.compress(QCOW2), r"disk of a virtual machine \(qcow2\)"),
        (b"", "an empty file"),
        (b"<html>Log in</html>", "a web page"),
        (b"<html>Log in</html>" * 10_000, "a web page"),
        (gzip.compress(b"x" * 2000), "a text"),
        (noise(1, 200_000), "data of an unknown kind"),
        (metadata_file(), r"only the metadata of one"),
        (tar(SYSTEM, "rootfs/"), r"no metadata\.yaml beside it"),
        (tar({"backup/index.yaml": b"", "backup/container/rootfs/etc/x": b""}), r"Restore it with lxc import"),
        (tar({"manifest.json": b"[]", "a1b2/layer.tar": b""}), "image of Docker"),
        (tar({"disk.raw": RAW}), "tar archive with the disk of a virtual machine"),
        (tar({"debian/etc/os-release": b""}), "tar archive of something else"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value[:20],
)
def test_what_is_no_image_of_a_container(runtime, data, words):
    with pytest.raises(ImageError, match=words) as caught:
        scan(runtime, data)
    assert str(caught.value).startswith("it is not the image of a container")
    assert caught.value.hint


def test_a_bomb_is_stopped(runtime, monkeypatch):
    monkeypatch.setattr(unpack, "HARMLESS", 1 << 20)
    monkeypatch.setattr(unpack, "HIGHEST_RATIO", 20)
    with pytest.raises(ImageError, match="looks made to fill disks"):
        scan(runtime, gzip.compress(tar({"etc/zeros": bytes(8 << 20)})))


def test_metadata_of_a_hostile_size_are_refused(runtime):
    with pytest.raises(ImageError, match="more than a mebibyte"):
        scan(runtime, tar({"metadata.yaml": b" " * (2 << 20)}))


def test_metadata_describe_an_image():
    said = lxd_metadata.describe(json.dumps(METADATA).encode())
    assert said == ("x86_64", "debian", "trixie", "13", "Debian trixie")
    for text in (b"", b"[1]", b"{", b"a: b: c", b"properties: 3"):
        assert lxd_metadata.describe(text) == ("", "", "", "", "")


def test_metadata_that_are_made_have_all_that_lxd_asks_for():
    files = lxd_metadata.files("x86_64", 0, {"os": "debian"})
    metadata = json.loads(files["metadata.yaml"])
    assert (metadata["architecture"], metadata["properties"]) == ("x86_64", {"os": "debian"})
    assert metadata["creation_date"] > 0
    seed = "/var/lib/cloud/seed/nocloud-net/"
    wanted = {"/etc/hostname", *(seed + name for name in ("meta-data", "user-data", "vendor-data", "network-config"))}
    assert set(metadata["templates"]) == wanted
    for template in metadata["templates"].values():
        assert template["when"] == ["create", "copy"]
        assert files[f"templates/{template['template']}"]
    for key in ("user-data", "vendor-data", "network-config"):
        template = metadata["templates"][seed + key]
        assert f'config_get("cloud-init.{key}"' in files[f"templates/{template['template']}"].decode()
        assert template["properties"]["default"]
    assert lxd_metadata.tarball(files, 7) == lxd_metadata.tarball(files, 7)
    assert scan_members(lxd_metadata.tarball(files, 7)) == list(files)


def scan_members(data):
    import io

    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()
