# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Build the tiny guest of the tests: build.py TARGET.qcow2, or build.py TARGET.tar.gz for the same as a container

A guest that starts in seconds even where the processor is emulated, for tests of what happens around it: a disk, or
a container image for LXD (metadata and root file system in one archive). It is Debian's kernel (in the disk), busybox
and dropbear, taken from the packages that apt of this host knows (Debian, amd64). It

- reads meta-data, user-data and vendor-data from a disk labelled cidata, or from LXD's keys cloud-init.* and
  user.meta-data: the host name, login keys, the host key, the default user's name (all JSON; YAML as far as one line
  holds name and value; MIME parts in base64);
- has a machine-id that stays, and runs a boot hook in vendor-data that ends with "exit 0", as cloud-init does;
- runs user-data that is a script, or a message with one, once an instance; one that fails is what cloud-init would
  call an error;
- brings up with DHCP, and with IPv6 as routers tell, the network interfaces that network-config has, or all where there
  is no network-config;
- runs an ssh server in which root, debian and the default user are all root;
- writes /run/cloud-init/result.json and answers ``cloud-init status --format json``;
- goes down on the power button, and has poweroff, reboot, shutdown, systemctl and sudo as far as tests use them;
- lives in memory (128 MiB suffice), except for /data, which is the disk; in a container all of it is kept.

Needs: apt-get, dpkg-deb; for the disk mke2fs and qemu-img. Nothing is mounted, and an ordinary user will do.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGES = [
    *("busybox-static", "dropbear-bin", "libtomcrypt1", "libtommath1", "libgmp10", "libcrypt1", "libc6", "zlib1g"),
    *("sshfs", "libfuse3-3", "libglib2.0-0", "libpcre2-8-0"),
]
BOOT_PACKAGES = ["grub-common", "grub-pc-bin"]
# Loaded at each boot, in this order; the second line is there to be asked for.
MODULES = "virtio_pci virtio_blk virtio_net virtio_rng virtio_scsi ahci sd_mod sr_mod ext4 isofs evdev button af_packet"
MORE_MODULES = (
    "9p 9pnet_virtio virtiofs vfat nls_ascii nls_cp437 nls_utf8 e1000 ata_piix fuse crc32c_generic virtio_balloon"
)
GRUB_MODULES = "biosdisk part_msdos ext2 normal configfile linux"
DISK_SIZE = 192 * 1024 * 1024
FIRST_SECTOR = 2048

GRUB_CONFIG = """set timeout=0
menuentry tiny {
  linux /boot/vmlinuz console=tty0 console=ttyS0,115200 no_timer_check no5lvl quiet
  initrd /boot/initrd.img
}
"""

FILES: dict[str, str] = {
    "init": r"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /seed /data /root /var/log /var/lib/cloud/data /var/lib/cloud/instance
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /run/cloud-init
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
chmod 1777 /tmp
exec /bin/busybox init
""",
    "etc/inittab": """::sysinit:/etc/boot
::once:/etc/late
ttyS0::respawn:/sbin/getty -n -l /bin/sh -L 115200 ttyS0 vt100
::ctrlaltdel:/sbin/reboot
::shutdown:/etc/down
""",
    "etc/boot": r"""#!/bin/sh
exec >/dev/console 2>&1
for module in %MODULES%; do modprobe -q $module; done
ip link set lo up
for try in 1 2 3 4 5 6 7 8 9 10; do
    data=$(findfs LABEL=tinydata 2>/dev/null) && break
    sleep 0.2
done
[ -z "$data" ] || mount -t ext4 "$data" /data
seed=$(findfs LABEL=cidata 2>/dev/null || findfs LABEL=CIDATA 2>/dev/null)
[ -z "$seed" ] || mount -o ro -t iso9660 "$seed" /seed || mount -o ro -t vfat "$seed" /seed
/etc/read-seed
hostname "$(cat /etc/hostname)"
# Whether the seed has an interface configured: by its address where it tells addresses, else by its name.
wanted() {
    grep -q '"ethernets"' /seed/network-config 2>/dev/null || return 0
    mark=$1
    ! grep -q '"macaddress"' /seed/network-config || mark=$(cat /sys/class/net/"$1"/address)
    grep -q "\"$mark\"" /seed/network-config
}
if ! grep -q '"config": *"disabled"\|^config: *disabled' /seed/network-config 2>/dev/null; then
    for path in /sys/class/net/*; do
        name=${path##*/}
        [ "$name" != lo ] && wanted "$name" || continue
        ip link set "$name" up
        udhcpc -i "$name" -S -b -t 20 -T 1 -x "hostname:$(cat /etc/hostname)" -s /etc/dhcp >/dev/null 2>&1 &
    done
