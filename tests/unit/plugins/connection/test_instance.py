# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shlex

import pytest
import yaml
from ansible import constants as C
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.playbook.play_context import PlayContext
from ansible.plugins.doc_fragments import connection_pipelining

from ansible_collections.minicloud.local.plugins.connection import instance as plugin_module
from ansible_collections.minicloud.local.plugins.connection.instance import DOCUMENTATION, Connection
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.base import LxdFamilyDriver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Execution, GuestCommand
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.driver import QemuDriver
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Nic
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

NAME = "minicloud.local.instance"


@pytest.fixture(autouse=True)
def definitions():
    """What the plugin loader would do."""
    options = yaml.safe_load(DOCUMENTATION)["options"]
    options.update(yaml.safe_load(connection_pipelining.ModuleDocFragment.DOCUMENTATION)["options"])
    C.config.initialize_plugin_configuration_definitions("connection", NAME, options)


class Said(GuestCommand):
    """A command that says what it is told to, one piece each time."""

    def __init__(self, pieces, status=0):
        self.pieces, self.status, self.sent, self.ended = list(pieces), status, [], False

    def send(self, data):
        self.sent.append(data)

    def end_input(self):
        self.sent.append(None)

    def receive(self, seconds):
        if not self.pieces:
            return None
        piece = self.pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece

    def end(self):
        self.ended = True


class Ways(Execution):
    def __init__(self, command):
        self.command, self.started = command, []

    def why_not(self, instance):
        return "it is gone"

    def start(self, instance, argv):
        self.started.append(argv)
        return self.command


class Ssh:
    """Stands in for the connection plugin ssh."""

    has_tty = False

    def __init__(self):
        self.options, self.commands, self.failures = {}, [], []

    def set_options(self, task_keys=None, var_options=None, direct=None):
        self.options = direct

    def set_become_plugin(self, plugin):
        self.become = plugin

    def exec_command(self, cmd, in_data=None, sudoable=True):
        self.commands.append(cmd)
        for failure in self.failures:
            raise failure
        return 0, b"", b""


class Guests:
    def __init__(self, path, monkeypatch):
        self.data = DataDirectory(str(path))
        self.ssh = Ssh()
        self.command = Said([])
        self.ways = Ways(self.command)
        monkeypatch.setattr(plugin_module.connection_loader, "get", lambda name, context, **kwargs: self.ssh)
        monkeypatch.setattr(LxdFamilyDriver, "execution", lambda driver: self.ways)
        monkeypatch.setattr(QemuDriver, "alive", lambda driver, instance: True)

    def add(self, name, scope="qemu", owner="", **changes):
        values = {
            "name": name,
            "uuid": "1",
            "scope": scope,
            "driver": scope,
            "created": "2026-05-04T00:00:00Z",
            "arch": "x86_64",
            "cpus": 1,
            "memory": 1 << 30,
            "disk": 1 << 30,
            "phase": "ready",
            "user": "debian",
            "owner": owner or scope,
            "ssh_port": 2222,
            "nics": [Nic("user", "52:54:00:00:00:01")],
            "handles": {scope: {}},
            **changes,
        }
        if values["owner"] == "nobody":
            values["owner"] = ""
        scope_ = self.data.scope(scope)
        scope_.write(Instance(**values))

    def connection(self, name="web", driver="qemu", **options):
        context = PlayContext()
        context.remote_addr = name
        found = Connection(context, task_uuid="")
        found._load_name = NAME
        found.set_options(direct={"data_dir": self.data.path, "driver": driver, **options})
        return found


@pytest.fixture
def guests(tmp_path, monkeypatch):
    return Guests(tmp_path / "data", monkeypatch)


