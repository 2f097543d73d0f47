# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ends switches with SIGKILL at their steps, and checks that the next run finishes them, or takes them back.

Arguments: the data directory, the image of a small guest, the image of a small container, and at each how many-th step
a switch is killed. (With a hypervisor of their own, unit tests kill at every step.)
"""

from __future__ import annotations

import os
import signal
import sys
import typing as t

# The collection is found on PYTHONPATH.
from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import DRIVERS, active_driver, scope_of
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.active_driver import switch_driver
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.instances import reconcile_instance
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.listing import list_instances
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.scopes import SwitchWish
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.wish import parse_wish
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

NAMES = ("switch-one", "switch-two")


class Killer(Reporter):
    """Ends its own process at the step of that number; 0: never."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at
        self.seen = 0

    def step(self, name: str) -> None:
        self.seen += 1
        if self.seen == self.at:
            print(f"killed at {name}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


class Test:
    def __init__(self, data_dir: str, disk: str, container: str, stride: str) -> None:
        self.data = DataDirectory(data_dir)
        self.images = {"vm": disk, "container": container}
        self.stride = int(stride)

    def instance(self, name: str, driver: str, **wish: t.Any) -> None:
        type_ = "container" if driver == "lxd" else "vm"
        params = {"name": name, "image": self.images[type_], "instance_type": type_, "memory": "128M", **wish}
        params.update({"user": "debian", "wait": False, "force": True, "timeout": 600})
        reconcile_instance(parse_wish(params), Runtime(run, Reporter()), self.data, driver)

    def switch(self, name: str, at: int = 0) -> t.Any:
        # By force: a guest that still boots hears no power button, and this is about the steps, not about guests.
        wish = SwitchWish(name, wait=False, timeout=600, force=True)
        reporter = Killer(at)
        outcome = switch_driver(wish, Runtime(run, reporter), self.data)
        told = [text for text in reporter.warnings if "under emulation" not in text]
        check(not told, f"there are warnings: {told}")
        return outcome

    def child(self, name: str, at: int) -> bool:
        """Switch in a child that is killed at a step; whether it got to the end."""
        pid = os.fork()
        if pid == 0:
            try:
                self.switch(name, at)
            except BaseException as exc:
                print(f"the child failed: {exc!r}", flush=True)
                os._exit(3)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        check(os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "a switch failed that nobody had killed")
        return not os.WIFSIGNALED(status)

    def running(self) -> list[str]:
        """What runs of ours, as driver/name."""
        reporter = Reporter()
        found = list_instances(Runtime(run, reporter), self.data, DRIVERS)
        check(not reporter.warnings, f"there are warnings: {reporter.warnings}")
        ours = [each for each in found if each.instance.name in NAMES and each.observed.state == "running"]
        return sorted(f"{each.driver.name}/{each.instance.name}" for each in ours)

    def at_the_steps(self, here: str, there: str) -> None:
        """From HERE to THERE and back, with two instances that run in each of the scopes."""
        scopes = sorted({scope_of(here), scope_of(there)})
        for name in NAMES:
            for scope in scopes:
                self.instance(name, scope)
        if scope_of(here) != scope_of(there):
            for name in NAMES:
                self.instance(name, there)
        at = 1
        while True:
            self.expect(here, there, here)
            ended = self.child(there, at)
            # By turns, another run finishes the switch or takes it back.
            if at // self.stride % 2:
                self.switch(there)
                self.expect(here, there, there)
            self.switch(here)
            self.expect(here, there, here)
            if ended:
                break
            at += self.stride
        check(at > 8, "a switch has hardly any step")
        print(f"{here} to {there}: {at - 1} steps, killed at one of {self.stride}", flush=True)

    def expect(self, here: str, there: str, active: str) -> None:
        """What runs is what shall run under the active driver, and nobody has anything left to do."""
        check(active_driver(self.data) == active, f"{active} is not the active driver")
        found = [each for each in self.running() if scope_of(each.split("/")[0]) == scope_of(active)]
        wanted = [f"{active}/{name}" for name in NAMES]
        check(found == wanted, f"{found} run instead of {wanted}")
        settings = self.data.settings()
        check("switch" not in settings, f"the switch is not finished: {settings}")
        check(not self.data.scope(scope_of(active)).noted(), "states are noted of the scope that is active")
        again = self.switch(active)
        check(not again.changed, f"another run had something to do: {again.actions}")

    def remove(self) -> None:
        for driver in DRIVERS:
            for name in NAMES:
                self.instance(name, driver, state="absent")
        check(self.running() == [], "something still runs")
        locks = os.listdir(os.path.join(self.data.path, "locks"))
        check(not locks, f"locks are left over: {locks}")


def check(holds: bool, what: str) -> None:
    if not holds:
        print(f"FAILED: {what}", flush=True)
        sys.exit(1)


def main() -> None:
    test = Test(*sys.argv[1:5])
    try:
        for there in ("lxd", "libvirt"):
            if there in DRIVERS:
                test.at_the_steps("qemu", there)
    finally:
        test.remove()


if __name__ == "__main__":
    main()
