# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The vault: from a reference to a prepared image, whatever happens on the way."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import json
import lzma
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    ChecksumMismatch,
    ImageError,
    InvalidOption,
    NoSpace,
    NotFound,
    RecordError,
)
from ansible_collections.minicloud.local.plugins.module_utils._images import bootstrap, fetch
from ansible_collections.minicloud.local.plugins.module_utils._images import vault as vault_module
from ansible_collections.minicloud.local.plugins.module_utils._images.provide import ProvidedVault
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import parse_reference
from ansible_collections.minicloud.local.plugins.module_utils._images.source import Source
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._images.faulty_server import FaultyServer

ARCH = "x86_64"
MIB = 1 << 20
FILE = "/noble-server-cloudimg-amd64.img"
# For processes of the tests' own: where the collection and ansible-core are.
PATHS = os.pathsep.join([vault_module.__file__.partition("/ansible_collections/")[0], *filter(None, sys.path)])


def make_disk(seed=1, size=4 * MIB, filled=2 * MIB):
    """A qcow2 image with a boot sector and FILLED bytes that do not compress."""
    content = bytearray(size)
    content[510:512] = b"\x55\xaa"
    content[MIB : MIB + filled] = random.Random(seed).getrandbits(8 * filled).to_bytes(filled, "big")
    return bytes(content[:size])


def as_qcow2(tmp_path, raw, *options):
    source, target = str(tmp_path / "made.raw"), str(tmp_path / "made.qcow2")
    with open(source, "wb") as stream:
        stream.write(raw)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", "-f", "raw", *options, source, target], check=True)
    with open(target, "rb") as stream:
        data = stream.read()
    os.unlink(source)
    os.unlink(target)
    return data


def xz(data):
    return lzma.compress(data, preset=0)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return as_qcow2(tmp_path_factory.mktemp("image"), make_disk())


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    return as_qcow2(tmp_path_factory.mktemp("newer"), make_disk(2))


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(fetch, "PATIENCE", fetch.Patience(1.0, 3, 0.01))


@pytest.fixture
def web(image):
    made = FaultyServer()
    made.files[FILE] = image
    yield made
    made.close()


@pytest.fixture
def vault(data, runtime):
    return ProvidedVault(data, runtime)


def at(web, path=FILE):
    return parse_reference(web.url + path)


def half_made(vault):
    """What is in the vault and no image."""
    found = [name for name in os.listdir(vault.path) if len(name) != 64 and name not in ("names.json", "partial")]
    partial = os.listdir(vault.partial) if os.path.isdir(vault.partial) else []
    return found + partial + [h for h in os.listdir(vault.path) if len(h) == 64 and not vault.get(h)]


def content(image, tmp_path):
    target = str(tmp_path / "content.raw")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image.path, target], check=True)
    with open(target, "rb") as stream:
        return stream.read()


# -- URLs ----------------------------------------------------------------------------------------------------------


def test_a_url_is_fetched_once(vault, web, image, tmp_path):
    reference = at(web)
    assert vault.find(reference, ARCH) is None
    got, changed = vault.ensure(reference, ARCH, f"sha256:{sha256(image)}")
    assert changed
    assert got.hash == sha256(image)
    assert got.path == os.path.join(vault.path, got.hash, "disk.qcow2")
    assert (got.os, got.release, got.version, got.user, got.arch) == ("ubuntu", "noble", "24.04", "ubuntu", ARCH)
    assert (got.format, got.size, got.virtual_size) == ("qcow2", os.path.getsize(got.path), 4 * MIB)
    assert got.source == got.name == str(reference)
    assert content(got, tmp_path) == make_disk()
    assert half_made(vault) == []
    assert vault.find(reference, ARCH) == got
    assert vault.ensure(reference, ARCH, f"sha256:{sha256(image)}") == (got, False)
    assert vault.ensure(reference, ARCH) == (got, False)
    assert len(web.sent) == 1
    assert vault.runtime.report.warnings == []


def test_everything_in_the_vault_is_private(vault, web, image):
    vault.ensure(at(web), ARCH)
    for directory, dummy, files in os.walk(vault.path):
        assert os.stat(directory).st_mode & 0o777 == 0o700
        for name in files:
            assert os.stat(os.path.join(directory, name)).st_mode & 0o777 == 0o600


