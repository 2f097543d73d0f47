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
import json
import os
import stat
import typing as t
from dataclasses import replace

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    InvalidOption,
    MissingRequirement,
    RecordError,
)
from ansible_collections.minicloud.local.plugins.module_utils._files import (
    NotAFile,
    explained,
    read_file,
    require_safe_way,
)
from ansible_collections.minicloud.local.plugins.module_utils._json import JsonError, parse_json
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    INSTANCE,
    NUMBER,
    OBJECT,
    TEXT,
    TEXTS,
    Instance,
    RecordKind,
    key_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Reporter

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._network import Network
    from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot

ENVIRONMENT = "MINICLOUD_DATA_DIR"
SYSTEM_PATH = "/var/lib/minicloud"

# No record comes near these: how many bytes it may have, and how many lists and objects inside each other.
_LARGEST = 4 << 20
_DEEPEST = 64
# In the directory of an instance: what it is told at its first boot.
SEED = "seed.iso"

# Beside the records of snapshots: what a driver notes of their files.
LAYERS = "layers.json"

SETTINGS = RecordKind(
    "the settings of a data directory",
    1,
    {"driver": TEXT, "switch": TEXTS, "image_hosts": OBJECT, "cpus": NUMBER, "memory": NUMBER, "disk": NUMBER},
)
NOTED = RecordKind("the states that instances had", 1, {"noted": TEXTS})


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


def write_record(path: str, kind: RecordKind, data: t.Mapping[str, t.Any]) -> None:
    """Put a record in place, with the number of its kind's schema.

    What could not be read again is not written: InvalidOption says what is wrong, and what is there stays.
    """
    from ansible_collections.minicloud.local.plugins.module_utils._writing import write_file

    try:
        content = json.dumps({"schema": kind.schema, **kind.checked(data)}, indent=1, sort_keys=True).encode() + b"\n"
        parse_json(content, "the record", _LARGEST, _DEEPEST)
    except (JsonError, RecursionError, TypeError, ValueError) as exc:
        why = exc.why if isinstance(exc, JsonError) else str(exc)
        raise InvalidOption(f"{path} cannot be written", f"the record would not describe {kind.name}: {why}") from exc
    write_file(path, content)


def read_record(path: str, kind: RecordKind, remedy: str = "") -> dict[str, t.Any] | None:
    """A record's data without its schema number, or None where there is no record. RecordError where it is not usable.

    An older form has become today's; what was written by a newer version is refused as such, never called damaged.
    The types of all fields that this version knows are those of the kind; the others are as they were found.

    remedy -- what to do about a damaged one that is not an object's own
    """
    return _read_record(path, kind, kind.checked, remedy)


_Read = t.TypeVar("_Read")


def _read_record(
    path: str, kind: RecordKind, parse: t.Callable[[dict[str, t.Any]], _Read], remedy: str
) -> _Read | None:
    """See read_record. parse -- checks the data and makes what is to be returned of them, or raises ValueError"""
    try:
        content = read_file(path, _LARGEST)
        data = parse_json(content, f"the record {path}", _LARGEST, _DEEPEST)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except NotAFile as exc:
        raise _damaged(path, str(exc.strerror), remedy) from exc
    except OSError as exc:
        raise RecordError(
            f"the record {path} cannot be read",
            exc.strerror or str(exc),
            "Run as the user that the data directory belongs to.",
            record=path,
        ) from exc
    except JsonError as exc:
        raise _damaged(path, exc.why, remedy) from exc
    if not isinstance(data, dict) or not NUMBER.holds(data.get("schema")) or not data["schema"]:
        raise _damaged(path, "it has no schema number", remedy)
    schema = data.pop("schema")
    if schema > kind.schema:
        raise RecordError(
            f"the record {path} was written by a newer version of minicloud.local",
            f"its schema is {schema}, and this version knows up to {kind.schema}",
            "Upgrade the collection on this host; nothing was changed.",
            record=path,
        )
    try:
        while schema < kind.schema:
            data = kind.migrations[schema](data)
            schema += 1
        return parse(data)
    except ValueError as exc:
        raise _damaged(path, f"it does not describe {kind.name}: {exc}", remedy) from exc


