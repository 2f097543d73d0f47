# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The image host ``bootstrap:`` builds cloud images from the packages of a distribution: disks and container images.

A disk is an ordinary one: an MBR, one bootable ext4 partition, GRUB in front of it. A container image is one tarball
for LXD: the same system without kernel and boot loader, and LXD's metadata. Nothing is mounted on
the host and no loop device is used. The packages are installed by mmdebstrap in namespaces of its own, which take
every mount and process with them when they end, however they end; mke2fs copies the tree into a file system; the
partition table and the boot loader are a few bytes that are written here.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import struct
import time
import typing as t
import uuid

from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    CommandFailed,
    ImageError,
    MissingRequirement,
    NoSpace,
    NotFound,
)
from ansible_collections.minicloud.local.plugins.module_utils._images import lxd_metadata
from ansible_collections.minicloud.local.plugins.module_utils._model import DISK, normal_arch
from ansible_collections.minicloud.local.plugins.module_utils._runtime import LONG_COMMAND_TIMEOUT, find_program
from ansible_collections.minicloud.local.plugins.module_utils._writing import made_anew

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime


class Built(t.NamedTuple):
    """What a build tells of the image that it made. arch is in Debian's words (amd64)."""

    os: str
    release: str
    version: str
    arch: str
    user: str
    title: str


class Release(t.NamedTuple):
    """A release that can be built. keys -- ids of the keys that its archive is signed with, one of them suffices."""

    version: str
    keys: tuple[str, ...]


class Mirror(t.NamedTuple):
    """Where packages come from: the archive, and what exists beside it (None: not available there).

    An empty archive is the public one that mmdebstrap takes by itself, and writes into the image.
    """

    archive: str
    security: str | None
    updates: bool


RELEASES: dict[str, Release] = {
    "bookworm": Release("12", ("B7C5D7D6350947F8", "F8D2585B8783D481")),
    "trixie": Release("13", ("225629DF75B188BD", "762F67A0B2C39DE4")),
}

OS = "debian"
USER = "debian"
LABEL = "root"

# To be raised when the code below changes what is built although no text that recipe_hash() sees has changed.
_RECIPE = 1

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Where the host has no archive of Debian among its own: mmdebstrap knows the public one.
_DEFAULT_MIRROR = Mirror("", None, False)

_MIB = 1024 * 1024
_SECTOR = 512
_FIRST_SECTOR = 2048
_DISK_SIZE = 2048 * _MIB
_SPACE_NEEDED = 2048 * _MIB

# Boots on every hypervisor: linux-image-amd64 has 9p, virtiofs, AHCI and IDE, the cloud kernel has not.
_BOOT_PACKAGES = "linux-image-amd64 initramfs-tools zstd grub-pc-bin grub2-common"
_PACKAGES = (
    "systemd-sysv systemd-resolved systemd-timesyncd libpam-systemd dbus udev kmod acl",
    "cloud-init cloud-guest-utils fdisk e2fsprogs netplan.io",
    "iproute2 iputils-ping netbase openssh-server openssh-sftp-server sshfs ca-certificates curl",
    "sudo python3 python3-apt debian-archive-keyring gpg less procps vim-tiny",
)

# Left out of what the image is made of; packages that users install later are complete.
_NOT_UNPACKED = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    # Python's byte code as programs: all that it does is to load a kernel module at each boot
    "path-exclude=/usr/lib/binfmt.d/python*",
)

# What the boot disk may hang on. They are in the initramfs to be found by udev, not loaded by force.
_DISK_MODULES = (
    "virtio_pci virtio_blk virtio_scsi virtio_mmio sd_mod sr_mod ahci ata_piix ata_generic nvme ext4 crc32c_generic"
    " mptspi mptsas hv_vmbus hv_storvsc vmw_pvscsi xen_blkfront usb_storage uas xhci_pci"
)

# Under emulation a timer check may fail that real hardware passes, and five-level page tables only cost.
_KERNEL_OPTIONS = "console=tty0 console=ttyS0,115200 no_timer_check no5lvl"

