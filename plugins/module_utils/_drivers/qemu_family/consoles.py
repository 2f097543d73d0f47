# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Having the console of a guest kept while it runs, and bounded: by recorder.py, which runs beside its QEMU."""

from __future__ import annotations

import contextlib
import os
import sys

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import recorder
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import CONSOLE
from ansible_collections.minicloud.local.plugins.module_utils._guest.console import EARLIER
from ansible_collections.minicloud.local.plugins.module_utils._host import processes, systemd
from ansible_collections.minicloud.local.plugins.module_utils._host.host import this_host
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._writing import write_file

_RECORDER = "recorder.py"
_DETACHED = 'exec "$@" < /dev/null > /dev/null 2>&1'


def recorded_pipe(runtime: Runtime, name: str, directory: str, other: str) -> int:
    """A pipe to write the console to; a process that ends with it keeps what is written, and not without end.

    other -- the name of a log that others write, which is kept from growing, too
    """
    # Private from the first moment on.
    console = os.path.join(directory, CONSOLE)
    os.close(os.open(console, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    reader, writer = os.pipe()
    try:
        _start(runtime, name, directory, recorder.RECORD, reader, other)
    except BaseException:
        os.close(writer)
        raise
    finally:
        os.close(reader)
    return writer


def bound_log(runtime: Runtime, name: str, directory: str) -> bool:
    """Where QEMU itself writes the console log of a running instance, have that cut while it runs; whether it does."""
    path = os.path.join(directory, CONSOLE)
    with processes.held(_writer_of(path), lambda pid: _has_open(pid, path)) as descriptor:
        if descriptor is None:
            return False
        _start(runtime, name, directory, recorder.CUT, descriptor)
    return True


def _start(runtime: Runtime, name: str, directory: str, what: str, descriptor: int, *others: str) -> None:
    program = systemd.program_of(recorder)
    path = os.path.join(directory, _RECORDER)
    if _content(path) != program:
        write_file(path, program)
    argv = ["setsid", "--fork", "sh", "-c", _DETACHED, "sh", sys.executable, "-I", "-S", _RECORDER]
    argv += [what, str(descriptor), CONSOLE, f"{CONSOLE}{EARLIER}", *others]
    failed = f"the console of {name} could not be recorded"
    title = f"Console of the instance {name} of minicloud.local"
    this_host().start_background(runtime, argv, failed, title, cwd=directory, pass_fds=[descriptor])


def _content(path: str) -> bytes:
    with contextlib.suppress(OSError), open(path, "rb") as stream:
        return stream.read()
    return b""


def _writer_of(path: str) -> int:
    """The id of the QEMU that has a file open; 0 where there is none, or none that this user may look at."""
    return next((pid for pid in processes.all_ids() if _is_qemu(pid) and _has_open(pid, path)), 0)


def _is_qemu(pid: int) -> bool:
    return b"qemu" in (processes.arguments_of(pid) or [b""])[0]


def _has_open(pid: int, path: str) -> bool:
    for each in processes.open_files_of(pid):
        with contextlib.suppress(OSError):
            if os.path.samefile(each, path):
                return True
    return False
