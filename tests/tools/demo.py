# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""`make demo` and `make demo-clean`: from a fresh machine to a play on an instance, and back.

Needs Python 3.11 or newer. Ansible and the drivers' libraries go into .venv of this checkout, what the instance needs
into the data directory, and the hypervisor comes from the distribution. Each driver has a demo of its own beside those
of others; `make demo-clean` removes all of them.
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
import drivers

HERE = os.path.join(dev.BUILD, "demo")
# The project and the storage pool that these drivers make.
PROJECT = "minicloud"
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

    driver -- which runs the instances; image -- what to launch; name -- of the cloud; web -- how many web servers
    data_dir -- empty: the default; made -- whether the demo made it
    made_project -- whether the server, such as LXD, had nothing of the collection before
    """

    def __init__(
        self,
        driver: str,
        image: str,
        name: str,
        data_dir: str,
        web: int = 2,
        made: bool = False,
        made_project: bool = False,
    ) -> None:
        self.driver = driver
        self.web = web
        self.made_project = made_project
        self.inventory = os.path.join(HERE, f"{driver}.minicloud.yml")
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

    def note(self) -> None:
        """Note what there is before anything is made, for the time when it is removed."""
        os.makedirs(HERE, exist_ok=True)
        with open(self.inventory, "w", encoding="utf-8") as file:
            file.write(f"plugin: minicloud.local.instances\ndata_dir: {json.dumps(self.data_dir)}\n")
            file.write(f"drivers: [{self.driver}]\n")
        self.made = not os.path.exists(self.data_dir) or any(
            state["data_dir"] == self.data_dir and state["made"] for state in states().values()
        )
        if drivers.product(self.driver):
            before = states().get(self.driver, {}).get("made_project", False)
            self.made_project = before or not self.client("project", "show", PROJECT)
        with open(os.path.join(HERE, f"{self.driver}.json"), "w", encoding="utf-8") as file:
            names = ("driver", "image", "name", "data_dir", "web", "made", "made_project")
            json.dump({name: getattr(self, name) for name in names}, file)

    def up(self) -> None:
        """Launch, show, configure, and show that a second run changes nothing."""
        start = time.monotonic()
        self.say(f"Bringing up a cloud from {self.image} with {self.driver}; what it works on appears here")
        self.play("demo", self.variables(), watch=True)
        self.say("The inventory has found it")
        self.run(["ansible-inventory", "-i", self.inventory, "--graph"])
        self.say("Ordinary plays set up services in it, and read their pages from each other and from this host")
        self.play("demo_configure", self.variables(), self.inventory)
        self.say("A second run changes nothing")
        for name, inventory in (("demo", ""), ("demo_configure", self.inventory)):
            changed = self.play(name, self.variables(), inventory, quiet=True)
            if changed:
                raise dev.Stop(f"The second run of {name} changed something, which it must not:\n{changed}")
            dev.say(f"{name}: changed=0")
        self.say(f"The cloud runs. It took {time.monotonic() - start:.0f} s. Log in with")
        dev.say(self.login())
        dev.say(
            f"\nYour own plays find it with -i {os.path.relpath(self.inventory)}; `make demo-clean` removes everything."
        )

    def down(self) -> None:
        """Remove the cloud and its image."""
        self.play("demo_clean", self.variables())
        if drivers.product(self.driver):
            self.remove_from_server()
        self.remove_data_dir()
        for name in (f"{self.driver}.json", f"{self.driver}.minicloud.yml"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(HERE, name))

    def remove_from_server(self) -> None:
        """Remove the network of the data directory that the demo made, and project and pool if there was none before.

        The server itself refuses to remove what is in use.
        """
        # The network that its instances are on unless told otherwise.
        network = self.path(os.path.join("scopes", self.driver, "networks", "default", "network.json"))
        if self.made:
            with contextlib.suppress(OSError, ValueError), open(network, encoding="utf-8") as file:
                self.client("network", "delete", json.load(file)["interface"])
        if not self.made_project or self.client("list", "--project", PROJECT, "--format", "json").strip() != "[]":
            return
        listed = self.client("image", "list", "--project", PROJECT, "--format", "csv", "--columns", "F")
        for image in listed.split():
            self.client("image", "delete", image, "--project", PROJECT)
        self.client("profile", "device", "remove", "default", "root", "--project", PROJECT)
        self.client("project", "delete", PROJECT)
        self.client("storage", "delete", PROJECT)

    def client(self, *args: str) -> str:
        """What the client of the driver's server says; nothing where it fails."""
        name = str(drivers.product(self.driver).get("client"))
        with contextlib.suppress(OSError):
            argv = [program(name) or name, *args]
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            return done.stdout if done.returncode == 0 else ""
        return ""

    def remove_data_dir(self) -> None:
        """Remove the data directory if the demo has made it and nothing but the demo has used it."""
        scopes, vault = os.path.join(self.data_dir, "scopes"), os.path.join(self.data_dir, "vault")
        # The network that instances are on unless told otherwise is made, and goes down, with them.
        left = [entry[0] for entry in os.walk(scopes) if entry[2]]
        used = any(not place.endswith(os.path.join("networks", "default")) for place in left) or os.path.exists(
            self.path("settings.json")
        )
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

    def variables(self) -> dict[str, t.Any]:
        return {
            "demo_web": self.web,
            "demo_folder": os.path.join(HERE, f"{self.name}-{self.driver}"),
            "demo_driver": self.driver,
            "demo_image": self.image,
            "demo_name": self.name,
            "demo_data_dir": self.data_dir,
        }

    def say(self, text: str) -> None:
        dev.say(f"\n=== {text}\n")

    def login(self) -> str:
        """The command that logs in, as the module returns it."""
        argv = ["ansible-inventory", "-i", self.inventory, "--host", f"{self.name}-{'web-1' if self.web else 'db'}"]
        found = subprocess.run(
            [os.path.join(self.bin, argv[0]), *argv[1:]], env=self.env, capture_output=True, text=True, check=True
        )
        return str(json.loads(found.stdout)["minicloud_ssh"]["command"])

    def run(self, argv: t.Sequence[str]) -> None:
        done = subprocess.run([os.path.join(self.bin, argv[0]), *argv[1:]], env=self.env, check=False)
        if done.returncode:
            raise dev.Stop(f"{argv[0]} failed; what it said is above.")

    def play(
        self, name: str, variables: t.Mapping[str, t.Any], inventory: str = "", watch: bool = False, quiet: bool = False
    ) -> str:
        """Run a playbook of the collection; the recap's lines that tell of changes."""
        argv = [os.path.join(self.bin, "ansible-playbook"), f"minicloud.local.{name}"]
        argv += ["-e", json.dumps(variables)] if variables else []
        argv += ["-i", inventory] if inventory else []
        wanted = [each for part in ("base", self.driver, "image_builder") for each in drivers.programs(part)]
        lacks = not all(map(program, wanted))
        if name == "demo" and lacks and os.geteuid() != 0 and needs_password():
            dev.say("Packages must be installed; sudo will ask for your password.")
            argv.append("--ask-become-pass")
        shown = {"ANSIBLE_CALLBACKS_ENABLED": "minicloud.local.progress", "MINICLOUD_PROGRESS": "always"}
        env = {**self.env, **(shown if watch else {})}
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


