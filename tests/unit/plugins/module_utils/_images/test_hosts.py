# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError, InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._images import trust
from ansible_collections.minicloud.local.plugins.module_utils._images.hosts import ImageHosts, host_table
from ansible_collections.minicloud.local.plugins.module_utils._images.index import ImageHost
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import Reference, parse_reference

NOBLE = "com.ubuntu.cloud:server:24.04:amd64"


@pytest.fixture
def hosts(data, runtime, local):
    return ImageHosts(data, runtime, local)


def found(hosts, text, arch="x86_64", **kwargs):
    return hosts.resolve(parse_reference(text), arch, **kwargs)


# Which hosts there are


def test_built_in_hosts(monkeypatch):
    monkeypatch.setattr(trust, "UBUNTU_KEYRINGS", ())
    table = host_table()
    assert sorted(table) == ["daily", "images", "minimal", "release"]
    assert table["release"] == ImageHost("release", "https://cloud-images.ubuntu.com/releases/")
    assert all(host.url.startswith("https://") and not host.allow_http for host in table.values())


def test_keyring_of_the_distribution(monkeypatch, tmp_path):
    keyring = tmp_path / "keyring.gpg"
    keyring.write_bytes(b"")
    monkeypatch.setattr(trust, "UBUNTU_KEYRINGS", ("/nowhere", str(keyring)))
    monkeypatch.setattr(trust, "find_program", lambda name: "/usr/bin/gpgv")
    table = host_table(
        None, {"daily": {"keyring": "none"}, "minimal": {"keyring": "/other.gpg"}, "x": {"url": "https://x"}}
    )
    assert {name: host.keyring for name, host in table.items()} == {
        "release": str(keyring),
        "daily": "",
        "minimal": "/other.gpg",
        "images": "",
        "x": "",
    }
    monkeypatch.setattr(trust, "find_program", lambda name: None)
    assert host_table()["release"].keyring == ""


def test_option_counts_before_settings_and_both_before_what_is_built_in():
    settings = {
        "release": {"mirror": "https://near/releases/", "user": "me"},
        "ours": {"url": "https://ours/list.json", "type": "manifest"},
    }
    extra = {"release": {"mirror": "https://nearer/", "keyring": None}, "ours": {"allow_http": "yes"}}
    table = host_table(settings, extra)
    assert table["release"].url == "https://cloud-images.ubuntu.com/releases/"
    assert table["release"].mirror == "https://nearer/"
    assert table["release"].user == "me"
    assert table["ours"] == ImageHost("ours", "https://ours/list.json", "manifest", allow_http=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "image_hosts is not a dictionary"),
        ("release", "image_hosts is not a dictionary"),
        ({"x": "https://x"}, "image_hosts.x is not a dictionary"),
        ({"x": {}}, "image_hosts.x has no url"),
        ({"x": {"url": ""}}, "image_hosts.x has no url"),
        ({"x": {"url": 5}}, "image_hosts.x.url is not a text"),
        ({"x": {"url": "https://x", "colour": "red"}}, "unknown key 'colour'"),
        ({"x": {"url": "https://x", "type": "ftp"}}, "type 'ftp' is not known"),
        ({"x": {"url": "example.com"}}, "is not a URL"),
        ({"x": {"url": "ftp://example.com"}}, "is not a URL"),
        ({"x": {"url": "https:///path"}}, "is not a URL"),
        ({"x": {"url": "https://a b/"}}, "is not a URL"),
        ({"x": {"url": "http://example.com"}}, "is not https"),
        ({"release": {"mirror": "http://example.com"}}, "image_hosts.release.mirror http://example.com is not https"),
        ({"x": {"url": "https://x", "allow_http": "perhaps"}}, "neither true nor false"),
        ({"x": {"url": "https://x", "keyring": "ours.gpg"}}, "not an absolute path"),
        ({"X": {"url": "https://x"}}, "cannot be the name"),
        ({"../x": {"url": "https://x"}}, "cannot be the name"),
        ({"a b": {"url": "https://x"}}, "cannot be the name"),
        ({5: {"url": "https://x"}}, "cannot be the name"),
        ({"bootstrap": {"url": "https://x"}}, "bootstrap has a meaning of its own"),
        ({"url": {"url": "https://x"}}, "url has a meaning of its own"),
        ({"https": {"url": "https://x"}}, "https has a meaning of its own"),
    ],
)
def test_options_that_are_not_valid(given, message):
    with pytest.raises(InvalidOption) as caught:
        host_table(None, given)
    assert message in str(caught.value)
    with pytest.raises(InvalidOption, match="image_hosts"):
        host_table(given)


