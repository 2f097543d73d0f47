# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Running a command, bounded in time and in what it may say: the one runner of modules, plugins and units.

A command is started by posix_spawn: other than a fork, that is safe beside threads, and every system has it. It leads a
process group of its own, so that at the deadline what it has started ends with it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import selectors
import shutil
import signal
import time
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import CommandFailed
from ansible_collections.minicloud.local.plugins.module_utils._runtime import (
    COMMAND_OUTPUT,
    COMMAND_TIMEOUT,
    Completed,
    Deadline,
)

_CHUNK = 1 << 16
# Seconds: how long a command that has ended may be survived by one that has its pipes, and one that is to end takes.
_SURVIVED, _ENDING = 0.5, 2.0
# How many bytes of the output of a command that was ended are put into the error.
_EVIDENCE = 4096
# Signals that Python ignores. Programs expect them to have their usual effect.
_USUAL_SIGNALS = [signal.SIGPIPE, signal.SIGXFSZ]


def run(
    argv: t.Sequence[str],
    *,
    stdin: bytes | None = None,
    cwd: str | None = None,
    env: t.Mapping[str, str] | None = None,
    pass_fds: t.Sequence[int] = (),
    timeout: float = COMMAND_TIMEOUT,
    limit: int = COMMAND_OUTPUT,
) -> Completed:
    """See Runner. OSError where the command cannot be started."""
    command = _Command(list(argv), stdin, limit, Deadline(timeout), os.posix_spawn)
    command.start(cwd, {**os.environ, "LC_ALL": "C", **(env or {})}, pass_fds)
    return command.finish()


