# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The errors of the collection: each says what failed, why, and what to do about it."""

from __future__ import annotations

import typing as t


def shown(text: str) -> str:
    """A text for people, in which a guest or a server may have had a say: nothing in it that a terminal would obey.

    What was no text, and was decoded to half of a surrogate pair, is left for whoever writes it.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == "\n" or "\ud800" <= each <= "\udfff" else " " if each.isspace() else "?"
        for each in text
    )


class MinicloudError(Exception):
    """The root of all errors that the collection raises on purpose.

    what -- what was attempted or is wrong, one clause without a final full stop
    why  -- the cause, in the words of whoever knows it (a hypervisor, a server, the system)
    hint -- what the user can do about it, as a sentence
    facts -- evidence as data; it becomes part of the failed module's result
    """

    def __init__(self, what: str, why: str = "", hint: str = "", **facts: t.Any) -> None:
        super().__init__(what, why, hint)
        self.what = what
        self.why = why
        self.hint = hint
        self.facts = facts

    @property
    def kind(self) -> str:
        """What the key `error` of a failed task's result says: one of KINDS."""
        return next(cls.__name__ for cls in type(self).__mro__ if cls.__name__ in KINDS)

    def __str__(self) -> str:
        text = self.what
        if self.why:
            text = f"{text}: {self.why.strip()}"
        if not text.endswith((".", "!", "?")):
            text += "."
        return shown(f"{text} {self.hint}" if self.hint else text)


class InvalidOption(MinicloudError):
    """What the user wrote cannot be meant; nothing was changed."""


class NotSupported(MinicloudError):
    """The chosen driver lacks a capability that the request needs; nothing was changed."""


class RestartRequired(MinicloudError):
    """A change needs the instance stopped, and the user did not allow that."""


class MissingRequirement(MinicloudError):
    """A program, library, device or permission is missing on this host."""


class NotFound(MinicloudError):
    """The instance, image or other object that was named does not exist."""


class InUse(MinicloudError):
    """The object cannot be removed or taken because something else uses it."""


class Busy(MinicloudError):
    """Another run holds the lock, and went on holding it until the time was up."""


class RecordError(MinicloudError):
    """A file of scope storage is damaged, unreadable, or written by a newer version."""


class CommandFailed(MinicloudError):
    """A command ended with an error; facts hold cmd, rc, stdout and stderr."""


class ImageError(MinicloudError):
    """An image could not be found, fetched, built, verified or prepared."""


class ChecksumMismatch(ImageError):
    """An image's content is not what its checksum promises."""


class BadSignature(ImageError):
    """The list of an image host is not signed by whom it should be, or was changed since."""


class Unreachable(ImageError):
    """An image host could not be asked, and nothing that can be used instead is here."""


class NoSpace(MinicloudError):
    """A file system is full, or too small for what was asked."""


class HostError(MinicloudError):
    """The operating system refused, or failed at, something with a file or a process."""


class HypervisorError(MinicloudError):
    """The hypervisor refused or failed to do what a driver asked of it."""


class SwitchIncomplete(MinicloudError):
    """A switch of the active driver has stopped halfway; the next run goes on with it. facts -- instances, by name."""


class CloudIncomplete(MinicloudError):
    """Some parts of a cloud are not as they should be; the next run goes on with them. facts -- cloud"""


class LaunchError(MinicloudError):
    """An instance did not become ready.

    facts -- stage (image, create, boot, address, ssh or cloud-init) and the evidence
    that exists for it: console (last lines), hypervisor_log (last lines), cloud_init_errors.
    """

    def __init__(self, stage: str, what: str, why: str = "", hint: str = "", **facts: t.Any) -> None:
        super().__init__(what, why, hint, stage=stage, **facts)
        self.stage = stage


# All that `error` can be in a failed task's result. What is raised is one of these, or a special case of one that only
# the code distinguishes.
KINDS = frozenset(
    cls.__name__
    for cls in (
        *(InvalidOption, NotSupported, RestartRequired, MissingRequirement, NotFound, InUse, Busy, RecordError),
        *(CommandFailed, ImageError, ChecksumMismatch, BadSignature, Unreachable, NoSpace, HostError),
        *(HypervisorError, SwitchIncomplete, CloudIncomplete, LaunchError),
    )
)
