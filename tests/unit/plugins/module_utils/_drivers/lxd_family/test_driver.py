# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import builtins
import dataclasses
import ipaddress
import os
import platform
import re
import sys
from types import SimpleNamespace

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.host_networks.bridges import HostNetworks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd.driver import LxdDriver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import act as lxd_act
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import client as lxd_client
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import config as lxd_config
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import images as lxd_images
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import pools as lxd_pools
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.client import LxdClient
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.networks import config_of
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.pools import LxdPools
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import ABOUT
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InUse,
    InvalidOption,
    MissingRequirement,
    NoSpace,
    NotFound,
    NotSupported,
)
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import dhcp, links
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ABSENT,
    GIB,
    PAUSED,
    RUNNING,
    STOPPED,
    SUSPENDED,
    Instance,
    Nic,
    Observed,
    normal_arch,
    parse_port,
)
from ansible_collections.minicloud.local.plugins.module_utils._network import Network
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._drivers.lxd_family.fake_lxd import FakeLxd

MAC = "52:54:00:aa:bb:01"
SEED = {"meta-data": b'{"instance-id": "u-1"}', "user-data": b"#cloud-config\n{}"}


@pytest.fixture(name="lxd")
def _lxd():
    return FakeLxd()


@pytest.fixture(name="data")
def _data(tmp_path):
    return DataDirectory(str(tmp_path / "data"))


@pytest.fixture(name="make_driver")
def _make_driver(lxd, data, monkeypatch, tmp_path):
    monkeypatch.delenv("LXD_DIR", raising=False)
    monkeypatch.setattr(LxdClient, "call", lambda self, *args, **kwargs: lxd.call(*args, **kwargs))
    monkeypatch.setattr(LxdClient, "require_library", lambda self: None)
    monkeypatch.setattr(LxdPools, "_pool_size", lambda self: 30 * GIB)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # the host itself is left alone

    def make(**options):
        if str(options.get("endpoint", "")).startswith("https"):
            (tmp_path / "pem").touch()
            options.update(cert=str(tmp_path / "pem"), key=str(tmp_path / "pem"))
        driver = LxdDriver(ABOUT["lxd"], Runtime(None, Reporter()), data.scope("lxd"), options)
        monkeypatch.setattr(driver.api, "get", lxd.get)
        monkeypatch.setattr(driver.api, "text", lxd.text)
        monkeypatch.setattr(driver.api, "download", lxd.download)
        return driver

    return make


@pytest.fixture(name="driver")
def _driver(make_driver):
    return make_driver()


@pytest.fixture(name="image")
def _image(tmp_path):
    path = tmp_path / "root.tar.xz"
    path.write_bytes(b"root file system")
    return Image("24.04", "ab" * 32, str(path), "tar.xz", 16, 0, "x86_64", os="ubuntu", kind="container")


@pytest.fixture(name="web")
def _web(data):
    scope = data.scope("lxd")
    network = Network("default", "lxd", "lxd", "", subnet="10.1.2.0/24", interface="mc1", phase="ready")
    scope.networks.write(network)
    instance = an_instance()
    scope.write(instance)
    return instance


def an_instance(**changes):
    values = {
        "name": "web",
        "uuid": "u-1",
        "scope": "lxd",
        "driver": "lxd",
        "created": "2026-01-02T03:04:05Z",
        "arch": "x86_64",
        "cpus": 2,
        "memory": GIB,
        "disk": 10 * GIB,
        "owner": "lxd",
        "instance_type": "container",
        "image": {"name": "24.04", "hash": "ab" * 32},
        "nics": [Nic("default", MAC, lease="10.1.2.3")],
    }
    return Instance(**{**values, **changes})


class TestCreate:
    def test_the_first_one_makes_all_that_it_needs(self, driver, lxd, web, image):
        driver.acts.create(web, image, SEED)
        assert [change.split()[:2] for change in lxd.changes] == [
            ["post", "projects"],
            ["post", "storage-pools"],
            ["put", "profiles/default"],
            ["post", "images"],
            ["post", "network-acls"],
            ["post", "networks"],
            ["post", "instances"],
        ]
        assert lxd.objects["projects"]["minicloud"]["config"] == {
            "features.images": "true",
            "features.profiles": "true",
            "features.storage.volumes": "true",
        }
        pool = lxd.objects["storage-pools"]["minicloud"]
        assert (pool["driver"], pool["config"]) == ("btrfs", {"size": "30GiB"})
        made = lxd.objects["instances"]["web"]
        assert made["type"] == "container"
        assert made["config"]["cloud-init.user-data"] == "#cloud-config\n{}"
        assert made["devices"]["root"]["pool"] == "minicloud"
        assert made["devices"]["eth0"]["ipv4.address"] == "10.1.2.3"
        assert driver.runtime.report.warnings == []

    def test_the_second_one_makes_itself(self, driver, lxd, web, image):
        driver.acts.create(web, image, SEED)
        lxd.changes.clear()
        driver.acts.create(an_instance(name="db", uuid="u-2"), image, SEED)
        assert lxd.changes == ["post instances"]

    def test_what_a_killed_run_has_begun_is_begun_anew(self, driver, lxd, web, image):
        driver.acts.create(web, image, SEED)
        lxd.running.append({"id": "o", "resources": {"instances": ["/1.0/instances/web?project=minicloud"]}})
        lxd.changes.clear()
        driver.acts.create(web, image, SEED)
        assert lxd.changes == ["delete instances/web", "post instances"]
        assert lxd.running == []  # it was waited for

    def test_a_network_that_goes_at_the_last_moment_is_made_anew(self, driver, lxd, web, image):
        """A killed run has asked LXD to make or remove it, and LXD is at it still."""
        post = lxd._post

        def lose(path, *args):
            if (
                path == "instances"
                and lxd.objects["networks"].pop("mc1", None)
                and lxd.changes.count("post instances") == 1
            ):
                raise HypervisorError("no", 'Failed to load network "mc1" for project "default": Network not found')
            return post(path, *args)

        lxd._post = lose
        driver.acts.create(web, image, SEED)
        assert lxd.changes.count("post networks") == 2
        assert "web" in lxd.objects["instances"]

    def test_somebody_elses_instance_is_not_touched(self, driver, lxd, web, image):
        driver.acts.create(web, image, SEED)
        lxd.changes.clear()
        with pytest.raises(InUse, match=r"another instance named web: it was made by the data directory .*project"):
            driver.acts.create(an_instance(uuid="u-9"), image, SEED)
        driver.acts.delete(an_instance(uuid="u-9"))
        assert lxd.changes == []
        lxd.objects["instances"]["web"]["config"] = {}
        with pytest.raises(InUse, match="it was not made by this collection"):
            driver.acts.create(web, image, SEED)

    def test_a_container_image_makes_no_machine(self, driver, web, image):
        with pytest.raises(InvalidOption, match="is for containers"):
            driver.acts.create(an_instance(instance_type="vm"), image, SEED)

    def test_a_machine(self, driver, lxd, web, image):
        lxd.server["environment"]["driver"] = "lxc | qemu"
        driver.acts.require("x86_64", "uefi", "vm")
        pytest.importorskip("requests_toolbelt")
        disk = Image(**{**image.to_dict(), "kind": "disk", "format": "qcow2"})
        driver.acts.create(an_instance(instance_type="vm"), disk, SEED)
        made = lxd.objects["instances"]["web"]
        assert made["type"] == "virtual-machine"
        assert made["devices"]["seed"] == {"type": "disk", "source": "cloud-init:config"}

    def test_on_a_member_of_a_cluster(self, make_driver, lxd, web, image):
        lxd.server["environment"]["server_clustered"] = True
        lxd.members = {"m1": "https://10.9.0.1:8443", "m2": "https://10.9.0.2:8443"}
        driver = make_driver(endpoint="https://10.9.0.1:8443", target="m2")
        driver.acts.create(web, image, SEED)
        assert [change for change in lxd.changes if "storage" in change] == [
            "post storage-pools m1",
            "post storage-pools m2",
            "post storage-pools",
        ]
        assert lxd.changes[-1] == "post instances m2"
        assert lxd.objects["instances"]["web"]["location"] == "m2"


