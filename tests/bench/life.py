# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots and suspending beside the same by hand, clouds beside loops, and what a mount costs beside its means."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
import typing as t

from frame import USER, Bench, Guest, Row, beyond_row, change, in_turns, ratio_row

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.snapshots import (
    parse_snapshot_wish,
    reconcile_snapshot,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

_REPETITIONS = 3
_CLOUD, _LARGE_CLOUD = 5, 20
_MIB = 64


def snapshot(data: DataDirectory, **options: t.Any) -> float:
    """What the module snapshot does, in this process; the seconds that it takes."""
    began = time.perf_counter()
    reconcile_snapshot(parse_snapshot_wish({"state": "present", **options}), Runtime(run), data, "qemu")
    return time.perf_counter() - began


class Monitor:
    """QEMU's monitor of an instance, as somebody uses it by hand."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(600)
        self.socket.connect(path)
        self.lines = self.socket.makefile("rw")
        self.lines.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: t.Any) -> t.Any:
        """The answer to a command."""
        self.lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.lines.flush()
        while True:
            said = json.loads(self.lines.readline())
            if "error" in said:
                raise RuntimeError(f"{command}: {said['error']}")
            if "return" in said:
                return said["return"]

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


class Pulse:
    """How long a guest says nothing: the longest time between two lines of one that says something all the time."""

    def __init__(self, argv: t.Sequence[str]) -> None:
        self.process = subprocess.Popen([*argv, "while :; do echo; sleep 0.02; done"], stdout=subprocess.PIPE)
        self.heard: list[float] = []
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()
        while len(self.heard) < 20:
            time.sleep(0.05)

    def _listen(self) -> None:
        stream = t.cast("t.IO[bytes]", self.process.stdout).fileno()
        while os.read(stream, 4096):
            self.heard.append(time.perf_counter())

    def longest(self, act: t.Callable[[], t.Any]) -> float:
        """The longest silence while something is done."""
        self.heard = self.heard[-1:]
        act()
        count = len(self.heard)
        while len(self.heard) < count + 10:
            time.sleep(0.05)
        return max(later - earlier for earlier, later in zip(self.heard, self.heard[1:]))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def snapshots(bench: Bench) -> list[Row]:
    """Snapshots of QEMU: of what runs, with its memory, and of what is stopped."""
    rows = []
    for memory in ("256M", "1G"):
        data = bench.data(f"live-{memory}")
        view = change(data, name="live", image=bench.tiny(), user=USER, memory=memory)
        guest = Guest(data)
        # Pages that are not all alike, a quarter of the memory.
        guest.run(
            view["ssh"]["port"],
            "head -c $(awk '/MemTotal/ {print $2 * 256}' /proc/meminfo) /dev/urandom > /dev/shm/x",
            view["ssh"]["host"],
        )
        place = os.path.join(data.scope("qemu").directory("live"), "monitor.sock")
        pulse = Pulse(guest.argv(view["ssh"]["port"], view["ssh"]["host"]))

        def by_hand(place: str = place) -> None:
            monitor = Monitor(place)
            try:
                monitor.execute("human-monitor-command", **{"command-line": "savevm hand"})
                monitor.execute("human-monitor-command", **{"command-line": "delvm hand"})
            finally:
                monitor.close()

        def ours(data: DataDirectory = data) -> None:
            snapshot(data, instance="live", name="ours", memory="yes")

        def removed(data: DataDirectory = data) -> None:
            snapshot(data, instance="live", name="ours", state="absent")

        def ours_pause(pulse: Pulse = pulse) -> float:
            found = pulse.longest(ours)
            removed()
            return found

        try:
            found = in_turns(
                _REPETITIONS,
                {"savevm": lambda pulse=pulse: pulse.longest(by_hand), "snapshot": ours_pause},
            )
        finally:
            pulse.end()
        against = "`savevm` on QEMU's monitor"
        rows.append(
            ratio_row(f"pause of a live snapshot, {memory}", found["snapshot"], found["savevm"], "s", against, 0.5)
        )
        change(data, name="live", state="absent", force=True)
    return [*rows, *_stopped_snapshots(bench)]


def _stopped_snapshots(bench: Bench) -> list[Row]:
    data = bench.data("stopped")
    change(data, name="still", image=bench.tiny(), user=USER, memory="128M", state="stopped")
    disk = os.path.join(data.scope("qemu").directory("still"), "disk.qcow2")
    beside = bench.path("beside.qcow2")
    bench.program(["qemu-img", "convert", "-O", "qcow2", disk, beside])
    count = 0

    def tool(*argv: str) -> float:
        return bench.program(["qemu-img", "snapshot", *argv, beside])[0]

    def taken() -> float:
        nonlocal count
        count += 1
        return snapshot(data, instance="still", name=f"number{count}")

    bench.program(["qemu-img", "snapshot", "-c", "first", beside])
    found = in_turns(
        5,
        {
            "qemu-img takes": lambda: tool("-c", f"n{time.monotonic_ns()}"),
            "snapshot": taken,
            "qemu-img goes back": lambda: tool("-a", "first"),
            "restore": lambda: snapshot(data, instance="still", name="number1", state="restored", safeguard=False),
        },
    )
    return [
        beyond_row(
            "snapshot of a stopped instance", found["snapshot"], found["qemu-img takes"], "s", "`qemu-img`", 0.2
        ),
        beyond_row(
            "restore of a stopped instance", found["restore"], found["qemu-img goes back"], "s", "`qemu-img`", 0.2
        ),
    ]


def clouds(bench: Bench) -> list[Row]:
    """Several tiny guests by one task, by as many tasks, and a task that finds them as they should be."""
    data = bench.data("clouds")
    image = bench.tiny()
    defaults = {"image": image, "user": USER, "memory": "128M", "timeout": 600}

    def one_task() -> float:
        cloud = {"name": "many", "defaults": defaults, "instances": {"many": {"count": _CLOUD}}}
        return bench.play("one", [{"minicloud.local.cloud": cloud}], data)[0]

    def loop() -> float:
        task = {"minicloud.local.instance": {"name": "loop-{{ item }}", **defaults}}
        return bench.play("loop", [task], data, _CLOUD)[0]

    def gone(act: t.Callable[[], float], *names: str) -> float:
        seconds = act()
        for name in names:
            change(data, name=name, state="absent", force=True)
        return seconds

    found = in_turns(
        1,
        {
            "loop": lambda: gone(loop, *(f"loop-{number}" for number in range(_CLOUD))),
            "cloud": lambda: gone(one_task, *(f"many-{number + 1}" for number in range(_CLOUD))),
        },
    )
    rows = [ratio_row(f"{_CLOUD} instances to ready", found["cloud"], found["loop"], "s", "a loop of `instance`", 0.8)]
    large = {
        "name": "large",
        "defaults": {**defaults, "state": "stopped"},
        "instances": {"large": {"count": _LARGE_CLOUD}},
    }
    bench.play("made", [{"minicloud.local.cloud": large}], data)
    single = {"name": "large-1", **defaults, "state": "stopped"}
    found = in_turns(
        5,
        {
            "instance": lambda: bench.play("single", [{"minicloud.local.instance": single}], data)[0],
            "cloud": lambda: bench.play("large", [{"minicloud.local.cloud": large}], data)[0],
        },
    )
    what = f"a cloud of {_LARGE_CLOUD} as it should be"
    theirs = 1.2 * found["instance"] + 0.01 * _LARGE_CLOUD
    against = f"1.2 × one instance, and 10 ms for each of {_LARGE_CLOUD}"
    return [*rows, ratio_row(what, found["cloud"], theirs, "s", against, 1.0)]


def mounts(bench: Bench) -> list[Row]:
    """A folder by each mechanism, beside the guest's own disk; and how long it takes to have it there."""
    data = bench.data("mounts")
    view = change(data, name="guest", image=bench.tiny(), user=USER, memory="256M")
    port, host, guest = view["ssh"]["port"], view["ssh"]["host"], Guest(data)
    folder = bench.path("folder", "")
    rows = []
    places = {"own disk": "/data/own"}
    guest.run(port, "mkdir -p /data/own", host)
    for kind in ("native", "classic"):
        mount = {"source": folder, "target": f"/mnt/{kind}", "type": kind}
        began = time.perf_counter()
        with contextlib.suppress(Exception):
            change(data, name="guest", mounts=[mount])
            places[kind] = f"/mnt/{kind}"
            print(f"  {kind}: there after {time.perf_counter() - began:.2f} s", flush=True)
        change(data, name="guest", mounts=[])

    def timed(command: str, kind: str) -> float:
        if kind in ("native", "classic"):
            change(data, name="guest", mounts=[{"source": folder, "target": places[kind], "type": kind}])
        done = guest.run(port, f"cd {places[kind]} && {command}", host)
        if done.rc:
            raise RuntimeError(f"{command}: {done.err}")
        first, last = done.out.split()[0], done.out.split()[-1]
        return float(last) - float(first)

    clock = "cut -d' ' -f1 /proc/uptime"
    forget = "echo 3 | sudo tee /proc/sys/vm/drop_caches > /dev/null"
    works = {
        f"write {_MIB} MiB": f"{clock}; dd if=/dev/zero of=big bs=1M count={_MIB} conv=fsync 2>/dev/null; {clock}",
        f"read {_MIB} MiB": f"{forget}; {clock}; cat big >/dev/null; {clock}",
        "500 files": f"{clock}; for i in $(seq 500); do echo $i > f$i; done; cat f* > /dev/null; rm f*; {clock}",
    }
    for what, command in works.items():
        found = in_turns(
            1,
            {kind: lambda command=command, kind=kind: timed(command, kind) for kind in places},
        )
        rows += [
            ratio_row(f"{what}, {kind}", found[kind], max(found["own disk"], 0.01), "s", "the guest's own disk", 10)
            for kind in places
            if kind != "own disk"
        ]
    return rows
