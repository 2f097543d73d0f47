# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Everything that reads what somebody else has written: samples of it, and what must hold of what is accepted.

A reader refuses by MinicloudError, or by what its documentation says. Whatever else it raises is a fault, and so is an
assertion that does not hold.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import importlib
import io
import ipaddress
import json
import lzma
import math
import os
import pkgutil
import shutil
import socket
import struct
import tarfile
import threading
import types
import typing as t

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.minicloud.local.plugins import module_utils
from ansible_collections.minicloud.local.plugins.module_utils import _json, _model, _scope
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt import definition, domain
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd.driver import LXD
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import api as lxd_api
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import look as lxd_look
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family import qmp, usernet
from ansible_collections.minicloud.local.plugins.module_utils._guest import (
    cloud_config,
    console,
    known_hosts,
    public_keys,
    ready,
    seed,
)
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import (
    firewall,
    hub,
    interfaces,
    leases,
    links,
    subnets,
    uplink,
)
from ansible_collections.minicloud.local.plugins.module_utils._images import (
    archive,
    bootstrap,
    checksum,
    clean,
    confined,
    disk,
    hosts,
    lxd_metadata,
    manifest,
    multipass,
    ova,
    reference,
    simplestreams,
    source,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.root import RootScan
from ansible_collections.minicloud.local.plugins.module_utils._model import RecordKind
from ansible_collections.minicloud.local.plugins.module_utils._module import check_text, common_arguments, perform
from ansible_collections.minicloud.local.plugins.module_utils._options import check_options, normal_options
from ansible_collections.minicloud.local.plugins.module_utils._reconcile import listing
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.nics import parse_nics
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

HERE = os.path.dirname(os.path.abspath(__file__))
COLLECTION = os.path.dirname(os.path.dirname(HERE))
UNIT = os.path.join(COLLECTION, "tests", "unit", "plugins", "module_utils")
RECORDS = os.path.join(UNIT, "records_of_schema_1")
MODULES = os.path.join(COLLECTION, "plugins", "modules")

MIB = 1 << 20


class Surface(t.NamedTuple):
    """One reader. read -- gives it what was written and checks what it makes of that; may -- what else it may raise

    share -- of the cases: those that cost much get less
    """

    name: str
    samples: t.Sequence[t.Any]
    read: t.Callable[[t.Any], object]
    may: tuple[type[Exception], ...] = ()
    share: float = 1.0


def no_command(argv: t.Sequence[str], **dummy: t.Any) -> Completed:
    """Stands for the host's programs: none of them does anything here."""
    return Completed(1, "", f"{argv[0]} is not run here")


def saying(text: str) -> Runtime:
    """Surroundings in which every command says a text."""
    return Runtime(lambda argv, **dummy: Completed(0, text, ""), Reporter())


def sample_of(*parts: str) -> t.Any:
    with open(os.path.join(UNIT, *parts), encoding="utf-8") as stream:
        return json.load(stream)


def as_json(value: t.Any) -> bytes:
    return json.dumps(value).encode(errors="replace")


# -- records ----------------------------------------------------------------------------------------------------------


def kinds_of_records() -> dict[str, RecordKind]:
    """All that the code has, by name."""
    found = {}
    for module in pkgutil.walk_packages(module_utils.__path__, f"{module_utils.__name__}."):
        if not module.ispkg:
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, RecordKind):
                    found[value.name] = value
    return found


def record_samples() -> list[tuple[RecordKind, t.Any]]:
    """The samples, each with the kinds that it could be."""
    found = []
    kinds = kinds_of_records()
    for top, dummy, names in os.walk(RECORDS):
        for name in sorted(names):
            with open(os.path.join(top, name), encoding="utf-8") as stream:
                data = json.load(stream)
            for kind in kinds.values():
                try:
                    kind.checked({key: value for key, value in data.items() if key != "schema"})
                except ValueError:
                    continue
                found.append((kind, data))
    return found


class Records:
    """Records of all kinds, alone and among others."""

    def __init__(self, scratch: str, mutate: t.Callable[[t.Any], t.Any]) -> None:
        self.path = os.path.join(scratch, "record.json")
        self.mutate = mutate
        self.data = DataDirectory(os.path.join(scratch, "data"))
        shutil.copytree(RECORDS, self.data.path)
        os.chmod(self.data.path, 0o700)
        self.web = os.path.join(self.data.scope("qemu").directory("web"), "instance.json")
        web = json.loads(self._content())
        self.right = self._content()
        for name in ("alpha", "omega"):
            other = self.data.scope("qemu").directory(name)
            os.mkdir(other, 0o700)
            with open(os.path.join(other, "instance.json"), "w", encoding="utf-8") as stream:
                json.dump({**web, "name": name, "uuid": f"{web['uuid'][:-1]}{len(name)}", "ports": []}, stream)
        self.others = [each for each in self.listed() if each["name"] != "web"]
        assert len(self.others) == 2

    def _content(self) -> bytes:
        with open(self.web, "rb") as stream:
            return stream.read()

    def listed(self) -> list[dict[str, t.Any]]:
        runtime = Runtime(no_command, Reporter())
        return [entry.view(self.data) for entry in listing.list_instances(runtime, self.data, ["qemu"])]

    def read(self, kind: RecordKind, content: bytes) -> None:
        """A record is refused, or comes back as it was, also after it was written again."""
        with open(self.path, "wb") as stream:
            stream.write(content)
        record = _scope.read_record(self.path, kind)
        assert record is not None
        _scope.write_record(self.path, kind, record)
        assert _scope.read_record(self.path, kind) == record

    def among_others(self, content: bytes) -> None:
        """Whatever the record of one instance is, the others are listed as before; and it can be removed by force."""
        with open(self.web, "wb") as stream:
            stream.write(content)
        try:
            found = self.listed()
            names = [entry["name"] for entry in found]
            assert [entry for entry in found if entry["name"].lower() != "web"] == self.others, names
            for entry in found:
                assert entry["memory"] >= 0 and entry["cpus"] >= 0, entry
                json.dumps(entry)
            self.data.scope("qemu").read("web")
        finally:
            with open(self.web, "wb") as stream:
                stream.write(self.right)

    def surfaces(self) -> list[Surface]:
        web = json.loads(self.right)
        return [
            Surface(
                "records", record_samples(), lambda case: self.read(case[0], as_json(self.mutate(case[1]))), share=3.0
            ),
            Surface("records among others", [web], lambda data: self.among_others(as_json(data)), share=0.5),
            Surface("bytes of records", [self.right], self.among_others, share=0.5),
        ]


