# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Action plugins that look before they start a module.

Most tasks of most runs find that all is as it should be. Where the host is the controller itself, seeing that takes
a few milliseconds, and starting the module that would see it a hundred times as long. So the same code looks here
first, in a surrounding that refuses to act: whatever there is to change or to complain about is left to the module,
from the beginning.
"""

from __future__ import annotations

import typing as t

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase

from ansible_collections.minicloud.local.plugins.module_utils._module import ModuleContext, common_arguments
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.plugin_utils._runner import run


class _ModuleNeeded(Exception):
    """There is something to do."""


class _Looker(Runtime):
    """Surroundings that end a run where it would begin to change something."""

    def begin_changes(self) -> None:
        raise _ModuleNeeded


class LookFirst(ActionBase):
    """Runs the body of a module in this process if it only has to look, else the module.

    module_body, module_arguments -- as the module hands them to run_module()
    """

    _supports_async = True
    module_body: t.Callable[[ModuleContext], dict[str, t.Any]]
    module_arguments: t.Mapping[str, t.Any] = {}

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """See ActionBase."""
        result = dict(super().run(tmp, task_vars))
        seen = self._look() if self._is_here() else None
        if seen is None:
            seen = self._execute_module(task_vars=task_vars, wrap_async=bool(self._task.async_val))
        result.update(seen)
        return result

    def _is_here(self) -> bool:
        """Whether the module would run on this host, as this user and with this environment."""
        elsewhere = self._connection.transport != "local" or self._play_context.become or self._connection.become
        return not (elsewhere or self._task.async_val or any(self._task.environment or ()))

    def _look(self) -> dict[str, t.Any] | None:
        """The module's result, or None where the module has to find it."""
        validator = ArgumentSpecValidator({**common_arguments(), **self.module_arguments})
        checked = validator.validate(dict(self._task.args))
        if checked.error_messages:
            return None
        params = dict(checked.validated_parameters)
        runtime = _Looker(run, Reporter())
        try:
            data = DataDirectory(params["data_dir"])
            data.require_own()
            result = type(self).module_body(ModuleContext(params, runtime, data, self._task.check_mode))
        except Exception:
            # Whatever it is, the module meets it too, and says it in the usual way.
            return None
        if not self._task.diff:
            result.pop("diff", None)
        if runtime.report.warnings:
            result["warnings"] = runtime.report.warnings
        return {**result, "invocation": {"module_args": params}}
