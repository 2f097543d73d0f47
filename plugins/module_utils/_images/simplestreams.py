# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What an image host offers, and how a name finds one image in it. No input or output.

The format is that of simplestreams: an index (`streams/v1/index.json`) names product files, and a product (a release on
an architecture) has builds under their serials, each with several files. See the README of the simplestreams project.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import ImageError
from ansible_collections.minicloud.local.plugins.module_utils._model import DISK, NUMBER, normal_arch

# Fewer digits of a hash would be taken for a name too easily.
SHORTEST_HASH = 8

# Debian's and Qt's names of architectures that the model does not know.
_ARCHITECTURES = {
    "armhf": "armv7l",
    "i386": "i686",
    "ppc64el": "ppc64le",
    "power64le": "ppc64le",
}

# What a virtual machine boots from, the best first. On amd64 Ubuntu's disk1.img boots under BIOS and UEFI with the
# generic kernel; its disk-kvm.img has a kernel with few drivers. Elsewhere there is only UEFI.
_DISKS_X86 = ("disk1.img", "disk.qcow2", "disk-kvm.img", "uefi1.img", "img.xz")
_DISKS_OTHER = ("uefi1.img", "disk1.img", "disk.qcow2", "disk-kvm.img", "img.xz")
_ROOTS = ("squashfs", "root.tar.xz", "lxd_combined.tar.gz", "incus_combined.tar.gz")
_METADATA = ("lxd.tar.xz", "incus.tar.xz")
_ONLY_UEFI = ("aarch64", "armv7l", "riscv64")

# Under which key the metadata file tells the hash of itself and a file of this type together.
_COMBINED = {
    "disk1.img": ("combined_disk1-img_sha256",),
    "disk-kvm.img": ("combined_disk-kvm-img_sha256",),
    "disk.qcow2": ("combined_disk-kvm-img_sha256",),
    "uefi1.img": ("combined_uefi1-img_sha256",),
    "squashfs": ("combined_squashfs_sha256",),
    "root.tar.xz": ("combined_rootxz_sha256", "combined_sha256"),
}

