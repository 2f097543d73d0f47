# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import sys

import pytest

from ansible_collections.minicloud.local.plugins.plugin_utils._runner import run


def python(code, *args):
    return [sys.executable, "-c", code, *args]


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