class TestPools:
    def test_one_that_is_there_is_used(self, make_driver, lxd, web, image):
        lxd.objects["storage-pools"]["fast"] = {"driver": "zfs", "status": "Created"}
        make_driver(storage_pool="fast").acts.create(web, image, SEED)
        assert "post storage-pools" not in lxd.changes
        assert lxd.objects["instances"]["web"]["devices"]["root"]["pool"] == "fast"
        assert lxd.profile["devices"]["root"]["pool"] == "fast"

    def test_one_that_the_project_has_is_used(self, driver, lxd, web, image):
        lxd.profile = {"config": {}, "description": "", "devices": {"root": {"type": "disk", "pool": "theirs"}}}
        driver.acts.create(web, image, SEED)
        assert lxd.objects["instances"]["web"]["devices"]["root"]["pool"] == "theirs"
        assert not any("storage-pools" in change for change in lxd.changes)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"storage_pool": "fsat"}, r"driver_options.storage_pool 'fsat' is not there: .* has fast\."),
            ({"project": "labb"}, r"driver_options.project 'labb' is not there: .* has default, lab\."),
        ],
    )
    def test_a_name_that_is_not_there_makes_nothing(self, make_driver, lxd, web, image, options, said):
        lxd.objects["storage-pools"]["fast"] = {"driver": "zfs", "status": "Created"}
        lxd.objects["projects"].update(default={}, lab={})
        driver = make_driver(**options)
        with pytest.raises(InvalidOption, match=said):
            driver.acts.require("x86_64", "", "container")
        with pytest.raises(InvalidOption, match=said):
            driver.acts.create(web, image, SEED)
        assert lxd.changes == []
        assert make_driver(project="lab", storage_pool="fast").acts.require("x86_64", "", "container") is None

    def test_zfs_comes_first_and_the_next_where_it_fails(self, driver, lxd, web, image, monkeypatch):
        lxd.server["environment"]["storage_supported_drivers"] = [{"name": "dir"}, {"name": "btrfs"}, {"name": "zfs"}]
        tried = []
        make = LxdPools._make_pool

        def make_pool(self, name, driver, environment):
            tried.append(driver)
            if driver == "zfs":
                raise HypervisorError("no", "the module zfs is not loaded")
            make(self, name, driver, environment)

        monkeypatch.setattr(LxdPools, "_make_pool", make_pool)
        driver.acts.create(web, image, SEED)
        assert tried == ["zfs", "btrfs"]
        assert driver.runtime.report.warnings == []

    def test_dir_is_the_last_resort_and_said(self, driver, lxd, web, image):
        lxd.server["environment"]["storage_supported_drivers"] = [{"Name": "dir"}]
        driver.acts.create(web, image, SEED)
        pool = lxd.objects["storage-pools"]["minicloud"]
        assert (pool["driver"], pool["config"]) == ("dir", {})
        assert "copies its whole image" in driver.runtime.report.warnings[0]
        assert "btrfs-progs" in driver.runtime.report.warnings[0]

    def test_none_can_be_made(self, driver, lxd, web, image):
        lxd.refused["post storage-pools"] = "no loop devices"
        with pytest.raises(HypervisorError, match=r"btrfs: no loop devices; dir: no loop devices.*storage_pool"):
            driver.acts.create(web, image, SEED)

    def test_no_room(self, make_driver, monkeypatch):
        monkeypatch.undo()
        monkeypatch.setattr(lxd_pools.os, "statvfs", lambda path: type("S", (), {"f_bavail": GIB, "f_frsize": 1}))
        driver = make_driver(endpoint="/srv/lxd/unix.socket")
        with pytest.raises(NoSpace, match="/srv/lxd has no room for a storage pool of LXD: 1 GiB are free"):
            driver.acts.pools._pool_size()

    def test_most_of_what_is_free(self, make_driver, monkeypatch):
        monkeypatch.undo()
        stat = type("S", (), {"f_bavail": 100 * GIB, "f_frsize": 1})
        monkeypatch.setattr(lxd_pools.os, "statvfs", lambda path: stat)
        assert make_driver(endpoint="/srv/lxd/unix.socket").acts.pools._pool_size() == 80 * GIB
        assert make_driver(endpoint="https://lab").acts.pools._pool_size() == 0


class TestImages:
    def test_those_of_this_vault_that_are_gone_go(self, driver, lxd, data, web, image):
        there = {"minicloud.hash": "cd" * 32, "minicloud.data_dir": data.path}
        foreign = {"minicloud.hash": "cd" * 32, "minicloud.data_dir": "/elsewhere"}
        lxd.objects["images"] = {
            "f1": {"fingerprint": "f1", "properties": there},
            "f2": {"fingerprint": "f2", "properties": foreign},
            "f3": {"fingerprint": "f3", "properties": {}},
        }
        driver.acts.create(web, image, SEED)
        assert "f1" not in lxd.objects["images"]
        assert lxd.objects["images"].keys() >= {"f2", "f3"}
        assert len(lxd.objects["images"]) == 3

    def test_they_go_when_that_is_asked_for_unless_they_are_just_fetched_anew(self, driver, lxd, data):
        hashes = {"f1": "cd" * 32, "f2": "ef" * 32, "f3": "01" * 32}
        lxd.objects["images"] = {
            name: {"fingerprint": name, "properties": {"minicloud.hash": hash_, "minicloud.data_dir": data.path}}
            for name, hash_ in hashes.items()
        }
        os.makedirs(os.path.join(data.vault, hashes["f2"]))
        with data.lock(f"lxd-image-{hashes['f3'][:16]}"):
            driver.acts.tidy_images()
        assert set(lxd.objects["images"]) == {"f2", "f3"}
        driver.acts.tidy_images()
        assert set(lxd.objects["images"]) == {"f2"}

    def test_one_that_came_another_way(self, driver, lxd, web, image):
        """Its fingerprint is that of its content."""
        fingerprint = lxd_images._fingerprint(image)
        lxd.objects["images"][fingerprint] = {"fingerprint": fingerprint, "properties": {}}
        lxd.refused["post images"] = "Image with same fingerprint already exists"
        driver.acts.create(web, image, SEED)
        assert lxd.objects["instances"]["web"]["source"]["fingerprint"] == fingerprint

    def test_fingerprints(self, image, tmp_path):
        import hashlib

        assert lxd_images._fingerprint(image) == hashlib.sha256(b"root file system").hexdigest()
        (tmp_path / "meta").write_bytes(b"metadata, ")
        split = Image(**{**image.to_dict(), "metadata": str(tmp_path / "meta")})
        assert lxd_images._fingerprint(split) == hashlib.sha256(b"metadata, root file system").hexdigest()
        assert lxd_images._vm_metadata(image) == lxd_images._vm_metadata(image)


@pytest.fixture(name="made")
def _made(driver, lxd, web, image):
    driver.acts.create(web, image, SEED)
    lxd.changes.clear()
    return web