fi
""",
    "etc/read-seed": r"""#!/bin/sh
[ -s /data/machine-id ] || tr -d - < /proc/sys/kernel/random/uuid > /data/machine-id
ln -sf /data/machine-id /etc/machine-id
# What the seed says, as one long text; later parts do not override earlier ones, for that is not tested on this guest.
part() { awk '/^[Cc]ontent-[Tt]ransfer-[Ee]ncoding: *base64/ { b=1 } /^--/ { if (t) print ""; b=0; t=0 }
    b && t && NF { printf "%s", $0 } /^ *\r?$/ { if (b) t=1 }' "$1" | while read -r line; do
    echo "$line" | base64 -d 2>/dev/null; echo; done; }
text=/run/seed-text
for file in user-data vendor-data meta-data; do
    [ -e /seed/$file ] || continue
    cat /seed/$file; echo
    part /seed/$file
done > $text
# User-data that is a script, or a message with one.
part /seed/user-data 2>/dev/null > /run/user-part
for file in /seed/user-data /run/user-part; do
    if [ "$(head -c 2 $file 2>/dev/null)" = "#!" ]; then
        cp $file /run/user-script
        chmod 755 /run/user-script
    fi
done
value() { sed -n 's/.*"\{0,1\}'"$1"'"\{0,1\} *: *"\{0,1\}\([^",}]*\).*/\1/p' $text | head -n 1; }
value instance-id > /run/instance-id
name=$(value local-hostname); echo "${name:-tiny}" > /etc/hostname
echo "127.0.0.1 localhost ${name:-tiny}" > /etc/hosts
user=$(tr -d '\n' < $text | sed -n 's/.*"default_user" *: *{[^}]*"name" *: *"\([^"]*\)".*/\1/p')
listed=$(sed -n 's/^user=\([A-Za-z0-9_.-]*\)$/\1/p' $text | head -n 1)
for login in debian $user $listed; do
    grep -q "^$login:" /etc/passwd || echo "$login:*:0:0::/root:/bin/sh" >> /etc/passwd
done
mkdir -p /root/.ssh /etc/dropbear
sed 's/"[a-z0-9]*_public" *: *"[^"]*"//g' $text |
    grep -oE '(ssh-ed25519|ssh-rsa|ecdsa-sha2-[a-z0-9]+|sk-[a-z0-9@.-]+) AAAA[A-Za-z0-9+/=]+' |
    sort -u > /root/.ssh/authorized_keys
chmod 700 /root /root/.ssh; chmod 600 /root/.ssh/authorized_keys
for kind in ed25519 ecdsa rsa; do
    sed -n 's/.*"'$kind'_private" *: *"\([^"]*\)".*/\1/p' $text | head -n 1 > /run/key.json
    [ -s /run/key.json ] || continue
    printf '%b\n' "$(cat /run/key.json)" > /run/key
    chmod 600 /run/key
    dropbearconvert openssh dropbear /run/key /etc/dropbear/$kind >/dev/null 2>&1 || echo "unusable: $kind"
done
rm -f /run/key /run/key.json
ls /etc/dropbear/* >/dev/null 2>&1 || dropbearkey -t ed25519 -f /etc/dropbear/ed25519 >/dev/null 2>&1
cmp -s /run/instance-id /data/.instance-id || rm -f /var/lib/cloud/instance/minicloud-identity
sed -n '/^#cloud-boothook$/,/^exit 0$/p' $text | tail -n +2 > /run/boothook
[ ! -s /run/boothook ] || sh /run/boothook
rm -f $text
""",
    "etc/dhcp": r"""#!/bin/sh
case $1 in
    bound|renew)
        ip -4 addr flush dev "$interface"
        ip addr add "$ip/${mask:-24}" dev "$interface"
        metric=$((100 + $(cat /sys/class/net/"$interface"/ifindex)))
        for gateway in $router; do ip route replace default via "$gateway" dev "$interface" metric $metric; done
        # A network that has names knows all the others, too: its server goes first.
        kind=b; [ -z "$domain" ] || kind=a
        { [ -z "$domain" ] || echo "search $domain"
          for server in $dns; do echo "nameserver $server"; done; } > /run/resolv.$kind."$interface"
        # Another interface does the same meanwhile: who writes last has seen both.
        servers() { cat /run/resolv.a.* /run/resolv.b.* 2>/dev/null; }
        until servers | cmp -s - /etc/resolv.conf; do
            servers > /etc/resolv.conf."$interface"
            mv /etc/resolv.conf."$interface" /etc/resolv.conf
        done
        ;;
    deconfig) ip -4 addr flush dev "$interface" ;;
esac
""",
    "etc/late": r"""#!/bin/sh
keys=
for key in /etc/dropbear/*; do keys="$keys -r $key"; done
dropbear $keys -s -j -k -p 22 2>/dev/null || dropbear $keys -s -p 22
for event in /sys/class/input/event*; do
    [ "$(cat $event/device/name)" = "Power Button" ] || continue
    (dd if=/dev/input/${event##*/} bs=24 count=1 >/dev/null 2>&1 && poweroff) &
