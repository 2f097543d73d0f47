# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.definition import (
    Bridge,
    Parts,
    domain_xml,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.domain import (
    QEMU_NAMESPACE,
    drift,
    parse_domain,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import machine as qemu_machine
from ansible_collections.minicloud.local.plugins.module_utils._model import GIB, Instance, Nic, parse_port

MAC, OTHER_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02"
OWNER = {"name": "web", "scope": "qemu", "data_dir": "/data & <more>"}
FILES = {"base": "/v/base.qcow2", "disk": "/d/disk.qcow2", "seed": "/d/seed.iso", "console": "/d/console.log"}


def an_instance(**changes):
    values = {
        "uuid": "0b9f7f4e-6c1e-4d0c-9a57-0d8b8f9f3a10",
        "scope": "qemu",
        "driver": "qemu",
        "created": "",
        "arch": "x86_64",
        "cpus": 3,
        "memory": 2 * GIB,
        "disk": 5 * GIB,
        "ssh_port": 40022,
        "nics": [Nic("user", MAC)],
    }
    return Instance("web", **{**values, **changes})


def parts(**changes):
    return Parts(**{"name": "web", "owner": OWNER, "accelerator": "tcg", "files": FILES, **changes})


def root_of(instance=None, **changes):
    return ElementTree.fromstring(domain_xml(instance or an_instance(), parts(**changes)))


def arguments(root):
    return [arg.get("value") for arg in root.iterfind(f"{{{QEMU_NAMESPACE}}}commandline/{{{QEMU_NAMESPACE}}}arg")]


def test_what_the_record_says():
    root = root_of()
    assert root.findtext("name") == "web"
    assert root.findtext("uuid") == an_instance().uuid
    assert (root.find("memory").get("unit"), root.findtext("memory")) == ("KiB", str(2 << 20))
    assert root.findtext("vcpu") == "3"
    assert root.find("os/type").get("machine") == "q35"
    assert root.find("clock").get("offset") == "utc"
    assert root.find("devices/memballoon").get("model") == "none"
    assert root.find("devices/serial/log").attrib == {"file": "/d/console.log", "append": "on"}
    assert root.find("devices/serial").get("type") == "pty"


@pytest.mark.parametrize(
    ("accelerator", "kind", "mode"), [("tcg", "qemu", "maximum"), ("kvm", "kvm", "host-passthrough")]
)
def test_the_accelerator(accelerator, kind, mode):
    root = root_of(accelerator=accelerator)
    assert (root.get("type"), root.find("cpu").get("mode")) == (kind, mode)
    assert (root.find("features/tcg") is not None) == (accelerator == "tcg")


def test_files_are_handed_over_open_with_the_whole_chain():
    disk, seed = root_of().findall("devices/disk")
    assert disk.find("source").attrib == {"file": "/d/disk.qcow2", "fdgroup": "disk"}
    assert disk.find("backingStore/source").attrib == {"file": "/v/base.qcow2", "fdgroup": "base"}
    assert disk.find("backingStore/backingStore") is not None
    assert disk.find("readonly") is None
    assert seed.find("source").attrib == {"file": "/d/seed.iso", "fdgroup": "seed"}
    assert seed.find("readonly") is not None
    closed = root_of(open_files=False)
    assert [source.get("fdgroup") for source in closed.iter("source") if source.get("file")] == [None] * 3


def test_the_guest_sees_its_devices_where_qemu_alone_puts_them():
    nics = [Nic("default", MAC), Nic("user", OTHER_MAC)]
    root = root_of(an_instance(nics=nics), bridges={MAC: Bridge("mcb1", "mct1")})
    found = [int(device.get("slot"), 0) for device in root.iterfind("devices/*/address")]
    # (The ports for folders come last.)
    assert sorted(found) == [1, 2, 3, 5, 6, 7, 8, 9]
    assert "addr=0x4" in arguments(root)[3]
    argv = qemu_machine.command_line(
        an_instance(nics=nics), qemu_machine.Accelerator("tcg"), dict.fromkeys(FILES, 9), 8, backends={MAC: "tap,fd=7"}
    )
    devices = [argv[at + 1].split(",")[0] for at, word in enumerate(argv) if word == "-device"]
    assert devices[:5] == ["virtio-blk-pci"] * 2 + ["virtio-net-pci"] * 2 + ["virtio-rng-pci"]
    assert set(devices[5:]) == {"pcie-root-port"}


def test_the_network_of_qemu_forwards_ports_to_the_first_interface():
    ports = [parse_port("8080:80"), parse_port("0.0.0.0:53:53/udp")]
    argv = arguments(root_of(an_instance(ports=ports, nics=[Nic("user", MAC), Nic("user", OTHER_MAC)])))
    assert argv[0::2] == ["-netdev", "-device"] * 2
    rules = "hostfwd=tcp:127.0.0.1:40022-:22,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:0.0.0.0:53-:53"
    assert argv[1] == f"user,id=usernet0,{rules}"
    assert argv[5] == "user,id=usernet1"
    assert f"mac={OTHER_MAC}" in argv[7]


def test_no_rule_without_a_port():
    assert arguments(root_of(an_instance(ssh_port=0)))[1] == "user,id=usernet0"


def test_a_network_of_the_host():
    root = root_of(an_instance(nics=[Nic("lan", MAC)]), bridges={MAC: Bridge("mcb1", "mct1", 9000)})
    interface = root.find("devices/interface")
    assert interface.get("type") == "bridge"
    assert interface.find("source").get("bridge") == "mcb1"
    assert interface.find("target").get("dev") == "mct1"
    assert interface.find("mtu").get("size") == "9000"
    assert arguments(root) == []


def test_uefi():
    assert root_of().find("os/loader") is None
    root = root_of(code="/code.fd", nvram="/d/nvram.fd")
    assert root.findtext("os/loader") == "/code.fd"
    assert root.find("os/nvram").get("template") == "/d/nvram.fd"
    assert not root.findtext("os/nvram")
    assert root_of(code="/code.fd", nvram="/d/nvram.fd", own_nvram=True).findtext("os/nvram") == "/d/nvram.fd"


class TestDrift:
    def told(self, change=lambda root: None, instance=None):
        """A domain as libvirt tells it after somebody's change."""
        root = root_of(instance)
        change(root)
        return parse_domain(ElementTree.tostring(root, encoding="unicode"))

    def test_what_we_have_defined_is_as_we_have_defined_it(self):
        domain = self.told()
        assert domain.owner == OWNER
        assert domain.shape == domain.defined
        assert domain.shape == (2 * GIB, 3, ("/d/disk.qcow2", "/d/seed.iso"), (MAC,))
        assert drift(domain, an_instance()) == ()

    def test_a_record_that_has_changed_since_is_no_drift(self):
        assert drift(self.told(), an_instance(cpus=4, memory=GIB)) == ()

    @pytest.mark.parametrize("name", ["web", "web-0b9f7f4e"])
    def test_either_name_will_do(self, name):
        assert drift(self.told(lambda root: setattr(root.find("name"), "text", name)), an_instance()) == ()

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda root: setattr(root.find("name"), "text", "db"), "its name in libvirt is db"),
            (lambda root: setattr(root.find("currentMemory"), "text", "1048576"), "is 1 GiB, not 2 GiB"),
            (lambda root: setattr(root.find("vcpu"), "text", "1"), "its cpus in libvirt are 1, not 3"),
            (lambda root: root.find("vcpu").set("current", "2"), "its cpus in libvirt are 2, not 3"),
            (
                lambda root: root.find("devices/disk/source").set("file", "/other"),
                "its disks in libvirt are /other, /d/seed.iso, not /d/disk.qcow2, /d/seed.iso",
            ),
            (lambda root: root.find("devices").remove(root.find("devices/disk")), "its disks in libvirt are /d/seed"),
            (
                lambda root: ElementTree.SubElement(
                    ElementTree.SubElement(root.find("devices"), "interface"), "mac", {"address": OTHER_MAC}
                ),
                f"its network interfaces in libvirt are {OTHER_MAC}, {MAC}, not {MAC}",
            ),
        ],
    )
    def test_what_somebody_has_changed(self, change, words):
        (told,) = drift(self.told(change), an_instance())
        assert words in told
        assert told.endswith(": somebody has changed its domain")

    def test_a_domain_without_our_metadata_is_nobodys(self):
        domain = self.told(lambda root: root.remove(root.find("metadata")))
        assert (domain.owner, domain.defined) == ({}, None)
