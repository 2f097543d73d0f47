# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What an instance is made from where that is no image: the option source, read once."""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import parse_reference
from ansible_collections.minicloud.local.plugins.module_utils._model import check_name

_MULTIPASS = "multipass"
# How files end that instances are exported to.
_ENDINGS = (".minicloud", ".ova")


class Clone(t.NamedTuple):
    """Another instance of the scope, as it is now, or as it was when a snapshot of it was taken."""

    instance: str
    snapshot: str = ""

    def __str__(self) -> str:
        return f"{self.instance}@{self.snapshot}" if self.snapshot else self.instance


class Exported(t.NamedTuple):
    """A file that an instance was exported to. path -- absolute"""

    path: str

    def __str__(self) -> str:
        return self.path


class Multipass(t.NamedTuple):
    """An instance of Multipass. root -- of its data, absolute; empty: where Multipass keeps it on this host"""

    instance: str
    root: str = ""

    def __str__(self) -> str:
        return f"{_MULTIPASS}:{self.instance}"


Source = t.Union[Clone, Exported, Multipass]


def parse_source(text: str, root: str | None = None) -> Source:
    """What `web`, `web@snapshot1`, `file:///…`, a path or `multipass:web` means. InvalidOption where it means nothing.

    root -- of the data of Multipass, from the option source_root
    """
    text = text.strip()
    source = _parse(text, root or "")
    if root and not isinstance(source, Multipass):
        raise InvalidOption(
            "source_root goes with a source of Multipass only",
            f"source is {text!r}",
            "Leave it out, or write source: multipass:NAME.",
        )
    return source


def _parse(text: str, root: str) -> Source:
    scheme, mark, dummy = text.partition("://")
    if (mark and scheme.lower() == "file") or text.startswith(("/", "./", "../", "~")):
        return Exported(_path(text))
    if mark:
        raise InvalidOption(f"source {text!r} is not a file", hint="Fetch it first, and give its path.")
    kind, mark, name = text.partition(":")
    if mark and kind.strip().lower() == _MULTIPASS:
        return Multipass(check_name(name.strip(), "the instance in source"), root)
    if "/" in text or text.lower().endswith(_ENDINGS):
        raise InvalidOption(f"source {text!r} is not the name of an instance", hint=f"Write ./{text} for a file.")
    name, mark, snapshot = text.partition("@")
    if mark and not snapshot:
        raise InvalidOption(f"source {text!r} names no snapshot", hint=f"Write one after the @, or {name} alone.")
    return Clone(check_name(name, "source"), check_name(snapshot, "the snapshot in source") if mark else "")


def _path(text: str) -> str:
    try:
        return parse_reference(text).name
    except InvalidOption as exc:
        exc.what = exc.what.replace("image", "source", 1)
        raise
