# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The option ssh_authorized_keys: lines as sshd reads them in authorized_keys, see sshd(8) and RFC 4253, 6.6."""

from __future__ import annotations

import base64
import re
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption

_OPTION = "ssh_authorized_keys"

# The fields of a key after its type: a number of any length, a curve's name with its point, or text of a length.
_NUMBER, _CURVE, _TEXT, _BYTES32 = "number", "curve", "text", "bytes32"
_FIELDS = {
    "ssh-ed25519": (_BYTES32,),
    "ssh-rsa": (_NUMBER, _NUMBER),
    "ssh-dss": (_NUMBER, _NUMBER, _NUMBER, _NUMBER),
    "ecdsa-sha2-nistp256": (_CURVE,),
    "ecdsa-sha2-nistp384": (_CURVE,),
    "ecdsa-sha2-nistp521": (_CURVE,),
    "sk-ssh-ed25519@openssh.com": (_BYTES32, _TEXT),
    "sk-ecdsa-sha2-nistp256@openssh.com": (_CURVE, _TEXT),
}
_COORDINATE_BYTES = {"nistp256": 32, "nistp384": 48, "nistp521": 66}
# sshd takes no shorter ones.
_LEAST_RSA_BITS = 1024

_FLAGS = frozenset(
    (
        *("agent-forwarding", "port-forwarding", "x11-forwarding", "pty", "user-rc"),
        *("no-agent-forwarding", "no-port-forwarding", "no-x11-forwarding", "no-pty", "no-user-rc"),
        *("cert-authority", "no-touch-required", "restrict", "verify-required"),
    )
)
_SETTINGS = frozenset(
    (
        *("command", "environment", "expiry-time", "from", "permitlisten", "permitopen", "principals"),
        "tunnel",
    )
)
_KEY_OPTION = re.compile(r'(?P<name>[A-Za-z0-9-]+)(?P<value>="(?:[^"\\]|\\.)*")?(?P<end>,|[ \t]+)')

_PRIVATE = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY|PuTTY-User-Key-File|^b3BlbnNzaC1rZXktdj", re.MULTILINE)
_OTHER_FORM = re.compile(r"-{4,5} ?BEGIN (?:[A-Z0-9]+ )*PUBLIC KEY")
_PLACE = re.compile(r"(?:[/~.]|[A-Za-z]:\\|https?://|(?:gh|lp):)\S*\Z|\S+\.pub\Z")


class _Wrong(Exception):
    """The line is no public key. arguments: why, and what to do"""


def parse_keys(entries: t.Sequence[str]) -> list[str]:
    """The keys, one each, of entries that are a key or the lines of a file of keys; comments and blank lines go.

    InvalidOption where something is no public key. The message has nothing of the entry: it may be a secret.
    """
    keys: list[str] = []
    for number, entry in enumerate(entries, 1):
        where = f"entry {number} of {_OPTION}"
        if _PRIVATE.search(entry):
            raise InvalidOption(
                f"{where} is a private key",
                "only public keys are given away",
                "Give the content of the file that ends in .pub, and replace the key if others may have seen it.",
            )
        lines = [line.strip() for line in entry.splitlines()]
        for line_number, line in enumerate(lines, 1):
            if not line or line.startswith("#"):
                continue
            try:
                _check_line(line)
            except _Wrong as exc:
                place = f"line {line_number} of {where}" if len(lines) > 1 else where
                raise InvalidOption(f"{place} is not a public key", *exc.args) from None
            keys.append(line)
    return keys


def _check_line(line: str) -> None:
    hint = "Write a line of a .pub file, such as ssh-ed25519 AAAA… NAME."
    if _OTHER_FORM.search(line):
        raise _Wrong("it is in another form than ssh's", "Convert it with ssh-keygen -i, see its options -m and -f.")
    if _PLACE.match(line):
        raise _Wrong(
            "it looks like the place of one", "Give its content, such as \"{{ lookup('file', '~/.ssh/KEY.pub') }}\"."
        )
    if not line.isprintable() and "\t" not in line:
        raise _Wrong("it has characters in it that cannot be shown", hint)
    rest = line
    if line.split(None, 1)[0] not in _FIELDS and not line.split(None, 1)[0].endswith("-cert-v01@openssh.com"):
        rest = _after_options(line, hint)
    kind, dummy, rest = rest.replace("\t", " ").partition(" ")
    if kind.endswith("-cert-v01@openssh.com"):
        raise _Wrong("it is a certificate", "Give the key that signed it, after the option cert-authority.")
    if kind not in _FIELDS:
        raise _Wrong("it has no type that sshd knows", f"{hint} Types are {', '.join(_FIELDS)}.")
    data = rest.split(None, 1)[0] if rest.strip() else ""
    if not data:
        raise _Wrong(f"nothing follows its type {kind}", hint)
    _check_blob(kind, data)


def _after_options(line: str, hint: str) -> str:
    """The line without the options before its type."""
    position = 0
    while True:
        match = _KEY_OPTION.match(line, position)
        known = match and match["name"].lower() in (_SETTINGS if match["value"] else _FLAGS)
        if match is None or not known:
            raise _Wrong("it begins neither with a type of key nor with options as in authorized_keys(5)", hint)
        position = match.end()
        if match["end"] != ",":
            return line[position:]


def _check_blob(kind: str, data: str) -> None:
    again = "Copy it anew, all in one line."
    try:
        blob = base64.b64decode(data.encode("ascii"), validate=True)
    except ValueError:
        raise _Wrong("what follows its type is not base64", again) from None
    try:
        name, blob = _string(blob)
        if name != kind.encode():
            raise _Wrong(f"its type is {kind}, and its data is of another", again)
        for field in _FIELDS[kind]:
            blob = _after_field(kind, field, blob)
    except ValueError:
        raise _Wrong("its data is cut short or damaged", again) from None
    if blob:
        raise _Wrong("its data is longer than a key", again)


def _after_field(kind: str, field: str, blob: bytes) -> bytes:
    value, blob = _string(blob)
    if field == _BYTES32 and len(value) != 32:
        raise ValueError(field)
    if field == _NUMBER and (not value or value[0] & 0x80):
        raise ValueError(field)
    if field == _CURVE:
        curve = value.decode("ascii", "replace")
        point, blob = _string(blob)
        size = _COORDINATE_BYTES.get(curve, 0)
        if f"ecdsa-sha2-{curve}" not in kind or len(point) != 1 + 2 * size or point[0] != 4:
            raise ValueError(field)
    # The last number of an RSA key is its modulus.
    if kind == "ssh-rsa" and not blob and int.from_bytes(value, "big").bit_length() < _LEAST_RSA_BITS:
        raise _Wrong(f"an RSA key of less than {_LEAST_RSA_BITS} bits is not taken by sshd", "Make a longer one.")
    return blob


def _string(blob: bytes) -> tuple[bytes, bytes]:
    """The first string of a blob, and what follows. ValueError where it is cut short."""
    length = int.from_bytes(blob[:4], "big")
    if len(blob) < 4 + length or len(blob) < 4:
        raise ValueError("cut short")
    return blob[4 : 4 + length], blob[4 + length :]