done
seed=/dev/null; [ ! -e /seed/meta-data ] || seed=$(awk '$2 == "/seed" { print $1 }' /proc/mounts)
datasource="DataSourceNoCloud [seed=$seed][dsmode=net]"
errors='[]'
if [ -x /run/user-script ] && ! cmp -s /run/instance-id /data/.instance-id; then
    /run/user-script > /var/log/cloud-init-output.log 2>&1 ||
        errors='["('"'scripts_user', RuntimeError('Runparts: 1 failures (user-script) in 1 attempted commands')"')"]'
fi
cp /run/instance-id /data/.instance-id; sync
echo "{\"v1\": {\"datasource\": \"$datasource\", \"errors\": $errors}}" > /run/cloud-init/.result
cat > /run/cloud-init/status.json <<end
{"v1": {"datasource": "$datasource", "stage": null,
 "init-local": {"errors": [], "start": 1.0, "finished": 1.0}, "init": {"errors": [], "start": 1.0, "finished": 1.0},
 "modules-config": {"errors": [], "start": 1.0, "finished": 1.0},
 "modules-final": {"errors": $errors, "start": 1.0, "finished": 1.0}}}
end
echo "$errors" > /run/cloud-init/.errors
touch /var/log/cloud-init.log /var/log/cloud-init-output.log /var/lib/cloud/instance/boot-finished
mv /run/cloud-init/.result /run/cloud-init/result.json
echo "tiny: $(cat /etc/hostname) ready, login: up for $(cut -d' ' -f1 /proc/uptime) s" > /dev/console
""",
    "etc/down": "#!/bin/sh\nkillall -q dropbear\nsync\numount /data /seed 2>/dev/null\n",
    "etc/passwd": "root:*:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shells": "/bin/sh\n",
    "etc/profile": "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n",
    "etc/os-release": 'ID=tiny\nNAME="tiny test guest"\nVERSION_ID="1"\nPRETTY_NAME="tiny test guest"\n',
    "usr/bin/cloud-init": r"""#!/bin/sh
case "$*" in
    *--wait*) while [ ! -e /run/cloud-init/result.json ]; do sleep 0.2; done ;;
esac
state=running errors='[]'
if [ -e /run/cloud-init/result.json ]; then
    state=done errors=$(cat /run/cloud-init/.errors)
    [ "$errors" = '[]' ] || state=error
fi
case "$*" in
    *json*) echo "{\"boot_status_code\": \"enabled-by-generator\", \"datasource\": \"nocloud\", \"detail\":" \
        "\"DataSourceNoCloud\", \"errors\": $errors, \"extended_status\": \"$state\", \"recoverable_errors\": {}," \
        "\"status\": \"$state\"}" ;;
    *) echo "status: $state" ;;
esac
""",
    "usr/bin/sudo": r"""#!/bin/sh
while :; do
    case $1 in
        --) shift; break ;;
        -u) shift 2 ;;
        -*) shift ;;
        *) break ;;
    esac
done
[ $# -eq 0 ] || exec "$@"
""",
    "usr/bin/systemctl": r"""#!/bin/sh
case "$*" in
    *poweroff*|*halt*) exec poweroff ;;
    *reboot*) exec reboot ;;
    *is-system-running*) [ -e /run/cloud-init/result.json ] && echo running || echo starting ;;
esac
""",
    "usr/sbin/shutdown": '#!/bin/sh\ncase " $* " in *" -r "*) exec reboot ;; *) exec poweroff ;; esac\n',
}

# What differs in a container: it has its devices, and its root file system stays.
CONTAINER_FILES: dict[str, str] = {
    "sbin/init": r"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /data /root /var/log /var/lib/cloud/data /var/lib/cloud/instance
/bin/busybox --install -s 2>/dev/null
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/cloud-init
chmod 1777 /tmp
exec /bin/busybox init
""",
    "etc/inittab": """::sysinit:/etc/boot
::once:/etc/late
console::respawn:/sbin/getty -n -l /bin/sh 0 console
::shutdown:/etc/down
""",
}

