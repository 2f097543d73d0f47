# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection on libvirt and LXD beside what its users would take instead.

That is community.libvirt and community.general, from the package `ansible`, with virt-install of the distribution, and
the command lxc. Both sides run on the same ansible-core, the same Python and the same hypervisor.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import time
import typing as t

from frame import (
    BOOT_LIMIT,
    USER,
    Bench,
    Row,
    change,
    change_network,
    in_turns,
    into_vault,
    no_change_rows,
    quantity,
    ratio_row,
    verdict,
)

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.networks import DATA_DIR
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.pools import POOL
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

PEER = f"bench-peer-{os.getpid()}"
DOMAINS = 200
CONTAINERS = 60


class Peers:
    """The other collections, and how a task of either side is run."""

    def __init__(self, bench: Bench, driver: str) -> None:
        self.bench = bench
        self.python = os.path.join(bench.args.peers, "bin", "python")
        (site,) = glob.glob(os.path.join(bench.args.peers, "lib", "python3*", "site-packages"))
        self.env = {
            "ANSIBLE_COLLECTIONS_PATH": os.pathsep.join([bench.env["ANSIBLE_COLLECTIONS_PATH"], site]),
            "ANSIBLE_PYTHON_INTERPRETER": self.python,
        }
        self.data = bench.data(driver)
        self.driver = driver

    def play(self, name: str, tasks: list[dict[str, t.Any]], count: int | None = None) -> tuple[float, float]:
        """Seconds and seconds of processor of a playbook with tasks, each of them COUNT times."""
        return self.bench.play(name, tasks, self.data, count, self.python, **self.env)

    def inventory(self, name: str, config: dict[str, t.Any], data: DataDirectory | None = None) -> tuple[float, int]:
        """Seconds that an inventory takes to be read, and how many hosts it has."""
        source = self.bench.path("inventories", name)
        with open(source, "w", encoding="utf-8") as file:
            json.dump(config, file)
        plugins = {"ANSIBLE_INVENTORY_ENABLED": config["plugin"]}
        argv = ["ansible", "-i", source, "all", "--list-hosts"]
        seconds, dummy, output = self.bench.program(argv, data or self.data, **self.env, **plugins)
        return seconds, sum(line.startswith("    ") for line in output.splitlines())

    def beyond(
        self, figure: str, ours: dict[str, t.Any], theirs: dict[str, t.Any], files: tuple[str, str], bound: float
    ) -> Row:
        """An inventory beside theirs, both without what an empty one takes. bound -- how many times faster"""
        empty = self.bench.data(f"{self.driver}-empty")
        mine, other = self.inventory(files[0], ours), self.inventory(files[1], theirs)
        # They may see what others have on this host, too.
        if mine[1] > other[1]:
            raise RuntimeError(f"{figure}: {mine[1]} hosts in one inventory, {other[1]} in the other")
        found = in_turns(
            5,
            {
                "empty": lambda: self.inventory(files[0], ours, empty)[0],
                "ours": lambda: self.inventory(files[0], ours)[0],
                "theirs": lambda: self.inventory(files[1], theirs)[0],
            },
        )
        beyond = {name: max(found[name] - found["empty"], 0.001) for name in ("ours", "theirs")}
        return faster_row(figure, beyond["ours"], beyond["theirs"], theirs["plugin"], bound)

    def no_change(self, options: dict[str, t.Any]) -> list[Row]:
        """The processor time of a task that finds all as it should be."""
        what = f"CPU of a no-change `instance` task, driver {self.driver}"
        return no_change_rows(
            lambda name, tasks, count: self.play(name, tasks, count)[1],
            what,
            {"minicloud.local.instance": {"driver": self.driver, **options}},
            1.5,
            f"{what}, module started",
        )


def faster_row(figure: str, ours: float, theirs: float, against: str, bound: float) -> Row:
    """How many times faster ours is."""
    times = theirs / ours
    return Row(
        figure,
        quantity(ours, "s"),
        f"{quantity(theirs, 's')} ({against})",
        f"{times:.1f} × faster",
        f"≥ {bound:g} × faster",
        verdict(times >= bound),
    )


# -- libvirt -----------------------------------------------------------------------------------------------------------


