# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Serves one folder of the host to one guest, and goes on doing so: a program of its own, one beside each mount.

It runs a server of files and, joined to that by a pair of sockets, ssh, which starts sshfs in the guest at the other
end. Nothing listens anywhere, and the guest has no key of the host. When the guest restarts, or the connection breaks,
both are begun anew.

A guest may say what it likes to the server, so that is enclosed: it has a user namespace with the ids that the mount
maps and no others, no rights but those of one user, no network, no view of other processes, and sees no file but those
of the folder and the libraries that it needs. It can set no setuid bits.

Where the hypervisor hands folders to guests (virtiofs), the server is one for that instead: it listens on a socket,
which the hypervisor is connected to, and what ssh does is only to have the guest mount it. When that server ends,
whoever reads or writes in the folder waits for ever: so the guest is made to let it go.

It holds an flock on NAME.lock, which it inherits, for as long as it runs. NAME.json says what to do, and NAME.state how
it goes. It ends by SIGTERM, or once NAME.json is gone.

Runs with Python alone. Linux only.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import select
import signal
import socket
import struct
import sys
import time
import typing as t

# How it goes.
STARTING, MOUNTED, WAITING, FAILED = "starting", "mounted", "waiting", "failed"

# What the script in the guest says on its standard error.
MARK = "minicloud: "
IS_MOUNTED, IS_INSTALLING = f"{MARK}mounted", f"{MARK}installing"

# What the folder is called for the server.
FOLDER = "/folder"

# Seconds: that a guest is waited for which was served before; the pauses of that; from look to look at the folder.
_PATIENCE, _FIRST_PAUSE, _LONGEST_PAUSE, _LOOK = 900.0, 0.5, 10.0, 5.0
# And for a guest to let go what is served no longer.
_LETTING_GO = 10.0
# Of what is said, bytes that are kept.
_KEPT = 2000

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    *(0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000),
)
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = (
    *(1, 2, 4, 8, 32, 4096, 16384, 1 << 18),
)
_MNT_DETACH = 2
_PDEATHSIG, _KEEP_CAPABILITIES, _SECCOMP, _CAPBSET_DROP, _NO_NEW_PRIVS, _AMBIENT = 1, 8, 22, 24, 38, 47
_AMBIENT_RAISE, _SECUREBITS, _NO_SETUID_FIXUP = 2, 28, 4
_LAST_CAPABILITY = 63
_AT_FDCWD, _AT_RECURSIVE, _MOUNT_SETATTR = -100, 0x8000, 442

# Numbers of system calls that give a file its mode: the argument that has it, and the one that has the flags of open.
# Those of openat2 are out of reach, so there is none.
_MODES: dict[str, tuple[int, int, dict[int, tuple[int, int]]]] = {
    "x86_64": (
        0xC000003E,
        155,
        {2: (2, 1), 257: (3, 2), **dict.fromkeys((83, 85, 90, 91, 133), (1, -1))}
        | dict.fromkeys((258, 259, 268, 452), (2, -1)),
    ),
    "aarch64": (
        0xC00000B7,
        41,
        {56: (3, 2), 33: (2, -1), 34: (2, -1), 52: (1, -1), 53: (2, -1), 452: (2, -1)},
    ),
}
_OPENAT2 = 437
_CREATES, _SPECIAL_BITS = 0o100 | 0o20000000, 0o6000
_ALLOW, _REFUSE, _NO_SUCH_CALL = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38

# Where the root of an enclosed program is put together. No folder that is served is in it.
ROOT = "/sys"
_LIBRARIES = (
    *("/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/usr/local/lib"),
    *("/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store"),
)


@functools.cache
def _library() -> t.Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def can_enclose(machine: str) -> bool:
    """Whether what a guest may do can be bounded on a processor of this kind."""
    return machine in _MODES


def _call(name: str, *arguments: t.Any) -> int:
    """A function of the C library; OSError where it fails."""
    import ctypes

    plain = [ctypes.c_ulong(each & (1 << 64) - 1) if isinstance(each, int) else each for each in arguments]
    result = int(getattr(_library(), name)(*plain))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def _try(name: str, *arguments: t.Any) -> bool:
    try:
        _call(name, *arguments)
    except OSError:
        return False
    return True


