# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Folders of the host in guests by way of ssh, which every guest has: the mounts of type classic.

Each has a process on the host; see folder_server.py. Its files are in the folder FOLDER of the instance's directory,
named after the target.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import select
import shlex
import signal
import sys
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._files import explained, is_locked
from ansible_collections.minicloud.local.plugins.module_utils._guest.folders import ask_guest
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import SshAccess, ssh_argv
from ansible_collections.minicloud.local.plugins.module_utils._host import folder_server
from ansible_collections.minicloud.local.plugins.module_utils._host.serving import start_server, why_not_served
from ansible_collections.minicloud.local.plugins.module_utils._json import JsonError, parse_json
from ansible_collections.minicloud.local.plugins.module_utils._locks import open_lock, try_lock
from ansible_collections.minicloud.local.plugins.module_utils._model import DEFAULT_ID, Mount
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime, find_program
from ansible_collections.minicloud.local.plugins.module_utils._writing import make_dir, remove_path, write_file

MECHANISM = "sshfs"

# In the directory of an instance; and the program in it.
FOLDER, _PROGRAM = "mounts", "server.py"
_SUFFIXES = (".json", ".state", ".state.new", ".pid", ".log", ".sock", ".lock")

# Where distributions have the server of OpenSSH.
_SERVERS = (
    *("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server"),
    *("/usr/libexec/ssh/sftp-server", "/usr/libexec/sftp-server", "/usr/lib/sftp-server"),
)

# Seconds: for a connection, for a mount, for one in a guest that has to install sshfs first, and to end.
_CONNECT, _SOON, _INSTALLED, _ENDING = 15.0, 60.0, 600.0, 5.0
_LONGEST_STATE = 1 << 16

_LAUNCHER = 'umask 077 && echo $$ > "$0.pid" && exec "$@" < /dev/null > "$0.log" 2>&1'

# How the scripts in the guest begin: s runs a command as root; kind tells the type of what is mounted on the target.
PREAMBLE = """
t={target}
e={escaped}
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
s() {{ if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }}
kind() {{ k=; while read -r d p f d; do [ "$p" != "$e" ] || k=$f; done < /proc/mounts; echo "$k"; }}
"""

# In the guest. Whatever it says goes to standard error: the rest is the channel.
_MOUNT = f"""{PREAMBLE}install_it() {{{{
  if command -v apt-get; then
    set -- env DEBIAN_FRONTEND=noninteractive apt-get -qy -o DPkg::Lock::Timeout=120 --no-install-recommends
    set -- "$@" install sshfs
    s "$@" || {{{{ s apt-get -q update && s "$@"; }}}}
  elif command -v dnf; then s dnf -qy install fuse-sshfs
  elif command -v yum; then s yum -qy install fuse-sshfs
  elif command -v zypper; then s zypper -qn install sshfs
  elif command -v pacman; then s pacman -S --noconfirm --needed sshfs || s pacman -Sy --noconfirm --needed sshfs
  elif command -v apk; then s apk add -q sshfs
  else return 1
  fi
}}}}
if ! command -v sshfs > /dev/null; then
  echo "{folder_server.IS_INSTALLING}" >&2
  if ! install_it < /dev/null >&2; then
    echo "the guest has no sshfs, and its package manager could not install it" >&2
    exit 1
  fi
fi
# One of before unmounts by its path when it ends, whatever is there by then.
f=$HOME/.minicloud-mount-{{stem}}
old=$(cat "$f" 2> /dev/null)
n=0
while [ -n "$old" ] && kill -0 "$old" 2> /dev/null && [ $n -lt 60 ]; do
  n=$((n + 1))
  sleep 0.1
done
echo $$ > "$f"
case $(kind) in
  '') ;;
  fuse.sshfs) s umount -l "$t" ;;
  *) echo "something else is mounted on $t in the guest: $(kind)" >&2; exit 1 ;;
esac
if [ ! -d "$t" ] && ! mkdir -p "$t" 2> /dev/null; then
  s mkdir -p "$t" && s chown "$(id -u):$(id -g)" "$t" || exit 1
fi
[ -c /dev/fuse ] || s modprobe fuse < /dev/null >&2
o=allow_other,default_permissions{{read_only}}
help=$(sshfs --help < /dev/null 2>&1)
case $help in *' passive '*) o=$o,passive ;; *) o=$o,slave ;; esac
case $help in *no_contain_symlinks*) o=$o,no_contain_symlinks ;; esac
case $help in *dcache_timeout=*) o=$o,dcache_timeout=1 ;; *) o=$o,cache_timeout=1 ;; esac
(
  n=0
  until [ -n "$(kind)" ]; do
    n=$((n + 1))
    [ $n -lt 400 ] || exit
    sleep 0.1
  done
  echo "{folder_server.IS_MOUNTED}" >&2
) < /dev/null > /dev/null &
s sshfs -f -o "$o" :{folder_server.FOLDER} "$t"
r=$?
kill $! 2> /dev/null
if [ "$(cat "$f")" = $$ ]; then
  [ "$(kind)" != fuse.sshfs ] || s umount -l "$t"
  rm -f "$f"
fi
exit $r
"""

