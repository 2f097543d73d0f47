# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import typing as t

import pytest
import yaml
from ansible import constants as C
from ansible.errors import AnsibleError, AnsibleParserError
from ansible.inventory.data import InventoryData
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.doc_fragments import constructed, inventory_cache
from ansible.template import Templar

from ansible_collections.minicloud.local.plugins.inventory import instances as plugin_module
from ansible_collections.minicloud.local.plugins.inventory.instances import DOCUMENTATION, InventoryModule
from ansible_collections.minicloud.local.plugins.module_utils._drivers import registry
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu.driver import QemuDriver
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, Nic, PortForward
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory
from ansible_collections.minicloud.local.plugins.module_utils._writing import write_file


@pytest.fixture(autouse=True)
def definitions():
    """What the plugin loader would do: the options of the plugin, with those of its documentation fragments."""
    options = yaml.safe_load(DOCUMENTATION)["options"]
    for fragment in (constructed, inventory_cache):
        options = {**yaml.safe_load(fragment.ModuleDocFragment.DOCUMENTATION)["options"], **options}
    C.config.initialize_plugin_configuration_definitions("inventory", InventoryModule.NAME, options)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("ANSIBLE_INVENTORY", "ANSIBLE_CACHE", "MINICLOUD")):
            monkeypatch.delenv(name)


class Cloud:
    """A data directory, and the inventories of it."""

    def __init__(self, path, monkeypatch):
        self.path = path
        self.data = DataDirectory(str(path / "data"))
        self.monkeypatch = monkeypatch
        self.warnings: list[str] = []
        self.locks: list[t.Any] = []
        monkeypatch.setattr(InventoryManager, "_fetch_inventory_plugins", lambda manager: [self.plugin()])

    def add(self, name, running=True, scope="qemu", **changes):
        values = {
            "uuid": f"id-of-{name}",
            "scope": scope,
            "driver": scope,
            "created": "2026-01-02T03:04:05Z",
            "arch": "x86_64",
            "cpus": 2,
            "memory": 1 << 30,
            "disk": 5 << 30,
            "phase": "ready",
            "user": "debian",
            "ssh_port": 40022,
            "owner": scope if running else "",
            "image": {"name": "lts", "hash": "ab" * 32, "os": "debian", "release": "bookworm", "version": "12"},
            "nics": [Nic("user", "52:54:00:00:00:01")],
        }
        storage = self.data.scope(scope)
        storage.write(Instance(name, **{**values, **changes}))
        if running:
            # What a running QEMU does; the lock is this process's, and looks the same from outside.
            lock = open(os.path.join(storage.directory(name), "run.lock"), "w", encoding="ascii")  # noqa: SIM115
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.locks.append(lock)

    def plugin(self):
        plugin = InventoryModule()
        plugin._load_name = plugin._original_path = InventoryModule.NAME
        self.monkeypatch.setattr(plugin.display, "warning", lambda text, *args, **kwargs: self.warnings.append(text))
        return plugin

    def config(self, **options):
        path = self.path / "minicloud.yml"
        options = {"plugin": InventoryModule.NAME, "data_dir": self.data.path, **options}
        path.write_text(yaml.safe_dump(options))
        return str(path)

    def inventory(self, **options):
        """The inventory as Ansible has it; an error of the plugin is raised instead of becoming a warning."""
        manager = InventoryManager(loader=DataLoader(), sources=[self.config(**options)], cache=True)
        if not manager._inventory.processed_sources:
            self.parse(**options)
            raise AssertionError("The manager failed and the plugin did not.")
        return manager

    def parse(self, **options):
        """The plugin alone: raises what it raises."""
        self.plugin().parse(InventoryData(), DataLoader(), self.config(**options), cache=True)

    def hosts(self, **options):
        return sorted(self.inventory(**options).hosts)

    def groups(self, **options):
        return {
            name: sorted(host.name for host in group.get_hosts())
            for name, group in self.inventory(**options).groups.items()
            if name not in ("all", "ungrouped")
        }

    def variables(self, host, **options):
        return self.inventory(**options).hosts[host].vars


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    cloud = Cloud(tmp_path, monkeypatch)
    yield cloud
    for lock in cloud.locks:
        lock.close()


