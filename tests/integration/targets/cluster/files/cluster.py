# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A cluster of two LXD servers on one host, each in a network namespace of its own: cluster.py up|down DIRECTORY

The members m1 and m2 have the addresses 198.18.97.1 and 198.18.97.2, on a bridge that this host is on as well. Going up
prints, as JSON, what a client needs: endpoint, cert, key, verify, and the directories of the members.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import typing as t

BRIDGE = "mctestbr"
HOST = "198.18.97.254/24"
MEMBERS = {"m1": "198.18.97.1", "m2": "198.18.97.2"}


def run(*argv: str, stdin: str = "", member: str = "", check: bool = True) -> str:
    """The output of a command; of one for the LXD of a member where that is named."""
    env = {**os.environ, "LC_ALL": "C", "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    if member:
        env["LXD_DIR"] = directory(member)
    done = subprocess.run(argv, input=stdin, env=env, capture_output=True, text=True, timeout=240, check=False)
    if check and done.returncode != 0:
        raise SystemExit(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def directory(member: str) -> str:
    return os.path.join(TOP, member)


def namespace(member: str) -> str:
    return f"mctest-{member}"


def up() -> None:
    down()
    os.makedirs(TOP, mode=0o711)
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "address", "add", HOST, "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    for member, address in MEMBERS.items():
        connect(member, address)
        start(member)
    first, second = MEMBERS
    preseed = {
        "config": {"core.https_address": f"{MEMBERS[first]}:8443"},
        "cluster": {"enabled": True, "server_name": first},
    }
    run("lxd", "init", "--preseed", stdin=json.dumps(preseed), member=first)
    token = run("lxc", "cluster", "add", second, member=first).split()[-1]
    joining = {
        "enabled": True,
        "server_name": second,
        "server_address": f"{MEMBERS[second]}:8443",
        "cluster_token": token,
    }
    run("lxd", "init", "--preseed", stdin=json.dumps({"cluster": joining}), member=second)
    cert, key = os.path.join(TOP, "client.crt"), os.path.join(TOP, "client.key")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run("openssl", "req", "-x509", *curve, "-keyout", key, "-out", cert, "-subj", "/CN=minicloud-test", "-days", "2")
    access = {
        "endpoint": f"https://{MEMBERS[first]}:8443",
        "cert": cert,
        "key": key,
        "verify": os.path.join(directory(first), "cluster.crt"),
        "members": {member: directory(member) for member in MEMBERS},
    }
    print(json.dumps(access))


def connect(member: str, address: str) -> None:
    """A network namespace with one leg on the bridge."""
    name, leg = namespace(member), f"mctest{member}"
    run("ip", "netns", "add", name)
    run("ip", "link", "add", leg, "type", "veth", "peer", "name", "eth0", "netns", name)
    run("ip", "link", "set", leg, "master", BRIDGE, "up")
    for arguments in (
        ["link", "set", "lo", "up"],
        ["address", "add", f"{address}/24", "dev", "eth0"],
        ["link", "set", "eth0", "up"],
        ["route", "add", "default", "via", HOST.partition("/")[0]],
    ):
        run("ip", "-n", name, *arguments)


# The namespace's own interfaces in /sys, and the control groups as well, which `ip netns exec` would hide.
LAUNCHER = """
mkdir -p "$1"
mount --rbind /sys/fs/cgroup "$1"
mount -t sysfs sysfs /sys
mount --rbind "$1" /sys/fs/cgroup
exec lxd --logfile "$2"
"""


def start(member: str) -> None:
    """The LXD of a member. What it mounts is in a namespace of its own, and goes with its last process."""
    os.makedirs(directory(member), mode=0o711)
    launcher = ["sh", "-ec", LAUNCHER, "sh", os.path.join(TOP, f"{member}.cgroup"), os.path.join(TOP, f"{member}.log")]
    with open(os.path.join(TOP, f"{member}.out"), "w", encoding="utf-8") as out:
        process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{namespace(member)}", "unshare", "--mount", *launcher],
            env={**os.environ, "LXD_DIR": directory(member)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    with open(os.path.join(TOP, f"{member}.pid"), "w", encoding="ascii") as file:
        file.write(str(process.pid))
    run("lxd", "waitready", "--timeout", "60", member=member)


def down() -> None:
    """Take away whatever is there of it."""
    for member in MEMBERS:
        pid = pid_of(member)
        if pid and alive(pid):
            run("timeout", "60", "lxd", "shutdown", "--timeout", "20", member=member, check=False)
            for number in (signal.SIGTERM, signal.SIGKILL):
                if wait_gone(pid, 15):
                    break
                os.kill(pid, number)
        for process in inside(member):
            os.kill(process, signal.SIGKILL)
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = file.read().splitlines()
    for line in reversed(mounts):
        path = line.split()[4].replace("\\040", " ")
        if path.startswith(f"{TOP}/"):
            run("umount", "-l", path, check=False)
    for line in run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE", check=False).splitlines():
        device, dummy, backing = line.partition(" ")
        if backing.strip().startswith(f"{TOP}/"):
            run("losetup", "--detach", device, check=False)
    for member in MEMBERS:
        if os.path.exists(f"/run/netns/{namespace(member)}"):
            run("ip", "netns", "delete", namespace(member))
        if os.path.exists(f"/sys/class/net/mctest{member}"):
            run("ip", "link", "delete", f"mctest{member}", check=False)  # it goes with the namespace, by and by
    if os.path.exists(f"/sys/class/net/{BRIDGE}"):
        run("ip", "link", "delete", BRIDGE)
    shutil.rmtree(TOP, ignore_errors=True)


def pid_of(member: str) -> int:
    """The process that start() has started, if it is still one of LXD."""
    try:
        with open(os.path.join(TOP, f"{member}.pid"), encoding="ascii") as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return pid if b"lxd" in file.read() else 0
    except (OSError, ValueError):
        return 0


def inside(member: str) -> t.Iterator[int]:
    """The processes that are left in the namespace of a member, such as name servers."""
    for word in run("ip", "netns", "pids", namespace(member), check=False).split():
        yield int(word)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_gone(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while alive(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("up", "down"):
        raise SystemExit(__doc__)
    TOP = os.path.abspath(sys.argv[2])
    {"up": up, "down": down}[sys.argv[1]]()
