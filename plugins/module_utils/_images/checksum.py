# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What an image must be: the checksum option and the lists of checksums that servers publish."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError, InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import checked_url

LENGTHS = {"sha256": 64, "sha512": 128}

_HEX = re.compile(r"[0-9a-fA-F]+\Z")
_GNU = re.compile(r"\\?([0-9a-fA-F]{64}|[0-9a-fA-F]{128})[ \t]+\*?(.+)\Z")
_BSD = re.compile(r"(SHA(?:2-)?(?:256|512)) ?\((.+)\) ?= ?([0-9a-fA-F]{64}|[0-9a-fA-F]{128})\Z")


class Promise(t.NamedTuple):
    """What the user says the image is. algorithm -- sha256 or sha512; value -- hex, or the URL of a list"""

    algorithm: str
    value: str

    @property
    def url(self) -> str:
        """The URL of the list that holds the checksum; empty where the checksum itself was given."""
        return self.value if "://" in self.value else ""


def parse_checksum(text: str) -> Promise | None:
    """What the checksum option says, or None where it is empty. InvalidOption where it cannot be meant."""
    text = text.strip()
    if not text:
        return None
    algorithm, colon, value = text.partition(":")
    algorithm, value = algorithm.lower(), value.strip()
    if colon and algorithm in LENGTHS:
        if value.lower().startswith(("https://", "http://")):
            return Promise(algorithm, checked_url(value, "checksum"))
        if _HEX.match(value) and len(value) == LENGTHS[algorithm]:
            return Promise(algorithm, value.lower())
        raise InvalidOption(
            f"checksum {text!r} is not valid",
            f"a {algorithm} checksum has {LENGTHS[algorithm]} hexadecimal digits, and this has {len(value)} characters",
            f"Write {algorithm}:HEX, or {algorithm}:URL of the list that holds it.",
        )
    hint = "Write sha256:HEX, sha512:HEX, or sha256:https://…/SHA256SUMS."
    for name, length in LENGTHS.items():
        if not colon and len(text) == length and _HEX.match(text):
            hint = f"Write {name}:{text}."
    raise InvalidOption(f"checksum {text!r} is not valid", "it does not begin with sha256: or sha512:", hint)


def find_in_list(text: str, filename: str, algorithm: str, url: str) -> str:
    """The checksum (hex) of a file in a list as sha256sum (GNU) or shasum --tag (BSD) write it.

    A list that holds one bare checksum and no names is taken for the file's own.
    """
    length = LENGTHS[algorithm]
    found: dict[str, str] = {}
    # Some editors put a byte order mark before the text.
    lines = [line.strip() for line in text.lstrip("\ufeff").splitlines()]
    for line in lines:
        bsd = _BSD.match(line)
        gnu = _GNU.match(line)
        if bsd:
            name, value = bsd[2], bsd[3]
        elif gnu:
            name, value = gnu[2], gnu[1]
        else:
            continue
        if len(value) == length:
            found[name.strip().rpartition("/")[2]] = value.lower()
    if filename in found:
        return found[filename]
    bare = [line for line in lines if _HEX.match(line) and len(line) == length]
    if not found and len(bare) == 1:
        return bare[0].lower()
    names = sorted(found)
    listed = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    raise ImageError(
        f"the list of checksums {url} has no {algorithm} checksum of {filename}",
        f"it has those of {listed}" if names else f"it has no {algorithm} checksums at all",
        "Give the list that belongs to this image, or the checksum itself.",
        listed=names,
    )
