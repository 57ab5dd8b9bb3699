"""Signals that come faster than they are dealt with."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest
from twisted.internet.task import Clock

from rproxy.tap.signals import EVERY_S, at_signals


class Interrupted(Clock):
    """A reactor that is hit by the same signal while it is being woken, as in a flood."""

    def __init__(self) -> None:
        super().__init__()
        self.woken = 0
        self.waiting: list[Callable[[], None]] = []

    def callFromThread(self, call: Callable[[], None]) -> None:
        self.woken += 1
        self.waiting.append(call)
        if self.woken < 10_000:
            signal.raise_signal(signal.SIGUSR1)

    def turn(self) -> None:
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            call()


@pytest.fixture(autouse=True)
def _usr1() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_that_interrupts_its_own_handler_is_one_call() -> None:
    reactor = Interrupted()
    called: list[float] = []
    at_signals(reactor, lambda: called.append(reactor.seconds()), "SIGUSR1", "SIGNOSUCH")
    signal.raise_signal(signal.SIGUSR1)
    assert (reactor.woken, called) == (1, [])
    reactor.turn()
    assert called == [0.0]


def test_a_signal_after_the_call_is_another_one_a_second_later() -> None:
    reactor = Interrupted()
    called: list[float] = []
    at_signals(reactor, lambda: called.append(reactor.seconds()), "SIGUSR1")
    for _ in range(3):
        signal.raise_signal(signal.SIGUSR1)
        reactor.turn()
    reactor.advance(EVERY_S)
    assert called == [0.0, EVERY_S]
    assert reactor.getDelayedCalls() == []