class TestClones:
    def clone(self, driver, parent, snapshot=None, full=False):
        copy = an_instance(name="copy", uuid="u-2", cpus=3, nics=[Nic("default", "52:54:00:aa:bb:02")])
        seed = {"meta-data": b'{"instance-id": "u-2"}', "user-data": b"#cloud-config\n{}"}
        return driver.clones().make(copy, parent, snapshot, seed, full)

    def test_it_has_nothing_that_is_its_sources_alone(self, driver, lxd, made):
        theirs = lxd.objects["instances"]["web"]
        theirs["config"].update(
            {"security.nesting": "true", "cloud-init.vendor-data": "theirs", "raw.idmap": "uid 0 0"}
        )
        theirs["config"]["user.user-data"] = "theirs"
        theirs["devices"]["port-tcp-127.0.0.1-8080"] = {"type": "proxy", "listen": "tcp:127.0.0.1:8080"}
        theirs["devices"]["gpu"] = {"type": "gpu"}
        before = {key: dict(value) for key, value in theirs.items() if key in ("config", "devices")}
        assert self.clone(driver, made) == "linked"
        copy = lxd.objects["instances"]["copy"]
        assert "theirs" not in copy["config"].values()
        assert "raw.idmap" not in copy["config"]
        wanted = ("security.nesting", "limits.cpu", "user.minicloud.uuid")
        assert [copy["config"][key] for key in wanted] == ["true", "3", "u-2"]
        assert "u-2" in copy["config"]["user.meta-data"]
        assert sorted(copy["devices"]) == ["eth0", "root"]
        assert copy["devices"]["eth0"]["hwaddr"] == "52:54:00:aa:bb:02"
        assert copy["source"] == {"type": "copy", "source": "web", "project": "minicloud", "instance_only": True}
        assert {key: theirs[key] for key in before} == before

    def test_of_a_snapshot_and_on_storage_that_copies(self, driver, lxd, made):
        snapshot = Snapshot("one", "00000000-0000-4000-8000-000000000001", "lxd", "")
        lxd.objects["instances"]["web"]["snapshots"] = [snapshot.uuid]
        assert self.clone(driver, made, snapshot, full=True) == "full"
        assert lxd.objects["instances"]["copy"]["source"]["source"] == f"web/{snapshot.uuid}"
        driver.acts.delete(an_instance(name="copy", uuid="u-2"))
        lxd.objects["storage-pools"]["minicloud"]["driver"] = "dir"
        assert self.clone(driver, made) == "full"

    def test_what_a_killed_run_has_begun_is_begun_anew(self, driver, lxd, made):
        self.clone(driver, made)
        self.clone(driver, made)
        assert lxd.objects["instances"]["copy"]["config"]["user.minicloud.uuid"] == "u-2"

    def test_another_instance_of_that_name_is_no_source(self, driver, lxd, made):
        lxd.objects["instances"]["web"]["config"]["user.minicloud.uuid"] = "u-9"
        with pytest.raises(HypervisorError, match="another instance has its name there"):
            self.clone(driver, made)
        assert "copy" not in lxd.objects["instances"]


class TestChanges:
    def test_start(self, driver, lxd, made):
        driver.acts.start(made)
        assert lxd.changes == ["put instances/web/state start"]
        driver.acts.start(made)  # by hand, meanwhile
        assert lxd.changes == ["put instances/web/state start"]

    def test_start_puts_right_what_was_changed_by_hand(self, driver, lxd, made):
        lxd.objects["instances"]["web"]["config"].update({"limits.cpu": "8", "security.nesting": "true"})
        driver.acts.start(made)
        assert lxd.changes == ["put instances/web", "put instances/web/state start"]
        config = lxd.objects["instances"]["web"]["config"]
        assert (config["limits.cpu"], config["security.nesting"]) == ("2", "true")

    def test_a_frozen_one_is_thawed(self, driver, lxd, made):
        lxd.objects["instances"]["web"]["status"] = "Frozen"
        driver.acts.start(made)
        assert lxd.changes == ["put instances/web/state unfreeze"]

    def test_a_start_that_fails_brings_the_log(self, driver, lxd, made):
        lxd.refused["put instances/web/state"] = "forkstart failed"
        with pytest.raises(HypervisorError, match="LXD could not start web: forkstart failed") as caught:
            driver.acts.start(made)
        assert caught.value.facts["hypervisor_log"] == ["lxc said no"]

    def test_more_of_everything_while_it_runs(self, driver, lxd, made):
        driver.acts.start(made)
        lxd.changes.clear()
        made.cpus, made.memory, made.disk, made.tags = 4, 2 * GIB, 20 * GIB, {"role": "web"}
        driver.acts.reconfigure(made)
        driver.acts.grow_disk(made)
        assert lxd.changes == ["put instances/web"]
        after = lxd.objects["instances"]["web"]
        assert (after["config"]["limits.cpu"], after["config"]["limits.memory"]) == ("4", "2048MiB")
        assert after["config"]["user.minicloud.tag.role"] == "web"
        assert after["devices"]["root"]["size"] == "20480MiB"
        assert after["status"] == "Running"

    def test_forwards(self, driver, lxd, made):
        made.ports = [parse_port("8080:80")]
        driver.acts.forward_ports(made, [])
        assert driver.acts.forwards(made) == made.ports
        made.ports = []
        driver.acts.forward_ports(made, [parse_port("8080:80")])
        assert driver.acts.forwards(made) == []

    def test_nothing_is_done_to_another_instance_of_that_name(self, driver, lxd, made):
        other = an_instance(uuid="u-9", cpus=8)
        for act in (driver.acts.reconfigure, driver.acts.grow_disk, driver.acts.start):
            with pytest.raises(HypervisorError, match="another instance has its name there"):
                act(other)
        assert lxd.changes == []

    def test_stop(self, driver, lxd, made):
        driver.acts.start(made)
        lxd.changes.clear()
        driver.acts.stop(made, Deadline(10), False)
        driver.acts.stop(made, Deadline(10), False)
        assert lxd.changes == ["put instances/web/state stop"]
        with open(driver.console_log(made), "rb") as stream:
            assert stream.read() == b"login: "

    def test_stop_by_force(self, driver, lxd, made):
        driver.acts.start(made)
        driver.acts.stop(made, Deadline(10), True)
        assert lxd.changes[-1] == "put instances/web/state stop by force"

    def test_a_guest_that_does_not_comply(self, driver, lxd, made):
        driver.acts.start(made)
        lxd.refused["put instances/web/state"] = "context deadline exceeded"
        with pytest.raises(HypervisorError, match=r"web did not shut down within 10 seconds: context.*force: true"):
            driver.acts.stop(made, Deadline(10), False)

    def test_delete(self, driver, lxd, made):
        driver.acts.start(made)
        driver.acts.delete(made)
        driver.acts.delete(made)
        assert lxd.changes[-2:] == ["put instances/web/state stop by force", "delete instances/web"]
        assert lxd.objects["instances"] == {}

    def test_one_whose_record_was_lost_is_known_by_its_name_and_place(self, driver, lxd, made):
        lost = dataclasses.replace(made, uuid="")
        config = lxd.objects["instances"]["web"]["config"]
        ours = config["user.minicloud.data_dir"]
        config["user.minicloud.data_dir"] = "/elsewhere"
        driver.acts.delete(lost)
        assert "web" in lxd.objects["instances"]
        config["user.minicloud.data_dir"] = ours
        driver.acts.delete(lost)
        assert lxd.objects["instances"] == {}

    @pytest.mark.parametrize("spelled", ["link", "data"])
    def test_one_whose_record_was_lost_is_known_however_the_data_directory_is_spelled(
        self, driver, lxd, made, data, tmp_path, spelled
    ):
        """Versions before have noted the path as the task had it, through a link or not."""
        (tmp_path / "link").symlink_to(data.path)
        lxd.objects["instances"]["web"]["config"]["user.minicloud.data_dir"] = str(tmp_path / spelled)
        driver.acts.delete(dataclasses.replace(made, uuid=""))
        assert lxd.objects["instances"] == {}

    def test_its_disk_is_not_handed_out(self, driver):
        assert not driver.about.can("publish", "vm")
        with pytest.raises(NotSupported):
            driver.export().export_disk(None, "", "")

    def test_it_is_exported_as_an_image_that_goes_again(self, driver, lxd, made):
        lxd.objects["images"]["left"] = {"fingerprint": "left", "properties": {"minicloud.export": made.uuid}}
        lxd.objects["images"]["other"] = {"fingerprint": "other", "properties": {"minicloud.export": "else"}}
        # An image that was made of what was exported has what is in its metadata, too.
        properties = {"minicloud.export": made.uuid, "minicloud.hash": "f" * 64}
        lxd.objects["images"]["copy"] = {"fingerprint": "copy", "properties": properties}
        before = {name for name in lxd.objects["images"] if name != "left"}
        made.image.update(os="debian", release="bookworm")
        export = driver.export()
        stamp = export.stamp(made)
        with export.content(made, []) as content:
            # What a run that was killed had left is gone first.
            assert set(lxd.objects["images"]) == {*before, "made"}
            told = {**lxd.objects["images"]["made"]["properties"], "minicloud.export": ""}
            assert told == {
                "description": "web", "os": "debian", "release": "bookworm", "minicloud.export": "",
            }  # fmt: skip
            (piece,) = content.pieces
            assert (piece.name, piece.size, b"".join(piece.blocks())) == ("container.tar", 4, b"root")
        assert set(lxd.objects["images"]) == before
        assert export.stamp(made) == stamp
        lxd.objects["instances"]["web"]["last_used_at"] = "2026-05-04T10:20:30Z"
        assert export.stamp(made) != stamp

    def test_one_that_lxd_protects_is_not_touched(self, driver, lxd, made):
        lxd.objects["instances"]["web"]["config"]["security.protection.delete"] = "true"
        before = len(lxd.changes)
        with pytest.raises(HypervisorError, match=r"it is protected there.*lxc config set web security.protection"):
            driver.acts.check_removal(made)
        assert lxd.changes[before:] == []
        driver.acts.check_removal(an_instance(uuid="somebody-elses"))

    def test_one_that_lxd_does_not_remove_runs_on(self, driver, lxd, made):
        driver.acts.start(made)
        lxd.refused["delete instances/web"] = HypervisorError("no", "dataset is busy")
        with pytest.raises(HypervisorError, match="dataset is busy"):
            driver.acts.delete(made)
        assert lxd.objects["instances"]["web"]["status"] == "Running"

    @pytest.mark.parametrize(
        ("last_used", "there"),
        [("1970-01-01T00:00:00Z", False), ("0001-01-01T00:00:00Z", False), ("2026-01-02T03:04:05Z", True)],
    )
    def test_what_remains_is_what_was_ever_started(self, driver, lxd, made, last_used, there):
        lxd.objects["instances"]["web"]["last_used_at"] = last_used
        assert bool(driver.remains(made)) == there
        assert driver.remains(an_instance(uuid="somebody-elses")) == ""

    def test_what_remains_of_a_clone_is_data_that_was_never_started(self, driver, lxd, made):
        lxd.objects["instances"]["web"]["last_used_at"] = "1970-01-01T00:00:00Z"
        made.source = {"name": "other", "uuid": "u-8"}
        assert driver.remains(dataclasses.replace(made, phase="creating")) == ""
        assert "with its disk" in driver.remains(dataclasses.replace(made, phase="removing"))

    def test_one_that_is_frozen_goes_on(self, driver, lxd, made):
        lxd.objects["instances"]["web"]["status"] = "Frozen"
        driver.acts.resume(made)
        assert driver.observe([made])[0].state == RUNNING

    def test_one_that_goes_on_by_itself_need_not_be_told(self, driver, lxd, made, monkeypatch):
        monkeypatch.setattr(lxd_act, "_RUNS_WITHIN", 0.05)
        lxd.refused = {"put instances/web/state": "The container is already running"}
        lxd.objects["instances"]["web"]["status"] = "Frozen"
        with pytest.raises(HypervisorError, match="already running"):
            driver.acts.resume(made)
        lxd.objects["instances"]["web"]["status"] = "Running"
        driver.acts.resume(made)

    def test_a_disk_that_somebody_has_grown_is_not_made_smaller(self, driver, lxd, made):
        root = lxd.objects["instances"]["web"]["devices"]["root"]
        root["size"] = "900GiB"
        (seen,) = driver.observe([made])
        assert seen.disk == 900 * GIB and "disk" not in seen.differs
        made.autostart = True
        driver.acts.reconfigure(made)
        assert lxd.objects["instances"]["web"]["devices"]["root"]["size"] == f"{900 * 1024}MiB"
        (seen,) = driver.observe([made])
        assert seen.disk == 900 * GIB and seen.differs == ()


