# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The image host bootstrap: what is decided without running anything, and builds with faked commands."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import struct
import subprocess
import tarfile
import typing as t

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    ImageError,
    MissingRequirement,
    NoSpace,
    NotFound,
)
from ansible_collections.minicloud.local.plugins.module_utils._images import bootstrap
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Reporter, Runtime

BOOT = bytes(range(256)) + bytes(254) + b"\x55\xaa"
GRUB = "boot/grub/i386-pc"


class Steps(Reporter):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def step(self, name: str) -> None:
        self.names.append(name)


class Host:
    """Stands in for the commands of a build; fails says which program fails, and with which words."""

    def __init__(self, fails: dict[str, str] | None = None) -> None:
        self.fails = fails or {}
        self.commands: list[list[str]] = []
        self.written = b""
        self.hook = ""

    def __call__(self, argv: t.Sequence[str], **kwargs: t.Any) -> Completed:
        words = list(argv)
        self.commands.append(words)
        names = [os.path.basename(word) for word in words]
        program = next(
            (name for name in ("mmdebstrap", "mke2fs", "qemu-img", "tar", "apt-get", "apt-config") if name in names), ""
        )
        if program in self.fails:
            return Completed(1, "", self.fails[program])
        if program == "mmdebstrap":
            self.make_tree(next(word for word in words if word.endswith("/tree")))
            tree = next(word for word in words if word.endswith("/tree"))
            shutil.copytree(os.path.join(os.path.dirname(tree), "overlay"), tree, dirs_exist_ok=True)
            self.hook = pathlib.Path(tree, "..", "after.sh").read_text(encoding="utf-8")
        elif program == "tar":
            # The real one, without the namespaces around it.
            done = subprocess.run(
                ["tar", *words[names.index("tar") + 1 :]], capture_output=True, check=False, text=True
            )
            return Completed(done.returncode, done.stdout, done.stderr)
        elif program == "qemu-img":
            with open(words[-2], "rb") as file:
                self.written = file.read(4096)
            with open(words[-1], "w", encoding="utf-8") as file:
                file.write("qcow2")
        return Completed(0, "", "")

    @staticmethod
    def make_tree(tree: str) -> None:
        for path in ("etc", "tmp/left", "var/lib/dbus", GRUB):
            os.makedirs(os.path.join(tree, path))
        for name in ("boot/vmlinuz-6.1.0-1-amd64", "boot/initrd.img-6.1.0-1-amd64", "etc/machine-id"):
            with open(os.path.join(tree, name), "w", encoding="utf-8") as file:
                file.write("x")
        with open(os.path.join(tree, GRUB, "boot.img"), "wb") as file:
            file.write(BOOT)
        with open(os.path.join(tree, GRUB, "core.img"), "wb") as file:
            file.write(b"core" * 256)

    def command(self, program: str) -> list[str]:
        return next(words for words in self.commands if any(os.path.basename(word) == program for word in words))


