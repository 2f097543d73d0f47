# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Linked clones beside plain launches, and those of a large disk beside those of a small one."""

from __future__ import annotations

import os
import time

from frame import USER, Bench, Row, change, in_turns, ratio_row

_REPETITIONS = 5


def clones(bench: Bench) -> list[Row]:
    """Linked clones of QEMU, up to where they are ready."""
    data = bench.data("clones")
    image = bench.tiny()
    options = {"user": USER, "memory": "128M"}
    for name, more in (("small", {}), ("large", {"disk": "20G"})):
        change(data, name=name, image=image, state="stopped", **options, **more)
    # What lies between the guest's file system and the end of the disk.
    disk = os.path.join(data.scope("qemu").directory("large"), "disk.qcow2")
    bench.program(["qemu-io", "-f", "qcow2", "-c", "write -q -P 7 5G 1G", disk])
    change(data, name="running", image=image, **options)

    def made(**params: object) -> float:
        began = time.perf_counter()
        change(data, name="made", **params)
        seconds = time.perf_counter() - began
        change(data, name="made", state="absent", force=True)
        return seconds

    found = in_turns(
        _REPETITIONS,
        {
            "launch": lambda: made(image=image, **options),
            "clone": lambda: made(source="small"),
            "clone of a large disk": lambda: made(source="large"),
            "clone of a running instance": lambda: made(source="running"),
        },
    )
    return [
        ratio_row("linked clone to ready", found["clone"], found["launch"], "s", "launch of the same image", 1.1),
        ratio_row(
            "linked clone of a running instance to ready",
            found["clone of a running instance"],
            found["launch"],
            "s",
            "launch of the same image",
            1.1,
        ),
        ratio_row(
            "linked clone to ready, 20 GiB with 1 GiB more",
            found["clone of a large disk"],
            found["clone"],
            "s",
            "of a small disk",
            1.1,
        ),
    ]
