# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images, from wish to result: check mode predicts what a run does, and a second run does nothing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import types

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd.driver import LxdDriver
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.act import LxdActs
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import drivers_that_can
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    ChecksumMismatch,
    HypervisorError,
    ImageError,
    InUse,
    InvalidOption,
    NotFound,
    RecordError,
)
from ansible_collections.minicloud.local.plugins.module_utils._images import bootstrap
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import parse_reference
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import Vault
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Observed, parse_age
from ansible_collections.minicloud.local.plugins.module_utils._reconcile import images
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.image_listing import (
    list_images,
    offered_images,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.images import (
    parse_image_wish,
    reconcile_image,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.modules import image_info
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._images.archives import tar, unified


@pytest.fixture
def runtime():
    return Runtime(run)


@pytest.fixture
def data(tmp_path):
    return DataDirectory(str(tmp_path / "data"))


def write_disk(path, mark):
    path.write_bytes(bytes(510) + b"\x55\xaa" + mark * 100_000)
    return str(path)


@pytest.fixture
def disk(tmp_path):
    return write_disk(tmp_path / "disk.raw", b"one")


@pytest.fixture
def go(runtime, data):
    """Reconcile in check mode, for real and again; what check mode says must be what is done, and only once."""

    def reconcile(again=True, **params):
        wish = parse_image_wish({"state": "present", "arch": "x86_64", **params})
        foreseen = reconcile_image(wish, runtime, data, check_mode=True)
        done = reconcile_image(wish, runtime, data)
        assert (foreseen.changed, foreseen.actions) == (done.changed, done.actions)
        for key, value in (foreseen.view or {}).items():
            assert not value or key in ("created", "source") or value == done.view[key], key
        assert [one["hash"] for one in foreseen.removed] == [one["hash"] for one in done.removed]
        if again:
            for check_mode in (False, True):
                nothing = reconcile_image(wish, runtime, data, check_mode)
                assert (nothing.changed, nothing.actions, nothing.before) == (False, [], nothing.after)
        return done

    return reconcile


def use(data, image_hash, name="web"):
    instance = Instance(name, "u", "qemu", "qemu", "now", "x86_64", 1, 1, 1, image={"hash": image_hash})
    data.scope("qemu").write(instance)


def test_present_alias_absent(go, disk, data):
    done = go(name=disk, alias="base")
    assert done.actions == ["import_image", "set_alias"]
    assert done.before == {}
    assert done.after == {"name": disk, "hash": done.view["hash"], "aliases": ["base"]}
    assert "qemu" in done.view["drivers"]
    assert go(name="base").view["hash"] == done.view["hash"]
    assert go(name="base", state="absent").actions == ["forget_name"]
    gone = go(name=disk, state="absent")
    assert gone.actions == ["remove_image"]
    assert [one["hash"] for one in gone.removed] == [done.view["hash"]]
    assert (gone.before["name"], gone.after) == (disk, {})


def test_latest_imports_a_changed_file_and_keeps_the_older_image(go, disk, data, runtime, tmp_path):
    old = go(name=disk, state="latest").view
    write_disk(tmp_path / "disk.raw", b"two")
    new = go(name=disk, state="latest")
    assert new.actions == ["import_image"]
    assert {image.hash for image in Vault(data, runtime).images()[0]} == {old["hash"], new.view["hash"]}
    assert go(name=old["hash"][:12], state="absent").actions == ["remove_image"]


def test_force_does_it_again(go, disk):
    first = go(name=disk).view
    again = go(name=disk, force=True, again=False)
    assert again.changed
    assert again.actions == ["import_image"]
    assert again.view["hash"] == first["hash"]


def test_a_wrong_checksum_is_found_in_check_mode_too(go, disk, runtime, data):
    go(name=disk)
    wish = parse_image_wish({"name": disk, "state": "present", "checksum": f"sha256:{'0' * 64}", "arch": "x86_64"})
    for check_mode in (True, False):
        with pytest.raises(ChecksumMismatch):
            reconcile_image(wish, runtime, data, check_mode)


def test_an_image_in_use_stays(go, disk, data, runtime):
    image = go(name=disk).view
    use(data, image["hash"])
    wish = parse_image_wish({"name": disk, "state": "absent", "arch": "x86_64"})
    for check_mode in (True, False):
        with pytest.raises(InUse, match=r"web \(qemu\)") as caught:
            reconcile_image(wish, runtime, data, check_mode)
        assert caught.value.facts == {"instances": ["web"]}
    assert os.path.exists(image["path"])
    assert list_images(runtime, data)[0]["instances"] == ["web"]


def test_nothing_is_removed_while_a_record_cannot_be_read(go, disk, data, runtime):
    go(name=disk)
    use(data, "0" * 64)
    with open(os.path.join(data.scope("qemu").directory("web"), "instance.json"), "w") as stream:
        stream.write("{")
    for params in ({"name": disk}, {"prune_older_than": "0"}):
        with pytest.raises(RecordError, match="cannot be known which images are in use"):
            reconcile_image(parse_image_wish({"state": "absent", "arch": "x86_64", **params}), runtime, data)


def test_pruning(go, data, runtime, tmp_path):
    paths = [write_disk(tmp_path / name, name.encode()) for name in ("one", "two", "three")]
    images = [go(name=path).view for path in paths]
    for image in images[:2]:
        os.utime(os.path.join(os.path.dirname(image["path"]), "image.json"), (1000, 1000))
    use(data, images[1]["hash"])
    done = go(state="absent", prune_older_than="1d")
    assert done.actions == ["remove_image"]
    assert [one["hash"] for one in done.removed] == [images[0]["hash"]]
    assert sorted(one["name"] for one in list_images(runtime, data)) == sorted(paths[1:])


def test_a_name_that_shares_its_image_goes_alone(go, disk, tmp_path):
    other = str(tmp_path / "copy.raw")
    with open(disk, "rb") as source, open(other, "wb") as target:
        target.write(source.read())
    image = go(name=disk).view
    assert go(name=other).view["hash"] == image["hash"]
    assert go(name=disk, state="absent").actions == ["forget_name"]
    assert os.path.exists(image["path"])
    assert go(name=other, state="absent").actions == ["remove_image"]
    assert not os.path.exists(image["path"])


def test_builds_are_renewed_when_the_recipe_or_the_day_changes(go, disk, monkeypatch, tmp_path):
    built = []

    def build(runtime, release, arch, target, work_dir, kind):
        built.append(release)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", target, f"{len(built)}M"], check=True)
        return bootstrap.Built("debian", release, "12", arch, "debian", "")

    monkeypatch.setattr(bootstrap, "build", build)
    first = go(name="bootstrap:bookworm", state="latest")
    assert first.actions == ["build_image"]
    monkeypatch.setattr(bootstrap, "recipe_hash", lambda release, arch, kind: "other")
    assert go(name="bootstrap:bookworm").view["hash"] == first.view["hash"]
    second = go(name="bootstrap:bookworm", state="latest")
    assert second.view["hash"] != first.view["hash"]
    assert len(built) == 2


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({}, InvalidOption),
        ({"prune_older_than": "1d"}, InvalidOption),
        ({"prune_older_than": "soon", "state": "absent"}, InvalidOption),
        ({"name": "x", "prune_older_than": "1d", "state": "absent"}, InvalidOption),
        ({"name": "x", "alias": "y", "state": "absent"}, InvalidOption),
        ({"name": "x", "checksum": "abc"}, InvalidOption),
        ({"name": "/does/not/exist"}, NotFound),
        ({"name": "bootstrap:potato"}, NotFound),
    ],
)
def test_what_cannot_be_meant(params, error, runtime, data):
    with pytest.raises(error):
        reconcile_image(parse_image_wish({"state": "present", "arch": "x86_64", **params}), runtime, data)