# Rights


def new_user_namespace(uids: t.Sequence[t.Sequence[int]], gids: t.Sequence[t.Sequence[int]]) -> int:
    """An open user namespace. uids, gids -- its maps: the first id inside, the first outside, how many"""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _call("unshare", _NEWUSER)
            os.write(ready[1], b"1")
            os.close(go[1])
            os.read(go[0], 1)
        finally:
            os._exit(0)
    os.close(ready[1])
    try:
        if not os.read(ready[0], 1):
            raise OSError(1, "this host lets this user make no user namespaces")
        if os.geteuid() != 0:
            _write(f"/proc/{child}/setgroups", "deny")
        for kind, ids in (("uid_map", uids), ("gid_map", gids)):
            _write(f"/proc/{child}/{kind}", "".join("{} {} {}\n".format(*each) for each in ids))
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for handle in (ready[0], *go):
            os.close(handle)
        os.waitpid(child, 0)


def _write(path: str, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def give_up_rights() -> None:
    """Have no capability from now on, and get none."""
    for number in range(_LAST_CAPABILITY):
        _try("prctl", _CAPBSET_DROP, number, 0, 0, 0)
    _keep_capabilities(0)
    _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)


def _keep_capabilities(these: int) -> None:
    low, high = these & 0xFFFFFFFF, these >> 32
    _call("capset", struct.pack("Ii", 0x20080522, 0), struct.pack("6I", low, low, low, high, high, high))


def _hand_on_capabilities(these: int) -> None:
    """Have a program that is run keep them, whoever it runs as."""
    _keep_capabilities(these)
    for number in range(_LAST_CAPABILITY):
        if these >> number & 1:
            _call("prctl", _AMBIENT, _AMBIENT_RAISE, number, 0, 0)


def _mode_filter() -> bytes:
    """A filter of system calls that refuses those which would set a file's setuid or setgid bit."""
    arch, dummy, calls = _MODES[platform.machine()]
    program: list[tuple[int, int, int, int]] = []

    def add(code: int, k: int, jt: int = 0, jf: int = 0) -> None:
        program.append((code, jt, jf, k))

    load, equal, any_bit, end = 0x20, 0x15, 0x45, 0x06
    add(load, 4)
    add(equal, arch, 1, 0)
    add(end, _NO_SUCH_CALL)
    add(load, 0)
    add(0x35, 0x40000000, 0, 1)  # other numbers for the same calls
    add(end, _NO_SUCH_CALL)
    add(equal, _OPENAT2, 0, 1)
    add(end, _NO_SUCH_CALL)
    for number, (mode, flags) in calls.items():
        block = [(load, 0, 0, 16 + 8 * flags), (any_bit, 0, 2, _CREATES)] if flags >= 0 else []
        block += [(load, 0, 0, 16 + 8 * mode), (any_bit, 1, 0, _SPECIAL_BITS)]
        block += [(end, 0, 0, _ALLOW), (end, 0, 0, _REFUSE)]
        add(equal, number, 0, len(block))
        program += block
    add(end, _ALLOW)
    return b"".join(struct.pack("HBBI", *each) for each in program)


def refuse_special_bits() -> None:
    """From now on have system calls refused that would set a setuid or setgid bit."""
    import ctypes

    program = _mode_filter()
    content = ctypes.create_string_buffer(program, len(program))
    _call("prctl", _SECCOMP, 2, struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(content)), 0, 0)


# The enclosure


def _mount(source: str, target: str, fstype: str, flags: int, options: str = "") -> None:
    _call("mount", source.encode(), os.fsencode(target), fstype.encode(), flags, options.encode())


def _bind(source: str, target: str, writable: bool = False) -> None:
    _mount(source, target, "", _MS_BIND | _MS_REC)
    _restrict(target, writable)


def _restrict(path: str, writable: bool) -> None:
    """Have nothing below PATH be a device or setuid program, and be written unless it is to be."""
    flags = _MS_NOSUID | _MS_NODEV | (0 if writable else _MS_RDONLY)
    attributes = struct.pack("4Q", flags, 0, 0, 0)
    if _try("syscall", _MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), _AT_RECURSIVE, attributes, 32):
        return
    # A kernel before 5.12. What a mount has of such flags stays.
    kept = os.statvfs(path).f_flag & (_MS_NOSUID | _MS_NODEV | _MS_NOEXEC | _MS_RDONLY)
    _mount("none", path, "", _MS_REMOUNT | _MS_BIND | kept | flags)


