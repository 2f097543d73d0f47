# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Folders of the host that are copied into a guest, and who in a guest uses a mounted one."""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    CommandFailed,
    InvalidOption,
    MinicloudError,
    NoSpace,
)
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import SshAccess, ssh_argv
from ansible_collections.minicloud.local.plugins.module_utils._runtime import LONG_COMMAND_TIMEOUT, Runtime

# The most entries that a copied folder may have.
_MOST = 2_000_000

# Where a copy is put together in the guest's folder before it takes the place of what is there.
_NEW = ".minicloud-new"

# Seconds for what a guest is asked shortly, and for a connection to it.
_SHORT, _CONNECT = 60.0, 15.0

# Marks the end of the host's tar among what both ends of the pipe say.
_TAR_ENDED = "minicloud: tar ended with "


class Listing(t.NamedTuple):
    """What is in a folder. names -- of what can be copied, below it, folders before their content

    fingerprint -- of names, kinds, modes, sizes and times: differs where something has changed
    skipped -- how many entries are neither files, folders nor links
    """

    names: list[bytes]
    fingerprint: str
    skipped: int


def list_folder(path: str) -> Listing:
    """What is in a folder of the host, links not followed. InvalidOption where some of it cannot be read."""
    top = os.fsencode(path)
    names: list[bytes] = []
    digest = hashlib.sha256(top)
    skipped = 0
    left = [b"."]
    while left:
        folder = left.pop()
        try:
            with os.scandir(os.path.join(top, folder)) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            for entry in found:
                name = os.path.join(folder, entry.name)
                if name == os.path.join(b".", os.fsencode(_NEW)):
                    continue
                status = entry.stat(follow_symlinks=False)
                kind = stat.S_IFMT(status.st_mode)
                if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                    skipped += 1
                    continue
                told = (name, status.st_mode, status.st_size if kind == stat.S_IFREG else 0, status.st_mtime_ns)
                digest.update(repr(told).encode())
                if kind == stat.S_IFLNK:
                    digest.update(os.readlink(os.path.join(top, name)) + b"\0")
                names.append(name)
                if kind == stat.S_IFDIR:
                    left.append(name)
                elif kind == stat.S_IFREG and not os.access(os.path.join(top, name), os.R_OK):
                    raise PermissionError(13, os.strerror(13), os.fsdecode(os.path.join(top, name)))
        except FileNotFoundError as exc:
            raise InvalidOption(
                f"the folder {path} changes while it is read", str(exc), "Run this again when nobody writes in it."
            ) from exc
        except OSError as exc:
            raise InvalidOption(
                f"the folder {path} cannot be copied", str(exc), "Give this user the right to read all of it."
            ) from exc
        if len(names) > _MOST:
            raise InvalidOption(f"the folder {path} has more than {_MOST} entries", hint="Copy parts of it.")
    return Listing(names, digest.hexdigest(), skipped)


def copy_folder(
    runtime: Runtime,
    access: SshAccess,
    source: str,
    target: str,
    listing: Listing,
    delete: bool,
    first: bool,
    replacing: t.Callable[[], None],
) -> None:
    """Bring the content of a folder of the host into a folder of a guest, as files of its login user.

    delete -- whether what else is in the guest's folder goes; first -- whether nothing was ever brought there: then it
    must be empty for that; replacing -- called before anything there goes
    CommandFailed, NoSpace: the next copy puts right what was left halfway.
    """
    tar = runtime.program("tar", "tar", "to copy folders into instances")
    ours = [tar, "-c", "-f", "-", "-C", source, "--no-recursion", "--mode=ug-s", "--null", "-T", "-"]
    quoted = shlex.quote(target)
    flags = {"staged": "yes" if delete else "", "wants_empty": "yes" if delete and first else ""}
    ask_guest(runtime, access, _PREPARE.format(target=quoted, **flags), target)
    into = f"{quoted}/{_NEW}" if delete else quoted
    theirs = ssh_argv(access, f"exec tar -x -o -f - -C {into}", _CONNECT)
    script = f"({shlex.join(ours)}; echo {shlex.quote(_TAR_ENDED)}$? >&2) | {shlex.join(theirs)}"
    names = b"\0".join(listing.names) + b"\0" if listing.names else b""
    # A guest may say what it likes.
    done = runtime.run(["sh", "-c", script], stdin=names, timeout=LONG_COMMAND_TIMEOUT, limit=4 << 20)
    before, dummy, after = done.err.rpartition(_TAR_ENDED)
    if done.rc != 0 or after.split("\n")[0] != "0":
        raise _failed(source, target, (before + after.partition("\n")[2]).strip() or f"ssh ended with {done.rc}")
    if delete:
        replacing()
        ask_guest(runtime, access, _REPLACE.format(target=quoted), target)


