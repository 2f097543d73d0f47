# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the Makefile calls: installs the tools, stages the collection where Ansible looks for it, runs the tests.

Needs Python 3.9 and git, nothing else; the rest it installs itself, into .venv and .build of this checkout,
into ansible-test's own cache below ~/.ansible/test, and (Debian packages, for the integration tests) with apt.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import fcntl
import functools
import glob
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import typing as t

import backports
import drivers
import hypervisors
import pictures

# The versions of ansible-core that the collection supports, and the Pythons that can run each.
CORES: dict[str, tuple[str, ...]] = {
    "2.21": ("3.13", "3.12", "3.14"),
    "2.20": ("3.13", "3.12", "3.14"),
    "2.19": ("3.11", "3.12", "3.13"),
}
NEWEST = "2.21"
# Those that are tested unless --core names one: the newest and the oldest.
TESTED_CORES = (NEWEST, "2.19")
TARGET_PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
# Where ansible-test runs the unit tests, each in a process of its own: all on the oldest Python, those of what meets
# Ansible on each ansible-core. pytest by itself runs all on the newest, in a third of the time. (Sanity tests compile
# and import with the Pythons in between; `unit --all-pythons` runs all unit tests on them, with each ansible-core.)
UNIT_PYTHONS: dict[str, tuple[str, ...]] = {"2.21": ("3.9",), "2.20": ("3.12",), "2.19": ("3.11",)}
UNIT_TESTS_OF_OTHER_CORES = tuple(
    f"tests/unit/plugins/{name}"
    for name in ("action/", "callback/", "connection/", "filter/", "inventory/", "module_utils/test__module.py")
)

# Integration targets that must exist: those that use the daemons of this machine's LXD or libvirt, of which there is
# one, so that they run one after another; and the others, the longest first.
TARGETS_ON_DAEMONS: tuple[str, ...] = ("conformance", "switch", "crash", "owner")
OTHER_TARGETS: tuple[str, ...] = (
    "guest",
    "network",
    "systemd",
    "rootless",
    "bridged",
    "faults",
    "image",
    "cluster",
    "autostart",
)
# Those of them that run on the oldest ansible-core too.
INTEGRATION_TARGETS_OF_OTHER_CORES: tuple[str, ...] = ("conformance",)
# With which variables: what differs between versions of ansible-core lies above the drivers.
VARIABLES_OF_OTHER_CORES = {
    "conformance_only": ["qemu"],
    "conformance_cases": ["refusals", "launch", "change", "mounts", "snapshots", "cloud"],
    "conformance_by_module": True,
}
# What the command line gives the targets.
GIVEN_VARIABLES: dict[str, str] = {}
# Whose demos are run. libvirt's instances are those of QEMU; a container of LXD is quickly there.
DEMO_DRIVERS: tuple[str, ...] = ("qemu", "lxd")
DEMOS_ON_DAEMONS: tuple[str, ...] = ("lxd",)

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, ".build")
VENVS = os.path.join(ROOT, ".venv")
INTEGRATION = os.path.join(BUILD, "integration")
COLLECTION = os.path.join("ansible_collections", "minicloud", "local")
# What is left alone, and left out, when the collection is staged.
NOT_STAGED = {".git", ".build", ".venv", ".ansible", ".mypy_cache", ".ruff_cache", ".pytest_cache", "__pycache__"}
NOISE = re.compile(r"^WARNING: (Location '|Reviewing previous|Skipping page|Using locale)|^\s*$")
# What pip says when ansible-test installs something.
PIP_CHATTER = (
    r"^(Installing requirements for|Using cached|Looking in|Collecting|Requirement already|Installing collected"
    r"|Successfully installed|Processing|Downloading|Created Python|Creating container|Ignoring )"
    r"|^ +(Downloading|Using cached|━)"
)
TIME_LIMIT = 30 * 60  # seconds for one command


class Stop(Exception):
    """Nothing more can be done before a person has acted; the text says what to do."""


class Result(t.NamedTuple):
    """One line of the closing table. ok is None for what was skipped."""

    stage: str
    ok: bool | None
    seconds: float
    note: str


RESULTS: list[Result] = []


class Job(t.NamedTuple):
    """Work that can be done beside other work.

    run -- does it, given the name of the lane that it runs in; on_daemons -- whether not beside another such job
    """

    run: t.Callable[[str], None]
    on_daemons: bool = False


LANES = ("1", "2")
# Set when no lane is to go on.
ENDING = threading.Event()


def say(text: str) -> None:
    """Print now, also when the output is a pipe, and in one piece beside other lanes."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


# Running commands


class Command(t.NamedTuple):
    """How a command ended."""

    rc: int
    out: str
    seconds: float
    log: str


def execute(name: str, argv: t.Sequence[str], cwd: str = ROOT, env: t.Mapping[str, str] | None = None) -> Command:
    """Run to the end, without input. The output goes to a log; a long run tells now and then where it is.

    Stop where another lane has ended all.
    """
    log = os.path.join(BUILD, "logs", re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-") + ".log")
    os.makedirs(os.path.dirname(log), exist_ok=True)
    lines: list[str] = []
    start = time.monotonic()
    process = subprocess.Popen(
        argv,
        cwd=cwd,
        env=dict(env or os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )

    def read() -> None:
        assert process.stdout
        with open(log, "w", encoding="utf-8") as file:
            file.write(f"# {' '.join(argv)}\n")
            for line in process.stdout:
                if not NOISE.search(line):
                    lines.append(line.rstrip())
                    file.write(line)
                    file.flush()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    told = 0.0
    try:
        while True:
            try:
                process.wait(1)
                break
            except subprocess.TimeoutExpired:
                passed = time.monotonic() - start
                if ENDING.is_set():
                    raise Stop(f"{name} was ended") from None
                if passed > TIME_LIMIT:
                    lines.append(f"ended after {TIME_LIMIT} s without a result")
                    end_group(process)
                    break
                if passed - told > 15:
                    told = passed
                    say(f"    {name}: {passed:.0f} s  {lines[-1].strip()[:100] if lines else ''}")
    except BaseException:
        end_group(process)
        raise
    # A daemon that the command has left behind may hold the pipe open; what it says later is not ours.
    reader.join(5)
    return Command(process.returncode, "\n".join(lines), time.monotonic() - start, log)


def end_group(process: subprocess.Popen[str]) -> None:
    """End a command and what it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
            return


