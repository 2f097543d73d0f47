# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Generators of hostile disk images: each makes a file that names another one, or is damaged on purpose."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import tarfile

SECTOR = 512
MIB = 1 << 20


def qemu_img(*argv):
    subprocess.run(["qemu-img", *map(str, argv)], check=True, capture_output=True)


def create(path, format_, *options, size="4M"):
    """An empty image as qemu-img makes it."""
    qemu_img("create", "-q", "-f", format_, *options, path, size)
    return str(path)


def patch(path, offset, data):
    with open(path, "r+b") as stream:
        stream.seek(offset)
        stream.write(data)
    return str(path)


def bootable(size=4 * MIB):
    """The beginning of a raw disk with a partition table."""
    entry = struct.pack("<B3sB3sII", 0x80, b"", 0x83, b"", 2048, size // SECTOR - 2048)
    return (bytes(446) + entry + bytes(48) + b"\x55\xaa").ljust(size, b"\0")


# vmdk


def description(parent="", kind="monolithicSparse", extents=('RW 2048 SPARSE "x.vmdk"',), cid="ffffffff"):
    lines = ["# Disk DescriptorFile", "version=1", "CID=11111111", f"parentCID={cid}", f'createType="{kind}"']
    if parent:
        lines.append(f'parentFileNameHint="{parent}"')
    return "\n".join([*lines, *extents, ""]).encode()


def sparse_vmdk(path, at_sector_1, elsewhere=b"", offset=1, length=20, capacity=2048):
    """An empty sparse vmdk. at_sector_1 -- the description that QEMU reads; elsewhere -- another, at sector 21"""
    grain, entries = 128, 512
    buffer = bytearray(128 * SECTOR)
    head = b"KDMV" + struct.pack("<IIQQQQIQQQ", 1, 3, capacity, grain, offset, length, entries, 0, 41, 128)
    buffer[: len(head) + 7] = head + b"\0" + b"\n \r\n" + b"\0\0"
    buffer[SECTOR : SECTOR + len(at_sector_1)] = at_sector_1
    buffer[21 * SECTOR : 21 * SECTOR + len(elsewhere)] = elsewhere
    struct.pack_into("<I", buffer, 41 * SECTOR, 42)
    with open(path, "wb") as stream:
        stream.write(buffer)
    return str(path)


def vmdk_two_descriptions(path, bait):
    """The header points at a harmless description, and QEMU reads another one."""
    return sparse_vmdk(path, description(bait, cid="deadbeef"), description(), offset=21)


def vmdk_parent(path, bait):
    return sparse_vmdk(path, description(bait, cid="deadbeef"))


def vmdk_parent_in_json(path, bait):
    """Its parent is itself with an offset, where a flat extent of any path is described."""
    node = f'json:{{\\"driver\\":\\"raw\\",\\"offset\\":{21 * SECTOR},\\"file.filename\\":\\"{path}\\"}}'
    flat = description(kind="monolithicFlat", extents=(f'RW 2048 FLAT "{bait}" 0',))
    return sparse_vmdk(path, description(node, cid="deadbeef"), flat)


def vmdk_parent_beyond_its_length(path, bait):
    """The header says that the description is shorter than QEMU takes it for."""
    padded = description().ljust(5 * SECTOR, b"\n") + f'parentFileNameHint="{bait}"\n'.encode()
    return sparse_vmdk(path, padded.replace(b"parentCID=ffffffff", b"parentCID=deadbeef"), length=2)


def vmdk_without_capacity(path, bait):
    flat = description(kind="monolithicFlat", extents=(f'RW 2048 FLAT "{bait}" 0',))
    return sparse_vmdk(path, flat, capacity=0)


def vmdk_flat(path, bait):
    with open(path, "wb") as stream:
        stream.write(description(kind="monolithicFlat", extents=(f'RW 2048 FLAT "{bait}" 0',)))
    return str(path)


def vmdk_two_files(path, bait):
    directory = os.path.dirname(path)
    create(os.path.join(directory, "two.vmdk"), "vmdk", "-o", "subformat=twoGbMaxExtentSparse")
    os.rename(os.path.join(directory, "two-s001.vmdk"), path)
    return patch(path, SECTOR, description(kind="twoGbMaxExtentSparse", extents=(f'RW 2048 FLAT "{bait}" 0',)))


# qcow2


def qcow2_backing(path, bait):
    return create(path, "qcow2", "-u", "-b", bait, "-F", "raw")


def qcow2_old_backing(path, bait):
    return create(path, "qcow2", "-o", "compat=0.10", "-u", "-b", bait, "-F", "raw")


def qcow2_backing_in_json(path, bait):
    node = f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{bait}"}}}}'
    return create(path, "qcow2", "-u", "-b", node, "-F", "raw")


def qcow2_data_file(path, bait):
    create(path, "qcow2", "-o", f"data_file={path}.data,data_file_raw=on")
    os.unlink(f"{path}.data")
    with open(path, "rb") as stream:
        head = stream.read(65536)
    name = f"{path}.data".encode()
    return patch(path, head.index(name), (b"." + b"/" * (len(name) - 1 - len(bait)) + bait.encode())[-len(name) :])


def qcow2_data_file_without_name(path, bait):
    return patch(create(path, "qcow2"), 72, struct.pack(">Q", 4))


def qcow2_encrypted(path, bait):
    return patch(create(path, "qcow2"), 32, struct.pack(">I", 1))


def qcow2_endless_table(path, bait):
    return patch(create(path, "qcow2"), 36, struct.pack(">IQ", 0xFFFFFFFF, 0x30000))


def qcow2_exabytes(path, bait):
    return patch(create(path, "qcow2"), 24, struct.pack(">Q", 1 << 62))


def qcow2_bitmaps(path, bait):
    create(path, "qcow2")
    qemu_img("bitmap", "--add", path, "b")
    with open(path, "rb") as stream:
        head = stream.read(65536)
    offset = head.index(struct.pack(">I", 0x23852875))
    return patch(path, offset + 8, struct.pack(">IIQQ", 65535, 0, 1 << 30, 0x7FFFFFFFFFFF0000))


# vhd, vhdx, vdi


def vhd_differencing(path, bait):
    create(path, "vpc")
    return patch(patch(path, 60, struct.pack(">I", 4)), os.path.getsize(path) - SECTOR + 60, struct.pack(">I", 4))


def vhdx_parent(path, bait):
    """The flag that it has a parent, in its metadata."""
    create(path, "vhdx")
    with open(path, "rb") as stream:
        content = stream.read()
    # File parameters: the size of a block, and flags; their entry in the table has its offset and length.
    guid = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
    table = content.index(b"metadata")
    entry = content.index(guid, table)
    offset = table + struct.unpack("<I", content[entry + 16 : entry + 20])[0]
    return patch(path, offset + 4, struct.pack("<I", 2))


def vdi_differencing(path, bait):
    return patch(create(path, "vdi"), 0x4C, struct.pack("<I", 4))


# raw, archives


def raw_gpt_beyond_its_end(path, bait):
    header = b"EFI PART" + bytes(24) + struct.pack("<Q", (1 << 64) - 1)
    with open(path, "wb") as stream:
        stream.write(bootable()[:512] + header.ljust(SECTOR, b"\0") + bytes(MIB))
    return str(path)


def archive(path, bait):
    """An appliance (OVA) whose disk is a link to the file."""
    with tarfile.open(path, "w") as stream:
        for name, kind, target in (
            ("box.ovf", tarfile.SYMTYPE, bait),
            ("box.vmdk", tarfile.LNKTYPE, bait),
            (bait, tarfile.REGTYPE, ""),
            ("../../x", tarfile.REGTYPE, ""),
            ("device", tarfile.CHRTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            stream.addfile(member, io.BytesIO())
    return str(path)


def pax_archive(size):
    """A tar archive with a member that has SIZE, a text, in its extended header."""
    value = f" size={size}\n"
    length = len(value) + len(str(len(value) + 4))
    record = f"{length}{value}".encode()
    stream = io.BytesIO()
    for kind, content in ((b"x", record), (b"0", b"")):
        member = tarfile.TarInfo("member")
        member.type, member.size = kind, len(content)
        stream.write(member.tobuf(tarfile.USTAR_FORMAT))
        stream.write(content.ljust(-(-len(content) // SECTOR) * SECTOR, b"\0"))
    return stream.getvalue() + bytes(2 * SECTOR)


# All that makes a file for PATH which would lead to BAIT, or is refused for another reason.
HOSTILE = (
    vmdk_two_descriptions,
    vmdk_parent,
    vmdk_parent_in_json,
    vmdk_parent_beyond_its_length,
    vmdk_without_capacity,
    vmdk_flat,
    vmdk_two_files,
    qcow2_backing,
    qcow2_old_backing,
    qcow2_backing_in_json,
    qcow2_data_file,
    qcow2_data_file_without_name,
    qcow2_encrypted,
    qcow2_endless_table,
    qcow2_exabytes,
    qcow2_bitmaps,
    vhd_differencing,
    vhdx_parent,
    vdi_differencing,
    raw_gpt_beyond_its_end,
    archive,
)