# -- what a task's options say ----------------------------------------------------------------------------------------


def examples(name: str) -> list[dict[str, t.Any]]:
    """The options of the tasks that a module's documentation has as examples."""
    module = module_of(name)
    found = []
    for task in yaml.safe_load(module.EXAMPLES):
        for each in [task, *task.get("tasks", [])]:
            options = each.get(f"minicloud.local.{name}")
            if isinstance(options, dict):
                found.append(options)
    return found


def module_of(name: str) -> types.ModuleType:
    return importlib.import_module(f"ansible_collections.minicloud.local.plugins.modules.{name}")


def modules() -> list[str]:
    """All but those that are only the documentation of an action plugin."""
    names = sorted(name[:-3] for name in os.listdir(MODULES) if name.endswith(".py") and name[0] != "_")
    return [name for name in names if hasattr(module_of(name), "run")]


# What examples leave out.
FULL: dict[str, dict[str, t.Any]] = {
    "instance": {
        "name": "web",
        "cpus": 2,
        "memory": "1.5G",
        "disk": "10GiB",
        "image": "file:///srv/images/tiny.qcow2",
        "image_checksum": "sha256:" + "ab" * 32,
        "user": "debian",
        "arch": "amd64",
        "ports": ["8080:80", "[::1]:5353:53/udp"],
        "tags": {"role": "web"},
        "networks": [{"name": "lab", "address": "10.20.0.9", "mac": "52:54:00:12:34:56"}, {"bridged": "eth0"}],
        "timeout": 60,
        "autostart": True,
        "cloud_init": {"packages": ["nginx"], "users": ["default", {"name": "ann", "lock_passwd": False}]},
        "network_config": {"version": 2, "ethernets": {}},
        "meta_data": "local-hostname: x\n",
        "image_hosts": {"mine": {"url": "https://images.example/", "type": "manifest", "allow_http": False}},
        "driver_options": {"accelerator": "tcg", "firmware": "bios"},
    },
    "network": {
        "name": "lab",
        "mode": "nat",
        "subnet": "10.20.30.0/24",
        "subnet6": "fd12:3456:789a::/64",
        "dhcp_range": "10.20.30.100-10.20.30.200",
        "domain": "lab.example",
        "mtu": 1400,
        "host_access": True,
    },
    "image": {"name": "/srv/images/tiny.qcow2", "checksum": "sha512:" + "0" * 128, "alias": "mine", "arch": "x86_64"},
}


class Options:
    """Modules run as tasks have them, in check mode, on a host that has no programs."""

    def __init__(self, data_dir: str) -> None:
        self.data_dir = data_dir

    def run(self, name: str, options: t.Any) -> None:
        if not isinstance(options, dict):
            return
        module = module_of(name)
        spec = {**common_arguments(), **module.ARGUMENTS}
        given = normal_options({str(key): value for key, value in options.items()})
        check_options(given, spec)
        checked = ArgumentSpecValidator(spec).validate({**given, "driver": "qemu", "data_dir": self.data_dir})
        if checked.error_messages:
            return
        before = content_of(self.data_dir)
        result, warnings = perform(module.run, dict(checked.validated_parameters), no_command, "name", True)
        json.dumps(result).encode(errors="surrogateescape")
        assert all(isinstance(text, str) for text in warnings)
        assert content_of(self.data_dir) == before, "check mode has changed the data directory"
        if result.get("failed"):
            assert result["msg"] and result["error"], result

    def surfaces(self) -> list[Surface]:
        found = []
        for name in modules():
            samples = [*examples(name), *([FULL[name]] if name in FULL else [{"name": "web"}])]
            share = 2.0 if name in FULL else 0.3
            found.append(Surface(f"options of {name}", samples, functools.partial(self.run, name), share=share))
        return found


def content_of(directory: str) -> dict[str, bytes]:
    """The records below a directory."""
    found = {}
    for top, dummy, names in os.walk(directory):
        for name in names:
            if name.endswith((".json", ".tmp")):
                with open(os.path.join(top, name), "rb") as stream:
                    found[os.path.join(top, name)] = stream.read()
    return found


