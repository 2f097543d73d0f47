# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import io
import json
import platform
import re
import types

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import machine as qemu_machine
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.machine import (
    ARCHITECTURES,
    Accelerator,
    choose_accelerator,
    command_line,
    emulator,
    firmware,
)
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption, MissingRequirement
from ansible_collections.minicloud.local.plugins.module_utils._host import host as host_module
from ansible_collections.minicloud.local.plugins.module_utils._host.host import this_host
from ansible_collections.minicloud.local.plugins.module_utils._model import GIB, Instance, Nic, parse_port

FDS = {"base": 10, "disk": 11, "seed": 12, "console": 13}
MONITOR = 14


def an_instance(**changes):
    values = {
        "name": "web",
        "uuid": "0b9f7f4e-6c1e-4d0c-9a57-0d8b8f9f3a10",
        "scope": "qemu",
        "driver": "qemu",
        "created": "",
        "arch": "x86_64",
        "cpus": 3,
        "memory": 2 * GIB,
        "disk": 5 * GIB,
        "ssh_port": 40022,
        "image": {"name": "lts", "path": "/d/vault/x/disk.qcow2"},
        "nics": [Nic("user", "52:54:00:aa:bb:cc")],
    }
    return Instance(**{**values, **changes})


def argv(accelerator="tcg", **changes):
    return command_line(an_instance(**changes), Accelerator(accelerator), FDS, MONITOR)


def values(line, option):
    return [line[number + 1] for number, word in enumerate(line) if word == option]


def value(line, option):
    (found,) = values(line, option)
    return found


class Host:
    """What the choice of an accelerator looks at."""

    def __init__(self, monkeypatch):
        self.patch = monkeypatch
        self.system("Linux", "x86_64")
        self.kvm(0o660, group=36)
        self.cpu("vmx")

    def system(self, name, machine):
        self.patch.setattr(platform, "system", lambda: name)
        self.patch.setattr(platform, "machine", lambda: machine)

    def kvm(self, mode, owner=0, group=0):
        def stat(path):
            assert path == "/dev/kvm"
            if mode is None:
                raise FileNotFoundError(path)
            return types.SimpleNamespace(st_mode=0o020000 | mode, st_uid=owner, st_gid=group)

        self.patch.setattr(host_module.os, "stat", stat)

    def cpu(self, flag):
        text = f"processor : 0\nflags\t\t: fpu {flag} sse\nbugs : none\n" if flag is not None else None

        def opened(path, **kwargs):
            assert path == "/proc/cpuinfo"
            if text is None:
                raise FileNotFoundError(path)
            return io.StringIO(text)

        self.patch.setattr(host_module, "open", opened, raising=False)


@pytest.fixture
def host(monkeypatch):
    return Host(monkeypatch)


class TestAccelerator:
    @pytest.mark.parametrize("flag", ["vmx", "svm"])
    @pytest.mark.parametrize("wanted", ["auto", "kvm"])
    def test_kvm_where_it_works(self, host, wanted, flag):
        host.cpu(flag)
        assert choose_accelerator(this_host(), wanted, "x86_64", 1000, (36,)) == Accelerator("kvm")

    def test_emulation_can_always_be_had(self, host):
        host.kvm(None)
        assert choose_accelerator(this_host(), "tcg", "x86_64", 0, ()) == Accelerator("tcg", "")

    @pytest.mark.parametrize(
        ("break_it", "words"),
        [
            (lambda host: host.kvm(None), "no /dev/kvm"),
            (lambda host: host.cpu(""), "neither vmx nor svm"),
            (lambda host: host.cpu("hypervisor vmx_flags_of_others"), "neither vmx nor svm"),
            (lambda host: host.cpu(None), "neither vmx nor svm"),
            (lambda host: host.kvm(0o600), "may not open /dev/kvm"),
            (lambda host: host.kvm(0o660, group=99), "may not open /dev/kvm"),
            (lambda host: host.kvm(0o640, group=36), "may not open /dev/kvm"),
            (lambda host: host.kvm(0o606, group=36), "may not open /dev/kvm"),
            (lambda host: host.kvm(0o066, owner=1000), "may not open /dev/kvm"),
            (lambda host: host.system("Linux", "aarch64"), "the instance is x86_64 and this host is aarch64"),
        ],
    )
    def test_where_it_does_not_the_reason_is_given(self, host, break_it, words):
        break_it(host)
        chosen = choose_accelerator(this_host(), "auto", "x86_64", 1000, (36,))
        assert chosen.name == "tcg"
        assert words in chosen.reason
        with pytest.raises(MissingRequirement) as caught:
            choose_accelerator(this_host(), "kvm", "x86_64", 1000, (36,))
        assert words in str(caught.value)
        assert "Use auto or tcg." in str(caught.value)

    @pytest.mark.parametrize(
        ("mode", "owner", "group"), [(0o666, 0, 0), (0o600, 1000, 0), (0o660, 0, 36), (0o060, 0, 36)]
    )
    def test_whoever_may_open_it_may(self, host, mode, owner, group):
        host.kvm(mode, owner, group)
        assert choose_accelerator(this_host(), "auto", "x86_64", 1000, (36,)).name == "kvm"

    def test_root_may_open_anything(self, host):
        host.kvm(0o000)
        assert choose_accelerator(this_host(), "auto", "x86_64", 0, ()).name == "kvm"

    def test_arm_has_no_flags_to_look_for(self, host):
        host.system("Linux", "aarch64")
        host.cpu("")
        assert choose_accelerator(this_host(), "auto", "aarch64", 1000, (36,)).name == "kvm"

    def test_a_mac_has_another_one(self, host):
        host.system("Darwin", "arm64")
        host.kvm(None)
        assert choose_accelerator(this_host(), "auto", "aarch64", 501, ()) == Accelerator("hvf")
        assert choose_accelerator(this_host(), "auto", "x86_64", 501, ()).name == "tcg"
        with pytest.raises(MissingRequirement, match="kvm does not exist on macOS"):
            choose_accelerator(this_host(), "kvm", "aarch64", 501, ())

    def test_that_of_a_mac_is_only_there(self, host):
        with pytest.raises(MissingRequirement, match="hvf does not exist on Linux"):
            choose_accelerator(this_host(), "hvf", "x86_64", 1000, (36,))