@pytest.fixture(name="ready")
def _ready(monkeypatch: pytest.MonkeyPatch, tmp_path: t.Any) -> str:
    """A host on which everything is there that a build needs; the value is an empty work directory."""
    keyring = tmp_path / "keyring"
    keyring.write_bytes(b"".join(bytes.fromhex(release.keys[0]) for release in bootstrap.RELEASES.values()))
    monkeypatch.setattr(bootstrap, "_KEYRING", str(keyring))
    monkeypatch.setattr(bootstrap, "_SPACE_NEEDED", 0)
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 0)
    monkeypatch.setattr(bootstrap, "find_program", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(Runtime, "program", lambda self, name, package="", purpose="": f"/usr/bin/{name}")
    machine = os.uname()
    monkeypatch.setattr(bootstrap.os, "uname", lambda: os.uname_result((*machine[:4], "x86_64")))
    work = tmp_path / "work"
    work.mkdir()
    return str(work)


def build(
    host: Host, work: str, release: str = "bookworm", arch: str = "x86_64", kind: str = "disk"
) -> tuple[bootstrap.Built, Steps]:
    steps = Steps()
    built = bootstrap.build(Runtime(host, steps), release, arch, os.path.join(work, "..", "target"), work, kind)
    return built, steps


def test_a_build_tells_what_it_made_and_leaves_nothing_else(ready: str) -> None:
    host = Host()
    built, steps = build(host, ready)
    assert built == ("debian", "bookworm", "12", "amd64", "debian", "Debian 12 (bookworm), built from packages")
    assert steps.names == ["packages", "file system", "boot loader", "convert"]
    assert os.listdir(ready) == []
    assert os.path.exists(os.path.join(ready, "..", "target"))
    assert host.written[510:512] == b"\x55\xaa"
    assert host.written[512:520] == b"corecore"


def test_everything_is_installed_in_namespaces_that_die_with_the_build(ready: str) -> None:
    host = Host()
    build(host, ready)
    for program in ("mmdebstrap", "mke2fs"):
        words = host.command(program)
        assert words[1:3] == ["--pdeathsig", "KILL"]
        assert {"--mount", "--pid", "--kill-child"} <= set(words)
        assert "--user" not in words


def test_an_ordinary_user_builds_in_a_user_namespace(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 1000)
    host = Host()
    build(host, ready)
    for program in ("mmdebstrap", "mke2fs"):
        assert {"--user", "--map-root-user", "--map-auto"} <= set(host.command(program))


@pytest.mark.parametrize(
    ("program", "words", "error"),
    [
        ("mmdebstrap", "E: Could not resolve 'mirror.example'", ImageError),
        ("mmdebstrap", "dpkg: error: cannot write: No space left on device", NoSpace),
        ("mke2fs", "mke2fs: No space left on device while populating file system", NoSpace),
        ("qemu-img", "qemu-img: error while writing: No space left on device", NoSpace),
        ("qemu-img", "qemu-img: broken", ImageError),
    ],
)
def test_a_failed_build_says_why_and_leaves_nothing(
    ready: str, program: str, words: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        build(Host({program: words}), ready)
    assert words.split(": ")[-1].split(" while")[0] in str(caught.value)
    assert os.listdir(ready) == []
    assert not os.path.exists(os.path.join(ready, "..", "target"))


def test_a_container_image_is_the_same_system_without_what_boots_it(ready: str) -> None:
    host = Host()
    built, steps = build(host, ready, kind="container")
    assert built == ("debian", "bookworm", "12", "amd64", "debian", "Debian 12 (bookworm), built from packages")
    assert steps.names == ["packages", "archive"]
    packages = next(word for word in host.command("mmdebstrap") if word.startswith("--include=")).split(",")
    assert {"openssh-server", "python3", "cloud-init", "netplan.io", "dbus"} <= set(packages)
    assert not [name for name in packages if "linux-image" in name or "grub" in name or "initramfs" in name]
    assert "grub-mk" not in host.hook
    assert "systemctl enable systemd-networkd.service" in host.hook
    with tarfile.open(os.path.join(ready, "..", "target")) as archive:
        names = archive.getnames()

        def content(name):
            member = archive.extractfile(name)
            assert member
            return member.read()

        metadata = json.loads(content("metadata.yaml"))
        sources = content("rootfs/etc/cloud/cloud.cfg.d/91_minicloud_datasources.cfg")
        config = json.loads(content("rootfs/etc/cloud/cloud.cfg.d/90_minicloud.cfg"))
    assert sources == b"datasource_list: [ LXD, NoCloud, None ]\n"
    assert config["datasource_list"] == ["LXD", "NoCloud", "None"]
    assert names[0] == "metadata.yaml"
    assert {name.partition("/")[0] for name in names} == {"metadata.yaml", "templates", "rootfs"}
    assert "rootfs/etc/ssh/sshd_config.d/60-minicloud.conf" in names
    assert not [name for name in names if "grub.cfg" in name or "fstab" in name or "initramfs" in name]
    assert metadata["architecture"] == "x86_64"
    assert metadata["creation_date"] > 1
    assert (metadata["properties"]["os"], metadata["properties"]["release"]) == ("debian", "bookworm")
    assert {f"templates/{template['template']}" for template in metadata["templates"].values()} <= set(names)
    assert os.listdir(ready) == []


def test_an_archive_that_fails_leaves_nothing(ready: str) -> None:
    with pytest.raises(NoSpace):
        build(Host({"tar": "tar: rootfs: Cannot write: No space left on device"}), ready, kind="container")
    assert os.listdir(ready) == []
    assert not os.path.exists(os.path.join(ready, "..", "target"))


def test_unknown_releases_and_architectures_are_refused(ready: str) -> None:
    with pytest.raises(NotFound, match="bookworm, trixie"):
        build(Host(), ready, "potato")
    with pytest.raises(NotFound, match="amd64"):
        build(Host(), ready, "bookworm", "aarch64")


def test_a_keyring_that_is_missing_or_too_old(ready: str, monkeypatch: pytest.MonkeyPatch, tmp_path: t.Any) -> None:
    old = tmp_path / "old"
    old.write_bytes(bytes.fromhex(bootstrap.RELEASES["bookworm"].keys[0]))
    monkeypatch.setattr(bootstrap, "_KEYRING", str(old))
    build(Host(), ready, "bookworm")
    with pytest.raises(MissingRequirement, match="Upgrade the package debian-archive-keyring"):
        build(Host(), ready, "trixie")
    old.unlink()
    with pytest.raises(MissingRequirement, match="Install the package debian-archive-keyring"):
        build(Host(), ready, "bookworm")


def test_too_little_space_is_found_before_the_work(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_SPACE_NEEDED", 1 << 62)
    host = Host()
    with pytest.raises(NoSpace, match="MiB are free"):
        build(host, ready)
    assert host.commands == []


def test_a_user_without_subordinate_ids_is_told_the_command(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 1000)

    def refuse(argv: t.Sequence[str], **kwargs: t.Any) -> Completed:
        return Completed(1, "", 'unshare: no line matching user "me" in /etc/subuid\n')

    with pytest.raises(MissingRequirement, match="usermod --add-subuids"):
        bootstrap.build(Runtime(refuse), "bookworm", "amd64", os.path.join(ready, "target"), ready)


def test_the_partition_table_is_where_it_belongs() -> None:
    area = bootstrap.boot_area(BOOT, b"C" * 1000, 0x01020304, 1 << 31)
    assert area[:440] == BOOT[:440]
    assert area[440:446] == b"\x04\x03\x02\x01\x00\x00"
    active, kind, first, sectors = struct.unpack("<B3xB3xII", area[446:462])
    assert (active, kind, first, sectors) == (0x80, 0x83, 2048, (1 << 31) // 512 - 2048)
    assert area[462:510] == bytes(48)
    assert area[512:] == b"C" * 1000


def test_a_boot_loader_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ImageError, match="does not fit"):
        bootstrap.boot_area(BOOT, bytes(2047 * 512 + 1), 1, 1 << 31)
    with pytest.raises(ImageError, match="boot sector"):
        bootstrap.boot_area(BOOT[:-1], b"", 1, 1 << 31)


def test_recipes_differ_by_release_and_content(monkeypatch: pytest.MonkeyPatch) -> None:
    first = bootstrap.recipe_hash("bookworm", "x86_64")
    assert first == bootstrap.recipe_hash("bookworm", "amd64")
    assert first != bootstrap.recipe_hash("trixie", "amd64")
    assert first != bootstrap.recipe_hash("bookworm", "amd64", "container")
    monkeypatch.setitem(bootstrap._FILES, "etc/motd", "hello")
    assert first != bootstrap.recipe_hash("bookworm", "amd64")


@pytest.mark.parametrize(
    ("text", "mirror"),
    [
        ("", bootstrap._DEFAULT_MIRROR),
        (
            (
                "http://a.example/debian/|bookworm|Debian|main\nhttp://a.example/debian/|bookworm-updates|Debian|main\n"
                "http://b.example/sec/|bookworm-security|Debian|main\n"
            ),
            ("http://a.example/debian", "http://b.example/sec", True),
        ),
        # nothing fetched yet: the origin is unknown
        ("https://a.example/debian|bookworm|$(ORIGIN)|main\n", ("https://a.example/debian", None, False)),
        # others' archives for Debian, and another distribution
        (
            (
                "https://docker.example/linux/debian|bookworm|Docker|stable\nhttps://h.example/|bookworm|H|main\n"
                "https://apt.example/repo|bookworm|$(ORIGIN)|main\n"
            ),
            bootstrap._DEFAULT_MIRROR,
        ),
        ("http://archive.example/ubuntu/|noble|Ubuntu|main\n", bootstrap._DEFAULT_MIRROR),
        ("cdrom:[Debian]/|bookworm|Debian|main\nfile:/srv/debian|bookworm|Debian|main\n", bootstrap._DEFAULT_MIRROR),
    ],
)
def test_the_mirror_of_the_host(text: str, mirror: t.Any) -> None:
    assert bootstrap.parse_mirror(text) == mirror


def test_a_list_of_mirrors_gives_its_first(tmp_path: t.Any) -> None:
    names = tmp_path / "debian.list"
    names.write_text("https://first.example/debian\nhttps://second.example/debian\n", encoding="utf-8")
    assert bootstrap.parse_mirror(f"mirror+file:{names}|bookworm|Debian|main").archive == "https://first.example/debian"


def test_package_sources_of_an_image() -> None:
    text = bootstrap.image_sources("trixie", bootstrap.Mirror("http://m.example/debian", "http://m.example/sec", True))
    assert "URIs: http://m.example/debian\nSuites: trixie trixie-updates\n" in text
    assert "URIs: http://m.example/sec\nSuites: trixie-security\n" in text
    secret = bootstrap.image_sources("trixie", bootstrap.Mirror("http://me:pw@m.example/debian", None, False))
    assert "pw" not in secret
    assert "URIs: http://m.example/debian\n" in secret
    assert bootstrap.image_sources("trixie", bootstrap._DEFAULT_MIRROR) == ""


def test_settings_that_are_taken_over() -> None:
    lines = bootstrap.parse_apt_settings(
        "Acquire::http::Proxy http://proxy.example:3128\n"
        "Acquire::https::Proxy http://127.0.0.1:3128\n"
        "Acquire::http::Proxy::m.example DIRECT\n"
        "Acquire::Check-Valid-Until false\n"
        "Acquire::CompressionTypes::xz xz\n"
    )
    assert lines == [
        'Acquire::http::Proxy "http://proxy.example:3128"',
        'Acquire::https::Proxy "http://127.0.0.1:3128"',
        'Acquire::http::Proxy::m.example "DIRECT"',
        'Acquire::Check-Valid-Until "false"',
    ]
    assert [bootstrap._usable_in_guest(line) for line in lines] == [True, False, True, True]
    assert not bootstrap._usable_in_guest('Acquire::http::Proxy "http://me:pw@proxy.example"')


def test_cloud_init_reads_the_configuration_as_json() -> None:
    config = json.loads(bootstrap._FILES["etc/cloud/cloud.cfg.d/90_minicloud.cfg"])
    assert config["datasource_list"] == ["NoCloud", "ConfigDrive", "None"]
    for module in ("growpart", "resizefs", "users-groups", "ssh", "write-files", "bootcmd", "mounts", "disk_setup"):
        assert module in config["cloud_init_modules"]
    for module in ("runcmd", "ntp", "apt-configure", "timezone", "locale"):
        assert module in config["cloud_config_modules"]
    assert "package-update-upgrade-install" in config["cloud_final_modules"]
