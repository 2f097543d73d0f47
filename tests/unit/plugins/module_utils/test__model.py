# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    GIB,
    KIB,
    MIB,
    NUMBER,
    SECONDS,
    TIB,
    Instance,
    Nic,
    PortForward,
    check_name,
    format_size,
    key_of,
    normal_arch,
    parse_port,
    parse_size,
)

# Names


@pytest.mark.parametrize("name", ["a", "Z", "web", "Web-1", "a1", "a--b", "w" * 63, "x" + "-" * 61 + "9"])
def test_a_good_name_is_returned_as_it_is(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../x",
        "..",
        "a/b",
        "a\\b",
        "-a",
        "a-",
        "1a",
        "a.b",
        "a_b",
        "a b",
        " a",
        "a\n",
        "a\0",
        "a,b",
        "a=b",
        "w" * 64,
        "é",
        "wéb",
        "web\u0301",
        "\u212aelvin",  # the Kelvin sign, which is a k when case is ignored
        "\u0430",  # Cyrillic
        "web٣",
    ],
)
def test_a_bad_name_is_refused_with_the_rule(name):
    with pytest.raises(InvalidOption) as caught:
        check_name(name)
    assert repr(name) in str(caught.value)
    assert "begins with a letter" in caught.value.hint
    assert "63" in caught.value.hint


def test_a_bad_name_is_called_what_the_caller_calls_it():
    with pytest.raises(InvalidOption, match=r"^snapshot '-' is not valid\."):
        check_name("-", "snapshot")


def test_names_are_compared_without_case():
    assert key_of("Web-1") == key_of("wEB-1") == "web-1"


# Sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        (4096, 4096),
        ("512M", 512 * MIB),
        ("512m", 512 * MIB),
        ("512MB", 512 * MIB),
        ("512MiB", 512 * MIB),
        ("512mib", 512 * MIB),
        ("100B", 100),
        ("3K", 3 * KIB),
        ("10GiB", 10 * GIB),
        ("1T", TIB),
        ("1.5G", 3 * GIB // 2),
        ("0.5k", 512),
        ("1.25 T", 5 * TIB // 4),
        (" 2 G ", 2 * GIB),
        ("1G\n", GIB),
        ("123456789T", 123456789 * TIB),
    ],
)
def test_sizes(text, size):
    assert parse_size(text, "memory") == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "G",
        "-1",
        "-1G",
        "+1G",
        "1e3",
        "1.G",
        ".5G",
        "1,5G",
        "1 000M",
        "1P",
        "1iB",
        "1GG",
        "0x10",
        "inf",
        "nan",
        "True",
        "1_000",
        "٣G",
        "1\u212a",
        "9" * 5000,
        "9" * 400 + ".5",
    ],
)
def test_what_is_not_a_size_is_refused_with_examples(text):
    with pytest.raises(InvalidOption) as caught:
        parse_size(text, "memory")
    assert str(caught.value).startswith("memory ")
    assert "512M" in caught.value.hint


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (MIB, "1 MiB"),
        (10 * GIB, "10 GiB"),
        (100 * GIB, "100 GiB"),
        (GIB + GIB // 3, "1.33 GiB"),
        (2 * TIB, "2 TiB"),
        (4096 * TIB, "4096 TiB"),
    ],
)
def test_sizes_for_people(size, text):
    assert format_size(size) == text


@pytest.mark.parametrize("text", ["64 MiB", "1.5 GiB", "10 TiB", "5 bytes"])
def test_a_shown_size_can_be_written_in_a_task(text):
    assert format_size(parse_size(text.replace(" bytes", ""), "disk")) == text


@pytest.mark.parametrize(
    ("arch", "normal"),
    [("amd64", "x86_64"), ("AMD64", "x86_64"), ("x64", "x86_64"), ("x86_64", "x86_64"), ("arm64", "aarch64")],
)
def test_architectures_have_one_name(arch, normal):
    assert normal_arch(arch) == normal


def test_an_architecture_without_a_second_name_stays():
    assert normal_arch("riscv64") == "riscv64"


# Ports


@pytest.mark.parametrize(
    ("text", "forward"),
    [
        ("80", ("127.0.0.1", 0, 80, "tcp")),
        (":80", ("127.0.0.1", 0, 80, "tcp")),
        ("80/tcp", ("127.0.0.1", 0, 80, "tcp")),
        ("53/udp", ("127.0.0.1", 0, 53, "udp")),
        ("8080:80", ("127.0.0.1", 8080, 80, "tcp")),
        ("0.0.0.0:8080:80", ("0.0.0.0", 8080, 80, "tcp")),
        ("192.0.2.7::80/udp", ("192.0.2.7", 0, 80, "udp")),
        ("[::1]:8080:80", ("::1", 8080, 80, "tcp")),
        ("[::]::80", ("::", 0, 80, "tcp")),
        ("[2001:DB8::0:1]:8080:80", ("2001:db8::1", 8080, 80, "tcp")),
        ("[::ffff:192.0.2.1]:1:2", ("::ffff:192.0.2.1", 1, 2, "tcp")),
        ("1:1", ("127.0.0.1", 1, 1, "tcp")),
        ("65535:65535", ("127.0.0.1", 65535, 65535, "tcp")),
        (" 8080:80\n", ("127.0.0.1", 8080, 80, "tcp")),
        (80, ("127.0.0.1", 0, 80, "tcp")),
    ],
)
def test_ports(text, forward):
    assert parse_port(text) == PortForward(*forward)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "0",
        "8080:0",
        "65536",
        "65536:80",
        "8080:65536",
        "-1",
        "8080:-1",
        "a:80",
        "80:a",
        "80/sctp",
        "80/",
        "80/TCP",
        "127.0.0.1:80",
        "127.0.0.1:8080:80:1",
        "localhost:8080:80",
        "256.0.0.1:8080:80",
        "999:8080:80",
        "...:8080:80",
        "127.1:8080:80",
        "::1:8080:80",
        "[::1:8080:80",
        "[:::]:8080:80",
        "[::1%eth0]:8080:80",
        "127.0.0.1,8080:80",
        "8080:80,hostfwd=tcp::1-:22",
        "80-90",
        "٣:80",
        "9" * 5000,
        "224.0.0.1:8080:80",
        "239.255.255.250:1900:1900/udp",
        "255.255.255.255:8080:80",
        "240.0.0.1:8080:80",
        "0.0.0.1:8080:80",
        "[ff02::1]:8080:80",
    ],
)
def test_what_is_not_a_port_is_refused_with_the_form(text):
    with pytest.raises(InvalidOption) as caught:
        parse_port(text)
    assert "[[host_ip:]host_port:]guest_port[/tcp|udp]" in caught.value.hint


