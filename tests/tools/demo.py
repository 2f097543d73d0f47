# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""`make demo` and `make demo-clean`: from a fresh machine to a play on an instance, and back.

Needs Python 3.11 or newer. Ansible goes into .venv of this checkout, what the instance needs into the data directory,
and the hypervisor comes from the distribution.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import typing as t

import dev

HERE = os.path.join(dev.BUILD, "demo")
INVENTORY = os.path.join(HERE, "demo.minicloud.yml")
STATE = os.path.join(HERE, "demo.json")
PROGRAMS = ("qemu-system-x86_64", "qemu-img", "ssh", "setpriv", "setsid", "mmdebstrap", "mke2fs", "newuidmap")
# What an ansible-core needs of Python.
CORES = (((3, 12), ">=2.21,<2.22"), ((3, 11), ">=2.19,<2.20"))


def ansible() -> str:
    """The directory of programs of a virtual environment with ansible-core, made first if need be."""
    pythons = dev.find_pythons()
    version = next((v for v in ("3.13", "3.12", "3.11") if v in pythons), None)
    if version is None and shutil.which("apt-get"):
        dev.say("==> installing python3-venv ...")
        sudo = [] if os.geteuid() == 0 else ["sudo"]
        subprocess.run([*sudo, "apt-get", "update", "-q"], check=False, stdout=subprocess.DEVNULL)
        subprocess.run([*sudo, "apt-get", "install", "-qy", "--no-install-recommends", "python3-venv"], check=False)
        pythons = dev.find_pythons()
        version = next((v for v in ("3.13", "3.12", "3.11") if v in pythons), None)
    if version is None:
        raise dev.Stop("Ansible needs Python 3.11 or newer with venv and pip. Install it, and run this again.")
    needed = next(core for least, core in CORES if tuple(map(int, version.split("."))) >= least)
    venv = os.path.join(dev.VENVS, "demo")
    stamp = os.path.join(venv, ".stamp")
    wanted = f"{pythons[version]} {needed}"
    made = ""
    with contextlib.suppress(OSError), open(stamp, encoding="utf-8") as file:
        made = file.read()
    if made != wanted:
        dev.say(f"==> installing ansible-core into {os.path.relpath(venv, dev.ROOT)} ...")
        shutil.rmtree(venv, ignore_errors=True)
        dev.must("demo venv", [pythons[version], "-m", "venv", venv], "Can this Python make virtual environments?")
        pip = [os.path.join(venv, "bin", "pip"), "install", "-q", "--no-input", f"ansible-core{needed}"]
        dev.must("demo pip", pip, "Can this machine reach a Python package index?")
        with open(stamp, "w", encoding="utf-8") as file:
            file.write(wanted)
    return os.path.join(venv, "bin")


