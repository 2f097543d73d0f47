# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The one reader of JSON that somebody else may have written: a guest, an image host, another version, an editor."""

from __future__ import annotations

import contextlib
import json
import math
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import MinicloudError

# The longest number, in digits, that is read: Python would take minutes for a very long one.
_DIGITS = 64


class JsonError(MinicloudError):
    """Something is not JSON, or not JSON that anybody may send. The reader says whose it is, and what to do."""


def parse_json(data: bytes, what: str, limit: int, depth: int) -> t.Any:
    """What JSON in UTF-8 says. JsonError where it is none, too long or nested too deep.

    what -- names the data in errors: "WHAT is not valid JSON"
    limit -- how many bytes it may have; who reads it from a file or a pipe reads at most one more than that
    depth -- how many lists and objects may be inside each other

    Also refused: keys that stand twice in an object, NaN and infinite numbers, halves of surrogate pairs.
    What it returns can be written as JSON in UTF-8 again.
    """
    if len(data) > limit:
        raise JsonError(f"{what} is too long", f"it has more than {limit} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        raise _invalid(what, f"byte {exc.start} is not UTF-8") from exc
    if text.startswith("\ufeff"):
        raise _invalid(what, "it begins with a byte order mark; write it as UTF-8 without one")
    try:
        value = _DECODER.decode(text)
        # An escape is the one way for half a pair into a text that was UTF-8.
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as exc:
        raise _too_deep(what, depth) from exc
    except UnicodeEncodeError as exc:
        raise _invalid(what, "a text in it has half of a surrogate pair") from exc
    except ValueError as exc:
        raise _invalid(what, str(exc)) from exc
    # Data cannot be nested deeper than it has brackets, and counting those is enough for most of it.
    if data.count(b"[") + data.count(b"{") > depth and not _is_within(value, depth):
        raise _too_deep(what, depth)
    return value


@contextlib.contextmanager
def understood(what: str, error: type[MinicloudError]) -> t.Iterator[None]:
    """Raise ERROR where data that are read in this block have another form than the reader knows.

    what -- whose they are, as in "WHAT cannot be understood"
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, StopIteration) as exc:
        raise error(f"{what} cannot be understood", f"{type(exc).__name__}: {exc}"[:300]) from exc


def _invalid(what: str, why: str) -> JsonError:
    return JsonError(f"{what} is not valid JSON", why)


def _too_deep(what: str, depth: int) -> JsonError:
    return JsonError(f"{what} is nested too deep", f"more than {depth} lists and objects are inside each other")


def _is_within(value: t.Any, depth: int) -> bool:
    """Whether at most DEPTH lists and objects are inside each other."""
    level = [value] if isinstance(value, (dict, list)) else []
    while level and depth:
        depth -= 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
    return not level


def _object(pairs: list[tuple[str, t.Any]]) -> dict[str, t.Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, dummy in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return found


def _constant(name: str) -> t.NoReturn:
    raise ValueError(f"{name} is not a number that JSON has")


def _float(digits: str) -> float:
    number = float(digits) if len(digits) <= _DIGITS else math.inf
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:20]}… is too large or too long")
    return number


def _int(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"the number {digits[:20]}… is too long")
    return int(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int)
