# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Layers below the disk of a machine that runs: QEMU has to go on in the new disk, and must never write a layer.

While that is done the machine is halted. The file HALTED, which is there from before until it goes on, says for the
sake of which layer. So whoever comes after a run that was killed meanwhile, and before the machine goes on, knows what
is left to do: finish(). Where QEMU has ended, nothing is.
"""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.look import QemuLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.layers import Layers
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import DISK
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.qmp import Qmp
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._json import understood
from ansible_collections.minicloud.local.plugins.module_utils._model import Field, Instance, RecordKind
from ansible_collections.minicloud.local.plugins.module_utils._scope import read_record, write_record
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import UUID
from ansible_collections.minicloud.local.plugins.module_utils._writing import remove_path

# In the directory of an instance.
HALTED = "halted.json"

# QEMU's name of the disk that it was started with.
_FIRST = "disk"

_KIND = RecordKind(
    "why a machine is halted",
    1,
    {
        "layer": UUID._replace(required=True),
        "runs": Field(lambda value: isinstance(value, bool), "true or false", required=True),
    },
)


class Top(t.NamedTuple):
    """What a machine writes its disk to: QEMU's name of it, and the size of the disk, bytes."""

    node: str
    size: int


def node_above(layer: str) -> str:
    """QEMU's name, of at most 31 characters, for the disk that is above a layer."""
    return f"above-{layer.replace('-', '')[:20]}"


def top_of(qmp: Qmp) -> Top:
    """What a machine writes its disk to. HypervisorError where QEMU does not tell."""
    with understood("what QEMU says of its disks", HypervisorError):
        for device in qmp.execute("query-block"):
            inserted = device.get("inserted") or {}
            node = str(inserted.get("node-name", ""))
            if node == _FIRST or node.startswith("above-"):
                return Top(node, int(inserted["image"]["virtual-size"]))
    raise HypervisorError("QEMU does not tell what it writes the disk to")


def have_node(qmp: Qmp, layer: str, path: str) -> None:
    """Have QEMU know the file PATH as the disk above a layer, which it does not use yet."""
    node = node_above(layer)
    if any(each.get("node-name") == node for each in qmp.execute("query-named-block-nodes", flat=True)):
        return
    with explained(f"{path} could not be opened"):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        name = qmp.add_to_set(node, descriptor)
    finally:
        os.close(descriptor)
    below = f"{node}-f"
    with contextlib.suppress(HypervisorError):  # of a run that was killed between the two
        qmp.execute("blockdev-del", **{"node-name": below})
    qmp.execute("blockdev-add", driver="file", filename=name, discard="unmap", **{"node-name": below})
    qmp.execute("blockdev-add", driver="qcow2", file=below, backing=None, discard="unmap", **{"node-name": node})


def drop_node(qmp: Qmp, layer: str) -> None:
    """Have QEMU forget the disk above a layer, which it does not use; all the same if it does not know it."""
    node = node_above(layer)
    for each in (node, f"{node}-f"):
        with contextlib.suppress(HypervisorError):
            qmp.execute("blockdev-del", **{"node-name": each})
    for fdset in qmp.execute("query-fdsets"):
        if any(each.get("opaque") == node for each in fdset.get("fds", ())):
            with contextlib.suppress(HypervisorError):
                qmp.execute("remove-fd", **{"fdset-id": fdset["fdset-id"]})


def activate(qmp: Qmp) -> None:
    """Have a machine whose memory was saved own its disks again, which newer QEMUs wait for before they change them."""
    with contextlib.suppress(HypervisorError):  # older ones have no such command
        qmp.execute("blockdev-set-active", active=True)


def go_on_above(qmp: Qmp, layer: str) -> None:
    """Have a halted machine write to the disk above a layer, and only read that layer from now on."""
    top = top_of(qmp)
    if top.node == node_above(layer):
        return
    activate(qmp)
    qmp.execute("blockdev-snapshot", node=top.node, overlay=node_above(layer))


def halt(look: QemuLooks, instance: Instance, qmp: Qmp, layer: str) -> bool:
    """Halt a machine for the sake of a new layer; whether it ran."""
    runs = qmp.status() == "running"
    write_record(look.path(instance, HALTED), _KIND, {"layer": layer, "runs": runs})
    if runs:
        qmp.execute("stop")
    return runs


def finish(look: QemuLooks, instance: Instance, qmp: Qmp) -> bool:
    """See to the end of what a killed run had begun with the disk of a machine; whether that is to run on.

    To be called before anything else is done with a machine. forget() is to follow when it runs on.
    """
    found = read_record(look.path(instance, HALTED), _KIND, "Stop the instance with force: true, and remove the file")
    if found is None:
        return False
    layers = Layers(look, instance)
    if layers.recover().disk == found["layer"]:
        have_node(qmp, found["layer"], layers.path(DISK))
        go_on_above(qmp, found["layer"])
    else:
        drop_node(qmp, found["layer"])
    return bool(found["runs"])


def let_go_on(look: QemuLooks, instance: Instance, qmp: Qmp, runs: bool) -> None:
    """Have a halted machine, with which all is done, run on if it ran."""
    if runs and qmp.status() in ("paused", "postmigrate"):
        qmp.execute("cont")
    forget(look, instance)


def forget(look: QemuLooks, instance: Instance) -> None:
    """Forget that a machine was halted: it runs on, or it has ended."""
    remove_path(look.path(instance, HALTED))