_UNMOUNT = f"""{PREAMBLE}[ "$(kind)" = {{kind}} ] || exit 0
s umount "$t" || {{{{ [ -n "{{lazily}}" ] && s umount -l "$t"; }}}}
"""


def stem_of(target: str, mechanism: str = MECHANISM) -> str:
    """What the files of a mount are called."""
    return hashlib.sha256(f"{mechanism} {target}".encode()).hexdigest()[:16]


def path_of(directory: str, target: str, suffix: str, mechanism: str = MECHANISM) -> str:
    """The path of a file of a mount. directory -- of the instance"""
    return os.path.join(directory, FOLDER, f"{stem_of(target, mechanism)}{suffix}")


def _runs(base: str) -> bool:
    return is_locked(f"{base}.lock", fcntl.LOCK_SH)


def sftp_server() -> str:
    """The path of OpenSSH's server of files on this host; empty where there is none."""
    return next((path for path in _SERVERS if os.access(path, os.X_OK)), "") or find_program("sftp-server") or ""


def why_not(mount: Mount) -> str:
    """Why this host cannot serve a folder, as a clause; empty where it can. Only a look."""
    why = why_not_served()
    if why:
        return why
    if not sftp_server():
        return (
            "this host has no sftp-server: install the package openssh-sftp-server (Debian, Ubuntu), openssh-server"
            " (Fedora) or openssh (Arch, SUSE)"
        )
    if not find_program("ssh"):
        return "this host has no ssh"
    if os.path.realpath(mount.source).startswith(("/proc/", "/sys/", "/dev/")):
        return "it is a folder of the host's kernel"
    if os.geteuid() != 0:
        for name, pairs, own in (("uid_map", mount.uid_map, os.geteuid()), ("gid_map", mount.gid_map, os.getegid())):
            if any(host_id != own for host_id, dummy in pairs):
                return f"{name} has other ids than {own}, which only root can map"
    return ""


def is_served(directory: str, target: str, mechanism: str = MECHANISM) -> bool:
    """Whether a guest has a folder mounted. directory -- of the instance; cheap"""
    base = path_of(directory, target, "", mechanism)
    return _runs(base) and _state(base)[0] == folder_server.MOUNTED


def _state(base: str) -> tuple[str, str]:
    with contextlib.suppress(OSError, JsonError, AttributeError):
        with open(f"{base}.state", "rb") as stream:
            found = parse_json(stream.read(_LONGEST_STATE), "the state of a mount", _LONGEST_STATE, 8)
        return str(found.get("state")), str(found.get("said"))
    return "", ""


