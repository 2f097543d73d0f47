# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Exports and imports with real files: the driver is qemu, and nothing is started."""

from __future__ import annotations

import email
import json
import os
import pathlib
import subprocess

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.act import QemuActs
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    ImageError,
    InUse,
    InvalidOption,
    NoSpace,
    NotFound,
    NotSupported,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile import exports, instances, snapshots
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.multipass import take_over_all
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import parse_wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.tests.unit import processes
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._images import foreign
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._images.test_multipass import generator
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._reconcile.world import RecordingReporter

MIB = 1 << 20


class Host:
    """A host with a data directory."""

    def __init__(self, path):
        self.path = path
        self.data = DataDirectory(str(path / "data"))
        self.scope = self.data.scope("qemu")
        self.reporter = RecordingReporter()

    def runtime(self, reporter=None):
        self.reporter = reporter or RecordingReporter()
        return Runtime(run, self.reporter)

    def make(self, name="web", check=False, reporter=None, **params):
        given = {"networks": [{"name": "user", "mode": "auto"}]} if "source" not in params else {}
        given = {"state": "stopped", "driver": "qemu", **given}
        wish = parse_wish({"name": name, **given, **params})
        return instances.reconcile_instance(wish, self.runtime(reporter), self.data, "qemu", None, check)

    def export(self, instance="web", check=False, reporter=None, **params):
        wish = exports.parse_export_wish({"instance": instance, "path": str(self.path / "web.minicloud"), **params})
        return exports.reconcile_export(wish, self.runtime(reporter), self.data, "qemu", None, check)

    def snapshot(self, name, instance="web", **params):
        wish = snapshots.parse_snapshot_wish({"instance": instance, "name": name, "state": "present", **params})
        return snapshots.reconcile_snapshot(wish, self.runtime(), self.data, "qemu")

    def fill(self, offset, byte, name="web"):
        """Have a guest write something."""
        path = os.path.join(self.scope.directory(name), "disk.qcow2")
        command = f"write -q -P {byte} {offset} 65536"
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, path], check=True, capture_output=True)

    def disk(self, name="web"):
        """What the guest sees."""
        path, raw = os.path.join(self.scope.directory(name), "disk.qcow2"), str(self.path / f"{name}.raw")
        foreign.qemu_img("convert", "-O", "raw", path, raw)
        return pathlib.Path(raw).read_bytes()

    def leftovers(self):
        vault = [name for name in os.listdir(self.data.vault) if name.startswith("work-")]
        return vault + [name for name in os.listdir(self.path) if name.endswith(".tmp")]


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(QemuActs, "require", lambda *args, **kwargs: None)
    (tmp_path / "raw").write_bytes(foreign.bootable(4 * MIB))
    foreign.qemu_img("convert", "-O", "qcow2", tmp_path / "raw", tmp_path / "image.qcow2")
    made = Host(tmp_path)
    made.make(
        image=str(tmp_path / "image.qcow2"), disk="64M", memory="128M", cpus=3, user="alice", tags={"role": "db"},
        ports=["8080:80"], cloud_init={"runcmd": ["echo x"]},
    )  # fmt: skip
    made.fill(8 * MIB, 1)
    made.snapshot("first", comment="as delivered")
    made.fill(16 * MIB, 2)
    return made


def test_an_export_is_there_once(host):
    outcomes = [host.export(check=check) for check in (True, False, False, True)]
    assert [outcome.changed for outcome in outcomes] == [True, True, False, False]
    assert [outcome.actions for outcome in outcomes] == [["export"], ["export"], [], []]
    path = host.path / "web.minicloud"
    made = outcomes[1].view
    digest = subprocess.check_output(["sha256sum", path]).split()[0].decode()
    assert (made["size"], made["checksum"]) == (path.stat().st_size, f"sha256:{digest}")
    assert outcomes[2].view == outcomes[3].view == made
    assert outcomes[0].after == outcomes[1].after != outcomes[1].before
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("change", ["disk", "record", "file", "gone", "option", "force"])
def test_what_has_changed_is_exported_anew(host, change):
    host.export()
    path = host.path / "web.minicloud"
    {
        "disk": lambda: host.fill(24 * MIB, 9),
        "record": lambda: host.make(tags={"role": "other"}),
        "file": lambda: os.utime(path, (1, 1)),
        "gone": path.unlink,
    }.get(change, lambda: None)()
    more = {"option": {"snapshots": True}, "force": {"force": True}}.get(change, {})
    assert host.export(**more).changed
    assert host.export(**({} if change == "force" else more)).changed is False


