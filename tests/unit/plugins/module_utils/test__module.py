# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import stat
import sys

import pytest
from ansible.module_utils import basic

from ansible_collections.minicloud.local.plugins.module_utils import _module
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import DRIVERS
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption, LaunchError
from ansible_collections.minicloud.local.plugins.module_utils._module import ActivityReporter, perform, run_module
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir

ARGUMENTS = {"name": {"type": "str", "required": True}, "colour": {"type": "str", "choices": ["red", "blue"]}}


@pytest.fixture
def task(tmp_path, monkeypatch, capsys):
    """Run a module's body as a task would; gives what the module prints, its exit status and its warnings."""

    def run(body, diff=False, check=False, **params):
        arguments = {
            "name": "web",
            "data_dir": str(tmp_path / "data"),
            **params,
            "_ansible_diff": diff,
            "_ansible_check_mode": check,
            "_ansible_remote_tmp": str(tmp_path),
        }
        monkeypatch.setattr(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode())
        monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy", raising=False)
        # Where the controller's code was imported into this process too, warnings do not go into the result.
        warned = []
        monkeypatch.setattr(basic.AnsibleModule, "warn", lambda module, text: warned.append(text))
        with pytest.raises(SystemExit) as ended:
            run_module(body, ARGUMENTS, subject="name")
        return {"status": ended.value.code, "warned": warned, **json.loads(capsys.readouterr().out)}

    return run


class TestModules:
    def test_a_body_gets_its_surroundings_and_its_result_is_the_modules(self, task, tmp_path):
        seen = []

        def body(context):
            seen.append(context)
            return {"changed": True, "actions": ["create"]}

        result = task(body, colour="red", driver="qemu", driver_options={"accelerator": "tcg"})
        assert (result["status"], result["changed"], result["actions"]) == (0, True, ["create"])
        (context,) = seen
        assert context.params["colour"] == "red"
        assert context.params["driver"] == "qemu"
        assert context.params["driver_options"] == {"accelerator": "tcg"}
        assert context.data.path == str(tmp_path / "data")
        assert context.check_mode is False

    def test_check_mode_is_told(self, task):
        assert task(lambda context: {"changed": context.check_mode}, check=True)["changed"] is True

    @pytest.mark.parametrize(
        ("params", "words"),
        [
            ({"name": True}, "name is true, and text is meant"),
            ({"name": "a\0b"}, "name has a NUL character in it"),
            ({"data_dir": 5}, "data_dir is the number 5"),
            ({"data_dir": "/\0"}, "data_dir has a NUL character in it"),
            ({"driver_options": {"uri": "\ufeff", "a": "\0"}}, "driver_options has a NUL character in it"),
        ],
    )
    def test_options_are_looked_at_before_they_are_converted(self, task, params, words):
        result = task(lambda context: pytest.fail("It ran."), **params)
        assert (result["status"], result["failed"], result["error"]) == (1, True, "InvalidOption")
        assert words in result["msg"]

    @pytest.mark.parametrize("wanted", [True, False])
    def test_a_diff_is_given_to_who_wants_it(self, task, wanted):
        result = task(lambda context: {"changed": True, "diff": {"before": {}, "after": {"a": 1}}}, diff=wanted)
        assert ("diff" in result) is wanted

    def test_warnings_reach_the_result_once(self, task):
        def body(context):
            for text in ("first", "second", "first"):
                context.runtime.report.warn(text)
            return {"changed": False}

        assert task(body)["warned"] == ["first", "second"]

    def test_an_error_becomes_a_failure_with_its_evidence(self, task):
        def body(context):
            context.runtime.report.warn("it began well")
            raise LaunchError("boot", "web did not boot", "the kernel panicked", "Look.", console=["panic", "ÿ"])

        result = task(body)
        assert result["status"] == 1
        assert result["failed"] is True
        assert result["msg"] == "web did not boot: the kernel panicked. Look."
        assert (result["error"], result["stage"], result["console"]) == ("LaunchError", "boot", ["panic", "ÿ"])
        assert result["warned"] == ["it began well"]
        assert "exception" not in result or "Traceback" not in str(result["exception"])

    def test_an_error_names_its_kind(self, task):
        def body(context):
            raise InvalidOption("memory is no size")

        assert task(body)["error"] == "InvalidOption"

    def test_a_mistake_in_the_code_is_not_hidden(self, monkeypatch, task):
        def body(context):
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            task(body)

    @pytest.mark.parametrize("params", [{"driver": "vanished"}, {"colour": "green"}, {"size": 3}])
    def test_options_are_checked(self, task, params):
        result = task(lambda context: {"changed": True}, **params)
        assert result["failed"] is True
        assert next(iter(params)) in result["msg"]
        if "driver" in params:
            assert all(name in result["msg"] for name in DRIVERS)

    @pytest.mark.parametrize(
        "params",
        [{"name": "a\0b"}, {"data_dir": "/srv/a\0"}, {"driver_options": {"uri": ["x", {"y\0": "z"}]}}],
        ids=str,
    )
    def test_a_nul_in_an_option_is_named_before_anything_is_done(self, params):
        result, dummy = perform(
            lambda context: pytest.fail("the task was begun"), {"data_dir": None, **params}, None, "name", False
        )
        assert result["error"] == "InvalidOption"
        assert f"{next(iter(params))} has a NUL character" in result["msg"]

    def test_output_that_is_no_text_does_not_break_the_result(self, task):
        def body(context):
            done = context.runtime.run([sys.executable, "-c", "import sys; sys.stderr.buffer.write(b'a\\xffb')"])
            context.runtime.report.warn(f"it said {done.err}")
            raise InvalidOption("no", done.err, stderr=done.err)

        result = task(body)
        assert result["failed"] is True
        assert result["stderr"].startswith("a")
        assert result["stderr"].endswith("b")
        assert result["warned"] == ["it said a\\udcffb"]