def test_hosts_from_the_settings(data, runtime, local):
    data.change_settings(image_hosts={"near": local["release"]})
    assert ImageHosts(data, runtime).resolve(Reference("near", "noble"), "x86_64").release == "noble"


def test_unknown_host(hosts, server):
    with pytest.raises(InvalidOption, match=r"'image' is not known.*Did you mean images:"):
        found(hosts, "image:debian/13")
    with pytest.raises(InvalidOption, match="there are bootstrap:, daily:, images:, minimal:, release:"):
        found(hosts, "quay:24.04")
    with pytest.raises(InvalidOption, match="Did you mean bootstrap:"):
        found(hosts, "bootstap:bookworm")
    with pytest.raises(InvalidOption, match="Did you mean images:fedora/"):
        found(hosts, "fedroa:44")
    assert server.requests == []


@pytest.mark.parametrize(
    ("text", "release", "host"),
    [
        ("ubuntu:24.04", "noble", "release"),
        ("Ubuntu:noble", "noble", "release"),
        ("ubuntu/24.04", "noble", "release"),
        ("ubuntu-22.04", "jammy", "release"),
        ("ubuntu24.04", "noble", "release"),
        ("ubuntu-noble", "noble", "release"),
        ("ubuntu-daily:26.04", "resolute", "daily"),
        ("debian:13", "trixie", "images"),
        ("debian:trixie", "trixie", "images"),
        ("debian/13", "trixie", "images"),
        ("debian-13", "trixie", "images"),
        ("debian13", "trixie", "images"),
        ("trixie", "trixie", "images"),
        ("fedora:44", "44", "images"),
        ("fedora/44/cloud", "44", "images"),
        ("alpine:3.22", "3.22", "images"),
        ("arch", "current", "images"),
        ("archlinux", "current", "images"),
    ],
)
def test_names_as_people_know_them(hosts, server, text, release, host):
    source = found(hosts, text)
    assert source.release == release
    assert source.location.startswith(f"{server.url}{host.replace('release', 'releases')}/")
    # The name stays the one that was asked for, but for what can mean nothing else.
    assert source.reference == parse_reference(text)


def test_a_host_of_your_own_may_be_called_like_a_system(data, runtime, local):
    hosts = ImageHosts(data, runtime, {**local, "ubuntu": local["images"]})
    assert found(hosts, "ubuntu:debian/13").os == "debian"
    with pytest.raises(ImageError, match=r"the image host ubuntu has no image '24.04'"):
        found(hosts, "ubuntu:24.04")


def test_a_system_without_its_release_is_answered_with_those_that_there_are(hosts):
    with pytest.raises(ImageError, match="Did you mean images:debian/13, images:debian/13/cloud"):
        found(hosts, "debian")
    with pytest.raises(ImageError, match=r"Did you mean .*images:alpine/3.22"):
        found(hosts, "alpine:3")
    with pytest.raises(ImageError, match="Did you mean images:debian/bookworm"):
        found(hosts, "bookwrom")


@pytest.mark.parametrize("query", ["debian:13", "trixie", "debian-13", "images:debian/13"])
def test_query_of_a_name_as_people_know_it(hosts, query):
    assert {offer.release for offer in hosts.query(query, "x86_64")} == {"trixie"}


