# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Having running guests take on addresses that have changed.

A guest asks for its address when its interface comes up and when it renews its lease; a server cannot have it ask
sooner, for hardly a guest heeds that part of DHCP. So it is told to from within, where we can log in. Where we cannot,
the cable is pulled for a moment: most guests ask again when it is back.
"""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
from ansible_collections.minicloud.local.plugins.module_utils._guest.renew import ask_renewal
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import SshAccess, greeting_of
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Nic
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime

# Seconds that a guest has to take on its address after it was told to, and after its cable was back; and to answer
# there. Emulated ones are slow.
_TOLD, _PLUGGED, _ANSWER = 20.0, 30.0, 10.0


def changed_addresses(before: Instance, after: Instance) -> list[tuple[Nic, str]]:
    """The interfaces that another address is kept for than before, each with that one."""
    kept = {nic.mac: nic.address or nic.lease for nic in before.nics}
    return [
        (nic, kept[nic.mac])
        for nic in after.nics
        if kept.get(nic.mac) and (nic.address or nic.lease) not in ("", kept[nic.mac])
    ]


def readdress(
    runtime: Runtime,
    driver: Driver,
    instance: Instance,
    changed: t.Sequence[tuple[Nic, str]],
    locate: t.Callable[[], SshAccess],
    deadline: Deadline,
    wait: bool,
) -> None:
    """Have a running guest take on the addresses of some interfaces, each with the one that it had.

    locate -- tells how the guest is logged in to now; wait -- whether to see to it that it has done so
    A guest that does not is warned of: it takes the address when it renews its lease, or at its next start.
    """
    for nic, old in changed:
        if old not in _addresses(driver, instance, nic):
            continue  # it has none yet, and asks for the new one anyway
        access = locate()
        told = ""
        if instance.ready and access.host and access.user:
            runtime.report.step("ask_guest")
            told = ask_renewal(runtime, access, nic.mac, old)
        if not wait:
            continue
        taken = bool(told) and _taken(driver, instance, nic, _within(_TOLD, deadline))
        if not taken:
            runtime.report.step("replug")
            taken = driver.acts.replug(instance, nic) and _taken(driver, instance, nic, _within(_PLUGGED, deadline))
        if not taken:
            runtime.report.warn(
                f"{instance.name} does not take on the address {nic.address or nic.lease} instead of {old} yet: it will"
                " when it renews its lease, within minutes, or is restarted."
            )
            continue
        access = locate()
        if instance.ready and access.host == (nic.address or nic.lease):
            # It has the address before it has told its own programs.
            greeting_of(access.host, access.port, _within(_ANSWER, deadline).left())


def _within(seconds: float, deadline: Deadline) -> Deadline:
    return Deadline(min(seconds, deadline.left()))


def _taken(driver: Driver, instance: Instance, nic: Nic, deadline: Deadline) -> bool:
    return any((nic.address or nic.lease) in _addresses(driver, instance, nic) for dummy in deadline.pauses())


def _addresses(driver: Driver, instance: Instance, nic: Nic) -> t.Sequence[str]:
    return driver.observe([instance])[0].by_mac.get(nic.mac, ())
