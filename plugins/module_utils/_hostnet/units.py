# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.
"""A unit of systemd that starts networks and instances with the host, without Ansible being there.

What it runs is an archive of this collection's own code, which Python runs as it is. It lies in the data directory.
"""

from __future__ import annotations

import contextlib
import glob
import os
import sys
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._host import systemd
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime, user_name
from ansible_collections.minicloud.local.plugins.module_utils._scope import (
    SYSTEM_PATH,
    DataDirectory,
)
from ansible_collections.minicloud.local.plugins.module_utils._writing import (
    make_dir,
    remove_leftovers,
    remove_path,
    write_file,
)

_PACKAGE = "ansible_collections/minicloud/local/plugins/module_utils"

# What needs Ansible when it is imported. Others import it only for what a unit never does: to fetch an image, and to
# name a library that is missing.
_LEFT_OUT = ("_module.py",)

_MAIN = '''\
"""Starts the networks and instances of a data directory that are to start with this host. Made by minicloud.local."""
import sys

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.autostart import main

sys.exit(main(sys.argv[1:], run))
'''

_UNIT = """\
# Made by minicloud.local: the option autostart of an instance or a network. It goes with the last one that has it.
[Unit]
{what}{description}
# Without the usual dependencies, of which one is that the host counts as started only after this.
DefaultDependencies=no
Requires=basic.target
After=basic.target
Conflicts=shutdown.target
Before=shutdown.target
RequiresMountsFor={place}
Wants=network-online.target
After=network-online.target nftables.service firewalld.service docker.service systemd-resolved.service
After=libvirtd.service virtqemud.service virtnetworkd.service
# It drops the rules of networks when it is reloaded. To be a part of it would be to be stopped by what excludes it.
ReloadPropagatedFrom=nftables.service
ConditionPathExists={condition}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={command}
ExecReload={command}
# The instances stay when this unit is stopped, but with the host: then they are suspended, before their processes end.
ExecStop={command} stop
KillMode=process
TimeoutStartSec=infinity
TimeoutStopSec=900

[Install]
WantedBy={target}
"""

_DESCRIPTION = "Description=Networks and instances of "

# The system's own Python, by the name that upgrades of the system leave alone.
_PYTHON = "/usr/bin/python3"


class Unit:
    """The unit of one data directory. unit_dir -- where units are, unless for this user as usual"""

    def __init__(
        self, runtime: Runtime, data: DataDirectory, unit_dir: str | None = None, booted: str = systemd.BOOTED
    ) -> None:
        self.runtime = runtime
        self.data = data
        self.system = os.geteuid() == 0
        self.target = "multi-user.target" if self.system else "default.target"
        self.unit_dir = unit_dir or _unit_dir(self.system)
        self.name = unit_name(data.path)
        self.archive = os.path.join(data.path, "autostart.pyz")
        self._begun = os.path.join(data.path, "autostart.changing")
        self._booted = booted

    @property
    def path(self) -> str:
        """The file of the unit."""
        return os.path.join(self.unit_dir, self.name)

    @property
    def _link(self) -> str:
        return os.path.join(self.unit_dir, f"{self.target}.wants", self.name)

    def is_possible(self) -> bool:
        """Whether this host starts units at all."""
        return os.path.isdir(self._booted)

    def is_on(self) -> bool:
        """Whether the unit, as far as this host can have one, and what it runs are there; cheap."""
        files = (self.archive, self.path, self._link) if self.is_possible() else (self.archive,)
        return all(map(os.path.exists, files))

    def is_finished(self) -> bool:
        """Whether no run was ended after begin() and before it had seen to the unit; cheap."""
        return not os.path.exists(self._begun)

    def begin(self) -> None:
        """Note that something is about to change on which it depends whether the unit is needed."""
        make_dir(self.data.path)
        write_file(self._begun, b"")

    def finish(self, needed: bool) -> None:
        """Have the unit be there or not."""
        remove_leftovers(self.data.path)
        remove_leftovers(self.unit_dir, self.name)
        if needed:
            self.switch_on()
        else:
            self.switch_off()
        remove_path(self._begun)

    def command(self) -> list[str]:
        """The command that starts everything."""
        return [_python(), self.archive, self.data.path]

    def obstacle(self) -> str:
        """Why nothing will start with this host although the unit is there, as sentences; empty where it will."""
        if not self.is_possible():
            import shlex

            return (
                "This host does not run systemd, so nothing starts its networks and instances with it. Have its init"
                f" run this command: {shlex.join(self.command())}"
            )
        if not self.system and not systemd.lingers():
            user = user_name()
            return (
                f"The instances of {user} start when {user} logs in, and not with the host: have root run"
                f" loginctl enable-linger {user} once."
            )
        return ""

    def switch_on(self) -> None:
        """Have the unit and what it runs be there, as this version of the collection makes them."""
        make_dir(self.data.path)
        content = archive()
        if _content(self.archive) != content:
            write_file(self.archive, content)
        if not self.is_possible():
            return
        text = self.text().encode()
        changed = _content(self.path) != text
        with explained(f"the unit {self.path} could not be made"):
            os.makedirs(os.path.dirname(self._link), mode=0o755, exist_ok=True)
            if changed:
                write_file(self.path, text, 0o644)
            if not os.path.islink(self._link):
                remove_path(self._link)
                os.symlink(os.path.join("..", self.name), self._link)
                changed = True
            for path in self._others():
                remove_path(path)
                changed = True
        if changed:
            self._tell("daemon-reload")

    def switch_off(self) -> None:
        """Take the unit and what it runs away; all the same if they are not there."""
        there = os.path.lexists(self.path) or os.path.lexists(self._link) or self._others()
        if there and self.is_possible():
            # systemd keeps a unit that runs or has failed even when its file is gone, until it is told to stop it.
            self._tell("stop", self.name)
            self._tell("reset-failed", self.name)
        with explained(f"the unit {self.path} could not be removed"):
            for path in (self._link, self.path, self.archive, *self._others()):
                remove_path(path)
        if there and self.is_possible():
            self._tell("daemon-reload")

    def text(self) -> str:
        """The content of the unit."""
        return _UNIT.format(
            what=_DESCRIPTION,
            description=_plain(self.data.path),
            place=_quoted(self.data.path),
            condition=_plain(self.archive),
            command=" ".join(_escaped(word) for word in self.command()),
            target=self.target,
        )

    def _others(self) -> list[str]:
        """Units of this data directory, and links to them, under a name made of another spelling of its path."""
        found = []
        for path in glob.glob(os.path.join(glob.escape(self.unit_dir), "minicloud-autostart*.service")):
            name = os.path.basename(path)
            first = next((line for line in _lines(path) if line.startswith(_DESCRIPTION)), "")
            if name != self.name and self.data.is_at(first[len(_DESCRIPTION) :].replace("%%", "%")):
                found += [path, os.path.join(self.unit_dir, f"{self.target}.wants", name)]
        return found

    def _tell(self, *words: str) -> None:
        # One that cannot be told now reads the unit when the host starts.
        self.runtime.run(["systemctl", *systemd.manager_options(), *words], env=systemd.manager_env())