class _Command:
    """spawn -- what starts it, as posix_spawn does, and tells its process id"""

    def __init__(
        self, argv: list[str], stdin: bytes | None, limit: int, deadline: Deadline, spawn: t.Callable[..., int]
    ) -> None:
        self.argv = argv
        self.spawn = spawn
        self.unsent = memoryview(stdin or b"")
        self.wants_stdin = stdin is not None
        self.limit = limit
        self.deadline = deadline
        self.pid = 0
        self.status: int | None = None
        self.said = {"out": bytearray(), "err": bytearray()}

    def start(self, cwd: str | None, env: t.Mapping[str, str], pass_fds: t.Sequence[int]) -> None:
        argv = self.argv
        program = _find(argv[0], env)
        if cwd is not None:
            os.stat(os.path.join(cwd, "."))  # says what is wrong with it
            argv = ["sh", "-c", 'cd -- "$1" && shift && exec "$@"', "sh", cwd, program, *argv[1:]]
            program = _find("sh", env)
        pipes: dict[str, tuple[int, int]] = {}
        try:
            for name in ("out", "err", *(["in"] if self.wants_stdin else [])):
                pipes[name] = _pipe()
            theirs = {1: pipes["out"][1], 2: pipes["err"][1]}
            if self.wants_stdin:
                theirs[0] = pipes["in"][0]
            self.pid = self.spawn(
                program,
                argv,
                dict(env),
                file_actions=_file_actions(theirs, pass_fds),
                setpgroup=0,
                setsigmask=[],
                setsigdef=_USUAL_SIGNALS,
            )
        except BaseException:
            for pair in pipes.values():
                for descriptor in pair:
                    os.close(descriptor)
            raise
        self.selector = selectors.DefaultSelector()
        for name, (reader, writer) in pipes.items():
            ours, other = (writer, reader) if name == "in" else (reader, writer)
            os.close(other)
            os.set_blocking(ours, False)
            self.selector.register(ours, selectors.EVENT_WRITE if name == "in" else selectors.EVENT_READ, name)

    def finish(self) -> Completed:
        try:
            self._talk()
            # Most commands end right after they close their output, so wait for that a moment.
            pause = 0.0001
            while self._ended() is None:
                if self.deadline.expired():
                    self._exceed("time")
                time.sleep(pause)
                pause = min(pause * 1.5, 0.05)
        except BaseException:
            self._end()
            raise
        finally:
            for key in list(self.selector.get_map().values()):
                self._close(key)
            self.selector.close()
        out, err = (bytes(self.said[name]).decode(errors="surrogateescape") for name in ("out", "err"))
        return Completed(self._ended() or 0, out, err)

    def _talk(self) -> None:
        """Write and read until everything is said, or the command has ended."""
        survived = None
        while self.selector.get_map():
            if self.deadline.expired():
                self._exceed("time")
            ready = self.selector.select(min(0.1 if survived else 1.0, self.deadline.left()))
            for key, dummy in ready:
                (self._write if key.data == "in" else self._read)(key)
            if not ready and self._ended() is not None:
                # Something that it has left behind may have its pipes for ever.
                survived = survived or Deadline(_SURVIVED)
                if survived.expired():
                    return

    def _write(self, key: selectors.SelectorKey) -> None:
        try:
            if self.unsent:
                self.unsent = self.unsent[os.write(key.fd, self.unsent[:_CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.unsent = self.unsent[:0]
        if not self.unsent:
            self._close(key)

    def _read(self, key: selectors.SelectorKey) -> None:
        try:
            data = os.read(key.fd, _CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._close(key)
            return
        self.said[key.data] += data
        if sum(map(len, self.said.values())) > self.limit:
            self._exceed("output")

    def _close(self, key: selectors.SelectorKey) -> None:
        self.selector.unregister(key.fd)
        os.close(key.fd)

    def _ended(self) -> int | None:
        """The command's status if it has ended, negative for a signal."""
        if self.status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody ignores the end of children, and with it their status
                self.status = 0
            else:
                if pid:
                    self.status = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return self.status

    def _exceed(self, what: str) -> t.NoReturn:
        out, err = (bytes(self.said[name][-_EVIDENCE:]).decode(errors="replace") for name in ("out", "err"))
        name = os.path.basename(self.argv[0])
        if what == "time":
            raise CommandFailed(
                f"{name} was ended because it took too long",
                f"it had {self.deadline.seconds:.0f} seconds",
                cmd=self.argv,
                stdout=out,
                stderr=err,
                exceeded=what,
            )
        raise CommandFailed(
            f"{name} was ended because what it says has no end",
            f"it may say {self.limit >> 10} KiB",
            cmd=self.argv,
            stdout=out,
            stderr=err,
            exceeded=what,
        )

    def _end(self) -> None:
        """End the command and its group: in a way that lets it clean up, and if that takes too long in any case."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(OSError):
                os.killpg(self.pid, number)
            for dummy in Deadline(_ENDING).pauses(first=0.005, longest=0.05):
                if self._ended() is not None:
                    break
        # Others of its group need not have listened.
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)


def _find(name: str, env: t.Mapping[str, str]) -> str:
    found = name if os.sep in name else shutil.which(name, path=env.get("PATH", os.defpath))
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return found


def _pipe() -> tuple[int, int]:
    """A pipe whose ends do not have the numbers of standard streams."""
    descriptors = os.pipe()
    if min(descriptors) > 2:
        return descriptors
    try:
        reader, writer = (fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3) for descriptor in descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return reader, writer


def _file_actions(theirs: t.Mapping[int, int], pass_fds: t.Sequence[int]) -> list[tuple[t.Any, ...]]:
    """What is done to file descriptors in the new process: it gets these standard streams and those, and no others."""
    actions: list[tuple[t.Any, ...]] = []
    opened = _open_descriptors()
    keep = set(pass_fds)
    actions += [
        (os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in opened if descriptor > 2 and descriptor not in keep
    ]
    if 0 not in theirs:
        actions.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
    actions += [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in sorted(theirs.items())]
    if pass_fds:
        # A copy is open in the new program; one onto the same number is not, in some C libraries.
        between = max([*opened, *keep, *theirs.values()]) + 1
        for descriptor in pass_fds:
            actions += [(os.POSIX_SPAWN_DUP2, descriptor, between), (os.POSIX_SPAWN_DUP2, between, descriptor)]
        actions.append((os.POSIX_SPAWN_CLOSE, between))
    return actions


def _open_descriptors() -> list[int]:
    """The file descriptors of this process that a new program would find open."""
    try:
        names = os.listdir("/dev/fd")
    except OSError:
        return []
    found = []
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            if os.get_inheritable(int(name)):
                found.append(int(name))
    return found
