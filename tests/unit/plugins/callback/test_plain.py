# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ansible_collections.minicloud.local.plugins.callback import plain

COLLECTIONS = os.path.abspath(os.path.join(os.path.dirname(plain.__file__), *[os.pardir] * 5))
PLAYBOOK = [
    {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "tasks": [
            {"set_fact": {"found": ["a", "b"]}},
            {"debug": {"msg": ["Name  State", "web   running"]}},
            {"debug": {"msg": "one line"}},
            {"fail": {"msg": "this may be"}, "ignore_errors": True},
            {"assert": {"that": "item == 'a'", "fail_msg": "there is no {{ item }}"}, "loop": "{{ found }}"},
        ],
    }
]


@pytest.fixture
def done(tmp_path):
    path = tmp_path / "play.yml"
    path.write_text(json.dumps(PLAYBOOK))
    argv = [sys.executable, "-m", "ansible.cli.playbook", "-i", "localhost,", str(path)]
    names = {
        "ANSIBLE_STDOUT_CALLBACK": "minicloud.local.plain",
        "ANSIBLE_COLLECTIONS_PATH": COLLECTIONS,
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
        "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote"),
        "ANSIBLE_HOME": str(tmp_path / "home"),
        "ANSIBLE_NOCOLOR": "1",
    }
    return subprocess.run(argv, env={**os.environ, **names}, capture_output=True, text=True, timeout=120, check=False)


def test_what_is_said_is_all_that_is_shown_and_errors_are_beside_it(done):
    assert done.stdout.splitlines() == ["Name  State", "web   running", "one line"]
    assert "there is no b" in done.stderr
    assert "this may be" not in done.stderr
    assert done.returncode == 2
