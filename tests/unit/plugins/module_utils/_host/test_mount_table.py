# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._host import mount_table


@pytest.fixture(name="table")
def _table(tmp_path, monkeypatch):
    """Writes the table of what is mounted: lines of place, device and options. HERE is the device of the tests."""
    path = tmp_path / "mountinfo"
    found = os.stat(tmp_path).st_dev

    def write(*lines):
        here = f"{os.major(found)}:{os.minor(found)}"
        made = [f"1 2 {dev.replace('HERE', here)} / {place} {options} - x y z" for place, dev, options in lines]
        path.write_text("".join(f"{line}\n" for line in made))

    monkeypatch.setattr(mount_table, "_TABLE", str(path))
    return write


def test_mounts_in_a_folder_are_found(table):
    table(("/srv/a\\040b/c", "0:1", "rw"), ("/srv/xy", "0:1", "rw"))
    found = [path for path in ("/srv", "/srv/a b", "/srv/a b/c", "/srv/x", "/") if mount_table.mounted_below(path)]
    assert found == ["/srv", "/srv/a b", "/"]


def test_setuid_programs_are_obeyed_unless_no_way_to_them_does(table, tmp_path):
    path = str(tmp_path)
    table(("/", "HERE", "rw,relatime"))
    assert mount_table.obeys_setuid(path)
    table(("/", "HERE", "rw,nosuid,relatime"))
    assert not mount_table.obeys_setuid(path)
    # The same file system at another place.
    table(("/", "HERE", "rw,nosuid"), ("/elsewhere", "HERE", "rw"))
    assert mount_table.obeys_setuid(path)
    # What is mounted in the folder.
    table(("/", "HERE", "rw,nosuid"), (f"{path}/in", "0:999", "rw"))
    assert mount_table.obeys_setuid(path)
    table(("/", "HERE", "rw,nosuid"), (f"{path}/in", "0:999", "rw,nosuid"))
    assert not mount_table.obeys_setuid(path)


def test_what_the_table_does_not_tell_is_not_trusted(table, tmp_path, monkeypatch):
    table(("/", "0:999", "rw,nosuid"))
    assert mount_table.obeys_setuid(str(tmp_path))
    monkeypatch.setattr(mount_table, "_TABLE", str(tmp_path / "none"))
    assert mount_table.obeys_setuid(str(tmp_path))
    assert mount_table.mounted_below("/") == []
