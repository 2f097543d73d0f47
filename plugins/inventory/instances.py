# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: instances
short_description: Local instances as hosts
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Makes the instances of M(minicloud.local.instance) hosts of the inventory, with everything that ssh needs to reach
    them, the pinned host key included. C(ansible all -m ping) works at once, with host key checking on.
  - The configuration file is named C(minicloud.yml), C(minicloud.yaml), or ends with C(.minicloud.yml) or
    C(.minicloud.yaml).
  - It is read on the controller, so the controller must be the host that has the instances, and the user that owns the
    data directory. A warning says so where that directory does not exist, which is so before the first instance was
    made, and where another user made the instances (such as root, in plays with C(become)).
  - Each instance is in the group C(minicloud), and in groups for its driver (C(minicloud_driver_qemu)), state
    (C(minicloud_state_running)), image OS (C(minicloud_os_debian)), networks (C(minicloud_network_NAME)), its
    cloud (C(minicloud_cloud_NAME)) and tags (C(minicloud_tag_role_web) for the tag C(role) with the value C(web)).
  - Every host has the return value RV(minicloud.local.instance#module:instance) of M(minicloud.local.instance) as
    variables, each with the prefix of O(hostvars_prefix).
options:
  plugin:
    description: The name of this plugin.
    type: str
    required: true
    choices: [minicloud.local.instances]
  data_dir:
    description:
      - The data directory.
      - By default the value of the environment variable E(MINICLOUD_DATA_DIR), else C(/var/lib/minicloud) for root,
        and C($XDG_DATA_HOME/minicloud) (C(~/.local/share/minicloud)) for other users.
    type: path
    env:
      - name: MINICLOUD_DATA_DIR
  drivers:
    description:
      - The drivers whose instances are listed; V(all) for every driver.
      - By default the active driver. A warning names the others that have instances, and what to write to list them.
      - Where two scopes have an instance of the same name, the later one becomes the host C(NAME.SCOPE).
    type: list
    elements: str
  driver_options:
    description: As in M(minicloud.local.instance).
    type: dict
  states:
    description: The states in which an instance is listed; V(all) for every state. One that is deleted is never listed.
    type: list
    elements: str
    choices: [running, paused, suspended, stopped, all]
    default: [running]
  filters:
    description:
      - Which instances are listed. The first entry whose condition holds decides; an instance for which none holds is
        listed.
      - A condition is a Jinja expression over the host's variables. One that cannot be decided, such as one about a
        tag that an instance lacks, counts as not met, with a warning; with O(strict=true) it is an error.
    type: list
    elements: dict
    default: []
    suboptions:
      include:
        description: A condition under which an instance is listed.
        type: str
      exclude:
        description: A condition under which an instance is not listed.
        type: str
  hostnames:
    description:
      - How hosts are named, as Jinja expressions over the host's variables, in order of preference; the first that
        gives a text that is not empty is used.
      - By default the instance's name.
    type: list
    elements: str
    default: []
  hostvars_prefix:
    description: What the names of the instance's variables begin with.
    type: str
    default: minicloud_
  connection:
    description:
      - How Ansible connects to the instances.
      - V(ssh) is P(ansible.builtin.ssh#connection) with all variables that it needs.
      - V(instance) is P(minicloud.local.instance#connection), which finds an instance by its name when it connects. So
        addresses may change meanwhile, and containers need no ssh server.
    type: str
    choices: [ssh, instance]
    default: ssh
extends_documentation_fragment:
  - ansible.builtin.constructed
  - ansible.builtin.inventory_cache
"""

EXAMPLES = r"""
---
# The smallest file, such as minicloud.yml: all running instances of the active driver
plugin: minicloud.local.instances
---
# Only the web servers, grouped by release too, as an inventory of its own
plugin: minicloud.local.instances
filters:
  - include: minicloud_tags.role | default('') == 'web'
  - exclude: true
keyed_groups:
  - key: minicloud_image.release
    prefix: release
compose:
  ansible_become: true
"""

import contextlib
import os
import typing as t

from ansible.errors import AnsibleParserError
from ansible.module_utils.common.text.converters import to_native
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable

from ansible_collections.minicloud.local.plugins.module_utils._command import run
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import (
    DRIVERS,
    active_driver,
    scope_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._errors import MinicloudError
from ansible_collections.minicloud.local.plugins.module_utils._model import DELETED
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.listing import list_instances
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Reporter, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import SYSTEM_PATH, DataDirectory

GROUP = "minicloud"

_ENDINGS = ("minicloud.yml", "minicloud.yaml")


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """Instances of the data directory as hosts."""

    NAME = "minicloud.local.instances"

    def verify_file(self, path: str) -> bool:
        """Whether PATH is named as a configuration of this plugin."""
        name = path.rsplit("/", 1)[-1]
        return super().verify_file(path) and (name in _ENDINGS or name.endswith(tuple(f".{end}" for end in _ENDINGS)))

    def parse(self, inventory: t.Any, loader: t.Any, path: str, cache: bool = True) -> None:
        """Add the hosts that the configuration file PATH asks for."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        self.load_cache_plugin()
        key = self.get_cache_key(path)
        use_cache = cache and self.get_option("cache")
        views = self._cache.get(key) if use_cache else None
        if views is None:
            views = self._views(path)
            if self.get_option("cache"):
                self._cache[key] = views
        self._populate(views)

    def _views(self, path: str) -> list[dict[str, t.Any]]:
        """The instances of the wanted drivers as users see them, whatever their state. path -- of the configuration"""
        wanted = self.get_option("drivers") or [None]
        unknown = sorted(str(name) for name in wanted if name not in (None, "all", *DRIVERS))
        if unknown:
            raise AnsibleParserError(
                f"drivers: there is no driver {unknown[0]!r}. Choose from: all, {', '.join(DRIVERS)}."
            )
        reporter = Reporter()
        try:
            data = DataDirectory(self.get_option("data_dir"))
            # What a record says becomes how Ansible connects: nobody else may write one.
            data.require_own()
            found = list_instances(
                Runtime(run, reporter), data, DRIVERS if "all" in wanted else wanted, self.get_option("driver_options")
            )
            views = [entry.view(data) for entry in found]
        except MinicloudError as exc:
            raise AnsibleParserError(str(exc)) from exc
        finally:
            for text in reporter.warnings:
                self.display.warning(text)
        with contextlib.suppress(MinicloudError):  # which list_instances() has told already
            self._hint(data, path)
        return views

    def _hint(self, data: DataDirectory, path: str) -> None:
        """Warn where the instances that somebody looks for may be elsewhere."""
        if not os.path.isdir(data.path):
            elsewhere = SYSTEM_PATH if data.path != SYSTEM_PATH and os.path.isdir(SYSTEM_PATH) else "/path/to/it"
            self.display.warning(
                f"The data directory {data.path} does not exist, so no instance is listed. That is so until the first"
                f" one is made. If instances are in another one, write into {path}: data_dir: {elsewhere}"
            )
        elif not self.get_option("drivers"):
            active = active_driver(data)
            others = [name for name in DRIVERS if name == scope_of(name) != scope_of(active)]
            counts = {name: len(data.scope(name).names()) for name in others if active in DRIVERS}
            having = [f"{name} ({count})" for name, count in counts.items() if count]
            if having:
                self.display.warning(
                    f"Only instances of the active driver, {active}, are listed; other drivers have instances, too:"
                    f" {', '.join(having)}. To list all of them, write into {path}: drivers: [all]. To list only those"
                    f" of {active}: drivers: [{active}]"
                )

    def _populate(self, views: list[dict[str, t.Any]]) -> None:
        options = {
            name: self.get_option(name) for name in ("states", "filters", "hostnames", "compose", "groups", "strict")
        }
        options["keyed_groups"] = self.get_option("keyed_groups")
        prefix = self.get_option("hostvars_prefix")
        connection = self.get_option("connection")
        _check_filters(options["filters"])
        if not f"{prefix}name".isidentifier():
            raise AnsibleParserError(f"hostvars_prefix: {prefix!r} does not begin the name of a variable.")
        self.inventory.add_group(GROUP)
        self._made_groups: dict[str, str] = {}
        taken: dict[str, dict[str, t.Any]] = {}
        for view in views:
            if view["state"] == DELETED or not {"all", view["state"]}.intersection(options["states"]):
                continue
            variables = {f"{prefix}{name}": value for name, value in view.items() if name != "ansible_vars"}
            variables.update(
                _by_name(view, self.get_option("data_dir")) if connection == "instance" else view["ansible_vars"]
            )
            if not self._wanted(options["filters"], variables, view["name"]):
                continue
            host = self._host_name(options["hostnames"], variables, view["name"], options["strict"])
            host = self._unique(host, view, taken, options["strict"])
            taken[host] = view
            self._add(host, view, variables, options)

    def _unique(self, host: str, view: dict[str, t.Any], taken: dict[str, dict[str, t.Any]], strict: bool) -> str:
        """A name for a host that no other host has."""
        if host not in taken:
            return host
        other = taken[host]["name"]
        if other.lower() != view["name"].lower():
            text = f"hostnames: the instances {other} and {view['name']} would both be the host {host!r}."
            if strict:
                raise AnsibleParserError(text)
            self.display.warning(f"{text} The latter goes by its own name.")
            host = view["name"]
        return f"{host}.{view['scope']}" if host in taken else host

    def _add(self, host: str, view: dict[str, t.Any], variables: dict[str, t.Any], options: dict[str, t.Any]) -> None:
        self.inventory.add_host(host, group=GROUP)
        for group in self._groups_of(view):
            self.inventory.add_child(self._group(group), host)
        # Not set_variable: it notes for each text from which file it came, which takes three times as long as all else
        # here together. These are plain data, which no template engine trusts.
        self.inventory.hosts[host].vars.update(variables)
        strict = options["strict"]
        if options["compose"]:
            self._set_composite_vars(options["compose"], variables, host, strict=strict)
        if options["groups"]:
            self._add_host_to_composed_groups(options["groups"], variables, host, strict=strict)
        if options["keyed_groups"]:
            self._add_host_to_keyed_groups(options["keyed_groups"], variables, host, strict=strict)

    def _group(self, name: str) -> str:
        if name not in self._made_groups:
            self._made_groups[name] = self.inventory.add_group(self._sanitize_group_name(name))
        return self._made_groups[name]

    def _groups_of(self, view: dict[str, t.Any]) -> list[str]:
        names = [f"{GROUP}_driver_{view['owner'] or view['driver']}", f"{GROUP}_state_{view['state']}"]
        if view["image"]["os"]:
            names.append(f"{GROUP}_os_{view['image']['os']}")
        if view.get("cloud"):  # a cache may be of an earlier version
            names.append(f"{GROUP}_cloud_{view['cloud']}")
        names += [f"{GROUP}_network_{network['name']}" for network in view["networks"]]
        for tag, value in view["tags"].items():
            plain = value is None or isinstance(value, (dict, list)) or value == ""
            names.append(f"{GROUP}_tag_{tag}" if plain else f"{GROUP}_tag_{tag}_{value}")
        return names

    def _wanted(self, filters: list[dict[str, t.Any]], variables: dict[str, t.Any], name: str) -> bool:
        for entry in filters:
            action, condition = next(iter(entry.items()))
            self.templar.available_variables = variables
            try:
                holds = condition if isinstance(condition, bool) else self.templar.evaluate_conditional(condition)
            except Exception as exc:
                text = f"filters: the condition {condition!r} cannot be decided for {name}: {to_native(exc)}"
                if self.get_option("strict"):
                    raise AnsibleParserError(text) from exc
                self.display.warning(f"{text} It counts as not met.")
                continue
            if holds:
                return action == "include"
        return True

    def _host_name(self, hostnames: list[str], variables: dict[str, t.Any], name: str, strict: bool) -> str:
        for expression in hostnames:
            try:
                found = self._compose(expression, variables)
            except Exception as exc:
                if strict:
                    raise AnsibleParserError(f"hostnames: {expression!r} fails for {name}: {to_native(exc)}") from exc
                continue
            if found:
                return str(found)
        return name


def _by_name(view: dict[str, t.Any], data_dir: str | None) -> dict[str, t.Any]:
    """The variables that have Ansible find an instance by its name."""
    variables = {
        "ansible_connection": "minicloud.local.instance",
        "ansible_minicloud_instance": view["name"],
        "ansible_minicloud_driver": view["owner"] or view["driver"],
        "ansible_minicloud_data_dir": DataDirectory(data_dir).path,
    }
    return {**variables, **({"ansible_user": view["user"]} if view["user"] else {})}


def _check_filters(filters: list[dict[str, t.Any]]) -> None:
    for entry in filters:
        if len(entry) != 1 or next(iter(entry)) not in ("include", "exclude"):
            raise AnsibleParserError(f"filters: the entry {entry!r} must have include or exclude, and only that.")
