# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The console of an instance: what it says about its boot, and whether that has failed for good.

Whoever is root in a guest writes there what they like. So what is read at once is bounded, lines are cut, and no
expression below takes longer than in proportion to the text: none has two parts of any length.
"""

from __future__ import annotations

import os
import re
import typing as t

# Lines after which a boot does not go on by itself.
_FATAL = re.compile(
    r"Kernel panic - not syncing"
    r"|(?:You are in|Welcome to|Entering) (?:emergency|rescue) mode"
    r"|initramfs emergency recovery shell launched"
    r"|Dropping to a shell!"
    r"|^\(initramfs\)"
    r"|^grub rescue>"
    r"|No bootable (?:device|option)"
)
# Lines that do not end a boot but explain why an instance may never be reached.
_TELLING = re.compile(
    r"No instance datasource found|Used fallback datasource"
    r"|Failed to start .{0,80}?(?:cloud-init|OpenSSH|sshd|network)"
    r"|cloud-init.{0,80}?Traceback|Out of memory: Killed process|I/O error, dev|No space left on device",
    re.IGNORECASE,
)
_LOGIN_USER = re.compile(r"Authorized keys from \S{1,255} for user ([A-Za-z_][\w.-]{0,255}\$?)")
_CLOUD_INIT = re.compile("cloud-init", re.IGNORECASE)
_FINISHED = re.compile(r"Cloud-init v\. \S{1,80} finished at ")
# A login prompt: the boot has ended.
_PROMPT = re.compile(r"^[\w.-]{1,64} login: ?$", re.MULTILINE)
# The last words of a guest that goes down by itself.
_DOWN = re.compile(
    r"reboot: (?:Power down|System halted)|Reached target .{0,40}?(?:Power.?Off|Halt)|Powering off"
    r"|System is powering down|The system is going down"
    r"|Sent SIG\w{1,8} to all processes|Requesting system (?:poweroff|halt)",
    re.IGNORECASE,
)
_CONTROL = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles and the like
    r"|\x1b\[[0-?]*[ -/]*[@-~]"  # colours, cursor movements
    r"|\x1b[@-Z\\-_cNO78=>]"
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)
_CHUNK = 256 * 1024
# What is put behind the name of a log for the part before the current one; libvirt's log daemon does the same.
EARLIER = ".0"
_LONGEST_LINE = 4096
# Bytes of new text that one look takes in: a guest that writes faster than it is read must not keep the reader.
_MOST_AT_ONCE = 4 << 20
_MOST_NOTES, _LONGEST_NOTE = 5, 300


def clean(text: str) -> list[str]:
    """The lines of console output as a person would have seen them, without control sequences and empty lines."""
    lines = (
        _CONTROL.sub("", line[-_LONGEST_LINE:].rstrip("\r")).rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")
    )
    return [line for line in lines if line]


def plain(text: str, limit: int) -> str:
    """What a guest has said, fit for other people's terminals: the last LIMIT characters, without control sequences."""
    return "\n".join(clean(text[-limit:]))


def tail(path: str, lines: int = 30, limit: int = 64 * 1024) -> list[str]:
    """The last LINES lines of the console log at PATH, taken from its last LIMIT bytes; none where there is no log.

    Where the log was begun anew for want of room, its end is still in the part before it.
    The tables that cloud-init draws of devices, routes and keys are left out: they push away what matters.
    """
    try:
        content, cut = _end_of(path, limit)
    except OSError:
        return []
    found = clean(content.decode("utf-8", "replace"))
    if cut:
        found = found[1:]  # its beginning is cut off
    return [line for line in found if "ci-info: " not in line][-lines:]


def _end_of(path: str, limit: int) -> tuple[bytes, bool]:
    """The last LIMIT bytes of a log, and whether there is more before them."""
    content = b""
    for name in (path, f"{path}{EARLIER}"):
        try:
            with open(name, "rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                room = limit - len(content)
                stream.seek(max(0, size - room))
                content = stream.read(room) + content
        except OSError:
            if name == path:
                raise
            return content, False
        if size > room:
            return content, True
    return content, False


def went_down(path: str) -> bool:
    """Whether a guest has said at the end of its console log that it goes down by itself."""
    return any(_DOWN.search(line) for line in tail(path, 60))


def login_user_from(text: str) -> str | None:
    """The user to whom cloud-init gave the login keys, as it prints on the console at the end of a first boot."""
    users = [user for user in _LOGIN_USER.findall(text) if user != "root"]
    return users[-1] if users else None


class ConsoleWatch:
    """Follows a console log from OFFSET (bytes) on, in bounded memory; a truncated or replaced log is begun anew.

    refresh -- brings the log up to date before each look
    problem -- the line with which the boot has failed for good, empty while it has not
    notes -- the first few lines that explain trouble without ending the boot
    login_user -- the user who got the login keys, empty until cloud-init prints it
    cloud_init_seen -- whether anything was said of cloud-init; cloud_init_finished -- whether it has said that it has:
    it prints the login user before
    prompts -- whether the guest lets people log in at its console: it has booted
    """

    def __init__(self, path: str, offset: int = 0, refresh: t.Callable[[], None] = lambda: None) -> None:
        self.path = path
        self.refresh = refresh
        self.problem = ""
        self.notes: list[str] = []
        self.login_user = ""
        self.cloud_init_seen = False
        self.cloud_init_finished = False
        self.prompts = False
        self._offset = offset
        self._inode = 0
        self._rest = b""

    def poll(self) -> None:
        """Take in what the console has said since the last call."""
        self.refresh()
        try:
            with open(self.path, "rb") as stream:
                self._follow(stream)
        except OSError:
            return

    def _follow(self, stream: t.BinaryIO) -> None:
        status = os.fstat(stream.fileno())
        if status.st_size < self._offset or self._inode not in (0, status.st_ino):
            self._offset = 0
            self._rest = b""
        self._inode = status.st_ino
        if status.st_size - self._offset > _MOST_AT_ONCE:
            self._offset = status.st_size - _MOST_AT_ONCE
            self._rest = b""
        stream.seek(self._offset)
        while self._offset < status.st_size:
            chunk = stream.read(min(_CHUNK, status.st_size - self._offset))
            if not chunk:
                return
            self._offset += len(chunk)
            whole, newline, rest = (self._rest + chunk).rpartition(b"\n")
            # A prompt such as "(initramfs)" ends without a newline: the rest is looked at now and again with its end.
            self._rest = rest[-_LONGEST_LINE:]
            self._examine((whole + newline + self._rest).decode("utf-8", "replace"))

    def _examine(self, text: str) -> None:
        self.login_user = login_user_from(text) or self.login_user
        self.cloud_init_seen = self.cloud_init_seen or bool(_CLOUD_INIT.search(text))
        self.cloud_init_finished = self.cloud_init_finished or bool(_FINISHED.search(text))
        self.prompts = self.prompts or bool(_PROMPT.search(text))
        for line in clean(text):
            shown = line.strip()[:_LONGEST_NOTE]
            if not self.problem and _FATAL.search(line):
                self.problem = shown
            if len(self.notes) < _MOST_NOTES and shown not in self.notes and _TELLING.search(line):
                self.notes.append(shown)

    def tail(self, lines: int = 30) -> list[str]:
        """The last LINES lines of the log."""
        self.refresh()
        return tail(self.path, lines)
