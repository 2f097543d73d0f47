# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    BadSignature,
    ImageError,
    MissingRequirement,
    Unreachable,
)
from ansible_collections.minicloud.local.plugins.module_utils._images import index as index_module
from ansible_collections.minicloud.local.plugins.module_utils._images.hosts import ImageHosts
from ansible_collections.minicloud.local.plugins.module_utils._images.index import ImageHost, Index
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import parse_reference
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime

INDEX = "/releases/streams/v1/index.json"
PRODUCTS = "/releases/streams/v1/com.ubuntu.cloud:released:download.json"


@pytest.fixture
def host(server):
    return ImageHost("release", f"{server.url}releases/", allow_http=True)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""

    class Clock:
        now = 1_800_000_000.0

        def time(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(index_module, "time", made)
    return made


def cached(data, name="release"):
    directory = os.path.join(data.vault, "hosts", name)
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []


def names(products):
    return {product.release for product in products}


def test_fetched_once_and_then_from_the_cache(server, host, data, runtime):
    assert names(Index(host, data, runtime).products("x86_64")) == {"noble", "jammy", "bionic", "xenial"}
    assert server.paths() == [INDEX, PRODUCTS]
    again = Index(host, data, runtime)
    assert names(again.products("amd64")) == {"noble", "jammy", "bionic", "xenial"}
    assert names(again.products("arm64")) == {"noble", "jammy", "bionic"}
    assert server.paths() == [INDEX, PRODUCTS]
    assert runtime.report.warnings == []


def test_old_cache_is_revalidated(server, host, data, runtime, clock):
    Index(host, data, runtime).products("x86_64")
    before = cached(data)
    clock.now += 15 * 60 + 1
    assert Index(host, data, runtime).products("x86_64")
    assert server.paths() == [INDEX, PRODUCTS] * 2
    assert all("If-None-Match" in headers for dummy, headers in server.requests[2:])
    assert cached(data) == before
    Index(host, data, runtime).products("x86_64")
    assert len(server.requests) == 4


def test_new_index_replaces_the_old_one(server, host, data, runtime, clock):
    Index(host, data, runtime).products("x86_64")
    before = cached(data)
    content = json.loads(server.files[PRODUCTS])
    content["products"]["com.ubuntu.cloud:server:24.04:amd64"]["release"] = "newer"
    server.files[PRODUCTS] = json.dumps(content).encode()
    clock.now += 14 * 60
    assert "noble" in names(Index(host, data, runtime).products("x86_64"))
    assert "newer" in names(Index(host, data, runtime).products("x86_64", refresh=True))
    assert len(cached(data)) == len(before)
    assert cached(data) != before


def test_refreshed_on_request_and_once_a_run(server, host, data, runtime):
    index = Index(host, data, runtime)
    index.products("x86_64")
    index.products("x86_64", refresh=True)
    index.products("aarch64", refresh=True)
    assert len(server.requests) == 2
    other = Index(host, data, runtime)
    other.products("x86_64", refresh=True)
    other.products("aarch64", refresh=True)
    assert len(server.requests) == 4


def test_server_without_validators(server, host, data, runtime, clock):
    server.etags = False
    Index(host, data, runtime).products("x86_64")
    clock.now += 3600
    assert Index(host, data, runtime).products("x86_64")
    assert len(server.requests) == 4


def test_offline_with_a_cache(server, host, data, runtime, clock):
    Index(host, data, runtime).products("x86_64")
    server.close()
    clock.now += 3 * 86400 + 5
    index = Index(host, data, runtime)
    assert "noble" in names(index.products("x86_64"))
    assert "noble" in names(index.products("aarch64"))
    (warning,) = runtime.report.warnings
    assert "3 days ago" in warning
    assert "refused" in warning
    clock.now += 30
    later = Runtime(runtime.run)
    assert "noble" in names(Index(host, data, later).products("x86_64"))
    assert len(later.report.warnings) == 1


def test_host_that_is_back_is_asked_again(server, host, data, runtime, clock):
    Index(host, data, runtime).products("x86_64")
    clock.now += 3600
    server.plan[INDEX] = [404]
    Index(host, data, runtime).products("x86_64")
    assert len(runtime.report.warnings) == 1
    assert "1 hour ago" in runtime.report.warnings[0]
    asked = len(server.requests)
    clock.now += 61
    fine = Runtime(runtime.run)
    Index(host, data, fine).products("x86_64")
    assert len(server.requests) == asked + 2
    assert fine.report.warnings == []


def test_offline_without_a_cache(server, host, data, runtime):
    server.close()
    with pytest.raises(Unreachable, match="image host release cannot be asked") as caught:
        Index(host, data, runtime).products("x86_64")
    assert "proxy" in str(caught.value)
    assert cached(data) == []


def test_cache_of_another_url_does_not_count(server, host, data, runtime):
    Index(host, data, runtime).products("x86_64")
    with pytest.raises(Unreachable):
        Index(host._replace(url=f"{server.url}elsewhere/"), data, runtime).products("x86_64")
    assert Index(host._replace(url=f"{server.url}images/"), data, runtime).products("x86_64")[0].variant


def test_clock_that_was_set_back(server, host, data, runtime, clock):
    Index(host, data, runtime).products("x86_64")
    clock.now -= 86400
    Index(host, data, runtime).products("x86_64")
    assert len(server.requests) == 4


@pytest.mark.parametrize("path", [INDEX, PRODUCTS])
@pytest.mark.parametrize("body", [b"<html>Sign in</html>", b"", b'{"products": {', b"[]", b"null", b"\xff\xfe"])
def test_what_is_no_index(server, host, data, runtime, path, body):
    good = server.files[path]
    server.files[path] = body
    with pytest.raises(ImageError, match="cannot be read") as caught:
        Index(host, data, runtime).products("x86_64")
    assert path in str(caught.value)
    assert "state.json" not in cached(data)
    server.files[path] = good
    assert Index(host, data, runtime).products("x86_64")
    assert len(cached(data)) == 4


def test_what_is_no_index_does_not_replace_one(server, host, data, runtime):
    Index(host, data, runtime).products("x86_64")
    server.files[PRODUCTS] = b"<html>Sign in</html>"
    assert Index(host, data, runtime).products("x86_64", refresh=True)
    assert "is not valid JSON" in runtime.report.warnings[0]


def test_not_there(server, host, data, runtime):
    del server.files[PRODUCTS]
    with pytest.raises(Unreachable, match="404"):
        Index(host, data, runtime).products("x86_64")


def test_not_changed_although_nothing_is_known(server, host, data, runtime):
    server.plan[INDEX] = [304]
    with pytest.raises(ImageError, match="not changed"):
        Index(host, data, runtime).products("x86_64")


@pytest.mark.parametrize("documents", [None, [], [1], [{}], {"url": "x"}])
def test_state_that_makes_no_sense(server, host, data, runtime, documents):
    Index(host, data, runtime).products("x86_64")
    path = os.path.join(data.vault, "hosts", "release", "state.json")
    with open(path, encoding="utf-8") as stream:
        state = json.load(stream)
    with open(path, "w", encoding="utf-8") as stream:
        json.dump({**state, "documents": documents, "identity": "0" * 32}, stream)
    assert names(Index(host, data, runtime).products("x86_64")) == {"noble", "jammy", "bionic", "xenial"}


def test_passing_trouble(server, host, data, runtime):
    server.plan[INDEX] = [500, 503]
    assert Index(host, data, runtime).products("x86_64")
    assert server.paths() == [INDEX] * 3 + [PRODUCTS]


def test_lasting_trouble(server, host, data, runtime):
    server.plan[INDEX] = [500] * 9
    with pytest.raises(Unreachable, match="500"):
        Index(host, data, runtime).products("x86_64")
    server.plan.clear()
    assert Index(host, data, runtime).products("x86_64")


def cut(server, path):
    def answer(request):
        request.send_response(200)
        request.send_header("Content-Length", str(len(server.files[path])))
        request.end_headers()
        request.wfile.write(server.files[path][:100])
        request.close_connection = True

    return answer


def test_cut_short_once(server, host, data, runtime):
    server.plan[PRODUCTS] = [cut(server, PRODUCTS)]
    assert Index(host, data, runtime).products("x86_64")


def test_cut_short_always(server, host, data, runtime):
    server.plan[PRODUCTS] = [cut(server, PRODUCTS)] * 9
    with pytest.raises(Unreachable, match="cut"):
        Index(host, data, runtime).products("x86_64")
    assert "state.json" not in cached(data)


def test_slow_server(server, host, data, runtime, monkeypatch):
    monkeypatch.setattr(index_module, "INACTIVITY", 0.2)
    over = threading.Event()
    server.plan[INDEX] = [lambda request: over.wait(120)] * 9
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"silent|timed out"):
        Index(host, data, runtime).products("x86_64")
    over.set()
    # Far below what the server takes, and far above what a busy machine does.
    assert time.monotonic() - began < 60


