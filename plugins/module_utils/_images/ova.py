# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Virtual machines in OVA files, as VirtualBox, VMware and others export them: one machine with one disk.

An OVA is a tar archive with a description in XML (OVF) first, the disk, and often a list of checksums. It is read once,
in bounded memory; names in it never become names of files, entities of XML are refused, and the disk goes where all
disks of others go: see confined.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError, NotSupported
from ansible_collections.minicloud.local.plugins.module_utils._images import tar
from ansible_collections.minicloud.local.plugins.module_utils._images.archive import open_regular
from ansible_collections.minicloud.local.plugins.module_utils._images.confined import LARGEST
from ansible_collections.minicloud.local.plugins.module_utils._images.flow import CHUNK
from ansible_collections.minicloud.local.plugins.module_utils._images.origin import (
    Brought,
    Description,
    Origin,
    place_disk,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.unpack import Sparse
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import Vault
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    MAX_CPUS,
    MAX_SIZE,
    key_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir

# Bytes of a description and of a list of checksums; elements of a description, and how deep they are.
_LARGEST, _MOST_ELEMENTS, _DEEPEST = 4 << 20, 50_000, 64

# What a piece of virtual hardware is: CIM's numbers.
_CPU, _MEMORY, _DISK = "3", "4", "17"

_SUM = re.compile(r"(SHA1|SHA256|SHA512) ?\(([^()]{1,255})\) ?= ?([0-9A-Fa-f]{40,128})")
_UNITS = {"byte": 0, "kilobytes": 10, "megabytes": 20, "gigabytes": 30, "kb": 10, "mb": 20, "gb": 30}
_POWER = re.compile(r"byte\s*\*\s*2\s*\^\s*([0-9]{1,2})")


@dataclass
class Element:
    """An element of XML. name and the keys of attributes -- without their namespaces"""

    name: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self, name: str) -> list[Element]:
        """The elements of that name in it, at any depth."""
        found: list[Element] = []
        todo = list(reversed(self.children))
        while todo:
            each = todo.pop()
            found += [each] if each.name == name else []
            todo += reversed(each.children)
        return found

    def child(self, name: str) -> str:
        """The text of the first element of that name right in it; empty where there is none."""
        return next((each.text.strip() for each in self.children if each.name == name), "")


def parse_xml(content: bytes, what: str) -> Element:
    """The outermost element of a document. ImageError for what is no XML, or more than is needed here.

    A document type, and with it every entity of its own, is refused: what they stand for has no bound.
    """
    from xml.parsers import expat

    if len(content) > _LARGEST:
        raise ImageError(f"{what} cannot be used", f"its description has {len(content)} bytes")
    top = Element("", {})
    stack = [top]
    count = 0

    def refuse(*dummy: t.Any) -> t.NoReturn:
        raise ImageError(f"{what} is refused", "its description has a document type, which none needs")

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if count > _MOST_ELEMENTS or len(stack) > _DEEPEST:
            raise ImageError(f"{what} is refused", "its description has too many elements, or too deep ones")
        element = Element(_local(name), {_local(key): value for key, value in attributes.items()})
        stack[-1].children.append(element)
        stack.append(element)

    def end(dummy: str) -> None:
        stack.pop()

    def data(text: str) -> None:
        stack[-1].text += text

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, data
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as exc:
        raise ImageError(
            f"{what} cannot be used", f"its description is not valid XML: {exc}", "Export it anew."
        ) from exc
    return top.children[0]


def _local(name: str) -> str:
    return name.rpartition(" ")[2]


@dataclass
class Machine:
    """What an OVA describes. disk -- the name of the file that has it; bytes otherwise, 0 where nothing is said"""

    name: str
    disk: str
    cpus: int = 0
    memory: int = 0
    capacity: int = 0
    firmware: str = ""


