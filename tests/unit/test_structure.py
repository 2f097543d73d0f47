# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rooms of the code, as docs/ARCHITECTURE.md describes them: who may import whom. Lazy imports count, too."""

from __future__ import annotations

import ast
import functools
import pathlib
import zlib
from collections.abc import Iterable

import pytest

PLUGINS = pathlib.Path(__file__).parents[2] / "plugins"
PREFIX = "ansible_collections.minicloud.local.plugins."

# From below: a file imports from its own room and from those that come before it here.
ROOMS = (
    "module_utils/_ansiballz.py",
    "module_utils/_dataclass.py",
    "module_utils/_errors.py",
    "module_utils/_json.py",
    "module_utils/_options.py",
    "module_utils/_arguments.py",
    "module_utils/_runtime.py",
    "module_utils/_command.py",
    "module_utils/_model.py",
    "module_utils/_image.py",
    "module_utils/_network.py",
    "module_utils/_snapshot.py",
    "module_utils/_files.py",
    "module_utils/_writing.py",
    "module_utils/_locks.py",
    "module_utils/_scope.py",
    "module_utils/_host",
    "module_utils/_hostnet",
    "module_utils/_guest",
    "module_utils/_images",
    "module_utils/_drivers",
    "module_utils/_reconcile",
    "module_utils/_module.py",
    "plugin_utils",
    "doc_fragments",
    "modules",
    "action",
    "inventory",
    "callback",
    "filter",
    "connection",
)
# In the room of the drivers: what all may import, and nothing of it a driver but registry.py, which loads them.
SHARED_BY_DRIVERS = ("contract", "parts", "reach", "members", "host_networks", "qemu_family", "lxd_family")


def room_of(path: str) -> str:
    """The room that a file below plugins/ is in."""
    return next(room for room in ROOMS if path == room or path.startswith(f"{room}/"))


