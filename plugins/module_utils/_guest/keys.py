# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Key pairs: the one that the data directory logs in with, and those that instances answer with."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import Busy, InvalidOption, RecordError
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import LOGIN_KEY
from ansible_collections.minicloud.local.plugins.module_utils._locks import open_lock, try_lock
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_leftovers, write_file

HOST_KEY = "ssh_host_ed25519_key"

_TEMPORARY = ".new-key-"


class LoginKey(t.NamedTuple):
    """A pair to log in with: the path of its private half, and its public half as one line."""

    private_path: str
    public: str


class HostKey(t.NamedTuple):
    """A pair that a server answers with: PEM text, and one line."""

    private: str
    public: str

    @property
    def kind(self) -> str:
        """The name that cloud-init and sshd give to the type: ed25519, ecdsa or rsa."""
        algorithm = self.public.split("-")
        return algorithm[0] if algorithm[0] == "ecdsa" else algorithm[1].split()[0]


def ensure_login_key(runtime: Runtime, keys_dir: str) -> LoginKey:
    """The data directory's own pair, made at the first call. Raises RecordError if it is there and damaged."""
    path = os.path.join(keys_dir, LOGIN_KEY)
    make_dir(keys_dir)
    with explained(f"the permissions of {keys_dir} could not be set"):
        if os.stat(keys_dir).st_mode & 0o077:
            os.chmod(keys_dir, 0o700)
    return LoginKey(path, _ensure_pair(runtime, path, "minicloud"))


def make_host_key(runtime: Runtime, directory: str, name: str) -> HostKey:
    """The ed25519 key of the server named NAME, kept in DIRECTORY; one that is there already is used again.

    One type is enough: every OpenSSH of the last decade has it, and the guest saves the time for the others.
    """
    path = os.path.join(directory, HOST_KEY)
    public = _ensure_pair(runtime, path, name)
    return HostKey(_read(path), public)


def pinned_keys(runtime: Runtime, directory: str, public: t.Sequence[str], private: t.Sequence[str]) -> list[str]:
    """The public keys to pin for host keys that the user gave: PUBLIC, and those that belong to PRIVATE (PEM text).

    DIRECTORY is where a private key may lie for a moment. Raises InvalidOption if there are none, or one is no key.
    """
    found = [" ".join(line.split()[:2]) for line in public]
    for text in private:
        with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=make_dir(directory)) as place:
            path = os.path.join(place, "key")
            write_file(path, text.strip().encode() + b"\n")
            done = runtime.run([_ssh_keygen(runtime), "-y", "-P", "", "-f", path])
        if done.rc != 0:
            raise InvalidOption("a private key among ssh_keys in cloud_init is not usable", done.err.strip())
        found.append(" ".join(done.out.split()[:2]))
    if not found:
        raise InvalidOption(
            "cloud_init sets ssh_keys, and their public halves cannot be read on this host",
            hint="Give cloud_init as a mapping, or install PyYAML on this host, or leave ssh_keys out.",
        )
    return found


@contextlib.contextmanager
def locked(path: str, seconds: float = 60) -> t.Iterator[None]:
    """Hold the lock file PATH. Who has it needs it for a moment: Busy if that takes longer than some seconds."""
    with explained(f"the lock {path} could not be taken"):
        descriptor = open_lock(path)
    try:
        with explained(f"the lock {path} could not be taken"):
            if not any(try_lock(descriptor) for dummy in Deadline(seconds).pauses(longest=0.25)):
                raise Busy(
                    f"the lock {path} was not free within {seconds:g} seconds",
                    "another process holds it, or has stopped with it",
                    "Wait for that run to end, or end it (fuser tells which), and run this again.",
                )
        yield
    finally:
        os.close(descriptor)


def _ssh_keygen(runtime: Runtime) -> str:
    return runtime.program("ssh-keygen", "openssh-client", "to make and read ssh keys")


def _ensure_pair(runtime: Runtime, path: str, comment: str) -> str:
    """The public half of the pair at PATH, which is made if it is not there.

    The private half appears by a rename, first and whole; the public one can be had from it at any time. So whatever a
    killed run leaves behind is either a whole private key or a temporary directory.
    """
    public = _whole_pair(path)
    if public:
        return public
    directory = make_dir(os.path.dirname(path))
    with locked(os.path.join(directory, ".lock")):
        remove_leftovers(directory)
        public = _whole_pair(path)
        if public:
            return public
        text = _public_of(runtime, path) if _usable_private(path) else _make_private(runtime, path, comment)
        public = " ".join([*text.split()[:2], comment])
        write_file(f"{path}.pub", public.encode() + b"\n", 0o644)
        return public


def _whole_pair(path: str) -> str:
    """The public half where both are there, else empty."""
    if not (os.path.exists(path) and os.path.exists(f"{path}.pub")):
        return ""
    public = _read(f"{path}.pub").strip()
    return public if _usable_private(path) and public.startswith(("ssh-", "ecdsa-")) else ""


def _usable_private(path: str) -> bool:
    """Whether a private key is at PATH; its permissions are put right, as ssh refuses it otherwise.

    An empty file, or none, counts as absent as long as no public half says that the key was in use.
    """
    text = _read(path) if os.path.exists(path) else ""
    if not text.strip():
        if os.path.exists(f"{path}.pub"):
            raise _damaged(path, "it is empty or missing while its public half is there")
        return False
    if "PRIVATE KEY-----" not in text:
        raise _damaged(path, "it is not a private key")
    with explained(f"the permissions of {path} could not be set"):
        if os.stat(path).st_mode & 0o077:
            os.chmod(path, 0o600)
    return True


def _public_of(runtime: Runtime, path: str) -> str:
    """The public half of the private key at PATH."""
    done = runtime.run([_ssh_keygen(runtime), "-y", "-P", "", "-f", path])
    if done.rc != 0:
        raise _damaged(path, done.err.strip())
    return done.out


def _make_private(runtime: Runtime, path: str, comment: str) -> str:
    """Put a new private key at PATH and return its public half."""
    directory = os.path.dirname(path)
    with explained(f"the key {path} could not be made"):
        for name in os.listdir(directory):
            if name.startswith(_TEMPORARY):  # left behind by a killed run: we hold the lock
                shutil.rmtree(os.path.join(directory, name), ignore_errors=True)
        place = tempfile.mkdtemp(prefix=_TEMPORARY, dir=directory)
        try:
            made = os.path.join(place, "key")
            argv = [_ssh_keygen(runtime), "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", made]
            runtime.check(argv, f"the key {path} could not be made")
            write_file(path, _read(made).encode())
            return _read(f"{made}.pub")
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError as exc:
        raise RecordError(
            f"the key {path} cannot be read",
            exc.strerror or str(exc),
            "Run as the user that the data directory belongs to.",
            record=path,
        ) from exc


def _damaged(path: str, why: str) -> RecordError:
    return RecordError(
        f"the key {path} is damaged",
        why,
        f"Restore it from a backup; or remove it and {path}.pub to have a new pair made, which the instances made so "
        "far do not know.",
        record=path,
    )
