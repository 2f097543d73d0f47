# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import consoles, recorder
from ansible_collections.minicloud.local.plugins.module_utils._host import systemd
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime


def recorded(directory: Path, pieces: t.Iterable[bytes], limit: int) -> None:
    """Have what comes in by a pipe recorded to its end."""
    reader, writer = os.pipe()
    log = recorder.Log(str(directory / "console.log"), str(directory / "console.log.0"), limit)
    thread = threading.Thread(target=recorder.record, args=(reader, log, str(directory / "qemu.log")))
    thread.start()
    try:
        for piece in pieces:
            os.write(writer, piece)
    finally:
        os.close(writer)
        thread.join()
        os.close(reader)


def no_room(*dummy: t.Any) -> t.NoReturn:
    raise OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_BATCH", 0.0)


def test_what_is_written_is_kept(tmp_path: Path) -> None:
    (tmp_path / "console.log").write_bytes(b"before\n")
    recorded(tmp_path, [b"a", b"b\n", b"\xff\0"], 1000)
    assert (tmp_path / "console.log").read_bytes() == b"before\nab\n\xff\0"
    assert not (tmp_path / "console.log.0").exists()


def test_a_guest_that_writes_without_end_takes_twice_the_limit_at_most(tmp_path: Path) -> None:
    limit = 200_000
    lines = [b"%099d\n" % number for number in range(20_000)]
    recorded(tmp_path, lines, limit)
    parts = [(tmp_path / name).read_bytes() for name in ("console.log.0", "console.log")]
    assert all(len(part) <= limit for part in parts)
    both = b"".join(parts)
    assert len(both) >= limit - 65536
    assert both == b"".join(lines)[-len(both) :]
    assert sorted(os.listdir(tmp_path)) == ["console.log", "console.log.0"]
    assert (tmp_path / "console.log").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_loses_text_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = recorder.Log(str(tmp_path / "console.log"), str(tmp_path / "console.log.0"), 1000)
    log.write(b"one")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", no_room)
        log.write(b"two")
    log.write(b"three")
    assert (tmp_path / "console.log").read_bytes() == b"onethree"


def test_a_log_that_somebody_has_removed_is_begun_anew(tmp_path: Path) -> None:
    log = recorder.Log(str(tmp_path / "console.log"), str(tmp_path / "console.log.0"), 10)
    log.write(b"0123456789")
    (tmp_path / "console.log").unlink()
    log.write(b"later")
    assert (tmp_path / "console.log").read_bytes() == b"later"


@pytest.mark.parametrize("failing", ["replace", "open"])
def test_where_no_new_log_can_be_had_none_grows_and_it_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    log = recorder.Log(str(tmp_path / "console.log"), str(tmp_path / "console.log.0"), 10)
    log.write(b"0123456789")
    with monkeypatch.context() as patch:
        patch.setattr(os, failing, no_room)
        for dummy in range(3):
            log.write(b"lost")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"0123456789"]
    log.write(b"later")
    assert (tmp_path / "console.log.0").read_bytes() == b"0123456789"
    assert (tmp_path / "console.log").read_bytes() == b"later"


def test_the_other_log_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "qemu.log"
    recorder.cut(str(path), 10)
    with path.open("ab", buffering=0) as stream:
        stream.write(b"x" * 10)
        recorder.cut(str(path), 10)
        assert path.stat().st_size == 10
        stream.write(b"x")
        recorder.cut(str(path), 10)
        stream.write(b"y")
    assert path.read_bytes() == b"y"


def test_it_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / "console.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        recorder.Log(str(tmp_path / "console.log"), str(tmp_path / "console.log.0"), 10)


def test_the_program_runs_by_itself_and_ends_with_the_last_writer(tmp_path: Path) -> None:
    (tmp_path / "recorder.py").write_bytes(systemd.program_of(recorder))
    reader, writer = os.pipe()
    argv = [
        sys.executable,
        "-I",
        "-S",
        "recorder.py",
        recorder.RECORD,
        str(reader),
        "console.log",
        "console.log.0",
        "qemu.log",
    ]
    with subprocess.Popen(argv, cwd=tmp_path, pass_fds=[reader]) as process:
        os.close(reader)
        os.write(writer, b"a line\n")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        os.close(writer)
        assert process.wait(20) == 0
    assert (tmp_path / "console.log").read_bytes() == b"a line\n"