@pytest.mark.parametrize(
    "forward",
    [
        PortForward("127.0.0.1", 0, 80),
        PortForward("0.0.0.0", 8080, 80, "udp"),
        PortForward("::1", 8080, 80),
        PortForward("fe80::1", 0, 65535, "udp"),
    ],
)
def test_the_text_of_a_port_leads_back_to_it(forward):
    assert parse_port(str(forward)) == forward


def test_a_port_left_to_choose_wants_any_host_port_and_nothing_else():
    wish = parse_port("80")
    assert wish.wants(parse_port("80"))
    assert wish.wants(parse_port("8080:80"))
    assert not wish.wants(parse_port("8080:81"))
    assert not wish.wants(parse_port("8080:80/udp"))
    assert not wish.wants(parse_port("0.0.0.0:8080:80"))


def test_a_given_host_port_wants_only_itself():
    wish = parse_port("8080:80")
    assert wish.wants(parse_port("8080:80"))
    assert not wish.wants(parse_port("8081:80"))
    assert not wish.wants(parse_port("80"))


# Records


def an_instance(**changes):
    values = {
        "name": "Web-1",
        "uuid": "0b9f7f4e-6c1e-4d0c-9a57-0d8b8f9f3a10",
        "scope": "qemu",
        "driver": "qemu",
        "created": "2026-01-02T03:04:05Z",
        "arch": "x86_64",
        "cpus": 2,
        "memory": 2 * GIB,
        "disk": 10 * GIB,
    }
    return Instance(**{**values, **changes})


FULL = {
    "owner": "qemu",
    "phase": "ready",
    "user": "debian",
    "autostart": True,
    "ssh_port": 40022,
    "booted": True,
    "ready": True,
    "image": {"name": "lts", "hash": "ab" * 32, "path": "/d/vault/x/disk.qcow2", "os": "debian"},
    "tags": {"role": "web", "größe": 3, "nested": {"a": [1, None, True]}},
    "ports": [PortForward("127.0.0.1", 8080, 80), PortForward("::1", 0, 53, "udp")],
    "nics": [Nic("user", "52:54:00:00:00:01"), Nic("lan", "52:54:00:00:00:02", "manual", "10.0.0.5")],
    "host_keys": ["ssh-ed25519 AAAA"],
    "origin": {"cloud_init": "f" * 64},
    "cloud_init": {"status": "done", "errors": []},
}


@pytest.mark.parametrize("values", [{}, FULL], ids=["least", "full"])
def test_an_instance_comes_back_from_its_record(values):
    instance = an_instance(**values)
    assert Instance.from_dict(json.loads(json.dumps(instance.to_dict()))) == instance


def test_reading_a_record_leaves_the_data_alone():
    data = an_instance(**FULL).to_dict()
    before = json.dumps(data)
    Instance.from_dict(data)
    assert json.dumps(data) == before


@pytest.mark.parametrize("missing", ["name", "uuid", "cpus", "ports", "nics"])
def test_a_record_that_lacks_something_is_not_an_instance(missing):
    data = an_instance(**FULL).to_dict()
    del data[missing]
    with pytest.raises(ValueError, match=f"{missing} is missing"):
        Instance.from_dict(data)


@pytest.mark.parametrize(
    "change",
    [{"ports": ["http"]}, {"ports": None}, {"nics": [{"network": "user"}]}, {"nics": [None]}],
    ids=str,
)
def test_a_record_with_something_strange_is_not_an_instance(change):
    with pytest.raises(ValueError, match=r" is (missing|not a list of )"):
        Instance.from_dict({**an_instance(**FULL).to_dict(), **change})


def test_instances_do_not_share_what_they_hold():
    one, other = an_instance(), an_instance()
    one.tags["a"] = 1
    one.ports.append(parse_port("80"))
    assert (other.tags, other.ports) == ({}, [])


def test_the_alias_tells_scopes_apart_and_not_case():
    assert an_instance().alias == an_instance(name="wEB-1").alias
    assert an_instance().alias != an_instance(scope="lxd").alias
    assert an_instance().alias != an_instance(name="web-2").alias


def test_an_image_becomes_plain_data():
    image = Image("lts", "ab" * 32, "/d/disk.qcow2", "qcow2", 5, 9, "x86_64", os="debian")
    assert Image(**json.loads(json.dumps(image.to_dict()))) == image


class Tagged(int):
    """A number as Ansible hands it to an action plugin: of a class that derives from int."""


def test_numbers_of_ansible_are_numbers_in_records():
    good = [0, 2, Tagged(2)]
    assert [value for value in good if not (NUMBER.holds(value) and SECONDS.holds(value))] == []
    assert [value for value in (True, "2", -1, 1 << 63, None) if NUMBER.holds(value) or SECONDS.holds(value)] == []
