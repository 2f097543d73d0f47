# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import email
import json

import pytest
import yaml

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import config as lxd_config
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.config import NicPlace
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.seed import seed_config
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._model import GIB, Instance, Nic, parse_port

MAC, OTHER_MAC = "52:54:00:AA:BB:01", "52:54:00:aa:bb:02"


def an_instance(**changes):
    values = {
        "name": "web",
        "uuid": "u-1",
        "scope": "lxd",
        "driver": "lxd",
        "created": "2026-01-02T03:04:05Z",
        "arch": "x86_64",
        "cpus": 2,
        "memory": 3 * GIB // 2,
        "disk": 10 * GIB,
        "instance_type": "container",
        "image": {"name": "24.04", "hash": "ab" * 32},
        "nics": [Nic("default", MAC, lease="10.1.2.3")],
    }
    return Instance(**{**values, **changes})


def devices(instance, places=None, **kwargs):
    places = places or [NicPlace({"network": "mc1"}) for nic in instance.nics]
    return lxd_config.devices_of(instance, "fast", places, **kwargs)


class TestConfig:
    def test_limits_and_what_explains_the_instance(self):
        tags = {"role": "web", "ports": [80, 443], "empty": ""}
        config = lxd_config.config_of(an_instance(tags=tags, autostart=True), "/data")
        assert config == {
            "limits.cpu": "2",
            "limits.memory": "1536MiB",
            "boot.autostart": "true",
            "user.minicloud.uuid": "u-1",
            "user.minicloud.data_dir": "/data",
            "user.minicloud.created": "2026-01-02T03:04:05Z",
            "user.minicloud.image": "24.04",
            "user.minicloud.image_hash": "ab" * 32,
            "user.minicloud.tag.role": "web",
            "user.minicloud.tag.ports": "[80, 443]",
        }

    def test_seed(self):
        meta = {"instance-id": "u-1", "local-hostname": "web", "public-keys": ["ssh-ed25519 A x", "ssh-rsa B"]}
        seed = {
            "meta-data": json.dumps(meta).encode(),
            "user-data": b"#cloud-config\n{}",
            "vendor-data": b"#!/bin/sh\necho u",
        }
        config = seed_config(seed)
        assert config["cloud-init.user-data"] == "#cloud-config\n{}"
        assert config["cloud-init.vendor-data"] == "#!/bin/sh\necho u"
        assert "cloud-init.network-config" not in config
        # LXD puts lines of YAML before these.
        assert config["user.meta-data"].splitlines() == [
            '"instance-id": "u-1"',
            '"local-hostname": "web"',
            '"public-keys": ["ssh-ed25519 A x", "ssh-rsa B"]',
        ]

    def test_a_seed_is_ascii_and_says_the_same(self):
        odd = "gr\u00fc\u00dfe \u4e16\u754c \U0001f427"
        seed = {
            "meta-data": json.dumps({"local-hostname": "web", odd: [odd]}, ensure_ascii=False).encode(),
            "user-data": f"#!/bin/sh\n# {odd}\n".encode(),
            "vendor-data": f'#cloud-config\n{{"note": "{odd}"}}\n'.encode(),
            "network-config": f"version: 2\n# {odd}\nethernets: {{}}\nnote: {odd}\n".encode(),
        }
        config = seed_config(seed)
        assert all(value.isascii() for value in config.values())
        assert yaml.safe_load(config["user.meta-data"]) == {"local-hostname": "web", odd: [odd]}
        assert yaml.safe_load(config["cloud-init.vendor-data"]) == {"note": odd}
        assert yaml.safe_load(config["cloud-init.network-config"]) == {"version": 2, "ethernets": {}, "note": odd}
        message = email.message_from_string(config["cloud-init.user-data"])
        assert message.get_payload()[0].get_payload(decode=True) == seed["user-data"]

    def test_settings_that_cannot_be_had_in_ascii_are_refused(self):
        seed = {"meta-data": b"{}", "network-config": "a: [\u00fc".encode()}
        with pytest.raises(InvalidOption, match="network_config has characters beyond ASCII"):
            seed_config(seed)


