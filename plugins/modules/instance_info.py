#!/usr/bin/python

# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: instance_info
short_description: List local instances
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Lists the instances of a data directory as the module M(minicloud.local.instance) returns them.
  - Looking changes nothing, needs no access to the instances themselves, and takes no lock.
options:
  names:
    description:
      - Only these instances, compared without case. One that does not exist is simply not in the list.
    type: list
    elements: str
  states:
    description: Only instances in one of these states.
    type: list
    elements: str
    choices: [running, paused, suspended, stopped, deleted, absent]
  all_drivers:
    description: Whether to list the instances of all drivers instead of one.
    type: bool
    default: false
extends_documentation_fragment:
  - minicloud.local._attributes
  - minicloud.local._attributes.info_module
  - minicloud.local._attributes.minicloud
  - minicloud.local._common
seealso:
  - module: minicloud.local.instance
  - plugin: minicloud.local.instances
    plugin_type: inventory
"""

EXAMPLES = r"""
- name: What runs here
  minicloud.local.instance_info:
    states: [running]
  register: found

- name: Show how to log in
  ansible.builtin.debug:
    msg: "{{ found.instances | map(attribute='ssh.command') | list }}"
"""

RETURN = r"""
instances:
  description: The instances, sorted by name.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: Its name.
      type: str
      returned: always
      sample: web
    state:
      description:
        - V(running), V(stopped), V(suspended), V(paused), V(deleted), or V(absent) where it was removed at the
          hypervisor by other means.
        - V(paused) has its memory and does nothing, since somebody has paused it at the hypervisor, or since the
          hypervisor has, such as QEMU when the host's disk is full. O(minicloud.local.instance#module:state=running)
          has it go on.
      type: str
      returned: always
      sample: running
    driver:
      description: The driver that made it.
      type: str
      returned: always
      sample: qemu
    owner:
      description: The driver under which it was started last; empty once it was stopped by this collection.
      type: str
      returned: always
      sample: qemu
    scope:
      description: The set of instances that it belongs to.
      type: str
      returned: always
      sample: qemu
    instance_type:
      description: V(vm) or V(container).
      type: str
      returned: always
      sample: vm
    arch:
      description: Its architecture.
      type: str
      returned: always
      sample: x86_64
    image:
      description: What its disk was made from.
      type: dict
      returned: always
      contains:
        name:
          description: The image's name.
          type: str
          returned: always
          sample: bootstrap:bookworm
        hash:
          description: The image's SHA-256.
          type: str
          returned: always
          sample: 6ba9c1ca2d2c0d8a8d6a6c1a3d2e9f4b5c6d7e8f90a1b2c3d4e5f60718293a4b
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
    cpus:
      description: Number of virtual processors.
      type: int
      returned: always
      sample: 2
    memory:
      description: Memory in bytes.
      type: int
      returned: always
      sample: 2147483648
    disk:
      description: Size of the disk in bytes.
      type: int
      returned: always
      sample: 10737418240
    addresses:
      description: Addresses at which this host reaches the instance, while it runs.
      type: list
      elements: str
      returned: always
      sample: [127.0.0.1]
    networks:
      description: Its network interfaces.
      type: list
      elements: dict
      returned: always
      contains:
        name:
          description: The network; V(user) is the hypervisor's user-mode network.
          type: str
          returned: always
          sample: default
        mac:
          description: The interface's MAC address.
          type: str
          returned: always
          sample: "52:54:00:12:34:56"
        mode:
          description: V(auto) or V(manual).
          type: str
          returned: always
          sample: auto
        address:
          description: The address that the network keeps for it; empty where it keeps none.
          type: str
          returned: always
          sample: 10.152.20.1
        addresses:
          description: The addresses that it has now, as far as the host knows them.
          type: list
          elements: str
          returned: always
          sample: [10.152.20.1]
    ports:
      description: Ports of the host that lead to ports of the guest.
      type: list
      elements: dict
      returned: always
      contains:
        host_ip:
          description: The host's address.
          type: str
          returned: always
          sample: 127.0.0.1
        host_port:
          description: The host's port, also where it was chosen by the collection.
          type: int
          returned: always
          sample: 8080
        guest_port:
          description: The guest's port.
          type: int
          returned: always
          sample: 80
        protocol:
          description: V(tcp) or V(udp).
          type: str
          returned: always
          sample: tcp
    mounts:
      description: Folders of the host in the guest.
      type: list
      elements: dict
      returned: always
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
          description: The type that was asked for.
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
    snapshots:
      description:
        - Its snapshots, the oldest first, each with C(name), C(parent) (the name of another one, empty of the first),
          C(comment) and C(created). The module M(minicloud.local.snapshot_info) tells more of them.
      type: list
      elements: dict
      returned: always
      sample:
        - {name: before-upgrade, parent: "", comment: As delivered, created: "2026-05-04T10:20:30Z"}
    tags:
      description: Its tags.
      type: dict
      returned: always
      sample: {role: web}
    source:
      description:
        - What it was made from where that was no image, as the task has named it then; empty where it was an image.
      type: str
      returned: always
      sample: web@before-upgrade
    source_copy:
      description: Of a clone V(linked) or V(full), how its disk was made; else empty.
      type: str
      returned: always
      sample: linked
    cloud:
      description: The cloud that it is part of, made by M(minicloud.local.cloud); empty if of none.
      type: str
      returned: always
      sample: shop
    user:
      description: The login user; empty for an image whose own user is not known before its first boot has ended.
      type: str
      returned: always
      sample: debian
    ssh:
      description: How to reach it by ssh.
      type: dict
      returned: always
      contains:
        host:
          description: The address.
          type: str
          returned: always
          sample: 127.0.0.1
        port:
          description: The port.
          type: int
          returned: always
          sample: 2222
        user:
          description: The login user.
          type: str
          returned: always
          sample: debian
        key_file:
          description: The private key of the data directory.
          type: str
          returned: always
          sample: /var/lib/minicloud/keys/id_ed25519
        known_hosts:
          description: The file with the instance's host key, which was made before its first boot.
          type: str
          returned: always
          sample: /var/lib/minicloud/known_hosts
        command:
          description: The command that logs in.
          type: str
          returned: always
          sample: ssh -i /var/lib/minicloud/keys/id_ed25519 -p 2222 debian@127.0.0.1
    created:
      description: When it was made, in UTC.
      type: str
      returned: always
      sample: "2026-05-04T10:20:30Z"
    deleted:
      description: Since when it is deleted, in UTC; empty where it is not.
      type: str
      returned: always
      sample: ""
    autostart:
      description: Whether it starts with the host.
      type: bool
      returned: always
      sample: false
    cloud_init:
      description: What cloud-init said when it had finished.
      type: dict
      returned: always
      contains:
        status:
          description: V(done), V(error), V(disabled) …; empty while nobody has waited for it.
          type: str
          returned: always
          sample: done
        errors:
          description: Its errors.
          type: list
          elements: str
          returned: always
          sample: []
    console_log:
      description: The file that keeps what the guest writes to its serial console.
      type: str
      returned: always
      sample: /var/lib/minicloud/scopes/qemu/instances/web/console.log
    ansible_vars:
      description: Variables that make the instance an Ansible host, ready for M(ansible.builtin.add_host).
      type: dict
      returned: always
      sample:
        ansible_connection: ssh
        ansible_host: 127.0.0.1
        ansible_port: 2222
        ansible_user: debian
"""

from ansible_collections.minicloud.local.plugins.module_utils import _ansiballz
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import DRIVERS
from ansible_collections.minicloud.local.plugins.module_utils._module import ModuleContext, run_module
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.listing import list_instances

# It was to be imported first, and has done its work.
del _ansiballz

ARGUMENTS = {
    "names": {"type": "list", "elements": "str"},
    "states": {
        "type": "list",
        "elements": "str",
        "choices": ["running", "paused", "suspended", "stopped", "deleted", "absent"],
    },
    "all_drivers": {"type": "bool", "default": False},
}


def run(context: ModuleContext) -> dict[str, object]:
    params = context.params
    drivers = DRIVERS if params["all_drivers"] else (params["driver"],)
    found = list_instances(context.runtime, context.data, drivers, params["driver_options"])
    if params["names"] is not None:
        wanted = {name.lower() for name in params["names"]}
        found = [entry for entry in found if entry.instance.name.lower() in wanted]
    if params["states"] is not None:
        found = [entry for entry in found if entry.observed.state in params["states"]]
    return {"changed": False, "instances": [entry.view(context.data) for entry in found]}


def main() -> None:
    run_module(run, ARGUMENTS, subject="names")


if __name__ == "__main__":
    main()
