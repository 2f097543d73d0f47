# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""What a task asks of an instance: its options, read once and turned into things that know what they are."""

from __future__ import annotations

import re
import typing as t
from dataclasses import field

from ansible_collections.minicloud.local.plugins.module_utils._dataclass import dataclass
from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import Reference, parse_reference
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    DEFAULT_IMAGE,
    MAX_CPUS,
    MAX_SIZE,
    MIB,
    MIN_DISK,
    MIN_MEMORY,
    RUNNING,
    Instance,
    Mount,
    Nic,
    PortForward,
    check_name,
    check_timeout,
    key_of,
    likely_size,
    normal_arch,
    parse_port,
    parse_size,
    ports_exclude,
)

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._guest.cloud_config import CloudConfig, Settings
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile.source import Source

# Options that are taken as they come.
_PLAIN = (
    "state", "image_hosts", "instance_type", "user", "autostart", "tags", "allow_restart", "wait", "timeout",
    "cloud_init_errors", "recreate", "force", "source_copy",
)  # fmt: skip

LOGIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\Z")


@dataclass
class Wish:
    """What a task asks of an instance; None where it has no opinion. Sizes in bytes.

    image -- as the task names it, with the password that a URL may have; as text it is the name that is kept
    image_checksum -- as of parse_checksum()
    source -- what a new instance is made from instead of an image; source_copy -- linked or full
    cloud -- that the instance is to be a part of, or to be a part of already; empty where that does not matter
    coming -- networks that are made before the instance is; going -- instances that are removed before; both by what
        names are compared by
    expected -- instances that are made or changed before, as each will be and in which state, by what names are
        compared by
    deleted_before -- where it is not empty, only an instance that is deleted since an earlier time is dealt with
    bridged -- one more interface, besides those of networks or those that the instance has
    mounts -- all that it is to have; mount -- one besides those that it has; unmount -- the targets of some to go
    ssh_authorized_keys, cloud_init, vendor_data, network_config, meta_data -- None also where nothing is in them
    origin -- fingerprints of the options that only count when an instance is made, by option
    """

    name: str
    state: str = RUNNING
    new_name: str = ""
    deleted_before: str = ""
    cloud: str = ""
    coming: frozenset[str] = frozenset()
    going: frozenset[str] = frozenset()
    expected: dict[str, tuple[Instance, str]] = field(default_factory=dict)
    image: Reference | None = None
    image_checksum: str | None = None
    image_hosts: dict[str, t.Any] | None = None
    source: Source | None = None
    source_copy: str | None = None
    cpus: int | None = None
    memory: int | None = None
    disk: int | None = None
    instance_type: str | None = None
    arch: str | None = None
    user: str | None = None
    autostart: bool | None = None
    tags: dict[str, t.Any] | None = None
    ports: list[PortForward] | None = None
    networks: list[Nic] | None = None
    bridged: Nic | None = None
    mounts: list[Mount] | None = None
    mount: Mount | None = None
    unmount: tuple[str, ...] = ()
    ssh_authorized_keys: list[str] | None = None
    cloud_init: CloudConfig | None = None
    vendor_data: CloudConfig | None = None
    network_config: Settings | None = None
    meta_data: Settings | None = None
    allow_restart: bool = False
    wait: bool = True
    timeout: float = 300
    cloud_init_errors: str = "fail"
    recreate: bool = False
    force: bool = False
    origin: dict[str, str] = field(default_factory=dict)

    @property
    def wants_running(self) -> bool:
        """Whether the instance is to run in the end."""
        return self.state in (RUNNING, "restarted")

    @property
    def reference(self) -> Reference:
        """The image that a new instance is made from."""
        return self.image or parse_reference(DEFAULT_IMAGE)


def parse_wish(params: t.Mapping[str, t.Any]) -> Wish:
    """A wish from a task's options. InvalidOption where one of them cannot be meant."""
    if params.get("name") is None:
        raise InvalidOption(
            "name is missing", hint="Name the instance; or use purge_older_than with state: absent for deleted ones."
        )
    wish = Wish(name=check_name(params["name"]))
    if params.get("new_name") is not None:
        wish.new_name = check_name(params["new_name"], "new_name")
        if params.get("state") in ("absent", "deleted"):
            raise InvalidOption(
                f"new_name does not go with state: {params['state']}",
                hint="Rename it, or remove it by the name that it has.",
            )
        if key_of(wish.new_name) == key_of(wish.name):
            raise InvalidOption(
                f"new_name {wish.new_name!r} is the name that it has",
                "names are compared without case",
                "Choose another, or leave it out.",
            )
    for option in _PLAIN:
        if params.get(option) is not None:
            setattr(wish, option, params[option])
    if params.get("image") is not None:
        wish.image = parse_reference(params["image"])
    if params.get("image_checksum"):
        from ansible_collections.minicloud.local.plugins.module_utils._images.checksum import parse_checksum

        parse_checksum(params["image_checksum"])
        wish.image_checksum = params["image_checksum"]
    _parse_source(wish, params)
    if wish.user is not None and not LOGIN_NAME.match(wish.user):
        raise InvalidOption(
            f"user {wish.user!r} is not a login name",
            hint="It begins with a letter or _, goes on with letters, digits, _, - and ., and has at most 32 in all.",
        )
    if params.get("arch"):
        wish.arch = normal_arch(params["arch"])
    check_timeout(wish.timeout)
    parse_sizes(wish, params)
    _parse_interfaces(wish, params)
    if params.get("mounts") is not None:
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.mounts import parse_mounts

        wish.mounts = parse_mounts(params["mounts"])
    _parse_documents(wish, params)
    return wish


