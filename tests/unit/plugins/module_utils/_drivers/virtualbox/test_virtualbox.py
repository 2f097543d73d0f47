# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import types

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import ABOUT, load
from ansible_collections.minicloud.local.plugins.module_utils._drivers.virtualbox import (
    act,
    answers,
    look,
    manage,
    prepared,
    service,
    vdi,
)
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    CommandFailed,
    HypervisorError,
    InUse,
    MissingRequirement,
    NoSpace,
    NotSupported,
)
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    GIB,
    MIB,
    Instance,
    Nic,
    PortForward,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Deadline, Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.module_utils._snapshot import Snapshot
from ansible_collections.minicloud.local.tests.unit.plugins.module_utils._drivers.virtualbox.fake_vboxmanage import (
    LOCKED,
    STARTING,
    WARNING,
    FakeVBoxManage,
    write_vdi,
)

UUID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(name="fake")
def _fake():
    return FakeVBoxManage()


@pytest.fixture(name="driver")
def _driver(fake, tmp_path, monkeypatch):
    data = DataDirectory(str(tmp_path / "data ü"))
    monkeypatch.setattr(manage.Manage, "program", lambda self, name="VBoxManage": f"/usr/lib/virtualbox/{name}")
    monkeypatch.setattr(manage.Manage, "listens", lambda self: True)
    monkeypatch.setattr(manage.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(service, "machines", lambda runtime: {})
    monkeypatch.setattr(prepared, "QemuImg", FakeQemuImg)
    monkeypatch.setattr(act, "missing_module", lambda: "")
    return load("virtualbox", Runtime(fake, Reporter()), data)


class FakeQemuImg:
    """Makes what is asked for, empty."""

    made: list[str] = []

    def __init__(self, runtime, what):
        pass

    def info(self, layers):
        return {"virtual-size": 8 * MIB}

    def convert(self, layers, target, format_, size):
        assert format_ == "vdi"
        FakeQemuImg.made.append(target)
        write_vdi(target, size, [])


@pytest.fixture(name="image")
def _image(tmp_path):
    directory = tmp_path / "data ü" / "vault" / ("a" * 64)
    directory.mkdir(parents=True)
    return Image("sector", "a" * 64, str(directory / "disk.qcow2"), "qcow2", 1, 8 * MIB, "x86_64")


@pytest.fixture(name="instance")
def _instance(driver, image):
    instance = Instance(
        "Life",
        UUID,
        "virtualbox",
        "virtualbox",
        "2026-01-31T23:59:59Z",
        "x86_64",
        1,
        64 * MIB,
        GIB,
        phase="ready",
        nics=[Nic("user", "52:54:00:12:34:56")],
        image={"path": image.path},
    )
    driver.scope.write(instance)
    return instance


@pytest.fixture(name="made")
def _made(driver, instance, image):
    driver.acts.create(instance, image, {"meta-data": b'{"local-hostname": "Life"}', "user-data": b""})
    return instance


@pytest.fixture(name="up")
def _up(driver, made):
    made.ssh_port, made.owner = 22022, "virtualbox"
    made.ports = [PortForward("127.0.0.1", 22080, 80)]
    driver.acts.start(made)
    return made


# -- what VBoxManage says


def test_the_version_stands_behind_warnings():
    assert answers.parse_version(WARNING + "7.2.22_Debianr175245\n") == ("7.2.22_Debianr175245", (7, 2))
    assert answers.parse_version("6.1.50r161033")[1] == (6, 1)
    for text in ("", WARNING, "seven.two"):
        with pytest.raises(ValueError, match="no version"):
            answers.parse_version(text)


def test_a_machine_is_told_whatever_its_names_and_descriptions_look_like(fake, driver, made):
    machine = fake.machines[UUID]
    machine.name, machine.description = 'we\\"ird, näme', 'x\nVMState="running"\nmemory=1\nUUID="nobody"'
    told = driver.machine(made)
    assert (told.name, told.state, told.memory, told.uuid) == ('we"ird, näme', "stopped", 64 * MIB, UUID)


def test_rules_are_those_of_the_first_interface(fake):
    text = 'UUID="u"\nForwarding(0)="ssh,tcp,127.0.0.1,2222,,22"\nForwarding(1)="dns,udp,,53,,53"\n'
    text += 'Forwarding(2)="odd,tcp,127.0.0.1,99999,,1"\nnic2="nat"\nForwarding(0)="web,tcp,,80,,80"\nnic3="none"\n'
    machine = answers.parse_machine(text)
    assert machine.rules == {
        "ssh": PortForward("127.0.0.1", 2222, 22),
        "dns": PortForward("0.0.0.0", 53, 53, "udp"),
    }
    assert machine.forwards == [PortForward("0.0.0.0", 53, 53, "udp")]


def test_snapshots_form_a_tree():
    text = 'UUID="u"\nSnapshotName="a"\nSnapshotUUID="1"\nSnapshotName-1="b"\nSnapshotUUID-1="2"\n'
    text += 'SnapshotName-1-1="c"\nSnapshotUUID-1-1="3"\nCurrentSnapshotName="c"\nCurrentSnapshotUUID="3"\n'
    text += 'CurrentSnapshotNode="SnapshotName-1-1"\nSnapshotName-2="d"\nSnapshotUUID-2="4"\n'
    machine = answers.parse_machine(text)
    assert [tuple(each) for each in machine.snapshots] == [
        ("a", "1", ""),
        ("b", "2", "1"),
        ("c", "3", "2"),
        ("d", "4", "1"),
    ]
    assert machine.current == "3"


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ("running", "running"),
        ("livesnapshotting", "running"),
        ("saving", "running"),
        ("paused", "paused"),
        ("gurumeditation", "paused"),
        ("saved", "suspended"),
        ("aborted-saved", "suspended"),
        ("aborted", "stopped"),
        ("poweroff", "stopped"),
    ],
)
def test_states_are_the_same_one_by_one_and_in_a_list(fake, driver, made, told, state):
    fake.machines[UUID].state = told
    assert driver.observe([made])[0].state == state
    other = Instance(**{**vars(made), "uuid": "0" * 36, "name": "Other"})
    both = driver.observe([made, other])
    assert [each.state for each in both] == [state, "absent"]
    assert bool(both[0].reason) == (told == "gurumeditation")


