# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A stand-in for VBoxManage: what it says and refuses is as VirtualBox 7.2 does, as far as the driver relies on it."""

from __future__ import annotations

import os
import struct
import uuid

from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed

# What a script around VBoxManage says before everything else where there is no kernel module.
WARNING = (
    "WARNING: The character device /dev/vboxdrv does not exist.\n"
    "         Please install the virtualbox-dkms package and the appropriate\n"
    "         headers, most likely linux-headers-generic.\n\n"
    "         You will not be able to start VMs until this problem is fixed.\n"
)
PROGRESS = "0%...10%...20%...30%...40%...50%...60%...70%...80%...90%...100%\n"
STARTING = (
    "VBoxManage: error: Failed to create the VirtualBox object!\n"
    "VBoxManage: error: Code NS_ERROR_FACTORY_NOT_REGISTERED (0x80040154) - Class not registered (extended info not"
    " available)\n"
    "VBoxManage: error: Most likely, the VirtualBox COM server is not running or failed to start.\n"
)
SHOWN = """\
name="{name}"
encryption="disabled"
groups="/"
platformArchitecture="x86"
ostype="Other Linux (64-bit)"
UUID="{uuid}"
CfgFile="{settings}"
SnapFldr="{folder}/Snapshots"
hardwareuuid="{uuid}"
memory={memory}
cpus={cpus}
VMState="{state}"
VMStateChangeTime="2026-11-28T01:04:54.608000000"
storagecontrollername0="SATA"
"SATA-0-0"="{disk}"
"SATA-ImageUUID-0-0"="68647e8c-9f1c-425c-9adf-96af004ae310"
"SATA-1-0"="{folder}/seed.iso"
"SATA-ImageUUID-1-0"="4511ef49-5f0d-459d-b77d-dd998faba8fb"
natnet1="nat"
macaddress1="525400123456"
nic1="nat"
nictype1="virtio"
{rules}nic2="none"
nic3="none"
uart1="0x03f8,4"
uartmode1="file,{console}"
uarttype1="16550A"
recording_screens=1
 rec_screen0
rec_screen_enabled="on"
{snapshots}description="{description}"
GuestMemoryBalloon=0
"""
LISTED = """\
Name:                        {name}
Encryption:                  disabled
Groups:                      /
Platform Architecture:       x86
Guest OS:                    Other Linux (64-bit)
UUID:                        {uuid}
Config file:                 {settings}
Snapshot folder:             {folder}/Snapshots
Hardware UUID:               {uuid}
Memory size:                 {memory}MB
Number of CPUs:              {cpus}
State:                       {long_state} (since 2026-11-28T01:04:55.568000000)
Storage Controllers:
#0: 'SATA', Type: IntelAhci, Instance: 0, Ports: 2 (max 30), Bootable
NIC 1 Rule(0):   name = ssh, protocol = tcp, host ip = 127.0.0.1, host port = 22022, guest ip = , guest port = 22
Shared folders:

Name: 'docs', Host path: '/srv' (machine mapping), writable

Description:
{description}
Snapshots:

{listed_snapshots}
"""
UNKNOWN = (
    "VBoxManage: error: Could not find a registered machine with UUID {{{0}}}\n"
    "VBoxManage: error: Details: code VBOX_E_OBJECT_NOT_FOUND (0x80bb0001), component VirtualBoxWrap, interface"
    " IVirtualBox, callee nsISupports\n"
    'VBoxManage: error: Context: "FindMachine(Bstr(VMNameOrUuid).raw(), machine.asOutParam())" at line 3248 of file'
    " VBoxManageInfo.cpp\n"
)
LOCKED = (
    "VBoxManage: error: The machine 'Life' is already locked for a session (or being unlocked)\n"
    "VBoxManage: error: Details: code VBOX_E_INVALID_OBJECT_STATE (0x80bb0007), component MachineWrap\n"
)
LONG_STATES = {"poweroff": "powered off", "gurumeditation": "guru meditation", "livesnapshotting": "live snapshotting"}


