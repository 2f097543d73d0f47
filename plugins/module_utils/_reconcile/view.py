# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""An instance as users see it: in results of modules and in the inventory."""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._drivers.contract import Driver
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import SshAccess, common_args, login_command
from ansible_collections.minicloud.local.plugins.module_utils._model import DELETED, STOPPED, Instance, Observed
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.access import ssh_access
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory


def connection_vars(access: SshAccess) -> dict[str, t.Any]:
    """The variables that make an instance an Ansible host. A user that is not known yet is left to the controller.

    The connection is among them: a play's own may be another, such as local, and its tasks would then run elsewhere.
    """
    variables = {
        "ansible_connection": "ssh",
        "ansible_port": access.port,
        "ansible_ssh_common_args": common_args(access),
    }
    if access.host:
        variables["ansible_host"] = access.host
    # Ansible hands this path to ssh as it is; the arguments have it too, in a form that bears all characters.
    if not set(access.key_file) & set('%"\\'):
        variables["ansible_ssh_private_key_file"] = access.key_file
    if access.user:
        variables["ansible_user"] = access.user
    return variables


def _mounts(instance: Instance, observed: Observed, driver: Driver, data: DataDirectory) -> list[dict[str, t.Any]]:
    if not instance.mounts:
        return []
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile.mounts import mount_views

    return mount_views(instance, observed.state, driver, data)


def instance_view(instance: Instance, observed: Observed, driver: Driver, data: DataDirectory) -> dict[str, t.Any]:
    """The return value `instance` of the modules."""
    access = ssh_access(instance, driver, data, observed)
    return {
        "name": instance.name,
        "state": observed.state,
        "driver": instance.driver,
        # A hypervisor that ended by itself has left its name in the record.
        "owner": instance.owner if observed.state not in (STOPPED, DELETED) else "",
        "scope": instance.scope,
        "instance_type": instance.instance_type,
        "arch": instance.arch,
        "image": {key: instance.image.get(key, "") for key in ("name", "hash", "os", "release", "version")},
        "cpus": instance.cpus,
        "memory": instance.memory,
        "disk": instance.disk,
        "addresses": list(observed.addresses),
        "networks": [
            {
                "name": nic.network,
                "mac": nic.mac,
                "mode": nic.mode,
                "address": nic.address or nic.lease,
                "addresses": list(observed.by_mac.get(nic.mac, ())),
            }
            for nic in instance.nics
        ],
        "ports": [port._asdict() for port in instance.ports],
        "mounts": _mounts(instance, observed, driver, data),
        "snapshots": _snapshots(instance, driver),
        "tags": instance.tags,
        "source": instance.source.get("name", ""),
        "source_copy": instance.source.get("copy", ""),
        "cloud": instance.cloud,
        "user": instance.user,
        "ssh": {
            "host": access.host,
            "port": access.port,
            "user": access.user,
            "key_file": access.key_file,
            "known_hosts": access.known_hosts,
            "command": login_command(access) if access.host else "",
        },
        "created": instance.created,
        "deleted": instance.deleted,
        "autostart": instance.autostart,
        "cloud_init": {
            "status": instance.cloud_init.get("status", ""),
            "errors": instance.cloud_init.get("errors", []),
        },
        "console_log": driver.console_log(instance),
        "ansible_vars": connection_vars(access),
    }


def _snapshots(instance: Instance, driver: Driver) -> list[dict[str, t.Any]]:
    """The snapshots of an instance, the oldest first; of one whose record cannot be used, snapshot_info tells."""
    whole = [each for each in driver.scope.snapshots(instance.name).all()[0] if each.phase == "ready"]
    names = {each.uuid: each.name for each in whole}
    return [
        {"name": each.name, "parent": names.get(each.parent, ""), "comment": each.comment, "created": each.created}
        for each in whole
    ]
