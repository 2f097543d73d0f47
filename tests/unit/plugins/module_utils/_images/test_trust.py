# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import MissingRequirement
from ansible_collections.minicloud.local.plugins.module_utils._images import trust
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime

SIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{}\n-----BEGIN PGP SIGNATURE-----\n"


class Gpgv:
    """Answers as gpgv does. lines -- of its status; content -- what it says was signed"""

    def __init__(self, rc, *lines, content=b"{}", err=""):
        self.answer = Completed(rc, "".join(f"[GNUPG:] {line}\n" for line in lines), err)
        self.content = content
        self.argv = []

    def __call__(self, argv, **kwargs):
        self.argv = list(argv)
        with open(argv[argv.index("--output") + 1], "wb") as stream:
            stream.write(self.content)
        return self.answer


@pytest.fixture
def keyring(tmp_path, monkeypatch):
    monkeypatch.setattr(Runtime, "program", lambda self, name, package="", purpose="": f"/usr/bin/{name}")
    path = tmp_path / "keyring.gpg"
    path.write_bytes(b"keys")
    return str(path)


@pytest.fixture
def work(tmp_path):
    path = tmp_path / "work"
    path.mkdir()
    return str(path)


def verify(gpgv, keyring, work, signed=SIGNED):
    return trust.verify(signed, keyring, Runtime(gpgv), work, "the index")


def test_only_what_is_signed_comes_back(keyring, work):
    gpgv = Gpgv(0, "NEWSIG", "GOODSIG 1 Test", "VALIDSIG 1 2", content=b"signed")
    assert verify(gpgv, keyring, work) == b"signed"
    assert gpgv.argv[0] == "/usr/bin/gpgv"
    assert gpgv.argv[gpgv.argv.index("--keyring") + 1] == keyring
    assert os.listdir(work) == []


@pytest.mark.parametrize(
    ("gpgv", "message"),
    [
        (Gpgv(1, "BADSIG 1 Test"), "changed after it was signed"),
        (Gpgv(2, "ERRSIG 1", "NO_PUBKEY 1"), "the key that signed it is not in"),
        (Gpgv(0, "REVKEYSIG 1", "VALIDSIG 1"), "was revoked"),
        (Gpgv(0, "GOODSIG 1", "VALIDSIG 1", "BADSIG 2"), "changed after it was signed"),
        (Gpgv(0), "found no signature"),
        (Gpgv(2, err="gpgv: verify signatures failed: Unexpected error\n"), "Unexpected error"),
    ],
)
def test_signatures_that_are_not_good(keyring, work, gpgv, message):
    with pytest.raises(trust.BadSignature, match=message) as caught:
        verify(gpgv, keyring, work)
    assert "the signature of the index is not good" in str(caught.value)
    assert os.listdir(work) == []


@pytest.mark.parametrize("text", [b"", b"{}", b"<html>", b"-----BEGIN PGP MESSAGE-----\n"])
def test_text_that_is_not_signed(keyring, work, text):
    with pytest.raises(trust.BadSignature, match="the index is not signed"):
        verify(Gpgv(0, "VALIDSIG 1"), keyring, work, text)


def test_keyring_that_is_missing(keyring, work):
    with pytest.raises(MissingRequirement, match="was not found"):
        verify(Gpgv(0, "VALIDSIG 1"), f"{keyring}.none", work)


def test_gpgv_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ansible_collections.minicloud.local.plugins.module_utils._runtime.find_program", lambda name: None
    )
    with pytest.raises(MissingRequirement, match="gpgv"):
        verify(Gpgv(0), str(tmp_path), str(tmp_path))
