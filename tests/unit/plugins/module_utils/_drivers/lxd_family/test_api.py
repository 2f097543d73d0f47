# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd.driver import LXD
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family import api as lxd_api
from ansible_collections.minicloud.local.plugins.module_utils._drivers.lxd_family.api import (
    LxdApi,
    NotThere,
    Place,
    place_of,
)
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    HypervisorError,
    InvalidOption,
    MissingRequirement,
)


class Server:
    """Answers each connection with what it is told to, and keeps the requests."""

    def __init__(self, listener, answer, context=None):
        self.listener = listener
        self.answer = answer
        self.context = context
        self.requests = []
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                connection = self.listener.accept()[0]
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                if self.context:
                    connection = self.context.wrap_socket(connection, server_side=True)
                self.requests.append(connection.recv(65536).decode())
                connection.sendall(self.answer)
                connection.close()

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)


def said(status, **body):
    return f"HTTP/1.0 {status} X\r\nContent-Type: application/json\r\n\r\n{json.dumps(body)}".encode()


@pytest.fixture(name="serve")
def _serve(tmp_path, monkeypatch):
    servers = []
    monkeypatch.chdir(tmp_path)  # paths of sockets are short

    def serve(answer):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind("s.sock")
        listener.listen(4)
        servers.append(Server(listener, answer))
        return LxdApi(Place(LXD, "s.sock")), servers[-1]

    yield serve
    for server in servers:
        server.close()


