# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Use the connection plugin as Ansible does: connection.py DATA_DIR DRIVER WAY INSTANCE SCRATCH

Prints what came of each trial as JSON. SCRATCH is a directory for files of this host.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
import typing as t

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader, init_plugin_loader

init_plugin_loader([])
DATA_DIR, DRIVER, WAY, NAME, SCRATCH = sys.argv[1:]
MEBIBYTES = 4
EXEC = WAY == "exec"


def connection(**options: t.Any) -> t.Any:
    context = PlayContext()
    context.remote_addr = NAME
    found = connection_loader.get("minicloud.local.instance", context, task_uuid="")
    found.set_options(direct={"data_dir": DATA_DIR, "driver": DRIVER, "way": WAY, **options})
    return found


def digest(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def failure(act: t.Callable[[], t.Any]) -> list[t.Any]:
    """How an act fails, and after how many seconds."""
    begin = time.monotonic()
    try:
        act()
    except AnsibleError as exc:
        kind = "unreachable" if isinstance(exc, AnsibleConnectionFailure) else "error"
        return [kind, str(exc), time.monotonic() - begin]
    return ["nothing", "", time.monotonic() - begin]


def interrupted(act: t.Callable[[], t.Any]) -> bool:
    """Whether SIGINT ends an act, as Ctrl-C does."""
    signal.signal(signal.SIGALRM, lambda *dummy: os.kill(0, signal.SIGINT))
    signal.alarm(2)
    try:
        act()
    except KeyboardInterrupt:
        return True
    finally:
        signal.alarm(0)
    return False


def main() -> None:
    os.setpgrp()
    guest = connection()
    binary = bytes(range(256)) * 300
    large = os.path.join(SCRATCH, "large")
    with open(large, "wb") as stream:
        for dummy in range(MEBIBYTES):
            stream.write(os.urandom(1 << 20))
    told: dict[str, t.Any] = {}
    told["status"] = guest.exec_command("echo 'grüße 世界'; echo complaint >&2; exit 7", sudoable=False)
    told["signal"] = guest.exec_command("kill -9 $$", sudoable=False)[0]
    told["input"] = guest.exec_command("cat", in_data=binary, sudoable=False)[1] == binary
    told["no_input"] = guest.exec_command("cat; echo end", sudoable=False)[1]
    told["deaf"] = guest.exec_command("true", in_data=binary * 20, sudoable=False)[0]
    told["much"] = len(guest.exec_command(f"head -c {MEBIBYTES << 20} /dev/zero", sudoable=False)[1])
    odd = "/data/-n *$(id) 'x' \"y\" 世界"
    guest.put_file(large, odd)
    told["sum"] = guest.exec_command("cat /data/-n*$\\(id* | sha256sum", sudoable=False)[1].split()[0].decode()
    guest.fetch_file(odd, os.path.join(SCRATCH, "back"))
    told["is_back"] = digest(large) == digest(os.path.join(SCRATCH, "back"))
    told["is_there"] = digest(large) == told.pop("sum")
    empty = os.path.join(SCRATCH, "empty")
    open(empty, "wb").close()
    guest.put_file(empty, "/data/empty")
    told["empty"] = guest.exec_command("wc -c < /data/empty; rm -f /data/empty /data/-n*", sudoable=False)[1].strip()
    told["no_such_file"] = failure(lambda: guest.fetch_file("/data/nothing", os.path.join(SCRATCH, "none")))
    told["no_place"] = failure(lambda: guest.put_file(large, "/nowhere/x"))
    told["nobody"] = failure(lambda: connection(instance="nobody").exec_command("true"))
    told["wrong_user"] = connection(remote_user="nobody-here").exec_command("true", sudoable=False)[0] if EXEC else 255
    # Nobody else's: what ssh leaves behind is there yet when the next way is tried.
    mark = f"sleep {10**7 + os.getpid()}"
    # As tasks do, which have a terminal where there is one.
    told["interrupted"] = interrupted(lambda: guest.exec_command(mark))
    seen = f"ps | grep -c '[s]leep {mark.split()[1]}$'"
    told["left"] = guest.exec_command(f"sleep 1; {seen}", sudoable=False)[1].strip()
    guest.reset()
    told["again"] = guest.exec_command("echo again", sudoable=False)[1].strip()
    print(json.dumps(told, default=lambda data: data.decode()))


main()
