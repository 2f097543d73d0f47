# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies files and directories by the connection of the task's host, with a shell and tar there."""

from __future__ import annotations

import os
import re
import shlex
import tarfile
import tempfile
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.text.converters import to_native
from ansible.plugins.action import ActionBase

from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import active_driver, scope_of
from ansible_collections.minicloud.local.plugins.module_utils._errors import MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._model import key_of
from ansible_collections.minicloud.local.plugins.module_utils._module import common_arguments
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.modules.transfer import ARGUMENTS

# Runs in the guest. $1: where to; $2: the name of what comes; $3: the directory that has it; $4: file or directory.
# Tells where it is then.
_PUT = r"""
to=${1:-.}
case $to in -*) to=./$to ;; esac
if [ -d "$to" ]; then to=${to%/}/$2
else case $to in */) echo "$to is not there" >&2; exit 1 ;; esac
fi
if [ "$4" = file ]; then
    if [ -d "$to" ]; then echo "$to is a directory" >&2; exit 1; fi
    chmod "$5" "$3/it" && mv -f "$3/it" "$to" || exit 1
else
    mkdir -p "$to" && tar -x -o -f "$3/it" -C "$to" || exit 1
fi
printf %s "$to"
"""

# $1: what is asked for; $2: an empty directory for it. Tells whether it is a file or a directory.
_GET = r"""
from=$1
case $from in -*) from=./$from ;; esac
if [ -d "$from" ]; then
    [ "$3" = yes ] || { echo "$from is a directory" >&2; exit 1; }
    tar -c -f "$2/it" -C "$from" . || exit 1
    echo directory
else
    cat < "$from" > "$2/it" && echo file
fi
"""


_IN_INSTANCE = re.compile(r"([A-Za-z][A-Za-z0-9-]*):")


