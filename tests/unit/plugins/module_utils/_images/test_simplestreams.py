# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError
from ansible_collections.minicloud.local.plugins.module_utils._images import simplestreams
from ansible_collections.minicloud.local.plugins.module_utils._images.simplestreams import UnknownName, pick

SAMPLES = os.path.join(os.path.dirname(__file__), "samples")


def sample(name):
    with open(os.path.join(SAMPLES, name), encoding="utf-8") as stream:
        return json.load(stream)


def released(arch="x86_64"):
    return simplestreams.parse_products(sample("released-download.json"), arch)


def images(arch="x86_64"):
    return simplestreams.parse_products(sample("images-products.json"), arch)


def item(name, serial, ftype, field="sha256"):
    return sample("released-download.json")["products"][name]["versions"][serial]["items"][ftype][field]


NOBLE = "com.ubuntu.cloud:server:24.04:amd64"


def test_index_names_the_files_with_downloads():
    assert simplestreams.product_paths(sample("released-index.json")) == [
        ("com.ubuntu.cloud:released:download", "streams/v1/com.ubuntu.cloud:released:download.json")
    ]
    assert simplestreams.product_paths(sample("images-index.json")) == [("images", "streams/v1/images.json")]


@pytest.mark.parametrize("content", [None, [], {}, {"index": []}, {"index": {}}, {"index": {"a": {"datatype": "x"}}}])
def test_index_that_is_none(content):
    with pytest.raises(ValueError, match="simplestreams index"):
        simplestreams.product_paths(content)


@pytest.mark.parametrize("content", [None, [], {}, {"products": []}])
def test_products_that_are_none(content):
    with pytest.raises(ValueError, match="product file"):
        simplestreams.parse_products(content, "x86_64")


def test_products_with_surprises_are_skipped():
    content = {
        "products": {
            "a": 1,
            "b": {"arch": "amd64", "versions": {"20250101": {"items": {"disk1.img": {"path": "x"}}}}},
            "c": {"arch": "amd64", "versions": {"20250101": {"items": []}, "20250102": 5}},
            "d": {"arch": "amd64"},
            "e": {"arch": "amd64", "versions": {"1": {"items": {"disk1.img": {"path": "x", "sha256": "short"}}}}},
        }
    }
    assert simplestreams.parse_products(content, "amd64") == []


@pytest.mark.parametrize("name", ["24.04", "noble", "NOBLE", "n", "lts", "default", "ubuntu", NOBLE])
def test_names_of_the_newest_build(name):
    product, build = pick(released(), name, "disk", "release")
    assert product.version == "24.04"
    assert build.serial == "20250805.1"


def test_older_build_by_serial():
    dummy, build = pick(released(), "noble@20250704", "disk", "release")
    assert build.disk.sha256 == item(NOBLE, "20250704", "disk1.img")


def test_unknown_serial_names_those_there_are():
    with pytest.raises(UnknownName) as caught:
        pick(released(), "noble@2025", "disk", "release")
    assert caught.value.facts["candidates"] == ["20250805.1", "20250805", "20250704"]


def test_by_hash():
    digest = item(NOBLE, "20250704", "disk1.img")
    for text in (digest, digest[:12], digest[:8], digest.upper()):
        dummy, build = pick(released(), text, "disk", "release")
        assert build.serial == "20250704"
    with pytest.raises(UnknownName):
        pick(released(), digest[:7], "disk", "release")


def test_by_fingerprint_of_a_container():
    digest = item(NOBLE, "20250704", "lxd.tar.xz", "combined_squashfs_sha256")
    assert pick(released(), digest, "container", "release")[1].serial == "20250704"