class TestObserve:
    @pytest.mark.parametrize("project", ["minicloud", "other"])
    def test_one_that_somebody_has_renamed_or_moved_is_found(self, driver, lxd, made, project):
        lxd.objects["instances"]["www"] = {**lxd.objects["instances"].pop("web"), "name": "www", "project": project}
        (seen,) = driver.observe([made])
        assert seen.state == ABSENT
        assert seen.reason == f"LXD has it as www in the project {project}"
        # A list of many tells the same.
        assert driver.observe([an_instance(name="gone", uuid="u-9"), made])[1] == seen
        driver.acts.delete(made)
        assert "www" in lxd.objects["instances"]

    def test_a_start_that_a_killed_run_has_asked_for_is_seen_to_its_end(self, driver, lxd, made, monkeypatch):
        made.owner = "lxd"
        lxd.running.append({"id": "o", "resources": {"instances": ["/1.0/instances/web?project=minicloud"]}})
        look = lxd._look

        def end(path, recursion):
            if path == "operations/o/wait":
                lxd.objects["instances"]["web"]["status"] = "Running"
            return look(path, recursion)

        monkeypatch.setattr(lxd, "_look", end)
        assert driver.observe([made])[0].state == RUNNING
        assert lxd.running == []

    def test_one_that_is_gone_is_gone(self, driver, lxd, made):
        del lxd.objects["instances"]["web"]
        assert driver.observe([made])[0].reason == ""

    def test_the_host_is_the_servers(self, make_driver, lxd):
        lxd.server["environment"]["kernel_architecture"] = "aarch64"
        assert make_driver(endpoint="https://10.9.0.1:8443").host.architecture() == "aarch64"
        assert make_driver().host.architecture() == normal_arch(platform.machine())

    def test_the_host_is_the_member_that_instances_are_placed_on(self, make_driver, lxd, monkeypatch):
        def look(path, recursion):
            members = [{"server_name": "m1", "architecture": "x86_64"}, {"server_name": "m2", "architecture": "arm64"}]
            return {"": lxd.server, "cluster/members": members, "resources": {"cpu": {"total": 12}}}[path]

        monkeypatch.setattr(lxd, "_look", look)
        lxd.server["environment"].update(kernel_architecture="x86_64", server_clustered=True)
        for where in ({}, {"endpoint": "https://10.9.0.1:8443"}):
            host = make_driver(target="m2", **where).host
            assert (host.architecture(), host.processors(), host.here) == ("aarch64", 12, not where)
            # What makes the instance says which members there are.
            assert make_driver(target="m3", **where).host.architecture() == "x86_64"

    @pytest.mark.parametrize(
        ("up", "asked"),
        [
            (0, ["instances?recursion=1"]),
            (1, ["instances?recursion=1", "instances/web/state"]),
            (4, ["instances?recursion=1", "instances?recursion=2"]),
        ],
    )
    def test_the_state_of_those_that_are_stopped_is_not_asked_for(self, driver, lxd, made, up, asked):
        names = ["web", "a", "b", "c"]
        entry = {"family": "inet", "scope": "global", "address": "10.1.2.3"}
        state = {"network": {"eth0": {"hwaddr": MAC, "addresses": [entry]}}}
        web = lxd.objects["instances"]["web"]
        for number, name in enumerate(names):
            status = "Running" if number < up else "Stopped"
            lxd.objects["instances"][name] = {**web, "name": name, "status": status, "state": state}
        lxd.asked.clear()
        first = driver.observe([made, an_instance(name="a")])[0]
        assert lxd.asked == asked
        assert first == (Observed(RUNNING, ("10.1.2.3",), {MAC: ("10.1.2.3",)}) if up else Observed(STOPPED))

    def test_one_and_many(self, driver, lxd, made):
        assert driver.observe([made]) == [Observed(STOPPED)]
        driver.acts.start(made)
        state = {"hwaddr": MAC.upper(), "addresses": []}
        for family, scope, address in (
            ("inet6", "global", "fd00::3"),
            ("inet6", "link", "fe80::1"),
            ("inet", "global", "10.1.2.3"),
        ):
            state["addresses"].append({"family": family, "scope": scope, "address": address})
        lxd.objects["instances"]["web"].update(state={"network": {"eth0": state, "docker0": {"hwaddr": "x"}}})
        seen = Observed(RUNNING, ("10.1.2.3", "fd00::3"), {MAC: ("10.1.2.3", "fd00::3")})
        assert driver.observe([made]) == [seen]
        gone = an_instance(name="gone", uuid="u-9")
        found = driver.observe([gone, made])
        assert [each.state for each in found] == [ABSENT, RUNNING]
        assert "removed from LXD by other means" in found[0].drift[0]
        assert driver.observe([]) == []

    def test_another_one_has_the_name(self, driver, made):
        seen = driver.observe([an_instance(uuid="u-9")])[0]
        assert seen.state == ABSENT
        assert "another instance has its name" in seen.drift[0]
        assert not driver.alive(an_instance(uuid="u-9"))

    def test_frozen_and_changed(self, driver, lxd, made):
        lxd.objects["instances"]["web"]["status"] = "Frozen"
        lxd.objects["instances"]["web"]["config"]["limits.cpu"] = "1"
        seen = driver.observe([made])[0]
        assert seen.state == PAUSED
        assert "cpus were changed" in seen.drift[0]
        assert driver.alive(made)

    def test_an_address_that_is_kept_is_known_at_once(self, driver, made):
        assert driver.ssh_address(made) == ("10.1.2.3", 22)

    def test_what_runs_is_reached_where_it_is(self, driver, lxd, made):
        """One that was given another address while it runs has the old one until it asks for the new one."""
        entry = {"family": "inet", "scope": "global", "address": "10.1.2.3"}
        lxd.objects["instances"]["web"].update(
            state={"network": {"eth0": {"hwaddr": MAC, "addresses": [entry]}}}, status="Running"
        )
        made.ready = True
        made.nics = [Nic("default", MAC, address="10.1.2.9")]
        made.ports = [parse_port("127.0.0.1:8080:80")]
        driver.acts.reconfigure(made)
        assert driver.ssh_address(made) == ("10.1.2.3", 22)
        port = lxd.objects["instances"]["web"]["devices"]["port-tcp-127.0.0.1-8080"]
        assert port["connect"] == "tcp:127.0.0.1:80"
        lxd.objects["instances"]["web"]["status"] = "Stopped"
        driver.acts.start(made)
        port = lxd.objects["instances"]["web"]["devices"]["port-tcp-127.0.0.1-8080"]
        assert port["connect"] == "tcp:10.1.2.9:80"
        entry["address"] = "10.1.2.9"
        assert driver.ssh_address(made) == ("10.1.2.9", 22)

    def test_what_is_beside_this_host_is_not_reached(self, driver, lxd, made, data):
        network = Network("lan", "lxd", "lxd", "", mode="bridged", parent="eth7", bridge_type="macvtap", phase="ready")
        data.scope("lxd").networks.write(network)
        entry = {"family": "inet", "scope": "global", "address": "192.0.2.9"}
        lxd.objects["instances"]["web"].update(
            state={"network": {"eth0": {"hwaddr": MAC, "addresses": [entry]}}}, status="Running"
        )
        made.nics = [Nic("lan", MAC)]
        assert driver.observe([made])[0].addresses == ("192.0.2.9",)
        assert driver.ssh_address(made) == ("", 22)

    def test_another_is_learned_while_it_runs(self, driver, lxd, made):
        made.nics = [Nic("default", MAC)]
        driver.acts.start(made)
        assert driver.ssh_address(made) == ("", 22)
        entry = {"family": "inet", "scope": "global", "address": "10.1.2.77"}
        lxd.objects["instances"]["web"]["state"] = {"network": {"eth0": {"hwaddr": MAC, "addresses": [entry]}}}
        assert driver.ssh_address(made) == ("10.1.2.77", 22)


