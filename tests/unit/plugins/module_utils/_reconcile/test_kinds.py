# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A container is made from another image of the same name than a virtual machine."""

from __future__ import annotations

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._images.provide import ProvidedVault
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import parse_reference
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.instances import _cached_image
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import Wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._images.archives import unified

ARCH = "x86_64"


@pytest.fixture
def runtime():
    return Runtime(run)


@pytest.fixture
def data(tmp_path):
    return DataDirectory(str(tmp_path / "data"))


@pytest.fixture
def kinds(tmp_path, data, runtime):
    """The alias base of a disk and of a container; the value is their hashes."""
    (tmp_path / "disk").write_bytes(bytes(510) + b"\x55\xaa" + b"x" * 100_000)
    (tmp_path / "image.tar").write_bytes(unified())
    vault = ProvidedVault(data, runtime)
    found = {}
    for kind, name in (("disk", "disk"), ("container", "image.tar")):
        image = vault.ensure(parse_reference(str(tmp_path / name)), ARCH, kind=kind)[0]
        vault.set_alias(image, "base")
        found[kind] = image.hash
    return found


def there(instance_type):
    made = Instance("web", "u", "lxd", "lxd", "now", ARCH, 1, 1, 1, phase="ready", image={"name": "other"})
    made.instance_type = instance_type
    return made


@pytest.mark.parametrize(
    ("wished", "current", "recreate", "kind"),
    [
        (None, None, False, "disk"),
        ("vm", None, False, "disk"),
        ("container", None, False, "container"),
        # The image of what is there is compared with one of its own kind, unless it is made anew.
        (None, "container", False, "container"),
        (None, "container", True, "disk"),
        ("container", "vm", True, "container"),
    ],
)
def test_the_type_of_an_instance_says_which(kinds, runtime, data, wished, current, recreate, kind):
    wish = Wish("web", image=parse_reference("base"), instance_type=wished, recreate=recreate)
    image = _cached_image(wish, there(current) if current else None, runtime, data, ARCH)
    assert (image.kind, image.hash) == (kind, kinds[kind])
