# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import threading
import typing as t
from pathlib import Path

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import Busy, InvalidOption, RecordError
from ansible_collections.minicloud.local.plugins.module_utils._guest.keys import (
    HOST_KEY,
    ensure_login_key,
    locked,
    make_host_key,
    pinned_keys,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")


class Runner:
    """Runs commands for real and remembers them."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []

    def __call__(self, argv: t.Sequence[str], **kwargs: t.Any) -> Completed:
        self.ran.append(list(argv))
        done = subprocess.run(list(argv), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        return Completed(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def runner() -> Runner:
    return Runner()


@pytest.fixture
def runtime(runner: Runner) -> Runtime:
    return Runtime(runner)


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def public_of(path: str) -> str:
    done = subprocess.run(["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=True)
    return " ".join(done.stdout.split()[:2])


def test_made_once(tmp_path: Path, runtime: Runtime, runner: Runner) -> None:
    directory = str(tmp_path / "data" / "keys")
    key = ensure_login_key(runtime, directory)
    assert key.public == f"{public_of(key.private_path)} minicloud"
    assert mode(directory) == 0o700
    assert mode(key.private_path) == 0o600
    ran = len(runner.ran)
    assert ensure_login_key(runtime, directory) == key
    assert len(runner.ran) == ran
    assert sorted(os.listdir(directory)) == [".lock", "id_ed25519", "id_ed25519.pub"]


def test_many_at_once_end_with_one_pair(tmp_path: Path, runtime: Runtime) -> None:
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(ensure_login_key(runtime, str(tmp_path / "keys"))))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    assert found[0].public.startswith(public_of(found[0].private_path))


def test_a_killed_run_before_the_key_was_in_place(tmp_path: Path, runtime: Runtime) -> None:
    left = tmp_path / ".new-key-x"
    left.mkdir()
    (left / "key").write_text("half")
    (tmp_path / "id_ed25519").write_text("")
    key = ensure_login_key(runtime, str(tmp_path))
    assert not left.exists()
    assert key.public.startswith(public_of(key.private_path))


def test_a_killed_run_before_the_public_half_was_in_place(tmp_path: Path, runtime: Runtime) -> None:
    key = ensure_login_key(runtime, str(tmp_path))
    os.unlink(f"{key.private_path}.pub")
    assert ensure_login_key(runtime, str(tmp_path)) == key
    Path(f"{key.private_path}.pub").write_text("")
    assert ensure_login_key(runtime, str(tmp_path)) == key


def test_open_permissions_are_closed(tmp_path: Path, runtime: Runtime) -> None:
    key = ensure_login_key(runtime, str(tmp_path))
    os.chmod(key.private_path, 0o644)
    os.chmod(tmp_path, 0o755)
    ensure_login_key(runtime, str(tmp_path))
    assert mode(key.private_path) == 0o600
    assert mode(tmp_path) == 0o700


@pytest.mark.parametrize("content", ["", "garbage\n", None])
def test_a_pair_in_use_that_lost_its_private_half(tmp_path: Path, runtime: Runtime, content: str | None) -> None:
    key = ensure_login_key(runtime, str(tmp_path))
    if content is None:
        os.unlink(key.private_path)
    else:
        Path(key.private_path).write_text(content)
    with pytest.raises(RecordError, match=r"id_ed25519 is damaged.*backup"):
        ensure_login_key(runtime, str(tmp_path))
    assert Path(f"{key.private_path}.pub").read_text().strip() == key.public


def test_a_truncated_private_key(tmp_path: Path, runtime: Runtime) -> None:
    key = ensure_login_key(runtime, str(tmp_path))
    content = Path(key.private_path).read_text()
    Path(key.private_path).write_text(content[: len(content) // 2])
    os.unlink(f"{key.private_path}.pub")
    with pytest.raises(RecordError, match="damaged"):
        ensure_login_key(runtime, str(tmp_path))


def test_host_key(tmp_path: Path, runtime: Runtime) -> None:
    key = make_host_key(runtime, str(tmp_path), "web")
    assert key.kind == "ed25519"
    assert key.private.startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert key.private == (tmp_path / HOST_KEY).read_text()
    assert key.public == f"{public_of(str(tmp_path / HOST_KEY))} web"
    assert make_host_key(runtime, str(tmp_path), "web") == key


@pytest.mark.parametrize(("kind", "name"), [("ecdsa", "ecdsa"), ("rsa", "rsa"), ("ed25519", "ed25519")])
def test_pinned_keys_of_given_private_keys(tmp_path: Path, runtime: Runtime, kind: str, name: str) -> None:
    path = str(tmp_path / "given")
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path], check=True)
    place = tmp_path / "place"
    pinned = pinned_keys(runtime, str(place), ["ssh-rsa AAAA comment"], [Path(path).read_text().strip()])
    assert pinned == ["ssh-rsa AAAA", public_of(path)]
    assert list(place.iterdir()) == []


def test_pinned_keys_of_what_is_no_key(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(InvalidOption, match="not usable"):
        pinned_keys(runtime, str(tmp_path), [], ["PEM"])
    with pytest.raises(InvalidOption, match="install PyYAML"):
        pinned_keys(runtime, str(tmp_path), [], [])


def test_a_lock_that_somebody_keeps_is_not_waited_for_without_end(tmp_path):
    path = str(tmp_path / "lock")
    with locked(path), pytest.raises(Busy, match="was not free within"), locked(path, 0.1):
        pass
    with locked(path, 0.1):
        pass
