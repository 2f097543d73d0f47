# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Decompression of images while they arrive, in bounded memory and up to a bound of what may come out."""

from __future__ import annotations

import os
import threading
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    ImageError,
    MinicloudError,
    NoSpace,
)
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._images.flow import CHUNK, write_all
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    GIB,
    MIB,
    format_size,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import (
    LONG_COMMAND_TIMEOUT,
    Runtime,
    find_program,
)
from ansible_collections.minicloud.local.plugins.module_utils._writing import made_anew

MAGIC = (
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
)

# What a decoder may take for itself; `xz -9` needs 65 MiB, `zstd --ultra -22` 128 MiB. What needs more than a little
# is left to the program xz where that is installed, for this process shall stay small.
XZ_MEMORY = 160 * MIB
XZ_OWN_MEMORY = 34 * MIB
ZSTD_WINDOW_LOG = 27

# Enough of the beginning to know how the rest is compressed.
_HEAD = 2048

# No disk image shrinks more than this; what does is a bomb, unless it stays below what is harmless.
HIGHEST_RATIO = 1000
HARMLESS = 64 * GIB

# Left free for the rest of the host.
RESERVE = 8 * MIB

_ZEROS = bytes(64 * 1024)


def compression(head: bytes) -> str:
    """How a file that begins with HEAD (at least 6 bytes) is compressed: xz, gzip, zstd, bzip2, or empty."""
    return next((name for magic, name in MAGIC if head.startswith(magic)), "")


def free_space(path: str) -> int:
    """The bytes that may still be written to the file system of PATH, less a reserve."""
    status = os.statvfs(path)
    return max(0, status.f_bavail * status.f_frsize - RESERVE)


class Decoder(t.Protocol):
    """What the decompressors of the standard library have in common."""

    @property
    def eof(self) -> bool:
        """Whether the end of the compressed data has come."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes out until something goes in."""

    @property
    def unused_data(self) -> bytes:
        """What came after the end."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most max_length bytes of what DATA, and the data before it, contains."""


class _Gunzip:
    """zlib's decompressor in the shape of the others."""

    def __init__(self) -> None:
        import zlib

        self._inner = zlib.decompressobj(31)
        self._hungry = True

    @property
    def needs_input(self) -> bool:
        return self._hungry

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self._hungry = len(out) < max_length
        return out


class Sink(t.Protocol):
    """Takes what comes out of a compressed image, in order."""

    def write(self, data: bytes) -> None:
        """The next bytes."""

    def close(self) -> None:
        """Nothing more comes."""


def check_growth(size: int, compressed: int, limit: int | None = None) -> None:
    """Raise where SIZE bytes came out of so many compressed ones, and that cannot be honest.

    limit -- the bytes that may come out, where somebody has said how many there are
    """
    bound = limit if limit is not None else max(HARMLESS, HIGHEST_RATIO * compressed)
    if size > bound:
        raise ImageError(
            "the image was not decompressed",
            f"more than {format_size(bound)} came out of {format_size(compressed)}, which no image does",
            "Check where the image comes from; it looks made to fill disks.",
        )


class Sparse:
    """A file that is written from its beginning to its end, with holes for zeros."""

    def __init__(self, path: str, limit: int | None, compressed: t.Callable[[], int]) -> None:
        """limit -- bytes that may come out; None: as many as fit. compressed -- the bytes that went in so far"""
        self.path = path
        self.size = 0
        self._data = 0
        self._limit = limit
        self._compressed = compressed
        self._free = free_space(os.path.dirname(path))
        with explained(f"{path} could not be written"):
            self._stream = open(made_anew(path), "wb", buffering=0)  # noqa: SIM115

    def write(self, data: bytes) -> None:
        """The next bytes."""
        self.size += len(data)
        check_growth(self.size, self._compressed(), self._limit)
        with explained(f"{self.path} could not be written"):
            start = 0
            while start < len(data):
                stop = start
                while stop < len(data) and data[stop : stop + len(_ZEROS)] != _ZEROS[: len(data) - stop]:
                    stop += len(_ZEROS)
                stop = min(stop, len(data))
                if stop > start:
                    self._data += stop - start
                    if self._data > self._free:
                        raise NoSpace(
                            "the image was not decompressed",
                            f"more than the {format_size(self._free)} that are free came out of it",
                            "Free some space on that file system, or use another data_dir.",
                        )
                    write_all(self._stream, data[start:stop])
                    start = stop
                else:
                    start = min(start + len(_ZEROS), len(data))
                    self._stream.seek(self.size - len(data) + start)

    def close(self) -> None:
        """Nothing more comes; zeros at the end count."""
        with explained(f"{self.path} could not be written"):
            self._stream.truncate(self.size)
            self._stream.close()


