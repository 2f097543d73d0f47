# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import CommandFailed, HypervisorError, LaunchError
from ansible_collections.minicloud.local.plugins.module_utils._guest import ready
from ansible_collections.minicloud.local.plugins.module_utils._guest.console import ConsoleWatch
from ansible_collections.minicloud.local.plugins.module_utils._guest.ready import Readiness, wait_ready
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import SshAccess
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Deadline, Runtime

ACCESS = SshAccess("127.0.0.1", 2201, "debian", "/d/id", "/d/known_hosts", "minicloud-qemu-web")
DENIED = Completed(255, "", "debian@127.0.0.1: Permission denied (publickey).\n")
WRONG_KEY = Completed(255, "", "No ED25519 host key is known ...\nHost key verification failed.\n")
LOST = Completed(255, "", "Connection closed by 127.0.0.1 port 2201\n")


def stages(*errors: str, recoverable: dict[str, list[str]] | None = None, stage: str | None = None) -> str:
    inner = {"start": 1.0, "finished": 2.0, "errors": list(errors), "recoverable_errors": recoverable or {}}
    return json.dumps(
        {"v1": {"stage": stage, "datasource": "x", "init": inner, "modules-final": {"errors": []}}}, indent=1
    )


def said(verdict: str, status: str = "", result: str = "", log: str = "") -> Completed:
    parts = f"=== log\n{log}\n" if log else ""
    return Completed(0, f"Welcome!\n{parts}=== verdict\n{verdict}\n=== status\n{status}\n=== result\n{result}\n", "")


FINISHED = said("finished", stages(), json.dumps({"v1": {"errors": []}}))
RUNNING = said("running", stages(stage="modules-final"))


class Clock:
    """Time that passes only while somebody sleeps or looks for a greeting."""

    def __init__(self) -> None:
        self.now = 1000.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    monkeypatch.setattr("time.sleep", clock.sleep)
    return clock