def redirect(target):
    def answer(request):
        request.send_response(302)
        request.send_header("Location", target)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def test_redirects(server, host, data, runtime):
    server.files["/elsewhere/index.json"] = server.files[INDEX]
    server.plan[INDEX] = [redirect("/elsewhere/index.json")]
    assert Index(host, data, runtime).products("x86_64")
    assert server.paths() == [INDEX, "/elsewhere/index.json", PRODUCTS]


def test_index_that_is_far_too_large(server, host, data, runtime, monkeypatch):
    monkeypatch.setattr(index_module, "LARGEST", 20000)
    with pytest.raises(Unreachable, match="larger than"):
        Index(host, data, runtime).products("x86_64")


def test_http_only_where_it_is_allowed(server, host, data, runtime):
    with pytest.raises(ImageError, match="not https") as caught:
        Index(host._replace(allow_http=False), data, runtime).products("x86_64")
    assert "allow_http" in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\0" * 100])
@pytest.mark.parametrize("which", ["state", "raw", "distilled"])
def test_damaged_cache_is_made_anew(server, host, data, runtime, damage, which):
    Index(host, data, runtime).products("x86_64")
    directory = os.path.join(data.vault, "hosts", "release")
    for entry in cached(data):
        kind = "state" if entry == "state.json" else "raw" if entry.endswith(".json") else "distilled"
        if kind == which:
            with open(os.path.join(directory, entry), "wb") as stream:
                stream.write(damage)
    again = Index(host, data, runtime)
    assert names(again.products("x86_64")) == {"noble", "jammy", "bionic", "xenial"}
    assert names(again.products("aarch64")) == {"noble", "jammy", "bionic"}


