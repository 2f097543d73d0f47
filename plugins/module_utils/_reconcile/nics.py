# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The option networks of an instance."""

from __future__ import annotations

import re
import typing as t
from dataclasses import replace

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ADDRESS,
    BRIDGED_TO,
    DEFAULT_NETWORK,
    USER_NETWORK,
    Nic,
    check_name,
    key_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._network import Network

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}\Z")

# Interfaces of the host that can be part of a network's name.
_PARENT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,13}[A-Za-z0-9])?\Z")

# The bit of a MAC that says that it is many hosts' address.
_GROUP = 0x01


def parse_nics(entries: t.Sequence[t.Mapping[str, t.Any]]) -> list[Nic]:
    """Interfaces from their descriptions. InvalidOption where one of them cannot be meant."""
    nics: list[Nic] = []
    for entry in entries:
        name = check_name(_bridged(entry) or entry.get("name") or DEFAULT_NETWORK, "networks: name")
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


def _bridged(entry: t.Mapping[str, t.Any]) -> str:
    """The name of the network that the key bridged means; empty without it."""
    parent = entry.get("bridged") or ""
    if parent and entry.get("name"):
        raise InvalidOption(
            f"networks has an entry with both name {entry['name']} and bridged {parent}",
            "each of them says which network the interface is on",
            "Leave one of them out.",
        )
    if parent and not _PARENT.match(parent):
        raise InvalidOption(
            f"bridged {parent!r} has no name that a network could be called after",
            hint="Make the network with minicloud.local.network (mode: bridged, parent), and name it in networks.",
        )
    return parent and BRIDGED_TO + parent


def find_bridged(nics: t.Sequence[Nic], networks: t.Sequence[Network]) -> list[Nic]:
    """Interfaces as parsed, those that were asked for by the parent of their network on the one that is there.

    networks -- of the scope. InvalidOption where the name that it would have is another's.
    """
    found = []
    for nic in nics:
        parent = bridged_parent(nic.network)
        same = [each for each in networks if parent and each.mode == "bridged" and each.parent == parent]
        named = next((each for each in networks if parent and key_of(each.name) == key_of(nic.network)), None)
        if same and named not in same:
            nic = replace(nic, network=min(each.name for each in same))
        elif named and not same:
            raise InvalidOption(
                f"an interface cannot be bridged to {parent}",
                f"there is a network {named.name} already, and it is not bridged to {parent}",
                "Name the network that you mean in networks, or remove that one.",
            )
        found.append(nic)
    return found


def bridged_parent(network: str) -> str:
    """What a network is bridged to that has got its name from that; empty of any other."""
    return network[len(BRIDGED_TO) :] if network.startswith(BRIDGED_TO) else ""


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
    if ":" in text or not ADDRESS.holds(text):
        raise InvalidOption(
            f"address {text!r} is not an IPv4 address that an instance can have",
            hint="Write it like 10.20.30.40, without a prefix length.",
        )
    return text
