"""Visits all sessions in slices, without blocking the reactor."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rproxy.sessions.service import Service
from rproxy.sessions.session import Session

Slices = Callable[[], Iterator[list[Session]]]
"""Lists sessions in slices, each short enough to be visited in one turn of the reactor."""


def connected(slices: Slices) -> Slices:
    """Lists only the connected ones of the sessions that `slices` lists."""

    def listed() -> Iterator[list[Session]]:
        for sessions in slices():
            yield [session for session in sessions if session.is_connected]

    return listed


def of_service(slices: Slices, service: Service) -> Slices:
    """Lists the connected sessions of `service` alone; `slices` lists those of all services, as a carrier does."""

    def listed() -> Iterator[list[Session]]:
        for sessions in slices():
            yield [session for session in sessions if session.is_connected and session.service is service]

    return listed


class Sweep:
    """Calls `visit` with every session, one slice a turn of the reactor, and then `done`.

    Sessions may begin and end meanwhile, and `visit` may cut the one that it is called with. An exception of `visit`
    ends the slice, not the sweep.
    """

    def __init__(
        self, clock: IReactorTime, slices: Slices, visit: Callable[[Session], None], done: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._list = slices
        self._visit = visit
        self._done = done
        self._slices: Iterator[list[Session]] | None = None
        """Those still to be visited in the present sweep; None between sweeps."""
        self._next_slice: IDelayedCall | None = None
        self._next_sweep: IDelayedCall | None = None

    def repeat(self, every_s: float) -> None:
        """Begin a sweep every `every_s` seconds, the first one in `every_s` seconds."""
        self._next_sweep = self._clock.callLater(every_s, self._again, every_s)

    def _again(self, every_s: float) -> None:
        self.repeat(every_s)  # first, so that an exception does not end the sweeps
        self.begin()

    def begin(self) -> None:
        """Begin a sweep, unless one is under way."""
        if self._slices is None:
            self._slices = self._list()
            self._step()

    def stop(self) -> None:
        """End the present sweep and the repetition; `done` is not called."""
        self._end()
        if self._next_sweep is not None:
            self._next_sweep.cancel()
            self._next_sweep = None

    def _end(self) -> None:
        self._slices = None
        if self._next_slice is not None:
            self._next_slice.cancel()
            self._next_slice = None

    def _step(self) -> None:
        assert self._slices is not None
        self._next_slice = self._clock.callLater(0, self._step)  # first, so that an exception does not end the sweep
        sessions = next(self._slices, None)
        if sessions is None:
            self._end()
            self._done()
            return
        for session in sessions:
            self._visit(session)