class Unpacker:
    """An outlet that writes what a compressed image contains to a file, and does nothing for others."""

    def __init__(self, target: str, runtime: Runtime, limit: int | None = None, sink: Sink | None = None) -> None:
        """limit -- as in check_growth(); sink -- takes what comes out, instead of the file TARGET"""
        self.target = target
        self.kind = ""
        self._runtime = runtime
        self._limit = limit
        self._fed = 0
        self._head: bytes | None = b""
        self._make: t.Callable[[], Decoder] | None = None
        self._decoder: Decoder | None = None
        self._program: Piped | None = None
        self._sink = sink
        self._out: Sink | None = None

    @property
    def fed(self) -> int:
        """The compressed bytes so far."""
        return self._fed

    def feed(self, data: bytes) -> None:
        """The next bytes, in order."""
        self._fed += len(data)
        if self._head is not None:
            data = self._head + data
            if len(data) < _HEAD:
                self._head = data
                return
            self._begin(data)
        self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        if self._program:
            self._program.feed(data)
        elif self._decoder:
            self._decode(data, self._decoder)

    def _begin(self, head: bytes) -> None:
        self._head = None
        self.kind = compression(head)
        if not self.kind:
            return
        self._out = self._sink or Sparse(self.target, self._limit, lambda: self._fed)
        self._make = _decoder(self.kind, self._runtime, head)
        if self._make:
            self._decoder = self._make()
        else:
            self._program = _program(self.kind, self._runtime, self._out)

    def _decode(self, data: bytes, decoder: Decoder) -> None:
        out_file, make = t.cast(Sink, self._out), t.cast(t.Callable[[], Decoder], self._make)
        while True:
            if decoder.eof:
                # Compressed files may consist of several streams, with padding between them.
                data = (decoder.unused_data + data).lstrip(b"\0")
                if not data:
                    return
                decoder = self._decoder = make()
            try:
                out = decoder.decompress(data, 4 * CHUNK)
            except (OSError, ValueError, EOFError) as exc:
                raise _damaged(self.kind, str(exc)) from exc
            except Exception as exc:
                # zlib's and lzma's own errors have no better base.
                if "emory" in str(exc):
                    raise _too_greedy() from exc
                raise _damaged(self.kind, str(exc)) from exc
            data = b""
            if out:
                out_file.write(out)
            if not decoder.eof and decoder.needs_input:
                return

    def finish(self) -> None:
        """That was all."""
        if self._head is not None:
            head = self._head
            self._begin(head)
            self._pass_on(head)
        if self._program:
            self._program.finish()
        elif self._decoder and not self._decoder.eof:
            raise _damaged(self.kind, "it ends too early")
        if self._out:
            self._out.close()

    def abandon(self) -> None:
        """There will be no more."""
        if self._program:
            self._program.stop()
        if self._out:
            self._out.close()


def _damaged(kind: str, why: str) -> ImageError:
    return ImageError(
        "the image was not decompressed",
        f"its {kind} data is damaged: {why}",
        "Fetch the file anew from where it comes from, and compare its checksum.",
    )


def _too_greedy() -> ImageError:
    return ImageError(
        "the image was not decompressed",
        f"it needs more than {format_size(XZ_MEMORY)} of memory for that",
        "Compress it anew with a smaller dictionary, such as xz -9 or below.",
    )