class TestRemote:
    def test_ssh_goes_through_the_member_that_has_it(self, make_driver, lxd, web, image):
        lxd.members = {"m1": "https://10.9.0.1:8443", "m2": "https://10.9.0.2:8443"}
        driver = make_driver(endpoint="https://10.9.0.1:8443", target="m2")
        driver.acts.create(web, image, SEED)
        web.ports = [parse_port("80")]
        driver.acts.choose_ports(web)
        assert 20000 <= web.ssh_port < 32768
        assert 20000 <= web.ports[0].host_port < 32768
        assert web.chosen_ports == [web.ports[0].host_port]
        assert driver.ssh_address(web) == ("10.9.0.2", web.ssh_port)  # which is pinned before the start
        driver.acts.start(web)
        assert lxd.objects["instances"]["web"]["devices"]["ssh"]["listen"] == f"tcp:10.9.0.2:{web.ssh_port}"
        assert make_driver(endpoint="https://10.9.0.1:8443").ssh_address(web) == ("10.9.0.2", web.ssh_port)
        kept = web.ssh_port
        driver.acts.choose_ports(web)
        assert web.ssh_port == kept

    def test_a_port_that_is_taken_there(self, make_driver, lxd, web, image):
        driver = make_driver(endpoint="https://10.9.0.1:8443")
        driver.acts.create(web, image, SEED)
        driver.acts.choose_ports(web)
        put = lxd._put
        place = f"10.9.0.1:{web.ssh_port}"
        failures = [f"Error: Failed to listen on {place}: listen tcp {place}: bind: address already in use"]

        def refuse(path, *args):
            if path.endswith("/state") and failures:
                raise HypervisorError("no", failures.pop())
            return put(path, *args)

        lxd._put = refuse
        with pytest.raises(InUse, match="is taken: Error: Failed to listen") as refused:
            driver.acts.start(web)
        assert refused.value.facts["port"] == web.ssh_port
        driver.acts.start(web)
        assert driver.ssh_address(web) == ("10.9.0.1", web.ssh_port)

    def test_records_lead_back(self, make_driver):
        local, remote = make_driver(), make_driver(endpoint="https://10.9.0.1:8443", project="lab")
        assert set(local.handle()) == {"endpoint", "project"}
        assert set(remote.handle()) == {"endpoint", "project", "cert", "key", "verify"}
        assert remote.leads_here({**remote.handle(), "cert": "/moved"})
        assert not remote.leads_here(local.handle())
        assert not local.leads_here({**local.handle(), "project": "other"})


