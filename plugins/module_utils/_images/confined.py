# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The one way in which programs get to see a disk that somebody else wrote: an image, or what a guest has made of one.

Such a disk can name other files as its parent, its backing or its data, and a reader of so many formats may have
faults. So the program runs enclosed: in a root directory that has shared libraries, the program and the files that it
was handed as /disk/0, /disk/1 …, and nothing else; in a network of its own that leads nowhere; with bounds on time,
memory and what it writes. qemu-img takes no open files from its caller, and what is opened again through /proc is asked
for its permissions anew; therefore the files are bound into that root, and each is compared with the open file that was
looked at before: nobody can put another one in its place meanwhile.

Root's programs run as `nobody` and without capabilities but for one: CAP_DAC_OVERRIDE, so that no file has to be made
readable for others. It opens what can be named, and in that root nothing can be named but what was handed in and the
shared libraries of this host; all of that but what is to be written is mounted read-only. The programs of an ordinary
user run in a user namespace of his own, without any capability. Where the kernel makes no such namespaces (confined()
is False), nothing but the bounds is left; then inspect() of disk.py takes only formats in which QEMU looks for no other
file once a backing file is ruled out.

QemuImg is for disks: a chain of layers, the first of which is what a guest sees. Formats and backing are what the chain
says, never what a header says, and a header that names a data file is refused:

    tool = QemuImg(runtime, "the image x")
    tool.info([Layer(path, "qcow2")])                                       # what QEMU itself sees
    tool.convert([Layer(disk, "qcow2"), Layer(base, "qcow2")], target, "raw", size)