def test_media_are_told_with_what_they_are_backed_by(fake, driver, made):
    said = fake._list("hdds").out
    base, disk = answers.parse_media(said)
    assert (base.parent, disk.parent) == ("", base.uuid)
    assert answers.parse_media("") == []


def test_two_hundred_machines_are_one_call(fake, driver, made):
    for number in range(200):
        machine = type(fake.machines[UUID])(f"m{number}", f"{number:08x}-0000-4000-8000-000000000000", "/x/y.vbox")
        fake.machines[machine.uuid] = machine
    instances = [Instance(**{**vars(made), "uuid": each}) for each in fake.machines]
    before = len(fake.said)
    seen = driver.observe(instances)
    assert len(fake.said) == before + 1
    assert seen[0].state == "stopped" and len(seen) == 201


# -- talking to it


def test_what_a_call_is_surrounded_by(fake, driver, made, monkeypatch):
    assert all(env["LC_ALL"].endswith("UTF-8") and env["USER"] == env["LOGNAME"] for env in fake.envs)


def test_a_service_that_is_just_coming_is_asked_again(fake, driver, made):
    fake.fails["showvminfo",] = [Completed(1, "", STARTING)] * 3
    assert driver.observe([made])[0].state == "stopped"
    # It ends while it is looked at.
    fake.fails["showvminfo",] = [Completed(1, "", "VBoxManage: error: The object is not ready\n")]
    assert driver.observe([made])[0].state == "stopped"
    fake.fails["showvminfo",] = [Completed(1, "", STARTING)] * 9
    with pytest.raises(HypervisorError, match="Failed to create the VirtualBox object"):
        driver.observe([made])


def test_one_that_does_not_answer_is_an_error(driver, made, monkeypatch):
    def hang(argv, **kwargs):
        raise CommandFailed("it took too long", "it had 60 seconds", exceeded="time")

    monkeypatch.setattr(driver.runtime, "run", hang)
    with pytest.raises(HypervisorError, match=r"does not answer.*60 seconds.*VBoxSVC"):
        driver.observe([made])


