# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Measure the collection, each figure beside what it is compared with, in turns in the same run: `make bench`.

Prints a table with medians and the bounds that the project has set itself. Nothing is judged by it: the exit status is
0 unless something broke. All that is made goes into a directory of its own and is gone at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import typing as t

import clones
import life
import nets
import peers
from frame import (
    ROOT,
    USER,
    Bench,
    Guest,
    Row,
    a_record,
    beyond_row,
    change,
    in_turns,
    into_vault,
    no_change_rows,
    quantity,
    ratio_row,
    table,
    verdict,
)

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.act import identity_for
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import machine as qemu_machine
from ansible_collections.minicloud.local.plugins.module_utils._host.host import this_host
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import ports
from ansible_collections.minicloud.local.plugins.module_utils._images.hosts import ImageHosts
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import parse_reference
from ansible_collections.minicloud.local.plugins.module_utils._model import GIB, KIB, MIB, Nic
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.images import (
    parse_image_wish,
    reconcile_image,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

# -- a task that changes nothing ---------------------------------------------------------------------------------------


def no_change(bench: Bench) -> list[Row]:
    """The processor time of a task."""
    data = bench.data("no-change")
    options = {"name": "bench", "image": bench.tiny(), "user": USER, "cpus": 1, "memory": "128M", "disk": "1G"}
    change(data, **options)

    def command(module: str, **options: t.Any) -> float:
        return bench.ad_hoc(module, " ".join(f"{key}={value}" for key, value in options.items()), data)[1]

    whole = in_turns(
        5,
        {
            "ping": lambda: command("ansible.builtin.ping"),
            "instance": lambda: command("minicloud.local.instance", **options),
        },
    )
    rows = no_change_rows(
        lambda name, tasks, count: bench.play(name, tasks, data, count)[1],
        "CPU of a no-change `instance` task in a play",
        {"minicloud.local.instance": options},
        1.25,
    )
    packed = {
        name: os.path.getsize(bench.packed(name, given, data)) / KIB
        for name, given in (("ansible.builtin.ping", {}), ("minicloud.local.instance", options))
    }
    change(data, name="bench", state="absent", force=True)
    size, least = packed["minicloud.local.instance"], packed["ansible.builtin.ping"]
    return [
        *rows,
        Row("packed size of `instance`", quantity(size, "KiB"), f"{quantity(least, 'KiB')} (`ping`)", "", "", ""),
        ratio_row(
            "CPU of the whole command, `ansible -m`", whole["instance"], whole["ping"], "ms", "`ansible -m ping`", 1.25
        ),
    ]


# -- launch ------------------------------------------------------------------------------------------------------------


class Launches:
    """Launches of one image: by the collection, and by hand."""

    def __init__(self, bench: Bench, name: str, image: str, memory: str) -> None:
        self.bench = bench
        self.data = bench.data(name)
        self.image = into_vault(self.data, image)
        self.options = {"image": image, "user": USER, "memory": memory}
        self.guest = Guest(self.data)
        # Its record, seed and keys are what the start by hand uses: the same machine to the last argument.
        change(self.data, name="hand", state="stopped", **self.options)

    def by_hand(self) -> tuple[float, float]:
        """Seconds to a login, and until cloud-init has finished."""
        scope = self.data.scope("qemu")
        record = scope.read("hand")
        assert record
        record.ssh_port = ports.choose("127.0.0.1", "tcp", set())
        directory = scope.directory("hand")
        disk = os.path.join(directory, "disk.qcow2")
        os.unlink(disk)
        identity = identity_for("")
        accelerator = qemu_machine.choose_accelerator(this_host(), "auto", record.arch, identity.uid, identity.groups)
        handles: list[int] = []
        process = None
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            began = time.perf_counter()
            run(
                [
                    "qemu-img",
                    "create",
                    "-q",
                    "-f",
                    "qcow2",
                    "-b",
                    self.image.path,
                    "-F",
                    "qcow2",
                    disk,
                    str(record.disk),
                ]
            )
            fds = {}
            for name, path, flags in (
                ("base", self.image.path, os.O_RDONLY),
                ("disk", disk, os.O_RDWR),
                ("seed", os.path.join(directory, "seed.iso"), os.O_RDONLY),
                ("console", os.path.join(directory, "console.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND),
            ):
                fds[name] = os.open(path, flags, 0o600)
                handles.append(fds[name])
            monitor = self.bench.path("hand.sock")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(monitor)
            listener.bind(monitor)
            listener.listen(1)
            argv = [qemu_machine.emulator(record.arch)]
            argv += qemu_machine.command_line(record, accelerator, fds, listener.fileno())
            process = self.bench.keep(subprocess.Popen(argv, pass_fds=[*handles, listener.fileno()]))
            self.guest.await_login(record.ssh_port)
            login = time.perf_counter() - began
            self.guest.await_cloud_init(record.ssh_port)
            return login, time.perf_counter() - began
        finally:
            if process:
                process.kill()
                process.wait()
            listener.close()
            for handle in handles:
                os.close(handle)

    def by_collection(self, wait: bool) -> tuple[float, float]:
        """The same; without waiting, the waiting is done as by hand."""
        began = time.perf_counter()
        view = change(self.data, name="ours", wait=wait, **self.options)
        login = 0.0
        if not wait:
            self.guest.await_login(view["ssh"]["port"], view["ssh"]["host"])
            login = time.perf_counter() - began
            self.guest.await_cloud_init(view["ssh"]["port"], view["ssh"]["host"])
        ready = time.perf_counter() - began
        change(self.data, name="ours", state="absent", force=True)
        return login, ready

    def rows(self, what: str, repetitions: int) -> list[Row]:
        """Measure in turns."""
        kept: dict[str, list[float]] = {"hand": [], "ours": []}

        def noted(name: str, found: tuple[float, float]) -> float:
            kept[name].append(found[1])
            return found[0]

        logins = in_turns(
            repetitions,
            {
                "login, by hand": lambda: noted("hand", self.by_hand()),
                "login, collection": lambda: noted("ours", self.by_collection(False)),
                "ready, collection with wait": lambda: self.by_collection(True)[1],
            },
        )
        hand = statistics.median(kept["hand"])
        print(f"  ready, by hand: {'  '.join(f'{value:.3f}' for value in kept['hand'])}")
        return [
            ratio_row(
                f"launch to ssh ready, {what}",
                logins["login, collection"],
                logins["login, by hand"],
                "s",
                "QEMU by hand, polled every 0.2 s",
                1.05,
            ),
            ratio_row(
                f"launch to cloud-init finished, {what}, `wait: true`",
                logins["ready, collection with wait"],
                hand,
                "s",
                "by hand, `cloud-init status --wait`",
                1.05,
            ),
        ]


def launch(bench: Bench) -> list[Row]:
    """Launches of the tiny guest."""
    return Launches(bench, "launch", bench.tiny(), "128M").rows("tiny guest", 5)


def launch_real(bench: Bench) -> list[Row]:
    """Launches of Debian 12, where an image of it is at hand."""
    path = bench.real()
    if not path:
        return [Row("launch of a whole distribution", "", "", "", "≤ 1.05 ×", "not measured: no --image, none cached")]
    return Launches(bench, "launch-real", path, "1G").rows("Debian 12", bench.args.boots)


# -- launch without waiting --------------------------------------------------------------------------------------------


def no_wait(bench: Bench) -> list[Row]:
    """What a launch takes that waits for nothing."""
    data = bench.data("no-wait")
    large = bench.path("large.qcow2")
    bench.program(["qemu-img", "create", "-q", "-f", "qcow2", large, "20G"])
    bench.program(
        [
            "qemu-io",
            "-f",
            "qcow2",
            "-c",
            "write -q -P 7 0 1G",
            "-c",
            "write -q -P 9 5G 1G",
            "-c",
            "write -q -P 8 9G 1G",
            large,
        ]
    )
    images = {"tiny image": bench.tiny(), "20 GiB image": large}
    sizes = {name: into_vault(data, path).size for name, path in images.items()}
    counter = iter(range(1000))

    def launched(path: str) -> float:
        name = f"n{next(counter)}"
        arguments = f"name={name} image={path} user={USER} memory=128M wait=false"
        seconds = bench.ad_hoc("minicloud.local.instance", arguments, data)[0]
        change(data, name=name, state="absent", force=True)
        return seconds

    found = in_turns(
        5,
        {
            "ping": lambda: bench.ad_hoc("ansible.builtin.ping", "", data)[0],
            **{name: lambda path=path: launched(path) for name, path in images.items()},  # type: ignore[misc]
        },
    )
    return [
        beyond_row(
            f"launch, `wait: false`, {name} ({sizes[name] / MIB:.0f} MiB)",
            found[name],
            found["ping"],
            "s",
            "`ansible -m ping`",
            0.5,
        )
        for name in images
    ]


# -- inventory ---------------------------------------------------------------------------------------------------------

RECORDS = 1000


def inventory(bench: Bench) -> list[Row]:
    """The inventory of many instances."""
    full, empty = bench.data("inventory"), bench.data("inventory-empty")
    scope = full.scope("qemu")
    for number in range(RECORDS):
        record = a_record(
            f"node-{number:04}",
            f"00000000-0000-4000-8000-{number:012}",
            cpus=2,
            ssh_port=20000 + number,
            tags={"role": ("web", "db")[number % 2], "rack": str(number % 20)},
            nics=[Nic("user", f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}")],
            host_keys=["ssh-ed25519 " + "A" * 68],
        )
        scope.write(record)
    source = bench.path("bench.minicloud.yml")
    with open(source, "w", encoding="ascii") as file:
        file.write("plugin: minicloud.local.instances\nstates: [all]\n")

    def printed(path: str, data: DataDirectory = full) -> float:
        return bench.program(["ansible-inventory", "-i", path, "--list"], data)[0]

    def read(data: DataDirectory) -> float:
        return bench.program(["ansible", "-i", source, "all", "--list-hosts"], data)[0]

    listed = json.loads(bench.program(["ansible-inventory", "-i", source, "--list"], full)[2])
    hosts = listed["_meta"]["hostvars"]
    assert len(hosts) == RECORDS, f"{len(hosts)} hosts instead of {RECORDS}"
    groups = {name: dict.fromkeys(group["hosts"]) for name, group in listed.items() if "hosts" in group}
    static, bare = bench.path("static.json"), bench.path("bare.json")
    for path, known in ((static, hosts), (bare, dict.fromkeys(hosts))):
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"all": {"hosts": known, "children": {name: {"hosts": of} for name, of in groups.items()}}}, file)
    found = in_turns(
        7,
        {
            "read, empty": lambda: read(empty),
            "read": lambda: read(full),
            "printed, empty": lambda: printed(source, empty),
            "printed": lambda: printed(source),
            "printed, bare": lambda: printed(bare),
            "printed, static": lambda: printed(static),
        },
    )
    what = "inventory of 1,000 instances"
    ours, static_one, bare_one, floor = (found[f"printed{how}"] for how in ("", ", static", ", bare", ", empty"))
    return [
        beyond_row(
            f"{what}, read (`ansible all --list-hosts`)", found["read"], found["read, empty"], "s", "no instance", 0.3
        ),
        beyond_row(f"{what}, and printed (`ansible-inventory --list`)", ours, floor, "s", "no instance", 0.3),
        ratio_row(
            "the same, beyond no instance",
            ours - floor,
            static_one - floor,
            "s",
            "a static file of the same hosts and variables",
            1,
        ),
        Row(
            "what ansible-core takes for their bare names, beyond none", quantity(bare_one - floor, "s"), "", "", "", ""
        ),
    ]


# -- fetch -------------------------------------------------------------------------------------------------------------

IMAGE_BYTES = 500 * 10**6


def make_images(bench: Bench) -> dict[str, str]:
    """An image of 500 MB that is used as it is, and one that is compressed, as publishers do it."""
    top = bench.path("www", "")
    raw = bench.path("raw")
    made = {"qcow2": os.path.join(top, "plain.qcow2"), "compressed qcow2": os.path.join(top, "compressed.qcow2")}
    for kind, path in made.items():
        packed = kind.startswith("compressed")
        with open(raw, "wb") as file:
            file.write(b"\0" * 510 + b"\x55\xaa")
            file.seek(1 << 20)
            # Half of each cluster can be compressed away.
            for dummy in range(IMAGE_BYTES // (1 << 20) * (2 if packed else 1)):
                block = os.urandom(1 << 15) + (bytes(1 << 15) if packed else os.urandom(1 << 15))
                file.write(block * 16 if not packed else b"".join(block for dummy in range(16)))
        options = ["-c"] if packed else []
        bench.program(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-W", "-m", "8", *options, raw, path])
        os.unlink(raw)
    return made


def fetch(bench: Bench) -> list[Row]:
    """An image from a server into the vault."""
    images = make_images(bench)
    url = bench.serve(bench.path("www", ""))
    peaks: list[float] = []
    rows = []
    for kind, path in images.items():
        checksum = "sha256:" + bench.program(["sha256sum", path])[2].split()[0]
        location = url + os.path.basename(path)

        def collection(location: str = location, checksum: str = checksum) -> float:
            directory = tempfile.mkdtemp(dir=bench.directory)
            wanted = json.dumps({"data": directory, "name": location, "checksum": checksum})
            found = json.loads(bench.program([sys.executable, os.path.abspath(__file__), "--child", wanted])[2])
            peaks.append(found["peak"])
            shutil.rmtree(directory)
            return float(found["seconds"])

        def by_hand(location: str = location, path: str = path, kind: str = kind) -> float:
            # What was fetched is not even written: the step of qemu-img reads the file that was served.
            steps = [f"curl -sf {location} | sha256sum", f"qemu-img check -q -f qcow2 {path}"]
            target = bench.path("by-hand.qcow2")
            if kind.startswith("compressed"):
                steps += [f"qemu-img convert -f qcow2 -O qcow2 -o compat=1.1 -W -m 8 {path} {target}", f"sync {target}"]
            seconds = bench.program(["sh", "-c", " && ".join(steps)])[0]
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target)
            return seconds

        found = in_turns(3, {f"{kind}, by hand": by_hand, f"{kind}, collection": collection})
        size = os.path.getsize(path) / 10**6
        rows.append(
            ratio_row(
                f"fetch of a {kind} image of {size:.0f} MB",
                found[f"{kind}, collection"],
                found[f"{kind}, by hand"],
                "s",
                "`curl` into `sha256sum`, then `qemu-img`",
                1.1,
            )
        )
    peak = max(peaks) / 10**6
    rows.append(Row("memory of the process that fetches", f"{peak:.0f} MB", "", "", "< 100 MB", verdict(peak < 100)))
    return rows


def child(text: str) -> None:
    """Fetch in a process of its own, and tell how long it took and how large the process became."""
    wanted = json.loads(text)
    wish = parse_image_wish({"name": wanted["name"], "state": "present", "checksum": wanted["checksum"]})
    began = time.perf_counter()
    outcome = reconcile_image(wish, Runtime(run), DataDirectory(wanted["data"]))
    seconds = time.perf_counter() - began
    assert outcome.changed
    with open("/proc/self/status", encoding="ascii") as file:
        (peak,) = [int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:")]
    print(json.dumps({"seconds": seconds, "peak": peak}))


# -- index -------------------------------------------------------------------------------------------------------------


def index(bench: Bench) -> list[Row]:
    """A lookup in the index of an image host."""
    from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._images.test_lookup_speed import full_size

    samples = os.path.join(ROOT, "tests", "unit", "plugins", "module_utils", "_images", "samples")
    top = bench.path("streams", "")
    shutil.copyfile(
        os.path.join(samples, "released-index.json"), bench.path("streams", "releases", "streams", "v1", "index.json")
    )
    with open(os.path.join(samples, "released-download.json"), "rb") as file:
        content = full_size(file.read())
    products = bench.path("streams", "releases", "streams", "v1", "com.ubuntu.cloud:released:download.json")
    with open(products, "wb") as served:
        served.write(content)
    hosts = {"release": {"url": f"{bench.serve(top)}releases/", "allow_http": True, "keyring": "none"}}
    data = bench.data("index")
    arguments = {"query": "r30", "cached": False, "image_hosts": hosts}
    modules = {
        "ping": bench.packed("ansible.builtin.ping", {}, data),
        "image_info": bench.packed("minicloud.local.image_info", arguments, data),
    }

    def module(name: str, cold: bool = False) -> float:
        if cold:
            shutil.rmtree(data.path)
        seconds, dummy, output = bench.program([bench.python, modules[name]], data)
        if name != "ping":
            assert json.loads(output)["offered"], output
        return seconds

    found = in_turns(
        7,
        {
            "ping": lambda: module("ping"),
            "cold": lambda: module("image_info", True),
            "warm": lambda: module("image_info"),
        },
    )

    def lookup() -> float:
        began = time.perf_counter()
        source = ImageHosts(data, Runtime(run), hosts).resolve(parse_reference("r30"), "x86_64")
        assert source.sha256
        return time.perf_counter() - began

    alone = in_turns(7, {"lookup alone, warm": lookup})["lookup alone, warm"]
    size = len(content) / 10**6
    floor = "the module `ping`"
    return [
        beyond_row(f"lookup in an index of {size:.0f} MB, cold", found["cold"], found["ping"], "ms", floor, 0.5),
        beyond_row("lookup in it, warm", found["warm"], found["ping"], "ms", floor, 0.05),
        beyond_row("lookup in it, warm, without the start of the module", alone, 0, "ms", "nothing", 0.05),
    ]


# -- the run -----------------------------------------------------------------------------------------------------------

SECTIONS: dict[str, t.Callable[[Bench], list[Row]]] = {
    "no-change": no_change,
    "launch": launch,
    "launch-real": launch_real,
    "no-wait": no_wait,
    "inventory": inventory,
    "fetch": fetch,
    "index": index,
    "clones": clones.clones,
    "snapshots": life.snapshots,
    "clouds": life.clouds,
    "mounts": life.mounts,
    "networks": nets.networks,
    "libvirt": peers.libvirt,
    "lxd": peers.lxd,
}


def machine(bench: Bench) -> list[str]:
    """The machine and the programs on which all of this was measured."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), model)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    identity = identity_for("")
    accelerator = qemu_machine.choose_accelerator(
        this_host(), "auto", this_host().architecture(), identity.uid, identity.groups
    )
    guests = accelerator.name.upper()
    if accelerator.reason:
        guests = f"emulation ({guests}; {accelerator.reason})"
    qemu = bench.program([qemu_machine.emulator(this_host().architecture()), "--version"])[2].splitlines()[0]
    core = bench.program(["ansible", "--version"])[2].splitlines()[0]
    target = bench.program([bench.python, "--version"])[2].strip()
    hardware = f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}"
    return [
        f"{hardware}; load before: {os.getloadavg()[0]:.1f}",
        f"guests run by {guests}",
        f"{core} on Python {platform.python_version()}, modules on {target}; {qemu}",
    ]


def system_python() -> str:
    """A Python of the system that modules can run on."""
    for path in ("/usr/bin/python3", sys.executable):
        probe = [path, "-c", "import sys; sys.exit(sys.version_info < (3, 9))"]
        if os.access(path, os.X_OK) and subprocess.run(probe, check=False).returncode == 0:
            return path
    return sys.executable


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"only these: {', '.join(SECTIONS)}")
    parser.add_argument("--image", default="", help="a prepared qcow2 of Debian 12 (user debian) for launch-real")
    parser.add_argument("--boots", type=int, default=1, help="how often launch-real launches in each way (default: 1)")
    parser.add_argument("--python", default=system_python(), help="the Python that modules run on")
    parser.add_argument("--container", default="", help="a prepared LXD image of Debian 12 for lxd (else it is built)")
    parser.add_argument("--peers", default="", help="the virtual environment of tests/requirements/peers.txt")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return 0
    unknown = sorted(set(args.sections) - set(SECTIONS))
    if unknown:
        parser.error(f"there is no section {unknown[0]}; choose from: {', '.join(SECTIONS)}")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = tempfile.mkdtemp(prefix="minicloud-bench-")
    bench = Bench(directory, args)
    rows: list[Row] = []
    broken = []
    began = time.monotonic()
    try:
        about = machine(bench)
        for name, section in SECTIONS.items():
            if args.sections and name not in args.sections:
                continue
            print(f"==> {name}", flush=True)
            start = time.monotonic()
            try:
                rows += section(bench)
            except Exception:
                traceback.print_exc()
                broken.append(name)
            print(f"  after {time.monotonic() - start:.0f} s", flush=True)
        print("\n" + table(rows) + "\n")
        for line in about:
            print(f"- {line}")
        print(f"- medians, measured in turns, on {time.strftime('%Y-%m-%d')}; {time.monotonic() - began:.0f} s in all")
    except KeyboardInterrupt:
        print("interrupted")
        return 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        bench.clean()
    if broken:
        print(f"broken: {', '.join(broken)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