def test_ages():
    assert [parse_age(text, "it", "why") for text in ("90s", "7200", "0", "1.5h", "14d", "2 w")] == [
        90, 7200, 0, 5400, 1209600, 1209600,
    ]  # fmt: skip
    with pytest.raises(InvalidOption, match=r"Did you mean 14d\? Write 14s for seconds"):
        parse_age("14", "it", "why")


def test_what_can_be_built_is_offered(runtime, data):
    offers = offered_images("bootstrap:", runtime, data, "amd64")
    assert [offer["aliases"] for offer in offers] == [["trixie"], ["bookworm"]]
    assert offered_images("bootstrap:book", runtime, data, "x86_64")[0]["version"] == "12"


@pytest.fixture
def elsewhere(monkeypatch):
    """The driver of the tasks leads to a host of another architecture, and is loaded with their options."""
    asked = []

    def load(name, runtime, data, options=None, shared=False):
        asked.append((name, options))
        return types.SimpleNamespace(host=types.SimpleNamespace(architecture=lambda: "aarch64"))

    for module in (images, image_info):
        monkeypatch.setattr(module, "load", load)
    return asked


def test_the_architecture_is_that_of_the_drivers_host(elsewhere, runtime, data, disk):
    where = {"driver": "lxd", "driver_options": {"endpoint": "https://10.9.0.1:8443"}}
    wish = {"name": disk, "alias": "mine", **where}
    done = reconcile_image(parse_image_wish({"state": "present", **wish}), runtime, data)
    assert done.view["arch"] == "aarch64"
    assert elsewhere == [tuple(where.values())]
    known = Vault(data, runtime)
    assert known.entry(parse_reference("mine"), "aarch64") and not known.entry(parse_reference("mine"), "x86_64")
    gone = reconcile_image(parse_image_wish({"name": disk, "state": "absent", **where}), runtime, data)
    assert gone.changed