def test_leftovers_of_killed_runs_are_removed(server, host, data, runtime, clock):
    Index(host, data, runtime).products("x86_64")
    whole = cached(data)
    directory = os.path.join(data.vault, "hosts", "release")
    os.mkdir(os.path.join(directory, "signed-x.tmp"))
    for name in ("state.json.1.tmp", "0" * 64 + ".json", "0" * 32 + ".x86_64.1"):
        with open(os.path.join(directory, name), "wb") as stream:
            stream.write(b"{")
    clock.now += 3600
    Index(host, data, runtime).products("x86_64")
    assert cached(data) == whole


def test_parallel_runs_ask_once(server, host, data, runtime):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(Index(host, data, runtime).products("x86_64"))) for dummy in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert server.paths() == [INDEX, PRODUCTS]


def test_several_streams_of_one_server(server, data, runtime):
    index = json.loads(server.files["/images/streams/v1/index.json"])
    index["index"]["more"] = {"datatype": "image-downloads", "path": "streams/v1/more.json"}
    more = {
        "products": {
            "ours:1:amd64:cloud": {
                "aliases": "ours/1/cloud",
                "arch": "amd64",
                "variant": "cloud",
                "versions": {"1": {"items": {"disk.qcow2": {"path": "x", "sha256": "a" * 64}}}},
            }
        }
    }
    server.files["/images/streams/v1/index.json"] = json.dumps(index).encode()
    server.files["/images/streams/v1/more.json"] = json.dumps(more).encode()
    host = ImageHost("images", f"{server.url}images", allow_http=True)
    keys = {product.key for product in Index(host, data, runtime).products("x86_64")}
    assert {"ours:1:amd64:cloud", "debian:trixie:amd64:cloud"} <= keys


def test_manifest(server, data, runtime):
    image = {"aliases": "debian", "os": "Debian", "items": {"x86_64": {"id": "a" * 64, "image_location": "d.qcow2"}}}
    server.files["/lists/all.json"] = json.dumps({"Debian": image}).encode()
    host = ImageHost("ours", f"{server.url}lists/all.json", "manifest", allow_http=True)
    index = Index(host, data, runtime)
    assert [product.os for product in index.products("x86_64")] == ["debian"]
    assert index.architectures() == ["x86_64"]
    assert host.locate("d.qcow2") == f"{server.url}lists/d.qcow2"
    server.files["/lists/all.json"] = server.files[INDEX]
    with pytest.raises(ImageError, match="not a manifest"):
        Index(host._replace(name="other"), data, runtime).products("x86_64")


