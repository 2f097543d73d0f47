# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Cleaning the archive of a container while it comes: what goes is gone, and what stays is there byte by byte."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError
from ansible_collections.minicloud.local.plugins.module_utils._images.clean_root import CleanedRoot
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._images.archives import tar
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._images.test_publish import FILES

TEMPLATES = {
    "/seed/user-data": {"when": ["start"], "template": "x.tpl"},
    "/etc/motd": {"when": ["rename"], "template": "x.tpl"},
    "/strange": None,
}
METADATA = json.dumps({"templates": TEMPLATES}).encode()
MORE = {
    "var/lib/cloud/seed/nocloud-net/user-data": "password",
    "seed/user-data": "password",
    "etc/motd": "m",
    "var/log/journal/0123/system.journal": "0123",
    "var/lib/cloud/a\nb": "password",
    "usr/" + "long/" * 50 + "name": "l",
    "usr/grüße": "g",
}
GONE = (
    "etc/ssh/ssh_host", "var/lib/cloud/instances/", "var/lib/cloud/data", "var/lib/cloud/a", "var/log/cloud",
    "var/lib/systemd/random-seed", "nocloud-net", "seed/user-data", "var/log/journal/",
)  # fmt: skip


def cleaned(content, step=1 << 20):
    target = io.BytesIO()
    root = CleanedRoot("base", target.write)
    for start in range(0, len(content), step):
        root.write(content[start : start + step])
    root.close()
    return target.getvalue()


def files_of(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {each.name: each for each in archive.getmembers()}


def members(*added, form=tarfile.PAX_FORMAT):
    """An archive of members with their contents."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for member, content in added:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def member(name, **more):
    made = tarfile.TarInfo(f"rootfs/{name}")
    for key, value in more.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("step", [1 << 20, 700, 1])
def test_what_makes_an_instance_goes_and_all_else_stays(form, step):
    files = {f"rootfs/{name}": text.encode() for name, text in {**FILES, **MORE}.items()}
    content = tar({"metadata.yaml": METADATA, "templates/x.tpl": b"x", **files}, form=form)
    made = cleaned(content, step)
    before, after = files_of(content), files_of(made)
    gone = {name for name in before if name not in after}
    assert gone == {name for name in before if any(part in name for part in GONE)}
    assert {name: each.size for name, each in after.items()} == {
        name: 0 if name == "rootfs/etc/machine-id" else before[name].size for name in after
    }
    assert after["rootfs/etc/machine-id"].mode == before["rootfs/etc/machine-id"].mode
    assert b"password" not in made and b"0123456789abcdef" not in made
    assert cleaned(made) == made


def test_nothing_is_written_anew():
    attributes = {"SCHILY.xattr.user.x": "a\n20 path=rootfs/etc/ssh/ssh_host_x\n"}
    content = members(
        (tarfile.TarInfo("metadata.yaml"), b"{}"),
        (member("etc", type=tarfile.DIRTYPE), b""),
        (member("etc/ssh/ssh_host_keys", type=tarfile.DIRTYPE), b""),
        (member("etc/machine-id", type=tarfile.SYMTYPE, linkname="/data/machine-id"), b""),
        (member("usr/x", pax_headers=attributes, uid=1 << 30, mtime=1.5), b"content"),
        (member("usr/y", type=tarfile.LNKTYPE, linkname="rootfs/usr/x"), b""),
        (member("dev/null", type=tarfile.CHRTYPE), b""),
    )
    assert cleaned(content) == content


def test_a_machine_id_that_is_called_otherwise_too_is_empty():
    content = members(
        (member("a"), b"0123"),
        (member("etc/machine-id", type=tarfile.LNKTYPE, linkname="rootfs/a"), b""),
        (member("z", type=tarfile.LNKTYPE, linkname="rootfs/etc/machine-id"), b""),
    )
    found = files_of(cleaned(content))
    assert (found["rootfs/etc/machine-id"].type, found["rootfs/etc/machine-id"].linkname) == (tarfile.REGTYPE, "")
    assert found["rootfs/a"].size == 4


def test_another_name_of_what_goes_is_an_error():
    key = "rootfs/etc/ssh/ssh_host_" + "x" * 200
    content = members(
        (member(key.partition("/")[2]), b"secret"),
        (member("home/copy", type=tarfile.LNKTYPE, linkname=key), b""),
    )
    with pytest.raises(ImageError, match=r"base could not be cleaned: /etc/ssh/ssh_host_x*, .* also called /home/copy"):
        cleaned(content)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (tar({"rootfs/x": b"x" * 600})[:1024], "cut short"),
        (tar({"rootfs/x": b"x"}).replace(b"ustar", b"xstar"), "something else in it"),
        (members((member("x", pax_headers={"a": "b"}), b"")).replace(b"6 a=b\n", b"9 a=b\n"), "cannot be read"),
        (members((member("x", pax_headers={"a": "b"}), b"")).replace(b"6 a=b\n", b"2 a=b\n"), "cannot be read"),
        (members((member("x", type=tarfile.GNUTYPE_SPARSE), b"")), "no usable size"),
    ],
)
def test_what_is_damaged_is_an_error(content, why):
    with pytest.raises(ImageError, match=why):
        cleaned(content)