class TestAnswers:
    def test_metadata(self, serve):
        api, server = serve(said(200, metadata={"name": "web"}))
        assert api.get("profiles/web", recursion="1") == {"name": "web"}
        assert server.requests[0].startswith("GET /1.0/profiles/web?project=minicloud&recursion=1 HTTP/1.0\r\n")
        assert api.get("") == {"name": "web"}
        assert server.requests[1].startswith("GET /1.0?project=minicloud HTTP/1.0\r\n")
        api.get("networks", project="default")
        assert server.requests[2].startswith("GET /1.0/networks?project=default HTTP/1.0\r\n")

    def test_not_there(self, serve):
        api, dummy = serve(said(404, error="Instance not found"))
        with pytest.raises(NotThere, match="Instance not found"):
            api.get("instances/web")

    def test_an_error_in_the_servers_words(self, serve):
        api, dummy = serve(said(500, error="the database is gone"))
        with pytest.raises(HypervisorError, match="LXD did not answer for instances: the database is gone"):
            api.get("instances")

    def test_a_container_that_is_just_ending_is_asked_for_again(self, serve, monkeypatch):
        api, server = serve(said(500, error="Invalid PID '\ufffd'"))
        asked = api._asked

        def ended_by_the_third_look(path, query):
            if len(server.requests) == 2:
                server.answer = said(200, metadata={"name": "web", "status": "Stopped", "config": {}, "devices": {}})
            return asked(path, query)

        monkeypatch.setattr(api, "_asked", ended_by_the_third_look)
        assert api.get("profiles/web")["status"] == "Stopped"
        assert len(server.requests) == 3

    def test_refused(self, serve):
        api, dummy = serve(said(403, error="not authorized"))
        with pytest.raises(MissingRequirement, match=r"refuses this user: not authorized.*group lxd"):
            api.get("instances")

    @pytest.mark.parametrize("body", [b'{"metadata": {"na', b"[]", b'{"type": "sync"}'])
    def test_an_answer_that_was_cut_short(self, serve, body):
        api, dummy = serve(b"HTTP/1.0 200 OK\r\n\r\n" + body)
        with pytest.raises(HypervisorError, match="gave an answer that cannot be read"):
            api.get("instances")

    @pytest.mark.parametrize("answer", [b"", b"SSH-2.0-dropbear\r\n"])
    def test_something_else_listens(self, serve, answer):
        api, dummy = serve(answer)
        with pytest.raises(HypervisorError, match="does not speak as LXD does"):
            api.get("")

    def test_files(self, serve):
        api, server = serve(b"HTTP/1.0 200 OK\r\n\r\nboot\r\n\r\nlogin: ")
        assert api.text("instances/web/console") == b"boot\r\n\r\nlogin: "
        server.answer = said(404, error="no")
        assert api.text("instances/web/console") == b""

    def test_downloads(self, serve):
        content = bytes(range(256)) * 1000
        api, server = serve(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
        with api.download("images/x/export") as (size, blocks):
            assert (size, b"".join(blocks)) == (len(content), content)
        for answer in (said(404, error="not found"), b"HTTP/1.0 200 OK\r\n\r\nx", b"", b"x" * 100_000):
            server.answer = answer
            with pytest.raises(HypervisorError, match="LXD did not hand out images/x/export"):
                with api.download("images/x/export"):
                    pass


class TestMissing:
    def test_lxd_is_not_installed(self, tmp_path, monkeypatch):
        monkeypatch.setattr(lxd_api, "find_program", lambda name: None)
        monkeypatch.setattr(os.path, "exists", lambda path: False)
        with pytest.raises(MissingRequirement, match=r"LXD is not installed on this host.*apt-get install lxd"):
            LxdApi(Place(LXD, str(tmp_path / "no.socket"))).get("")

    def test_lxd_does_not_run(self, tmp_path, monkeypatch):
        monkeypatch.setattr(lxd_api, "find_program", lambda name: f"/usr/bin/{name}")
        with pytest.raises(MissingRequirement, match=r"LXD does not run on this host.*systemctl start lxd"):
            LxdApi(Place(LXD, str(tmp_path / "no.socket"))).get("")

    def test_a_socket_that_nobody_listens_on(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(lxd_api, "find_program", lambda name: None)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind("s.sock")
        with pytest.raises(MissingRequirement, match=r"does not run on this host: s.sock: Connection refused"):
            LxdApi(Place(LXD, "s.sock")).get("")

    def test_no_permission(self, tmp_path, monkeypatch):
        path = tmp_path / "s.sock"
        path.touch()
        path.chmod(0o660)
        error = lxd_api._no_socket(Place(LXD, str(path)), PermissionError(13, "Permission denied"))
        assert "this user may not use LXD" in str(error)
        assert "belongs to the group" in error.why
        assert "usermod --append --groups lxd" in error.hint


class TestPlaces:
    def test_the_socket_of_this_host(self, tmp_path, monkeypatch):
        monkeypatch.delenv("LXD_DIR", raising=False)
        product = LXD._replace(directories=(str(tmp_path / "snap"), str(tmp_path / "deb")))
        assert place_of({}, product) == Place(product, str(tmp_path / "deb" / "unix.socket"))
        (tmp_path / "snap").mkdir()
        (tmp_path / "snap" / "unix.socket").touch()
        assert place_of({}, product).endpoint == str(tmp_path / "snap" / "unix.socket")
        monkeypatch.setenv("LXD_DIR", "/srv/lxd")
        assert place_of({"project": "other"}, LXD) == Place(LXD, "/srv/lxd/unix.socket", project="other")
        assert place_of({"endpoint": "unix:///x/y"}, LXD).endpoint == "/x/y"

    def test_remote(self, tmp_path):
        for name in ("c", "k", "s"):
            (tmp_path / name).touch()
        options = {name: str(tmp_path / path) for name, path in (("cert", "c"), ("key", "k"), ("verify", "s"))}
        place = place_of({"endpoint": "https://lab:9443", **options}, LXD)
        assert place == Place(LXD, "https://lab:9443", *options.values())
        assert place.is_remote
        assert place.host == ("lab", 9443)

    @pytest.mark.parametrize(
        ("endpoint", "host"),
        [
            ("https://lab", ("lab", 8443)),
            ("https://10.0.0.1:8443/", ("10.0.0.1", 8443)),
            ("https://[fd00::1]:9000", ("fd00::1", 9000)),
            ("https://[fd00::1]", ("fd00::1", 8443)),
        ],
    )
    def test_hosts(self, endpoint, host):
        assert Place(LXD, endpoint).host == host

    @pytest.mark.parametrize(("given", "verify"), [(True, "true"), ("yes", "true"), (False, "false"), (None, "true")])
    def test_verify(self, tmp_path, given, verify):
        (tmp_path / "c").touch()
        place = place_of(
            {"endpoint": "https://x", "cert": str(tmp_path / "c"), "key": str(tmp_path / "c"), "verify": given}, LXD
        )
        assert place.verify == verify

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"endpoint": "lab:8443"}, "is not an LXD server"),
            ({"endpoint": "http://lab:8443"}, "is not an LXD server"),
            ({"endpoint": "https://lab:port"}, "driver_options.endpoint 'https://lab:port' is not a URL"),
            ({"endpoint": "https://lab:99999"}, "is not a URL"),
            ({"endpoint": "https://[::1"}, "is not a URL"),
            ({"endpoint": "https://a..b:8443"}, "is not a URL"),
            ({"endpoint": "https://lab"}, "the client certificate is missing.*lxc config trust add"),
            ({"endpoint": "https://lab", "cert": "/no/cert", "key": "/no/key"}, "cert '/no/cert' cannot be read"),
        ],
    )
    def test_what_cannot_be_meant(self, options, text):
        with pytest.raises(InvalidOption, match=text):
            place_of(options, LXD)


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificates")
class TestTls:
    @pytest.fixture(name="files")
    def _files(self, tmp_path):
        for name in ("server", "client", "other"):
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
                + ["-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={name}", "-days", "2"],
                cwd=tmp_path,
                check=True,
                capture_output=True,
            )
        return {path.name: str(path) for path in tmp_path.iterdir()}

    @pytest.fixture(name="ask")
    def _ask(self, files):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files["server.crt"], files["server.key"])
        listener = socket.create_server(("127.0.0.1", 0))
        server = Server(listener, said(200, metadata={"auth": "trusted"}), context)

        def ask(verify, cert="client.crt", key="client.key"):
            endpoint = f"https://127.0.0.1:{listener.getsockname()[1]}"
            return LxdApi(Place(LXD, endpoint, files[cert], files[key], files.get(verify, verify))).get("")

        ask.server = server
        yield ask
        server.close()

    @pytest.mark.parametrize("verify", ["server.crt", "false"])
    def test_a_pinned_certificate_and_none(self, ask, verify):
        assert ask(verify) == {"auth": "trusted"}

    def test_another_server(self, ask):
        with pytest.raises(MissingRequirement, match="has another certificate than the one in"):
            ask("other.crt")
        assert ask.server.requests == [] or not ask.server.requests[0]  # it was told nothing

    def test_nobody_vouches_for_it(self, ask):
        with pytest.raises(MissingRequirement, match=r"is not trusted here.*driver_options.verify"):
            ask("true")

    def test_a_key_of_another_certificate(self, ask):
        with pytest.raises(MissingRequirement, match="cert and key belong together"):
            ask("server.crt", key="other.key")

    def test_a_pin_that_is_no_certificate(self, ask, files):
        with pytest.raises(InvalidOption, match="is not a certificate"):
            ask("client.key")

    def test_the_server_does_not_know_us(self, ask):
        ask.server.answer = said(403, error="not authorized")
        with pytest.raises(
            MissingRequirement, match=r"does not trust the client certificate.*lxc config trust add client.crt"
        ):
            ask("server.crt")

    def test_nobody_is_there(self, files):
        with socket.socket() as silent:
            # Nobody listens, and nobody else can get the port meanwhile.
            silent.bind(("127.0.0.1", 0))
            endpoint = f"https://127.0.0.1:{silent.getsockname()[1]}"
            place = Place(LXD, endpoint, files["client.crt"], files["client.key"], files["server.crt"])
            with pytest.raises(MissingRequirement, match=r"cannot be reached: Connection refused.*core.https_address"):
                LxdApi(place).get("")
