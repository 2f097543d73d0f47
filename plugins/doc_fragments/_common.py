# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

from __future__ import annotations


class ModuleDocFragment:
    """The options that every module has."""

    DOCUMENTATION = r"""
options:
  driver:
    description:
      - The technology that runs the instances.
      - By default the active driver of the data directory; until one was made active, V(qemu).
    type: str
    choices: [qemu, libvirt]
  driver_options:
    description:
      - What only one driver needs, by key. A key that the driver does not know is refused.
      - 'V(qemu): C(accelerator) is V(auto) (default), V(kvm), V(tcg) or V(hvf). With V(auto), instances use the
        hypervisor of the host where it really works, else they are emulated, and a warning says why.'
      - 'V(qemu): C(run_as) is the unprivileged user that QEMU runs as when root starts it. The default is the first of
        V(minicloud), V(libvirt-qemu), V(qemu) and V(nobody) that exists. QEMU never runs as root.'
      - 'V(libvirt): C(uri) is where libvirt is reached. The default is V(qemu:///system) for root, V(qemu:///session)
        for others.'
      - 'V(libvirt): C(accelerator) is V(auto) (default), V(kvm) or V(tcg), with the same meaning as for V(qemu).'
    type: dict
  data_dir:
    description:
      - The directory that holds everything the collection knows and makes on this host.
      - By default the value of the environment variable E(MINICLOUD_DATA_DIR), else C(/var/lib/minicloud) for root,
        and C($XDG_DATA_HOME/minicloud) (C(~/.local/share/minicloud)) for other users.
    type: path
"""