def libvirt(bench: Bench) -> list[Row]:
    """Domains, beside community.libvirt."""
    peers = Peers(bench, "libvirt")
    image = bench.real()
    into_vault(peers.data, image)
    # virt-install makes a pool of it, and calls it so.
    pool_name = f"minicloud-bench-{os.getpid()}"
    pool = bench.path(pool_name, "")
    # QEMU of the system's libvirt runs as a user of its own.
    for directory in (bench.directory, os.path.dirname(pool)):
        os.chmod(directory, 0o711)

    def theirs(wait: bool) -> float:
        disk = os.path.join(pool, "peer.qcow2")
        options = {
            "name": PEER,
            "uri": "qemu:///system",
            "base_image": image,
            "disks": [{"path": disk, "size": 5, "format": "qcow2"}],
            "memory": 1024,
            "vcpus": 1,
            "virt_type": "qemu",
            "osinfo": {"name": "debian11"},
            "networks": [{"type": "user"}],
            "graphics": {"type": "none"},
            # What it appends to it must be of the same mapping.
            "cloud_init": {"user_data": f"#cloud-config\nhostname: {PEER}\n"},
            "wait_for_cloud_init_reboot": wait,
        }
        try:
            return peers.play("peer", [{"community.libvirt.virt_cloud_instance": options}])[0]
        finally:
            with contextlib.suppress(RuntimeError):
                bench.program(["virsh", "-c", "qemu:///system", "destroy", PEER])
            for command in (["undefine", PEER, "--nvram"], ["pool-destroy", pool_name], ["pool-undefine", pool_name]):
                with contextlib.suppress(RuntimeError):
                    bench.program(["virsh", "-c", "qemu:///system", *command])
            with contextlib.suppress(FileNotFoundError):
                os.unlink(disk)

    small = {"image": bench.tiny(), "user": USER, "memory": "128M"}
    # With its last instance the network goes, and that it is made again is not what is measured.
    change(peers.data, "libvirt", name="keep", state="stopped", **small)
    options = {"name": "ours", "image": image, "user": USER, "memory": "1G", "timeout": BOOT_LIMIT}

    def ours(wait: bool) -> float:
        try:
            return peers.play("ours", [{"minicloud.local.instance": {"driver": "libvirt", "wait": wait, **options}}])[0]
        finally:
            change(peers.data, "libvirt", name="ours", state="absent", force=True)

    def empty() -> float:
        return peers.play("ping", [{"ansible.builtin.ping": {}}])[0]

    created = in_turns(3, {"floor": empty, "ours": lambda: ours(False), "theirs": lambda: theirs(False)})
    own, other = (created[name] - created["floor"] for name in ("ours", "theirs"))
    rows = [ratio_row("libvirt: create without waiting", own, other, "s", "virt_cloud_instance", 0.5)]
    ready = in_turns(1, {"ours": lambda: ours(True), "theirs": lambda: theirs(True)})
    rows.append(ratio_row("libvirt: launch to ready", ready["ours"], ready["theirs"], "s", "virt_cloud_instance", 0.9))

    change(peers.data, "libvirt", name="small", **small)
    rows += peers.no_change({"name": "small", **small})
    change(peers.data, "libvirt", name="small", state="absent", force=True)
    change(peers.data, "libvirt", name="keep", state="absent", force=True)
    # One network does not have so many addresses.
    lans = [change_network(peers.data, "libvirt", name=f"lan{number}")["name"] for number in range(2)]
    for number in range(DOMAINS):
        nics = [{"name": lans[number % len(lans)]}]
        change(peers.data, "libvirt", name=f"d{number:03}", state="stopped", networks=nics, **small)
    mine = {"plugin": "minicloud.local.instances", "drivers": ["libvirt"], "states": ["all"]}
    other_ = {"plugin": "community.libvirt.libvirt", "uri": "qemu:///system"}
    files = ("ours.minicloud.yml", "theirs.libvirt.yml")
    rows.append(peers.beyond(f"inventory of {DOMAINS} libvirt domains", mine, other_, files, 1))
    return rows


# -- LXD ---------------------------------------------------------------------------------------------------------------


# Of this run alone: what it removes at its end is nobody else's.
PROJECT = f"minicloud-bench-{os.getpid()}"
PEER_POOL = f"{PROJECT}-dir"


class Lxd:
    """What is made on LXD with its own command, in the project of this run."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def __call__(self, *argv: str, project: str = PROJECT) -> str:
        return self.bench.program(["lxc", *argv, *(["--project", project] if project else [])])[2]

    def query(self, path: str) -> t.Any:
        """What the API answers, in the project."""
        return json.loads(self("query", f"{path}{'&' if '?' in path else '?'}project={PROJECT}", project=""))

    def packed(self, fingerprint: str, target: str) -> str:
        """The fingerprint of an image's compressed copy."""
        self("image", "export", fingerprint, target)
        (path,) = glob.glob(f"{target}*")
        self.bench.program(["xz", "-T0", "-2", path])
        return self("image", "import", f"{path}.xz").split()[-1]

    def remove(self, name: str) -> None:
        """End and remove an instance, which may be none."""
        with contextlib.suppress(RuntimeError):
            self("delete", "--force", name)

    def clean(self, data: DataDirectory, pools: t.Iterable[str]) -> None:
        """Remove all that this run made, for a data directory or by hand. pools -- that were not there before"""
        if PROJECT in self("project", "list", "--format", "csv", project=""):
            for instance in self.query("/1.0/instances?recursion=1"):
                self.remove(instance["name"])
            for image in self.query("/1.0/images?recursion=1"):
                self("image", "delete", image["fingerprint"])
            self("profile", "device", "remove", "default", "root")
            self("project", "delete", PROJECT, project="")
        for pool in pools:
            with contextlib.suppress(RuntimeError):
                self("storage", "delete", pool, project="")
        for network in json.loads(self("query", "/1.0/networks?recursion=1", project="")):
            if (network["config"] or {}).get(DATA_DIR) == data.path:
                self("network", "delete", network["name"], project="")