# A folder that this makes is the login user's; what is there already stays whose it is.
_PREPARE = f"""
set -e
t={{target}}
if [ ! -d "$t" ] && ! mkdir -p "$t" 2>/dev/null; then
  sudo -n mkdir -p "$t"
  sudo -n chown "$(id -u):$(id -g)" "$t"
fi
if [ ! -w "$t" ]; then
  echo "$t cannot be written by $(id -un)" >&2
  exit 1
fi
if [ -n "{{wants_empty}}" ] && [ -n "$(ls -A "$t" | grep -v -x -F {_NEW})" ]; then
  echo "$t is not empty, and delete: true would remove what is in it" >&2
  exit 1
fi
rm -rf "$t/{_NEW}"
[ -z "{{staged}}" ] || mkdir "$t/{_NEW}"
"""

_REPLACE = f"""
set -e
t={{target}}
find "$t" -mindepth 1 -maxdepth 1 ! -name {_NEW} -exec rm -rf {{{{}}}} \\;
find "$t/{_NEW}" -mindepth 1 -maxdepth 1 -exec mv {{{{}}}} "$t/" \\;
rmdir "$t/{_NEW}"
"""

_USERS = """
s() {{ if [ "$(id -u)" = 0 ]; then sh -c "$1"; else sudo -n sh -c "$1"; fi; }}
s 'ls -ld /proc/[0-9]*/cwd /proc/[0-9]*/root /proc/[0-9]*/fd/* 2>/dev/null' \
  | awk -v t={target} '{{ i = index($0, " -> "); l = substr($0, i + 4); \
    if (i && (l == t || index(l, t "/") == 1)) {{ split($0, w, "/proc/"); split(w[2], n, "/"); print n[1] }} }}' \
  | sort -u | head -n 5
"""


def users_of(runtime: Runtime, access: SshAccess, target: str) -> list[str]:
    """The numbers of some processes of a guest that have a folder, or something in it, open. CommandFailed."""
    script = _USERS.format(target=shlex.quote(target.replace("\\", "\\\\")))
    try:
        said = ask_guest(runtime, access, script, target)
    except MinicloudError as exc:
        exc.hint = "Who in the guest uses it is not known; add force: true to take it away all the same."
        raise
    # A guest may say what it likes.
    return [word for word in said.split() if word.isdecimal()][:5]


def is_missing(runtime: Runtime, access: SshAccess, target: str) -> bool:
    """Whether a guest has no such folder, such as one that keeps it in memory and was restarted. CommandFailed."""
    script = f"[ -d {shlex.quote(target)} ] || echo missing"
    return ask_guest(runtime, access, script, target).strip() == "missing"


def ask_guest(runtime: Runtime, access: SshAccess, script: str, target: str) -> str:
    """What a script for the guest's shell says. CommandFailed with target, which it is about, where it fails."""
    argv = ssh_argv(access, f"sh -c {shlex.quote(script)}", _CONNECT)
    done = runtime.run(argv, timeout=_SHORT, limit=1 << 20)
    if done.rc != 0:
        raise _failed("", target, done.err.strip() or f"ssh ended with status {done.rc}")
    return done.out


def _failed(source: str, target: str, why: str) -> MinicloudError:
    what = f"{source} was not copied to {target} of the guest" if source else f"the guest's {target} cannot be used"
    why = why[-500:]
    if "No space left" in why:
        return NoSpace(what, why, "Free some space in the guest, or give it a larger disk.")
    return CommandFailed(what, why)
