# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Small ISO 9660 images with Joliet names, as cloud-init's NoCloud data source reads them."""

from __future__ import annotations

import struct
import typing as t

_SECTOR = 2048
_FIRST_DESCRIPTOR = 16
# Descriptors (primary, Joliet, end), then the two path tables of each tree, each in both byte orders.
_PATH_TABLES = _FIRST_DESCRIPTOR + 3
_FIRST_DIRECTORY = _PATH_TABLES + 4
_DIRECTORY_FLAG = 2
# Padding that other writers add too. Busybox takes a device below 64 KiB for empty and does not look for a label.
_LAST_PADDING = 150
_JOLIET_LEVEL_3 = b"%/E"
# A fixed date, 1980-01-01 00:00 UTC, and "not given": the same files make the same image.
_RECORD_DATE = bytes((80, 1, 1, 0, 0, 0, 0))
_NO_DATE = b"0" * 16 + b"\0"


class _File(t.NamedTuple):
    name: str
    sector: int
    size: int


def iso_image(files: t.Mapping[str, bytes], volume_id: str) -> bytes:
    """An image with FILES (plain name → content) in its root directory, labelled VOLUME_ID.

    Deterministic: the same input gives the same bytes. Names keep their case and hyphens through Joliet; the plain
    ISO names are their upper-case form with the hyphen kept, which ECMA-119 does not foresee but which lets a reader
    that knows neither Joliet nor Rock Ridge still find user-data.
    Raises ValueError where a name, the label or a file does not fit into the format.
    """
    for name in files:
        if not name or len(name) > 28 or not name.isascii() or set(name) & set('/\\*?:;"') or not name.isprintable():
            raise ValueError(f"{name!r} cannot be the name of a file in an ISO image")
    if len(volume_id) > 16 or not volume_id.isascii():
        raise ValueError(f"{volume_id!r} cannot be the label of an ISO image")
    if len({name.upper() for name in files}) < len(files):
        raise ValueError("names in an ISO image must differ in more than case")
    if any(len(content) >= 1 << 32 for content in files.values()):
        raise ValueError("a file in an ISO image must be smaller than 4 GiB")

    # All positions follow from sizes, so directories are built twice: the first time for their sizes only.
    names = sorted(files)
    sizes = [_File(name, 0, len(files[name])) for name in names]
    plain_sectors = len(_directory(sizes, 0, _plain_name)) // _SECTOR
    joliet_at = _FIRST_DIRECTORY + plain_sectors
    next_sector = joliet_at + len(_directory(sizes, 0, _joliet_name)) // _SECTOR
    placed = []
    for entry in sizes:
        placed.append(entry._replace(sector=next_sector))
        next_sector += _sectors(entry.size)

    next_sector += _LAST_PADDING
    plain = _directory(placed, _FIRST_DIRECTORY, _plain_name)
    joliet = _directory(placed, joliet_at, _joliet_name)
    parts = [
        bytes(_FIRST_DESCRIPTOR * _SECTOR),
        _descriptor(1, volume_id, next_sector, _PATH_TABLES, _FIRST_DIRECTORY, len(plain)),
        _descriptor(2, volume_id, next_sector, _PATH_TABLES + 2, joliet_at, len(joliet)),
        _padded(b"\xffCD001\x01"),
        _path_table("<", _FIRST_DIRECTORY),
        _path_table(">", _FIRST_DIRECTORY),
        _path_table("<", joliet_at),
        _path_table(">", joliet_at),
        plain,
        joliet,
    ]
    parts.extend(_padded(files[name]) for name in names)
    parts.append(bytes(_LAST_PADDING * _SECTOR))
    return b"".join(parts)