def parsed_size(text: str) -> None:
    size = _model.parse_size(text, "memory")
    assert 0 <= size < 1 << 120
    assert _model.format_size(size)


def parsed_age(text: str) -> None:
    seconds = _model.parse_age(text, "purge_older_than", "would remove nearly all")
    assert math.isfinite(seconds) and seconds >= 0


def parsed_port(text: str) -> None:
    port = _model.parse_port(text)
    assert 0 < port.guest_port < 65536 and 0 <= port.host_port < 65536
    assert ipaddress.ip_address(port.host_ip) and port.protocol in ("tcp", "udp")
    assert _model.parse_port(str(port)) == port


def parsed_reference(text: str) -> None:
    found = reference.parse_reference(text)
    shown = str(found)
    assert shown.isprintable() and found.name
    assert found.host != "file" or os.path.isabs(found.name)
    again = reference.parse_reference(shown)
    assert str(again) == shown
    source.familiar(found)
    source.meant(text)


def parsed_checksum(text: str) -> None:
    promise = checksum.parse_checksum(text)
    if promise and not promise.url:
        assert len(bytes.fromhex(promise.value)) * 2 == checksum.LENGTHS[promise.algorithm]


def parsed_subnet(text: str) -> None:
    subnet = subnets.parse_subnet(text)
    assert subnet.num_addresses >= 4 and subnet.is_global is not None
    subnets.parse_range(subnets.default_range(subnet), subnet)
    assert subnets.parse_subnet(str(subnet)) == subnet


def parsed_range(text: str) -> None:
    subnet = ipaddress.IPv4Network("10.20.30.0/24")
    first, last = subnets.parse_range(text, subnet)
    assert int(subnet.network_address) + 1 < first <= last < int(subnet.broadcast_address)
    assert subnets.normal_range(subnets.normal_range(text, subnet), subnet) == subnets.normal_range(text, subnet)


def parsed_nics(entries: t.Any) -> None:
    spec = module_of("instance").ARGUMENTS["networks"]
    given = normal_options({"networks": entries})
    check_options(given, {"networks": spec})
    checked = ArgumentSpecValidator({"networks": spec}).validate(given)
    if checked.error_messages:
        return
    for nic in parse_nics(checked.validated_parameters["networks"] or []):
        assert _model.check_name(nic.network) and (not nic.mac or len(nic.mac) == 17)
        assert _model.Nic.from_dict(nic.to_dict()) == nic


def parsed_keys(text: str) -> None:
    for key in public_keys.parse_keys([text]):
        assert "\n" not in key and "PRIVATE" not in key.split(" ")[0]
        assert any(kind in key for kind in ("ssh-", "ecdsa-", "sk-"))


def table_of_hosts(value: t.Any) -> None:
    for host in hosts.host_table(None, value).values():
        assert host.url.startswith("https://") or host.allow_http
        assert host.locate("a/b")


def seeded(given: t.Any) -> None:
    """User-data in any form: refused, or made a seed that has only bytes, and the same meaning in ASCII."""
    document = cloud_config.CloudConfig(given, "cloud_init")
    wishes = seed.SeedOptions(cloud_init=document)
    seed.check_seed_options(wishes)
    seed.check_login(wishes)
    seed.goes_down(wishes)
    seed.given_host_keys(wishes)
    if document:
        cloud_config.fingerprint(given)
    for content in seed.seed_files("web", "i-1", ["ssh-ed25519 AAAA x"], [], wishes, []).values():
        assert isinstance(content, bytes)
        assert cloud_config.as_ascii(content).isascii()


def settings_of(given: t.Any) -> None:
    document = cloud_config.Settings(given, "meta_data")
    document.check()
    assert isinstance(document.mapping, dict)
    seed.seed_files("web", "i-1", [], [], seed.SeedOptions(meta_data=document))


def place_of(options: t.Any) -> None:
    if isinstance(options, dict):
        check_text(options)
        place = lxd_api.place_of(options, LXD)
        assert place.project and (not place.is_remote or 0 <= place.host[1] < 65536)


USER_DATA: tuple[t.Any, ...] = (
    {"packages": ["nginx"], "users": ["default", {"name": "ann", "ssh_authorized_keys": ["ssh-ed25519 AAAA"]}]},
    {"password": "x", "chpasswd": {"expire": False, "users": [{"name": "root", "password": "y"}]}, "power_state": {}},
    {"ssh_keys": {"ed25519_private": "-----BEGIN", "ed25519_public": "ssh-ed25519 AAAA"}, "system_info": {}},
    "#cloud-config\nusers:\n  - default\n  - name: ann\n    shell: /bin/bash\nruncmd: [[ls, /], poweroff]\n",
    '#cloud-config\n{"write_files": [{"path": "/x", "content": "gr\u00fc\u00dfe"}]}\n',
    "#cloud-config-archive\n- type: text/cloud-config\n  content: |\n    user: ann\n- '#!/bin/sh\\n'\n",
    "## template: jinja\n#cloud-config\nuser: '{{ v1.x }}'\n",
    (
        'Content-Type: multipart/mixed; boundary="b"\nMIME-Version: 1.0\n\n--b\nContent-Type: text/cloud-config\n\n'
        "user: ann\n--b\nContent-Type: text/x-shellscript\nContent-Transfer-Encoding: base64\n\nIyEvYmluL3No\n--b--\n"
    ),
    "#!/bin/sh\necho grüße\n",
    "#include\nhttps://example.org/x\n",
)
ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43 + " ann@example"