def test_without_a_checksum_it_says_what_it_got(vault, web, image):
    vault.ensure(at(web), ARCH)
    assert f"sha256:{sha256(image)}" in vault.runtime.report.warnings[0]


def test_an_architecture_that_the_name_contradicts_is_told(vault, web, image):
    web.files["/disk-arm64.img"] = image
    vault.ensure(at(web, "/disk-arm64.img"), ARCH, f"sha256:{sha256(image)}")
    assert "says that it is for aarch64" in vault.runtime.report.warnings[0]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_wrong_checksum(vault, web, image, algorithm):
    wrong = "0" * hashlib.new(algorithm).digest_size * 2
    with pytest.raises(ChecksumMismatch) as caught:
        vault.ensure(at(web), ARCH, f"{algorithm}:{wrong}")
    actual = hashlib.new(algorithm, image).hexdigest()
    assert wrong in str(caught.value)
    assert actual in str(caught.value)
    assert caught.value.facts == {"expected": wrong, "actual": actual}
    assert half_made(vault) == []
    assert vault.images() == ([], [])
    assert vault.ensure(at(web), ARCH, f"{algorithm}:{actual}")[1]


def test_a_cached_image_must_match_as_well(vault, web, image):
    vault.ensure(at(web), ARCH)
    for wrong in (f"sha256:{'0' * 64}", f"sha512:{'0' * 128}"):
        with pytest.raises(ChecksumMismatch):
            vault.ensure(at(web), ARCH, wrong)
    with pytest.raises(ChecksumMismatch, match=r"in the vault does not match.*state: latest"):
        vault.ensure(at(web), ARCH, f"sha256:{'0' * 64}")
    assert vault.find(at(web), ARCH)


def test_sha512_is_compared_once(vault, web, image):
    checksum = f"sha512:{hashlib.sha512(image).hexdigest()}"
    vault.ensure(at(web), ARCH)
    assert not vault.ensure(at(web), ARCH, checksum)[1]
    assert len(web.bodies(FILE)) == 2
    assert not vault.ensure(at(web), ARCH, checksum)[1]
    assert len(web.bodies(FILE)) == 2


def test_a_list_of_checksums(vault, web, image):
    web.files["/SHA256SUMS"] = f"{'0' * 64} *other.img\n{sha256(image)} *{FILE[1:]}\n".encode()
    checksum = f"sha256:{web.url}/SHA256SUMS"
    assert vault.ensure(at(web), ARCH, checksum)[1]
    count = len(web.sent)
    assert not vault.ensure(at(web), ARCH, checksum)[1]
    assert len(web.sent) == count
    assert vault.runtime.report.warnings == []


def test_a_list_of_checksums_without_the_image(vault, web, image):
    web.files["/SHA256SUMS"] = f"{'0' * 64} *other.img\n".encode()
    with pytest.raises(ImageError, match=r"no sha256 checksum of noble.*it has those of other\.img"):
        vault.ensure(at(web), ARCH, f"sha256:{web.url}/SHA256SUMS")
    with pytest.raises(ImageError, match="answered with 404"):
        vault.ensure(at(web), ARCH, f"sha256:{web.url}/MISSING")
    assert half_made(vault) == []


def test_a_bare_checksum_is_refused_with_what_to_write(vault, web, image):
    with pytest.raises(InvalidOption, match=f"Write sha256:{sha256(image)}"):
        vault.ensure(at(web), ARCH, sha256(image))


def test_a_change_upstream_waits_for_a_refresh(vault, web, image, newer):
    reference = at(web)
    old, dummy = vault.ensure(reference, ARCH)
    web.files[FILE] = newer
    assert vault.ensure(reference, ARCH) == (old, False)
    new, changed = vault.ensure(reference, ARCH, refresh=True)
    assert changed
    assert new.hash == sha256(newer)
    assert vault.find(reference, ARCH) == new
    assert vault.get(old.hash) == old
    assert vault.names_of(old) == []
    assert not vault.ensure(reference, ARCH, refresh=True)[1]


