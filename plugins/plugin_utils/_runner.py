# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Commands for plugins that run on the controller."""

from __future__ import annotations

import os
import subprocess
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed


def run(
    argv: t.Sequence[str],
    *,
    stdin: bytes | None = None,
    cwd: str | None = None,
    env: t.Mapping[str, str] | None = None,
    pass_fds: t.Sequence[int] = (),
) -> Completed:
    """See Runner of module_utils."""
    done = subprocess.run(
        list(argv),
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C", **(env or {})},
        pass_fds=tuple(pass_fds),
        check=False,
    )
    return Completed(
        done.returncode, done.stdout.decode(errors="surrogateescape"), done.stderr.decode(errors="surrogateescape")
    )