def _build_root(program: str, uid: int, gid: int, read_only: bool) -> None:
    """Have ROOT be what the enclosed program is to see. The working directory is the folder."""
    os.umask(0o022)
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    _mount("none", ROOT, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=1m")
    for name in ("dev", "etc", "usr/local", FOLDER[1:]):
        os.makedirs(os.path.join(ROOT, name))
    _bind(".", ROOT + FOLDER, not read_only)
    for path in _LIBRARIES:
        if os.path.islink(path):
            os.symlink(os.readlink(path), ROOT + path)
        elif os.path.isdir(path):
            os.makedirs(ROOT + path, exist_ok=True)
            _bind(path, ROOT + path)
    for path in (program, "/dev/null", "/etc/ld.so.cache"):
        if os.path.exists(path) and not os.path.exists(ROOT + path):
            os.makedirs(os.path.dirname(ROOT + path), exist_ok=True)
            _write_new(ROOT + path, "")
            _mount(path, ROOT + path, "", _MS_BIND)
            if os.path.isfile(path):
                _restrict(ROOT + path, False)
    _write_new(f"{ROOT}/etc/passwd", f"minicloud:x:{uid}:{gid}::/:/\n")
    _write_new(f"{ROOT}/etc/group", f"minicloud:x:{gid}:\n")
    os.chdir(ROOT)
    _mount("none", ROOT, "", _MS_REMOUNT | _MS_BIND | _MS_NOSUID | _MS_NODEV | _MS_RDONLY)
    _call("syscall", _MODES[platform.machine()][1], b".", b".")  # pivot_root
    _call("umount2", b".", _MNT_DETACH)
    os.chdir("/")


def _write_new(path: str, text: str) -> None:
    with open(path, "x", encoding="ascii") as stream:
        stream.write(text)


def _become(config: t.Mapping[str, t.Any]) -> int:
    """Be the user that the server is, whose ids the namespace has, with all rights in it still, which it returns."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
        rights = next(int(line.split()[1], 16) for line in stream if line.startswith("CapPrm:"))
    _call("prctl", _KEEP_CAPABILITIES, 1, 0, 0, 0)
    if config["may_set_groups"]:
        os.setgroups([])
    os.setresgid(config["gid"], config["gid"], config["gid"])
    os.setresuid(config["uid"], config["uid"], config["uid"])
    _keep_capabilities(rights)
    return rights


def _build_share(read_only: bool) -> None:
    """Have ROOT + FOLDER be the folder, for a server that encloses itself in it. It is the working directory."""
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    _mount("none", ROOT, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=1m")
    os.mkdir(ROOT + FOLDER)
    _bind(".", ROOT + FOLDER, not read_only)
    os.chdir("/")


def sharing(config: t.Mapping[str, t.Any], space: int, folder: int, listener: int, errors: int) -> int:
    """Start the server of files that the hypervisor talks to, and return its process id. See enclosed().

    listener -- the socket that it listens on, which it finds as number 3
    """
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _call("setns", space, _NEWUSER)
        os.fchdir(folder)
        _call("unshare", _NEWNS | _NEWUTS | _NEWIPC | _NEWNET)
        rights = _become(config)
        if config["uid"] != 0:
            # It is one user after the other for its guest, and needs its rights afterwards.
            _call("prctl", _SECUREBITS, _NO_SETUID_FIXUP, 0, 0, 0)
        _build_share(config["read_only"])
        silence = os.open("/dev/null", os.O_RDWR)
        _replace_streams(silence, errors, errors)
        os.dup2(listener, 3)
        _hand_on_capabilities(rights)
        _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
        # It ends with its hypervisor, and not with whoever looks after it: a guest would wait for it for ever.
        refuse_special_bits()
        os.umask(0)
        argv = list(config["server"])
        os.execve(argv[0], argv, {"LC_ALL": "C"})
    except BaseException as exc:
        os.write(2, f"the folder cannot be served: {exc}\n".encode(errors="replace"))
    finally:
        os._exit(126)


def enclosed(config: t.Mapping[str, t.Any], space: int, folder: int, channel: int, errors: int) -> int:
    """Start the server of files, enclosed, and return its process id.

    space -- its user namespace; folder -- open; channel -- what it talks on; errors -- where it says what went wrong
    """
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        _call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _replace_streams(channel, channel, errors)
        _call("setns", space, _NEWUSER)
        os.fchdir(folder)
        _call("unshare", _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET)
        inner = os.fork()
        if inner:
            for handle in (0, 1, 2):
                os.close(handle)
            os._exit(0 if os.waitpid(inner, 0)[1] == 0 else 1)
        argv = list(config["server"])
        _become(config)
        _build_root(argv[0], config["uid"], config["gid"], config["read_only"])
        give_up_rights()
        _call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        refuse_special_bits()
        # The guest's process has applied its own.
        os.umask(0)
        os.execve(argv[0], argv, {"LC_ALL": "C"})
    except BaseException as exc:
        os.write(2, f"the folder cannot be served: {exc}\n".encode(errors="replace"))
    finally:
        os._exit(126)


def _replace_streams(stdin: int, stdout: int, stderr: int) -> None:
    """Have these be the standard streams, and no other file be open."""
    own = [os.dup(handle) for handle in (stdin, stdout, stderr)]
    for number, handle in enumerate(own):
        os.dup2(handle, number)
        if handle > 2:
            os.close(handle)


def plain(argv: t.Sequence[str], channel: int, errors: int) -> int:
    """Start a program that talks on a channel, and return its process id."""
    child = os.fork()
    if child:
        return child
    try:
        _call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _replace_streams(channel, channel, errors)
        os.execvp(argv[0], list(argv))
    except BaseException as exc:
        os.write(2, f"{argv[0]} cannot be run: {exc}\n".encode(errors="replace"))
    finally:
        os._exit(126)


# Going on


class Server:
    """What serves one folder. directory -- with its files; name -- of them; folder, space -- open, see enclosed()"""

    def __init__(self, name: str, config: t.Mapping[str, t.Any], folder: int, space: int) -> None:
        self.name = name
        self.config = config
        self.folder = folder
        self.space = space
        self.served = False
        self.told = ""
        self.share = 0
        self.status = os.stat(f"{name}.json")

    def tell(self, state: str, said: str = "") -> None:
        """Note how it goes. Where there is no room for that, it is not noted."""
        text = json.dumps({"state": state, "said": said.strip()[-_KEPT:]})
        if text == self.told:
            return
        self.told = text
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.name}.state.new")
            with open(f"{self.name}.state.new", "x", encoding="ascii") as stream:
                stream.write(text)
            os.replace(f"{self.name}.state.new", f"{self.name}.state")
        except OSError:
            return

    def is_wanted(self) -> bool:
        """Whether there still is what has said to serve this folder."""
        try:
            now = os.stat(f"{self.name}.json")
        except OSError:
            return False
        return (now.st_ino, now.st_mtime_ns) == (self.status.st_ino, self.status.st_mtime_ns)

    def obstacle(self) -> str:
        """Why the folder that is served is not the one that is meant any more; empty where it is."""
        try:
            there = os.stat(self.config["source"])
        except PermissionError:
            return ""  # only root with all its rights could tell
        except OSError as exc:
            return f"{self.config['source']}: {exc.strerror}"
        own = os.fstat(self.folder)
        same = (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)
        return "" if same else f"{self.config['source']} is another folder than before"

    def run_share(self) -> None:
        """The same for a hypervisor: serve until its end, or that of the server."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(f"{self.name}.sock")
            os.chmod(f"{self.name}.sock", 0o600)
            listener.listen(1)
            # A guest may have much said: what is more than a pipe holds is lost.
            reader, writer = os.pipe()
            os.set_blocking(writer, False)
            os.set_blocking(reader, False)
            self.share = sharing(self.config, self.space, self.folder, listener.fileno(), writer)
            os.close(writer)
        try:
            self.run()
        finally:
            if self._share_has_ended():
                said = b""
                with contextlib.suppress(BlockingIOError):
                    said = os.read(reader, 1 << 16)
                self.tell(FAILED, said.decode(errors="replace") or "what serves it has ended")
                self._abandon()
            _end(self.share)

    def _share_has_ended(self) -> bool:
        return bool(self.share) and os.waitid(os.P_PID, self.share, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _abandon(self) -> None:
        """Have the guest let go what is served no longer.

        The device stays: a guest whose device is taken away waits for answers that it was never given, and from then on
        it cannot shut down either.
        """
        with contextlib.suppress(OSError):
            silence = os.open("/dev/null", os.O_RDWR)
            child = plain(self.config["let_go"], silence, silence)
            handle = os.pidfd_open(child)
            select.select([handle], [], [], _LETTING_GO)
            _end(child)

    def run(self) -> None:
        """Serve until nobody wants it any more, or the guest is gone for long."""
        pause, last = _FIRST_PAUSE, time.monotonic()
        while True:
            said = self.session()
            if not self.served:
                self.tell(FAILED, said or "the guest ended the connection")
                return
            if self.told and json.loads(self.told)["state"] == MOUNTED:
                pause, last = _FIRST_PAUSE, time.monotonic()
            why = self.obstacle()
            if why or not self.is_wanted() or self._share_has_ended() or time.monotonic() - last > _PATIENCE:
                self.tell(FAILED, why or said or "the guest is gone")
                return
            self.tell(WAITING, said or "the guest ended the connection")
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def session(self) -> str:
        """Serve for as long as one connection to the guest lasts; what was said on standard error at the end."""
        ours, theirs = socket.socketpair()
        reader, writer = os.pipe()
        children = []
        try:
            if not self.config["listens"]:
                children.append(enclosed(self.config, self.space, self.folder, ours.fileno(), writer))
            children.append(plain(self.config["ssh"], theirs.fileno(), writer))
            theirs.close()
            if not self.config["listens"]:
                ours.close()
            os.close(writer)
            writer = -1
            return self._watch(children, reader)
        finally:
            for child in children:
                _end(child)
            ours.close()
            theirs.close()
            os.close(reader)
            if writer >= 0:
                os.close(writer)

    def _watch(self, children: t.Sequence[int], errors: int) -> str:
        said = b""
        poll = select.poll()
        handles = [os.pidfd_open(child) for child in (*children, *([self.share] if self.share else []))]
        for handle in (errors, *handles):
            poll.register(handle, select.POLLIN)
        looked = time.monotonic()
        try:
            while True:
                found = [handle for handle, dummy in poll.poll(_LOOK * 1000)]
                if errors in found:
                    data = os.read(errors, 1 << 14)
                    if not data:
                        poll.unregister(errors)
                    said = self._heard(said + data)
                elif found:
                    return said.decode(errors="replace")
                if time.monotonic() - looked >= _LOOK:
                    looked = time.monotonic()
                    why = self.obstacle()
                    if why or not self.is_wanted():
                        return why
        finally:
            for handle in handles:
                os.close(handle)

    def _heard(self, said: bytes) -> bytes:
        """Note what the guest tells of itself; what is left to be kept."""
        if IS_MOUNTED.encode() in said:
            self.served = True
            self.tell(MOUNTED)
            return b""
        if not self.served and IS_INSTALLING.encode() in said and IS_INSTALLING not in self.told:
            self.tell(STARTING, IS_INSTALLING)
        return said[-_KEPT:]


def _end(child: int) -> None:
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except OSError:
        return


def _finish(*_dummy: t.Any) -> None:
    raise SystemExit(0)


def main() -> None:
    """Arguments: the name of the files, in the working directory."""
    name = sys.argv[1]
    with open(f"{name}.json", encoding="utf-8") as stream:
        config = json.load(stream)
    signal.signal(signal.SIGTERM, _finish)
    # What runs on without this is not to hold the lock.
    for handle in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            os.set_inheritable(handle, handle <= 2)
    folder = os.open(config["source"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    space = new_user_namespace(config["uids"], config["gids"])
    if os.geteuid() == 0:
        give_up_rights()
    server = Server(name, config, folder, space)
    server.tell(STARTING)
    if config["listens"]:
        server.run_share()
    else:
        server.run()


if __name__ == "__main__":
    main()
