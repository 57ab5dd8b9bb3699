"""Documents rendered piece by piece, and once for all requests of about the same time."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import attrs
from twisted.logger import Logger

from rproxy.timing.rate_limit import LOG_EVERY_S, RateLimit
from rproxy.timing.work_queue import WorkQueue

REUSED_S: Final = 0.005
"""How long a document is reused, for each of its pieces beyond the first.

So rendering takes a tenth of a core at most, and a document of one piece is always new.
"""
OUTDATED_BYTES: Final = 32 << 20
"""Most bytes of older snapshots that are still being sent; beyond it, the oldest one is given up."""


class Outdated(Exception):
    """A snapshot has been given up: its client is to be disconnected."""


@attrs.define(eq=False)
class Snapshot:
    """A document as it was at one time, shared by all clients that it is sent to."""

    pieces: tuple[bytes, ...] | None
    """None once it has been given up."""
    size: int
    """Bytes."""

    def read(self) -> Iterator[bytes]:
        """Its pieces. Raises `Outdated` when the next one is asked for after it has been given up."""
        number = 0
        while True:
            if self.pieces is None:
                raise Outdated
            if number == len(self.pieces):
                return
            yield self.pieces[number]
            number += 1


class Shared:
    """The snapshots that are still being sent: if they are too large together, the oldest is given up."""

    def __init__(self) -> None:
        self._made: list[weakref.ref[Snapshot]] = []
        """The oldest first."""

    def new(self, pieces: Iterable[bytes]) -> Snapshot:
        """Add a snapshot, giving up the oldest ones if they have grown too large."""
        made = [snapshot for reference in self._made if (snapshot := reference()) is not None]
        while sum(snapshot.size for snapshot in made) > OUTDATED_BYTES:
            made.pop(0).pieces = None
        kept = tuple(pieces)
        made.append(Snapshot(kept, sum(map(len, kept))))
        self._made = [weakref.ref(snapshot) for snapshot in made]
        return made[-1]


class Snapshots:
    """The snapshots of one document. `render` yields a new one piece by piece, one in each turn of the reactor.

    A piece may be empty: then there was work that wrote nothing.
    """

    log = Logger()

    def __init__(self, render: Callable[[], Iterator[bytes]], work: WorkQueue, seconds: Callable[[], float]) -> None:
        self._render = render
        self._work = work
        self._seconds = seconds
        self._last: Snapshot | None = None
        self._shared = Shared()
        self._reused_until = float("-inf")
        self._rendering: Iterator[bytes] = iter(())
        self._rendered: list[bytes] = []
        self._turns = 0
        """That rendering has taken so far."""
        self._ready: list[Callable[[Snapshot | None], None]] = []
        self._failures = RateLimit.once_in(LOG_EVERY_S)

    def request(self, ready: Callable[[Snapshot | None], None]) -> None:
        """Call `ready` with a snapshot, now or later; with None if rendering failed."""
        if self._last is not None and self._seconds() < self._reused_until:
            ready(self._last)
            return
        self._ready.append(ready)
        if len(self._ready) == 1:
            self._last = None
            self._rendered, self._turns = [], 0
            self._rendering = self._render()
            self._work.add(self._go_on)

    def _go_on(self) -> None:
        try:
            piece = next(self._rendering, None)
        except Exception:
            if self._failures.admit(self._seconds()):
                self.log.failure("a document for operators cannot be rendered")
            self._answer(None)
            return
        if piece is not None:
            self._turns += 1
            if piece:
                self._rendered.append(piece)
            self._work.add(self._go_on)
            return
        self._last = self._shared.new(self._rendered)
        self._reused_until = self._seconds() + REUSED_S * (self._turns - 1)
        self._answer(self._last)

    def _answer(self, snapshot: Snapshot | None) -> None:
        waiting, self._ready = self._ready, []
        for ready in waiting:
            ready(snapshot)
