# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import email
import json
import os
import subprocess
import sys
import typing as t

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import HostError, InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._guest import seed
from ansible_collections.minicloud.local.plugins.module_utils._guest.cloud_config import CloudConfig, Settings
from ansible_collections.minicloud.local.plugins.module_utils._guest.iso9660 import iso_image
from ansible_collections.minicloud.local.plugins.module_utils._guest.keys import HostKey
from ansible_collections.minicloud.local.plugins.module_utils._guest.seed import (
    GivenHostKeys,
    Login,
    SeedOptions,
    check_login,
    check_seed_options,
    expected_login_user,
    given_host_keys,
    goes_down,
    network_config,
    read_seed,
    renamed,
    seed_files,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import Nic

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKey minicloud"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOther someone"
HOST = HostKey("-----BEGIN OPENSSH PRIVATE KEY-----\nx\n", "ssh-ed25519 AAAAhost web")
LONG = "A" * 60


def wishes_of(
    user: str = "",
    ssh_authorized_keys: t.Sequence[str] = (),
    cloud_init: t.Any = None,
    vendor_data: t.Any = None,
    network_config: t.Any = None,
    meta_data: t.Any = None,
) -> SeedOptions:
    """SeedOptions from options as users write them."""
    return SeedOptions(
        user,
        ssh_authorized_keys,
        CloudConfig(cloud_init, "cloud_init"),
        CloudConfig(vendor_data, "vendor_data"),
        Settings(network_config, "network_config"),
        Settings(meta_data, "meta_data"),
    )


def files(**wishes: t.Any) -> dict[str, bytes]:
    return seed_files("web", "i-1", [KEY], [HOST], wishes_of(**wishes), [Nic("default", "52:54:00:AA:BB:CC")])


def parts(vendor_data: bytes) -> list[bytes]:
    """The parts of a message as cloud-init walks through them; one that is no message is one part."""
    if not vendor_data.startswith(b"Content-Type:"):
        return [vendor_data]
    message = email.message_from_string(vendor_data.decode())
    assert not message.defects
    return [t.cast(bytes, part.get_payload(decode=True)) for part in message.walk() if not part.is_multipart()]


def config_of(part: bytes) -> dict[str, t.Any]:
    header, dummy, body = part.partition(b"\n")
    assert header == b"#cloud-config"
    return t.cast("dict[str, t.Any]", json.loads(body))


def test_plain_instance() -> None:
    made = files()
    assert sorted(made) == ["meta-data", "network-config", "user-data", "vendor-data"]
    assert json.loads(made["meta-data"]) == {"instance-id": "i-1", "local-hostname": "web", "public-keys": [KEY]}
    assert made["user-data"] == b"#cloud-config\n{}\n"
    ethernet = {"match": {"macaddress": "52:54:00:aa:bb:cc"}, "dhcp4": True, "dhcp-identifier": "mac"}
    ethernet["dhcp4-overrides"] = {"use-domains": True}
    assert json.loads(made["network-config"]) == {"version": 2, "ethernets": {"eth0": ethernet}}
    ours = config_of(made["vendor-data"])
    assert ours["ssh_keys"] == {"ed25519_private": HOST.private, "ed25519_public": HOST.public}
    assert ours["ssh_deletekeys"] is True
    assert "system_info" not in ours
    assert "users" not in ours


def test_user_data_goes_through_untouched() -> None:
    for text in (
        "#!/bin/sh\necho 'x'\n",
        "## template: jinja\n#cloud-config\nfqdn: {{ v1.x }}\n",
        "#include\nhttp://x\n",
    ):
        assert files(cloud_init=text)["user-data"] == text.encode()


def test_keys_of_the_user_join_ours() -> None:
    given = {"public-keys": {"0": [OTHER], "1": KEY}, "local-hostname": "web.example.com", "extra": 1}
    meta = json.loads(files(ssh_authorized_keys=[f" {OTHER}\n", ""], meta_data=given)["meta-data"])
    assert meta == {"instance-id": "i-1", "local-hostname": "web.example.com", "extra": 1, "public-keys": [KEY, OTHER]}
    meta = json.loads(files(meta_data=json.dumps({"public-keys": OTHER}))["meta-data"])
    assert meta["public-keys"] == [KEY, OTHER]
    for none in (7, 1.5, True, None):
        assert json.loads(files(meta_data={"public-keys": none})["meta-data"])["public-keys"] == [KEY]


def test_meta_data_that_cannot_be_read(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(InvalidOption, match="Give it as a mapping"):
        files(meta_data="instance-id: x\n")


def test_login_user_and_root() -> None:
    assert config_of(files(user="anna")["vendor-data"])["system_info"] == {"default_user": {"name": "anna"}}
    assert "disable_root" not in config_of(files(user="anna")["vendor-data"])
    assert config_of(files(user="root")["vendor-data"])["disable_root"] is False


def test_vendor_data_of_the_user_comes_after_ours() -> None:
    ours, theirs = parts(files(vendor_data={"growpart": {"mode": "off"}})["vendor-data"])
    assert "ssh_keys" in config_of(ours)
    assert config_of(theirs) == {"growpart": {"mode": "off"}}


def test_vendor_data_in_any_form_is_kept_byte_for_byte() -> None:
    script = "#!/bin/sh\necho 'grüße' \r\n\n--===\n"
    assert parts(files(vendor_data=script)["vendor-data"])[1] == script.encode()
    message = (
        'Content-Type: multipart/mixed; boundary="b"\nMIME-Version: 1.0\n\n'
        "--b\nContent-Type: text/x-shellscript\n\n#!/bin/sh\n--b--\n"
    )
    made = files(vendor_data=message)["vendor-data"]
    assert message.encode() in made
    assert parts(made)[1] == b"#!/bin/sh"


def test_own_host_keys_replace_ours() -> None:
    config = {"ssh_keys": {"rsa_private": "PEM", "rsa_public": f"ssh-rsa {LONG} me", "ecdsa_private": "PEM2"}}
    assert given_host_keys(wishes_of(cloud_init=config)) == GivenHostKeys([f"ssh-rsa {LONG}"], ["PEM2"])
    ours = config_of(files(cloud_init=config)["vendor-data"])
    assert "ssh_keys" not in ours
    assert "ssh_deletekeys" not in ours
    assert given_host_keys(wishes_of(cloud_init={"packages": ["x"]})) is None
    assert given_host_keys(wishes_of(vendor_data=config)) == GivenHostKeys([f"ssh-rsa {LONG}"], ["PEM2"])


def test_own_host_keys_beside_what_yaml_reads_as_numbers():
    config = {"ssh_keys": {5: "x", None: "y", "rsa_private": "PEM"}}
    assert given_host_keys(wishes_of(cloud_init=config)) == GivenHostKeys([], ["PEM"])


def test_own_host_keys_in_text_that_cannot_be_read(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    text = f"#cloud-config\nssh_keys:\n  ed25519_private: |\n    PEM\n  ed25519_public: ssh-ed25519 {LONG} me\n"
    assert given_host_keys(wishes_of(cloud_init=text)) == GivenHostKeys([f"ssh-ed25519 {LONG}"], [])
    assert given_host_keys(wishes_of(cloud_init="#cloud-config\nssh_keys:\n  ed25519_private: x\n")) == GivenHostKeys(
        [], []
    )
    assert given_host_keys(wishes_of(cloud_init="#cloud-config\npackages: [ssh_keys]\n")) is None


@pytest.mark.parametrize(
    ("wishes", "login"),
    [
        ({}, Login("")),
        ({"user": "anna"}, Login("anna")),
        ({"cloud_init": {"users": ["default", {"name": "bob"}]}}, Login("")),
        ({"cloud_init": {"users": ["default", {0: "ann", "name": "bob"}]}}, Login("")),
        ({"cloud_init": {"users": "bob,default"}}, Login("")),
        ({"cloud_init": {"users": {"default": True, "bob": {}}}}, Login("")),
        ({"cloud_init": {"users": [["bob", "default"]]}}, Login("")),
        ({"cloud_init": {"users": [{"gecos": "the default one, named by nobody"}]}}, Login("")),
        ({"cloud_init": {"user": "bob"}}, Login("bob")),
        ({"cloud_init": {"user": {"name": "bob"}, "users": []}}, Login("bob")),
        ({"cloud_init": {"system_info": {"default_user": {"name": "bob"}}}}, Login("bob")),
        ({"vendor_data": {"system_info": {"default_user": {"name": "bob"}}}}, Login("bob")),
        ({"user": "bob", "cloud_init": {"user": "bob"}}, Login("bob")),
        ({"cloud_init": {"users": [{"name": "a"}, {"name": "b", "ssh_authorized_keys": ["k"]}]}}, Login("b", True)),
        ({"cloud_init": {"users": [{"name": "a"}, {"name": "b", "ssh-authorized-keys": ["k"]}]}}, Login("b", True)),
        ({"cloud_init": {"users": [{"name": "s", "system": True}, {"name": "b"}]}}, Login("b", True)),
        ({"cloud_init": {"users": [{"name": "s", "shell": "/usr/sbin/nologin"}, "b"]}}, Login("b", True)),
        ({"user": "b", "cloud_init": {"users": ["a", "b"]}}, Login("b", True)),
        ({"user": "root", "cloud_init": {"users": ["a"]}}, Login("root", True)),
        ({"cloud_init": {"users": []}}, None),
        ({"cloud_init": {"users": [{"name": "s", "inactive": True}]}}, None),
        ({"cloud_init": '#cloud-config\n{"users": ["b"]}\n'}, Login("b", True)),
        ({"cloud_init": "#!/bin/sh\n"}, Login("")),
    ],
)
def test_expected_login_user(wishes, login) -> None:
    assert expected_login_user(wishes_of(**wishes)) == login
    files(**wishes)


def test_two_names_for_the_default_user() -> None:
    with pytest.raises(InvalidOption, match="user is anna, and cloud_init names the default user bob"):
        files(user="anna", cloud_init={"user": "bob"})


def test_vendor_data_turned_off() -> None:
    off = {"vendor_data": {"enabled": False}}
    with pytest.raises(InvalidOption, match="turns vendor data off"):
        check_seed_options(wishes_of(cloud_init=off))
    check_seed_options(wishes_of(cloud_init={**off, "ssh_keys": {"rsa_private": "x", "rsa_public": "y"}}))
    check_seed_options(wishes_of(cloud_init={"vendor_data": {"prefix": "x"}}))


def test_what_is_wrong_is_named_by_its_option() -> None:
    for option in ("cloud_init", "vendor_data", "network_config", "meta_data"):
        with pytest.raises(InvalidOption, match=option):
            files(**{option: [1]})


def test_a_listed_user_gets_the_keys_by_a_script(tmp_path) -> None:
    """The script is run here, in a copy that reads its own passwd."""
    made = files(cloud_init={"users": [{"name": "bob"}]}, ssh_authorized_keys=[OTHER])
    ours, script = parts(made["vendor-data"])
    assert "ssh_keys" in config_of(ours)
    assert script.startswith(b"#!/bin/sh\n")
    home = tmp_path / "bob"
    home.mkdir()
    passwd = tmp_path / "passwd"
    passwd.write_text(f"root:x:0:0::/root:/bin/sh\nbob:x:1000:1000::{home}:/bin/sh\n")
    local = script.decode().replace("/etc/passwd", str(passwd)).replace("chown ", "true ")
    for dummy in range(2):
        subprocess.run(["sh", "-c", local], check=True)
    authorized = home / ".ssh" / "authorized_keys"
    assert authorized.read_text() == f"{KEY}\n{OTHER}\n"
    assert os.stat(authorized).st_mode & 0o777 == 0o600
    assert os.stat(home / ".ssh").st_mode & 0o777 == 0o700


def test_network_of_several_nics() -> None:
    nics = [Nic("a", "52:54:00:00:00:01"), Nic("b", "52:54:00:00:00:02", "manual"), Nic("c", "52:54:00:00:00:03")]
    ethernets = network_config(nics)["ethernets"]
    assert sorted(ethernets) == ["eth0", "eth2"]
    assert ethernets["eth0"]["dhcp4-overrides"] == {"use-domains": True, "route-metric": 100}
    assert ethernets["eth2"]["dhcp4-overrides"] == {"use-domains": True, "route-metric": 200}
    assert "optional" not in ethernets["eth0"]
    assert ethernets["eth2"]["optional"] is True


def test_network_of_a_container() -> None:
    nics = [Nic("a", "52:54:00:00:00:01"), Nic("b", "52:54:00:00:00:02", "manual"), Nic("c", "52:54:00:00:00:03")]
    ethernets = network_config(nics, named=True)["ethernets"]
    assert sorted(ethernets) == ["eth0", "eth2"]
    assert not any("match" in entry for entry in ethernets.values())
    made = seed_files("web", "i-1", [KEY], [HOST], wishes_of(), nics, named=True)
    assert json.loads(made["network-config"])["ethernets"] == ethernets


def test_network_without_auto_nics() -> None:
    assert network_config([Nic("a", "52:54:00:00:00:01", "manual")]) == {"config": "disabled"}
    assert "network-config" not in seed_files("web", "i-1", [KEY], [HOST], wishes_of())


def test_network_config_of_the_user() -> None:
    text = "version: 2\n# mine\nethernets: {}\n"
    assert files(network_config=text)["network-config"] == text.encode()
    assert json.loads(files(network_config={"version": 1, "config": []})["network-config"]) == {
        "version": 1,
        "config": [],
    }


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"cloud_init": {"password": "x"}}, "password that expires at once"),
        ({"cloud_init": "#cloud-config\npassword: x\n"}, "password that expires at once"),
        ({"vendor_data": {"password": "x"}}, "password that expires at once"),
        ({"cloud_init": {"password": "x", "chpasswd": {"expire": "yes"}}}, "password that expires at once"),
        ({"user": "ann", "cloud_init": {"chpasswd": {"list": "bob:x\nann:y\n"}}}, "gives ann a password that expires"),
        ({"user": "ann", "cloud_init": {"chpasswd": {"list": ["ann:y"]}}}, "gives ann a password that expires"),
        (
            {"cloud_init": {"users": ["ann"], "chpasswd": {"users": [{"name": "ann", "password": "x"}]}}},
            "gives ann a password that expires",
        ),
        ({"cloud_init": {"users": []}}, "makes no user who could log in"),
        ({"cloud_init": {"users": [{"name": "app", "shell": "/usr/sbin/nologin"}]}}, "makes no user who could log in"),
        (
            {"user": "app", "cloud_init": {"users": [{"name": "app", "shell": "/usr/sbin/nologin"}]}},
            "lets nobody log in as app: the shell is /usr/sbin/nologin",
        ),
        (
            {"user": "app", "cloud_init": {"users": ["default", {"name": "app", "shell": "/bin/false"}]}},
            "lets nobody log in as app",
        ),
        ({"cloud_init": {"user": {"name": "ann", "shell": "/bin/false"}}}, "lets nobody log in as ann"),
        ({"cloud_init": {"system_info": {"default_user": {"shell": "/sbin/nologin"}}}}, "log in as the default user"),
        (
            {"user": "ann", "cloud_init": {"users": [{"name": "ann", "expiredate": "2012-09-01"}]}},
            r"the account has expired \(2012-09-01\)",
        ),
        ({"cloud_init": {"allow_public_ssh_keys": False}}, "allow_public_ssh_keys"),
    ],
)
def test_user_data_that_can_never_give_a_login(options, what):
    with pytest.raises(InvalidOption, match=what) as caught:
        check_login(wishes_of(**options))
    assert "wait: false" in caught.value.hint


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cloud_init": {"password": "x", "chpasswd": {"expire": False}}},
        {"cloud_init": {"password": "x", "chpasswd": {"expire": "False"}}},
        {"cloud_init": {"password": "x", "users": ["ann"]}},  # whose it is not
        {"user": "ann", "cloud_init": {"chpasswd": {"list": "bob:x"}}},
        {"user": "root", "cloud_init": {"users": []}},
        {"cloud_init": {"users": ["default", {"name": "app", "shell": "/usr/sbin/nologin"}]}},
        {"cloud_init": {"users": [{"name": "ann", "lock_passwd": True}]}},
        {"user": "ann", "cloud_init": {"users": [{"name": "ann", "expiredate": "2999-01-01"}]}},
        {"cloud_init": {"users": ["ann"], "allow_public_ssh_keys": False}},
        {"cloud_init": "#!/bin/sh\npasswd -e root\n"},
        {"cloud_init": {"chpasswd": 7, "users": {"ann": {"uid": 2000}}}},
    ],
)
def test_user_data_that_may_well_give_one(options):
    check_login(wishes_of(**options))


