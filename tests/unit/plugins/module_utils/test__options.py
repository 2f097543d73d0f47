# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import datetime
import importlib
import pathlib
import random
import typing as t

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._module import common_arguments
from ansible_collections.minicloud.local.plugins.module_utils._options import check_options, normal_options
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.images import parse_image_wish
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.networks import parse_network
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import parse_wish
from ansible_collections.minicloud.local.plugins.plugin_utils._arguments import as_module_gets

yaml = pytest.importorskip("yaml")

COLLECTION = pathlib.Path(__file__).parents[4]
MODULES = sorted(path.stem for path in (COLLECTION / "plugins/modules").glob("[a-z]*.py"))


def spec_of(module: str) -> dict[str, t.Any]:
    arguments = importlib.import_module(f"ansible_collections.minicloud.local.plugins.modules.{module}").ARGUMENTS
    return {**common_arguments(), **arguments}


def checked(text: str, module: str = "instance") -> dict[str, t.Any]:
    """The options of a task, written as YAML, as the body of the module gets them."""
    spec = spec_of(module)
    given = normal_options(as_module_gets(yaml.safe_load(text)))
    check_options(given, spec)
    validator = ArgumentSpecValidator(spec).validate(given)
    assert validator.error_messages == []
    return dict(validator.validated_parameters)