def test_locations():
    host = ImageHost("images", "https://example.com/base/")
    assert (
        host.locate("images/x/20251120_05:24/disk.qcow2")
        == "https://example.com/base/images/x/20251120_05:24/disk.qcow2"
    )
    assert host.locate("/a b#c") == "https://example.com/base/a%20b%23c"
    assert host._replace(mirror="https://near/m").locate("x") == "https://near/m/x"
    assert host.locate("https://other/x") == "https://other/x"
    for location in ("http://other/x", "file:///etc/passwd", "ftp://other/x"):
        with pytest.raises(ImageError, match="not https"):
            host.locate(location)


def test_urls_are_shown_without_passwords():
    assert index_module.shown_url("https://user:secret@example.com/a@b") == "https://example.com/a@b"


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if not shutil.which("openssl"):
        pytest.skip("openssl, which makes the server's certificate, is not installed")
    directory = tmp_path_factory.mktemp("tls")
    key, cert = str(directory / "key.pem"), str(directory / "cert.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    return cert, key


@pytest.fixture
def secure(server, certificate):
    made = type(server)(certificate)
    made.files = server.files
    yield made
    made.close()


def test_https(secure, certificate, data, runtime, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    assert Index(ImageHost("release", f"{secure.url}releases/"), data, runtime).products("x86_64")


def test_https_with_a_certificate_of_nobody(secure, data, runtime):
    with pytest.raises(Unreachable, match="certificate"):
        Index(ImageHost("release", f"{secure.url}releases/"), data, runtime).products("x86_64")
    assert cached(data) == []


def test_redirect_from_https_to_http(secure, server, certificate, data, runtime, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    secure.plan[INDEX] = [redirect(f"{server.url}releases/streams/v1/index.json")]
    with pytest.raises(ImageError, match="http:"):
        Index(ImageHost("release", f"{secure.url}releases/"), data, runtime).products("x86_64")
    assert server.requests == []


# Signatures


class Signer:
    """A key pair of the test's own, and what signs with it."""

    def __init__(self, home):
        self.home = str(home)
        self.keyring = os.path.join(self.home, "keyring.gpg")
        os.chmod(self.home, 0o700)
        self._gpg("--quick-gen-key", "Test <test@example.com>", "ed25519", "sign", "never")
        with open(self.keyring, "wb") as stream:
            stream.write(self._gpg("--export"))

    def _gpg(self, *arguments, text=b""):
        command = [
            "gpg",
            "--homedir",
            self.home,
            "--batch",
            "--quiet",
            "--passphrase",
            "",
            "--pinentry-mode",
            "loopback",
        ]
        return subprocess.run([*command, *arguments], input=text, check=True, stdout=subprocess.PIPE).stdout

    def sign(self, text):
        return self._gpg("--clearsign", text=text)

    def close(self):
        subprocess.run(["gpgconf", "--homedir", self.home, "--kill", "all"], check=False)


@pytest.fixture
def signer():
    if not (shutil.which("gpg") and shutil.which("gpgv") and shutil.which("gpgconf")):
        pytest.skip("gpg and gpgv are not installed")
    import tempfile

    # Not below pytest's directory: the path of gpg's socket must be short.
    with tempfile.TemporaryDirectory(prefix="gpg-") as home:
        made = Signer(home)
        yield made
        made.close()


@pytest.fixture
def signed(server, signer):
    """The server with signed indexes only."""
    index = server.files.pop(INDEX).replace(b"download.json", b"download.sjson")
    server.files[INDEX.replace(".json", ".sjson")] = signer.sign(index)
    server.files[PRODUCTS.replace(".json", ".sjson")] = signer.sign(server.files.pop(PRODUCTS))
    return server


def test_signed(signed, signer, host, data, runtime):
    host = host._replace(keyring=signer.keyring)
    assert "noble" in names(Index(host, data, runtime).products("x86_64"))
    assert all(path.endswith(".sjson") for path in signed.paths())
    assert not [entry for entry in cached(data) if entry.endswith(".tmp")]
    assert "noble" in names(Index(host, data, runtime).products("x86_64", refresh=True))
    assert len(signed.requests) == 4


def test_signed_index_may_name_the_unsigned_file(server, signed, signer, host, data, runtime):
    path = INDEX.replace(".json", ".sjson")
    text = b'{"index": {"com.ubuntu.cloud:released:download": {"datatype": "image-downloads", "path": "%s"}}}'
    server.files[path] = signer.sign(text % PRODUCTS[len("/releases/") :].encode())
    assert Index(host._replace(keyring=signer.keyring), data, runtime).products("x86_64")
    assert server.paths()[1].endswith(".sjson")


@pytest.mark.parametrize("path", [INDEX, PRODUCTS])
def test_signed_and_one_byte_changed(signed, signer, host, data, runtime, path):
    path = path.replace(".json", ".sjson")
    good = signed.files[path]
    signed.files[path] = good.replace(b"products:1.0", b"products:1.1", 1)
    assert len(signed.files[path]) == len(good)
    host = host._replace(keyring=signer.keyring)
    with pytest.raises(BadSignature, match="changed after it was signed") as caught:
        Index(host, data, runtime).products("x86_64")
    assert path in str(caught.value)
    assert "state.json" not in cached(data)
    signed.files[path] = good
    assert Index(host, data, runtime).products("x86_64")


def test_bad_signature_is_an_error_although_there_is_a_cache(signed, signer, host, data, runtime):
    host = host._replace(keyring=signer.keyring)
    Index(host, data, runtime).products("x86_64")
    path = PRODUCTS.replace(".json", ".sjson")
    signed.files[path] = signed.files[path].replace(b"noble", b"nobel", 1)
    with pytest.raises(BadSignature):
        Index(host, data, runtime).products("x86_64", refresh=True)
    assert "noble" in names(Index(host, data, runtime).products("x86_64"))


def test_signed_by_somebody_else(signed, signer, host, data, runtime, tmp_path_factory):
    import tempfile

    with tempfile.TemporaryDirectory(prefix="gpg-") as home:
        other = Signer(home)
        with pytest.raises(BadSignature, match="is not in"):
            Index(host._replace(keyring=other.keyring), data, runtime).products("x86_64")
        other.close()


def test_unsigned_in_place_of_signed(signed, signer, host, data, runtime):
    path = INDEX.replace(".json", ".sjson")
    signed.files[path] = b'{"index": {}}'
    with pytest.raises(BadSignature, match="is not signed"):
        Index(host._replace(keyring=signer.keyring), data, runtime).products("x86_64")


def test_text_around_what_is_signed_does_not_count(signed, signer, host, data, runtime):
    path = INDEX.replace(".json", ".sjson")
    signed.files[path] += b'\n{"index": {}}\n'
    assert Index(host._replace(keyring=signer.keyring), data, runtime).products("x86_64")


def test_signed_index_of_another_stream(signed, signer, server, host, data, runtime):
    daily = server.files["/daily/streams/v1/com.ubuntu.cloud:daily:download.json"]
    signed.files[PRODUCTS.replace(".json", ".sjson")] = signer.sign(daily)
    with pytest.raises(BadSignature, match="another index than it names"):
        Index(host._replace(keyring=signer.keyring), data, runtime).products("x86_64")


def test_host_without_signed_index(server, signer, host, data, runtime):
    with pytest.raises(Unreachable, match=r"sjson.*404"):
        Index(host._replace(keyring=signer.keyring), data, runtime).products("x86_64")


def test_unsigned_cache_does_not_count_once_a_keyring_is_set(server, signed, signer, host, data, runtime, local):
    daily = ImageHost("daily", local["daily"]["url"], allow_http=True)
    Index(daily, data, runtime).products("x86_64")
    server.close()
    with pytest.raises(Unreachable):
        Index(daily._replace(keyring=signer.keyring), data, runtime).products("x86_64")


def test_keyring_that_is_missing(signed, host, data, runtime):
    with pytest.raises(MissingRequirement, match=r"keyring /nowhere/x\.gpg was not found"):
        Index(host._replace(keyring="/nowhere/x.gpg"), data, runtime).products("x86_64")


def test_keyring_that_is_none(signed, host, data, runtime, tmp_path):
    if not shutil.which("gpgv"):
        pytest.skip("gpgv is not installed")
    (tmp_path / "x.gpg").write_text("no keys")
    with pytest.raises(BadSignature):
        Index(host._replace(keyring=str(tmp_path / "x.gpg")), data, runtime).products("x86_64")


def test_resolve_from_a_signed_host(signed, signer, local, data, runtime):
    local["release"]["keyring"] = signer.keyring
    source = ImageHosts(data, runtime, local).resolve(parse_reference("24.04"), "x86_64")
    assert source.serial == "20250805.1"