class TestFiles:
    @pytest.mark.parametrize("name", ["minicloud.yml", "minicloud.yaml", "x.minicloud.yml", "a.b.minicloud.yaml"])
    def test_names_that_are_ours(self, tmp_path, name):
        path = tmp_path / name
        path.write_text("")
        assert InventoryModule().verify_file(str(path))

    @pytest.mark.parametrize("name", ["x.yml", "notminicloud.yml", "minicloud.json", "minicloud.yml.bak", "minicloud"])
    def test_names_that_are_not(self, tmp_path, name):
        path = tmp_path / name
        path.write_text("")
        assert not InventoryModule().verify_file(str(path))

    def test_a_file_that_is_not_there(self, tmp_path):
        assert not InventoryModule().verify_file(str(tmp_path / "minicloud.yml"))

    def test_nothing_is_made_by_looking(self, cloud):
        assert cloud.hosts() == []
        assert not os.path.exists(cloud.data.path)

    def test_the_group_is_there_even_if_nothing_is(self, cloud):
        assert cloud.groups() == {"minicloud": []}

    def test_the_environment_names_the_data_directory(self, cloud, monkeypatch):
        cloud.add("web")
        monkeypatch.setenv("MINICLOUD_DATA_DIR", cloud.data.path)
        assert cloud.hosts(data_dir=None) == ["web"]


class TestHints:
    """Why there is no host where somebody expects one, and the line that helps."""

    def test_a_data_directory_that_is_not_there(self, cloud, monkeypatch):
        monkeypatch.setattr(plugin_module, "SYSTEM_PATH", str(cloud.path / "of-root"))
        assert cloud.hosts() == []
        (warning,) = cloud.warnings
        assert f"{cloud.data.path} does not exist" in warning
        assert f"write into {cloud.path}/minicloud.yml: data_dir: /path/to/it" in warning

    def test_that_of_root_is_named_where_it_is(self, cloud, monkeypatch):
        os.mkdir(cloud.path / "of-root")
        monkeypatch.setattr(plugin_module, "SYSTEM_PATH", str(cloud.path / "of-root"))
        assert cloud.hosts() == []
        (warning,) = cloud.warnings
        assert warning.endswith(f"data_dir: {cloud.path}/of-root")

    def test_a_data_directory_that_others_may_write_in_is_refused(self, cloud):
        cloud.add("web")
        os.chmod(cloud.data.path, 0o777)
        with pytest.raises(AnsibleParserError, match="others"):
            cloud.parse()

    def test_a_data_directory_without_instances_is_no_reason(self, cloud):
        os.mkdir(cloud.data.path)
        assert cloud.hosts() == []
        assert cloud.warnings == []

    def test_instances_of_other_drivers(self, cloud, two_drivers):
        cloud.add("web", scope="other")
        cloud.add("off", running=False, scope="other")
        assert cloud.hosts() == []
        (warning,) = cloud.warnings
        assert "other (2)" in warning
        assert f"write into {cloud.path}/minicloud.yml: drivers: [all]." in warning
        assert warning.endswith("drivers: [qemu]")

    def test_who_has_chosen_drivers_is_not_told(self, cloud, two_drivers):
        cloud.add("web", scope="other")
        assert cloud.hosts(drivers=["qemu"]) == []
        assert cloud.hosts(drivers=["all"]) == ["web"]
        assert cloud.warnings == []

    def test_drivers_that_share_a_scope_have_the_same_instances(self, cloud):
        cloud.add("web")
        cloud.data.change_settings(driver="libvirt")
        cloud.hosts()
        assert not [text for text in cloud.warnings if "are listed; other drivers" in text]


