# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys

import pytest

from ansible_collections.minicloud.local.plugins.module_utils import _command
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._guest import sshfs
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import SshAccess
from ansible_collections.minicloud.local.plugins.module_utils._host import folder_server
from ansible_collections.minicloud.local.plugins.module_utils._model import DEFAULT_ID, Mount
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime

ACCESS = SshAccess("192.0.2.1", 22, "debian", "/key", "/known", "alias")
NOT_HERE = pytest.mark.skipif(
    platform.system() != "Linux" or not folder_server.can_enclose(platform.machine()),
    reason="folders are served on Linux on certain processors",
)


@pytest.fixture(name="folder")
def _folder(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


def mount_of(folder, **options):
    return Mount(str(folder), "/mnt/x", "classic", **options)


# Says what the server would, and holds the lock as it does.
STUB = """
import json, sys, time
with open(sys.argv[1] + ".state", "w") as stream:
    json.dump({{"state": {state!r}, "said": {said!r}}}, stream)
if {stays}:
    time.sleep(60)
"""


@pytest.fixture(name="stub")
def _stub(monkeypatch):
    def stub(state, said="", stays=True):
        monkeypatch.setattr(sshfs, "_program", lambda: STUB.format(state=state, said=said, stays=stays).encode())
        monkeypatch.setattr(sshfs, "sftp_server", lambda: "/usr/lib/openssh/sftp-server")

    return stub


@NOT_HERE
def test_a_folder_is_served_until_it_is_not_wanted(stub, tmp_path, folder):
    stub(folder_server.MOUNTED)
    runtime = Runtime(_command.run)
    assert not sshfs.is_served(str(tmp_path), "/mnt/x")
    sshfs.serve(runtime, str(tmp_path), ACCESS, mount_of(folder), "web")
    assert sshfs.is_served(str(tmp_path), "/mnt/x")
    first = next((tmp_path / "mounts").glob("*.pid")).read_text()
    sshfs.serve(runtime, str(tmp_path), ACCESS, mount_of(folder), "web")
    assert next((tmp_path / "mounts").glob("*.pid")).read_text() != first
    sshfs.stop_all(str(tmp_path))
    assert not sshfs.is_served(str(tmp_path), "/mnt/x")
    assert os.listdir(tmp_path / "mounts") == ["server.py"]
    sshfs.stop_serving(str(tmp_path), "/mnt/x")


@NOT_HERE
@pytest.mark.parametrize(
    ("said", "match"),
    [
        ("one\ntwo\x1b[2J\n", r"one; two\?\[2J"),
        ("", "has ended"),
        (f"{folder_server.IS_INSTALLING}\nno package", "no package"),
    ],
)
def test_what_a_guest_says_is_the_reason(stub, tmp_path, folder, said, match):
    stub(folder_server.FAILED, said, False)
    with pytest.raises(HypervisorError, match=match):
        sshfs.serve(Runtime(_command.run), str(tmp_path), ACCESS, mount_of(folder), "web")
    assert os.listdir(tmp_path / "mounts") == ["server.py"]


@NOT_HERE
@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": 3}', "x" * 100000, '{"state": {"state": "mounted"}}'])
def test_odd_states_tell_nothing(stub, tmp_path, folder, content):
    stub(folder_server.MOUNTED)
    sshfs.serve(Runtime(_command.run), str(tmp_path), ACCESS, mount_of(folder), "web")
    next((tmp_path / "mounts").glob("*.state")).write_text(content)
    assert not sshfs.is_served(str(tmp_path), "/mnt/x")
    sshfs.stop_all(str(tmp_path))


def config_of(folder, monkeypatch, uid, said="1000\n1001\n", **options):
    monkeypatch.setattr(sshfs, "sftp_server", lambda: "/usr/lib/openssh/sftp-server")
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(os, "getegid", lambda: uid)
    runtime = Runtime(lambda argv, **kwargs: Completed(0, said, ""))
    return sshfs.identities(runtime, ACCESS, mount_of(folder, **options))


@NOT_HERE
def test_maps(folder, monkeypatch):
    own = os.stat(folder).st_uid
    found = config_of(folder, monkeypatch, 1234)
    assert (found["uids"], found["uid"], found["may_set_groups"]) == ([[1234, 1234, 1]], 1234, False)
    found = config_of(folder, monkeypatch, 1234, uid_map=[(1234, DEFAULT_ID)], gid_map=[(1234, DEFAULT_ID)])
    assert (found["uids"], found["uid"], found["gids"], found["gid"]) == (
        [[1000, 1234, 1]],
        1000,
        [[1001, 1234, 1]],
        1001,
    )
    found = config_of(folder, monkeypatch, 0, uid_map=[(5, 6), (own, 7)])
    assert (found["uids"], found["uid"], found["gid"]) == ([[6, 5, 1], [7, own, 1]], 7, os.stat(folder).st_gid)
    found = config_of(folder, monkeypatch, 0, uid_map=[(own + 1, 6)])
    assert found["uid"] == 6
    found = config_of(folder, monkeypatch, 0)
    assert found["uids"][0][0] == found["uids"][0][1]
    with pytest.raises(HypervisorError, match="ids of the guest"):
        config_of(folder, monkeypatch, 0, "root\n0\n", uid_map=[(own, DEFAULT_ID)])


@NOT_HERE
def test_read_only_and_odd_targets(folder, monkeypatch):
    mount = {"source": str(folder), "target": "/mnt/a 'b' $(x) \\ ü", "type": "classic", "read_only": True}
    monkeypatch.setattr(sshfs, "sftp_server", lambda: "/usr/lib/openssh/sftp-server")
    given = []
    monkeypatch.setattr(sshfs, "start_serving", lambda *arguments: given.append(arguments[4]))
    monkeypatch.setattr(sshfs, "await_mounted", lambda *arguments: None)
    sshfs.serve(Runtime(_command.run), str(folder), ACCESS, Mount(**mount), "web")
    (found,) = given
    assert found["server"][-1] == "-R"
    json.dumps(found)
    script = found["ssh"][-1]
    assert "allow_other,default_permissions,ro" in script
    # A shell reads the target as it is.
    told = subprocess.run(
        ["sh", "-c", f'sh() {{ printf %s "$2"; }}; {script}'], capture_output=True, check=True, text=True
    ).stdout
    own = told.partition("PATH=")[0] + 'printf "%s|%s" "$t" "$e"'
    told = subprocess.run(["sh", "-c", own], capture_output=True, check=True).stdout
    assert told.decode() == "/mnt/a 'b' $(x) \\ ü|/mnt/a\\040'b'\\040$(x)\\040\\134\\040ü"
    for script in (sshfs._MOUNT, sshfs._UNMOUNT):
        text = script.format(target="'/x'", escaped="'/x'", read_only="", lazily="", kind="fuse.sshfs", stem="x")
        subprocess.run(["sh", "-n", "-c", text], check=True)


def test_why_not(folder, monkeypatch):
    monkeypatch.setattr(sshfs, "sftp_server", lambda: "")
    if sys.platform == "linux" and folder_server.can_enclose(platform.machine()):
        assert "openssh-sftp-server" in sshfs.why_not(mount_of(folder))
        monkeypatch.setattr(sshfs, "sftp_server", lambda: "/x")
        assert "kernel" in sshfs.why_not(mount_of("/proc/self"))
        with contextlib.suppress(AttributeError):
            monkeypatch.setattr(os, "geteuid", lambda: 1234)
            assert "only root" in sshfs.why_not(mount_of(folder, uid_map=[(1, 2)]))
            assert not sshfs.why_not(mount_of(folder, uid_map=[(1234, 2)]))
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert "riscv64" in sshfs.why_not(mount_of(folder))
