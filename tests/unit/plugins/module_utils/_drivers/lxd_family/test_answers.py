# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.answers import checked

STATE: dict[str, t.Any] = {
    "network": {"eth0": {"hwaddr": "52:54:00:00:00:01", "addresses": [{"address": "10.0.0.2", "family": "inet"}]}}
}
WEB: dict[str, t.Any] = {
    "name": "web",
    "status": "Running",
    "config": {"a": "b"},
    "devices": {"root": {"path": "/"}},
    "state": STATE,
}
SERVER: dict[str, t.Any] = {
    "auth": "trusted",
    "api_extensions": ["projects"],
    "environment": {"kernel_architecture": "x86_64", "server_version": "5.0", "storage_supported_drivers": [{}]},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("", SERVER),
        ("", {"auth": "untrusted", "api_extensions": []}),
        ("instances", [WEB, {**WEB, "state": None}]),
        ("instances/web", WEB),
        ("instances/web/state", STATE),
        ("instances/web/state", {"network": None}),
        ("networks/x", 7),
    ],
)
def test_what_lxd_answers(path, value):
    assert checked(path, value) is value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("", []),
        ("", {**SERVER, "api_extensions": None}),
        ("", {**SERVER, "environment": []}),
        ("", {**SERVER, "environment": {**SERVER["environment"], "storage_supported_drivers": ["dir"]}}),
        ("instances", WEB),
        ("instances", [WEB, None]),
        ("instances/web", {**WEB, "name": 7}),
        ("instances/web", {**WEB, "status": None}),
        ("instances/web", {**WEB, "location": 7}),
        ("instances/web", {**WEB, "config": {"a": 1}}),
        ("instances/web", {**WEB, "devices": {"root": "x"}}),
        ("instances/web", {key: value for key, value in WEB.items() if key != "devices"}),
        ("instances/web", {**WEB, "state": []}),
        ("instances/web/state", {"network": {"eth0": None}}),
        ("instances/web/state", {"network": {"eth0": {"addresses": {"a": 1}}}}),
        ("instances/web/state", {"network": {"eth0": {"hwaddr": 1}}}),
        ("instances/web/state", {"network": {"eth0": {"addresses": [{}]}}}),
    ],
)
def test_what_has_another_form_is_refused(path, value):
    with pytest.raises(ValueError, match=r"is no|are no|other than texts"):
        checked(path, value)