def must(name: str, argv: t.Sequence[str], hint: str, **kwargs: t.Any) -> Command:
    """Run a command without which nothing goes on."""
    done = execute(name, argv, **kwargs)
    if done.rc != 0:
        raise Stop(f"{name} failed:\n{tail(done.out, 30)}\n{hint}")
    return done


def tail(text: str, count: int) -> str:
    """The last lines, indented."""
    return "\n".join("    " + line for line in text.splitlines()[-count:])


def step(
    stage: str,
    argv: t.Sequence[str],
    judge: t.Callable[[Command], tuple[bool, str]] | None = None,
    hide: str = r"^$",
    **kwargs: t.Any,
) -> bool:
    """Run one test command, say how it went, and note it for the closing table.

    hide -- pattern of lines that do not help to understand a failure; the log has them all the same
    """
    say(f"==> {stage} ...")
    done = execute(stage, argv, **kwargs)
    ok, note = judge(done) if judge else (done.rc == 0, "")
    if not ok:
        end = tail("\n".join(line for line in done.out.splitlines() if not re.search(hide, line)), 200)
        say(f"{end}\n    {stage} failed; all of its output: {os.path.relpath(done.log, ROOT)}")
    record(stage, ok, done.seconds, note)
    return ok


def record(stage: str, ok: bool | None, seconds: float, note: str = "") -> None:
    """Note a result for the closing table, and say it."""
    RESULTS.append(Result(stage, ok, seconds, note))
    word = {True: "ok", False: "FAILED", None: "skipped"}[ok]
    say(f"    {stage}: {word} after {seconds:.1f} s{'; ' + note if note else ''}")


def side_by_side(jobs: t.Sequence[Job]) -> None:
    """Do all jobs, in two lanes: one of them first does those on daemons, both do the others, each what is next.

    What ends one lane ends both, and is raised.
    """
    rest = collections.deque(job for job in jobs if not job.on_daemons)
    raised: list[BaseException] = []
    over = threading.Semaphore(0)

    def work(lane: str, own: t.Iterable[Job]) -> None:
        try:
            for job in own:
                job.run(lane)
            with contextlib.suppress(IndexError):
                while True:
                    rest.popleft().run(lane)
        except BaseException as exc:
            raised.append(exc)
            ENDING.set()
        finally:
            over.release()

    first = [job for job in jobs if job.on_daemons]
    lanes = [threading.Thread(target=work, args=(name, own)) for name, own in zip(LANES, (first, ()))]
    for lane in lanes:
        lane.start()
    try:
        # Not by join(), after whose interruption Python takes a thread for ended.
        for dummy in lanes:
            over.acquire()
    except BaseException:
        ENDING.set()
        raise
    finally:
        for lane in lanes:
            lane.join()
    if raised:
        raise raised[0]


def close(stage: str) -> None:
    """The closing line of a stage whose runner prints none."""
    mine = [result for result in RESULTS if result.stage.split()[0] == stage and result.ok is not None]
    say(f"{stage}: {sum(bool(r.ok) for r in mine)} passed, {sum(not r.ok for r in mine)} failed")


# What has to be there


def find_pythons() -> dict[str, str]:
    """Version -> path of each Python that really runs and can make virtual environments (pyenv's shims may not)."""
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    directories = sorted(glob.glob(os.path.join(pyenv, "versions", "*", "bin")), reverse=True)
    directories += [d for d in os.environ.get("PATH", os.defpath).split(os.pathsep) if os.path.basename(d) != "shims"]
    directories += ["/usr/local/bin", "/usr/bin"]
    probe = "import ensurepip, ssl, sys, venv; print('%d.%d' % sys.version_info[:2] * (sys.prefix == sys.base_prefix))"
    found: dict[str, str] = {}
    for version in dict.fromkeys([*TARGET_PYTHONS, *(v for versions in CORES.values() for v in versions)]):
        for directory in directories:
            path = os.path.join(directory, f"python{version}")
            if os.access(path, os.X_OK):
                answer = subprocess.run([path, "-c", probe], capture_output=True, text=True, check=False)
                if answer.stdout.strip() == version:
                    found[version] = path
                    break
    return found


def python_for(pythons: t.Mapping[str, str], wanted: t.Sequence[str], purpose: str) -> str:
    """The path of the first Python there is out of those that will do."""
    for version in wanted:
        if version in pythons:
            return pythons[version]
    raise Stop(
        f"{purpose} needs Python {' or '.join(sorted(wanted))}; found: {', '.join(pythons) or 'none'}.\n"
        f"Install one, for example with `pyenv install {wanted[0]}`, or put python{wanted[0]} on PATH."
    )


