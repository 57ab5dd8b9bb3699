"""Sockets that share one address: which of them gets what, and what closing one costs."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from rproxy.net import handover
from rproxy.net.binding import CAN_HAND_OVER, Binding
from rproxy.net.handover import give_to_all, give_to_newest, give_to_previous, has_queued, members, refuse_syns

pytestmark = pytest.mark.skipif(not CAN_HAND_OVER, reason="needs Linux")

MANY = 40
WITHIN_S = 5.0


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Group:
    """Sockets at one ephemeral port."""

    def __init__(self, stack: ExitStack, host: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
        self._stack = stack
        self._host = host
        self._kind = kind
        self._port = 0
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET

    def join(self) -> socket.socket:
        sock = Binding(self._host, reuse_port=True).prepared(socket.socket(self._family, self._kind))
        self._stack.enter_context(sock)
        sock.bind((self._host, self._port))
        if self._kind is socket.SOCK_STREAM:
            sock.listen(2 * MANY)
        sock.setblocking(False)
        self._port = sock.getsockname()[1]
        return sock

    def send(self, number: int = MANY) -> list[socket.socket]:
        """Connections, or datagrams of as many senders."""
        senders = [socket.socket(self._family, self._kind) for _ in range(number)]
        for sender in senders:
            self._stack.enter_context(sender)
            sender.settimeout(5)
            sender.connect(("::1" if self._host == "::" else self._host, self._port))
            if self._kind is socket.SOCK_DGRAM:
                sender.send(b"x")
        return senders


def taken(*socks: socket.socket, total: int = MANY) -> list[int]:
    """How many connections or datagrams each has got, once it is `total` together."""
    counts = [0] * len(socks)
    until = time.monotonic() + WITHIN_S
    while sum(counts) < total and time.monotonic() < until:
        select.select(socks, [], [], 0.1)
        for number, sock in enumerate(socks):
            counts[number] += _taken(sock)
    assert sum(counts) == total
    return counts


def _taken(sock: socket.socket) -> int:
    number = 0
    while True:
        try:
            if sock.type == socket.SOCK_DGRAM:
                sock.recv(1)
            else:
                sock.accept()[0].close()
        except BlockingIOError:
            return number
        number += 1


EACH = [(host, kind) for host in ("127.0.0.1", "::1", "::") for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]


@pytest.mark.parametrize(("host", "kind"), EACH)
def test_the_newest_gets_everything_until_it_is_alone(host: str, kind: socket.SocketKind, stack: ExitStack) -> None:
    group = Group(stack, host, kind)
    old = group.join()
    assert (members(old), give_to_newest(old)) == (1, False)
    middle, new = group.join(), group.join()
    group.send()
    assert min(taken(old, middle, new)) > 0  # by hash; 40 senders miss none of three
    assert give_to_newest(old)
    group.send()
    assert taken(old, middle, new) == [0, 0, MANY]
    middle.close()
    assert (members(old), give_to_newest(old)) == (2, True)
    group.send()
    assert taken(old, new) == [0, MANY]
    old.close()
    group.send()
    assert taken(new) == [MANY]


@pytest.mark.parametrize("others", [1, 2])
def test_one_that_joins_gets_nothing_until_it_wants_to_and_loses_none_if_it_closes(
    others: int, stack: ExitStack
) -> None:
    group = Group(stack, "127.0.0.1")
    olds = [group.join() for _ in range(others)]
    failing = group.join()
    give_to_previous(failing)
    group.send()
    assert taken(*olds, failing)[-2:] == [MANY, 0]
    failing.close()
    group.send()
    assert sum(taken(*olds)) == MANY
    new = group.join()
    give_to_previous(new)
    give_to_all(new)
    group.send()
    assert min(taken(*olds, new)) > 0


def test_one_that_is_alone_gets_everything_at_once(stack: ExitStack) -> None:
    group = Group(stack, "127.0.0.1")
    only = group.join()
    give_to_previous(only)
    group.send()
    assert taken(only) == [MANY]


def test_the_hash_decides_again_once_it_has_left(stack: ExitStack) -> None:
    group = Group(stack, "127.0.0.1")
    old, new, newer = group.join(), group.join(), group.join()
    give_to_newest(old)
    give_to_all(old)
    old.close()
    group.send()
    assert min(taken(new, newer)) > 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
def test_a_syn_that_is_dropped_comes_again_and_finds_the_other_one(host: str, stack: ExitStack) -> None:
    group = Group(stack, host)
    old, new = group.join(), group.join()
    refuse_syns(old)
    began = time.monotonic()
    senders = []
    for _ in range(12):
        sender = socket.socket(old.family)
        stack.enter_context(sender).setblocking(False)
        sender.connect_ex((host if host != "::" else "::1", old.getsockname()[1]))
        senders.append(sender)
    assert not has_queued(old)
    old.close()
    taken(new, total=len(senders))
    assert time.monotonic() - began > handover.LAST_HANDSHAKES_S  # unless none was for the old one, once in 4,096 runs


def test_connections_that_are_accepted_keep_working_behind_the_filter(stack: ExitStack) -> None:
    group = Group(stack, "127.0.0.1")
    old = group.join()
    (early,) = group.send(1)
    refuse_syns(old)
    assert has_queued(old)
    accepted, _ = old.accept()
    with accepted:
        accepted.settimeout(5)
        early.sendall(b"question")
        assert accepted.recv(8) == b"question"
        accepted.sendall(b"answer")
        assert early.recv(6) == b"answer"
        early.shutdown(socket.SHUT_WR)
        assert accepted.recv(1) == b""
    assert not has_queued(old)


def test_a_kernel_that_takes_no_programs_changes_nothing(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_ATTACH_FILTER", "_ATTACH_REUSEPORT_CBPF", "_DETACH_REUSEPORT_BPF"):
        monkeypatch.setattr(handover, name, 12345)
    group = Group(stack, "127.0.0.1")
    old, new = group.join(), group.join()
    assert give_to_newest(old)
    refuse_syns(old)
    give_to_all(old)
    group.send()
    assert min(taken(old, new)) > 0


def test_where_proc_is_hidden_it_is_alone(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "open", lambda *_, **__: (_ for _ in ()).throw(PermissionError()), raising=False)
    group = Group(stack, "127.0.0.1")
    old, _ = group.join(), group.join()
    assert (members(old), give_to_newest(old)) == (1, False)
