# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes what is wrong out of what is right: bytes, texts, and values as JSON and YAML have them."""

from __future__ import annotations

import copy
import random
import typing as t

# Texts that readers have stumbled over.
TEXTS = (
    *("", " ", "\0", "\n", "a\nb", "..", "../../x", "/etc/passwd", "~nobody", "-", "--help", "-1", "0", "1e9", "nan"),
    *("22:22", "65536", "0:0", "9" * 20, "9" * 5000, "٣", "²", "0x10", "1_000", "0o7", "null", "true", "no"),
    *("255.255.255.255", "0.0.0.0/0", "::", "::1/128", "fe80::1%eth0", "[::1", "224.0.0.1", "10.0.0.0/33", "1.2.3"),
    *(
        "https://[::1",
        "https://",
        "http://a:b@c:99999/",
        "file:///",
        "file://x/y",
        "HTTPS://a/",
        "{{ x }}",
        "%s",
        "inf",
    ),
    *("grüße", "名前", "😀", "\u202e", "\ufeffa", "\u2028", "\x7f", "\x1b[2J", "a" * 300, "x" * 20000),
    *("[" * 3000, "{" * 200, "ssh-ed25519 AAAA", "-----BEGIN OPENSSH PRIVATE KEY-----", "#cloud-config", "#!/bin/sh"),
    *("&a [*a]", "!!int x", "---", "!!python/object:os.system x", "2001-99-99", "1:99:99", "a: b: c", "\t- x", "? "),
    *("*x", "<<: 1", "0b2", "=", "@", "`"),
)
NUMBERS = (0, 1, -1, 22, 65535, 65536, 1 << 31, 1 << 62, 1 << 63, 1 << 70, 10**60, -(1 << 63), 0.5, -0.5, 1e300)


def _nested(depth: int) -> list[t.Any]:
    value: list[t.Any] = []
    for dummy in range(depth):
        value = [value]
    return value


VALUES: tuple[t.Any, ...] = (None, True, False, [], {}, [[]], [None], [{}], {"": None}, {"a": {"b": []}}, _nested(90))


class Mutator:
    """Draws all its chances from one generator, so that a seed tells all of a run."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def __call__(self, sample: t.Any) -> t.Any:
        """Something like the sample and of its type: once in twenty just the sample."""
        if self.chance.random() < 0.05:
            return copy.deepcopy(sample)
        if isinstance(sample, bytes):
            return self.octets(sample)
        if isinstance(sample, str):
            return self.text(sample)
        value = copy.deepcopy(sample)
        for dummy in range(self._few()):
            value = self.value(value)
        return value

    def _few(self) -> int:
        return 1 + int(self.chance.expovariate(1))

    def octets(self, sample: bytes) -> bytes:
        """Bytes with some changed, lost, inserted or repeated."""
        content = bytearray(sample)
        for dummy in range(self._few()):
            start = self.chance.randrange(len(content) + 1)
            end = min(len(content), start + int(self.chance.expovariate(0.1)))
            kind = self.chance.randrange(6)
            if kind == 0:
                content[start:end] = self.chance.randbytes(end - start)
            elif kind == 1:
                del content[start:end]
            elif kind == 2:
                content[start:start] = self.chance.choice(TEXTS).encode()
            elif kind == 3:
                content[start:start] = content[start:end] * self.chance.choice((1, 2, 50))
            elif kind == 4:
                del content[start:]
            else:
                width = self.chance.choice((1, 2, 4, 8))
                edge = self.chance.choice((0, 1, (1 << 8 * width) - 1, 1 << (8 * width - 1), (1 << 8 * width - 1) - 1))
                content[start : start + width] = edge.to_bytes(width, self.chance.choice(("big", "little")))
        return bytes(content)

    def text(self, sample: str) -> str:
        """Text with some characters changed, lost, inserted or repeated, or another text altogether."""
        if self.chance.random() < 0.1:
            return self.chance.choice(TEXTS)
        for dummy in range(self._few()):
            start = self.chance.randrange(len(sample) + 1)
            end = min(len(sample), start + int(self.chance.expovariate(0.2)))
            middle = self.chance.choice(
                (
                    "",
                    sample[start:end] * self.chance.choice((2, 3, 40)),
                    self.chance.choice(TEXTS),
                    chr(self.chance.randrange(1, 0x250)),
                    self.chance.choice("0123456789.:/-_[]{}\"',=%@ \n\t"),
                    sample[start:end].swapcase(),
                )
            )
            sample = sample[:start] + middle + sample[end:]
        return sample

    def value(self, value: t.Any) -> t.Any:
        """A value with one place in it changed."""
        places = list(_places(value))
        if not places or self.chance.random() < 0.02:
            return self._instead(value)
        inside, key = self.chance.choice(places)
        kind = self.chance.randrange(8)
        if kind == 0:
            del inside[key]
        elif kind == 1 and isinstance(inside, dict):
            inside[self.text(str(key))] = inside.pop(key)
        elif kind == 1:
            inside.append(copy.deepcopy(inside[key]))
        elif kind == 2:
            other, there = self.chance.choice(places)
            inside[key] = copy.deepcopy(other.get(there) if isinstance(other, dict) else other[there])
        elif kind == 3:
            inside[key] = self.chance.choice(([inside[key]], {str(key): inside[key]}, str(inside[key])[:1000]))
        else:
            inside[key] = self._instead(inside[key])
        return value

    def _instead(self, value: t.Any) -> t.Any:
        kind = self.chance.randrange(4)
        if kind == 0 and isinstance(value, str):
            return self.text(value)
        if kind == 1:
            return self.chance.choice(TEXTS)
        if kind == 2:
            return self.chance.choice(NUMBERS)
        return copy.deepcopy(self.chance.choice(VALUES))


def _places(value: t.Any) -> t.Iterator[tuple[t.Any, t.Any]]:
    """Every list or object inside a value, with each of its indexes or keys."""
    left = [value]
    while left:
        inside = left.pop()
        if isinstance(inside, dict):
            pairs: t.Iterable[tuple[t.Any, t.Any]] = list(inside.items())
        elif isinstance(inside, list):
            pairs = list(enumerate(inside))
        else:
            continue
        for key, inner in pairs:
            yield inside, key
            left.append(inner)