def test_the_first_call_has_the_service_started_once(driver, made, monkeypatch, tmp_path):
    started, up = [], []
    monkeypatch.setattr(manage.Manage, "listens", lambda self: bool(up))
    monkeypatch.setattr(service, "start", lambda *args: (started.append(args[1]), up.append(True)))
    driver.observe([made])
    driver.observe([made])
    assert started == ["/usr/lib/virtualbox/VBoxSVC"]


def test_an_error_is_told_without_progress_and_places_in_code():
    done = Completed(1, "", "WARNING: x\n0%...10%\nVBoxManage: error: Bad\nVBoxManage: error: Details: code X\n")
    assert manage.told(done) == "Bad"
    assert manage.told(Completed(3, "", "")) == "VBoxManage ended with status 3 and said nothing"


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ("VBoxManage: error: The kernel driver (VERR_VM_DRIVER_NOT_INSTALLED)", MissingRequirement, "not loaded"),
        ("VBoxManage: error: Kernel driver not installed (rc=-1908)", MissingRequirement, "modprobe vboxdrv"),
        ("VBoxManage: error: x (VERR_VM_DRIVER_VERSION_MISMATCH)", MissingRequirement, "of another version"),
        ("VBoxManage: error: x (VERR_VM_DRIVER_NOT_ACCESSIBLE)", MissingRequirement, "not accessible"),
        (
            "VBoxManage: error: VT-x is disabled in the BIOS (VERR_VMX_MSR_ALL_VMX_DISABLED)",
            MissingRequirement,
            "firmw",
        ),
        ("VBoxManage: error: VERR_SVM_IN_USE", MissingRequirement, "Another hypervisor"),
        ("VBoxManage: error: write failed (VERR_DISK_FULL)", NoSpace, "Free some space"),
        (LOCKED, InUse, "its settings in VirtualBox"),
        ("VBoxManage: error: Something else", HypervisorError, "Something else"),
    ],
)
def test_what_an_error_means(driver, said, error, words):
    found = driver.manage.error("it could not be started", Completed(1, "", said))
    assert found.__class__ is error
    assert words in str(found)


def test_secure_boot_is_told(monkeypatch):
    monkeypatch.setattr(manage, "secure_boot", lambda: True)
    monkeypatch.setattr(manage, "DEVICE", "/nonexistent")
    monkeypatch.setattr(manage.platform, "system", lambda: "Linux")
    assert "secure boot" in manage.missing_module()
    assert "mokutil" in manage.remedy()
    monkeypatch.setattr(manage.platform, "system", lambda: "Darwin")
    assert manage.missing_module() == ""