def parse_ovf(content: bytes, what: str) -> Machine:
    """The one machine that a description tells of. ImageError, NotSupported."""
    top = parse_xml(content, what)
    if top.name != "Envelope":
        raise ImageError(f"{what} is no OVA", f"its description begins with {top.name[:40]!r}", "Give another file.")
    systems = top.all("VirtualSystem")
    if len(systems) != 1:
        raise NotSupported(
            f"{what} cannot be used",
            f"it has {len(systems)} virtual machines",
            "Export each of them to a file of its own.",
        )
    system = systems[0]
    disks = {each.attributes.get("diskId", ""): each for each in top.all("Disk")}
    items = [each for each in system.all("Item") if each.child("ResourceType") == _DISK]
    used = [_last(each.child("HostResource")) for each in items if each.child("HostResource")]
    used = [each for each in used if each in disks] or list(disks)
    if len(used) != 1:
        raise NotSupported(
            f"{what} cannot be used",
            f"its machine has {len(used)} disks" if used else "its machine has no disk",
            "An instance has one disk: export the machine with that one alone.",
        )
    disk = disks[used[0]]
    files = {each.attributes.get("id", ""): each for each in top.all("File")}
    file = files.get(disk.attributes.get("fileRef", ""))
    if file is None or not file.attributes.get("href"):
        raise ImageError(f"{what} cannot be used", "its description does not tell where the disk is", "Export it anew.")
    if file.attributes.get("compression", "identity") not in ("", "identity") or file.attributes.get("chunkSize"):
        raise NotSupported(f"{what} cannot be used", "its disk is compressed or cut up", "Export it without that.")
    machine = Machine(
        _name_of(system),
        file.attributes["href"],
        capacity=_bytes(disk.attributes, "capacity", "capacityAllocationUnits"),
    )
    for item in system.all("Item"):
        kind, quantity = item.child("ResourceType"), item.child("VirtualQuantity")
        if kind == _CPU and not machine.cpus:
            machine.cpus = min(_number(quantity), MAX_CPUS)
        elif kind == _MEMORY and not machine.memory:
            found = {"n": quantity, "units": item.child("AllocationUnits") or "MegaBytes"}
            machine.memory = _bytes(found, "n", "units")
    efi = any(
        each.attributes.get("key") == "firmware" and "efi" in each.attributes.get("value", "").lower()
        for each in system.all("Config")
    )
    efi = efi or any("EFI" in each.attributes.get("type", "") for each in system.all("Firmware"))
    machine.firmware = "uefi" if efi else ""
    return machine


def _name_of(system: Element) -> str:
    return (system.child("Name") or system.attributes.get("id", ""))[:200]


def _last(reference: str) -> str:
    return reference.rstrip("/").rpartition("/")[2]


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 20 else 0


def _bytes(found: t.Mapping[str, str], key: str, units: str) -> int:
    """A size with its unit, which is bytes unless it says otherwise; 0 where it makes no sense."""
    unit = found.get(units, "byte").strip().lower() or "byte"
    match = _POWER.fullmatch(unit)
    power = int(match[1]) if match else _UNITS.get(unit, 0)
    size = _number(found.get(key, "").strip()) << power
    return size if size <= MAX_SIZE else 0


class _Enough(Exception):
    """The description is here."""


class _Member:
    """A member on its way: its checksums, and where it goes."""

    def __init__(self, inner: t.Any, done: t.Callable[[dict[str, str]], None]) -> None:
        self._inner = inner
        self._done = done
        self._digests = {name: hashlib.new(name, usedforsecurity=False) for name in ("sha1", "sha256", "sha512")}

    def write(self, data: bytes) -> None:
        """See tar.Member."""
        for digest in self._digests.values():
            digest.update(data)
        self._inner.write(data)

    def close(self) -> None:
        """See tar.Member."""
        self._inner.close()
        self._done({name: digest.hexdigest() for name, digest in self._digests.items()})


class _Kept:
    def __init__(self, done: t.Callable[[bytes], None]) -> None:
        self._content = bytearray()
        self._done = done

    def write(self, data: bytes) -> None:
        self._content += data

    def close(self) -> None:
        self._done(bytes(self._content))