_REMOVE_BY_FORCE = (
    "Restore the file from a backup, or remove what is left of the instance with state: absent and force: true"
)


def _damaged(path: str, why: str, remedy: str = "") -> RecordError:
    remedy = remedy or "Restore the file from a backup, or move its directory away and make the object anew"
    return RecordError(
        f"the record {path} is damaged", why, f"{remedy}; nothing was changed.", record=path, damaged=True
    )


def read_notes(path: str, kind: RecordKind) -> dict[str, t.Any]:
    """A record that can be found out anew: nothing where there is none, or a damaged one.

    RecordError where it was written by a newer version, or may not be read.
    """
    try:
        return read_record(path, kind) or {}
    except RecordError as exc:
        if not exc.facts.get("damaged"):
            raise
        return {}


class DataDirectory:
    """The data directory: where everything that the collection knows is kept."""

    def __init__(self, path: str | None = None) -> None:
        """PATH as it was given. `path` is the one that everything uses, and that is written down elsewhere."""
        given = os.path.abspath(os.path.expanduser(path)) if path else default_data_dir()
        if "\0" in given:
            raise InvalidOption(f"data_dir {given!r} is not a path", "it has a NUL character")
        self._given = given
        self.path = os.path.realpath(given)
        self.keys = os.path.join(self.path, "keys")
        self.vault = os.path.join(self.path, "vault")
        self.known_hosts = os.path.join(self.path, "known_hosts")
        self.activity = os.path.join(self.path, "activity.log")
        self._settings = os.path.join(self.path, "settings.json")

    def require_own(self) -> None:
        """Return if the data directory is the user's own, or not there yet; else InvalidOption.

        Somebody else who can write in it could have links there that lead root anywhere.
        """
        require_safe_way(self._given)
        for path in (self.path, self.keys, self.vault, *(os.path.join(self.path, n) for n in ("locks", "scopes"))):
            try:
                found = os.lstat(path)
            except OSError:
                continue
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

    def is_at(self, path: str) -> bool:
        """Whether a path that was written down elsewhere is that of this data directory, however it was spelled."""
        return path == self.path or ("\0" not in path and os.path.isabs(path) and os.path.realpath(path) == self.path)

    def settings(self) -> dict[str, t.Any]:
        """What is set for the whole data directory; empty where nothing was set."""
        return (
            read_record(
                self._settings, SETTINGS, "Restore the file from a backup, or remove it and set anew what it had"
            )
            or {}
        )

    def change_settings(self, **values: t.Any) -> None:
        """Set some of the settings and keep the others; a value of None takes a setting away."""
        from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_leftovers

        make_dir(self.path)
        with self.lock("settings"):
            remove_leftovers(self.path)
            settings = {**self.settings(), **values}
            write_record(self._settings, SETTINGS, {key: value for key, value in settings.items() if value is not None})

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
        from ansible_collections.minicloud.local.plugins.module_utils._locks import held
        from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir

        path = os.path.join(make_dir(os.path.join(self.path, "locks")), f"{name}.lock")
        with held(path, name, deadline or Deadline(300), report):
            yield


Record = t.TypeVar("Record", Instance, "Network")


