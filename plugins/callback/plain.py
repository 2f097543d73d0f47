# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What playbooks say, as plain text."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plain
type: stdout
short_description: Shows what playbooks say, and nothing else
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Shows the messages of C(ansible.builtin.debug), line by line as they are, and errors. Which plays and tasks are run
    is not shown.
  - It is for the playbooks of this collection that are used as commands, so that what they show can be piped into other
    programs.
notes:
  - Set it for one command with E(ANSIBLE_STDOUT_CALLBACK), as in
    C(ANSIBLE_STDOUT_CALLBACK=minicloud.local.plain ansible-playbook minicloud.local.list -e format=json).
"""

import typing as t

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    """Messages go to the standard output, errors to the standard error."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "minicloud.local.plain"

    def v2_runner_on_ok(self, result: t.Any) -> None:
        """Show the message of a task that has one for people."""
        if result.task.action in ("debug", "ansible.builtin.debug"):
            said = result.result.get("msg", "")
            for line in said if isinstance(said, list) else [said]:
                self._display.display(str(line))

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        """Show why a task has failed; of a loop, what failed in it was shown."""
        if not ignore_errors and "results" not in result.result:
            self._complain(result.result)

    def v2_runner_item_on_failed(self, result: t.Any) -> None:
        """Show why a part of a loop has failed."""
        self._complain(result.result)

    def _complain(self, found: t.Mapping[str, t.Any]) -> None:
        for text in (found.get("msg"), found.get("stdout"), found.get("stderr")):
            if text:
                self._display.display(str(text).rstrip("\n"), stderr=True)

    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        """Show why a host cannot be reached."""
        self.v2_runner_on_failed(result)