_CLOUD_CONFIG: dict[str, t.Any] = {
    "datasource_list": ["NoCloud", "ConfigDrive", "None"],
    # Every key that users are likely to write has its module. Left out are agents of vendors, snap, and modules that
    # inspect boot loaders or print keys.
    "cloud_init_modules": [
        "seed_random",
        "bootcmd",
        "write-files",
        "growpart",
        "resizefs",
        "disk_setup",
        "mounts",
        "set_hostname",
        "update_hostname",
        "update_etc_hosts",
        "ca-certs",
        "rsyslog",
        "users-groups",
        "ssh",
    ],
    "cloud_config_modules": [
        "ssh-import-id",
        "keyboard",
        "locale",
        "set-passwords",
        "apt-pipelining",
        "apt-configure",
        "ntp",
        "timezone",
        "runcmd",
    ],
    "cloud_final_modules": [
        "package-update-upgrade-install",
        "write-files-deferred",
        "ansible",
        "puppet",
        "chef",
        "salt-minion",
        "scripts-vendor",
        "scripts-per-once",
        "scripts-per-boot",
        "scripts-per-instance",
        "scripts-user",
        "phone-home",
        "final-message",
        "power-state-change",
    ],
    "locale": False,
    "ssh_genkeytypes": ["ed25519", "ecdsa"],
    "apt": {"preserve_sources_list": True},
    "resize_rootfs": True,
}

_FILES: dict[str, str] = {
    "etc/fstab": f"LABEL={LABEL} / ext4 noatime,errors=remount-ro,noinit_itable 0 1\n",
    "etc/hosts": (
        "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n"
    ),
    "etc/default/locale": "LANG=C.UTF-8\n",
    "etc/default/grub": (
        "# After a change run update-grub.\n"
        "GRUB_DEFAULT=0\n"
        "GRUB_TIMEOUT=0\n"
        "GRUB_TIMEOUT_STYLE=hidden\n"
        "GRUB_RECORDFAIL_TIMEOUT=0\n"
        "GRUB_DISTRIBUTOR=Debian\n"
        "GRUB_TERMINAL=console\n"
        "GRUB_DISABLE_OS_PROBER=true\n"
        'GRUB_CMDLINE_LINUX_DEFAULT=""\n'
        f'GRUB_CMDLINE_LINUX="{_KERNEL_OPTIONS}"\n'
    ),
    "etc/kernel-img.conf": "do_symlinks = no\n",
    "etc/initramfs-tools/conf.d/minicloud": "MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=3\nRESUME=none\n",
    "etc/initramfs-tools/hooks/minicloud": (
        "#!/bin/sh\n"
        '[ "$1" != prereqs ] || exit 0\n'
        ". /usr/share/initramfs-tools/hook-functions\n"
        f"manual_add_modules {_DISK_MODULES}\n"
    ),
    "etc/ssh/sshd_config.d/60-minicloud.conf": "PasswordAuthentication no\nKbdInteractiveAuthentication no\n",
    "etc/systemd/resolved.conf.d/minicloud.conf": "[Resolve]\nLLMNR=no\nMulticastDNS=no\n",
    "etc/systemd/system/systemd-networkd-wait-online.service.d/minicloud.conf": (
        "[Service]\nExecStart=\nExecStart=/lib/systemd/systemd-networkd-wait-online --timeout=30\n"
    ),
    # networkd asks for wireless devices, which loads a module of a megabyte.
    "etc/modprobe.d/minicloud.conf": "alias net-pf-16-proto-16-family-nl80211 off\n",
    "etc/apt/apt.conf.d/80minicloud": 'Acquire::Languages "none";\n',
    # cloud-init has its own and better look at the seed later; without one it uses the datasource None.
    "etc/cloud/ds-identify.cfg": "policy: enabled\n",
    # cloud-init calls this at the first boot.
    "usr/local/sbin/netplan": (
        "#!/bin/sh\n"
        "# The usual call without netplan's own start, which takes seconds where the processor is emulated.\n"
        'if [ "$*" = generate ]; then\n'
        "  for program in /usr/libexec/netplan/generate /lib/netplan/generate; do\n"
        '    if [ -x "$program" ]; then "$program" && exec systemctl daemon-reload; exit 1; fi\n'
        "  done\n"
        "fi\n"
        'exec /usr/sbin/netplan "$@"\n'
    ),
    # JSON is YAML, too.
    "etc/cloud/cloud.cfg.d/90_minicloud.cfg": json.dumps(_CLOUD_CONFIG, indent=1) + "\n",
    # The list that cloud-init's early shell script reads must be in one line.
    "etc/cloud/cloud.cfg.d/91_minicloud_datasources.cfg": "datasource_list: [ NoCloud, ConfigDrive, None ]\n",
}
# The files among these that only a system with a kernel and a disk of its own needs.
_BOOT_FILES = (
    "etc/fstab",
    "etc/default/grub",
    "etc/kernel-img.conf",
    "etc/initramfs-tools/conf.d/minicloud",
    "etc/initramfs-tools/hooks/minicloud",
    "etc/modprobe.d/minicloud.conf",
)
# LXD tells a container its configuration; where it may not, what its templates have written is a NoCloud seed.
_CONTAINER_SOURCES = ["LXD", "NoCloud", "None"]
_EXECUTABLE = ("etc/initramfs-tools/hooks/minicloud", "usr/local/sbin/netplan")