class Demo:
    """The demo on this machine.

    image -- what to launch; name -- of the instance; data_dir -- empty: the default; made -- whether the demo made it
    """

    def __init__(self, image: str, name: str, data_dir: str, made: bool = False) -> None:
        self.image = image
        self.name = name
        self.data_dir = data_dir or default_data_dir()
        self.made = made
        self.bin = ansible()
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        self.env.update(
            ANSIBLE_COLLECTIONS_PATH=dev.stage(),
            ANSIBLE_HOST_KEY_CHECKING="true",
            ANSIBLE_LOCALHOST_WARNING="false",
            ANSIBLE_INVENTORY_UNPARSED_WARNING="false",
            ANSIBLE_PYTHON_INTERPRETER="auto_silent",
            ANSIBLE_DISPLAY_SKIPPED_HOSTS="false",
            MINICLOUD_DATA_DIR=self.data_dir,
        )
        self.env.setdefault("LC_ALL", "C.UTF-8")

    def up(self) -> None:
        """Launch, show, configure, and show that a second run changes nothing."""
        os.makedirs(HERE, exist_ok=True)
        with open(INVENTORY, "w", encoding="utf-8") as file:
            file.write(f"plugin: minicloud.local.instances\ndata_dir: {json.dumps(self.data_dir)}\n")
        made = not os.path.exists(self.data_dir)
        with contextlib.suppress(OSError, ValueError), open(STATE, encoding="utf-8") as file:
            state = json.load(file)
            made = made or (state["data_dir"] == self.data_dir and state["made"])
        with open(STATE, "w", encoding="utf-8") as file:
            json.dump({"image": self.image, "name": self.name, "data_dir": self.data_dir, "made": made}, file)
        start = time.monotonic()
        self.say(f"Launching {self.name} from {self.image}; what it works on appears here")
        self.play("demo", self.variables(), watch=True)
        self.say("The inventory has found it")
        self.run(["ansible-inventory", "-i", INVENTORY, "--graph"])
        self.say("An ordinary play sets up a web server in it, and reads its page from this host")
        self.play("demo_configure", {}, INVENTORY)
        self.say("A second run changes nothing")
        for name, variables, inventory in (("demo", self.variables(), ""), ("demo_configure", {}, INVENTORY)):
            changed = self.play(name, variables, inventory, quiet=True)
            if changed:
                raise dev.Stop(f"The second run of {name} changed something, which it must not:\n{changed}")
            dev.say(f"{name}: changed=0")
        self.say(f"The instance runs. It took {time.monotonic() - start:.0f} s. Log in with")
        dev.say(self.login())
        dev.say(f"\nYour own plays find it with -i {os.path.relpath(INVENTORY)}; `make demo-clean` removes everything.")

    def down(self) -> None:
        """Remove the instance and its image."""
        self.play("demo_clean", self.variables())
        self.remove_data_dir()
        for path in (HERE, os.path.join(dev.VENVS, "demo")):
            shutil.rmtree(path, ignore_errors=True)
        dev.say("Removed. Packages of the distribution that the demo installed stay.")

    def remove_data_dir(self) -> None:
        """Remove the data directory if the demo has made it and nothing but the demo has used it."""
        scopes, vault = os.path.join(self.data_dir, "scopes"), os.path.join(self.data_dir, "vault")
        used = any(entry[2] for entry in os.walk(scopes)) or os.path.exists(self.path("settings.json"))
        used = used or (os.path.isdir(vault) and any(len(name) == 64 for name in os.listdir(vault)))
        if used or not self.made:
            return
        for name in ("scopes", "vault", "keys", "locks"):
            shutil.rmtree(self.path(name), ignore_errors=True)
        for name in ("known_hosts", "known_hosts.lock", "activity.log", "activity.log.1"):
            with contextlib.suppress(OSError):
                os.unlink(self.path(name))
        # Whatever else there is, is not ours.
        with contextlib.suppress(OSError):
            os.rmdir(self.data_dir)

    def path(self, name: str) -> str:
        """A path in the data directory."""
        return os.path.join(self.data_dir, name)

    def variables(self) -> dict[str, str]:
        return {"demo_image": self.image, "demo_name": self.name, "demo_data_dir": self.data_dir}

    def say(self, text: str) -> None:
        dev.say(f"\n=== {text}\n")

    def login(self) -> str:
        """The command that logs in, as the module returns it."""
        argv = ["ansible-inventory", "-i", INVENTORY, "--host", self.name]
        found = subprocess.run(
            [os.path.join(self.bin, argv[0]), *argv[1:]], env=self.env, capture_output=True, text=True, check=True
        )
        return str(json.loads(found.stdout)["minicloud_ssh"]["command"])

    def run(self, argv: t.Sequence[str]) -> None:
        done = subprocess.run([os.path.join(self.bin, argv[0]), *argv[1:]], env=self.env, check=False)
        if done.returncode:
            raise dev.Stop(f"{argv[0]} failed; what it said is above.")

    def play(
        self, name: str, variables: t.Mapping[str, str], inventory: str = "", watch: bool = False, quiet: bool = False
    ) -> str:
        """Run a playbook of the collection; the recap's lines that tell of changes."""
        argv = [os.path.join(self.bin, "ansible-playbook"), f"minicloud.local.{name}"]
        argv += ["-e", json.dumps(variables)] if variables else []
        argv += ["-i", inventory] if inventory else []
        if name == "demo" and os.geteuid() != 0 and any(not program(each) for each in PROGRAMS) and needs_password():
            dev.say("Packages must be installed; sudo will ask for your password.")
            argv.append("--ask-become-pass")
        env = {**self.env, "ANSIBLE_CALLBACKS_ENABLED": "minicloud.local.progress"} if watch else self.env
        process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True, errors="replace")
        lines = []
        for line in t.cast("t.IO[str]", process.stdout):
            lines.append(line)
            if not quiet:
                print(line, end="", flush=True)
        if process.wait():
            if quiet:
                dev.say("".join(lines))
            raise dev.Stop(f"The playbook {name} failed; the reason stands above. `make demo` goes on from here.")
        recap = [line for line in lines if " changed=" in line]
        return "".join(line for line in recap if " changed=0 " not in line)


def default_data_dir() -> str:
    """Where the collection keeps things unless told otherwise."""
    if os.environ.get("MINICLOUD_DATA_DIR"):
        return os.path.abspath(os.environ["MINICLOUD_DATA_DIR"])
    if os.geteuid() == 0:
        return "/var/lib/minicloud"
    return os.path.join(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"), "minicloud")


def program(name: str) -> str | None:
    """The path of a program, also from the system's directories."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin")


def needs_password() -> bool:
    """Whether sudo would ask for a password, and somebody is there to give it."""
    if not shutil.which("sudo"):
        raise dev.Stop("Packages must be installed, and there is no sudo here: run this once as root.")
    return (
        sys.stdin.isatty() and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode != 0
    )


def main() -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["up", "down"])
    parser.add_argument("--image", default="bootstrap:bookworm")
    parser.add_argument("--name", default="demo")
    parser.add_argument("--data-dir", default="")
    args = parser.parse_args()
    try:
        if args.command == "up":
            Demo(args.image, args.name, args.data_dir).up()
        elif os.path.exists(STATE):
            with open(STATE, encoding="utf-8") as file:
                Demo(**json.load(file)).down()
        else:
            dev.say("There is no demo to remove.")
    except dev.Stop as stop:
        dev.say(f"\nSTOPPED: {stop}")
        return 2
    except KeyboardInterrupt:
        dev.say("\nInterrupted; `make demo` goes on from here, `make demo-clean` removes everything.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