@contextlib.contextmanager
def lock(name: str) -> t.Iterator[None]:
    """Keep two runs in one checkout from preparing the same thing at once."""
    os.makedirs(BUILD, exist_ok=True)
    with open(os.path.join(BUILD, f".{name}.lock"), "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Tools:
    """The virtual environments, and the environment in which their programs run."""

    def __init__(self) -> None:
        self.pythons = find_pythons()

    def venv(self, name: str) -> str:
        """The directory of a virtual environment (ansible-2.21, ansible-2.19, lint), made first if need be."""
        core = name.rpartition("-")[2] if name.startswith("ansible-") else NEWEST
        python = python_for(self.pythons, CORES[core], f"ansible-core {core}")
        requirements = os.path.join(ROOT, "tests", "requirements", f"{name}.txt")
        with open(requirements, "rb") as file:
            digest = hashlib.sha256(python.encode() + file.read()).hexdigest()
        path = os.path.join(VENVS, name)
        stamp = os.path.join(path, ".stamp")
        with lock(f"venv-{name}"):
            with contextlib.suppress(OSError), open(stamp, encoding="utf-8") as file:
                if file.read() == digest:
                    return path
            say(f"==> installing {name} into {os.path.relpath(path, ROOT)} ...")
            start = time.monotonic()
            shutil.rmtree(path, ignore_errors=True)
            must(f"venv {name}", [python, "-m", "venv", path], f"Can {python} make virtual environments?")
            must(
                f"pip install {name}",
                [os.path.join(path, "bin", "pip"), "install", "-q", "--no-input", "-r", requirements],
                "Can this machine reach a Python package index? pip's own configuration says which one is asked.",
                env=self.environment(path),
            )
            if name.startswith("ansible-"):
                self.prime_ansible_test(path)
            with open(stamp, "w", encoding="utf-8") as file:
                file.write(digest)
            say(f"    ok after {time.monotonic() - start:.1f} s")
        return path

    def environment(self, venv: str, collections: str = "") -> dict[str, str]:
        """Variables for the programs of a virtual environment: real Pythons on PATH, never a question, no colours."""
        env = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PYTHON", "MAKE"))}
        env.pop("VIRTUAL_ENV", None)
        old = [d for d in os.environ.get("PATH", os.defpath).split(os.pathsep) if os.path.basename(d) != "shims"]
        real = [os.path.dirname(self.pythons[version]) for version in TARGET_PYTHONS[::-1] if version in self.pythons]
        path = [os.path.join(venv, "bin"), *real, *old, "/usr/sbin", "/sbin"]
        env["PATH"] = os.pathsep.join(dict.fromkeys(path))
        env.setdefault("LC_ALL", "C.UTF-8")
        env.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
        env.update(PY_COLORS="0", NO_COLOR="1", ANSIBLE_NOCOLOR="1")
        if collections:
            env["ANSIBLE_COLLECTIONS_PATH"] = collections
        return env

    def prime_ansible_test(self, venv: str) -> None:
        """Give ansible-test its pip from the package index; by itself it fetches it from a site of its own."""
        (source,) = glob.glob(os.path.join(venv, "lib", "python3*", "site-packages", "ansible_test", "_internal"))
        with open(os.path.join(source, "python_requirements.py"), encoding="utf-8") as file:
            versions = set(re.findall(r"\bpip='([0-9.]+)'", file.read()))
        cache = os.path.expanduser("~/.ansible/test/cache")
        for version in sorted(versions):
            script = os.path.join(cache, f"get_pip_{version.replace('.', '_')}.py")
            if os.path.exists(script):
                continue
            os.makedirs(cache, exist_ok=True)
            must(
                f"pip download {version}",
                [os.path.join(venv, "bin", "pip"), "download", "-q", "--no-deps", "-d", cache, f"pip=={version}"],
                "Can this machine reach a Python package index?",
                env=self.environment(venv),
            )
            with open(script + ".new", "w", encoding="utf-8") as file:
                file.write(GET_PIP.format(version=version))
            os.replace(script + ".new", script)


GET_PIP = """\
# Stands in for the get-pip.py of ansible-test: runs the pip {version} that lies beside this file.
import os
import runpy
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "pip-{version}-py3-none-any.whl"))
sys.argv = ["pip", "install", "pip=={version}"] + [
    arg for arg in sys.argv[1:] if arg not in ("--no-setuptools", "--no-wheel", "pip=={version}")
]
runpy.run_module("pip", run_name="__main__")
"""


# Why the server of a driver is not here, by driver.
WITHOUT: dict[str, str] = {}


def install_servers() -> None:
    """Install servers that distributions do not have in each release.

    Where one cannot be had, its tests are left out, and the closing table says so.
    """
    for driver in drivers.names():
        product = drivers.product(driver)
        if not product or hypervisors.is_installed(product):
            continue
        program = product["programs"][0]
        wanted = drivers.packages(driver, program)
        say(f"==> installing {' '.join(wanted)} ...")
        prefix = [] if os.geteuid() == 0 else ["sudo", "-n", "--preserve-env=DEBIAN_FRONTEND"]
        with lock("apt"):
            try:
                backports.install(wanted, prefix)
            except backports.NotToBeHad as exc:
                WITHOUT[driver] = f"{product['name']} cannot be had here: {exc}"


def install_packages() -> None:
    """Install the Debian packages that the integration tests need; elsewhere, say what is needed."""
    with open(os.path.join(ROOT, "tests", "requirements", "debian.txt"), encoding="utf-8") as file:
        wanted = [line.strip() for line in file if line.strip() and not line.startswith("#")]
    if not shutil.which("apt-get"):
        say(f"    not a Debian system: the equivalents of these packages are needed: {' '.join(wanted)}")
        return
    query = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    there = {line.split()[0] for line in query.stdout.splitlines() if line.endswith(" installed")}
    missing = [name for name in wanted if name not in there]
    if not missing:
        return
    say(f"==> installing {' '.join(missing)} ...")
    start = time.monotonic()
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    prefix = []
    if os.geteuid() != 0:
        by_hand = f"As root: apt-get install {' '.join(missing)}"
        if not shutil.which("sudo"):
            raise Stop(f"These packages are missing, and there is no sudo to install them with.\n{by_hand}")
        must("sudo", ["sudo", "-n", "true"], by_hand)
        prefix = ["sudo", "-n", "--preserve-env=DEBIAN_FRONTEND"]
    install = [*prefix, "apt-get", "install", "-y", "-q", "--no-install-recommends"]
    install += ["-o", "DPkg::Lock::Timeout=300", *missing]
    with lock("apt"):
        if execute("apt-get install", install, env=env).rc != 0:
            must("apt-get update", [*prefix, "apt-get", "update", "-q"], "Are the sources of apt right?", env=env)
            must("apt-get install", install, "Can these packages be installed by hand?", env=env)
    say(f"    ok after {time.monotonic() - start:.1f} s")


# The collection where Ansible looks for it


def project_files() -> list[str]:
    """Paths of the project's files: what git tracks, and what it does not ignore."""
    argv = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    with contextlib.suppress(OSError):
        answer = subprocess.run(argv, cwd=ROOT, capture_output=True, check=False)
        if answer.returncode == 0:
            names = {os.fsdecode(name) for name in answer.stdout.split(b"\0") if name}
            return sorted(name for name in names if os.path.lexists(os.path.join(ROOT, name)))
    return sorted(walk(ROOT))


def walk(top: str) -> t.Iterator[str]:
    """Relative paths of the files below a directory, without what is never staged."""
    for directory, directories, files in os.walk(top):
        relative = os.path.relpath(directory, top)
        directories[:] = [
            name
            for name in directories
            if name not in NOT_STAGED and os.path.normpath(os.path.join(relative, name)) != "tests/output"
        ]
        links = [d for d in directories if os.path.islink(os.path.join(directory, d))]
        for name in [*files, *links]:
            yield os.path.normpath(os.path.join(relative, name))


def stage(name: str = NEWEST) -> str:
    """Bring a copy of the collection up to date and return the directory to use as Ansible's collections path.

    name -- of the copy: each ansible-core has its own, so that the results of ansible-test do not mix, and each lane
    """
    top = os.path.join(BUILD, "collections" if name == NEWEST else f"collections-{name}")
    target = os.path.join(top, COLLECTION)
    with lock("stage"):
        names = project_files()
        os.makedirs(target, exist_ok=True)
        for gone in set(walk(target)) - set(names):
            os.remove(os.path.join(target, gone))
        for name in names:
            copy(os.path.join(ROOT, name), os.path.join(target, name))
        for directory, _directories, _files in os.walk(target, topdown=False):
            inside = os.path.relpath(directory, target).split(os.sep)
            if not NOT_STAGED.intersection(inside) and inside[:2] != ["tests", "output"]:
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
        # ansible-test, ansible-lint and reuse ask git for the files; without a repository here they would ask
        # the one of the checkout, which ignores this directory.
        if shutil.which("git"):
            env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
            if not os.path.exists(os.path.join(target, ".git")):
                subprocess.run(["git", "init", "-q", target], check=True, capture_output=True, env=env)
            subprocess.run(["git", "add", "-A"], cwd=target, check=True, capture_output=True, env=env)
    return top


def copy(source: str, target: str) -> None:
    """Copy a file or link if it differs."""
    there = os.lstat(source)
    with contextlib.suppress(OSError):
        here = os.lstat(target)
        if (here.st_size, here.st_mtime_ns, here.st_mode) == (there.st_size, there.st_mtime_ns, there.st_mode):
            return
        if stat.S_ISDIR(here.st_mode):
            shutil.rmtree(target)
        else:
            os.remove(target)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)