class Guest:
    """Plays an instance: whether it greets, and the answers of its sessions; the last of them is repeated."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.greets_after = 0
        self.greeting = "SSH-2.0-OpenSSH_9.2p1"
        self.answers: list[Completed] = [FINISHED]
        self.argvs: list[list[str]] = []
        self.looks = 0
        self.patience: list[tuple[float, float]] = []
        self.alive = True

    def greeting_of(self, host: str, port: int, timeout: float, interval: float) -> str:
        self.looks += 1
        self.patience.append((timeout, interval))
        self.clock.sleep(0.01)
        return self.greeting if self.looks > self.greets_after else ""

    def run(self, argv: t.Sequence[str], *, stdin: bytes | None = None, **dummy: t.Any) -> Completed:
        assert stdin is not None
        self.argvs.append(list(argv))
        self.clock.sleep(0.5)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def check_alive(self) -> None:
        if not self.alive:
            raise HypervisorError("the hypervisor ended")


@pytest.fixture
def guest(clock: Clock, monkeypatch) -> Guest:
    guest = Guest(clock)
    monkeypatch.setattr(ready, "greeting_of", guest.greeting_of)
    monkeypatch.setattr(Runtime, "program", lambda *args: "/usr/bin/ssh")
    return guest


def wait(guest: Guest, policy: str = "fail", seconds: float = 60, **kwargs: t.Any) -> Readiness:
    runtime = kwargs.pop("runtime", None) or Runtime(guest.run)
    access = kwargs.pop("access", ACCESS)
    console, locate = kwargs.pop("console", None), kwargs.pop("locate", None)
    return wait_ready(runtime, access, Deadline(seconds), guest.check_alive, console, policy, locate)


def watch(tmp_path: Path, text: str) -> ConsoleWatch:
    log = tmp_path / "console.log"
    log.write_text(text)
    return ConsoleWatch(str(log))


def test_ready(guest: Guest) -> None:
    guest.greets_after = 5
    guest.answers = [LOST, DENIED, RUNNING, FINISHED]
    assert wait(guest) == Readiness("debian", "done", [], {})
    assert guest.argvs[0][0] == "/usr/bin/ssh"
    assert guest.argvs[0][-1] == "sh -s 16"


def test_a_slow_guest_is_asked_less_often_and_given_more_time(guest: Guest) -> None:
    guest.greets_after = 2000
    assert wait(guest, seconds=2000).status == "done"
    first, last = guest.patience[0], guest.patience[-1]
    assert first == (3.0, 0.3)
    assert last[0] == 15.0
    assert last[1] > 10
    times, intervals = zip(*guest.patience)
    assert list(times) == sorted(times)
    assert list(intervals) == sorted(intervals)


def test_the_address_is_learned_while_waiting(guest: Guest) -> None:
    places = [("", 22), ("", 22), ("10.1.2.3", 2222)]
    assert wait(guest, access=ACCESS._replace(host=""), locate=lambda: places.pop(0)).status == "done"
    assert places == []  # and is not asked for again
    assert guest.looks == 1
    assert guest.argvs[0][guest.argvs[0].index("-p") + 1] == "2222"
    assert "10.1.2.3" in guest.argvs[0]


def test_an_instance_that_never_gets_an_address(guest: Guest, tmp_path: Path) -> None:
    console = watch(tmp_path, "systemd: Failed to start network service\n")
    access = ACCESS._replace(host="")
    with pytest.raises(LaunchError, match="within 30 seconds: waited for the instance to have an address") as caught:
        wait(guest, seconds=30, access=access, locate=lambda: ("", 22), console=console)
    assert caught.value.stage == "address"
    assert "the console says: systemd: Failed to start network service" in caught.value.why
    assert caught.value.facts["console"] == ["systemd: Failed to start network service"]
    assert "DHCP" in caught.value.hint
    assert guest.looks == 0


@pytest.mark.parametrize("status", ["none", "disabled"])
def test_guests_without_cloud_init(guest: Guest, status: str) -> None:
    guest.answers = [said(status)]
    assert wait(guest) == Readiness("debian", status, [], {})


def test_nobody_answers(guest: Guest, tmp_path: Path) -> None:
    guest.greets_after = 10**9
    console = watch(tmp_path, "Linux version 6.1\ncloud-init: Used fallback datasource\n")
    with pytest.raises(LaunchError, match="not ready within 30 seconds: waited for an ssh server to answer") as caught:
        wait(guest, seconds=30, console=console)
    assert caught.value.stage == "ssh"
    assert "the console says: cloud-init: Used fallback datasource" in caught.value.why
    assert caught.value.facts["console"][0] == "Linux version 6.1"
    assert guest.looks < 60  # it does not hammer
    assert guest.argvs == []


def test_login_never_works(guest: Guest) -> None:
    guest.answers = [DENIED]
    with pytest.raises(
        LaunchError, match=r"waited for a login as debian to work; last seen: .*Permission denied"
    ) as caught:
        wait(guest, seconds=100)
    assert caught.value.stage == "ssh"
    assert "option user" in caught.value.hint
    assert len(guest.argvs) < 25  # servers shut out who fails too often


def test_a_wrong_host_key_ends_the_wait_early(guest: Guest) -> None:
    guest.answers = [WRONG_KEY]
    with pytest.raises(LaunchError, match="another host key") as caught:
        wait(guest, seconds=300)
    assert caught.value.stage == "ssh"
    assert "verification failed" in caught.value.why
    assert guest.clock.now < 1030


def test_a_host_key_that_comes_right(guest: Guest) -> None:
    guest.answers = [WRONG_KEY, WRONG_KEY, FINISHED]
    assert wait(guest).status == "done"


def test_the_hypervisor_is_gone(guest: Guest) -> None:
    guest.greets_after = 10**9
    guest.alive = False
    with pytest.raises(HypervisorError):
        wait(guest)
    assert guest.clock.now < 1001


def test_a_panic_fails_at_once(guest: Guest, tmp_path: Path) -> None:
    guest.greets_after = 10**9
    with pytest.raises(LaunchError, match="failed to boot: Kernel panic") as caught:
        wait(guest, console=watch(tmp_path, "before\nKernel panic - not syncing: x\nafter\n"))
    assert caught.value.stage == "boot"
    assert caught.value.facts["console"] == ["before", "Kernel panic - not syncing: x", "after"]
    assert guest.looks == 0


def test_a_reboot_in_between(guest: Guest) -> None:
    guest.answers = [RUNNING, LOST, LOST, RUNNING, FINISHED]
    assert wait(guest).status == "done"


def test_a_reboot_that_does_not_come_back(guest: Guest) -> None:
    guest.answers = [DENIED, RUNNING, Completed(255, "", "")]
    with pytest.raises(
        LaunchError, match=r"waited for an ssh server to answer .*; last seen: the connection was lost"
    ) as caught:
        wait(guest)
    assert caught.value.stage == "cloud-init"
    assert "longer timeout" in caught.value.hint


def test_a_reboot_asked_for_is_waited_for(guest: Guest) -> None:
    leaving = said("leaving", stages(), json.dumps({"v1": {"errors": []}}))
    guest.answers = [leaving, LOST, RUNNING, FINISHED]
    assert wait(guest).status == "done"
    assert len(guest.argvs) == 4
    guest.answers = [leaving]
    assert wait(guest).status == "done"  # it never came


FAILED = said("finished", stages("('scripts-user', RuntimeError('x'))"), "", "line 1\n=== not a section?\nline 2")


def test_a_failed_cloud_init(guest: Guest) -> None:
    guest.answers = [FAILED]
    with pytest.raises(LaunchError, match=r"cloud-init failed in the instance: .*scripts-user") as caught:
        wait(guest)
    assert caught.value.stage == "cloud-init"
    assert caught.value.facts["cloud_init_errors"] == ["('scripts-user', RuntimeError('x'))"]
    assert caught.value.facts["cloud_init_log"][0] == "line 1"


def test_a_failed_cloud_init_as_a_warning_and_ignored(guest: Guest) -> None:
    guest.answers = [FAILED]
    runtime = Runtime(guest.run)
    assert wait(guest, "warn", runtime=runtime).status == "error"
    assert len(runtime.report.warnings) == 1
    runtime = Runtime(guest.run)
    assert wait(guest, "ignore", runtime=runtime).errors == ["('scripts-user', RuntimeError('x'))"]
    assert runtime.report.warnings == []


def test_recoverable_errors_warn_and_deprecations_do_not(guest: Guest) -> None:
    complaints = {"WARNING": ["bad key"], "DEPRECATED": ["old key"]}
    guest.answers = [said("finished", stages(recoverable=complaints), "{}")]
    runtime = Runtime(guest.run)
    readiness = wait(guest, runtime=runtime)
    assert readiness == Readiness("debian", "done", [], complaints)
    assert runtime.report.warnings == ["cloud-init in the instance: bad key"]


def test_a_service_that_died(guest: Guest) -> None:
    guest.answers = [said("stuck", stages())]
    with pytest.raises(LaunchError, match="the boot has ended and cloud-init has not"):
        wait(guest)


def test_cloud_init_takes_too_long(guest: Guest) -> None:
    guest.answers = [RUNNING]
    with pytest.raises(LaunchError, match=r"waited for cloud-init to finish; last seen: .*modules-final") as caught:
        wait(guest, seconds=20)
    assert caught.value.stage == "cloud-init"
    assert "debian@127.0.0.1" in caught.value.hint


def test_the_user_is_learned_from_the_console(guest: Guest, tmp_path: Path) -> None:
    text = "ci-info: +++Authorized keys from /home/alma/.ssh/authorized_keys for user alma+++\n"
    readiness = wait(guest, access=ACCESS._replace(user=""), console=watch(tmp_path, text))
    assert readiness.user == "alma"
    assert "alma" in guest.argvs[0]


def test_the_user_stays_unknown(guest: Guest, tmp_path: Path) -> None:
    nobody = ACCESS._replace(user="")
    with pytest.raises(LaunchError, match="who the image's login user is") as caught:
        wait(guest, seconds=5, access=nobody, console=watch(tmp_path, "nothing\n"))
    assert "option user" in caught.value.hint
    for console in (None, watch(tmp_path, "Cloud-init v. 22.4.2 finished at Sat, 21 Nov\n")):
        with pytest.raises(LaunchError, match="login user of the image is not known"):
            wait(guest, access=nobody, console=console)


def test_a_fresh_login_is_tried_where_cloud_init_was_waited_for_in_one(guest: Guest) -> None:
    waited = FINISHED._replace(out=FINISHED.out.replace("=== status", "=== waited\nyes\n=== status"))
    guest.answers = [waited, FINISHED]
    assert wait(guest).status == "done"
    assert len(guest.argvs) == 2
    guest.argvs.clear()
    guest.answers = [waited, Completed(1, "", "Password change required but no TTY available.\n")]
    with pytest.raises(LaunchError, match="password of debian has expired") as caught:
        wait(guest)
    assert len(guest.argvs) == 2
    assert "expire: false" in caught.value.hint


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("WARNING: Your password has expired.\nPassword change required but no TTY available.", "password .* expired"),
        ("You are required to change your password immediately (administrator enforced).", "password .* expired"),
        ("Your account has expired; please contact your system administrator.", "account debian has expired"),
        ("This account is currently not available.", "no shell"),
        ('Please login as the user "alma" rather than the user "root".', "does not let debian log in"),
    ],
)
def test_what_no_waiting_improves_ends_it_at_once(guest: Guest, words: str, what: str) -> None:
    guest.answers = [Completed(1, "", words)]
    with pytest.raises(LaunchError, match=what) as caught:
        wait(guest, seconds=900)
    assert caught.value.stage == "ssh"
    assert guest.clock.now < 1005


def test_a_shell_that_runs_nothing(guest: Guest) -> None:
    guest.answers = [Completed(1, "", "")]
    with pytest.raises(LaunchError, match="works, and runs no command: the shell ended with status 1"):
        wait(guest, seconds=900)
    assert guest.clock.now < 1010


def test_a_host_that_lets_nobody_in_while_it_boots_is_waited_for(guest: Guest) -> None:
    booting = Completed(255, "", "System is booting up. Unprivileged users are not permitted to log in yet.\n")
    guest.answers = [booting, booting, booting, booting, FINISHED]
    assert wait(guest).status == "done"


@pytest.mark.parametrize("words", ["Exceeded MaxStartups", "Not allowed at this time"])
def test_a_server_with_too_many_connections_is_asked_seldom(guest: Guest, words: str) -> None:
    guest.greeting = words
    with pytest.raises(LaunchError, match=f"to take another connection; last seen: {words}"):
        wait(guest, seconds=600)
    assert guest.looks < 50
    guest.greeting = "SSH-2.0-OpenSSH_9.2p1"
    guest.answers = [Completed(255, "", f"kex_exchange_identification: banner line 0: {words}\n")]
    with pytest.raises(LaunchError, match="to take another connection"):
        wait(guest, seconds=600)
    assert len(guest.argvs) < 50


def test_a_login_user_who_is_not_there(guest: Guest, tmp_path: Path) -> None:
    guest.answers = [DENIED]
    said_so = "Authorized keys from /home/alma/keys for user alma\nCloud-init v. 22.4 finished at 1 Nov\n"
    with pytest.raises(LaunchError, match=r"refuses the login as debian: cloud-init has finished, .* key to alma"):
        wait(guest, seconds=900, console=watch(tmp_path, said_so))
    assert guest.clock.now < 1060


def test_an_image_without_cloud_init(guest: Guest, tmp_path: Path) -> None:
    guest.answers = [DENIED]
    with pytest.raises(LaunchError, match="no sign of cloud-init"):
        wait(guest, seconds=900, console=watch(tmp_path, "Welcome!\n\nlocalhost login: "))
    assert guest.clock.now < 1120
    with pytest.raises(LaunchError, match=r"login user of the image is not known: .* no sign of cloud-init"):
        wait(guest, seconds=900, access=ACCESS._replace(user=""), console=watch(tmp_path, "localhost login: "))
    assert guest.clock.now < 1240


def test_a_session_that_does_not_end(guest: Guest) -> None:
    def run(argv: t.Sequence[str], **kwargs: t.Any) -> Completed:
        timeouts.append(kwargs["timeout"])
        guest.clock.sleep(kwargs["timeout"])
        raise CommandFailed(
            "ssh was ended because it took too long", exceeded="time", stdout="Welcome\x1b[2J", stderr=""
        )

    timeouts: list[float] = []
    with pytest.raises(LaunchError, match=r"nothing came of a login within .* seconds: Welcome") as caught:
        wait(guest, seconds=400, runtime=Runtime(run))
    assert timeouts[0] == 150
    assert guest.clock.now <= 1402
    assert "\x1b" not in str(caught.value)


def test_a_session_that_says_more_than_asked(guest: Guest) -> None:
    def run(argv: t.Sequence[str], **kwargs: t.Any) -> Completed:
        assert kwargs["limit"] <= 1 << 20
        raise CommandFailed(
            "ssh was ended because what it says has no end", exceeded="output", stdout="y\n" * 100, stderr=""
        )

    with pytest.raises(LaunchError, match="says more than it was asked, without end"):
        wait(guest, seconds=400, runtime=Runtime(run))
    assert guest.clock.now < 1002


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"v1":' * 100_000,
        '{"v1": 7}',
        '{"v1": {"errors": 7, "init": {"errors": 3, "recoverable_errors": 5}, "stage": ["x"]}}',
        '{"v1": {"errors": {"a": 1}, "init": {"errors": "one", "recoverable_errors": {"WARNING": 5, "ERROR": {}}}}}',
        '{"v1": {"init": {"errors": [[[]], null, 1e308, "\\ud800"]}}}',
        '{"v1": {"init": {"errors": ' + json.dumps(["x" * 10_000] * 5) + "}}}",
        "9" * 100_000,
        "\x00\xff{}",
    ],
)
def test_whatever_a_guest_sends_as_its_status(guest: Guest, text: str) -> None:
    runtime = Runtime(guest.run)
    guest.answers = [said("running", text, text), said("finished", text, text, log="\x1b]0;title\x07" * 1000)]
    readiness = wait(guest, "warn", runtime=runtime)
    assert readiness.status in ("done", "error")
    assert all(isinstance(error, str) and len(error) <= 2000 for error in readiness.errors)
    assert sum(map(len, runtime.report.warnings)) < 100_000
    json.dumps([readiness, runtime.report.warnings])


def test_an_end_that_was_asked_for(guest: Guest) -> None:
    def check_alive() -> None:
        if len(guest.argvs) > 1:
            raise LaunchError("boot", "web ended while it was starting", "noise", hypervisor_log=["noise"])

    guest.check_alive = check_alive  # type: ignore[method-assign]
    guest.answers = [said("leaving", stages(), json.dumps({"v1": {"errors": []}}))]
    with pytest.raises(LaunchError, match="shut itself down as it was told to, by power_state") as caught:
        wait(guest)
    assert "noise" not in str(caught.value)


def run_script(tmp_path: Path, half_seconds: int = 1) -> dict[str, str]:
    """The script for the guest, run here against a directory in the place of /run and the others."""
    script = ready._GUEST_SCRIPT
    for real in ("/run/cloud-init", "/etc/cloud", "/var/log"):
        script = script.replace(real, f"{tmp_path}{real}")
    script = script.replace("command -v cloud-init", "false").replace("sudo -n", "false").replace("sleep 3", "true")
    script = script.replace("systemctl is-system-running", f"cat {tmp_path}/system")
    shell = shutil.which("dash") or "sh"
    argv = [shell, "-s", str(half_seconds)]
    done = subprocess.run(argv, input=script, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return {name: text.strip() for name, text in ready._sections(done.stdout).items()}


def test_script_verdicts(tmp_path: Path) -> None:
    run = tmp_path / "run" / "cloud-init"
    log = tmp_path / "var" / "log"
    log.mkdir(parents=True)
    assert run_script(tmp_path)["verdict"] == "none"
    run.mkdir(parents=True)
    assert run_script(tmp_path, 2)["verdict"] == "running"
    (tmp_path / "system").write_text("starting\n")
    assert run_script(tmp_path)["verdict"] == "running"
    (tmp_path / "system").write_text("degraded\n")
    (log / "cloud-init-output.log").write_text("ci-info: | table |\nTraceback\n")
    stuck = run_script(tmp_path)
    assert (stuck["verdict"], stuck["log"]) == ("stuck", "Traceback")
    (run / "disabled").touch()
    assert run_script(tmp_path)["verdict"] == "disabled"
    (run / "result.json").write_text(json.dumps({"v1": {"errors": []}}, indent=1))
    (run / "status.json").write_text(stages())
    finished = run_script(tmp_path)
    assert finished["verdict"] == "finished"
    assert "log" not in finished
    assert json.loads(finished["status"])["v1"]["datasource"] == "x"
    (run / "result.json").write_text(json.dumps({"v1": {"errors": ["x"]}}, indent=1))
    assert run_script(tmp_path)["log"] == "Traceback"
    (log / "cloud-init.log").write_text("After pid 5 ends, will execute: shutdown -r now\nmore\n")
    assert run_script(tmp_path)["verdict"] == "leaving"


@pytest.mark.parametrize("stage", [None, "", "\u2028", "\x1b[2J", 7, []])
def test_a_stage_that_cannot_be_shown_is_told_in_other_words(stage):
    assert ready._stage_of(json.dumps({"v1": {"stage": stage}})) == "before or between its stages"