class TestRequirements:
    def test_what_is_there(self, driver):
        driver.acts.require("x86_64", "", "container")
        assert driver.acts.probe()["version"] == "5.0.2"
        assert driver.acts.probe()["instance_types"] == "container"
        assert "accelerator" not in driver.acts.probe()

    def test_no_virtual_machines(self, driver):
        with pytest.raises(
            MissingRequirement, match=r"cannot run virtual machines.*vhost_vsock.*instance_type: container"
        ):
            driver.acts.require("x86_64", "", "vm")

    def test_another_architecture(self, driver):
        with pytest.raises(NotSupported, match=r"does not run instances for aarch64: it runs x86_64, i686.*qemu"):
            driver.acts.require("aarch64", "", "container")

    def test_a_certificate_that_is_not_trusted(self, make_driver, lxd):
        lxd.server["auth"] = "untrusted"
        with pytest.raises(MissingRequirement, match=r"does not trust the client certificate.*trust add"):
            make_driver(endpoint="https://lab").acts.require("x86_64", "", "container")

    def test_an_old_lxd(self, driver, lxd):
        lxd.server["api_extensions"] = ["projects", "instances"]
        with pytest.raises(MissingRequirement, match=r"is too old: it is 5.0.2 and lacks cloud_init.*5.0 or newer"):
            driver.acts.require("x86_64", "", "container")

    def test_a_member_that_is_not_there(self, make_driver, lxd):
        driver = make_driver(target="m9")
        with pytest.raises(InvalidOption, match=r"'m9' is not a member .*that LXD is in no cluster"):
            driver.acts.require("x86_64", "", "container")
        lxd.server["environment"]["server_clustered"] = True
        lxd.members = {"m2": "https://10.9.0.2:8443", "m1": "https://10.9.0.1:8443"}
        with pytest.raises(InvalidOption, match=r"It has: m1, m2\."):
            driver.acts.require("x86_64", "", "container")
        make_driver(target="m2").acts.require("x86_64", "", "container")

    def test_no_library(self, driver, monkeypatch):
        monkeypatch.undo()
        imported = builtins.__import__

        def refuse(name, *args, **kwargs):
            if name == "pylxd":
                raise ImportError("No module named 'pylxd'")
            return imported(name, *args, **kwargs)

        monkeypatch.delitem(sys.modules, "pylxd", raising=False)
        monkeypatch.setattr(builtins, "__import__", refuse)
        with pytest.raises(MissingRequirement, match="the Python library pylxd is missing for") as caught:
            driver.client.require_library()
        assert "Install the package python3-pylxd (Debian, Ubuntu) or pylxd (pip)" in caught.value.hint
        assert caught.value.facts == {"missing_library": "pylxd"}

    def test_an_option_that_it_does_not_know(self, make_driver):
        with pytest.raises(InvalidOption, match="accelerator"):
            make_driver(accelerator="kvm")


