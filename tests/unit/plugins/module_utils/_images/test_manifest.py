# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._images import manifest
from ansible_collections.minicloud.local.plugins.module_utils._images.simplestreams import pick

MANIFEST = {
    "Debian": {
        "aliases": "debian, trixie",
        "items": {
            "arm64": {"id": "a" * 64, "image_location": "debian-13-arm64.qcow2", "size": 1, "version": "20260112"},
            "x86_64": {
                "id": "sha512:" + "b" * 128,
                "image_location": "https://example.com/debian-13-amd64.qcow2",
                "size": 433910272,
                "version": "20260112",
            },
        },
        "os": "Debian",
        "release": "trixie",
        "release_codename": "Trixie",
        "release_title": "13",
    },
    "Fedora": {
        "aliases": "fedora",
        "items": {
            "x86_64": {
                "id": "c" * 64,
                "image_location": "https://example.com/fedora.qcow2",
                "size": 583335936,
                "version": "20251023",
                "firmware": "uefi",
            }
        },
        "os": "Fedora",
        "release": "",
        "release_codename": "44",
        "release_title": "44",
        "user": "admin",
    },
}


def test_images_of_an_architecture():
    debian, fedora = manifest.parse_products(MANIFEST, "amd64")
    assert (debian.os, debian.release, debian.version, debian.title) == ("debian", "trixie", "13", "Debian 13")
    assert debian.user == "debian"
    assert debian.builds[0].disk.sha512 == "b" * 128
    assert debian.builds[0].disk.sha256 == ""
    assert (fedora.release, fedora.version, fedora.user) == ("44", "44", "admin")
    assert fedora.builds[0].disk.firmware == "uefi"
    assert [product.key for product in manifest.parse_products(MANIFEST, "aarch64")] == ["Debian"]
    assert manifest.parse_products(MANIFEST, "s390x") == []


@pytest.mark.parametrize("name", ["debian", "trixie", "13", "b" * 128, "b" * 10])
def test_lookup(name):
    product, build = pick(manifest.parse_products(MANIFEST, "x86_64"), name, "disk", "ours")
    assert (product.key, build.serial) == ("Debian", "20260112")


def test_architectures():
    assert manifest.architectures(MANIFEST) == {"x86_64", "aarch64"}


@pytest.mark.parametrize("content", [None, [], {"products": {}}, {"index": {}}, {"a": 1}, {"a": {"items": []}}])
def test_what_is_no_manifest(content):
    with pytest.raises(ValueError, match=r"manifest|item"):
        manifest.architectures(content)


@pytest.mark.parametrize("digest", ["", "abc", "md5:" + "a" * 32, "sha512:" + "a" * 64, "g" * 64, None])
def test_image_without_a_sound_hash(digest):
    content = copy.deepcopy(MANIFEST)
    content["Debian"]["items"]["arm64"]["id"] = digest
    with pytest.raises(ValueError, match="'Debian' has an id"):
        manifest.architectures(content)


def test_image_without_a_location():
    content = copy.deepcopy(MANIFEST)
    del content["Debian"]["items"]["x86_64"]["image_location"]
    with pytest.raises(ValueError, match="no image_location"):
        manifest.architectures(content)
