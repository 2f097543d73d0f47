# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Installs packages that this release of Debian has in its backports only, and changes nothing else of the machine.

The backports are looked for where the machine gets its other packages from. Its own list of sources stays as it is, and
so do the versions of all that is installed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import typing as t

SOURCES = "/etc/apt/sources.list.d"
# Seconds for one call of apt-get.
PATIENCE = 600


class NotToBeHad(Exception):
    """Packages cannot be installed; the text says why."""


def install(names: t.Sequence[str], prefix: t.Sequence[str] = ()) -> None:
    """Install packages, from the release itself if it has them. prefix -- what makes a command root's"""
    if not shutil.which("apt-get"):
        raise NotToBeHad("this is no Debian system")
    # Other lists than those that are needed may be out of reach.
    with contextlib.suppress(NotToBeHad):
        apt([*prefix, "apt-get", "update"])
    if has_them(names):
        change([*prefix, "apt-get", "install", *names])
        return
    with tempfile.TemporaryDirectory(prefix="minicloud-apt-") as directory:
        os.chmod(directory, 0o755)
        suite, line = source()
        alone, beside = (os.path.join(directory, name) for name in ("alone", "beside"))
        shutil.copytree(SOURCES, beside) if os.path.isdir(SOURCES) else os.mkdir(beside)
        os.mkdir(alone)
        for place in (alone, beside):
            with open(os.path.join(place, "backports-for-tests.list"), "w", encoding="utf-8") as file:
                file.write(f"{line}\n")
        only = ["-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={alone}"]
        apt([*prefix, "apt-get", "update", *only, "-o", "APT::Get::List-Cleanup=0"])
        change([*prefix, "apt-get", "install", "-o", f"Dir::Etc::sourceparts={beside}", "-t", suite, *names])


def has_them(names: t.Sequence[str]) -> bool:
    """Whether the sources of this machine have packages."""
    told = apt(["apt-cache", "policy", *names])
    return told.count("Candidate: ") - told.count("Candidate: (none)") == len(names)


def source() -> tuple[str, str]:
    """The suite of backports of this release, and the line of apt's sources for it."""
    form = "$(REPO_URI)|$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(SOURCESENTRY)"
    argv = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    for entry in apt(argv).splitlines():
        uri, origin, codename, component, place = entry.split("|", 4)
        # Not the suites beside the release, such as bookworm-updates.
        if origin == "Debian" and component == "main" and re.fullmatch(r"[a-z]+", codename):
            options = ""
            with contextlib.suppress(OSError), open(place.rpartition(":")[0], encoding="utf-8") as file:
                keys = re.search(r"^Signed-By:[ \t]*(/\S+)|signed-by=(/[^\s\]]+)", file.read(), re.I | re.M)
                options = f"[signed-by={keys[1] or keys[2]}] " if keys else ""
            suite = f"{codename}-backports"
            return suite, f"deb {options}{uri} {suite} main"
    raise NotToBeHad("apt knows no release of Debian here")


def change(argv: t.Sequence[str]) -> None:
    """Install with apt-get, unless something else would be upgraded or removed for it."""
    argv = [*argv, "--yes", "--quiet", "--no-install-recommends", "--no-remove", "-o", "DPkg::Lock::Timeout=300"]
    plan = apt([*argv, "--simulate"])
    if not re.search(r"^0 upgraded, ", plan, re.M):
        raise NotToBeHad(f"other packages would have to be upgraded: {plan[-500:]}")
    apt(argv)


def apt(argv: t.Sequence[str]) -> str:
    """What a program of apt says; NotToBeHad where it fails."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NotToBeHad(str(exc)) from exc
    if done.returncode:
        raise NotToBeHad(f"`{' '.join(argv)}` failed: {done.stdout.strip()[-500:]}")
    return done.stdout
