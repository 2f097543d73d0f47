#!/usr/bin/python

# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mount
short_description: Have a folder of the host appear in a local instance
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Has a folder of the host appear in an instance, or brings its content there, and keeps it so. It is part of the
    instance's record, as an entry of O(minicloud.local.instance#module:mounts).
  - A mount comes back when the instance is started again. One that cannot be made, such as while its folder is missing,
    stays in the record, is reported with the reason, and is tried again by the next run for the instance.
  - Runs may be interrupted at any point, and several may run at once; the next run finishes what is left.
options:
  instance:
    description: The name of the instance, which must exist. It may be stopped; the mount is made when it is started.
    type: str
    required: true
  source:
    description:
      - The folder of the host on which the task runs, as an absolute path.
      - One that this user cannot read, and one that has the data directory in it or is in that, is refused.
      - Required with O(state=mounted).
    type: path
  target:
    description:
      - Where it appears in the guest. A relative path is below the home directory of the login user. Unless given, it
        is the name of the folder there.
      - Folders that the guest does not work without, such as V(/), V(/etc), V(/home), V(/dev) and what is below that,
        are refused.
    type: str
  state:
    description:
      - V(mounted) is there, with exactly the options of the task.
      - V(unmounted) is not. All mounts that have O(source), or O(target), or both where both are given, go. What was
        copied into the guest stays there.
    type: str
    choices: [mounted, unmounted]
    default: mounted
  type:
    description:
      - V(native) is a mount by the hypervisor's own means. Drivers that have the capability C(native_mounts) can do it.
      - V(classic) is one by way of ssh. Every driver can do it, on Linux, and it is slower. A process on the host
        serves the folder, and nothing else, to sshfs in the guest, which is installed there by the guest's package
        manager if need be.
      - V(copy) is no mount. It brings the content of the folder into the guest, and again in each run in which it has
        changed. Every driver can do it. The files belong to the login user.
      - V(auto) is a native mount where that works now, else a classic one. RV(mount.not_native) says why.
    type: str
    choices: [auto, native, classic, copy]
    default: auto
  uid_map:
    description:
      - Which users of the host are which in the guest, each as C(host:guest) in quotes. Both are numbers; V(default) in
        the place of the second one is the guest's login user.
      - Unless given, they are the same in the guest as on the host. In containers that needs a kernel that can shift
        the ids of the folder's file system.
      - Of users that the map does not have, the guest sees nobody's. An ordinary user can map no id but their own.
      - With the drivers V(lxd) and V(incus) the host's C(/etc/subuid) must let root use each of them, as in
        C(root:1000:1). They are mapped when the instance is started the next time.
    type: list
    elements: str
  gid_map:
    description: The same for groups, with C(/etc/subgid).
    type: list
    elements: str
  read_only:
    description: Whether the guest can only read.
    type: bool
    default: false
  delete:
    description:
      - With O(type=copy), whether what the folder does not have goes from the guest's folder.
      - For the first copy the guest's folder must be empty then.
    type: bool
    default: false
  force:
    description: Whether to take a mount away that processes of the guest use. Without it that fails, and names them.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
extends_documentation_fragment:
  - minicloud.local._attributes
  - minicloud.local._attributes.minicloud
  - minicloud.local._common
seealso:
  - module: minicloud.local.mount_info
  - module: minicloud.local.instance
"""

EXAMPLES = r"""
- name: Have the sources of a project in the guest, as ~/project, and keep them fresh
  minicloud.local.mount:
    instance: web
    source: ~/src/project
    type: copy
    delete: true

- name: Have a folder of the host appear in a container
  minicloud.local.mount:
    instance: box
    source: /srv/data
    target: /mnt/data
    read_only: true

- name: Have user 1000 of the host be user 1000 of the container there
  minicloud.local.mount:
    instance: box
    source: /home/me/work
    uid_map: ["1000:1000"]
    gid_map: ["1000:1000"]

- name: Take it away
  minicloud.local.mount:
    instance: box
    target: /mnt/data
    state: unmounted
"""

RETURN = r"""
actions:
  description:
    - The steps that were taken, in order; in check mode, those that would be. C(set_mounts) is a change of the record,
      C(mount) makes what is not there.
    - Where the instance has to be put right before, the steps of M(minicloud.local.instance) can be among them.
  type: list
  elements: str
  returned: success
  sample: [set_mounts, mount]
mount:
  description: The mount; empty where there is none after the task.
  type: dict
  returned: success
  contains:
    source:
      description: The folder of the host.
      type: str
      returned: always
      sample: /srv/data
    target:
      description: Where it is in the guest.
      type: str
      returned: always
      sample: /mnt/data
    type:
      description: The O(type) that was asked for.
      type: str
      returned: always
      sample: auto
    mechanism:
      description: What it was made with last, such as C(disk device), C(sshfs) or C(tar); empty where it never was.
      type: str
      returned: always
      sample: disk device
    active:
      description: Whether it is there now; of a copy, whether the guest has it.
      type: bool
      returned: always
      sample: true
    reason:
      description: Why it is not there; empty where it is.
      type: str
      returned: always
      sample: ""
    not_native:
      description: Why one of the type V(auto) was not made by the hypervisor's own means; empty where it was.
      type: str
      returned: always
      sample: ""
    read_only:
      description: Whether the guest can only read.
      type: bool
      returned: always
      sample: true
    uid_map:
      description: Which users of the host are which in the guest.
      type: list
      elements: str
      returned: always
      sample: []
    gid_map:
      description: Which groups of the host are which in the guest.
      type: list
      elements: str
      returned: always
      sample: []
    delete:
      description: Whether what a copied folder does not have goes from the guest's.
      type: bool
      returned: always
      sample: false
error:
  description: The kind of error, such as V(InvalidOption), V(NotFound), V(NotSupported) or V(InUse).
  type: str
  returned: failure
  sample: InUse
"""

from ansible_collections.minicloud.local.plugins.module_utils import _ansiballz
from ansible_collections.minicloud.local.plugins.module_utils._arguments import MOUNT
from ansible_collections.minicloud.local.plugins.module_utils._module import ModuleContext, run_module
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.mount_task import reconcile_mount

# It was to be imported first, and has done its work.
del _ansiballz

ARGUMENTS = {
    "instance": {"type": "str", "required": True},
    **MOUNT,
    "state": {"type": "str", "choices": ["mounted", "unmounted"], "default": "mounted"},
    "force": {"type": "bool", "default": False},
}


def run(context: ModuleContext) -> dict[str, object]:
    outcome, mount = reconcile_mount(context.params, context.runtime, context.data, context.check_mode)
    return {
        "changed": outcome.changed,
        "actions": outcome.actions,
        "mount": mount,
        "diff": {"before": outcome.before, "after": outcome.after},
    }


def main() -> None:
    run_module(run, ARGUMENTS, subject="instance")


if __name__ == "__main__":
    main()