# The stages


def sanity(tools: Tools, cores: t.Sequence[str]) -> None:
    """ansible-test sanity; compile and import tests run on every supported Python that is found on PATH."""
    for core in cores:
        venv, top = tools.venv(f"ansible-{core}"), stage(core)
        step(
            f"sanity (ansible-core {core})",
            # What pylint finds does not depend on ansible-core.
            [os.path.join(venv, "bin", "ansible-test"), "sanity", "--color", "no"]
            + ([] if core == NEWEST else ["--skip-test", "pylint"]),
            hide=PIP_CHATTER + r"|^(Running sanity test|Checking whether|See documentation)|^WARNING: Skipping sanity",
            cwd=os.path.join(top, COLLECTION),
            env=tools.environment(venv),
        )
    close("sanity")


def unit(tools: Tools, cores: t.Sequence[str], all_pythons: bool = False) -> None:
    """ansible-test units."""
    closing = []

    def judge(done: Command) -> tuple[bool, str]:
        lines = re.findall(r"^=*\s*((?:\d+ [a-z]+, )*\d+ [a-z]+ in [0-9.]+s.*?)\s*=*$", done.out, re.M)
        closing.extend(lines)
        return done.rc == 0 and bool(lines), "; ".join(lines) or "pytest has not run"

    for core in cores:
        venv, top = tools.venv(f"ansible-{core}"), stage(core)
        for python in TARGET_PYTHONS if all_pythons else UNIT_PYTHONS[core]:
            name = f"unit (ansible-core {core}, Python {python})"
            if python not in tools.pythons:
                say(f"==> {name} ...")
                record(name, None, 0, "no such Python on this machine")
                continue
            step(
                name,
                [os.path.join(venv, "bin", "ansible-test"), "units", "--venv", "--requirements", "--color", "no"]
                + ["--python", python, "--num-workers", str(os.cpu_count() or 1)]
                + list(() if core == NEWEST or all_pythons else UNIT_TESTS_OF_OTHER_CORES),
                judge,
                hide=PIP_CHATTER,
                cwd=os.path.join(top, COLLECTION),
                env=tools.environment(venv),
            )
    if NEWEST in cores and not all_pythons:
        venv, top = tools.venv("unit"), stage()
        argv = [os.path.join(venv, "bin", "pytest"), "-q", "-p", "no:cacheprovider", "-n", str(os.cpu_count() or 1)]
        here = os.path.join(top, COLLECTION)
        step("unit (pytest)", argv, judge, cwd=here, env=tools.environment(venv))
    for line in closing:
        say(line)


def fuzz(tools: Tools, _cores: t.Sequence[str], args: t.Sequence[str] = ()) -> None:
    """Damaged input for everything that reads what others write; the seed is in its output."""
    venv, top = tools.venv(f"ansible-{NEWEST}"), stage()
    script = os.path.join(top, COLLECTION, "tests", "fuzz", "fuzz.py")
    env = {**tools.environment(venv), "PYTHONPATH": top}
    closing: list[str] = []

    def judge(done: Command) -> tuple[bool, str]:
        lines = done.out.splitlines()
        closing.extend(line for line in lines if line.startswith("fuzz: "))
        return done.rc == 0 and bool(closing), "; ".join(line for line in lines if line.startswith(("seed ", "tried ")))

    step("fuzz", [os.path.join(venv, "bin", "python"), script, *args], judge, cwd=top, env=env)
    say(closing[-1] if closing else "fuzz: 0 passed, 1 failed")


