# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The frame of the measurements: how things are run, compared and put into a table."""

from __future__ import annotations

import argparse
import contextlib
import glob
import http.server
import json
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import typing as t

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
STAGED = os.environ.get("ANSIBLE_COLLECTIONS_PATH", "").split(os.pathsep)[0]
if not os.path.isdir(os.path.join(STAGED, "ansible_collections", "minicloud", "local")):
    sys.exit("ANSIBLE_COLLECTIONS_PATH must lead to this collection; `make bench` sees to that.")
sys.path.insert(0, STAGED)

from ansible_collections.minicloud.local.plugins.module_utils._command import run  # noqa: E402
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import LOGIN_KEY  # noqa: E402
from ansible_collections.minicloud.local.plugins.module_utils._host.host import this_host  # noqa: E402
from ansible_collections.minicloud.local.plugins.module_utils._image import Image  # noqa: E402
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import parse_reference  # noqa: E402
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import Vault  # noqa: E402
from ansible_collections.minicloud.local.plugins.module_utils._model import GIB, Instance  # noqa: E402
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.images import (  # noqa: E402
    parse_image_wish,
    reconcile_image,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.instances import reconcile_instance  # noqa: E402
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.networks import (  # noqa: E402
    parse_network,
    reconcile_network,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import parse_wish  # noqa: E402
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime  # noqa: E402
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory  # noqa: E402

USER = "debian"
BOOT_LIMIT = 600.0  # seconds that a guest may take
POLL = 0.2
TASKS = 20
# On another host, as another user and with another environment nothing is seen without starting the module.
STARTED = {"environment": {"BENCH": "1"}}


class Row(t.NamedTuple):
    """One line of the table."""

    figure: str
    ours: str
    theirs: str
    result: str
    bound: str
    verdict: str


def ratio_row(figure: str, ours: float, theirs: float, unit: str, against: str, bound: float) -> Row:
    """Ours compared with theirs, as a ratio."""
    ratio = ours / theirs
    return Row(
        figure,
        quantity(ours, unit),
        f"{quantity(theirs, unit)} ({against})",
        f"{ratio:.2f} ×",
        f"≤ {bound:g} ×",
        verdict(ratio <= bound),
    )


def beyond_row(figure: str, ours: float, theirs: float, unit: str, against: str, bound: float) -> Row:
    """Ours compared with theirs, as what it takes more."""
    more = ours - theirs
    return Row(
        figure,
        quantity(ours, unit),
        f"{quantity(theirs, unit)} ({against})",
        f"{'+' if more >= 0 else ''}{quantity(more, unit)}",
        f"< {quantity(bound, unit, exact=True)}",
        verdict(more < bound),
    )


def verdict(good: bool) -> str:
    """The word for the last column."""
    return "met" if good else "MISSED"


def quantity(value: float, unit: str, exact: bool = False) -> str:
    """A figure with its unit; seconds are given as milliseconds where the unit says so."""
    scaled = value * 1000 if unit == "ms" else value
    return f"{scaled:g} {unit}" if exact else f"{scaled:.0f} {unit}" if unit != "s" else f"{scaled:.2f} s"


def in_turns(repetitions: int, measures: t.Mapping[str, t.Callable[[], float]]) -> dict[str, float]:
    """The median of each measure, taken in turns: A B A B …, so that what else the machine does hits all alike."""
    samples: dict[str, list[float]] = {name: [] for name in measures}
    for dummy in range(repetitions):
        for name, measure in measures.items():
            samples[name].append(measure())
    for name, values in samples.items():
        print(f"  {name}: {'  '.join(f'{value:.3f}' for value in values)}", flush=True)
    return {name: statistics.median(values) for name, values in samples.items()}


def no_change_rows(
    play: t.Callable[[str, list[dict[str, t.Any]], int], float],
    what: str,
    task: dict[str, t.Any],
    bound: float,
    started: str = "the same where the module has to be started",
) -> list[Row]:
    """The processor time of a task that finds all as it should be.

    play -- runs the tasks of a playbook, each so many times, and returns the seconds of processor
    """
    tasks: dict[str, dict[str, t.Any]] = {
        "ping": {"ansible.builtin.ping": {}},
        "task": task,
        "module": {**task, **STARTED},
    }
    found = in_turns(
        3,
        {
            "empty play": lambda: play("empty", [tasks["ping"]], 0),
            **{f"{TASKS} {name}": lambda name=name: play(name, [tasks[name]], TASKS) for name in tasks},  # type: ignore[misc]
        },
    )
    each = {name: (found[f"{TASKS} {name}"] - found["empty play"]) / TASKS for name in tasks}
    return [
        ratio_row(what, each["task"], each["ping"], "ms", "`ping`", bound),
        ratio_row(started, each["module"], each["ping"], "ms", "`ping`", bound),
    ]


class Bench:
    """The surroundings of a run: a directory that goes away at the end, and all that runs meanwhile."""

    def __init__(self, directory: str, args: argparse.Namespace) -> None:
        self.directory = directory
        self.args = args
        self.python = args.python
        self._data: list[DataDirectory] = []
        self._processes: list[t.Any] = []
        self._undo: list[t.Callable[[], t.Any]] = []
        config = self.path("ansible.cfg")
        with open(config, "w", encoding="ascii"):
            pass
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MINICLOUD_"))}
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            self.env.pop(name, None)
            self.env.pop(name.upper(), None)
        self.env.update(
            PATH=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]),
            ANSIBLE_CONFIG=config,
            ANSIBLE_COLLECTIONS_PATH=STAGED,
            ANSIBLE_HOME=self.path("ansible"),
            ANSIBLE_LOCALHOST_WARNING="false",
            ANSIBLE_INVENTORY_UNPARSED_WARNING="false",
            ANSIBLE_NOCOLOR="1",
            ANSIBLE_PYTHON_INTERPRETER=self.python,
            ANSIBLE_REMOTE_TEMP=self.path("ansible", "remote"),
        )

    def path(self, *parts: str) -> str:
        """A path in the directory of this run, the directories above it made."""
        path = os.path.join(self.directory, *parts)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def data(self, name: str) -> DataDirectory:
        """A data directory for one section; its instances are removed at the end."""
        data = DataDirectory(self.path("data", name))
        self._data.append(data)
        return data

    def keep(self, process: t.Any) -> t.Any:
        """Remember a process that must not survive this run."""
        self._processes.append(process)
        return process

    def afterwards(self, undo: t.Callable[[], t.Any]) -> None:
        """Have something done at the end of the run, before data directories are emptied; the last one first."""
        self._undo.append(undo)

    def clean(self) -> None:
        """End and remove all that was made."""
        for process in self._processes:
            with contextlib.suppress(Exception):
                process.kill()
        for undo in reversed(self._undo):
            with contextlib.suppress(Exception):
                undo()
        for data in self._data:
            for scope in data.scopes():
                for instance in scope.instances()[0]:
                    with contextlib.suppress(Exception):
                        change(data, instance.driver, name=instance.name, state="absent", force=True)
                for network in scope.networks.all()[0]:
                    with contextlib.suppress(Exception):
                        change_network(data, network.driver, name=network.name, state="absent")
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- programs -----------------------------------------------------------------------------------------------------

    def program(
        self, argv: t.Sequence[str], data: DataDirectory | None = None, stdin: str = "", **env: str
    ) -> tuple[float, float, str]:
        """Run to the end: seconds, seconds of processor of the whole process tree, output."""
        variables = {**self.env, **env, **({"MINICLOUD_DATA_DIR": data.path} if data else {})}
        with tempfile.TemporaryFile(dir=self.directory) as output, tempfile.TemporaryFile(dir=self.directory) as given:
            given.write(stdin.encode())
            given.seek(0)
            began = time.perf_counter()
            process = subprocess.Popen(
                argv, env=variables, cwd=self.directory, stdin=given, stdout=output, stderr=output
            )
            try:
                dummy, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                process.wait()
                raise
            seconds = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            text = output.read().decode(errors="replace")
        if process.returncode:
            raise RuntimeError(f"{' '.join(argv)} ended with status {process.returncode}:\n{text[-3000:]}")
        return seconds, usage.ru_utime + usage.ru_stime, text

    def ad_hoc(self, module: str, arguments: str, data: DataDirectory, **env: str) -> tuple[float, float, str]:
        """One module by the command `ansible`."""
        return self.program(["ansible", "localhost", "-m", module, "-a", arguments], data, **env)

    def play(
        self,
        name: str,
        tasks: list[dict[str, t.Any]],
        data: DataDirectory,
        count: int | None = None,
        python: str = "",
        **env: str,
    ) -> tuple[float, float]:
        """Seconds and seconds of processor of a playbook with tasks, each of them COUNT times."""
        if count is not None:
            tasks = [{**task, "loop": list(range(count))} for task in tasks]
        book = self.path("books", f"{name}.yml")
        with open(book, "w", encoding="utf-8") as file:
            json.dump([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}], file)
        # The implicit localhost has the Python of ansible-playbook, unless it is told by a variable.
        variable = ["-e", f"ansible_python_interpreter={python}"] if python else []
        seconds, cpu, dummy = self.program(["ansible-playbook", book, *variable], data, **env)
        return seconds, cpu

    def packed(self, module: str, arguments: dict[str, t.Any], data: DataDirectory) -> str:
        """The file that Ansible would have copied to the target and run there: the module without the controller."""
        remote = tempfile.mkdtemp(dir=self.directory)
        kept = {"ANSIBLE_KEEP_REMOTE_FILES": "1", "ANSIBLE_REMOTE_TEMP": remote}
        self.play("packed", [{module: arguments, **STARTED}], data, None, self.python, **kept)
        (path,) = glob.glob(os.path.join(remote, "*", "AnsiballZ_*.py"))
        return path

    # -- what is measured on -------------------------------------------------------------------------------------------

    def tiny(self, ending: str = "qcow2") -> str:
        """The tiny guest of the tests: a disk, or (tar.gz) a container image for LXD."""
        path = self.path(f"tiny.{ending}")
        if not os.path.exists(path):
            build = os.path.join(ROOT, "tests", "integration", "tiny", "build.py")
            new = self.path(f"new.{ending}")
            self.program([self.python, build, new])
            os.rename(new, path)
        return path

    def real(self) -> str:
        """An image of Debian 12, if one is at hand; else empty."""
        if self.args.image:
            return os.path.abspath(self.args.image)
        with contextlib.suppress(Exception):
            found = Vault(DataDirectory(), Runtime(run)).find(
                parse_reference("bootstrap:bookworm"), this_host().architecture()
            )
            return found.path if found else ""
        return ""

    def serve(self, directory: str) -> str:
        """Serve a directory from a process of its own; the URL ends with a slash."""
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FileHandler)
        FileHandler.top = directory
        context = multiprocessing.get_context("fork")
        process = context.Process(target=server.serve_forever, daemon=True)
        process.start()
        self.keep(process)
        url = f"http://127.0.0.1:{server.server_port}/"
        server.server_close()
        return url


