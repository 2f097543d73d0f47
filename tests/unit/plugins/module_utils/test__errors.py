# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import inspect

import pytest

from ansible_collections.minicloud.local.plugins.module_utils import _errors
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    ChecksumMismatch,
    ImageError,
    LaunchError,
    MinicloudError,
)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (("the disk is full",), "the disk is full."),
        (("the disk is full", "no space left"), "the disk is full: no space left."),
        (("the disk is full", "  no space left\n"), "the disk is full: no space left."),
        (("the disk is full", "no space left.", "Free some."), "the disk is full: no space left. Free some."),
        (("the disk is full", "", "Free some."), "the disk is full. Free some."),
        (("is it full?",), "is it full?"),
        (("it is full!", "", "Free some."), "it is full! Free some."),
    ],
)
def test_text_is_made_of_sentences(parts, text):
    assert str(MinicloudError(*parts)) == text


def test_parts_and_facts_are_kept():
    error = MinicloudError("what", "why", "Hint.", rc=3, cmd=["a", "b"])
    assert (error.what, error.why, error.hint) == ("what", "why", "Hint.")
    assert error.facts == {"rc": 3, "cmd": ["a", "b"]}


def test_launch_error_tells_its_stage():
    error = LaunchError("boot", "web did not boot", "the kernel panicked", console=["panic"])
    assert error.stage == "boot"
    assert error.facts == {"stage": "boot", "console": ["panic"]}
    assert str(error) == "web did not boot: the kernel panicked."


def test_a_checksum_mismatch_is_an_image_error():
    with pytest.raises(ImageError, match="not what its checksum promises"):
        raise ChecksumMismatch("the image is not what its checksum promises")


def test_all_errors_have_one_root_and_say_what_they_are_for():
    classes = [c for _name, c in inspect.getmembers(_errors, inspect.isclass) if issubclass(c, Exception)]
    assert MinicloudError in classes
    assert [c for c in classes if not issubclass(c, MinicloudError)] == []
    assert [c for c in classes if not (c.__doc__ or "").strip()] == []
