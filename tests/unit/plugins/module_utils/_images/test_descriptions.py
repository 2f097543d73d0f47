# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What file names say about images, and what lists of checksums say about files."""

from __future__ import annotations

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError, InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._images.checksum import (
    Promise,
    find_in_list,
    parse_checksum,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.guess import guess

A, B, C = "a" * 64, "b" * 64, "c" * 128


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("noble-server-cloudimg-amd64.img", ("ubuntu", "noble", "24.04", "ubuntu", "x86_64")),
        ("jammy-minimal-cloudimg-arm64.img", ("ubuntu", "jammy", "22.04", "ubuntu", "aarch64")),
        ("ubuntu-24.04-server-cloudimg-amd64.img", ("ubuntu", "noble", "24.04", "ubuntu", "x86_64")),
        ("debian-12-generic-amd64.qcow2", ("debian", "bookworm", "12", "debian", "x86_64")),
        ("debian-13-genericcloud-arm64-daily.qcow2", ("debian", "trixie", "13", "debian", "aarch64")),
        ("debian-sid-nocloud-amd64-daily.qcow2", ("debian", "sid", "", "debian", "x86_64")),
        ("Fedora-Cloud-Base-Generic-41-1.4.x86_64.qcow2", ("fedora", "", "41", "fedora", "x86_64")),
        ("Fedora-Cloud-Base-39-1.5.aarch64.raw.xz", ("fedora", "", "39", "fedora", "aarch64")),
        ("AlmaLinux-9-GenericCloud-latest.x86_64.qcow2", ("almalinux", "", "9", "almalinux", "x86_64")),
        ("Rocky-9-GenericCloud.latest.x86_64.qcow2", ("rocky", "", "9", "rocky", "x86_64")),
        ("CentOS-Stream-GenericCloud-9-latest.x86_64.qcow2", ("centos", "", "9", "cloud-user", "x86_64")),
        ("CentOS-Stream-GenericCloud-x86_64-9-latest.x86_64.qcow2", ("centos", "", "9", "cloud-user", "x86_64")),
        ("rhel-9.4-x86_64-kvm.qcow2", ("rhel", "", "9.4", "cloud-user", "x86_64")),
        ("openSUSE-Leap-15.6.x86_64-NoCloud.qcow2", ("opensuse-leap", "", "15.6", "opensuse", "x86_64")),
        ("openSUSE-Tumbleweed-Minimal-VM.x86_64-Cloud.qcow2", ("opensuse-tumbleweed", "", "", "opensuse", "x86_64")),
        ("Arch-Linux-x86_64-cloudimg.qcow2", ("arch", "", "", "arch", "x86_64")),
        ("nocloud_alpine-3.20.3-x86_64-bios-cloudinit-r0.qcow2", ("alpine", "", "3.20.3", "alpine", "x86_64")),
        ("al2023-kvm-2023.6.20241010.0-kernel-6.1-x86_64.xfs.gpt.qcow2", ("amzn", "", "2023", "ec2-user", "x86_64")),
        ("OL9U4_x86_64-kvm-b234.qcow2", ("ol", "", "9", "cloud-user", "x86_64")),
        ("FreeBSD-14.1-RELEASE-amd64-BASIC-CLOUDINIT.ufs.qcow2.xz", ("freebsd", "", "14.1", "freebsd", "x86_64")),
        ("disk.img", ("", "", "", "", "")),
        ("my-image-aarch64.raw", ("", "", "", "", "aarch64")),
    ],
)
def test_guess(name, expected):
    assert guess(name) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        (f"sha256:{A.upper()}", Promise("sha256", A)),
        (f"sha512:{C}", Promise("sha512", C)),
        ("sha256:https://example.com/SHA256SUMS", Promise("sha256", "https://example.com/SHA256SUMS")),
    ],
)
def test_checksums(text, expected):
    assert parse_checksum(text) == expected


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (A, f"Write sha256:{A}"),
        (C, f"Write sha512:{C}"),
        (f"md5:{A}", "does not begin with sha256: or sha512:"),
        ("sha256:abc", "64 hexadecimal digits, and this has 3"),
        (f"sha512:{A}", "128 hexadecimal digits, and this has 64"),
        (f"sha256:{'g' * 64}", "hexadecimal"),
        ("sha256:ftp://example.com/SUMS", "hexadecimal"),
        ("https://example.com/SHA256SUMS", "sha256:https"),
    ],
)
def test_checksums_that_cannot_be_meant(text, hint):
    with pytest.raises(InvalidOption) as caught:
        parse_checksum(text)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"{B}  other.img\n{A}  disk.img\n",
        f"{B} *other.img\r\n{A} *disk.img\r\n",
        f"{A}  ./images/disk.img\n",
        f"SHA256 (other.img) = {B}\nSHA256 (disk.img) = {A}\n",
        f"-----BEGIN PGP SIGNED MESSAGE-----\n\n# disk.img: 7 bytes\nSHA256 (disk.img) = {A}\n",
        f"{C}  disk.img\n{A}  disk.img\n",
        f"{A}\n",
    ],
)
def test_lists_of_checksums(text):
    assert find_in_list(text, "disk.img", "sha256", "https://example.com/SUMS") == A


def test_a_file_that_the_list_does_not_have():
    with pytest.raises(ImageError, match=r"SUMS has no sha256 checksum of disk\.img: it has those of a\.img, b\.img"):
        find_in_list(f"{B}  b.img\n{A}  a.img\n", "disk.img", "sha256", "SUMS")


def test_a_list_that_is_none():
    with pytest.raises(ImageError, match="no sha512 checksums at all"):
        find_in_list(f"{A}  disk.img\n", "disk.img", "sha512", "SUMS")
