# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

from __future__ import annotations


class ModuleDocFragment:
    """The options that every module has."""

    DOCUMENTATION = r"""
requirements:
  - Python 3.9 or newer on the host that the module runs on.
  - libvirt-python 9.0 or newer, for the driver V(libvirt).
  - pylxd 2.2.10 or newer, for the drivers V(lxd) and V(incus); 2.3.2 or newer for a server on the network. It brings
    C(requests) and C(requests_toolbelt).
options:
  driver:
    description:
      - The technology that runs the instances.
      - By default the active driver of the data directory. Until one was made active, it is V(qemu) on hosts of the
        architecture x86_64 and V(lxd) on others.
    type: str
    choices: [qemu, libvirt, lxd, incus, virtualbox]
  driver_options:
    description:
      - What only one driver needs, by key. A key that the driver does not know is refused.
      - 'V(qemu): C(accelerator) is V(auto) (default), V(kvm) or V(tcg). With V(auto), instances use the
        hypervisor of the host where it really works, else they are emulated, and a warning says why.'
      - 'V(qemu): C(run_as) is the unprivileged user that QEMU runs as when root starts it. The default is V(minicloud),
        whom the role P(minicloud.local.host#role) makes, or where there is no such user, the number of one that no user
        of the host has. QEMU never runs as root.'
      - 'V(libvirt): C(uri) is where libvirt is reached. The default is V(qemu:///system) for root, V(qemu:///session)
        for others. With the name of a host it leads to libvirt there by the network; both hosts then share
        O(data_dir), and the task runs as an ordinary user. The guide about drivers tells more.'
      - 'V(libvirt): C(accelerator) is V(auto) (default), V(kvm) or V(tcg), with the same meaning as for V(qemu).'
      - 'V(lxd) and V(incus): C(endpoint) is the server: the path of a unix socket, or C(https://HOST:8443) of another
        host or of a member of a cluster. The default is the socket of this host.'
      - 'V(lxd) and V(incus): C(cert) and C(key) are the files of the client certificate for a server on the network,
        which has to trust it (C(lxc config trust add), C(incus config trust add-certificate)). C(verify) is the file of
        the server''s own certificate, the only one that is then accepted; or V(true) (default) for one that this host
        trusts anyway, or V(false) for any.'
      - 'V(lxd) and V(incus): C(project) is the project of the server that instances are made in (default V(minicloud),
        which is made if need be; any other has to be there), and what is outside it stays untouched. C(storage_pool) is
        the pool that new instances get their disk from; it has to be there. The default is the one that the project
        has; the first time one named V(minicloud) is made, with zfs or btrfs where the server can.'
      - 'V(lxd) and V(incus): C(target) is the member of a cluster that new instances are placed on. The default is the
        server''s choice.'
      - 'V(lxd) and V(incus): The host ports of O(minicloud.local.instance#module:ports) are those of the server that
        runs the instance. On a server on the network instances are reached by ssh through a port of that server.'
    type: dict
  data_dir:
    description:
      - The directory that holds everything the collection knows and makes on this host.
      - By default the value of the environment variable E(MINICLOUD_DATA_DIR), else C(/var/lib/minicloud) for root,
        and C($XDG_DATA_HOME/minicloud) (C(~/.local/share/minicloud)) for other users.
    type: path
"""
