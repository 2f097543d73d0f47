# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ast
import builtins
import inspect
import pathlib
import re

import pytest

from ansible_collections.minicloud.local.plugins.module_utils import _errors
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    ChecksumMismatch,
    ImageError,
    LaunchError,
    MinicloudError,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (("the disk is full",), "the disk is full."),
        (("the disk is full", "no space left"), "the disk is full: no space left."),
        (("the disk is full", "  no space left\n"), "the disk is full: no space left."),
        (("the disk is full", "no space left.", "Free some."), "the disk is full: no space left. Free some."),
        (("the disk is full", "", "Free some."), "the disk is full. Free some."),
        (("is it full?",), "is it full?"),
        (("it is full!", "", "Free some."), "it is full! Free some."),
    ],
)
def test_text_is_made_of_sentences(parts, text):
    assert str(MinicloudError(*parts)) == text


HOSTILE = "a\x1b[2Jb\x9bm\x07c\u202ed\te\u00a0f\r\ng"
TAMED = "a?[2Jb?m?c?d e f \ng."


def test_nothing_that_a_terminal_would_obey_is_said():
    assert str(MinicloudError(HOSTILE)) == TAMED
    assert (
        str(MinicloudError("the server failed", HOSTILE, "grüße, 世界 🐧"))
        == f"the server failed: {TAMED} grüße, 世界 🐧"
    )
    reporter = Reporter()
    reporter.warn(HOSTILE)
    assert reporter.warnings == [TAMED[:-1]]


def test_parts_and_facts_are_kept():
    error = MinicloudError("what", "why", "Hint.", rc=3, cmd=["a", "b"])
    assert (error.what, error.why, error.hint) == ("what", "why", "Hint.")
    assert error.facts == {"rc": 3, "cmd": ["a", "b"]}


def test_launch_error_tells_its_stage():
    error = LaunchError("boot", "web did not boot", "the kernel panicked", console=["panic"])
    assert error.stage == "boot"
    assert error.facts == {"stage": "boot", "console": ["panic"]}
    assert str(error) == "web did not boot: the kernel panicked."


def test_a_checksum_mismatch_is_an_image_error():
    with pytest.raises(ImageError, match="not what its checksum promises"):
        raise ChecksumMismatch("the image is not what its checksum promises")


def test_all_errors_have_one_root_and_say_what_they_are_for():
    classes = [c for _name, c in inspect.getmembers(_errors, inspect.isclass) if issubclass(c, Exception)]
    assert MinicloudError in classes
    assert [c for c in classes if not issubclass(c, MinicloudError)] == []
    assert [c for c in classes if not (c.__doc__ or "").strip()] == []


COLLECTION = pathlib.Path(__file__).parents[4]

# What only the code itself gets to see: other code catches it, or it is a mistake.
INTERNAL = {*vars(builtins), "AnsibleFilterError", "AnsibleParserError", "NotReadable", "JsonError"}


class TestKinds:
    def test_are_those_that_the_guide_promises(self):
        text = (COLLECTION / "docs/docsite/rst/guide_errors.rst").read_text(encoding="utf-8")
        assert sorted(re.findall(r"\* - ``([A-Z]\w+)``", text)) == sorted(_errors.KINDS)

    def test_are_all_that_other_documents_name(self):
        named = set()
        for path in (COLLECTION / "docs/docsite/rst").glob("*.rst"):
            named.update(re.findall(r"\* - ``([A-Z][a-z]+[A-Z]\w+)``", path.read_text(encoding="utf-8")))
        for path in (COLLECTION / "plugins/modules").glob("*.py"):
            for line in re.findall(r"The kind of error.*", path.read_text(encoding="utf-8")):
                named.update(re.findall(r"V\((\w+)\)", line))
        assert len(named) > 10
        assert named <= _errors.KINDS

    def test_are_all_that_is_raised(self):
        parents, raised, ansibles = {}, {}, set()
        for path in sorted((COLLECTION / "plugins").rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module == "ansible.errors":
                    # How plugins that run in Ansible itself fail: these have no kind.
                    ansibles.update(each.name for each in node.names)
                if isinstance(node, ast.ClassDef):
                    parents[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                    function = node.exc.func
                    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
                    raised.setdefault(name, f"{path}:{node.lineno}")

        def is_kind(name):
            return name in _errors.KINDS | INTERNAL or any(is_kind(parent) for parent in parents.get(name, ()))

        classes = {name: where for name, where in raised.items() if name[:1].isupper() and name not in ansibles}
        assert len(classes) > 15
        assert {name: where for name, where in classes.items() if not is_kind(name)} == {}

    def test_of_a_special_case_is_that_of_its_parent(self):
        class NotThere(_errors.HypervisorError):
            pass

        assert NotThere("it is gone").kind == "HypervisorError"
        assert LaunchError("boot", "it does not boot").kind == "LaunchError"