class TestDevices:
    def test_disk_and_network(self):
        assert devices(an_instance()) == {
            "root": {"type": "disk", "path": "/", "pool": "fast", "size": "10240MiB"},
            "eth0": {
                "type": "nic",
                "name": "eth0",
                "hwaddr": MAC.lower(),
                "network": "mc1",
                "ipv4.address": "10.1.2.3",
            },
        }

    @pytest.mark.parametrize(
        ("nic", "place"),
        [
            (Nic("default", MAC), NicPlace({"network": "mc1"})),
            (Nic("default", MAC, mode="manual", address="10.1.2.4"), NicPlace({"network": "mc1"})),
            (Nic("lan", MAC, address="10.1.2.4"), NicPlace({"nictype": "macvlan", "parent": "eth7"}, False)),
        ],
    )
    def test_no_address_is_kept(self, nic, place):
        found = devices(an_instance(nics=[nic]), [place])["eth0"]
        assert "ipv4.address" not in found
        assert found.items() >= place.keys.items()

    def test_forwards_lead_to_the_guests_own_address(self):
        ports = [parse_port("8080:80"), parse_port("0.0.0.0:5353:53/udp"), parse_port("[::1]:8443:443")]
        found = devices(an_instance(ports=ports))
        assert found["port-tcp-127.0.0.1-8080"] == {
            "type": "proxy",
            "listen": "tcp:127.0.0.1:8080",
            "connect": "tcp:10.1.2.3:80",
        }
        assert found["port-udp-0.0.0.0-5353"]["listen"] == "udp:0.0.0.0:5353"
        assert found["port-tcp-__1-8443"]["listen"] == "tcp:[::1]:8443"
        assert sorted(lxd_config.forwards_of(found)) == sorted(ports)

    def test_an_address_that_nobody_keeps_is_the_loopback_one(self):
        found = devices(an_instance(ports=[parse_port("8080:80")], nics=[Nic("default", MAC)]))
        assert found["port-tcp-127.0.0.1-8080"]["connect"] == "tcp:127.0.0.1:80"

    def test_ssh_from_afar(self):
        found = devices(an_instance(), ssh="[fd00::7]:20022")
        assert found["ssh"] == {"type": "proxy", "listen": "tcp:[fd00::7]:20022", "connect": "tcp:10.1.2.3:22"}
        assert lxd_config.listener_of(found["ssh"]) == ("fd00::7", 20022)
        assert lxd_config.listener_of({}) == ("", 22)
        assert lxd_config.forwards_of(found) == []

    def test_foreign_proxies_are_no_forwards(self):
        proxy = {"type": "proxy", "listen": "tcp:0.0.0.0:80", "connect": "tcp:127.0.0.1:80"}
        odd = {"type": "proxy", "listen": "unix:/run/x", "connect": "tcp:127.0.0.1:80"}
        assert lxd_config.forwards_of({"mine": proxy, "port-x": odd, "port-gpu": {"type": "gpu"}}) == []


def test_an_update_leaves_alone_what_others_have_added():
    before = an_instance(tags={"old": "1"}, ports=[parse_port("8080:80")])
    config = {**lxd_config.config_of(before, "/data"), "security.nesting": "true", "volatile.uuid": "v"}
    there = {**devices(before), "gpu": {"type": "gpu"}}
    after = an_instance(cpus=4, ports=[parse_port("8081:80")])
    config, found = lxd_config.updated(config, there, lxd_config.config_of(after, "/data"), devices(after))
    assert config["limits.cpu"] == "4"
    assert (config["security.nesting"], config["volatile.uuid"]) == ("true", "v")
    assert "user.minicloud.tag.old" not in config
    assert sorted(found) == ["eth0", "gpu", "port-tcp-127.0.0.1-8081", "root"]