def test_ambiguous_hash_lists_the_candidates():
    content = sample("released-download.json")
    for serial, end in (("20250704", "1"), ("20250805", "2")):
        content["products"][NOBLE]["versions"][serial]["items"]["disk1.img"]["sha256"] = "abcdef0123" + "0" * 53 + end
    products = simplestreams.parse_products(content, "x86_64")
    with pytest.raises(ImageError, match="several images of release: begin with 'abcdef0123'") as caught:
        pick(products, "abcdef0123", "disk", "release")
    assert len(caught.value.facts["candidates"]) == 2
    assert "20250704" in str(caught.value)
    assert "Write more of the hash" in str(caught.value)
    assert pick(products, "abcdef0123" + "0" * 53 + "2", "disk", "release")[1].serial == "20250805"


def test_same_hash_twice_is_not_ambiguous():
    content = sample("released-download.json")
    versions = content["products"][NOBLE]["versions"]
    versions["20250805"]["items"]["disk1.img"]["sha256"] = versions["20250704"]["items"]["disk1.img"]["sha256"]
    products = simplestreams.parse_products(content, "x86_64")
    assert pick(products, item(NOBLE, "20250704", "disk1.img"), "disk", "release")[0].release == "noble"


def test_ambiguous_name_lists_the_candidates():
    content = sample("released-download.json")
    content["products"]["com.ubuntu.cloud:server:22.04:amd64"]["aliases"] += ",lts"
    with pytest.raises(ImageError, match="several images of release: are called 'lts'") as caught:
        pick(simplestreams.parse_products(content, "amd64"), "lts", "disk", "release")
    assert len(caught.value.facts["candidates"]) == 2


def test_disk_on_amd64_boots_under_bios_too():
    dummy, build = pick(released(), "noble", "disk", "release")
    assert build.disk.path.endswith("cloudimg-amd64.img")
    assert build.disk.firmware == ""
    dummy, build = pick(released(), "xenial", "disk", "release")
    assert build.disk.path.endswith("cloudimg-amd64.img")


def test_disk_elsewhere_boots_under_uefi():
    dummy, build = pick(released("aarch64"), "noble", "disk", "release")
    assert build.disk.path.endswith("cloudimg-arm64.img")
    assert build.disk.firmware == "uefi"


def test_disk_of_the_image_server_is_uefi_only():
    product, build = pick(images(), "debian/13/cloud", "disk", "images")
    assert build.disk.path.endswith("/disk.qcow2")
    assert build.disk.firmware == "uefi"
    assert build.metadata.path.endswith("/lxd.tar.xz")
    assert build.serial == "20251120_05:24"
    assert (product.os, product.release, product.version, product.user) == ("debian", "trixie", "13", "debian")
    assert product.title == "Debian 13 (trixie) cloud"


def test_container_is_root_and_metadata():
    content = sample("images-products.json")["products"]["debian:trixie:amd64:cloud"]["versions"]["20251120_05:24"]
    dummy, build = pick(images(), "debian/13/cloud", "container", "images")
    assert build.root.sha256 == content["items"]["root.squashfs"]["sha256"]
    assert build.root.combined == content["items"]["lxd.tar.xz"]["combined_squashfs_sha256"]
    assert build.metadata.sha256 == content["items"]["lxd.tar.xz"]["sha256"]
    dummy, build = pick(released(), "noble", "container", "release")
    assert build.root.path.endswith("amd64.squashfs")


def test_incus_metadata_and_unified_containers():
    digest = "a" * 64
    meta = {"ftype": "incus.tar.xz", "path": "m", "sha256": digest, "combined_rootxz_sha256": "c" * 64}
    root = {"ftype": "root.tar.xz", "path": "r", "sha256": "b" * 64}
    unified = {"ftype": "incus_combined.tar.gz", "path": "u", "sha256": "d" * 64}
    content = {
        "products": {
            "x": {"arch": "x86_64", "versions": {"1": {"items": {"incus.tar.xz": meta, "root.tar.xz": root}}}},
            "y": {"arch": "amd64", "versions": {"1": {"items": {"u": unified}}}},
        }
    }
    one, two = simplestreams.parse_products(content, "amd64")
    assert (one.builds[0].root.combined, one.builds[0].metadata.sha256) == ("c" * 64, digest)
    assert (two.builds[0].root.combined, two.builds[0].metadata) == ("d" * 64, None)


