# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The vault: the cache of verified, prepared images in the data directory.

    vault/<sha256>/                         one image: image.json, whose time of change says when it was last used, and
                                            disk.qcow2, or of a container root.<format> as it was published, with
                                            its metadata.<format> unless that is in the same archive
    vault/names.json                        which names lead to which image
    vault/partial/                          downloads that can be resumed
    vault/work-<key>/                       what a run is preparing now, under the lock image-<key>

A store: it keeps what it is given. What brings images into it is in provide.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import typing as t
from dataclasses import replace

from ansible_collections.minicloud.local.plugins.module_utils._errors import Busy, InvalidOption, RecordError
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import (
    DEFAULT_HOST,
    Reference,
    parse_reference,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    CONTAINER,
    DISK,
    TEXT,
    Field,
    RecordKind,
    fields_of,
    one_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory, read_record, write_record
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_leftovers, remove_path

DISK_FILE, RECORD, NAMES = "disk.qcow2", "image.json", "names.json"

# How long a partial download is kept for a run that goes on with it.
PARTIAL_SECONDS = 14 * 24 * 3600

_HASH = re.compile(r"[0-9a-f]{64}\Z")
_HASH_PREFIX = re.compile(r"[0-9a-f]{8,64}\Z")
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
# The fields that are kept. The others (hash and path) follow from where the image is in the vault.
_REMEMBERED = {name: each for name, each in fields_of(Image).items() if name not in ("hash", "path")}
IMAGE = RecordKind("an image", 1, {**_REMEMBERED, "kind": one_of(DISK, CONTAINER)})


class Entry(t.NamedTuple):
    """What the vault knows of a name.

    hash -- of the image that the name leads to
    alias_of -- the name that this one is another word for; empty where it is a name of its own
    stamp -- what identified the file when it was imported (size, mtime, inode, device), or the recipe of a build
    etag, last_modified -- what the server said of the download; checksum -- what the user's option said of it
    instance -- that was published under this name; empty for images that have another source
    unknown -- what a newer version knows of it
    """

    hash: str
    alias_of: str = ""
    stamp: str = ""
    etag: str = ""
    last_modified: str = ""
    checksum: str = ""
    instance: str = ""
    unknown: t.Mapping[str, t.Any] = {}


_ENTRY = RecordKind("a name", 1, {name: TEXT for name in Entry._fields if name != "unknown"})


def _is_names(value: t.Any) -> bool:
    with contextlib.suppress(ValueError):
        return isinstance(value, dict) and all("hash" in each and _ENTRY.checked(each) for each in value.values())
    return False


NAMES_KIND = RecordKind(
    "which names lead to which images",
    1,
    {"names": Field(_is_names, "an object of what is known of each name", required=True)},
)


class Vault:
    """The images of a data directory."""

    def __init__(self, data: DataDirectory, runtime: Runtime) -> None:
        self.data = data
        self.runtime = runtime
        self.path = data.vault
        self.partial = os.path.join(data.vault, "partial")
        self._names = os.path.join(data.vault, NAMES)

    # -- looking up -----------------------------------------------------------------------------------------------

    def find(self, reference: Reference, arch: str, kind: str = DISK) -> Image | None:
        """The image that a name leads to, if it is here. Of a file: only if the file is still the one imported."""
        entry = self.entry(reference, arch, kind)
        if entry and reference.host == "file" and entry.stamp != file_stamp(reference.name):
            return None
        return self._named(entry, reference, arch, kind)

    def known(self, reference: Reference, arch: str, kind: str = DISK) -> Image | None:
        """The image that a name leads to, even if the file that it was imported from has changed or is gone."""
        return self._named(self.entry(reference, arch, kind), reference, arch, kind)

    def _named(self, entry: Entry | None, reference: Reference, arch: str, kind: str) -> Image | None:
        image = self.get(entry.hash, kind) if entry else self._by_prefix(reference, arch, kind)
        return replace(image, name=str(reference)) if image else None

    def _by_prefix(self, reference: Reference, arch: str, kind: str) -> Image | None:
        prefix = reference.name.lower()
        if reference.host in ("url", "file", "bootstrap") or not _HASH_PREFIX.match(prefix):
            return None
        images = [self.get(hash_, kind) for hash_ in self._hashes() if hash_.startswith(prefix)]
        found = [image for image in images if image and image.arch == arch]
        if len(found) > 1:
            raise InvalidOption(
                f"the image {reference} is ambiguous",
                f"it may be {' or '.join(image.hash for image in found)}",
                "Write more of the hash.",
            )
        return found[0] if found else None

    def entry(self, reference: Reference, arch: str, kind: str = DISK) -> Entry | None:
        """What the vault knows of a name, whether or not its image is still here."""
        return self._read_names().get(_key(reference, arch, kind))

    def get(self, hash_: str, kind: str = "") -> Image | None:
        """The image (of this kind) with this hash, or None where it is not here whole.

        RecordError where its record is damaged.
        """
        directory = self.directory(hash_)
        path = os.path.join(directory, RECORD)
        remedy = f"Remove the directory {directory} unless an instance uses it; the image can be fetched again"
        record = read_record(path, IMAGE, remedy)
        if record is None:
            return None
        image = Image(hash=hash_, path="", **{name: record[name] for name in _REMEMBERED if name in record})
        image = self.placed(image)
        try:
            whole = os.stat(image.path).st_size == image.size and (not image.metadata or os.stat(image.metadata))
        except OSError:
            return None
        return image if whole and kind in ("", image.kind) else None

    def placed(self, image: Image) -> Image:
        """An image with the paths that its files have, or would have, in the vault."""
        directory = self.directory(image.hash)
        file = DISK_FILE if image.kind == DISK else f"root.{image.format}"
        metadata = os.path.basename(image.metadata)
        return replace(
            image,
            path=os.path.join(directory, os.path.basename(file)),
            metadata=os.path.join(directory, metadata) if metadata else "",
        )

    def has(self, image: Image) -> bool:
        """Whether an image is here still, and stays while the record of an instance that needs it is there.

        To be asked once that record is written: who removes an image looks for such records under the same lock.
        """
        with self.lock_hash(image.hash):
            return self.get(image.hash) is not None

    def directory(self, hash_: str) -> str:
        """Where the image with this hash is, or would be."""
        return os.path.join(self.path, hash_)

    def images(self) -> tuple[list[Image], list[RecordError]]:
        """All images by name, and what is wrong with the records that cannot be used."""
        found: list[Image] = []
        broken: list[RecordError] = []
        for hash_ in self._hashes():
            try:
                image = self.get(hash_)
            except RecordError as exc:
                broken.append(exc)
                continue
            if image:
                found.append(image)
        return sorted(found, key=lambda image: (image.name, image.arch, image.created, image.hash)), broken

    def names_of(self, image: Image) -> list[str]:
        """The names that lead to an image, its aliases among them; none for one that newer versions have replaced."""
        return sorted(key.rpartition(" ")[0] for key, entry in self._read_names().items() if entry.hash == image.hash)

    def aliases_of(self, image: Image) -> list[str]:
        """The aliases that lead to an image."""
        names = self._read_names().items()
        return sorted(key.rpartition(" ")[0] for key, entry in names if entry.hash == image.hash and entry.alias_of)

    def last_used(self, image: Image) -> float:
        """When an image was last asked for, in seconds since the epoch; 0 where it is gone."""
        try:
            return os.stat(os.path.join(self.directory(image.hash), RECORD)).st_mtime
        except OSError:
            return 0.0

    def unused_since(self, seconds: float, in_use: t.Collection[str] = ()) -> list[Image]:
        """The images that nobody has asked for during the last SECONDS, without those whose hash is IN_USE."""
        before = time.time() - seconds
        return [i for i in self.images()[0] if i.hash not in in_use and self.last_used(i) <= before]

    def _hashes(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.path) if _HASH.match(name))
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise RecordError(f"the vault {self.path} cannot be read", exc.strerror or str(exc)) from exc

    # -- changing -------------------------------------------------------------------------------------------------

    def touch(self, image: Image) -> None:
        """Note that an image was used just now."""
        with contextlib.suppress(OSError):
            os.utime(os.path.join(self.directory(image.hash), RECORD))

    def remove(self, image: Image, check: t.Callable[[], None] = lambda: None) -> None:
        """Remove an image and all names that lead to it.

        check -- raises if something uses it; asked while nobody can begin to
        """
        with self.lock_hash(image.hash):
            check()
            self._change_names(lambda names: {key: e for key, e in names.items() if e.hash != image.hash})
            self._discard(image.hash)
        self.tidy()

    def forget(self, reference: Reference, arch: str, kind: str = DISK) -> None:
        """Remove one name; the image that it leads to stays."""
        gone = _key(reference, arch, kind)
        self._change_names(lambda names: {key: e for key, e in names.items() if key != gone})

    def set_alias(self, image: Image, alias: str) -> bool:
        """Give an image another name, for its architecture and kind; whether that changed anything."""
        reference = parse_reference(alias)
        if reference.host != DEFAULT_HOST or not PLAIN_NAME.match(reference.name):
            raise InvalidOption(
                f"the alias {alias!r} is not valid", hint="Use letters, digits, dots, hyphens and underscores only."
            )
        present = self.entry(reference, image.arch, image.kind)
        if present and not present.alias_of and self.get(present.hash):
            raise InvalidOption(
                f"the alias {alias!r} is taken", "an image of that name is in the vault", "Choose another alias."
            )
        wanted = Entry(image.hash, alias_of=image.name)
        if present and present._replace(unknown={}) == wanted:
            return False
        self.set_entry(reference, image.arch, wanted, image.kind)
        return True

    def set_entry(self, reference: Reference, arch: str, entry: Entry, kind: str = DISK) -> bool:
        """Let a name lead to an image; whether it led elsewhere before."""
        before = self.entry(reference, arch, kind)
        if before is None or before._replace(unknown={}) != entry._replace(unknown={}):
            self._change_names(lambda names: {**names, _key(reference, arch, kind): entry})
        return before is None or before.hash != entry.hash

    def place(self, work: str, image: Image, replace_it: bool = False, **extra: t.Any) -> bool:
        """Move the directory WORK, which holds the finished files, into the vault; False if the image is there already.

        replace_it -- put it in the place of the image that is there; extra -- more to remember in the record
        """
        remembered = {name: getattr(image, name) for name in _REMEMBERED}
        remembered["metadata"] = os.path.basename(image.metadata)
        write_record(os.path.join(work, RECORD), IMAGE, {**remembered, **extra})
        with self.lock_hash(image.hash):
            try:
                if self.get(image.hash) and not replace_it:
                    return False
            except RecordError:
                pass
            # An entry without a usable record, or with a disk that was cut short, is of no use: remove it.
            self._discard(image.hash)
            with explained(f"the image {image.name} could not be moved into the vault"):
                os.rename(work, self.directory(image.hash))
        return True

    def extra(self, hash_: str, key: str) -> str:
        """What place() was told to remember beside the image; empty where it was not told."""
        record = read_record(os.path.join(self.directory(hash_), RECORD), IMAGE) or {}
        return str(record.get(key, ""))

    def lock_hash(self, hash_: str) -> contextlib.AbstractContextManager[None]:
        """Hold the lock of one image while it comes into the vault or leaves it: moments, whatever its size."""
        return self.data.lock(f"vault-{hash_[:16]}")

    def _discard(self, hash_: str) -> None:
        directory = self.directory(hash_)
        gone = os.path.join(self.path, f"work-{hash_[:16]}.gone")
        with explained(f"{directory} could not be removed"):
            remove_path(gone)
            try:
                # In one step, so that nobody ever finds half an image.
                os.rename(directory, gone)
            except FileNotFoundError:
                return
            remove_path(gone)

    def tidy(self, held: str = "") -> None:
        """Remove what killed runs have left behind, and partial downloads that nobody went on with for two weeks.

        held -- key of the lock of a source that the caller holds
        """
        try:
            names = os.listdir(self.path)
        except OSError:
            return
        for name in names:
            key, dummy, suffix = name[len("work-") :].partition(".")
            if name.startswith("work-"):
                self._remove_leftover(name, f"vault-{key}" if suffix == "gone" else f"image-{key}", held)
        remove_leftovers(self.path)
        stale = time.time() - PARTIAL_SECONDS
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.partial):
                if entry.name.endswith(".tmp") or entry.stat().st_mtime < stale:
                    key = entry.name.partition(".")[0]
                    self._remove_leftover(os.path.join("partial", entry.name), f"image-{key}", held)

    def _remove_leftover(self, name: str, lock: str, held: str) -> None:
        """Remove something from the vault if whoever it belongs to is not at work."""
        with contextlib.suppress(Busy, OSError), contextlib.ExitStack() as stack:
            if lock != f"image-{held}":
                stack.enter_context(self.data.lock(lock, Deadline(0.01)))
            remove_path(os.path.join(self.path, name))

    def _read_names(self) -> dict[str, Entry]:
        return {key: Entry(**_ENTRY.split(entry)) for key, entry in self._names_record().get("names", {}).items()}

    def _names_record(self) -> dict[str, t.Any]:
        remedy = "Remove the file: the images stay, and their names are found again when they are next asked for"
        return read_record(self._names, NAMES_KIND, remedy) or {}

    def _change_names(self, change: t.Callable[[dict[str, Entry]], dict[str, Entry]]) -> None:
        make_dir(self.path)
        with self.data.lock("vault-names"):
            before = self._read_names()
            after = change(before)
            if after != before:
                names = {key: _plain(entry, before.get(key)) for key, entry in after.items()}
                write_record(self._names, NAMES_KIND, {**self._names_record(), "names": names})


def _plain(entry: Entry, before: Entry | None) -> dict[str, t.Any]:
    """An entry as plain data. What a newer version knows of it stays for as long as it leads to the same image."""
    known = {key: value for key, value in entry._asdict().items() if value and key != "unknown"}
    unknown = before.unknown if before and before.hash == entry.hash else {}
    return {**unknown, **known}


def _key(reference: Reference, arch: str, kind: str) -> str:
    # Disks were here first. No architecture has a slash in its name.
    return f"{reference} {arch}" if kind == DISK else f"{reference} {arch}/{kind}"


def file_stamp(path: str) -> str:
    """What changes when the file does; empty where there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino} {status.st_dev}"
