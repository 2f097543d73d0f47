# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What is done to domains of libvirt as such: ended, shut down, undefined, removed."""

from __future__ import annotations

import contextlib
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.domain import names, parse_domain
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.look import LibvirtLooks
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline

# A guest that is still booting does not hear the power button.
_PRESS_AGAIN = 10.0


class Domains:
    """The domains of one libvirt. Methods that are handed one do not ask whose it is."""

    def __init__(self, look: LibvirtLooks) -> None:
        self.look = look
        self.library = look.library()

    def free_name(self, connection: t.Any, instance: Instance) -> str:
        """The name for the domain of an instance: its own, unless another domain of that name is there."""
        own, longer = names(instance)
        try:
            other = connection.lookupByName(own)
        except self.library.libvirtError as exc:
            if exc.get_error_code() != self.library.VIR_ERR_NO_DOMAIN:
                raise
            return own
        return own if other.UUIDString() == instance.uuid else longer

    def undefine(self, domain: t.Any) -> None:
        """Take away the definition of a domain, which may be gone already."""
        library = self.library
        flags = (
            library.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | library.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | library.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        )
        # The variables of a session's machine are the instance's own file, which another driver may need.
        own_nvram = not self.look.is_system()
        flags |= library.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM if own_nvram else library.VIR_DOMAIN_UNDEFINE_NVRAM
        try:
            domain.undefineFlags(flags)
        except library.libvirtError as exc:
            if exc.get_error_code() != library.VIR_ERR_NO_DOMAIN:
                raise

    def go_on(self, domain: t.Any) -> None:
        """Have a domain run that is up and does nothing."""
        state = domain.state()[0]
        if state == self.library.VIR_DOMAIN_PMSUSPENDED:
            domain.pMWakeup()
        elif state == self.library.VIR_DOMAIN_PAUSED:
            domain.resume()

    def shut_down(self, domain: t.Any, deadline: Deadline) -> bool:
        """Press the power button, now and then again, until libvirt tells that the domain has stopped."""
        library = self.library
        library.virEventRegisterDefaultImpl()
        # A connection that was opened before this would tell of no events.
        connection = library.open(self.look.uri)
        seen: list[int] = []

        def on_event(dummy_connection: t.Any, dummy_domain: t.Any, event: int, *dummy: t.Any) -> None:
            seen.append(event)

        try:
            watched = connection.lookupByUUIDString(domain.UUIDString())
            callback = connection.domainEventRegisterAny(watched, library.VIR_DOMAIN_EVENT_ID_LIFECYCLE, on_event, None)
            timer = library.virEventAddTimeout(int(_PRESS_AGAIN * 1000), lambda *dummy: None, None)
            try:
                while self.look.is_active(watched) and not deadline.expired():
                    self.go_on(watched)
                    watched.shutdownFlags(library.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
                    self._await(seen, timer, min(_PRESS_AGAIN, deadline.left()))
                return not self.look.is_active(watched)
            finally:
                library.virEventRemoveTimeout(timer)
                connection.domainEventDeregisterAny(callback)
        except library.libvirtError as exc:
            # It has ended meanwhile, and somebody has undefined it or it was never defined for good.
            if exc.get_error_code() in (library.VIR_ERR_NO_DOMAIN, library.VIR_ERR_OPERATION_INVALID):
                return not self.look.is_active(domain)
            raise
        finally:
            connection.close()

    def _await(self, seen: list[int], timer: int, seconds: float) -> None:
        """Return when the domain has stopped, or after some seconds."""
        library = self.library
        pause = Deadline(seconds)
        while library.VIR_DOMAIN_EVENT_STOPPED not in seen and not pause.expired():
            library.virEventUpdateTimeout(timer, max(1, int(pause.left() * 1000)))
            library.virEventRunDefaultImpl()

    def destroy(self, domain: t.Any) -> None:
        """End a domain at once, which may have ended already."""
        try:
            if self.look.is_active(domain):
                domain.destroy()
        except self.library.libvirtError as exc:
            # It has just ended by itself.
            if exc.get_error_code() not in (self.library.VIR_ERR_NO_DOMAIN, self.library.VIR_ERR_OPERATION_INVALID):
                raise

    def remove(self, domain: t.Any) -> None:
        """Take a domain away. What refuses to be undefined runs on; what is undefined and refuses to end is kept."""
        xml = domain.XMLDesc(self.library.VIR_DOMAIN_XML_SECURE | self.library.VIR_DOMAIN_XML_INACTIVE)
        defined = bool(domain.isPersistent())
        if defined:
            self.undefine(domain)
        try:
            self.destroy(domain)
        except self.library.libvirtError:
            if defined:
                self.look.connection().defineXML(xml)
            raise
        self.look.runtime.report.step("undefined")

    def remove_unknown(self, instance: Instance) -> None:
        """Remove what was made of an instance whose record, and with it its uuid, was lost."""
        for domain in self.look.connection().listAllDomains():
            with self._gone_is_fine():
                if self.look.is_ours(parse_domain(domain.XMLDesc()), instance):
                    self.remove(domain)

    @contextlib.contextmanager
    def _gone_is_fine(self) -> t.Iterator[None]:
        try:
            yield
        except self.library.libvirtError as exc:
            if exc.get_error_code() != self.library.VIR_ERR_NO_DOMAIN:
                raise
