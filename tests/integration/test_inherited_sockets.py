"""Listening sockets of every kind that a proxy may inherit: it takes them, or says in one line why it does not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import CARRIERS, Starter, carrier_options
from tests.integration.logs import failures
from tests.integration.polling import READY_S, in_background
from tests.integration.pools import Pool
from tests.integration.sockets import connect, digest, payload, receive, receive_all
from tests.integration.test_limits import _AS_SYSTEMD as AS_SYSTEMD
from tests.integration.twistd import environment, twistd

MPTCP: Final = 262
LARGE: Final = 3_000_000


def inherit(sock: socket.socket) -> list[str]:
    return [sys.executable, "-c", AS_SYSTEMD, str(sock.fileno())]


def mptcp(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, MPTCP)
    sock.bind((host, 0))
    sock.listen(100)
    return sock


def pool_at(sock: socket.socket, domain: str, start: Starter, carrier: str) -> Pool:
    options = ["--listen", f"systemd:domain={domain}:index=0", *carrier_options(carrier)]
    pool = Pool(start.proxy(*options, wrapper=inherit(sock), pass_fds=[sock.fileno()]))
    start.closing(pool.abandon)
    return pool


def exchange(pool: Pool, dial: Callable[[], socket.socket]) -> None:
    """Both ways in bulk, with a half-close in between."""
    listener = pool.listen()
    client = pool.keep(dial())
    server_got = in_background(lambda: receive_all(listener.accept()))
    client.sendall(payload(LARGE))
    client.shutdown(socket.SHUT_WR)
    assert digest(server_got.result()) == digest(payload(LARGE))
    (server,) = listener.accepted
    sent = in_background(server.sendall, payload(LARGE))
    assert digest(receive(client, LARGE)) == digest(payload(LARGE))
    sent.result()
    server.shutdown(socket.SHUT_WR)
    assert receive_all(client) == b""


@pytest.mark.parametrize("carrier", ["auto", "portable"])
@pytest.mark.parametrize(("host", "domain"), [(LOOPBACK, "INET"), ("::1", "INET6")])
@pytest.mark.parametrize("protocol", [0, MPTCP], ids=["TCP client", "MPTCP client"])
def test_an_mptcp_listener_is_served(protocol: int, host: str, domain: str, carrier: str, start: Starter) -> None:
    with mptcp(host) as sock:
        pool = pool_at(sock, domain, start, carrier)

        def dial() -> socket.socket:
            client = socket.socket(sock.family, socket.SOCK_STREAM, protocol)
            client.settimeout(10)
            client.connect(sock.getsockname())
            return client

        exchange(pool, dial)
        assert failures(pool.proxy.log) == []


@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_inherited_unix_socket_is_served(carrier: str, start: Starter, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        path = str(tmp_path / "clients")
        sock.bind(path)
        sock.listen()
        pool = pool_at(sock, "UNIX", start, carrier)
        exchange(pool, lambda: connect(path))


def datagrams() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((LOOPBACK, 0))
    return sock


def idle_stream() -> socket.socket:
    sock = socket.socket()
    sock.bind((LOOPBACK, 0))
    return sock


def connected() -> socket.socket:
    """As systemd hands over with Accept=yes."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        return socket.create_connection(listener.getsockname())


def on_unix() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("")
    sock.listen()
    return sock


def packets() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind("")
    sock.listen()
    return sock


def virtual() -> socket.socket:
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    sock.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
    sock.listen()
    return sock


WRONG: Final = [
    (datagrams, "INET", "the inherited socket is of the kind SOCK_DGRAM, and SOCK_STREAM is needed"),
    (idle_stream, "INET", "the inherited socket does not listen"),
    (connected, "INET", "the inherited socket does not listen"),
    (on_unix, "INET", "the inherited socket is AF_UNIX, not AF_INET"),
    (packets, "UNIX", "the inherited socket is of the kind SOCK_SEQPACKET, and SOCK_STREAM is needed"),
    (virtual, "VSOCK", "sockets of AF_VSOCK cannot be listened on"),
    (virtual, "INET", "the inherited socket is AF_VSOCK, not AF_INET"),
]


@pytest.mark.parametrize(("make", "domain", "why"), WRONG, ids=lambda value: getattr(value, "__name__", None))
def test_what_cannot_be_listened_on_is_one_line(
    make: Callable[[], socket.socket], domain: str, why: str, tmp_path: Path
) -> None:
    text = f"{'haproxy:' if make is datagrams else ''}systemd:domain={domain}:index=0"
    with make() as sock:
        sock.set_inheritable(True)
        done = run_inheriting(tmp_path, sock, "--listen", text)
    assert done == f"twistd rproxy: --listen {text}: {why}\n"


def run_inheriting(folder: Path, sock: socket.socket, *options: str) -> str:
    """What a proxy that does not start says on stderr."""
    command = twistd("rproxy", "--allow", "127.0.0.0/8", *options, reactor="epoll", prefix=inherit(sock))
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        pass_fds=[sock.fileno()],
        capture_output=True,
        text=True,
        timeout=READY_S,
    )
    assert done.returncode == 1, done.stdout
    return done.stderr


def test_a_descriptor_that_is_no_socket_is_one_line(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "w") as pipe:
        text = "systemd:domain=INET:index=0"
        told = run_inheriting(tmp_path, pipe, "--listen", text)  # type: ignore[arg-type]
    assert told == f"twistd rproxy: --listen {text}: cannot be used: Socket operation on non-socket\n"