def test_the_program_beside_the_service_is_taken(tmp_path, monkeypatch):
    wrapper, own = tmp_path / "bin", tmp_path / "virtualbox"
    for path in (wrapper / "VBoxManage", own / "VBoxManage", own / "VBoxSVC"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        path.chmod(0o755)
    monkeypatch.setattr(manage, "DIRECTORIES", (str(own),))
    monkeypatch.setattr(manage, "find_program", lambda name: str(wrapper / name) if name == "VBoxManage" else None)
    assert manage.Manage(None, None).program() == str(own / "VBoxManage")
    monkeypatch.setattr(manage, "DIRECTORIES", ())
    monkeypatch.setattr(manage, "find_program", lambda name: None)
    with pytest.raises(MissingRequirement, match="Install VirtualBox") as caught:
        manage.Manage(None, None).require()
    assert caught.value.facts["missing_program"] == "VBoxManage"
    monkeypatch.setattr(manage.platform, "release", lambda: "5.15.90.1-microsoft-standard-WSL2")
    with pytest.raises(MissingRequirement, match="of Windows cannot be used"):
        manage.Manage(None, None).require()


# -- the service and its processes


def test_where_the_service_listens(monkeypatch):
    for key in ("TMPDIR", "TMP", "TEMP", "VBOX_IPC_SOCKETID"):
        monkeypatch.delenv(key, raising=False)
    assert service.socket_path("anna") == "/tmp/.vbox-anna-ipc/ipcd"
    monkeypatch.setenv("VBOX_IPC_SOCKETID", "test")
    assert service.socket_path("anna") == "/tmp/.vbox-test-ipc/ipcd"


def _running(title, *arguments):
    """A process with this command line, which waits."""
    argv = [title, "-c", "import sys; print(flush=True); sys.stdin.read()", *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(argv, executable=sys.executable, **pipes)
    process.stdout.read(1)
    return process


def test_whether_the_service_answers(tmp_path):
    path = str(tmp_path / "ipcd")
    assert not service.answers(path)
    with socket.socket(socket.AF_UNIX) as listener, _running("/usr/lib/virtualbox/VBoxSVC", "--auto-shutdown") as svc:
        try:
            (tmp_path / "lock").write_text(f"{svc.pid}\n")
            listener.bind(path)
            assert not service.answers(path)
            listener.listen()
            assert service.answers(path)
            for text in ("", "x", str(os.getpid())):
                (tmp_path / "lock").write_text(text)
                assert not service.answers(path)
            (tmp_path / "lock").write_text(f"{svc.pid}\n")
        finally:
            svc.kill()
        # Its machines have the socket still.
        svc.wait()
        assert not service.answers(path)


def test_a_service_that_was_started_is_awaited(tmp_path, monkeypatch):
    path = str(tmp_path / "ipcd")
    started = []

    def begin(runtime, argv, what, title, **kwargs):
        started.append(argv[-2:])
        os.unlink(path)
        listener.bind(path)

    (tmp_path / "ipcd").write_text("of one that has died")
    monkeypatch.setattr(service, "answers", lambda path: True)
    monkeypatch.setattr(
        type(service.this_host()), "start_background", lambda self, *args, **kwargs: begin(*args, **kwargs)
    )
    with socket.socket(socket.AF_UNIX) as listener:
        service.start(Runtime(None), "/usr/lib/virtualbox/VBoxSVC", {}, path)
    assert started == [["/usr/lib/virtualbox/VBoxSVC", "--auto-shutdown"]]


def test_processes_of_machines_are_found():
    arguments = ("--comment", "Life", "--startvm", UUID, "--vrde", "config")
    assert UUID not in service.machines(Runtime(run))
    with _running("/usr/lib/virtualbox/VBoxHeadless", *arguments) as process, _running("python3", *arguments) as other:
        try:
            assert service.machines(Runtime(run))[UUID] == process.pid
        finally:
            process.kill()
            other.kill()


def test_processes_are_found_where_there_is_no_proc(monkeypatch):
    place = "/Applications/VirtualBox.app/Contents/MacOS"
    said = f"  77 {place}/VBoxHeadless --comment My Life --startvm {UUID} --vrde config\n"
    said += (
        f"  78 /bin/sh -c VBoxHeadless --startvm {UUID}\n  79 /Applications/VirtualBox.app/Contents/MacOS/VBoxSVC --x\n"
    )
    monkeypatch.setattr(service.processes, "all_ids", list)
    runtime = Runtime(lambda argv, **kwargs: Completed(0, said, ""))
    assert service.machines(runtime) == {UUID: 77}


def test_whoever_the_service_has_lost_is_seen_to_run(driver, up, fake, monkeypatch):
    fake.machines[UUID].state = "aborted"
    assert driver.observe([up])[0].state == "stopped"
    monkeypatch.setattr(service, "machines", lambda runtime: {UUID: 4711})
    seen = driver.observe([up])[0]
    assert seen.state == "running" and "VBoxSVC has died" in seen.drift[0]
    assert driver.alive(up)
    assert driver.acts.forwards(up) == up.ports
    monkeypatch.setattr(act, "_ENDING", 0.1)
    for doing in (driver.acts.start, lambda instance: driver.acts.stop(instance, Deadline(0.1), False)):
        with pytest.raises(HypervisorError, match=r"does not end.*VBoxSVC has died"):
            doing(up)
    assert fake.count("startvm") == 1


def test_the_end_of_one_that_the_service_has_lost_is_awaited(driver, up, fake, monkeypatch):
    fake.machines[UUID].state = "aborted"
    looks = [{UUID: 4711}] * 3

    monkeypatch.setattr(service, "machines", lambda runtime: looks.pop() if looks else {})
    monkeypatch.setattr(act, "os", types.SimpleNamespace(**{**vars(os), "kill": lambda *args: pytest.fail("killed")}))
    driver.acts.start(up)
    assert not looks and fake.machines[UUID].state == "running"


def test_one_that_the_service_has_lost_is_ended_by_force_only(driver, up, fake, monkeypatch):
    fake.machines[UUID].state = "aborted"
    there, killed = {UUID: 4711}, []

    def kill(pid, number):
        killed.append((pid, number))
        there.clear()

    monkeypatch.setattr(service, "machines", lambda runtime: dict(there))
    monkeypatch.setattr(act, "os", types.SimpleNamespace(**{**vars(os), "kill": kill}))
    driver.acts.stop(up, Deadline(1), True)
    assert killed == [(4711, signal.SIGKILL)]


def test_one_that_virtualbox_knows_to_run_is_never_killed(driver, up, fake, monkeypatch):
    monkeypatch.setattr(service, "machines", lambda runtime: {UUID: 4711})
    monkeypatch.setattr(act, "os", types.SimpleNamespace(**{**vars(os), "kill": lambda *args: pytest.fail("killed")}))
    driver.acts._end_lost(up)


# -- making and removing


def test_what_an_instance_becomes(driver, fake, made, image):
    machine = fake.machines[UUID]
    assert machine.settings == driver.path(made, "virtualbox/Life/Life.vbox")
    assert (machine.memory, machine.cpus, machine.console) == (64, 1, driver.console_log(made))
    assert [each[3] for each in fake.media] == [
        os.path.join(os.path.dirname(image.path), "disk.vdi"),
        driver.path(made, "virtualbox/Life/disk.vdi"),
        driver.path(made, "virtualbox/Life/seed.iso"),
    ]
    assert (
        "modifymedium",
        "disk",
        driver.path(made, "virtualbox/Life/disk.vdi"),
        "--resizebyte",
        str(GIB),
    ) in fake.said
    settings = next(each for each in fake.said if each[0] == "modifyvm")
    assert settings[settings.index("--macaddress1") + 1] == "525400123456"


def test_the_form_that_disks_are_backed_by_is_made_once(driver, made, image):
    FakeQemuImg.made.clear()
    driver.acts.create(made, image, {"meta-data": b""})
    assert FakeQemuImg.made == []
    assert os.stat(prepared.path_of(image.path)).st_mode & 0o777 == 0o400


def test_what_disks_are_backed_by_has_whole_blocks(driver, fake, instance, image, monkeypatch):
    monkeypatch.setattr(FakeQemuImg, "info", lambda self, layers: {"virtual-size": 8 * MIB + 512})
    fake.fails["closemedium", "disk", prepared.path_of(image.path) + ".new"] = [Completed(1, "", "not known")]
    driver.acts.create(instance, image, {"meta-data": b""})
    assert vdi.size_of(prepared.path_of(image.path)) == 9 * MIB
    assert len(fake.media) == 3


def test_a_run_that_was_killed_is_begun_anew(driver, fake, made, image):
    # Registered, with media, and nothing else: and media without a machine.
    for prepare in (lambda: None, fake.machines.clear):
        prepare()
        driver.acts.create(made, image, {"meta-data": b""})
        assert list(fake.machines) == [UUID]
        assert len(fake.media) == 3


def test_nothing_is_left_after_a_removal(driver, fake, up):
    driver.acts.delete(up)
    assert fake.machines == {} and fake.media == []
    driver.acts.delete(up)
    assert fake.count("unregistervm") == 1


def test_an_image_that_others_are_backed_by_stays_registered(driver, fake, made, image):
    other = Instance(**{**vars(made), "uuid": UUID.replace("1", "9"), "name": "Other"})
    driver.scope.write(other)
    driver.acts.create(other, image, {"meta-data": b""})
    driver.acts.delete(made)
    assert prepared.path_of(image.path) in [each[3] for each in fake.media]
    driver.acts.delete(other)
    assert fake.media == []


def test_a_linked_clone_of_others_is_in_the_way_of_a_removal(driver, fake, made):
    driver.acts.check_removal(made)
    disk = fake._medium_at(driver.path(made, "virtualbox/Life/disk.vdi"))
    fake.media.append(("hdds", "c", disk, "/home/x/clone.vdi"))
    with pytest.raises(InUse, match=r"/home/x/clone.vdi is backed by its disk.*Remove that clone"):
        driver.acts.check_removal(made)


def test_a_machine_of_a_copy_of_the_data_directory_is_left_alone(driver, fake, made, image):
    fake.machines[UUID].settings = "/srv/copy/Life/Life.vbox"
    assert driver.observe([made])[0].state == "absent"
    assert "/srv/copy" in driver.observe([made])[0].reason
    before = len(fake.machines)
    driver.acts.delete(made)
    assert len(fake.machines) == before
    with pytest.raises(InUse, match="another machine with the uuid"):
        driver.acts.create(made, image, {})
    with pytest.raises(HypervisorError, match="elsewhere"):
        driver.acts.start(made)


def test_what_is_new_of_a_disk_is_zero(tmp_path):
    path = str(tmp_path / "x.vdi")
    write_vdi(path, 8 * MIB, [0xFFFFFFFF, 0, 1, 0xFFFFFFFF, 0xFFFFFFFF, 2, 0xFFFFFFFF, 0xFFFFFFFE])
    assert vdi.size_of(path) == 8 * MIB
    vdi.mark_zero(path, 4 * MIB)
    with open(path, "rb") as stream:
        entries = struct.unpack("<8I", stream.read()[1024:])
    assert entries == (0xFFFFFFFF, 0, 1, 0xFFFFFFFF, 0xFFFFFFFE, 2, 0xFFFFFFFE, 0xFFFFFFFE)
    for content in (b"", b"x" * 512, b"QFI\xfb" + bytes(600)):
        (tmp_path / "x.vdi").write_bytes(content)
        with pytest.raises(HypervisorError, match="no disk of the kind"):
            vdi.mark_zero(path, 0)
    assert vdi.whole_blocks(MIB + 1) == 2 * MIB


def test_a_disk_whose_growth_was_cut_off_is_marked_by_the_next_run(driver, fake, made, monkeypatch):
    marked = []
    finish = driver.acts._finish_growing
    monkeypatch.setattr(vdi, "mark_zero", lambda path, begin: marked.append(begin))
    monkeypatch.setattr(driver.acts, "_finish_growing", lambda *args: None)
    made.disk = 2 * GIB
    driver.acts.grow_disk(made)
    monkeypatch.setattr(driver.acts, "_finish_growing", finish)
    driver.acts.start(made)
    driver.acts.stop(made, Deadline(20), True)
    driver.acts.start(made)
    assert marked == [GIB]


# -- running


def test_a_start_has_the_machine_be_as_the_record_says(driver, fake, made):
    machine = fake.machines[UUID]
    machine.memory, machine.name, machine.rules["old"] = 96, "so", "old,tcp,127.0.0.1,1,,1"
    made.ssh_port, made.ports = 22022, [PortForward("127.0.0.1", 22080, 80)]
    seen = driver.observe([made])[0]
    assert len(seen.drift) == 2 and seen.differs == ("memory",)
    driver.acts.start(made)
    assert (machine.memory, machine.name, machine.state) == (64, "Life", "running")
    assert machine.rules == {
        "ssh": "ssh,tcp,127.0.0.1,22022,,22",
        "tcp-127.0.0.1-22080": "tcp-127.0.0.1-22080,tcp,127.0.0.1,22080,,80",
    }
    assert driver.observe([made])[0].drift == ()
    assert driver.acts.forwards(made) == made.ports
    assert driver.ssh_address(made) == ("127.0.0.1", 22022)


def test_ports_change_while_it_runs(driver, fake, up):
    up.ports = [PortForward("127.0.0.1", 22053, 53, "udp")]
    driver.acts.forward_ports(up, [])
    assert sorted(fake.machines[UUID].rules) == ["ssh", "udp-127.0.0.1-22053"]
    driver.acts.forward_ports(up, [])
    assert fake.count("controlvm", UUID, "natpf1") == 2


def test_one_that_others_have_just_used_is_waited_for(driver, fake, made):
    fake.fails["modifyvm",] = [Completed(1, "", LOCKED)] * 2
    driver.acts.start(made)
    assert fake.machines[UUID].state == "running"


def test_one_that_somebody_holds_is_told(driver, fake, made, monkeypatch):
    monkeypatch.setattr(manage, "Deadline", lambda seconds: Deadline(0))
    fake.fails["startvm",] = [Completed(1, "", LOCKED)] * 2
    with pytest.raises(InUse, match=r"already locked.*Close its window"):
        driver.acts.start(made)


def test_a_start_without_a_kernel_module_says_so(driver, fake, made, monkeypatch):
    said = (
        "VBoxManage: error: The virtual machine 'x' has terminated unexpectedly during startup with exit code 1 (0x1)\n"
    )
    fake.fails["startvm",] = [Completed(1, "", said)]
    monkeypatch.setattr(act, "missing_module", lambda: "there is no /dev/vboxdrv")
    with pytest.raises(MissingRequirement, match=r"terminated unexpectedly.*no /dev/vboxdrv.*modprobe"):
        driver.acts.start(made)


def test_what_the_host_must_have(driver, fake, monkeypatch):
    monkeypatch.setattr(type(driver.host), "architecture", lambda self: "x86_64")
    driver.acts.require("x86_64")
    with pytest.raises(NotSupported, match="aarch64"):
        driver.acts.require("aarch64")
    monkeypatch.setattr(act, "missing_module", lambda: "there is no /dev/vboxdrv")
    driver.acts.require("x86_64")
    assert driver.acts.probe()["accelerator"] == "interpreter"
    fake.interprets = False
    with pytest.raises(MissingRequirement, match="no /dev/vboxdrv"):
        driver.acts.require("x86_64")
    fake.fails["--version",] = [Completed(0, "6.1.50r161033\n", "")]
    with pytest.raises(MissingRequirement, match="too old"):
        driver.acts.require("x86_64")


def test_a_guest_that_does_not_act_on_its_button(driver, fake, up):
    fake.fails["controlvm", UUID, "acpipowerbutton"] = [Completed(0, "", "")] * 9
    with pytest.raises(HypervisorError, match=r"did not shut down within 0.4 seconds"):
        driver.acts.stop(up, Deadline(0.4), False)
    fake.fails.clear()
    fake.machines[UUID].state = "paused"
    driver.acts.stop(up, Deadline(20), False)
    assert fake.machines[UUID].state == "poweroff"
    driver.acts.stop(up, Deadline(20), True)
    assert fake.count("controlvm", UUID, "poweroff") == 0


def test_files_that_were_left_are_registered_anew(driver, fake, made):
    fake.forgotten = UUID
    del fake.machines[UUID]
    seen = driver.observe([made])[0]
    assert seen.state == "stopped" and "its files are still there" in seen.drift[0]
    driver.acts.start(made)
    assert fake.machines[UUID].state == "running"


def test_a_name_changes_with_what_goes_by_it(driver, fake, made):
    from ansible_collections.minicloud.local.plugins.module_utils._guest.iso9660 import iso_files

    fake.forgotten = UUID
    driver.acts.rename(made, "Later")
    assert fake.machines == {} and fake.media == []
    driver.acts.rename(made, "Later")
    driver.scope.rename("Life", "Later")
    after = Instance(**{**vars(made), "name": "Later", "renamed_from": "Life"})
    driver.acts.follow_name(after)
    assert fake.machines[UUID].name == "Later"
    with open(driver.path(after, "virtualbox/Life/seed.iso"), "rb") as stream:
        assert b"Later" in iso_files(stream.read())["meta-data"]


# -- what is saved


def test_suspending_and_dropping(driver, fake, up):
    part = driver.suspension()
    assert part.why_not(up) == ""
    part.suspend(up)
    part.suspend(up)
    assert driver.observe([up])[0].state == "suspended" and fake.count("controlvm", UUID, "savestate") == 1
    part.drop(up)
    part.drop(up)
    assert fake.count("discardstate") == 1
    assert "does not run" in part.why_not(up)


def test_a_suspended_one_goes_on_with_other_ports(driver, fake, up):
    driver.suspension().suspend(up)
    up.ssh_port, up.resumed, up.memory = 22033, True, 128 * MIB
    driver.acts.start(up)
    machine = fake.machines[UUID]
    assert machine.state == "running" and machine.memory == 64 and "22033" in machine.rules["ssh"]


def test_what_was_saved_by_others_is_not_gone_on_with(driver, fake, made):
    fake.machines[UUID].state = "saved"
    driver.acts.start(made)
    assert fake.count("discardstate") == 1


def _snapshot(name, number, memory=0):
    return Snapshot(
        name, f"{number:08x}-0000-4000-8000-000000000000", "virtualbox", "2026-01-31T23:59:59Z", memory=memory
    )


def test_a_snapshot_that_two_go_on_from_goes_when_it_can(driver, fake, made):
    part = driver.snapshots()
    first, left, right = _snapshot("first", 1), _snapshot("left", 2), _snapshot("right", 3)
    part.take(made, first, False)
    part.take(made, left, False)
    part.restore(made, first)
    part.take(made, right, False)
    assert set(part.listed([made])[UUID]) == {first.uuid, left.uuid, right.uuid}
    part.delete(made, first)
    part.delete(made, first)
    assert set(part.listed([made])[UUID]) == {left.uuid, right.uuid}
    assert len(fake.machines[UUID].snapshots) == 3
    part.delete(made, left)
    assert [each[0] for each in fake.machines[UUID].snapshots] == [f"minicloud-{right.uuid}"]
    assert part.listed([made, Instance(**{**vars(made), "uuid": "x"})]) == {UUID: {right.uuid: 0}}


def test_memory_comes_back_where_it_is_asked_for(driver, fake, up):
    part = driver.snapshots()
    assert part.why_not(up, True) == "" and "its memory, too" in part.why_not(up, False)
    assert part.take(up, _snapshot("live", 1), True).memory > 0
    fake.machines[UUID].state = "poweroff"
    assert "stopped" in part.why_not(up, True)
    fake.restores_memory = True
    part.restore(up, _snapshot("live", 1, memory=1))
    assert fake.machines[UUID].state == "saved"
    part.restore(up, _snapshot("live", 1))
    assert fake.machines[UUID].state == "poweroff"
    fake.machines[UUID].snapshots.clear()
    with pytest.raises(HypervisorError, match="somebody has removed it"):
        part.restore(up, _snapshot("live", 1))


# -- the console


def test_consoles_of_earlier_starts_are_kept(driver, made):
    path = driver.console_log(made)
    for text in ("one", "two"):
        with open(path, "w", encoding="ascii") as stream:
            stream.write(text)
        driver.acts._rotate_console(made, False)
    with open(f"{path}.1", encoding="ascii") as newest, open(f"{path}.2", encoding="ascii") as older:
        assert (newest.read(), older.read()) == ("two", "one")


def test_a_large_console_is_cut(driver, made, monkeypatch):
    monkeypatch.setattr(look, "_CONSOLE_LIMIT", 8192)
    monkeypatch.setattr(look, "_CONSOLE_KEPT", 4096)
    path = driver.console_log(made)
    with open(path, "wb") as stream:
        stream.write(b"x" * 65536 + b"end")
    driver.tidy(made)
    assert os.path.getsize(path) == 0
    with open(f"{path}.1", "rb") as stream:
        assert stream.read().endswith(b"end")


def test_it_says_what_it_is():
    about = ABOUT["virtualbox"]
    assert about.scope == "virtualbox" and not about.is_server
    assert not about.can("foreign_arch") and not about.can("native_mounts")
