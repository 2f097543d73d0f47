# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Publishing an instance: real disks with real file systems, made by mke2fs and read back by debugfs."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    ImageError,
    InUse,
    InvalidOption,
    MissingRequirement,
    NotFound,
)
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._images import clean as clean_module
from ansible_collections.minicloud.local.plugins.module_utils._images.clean import clean, partitions
from ansible_collections.minicloud.local.plugins.module_utils._images.provide import ProvidedVault
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import parse_reference
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance
from ansible_collections.minicloud.local.plugins.module_utils._reconcile import images
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.images import (
    parse_image_wish,
    reconcile_image,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.plan import image_of
from ansible_collections.minicloud.local.plugins.module_utils._runtime import find_program

pytestmark = pytest.mark.skipif(
    not all(find_program(name) for name in ("mke2fs", "debugfs", "e2fsck", "qemu-img")),
    reason="this host has no e2fsprogs or no qemu-img",
)

MIB = 1 << 20
START = 1 * MIB
FILES = {
    "etc/machine-id": "0123456789abcdef\n",
    "etc/hostname": "web\n",
    "etc/ssh/sshd_config": "Port 22\n",
    "etc/ssh/ssh_host_rsa_key": "secret",
    "etc/ssh/ssh_host_rsa_key.pub": "public",
    "var/lib/cloud/instances/i-1/user-data.txt": "password",
    "var/lib/cloud/instances/i-1/sem/config_ssh": "",
    "var/lib/cloud/data/result.json": "{}",
    "var/lib/cloud/seed/nocloud/meta-data": "brought by the image",
    "var/lib/systemd/random-seed": "r",
    "var/log/cloud-init.log": "l",
    "var/log/cloud-init-output.log": "l",
    "var/log/syslog": "l",
    "home/user/.ssh/authorized_keys": "ssh-ed25519 A",
}
KEPT = {"etc/hostname", "etc/ssh/sshd_config", "var/lib/cloud/seed/nocloud/meta-data", "var/log/syslog"}


def tool(name, *args, **kwargs):
    done = subprocess.run([find_program(name), *args], capture_output=True, text=True, check=False, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_disk(path, directory, files=None, kind="ext4"):
    """A raw disk with one partition; in it a file system with FILES."""
    root = directory / "root"
    shutil.rmtree(root, ignore_errors=True)
    for name, content in (FILES if files is None else files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    instances = root / "var" / "lib" / "cloud"
    if instances.is_dir():
        (instances / "instance").symlink_to("/var/lib/cloud/instances/i-1")
    with open(path, "wb") as stream:
        entry = struct.pack("<B3sB3sII", 0x80, b"", 0x83, b"", START // 512, 15 * MIB // 512)
        stream.write(bytes(446) + entry + bytes(48) + b"\x55\xaa")
        stream.truncate(16 * MIB)
    args = ["-q", "-F", "-t", kind, "-d", str(root), "-E", f"offset={START}", str(path), "15M"]
    tool("mke2fs", *args)
    return str(path)


def listing(path, start=START):
    """The files of the file system on a raw disk, with their sizes."""
    found = {}
    directories = ["/"]
    while directories:
        directory = directories.pop()
        for line in tool("debugfs", "-R", f'ls -p "{directory}"', f"{path}?offset={start}").splitlines():
            fields = line.split("/")
            if len(fields) < 7 or fields[5] in (".", "..", "lost+found"):
                continue
            child = f"{directory}{fields[5]}"
            if fields[2].startswith("04"):
                directories.append(f"{child}/")
            else:
                found[child[1:]] = int(fields[6])
    return found


def is_clean(found):
    return (
        found["etc/machine-id"] == 0
        and {name for name, size in found.items() if size} >= KEPT
        and not [
            name
            for name in found
            if "ssh_host" in name
            or (name.startswith("var/lib/cloud/") and "/seed/" not in name)
            or name.startswith("var/log/cloud")
            or "random-seed" in name
        ]
    )


class TestClean:
    @pytest.mark.parametrize("kind", ["ext4", "ext2"])
    def test_what_makes_an_instance_goes_and_all_else_stays(self, runtime, tmp_path, kind):
        path = write_disk(tmp_path / "disk", tmp_path, kind=kind)
        assert not is_clean(listing(path))
        assert clean(runtime, path, "base")
        found = listing(path)
        assert is_clean(found)
        assert found["home/user/.ssh/authorized_keys"]
        assert clean(runtime, path, "base")
        assert listing(path) == found

    def test_permissions_of_the_machine_id_stay(self, runtime, tmp_path):
        path = write_disk(tmp_path / "disk", tmp_path)
        tool("debugfs", "-w", "-R", "set_inode_field /etc/machine-id mode 0100444", f"{path}?offset={START}")
        clean(runtime, path, "base")
        assert "Mode:  0444" in tool("debugfs", "-R", "stat /etc/machine-id", f"{path}?offset={START}")

    def test_a_file_system_that_was_not_unmounted_is_repaired_first(self, runtime, tmp_path):
        path = write_disk(tmp_path / "disk", tmp_path)
        tool("debugfs", "-w", "-R", "set_super_value state 0", f"{path}?offset={START}")
        commands = []
        run = runtime.run
        runtime.run = lambda argv, **kwargs: commands.append(argv) or run(argv, **kwargs)
        assert clean(runtime, path, "base")
        assert os.path.realpath(find_program("e2fsck")) in commands[0]
        assert is_clean(listing(path))

    @pytest.mark.parametrize("kind", ["ext4", "ext3"])
    def test_what_is_in_a_journal_alone_is_not_lost(self, runtime, tmp_path, kind):
        path = write_disk(tmp_path / "disk", tmp_path, kind=kind)
        target = f"{path}?offset={START}"
        free = tool("debugfs", "-R", "ffb", target).split()[-1]
        for name, byte in (("new", b"n"), ("zeros", b"\0")):
            (tmp_path / name).write_bytes(byte * 1024)
        with open(path, "r+b") as stream:
            stream.seek(START + (int(free) + 1) * 1024)
            stream.write(b"o" * 1024)
        block = tool("debugfs", "-R", "bmap /etc/hostname 0", target).strip()
        writes = f"jo\njw -b {block} {tmp_path / 'new'}\njw -b {int(free) + 1} {tmp_path / 'zeros'}\njc\n"
        tool("debugfs", "-w", "-f", "-", target, input=writes)
        assert "needs_recovery" in tool("dumpe2fs", "-h", target)
        system = clean_module._FileSystem(runtime, path, START, "base")
        system.replay()
        assert "needs_recovery" not in tool("dumpe2fs", "-h", target)
        tool("e2fsck", "-f", "-n", target)
        with open(path, "rb") as stream:
            content = stream.read()
        for number, byte in ((block, b"n"), (int(free) + 1, b"\0")):
            start = START + int(number) * 1024
            assert content[start : start + 1024] == byte * 1024
        assert not os.path.exists(f"{path}.journal")
        assert content[:START].rstrip(b"\0").endswith(b"\x55\xaa")
        assert clean(runtime, path, "base")
        assert is_clean(listing(path))

    def test_a_damaged_one_is_an_error(self, runtime, tmp_path):
        path = write_disk(tmp_path / "disk", tmp_path)
        tool("debugfs", "-w", "-R", "set_super_value state 0", f"{path}?offset={START}")
        with open(path, "r+b") as stream:
            stream.seek(START + 4096)
            stream.write(b"\xff" * 4 * MIB)
        with pytest.raises(ImageError, match="could not be cleaned") as caught:
            clean(runtime, path, "base")
        assert "clean: false" in caught.value.hint

    def test_another_file_system_is_left_alone(self, runtime, tmp_path):
        path = write_disk(tmp_path / "disk", tmp_path)
        with open(path, "r+b") as stream:
            stream.seek(START)
            stream.write(b"XFSB" + bytes(4 * MIB))
        before = (tmp_path / "disk").read_bytes()
        assert not clean(runtime, path, "base")
        assert (tmp_path / "disk").read_bytes() == before

    @pytest.mark.parametrize("files", [{"grub/grub.cfg": ""}, {"etc/machine-id": "id", "var/.mounted": ""}])
    def test_one_without_all_that_there_is_to_clean_is_left_alone(self, runtime, tmp_path, files):
        path = write_disk(tmp_path / "disk", tmp_path, files)
        assert not clean(runtime, path, "base")
        assert listing(path) == {name: len(content) for name, content in files.items()}

    @pytest.mark.parametrize("name", ["a b", "a\nrdump / /tmp", 'a"b', "a;b", "\nwrite x y"])
    def test_names_that_a_guest_made_up_never_become_commands(self, runtime, tmp_path, name):
        path = write_disk(tmp_path / "disk", tmp_path, {**FILES, "var/lib/cloud/data/x": ""})
        inside = tmp_path / "root" / "var" / "lib" / "cloud" / "data"
        if "/" in name:
            name = name.replace("/", "")
        (inside / name).write_text("")
        (tmp_path / "root" / "etc" / "ssh" / f"ssh_host_{name}").write_text("")
        tool("mke2fs", "-q", "-F", "-t", "ext4", "-d", str(tmp_path / "root"), "-E", f"offset={START}", path, "15M")
        inputs = []
        run = runtime.run
        runtime.run = lambda argv, **kwargs: inputs.append(kwargs.get("stdin") or b"") or run(argv, **kwargs)
        with pytest.raises(ImageError, match="not safe to handle"):
            clean(runtime, path, "base")
        words = {line.split()[0] for text in inputs for line in text.decode().splitlines()}
        assert words == {"ls"}

    def test_partitions_of_a_gpt(self, tmp_path):
        entry = bytes(16 * [7]) + bytes(16) + struct.pack("<QQ", 2048, 4095) + bytes(80)
        header = b"EFI PART" + bytes(64) + struct.pack("<QII", 2, 4, 128) + bytes(424)
        (tmp_path / "disk").write_bytes(bytes(510) + b"\x55\xaa" + header + bytes(128) + entry + bytes(1024))
        os.truncate(tmp_path / "disk", 2 * MIB)
        assert partitions(str(tmp_path / "disk")) == [0, MIB]
        os.truncate(tmp_path / "disk", MIB)
        assert partitions(str(tmp_path / "disk")) == [0]

    def test_a_file_that_is_still_there_afterwards_is_an_error(self, runtime, tmp_path, monkeypatch):
        path = write_disk(tmp_path / "disk", tmp_path)
        monkeypatch.setattr(clean_module._FileSystem, "clean", lambda self: None)
        with pytest.raises(ImageError, match="this is left: punch /etc/machine-id 0"):
            clean(runtime, path, "base")


# What may be found in no byte of a published image, whether the instance had it, or had once removed it.
SECRETS = {
    "etc/machine-id": b"6d616368696e652d69642d6f66207468",
    "etc/ssh/ssh_host_rsa_key": b"-----private key of the host-----",
    "var/lib/cloud/instances/i-1/user-data.txt": b"#cloud-config: the password",
    "var/log/cloud-init.log": b"the log of cloud-init",
    "var/log/journal/6d616368696e652d69642d6f66207468/system.journal": b"the journal of the system",
    "var/lib/systemd/random-seed": b"the seed of random numbers",
    "var/lib/systemd/credential.secret": b"the secret of credentials",
}


class TestFreeSpace:
    def disk(self, tmp_path, kind="ext4"):
        """A disk with these secrets in files, and others in free blocks, a free inode, the journal and swap space."""
        files = {name: content.decode() for name, content in SECRETS.items()}
        files.update({"var/removed": "removed by the guest itself " * 500, "var/log/syslog": "l", "etc/hostname": "w"})
        path = write_disk(tmp_path / "disk", tmp_path, files, kind)
        target = f"{path}?offset={START}"
        tool("debugfs", "-w", "-R", "symlink /var/link a-short-link-is-in-its-inode", target)
        for name in ("removed", "link"):
            tool("debugfs", "-w", "-R", f"rm /var/{name}", target)
        with open(path, "r+b") as stream:
            stream.truncate(20 * MIB)
            stream.seek(462)
            stream.write(struct.pack("<B3sB3sII", 0, b"", 0x82, b"", 17 * MIB // 512, 2 * MIB // 512))
            stream.seek(17 * MIB)
            stream.write(bytes(1024) + struct.pack("<II", 1, 511) + b"the-uuid" + bytes(3046) + b"SWAPSPACE2")
            stream.seek(18 * MIB)
            stream.write(b"what was in memory")
        if kind != "ext2":
            offset = START + int(tool("debugfs", "-R", "bmap <8> 5", target)) * 1024
            with open(path, "r+b") as stream:
                stream.seek(offset)
                stream.write(b"what went through the journal")
        return path

    @pytest.mark.parametrize("kind", ["ext4", "ext3", "ext2"])
    def test_no_byte_of_a_secret_is_left(self, runtime, tmp_path, kind):
        path = self.disk(tmp_path, kind)
        secrets = [*SECRETS.values(), b"removed by the guest itself", b"what was in memory"]
        secrets += [] if kind == "ext2" else [b"what went through the journal"]
        with open(path, "rb") as stream:
            content = stream.read()
        assert [secret for secret in secrets if secret not in content] == []
        assert b"a-short-link" in content
        assert clean(runtime, path, "base")
        with open(path, "rb") as stream:
            content = stream.read()
        assert [secret for secret in [*secrets, b"a-short-link"] if secret in content] == []
        assert content[17 * MIB : 17 * MIB + 4096].endswith(b"SWAPSPACE2")
        assert b"the-uuid" in content
        assert listing(path) == {"etc/machine-id": 0, "var/log/syslog": 1, "etc/hostname": 1}
        tool("e2fsck", "-f", "-n", f"{path}?offset={START}")

    def test_space_that_was_never_used_takes_none(self, runtime, tmp_path):
        path = self.disk(tmp_path)
        before = os.stat(path).st_blocks
        clean(runtime, path, "base")
        assert os.stat(path).st_blocks <= before + 256

    def test_numbers_of_a_hostile_file_system_lead_nowhere(self, tmp_path):
        told = "Group 0: (Blocks 1-2)\n  Inode table at 5-6 (+4)\n  Free blocks: 7, 9-12, -, 3-\n  Free inodes: 2-3\n"
        assert list(clean_module._free(told, 1024, 128, 8)) == [
            (7168, 8192), (9216, 13312), (3072, 4096), (5248, 5504),
        ]  # fmt: skip
        path = tmp_path / "x"
        path.write_bytes(b"x" * 5000)
        with open(path, "r+b", buffering=0) as stream:
            clean_module._zero(stream, 4000, 1 << 70)
            clean_module._zero(stream, 1 << 70, 1 << 71)
        assert path.read_bytes() == b"x" * 4000 + bytes(1000)


@pytest.fixture
def source(data, runtime, tmp_path):
    """A stopped instance whose disk is an overlay over an image of the vault."""
    raw = write_disk(tmp_path / "source.raw", tmp_path)
    image = Image("24.04", "ab" * 32, "", "qcow2", 1, 16 * MIB, "x86_64", os="ubuntu", release="noble", user="ubuntu")
    vault = ProvidedVault(data, runtime)
    work = os.path.join(data.vault, "made")
    os.makedirs(work)
    tool("qemu-img", "convert", "-O", "qcow2", raw, os.path.join(work, "disk.qcow2"))
    image = Image(**{**image.to_dict(), "size": os.path.getsize(os.path.join(work, "disk.qcow2")), "firmware": "uefi"})
    vault.place(work, image)
    image = vault.get(image.hash)
    instance = Instance(
        "web", "id", "qemu", "qemu", "now", "x86_64", 1, 1 << 28, 20 * MIB, phase="ready", image=image_of(image),
        user="me",
    )  # fmt: skip
    data.scope("qemu").write(instance)
    disk = os.path.join(data.scope("qemu").directory("web"), "disk.qcow2")
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", image.path, "-F", "qcow2", disk, "20M")
    return instance


@pytest.fixture
def go(runtime, data):
    def reconcile(check=False, **params):
        wish = parse_image_wish({"state": "present", "name": "my-base", **params})
        return reconcile_image(wish, runtime, data, check)

    return reconcile


def raw_of(image, tmp_path):
    target = str(tmp_path / "published.raw")
    tool("qemu-img", "convert", "-O", "raw", image["path"], target)
    return target


class TestPublish:
    def test_check_do_again_check_again(self, go, source, data, runtime, tmp_path):
        foreseen = go(check=True, instance="web")
        assert not ProvidedVault(data, runtime).find(parse_reference("my-base"), "x86_64")
        done = go(instance="WEB", alias="other")
        assert foreseen.actions == ["publish_image"]
        assert done.actions == ["publish_image", "set_alias"]
        assert done.changed
        assert done.before == {}
        assert done.after == {"name": "my-base", "hash": done.view["hash"], "aliases": ["other"]}
        for key in ("name", "os", "release", "user", "arch", "virtual_size", "firmware", "title", "source"):
            assert foreseen.view[key] == done.view[key], key
        assert (done.view["os"], done.view["user"], done.view["firmware"]) == ("ubuntu", "ubuntu", "uefi")
        for check in (False, True):
            again = go(check=check, instance="web")
            assert (again.changed, again.actions, again.view["hash"]) == (False, [], done.view["hash"])
        info = tool("qemu-img", "info", done.view["path"])
        assert "backing file" not in info
        assert is_clean(listing(raw_of(done.view, tmp_path)))
        assert not [name for name in os.listdir(data.vault) if name.startswith("work-")]

    def test_the_name_works_like_any_other(self, go, source, data, runtime):
        published = go(instance="web").view
        for params in ({}, {"state": "latest"}):
            found = go(**params)
            assert (found.changed, found.view["hash"]) == (False, published["hash"])
        image, changed = ProvidedVault(data, runtime).ensure(parse_reference("my-base"), "x86_64")
        assert (image.hash, changed) == (published["hash"], False)
        with pytest.raises(NotFound, match="published from the instance web"):
            go(force=True)
        assert go(state="absent").actions == ["remove_image"]
        assert not os.path.exists(published["path"])

    def test_what_is_published_needs_no_instance_any_more(self, go, source, data):
        published = go(instance="web").view
        data.scope("qemu").remove("web")
        assert go(instance="web").view["hash"] == published["hash"]
        with pytest.raises(NotFound, match="no instance web"):
            go(instance="web", force=True)

    def test_force_publishes_again_and_keeps_the_older_image(self, go, source, data, runtime):
        first = go(instance="web").view
        second = go(instance="web", clean=False, force=True)
        assert second.actions == ["publish_image"]
        assert second.view["hash"] != first["hash"]
        assert ProvidedVault(data, runtime).get(first["hash"])
        assert go().view["hash"] == second.view["hash"]

    def test_unclean_on_request(self, go, source, tmp_path, runtime):
        published = go(instance="web", clean=False).view
        assert listing(raw_of(published, tmp_path))["etc/machine-id"] > 0
        assert not runtime.report.warnings

    def test_what_cannot_be_cleaned_is_said(self, go, source, monkeypatch, runtime):
        monkeypatch.setattr(clean_module, "clean", lambda *args: False)
        go(instance="web")
        assert "my-base was not cleaned: no ext4 root file system" in runtime.report.warnings[0]

    def test_only_from_a_stopped_one(self, go, source, monkeypatch):
        monkeypatch.setattr(
            "ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.driver.QemuDriver.alive",
            lambda self, instance: True,
        )
        for check in (True, False):
            with pytest.raises(InUse, match="it is running") as caught:
                go(check=check, instance="web")
            assert caught.value.facts == {"state": "running"}

    def test_a_name_that_is_taken(self, go, source, data, runtime):
        vault = ProvidedVault(data, runtime)
        vault.set_alias(vault.get("ab" * 32), "my-base")
        for check in (True, False):
            with pytest.raises(InvalidOption, match="the name my-base is taken"):
                go(check=check, instance="web")
        assert go(instance="web", force=True).changed
        assert go().view["source"] == "instance web"

    def test_without_tools(self, go, source, monkeypatch, data):
        monkeypatch.setenv("PATH", "/nowhere")
        from ansible_collections.minicloud.local.plugins.module_utils import _runtime

        monkeypatch.setattr(_runtime, "_SYSTEM_PATH", ())
        with pytest.raises(MissingRequirement, match="e2fsprogs, or use clean: false"):
            go(instance="web")
        assert not [name for name in os.listdir(data.vault) if name.startswith("work-")]

    def test_a_failure_leaves_nothing(self, go, source, data, runtime, monkeypatch):
        def fail(*args):
            raise ImageError("no")

        monkeypatch.setattr(clean_module, "clean", fail)
        with pytest.raises(ImageError):
            go(instance="web")
        assert len(ProvidedVault(data, runtime).images()[0]) == 1
        assert not [name for name in os.listdir(data.vault) if name.startswith("work-")]

    @pytest.mark.parametrize(
        "params",
        [
            {"name": None},
            {"name": "daily:mine"},
            {"name": "/a/path"},
            {"name": "bad/name"},
            {"state": "latest"},
            {"state": "absent"},
            {"checksum": f"sha256:{'0' * 64}"},
            {"arch": "aarch64"},
            {"instance": "not a name"},
        ],
    )
    def test_what_cannot_be_meant(self, go, params):
        with pytest.raises(InvalidOption):
            go(**{"instance": "web", **params})


def test_an_image_that_an_instance_begins_to_use_stays(source, data, runtime):
    vault = ProvidedVault(data, runtime)
    image = vault.get("ab" * 32)
    with pytest.raises(InUse):
        vault.remove(image, lambda: images._refuse_if_used(image, vault))
    assert vault.has(image)
    data.scope("qemu").remove("web")
    vault.remove(image, lambda: images._refuse_if_used(image, vault))
    assert not vault.has(image)
