# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Having a guest ask for its address anew: by ssh, of whatever looks after the interface there."""

from __future__ import annotations

import shlex

from ansible_collections.minicloud.local.plugins.module_utils._errors import CommandFailed
from ansible_collections.minicloud.local.plugins.module_utils._guest.ssh import SshAccess, ssh_argv
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime

# Seconds, and bytes of what the guest may say.
_CONNECT_TIMEOUT, _TIMEOUT, _OUTPUT = 20.0, 60.0, 1 << 16

# The programs that can manage an interface in a guest, as the script below names them.
_CLIENTS = ("systemd-networkd", "NetworkManager", "udhcpc", "dhclient", "dhcpcd")

# Runs in the guest, as root, in any POSIX shell. $1 is the interface's MAC, $2 the address that it has had.
# It prints the program that manages the interface first: renewing may cut the connection that the script came by.
_GUEST_SCRIPT = r"""
PATH=$PATH:/usr/sbin:/sbin
name=$(ip -o -4 address show 2>/dev/null | while read -r number name family address rest; do
    [ "${address%%/*}" != "$2" ] || { echo "$name"; break; }
done)
if [ -z "$name" ]; then
    for path in /sys/class/net/*; do
        [ "$(cat "$path/address" 2>/dev/null)" = "$1" ] || continue
        name=${path##*/}
        [ ! -e "$path/device" ] || break
    done
fi
[ -n "$name" ] || { echo none; exit 0; }
client() {
    for path in /proc/[0-9]*; do
        words=" $(tr '\0' ' ' 2>/dev/null < "$path/cmdline")"
        case $words in *[\ /]"$1 "*" $name "*) echo "${path#/proc/}"; return 0 ;; esac
    done 2>/dev/null
    return 1
}
state() { networkctl --no-pager --no-legend list "$name" 2>/dev/null; }
if state | grep -Eq 'configur(ed|ing)'; then
    who=systemd-networkd
    renew() {
        networkctl reconfigure "$name" || networkctl renew "$name" || systemctl restart systemd-networkd
    }
elif nmcli -g GENERAL.STATE device show "$name" 2>/dev/null | grep -q '^100'; then
    who=NetworkManager
    renew() { nmcli connection up uuid "$(nmcli -g GENERAL.CON-UUID device show "$name")" ifname "$name"; }
elif pid=$(client udhcpc); then
    who=udhcpc
    renew() { kill -USR2 "$pid"; sleep 1; kill -USR1 "$pid"; }
elif pid=$(client dhclient); then
    who=dhclient
    saved=/run/minicloud-dhclient
    renew() { cat "/proc/$pid/cmdline" > $saved; kill "$pid"; sleep 1; xargs -0 env < $saved; rm -f $saved; }
elif dhcpcd -U "$name" >/dev/null 2>&1; then
    who=dhcpcd
    renew() { dhcpcd -n "$name"; }
else
    echo none
    exit 0
fi
echo "$who"
trap '' HUP
(sleep 1; renew) >/dev/null 2>&1 </dev/null &
"""


def ask_renewal(runtime: Runtime, access: SshAccess, mac: str, address: str) -> str:
    """Have the guest ask for the address of one of its interfaces anew, about a second from now.

    address -- which it has now, and may lose. Returns who does it there, such as systemd-networkd; empty where nobody
    was asked: the guest cannot be logged in to, lets its user not become root, or has no DHCP client that we know.
    """
    words = shlex.join([mac.lower(), address])
    command = f'if [ "$(id -u)" = 0 ]; then exec sh -s {words}; else exec sudo -n sh -s {words}; fi'
    argv = ssh_argv(access, command, _CONNECT_TIMEOUT)
    argv[0] = runtime.program("ssh", "openssh-client", "to reach instances")
    try:
        done = runtime.run(argv, stdin=_GUEST_SCRIPT.encode(), timeout=_TIMEOUT, limit=_OUTPUT)
    except CommandFailed:  # it does not come to an end
        return ""
    lines = done.out.split()
    return lines[-1] if done.rc == 0 and lines and lines[-1] in _CLIENTS else ""
