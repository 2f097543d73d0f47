#!/usr/bin/python

# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: network_info
short_description: List networks of local instances
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Lists the networks of a data directory, who is on them, and whether they are on the host as they should be.
  - On request, lists the interfaces of the host that a network can be bridged to.
  - Looking changes nothing and takes no lock.
options:
  names:
    description:
      - Only these networks, compared without case. One that does not exist is simply not in the list.
    type: list
    elements: str
  all_drivers:
    description: Whether to list the networks of all drivers instead of one.
    type: bool
    default: false
  host_interfaces:
    description: Whether to list the interfaces of the host as well.
    type: bool
    default: true
extends_documentation_fragment:
  - minicloud.local._attributes
  - minicloud.local._attributes.info_module
  - minicloud.local._attributes.minicloud
  - minicloud.local._common
seealso:
  - module: minicloud.local.network
"""

EXAMPLES = r"""
- name: Look at the networks
  minicloud.local.network_info:
  register: found

- name: Tell what is wrong with them
  ansible.builtin.debug:
    msg: "{{ item.name }}: {{ item.drift + item.problems }}"
  loop: "{{ found.networks }}"
  loop_control:
    label: "{{ item.name }}"

- name: Show what a network can be bridged to
  ansible.builtin.debug:
    msg: "{{ found.host_interfaces | selectattr('bridge_types') | map(attribute='name') | list }}"
"""

RETURN = r"""
networks:
  description: The networks, sorted by name.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: The network's name.
      type: str
      returned: always
      sample: lab
    scope:
      description: The scope that it belongs to. The drivers of a scope share its networks.
      type: str
      returned: always
      sample: qemu
    driver:
      description: The driver that it was made with.
      type: str
      returned: always
      sample: qemu
    mode:
      description: V(nat), V(isolated) or V(bridged).
      type: str
      returned: always
      sample: nat
    subnet:
      description: Its IPv4 subnet; empty of one that is bridged.
      type: str
      returned: always
      sample: 10.152.16.0/20
    subnet6:
      description: Its IPv6 subnet, empty where it has none.
      type: str
      returned: always
      sample: fd12:3456:789a:1::/64
    gateway:
      description: The host's address in it; empty of one that is bridged.
      type: str
      returned: always
      sample: 10.152.16.1
    dhcp_range:
      description: First and last of the addresses that are chosen for instances.
      type: str
      returned: always
      sample: 10.152.20.0-10.152.31.254
    domain:
      description: What the names of instances in it end with.
      type: str
      returned: always
      sample: minicloud
    parent:
      description: The interface or bridge of the host that it is bridged to.
      type: str
      returned: always
      sample: ''
    bridge_type:
      description: V(bridge) or V(macvtap); empty of one that is not bridged.
      type: str
      returned: always
      sample: ''
    mtu:
      description: The largest packet in bytes; V(0) for the usual size.
      type: int
      returned: always
      sample: 0
    host_access:
      description: Whether instances reach all services of the host; always V(true) of one that is bridged.
      type: bool
      returned: always
      sample: true
    interface:
      description: The bridge of the host that the instances are attached to.
      type: str
      returned: always
      sample: mcb0a1b2c3d
    autostart:
      description: Whether it comes back when the host starts.
      type: bool
      returned: always
      sample: false
    created:
      description: When it was made, in UTC.
      type: str
      returned: always
      sample: "2026-01-31T12:00:00Z"
    cloud:
      description: The cloud that it is part of, made by M(minicloud.local.cloud); empty if of none.
      type: str
      returned: always
      sample: shop
    instances:
      description: The names of the instances that are on it, whether they run or not.
      type: list
      elements: str
      returned: always
      sample: [db, web]
    drift:
      description: >-
        What on the host differs from what the network is to be, as sentences. A run of M(minicloud.local.network) puts
        it right.
      type: list
      elements: str
      returned: always
      sample: [The firewall rules are missing.]
    problems:
      description: What keeps the network from working and cannot be put right by the collection, as sentences.
      type: list
      elements: str
      returned: always
      sample: []
host_interfaces:
  description: The interfaces of the host, sorted by name.
  type: list
  elements: dict
  returned: when O(host_interfaces=true)
  contains:
    name:
      description: The interface's name.
      type: str
      returned: always
      sample: eth0
    kind:
      description: V(ethernet), V(wifi), V(loopback), or the kernel's name of another kind, such as V(bridge).
      type: str
      returned: always
      sample: ethernet
    mac:
      description: Its hardware address.
      type: str
      returned: always
      sample: "52:54:00:12:34:56"
    mtu:
      description: The largest packet in bytes.
      type: int
      returned: always
      sample: 1500
    up:
      description: Whether it is switched on.
      type: bool
      returned: always
      sample: true
    bridge:
      description: The bridge or bond that it is a part of, empty where it is of none.
      type: str
      returned: always
      sample: ''
    addresses:
      description: The host's addresses there, with their prefix lengths.
      type: list
      elements: str
      returned: always
      sample: [192.0.2.7/24]
    default_route:
      description: Whether the host reaches the outside by it.
      type: bool
      returned: always
      sample: true
    bridge_types:
      description: Each O(minicloud.local.network#module:bridge_type) that a network can use it with as its parent.
      type: list
      elements: str
      returned: always
      sample: [bridge, macvtap]
    reason:
      description: Why these are not all; empty where they are.
      type: str
      returned: always
      sample: ''
error:
  description: The kind of error, such as V(InvalidOption) or V(InUse).
  type: str
  returned: failure
  sample: InvalidOption
"""

from ansible_collections.minicloud.local.plugins.module_utils import _ansiballz
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import DRIVERS
from ansible_collections.minicloud.local.plugins.module_utils._module import ModuleContext, run_module
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.network_listing import (
    list_host_interfaces,
    list_networks,
)

# It was to be imported first, and has done its work.
del _ansiballz

ARGUMENTS = {
    "names": {"type": "list", "elements": "str"},
    "all_drivers": {"type": "bool", "default": False},
    "host_interfaces": {"type": "bool", "default": True},
}


def run(context: ModuleContext) -> dict[str, object]:
    params = context.params
    drivers = DRIVERS if params["all_drivers"] else [params["driver"]]
    result: dict[str, object] = {
        "changed": False,
        "networks": list_networks(context.runtime, context.data, drivers, params["driver_options"], params["names"]),
    }
    if params["host_interfaces"]:
        result["host_interfaces"] = list_host_interfaces(context.runtime, context.data)
    return result


def main() -> None:
    run_module(run, ARGUMENTS, subject="names")


if __name__ == "__main__":
    main()
