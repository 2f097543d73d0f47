# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._model import GIB
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.settings import change, entries
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

MIRROR = {"release": {"mirror": "https://mirror.example.com/"}}


@pytest.fixture
def data(tmp_path):
    return DataDirectory(str(tmp_path / "data"))


def set_(data, check_mode=False, **params):
    return change(Runtime(None), data, params, check_mode)


def test_nothing_asked_for_changes_nothing_and_tells_what_counts(data):
    changed, before, after = set_(data)
    assert not changed
    assert before == after
    assert (after["cpus"], after["memory"], after["disk"], after["image_hosts"]) == (1, GIB, 5 * GIB, {})


def test_what_is_set_counts_until_it_is_reset(data):
    assert set_(data, True, cpus=2)[0]
    assert set_(data)[2]["cpus"] == 1
    assert set_(data, cpus=2, memory="2G", image_hosts=MIRROR)[0]
    assert not set_(data, cpus=2, memory="2G", image_hosts=MIRROR)[0]
    found = set_(data, reset=["cpus"], disk="9G")[2]
    assert (found["cpus"], found["memory"], found["disk"]) == (1, 2 * GIB, 9 * GIB)
    assert found["image_hosts"] == MIRROR


def test_what_counts_is_told_as_keys_and_values(data):
    found = entries(set_(data, memory="2G", image_hosts=MIRROR)[2])
    assert {each["key"]: each["value"] for each in found} == {
        "local.driver": found[0]["value"],
        "default.cpus": 1,
        "default.memory": "2048M",
        "default.disk": "5120M",
        "image_hosts.release.mirror": MIRROR["release"]["mirror"],
    }


def test_other_settings_stay(data):
    data.change_settings(driver="lxd")
    set_(data, cpus=3)
    assert data.settings()["driver"] == "lxd"


def test_image_hosts_are_changed_key_by_key(data):
    set_(data, image_hosts=MIRROR)
    set_(data, image_hosts={"release": {"user": "me"}, "ours": {"url": "https://ours.example.com/"}})
    assert set_(data)[2]["image_hosts"]["release"] == {**MIRROR["release"], "user": "me"}
    set_(data, image_hosts={"release": {"mirror": None, "user": None}, "ours": None})
    assert set_(data)[2]["image_hosts"] == {}
    assert "image_hosts" not in data.settings()


@pytest.mark.parametrize(
    "params",
    [
        {"cpus": 0},
        {"memory": "1"},
        {"disk": "much"},
        {"image_hosts": {"Not a name": {"url": "https://x.example.com/"}}},
        {"image_hosts": {"ours": "https://x.example.com/"}},
        {"image_hosts": {"ours": {"colour": "red"}}},
    ],
)
def test_what_cannot_be_meant_changes_nothing(data, params):
    set_(data, cpus=2)
    with pytest.raises(InvalidOption):
        set_(data, **{"cpus": 4, **params})
    assert set_(data)[2]["cpus"] == 2
