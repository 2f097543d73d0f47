# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What the command minicloud does without a play: it logs in to instances, and completes their names."""

from __future__ import annotations

import os
import shlex
import sys
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._drivers.crew import Crew
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import load
from ansible_collections.minicloud.local.plugins.module_utils._errors import MinicloudError, NotFound
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import login_command
from ansible_collections.minicloud.local.plugins.module_utils._model import RUNNING, check_name
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.access import ssh_access
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


def login(name: str, command: t.Sequence[str], data_dir: str | None = None, driver: str | None = None) -> list[str]:
    """The ssh that logs in to a running instance, or runs a command and its arguments there.

    Empty where it has to be started first. MinicloudError where there is no such instance.
    """
    data = DataDirectory(data_dir)
    data.require_own()
    crew = Crew(load(driver, Runtime(run), data))
    instance = crew.wanted.scope.read(check_name(name))
    if instance is None:
        raise NotFound(f"there is no instance {name}", f"the scope {crew.wanted.scope.name} of {data.path} has none")
    if not instance.owner:
        return []
    owner = crew.of(instance)
    seen = owner.observe([instance])[0]
    access = ssh_access(instance, owner, data, seen)
    if seen.state != RUNNING or not access.host:
        return []
    words = shlex.split(login_command(access))
    if not command:
        return words
    # One that is talked with by a person has a terminal; what is piped through must not.
    terminal = ["-t"] if sys.stdin.isatty() and sys.stdout.isatty() else []
    return [*words[:-1], *terminal, words[-1], "--", shlex.join(command)]


def names(data_dir: str | None = None, driver: str | None = None) -> list[str]:
    """The names of the instances of a driver's scope; none where that cannot be told."""
    try:
        return load(driver, Runtime(run), DataDirectory(data_dir)).scope.names()
    except MinicloudError:
        return []


def enter(name: str, command: t.Sequence[str], data_dir: str | None = None, driver: str | None = None) -> bool:
    """Become the ssh of login(); False where the instance has to be started first. Says what is wrong, and ends."""
    try:
        words = login(name, command, data_dir, driver)
    except MinicloudError as exc:
        sys.exit(f"minicloud: {exc}")
    if words:
        try:
            os.execvp(words[0], words)
        except OSError as exc:
            sys.exit(f"minicloud: {words[0]}: {exc.strerror}")
    return False
