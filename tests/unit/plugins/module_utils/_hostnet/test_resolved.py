# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._hostnet import resolved
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime


@pytest.fixture
def asked():
    return []


def announce(asked, rc=0):
    def run(argv, **dummy):
        asked.append(" ".join(argv))
        return Completed(rc, "", "")

    return resolved.announce(Runtime(run), "mcb01234567", "10.20.30.1", "minicloud")


def test_where_it_does_not_run_it_is_told_nothing(monkeypatch, tmp_path, asked):
    monkeypatch.setattr(resolved, "_SIGN", str(tmp_path / "none"))
    monkeypatch.setattr(resolved, "find_program", lambda name: "resolvectl")
    assert announce(asked)
    assert asked == []


def test_it_is_told_whom_to_ask_for_which_names(monkeypatch, tmp_path, asked):
    monkeypatch.setattr(resolved, "_SIGN", str(tmp_path))
    monkeypatch.setattr(resolved, "find_program", lambda name: name)
    assert announce(asked)
    assert asked == [
        "resolvectl dns mcb01234567 10.20.30.1",
        "resolvectl domain mcb01234567 ~minicloud minicloud",
        "resolvectl default-route mcb01234567 no",
    ]


def test_a_failure_is_told(monkeypatch, tmp_path, asked):
    monkeypatch.setattr(resolved, "_SIGN", str(tmp_path))
    monkeypatch.setattr(resolved, "find_program", lambda name: name)
    assert not announce(asked, rc=1)
