# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Looking at files that other users, or a run that was killed, may have touched. What writes is in _writing.py."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HostError,
    InvalidOption,
    MissingRequirement,
    NoSpace,
)

# How many links may lead on from each other: as many as the kernel follows.
_LINKS = 40

_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


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


# -- directories ------------------------------------------------------------------------------------------------------


def require_safe_way(path: str) -> None:
    """Return if nobody but root and the user of this run can put something else in the place of a directory.

    path -- absolute; it need not be there, and each link on the way to it is followed, and looked at as well
    Else InvalidOption, which names the directory on the way that others can write in, and the remedy.
    """
    here = "/"
    todo = ["/", *path.split("/")]
    todo.reverse()
    links = 0
    while todo:
        name = todo.pop()
        if name in ("", "."):
            continue
        step = os.path.dirname(here) if name == ".." else os.path.join(here, name)
        try:
            found = os.lstat(step)
        except FileNotFoundError:
            return
        except OSError as exc:
            with explained(f"the way to the data directory {path} cannot be looked at"):
                raise exc
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > _LINKS:
                raise InvalidOption(f"the data directory {path} cannot be", f"links lead in a circle at {step}")
            target = os.readlink(step)
            here = "/" if target.startswith("/") else here
            todo += reversed(target.split("/"))
        elif stat.S_ISDIR(found.st_mode):
            here = step
        else:
            raise InvalidOption(f"{step} is not a directory", hint="Choose another data_dir, or move it away.")
        why = _weakness(step, found)
        if why:
            raise InvalidOption(
                f"the data directory {path} is not safe: others can put something else in its place",
                f"{step} {why[0]}",
                f"{why[1]}, or choose another data_dir.",
            )


def is_closed(path: str, users: t.Collection[int]) -> bool:
    """Whether only these users, and root, can get to a folder: one on the way to it, not itself, lets in nobody else.

    users -- their ids. With an access control list, the group's bits are the most that any user in the list may do.
    """
    step = os.path.dirname(os.path.realpath(path))
    while True:
        found = os.stat(step)
        if not found.st_mode & (stat.S_IXGRP | stat.S_IXOTH) and found.st_uid in (0, *users):
            return True
        if step == "/":
            return False
        step = os.path.dirname(step)


def _weakness(path: str, found: os.stat_result) -> tuple[str, str] | None:
    """What lets others change what a directory or link leads to, and what to do about it; None: nothing does."""
    if found.st_uid not in (0, os.geteuid()):
        return f"belongs to uid {found.st_uid}", "Run as that user (become_user), have root own it"
    # A link's own mode means nothing; and in a directory with the sticky bit nobody can move what is another's.
    if stat.S_ISLNK(found.st_mode) or found.st_mode & stat.S_ISVTX:
        return None
    if found.st_mode & stat.S_IWOTH:
        return "may be written in by everybody", f"Take that right away (chmod go-w {path})"
    if found.st_mode & stat.S_IWGRP and not _is_own_group(path, found):
        return "may be written in by a group", f"Take that right away (chmod g-w {path})"
    return None


def _is_own_group(path: str, found: os.stat_result) -> bool:
    """Whether a directory's group is the one that many systems make for each user, and nobody else is in it.

    With such groups the usual umask lets the group write, so a home directory is full of directories of this kind.
    """
    import grp
    import pwd

    try:
        user = pwd.getpwuid(found.st_uid)
        group = grp.getgrgid(found.st_gid)
    except KeyError:
        return False
    own = user.pw_gid == group.gr_gid and user.pw_name == group.gr_name and set(group.gr_mem) <= {user.pw_name}
    if not own or not hasattr(os, "getxattr"):
        return own
    # With an access control list, the group's bits are a mask: the most that any user in the list may do.
    try:
        return not os.getxattr(path, "system.posix_acl_access")
    except OSError as exc:
        return exc.errno in (errno.ENODATA, errno.ENOTSUP)


# -- files ------------------------------------------------------------------------------------------------------------


def read_file(path: str, limit: int) -> bytes:
    """The content of a regular file; OSError where there is none, and NotAFile where something else is there.

    limit -- bytes that it may have at most. A link is not followed, and nothing is waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENXIO):
            _require_regular(os.lstat(path), limit, path)
        raise
    try:
        found = os.fstat(descriptor)
        _require_regular(found, limit, path)
        content = os.read(descriptor, found.st_size + 1)
        # One read is enough for most files. A file that grows meanwhile is read up to the limit.
        while len(content) <= limit:
            more = os.read(descriptor, 1 << 16)
            if not more:
                break
            content += more
        return content[:limit]
    finally:
        os.close(descriptor)


class NotAFile(OSError):
    """What stands in the place of a file is none, or far larger than it can be. strerror says what it is."""


def _require_regular(found: os.stat_result, limit: int, path: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise NotAFile(errno.EINVAL, f"it is {_KINDS.get(stat.S_IFMT(found.st_mode), 'a device')}, not a file", path)
    if found.st_size > limit:
        raise NotAFile(errno.EFBIG, f"it has {found.st_size} bytes, more than {limit}", path)


# -- locks ------------------------------------------------------------------------------------------------------------


def is_locked(path: str, kind: int) -> bool:
    """Whether somebody holds a lock (flock) on a file that excludes one of a kind: LOCK_SH or LOCK_EX.

    Nobody does where there is no such file. OSError where it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