# The seed, written by LXD at each start. What the instance's own meta-data says goes before what LXD knows.
CONTAINER_SEED: dict[str, str] = {
    "meta-data": """{{ config_get("user.meta-data", "") }}
instance-id: {{ config_get("volatile.cloud-init.instance-id", instance.name) }}
local-hostname: {{ instance.name }}
""",
    "user-data": """{{ config_get("cloud-init.user-data", config_get("user.user-data", "")) }}
""",
    "vendor-data": """{{ config_get("cloud-init.vendor-data", config_get("user.vendor-data", "")) }}
""",
    "network-config": """{{ config_get("cloud-init.network-config", config_get("user.network-config", "")) }}
""",
}


def run(*argv: str | os.PathLike[str], cwd: Path | None = None) -> bytes:
    """The output of a command that must succeed."""
    done = subprocess.run(
        [os.fspath(word) for word in argv],
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, argv))}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def unpack(work: Path, packages: list[str]) -> Path:
    """Fetch packages and unpack them into one directory."""
    debs = work / "debs"
    debs.mkdir()
    run("apt-get", "download", "-q", *packages, cwd=debs)
    root = work / "packages"
    for deb in sorted(debs.iterdir()):
        run("dpkg-deb", "--extract", deb, root)
        deb.unlink()
    return root


def kernel_package() -> tuple[str, str]:
    """The package of Debian's kernel, and the kernel's version."""
    text = run("apt-cache", "depends", "linux-image-amd64").decode()
    match = re.search(r"Depends: (linux-image-(\S+))", text)
    if match is None:
        raise SystemExit("apt of this host does not know the package linux-image-amd64: run apt-get update")
    return match[1], match[2]


def module_files(root: Path, version: str) -> list[str]:
    """The modules wanted and all that they depend on, relative to the modules' directory."""
    run(busybox(root), "depmod", "-b", root, version)
    base = root / "lib/modules" / version
    depends: dict[str, list[str]] = {}
    for line in (base / "modules.dep").read_text().splitlines():
        path, _colon, others = line.partition(":")
        depends[path] = others.split()
    paths = {re.sub(r"\.ko(\.\w+)?$", "", os.path.basename(path)).replace("-", "_"): path for path in depends}
    wanted: dict[str, None] = {}
    for name in f"{MODULES} {MORE_MODULES}".split():
        if name in paths:  # what is missing is built into the kernel
            wanted.update(dict.fromkeys([paths[name], *depends[paths[name]]]))
    return list(wanted)


def initramfs(root: Path, version: str, work: Path) -> bytes:
    """The disk's whole system, which lives in memory."""
    tree = work / "initramfs"
    source, target = root / "lib/modules" / version, tree / "lib/modules" / version
    for path in module_files(root, version):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / path, target / path)
    for name in ("modules.builtin", "modules.order"):
        shutil.copy(source / name, target / name)
    system(root, tree, FILES)
    run(busybox(root), "depmod", "-b", tree, version)
    return gzip.compress(cpio(tree), 6)


def system(root: Path, tree: Path, files: dict[str, str]) -> None:
    """Put the programs, their libraries and some files of our own into a directory."""
    for directory in ("bin", "sbin", "usr/bin", "usr/sbin", "etc", "proc", "sys", "dev", "run", "lib64"):
        (tree / directory).mkdir(parents=True, exist_ok=True)
    shutil.copy(busybox(root), tree / "bin/busybox")
    for name in (
        "usr/sbin/dropbear",
        "usr/bin/dropbearkey",
        "usr/lib/dropbear/dropbearconvert",
        "usr/bin/dropbearconvert",
        "usr/bin/sshfs",
    ):
        if (root / name).exists():
            shutil.copy(root / name, tree / "usr/bin" / os.path.basename(name))
    libraries = tree / "lib/x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    wanted = (
        r"(lib(c|crypt|tomcrypt|tommath|gmp|z|m|nss_files|resolv|fuse3|glib-2.0|pcre2-8)|ld-linux-x86-64)\.so\.[0-9]+"
    )
    for directory in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib64"):
        for path in sorted((root / directory).glob("*.so.*")):
            if re.fullmatch(wanted, path.name) and path.is_file():
                shutil.copy(path.resolve(), libraries / path.name)
    os.symlink("../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", tree / "lib64/ld-linux-x86-64.so.2")
    for name, text in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("%MODULES%", MODULES))
        path.chmod(0o755 if text.startswith("#!") else 0o644)