def test_cloud_variant_unless_one_is_named():
    assert pick(images(), "debian/13", "disk", "images")[0].variant == "cloud"
    assert pick(images(), "debian/trixie", "container", "images")[0].variant == "cloud"
    assert pick(images(), "archlinux", "disk", "images")[0].variant == "cloud"
    assert pick(images(), "debian/13/default", "disk", "images")[0].variant == "default"
    assert pick(images(), "voidlinux", "container", "images")[0].variant == "default"
    assert not pick(images(), "voidlinux", "container", "images")[0].configures_itself


def test_kind_that_an_image_does_not_have():
    with pytest.raises(ImageError, match="only for a container"):
        pick(images(), "voidlinux", "disk", "images")


def test_several_releases_share_no_name_where_there_are_variants():
    with pytest.raises(UnknownName):
        pick(images(), "trixie", "disk", "images")
    assert simplestreams.similar(images(), "debian")[:2] == ["debian/13", "debian/13/cloud"]


def test_similar_names():
    assert simplestreams.similar(released(), "nobel")[0] == "noble"
    assert "24.04" in simplestreams.similar(released(), "24.4")
    assert simplestreams.similar(released(), "zzzzzz") == []


def test_support_and_development():
    assert not pick(released(), "bionic", "disk", "release")[0].supported
    assert pick(released(), "bionic", "disk", "release")[0].eol == "2023-05-31"
    daily = simplestreams.parse_products(sample("daily-download.json"), "amd64")
    product, build = pick(daily, "devel", "disk", "daily")
    assert (product.release, product.supported, build.serial) == ("resolute", True, "20251121")


@pytest.mark.parametrize("arch", ["x86_64", "amd64", "aarch64", "arm64", "riscv64"])
def test_architectures_by_any_name(arch):
    assert released(arch)


def test_architectures_that_there_are():
    assert simplestreams.architectures(sample("released-download.json")) == {"x86_64", "aarch64", "riscv64"}
    assert simplestreams.arch_name("ppc64el") == "ppc64le"
    assert simplestreams.arch_name("armhf") == "armv7l"


def test_serials_are_compared_as_numbers():
    serials = ["20250101.2", "20250101.10", "20250101", "20241231_23:59", "20250101_07:42"]
    assert sorted(serials, key=simplestreams.version_key) == [
        "20241231_23:59",
        "20250101",
        "20250101.2",
        "20250101.10",
        "20250101_07:42",
    ]


@pytest.mark.parametrize("products", [released(), images(), []])
def test_rows_come_back_as_they_were(products):
    assert simplestreams.from_rows(json.loads(json.dumps(simplestreams.to_rows(products)))) == products


@pytest.mark.parametrize("rows", [[1], [[1]], {"a": 1}, [["k"] * 12]])
def test_rows_that_are_none(rows):
    with pytest.raises((TypeError, ValueError)):
        simplestreams.from_rows(rows)


@pytest.mark.parametrize(
    ("system", "user"),
    [("Ubuntu", "ubuntu"), ("Rockylinux", "rocky"), ("Archlinux", "arch"), ("CentOS", "cloud-user"), ("Plamo", "")],
)
def test_users(system, user):
    assert simplestreams.default_user(system) == user


@pytest.mark.parametrize("size", [-1, True, 1.5, "5", 1 << 80, None])
def test_a_size_that_is_none_is_not_known(size):
    content = sample("released-download.json")
    items = content["products"][NOBLE]["versions"]["20250805"]["items"]
    for item_ in items.values():
        item_["size"] = size
    product = next(each for each in simplestreams.parse_products(content, "amd64") if each.key == NOBLE)
    assert [build.disk.size for build in product.builds if build.serial == "20250805"] == [0]
