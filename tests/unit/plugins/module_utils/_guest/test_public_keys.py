# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import random
import shutil
import subprocess

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._guest.public_keys import parse_keys

KEYS = [
    ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILeeIWv+Izm9KelGUy3s5ER77I6p5YM9XoZ11F0cWwn"),
    (
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDYMKjizAAaju5pCW21t6kTZddJb/DXECCNOWoOW16zKCPk7Mmvr1cesso"
        "GIY+3Z/iN9uaHcLv8TWPCBnvS8jCg68/4Av9cuIKev1agmn67Dqt4EUL5EksIAcTwaTJUwpfpX3knxGQkrsoluQfwtyNaDk"
        "n68iUfaGZhQb9lEG3/c12CycZ3HRVHwaEnpsDeaA6v4PrrULvp+y6D6QUsrYymnxYOmxHxPt7QAvRKzZzxEescTaOIXLOOL"
        "17IHHxaRJnQT0udfsO18KXVG9XOqvNE0zqUVWsgEJ2cBJdOkTHjaPctrOQVrz+at62tQMImSmDqznrbHbuUyLj+rfIsNORf"
    ),
    (
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBP50hzgagFfOGJpN4YWjlJk"
        "U9mkcNAZFuZuzLGZes8sKVNu5KfxcBLvEayyTnisOoCwM2YpAKeIKeYjCh6dGq1M="
    ),
    (
        "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBACO1EA8aj0cUhf7vS+Xvi2"
        "3Vb9NV1lXR2KwJkEz70J05q6w4cOgjDPi7dZHtn+6aHWGHCaSx7cMXXRGhRtApQWXIwBU6tN+pv+eK6AFvC9D1zDFSREqeO"
        "VO+qnYBncFaTeJ7Vu4s+q1FB7ejUwBE/T6ywOa39VYcG4Kd3NfSJDf9Gk62g=="
    ),
]
ED25519 = KEYS[0]


def string(content):
    return len(content).to_bytes(4, "big") + content


def key(kind, *fields):
    return f"{kind} {base64.b64encode(string(kind.encode()) + b''.join(map(string, fields))).decode()}"


SECURITY_KEYS = [
    key("sk-ssh-ed25519@openssh.com", bytes(range(32)), b"ssh:"),
    key("sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", b"\4" + bytes(range(64)), b"ssh:"),
    key("ssh-dss", *[b"\1" + bytes(127)] * 4),
]


@pytest.mark.parametrize("line", [*KEYS, *SECURITY_KEYS, ED25519 + " me@example.org", f"{ED25519}\tgrüße 1"])
def test_public_keys(line):
    assert parse_keys([line]) == [line]


@pytest.mark.parametrize(
    "options",
    [
        "restrict",
        "no-pty,no-X11-forwarding",
        'from="10.0.0.0/8,*.example.org",command="echo \\"a b\\", c"',
        'environment="A=ssh-rsa AAAA",cert-authority,principals="a,b"',
        'permitopen="[::1]:80",permitlisten="8080",tunnel="0",expiry-time="20400101"',
    ],
)
def test_options_before_a_key(options):
    assert parse_keys([f"{options} {ED25519}"]) == [f"{options} {ED25519}"]