# What names mean


def test_source_of_a_disk(hosts, server):
    item = json.loads(server.files["/releases/streams/v1/com.ubuntu.cloud:released:download.json"])["products"][NOBLE]
    item = item["versions"]["20250805.1"]["items"]["disk1.img"]
    source = found(hosts, "24.04")
    assert source.reference == Reference("release", "24.04")
    assert source.location == f"{server.url}releases/{item['path']}"
    assert (source.sha256, source.size) == (item["sha256"], item["size"])
    assert (source.os, source.release, source.version, source.serial) == ("ubuntu", "noble", "24.04", "20250805.1")
    assert (source.arch, source.user, source.kind, source.firmware) == ("x86_64", "ubuntu", "disk", "")
    assert source.title == "Ubuntu 24.04 LTS (noble)"
    for name in ("noble", "lts", "default", "n", "ubuntu", item["sha256"], item["sha256"][:12], "lts@20250805.1"):
        assert found(hosts, name)._replace(reference=source.reference) == source


def test_source_for_a_foreign_architecture(hosts):
    assert found(hosts, "noble", "arm64") == found(hosts, "noble", "aarch64")
    assert found(hosts, "noble", "aarch64").firmware == "uefi"
    assert found(hosts, "noble", "aarch64").arch == "aarch64"


def test_source_of_a_container(hosts, server):
    source = found(hosts, "images:alpine/3.22", kind="container")
    base = f"{server.url}images/images/alpine/3.22/amd64/cloud/20251120_13:00"
    assert source.location == f"{base}/rootfs.squashfs"
    assert source.metadata.location == f"{base}/lxd.tar.xz"
    assert len(source.metadata.sha256) == len(source.fingerprint) == len(source.sha256) == 64
    assert source.requirements == (("secureboot", "false"),)
    assert (source.user, source.kind, source.firmware) == ("alpine", "container", "")
    again = hosts.resolve(Reference("images", source.fingerprint[:16]), "x86_64", "container")
    assert again.location == source.location


def test_source_of_the_image_server(hosts, runtime):
    source = found(hosts, "images:debian/13/cloud")
    assert source.location.endswith("/disk.qcow2")
    assert (source.firmware, source.user, source.version) == ("uefi", "debian", "13")
    assert source.metadata and source.fingerprint
    assert runtime.report.warnings == []


def test_image_without_cloud_init(hosts, runtime):
    assert found(hosts, "images:fedora/44").location == found(hosts, "images:fedora/44/cloud").location
    assert runtime.report.warnings == []
    found(hosts, "images:fedora/44/default")
    assert "without cloud-init" in runtime.report.warnings[0]


def test_release_past_its_support(hosts, runtime):
    assert found(hosts, "bionic").version == "18.04"
    (warning,) = runtime.report.warnings
    assert "bionic (Ubuntu 18.04 LTS (bionic)) is not supported by its publisher since 2023-05-31" in warning


def test_development_release_is_in_daily(hosts, runtime):
    source = found(hosts, "devel")
    assert "/daily/" in source.location
    assert source.reference == Reference("release", "devel")
    assert source._replace(reference=None) == found(hosts, "daily:devel")._replace(reference=None)
    assert runtime.report.warnings == []
    assert found(hosts, "26.04").release == "resolute"
    assert "taken from daily:" in runtime.report.warnings[0]
    assert "/daily/" in found(hosts, "daily:noble").location
    assert "/releases/" in found(hosts, "noble").location


def test_unknown_name(hosts):
    with pytest.raises(ImageError, match="host release has no image 'nobel'") as caught:
        found(hosts, "nobel")
    assert "Did you mean noble" in str(caught.value)
    assert "minicloud.local.image_info" in str(caught.value)
    assert caught.value.facts["suggestions"][0] == "noble"
    with pytest.raises(ImageError, match=r"has no image 'debian'.*debian/13/cloud"):
        found(hosts, "images:debian")