def test_a_refresh_of_what_has_not_changed_fetches_nothing(vault, web, image):
    vault.ensure(at(web), ARCH)
    assert not vault.ensure(at(web), ARCH, refresh=True)[1]
    assert not vault.ensure(at(web), ARCH, f"sha256:{sha256(image)}", refresh=True)[1]
    assert [sent.status for sent in web.sent] == [200, 304]


def test_a_checksum_of_the_new_version_needs_a_refresh(vault, web, image, newer):
    vault.ensure(at(web), ARCH)
    web.files[FILE] = newer
    checksum = f"sha256:{sha256(newer)}"
    with pytest.raises(ChecksumMismatch):
        vault.ensure(at(web), ARCH, checksum)
    assert vault.ensure(at(web), ARCH, checksum, refresh=True)[0].hash == sha256(newer)


def test_the_same_content_elsewhere_is_not_fetched_again(vault, web, image):
    vault.ensure(at(web), ARCH)
    got, changed = vault.ensure(at(web, "/mirror.img"), ARCH, f"sha256:{sha256(image)}")
    assert changed
    assert got.hash == sha256(image)
    assert vault.names_of(got) == sorted([str(at(web)), str(at(web, "/mirror.img"))])
    assert len(web.sent) == 1


@pytest.mark.parametrize("pack", [xz, gzip.compress, bz2.compress], ids=["xz", "gz", "bz2"])
@pytest.mark.parametrize("cut", [False, True])
def test_compressed_images(vault, web, tmp_path, pack, cut):
    packed = pack(make_disk())
    web.files["/disk"] = packed
    if cut:
        web.plan["/disk"] = [{"cut": MIB}]
    got, dummy = vault.ensure(at(web, "/disk"), ARCH, f"sha256:{sha256(packed)}")
    assert got.hash == sha256(packed)
    assert content(got, tmp_path) == make_disk()
    assert half_made(vault) == []


def test_compressed_with_zstd(vault, web, tmp_path):
    if not shutil.which("zstd"):
        pytest.skip("zstd is not installed")
    packed = subprocess.run(["zstd", "-c"], input=make_disk(), check=True, capture_output=True).stdout
    web.files["/disk"] = packed
    got, dummy = vault.ensure(at(web, "/disk"), ARCH)
    assert content(got, tmp_path) == make_disk()


def test_a_cut_that_lasts_is_gone_on_with_by_the_next_run(vault, web, image):
    web.plan[FILE] = [{"cut": MIB}, {"cut": 0}, {"cut": 0}, {"cut": 0}]
    with pytest.raises(ImageError, match="1 MiB are kept"):
        vault.ensure(at(web), ARCH)
    web.plan.clear()
    web.sent.clear()
    assert vault.ensure(at(web), ARCH)[0].hash == sha256(image)
    assert [sent.size for sent in web.sent] == [len(image) - MIB]
    assert half_made(vault) == []


def test_leftovers_that_do_not_match_are_fetched_anew_at_once(vault, web, image):
    checksum = f"sha256:{sha256(image)}"
    web.plan[FILE] = [{"cut": MIB}, {"cut": 0}, {"cut": 0}, {"cut": 0}]
    with pytest.raises(ImageError):
        vault.ensure(at(web), ARCH, checksum)
    partial = next(os.path.join(vault.partial, name) for name in os.listdir(vault.partial) if name.endswith(".part"))
    with open(partial, "r+b") as stream:
        stream.write(b"damaged")
    web.plan.clear()
    assert vault.ensure(at(web), ARCH, checksum)[0].hash == sha256(image)
    assert half_made(vault) == []


@pytest.mark.parametrize("status", [404, 500])
def test_an_error_of_the_server_leaves_nothing(vault, web, status):
    web.plan[FILE] = [{"status": status} for dummy in range(5)]
    with pytest.raises(ImageError, match=str(status)):
        vault.ensure(at(web), ARCH)
    assert vault.images() == ([], [])
    web.plan.clear()
    assert vault.ensure(at(web), ARCH)[1]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_what_is_no_disk_leaves_nothing(vault, web, image, pack):
    page = pack(b"<html>Log in, please</html>")
    web.files[FILE] = page
    with pytest.raises(ImageError, match="is not a disk image: it seems to be a web page"):
        vault.ensure(at(web), ARCH)
    assert half_made(vault) == []
    web.files[FILE] = image
    assert vault.ensure(at(web), ARCH)[1]