def serve(runtime: Runtime, directory: str, access: SshAccess, mount: Mount, name: str) -> None:
    """Have a folder be mounted in a guest, and stay so. HypervisorError: nothing of it is left.

    directory -- of the instance; mount -- with an absolute target; name -- of the instance
    """
    stop_serving(directory, mount.target)
    script = _MOUNT.format(
        target=shlex.quote(mount.target),
        escaped=shlex.quote(escaped(mount.target)),
        read_only=",ro" if mount.read_only else "",
        stem=stem_of(mount.target),
    )
    config = {
        "server": [os.path.realpath(sftp_server()), "-e", "-l", "ERROR", *(["-R"] if mount.read_only else [])],
        "ssh": ssh_argv(access, f"sh -c {shlex.quote(script)}", _CONNECT),
        "listens": False,
        **identities(runtime, access, mount),
    }
    start_serving(runtime, directory, mount, name, config, MECHANISM)
    try:
        await_mounted(directory, mount, name, MECHANISM)
    except BaseException:
        stop_serving(directory, mount.target)
        raise


def start_serving(
    runtime: Runtime, directory: str, mount: Mount, name: str, config: t.Mapping[str, t.Any], mechanism: str
) -> None:
    """Start the process that serves a folder. config -- see folder_server.py"""
    make_dir(os.path.join(directory, FOLDER))
    base = path_of(directory, mount.target, "", mechanism)
    write_file(os.path.join(directory, FOLDER, _PROGRAM), _program())
    for suffix in (".state", ".sock"):
        remove_path(f"{base}{suffix}")
    content = {**config, "source": mount.source, "read_only": mount.read_only}
    write_file(f"{base}.json", json.dumps(content, indent=1).encode())
    what = f"{mount.source} could not be mounted in {name}"
    setsid = runtime.program("setsid", "util-linux", "to serve folders in the background")
    with explained(what):
        lock = open_lock(f"{base}.lock")
    try:
        for dummy in Deadline(2).pauses():
            if try_lock(lock):  # else somebody just looks at it
                break
        stem = os.path.basename(base)
        argv = [setsid, "--fork", "sh", "-c", _LAUNCHER, stem, sys.executable, "-I", "-S", _PROGRAM, stem]
        start_server(
            runtime,
            argv,
            what,
            f"Folder {mount.source} of the instance {name} of minicloud.local",
            cwd=os.path.join(directory, FOLDER),
            pass_fds=[lock],
        )
    finally:
        os.close(lock)


def _program() -> bytes:
    from ansible_collections.minicloud.local.plugins.module_utils._host import systemd

    return systemd.program_of(folder_server)


def await_mounted(directory: str, mount: Mount, name: str, mechanism: str) -> None:
    """Return once the guest has mounted what is served. HypervisorError, with what it said, where it does not."""
    what = f"{mount.source} could not be mounted in {name}"
    base = path_of(directory, mount.target, "", mechanism)
    soon, deadline = Deadline(_SOON), Deadline(_INSTALLED)
    for dummy in deadline.pauses(first=0.02, longest=0.2):
        running = _runs(base)
        state, said = _state(base)
        if state == folder_server.MOUNTED:
            return
        if not running:
            raise HypervisorError(what, _plain(said) or _log(base) or "what serves it has ended")
        if soon.expired() and folder_server.IS_INSTALLING not in said:
            break
    raise HypervisorError(what, "the guest has not mounted it in time")


