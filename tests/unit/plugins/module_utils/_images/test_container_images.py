# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images of containers in the vault, beside disks."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import tarfile

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import ChecksumMismatch, ImageError, InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._images import bootstrap, fetch
from ansible_collections.minicloud.local.plugins.module_utils._images.provide import ProvidedVault
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import parse_reference
from ansible_collections.minicloud.local.plugins.module_utils._images.source import Part, Source
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._images.archives import (
    CREATED,
    METADATA,
    bare,
    metadata_file,
    squashfs,
    unified,
)
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._images.faulty_server import FaultyServer

ARCH = "x86_64"
C = {"kind": "container"}
DISK = bytes(510) + b"\x55\xaa" + b"disk" * 50_000


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(fetch, "PATIENCE", fetch.Patience(1.0, 3, 0.01))


@pytest.fixture
def web():
    made = FaultyServer()
    yield made
    made.close()


@pytest.fixture
def vault(data, runtime):
    return ProvidedVault(data, runtime)


def half_made(vault):
    """What is in the vault and no image."""
    found = [name for name in os.listdir(vault.path) if len(name) != 64 and name not in ("names.json", "partial")]
    partial = os.listdir(vault.partial) if os.path.isdir(vault.partial) else []
    return found + partial + [h for h in os.listdir(vault.path) if len(h) == 64 and not vault.get(h)]


def read(path):
    with open(path, "rb") as stream:
        return stream.read()