class TestHosts:
    def test_only_what_runs_unless_asked_otherwise(self, cloud):
        cloud.add("web")
        cloud.add("off", running=False)
        cloud.add("half", phase="creating")
        cloud.add("gone", phase="removing")
        assert cloud.hosts() == ["web"]
        assert cloud.hosts(states=["stopped"]) == ["off"]
        assert cloud.hosts(states=["running", "stopped"]) == ["off", "web"]
        assert cloud.hosts(states=["all"]) == ["off", "web"]

    def test_a_state_that_does_not_exist_is_refused(self, cloud):
        with pytest.raises(AnsibleError, match="states"):
            cloud.parse(states=["sleeping"])

    def test_ssh_needs_nothing_more(self, cloud):
        cloud.add("Web")
        found = cloud.variables("Web")
        assert (found["ansible_host"], found["ansible_port"], found["ansible_user"]) == ("127.0.0.1", 40022, "debian")
        assert found["ansible_connection"] == "ssh"
        assert found["ansible_ssh_private_key_file"] == os.path.join(cloud.data.keys, "id_ed25519")
        args = found["ansible_ssh_common_args"]
        assert "StrictHostKeyChecking=yes" in args
        assert "HostKeyAlias=minicloud-qemu-web" in args
        assert cloud.data.known_hosts in args

    def test_a_user_that_nobody_knows_is_left_to_ansible(self, cloud):
        cloud.add("web", user="")
        assert "ansible_user" not in cloud.variables("web")

    def test_an_instance_is_told_about_in_variables(self, cloud):
        cloud.add("web", tags={"role": "web"}, ports=[PortForward("127.0.0.1", 8080, 80)])
        found = cloud.variables("web")
        assert (found["minicloud_name"], found["minicloud_state"], found["minicloud_cpus"]) == ("web", "running", 2)
        assert found["minicloud_image"]["release"] == "bookworm"
        assert found["minicloud_tags"] == {"role": "web"}
        assert found["minicloud_ports"][0]["host_port"] == 8080
        assert "minicloud_ansible_vars" not in found

    def test_the_prefix_is_the_users(self, cloud):
        cloud.add("web")
        assert cloud.variables("web", hostvars_prefix="mc_")["mc_name"] == "web"
        assert cloud.variables("web", hostvars_prefix="")["cpus"] == 2

    @pytest.mark.parametrize("prefix", ["mini-", "1_", "{{ x }}", "a b"])
    def test_a_prefix_that_names_no_variable_is_refused(self, cloud, prefix):
        with pytest.raises(AnsibleParserError, match="hostvars_prefix"):
            cloud.parse(hostvars_prefix=prefix)

    def test_groups(self, cloud):
        cloud.add("web", tags={"role": "web", "plain": "", "deep": {"a": 1}, "number": 5, "none": None})
        cloud.add("off", running=False, image={"name": "x"}, nics=[Nic("lan", "")])
        assert cloud.groups(states=["all"]) == {
            "minicloud": ["off", "web"],
            "minicloud_driver_qemu": ["off", "web"],
            "minicloud_state_running": ["web"],
            "minicloud_state_stopped": ["off"],
            "minicloud_os_debian": ["web"],
            "minicloud_network_user": ["web"],
            "minicloud_network_lan": ["off"],
            "minicloud_tag_role_web": ["web"],
            "minicloud_tag_plain": ["web"],
            "minicloud_tag_deep": ["web"],
            "minicloud_tag_number_5": ["web"],
            "minicloud_tag_none": ["web"],
        }

    def test_constructed(self, cloud):
        cloud.add("web", tags={"role": "web"})
        cloud.add("db", tags={"role": "db"})
        manager = cloud.inventory(
            compose={"double": "minicloud_cpus * 2", "ansible_become": "true"},
            groups={"frontend": "minicloud_tags.role == 'web'"},
            keyed_groups=[{"key": "minicloud_image.release", "prefix": "release"}],
        )
        assert manager.hosts["web"].vars["double"] == 4
        assert [host.name for host in manager.groups["frontend"].get_hosts()] == ["web"]
        assert sorted(host.name for host in manager.groups["release_bookworm"].get_hosts()) == ["db", "web"]

    def test_strict(self, cloud):
        cloud.add("web")
        assert cloud.hosts(compose={"x": "nothing.there"}) == ["web"]
        with pytest.raises(AnsibleError, match="nothing"):
            cloud.parse(compose={"x": "nothing.there"}, strict=True)