def test_ssh_is_told_where_to_and_whom_to_trust(guests):
    guests.add("Web")
    connection = guests.connection()
    connection.exec_command("echo 'a b'")
    options = guests.ssh.options
    assert (options["host"], options["port"], options["remote_user"]) == ("127.0.0.1", 2222, "debian")
    assert "HostKeyAlias=minicloud-qemu-web" in options["ssh_common_args"]
    assert "StrictHostKeyChecking=yes" in options["ssh_common_args"]
    assert "ServerAliveInterval" in options["ssh_common_args"]
    assert "ControlPersist" in options["ssh_args"]
    shield, command = shlex.split(guests.ssh.commands[0])[2::2]
    assert command == "echo 'a b'"
    assert "< /dev/null" in shield


def test_each_instance_has_a_master_of_its_own_also_at_the_same_address(guests):
    guests.add("web")
    guests.add("db")
    paths = []
    for name in ("web", "db", "WEB"):
        guests.connection(name).exec_command("true")
        paths.append(guests.ssh.options["control_path"])
    assert paths[0] == paths[2] != paths[1]


def test_an_instance_that_is_made_anew_has_another_master(guests):
    paths = []
    for uuid in ("0b", "0c"):
        guests.add("web", uuid=uuid)
        guests.connection().exec_command("true")
        paths.append(guests.ssh.options["control_path"])
    assert paths[0] != paths[1]


def test_input_that_is_given_is_read(guests):
    guests.add("web")
    guests.connection().exec_command("cat", in_data=b"x")
    assert "/dev/null" not in guests.ssh.commands[0]


def test_another_user_counts(guests):
    guests.add("web")
    guests.connection(remote_user="root").exec_command("true")
    assert guests.ssh.options["remote_user"] == "root"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "nobody"}, "no instance nobody"),
        ({"name": "off"}, "does not run"),
        ({"driver": "mistyped"}, "no driver 'mistyped'"),
        ({"name": "../../etc"}, "name '../../etc'"),
        ({"name": "-n"}, "name '-n'"),
        ({"name": "web", "way": "exec"}, "runs no commands in a vm"),
    ],
)
def test_what_cannot_be_reached_is_said(guests, options, said):
    guests.add("web")
    guests.add("off", owner="nobody")
    with pytest.raises(AnsibleConnectionFailure, match=said):
        guests.connection(**options).exec_command("true")


def test_an_instance_that_went_away_is_said(guests, monkeypatch):
    guests.add("web")
    guests.ssh.failures.append(AnsibleConnectionFailure("Failed to connect to the host via ssh"))
    with pytest.raises(AnsibleConnectionFailure, match=r"^Failed to connect"):
        guests.connection().exec_command("true")
    monkeypatch.setattr(QemuDriver, "alive", lambda driver, instance: False)
    with pytest.raises(AnsibleConnectionFailure, match=r"web does not run any more\. Failed to connect"):
        guests.connection().exec_command("true")


def test_containers_are_entered_by_their_server(guests):
    guests.add("box", scope="lxd", instance_type="container")
    guests.command.pieces, guests.command.status = [(b"one", b""), (b"two", b"bad")], 4
    done = guests.connection("box", "lxd").exec_command("echo $HOME", in_data=b"input")
    assert done == (4, b"onetwo", b"bad")
    assert guests.ways.started[0][-2:] == ["debian", "echo $HOME"]
    assert guests.command.sent == [b"input", None]
    assert guests.command.ended


def test_a_command_that_says_too_much_is_ended(guests, monkeypatch):
    guests.add("box", scope="lxd", instance_type="container")
    monkeypatch.setattr(plugin_module, "_MOST_SAID", 1000)
    guests.command.pieces = [(b"x" * 400, b"y" * 100)] * 10
    with pytest.raises(AnsibleError, match="said more than"):
        guests.connection("box", "lxd").exec_command("yes")
    assert guests.command.ended
    assert len(guests.command.pieces) == 7


