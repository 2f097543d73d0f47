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
import sys

# Beside this file.
from lxd_server import Server, run, sweep

BRIDGE = "mctestbr"
HOST = "198.18.97.254/24"
MEMBERS = {"m1": "198.18.97.1", "m2": "198.18.97.2"}


def up() -> None:
    down()
    os.makedirs(TOP, mode=0o711)
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "address", "add", HOST, "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    for server in SERVERS:
        connect(server)
        server.start()
    first, second = SERVERS
    preseed = {
        "config": {"core.https_address": f"{MEMBERS[first.name]}:8443"},
        "cluster": {"enabled": True, "server_name": first.name},
    }
    first.run("lxd", "init", "--preseed", stdin=json.dumps(preseed))
    token = first.run("lxc", "cluster", "add", second.name).split()[-1]
    joining = {
        "enabled": True,
        "server_name": second.name,
        "server_address": f"{MEMBERS[second.name]}:8443",
        "cluster_token": token,
    }
    second.run("lxd", "init", "--preseed", stdin=json.dumps({"cluster": joining}))
    cert, key = os.path.join(TOP, "client.crt"), os.path.join(TOP, "client.key")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run("openssl", "req", "-x509", *curve, "-keyout", key, "-out", cert, "-subj", "/CN=minicloud-test", "-days", "2")
    access = {
        "endpoint": f"https://{MEMBERS[first.name]}:8443",
        "cert": cert,
        "key": key,
        "verify": os.path.join(first.directory, "cluster.crt"),
        "members": {server.name: server.directory for server in SERVERS},
    }
    print(json.dumps(access))


def connect(server: Server) -> None:
    """A network namespace with one leg on the bridge."""
    name, leg, address = server.namespace, f"mctest{server.name}", MEMBERS[server.name]
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


def down() -> None:
    """Take away whatever is there of it."""
    for server in SERVERS:
        server.end()
    sweep(SERVERS)
    for server in SERVERS:
        if os.path.exists(f"/run/netns/{server.namespace}"):
            run("ip", "netns", "delete", server.namespace)
        if os.path.exists(f"/sys/class/net/mctest{server.name}"):
            run("ip", "link", "delete", f"mctest{server.name}", check=False)  # it goes with the namespace, by and by
    if os.path.exists(f"/sys/class/net/{BRIDGE}"):
        run("ip", "link", "delete", BRIDGE)
    shutil.rmtree(TOP, ignore_errors=True)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("up", "down"):
        raise SystemExit(__doc__)
    TOP = os.path.abspath(sys.argv[2])
    SERVERS = [Server(TOP, name, f"mctest-{name}") for name in MEMBERS]
    {"up": up, "down": down}[sys.argv[1]]()
