# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import types
import typing as t

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import trust_as_template

from ansible_collections.minicloud.local.plugins.callback import progress
from ansible_collections.minicloud.local.plugins.module_utils._scope import SYSTEM_PATH


class Screen:
    """What is displayed on standard error."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def display(self, text: str, color: str = "", stderr: bool = False, screen_only: bool = False) -> None:
        assert stderr, "standard output is for the callback of the user's choice"
        assert screen_only
        self.lines.append(text.strip())

    def wait_for(self, count: int) -> list[str]:
        """The lines, once there are so many."""
        deadline = time.monotonic() + 20
        while len(self.lines) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.lines


class Play:
    """What the callback asks of a play, which has some variables."""

    def __init__(self, **variables: t.Any) -> None:
        self.variables = variables

    def get_variable_manager(self) -> Play:
        return self

    def get_vars(self, **dummy: t.Any) -> dict[str, t.Any]:
        return self.variables

    def get_loader(self) -> DataLoader:
        return DataLoader()


class Task(types.SimpleNamespace):
    """What the callback asks of a task."""

    def __init__(self, action: str = "minicloud.local.instance", number: int = 1, **values: t.Any) -> None:
        defaults = {"args": {}, "module_defaults": [], "environment": [], "become": False, "become_user": None}
        super().__init__(action=action, resolved_action=action, _uuid=f"task-{number}", **{**defaults, **values})


HOST = types.SimpleNamespace(get_name=lambda: "localhost")


def ended(task: Task) -> types.SimpleNamespace:
    return types.SimpleNamespace(task=task, host=HOST)


@pytest.fixture
def callback(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_PAUSE", 0.01)
    monkeypatch.setenv("MINICLOUD_DATA_DIR", str(tmp_path))
    plugin = progress.CallbackModule()
    plugin._display = Screen()
    monkeypatch.setattr(plugin, "get_option", lambda name: "always")
    yield plugin
    plugin.v2_playbook_on_stats(None)
    assert not plugin._thread


def append(directory, *texts: str) -> None:
    with open(os.path.join(directory, "activity.log"), "a", encoding="utf-8") as stream:
        stream.writelines(f"2026-05-04T10:20:31 [2] {text}\n" for text in texts)


def test_it_shows_what_is_written_while_the_task_runs(callback, tmp_path):
    append(tmp_path, "web: stop")
    task = Task()
    callback.v2_runner_on_start(HOST, task)
    append(tmp_path, "web: create", "web: a [b] c: 1 of 2 MiB")
    assert callback._display.wait_for(2) == ["web: creating", "web: a [b] c: 1 of 2 MiB"]
    callback.v2_runner_on_ok(ended(task))
    append(tmp_path, "web: start")
    time.sleep(0.1)
    assert len(callback._display.lines) == 2


@pytest.mark.parametrize("event", ["ok", "failed", "skipped", "unreachable"])
def test_it_ends_with_its_task_however_that_ends(callback, tmp_path, event):
    first, second = Task(number=1), Task(number=2)
    callback.v2_runner_on_start(HOST, first)
    callback.v2_runner_on_start(HOST, second)
    getattr(callback, f"v2_runner_on_{event}")(ended(first))
    append(tmp_path, "web: create")
    assert callback._display.wait_for(1) == ["web: creating"]
    getattr(callback, f"v2_runner_on_{event}")(ended(second))
    assert not callback._thread


def test_other_tasks_are_none_of_its_business(callback, tmp_path):
    task = Task(action="ansible.builtin.command")
    callback.v2_runner_on_start(HOST, task)
    assert not callback._thread
    callback.v2_runner_on_ok(ended(task))


def test_where_nobody_looks_nothing_is_said(callback, monkeypatch):
    monkeypatch.setattr(callback, "get_option", lambda name: "terminal")
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda answer=terminal: answer, raising=False)
        callback.v2_runner_on_start(HOST, Task())
        assert bool(callback._thread) == terminal


class TestDataDirectory:
    """The data directory is the one that the task works in."""

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ({"args": {"data_dir": "/a"}, "module_defaults": [{"minicloud.local.instance": {"data_dir": "/b"}}]}, "/a"),
            ({"args": {"data_dir": trust_as_template("{{ top }}/a")}}, "/srv/a"),
            ({"args": {"data_dir": trust_as_template("{{ nothing.there }}")}}, None),
            ({"args": {"data_dir": trust_as_template("{{ nothing | default(omit) }}")}}, None),
            ({"module_defaults": [{"group/minicloud.local.minicloud": {"data_dir": "/c"}}]}, "/c"),
            (
                {
                    "module_defaults": [
                        {"group/minicloud.local.minicloud": {"data_dir": "/c"}},
                        {"minicloud.local.instance": {"data_dir": "/d"}},
                    ]
                },
                "/d",
            ),
            ({"environment": [{"MINICLOUD_DATA_DIR": "/e"}, {"MINICLOUD_DATA_DIR": "/f"}]}, "/e"),
            ({"become": True}, SYSTEM_PATH),
            ({"become": True, "become_user": "me"}, None),
            ({}, None),
        ],
        ids=str,
    )
    def test_whoever_names_it(self, callback, values, expected):
        callback.v2_playbook_on_play_start(Play(top="/srv"))
        task = Task(**values)
        assert callback._data_dir(HOST, task, task.action) == expected

    def test_tasks_in_two_of_them_are_both_followed(self, callback, tmp_path):
        for number, name in enumerate(("one", "two")):
            os.mkdir(tmp_path / name)
            callback.v2_runner_on_start(HOST, Task(number=number, args={"data_dir": str(tmp_path / name)}))
        append(tmp_path / "one", "web: create")
        assert callback._display.wait_for(1) == ["web: creating"]
        append(tmp_path / "two", "db: create")
        assert callback._display.wait_for(2) == ["web: creating", "db: creating"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web: wait_ready", "web: waiting until it is ready"),
        ("web: fetch_image", "web: getting the image"),
        ("web: export", "web: exporting"),
        ("lxd: stop web", "lxd: stopping web"),
        ("lts: fetching noble.img: 12 of 600 MiB (2 %), 4.0 MiB/s, 147 s left",) * 2,
        ("web: warning: it is emulated",) * 2,
        # What only matters to the code.
        ("web: pinned", ""),
        ("web: uplink_noted", ""),
        # What a guest says moves no cursor.
        ("web: warning: \x1b[2J\x07gone", "web: warning: [2Jgone"),
    ],
)
def test_users_read_what_they_know(text, shown):
    assert progress.spoken(f"2026-05-04T10:20:31 [2] {text}") == shown


@pytest.mark.parametrize("line", ["", "nonsense", "] ", "2026 [1] web"])
def test_a_line_of_something_else_is_not_shown(line):
    assert progress.spoken(line) == ""


def test_a_log_that_appears_or_begins_anew_is_followed(callback, tmp_path):
    path = os.path.join(tmp_path, "activity.log")
    assert callback._show(path, 0) == 0
    append(tmp_path, "web: create")
    position = callback._show(path, 0)
    os.unlink(path)
    append(tmp_path, "db: stop")
    callback._show(path, position)
    assert callback._display.lines == ["web: creating", "db: stopping"]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path), os.mkdir])
def test_what_is_no_log_is_not_waited_for(callback, tmp_path, make):
    make(tmp_path / "activity.log")
    task = Task()
    callback.v2_runner_on_start(HOST, task)
    time.sleep(0.1)
    begun = time.monotonic()
    callback.v2_runner_on_ok(ended(task))
    assert time.monotonic() - begun < 5
    assert callback._display.lines == []


def test_half_a_line_waits_for_the_rest(callback, tmp_path):
    path = os.path.join(tmp_path, "activity.log")
    append(tmp_path, "web: create")
    with open(path, "a", encoding="utf-8") as stream:
        stream.write("2026-05-04T10:20:32 [2] web: sta")
    position = callback._show(path, 0)
    with open(path, "a", encoding="utf-8") as stream:
        stream.write("rt\n")
    callback._show(path, position)
    assert callback._display.lines == ["web: creating", "web: starting"]


def test_every_step_that_a_module_documents_is_spoken():
    for module, key in (("instance", "actions"), ("image", "actions"), ("snapshot", "actions")):
        path = os.path.join(os.path.dirname(progress.__file__), "..", "modules", f"{module}.py")
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
        returned = yaml.safe_load(text.partition('RETURN = r"""')[2].partition('"""')[0])
        description = " ".join(returned[key]["description"])
        steps = {word.strip("CV()") for word in description.replace(",", " ").replace(".", " ").split() if "(" in word}
        silent = {"set_comment", "set_alias", "forget_name", "stay_stopped", "keep"}  # which take no time
        assert steps - silent <= set(progress._STEPS), f"minicloud.local.{module}"


@pytest.mark.parametrize("name", ["ansible.builtin.default", "ansible.builtin.minimal"])
def test_in_a_play_with_any_callback_for_standard_output(tmp_path, name):
    """Standard output is the same with and without it, and the play's own data directory is found."""
    (tmp_path / "play.yml").write_text(
        json.dumps(
            [
                {
                    "hosts": "localhost",
                    "gather_facts": False,
                    "vars": {"place": str(tmp_path / "data")},
                    "module_defaults": {"group/minicloud.local.minicloud": {"data_dir": "{{ place }}"}},
                    "tasks": [{"minicloud.local.instance_info": {}}],
                }
            ]
        )
    )
    outputs = []
    for enabled in ({}, {"ANSIBLE_CALLBACKS_ENABLED": "minicloud.local.progress"}):
        env = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_C", "ANSIBLE_S"))}
        env.update(ANSIBLE_STDOUT_CALLBACK=name, ANSIBLE_NOCOLOR="1", MINICLOUD_PROGRESS="always")
        env.update(ANSIBLE_LOCALHOST_WARNING="false", ANSIBLE_INVENTORY_UNPARSED_WARNING="false")
        env["ANSIBLE_COLLECTIONS_PATH"] = os.path.abspath(progress.__file__).partition("/ansible_collections/")[0]
        env.update(enabled)
        argv = [sys.executable, "-m", "ansible.cli.playbook", "-i", "localhost,", "-c", "local"]
        done = subprocess.run(
            [*argv, str(tmp_path / "play.yml")], env=env, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.append(done.stdout)
        assert "Traceback" not in done.stderr
        assert "WARNING" not in done.stderr
    assert outputs[0] == outputs[1]
