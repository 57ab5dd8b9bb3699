"""Listening sockets and their accept queues, from sock_diag and /proc, and the addresses at which to connect."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from rproxy.agent import accept_queue, sock_diag
from rproxy.agent.accept_queue import (
    DIAG_RETRY_S,
    ListeningSockets,
    backlog_max,
    proc_listeners,
    reached,
    service_addresses,
)
from rproxy.agent.sock_diag import Listener

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
FOUR, SIX = "10.1.1.1", "2001:db8::1"
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def queued(port: int) -> int:
    return sum(each.queued for each in proc_listeners(port))


@LINUX
@pytest.mark.parametrize(
    ("host", "seen"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("::1", "::1"),
        ("::", "::"),
        ("::ffff:127.0.0.2", "127.0.0.2"),
    ],
)
def test_a_listening_socket_is_found_with_those_that_wait_to_be_accepted(host: str, seen: str) -> None:
    six = ":" in host
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET) as server:
        if six:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind((host, 0))
        server.listen(5)
        port = server.getsockname()[1]
        assert proc_listeners(port) == [Listener(seen, 0)]
        target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(seen, seen)
        clients = [socket.create_connection((target, port)) for _ in range(3)]
        assert queued(port) == 3
        clients[0].close()
        assert queued(port) == 3
        server.accept()[0].close()
        assert queued(port) == 2
        for client in clients:
            client.close()
    assert proc_listeners(port) == []


@LINUX
def test_a_port_that_is_only_bound_or_connected_from_is_none() -> None:
    with socket.socket() as bound, socket.create_server(("127.0.0.1", 0)) as server:
        bound.bind(("127.0.0.1", 0))
        assert proc_listeners(bound.getsockname()[1]) == []
        with socket.create_connection(server.getsockname()) as client:
            assert proc_listeners(client.getsockname()[1]) == []


def test_no_line_is_read_beyond_the_listening_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of others there may be any number."""
    line = "   0: 0100007F:1F90 00000000:0000 {state} 00000000:00000007 00:00000000 00000000     0        0 1 1 0 100\n"
    path = tmp_path / "tcp"
    path.write_text(HEAD + line.format(state="0A") + line.format(state="01") + "nonsense\n")
    monkeypatch.setattr(accept_queue, "_FILES", (str(path),))
    assert proc_listeners(8080) == [Listener("127.0.0.1", 7)]


@pytest.mark.parametrize("content", [None, "", HEAD, HEAD + "garbage\n", HEAD + "0: zz:1F90 x 0A 0:0\n", "\xff" * 100])
def test_an_unreadable_file_yields_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    path = tmp_path / "tcp"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    monkeypatch.setattr(accept_queue, "_FILES", (str(path), str(tmp_path)))
    assert proc_listeners(8080) == []
    assert queued(8080) == 0


@pytest.mark.parametrize(
    ("found", "own", "expected"),
    [
        (["0.0.0.0"], [FOUR], [FOUR]),
        (["::"], [FOUR], [FOUR]),
        (["::"], [FOUR, SIX], [FOUR, SIX]),
        (["0.0.0.0"], [SIX], ["127.0.0.1"]),
        (["0.0.0.0"], [], ["127.0.0.1"]),
        (["::"], [], ["127.0.0.1", "::1"]),
        ([FOUR], [FOUR], [FOUR]),
        ([FOUR], [], [FOUR]),
        (["10.9.9.9", SIX], [FOUR], ["10.9.9.9", SIX]),
        (["10.9.9.9", "0.0.0.0"], [FOUR], [FOUR]),
        ([], [FOUR], [FOUR, "127.0.0.1", "::1"]),
        ([], [], ["127.0.0.1", "::1"]),
        ([FOUR, FOUR], [FOUR, FOUR], [FOUR]),
    ],
)
def test_a_service_is_connected_to_where_its_clients_come(
    found: list[str], own: list[str], expected: list[str]
) -> None:
    assert service_addresses([Listener(host, 0) for host in found], own) == expected


@pytest.mark.parametrize(
    ("found", "own", "expected"),
    [
        (["0.0.0.0"], [FOUR], ["0.0.0.0"]),
        (["::"], [FOUR], ["::"]),
        (["0.0.0.0", "::"], [FOUR], ["0.0.0.0"]),
        (["0.0.0.0", "::"], [SIX], ["::"]),
        (["0.0.0.0", "::"], [FOUR, SIX], ["0.0.0.0", "::"]),
        ([FOUR, "0.0.0.0", "::", "10.9.9.9"], [FOUR], [FOUR]),
        ([FOUR, FOUR], [FOUR], [FOUR, FOUR]),
        (["127.0.0.1", "10.9.9.9"], [FOUR], ["127.0.0.1", "10.9.9.9"]),
        (["127.0.0.1", "0.0.0.0"], [], ["127.0.0.1", "0.0.0.0"]),
        (["0.0.0.0"], [SIX], ["0.0.0.0"]),
        ([], [FOUR], []),
    ],
)
def test_clients_reach_the_most_specific_socket_as_the_kernel_has_it(
    found: list[str], own: list[str], expected: list[str]
) -> None:
    assert [each.host for each in reached([Listener(host, 0) for host in found], own)] == expected


@LINUX
def test_the_kernels_longest_queue_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert backlog_max() == int(Path("/proc/sys/net/core/somaxconn").read_text())
    for content in (None, "", "many"):
        path = tmp_path / "somaxconn"
        if content is not None:
            path.write_text(content)
        monkeypatch.setattr(accept_queue, "_SOMAXCONN", str(path))
        assert backlog_max() is None


@LINUX
def test_sock_diag_is_asked_and_proc_only_while_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    sockets = ListeningSockets(clock.seconds)
    opened = []

    def refuse() -> socket.socket:
        opened.append(clock.seconds())
        raise PermissionError(1, "Operation not permitted")

    with socket.create_server(("127.0.0.1", 0), backlog=5) as server:
        port = server.getsockname()[1]
        with monkeypatch.context() as patch:
            patch.setattr(sock_diag, "_open", refuse)
            for _ in range(3):
                assert sockets.find(port) == [Listener("127.0.0.1", 0)]
                assert sockets.is_slow
                clock.advance(DIAG_RETRY_S * 0.4)
        assert opened == [0.0]
        (found,) = sockets.find(port)
        assert (found.host, found.backlog, sockets.is_slow) == ("127.0.0.1", 5, False)
    assert sockets.find(port) == []
    sockets.close()