def test_a_directory_gets_a_file_with_the_name_of_the_instance(host):
    assert host.export(path=str(host.path)).view["path"] == str(host.path / "web.minicloud")


@pytest.mark.parametrize("kind", ["text", "other", "link", "directory", "nowhere"])
def test_nothing_else_is_overwritten(host, kind):
    path = host.path / "web.minicloud"
    if kind == "other":
        host.make("other", image=str(host.path / "image.qcow2"), disk="64M", memory="128M")
        host.export("other")
    elif kind == "link":
        path.symlink_to(host.path / "image.qcow2")
    elif kind == "directory":
        (path / "web.minicloud").mkdir(parents=True)
        path = path / "web.minicloud"
    elif kind == "nowhere":
        path = host.path / "nowhere" / "x"
    else:
        path.write_text("my letters")
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises((InUse, InvalidOption)):
        host.export(path=str(path) if kind != "directory" else str(path.parent))
    assert (path.read_bytes() if path.is_file() else None) == before
    if kind in ("text", "other"):
        assert host.export(force=True).changed


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_what_is_no_file_stays_also_by_force(host, kind):
    path = host.path / "web.minicloud"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("nowhere")
    before = path.lstat()
    for check in (True, False):
        with pytest.raises(InvalidOption, match="no plain file"):
            host.export(force=True, check=check)
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)


def test_a_login_user_that_is_none_is_refused(host):
    instance = host.scope.read("web")
    instance.user = "-oProxyCommand=id"
    host.scope.write(instance)
    host.export()
    with pytest.raises(ImageError, match="not a login name"):
        host.make("copy", source=str(host.path / "web.minicloud"))
    assert host.scope.read("copy") is None


def test_one_that_is_not_there_or_not_whole_cannot_be_exported(host):
    with pytest.raises(NotFound):
        host.export("nobody")
    instance = host.scope.read("web")
    instance.deleted = "2026-05-04T10:20:30Z"
    host.scope.write(instance)
    with pytest.raises(InUse, match="Recover it first"):
        host.export()


def test_what_is_imported_is_a_new_instance(host):
    before = host.disk()
    host.export(snapshots=True)
    old = host.scope.read("web")
    outcome = host.make("copy", source=str(host.path / "web.minicloud"))
    assert outcome.actions == ["fetch_image", "create"]
    new = host.scope.read("copy")
    for name in ("cpus", "memory", "disk", "user", "tags", "arch", "instance_type"):
        assert getattr(new, name) == getattr(old, name)
    assert new.uuid != old.uuid
    assert new.nics[0].mac != old.nics[0].mac
    assert new.image["name"] == old.image["name"]
    # The other has that port.
    assert [(port.host_port, port.guest_port) for port in new.ports] == [(0, 80)]
    assert any("8080" in text for text in host.reporter.warnings)
    assert host.disk("copy") == before
    assert not host.make("copy", source=str(host.path / "web.minicloud")).changed
    found = host.scope.snapshots("copy").all()[0]
    assert [(each.name, each.comment, each.then.name) for each in found] == [("first", "as delivered", "copy")]
    assert new.snapshot == found[0].uuid
    host.snapshot("first", "copy", state="restored", safeguard=False)
    assert host.disk("copy")[16 * MIB : 16 * MIB + 4] == bytes(4)
    assert host.disk("copy")[8 * MIB : 8 * MIB + 4] == b"\1\1\1\1"
    assert host.disk() == before


def test_a_file_gets_no_folder_of_this_host_and_no_port_for_others_by_itself(host):
    (host.path / "folder").mkdir()
    mounts = [{"source": str(host.path / "folder"), "target": "/mnt/it", "type": "copy"}]
    host.make(state="present", mounts=mounts, ports=["0.0.0.0:8081:80"])
    assert host.scope.read("web").mounts
    host.export()
    host.make(state="absent")
    host.make(source=str(host.path / "web.minicloud"))
    new = host.scope.read("web")
    assert new.mounts == []
    assert [str(port) for port in new.ports] == ["127.0.0.1:8081:80/tcp"]
    told = " ".join(host.reporter.warnings)
    assert f"its mount of {host.path}/folder is left out: name it in mounts" in told
    assert "name 0.0.0.0:8081:80/tcp in ports" in told
    host.make("named", source=str(host.path / "web.minicloud"), mounts=mounts, ports=["0.0.0.0:8082:80"])
    assert [each.source for each in host.scope.read("named").mounts] == [str(host.path / "folder")]


