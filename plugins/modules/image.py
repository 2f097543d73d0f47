#!/usr/bin/python

# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image
short_description: Manage the images that instances are made from
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Fetches, imports or builds images, verifies them, and keeps them ready for instances in the vault, which is the
    cache of images in the data directory.
  - M(minicloud.local.instance) does this by itself for an image that is not there yet. This module does it beforehand,
    updates images, gives them names, and removes them.
  - It also publishes a stopped instance as an image (O(instance)).
  - An image is verified before anything looks into it. What changes at its source never replaces what is in the vault
    until O(state=latest) asks for that.
  - A download that was cut or killed is gone on with by the next run. Of several runs that want the same image, one
    fetches it and the others wait for it.
notes:
  - The module runs on the host that has the hypervisor. It needs C(qemu-img) and util-linux there, for images
    compressed with zstd the program C(zstd) (unless Python is 3.14 or newer), for V(bootstrap:) what the role
    P(minicloud.local.host#role) installs, and for O(clean) of virtual machines C(debugfs), C(e2fsck) and C(dumpe2fs)
    of e2fsprogs.
  - Proxies are taken from the environment (E(https_proxy), E(http_proxy), E(no_proxy)), and authorities of certificates
    beside the system's from E(SSL_CERT_FILE). Set them with the keyword C(environment) of the task.
  - How far a long fetch is can be read in C(activity.log) in the data directory while it runs.
options:
  name:
    description:
      - The image. It has one of these forms.
      - 'A name of an image host: V(24.04), V(noble), V(lts), V(daily:26.04), V(images:debian/13/cloud). Without a host
        it is one of V(release:), that is an Ubuntu release.'
      - 'V(bootstrap:bookworm) or V(bootstrap:trixie): built on this host from the distribution''s packages.'
      - 'An V(https://) or V(http://) URL of a disk image.'
      - A path or V(file://) URL of a disk image on the host that runs the module. When the file changes, it is
        imported anew the next time it is asked for, and the older image stays in the vault.
      - An alias that was given with O(alias), or at least 8 digits of the hash of an image in the vault.
      - A name that an instance was published as. With O(instance), the name to publish it as, of letters, digits, dots,
        hyphens and underscores. Such a name comes before an equal one of an image host.
      - Disk images may be qcow2, raw, vmdk, vhdx, vhd or vdi, also compressed with xz, gzip, zstd or bzip2.
        Images that name other files as their backing or data, and encrypted ones, are refused.
      - What images of containers may be is said at O(instance_type).
      - Required unless O(prune_older_than) is given.
    type: str
  state:
    description:
      - With V(present), the image is fetched, imported or built unless the vault has it.
      - With V(latest), the source is asked for its newest version too. The version that it replaces stays in the vault,
        for the instances that use it. Images of V(bootstrap:) are built anew when the collection would build them
        differently by now, or when they are older than a day.
      - With V(absent), the image is removed with all its aliases. This is refused while the disk of an instance is
        backed by it. Where other names lead to the same image, and where O(name) is an alias, only that name goes.
        Copies that servers of LXD and Incus have of it are removed, too.
    type: str
    choices: [present, latest, absent]
    default: present
  checksum:
    description:
      - What the image must be, as V(sha256:HEX), V(sha512:HEX), or V(sha256:URL) or V(sha512:URL) of a list as
        C(sha256sum) writes it, in which the image is looked up by the file name in its URL or path.
      - It is that of the file as its publisher has it, that is of the compressed one.
      - An image that is in the vault already must match it too.
      - Without it, an image from a URL is taken as it comes, with a warning that says what its checksum is. Image hosts
        say themselves what their images must be.
    type: str
  arch:
    description:
      - The architecture, such as V(x86_64) or V(aarch64).
      - By default that of the host that the driver makes instances on.
    type: str
  instance_type:
    description:
      - What instances are to be made from the image. The same name leads to a different image for each type, and both
        can be in the vault.
      - With V(vm), the image is the disk of a virtual machine.
      - With V(container), it is the root file system of a container with LXD's metadata. Image hosts offer it under the
        same names, and V(bootstrap:) builds the same system without a kernel. A URL or path leads to one tar archive
        with C(metadata.yaml) and C(rootfs/), or to a root file system as squashfs or tar archive, which is given simple
        metadata. Archives may be compressed with xz, gzip, zstd or bzip2; they are kept as they are.
      - A disk is not taken for a container or the reverse; the error says what the file is.
      - By default V(vm); with O(instance), what that is, so that it need not be given.
    type: str
    choices: [vm, container]
  alias:
    description:
      - A further name by which tasks can ask for the image, of letters, digits, dots, hyphens and underscores.
      - It is moved if it leads to another image.
    type: str
  force:
    description:
      - Fetch, import, build or publish the image and put it in its place even if the vault has it. This always reports
        a change.
    type: bool
    default: false
  instance:
    description:
      - Publish this instance, which must be stopped, as an image called O(name).
      - From a virtual machine comes the image of a disk. From a container of LXD or Incus comes the image of a
        container, one tar archive with C(metadata.yaml) and C(rootfs/), for O(instance_type=container) later.
      - The image is whole. It does not need the instance afterwards, nor the image that the instance was made from.
      - Where O(name) was published before, also from another instance, it is left alone unless O(force=true), and the
        instance need not exist any more. The image that O(force=true) replaces stays in the vault, for the instances
        that use it.
      - Where O(name) leads to an image of another source in the vault, this is refused unless O(force=true).
      - O(state=latest) finds nothing newer for a published image.
    type: str
  clean:
    description:
      - With O(instance), take out of the image what makes the instance that instance. The instance itself is not
        touched.
      - This empties C(/etc/machine-id), and removes SSH host keys (C(/etc/ssh/ssh_host_*)), the state and logs of
        cloud-init (C(/var/lib/cloud) except C(seed) in it, C(/var/log/cloud-init*.log*)), C(/var/lib/dbus/machine-id)
        and C(/var/lib/systemd/random-seed). Users, their keys and all other files stay as they are.
      - Of a container, C(/var/lib/cloud/seed/nocloud-net) is removed too, and whatever else its image has the server
        write from templates. That has the user-data of the instance, and each new instance gets its own.
      - Of a virtual machine, it works for a root file system of ext4 (or ext3, ext2) in a partition of its own, with
        C(/var/lib) in it. For others, such as XFS, btrfs and those on LVM, the module warns, and the image is published
        as it is.
      - An instance made from the image runs cloud-init as on a first boot either way, which makes new host keys.
    type: bool
    default: true
  prune_older_than:
    description:
      - With O(state=absent) and without O(name), remove all images that no instance uses and that nobody has asked for
        during this time, such as V(14d), V(12h), V(2w) or V(90s). A number without a unit is seconds. Below an hour it
        is refused, except for V(0).
    type: str
  image_hosts:
    description:
      - Image hosts to add to those that are built in and to those in C(settings.json) of the data directory, by name,
        or options to change of one of them.
      - Keys of a host are C(url), C(type) (V(simplestreams) or V(manifest)), C(mirror) (a base URL for files, while the
        index and with it every checksum still comes from C(url)), C(keyring) (of the keys that sign the index; V(none)
        to take it unsigned), C(allow_http), and C(user) (the login user of its images).
    type: dict
attributes:
  check_mode:
    support: full
    details:
      - With O(state=latest) and for images that the vault does not have, check mode asks the source, but fetches
        nothing.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - Not with O(force=true), and not with O(state=latest) when the source has something new.
extends_documentation_fragment:
  - minicloud.local._attributes
  - minicloud.local._attributes.minicloud
  - minicloud.local._common
seealso:
  - module: minicloud.local.image_info
  - module: minicloud.local.instance
"""

EXAMPLES = r"""
- name: Have an image ready before instances need it
  minicloud.local.image:
    name: bootstrap:bookworm

- name: Fetch the newest build of Ubuntu 24.04
  minicloud.local.image:
    name: "24.04"
    state: latest

- name: Fetch an image from a URL and verify it
  minicloud.local.image:
    name: https://images.example.com/debian-13-generic-amd64.qcow2
    checksum: sha512:https://images.example.com/SHA512SUMS
    alias: base

- name: Import a disk that was built here
  minicloud.local.image:
    name: /srv/builds/appliance.raw.xz
    alias: appliance
  register: imported

- name: Launch an instance from it
  minicloud.local.instance:
    name: web
    image: appliance

- name: Have the image of a container ready
  minicloud.local.image:
    name: bootstrap:bookworm
    instance_type: container

- name: Publish a stopped instance as an image
  minicloud.local.image:
    instance: web
    name: my-base

- name: Launch another instance from that
  minicloud.local.instance:
    name: web2
    image: my-base

- name: Remove an image
  minicloud.local.image:
    name: bootstrap:bookworm
    state: absent

- name: Remove all images that nobody has used for a month
  minicloud.local.image:
    state: absent
    prune_older_than: 30d
"""

RETURN = r"""
image:
  description: The image; in check mode the predicted one.
  type: dict
  returned: success and O(state) is not V(absent)
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
removed:
  description: The images that were removed, or in check mode would be.
  type: list
  elements: dict
  returned: success and O(state=absent)
  sample: []
actions:
  description:
    - The steps that were taken, or in check mode would be.
    - V(fetch_image), V(import_image), V(build_image), V(publish_image), V(set_alias), V(remove_image),
      V(forget_name).
  type: list
  elements: str
  returned: success
  sample: [fetch_image, set_alias]
expected:
  description: The checksum that the image should have.
  type: str
  returned: when a checksum does not match
actual:
  description: The checksum that the image has.
  type: str
  returned: when a checksum does not match
instances:
  description: The instances that need the image.
  type: list
  elements: str
  returned: when the removal of an image is refused
  sample: [web]
state:
  description: The state of the instance.
  type: str
  returned: when an instance is not published because it is not stopped
  sample: running
error:
  description: The kind of error, such as V(InvalidOption), V(ImageError), V(ChecksumMismatch), V(NoSpace) or V(InUse).
  type: str
  returned: failure
  sample: ChecksumMismatch
"""

from ansible_collections.minicloud.local.plugins.module_utils import _ansiballz
from ansible_collections.minicloud.local.plugins.module_utils._arguments import IMAGE
from ansible_collections.minicloud.local.plugins.module_utils._module import ModuleContext, run_module
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.images import (
    parse_image_wish,
    reconcile_image,
)

# It was to be imported first, and has done its work.
del _ansiballz

ARGUMENTS = IMAGE


def run(context: ModuleContext) -> dict[str, object]:
    wish = parse_image_wish(context.params)
    outcome = reconcile_image(wish, context.runtime, context.data, context.check_mode)
    result: dict[str, object] = {
        "changed": outcome.changed,
        "actions": outcome.actions,
        "diff": {"before": outcome.before, "after": outcome.after},
    }
    if outcome.view:
        result["image"] = outcome.view
    else:
        result["removed"] = outcome.removed
    return result


def main() -> None:
    run_module(run, ARGUMENTS, subject="name")


if __name__ == "__main__":
    main()
