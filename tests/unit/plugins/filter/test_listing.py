# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from ansible_collections.minicloud.local.plugins.filter.listing import FilterModule

ROWS = [
    {"name": "web", "addresses": ["10.0.0.1", "10.0.0.2"], "image": {"name": "24.04"}, "memory": 1 << 30, "on": True},
    {"name": "database", "addresses": [], "image": None, "memory": None, "networks": [{"name": "lab"}]},
]
COLUMNS = {"Name": "name", "IPv4": "addresses", "Image": "image.name", "Memory": "memory"}
listing = FilterModule().filters()["listing"]


def test_a_table_is_aligned_and_has_a_mark_where_there_is_nothing():
    assert listing(ROWS, COLUMNS) == [
        "Name      IPv4               Image  Memory",
        "web       10.0.0.1,10.0.0.2  24.04  1 GiB",
        "database  --                 --     --",
    ]
    assert listing([], COLUMNS, empty="No instances found.") == ["No instances found."]
    assert listing(ROWS, {"On": "on", "Networks": "networks"})[1:] == ["true  --", "--    lab"]


def test_a_table_can_stand_upright():
    assert listing(ROWS, {"Name": "name", "Image": "image.name"}, upright=True) == [
        "Name:  web", "Image: 24.04", "", "Name:  database", "Image: --",
    ]  # fmt: skip


def test_programs_get_everything():
    assert json.loads("\n".join(listing(ROWS, COLUMNS, "json"))) == ROWS
    assert yaml.safe_load("\n".join(listing(ROWS, COLUMNS, "yaml"))) == ROWS
    assert listing([], COLUMNS, "json") == ["[]"]


def test_csv_has_the_columns_with_quotes_where_they_are_needed():
    assert listing(ROWS, COLUMNS, "csv") == [
        "Name,IPv4,Image,Memory", 'web,"10.0.0.1,10.0.0.2",24.04,1073741824', "database,,,",
    ]  # fmt: skip


def test_nothing_that_a_terminal_would_obey_is_shown():
    assert listing([{"name": "a\x1b[31mb\nc"}], {"Name": "name"})[1] == "a[31mbc"


def test_another_format_is_refused():
    with pytest.raises(AnsibleFilterError, match="format 'xml' is none of table, json, yaml, csv"):
        listing(ROWS, COLUMNS, "xml")
