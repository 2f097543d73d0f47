# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Scope storage: the data directory, its records, its locks and its settings.

A record is written before the thing it describes is made, and replaced by write-to-temporary, fsync, rename:
a reader sees the old one or the new one, never half of one, and needs no lock. Writers hold a lock per object.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    Busy,
    HostError,
    InvalidOption,
    MissingRequirement,
    NoSpace,
    RecordError,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Network, key_of
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Reporter

ENVIRONMENT = "MINICLOUD_DATA_DIR"
SYSTEM_PATH = "/var/lib/minicloud"

# The newest form of each record that this version writes and can read.
SCHEMA = 1


def default_data_dir() -> str:
    """Where scope storage lives unless an option says otherwise."""
    given = os.environ.get(ENVIRONMENT)
    if given:
        return os.path.abspath(os.path.expanduser(given))
    if os.geteuid() == 0:
        return SYSTEM_PATH
    base = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    if not os.path.isabs(base):
        raise MissingRequirement(
            f"the user with the number {os.geteuid()} has no home directory",
            "neither HOME nor /etc/passwd tells one",
            "Set data_dir, or one of the environment variables MINICLOUD_DATA_DIR and HOME.",
        )
    return os.path.join(base, "minicloud")


@contextlib.contextmanager
def explained(doing: str) -> t.Iterator[None]:
    """Turn an error of the file system met while DOING something into one that says what to do about it."""
    try:
        yield
    except OSError as exc:
        where = f" ({exc.filename})" if exc.filename else ""
        why = f"{exc.strerror or exc}{where}"
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(doing, why, "Free some space on that file system, or use another data_dir.") from exc
        if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise MissingRequirement(
                doing, why, "Run as the user that the data directory belongs to, or choose another data_dir."
            ) from exc
        raise HostError(doing, why) from exc


def make_dir(path: str) -> str:
    """Make a directory and its parents, private to the user whatever the umask; return its path."""
    with explained(f"the directory {path} could not be made"):
        _make_private(path)
    return path


def _make_private(path: str, parents: bool = True) -> None:
    # Not makedirs: it gives the mode to the last directory only.
    try:
        os.mkdir(path, 0o700)
    except FileNotFoundError:
        if not parents:
            raise
        _make_private(os.path.dirname(path))
        _make_private(path, parents=False)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    else:
        os.chmod(path, 0o700)


