# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What users copy from the documentation is YAML that means what it says, with options that exist."""

from __future__ import annotations

import glob
import importlib
import os
import re
import textwrap
import typing as t

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.minicloud.local.plugins.module_utils._module import common_arguments
from ansible_collections.minicloud.local.plugins.module_utils._reconcile import plan
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.apply import Applier
from ansible_collections.minicloud.local.plugins.modules import instance

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 4))
BLOCKS = {
    ".rst": re.compile(r"^( *)\.\. code-block:: yaml\n\n((?:\1 +.*\n|\n)+)", re.M),
    ".md": re.compile(r"^( *)```yaml\n(.*?)^ *```$", re.M | re.S),
    ".py": re.compile(r'^()EXAMPLES = r"""\n(.*?)"""', re.M | re.S),
}
FILES = ("README.md", "roles/*/README.md", "docs/docsite/rst/*.rst", "plugins/modules/*.py", "plugins/inventory/*.py")


def blocks() -> t.Iterator[t.Any]:
    """Each piece of YAML with its file and line."""
    for path in sorted(found for pattern in FILES for found in glob.glob(os.path.join(TOP, pattern))):
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
        for match in BLOCKS[os.path.splitext(path)[1]].finditer(text):
            where = f"{os.path.relpath(path, TOP)}:{text.count(chr(10), 0, match.start(2)) + 1}"
            yield pytest.param(textwrap.dedent(match[2]), id=where)


def mappings(value: t.Any) -> t.Iterator[dict[str, t.Any]]:
    """All mappings in a document."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from mappings(inner)


def templated(value: t.Any) -> bool:
    return isinstance(value, str) and "{{" in value


def misread(value: t.Any, spec: t.Mapping[str, t.Any]) -> bool:
    """Whether an option that is text got something else, as YAML reads 24.10 and 22:22 as numbers."""
    if spec.get("type", "str") == "str":
        return not isinstance(value, str)
    if spec["type"] == "list" and spec.get("elements", "str") == "str" and isinstance(value, list):
        return not all(isinstance(element, str) for element in value)
    return False


def test_there_are_some():
    assert len(list(blocks())) > 50


@pytest.mark.parametrize("text", list(blocks()))
def test_example(text):
    for document in yaml.safe_load_all(text):
        for task in mappings(document):
            for key, options in task.items():
                name = re.fullmatch(r"minicloud\.local\.(\w+)", str(key))
                if name and os.path.exists(os.path.join(TOP, "plugins", "modules", f"{name[1]}.py")):
                    module = importlib.import_module(f"ansible_collections.minicloud.local.plugins.modules.{name[1]}")
                    check(options or {}, {**common_arguments(), **module.ARGUMENTS})


@pytest.mark.parametrize(
    "options", [{"image": 24.1}, {"ports": [1342]}, {"imagge": "24.04"}, {"cpus": "many"}, {"state": "up"}], ids=str
)
def test_one_that_is_wrong(options):
    with pytest.raises(AssertionError):
        check(options, {**common_arguments(), **instance.ARGUMENTS})


def test_every_step_of_an_instance_is_in_the_documentation_of_its_result():
    actions = yaml.safe_load(instance.RETURN)["actions"]["description"]
    documented = set(re.findall(r"C\((\w+)\)", " ".join(actions)))
    ways = {step for row in plan.WAYS.values() for way in row.values() for step in way.split()}
    planned = ways - {plan.CHANGES, plan.REFUSED} - (set(plan.PARTS) - set(Applier.METHODS))
    assert planned | set(Applier.METHODS) | plan.RECONFIGURING <= documented


def check(options: dict[str, t.Any], arguments: dict[str, t.Any]) -> None:
    """Fail if a module would refuse the options, or read one in another way than it is meant."""
    wrong = {key: value for key, value in options.items() if key in arguments and misread(value, arguments[key])}
    assert not wrong, f"put it in quotes: {wrong}"
    known = {key: value for key, value in options.items() if not templated(value)}
    # What is required may be a template here, or among the defaults of the play.
    lenient = {key: {**spec, "required": False} for key, spec in arguments.items()}
    assert ArgumentSpecValidator(lenient).validate(known).error_messages == []
