# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: progress
type: notification
short_description: Shows what long tasks of this collection are doing
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Modules report only when they have ended. This plugin shows meanwhile what a task is doing, and for downloads the
    bytes, the rate and the time that is left.
  - It writes to standard error, so standard output stays what the callback for it makes of it, such as JSON.
  - It follows the activity log of the data directory that the task works in, on the controller. So it shows what
    happens on this host, and nothing of tasks on other hosts.
  - What a task has done in the end is in its result; it is not shown once more.
requirements:
  - Enable it with C(callbacks_enabled = minicloud.local.progress) in the section C(defaults) of C(ansible.cfg), or with
    E(ANSIBLE_CALLBACKS_ENABLED).
options:
  show:
    description:
      - When something is shown.
      - V(terminal) is when standard error is a terminal.
      - V(always) is also when it is a file or a pipe, such as in the log of a CI job.
    type: str
    choices: [terminal, always]
    default: terminal
    env:
      - name: MINICLOUD_PROGRESS
    ini:
      - section: callback_minicloud_progress
        key: show
"""

import os
import re
import stat
import sys
import threading
import typing as t

from ansible.plugins.callback import CallbackBase
from ansible.template import Templar

from ansible_collections.minicloud.local.plugins.module_utils._scope import ENVIRONMENT, SYSTEM_PATH, DataDirectory

# Seconds between two looks at the log.
_PAUSE = 0.5
# Bytes of a log that are shown at once.
_MOST = 1 << 20

_COLLECTION = "minicloud.local."
_ACTION_GROUP = "group/minicloud.local.minicloud"

# What a step is to who watches; what is not here is of no interest to them.
_STEPS = {
    "fetch_image": "getting the image",
    "import_image": "importing the image",
    "build_image": "building the image",
    "publish_image": "publishing the image",
    "remove_image": "removing an image",
    "ensure_network": "making its network",
    "create": "creating",
    "start": "starting",
    "wait_ready": "waiting until it is ready",
    "resume": "resuming",
    "stop": "stopping",
    "await_stop": "waiting until it has stopped",
    "suspend": "suspending",
    "rename": "renaming",
    "drop_memory": "dropping what it was doing",
    "set_clock": "setting its clock",
    "soft_delete": "removing, so that it can be recovered",
    "recover": "recovering",
    "grow_disk": "growing its disk",
    "set_cpus": "changing its processors",
    "set_memory": "changing its memory",
    "set_networks": "changing its networks",
    "set_ports": "changing its ports",
    "set_mounts": "changing its mounts",
    "mount": "mounting folders of the host",
    "attach_folder": "mounting a folder of the host",
    "copy_folder": "copying a folder of the host",
    "set_tags": "changing its tags",
    "set_autostart": "changing whether it starts with the host",
    "reconfigure": "putting its configuration right",
    "repair_networks": "repairing its networks",
    "repair_autostart": "repairing its start with the host",
    "repair": "repairing",
    "take": "taking a snapshot",
    "safeguard": "taking a snapshot of how it is now",
    "restore": "bringing it back to a snapshot",
    "export": "exporting",
    "unpack": "unpacking",
    "delete": "removing",
    "remove": "removing",
    "remove_leftovers": "removing what was left of it",
}


def spoken(line: str) -> str:
    """A line of the activity log as it is shown; empty for one that is not.

    line -- such as `2026-05-04T10:20:30 [4711] web: create`: when, the process, the subject, what is done
    """
    subject, separator, text = line.partition("] ")[2].partition(": ")
    if not separator:
        return ""
    step, dummy, name = text.partition(" ")
    if re.fullmatch(r"[a-z_]+", text) or (step in ("start", "stop", "suspend", "wait_ready") and name):
        text = " ".join(filter(None, (_STEPS.get(step, ""), name)))
    # A guest may have had a say in it: nothing that a terminal would obey.
    return "".join(c for c in f"{subject}: {text}" if c.isprintable()) if text else ""


class CallbackModule(CallbackBase):
    """Follows the activity logs of the data directories in which tasks of this collection work, as long as they do."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "minicloud.local.progress"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: t.Any, **kwargs: t.Any) -> None:
        super().__init__(*args, **kwargs)
        self._play: t.Any = None
        # The log that each task which runs writes to, by host and task; and how far each log was read.
        self._running: dict[tuple[str, str], str] = {}
        self._positions: dict[str, int] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def v2_playbook_on_play_start(self, play: t.Any) -> None:
        """Keep what knows the variables of the play's tasks."""
        self._play = play

    def v2_runner_on_start(self, host: t.Any, task: t.Any) -> None:
        """Begin to follow what a task of this collection writes from now on."""
        action = str(getattr(task, "resolved_action", None) or task.action)
        if not action.startswith(_COLLECTION) or not self._is_shown():
            return
        path = DataDirectory(self._data_dir(host, task, action)).activity
        with self._lock:
            self._running[host.get_name(), task._uuid] = path
            self._positions.setdefault(path, _size(path))
        if not self._thread:
            self._ended.clear()
            self._thread = threading.Thread(target=self._follow, daemon=True)
            self._thread.start()

    def v2_runner_on_ok(self, result: t.Any) -> None:
        """The task has ended, as in the other events below."""
        self._end(result)

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        """See v2_runner_on_ok()."""
        self._end(result)

    def v2_runner_on_skipped(self, result: t.Any) -> None:
        """See v2_runner_on_ok()."""
        self._end(result)

    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        """See v2_runner_on_ok()."""
        self._end(result)

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        """Show nothing after the end, whatever has become of tasks."""
        with self._lock:
            self._running.clear()
        self._stop()

    def _is_shown(self) -> bool:
        return bool(self.get_option("show") == "always" or sys.stderr.isatty())

    def _data_dir(self, host: t.Any, task: t.Any, action: str) -> str | None:
        """The data directory that a task works in: of its options, its defaults, its environment, or of its user."""
        defaults: dict[str, t.Any] = {}
        for entry in task.module_defaults or ():
            defaults.update(entry)
        for values in (task.args, defaults.get(action) or {}, defaults.get(_ACTION_GROUP) or {}):
            found = self._text(values.get("data_dir"), host, task) if isinstance(values, dict) else None
            if found:
                return found
        for values in task.environment or ():
            found = self._text(values.get(ENVIRONMENT), host, task) if isinstance(values, dict) else None
            if found:
                return found
        if task.become and (task.become_user or "root") == "root":
            return SYSTEM_PATH
        return None

    def _text(self, value: t.Any, host: t.Any, task: t.Any) -> str | None:
        """An option's value as text, None where it has none or it cannot be told before the task does."""
        if isinstance(value, str) and "{" in value and self._play:
            variables = self._play.get_variable_manager().get_vars(play=self._play, host=host, task=task)
            try:
                value = Templar(loader=self._play.get_loader(), variables=variables).template(value)
            except Exception:
                return None
        return value if isinstance(value, str) else None

    def _end(self, result: t.Any) -> None:
        task, host = getattr(result, "task", None), getattr(result, "host", None)
        with self._lock:
            path = self._running.pop((host.get_name(), task._uuid), "") if task and host else ""
            if path and path not in self._running.values():
                del self._positions[path]
            idle = not self._running
        if path and idle:
            self._stop()

    def _stop(self) -> None:
        self._ended.set()
        if self._thread:
            self._thread.join()
        self._thread = None
        self._positions.clear()

    def _follow(self) -> None:
        while not self._ended.wait(_PAUSE):
            with self._lock:
                for path, position in self._positions.items():
                    self._positions[path] = self._show(path, position)

    def _show(self, path: str, position: int) -> int:
        """Show whole lines from a position on, and tell the position after them."""
        try:
            # Whoever has the directory may have put anything there: a pipe is not waited for.
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
                if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                    return position
                if position > os.fstat(stream.fileno()).st_size:
                    position = 0  # a new log has begun
                stream.seek(position)
                text = stream.read(_MOST)
        except OSError:
            return position
        whole = text[: text.rfind(b"\n") + 1]
        for line in filter(None, map(spoken, whole.decode(errors="replace").splitlines())):
            self._display.display(f"    {line}", color="dark gray", stderr=True, screen_only=True)
        return position + len(whole)


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0