def option_surfaces() -> list[Surface]:
    return [
        Surface("sizes", ["512M", "1.5G", "10GiB", "1073741824", "1T"], parsed_size),
        Surface("ages", ["14d", "1.5h", "86400"], parsed_age),
        Surface("ports", ["80", "8080:80", "0.0.0.0:8080:80", "[::1]:5353:53/udp"], parsed_port),
        Surface("names", ["web", "a-1", "X" * 63], _model.check_name),
        Surface(
            "names of images",
            ["24.04", "daily:26.04", "debian/12", "https://u:p@example.org/x.qcow2", "file:///srv/x.img", "./x.raw"],
            parsed_reference,
        ),
        Surface("checksums", ["sha256:" + "ab" * 32, "sha512:https://example.org/SHA512SUMS"], parsed_checksum),
        Surface("subnets", ["10.20.30.0/24", "192.168.0.0/16", "172.16.0.0/29"], parsed_subnet),
        Surface("IPv6 subnets", ["fd12:3456:789a::/64"], lambda text: subnets.gateway(subnets.parse_subnet6(text))),
        Surface("ranges", ["10.20.30.100-10.20.30.200"], parsed_range),
        Surface("interfaces", [FULL["instance"]["networks"], ["default"]], parsed_nics),
        Surface("public keys", [ED25519, f'from="10.0.0.1",no-pty {ED25519}', f"# x\n{ED25519}\n"], parsed_keys),
        Surface("image hosts", [FULL["instance"]["image_hosts"]], table_of_hosts),
        Surface("user-data", USER_DATA, seeded),
        Surface("meta-data", ["local-hostname: x\n", {"public-keys": ["x"], "a": {"b": 1}}, '{"a": 1}'], settings_of),
        Surface("places of LXD", [{"endpoint": "https://h:8443", "cert": __file__, "key": __file__}], place_of),
    ]


# -- what images and image hosts send ---------------------------------------------------------------------------------


def listed_products(parser: t.Any) -> t.Callable[[t.Any], None]:
    def read(content: t.Any) -> None:
        content = _json.parse_json(as_json(content), "it", 64 << 20, 64)
        archs = parser.architectures(content)
        assert all(isinstance(arch, str) for arch in archs)
        products = parser.parse_products(content, "x86_64")
        rows = json.loads(json.dumps(simplestreams.to_rows(products)))
        assert simplestreams.from_rows(rows) == products
        simplestreams.similar(products, "noble")
        for product in products[:5]:
            simplestreams.named(products, product.release)
            for build in product.builds:
                for file in (build.disk, build.root):
                    assert file is None or (file.size >= 0 and len(file.hash) in (64, 128))

    return read


def found_checksum(text: str) -> None:
    value = checksum.find_in_list(text, "x.img", "sha256", "https://example.org/SHA256SUMS")
    assert len(bytes.fromhex(value)) == 32


def root_of(content: bytes) -> None:
    scan = RootScan("x", Runtime(no_command, Reporter()))
    try:
        for start in range(0, len(content), 4096):
            scan.feed(content[start : start + 4096])
        scan.finish()
    finally:
        scan.abandon()
    assert scan.root.created >= 0
    if scan.root.metadata:
        described(scan.root.metadata)


def described(content: bytes) -> None:
    assert all(isinstance(value, str) for value in lxd_metadata.describe(content))


def container_archive() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in (("metadata.yaml", METADATA), ("rootfs/etc/hostname", b"x\n"), ("rootfs/bin/sh", b"#")):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1_700_000_000
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


METADATA = (
    b"architecture: x86_64\ncreation_date: 1700000000\nproperties: {os: debian, release: bookworm, version: '12'}\n"
)


def disk_heads() -> list[bytes]:
    """The beginnings of disks of all formats, as far as it takes to be one."""
    entry = struct.pack("<B3sB3sII", 0x80, b"", 0x83, b"", 2048, 2048)
    raw = (bytes(446) + entry + bytes(48) + b"\x55\xaa").ljust(3 * MIB, b"\0")
    gpt = raw[:512] + (b"EFI PART" + bytes(24) + struct.pack("<Q", 6143)).ljust(512, b"\0") + raw[1024:]
    qcow2 = struct.pack(
        ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, MIB, 0, 1, 196608, 65536, 1, 0, 0, 0, 0, 0, 4, 104
    )
    qcow2 = (qcow2 + bytes(8)).ljust(262144, b"\0")
    text = b'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicSparse"\n'
    vmdk = (b"KDMV" + struct.pack("<IIQQQQIQQQ", 1, 3, 2048, 128, 1, 20, 512, 0, 41, 128)).ljust(512, b"\0")
    vdi = bytearray(1024)
    vdi[0x40:0x44] = b"\x7f\x10\xda\xbe"
    vdi[0x4C:0x50] = struct.pack("<I", 1)
    vdi[0x154:0x15C] = struct.pack("<II", 512, 1024)
    vdi[0x170:0x188] = struct.pack("<QIIII", MIB, MIB, 0, 1, 0)
    vpc = bytearray(512)
    vpc[:8], vpc[60:64] = b"conectix", struct.pack(">I", 3)
    vhdx = b"vhdxfile".ljust(65536, b"\0")
    return [raw[:65536], gpt, qcow2, vmdk + text.ljust(65536, b"\0"), bytes(vdi), bytes(vpc), vhdx]