_NOT_STARTED = (
    "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service"
    " cloud-init-hotplugd.socket systemd-pstore.service grub-common.service"
)
# They only load modules that nothing in a fresh guest uses; each is loaded when something asks for it.
_MASKED = "systemd-repart.service modprobe@efi_pstore.service modprobe@drm.service"

# Before the packages beyond the essential ones: their configuration reads these files. $1 is the tree.
_HOOK_BEFORE = """#!/bin/sh
set -eu
cp -rT --no-preserve=ownership "$(dirname "$0")/overlay" "$1"
# Files that services make there belong to other users: after a kill, the user who builds could not remove them.
mount -t tmpfs -o mode=0755 tmpfs "$1/run"
"""

# After all packages. What runs here runs in the namespaces of the build.
_HOOK_AFTER = """#!/bin/sh
set -eu
tree=$1
inside() { chroot "$tree" "$@"; }
inside systemctl disable {not_started} >/dev/null 2>&1 || true
inside systemctl mask {masked}
inside groupadd --system --force netdev
inside systemctl enable systemd-networkd.service systemd-resolved.service systemd-timesyncd.service ssh.service
"""
_HOOK_BOOT = """mkdir -p "$tree/boot/grub/i386-pc"
cp "$tree"/usr/lib/grub/i386-pc/*.mod "$tree"/usr/lib/grub/i386-pc/*.lst "$tree/boot/grub/i386-pc/"
inside grub-mkimage --format=i386-pc --prefix='(,msdos1)/boot/grub' --output=/boot/grub/i386-pc/core.img {grub_modules}
cp "$tree/usr/lib/grub/i386-pc/boot.img" "$tree/boot/grub/i386-pc/"
inside grub-editenv /boot/grub/grubenv create
"""
_HOOK_END = """umount "$tree/run"
rm -f "$tree"/etc/ssh/ssh_host_* "$tree"/etc/hostname
rm -f "$tree"/etc/apt/apt.conf.d/99mmdebstrap "$tree"/etc/dpkg/dpkg.cfg.d/99mmdebstrap
rm -rf "$tree"/var/log/apt "$tree"/var/log/dpkg.log "$tree"/var/log/alternatives.log "$tree"/var/log/bootstrap.log
rm -rf "$tree"/var/cache/debconf/*-old "$tree"/var/lib/dpkg/*-old "$tree"/var/lib/systemd/random-seed
"""

_GRUB_MODULES = "biosdisk part_msdos ext2 normal configfile linux search search_fs_uuid search_label gzio echo test"

_GRUB_CONFIG = """# Made with the image; update-grub replaces it when a kernel is installed.
set default=0
set timeout=0
search --no-floppy --fs-uuid --set=root {uuid}
menuentry 'Debian' {{
  linux /boot/vmlinuz-{version} root=UUID={uuid} ro {options}
  initrd /boot/initrd.img-{version}
}}
"""

# An explicit set of features: what GRUB and the oldest release can read, whatever the host's defaults are.
_MKE2FS_CONFIG = """[defaults]
base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
default_mntopts = acl,user_xattr
enable_periodic_fsck = 0
blocksize = 4096
inode_size = 256
inode_ratio = 16384
[fs_types]
ext4 = {
 features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
}
"""


def _files(kind: str) -> dict[str, str]:
    """What is put into an image of a kind, by path."""
    if kind == DISK:
        return _FILES
    files = {path: text for path, text in _FILES.items() if path not in _BOOT_FILES}
    config = {**_CLOUD_CONFIG, "datasource_list": _CONTAINER_SOURCES}
    files["etc/cloud/cloud.cfg.d/90_minicloud.cfg"] = json.dumps(config, indent=1) + "\n"
    sources = f"datasource_list: [ {', '.join(_CONTAINER_SOURCES)} ]\n"
    files["etc/cloud/cloud.cfg.d/91_minicloud_datasources.cfg"] = sources
    return files


def _packages(kind: str) -> tuple[str, ...]:
    return (_BOOT_PACKAGES, *_PACKAGES) if kind == DISK else _PACKAGES


