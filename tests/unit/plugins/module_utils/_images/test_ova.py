# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import io
import os
import tarfile

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._errors import MinicloudError, NotSupported
from ansible_collections.minicloud.local.plugins.module_utils._images import ova
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import Vault
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

from . import foreign

MIB = 1 << 20
SIZE = 4 * MIB

ITEM = """<Item><rasd:AllocationUnits>{units}</rasd:AllocationUnits><rasd:ResourceType>{kind}</rasd:ResourceType>
<rasd:VirtualQuantity>{quantity}</rasd:VirtualQuantity><rasd:HostResource>{host}</rasd:HostResource></Item>"""
OVF = """<?xml version="1.0"?>{doctype}
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vmw="http://www.vmware.com/schema/ovf">
<References><File ovf:id="file1" ovf:href="{href}" {file}/></References>
<DiskSection><Disk ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:capacity="{capacity}"
 ovf:capacityAllocationUnits="{units}"/>{disks}</DiskSection>
<VirtualSystem ovf:id="vm"><Name>{name}</Name><VirtualHardwareSection>
{items}<vmw:Config ovf:key="firmware" vmw:value="{firmware}"/></VirtualHardwareSection></VirtualSystem>{more}
</Envelope>"""


def ovf(**changes):
    """The description of a machine with 2 processors, 256 MiB and a disk of 4 MiB."""
    item = ITEM.format
    values = {
        "doctype": "",
        "href": "vm-disk1.vmdk",
        "file": "",
        "capacity": "4",
        "units": "byte * 2^20",
        "disks": "",
        "name": "My VM",
        "firmware": "bios",
        "more": "",
        "items": item(kind=3, quantity=2, units="", host="")
        + item(kind=4, quantity=256, units="MegaBytes", host="")
        + item(kind=17, quantity="", units="", host="ovf:/disk/vmdisk1"),
    }
    return OVF.format(**{**values, **changes}).encode()


@pytest.fixture
def runtime():
    return Runtime(run, Reporter())


@pytest.fixture
def vault(tmp_path, runtime):
    os.makedirs(tmp_path / "data" / "vault", mode=0o700)
    return Vault(DataDirectory(str(tmp_path / "data")), runtime)


@pytest.fixture(scope="module")
def vmdk(tmp_path_factory):
    top = tmp_path_factory.mktemp("disk")
    (top / "raw").write_bytes(foreign.bootable(SIZE))
    foreign.qemu_img("convert", "-O", "vmdk", "-o", "subformat=streamOptimized", top / "raw", top / "vmdk")
    return (top / "vmdk").read_bytes()


def sums_of(members, algorithm="sha256"):
    lines = [f"{algorithm.upper()}({name})= {hashlib.new(algorithm, data).hexdigest()}\n" for name, data in members]
    return ("vm.mf", "".join(lines).encode())


