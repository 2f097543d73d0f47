#!/usr/bin/python

# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: snapshot
short_description: Manage snapshots of a local instance
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Takes snapshots of an instance, brings it back to one, and names, comments and removes them.
  - A snapshot keeps the disk as it is, and with it the number of processors, the size of the memory and of the disk,
    the network interfaces, the mounts and the forwarded ports of that moment. Of an instance that runs it can keep the
    memory too, so that it goes on from there.
  - Snapshots of an instance are a tree. Each goes on from the one that the instance was at when it was taken. Any of
    them can be brought back and removed at any time, and the others stay as they are.
  - Removing the instance removes its snapshots.
  - Runs may be interrupted at any point; the next run finishes what is left, or takes it away, and no other snapshot is
    touched.
notes:
  - With the drivers V(qemu) and V(libvirt) a snapshot is a layer of the disk (qcow2). Taking one and going back take no
    time with the size of the disk, and room only for what is written afterwards. Both drivers see each other's.
  - With the drivers V(lxd) and V(incus) snapshots are the server's own, called by their uuids there. Snapshots that
    were taken with C(lxc) or C(incus) are left alone. On storage of the type zfs the server goes back to the newest one
    only, unless others are removed first.
  - The guide on the life of an instance tells what each driver does, what it costs, and what is kept when.
options:
  instance:
    description: The name of the instance.
    type: str
    required: true
  name:
    description:
      - The name of the snapshot, of letters, digits and hyphens. Names are compared without case.
      - If it is left out with O(state=present), a new snapshot is taken by each run, which is called V(snapshot1),
        V(snapshot2) and so on. A number that was used once is never used again, also when its snapshot is gone.
    type: str
  state:
    description:
      - V(present) is there. One that is there already is not taken again.
      - V(absent) is gone. Snapshots that were taken after it stay as they are.
      - V(restored) brings the instance back to it. Afterwards it runs if it did when the snapshot was taken, is
        suspended if it was, and else is stopped. The snapshot stays, and so do all others.
      - An instance that runs is stopped for that. Where O(safeguard) keeps it with its memory it is ended at once.
    type: str
    choices: [present, absent, restored]
    default: present
  comment:
    description: A text that is kept with it.
    type: str
  new_name:
    description:
      - Rename it. Once that is done, a task with both names changes nothing.
    type: str
  memory:
    description:
      - Whether a snapshot of an instance that runs keeps what is in its memory too, so that it goes on from there.
      - With V(auto), it does where the driver can and nothing stands in the way.
      - Without its memory, an instance that is brought back boots from the disk, as after a power cut. Before the
        snapshot is taken its file systems are written out as far as it lets us; RV(snapshot.file_systems) tells.
      - With V(yes), what cannot be is an error.
      - With O(state=restored), V(no) leaves out the memory that was saved with the snapshot, and the instance boots
        from the disk. Only the driver that saved it can go on from it, with the same hypervisor and processor; else
        that is an error, before anything is changed.
    type: str
    choices: [auto, 'yes', 'no']
    default: auto
  safeguard:
    description:
      - Take a snapshot of the instance as it is before it is brought back with O(state=restored), so that nothing is
        lost.
    type: bool
    default: true
  force:
    description:
      - With O(state=restored), do not wait for the instance to shut down, which is like pulling its plug, and where
        a network that it was on is gone keep the network interfaces that it has.
      - With O(state=absent), also remove one that linked clones were made of. These keep all that they have.
    type: bool
    default: false
  wait:
    description: With O(state=restored), wait until an instance that runs again is ready.
    type: bool
    default: true
  timeout:
    description: How many seconds that may take in all.
    type: float
    default: 300
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - Not with O(state=restored), and not with O(state=present) without O(name).
extends_documentation_fragment:
  - minicloud.local._attributes
  - minicloud.local._attributes.minicloud
  - minicloud.local._common
seealso:
  - module: minicloud.local.snapshot_info
  - module: minicloud.local.instance
"""

EXAMPLES = r"""
- name: Take a snapshot before an upgrade
  minicloud.local.snapshot:
    instance: web
    name: before-upgrade
    comment: As delivered

- name: Take one under a name that is chosen
  minicloud.local.snapshot:
    instance: web
  register: taken

- name: Bring the instance back
  minicloud.local.snapshot:
    instance: web
    name: before-upgrade
    state: restored

- name: Bring it back and give up what it has become, without waiting for it to shut down
  minicloud.local.snapshot:
    instance: web
    name: before-upgrade
    state: restored
    safeguard: false
    force: true

