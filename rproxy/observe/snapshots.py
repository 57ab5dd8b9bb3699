"""Documents that are rendered in pieces, and once for all who ask at about the same time."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Final

import attrs
from twisted.logger import Logger

from rproxy.timing.rate_limit import RateLimit
from rproxy.timing.work_queue import WorkQueue

REUSED_S: Final = 0.0025
"""For so long, for each piece beyond the first, a document is given out again: rendering takes a tenth of a core at
most, and what is rendered in one go is always new.
"""
OUTDATED_BYTES: Final = 32 << 20
"""Of older snapshots that are still being sent: beyond them, who reads the oldest one is cut off."""
LOG_EVERY_S: Final = 10.0


@attrs.define(eq=False)
class Snapshot:
    """A document as it was at one time; whoever is sent it shares it."""

    pieces: tuple[bytes, ...] | None
    """None once it is too old to be sent on."""
    size: int
    """In bytes."""


class Snapshots:
    """Those of one document. `render` begins a new one and yields it piece by piece; other work comes in between."""

    log = Logger()

    def __init__(self, render: Callable[[], Iterator[bytes]], work: WorkQueue, seconds: Callable[[], float]) -> None:
        self._render = render
        self._work = work
        self._seconds = seconds
        self._last: Snapshot | None = None
        self._made: list[weakref.ref[Snapshot]] = []
        """Those that somebody is still sent, the oldest first."""
        self._reused_until = float("-inf")
        self._rendering: Iterator[bytes] = iter(())
        self._rendered: list[bytes] = []
        self._asking: list[Callable[[Snapshot | None], None]] = []
        self._failures = RateLimit.once_in(LOG_EVERY_S)

    def ask(self, ready: Callable[[Snapshot | None], None]) -> None:
        """Call `ready` with a snapshot, now or later; with None if it could not be rendered."""
        if self._last is not None and self._seconds() < self._reused_until:
            ready(self._last)
            return
        self._asking.append(ready)
        if len(self._asking) == 1:
            self._last = None
            self._rendered = []
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
            self._rendered.append(piece)
            self._work.add(self._go_on)
            return
        self._last = self._new()
        self._reused_until = self._seconds() + REUSED_S * (len(self._rendered) - 1)
        self._answer(self._last)

    def _new(self) -> Snapshot:
        made = [snapshot for reference in self._made if (snapshot := reference()) is not None]
        while sum(snapshot.size for snapshot in made) > OUTDATED_BYTES:
            made.pop(0).pieces = None
        made.append(Snapshot(tuple(self._rendered), sum(map(len, self._rendered))))
        self._made = [weakref.ref(snapshot) for snapshot in made]
        return made[-1]

    def _answer(self, snapshot: Snapshot | None) -> None:
        asking, self._asking = self._asking, []
        for ready in asking:
            ready(snapshot)
