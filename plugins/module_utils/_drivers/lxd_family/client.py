# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Changing things at an LXD server, with the library pylxd. Looking is api.py's."""

from __future__ import annotations

import contextlib
import platform
import sys
import typing as t
from urllib.parse import quote

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.api import (
    LxdApi,
    NotThere,
    operations_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.config import Config
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InUse,
    MissingRequirement,
    NoSpace,
    NotFound,
)
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline

_ARTICLES = {"storage-pools": "the storage pool", "networks": "the network"}

# Seconds after which a pool or network that the server is making is taken for one that it has given up.
_HALF_MADE = 5.0

# How often something is asked for anew while LXD does what a killed run has asked of the same object, and what it says
# then: whether that was done or has failed, what was asked now has not begun.
_TRIES = 5
_IN_THE_WAY = "A matching non-reusable operation has now"


class LxdClient:
    """Has one LXD server do things, within one project. It has one connection for the whole run."""

    def __init__(self, api: LxdApi) -> None:
        self.api = api
        self.place = api.place
        self.product = api.place.product
        self._client: t.Any = None

    def require_library(self) -> t.Any:
        """The library pylxd; MissingRequirement where this Python has none."""
        try:
            import pylxd
        except ImportError as exc:
            raise MissingRequirement(
                f"the Python library pylxd is missing for {sys.executable} on {platform.node()}",
                f"{exc}; it is needed to make and change instances of {self.product}",
                "Install the package python3-pylxd (Debian, Ubuntu) or pylxd (pip) for that Python, or set"
                " ansible_python_interpreter to one that has it.",
                missing_library="pylxd",
            ) from exc
        return pylxd

    def call(
        self,
        method: str,
        path: str,
        doing: str,
        json: t.Any = None,
        query: t.Mapping[str, str] | None = None,
        project: str | None = None,
        **kwargs: t.Any,
    ) -> t.Any:
        """Ask LXD for something, wait until it is done, and return its metadata.

        doing -- what failed if it fails; project -- another than ours, empty for none
        NotFound where there is no such object, InUse where it is there already; else HypervisorError.
        """
        params = dict(query or {})
        project = self.place.project if project is None else project
        if project:
            params["project"] = project
        if method == "get":
            try:
                return self.api.get(path, **{"project": "default", **params})
            except NotThere as exc:
                raise NotFound(doing, exc.why) from exc
            except HypervisorError as exc:
                raise HypervisorError(doing, exc.why) from exc
        pylxd = self.require_library()
        import requests

        if json is not None:
            kwargs["json"] = json
        try:
            node = self._connected(pylxd).api
            for part in filter(None, path.split("/")):
                node = node[part]

            def ask() -> t.Any:
                body = getattr(node, method)(params=params, **kwargs).json()
                while body.get("type") == "async":
                    operation = self._connected(pylxd).api.operations[body["metadata"]["id"]]
                    body = operation.wait.get(params=params).json()
                return body

            body = _unhindered(ask, pylxd)
        except pylxd.exceptions.LXDAPIException as exc:
            raise self._error(doing, exc) from exc
        except requests.RequestException as exc:
            raise HypervisorError(doing, str(exc)) from exc
        metadata = body.get("metadata")
        if isinstance(metadata, dict) and metadata.get("err"):
            raise self._explained(doing, str(metadata["err"]))
        return metadata

    def _connected(self, pylxd: t.Any) -> t.Any:
        if self._client is None:
            place = self.place
            endpoint, options = f"http+unix://{quote(place.endpoint, safe='')}", {}
            if place.is_remote:
                if not hasattr(pylxd.client, "get_session_for_url"):
                    raise MissingRequirement(
                        f"the {self.product} server {place.endpoint} cannot be used",
                        f"the library pylxd of {sys.executable} is older than 2.3.2, and serves this host only",
                        "Install pylxd 2.3.2 or newer for that Python.",
                        missing_library="pylxd",
                    )
                verify = {"true": True, "false": False}.get(place.verify, place.verify)
                session = pylxd.client.get_session_for_url(place.endpoint, verify, (place.cert, place.key))
                # The environment may name certificates, which would count more than the one that is pinned.
                session.trust_env = False
                endpoint, options = place.endpoint.rstrip("/"), {"session": session}
            try:
                self._client = pylxd.Client(endpoint=endpoint, **options)
            except pylxd.exceptions.ClientConnectionFailed as exc:
                self.api.get("")  # which knows more of what may be wrong
                raise HypervisorError(f"{self.product} at {place.endpoint} cannot be reached", str(exc)) from exc
        return self._client

    def _error(self, doing: str, exc: t.Any) -> Exception:
        status = exc.response.status_code
        if status == 404:
            return NotFound(doing, str(exc))
        if status == 409 or (status == 400 and "already exists" in str(exc)):
            return InUse(doing, str(exc))
        return self._explained(doing, str(exc))

    def make_clustered(
        self,
        kind: str,
        name: str,
        environment: t.Mapping[str, t.Any],
        more: t.Mapping[str, str],
        config: Config,
        by_member: t.Collection[str] = (),
        project: str = "",
    ) -> None:
        """Make a pool or a network; in a cluster it is announced on each member first.

        by_member -- the keys of the configuration that each member has of its own
        """
        doing = f"{self.product} could not make {_ARTICLES[kind]} {name}"
        body: dict[str, t.Any] = {"name": name, **more}
        if environment.get("server_clustered"):
            own = {key: value for key, value in config.items() if key in by_member}
            for member in self.members():
                with contextlib.suppress(InUse):
                    self.call(
                        "post", kind, doing, json={**body, "config": own}, query={"target": member}, project=project
                    )
            config = {key: value for key, value in config.items() if key not in by_member}
        body["description"] = "Made by the Ansible collection minicloud.local"
        body["config"] = config
        try:
            self.call("post", kind, doing, json=body, project=project)
        except InUse:
            if environment.get("server_clustered") or not self._is_half_made(kind, name, project):
                raise
            # Nobody goes on with what a run that was killed has begun.
            with contextlib.suppress(NotFound):
                self.call("delete", f"{kind}/{name}", doing, project=project)
            self.call("post", kind, doing, json=body, project=project)

    def _is_half_made(self, kind: str, name: str, project: str) -> bool:
        """Whether the server has given up on making a pool or a network, or does not get on with it."""
        for dummy in Deadline(_HALF_MADE).pauses():
            try:
                there = self.call("get", f"{kind}/{name}", f"{_ARTICLES[kind]} {name} is half made", project=project)
            except NotFound:
                return True
            if there.get("status", "Created") not in ("Pending", "Errored"):
                return False
        return True

    def members(self) -> list[str]:
        """The names of the members of the cluster."""
        urls = self.call(
            "get", "cluster/members", f"the members of the {self.product} cluster could not be listed", project=""
        )
        return [url.rpartition("/")[2] for url in urls]

    def await_operations(self, name: str) -> None:
        """Wait for what a run that was killed has asked of LXD for an instance: it does that all the same."""
        doing = f"the operations of {self.product} on {name} could not be waited for"
        for identifier in operations_of(self.call("get", "operations", doing, query={"recursion": "1"}), name):
            with contextlib.suppress(HypervisorError, NotFound):
                self.call("get", f"operations/{identifier}/wait", doing)

    def _explained(self, doing: str, why: str) -> HypervisorError | NoSpace:
        if "no space left on device" in why.lower() or "disk quota exceeded" in why.lower():
            return NoSpace(
                doing,
                why,
                f"Free some space in the storage pool of {self.product}: {self.product.client} storage info.",
            )
        return HypervisorError(doing, why)


def _unhindered(ask: t.Callable[[], t.Any], pylxd: t.Any) -> t.Any:
    """What LXD answers in the end; it is asked again where what a killed run has begun was in the way."""
    for dummy in range(_TRIES - 1):
        try:
            body = ask()
        except pylxd.exceptions.LXDAPIException as exc:
            if _IN_THE_WAY not in str(exc):
                raise
            continue
        metadata = body.get("metadata")
        if not (isinstance(metadata, dict) and _IN_THE_WAY in str(metadata.get("err"))):
            return body
    return ask()
