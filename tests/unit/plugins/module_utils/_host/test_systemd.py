# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import pathlib
import typing as t

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import CommandFailed
from ansible_collections.minicloud.local.plugins.module_utils._host import systemd
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime


class Host:
    """A host where commands are noted. failing -- the programs that do not go well"""

    def __init__(self, failing: t.Sequence[str] = ()) -> None:
        self.seen: list[list[str]] = []
        self.kwargs: list[dict[str, t.Any]] = []
        self.failing = failing

    def __call__(self, argv: t.Sequence[str], **kwargs: t.Any) -> Completed:
        self.seen.append(list(argv))
        self.kwargs.append(kwargs)
        return Completed(1, "", f"{argv[0]} is broken") if argv[0] in self.failing else Completed(0, argv[0], "")

    def start(self) -> str:
        return systemd.start(Runtime(self), ["serve", "-d"], "it could not be started", "A server", pass_fds=(7,))


@pytest.fixture
def place(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Directories of a host that systemd runs, and that is used by root."""
    for name in ("booted", "linger", "user"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(systemd, "BOOTED", str(tmp_path / "booted"))
    monkeypatch.setattr(systemd, "LINGER", str(tmp_path / "linger"))
    monkeypatch.setattr(systemd, "_RUN_USER", str(tmp_path / "user"))
    monkeypatch.setattr(systemd, "find_program", lambda name: name)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


@pytest.fixture
def ordinary(place: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The same, used by nobody in particular."""
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    return place


def test_what_root_starts_has_a_scope_of_its_own(place: pathlib.Path) -> None:
    host = Host()
    assert host.start() == "systemd-run"
    assert host.seen == [
        ["systemd-run", "--scope", "--quiet", "--collect", "--description=A server", "--", "serve", "-d"]
    ]
    assert host.kwargs == [{"env": {}, "pass_fds": (7,)}]


def test_what_is_suspended_with_the_host_ends_after_the_unit_that_does_so(place: pathlib.Path) -> None:
    host = Host()
    systemd.start(Runtime(host), ["serve"], "it could not be started", "A server", "some.service")
    assert host.seen[0][-3:] == ["--property=Before=some.service", "--", "serve"]


def test_without_systemd_it_is_started_as_it_is(place: pathlib.Path) -> None:
    (place / "booted").rmdir()
    host = Host()
    assert host.start() == "serve"
    assert host.seen == [["serve", "-d"]]


def test_where_no_scope_is_to_be_had_it_is_started_all_the_same(place: pathlib.Path) -> None:
    host = Host(failing=["systemd-run"])
    assert host.start() == "serve"
    assert host.seen[1:] == [["serve", "-d"]]
    assert host.kwargs[1] == {"pass_fds": (7,)}


def test_it_says_itself_why_it_cannot_be_started(place: pathlib.Path) -> None:
    with pytest.raises(CommandFailed, match=r"it could not be started.*serve is broken"):
        Host(failing=["systemd-run", "serve"]).start()


def test_a_user_who_goes_with_the_last_session_has_no_scope(ordinary: pathlib.Path) -> None:
    host = Host()
    assert not systemd.lingers()
    assert host.start() == "serve"


def test_a_user_who_lingers_has_one_of_the_own_manager(ordinary: pathlib.Path) -> None:
    (ordinary / "linger" / "nobody").touch()
    (ordinary / "user" / "65534").mkdir()
    host = Host()
    assert host.start() == "systemd-run"
    assert host.seen[0][:3] == ["systemd-run", "--user", "--scope"]
    assert host.kwargs[0]["env"] == {"XDG_RUNTIME_DIR": str(ordinary / "user" / "65534")}


def test_a_user_without_name_does_not_linger(place: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 3999999999)
    assert not systemd.lingers()
    assert systemd.manager_env() == {}
