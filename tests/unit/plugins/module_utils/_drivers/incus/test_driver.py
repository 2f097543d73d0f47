# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where Incus differs from LXD. What they share is tested with LXD."""

from __future__ import annotations

import io
import os
import tokenize
from pathlib import Path

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.incus.driver import INCUS
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import api as lxd_api
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.api import LxdApi, Place, place_of
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.client import LxdClient
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import ABOUT
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption, MissingRequirement
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._drivers.lxd_family.fake_lxd import FakeLxd


@pytest.fixture(name="server")
def _server():
    return FakeLxd("X-Incus-")


@pytest.fixture(name="driver")
def _driver(server, tmp_path, monkeypatch):
    monkeypatch.delenv("INCUS_DIR", raising=False)
    monkeypatch.setattr(LxdClient, "call", lambda self, *args, **kwargs: server.call(*args, **kwargs))
    monkeypatch.setattr(LxdClient, "require_library", lambda self: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # the host itself is left alone
    about = ABOUT["incus"]
    data = DataDirectory(str(tmp_path / "data"))
    driver = about.load(about, Runtime(None, Reporter()), data.scope(about.scope), {}, False)
    monkeypatch.setattr(driver.api, "get", server.get)
    return driver


def test_its_instances_have_a_scope_of_their_own():
    assert ABOUT["incus"].scope == "incus"
    assert ABOUT["incus"].capabilities == ABOUT["lxd"].capabilities


def test_the_socket_of_this_host(monkeypatch):
    monkeypatch.delenv("INCUS_DIR", raising=False)
    monkeypatch.setenv("LXD_DIR", "/srv/lxd")
    assert place_of({}, INCUS).endpoint == "/var/lib/incus/unix.socket"
    monkeypatch.setenv("INCUS_DIR", "/srv/incus")
    assert place_of({}, INCUS).endpoint == "/srv/incus/unix.socket"


def test_an_image_is_handed_over_once(driver, server, tmp_path):
    path = tmp_path / "root.tar.xz"
    path.write_bytes(b"root file system")
    image = Image("24.04", "ab" * 32, str(path), "tar.xz", 16, 0, "x86_64", os="ubuntu", kind="container")
    images = driver.acts.images
    fingerprint = images.have(image)
    assert server.objects["images"][fingerprint]["properties"]["minicloud.hash"] == image.hash
    assert images.have(image) == fingerprint
    assert server.changes == ["post images"]


def test_what_is_missing_is_told_in_its_own_words(tmp_path, monkeypatch):
    api = LxdApi(Place(INCUS, str(tmp_path / "no.socket")))
    monkeypatch.setattr(lxd_api, "find_program", lambda name: None)
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    with pytest.raises(MissingRequirement, match=r"Incus is not installed on this host.*apt-get install incus"):
        api.get("")
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/usr/libexec/incus/incusd")
    with pytest.raises(MissingRequirement, match=r"Incus does not run on this host.*systemctl start incus"):
        api.get("")
    refused = lxd_api._no_socket(api.place, PermissionError(13, "Permission denied"))
    assert "usermod --append --groups incus-admin" in refused.hint
    with pytest.raises(InvalidOption, match=r"the client certificate is missing.*trust add-certificate"):
        place_of({"endpoint": "https://lab"}, INCUS)
    stranger = lxd_api.untrusted(Place(INCUS, "https://lab", "/c/client.crt", "/c/client.key"), "not authorized")
    assert stranger.hint == "On that server: incus config trust add-certificate client.crt."


def test_a_server_that_is_too_old(driver, server):
    server.server["api_extensions"] = ["projects"]
    with pytest.raises(MissingRequirement, match=r"Incus at /var/lib/incus/unix.socket is too old.*Install Incus 6.0"):
        driver.acts.require("x86_64", instance_type="container")


@pytest.mark.parametrize("path", sorted(Path(lxd_api.__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_nothing_that_is_shared_tells_users_of_one_of_both(path):
    with open(path, encoding="utf-8") as file:
        texts = [token for token in tokenize.generate_tokens(io.StringIO(file.read()).readline) if is_text(token)]
    told = [token.string for token in texts if any(name in token.string for name in ("LXD", "lxc config", "Incus"))]
    assert told == []


def is_text(token):
    # With Python 3.12 the parts of an f-string are tokens of their own.
    names = ("STRING", "FSTRING_MIDDLE")
    return tokenize.tok_name[token.type] in names and not token.string.startswith(('"""', "'''"))