def _hook_after(kind: str) -> str:
    return _HOOK_AFTER + (_HOOK_BOOT if kind == DISK else "") + _HOOK_END


def recipe_hash(release: str, arch: str, kind: str = DISK) -> str:
    """A digest that changes whenever a build would give something else for reasons that lie in this file."""
    recipe = [
        _RECIPE,
        release,
        RELEASES[release].version if release in RELEASES else "",
        debian_arch(arch),
        _packages(kind),
        _NOT_UNPACKED,
        _files(kind),
        _NOT_STARTED,
        _MASKED,
        _HOOK_BEFORE,
        _hook_after(kind),
        _GRUB_MODULES,
        _GRUB_CONFIG,
        _KERNEL_OPTIONS,
        _MKE2FS_CONFIG,
        _DISK_SIZE,
        LABEL,
    ]
    if kind != DISK:
        recipe.append({name: str(content) for name, content in _metadata(release, arch, 0).items()})
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()


def debian_arch(arch: str) -> str:
    """Debian's name of an architecture: amd64 for x86_64, arm64 for aarch64, the others as they are."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(arch, arch)


def build(runtime: Runtime, release: str, arch: str, target: str, work_dir: str, kind: str = DISK) -> Built:
    """Build an image and put it at TARGET: an uncompressed qcow2 without a backing file, or a tarball for LXD.

    work_dir -- an empty directory on target's file system. What the build makes in it is removed again; after
    a kill it can be removed with a plain recursive delete, for nothing is ever mounted where the host sees it.

    Raises NotFound (no such release or architecture), MissingRequirement, NoSpace, ImageError.
    """
    tools = _preflight(runtime, release, arch, work_dir, kind)
    work = os.path.join(work_dir, "build")
    try:
        os.mkdir(work)
        _build(runtime, tools, release, target, work, kind)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(work_dir, str(error)) from error
        raise ImageError(f"the image {release} could not be built", str(error)) from error
    finally:
        _remove(runtime, tools, work)
    version = RELEASES[release].version
    return Built(OS, release, version, "amd64", USER, f"Debian {version} ({release}), built from packages")


class _Tools(t.NamedTuple):
    mmdebstrap: str
    # Of a disk (empty for a container): what makes its file system, and what converts it; of a container: tar.
    mke2fs: str
    qemu_img: str
    tar: str
    # Runs a command as root of the tree's owners, in namespaces that end with it and with us.
    enclose: list[str]


def _preflight(runtime: Runtime, release: str, arch: str, work_dir: str, kind: str) -> _Tools:
    """Find out that a build can work before it costs time."""
    if release not in RELEASES:
        raise NotFound(
            f"the image host bootstrap has no release {release}", "", f"It can build: {', '.join(sorted(RELEASES))}."
        )
    machine = os.uname().machine
    if debian_arch(arch) != "amd64":
        raise NotFound(
            f"the image host bootstrap has no {release} for {arch}",
            "it builds for PCs only",
            "It can build: amd64.",
        )
    if machine != "x86_64":
        raise MissingRequirement(
            f"{release} for amd64 cannot be built on this host",
            f"its programs have to run during the build, and this host is {machine}",
            "Build on an x86_64 host, or use an image from another image host.",
        )
    purpose = "to build images from packages"
    mmdebstrap = runtime.program("mmdebstrap", "mmdebstrap", purpose)
    disk = kind == DISK
    mke2fs = runtime.program("mke2fs", "e2fsprogs", purpose) if disk else ""
    qemu_img = runtime.program("qemu-img", "qemu-utils", purpose) if disk else ""
    tar = "" if disk else runtime.program("tar", "tar", purpose)
    setpriv = runtime.program("setpriv", "util-linux", purpose)
    unshare = runtime.program("unshare", "util-linux", purpose)
    _check_keyring(release)
    _check_file_system(work_dir)
    enclose = [setpriv, "--pdeathsig", "KILL", "--", unshare, "--mount", "--pid", "--fork", "--kill-child"]
    if os.geteuid() != 0:
        enclose += ["--user", "--map-root-user", "--map-auto"]
        _check_namespaces(runtime, enclose)
    else:
        done = runtime.run([*enclose, "--", "true"])
        if done.rc != 0:
            raise MissingRequirement(
                "images cannot be built from packages here",
                f"mount and process namespaces cannot be made: {done.err.strip()}",
                "In a container, give it CAP_SYS_ADMIN (a privileged container).",
            )
    return _Tools(mmdebstrap, mke2fs, qemu_img, tar, [*enclose, "--"])


def _check_keyring(release: str) -> None:
    try:
        with open(_KEYRING, "rb") as file:
            keyring = file.read()
    except OSError:
        raise MissingRequirement(
            "the keys that Debian's packages are signed with are not on this host",
            f"{_KEYRING} cannot be read",
            "Install the package debian-archive-keyring.",
        ) from None
    if not any(bytes.fromhex(key) in keyring for key in RELEASES[release].keys):
        raise MissingRequirement(
            f"the keys that Debian {release} is signed with are not on this host",
            f"{_KEYRING} is older than that release",
            "Upgrade the package debian-archive-keyring.",
        )


def _check_file_system(work_dir: str) -> None:
    system = os.statvfs(work_dir)
    if system.f_flag & getattr(os, "ST_NOEXEC", 8):
        raise MissingRequirement(
            f"images cannot be built in {work_dir}",
            "its file system is mounted noexec, and programs of the new image have to run there",
            "Use a data directory on another file system.",
        )
    free = system.f_bavail * system.f_frsize
    if free < _SPACE_NEEDED:
        raise _no_space(work_dir, f"{free // _MIB} MiB are free there, a build needs {_SPACE_NEEDED // _MIB} MiB")


def _no_space(where: str, why: str) -> NoSpace:
    return NoSpace(
        f"there is not enough space for building an image in {where}",
        why,
        "Make room on that file system, or use a data directory on another one.",
    )


def _check_namespaces(runtime: Runtime, enclose: t.Sequence[str]) -> None:
    """An ordinary user needs a range of subordinate ids and the kernel's leave to use them."""
    runtime.program("newuidmap", "uidmap", "to build images as an ordinary user")
    done = runtime.run([*enclose, "--", "true"])
    if done.rc == 0:
        return
    reason = done.err.strip()
    hint = "Build as root (become: true), or let ordinary users make user namespaces."
    if "unrecognized option" in reason:
        hint = "An ordinary user needs util-linux 2.38 or newer for this; build as root (become: true) otherwise."
    elif "subuid" in reason or "subgid" in reason or "subordinate" in reason or not _has_subordinate_ids():
        hint = "Give the user subordinate ids: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER."
    else:
        for path, forbidding, setting in (
            (
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                "1",
                "kernel.apparmor_restrict_unprivileged_userns=0",
            ),
            ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
            ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
        ):
            if _first_line(path) == forbidding:
                hint = f"Set it with sysctl {setting}, or build as root (become: true)."
                break
    raise MissingRequirement(
        "an ordinary user cannot build images from packages on this host",
        f"user namespaces with subordinate ids cannot be made: {reason}",
        hint,
    )


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""


