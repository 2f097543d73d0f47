# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hostile disks, with the real qemu-img: what it can see, what is refused, and that nothing ends in a traceback."""

from __future__ import annotations

import os
import random
import shutil
import subprocess

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import CommandFailed, ImageError, MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._images import clean, confined, disk
from ansible_collections.minicloud.local.plugins.module_utils._images.confined import File, Layer, QemuImg
from ansible_collections.minicloud.local.plugins.module_utils._images.root import RootScan
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._images import foreign

pytestmark = pytest.mark.skipif(not shutil.which("qemu-img"), reason="this host has no qemu-img")

SECRET = b"of this host only"


@pytest.fixture
def bait(tmp_path):
    """A file of the host that is nobody's business, and large enough to be a disk."""
    path = tmp_path / "bait"
    path.write_bytes(foreign.bootable()[:512] + SECRET.ljust(512, b"!") * 2047)
    return str(path)


@pytest.fixture
def enclosed(runtime):
    if not confined.confined(runtime):
        pytest.skip("this host makes no namespaces for this user")


@pytest.fixture
def unenclosed(monkeypatch):
    monkeypatch.setattr(confined, "_obstacle", "unshare failed")


def found_in(directory, but):
    """The files below a directory that have the secret in them."""
    argv = ["grep", "-rlF", SECRET.decode(), str(directory)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)  # 1: in none
    return [path for path in done.stdout.split() if path not in but]


class TestHostileImages:
    @pytest.mark.parametrize("make", foreign.HOSTILE, ids=lambda make: make.__name__)
    @pytest.mark.parametrize("movable", [False, True])
    def test_none_brings_a_file_of_the_host(self, runtime, tmp_path, bait, make, movable):
        source = make(str(tmp_path / "source"), bait)
        target = str(tmp_path / "disk.qcow2")
        with pytest.raises(ImageError):
            disk.prepare(runtime, source, target, "x", movable)
        assert not os.path.exists(target)
        assert found_in(tmp_path, {bait}) == []

    @pytest.mark.parametrize("make", foreign.HOSTILE, ids=lambda make: make.__name__)
    @pytest.mark.usefixtures("unenclosed")
    def test_not_without_namespaces_either(self, runtime, tmp_path, bait, make):
        source = make(str(tmp_path / "source"), bait)
        with pytest.raises(ImageError):
            disk.prepare(runtime, source, str(tmp_path / "disk.qcow2"), "x")
        assert found_in(tmp_path, {bait}) == []

    @pytest.mark.parametrize("make", foreign.HOSTILE, ids=lambda make: make.__name__)
    @pytest.mark.usefixtures("enclosed")
    def test_what_qemu_sees_is_checked_even_if_our_own_reading_is_fooled(
        self, runtime, tmp_path, bait, make, monkeypatch
    ):
        """Whatever inspect() believes: the enclosed qemu-img finds nothing to copy."""
        source = make(str(tmp_path / "source"), bait)
        format_ = make.__name__.partition("_")[0].replace("vhd", "vpc").replace("vpcx", "vhdx")
        monkeypatch.setattr(confined, "refuse_other_files", lambda *args, **kwargs: None)
        monkeypatch.setattr(confined, "_check_info", lambda *args: None)
        tool = QemuImg(runtime, "x")
        if format_ in ("raw", "archive"):
            pytest.skip("there is nothing that QEMU could read otherwise")
        try:
            tool.info([Layer(source, format_)])
            tool.convert([Layer(source, format_)], str(tmp_path / "out.raw"), "raw", 4 << 20)
        except MinicloudError:
            assert not os.path.exists(tmp_path / "out.raw")
        assert found_in(tmp_path, {bait}) == []

    @pytest.mark.usefixtures("unenclosed")
    def test_without_namespaces_a_good_vmdk_is_refused_and_others_are_taken(self, runtime, tmp_path):
        raw = tmp_path / "raw"
        raw.write_bytes(foreign.bootable())
        for format_ in ("vmdk", "qcow2", "vpc", "vhdx", "vdi"):
            source = str(tmp_path / format_)
            foreign.qemu_img("convert", "-f", "raw", "-O", format_, raw, source)
            target = str(tmp_path / f"{format_}.qcow2")
            if format_ == "vmdk":
                with pytest.raises(ImageError, match="no namespace can be made here"):
                    disk.prepare(runtime, source, target, "x")
            else:
                assert disk.prepare(runtime, source, target, "x") >= 4 << 20


def small_images(tmp_path):
    """One good image in each format, as bytes."""
    raw = tmp_path / "raw"
    raw.write_bytes(foreign.bootable(1 << 20))
    yield "raw", raw.read_bytes()
    for format_ in ("vmdk", "qcow2", "vpc", "vdi", "vhdx"):
        foreign.qemu_img("convert", "-f", "raw", "-O", format_, raw, tmp_path / format_)
        yield format_, (tmp_path / format_).read_bytes()
    yield "gpt", foreign.bootable()[:512] + b"EFI PART" + bytes(1 << 16)


def inspected(path, content):
    """Whether a file with that content is taken; anything but ImageError is a fault."""
    path.write_bytes(content)
    try:
        disk.inspect(str(path), "x")
    except ImageError as exc:
        assert "x" in exc.what
    for start in clean.partitions(str(path)):
        clean._is_dirty(str(path), start)