def busybox(root: Path) -> Path:
    return next(path for path in (root / "bin/busybox", root / "usr/bin/busybox") if path.exists())


def cpio(tree: Path) -> bytes:
    """The tree as an archive that the kernel unpacks; everything belongs to root."""
    parts = []

    def add(name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        path = name.encode() + b"\0"
        fields = (len(parts) + 1, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
        parts.append(head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4))

    for path in sorted(tree.rglob("*")):
        mode = path.lstat().st_mode
        content = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        add(os.fspath(path.relative_to(tree)), mode, content)
    add("dev/console", 0o020600, b"", (5, 1))  # init's output before devtmpfs is mounted
    add("TRAILER!!!", 0, b"")
    return b"".join(parts)


def boot_area(root: Path, work: Path) -> bytes:
    """What is in front of the partition: a partition table inside GRUB's boot sector, and GRUB's core."""
    grub, core = root / "usr/lib/grub/i386-pc", work / "core.img"
    mkimage = [root / "usr/bin/grub-mkimage", "-d", grub, "-O", "i386-pc", "-p", "(,msdos1)/boot/grub", "-o", core]
    run(*mkimage, *GRUB_MODULES.split())
    content = core.read_bytes()
    if len(content) > (FIRST_SECTOR - 1) * 512:
        raise SystemExit("GRUB's core is too large")
    sectors = DISK_SIZE // 512 - FIRST_SECTOR
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", FIRST_SECTOR, sectors)
    boot = (grub / "boot.img").read_bytes()[:440]
    return boot + struct.pack("<IH", 0x796E6974, 0) + entry + bytes(48) + b"\x55\xaa" + content


def build_disk(target: Path, work: Path) -> None:
    package, version = kernel_package()
    root = unpack(work, [package, *PACKAGES, *BOOT_PACKAGES])
    disk = work / "disk"
    (disk / "boot/grub").mkdir(parents=True)
    shutil.copy(root / "boot" / f"vmlinuz-{version}", disk / "boot/vmlinuz")
    (disk / "boot/initrd.img").write_bytes(initramfs(root, version, work))
    (disk / "boot/grub/grub.cfg").write_text(GRUB_CONFIG)
    raw = work / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(DISK_SIZE)
    offset = FIRST_SECTOR * 512
    features = "^metadata_csum_seed,^64bit"
    options = f"offset={offset},lazy_itable_init=0,lazy_journal_init=1,root_owner=0:0"
    size = f"{(DISK_SIZE - offset) // 1024}k"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "tinydata", "-O", features, "-d", disk, "-E", options, raw, size)
    with raw.open("r+b") as file:
        file.write(boot_area(root, work))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, target)


def build_container(target: Path, work: Path) -> None:
    image = work / "container"
    files = {name: text for name, text in FILES.items() if name not in ("init", "etc/inittab")}
    # There are no modules to load, no disk to look for and no power button.
    files["etc/boot"] = files["etc/boot"].replace("for module in %MODULES%; do modprobe -q $module; done\n", "")
    files["etc/boot"] = re.sub(r"(?s)for try in .*?(?=/etc/read-seed)", "", files["etc/boot"])
    files["etc/late"] = re.sub(r"(?s)for event in .*?\ndone\n", "", files["etc/late"])
    system(unpack(work, PACKAGES), image / "rootfs", {**files, **CONTAINER_FILES})
    templates = {}
    for name, text in CONTAINER_SEED.items():
        path = image / "templates" / f"{name}.tpl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        templates[f"/seed/{name}"] = {"when": ["start"], "template": path.name}
    properties = {"os": "tiny", "release": "1", "description": "tiny test guest"}
    metadata = {"architecture": "x86_64", "creation_date": 1, "properties": properties, "templates": templates}
    (image / "metadata.yaml").write_text(json.dumps(metadata, indent=1))  # JSON is YAML

    def member(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = "root"
        return info

    with tarfile.open(target, "w:gz", compresslevel=6) as archive:
        for path in sorted(image.iterdir()):
            archive.add(path, path.name, filter=member)


def main() -> None:
    if len(sys.argv) != 2 or not sys.argv[1].endswith((".qcow2", ".tar.gz")):
        raise SystemExit(__doc__)
    target = Path(sys.argv[1]).absolute()
    finished = target.with_name(f".new-{target.name}")
    with tempfile.TemporaryDirectory(prefix="tiny-") as work:
        (build_disk if target.suffix == ".qcow2" else build_container)(finished, Path(work))
    os.replace(finished, target)


if __name__ == "__main__":
    main()