class Files:
    """Readers that want a file."""

    def __init__(self, scratch: str) -> None:
        self.path = os.path.join(scratch, "file")
        self.scratch = scratch

    def put(self, content: bytes, name: str = "file") -> str:
        path = os.path.join(self.scratch, name)
        with open(path, "wb") as stream:
            stream.write(content)
        return path

    def disk(self, content: bytes) -> None:
        found = disk.inspect(self.put(content), "x")
        assert found.format and found.virtual_size >= 0
        clean.partitions(self.path)
        if found.format == "qcow2":
            confined.refuse_other_files(self.path, "x")

    def exported(self, content: bytes) -> None:
        """A file that an instance was exported to: nothing in it says where anything goes."""
        work = os.path.join(self.scratch, "members")
        shutil.rmtree(work, ignore_errors=True)
        reading = archive.Reading(Runtime(None, Reporter()), self.put(content, "x.minicloud"))  # type: ignore[arg-type]
        try:
            reading.extract(work)
        finally:
            found = os.listdir(work) if os.path.isdir(work) else []
            assert all(name.startswith("member-") for name in found)
        assert reading.manifest
        assert set(reading.sums) == {archive.MANIFEST, *(name for name, dummy in reading.manifest.files)}

    def multipass(self, value: t.Any) -> None:
        """What Multipass knows of an instance, which is beside a disk that it has not."""
        top = os.path.join(self.scratch, "multipass")
        os.makedirs(os.path.join(top, "vault", "instances", "web"), exist_ok=True)
        for name in ("vault/instances/web/disk.img", "vault/multipassd-instance-image-records.json"):
            with open(os.path.join(top, name), "w", encoding="ascii") as stream:
                stream.write('{"web": {"image": {"path": "/x/disk.img"}, "query": {}}}')
        self.put(as_json(value), "multipass/multipassd-vm-instances.json")
        found = multipass.MultipassOrigin(Runtime(None, Reporter()), "web", top).describe()  # type: ignore[arg-type]
        assert found.cpus >= 0 and found.memory >= 0 and found.disk >= 0

    def console(self, content: bytes) -> None:
        self.put(content)
        lines = console.tail(self.path)
        assert len(lines) <= 30 and all(len(line) <= 4096 and "\x1b[" not in line for line in lines), "unbounded"
        console.went_down(self.path)
        watch = console.ConsoleWatch(self.path)
        watch.poll()
        assert len(watch.notes) <= 5 and len(watch.problem) <= 300

    def leases(self, content: bytes) -> None:
        self.put(content, "leases")
        for mac, addresses in leases.active(leases.read_leases(self.scratch)).items():
            assert mac.count(":") == 5 and addresses
            for address in addresses:
                ipaddress.IPv4Address(address)

    def known_hosts(self, content: bytes) -> None:
        """Lines of others stay byte for byte, ours is there once, and is gone afterwards."""
        path = self.put(content, "known_hosts")
        alias = "minicloud-qemu-fuzz"
        known_hosts.pin(path, alias, ["[127.0.0.1]:40999"], [ED25519])
        lines = self._lines(path)
        assert sum(line.startswith(f"{alias},".encode()) for line in lines) == 1
        known_hosts.unpin(path, alias)
        assert not any(line.startswith(alias.encode()) for line in self._lines(path))

    @staticmethod
    def _lines(path: str) -> list[bytes]:
        with open(path, "rb") as stream:
            return stream.read().split(b"\n")


KNOWN_HOSTS = (
    f"minicloud-qemu-web,[127.0.0.1]:40022 {ED25519}\n# x\n|1|abc=|def= {ED25519}\n@revoked * {ED25519}\n".encode()
)
CONSOLE = (
    b"[    0.0] Linux version 6\r\n\x1b[0;32m OK \x1b[0m Started \x1b[1mOpenSSH\x1b[0m\r\nci-info: Authorized keys "
    b"from /home/ann/.ssh/authorized_keys for user ann\nCloud-init v. 22.4 finished at x\n"
    b"web login: \x1b]0;t\x07(initramfs) "
)
LEASES = (
    b"1700000000 52:54:00:aa:bb:01 10.20.0.9 web 01:52:54:00:aa:bb:01\n0 52:54:00:aa:bb:02 10.20.0.10 * *\nduid x\n"
)


def exported_archive() -> bytes:
    """What an instance was exported to, with disks that are none."""
    base = _model.Instance(
        "web", "1" * 8 + "-1111" * 3 + "-" + "1" * 12, "qemu", "qemu", "", "x86_64", 1, 1 << 28, 1 << 32
    )
    contents = [("base.qcow2", b"x" * 600), ("disk.qcow2", b"y" * 700)]
    pieces = [archive.Piece(name, len(data), lambda data=data: [data]) for name, data in contents]  # type: ignore[misc]
    target = io.BytesIO()
    packer = archive.Packer(Runtime(None, Reporter()), target, "none")  # type: ignore[arg-type]
    listed = archive.Manifest(base, [(name, len(data)) for name, data in contents])
    archive.write_archive(packer, listed.to_bytes(), pieces, 0, Runtime(None, Reporter()))  # type: ignore[arg-type]
    return target.getvalue()


