# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The one bridge between AnsibleModule and the code below: common options, commands, errors, progress."""

from __future__ import annotations

import os
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import DRIVERS
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption, MinicloudError, shown
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._options import check_options, normal_options
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Reporter, Runner, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

_ACTIVITY_LIMIT = 1 << 20


def common_arguments() -> dict[str, t.Any]:
    """The options of every module: the doc fragment `common`."""
    return {
        "driver": {"type": "str", "choices": list(DRIVERS)},
        "driver_options": {"type": "dict"},
        "data_dir": {"type": "path"},
    }


class ActivityReporter(Reporter):
    """Writes what happens to the activity log of the data directory, for whoever wants to watch a long run."""

    def __init__(self, data: DataDirectory, subject: str) -> None:
        super().__init__()
        self._data = data
        self._path = data.activity
        self._subject = subject
        self._last = 0.0
        # The part of the work that reports progress: its name, when it began, and how much was done then.
        self._begun: tuple[str, float, int] = ("", 0.0, 0)

    def about(self, subject: str) -> Reporter:
        return ActivityReporter(self._data, subject)

    def step(self, name: str) -> None:
        self._write(name)

    def progress(self, what: str, done: int, total: int | None, unit: str = "B") -> None:
        now = time.monotonic()
        if self._begun[0] != what or done < self._begun[2]:
            self._begun = (what, now, done)
        if now - self._last < 2 and done != total:
            return
        self._last = now
        factor, name = (1 << 20, "MiB") if unit == "B" else (1, unit)
        shown = f"{done // factor} {name}"
        if total:
            shown = f"{done // factor} of {total // factor} {name} ({100 * done // total} %)"
        seconds = now - self._begun[1]
        rate = (done - self._begun[2]) / seconds if seconds > 0 else 0
        if rate:
            shown += f", {rate / factor:.1f} {name}/s"
            if total and total > done:
                shown += f", {(total - done) / rate:.0f} s left"
        self._write(f"{what}: {shown}")

    def warn(self, text: str) -> None:
        super().warn(text)
        self._write(f"warning: {text}")

    def _write(self, text: str) -> None:
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%S')} [{os.getpid()}] {self._subject}: {shown(text)}\n"
        try:
            if os.path.getsize(self._path) > _ACTIVITY_LIMIT:
                os.rename(self._path, f"{self._path}.1")
        except OSError:
            pass
        try:
            descriptor = os.open(
                self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600
            )
            try:
                # Output of a guest may not be valid text.
                os.write(descriptor, line.encode(errors="backslashreplace"))
            finally:
                os.close(descriptor)
        except OSError:
            # Only a convenience: what matters is in the module's result.
            pass


class ModuleContext(t.NamedTuple):
    """What a module's body works with."""

    params: dict[str, t.Any]
    runtime: Runtime
    data: DataDirectory
    check_mode: bool


class _Module(AnsibleModule):
    """Looks at the options as the task has them, before Ansible converts them to the types of the argument spec.

    mistake -- what is wrong with them; there are none then
    """

    params: dict[str, t.Any]
    argument_spec: dict[str, t.Any]
    mistake: MinicloudError | None = None

    def _load_params(self) -> None:
        super()._load_params()
        self.params = normal_options(self.params)
        try:
            check_options(self.params, self.argument_spec)
        except MinicloudError as exc:
            self.mistake = exc
            self.argument_spec = {}
            self.params = {name: value for name, value in self.params.items() if name.startswith("_ansible_")}


def run_module(
    body: t.Callable[[ModuleContext], dict[str, t.Any]], arguments: dict[str, t.Any], subject: str, **kwargs: t.Any
) -> None:
    """Run a module: its body gets a ModuleContext and returns the result, or raises MinicloudError.

    arguments -- the module's own options; subject -- the option that names what it works on, for the activity log;
    kwargs -- further arguments of AnsibleModule
    """
    module = _Module(argument_spec={**common_arguments(), **arguments}, supports_check_mode=True, **kwargs)
    if module.mistake:
        module.fail_json(**failure(module.mistake))

    result, warnings = perform(body, module.params, _run, subject, module.check_mode)
    for text in warnings:
        # Output of commands and guests may not be valid text, and the system log accepts nothing else.
        module.warn(text.encode(errors="backslashreplace").decode())
    if result.get("failed"):
        module.fail_json(**result)
    if not module._diff:
        result.pop("diff", None)
    module.exit_json(**result)


def _run(argv: t.Sequence[str], **options: t.Any) -> Completed:
    """The runner of commands, loaded with the first command: most tasks change nothing and run none."""
    from ansible_collections.minicloud.local.plugins.module_utils._command import run

    return run(argv, **options)


def perform(
    body: t.Callable[[ModuleContext], dict[str, t.Any]],
    params: dict[str, t.Any],
    run: Runner,
    subject: str,
    check_mode: bool,
) -> tuple[dict[str, t.Any], list[str]]:
    """The result of a module's body, a failure with all that is known of it included, and its warnings.

    body, subject -- as of run_module()
    """
    warnings: list[str] = []
    try:
        check_text(params)
        data = DataDirectory(params["data_dir"])
        data.require_own()
        reporter = ActivityReporter(data, str(params.get(subject) or subject))
        warnings = reporter.warnings
        with explained("the task failed"):
            result = body(ModuleContext(params, Runtime(run, reporter), data, check_mode))
    except MinicloudError as exc:
        result = failure(exc)
    return result, warnings


def checked_options(given: t.Mapping[str, t.Any], spec: dict[str, t.Any], within: str) -> dict[str, t.Any]:
    """Options that another option has in it, checked and converted as those of a task are. InvalidOption

    spec -- their argument spec; within -- the option that has them, for errors
    """
    given = normal_options(given)
    check_options(given, spec, within)
    checked = ArgumentSpecValidator(spec).validate(given)
    if checked.error_messages:
        raise InvalidOption(f"{within}: {'; '.join(checked.error_messages)}")
    return dict(checked.validated_parameters)


def failure(error: MinicloudError) -> dict[str, t.Any]:
    """The result of a task that has failed."""
    return {"failed": True, "msg": str(error), "error": error.kind, **error.facts}


def check_text(value: t.Any, name: str = "") -> None:
    """Return if no text in options, or in what they hold, has a NUL character: no path or command can. InvalidOption"""
    if isinstance(value, str) and "\0" in value:
        raise InvalidOption(f"{name} has a NUL character", hint="Remove it: no path, name or command can have one.")
    if isinstance(value, dict):
        for key, inner in value.items():
            check_text(key, name or "an option")
            check_text(inner, name or str(key))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            check_text(inner, name)
