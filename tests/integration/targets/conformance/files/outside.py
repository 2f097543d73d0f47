# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is outside: another machine, as a network namespace beside this host.

make: makes it, with an address for both ends; remove: takes both away.
listen: something of the host's own that answers at its end, in the foreground, for five minutes at most.
call ADDRESS:PORT...: says as JSON how that begins which answers a call from outside; it is empty where nothing does.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

NAME, HOST, OUTSIDE, PORT = "mc-outside", "10.41.8.1", "10.41.8.2", 8417


def ip(words: str, fail: bool = True) -> None:
    subprocess.run(["ip", *words.split()], check=fail, stderr=None if fail else subprocess.DEVNULL)


def make() -> None:
    remove()
    ip(f"netns add {NAME}")
    ip(f"link add {NAME} type veth peer name up0 netns {NAME}")
    ip(f"address add {HOST}/24 dev {NAME}")
    ip(f"link set {NAME} up")
    ip(f"-n {NAME} address add {OUTSIDE}/24 dev up0")
    ip(f"-n {NAME} link set up0 up")


def remove() -> None:
    if os.path.exists(f"/run/netns/{NAME}"):
        with contextlib.suppress(OSError), socket.create_connection((HOST, PORT), timeout=5) as service:
            service.sendall(b"end")
    ip(f"link delete {NAME}", fail=False)
    ip(f"netns delete {NAME}", fail=False)


def listen() -> None:
    signal.alarm(300)
    with socket.create_server((HOST, PORT)) as server:
        while True:
            with server.accept()[0] as connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                connection.sendall(b"host\n")
                if connection.recv(3) == b"end":
                    return


def call(*targets: str) -> None:
    # Now it knows the way to everything behind the host, too.
    ip(f"-n {NAME} route replace default via {HOST}")
    os.execvp("nsenter", ["nsenter", f"--net=/run/netns/{NAME}", sys.executable, __file__, "ask", *targets])


def ask(*targets: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(len(targets)) as pool:
        print(json.dumps(dict(zip(targets, pool.map(banner, targets)))))


def banner(target: str) -> str:
    address, dummy, port = target.rpartition(":")
    end = time.monotonic() + 3
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((address, int(port)), timeout=3) as connection:
            return connection.recv(4).decode(errors="replace")
        time.sleep(0.2)
    return ""


if __name__ == "__main__":
    {"make": make, "remove": remove, "listen": listen, "call": call, "ask": ask}[sys.argv[1]](*sys.argv[2:])