def test_nothing_of_the_user_data_runs_again(host):
    from ansible_collections.minicloud.local.plugins.module_utils._guest.iso9660 import iso_files

    host.export()
    host.make("copy", source=str(host.path / "web.minicloud"))
    seeds = {}
    for name in ("web", "copy"):
        image = pathlib.Path(host.scope.directory(name), "cidata.iso")
        image = image if image.exists() else next(pathlib.Path(host.scope.directory(name)).glob("*.iso"))
        seeds[name] = iso_files(image.read_bytes())
    assert b"runcmd" in seeds["web"]["user-data"]
    assert b"runcmd" not in seeds["copy"]["user-data"]
    ids = [json.loads(seeds[name]["meta-data"])["instance-id"] for name in seeds]
    assert ids[0] != ids[1]
    # It is a machine of its own, with the users that its disk has.
    parts = email.message_from_bytes(seeds["copy"]["vendor-data"]).get_payload()
    assert any(b"machine-id" in part.get_payload(decode=True) for part in parts)
    assert b"multipart" not in seeds["web"]["vendor-data"]
    # Host keys of its own come with it.
    assert host.scope.read("copy").host_keys != host.scope.read("web").host_keys


def test_the_mac_address_stays_once_the_other_is_gone(host):
    host.export()
    mac = host.scope.read("web").nics[0].mac
    host.make(state="absent")
    host.make(source=str(host.path / "web.minicloud"))
    new = host.scope.read("web")
    assert (new.nics[0].mac, [port.host_port for port in new.ports]) == (mac, [8080])
    assert host.reporter.warnings == []


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"disk": "65M"}, None),
        ({"disk": "64M"}, None),
        ({"disk": "1M"}, InvalidOption),
        ({"instance_type": "container"}, NotSupported),
        ({"arch": "aarch64" if os.uname().machine != "aarch64" else "x86_64"}, InvalidOption),
        ({"cpus": 1, "memory": "256M", "tags": {}}, None),
    ],
)
def test_what_the_task_names_counts(host, params, error):
    host.export()
    params = {**params, "source": str(host.path / "web.minicloud")}
    if "disk" in params and params["disk"] == "1M":
        # Which is too small for any disk; so name something that is too small for this one.
        host.make("web", disk="128M")
        host.export()
        params["disk"] = "64M"
    if error:
        before = sorted(os.walk(host.data.path))
        with pytest.raises(error):
            host.make("copy", **params)
        assert host.scope.read("copy") is None
        assert [entry for entry in sorted(os.walk(host.data.path)) if entry[2]] == [e for e in before if e[2]]
        return
    host.make("copy", **params)
    new = host.scope.read("copy")
    if "disk" in params:
        assert (new.disk, len(host.disk("copy"))) == (int(params["disk"][:-1]) * MIB,) * 2
    else:
        assert (new.cpus, new.memory, new.tags) == (1, 256 * MIB, {})


def test_check_mode_tells_what_would_be(host):
    host.export(snapshots=True)
    source = str(host.path / "web.minicloud")
    predicted = host.make("copy", check=True, source=source)
    assert host.scope.read("copy") is None
    real = host.make("copy", source=source)
    assert (predicted.changed, predicted.actions, predicted.after) == (True, real.actions, real.after)
    for key in ("cpus", "memory", "disk", "tags", "user", "state", "instance_type"):
        assert predicted.view[key] == real.view[key]


def test_a_broken_file_changes_nothing(host):
    host.export()
    path = host.path / "web.minicloud"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError):
        host.make("copy", source=str(path))
    assert host.scope.read("copy") is None
    assert host.leftovers() == []


EXPORTING = ["export", "exported base.qcow2", "written", "in_place"]
IMPORTING = ["unpack", "verified", "record", "seed", "layers", "taken_in", "snapshot_record", "created"]


def killed_at(step, act):
    """Do something in a process that is killed at a step, as by the kernel."""

    class Killing(RecordingReporter):
        def step(self, name):
            if name == step:
                processes.kill_myself()

    assert processes.run(lambda: act(Killing())) == -9


@pytest.mark.parametrize("step", EXPORTING)
def test_an_export_that_was_killed_leaves_the_file_as_it_was_and_is_made_by_the_next(host, step):
    host.export(compression="none")
    host.fill(24 * MIB, 3)
    before = (host.path / "web.minicloud").read_bytes()
    killed_at(step, lambda reporter: host.export(compression="none", reporter=reporter))
    if step != "in_place":
        assert (host.path / "web.minicloud").read_bytes() == before
    assert host.export(compression="none").changed
    assert not host.export(compression="none").changed
    assert host.leftovers() == []
    host.make("copy", source=str(host.path / "web.minicloud"))
    assert host.disk("copy") == host.disk()