def _has_subordinate_ids() -> bool:
    import pwd

    try:
        names = {pwd.getpwuid(os.geteuid()).pw_name, str(os.geteuid())}
        for path in ("/etc/subuid", "/etc/subgid"):
            with open(path, encoding="utf-8", errors="replace") as file:
                if not any(line.split(":")[0] in names for line in file):
                    return False
    except (KeyError, OSError):
        return False
    return True


def _build(runtime: Runtime, tools: _Tools, release: str, target: str, work: str, kind: str) -> None:
    tree = os.path.join(work, "tree")
    runtime.report.step("packages")
    settings = _apt_settings(runtime)
    mirror = _host_mirror(runtime)
    _install(runtime, tools, release, mirror, settings, work, tree, kind)
    _finish_tree(tree, release, mirror, settings)
    finished = _make_disk(runtime, tools, work, tree) if kind == DISK else _archive(runtime, tools, release, work, tree)
    with open(finished, "rb") as file:
        os.fsync(file.fileno())
    os.replace(finished, target)


def _metadata(release: str, arch: str, created: int) -> dict[str, bytes]:
    version = RELEASES[release].version if release in RELEASES else ""
    properties = {
        "os": OS,
        "release": release,
        "version": version,
        "architecture": debian_arch(arch),
        "variant": "cloud",
        "description": f"Debian {version} ({release}), built from packages",
    }
    return lxd_metadata.files(normal_arch(arch), created, properties)


