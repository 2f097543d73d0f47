# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

import pytest

from ansible_collections.minicloud.local.plugins.callback import progress


class Screen:
    """What is displayed."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def display(self, text: str, color: str = "") -> None:
        self.lines.append(text)


@pytest.fixture
def callback(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_PAUSE", 0.01)
    plugin = progress.CallbackModule()
    plugin._display = Screen()
    monkeypatch.setattr(plugin, "get_option", lambda name: str(tmp_path))
    return plugin


def append(tmp_path, text: str) -> None:
    with open(os.path.join(tmp_path, "activity.log"), "a", encoding="utf-8") as stream:
        stream.write(text)


def test_it_shows_what_is_written_while_the_playbook_runs(callback, tmp_path):
    append(tmp_path, "2026-05-04T10:20:30 [1] web: before\n")
    callback.v2_playbook_on_start(None)
    append(tmp_path, "2026-05-04T10:20:31 [2] web: create\n2026-05-04T10:20:31 [2] web: a [b] c\n")
    append(tmp_path, "2026-05-04T10:20:32 [2] web: half")
    callback.v2_playbook_on_stats(None)
    assert callback._display.lines == ["    web: create", "    web: a [b] c"]


def test_a_log_that_appears_or_begins_anew_is_followed(callback, tmp_path):
    path = os.path.join(tmp_path, "activity.log")
    assert callback._show(path, 0) == 0
    append(tmp_path, "2026-05-04T10:20:31 [2] web: create\n")
    position = callback._show(path, 0)
    os.unlink(path)
    append(tmp_path, "2026-05-04T10:20:33 [3] db: stop\n")
    callback._show(path, position)
    assert callback._display.lines == ["    web: create", "    db: stop"]


def test_without_a_start_the_end_is_nothing(callback):
    callback.v2_playbook_on_stats(None)
    assert callback._display.lines == []