def _parse_source(wish: Wish, params: t.Mapping[str, t.Any]) -> None:
    if params.get("source") is None:
        for option in ("source_copy", "source_root"):
            if params.get(option) is not None:
                raise InvalidOption(f"{option} goes with source only", hint="Leave it out, or give source too.")
        return
    for option in ("image", "image_checksum"):
        if params.get(option):
            raise InvalidOption(
                f"source and {option} exclude each other",
                "an instance is made either from an image or from what source names",
                "Leave one of them out.",
            )
    from ansible_collections.minicloud.local.plugins.module_utils._reconcile.source import parse_source

    wish.source = parse_source(str(params["source"]), params.get("source_root"))


def parse_sizes(wish: Wish, params: t.Mapping[str, t.Any]) -> None:
    """Have a wish ask for the cpus, memory and disk that a task's options name. InvalidOption"""
    for option, least in (("memory", MIN_MEMORY), ("disk", MIN_DISK)):
        if params.get(option) is not None:
            size = parse_size(params[option], option)
            if size < least:
                hint = f"The least is {least >> 20}M."
                raise InvalidOption(
                    f"{option} {params[option]!r} is too small", hint=f"{hint} {likely_size(params[option])}".strip()
                )
            if size > MAX_SIZE:
                raise InvalidOption(f"{option} {params[option]!r} is too much", hint=f"The most is {MAX_SIZE >> 40}T.")
            # A disk consists of whole sectors, and QEMU counts memory in MiB.
            setattr(wish, option, -(-size // MIB) * MIB)
    if params.get("cpus") is not None:
        wish.cpus = params["cpus"]
        if params["cpus"] < 1:
            raise InvalidOption(f"cpus {params['cpus']} is too few", hint="An instance needs at least 1.")
        if params["cpus"] > MAX_CPUS:
            raise InvalidOption("cpus is too many", hint=f"The most is {MAX_CPUS}.")


def _parse_interfaces(wish: Wish, params: t.Mapping[str, t.Any]) -> None:
    if params.get("ports") is not None:
        wish.ports = [parse_port(port) for port in params["ports"]]
        _check_ports(wish.ports)
    if params.get("networks") or params.get("bridged"):
        from ansible_collections.minicloud.local.plugins.module_utils._reconcile.nics import parse_nics

        if params.get("networks"):
            wish.networks = parse_nics(params["networks"])
        if params.get("bridged"):
            (wish.bridged,) = parse_nics([{"bridged": params["bridged"]}])


def _check_ports(ports: t.Sequence[PortForward]) -> None:
    given = [port for port in ports if port.host_port]
    for number, port in enumerate(given):
        for other in given[:number]:
            if ports_exclude(port, other):
                raise InvalidOption(
                    f"ports has the host port {port.host_port}/{port.protocol} twice",
                    f"{other} and {port} exclude each other",
                    "Remove one, or give it another host port.",
                )


def _parse_documents(wish: Wish, params: t.Mapping[str, t.Any]) -> None:
    """The options that cloud-init gets, where there is anything in them."""
    options = ("cloud_init", "vendor_data", "network_config", "meta_data", "ssh_authorized_keys")
    if all(params.get(option) is None for option in options):
        return
    from ansible_collections.minicloud.local.plugins.module_utils._guest.cloud_config import (
        CloudConfig,
        Settings,
        fingerprint,
    )

    given: dict[str, CloudConfig | Settings] = {
        "cloud_init": CloudConfig(params.get("cloud_init"), "cloud_init"),
        "vendor_data": CloudConfig(params.get("vendor_data"), "vendor_data"),
        "network_config": Settings(params.get("network_config"), "network_config"),
        "meta_data": Settings(params.get("meta_data"), "meta_data"),
    }
    for option, document in given.items():
        if document:
            setattr(wish, option, document)
            wish.origin[option] = fingerprint(params[option])
    if params.get("ssh_authorized_keys"):
        from ansible_collections.minicloud.local.plugins.module_utils._guest.public_keys import parse_keys

        wish.ssh_authorized_keys = parse_keys(params["ssh_authorized_keys"]) or None
    if wish.ssh_authorized_keys:
        # An entry with no key in it, as a template may leave behind, makes no difference.
        with_keys = [entry for entry in params["ssh_authorized_keys"] if parse_keys([entry])]
        wish.origin["ssh_authorized_keys"] = fingerprint(with_keys)