def _archive(runtime: Runtime, tools: _Tools, release: str, work: str, tree: str) -> str:
    """Make the tree a container image for LXD: one tarball with the metadata in it. Not compressed, as disks are not:
    who makes containers waits for what reads it, not for space."""
    runtime.report.step("archive")
    finished = os.path.join(work, "image.tar")
    for path, content in _metadata(release, "amd64", int(time.time())).items():
        _write(os.path.join(work, path), content.decode())
    os.rename(tree, os.path.join(work, "rootfs"))
    argv = [
        *tools.enclose,
        *(tools.tar, "--create", "--format=posix", "--pax-option=delete=atime,delete=ctime", "--numeric-owner"),
        *("--xattrs", "--xattrs-include=security.capability", "--owner=0", "--group=0", f"--directory={work}"),
        *(f"--file={finished}", "metadata.yaml", "templates"),
    ]
    _run(runtime, argv, "the metadata could not be archived", work)
    argv = [word for word in argv[:-2] if word not in ("--create", "--owner=0", "--group=0")]
    _run(runtime, [*argv, "--append", "rootfs"], "the root file system could not be archived", work)
    return finished


def _make_disk(runtime: Runtime, tools: _Tools, work: str, tree: str) -> str:
    raw = os.path.join(work, "disk.raw")
    finished = os.path.join(work, "disk.qcow2")
    file_system = str(uuid.uuid4())
    version = _kernel_version(tree)
    _write(
        os.path.join(tree, "boot/grub/grub.cfg"),
        _GRUB_CONFIG.format(uuid=file_system, version=version, options=_KERNEL_OPTIONS),
    )
    with open(os.path.join(tree, "boot/grub/i386-pc/boot.img"), "rb") as file:
        boot = file.read()
    with open(os.path.join(tree, "boot/grub/i386-pc/core.img"), "rb") as file:
        core = file.read()

    runtime.report.step("file system")
    _write(os.path.join(work, "mke2fs.conf"), _MKE2FS_CONFIG)
    with open(made_anew(raw), "wb") as file:
        file.truncate(_DISK_SIZE)
    offset = _FIRST_SECTOR * _SECTOR
    argv = [
        *tools.enclose,
        *(tools.mke2fs, "-q", "-F", "-t", "ext4", "-L", LABEL, "-U", file_system, "-m", "1", "-d", tree),
        *("-E", f"offset={offset},lazy_itable_init=0,lazy_journal_init=1,root_owner=0:0"),
        *(raw, f"{(_DISK_SIZE - offset) // 1024}k"),
    ]
    _run(runtime, argv, "the file system could not be made", work, {"MKE2FS_CONFIG": os.path.join(work, "mke2fs.conf")})
    _remove(runtime, tools, tree)

    runtime.report.step("boot loader")
    with open(raw, "r+b") as file:
        file.write(boot_area(boot, core, int.from_bytes(os.urandom(4), "little"), _DISK_SIZE))

    runtime.report.step("convert")
    argv = [tools.qemu_img, "convert", "-f", "raw", "-O", "qcow2", "-o", "compat=1.1", raw, finished]
    _run(runtime, argv, "the disk could not be converted to qcow2", work)
    return finished


def _install(
    runtime: Runtime,
    tools: _Tools,
    release: str,
    mirror: Mirror,
    settings: t.Sequence[str],
    work: str,
    tree: str,
    kind: str,
) -> None:
    """Have mmdebstrap make the tree. Root's files in it belong to the user who builds, so that he can remove it."""
    overlay = os.path.join(work, "overlay")
    for path, text in _files(kind).items():
        _write(os.path.join(overlay, path), text, 0o755 if path in _EXECUTABLE else 0o644)
    before = _write(os.path.join(work, "before.sh"), _HOOK_BEFORE, 0o755)
    text = _hook_after(kind).replace("{not_started}", _NOT_STARTED).replace("{masked}", _MASKED)
    text = text.replace("{grub_modules}", _GRUB_MODULES)
    after = _write(os.path.join(work, "after.sh"), text, 0o755)
    argv = [
        *tools.enclose,
        *(tools.mmdebstrap, "--mode=unshare", "--variant=apt", "--format=directory", "--architectures=amd64"),
        *("--skip=check/empty", "--verbose", f"--include={','.join(' '.join(_packages(kind)).split())}"),
        *(f"--aptopt={line}" for line in (*settings, 'Acquire::Languages "none"', 'APT::Sandbox::User "root"')),
        *(f"--dpkgopt={line}" for line in ("force-unsafe-io", *_NOT_UNPACKED)),
        *(f"--essential-hook={before}", f"--customize-hook={after}"),
        *(release, tree, *_one_line_sources(release, mirror)),
    ]
    # Where root's PATH is narrow, dpkg would miss its helpers; a temporary directory elsewhere would outlive a kill.
    path = os.pathsep.join(["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"])
    _run(runtime, argv, f"the packages of {release} could not be installed", work, {"TMPDIR": work, "PATH": path})