run() is for other programs, such as e2fsck.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import struct
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    CommandFailed,
    ImageError,
    NoSpace,
)
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._json import (
    JsonError,
    parse_json,
    understood,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime

# No disk of an instance is larger, and some formats can tell of 8 EiB in a few bytes.
LARGEST = 64 << 40

FLATTEN = "Make it whole first, with `qemu-img convert -O qcow2` where its other files are."

# What a program may take: seconds (of the clock and of the processor), bytes of memory.
_PATIENCE = 600
_PACE = 4 << 20  # bytes a second that a conversion makes at least
_MEMORY = 2 << 30
_LONGEST_ANSWER = 16 << 20

# What a file is called for the program, but for its number.
_DISK = "/disk/"

# How a command ends that has had more of the processor than it may, also where unshare tells of it.
_OUT_OF_TIME = (128 + 24, -24)

_ENCLOSED = "minicloud: enclosed"
_REPLACED = "minicloud: replaced"

# Arguments: setpriv, its options up to --, the program, how many files, path, descriptor and ro or rw of each, and then
# the program's own arguments. Everything is mounted over /sys, which has no file that could be handed in.
_SCRIPT = rf"""
set -e
PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin
cd /
mount -n -t tmpfs -o mode=0755,size=1m,nosuid,nodev none /sys
mkdir -p /sys/disk /sys/dev /sys/etc /sys/usr/bin /sys/usr/sbin /sys/usr/local
bind() {{
  mount -n --bind "$1" "$2"
  # A step of its own: this way the mount keeps its other bounds (nodev …), which an ordinary user cannot take from it.
  mount -n -o remount,bind,ro "$2"
}}
for each in /usr/lib /usr/lib32 /usr/lib64 /usr/libx32 /usr/local/lib /lib /lib32 /lib64 /libx32 /nix/store /gnu/store
do
  if [ -L "$each" ]; then
    ln -s "$(readlink "$each")" "/sys$each"
  elif [ -d "$each" ]; then
    mkdir -p "/sys$each"
    bind "$each" "/sys$each"
  fi
done
place() {{
  if [ ! -e "/sys$1" ]; then
    [ -d "/sys${{1%/*}}" ] || mkdir -p "/sys${{1%/*}}"
    : >"/sys$1"
    bind "$1" "/sys$1"
  fi
}}
setpriv=$1
shift
options=
while [ "$1" != -- ]; do
  options="$options $1"
  shift
done
program=$2
count=$3
shift 3
place "$setpriv"
place "$program"
place /dev/null
[ ! -e /etc/ld.so.cache ] || place /etc/ld.so.cache
number=0
while [ "$number" -lt "$count" ]; do
  : >"/sys/disk/$number"
  mount -n --bind "$1" "/sys/disk/$number"
  if [ ! "/sys/disk/$number" -ef "/proc/self/fd/$2" ]; then
    echo "{_REPLACED}" >&2
    exit 1
  fi
  [ "$3" = rw ] || mount -n -o remount,bind,ro "/sys/disk/$number"
  shift 3
  number=$((number + 1))
done
echo "{_ENCLOSED}" >&2
exec env -i LC_ALL=C unshare --root=/sys --wd=/disk "$setpriv" $options -- "$program" "$@"
"""

# Why this host has no enclosure; None until that is known.
_obstacle: str | None = None


class File(t.NamedTuple):
    """A file that a program gets to see; it must be a regular one. writable -- whether it may be changed"""

    path: str
    writable: bool = False


class Layer(t.NamedTuple):
    """One file of a disk, and the format that it has whatever else its content might be taken for."""

    path: str
    format: str


def confined(runtime: Runtime) -> bool:
    """Whether programs can be enclosed on this host."""
    if _obstacle is None:
        run(runtime, runtime.program("true", "coreutils"), lambda dummy: [], [])
    return not _obstacle


def run(
    runtime: Runtime,
    program: str,
    arguments: t.Callable[[t.Sequence[str]], t.Sequence[str]],
    files: t.Sequence[File],
    stdin: bytes | None = None,
    seconds: float = _PATIENCE,
    writes: int = 0,
) -> Completed:
    """Run a program that sees nothing but some files.

    program -- its path; arguments -- from the names that the files have for it; seconds -- after which it is ended
    writes -- the largest size that it may give a file, bytes
    ImageError where a file is none or was replaced meanwhile, or the time was up.
    """
    global _obstacle
    program = os.path.realpath(program)
    with contextlib.ExitStack() as stack:
        descriptors = [_opened(file, stack) for file in files]
        if not _obstacle:
            argv = [*_bounds(runtime, seconds, writes), *_enclosure(runtime, program, files, descriptors)]
            argv += arguments([f"{_DISK}{number}" for number in range(len(files))])
            done = _run(runtime, argv, stdin, descriptors, seconds)
            before, mark, after = done.err.partition(f"{_ENCLOSED}\n")
            if mark:
                _obstacle = ""
                return done._replace(err=after)
            if _REPLACED in before:
                raise ImageError(
                    f"{' or '.join(file.path for file in files)} was not read",
                    "another file was put in its place meanwhile",
                    "Run this again, with a directory that nobody else writes in.",
                )
            if _obstacle == "":
                # It could be done a moment ago: this is no reason to go without.
                raise ImageError("a disk was not read", f"it could not be enclosed: {before.strip()[-500:]}")
            _obstacle = before.strip() or f"unshare ended with status {done.rc}"
        argv = [
            *_bounds(runtime, seconds, writes),
            program,
            *arguments([f"/dev/fd/{each}" for each in descriptors]),
        ]
        return _run(runtime, argv, stdin, descriptors, seconds)


def _opened(file: File, stack: contextlib.ExitStack) -> int:
    with explained(f"{file.path} could not be opened"):
        flags = os.O_RDWR if file.writable else os.O_RDONLY
        descriptor = os.open(file.path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise ImageError(f"{file.path} was not read", "it is not a regular file", "Give the path of a file.")
    return descriptor


def _bounds(runtime: Runtime, seconds: float, writes: int) -> list[str]:
    """What ends a program at the latest, and with this run."""
    purpose = "to keep programs that read disks within bounds"
    setpriv = runtime.program("setpriv", "util-linux", purpose)
    limit = int(seconds)
    return [
        *(setpriv, "--pdeathsig", "KILL", "--", runtime.program("prlimit", "util-linux", purpose)),
        *("--core=0", f"--cpu={limit * 4}", f"--data={_MEMORY}", f"--fsize={writes}", "--nofile=1024", "--"),
    ]


def _enclosure(runtime: Runtime, program: str, files: t.Sequence[File], descriptors: t.Sequence[int]) -> list[str]:
    """The command that the program's own arguments follow."""
    purpose = "to enclose programs that read disks"
    argv = [runtime.program("unshare", "util-linux", purpose)]
    argv += ["--mount", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child"]
    options = ["--no-new-privs"]
    if os.geteuid() != 0:
        argv += ["--user", "--map-root-user"]
        options += ["--bounding-set=-all", "--inh-caps=-all"]
    else:
        uid, gid = _nobody()
        kept = "-all,+dac_override"
        options += [f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        options += [f"--bounding-set={kept}", f"--inh-caps={kept}", f"--ambient-caps={kept}"]
    setpriv = os.path.realpath(runtime.program("setpriv", "util-linux", purpose))
    argv += ["--", "sh", "-c", _SCRIPT, "sh", setpriv, *options, "--", program, str(len(files))]
    for file, descriptor in zip(files, descriptors):
        argv += [os.path.realpath(file.path), str(descriptor), "rw" if file.writable else "ro"]
    return argv


def _nobody() -> tuple[int, int]:
    import pwd

    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return 65534, 65534
    return (entry.pw_uid, entry.pw_gid) if entry.pw_uid and entry.pw_gid else (65534, 65534)


def _run(
    runtime: Runtime, argv: t.Sequence[str], stdin: bytes | None, descriptors: t.Sequence[int], seconds: float
) -> Completed:
    try:
        done = runtime.run(argv, stdin=stdin, pass_fds=descriptors, timeout=seconds, limit=_LONGEST_ANSWER)
        if done.rc not in _OUT_OF_TIME:
            return done
        said = ""
    except CommandFailed as exc:
        if "exceeded" not in exc.facts:
            raise
        said = exc.why
    raise ImageError(
        "a disk was not read to its end",
        said or "that took too much time",
        "If the disk is a good one, make it smaller, or convert it on a faster machine first.",
    )


class QemuImg:
    """qemu-img for disks that others wrote. what -- the disk, for errors, such as `the image x`"""

    def __init__(self, runtime: Runtime, what: str) -> None:
        self._runtime = runtime
        self._what = what
        self._program = runtime.program("qemu-img", "qemu-utils", "to work on disks")

    def info(self, chain: t.Sequence[Layer]) -> dict[str, t.Any]:
        """What QEMU sees in the first layer: its format, virtual-size (bytes), format-specific data.

        ImageError where that is anything but one whole disk in this very file (or, in a chain, above the next one).
        """
        # It never opens what is below, and does not take it either.
        done = self._run("info", ["--output=json"], chain[:1], below=len(chain) > 1)
        found = self._answer(done, chain[0].format)
        _check_info(found, chain[0].format, len(chain) > 1, self._what)
        return found

    def check(self, path: str) -> dict[str, t.Any]:
        """What `qemu-img check` finds in a qcow2 file: corruptions, check-errors, allocated-clusters …"""
        return self._answer(self._run("check", ["--output=json"], [Layer(path, "qcow2")]), "qcow2", (0, 2, 3))

    def measure(self, chain: t.Sequence[Layer]) -> int:
        """The bytes that the disk will take as qcow2."""
        done = self._run("measure", ["--output=json", "-O", "qcow2"], chain)
        return int(self._answer(done, chain[0].format)["required"])

    def convert(self, chain: t.Sequence[Layer], target: str, format_: str, size: int, snapshot: str = "") -> None:
        """Write the whole disk to a new file TARGET, as raw or qcow2. size -- of the disk, bytes

        snapshot -- the tag of an internal one, as of which it is to be
        CommandFailed with what qemu-img said; NoSpace. Nothing is left of the target then.
        """
        options = ["-W", "-m", "8", "-O", format_, *(["-o", "compat=1.1"] if format_ == "qcow2" else [])]
        options += ["-l", f"snapshot.name={snapshot}"] if snapshot else []
        with explained(f"{target} could not be made"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(target, flags, 0o600))
        try:
            self._check(self._run("convert", options, chain, target, _time(size), _most(size)))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(target)
            raise

    def resize(self, chain: t.Sequence[Layer], size: int) -> None:
        """Make the disk larger, bytes; the first layer is changed. CommandFailed, NoSpace."""
        self.info(chain)
        writes = max(size, os.stat(chain[0].path).st_size) + size // 8 + (64 << 20)
        done = self._run("resize", ["-q"], chain, writes=writes, after=[str(size)], writable=1)
        self._check(done)

    def shrink(self, path: str, size: int) -> None:
        """Cut a qcow2 file that only has zeros beyond a size, bytes, down to that. CommandFailed, NoSpace."""
        writes = _most(os.path.getsize(path))
        done = self._run(
            "resize", ["-q", "--shrink"], [Layer(path, "qcow2")], "", writes=writes, after=[str(size)], writable=1
        )
        self._check(done)

    def difference(self, target: str, whole: str, below: str) -> None:
        """Make a new qcow2 file TARGET that reads as WHOLE does when it is above BELOW, and has only what differs.

        Both are qcow2 files that are backed by nothing. CommandFailed, NoSpace.
        """
        size = int(self.info([Layer(whole, "qcow2")])["virtual-size"])
        self.overlay(target, whole, size)
        files = [File(target, True), File(whole), File(below)]

        def arguments(names: t.Sequence[str]) -> list[str]:
            layers = [Layer(each, "qcow2") for each in (target, whole, below)]
            node, new = _node(layers[:2], names[:2]), _node(layers[2:], names[2:])
            return ["rebase", "-q", "-b", f"json:{json.dumps(new)}", "-F", "qcow2", f"json:{json.dumps(node)}"]

        self._check(run(self._runtime, self._program, arguments, files, None, _time(size), _most(size)))
        self.name_backing([Layer(target, "qcow2"), Layer(below, "qcow2")])

    def overlay(self, target: str, below: str, size: int) -> None:
        """Make a new, empty qcow2 file TARGET above another one, which is not looked at. CommandFailed, NoSpace."""
        argv = [self._program, "create", "-q", "-u", "-f", "qcow2", "-b", below, "-F", "qcow2", target, str(size)]
        self._runtime.check(argv, f"{self._what} could not be made")
        with explained(f"{target} could not be made private"):
            os.chmod(target, 0o600)

    def commit(self, chain: t.Sequence[Layer]) -> None:
        """Write what the first layer has into the second, which grows if need be. CommandFailed, NoSpace.

        The chain reads as before at each moment of this, also where it is ended, and it can be done again.
        """
        size = int(self.info(chain)["virtual-size"])
        self.info(chain[1:])
        self._check(self._run("commit", ["-q", "-d"], chain, writes=_most(size), writable=2, seconds=_time(size)))

    def rebase(self, chain: t.Sequence[Layer], base: Layer) -> None:
        """Have the first layer be backed by the last one, BASE, and read as before. CommandFailed, NoSpace.

        Where this is ended, the first layer is worth nothing: it should be a copy.
        """
        size = int(self.info(chain)["virtual-size"])
        for layer in chain[1:-1]:
            refuse_other_files(layer.path, self._what, backing=True)
        files = [File(layer.path, layer is chain[0]) for layer in chain]

        def arguments(names: t.Sequence[str]) -> list[str]:
            below = json.dumps(_node([base], names[-1:]))
            return ["rebase", "-q", "-b", f"json:{below}", "-F", base.format, f"json:{json.dumps(_node(chain, names))}"]

        self._check(run(self._runtime, self._program, arguments, files, None, _time(size), _most(size)))
        # The message names a file that the user can look at.
        self.name_backing([chain[0], base])

    def name_backing(self, chain: t.Sequence[Layer]) -> None:
        """Have the header of the first layer name the second; what it reads as does not change. CommandFailed"""
        named = ["-u", "-b", chain[1].path, "-F", chain[1].format]
        writes = _most(os.path.getsize(chain[0].path))
        self._check(self._run("rebase", ["-q", *named], chain[:1], writes=writes, writable=1, below=True))

    def _run(
        self,
        command: str,
        options: t.Sequence[str],
        chain: t.Sequence[Layer],
        target: str = "",
        seconds: float = _PATIENCE,
        writes: int = 0,
        after: t.Sequence[str] = (),
        writable: int = 0,
        below: bool = False,
    ) -> Completed:
        """writable -- how many of the layers may be changed, from the first on"""
        for layer in chain:
            if layer.format == "qcow2":
                refuse_other_files(layer.path, self._what, backing=below or layer is not chain[-1])
        files = [File(layer.path, number < writable) for number, layer in enumerate(chain)]
        files += [File(target, True)] if target else []

        def arguments(names: t.Sequence[str]) -> list[str]:
            node = json.dumps(_node(chain, names))
            return [command, *options, f"json:{node}", *([names[-1]] if target else []), *after]

        return run(self._runtime, self._program, arguments, files, None, seconds, writes)

    def _answer(self, done: Completed, format_: str, good: t.Container[int] = (0,)) -> dict[str, t.Any]:
        told = first_line(done.err) or f"qemu-img cannot read it as {format_}"
        if done.rc in good:
            with contextlib.suppress(JsonError):
                found = parse_json(done.out.encode(errors="replace"), "its report", _LONGEST_ANSWER, 32)
                if isinstance(found, dict):
                    return found
        raise damaged(self._what, told)

    def _check(self, done: Completed) -> None:
        if done.rc == 0:
            return
        why = first_line(done.err) or f"qemu-img ended with status {done.rc} and said nothing"
        what = f"{self._what} was not written"
        if any(words in why for words in ("No space left", "Disk quota")):
            raise NoSpace(what, why, "Free some space on that file system, or use another data_dir.")
        raise CommandFailed(what, why, rc=done.rc, stderr=done.err)


def _time(size: int) -> float:
    """Seconds that a program may take for all of a disk of so many bytes."""
    return _PATIENCE + size / _PACE


def _most(size: int) -> int:
    """Bytes that a disk of so many takes at most: what a qcow2 file has beside its data is far less than an eighth."""
    return size + size // 8 + (64 << 20)


def _node(chain: t.Sequence[Layer], names: t.Sequence[str]) -> dict[str, t.Any]:
    """The chain as QEMU's block nodes: what is not named here is not opened."""
    node: dict[str, t.Any] | None = None
    for layer, name in reversed(list(zip(chain, names))):
        node = {
            "driver": layer.format,
            "file": {"driver": "file", "filename": name},
            **({"backing": node} if layer.format in ("qcow2", "vmdk") else {}),
        }
    return t.cast("dict[str, t.Any]", node)


@understood("what qemu-img reports", ImageError)
def _check_info(found: t.Mapping[str, t.Any], format_: str, backed: bool, what: str) -> None:
    """Raise unless what QEMU reports of a disk is one whole disk in one file."""
    if found.get("format") != format_:
        raise damaged(what, f"QEMU takes it for {found.get('format')}, and it should be {format_}")
    size = found.get("virtual-size")
    if not isinstance(size, int) or not 0 < size <= LARGEST:
        raise damaged(what, f"its disk has {size} bytes, and a disk has at most {LARGEST >> 40} TiB")
    if found.get("encrypted"):
        raise encrypted(what)
    special = found.get("format-specific") or {}
    data = special.get("data") or {}
    if data.get("data-file") or data.get("data-file-raw"):
        raise foreign(what, "it keeps its data in another file, which it names")
    if not backed and (found.get("backing-filename") or found.get("full-backing-filename")):
        raise foreign(what, "it is an overlay: it contains only what differs from another file, which it names")
    if data.get("corrupt"):
        raise damaged(what, "it is marked as corrupt")
    if format_ == "vmdk":
        extents = data.get("extents") or []
        if data.get("create-type") not in ("monolithicSparse", "streamOptimized") or len(extents) != 1:
            raise foreign(what, f"it is a vmdk image of the kind {data.get('create-type')}, with data elsewhere")
        if extents[0].get("filename") != f"{_DISK}0" or data.get("parent-cid") != 0xFFFFFFFF:
            raise foreign(what, "it names another file as its data or its parent")


def refuse_other_files(path: str, what: str, backing: bool = False) -> None:
    """ImageError where a qcow2 file keeps data in another one or is encrypted, or has a backing file and may not.

    QEMU asks the same bits of the header. backing -- whether it may name one, which its user gives explicitly
    """
    with explained(f"{path} could not be read"), open(path, "rb") as stream:
        head = stream.read(104)
    if len(head) < 72 or not head.startswith(b"QFI\xfb"):
        raise damaged(what, "it does not begin as a qcow2 image does")
    version, offset = struct.unpack(">IQ", head[4:16])
    if version not in (2, 3) or (version == 3 and len(head) < 104):
        raise damaged(what, f"its header is not one of qcow2 (version {version})")
    if offset and not backing:
        raise foreign(what, "it is an overlay: it contains only what differs from another file, which it names")
    if struct.unpack(">I", head[32:36])[0]:
        raise encrypted(what)
    if version == 3 and struct.unpack(">Q", head[72:80])[0] & 4:
        raise foreign(what, "it keeps its data in another file, which it names")


def virtual_size(path: str, what: str) -> int:
    """Bytes of the disk in a qcow2 file that has its data in itself, by its header. Else ImageError"""
    refuse_other_files(path, what, backing=True)
    with explained(f"{path} could not be read"), open(path, "rb") as stream:
        head = stream.read(32)
    (size,) = struct.unpack(">Q", head[24:32])
    if not 0 < size <= LARGEST:
        raise damaged(what, f"its disk has {size} bytes, and a disk has at most {LARGEST >> 40} TiB")
    return int(size)


def damaged(what: str, why: str) -> ImageError:
    return ImageError(
        f"{what} is damaged", why, "Fetch or copy it anew, and compare its checksum with the publisher's."
    )


def foreign(what: str, why: str) -> ImageError:
    return ImageError(
        f"{what} is refused",
        why,
        FLATTEN,
    )


def encrypted(what: str) -> ImageError:
    return ImageError(f"{what} is refused", "it is encrypted", "Decrypt it with `qemu-img convert`, where its key is.")


def first_line(text: str) -> str:
    """What qemu-img says went wrong."""
    line = (text.strip().splitlines() or [""])[0].replace("qemu-img: ", "", 1)
    return re.sub(r"'json:\{.*\}'", "it", line)