def _unit_dir(system: bool) -> str:
    if system:
        return "/etc/systemd/system"
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(base, "systemd", "user")


def unit_name(path: str) -> str:
    """The name of the unit of a data directory."""
    if path == SYSTEM_PATH:
        return "minicloud-autostart.service"
    import hashlib

    return f"minicloud-autostart-{hashlib.sha256(path.encode()).hexdigest()[:10]}.service"


def _python() -> str:
    """The Python of this run."""
    with contextlib.suppress(OSError):
        if sys.prefix == sys.base_prefix and os.path.samefile(_PYTHON, sys.executable):
            return _PYTHON
    return sys.executable


def _escaped(text: str) -> str:
    """A word of a command in a unit."""
    return _quoted(text).replace("$", "$$")


def _quoted(text: str) -> str:
    """A word of a list in a unit."""
    text = _plain(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if set(text) - set("/._-+:@") and not text.replace("/", "").isalnum() else text


def _plain(text: str) -> str:
    """All of a value in a unit."""
    return text.replace("%", "%%")


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        return None


def _lines(path: str) -> list[str]:
    return (_content(path) or b"").decode(errors="replace").splitlines()


def archive() -> bytes:
    """What the unit runs: the same for the same code."""
    import io
    import zipfile

    files = {"__main__.py": _MAIN.encode()}
    for name, content in _sources():
        files[f"{_PACKAGE}/{name}"] = content
    for name in list(files):
        while "/" in name:
            name = name.rpartition("/")[0]
            files.setdefault(f"{name}/__init__.py", b"")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(files):
            packed.writestr(zipfile.ZipInfo(name), files[name], zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _sources() -> t.Iterator[tuple[str, bytes]]:
    """The code below the modules, wherever it runs from: a directory, or the archive that Ansible has sent."""
    top = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if os.path.isdir(top):
        for directory, dummy, names in os.walk(top):
            for name in names:
                path = os.path.join(directory, name)
                relative = os.path.relpath(path, top)
                if name.endswith(".py") and relative not in _LEFT_OUT:
                    with open(path, "rb") as stream:
                        yield relative, stream.read()
        return
    import zipfile

    sent = top[: -len(_PACKAGE) - 1]
    with zipfile.ZipFile(sent) as packed:
        for name in packed.namelist():
            relative = name[len(_PACKAGE) + 1 :]
            if name.startswith(f"{_PACKAGE}/") and name.endswith(".py") and relative not in _LEFT_OUT:
                yield relative, packed.read(name)