def _finish_tree(tree: str, release: str, mirror: Mirror, settings: t.Sequence[str]) -> None:
    """What mmdebstrap's own cleaning would undo, and what depends on the host's settings."""
    etc = os.path.join(tree, "etc")
    sources = image_sources(release, mirror)
    if sources:  # else those that mmdebstrap has written stay
        _write(os.path.join(etc, "apt/sources.list.d/debian.sources"), sources)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(etc, "apt/sources.list"))
    kept = [line for line in settings if _usable_in_guest(line)]
    if kept:
        _write(os.path.join(etc, "apt/apt.conf.d/81minicloud-host"), "".join(f"{line};\n" for line in kept))
    _write(os.path.join(etc, "hostname"), "debian\n")
    _write(os.path.join(etc, "machine-id"), "")
    for path in ("resolv.conf", "../var/lib/dbus/machine-id"):
        with_path = os.path.join(etc, path)
        if os.path.lexists(with_path):
            os.unlink(with_path)
    os.symlink("../run/systemd/resolve/stub-resolv.conf", os.path.join(etc, "resolv.conf"))
    with os.scandir(os.path.join(tree, "tmp")) as entries:
        for entry in entries:
            shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)


def _kernel_version(tree: str) -> str:
    prefix = "vmlinuz-"
    versions = sorted(name[len(prefix) :] for name in os.listdir(os.path.join(tree, "boot")) if name.startswith(prefix))
    if not versions or not os.path.exists(os.path.join(tree, "boot", f"initrd.img-{versions[-1]}")):
        raise ImageError("the built image has no kernel or no initramfs", "the packages did not install them")
    return versions[-1]


def boot_area(boot: bytes, core: bytes, signature: int, disk_size: int) -> bytes:
    """Everything before the first partition: GRUB's boot sector with a partition table in it, then GRUB's core.

    boot.img loads the core from the sector after it unless it is patched, and the core's own block list goes on
    from there; so two plain copies make a bootable disk.
    """
    if len(boot) != _SECTOR or boot[510:] != b"\x55\xaa":
        raise ImageError("the boot sector of GRUB is not what it should be", f"boot.img has {len(boot)} bytes")
    if len(core) > (_FIRST_SECTOR - 1) * _SECTOR:
        raise ImageError("GRUB's core does not fit in front of the first partition", f"it has {len(core)} bytes")
    sectors = disk_size // _SECTOR - _FIRST_SECTOR
    # CHS addresses beyond what they can express: everybody uses the sector numbers.
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", _FIRST_SECTOR, sectors)
    table = entry + bytes(48)
    return boot[:440] + struct.pack("<IH", signature, 0) + table + b"\x55\xaa" + core


def _one_line_sources(release: str, mirror: Mirror) -> list[str]:
    return [f"deb [signed-by={_KEYRING}] {uri} {suite} main" for uri, suite in _suites(release, mirror)]


def _suites(release: str, mirror: Mirror) -> list[tuple[str, str]]:
    if not mirror.archive:
        return []
    suites = [(mirror.archive, release)]
    if mirror.updates:
        suites.append((mirror.archive, f"{release}-updates"))
    if mirror.security:
        suites.append((mirror.security, f"{release}-security"))
    return suites


def image_sources(release: str, mirror: Mirror) -> str:
    """The image's list of package sources, in deb822 format. A password in a mirror's address stays on the host."""
    groups: dict[str, list[str]] = {}
    for uri, suite in _suites(release, mirror):
        groups.setdefault(_WITH_PASSWORD.sub(r"\1", uri), []).append(suite)
    return "\n".join(
        f"Types: deb\nURIs: {uri}\nSuites: {' '.join(suites)}\nComponents: main\nSigned-By: {_KEYRING}\n"
        for uri, suites in groups.items()
    )


_WITH_PASSWORD = re.compile(r"^([a-z+]+://)[^/@]*@")

_INDEX_FORMAT = "$(REPO_URI)|$(RELEASE)|$(ORIGIN)|$(COMPONENT)"


def _host_mirror(runtime: Runtime) -> Mirror:
    """The mirror that the host itself uses for Debian, or Debian's own."""
    apt_get = find_program("apt-get")
    if apt_get is None:
        return _DEFAULT_MIRROR
    done = runtime.run([apt_get, "indextargets", "--format", _INDEX_FORMAT, "Created-By: Packages"])
    return parse_mirror(done.out) if done.rc == 0 else _DEFAULT_MIRROR


