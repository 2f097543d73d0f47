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
  - Modules report only when they have ended. This plugin shows meanwhile which step a task has come to, and for
    downloads the bytes, the rate and the time that is left.
  - It follows the activity log of a data directory on the controller, so it shows what happens on this host, by
    whichever playbook.
requirements:
  - Enable it with C(callbacks_enabled = minicloud.local.progress) in the section C(defaults) of C(ansible.cfg), or with
    E(ANSIBLE_CALLBACKS_ENABLED).
options:
  data_dir:
    description: The data directory to follow; by default the one that modules use for this user.
    type: path
    env:
      - name: MINICLOUD_DATA_DIR
    ini:
      - section: callback_minicloud_progress
        key: data_dir
"""

import os
import threading
import typing as t

from ansible.plugins.callback import CallbackBase

from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

# Seconds between two looks at the log.
_PAUSE = 0.5


class CallbackModule(CallbackBase):
    """Follows the activity log from the start of the playbook to its end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "minicloud.local.progress"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: t.Any, **kwargs: t.Any) -> None:
        super().__init__(*args, **kwargs)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def v2_playbook_on_start(self, playbook: t.Any) -> None:
        """Begin to follow what is written from now on."""
        path = DataDirectory(self.get_option("data_dir")).activity
        try:
            position = os.path.getsize(path)
        except OSError:
            position = 0
        self._thread = threading.Thread(target=self._follow, args=(path, position), daemon=True)
        self._thread.start()

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        """Show the rest and end."""
        self._ended.set()
        if self._thread:
            self._thread.join()

    def _follow(self, path: str, position: int) -> None:
        last = False
        while not last:
            last = self._ended.wait(_PAUSE)
            position = self._show(path, position)

    def _show(self, path: str, position: int) -> int:
        """Show whole lines from a position on, and tell the position after them."""
        try:
            with open(path, "rb") as stream:
                if position > os.fstat(stream.fileno()).st_size:
                    position = 0  # a new log has begun
                stream.seek(position)
                text = stream.read()
        except OSError:
            return position
        whole = text[: text.rfind(b"\n") + 1]
        for line in whole.decode(errors="replace").splitlines():
            # Without the time and the process, which only matter afterwards.
            self._display.display("    " + line.partition("] ")[2], color="dark gray")
        return position + len(whole)
