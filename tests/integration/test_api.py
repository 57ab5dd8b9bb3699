"""The operators' listener of a real proxy: the manual's commands, its Unix socket, the stream, and who may what."""

from __future__ import annotations

import http.client
import json
import os
import pwd
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import pytest
from docutils import nodes
from docutils.core import publish_doctree

from rproxy.net.addresses import written
from tests.conftest import need
from tests.integration.conftest import CARRIERS, Starter
from tests.integration.logs import failures
from tests.integration.polling import PROMPT_S, READY_S, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.servers import echo
from tests.integration.sockets import connect, receive_all
from tests.integration.test_operators import ask
from tests.integration.twistd import PROJECT, REACTORS, Twistd

TOKEN: Final = "a-token-of-24-characters"
BEARER: Final = {"Authorization": f"Bearer {TOKEN}"}
NOBODY: Final = pwd.getpwnam("nobody").pw_uid
both_reactors = pytest.mark.parametrize("reactor", REACTORS)


@pytest.fixture
def folder() -> Iterator[Path]:
    """One with a short name, for sockets."""
    path = Path(mkdtemp(dir="/tmp"))
    yield path
    for each in path.rglob("*"):
        if not each.is_dir():
            each.unlink()
    path.rmdir()


def token_file(folder: Path, text: str = TOKEN) -> str:
    path = folder / "operators.token"
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return str(path)


class UnixProxy(Twistd):
    """A proxy whose operators' listener is a Unix socket."""

    def __init__(self, folder: Path, *options: str, **how: Any) -> None:
        self.socket = str(folder / "admin.sock")
        ports = ("--listen", "127.0.0.1:0", "--monitor", "127.0.0.1:0")
        super().__init__(folder, "rproxy", *ports, "--admin", f"unix:{self.socket}", *options, **how)
        try:
            self.logged("(status at unix:)")
        except BaseException:
            self.close()
            raise

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
        return ask_unix(self.socket, method, path, **headers)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(self._path)


def ask_unix(path: str, method: str, target: str, **headers: str) -> tuple[int, dict[str, Any]]:
    connection = UnixConnection(path)
    try:
        connection.request(method, target, headers=headers)
        response = connection.getresponse()
        document: dict[str, Any] = json.loads(response.read())
        return response.status, document
    finally:
        connection.close()


def commands() -> list[str]:
    """Every line of the page that calls curl."""
    text = (PROJECT / "rproxy/docs/api.rst").read_text(encoding="utf-8")
    blocks = [block.astext() for block in publish_doctree(text).findall(nodes.literal_block)]
    return [line for block in blocks for line in block.splitlines() if "curl" in line]