def test_unknown_name_while_daily_is_away(hosts, server):
    server.files = {path: body for path, body in server.files.items() if not path.startswith("/daily/")}
    with pytest.raises(ImageError, match="host release has no image 'nobel'"):
        found(hosts, "nobel")


def test_unknown_build(hosts):
    with pytest.raises(ImageError, match=r"no build '1999' of Ubuntu 24.04.*20250805\.1, 20250805, 20250704"):
        found(hosts, "noble@1999")


def test_architecture_that_is_missing(hosts):
    with pytest.raises(ImageError, match=r"no image '25.04' for x86_64: it has it for riscv64") as caught:
        found(hosts, "25.04")
    assert caught.value.facts["arches"] == ["riscv64"]
    with pytest.raises(ImageError, match="'noble' for s390x: it has it for aarch64, x86_64"):
        found(hosts, "noble", "s390x")


def test_kind_that_is_none(hosts):
    with pytest.raises(ValueError, match="no such kind"):
        found(hosts, "noble", kind="floppy")


def test_mirror_gives_files_and_not_hashes(data, runtime, local, server):
    local["release"]["mirror"] = f"{server.url}mirror"
    source = found(ImageHosts(data, runtime, local), "noble")
    assert source.location.startswith(f"{server.url}mirror/server/releases/noble/")
    assert all(path.startswith("/releases/streams/") for path in server.paths())


def test_user_of_a_host(data, runtime, local):
    local["images"]["user"] = "admin"
    hosts = ImageHosts(data, runtime, local)
    assert found(hosts, "images:debian/13").user == "admin"
    assert hosts.query("images:debian/13")[0].user == "admin"


def test_manifest(data, runtime, server):
    image = {"aliases": "debian, trixie", "os": "Debian", "release": "trixie", "release_title": "13"}
    image["items"] = {
        "x86_64": {"id": "sha512:" + "b" * 128, "image_location": "files/d.qcow2", "size": 7, "version": "1"}
    }
    server.files["/lists/all.json"] = json.dumps({"Debian": image}).encode()
    ours = {"url": f"{server.url}lists/all.json", "type": "manifest", "allow_http": True}
    source = found(ImageHosts(data, runtime, {"ours": ours}), "ours:debian")
    assert source.location == f"{server.url}lists/files/d.qcow2"
    assert (source.sha256, source.sha512, source.size, source.user) == ("", "b" * 128, 7, "debian")


def test_index_that_leads_to_http(data, runtime, server, monkeypatch):
    image = {"os": "x", "items": {"x86_64": {"id": "b" * 64, "image_location": "ftp://x/d.qcow2"}}}
    server.files["/all.json"] = json.dumps({"x": image}).encode()
    ours = {"url": f"{server.url}all.json", "type": "manifest", "allow_http": True}
    with pytest.raises(ImageError, match=r"leads to ftp://x/d\.qcow2"):
        found(ImageHosts(data, runtime, {"ours": ours}), "ours:x")


@pytest.mark.parametrize("where", ["http://elsewhere.example/d.qcow2", "//elsewhere.example/d.qcow2", "HTTP://x/d"])
def test_without_encryption_only_the_hosts_own_server_is_trusted(data, runtime, server, where):
    image = {"os": "x", "items": {"x86_64": {"id": "b" * 64, "image_location": where}}}
    server.files["/all.json"] = json.dumps({"x": image}).encode()
    ours = {"url": f"{server.url}all.json", "type": "manifest", "allow_http": True}
    with pytest.raises(ImageError, match=r"leads to http://.*which is not https") as caught:
        found(ImageHosts(data, runtime, {"ours": ours}), "ours:x")
    assert "set mirror to http://" in caught.value.hint


