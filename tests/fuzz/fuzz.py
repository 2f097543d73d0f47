# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Gives every reader of what others write a number of damaged inputs, and says what it does not bear.

Nothing is run, asked over a network or changed outside a directory of its own. The seed that is printed makes the same
inputs again; `--only WORDS` takes the readers whose name has these words.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import time
import traceback
import typing as t
import urllib.request

# A case that takes longer is a fault: seconds of this process, and of the clock for what waits.
MOST_CPU, MOST_WAIT = 2.0, 20.0
MOST_MEMORY = 4 << 30
SHOWN = 3  # of the faults of one reader


class TooLong(BaseException):
    """A case has not come to its end."""


def enclose(scratch: str) -> None:
    """Let nothing out of this process: no network, no daemon of this machine, no memory without end."""

    def alarm(*dummy: object) -> t.NoReturn:
        raise TooLong

    signal.signal(signal.SIGALRM, alarm)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    tempfile.tempdir = scratch
    os.environ.update(LXD_DIR=scratch, INCUS_DIR=scratch, HOME=scratch)
    sys.modules["libvirt"] = t.cast(t.Any, None)
    connect = socket.socket.connect

    def only_here(this: t.Any, address: t.Any) -> None:
        if this.family != socket.AF_UNIX or not str(address).startswith(scratch):
            raise ConnectionRefusedError("no network here")
        connect(this, address)

    socket.socket.connect = only_here  # type: ignore[method-assign]

    def no_url(*dummy: object, **dummies: object) -> t.NoReturn:
        raise ValueError("no network here")

    urllib.request.OpenerDirector.open = no_url  # type: ignore[method-assign]

    def not_now(fd: t.Any) -> None:
        """Nothing here has to outlive a power cut."""

    os.fsync = not_now


def left() -> tuple[int, int]:
    """Descriptors and children of this process."""
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as stream:
        return len(os.listdir("/proc/self/fd")), len(stream.read().split())


class Campaign:
    """Cases for readers, and what came of them."""

    def __init__(self, seed: int, cases: int) -> None:
        self.seed, self.cases = seed, cases
        self.tried = self.refused = self.faults = self.leaks = 0
        self.slowest = (0.0, "")

    def one(self, surface: t.Any, case: t.Any) -> str:
        """What is wrong with how a case was met; empty where nothing is."""
        from ansible_collections.minicloud.local.plugins.module_utils._errors import KINDS, MinicloudError
        from ansible_collections.minicloud.local.plugins.module_utils._json import JsonError

        begun = time.process_time()
        signal.setitimer(signal.ITIMER_REAL, MOST_WAIT)
        wrong = ""
        try:
            surface.read(case)
        except (MinicloudError, *surface.may) as exc:
            self.refused += 1
            if not str(exc):
                wrong = "refused without a word"
            if isinstance(exc, MinicloudError) and not isinstance(exc, JsonError) and exc.kind not in KINDS:
                wrong = f"{exc!r} is of no kind that a task could end with"
        except TooLong:
            wrong = f"not done after {MOST_WAIT:g} s\n{traceback.format_exc(limit=-6)}"
        except BaseException:
            wrong = traceback.format_exc(limit=-6)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        seconds = time.process_time() - begun
        if seconds > self.slowest[0]:
            self.slowest = seconds, surface.name
        return wrong or (f"took {seconds:.1f} s" if seconds > MOST_CPU else "")

    def run(self, surface: t.Any, mutate: t.Callable[[t.Any], t.Any], chance: random.Random) -> int:
        """All cases of a reader; how many it met badly."""
        seen: set[str] = set()
        bad = 0
        before = left()
        for dummy in range(max(1, int(self.cases * surface.share))):
            sample = chance.choice(surface.samples)
            # Of what has a kind beside it, the reader makes the damage itself.
            case = sample if isinstance(sample, tuple) else mutate(sample)
            self.tried += 1
            wrong = self.one(surface, case)
            if wrong:
                bad += 1
                place = wrong.strip().splitlines()[-1][:60]
                if place not in seen and len(seen) < SHOWN:
                    seen.add(place)
                    print(f"FAULT in {surface.name}: {case!r:.1500}\n{wrong}", flush=True)
        after = left()
        if after != before:
            self.leaks += 1
            print(f"LEAK in {surface.name}: descriptors, children {before} -> {after}", flush=True)
        self.faults += bad
        return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="default: by chance")
    parser.add_argument("--cases", type=int, default=300, help="about so many a reader (300)")
    parser.add_argument("--only", default="", help="only readers that have this in their names")
    args = parser.parse_args()
    print(f"seed {args.seed}, {args.cases} cases a reader", flush=True)
    with tempfile.TemporaryDirectory(prefix="minicloud-fuzz-") as scratch:
        os.chdir(scratch)
        enclose(scratch)
        # Not before: both import what enclose() keeps in.
        from ansible_collections.minicloud.local.tests.fuzz.mutate import Mutator
        from ansible_collections.minicloud.local.tests.fuzz.surfaces import all_surfaces

        campaign = Campaign(args.seed, args.cases)
        mutator = Mutator(random.Random(args.seed))
        good = 0
        found = [each for each in all_surfaces(scratch, mutator) if args.only in each.name]
        for surface in found:
            # Each reader has its own chances: alone it meets the same as among all.
            mutator.chance = random.Random(f"{args.seed} {surface.name}")
            begun, tried, refused = time.monotonic(), campaign.tried, campaign.refused
            bad = campaign.run(surface, mutator, mutator.chance)
            good += not bad
            print(
                f"{surface.name}: {campaign.tried - tried} tried, {campaign.refused - refused} refused, {bad} faults,"
                f" {time.monotonic() - begun:.1f} s",
                flush=True,
            )
        os.chdir("/")
    print(f"slowest: {campaign.slowest[0]:.2f} s in {campaign.slowest[1]}")
    print(f"tried {campaign.tried}, faults {campaign.faults}, leaks {campaign.leaks}")
    failed = campaign.faults + campaign.leaks
    print(f"fuzz: {campaign.tried - campaign.faults} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