def lint(tools: Tools, _cores: t.Sequence[str]) -> None:
    """Everything that reads the code without running it."""
    venv, top = tools.venv("lint"), stage()
    here = os.path.join(top, COLLECTION)
    env = tools.environment(venv, top)
    env["MYPYPATH"] = top

    def program(name: str, *args: str) -> list[str]:
        return [os.path.join(venv, "bin", name), *args]

    def silent(done: Command) -> tuple[bool, str]:
        noise = [line for line in done.out.splitlines() if re.search(r"\b(WARNING|ERROR|CRITICAL)\b", line)]
        return done.rc == 0 and not noise, f"{len(noise)} warnings" if noise else ""

    names = [name for name in project_files() if os.path.isfile(os.path.join(here, name))]
    typed = [
        name for name in ("plugins", "tests/unit", "tests/tools", "tests/bench", "tests/fuzz") if has_python(here, name)
    ]
    shell = [name for name in names if name.endswith(".sh") or name == ".ci/run"]

    step("lint ruff check", program("ruff", "check", "--no-cache", "."), cwd=here, env=env)
    step("lint ruff format", program("ruff", "format", "--no-cache", "--check", "--diff", "."), cwd=here, env=env)
    mypy = program("mypy", "--config-file", os.path.join(here, "pyproject.toml"))
    mypy += ["--cache-dir", os.path.join(BUILD, "mypy"), *(os.path.join(COLLECTION, name) for name in typed)]
    step("lint mypy", mypy, cwd=top, env=env)
    step("lint yamllint", program("yamllint", "--strict", "."), cwd=here, env=env)
    step("lint shellcheck", program("shellcheck", *shell), cwd=here, env=env)
    step("lint reuse", program("reuse", "--root", here, "lint", "--lines"), cwd=here, env=env)
    step("lint changelog", program("antsibull-changelog", "lint"), cwd=here, env=env)
    step("lint agreement", [sys.executable, os.path.abspath(__file__), "agreement"])
    step("lint ansible-lint", program("ansible-lint", "--offline", "--nocolor", "-q"), silent, cwd=here, env=env)

    artifacts = os.path.join(BUILD, "artifact")
    shutil.rmtree(artifacts, ignore_errors=True)
    if step("lint build", program("ansible-galaxy", "collection", "build", "--output-path", artifacts, here), env=env):
        (artifact,) = glob.glob(os.path.join(artifacts, "*.tar.gz"))
        env["GALAXY_IMPORTER_CONFIG"] = os.path.join(here, "tests", "tools", "galaxy-importer.cfg")
        importer = program("python", "-m", "galaxy_importer.main", artifact)
        step("lint galaxy-importer", importer, silent, cwd=artifacts, env=env)
    close("lint")


def has_python(top: str, name: str) -> bool:
    """Whether there is Python code below a directory."""
    return any(file.endswith(".py") for file in walk(os.path.join(top, name)))


def agreement(_tools: Tools, _cores: t.Sequence[str]) -> None:
    """What no other tool compares: the action group with the modules, and that no sanity test is ignored."""
    complaints = [
        f"{name}: fix the code instead; the collection ignores no sanity test"
        for name in project_files()
        if re.match(r"tests/sanity/ignore.*\.txt$", name)
    ]
    with open(os.path.join(ROOT, "meta", "runtime.yml"), encoding="utf-8") as file:
        group = re.search(r"^ {2}minicloud:\n((?: {4}- \w+\n)+)", file.read(), re.M)
    listed = re.findall(r"- (\w+)", group[1]) if group else []
    modules = [
        os.path.basename(name)[:-3] for name in project_files() if re.match(r"plugins/modules/[a-z]\w*\.py$", name)
    ]
    if listed != sorted(modules):
        complaints.append(
            f"meta/runtime.yml: the action group minicloud must list the modules in order: {', '.join(sorted(modules))}"
        )
    complaints += [f"{path}: not what `make format` writes" for path, text in written().items() if read(path) != text]
    for complaint in complaints:
        say(complaint)
    if complaints:
        sys.exit(1)


# What two modules return alike: the module in which it is written by hand, the key there, the other module, its key.
TWINS = (
    ("instance", "instance", "instance_info", "instances"),
    ("network", "network", "network_info", "networks"),
    ("image", "image", "image_info", "cached"),
    ("snapshot", "snapshot", "snapshot_info", "snapshots"),
)


def read(path: str) -> str:
    """The text of a file of this checkout; empty where there is none."""
    try:
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


# Where the drivers stand as the choices of an option.
LISTS_OF_DRIVERS = (
    "plugins/doc_fragments/_common.py",
    "plugins/modules/driver.py",
    "plugins/modules/driver_info.py",
    "roles/host/meta/argument_specs.yml",
)
CHOICES = re.compile(r"choices: \[qemu, [a-z, ]+\]")


@functools.cache
def registry() -> t.Any:
    """The module that knows the drivers."""
    sys.path.insert(0, stage())
    return importlib.import_module("ansible_collections.minicloud.local.plugins.module_utils._drivers.registry")


@functools.cache
def written() -> dict[str, str]:
    """The files that have a part which is written from other files, and what they have to be."""
    found = pictures.written(ROOT)
    drivers = ", ".join(registry().DRIVERS)
    for path in LISTS_OF_DRIVERS:
        found[path] = CHOICES.sub(f"choices: [{drivers}]", read(path))
    for source, key, twin, twin_key in TWINS:
        path = f"plugins/modules/{twin}.py"
        text = read(path)
        entries = returned(read(f"plugins/modules/{source}.py"), key)
        start, end = contents_of(text, twin_key)
        own = {name: entry for name, entry in returned(text, twin_key).items() if name not in entries}
        found[path] = text[:start] + "".join([*entries.values(), *own.values()]) + text[end:]
    return found


def contents_of(text: str, key: str) -> tuple[int, int]:
    """Where in the text of a module that is which tells what a key of its result contains."""
    found = re.compile(rf"^{key}:\n(?: {{2}}(?!contains:).*\n)* {{2}}contains:\n((?: {{4}}.*\n)+)", re.M).search(
        text, text.index('RETURN = r"""')
    )
    if not found:
        raise Stop(f"No documented return value {key} with contents.")
    return found.span(1)


