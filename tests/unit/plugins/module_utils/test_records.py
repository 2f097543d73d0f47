# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kinds of records: what earlier versions have written, what newer ones will, and what is none of either.

records_of_schema_1/ is a data directory whose records were written by the first version that had them.
"""

from __future__ import annotations

import json
import os
import random
import shutil

import pytest

from ansible_collections.minicloud.local.plugins.module_utils import _model, _network, _scope
from ansible_collections.minicloud.local.plugins.module_utils._drivers.host_networks import bridges
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption, RecordError
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import bridged, lookup
from ansible_collections.minicloud.local.plugins.module_utils._images import fetch, index, vault
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import parse_reference
from ansible_collections.minicloud.local.plugins.module_utils._model import RecordKind, parse_port
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory, read_record, write_record

SAMPLES = os.path.join(os.path.dirname(__file__), "records_of_schema_1")
HASH = "bb24f8e24cb1ef8517bd1a0d6c9590f21cf1013e47a3241d7fa974ad11868801"
WEB = "scopes/qemu/instances/web/instance.json"
BOX = "scopes/lxd/instances/box/instance.json"
LAB = "scopes/qemu/networks/lab/network.json"

KINDS = {
    "settings.json": _scope.SETTINGS,
    "scopes/qemu/scope.json": _scope.NOTED,
    WEB: _model.INSTANCE,
    BOX: _model.INSTANCE,
    LAB: _network.NETWORK,
    "scopes/qemu/networks/bridged-eth1/network.json": _network.NETWORK,
    "scopes/qemu/networks/lab/applied.json": bridges._APPLIED,
    "scopes/qemu/networks/lab/ports.json": lookup.FORWARDS,
    "scopes/qemu/networks/bridged-eth1/uplink.json": bridged._MOVED,
    f"vault/{HASH}/image.json": vault.IMAGE,
    "vault/names.json": vault.NAMES_KIND,
    "vault/index-mine/state.json": index._STATE,
    "vault/partial/x.json": fetch._BEGUN,
}


def load(path):
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Thousands of records are written here, and none has to outlive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def data(tmp_path):
    shutil.copytree(SAMPLES, tmp_path / "data")
    os.chmod(tmp_path / "data", 0o700)
    return DataDirectory(str(tmp_path / "data"))


@pytest.fixture
def images(data):
    return vault.Vault(data, Runtime(None, Reporter()))


def change(data, name, /, **values):
    path = os.path.join(data.path, name)
    record = {**load(path), **values}
    with open(path, "w", encoding="utf-8") as stream:
        json.dump(record, stream)
    return path


def test_there_is_a_sample_of_every_kind():
    found = [
        os.path.relpath(os.path.join(top, name), SAMPLES) for top, dummy, names in os.walk(SAMPLES) for name in names
    ]
    assert sorted(found) == sorted(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_a_record_of_the_first_schema_is_read_and_written_back_whole(data, name):
    path = os.path.join(data.path, name)
    kind = KINDS[name]
    before = load(path)
    assert before["schema"] == 1
    record = read_record(path, kind)
    write_record(path, kind, record)
    assert {**load(path), "schema": 1} == before


def test_what_the_samples_say(data, images):
    assert data.settings()["driver"] == "lxd"
    assert data.scope("qemu").noted() == {"5e0f8d9a-7a3f-4c1f-9d3e-1f8f3f3d2c11": "running"}
    web, box = data.scope("qemu").read("web"), data.scope("lxd").read("BOX")
    assert (web.memory, web.ports[0], web.nics[0].network) == (128 << 20, parse_port("8080:80"), "user")
    assert (box.name, box.nics[1].address, box.handles["lxd"]["project"]) == ("Box", "10.20.0.9", "default")
    assert data.scope("qemu").networks.read("lab").dhcp_range == "10.20.0.50-10.20.0.200"
    assert lookup.noted_addresses(data.scope("qemu").networks.directory("lab")) == {"52:54:00:aa:bb:02": "10.20.0.9"}
    assert images.entry(parse_reference("/srv/images/tiny.qcow2"), "x86_64").hash == HASH
    assert images.get(HASH) is None  # for its disk is not here
    os.truncate(os.open(os.path.join(images.directory(HASH), "disk.qcow2"), os.O_CREAT | os.O_RDWR), 14548992)
    assert images.get(HASH).virtual_size == 201326592


@pytest.mark.parametrize("name", [WEB, BOX])
def test_an_instance_comes_back_as_it_was(data, name):
    before = load(os.path.join(data.path, name))
    scope = data.scope(before["scope"])
    scope.write(scope.read(before["name"]))
    after = load(os.path.join(data.path, name))
    assert {**after, **before} == after  # with the fields that came later


class TestNewerVersions:
    @pytest.mark.parametrize("name", KINDS)
    def test_a_newer_schema_is_refused_as_newer_and_never_called_damaged(self, data, name):
        path = change(data, name, schema=KINDS[name].schema + 1, whatever={"may": ["be", None]})
        with pytest.raises(RecordError) as caught:
            read_record(path, KINDS[name])
        assert "was written by a newer version" in str(caught.value)
        assert "Upgrade the collection" in caught.value.hint
        assert "damaged" not in caught.value.facts
        assert "damaged" not in str(caught.value)

    @pytest.mark.parametrize("name", KINDS)
    def test_an_unknown_field_is_kept(self, data, name):
        added = {"newer": {"member": ["a", 1]}, "deleted_at": "2027-01-01T00:00:00Z", "count": 3}
        path = change(data, name, **added)
        before = load(path)
        write_record(path, KINDS[name], read_record(path, KINDS[name]))
        assert load(path) == before

    def test_unknown_fields_of_an_instance_and_of_what_is_in_it_are_written_back(self, data):
        nic = {**load(os.path.join(data.path, WEB))["nics"][0], "vlan": 7}
        image = {**load(os.path.join(data.path, WEB))["image"], "signed": True, "parts": [1]}
        path = change(data, WEB, nics=[nic], image=image, snapshots=[{"name": "a"}], saved_state="x")
        before = load(path)
        scope = data.scope("qemu")
        web = scope.read("web")
        web.memory *= 2
        scope.write(web)
        assert {**load(path), **before, "memory": 256 << 20} == load(path)

    def test_unknown_fields_of_settings_notes_networks_and_names_are_written_back(self, data, images):
        settings = change(data, "settings.json", quota={"cpus": 4})
        data.change_settings(driver="qemu", switch=None)
        assert load(settings)["quota"] == {"cpus": 4}

        noted = change(data, "scopes/qemu/scope.json", since="yesterday")
        scope = data.scope("qemu")
        scope.note({"id": "stopped"})
        assert load(noted) == {"schema": 1, "since": "yesterday", "noted": {"id": "stopped"}}
        scope.note({})
        assert load(noted) == {"schema": 1, "since": "yesterday"}
        assert scope.noted() == {}

        lab = change(data, LAB, dns=["192.0.2.53"])
        scope.networks.write(scope.networks.read("lab"))
        assert load(lab)["dns"] == ["192.0.2.53"]

        path = os.path.join(data.path, "vault/names.json")
        record = load(path)
        (key,) = record["names"]
        record["names"][key]["pinned"] = [True]
        change(data, "vault/names.json", names=record["names"], more=1)
        images.set_entry(parse_reference("other"), "x86_64", vault.Entry("cd" * 32))
        assert load(path)["names"][key] == record["names"][key]
        assert load(path)["more"] == 1
        # The same entry again changes nothing, and one with another stamp keeps what it does not know.
        reference = parse_reference("/srv/images/tiny.qcow2")
        assert not images.set_entry(reference, "x86_64", images.entry(reference, "x86_64")._replace(stamp="new"))
        assert load(path)["names"][key] == {**record["names"][key], "stamp": "new"}

    def test_two_versions_at_one_data_directory_lose_nothing(self, data):
        """What this version refuses it does not write either, and what it can use stays usable."""
        newer = change(data, WEB, schema=2, memory={"now": 1, "most": 2})
        before = load(newer)
        scope = data.scope("qemu")
        scope.write(_model.Instance.from_dict({**load(os.path.join(data.path, BOX)), "scope": "qemu"}))
        found, broken = scope.instances()
        assert [each.name for each in found] == ["Box"]
        assert ["newer version" in str(each) for each in broken] == [True]
        settings = change(data, "settings.json", schema=9)
        with pytest.raises(RecordError, match="newer version"):
            data.change_settings(driver="qemu")
        notes = change(data, "scopes/qemu/networks/lab/ports.json", schema=2)
        with pytest.raises(RecordError, match="newer version"):
            _scope.read_notes(notes, lookup.FORWARDS)
        assert load(newer) == before
        assert load(settings)["schema"] == 9

    def test_a_phase_that_is_not_known_is_not_taken_for_leftovers(self, data):
        change(data, WEB, phase="deleted")
        with pytest.raises(RecordError, match="phase is not one that this version knows"):
            data.scope("qemu").read("web")


class TestOlderVersions:
    def test_older_forms_become_todays_step_by_step(self, tmp_path):
        def second(data):
            size = data.pop("megabytes") << 20
            return {**data, "size": size}

        def third(data):
            sizes = [data.pop("size")]
            return {**data, "sizes": sizes}

        kind = RecordKind("a thing", 3, {"sizes": _model._TYPES["list[int]"]}, {1: second, 2: third})
        path = str(tmp_path / "thing.json")
        for content in (
            {"schema": 1, "megabytes": 2},
            {"schema": 2, "size": 2 << 20},
            {"schema": 3, "sizes": [2 << 20]},
        ):
            with open(path, "w", encoding="utf-8") as stream:
                json.dump({**content, "name": "x"}, stream)
            assert read_record(path, kind) == {"name": "x", "sizes": [2 << 20]}
        write_record(path, kind, {"sizes": []})
        assert load(path)["schema"] == 3

    def test_an_old_record_that_cannot_become_todays_is_damaged(self, tmp_path):
        kind = RecordKind("a thing", 2, {"size": _model.NUMBER}, {1: lambda data: {"size": data.get("megabytes")}})
        path = tmp_path / "thing.json"
        path.write_text('{"schema": 1, "megabytes": "2"}')
        with pytest.raises(RecordError, match="size is not a whole number") as caught:
            read_record(str(path), kind)
        assert caught.value.facts["damaged"]

    def test_every_kind_knows_how_to_read_all_its_older_forms(self):
        for kind in {id(kind): kind for kind in KINDS.values()}.values():
            assert set(kind.migrations) == set(range(1, kind.schema))


WRONG: list = [
    None,
    True,
    False,
    -1,
    1,
    2.5,
    1 << 63,
    "",
    "x\0",
    "text",
    [],
    [None],
    [[]],
    [{}],
    {},
    {"a": 1},
    {"a": {"b": 1}},
]


@pytest.mark.parametrize("name", [WEB, BOX, LAB])
def test_whatever_a_field_holds_only_that_object_is_concerned(data, name):
    scope_name = name.split("/")[1]
    scope = data.scope(scope_name)
    records = scope.networks if "networks" in name else scope
    other = "scopes/qemu/networks/bridged-eth1/network.json" if name == LAB else None
    if other is None:
        neighbour = {**load(os.path.join(data.path, name)), "name": "other"}
        os.makedirs(os.path.join(data.path, f"scopes/{scope_name}/instances/other"))
        with open(os.path.join(data.path, f"scopes/{scope_name}/instances/other/instance.json"), "w") as stream:
            json.dump(neighbour, stream)
    path = os.path.join(data.path, name)
    whole = load(path)
    refused = 0
    for field in [each for each in whole if each != "schema"]:
        for value in WRONG:
            change(data, name, **{**whole, field: value})
            found, broken = records.all()
            assert len(found) + len(broken) == 2
            assert len(found) >= 1
            for error in broken:
                assert error.facts == {"record": path, "damaged": True}
                refused += 1
            for record in found:
                records.write(record)  # whatever is read can be written
    assert refused > len(whole) * len(WRONG) / 2


@pytest.mark.parametrize("name", KINDS)
def test_random_damage_ends_with_a_record_error_or_a_record_that_can_be_written_back(data, name):
    seed = 20261127
    chance = random.Random(f"{seed} {name}")
    path = os.path.join(data.path, name)
    with open(path, "rb") as stream:
        whole = stream.read()
    kind = KINDS[name]
    for dummy in range(100):
        content = bytearray(whole)
        for dummy in range(chance.randint(1, 4)):
            place = chance.randrange(len(content))
            piece = chance.choice([b"", b"\0", b"\xff", b"[", b"}", b'"', b"1e999", b"NaN", b"null", b"-", b"9" * 99])
            content[place : place + chance.randrange(6)] = piece
        with open(path, "wb") as stream:
            stream.write(content)
        try:
            record = read_record(path, kind)
        except RecordError:
            continue
        write_record(path, kind, record)
        assert read_record(path, kind) == record


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("directory", "it is a directory, not a file"),
        ("link", "it is a link, not a file"),
        ("dangling link", "it is a link, not a file"),
        ("pipe", "it is a pipe, not a file"),
        ("device", "it is a device, not a file"),
        ("large", "more than 4194304"),
        ("deep", "inside each other"),
        ("deep and closed", "inside each other"),
        ("latin", "is not UTF-8"),
        ("twice", "stands twice"),
        ("nan", "NaN is not a number"),
        ("bom", "byte order mark"),
    ],
)
def test_what_is_in_the_place_of_a_record(data, place, said):
    path = os.path.join(data.path, WEB)
    with open(path, "rb") as stream:
        whole = stream.read()
    os.unlink(path)
    if place == "directory":
        os.mkdir(path)
    elif "link" in place:
        os.symlink(os.path.join(data.path, BOX) if place == "link" else "/nowhere", path)
    elif place == "pipe":
        os.mkfifo(path)
    elif place == "device":
        if os.geteuid() != 0:
            pytest.skip("only root makes devices")
        os.mknod(path, 0o020600, os.makedev(1, 5))  # /dev/zero has no end
    else:
        content = {
            "large": whole[:-3] + b" " * (4 << 20) + b"}",
            "deep": b'{"schema": 1, "tags": ' + b"[" * 200_000,
            "deep and closed": whole[:-3] + b',"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
            "latin": whole.replace(b"role", b"r\xf6le"),
            "twice": whole.replace(b'"cpus"', b'"cpus": 7, "cpus"'),
            "nan": whole.replace(b'"cpus": 1', b'"cpus": NaN'),
            "bom": b"\xef\xbb\xbf" + whole,
        }[place]
        with open(path, "wb") as stream:
            stream.write(content)
    scope = data.scope("qemu")
    with pytest.raises(RecordError) as caught:
        scope.read("web")
    assert said in str(caught.value)
    assert "state: absent and force: true" in caught.value.hint
    assert caught.value.facts == {"record": path, "damaged": True}
    scope.remove("web")
    assert not os.path.lexists(scope.directory("web"))
    assert os.path.exists(os.path.join(data.path, BOX))


@pytest.mark.parametrize(
    "tags",
    [{"a": float("nan")}, {"a": "x" * (5 << 20)}, {"a": 10**80}, {"a": "\udc80"}],
    ids=["nan", "large", "long number", "half a pair"],
)
def test_what_could_not_be_read_again_is_not_written(data, tags):
    scope = data.scope("qemu")
    web = scope.read("web")
    before = load(os.path.join(data.path, WEB))
    web.tags = tags
    with pytest.raises(InvalidOption, match="cannot be written"):
        scope.write(web)
    assert load(os.path.join(data.path, WEB)) == before
    assert os.listdir(scope.directory("web")) == ["instance.json"]


def test_settings_that_are_none_say_what_to_do(data):
    change(data, "settings.json", driver=["qemu"])
    with pytest.raises(RecordError, match="driver is not text") as caught:
        data.settings()
    assert "Restore the file from a backup, or remove it" in caught.value.hint