def test_what_is_offered_is_for_the_drivers_host(elsewhere, runtime, data):
    params = dict.fromkeys(image_info.ARGUMENTS) | {"query": "bootstrap:trixie", "driver": "lxd", "driver_options": {}}
    context = types.SimpleNamespace(params=params, runtime=runtime, data=data)
    assert image_info.run(context)["offered"][0]["arch"] == "aarch64"
    assert elsewhere == [("lxd", {})]


def test_where_no_architecture_counts_no_host_is_asked(elsewhere, runtime, data, disk):
    reconcile_image(parse_image_wish({"name": disk, "state": "present", "arch": "amd64"}), runtime, data)
    reconcile_image(parse_image_wish({"prune_older_than": "1d", "state": "absent"}), runtime, data)
    context = types.SimpleNamespace(
        params=dict.fromkeys(image_info.ARGUMENTS) | {"cached": True}, runtime=runtime, data=data
    )
    assert image_info.run(context)["cached"]
    assert elsewhere == []


def test_a_container_is_another_image_of_the_same_name(go, disk, runtime, data, tmp_path):
    path = tmp_path / "image.tar"
    path.write_bytes(unified())
    done = go(name=str(path), instance_type="container", alias="base")
    assert done.actions == ["import_image", "set_alias"]
    assert (done.view["kind"], done.view["format"], done.view["virtual_size"]) == ("container", "tar", 0)
    go(name=disk, alias="base")
    kinds = {image["kind"]: image for image in list_images(runtime, data)}
    assert set(kinds) == {"container", "disk"}
    assert {image["aliases"][0] for image in kinds.values()} == {"base"}
    for instance_type, kind in (("vm", "disk"), ("container", "container")):
        assert kinds[kind]["drivers"] == drivers_that_can(instance_type)
    assert go(name="base", state="absent").actions == ["forget_name"]
    assert list_images(runtime, data)[0]["aliases"] != list_images(runtime, data)[1]["aliases"]
    with pytest.raises(ImageError, match="Use instance_type: vm"):
        reconcile_image(
            parse_image_wish({"state": "present", "name": disk, "instance_type": "container", "arch": "x86_64"}),
            runtime,
            data,
        )
    use(data, done.view["hash"])
    with pytest.raises(InUse, match="are made from it: web"):
        go(name=str(path), instance_type="container", state="absent")
    assert go(name=disk, state="absent").removed[0]["kind"] == "disk"