class OvaOrigin(Origin):
    """A virtual machine in an OVA."""

    def __init__(self, runtime: Runtime, path: str) -> None:
        super().__init__(runtime, path)
        self._machine: Machine | None = None
        self._work = ""
        self._disk = ""
        self._fed = 0
        self._target: Sparse | None = None
        self._sums: dict[str, dict[str, str]] = {}
        self._stated: list[tuple[str, str, str]] = []
        self._has_sums = False

    def describe(self) -> Description:
        with contextlib.suppress(_Enough):
            self._read("")
        machine = self._seen()
        return Description(
            name=machine.name or os.path.basename(self.path),
            cpus=machine.cpus,
            memory=machine.memory,
            disk=machine.capacity,
            image={"name": os.path.basename(self.path), "firmware": machine.firmware},
        )

    def _seen(self) -> Machine:
        if self._machine is None:
            raise ImageError(f"{self.path} is no OVA", "it has no description (*.ovf)", "Give another file.")
        return self._machine

    def _read(self, work: str) -> None:
        self._work, self._disk, self._fed = work, "", 0
        self._machine, self._sums, self._stated, self._has_sums = None, {}, [], False
        reader = tar.Reader(self.path, self._begin)
        try:
            with open_regular(self.path) as stream:
                size = os.fstat(stream.fileno()).st_size
                for data in iter(lambda: stream.read(CHUNK), b""):
                    self._fed += len(data)
                    if work:
                        self.runtime.report.progress(os.path.basename(self.path), self._fed, size)
                    reader.write(data)
            reader.close()
        finally:
            if self._target:
                with contextlib.suppress(OSError, ValueError):
                    self._target.close()

    def _begin(self, name: str, size: int) -> tar.Member:
        if name in self._sums:
            raise ImageError(f"{self.path} is refused", f"{name[:80]!r} is in it twice", "Export it anew.")
        self._sums[name] = {}
        kept: t.Any
        if key_of(name).endswith(".ovf") and self._machine is None:
            if size > _LARGEST:
                raise ImageError(f"{self.path} is refused", f"its description has {size} bytes")
            kept = _Kept(self._keep_description)
        elif self._machine is None:
            raise ImageError(
                f"{self.path} is no OVA",
                f"it begins with {name[:80]!r}, and an OVA with its description (*.ovf)",
                "Give another file.",
            )
        elif key_of(name).endswith(".mf") and size <= _LARGEST:
            if self._has_sums:
                raise ImageError(f"{self.path} is refused", "it has two lists of checksums (*.mf)", "Export it anew.")
            self._has_sums = True
            kept = _Kept(self._keep_sums)
        elif name == self._machine.disk and self._work:
            if size > LARGEST:
                raise ImageError(f"{self.path} is refused", f"its disk has {size} bytes")
            self._disk = os.path.join(self._work, "disk")
            kept = self._target = Sparse(self._disk, size, lambda: self._fed)
        else:
            kept = _Nothing()
        return _Member(kept, lambda sums: self._sums.update({name: sums}))

    def _keep_description(self, content: bytes) -> None:
        self._machine = parse_ovf(content, self.path)
        if not self._work:
            raise _Enough

    def _keep_sums(self, content: bytes) -> None:
        for line in content.decode("utf-8", "replace").splitlines():
            match = _SUM.fullmatch(line.strip())
            if match:
                self._stated.append((match[1].lower(), match[2], match[3].lower()))

    def unpack(self, vault: Vault, work: str, layered: bool) -> Brought:
        found = self.describe()
        self._read(make_dir(os.path.join(work, "members")))
        machine = self._seen()
        if not self._disk:
            raise ImageError(
                f"{self.path} is cut short", f"the disk {machine.disk[:80]!r} is not in it", "Copy or export it anew."
            )
        for algorithm, name, stated in self._stated:
            if self._sums.get(name, {}).get(algorithm) != stated:
                raise ImageError(
                    f"{self.path} is damaged", f"{name[:80]!r} does not match its checksum", "Copy or export it anew."
                )
        self.runtime.report.step("verified")
        hash_ = hashlib.sha256(f"ova {self._sums[machine.disk]['sha256']}".encode()).hexdigest()
        return Brought(
            place_disk(self.runtime, vault, work, self._disk, f"the disk in {self.path}", hash_, found, self.path)
        )


class _Nothing:
    """Takes bytes that nobody needs."""

    def write(self, data: bytes) -> None:
        """See tar.Member."""

    def close(self) -> None:
        """See tar.Member."""
