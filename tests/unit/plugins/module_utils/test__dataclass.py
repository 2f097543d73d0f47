# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import dataclasses
import typing as t

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._dataclass import dataclass


@dataclass
class Ours:
    name: str
    size: int = 1
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Pythons:
    name: str
    size: int = 1
    tags: list[str] = dataclasses.field(default_factory=list)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (("a",), {}),
        ((), {"name": "a", "tags": ["x"]}),
        (("a", 2, ["y"]), {}),
        (("a", 2), {"tags": ["z"]}),
        # Mistakes.
        ((), {}),
        (("a",), {"name": "b"}),
        (("a",), {"other": 1}),
        ((), {"other": 1}),
        (("a", 1, [], 4), {}),
    ],
)
def test_it_takes_and_refuses_what_a_dataclass_does(values: t.Any, named: t.Any) -> None:
    try:
        wanted = Pythons(*values, **named)
    except TypeError:
        with pytest.raises(TypeError, match="Ours"):
            Ours(*values, **named)
        return
    made = Ours(*values, **named)
    assert dataclasses.asdict(made) == dataclasses.asdict(wanted)
    assert repr(made) == repr(wanted).replace("Pythons", "Ours")
    assert [field.name for field in dataclasses.fields(made)] == ["name", "size", "tags"]


def test_what_is_made_anew_is_nobody_elses() -> None:
    assert Ours("a").tags is not Ours("a").tags


def test_it_is_equal_to_another_of_its_class_with_the_same_fields() -> None:
    one = Ours("a", tags=["x"])
    assert one == Ours("a", 1, ["x"]) == copy.deepcopy(one) == dataclasses.replace(Ours("b", tags=["x"]), name="a")
    assert one != Ours("a") and one != Pythons("a", tags=["x"])
    with pytest.raises(TypeError):
        hash(one)
