# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Into a local instance by its name."""

from __future__ import annotations

DOCUMENTATION = r"""
name: instance
short_description: Into a local instance by its name
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Runs commands and moves files in an instance of the host that runs Ansible, found by its name alone. Addresses,
    ports, keys and the pinned host key are those of the instance's record at that moment.
  - In containers of LXD and Incus it goes through the server itself, so that they need neither an address nor a ssh
    server. Everywhere else it is OpenSSH, with one connection that is kept open for each instance, as in
    P(ansible.builtin.ssh#connection), which does it.
  - An instance that is not there, does not run or goes away meanwhile is unreachable at once or within seconds.
notes:
  - With O(way=exec), commands begin as root and become O(remote_user) by C(su), so a user that nobody can log in as
    will do. There is no terminal, which C(become_method=su) with a password wants.
  - Many settings of P(ansible.builtin.ssh#connection), such as those of the section C(ssh_connection) in
    C(ansible.cfg), count here as well. Those that say whom to reach, and how to trust it, do not.
options:
  instance:
    description:
      - The name of the instance.
      - By default the host's name in the inventory, or its C(ansible_host).
    type: str
    vars:
      - name: ansible_minicloud_instance
  driver:
    description: As in M(minicloud.local.instance). By default the active driver.
    type: str
    vars:
      - name: ansible_minicloud_driver
  data_dir:
    description: As in M(minicloud.local.instance).
    type: path
    env:
      - name: MINICLOUD_DATA_DIR
    vars:
      - name: ansible_minicloud_data_dir
  way:
    description:
      - How to get into the instance.
      - V(exec) is by the hypervisor's own means, for drivers and instance types with the capability C(exec).
      - V(auto) is V(exec) where the driver has it, else V(ssh).
    type: str
    choices: [auto, ssh, exec]
    default: auto
    vars:
      - name: ansible_minicloud_way
  remote_user:
    description: Who runs the commands. By default the instance's login user.
    type: str
    ini:
      - section: defaults
        key: remote_user
    env:
      - name: ANSIBLE_REMOTE_USER
    vars:
      - name: ansible_user
    cli:
      - name: user
        option: --user
    keyword:
      - name: remote_user
  timeout:
    description: How many seconds a connection by ssh may take to come about.
    type: int
    default: 10
    ini:
      - section: defaults
        key: timeout
    env:
      - name: ANSIBLE_TIMEOUT
    vars:
      - name: ansible_ssh_timeout
    cli:
      - name: timeout
  ssh_extra_args:
    description: More arguments for C(ssh), such as C(-v).
    type: str
    default: ''
    vars:
      - name: ansible_ssh_extra_args
extends_documentation_fragment:
  - ansible.builtin.connection_pipelining
"""

EXAMPLES = r"""
- name: Configure an instance that no inventory knows
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Launch it
      minicloud.local.instance:
        name: web

    - name: Ask it how long it is up
      ansible.builtin.command: uptime
      delegate_to: web
      vars:
        ansible_connection: minicloud.local.instance
      changed_when: false
"""

import contextlib
import hashlib
import os
import shlex
import time
import typing as t

from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.module_utils.common.text.converters import to_bytes, to_native, to_text
from ansible.plugins.connection import ConnectionBase
from ansible.plugins.loader import connection_loader
from ansible.utils.display import Display

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._drivers.crew import Crew
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import load
from ansible_collections.minicloud.local.plugins.module_utils._errors import MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import SshAccess, common_args
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, check_name
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.access import ssh_access
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
    from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Execution, GuestCommand

display = Display()

# A connection that went dead is given up after 15 seconds. Nothing is gained by compressing what stays on one host.
_ALIVE = "-o ServerAliveInterval=5 -o ServerAliveCountMax=3"
_MASTER = "-o ControlMaster=auto -o ControlPersist=60s"