class TestNetworks:
    @pytest.fixture(name="network")
    def _network(self):
        return Network(
            "lab", "lxd", "lxd", "", subnet="10.7.0.0/24", dhcp_range="10.7.0.64-10.7.0.254", interface="mc7"
        )

    def test_made_once_and_removed(self, tmp_path, driver, lxd, data, network):
        networks = driver.networks()
        networks.require(network)
        assert networks.drift(network, []) == ["LXD has no network mc7"]
        networks.apply(network, [])
        networks.apply(network, [])
        assert lxd.changes == ["post network-acls", "post networks"]
        assert networks.drift(network, []) == []
        # Versions before have noted the path of the data directory as a task had it, through a link as well.
        link = tmp_path / "link"
        link.symlink_to(driver.scope.data.path)
        lxd.objects["networks"]["mc7"]["config"]["user.minicloud.data_dir"] = str(link)
        assert networks.drift(network, []) == []
        assert networks._is_ours(network, lxd.objects["networks"]["mc7"]["config"])
        lxd.objects["networks"]["mc7"]["config"]["user.minicloud.data_dir"] = driver.scope.data.path
        assert lxd.objects["networks"]["mc7"]["config"] == {
            "ipv4.address": "10.7.0.1/24",
            "ipv4.nat": "true",
            "ipv4.dhcp": "true",
            "ipv4.routing": "true",
            "ipv4.dhcp.ranges": "10.7.0.64-10.7.0.254",
            "ipv6.address": "none",
            "dns.domain": "minicloud",
            "dns.mode": "managed",
            "security.acls": "mc7",
            "security.acls.default.ingress.action": "drop",
            "security.acls.default.egress.action": "drop",
            "user.minicloud.network": "lab",
            "user.minicloud.data_dir": data.path,
        }
        rules = lxd.objects["network-acls"]["mc7"]
        assert rules["ingress"] == [{"action": "allow", "source": "10.7.0.0/24", "state": "enabled"}]
        assert rules["egress"] == [{"action": "allow", "source": "10.7.0.0/24", "state": "enabled"}]
        networks.remove(network)
        networks.remove(network)
        assert lxd.objects["networks"] == lxd.objects["network-acls"] == {}

    def test_rules(self, driver, lxd, network):
        """They follow the network, are put right, and go even where a killed run has left nothing else."""
        networks = driver.networks()
        networks.apply(network, [])
        rules = lxd.objects["network-acls"]["mc7"]
        for changed in ({"ingress": []}, {"egress": [{"action": "drop"}]}):
            rules.update(changed)
            assert networks.drift(network, []) == [
                "its rules (lxc network acl) are not those that the network is to have"
            ]
            networks.apply(network, [])
            assert networks.drift(network, []) == []
        network.mode, network.subnet6 = "isolated", "fd07::/64"
        networks.apply(network, [])
        assert [rule["source"] for rule in rules["ingress"]] == ["10.7.0.0/24,fd07::/64,fe80::/10"]
        assert [(rule["protocol"], rule["destination"]) for rule in rules["egress"]] == [
            ("icmp4", "10.7.0.0/24"),
            ("icmp6", "fd07::/64,fe80::/10"),
        ]
        assert [rule["source"] for rule in rules["egress"]] == ["10.7.0.0/24", "fd07::/64,fe80::/10"]
        network.host_access = True
        networks.apply(network, [])
        assert [(rule["destination"], rule["source"]) for rule in rules["egress"][1::2]] == [
            ("10.7.0.1", "10.7.0.0/24"),
            ("fd07::1", "fd07::/64,fe80::/10"),
        ]
        del lxd.objects["networks"]["mc7"]
        assert networks.is_up(network)
        assert not networks.has(network)
        networks.remove(network)
        assert lxd.objects["network-acls"] == {}
        assert not networks.is_up(network)
        lxd.objects["network-acls"]["mc7"] = {"config": {"user.minicloud.network": "theirs"}}
        networks.remove(network)
        assert "mc7" in lxd.objects["network-acls"]

    def test_other_firewalls_of_this_host(self, make_driver, lxd, network, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        granted = []
        monkeypatch.setattr(
            HostNetworks, "obstacles", lambda self, name: [] if granted else [f"Docker does not let {name} pass."]
        )
        monkeypatch.setattr(HostNetworks, "grant_passage", lambda self, name: granted.append(name))
        monkeypatch.setattr(HostNetworks, "withdraw_passage", lambda self, name: granted.remove(name))
        monkeypatch.setattr(HostNetworks, "blocked", lambda self, name: [f"A chain drops {name}."])
        networks = make_driver().networks()
        networks.apply(network, [])
        assert granted == ["mc7"]
        granted.clear()
        assert networks.drift(network, []) == ["Docker does not let mc7 pass."]
        networks.apply(network, [])
        assert networks.drift(network, []) == []
        assert networks.problems(network) == ["A chain drops mc7."]
        network.mode = "isolated"
        assert networks.problems(network) == []
        networks.remove(network)
        assert granted == []

    def test_a_run_that_was_killed_is_gone_on_with(self, driver, lxd, monkeypatch):
        """What it has made of the record is not taken for somebody else's."""
        monkeypatch.setattr(links, "read_routes", lambda runtime: [])
        network = Network("lab", "lxd", "lxd", "")
        networks = driver.networks()
        networks.fill_in(network, [])
        networks.apply(network, [])
        name = network.interface
        networks.fill_in(network, [])
        assert network.interface == name
        lxd.objects["networks"][name]["config"]["user.minicloud.data_dir"] = "/elsewhere"
        networks.fill_in(network, [])
        assert network.interface != name

    def test_what_nobody_asked_for_is_chosen(self, driver, lxd, monkeypatch):
        monkeypatch.setattr(links, "read_routes", lambda runtime: [links.Route("10.128.0.0/10", "tun0", "", 0)])
        lxd.objects["networks"]["eth0"] = {"name": "eth0", "managed": False, "addresses": ["10.0.0.2/9"]}
        taken = Network("lan", "qemu", "qemu", "", subnet="10.192.0.0/11", interface="mcb1")
        network = Network("lab", "lxd", "lxd", "")
        driver.networks().fill_in(network, [taken])
        assert re.fullmatch("mcl[0-9a-f]{8}", network.interface)
        assert ipaddress.ip_network(network.subnet).subnet_of(ipaddress.ip_network("10.224.0.0/11"))
        assert network.dhcp_range.endswith(".254")
        before = dict(vars(network))
        driver.networks().fill_in(network, [taken, network])
        assert vars(network) == before
        for subnet, by in (("10.130.0.0/24", "tun0"), ("10.1.0.0/24", "eth0"), ("10.192.1.0/24", "network lan")):
            with pytest.raises(InUse, match=by):
                driver.networks().fill_in(Network("x", "lxd", "lxd", "", subnet=subnet), [taken])

    def test_a_bridge_that_a_killed_run_is_taking_away(self, driver, lxd, network):
        """LXD has forgotten the network already, and shows what is left of it as an interface of the host."""
        lxd.objects["networks"]["mc7"] = {"managed": False, "type": "bridge", "config": {}, "status": ""}
        networks = driver.networks()
        assert not networks.is_up(network)
        networks.remove(network)
        post = lxd._post
        looks = []

        def refuse_twice(path, *args):
            looks.append(path)
            if len(looks) == 2:
                raise HypervisorError("LXD could not make it", "dnsmasq: 10.7.0.1: Address already in use")
            if len(looks) == 3:
                del lxd.objects["networks"]["mc7"]
            return post(path, *args)

        lxd._post = refuse_twice
        networks.apply(network, [])
        assert len(looks) == 3
        assert networks.drift(network, []) == []

    def test_a_server_of_it_that_lxd_has_lost_is_ended(self, driver, lxd, network, monkeypatch):
        networks = driver.networks()
        networks._host = SimpleNamespace(obstacles=lambda interface: [], withdraw_passage=lambda interface: None)
        orphans = ["mc7"]
        ended = []

        def end(interface):
            ended.append(interface)
            there = interface in orphans
            orphans.clear()
            return there

        monkeypatch.setattr(dhcp, "end_orphan", end)
        post = lxd._post

        def refuse(path, *args):
            if path.endswith("networks") and orphans:
                raise HypervisorError("LXD could not make it", "dnsmasq: 10.7.0.1: Address already in use")
            return post(path, *args)

        lxd._post = refuse
        networks.apply(network, [])
        assert ended == ["mc7"]
        assert networks.drift(network, []) == []
        del lxd.objects["networks"]["mc7"]
        networks.remove(network)
        assert ended == ["mc7", "mc7"]

    def test_who_uses_it_keeps_it(self, driver, lxd, network):
        networks = driver.networks()
        assert not networks.is_up(network)
        networks.apply(network, [])
        assert networks.is_up(network)
        lxd.objects["networks"]["mc7"]["used_by"] = ["/1.0/instances/theirs"]
        with pytest.raises(InUse, match=r"used by /1.0/instances/theirs"):
            networks.remove(network)
        network.on_demand = True
        networks.remove(network)
        assert "used by /1.0/instances/theirs" in driver.runtime.report.warnings[0]
        assert networks.is_up(network)

    def test_an_instance_that_is_not_started_needs_it_too(self, driver, lxd, web, image):
        assert lxd.objects["networks"] == {}
        driver.acts.create(web, image, SEED)
        assert lxd.objects["networks"]["mc1"]["config"]["ipv4.address"] == "10.1.2.1/24"

    def test_what_was_changed_by_hand_is_put_right(self, driver, lxd, network):
        networks = driver.networks()
        networks.apply(network, [])
        lxd.objects["networks"]["mc7"]["config"].update({"ipv4.nat": "false", "bridge.mtu": "1400", "volatile.x": "1"})
        assert networks.drift(network, []) == [
            "bridge.mtu is 1400 instead of not set",
            "ipv4.nat is false instead of true",
        ]
        networks.apply(network, [])
        assert networks.drift(network, []) == []
        assert lxd.objects["networks"]["mc7"]["config"]["volatile.x"] == "1"

    def test_somebody_elses_is_not_touched(self, driver, lxd, network):
        lxd.objects["networks"]["mc7"] = {"managed": True, "config": {"ipv4.address": "10.7.0.1/24"}}
        with pytest.raises(InUse, match="LXD has another network mc7"):
            driver.networks().apply(network, [])
        lxd.objects["networks"]["mc7"]["config"]["user.minicloud.network"] = "other"
        driver.networks().remove(network)
        assert "mc7" in lxd.objects["networks"]

    def test_a_host_that_is_closed(self, driver, lxd, network, monkeypatch):
        tunnel = links.Link("wg0", 9, "wireguard", "", 1420, True, "", ("10.99.0.1/24", "fe80::9/64"))
        monkeypatch.setattr(links, "read_links", lambda runtime: {"wg0": tunnel})  # no interface that LXD tells of
        networks = driver.networks()
        networks.apply(network, [])
        addresses = {"eth7": ["192.0.2.7/24", "2001:db8::7/64", "fe80::7/64"], "lo": ["127.0.0.1/8", "::1/128"]}
        for name, there in addresses.items():
            lxd.objects["networks"][name] = {"name": name, "managed": False, "addresses": there}
        network.host_access = False
        assert networks.drift(network, []) != []
        networks.apply(network, [])
        assert networks.drift(network, []) == []
        assert lxd.objects["network-acls"]["mc7"]["egress"] == [
            {"action": "drop", "destination": "10.7.0.1,10.99.0.1,192.0.2.7,2001:db8::7", "state": "enabled"},
            {"action": "allow", "source": "10.7.0.0/24", "state": "enabled"},
        ]
        addresses["eth7"].append("192.0.2.8/24")
        assert networks.drift(network, []) != []

    def test_in_a_cluster_no_host_is_closed(self, driver, lxd, network):
        lxd.server["environment"]["server_clustered"] = True
        driver.networks().require(network)
        network.host_access = False
        with pytest.raises(NotSupported, match="host_access: false"):
            driver.networks().require(network)

    def test_in_a_cluster_a_run_that_was_killed_is_finished(self, driver, lxd, network):
        lxd.server["environment"]["server_clustered"] = True
        lxd.members = {"m1": "https://10.9.0.1:8443", "m2": "https://10.9.0.2:8443"}
        lxd.objects["networks"]["mc7"] = {"status": "Pending", "config": {}}
        networks = driver.networks()
        assert networks.drift(network, []) == ["LXD has not finished making the network mc7"]
        networks.apply(network, [])
        assert lxd.objects["networks"]["mc7"]["status"] == "Created"
        assert networks.drift(network, []) == []

    @pytest.mark.parametrize("status", ["Pending", "Errored"])
    def test_what_the_server_has_given_up_is_made_anew(self, driver, lxd, network, monkeypatch, status):
        monkeypatch.setattr(lxd_client, "_HALF_MADE", 0.05)
        lxd.objects["networks"]["mc7"] = {"status": status, "config": {}}
        networks = driver.networks()
        networks.apply(network, [])
        assert [each for each in lxd.changes if each.endswith("networks/mc7")] == ["delete networks/mc7"]
        assert lxd.objects["networks"]["mc7"]["status"] == "Created"
        assert networks.drift(network, []) == []

    def test_an_instance_is_attached_to_what_is_made_only(self, driver, lxd, web, image, network, monkeypatch):
        monkeypatch.setattr(lxd_client, "_HALF_MADE", 0.05)
        driver.scope.networks.write(network)
        web.nics = [Nic("lab", "52:54:00:00:00:01")]
        lxd.objects["networks"]["mc7"] = {"status": "Pending", "config": {}}
        assert driver.networks().place_of(web, web.nics[0]).keys == {"network": "mc7"}
        assert lxd.objects["networks"]["mc7"]["status"] == "Created"

    def test_what_the_server_is_still_making_is_waited_for(self, driver, lxd, network, monkeypatch):
        lxd.objects["networks"]["mc7"] = {"status": "Pending", "config": {}}
        look, asked = lxd._look, []

        def made_by_and_by(path, recursion):
            if path == "networks/mc7":
                asked.append(path)
                if len(asked) > 3:
                    lxd.objects["networks"]["mc7"]["status"] = "Created"
            return look(path, recursion)

        monkeypatch.setattr(lxd, "_look", made_by_and_by)
        driver.networks().apply(network, [])
        assert not any(each.startswith("delete") for each in lxd.changes)

    def test_modes(self, network, data):
        isolated = Network(
            "lab", "lxd", "lxd", "", mode="isolated", subnet="10.7.0.0/24", subnet6="fd07::/64", mtu=1400
        )
        config = config_of(isolated, data.path)
        assert (config["ipv4.nat"], config["ipv6.nat"]) == ("false", "false")
        assert config["security.acls.default.egress.action"] == "drop"
        assert config["raw.dnsmasq"] == "no-resolv"
        assert (config["ipv6.address"], config["bridge.mtu"]) == ("fd07::1/64", "1400")

    @pytest.mark.parametrize(
        ("kind", "way", "nictype"), [("bridge", "bridge", "bridged"), ("physical", "macvtap", "macvlan")]
    )
    @pytest.mark.parametrize("endpoint", ["", "https://lxd.example:8443"])
    def test_bridged_where_only_lxd_can_look(self, make_driver, lxd, data, image, kind, way, nictype, endpoint):
        """On another host, or as an ordinary user."""
        driver = make_driver(**({"endpoint": endpoint} if endpoint else {}))
        lxd.objects["networks"]["eth7"] = {"type": kind, "managed": False}
        network = Network("lan", "lxd", "lxd", "", mode="bridged", parent="eth7", bridge_type=way, phase="ready")
        networks = driver.networks()
        networks.require(network)
        networks.fill_in(network, [])
        data.scope("lxd").networks.write(network)
        networks.apply(network, [])
        assert networks.drift(network, []) == networks.problems(network) == []
        assert not networks.is_up(network)
        driver.acts.create(an_instance(nics=[Nic("lan", MAC)]), image, SEED)
        device = lxd.objects["instances"]["web"]["devices"]["eth0"]
        assert (device["nictype"], device["parent"]) == (nictype, "eth7")
        networks.remove(network)
        assert "eth7" in lxd.objects["networks"]

    @pytest.mark.parametrize(
        ("parent", "way", "error", "words"),
        [
            ("eth9", "bridge", MissingRequirement, "has no such interface"),
            ("eth7", "bridge", MissingRequirement, "only root of the host itself makes one of it"),
            ("br0", "macvtap", InvalidOption, "it is a bridge"),
        ],
    )
    def test_bridged_to_what_cannot_be(self, driver, lxd, parent, way, error, words):
        lxd.objects["networks"].update(eth7={"type": "physical", "managed": False}, br0={"type": "bridge"})
        network = Network("lan", "lxd", "lxd", "", mode="bridged", parent=parent, bridge_type=way)
        with pytest.raises(error, match=f"lan cannot be bridged to {parent}.*{words}"):
            driver.networks().require(network)

    def test_bridged_as_root_is_the_hosts_affair(self, driver, lxd, data, image, monkeypatch):
        """A bridge that has gone is made again before LXD is told of it."""
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        steps, there = [], []
        for name, found in (("require", None), ("remove", None), ("problems", ["slow"]), ("is_up", True)):
            monkeypatch.setattr(
                HostNetworks, name, lambda self, network, name=name, found=found: steps.append(name) or found
            )
        monkeypatch.setattr(
            HostNetworks, "fill_in", lambda self, network, others: setattr(network, "interface", "mcb1")
        )
        monkeypatch.setattr(HostNetworks, "drift", lambda self, network, hosts: [] if there else ["gone"])
        monkeypatch.setattr(HostNetworks, "apply", lambda self, network, hosts: there.append("mcb1"))
        network = Network("lan", "lxd", "lxd", "", mode="bridged", parent="eth7", confirm_bridge=True, phase="ready")
        networks = driver.networks()
        networks.require(network)
        networks.fill_in(network, [])
        data.scope("lxd").networks.write(network)
        assert (networks.drift(network, []), networks.problems(network), networks.is_up(network)) == (
            ["gone"],
            ["slow"],
            True,
        )
        driver.acts.create(an_instance(nics=[Nic("lan", MAC)]), image, SEED)
        assert there == ["mcb1"]
        device = lxd.objects["instances"]["web"]["devices"]["eth0"]
        assert (device["nictype"], device["parent"]) == ("bridged", "mcb1")
        networks.remove(network)
        assert steps[-1] == "remove"

    def test_leases(self, driver, lxd, made, network):
        entry = {"family": "inet", "scope": "global", "address": "10.7.0.64"}
        network_state = {"network": {"eth0": {"hwaddr": MAC, "addresses": [entry]}}}
        lxd.objects["instances"]["web"].update(status="Running", state=network_state)
        lxd.objects["instances"]["db"] = {"name": "db", "status": "Stopped", "state": None}
        assert driver.networks().leases([network]) == {MAC: ("10.7.0.64",)}

    def test_an_instance_of_a_network_that_is_not_there(self, driver, image):
        with pytest.raises((HypervisorError, NotFound), match="there is no such network"):
            driver.acts.create(an_instance(nics=[Nic("nowhere", MAC)]), image, SEED)


def test_a_device_that_somebody_else_made_keeps_its_name():
    assert not lxd_config.is_ours("ethernet")
    assert lxd_config.is_ours("eth12")


class TestSuspended:
    def test_it_is_frozen_and_goes_on(self, driver, lxd, web, image):
        driver.acts.create(web, image, SEED)
        driver.acts.start(web)
        part = driver.suspension()
        part.suspend(web)
        part.suspend(web)
        assert [each for each in lxd.changes if each.endswith("freeze")] == ["put instances/web/state freeze"]
        # Who has frozen it, only the record tells.
        assert driver.observe([web])[0].state == PAUSED
        web.suspended = "2026-01-02T03:04:05Z"
        assert driver.observe([web])[0].state == SUSPENDED
        driver.acts.start(web)
        assert lxd.objects["instances"]["web"]["status"] == "Running"
        assert driver.observe([web])[0].state == RUNNING

    def test_what_it_was_doing_is_dropped(self, driver, lxd, web, image):
        driver.acts.create(web, image, SEED)
        driver.acts.start(web)
        part = driver.suspension()
        part.drop(web)
        assert lxd.objects["instances"]["web"]["status"] == "Running"
        part.suspend(web)
        part.drop(web)
        assert lxd.changes[-1] == "put instances/web/state stop by force"
        part.drop(web)
        assert lxd.objects["instances"]["web"]["status"] == "Stopped"

    def test_it_does_not_outlive_the_host(self, driver):
        assert not driver.suspension().outlives_host


class TestRenamed:
    SEED = {"meta-data": b'{"instance-id": "u-1", "local-hostname": "web"}'}

    def test_it_has_its_name_at_the_server_and_in_its_seed(self, driver, lxd, web, image):
        driver.acts.create(web, image, self.SEED)
        before = lxd.objects["instances"]["web"]
        driver.acts.rename(web, "www")
        driver.acts.rename(web, "www")
        assert list(lxd.objects["instances"]) == ["www"]
        after = dataclasses.replace(web, name="www", renamed_from="web")
        driver.acts.follow_name(after)
        assert '"local-hostname": "www"' in lxd.objects["instances"]["www"]["config"]["user.meta-data"]
        count = len(lxd.changes)
        driver.acts.follow_name(after)
        assert len(lxd.changes) == count
        assert lxd.objects["instances"]["www"]["devices"] == before["devices"]

    def test_somebody_elses_is_left_alone(self, driver, lxd, web, image):
        driver.acts.create(web, image, self.SEED)
        lxd.objects["instances"]["web"]["config"][lxd_config.UUID] = "another"
        with pytest.raises(HypervisorError, match="another instance has its name there"):
            driver.acts.rename(web, "www")
        lxd.objects["instances"]["www"] = lxd.objects["instances"].pop("web")
        with pytest.raises(NotFound):
            driver.acts.rename(web, "www")
