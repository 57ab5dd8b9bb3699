"""A reset that waits until the data written before it has been acknowledged."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IPullProducer, IReadWriteDescriptor
from zope.interface import implementer

from rproxy.net.tcp_state import unacknowledged
from rproxy.timing.wheel import Wheel

_FLUSH_POLL_S: Final = 0.1
"""Between checks of what the kernel still holds."""


class Flushable(Hashable, Protocol):
    """A protocol whose transport is to be flushed and reset."""

    deadlines: Wheel
    transport: Any


@implementer(IPullProducer)
class Flush:
    """Resets a connection once all data written to it has been acknowledged, or `within_s` seconds have passed.

    A reset discards what the kernel still holds. As a pull producer it is called when the transport's buffer is empty.
    """

    def __init__(self, side: Flushable, within_s: float) -> None:
        self._side = side
        self._until = side.deadlines.seconds() + within_s
        self._resumes = 0

    def start(self) -> None:
        self._side.deadlines.arm(self._side, _FLUSH_POLL_S, self._poll)
        self._side.transport.registerProducer(self, False)
        if IReadWriteDescriptor.providedBy(self._side.transport):
            descriptor: Any = self._side.transport
            descriptor.startWriting()

    def resumeProducing(self) -> None:
        """The transport's buffer is empty, except at the first call, which comes with the registration."""
        self._resumes += 1
        self._reset_if_flushed()

    def stopProducing(self) -> None:
        self._side.deadlines.disarm(self._side)

    def _poll(self) -> None:
        if self._side.deadlines.seconds() >= self._until:
            self._reset()
        elif not self._reset_if_flushed():
            self._side.deadlines.arm(self._side, _FLUSH_POLL_S, self._poll)

    def _reset_if_flushed(self) -> bool:
        if self._resumes < 2 or unacknowledged(self._side.transport):
            return False
        self._reset()
        return True

    def _reset(self) -> None:
        self._side.deadlines.disarm(self._side)
        self._side.transport.unregisterProducer()
        self._side.transport.abortConnection()
