# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Clones as disks above layers that several instances have, with the real qemu-img: what each disk reads as."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from dataclasses import replace

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import snapshots as family
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.layers import is_shared
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import DISK
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, ImageError, NoSpace
from ansible_collections.minicloud.local.plugins.module_utils._scope import SEED
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._drivers.qemu_family.test_snapshots import (
    SIZE,
    Killed,
    World,
    three,
)

pytestmark = pytest.mark.skipif(
    not (shutil.which("qemu-img") and shutil.which("qemu-io")), reason="this host has no qemu-img and qemu-io"
)

FILES = {"meta-data": b"{}", "user-data": b"", "vendor-data": b""}


class Family(World):
    """An instance, and clones of it, each of which can be asked as that one is."""

    def clone(self, number=1, snapshot=None, full=False, parent=None, disk=SIZE):
        child = self.child(number, disk)
        made = self.driver.clones().make(child.instance, (parent or self).instance, snapshot, FILES, full)
        return child, made

    def child(self, number=1, disk=SIZE):
        """A clone that may have been made."""
        child = object.__new__(Family)
        child.__dict__.update(self.__dict__, known={}, wanted={}, made=number * 100)
        uuid = f"00000000-0000-4000-8000-{number:012d}"
        child.instance = replace(self.instance, name=f"clone{number}", uuid=uuid, phase="creating", disk=disk)
        self.scope.write(child.instance)
        return child

    def is_whole(self):
        """Assert that all files of an instance are there and good, and none besides."""
        self.check()
        assert os.path.exists(self.driver.path(self.instance, SEED))
        assert os.stat(self.layers.path(DISK)).st_nlink == 1


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return Family(tmp_path)


def test_each_goes_its_own_way(world):
    world.write(1)
    disk = world.hash_of(DISK)
    one, made = world.clone(1)
    two = world.clone(2)[0]
    assert made == "linked"
    assert {each.hash_of(DISK) for each in (world, one, two)} == {disk}
    # The second found nothing to be kept that the first had not.
    assert len(world.layers.read().backing) == 1
    for number, each in enumerate((world, one, two), start=5):
        each.write(number, number)
    assert len({each.hash_of(DISK) for each in (world, one, two)}) == 3
    clones = world.driver.clones()
    everyone = [one.instance, two.instance]
    assert clones.linked(world.instance, everyone) == everyone
    shutil.rmtree(one.layers.top)
    assert clones.linked(world.instance, [two.instance]) == [two.instance]
    for each in (world, two):
        each.check()


@pytest.mark.parametrize("full", [False, True])
def test_of_a_snapshot_it_has_what_was_then(world, full):
    first, second, dummy = three(world)
    disk = world.hash_of(DISK)
    clone, made = world.clone(snapshot=second, full=full)
    assert made == ("full" if full else "linked")
    assert clone.hash_of(DISK) == world.wanted[second.uuid]
    clone.is_whole()
    world.part.delete(world.instance, second)
    world.forget(second)
    world.part.delete(world.instance, first)
    world.forget(first)
    assert (clone.hash_of(DISK), world.hash_of(DISK)) == (clone.hash_of(DISK), disk)
    clone.write(4, 4)
    world.check()
    clone.is_whole()


def test_a_full_copy_shares_nothing_and_leaves_its_source_as_it_was(world):
    world.write(1)
    disk = world.hash_of(DISK)
    clone, made = world.clone(full=True)
    assert (made, clone.hash_of(DISK), world.hash_of(DISK)) == ("full", disk, disk)
    assert world.driver.clones().linked(world.instance, [clone.instance]) == []
    assert not world.layers.read().backing
    assert not clone.layers.read().backing


def test_what_is_shared_is_never_written_and_becomes_one_again_when_it_is_not(world):
    world.write(1)
    clone, dummy = world.clone()
    world.write(2, 2)
    clone.write(3, 3)
    hashes = world.hash_of(DISK), clone.hash_of(DISK)
    (layer,) = clone.layers.read().backing
    with open(clone.layers.path(layer), "rb") as stream:
        before = stream.read()
    for each in (world, clone):
        assert not each.part.consolidate(each.instance)
    with open(clone.layers.path(layer), "rb") as stream:
        assert stream.read() == before
    shutil.rmtree(world.layers.top)
    assert clone.hash_of(DISK) == hashes[1]
    assert clone.part.consolidate(clone.instance)
    assert not clone.layers.read().backing
    assert clone.hash_of(DISK) == hashes[1]