@functools.cache
def imports() -> dict[str, set[str]]:
    """The files below plugins/, each with those that it imports: anywhere in it, and for types only, too."""
    paths = {path.relative_to(PLUGINS).as_posix(): path for path in PLUGINS.rglob("*.py")}
    modules = {path[: -len(".py")].replace("/", "."): path for path in paths}
    found = {}
    for name, path in paths.items():
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        found[name] = {modules[each[len(PREFIX) :]] for each in names if each[len(PREFIX) :] in modules}
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Sets of nodes that lead to each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        left = [start]
        while left:
            for each in graph.get(left.pop(), ()):
                if each not in seen:
                    seen.add(each)
                    left.append(each)
        return seen

    all_reached = {node: reached(node) for node in graph}
    rings = {
        tuple(sorted(other for other in all_reached[node] if node in all_reached.get(other, ())))
        for node in graph
        if node in all_reached[node]
    }
    return sorted(map(list, rings))


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"e"}}) == [["a", "b", "c"], ["e"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("room", ROOMS)
def test_no_imports_form_a_circle(room: str) -> None:
    assert [ring for ring in circles(imports()) if room_of(ring[0]) == room] == []


def test_every_file_has_a_room() -> None:
    for path in imports():
        assert room_of(path)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_downwards_only(room: str) -> None:
    allowed = ROOMS[: ROOMS.index(room) + 1]
    upwards = [
        f"{name} imports {other}"
        for name, others in imports().items()
        if room_of(name) == room
        for other in others
        if room_of(other) not in allowed
    ]
    assert upwards == []


def test_drivers_do_not_know_each_other() -> None:
    def place(path: str) -> str:
        return path[len("module_utils/_drivers/") :].removesuffix(".py").partition("/")[0]

    drivers = {place(path) for path in imports() if path.endswith("/driver.py")}
    assert drivers
    for name, others in imports().items():
        known = {place(other) for other in others if other.startswith("module_utils/_drivers/")}
        if room_of(name) == "module_utils/_drivers" and place(name) != "registry":
            assert known & drivers <= {place(name)}, name
            if place(name) in drivers:
                assert known <= {place(name), *SHARED_BY_DRIVERS}, name
        elif room_of(name) != "module_utils/_drivers":
            assert not known & drivers, name


# Rooms whose code runs here while the hypervisor may be elsewhere.
_ABOVE_DRIVERS = ("module_utils/_reconcile", "modules", "action", "inventory", "plugin_utils", "module_utils/_guest")
# What tells of the machine that asks.
_OF_THIS_MACHINE = {"this_host", "cpu_count", "sched_getaffinity", "machine", "uname", "sysconf"}


@pytest.mark.parametrize("room", _ABOVE_DRIVERS)
def test_what_a_host_is_like_is_asked_of_the_drivers_host(room: str) -> None:
    asking = [
        f"{path}: {name}"
        for path in imports()
        if room_of(path) == room
        for node in ast.walk(ast.parse((PLUGINS / path).read_text(encoding="utf-8")))
        for name in [node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")]
        if name in _OF_THIS_MACHINE
    ]
    assert asking == []


def imported_at_once(start: str) -> set[str]:
    """The files that a file below plugins/ has imported when it is imported itself."""
    seen: set[str] = set()
    left = [start]
    while left:
        path = left.pop()
        seen.add(path)
        for node in ast.parse((PLUGINS / path).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PREFIX):
                whole = (node.module or "")[len(PREFIX) :].replace(".", "/")
                names = {f"{whole}.py", *(f"{whole}/{alias.name}.py" for alias in node.names)}
                left += (names & set(imports())) - seen
    return seen


@pytest.mark.parametrize(
    "driver", sorted(path.parent.name for path in PLUGINS.glob("module_utils/_drivers/*/driver.py"))
)
def test_what_only_looks_does_not_import_what_acts(driver: str) -> None:
    """Ansible's pack has no compiled code: each line that is imported costs every task that changes nothing."""
    found = imported_at_once(f"module_utils/_drivers/{driver}/driver.py") | imported_at_once("modules/instance.py")
    assert f"module_utils/_drivers/{driver}/driver.py" in found
    acting = {"_command", "act", "apply", "seed", "cloud_config", "networks", "vault", "acquire"}
    assert {path for path in found if pathlib.PurePath(path).stem in acting} == set()
    others = {path for path in imports() if path.endswith("/driver.py")} - {f"module_utils/_drivers/{driver}/driver.py"}
    assert not found & others


@pytest.mark.parametrize("module", sorted(path for path in imports() if room_of(path) == "modules"))
def test_a_module_begins_with_what_makes_imports_from_the_pack_cheap(module: str) -> None:
    nodes = ast.parse((PLUGINS / module).read_text(encoding="utf-8")).body
    imported = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module != "__future__"]
    if not imported and module.replace("modules/", "action/") in imports():
        return  # it is the documentation of an action plugin
    first = imported[0]
    assert [alias.name for alias in first.names] == ["_ansiballz"]


DRIVERS = sorted(path.parent.name for path in PLUGINS.glob("module_utils/_drivers/*/driver.py"))


@pytest.mark.parametrize("driver", [name for name in DRIVERS if name not in ("qemu", "libvirt", "lxd")])
def test_a_driver_is_named_where_docs_say_and_nowhere_else(driver: str) -> None:
    """What docs/ADDING_A_DRIVER.md does not tell to change is made from what it tells.

    Tests of what is particular to some drivers name the older three; so this asks it of all others.
    """
    top = PLUGINS.parent
    own = (f"plugins/module_utils/_drivers/{driver}/", "plugins/module_utils/_drivers/registry.py")
    naming = []
    for path in sorted([*PLUGINS.rglob("*.py"), *(top / "tests" / "tools").glob("*.py")]):
        name = path.relative_to(top).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        words = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        words += [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
        if driver in [str(word).lower() for word in words] and not name.startswith(own):
            naming.append(name)
    for path in [*(top / "playbooks").glob("*.yml"), *(top / "roles").glob("*/tasks/*.yml"), top / "Makefile"]:
        # A copy of the collection has no Makefile.
        if path.exists() and driver in path.read_text(encoding="utf-8").lower():
            naming.append(path.relative_to(top).as_posix())
    assert naming == []


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_driver_is_a_small_part_of_what_ansible_packs(driver: str) -> None:
    """All drivers are in the pack of a module, so what one adds is bounded; what several need is shared."""

    def packed(paths: Iterable[pathlib.Path]) -> int:
        return sum(len(zlib.compress(path.read_bytes())) for path in paths)

    whole = packed(PLUGINS.glob("module_utils/**/*.py"))
    assert packed(PLUGINS.glob(f"module_utils/_drivers/{driver}/*.py")) < whole / 12
