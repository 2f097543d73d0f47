# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What the code below the modules gets from its surroundings: commands, messages, time."""

from __future__ import annotations

import calendar
import copy
import errno
import os
import shutil
import time
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    CommandFailed,
    MissingRequirement,
    NoSpace,
    shown,
)

# What a command gets that nobody knows better of: seconds, and bytes of output. Long ones are those that work on whole
# images or install packages.
COMMAND_TIMEOUT, LONG_COMMAND_TIMEOUT = 3600.0, 12 * 3600.0
COMMAND_OUTPUT = 64 << 20

# How many characters of a failed command's output are put into the result.
_EVIDENCE = 64 << 10

# Programs that ordinary users' PATH leaves out.
_SYSTEM_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")

_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


class Completed(t.NamedTuple):
    """A command that has ended: its exit status and output, decoded."""

    rc: int
    out: str
    err: str


class Runner(t.Protocol):
    """Runs a command to its end, in the C locale, without a shell."""

    def __call__(
        self,
        argv: t.Sequence[str],
        *,
        stdin: bytes | None = None,
        cwd: str | None = None,
        env: t.Mapping[str, str] | None = None,
        pass_fds: t.Sequence[int] = (),
        timeout: float = COMMAND_TIMEOUT,
        limit: int = COMMAND_OUTPUT,
    ) -> Completed:
        """env is added to the environment; pass_fds stay open in the command under the same numbers.

        timeout -- seconds; limit -- bytes of output, both streams together. A command that takes or says more is ended
        with all that it has started, and is CommandFailed with the fact `exceeded`: time or output.
        """


class Reporter:
    """Receives what happens while it happens. This one keeps quiet and collects the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def step(self, name: str) -> None:
        """A part of the work named NAME begins."""

    def about(self, subject: str) -> Reporter:
        """One like this for a part of the work, with warnings of its own. subject -- the part's name"""
        return Reporter()

    def progress(self, what: str, done: int, total: int | None, unit: str = "B") -> None:
        """WHAT has come to DONE of TOTAL units (None: nobody knows the total)."""

    def warn(self, text: str) -> None:
        """Something that the user should know although the work goes on."""
        text = shown(text)
        if text not in self.warnings:
            self.warnings.append(text)


class Runtime:
    """The surroundings of one run. foretells -- whether it only tells what would be done (check mode)"""

    def __init__(self, runner: Runner, reporter: Reporter | None = None) -> None:
        self.run = runner
        self.report = reporter or Reporter()
        self.foretells = False

    def beside(self, report: Reporter) -> Runtime:
        """The same surroundings with another reporter: for a part of the work, also one beside others in a thread."""
        other = copy.copy(self)
        other.report = report
        return other

    def begin_changes(self) -> None:
        """To be called before anything is changed, foretold or waited for: some surroundings are for looking only."""

    def program(self, name: str, package: str = "", purpose: str = "") -> str:
        """The path of program NAME, or MissingRequirement that says which package brings it."""
        path = find_program(name)
        if path is None:
            raise MissingRequirement(
                f"the program {name} was not found on this host",
                f"it is needed {purpose}" if purpose else "",
                f"Install the package {package or name}.",
                missing_program=name,
            )
        return path

    def check(self, argv: t.Sequence[str], what: str, **kwargs: t.Any) -> str:
        """Run a command that must succeed and return its output; WHAT says what failed if it does not."""
        done = self.run(argv, **kwargs)
        if done.rc != 0:
            reason = done.err.strip() or done.out.strip() or f"{argv[0]} ended with status {done.rc} and said nothing"
            out, err = done.out[-_EVIDENCE:], done.err[-_EVIDENCE:]
            facts: dict[str, t.Any] = {"cmd": list(argv), "rc": done.rc, "stdout": out, "stderr": err}
            if os.strerror(errno.ENOSPC) in reason:
                raise NoSpace(what, reason, "Free some space on that file system, or use another data_dir.", **facts)
            raise CommandFailed(what, reason, **facts)
        return done.out


def find_program(name: str) -> str | None:
    """The path of a program, looked up in PATH and in the system's own directories."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM_PATH])
    return shutil.which(name, path=path)


def user_name() -> str:
    """The name of the user who runs this, or MissingRequirement where the system knows none: ssh, for one, needs it."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError as exc:
        raise MissingRequirement(
            f"the user with the number {os.geteuid()} has no name on this host",
            "ssh and others refuse to run for a user without an entry in /etc/passwd",
            "Run the task as a user that has one, or make an entry: useradd --uid NUMBER NAME; in a container, a line"
            " NAME:x:NUMBER:NUMBER::/tmp:/bin/sh in /etc/passwd.",
        ) from exc


def timestamp(seconds: float | None = None) -> str:
    """A time as records and results have it, such as 2026-01-31T23:59:59Z: that many seconds after 1970, or now."""
    return time.strftime(_TIME_FORMAT, time.gmtime(seconds))


def seconds_of(text: str) -> float:
    """The seconds after 1970 that a timestamp means. ValueError where it is none."""
    return calendar.timegm(time.strptime(text, _TIME_FORMAT))


class Deadline:
    """A point in time by which all of something must be done, and a pause that adapts while waiting for it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, self._end - time.monotonic())

    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.left() <= 0

    def pauses(self, first: float = 0.02, longest: float = 0.5, factor: float = 1.4) -> t.Iterator[float]:
        """Sleep a little longer each time and yield, until the deadline has passed."""
        pause = first
        while not self.expired():
            yield pause
            time.sleep(min(pause, self.left()))
            pause = min(pause * factor, longest)