def returned(text: str, key: str) -> dict[str, str]:
    """What a key of a module's result contains, by name."""
    start, end = contents_of(text, key)
    return {found[1]: found[0] for found in re.finditer(r"^ {4}(\w+):\n(?: {5,}.*\n)+", text[start:end], re.M)}


GUIDE = os.path.join("docs", "docsite", "rst", "guide_drivers.rst")
TABLE = re.compile(
    r"(?<=\n\.\. The following table is written by `make format`\.\n\n).*?(?=\.\. End of the table\.\n)", re.S
)


def guide_with_table() -> tuple[str, str]:
    """The guide about drivers, as it is and with the table of capabilities that the code has."""

    def cell(about: t.Any, capability: str) -> str:
        types = set(about.capabilities.get(capability, ()))
        every = {type_ for type_ in ("vm", "container") if about.can(type_)}
        return "yes" if types == every or capability in every else ", ".join(sorted(types))

    rows = [["Capability", *(f"``{name}``" for name in registry().DRIVERS), "What it means"]]
    for capability, text in registry().CAPABILITY_TEXTS.items():
        having = [cell(about, capability) for about in registry().ABOUT.values()]
        if any(having):
            rows.append([f"``{capability}``", *having, text])
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: auto", ""]
    for row in rows:
        lines += [f"   {'  -' if number else '* -'} {cell}".rstrip() for number, cell in enumerate(row)]
    with open(os.path.join(ROOT, GUIDE), encoding="utf-8") as file:
        guide = file.read()
    table = "\n".join(lines) + "\n\n"
    if not TABLE.search(guide):
        raise Stop(f"{GUIDE} has no place for the table of capabilities.")
    return guide, TABLE.sub(lambda dummy: table, guide)


def capabilities(_tools: Tools, _cores: t.Sequence[str]) -> None:
    """Fail if the guide about drivers has another table of capabilities than the code."""
    guide, wanted = guide_with_table()
    if guide != wanted:
        say(f"{GUIDE}: the table of capabilities is not what the code says; `make format` writes it")
        sys.exit(1)


def docs(tools: Tools, _cores: t.Sequence[str]) -> None:
    """The documentation of the collection and of each plugin in it."""
    venv, top = tools.venv("lint"), stage()
    here = os.path.join(top, COLLECTION)
    env = tools.environment(venv, top)
    antsibull = [os.path.join(venv, "bin", "antsibull-docs"), "lint-collection-docs", "--plugin-docs"]
    antsibull += ["--validate-collection-refs", "all", "--disallow-unknown-collection-refs", "."]
    step("docs antsibull-docs", antsibull, cwd=here, env=env)
    step("docs capabilities", [sys.executable, os.path.abspath(__file__), "capabilities"])
    for kind in ("module", "inventory", "connection", "filter", "lookup", "callback"):
        names = [
            f"minicloud.local.{os.path.basename(name)[:-3]}"
            for name in project_files()
            if re.match(rf"plugins/{'modules' if kind == 'module' else kind}/[a-z]\w*\.py$", name)
        ]
        if names:
            step(
                f"docs ansible-doc ({kind})",
                [os.path.join(venv, "bin", "ansible-doc"), "-t", kind, *names],
                lambda done: (done.rc == 0 and "[WARNING]" not in done.out, ""),
                cwd=top,
                env=env,
            )
    roles = [name.split("/")[1] for name in project_files() if re.match(r"roles/\w+/meta/argument_specs\.yml$", name)]
    if roles:
        argv = [os.path.join(venv, "bin", "ansible-doc"), "-t", "role", *(f"minicloud.local.{name}" for name in roles)]
        step("docs ansible-doc (role)", argv, cwd=top, env=env)
    close("docs")


def integration(tools: Tools, cores: t.Sequence[str], only: t.Sequence[str] = ()) -> None:
    """The targets of tests/integration, on this machine and its real hypervisors."""
    install_packages()
    install_servers()
    with ready_hypervisors():
        side_by_side(integration_jobs(tools, cores, only))
    close("integration")


def integration_jobs(tools: Tools, cores: t.Sequence[str], only: t.Sequence[str] = ()) -> list[Job]:
    """The targets as jobs, once the hypervisors are ready; the guest that they share is built here."""
    found = integration_targets()
    known = [*TARGETS_ON_DAEMONS, *OTHER_TARGETS]
    known += [name for name in found if name not in known]
    variables: dict[str, t.Any] = dict(integration_variables())
    for driver in drivers.names():
        product = drivers.product(driver)
        if product and not hypervisors.server_answers(product):
            record(f"integration conformance with {driver}", None, 0, WITHOUT.get(driver, "it does not run"))
            variables.setdefault("conformance_without", []).append(driver)

    def job(core: str, name: str) -> Job:
        return Job(lambda lane: target(tools, core, name, lane, variables), name in TARGETS_ON_DAEMONS)

    jobs = []
    for core in cores:
        for name in only or (known if core == NEWEST else INTEGRATION_TARGETS_OF_OTHER_CORES):
            if name in found:
                jobs.append(job(core, name))
            else:
                record(f"integration {name}", False, 0, "there is no such target in tests/integration/targets")
    return jobs


def target(tools: Tools, core: str, name: str, lane: str, variables: t.Mapping[str, t.Any]) -> None:
    """One integration target, in a copy of the collection and with a data directory that only this lane has."""
    venv, top = tools.venv(f"ansible-{core}"), stage(f"{core}-{lane}")
    data_dir = os.path.join(INTEGRATION, f"data-{lane}")
    config: dict[str, t.Any] = {**variables, "minicloud_test_data_dir": data_dir}
    if core != NEWEST:
        config.update(VARIABLES_OF_OTHER_CORES)
    with open(os.path.join(top, COLLECTION, "tests", "integration", "integration_config.yml"), "w") as file:
        json.dump(config, file)
    try:
        step(
            f"integration {name} (ansible-core {core})",
            [os.path.join(venv, "bin", "ansible-test"), "integration", "--local", "--requirements", "--color", "no"]
            + ["--allow-destructive", "--allow-root", "--diff", "-v", name],
            lambda done: (done.rc == 0 and "WARNING: All targets skipped" not in done.out, ""),
            cwd=os.path.join(top, COLLECTION),
            env=tools.environment(venv),
        )
    except BaseException:
        say(f"    {name} was ended: removing what it has left in {os.path.relpath(data_dir, ROOT)} ...")
        remove_leftovers(venv, top, data_dir, tools.environment(venv, top))
        raise