def test_no_update_where_nothing_changes():
    instance = an_instance(tags={"a": "b"}, ports=[parse_port("8080:80")])
    wanted = lxd_config.config_of(instance, "/data")
    config, there = {**wanted, "volatile.uuid": "v"}, devices(instance)
    assert lxd_config.updated(config, there, wanted, devices(instance)) == (config, there)


class TestDrift:
    def test_none(self):
        instance = an_instance(ports=[parse_port("8080:80")])
        assert lxd_config.drift_of(instance, lxd_config.config_of(instance, "/data"), devices(instance), "LXD") == {}

    @pytest.mark.parametrize(
        ("text", "size"),
        [("512MiB", 512 << 20), ("1GB", 10**9), ("2048", 2048), ("3kB", 3000), ("", 0), ("50%", 0), ("1.5GiB", 0)],
    )
    def test_sizes_as_lxd_writes_them(self, text, size):
        assert lxd_config.size_of(text) == size

    @pytest.mark.parametrize(
        ("key", "value", "option"),
        [
            ("limits.memory", "512MiB", "memory"),
            ("boot.autostart", "true", "autostart"),
            ("user.minicloud.tag.role", "db", "tags"),
        ],
    )
    def test_each_option_that_a_task_names(self, key, value, option):
        instance = an_instance()
        config = {**lxd_config.config_of(instance, "/data"), key: value}
        assert list(lxd_config.drift_of(instance, config, devices(instance), "LXD")) == [option]

    def test_the_same_in_other_words_is_none(self):
        instance = an_instance()
        config = {**lxd_config.config_of(instance, "/data"), "limits.memory": str(instance.memory)}
        del config["boot.autostart"]
        assert lxd_config.drift_of(instance, config, devices(instance), "LXD") == {}

    @pytest.mark.parametrize(("size", "stays"), [("900GiB", True), ("64MiB", False)])
    def test_a_disk(self, size, stays):
        instance = an_instance()
        there = devices(instance)
        there["root"]["size"] = size
        found = lxd_config.drift_of(instance, lxd_config.config_of(instance, "/data"), there, "LXD")
        assert list(found) == ["disk"]
        assert found["disk"].endswith(", and stays so") == stays

    def test_other_ports(self):
        instance = an_instance(ports=[parse_port("8080:80")])
        there = devices(instance)
        there["port-tcp-127.0.0.1-99"] = {"type": "proxy", "listen": "tcp:127.0.0.1:99", "connect": "tcp:10.0.0.1:9"}
        found = lxd_config.drift_of(instance, lxd_config.config_of(instance, "/data"), there, "LXD")
        assert list(found) == ["ports"]

    @pytest.mark.parametrize(
        "change", [lambda devices: devices.pop("eth0"), lambda devices: devices["eth0"].update(hwaddr="x")]
    )
    def test_other_interfaces(self, change):
        instance = an_instance(nics=[Nic("default", "52:54:00:AA:00:01")])
        there = {**devices(instance), "eth0": {"type": "nic", "hwaddr": "52:54:00:aa:00:01"}, "mine": {"type": "nic"}}
        config = lxd_config.config_of(instance, "/data")
        assert lxd_config.drift_of(instance, config, there, "LXD") == {}
        change(there)
        assert list(lxd_config.drift_of(instance, config, there, "LXD")) == ["networks"]

    def test_what_was_changed_by_hand(self):
        instance = an_instance(ports=[parse_port("8080:80")])
        config = {**lxd_config.config_of(instance, "/data"), "limits.cpu": "1"}
        del config["limits.memory"]
        assert lxd_config.drift_of(instance, config, {}, "LXD") == {
            "cpus": "its cpus were changed in LXD to 1, from 2",
            "memory": "its memory was changed in LXD to all, from 1.5 GiB",
            "ports": "its port forwards were taken away in LXD: 127.0.0.1:8080:80/tcp",
            "networks": "its network interfaces were changed in LXD",
        }