def parse_mirror(text: str) -> Mirror:
    """The mirror among what apt-get indextargets prints in the format above.

    The origin is known only for sources whose lists apt has fetched: else the last part of the path must do.
    """
    archive: str | None = None
    security: str | None = None
    updates = False
    for line in text.splitlines():
        uri, suite, origin, component = (line.split("|") + ["", "", ""])[:4]
        uri = _plain_uri(uri)
        if component != "main" or not uri:
            continue
        known = origin == "Debian"
        if not known and not origin.startswith("$(") and origin:
            continue
        last = uri.rsplit("/", 1)[-1]
        if suite.endswith(("-security", "/updates")):
            if known or last == "debian-security":
                security = security or uri
        elif known or last == "debian":
            if suite.endswith("-updates"):
                updates = True
            elif "-" not in suite:
                archive = archive or uri
    return Mirror(archive, security, updates) if archive else _DEFAULT_MIRROR


def _plain_uri(uri: str) -> str:
    """A URI that also works elsewhere, without the slash at its end; empty if there is none.

    Debian's own cloud images have mirror+file:/etc/apt/mirrors/...: lists of mirrors, of which the first is taken.
    """
    if uri.startswith("mirror+file:"):
        path = "/" + uri[len("mirror+file:") :].lstrip("/")
        uri = _first_line(path.rstrip("/")).split("\t")[0].split(" ")[0]
    return uri.rstrip("/") if uri.startswith(("http://", "https://")) else ""


def _apt_settings(runtime: Runtime) -> list[str]:
    """The host's apt settings without which its mirror cannot be reached or trusted, as lines of apt.conf."""
    apt_config = find_program("apt-config")
    if apt_config is None:
        return []
    done = runtime.run([apt_config, "dump", "--no-empty", "--format", "%F %v%n", "Acquire"])
    return parse_apt_settings(done.out) if done.rc == 0 else []


_TAKEN_OVER = re.compile(
    r"(Acquire::(?:https?::(?:Proxy|Proxy::[A-Za-z0-9.-]+|CAInfo|Timeout)|Check-Valid-Until|Check-Date|Retries)) (.+)",
    re.I,
)


def parse_apt_settings(text: str) -> list[str]:
    """The settings to take over from lines of "Name value"."""
    lines = []
    for line in text.splitlines():
        match = _TAKEN_OVER.fullmatch(line.strip())
        if match and '"' not in match[2]:
            lines.append(f'{match[1]} "{match[2]}"')
    return lines


def _usable_in_guest(setting: str) -> bool:
    """Whether a setting means anything beyond this host: no proxy on it, no file of it, no password."""
    name, value = setting.split(" ", 1)
    if name.lower().endswith(("::cainfo", "::timeout", "::retries")):
        return False
    if "::proxy" in name.lower():
        return not re.search(r"@|//(?:localhost|127\.|\[::1\])", value)
    return True


def _run(runtime: Runtime, argv: t.Sequence[str], what: str, work: str, env: t.Mapping[str, str] | None = None) -> None:
    try:
        runtime.check(argv, what, env=env, cwd=work, timeout=LONG_COMMAND_TIMEOUT)
    except CommandFailed as error:
        output = f"{error.facts.get('stdout', '')}\n{error.facts.get('stderr', '')}"
        if "No space left on device" in output or "Disk quota exceeded" in output or "ext2fs_alloc" in output:
            raise _no_space(work, _last_errors(output)) from error
        hint = ""
        if "NO_PUBKEY" in output or "is not signed" in output:
            hint = "Upgrade the package debian-archive-keyring, and check the mirror in the host's apt sources."
        elif re.search(r"Could not resolve|Unable to connect|Failed to fetch|Could not connect", output):
            hint = "Check that the mirror in the host's apt sources can be reached and has this release."
        raise ImageError(what, _last_errors(output), hint, cmd=list(argv), log=output[-8000:]) from error


def _last_errors(output: str, most: int = 6) -> str:
    """The lines that tell what went wrong, or else the last ones."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"(E:|Err:|W: GPG|dpkg: error|mke2fs:|qemu-img:|.*: error)", line)]
    return "; ".join((telling or lines)[-most:])


def _write(path: str, text: str, mode: int = 0o644) -> str:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(made_anew(path), "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)
    return path


def _remove(runtime: Runtime, tools: _Tools, path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        runtime.run([*tools.enclose, "rm", "-rf", "--", path])