@pytest.mark.parametrize(
    ("text", "module", "words"),
    [
        ("{name: a, ports: [22:22]}", "instance", ["ports has the number 1342", "22:22", '"22:22", or "1342"']),
        ("{name: a, ports: [53:53]}", "instance", ["YAML reads 53:53", '"53:53"', "in quotes"]),
        ("{name: a, ports: [2222:22]}", "instance", ['Put it in quotes: "2222:22".']),
        ("{name: a, ports: [1022:22]}", "instance", ['"1022:22", or "61342"']),
        ("{name: a, ports: [222:22]}", "instance", ['"222:22"']),
        ("{name: a, ports: 2222:22}", "instance", ['"2222:22"']),
        ("{name: a, ports: [1:2:3:4:5]}", "instance", ["which is no port"]),
        ("{name: a, ports: [80.5]}", "instance", ["80.5, which is no port"]),
        ("{name: a, ports: [-80]}", "instance", ["which is no port"]),
        ("{name: a, ports: [yes]}", "instance", ["ports is true", "in quotes"]),
        ("{name: a, networks: [{mac: 52:54:00:12:34:56}]}", "instance", ["networks: mac", '"52:54:00:12:34:56"']),
        ("{name: a, networks: [{mac: 525400123456}]}", "instance", ["networks: mac is the number 525400123456"]),
        ("{name: a, networks: [{address: 10.1}]}", "instance", ["networks: address is the number 10.1"]),
        ("{name: a, networks: [on]}", "instance", ["networks: name is true"]),
        ("{name: a, image: 24.10}", "instance", ["image is the number 24.1", '"24.10" or "24.1"']),
        ("{name: a, image: 3.20}", "instance", ['"3.20" or "3.2"']),
        ("{name: a, image: 012345670}", "instance", ["image is the number 2739128", "in quotes"]),
        ("{name: a, image: [24.04]}", "instance", ["image is a list, and text is meant"]),
        ("{name: a, image: {{ x }: }}", "instance", ["image is a mapping", "template"]),
        ("{name: 24.10}", "image", ['"24.10" or "24.1"']),
        ("{instance: a, name: 1.10}", "snapshot", ["name is the number 1.1, and a name is meant", '"1.10" or "1.1"']),
        ("{query: 24.10}", "image_info", ['"24.10" or "24.1"']),
        ("{name: no}", "instance", ["name is false", "yes, no, on, off"]),
        ("{name: a, user: 0644}", "instance", ["user is the number 420", "in quotes"]),
        ("{name: a, user: on}", "instance", ["user is true"]),
        ("{name: a, memory: off}", "instance", ["memory is false"]),
        ("{name: a, memory: 1.0e+20}", "instance", ["memory is the number"]),
        ("{name: a, memory: .inf}", "instance", ["memory is the number inf"]),
        ("{name: a, disk: -.inf}", "instance", ["disk is the number"]),
        ("{name: a, cpus: yes}", "instance", ["cpus is true, and a number is meant"]),
        ("{name: a, timeout: on}", "instance", ["timeout is true"]),
        ("{name: a, ssh_authorized_keys: [5]}", "instance", ["ssh_authorized_keys is the number 5"]),
        ("{name: a, arch: 86}", "instance", ["arch is the number 86"]),
        ("{name: a, data_dir: 5}", "instance", ["data_dir is the number 5"]),
        ("{name: a, domain: no}", "network", ["domain is false"]),
        ("{name: a, subnet: 10.0}", "network", ["subnet is the number 10.0"]),
        ("{name: a, mtu: on}", "network", ["mtu is true"]),
        ('{name: "a\\0"}', "instance", ["name has a NUL character"]),
        ('{name: a, tags: {a: ["x\\0"]}}', "instance", ["tags has a NUL character"]),
        ('{name: a, cloud_init: "#!/bin/sh\\n\\0"}', "instance", ["cloud_init has a NUL character"]),
        ('{name: a, driver_options: {uri: "qemu:///\\0"}}', "instance", ["driver_options has a NUL character"]),
        ('{name: a, cloud_init: "\\ufeff#cloud-config"}', "instance", ["cloud_init begins with a byte order mark"]),
        ('{name: a, ssh_authorized_keys: ["\\ufeffssh-rsa"]}', "instance", ["byte order mark", "without BOM"]),
        ('{name: a, image: "\\ufeff24.04"}', "instance", ["image begins with a byte order mark"]),
        ('{name: a, arch: " "}', "instance", ["arch is nothing but blanks"]),
        ('{name: a, image_checksum: "\\t"}', "instance", ["image_checksum is nothing but blanks"]),
        ('{name: a, ports: ["80", "\\n"]}', "instance", ["ports is nothing but blanks"]),
        ('{name: a, networks: [{name: " "}]}', "instance", ["networks: name is nothing but blanks"]),
        ('{name: a, domain: "\\u00a0"}', "network", ["domain is nothing but blanks"]),
        ('{name: a, alias: "  "}', "image", ["alias is nothing but blanks"]),
    ],
    ids=str,
)
def test_what_yaml_made_of_text_is_refused_with_what_was_meant(text, module, words):
    if "{{ x }" in text:
        given = {"name": "a", "image": {"x": None}}
        with pytest.raises(InvalidOption) as caught:
            check_options(given, spec_of(module))
    else:
        with pytest.raises(InvalidOption) as caught:
            checked(text, module)
    assert [word for word in words if word not in str(caught.value)] == []
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "module", "option", "value"),
    [
        ("{name: a, ports: [80, 443, 8080, 22, 53, 6443, 65535]}", "instance", "ports",
         ["80", "443", "8080", "22", "53", "6443", "65535"]),
        ("{name: a, ports: 80}", "instance", "ports", ["80"]),
        ("{name: a, ports: [8080:80, 127.0.0.1:53:53/udp]}", "instance", "ports", ["8080:80", "127.0.0.1:53:53/udp"]),
        ("{name: a, image: 24.04}", "instance", "image", "24.04"),
        ("{name: a, image: 12}", "instance", "image", "12"),
        ("{name: a, memory: 1073741824}", "instance", "memory", "1073741824"),
        ("{name: a, memory: 1.5}", "instance", "memory", "1.5"),
        ("{name: a, cpus: '2', timeout: 5}", "instance", "cpus", 2),
        ("{name: a, networks: [{mac: 02:54:00:12:34:5e}]}", "instance", "networks",
         [{"mac": "02:54:00:12:34:5e", "name": None, "bridged": None, "address": None, "mode": "auto"}]),
        ("{name: a, networks: [default, {name: lan}]}", "instance", "networks",
         [{"name": "default", "mac": None, "bridged": None, "address": None, "mode": "auto"},
          {"name": "lan", "mac": None, "bridged": None, "address": None, "mode": "auto"}]),
        ("{name: a, networks: null}", "instance", "networks", None),
        ("{name: a, tags: {number: 5, flag: no}}", "instance", "tags", {"number": 5, "flag": False}),
        ("{name: a, tags: {on: 2026-12-31, 5: x}}", "instance", "tags", {"true": "2026-12-31", "5": "x"}),
        ('{name: a, cloud_init: {write_files: [{content: "\\0\\ufeff"}]}}', "instance", "cloud_init",
         {"write_files": [{"content": "\0\ufeff"}]}),
        ('{instance: a, name: b, comment: " "}', "snapshot", "comment", " "),
        ("{state: absent, prune_older_than: 3600}", "image", "prune_older_than", "3600"),
    ],
    ids=str,
)  # fmt: skip
def test_what_reads_as_it_was_written_is_taken(text, module, option, value):
    assert checked(text, module)[option] == value


@pytest.mark.parametrize(
    ("networks", "names"), [('[""]', []), ('["", lab]', ["lab"]), ("[lab, {name: lan}]", ["lab", "lan"])]
)
def test_a_name_of_nothing_is_no_entry(networks, names):
    assert [entry["name"] for entry in checked(f"{{name: a, networks: {networks}}}")["networks"]] == names


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (512, "did you mean 512M?"),
        ("512", "did you mean 512M?"),
        (2, "did you mean 2G?"),
        ("1.5", "did you mean 1.5G?"),
        ("63M", "The least is 64M."),
        (0, "The least is 64M."),
    ],
)
def test_so_few_bytes_are_told_with_their_likely_unit(value, hint):
    params = checked(yaml.safe_dump({"name": "a", "memory": value}))
    with pytest.raises(InvalidOption, match="too small") as caught:
        parse_wish(params)
    assert caught.value.hint.endswith(hint)