def drives_of(line):
    """The block nodes of a command line, by name."""
    return {re.search(r"""node-name(?:=|": ")([\w-]+)""", word)[1]: word for word in values(line, "-blockdev")}


class TestCommandLine:
    def test_the_sandbox_is_on_and_nothing_else_is_brought(self):
        line = argv()
        assert value(line, "-sandbox").split(",")[0] == "on"
        for part in ("obsolete", "elevateprivileges", "spawn", "resourcecontrol"):
            assert f"{part}=deny" in value(line, "-sandbox")
        assert "-nodefaults" in line
        assert "-no-user-config" in line
        assert value(line, "-display") == "none"

    def test_no_path_of_the_data_directory(self):
        line = argv(name="web", image={"name": "lts", "path": "/secret/vault/disk.qcow2"})
        assert [word for word in line if "secret" in word or "vault" in word] == []
        paths = set(re.findall(r"(?<![\w/])/[\w/]+", " ".join(line)))
        assert {path for path in paths if not path.startswith(("/dev/fdset/", "/dev/urandom"))} == set()

    def test_every_handle_is_in_a_set_of_its_own_and_used(self):
        line = argv()
        sets = dict(re.fullmatch(r"fd=(\d+),set=(\d+),opaque=\w+", word).groups() for word in values(line, "-add-fd"))
        assert set(sets) == {str(fd) for fd in FDS.values()}
        assert len(set(sets.values())) == len(FDS)
        used = re.findall(r"/dev/fdset/(\d+)", " ".join(line))
        assert sorted(used) == sorted(sets.values())
        assert f"fd={MONITOR}" in " ".join(values(line, "-chardev"))

    def test_only_the_disk_can_be_written(self):
        drives = drives_of(argv())
        assert set(drives) == {"base", "base-file", "disk", "disk-file", "seed", "seed-file"}
        writable = [name for name, word in drives.items() if not re.search(r'read-only(=on|": true)', word)]
        assert writable == ["disk-file", "disk"]
        assert "backing=base" in drives["disk"]
        assert json.loads(drives["base"])["backing"] is None

    def test_the_machine(self):
        line = argv(cpus=3, memory=2 * GIB)
        assert value(line, "-smp") == "3"
        assert value(line, "-m") == "2048M"
        assert value(line, "-uuid") == an_instance().uuid
        assert "mac=52:54:00:aa:bb:cc" in " ".join(values(line, "-device"))

    def test_memory_is_never_nothing(self):
        assert value(argv(memory=5), "-m") == "1M"

    @pytest.mark.parametrize(("accelerator", "cpu"), [("kvm", "host"), ("hvf", "host")])
    def test_a_native_accelerator_has_the_hosts_processor(self, accelerator, cpu):
        line = argv(accelerator)
        assert value(line, "-accel").split(",")[0] == accelerator
        assert value(line, "-cpu") == cpu

    def test_emulation_has_a_processor_of_its_own(self):
        line = argv("tcg")
        assert value(line, "-accel").split(",")[0] == "tcg"
        assert value(line, "-cpu") != "host"

    def test_forwards(self):
        ports = [parse_port("8080:80"), parse_port("0.0.0.0:5353:53/udp")]
        assert value(argv(ports=ports), "-netdev").split(",") == [
            "user",
            "id=net0",
            "hostfwd=tcp:127.0.0.1:40022-:22",
            "hostfwd=tcp:127.0.0.1:8080-:80",
            "hostfwd=udp:0.0.0.0:5353-:53",
        ]

    def test_ssh_is_for_this_host_only(self):
        assert "hostfwd=tcp:127.0.0.1:40022-:22" in value(argv(), "-netdev")

    def test_every_option_that_takes_a_value_has_one(self):
        line = argv(ports=[parse_port("8080:80")])
        position = 0
        while position < len(line):
            assert line[position].startswith("-")
            alone = line[position] in ("-nodefaults", "-no-user-config")
            position += 1 if alone else 2
        assert not line[-1].startswith("-") or line[-1] in ("-nodefaults", "-no-user-config")

    @pytest.mark.parametrize(("arch", "machine"), [("x86_64", "q35"), ("aarch64", "virt")])
    def test_a_uefi_machine_has_its_firmware(self, arch, machine):
        fds = {**FDS, "code": 15, "nvram": 16}
        line = command_line(an_instance(arch=arch), Accelerator("tcg"), fds, MONITOR)
        assert value(line, "-machine") == f"{machine},memory-backend=memory,pflash0=code,pflash1=nvram"
        drives = drives_of(line)
        writable = [name for name, word in drives.items() if not re.search(r'read-only(=on|": true)', word)]
        assert writable == ["disk-file", "disk", "nvram-file", "nvram"]
        assert drives["code"].startswith("driver=raw,file=code-file,")
        assert "filename=/dev/fdset/5," in drives["code-file"]
        assert "filename=/dev/fdset/6," in drives["nvram-file"]
        assert len(values(line, "-add-fd")) == 6

    def test_another_one_has_none(self):
        assert value(argv(), "-machine") == "q35,memory-backend=memory"
        assert "pflash" not in " ".join(argv())


