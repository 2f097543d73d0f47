# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Waiting until an instance is ready: its ssh server answers, a login works, cloud-init has finished."""

from __future__ import annotations

import re
import time
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import CommandFailed, LaunchError
from ansible_collections.minicloud.local.plugins.module_utils._guest.console import ConsoleWatch, plain
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import (
    NEXT_CONNECTION,
    SshAccess,
    greeting_of,
    greets,
    login_command,
    ssh_argv,
)
from ansible_collections.minicloud.local.plugins.module_utils._json import JsonError, parse_json
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime

# Seconds: one look for the greeting, one connection, and how long the guest is let wait in one session.
_BANNER_TIMEOUT, _LONGEST_BANNER_TIMEOUT = 3.0, 15.0
_CONNECT_TIMEOUT = 30.0
_SESSION = 8.0
# A session that takes longer than this, slow as the guest may be, has a shell that does not answer; and no more bytes
# than these belong to what the script says.
_LONGEST_SESSION, _SESSION_OUTPUT = 150.0, 1 << 20
# A wrong host key ends the wait after this many seconds, not at once: where the guest's ssh server starts before
# cloud-init has put the pinned key in place, it shows another one for a moment. Nothing is sent to it meanwhile.
_WRONG_KEY_GRACE = 15.0
# Newer servers shut out an address for some seconds after each failed login, and for longer the more there are.
_DENIED_PAUSES = (1.0, 2.0, 4.0, 5.0)
# So long (seconds) after a login was first refused it is believed that it stays so: when cloud-init has said that it
# has finished, and when the guest has booted and there is no sign of cloud-init.
_REFUSED_FOR_GOOD, _REFUSED_WITHOUT_CLOUD_INIT = 20.0, 60.0
# A server that has too many connections wants fewer of them.
_BUSY_PAUSES = (2.0, 5.0, 10.0, 15.0)
# How often a login may work and the script not run before that is believed.
_SHELL_TRIES = 3
# Answers to a login that stay the same however long one waits: the words, what they mean, and the remedy.
_FINAL = (
    (
        re.compile(r"password.{0,40}expired|password change required|required to change your password", re.IGNORECASE),
        "the password of {user} has expired, so that nobody can log in",
        "In cloud_init, a password expires at once unless chpasswd has expire: false.",
    ),
    (
        re.compile(r"account.{0,20}expired", re.IGNORECASE),
        "the account {user} has expired",
        "See expiredate and inactive of that user in cloud_init, or name another one in the option user.",
    ),
    (
        re.compile(r"account is currently not available", re.IGNORECASE),
        "the account {user} has no shell to log in with",
        "Give it one in cloud_init (shell: /bin/sh), or name another login user in the option user.",
    ),
    (
        re.compile(r"Please login as the user \S{1,255} rather than the user", re.IGNORECASE),
        "the instance does not let {user} log in",
        "Name that other user in the option user, or have cloud_init say disable_root: false.",
    ),
)
# How many sessions a power_state of cloud-init's may take to come into effect before it is no longer waited for.
_LEAVING_SESSIONS = 4

# Runs in the guest in any POSIX shell, without privileges. cloud-init's own status command says no more than these
# files, is missing options in older versions, and costs an emulated guest seconds.
# $1 is the number of half seconds to wait.
_GUEST_SCRIPT = r"""
run=/run/cloud-init
section() { echo; echo "=== $1"; }
verdict() {
    section verdict; echo "$1"
    section waited; echo "$waited"
    section status; head -c 200000 $run/status.json 2>/dev/null
    section result; head -c 200000 $run/result.json 2>/dev/null
    exit 0
}
has_cloud_init() { [ -d $run ] || [ -d /etc/cloud ] || command -v cloud-init >/dev/null; }
log() { tail -n "$1" "$2" 2>/dev/null || sudo -n tail -n "$1" "$2" 2>/dev/null; }
output() { section log; log 300 /var/log/cloud-init-output.log | grep -v '^ci-info: ' | tail -n 40 | tail -c 8192; }
left=$1
waited=
while [ ! -e $run/result.json ]; do
    has_cloud_init || verdict none
    if [ -e $run/disabled ] || [ -e /etc/cloud/cloud-init.disabled ]; then verdict disabled; fi
    left=$((left - 1))
    waited=yes
    if [ $left -le 0 ]; then
        case $(systemctl is-system-running 2>/dev/null) in
            running|degraded) [ -e $run/result.json ] || { output; verdict stuck; } ;;
        esac
        verdict running
    fi
    sleep 0.5 2>/dev/null || sleep 1
done
if log 50 /var/log/cloud-init.log | grep -q 'will execute: '; then
    sleep 3
    verdict leaving
fi
grep -q '"errors": \[\]' $run/result.json || output
verdict finished
"""