- name: Take a snapshot of an instance that runs, with its memory or not at all
  minicloud.local.snapshot:
    instance: web
    name: warmed-up
    memory: 'yes'

- name: Bring it back to what was on its disk then, and boot from that
  minicloud.local.snapshot:
    instance: web
    name: warmed-up
    state: restored
    memory: 'no'

- name: Rename a snapshot
  minicloud.local.snapshot:
    instance: web
    name: before-upgrade
    new_name: delivered

- name: Remove one
  minicloud.local.snapshot:
    instance: web
    name: "{{ taken.snapshot.name }}"
    state: absent
"""

RETURN = r"""
actions:
  description:
    - The steps that were taken, or in check mode would be.
    - V(remove_leftovers), V(take), V(delete), V(rename), V(set_comment), V(safeguard), V(stop), V(drop_memory),
      V(restore), V(start), V(wait_ready).
  type: list
  elements: str
  returned: success
  sample: [safeguard, stop, restore]
snapshot:
  description: The snapshot as it is now, or in check mode would be; none when it is gone.
  type: dict
  returned: success
  contains:
    name:
      description: Its name.
      type: str
      returned: always
      sample: before-upgrade
    instance:
      description: The name of the instance.
      type: str
      returned: always
      sample: web
    scope:
      description: The scope that the instance belongs to.
      type: str
      returned: always
      sample: qemu
    driver:
      description: The driver that took it.
      type: str
      returned: always
      sample: qemu
    parent:
      description: The name of the snapshot that the instance was at when this one was taken; empty of the first.
      type: str
      returned: always
      sample: snapshot1
    children:
      description: The names of those whose parent it is.
      type: list
      elements: str
      returned: always
      sample: []
    current:
      description: Whether the instance goes on from it.
      type: bool
      returned: always
      sample: true
    comment:
      description: The text that is kept with it.
      type: str
      returned: always
      sample: As delivered
    created:
      description: When it was taken, in UTC; empty in check mode.
      type: str
      returned: always
      sample: "2026-05-04T10:20:30Z"
    state:
      description: What the instance was when it was taken, V(running), V(stopped) or V(suspended).
      type: str
      returned: always
      sample: stopped
    file_systems:
      description:
        - How the file systems were. V(stopped) or V(suspended) of an instance that was; V(frozen) while it was frozen;
          V(synced) where they were written out right before; V(crash) where they are as after a power cut.
        - Empty in check mode.
      type: str
      returned: always
      sample: stopped
    saved_memory:
      description: The bytes of memory that were saved with it; V(0) where none was.
      type: int
      returned: always
      sample: 0
    cpus:
      description: The number of virtual processors that the instance had.
      type: int
      returned: always
      sample: 2
    memory:
      description: The size of the memory that it had, in bytes.
      type: int
      returned: always
      sample: 2147483648
    disk:
      description: The size of the disk that it had, in bytes.
      type: int
      returned: always
      sample: 10737418240
    size:
      description: The bytes that the snapshot takes by itself now; V(0) where nobody knows.
      type: int
      returned: always
      sample: 1376256
error:
  description: The kind of error, such as V(NotFound), V(NotSupported) or V(InUse).
  type: str
  returned: failure
  sample: NotFound
"""

from ansible_collections.minicloud.local.plugins.module_utils import _ansiballz
from ansible_collections.minicloud.local.plugins.module_utils._module import ModuleContext, run_module
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.snapshots import (
    parse_snapshot_wish,
    reconcile_snapshot,
)

# It was to be imported first, and has done its work.
del _ansiballz

ARGUMENTS = {
    "instance": {"type": "str", "required": True},
    "name": {"type": "str"},
    "state": {"type": "str", "choices": ["present", "absent", "restored"], "default": "present"},
    "comment": {"type": "str"},
    "new_name": {"type": "str"},
    "memory": {"type": "str", "choices": ["auto", "yes", "no"], "default": "auto"},
    "safeguard": {"type": "bool", "default": True},
    "force": {"type": "bool", "default": False},
    "wait": {"type": "bool", "default": True},
    "timeout": {"type": "float", "default": 300},
}


def run(context: ModuleContext) -> dict[str, object]:
    params = context.params
    outcome = reconcile_snapshot(
        parse_snapshot_wish(params),
        context.runtime,
        context.data,
        params["driver"],
        params["driver_options"],
        context.check_mode,
    )
    return {
        "changed": outcome.changed,
        "actions": outcome.actions,
        "snapshot": outcome.view,
        "diff": {"before": outcome.before, "after": outcome.after},
    }


def main() -> None:
    run_module(run, ARGUMENTS, subject="instance")


if __name__ == "__main__":
    main()