def machine_of(content: t.Any) -> None:
    found = ova.parse_ovf(content if isinstance(content, bytes) else str(content).encode(errors="replace"), "x")
    assert found.disk and 0 <= found.cpus <= _model.MAX_CPUS
    assert 0 <= found.memory <= _model.MAX_SIZE and 0 <= found.capacity <= _model.MAX_SIZE


OVF = b"""<?xml version="1.0"?><Envelope xmlns:ovf="o" xmlns:rasd="r">
<References><File ovf:id="f" ovf:href="d.vmdk"/></References>
<DiskSection>
<Disk ovf:diskId="d" ovf:fileRef="f" ovf:capacity="4" ovf:capacityAllocationUnits="byte * 2^20"/></DiskSection>
<VirtualSystem ovf:id="vm"><Name>vm</Name><VirtualHardwareSection>
<Item><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
<Item><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>256</rasd:VirtualQuantity></Item>
</VirtualHardwareSection></VirtualSystem></Envelope>"""
MULTIPASS = {
    "web": {
        "num_cores": 1,
        "mem_size": "1073741824",
        "disk_space": "5368709120",
        "ssh_username": "ubuntu",
        "state": 1,
        "deleted": False,
        "metadata": {"machine_type": "pc-i440fx-8.0"},
        "mac_addr": "52:54:00:6d:70:01",
        "extra_interfaces": [{"id": "br0", "mac_address": "52:54:00:6d:70:02", "auto_mode": True}],
        "mounts": [
            {
                "source_path": "/srv",
                "target_path": "/mnt",
                "uid_mappings": [{"host_uid": 1000, "instance_uid": -1}],
                "gid_mappings": [],
                "mount_type": 0,
            }
        ],
    }
}


def image_surfaces(files: Files) -> list[Surface]:
    root = container_archive()
    packed = [gzip.compress(root), bz2.compress(root), lzma.compress(root)]
    exported = exported_archive()
    streams = sample_of("_images", "samples", "images-products.json")
    listed = {
        "Debian": {
            "aliases": "debian, trixie",
            "os": "Debian",
            "release": "trixie",
            "items": {"x86_64": {"id": "ab" * 32, "image_location": "https://x/y", "size": 5, "version": "1"}},
        }
    }
    sums = "\n".join([f"{'ab' * 32} *x.img", f"SHA256 (y.img) = {'cd' * 32}", "ef" * 32])
    return [
        Surface("disk images", disk_heads(), files.disk, share=0.5),
        Surface("archives of containers", [root], root_of),
        Surface("exported instances", [exported], files.exported),
        Surface("packed exported instances", [gzip.compress(exported)], files.exported, share=0.3),
        Surface("descriptions of OVA", [OVF], machine_of),
        Surface("instances of Multipass", [MULTIPASS], files.multipass),
        Surface("packed archives", packed, root_of, share=0.5),
        Surface("metadata of containers", [METADATA], described, share=0.5),
        Surface("lists of products", [streams], listed_products(simplestreams), (ValueError,), share=0.5),
        Surface(
            "index of an image host",
            [sample_of("_images", "samples", "images-index.json")],
            lambda value: simplestreams.product_paths(_json.parse_json(as_json(value), "it", MIB << 4, 64)),
            (ValueError,),
        ),
        Surface("manifests", [listed], listed_products(manifest), (ValueError,)),
        Surface("lists of checksums", [sums, "ab" * 32], found_checksum),
        Surface("sources of apt", ["https://deb.example/debian|bookworm|Debian|main\n"], bootstrap.parse_mirror),
        Surface("settings of apt", ["Acquire::http::Proxy http://p:1\n"], bootstrap.parse_apt_settings),
    ]


# -- what guests say --------------------------------------------------------------------------------------------------

STATUS: dict[str, t.Any] = {
    "v1": {
        "stage": None,
        "init": {"errors": ["x"], "recoverable_errors": {"WARNING": ["a", "b"]}, "start": 1.5, "finished": 2},
        "modules-final": {"errors": [], "recoverable_errors": {}},
    }
}


def told_by_guest(value: t.Any) -> None:
    text = json.dumps(value)
    sections = ready._sections(f"Welcome\n=== status\n{text}\n=== result\n{text}\n=== log\nx")
    errors, recoverable = ready._complaints(sections)
    assert all(isinstance(error, str) and "\x1b" not in error for error in errors)
    assert all(isinstance(each, str) for texts in recoverable.values() for each in texts)
    assert ready._stage_of(text)


def hub_config() -> hub.Config:
    return hub.Config("10.20.30.0/24", "minicloud", {"52:54:00:00:00:01": hub.Guest("one", "10.20.30.64")})


def frame_of_guest(frame: bytes) -> None:
    config = hub_config()
    hub.arp_answer(frame, config.gateway)
    packet = hub.parse_packet(frame)
    if packet:
        hub.ping_answer(frame, packet, config.gateway)
    hub.dhcp_answer(frame, config)
    hub.parse_question(frame)
    hub.dns_answer(frame, config)


DHCP = (
    struct.pack("!BBBBIHH4s4s4s4s", 1, 1, 6, 0, 7, 0, 0, *[bytes(4)] * 4)
    + bytes.fromhex("525400000001").ljust(16, b"\0")
    + bytes(192)
    + b"\x63\x82\x53\x63\x35\x01\x03\x32\x04\x0a\x14\x1e\x40\x0c\x03one\xff"
)
DNS = struct.pack("!6H", 9, 0x100, 1, 0, 0, 0) + b"\x03one\x09minicloud\0\0\1\0\1"
UDP = hub.udp_frame(b"\x52\x54\0\0\0\1", ("10.20.30.1", 53), ("10.20.30.64", 4000), DNS)


