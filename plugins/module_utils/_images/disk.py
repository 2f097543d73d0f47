# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Disk images: what a file really is, and its one conversion into what drivers use.

Images come from strangers: a qcow2 or vmdk file can name other files of the host as its backing or as its data, and
would carry their content into a guest. What its header says is read here for the sake of errors that people understand;
what counts is what QEMU sees, enclosed with nothing but that file: see confined.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import CommandFailed, ImageError, NoSpace
from ansible_collections.minicloud.local.plugins.module_utils._files import (
    explained,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.confined import (
    FLATTEN,
    Layer,
    QemuImg,
    confined,
    damaged,
    encrypted,
    foreign,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.unpack import compression, free_space
from ansible_collections.minicloud.local.plugins.module_utils._model import format_size
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._writing import made_anew

FORMATS = "qcow2, raw, vmdk, vhdx, vhd and vdi"

_HEAD = 70 * 1024
_BOOT_SIGNATURE = b"\x55\xaa"
_SECTOR = 512
_GET_READY = f"Give a disk image: {FORMATS}, plain or compressed with xz, gzip, zstd or bzip2."

_VMDK_DESCRIPTION = 20

_QCOW2_DIRTY, _QCOW2_CORRUPT, _QCOW2_DATA_FILE, _QCOW2_COMPRESSION = 1, 2, 4, 8
_QCOW2_DATA_FILE_NAME = 0x44415441
_QCOW2_BITMAPS = 0x23852875

# What people take for a disk image: how it begins (offset, bytes), what it is, what to do.
_OTHERS = (
    (0x8001, b"CD001", "an ISO image", "An installer is not a ready system: use the distribution's cloud image."),
    (0, b"PK\x03\x04", "a zip archive", "Unpack it, and give the disk image in it."),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it, and give the disk image in it."),
    (0, b"Rar!", "a rar archive", "Unpack it, and give the disk image in it."),
    (
        257,
        b"ustar",
        "a tar archive",
        "If it is the image of a container, use instance_type: container; else unpack it, and give the disk in it.",
    ),
    (
        0,
        b"hsqs",
        "a squashfs file system",
        "Use instance_type: container for it, which has no disk; or give the disk image of a machine.",
    ),
    (1080, b"\x53\xef", "an ext4 file system without a partition table", "No machine starts from that."),
    (0, b"XFSB", "an XFS file system without a partition table", "No machine starts from that."),
    (0x10040, b"_BHRfS_M", "a btrfs file system without a partition table", "No machine starts from that."),
    (0, b"\x7fELF", "a program", _GET_READY),
    (0, b"MZ", "a program", _GET_READY),
    (0, b"QED\0", "an image in the format qed", FLATTEN),
    (0, b"%PDF", "a PDF document", _GET_READY),
)


# What the formats of disk images begin with.
_DISKS = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"conectix", "vhd"),
)


class Disk(t.NamedTuple):
    """A disk image that can be used.

    format -- qcow2, raw, vmdk, vhdx, vpc or vdi; virtual_size -- bytes, 0 where only qemu-img knows
    ready -- whether its header is that of an image which needs no conversion
    """

    format: str
    virtual_size: int = 0
    ready: bool = False


def inspect(path: str, name: str) -> Disk:
    """What the file at PATH is. ImageError, which speaks of it as NAME, where it is no usable disk image."""
    what = f"the image {name}"
    with explained(f"{what} could not be read"), open(path, "rb") as stream:
        head = stream.read(_HEAD)
        size = os.fstat(stream.fileno()).st_size
        stream.seek(max(0, size - _SECTOR))
        tail = stream.read(_SECTOR)
        if head.startswith(b"QFI\xfb"):
            return _qcow2(head, size, what)
        if head.startswith(b"KDMV"):
            return _vmdk(head, size, what)
    if head.startswith(b"vhdxfile"):
        return Disk("vhdx")
    if head[0x40:0x44] == b"\x7f\x10\xda\xbe":
        return _vdi(head, size, what)
    if head.startswith(b"conectix") or tail.startswith(b"conectix"):
        return _vpc(tail if tail.startswith(b"conectix") else head, size, what)
    taken_for, hint = other(head, size)
    if not taken_for and head[510:512] == _BOOT_SIGNATURE:
        _raw_is_whole(head, size, what)
        return Disk("raw", size)
    raise ImageError(f"{name} is not a disk image", f"it seems to be {taken_for or 'data of an unknown kind'}", hint)


