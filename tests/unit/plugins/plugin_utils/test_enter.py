# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command minicloud: what it makes of its arguments, and how it logs in."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import jinja2
import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.driver import QemuDriver
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption, NotFound
from ansible_collections.minicloud.local.plugins.module_utils._model import RUNNING, STOPPED, Instance, Nic, Observed
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.plugin_utils import _enter

TOP = pathlib.Path(__file__).parents[4]
COLLECTIONS = TOP.parents[2]


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The command, with a playbook command that tells its arguments instead of doing anything."""
    place = tmp_path_factory.mktemp("bin")
    told = place / "ansible-playbook"
    told.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    told.chmod(0o755)
    python = place / "python"
    python.symlink_to(sys.executable)
    environment = jinja2.Environment(keep_trailing_newline=True)
    environment.filters.update(to_json=json.dumps, dirname=os.path.dirname)
    text = environment.from_string((TOP / "roles/host/templates/minicloud.j2").read_text(encoding="utf-8")).render(
        ansible_playbook_python=str(python), host_collections=str(COLLECTIONS)
    )
    path = place / "minicloud"
    path.write_text(text)
    return path


def run(command, *words):
    return subprocess.run(
        [sys.executable, "-IS", command, *words], capture_output=True, text=True, check=False, cwd="/tmp"
    )


@pytest.mark.parametrize(
    ("words", "playbook", "variables"),
    [
        ("ls", "list", {}),
        ("list --format json", "list", {"format": "json"}),
        (
            "launch 24.04 -n web -c 2 -m 2G --disk=9G",
            "launch",
            {"image": "24.04", "instance": "web", "cpus": "2", "memory": "2G", "disk": "9G"},
        ),
        ("launch --cloud-init x.yml", "launch", {"cloud_init": "/tmp/x.yml"}),
        (
            "launch --mount a:/b --mount c",
            "launch",
            {"mounts": [{"source": "/tmp/a", "target": "/b"}, {"source": "/tmp/c"}]},
        ),
        ("stop web db --force", "stop", {"instances": "web,db", "force": True}),
        ("start --all --timeout 9", "start", {"all": True, "seconds": "9"}),
        ("delete -p web", "delete", {"purge": True, "instances": "web"}),
        ("delete web.s1", "snapshot", {"instance": "web", "snapshot": "s1", "remove": True}),
        ("restore web.s1 -d", "restore", {"instance": "web", "snapshot": "s1", "destructive": True}),
        ("snapshot web -n s1 -c text", "snapshot", {"instance": "web", "snapshot": "s1", "comment": "text"}),
        ("clone web --name new", "clone", {"source": "web", "instance": "new"}),
        (
            "mount /srv web:/x -u 1000:0",
            "mount",
            {"source": "/srv", "instance": "web", "target": "/x", "uid_map": "1000:0"},
        ),
        ("umount web", "umount", {"instance": "web", "all": True}),
        ("umount web:/x", "umount", {"instance": "web", "target": "/x"}),
        ("transfer -r a b web:", "transfer", {"source": ["a", "b"], "target": "web:", "recursive": True}),
        ("transfer -- -n web:", "transfer", {"source": ["-n"], "target": "web:"}),
        ("set local.driver=lxd", "set", {"setting": "local.driver", "value": "lxd"}),
        ("get", "get", {}),
        ("networks", "networks", {"interfaces": True}),
        ("down --remove shop.yml", "down", {"state": "absent", "file": "/tmp/shop.yml"}),
    ],
)
def test_arguments_become_variables_of_a_playbook(command, words, playbook, variables):
    done = run(command, *words.split())
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert told[2] == f"minicloud.local.{playbook}"
    assert json.loads(told[4]) == variables
    assert (TOP / "playbooks" / f"{playbook}.yml").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fly", "no command fly"),
        ("launch --colour red", "no option --colour"),
        ("launch -n", "needs a value"),
        ("launch a b", "cannot do anything with b"),
        ("stop", "or --all"),
        ("restore web", "INSTANCE.SNAPSHOT"),
        ("set x", "SETTING=VALUE"),
        ("transfer a", "needs"),
        ("exec web", "needs COMMAND"),
    ],
)
def test_what_cannot_be_meant_is_said(command, words, said):
    done = run(command, *words.split())
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def data(tmp_path):
    found = DataDirectory(str(tmp_path / "data"))
    record = Instance(
        "web", "1", "qemu", "qemu", "2026-05-04T00:00:00Z", "x86_64", 1, 1 << 30, 1 << 30, phase="ready",
        user="debian", owner="qemu", ssh_port=2222, nics=[Nic("user", "52:54:00:00:00:01")], handles={"qemu": {}},
    )  # fmt: skip
    found.scope("qemu").write(record)
    return found


def test_one_that_runs_is_logged_in_to_without_a_play(data, monkeypatch):
    monkeypatch.setattr(QemuDriver, "observe", lambda driver, instances: [Observed(RUNNING, addresses=("127.0.0.1",))])
    words = _enter.login("WEB", [], data.path, "qemu")
    assert words[0] == "ssh"
    assert words[-1] == "debian@127.0.0.1"
    assert "StrictHostKeyChecking=yes" in words
    words = _enter.login("web", ["echo", "a b", "$HOME"], data.path, "qemu")
    assert words[-2:] == ["--", "echo 'a b' '$HOME'"]


def test_one_that_does_not_run_has_to_be_started_first(data, monkeypatch):
    monkeypatch.setattr(QemuDriver, "observe", lambda driver, instances: [Observed(STOPPED)])
    assert _enter.login("web", [], data.path, "qemu") == []


def test_one_that_is_not_there_is_said(data):
    with pytest.raises(NotFound):
        _enter.login("nobody", [], data.path, "qemu")
    with pytest.raises(InvalidOption):
        _enter.login("../web", [], data.path, "qemu")
    with pytest.raises(SystemExit, match="no instance nobody"):
        _enter.enter("nobody", [], data.path, "qemu")


def test_names_are_completed(data):
    assert _enter.names(data.path, "qemu") == ["web"]
    assert _enter.names(data.path, "mistyped") == []
