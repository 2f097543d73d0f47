# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Dataclasses that cost little to import.

Python's own writes the methods of each class as text and compiles them, which takes longer than to compile the file
that the class is in. Here all classes share the same methods.
"""

from __future__ import annotations

import typing as t

__all__ = ("dataclass",)

if t.TYPE_CHECKING:
    from dataclasses import dataclass
else:
    import dataclasses

    def dataclass(cls: type) -> type:
        """Make a class one with the fields that its annotations name, which fields(), replace() and asdict() know."""
        dataclasses.dataclass(init=False, repr=False, eq=False)(cls)
        names, defaults, made = [], {}, []
        for each in dataclasses.fields(cls):
            names.append(each.name)
            if each.default is not dataclasses.MISSING:
                defaults[each.name] = each.default
            elif each.default_factory is not dataclasses.MISSING:
                made.append((each.name, each.default_factory))
        cls._layout = names, frozenset(names), defaults, made
        cls.__init__, cls.__eq__, cls.__repr__, cls.__hash__ = _init, _eq, _repr, None
        return cls

    def _init(self: t.Any, *values: t.Any, **named: t.Any) -> None:
        names, expected, defaults, made = self._layout
        own = self.__dict__
        own.update(defaults)
        if values:
            own.update(zip(names, values))
        own.update(named)
        for name, make in made:
            if name not in own:
                own[name] = make()
        twice = named.keys() & names[: len(values)]
        if own.keys() != expected or len(values) > len(names) or twice:
            wrong = sorted((own.keys() ^ expected) | twice) or ["more than there are"]
            raise TypeError(f"{type(self).__name__} cannot be made with or without these fields: {', '.join(wrong)}")

    def _eq(self: t.Any, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented

    def _repr(self: t.Any) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._layout[0])})"