def test_deep_ones_become_flat_and_share_nothing(world, monkeypatch):
    monkeypatch.setattr(family, "DEEPEST", 2)
    three(world)
    clone, dummy = world.clone()
    disk = clone.hash_of(DISK)
    clone.part.consolidate(clone.instance)
    assert clone.hash_of(DISK) == disk == world.hash_of(DISK)
    world.part.consolidate(world.instance)
    assert world.hash_of(DISK) == disk
    world.check()
    clone.is_whole()


def test_a_clone_of_a_clone_needs_neither(world):
    world.write(1)
    child, dummy = world.clone(1)
    child.write(2, 2)
    disk = child.hash_of(DISK)
    grandchild, dummy = world.clone(2, parent=child)
    for each in (world, child):
        shutil.rmtree(each.layers.top)
    assert grandchild.hash_of(DISK) == disk
    grandchild.part.consolidate(grandchild.instance)
    assert grandchild.hash_of(DISK) == disk


def test_it_can_be_larger_and_never_gets_smaller(world):
    world.write(1)
    larger, dummy = world.clone(1, disk=SIZE * 2)
    smaller, dummy = world.clone(2, disk=SIZE // 2)
    sizes = [each.part._tool(each.instance).info(each.layers.chain(DISK))["virtual-size"] for each in (larger, smaller)]
    assert sizes == [SIZE * 2, SIZE]


def test_without_second_names_for_files_they_are_copied(world, monkeypatch):
    link = os.link

    def refuse(source, target, **more):
        if "clone" in target:
            raise OSError(errno.EMLINK, "Too many links")
        link(source, target, **more)

    monkeypatch.setattr(os, "link", refuse)
    world.write(1)
    clone, made = world.clone()
    assert made == "full"
    assert clone.hash_of(DISK) == world.hash_of(DISK)
    assert not any(is_shared(clone.layers.path(each)) for each in clone.layers.read().backing)


def test_a_layer_that_leads_elsewhere_is_not_followed(world):
    (first, *dummy) = three(world)
    secret = os.path.join(world.data.path, "secret")
    with open(secret, "w", encoding="ascii") as stream:
        stream.write("secret")
    path = world.layers.path(first.uuid)
    os.unlink(path)
    os.symlink(secret, path)
    with pytest.raises((HypervisorError, ImageError)):
        world.clone(snapshot=first)


def test_a_hostile_header_of_the_source_is_refused(world):
    world.write(1)
    other = os.path.join(world.data.path, "other.raw")
    with open(other, "wb") as stream:
        stream.truncate(SIZE)
    disk = world.layers.path(DISK)
    os.unlink(disk)
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={other},data_file_raw=on", disk, str(SIZE)]
    subprocess.run(argv, check=True)
    with pytest.raises(ImageError, match="data in another file"):
        world.clone()
    assert not world.layers.read().backing


def test_where_the_layer_is_gone_that_is_said(world):
    (first, *dummy) = three(world)
    gone = replace(first, uuid="ffffffff-0000-4000-8000-000000000000")
    with pytest.raises(HypervisorError, match="is not there"):
        world.clone(snapshot=gone)


def test_a_full_disk_leaves_the_source_as_it_was(world, monkeypatch):
    world.write(1)
    disk = world.hash_of(DISK)

    def full(path):
        if path.endswith(".qcow2.new"):
            raise NoSpace("it was not written", "No space left on device")

    monkeypatch.setattr(family, "sync_file", full)
    with pytest.raises(NoSpace):
        world.clone(full=True)
    monkeypatch.undo()
    shutil.rmtree(world.child().layers.top)
    world.part.consolidate(world.instance)
    assert world.hash_of(DISK) == disk
    assert not world.layers.read().backing


@pytest.mark.parametrize("what", ["linked", "full"])
def test_a_kill_at_any_step_leaves_the_source_and_the_next_run_comes_to_the_end(tmp_path, monkeypatch, what):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    at = 1
    while True:
        world = Family(tmp_path / str(at))
        world.write(1)
        disk = world.hash_of(DISK)
        world.runtime.report.at, world.runtime.report.count = at, 0
        try:
            world.clone(full=what == "full")
            ended = True
        except Killed:
            ended = False
        world.runtime.report.at = 0
        assert world.hash_of(DISK) == disk
        # What is half made is never started, and goes before it is made anew.
        world.scope.remove("clone1")
        clone, dummy = world.clone(full=what == "full")
        assert clone.hash_of(DISK) == disk
        clone.is_whole()
        world.part.consolidate(world.instance)
        assert world.hash_of(DISK) == disk
        world.check()
        if ended:
            break
        at += 1
    assert at > 3