def put(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return parse_reference(str(path))


# -- from an image host ----------------------------------------------------------------------------------------------


class ImageHost:
    """Offers a root file system with its metadata, as simplestreams does."""

    def __init__(self, web):
        self.web = web
        self.asked = []
        self.wrong_fingerprint = False

    def publish(self, root, metadata):
        self.web.files.update({"/root": root, "/metadata": metadata})

    def __call__(self, reference, arch, kind):
        self.asked.append(kind)
        root, metadata = self.web.files["/root"], self.web.files["/metadata"]
        if kind == "disk":
            return Source(reference, f"{self.web.url}/disk", arch, sha256(self.web.files["/disk"]))
        return Source(
            reference,
            f"{self.web.url}/root",
            arch,
            sha256(root),
            "",
            len(root),
            "debian",
            "trixie",
            "13",
            "debian",
            "T",
            kind="container",
            metadata=Part(f"{self.web.url}/metadata", sha256(metadata), "", len(metadata)),
            fingerprint="0" * 64 if self.wrong_fingerprint else sha256(metadata, root),
        )


@pytest.fixture
def host(web, tmp_path, vault):
    made = ImageHost(web)
    made.publish(squashfs(tmp_path), lzma.compress(metadata_file()))
    vault.resolve = made
    return made


def test_root_and_metadata_are_kept_as_they_were_published(vault, host, web):
    reference = parse_reference("images:debian/13")
    foreseen = vault.forecast(reference, ARCH, **C)
    image, changed = vault.ensure(reference, ARCH, **C)
    assert changed
    assert image.hash == foreseen.hash == sha256(web.files["/metadata"], web.files["/root"])
    assert image.path == os.path.join(vault.path, image.hash, "root.squashfs")
    assert image.metadata == os.path.join(vault.path, image.hash, "metadata.tar.xz")
    assert (read(image.path), read(image.metadata)) == (web.files["/root"], web.files["/metadata"])
    assert (image.kind, image.format, image.size, image.virtual_size) == (
        "container",
        "squashfs",
        len(web.files["/root"]),
        0,
    )
    assert (image.os, image.user, image.name, image.title) == ("debian", "debian", "images:debian/13", "T")
    assert os.stat(image.path).st_mode & 0o777 == os.stat(image.metadata).st_mode & 0o777 == 0o600
    assert half_made(vault) == []
    assert vault.find(reference, ARCH, **C) == image
    assert vault.ensure(reference, ARCH, **C) == (image, False)
    assert vault.forecast(reference, ARCH, **C) is None
    assert len(web.sent) == 2
    assert vault.runtime.report.warnings == []
    assert vault.has(image)


def test_a_new_build_comes_with_a_refresh_also_if_only_its_metadata_are_new(vault, host, web):
    reference = parse_reference("images:debian/13")
    old, dummy = vault.ensure(reference, ARCH, **C)
    host.publish(web.files["/root"], lzma.compress(metadata_file({**METADATA, "creation_date": 5})))
    assert vault.ensure(reference, ARCH, **C) == (old, False)
    foreseen = vault.forecast(reference, ARCH, refresh=True, **C)
    new, changed = vault.ensure(reference, ARCH, refresh=True, **C)
    assert changed
    assert new.hash == foreseen.hash != old.hash
    assert vault.get(old.hash)
    assert not vault.ensure(reference, ARCH, refresh=True, **C)[1]
    assert vault.forecast(reference, ARCH, refresh=True, **C) is None


@pytest.mark.parametrize("path", ["/root", "/metadata"])
def test_a_file_that_is_not_what_the_index_promises(vault, host, web, path):
    source = host(parse_reference("images:x"), ARCH, "container")
    vault.resolve = lambda reference, arch, kind: source
    good = web.files[path]
    web.files[path] = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(ChecksumMismatch):
        vault.ensure(parse_reference("images:x"), ARCH, **C)
    assert vault.images() == ([], [])
    web.files[path] = good
    assert vault.ensure(parse_reference("images:x"), ARCH, **C)[1]
    assert half_made(vault) == []


def test_files_that_do_not_belong_together(vault, host):
    host.wrong_fingerprint = True
    with pytest.raises(ChecksumMismatch, match="metadata and root file system have"):
        vault.ensure(parse_reference("images:x"), ARCH, **C)
    assert half_made(vault) == []
    host.wrong_fingerprint = False
    assert vault.ensure(parse_reference("images:x"), ARCH, **C)[1]


@pytest.mark.parametrize("path", ["/root", "/metadata"])
def test_a_cut_is_gone_on_with(vault, host, web, path):
    web.plan[path] = [{"cut": 100}, {"cut": 0}, {"cut": 0}, {"cut": 0}]
    with pytest.raises(ImageError):
        vault.ensure(parse_reference("images:x"), ARCH, **C)
    web.plan.clear()
    web.sent.clear()
    assert vault.ensure(parse_reference("images:x"), ARCH, **C)[1]
    assert len(web.files[path]) - 100 in [sent.size for sent in web.sent]
    assert half_made(vault) == []


def test_metadata_of_a_hostile_size(vault, host, web):
    source = host(parse_reference("images:x"), ARCH, "container")
    vault.resolve = lambda reference, arch, kind: source._replace(metadata=source.metadata._replace(size=1 << 30))
    with pytest.raises(ImageError, match="metadata have 1 GiB"):
        vault.ensure(parse_reference("images:x"), ARCH, **C)
    assert half_made(vault) == []


def test_both_kinds_of_one_name_are_there_independently(vault, host, web, data, runtime):
    web.files["/disk"] = DISK
    reference = parse_reference("images:debian/13")
    container, dummy = vault.ensure(reference, ARCH, **C)
    assert vault.find(reference, ARCH) is None
    disk, dummy = vault.ensure(reference, ARCH)
    assert host.asked[-2:] == ["container", "disk"]
    assert (disk.kind, disk.metadata, container.kind) == ("disk", "", "container")
    assert vault.find(reference, ARCH).hash == disk.hash
    assert vault.find(reference, ARCH, **C).hash == container.hash
    assert vault.find(parse_reference(container.hash[:12]), ARCH) is None
    assert vault.find(parse_reference(container.hash[:12]), ARCH, **C).hash == container.hash
    vault.set_alias(disk, "base")
    vault.set_alias(container, "base")
    assert vault.aliases_of(disk) == vault.aliases_of(container) == ["base"]
    assert vault.names_of(container) == ["base", "images:debian/13"]
    vault.forget(parse_reference("base"), ARCH)
    assert vault.find(parse_reference("base"), ARCH) is None
    assert vault.find(parse_reference("base"), ARCH, **C).hash == container.hash
    assert {image.kind for image in vault.images()[0]} == {"disk", "container"}
    os.utime(os.path.join(vault.directory(container.hash), "image.json"), (1000, 1000))
    assert [image.hash for image in vault.unused_since(3600)] == [container.hash]
    vault.remove(container)
    assert vault.find(reference, ARCH, **C) is None
    assert vault.find(reference, ARCH).hash == disk.hash
    assert half_made(vault) == []


def test_names_and_records_of_earlier_versions_are_disks(vault, tmp_path):
    reference = put(tmp_path, "disk.raw", DISK)
    disk, dummy = vault.ensure(reference, ARCH)
    path = os.path.join(vault.directory(disk.hash), "image.json")
    record = json.loads(read(path))
    for key in ("kind", "metadata", "firmware"):
        del record[key]
    with open(path, "w") as stream:
        json.dump(record, stream)
    assert list(json.loads(read(os.path.join(vault.path, "names.json")))["names"]) == [f"{reference} {ARCH}"]
    assert vault.find(reference, ARCH) == disk
    assert vault.find(reference, ARCH, **C) is None


def test_metadata_that_are_gone_are_fetched_again(vault, host):
    image, dummy = vault.ensure(parse_reference("images:x"), ARCH, **C)
    os.unlink(image.metadata)
    assert vault.get(image.hash) is None
    assert not vault.has(image)
    again, changed = vault.ensure(parse_reference("images:x"), ARCH, **C)
    assert changed
    assert os.path.exists(again.metadata)


# -- files and URLs --------------------------------------------------------------------------------------------------


def test_one_archive_with_everything(vault, tmp_path):
    content = lzma.compress(unified())
    reference = put(tmp_path, "image.tar.xz", content)
    image, changed = vault.ensure(reference, ARCH, f"sha256:{sha256(content)}", **C)
    assert changed
    assert (image.hash, image.metadata, image.format) == (sha256(content), "", "tar.xz")
    assert image.path == os.path.join(vault.directory(image.hash), "root.tar.xz")
    assert read(image.path) == content
    assert (image.os, image.release, image.version, image.user, image.title) == (
        "debian",
        "trixie",
        "13",
        "debian",
        "Debian trixie",
    )
    assert vault.ensure(reference, ARCH, **C) == (image, False)
    with pytest.raises(ChecksumMismatch):
        vault.ensure(reference, ARCH, f"sha256:{'0' * 64}", **C)
    assert read(tmp_path / "image.tar.xz") == content
    assert half_made(vault) == []


@pytest.mark.parametrize("form", ["tar.xz", "squashfs"])
def test_a_root_file_system_alone_gets_metadata(vault, web, tmp_path, form):
    content = squashfs(tmp_path) if form == "squashfs" else lzma.compress(bare())
    reference = put(tmp_path, f"root.{form}", content)
    checksum = f"sha256:{sha256(content)}"
    image, dummy = vault.ensure(reference, ARCH, checksum, **C)
    assert vault.ensure(reference, ARCH, checksum, **C) == (image, False)
    assert (read(image.path), image.format) == (content, form)
    with tarfile.open(image.metadata) as archive:
        metadata = json.load(archive.extractfile("metadata.yaml"))
    assert (metadata["architecture"], metadata["creation_date"]) == (ARCH, CREATED)
    assert image.hash == sha256(read(image.metadata), content)
    # The same content is the same image, wherever it comes from.
    web.files["/other.bin"] = content
    other, changed = vault.ensure(parse_reference(f"{web.url}/other.bin"), ARCH, checksum, **C)
    assert changed
    assert other.hash == image.hash
    foreign, dummy = vault.ensure(reference, "aarch64", **C)
    assert foreign.hash != image.hash
    assert half_made(vault) == []


def test_a_url_is_fetched_once(vault, web):
    web.files["/image.tar"] = unified()
    reference = parse_reference(f"{web.url}/image.tar")
    image, dummy = vault.ensure(reference, ARCH, **C)
    assert f"sha256:{image.hash}" in vault.runtime.report.warnings[0]
    assert vault.ensure(reference, ARCH, **C) == (image, False)
    assert not vault.ensure(reference, ARCH, refresh=True, **C)[1]
    assert not vault.ensure(reference, ARCH, f"sha256:{image.hash}", refresh=True, **C)[1]
    assert [sent.status for sent in web.sent] == [200, 304]
    other = parse_reference(f"{web.url}/mirror.tar")
    assert vault.forecast(other, ARCH, f"sha256:{image.hash}", **C).hash == image.hash
    assert vault.ensure(other, ARCH, f"sha256:{image.hash}", **C)[0].hash == image.hash
    assert len(web.sent) == 2


def test_a_changed_file_is_imported_anew(vault, tmp_path):
    reference = put(tmp_path, "image.tar", unified())
    old, dummy = vault.ensure(reference, ARCH, **C)
    put(tmp_path, "image.tar", unified(seed=2))
    assert vault.find(reference, ARCH, **C) is None
    assert vault.known(reference, ARCH, **C) == old
    new, changed = vault.ensure(reference, ARCH, **C)
    assert changed
    assert new.hash == sha256(unified(seed=2))


def test_a_foreign_architecture_is_an_error_with_the_remedy(vault, tmp_path):
    reference = put(tmp_path, "image.tar", unified({**METADATA, "architecture": "arm64"}))
    with pytest.raises(ImageError, match=r"is for aarch64\. Set arch: aarch64"):
        vault.ensure(reference, ARCH, **C)
    assert half_made(vault) == []
    assert vault.ensure(reference, "aarch64", **C)[0].arch == "aarch64"


@pytest.mark.parametrize("url", [False, True])
def test_a_disk_is_no_container_and_the_reverse(vault, web, tmp_path, url):
    web.files.update({"/disk": DISK, "/image": lzma.compress(unified()), "/squashfs": squashfs(tmp_path)})
    where = {name: parse_reference(f"{web.url}/{name}") for name in ("disk", "image", "squashfs")}
    if not url:
        where = {name: put(tmp_path, name, web.files[f"/{name}"]) for name in where}
    with pytest.raises(ImageError, match="Use instance_type: vm"):
        vault.ensure(where["disk"], ARCH, **C)
    for name in ("image", "squashfs"):
        with pytest.raises(ImageError, match=r"[Uu]se instance_type: container"):
            vault.ensure(where[name], ARCH)
    assert half_made(vault) == []
    # Nor where the vault has it as what it is.
    vault.ensure(where["disk"], ARCH)
    with pytest.raises(ImageError, match="Use instance_type: vm"):
        vault.ensure(where["disk"], ARCH, f"sha256:{sha256(DISK)}", **C)


# -- bootstrap -------------------------------------------------------------------------------------------------------


def test_a_build_is_kept_as_it_was_built(vault, monkeypatch):
    built = []

    def build(runtime, release, arch, target, work_dir, kind):
        built.append((release, kind))
        with open(target, "wb") as stream:
            stream.write(unified(seed=len(built)))
        return bootstrap.Built("debian", release, "12", "amd64", "debian", "Debian 12")

    monkeypatch.setattr(bootstrap, "build", build)
    reference = parse_reference("bootstrap:bookworm")
    image, changed = vault.ensure(reference, ARCH, **C)
    assert changed
    assert built == [("bookworm", "container")]
    assert (image.hash, image.format, image.metadata) == (sha256(unified(seed=1)), "tar", "")
    assert (image.os, image.release, image.user, image.title) == ("debian", "bookworm", "debian", "Debian 12")
    assert vault.entry(reference, ARCH, **C).stamp == bootstrap.recipe_hash("bookworm", ARCH, "container")
    assert vault.ensure(reference, ARCH, **C) == (image, False)
    assert vault.ensure(reference, ARCH, refresh=True, **C)[0].hash != image.hash
    with pytest.raises(InvalidOption, match="cannot be given"):
        vault.ensure(parse_reference("bootstrap:trixie"), ARCH, f"sha256:{'0' * 64}", **C)
    assert half_made(vault) == []