class TestRequirements:
    @pytest.mark.parametrize("arch", list(ARCHITECTURES))
    def test_a_missing_qemu_names_the_package(self, monkeypatch, arch):
        monkeypatch.setattr(qemu_machine, "find_program", lambda name: None)
        with pytest.raises(MissingRequirement) as caught:
            emulator(arch)
        assert ARCHITECTURES[arch].package in str(caught.value)
        assert caught.value.facts == {"missing_program": f"qemu-system-{arch}"}

    def test_qemu_is_found_by_its_name(self, monkeypatch):
        monkeypatch.setattr(qemu_machine, "find_program", lambda name: f"/found/{name}")
        assert emulator("x86_64") == "/found/qemu-system-x86_64"

    def test_an_architecture_that_is_not_supported_is_refused_with_those_that_are(self):
        with pytest.raises(InvalidOption) as caught:
            emulator("sparc64")
        assert "'sparc64'" in str(caught.value)
        assert "aarch64" in caught.value.hint

    def test_the_first_firmware_that_is_there(self, monkeypatch):
        candidates = ARCHITECTURES["aarch64"].firmware
        there = {path for pair in candidates[1:] for path in pair}
        monkeypatch.setattr(qemu_machine.os.path, "exists", lambda path: path in there)
        assert firmware("aarch64", "") == candidates[1]
        assert firmware("x86_64", "") is None

    @pytest.mark.parametrize(
        ("arch", "wanted", "package"), [("aarch64", "", "qemu-efi-aarch64"), ("x86_64", "uefi", "ovmf")]
    )
    def test_missing_firmware_names_the_package(self, monkeypatch, arch, wanted, package):
        monkeypatch.setattr(qemu_machine.os.path, "exists", lambda path: False)
        with pytest.raises(MissingRequirement, match=f"UEFI firmware for {arch}") as caught:
            firmware(arch, wanted)
        assert f"Install the package {package} " in caught.value.hint

    def test_half_a_firmware_is_none(self, monkeypatch):
        code = ARCHITECTURES["x86_64"].firmware[0].code
        monkeypatch.setattr(qemu_machine.os.path, "exists", lambda path: path == code)
        with pytest.raises(MissingRequirement):
            firmware("x86_64", "uefi")


@pytest.mark.parametrize(
    ("told", "able"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)", True),
        ("QEMU emulator version 10.0.0", True),
        ("QEMU emulator version 7.1.0", False),
        ("QEMU emulator version 6.2.0 (qemu-6.2.0-1)", False),
        ("something else", True),
    ],
)
def test_which_qemu_has_interfaces_on_datagram_sockets(told, able):
    assert qemu_machine.has_datagrams(told) == able