def test_values_of_templates_are_treated_alike():
    """Ansible's templates give values of any type."""
    with pytest.raises(InvalidOption, match=r"24.1, and a name is meant"):
        check_options({"image": 24.1}, spec_of("instance"))
    with pytest.raises(InvalidOption, match="has a character in it that is none"):
        check_options({"tags": {"a": "\ud800"}}, spec_of("instance"))
    loop: list[t.Any] = []
    loop.append(loop)
    with pytest.raises(InvalidOption, match="more than 100 levels deep"):
        check_options({"cloud_init": {"a": loop}}, spec_of("instance"))
    assert as_module_gets({1: datetime.date(2026, 1, 2), None: {True: (1, 2)}}) == {
        "1": "2026-01-02",
        "null": {"true": [1, 2]},
    }


VALUES: list[t.Any] = [
    *(0, 1, -1, 59, 60, 80, 1342, 133342, 65536, 10**40, 1.0, 24.04, 24.1, 1e300, float("nan"), float("inf")),
    *("", " ", "a", "24.04", "\0", "\ufeff", "\ud800", "x" * 10_000, "\n", "no", "-", "../..", "/", "~", "0", "-1"),
    *("https://[::1", "file://[", "a:b:c", "[::1]:80:80", "224.0.0.1:80:80", "255.255.255.255::80", "80/sctp"),
    *("٣", "1" * 5000, "0x10", "1.5.5", "10GiB", "9" * 18 + "T", "52:54:00:12:34:56", "ff:ff:ff:ff:ff:ff", "1e9"),
    *("sha256:", "sha256:https://[", "sha512:" + "0" * 128, "#cloud-config\n[", "#!/bin/sh", "mime-version: 1.0"),
    *([], {}, [[]], [{}], {"": ""}, {"a": 1}, [None], None, {"name": "a", "mac": 5}, {"bridged": "x" * 20}, True),
    *("::/0", "10.0.0.0/33", "fd00::/64", "10.0.0.9-10.0.0.1", "a.b", "%", "qemu", "auto", "default", "user", "inf"),
    *({"a": {"b": []}}, "absent", "é", False, "10.0.0.1", "14d", "{", "nan", "1" * 400),
]


@pytest.mark.parametrize(
    ("module", "parse"), [("instance", parse_wish), ("image", parse_image_wish), ("network", parse_network)]
)
def test_nothing_but_a_refusal_comes_of_any_options(module, parse):
    spec = spec_of(module)
    source = random.Random(3)
    taken = 0
    for dummy in range(15_000):
        given: dict[str, t.Any] = {"name": "a1" if module != "image" else "24.04"}
        for option in source.sample(sorted(spec), source.randrange(1, 5)):
            value = source.choice(VALUES)
            if spec[option].get("type") == "list" and source.random() < 0.7:
                value = source.choices(VALUES, k=source.randrange(3))
            if option == "networks" and source.random() < 0.7:
                value = [{source.choice(("name", "mac", "address", "bridged", "mode")): source.choice(VALUES)}]
            given[option] = value
        given = normal_options(given)
        try:
            check_options(given, spec)
            validated = ArgumentSpecValidator(spec).validate(given)
            if validated.error_messages:
                continue
            parse(dict(validated.validated_parameters))
            taken += 1
        except InvalidOption as exc:
            assert str(exc)
    assert taken > 500


# Documentation


def _tasks(node: t.Any) -> t.Iterator[tuple[str, dict[str, t.Any]]]:
    if isinstance(node, dict):
        for key, value in node.items():
            name = str(key).removeprefix("minicloud.local.")
            if name in MODULES and key != name and isinstance(value, dict):
                yield name, value
            yield from _tasks(value)
    elif isinstance(node, list):
        for each in node:
            yield from _tasks(each)


def _written() -> t.Iterator[tuple[str, str]]:
    """Every YAML that users may copy: examples of the modules, playbooks, roles, and blocks of the guides."""
    for module in MODULES:
        code = importlib.import_module(f"ansible_collections.minicloud.local.plugins.modules.{module}")
        yield f"{module} EXAMPLES", code.EXAMPLES
    for folder in ("playbooks", "roles", "docs", "tests/integration/targets"):
        for path in sorted((COLLECTION / folder).rglob("*.yml")):
            yield str(path), path.read_text(encoding="utf-8")
    for path in sorted([*(COLLECTION / "docs").rglob("*.rst"), COLLECTION / "README.md"]):
        block: list[str] = []
        for line in [*path.read_text(encoding="utf-8").splitlines(), "end"]:
            if line.startswith("   ") or (block and not line.strip()):
                block.append(line)
            elif block:
                yield str(path), "\n".join(each[3:] for each in block)
                block = []


def test_every_example_is_read_as_it_is_written():
    seen = 0
    for where, text in _written():
        try:
            documents = list(yaml.safe_load_all(text))
        except yaml.YAMLError:
            continue
        for module, options in _tasks(documents):
            seen += 1
            try:
                check_options(normal_options(options), spec_of(module))
            except InvalidOption as exc:
                pytest.fail(f"{where}: {exc}")
            if "integration" not in where:
                assert all(isinstance(port, str) for port in options.get("ports", ())), where
                assert isinstance(options.get("image", ""), str), where
    assert seen > 60
