# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._images.source import Reference, parse_reference


@pytest.mark.parametrize(
    ("text", "host", "name"),
    [
        ("24.04", "release", "24.04"),
        (" noble ", "release", "noble"),
        ("daily:26.04", "daily", "26.04"),
        ("images:debian/13/cloud", "images", "debian/13/cloud"),
        ("bootstrap:bookworm", "bootstrap", "bookworm"),
        ("https://example.org/a.img", "url", "https://example.org/a.img"),
        ("file:///srv/a%20b.img", "file", "/srv/a b.img"),
        ("file://localhost/srv/a.img", "file", "/srv/a.img"),
        ("/srv/../srv/a.img", "file", "/srv/a.img"),
        ("./a.img", "file", os.path.abspath("a.img")),
        ("~/a.img", "file", os.path.expanduser("~/a.img")),
    ],
)
def test_what_users_write(text: str, host: str, name: str) -> None:
    assert parse_reference(text) == Reference(host, name)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "Write a name"),
        (":a", "Write a name"),
        ("a:b:c", "Write a name"),
        ("ftp://example.org/a.img", "Use https://"),
        ("file://elsewhere/a.img", "file:///PATH"),
        ("a.qcow2", "Write ./a.qcow2"),
        ("images/a", "Write ./images/a"),
    ],
)
def test_what_means_nothing(text: str, hint: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_reference(text)
    assert hint in str(caught.value)


def test_as_text_a_reference_has_no_password() -> None:
    url = "https://user:p@ss@example.org/a@b.img"
    assert parse_reference(url).name == url
    assert str(parse_reference(url)) == "https://example.org/a@b.img"
    assert str(parse_reference("https://example.org/a@b.img")) == "https://example.org/a@b.img"


def test_as_text_a_reference_is_what_users_write() -> None:
    for text in ("24.04", "daily:26.04", "/srv/a.img", "https://example.org/a.img"):
        assert str(parse_reference(text)) == text
