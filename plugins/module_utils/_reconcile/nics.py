# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The option networks of an instance."""

from __future__ import annotations

import re
import socket
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    DEFAULT_NETWORK,
    USER_NETWORK,
    Nic,
    check_name,
)

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}\Z")

# The bit of a MAC that says that it is many hosts' address.
_GROUP = 0x01


def parse_nics(entries: t.Sequence[t.Mapping[str, t.Any]]) -> list[Nic]:
    """Interfaces from their descriptions. InvalidOption where one of them cannot be meant."""
    nics: list[Nic] = []
    for entry in entries:
        name = check_name(entry.get("name") or DEFAULT_NETWORK, "networks: name")
        nic = Nic(name, _mac(entry.get("mac")), entry.get("mode") or "auto", _address(entry.get("address")))
        if nic.address and (nic.mode == "manual" or name == USER_NETWORK):
            raise InvalidOption(
                f"address {nic.address} cannot be given on the network {name}",
                "its mode is manual, so nobody gives it one"
                if nic.mode == "manual"
                else "every guest has the same one",
                "Leave address out, or change the other option.",
            )
        for field in ("mac", "address"):
            value = getattr(nic, field)
            if value and any(getattr(other, field) == value for other in nics):
                raise InvalidOption(f"networks has the {field} {value} twice", hint="Give each interface its own.")
        if name == USER_NETWORK and any(other.network == USER_NETWORK for other in nics):
            raise InvalidOption("networks has the network user twice", hint="One is all that a guest can use.")
        nics.append(nic)
    return nics


def _mac(text: str | None) -> str:
    if not text:
        return ""
    mac = text.lower().replace("-", ":")
    if not _MAC.match(mac) or int(mac[:2], 16) & _GROUP or not int(mac.replace(":", ""), 16):
        raise InvalidOption(
            f"mac {text!r} is not the address of one interface",
            hint="Write six pairs of hexadecimal digits, the first of them even, such as 52:54:00:12:34:56.",
        )
    return mac


def _address(text: str | None) -> str:
    if not text:
        return ""
    try:
        return socket.inet_ntop(socket.AF_INET, socket.inet_pton(socket.AF_INET, text))
    except OSError as exc:
        raise InvalidOption(
            f"address {text!r} is not an IPv4 address", hint="Write it like 10.20.30.40, without a prefix length."
        ) from exc