# What cloud-init's files may be: bytes, levels, texts in a list, characters of a text.
_LONGEST_JSON, _DEEPEST_JSON, _MOST_TEXTS, _LONGEST_TEXT = 1 << 18, 16, 50, 2000

_NO_CLOUD_INIT = (
    "Without cloud-init an image takes no user, key or host key from here: use one that has it (a cloud image), or"
    " wait: false."
)

# Why an instance has ended that told us so, and what to do.
GOING_DOWN = (
    "it shut itself down as it was told to, by power_state or another command in cloud_init",
    "Use wait: false for an instance that is to go down by itself, or leave that out of cloud_init.",
)


class Readiness(t.NamedTuple):
    """How an instance came up.

    user -- who was logged in as
    status -- of cloud-init: done, error, disabled, or none where the guest has no cloud-init
    errors -- what cloud-init failed at; recoverable -- what it complained about, by level (WARNING, DEPRECATED …)
    """

    user: str
    status: str
    errors: list[str]
    recoverable: dict[str, list[str]]


class _Session(t.NamedTuple):
    """What the script in the guest reported, or why it did not get there: then verdict is empty.

    shell -- whether a login worked all the same
    """

    verdict: str
    sections: t.Mapping[str, str] = {}
    failure: str = ""
    shell: bool = False


def wait_ready(
    runtime: Runtime,
    access: SshAccess,
    deadline: Deadline,
    check_alive: t.Callable[[], None],
    console: ConsoleWatch | None,
    cloud_init_errors: str = "fail",
    locate: t.Callable[[], tuple[str, int]] | None = None,
) -> Readiness:
    """Wait until the instance at ACCESS can be used.

    check_alive -- raises if the instance's hypervisor process is gone; called between any two looks
    console -- finds a boot that has failed for good, and the login user where the access has none
    cloud_init_errors -- fail, warn or ignore
    locate -- tells the host and port of an access that has no host yet; an empty host as long as nobody knows it
    Raises LaunchError with the stage (boot, address, ssh, cloud-init) and the evidence.
    """
    return _Wait(runtime, access, deadline, check_alive, console, locate).run(cloud_init_errors)


