# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Downloads from a real server that does all that servers do."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import time

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError
from ansible_collections.minicloud.local.plugins.module_utils._images import fetch
from ansible_collections.minicloud.local.plugins.module_utils._images.flow import Digest, Flow
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import shown_url
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Reporter
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._images.faulty_server import FaultyServer

QUICK = fetch.Patience(inactivity=0.5, attempts=3, pause=0.01)
BODY = random.Random(1).getrandbits(8 * 3_000_000).to_bytes(3_000_000, "big")
OTHER = BODY[:-1] + bytes([BODY[-1] ^ 1])
SHA256 = hashlib.sha256(BODY).hexdigest()
HALF = 1_500_000


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server():
    made = FaultyServer()
    made.files["/disk.img"] = BODY
    yield made
    made.close()


class Fetch:
    def __init__(self, server, tmp_path, **options):
        self.flow = Flow(lambda: [Digest("sha256")])
        self.report = Reporter()
        self.target = str(tmp_path / "partial" / "key")
        options.setdefault("patience", QUICK)
        self.download = fetch.Download(f"{server.url}/disk.img", self.target, self.flow, self.report, **options)

    def run(self, *known):
        return self.download.run(*known)

    @property
    def sha256(self):
        return self.flow.outlets[0].hex


def left(tmp_path):
    return sorted(os.listdir(tmp_path / "partial"))


