# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real processes for tests: what one of them does to another cannot be told from within one."""

from __future__ import annotations

import contextlib
import os
import signal
import traceback

HANGS = 60


def start(body):
    """Run BODY in a process of its own and return its id. It ends with status 0, or 1 if BODY raised."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.alarm(HANGS)
        body()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def end(pid):
    """Wait for a process: its exit status, or the negative number of the signal that ended it."""
    status = os.waitpid(pid, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def run(body):
    """Run BODY in a process of its own to its end."""
    return end(start(body))


def kill_myself():
    """What the kernel does when memory is short, or a person with kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


class Signal:
    """Something that one process tells the others once, or many times."""

    def __init__(self):
        self._read, self._write = os.pipe()

    def give(self, times=1):
        os.write(self._write, b"." * times)

    def wait(self):
        os.read(self._read, 1)

    def close(self):
        os.close(self._read)
        os.close(self._write)


@contextlib.contextmanager
def running(body):
    """A process that runs BODY while the block does; it is killed at its end."""
    pid = start(body)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        end(pid)
