# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The layers that a disk consists of: which there are and what each is backed by, as noted beside them.

A disk is the file disk.qcow2, which a guest writes, above any number of files that nobody writes any more, above the
image. Every snapshot is such a file, `snapshots/UUID.qcow2`. Which of them are below a disk is said here and never by
their headers, which a guest's QEMU could have written.

A layer can be one of several instances: of a linked clone and what it was made of. Then each has the same file under a
name of its own, so that none of them depends on what becomes of the others. Such a file is never written any more, not
by what makes layers fewer either, until one instance alone has it.

Each change of what is backed by what has one moment in which it is done: a file goes (or becomes another by rename).
Before that, what will be is noted, and by which file one can tell; so whoever comes after a run that was killed knows
which of the two it is. Acts call recover() first, under the instance's lock; looks just read what counts.
"""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import DISK, FamilyLooks
from ansible_collections.minicloud.local.plugins.module_utils._errors import RecordError
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._images.confined import Layer
from ansible_collections.minicloud.local.plugins.module_utils._model import OBJECT, TEXT, Field, Instance, RecordKind
from ansible_collections.minicloud.local.plugins.module_utils._scope import LAYERS, read_record, write_record
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import UUID_OR_NONE
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_path

# What is kept of a snapshot, each in a file UUID.KIND: its layer, the variables of its UEFI, its memory, and what the
# machine was like that this was saved of.
KEPT = ("qcow2", "nvram", "memory", "machine")
# What the lowest layers are backed by: the image of the instance.
IMAGE = ""
# A disk that is to take the place of the present one, and so a file that tells whether it has.
NEW_DISK = "disk.new"


def _is_backing(value: t.Any) -> bool:
    return isinstance(value, dict) and all(
        key and UUID_OR_NONE.holds(key) and UUID_OR_NONE.holds(each) for key, each in value.items()
    )


def _is_hidden(value: t.Any) -> bool:
    return isinstance(value, list) and all(each and UUID_OR_NONE.holds(each) for each in value)


TABLE = RecordKind(
    "the layers of a disk",
    1,
    {
        "disk": UUID_OR_NONE._replace(required=True),
        "backing": Field(_is_backing, "what backs each layer", required=True),
        "hidden": Field(_is_hidden, "a list of layers"),
        "next": OBJECT,
        "until": TEXT,
    },
)


class Stack(t.NamedTuple):
    """What is backed by what. Layers are known by the uuids of their snapshots, the image by nothing.

    disk -- the layer that the disk is backed by; backing -- of each layer that there is
    hidden -- those whose snapshot was removed, and that others still need
    """

    disk: str = IMAGE
    backing: t.Mapping[str, str] = {}
    hidden: tuple[str, ...] = ()

    def below(self, layer: str) -> list[str]:
        """A layer and those below it, without the image."""
        found: list[str] = []
        while layer != IMAGE:
            if layer in found or layer not in self.backing:
                raise ValueError(f"the layer {layer} is backed by itself or is not there")
            found.append(layer)
            layer = self.backing[layer]
        return found

    def users(self, layer: str) -> list[str]:
        """What is backed by a layer: other layers, and DISK where the disk is."""
        found = [each for each, below in self.backing.items() if below == layer]
        return [*found, *([DISK] if self.disk == layer else [])]

    def without(self, layer: str) -> Stack:
        """The same without a layer: what was backed by it is backed by what it is backed by."""
        below = self.backing[layer]
        backing = {each: below if own == layer else own for each, own in self.backing.items() if each != layer}
        hidden = tuple(each for each in self.hidden if each != layer)
        return Stack(below if self.disk == layer else self.disk, backing, hidden)

    def to_dict(self) -> dict[str, t.Any]:
        """As plain data, for the record."""
        return {"disk": self.disk, "backing": dict(self.backing), "hidden": list(self.hidden)}

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Stack:
        """From a record's data. ValueError says what is wrong with it."""
        found = TABLE.checked(data)
        stack = cls(found["disk"], found["backing"], tuple(found.get("hidden", ())))
        for layer in (stack.disk, *stack.backing, *stack.hidden):
            stack.below(layer)
        return stack


