# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Options as a task has them, before Ansible makes every value the text or number that its option asks for.

YAML reads much that is meant as text as something else: `22:22` and `52:54:00:12:34:56` are numbers to the base of 60,
`24.10` is 24.1, `no` is false. Ansible turns such a value into text again, which is another one then. So it is looked
at before: a number that reads as it was written is taken as text, any other is refused.
"""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption

# Limits of nested options: above what people write, below what Python's recursion bears.
_MAX_DEPTH, _MAX_VALUES = 100, 1_000_000

# The words for true and false that this collection, LXD and cloud-init accept.
TRUE_WORDS, FALSE_WORDS = ("true", "yes", "on", "1"), ("false", "no", "off", "0")

_BOM = "\ufeff"

# What is kept as it was written; and lists of lines, of which some may be empty.
_MAY_BE_BLANK = frozenset({"comment", "ssh_authorized_keys"})

# Ports of a guest below 60 that have a service, so that HOST:PORT may be meant by a number.
_LOW_PORTS = frozenset({20, 21, 22, 23, 25, 37, 43, 49, 53})

_NUMBER = "YAML reads text that looks like a number as one, unless it is in quotes"
_BOOLEAN = "YAML reads yes, no, on, off, true and false as true or false, unless they are in quotes"


def normal_options(given: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """A task's options with short forms written out: a name of a network or image is an entry, an empty one none."""
    normal = dict(given)
    for option in ("networks", "images"):
        if isinstance(given.get(option), (list, tuple)):
            entries = [entry for entry in given[option] if entry != ""]
            normal[option] = [{"name": entry} if _is_plain_name(entry) else entry for entry in entries]
    return normal


def _is_plain_name(entry: t.Any) -> bool:
    # Ansible reads text with these characters as a mapping.
    return isinstance(entry, (str, bool, int, float)) and not set("={") & set(str(entry))


def check_options(given: t.Mapping[str, t.Any], spec: t.Mapping[str, t.Mapping[str, t.Any]], within: str = "") -> None:
    """Raise InvalidOption for a value that cannot be what was written, or that nothing can be done with.

    given -- the options as the task has them; spec -- the argument spec; within -- the option that has these in it
    """
    for name, value in given.items():
        for option, about in spec.items():
            if value is not None and name in (option, *about.get("aliases", ())):
                _check_value(f"{within}: {name}" if within else str(name), option, value, about)


def _check_value(label: str, option: str, value: t.Any, about: t.Mapping[str, t.Any]) -> None:
    kind = about.get("type") or "str"
    if kind == "list":
        elements = about.get("elements") or "str"
        for element in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(element, t.Mapping) and about.get("options"):
                check_options(element, about["options"], label)
            elif element is not None:
                _check_value(label, option, element, {"type": elements})
        return
    _check_characters(label, value, deep_nul=kind != "raw")
    if kind in ("int", "float") and isinstance(value, bool):
        raise InvalidOption(f"{label} is {_shown(value)}, and a number is meant", _BOOLEAN, "Write a number.")
    if kind == "int" and str(value).strip().lower().lstrip("+-") in ("inf", "infinity", "nan"):
        raise InvalidOption(f"{label} is {value}, and a whole number is meant", hint="Write a whole number.")
    if kind in ("str", "path") and not about.get("choices"):
        _check_text(label, option, value)


def _check_text(label: str, option: str, value: t.Any) -> None:
    if isinstance(value, bool):
        raise InvalidOption(f"{label} is {_shown(value)}, and text is meant", _BOOLEAN, "Put it in quotes.")
    if isinstance(value, str) and value.isspace() and option not in _MAY_BE_BLANK:
        raise InvalidOption(f"{label} is nothing but blanks", hint="Give a value, or leave it out.")
    if isinstance(value, (int, float)):
        _NUMBERS.get(option, _refuse_number)(label, value)
    elif isinstance(value, (t.Mapping, list, tuple, set)):
        raise InvalidOption(
            f"{label} is a {'mapping' if isinstance(value, t.Mapping) else 'list'}, and text is meant",
            hint="Give one text. A template that stands alone has to be in quotes.",
        )


# -- numbers, by the option that they are given for -----------------------------------------------------------------


def _refuse_number(label: str, value: float) -> None:
    raise InvalidOption(
        f"{label} is the number {_shown(value)}, and text is meant", _NUMBER, "Put it in quotes, as it is to be read."
    )


def _check_size(label: str, value: float) -> None:
    """A number is bytes; whether so few can be meant is seen when it is read as a size."""
    if not 0 <= value < 10**18 or "e" in str(value):
        _refuse_number(label, value)