# -- what programs and servers of the host say ------------------------------------------------------------------------


class Monitor:
    """A QEMU that says whatever it is given."""

    def __init__(self, scratch: str) -> None:
        self.path = os.path.join(scratch, "qmp.sock")

    def read(self, said: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
            server.bind(self.path)
            server.listen(1)
            server.settimeout(5)
            talker = threading.Thread(target=self._talk, args=(server, said))
            talker.start()
            try:
                with qmp.Qmp(self.path, timeout=2) as monitor:
                    assert isinstance(monitor.status(), str)
                    assert isinstance(monitor.monitor("info usernet"), str)
            finally:
                talker.join()
                os.unlink(self.path)

    @staticmethod
    def _talk(server: socket.socket, said: bytes) -> None:
        try:
            connection = server.accept()[0]
            with connection:
                connection.settimeout(5)
                connection.sendall(said)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
        except OSError:
            pass


_TALK: tuple[dict[str, t.Any], ...] = (
    {"QMP": {"version": {}, "capabilities": []}},
    {"return": {}},
    {"event": "RTC_CHANGE", "data": {"offset": 1}},
    {"return": {"status": "running", "running": True}},
    {"return": "VLAN -1 (net0):\r\n"},
    {"error": {"class": "GenericError", "desc": "x"}},
)
QMP = b"\n".join(json.dumps(each).encode() for each in _TALK)
USERNET = (
    "Hub -1 (net0):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n"
    "  TCP[HOST_FORWARD]  14       127.0.0.1 40022       10.0.2.15    22     0     0\n"
    "  UDP[HOST_FORWARD]  15       * 5353       10.0.2.15    53     0     0\n"
)


def forwards_of_qemu(text: str) -> None:
    for port in usernet.parse_forwards(text):
        assert 0 <= port.host_port < 65536 and 0 <= port.guest_port < 65536


LINKS = [
    {"ifindex": 1, "ifname": "lo", "flags": ["LOOPBACK", "UP"], "mtu": 65536, "link_type": "loopback",
     "address": "00:00:00:00:00:00", "addr_info": [{"family": "inet", "local": "127.0.0.1", "prefixlen": 8}]},
    {"ifindex": 2, "ifname": "eth0", "flags": ["UP"], "mtu": 1500, "address": "52:54:00:12:34:56",
     "link_type": "ether", "addr_info": [{"family": "inet", "local": "192.0.2.7", "prefixlen": 24}, {}]},
    {"ifindex": 3, "ifname": "br0", "flags": [], "mtu": 1400, "link_type": "ether",
     "linkinfo": {"info_kind": "bridge"}},
]  # fmt: skip
ROUTES = [
    {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0", "metric": 100, "flags": []},
    {"dst": "192.0.2.0/24", "dev": "eth0", "protocol": "kernel", "scope": "link", "prefsrc": "192.0.2.7"},
    {"dst": "10.60.0.0/16", "nexthops": [{"gateway": "192.0.2.9", "dev": "eth0", "weight": 1}]},
]
NFT = {
    "nftables": [
        {"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "inet", "name": "minicloud-mc0", "handle": 1}},
        {"chain": {"family": "inet", "table": "x", "name": "forward", "hook": "forward", "policy": "drop"}},
        {"rule": {"family": "inet", "table": "minicloud-mc0", "chain": "inside", "handle": 3, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 80}},
            {"dnat": {"addr": "10.0.0.2", "port": 8080}}]}},
    ]
}  # fmt: skip


def links_of(value: t.Any) -> None:
    runtime = saying(json.dumps(value))
    links.read_links(runtime)
    interfaces.read_interfaces(runtime)
    uplink.read_uplink(runtime, "ip", "eth0")


def ruleset_of(value: t.Any) -> None:
    text = json.dumps(value)
    found = firewall.read_ruleset(saying("\n".join([text] * 3)))
    for dummy, port, address in found.forwards:
        assert 0 < port.guest_port < 65536 and isinstance(address, str)


def an_instance() -> _model.Instance:
    return _model.Instance.from_dict(
        {key: value for key, value in sample_of("records_of_schema_1/scopes/lxd/instances/box/instance.json").items()
         if key != "schema"}
    )  # fmt: skip


def answer_of_lxd() -> dict[str, t.Any]:
    """What LXD says of an instance, with its state."""
    box = an_instance()
    return {
        "name": box.name,
        "status": "Running",
        "type": "container",
        "location": "none",
        "last_used_at": "2026-01-01T00:00:00Z",
        "config": {
            "user.minicloud.uuid": box.uuid,
            "limits.cpu": "2",
            "limits.memory": "128MiB",
            "boot.autostart": "true",
        },
        "devices": {"root": {"type": "disk", "path": "/", "pool": "default", "size": "5120MiB"}},
        "state": {
            "network": {
                "eth0": {
                    "hwaddr": box.nics[0].mac,
                    "addresses": [{"family": "inet", "address": "10.20.0.9", "netmask": "24", "scope": "global"}],
                }
            }
        },
    }