def write_file(path: str, content: bytes, mode: int = 0o600) -> None:
    """Put a file in place whole: whoever opens it, or finds it after a power cut, has the old content or the new."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with explained(f"{path} could not be written"):
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
            with open(handle, "wb") as stream:
                os.fchmod(handle, mode)
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write_record(path: str, data: t.Mapping[str, t.Any]) -> None:
    """Put a record in place, with the number of its schema."""
    write_file(path, json.dumps({"schema": SCHEMA, **data}, indent=1, sort_keys=True).encode() + b"\n")


def read_record(path: str, remedy: str = "") -> dict[str, t.Any] | None:
    """A record's data without its schema number, or None where there is no record.

    remedy -- what to do about a damaged one that is not an object's own
    """
    try:
        with open(path, "rb") as stream:
            data = json.loads(stream.read())
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return None
    except OSError as exc:
        raise RecordError(
            f"the record {path} cannot be read",
            exc.strerror or str(exc),
            "Run as the user that the data directory belongs to.",
            record=path,
        ) from exc
    except ValueError as exc:
        raise _damaged(path, f"it is not whole JSON ({exc})", remedy) from exc
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
        raise _damaged(path, "it has no schema number", remedy)
    schema = data.pop("schema")
    if schema > SCHEMA:
        raise RecordError(
            f"the record {path} was written by a newer version of minicloud.local",
            f"its schema is {schema}, and this version knows up to {SCHEMA}",
            "Upgrade the collection on this host; nothing was changed.",
            record=path,
        )
    return data


_REMOVE_BY_FORCE = (
    "Restore the file from a backup, or remove what is left of the instance with state: absent and force: true"
)


def _damaged(path: str, why: str, remedy: str = "") -> RecordError:
    remedy = remedy or "Restore the file from a backup, or move its directory away and make the object anew"
    return RecordError(
        f"the record {path} is damaged", why, f"{remedy}; nothing was changed.", record=path, damaged=True
    )


class DataDirectory:
    """The data directory: where everything that the collection knows is kept."""

    def __init__(self, path: str | None = None) -> None:
        self.path = os.path.abspath(os.path.expanduser(path)) if path else default_data_dir()
        self.keys = os.path.join(self.path, "keys")
        self.vault = os.path.join(self.path, "vault")
        self.known_hosts = os.path.join(self.path, "known_hosts")
        self.activity = os.path.join(self.path, "activity.log")
        self._settings = os.path.join(self.path, "settings.json")

    def require_own(self) -> None:
        """Return if the data directory is the user's own, or not there yet; else InvalidOption.

        Somebody else who can write in it could have links there that lead root anywhere.
        """
        for path in (self.path, self.keys, self.vault, *(os.path.join(self.path, n) for n in ("locks", "scopes"))):
            try:
                found = os.lstat(path)
            except OSError:
                continue
            # The data directory itself may be reached through a link: then what the link leads to counts.
            if path == self.path and stat.S_ISLNK(found.st_mode):
                found = os.stat(path)
            if not stat.S_ISDIR(found.st_mode):
                raise InvalidOption(f"{path} is not a directory", hint="Choose another data_dir, or move it away.")
            if found.st_uid != os.geteuid() or found.st_mode & 0o022:
                whose = (
                    "others may write in it" if found.st_uid == os.geteuid() else f"it belongs to uid {found.st_uid}"
                )
                raise InvalidOption(
                    f"the data directory {path} is not private to the user of this run",
                    whose,
                    "Run as the user that it belongs to (become_user), or choose another data_dir.",
                )

    def settings(self) -> dict[str, t.Any]:
        """What is set for the whole data directory; empty where nothing was set."""
        return (
            read_record(self._settings, "Restore the file from a backup, or remove it and set anew what it had") or {}
        )

    def change_settings(self, **values: t.Any) -> None:
        """Set some of the settings and keep the others; a value of None takes a setting away."""
        make_dir(self.path)
        with self.lock("settings"):
            settings = {**self.settings(), **values}
            write_record(self._settings, {key: value for key, value in settings.items() if value is not None})

    def scope(self, name: str) -> Scope:
        """The storage of one scope."""
        return Scope(self, name)

    def scopes(self) -> list[Scope]:
        """The scopes that have storage, by name."""
        try:
            names = sorted(os.listdir(os.path.join(self.path, "scopes")))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as exc:
            raise RecordError(
                f"the data directory {self.path} cannot be read",
                exc.strerror or str(exc),
                "Run as the user that it belongs to, or name another data_dir.",
            ) from exc
        return [Scope(self, name) for name in names if not name.startswith(".")]

    @contextlib.contextmanager
    def lock(self, name: str, deadline: Deadline | None = None, report: Reporter | None = None) -> t.Iterator[None]:
        """Hold the lock NAME of this data directory; Busy if somebody else holds it until the deadline (300 s)."""
        path = os.path.join(make_dir(os.path.join(self.path, "locks")), f"{name}.lock")
        handle = _acquire(path, name, deadline or Deadline(300), report)
        try:
            yield
        finally:
            # Unlinked while held: whoever waits on this file finds that the name leads elsewhere and starts again.
            with contextlib.suppress(OSError):
                os.unlink(path)
            os.close(handle)


def _acquire(path: str, name: str, deadline: Deadline, report: Reporter | None) -> int:
    told = False
    while True:
        with explained(f"the lock {path} could not be opened"):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            taken = _take(handle)
            if not taken and report and not told:
                report.step(f"waiting for the lock on {name}, which process {_holder(handle)} holds")
                told = True
            if not taken and not any(_take(handle) for dummy in deadline.pauses(longest=0.25)):
                raise Busy(
                    f"the lock on {name} was not free within {deadline.seconds:g} seconds",
                    f"process {_holder(handle)} holds it",
                    "Wait for that run to end, or end it, and run this again.",
                )
            if _leads_to(path, handle):
                with contextlib.suppress(OSError):  # only for the messages of others; a full disk must not matter
                    os.truncate(handle, 0)
                    os.pwrite(handle, str(os.getpid()).encode(), 0)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _take(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _leads_to(path: str, handle: int) -> bool:
    try:
        return os.stat(path).st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False


def _holder(handle: int) -> str:
    return os.pread(handle, 20, 0).decode(errors="replace").strip() or "unknown"


def is_locked(path: str, kind: int) -> bool:
    """Whether somebody holds a lock (flock) on a file that excludes one of a kind: LOCK_SH or LOCK_EX.

    Nobody does where there is no such file. OSError where it cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


Record = t.TypeVar("Record", Instance, Network)