class TestFilters:
    @pytest.fixture(autouse=True)
    def three(self, cloud):
        for name, role in (("a", "web"), ("b", "db"), ("c", None)):
            cloud.add(name, tags={"role": role} if role else {})

    @pytest.mark.parametrize(
        ("filters", "hosts"),
        [
            ([], "abc"),
            ([{"include": "minicloud_name == 'a'"}], "abc"),
            ([{"exclude": "minicloud_name == 'a'"}], "bc"),
            ([{"include": "minicloud_name == 'a'"}, {"exclude": True}], "a"),
            ([{"exclude": True}, {"include": "minicloud_name == 'a'"}], ""),
            ([{"exclude": "minicloud_tags.role | default('') == 'web'"}, {"include": True}], "bc"),
            (
                [
                    {"exclude": "minicloud_name == 'a'"},
                    {"include": "minicloud_tags.role is defined"},
                    {"exclude": True},
                ],
                "b",
            ),
            ([{"exclude": False}], "abc"),
            ([{"include": "ansible_port == 1"}, {"exclude": "true"}], ""),
        ],
        ids=str,
    )
    def test_the_first_that_holds_decides(self, cloud, filters, hosts):
        assert "".join(cloud.hosts(filters=filters)) == hosts

    def test_a_condition_that_cannot_be_decided_is_not_met(self, cloud):
        filters = [{"include": "minicloud_tags.role == 'web'"}, {"exclude": True}]
        hosts = cloud.hosts(filters=filters)
        assert hosts == cloud.hosts(
            filters=[{"include": "minicloud_tags.role | default('') == 'web'"}, {"exclude": True}]
        )
        assert "c" not in hosts

    def test_if_strict_it_is_an_error_that_names_it(self, cloud):
        with pytest.raises(AnsibleParserError) as caught:
            cloud.parse(filters=[{"include": "minicloud_tags.role == 'web'"}], strict=True)
        assert "minicloud_tags.role == 'web'" in str(caught.value)
        assert "for c" in str(caught.value)

    @pytest.mark.parametrize("entry", [{}, {"only": "true"}, {"include": "true", "exclude": "true"}], ids=str)
    def test_an_entry_that_is_none_is_refused(self, cloud, entry):
        with pytest.raises(AnsibleParserError, match="filters"):
            cloud.parse(filters=[entry])


class TestNames:
    def test_the_first_expression_that_gives_a_name(self, cloud):
        cloud.add("a", tags={"dns": "a.example"})
        cloud.add("b")
        hostnames = ["minicloud_tags.dns", "minicloud_name ~ '.local'"]
        assert cloud.hosts(hostnames=hostnames) == ["a.example", "b.local"]
        assert cloud.hosts(hostnames=["minicloud_tags.dns"]) == ["a.example", "b"]
        assert cloud.hosts(hostnames=["''"]) == ["a", "b"]

    def test_strict_names(self, cloud):
        cloud.add("b")
        with pytest.raises(AnsibleParserError, match="hostnames"):
            cloud.parse(hostnames=["minicloud_tags.dns"], strict=True)

    def test_two_instances_never_become_one_host(self, cloud):
        for name in ("a", "b", "c"):
            cloud.add(name)
        assert cloud.hosts(hostnames=["'same'"]) == ["b", "c", "same"]
        assert [text for text in cloud.warnings if "'same'" not in text] == []
        assert len(cloud.warnings) == 2
        assert cloud.variables("c", hostnames=["'same'"])["minicloud_name"] == "c"
        with pytest.raises(AnsibleParserError, match="a and b would both be the host 'same'"):
            cloud.parse(hostnames=["'same'"], strict=True)


@pytest.fixture
def two_drivers(cloud, monkeypatch):
    """A second driver, which works as the first one does, in a scope of its own."""

    class OtherDriver(QemuDriver):
        pass

    other = registry.ABOUT["qemu"]._replace(name="other", scope="other")
    monkeypatch.setitem(registry.ABOUT, "other", other)

    load = registry.load

    def load_either(name, runtime, data, options=None, shared=False):
        if name == "other":
            return OtherDriver(other, runtime, data.scope("other"), options)
        return load(name, runtime, data, options)

    from ansible_collections.minicloud.local.plugins.module_utils._reconcile import listing

    monkeypatch.setattr(listing, "load", load_either)
    monkeypatch.setattr(plugin_module, "DRIVERS", ("qemu", "other"))
    return OtherDriver