def states() -> dict[str, dict[str, t.Any]]:
    """The demos that there are, by driver, each as the arguments of Demo."""
    found = {}
    for driver in drivers.names():
        with contextlib.suppress(OSError, ValueError), open(os.path.join(HERE, f"{driver}.json")) as file:
            found[driver] = json.load(file)
    return found


def default_data_dir() -> str:
    """Where the collection keeps things unless told otherwise."""
    if os.environ.get("MINICLOUD_DATA_DIR"):
        return os.path.abspath(os.environ["MINICLOUD_DATA_DIR"])
    if os.geteuid() == 0:
        return "/var/lib/minicloud"
    return os.path.join(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"), "minicloud")


def program(name: str) -> str | None:
    """The path of a program, also from the system's directories."""
    return shutil.which(name, path=dev.hypervisors.DIRECTORIES)


def needs_password() -> bool:
    """Whether sudo would ask for a password, and somebody is there to give it."""
    if not shutil.which("sudo"):
        raise dev.Stop("Packages must be installed, and there is no sudo here: run this once as root.")
    return (
        sys.stdin.isatty() and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode != 0
    )


def down(driver: str) -> None:
    """Remove the demo of a driver, or all of them."""
    there = states()
    for name, state in there.items():
        if driver in ("", name):
            Demo(**state).down()
    if not there:
        dev.say("There is no demo to remove.")
        return
    with dev.lock("demo"):
        if states():
            return
        for path in (HERE, os.path.join(dev.VENVS, "demo")):
            shutil.rmtree(path, ignore_errors=True)
        dev.say("Removed. Packages of the distribution that the demo installed stay, and their daemons.")


def main() -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["up", "down"])
    parser.add_argument("--driver", default="qemu", choices=drivers.names())
    parser.add_argument("--image", default="bootstrap:bookworm")
    parser.add_argument("--name", default="demo")
    parser.add_argument("--data-dir", default="")
    parser.add_argument("--web", type=int, default=2, help="up: how many web servers")
    parser.add_argument("--only", action="store_true", help="down: only the demo of --driver")
    args = parser.parse_args()
    try:
        if args.command == "up":
            # Another one that is just removed takes the environment along, unless there is a note of this one.
            with dev.lock("demo"):
                demo = Demo(args.driver, args.image, args.name, args.data_dir, args.web)
                demo.note()
            demo.up()
        else:
            down(args.driver if args.only else "")
    except dev.Stop as stop:
        dev.say(f"\nSTOPPED: {stop}")
        return 2
    except KeyboardInterrupt:
        dev.say("\nInterrupted; `make demo` goes on from here, `make demo-clean` removes everything.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
