# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""The seed of an instance: the files that cloud-init's NoCloud data source reads.

What the user gave goes where they said. What this collection needs goes where user-data cannot break it by accident:
login keys into meta-data, whose keys the default user gets whatever user-data says, and everything else into
vendor-data, which user-data overrides key by key.
"""

from __future__ import annotations

import json
import re
import secrets
import shlex
import struct
import time
import typing as t
import uuid

from ansible_collections.minicloud.local.plugins.module_utils._errors import HostError, InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._guest.cloud_config import (
    MIME,
    CloudConfig,
    Settings,
    to_bytes,
    to_json,
)
from ansible_collections.minicloud.local.plugins.module_utils._guest.keys import HostKey
from ansible_collections.minicloud.local.plugins.module_utils._model import Nic
from ansible_collections.minicloud.local.plugins.module_utils._options import TRUE_WORDS

VOLUME_ID = "cidata"
# Bytes, far above what cloud-init is given.
_LARGEST_SEED = 64 << 20

_BOUNDARY = "===============minicloud-vendor-data=="
_SSH_KEYS = re.compile(r"""^\s*["']?ssh_keys["']?\s*:""", re.MULTILINE)
_PUBLIC_KEY = re.compile(r"""_public["']?\s*:\s*["'|>-]*\s*((?:ssh|ecdsa)-[\w-]+ [A-Za-z0-9+/=]{40,})""")
_NOT_WAITED = " An instance that nobody is to log in to is launched with wait: false."
_SHELLS_WITHOUT_LOGIN = ("/nologin", "/false")


class Login(t.NamedTuple):
    """Whom to log in as.

    user -- the name; empty: the image's own default user, whose name is the image's affair
    listed -- user-data lists its users without the default one, so that the login keys reach this one by a script
    """

    user: str
    listed: bool = False


class GivenHostKeys(t.NamedTuple):
    """Host keys that the user gave as ssh_keys.

    public -- type and base64; private -- PEM text of those whose public half was not given
    """

    public: list[str]
    private: list[str]


class SeedOptions(t.NamedTuple):
    """The options of an instance that go into its seed.

    known_user -- a login user that is on its disk already, who stays the one unless the other options name another
    cloned -- whether its disk is that of another instance, with whose identity it must not go on
    """

    user: str = ""
    ssh_authorized_keys: t.Sequence[str] = ()
    cloud_init: CloudConfig = CloudConfig()
    vendor_data: CloudConfig = CloudConfig()
    network_config: Settings = Settings()
    meta_data: Settings = Settings()
    known_user: str = ""
    cloned: bool = False


def check_seed_options(options: SeedOptions) -> None:
    """Raise InvalidOption for what cloud-init would not understand, or what would lock everybody out."""
    for document in (options.cloud_init, options.vendor_data, options.network_config, options.meta_data):
        document.check()
    # It goes into one file with ours, so it has to be read.
    dummy = options.meta_data.mapping
    expected_login_user(options)
    vendor = options.cloud_init.config.get("vendor_data")
    if isinstance(vendor, dict) and vendor.get("enabled", True) in (False, "false", "no", "off"):
        if given_host_keys(options) is None or options.user or options.vendor_data:
            raise InvalidOption(
                "cloud_init turns vendor data off",
                "that is how the instance gets its host key, the name of its login user and vendor_data",
                "Leave vendor_data out of cloud_init, or give ssh_keys there and neither user nor vendor_data here.",
            )


def expected_login_user(options: SeedOptions) -> Login | None:
    """Whom one can log in as once cloud-init has run; None if user-data makes no user for that.

    It is the default user – named by the option user, else by user-data (user, system_info), else by the image – unless
    user-data has users without default. Then it is the one that the option user names, else the first listed that has
    keys of its own, else the first that could log in at all.
    Raises InvalidOption if the option and user-data name different default users.
    """
    config = _config(options)
    named = config.get("user")
    named = named.get("name") if isinstance(named, dict) else named
    default_user = _inner(_inner(config, "system_info"), "default_user").get("name")
    default_user = named or default_user
    if options.user and default_user and options.user != default_user:
        raise InvalidOption(
            f"user is {options.user}, and cloud_init names the default user {default_user}",
            hint="Give the same name in both, or leave one of them out.",
        )
    if _keeps_user(options):
        return Login(options.known_user, listed=True)
    users = _listed_users(config.get("users", "default"))
    if named or any(user["name"] == "default" for user in users):
        return Login(options.user or str(default_user or ""))
    if options.user:
        return Login(options.user, listed=True)
    able = [user for user in users if _can_log_in(user)]
    able.sort(key=lambda user: not any(user.get(key) for key in ("ssh_authorized_keys", "ssh_import_id")))
    return Login(able[0]["name"], listed=True) if able else None


def _keeps_user(options: SeedOptions) -> bool:
    """Whether one logs in as the user whom the disk has already."""
    config = _config(options)
    default_user = _inner(_inner(config, "system_info"), "default_user").get("name")
    names = options.user or default_user or config.get("user") or "users" in config
    return bool(options.known_user) and not names


def check_login(options: SeedOptions) -> None:
    """Raise InvalidOption for user-data after which nobody can log in, as far as this host can tell.

    To be asked where that is to be waited for.
    """
    login = expected_login_user(options)
    if login is None:
        raise InvalidOption(
            "cloud_init makes no user who could log in",
            "its users are none, or have no shell for that, and the default user is not among them",
            f"Add default to users, or a user with a shell, or name one in the option user.{_NOT_WAITED}",
        )
    config = _config(options)
    who = login.user or "the default user"
    if not login.listed and not _is_true(config.get("allow_public_ssh_keys", True)):
        raise InvalidOption(
            "cloud_init has allow_public_ssh_keys: false",
            f"so {who} is given no key, not even the one that this host logs in with",
            f"Leave it out.{_NOT_WAITED}",
        )
    if _expires(config, login):
        raise InvalidOption(
            f"cloud_init gives {who} a password that expires at once",
            "nobody can log in then without setting another one, with a key neither",
            f"Add chpasswd with expire: false.{_NOT_WAITED}",
        )
    for entry in _entries(config, login):
        why = _obstacle(entry)
        if why:
            raise InvalidOption(
                f"cloud_init lets nobody log in as {who}",
                why,
                f"Correct that, or name another login user in the option user.{_NOT_WAITED}",
            )


def goes_down(options: SeedOptions) -> bool:
    """Whether user-data has the instance shut itself down once cloud-init has finished."""
    return str(_inner(_config(options), "power_state").get("mode", "")).lower() in ("poweroff", "halt")


def given_host_keys(options: SeedOptions) -> GivenHostKeys | None:
    """The host keys that the user's own cloud-config brings, which are then the ones to pin; None if it brings none."""
    given: dict[str, t.Any] = {}
    unread: list[str] = []
    for document in (options.vendor_data, options.cloud_init):
        keys = document.config.get("ssh_keys")
        if isinstance(keys, dict):
            # YAML has numbers as keys, too.
            given.update((str(name), key) for name, key in keys.items())
        elif isinstance(document.value, str) and not document.config and _SSH_KEYS.search(document.value):
            unread.append(document.value)
    if not given and not unread:
        return None
    public = [key for text in unread for key in _PUBLIC_KEY.findall(text)]
    private = []
    for name, key in sorted(given.items()):
        kind, dummy, half = name.rpartition("_")
        if half == "public":
            public.append(" ".join(str(key).split()[:2]))
        elif half == "private" and f"{kind}_public" not in given:
            private.append(str(key))
    return GivenHostKeys(public, private)


def seed_files(
    name: str,
    instance_id: str,
    login_keys: t.Sequence[str],
    host_keys: t.Sequence[HostKey],
    options: SeedOptions,
    nics: t.Sequence[Nic] | None = None,
    named: bool = False,
) -> dict[str, bytes]:
    """The seed's files by name: meta-data, user-data, vendor-data and, unless the NICs are unknown, network-config.

    name -- becomes the host name; instance_id -- a new one makes cloud-init run its first boot again
    login_keys -- public keys of this host that may log in, besides the user's ssh_authorized_keys
    host_keys -- the server keys made for the instance; the user's own ssh_keys, if any, replace them
    named -- as of network_config
    The seed holds private host keys: keep what is made of it readable to its owner alone.
    """
    check_seed_options(options)
    keys = _unique([*login_keys, *options.ssh_authorized_keys])
    files = {
        "meta-data": _meta_data(name, instance_id, keys, options.meta_data),
        "user-data": to_bytes(options.cloud_init.value),
        "vendor-data": _vendor_data(keys, host_keys, options),
    }
    if options.network_config:
        given = options.network_config.value
        text = given if isinstance(given, str) else to_json(given)
        files["network-config"] = text.encode()
    elif nics is not None:
        files["network-config"] = to_json(network_config(nics, named)).encode()
    return files


def network_config(nics: t.Sequence[Nic], named: bool = False) -> dict[str, t.Any]:
    """Cloud-init's network configuration, version 2: DHCP on each NIC in mode auto, found by its MAC address.

    named -- the NICs are called eth0, eth1 … in the guest, and found by that: those of a container have no permanent
    MAC address, which is the one that netplan looks for
    Interfaces keep the names that the guest gives them. IPv6 is left to router advertisements: asking for DHCPv6
    makes some guests wait a minute for a server that is not there.
    """
    ethernets: dict[str, t.Any] = {}
    for index, nic in enumerate(nics):
        if nic.mode != "auto":
            continue
        entry: dict[str, t.Any] = {} if named else {"match": {"macaddress": nic.mac.lower()}}
        entry.update({"dhcp4": True, "dhcp-identifier": "mac"})
        # Names of the network are found without its domain, too.
        entry["dhcp4-overrides"] = {"use-domains": True}
        if len(nics) > 1:
            # The first network has the default route.
            entry["dhcp4-overrides"]["route-metric"] = 100 * (len(ethernets) + 1)
        if ethernets:
            entry["optional"] = True
        ethernets[f"eth{index}"] = entry
    return {"version": 2, "ethernets": ethernets} if ethernets else {"config": "disabled"}


def _meta_data(name: str, instance_id: str, keys: list[str], given: Settings) -> bytes:
    theirs = given.mapping
    data = {"instance-id": instance_id, "local-hostname": name, **theirs}
    data["public-keys"] = _unique([*keys, *_public_keys(theirs.get("public-keys"))])
    return f"{to_json(data)}\n".encode()


def read_seed(path: str, name: str) -> dict[str, bytes]:
    """The files in the seed of the instance NAME; HostError where there is none, or it is damaged."""
    from ansible_collections.minicloud.local.plugins.module_utils._files import explained, read_file
    from ansible_collections.minicloud.local.plugins.module_utils._guest.iso9660 import iso_files

    doing = f"the seed of {name} could not be read"
    with explained(doing):
        image = read_file(path, _LARGEST_SEED)
    try:
        files = iso_files(image)
        json.loads(files["meta-data"])
    except (ValueError, LookupError, struct.error) as exc:
        raise HostError(doing, f"{path} is damaged", "Make the instance anew (recreate: true), or restore it.") from exc
    return files


def renamed(meta_data: bytes, before: str, name: str) -> bytes:
    """Meta-data of seed_files() with another host name, unless the user had given one of their own."""
    data = json.loads(meta_data)
    if data.get("local-hostname") == before:
        data["local-hostname"] = name
    return f"{to_json(data)}\n".encode()


def _public_keys(value: t.Any) -> list[str]:
    """The keys in any form that cloud-init takes: lines, a list, or a mapping of either."""
    if isinstance(value, str):
        return value.splitlines()
    if isinstance(value, dict):
        return [key for keys in value.values() for key in _public_keys(keys)]
    return [str(key) for key in value] if isinstance(value, list) else []


def _unique(keys: t.Iterable[str]) -> list[str]:
    return list(dict.fromkeys(key.strip() for key in keys if key.strip()))


def _vendor_data(keys: list[str], host_keys: t.Sequence[HostKey], options: SeedOptions) -> bytes:
    """Ours first and the user's after it: of two cloud-configs in one message the later one's keys win."""
    login = expected_login_user(options)
    ours: dict[str, t.Any] = {
        "growpart": {"mode": "auto", "devices": ["/"]},
        # The instance knows its own name without asking a name server, which sudo does at each call.
        "manage_etc_hosts": "localhost",
    }
    if host_keys and given_host_keys(options) is None:
        ours["ssh_deletekeys"] = True
        ours["ssh_keys"] = {}
        for key in host_keys:
            ours["ssh_keys"].update({f"{key.kind}_private": key.private, f"{key.kind}_public": key.public})
    if options.user:
        ours["system_info"] = {"default_user": {"name": options.user}}
    if login and login.user == "root":
        ours["disable_root"] = False
    if _keeps_user(options):
        # The image's own may be one that this disk does not have.
        ours["users"] = []
    parts = [to_bytes(ours)]
    if options.cloned:
        parts.append(_identity_script())
    if login and login.listed and keys:
        parts.append(_authorize_script(login.user, keys))
    if not options.vendor_data and len(parts) == 1:
        return parts[0]
    message = [_mime_part(part) for part in parts]
    if options.vendor_data.form == MIME:
        message.append(to_bytes(options.vendor_data.value))  # a message is a part already, whatever is in it
    elif options.vendor_data:
        message.append(_mime_part(to_bytes(options.vendor_data.value)))
    head = f'Content-Type: multipart/mixed; boundary="{_BOUNDARY}"\nMIME-Version: 1.0\n'.encode()
    boundary = f"\n--{_BOUNDARY}".encode()
    return head + b"".join(boundary + b"\n" + part for part in message) + boundary + b"--\n"


def _mime_part(content: bytes) -> bytes:
    """A part whose kind cloud-init finds by its beginning; base64 keeps each byte as it is."""
    import base64

    head = b'Content-Type: text/plain; charset="utf-8"\nContent-Transfer-Encoding: base64\n\n'
    return head + base64.encodebytes(content)


def _authorize_script(user: str, keys: list[str]) -> bytes:
    """Gives the login keys to a listed user: cloud-init itself gives them to the default user only."""
    return f"""#!/bin/sh
# minicloud.local: user-data has users without "default"; let this host log in as one of them all the same.
user={shlex.quote(user)}
home=$(awk -F: -v user="$user" '$1 == user {{ print $6 }}' /etc/passwd)
[ -n "$home" ] || exit 0
umask 077
mkdir -p "$home/.ssh" || exit 0
file=$home/.ssh/authorized_keys
touch "$file"
while read -r key; do
    grep -qxF -e "$key" "$file" || printf '%s\\n' "$key" >>"$file"
done <<'KEYS'
{chr(10).join(keys)}
KEYS
chown "$user:" "$home/.ssh" "$file"
if command -v restorecon >/dev/null; then restorecon -R "$home/.ssh"; fi
exit 0
""".encode()


def _identity_script() -> bytes:
    """Has a clone be a machine of its own, early in its first boot.

    The kernel's random numbers are to be others than those of whatever else was made from the same disk.
    """
    return f"""#cloud-boothook
#!/bin/sh
# minicloud.local: this disk was cloned; from now on it is one of a machine of its own.
mark=/var/lib/cloud/instance/minicloud-identity
[ ! -e $mark ] || exit 0
echo {secrets.token_hex(64)} >/dev/urandom
rm -f /var/lib/systemd/random-seed
if [ -e /etc/machine-id ]; then
    echo {uuid.uuid4().hex} >/etc/machine-id
    if [ -f /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ]; then
        cat /etc/machine-id >/var/lib/dbus/machine-id
    fi
    # It keeps its journal below that name.
    if [ -d /run/systemd/system ]; then systemctl --no-block try-restart systemd-journald; fi
fi
: >$mark
exit 0
""".encode()


def _config(options: SeedOptions) -> dict[str, t.Any]:
    """The cloud-config of an instance, as far as this host can tell."""
    return {**options.vendor_data.config, **options.cloud_init.config}


def _is_true(value: t.Any) -> bool:
    """Whether cloud-init takes a value for true."""
    return value is True or str(value).strip().lower() in TRUE_WORDS


def _expires(config: t.Mapping[str, t.Any], login: Login) -> bool:
    """Whether the login user gets a password that has expired when it is set."""
    settings = _inner(config, "chpasswd")
    if not _is_true(settings.get("expire", True)):
        return False
    if config.get("password") and not login.listed:
        return True
    lines, users = settings.get("list"), settings.get("users")
    lines = lines.splitlines() if isinstance(lines, str) else lines if isinstance(lines, list) else []
    named = {str(line).partition(":")[0].strip() for line in lines}
    named.update(str(user.get("name")) for user in (users if isinstance(users, list) else []) if isinstance(user, dict))
    return bool(login.user) and login.user in named


def _entries(config: t.Mapping[str, t.Any], login: Login) -> list[dict[str, t.Any]]:
    """What the cloud-config says of the login user."""
    found = [user for user in _listed_users(config.get("users", "default")) if user["name"] == login.user]
    if not login.listed:
        found += [_inner(_inner(config, "system_info"), "default_user"), _inner(config, "user")]
    return found


def _obstacle(entry: t.Mapping[str, t.Any]) -> str:
    """What keeps a user with these settings from logging in, empty for nothing."""
    shell = str(entry.get("shell", ""))
    if shell.endswith(_SHELLS_WITHOUT_LOGIN):
        return f"the shell is {shell}"
    if entry.get("inactive") is True:
        return "the account is inactive"
    date = str(entry.get("expiredate") or "")
    if re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z", date) and date < time.strftime("%Y-%m-%d", time.gmtime()):
        return f"the account has expired ({date})"
    return ""


def _inner(config: t.Mapping[str, t.Any], key: str) -> dict[str, t.Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _listed_users(users: t.Any) -> list[dict[str, t.Any]]:
    """The users in any form that cloud-init takes, each as a mapping with its name."""
    if isinstance(users, str):
        return [{"name": name.strip()} for name in users.split(",") if name.strip()]
    if isinstance(users, dict):
        users = [
            {**value, "name": name} if isinstance(value, dict) else str(name) for name, value in users.items() if value
        ]
    found = []
    for user in users if isinstance(users, list) else []:
        if isinstance(user, dict):
            plain = {str(key).replace("-", "_"): value for key, value in user.items()}
            found.append({**plain, "name": str(plain.get("name") or plain.get("snapuser") or "default")})
        else:
            for name in user if isinstance(user, list) else [user]:
                found.extend(_listed_users(str(name)))
    return found


def _can_log_in(user: t.Mapping[str, t.Any]) -> bool:
    shell = str(user.get("shell", ""))
    return not (user.get("system") or user.get("inactive") or shell.endswith(_SHELLS_WITHOUT_LOGIN))
