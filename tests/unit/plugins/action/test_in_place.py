# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import datetime
import fcntl
import os
import signal
import sys
import time
from dataclasses import replace

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.plugins.loader import connection_loader
from ansible.template import Templar, trust_as_template

from ansible_collections.minicloud.local.plugins.action import cloud as cloud_action
from ansible_collections.minicloud.local.plugins.action import cloud_info as cloud_info_action
from ansible_collections.minicloud.local.plugins.action import image_info as image_info_action
from ansible_collections.minicloud.local.plugins.action import instance as instance_action
from ansible_collections.minicloud.local.plugins.action import instance_info as instance_info_action
from ansible_collections.minicloud.local.plugins.action import network as network_action
from ansible_collections.minicloud.local.plugins.action import network_info as network_info_action
from ansible_collections.minicloud.local.plugins.module_utils._errors import LaunchError
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Nic
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.module_utils._writing import write_file

ACTIONS = {
    "cloud": cloud_action.ActionModule,
    "cloud_info": cloud_info_action.ActionModule,
    "image_info": image_info_action.ActionModule,
    "instance": instance_action.ActionModule,
    "instance_info": instance_info_action.ActionModule,
    "network": network_action.ActionModule,
    "network_info": network_info_action.ActionModule,
}
MODULE = {"changed": False, "from": "the module"}


class Controller:
    """A controller with one running instance, and tasks that run on it."""

    def __init__(self, path, monkeypatch):
        self.data = DataDirectory(str(path / "data"))
        self.monkeypatch = monkeypatch
        self.started = []
        self.complaints = None  # a list of them in a test that expects any
        scope = self.data.scope("qemu")
        scope.write(
            Instance(
                "web", "id", "qemu", "qemu", "2026-01-02T03:04:05Z", "x86_64", 2, 1 << 30, 5 << 30, phase="ready",
                user="debian", ssh_port=40022, owner="qemu", ready=True, image={"name": "lts", "hash": "ab" * 32},
                nics=[Nic("user", "52:54:00:00:00:01")], tags={"role": "web"},
            )
        )  # fmt: skip
        # What a running QEMU does.
        self.lock = open(os.path.join(scope.directory("web"), "run.lock"), "w", encoding="ascii")  # noqa: SIM115
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def files(self):
        found = {}
        for at, dummy, names in os.walk(self.data.path):
            for name in names:
                with open(os.path.join(at, name), "rb") as stream:
                    found[os.path.join(at, name)] = stream.read()
        return found

    def run(self, action, args, connection="local", become=False, task_vars=None, **keywords):
        """Run a task; the module is not run, but what would start it tells MODULE."""
        loader = DataLoader()
        name = f"minicloud.local.{action}"
        task = Task.load({"action": {"module": name, "data_dir": self.data.path, **args}, **keywords}, loader=loader)
        context = PlayContext()
        context.become = become
        plugin = ACTIONS[action](
            task, connection_loader.get(connection, context), context, loader, Templar(loader, task_vars or {}), None
        )

        def execute(**kwargs):
            self.started.append(kwargs)
            return dict(MODULE)

        self.monkeypatch.setattr(plugin, "_execute_module", execute)
        self.monkeypatch.setattr(plugin, "_display", self)
        before = self.files()
        result = plugin.run(None, task_vars or {})
        assert task_vars or self.files() == before
        return result

    def warning(self, text):
        """What Ansible's display is told: that a look went wrong. No test goes by such a fault in silence."""
        assert self.complaints is not None, text
        self.complaints.append(text)


@pytest.fixture
def controller(tmp_path, monkeypatch):
    world = Controller(tmp_path, monkeypatch)
    yield world
    world.lock.close()


@pytest.mark.parametrize(
    "args",
    [{}, {"state": "present"}, {"cpus": 2, "memory": "1G"}, {"tags": {"role": "web"}}, {"name": "WEB"}, {"cpus": "2"}],
    ids=["running", "present", "sizes", "tags", "case", "text"],
)
def test_what_needs_no_change_is_told_at_once(controller, args):
    result = controller.run("instance", {"name": "web", **args})
    assert controller.started == []
    assert result["changed"] is False
    assert result["actions"] == []
    assert result["instance"]["name"] == "web"
    assert result["instance"]["state"] == "running"
    assert result["invocation"]["module_args"]["timeout"] == 300
    assert "diff" not in result


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"image": 24.1}, "24.10"),
        ({"ports": [1342]}, "22:22"),
        ({"name": "a\0"}, "NUL"),
        ({"cpus": True}, "cpus is true"),
        ({"cpus": float("inf")}, "cpus is inf"),
        ({"cloud_init": "\ufeff#cloud-config"}, "byte order mark"),
    ],
    ids=str,
)
def test_what_yaml_made_of_text_is_refused_here(controller, args, words):
    result = controller.run("instance", {"name": "web", **args})
    assert controller.started == []
    assert (result["failed"], result["error"]) == (True, "InvalidOption")
    assert words in result["msg"]


