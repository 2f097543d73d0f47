#!/usr/bin/python

# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_info
short_description: List images that are here, and images that image hosts offer
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Lists the images in the vault, which is the cache of images in the data directory, and on request those that image
    hosts offer.
  - The lists of image hosts are kept for a while, so that asking again is fast and works without a network.
options:
  query:
    description:
      - List what image hosts offer. Without it, none is asked.
      - 'With an empty text, all that V(release:) has. With V(HOST:), all that this host has, such as V(daily:),
        V(images:) or V(bootstrap:). With V(NAME) or V(HOST:NAME), what has this name or hash, or else has it in its
        names. With V(@) at its end, all builds of it.'
    type: str
  cached:
    description: Whether to list the images in the vault.
    type: bool
    default: true
  arch:
    description:
      - The architecture of the images to query.
      - By default that of the host that the driver makes instances on.
    type: str
  unsupported:
    description: Whether to list releases that their publisher no longer supports too.
    type: bool
    default: false
  refresh:
    description: Whether to ask image hosts even if what is known of them is fresh.
    type: bool
    default: false
  image_hosts:
    description:
      - Image hosts to add to those that are built in and to those in C(settings.json) of the data directory, by name,
        or options to change of one of them.
      - Keys of a host are C(url), C(type) (V(simplestreams) or V(manifest)), C(mirror) (a base URL for files, while the
        index and with it every checksum still comes from C(url)), C(keyring) (of the keys that sign the index; V(none)
        to take it unsigned), C(allow_http), and C(user) (the login user of its images).
    type: dict
extends_documentation_fragment:
  - minicloud.local._attributes
  - minicloud.local._attributes.info_module
  - minicloud.local._attributes.minicloud
  - minicloud.local._common
seealso:
  - module: minicloud.local.image
"""

EXAMPLES = r"""
- name: Which images are here
  minicloud.local.image_info:
  register: images

- name: Show those that no instance uses
  ansible.builtin.debug:
    msg: "{{ images.cached | rejectattr('instances') | map(attribute='name') | list }}"

- name: What Debian images are there
  minicloud.local.image_info:
    query: images:debian
    cached: false
  register: found

- name: Show their names
  ansible.builtin.debug:
    msg: "{{ found.offered | map(attribute='aliases') | map('first') | list }}"
"""

RETURN = r"""
cached:
  description: The images in the vault, sorted by name.
  type: list
  elements: dict
  returned: success and O(cached=true)
  contains:
    name:
      description: Its name, as it was asked for.
      type: str
      returned: always
      sample: bootstrap:bookworm
    hash:
      description:
        - The SHA-256 of the image as its source publishes it; of an image that is built or published, of the disk.
        - Of a container, the SHA-256 of metadata and root file system together, as LXD has it for its fingerprint.
        - Empty in check mode where only the real run can know it.
      type: str
      returned: always
      sample: 6ba9c1ca2d2c0d8a8d6a6c1a3d2e9f4b5c6d7e8f90a1b2c3d4e5f60718293a4b
    kind:
      description: What it is, V(disk) of a virtual machine or V(container).
      type: str
      returned: always
      sample: disk
    path:
      description:
        - The disk in the vault, which the disks of instances are backed by. It must never be written to.
        - Of a container, the root file system as it was published.
      type: str
      returned: always
      sample: /var/lib/minicloud/vault/6ba9c1ca2d2c0d8a8d6a6c1a3d2e9f4b5c6d7e8f90a1b2c3d4e5f60718293a4b/disk.qcow2
    metadata:
      description: Of a container, the file with LXD's metadata; empty where they are in C(path) too, and of a disk.
      type: str
      returned: always
      sample: ""
    format:
      description: The format of that file, V(qcow2) of a disk; of a container V(squashfs), V(tar.xz) and the like.
      type: str
      returned: always
      sample: qcow2
    size:
      description: The size of that file in bytes; V(0) in check mode where the image is not there yet.
      type: int
      returned: always
      sample: 1012924416
    virtual_size:
      description:
        - The size of the disk in it in bytes, which no instance's disk can be smaller than.
        - V(0) of a container.
      type: int
      returned: always
      sample: 2147483648
    arch:
      description: Its architecture.
      type: str
      returned: always
      sample: x86_64
    os:
      description: The operating system, empty where it is unknown.
      type: str
      returned: always
      sample: debian
    release:
      description: The release's code name, empty where it is unknown.
      type: str
      returned: always
      sample: bookworm
    version:
      description: The release's version, empty where it is unknown.
      type: str
      returned: always
      sample: "12"
    user:
      description: The login user that the image brings, empty where it is unknown.
      type: str
      returned: always
      sample: debian
    title:
      description: What its publisher calls it, empty where nobody says.
      type: str
      returned: always
      sample: Debian 12 (bookworm)
    source:
      description: The URL or path that it came from, what it was built as, or the instance that it was published from.
      type: str
      returned: always
      sample: bootstrap:bookworm
    created:
      description: When it came into the vault, in UTC.
      type: str
      returned: always
      sample: "2026-05-04T10:20:30Z"
    firmware:
      description: V(uefi) where it boots under nothing else, empty where it boots under a BIOS too or nobody says.
      type: str
      returned: always
      sample: ""
    aliases:
      description: Further names that were given to it.
      type: list
      elements: str
      returned: always
      sample: [base]
    drivers:
      description: The drivers that can make instances from it.
      type: list
      elements: str
      returned: always
      sample: [lxd, qemu]
    names:
      description: All names that lead to it; none where newer versions have replaced it under every name.
      type: list
      elements: str
      returned: always
      sample: [base, "bootstrap:bookworm"]
    last_used:
      description: When it was last asked for, in UTC.
      type: str
      returned: always
      sample: "2026-05-04T10:20:30Z"
    instances:
      description: The instances that are made from it.
      type: list
      elements: str
      returned: always
      sample: [web]
