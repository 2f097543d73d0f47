# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import struct
import subprocess

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._guest.iso9660 import iso_files, iso_image

FILES = {
    "user-data": b"#cloud-config\n{}\n",
    "meta-data": b"m" * 2048,
    "vendor-data": bytes(range(256)) * 33,
    "network-config": b"",
}


def read_tree(image: bytes, descriptor: int) -> dict[str, bytes]:
    """The files of one of the two trees, read as ECMA-119 and Joliet describe them."""
    at = descriptor * 2048
    assert image[at + 1 : at + 6] == b"CD001"
    joliet = image[at + 88 : at + 91] == b"%/E"
    (sectors,) = struct.unpack_from("<I", image, at + 80)
    assert sectors * 2048 == len(image)
    root, size = struct.unpack_from("<I4xI", image, at + 156 + 2)
    little, big = struct.unpack_from("<I", image, at + 140)[0], struct.unpack_from(">I", image, at + 148)[0]
    assert struct.unpack_from("<I", image, little * 2048 + 2)[0] == root
    assert struct.unpack_from(">I", image, big * 2048 + 2)[0] == root
    files = {}
    order = []
    for start in range(root * 2048, root * 2048 + size, 2048):
        offset = start
        while offset < start + 2048 and image[offset]:
            length, width = image[offset], image[offset + 32]
            assert length % 2 == 0
            assert offset + length <= start + 2048
            sector, sector_big, count, count_big = (
                struct.unpack("<I", image[offset + 2 : offset + 6])
                + struct.unpack(">I", image[offset + 6 : offset + 10])
                + struct.unpack("<I", image[offset + 10 : offset + 14])
                + struct.unpack(">I", image[offset + 14 : offset + 18])
            )
            assert (sector, count) == (sector_big, count_big)
            raw = image[offset + 33 : offset + 33 + width]
            if raw not in (b"\0", b"\1"):
                name = raw.decode("utf-16-be" if joliet else "ascii")
                order.append(raw)
                files[name] = image[sector * 2048 : sector * 2048 + count]
            offset += length
    assert order == sorted(order)
    return files


def test_both_trees_hold_the_files() -> None:
    image = iso_image(FILES, "cidata")
    assert len(image) % 2048 == 0
    assert read_tree(image, 17) == {f"{name};1": content for name, content in FILES.items()}
    assert read_tree(image, 16) == {f"{name.upper()}.;1": content for name, content in FILES.items()}


def test_label_in_both_descriptors() -> None:
    image = iso_image(FILES, "cidata")
    assert image[16 * 2048 + 40 : 16 * 2048 + 72] == b"cidata".ljust(32)
    assert image[17 * 2048 + 40 : 17 * 2048 + 72] == "cidata".ljust(16).encode("utf-16-be")
    assert image[18 * 2048 : 18 * 2048 + 7] == b"\xffCD001\x01"


def test_same_files_make_the_same_image() -> None:
    assert iso_image(FILES, "cidata") == iso_image(dict(reversed(list(FILES.items()))), "cidata")


def test_directory_of_several_sectors() -> None:
    files = {f"some-long-file-name-{number:03d}.x": str(number).encode() for number in range(120)}
    assert read_tree(iso_image(files, "many"), 17) == {f"{name};1": content for name, content in files.items()}
    assert len(read_tree(iso_image(files, "many"), 16)) == 120


def test_no_files() -> None:
    assert read_tree(iso_image({}, "cidata"), 16) == {}


@pytest.mark.parametrize("name", ["", "a/b", "x" * 29, "ü", "a;1", "a\n"])
def test_names_that_do_not_fit(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        iso_image({name: b""}, "cidata")


def test_names_that_differ_in_case_only() -> None:
    with pytest.raises(ValueError, match="case"):
        iso_image({"a": b"", "A": b""}, "cidata")


def test_label_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="label"):
        iso_image({}, "x" * 17)


@pytest.mark.parametrize("options", ["ro", "ro,nojoliet"])
def test_the_kernel_reads_it(tmp_path, options: str) -> None:
    with open("/proc/filesystems", encoding="ascii") as stream:
        known = "iso9660" in stream.read()
    if os.geteuid() != 0 or not known or not os.path.exists("/dev/loop-control"):
        pytest.skip("needs root, loop devices and a kernel with iso9660")
    image = tmp_path / "seed.iso"
    image.write_bytes(iso_image(FILES, "cidata"))
    place = tmp_path / "mounted"
    place.mkdir()
    if subprocess.run(["mount", "-o", f"loop,{options}", str(image), str(place)], check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount loop devices")
    try:
        assert {entry.name: entry.read_bytes() for entry in place.iterdir()} == FILES
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_what_is_in_an_image_can_be_read_again():
    files = {f"file-{number}": bytes([number]) * number * 100 for number in range(1, 60)}
    files["empty"] = b""
    assert iso_files(iso_image(files, "cidata")) == files
    with pytest.raises(ValueError, match="no image of this kind"):
        iso_files(b"something else")
