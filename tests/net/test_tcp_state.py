"""What the kernel tells of real connections."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import attrs
import pytest

from rproxy.net.tcp_state import (
    TcpInfo,
    has_acknowledged,
    has_vanished,
    is_closed,
    is_self_connected,
    unsent,
    waits_for_reader,
)
from tests.carriers.loopback import WAIT_S, fill, received, reset, small_pair, tcp_pair, wait_for


def test_a_reader_that_has_stopped_is_waited_for_until_it_has_read() -> None:
    with small_pair() as (near, far):
        assert not waits_for_reader(near)
        fill(near)
        eventually(lambda: waits_for_reader(near))  # what is on its way has arrived
        assert not has_vanished(near, 0.5)

        def all_read() -> bool:
            with suppress(BlockingIOError):
                far.recv(1 << 20)
            return not unsent(near)

        eventually(all_read)
        assert not waits_for_reader(near)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it has not come"
        select.poll().poll(5)


def test_a_reader_of_a_unix_socket_is_waited_for() -> None:
    near, far = socket.socketpair()
    with near, far:
        assert not waits_for_reader(near)
        near.send(b"x")
        assert waits_for_reader(near)
        assert not has_vanished(near, 0.0)


@pytest.mark.parametrize(
    ("tcp_info", "waits", "vanished"),
    [
        (TcpInfo(probes=0, rto_ms=200, unacked=0, quiet_ms=90_000), True, False),
        (TcpInfo(probes=1, rto_ms=200, unacked=0, quiet_ms=119_000), True, False),
        (TcpInfo(probes=2, rto_ms=200, unacked=0, quiet_ms=90_000), False, False),
        (TcpInfo(probes=2, rto_ms=200, unacked=0, quiet_ms=121_000), False, True),
        (TcpInfo(probes=0, rto_ms=200, unacked=3, quiet_ms=150), True, False),
        (TcpInfo(probes=0, rto_ms=26_000, unacked=3, quiet_ms=20_000), True, False),
        (TcpInfo(probes=0, rto_ms=26_000, unacked=3, quiet_ms=40_000), False, False),
        (TcpInfo(probes=0, rto_ms=104_000, unacked=3, quiet_ms=160_000), False, True),
    ],
    ids=[
        "closed window",
        "asked once",
        "does not answer",
        "for long",
        "on their way",
        "sent again",
        "late",
        "long late",
    ],
)
def test_a_peer_that_is_slow_is_told_from_one_that_has_vanished(
    monkeypatch: pytest.MonkeyPatch, tcp_info: TcpInfo, waits: bool, vanished: bool
) -> None:
    monkeypatch.setattr(TcpInfo, "of", lambda sock: tcp_info)
    with small_pair() as (near, _):
        fill(near)
        assert (waits_for_reader(near), has_vanished(near, 120.0)) == (waits, vanished)
    with tcp_pair() as (near, _):  # nothing is on its way
        assert (waits_for_reader(near), has_vanished(near, 120.0)) == (False, False)


def test_how_a_peer_takes_what_it_is_sent_is_read_from_the_kernels_own_structure() -> None:
    """Against the offsets in linux/tcp.h, by another way of reading it."""
    with small_pair() as (near, _):
        fill(near)
        tcp_info = TcpInfo.of(near)
        info = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    fields = struct.unpack("=8B24I", info)
    assert tcp_info is not None
    assert (tcp_info.rto_ms, tcp_info.unacked) == (fields[8] / 1000, fields[12])
    assert 0 <= fields[20] - tcp_info.quiet_ms < 1000
    assert attrs.astuple(tcp_info)[0] in (0, 1, fields[3])


def test_a_kernel_that_tells_less_is_not_misread(stack: ExitStack) -> None:
    class Terse(socket.socket):
        def getsockopt(self, level: int, option: int, size: int = 0) -> bytes:  # type: ignore[override]
            return b"\1" * 8

    assert TcpInfo.of(stack.enter_context(Terse())) is None


def test_a_connection_is_over_for_both_after_a_reset_and_not_after_an_end() -> None:
    with tcp_pair() as (near, far):
        far.shutdown(socket.SHUT_WR)
        wait_for(near, select.POLLRDHUP)
        assert not is_closed(near)
        reset(far)
        wait_for(near, select.POLLERR)
        assert is_closed(near)


def test_a_socket_that_connects_to_its_own_port_is_its_own_peer() -> None:
    with socket.socket() as alone:
        alone.bind(("127.0.0.1", 0))
        address = alone.getsockname()
        alone.connect(address)
        assert is_self_connected(alone, *address)
    with tcp_pair() as (near, _):
        assert not is_self_connected(near, *near.getpeername())


def test_a_peer_has_acknowledged_when_it_last_did() -> None:
    with tcp_pair() as (near, far):
        near.send(b"x")
        assert received(far, 1) == b"x"
        eventually(lambda: not unsent(near))
        assert has_acknowledged(near, WAIT_S)
        eventually(lambda: not has_acknowledged(near, 0.001))


def test_a_kind_of_socket_that_does_not_tell_is_not_over(stack: ExitStack) -> None:
    class Strange(socket.socket):
        def getsockopt(self, level: int, option: int, size: int = 0) -> bytes:  # type: ignore[override]
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    strange = stack.enter_context(Strange())
    assert not is_closed(strange)
    assert TcpInfo.of(strange) is None
    closed = socket.socket()
    closed.close()
    assert is_closed(closed)
    assert unsent(strange) == 0