def test_options_are_those_that_a_module_gets(controller):
    record = controller.data.scope("qemu").read("web")
    record.tags = {"1": "2026-12-31", "role": "web"}
    controller.data.scope("qemu").write(record)
    tags = {1: datetime.date(2026, 12, 31), "role": "web"}
    assert controller.run("instance", {"name": "web", "tags": tags})["changed"] is False
    assert controller.run("instance", {"name": "web", "networks": ["user"]})["changed"] is False
    assert controller.started == []


def test_what_is_absent_already(controller):
    result = controller.run("instance", {"name": "db", "state": "absent"}, diff=True)
    assert controller.started == []
    assert result["instance"] is None
    assert result["diff"] == {"before": {"state": "absent"}, "after": {"state": "absent"}}


@pytest.mark.parametrize(
    "args",
    [
        {"state": "stopped"}, {"state": "absent"}, {"tags": {}}, {"cpus": 3}, {"image": "26.04"}, {"name": "db"},
        {"name": "../x"}, {"cpus": 0}, {"memory": "much"}, {"colour": "red"}, {"driver_options": {"colour": "red"}},
        {"state": "asleep"},
    ],
    ids="-".join,
)  # fmt: skip
@pytest.mark.parametrize("check", [False, True], ids=["run", "check"])
def test_changes_and_mistakes_are_the_module_s(controller, args, check):
    assert controller.run("instance", {"name": "web", **args}, check_mode=check) == MODULE
    assert len(controller.started) == 1


@pytest.mark.parametrize(
    "keywords",
    [
        {"connection": "ssh"}, {"become": True}, {"async": 60, "poll": 5}, {"environment": {"HOME": "/root"}},
    ],
    ids=lambda keywords: next(iter(keywords)),
)  # fmt: skip
@pytest.mark.parametrize("action", ACTIONS)
def test_what_runs_elsewhere_or_otherwise_is_the_module_s(controller, action, keywords):
    args = {} if action.endswith("_info") else {"name": "web"}
    assert controller.run(action, args, **keywords) == MODULE
    assert controller.started[0]["wrap_async"] is ("async" in keywords)


def test_an_image_host_is_asked_by_the_module(controller):
    result = controller.run("image_info", {})
    assert controller.started == []
    assert result["cached"] == []
    assert controller.run("image_info", {"query": "24.04", "cached": False}) == MODULE


def test_networks(controller):
    result = controller.run("network", {"name": "lab", "state": "absent"})
    assert controller.started == []
    assert result["network"] is None
    assert controller.run("network_info", {"host_interfaces": False})["networks"] == []
    assert controller.started == []
    assert controller.run("network", {"name": "lab"}) == MODULE


def test_somebody_else_s_data_directory_is_the_module_s_to_refuse(controller):
    os.chmod(controller.data.path, 0o777)
    assert controller.run("instance", {"name": "web"}) == MODULE


def test_a_fault_of_ours_is_told_and_the_module_started(controller, monkeypatch):
    def broken(context):
        raise TypeError("no such thing")

    monkeypatch.setattr(instance_action.ActionModule, "module_body", staticmethod(broken))
    controller.complaints = []
    assert controller.run("instance", {"name": "web"}) == MODULE
    (complaint,) = controller.complaints
    assert "TypeError: no such thing" in complaint


def test_instances_are_listed_with_warnings(controller):
    write_file(os.path.join(os.path.dirname(controller.data.scope("qemu").directory("x")), "web", "x"), b"")
    os.mkdir(controller.data.scope("qemu").directory("broken"))
    write_file(os.path.join(controller.data.scope("qemu").directory("broken"), "instance.json"), b"{")
    result = controller.run("instance_info", {})
    assert controller.started == []
    assert [each["name"] for each in result["instances"]] == ["web"]
    (warning,) = result["warnings"]
    assert "is damaged" in warning
    assert controller.run("instance_info", {"states": ["stopped"]})["instances"] == []