def _decoder(kind: str, runtime: Runtime, head: bytes) -> t.Callable[[], Decoder] | None:
    """What makes decompressors of this kind, for a file that begins with HEAD; None where a program must do it."""
    if kind == "gzip":
        return _Gunzip
    try:
        if kind == "xz":
            import lzma

            try:
                lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_OWN_MEMORY).decompress(head, 1)
            except lzma.LZMAError as exc:
                if "emory" in str(exc) and find_program("xz"):
                    return None
            return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY)
        if kind == "bzip2":
            import bz2

            return bz2.BZ2Decompressor
        from compression import zstd  # type: ignore[import-not-found,unused-ignore] # Python 3.14 has it

        options = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
        return lambda: zstd.ZstdDecompressor(options=options)  # type: ignore[no-any-return,unused-ignore]
    except ImportError as exc:
        if kind == "zstd":
            runtime.program("zstd", purpose="to decompress the image, because this Python cannot")
            return None
        raise ImageError(
            "the image was not decompressed", f"this Python has no support for {kind} ({exc})", "Use another Python."
        ) from exc


class Piped:
    """A program between two pipes: one thread runs it, another writes what it puts out."""

    def __init__(
        self, argv: t.Sequence[str], runtime: Runtime, out: Sink, failed: t.Callable[[str], MinicloudError]
    ) -> None:
        """failed -- the error for what the program says when it fails"""
        self._failed = failed
        theirs_in, self._input = os.pipe()
        self._output, theirs_out = os.pipe()
        self._out = out
        self._error: BaseException | None = None
        # Its own standard streams belong to the runner, which keeps what is written there.
        command = ["sh", "-c", f'exec "$@" </dev/fd/{theirs_in} >/dev/fd/{theirs_out}', "sh", *argv]

        def run() -> None:
            try:
                # It takes as long as what comes in does.
                done = runtime.run(command, pass_fds=(theirs_in, theirs_out), timeout=LONG_COMMAND_TIMEOUT)
                if done.rc != 0:
                    name = os.path.basename(argv[0])
                    self._fail(failed(done.err.strip() or f"{name} ended with status {done.rc}"))
            except BaseException as exc:
                self._fail(exc)
            finally:
                os.close(theirs_in)
                os.close(theirs_out)

        def drain() -> None:
            with open(self._output, "rb", buffering=0) as stream:
                try:
                    while True:
                        data = stream.read(CHUNK)
                        if not data:
                            return
                        self._out.write(data)
                except BaseException as exc:
                    # Noted before the pipe is closed: that ends the program, and its end is not the cause.
                    self._fail(exc)

        self._threads = [threading.Thread(target=target, daemon=True) for target in (run, drain)]
        for thread in self._threads:
            thread.start()

    def _fail(self, exc: BaseException) -> None:
        self._error = self._error or exc

    def feed(self, data: bytes) -> None:
        """The next bytes for the program."""
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._input, rest) :]
        except BrokenPipeError:
            self.stop()
            raise self._error or self._failed("it ended early") from None

    def finish(self) -> None:
        """That was all; return when the program has ended, and all of its output was written."""
        self.stop()
        if self._error:
            raise self._error

    def stop(self) -> None:
        """Nothing more comes, and what becomes of it does not matter."""
        if self._input >= 0:
            os.close(self._input)
            self._input = -1
        for thread in self._threads:
            thread.join()


def _program(kind: str, runtime: Runtime, out: Sink) -> Piped:
    """`zstd` or `xz`, decompressing."""
    if kind == "zstd":
        argv = [runtime.program(kind), "-dcqf", "--no-sparse", f"--memory={1 << (ZSTD_WINDOW_LOG - 20)}MB"]
    else:
        argv = [runtime.program(kind), "-dcq", "--no-sparse", f"--memlimit-decompress={XZ_MEMORY}"]
    return Piped(argv, runtime, out, lambda said: _too_greedy() if "limit" in said else _damaged(kind, said))
