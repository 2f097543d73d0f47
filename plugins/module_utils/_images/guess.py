# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What the file name of an image says about the system in it, for images that nobody describes."""

from __future__ import annotations

import re
import typing as t


class Guess(t.NamedTuple):
    """As in the model's Image; empty where the name does not say. arch -- the kernel's name of it."""

    os: str = ""
    release: str = ""
    version: str = ""
    user: str = ""
    arch: str = ""


_UBUNTU = {
    "14.04": "trusty",
    "16.04": "xenial",
    "18.04": "bionic",
    "20.04": "focal",
    "22.04": "jammy",
    "24.04": "noble",
    "24.10": "oracular",
    "25.04": "plucky",
    "25.10": "questing",
    "26.04": "resolute",
}
_DEBIAN = {"10": "buster", "11": "bullseye", "12": "bookworm", "13": "trixie", "14": "forky"}
_VERSIONS = {
    "ubuntu": {name: number for number, name in _UBUNTU.items()},
    "debian": {name: number for number, name in _DEBIAN.items()},
}
_RELEASES = {"ubuntu": _UBUNTU, "debian": _DEBIAN}

# Name in the file name, os, login user. `version` or `release` are groups of the pattern.
_TABLE = tuple(
    (re.compile(pattern, re.IGNORECASE), os, user)
    for pattern, os, user in (
        (rf"^(?P<release>{'|'.join(_UBUNTU.values())})-(?:server|minimal|cloudimg)", "ubuntu", "ubuntu"),
        (r"ubuntu-(?P<version>\d\d\.\d\d)", "ubuntu", "ubuntu"),
        (r"^debian-(?P<version>\d+)(?=[-.])", "debian", "debian"),
        (rf"^debian-(?P<release>{'|'.join(_DEBIAN.values())}|sid)(?=[-.])", "debian", "debian"),
        (r"^fedora-.*?-(?P<version>\d\d)(?=[-_.])", "fedora", "fedora"),
        (r"^fedora", "fedora", "fedora"),
        (r"^almalinux-(?P<version>\d+(?:\.\d+)?)(?=-)", "almalinux", "almalinux"),
        (r"^rocky-(?P<version>\d+(?:\.\d+)?)(?=-)", "rocky", "rocky"),
        (r"^centos-stream-(?:[a-z]\w*-)*(?P<version>\d+)(?=-)", "centos", "cloud-user"),
        (r"^centos-(?P<version>\d+)(?=-)", "centos", "centos"),
        (r"^rhel-(?:[a-z]+-)*(?P<version>\d+(?:\.\d+)?)(?=-)", "rhel", "cloud-user"),
        (r"^opensuse-leap-(?P<version>\d+\.\d+)", "opensuse-leap", "opensuse"),
        (r"^opensuse-tumbleweed", "opensuse-tumbleweed", "opensuse"),
        (r"^sles?-?(?P<version>\d+(?:-sp\d)?)", "sles", "sles"),
        (r"^arch-linux", "arch", "arch"),
        (r"^(?:nocloud|generic)_alpine-(?P<version>\d+\.\d+(?:\.\d+)?)", "alpine", "alpine"),
        (r"^al(?P<version>2023)-", "amzn", "ec2-user"),
        (r"^amzn2?-", "amzn", "ec2-user"),
        (r"^ol(?P<version>\d+)u?\d*[_-]", "ol", "cloud-user"),
        (r"^freebsd-(?P<version>\d+\.\d+)", "freebsd", "freebsd"),
    )
)

_ARCHITECTURES = (
    (re.compile(r"(?:^|[-_.])(?:amd64|x86[_-]64|x64)(?=$|[-_.])", re.IGNORECASE), "x86_64"),
    (re.compile(r"(?:^|[-_.])(?:arm64|aarch64)(?=$|[-_.])", re.IGNORECASE), "aarch64"),
    (re.compile(r"(?:^|[-_.])(?:ppc64el|ppc64le)(?=$|[-_.])", re.IGNORECASE), "ppc64le"),
    (re.compile(r"(?:^|[-_.])s390x(?=$|[-_.])", re.IGNORECASE), "s390x"),
    (re.compile(r"(?:^|[-_.])riscv64(?=$|[-_.])", re.IGNORECASE), "riscv64"),
)


def guess(filename: str) -> Guess:
    """What the name of an image file (without its directory) says about the system in it."""
    arch = next((name for pattern, name in _ARCHITECTURES if pattern.search(filename)), "")
    for pattern, os, user in _TABLE:
        match = pattern.search(filename)
        if not match:
            continue
        found = {key: value.lower() for key, value in match.groupdict().items() if value}
        release, version = found.get("release", ""), found.get("version", "")
        release = release or _RELEASES.get(os, {}).get(version, "")
        version = version or _VERSIONS.get(os, {}).get(release, "")
        return Guess(os, release, version, user, arch)
    return Guess(arch=arch)