class TestDrivers:
    def test_all_of_them_and_names_that_two_scopes_have(self, cloud, two_drivers):
        cloud.add("web", scope="qemu", cpus=1)
        cloud.add("web", scope="other", cpus=7)
        cloud.add("db", scope="other")
        assert cloud.hosts(drivers=["qemu"]) == ["web"]
        assert cloud.hosts(drivers=["other"]) == ["db", "web"]
        manager = cloud.inventory(drivers=["all"])
        # Sorted by name and scope: the later one gets the longer name.
        assert sorted(manager.hosts) == ["db", "web", "web.qemu"]
        assert manager.hosts["web"].vars["minicloud_cpus"] == 7
        assert manager.hosts["web.qemu"].vars["minicloud_cpus"] == 1
        assert cloud.warnings == []
        assert cloud.groups(drivers=["all"])["minicloud_driver_other"] == ["db", "web"]

    def test_a_dead_driver_does_not_hide_the_others(self, cloud, two_drivers, monkeypatch):
        def fail(self, instances):
            raise HypervisorError("the hypervisor does not answer")

        monkeypatch.setattr(two_drivers, "observe", fail)
        cloud.add("web")
        cloud.add("db", scope="other")
        assert cloud.hosts(drivers=["all"]) == ["web"]
        (warning,) = cloud.warnings
        assert "other" in warning
        assert "the hypervisor does not answer" in warning

    def test_a_driver_that_does_not_exist_is_refused(self, cloud):
        with pytest.raises(AnsibleParserError, match=r"there is no driver 'kvm'\. Choose from: all, qemu"):
            cloud.parse(drivers=["qemu", "kvm"])

    def test_an_option_that_the_driver_does_not_know_is_a_warning(self, cloud):
        cloud.add("web")
        assert cloud.hosts(driver_options={"colour": "red"}) == []
        assert "'colour'" in cloud.warnings[0]

    def test_the_active_driver_is_the_settings(self, cloud):
        cloud.add("web")
        cloud.data.change_settings(driver="qemu")
        assert cloud.hosts() == ["web"]
        cloud.data.change_settings(driver="vanished")
        assert cloud.hosts() == []
        assert "there is no driver 'vanished'" in cloud.warnings[0]


class TestBrokenRecords:
    @pytest.mark.parametrize("content", [b"", b"{", b'{"schema": 1}', b'{"schema": 9}'], ids=repr)
    def test_a_warning_names_the_file_and_the_others_are_listed(self, cloud, content):
        for name in ("a", "b", "c"):
            cloud.add(name)
        path = os.path.join(cloud.data.scope("qemu").directory("b"), "instance.json")
        write_file(path, content)
        assert cloud.hosts() == ["a", "c"]
        (warning,) = cloud.warnings
        assert path in warning

    def test_broken_settings(self, cloud):
        cloud.add("a")
        write_file(os.path.join(cloud.data.path, "settings.json"), b"{")
        assert cloud.hosts() == []
        assert "settings.json" in cloud.warnings[0]
        assert cloud.hosts(drivers=["qemu"]) == ["a"]