class Records(t.Generic[Record]):
    """The records of one kind of object that belong to one scope, each in a directory of its own.

    name -- of the scope; kind -- instance or network, as in the names of files and locks
    """

    def __init__(self, data: DataDirectory, name: str, kind: str, type_: type[Record]) -> None:
        self.data = data
        self.name = name
        self.kind = kind
        self._type: type[Record] = type_
        self._top = os.path.join(data.path, "scopes", name, f"{kind}s")

    def directory(self, name: str) -> str:
        """The directory of an object, there or not."""
        return os.path.join(self._top, key_of(name))

    def _record(self, name: str) -> str:
        return os.path.join(self.directory(name), f"{self.kind}.json")

    def lock(
        self, name: str, deadline: Deadline | None = None, report: Reporter | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Hold the lock of one object."""
        return self.data.lock(f"{self.name}-{self.kind}-{key_of(name)}", deadline, report)

    def read(self, name: str) -> Record | None:
        """The record of an object, or None where there is none. RecordError where it cannot be used."""
        path = self._record(name)
        remedy = _REMOVE_BY_FORCE if self.kind == "instance" else ""
        data = read_record(path, remedy)
        if data is None:
            return None
        try:
            found = self._type.from_dict(data)
            belongs_here = key_of(found.name) == key_of(name) and found.scope == self.name
        except (AttributeError, KeyError, TypeError, InvalidOption) as exc:
            article = "an" if self.kind == "instance" else "a"
            raise _damaged(path, f"it does not describe {article} {self.kind} ({exc})", remedy) from exc
        if not belongs_here:
            # A copied directory: what is done to this object would be done to the other.
            raise _damaged(path, f"it describes the {self.kind} {found.name} of the scope {found.scope}", remedy)
        return found

    def write(self, record: Record) -> None:
        """Put the record of an object in place."""
        make_dir(self.directory(record.name))
        write_record(self._record(record.name), record.to_dict())

    def remove(self, name: str) -> None:
        """Remove an object's directory, the record last: until then it tells the next run what is left to do."""
        directory = self.directory(name)
        record = os.path.basename(self._record(name))
        with explained(f"{directory} could not be removed"):
            entries = os.listdir(directory) if os.path.isdir(directory) else []
            # The largest first: should it refuse to go, nothing is lost yet.
            for entry in sorted(entries, key=lambda entry: -os.lstat(os.path.join(directory, entry)).st_size):
                if entry != record:
                    remove_path(os.path.join(directory, entry))
            remove_path(directory)

    def names(self) -> list[str]:
        """What the names of the objects are compared by, sorted; some may have no record yet, or no more."""
        try:
            return sorted(os.listdir(self._top))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as exc:
            raise RecordError(f"{self._top} cannot be read", exc.strerror or str(exc)) from exc

    def all(self) -> tuple[list[Record], list[RecordError]]:
        """All objects of the scope by name, and what is wrong with the records that cannot be used."""
        found, broken = [], []
        for name in self.names():
            try:
                record = self.read(name)
            except RecordError as exc:
                broken.append(exc)
                continue
            if record:
                found.append(record)
        return found, broken


class Scope(Records[Instance]):
    """The records of the instances that belong to one scope; networks -- those of its networks."""

    def __init__(self, data: DataDirectory, name: str) -> None:
        super().__init__(data, name, "instance", Instance)
        self.networks: Records[Network] = Records(data, name, "network", Network)
        self._noted = os.path.join(data.path, "scopes", name, "scope.json")

    def instances(self) -> tuple[list[Instance], list[RecordError]]:
        """All instances of the scope by name, and what is wrong with the records that cannot be used."""
        return self.all()

    def noted(self) -> dict[str, str]:
        """The states, by uuid, that the instances had when another scope became active; empty while this one is."""
        remedy = "Remove the file, and start by hand the instances that ran before the active driver was switched"
        data = read_record(self._noted, remedy) or {}
        states = data.get("noted", {})
        if not isinstance(states, dict):
            raise _damaged(self._noted, "it does not tell the states of instances", remedy)
        return states

    def note(self, states: t.Mapping[str, str]) -> None:
        """Note the states of the instances for the time when this scope is active again; none: forget them."""
        if states:
            make_dir(os.path.dirname(self._noted))
            write_record(self._noted, {"noted": dict(states)})
        else:
            with explained(f"{self._noted} could not be removed"):
                remove_path(self._noted)


def remove_path(path: str) -> None:
    """Remove a file or a whole directory; all the same if it is not there."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass
