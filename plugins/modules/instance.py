#!/usr/bin/python

# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: instance
short_description: Manage a local cloud-style instance
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Launches a Linux instance from a cloud image on the hypervisor of this host, waits until cloud-init has finished in
    it, and keeps it as the task describes it from then on.
  - The disk is a thin overlay on the image in the vault, so launching copies nothing, however large the image is.
  - The instance's ssh host key is made before its first boot and pinned, so that ssh can check it from the first
    connection on.
  - An option that is left out is not compared. To create an instance, its documented default is used.
  - Runs may be interrupted at any point, and several may run at once; the next run finishes what is left.
notes:
  - The module runs on the host that has the hypervisor. It needs C(qemu-img), QEMU, C(setsid) and C(setpriv)
    (util-linux), and an OpenSSH client there; the role P(minicloud.local.host#role) installs them.
  - Without root, everything works as the user of the task, in a data directory of that user.
  - The instance is on a private network, where it has an address that stays and finds other instances by name. It
    reaches the outside, and nothing from outside reaches it but the forwarded ports. With root, the network is a bridge
    of the host, made by C(ip), C(nft) and C(dnsmasq); without, this host reaches it by forwarded ports only.
  - What is going on in a long task can be read in C(activity.log) in the data directory while it runs. The callback
    plugin P(minicloud.local.progress#callback) shows it at the terminal.
options:
  name:
    description:
      - The instance's name, which becomes its host name.
      - It begins with a letter, goes on with letters, digits and hyphens, ends with a letter or digit, and has at most
        63 characters. Names are compared without case.
      - Required unless O(purge_older_than) is given, or O(source=multipass:*).
    type: str
  state:
    description:
      - V(running) is an instance that runs; it is made, started or resumed where it does not.
      - V(stopped) is shut down by its guest; with O(force=true) it is switched off instead.
      - V(suspended) does nothing, and goes on from there with V(running) as if no time had gone by; its clock is set
        then. What it was doing is saved on the host's disk and survives a restart of the host, except with the drivers
        V(lxd) and V(incus), which keep it in memory. It goes on under the driver that suspended it, with the same
        version of QEMU and, unless it is emulated, the same kind of processor. Where it cannot, that is said before
        anything is done. O(force=true) drops what it was doing, as if its plug had been pulled.
      - V(restarted) stops and starts it, and is always a change.
      - V(present) exists, in whatever state; one that is made by it is not started.
      - V(deleted) is stopped and put aside. It keeps its disk and its name, does not start with the host, and gives up
        the ports that lead to it; its addresses stay its own. V(running), V(stopped), V(restarted) or V(present) bring
        it back as it was. M(minicloud.local.instance_info) lists it, and the inventory does not.
      - V(absent) is gone, with its disk and everything else that it owned. Where the hypervisor refuses that, such as
        LXD for an instance with C(security.protection.delete), the instance stays as it was.
    type: str
    choices: [running, stopped, suspended, restarted, present, deleted, absent]
    default: running
  new_name:
    description:
      - Renames the instance. Its disk, its addresses and its pinned host key stay; its host name is the new one from
        the next boot on.
      - It has to be stopped for that; with O(allow_restart=true) one that runs is stopped, and started again where
        O(state) lets it run.
      - Where no instance has the name O(name) any more, the task is about the one with the new name. So both names can
        stay in the task.
    type: str
  purge_older_than:
    description:
      - With O(state=absent) and without a O(name), removes for good those instances of the driver that have been
        deleted for longer, such as V(14d), V(12h) or V(2w). V(0) removes all that are deleted.
    type: str
  image:
    description:
      - What to make the disk from. Used when the instance is made, and V(lts) then unless given. A different one later
        is reported as a warning, and acted on only with O(recreate=true).
      - A name of an image host such as V(24.04), V(noble), V(lts), V(daily:26.04) or V(images:debian/13/cloud). Names
        as V(ubuntu:24.04), V(debian:12), V(debian/12), V(bookworm) and V(fedora:42) are known, too.
      - Write versions in quotes. YAML reads V(24.10) without them as the number 24.1.
      - V(bootstrap:bookworm) or V(bootstrap:trixie) to have the image built from Debian's packages on this host.
      - A URL (V(https://…)), a C(file://) URL or a path to a disk image (qcow2, raw, vmdk, vhdx or vdi; also compressed
        with xz, gzip, zstd or bzip2).
    type: str
  image_checksum:
    description:
      - What the image must be, as V(sha256:HEX), V(sha512:HEX), or V(sha256:URL) with the URL of a list of checksums.
      - It is verified while the image is fetched.
    type: str
  image_hosts:
    description:
      - Further or other image hosts, by name, as in M(minicloud.local.image).
    type: dict
  source:
    description:
      - What to make the instance from instead of an O(image), used when it is made.
      - The name of another instance of the driver to make it a clone of that, or V(NAME@SNAPSHOT) of how that was when
        one of its snapshots was taken. With V(qemu), V(lxd) and V(incus) it may be running, and runs on.
      - A clone has a name, network interfaces, host keys and an identity of its own, and no user-data but that of this
        task. Its login user, O(cpus), O(memory), O(disk), O(networks), O(mounts), O(tags) and O(autostart) are those of
        the other one unless the task names them. So are O(ports), from ports of the host that are chosen anew.
      - A different one later is reported as a warning, and acted on only with O(recreate=true).
      - A file that M(minicloud.local.export) has written, as V(file:///…) or a path, or an OVA with one virtual machine
        that has one disk, whose name must end with C(.ova). It must be on the host that runs the instances.
      - V(multipass:NAME) for an instance of Multipass that is stopped. It is only read, and stays as it is. Without
        O(name), V(multipass:*) takes over all that are stopped under the names that they have, and warns of the others.
      - What comes from a file or from Multipass is a new instance. It gets an instance-id and host keys of its own, and
        no user-data but that of this task, so nothing that ran at the first boot of the other runs again.
      - Its processors, memory, login user, networks, ports, mounts, tags and snapshots are what the source says, as far
        as the task says nothing and this host has them; warnings tell what is left out. It keeps its MAC addresses
        unless another instance here has them.
    type: str
  source_copy:
    description:
      - Whether a clone shares what is on the disk with O(source) until one of the two changes it (V(linked)), or has a
        copy of its own from the beginning (V(full)). Unless given, V(linked).
      - With V(lxd) and V(incus) that is up to the storage pool. The result tells how it was made.
    type: str
    choices: [linked, full]
  source_root:
    description:
      - The data directory of Multipass, or a copy of it, where O(source) is an instance of Multipass.
      - Unless given, it is where Multipass keeps its data on this host.
    type: path
  cpus:
    description: Number of virtual processors. A new instance has 1 unless given.
    type: int
  memory:
    description:
      - Memory, such as V(512M), V(1.5G), V(2GiB) or plain bytes; units are powers of 1024. A number without a unit is
        bytes.
      - A new instance has V(1G) unless given.
    type: str
  disk:
    description:
      - Size of the disk, in the same units. It can grow later, and never shrinks.
      - A new instance has V(5G) unless given, or as much as its image needs if that is more.
    type: str
  instance_type:
    description: V(vm) unless given. V(container) needs a driver that has containers.
    type: str
    choices: [vm, container]
  arch:
    description:
      - The architecture, such as V(x86_64) or V(aarch64) (V(amd64) and V(arm64) mean the same).
      - The host's unless given.
      - A foreign one runs under emulation.
    type: str
  user:
    description: The login user. By default the image's own.
    type: str
  ssh_authorized_keys:
    description:
      - Public keys that may log in, besides the data directory's own.
      - Each is a line as in C(authorized_keys), with options if need be, or the lines of a file of such keys. Anything
        else, such as a private key or the path of a file, is refused.
    type: list
    elements: str
  cloud_init:
    description:
      - User-data for cloud-init. A mapping is cloud-config. Text is passed on as it is, in any form that cloud-init
        takes, such as C(#cloud-config), a script, MIME or a jinja template, and begins with the header of its form.
      - Used when the instance is made. A different one later is reported as a warning, and acted on only with
        O(recreate=true). The same holds for O(vendor_data), O(network_config), O(meta_data), O(user),
        O(ssh_authorized_keys), O(arch) and O(instance_type).
      - Ansible logs the options of tasks. Set C(no_log=true) on the task where user-data holds secrets.
    type: raw
  vendor_data:
    description: Vendor-data for cloud-init, in the forms of O(cloud_init). User-data goes before it.
    type: raw
  network_config:
    description:
      - Network configuration for cloud-init, version 1 or 2, as a mapping or text.
      - By default every interface is configured by DHCP.
    type: raw
  meta_data:
    description: Further meta-data for cloud-init, as a mapping or text.
    type: raw
  networks:
    description:
      - The instance's network interfaces, in their order. Unless given, it has one on the network V(default),
        which is made when the first instance needs it.
      - Without root, the instance has another interface before these, on the user-mode network of QEMU. It is for ssh,
        forwarded ports and the way out, and is not in the result.
      - Which networks the interfaces are on, and their MACs, can be changed only while the instance is stopped. The
        interfaces of a new instance are configured by cloud-init at its first boot; one that comes later is not.
      - A plain name is short for an entry with O(networks[].name) alone. An empty list is the same as none.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - The network, as M(minicloud.local.network) made it. Unless this or O(networks[].bridged) is given,
            V(default).
          - V(user) is the user-mode network of QEMU, which needs no root. The guest can reach the outside, and only
            forwarded ports lead to it.
        type: str
      bridged:
        description:
          - A bridge of this host, instead of a name. The interface is on the network that is bridged to it; if there is
            none, it is made with the name C(bridged-) and the bridge's.
          - An interface that is no bridge is not made one by this. Make a network of it with
            M(minicloud.local.network), which asks for confirmation, and then name either of the two here.
        type: str
      address:
        description:
          - A static address in the network's subnet. The guest gets it by DHCP, so it may be changed while the instance
            runs. The guest is told to take it on at once, by ssh, or else by pulling its cable out for some seconds. A
            warning says if it does not; then it has the address within a few minutes, or after a restart.
          - Unless given, the network chooses one and keeps it for the instance.
        type: str
      mac:
        description:
          - The interface's hardware address. One that nobody else has is chosen unless given.
          - Write it in quotes, as YAML reads some addresses as numbers without them.
        type: str
      mode:
        description:
          - V(auto) is configured by cloud-init, with DHCP.
          - V(manual) is left alone.
        type: str
        choices: [auto, manual]
        default: auto
  bridged:
    description:
      - One more interface of the instance, after those of O(networks) or those that it has, on a bridge of this host.
        The same as one more entry with O(networks[].bridged).
    type: str
  ports:
    description:
      - Ports of the host that lead to ports of the guest, each as C([[host_ip:]host_port:]guest_port[/tcp|udp]).
      - Write them in quotes. YAML reads V(22:22) without them as the number 1342.
      - Without C(host_ip) only this host can use the forward (V(127.0.0.1)); V(0.0.0.0) opens it to others.
      - Without C(host_port) a free one is chosen, returned, and kept.
      - The list is complete; a forward that is not in it is taken away. Changes take effect while the instance runs.
      - Where all networks are bridged, a forward leads to where this host finds the instance on the first of them.
        That is known when the instance is ready; with O(wait=false), the next run leads the ports there. With macvtap
        this host does not reach the instance, and ports are refused.
    type: list
    elements: str
  mounts:
    description:
      - Folders of the host in the guest; the options are those of M(minicloud.local.mount), which explains them, and
        changes single ones.
      - The list is complete; a mount that is not in it is taken away. With O(force) also one that the guest uses.
    type: list
    elements: dict
    suboptions:
      source:
        description: The folder of the host, as an absolute path.
        type: path
        required: true
      target:
        description: Where it appears in the guest. Unless given, its name in the home directory of the login user.
        type: str
      type:
        description: How it comes there. V(classic) and V(copy) work with every driver.
        type: str
        choices: [auto, native, classic, copy]
        default: auto
      uid_map:
        description: Which users of the host are which in the guest, each as C(host:guest) in quotes.
        type: list
        elements: str
      gid_map:
        description: The same for groups.
        type: list
        elements: str
      read_only:
        description: Whether the guest can only read.
        type: bool
        default: false
      delete:
        description: With O(mounts[].type=copy), whether what the folder does not have goes from the guest's.
        type: bool
        default: false
  tags:
    description: Names and values of your own, for the inventory. The mapping is complete.
    type: dict
  autostart:
    description:
      - Whether the instance starts when the host does. Unless given, a new instance does not.
      - With the drivers V(lxd) and V(incus) the server does it. With V(qemu) and V(libvirt) a unit of systemd does,
        which the collection writes when the first instance or network asks for it and removes with the last. It needs
        no Ansible on the host; of a user other than root it needs C(loginctl enable-linger). When the host goes down,
        the unit suspends the instance, and it goes on when the host starts.
      - On a host without systemd nothing would start it. A warning says so then, with the command to be run instead.
    type: bool
  allow_restart:
    description:
      - Whether a running instance may be stopped and started again for a change that needs it (O(cpus), O(memory) and
        O(disk)). If not, such a change fails and says so, and nothing is changed.
    type: bool
    default: false
  wait:
    description: Whether to wait until the instance is ready, which is when ssh answers and cloud-init has finished.
    type: bool
    default: true
  timeout:
    description:
      - Seconds that the instance has to become ready, or to shut down. Fetching or building the image does not count.
      - Emulated instances (see O(driver_options)) may need more than the default.
    type: float
    default: 300
  cloud_init_errors:
    description: What to do when cloud-init reports errors.
    type: str
    choices: [fail, warn, ignore]
    default: fail
  recreate:
    description:
      - Whether to replace an instance that was made with other options than those of the task, its data included.
        One that was made with the same options stays.
      - It is also replaced for a smaller O(disk).
    type: bool
    default: false
  force:
    description:
      - Whether to switch the instance off instead of shutting it down.
      - Of a suspended instance also drops what it was doing where it is to be stopped, or cannot go on from there.
      - With O(state=absent) also removes what is left of an instance whose record is damaged, and one that linked
        clones were made of, which keep all that they have.
      - With any other O(state) keeps an instance whose removal was cut off. Without it such an instance is left alone
        until O(state=absent) finishes the removal.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - O(state=restarted) restarts the instance each time.
extends_documentation_fragment:
  - minicloud.local._attributes
  - minicloud.local._attributes.minicloud
  - minicloud.local._common
seealso:
  - module: minicloud.local.instance_info
  - module: minicloud.local.image
  - plugin: minicloud.local.instances
    plugin_type: inventory
"""

EXAMPLES = r"""
- name: Launch an instance and wait until it is ready
  minicloud.local.instance:
    name: web
    image: bootstrap:bookworm
    cpus: 2
    memory: 2G
    disk: 10G

- name: Configure it with cloud-init and reach its web server from this host
  minicloud.local.instance:
    name: web
    image: "24.04"
    cloud_init:
      packages: [nginx]
      package_update: true
    ports:
      - "8080:80"
    tags:
      role: web

- name: Launch from a file of your own, verified
  minicloud.local.instance:
    name: db
    image: /srv/images/my-base.qcow2
    image_checksum: sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef

- name: Give it more memory, restarting it for that
  minicloud.local.instance:
    name: web
    memory: 4G
    allow_restart: true

- name: Launch an instance for this run
  minicloud.local.instance:
    name: ci
    image: "bootstrap:bookworm"
  register: launched

- name: Make it a host of this run
  ansible.builtin.add_host: "{{ {'name': launched.instance.name} | combine(launched.instance.ansible_vars) }}"

- name: Work in it
  ansible.builtin.command: hostname
  delegate_to: ci
  changed_when: false

- name: Have an instance start with the host
  minicloud.local.instance:
    name: web
    autostart: true

- name: Put one more interface of it on a bridge of the host
  minicloud.local.instance:
    name: web
    bridged: br0
    allow_restart: true

- name: Launch an instance that has IPv6 and a static address, on a network of its own
  minicloud.local.instance:
    name: db
    networks:
      - name: backend  # made with subnet6 by minicloud.local.network
        address: "10.30.0.10"

- name: Shut an instance down
  minicloud.local.instance:
    name: web
    state: stopped

- name: Restart an instance
  minicloud.local.instance:
    name: web
    state: restarted

- name: Replace an instance that was made from another image, its data included
  minicloud.local.instance:
    name: web
    image: "26.04"
    recreate: true

- name: Run a container on another LXD server
  minicloud.local.instance:
    name: worker
    image: "images:debian/13/cloud"
    instance_type: container
    driver: lxd
    driver_options:
      endpoint: https://lab1.example.com:8443
      cert: /etc/minicloud/client.crt
      key: /etc/minicloud/client.key
      verify: /etc/minicloud/server.crt

- name: Make an instance from another one, as that is now
  minicloud.local.instance:
    name: test
    source: web

- name: Make one of a snapshot, with a disk of its own
  minicloud.local.instance:
    name: test
    source: web@before-upgrade
    source_copy: full

- name: Make an instance from a file that another host has exported
  minicloud.local.instance:
    name: web
    source: /var/backups/web.minicloud

- name: Take over an instance of Multipass, and leave it stopped
  minicloud.local.instance:
    name: primary
    source: multipass:primary
    state: stopped

- name: Take over all of them
  minicloud.local.instance:
    source: multipass:*
    state: stopped

- name: Rename an instance, restarting it for that
  minicloud.local.instance:
    name: web
    new_name: www
    allow_restart: true

- name: Put it aside, so that it can still be brought back
  minicloud.local.instance:
    name: web
    state: deleted

- name: Bring it back and start it
  minicloud.local.instance:
    name: web

- name: Remove what was put aside more than two weeks ago
  minicloud.local.instance:
    state: absent
    purge_older_than: 14d

- name: Remove it with all it owned
  minicloud.local.instance:
    name: web
    state: absent
"""

RETURN = r"""
actions:
  description:
    - The steps that were taken, in order; in check mode, that would be taken.
    - C(rename), C(fetch_image), C(ensure_network), C(create), C(start), C(resume), C(wait_ready), C(stop),
      C(await_stop), C(stay_stopped), C(suspend), C(drop_memory), C(soft_delete), C(recover), C(set_cpus),
      C(set_memory), C(grow_disk), C(set_networks), C(set_mounts), C(set_ports), C(set_tags), C(set_autostart),
      C(reconfigure), C(repair_networks), C(repair_autostart), C(mount), C(keep), C(delete) and
      C(remove_leftovers). Where deleted instances are purged, they are delete and the name of each.
  type: list
  elements: str
  returned: success
  sample: [create, start, wait_ready]
instance:
  description:
    - The instance as it is; in check mode, as it would be, without what only a real run can know.
    - V(null) when it is gone.
  type: dict
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
instances:
  description: The instances that were taken over, or in check mode would be, each as RV(instance).
  type: list
  elements: dict
  returned: when source is V(multipass:*)
purged:
  description: The instances that were removed; in check mode, that would be removed.
  type: list
  elements: str
  returned: when purge_older_than is given
  sample: [web-old]
stage:
  description: How far a launch that failed had come.
  type: str
  returned: when a launch fails
  sample: cloud-init
console:
  description: The last lines of the instance's serial console.
  type: list
  elements: str
  returned: when a launch fails and the console has something
hypervisor_log:
  description: What the hypervisor said.
  type: list
  elements: str
  returned: when a launch fails because of the hypervisor
error:
  description: The kind of error, such as V(InvalidOption), V(MissingRequirement), V(RestartRequired) or V(LaunchError).
  type: str
  returned: failure
  sample: LaunchError
"""

from ansible_collections.minicloud.local.plugins.module_utils import _ansiballz
from ansible_collections.minicloud.local.plugins.module_utils._arguments import INSTANCE
from ansible_collections.minicloud.local.plugins.module_utils._module import ModuleContext, run_module
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.instances import Outcome, reconcile_instance
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import parse_wish

# It was to be imported first, and has done its work.
del _ansiballz

ARGUMENTS = INSTANCE


def run(context: ModuleContext) -> dict[str, object]:
    params = context.params
    if params["purge_older_than"] is not None:
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.purge import purge_instances

        outcome = purge_instances(params, context.runtime, context.data, context.check_mode)
        return {**told(outcome), "purged": sorted(outcome.after)}
    if params["source"] == "multipass:*" and params["name"] is None:
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.multipass import take_over_all

        outcome, views = take_over_all(params, context.runtime, context.data, context.check_mode)
        return {**told(outcome), "instances": views}
    outcome = reconcile_instance(
        parse_wish(params),
        context.runtime,
        context.data,
        params["driver"],
        params["driver_options"],
        context.check_mode,
    )
    return told(outcome)


def told(outcome: Outcome) -> dict[str, object]:
    """What was done, as a result."""
    return {
        "changed": outcome.changed,
        "actions": outcome.actions,
        "instance": outcome.view,
        "diff": {"before": outcome.before, "after": outcome.after},
    }


def main() -> None:
    run_module(run, ARGUMENTS, subject="name")


if __name__ == "__main__":
    main()
