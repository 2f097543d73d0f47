# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What runs on in the background, where systemd looks after the host's processes.

systemd ends what a session or a service leaves behind, some of it always and some of it where it is told to
(KillUserProcesses). What is to stay has a scope of its own, beside the session or service that it was started from.
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime, find_program

# Where systemd tells that it runs.
BOOTED = "/run/systemd/system"

# Where it notes whose units start with the host and last until it goes down, and not from login to logout.
LINGER = "/var/lib/systemd/linger"

_RUN_USER = "/run/user"


def is_booted() -> bool:
    """Whether systemd runs this host."""
    return os.path.isdir(BOOTED)


def lingers() -> bool:
    """Whether what this user's own manager runs is there with and without a login."""
    import pwd

    try:
        return os.path.exists(os.path.join(LINGER, pwd.getpwuid(os.geteuid()).pw_name))
    except KeyError:
        return False


def manager_options() -> list[str]:
    """What has the programs of systemd talk to the manager that is responsible for this user."""
    return [] if os.geteuid() == 0 else ["--user"]


def manager_env() -> dict[str, str]:
    """The environment in which that manager is found, also after a change of user."""
    directory = os.path.join(_RUN_USER, str(os.geteuid()))
    return {"XDG_RUNTIME_DIR": directory} if os.geteuid() != 0 and os.path.isdir(directory) else {}


def program_of(module: t.Any) -> bytes:
    """The program that a module is, from wherever this code was imported."""
    source: str | bytes = module.__spec__.loader.get_source(module.__name__)
    return source if isinstance(source, bytes) else source.encode()  # the loader of collections reads bytes


def is_going_down(runtime: Runtime) -> bool:
    """Whether systemd ends all that it runs: the host goes down, or this user's own manager does."""
    done = runtime.run(["systemctl", *manager_options(), "is-system-running"], env=manager_env())
    return done.out.strip() == "stopping"


def start(runtime: Runtime, argv: t.Sequence[str], what: str, title: str, outlasts: str = "", **kwargs: t.Any) -> str:
    """Run a command that leaves a process behind, and have that outlive the session that this run belongs to.

    what -- says what failed if it fails; title -- of the process, for people
    outlasts -- a unit that is stopped before the process is when the host goes down
    """
    # The manager of a user who does not linger goes with the last session: a session's processes may last longer.
    program = find_program("systemd-run") if is_booted() and (os.geteuid() == 0 or lingers()) else None
    if program:
        prefix = [program, *manager_options(), "--scope", "--quiet", "--collect", f"--description={title}"]
        prefix += [f"--property=Before={outlasts}", "--"] if outlasts else ["--"]
        done = runtime.run([*prefix, *argv], env=manager_env(), **kwargs)
        if done.rc == 0:
            return done.out
    # Whether or not it was the scope that failed: this tells, or does without.
    return runtime.check(argv, what, **kwargs)