def test_what_is_complained_about_a_file_is_kept_in_part(guests, monkeypatch, tmp_path):
    guests.add("box", scope="lxd", instance_type="container")
    monkeypatch.setattr(plugin_module, "_KEPT", 10)
    (tmp_path / "source").write_bytes(b"")
    for move in ("put_file", "fetch_file"):
        guests.command.pieces, guests.command.status = [(b"", b"n" * 1000), (b"", b"the last")], 1
        with pytest.raises(AnsibleError, match=r"nnthe last$"):
            paths = [str(tmp_path / "source"), "/x"]
            getattr(guests.connection("box", "lxd"), move)(*(paths if move == "put_file" else paths[::-1]))


def test_a_way_that_is_lost_is_unreachable(guests):
    guests.add("box", scope="lxd", instance_type="container")
    guests.command.pieces = [(b"one", b""), HypervisorError("the connection to box was lost")]
    with pytest.raises(AnsibleConnectionFailure, match=r"was lost.*it is gone"):
        guests.connection("box", "lxd").exec_command("true")
    assert guests.command.ended


def test_files_go_both_ways_with_names_that_a_shell_would_expand(guests, tmp_path):
    guests.add("box", scope="lxd", instance_type="container")
    source, target = tmp_path / "-n $(id)", tmp_path / "back"
    source.write_bytes(b"\0\xff" * 1000)
    connection = guests.connection("box", "lxd")
    connection.put_file(str(source), "/tmp/-n 'x' $(id)")
    assert guests.command.sent == [b"\0\xff" * 1000, None]
    guests.command.pieces = [(b"\0\1", b""), (b"\2", b"")]
    connection.fetch_file("/tmp/*", str(target))
    assert target.read_bytes() == b"\0\1\2"
    assert [shlex.split(argv[-1]) for argv in guests.ways.started] == [
        ["cat", ">", "/tmp/-n 'x' $(id)"],
        ["cat", "<", "/tmp/*"],
    ]


def test_a_file_that_cannot_be_moved_is_an_error(guests, tmp_path):
    guests.add("box", scope="lxd", instance_type="container")
    guests.command.pieces, guests.command.status = [(b"", b"No space left on device")], 1
    (tmp_path / "source").write_bytes(b"")
    with pytest.raises(AnsibleError, match="No space left"):
        guests.connection("box", "lxd").put_file(str(tmp_path / "source"), "/full")
    with pytest.raises(AnsibleError, match="does not exist"):
        guests.connection("box", "lxd").put_file(str(tmp_path / "nothing"), "/x")


class Become:
    """A become plugin that asks for a password."""

    name = "sudo"

    def expect_prompt(self):
        return True

    def check_success(self, seen):
        return b"SUCCESS" in seen

    def check_incorrect_password(self, seen):
        return b"Sorry" in seen

    def check_missing_password(self, seen):
        return b"required" in seen

    def check_password_prompt(self, seen):
        return b"password:" in seen

    def get_option(self, name, playcontext=None):
        return "secret"


@pytest.mark.parametrize(
    ("pieces", "sent"),
    [
        ([(b"", b"password:"), (b"SUCCESS", b"")], [b"secret\n", b"code", None]),
        ([(b"SUCCESS", b"")], [b"code", None]),
    ],
)
def test_a_password_is_typed_only_where_it_is_asked_for(guests, pieces, sent):
    guests.add("box", scope="lxd", instance_type="container")
    guests.command.pieces = pieces
    connection = guests.connection("box", "lxd")
    connection.set_become_plugin(Become())
    connection.exec_command("sudo", in_data=b"code")
    assert guests.command.sent == sent


def test_a_wrong_password_is_said(guests):
    guests.add("box", scope="lxd", instance_type="container")
    guests.command.pieces = [(b"", b"password:"), (b"", b"Sorry")]
    connection = guests.connection("box", "lxd")
    connection.set_become_plugin(Become())
    with pytest.raises(AnsibleError, match="Incorrect sudo password"):
        connection.exec_command("sudo")
    assert guests.command.ended
