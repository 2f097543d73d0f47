# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._host import folder_server

PYTHON = "/usr/bin/python3"

# What is enclosed in the place of the server of files: it tells what it sees and may do.
PROBE = r"""
import ctypes, json, os, socket, sys
found = {"uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(), "pid": os.getpid()}
found["root"] = sorted(os.listdir("/"))
found["folder"] = sorted(os.listdir("/folder"))
found["names"] = sorted({name for dummy, name in socket.if_nameindex()})
def may(act, *arguments):
    try:
        act(*arguments)
    except OSError as exc:
        return exc.strerror
    return "yes"
open("/folder/mine", "w").close()
os.makedirs("/folder/made", exist_ok=True)
found["owner"] = [os.stat("/folder/mine").st_uid, os.stat("/folder/mine").st_gid]
found["outside"] = may(open, "/folder/outside")
found["above"] = os.listdir("/folder/../etc")
found["write_above"] = may(open, "/etc/x", "w")
found["setuid"] = may(os.chmod, "/folder/mine", 0o4755)
found["setgid"] = may(os.chmod, "/folder/made", 0o2755)
found["mode"] = may(os.chmod, "/folder/mine", 0o751)
found["new_setuid"] = may(os.open, "/folder/new", os.O_CREAT | os.O_WRONLY, 0o4755)
found["plain_open"] = may(os.open, "/folder/mine", os.O_RDONLY, 0o4755)
found["device"] = may(os.mknod, "/folder/device", 0o20600, os.makedev(1, 3))
found["mount"] = may(lambda: None if ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0
                     else (_ for _ in ()).throw(OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))))
status = dict(line.split(":\t", 1) for line in open("/proc/self/status")) if os.path.exists("/proc/self") else {}
found["proc"] = sorted(status)
print(json.dumps(found), flush=True)
sys.stdin.read()
"""

# In the place of ssh and the guest: notes what the server says, and stays until it is told to go.
GUEST = f"""
import sys, time, os
line = sys.stdin.readline()
if not line:
    sys.exit(1)
with open(sys.argv[1] + ".new", "w") as stream:
    stream.write(line)
os.replace(sys.argv[1] + ".new", sys.argv[1])
sys.stderr.write("{folder_server.IS_MOUNTED}\\n")
sys.stderr.flush()
while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
os.unlink(sys.argv[2])
"""


def can_make_namespaces() -> bool:
    argv = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/sys"]
    with contextlib.suppress(OSError):
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    return False


pytestmark = [
    pytest.mark.skipif(
        platform.system() != "Linux" or not folder_server.can_enclose(platform.machine()),
        reason="folders are served on Linux on certain processors",
    ),
    pytest.mark.skipif(not can_make_namespaces(), reason="this host lets this user make no namespaces"),
    pytest.mark.skipif(not os.access(PYTHON, os.X_OK), reason="what is enclosed is the system's own Python"),
]