def write_vdi(path, size, entries):
    """A VDI file without data. entries -- of the map of blocks; none: nothing was written"""
    header = bytearray(1024)
    struct.pack_into("<II", header, 0x40, 0xBEDA107F, 0x00010001)
    struct.pack_into("<I", header, 0x154, 1024)
    struct.pack_into("<QI", header, 0x170, size, 1 << 20)
    blocks = -(-size // (1 << 20))
    with open(path, "wb") as stream:
        stream.write(header + struct.pack(f"<{blocks}I", *(entries or [0xFFFFFFFF] * blocks)))


def size_of_vdi(path):
    """The size of the disk in it."""
    with open(path, "rb") as stream:
        return struct.unpack_from("<Q", stream.read(1024), 0x170)[0]


class Machine:
    """A machine that the stand-in knows."""

    def __init__(self, name, identifier, settings):
        self.name, self.uuid, self.settings = name, identifier, settings
        self.state, self.memory, self.cpus, self.console = "poweroff", 1024, 1, ""
        self.description = ""
        self.rules: dict[str, str] = {}
        # name, uuid, the uuid of the one before it
        self.snapshots: list[list[str]] = []
        self.current = ""

    @property
    def folder(self):
        return os.path.dirname(self.settings)

    def shown(self):
        return {
            **vars(self),
            "folder": self.folder,
            "disk": os.path.join(self.folder, "disk.vdi"),
            "long_state": LONG_STATES.get(self.state, self.state),
            "rules": "".join(f'Forwarding({n})="{rule}"\n' for n, rule in enumerate(sorted(self.rules.values()))),
            "snapshots": self._tree("", "") + (f'CurrentSnapshotUUID="{self.current}"\n' if self.current else ""),
            "listed_snapshots": "\n".join(f"   Name: {each[0]} (UUID: {each[1]})" for each in self.snapshots),
        }

    def _tree(self, parent, place):
        text = ""
        for number, (name, identifier, dummy) in enumerate([e for e in self.snapshots if e[2] == parent], start=1):
            here = f"{place}-{number}" if parent else ""
            text += f'SnapshotName{here}="{name}"\nSnapshotUUID{here}="{identifier}"\n' + self._tree(identifier, here)
        return text


class FakeVBoxManage:
    """A runner. said -- the calls so far; fails -- what a call is answered instead, by its first words"""

    def __init__(self):
        self.machines: dict[str, Machine] = {}
        self.media: list[tuple[str, str, str, str]] = []  # kind, uuid, parent, location
        self.said: list[tuple[str, ...]] = []
        self.fails: dict[tuple[str, ...], list[Completed]] = {}
        self.warns = True
        self.interprets = True
        self.envs: list[dict[str, str]] = []

    def __call__(self, argv, *, env=None, timeout=0, limit=0, **kwargs):
        assert 0 < timeout <= 3600 and argv[0].endswith("VBoxManage")
        words = tuple(argv[1:])
        self.said.append(words)
        self.envs.append(dict(env))
        for count in range(len(words), 0, -1):
            if self.fails.get(words[:count]):
                return self.fails[words[:count]].pop(0)
        handler = getattr(self, "_" + words[0].strip("-").replace("-", "_"))
        done = handler(*words[1:])
        return done._replace(out=WARNING + done.out) if self.warns else done

    def count(self, *words):
        return sum(each[: len(words)] == words for each in self.said)

    def _version(self):
        return Completed(0, "7.2.22_Debianr175245\n", "")

    def _getextradata(self, *words):
        return Completed(0, "Value: 1\n" if self.interprets else "No value set!\n", "")

    def _showvminfo(self, identifier, flag):
        machine = self.machines.get(identifier)
        if machine is None:
            return Completed(1, "", UNKNOWN.format(identifier))
        return Completed(0, SHOWN.format(**machine.shown()), "")

    def _list(self, kind, *words):
        if kind == "--long":
            return Completed(0, "".join(LISTED.format(**each.shown()) for each in self.machines.values()), "")
        text = ""
        for own, identifier, parent, location in self.media:
            if own == kind:
                text += f"UUID:           {identifier}\n"
                text += f"Parent UUID:    {parent or 'base'}\n" if kind == "hdds" else ""
                text += f"State:          created\nLocation:       {location}\nStorage format: VDI\n\n"
        return Completed(0, text, "")

    def _createvm(self, *words):
        options = dict(zip(words[::2], words[1::2]))
        name = options["--name"]
        settings = os.path.join(options["--basefolder"], name, f"{name}.vbox")
        os.makedirs(os.path.dirname(settings))
        with open(settings, "w", encoding="utf-8"):
            pass
        self.machines[options["--uuid"]] = Machine(name, options["--uuid"], settings)
        return Completed(0, f"Virtual machine '{name}' is created and registered.\n", "")

    def _medium_at(self, location):
        return next((each[1] for each in self.media if each[3] == location), "")

    def _createmedium(self, kind, *words):
        options = dict(zip(words[::2], words[1::2]))
        base = options["--diffparent"]
        write_vdi(options["--filename"], size_of_vdi(base), [])
        if not self._medium_at(base):
            self.media.append(("hdds", str(uuid.uuid4()), "", base))
        self.media.append(("hdds", str(uuid.uuid4()), self._medium_at(base), options["--filename"]))
        return Completed(0, "Medium created. UUID: 7b03fab9-3860-405c-934b-f8eaf23c3f7e\n", PROGRESS)

    def _modifymedium(self, kind, path, flag, size):
        assert size_of_vdi(path) < int(size) and int(size) % (1 << 20) == 0
        write_vdi(path, int(size), [])
        return Completed(0, "", PROGRESS)

    def _modifyvm(self, identifier, *words):
        machine = self.machines[identifier]
        if machine.state not in ("poweroff", "aborted", "saved"):
            return Completed(1, "", LOCKED)
        words = list(words)
        while words:
            option = words.pop(0)
            if option == "--memory":
                assert machine.state != "saved"
                machine.memory = int(words.pop(0))
            elif option == "--cpus":
                machine.cpus = int(words.pop(0))
            elif option == "--name":
                machine.name = words.pop(0)
            elif option == "--uartmode1":
                machine.console = words[1]
            elif option == "--natpf1":
                self._change_rules(machine, words)
        return Completed(0, "", "")

    @staticmethod
    def _change_rules(machine, words):
        word = words.pop(0)
        if word == "delete":
            del machine.rules[words.pop(0)]
        else:
            name = word.split(",")[0]
            assert name not in machine.rules
            machine.rules[name] = word

    def _storagectl(self, *words):
        return Completed(0, "", "")

    def _storageattach(self, identifier, *words):
        options = dict(zip(words[::2], words[1::2]))
        if options["--type"] == "dvddrive":
            self.media.append(("dvds", str(uuid.uuid4()), "", options["--medium"]))
        return Completed(0, "", "")

    def _startvm(self, identifier, *words):
        self.machines[identifier].state = "running"
        return Completed(0, f'VM "{identifier}" has been successfully started.\n', "")

    def _controlvm(self, identifier, word, *words):
        machine = self.machines[identifier]
        if machine.state not in ("running", "paused", "gurumeditation"):
            return Completed(1, "", "VBoxManage: error: Machine 'Life' is not currently running.\n")
        if word == "natpf1":
            self._change_rules(machine, list(words))
        else:
            after = {"pause": "paused", "resume": "running", "savestate": "saved"}
            machine.state = after.get(word, "poweroff")
        return Completed(0, "", PROGRESS)

    def _discardstate(self, identifier):
        # On one that has nothing saved it says an error and succeeds.
        if self.machines[identifier].state != "saved":
            return Completed(0, "", "VBoxManage: error: Machine is not in the saved state\n")
        self.machines[identifier].state = "poweroff"
        return Completed(0, "", "")

    def _unregistervm(self, identifier):
        machine = self.machines[identifier]
        if machine.state in ("running", "paused"):
            return Completed(1, "", "VBoxManage: error: Cannot unregister the machine 'Life' while it is locked\n")
        del self.machines[identifier]
        # Its disks are forgotten with it; its image in the drive, and what the disks are backed by, are not.
        self.media = [e for e in self.media if e[0] == "dvds" or not e[3].startswith(machine.folder + "/")]
        return Completed(0, "", "")

    def _registervm(self, settings):
        name = os.path.basename(settings)[: -len(".vbox")]
        identifier = self.forgotten
        self.machines[identifier] = Machine(name, identifier, settings)
        return Completed(0, "", "")

    forgotten = ""

    def _closemedium(self, kind, identifier):
        if any(each[2] == identifier for each in self.media):
            return Completed(1, "", "VBoxManage: error: Cannot close medium 'x' because it has 1 child media\n")
        assert any(each[1] == identifier for each in self.media)
        self.media = [each for each in self.media if each[1] != identifier]
        return Completed(0, "", "")

    def _snapshot(self, identifier, action, *words):
        machine = self.machines[identifier]
        if action == "take":
            new = str(uuid.uuid4())
            machine.snapshots.append([words[0], new, machine.current])
            machine.current = new
            return Completed(0, f"Snapshot taken. UUID: {new}\n", PROGRESS)
        found = next(each for each in machine.snapshots if each[1] == words[0])
        followers = [each for each in machine.snapshots if each[2] == found[1]]
        if action == "delete":
            if len(followers) + (machine.current == found[1]) > 1:
                return Completed(
                    1,
                    "Deleting snapshot\n",
                    "VBoxManage: error: Hard disk 'x' has more than one child hard disk (2)\n",
                )
            machine.snapshots.remove(found)
            for each in followers:
                each[2] = found[2]
            machine.current = found[2] if machine.current == found[1] else machine.current
        elif action == "edit":
            found[0] = words[2]
        elif action == "restore":
            machine.current, machine.state = found[1], "saved" if self.restores_memory else "poweroff"
        return Completed(0, "", "")

    restores_memory = False