def lxd(bench: Bench) -> list[Row]:
    """Containers, beside the command lxc and community.general."""
    peers = Peers(bench, "lxd")
    lxc = Lxd(bench)
    place = {"project": PROJECT}
    there = {pool["name"] for pool in lxc.query("/1.0/storage-pools?recursion=1")}
    pools = {PEER_POOL, POOL} - there
    image = bench.args.container or "bootstrap:bookworm"
    options = {"image": image, "user": USER, "instance_type": "container", "memory": "1G", "wait": False}
    rows: list[Row] = []
    try:
        small = {**options, "image": bench.tiny("tar.gz")}
        # With its last instance the network goes, and that it is made again is not what is measured.
        change(peers.data, "lxd", place, name="keep", **small)
        change(peers.data, "lxd", place, name="ours", **options)
        lxc("storage", "create", PEER_POOL, "dir", project="")
        made = lxc.query("/1.0/instances/ours")
        fingerprint = made["config"]["volatile.base_image"]
        devices = {**lxc.query("/1.0/profiles/default")["devices"], **made["devices"]}
        for device in devices.values():
            for key in ("hwaddr", "ipv4.address", "ipv6.address"):
                device.pop(key, None)
        config = {key: value for key, value in made["config"].items() if key.startswith(("limits.", "cloud-init."))}
        # The same image in the form in which public servers have it, as who takes it from there would.
        packed = lxc.packed(fingerprint, bench.path("images", "packed"))
        change(peers.data, "lxd", place, name="ours", state="absent", force=True)

        def by_collection() -> float:
            began = time.perf_counter()
            change(peers.data, "lxd", place, name="ours", **options)
            seconds = time.perf_counter() - began
            change(peers.data, "lxd", place, name="ours", state="absent", force=True)
            return seconds

        def by_command() -> float:
            seconds = bench.program(
                ["lxc", "launch", fingerprint, "hand", "--project", PROJECT],
                stdin=json.dumps({"config": config, "devices": devices}),
            )[0]
            lxc.remove("hand")
            return seconds

        found = in_turns(7, {"ours": by_collection, "lxc launch": by_command})
        rows.append(
            ratio_row("LXD: container launch to running", found["ours"], found["lxc launch"], "s", "`lxc launch`", 1.15)
        )

        def by_task() -> float:
            task = {"minicloud.local.instance": {"driver": "lxd", "driver_options": place, "name": "ours", **options}}
            seconds = peers.play("ours", [task])[0]
            change(peers.data, "lxd", place, name="ours", state="absent", force=True)
            return seconds

        def by_peer() -> float:
            task = {
                "name": "peer",
                "project": PROJECT,
                "url": f"unix:{socket_path()}",
                "state": "started",
                "source": {"type": "image", "fingerprint": packed},
                "devices": {**devices, "root": {"type": "disk", "path": "/", "pool": PEER_POOL}},
                "config": config,
                "ignore_volatile_options": True,
            }
            seconds = peers.play("peer", [{"community.general.lxd_container": task}])[0]
            lxc.remove("peer")
            return seconds

        # As long as a disk takes in what is written faster than it can write, the first copies of an image are fast.
        found = in_turns(
            5, {"floor": lambda: peers.play("p", [{"ansible.builtin.ping": {}}])[0], "ours": by_task, "theirs": by_peer}
        )
        rows.append(
            faster_row(
                "LXD: task that launches a container",
                found["ours"] - found["floor"],
                found["theirs"] - found["floor"],
                "community.general.lxd_container, pool dir, image as tar.xz",
                4,
            )
        )
        change(peers.data, "lxd", place, name="c000", **options)
        rows += peers.no_change({"driver_options": place, "name": "c000", **options})
        change(peers.data, "lxd", place, name="c000", state="absent", force=True)
        for number in range(CONTAINERS - 1):
            change(peers.data, "lxd", place, name=f"c{number:03}", state="stopped", **small)
        mine = {
            "plugin": "minicloud.local.instances",
            "drivers": ["lxd"],
            "driver_options": place,
            "states": ["all"],
        }
        theirs = {"plugin": "community.general.lxd", "url": f"unix:{socket_path()}", "project": PROJECT}
        files = ("ours.minicloud.yml", "theirs.lxd.yml")
        rows.append(peers.beyond(f"inventory of {CONTAINERS} LXD containers", mine, theirs, files, 5))
    finally:
        lxc.clean(peers.data, pools)
    return rows


def socket_path() -> str:
    """Where LXD listens."""
    places = (os.path.join(os.environ.get("LXD_DIR", ""), "unix.socket"), "/var/snap/lxd/common/lxd/unix.socket")
    return next((path for path in places if os.path.exists(path)), "/var/lib/lxd/unix.socket")
