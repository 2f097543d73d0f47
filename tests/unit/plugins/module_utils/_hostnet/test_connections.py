# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._hostnet import connections
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime


@pytest.fixture(name="ended")
def _ended(monkeypatch):
    """Calls it as root, with ss there; what was run."""
    ran = []

    def run(argv, **dummy):
        ran.append(argv)
        return Completed(0, "", "")

    monkeypatch.setattr(connections, "find_program", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def call(*addresses):
        connections.end_connections(Runtime(run), addresses)
        return ran

    return call


def test_those_to_each_address_are_ended(ended):
    (argv,) = ended("", "10.1.2.3", "10.1.2.4")
    assert " ".join(argv) == "/usr/bin/ss --kill --tcp --numeric --no-header dst 10.1.2.3 or dst 10.1.2.4"


@pytest.mark.parametrize("addresses", [(), ("",), ("127.0.0.1",)])
def test_without_an_address_none_is(ended, addresses):
    # Without an expression all of them would be.
    assert ended(*addresses) == []


def test_a_user_who_may_not_tries_nothing(ended, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert ended("10.1.2.3") == []