def _plain(said: str) -> str:
    """What a guest said, without what is ours; it may say what it likes."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and folder_server.MARK not in line]
    return "; ".join("".join(each if each.isprintable() else "?" for each in line) for line in lines[-3:])[-500:]


def _log(base: str) -> str:
    with contextlib.suppress(OSError):
        with open(f"{base}.log", encoding="utf-8", errors="replace") as stream:
            return (stream.read(1 << 16).strip().splitlines() or [""])[-1]
    return ""


def identities(runtime: Runtime, access: SshAccess, mount: Mount) -> dict[str, t.Any]:
    """As whom a folder is served, and with which maps: the part of that in the configuration of the server."""
    uid_map, gid_map = _known_ids(runtime, access, mount)
    root = os.geteuid() == 0
    found = os.stat(mount.source)
    # Whoever made the folder is who the guest may act as in it.
    uid, uids = _ids(uid_map, found.st_uid if root else os.geteuid(), "uid_map", root)
    gid, gids = _ids(gid_map, found.st_gid if root else os.getegid(), "gid_map", root)
    return {"uids": uids, "gids": gids, "uid": uid, "gid": gid, "may_set_groups": root}


def _known_ids(
    runtime: Runtime, access: SshAccess, mount: Mount
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The maps of a mount with the login user's ids in the places that mean those."""
    if DEFAULT_ID not in [guest for dummy, guest in (*mount.uid_map, *mount.gid_map)]:
        return mount.uid_map, mount.gid_map
    said = ask_guest(runtime, access, "id -u; id -g", mount.target).split()
    if len(said) != 2 or not all(word.isdecimal() and len(word) < 11 for word in said):
        raise HypervisorError("the ids of the guest's login user are not known", f"it said {said!r}"[:200])
    uid, gid = map(int, said)
    return (
        [(host, uid if guest == DEFAULT_ID else guest) for host, guest in mount.uid_map],
        [(host, gid if guest == DEFAULT_ID else guest) for host, guest in mount.gid_map],
    )


def _ids(pairs: t.Sequence[tuple[int, int]], own: int, kind: str, root: bool) -> tuple[int, list[list[int]]]:
    """As whom a folder is served, as the guest sees it, and the map. own -- whose it is on the host"""
    known = dict(pairs)
    if pairs:
        chosen = known.get(own, pairs[0][1])
        return chosen, [[guest, host, 1] for host, guest in pairs]
    if not root:
        return own, [[own, own, 1]]
    with open(f"/proc/self/{kind}", encoding="ascii") as stream:
        ranges = [[int(word) for word in line.split()] for line in stream]
    return own, [[first, first, count] for first, dummy, count in ranges]


def stop_serving(directory: str, target: str, mechanism: str = MECHANISM) -> None:
    """End what serves a folder; all the same if nothing does. The guest loses it at once."""
    _stop(path_of(directory, target, "", mechanism))


def _stop(base: str) -> None:
    remove_path(f"{base}.json")
    for number in (signal.SIGTERM, signal.SIGKILL):
        for dummy in Deadline(_ENDING).pauses(first=0.02, longest=0.2):
            if not _runs(base):
                for suffix in _SUFFIXES:
                    remove_path(f"{base}{suffix}")
                return
            # The lock is held, so the process that wrote this file is the one that holds it, or is about to.
            with contextlib.suppress(OSError, ValueError):
                with open(f"{base}.pid", encoding="ascii") as stream:
                    handle = os.pidfd_open(int(stream.read(32)))
                try:
                    if _runs(base):
                        signal.pidfd_send_signal(handle, number)
                        select.select([handle], [], [], _ENDING)
                finally:
                    os.close(handle)
    raise HypervisorError("what serves a folder could not be ended", f"{base}: it survives even SIGKILL")


def stop_all(directory: str) -> None:
    """End all that serves folders to an instance that is down. What cannot be ended gives up by itself later."""
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        names = os.listdir(os.path.join(directory, FOLDER))
    for name in names:
        if name.endswith(".lock"):
            with contextlib.suppress(MinicloudError, OSError):
                _stop(os.path.join(directory, FOLDER, name[: -len(".lock")]))


def unmount(runtime: Runtime, access: SshAccess, target: str, lazily: bool, kind: str = "fuse.sshfs") -> None:
    """Have a guest unmount a folder. CommandFailed where it does not, such as while it is used, unless lazily.

    kind -- of the file system that is to be there; all the same where it is not
    """
    script = _UNMOUNT.format(
        target=shlex.quote(target),
        escaped=shlex.quote(escaped(target)),
        lazily="yes" if lazily else "",
        kind=kind,
    )
    ask_guest(runtime, access, script, target)


def escaped(target: str) -> str:
    """A target as the kernel lists it among the mounts."""
    return target.replace("\\", "\\134").replace(" ", "\\040")
