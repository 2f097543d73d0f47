# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: listing
short_description: A list of instances and the like as a table, or as JSON, YAML or CSV
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Turns a list of mappings, as the modules of this collection return them, into text. The playbooks of this collection
    that are used as commands show their results with it.
positional: columns, output
options:
  _input:
    description: The list.
    type: list
    elements: dict
    required: true
  columns:
    description:
      - Titles of columns, each with the key of what is in it. C(image.name) is C(name) in C(image). A list is joined by
        commas, and of mappings in it C(name) counts. Sizes in bytes get a unit in tables.
      - JSON and YAML have everything, whatever the columns.
    type: dict
    required: true
  output:
    description: Which text.
    type: str
    choices: [table, json, yaml, csv]
    default: table
  upright:
    description: Whether a table has one line for each column, and an empty line between the entries.
    type: bool
    default: false
  empty:
    description: What a table is where there is nothing in the list.
    type: str
    default: Nothing found.
"""

EXAMPLES = r"""
- name: What there is
  minicloud.local.instance_info:
  register: found

- name: Show it
  ansible.builtin.debug:
    msg: "{{ found.instances | minicloud.local.listing({'Name': 'name', 'State': 'state'}) }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
"""

import csv
import io
import json
import typing as t

import yaml
from ansible.errors import AnsibleFilterError

from ansible_collections.minicloud.local.plugins.module_utils._model import format_size

_SIZES = frozenset({"memory", "disk", "size", "virtual_size"})
FORMATS = ("table", "json", "yaml", "csv")


def listing(
    rows: t.Sequence[t.Mapping[str, t.Any]],
    columns: t.Mapping[str, str],
    output: str = "table",
    upright: bool = False,
    empty: str = "Nothing found.",
) -> list[str]:
    """See DOCUMENTATION."""
    if output not in FORMATS:
        raise AnsibleFilterError(f"format {output!r} is none of {', '.join(FORMATS)}.")
    # Plain data: no type of Ansible's own is to be seen.
    plain = json.loads(json.dumps(list(rows), default=str))
    if output == "json":
        return json.dumps(plain, indent=4, ensure_ascii=False).splitlines()
    if output == "yaml":
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).splitlines()
    if output == "csv":
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([list(columns), *([_text(_value(row, key)) for key in columns.values()] for row in plain)])
        return stream.getvalue().splitlines()
    if not plain:
        return [empty]
    cells = [[_cell(row, key) for key in columns.values()] for row in plain]
    if upright:
        width = max(map(len, columns)) + 1
        entries = [[f"{title + ':':{width}} {cell}" for title, cell in zip(columns, line)] for line in cells]
        return [line for entry in entries for line in (*entry, "")][:-1]
    lines = [list(columns), *cells]
    widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(line, widths)).rstrip() for line in lines]


def _value(row: t.Any, key: str) -> t.Any:
    for part in key.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row


def _text(value: t.Any) -> str:
    if isinstance(value, list):
        return ",".join(_text(each.get("name") if isinstance(each, dict) else each) for each in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _cell(row: dict[str, t.Any], key: str) -> str:
    value = _value(row, key)
    text = format_size(value) if key in _SIZES and isinstance(value, int) else _text(value)
    # A guest may have had a say in it: nothing that a terminal would obey.
    return "".join(character for character in text if character.isprintable()) or "--"


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Their functions, by name."""
        return {"listing": listing}