class Guest:
    """How the guests of one data directory are reached; by what knows nothing of the collection."""

    def __init__(self, data: DataDirectory) -> None:
        self.key = os.path.join(data.keys, LOGIN_KEY)

    def argv(self, port: int, host: str = "127.0.0.1") -> list[str]:
        """The command that logs in to the guest."""
        argv = ["ssh", "-F", "/dev/null", "-T", "-i", self.key, "-p", str(port), "-l", USER]
        for option in (
            *("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "LogLevel=ERROR"),
            *("IdentitiesOnly=yes", "ConnectTimeout=30"),
        ):
            argv += ["-o", option]
        return [*argv, host]

    def run(self, port: int, command: str, host: str = "127.0.0.1") -> Completed:
        """Run a command in the guest."""
        return run([*self.argv(port, host), command])

    def ssh(self, port: int, command: str, host: str = "127.0.0.1") -> bool:
        """Whether a command succeeds in the guest."""
        return self.run(port, command, host).rc == 0

    @staticmethod
    def greets(port: int, host: str = "127.0.0.1") -> bool:
        """Whether an ssh server answers."""
        # Where the guest itself is asked, and not its QEMU, whoever asks too early waits for the next try.
        with contextlib.suppress(OSError), socket.create_connection((host, port), POLL) as connection:
            connection.settimeout(1)
            return connection.recv(64).startswith(b"SSH-")
        return False

    def await_login(self, port: int, host: str = "127.0.0.1") -> None:
        """Look every 0.2 s until ssh answers and a login works."""
        end = time.monotonic() + BOOT_LIMIT
        while time.monotonic() < end:
            if self.greets(port, host) and self.ssh(port, "true", host):
                return
            time.sleep(POLL)
        raise RuntimeError(f"no login on port {port} within {BOOT_LIMIT:g} s")

    def await_cloud_init(self, port: int, host: str = "127.0.0.1") -> None:
        """Wait until cloud-init has finished, as its own command does."""
        self.ssh(port, "cloud-init status --wait >/dev/null 2>&1 || :", host)


class FileHandler(http.server.BaseHTTPRequestHandler):
    """Sends files as fast as the kernel can, so that the client is what is measured."""

    protocol_version = "HTTP/1.1"
    top = ""

    def do_GET(self) -> None:
        """Send the whole file."""
        try:
            with open(os.path.join(self.top, self.path.lstrip("/")), "rb") as file:
                stamp = os.fstat(file.fileno())
                etag = f'"{stamp.st_mtime_ns}"'
                current = self.headers.get("If-None-Match") == etag
                self.send_response(304 if current else 200)
                self.send_header("ETag", etag)
                self.send_header("Content-Length", "0" if current else str(stamp.st_size))
                self.end_headers()
                self.wfile.flush()
                if not current:
                    self.connection.sendfile(file)
        except FileNotFoundError:
            self.send_error(404)

    def log_message(self, *dummy: t.Any) -> None:
        """Nothing."""


def change(
    data: DataDirectory, driver: str = "qemu", driver_options: dict[str, t.Any] | None = None, **options: t.Any
) -> dict[str, t.Any]:
    """What the module instance does, in this process."""
    wish = parse_wish({"state": "running", "timeout": BOOT_LIMIT, **options})
    outcome = reconcile_instance(wish, Runtime(run), data, driver, driver_options)
    return outcome.view or {}


def change_network(data: DataDirectory, driver: str = "qemu", **options: t.Any) -> dict[str, t.Any]:
    """What the module network does, in this process."""
    return reconcile_network(parse_network(options), Runtime(run), data, driver).view or {}


def a_record(name: str, uuid: str, **other: t.Any) -> Instance:
    """The record of an instance of QEMU that was never started; other -- its further fields"""
    return Instance(
        name=name,
        uuid=uuid,
        scope="qemu",
        driver="qemu",
        created="2026-05-04T10:20:30Z",
        arch=this_host().architecture(),
        memory=GIB,
        disk=5 * GIB,
        phase="ready",
        user=USER,
        image={"name": "bootstrap:bookworm", "hash": "0" * 64, "os": "debian", "release": "bookworm"},
        **other,
    )


def into_vault(data: DataDirectory, path: str) -> Image:
    """Import an image, which is not measured."""
    reference = parse_reference(path)
    reconcile_image(parse_image_wish({"name": path, "state": "present"}), Runtime(run), data)
    image = Vault(data, Runtime(run)).find(reference, this_host().architecture())
    assert image
    return image


def table(rows: t.Sequence[Row]) -> str:
    """The rows as a table that is Markdown and can be read as it is."""
    head = Row("what", "collection", "compared with", "result", "bound", "")
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in [head, *rows]]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
