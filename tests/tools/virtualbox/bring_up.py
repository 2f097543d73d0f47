# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real VirtualBox for tests, from Debian's packages, without its kernel module and without touching the machine.

    bring_up.py build PREFIX            fetch the packages and put VirtualBox together in the directory PREFIX
    bring_up.py enter PREFIX -- CMD…    run a command that sees it at its place, /usr/lib/virtualbox, in PATH

VBoxManage, VBoxSVC, the virtual machine monitor and its devices are Debian's, apart from where they find their
libraries. Two things are ours: the launcher (launcher.c) in place of VBoxHeadless, which has VirtualBox interpret
guests; and a setting that allows it. So guests are real and slow: a sector of code does well, a distribution does not.

`build` ends with the status 77 where the packages cannot be had, and says why. Takes root, and Debian or the like on
x86_64. What was built for the same packages is kept.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import typing as t

HERE = os.path.dirname(os.path.abspath(__file__))
# Where VirtualBox's programs look for each other: their own code has it.
PLACE = "/usr/lib/virtualbox"
LIBRARIES = "/usr/lib"
# The release of Debian that has VirtualBox, in its area for what depends on things outside of Debian.
SUITE, AREAS = "sid", "main contrib"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Of the libraries that the package depends on, those of desktops; and those that its dependencies only mention.
UNWANTED = re.compile(r"lib(gl1|sdl2|x11|xt6|vncserver|gsoap)")
NO_LIBRARIES = re.compile(r"lib(c-bin|c-dev|pam|systemd)")
LIBRARY = re.compile(r"lib[a-z0-9]")
EXTRA = ("libpng16-16t64",)
PROGRAMS = ("VBoxManage", "VBoxSVC", "VBoxExtPackHelperApp", "vbox-img")
KEPT = (*PROGRAMS, "VBoxSysInfo.sh")
# What makes any virtual machine start without the kernel module.
SETTING = ("VBoxInternal/HM/FallbackToIEM", "1")
SKIPPED = 77


class NotToBeHad(Exception):
    """There is no VirtualBox for this machine; the text says why."""


def run(argv: t.Sequence[str], **kwargs: t.Any) -> str:
    """Run a command that must succeed; what it says on standard output."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **kwargs)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise NotToBeHad(f"{' '.join(argv[:1])} {argv[-1]} failed: {said[-1] if said else done.returncode}")
    return done.stdout


class Archive:
    """Debian's packages of SUITE, with lists of their own: nothing of this machine's apt is changed."""

    def __init__(self, work: str) -> None:
        self.work = work
        for name in ("lists/partial", "cache/archives/partial", "debs"):
            os.makedirs(os.path.join(work, name))
        source = os.path.join(work, "sources.list")
        with open(source, "w", encoding="ascii") as file:
            file.write(f"deb [signed-by={KEYRING} check-valid-until=no] {mirror()} {SUITE} {AREAS}\n")
        status = os.path.join(work, "status")
        with open(status, "w", encoding="ascii"):
            pass
        places = {
            "Dir::Etc::sourcelist": source,
            "Dir::Etc::sourceparts": "-",
            "Dir::State::Lists": os.path.join(work, "lists"),
            "Dir::Cache": os.path.join(work, "cache"),
            "Dir::State::status": status,
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "APT::Sandbox::User": "root",
        }
        self.options = ["-qq", *(f"-o{key}={value}" for key, value in places.items())]

    def update(self) -> None:
        """Fetch the lists."""
        run(["apt-get", *self.options, "update"], timeout=300)

    def field(self, package: str, name: str) -> str:
        """A field of a package."""
        shown = run(["apt-cache", *self.options, "show", package])
        found = re.search(rf"^{name}: (.*)$", shown, re.MULTILINE)
        if not found:
            raise NotToBeHad(f"Debian's {SUITE} has no {package}")
        return found[1]

    def libraries(self) -> list[str]:
        """The packages of all libraries that VirtualBox's programs without windows need."""
        names = [re.split(r"[ (:]", each.strip())[0] for each in self.field("virtualbox", "Depends").split(",")]
        roots = [name for name in names if name.startswith("lib") and not UNWANTED.match(name)]
        kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances", "pre-depends")
        argv = ["apt-cache", *self.options, "depends", "--recurse", *(f"--no-{kind}" for kind in kinds)]
        found = run([*argv, *roots, *EXTRA]).splitlines()
        return sorted({line for line in found if LIBRARY.match(line) and not NO_LIBRARIES.match(line)})

    def unpack(self, packages: t.Sequence[str], target: str) -> None:
        """Fetch packages and unpack what is in them."""
        debs = os.path.join(self.work, "debs")
        run(["apt-get", *self.options, "download", *packages], cwd=debs, timeout=1200)
        for path in sorted(glob.glob(os.path.join(debs, "*.deb"))):
            run(["dpkg", "-x", path, target])


def mirror() -> str:
    """The archive that this machine has its own packages from."""
    for path in ("/etc/apt/sources.list", *glob.glob("/etc/apt/sources.list.d/*")):
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except OSError:
            continue
        found = re.search(r"^(?:URIs:|deb(?: \[[^]]*\])?) *(https?://[^ ]*/debian)/?(?: |$)", text, re.MULTILINE)
        if found:
            return found[1]
    raise NotToBeHad("this machine has no source of Debian's packages")