@pytest.fixture
def qemu(tmp_path: Path) -> t.Iterator[subprocess.Popen[bytes]]:
    """A process with the name of QEMU that appends to the console log what it reads, as QEMU does by itself."""
    program = "import os, sys\nos.write(2, b'.')\nwhile data := os.read(0, 65536): os.write(1, data)"
    argv, pipe = ["qemu-of-the-test", "-c", program], subprocess.PIPE
    with (tmp_path / "console.log").open("ab") as log:
        process = subprocess.Popen(argv, executable=sys.executable, stdin=pipe, stdout=log, stderr=pipe)
    # It has its name only a moment after it was started.
    assert process.stderr and process.stderr.read(1) == b"."
    yield process
    process.kill()
    process.communicate()


def test_a_log_that_qemu_writes_itself_is_begun_anew(tmp_path: Path) -> None:
    path, earlier = tmp_path / "console.log", tmp_path / "console.log.0"
    with path.open("ab", buffering=0) as stream:
        stream.write(b"0123456789")
        recorder.begin_anew(str(path), str(earlier), 10)
        assert not earlier.exists()
        stream.write(b"abc")
        (tmp_path / "console.log.0.tmp").write_bytes(b"of one that was killed")
        recorder.begin_anew(str(path), str(earlier), 10)
        stream.write(b"later")
    assert (earlier.read_bytes(), path.read_bytes()) == (b"3456789abc", b"later")
    assert sorted(os.listdir(tmp_path)) == ["console.log", "console.log.0"]


def test_where_there_is_no_room_it_is_emptied_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, earlier = tmp_path / "console.log", tmp_path / "console.log.0"
    path.write_bytes(b"0123456789")
    monkeypatch.setattr(os, "write", no_room)
    recorder.begin_anew(str(path), str(earlier), 5)
    assert path.read_bytes() == b""
    assert os.listdir(tmp_path) == ["console.log"]
    path.unlink()
    path.symlink_to(earlier)
    earlier.write_bytes(b"0123456789")
    recorder.begin_anew(str(path), str(tmp_path / "other"), 5)
    assert earlier.read_bytes() == b"0123456789"


def test_the_log_is_bounded_until_qemu_ends(tmp_path: Path, qemu: subprocess.Popen[bytes]) -> None:
    assert consoles.bound_log(Runtime(run), "web", str(tmp_path))
    assert qemu.stdin
    for dummy in range(3):
        qemu.stdin.write(b"x" * (2 * recorder.LIMIT))
    qemu.stdin.write(b"the end")
    qemu.stdin.flush()

    def size() -> int:
        return sum(path.stat().st_size for path in tmp_path.glob("console.log*"))

    end = time.monotonic() + 30
    while size() > 2 * recorder.LIMIT or not (tmp_path / "console.log.0").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    both = (tmp_path / "console.log.0").read_bytes() + (tmp_path / "console.log").read_bytes()
    assert both.endswith(b"xthe end")
    qemu.kill()
    qemu.wait()
    while any(works_in(pid, tmp_path) for pid in recorders()):
        assert time.monotonic() < end
        time.sleep(0.05)


def works_in(pid: str, place: Path) -> bool:
    """Whether a process is there and has that working directory."""
    with contextlib.suppress(OSError):
        return os.path.samefile(f"/proc/{pid}/cwd", place)
    return False


def recorders() -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if b"recorder.py\0cut" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.stat(f"/proc/{pid}/cwd")
                found.append(pid)
    return found


def test_what_somebody_else_writes_is_theirs(tmp_path: Path) -> None:
    assert not consoles.bound_log(Runtime(run), "web", str(tmp_path))
    with (tmp_path / "console.log").open("ab"):  # as virtlogd does
        assert not consoles.bound_log(Runtime(run), "web", str(tmp_path))
    assert not (tmp_path / "recorder.py").exists()