def test_a_file_is_fetched_and_hashed_in_one_pass(server, tmp_path):
    job = Fetch(server, tmp_path)
    done = job.run()
    assert job.sha256 == SHA256
    assert done.size == len(BODY)
    assert done.etag
    with open(done.path, "rb") as stream:
        assert stream.read() == BODY
    assert os.stat(done.path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("fault", [{"cut": HALF}, {"reset": HALF}, {"stall": HALF}])
def test_a_cut_is_gone_on_with_at_once(server, tmp_path, fault):
    server.plan["/disk.img"] = [fault]
    job = Fetch(server, tmp_path)
    job.run()
    assert job.sha256 == SHA256
    assert [sent.status for sent in server.bodies("/disk.img")][-1] == 206
    again = server.bodies("/disk.img")[-1]
    start = int(again.headers["Range"][len("bytes=") : -1])
    assert again.headers["If-Range"] == f'"{SHA256[:12]}"'
    assert again.size == len(BODY) - start
    # What a reset throws away on the way does not count; a cut or silence loses nothing.
    assert start == HALF or "reset" in fault


def test_an_earlier_run_is_gone_on_with(server, tmp_path):
    server.plan["/disk.img"] = [{"cut": HALF}, {"cut": 0}, {"cut": 0}, {"cut": 0}]
    with pytest.raises(ImageError, match=r"connection was cut.*1\.43 MiB are kept"):
        Fetch(server, tmp_path).run()
    assert left(tmp_path) == ["key.json", "key.part"]
    server.plan.clear()
    server.sent.clear()
    job = Fetch(server, tmp_path)
    job.run()
    assert job.sha256 == SHA256
    assert [sent.size for sent in server.bodies("/disk.img")] == [len(BODY) - HALF]


def test_many_cuts_are_no_problem_as_long_as_something_comes(server, tmp_path):
    server.plan["/disk.img"] = [{"cut": 300_000} for dummy in range(8)]
    job = Fetch(server, tmp_path)
    job.run()
    assert job.sha256 == SHA256
    assert sum(sent.size for sent in server.bodies("/disk.img")) == len(BODY)


def test_a_server_without_ranges_sends_it_all_again(tmp_path):
    server = FaultyServer(ranges=False)
    server.files["/disk.img"] = BODY
    server.plan["/disk.img"] = [{"cut": HALF}]
    job = Fetch(server, tmp_path)
    job.run()
    assert job.sha256 == SHA256
    assert [sent.size for sent in server.bodies("/disk.img")] == [HALF, len(BODY)]
    server.close()


def test_a_file_that_changed_between_is_fetched_from_the_beginning(server, tmp_path):
    server.plan["/disk.img"] = [{"cut": HALF}, {"cut": 0}, {"cut": 0}, {"cut": 0}]
    with pytest.raises(ImageError):
        Fetch(server, tmp_path).run()
    server.plan.clear()
    server.files["/disk.img"] = OTHER
    job = Fetch(server, tmp_path)
    done = job.run()
    assert job.sha256 == hashlib.sha256(OTHER).hexdigest()
    with open(done.path, "rb") as stream:
        assert stream.read() == OTHER


@pytest.mark.parametrize("trusted", [False, True])
def test_without_validators_only_what_a_checksum_proves_is_gone_on_with(tmp_path, trusted):
    server = FaultyServer(validators=False)
    server.files["/disk.img"] = BODY
    server.plan["/disk.img"] = [{"cut": HALF}]
    job = Fetch(server, tmp_path, trusted=trusted)
    job.run()
    assert job.sha256 == SHA256
    assert [sent.status for sent in server.bodies("/disk.img")] == [200, 206 if trusted else 200]
    server.close()


def test_what_is_whole_already_is_not_fetched_again(server, tmp_path):
    Fetch(server, tmp_path).run()
    server.sent.clear()
    job = Fetch(server, tmp_path)
    job.run()
    assert job.sha256 == SHA256
    assert [sent.status for sent in server.sent] == [304]


def test_a_refused_range_tells_that_it_is_whole(server, tmp_path):
    Fetch(server, tmp_path).run()
    note = tmp_path / "partial" / "key.json"
    note.write_text(note.read_text().replace('"complete": true', '"complete": false'))
    server.sent.clear()
    job = Fetch(server, tmp_path)
    job.run()
    assert job.sha256 == SHA256
    assert [sent.status for sent in server.sent] == [416]


def test_a_refused_range_of_a_file_that_shrank_begins_anew(tmp_path):
    server = FaultyServer(validators=False)
    server.files["/disk.img"] = BODY
    Fetch(server, tmp_path, trusted=True).run()
    note = tmp_path / "partial" / "key.json"
    note.write_text(note.read_text().replace('"complete": true', '"complete": false'))
    server.files["/disk.img"] = BODY[:1000]
    job = Fetch(server, tmp_path, trusted=True)
    job.run()
    assert job.sha256 == hashlib.sha256(BODY[:1000]).hexdigest()
    server.close()


def test_a_damaged_note_means_from_the_beginning(server, tmp_path):
    Fetch(server, tmp_path).run()
    (tmp_path / "partial" / "key.json").write_text('{"schema": 1, "url"')
    job = Fetch(server, tmp_path)
    job.run()
    assert job.sha256 == SHA256


def test_a_body_that_is_shorter_than_its_length_is_an_error(server, tmp_path):
    server.plan["/disk.img"] = [{"length": len(BODY) + 10} for dummy in range(9)]
    with pytest.raises(ImageError, match=r"cut 10 bytes before the end|changed on the server"):
        Fetch(server, tmp_path).run()


@pytest.mark.parametrize("size", [len(BODY) - 1, len(BODY) + 1])
def test_a_size_other_than_promised_is_an_error(server, tmp_path, size):
    with pytest.raises(ImageError, match=f"offers {len(BODY)} bytes, and {size} were promised"):
        Fetch(server, tmp_path, size=size).run()
    assert left(tmp_path) == []


@pytest.mark.parametrize(("status", "hint"), [(404, "Check the URL"), (403, "does not give"), (401, "USER:PASSWORD")])
def test_a_refusal_is_final(server, tmp_path, status, hint):
    server.plan["/disk.img"] = [{"status": status}]
    with pytest.raises(ImageError, match=rf"answered with {status}.*{hint}"):
        Fetch(server, tmp_path).run()
    assert len(server.sent) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_passing_trouble_is_waited_out(server, tmp_path, status):
    server.plan["/disk.img"] = [{"status": status}, {"status": status}]
    job = Fetch(server, tmp_path)
    job.run()
    assert job.sha256 == SHA256


def test_a_lasting_trouble_is_told(server, tmp_path):
    server.plan["/disk.img"] = [{"status": 500} for dummy in range(9)]
    with pytest.raises(ImageError, match=r"answered with 500.*also after 3 attempts"):
        Fetch(server, tmp_path).run()
    assert len(server.sent) == 3


def test_silence_ends_after_the_patience(server, tmp_path):
    server.plan["/disk.img"] = [{"stall": 0} for dummy in range(3)]
    with pytest.raises(ImageError, match="silent for too long"):
        Fetch(server, tmp_path).run()


def test_a_slow_body_may_take_longer_than_the_patience(server, tmp_path):
    server.files["/disk.img"] = BODY[:500_000]
    server.rate = 500_000
    job = Fetch(server, tmp_path)
    job.run()
    assert job.flow.size == 500_000


def test_a_server_that_sends_next_to_nothing_is_given_up(server, tmp_path):
    server.rate = 1_000_000
    patience = QUICK._replace(span=0.1, least=1 << 30)
    begun = time.monotonic()
    with pytest.raises(ImageError, match=r"the server sent \d+ bytes in \d+ seconds"):
        Fetch(server, tmp_path, patience=patience).run()
    with pytest.raises(ImageError, match=r"the server sent \d+ bytes in \d+ seconds"):
        fetch.read_url(f"{server.url}/disk.img", patience=patience)
    assert time.monotonic() - begun < 30
    # What is slow and comes is waited for.
    server.files["/disk.img"] = BODY[:500_000]
    job = Fetch(server, tmp_path, patience=patience._replace(least=10))
    job.run()
    assert job.flow.size == 500_000


def test_the_deadline_ends_a_small_file_as_well(server):
    server.rate = 1_000_000
    with pytest.raises(ImageError, match=r"within 0\.2 seconds"):
        fetch.read_url(f"{server.url}/disk.img", patience=QUICK, deadline=Deadline(0.2))


def test_the_deadline_ends_it_and_keeps_what_came(server, tmp_path):
    server.rate = 1_000_000
    with pytest.raises(ImageError, match=r"within 0\.3 seconds.*are kept"):
        Fetch(server, tmp_path, deadline=Deadline(0.3)).run()
    server.rate = 0
    job = Fetch(server, tmp_path)
    job.run()
    assert job.sha256 == SHA256
    # The server may notice only later that nobody listens to its first answer any more.
    assert 206 in [sent.status for sent in server.bodies("/disk.img")]


def test_no_server_is_a_clear_error(server, tmp_path):
    job = Fetch(server, tmp_path)
    server.close()
    with pytest.raises(ImageError, match=r"refused.*Check the network"):
        job.run()
    assert left(tmp_path) == []


def test_redirects_are_followed(server, tmp_path):
    server.plan["/disk.img"] = [{"redirect": "/there"}]
    server.plan["/there"] = [{"redirect": f"{server.url}/over/there", "status": 308}]
    server.files["/over/there"] = BODY
    job = Fetch(server, tmp_path)
    job.run()
    assert job.sha256 == SHA256


def test_redirects_have_an_end(server, tmp_path):
    server.plan["/disk.img"] = [{"redirect": "/disk.img"} for dummy in range(20)]
    with pytest.raises(ImageError, match="redirects for ever"):
        Fetch(server, tmp_path).run()


def test_the_version_that_is_known_is_not_fetched(server, tmp_path):
    done = Fetch(server, tmp_path).run()
    os.unlink(done.path)
    assert Fetch(server, tmp_path).run(done.etag, done.last_modified) is None
    server.files["/disk.img"] = OTHER
    assert Fetch(server, tmp_path).run(done.etag, done.last_modified).size == len(OTHER)


def test_small_files(server):
    server.files["/list"] = b"one\n"
    page = fetch.read_url(f"{server.url}/list", patience=QUICK)
    assert page.body == b"one\n"
    assert fetch.read_url(f"{server.url}/list", etag=page.etag, patience=QUICK).body is None
    with pytest.raises(ImageError, match="larger than"):
        fetch.read_url(f"{server.url}/disk.img", limit=1000, patience=QUICK)


def test_progress_is_told_and_not_too_often(server, tmp_path):
    told = []
    job = Fetch(server, tmp_path)
    job.report.progress = lambda what, done, total, unit="B": told.append((what, done, total))
    job.run()
    assert told[-1] == ("disk.img", len(BODY), len(BODY))
    assert len(told) < 10


def test_passwords_are_not_shown():
    assert shown_url("https://me:secret@example.com/x") == "https://example.com/x"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tls")
    key, cert = str(directory / "key.pem"), str(directory / "cert.pem")
    argv = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    try:
        subprocess.run([*argv.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("openssl is not there to make a certificate")
    return cert, key


@pytest.fixture
def secure(certificate):
    made = FaultyServer(tls=certificate)
    made.files["/disk.img"] = BODY
    yield made
    made.close()


def test_tls_with_a_known_authority(secure, certificate, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    job = Fetch(secure, tmp_path)
    job.run()
    assert job.sha256 == SHA256


def test_tls_with_an_unknown_authority(secure, tmp_path):
    with pytest.raises(ImageError, match=r"certificate is not trusted.*SSL_CERT_FILE"):
        Fetch(secure, tmp_path).run()


@pytest.mark.parametrize("scheme", ["https", "HTTPS", "Https"])
def test_a_redirect_never_leaves_tls(secure, server, certificate, tmp_path, monkeypatch, scheme):
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    secure.url = secure.url.replace("https", scheme)
    secure.plan["/disk.img"] = [{"redirect": f"{server.url}/disk.img"}]
    with pytest.raises(ImageError, match="not protected as https is"):
        Fetch(secure, tmp_path).run()
    assert server.sent == []


def test_a_redirect_to_what_is_no_url_is_told(server, tmp_path):
    server.plan["/disk.img"] = [{"redirect": "https://[::1/disk.img"}]
    with pytest.raises(ImageError, match="Invalid IPv6 URL"):
        Fetch(server, tmp_path).run()


@pytest.mark.parametrize("text", ["9" * 5000, "²", "-1", "1e3", ""])
def test_what_a_server_gives_as_a_size(text):
    assert fetch._size(text) is None
    assert fetch._size("12") == 12


def test_a_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    proxy = FaultyServer()
    proxy.files["http://images.invalid/disk.img"] = BODY
    monkeypatch.setenv("http_proxy", proxy.url)
    server.url = "http://images.invalid"
    job = Fetch(server, tmp_path)
    job.run()
    assert job.sha256 == SHA256
    proxy.close()
