# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Image hosts that are one JSON file, in the form that Multipass uses for Debian and Fedora. No input or output.

    {"Debian": {"aliases": "debian, trixie", "os": "Debian", "release": "trixie", "release_codename": "Trixie",
                "release_title": "13",
                "items": {"x86_64": {"id": "sha512:…", "image_location": "https://…", "size": 433910272,
                                     "version": "20260112"}}}}

`id` is a sha256 in hex, or `sha512:` and a sha512; `image_location` is a URL or relative to the manifest's. Beyond
Multipass, an image may say its login `user`, and an item its `firmware` (`uefi` where it boots under nothing else).
"""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._images.simplestreams import (
    Build,
    File,
    Product,
    arch_name,
    default_user,
)
from ansible_collections.minicloud.local.plugins.module_utils._model import NUMBER


def architectures(content: t.Any) -> set[str]:
    """The architectures that a manifest has images for, by the kernel's names. ValueError where it is no manifest."""
    names = {str(arch) for dummy, image in _images(content) for arch in image["items"]}
    for name in names:
        parse_products(content, name)
    return {arch_name(name) for name in names}


def parse_products(content: t.Any, arch: str) -> list[Product]:
    """The images of a manifest for one architecture. ValueError where it is no manifest."""
    wanted = arch_name(arch)
    products = []
    for key, image in _images(content):
        for its_arch, entry in image["items"].items():
            if arch_name(its_arch) == wanted and isinstance(entry, dict):
                products.append(_parse_image(key, image, entry))
    return products


def _images(content: t.Any) -> t.Iterator[tuple[str, dict[str, t.Any]]]:
    if not isinstance(content, dict) or "products" in content or "index" in content:
        raise ValueError("it is not a manifest of images")
    for key, image in content.items():
        if not isinstance(image, dict) or not isinstance(image.get("items"), dict):
            raise ValueError(f"its entry {key!r} is not an image with items")
        yield key, image


def _parse_image(key: str, image: dict[str, t.Any], entry: dict[str, t.Any]) -> Product:
    digest = str(entry.get("id") or "").lower()
    algorithm, colon, value = digest.partition(":")
    if not colon:
        algorithm, value = ("sha512" if len(digest) == 128 else "sha256"), digest
    if len(value) != {"sha256": 64, "sha512": 128}.get(algorithm) or value.strip("0123456789abcdef"):
        raise ValueError(f"its entry {key!r} has an id that is neither a sha256 nor a sha512")
    if not entry.get("image_location"):
        raise ValueError(f"its entry {key!r} has no image_location")
    aliases = [alias.strip() for alias in str(image.get("aliases") or "").split(",") if alias.strip()]
    codename, title = str(image.get("release_codename") or ""), str(image.get("release_title") or "")
    release = str(image.get("release") or "") or codename.lower()
    name = str(image.get("os") or key)
    size = entry.get("size")
    file = File(
        path=str(entry["image_location"]),
        sha256=value if algorithm == "sha256" else "",
        sha512=value if algorithm == "sha512" else "",
        size=size if isinstance(size, int) and NUMBER.holds(size) else 0,
        firmware="uefi" if entry.get("firmware") == "uefi" else "",
    )
    return Product(
        key=key,
        aliases=tuple(aliases),
        os=name.lower(),
        release=release,
        version=title if title[:1].isdigit() else "",
        title=" ".join(dict.fromkeys(word for word in (name, title or codename or release) if word)),
        variant="",
        supported=image.get("supported") is not False,
        eol="",
        user=str(image.get("user") or "") or default_user(name),
        requirements=(),
        builds=(Build(str(entry.get("version") or ""), file, None, None),),
    )
