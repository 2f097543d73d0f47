#!/usr/bin/python

# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: export
short_description: Export a local instance to a file
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Writes an instance that is stopped to one portable file, with its disk, its record and its cloud-init data.
  - From such a file an instance is made with O(minicloud.local.instance#module:source), on this host or another, and
    under another driver as well.
  - What is there already and still right is left alone. The instance is exported anew once it has been started or
    changed, or where the file was changed or is gone.
  - The file is written under another name and gets its own when it is whole. Runs may be interrupted at any point, and
    leave either the earlier file or the new one.
notes:
  - Whoever can read the file can read all that is on the disk of the instance, and its user-data. Only its owner may.
  - The file is a tar archive, compressed as a whole, whose last member SHA256SUMS has the checksums of the others. The
    guide on the life of an instance tells what is in it, and how to read it with other tools.
  - With the drivers V(qemu) and V(libvirt) the layers of the disk go into the file as they are, and no second copy is
    made. With V(lxd) and V(incus) the server makes an image of the container first, and keeps it until it is read.
options:
  instance:
    description: The name of the instance. It must be stopped.
    type: str
    required: true
  path:
    description:
      - The file, which usually ends with C(.minicloud), or a directory that is there already, in which it gets the
        name of the instance.
      - A file that is no export of this instance is not overwritten unless O(force=true).
    type: path
    required: true
  snapshots:
    description:
      - Whether its snapshots are exported with it.
      - Drivers that cannot do that refuse it.
    type: bool
    default: false
  compression:
    description:
      - How the file is compressed. V(auto) is V(zstd) where the program of that name is installed, else V(gzip).
      - Where disks are large and time is short, use V(none).
    type: str
    choices: [auto, zstd, gzip, none]
    default: auto
  force:
    description: Export it in any case, and overwrite whatever file is there.
    type: bool
    default: false
  timeout:
    description: How many seconds to wait for another run that works on the instance.
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
      - Not with O(force=true).
extends_documentation_fragment:
  - minicloud.local._attributes
  - minicloud.local._attributes.minicloud
  - minicloud.local._common
seealso:
  - module: minicloud.local.instance
  - module: minicloud.local.snapshot
"""

EXAMPLES = r"""
- name: Stop an instance
  minicloud.local.instance:
    name: web
    state: stopped

- name: Export it with its snapshots
  minicloud.local.export:
    instance: web
    path: /var/backups/web.minicloud
    snapshots: true
  register: exported

- name: Make an instance of it under another driver
  minicloud.local.instance:
    name: web2
    source: "{{ exported.export.path }}"
    driver: libvirt
"""

RETURN = r"""
actions:
  description: The steps that were taken, or in check mode would be.
  type: list
  elements: str
  returned: success
  sample: [export]
export:
  description: The file.
  type: dict
  returned: success
  contains:
    path:
      description: Where it is.
      type: str
      returned: always
      sample: /var/backups/web.minicloud
    size:
      description: Its size in bytes; V(0) in check mode where it would be written.
      type: int
      returned: always
      sample: 412876800
    checksum:
      description: Its checksum, with the algorithm before it; empty in check mode where it would be written.
      type: str
      returned: always
      sample: sha256:5f2b3c9a4f0e6a1d8c7b2e5f4a3d2c1b0a9f8e7d6c5b4a39281706f5e4d3c2b1
    instance:
      description: The name of the instance.
      type: str
      returned: always
      sample: web
    snapshots:
      description: Whether its snapshots are in the file.
      type: bool
      returned: always
      sample: true
error:
  description: The kind of error, such as V(NotFound), V(InUse) or V(NoSpace).
  type: str
  returned: failure
  sample: InUse
"""

from ansible_collections.minicloud.local.plugins.module_utils import _ansiballz
from ansible_collections.minicloud.local.plugins.module_utils._module import ModuleContext, run_module
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.exports import (
    parse_export_wish,
    reconcile_export,
)

# It was to be imported first, and has done its work.
del _ansiballz

ARGUMENTS = {
    "instance": {"type": "str", "required": True},
    "path": {"type": "path", "required": True},
    "snapshots": {"type": "bool", "default": False},
    "compression": {"type": "str", "choices": ["auto", "zstd", "gzip", "none"], "default": "auto"},
    "force": {"type": "bool", "default": False},
    "timeout": {"type": "float", "default": 300},
}


def run(context: ModuleContext) -> dict[str, object]:
    params = context.params
    outcome = reconcile_export(
        parse_export_wish(params),
        context.runtime,
        context.data,
        params["driver"],
        params["driver_options"],
        context.check_mode,
    )
    return {
        "changed": outcome.changed,
        "actions": outcome.actions,
        "export": outcome.view,
        "diff": {"before": outcome.before, "after": outcome.after},
    }


def main() -> None:
    run_module(run, ARGUMENTS, subject="instance")


if __name__ == "__main__":
    main()