@pytest.mark.parametrize("step", IMPORTING)
def test_an_import_that_was_killed_is_made_by_the_next(host, step):
    host.export(snapshots=True, compression="none")
    source = str(host.path / "web.minicloud")
    killed_at(step, lambda reporter: host.make("copy", source=source, reporter=reporter))
    assert host.make("copy", source=source).changed
    assert not host.make("copy", source=source).changed
    assert host.disk("copy") == host.disk()
    assert [each.name for each in host.scope.snapshots("copy").all()[0]] == ["first"]
    assert host.leftovers() == []
    host.make("copy", state="absent")
    assert not os.path.exists(host.scope.directory("copy"))


def test_a_full_disk_leaves_what_was_there(host, monkeypatch):
    from ansible_collections.minicloud.local.plugins.module_utils._images import archive, unpack

    host.export()
    before = (host.path / "web.minicloud").read_bytes()

    def full(*dummy):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(archive, "write_all", full)
        with pytest.raises(NoSpace):
            host.export(force=True)
    assert (host.path / "web.minicloud").read_bytes() == before
    assert host.leftovers() == []
    with monkeypatch.context() as patched:
        patched.setattr(unpack, "free_space", lambda path: 4096)
        with pytest.raises(NoSpace):
            host.make("copy", source=str(host.path / "web.minicloud"))
    assert host.scope.read("copy") is None
    assert host.leftovers() == []
    assert host.make("copy", source=str(host.path / "web.minicloud")).changed


def test_a_renamed_instance_keeps_what_is_known_of_its_exports_and_snapshots(host):
    made = host.export(snapshots=True).view
    host.make("web", new_name="www", state="present")
    again = host.export("www", snapshots=True)
    # Its record has another name, so the file would have, too.
    assert again.changed
    assert again.view["path"] == made["path"]
    assert [each.name for each in host.scope.snapshots("www").all()[0]] == ["first"]
    host.snapshot("first", "www", state="restored", safeguard=False)
    assert host.scope.read("www").name == "www"
    assert host.disk("www")[16 * MIB : 16 * MIB + 4] == bytes(4)


@pytest.fixture
def multipass(host):
    """A directory of Multipass with an instance that has a snapshot, and has gone on from it."""
    made = generator.Multipass(str(host.path / "multipass"), str(host.path / "image.qcow2"))
    disk = made.add("old", file="xenial-disk1.img", disk_space=str(64 * MIB), num_cores=2)
    foreign.qemu_img("amend", "-o", "compat=1.1", disk)
    foreign.qemu_img("resize", disk, "64M")
    made.snapshot("old", 1, name="base", comment="as delivered")
    command = f"write -q -P 7 {8 * MIB} 65536"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, disk], check=True, capture_output=True)
    made.add("busy", "running")
    made.write()
    return made


@pytest.mark.parametrize("step", ["", "unpack", "extracted", "layer", "layers", "taken_in", "snapshot_record"])
def test_what_multipass_has_is_taken_over(host, multipass, step):
    root = pathlib.Path(multipass.root)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    params = {"source": "multipass:old", "source_root": str(root)}
    if step:
        killed_at(step, lambda reporter: host.make("old", reporter=reporter, **params))
    assert host.make("old", **params).changed
    assert not host.make("old", **params).changed
    new = host.scope.read("old")
    assert (new.cpus, new.memory, new.disk, new.user) == (2, 128 * MIB, 64 * MIB, "ubuntu")
    assert new.nics[0].mac == multipass.specs["old"]["mac_addr"]
    assert host.disk("old")[8 * MIB : 8 * MIB + 4] == b"\7\7\7\7"
    assert [(each.name, each.comment) for each in host.scope.snapshots("old").all()[0]] == [("base", "as delivered")]
    host.snapshot("base", "old", state="restored", safeguard=False)
    assert host.disk("old")[8 * MIB : 8 * MIB + 4] == bytes(4)
    assert before == {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert host.leftovers() == []


def test_all_that_multipass_has_is_taken_over_at_once(host, multipass):
    params = {
        "driver": "qemu",
        "driver_options": None,
        "state": "stopped",
        "source_root": multipass.root,
        "timeout": 300,
    }
    for check in (True, False, False):
        outcome, views = take_over_all(params, host.runtime(), host.data, check)
        assert [view["name"] for view in views] == ["old"]
        assert any("busy of Multipass cannot be taken over" in text for text in host.reporter.warnings)
    assert not outcome.changed
    with pytest.raises(InvalidOption, match="state: absent"):
        take_over_all({**params, "state": "absent"}, host.runtime(), host.data)