def test_its_own_server_may_be_named_in_full(data, runtime, server):
    location = f"{server.url}d.qcow2"
    image = {"os": "x", "items": {"x86_64": {"id": "b" * 64, "image_location": location}}}
    server.files["/all.json"] = json.dumps({"x": image}).encode()
    ours = {"url": f"{server.url}all.json".replace("http:", "HTTP:"), "type": "manifest", "allow_http": True}
    assert found(ImageHosts(data, runtime, {"ours": ours}), "ours:x").location == location


def test_refresh_reaches_the_host(data, runtime, local, server):
    found(ImageHosts(data, runtime, local), "noble")
    found(ImageHosts(data, runtime, local), "noble")
    assert len(server.requests) == 2
    found(ImageHosts(data, runtime, local), "noble", refresh=True)
    assert len(server.requests) == 4


# What there is


def test_query_of_everything(hosts):
    offers = hosts.query("", "x86_64")
    assert [(offer.host, offer.release) for offer in offers] == [
        ("release", "noble"),
        ("release", "jammy"),
        ("daily", "resolute"),
    ]
    noble = offers[0]
    assert noble.aliases == ("24.04", "default", "lts", "n", "noble", "ubuntu")
    assert (noble.version, noble.serial, noble.supported, noble.arch) == ("24.04", "20250805.1", True, "x86_64")
    assert (noble.kinds, noble.user, noble.title) == (("disk", "container"), "ubuntu", "Ubuntu 24.04 LTS (noble)")
    assert noble.hash == found(hosts, "noble").sha256
    assert noble.to_dict()["aliases"] == list(noble.aliases)
    json.dumps(noble.to_dict())


def test_query_of_what_is_not_supported(hosts):
    releases = [offer.release for offer in hosts.query("release:", "amd64", unsupported=True)]
    assert releases == ["noble", "jammy", "bionic", "xenial"]
    assert [offer.supported for offer in hosts.query("bionic", "amd64", unsupported=True)] == [False]
    assert hosts.query("release:bionic") == []


def test_query_of_a_host(hosts):
    offers = hosts.query("images:", "x86_64")
    assert len(offers) == 9
    assert {offer.os for offer in offers} == {"alpine", "archlinux", "debian", "fedora", "voidlinux"}
    (void,) = [offer for offer in offers if offer.os == "voidlinux"]
    assert (void.kinds, len(void.hash)) == (("container",), 64)


def test_query_of_a_name(hosts):
    assert [offer.serial for offer in hosts.query("noble")] == ["20250805.1"]
    assert [offer.serial for offer in hosts.query("noble@")] == ["20250805.1", "20250805", "20250704"]
    assert [offer.serial for offer in hosts.query("noble@20250704")] == ["20250704"]
    assert hosts.query("noble@20250704")[0].aliases == ()
    assert [offer.variant for offer in hosts.query("images:debian")] == ["default", "cloud"]
    assert [offer.variant for offer in hosts.query("images:debian/13")] == ["cloud"]
    assert [offer.variant for offer in hosts.query("images:debian/13/default")] == ["default"]
    assert [offer.host for offer in hosts.query("devel")] == ["daily"]
    assert hosts.query(Reference("images", "debian/13/cloud"))[0].variant == "cloud"
    assert hosts.query("release:nothing") == []


def test_query_while_daily_is_away(hosts, server, runtime):
    server.files = {path: body for path, body in server.files.items() if not path.startswith("/daily/")}
    assert [offer.release for offer in hosts.query()] == ["noble", "jammy"]
    assert "image host daily cannot be asked" in runtime.report.warnings[0]


def test_query_of_a_hash(hosts):
    old = hosts.query("noble@20250704")[0]
    assert hosts.query(old.hash[:12]) == [old]


def test_query_of_an_architecture(hosts):
    assert [offer.release for offer in hosts.query("release:", "riscv64")] == ["plucky"]
    assert hosts.query("release:", "s390x") == []
