"""What is set on real sockets."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from rproxy.net.tcp_options import (
    KEEPALIVE_EVERY_S,
    KEEPALIVE_PROBES,
    KEEPALIVE_S,
    KEEPALIVE_SOON_S,
    has_urgent_in_line,
    keep_alive,
    keep_urgent_in_line,
    limit_unacknowledged,
    prepare_listener,
    probe_soon,
)
from tests.carriers.loopback import listening, received


def options(sock: socket.socket) -> tuple[int, ...]:
    names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    return (
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        *(sock.getsockopt(socket.IPPROTO_TCP, name) for name in names),
    )


ALIVE = (1, KEEPALIVE_S, KEEPALIVE_EVERY_S, KEEPALIVE_PROBES)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_what_is_set_on_a_listener_is_what_it_accepts(stack: ExitStack, family: socket.AddressFamily) -> None:
    listener = stack.enter_context(socket.socket(family))
    prepare_listener(listener)
    listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    listener.listen(1)
    client = stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
    accepted = stack.enter_context(listener.accept()[0])
    assert options(accepted) == ALIVE
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert has_urgent_in_line(accepted)
    assert not has_urgent_in_line(client)


def test_a_unix_socket_is_left_as_it_is(stack: ExitStack, tmp_path: Path) -> None:
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(str(tmp_path / "socket"))
    prepare_listener(listener)
    assert not has_urgent_in_line(listener)


def test_options_that_cannot_be_set_are_done_without(stack: ExitStack) -> None:
    class Poor(socket.socket):
        def setsockopt(self, level: int, option: int, value: object, length: object = None) -> None:
            if option == socket.TCP_KEEPIDLE:
                raise OSError(errno.ENOPROTOOPT, "Protocol not available")
            super().setsockopt(level, option, value)  # type: ignore[call-overload]

    poor = stack.enter_context(Poor())
    keep_alive(poor)
    assert options(poor)[2:] == ALIVE[2:]


def test_two_urgent_bytes_before_the_first_read_stay_where_they_are() -> None:
    with listening() as listener, socket.socket() as near:
        keep_urgent_in_line(near)
        near.connect(listener.getsockname())
        with listener.accept()[0] as far:
            far.send(b"a", socket.MSG_OOB)
            far.send(b"b", socket.MSG_OOB)
            far.send(b"c")
            assert received(near, 3) == b"abc"


def test_a_peer_that_is_to_be_probed_soon_is_probed_after_less_silence(stack: ExitStack) -> None:
    sock = stack.enter_context(socket.socket())
    keep_alive(sock)
    probe_soon(sock)
    assert options(sock) == (1, KEEPALIVE_SOON_S, KEEPALIVE_EVERY_S, KEEPALIVE_PROBES)


def test_what_is_not_acknowledged_ends_a_connection_after_a_while() -> None:
    with socket.socket() as sock:
        limit_unacknowledged(sock, 30.0)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
    with socket.socket(socket.AF_UNIX) as sock:
        limit_unacknowledged(sock, 30.0)