def build(prefix: str) -> str:
    """Put VirtualBox together in the directory PREFIX, unless it is there already; its version."""
    stamp = os.path.join(prefix, "built.json")
    for program in ("apt-get", "dpkg", "gcc", "unshare", "mount"):
        if not shutil.which(program):
            raise NotToBeHad(f"there is no {program}")
    if platform.machine() != "x86_64" or os.geteuid() != 0:
        raise NotToBeHad("that takes root, and x86_64")
    with tempfile.TemporaryDirectory() as work:
        archive = Archive(work)
        archive.update()
        version = archive.field("virtualbox", "Version")
        with open(__file__, "rb") as own, open(os.path.join(HERE, "launcher.c"), "rb") as launcher:
            made_of = {"version": version, "by": [hash_of(own.read()), hash_of(launcher.read())]}
        try:
            with open(stamp, encoding="ascii") as file:
                if json.load(file) == made_of:
                    return version
        except (OSError, ValueError):
            pass
        shutil.rmtree(prefix, ignore_errors=True)
        unpacked, tool = os.path.join(work, "unpacked"), os.path.join(work, "tool")
        archive.unpack([*archive.libraries(), "virtualbox"], unpacked)
        # This one is for the machine that it runs on, so it is of the machine's own release.
        run(["apt-get", "-qq", "download", "patchelf"], cwd=work, timeout=300)
        run(["dpkg", "-x", *glob.glob(os.path.join(work, "patchelf_*.deb")), tool])
        place(unpacked, os.path.join(prefix, "virtualbox"), os.path.join(tool, "usr", "bin", "patchelf"))
    with open(stamp, "w", encoding="ascii") as file:
        json.dump(made_of, file)
    return version


def hash_of(data: bytes) -> str:
    """A short fingerprint."""
    import hashlib

    return hashlib.sha256(data).hexdigest()[:16]


def place(unpacked: str, target: str, patchelf: str) -> None:
    """Make the directory that is to be seen at PLACE: programs that find Debian's newer libraries in there."""
    own = os.path.join(target, "lib")
    os.makedirs(own, mode=0o755)
    source = os.path.join(unpacked, "usr", "lib", "virtualbox")
    for name in os.listdir(source):
        path = os.path.join(source, name)
        if name in KEPT or (name.endswith((".so", ".r0", ".fd", ".rom")) and "Arm" not in name and "arm" not in name):
            shutil.copy(path, os.path.join(target, name), follow_symlinks=False)
        elif name == "components":
            shutil.copytree(path, os.path.join(target, name))
    for path in glob.glob(os.path.join(unpacked, "usr", "lib", "x86_64-linux-gnu", "*.so*")):
        shutil.copy(path, own, follow_symlinks=False)
    launcher = os.path.join(target, "VBoxHeadless")
    run(["gcc", "-O1", "-Wall", "-o", launcher, os.path.join(HERE, "launcher.c"), "-ldl"])
    loader = os.path.join(PLACE, "lib", "ld-linux-x86-64.so.2")
    for name in (*PROGRAMS, "VBoxHeadless"):
        path = os.path.join(target, name)
        os.chmod(path, 0o755)
        run([patchelf, "--set-interpreter", loader, "--set-rpath", f"{PLACE}:{PLACE}/lib", path])
    for path in [*glob.glob(os.path.join(target, "*.so")), *glob.glob(os.path.join(target, "components", "*.so"))]:
        run([patchelf, "--set-rpath", f"{PLACE}:{PLACE}/lib", path])
    for path in glob.glob(os.path.join(own, "*.so*")):
        if not os.path.islink(path) and not os.path.basename(path).startswith(("ld-linux", "libc.so")):
            run([patchelf, "--set-rpath", f"{PLACE}/lib", path])
    for top, dummy, names in os.walk(target):
        os.chmod(top, 0o755)
        for name in names:
            path = os.path.join(top, name)
            if not os.path.islink(path):
                os.chmod(path, os.stat(path).st_mode & 0o755)


def enter(prefix: str, argv: t.Sequence[str]) -> t.NoReturn:
    """Become a command that sees VirtualBox at its place: this process alone has it mounted there."""
    layer = f"lowerdir={os.path.abspath(prefix)}:{LIBRARIES}"
    script = 'mount -t overlay overlay -o "$1" "$2" && shift 2 && exec "$@"'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", layer, LIBRARIES, *argv]
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:{PLACE}"
    os.execvp(command[0], command)


def main() -> int:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build").add_argument("prefix")
    entering = commands.add_parser("enter")
    entering.add_argument("prefix")
    entering.add_argument("argv", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.command == "enter":
        enter(arguments.prefix, [each for each in arguments.argv if each != "--" or each is not arguments.argv[0]])
    try:
        sys.stdout.write(f"{build(arguments.prefix)}\n")
    except (NotToBeHad, subprocess.TimeoutExpired) as exc:
        sys.stdout.write(f"VirtualBox cannot be had here: {exc}\n")
        return SKIPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