def iso_files(image: bytes) -> dict[str, bytes]:
    """The files of an image that iso_image() has made. ValueError where it is none."""
    at = (_FIRST_DESCRIPTOR + 1) * _SECTOR
    if image[at : at + 6] != b"\x02CD001":
        raise ValueError("it is no image of this kind")
    sector, size = struct.unpack_from("<I4xI", image, at + 156 + 2)
    directory = image[sector * _SECTOR :][:size]
    found: dict[str, bytes] = {}
    offset = 0
    while offset < len(directory):
        length = directory[offset]
        if not length:  # the rest of a sector
            offset = (offset // _SECTOR + 1) * _SECTOR
            continue
        sector, size = struct.unpack_from("<I4xI", directory, offset + 2)
        name = directory[offset + 33 :][: directory[offset + 32]]
        if not directory[offset + 25] & _DIRECTORY_FLAG:
            found[name.decode("utf-16-be").partition(";")[0]] = image[sector * _SECTOR :][:size]
        offset += length
    return found


def _sectors(size: int) -> int:
    return -(-size // _SECTOR)


def _padded(data: bytes) -> bytes:
    return data.ljust(_sectors(len(data)) * _SECTOR, b"\0")


def _both(number: int) -> bytes:
    """A 32-bit number in both byte orders, as most fields have it."""
    return struct.pack("<I", number) + struct.pack(">I", number)


def _both16(number: int) -> bytes:
    return struct.pack("<H", number) + struct.pack(">H", number)


def _plain_name(name: str) -> bytes:
    return f"{name.upper()}{'' if '.' in name else '.'};1".encode("ascii")


def _joliet_name(name: str) -> bytes:
    return f"{name};1".encode("utf-16-be")


def _record(name: bytes, sector: int, size: int, flags: int = 0) -> bytes:
    body = _both(sector) + _both(size) + _RECORD_DATE + bytes((flags, 0, 0)) + _both16(1) + bytes((len(name),)) + name
    body += b"\0" * (len(body) % 2)
    return bytes((len(body) + 2, 0)) + body


def _directory(files: t.Sequence[_File], sector: int, encode: t.Callable[[str], bytes]) -> bytes:
    """The root directory at SECTOR; a record never crosses from one sector into the next."""

    def layout(size: int) -> bytes:
        # "." and "..", which is the root itself here, are named by one byte each.
        records = [_record(b"\0", sector, size, _DIRECTORY_FLAG), _record(b"\1", sector, size, _DIRECTORY_FLAG)]
        records += [_record(encode(f.name), f.sector, f.size) for f in sorted(files, key=lambda f: encode(f.name))]
        data = b""
        for record in records:
            if len(data) % _SECTOR + len(record) > _SECTOR:
                data = _padded(data)
            data += record
        return _padded(data)

    return layout(len(layout(0)))


def _path_table(order: str, directory: int) -> bytes:
    """The list of all directories: the root alone. ORDER is struct's sign for the byte order."""
    return _padded(b"\x01\x00" + struct.pack(f"{order}IH", directory, 1) + b"\0\0")


def _descriptor(kind: int, volume_id: str, sectors: int, tables: int, directory: int, directory_size: int) -> bytes:
    """The primary (1) or the Joliet (2) volume descriptor."""
    joliet = kind == 2

    def text(value: str, width: int) -> bytes:
        # Joliet's text is UCS-2, of which an odd width holds no last half.
        return (
            value.ljust(width // 2).encode("utf-16-be").ljust(width, b"\0") if joliet else value.ljust(width).encode()
        )

    data = b"".join(
        (
            bytes((kind,)) + b"CD001\x01\0",
            text("", 32),  # system
            text(volume_id, 32),
            bytes(8),
            _both(sectors),
            (_JOLIET_LEVEL_3 if joliet else b"").ljust(32, b"\0"),
            _both16(1) + _both16(1) + _both16(_SECTOR),
            _both(10),  # bytes in a path table
            struct.pack("<II", tables, 0) + struct.pack(">II", tables + 1, 0),
            _record(b"\0", directory, directory_size, _DIRECTORY_FLAG),
            text("", 4 * 128 + 3 * 37) if not joliet else text("", 4 * 128) + 3 * text("", 37),
            _NO_DATE * 4,  # made, changed, expires, effective from
            b"\x01",
        )
    )
    return _padded(data)