def test_an_overlay_from_a_stranger_is_refused(vault, web, tmp_path):
    overlay = str(tmp_path / "overlay")
    subprocess.run(
        ["qemu-img", "create", "-u", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", overlay, "1M"], check=True
    )
    with open(overlay, "rb") as stream:
        web.files[FILE] = stream.read()
    with pytest.raises(ImageError, match="is refused: it is an overlay"):
        vault.ensure(at(web), ARCH)
    assert half_made(vault) == []


# -- image hosts -----------------------------------------------------------------------------------------------------


def test_an_image_host_is_asked_once(data, runtime, web, image):
    asked = []

    def resolve(reference, arch, kind):
        asked.append(reference)
        return Source(
            reference, web.url + FILE, arch, sha256(image), "", len(image), "ubuntu", "noble", "24.04", "ubuntu", "T"
        )

    vault = ProvidedVault(data, runtime, resolve)
    got, changed = vault.ensure(parse_reference("noble"), ARCH)
    assert changed
    assert (got.name, got.title, got.user, got.source) == ("noble", "T", "ubuntu", web.url + FILE)
    assert vault.runtime.report.warnings == []
    assert not vault.ensure(parse_reference("noble"), ARCH)[1]
    assert vault.ensure(parse_reference("24.04"), ARCH)[0].name == "24.04"
    assert [str(reference) for reference in asked] == ["noble", "24.04"]
    assert len(web.bodies(FILE)) == 1
    assert vault.find(parse_reference(got.hash[:12]), ARCH).hash == got.hash
    assert vault.find(parse_reference(got.hash), "aarch64") is None


def test_what_an_image_host_promises_is_compared(data, runtime, web, image):
    vault = ProvidedVault(
        data, runtime, lambda reference, arch, kind: Source(reference, web.url + FILE, arch, "0" * 64)
    )
    with pytest.raises(ChecksumMismatch):
        vault.ensure(parse_reference("noble"), ARCH)
    vault.resolve = lambda reference, arch, kind: Source(
        reference, web.url + FILE, arch, "", hashlib.sha512(image).hexdigest()
    )
    assert vault.ensure(parse_reference("noble"), ARCH)[0].hash == sha256(image)
    assert vault.runtime.report.warnings == []


def test_without_image_hosts(vault):
    with pytest.raises(NotFound, match="image host release is not known"):
        vault.ensure(parse_reference("noble"), ARCH)


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_foretold(vault, tmp_path):
    for path in (tmp_path / "missing.img", tmp_path):
        for ask in (vault.forecast, vault.ensure):
            with pytest.raises(NotFound, match=f"the image {path} was not found"):
                ask(parse_reference(str(path)), ARCH)
    assert half_made(vault) == []


@pytest.mark.parametrize("options", [(), ("-c",)])
def test_a_file_is_imported_once(vault, tmp_path, options):
    path = tmp_path / "debian-12-generic-amd64.qcow2"
    data = as_qcow2(tmp_path, make_disk(), *options)
    path.write_bytes(data)
    reference = parse_reference(str(path))
    got, changed = vault.ensure(reference, ARCH, f"sha256:{sha256(data)}")
    assert changed
    assert (got.hash, got.os, got.release, got.user) == (sha256(data), "debian", "bookworm", "debian")
    assert content(got, tmp_path) == make_disk()
    assert path.read_bytes() == data
    assert vault.ensure(reference, ARCH) == (got, False)
    assert half_made(vault) == []


@pytest.mark.parametrize("pack", [bytes, xz], ids=["raw", "xz"])
def test_other_files_are_imported_too(vault, tmp_path, pack):
    path = tmp_path / "disk"
    path.write_bytes(pack(make_disk()))
    got, dummy = vault.ensure(parse_reference(str(path)), ARCH)
    assert content(got, tmp_path) == make_disk()
    assert got.hash == sha256(path.read_bytes())


def test_a_file_that_changed_is_imported_anew(vault, tmp_path, image, newer):
    path = tmp_path / "disk"
    path.write_bytes(image)
    reference = parse_reference(f"file://{path}")
    old, dummy = vault.ensure(reference, ARCH)
    path.write_bytes(newer)
    assert vault.find(reference, ARCH) is None
    assert vault.known(reference, ARCH) == old
    new, changed = vault.ensure(reference, ARCH)
    assert changed
    assert new.hash == sha256(newer)
    assert vault.get(old.hash)
    os.utime(path, ns=(1, 1))
    assert vault.ensure(reference, ARCH) == (new, False)
    path.unlink()
    assert vault.find(reference, ARCH) is None
    with pytest.raises(NotFound, match="no such file"):
        vault.ensure(reference, ARCH)


def test_a_file_with_a_wrong_checksum(vault, tmp_path, image):
    path = tmp_path / "disk"
    path.write_bytes(image)
    with pytest.raises(ChecksumMismatch, match="the file has"):
        vault.ensure(parse_reference(str(path)), ARCH, f"sha256:{'0' * 64}")
    assert half_made(vault) == []
    assert path.read_bytes() == image


def test_a_file_that_is_written_to_meanwhile(data, tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(make_disk())

    def meddle(argv, **kwargs):
        if "convert" in argv:
            os.utime(path, ns=(1, 1))
        return run(argv, **kwargs)

    vault = ProvidedVault(data, Runtime(meddle))
    with pytest.raises(ImageError, match="written to meanwhile"):
        vault.ensure(parse_reference(str(path)), ARCH)
    assert half_made(vault) == []


def test_what_is_no_file(vault, tmp_path):
    for path, words in ((tmp_path, "it is not a file"), (tmp_path / "none", "no such file")):
        with pytest.raises(NotFound, match=words):
            vault.ensure(parse_reference(str(path)), ARCH)


# -- bootstrap -------------------------------------------------------------------------------------------------------


@pytest.fixture
def builder(monkeypatch, tmp_path):
    built = []

    def build(runtime, release, arch, target, work_dir, kind):
        assert os.path.isdir(work_dir)
        built.append(release)
        with open(target, "wb") as stream:
            stream.write(as_qcow2(tmp_path, make_disk(len(built))))
        return bootstrap.Built("debian", release, "12", arch, "debian", "Debian 12")

    monkeypatch.setattr(bootstrap, "build", build)
    monkeypatch.setattr(bootstrap, "recipe_hash", lambda release, arch, kind: "recipe")
    return built


def test_an_image_is_built_once(vault, builder, tmp_path, monkeypatch):
    reference = parse_reference("bootstrap:bookworm")
    got, changed = vault.ensure(reference, ARCH)
    assert changed
    with open(got.path, "rb") as stream:
        assert got.hash == sha256(stream.read())
    assert (got.name, got.os, got.release, got.version, got.user) == (
        "bootstrap:bookworm",
        "debian",
        "bookworm",
        "12",
        "debian",
    )
    assert content(got, tmp_path) == make_disk(1)
    assert half_made(vault) == []
    monkeypatch.setattr(bootstrap, "recipe_hash", lambda release, arch, kind: "other")
    assert vault.find(reference, ARCH) == got
    assert vault.ensure(reference, ARCH) == (got, False)
    assert builder == ["bookworm"]
    new, changed = vault.ensure(reference, ARCH, refresh=True)
    assert changed
    assert new.hash != got.hash
    assert vault.get(got.hash)
    assert vault.entry(reference, ARCH).stamp == "other"


def test_a_checksum_of_what_is_to_be_built(vault, builder):
    with pytest.raises(InvalidOption, match="cannot be given"):
        vault.ensure(parse_reference("bootstrap:bookworm"), ARCH, f"sha256:{'0' * 64}")


# -- names, use, removal ---------------------------------------------------------------------------------------------


def test_aliases(vault, web, image, newer):
    got, dummy = vault.ensure(at(web), ARCH)
    assert vault.set_alias(got, "base") is True
    assert vault.set_alias(got, "base") is False
    alias = parse_reference("base")
    assert vault.find(alias, ARCH).hash == got.hash
    assert vault.find(alias, "aarch64") is None
    assert vault.ensure(alias, ARCH)[1] is False
    assert vault.aliases_of(got) == ["base"]
    web.files[FILE] = newer
    new, changed = vault.ensure(alias, ARCH, refresh=True)
    assert changed
    assert new.hash == sha256(newer)
    assert vault.find(alias, ARCH).hash == vault.find(at(web), ARCH).hash == new.hash
    vault.forget(alias, ARCH)
    assert vault.find(alias, ARCH) is None
    for bad in ("host:base", "/base", "../x", "a b"):
        with pytest.raises(InvalidOption):
            vault.set_alias(new, bad)


def test_an_alias_does_not_hide_an_image(vault, builder, data, web, image):
    vault.resolve = lambda reference, arch, kind: Source(reference, web.url + FILE, arch, sha256(image))
    got, dummy = vault.ensure(parse_reference("noble"), ARCH)
    with pytest.raises(InvalidOption, match="is taken"):
        vault.set_alias(got, "noble")


def test_removal(vault, web, image, newer):
    got, dummy = vault.ensure(at(web), ARCH)
    vault.set_alias(got, "base")
    web.files["/other"] = newer
    other, dummy = vault.ensure(at(web, "/other"), ARCH)
    vault.remove(got)
    assert vault.images() == ([other], [])
    assert vault.find(at(web), ARCH) is None
    assert vault.find(parse_reference("base"), ARCH) is None
    assert sorted(os.listdir(vault.path)) == sorted([other.hash, "names.json", "partial"])
    vault.remove(got)
    assert vault.ensure(at(web), ARCH)[1]


def test_use_is_noted(vault, web, image, newer):
    web.files["/other"] = newer
    got, dummy = vault.ensure(at(web), ARCH)
    other, dummy = vault.ensure(at(web, "/other"), ARCH)
    for one in (got, other):
        os.utime(os.path.join(vault.directory(one.hash), "image.json"), (1000, 1000))
    assert vault.unused_since(3600) == sorted([got, other], key=lambda i: i.name)
    assert vault.unused_since(3600, in_use={other.hash}) == [got]
    vault.ensure(at(web), ARCH)
    assert vault.unused_since(3600) == [other]
    assert time.time() - vault.last_used(got) < 60


def test_a_damaged_record_is_told_and_harms_no_other(vault, web, image, newer):
    web.files["/other"] = newer
    got, dummy = vault.ensure(at(web), ARCH)
    other, dummy = vault.ensure(at(web, "/other"), ARCH)
    path = os.path.join(vault.directory(got.hash), "image.json")
    with open(path) as stream:
        record = json.load(stream)
    for text in ('{"schema": 1', '{"schema": 1}', json.dumps({**record, "schema": 99})):
        with open(path, "w") as stream:
            stream.write(text)
        images, broken = vault.images()
        assert images == [other]
        assert [str(exc.facts["record"]) for exc in broken] == [path]
        assert vault.find(at(web, "/other"), ARCH) == other
        with pytest.raises(RecordError):
            vault.find(at(web), ARCH)


def test_a_disk_that_is_gone_or_cut_is_fetched_again(vault, web, image):
    got, dummy = vault.ensure(at(web), ARCH)
    os.truncate(got.path, 1000)
    assert vault.find(at(web), ARCH) is None
    assert vault.ensure(at(web), ARCH)[1]
    os.unlink(got.path)
    assert vault.ensure(at(web), ARCH, f"sha256:{sha256(image)}")[1]
    assert vault.find(at(web), ARCH).size == got.size


def test_damaged_names_are_told(vault, web, image):
    vault.ensure(at(web), ARCH)
    names = os.path.join(vault.path, "names.json")
    with open(names, "w") as stream:
        stream.write('{"schema": 1, "names": 3}')
    with pytest.raises(RecordError, match="Remove the file"):
        vault.find(at(web), ARCH)
    os.unlink(names)
    assert vault.find(at(web), ARCH) is None
    assert vault.ensure(at(web), ARCH)[0].hash == sha256(image)


def test_looking_up_imports_nothing_that_fetches(data, vault, web, image):
    vault.ensure(at(web), ARCH)
    code = (
        "import sys; from ansible_collections.minicloud.local.plugins.module_utils._images.vault import Vault;"
        "from ansible_collections.minicloud.local.plugins.module_utils._images.source import Reference;"
        "from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime;"
        "from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory;"
        f"vault = Vault(DataDirectory({data.path!r}), Runtime(None));"
        f"assert vault.find(Reference('url', {at(web).name!r}), 'x86_64');"
        "print(*sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": PATHS}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    heavy = {"urllib", "http", "ssl", "hashlib", "acquire", "fetch", "unpack", "disk", "flow"}
    assert heavy.isdisjoint(name.rpartition(".")[2] for name in done.stdout.split())


# -- several at once, killed, full ------------------------------------------------------------------------------------


def start(data, url, checksum=""):
    """Have an image ensured by another process; it prints whether it changed anything."""
    code = (
        "from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._images import test_vault;"
        f"test_vault.ensure_and_tell({data.path!r}, {url!r}, {checksum!r})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": PATHS}, stdout=subprocess.PIPE, text=True
    )


def ensure_and_tell(path, url, checksum):
    runtime = Runtime(run)
    runtime.report.step = lambda name: print(name, flush=True)
    image, changed = ProvidedVault(DataDirectory(path), runtime).ensure(parse_reference(url), ARCH, checksum)
    print(f"changed {changed} {image.hash}", flush=True)


@pytest.mark.parametrize("checksums", [False, True])
def test_one_download_however_many_ask(data, vault, web, image, checksums):
    all_are_there = threading.Event()
    web.plan[FILE] = [{"stall": MIB, "until": all_are_there, "seconds": 60, "go_on": True}]
    given = [f"sha256:{sha256(image)}" if checksums and number % 2 else "" for number in range(4)]
    runs = [start(data, web.url + FILE, checksum) for checksum in given]
    first = sorted(one.stdout.readline().strip() for one in runs)
    all_are_there.set()
    said = [one.communicate(timeout=60)[0] for one in runs]
    assert [one.returncode for one in runs] == [0] * 4
    assert first == ["fetch_image", *[f"waiting for another run that fetches the image {at(web)}"] * 3]
    assert sum(f"changed True {sha256(image)}" in text for text in said) == 1
    assert sum(f"changed False {sha256(image)}" in text for text in said) == 3
    assert len(web.bodies(FILE)) == 1
    assert half_made(vault) == []


def test_different_images_come_in_parallel(data, vault, web, image, newer):
    web.files["/other"] = newer
    other_is_there = threading.Event()
    web.plan[FILE] = [{"stall": MIB, "until": other_is_there, "seconds": 60, "go_on": True}]
    first = start(data, web.url + FILE)
    begin = time.monotonic()
    while not web.bodies(FILE) and time.monotonic() - begin < 30:
        time.sleep(0.05)
    vault.ensure(at(web, "/other"), ARCH)
    assert first.poll() is None
    other_is_there.set()
    assert "changed True" in first.communicate(timeout=60)[0]


def half_made_or_none(vault):
    with contextlib.suppress(OSError):
        return os.listdir(vault.partial)
    return []


@pytest.mark.parametrize("after", [0, MIB, 2 * MIB])
def test_a_killed_run_is_gone_on_with(data, vault, web, image, after):
    killed = threading.Event()
    web.plan[FILE] = [{"stall": after, "until": killed, "seconds": 60}]
    one = start(data, web.url + FILE)
    begin = time.monotonic()
    while time.monotonic() - begin < 30:
        sizes = []
        for name in half_made_or_none(vault):
            with contextlib.suppress(FileNotFoundError):  # a record is replaced by a file of another name
                sizes.append(os.path.getsize(os.path.join(vault.partial, name)))
        if len(sizes) == 2 and max(sizes) >= after:
            break
        time.sleep(0.01)
    one.send_signal(signal.SIGKILL)
    one.communicate(timeout=20)
    killed.set()
    assert vault.images() == ([], [])
    assert vault.ensure(at(web), ARCH)[0].hash == sha256(image)
    assert half_made(vault) == []


@pytest.mark.parametrize("program", ["check", "convert"])
def test_a_run_that_is_killed_while_it_prepares(data, vault, web, program, tmp_path):
    web.files[FILE] = as_qcow2(tmp_path, make_disk(), "-c")
    code = (
        "import os, signal;"
        "from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._images import test_vault as t;"
        f"t.run = lambda argv, **k: os.kill(os.getpid(), 9) if {program!r} in argv else real(argv, **k);"
        "from ansible_collections.minicloud.local.plugins.module_utils._command import run as real;"
        f"t.ensure_and_tell({data.path!r}, {web.url + FILE!r}, '')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": PATHS}, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert half_made(vault) != []
    assert vault.ensure(at(web), ARCH)[1]
    assert half_made(vault) == []
    assert [sent.status for sent in web.sent] == [200, 304]


def test_leftovers_of_others_are_removed_unless_they_are_at_work(data, vault, web):
    for key in ("aaaa", "bbbb"):
        os.makedirs(os.path.join(vault.path, f"work-{key}", "ready"))
    os.makedirs(os.path.join(vault.path, "work-cccc.gone"))
    os.makedirs(vault.partial)
    old = os.path.join(vault.partial, "old.part")
    with open(old, "w"):
        os.utime(old, (1, 1))
    reference = at(web)
    key = hashlib.sha256(f"{reference} {ARCH}".encode()).hexdigest()[:16]
    for name in (f"partial/{key}.json.1.tmp", "partial/cccc.json.1.tmp", "names.json.1.tmp"):
        with open(os.path.join(vault.path, name), "w"):
            os.utime(os.path.join(vault.path, name), (1, 1))
    with data.lock("image-bbbb"):
        vault.ensure(at(web), ARCH)
        assert [name for name in os.listdir(vault.path) if name.startswith("work")] == ["work-bbbb"]
    assert half_made(vault) == ["work-bbbb"]


@pytest.fixture
def small(tmp_path, runtime):
    """A vault on a file system of 6 MiB, and a function that fills it up to so many free bytes."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small file system")
    path = tmp_path / "small"
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "none", path], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("no file system can be mounted here")

    def fill(free):
        ballast = path / "ballast"
        ballast.unlink(missing_ok=True)
        status = os.statvfs(path)
        ballast.write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - free)))

    yield ProvidedVault(DataDirectory(str(path / "data")), runtime), fill
    subprocess.run(["umount", "-l", path], check=False)


def test_a_disk_too_small_for_the_download_is_noticed_at_its_beginning(small, web, image):
    vault, fill = small
    fill(9 * MIB)
    with pytest.raises(NoSpace, match=r"are to come and .* are free"):
        vault.ensure(at(web), ARCH)
    assert half_made(vault) == []
    fill(24 * MIB)
    assert vault.ensure(at(web), ARCH)[1]


@pytest.mark.parametrize("pack", [bytes, xz], ids=["plain", "xz"])
def test_a_disk_that_fills_up_during_the_download(small, web, image, pack, monkeypatch):
    from ansible_collections.minicloud.local.plugins.module_utils._images import disk, unpack

    for module in (fetch, unpack, disk):
        monkeypatch.setattr(module, "free_space", lambda path: 1 << 40)
    vault, fill = small
    web.files[FILE] = pack(image)
    fill(MIB)
    with pytest.raises(NoSpace, match="No space left"):
        vault.ensure(at(web), ARCH)
    assert half_made(vault) == []
    fill(24 * MIB)
    assert vault.ensure(at(web), ARCH)[1]


@pytest.mark.parametrize("checked", [True, False])
def test_a_disk_that_is_too_small_for_the_prepared_image(small, web, tmp_path, checked, monkeypatch):
    from ansible_collections.minicloud.local.plugins.module_utils._images import disk

    vault, fill = small
    # What compresses well as an image takes little to fetch and much to keep.
    raw = bytearray(make_disk(filled=0, size=16 * MIB))
    raw[MIB:] = bytes(range(256)) * (15 * MIB // 256)
    web.files[FILE] = as_qcow2(tmp_path, bytes(raw), "-c")
    assert len(web.files[FILE]) < MIB
    fill(12 * MIB)
    if not checked:
        monkeypatch.setattr(disk, "free_space", lambda path: 1 << 40)
    with pytest.raises(NoSpace, match="needs 15" if checked else "No space left"):
        vault.ensure(at(web), ARCH)
    assert half_made(vault) == []
    fill(24 * MIB)
    assert vault.ensure(at(web), ARCH)[1]
