# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import importlib
import pathlib
import sys
import traceback
import zipfile
import zipimport

import pytest

from ansible_collections.minicloud.local.plugins.module_utils import _ansiballz

FILES = {
    "packed_top/__init__.py": "",
    "packed_top/inner/__init__.py": "",
    "packed_top/inner/file.py": "from packed_top.inner.other import VALUE\ndef fail():\n    raise KeyError\n",
    "packed_top/inner/other.py": "VALUE = 7\n",
}


@pytest.fixture
def archive(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = str(tmp_path / "payload.zip")
    with zipfile.ZipFile(path, "w") as pack:
        for name, content in FILES.items():
            pack.writestr(name, content)
    monkeypatch.setattr(sys, "path", [path, *sys.path])
    monkeypatch.setattr(sys, "path_hooks", list(sys.path_hooks))
    monkeypatch.setattr(sys, "path_importer_cache", dict(sys.path_importer_cache))
    for name in [name for name in sys.modules if name.startswith("packed_top")]:
        monkeypatch.delitem(sys.modules, name)
    return path


def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are compiled from now on."""
    found: list[str] = []
    real = zipimport._compile_source  # type: ignore[attr-defined]

    def compile_source(path: str, source: bytes) -> object:
        found.append(path)
        return real(path, source)

    monkeypatch.setattr(zipimport, "_compile_source", compile_source)
    return found


def test_python_itself_compiles_each_file_of_a_pack_twice(archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a version of Python does not any more, this is no longer needed there."""
    found = compiled(monkeypatch)
    importlib.import_module("packed_top.inner.file")
    assert len(found) == 2 * len(set(found)) == 2 * len(FILES)


def test_each_file_of_a_pack_is_compiled_once(archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a module, something was imported from there before.
    importlib.import_module("packed_top.inner")
    found = compiled(monkeypatch)
    _ansiballz.install(archive)
    module = importlib.import_module("packed_top.inner.file")
    assert module.VALUE == 7
    assert sorted(found) == [f"{archive}/packed_top/inner/file.py", f"{archive}/packed_top/inner/other.py"]


@pytest.mark.parametrize("name", ["packed_top", "packed_top.inner", "packed_top.inner.file"])
def test_files_are_what_they_are_without_it(archive: str, name: str) -> None:
    before = importlib.import_module(name)
    for each in [each for each in sys.modules if each.startswith("packed_top")]:
        del sys.modules[each]
    _ansiballz.install(archive)
    after = importlib.import_module(name)
    assert after is not before and isinstance(after.__loader__, _ansiballz.PackImporter)
    for attribute in ("__file__", "__name__", "__package__", "__path__"):
        assert getattr(after, attribute, None) == getattr(before, attribute, None)


def test_tracebacks_show_the_lines(archive: str) -> None:
    _ansiballz.install(archive)
    module = importlib.import_module("packed_top.inner.file")
    with pytest.raises(KeyError) as caught:
        module.fail()
    assert "raise KeyError" in "".join(traceback.format_tb(caught.value.__traceback__))


def test_what_is_not_there_is_not_found(archive: str) -> None:
    _ansiballz.install(archive)
    with pytest.raises(ImportError, match="none"):
        importlib.import_module("packed_top.none")
    with pytest.raises(ImportError):
        _ansiballz.PackImporter(archive).get_filename("none")


def test_nothing_is_done_where_the_collection_is_installed_as_files() -> None:
    assert _ansiballz.PackImporter not in sys.path_hooks