@pytest.mark.parametrize("how", [{"name": "base"}, {"name": None, "prune_older_than": "0"}])
def test_servers_let_go_what_they_have_of_images_that_are_gone(how, go, data, disk, monkeypatch):
    """Those of the task, and those at which instances and networks were made; one that does not answer is no error."""
    asked = []
    lxd = {"handles": {"lxd": {"endpoint": "/srv/one/unix.socket", "project": "mine"}}}
    made = ("id", "lxd", "lxd", "now", "x86_64", 1, 1 << 28, 1 << 30)
    data.scope("lxd").write(Instance("one", *made, **lxd))
    data.scope("lxd").write(Instance("two", *made, **lxd))
    data.scope("incus").write(Instance("web", "id", "incus", "incus", *made[3:]))

    def tidy(self):
        assert not vault_of(data).images()[0]
        asked.append((self.product.name, self.place.endpoint, self.place.project))
        raise HypervisorError("it does not answer")

    monkeypatch.setattr(LxdActs, "tidy_images", tidy)
    go(name=disk, alias="base")
    assert not asked
    images = {"driver": "lxd", "driver_options": {"endpoint": "/srv/two/unix.socket"}, "state": "absent"}
    wish = parse_image_wish({**images, **how, "name": disk if how["name"] else None, "arch": "x86_64"})
    reconcile_image(wish, Runtime(run), data, check_mode=True)
    assert not asked
    assert reconcile_image(wish, Runtime(run), data).actions == ["remove_image"]
    assert [each for each in asked if each[0] == "LXD"] == [
        ("LXD", "/srv/two/unix.socket", "minicloud"),
        ("LXD", "/srv/one/unix.socket", "mine"),
    ]
    assert [each[0] for each in asked].count("Incus") == 1


def vault_of(data):
    return Vault(data, Runtime(run))


class _Root:
    """How a driver hands out a container."""

    def __init__(self, content):
        self._content = content

    @contextlib.contextmanager
    def content(self, instance, snapshots):
        assert not snapshots
        yield types.SimpleNamespace(pieces=[types.SimpleNamespace(blocks=lambda: iter(self._content))])


@pytest.fixture
def publish(data, runtime, monkeypatch):
    """Publishes a stopped container whose server hands out some blocks."""
    instance = Instance(
        "web", "id", "lxd", "lxd", "now", "x86_64", 1, 1 << 28, 1 << 30, phase="ready", instance_type="container",
        image={"os": "debian", "hash": "ab" * 32}, user="debian",
    )  # fmt: skip
    data.scope("lxd").write(instance)
    monkeypatch.setattr(LxdDriver, "observe", lambda self, instances: [Observed("stopped") for each in instances])

    def go(content, check=False, **params):
        monkeypatch.setattr(LxdDriver, "export", lambda self: _Root(content))
        wish = parse_image_wish({"state": "present", "name": "base", "instance": "web", "driver": "lxd", **params})
        return reconcile_image(wish, runtime, data, check)

    return go


def test_a_container_is_published_as_an_image_of_one(publish, data, runtime):
    content = [unified(seed=3)]
    foreseen = publish(content, check=True)
    done = publish(content, clean=False)
    assert (foreseen.actions, done.actions) == (["publish_image"], ["publish_image"])
    different = {"hash", "path", "size", "created"}
    assert {key: value for key, value in foreseen.view.items() if key not in different} == {
        key: value for key, value in done.view.items() if key not in different
    }
    assert (done.view["kind"], done.view["format"], done.view["virtual_size"]) == ("container", "tar", 0)
    with open(done.view["path"], "rb") as stream:
        assert stream.read() == content[0]
    assert done.view["hash"] == hashlib.sha256(content[0]).hexdigest()
    data.scope("lxd").remove("web")
    for given in ({}, {"instance_type": "container"}):
        assert publish([], **given).view["hash"] == done.view["hash"]
    asked = parse_image_wish({"state": "present", "name": "base", "instance_type": "container", "arch": "x86_64"})
    assert reconcile_image(asked, runtime, data).view["hash"] == done.view["hash"]


def test_a_container_is_cleaned_unless_that_is_not_wanted(publish):
    image = tar({"metadata.yaml": b"{}", "rootfs/etc/machine-id": b"0123", "rootfs/usr/x": b""})
    with open(publish([image]).view["path"], "rb") as stream:
        assert b"0123" not in stream.read()
    with open(publish([image], clean=False, force=True).view["path"], "rb") as stream:
        assert b"0123" in stream.read()


def test_what_a_server_cuts_short_is_not_published(publish, data):
    content = unified(seed=3)[:20_000]
    for clean in (True, False):
        with pytest.raises(ImageError, match="cut short"):
            publish([content], clean=clean)
    assert not [name for name in os.listdir(data.vault) if name.startswith("work-") or len(name) == 64]


def test_the_type_of_what_is_published_is_that_of_the_instance(publish):
    for check in (True, False):
        with pytest.raises(InvalidOption, match="web is a container, and instance_type says something else"):
            publish([], check=check, instance_type="vm")
