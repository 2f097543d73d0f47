# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._model import GIB, parse_port
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.source import Clone, Exported, Multipass
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import parse_wish
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._reconcile.world import World

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILeeIWv+Izm9KelGUy3s5ER77I6p5YM9XoZ11F0cWwn"

# What is in the records of earlier versions where an option was given and empty.
OF_NOTHING = hashlib.sha256(b"").hexdigest()


def wish(**params):
    return parse_wish({"name": "web", **params})


class TestWish:
    def test_only_a_name(self):
        parsed = wish()
        assert (parsed.state, parsed.wait, parsed.timeout, parsed.cloud_init_errors) == ("running", True, 300, "fail")
        assert (parsed.allow_restart, parsed.recreate, parsed.force, parsed.origin) == (False, False, False, {})
        opinions = ("image", "cpus", "memory", "disk", "instance_type", "arch", "user", "autostart", "tags", "ports")
        assert [name for name in opinions if getattr(parsed, name) is not None] == []

    def test_none_is_no_opinion_and_false_is_one(self):
        parsed = wish(state=None, wait=None, autostart=None, ports=None, tags=None, cloud_init=None)
        assert parsed == wish()
        parsed = wish(wait=False, autostart=False, ports=[], tags={})
        assert (parsed.wait, parsed.autostart, parsed.ports, parsed.tags) == (False, False, [], {})

    def test_options_are_understood(self):
        parsed = wish(
            memory="1.5G", disk="10GiB", cpus=3, arch="amd64", ports=["8080:80", "53/udp"], image=" daily:26.04 "
        )
        assert (parsed.memory, parsed.disk, parsed.cpus, parsed.arch) == (3 * GIB // 2, 10 * GIB, 3, "x86_64")
        assert parsed.ports == [parse_port("8080:80"), parse_port("53/udp")]
        assert str(parsed.image) == "daily:26.04"

    @pytest.mark.parametrize(
        ("one", "other", "same"),
        [
            ({"cloud_init": {"a": 1, "b": 2}}, {"cloud_init": {"b": 2, "a": 1}}, True),
            ({"cloud_init": {"a": 1}}, {"cloud_init": {"a": 2}}, False),
            ({"cloud_init": "#!/bin/sh\n"}, {"vendor_data": "#!/bin/sh\n"}, False),
            ({"ssh_authorized_keys": [KEY, f"{KEY} b"]}, {"ssh_authorized_keys": [KEY]}, False),
        ],
    )
    def test_the_origin_tells_apart_what_differs(self, one, other, same):
        assert (wish(**one).origin == wish(**other).origin) is same

    @pytest.mark.parametrize(
        ("params", "words"),
        [
            ({"name": "../x"}, ["name '../x' is not valid"]),
            ({"name": "w" * 64}, ["at most 63"]),
            ({"name": ""}, ["name '' is not valid"]),
            ({"memory": "lots"}, ["memory 'lots' is not a size", "512M"]),
            ({"memory": "63M"}, ["memory '63M' is too small", "64M"]),
            ({"memory": "0"}, ["too small"]),
            ({"disk": "1K"}, ["disk '1K' is too small"]),
            ({"disk": "-5G"}, ["disk '-5G' is not a size"]),
            ({"cpus": 0}, ["cpus 0 is too few", "at least 1"]),
            ({"cpus": -1}, ["cpus -1"]),
            ({"timeout": 0}, ["timeout 0", "more than 0"]),
            ({"timeout": -5}, ["timeout -5"]),
            ({"timeout": float("nan")}, ["timeout nan"]),
            ({"ports": ["http"]}, ["port 'http' is not valid"]),
            ({"ports": ["8080:80", "8080:81"]}, ["8080/tcp twice", "8080:81"]),
            ({"ports": ["8080:80", "0.0.0.0:8080:81"]}, ["8080/tcp twice", "0.0.0.0:8080:81"]),
            ({"ports": ["0.0.0.0:8080:80", "127.0.0.1:8080:81"]}, ["8080/tcp twice"]),
            ({"image": ""}, ["image '' is not valid"]),
            ({"image": "ftp://x/y"}, ["scheme"]),
            ({"image_checksum": "md5:00"}, ["checksum 'md5:00' is not valid", "sha256"]),
            ({"user": "-oProxyCommand=x"}, ["user '-oProxyCommand=x' is not a login name"]),
            ({"user": "a b"}, ["is not a login name"]),
            ({"user": "ann\n"}, ["is not a login name"]),
            ({"user": ""}, ["is not a login name"]),
            ({"source": "db", "image": "24.04"}, ["source and image exclude each other"]),
            ({"source": "db", "image_checksum": "sha256:" + "0" * 64}, ["source and image_checksum exclude"]),
            ({"source_copy": "full"}, ["source_copy goes with source only"]),
            ({"source_root": "/srv"}, ["source_root goes with source only"]),
            ({"source": "db", "source_root": "/srv"}, ["source_root goes with a source of Multipass only"]),
            ({"source": ""}, ["source '' is not valid"]),
            ({"source": "db@"}, ["names no snapshot", "db alone"]),
            ({"source": "db@a@b"}, ["the snapshot in source 'a@b' is not valid"]),
            ({"source": "backup/db"}, ["is not the name of an instance", "./backup/db"]),
            ({"source": "db.minicloud"}, ["./db.minicloud"]),
            ({"source": "https://example.com/db.minicloud"}, ["is not a file", "Fetch it"]),
            ({"source": "file://elsewhere/db.minicloud"}, ["source 'file://elsewhere/db.minicloud'"]),
            ({"source": "multipass:-oX"}, ["the instance in source '-oX' is not valid"]),
        ],
        ids=str,
    )
    def test_what_cannot_be_meant_is_refused_by_its_name(self, params, words):
        with pytest.raises(InvalidOption) as caught:
            wish(**params)
        assert [word for word in words if word not in str(caught.value)] == []
        assert caught.value.hint

    @pytest.mark.parametrize(
        "ports",
        [
            ["8080:80", "8080:80/udp"],
            ["127.0.0.1:8080:80", "127.0.0.2:8080:80"],
            ["80", "80"],
            ["0.0.0.0::80", "127.0.0.1::80"],
        ],
    )
    def test_ports_that_get_on_with_each_other(self, ports):
        assert len(wish(ports=ports).ports) == 2


class TestSource:
    @pytest.mark.parametrize(
        ("text", "source"),
        [
            ("db", Clone("db")),
            (" db@before-upgrade ", Clone("db", "before-upgrade")),
            ("/srv/db.minicloud", Exported("/srv/db.minicloud")),
            ("file:///srv/my%20db.ova", Exported("/srv/my db.ova")),
            ("multipass:db", Multipass("db")),
            ("Multipass: db", Multipass("db")),
        ],
    )
    def test_what_is_meant(self, text, source):
        assert wish(source=text).source == source

    def test_as_text_it_means_the_same(self):
        for text in ("db", "db@one", "/srv/db.minicloud", "multipass:db"):
            assert str(wish(source=text).source) == text

    def test_relative_path_is_one_of_a_file(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert wish(source="./db.ova").source == Exported(str(tmp_path / "db.ova"))

    def test_where_multipass_has_its_data(self):
        assert wish(source="multipass:db", source_root="/srv/multipass").source == Multipass("db", "/srv/multipass")


class TestNothing:
    """Many spellings of nothing are the same as an option that is not given."""

    SPELLINGS: list[dict[str, object]] = [
        {"cloud_init": ""},
        {"cloud_init": " \n"},
        {"cloud_init": {}},
        {"cloud_init": []},
        {"cloud_init": "#cloud-config\n"},
        {"cloud_init": "#cloud-config\n# later\n{}\n"},
        {"vendor_data": ""},
        {"vendor_data": {}},
        {"vendor_data": "#cloud-config"},
        {"network_config": ""},
        {"network_config": {}},
        {"network_config": "# none\n"},
        {"network_config": "{}"},
        {"meta_data": ""},
        {"meta_data": {}},
        {"meta_data": "---\n"},
        {"ssh_authorized_keys": []},
        {"ssh_authorized_keys": [""]},
        {"ssh_authorized_keys": [" \n"]},
        {"networks": []},
        {"bridged": ""},
        {"image_checksum": ""},
        {"arch": ""},
    ]

    @pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
    def test_is_no_opinion(self, spelling):
        assert wish(**spelling) == wish()

    def test_beside_a_key_is_no_opinion(self):
        assert wish(ssh_authorized_keys=[KEY, "", " \n", "# none\n"]) == wish(ssh_authorized_keys=[KEY])

    def test_replaces_no_instance(self, tmp_path, monkeypatch):
        world = World(tmp_path, monkeypatch)
        made = world.run().view
        for spelling in self.SPELLINGS:
            outcome = world.run(recreate=True, **spelling)
            assert (outcome.changed, outcome.actions, outcome.view) == (False, [], made)
            assert world.reporter.warnings == []

    @pytest.mark.parametrize("option", ["cloud_init", "vendor_data", "network_config", "meta_data"])
    def test_in_a_record_of_an_earlier_version_is_nothing_too(self, tmp_path, monkeypatch, option):
        world = World(tmp_path, monkeypatch)
        world.run()
        record = world.scope.read("web")
        record.origin = {option: OF_NOTHING}
        world.scope.write(record)
        for nothing in ("", {}, None):
            assert not world.run(recreate=True, **{option: nothing}).changed
        assert world.run(recreate=True, **{option: {"a": 1}}).actions[:2] == ["delete", "create"]

    @pytest.mark.parametrize("value", [0, False, [1]])
    def test_is_not_what_has_a_wrong_type(self, tmp_path, monkeypatch, value):
        for option in ("cloud_init", "meta_data"):
            with pytest.raises(InvalidOption, match=f"{option} must be a mapping or text"):
                World(tmp_path, monkeypatch).run(**{option: value})

    def test_of_tags_and_ports_is_an_opinion(self):
        parsed = wish(ports=[], tags={})
        assert (parsed.ports, parsed.tags) == ([], {})


class TestSizes:
    def test_a_disk_has_whole_sectors(self):
        assert parse_wish({"name": "a", "disk": "1.7G"}).disk == 1741 << 20


class TestSecrets:
    def test_a_password_in_a_url_is_kept_for_the_request_alone(self):
        wish = parse_wish({"name": "a", "image": "https://me:secret@example.org/a@b.img"})
        assert str(wish.image) == "https://example.org/a@b.img"
        assert wish.image.name == "https://me:secret@example.org/a@b.img"
