# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import os
import socket

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import InUse
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import ports
from ansible_collections.minicloud.local.plugins.module_utils._model import Instance, parse_port

# Addresses that no other process uses: what is free there stays free.
A_LOOPBACK_OF_ITS_OWN = f"127.99.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
ANOTHER_ONE = f"127.98.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@contextlib.contextmanager
def listening(ip="127.0.0.1", protocol="tcp", port=0):
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, KINDS[protocol]) as server:
        server.bind((ip, port))
        if protocol == "tcp":
            server.listen(1)
        yield server.getsockname()[1]


def has_ipv6():
    try:
        with listening("::1"):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_is_taken_while_somebody_listens(protocol):
    with listening(A_LOOPBACK_OF_ITS_OWN, protocol) as port:
        assert ports.is_free(A_LOOPBACK_OF_ITS_OWN, port, protocol) is False
        assert ports.is_free("0.0.0.0", port, protocol) is False
    assert ports.is_free(A_LOOPBACK_OF_ITS_OWN, port, protocol) is True


def test_who_listens_on_all_addresses_takes_each():
    with listening("0.0.0.0") as port:
        assert ports.is_free("127.0.0.1", port) is False


def test_another_address_of_the_loopback_is_another_port():
    with listening(A_LOOPBACK_OF_ITS_OWN) as port:
        assert ports.is_free(ANOTHER_ONE, port) is True


def test_protocols_have_ports_of_their_own():
    with listening(A_LOOPBACK_OF_ITS_OWN, "udp") as port:
        assert ports.is_free(A_LOOPBACK_OF_ITS_OWN, port, "tcp") is True


def test_a_connection_that_lingers_does_not_hold_the_port():
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as QEMU's user-mode network does
        server.bind((A_LOOPBACK_OF_ITS_OWN, 0))
        server.listen(1)
        port = server.getsockname()[1]
        with socket.create_connection((A_LOOPBACK_OF_ITS_OWN, port)) as client:
            accepted, dummy = server.accept()
            accepted.close()  # the server's side closes first, and lingers
            assert client.recv(1) == b""
    assert ports.is_free(A_LOOPBACK_OF_ITS_OWN, port) is True


@pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6")
def test_ipv6():
    # IPv6 has one loopback for all, and any process can take what has just become free: not one after another.
    known = []
    for dummy in range(5):
        with listening("::1") as port:
            assert ports.is_free("::1", port) is False
        known.append(ports.is_free("::1", port) and ports.is_free("::1", ports.choose("::1", "tcp", ())))
    assert any(known)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EADDRNOTAVAIL, errno.EMFILE])
def test_other_errors_are_not_taken_for_a_taken_port(monkeypatch, number):
    class Socket(socket.socket):
        def bind(self, address):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket, "socket", Socket)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        ports.is_free("127.0.0.1", 80)
    assert caught.value.errno == number


def test_an_address_that_the_host_does_not_have():
    with pytest.raises(OSError, match="assign") as caught:
        ports.is_free("192.0.2.1", 8080)
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_chosen_port_is_free_and_not_one_of_those_taken(protocol):
    seen = set()
    for dummy in range(20):
        port = ports.choose(A_LOOPBACK_OF_ITS_OWN, protocol, seen)
        assert 1024 <= port < 65536
        assert port not in seen
        assert ports.is_free(A_LOOPBACK_OF_ITS_OWN, port, protocol)
        seen.add(port)


def test_choosing_ends_when_all_are_taken():
    class Everything:
        def __contains__(self, port):
            return True

    with pytest.raises(InUse, match=r"no free tcp port was found on 127\.0\.0\.1"):
        ports.choose("127.0.0.1", "tcp", Everything())


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_holder_of_a_port_is_named(protocol):
    with listening(protocol=protocol) as port:
        assert f"(process {os.getpid()})" in ports.holder(port, protocol)
    assert f"(process {os.getpid()})" not in ports.holder(port, protocol)


def test_a_client_is_no_holder():
    with listening() as port, socket.create_connection(("127.0.0.1", port)) as client:
        assert ports.holder(client.getsockname()[1]) == ""


def test_a_holder_that_cannot_be_known(monkeypatch):
    monkeypatch.setattr(ports, "_TABLES", {"tcp": ("no-such-table",)})
    with listening() as port:
        assert ports.holder(port) == ""


def an_instance(name, **values):
    return Instance(name, name, "lxd", "lxd", "now", "x86_64", 1, 1, 1, **values)


def test_a_taken_port_tells_which_instance_has_it():
    with listening() as port:
        wanted = an_instance("db", ports=[parse_port(f"{port}:80")])
        holder = an_instance("web", owner="lxd", ports=[parse_port(f"0.0.0.0:{port}:22")])
        with pytest.raises(InUse, match="the instance web has it"):
            ports.choose_all(wanted, [holder])
        holder.owner = ""
        with pytest.raises(InUse, match=rf"\(process {os.getpid()}\) listens on it"):
            ports.choose_all(wanted, [holder])
