# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import typing as t
import zipfile

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._hostnet import units
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.units import Unit
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


class Commands:
    """Notes what is run."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def __call__(self, argv: t.Sequence[str], **dummy: t.Any) -> Completed:
        self.seen.append(list(argv))
        return Completed(0, "", "")


def unit(tmp_path: pathlib.Path, commands: Commands | None = None, booted: bool = True, name: str = "data") -> Unit:
    if booted:
        (tmp_path / "booted").mkdir(exist_ok=True)
    data = DataDirectory(str(tmp_path / name))
    return Unit(Runtime(commands or Commands()), data, str(tmp_path / "units"), str(tmp_path / "booted"))


def test_on_and_off(tmp_path: pathlib.Path) -> None:
    commands = Commands()
    it = unit(tmp_path, commands)
    assert not it.is_on()
    it.switch_on()
    assert it.is_on()
    assert len(commands.seen) == 1
    assert commands.seen[0][-1] == "daemon-reload"
    wants = os.path.join(it.unit_dir, f"{it.target}.wants", it.name)
    assert os.path.samefile(wants, it.path)
    assert os.stat(it.path).st_mode & 0o777 == 0o644
    assert os.stat(it.archive).st_mode & 0o777 == 0o600
    it.switch_on()
    assert len(commands.seen) == 1
    it.switch_off()
    it.switch_off()
    told = [seen[1:] for seen in commands.seen[1:]]
    assert told == [["stop", it.name], ["reset-failed", it.name], ["daemon-reload"]]
    assert not it.is_on()
    assert [name for name in os.listdir(it.unit_dir) if not name.endswith(".wants")] == []
    assert os.listdir(os.path.dirname(wants)) == []
    assert not os.path.exists(it.archive)


def test_what_somebody_changed_is_put_right(tmp_path: pathlib.Path) -> None:
    commands = Commands()
    it = unit(tmp_path, commands)
    it.switch_on()
    text = pathlib.Path(it.path).read_text(encoding="utf-8")
    pathlib.Path(it.path).write_text("[Unit]\n", encoding="utf-8")
    pathlib.Path(it.archive).write_bytes(b"old")
    it.switch_on()
    assert pathlib.Path(it.path).read_text(encoding="utf-8") == text
    assert zipfile.is_zipfile(it.archive)
    assert len(commands.seen) == 2


def test_without_systemd_there_is_the_command_only(tmp_path: pathlib.Path) -> None:
    commands = Commands()
    it = unit(tmp_path, commands, booted=False)
    it.switch_on()
    assert not it.is_possible()
    assert not os.path.exists(it.unit_dir)
    assert commands.seen == []
    assert "does not run systemd" in it.obstacle()
    assert " ".join([*it.command()[:1], it.archive, it.data.path]) in it.obstacle()
    it.switch_off()
    assert not os.path.exists(it.archive)


def test_a_user_whose_units_wait_for_a_login_is_told(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units.systemd, "LINGER", str(tmp_path / "linger"))
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    it = unit(tmp_path)
    assert it.target == "default.target"
    assert "loginctl enable-linger nobody" in it.obstacle()
    (tmp_path / "linger").mkdir()
    (tmp_path / "linger" / "nobody").touch()
    assert it.obstacle() == ""


def test_the_systems_own_python_goes_by_the_name_that_stays(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = unit(tmp_path)
    usual, other = tmp_path / "python3", tmp_path / "python3.11"
    other.touch()
    monkeypatch.setattr(units, "_PYTHON", str(usual))
    monkeypatch.setattr(sys, "executable", str(other))
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    assert it.command()[0] == str(other)
    usual.symlink_to(other)
    assert it.command()[0] == str(usual)
    # A virtual environment has libraries that it lacks.
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert it.command()[0] == str(other)


def test_nothing_waits_for_the_unit_and_it_comes_again_with_nftables(tmp_path: pathlib.Path) -> None:
    it = unit(tmp_path)
    lines = it.text().splitlines()
    assert "DefaultDependencies=no" in lines
    assert "ReloadPropagatedFrom=nftables.service" in lines
    # With this, of firewalld and nftables, which exclude each other, neither would be started where both are to be.
    assert not [line for line in lines if line.startswith("PartOf=")]
    commands = [line.partition("=")[2] for line in lines if line.startswith(("ExecStart=", "ExecReload="))]
    assert len(commands) == 2
    assert len(set(commands)) == 1
    assert f"ExecStop={commands[0]} stop" in lines


def test_each_data_directory_has_its_own(tmp_path: pathlib.Path) -> None:
    names = {unit(tmp_path, name=name).name for name in ("a", "b")}
    assert len(names) == 2
    assert all(name.startswith("minicloud-autostart-") and name.endswith(".service") for name in names)
    usual = Unit(Runtime(Commands()), DataDirectory("/var/lib/minicloud"), str(tmp_path))
    assert usual.name == "minicloud-autostart.service"


@pytest.mark.parametrize("needed", [True, False])
def test_one_under_another_spelling_of_the_path_gives_way(tmp_path: pathlib.Path, needed: bool) -> None:
    """Versions before have named it after the path as a task had it, and not after what that leads to."""
    (tmp_path / "link").symlink_to(tmp_path / "da%ta")
    old, it, other = (unit(tmp_path, name=name) for name in ("link", "da%ta", "other"))
    assert old.name == it.name
    old.name = "minicloud-autostart-0123456789.service"
    old.text = lambda: it.text().replace(f"{tmp_path}/da%%ta", f"{tmp_path}/link")  # type: ignore[method-assign]
    old.switch_on()
    other.switch_on()
    assert not it.is_on()
    it.finish(needed)
    names = [each for each in os.listdir(it.unit_dir) if each.endswith(".service")]
    assert sorted(names) == sorted([other.name, *([it.name] if needed else [])])
    assert sorted(os.listdir(os.path.join(it.unit_dir, f"{it.target}.wants"))) == sorted(names)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("name", ["data", 'with space, % and $HOME "quoted"'], ids=["plain", "odd"])
def test_systemd_finds_nothing_wrong(tmp_path: pathlib.Path, name: str) -> None:
    it = unit(tmp_path, name=name)
    it.switch_on()
    argv = ["systemd-analyze", "verify", "--recursive-errors=no", it.path]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert it.name not in done.stderr
    assert done.returncode == 0, done.stderr


def test_the_archive_is_the_same_for_the_same_code() -> None:
    assert units.archive() == units.archive()


def test_the_archive_runs_without_ansible(tmp_path: pathlib.Path) -> None:
    it = unit(tmp_path)
    it.switch_on()
    # -I and -S: nothing of what is installed, nothing of this checkout.
    argv = [sys.executable, "-I", "-S", it.archive, it.data.path]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with zipfile.ZipFile(it.archive) as packed:
        assert not [name for name in packed.namelist() if name.endswith("_module.py")]


def test_the_archive_is_also_made_from_the_one_that_ansible_sends(tmp_path: pathlib.Path) -> None:
    first = tmp_path / "payload.zip"
    first.write_bytes(units.archive())
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(first)!r})\n"
        "from ansible_collections.minicloud.local.plugins.module_utils._hostnet import units\n"
        f"assert units.__file__.startswith({str(first)!r})\n"
        "sys.stdout.buffer.write(units.archive())\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, "-I", str(script)], capture_output=True, check=True)
    assert done.stdout == first.read_bytes()


def test_the_archive_has_all_that_it_imports(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "autostart.pyz"
    path.write_bytes(units.archive())
    with zipfile.ZipFile(path) as packed:
        names = set(packed.namelist())
    assert {
        f"{units._PACKAGE}/{name}" for name in ("_scope.py", "_reconcile/power.py", "_drivers/qemu/act.py")
    } <= names
