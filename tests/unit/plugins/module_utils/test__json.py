# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import HostError, MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._json import JsonError, parse_json, understood


def parse(data, limit=1 << 21, depth=8):
    return parse_json(data, "the answer", limit, depth)


@pytest.mark.parametrize(
    "value", [None, True, 0, -3, 2.5, "", "grüße 云 🚀", [], {}, {"a": [{"b": []}]}, [[[[[[[[]]]]]]]], 10**40]
)
def test_what_json_says(value):
    assert parse(json.dumps(value).encode()) == value
    assert parse(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"a": 1} x', "not valid JSON"),
        (b"\x00" * 100, "not valid JSON"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b"-Infinity", "-Infinity is not a number"),
        (b"1e999", "too large"),
        (b"9" * 5000, "too long"),
        (b"-" + b"9" * 500_000, "too long"),
        (b"0." + b"9" * 500_000, "too long"),
        (b'{"a": 1, "b": {"c": 1, "d": 2, "c": 3}}', "'c' stands twice"),
        (b'"gr\xfc\xdfe"', "byte 3 is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'"\\ud83d"', "surrogate"),
        (b'{"\\uDE80": 1}', "surrogate"),
        (b"[" * 200_000, "deep"),
        (b"[" * 200_000 + b"]" * 200_000, "deep"),
        (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "deep"),
        (b"[[[[[[[[[]]]]]]]]]", "more than 8"),
        (b'{"a": [' + b"[]," * 20 + b'{"b": [[[[[[1]]]]]]}]}', "more than 8"),
        (b'"' + b"x" * (1 << 21) + b'"', "more than 2097152 bytes"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_what_nobody_may_send(data, said):
    with pytest.raises(JsonError, match=said) as caught:
        parse(data)
    assert isinstance(caught.value, MinicloudError)
    assert str(caught.value).startswith("the answer is ")


def test_brackets_in_texts_and_beside_each_other_are_not_nested():
    assert parse(b'{"a": "[[[[[[[[[[[[{{{{"}') == {"a": "[[[[[[[[[[[[{{{{"}
    assert parse(json.dumps([{"a": []}] * 100).encode()) == [{"a": []}] * 100


def test_a_pair_of_surrogates_is_one_character():
    assert parse(b'"\\ud83d\\ude80"') == "🚀"


@pytest.mark.parametrize(
    "error", [KeyError("a"), IndexError("x"), ValueError("x"), AttributeError("x"), TypeError("x"), RecursionError("x")]
)
def test_data_of_another_form_are_told_as_such(error):
    with pytest.raises(HostError, match="what it says cannot be understood"), understood("what it says", HostError):
        raise error


def test_other_errors_pass():
    with pytest.raises(KeyboardInterrupt), understood("what it says", HostError):
        raise KeyboardInterrupt
    with pytest.raises(JsonError), understood("what it says", HostError):
        parse(b"[")
