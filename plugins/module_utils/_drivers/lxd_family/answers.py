# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The forms of what LXD answers, as far as anything here relies on them."""

from __future__ import annotations

import typing as t


def checked(path: str, value: t.Any) -> t.Any:
    """What LXD answers for PATH (such as instances/web), if it has the form that this has; else ValueError."""
    place = path.split("/")
    if path == "":
        _check_server(value)
    elif place == ["instances"]:
        if not isinstance(value, list):
            raise ValueError("instances are no list")
        for each in value:
            _check_instance(each)
    elif place[0] == "instances" and len(place) == 2:
        _check_instance(value)
    elif place[0] == "instances" and place[2:] == ["state"]:
        _check_state(value)
    return value


def _object(value: t.Any, what: str) -> dict[str, t.Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no object")
    return value


def _check_texts(value: t.Any, what: str) -> None:
    if not all(isinstance(each, str) for each in _object(value, what).values()):
        raise ValueError(f"{what} has something other than texts")


def _check_server(value: t.Any) -> None:
    server = _object(value, "the server")
    extensions = server.get("api_extensions", [])
    if not isinstance(extensions, list) or not all(isinstance(each, str) for each in extensions):
        raise ValueError("api_extensions is no list of texts")
    environment = _object(server.get("environment", {}), "environment")
    drivers = environment.get("storage_supported_drivers") or []
    if not isinstance(drivers, list) or not all(isinstance(each, dict) for each in drivers):
        raise ValueError("storage_supported_drivers is no list of objects")


def _check_instance(value: t.Any) -> None:
    instance = _object(value, "an instance")
    for key in ("name", "status"):
        if not isinstance(instance.get(key), str):
            raise ValueError(f"{key} of an instance is no text")
    for key in ("location", "project"):
        if not isinstance(instance.get(key) or "", str):
            raise ValueError(f"{key} of an instance is no text")
    _check_texts(instance.get("config"), "config")
    for device in _object(instance.get("devices"), "devices").values():
        _check_texts(device, "a device")
    if instance.get("state") is not None:
        _check_state(instance["state"])


def _check_state(value: t.Any) -> None:
    interfaces = _object(value, "state").get("network") or {}
    for interface in _object(interfaces, "network").values():
        if not isinstance(_object(interface, "an interface").get("hwaddr") or "", str):
            raise ValueError("hwaddr is no text")
        addresses = interface.get("addresses") or []
        if not isinstance(addresses, list):
            raise ValueError("addresses are no list")
        for address in addresses:
            if not isinstance(_object(address, "an address").get("address"), str):
                raise ValueError("an address is no text")
