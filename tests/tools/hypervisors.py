# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes the hypervisors of this machine ready for tests, and ends afterwards what it has started.

A daemon that runs already, whoever has started it, is used and left alone. One that does not is started as a service
where systemd runs the machine, else by hand. Their packages must be installed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import shutil
import signal
import stat
import subprocess
import typing as t

import drivers

KVM, FUSE = "/dev/kvm", "/dev/fuse"
# Where programs are looked for.
DIRECTORIES = os.pathsep.join(
    (
        os.environ.get("PATH", os.defpath),
        *("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/libexec/incus", "/usr/lib/openssh"),
    )
)
# Seconds that a daemon may take to answer, and to end.
PATIENCE = 60


class NotReady(Exception):
    """A daemon does not run and cannot be started; the text says why."""


@contextlib.contextmanager
def running(logs: str, say: t.Callable[[str], None]) -> t.Iterator[None]:
    """Have the daemons of all drivers run meanwhile, as far as they are installed.

    logs -- a directory for what daemons of ours say; say -- tells the user what is started
    """
    os.makedirs(logs, exist_ok=True)
    with contextlib.ExitStack() as stack:
        for name, service, answers, by_hand in daemons():
            if answers():
                continue
            if os.geteuid() != 0:
                say(f"{name} does not run, or not for this user: its tests will fail. As root it would be started.")
                continue
            say(f"==> starting {name} ...")
            stack.enter_context(as_service(service) if os.path.isdir("/run/systemd/system") else by_hand(logs))
            if not answers():
                raise NotReady(f"{name} was started and does not answer; its logs are in {logs}.")
        yield


class Daemon(t.NamedTuple):
    """The daemon of a driver: its name, that of its service, whether it can be used, and a way to start it by hand."""

    name: str
    service: str
    answers: t.Callable[[], bool]
    by_hand: t.Callable[[str], contextlib.AbstractContextManager[None]]


def daemons() -> list[Daemon]:
    """Those that are installed: libvirt's, and the servers of LXD's kind."""
    found = [Daemon("libvirt", "libvirtd", libvirt_answers, libvirt)]
    for driver in drivers.names():
        product = drivers.product(driver)
        if product and is_installed(product):
            by_hand = functools.partial(server, product["programs"][0])
            found.append(Daemon(product["name"], driver, functools.partial(server_answers, product), by_hand))
    return found


def libvirt_answers() -> bool:
    """Whether libvirt can be used."""
    return succeeds(["virsh", "-q", "-c", "qemu:///system", "uri"])


def server_answers(product: t.Mapping[str, t.Any]) -> bool:
    """Whether a server of LXD's kind can be used. Its own client waits for one that does not run; this does not."""
    places = [os.environ.get(product["variable"]), *product["directories"]]
    there = any(place and os.path.exists(os.path.join(place, "unix.socket")) for place in places)
    return there and succeeds([product["client"], "query", "/1.0"])


def is_installed(product: t.Mapping[str, t.Any]) -> bool:
    """Whether such a server is installed: not every release of a distribution has each."""
    return shutil.which(product["programs"][0], path=DIRECTORIES) is not None


def succeeds(argv: t.Sequence[str]) -> bool:
    """Whether a command ends well within the time that a daemon may take."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False)
        return done.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@contextlib.contextmanager
def as_service(name: str) -> t.Iterator[None]:
    """A service of systemd."""
    run(["systemctl", "start", name])
    try:
        yield
    finally:
        run(["systemctl", "stop", name])


@contextlib.contextmanager
def libvirt(logs: str) -> t.Iterator[None]:
    """libvirtd and the daemon that keeps its guests' consoles. Each returns to us when it is ready."""
    with for_all(KVM), contextlib.ExitStack() as stack:
        for name in ("virtlogd", "libvirtd"):
            pid_file = os.path.join(logs, f"{name}.pid")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(pid_file)
            log = f"3:file:{os.path.join(logs, name)}.log"
            run([program(name), "--daemon", "--pid-file", pid_file], {"LIBVIRT_LOG_OUTPUTS": log})
            with open(pid_file, encoding="ascii") as file:
                stack.callback(end, int(file.read()))
        yield


@contextlib.contextmanager
def for_all(device: str) -> t.Iterator[None]:
    """Let everybody open a device, as udev does where it runs. Its mode is put back afterwards.

    KVM: where root can use it and libvirt's unprivileged user cannot, libvirt asks QEMU anew what it can do at each
    definition of a guest, which takes half a minute each time. FUSE: the root user of a container is nobody here.
    """
    try:
        before = stat.S_IMODE(os.stat(device).st_mode)
    except OSError:
        yield
        return
    os.chmod(device, before | 0o666)
    try:
        yield
    finally:
        os.chmod(device, before)


@contextlib.contextmanager
def server(name: str, logs: str) -> t.Iterator[None]:
    """A server of LXD's kind. Its own shutdown ends its containers and networks too. name -- of its program"""
    argv = [program(name), "--group", "root", "--logfile", os.path.join(logs, f"{name}.log")]
    with open(os.path.join(logs, f"{name}.out"), "wb") as out:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        run([program(name), "waitready", "--timeout", str(PATIENCE)])
        with for_all(FUSE):
            yield
    finally:
        succeeds([program(name), "shutdown", "--timeout", str(PATIENCE)])
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end(pid: int) -> None:
    """End a daemon, which is no child of ours, and wait until it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if select.select([handle], [], [], PATIENCE)[0]:
                return
    finally:
        os.close(handle)


def run(argv: t.Sequence[str], env: t.Mapping[str, str] | None = None) -> None:
    """Run a command that must succeed. Its output may stay open in a daemon, so it is not waited for."""
    done = subprocess.run(
        argv,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:
        raise NotReady(f"`{' '.join(argv)}` ended with status {done.returncode}; run it by hand to see why.")


def program(name: str) -> str:
    """The path of a program, also from the system's directories."""
    path = shutil.which(name, path=DIRECTORIES)
    if path is None:
        raise NotReady(f"There is no program {name}: its package is among those of tests/requirements/debian.txt.")
    return path
