# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The driver for QEMU under libvirt. It shares its scope, and every file of an instance, with the driver qemu.

The domain of an instance has the instance's uuid, and metadata that tie it to its record and note how it was defined.
So a domain that somebody has changed is told from its own definition alone, and one that is not ours is left alone.

Looking is done here; whatever changes something is in act.py, which a run that only looks does not import.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import typing as t
from urllib.parse import urlsplit

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import About
from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.domain import (
    Domain,
    differing,
    drift,
    foreign,
    parse_domain,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.look import FamilyLooks
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InvalidOption,
    MissingRequirement,
)
from ansible_collections.minicloud.local.plugins.module_utils._host.host import HypervisorHost
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    PAUSED,
    RUNNING,
    STOPPED,
    SUSPENDED,
    Instance,
    Observed,
    key_of,
    normal_arch,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline
from ansible_collections.minicloud.local.plugins.module_utils._scope import Scope

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime


# What an instance was doing, where that goes with a snapshot: beside what libvirt keeps itself (a managed save).
SAVED_IMAGE = "saved.libvirt"

# Seconds that one which is being saved is waited for, before it counts as paused.
_SAVED_WITHIN = 60.0


class LibvirtLooks(FamilyLooks):
    """See Looks.

    uri -- where libvirt is
    """

    capabilities = {**FamilyLooks.capabilities, "remote": ("vm",)}

    def __init__(
        self,
        about: About,
        runtime: Runtime,
        scope: Scope,
        options: t.Mapping[str, t.Any] | None = None,
        shared: bool = False,
    ) -> None:
        super().__init__(about, runtime, scope, options, shared)
        self.uri = str(self.options.get("uri") or ("qemu:///system" if os.geteuid() == 0 else "qemu:///session"))
        self._connection: t.Any = None
        try:
            name = urlsplit(self.uri).hostname or ""
        except ValueError as exc:
            raise InvalidOption(f"driver_options.uri {self.uri!r} is no URI", str(exc), "Check it.") from exc
        if name:
            self.host = LibvirtHost(self, name)
            self.forwarding_host = name

    def handle(self) -> dict[str, str]:
        return {"uri": self.uri}

    def observe(self, instances: t.Sequence[Instance]) -> list[Observed]:
        # One call tells which domains there are and which of them run. Their definitions libvirt has at hand: a tenth
        # of a millisecond each, and no hypervisor is asked, as it would be for bulk statistics.
        with self.explained("the domains of libvirt cannot be listed"):
            halted = self._halted(instances[0].uuid if len(instances) == 1 else "")
            domains = {domain.UUIDString(): domain for domain in self.connection().listAllDomains()}
            starting = self._with_autostart()
            saved = self._saved() if any(each.owner == self.name for each in instances) else set()
            seen = []
            for instance in instances:
                each = self._observe(instance, domains.get(instance.uuid), halted.get(instance.uuid))
                if each.state == STOPPED and instance.owner == self.name and self._is_saved(instance, saved):
                    each = each._replace(state=SUSPENDED)
                if instance.uuid in starting:
                    # What starts with the host is started by us; libvirt alone lacks the files.
                    text = "libvirt is to start it with its host (virsh autostart), for which it lacks its files"
                    each = each._replace(drift=(*each.drift, text), differs=(*each.differs, "autostart"))
                seen.append(each)
        return self.located(instances, seen)

    def _with_autostart(self) -> set[str]:
        """The uuids of the domains that libvirt starts by itself: one call for all."""
        flags = self.library().VIR_CONNECT_LIST_DOMAINS_AUTOSTART
        return {domain.UUIDString() for domain in self.connection().listAllDomains(flags)}

    def _saved(self) -> set[str]:
        """The uuids of the domains of which libvirt has saved what they were doing: one call for all."""
        flags = self.library().VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE
        return {domain.UUIDString() for domain in self.connection().listAllDomains(flags)}

    def _is_saved(self, instance: Instance, managed: t.Container[str]) -> bool:
        return instance.uuid in managed or os.path.lexists(self.path(instance, SAVED_IMAGE))

    def _halted(self, alone: str) -> dict[str, str]:
        """Why domains that are up do nothing, by uuid: one call for all, and one for each such domain.

        alone -- the uuid of the only one that is looked at. If it is just being saved, that is waited for: libvirt goes
        on with it when the run that has asked for it was killed.
        """
        library = self.library()
        flags = library.VIR_CONNECT_LIST_DOMAINS_PAUSED | library.VIR_CONNECT_LIST_DOMAINS_OTHER
        found = {}
        for domain in self.connection().listAllDomains(flags):
            try:
                state, detail = domain.state()
                if domain.UUIDString() == alone and state == library.VIR_DOMAIN_PAUSED:
                    for dummy in Deadline(_SAVED_WITHIN).pauses(first=0.05, longest=0.5):
                        if [state, detail] != [library.VIR_DOMAIN_PAUSED, library.VIR_DOMAIN_PAUSED_SAVE]:
                            break
                        state, detail = domain.state()
            except library.libvirtError as exc:
                if exc.get_error_code() == library.VIR_ERR_NO_DOMAIN:
                    continue
                raise
            if state == library.VIR_DOMAIN_PMSUSPENDED:
                found[domain.UUIDString()] = "its guest has put itself to sleep"
            elif state == library.VIR_DOMAIN_CRASHED:
                found[domain.UUIDString()] = "its guest's kernel has panicked; a restart helps"
            elif state == library.VIR_DOMAIN_PAUSED:
                why = {
                    library.VIR_DOMAIN_PAUSED_IOERROR: "QEMU could not write its disk, most likely because the host's"
                    " is full",
                    library.VIR_DOMAIN_PAUSED_CRASHED: "its guest's kernel has panicked; a restart helps",
                    library.VIR_DOMAIN_PAUSED_WATCHDOG: "its watchdog has stopped it",
                }
                # It goes on by itself.
                passing = (
                    library.VIR_DOMAIN_PAUSED_SNAPSHOT,
                    library.VIR_DOMAIN_PAUSED_STARTING_UP,
                    library.VIR_DOMAIN_PAUSED_SHUTTING_DOWN,
                )
                if detail not in passing:
                    found[domain.UUIDString()] = why.get(detail, "")
        return found

    def _observe(self, instance: Instance, domain: t.Any, halted: str | None) -> Observed:
        found = None if domain is None else self._described(domain)
        if found is None:
            gone = self.name in instance.handles
            return Observed(STOPPED, drift=("its domain was removed from libvirt",) if gone else ())
        if not self.is_ours(found, instance):
            return Observed(STOPPED, drift=(foreign(found),))
        if domain.ID() < 0:
            return Observed(STOPPED, drift=drift(found, instance), differs=differing(found))
        changes = drift(found, instance)
        if not domain.isPersistent():
            changes += ("its domain was undefined while it runs",)
        if halted is not None:
            return Observed(PAUSED, drift=changes, reason=halted, differs=differing(found))
        return Observed(RUNNING, drift=changes, differs=differing(found))

    def _described(self, domain: t.Any) -> Domain | None:
        """A domain as it is now; None if it has just gone."""
        library = self.library()
        try:
            return parse_domain(domain.XMLDesc())
        except library.libvirtError as exc:
            if exc.get_error_code() == library.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def alive(self, instance: Instance) -> bool:
        with self.explained(f"whether {instance.name} runs cannot be told"):
            domain = self.domain(instance)
            return domain is not None and self.is_active(domain)

    def joins_networks(self) -> bool:
        # Sockets of a user can be opened by what runs here as that user only.
        return os.geteuid() == 0 or (self.host.here and not self.is_system())

    def is_system(self) -> bool:
        """Whether the URI leads to the system's libvirt, not to a user's own."""
        return urlsplit(self.uri).path == "/system"

    def is_active(self, domain: t.Any) -> bool:
        """Whether a domain runs now; one that has gone does not."""
        library = self.library()
        try:
            return bool(domain.isActive())
        except library.libvirtError as exc:
            if exc.get_error_code() == library.VIR_ERR_NO_DOMAIN:
                return False
            raise

    # What the actions need too

    def library(self) -> t.Any:
        """The module libvirt, or MissingRequirement."""
        try:
            import libvirt
        except ImportError as exc:
            raise MissingRequirement(
                f"the Python library libvirt is missing for {sys.executable} on {platform.node()}",
                str(exc),
                "Install the package python3-libvirt (Debian, Ubuntu, Fedora) or libvirt-python (pip) for that Python,"
                " or set ansible_python_interpreter to one that has it.",
                missing_library="libvirt-python",
            ) from exc
        return libvirt

    def connection(self) -> t.Any:
        """The connection to libvirt: opened when it is first needed, and again after libvirt was restarted."""
        if self._connection is None or not self._connection.isAlive():
            library = self.library()
            # Errors are raised; the library would print them as well.
            library.registerErrorHandler(lambda *dummy: None, None)
            try:
                self._connection = library.open(self.uri)
            except library.libvirtError as exc:
                raise self._unreachable(exc) from exc
        return self._connection

    def _unreachable(self, exc: t.Any) -> MissingRequirement:
        why = str(exc)
        library = self.library()
        refusals = (library.VIR_ERR_AUTH_FAILED, library.VIR_ERR_AUTH_CANCELLED, library.VIR_ERR_AUTH_UNAVAILABLE)
        if not self.host.here:
            hint = (
                f"See that libvirtd or virtqemud runs on {self.host.name} and that the user of this task may use it"
                f" without being asked anything: virsh -c {self.uri} list."
            )
        elif exc.get_error_code() in refusals or "Permission denied" in why:
            hint = "Run as root, or add the user of this run to the group libvirt and log in anew."
        elif "No such file or directory" in why or "Connection refused" in why:
            hint = (
                "Install libvirt (libvirt-daemon-system on Debian and Ubuntu, libvirt-daemon-kvm on Fedora) and start"
                " libvirtd or virtqemud, or set driver_options.uri to where it runs."
            )
        else:
            hint = "Check driver_options.uri, and that libvirtd or virtqemud runs there."
        return MissingRequirement(f"libvirt cannot be reached at {self.uri}", why, hint)

    def host_capabilities(self) -> t.Any:
        """What libvirt can run, and on what: its XML, as an element."""
        from xml.etree import ElementTree

        with self.explained("libvirt does not tell its capabilities"):
            return ElementTree.fromstring(self.connection().getCapabilities())

    @contextlib.contextmanager
    def explained(self, what: str, hint: str = "") -> t.Iterator[None]:
        """Turn an error of libvirt into one that says what failed."""
        library = self.library()
        try:
            yield
        except library.libvirtError as exc:
            if exc.get_error_code() == library.VIR_ERR_RPC or not self._connected():
                hint = "The connection to libvirt has ended: see that libvirtd or virtqemud runs, and run this again."
            raise HypervisorError(what, str(exc), hint) from exc

    def _connected(self) -> bool:
        return self._connection is not None and bool(self._connection.isAlive())

    def domain(self, instance: Instance) -> t.Any:
        """The domain of an instance, or None where it has none. HypervisorError where its uuid is somebody else's."""
        library = self.library()
        for last in (False, True):
            try:
                domain = self.connection().lookupByUUIDString(instance.uuid)
                found = self._described(domain)
            except library.libvirtError as exc:
                if exc.get_error_code() == library.VIR_ERR_NO_DOMAIN:
                    return None
                # libvirt was restarted since the last look.
                if last or self._connected():
                    raise
                continue
            if found is None:
                return None
            if not self.is_ours(found, instance):
                raise HypervisorError(
                    f"{instance.name} cannot be used under libvirt",
                    foreign(found),
                    f"If nothing else needs that domain, remove it: virsh -c {self.uri} undefine {found.name}.",
                )
            return domain
        return None

    def is_ours(self, domain: Domain, instance: Instance) -> bool:
        """Whether a domain with an instance's uuid was made for this very instance."""
        owner = self.owner(instance)
        if not instance.uuid and domain.owner:  # its record was lost, and with it how its name was written
            return {**domain.owner, "name": key_of(domain.owner["name"])} == {**owner, "name": key_of(owner["name"])}
        return domain.owner == owner

    def owner(self, instance: Instance) -> dict[str, str]:
        """What ties a domain to the record of an instance."""
        data_dir = self.scope.data.path
        return {"name": instance.name, "scope": instance.scope, "data_dir": data_dir}


class LibvirtHost(HypervisorHost):
    """The machine that a URI of libvirt leads to by the network."""

    def __init__(self, look: LibvirtLooks, name: str) -> None:
        self._look = look
        self.name = name

    def architecture(self) -> str:
        with self._look.explained("libvirt does not tell the architecture of its host"):
            return normal_arch(str(self._look.connection().getInfo()[0]))

    def processors(self) -> int:
        with self._look.explained("libvirt does not tell how many processors its host has"):
            return int(self._look.connection().getInfo()[2])

    def memory(self) -> tuple[int, int]:
        library = self._look.library()
        with self._look.explained("libvirt does not tell how much memory its host has"):
            told = self._look.connection().getMemoryStats(library.VIR_NODE_MEMORY_STATS_ALL_CELLS)
        # KiB. What the kernel keeps of files makes room when it is needed.
        return told["total"] << 10, sum(told.get(key, 0) for key in ("free", "buffers", "cached")) << 10