def remove_leftovers(venv: str, top: str, data_dir: str, env: t.Mapping[str, str]) -> None:
    """Remove the instances and networks of a data directory."""
    playbook = os.path.join(top, COLLECTION, "tests", "integration", "leftovers.yml")
    argv = [os.path.join(venv, "bin", "ansible-playbook"), "-e", f"minicloud_test_data_dir={data_dir}", playbook]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(argv, env=dict(env), timeout=300, check=False, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def ready_hypervisors() -> t.Iterator[None]:
    """Have the daemons of this machine's hypervisors run; what was started for that is ended afterwards."""
    try:
        with hypervisors.running(os.path.join(BUILD, "logs", "daemons"), say):
            yield
    except hypervisors.NotReady as exc:
        raise Stop(str(exc)) from exc


def demo(_tools: Tools, _cores: t.Sequence[str]) -> None:
    """The demo from beginning to end with each driver, with a data directory and a name of its own."""
    install_packages()
    with ready_hypervisors():
        side_by_side(demo_jobs())
    close("demo")


def demo_jobs() -> list[Job]:
    """The demos as jobs, once the hypervisors are ready."""
    script = [sys.executable, os.path.join(ROOT, "tests", "tools", "demo.py")]

    def up_and_down(driver: str) -> None:
        data = os.path.join(INTEGRATION, f"demo-{driver}")
        up = [*script, "up", "--driver", driver, "--name", "demo-test", "--data-dir", data]
        # Each machine takes minutes to boot under emulation.
        up += [] if driver in DEMOS_ON_DAEMONS else ["--web", "1"]
        down = [*script, "down", "--driver", driver, "--only"]
        try:
            step(f"demo {driver} up", up, lambda done: (done.rc == 0 and "The cloud runs" in done.out, ""))
        finally:
            step(f"demo {driver} down", down, not_there(data))

    def job(driver: str) -> Job:
        return Job(lambda dummy: up_and_down(driver), driver in DEMOS_ON_DAEMONS)

    return [job(driver) for driver in DEMO_DRIVERS]


def molecule(tools: Tools, _cores: t.Sequence[str]) -> None:
    """The scenario for roles' authors, with molecule from the package index."""
    install_packages()
    integration_variables()
    with ready_hypervisors():
        side_by_side(molecule_jobs(tools))
    close("molecule")


def molecule_jobs(tools: Tools) -> list[Job]:
    """Runs of the scenario with each of its drivers as jobs, once the small guest is built."""

    def scenario(driver: str) -> None:
        venv, top = tools.venv("molecule"), stage(f"molecule-{driver}")
        container = driver == "lxd"
        env = {
            **tools.environment(venv, top),
            "MINICLOUD_DATA_DIR": os.path.join(INTEGRATION, f"molecule-{driver}"),
            "MINICLOUD_MOLECULE_DRIVER": driver,
            "MINICLOUD_MOLECULE_TYPE": "container" if container else "vm",
            "MINICLOUD_MOLECULE_IMAGE": guests()["minicloud_test_container" if container else "minicloud_test_tiny"],
            "MINICLOUD_MOLECULE_MEMORY": "128M",
            # By itself it takes one for all directories of the same name, also of two runs at once.
            "MOLECULE_EPHEMERAL_DIRECTORY": os.path.join(top, "molecule"),
        }
        argv = [os.path.join(venv, "bin", "molecule"), "test"]
        try:
            step(f"molecule {driver}", argv, cwd=os.path.join(top, COLLECTION, "extensions"), env=env)
        finally:
            # The network that its instance was on.
            remove_leftovers(venv, top, env["MINICLOUD_DATA_DIR"], env)

    def job(driver: str) -> Job:
        return Job(lambda dummy: scenario(driver), driver in DEMOS_ON_DAEMONS)

    return [job(driver) for driver in DEMO_DRIVERS]


def not_there(path: str) -> t.Callable[[Command], tuple[bool, str]]:
    """Judges a command well that has removed a path."""
    return lambda done: (done.rc == 0 and not os.path.exists(path), f"{path} is left" if os.path.exists(path) else "")


def guests() -> dict[str, str]:
    """The images of the small guest, as variables of the targets."""
    return {
        "minicloud_test_tiny": os.path.join(INTEGRATION, "tiny.qcow2"),
        "minicloud_test_container": os.path.join(INTEGRATION, "tiny.tar.gz"),
    }


def integration_variables() -> dict[str, str]:
    """What the targets share: the images of a small guest. Data directories of an earlier run are removed."""
    shutil.rmtree(INTEGRATION, ignore_errors=True)
    os.makedirs(INTEGRATION)
    disk, container = guests().values()
    script = os.path.join(ROOT, "tests", "integration", "tiny", "build.py")
    say("==> building the small guest, as a disk and as a container ...")
    done = [
        must("tiny guest", [sys.executable, script, path], "Can this machine reach a Debian package archive?")
        for path in (disk, container)
    ]
    say(f"    ok after {sum(each.seconds for each in done):.1f} s")
    return {**guests(), **GIVEN_VARIABLES}


def integration_targets() -> list[str]:
    """Names of the targets that can be run by themselves."""
    found = []
    for path in glob.glob(os.path.join(ROOT, "tests", "integration", "targets", "*", "aliases")):
        with open(path, encoding="utf-8") as file:
            aliases = {line.split("#")[0].strip() for line in file}
        if not aliases & {"hidden", "disabled", "unsupported"}:
            found.append(os.path.basename(os.path.dirname(path)))
    return sorted(found)


def bench(tools: Tools, _cores: t.Sequence[str], args: t.Sequence[str] = ()) -> None:
    """tests/bench/bench.py beside what users would take instead; its output is not captured."""
    install_packages()
    venv, top = tools.venv("peers"), stage()
    argv = [os.path.join(venv, "bin", "python"), os.path.join(ROOT, "tests", "bench", "bench.py"), *args]
    argv += ["--peers", venv]
    with ready_hypervisors():
        done = subprocess.run(argv, cwd=ROOT, env=tools.environment(venv, top), check=False)
    sys.exit(done.returncode)


def changelog(tools: Tools, _cores: t.Sequence[str]) -> None:
    """Turn the fragments into the changelog of the version that galaxy.yml tells."""
    venv, top = tools.venv("lint"), stage()
    here = os.path.join(top, COLLECTION)
    argv = [os.path.join(venv, "bin", "antsibull-changelog"), "release", "--reload-plugins", "--update-existing"]
    must(
        "antsibull-changelog", argv, "Is there a fragment, and is it right?", cwd=here, env=tools.environment(venv, top)
    )
    for name in ("CHANGELOG.md", "changelogs/changelog.yaml"):
        shutil.copyfile(os.path.join(here, name), os.path.join(ROOT, name))
    for path in glob.glob(os.path.join(ROOT, "changelogs", "fragments", "*.y*ml")):
        if not os.path.exists(os.path.join(here, "changelogs", "fragments", os.path.basename(path))):
            os.remove(path)


def format_code(tools: Tools, _cores: t.Sequence[str]) -> None:
    """Let ruff change the files of the checkout, and write what the documentation has from the code."""
    ruff = os.path.join(tools.venv("lint"), "bin", "ruff")
    for argv in ([ruff, "check", "--no-cache", "--fix", "."], [ruff, "format", "--no-cache", "."]):
        subprocess.run(argv, cwd=ROOT, check=False)
    guide, wanted = guide_with_table()
    for path, text in {**written(), **({GUIDE: wanted} if guide != wanted else {})}.items():
        if read(path) != text:
            with open(os.path.join(ROOT, path), "w", encoding="utf-8") as file:
                file.write(text)
            say(f"{path}: wrote what it has from elsewhere")


def install(tools: Tools, cores: t.Sequence[str]) -> None:
    """Everything that the other commands would install, and a staged copy of the collection."""
    for name in [*(f"ansible-{core}" for core in cores), "lint", "unit"]:
        say(f"{name}: {os.path.relpath(tools.venv(name), ROOT)}")
    install_packages()
    install_servers()
    say(f"collections path: {os.path.relpath(stage(), ROOT)}")


def clean() -> None:
    """Remove what the commands above have made in this checkout."""
    for name in (BUILD, VENVS, *(os.path.join(ROOT, name) for name in (".ansible", ".mypy_cache", ".ruff_cache"))):
        shutil.rmtree(name, ignore_errors=True)
    shutil.rmtree(os.path.join(ROOT, "tests", "output"), ignore_errors=True)


def test(tools: Tools, cores: t.Sequence[str]) -> None:
    """All stages. One that fails does not keep the others from running; a tool that cannot be installed does."""
    install(tools, cores)

    def without_guests(_lane: str) -> None:
        for part in (lint, docs, sanity, unit, fuzz):
            part(tools, cores)

    with ready_hypervisors():
        targets = integration_jobs(tools, cores)
        side_by_side([Job(without_guests), *demo_jobs(), *molecule_jobs(tools), *targets])
    close("integration")
    close("molecule")
    close("demo")


def table() -> None:
    """What ran, how it ended, how long it took."""
    width = max(len(result.stage) for result in RESULTS)
    say("")
    for result in RESULTS:
        word = {True: "ok", False: "FAILED", None: "skipped"}[result.ok]
        say(f"{result.stage:<{width}}  {word:<7}  {result.seconds:7.1f} s  {result.note}".rstrip())


def main() -> int:
    """Run one command and tell how it went."""
    commands: dict[str, t.Callable[..., None]] = {
        "test": test,
        "lint": lint,
        "docs": docs,
        "sanity": sanity,
        "unit": unit,
        "fuzz": fuzz,
        "integration": integration,
        "demo": demo,
        "molecule": molecule,
        "bench": bench,
        "changelog": changelog,
        "format": format_code,
        "tools": install,
        "agreement": agreement,
        "capabilities": capabilities,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=[*commands, "clean"])
    parser.add_argument(
        "rest", nargs="*", metavar="NAME", help="integration: only these targets; bench, fuzz: arguments"
    )
    parser.add_argument("--core", choices=list(CORES), help="this ansible-core instead of the newest and the oldest")
    parser.add_argument("--all-pythons", action="store_true", help="unit: on every Python that targets may have")
    parser.add_argument("--kills", type=int, help="integration: so many runs that crash kills at any moment, a driver")
    args, unknown = parser.parse_known_args()
    if args.kills:
        GIVEN_VARIABLES["minicloud_test_kills"] = str(args.kills)
    if args.command == "clean":
        clean()
        return 0
    if (unknown or args.rest) and args.command not in ("integration", "bench", "fuzz"):
        parser.error(f"unexpected: {' '.join([*unknown, *args.rest])}")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start = time.monotonic()
    rest: list[t.Any] = [[*args.rest, *unknown]] if args.command in ("integration", "bench", "fuzz") else []
    if args.command == "unit":
        rest = [args.all_pythons]
    try:
        commands[args.command](Tools(), [args.core] if args.core else list(TESTED_CORES), *rest)
    except Stop as stop:
        say(f"\nSTOPPED: {stop}")
        return 2
    except KeyboardInterrupt:
        say("\ninterrupted")
        return 130
    if not RESULTS:
        return 0
    table()
    bad = [result.stage for result in RESULTS if result.ok is False]
    say(f"\n{'FAILED: ' + ', '.join(bad) if bad else 'all passed'} after {time.monotonic() - start:.0f} s")
    if bad:
        first = bad[0].split()[0]
        say(f"Each failure is shown above and logged in .build/logs; `make {first}` repeats that stage alone.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
