# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An LXD in memory, for tests of the driver: it answers as LXD 5.0 does where the driver asks, and keeps count."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import ipaddress

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.api import NotThere
from ansible_collections.minicloud.local.plugins.module_utils._errors import HypervisorError, InUse, NotFound

EXTENSIONS = ["projects", "instances", "cloud_init", "instance_get_full"]


class FakeLxd:
    """Projects, pools, networks, images and instances, and every request that changed something."""

    def __init__(self, headers="X-LXD-", **environment):
        self.headers = headers
        self.server = {
            "auth": "trusted",
            "api_extensions": EXTENSIONS,
            "environment": {
                "server_version": "5.0.2",
                "architectures": ["x86_64", "i686"],
                "driver": "lxc",
                "server_clustered": False,
                "storage_supported_drivers": [{"Name": "btrfs"}, {"Name": "dir"}],
                **environment,
            },
        }
        self.members = {}
        self.profile = None
        self.objects = {
            "projects": {},
            "storage-pools": {},
            "networks": {},
            "network-acls": {},
            "images": {},
            "instances": {},
        }
        self.running = []
        self.changes = []
        self.asked = []
        self.refused = {}  # what fails, by method and path, with the reason
        self.addresses = {}

    # -- asked by api.py

    def get(self, path, **query):
        # Bridges are the default project's, which is there before ours.
        everywhere = {"project": "", "all-projects": "true"}
        assert (query.get("project") == "default") == path.startswith("network")
        assert query.get("project", "default") == "default" or everywhere.items() <= query.items()
        self.asked.append(f"{path}?recursion={query['recursion']}" if "recursion" in query else path)
        try:
            found = copy.deepcopy(self._look(path, bool(query.get("recursion"))))
        except NotFound as exc:
            raise NotThere(str(exc)) from exc
        if (path, query.get("recursion")) == ("instances", "1"):
            found = [{key: value for key, value in each.items() if key != "state"} for each in found]
        return found

    def text(self, path):
        warning = b"lxc web 20261127212753.587 WARN     cgfsng - cgfsng.c:fchowmodat:1619 - No such file or directory\n"
        told = {"instances/web/console": b"login: ", "instances/web/logs/lxc.log": warning + b"lxc said no\n" + warning}
        return told.get(path, b"")

    @contextlib.contextmanager
    def download(self, path):
        assert path == "images/made/export" and "made" in self.objects["images"]
        yield 4, iter([b"ro", b"ot"])

    def _look(self, path, recursion):
        kind, dummy, name = path.partition("/")
        if not kind:
            return self.server
        if kind == "profiles":
            if self.profile is None:
                raise NotFound("Project not found")
            return self.profile
        if kind == "operations":
            return {"running": self.running} if not name else self.running.pop()
        if kind == "cluster":
            member = name.partition("/")[2]
            return (
                {"url": self.members[member]} if member else [f"/1.0/cluster/members/{each}" for each in self.members]
            )
        found = self.objects[kind]
        if not name:
            return [{"name": each, **value} for each, value in found.items()]
        if kind == "networks" and name.endswith("/state"):
            interfaces = map(ipaddress.ip_interface, found[name.partition("/")[0]].get("addresses", ()))
            fields = [(str(each.ip), str(each.network.prefixlen)) for each in interfaces]
            return {"addresses": [{"family": "inet", "address": ip, "netmask": mask} for ip, mask in fields]}
        if kind == "instances" and name.endswith("/state"):
            return found[name.partition("/")[0]]["state"]
        if name not in found:
            raise NotFound(f"no {path}")
        return found[name]

    # -- called by client.py

    def call(self, method, path, doing, json=None, query=None, project=None, **kwargs):
        for known, reason in self.refused.items():
            if f"{method} {path}".startswith(known):
                raise reason if isinstance(reason, Exception) else HypervisorError(doing, reason)
        if method == "get":
            return copy.deepcopy(self._look(path, True))
        assert (project == "") == path.startswith(("network", "projects", "storage-pools", "cluster"))
        self.changes.append(" ".join(filter(None, [method, path, (query or {}).get("target", "")])))
        return getattr(self, f"_{method}")(path, copy.deepcopy(json), query or {}, doing, kwargs)

    def _post(self, path, body, query, doing, kwargs):
        if path == "images" and body:
            assert self.objects["instances"][body["source"]["name"]]["status"] == "Stopped"
            self.objects["images"]["made"] = {"fingerprint": "made", "properties": body["properties"]}
            return {"metadata": {"fingerprint": "made"}}
        if path == "images":
            data = kwargs["data"].read()
            fingerprint = hashlib.sha256(data).hexdigest()
            pairs = dict(pair.split("=", 1) for pair in kwargs["headers"][f"{self.headers}properties"].split("&"))
            properties = {key: value.replace("%2F", "/") for key, value in pairs.items()}
            self.objects["images"][fingerprint] = {"fingerprint": fingerprint, "properties": properties}
            return {"metadata": {"fingerprint": fingerprint}}
        kind, dummy, before = path.partition("/")
        if before:
            assert self.objects[kind][before]["status"] == "Stopped"
            self.objects[kind][body["name"]] = self.objects[kind].pop(before)
            return None
        name, found = body["name"], self.objects[path]
        pending = found.get(name, {}).get("status") == "Pending"
        clustered = self.server["environment"]["server_clustered"]
        if name in found and not (pending and clustered and "target" not in query):
            raise InUse(doing, "already exists")
        found[name] = {**body, "status": "Pending" if "target" in query and path != "instances" else "Created"}
        if path == "projects":
            self.profile = {"config": {}, "description": "", "devices": {}}
        if path == "instances" and body["source"]["type"] == "copy":
            self._copy(found[name], body["source"])
        elif path == "instances":
            assert body["source"]["fingerprint"] in self.objects["images"]
            found[name].update(status="Stopped", location=query.get("target", "none"), architecture="x86_64")
        return None

    def _copy(self, made, source):
        """What a copy has that was not asked for: what the other one has, but for what is volatile."""
        name, dummy, snapshot = source["source"].partition("/")
        theirs = self.objects["instances"][name]
        assert snapshot in ("", *theirs.get("snapshots", ()))
        config = {key: value for key, value in theirs["config"].items() if not key.startswith("volatile.")}
        made.update(
            config={**config, "volatile.uuid": "new", **made["config"]},
            devices={**copy.deepcopy(theirs["devices"]), **made["devices"]},
            status="Stopped",
            location=theirs["location"],
            architecture=theirs["architecture"],
        )

    def _put(self, path, body, query, doing, kwargs):
        kind, name, *rest = path.split("/")
        if kind == "profiles":
            self.profile = body
        elif rest == ["state"]:
            entry = self.objects[kind][name]
            states = {"start": "Running", "stop": "Stopped", "unfreeze": "Running", "freeze": "Frozen"}
            entry["status"] = states[body["action"]]
            self.changes[-1] += f" {body['action']}{' by force' if body['force'] else ''}"
        else:
            self._look(path, False)
            self.objects[kind][name].update(body)

    def _delete(self, path, body, query, doing, kwargs):
        kind, name = path.split("/")
        entry = self.objects[kind].pop(name)
        assert entry.get("status") not in ("Running", "Frozen")