class TestCommands:
    def run(self, task, code, *args, **kwargs):
        seen = []

        def body(context):
            seen.append(context.runtime.run([sys.executable, "-c", code, *args], **kwargs))
            return {"changed": False}

        task(body)
        return seen[0]

    def test_status_and_output(self, task):
        code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
        assert self.run(task, code) == (3, "out\n", "err\n")

    def test_nothing_is_expanded(self, task):
        assert self.run(task, "import sys; print(sys.argv[1:])", "$HOME", "~", "a b").out == "['$HOME', '~', 'a b']\n"

    def test_input_directory_environment_and_handles(self, task, tmp_path, monkeypatch):
        monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
        read, write = os.pipe()
        code = (
            "import os, sys; print(repr(sys.stdin.buffer.read()), os.getcwd(), os.environ['LC_ALL'], os.environ['K']);"
            f"os.write({write}, b'x')"
        )
        done = self.run(task, code, stdin=b"a\0b\n", cwd=str(tmp_path), env={"K": "v"}, pass_fds=[write])
        assert done == (0, f"b'a\\x00b\\n' {os.path.realpath(tmp_path)} C v\n", "")
        assert os.read(read, 1) == b"x"
        os.close(read)
        os.close(write)


class TestActivity:
    @pytest.fixture
    def data(self, tmp_path):
        return DataDirectory(str(tmp_path / "data"))

    @pytest.fixture
    def reporter(self, data):
        make_dir(data.path)
        return ActivityReporter(data, "web")

    def lines(self, data, name="activity.log"):
        with open(os.path.join(data.path, name), encoding="utf-8") as stream:
            return [line.split(": ", 1)[1].rstrip("\n") for line in stream]

    def test_steps_and_warnings_are_written_with_who_and_what(self, data, reporter):
        reporter.step("create")
        reporter.warn("careful")
        reporter.warn("careful")
        assert self.lines(data) == ["create", "warning: careful", "warning: careful"]
        assert reporter.warnings == ["careful"]
        with open(os.path.join(data.path, "activity.log"), encoding="utf-8") as stream:
            assert f"[{os.getpid()}] web: create" in stream.readline()

    def test_it_is_private(self, data, reporter):
        reporter.step("create")
        assert stat.S_IMODE(os.stat(os.path.join(data.path, "activity.log")).st_mode) & 0o077 == 0

    def test_without_a_data_directory_nothing_is_made_and_nothing_fails(self, data):
        ActivityReporter(data, "web").step("create")
        assert not os.path.exists(data.path)

    def test_a_log_that_is_full_makes_way_for_a_new_one(self, data, reporter, monkeypatch):
        monkeypatch.setattr(_module, "_ACTIVITY_LIMIT", 200)
        for number in range(50):
            reporter.step(f"step {number}")
        assert sorted(os.listdir(data.path)) == ["activity.log", "activity.log.1"]
        both = self.lines(data, "activity.log.1") + self.lines(data)
        assert both == [f"step {number}" for number in range(50 - len(both), 50)]
        assert len(both) >= 4
        assert os.path.getsize(os.path.join(data.path, "activity.log.1")) < 400

    def test_a_log_that_cannot_be_written_fails_nothing(self, data, reporter):
        os.mkdir(os.path.join(data.path, "activity.log"))
        reporter.step("create")

    def test_progress_is_written_now_and_then_and_at_the_end(self, data, reporter, monkeypatch):
        now = [1000.0]
        monkeypatch.setattr(_module.time, "monotonic", lambda: now[0])
        mib = 1 << 20
        reporter.progress("image", 1 * mib, 100 * mib)
        now[0] += 0.5
        reporter.progress("image", 2 * mib, 100 * mib)
        now[0] += 2
        reporter.progress("image", 50 * mib, 100 * mib)
        reporter.progress("image", 100 * mib, 100 * mib)
        now[0] += 2
        reporter.progress("packages", 3, None, "files")
        assert self.lines(data) == [
            "image: 1 of 100 MiB (1 %)",
            "image: 50 of 100 MiB (50 %), 19.6 MiB/s, 3 s left",
            "image: 100 of 100 MiB (100 %), 39.6 MiB/s",
            "packages: 3 files",
        ]

    def test_what_is_no_text_is_written_all_the_same(self, data, reporter):
        reporter.warn("the guest said \udcff")
        assert self.lines(data) == ["warning: the guest said \\udcff"]
