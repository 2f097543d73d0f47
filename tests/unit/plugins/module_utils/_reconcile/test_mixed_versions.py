# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two versions of the collection that work on one data directory.

The newer one is this version's code in which instances have a schema more, with a field that an older version must not
ignore. It runs in a process of its own, as another version would.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import typing as t

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import MinicloudError, RecordError
from ansible_collections.minicloud.local.plugins.module_utils._reconcile import autostart
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.active_driver import switch_driver
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.image_listing import users_of
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.instances import reconcile_instance
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.listing import list_instances
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.networks import (
    parse_network,
    reconcile_network,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.purge import purge_instances
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.scopes import SwitchWish
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.snapshots import (
    parse_snapshot_wish,
    reconcile_snapshot,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import parse_wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

TESTS = pathlib.Path(__file__).parents[1]
PLUGINS = pathlib.Path(__file__).parents[5] / "plugins"

# What the newer version has that this one has not.
CHANGES = {
    "    handles: dict[str, dict[str, str]] = field(default_factory=dict)\n": "    sealed: bool = False\n",
    'INSTANCE = RecordKind(\n    "an instance",\n    1,\n': 'INSTANCE = RecordKind(\n    "an instance",\n    2,\n',
}
MIGRATION = "\nINSTANCE = INSTANCE._replace(migrations={1: lambda data: {**data, 'sealed': False}})\n"

# What the newer version does: reads all that there is, seals what it is told to, and says what it has read.
PROGRAM = """\
import json, sys
sys.path.insert(0, sys.argv[1])
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
data = DataDirectory(sys.argv[2])
told = {}
for scope in data.scopes():
    instances, broken = scope.instances()
    networks, more = scope.networks.all()
    assert not [*broken, *more], [*broken, *more]
    for each in instances:
        told[each.name] = each.sealed
        if each.name in sys.argv[3:]:
            each.sealed = True
            scope.write(each)
    told.update((each.name, each.mode) for each in networks)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def newer_code(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the newer version is."""
    top = tmp_path_factory.mktemp("newer")
    code = top / "ansible_collections" / "minicloud" / "local" / "plugins" / "module_utils"
    shutil.copytree(PLUGINS / "module_utils", code, ignore=shutil.ignore_patterns("__pycache__"))
    model = (code / "_model.py").read_text(encoding="utf-8")
    for old, new in CHANGES.items():
        assert model.count(old) == 1, old
        model = model.replace(old, old + new if new.startswith("    ") else new)
    (code / "_model.py").write_text(model + MIGRATION, encoding="utf-8")
    return str(top)


@pytest.fixture
def data(tmp_path: pathlib.Path) -> DataDirectory:
    shutil.copytree(TESTS / "records_of_schema_1", tmp_path / "data")
    os.chmod(tmp_path / "data", 0o700)
    web = tmp_path / "data" / "scopes" / "qemu" / "instances" / "web" / "instance.json"
    record = json.loads(web.read_text())
    # It is on a network, is to start with the host, and is made from the image that is there.
    nic = {"network": "lab", "mac": "52:54:00:aa:bb:07", "address": "10.20.0.7"}
    web.write_text(json.dumps({**record, "autostart": True, "nics": [nic]}))
    (web.parent / "disk.qcow2").write_bytes(b"what the guest has written")
    return DataDirectory(str(tmp_path / "data"))


def newer(code: str, data: DataDirectory, *sealed: str) -> dict[str, t.Any]:
    """What the newer version reads; it seals some instances."""
    argv = [sys.executable, "-c", PROGRAM, code, data.path, *sealed]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return t.cast("dict[str, t.Any]", json.loads(done.stdout))


def content(data: DataDirectory) -> dict[str, bytes]:
    """All files but those that come and go with a run."""
    found = {}
    for path in pathlib.Path(data.path).rglob("*"):
        if path.is_file() and "locks" not in path.parts and path.name not in ("activity.log", "autostart.begun"):
            found[str(path)] = path.read_bytes()
    return found


def no_command(argv: t.Sequence[str], **dummy: t.Any) -> t.NoReturn:
    raise AssertionError(f"a command was run: {argv}")


@pytest.fixture
def runtime() -> Runtime:
    return Runtime(no_command, Reporter())


def test_a_newer_version_reads_what_this_one_has_written(newer_code: str, data: DataDirectory) -> None:
    before = content(data)
    assert newer(newer_code, data) == {"web": False, "Box": False, "Lab": "nat", "bridged-eth1": "bridged"}
    assert content(data) == before


INSTANCE_OPTIONS: list[dict[str, t.Any]] = [
    {"state": "running"},
    {"state": "present", "memory": "256M"},
    {"state": "stopped", "force": True},
    {"state": "restarted"},
    {"state": "suspended"},
    {"state": "running", "recreate": True},
    {"state": "running", "new_name": "www"},
    {"state": "deleted"},
    {"state": "absent"},
    {"state": "absent", "force": True},
]


@pytest.mark.parametrize("check_mode", [False, True])
@pytest.mark.parametrize("options", INSTANCE_OPTIONS)
def test_this_version_refuses_an_instance_of_a_newer_one_whatever_is_asked(
    newer_code: str, data: DataDirectory, runtime: Runtime, options: dict[str, t.Any], check_mode: bool
) -> None:
    newer(newer_code, data, "web")
    before = content(data)
    with pytest.raises(RecordError) as caught:
        reconcile_instance(parse_wish({"name": "web", **options}), runtime, data, "qemu", None, check_mode)
    assert "was written by a newer version" in str(caught.value)
    assert "Upgrade the collection" in caught.value.hint
    assert content(data) == before
    # And the newer one has all that it had.
    assert newer(newer_code, data)["web"] is True


def _purge(runtime: Runtime, data: DataDirectory) -> None:
    params = {"purge_older_than": "1h", "name": None, "state": "absent", "driver": "qemu", "driver_options": None}
    purge_instances(params, runtime, data, False)


def _switch(runtime: Runtime, data: DataDirectory) -> None:
    data.change_settings(driver="qemu")
    switch_driver(SwitchWish("lxd"), runtime, data, None, False)


def _snapshot(runtime: Runtime, data: DataDirectory) -> None:
    reconcile_snapshot(parse_snapshot_wish({"instance": "web", "name": "one"}), runtime, data, "qemu")


def _network(runtime: Runtime, data: DataDirectory) -> None:
    reconcile_network(parse_network({"name": "lab", "state": "absent"}), runtime, data, "qemu")


@pytest.mark.parametrize(
    "act",
    [_snapshot, _network, lambda dummy, data: users_of(data)],
    ids=["snapshot", "network", "images in use"],
)
def test_what_concerns_it_is_refused_too(
    newer_code: str, data: DataDirectory, runtime: Runtime, act: t.Callable[[Runtime, DataDirectory], t.Any]
) -> None:
    newer(newer_code, data, "web")
    before = content(data)
    with pytest.raises(RecordError, match="newer version"):
        act(runtime, data)
    assert content(data) == before


def test_other_instances_are_not_held_up_by_it(newer_code: str, data: DataDirectory, runtime: Runtime) -> None:
    newer(newer_code, data, "web")
    before = content(data)
    entries = list_instances(runtime, data, ["qemu"])
    assert entries == []
    assert any("newer version" in text for text in runtime.report.warnings)
    assert data.scope("lxd").read("box") is not None
    _purge(runtime, data)
    assert content(data) == before


def test_what_starts_it_with_the_host_stays(
    newer_code: str, data: DataDirectory, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer(newer_code, data, "web")
    needed: list[bool] = []
    monkeypatch.setattr(autostart.Unit, "finish", lambda self, wanted: needed.append(wanted))
    with autostart.Autostart(runtime, data).kept_unit():
        pass
    assert needed == [True]


def test_a_switch_leaves_it_where_it_is(newer_code: str, data: DataDirectory, runtime: Runtime) -> None:
    newer(newer_code, data, "web")
    web = os.path.join(data.scope("qemu").directory("web"), "instance.json")
    before = content(data)[web]
    with pytest.raises(MinicloudError):
        _switch(runtime, data)
    assert content(data)[web] == before
    assert data.settings()["driver"] == "qemu"