def test_the_lines_of_a_file():
    text = f"# keys of the team\n\n  {KEYS[0]} a\n{KEYS[1]}\r\n"
    assert parse_keys([text, KEYS[2], ""]) == [f"{KEYS[0]} a", KEYS[1], KEYS[2]]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n", ["is a private key", ".pub"]),
        ("  -----BEGIN RSA PRIVATE KEY-----", ["is a private key"]),
        ("-----BEGIN PRIVATE KEY-----", ["is a private key"]),
        ("PuTTY-User-Key-File-3: ssh-ed25519", ["is a private key"]),
        ("b3BlbnNzaC1rZXktdjEAAAAABG5vbmU", ["is a private key"]),
        ("-----BEGIN PUBLIC KEY-----\nMIIB", ["line 1 of entry 1", "another form", "ssh-keygen -i"]),
        ("---- BEGIN SSH2 PUBLIC KEY ----", ["another form"]),
        ("~/.ssh/id_ed25519.pub", ["looks like the place of one", "lookup"]),
        ("/etc/ssh/no such file.pub", ["is not a public key"]),
        ("id_rsa.pub", ["looks like the place"]),
        ("https://github.com/somebody.keys", ["looks like the place"]),
        ("gh:somebody", ["looks like the place"]),
        ("ssh-ed25519", ["nothing follows its type"]),
        ("ssh-ed25519 ", ["nothing follows its type"]),
        (ED25519.split()[1], ["neither with a type of key nor with options"]),
        ("hello world", ["neither with a type of key nor with options"]),
        (f"no-such-option {ED25519}", ["neither with a type"]),
        (f"command {ED25519}", ["neither with a type"]),
        (f'restrict="yes" {ED25519}', ["neither with a type"]),
        (f"restrict, no-pty {ED25519}", ["neither with a type"]),
        (f"restrict {ED25519.split()[1]}", ["no type that sshd knows", "ssh-ed25519"]),
        (f"ssh-rsa {ED25519.split()[1]}", ["its type is ssh-rsa, and its data is of another"]),
        (ED25519[:-8], ["cut short or damaged"]),
        (ED25519[:-1], ["not base64"]),
        (ED25519.replace("AAAAC3", "AAA C3"), ["not base64"]),
        ("ssh-ed25519 AAAA…", ["not base64"]),
        (key("ssh-ed25519", bytes(31)), ["cut short or damaged"]),
        (key("ssh-ed25519", bytes(32), b"more"), ["longer than a key"]),
        (key("ssh-rsa", b"\1\0\1", b""), ["cut short or damaged"]),
        (key("ssh-rsa", b"\1\0\1", b"\xff" * 256), ["cut short or damaged"]),
        (key("ecdsa-sha2-nistp256", b"nistp384", b"\4" + bytes(96)), ["cut short or damaged"]),
        (key("ecdsa-sha2-nistp256", b"nistp256", b"\3" + bytes(64)), ["cut short or damaged"]),
        (key("ssh-rsa", b"\1\0\1", b"\x7f" * 127), ["less than 1024 bits"]),
        ("ssh-rsa-cert-v01@openssh.com AAAA", ["is a certificate", "cert-authority"]),
        (f"{ED25519}\n\x1b[2J", ["line 2 of entry 1"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_public_key_is_refused(entry, words):
    with pytest.raises(InvalidOption) as caught:
        parse_keys([entry])
    assert [word for word in words if word not in str(caught.value)] == []
    assert caught.value.hint
    # It may be a secret.
    assert not any(secret in str(caught.value) for secret in ("b3BlbnN", ED25519.split()[1]))


def test_the_entry_is_told():
    with pytest.raises(InvalidOption, match=r"^line 3 of entry 2 of ssh_authorized_keys is not a public key"):
        parse_keys([ED25519, f"{ED25519}\n\nnonsense"])


def test_damaged_keys_are_refused_as_ssh_keygen_refuses_them():
    """Whatever is taken is a key to ssh, too; and nothing but a refusal comes of the rest."""
    program = shutil.which("ssh-keygen")
    source = random.Random(1)
    taken = set()
    for dummy in range(3000):
        line = list(source.choice([*KEYS, *SECURITY_KEYS, f'restrict,from="a" {ED25519} me']))
        for dummy in range(source.randrange(1, 3)):
            place = source.randrange(len(line))
            action = source.randrange(3)
            if action == 0:
                del line[place]
            elif action == 1:
                line.insert(place, source.choice('A/=+" ,\\\n\tz\0\ufeffé'))
            else:
                line[place] = source.choice('A/=+" ,\\\n\tz\0\ufeffé')
        try:
            taken.update(parse_keys(["".join(line)]))
        except InvalidOption:
            continue
    assert len(taken) > 100
    if program:
        plain = [line for line in sorted(taken) if line.startswith("ssh-")][:40]
        done = subprocess.run(
            [program, "-l", "-f", "-"], input="\n".join(plain), capture_output=True, text=True, check=False
        )
        assert len(done.stdout.splitlines()) == len(plain), done.stderr