class LxdServer:
    """An LXD that answers whatever it is asked with the same."""

    def __init__(self, scratch: str) -> None:
        self.scope = DataDirectory(os.path.join(scratch, "lxd")).scope("lxd")
        self.box = an_instance()

    def looks(self, value: t.Any) -> lxd_look.LxdLooks:
        def answer(
            path: str, query: t.Mapping[str, str], limit: int = 0, content: bytes | None = None
        ) -> tuple[int, bytes]:
            told = {"instances": [value, answer_of_lxd()], "operations": {}}.get(path, value)
            if path.endswith("/state"):
                told = value["state"]
            return 200, as_json({"type": "sync", "metadata": told})

        look = lxd_look.LxdLooks.__new__(lxd_look.LxdLooks)
        look.product = LXD  # type: ignore[misc]
        look.scope, look.seen, look._members, look.target = self.scope, {}, {}, ""
        look.place = lxd_api.place_of({"endpoint": "/nowhere"}, LXD)
        look.api = lxd_api.LxdApi(look.place)
        look.api._exchange = answer  # type: ignore[method-assign]
        return look

    def read(self, value: t.Any) -> None:
        for instances in ([self.box], [self.box, self.box]):
            looks = self.looks(value)
            looks.observe(instances)
            looks.ssh_address(self.box)
            looks.remains(self.box)

    def server(self, value: t.Any) -> None:
        looks = self.looks(value)
        environment = looks.server().get("environment") or {}
        lxd_look.storage_drivers(environment)
        lxd_look.runs_vms(environment)
        lxd_look.LxdHost(looks).architecture()


SERVER = {
    "auth": "trusted",
    "api_extensions": ["projects", "instances", "cloud_init", "instance_get_full"],
    "environment": {
        "kernel_architecture": "x86_64",
        "server_version": "5.0.2",
        "driver": "lxc | qemu",
        "storage_supported_drivers": [{"Name": "dir", "Version": "1"}],
    },
}


def domain_sample() -> str:
    box = an_instance()
    files = {"base": "/v/base.qcow2", "disk": "/d/disk.qcow2", "seed": "/d/seed.iso", "console": "/d/console.log"}
    owner = {"name": "box", "scope": "qemu", "data_dir": "/data"}
    return definition.domain_xml(
        _model.Instance(
            "box", box.uuid, "qemu", "libvirt", "", "x86_64", 1, 128 * MIB, 256 * MIB,
            nics=[_model.Nic("user", "52:54:00:00:00:01")], ssh_port=40022,
        ),
        definition.Parts(name="box", owner=owner, accelerator="tcg", files=files),
    )  # fmt: skip


def domain_of(xml: str) -> None:
    found = domain.parse_domain(xml)
    assert found.shape.memory >= 0 and found.shape.cpus >= 0
    domain.drift(found, an_instance())
    domain.differing(found)
    if found.owner:
        domain.foreign(found)


def report_of_qemu_img(value: t.Any) -> None:
    found = _json.parse_json(as_json(value), "its report", MIB, 32)
    if isinstance(found, dict):
        confined._check_info(found, "qcow2", False, "x")
        assert 0 < found["virtual-size"] <= confined.LARGEST


REPORT = {
    "virtual-size": 5 << 30,
    "filename": "disk-0",
    "format": "qcow2",
    "actual-size": 200704,
    "dirty-flag": False,
    "format-specific": {
        "type": "qcow2",
        "data": {"compat": "1.1", "refcount-bits": 16, "corrupt": False, "extents": []},
    },
}


def json_of(content: bytes) -> None:
    value = _json.parse_json(content, "it", MIB, 64)
    json.dumps(value, ensure_ascii=False).encode()


def host_surfaces(scratch: str, files: Files) -> list[Surface]:
    lxd = LxdServer(scratch)
    return [
        Surface("JSON", [as_json(STATUS), b'{"a": [1.5e3, "\\ud83d\\ude00"]}'], json_of),
        Surface("status of cloud-init", [STATUS], told_by_guest),
        Surface("console logs", [CONSOLE], files.console),
        Surface("frames of guests", [UDP, DHCP, DNS], frame_of_guest),
        Surface("leases", [LEASES], files.leases),
        Surface("known_hosts", [KNOWN_HOSTS], files.known_hosts, share=0.3),
        Surface("QEMU's monitor", [QMP], Monitor(scratch).read, (OSError,), share=0.3),
        Surface("QEMU's user network", [USERNET], forwards_of_qemu),
        Surface("answers of ip: interfaces", [LINKS], links_of),
        Surface("answers of ip: routes", [ROUTES], lambda value: links.read_routes(saying(json.dumps(value)))),
        Surface("answers of nft", [NFT], ruleset_of),
        Surface("answers of LXD", [answer_of_lxd()], lxd.read),
        Surface("LXD of itself", [SERVER], lxd.server),
        Surface("domains of libvirt", [domain_sample()], domain_of),
        Surface("reports of qemu-img", [REPORT], report_of_qemu_img),
    ]


def all_surfaces(scratch: str, mutate: t.Callable[[t.Any], t.Any]) -> list[Surface]:
    """Every reader, with what it needs in a directory of its own."""
    files = Files(scratch)
    records = Records(scratch, mutate)
    return [
        *records.surfaces(),
        *option_surfaces(),
        *Options(records.data.path).surfaces(),
        *image_surfaces(files),
        *host_surfaces(scratch, files),
    ]