def test_whether_it_goes_down_by_itself():
    assert goes_down(wishes_of(cloud_init={"power_state": {"mode": "poweroff"}}))
    assert goes_down(wishes_of(vendor_data="#cloud-config\npower_state: {mode: halt}\n"))
    assert not goes_down(wishes_of(cloud_init={"power_state": {"mode": "reboot"}}))
    assert not goes_down(wishes_of(cloud_init={"power_state": "poweroff"}))


def test_meta_data_gets_another_host_name_unless_the_user_gave_one():
    before = seed_files("web", "i-1", ["ssh-ed25519 AAAA"], [], SeedOptions())["meta-data"]
    after = renamed(before, "web", "www")
    assert after == seed_files("www", "i-1", ["ssh-ed25519 AAAA"], [], SeedOptions())["meta-data"]
    assert renamed(after, "web", "other") == after


class TestClones:
    """What goes into the seed of an instance whose disk is that of another one."""

    def parts(self, **options: t.Any) -> list[str]:
        cloned = wishes_of(**options)._replace(known_user="ann", cloned=True)
        seed = seed_files("copy", "i-2", [KEY], [HOST], cloned, [])
        message = email.message_from_bytes(seed["vendor-data"])
        leaves = [part for part in message.walk() if not part.is_multipart()]
        return [t.cast(bytes, part.get_payload(decode=True)).decode() for part in leaves]

    def test_one_logs_in_as_the_user_that_is_there(self):
        ours, identity, login = self.parts()
        assert json.loads(ours.partition("\n")[2])["users"] == []
        assert identity.startswith("#cloud-boothook\n#!/bin/sh\n")
        assert "user=ann\n" in login
        known = wishes_of()._replace(known_user="ann")
        assert expected_login_user(known) == Login("ann", listed=True)

    @pytest.mark.parametrize(
        ("options", "login"),
        [
            ({"user": "bob"}, Login("bob")),
            ({"cloud_init": {"user": "bob"}}, Login("bob")),
            ({"cloud_init": {"users": ["default"]}}, Login("")),
            ({"cloud_init": {"users": [{"name": "bob"}]}}, Login("bob", listed=True)),
            ({"cloud_init": {"packages": ["nginx"]}}, Login("ann", listed=True)),
            ({"cloud_init": "#!/bin/sh\ntrue\n"}, Login("ann", listed=True)),
        ],
        ids=str,
    )
    def test_unless_the_task_names_another(self, options, login):
        assert expected_login_user(wishes_of(**options)._replace(known_user="ann")) == login
        users = "users" in json.loads(self.parts(**options)[0].partition("\n")[2])
        assert users == (login.user == "ann")

    def test_it_gets_an_identity_of_its_own_once(self, tmp_path):
        """The script runs with its paths below a directory."""
        script = next(part for part in self.parts() if part.startswith("#cloud-boothook"))
        for directory in ("etc", "dev", "var/lib/dbus", "var/lib/systemd", "var/lib/cloud/instance"):
            (tmp_path / directory).mkdir(parents=True)
        for name in ("etc/machine-id", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed"):
            (tmp_path / name).write_text("theirs\n")
        for path in ("/etc/machine-id", "/var/lib", "/dev/urandom", "/run/systemd"):
            script = script.replace(path, f"{tmp_path}{path}")
        found = []
        for dummy in range(2):
            subprocess.run(["sh", "-eu"], input=script.encode(), check=True)
            found.append((tmp_path / "etc/machine-id").read_text())
            (tmp_path / "etc/machine-id").write_text("its own\n")
        assert len(found[0].strip()) == 32
        assert int(found[0], 16)
        assert found[1] == "its own\n"
        assert (tmp_path / "var/lib/dbus/machine-id").read_text() == found[0]
        assert not (tmp_path / "var/lib/systemd/random-seed").exists()
        assert len((tmp_path / "dev/urandom").read_text()) > 100

    def test_no_two_get_the_same(self):
        assert self.parts()[1] != self.parts()[1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "is damaged"),
        (b"x" * 100_000, "is damaged"),
        (iso_image({"user-data": b"x"}, "cidata"), "is damaged"),
        (iso_image({"meta-data": b"x"}, "cidata"), "is damaged"),
        (iso_image({"meta-data": b"{}"}, "cidata")[: 18 * 2048], "is damaged"),
    ],
)
def test_a_seed_that_is_damaged_is_said_to_be(tmp_path, content, said):
    path = tmp_path / "seed.iso"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HostError, match=said) as caught:
        read_seed(str(path), "web")
    assert "web" in str(caught.value)


def test_a_seed_is_read_up_to_a_bound(tmp_path, monkeypatch):
    path = tmp_path / "seed.iso"
    path.write_bytes(iso_image({"meta-data": b"{}"}, "cidata"))
    assert read_seed(str(path), "web") == {"meta-data": b"{}"}
    monkeypatch.setattr(seed, "_LARGEST_SEED", 1000)
    with pytest.raises(HostError, match="more than 1000"):
        read_seed(str(path), "web")
