# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pictures of the documentation are drawn as their texts say."""

from __future__ import annotations

import glob
import importlib.util
import os
import re
from xml.etree import ElementTree

import pytest

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 4))


@pytest.fixture(scope="module")
def pictures():
    spec = importlib.util.spec_from_file_location("pictures", os.path.join(TOP, "tests", "tools", "pictures.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(pictures, *rows):
    return pictures.draw("\n".join(["title: A <title>", "description: What it shows", "", *rows]))


def test_boxes_in_boxes_with_their_texts(pictures):
    svg = drawn(pictures, "+---------+", "| a & b   |", "| +-----+ |", "| | in  | |", "| +-----+ |", "+---------+")
    assert svg.count("<rect") == 1 + 2
    assert "a &amp; b" in svg and "A &lt;title&gt;" in svg
    assert svg.count('font-weight="bold"') == 2
    assert svg.count('text-anchor="middle"') == 2


def test_boxes_below_each_other_are_not_joined(pictures):
    apart = drawn(pictures, "+--+", "|a |", "+--+", "+--+", "|b |", "+--+")
    assert len(re.findall(r'd="M\d+ \d+V', apart)) == 4
    joined = drawn(pictures, "+--+", "|a |", "+--+", "|b |", "+--+")
    assert len(re.findall(r'd="M\d+ \d+V', joined)) == 2


@pytest.mark.parametrize("rows", [("--->",), ("<---",), ("|", "v"), ("^", "|")], ids=str)
def test_arrows(pictures, rows):
    assert drawn(pictures, *rows).count("<polygon") == 1


@pytest.mark.parametrize("text", ["a-b", "vim", "x ^ y", "1 > 0", "a + b"])
def test_text_is_only_text(pictures, text):
    svg = drawn(pictures, text)
    assert "<path" not in svg and "<polygon" not in svg
    assert ElementTree.fromstring(svg).findall(".//{*}text")[0].text == text


def test_all_of_them_are_whole(pictures):
    paths = glob.glob(os.path.join(TOP, "docs", "pictures", "*.svg"))
    assert len(paths) >= 5
    for path in paths:
        with open(path, encoding="utf-8") as stream:
            root = ElementTree.fromstring(stream.read())
        assert root.find("{*}title").text and root.find("{*}desc").text
        with open(f"{path[:-4]}.txt", encoding="utf-8") as stream:
            words = set(re.findall(r"[a-z]{4,}", stream.read().partition("\n\n")[2]))
        assert words <= set(re.findall(r"[a-z]{4,}", " ".join(each.text for each in root.findall(".//{*}text"))))


def test_what_is_written_is_what_is_there(pictures):
    """Text by path; nothing is different after `make format`."""
    for path, text in pictures.written(TOP).items():
        with open(os.path.join(TOP, path), encoding="utf-8") as stream:
            assert stream.read() == text, path