class TestHeaders:
    def test_one_that_is_cut_anywhere_is_an_error_in_words(self, tmp_path):
        for dummy, content in small_images(tmp_path):
            for end in (*range(640), *range(640, 2100, 37), len(content) - 512, len(content) - 1):
                inspected(tmp_path / "cut", content[:end])

    def test_none_of_any_content_is_a_traceback(self, tmp_path):
        chance = random.Random(20)
        for dummy, content in small_images(tmp_path):
            head, tail = bytearray(content[:4096]), content[-512:]
            for dummy in range(400):
                changed = bytearray(head)
                for dummy in range(chance.choice((1, 1, 2, 8))):
                    offset = chance.randrange(len(changed))
                    value = chance.choice((b"\xff" * 8, bytes(8), chance.randbytes(4), chance.randbytes(1)))
                    changed[offset : offset + len(value)] = value
                inspected(tmp_path / "changed", bytes(changed) + tail)

    @pytest.mark.parametrize("size", ["9" * 5000, "1" * 21, "-1", "", "0x10", str(1 << 63)])
    def test_sizes_in_archives(self, runtime, size):
        scan = RootScan("x", runtime)
        with pytest.raises(ImageError):
            scan.feed(foreign.pax_archive(size))
            scan.finish()
            assert scan.root


@pytest.mark.usefixtures("enclosed")
class TestEnclosure:
    def shell(self, runtime, script, files=(), **kwargs):
        program = os.path.realpath(shutil.which("sh"))
        return confined.run(runtime, program, lambda names: ["-c", script, *names], files, **kwargs)

    def test_it_has_what_it_was_handed_and_libraries_and_no_more(self, runtime, tmp_path):
        (tmp_path / "file").write_text("content")
        script = (
            'echo /* /disk/*; read line <"$0"; echo "$line"; : >"$0"; for x in /etc/passwd /proc/1; do echo <$x; done'
        )
        done = self.shell(runtime, script, [File(str(tmp_path / "file"))])
        top, line, *rest = done.out.splitlines()
        assert not {"/home", "/root", "/proc", "/sys", "/tmp", "/var"} & set(top.split())
        assert top.split()[-1] == "/disk/0"
        assert (line, rest) == ("content", [])
        assert "Read-only" in done.err
        assert (tmp_path / "file").read_text() == "content"

    def test_it_changes_nothing_of_this_host(self, runtime, tmp_path):
        (tmp_path / "file").write_text("content")
        script = (
            "for x in /usr/lib/*.so* /usr/lib/*/*.so* /lib*/*.so* /usr/lib*/*.so* /etc/* /usr/bin/* /disk/*; do"
            ' [ ! -f "$x" ] || { echo "$x"; (: >>"$x") 2>&3 && echo "$x could be written" >&2; } done; exit 0'
        )
        done = self.shell(runtime, f"exec 3>/dev/null; {script}", [File(str(tmp_path / "file"))])
        seen = done.out.split()
        assert any("/libc.so" in name for name in seen)
        assert seen[-1] == "/disk/0"
        assert (done.rc, done.err) == (0, "")

    def test_what_it_may_write_it_can(self, runtime, tmp_path):
        (tmp_path / "file").write_text("content")
        os.chmod(tmp_path / "file", 0o600)
        assert self.shell(runtime, 'echo new >"$0"', [File(str(tmp_path / "file"), True)], writes=100).rc == 0
        assert (tmp_path / "file").read_text() == "new\n"
        done = self.shell(runtime, 'echo newer >"$0"', [File(str(tmp_path / "file"), True)], writes=3)
        assert done.rc != 0
        assert os.path.getsize(tmp_path / "file") <= 3

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to lose")
    def test_it_is_nobody_with_no_right_but_to_what_it_sees(self, runtime):
        program = os.path.realpath(shutil.which("setpriv"))
        done = confined.run(runtime, program, lambda dummy: ["--dump"], [])
        told = dict(line.split(": ", 1) for line in done.out.splitlines() if ": " in line)
        assert told["uid"] != "0"
        assert told["euid"] != "0"
        assert told["no_new_privs"] == "1"
        assert told["Supplementary groups"] == "[none]"
        for kind in ("Inheritable capabilities", "Ambient capabilities", "Capability bounding set"):
            assert told[kind] == "dac_override"

    def test_one_that_does_not_end_is_ended(self, runtime):
        with pytest.raises(ImageError, match="it had 1 seconds"):
            self.shell(runtime, "while :; do :; done", seconds=1)

    @pytest.mark.parametrize("kind", ["fifo", "directory", "device"])
    def test_only_regular_files_are_handed_in(self, runtime, tmp_path, kind):
        path = str(tmp_path / "x")
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "directory":
            os.mkdir(path)
        else:
            path = "/dev/null"
        with pytest.raises(ImageError, match="not a regular file"):
            self.shell(runtime, "true", [File(path)])

    def test_a_file_that_is_replaced_meanwhile_is_told(self, runtime, tmp_path):
        path = tmp_path / "x"
        path.write_text("one")
        (tmp_path / "y").write_text("another")
        run = runtime.run

        def swap(argv, **kwargs):
            os.replace(tmp_path / "y", path)
            return run(argv, **kwargs)

        runtime.run = swap
        with pytest.raises(ImageError, match="another file was put in its place"):
            self.shell(runtime, "true", [File(str(path))])

    def test_once_enclosed_never_without(self, runtime, monkeypatch, tmp_path):
        monkeypatch.setattr(confined, "_obstacle", "")
        runtime.run = lambda argv, **kwargs: Completed(1, "", "unshare: unshare failed: No space left on device")
        with pytest.raises(ImageError, match="could not be enclosed: unshare: unshare failed"):
            self.shell(runtime, "true")

    def test_errors_of_qemu_img_are_told_in_its_words(self, runtime, tmp_path):
        source = foreign.create(tmp_path / "x", "qcow2")
        with pytest.raises(CommandFailed, match="shrink") as caught:
            QemuImg(runtime, "the disk of web").resize([Layer(source, "qcow2")], 1 << 20)
        assert "json:" not in str(caught.value)
