# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import random
from urllib.parse import urlsplit

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import Reference, parse_reference
from ansible_collections.minicloud.local.plugins.module_utils._images.source import familiar


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
        ("debian/12", "images", "debian/12"),
        ("Rocky/9", "images", "rockylinux/9"),
        ("ubuntu/24.04", "release", "24.04"),
        ("Daily:26.04", "daily", "26.04"),
        ("HTTPS://Example.org/A.img", "url", "https://Example.org/A.img"),
        ("https://[::1]:8443/a.img", "url", "https://[::1]:8443/a.img"),
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
        ("debian/12.qcow2", "Write ./debian/12.qcow2"),
        ("a\0b", "character"),
        ("a\nb", "character"),
        ("/srv/a\udc80.img", "character"),
        ("https://[::1", "Write https://SERVER/PATH"),
        ("https://", "it names no server"),
        ("https:///a.img", "it names no server"),
        ("https://host:port/a", "Write https://SERVER/PATH"),
        ("https://host:65536/a", "Write https://SERVER/PATH"),
        ("https://a..b/c", "Write https://SERVER/PATH"),
        (f"https://{'a' * 64}/c", "Write https://SERVER/PATH"),
        ("https://host/a b", "%20"),
        (f"https://host/{'a' * 8000}", "more than 8000 characters"),
        ("file://[::1/a", "file:///PATH"),
        ("file:///a%00b", "file:///PATH"),
        ("file:///a%ff", "file:///PATH"),
        ("file://", "file:///PATH"),
        ("file:x", "file:///PATH"),
        ("URL:x", "the whole URL"),
    ],
)
def test_what_means_nothing(text: str, hint: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_reference(text)
    assert hint in str(caught.value)


def test_nothing_but_a_refusal_comes_of_any_text() -> None:
    source = random.Random(2)
    pieces = [
        *("https://", "HTTP://", "file://", "file:///", "://", ":", "/", "//", "@", "[", "]", "::1", "%00", "%ff", "%"),
        *(
            "..",
            "~",
            "~root",
            "\0",
            "\ufeff",
            "\udc80",
            " ",
            "\n",
            "é",
            "中",
            "a",
            "24.04",
            "debian",
            "images",
            "ubuntu",
        ),
        *("x" * 300, ".qcow2", "65536", "-1", "?", "#", "&", "sha256:", "0", "bookworm"),
    ]
    taken = 0
    for dummy in range(20_000):
        text = "".join(source.choices(pieces, k=source.randrange(1, 7)))
        try:
            reference = parse_reference(text)
        except InvalidOption:
            continue
        taken += 1
        assert reference.host
        assert reference.name.isprintable()
        assert str(reference).isprintable()
        familiar(reference)
        if reference.host == "file":
            assert os.path.isabs(reference.name)
            os.path.exists(reference.name)
        if reference.host == "url":
            assert urlsplit(reference.name).hostname
    assert taken > 1000


def test_as_text_a_reference_has_no_password() -> None:
    url = "https://user:p@ss@example.org/a@b.img"
    assert parse_reference(url).name == url
    assert str(parse_reference(url)) == "https://example.org/a@b.img"
    assert str(parse_reference("https://example.org/a@b.img")) == "https://example.org/a@b.img"


def test_as_text_a_reference_is_what_users_write() -> None:
    for text in ("24.04", "daily:26.04", "/srv/a.img", "https://example.org/a.img"):
        assert str(parse_reference(text)) == text


def test_a_scheme_in_upper_case_is_one():
    assert parse_reference("HTTPS://Images.example.com/X.img").name == "https://Images.example.com/X.img"