_HEX = re.compile(r"[0-9a-f]+\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_SHA512 = re.compile(r"[0-9a-f]{128}\Z")
_NUMBERS = re.compile(r"([0-9]+)")

# The login users that cloud-init is set up for in each distribution's packages.
_USERS = {
    "almalinux": "almalinux",
    "alpine": "alpine",
    "amazon": "ec2-user",
    "amazonlinux": "ec2-user",
    "arch": "arch",
    "archlinux": "arch",
    "centos": "cloud-user",
    "debian": "debian",
    "devuan": "debian",
    "fedora": "fedora",
    "gentoo": "gentoo",
    "kali": "kali",
    "mint": "ubuntu",
    "openeuler": "openeuler",
    "opensuse": "opensuse",
    "oracle": "cloud-user",
    "rhel": "cloud-user",
    "rocky": "rocky",
    "rockylinux": "rocky",
    "ubuntu": "ubuntu",
}


class File(t.NamedTuple):
    """One file of a build. path -- a URL or relative to the host's; combined -- hash of metadata and it together."""

    path: str
    sha256: str
    sha512: str
    size: int
    firmware: str = ""
    combined: str = ""

    @property
    def hash(self) -> str:
        """What identifies the file: the hash that users see and may write."""
        return self.sha256 or self.sha512


class Build(t.NamedTuple):
    """One build of a product. disk, root and metadata are None where it has no such file."""

    serial: str
    disk: File | None
    root: File | None
    metadata: File | None

    def file(self, kind: str) -> File | None:
        """What an instance of KIND (disk or container) is made of, None where the build has no such file."""
        return self.disk if kind == DISK else self.root

    def needed(self, kind: str | None = None) -> File:
        """As file, of a build that was chosen because it has it. Without KIND: the disk, else the root file system."""
        file = self.file(kind) if kind else self.disk or self.root
        if file is None:
            raise LookupError(f"build {self.serial} has no file for kind {kind}")
        return file


class Product(t.NamedTuple):
    """A release of an operating system for an architecture, its builds newest first.

    version -- such as 24.04; title -- for people; variant -- of LXD's image server: default, cloud …, else empty
    supported -- by its publisher; eol -- the day (YYYY-MM-DD) on which support ends, empty where unknown
    user -- its own login user, empty where unknown; requirements -- what LXD and Incus must set for it
    """

    key: str
    aliases: tuple[str, ...]
    os: str
    release: str
    version: str
    title: str
    variant: str
    supported: bool
    eol: str
    user: str
    requirements: tuple[tuple[str, str], ...]
    builds: tuple[Build, ...]

    def newest(self, kind: str) -> Build | None:
        """The newest build that has what an instance of KIND is made of."""
        return next((build for build in self.builds if build.file(kind)), None)

    def names(self) -> set[str]:
        """All names, in lower case, that mean this product on its host."""
        names = {alias.lower() for alias in self.aliases}
        names.add(self.key.lower())
        if not self.variant:
            # Where there are variants, only aliases tell them apart.
            names.update(name.lower() for name in (self.release, self.version) if name)
        return names

    @property
    def configures_itself(self) -> bool:
        """Whether it has cloud-init, as far as its publisher tells."""
        return self.variant in ("", "cloud")


class UnknownName(ImageError):
    """No image of the host has this name or hash."""


def arch_name(arch: str) -> str:
    """The kernel's name of an architecture from Debian's, Qt's or its own."""
    arch = normal_arch(arch)
    return _ARCHITECTURES.get(arch, arch)


def default_user(system: str) -> str:
    """The login user of cloud images of an operating system, empty where unknown."""
    return _USERS.get(system.lower().replace(" ", "").replace("-", ""), "")


def product_paths(index: t.Any) -> list[tuple[str, str]]:
    """The content ids and paths of the product files that an index names. ValueError where it is no such index."""
    entries = index.get("index") if isinstance(index, dict) else None
    if not isinstance(entries, dict):
        raise ValueError("it is not a simplestreams index")
    found = [
        (str(content_id), str(entry["path"]))
        for content_id, entry in entries.items()
        if isinstance(entry, dict) and entry.get("datatype") == "image-downloads" and entry.get("path")
    ]
    if not found:
        raise ValueError("it is a simplestreams index without images to download")
    return found


def architectures(content: t.Any) -> set[str]:
    """The architectures that a product file has, by the kernel's names."""
    return {arch_name(str(product["arch"])) for dummy, product in _products(content) if product.get("arch")}


def parse_products(content: t.Any, arch: str) -> list[Product]:
    """The products of a product file for one architecture. ValueError where it is no such file."""
    wanted = arch_name(arch)
    parsed = []
    for key, product in _products(content):
        if arch_name(str(product.get("arch", ""))) == wanted:
            result = _parse_product(key, product, wanted)
            if result.builds:
                parsed.append(result)
    return parsed


def _products(content: t.Any) -> t.Iterator[tuple[str, dict[str, t.Any]]]:
    products = content.get("products") if isinstance(content, dict) else None
    if not isinstance(products, dict):
        raise ValueError("it is not a simplestreams product file")
    for key, product in products.items():
        if isinstance(product, dict):
            yield key, product


def _parse_product(key: str, product: dict[str, t.Any], arch: str) -> Product:
    aliases = [alias.strip() for alias in str(product.get("aliases") or "").split(",") if alias.strip()]
    system = str(product.get("os") or "").lower()
    release = str(product.get("release") or "")
    variant = str(product.get("variant") or "")
    version = str(product.get("version") or "") or _version_from(aliases, release)
    if system == "ubuntu" and "lts" in aliases:
        aliases.append("ubuntu")
    requirements = product.get("requirements") or product.get("lxd_requirements") or {}
    versions = product.get("versions")
    builds = [
        _parse_build(serial, build["items"], arch, variant)
        for serial, build in (versions.items() if isinstance(versions, dict) else ())
        if isinstance(build, dict) and isinstance(build.get("items"), dict)
    ]
    return Product(
        key=key,
        aliases=tuple(aliases),
        os=system,
        release=release,
        version=version,
        title=_title(str(product.get("os") or ""), release, version, str(product.get("release_title") or ""), variant),
        variant=variant,
        # A release under development counts as supported: whoever asks for it knows what it is.
        supported=product.get("supported") is not False or "devel" in aliases,
        eol=str(product.get("support_eol") or ""),
        user=default_user(system),
        requirements=tuple(sorted((str(name), str(value)) for name, value in requirements.items()))
        if isinstance(requirements, dict)
        else (),
        builds=tuple(
            sorted(
                (build for build in builds if build.disk or build.root),
                key=lambda build: version_key(build.serial),
                reverse=True,
            )
        ),
    )


def _parse_build(serial: str, entries: dict[str, t.Any], arch: str, variant: str) -> Build:
    by_type: dict[str, dict[str, t.Any]] = {}
    for name, entry in entries.items():
        if isinstance(entry, dict) and "path" in entry:
            by_type.setdefault(str(entry.get("ftype") or name), entry)
    metadata = next((by_type[ftype] for ftype in _METADATA if ftype in by_type), None)
    disk = root = None
    for ftype in _DISKS_X86 if arch in ("x86_64", "i686") else _DISKS_OTHER:
        disk = disk or _parse_file(by_type.get(ftype), metadata, ftype, _firmware(ftype, arch, variant))
    for ftype in _ROOTS:
        root = root or _parse_file(by_type.get(ftype), metadata, ftype)
    return Build(serial, disk, root, _parse_file(metadata, None, ""))


def _parse_file(
    entry: dict[str, t.Any] | None, metadata: dict[str, t.Any] | None, ftype: str, firmware: str = ""
) -> File | None:
    """The file, unless there is none or nothing can tell whether it arrived whole."""
    if entry is None:
        return None
    sha256, sha512 = str(entry.get("sha256") or "").lower(), str(entry.get("sha512") or "").lower()
    if not (_SHA256.match(sha256) or _SHA512.match(sha512)):
        return None
    size = entry.get("size")
    combined = next((str(metadata[key]) for key in _COMBINED.get(ftype, ()) if metadata and metadata.get(key)), "")
    if ftype.endswith("_combined.tar.gz"):
        combined = sha256
    return File(
        str(entry["path"]),
        sha256,
        sha512,
        size if isinstance(size, int) and NUMBER.holds(size) else 0,
        firmware,
        combined,
    )


def _firmware(ftype: str, arch: str, variant: str) -> str:
    # The image server's disks carry a variant, an EFI system partition, and no boot loader for BIOS.
    if arch in _ONLY_UEFI or ftype == "uefi1.img" or (variant and ftype in ("disk.qcow2", "disk-kvm.img")):
        return "uefi"
    return ""


def _version_from(aliases: list[str], release: str) -> str:
    """The version of a release that is known by `debian/13` beside `debian/trixie`, or that is a number itself."""
    names = [alias.split("/")[1] for alias in aliases if "/" in alias]
    numbers = [name for name in (*names, release) if name[:1].isdigit()]
    return next((number for number in numbers if number != release), numbers[0] if numbers else "")


def _title(system: str, release: str, version: str, release_title: str, variant: str) -> str:
    name = system[:1].upper() + system[1:]
    words = [name, release_title if release_title and release_title != release else version or release]
    if release and release not in words:
        words.append(f"({release})")
    if variant and variant != "default":
        words.append(variant)
    return " ".join(word for word in words if word)


def version_key(text: str) -> list[tuple[int, str]]:
    """A key that sorts versions (9, 10) and serials (20250101, 20250101.2, 20250101_07:42) as they followed."""
    parts = _NUMBERS.split(text)
    # Python reads no number of thousands of digits, and no version has one.
    return [(int(part), "") if part.isdecimal() and len(part) <= 100 else (-1, part) for part in parts]


def to_rows(products: t.Iterable[Product]) -> list[t.Any]:
    """Products as plain data for a JSON file, quick to read again."""
    return list(products)


def from_rows(rows: t.Iterable[t.Any]) -> list[Product]:
    """Products from what to_rows made. Raises TypeError or ValueError where they are not any."""

    def file(row: t.Any) -> File | None:
        return None if row is None else File(*row)

    products = []
    for row in rows:
        product = Product(*row)
        products.append(
            product._replace(
                aliases=tuple(product.aliases),
                requirements=tuple((name, value) for name, value in product.requirements),
                builds=tuple(
                    Build(serial, file(disk), file(root), file(metadata))
                    for serial, disk, root, metadata in product.builds
                ),
            )
        )
    return products


def named(products: t.Iterable[Product], name: str) -> list[Product]:
    """The products that NAME, compared without case, means."""
    name = name.lower()
    return [product for product in products if name in product.names()]


def hashed(products: t.Iterable[Product], prefix: str, kind: str | None = None) -> list[tuple[Product, Build, str]]:
    """The builds with a file (of KIND) whose hash begins with PREFIX, and that hash; each hash once."""
    prefix = prefix.lower()
    if len(prefix) < SHORTEST_HASH or not _HEX.match(prefix):
        return []
    found: dict[str, tuple[Product, Build, str]] = {}
    for product in products:
        for build in product.builds:
            for file in (build.disk, build.root) if kind is None else (build.file(kind),):
                for digest in (file.sha256, file.sha512, file.combined) if file else ():
                    if digest.startswith(prefix):
                        found.setdefault(digest, (product, build, digest))
    return list(found.values())


def pick(products: t.Sequence[Product], text: str, kind: str, host: str) -> tuple[Product, Build]:
    """The product and build that TEXT means: a name, NAME@SERIAL, or the beginning of a hash.

    UnknownName where there is none, ImageError where there are several or none of KIND.
    """
    name, at, serial = text.partition("@")
    matches = named(products, name)
    if matches:
        product = _choose(matches, name, kind, host)
        product = with_cloud_init(products, product, name, kind)
        build = _build_of(product, serial, kind, host) if at else product.newest(kind)
        if build is None:
            other = "a container" if kind == DISK else "a virtual machine"
            raise ImageError(
                f"the image {host}:{text} exists only for {other}",
                hint="Choose another image, or the other instance_type.",
            )
        return product, build
    hits = hashed(products, text, kind)
    builds = {(product.key, build.serial): (product, build) for product, build, dummy in hits}
    if len(builds) > 1:
        candidates = [f"{digest[:16]} {product.title} {build.serial}" for product, build, digest in hits]
        raise ImageError(
            f"several images of {host}: begin with {text!r}",
            "; ".join(candidates[:8]) + (" …" if len(candidates) > 8 else ""),
            "Write more of the hash.",
            candidates=candidates,
        )
    if builds:
        return next(iter(builds.values()))
    raise UnknownName(f"the image host {host} has no image {text!r}")


def _choose(matches: list[Product], name: str, kind: str, host: str) -> Product:
    usable = [product for product in matches if product.newest(kind)] or matches
    if len(usable) > 1:
        candidates = [product.key for product in usable]
        raise ImageError(
            f"several images of {host}: are called {name!r}",
            ", ".join(candidates),
            "Write one of these names.",
            candidates=candidates,
        )
    return usable[0]


def with_cloud_init(products: t.Sequence[Product], product: Product, name: str, kind: str | None = None) -> Product:
    """The variant with cloud-init of what was chosen by a name that says no variant: only that configures itself.

    It is taken if it has what an instance of KIND is made of; None: any kind.
    """
    if product.variant != "default" or name.lower().endswith(("/default", ":default")):
        return product
    for other in products:
        same = (other.os, other.release, other.variant) == (product.os, product.release, "cloud")
        if same and (kind is None or other.newest(kind)):
            return other
    return product


def _build_of(product: Product, serial: str, kind: str, host: str) -> Build:
    builds = [build for build in product.builds if build.file(kind)]
    for build in builds:
        if build.serial == serial:
            return build
    serials = [build.serial for build in builds]
    raise UnknownName(
        f"the image host {host} has no build {serial!r} of {product.title}",
        f"it has {', '.join(serials[:12])}" + (" …" if len(serials) > 12 else "") if serials else "it has none",
        candidates=serials,
    )


def similar(products: t.Iterable[Product], text: str, most: int = 6) -> list[str]:
    """Names of products that whoever wrote TEXT may have meant, the likeliest first."""
    import difflib

    text = text.partition("@")[0].lower()
    names = sorted({alias for product in products for alias in product.aliases if len(alias) > 1})
    near = [name for name in names if len(text) > 1 and name.lower().startswith(text)]
    near += difflib.get_close_matches(text, names, most, 0.6)
    near += [name for name in names if len(text) > 2 and text in name.lower()]
    return list(dict.fromkeys(near))[:most]
