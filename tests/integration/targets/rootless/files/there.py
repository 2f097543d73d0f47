# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Another host with a libvirt of its own, which is reached by TCP: namespaces of the network, the name and the mounts.

make DIRECTORY HIDDEN USER...: makes it, with what its daemons say in DIRECTORY. It has all files of this host but those
in HIDDEN. Of this host only root and some users reach its libvirt, which asks nobody for anything.
remove DIRECTORY: ends all that runs on it, and takes it away.
processes: says of each process on it whose it is, and its program.
"""

from __future__ import annotations

import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import sys
import time

NAME, HERE, THERE, PORT = "mc-there", "10.41.5.1", "10.41.5.2", 16509

CONFIG = f"""
listen_tls = 0
listen_tcp = 1
listen_addr = "{THERE}"
auth_tcp = "none"
"""

# Its daemons know nothing of those of this host, nor of what these have.
DAEMONS = """
set -e
hostname there
mount -t tmpfs hidden "$2"
for place in etc/libvirt/storage etc/libvirt/qemu run/libvirt var/lib/libvirt var/cache/libvirt var/log/libvirt; do
    mkdir -p /$place
    mount -t tmpfs there /$place
done
mkdir /run/libvirt/common
virtlogd --daemon --pid-file "$1/virtlogd.pid"
exec libvirtd --listen --config "$1/libvirtd.conf" --pid-file "$1/libvirtd.pid"
"""

RULES = f"""
table inet {NAME} {{
    chain output {{
        type filter hook output priority 0
        ip daddr {THERE} tcp dport {PORT} meta skuid != {{ 0, %s }} reject
    }}
}}
"""


def ip(words: str, fail: bool = True) -> str:
    done = subprocess.run(["ip", *words.split()], check=fail, capture_output=True, text=True)
    return done.stdout


def make(directory: str, hidden: str, *users: str) -> None:
    remove(directory)
    rules = RULES % ", ".join(str(pwd.getpwnam(user).pw_uid) for user in users)
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
    os.makedirs(directory)
    with open(os.path.join(directory, "libvirtd.conf"), "w", encoding="ascii") as stream:
        stream.write(CONFIG)
    ip(f"netns add {NAME}")
    ip(f"link add {NAME} type veth peer name up0 netns {NAME}")
    ip(f"address add {HERE}/24 dev {NAME}")
    ip(f"link set {NAME} up")
    ip(f"-n {NAME} address add {THERE}/24 dev up0")
    ip(f"-n {NAME} link set up0 up")
    ip(f"-n {NAME} link set lo up")
    argv = ["ip", "netns", "exec", NAME, "unshare", "--uts", "--mount", "--propagation", "private"]
    path = os.path.join(directory, "log")
    with open(path, "wb") as log:
        daemon = subprocess.Popen(
            [*argv, "sh", "-c", DAEMONS, "sh", directory, hidden],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    end = time.monotonic() + 120
    while True:
        try:
            socket.create_connection((THERE, PORT), timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end or daemon.poll() is not None:
                with open(path, errors="replace", encoding="utf-8") as said:
                    print(said.read())
                raise
            time.sleep(0.2)


def remove(directory: str) -> None:
    tries = 10
    while (left := pids()) and tries:  # what ends may just have started something
        for pid in left:
            end(pid)
        tries -= 1
    if left:
        raise SystemExit(f"{NAME} still has the processes {left}")
    subprocess.run(["nft", "delete", "table", "inet", NAME], check=False, stderr=subprocess.DEVNULL)
    ip(f"link delete {NAME}", fail=False)
    ip(f"netns delete {NAME}", fail=False)
    shutil.rmtree(directory, ignore_errors=True)


def pids() -> list[int]:
    """The processes on the other host: only what was started there is in its namespace."""
    return [int(word) for word in ip(f"netns pids {NAME}", fail=False).split()]


def end(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], 30)
        finally:
            os.close(handle)
    except ProcessLookupError:
        pass


def processes() -> None:
    for pid in pids():
        subprocess.run(["ps", "-o", "user:20=,comm=", "-p", str(pid)], check=False)


if __name__ == "__main__":
    {"make": make, "remove": remove, "processes": processes}[sys.argv[1]](*sys.argv[2:])