def awaited(act, seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = act()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("it did not come about")


def gone(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="ascii") as stream:
        return stream.read().rpartition(")")[2].split()[0] == "Z"
    return True


class Served:
    def __init__(self, tmp_path, **changes):
        self.tmp_path = tmp_path
        self.folder = tmp_path / "folder"
        self.folder.mkdir()
        (self.folder / "file").write_text("content")
        (tmp_path / "secret").write_text("secret")
        (self.folder / "outside").symlink_to("../secret")
        uid, gid = os.geteuid(), os.getegid()
        self.config = {
            "source": str(self.folder),
            "ssh": [sys.executable, "-c", GUEST, str(tmp_path / "said"), str(tmp_path / "go")],
            "server": [os.path.realpath(PYTHON), "-I", "-S", "-c", PROBE],
            "uids": [[7, uid, 1]],
            "gids": [[8, gid, 1]],
            "uid": 7,
            "gid": 8,
            "read_only": False,
            "listens": False,
            "may_set_groups": uid == 0,
            **changes,
        }
        (tmp_path / "x.json").write_text(json.dumps(self.config))
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", folder_server.__file__, "x"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )

    def state(self):
        with contextlib.suppress(OSError):
            return json.loads((self.tmp_path / "x.state").read_text())
        return {"state": "", "said": ""}

    def mounted(self):
        awaited(lambda: self.state()["state"] == folder_server.MOUNTED or self.process.poll() is not None)
        assert self.state()["state"] == folder_server.MOUNTED, (self.state(), self.process.poll())
        return json.loads((self.tmp_path / "said").read_text())

    def children(self):
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        with open(path, encoding="ascii") as stream:
            return [int(word) for word in stream.read().split()]

    def end(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture(name="serve")
def _serve(tmp_path):
    made = []

    def serve(**changes):
        made.append(Served(tmp_path, **changes))
        return made[-1]

    yield serve
    for each in made:
        each.end()


def test_what_serves_a_folder_sees_and_may_do_nothing_else(serve):
    served = serve()
    found = served.mounted()
    assert (found["uid"], found["gid"], found["groups"] if os.geteuid() == 0 else []) == (7, 8, [])
    assert found["pid"] == 1
    assert {"folder", "etc", "dev", "usr"} <= set(found["root"]) <= {
        *("folder", "etc", "dev", "usr", "lib", "lib32", "lib64", "libx32", "nix", "gnu"),
    }  # fmt: skip
    assert found["folder"] == ["file", "outside"]
    assert found["names"] == ["lo"]
    assert found["owner"] == [7, 8]
    assert found["outside"] == "No such file or directory"
    assert set(found["above"]) <= {"passwd", "group", "ld.so.cache"}
    assert found["write_above"] in ("Read-only file system", "Permission denied")
    assert found["setuid"] == found["setgid"] == found["new_setuid"] == "Operation not permitted"
    assert found["mode"] == found["plain_open"] == "yes"
    assert found["device"] != "yes"
    assert found["proc"] == []
    mine = os.stat(served.folder / "mine")
    assert (mine.st_uid, mine.st_gid, mine.st_mode & 0o7777) == (os.geteuid(), os.getegid(), 0o751)


def test_a_folder_that_is_only_read(serve):
    served = serve(read_only=True)
    awaited(lambda: served.process.poll() is not None)
    assert "Read-only file system" in served.state()["said"]
    assert sorted(os.listdir(served.folder)) == ["file", "outside"]


def test_a_guest_that_comes_back_is_served_again(serve, tmp_path):
    served = serve()
    served.mounted()
    before = served.children()
    (tmp_path / "go").touch()
    awaited(lambda: not (tmp_path / "go").exists())
    awaited(lambda: served.state()["state"] == folder_server.WAITING)
    served.mounted()
    assert not set(before) & set(served.children())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_it_has_started_ends_with_it(serve, number):
    served = serve()
    served.mounted()
    children = served.children()
    assert len(children) == 2
    served.process.send_signal(number)
    served.process.wait(10)
    awaited(lambda: all(map(gone, children)))


def test_a_guest_that_cannot_mount_it_is_no_reason_to_go_on(serve):
    served = serve(ssh=[sys.executable, "-c", "import sys; sys.exit('no sshfs here')"])
    served.process.wait(20)
    assert served.state() == {"state": folder_server.FAILED, "said": "no sshfs here"}


@pytest.mark.parametrize("change", ["replaced", "removed", "unwanted"])
def test_it_ends_once_what_it_serves_is_not_what_is_meant(serve, tmp_path, change):
    served = serve()
    served.mounted()
    if change == "unwanted":
        (tmp_path / "x.json").unlink()
    else:
        os.rename(served.folder, tmp_path / "away")
    if change == "replaced":
        served.folder.mkdir()
    (tmp_path / "go").touch()
    served.process.wait(20)
    assert served.state()["state"] == folder_server.FAILED
    expected = {"replaced": "another folder", "removed": "No such file", "unwanted": ""}[change]
    assert expected in served.state()["said"]


def test_a_guest_cannot_fill_what_is_noted_of_it(serve):
    served = serve(ssh=[sys.executable, "-c", "import sys; sys.stderr.write('x' * 3000000); sys.exit(1)"])
    served.process.wait(20)
    assert len((served.tmp_path / "x.state").read_text()) < 5000


@pytest.mark.skipif(os.geteuid() != 0, reason="other ids than one's own are for root")
def test_ids_are_mapped_one_to_one(serve, tmp_path):
    os.chown(tmp_path, 0, 0)
    served = serve(uids=[[0, 1000, 1], [70, 1001, 1]], gids=[[0, 1000, 1]], uid=0, gid=0)
    awaited(lambda: served.process.poll() is not None or served.state()["state"] == folder_server.MOUNTED)
    # The folder is root's, whom the guest is not: it may read it as others may.
    assert "Permission denied" in served.state()["said"]
