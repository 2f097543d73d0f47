# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Suspended instances of libvirt: what they were doing is in a file that libvirt keeps and knows (a managed save).

It counts as long as libvirt is the instance's owner. What somebody has saved of one that was started elsewhere since
is of a disk that has changed.
"""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.act import LibvirtActs
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.look import LibvirtLooks
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Suspension
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance


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
            return self._why_not_loaded(domain)

    def _why_not_loaded(self, domain: t.Any) -> str:
        """Why the machine that was saved cannot be had; what its devices are, libvirt has saved with it."""
        from xml.etree import ElementTree

        saved = ElementTree.fromstring(domain.managedSaveGetXMLDesc())
        kind = saved.find("os/type")
        wanted, arch = (kind.get("machine", ""), kind.get("arch", "")) if kind is not None else ("", "")
        guests = self.look.host_capabilities().iterfind("guest/arch")
        known = {each.text for guest in guests if guest.get("name") == arch for each in guest.iter("machine")}
        if known and wanted not in known:
            return f"it was saved of a machine of the type {wanted}, which the QEMU that is there now does not have"
        return ""

    def suspend(self, instance: Instance) -> None:
        with self.look.explained(f"what {instance.name} is doing could not be saved"):
            domain = self.look.domain(instance)
            if domain is not None and self.look.is_active(domain):
                # Also one that somebody has paused is to run on.
                domain.managedSave(self.acts.library.VIR_DOMAIN_SAVE_RUNNING)
        self.acts.runtime.report.step("saved")

    def drop(self, instance: Instance) -> None:
        with self.look.explained(f"what {instance.name} was doing could not be dropped"):
            domain = self.look.domain(instance)
            if domain is not None and domain.hasManagedSaveImage():
                domain.managedSaveRemove()