class Records(t.Generic[Record]):
    """The records of one kind of object that belong to one scope, each in a directory of its own.

    name -- of the scope; kind -- instance or network, as in the names of files and locks
    """

    def __init__(
        self, data: DataDirectory, name: str, kind: str, form: t.Callable[[], tuple[type[Record], RecordKind]]
    ) -> None:
        """form -- what such a record becomes, and what its file has to have; asked with the first of them"""
        self.data = data
        self.name = name
        self.kind = kind
        self._form: t.Callable[[], tuple[type[Record], RecordKind]] = form
        self._top = os.path.join(data.path, "scopes", name, f"{kind}s")

    def directory(self, name: str) -> str:
        """The directory of an object, there or not."""
        return os.path.join(self._top, key_of(name))

    def _record(self, name: str) -> str:
        return os.path.join(self.directory(name), f"{self.kind}.json")

    @contextlib.contextmanager
    def lock(self, name: str, deadline: Deadline | None = None, report: Reporter | None = None) -> t.Iterator[None]:
        """Hold the lock of one object. What killed runs had begun to write in its directory goes."""
        from ansible_collections.minicloud.local.plugins.module_utils._writing import remove_leftovers

        with self.data.lock(f"{self.name}-{self.kind}-{key_of(name)}", deadline, report):
            remove_leftovers(self.directory(name))
            yield

    def read(self, name: str) -> Record | None:
        """The record of an object, or None where there is none. RecordError where it cannot be used."""
        path = self._record(name)
        remedy = _REMOVE_BY_FORCE if self.kind == "instance" else ""
        type_, form = self._form()
        found: Record | None = _read_record(path, form, type_.from_dict, remedy)
        if found is None:
            return None
        if (
            isinstance(found, Instance)
            and found.new_name
            and key_of(found.new_name) == key_of(name) != key_of(found.name)
        ):
            # It was renamed: its directory has the name, and its record not yet.
            found = replace(found, name=found.new_name, new_name="", renamed_from=found.name)
        belongs_here = key_of(found.name) == key_of(name) and found.scope == self.name
        if not belongs_here:
            # A copied directory: what is done to this object would be done to the other.
            raise _damaged(path, f"it describes the {self.kind} {found.name} of the scope {found.scope}", remedy)
        return found

    def write(self, record: Record) -> None:
        """Put the record of an object in place."""
        from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir

        make_dir(self.directory(record.name))
        write_record(self._record(record.name), self._form()[1], record.to_dict())

    def rename(self, name: str, new_name: str) -> None:
        """Give an object's directory another name, which lasts. The record in it has to say so already."""
        with explained(f"{self.directory(name)} could not be renamed"):
            os.rename(self.directory(name), self.directory(new_name))
            descriptor = os.open(self._top, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def remove(self, name: str) -> None:
        """Remove an object's directory, the record last: until then it tells the next run what is left to do."""
        from ansible_collections.minicloud.local.plugins.module_utils._writing import remove_path

        directory = self.directory(name)
        self.remove_content(name)
        with explained(f"{directory} could not be removed"):
            remove_path(directory)

    def remove_content(self, name: str) -> None:
        """Remove all that is in an object's directory but its record."""
        from ansible_collections.minicloud.local.plugins.module_utils._writing import remove_path

        directory = self.directory(name)
        record = os.path.basename(self._record(name))
        with explained(f"{directory} could not be removed"):
            entries = os.listdir(directory) if os.path.isdir(directory) else []
            # The largest first: should it refuse to go, nothing is lost yet. The seed last: as long as a disk is
            # there, a removal that was cut off can be taken back, and the seed cannot be made again.
            for entry in sorted(
                entries, key=lambda entry: (entry == SEED, -os.lstat(os.path.join(directory, entry)).st_size)
            ):
                if entry != record:
                    remove_path(os.path.join(directory, entry))

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


class SnapshotRecords:
    """The records of the snapshots of one instance, by their uuids: a name can be changed without touching anything.

    directory -- where they are, and beside them the files that a driver keeps of snapshots, there or not
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def _record(self, uuid: str) -> str:
        return os.path.join(self.directory, f"{uuid}.json")

    def all(self) -> tuple[list[Snapshot], list[RecordError]]:
        """All snapshots, the oldest first, also those that are not whole; and what is wrong with unusable records."""
        try:
            names = [name for name in os.listdir(self.directory) if name.endswith(".json") and name != LAYERS]
        except (FileNotFoundError, NotADirectoryError):
            return [], []
        except OSError as exc:
            raise RecordError(f"{self.directory} cannot be read", exc.strerror or str(exc)) from exc
        from ansible_collections.minicloud.local.plugins.module_utils._snapshot import natural

        found, broken = [], []
        for name in sorted(names):
            try:
                snapshot = self._read(name)
            except RecordError as exc:
                broken.append(exc)
                continue
            if snapshot:
                found.append(snapshot)
        return sorted(found, key=lambda each: (each.created, natural(each.name))), broken

    def _read(self, name: str) -> Snapshot | None:
        from ansible_collections.minicloud.local.plugins.module_utils._snapshot import SNAPSHOT, Snapshot

        def parse(data: dict[str, t.Any]) -> Snapshot:
            snapshot = Snapshot.from_dict(data)
            if f"{snapshot.uuid}.json" != name:
                raise ValueError(f"it is of the snapshot {snapshot.uuid}")
            return snapshot

        remedy = "Restore the file from a backup, or remove it, and with it the snapshot"
        return _read_record(os.path.join(self.directory, name), SNAPSHOT, parse, remedy)

    def write(self, snapshot: Snapshot) -> None:
        """Put the record of a snapshot in place."""
        from ansible_collections.minicloud.local.plugins.module_utils._snapshot import SNAPSHOT
        from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir

        make_dir(self.directory)
        write_record(self._record(snapshot.uuid), SNAPSHOT, snapshot.to_dict())

    def remove(self, uuid: str) -> None:
        """Remove the record of a snapshot; all the same if it is not there."""
        from ansible_collections.minicloud.local.plugins.module_utils._writing import remove_path

        with explained(f"{self._record(uuid)} could not be removed"):
            remove_path(self._record(uuid))


def _form_of_networks() -> tuple[type[Network], RecordKind]:
    from ansible_collections.minicloud.local.plugins.module_utils._network import NETWORK, Network

    return Network, NETWORK


class Scope(Records[Instance]):
    """The records of the instances that belong to one scope; networks -- those of its networks."""

    def __init__(self, data: DataDirectory, name: str) -> None:
        super().__init__(data, name, "instance", lambda: (Instance, INSTANCE))
        self.networks: Records[Network] = Records(data, name, "network", _form_of_networks)
        self._noted = os.path.join(data.path, "scopes", name, "scope.json")

    def instances(self) -> tuple[list[Instance], list[RecordError]]:
        """All instances of the scope by name, and what is wrong with the records that cannot be used."""
        return self.all()

    def snapshots(self, name: str) -> SnapshotRecords:
        """The records of the snapshots of an instance."""
        return SnapshotRecords(os.path.join(self.directory(name), "snapshots"))

    def is_stale(self, alias: str) -> bool:
        """Whether an alias in known_hosts is that of an instance of this scope which is no more."""
        mine = f"minicloud-{self.name}-"
        return alias.startswith(mine) and not os.path.isdir(self.directory(alias[len(mine) :]))

    def noted(self) -> dict[str, str]:
        """The states, by uuid, that the instances had when another scope became active; empty while this one is."""
        return dict(self._read_noted().get("noted", {}))

    def _read_noted(self) -> dict[str, t.Any]:
        remedy = "Remove the file, and start by hand the instances that ran before the active driver was switched"
        return read_record(self._noted, NOTED, remedy) or {}

    def note(self, states: t.Mapping[str, str]) -> None:
        """Note the states of the instances for the time when this scope is active again; none: forget them."""
        from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_path

        unknown = {key: value for key, value in self._read_noted().items() if key != "noted"}
        if states or unknown:
            make_dir(os.path.dirname(self._noted))
            write_record(self._noted, NOTED, {**unknown, **({"noted": dict(states)} if states else {})})
        else:
            with explained(f"{self._noted} could not be removed"):
                remove_path(self._noted)
