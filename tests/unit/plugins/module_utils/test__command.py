# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import os
import resource
import signal
import sys
import time

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._errors import CommandFailed


def python(code, *args):
    return [sys.executable, "-c", code, *args]


def is_gone(pid):
    """Whether a process has ended, within some seconds; a zombie has."""
    for dummy in range(100):
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as stream:
                if stream.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_status_and_output():
    done = run(python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"))
    assert done == (3, "out\n", "err\n")


def test_input_reaches_the_command_and_otherwise_there_is_none():
    echo = python("import sys; sys.stdout.write(repr(sys.stdin.buffer.read()))")
    assert run(echo, stdin=b"a\0b").out == "b'a\\x00b'"
    assert run(echo, stdin=b"").out == "b''"
    assert run(echo).out == "b''"


def test_arguments_go_through_no_shell():
    assert run(python("import sys; print(sys.argv[1:])", "$HOME", "a b", "`id`", "*")).out == (
        "['$HOME', 'a b', '`id`', '*']\n"
    )


def test_the_locale_is_c_and_the_environment_is_added_to(monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("KEPT", "yes")
    code = "import os; print(os.environ['LC_ALL'], os.environ['KEPT'], os.environ['ADDED'])"
    assert run(python(code), env={"ADDED": "too"}).out == "C yes too\n"


def test_the_directory(tmp_path):
    assert run(python("import os; print(os.getcwd())"), cwd=str(tmp_path)).out.strip() == os.path.realpath(tmp_path)


def test_only_the_handles_that_are_passed_stay_open():
    read, write = os.pipe()
    other_read, other_write = os.pipe()
    for handle in (write, other_write):
        os.set_inheritable(handle, True)
    code = (
        f"import os\nos.write({write}, b'x')\n"
        f"try:\n os.fstat({other_write})\n print('open')\nexcept OSError:\n print('closed')"
    )
    try:
        assert run(python(code), pass_fds=[write]).out == "closed\n"
        assert os.read(read, 1) == b"x"
    finally:
        for handle in (read, write, other_read, other_write):
            os.close(handle)


def test_output_that_is_no_text_does_no_harm():
    out = run(python("import sys; sys.stdout.buffer.write(b'a\\xffb')")).out
    assert out.encode(errors="surrogateescape") == b"a\xffb"


def test_a_program_that_is_not_there():
    with pytest.raises(FileNotFoundError):
        run(["/nonexistent/program"])


def test_a_command_that_never_ends_is_ended_with_all_that_it_has_started(tmp_path):
    note = tmp_path / "child"
    code = (
        "import subprocess, time\nchild = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\nprint('so far', flush=True)\ntime.sleep(600)"
    )
    began = time.monotonic()
    with pytest.raises(CommandFailed, match="took too long") as caught:
        run(python(code), timeout=1)
    assert time.monotonic() - began < 10
    assert caught.value.facts["exceeded"] == "time"
    assert caught.value.facts["stdout"] == "so far\n"
    assert is_gone(int(note.read_text()))


def test_one_that_does_not_listen_to_the_polite_signal():
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    with pytest.raises(CommandFailed, match="took too long"):
        run(python(code), timeout=0.5)


def test_one_that_has_closed_its_output_and_goes_on():
    with pytest.raises(CommandFailed, match="took too long"):
        run(python("import os, time; os.close(1); os.close(2); time.sleep(600)"), timeout=0.5)


@pytest.mark.parametrize("number", [1, 2])
def test_output_without_end_takes_no_memory_without_end(number):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = f"import os\nwhile True: os.write({number}, b'y' * 65536)"
    with pytest.raises(CommandFailed, match="says has no end") as caught:
        run(python(code), limit=1 << 20)
    assert caught.value.facts["exceeded"] == "output"
    assert len(caught.value.facts["stdout"]) + len(caught.value.facts["stderr"]) <= 8192
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


def test_what_a_command_leaves_behind_is_not_waited_for():
    began = time.monotonic()
    assert run(["sh", "-c", "sleep 60 & echo $!"]).rc == 0
    assert time.monotonic() - began < 10


def test_much_input_and_output_at_once():
    data = b"0123456789abcdef" * (1 << 17)
    assert run(["cat"], stdin=data).out.encode() == data


def test_input_that_nobody_reads():
    assert run(["true"], stdin=b"x" * (1 << 22)).rc == 0


def test_a_signal_is_a_negative_status():
    assert run(["sh", "-c", "kill -9 $$"]).rc == -9


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        run(["true"], cwd=str(tmp_path / "none"))


def test_a_program_is_found_by_its_name_from_another_directory(tmp_path):
    assert run(["sh", "-c", 'pwd; echo "$1"', "sh", "a b"], cwd=str(tmp_path)).out.splitlines()[1] == "a b"


def test_an_interruption_ends_the_command(tmp_path):
    note = tmp_path / "child"
    code = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"

    def interrupt(*dummy):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(python(code))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert is_gone(int(note.read_text()))


def test_no_handle_stays_open():
    before = len(os.listdir("/dev/fd"))
    run(["true"], stdin=b"x")
    with pytest.raises(FileNotFoundError):
        run(["/nonexistent/program"], stdin=b"x")
    with pytest.raises(CommandFailed):
        run(["yes"], limit=1000)
    assert len(os.listdir("/dev/fd")) == before


def test_side_by_side_in_threads():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: run(["sh", "-c", f"echo {number}"]).out, range(64)))
    assert found == [f"{number}\n" for number in range(64)]
