# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Action plugins that do without starting a module where the host is the controller itself.

Most tasks of most runs find that all is as it should be. Seeing that takes a few milliseconds, and starting the module
that would see it a hundred times as long: packing it, copying it, starting Python, loading it from the pack. So the
same code looks here first, in a surrounding that refuses to act. Where there is something to do, it is run again in a
process that is forked for it, if the module would run with this very Python. Whatever cannot be done here, or goes
wrong in an unforeseen way, is left to the module, from the beginning.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import typing as t

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._errors import MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._module import (
    ModuleContext,
    common_arguments,
    failure,
    perform,
)
from ansible_collections.minicloud.local.plugins.module_utils._options import check_options, normal_options
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.plugin_utils._arguments import as_module_gets


class _ModuleNeeded(Exception):
    """There is something to do."""


class _Looker(Runtime):
    """Surroundings that end a run where it would begin to change something."""

    def begin_changes(self) -> None:
        raise _ModuleNeeded


class InPlace(ActionBase):
    """Runs the body of a module here if it can, else the module.

    module_body, module_arguments, module_subject -- as the module hands them to run_module()
    """

    _supports_async = True
    module_body: t.Callable[[ModuleContext], dict[str, t.Any]]
    module_arguments: t.Mapping[str, t.Any] = {}
    module_subject = "name"

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """See ActionBase."""
        result = dict(super().run(tmp, task_vars))
        found = self._run_here(task_vars or {})
        if found is None:
            found = self._execute_module(task_vars=task_vars, wrap_async=bool(self._task.async_val))
        result.update(found)
        return result

    def _run_here(self, task_vars: t.Mapping[str, t.Any]) -> dict[str, t.Any] | None:
        """The module's result, or None where the module has to find it."""
        if not self._is_here():
            return None
        spec = {**common_arguments(), **self.module_arguments}
        given = normal_options(as_module_gets(dict(self._task.args)))
        try:
            check_options(given, spec)
        except MinicloudError as exc:
            return failure(exc)
        checked = ArgumentSpecValidator(spec).validate(given)
        if checked.error_messages:
            return None
        params = dict(checked.validated_parameters)
        found = self._look(params)
        if found is None and self._is_this_python(task_vars):
            found = in_own_process(lambda: self._act(params))
        if found is None:
            return None
        result, warnings = found
        if warnings:
            result["warnings"] = warnings
        if not self._task.diff:
            result.pop("diff", None)
        return {**result, "invocation": {"module_args": params}}

    def _is_here(self) -> bool:
        """Whether the module would run on this host, as this user and with this environment."""
        elsewhere = self._connection.transport != "local" or self._play_context.become or self._connection.become
        return not (elsewhere or self._task.async_val or any(self._task.environment or ()))

    def _is_this_python(self, task_vars: t.Mapping[str, t.Any]) -> bool:
        """Whether the module would run with the Python, and the libraries, of this process."""
        if self._task.delegate_to:
            task_vars = task_vars.get("ansible_delegated_vars", {}).get(self._task.delegate_to, {})
        named = self._templar.template(task_vars.get("ansible_python_interpreter") or "")
        try:
            # Virtual environments differ in where they are, not in the program that they lead to.
            same_place = os.path.samefile(os.path.dirname(named), os.path.dirname(sys.executable))
            return same_place and os.path.samefile(named, sys.executable)
        except OSError:
            return False

    def _look(self, params: dict[str, t.Any]) -> tuple[dict[str, t.Any], list[str]] | None:
        """What there is, if nothing is to be done about it, and warnings."""
        runtime = _Looker(run, Reporter())
        try:
            data = DataDirectory(params["data_dir"])
            data.require_own()
            result = type(self).module_body(ModuleContext(params, runtime, data, self._task.check_mode))
        except (_ModuleNeeded, MinicloudError, OSError):
            # What stands in the way, whoever acts meets too, and says it in the usual way.
            return None
        except Exception as exc:
            # A fault of ours: the module may still do what is asked, but nobody is to think that all is well.
            self._display.warning(
                f"looking for what {self._task.action} has to do went wrong ({type(exc).__name__}: {exc});"
                " the module is started instead. Please report this."
            )
            return None
        return result, runtime.report.warnings

    def _act(self, params: dict[str, t.Any]) -> tuple[dict[str, t.Any], list[str]]:
        return perform(type(self).module_body, params, run, self.module_subject, self._task.check_mode)


def in_own_process(work: t.Callable[[], t.Any]) -> t.Any:
    """The result of work, which JSON can hold, done in a process forked for it; None where that ended without one."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _be_child(work, writer)
    os.close(writer)
    try:
        with open(reader, "rb") as stream:
            text = stream.read()
    except BaseException:
        # The task has run out of time, or is to be ended otherwise.
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        dummy, status = os.waitpid(child, 0)
    return json.loads(text) if status == 0 else None


def _be_child(work: t.Callable[[], t.Any], writer: int) -> t.NoReturn:
    status = 1
    try:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Nothing is to be read from the user, and what libraries print is not for them.
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        # What a command or a guest said need not be text.
        content = json.dumps(work(), ensure_ascii=False).encode(errors="surrogateescape").decode(errors="replace")
        with open(writer, "wb") as stream:
            stream.write(content.encode())
        status = 0
    finally:
        os._exit(status)
