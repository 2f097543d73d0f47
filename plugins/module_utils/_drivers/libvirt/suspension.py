# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Suspended instances of libvirt: what they were doing is in a file that libvirt keeps and knows (a managed save).

It counts as long as libvirt is the instance's owner. What somebody has saved of one that was started elsewhere since
is of a disk that has changed.
"""

from __future__ import annotations

import os

from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.act import LibvirtActs
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.look import SAVED_IMAGE, LibvirtLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.saving import save
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Suspension
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance
from ansible_collections.minicloud.local.plugins.module_utils._writing import remove_path


class LibvirtSuspension(Suspension):
    """See Suspension."""

    capabilities = {"suspend": ("vm",)}

    def __init__(self, look: LibvirtLooks, acts: LibvirtActs) -> None:
        self.look = look
        self.acts = acts

    def why_not(self, instance: Instance) -> str:
        """Why not, as a clause. Whether a processor is the same, libvirt sees itself when it loads what it has."""
        with self.look.explained(f"the domain of {instance.name} cannot be looked at"):
            domain = self.look.domain(instance)
            if domain is None:
                return "its domain was removed from libvirt"
            if self.look.is_active(domain):
                return ""
            image = self.look.path(instance, SAVED_IMAGE)
            if os.path.lexists(image):
                return why_not_loaded(self.look, self.look.connection().saveImageGetXMLDesc(image))
            return why_not_loaded(self.look, domain.managedSaveGetXMLDesc())

    def suspend(self, instance: Instance) -> None:
        with self.look.explained(f"what {instance.name} is doing could not be saved"):
            domain = self.look.domain(instance)
            if domain is not None and self.look.is_active(domain):
                remove_path(self.look.path(instance, SAVED_IMAGE))
                # Also one that somebody has paused is to run on.
                flags = self.acts.library.VIR_DOMAIN_SAVE_RUNNING
                save(self.look, domain, lambda: domain.managedSave(flags), f"{instance.name} could not be suspended")
        self.acts.runtime.report.step("saved")

    def drop(self, instance: Instance) -> None:
        with self.look.explained(f"what {instance.name} was doing could not be dropped"):
            domain = self.look.domain(instance)
            if domain is not None and domain.hasManagedSaveImage():
                domain.managedSaveRemove()
        with explained(f"what {instance.name} was doing could not be dropped"):
            remove_path(self.look.path(instance, SAVED_IMAGE))


def why_not_loaded(look: LibvirtLooks, xml: str) -> str:
    """Why the machine of what was saved cannot be had; what its devices are, libvirt has saved with it."""
    from xml.etree import ElementTree

    kind = ElementTree.fromstring(xml).find("os/type")
    wanted, arch = (kind.get("machine", ""), kind.get("arch", "")) if kind is not None else ("", "")
    guests = look.host_capabilities().iterfind("guest/arch")
    known = {each.text for guest in guests if guest.get("name") == arch for each in guest.iter("machine")}
    if known and wanted not in known:
        return f"it was saved of a machine of the type {wanted}, which the QEMU that is there now does not have"
    return ""
