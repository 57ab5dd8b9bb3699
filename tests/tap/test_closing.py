"""Closing listeners without losing clients: those in the accept queues, and those who shake hands."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from rproxy.net import handover
from rproxy.net.binding import CAN_HAND_OVER, Binding
from rproxy.net.handover import LAST_HANDSHAKES_S
from rproxy.net.tcp_port import TcpPort
from rproxy.tap.closing import QUEUE_S, Closing
from tests.fakes import Port, run
from tests.tap.services import ended

AT = "127.0.0.1"


class Listening(TcpPort):
    """A port with a real socket, which nobody reads, on a reactor without descriptors."""

    def __init__(self, stack: ExitStack, number: int = 0, *, reuse_port: bool = False) -> None:
        super().__init__(number, Factory(), Binding(AT, reuse_port=reuse_port), 10, None)
        self.socket = stack.enter_context(self.binding.prepared(socket.socket()))
        self.socket.bind((AT, number))
        self.socket.listen(10)
        self.socket.setblocking(False)
        self.address = self.socket.getsockname()

    def loseConnection(self, connDone: Any = None) -> Deferred[None]:  # noqa: N803
        self.socket.close()
        return succeed(None)

    stopListening = loseConnection

    @property
    def is_open(self) -> bool:
        return self.socket.fileno() >= 0


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def closing(clock: Clock, *ports: Any) -> tuple[Closing, list[object]]:
    begun = Closing(clock, ports)
    return begun, ended(begun.start())


def test_where_nobody_is_queued_it_is_at_once(stack: ExitStack) -> None:
    clock, port, fake = Clock(), Listening(stack, reuse_port=True), Port("TCP", 80, "")
    _, done = closing(clock, port, fake)
    assert (len(done), port.is_open, fake.open, clock.getDelayedCalls()) == (1, False, False, [])


def test_who_is_queued_is_waited_for_until_accepted(stack: ExitStack) -> None:
    clock, port = Clock(), Listening(stack)
    stack.enter_context(socket.create_connection(port.address))
    _, done = closing(clock, port)
    run(clock, QUEUE_S / 2)
    assert (done, port.is_open) == ([], True)
    stack.enter_context(port.socket.accept()[0])
    run(clock, 0.05)
    assert (len(done), port.is_open, clock.getDelayedCalls()) == (1, False, [])


def test_who_is_not_accepted_is_not_waited_for_for_ever(stack: ExitStack) -> None:
    clock, port = Clock(), Listening(stack)
    stack.enter_context(socket.create_connection(port.address))
    _, done = closing(clock, port)
    run(clock, QUEUE_S + 0.05)
    assert (len(done), port.is_open) == (1, False)


def noting(steps: list[str], name: str) -> Callable[[socket.socket], None]:
    """The function of `handover` of that name, which adds its name to `steps`, too."""
    call: Callable[[socket.socket], None] = getattr(handover, name)

    def noted(sock: socket.socket) -> None:
        steps.append(name)
        call(sock)

    return noted


@pytest.mark.skipif(not CAN_HAND_OVER, reason="needs Linux")
def test_a_port_that_another_process_has_too_stays_for_the_time_of_a_handshake(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    for step in ("refuse_syns", "give_to_all"):
        monkeypatch.setattr(handover, step, noting(steps, step))
    clock, old = Clock(), Listening(stack, reuse_port=True)
    new, alone = Listening(stack, old.address[1], reuse_port=True), Listening(stack)
    _, done = closing(clock, old, alone)
    client = stack.enter_context(socket.create_connection(old.address))
    run(clock, LAST_HANDSHAKES_S - 0.05)
    assert (done, old.is_open, steps) == ([], True, ["refuse_syns"])
    with pytest.raises(BlockingIOError):
        old.socket.accept()
    with new.socket.accept()[0] as accepted:
        assert accepted.getpeername() == client.getsockname()
    run(clock, 0.1)
    assert (len(done), old.is_open, alone.is_open, steps) == (1, False, False, ["refuse_syns", "give_to_all"])


def test_told_to_hurry_it_closes_at_once_and_once(stack: ExitStack) -> None:
    clock, port = Clock(), Listening(stack)
    stack.enter_context(socket.create_connection(port.address))
    begun, done = closing(clock, port)
    begun.finish()
    begun.finish()
    assert (len(done), port.is_open, clock.getDelayedCalls()) == (1, False, [])