# Bytes: of a file at once, and waiting to be sent.
_PART = 1 << 20
_WAITING = 4 << 20
# Of what a command may say in all, and of what it complains about while a file is moved.
_MOST_SAID = 256 << 20
_KEPT = 1 << 16
# Seconds for a become plugin's password prompt, or its success.
_PROMPT = 30.0

# ssh tells an end by a signal as it tells a lost connection: so something outlives the command, and gives it a status.
_SHIELD = '"${{SHELL:-/bin/sh}}" -c "$1" {}; exit $?'

# Runs $2 with the shell of the user $1, in that one's home, as the root that it is run by.
_AS_USER = r"""
while IFS=: read -r name x uid x x home shell; do
    [ "$name" = "$1" ] && break
done <<end
$(getent passwd "$1" 2>/dev/null || cat /etc/passwd)
end
[ "$name" = "$1" ] || { echo "there is no user $1 in the instance" >&2; exit 255; }
cd "${home:-/}" 2>/dev/null || cd /
if [ "$uid" = 0 ]; then
    export HOME="${home:-/}" USER="$1" LOGNAME="$1" SHELL="${shell:-/bin/sh}"
    exec "$SHELL" -c "$2"
fi
exec su -c "$2" "$1"
"""


class Connection(ConnectionBase):
    """See DOCUMENTATION."""

    transport = "minicloud.local.instance"
    has_pipelining = True

    def __init__(self, *args: t.Any, **kwargs: t.Any) -> None:
        super().__init__(*args, **kwargs)
        self._made_with = kwargs
        self._forget()
        self._given: dict[str, t.Any] = {}

    def _forget(self) -> None:
        self._ssh: t.Any = None
        self._execution: Execution | None = None
        self._driver: Driver | None = None
        self._instance: Instance | None = None

    def set_options(self, task_keys: t.Any = None, var_options: t.Any = None, direct: t.Any = None) -> None:
        """See AnsiblePlugin. What was found for other options no longer counts."""
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)
        self._given = {"task_keys": task_keys, "var_options": var_options}
        self._forget()
        self._connected = False

    # -- finding the instance

    def _connect(self) -> Connection:
        """Find the instance, and the way into it."""
        if self._ssh is None and self._execution is None:
            try:
                self._find()
            except MinicloudError as exc:
                raise AnsibleConnectionFailure(str(exc)) from exc
        self._connected = True
        return self

    def _find(self) -> None:
        name = check_name(str(self.get_option("instance") or self._play_context.remote_addr))
        data = DataDirectory(self.get_option("data_dir"))
        # What a record says becomes how Ansible connects: nobody else may write one.
        data.require_own()
        crew = Crew(load(self.get_option("driver"), Runtime(run, Reporter()), data))
        instance = crew.wanted.scope.read(name)
        if instance is None:
            raise AnsibleConnectionFailure(
                f"There is no instance {name} in the scope {crew.wanted.scope.name} of {data.path}."
            )
        self._instance, self._driver = instance, crew.of(instance)
        if not instance.owner:
            raise AnsibleConnectionFailure(f"The instance {instance.name} does not run. Start it: state: running.")
        if not self.get_option("remote_user"):
            self.set_option("remote_user", instance.user or "root")
        way, about = self.get_option("way"), self._driver.about
        can_exec = about.can("exec", instance.instance_type)
        if way == "ssh" or (way == "auto" and not can_exec):
            self._ssh = self._ssh_connection(instance, ssh_access(instance, self._driver, data))
        elif can_exec:
            self._execution = self._driver.execution()
        else:
            raise AnsibleConnectionFailure(
                f"The driver {about.name} runs no commands in a {instance.instance_type} by its own means: see the"
                " capability exec in its driver_info, or use way: ssh."
            )

    def _ssh_connection(self, instance: Instance, access: SshAccess) -> t.Any:
        """The connection plugin ssh, told where to."""
        if not access.host:
            self._require_alive("")
            raise AnsibleConnectionFailure(f"The instance {self._name} has no address yet.")
        user = self.get_option("remote_user")
        # One master for each instance, not for each address or name: those are used again.
        identity = f"{instance.uuid} {access.alias} {access.key_file} {access.host} {access.port} {user}"
        ssh = connection_loader.get("ansible.builtin.ssh", self._play_context, **self._made_with)
        ssh.set_options(
            **self._given,
            direct={
                "host": access.host,
                "port": access.port,
                "remote_user": user,
                "private_key_file": None,
                "password": None,
                "host_key_checking": True,
                "ssh_args": _MASTER,
                "ssh_common_args": f"{common_args(access)} {_ALIVE}",
                "ssh_extra_args": self.get_option("ssh_extra_args"),
                "control_path": f"%(directory)s/{hashlib.sha1(identity.encode(), usedforsecurity=False).hexdigest()}",
                "timeout": self.get_option("timeout"),
                "pipelining": self.get_option("pipelining"),
            },
        )
        # What it learnt before it had its options.
        ssh.host, ssh.port, ssh.user = access.host, access.port, user
        ssh._shell = self._shell
        return ssh

    @property
    def _name(self) -> str:
        return self._instance.name if self._instance else str(self._play_context.remote_addr)

    def _require_alive(self, why: str) -> None:
        """Return if the instance is up; else say so instead of WHY."""
        with contextlib.suppress(MinicloudError):
            if self._driver and self._instance and not self._driver.alive(self._instance):
                raise AnsibleConnectionFailure(f"The instance {self._name} does not run any more. {why}".strip())

    # -- what Ansible asks of a connection

    @property
    def has_tty(self) -> bool:
        """Whether commands have a terminal."""
        return bool(self._ssh is not None and self._ssh.has_tty)

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Run a command in the instance: its status, what it said, and what it complained about."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        if self._ssh is not None:
            # Input that nobody gives would be waited for without end.
            shield = _SHIELD.format("" if in_data or self._expects_prompt(sudoable) else "< /dev/null")
            shielded = f"/bin/sh -c {shlex.quote(shield)} sh {shlex.quote(to_text(cmd))}"
            with self._explained():
                return self._by_ssh().exec_command(shielded, in_data=in_data, sudoable=sudoable)
        display.vvv(f"EXEC {to_text(cmd)}", host=self._name)
        with self._started(cmd) as command:
            out, err = bytearray(), bytearray()
            if not self._expects_prompt(sudoable) or self._answer_prompt(command, out, err):
                self._give(command, in_data)
            _listen(command, out, err)
        return command.status, bytes(out), bytes(err)

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file of this host into the instance."""
        super().put_file(in_path, out_path)
        if self._ssh is not None:
            with self._explained():
                self._by_ssh().put_file(in_path, out_path)
            return
        display.vvv(f"PUT {in_path} TO {out_path}", host=self._name)
        if not os.path.exists(to_bytes(in_path, errors="surrogate_or_strict")):
            raise AnsibleFileNotFound(f"file or module does not exist: {to_native(in_path)}")
        err = bytearray()
        with self._started(f"cat > {shlex.quote(out_path)}") as command, open(to_bytes(in_path), "rb") as source:
            whole = False
            while True:
                while not whole and command.unsent < _WAITING:
                    part = source.read(_PART)
                    whole = not part
                    command.send(part) if part else command.end_input()
                said = command.receive(1.0)
                if said is None:
                    break
                err += said[1]
                del err[:-_KEPT]
        _require_success(command, f"{in_path} could not be copied to {out_path} of {self._name}", err)

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file of the instance to this host."""
        super().fetch_file(in_path, out_path)
        if self._ssh is not None:
            with self._explained():
                self._by_ssh().fetch_file(in_path, out_path)
            return
        display.vvv(f"FETCH {in_path} TO {out_path}", host=self._name)
        err = bytearray()
        with self._started(f"cat < {shlex.quote(in_path)}") as command, open(to_bytes(out_path), "wb") as target:
            command.end_input()
            while True:
                said = command.receive(1.0)
                if said is None:
                    break
                target.write(said[0])
                err += said[1]
                del err[:-_KEPT]
        _require_success(command, f"{in_path} of {self._name} could not be copied to {out_path}", err)

    def reset(self) -> None:
        """End what is kept open for the instance."""
        with contextlib.suppress(AnsibleConnectionFailure):
            self._connect()
            if self._ssh is not None:
                self._ssh.reset()
        self._forget()
        self.close()

    def close(self) -> None:
        """See ConnectionBase."""
        if self._ssh is not None:
            self._ssh.close()
        self._connected = False

    def _expects_prompt(self, sudoable: bool) -> bool:
        """Whether a password is to be typed first."""
        return bool(sudoable and self.become and self.become.expect_prompt())

    # -- by ssh

    def _by_ssh(self) -> t.Any:
        self._ssh.set_become_plugin(self.become)
        self._ssh._play_context = self._play_context
        return self._ssh

    @contextlib.contextmanager
    def _explained(self) -> t.Iterator[None]:
        """Say it where the instance has gone, and have the next task begin anew."""
        try:
            yield
        except AnsibleConnectionFailure as exc:
            self._require_alive(to_native(exc))
            raise

    # -- by the hypervisor's own means

    @contextlib.contextmanager
    def _started(self, cmd: str) -> t.Iterator[GuestCommand]:
        """A command of the shell, ended if what is done with it fails."""
        if self._execution is None or self._instance is None:
            raise AnsibleConnectionFailure(f"There is no way into {self._name}.")
        user = self.get_option("remote_user")
        try:
            command = self._execution.start(self._instance, ["/bin/sh", "-c", _AS_USER, "sh", user, to_text(cmd)])
            try:
                yield command
            finally:
                command.end()
        except MinicloudError as exc:
            why = ""
            with contextlib.suppress(MinicloudError):
                why = self._execution.why_not(self._instance)
            why = "" if why in str(exc) else why
            raise AnsibleConnectionFailure(f"{exc} {why and f'It cannot be reached now: {why}.'}".strip()) from exc

    @staticmethod
    def _give(command: GuestCommand, in_data: bytes | None) -> None:
        if in_data:
            command.send(in_data)
        command.end_input()

    def _answer_prompt(self, command: GuestCommand, out: bytearray, err: bytearray) -> bool:
        """Type the password of a become plugin; whether the command runs then."""
        end = time.monotonic() + _PROMPT
        answered = False
        while time.monotonic() < end:
            said = command.receive(1.0)
            if said is None:
                return False
            _keep(said, out, err)
            seen = bytes(err + out)
            if self.become.check_success(seen):
                return True
            if self.become.check_incorrect_password(seen):
                raise AnsibleError(f"Incorrect {self.become.name} password")
            if self.become.check_missing_password(seen):
                raise AnsibleError(f"Missing {self.become.name} password")
            if not answered and self.become.check_password_prompt(seen):
                command.send(to_bytes(self.become.get_option("become_pass", playcontext=self._play_context)) + b"\n")
                answered = True
        raise AnsibleError(f"{self.become.name} neither asked for a password nor went on within {_PROMPT:.0f} seconds")


def _listen(command: GuestCommand, out: bytearray, err: bytearray) -> None:
    """Gather what a command says until it has ended."""
    while True:
        said = command.receive(1.0)
        if said is None:
            return
        _keep(said, out, err)


def _keep(said: tuple[bytes, bytes], out: bytearray, err: bytearray) -> None:
    """Add what a command says. A guest that goes on and on must not have all the memory of this host."""
    out += said[0]
    err += said[1]
    if len(out) + len(err) > _MOST_SAID:
        raise AnsibleError(
            f"A command was ended: it said more than {_MOST_SAID >> 20} MiB. Have it write into a file, and fetch that."
        )


def _require_success(command: GuestCommand, what: str, err: bytearray) -> None:
    if command.status != 0:
        raise AnsibleError(f"{what}: {to_native(bytes(err)).strip() or f'status {command.status}'}")