def _check_seconds(label: str, value: float) -> None:
    if not 0 <= value < 10**12:
        _refuse_number(label, value)


def _check_version(label: str, value: float) -> None:
    """24.04 reads as it was written; 24.1 may have been 24.10, and a longer number anything."""
    text = _shown(value)
    if isinstance(value, int) and 0 < value < 1000:
        return
    if isinstance(value, float) and 0 < value < 1000 and len(text.partition(".")[2]) > 1 and "e" not in text:
        return
    hint = "Put it in quotes."
    if isinstance(value, float) and 0 < value < 1000:
        hint = f'Put it in quotes: "{text}0" or "{text}", whichever you mean.'
    raise InvalidOption(f"{label} is the number {text}, and a name is meant", "YAML leaves out zeros at the end", hint)


def _check_port(label: str, value: float) -> None:
    """80 is a port, and no forward that YAML would have read as that number: 1:20."""
    host, guest = divmod(value, 60) if isinstance(value, int) else (0, 0)
    if 0 < host < 65536:
        alike = host == guest or (guest in _LOW_PORTS and (host >= 1024 or host % 100 == guest))
        if value < 65536 and not alike:
            return
        port = f', or "{value}" for that port' if value < 65536 else ""
        raise InvalidOption(
            f"{label} has the number {value}, and YAML reads {host}:{guest:02} as that",
            "it takes numbers with colons for numbers to the base of 60, unless they are in quotes",
            f'Put it in quotes: "{host}:{guest:02}"{port}.',
        )
    if host == 0 and guest:
        return
    raise InvalidOption(
        f"{label} has the number {_shown(value)}, which is no port", _NUMBER, 'Put it in quotes, such as "2222:22".'
    )


def _check_mac(label: str, value: float) -> None:
    groups = _base_60(value) if isinstance(value, int) and value > 0 else []
    if len(groups) == 6 and groups[0] < 100:
        mac = ":".join(f"{group:02}" for group in groups)
        raise InvalidOption(
            f"{label} is the number {value}, and YAML reads {mac} as that",
            "it takes numbers with colons for numbers to the base of 60, unless they are in quotes",
            f'Put it in quotes: "{mac}".',
        )
    _refuse_number(label, value)


_NUMBERS: dict[str, t.Callable[[str, float], None]] = {
    "image": _check_version,
    "name": _check_version,
    "query": _check_version,
    "memory": _check_size,
    "disk": _check_size,
    "prune_older_than": _check_seconds,
    "purge_older_than": _check_seconds,
    "ports": _check_port,
    "mac": _check_mac,
}


def _base_60(value: int) -> list[int]:
    groups: list[int] = []
    while value >= 60 and len(groups) < 5:
        value, rest = divmod(value, 60)
        groups.insert(0, rest)
    return [value, *groups]


def _shown(value: t.Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) >= 10**30:
        return "with more than 30 digits"
    return str(value)


# -- characters -------------------------------------------------------------------------------------------------------


def _check_characters(label: str, value: t.Any, deep_nul: bool) -> None:
    """Raise for characters that no text has.

    deep_nul -- whether NUL is refused in what is nested, too: in a cloud-config it may stand in the content of a file
    """
    left: list[tuple[t.Any, int]] = [(value, 0)]
    seen = 0
    while left:
        current, depth = left.pop()
        seen += 1
        if depth > _MAX_DEPTH or seen > _MAX_VALUES:
            limit = f"more than {_MAX_DEPTH} levels deep" if depth > _MAX_DEPTH else f"more than {_MAX_VALUES} values"
            raise InvalidOption(f"{label} is {limit}", hint="Check that no part of it has itself in it.")
        if isinstance(current, str):
            if depth == 0 and current.startswith(_BOM):
                raise InvalidOption(
                    f"{label} begins with a byte order mark (U+FEFF)",
                    "some editors put it before the text of a file",
                    "Save the file as UTF-8 without BOM.",
                )
            if "\0" in current and (deep_nul or depth == 0):
                raise InvalidOption(f"{label} has a NUL character in it", hint="Give text without it.")
            if not current.isascii() and any("\ud800" <= character <= "\udfff" for character in current):
                raise InvalidOption(
                    f"{label} has a character in it that is none", "it is half of a pair (a surrogate)", "Write UTF-8."
                )
        elif isinstance(current, t.Mapping):
            left += [(each, depth + 1) for pair in current.items() for each in pair]
        elif isinstance(current, (list, tuple, set)):
            left += [(each, depth + 1) for each in current]