def packed(path, members, form=tarfile.USTAR_FORMAT, **header):
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mtime = 1700000000.5 if form == tarfile.PAX_FORMAT else 1700000000
            if name.endswith(".vmdk"):
                for key, value in header.items():
                    setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_machine_is_taken_over(tmp_path, runtime, vault, vmdk, form, algorithm):
    members = [("vm.ovf", ovf()), ("vm-disk1.vmdk", vmdk)]
    path = packed(tmp_path / "vm.ova", [members[0], sums_of(members, algorithm), members[1]], form)
    origin = ova.OvaOrigin(runtime, path)
    found = origin.describe()
    assert (found.name, found.cpus, found.memory, found.disk) == ("My VM", 2, 256 * MIB, SIZE)
    assert found.image == {"name": "vm.ova", "firmware": ""}
    with origin.bring(vault, "x86_64", layered=True) as brought:
        assert (brought.layered, brought.image.virtual_size) == (None, SIZE)
        foreign.qemu_img("convert", "-O", "raw", brought.image.path, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == foreign.bootable(SIZE)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"firmware": "efi"}, ("firmware", "uefi")),
        ({"capacity": "4194304", "units": "byte"}, ("capacity", SIZE)),
        ({"capacity": "9" * 5000}, ("capacity", 0)),
        ({"capacity": "1", "units": "byte * 2^99"}, ("capacity", 0)),
        ({"items": ""}, ("cpus", 0)),
        ({"items": ITEM.format(kind=3, quantity="99999999", units="", host="")}, ("cpus", 4096)),
        ({"items": ITEM.format(kind=3, quantity="-1", units="", host="")}, ("cpus", 0)),
        ({"items": ITEM.format(kind=4, quantity="2", units="byte * 2^30", host="")}, ("memory", 2 << 30)),
    ],
)
def test_what_is_said_of_a_machine_is_understood(changes, expected):
    assert getattr(ova.parse_ovf(ovf(**changes), "x"), expected[0]) == expected[1]


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9)
)
REFUSED = {
    "entities": (ovf(doctype=LAUGHS + "]>", name="&j;"), "document type"),
    "an external entity": (
        ovf(doctype='<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>', name="&a;"),
        "document",
    ),
    "a document type": (ovf(doctype='<!DOCTYPE x SYSTEM "http://127.0.0.1/x">'), "document type"),
    "no XML": (b"x", "not valid XML"),
    "nothing": (b"", "not valid XML"),
    "half of it": (ovf()[:300], "not valid XML"),
    "another encoding": (b'<?xml version="1.0" encoding="x-none"?><Envelope/>', "not valid XML"),
    "another document": (b"<html/>", "begins with 'html'"),
    "too deep": (b"<Envelope>" + b"<a>" * 5000, "too many elements"),
    "too many": (b"<Envelope>" + b"<a/>" * 60000 + b"</Envelope>", "too many elements"),
    "no machine": (b"<Envelope/>", "0 virtual machines"),
    "two machines": (ovf(more="<VirtualSystem/>"), "2 virtual machines"),
    "no disk": (ovf().replace(b"Disk ", b"Disc "), "no disk"),
    "two disks": (ovf(disks='<Disk ovf:diskId="b" ovf:fileRef="file1"/>', items=""), "2 disks"),
    "a disk without a file": (ovf().replace(b'fileRef="file1"', b'fileRef="x"'), "where the disk is"),
    "a compressed disk": (ovf(file='ovf:compression="gzip"'), "compressed or cut up"),
    "a disk in chunks": (ovf(file='ovf:chunkSize="100"'), "compressed or cut up"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_descriptions_that_cannot_be_used_are_refused(name):
    content, why = REFUSED[name]
    with pytest.raises(MinicloudError, match=why):
        ova.parse_ovf(content, "the file")


def test_one_of_two_disks_is_enough_where_the_machine_has_one():
    assert ova.parse_ovf(ovf(disks='<Disk ovf:diskId="b" ovf:fileRef="file1"/>'), "x").disk == "vm-disk1.vmdk"


def overlay():
    return foreign.description(parent="/etc/passwd", cid="11111111")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: m[:1], "is not in it"),
        (lambda m: m[1:], "begins with 'vm-disk1.vmdk'"),
        (lambda m: [*m, m[1]], "in it twice"),
        (lambda m: [m[0], ("vm-disk1.vmdk", b"")], "empty file"),
        (lambda m: [m[0], ("vm-disk1.vmdk", overlay())], "vmdk description"),
        (lambda m: [m[0], ("../vm-disk1.vmdk", m[1][1])], "is not in it"),
        (lambda m: [m[0], sums_of([(m[1][0], b"x")]), m[1]], "does not match its checksum"),
        (lambda m: [m[0], sums_of([("other", b"x")]), m[1]], "does not match its checksum"),
        (lambda m: [m[0], sums_of(m), ("other.mf", sums_of(m)[1]), m[1]], "two lists of checksums"),
        (lambda m: [("vm.ovf", ovf(href="vm.ovf")), m[1]], "is not in it"),
        (lambda m: [("vm.ovf", b"<" * (5 << 20)), m[1]], "its description has"),
    ],
)
def test_hostile_files_are_refused(tmp_path, runtime, vault, vmdk, change, why):
    path = packed(tmp_path / "vm.ova", change([("vm.ovf", ovf()), ("vm-disk1.vmdk", vmdk)]))
    with pytest.raises(MinicloudError, match=why):
        with ova.OvaOrigin(runtime, path).bring(vault, "x86_64", layered=True):
            pass
    assert not [name for name in os.listdir(vault.path) if name.startswith("work-")]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_disk_that_is_no_file_is_refused(tmp_path, runtime, vault, vmdk, kind):
    members = [("vm.ovf", ovf()), ("vm-disk1.vmdk", vmdk)]
    path = packed(tmp_path / "vm.ova", members, type=kind, linkname="/etc/passwd")
    with pytest.raises(MinicloudError, match="is no plain file"):
        with ova.OvaOrigin(runtime, path).bring(vault, "x86_64", layered=True):
            pass


def test_a_file_that_was_cut_short_is_refused(tmp_path, runtime, vault, vmdk):
    path = packed(tmp_path / "vm.ova", [("vm.ovf", ovf()), ("vm-disk1.vmdk", vmdk)])
    os.truncate(path, 512 + 4096 + len(vmdk) // 2)
    with pytest.raises(MinicloudError, match="cut short"):
        with ova.OvaOrigin(runtime, path).bring(vault, "x86_64", layered=True):
            pass


def test_several_disks_say_what_to_do():
    with pytest.raises(NotSupported, match="with that one alone"):
        ova.parse_ovf(ovf(disks='<Disk ovf:diskId="b" ovf:fileRef="file1"/>', items=""), "x")
