# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.guard import Guard
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime


@pytest.fixture(name="guard")
def _guard(tmp_path):
    """One whose program notes what it was asked to do."""
    program = tmp_path / "ip"
    program.write_text(f'#!/bin/sh\ncat "$3" >> {tmp_path}/done\n')
    program.chmod(0o755)
    return Guard(Runtime(run), str(tmp_path / "net"), str(program))


@pytest.mark.parametrize("handles", [0, 30])
def test_what_is_not_kept_is_undone(guard, tmp_path, handles):
    """However many files the process has open already."""
    with contextlib.ExitStack() as stack:
        for dummy in range(handles):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        with guard.undoing(["first", "second"]) as watch:
            assert guard.unfinished()
            watch.keep()
        assert not (tmp_path / "done").exists()
        with guard.undoing(["first", "second"]):
            assert not (tmp_path / "done").exists()
        assert (tmp_path / "done").read_text() == "first\nsecond\n"
        assert not guard.unfinished()
    guard.forget()
    assert os.listdir(tmp_path / "net") == []
