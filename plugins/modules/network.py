#!/usr/bin/python

# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: network
short_description: Manage a network of local instances
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Makes a network that instances can be attached to, and keeps it as the task describes it from then on. What has gone
    from the host or was changed there is put right.
  - Instances on it have addresses that stay, reach each other and find each other by name. The outside cannot reach
    them, except for ports that are forwarded to them.
  - The network V(default) is made by itself when the first instance needs it, so this module is needed only for other
    networks, or to have the default one otherwise.
  - An option that is left out is not compared. To create a network, its documented default is used.
  - Runs may be interrupted at any point, and several may run at once; the next run finishes what is left.
notes:
  - With the drivers V(qemu) and V(libvirt) a network of root is a bridge of this host with a DHCP and DNS server
    (C(dnsmasq)) and a table of C(nftables) rules of its own. It needs C(ip) (iproute2), C(nft) and C(dnsmasq);
    the role P(minicloud.local.host#role) installs them. Both drivers share their networks.
  - Without root, a network of these drivers connects instances with each other by a process of the user, which gives
    them addresses and names; the way out, ssh and forwarded ports are QEMU's user-mode network. It needs QEMU 7.2 or
    newer. The mode V(bridged) and O(subnet6) need root.
  - With the drivers V(lxd) and V(incus) networks are bridges of the server itself, with rules in an access control list
    (C(lxc network acl), C(incus network acl)) that comes and goes with the network. What O(confirm_bridge) confirms
    takes root on the host of the server.
  - As root, the kernel is told to forward packets (C(net.ipv4.ip_forward)), and stays told when the network is removed,
    as others may have come to need it.
  - Rules of others are left alone. Where Docker is, rules for the network are added to the chain C(DOCKER-USER) that
    Docker keeps for that; where firewalld is, the bridge is put into its zone C(trusted). Both are undone at removal.
options:
  name:
    description:
      - The network's name, of letters, digits and hyphens. Names are compared without case.
    type: str
    required: true
  state:
    description:
      - V(present) is there and works.
      - V(absent) is gone, with everything that it brought to the host. Refused while instances are on it.
    type: str
    choices: [present, absent]
    default: present
  mode:
    description:
      - V(nat) lets instances reach the outside, with the address of the host.
      - V(isolated) lets them reach only each other and the host's DHCP and DNS server.
      - V(bridged) attaches them to the network that O(parent) is on, as if they were machines beside this host.
      - Unless given, a new network is V(nat). V(nat) and V(isolated) can be changed into each other at any time.
    type: str
    choices: [nat, isolated, bridged]
  subnet:
    description:
      - The IPv4 subnet, such as V(10.20.30.0/24). The host has its first address.
      - Unless given, one is chosen that collides with no route, interface or other network, and is kept.
      - Can be changed while none of its instances runs.
    type: str
  subnet6:
    description:
      - An IPv6 subnet, a V(/64) such as V(fd12:3456:789a:1::/64). Guests choose their addresses in it themselves.
      - Unless given, the network has IPv4 only.
    type: str
  dhcp_range:
    description:
      - The addresses that may be chosen for instances, as V(first-last). Static addresses may lie outside.
      - Unless given, the last three quarters of the subnet.
    type: str
  domain:
    description:
      - What names end with. An instance is found as C(NAME) and as C(NAME.DOMAIN).
      - Unless given, V(minicloud).
    type: str
  parent:
    description:
      - For O(mode=bridged), the host's bridge or interface that the network is bridged to.
      - An existing bridge is used as it is, and nothing of it is changed.
      - Of another interface, a bridge takes the place. The interface's addresses, routes and hardware address move to
        it, and back when the network is removed; see O(confirm_bridge).
      - Wi-Fi cannot be bridged, as an access point takes frames only from the address of the station that has joined.
        M(minicloud.local.network_info) tells what can be a parent, and why others cannot.
    type: str
  bridge_type:
    description:
      - For O(mode=bridged), how the parent is used.
      - V(bridge) attaches instances to a bridge, which the parent is or becomes a part of.
      - V(macvtap) gives each instance an interface of its own on top of the parent, which keeps its addresses. Such
        instances reach everybody on the parent's network except this host.
      - Unless given, V(bridge).
    type: str
    choices: [bridge, macvtap]
  confirm_bridge:
    description:
      - Confirms that the addresses of O(parent) may move to a bridge, which can cut off the host. Needed when the
        network is made, and only where a bridge would be.
      - If afterwards the default route is lost, or its gateway does not answer any more, or the run is ended in the
        middle, all is put back as it was.
      - An interface that NetworkManager, systemd-networkd or a DHCP client looks after is refused even so, since they
        would give it its addresses again. The error tells how to have them make the bridge instead.
    type: bool
    default: false
  mtu:
    description:
      - The largest packet, in bytes, told to guests by DHCP. Unless given, the usual 1500.
    type: int
  host_access:
    description:
      - Whether instances reach all services of the host that listen on all addresses or on the network's, for
        O(mode=nat) and O(mode=isolated).
      - With V(false) they reach of their host DHCP and names of the network, ping, and answers to what the host began.
        Ports that the host forwards to instances can be reached all the same.
      - Unless given, V(true) on a network of the mode V(nat), as services for instances often run on their host, and
        V(false) on one that is V(isolated).
      - With the drivers V(lxd) and V(incus), V(true) on an isolated network opens the host's addresses on the network
        only. V(false) with O(mode=nat) keeps instances from the addresses that the host has when the task runs, answers
        no ping, and is not possible in a cluster.
      - Without root, the drivers V(qemu) and V(libvirt) cannot have it otherwise than is usual for the mode.
    type: bool
  autostart:
    description:
      - Whether the network comes back when the host starts, by a unit of systemd. Otherwise it comes back with the next
        run that needs it. Unless given, it does not.
    type: bool
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
  - module: minicloud.local.network_info
  - module: minicloud.local.instance
"""

EXAMPLES = r"""
- name: Make a network with a subnet of our choice
  minicloud.local.network:
    name: lab
    subnet: 10.20.30.0/24
    domain: lab.internal

- name: Launch an instance with a static address in it
  minicloud.local.instance:
    name: web
    networks:
      - name: lab
        address: "10.20.30.10"

- name: Make a network whose instances cannot reach the outside
  minicloud.local.network:
    name: quarantine
    mode: isolated

- name: Make a network whose instances reach the outside, but none of the host's services
  minicloud.local.network:
    name: visitors
    host_access: false

- name: Attach instances to the network that the host's bridge br0 is on
  minicloud.local.network:
    name: office
    mode: bridged
    parent: br0

- name: Remove a network
  minicloud.local.network:
    name: lab
    state: absent
"""

RETURN = r"""
actions:
  description: The steps that were taken, or in check mode would be taken.
  type: list
  elements: str
  returned: success
  sample: [create]
network:
  description: The network as it is now, or in check mode would be; none when it is gone.
  type: dict
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
users:
  description: The instances that keep a network from being removed.
  type: list
  elements: str
  returned: when it is in use
  sample: [web]
error:
  description: The kind of error, such as V(InvalidOption) or V(InUse).
  type: str
  returned: failure
  sample: InvalidOption
"""

from ansible_collections.minicloud.local.plugins.module_utils import _ansiballz
from ansible_collections.minicloud.local.plugins.module_utils._arguments import NETWORK
from ansible_collections.minicloud.local.plugins.module_utils._module import ModuleContext, run_module
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.networks import (
    parse_network,
    reconcile_network,
)

# It was to be imported first, and has done its work.
del _ansiballz

ARGUMENTS = NETWORK


def run(context: ModuleContext) -> dict[str, object]:
    params = context.params
    outcome = reconcile_network(
        parse_network(params),
        context.runtime,
        context.data,
        params["driver"],
        params["driver_options"],
        context.check_mode,
    )
    return {
        "changed": outcome.changed,
        "actions": outcome.actions,
        "network": outcome.view,
        "diff": {"before": outcome.before, "after": outcome.after},
    }


def main() -> None:
    run_module(run, ARGUMENTS, subject="name")


if __name__ == "__main__":
    main()
