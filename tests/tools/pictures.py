# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Draws the pictures of the documentation (SVG) from text: docs/pictures/NAME.txt becomes docs/pictures/NAME.svg.

A text begins with the lines `title: …` and `description: …` and an empty line. The rest is drawn as it stands there:
`+`, `-` and `|` are boxes and lines, `=` is a thick line, `<`, `>`, `^` and `v` at the end of a line are arrows, and
everything else is text. The first line of text in a box is its heading.

Documentation sites take only the guides themselves from a collection. So a guide carries its picture, between the
comments `.. picture: NAME` and `.. end of the picture`; `make format` puts it there.
"""

from __future__ import annotations

import glob
import html
import os
import re
import typing as t

# Pixels of one character of the text.
WIDTH, HEIGHT = 9, 20
FILLS = ("#f3f6fa", "#ffffff", "#e3edf9")
STYLE = (
    "font-family: 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif; font-size: 14px; max-width: 100%; height: auto"
)
# REUSE-IgnoreStart
LICENCE = (
    "<!-- Copyright (c) 2026 The minicloud.local authors\n"
    "GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or"
    " https://www.gnu.org/licenses/gpl-3.0.txt)\n"
    "SPDX-License-Identifier: GPL-3.0-or-later\n"
    "Drawn by `make format` from {name}.txt -->\n"
)
# REUSE-IgnoreEnd
PLACE = re.compile(r"^\.\. picture: (\w+)\n\n(?:\.\. raw:: html\n\n(?: +.*\n|\n)*)?\.\. end of the picture\n", re.M)


class Box(t.NamedTuple):
    """A rectangle: its first and last row and column."""

    top: int
    left: int
    bottom: int
    right: int

    def holds(self, row: float, column: float) -> bool:
        """Whether a place is inside of it."""
        return self.top < row < self.bottom and self.left < column < self.right


class Text(t.NamedTuple):
    """A piece of text and where it begins."""

    row: int
    column: int
    words: str


class Drawing:
    """One picture, read from its rows of text."""

    def __init__(self, rows: t.Sequence[str]) -> None:
        self.width = max(map(len, rows))
        self.rows = [row.ljust(self.width) for row in rows]
        self.drawn: set[tuple[int, int]] = set()
        self.arrows: list[tuple[int, int, str]] = []
        self._read_lines()
        self.boxes = self._find_boxes()
        self.texts = [
            Text(number, found.start(), found[0])
            for number in range(len(self.rows))
            for found in re.finditer(r"\S+(?: \S+)*", self._without_lines(number))
        ]

    def at(self, row: int, column: int) -> str:
        """The character at a place, a blank outside."""
        return self.rows[row][column] if 0 <= row < len(self.rows) and 0 <= column < self.width else " "

    def _read_lines(self) -> None:
        for number, row in enumerate(self.rows):
            for found in re.finditer(r"<?[-=+]{2,}>?", row):
                self.drawn.update((number, column) for column in range(found.start(), found.end()))
            for column, character in enumerate(row):
                if character == "|":
                    self.drawn.add((number, column))
        for number, row in enumerate(self.rows):
            for column, character in enumerate(row):
                alone = self.at(number, column - 1) in " |" and self.at(number, column + 1) in " |"
                begins = {"v": -1, "^": 1}.get(character, 0)
                if begins and alone and self.at(number + begins, column) in "|+-=":
                    self.drawn.add((number, column))
                if character == "+" and "|" in (self.at(number - 1, column), self.at(number + 1, column)):
                    self.drawn.add((number, column))
                if character in "<>^v" and (number, column) in self.drawn:
                    self.arrows.append((number, column, character))

    def _without_lines(self, number: int) -> str:
        return "".join(" " if (number, c) in self.drawn else character for c, character in enumerate(self.rows[number]))

    def _find_boxes(self) -> list[Box]:
        """All rectangles with four corners, the outer ones first."""
        corners = {(r, c) for r, c in self.drawn if self.rows[r][c] == "+"}
        found = []
        for top, left in sorted(corners):
            for right in sorted(c for r, c in corners if r == top and c > left + 1):
                if not re.fullmatch(r"[-+=|v^]*", self.rows[top][left:right]):
                    break
                bottom = self._bottom(top, left, right, corners)
                if bottom:
                    found.append(Box(top, left, bottom, right))
                    break
        return sorted(found, key=lambda box: (box.left - box.right) * (box.bottom - box.top))

    def _bottom(self, top: int, left: int, right: int, corners: set[tuple[int, int]]) -> int:
        for row in range(top + 1, len(self.rows)):
            if self.at(row, left) not in "|+<>" or self.at(row, right) not in "|+<>":
                return 0
            if {(row, left), (row, right)} <= corners:
                return row if re.fullmatch(r"[-+=|v^]*", self.rows[row][left:right]) else 0
        return 0

    def svg(self, title: str, description: str) -> str:
        """The picture as an element of HTML or SVG."""
        width, height = self.width * WIDTH + WIDTH, len(self.rows) * HEIGHT + HEIGHT
        size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size} style="{STYLE}">',
            f"<title>{html.escape(title)}</title>",
            f"<desc>{html.escape(description)}</desc>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            *map(self._rectangle, self.boxes),
            '<g stroke="#44546a" stroke-width="1.5" fill="none" stroke-linecap="square">',
            *self._lines(),
            "</g>",
            *(self._arrow(*arrow) for arrow in self.arrows),
            '<g fill="#1f2933">',
            *map(self._words, self.texts),
            "</g>",
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    def _rectangle(self, box: Box) -> str:
        depth = sum(other.holds(box.top + 0.5, box.left + 0.5) for other in self.boxes if other != box)
        (x, y), (right, bottom) = place(box.top, box.left), place(box.bottom, box.right)
        return f'<rect x="{x}" y="{y}" width="{right - x}" height="{bottom - y}" fill="{FILLS[depth % len(FILLS)]}"/>'

    def _lines(self) -> t.Iterator[str]:
        for row in range(len(self.rows)):
            runs = re.finditer(r"[-+=<>]{2,}", "".join(self._drawn_at(row, c) for c in range(self.width)))
            for found in runs:
                (x, y), (right, dummy) = place(row, found.start()), place(row, found.end() - 1)
                x -= WIDTH * (self.at(row, found.start() - 1) == "|")
                right += WIDTH * (self.at(row, found.end()) == "|")
                thick = ' stroke-width="4"' if "=" in found[0] else ""
                yield f'<path d="M{x} {y}H{right}"{thick}/>'
        for column in range(self.width):
            runs = re.finditer(
                r"[|+v^](?:(?!(?<=\+)\+)[|+v^])+|\|", "".join(self._drawn_at(r, column) for r in range(len(self.rows)))
            )
            for found in runs:
                (x, y), (dummy, bottom) = place(found.start(), column), place(found.end() - 1, column)
                # A junction ends in itself, a line at whatever it meets.
                y -= HEIGHT * (found[0][0] != "+" and self._drawn_at(found.start() - 1, column) in "-=")
                bottom += HEIGHT * (found[0][-1] != "+" and self._drawn_at(found.end(), column) in "-=")
                yield f'<path d="M{x} {y}V{bottom}"/>'

    def _drawn_at(self, row: int, column: int) -> str:
        return self.at(row, column) if (row, column) in self.drawn else " "

    def _arrow(self, row: int, column: int, character: str) -> str:
        x, y = place(row, column)
        across, down = {"<": (-1, 0), ">": (1, 0), "^": (0, -1), "v": (0, 1)}[character]
        meets = self._drawn_at(row + down, column + across) != " "
        x, y = x + across * (WIDTH - 1) * meets, y + down * (HEIGHT - 1) * meets
        sides = [(x - 10 * across + 5 * side * down, y - 10 * down + 5 * side * across) for side in (1, -1)]
        points = " ".join(f"{a},{b}" for a, b in [(x, y), *sides])
        return f'<polygon points="{points}" fill="#44546a"/>'

    def _words(self, text: Text) -> str:
        middle = text.column + (len(text.words) - 1) / 2
        around = [box for box in self.boxes if box.holds(text.row, middle)]
        x, y = place(text.row, text.column)
        attributes = f'x="{x - WIDTH // 2}" y="{y + 5}"'
        if around:
            box = around[-1]
            inside = [other for other in self.texts if around == [b for b in self.boxes if b.holds(*centre(other))]]
            if text.row == inside[0].row:
                attributes += ' font-weight="bold"'
            if [other.row for other in inside].count(text.row) == 1 and not self._crossed(text, box):
                attributes = attributes.replace(
                    f'x="{x - WIDTH // 2}"', f'x="{(place(0, box.left)[0] + place(0, box.right)[0]) / 2:g}"'
                )
                attributes += ' text-anchor="middle"'
        return f"<text {attributes}>{html.escape(text.words)}</text>"

    def _crossed(self, text: Text, box: Box) -> bool:
        """Whether there is more than this text between the sides of its box."""
        between = self.rows[text.row][box.left + 1 : box.right]
        return between.strip() != text.words


def centre(text: Text) -> tuple[float, float]:
    """The row and the column of the middle of a text."""
    return text.row, text.column + (len(text.words) - 1) / 2


def place(row: int, column: int) -> tuple[int, int]:
    """The middle of a character, in pixels."""
    return column * WIDTH + WIDTH, row * HEIGHT + HEIGHT


def draw(text: str) -> str:
    """The picture that a text describes."""
    head, dummy, rows = text.partition("\n\n")
    fields = dict(line.split(": ", 1) for line in head.splitlines())
    return Drawing(rows.rstrip("\n").split("\n")).svg(fields["title"], fields["description"])


def written(root: str) -> dict[str, str]:
    """All pictures, and the guides that carry some, as they have to be: text by path."""
    found, drawn = {}, {}
    for path in sorted(glob.glob(os.path.join(root, "docs", "pictures", "*.txt"))):
        name = os.path.basename(path)[:-4]
        with open(path, encoding="utf-8") as file:
            drawn[name] = draw(file.read())
        found[f"docs/pictures/{name}.svg"] = LICENCE.format(name=name) + drawn[name]

    def carried(place: re.Match[str]) -> str:
        indented = "".join(f"   {line}\n" for line in drawn[place[1]].splitlines())
        return f".. picture: {place[1]}\n\n.. raw:: html\n\n{indented}\n.. end of the picture\n"

    for path in sorted(glob.glob(os.path.join(root, "docs", "docsite", "rst", "*.rst"))):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if PLACE.search(text):
            found[f"docs/docsite/rst/{os.path.basename(path)}"] = PLACE.sub(carried, text)
    return found