def name_of(head: bytes, tail: bytes = b"") -> str:
    """What disk image a file is that begins and ends so, empty where it is none; nothing is said of its health."""
    for offset, magic, what in _DISKS:
        if head[offset : offset + len(magic)] == magic:
            return what
    if tail.startswith(b"conectix"):
        return "vhd"
    return "raw" if head[510:512] == _BOOT_SIGNATURE and not other(head, len(head))[0] else ""


def other(head: bytes, size: int) -> tuple[str, str]:
    """What a file is that is not a disk image, and what to do; the first is empty where it may be a raw one."""
    if not size:
        return "an empty file", "Look at what should have written it."
    packed = compression(head)
    if packed:
        return f"compressed twice ({packed} within)", "Decompress it once."
    bootable = head[510:512] == _BOOT_SIGNATURE
    for offset, magic, what, hint in _OTHERS:
        # Where these have their magic, a bootable disk has code of its boot loader, and that may be anything.
        if bootable and offset in (1080, 0x10040):
            continue
        if head[offset : offset + len(magic)] == magic:
            return what, hint
    start = head[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<!--")):
        return "a web page", "The URL leads to a page instead of the file, perhaps to a login or an error page."
    if b"disk descriptorfile" in start:
        return "a vmdk description that names other files", FLATTEN
    if not re.search(rb"[^\x09\x0a\x0d\x20-\x7e\x80-\xff]", head[:4096]):
        # Not what it says: it may be anything of this host, and errors are shown and kept.
        return "a text", "Check the URL or path."
    if not head.strip(b"\0"):
        return "nothing but zeros where a partition table should be", "It was not copied as a whole, or never written."
    return "", _GET_READY


def _qcow2(head: bytes, size: int, what: str) -> Disk:
    if len(head) < 104:
        raise damaged(what, f"a qcow2 image does not end after {size} bytes")
    version, backing, dummy, cluster_bits, virtual_size, crypt, l1_size, l1_offset = struct.unpack(
        ">IQIIQIIQ", head[4:48]
    )
    refcount_offset, refcount_clusters, snapshots = struct.unpack(">QII", head[48:64])
    if version not in (2, 3) or not 9 <= cluster_bits <= 21:
        raise damaged(what, f"its header is not one of qcow2 (version {version}, cluster bits {cluster_bits})")
    if backing:
        raise foreign(what, "it is an overlay: it contains only what differs from another file, which it names")
    if crypt:
        raise encrypted(what)
    incompatible, header_length = 0, 72
    autoclear = 0
    if version == 3:
        incompatible, dummy, autoclear, dummy, header_length = struct.unpack(">QQQII", head[72:104])
    extensions = _qcow2_extensions(head, header_length, 1 << cluster_bits)
    if incompatible & _QCOW2_DATA_FILE or _QCOW2_DATA_FILE_NAME in extensions:
        raise foreign(what, "it keeps its data in another file, which it names")
    if incompatible & _QCOW2_CORRUPT:
        raise damaged(what, "it is marked as corrupt")
    ends = (l1_offset + 8 * l1_size, refcount_offset + (refcount_clusters << cluster_bits))
    # The last cluster of a file may be shorter than a cluster.
    if ends[0] > size or (refcount_clusters and refcount_offset >= size):
        raise damaged(what, f"it is cut short: its tables reach to byte {max(ends)}, and it has {size}")
    ready = version == 3 and not snapshots and not incompatible & ~_QCOW2_COMPRESSION
    ready = ready and not autoclear and _QCOW2_BITMAPS not in extensions and cluster_bits >= 14
    return Disk("qcow2", virtual_size, ready)


def _qcow2_extensions(head: bytes, offset: int, cluster: int) -> set[int]:
    found = set()
    while offset + 8 <= min(len(head), cluster):
        kind, length = struct.unpack(">II", head[offset : offset + 8])
        if not kind:
            break
        found.add(kind)
        offset += 8 + (length + 7) // 8 * 8
    return found


def _require(head: bytes, least: int, format_: str, size: int, what: str) -> None:
    """Raise where a file ends within the header that its format has."""
    if len(head) < least:
        raise damaged(what, f"a {format_} image does not end after {size} bytes")


def _vmdk(head: bytes, size: int, what: str) -> Disk:
    _require(head, _SECTOR, "vmdk", size, what)
    # magic, version, flags, capacity, grain size, descriptor offset, descriptor size: all in sectors
    dummy, dummy, capacity, dummy, offset, length = struct.unpack("<IIQQQQ", head[4:44])
    # Where that is, and that it has at most so many sectors, is what QEMU takes for granted.
    if offset != 1 or length > _VMDK_DESCRIPTION:
        raise foreign(what, "it is a vmdk image with its description elsewhere than all have it")
    descriptor = head[_SECTOR : (1 + _VMDK_DESCRIPTION) * _SECTOR]
    kind = re.search(rb'createType\s*=\s*"([^"]*)"', descriptor)
    kind_name = kind[1].decode("ascii", "replace") if kind else ""
    if not capacity or kind_name not in ("monolithicSparse", "streamOptimized"):
        raise foreign(what, f"it is a vmdk image of the kind {kind_name or 'unknown'}, which has its data elsewhere")
    parent = re.search(rb"parentCID\s*=\s*([0-9a-fA-F]+)", descriptor)
    if b"parentFileNameHint" in descriptor or not parent or parent[1].lower() != b"ffffffff":
        raise foreign(what, "it is an overlay: it contains only what differs from another file, which it names")
    return Disk("vmdk", capacity * _SECTOR)


def _vdi(head: bytes, size: int, what: str) -> Disk:
    _require(head, 0x188, "vdi", size, what)
    kind = struct.unpack("<I", head[0x4C:0x50])[0]
    if kind not in (1, 2):
        raise foreign(what, "it is a vdi image that contains only what differs from another file")
    blocks_offset, data_offset = struct.unpack("<II", head[0x154:0x15C])
    virtual_size, block_size, dummy, dummy, allocated = struct.unpack("<QIIII", head[0x170:0x188])
    end = max(data_offset + allocated * block_size, blocks_offset)
    if end > size:
        raise damaged(what, f"it is cut short: it should have {end} bytes, and it has {size}")
    return Disk("vdi", virtual_size)


def _vpc(footer: bytes, size: int, what: str) -> Disk:
    _require(footer, _SECTOR - 1, "vhd", size, what)
    kind = struct.unpack(">I", footer[60:64])[0]
    if kind not in (2, 3):
        raise foreign(what, "it is a vhd image that contains only what differs from another file")
    return Disk("vpc")


def _raw_is_whole(head: bytes, size: int, what: str) -> None:
    """Compare the size of a raw image with where its partitions end."""
    end = 0
    for number in range(4):
        entry = head[446 + 16 * number : 462 + 16 * number]
        kind, first, count = entry[4], *struct.unpack("<II", entry[8:16])
        if kind not in (0, 0xEE) and entry[0] in (0, 0x80):
            end = max(end, (first + count) * _SECTOR)
    if head[512:520] == b"EFI PART":
        _require(head, 2 * _SECTOR, "raw disk", size, what)
        # The last thing on the disk is the second copy of this header.
        end = max(end, (struct.unpack("<Q", head[544:552])[0] + 1) * _SECTOR)
    if end > size:
        raise damaged(what, f"it is cut short: its partitions reach to byte {end}, and it has {size}")


def prepare(runtime: Runtime, source: str, target: str, name: str, movable: bool = False) -> int:
    """Make the image at SOURCE an uncompressed qcow2 (version 3) at TARGET; return the size of the disk in it, bytes.

    movable -- SOURCE may be moved to TARGET instead of being copied
    """
    what = f"the image {name}"
    disk = inspect(source, name)
    if disk.format == "vmdk" and not confined(runtime):
        raise ImageError(
            f"{what} is refused",
            "a vmdk image can name other files of this host, and no namespace can be made here to read it in",
            "Run as root (become: true), let ordinary users make user namespaces, or convert it with"
            " `qemu-img convert -O qcow2` where you trust it.",
        )
    tool = QemuImg(runtime, what)
    runtime.report.step("prepare_image")
    layer = Layer(source, disk.format)
    size = int(tool.info([layer])["virtual-size"])
    as_is = False
    if disk.format == "qcow2":
        needed, compressed = _check(tool, source, what)
        as_is = disk.ready and not compressed
    else:
        needed = tool.measure([layer])
    if as_is and movable:
        with explained(f"{what} could not be moved"):
            os.rename(source, target)
    else:
        _room(os.path.dirname(target), needed, name)
        as_is = as_is and clone(source, target)
        if not as_is:
            _convert(tool, layer, target, size)
    with explained(f"{target} could not be written"):
        os.chmod(target, 0o600)
        descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # The record that comes after this promises that the disk is there, also after a power cut.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    # Guests are based on this file, so it is checked itself: the source may have been written to until now.
    made = inspect(target, name)
    if made.format != "qcow2" or not made.ready or made.virtual_size < size:
        raise damaged(what, "it changed while it was read, or was not converted as a whole")
    return made.virtual_size


def clone(source: str, target: str) -> bool:
    """Copy a file by sharing its blocks, where the file system can do that; False where it cannot."""
    import fcntl

    ficlone = 0x40049409
    try:
        with open(source, "rb") as old, open(made_anew(target), "wb") as new:
            fcntl.ioctl(new.fileno(), ficlone, old.fileno())
        return True
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(target)
        return False


def _check(tool: QemuImg, path: str, what: str) -> tuple[int, int]:
    """The bytes that a qcow2 image's clusters take when uncompressed, and how many of them are compressed."""
    found = tool.check(path)
    if found.get("corruptions") or found.get("check-errors"):
        errors = found.get("corruptions", 0) + found.get("check-errors", 0)
        raise damaged(what, f"its tables have {errors} errors")
    end, size = found.get("image-end-offset", 0), os.path.getsize(path)
    with open(path, "rb") as stream:
        cluster = 1 << struct.unpack(">I", stream.read(24)[20:24])[0]
    # The end is rounded up to a whole cluster.
    if end - size >= cluster:
        raise damaged(what, f"it is cut short: its data reaches to byte {end}, and it has {size}")
    return found.get("allocated-clusters", 0) * cluster, found.get("compressed-clusters", 0)


def _room(directory: str, needed: int, name: str) -> None:
    free = free_space(directory)
    if needed > free:
        raise NoSpace(
            f"the image {name} was not prepared",
            f"it needs {format_size(needed)}, and {format_size(free)} are free in {directory}",
            "Free some space on that file system, or use another data_dir.",
        )


def _convert(tool: QemuImg, layer: Layer, target: str, size: int) -> None:
    try:
        tool.convert([layer], target, "qcow2", size)
    except CommandFailed as exc:
        raise ImageError(
            exc.what, exc.why, "Look whether `qemu-img info` can read it; fetch it anew if it is damaged.", **exc.facts
        ) from exc