class _Wait:
    def __init__(
        self,
        runtime: Runtime,
        access: SshAccess,
        deadline: Deadline,
        check_alive: t.Callable[[], None],
        console: ConsoleWatch | None,
        locate: t.Callable[[], tuple[str, int]] | None = None,
    ) -> None:
        self.runtime = runtime
        self.access = access
        self.deadline = deadline
        self.check_alive = check_alive
        self.console = console
        self.locate = locate
        self.stage = "ssh" if access.host else "address"
        self.last_seen = ""
        self.no_answer()
        self.denied = 0
        self.denied_since = 0.0
        self.prompted_since = 0.0
        self.busy = 0
        self.shellless = 0
        self.leaving = 0
        self.wrong_key_since = 0.0

    def run(self, cloud_init_errors: str) -> Readiness:
        for dummy in self.deadline.pauses(first=0.05, longest=0.6):
            self.look_at_instance()
            if not self.know_address():
                continue
            greeting = self.greeting()
            if not greets(greeting):
                if greeting:
                    self.turned_away(greeting)
                else:
                    self.no_answer()
                continue
            if not self.know_user():
                continue
            session = self.session()
            if session.verdict == "finished" and session.sections.get("waited", "").strip():
                # cloud-init has gone on since this login, and may have changed who can log in: the next one must, too.
                session = self.session()
            if not session.verdict:
                self.not_logged_in(session)
                continue
            self.denied = self.busy = self.shellless = 0
            self.wrong_key_since = 0.0
            self.logged_in()
            if session.verdict == "running":
                self.last_seen = f"it was in the stage {_stage_of(session.sections.get('status', ''))}"
            elif session.verdict == "leaving" and self.leaving < _LEAVING_SESSIONS:
                self.leaving += 1
                self.last_seen = "it had asked for the instance to go down"
            else:
                return self.finished(session, cloud_init_errors)
        # The instance may have failed in the very pause that took the last of the time.
        self.look_at_instance()
        raise self.out_of_time()

    def greeting(self) -> str:
        """How a server greets now, empty for none.

        Each connection that is given up costs a slow guest a process, and many of them keep it from ever answering:
        the longer it has taken already, the more time it gets.
        """
        elapsed = self.deadline.seconds - self.deadline.left()
        timeout = min(max(_BANNER_TIMEOUT, elapsed * 0.1), _LONGEST_BANNER_TIMEOUT, self.deadline.left())
        return greeting_of(self.access.host, self.access.port, timeout, max(NEXT_CONNECTION, elapsed * 0.025))

    def look_at_instance(self) -> None:
        try:
            self.check_alive()
        except LaunchError as exc:
            if self.leaving and "hypervisor_log" in exc.facts:
                exc.why, exc.hint = GOING_DOWN
            raise
        if not self.console:
            return
        self.console.poll()
        if self.console.problem:
            raise LaunchError(
                "boot",
                "the instance failed to boot",
                self.console.problem,
                "The console log has the whole story.",
                console=self.console.tail(),
            )

    def know_address(self) -> bool:
        """Whether it is known where to knock: from the access, or because the instance has an address by now."""
        if not self.access.host and self.locate:
            host, port = self.locate()
            self.access = self.access._replace(host=host, port=port)
            if host:
                self.stage = "ssh"
                self.no_answer()
        return bool(self.access.host)

    def no_answer(self) -> None:
        """Nobody answers: not yet, or not any more because the instance reboots."""
        if not self.access.host:
            self.waiting_for = "the instance to have an address"
            self.hint = "See the console log: the guest has to ask for one by DHCP, unless network_config gives it one."
            return
        self.waiting_for = f"an ssh server to answer on {self.access.host} port {self.access.port}"
        self.hint = "See the console log. A slow host may need a longer timeout."

    def know_user(self) -> bool:
        """Whether the login user is known, from the access or by now from the console."""
        if self.access.user:
            return True
        if self.console and self.console.login_user:
            self.access = self.access._replace(user=self.console.login_user)
            return True
        self.waiting_for = "cloud-init to say on the console who the image's login user is"
        self.hint = "Name the login user in the option user."
        unknown = "the login user of the image is not known"
        if not self.console or self.console.cloud_init_finished:
            raise self.error("ssh", unknown, "cloud-init did not print it on the console", self.hint)
        if self.has_no_cloud_init(self.prompted_since):
            why = "the instance has booted, and there is no sign of cloud-init on its console"
            raise self.error("ssh", unknown, why, f"{self.hint} {_NO_CLOUD_INIT}")
        return False

    def has_no_cloud_init(self, since: float) -> bool:
        """Whether the guest has booted, and for so long nothing of cloud-init was seen that there is none."""
        if not self.console or not self.console.prompts or self.console.cloud_init_seen:
            return False
        self.prompted_since = self.prompted_since or time.monotonic()
        return bool(since) and time.monotonic() - since >= _REFUSED_WITHOUT_CLOUD_INIT

    def session(self) -> _Session:
        """One login that runs the script."""
        left = self.deadline.left()
        argv = ssh_argv(self.access, f"sh -s {max(1, int(min(_SESSION, left) * 2))}", min(_CONNECT_TIMEOUT, left))
        argv[0] = self.runtime.program("ssh", "openssh-client", "to reach instances")
        timeout = max(1.0, min(_LONGEST_SESSION, left))
        try:
            done = self.runtime.run(argv, stdin=_GUEST_SCRIPT.encode(), timeout=timeout, limit=_SESSION_OUTPUT)
        except CommandFailed as exc:
            if exc.facts.get("exceeded") == "output":
                raise self.error(
                    "ssh",
                    f"the shell of {self.access.user} says more than it was asked, without end",
                    plain(str(exc.facts.get("stdout", "")), 200),
                    "See what its start-up files (.bashrc, .profile, /etc/profile.d) write.",
                ) from exc
            said = plain(f"{exc.facts.get('stdout', '')}\n{exc.facts.get('stderr', '')}", 500)
            return _Session("", failure=f"nothing came of a login within {timeout:.0f} seconds{said and f': {said}'}")
        sections = _sections(done.out)
        verdict = sections.get("verdict", "").strip()
        if verdict:
            return _Session(verdict, sections)
        said = plain(done.err, 2000) or plain(done.out, 2000)
        # 255 is ssh's own status: another one is that of the shell.
        shell = done.rc not in (255, -9)
        nothing = f"the shell ended with status {done.rc}" if shell else f"the connection was lost (status {done.rc})"
        return _Session("", failure=said or nothing, shell=shell)

    def turned_away(self, words: str) -> None:
        """A server answers, and does not let us speak: it has too many connections, or wants none of ours now."""
        self.last_seen = plain(words, 200)
        self.waiting_for = "the ssh server to take another connection"
        self.hint = "See MaxStartups and PerSourcePenalties of the ssh server, and who else connects to it."
        pause = _BUSY_PAUSES[min(self.busy, len(_BUSY_PAUSES) - 1)]
        self.busy += 1
        time.sleep(min(pause, self.deadline.left()))

    def not_logged_in(self, session: _Session) -> None:
        """Decide what a login that failed means; an error if it will not get better."""
        failure = session.failure
        self.last_seen = failure
        for words, what, remedy in _FINAL:
            if words.search(failure):
                raise self.error("ssh", what.format(user=self.access.user), failure, remedy)
        if session.shell:
            self.shellless += 1
            if self.shellless >= _SHELL_TRIES:
                raise self.error(
                    "ssh",
                    f"a login as {self.access.user} works, and runs no command",
                    failure,
                    "Its shell must be one that runs commands, such as /bin/sh: see shell of that user in cloud_init,"
                    " or name another login user in the option user.",
                )
        if "Exceeded MaxStartups" in failure or "Not allowed at this time" in failure:
            self.turned_away(failure)
            return
        if "ost key verification failed" in failure or "REMOTE HOST IDENTIFICATION HAS CHANGED" in failure:
            self.wrong_key(failure)
            return
        self.wrong_key_since = 0.0
        if "Permission denied" in failure:
            self.waiting_for = f"a login as {self.access.user} to work"
            self.hint = (
                "The ssh server runs and refuses the key: either cloud-init has not run, or the login user is another "
                "one. See the console log, and name the login user in the option user."
            )
            pause = _DENIED_PAUSES[min(self.denied, len(_DENIED_PAUSES) - 1)]
            self.denied_since = self.denied_since if self.denied else time.monotonic()
            self.denied += 1
            self.denied_for_good(failure)
            time.sleep(min(pause, self.deadline.left()))
        else:
            self.no_answer()

    def denied_for_good(self, failure: str) -> None:
        """Raise if whoever would give the key to the login user has done what it does, or is not there."""
        if not self.console:
            return
        user, what = self.access.user, f"the instance refuses the login as {self.access.user}"
        elapsed = time.monotonic() - self.denied_since
        if self.console.cloud_init_finished and elapsed >= _REFUSED_FOR_GOOD:
            other = self.console.login_user
            why = f"cloud-init has finished, and {user} is not there or was not given the key"
            if other and other != user:
                why = f"cloud-init has finished, and gave the key to {other}"
            raise self.error("ssh", what, f"{why} ({failure})", "Name the login user in the option user.")
        if self.has_no_cloud_init(self.denied_since):
            why = f"it has booted, and there is no sign of cloud-init on its console ({failure})"
            raise self.error("ssh", what, why, _NO_CLOUD_INIT)

    def wrong_key(self, failure: str) -> None:
        now = time.monotonic()
        self.wrong_key_since = self.wrong_key_since or now
        if now - self.wrong_key_since < _WRONG_KEY_GRACE:
            time.sleep(min(1.0, self.deadline.left()))
            return
        raise self.error(
            "ssh",
            "the instance answers with another host key than the one it was given",
            failure,
            "Either cloud-init did not take the seed (see the console log), or user-data changes the host keys by "
            "itself, or something else answers on that address.",
        )

    def logged_in(self) -> None:
        if self.stage != "cloud-init":
            self.stage = "cloud-init"
            self.runtime.report.step("waiting for cloud-init to finish")
        self.waiting_for = "cloud-init to finish"
        self.hint = (
            f"Give it more time with timeout, or look at /var/log/cloud-init-output.log: {login_command(self.access)}"
        )

    def finished(self, session: _Session, cloud_init_errors: str) -> Readiness:
        user = self.access.user
        if session.verdict in ("none", "disabled"):
            return Readiness(user, session.verdict, [], {})
        errors, recoverable = _complaints(session.sections)
        if session.verdict == "stuck":
            errors.append("the boot has ended and cloud-init has not: one of its services failed or was not started")
        if errors and cloud_init_errors == "fail":
            raise self.error(
                "cloud-init",
                "cloud-init failed in the instance",
                "; ".join(errors),
                "The instance runs: correct cloud_init and make it anew, or accept this with cloud_init_errors.",
                cloud_init_errors=errors,
                cloud_init_log=plain(session.sections.get("log", ""), 8192).splitlines(),
            )
        if cloud_init_errors != "ignore":
            self.warn(errors, recoverable)
        return Readiness(user, "error" if errors else "done", errors, recoverable)

    def warn(self, errors: list[str], recoverable: t.Mapping[str, list[str]]) -> None:
        for error in errors:
            self.runtime.report.warn(f"cloud-init failed in the instance: {error}")
        for level, messages in recoverable.items():
            if level.upper() != "DEPRECATED":
                for message in messages:
                    self.runtime.report.warn(f"cloud-init in the instance: {message}")

    def out_of_time(self) -> LaunchError:
        notes = self.console.notes if self.console else []
        seen = [f"last seen: {self.last_seen}"] if self.last_seen else []
        said = [f"the console says: {'; '.join(notes)}"] if notes else []
        waited = f"waited for {self.waiting_for}"
        what = f"the instance was not ready within {self.deadline.seconds:g} seconds"
        return self.error(self.stage, what, "; ".join([waited, *seen, *said]), self.hint, last_seen=self.last_seen)

    def error(self, stage: str, what: str, why: str, hint: str, **facts: t.Any) -> LaunchError:
        console = self.console.tail() if self.console else []
        return LaunchError(stage, what, why, hint, console=console, **facts)