class TestCache:
    @pytest.fixture
    def options(self, tmp_path):
        return {"cache": True, "cache_plugin": "jsonfile", "cache_connection": str(tmp_path / "cache")}

    def test_the_second_time_the_data_directory_is_not_read(self, cloud, options, monkeypatch):
        cloud.add("web", tags={"role": "web"})
        first = cloud.inventory(**options)

        def fail(*args):
            raise AssertionError("the data directory was read")

        monkeypatch.setattr(plugin_module, "list_instances", fail)
        second = cloud.inventory(**options)
        assert sorted(second.hosts) == ["web"]
        assert second.hosts["web"].vars == first.hosts["web"].vars
        assert set(second.groups) == set(first.groups)

    def test_what_came_later_is_not_seen_until_the_cache_is_refreshed(self, cloud, options):
        cloud.add("a")
        assert cloud.hosts(**options) == ["a"]
        cloud.add("b")
        assert cloud.hosts(**options) == ["a"]
        refreshed = InventoryManager(loader=DataLoader(), sources=[cloud.config(**options)], cache=False)
        assert sorted(refreshed.hosts) == ["a", "b"]

    def test_filters_work_on_what_is_cached(self, cloud, options):
        cloud.add("a")
        cloud.add("b", running=False)
        assert cloud.hosts(**options) == ["a"]
        assert cloud.hosts(states=["all"], **options) == ["a", "b"]
        assert cloud.hosts(states=["all"], filters=[{"exclude": "minicloud_name == 'a'"}], **options) == ["b"]

    def test_an_empty_inventory_is_cached_too(self, cloud, options):
        assert cloud.hosts(**options) == []
        cloud.add("a")
        assert cloud.hosts(**options) == []

    def test_without_a_cache_nothing_is_kept(self, cloud, tmp_path):
        cloud.add("a")
        cloud.hosts()
        assert not (tmp_path / "cache").exists()


class TestTrust:
    """What a guest says, or whoever named a tag, is never run as a template."""

    EVIL = "{{ lookup('pipe', 'touch EVIL') }}"

    @pytest.mark.parametrize("cached", [False, True])
    def test_text_of_a_guest_is_only_text(self, cloud, tmp_path, cached):
        proof = tmp_path / "proof"
        evil = self.EVIL.replace("EVIL", str(proof))
        cloud.add("web", user=evil, tags={"role": evil}, cloud_init={"status": "error", "errors": [evil]})
        options: dict[str, t.Any] = {}
        if cached:
            options = {"cache": True, "cache_plugin": "jsonfile", "cache_connection": str(tmp_path / "cache")}
            cloud.hosts(**options)
        manager = cloud.inventory(
            compose={"seen": "minicloud_cloud_init.errors[0]"},
            keyed_groups=[{"key": "minicloud_tags.role", "prefix": "role"}],
            filters=[{"exclude": "minicloud_tags.role == 'x'"}],
            **options,
        )
        found = manager.hosts["web"].vars
        assert found["minicloud_cloud_init"]["errors"] == [evil]
        assert found["seen"] == found["ansible_user"] == found["minicloud_tags"]["role"] == evil
        templar = Templar(loader=DataLoader(), variables=dict(found))
        for value in (found["minicloud_cloud_init"], found["seen"], found["ansible_user"], found["minicloud_tags"]):
            assert templar.template(value) == value
        assert not proof.exists()

    def test_a_guest_cannot_name_a_condition(self, cloud, tmp_path):
        cloud.add("web", tags={"role": "{{ true }}"})
        assert cloud.hosts(filters=[{"exclude": "minicloud_tags.role == true"}]) == ["web"]

    def test_what_is_listed_is_plain_data(self, cloud):
        cloud.add("web", tags={"a": {"b": ["c"]}})
        found = {key: value for key, value in cloud.variables("web").items() if key.startswith("minicloud_")}
        assert json.loads(json.dumps(found)) == found


def test_many_instances_are_all_there(cloud):
    for number in range(150):
        cloud.add(f"web-{number}", running=False, ssh_port=40000 + number)
    manager = cloud.inventory(states=["all"])
    assert len(manager.hosts) == 150
    assert manager.hosts["web-149"].vars["ansible_port"] == 40149
    assert len(manager.groups["minicloud_state_stopped"].get_hosts()) == 150


def test_one_look_at_the_hypervisor_for_all(cloud, monkeypatch):
    calls = []
    observe = QemuDriver.observe

    def counted(self, instances):
        calls.append(len(instances))
        return observe(self, instances)

    monkeypatch.setattr(QemuDriver, "observe", counted)
    for name in ("a", "b", "c"):
        cloud.add(name)
    with contextlib.suppress(AnsibleError):
        cloud.hosts()
    assert calls == [3]