def test_the_manuals_commands_do_what_they_say(start: Starter, tmp_path: Path, folder: Path) -> None:
    need("curl", "openssl")
    made = [line for line in (PROJECT / "rproxy/docs/api.rst").read_text().splitlines() if "openssl" in line]
    assert subprocess.run(made[0], shell=True, cwd=tmp_path, check=False).returncode == 0
    proxy = start.proxy("--admin-token-file", str(tmp_path / "operators.token"))
    pool = Pool(proxy)
    backend = written(pool.serve(echo).address)
    done: list[str] = []
    with UnixProxy(folder) as other, pool.connect() as client, connect(proxy.address) as last:
        client.sendall(b"x")
        last.sendall(b"x")
        poll(lambda: proxy.connections() == 2, READY_S, "both sessions are there")
        _, body = ask(proxy, path="/api/sessions")
        session = str(json.loads(body)["sessions"][1]["id"])
        lines = [line for line in commands() if "--unix-socket" not in line]
        kill = next(line for line in lines if line.endswith("/kill") and "backends" in line)
        lines.sort(key=lambda line: line == kill)  # the session would be among those
        for line in lines:
            for old, new in {"10.1.1.2:80": backend, "4711": session, "curl ": "curl -sS --fail-with-body "}.items():
                line = line.replace(old, new)
            script = f'URL=http://{written(proxy.admin)}; AUTH="Authorization: Bearer $(cat operators.token)"; {line}'
            ran = subprocess.run(script, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert ran.returncode == (28 if "--max-time" in line else 0), (line, ran)
            if "POST" in line:
                done.append(json.loads(ran.stdout)["done"])
        (line,) = [line for line in commands() if "--unix-socket" in line]
        line = line.replace("/run/rproxy/admin.sock", other.socket)
        ran = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
        assert json.loads(ran.stdout)["error"].startswith("service default has no back-end 10.1.1.2:80")
        with pytest.raises(ConnectionResetError):
            receive_all(client)
    assert [text.partition("; ")[0] for text in done] == [
        f"{backend} of default gets no new sessions",
        f"{backend} of default is in maintenance and gets no new sessions",
        f"{backend} of default may get sessions again",
        f"{backend} of default has weight 50",
        f"{backend} of default has its own weight again",
        f"{backend} of default loses up to 5 session(s) a second, of 2",
        f"session {session} ended",
        f"1 session(s) on {backend} of default ended",
    ]
    assert failures(proxy.log) == []


@both_reactors
def test_a_stream_tells_of_a_new_back_end_and_of_its_end(start: Starter, reactor: str) -> None:
    proxy = start.proxy(reactor=reactor)
    pool = Pool(proxy)
    connection = http.client.HTTPConnection(*proxy.admin, timeout=5)
    connection.request("GET", "/api/stream")
    response = connection.getresponse()

    def until(found: Callable[[str, dict[str, Any]], bool]) -> None:
        end = time.monotonic() + READY_S
        kind = ""
        while time.monotonic() < end:
            line = response.readline().decode().rstrip("\n")
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data" and found(kind, json.loads(value)):
                return
        raise AssertionError("it is not told")

    until(lambda kind, data: kind == "status" and data["backends"] == [])
    server = pool.serve(echo)
    until(lambda kind, data: kind == "status" and [row["port"] for row in data["backends"]] == [server.address[1]])
    pool.agent_of(server.address).close()
    until(lambda kind, data: kind == "happening" and data["kind"] == "forgotten")
    until(lambda kind, data: kind == "status" and [row["port"] for row in data["gone"]] == [server.address[1]])
    connection.close()
    poll(lambda: proxy.descriptors("socket") <= proxy.idle_sockets, READY_S, "the connection is closed here, too")
    assert failures(proxy.log) == []


@both_reactors
def test_a_unix_socket_is_for_the_proxys_user_and_root_alone(folder: Path, reactor: str) -> None:
    need("setpriv", root=True)
    folder.chmod(0o755)
    with UnixProxy(folder, reactor=reactor) as proxy:
        assert stat.S_IMODE(os.stat(proxy.socket).st_mode) == 0o600
        assert proxy.ask("GET", "/api/backends") == (HTTPStatus.OK, {"backends": []})
        assert proxy.ask("POST", "/api/sessions/1/kill")[0] == HTTPStatus.NOT_FOUND
        os.chmod(proxy.socket, 0o666)
        shell = f"curl -sS --unix-socket {proxy.socket} http://localhost/api/"
        for what, status in (("services", "200"), ("sessions/1/kill -X POST", "403")):
            asked = [
                "setpriv",
                f"--reuid={NOBODY}",
                "--clear-groups",
                "sh",
                "-c",
                f"{shell}{what} -o /dev/null -w %{{http_code}}",
            ]
            assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout == status
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(proxy.socket)
            stream.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            stream.settimeout(READY_S)
            got = b""
            while b'"gone": []' not in got:
                got += stream.recv(65536)
        proxy.stop()
        assert not os.path.exists(proxy.socket)
        assert failures(proxy.log) == []


def test_it_belongs_to_the_user_that_the_proxy_becomes(folder: Path) -> None:
    need("setpriv", root=True)
    os.chown(folder, NOBODY, -1)
    options = ["--uid", "nobody", "--logfile", "-"]
    path = folder / "admin.sock"
    command = ["--monitor", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--admin", f"unix:{path}"]
    with Twistd(folder, *options, "rproxy", *command) as process:
        process.logged("(status at unix:)")
        poll(lambda: os.stat(path).st_uid == NOBODY, READY_S, "the socket is given away")
        asked = (
            f"curl -sS --unix-socket {path} http://localhost/api/sessions/1/kill -X POST -o /dev/null -w %{{http_code}}"
        )
        as_user = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", "sh", "-c", asked]
        assert subprocess.run(as_user, capture_output=True, text=True, check=True).stdout == "404"
        process.stop()
        assert not path.exists()


def test_a_socket_that_a_killed_proxy_has_left_is_replaced_and_one_in_use_is_not(folder: Path) -> None:
    with UnixProxy(folder) as proxy:
        proxy.stop(signal.SIGKILL)
        assert os.path.exists(proxy.socket)
        for each in folder.glob("*.pid"):
            each.unlink()
        with UnixProxy(folder) as second:
            assert second.ask("GET", "/api/backends")[0] == HTTPStatus.OK
            third = Twistd(folder, "--pidfile", "third.pid", "rproxy", "--admin", f"unix:{second.socket}", *NO_PORTS)
            with third:
                assert third.wait(READY_S) != 0
                assert f"cannot listen on --admin unix:{second.socket}: Address already in use" in third.errors
            assert second.ask("GET", "/api/backends")[0] == HTTPStatus.OK


NO_PORTS: Final = ("--listen", "127.0.0.1:0", "--monitor", "127.0.0.1:0")


def test_a_process_that_takes_over_takes_the_socket_and_the_old_one_leaves_it(folder: Path) -> None:
    with UnixProxy(folder, "--reuse-port") as old:
        inode = os.stat(old.socket).st_ino
        with Twistd(
            folder, "--pidfile", "new.pid", "rproxy", "--reuse-port", "--admin", f"unix:{old.socket}", *NO_PORTS
        ) as new:
            new.logged("(status at unix:)")
            assert os.stat(old.socket).st_ino != inode
            _, document = ask_unix(old.socket, "GET", "/status.json")
            assert document["pid"] == new.pid
            old.stop()
            assert ask_unix(old.socket, "GET", "/status.json")[1]["pid"] == new.pid
            new.stop()
        assert not os.path.exists(old.socket)


def test_who_may_what_over_tcp(start: Starter, tmp_path: Path) -> None:
    proxy = start.proxy("--admin-token-file", token_file(tmp_path))
    kill = "/api/sessions/1/kill"
    assert ask(proxy, "POST", kill)[0] == HTTPStatus.UNAUTHORIZED
    assert ask(proxy, "POST", kill, Authorization="Bearer wrong")[0] == HTTPStatus.UNAUTHORIZED
    assert ask(proxy, "POST", kill, **BEARER)[0] == HTTPStatus.NOT_FOUND
    assert ask(proxy, "GET", "/api/sessions")[0] == HTTPStatus.OK
    token_file(tmp_path, TOKEN[::-1])
    proxy.send_signal(signal.SIGHUP)
    poll(lambda: ask(proxy, "POST", kill, **BEARER)[0] == HTTPStatus.UNAUTHORIZED, READY_S, "the token is another one")
    assert ask(proxy, "POST", kill, Authorization=f"Bearer {TOKEN[::-1]}")[0] == HTTPStatus.NOT_FOUND
    assert TOKEN not in proxy.log + proxy.errors
    other = start.proxy()
    assert ask(other, "POST", kill, **BEARER)[0] == HTTPStatus.FORBIDDEN


def test_where_other_hosts_can_reach_it_reading_needs_the_token_too(tmp_path: Path) -> None:
    ports = ("--listen", "127.0.0.1:0", "--monitor", "127.0.0.1:0", "--admin", "0.0.0.0:0")
    with Twistd(tmp_path, "rproxy", *ports) as refused:
        assert refused.wait(READY_S) != 0
        assert "--admin 0.0.0.0:0: other hosts can reach it: give --admin-token-file FILE" in refused.errors
    with Twistd(tmp_path, "rproxy", *ports, "--admin-token-file", token_file(tmp_path)) as proxy:
        port = int(proxy.logged(r"status at http://\S+:([0-9]+)/"))
        expected = {"/healthz": 200, "/readyz": 503, "/": 200, "/status.json": 401, "/api/stream": 401, "/metrics": 401}
        for path, status in expected.items():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            assert connection.getresponse().status == status, path
            connection.close()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/status.json", headers=BEARER)
        assert connection.getresponse().status == HTTPStatus.OK
        connection.close()


def test_it_is_ready_while_a_back_end_is_and_not_while_it_stops(start: Starter) -> None:
    proxy = start.proxy()
    assert ask(proxy, path="/healthz") == (HTTPStatus.OK, b"ok\n")
    assert ask(proxy, path="/readyz") == (HTTPStatus.SERVICE_UNAVAILABLE, b"default: there are no back-ends\n")
    pool = Pool(proxy)
    pool.serve(echo)
    assert ask(proxy, path="/readyz") == (HTTPStatus.OK, b"ready\n")
    kept = http.client.HTTPConnection(*proxy.admin, timeout=5)
    kept.request("GET", "/readyz")
    assert kept.getresponse().read() == b"ready\n"
    with pool.connect() as client:
        client.sendall(b"x")
        proxy.send_signal(signal.SIGTERM)
        proxy.logged("(stopping: )", PROMPT_S)
        kept.request("GET", "/readyz")
        response = kept.getresponse()
        assert (response.status, response.read()) == (HTTPStatus.SERVICE_UNAVAILABLE, b"stopping\n")
    kept.close()


@pytest.mark.parametrize("carrier", CARRIERS)
def test_sessions_are_listed_whatever_carries_them(start: Starter, carrier: str) -> None:
    proxy = start.proxy("--carrier", carrier, "--wait-for-backend", "30")
    with connect(proxy.address) as client:
        poll(lambda: sessions(proxy) == [("waiting", None)], READY_S, "it waits")
        backend = written(Pool(proxy).serve(echo).address)
        poll(lambda: sessions(proxy) == [("connected", backend)], READY_S, "it is connected")
        client.sendall(b"x" * 1000)
        poll(lambda: transferred(proxy) == (1000, 1000), READY_S, "bytes are counted")


def sessions(proxy: Proxy) -> list[tuple[str, str | None]]:
    _, body = ask(proxy, path="/api/sessions")
    return [(each["state"], each["backend"]) for each in json.loads(body)["sessions"]]


def transferred(proxy: Proxy) -> tuple[int, int]:
    _, body = ask(proxy, path="/api/sessions")
    (only,) = json.loads(body)["sessions"]
    return only["up"], only["down"]