class Layers:
    """The layers of one instance."""

    def __init__(self, look: FamilyLooks, instance: Instance) -> None:
        self.instance = instance
        self.top = look.scope.directory(instance.name)
        self.directory = os.path.join(self.top, "snapshots")
        self._table = os.path.join(self.directory, LAYERS)

    def path(self, layer: str) -> str:
        """The file of a layer; of DISK and NEW_DISK too, and of IMAGE."""
        if layer == IMAGE:
            return base_of(self.instance)
        if layer in (DISK, NEW_DISK):
            return os.path.join(self.top, layer)
        return self.kept(layer, "qcow2")

    def kept(self, layer: str, kind: str) -> str:
        """The file of what is kept of a snapshot: one of KEPT."""
        return os.path.join(self.directory, f"{layer}.{kind}")

    def chain(self, layer: str, stack: Stack | None = None) -> list[Layer]:
        """A layer, or DISK, as programs are told it: with all that is below it, down to the image."""
        stack = stack or self.read()
        own = [DISK, *stack.below(stack.disk)] if layer == DISK else stack.below(layer)
        return [Layer(self.path(each), "qcow2") for each in (*own, IMAGE)]

    def read(self) -> Stack:
        """What is backed by what now. RecordError where that is not known."""
        return self._read()[0]

    def _read(self) -> tuple[Stack, bool]:
        """What counts, and whether a change was begun."""
        found = read_record(self._table, TABLE, "Restore the file from a backup")
        if found is None:
            lost = [name for name in self._files() if name.endswith(".qcow2")]
            if lost:
                raise self._damaged(f"it is missing, and {lost[0]} beside it is a part of the disk")
            return Stack(), False
        try:
            begun = "next" in found
            if begun and not os.path.lexists(os.path.join(self.top, str(found.get("until")))):
                return Stack.from_dict(found["next"]), True
            return Stack.from_dict(found), begun
        except ValueError as exc:
            raise self._damaged(str(exc)) from exc

    def _damaged(self, why: str) -> RecordError:
        return RecordError(
            f"the record {self._table} is damaged",
            f"it does not describe the layers of a disk: {why}",
            "Restore the file from a backup; nothing was changed.",
            record=self._table,
        )

    def _files(self) -> list[str]:
        try:
            return sorted(os.listdir(self.directory))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def recover(self) -> Stack:
        """See to the end of what a killed run had begun: what is done counts, and what is not is taken away."""
        stack, begun = self._read()
        if begun:
            self.write(stack)
        with explained(f"what a run that was ended has left in {self.top} could not be removed"):
            remove_path(self.path(NEW_DISK))
            for name in self._files():
                layer, dummy, kind = name.partition(".")
                if kind.endswith("new") or (kind in KEPT and layer not in stack.backing):
                    remove_path(os.path.join(self.directory, name))
        return stack

    def write(self, stack: Stack, **more: t.Any) -> None:
        """Note what is backed by what; files that are none of it any more go with the next recover()."""
        make_dir(self.directory)
        write_record(self._table, TABLE, {**stack.to_dict(), **more})

    def change(self, stack: Stack, after: Stack, until: str, act: t.Callable[[], None]) -> None:
        """Have it be otherwise by an act, which is done when a file is gone: UNTIL, below the instance's directory."""
        self.write(stack, next=after.to_dict(), until=until)
        with explained(f"the disk of {self.instance.name} could not be given its new layers"):
            act()
            for directory in (self.top, self.directory):
                sync_directory(directory)
        self.write(after)


def sync_directory(path: str) -> None:
    """Have what was renamed or unlinked in a directory outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: str) -> None:
    """Have what a program has written in a file survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_shared(path: str) -> bool:
    """Whether a file is one of other instances as well, which must not see it change."""
    with explained(f"{path} could not be looked at"):
        return os.stat(path).st_nlink > 1


def used_bytes(path: str) -> int:
    """The bytes that a file takes on its disk; 0 where it is not there."""
    with contextlib.suppress(OSError):
        return os.stat(path).st_blocks * 512
    return 0


def base_of(instance: Instance) -> str:
    """The file of the image that the disk of an instance is backed by. RecordError where its record does not tell."""
    path = instance.image.get("path", "")
    if not os.path.isabs(path):
        raise RecordError(
            f"the record of {instance.name} does not tell which image its disk is backed by",
            f"it has the path {path!r}",
            "Restore its file instance.json from a backup, or remove the instance with state: absent.",
        )
    return path