class TestActing:
    """Where the module would run with this very Python, what it would do is done in a process forked for it."""

    HERE = {
        "ansible_python_interpreter": trust_as_template("{{ ansible_playbook_python }}"),
        "ansible_playbook_python": sys.executable,
    }

    @pytest.fixture
    def act(self, controller, monkeypatch):
        """Run a task of which the module's body is another one, that begins with a change."""

        def run(body, task_vars=None, **keywords):
            def whole(context):
                context.runtime.begin_changes()
                return body(context)

            monkeypatch.setattr(instance_action.ActionModule, "module_body", staticmethod(whole))
            task_vars = self.HERE if task_vars is None else task_vars
            return controller.run("instance", {"name": "web"}, task_vars=task_vars, **keywords)

        return run

    def test_what_is_to_be_done_is_done_in_another_process(self, controller, act):
        result = act(lambda context: {"changed": True, "actions": [context.params["name"]], "pid": os.getpid()})
        assert controller.started == []
        assert (result["changed"], result["actions"]) == (True, ["web"])
        assert result["pid"] != os.getpid()
        assert result["invocation"]["module_args"]["name"] == "web"

    def test_the_real_body_goes_on_from_where_it_refused(self, controller):
        result = controller.run("instance", {"name": "web", "state": "absent"}, check_mode=True, task_vars=self.HERE)
        assert (controller.started, result["changed"], result["actions"]) == ([], True, ["delete"])
        assert controller.data.scope("qemu").read("web") is not None

    @pytest.mark.parametrize("wanted", [True, False])
    def test_a_diff_is_given_to_who_wants_it(self, act, wanted):
        result = act(lambda context: {"changed": True, "diff": {"before": {}, "after": {"a": 1}}}, diff=wanted)
        assert ("diff" in result) is wanted

    def test_check_mode_is_told(self, act):
        assert act(lambda context: {"changed": context.check_mode}, check_mode=True)["changed"] is True

    def test_failures_are_told_with_their_evidence(self, controller, act):
        def body(context):
            context.runtime.report.warn("it began well")
            raise LaunchError("boot", "web did not boot", "it panicked", "Look.", console=["panic", "a\udcffb"])

        result = act(body)
        assert controller.started == []
        assert result["failed"] is True
        assert result["msg"] == "web did not boot: it panicked. Look."
        assert (result["error"], result["stage"]) == ("LaunchError", "boot")
        assert result["console"] == ["panic", "a\ufffdb"]
        assert result["warnings"] == ["it began well"]

    def test_who_watches_sees_it(self, controller, act):
        act(lambda context: context.runtime.report.step("create") or {"changed": True})
        with open(controller.data.activity, encoding="utf-8") as stream:
            assert stream.read().endswith("] web: create\n")

    @pytest.mark.parametrize(
        "body",
        [
            lambda context: {"changed": int("x")},
            lambda context: os.kill(os.getpid(), signal.SIGKILL),
            lambda context: {"changed": object()},
        ],
        ids=["error", "crash", "no JSON"],
    )
    def test_what_goes_wrong_otherwise_is_the_module_s(self, controller, act, body):
        assert act(body) == MODULE
        assert len(controller.started) == 1

    @pytest.mark.parametrize(
        "task_vars",
        [
            {}, {"ansible_python_interpreter": "auto"}, {"ansible_python_interpreter": "/usr/bin/env"},
        ],
        ids=["unknown", "auto", "another"],
    )  # fmt: skip
    def test_another_python_is_the_module_s(self, controller, act, task_vars):
        assert act(lambda context: {"changed": True}, task_vars=task_vars) == MODULE

    def test_another_virtual_environment_is_another_python(self, tmp_path, act):
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
        there = {"ansible_python_interpreter": str(tmp_path / "bin" / "python")}
        assert act(lambda context: {"changed": True}, task_vars=there) == MODULE

    def test_a_delegated_task_has_the_python_of_where_it_goes(self, act):
        other = {"ansible_python_interpreter": "/usr/bin/env"}
        there = {**self.HERE, "ansible_delegated_vars": {"localhost": self.HERE}, **other}
        result = act(lambda context: {"changed": True}, task_vars=there, delegate_to="localhost")
        assert result != MODULE
        there = {**self.HERE, "ansible_delegated_vars": {"localhost": other}}
        assert act(lambda context: {"changed": True}, task_vars=there, delegate_to="localhost") == MODULE

    def test_a_task_that_is_ended_leaves_no_process(self, tmp_path, act):
        def late(number, frame):
            raise TimeoutError

        def body(context):
            (tmp_path / "pid").write_text(str(os.getpid()), encoding="ascii")
            # Python itself swallows what is raised while its fork is just coming to its end.
            while True:
                os.kill(os.getppid(), signal.SIGUSR1)
                time.sleep(5)

        before = signal.signal(signal.SIGUSR1, late)
        try:
            with pytest.raises(TimeoutError):
                act(body)
        finally:
            signal.signal(signal.SIGUSR1, before)
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text(encoding="ascii")), 0)


def test_a_cloud_that_is_as_it_should_be_is_told_at_once(controller):
    scope = controller.data.scope("qemu")
    scope.write(replace(scope.read("web"), cloud="shop"))
    result = controller.run("cloud", {"name": "shop", "instances": {"web": {"cpus": 2}}})
    assert (controller.started, result["changed"], result["actions"]) == ([], False, [])
    assert [(each["name"], each["state"]) for each in result["cloud"]["instances"]] == [("web", "running")]
    (cloud,) = controller.run("cloud_info", {})["clouds"]
    assert (cloud["name"], [each["name"] for each in cloud["instances"]]) == ("shop", ["web"])
    for arguments in ({"web": {"cpus": 3}}, {"web": {}, "db": {}}):
        assert controller.run("cloud", {"name": "shop", "instances": arguments})["from"] == "the module"
    refused = controller.run("cloud", {"name": "shop", "images": [24.1]})
    assert (refused["failed"], refused["error"]) == (True, "InvalidOption")
