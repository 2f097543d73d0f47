# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What a server of LXD's kind calls things, where one differs from another. Its driver says it; all else is shared."""

from __future__ import annotations

import typing as t


class Product(t.NamedTuple):
    """A server of LXD's kind.

    name -- as people write it; client -- the program that they talk to it with
    variable -- of the environment, with the server's directory; directories -- where that is else, those come first
    that count more
    programs -- names or paths, one of which is there where it is installed
    group -- whose members may use its socket; image_headers -- what the names of the headers begin with that an image
    is handed over with
    oldest -- the version that has all that is needed
    trust -- the command that has a server trust the certificate whose file is named behind it
    start, install -- how to start and how to get it, for people
    """

    name: str
    client: str
    variable: str
    directories: tuple[str, ...]
    programs: tuple[str, ...]
    group: str
    image_headers: str
    oldest: str
    trust: str
    start: str
    install: str

    def __str__(self) -> str:
        return self.name
