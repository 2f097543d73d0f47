# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decompression while bytes arrive."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import shutil
import subprocess
import sys

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError, MissingRequirement, NoSpace
from ansible_collections.minicloud.local.plugins.module_utils._images import unpack
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime

PLAIN = random.Random(2).getrandbits(8 * 300_000).to_bytes(300_000, "big") + bytes(3_000_000) + b"end" + bytes(100_000)


def zstd(data):
    if not shutil.which("zstd"):
        pytest.skip("zstd is not installed")
    return subprocess.run(["zstd", "-q", "-c"], input=data, check=True, capture_output=True).stdout


PACKERS = {"xz": lzma.compress, "gzip": gzip.compress, "bzip2": bz2.compress, "zstd": zstd}


def feed(unpacker, data, step=10_000):
    for start in range(0, len(data), step):
        unpacker.feed(data[start : start + step])
    unpacker.finish()


def unpacked(path):
    with open(path, "rb") as stream:
        return stream.read()


@pytest.fixture
def target(tmp_path):
    return str(tmp_path / "out")


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("step", [1, 1000, 1 << 20])
def test_it_comes_out_as_it_was(runtime, target, kind, step):
    packed = PACKERS[kind](PLAIN)
    if step == 1:
        packed = PACKERS[kind](PLAIN[:20_000])
    unpacker = unpack.Unpacker(target, runtime)
    feed(unpacker, packed, step)
    assert unpacker.kind == kind
    assert unpacked(target) == (PLAIN[:20_000] if step == 1 else PLAIN)


@pytest.mark.parametrize("kind", PACKERS)
def test_several_streams_in_a_row(runtime, target, kind):
    feed(unpack.Unpacker(target, runtime), PACKERS[kind](PLAIN) + PACKERS[kind](PLAIN[::-1]), 777)
    assert unpacked(target) == PLAIN + PLAIN[::-1]


def test_padding_between_and_after_streams(runtime, target):
    packed = lzma.compress(PLAIN)
    feed(unpack.Unpacker(target, runtime), packed + bytes(8) + packed + bytes(4), 1000)
    assert unpacked(target) == PLAIN + PLAIN


def test_holes_stay_holes(runtime, target):
    feed(unpack.Unpacker(target, runtime), gzip.compress(PLAIN))
    assert os.stat(target).st_blocks * 512 < 600_000


def test_what_is_not_compressed_is_left_alone(runtime, target):
    unpacker = unpack.Unpacker(target, runtime)
    feed(unpacker, b"QFI\xfb" + PLAIN)
    assert unpacker.kind == ""
    assert not os.path.exists(target)


@pytest.mark.parametrize("kind", PACKERS)
def test_an_early_end_is_an_error(runtime, target, kind):
    packed = PACKERS[kind](PLAIN)
    with pytest.raises(ImageError, match="damaged"):
        feed(unpack.Unpacker(target, runtime), packed[:-20])


@pytest.mark.parametrize("kind", PACKERS)
def test_damage_is_an_error(runtime, target, kind):
    packed = bytearray(PACKERS[kind](PLAIN))
    packed[100_000:100_100] = bytes(100)
    with pytest.raises(ImageError, match="damaged"):
        feed(unpack.Unpacker(target, runtime), bytes(packed))


@pytest.mark.parametrize("kind", PACKERS)
def test_a_bomb_is_stopped(runtime, target, kind, monkeypatch):
    monkeypatch.setattr(unpack, "HARMLESS", 4 << 20)
    monkeypatch.setattr(unpack, "HIGHEST_RATIO", 100)
    bomb = PACKERS[kind](bytes(64 << 20))
    unpacker = unpack.Unpacker(target, runtime)
    with pytest.raises(ImageError, match="which no image does"):
        feed(unpacker, bomb)
    unpacker.abandon()
    assert unpacker._out.size <= 12 << 20


@pytest.mark.parametrize("kind", PACKERS)
def test_more_than_was_stated_is_stopped(runtime, target, kind):
    unpacker = unpack.Unpacker(target, runtime, limit=1_000_000)
    with pytest.raises(ImageError, match="more than 976"):
        feed(unpacker, PACKERS[kind](PLAIN))
    unpacker.abandon()


@pytest.mark.parametrize("kind", PACKERS)
def test_more_than_fits_is_stopped(runtime, target, kind, monkeypatch):
    monkeypatch.setattr(unpack, "free_space", lambda path: 200_000)
    unpacker = unpack.Unpacker(target, runtime)
    with pytest.raises(NoSpace, match="are free came out of it"):
        feed(unpacker, PACKERS[kind](PLAIN))
    unpacker.abandon()


@pytest.mark.parametrize("with_program", [True, False])
def test_a_huge_dictionary_is_refused(runtime, target, monkeypatch, with_program):
    if not with_program:
        monkeypatch.setattr(unpack, "find_program", lambda name: None)
    packed = lzma.compress(PLAIN, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 512 << 20}])
    with pytest.raises(ImageError, match="needs more than 160 MiB of memory"):
        feed(unpack.Unpacker(target, runtime), packed)


@pytest.mark.parametrize("with_program", [True, False])
def test_the_largest_ordinary_dictionary_is_not(runtime, target, monkeypatch, with_program):
    if not with_program:
        monkeypatch.setattr(unpack, "find_program", lambda name: None)
    unpacker = unpack.Unpacker(target, runtime)
    feed(unpacker, lzma.compress(PLAIN, preset=9), 1000)
    assert unpacked(target) == PLAIN
    assert (unpacker._program is not None) == (with_program and shutil.which("xz") is not None)


def test_zstd_without_zstd(target, monkeypatch, tmp_path):
    if sys.version_info >= (3, 14):
        pytest.skip("this Python brings zstd")
    from ansible_collections.minicloud.local.plugins.module_utils import _runtime

    monkeypatch.setattr(_runtime, "find_program", lambda name: None)
    with pytest.raises(MissingRequirement, match=r"zstd.*Install the package zstd"):
        feed(unpack.Unpacker(target, Runtime(run)), b"\x28\xb5\x2f\xfd" + PLAIN)


def test_a_zstd_that_does_not_start(target):
    def refuse(argv, **kwargs):
        return Completed(127, "", "zstd: cannot do that")

    packed = zstd(PLAIN)
    with pytest.raises(ImageError):
        feed(unpack.Unpacker(target, Runtime(refuse)), packed)
