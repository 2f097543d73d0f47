# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import io
import platform

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._host import host as host_module
from ansible_collections.minicloud.local.plugins.module_utils._host import systemd
from ansible_collections.minicloud.local.plugins.module_utils._host.host import may_open, this_host
from ansible_collections.minicloud.local.plugins.module_utils._model import GIB
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime

MEMINFO = "MemTotal:       8388608 kB\nMemFree:         100000 kB\nMemAvailable:   4194304 kB\n"


@pytest.fixture
def files(monkeypatch):
    """What files have; the others are not there."""
    found: dict[str, str] = {}

    def opened(path, **dummy):
        if path not in found:
            raise FileNotFoundError(path)
        return io.StringIO(found[path])

    monkeypatch.setattr(host_module, "open", opened, raising=False)
    return found


def on(monkeypatch, system, machine="x86_64"):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    return this_host()


def test_its_architecture_has_the_name_that_the_kernel_gives_it(monkeypatch):
    assert on(monkeypatch, "Darwin", "arm64").architecture() == "aarch64"
    assert on(monkeypatch, "Linux", "amd64").architecture() == "x86_64"


def test_its_memory(monkeypatch, files):
    host = on(monkeypatch, "Linux")
    files["/proc/meminfo"] = MEMINFO
    assert host.memory() == (8 * GIB, 4 * GIB)
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert host.memory() == (8 * GIB, 4 * GIB)
    files["/sys/fs/cgroup/memory.max"] = f"{2 * GIB}\n"
    assert host.memory() == (2 * GIB, 4 * GIB)


@pytest.mark.parametrize("system", ["Linux", "Darwin", "Plan9"])
def test_memory_without_proc_is_what_the_c_library_tells(monkeypatch, files, system):
    monkeypatch.setattr(host_module.os, "sysconf_names", {"SC_PHYS_PAGES": 1, "SC_PAGE_SIZE": 2})
    monkeypatch.setattr(host_module.os, "sysconf", {"SC_PHYS_PAGES": 1 << 20, "SC_PAGE_SIZE": 4096}.get)
    assert on(monkeypatch, system).memory() == (4 * GIB, 0)


def test_what_a_system_has(monkeypatch):
    found = {name: on(monkeypatch, name) for name in ("Linux", "Darwin", "Plan9")}
    assert {name: (host.system, host.accelerator, host.has_networks) for name, host in found.items()} == {
        "Linux": ("Linux", "kvm", True),
        "Darwin": ("macOS", "hvf", False),
        "Plan9": ("Plan9", "", False),
    }
    assert all(host.here for host in found.values())
    assert found["Plan9"].obstacle_to_acceleration("x86_64", 0, ()) == "there is none on Plan9"


@pytest.mark.parametrize("system", ["Linux", "Darwin"])
def test_only_where_systemd_may_be_is_it_asked_for_a_place_in_the_background(monkeypatch, system):
    asked = []
    monkeypatch.setattr(systemd, "start", lambda *args, **dummy: asked.append(args) or "by systemd")
    runtime = Runtime(lambda argv, **dummy: Completed(0, "by itself", ""))
    told = on(monkeypatch, system).start_background(runtime, ["hub"], "it failed", "Hub", cwd="/")
    assert (told, bool(asked)) == (("by systemd", True) if system == "Linux" else ("by itself", False))


@pytest.mark.parametrize(
    ("mode", "uid", "groups", "may"),
    [
        (0o660, 0, (), True),
        (0o600, 7, (), True),
        (0o660, 8, (36,), True),
        (0o660, 8, (), False),
        (0o666, 8, (), True),
        (0o640, 8, (36,), False),
    ],
)
def test_who_may_open_a_device(mode, uid, groups, may):
    class Device:
        st_mode, st_uid, st_gid = 0o020000 | mode, 7, 36

    assert may_open(Device, uid, groups) is may