class ActionModule(ActionBase):
    """See the module's documentation."""

    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """See ActionBase."""
        result = dict(super().run(tmp, task_vars))
        dummy, options = self.validate_argument_spec({**common_arguments(), **ARGUMENTS})
        if not options["source"]:
            raise AnsibleActionFail("source names nothing.")
        self._given = options
        move = self._fetch if options["fetch"] else self._put
        several = len(options["source"]) > 1
        self._warnings: list[str] = []
        moved = [move(source, options["target"], options["recursive"], several) for source in options["source"]]
        return {**result, "changed": True, "transferred": moved, "warnings": self._warnings}

    def _whose(self, path: str) -> str:
        """What is to be said of a path that may have been meant as one in an instance, INSTANCE:PATH."""
        match = _IN_INSTANCE.match(path)
        if not match:
            return ""
        try:
            data = DataDirectory(self._given["data_dir"])
            scope = data.scope(scope_of(self._given["driver"] or active_driver(data)))
            names = sorted(each.name for each in scope.instances()[0])
        except MinicloudError:
            return ""
        known = next((name for name in names if key_of(name) == key_of(match[1])), "")
        if known:
            return f" Have the instance {known} as the task's host (delegate_to), and leave {match[0]} out."
        return f" Nor is there an instance {match[1]}. There are: {', '.join(names) or 'none'}."

    def _shell(self, what: str, script: str, *arguments: str) -> str:
        """What a script in the guest says; AnsibleActionFail where it fails."""
        command = shlex.join(["/bin/sh", "-c", script, "sh", *arguments])
        status, said, complaint = self._connection.exec_command(command, sudoable=False)[:3]
        if status != 0:
            raise AnsibleActionFail(f"{what}: {to_native(complaint).strip() or f'status {status}'}")
        return to_native(said)

    def _place(self) -> str:
        """A new directory in the guest."""
        return self._shell("the guest has no room for files", "umask 077; mktemp -d /tmp/transfer-XXXXXX").strip()

    def _put(self, source: str, target: str, recursive: bool, several: bool) -> str:
        path = os.path.realpath(source) if os.path.islink(source) else os.path.abspath(source)
        what = f"{source} could not be copied"
        if not os.path.exists(path):
            raise AnsibleActionFail(f"{what}: there is no such file on this host.{self._whose(source)}")
        is_directory = os.path.isdir(path)
        if is_directory and not recursive:
            raise AnsibleActionFail(f"{what}: it is a directory. Add recursive: true.")
        if not is_directory and not os.path.isfile(path):
            raise AnsibleActionFail(f"{what}: it is neither a file nor a directory.")
        name = os.path.basename(os.path.abspath(source)) or "root"
        place = self._place()
        try:
            if is_directory:
                with tempfile.NamedTemporaryFile(prefix="transfer-") as archive:
                    self._pack(path, archive)
                    self._connection.put_file(archive.name, f"{place}/it")
                kind, mode = "directory", ""
            else:
                self._connection.put_file(path, f"{place}/it")
                kind, mode = "file", f"{os.stat(path).st_mode & 0o777:o}"
            if several:
                target = f"{target.rstrip('/') if target != '/' else ''}/" if target else ""
            return self._shell(what, _PUT, target, name, place, kind, mode)
        finally:
            self._shell("what was copied first could not be removed", 'rm -rf -- "$1"', place)

    def _pack(self, path: str, archive: t.Any) -> None:
        def checked(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
            if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
                self._warnings.append(f"{member.name} is left out: it is neither a file, a directory nor a link.")
                return None
            member.mode &= 0o777
            return member

        with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
            tar.add(path, ".", filter=checked)
        archive.flush()

    def _fetch(self, source: str, target: str, recursive: bool, several: bool) -> str:
        what = f"{source} could not be fetched"
        name = os.path.basename(source.rstrip("/")) or "root"
        path = os.path.abspath(target or ".")
        if os.path.isdir(path):
            path = os.path.join(path, name)
        elif several or target.endswith("/"):
            raise AnsibleActionFail(f"{what}: there is no directory {target} on this host.{self._whose(target)}")
        if name in (".", ".."):
            raise AnsibleActionFail(f"{what}: name what it is called, not {name}.")
        place = self._place()
        try:
            kind = self._shell(what, _GET, source, place, "yes" if recursive else "no").strip()
            with tempfile.NamedTemporaryFile(prefix=".transfer-", dir=os.path.dirname(path), delete=False) as copy:
                try:
                    self._connection.fetch_file(f"{place}/it", copy.name)
                    if kind == "directory":
                        self._unpack(copy.name, path)
                    elif os.path.isdir(path):
                        raise AnsibleActionFail(f"{what}: {path} is a directory.")
                    else:
                        os.chmod(copy.name, 0o666 & ~_umask())
                        os.replace(copy.name, path)
                finally:
                    if os.path.exists(copy.name):
                        os.unlink(copy.name)
        except OSError as exc:
            raise AnsibleActionFail(f"{what}: {exc}") from exc
        finally:
            self._shell("what was copied first could not be removed", 'rm -rf -- "$1"', place)
        return path

    def _unpack(self, archive: str, path: str) -> None:
        def checked(member: tarfile.TarInfo, where: str) -> tarfile.TarInfo | None:
            # Not all versions of the filter find out where a way through links ends: so none goes through one.
            ways = [os.path.dirname(member.name) if member.issym() else member.name]
            if any(_has_link(where, way) for way in [*ways, *([member.linkname] if member.islnk() else [])]):
                self._warnings.append(f"{member.name} is left out: the way to it goes through a link.")
                return None
            try:
                return tarfile.data_filter(member, where)
            except tarfile.FilterError as exc:
                self._warnings.append(f"{member.name} is left out: {exc}")
                return None

        os.makedirs(path, exist_ok=True)
        try:
            # Not compressed, as the guest's tar was told: what it holds is as large as what was sent.
            with tarfile.open(archive, "r:") as tar:
                tar.extractall(path, filter=checked)
        except tarfile.TarError as exc:
            raise AnsibleActionFail(f"what the guest has sent is no archive: {exc}") from exc


def _has_link(top: str, way: str) -> bool:
    """Whether a link is on the way from a directory on; the way itself is looked at as well."""
    here = top
    for part in way.split("/"):
        here = os.path.join(here, part)
        if part not in ("", ".") and os.path.islink(here):
            return True
    return False


def _umask() -> int:
    found = os.umask(0o022)
    os.umask(found)
    return found
