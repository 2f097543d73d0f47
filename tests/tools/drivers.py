# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which drivers there are, and what the tools have to know of them: read from the collection, never listed here.

It is read as text, so that no virtual environment is needed for it.
"""

from __future__ import annotations

import ast
import functools
import glob
import os
import re
import typing as t

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DRIVERS = os.path.join(ROOT, "plugins", "module_utils", "_drivers")
ROLE = os.path.join(ROOT, "roles", "host", "vars", "main.yml")


def names() -> list[str]:
    """The drivers: the directories with a driver.py."""
    return sorted(
        os.path.basename(os.path.dirname(path)) for path in glob.glob(os.path.join(DRIVERS, "*", "driver.py"))
    )


@functools.cache
def product(driver: str) -> dict[str, t.Any]:
    """What a driver for a server of LXD's kind says of its server (lxd_family/product.py); empty of other drivers."""
    with open(os.path.join(DRIVERS, driver, "driver.py"), encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Product":
            return {str(each.arg): ast.literal_eval(each.value) for each in node.keywords}
    return {}


@functools.cache
def programs(part: str) -> tuple[str, ...]:
    """The programs that the role `host` sees to for a part of the collection: a driver, `base`, `image_builder` …"""
    return tuple(_table("host_programs").get(part, ()))


def packages(part: str, program: str) -> list[str]:
    """The package of Debian that brings one of them, if there is one."""
    return [name for each, name in _table("host_programs").get(part, {}).items() if each == program and name]


def _table(name: str) -> dict[str, dict[str, str]]:
    """A table of the role: its keys of two levels, and the packages of Debian. An anchor is named as its key is."""
    found: dict[str, dict[str, str]] = {}
    inside, part = False, ""
    with open(ROLE, encoding="utf-8") as file:
        for line in file:
            if re.match(r"\w", line):
                inside = line.startswith(f"{name}:")
            match = re.match(r"( {2}| {4})([\w.-]+):", line) if inside else None
            if match and len(match[1]) == 2:
                part = match[2]
                found[part] = {}
            elif inside and re.match(r" {4}<<: \*\w+$", line):
                found[part].update(found[line.split("*")[1].strip()])
            elif match:
                debian = re.search(r"\bDebian: ([\w.+-]+)", line)
                found[part][match[2]] = debian[1] if debian else ""
    return found
