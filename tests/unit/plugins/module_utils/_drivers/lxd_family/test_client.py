# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import types

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import client

IN_THE_WAY = "Failed to create instance update operation: A matching non-reusable operation has now succeeded"


class Refusal(Exception):
    """What pylxd raises."""


PYLXD = types.SimpleNamespace(exceptions=types.SimpleNamespace(LXDAPIException=Refusal))


class Server:
    def __init__(self, *refusals):
        self.refusals = list(refusals)
        self.asked = 0

    def __call__(self):
        self.asked += 1
        if self.refusals:
            raise Refusal(self.refusals.pop(0))
        return {"metadata": "done"}


def test_what_a_killed_run_has_begun_is_only_in_the_way_until_it_is_done():
    server = Server(IN_THE_WAY, IN_THE_WAY)
    assert client._unhindered(server, PYLXD) == {"metadata": "done"}
    assert server.asked == 3


@pytest.mark.parametrize(("refusals", "asked"), [(["not found"], 1), ([IN_THE_WAY] * 100, client._TRIES)])
def test_other_refusals_and_those_without_end_are_told(refusals, asked):
    server = Server(*refusals)
    with pytest.raises(Refusal):
        client._unhindered(server, PYLXD)
    assert server.asked == asked


def test_the_result_of_an_operation_may_tell_the_same():
    answers = [{"metadata": {"err": IN_THE_WAY}}, {"metadata": {"err": "", "status": "Success"}}]
    assert client._unhindered(lambda: answers.pop(0), PYLXD) == {"metadata": {"err": "", "status": "Success"}}
    assert not answers