def _sections(output: str) -> dict[str, str]:
    """The parts of the script's output by name; text before the first (a server's greeting) is dropped."""
    sections: dict[str, list[str]] = {}
    name = ""
    for line in output.split("\n"):
        if line.startswith("=== "):
            name = line[4:].strip()
        elif name:
            sections.setdefault(name, []).append(line)
    return {name: "\n".join(lines) for name, lines in sections.items()}


def _v1(text: str) -> dict[str, t.Any]:
    """The content of one of cloud-init's JSON files, empty where it has none, or none that cloud-init would write."""
    try:
        data = parse_json(text.encode(errors="surrogateescape"), "what cloud-init says", _LONGEST_JSON, _DEEPEST_JSON)
    except JsonError:
        return {}
    inner = data.get("v1") if isinstance(data, dict) else None
    return inner if isinstance(inner, dict) else {}


def _stage_of(status: str) -> str:
    stage = _v1(status).get("stage")
    shown = plain(stage, _LONGEST_TEXT) if isinstance(stage, str) else ""
    return shown or "before or between its stages"


def _texts(value: t.Any) -> list[str]:
    """The texts of a list that a guest sends, few and short whatever it is."""
    found = value if isinstance(value, list) else [value] if value else []
    return [plain(str(each)[:_LONGEST_TEXT], _LONGEST_TEXT) for each in found[:_MOST_TEXTS]]


def _complaints(sections: t.Mapping[str, str]) -> tuple[list[str], dict[str, list[str]]]:
    """The errors and the recoverable errors of all stages."""
    errors: list[str] = []
    recoverable: dict[str, list[str]] = {}
    for stage in _v1(sections.get("status", "")).values():
        if isinstance(stage, dict):
            errors += _texts(stage.get("errors"))
            complaints = stage.get("recoverable_errors")
            for level, messages in complaints.items() if isinstance(complaints, dict) else ():
                recoverable.setdefault(plain(level, _LONGEST_TEXT), []).extend(_texts(messages))
    errors += _texts(_v1(sections.get("result", "")).get("errors"))
    return list(dict.fromkeys(errors))[:_MOST_TEXTS], dict(list(recoverable.items())[:_MOST_TEXTS])