offered:
  description: The images that image hosts offer, the newest of each operating system first.
  type: list
  elements: dict
  returned: success and O(query) is given
  contains:
    host:
      description: The image host.
      type: str
      returned: always
      sample: release
    aliases:
      description: The names that it can be asked for by. A build that is not the newest has none.
      type: list
      elements: str
      returned: always
      sample: ["24.04", noble, lts]
    os:
      description: The operating system.
      type: str
      returned: always
      sample: ubuntu
    release:
      description: The release's code name.
      type: str
      returned: always
      sample: noble
    version:
      description: The release's version.
      type: str
      returned: always
      sample: "24.04"
    serial:
      description: The build, empty where there is only one.
      type: str
      returned: always
      sample: "20260501"
    title:
      description: What its publisher calls it.
      type: str
      returned: always
      sample: Ubuntu 24.04 LTS
    variant:
      description: The variant, such as V(cloud), empty where there is only one.
      type: str
      returned: always
      sample: ""
    supported:
      description: Whether its publisher supports it.
      type: bool
      returned: always
      sample: true
    arch:
      description: Its architecture.
      type: str
      returned: always
      sample: x86_64
    hash:
      description: Its SHA-256, empty where it is built.
      type: str
      returned: always
      sample: 6ba9c1ca2d2c0d8a8d6a6c1a3d2e9f4b5c6d7e8f90a1b2c3d4e5f60718293a4b
    size:
      description: What is to be fetched, in bytes; V(0) where it is built.
      type: int
      returned: always
      sample: 617611264
    kinds:
      description: What can be made from it, V(disk) for virtual machines and V(container) for containers.
      type: list
      elements: str
      returned: always
      sample: [disk]
    user:
      description: The login user that it brings, empty where it is unknown.
      type: str
      returned: always
      sample: ubuntu
error:
  description: The kind of error, such as V(InvalidOption) or V(ImageError).
  type: str
  returned: failure
  sample: InvalidOption
"""

from ansible_collections.minicloud.local.plugins.module_utils import _ansiballz
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import load
from ansible_collections.minicloud.local.plugins.module_utils._module import ModuleContext, run_module
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.image_listing import (
    list_images,
    offered_images,
)

# It was to be imported first, and has done its work.
del _ansiballz

ARGUMENTS = {
    "query": {"type": "str"},
    "cached": {"type": "bool", "default": True},
    "arch": {"type": "str"},
    "unsupported": {"type": "bool", "default": False},
    "refresh": {"type": "bool", "default": False},
    "image_hosts": {"type": "dict"},
}


def run(context: ModuleContext) -> dict[str, object]:
    params = context.params
    result: dict[str, object] = {"changed": False}
    if params["cached"]:
        result["cached"] = list_images(context.runtime, context.data)
    if params["query"] is not None:
        driver = load(params["driver"], context.runtime, context.data, params["driver_options"])
        result["offered"] = offered_images(
            params["query"],
            context.runtime,
            context.data,
            params["arch"] or driver.host.architecture(),
            params["image_hosts"],
            params["unsupported"],
            params["refresh"],
        )
    return result


def main() -> None:
    run_module(run, ARGUMENTS, subject="query")


if __name__ == "__main__":
    main()
