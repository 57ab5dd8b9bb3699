"""What the policies have in common: back-ends in one order, the lowest rank first.

They stand in a heap that is mended lazily: choosing, opening and closing a session cost O(log n) amortised, whatever
the number of back-ends.
"""

from __future__ import annotations

from collections.abc import Collection
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Any

from rproxy.pool.backend import Backend
from rproxy.pool.table import Table

Rank = tuple[float, float]

_Entry = tuple[bool, float, float, int]
"""A rank between what comes before it, a failure, and after it, the turn in which the back-end was chosen last."""
_Standing = tuple[_Entry, int, Backend]
"""One of the heap. A back-end's place holds the very entry under which it stands; any other is left behind."""


class Place:
    """What the order keeps of one back-end: the lowest rank it stands under, when it was chosen, whether it failed.

    `own` is the policy's: what it needs of the back-end at every choice, without looking further.
    """

    __slots__ = ("chosen", "entered", "failed", "own")

    def __init__(self) -> None:
        self.entered: _Entry | None = None
        self.chosen = 0
        self.failed = False
        self.own: Any = None


class Ranked:
    """The eligible back-end of the lowest rank; one that failed comes after all others until its next report.

    Invariant: an eligible back-end stands in the heap under a rank not above its own. A rank that rises is therefore
    left alone until it reaches the top, and only one that falls is entered anew.
    """

    def __init__(self) -> None:
        self._heap: list[_Standing] = []
        self._most = 0
        """The heap's length at which it is mostly what has been left behind."""
        self._places: dict[Backend, Place] = {}
        self._order = count(1)

    def rank(self, backend: Backend) -> Rank:
        """Lower goes first."""
        return self._rank(backend, self._place(backend))

    def _rank(self, backend: Backend, place: Place) -> Rank:
        """May change only where a `Policy` method is called."""
        raise NotImplementedError

    def choose(self, table: Table, exclude: Collection[Backend]) -> Backend | None:
        if len(self._heap) > self._most or not self._heap:
            self._rebuild(table)
        heap, places = self._heap, self._places
        held: list[_Standing] = []
        found = None
        while heap:
            entered, order, backend = heap[0]
            place = places.get(backend)
            if place is None or place.entered is not entered:
                heappop(heap)
                continue
            if backend.slot < 0:
                heappop(heap)
                self._forget(backend)
                continue
            first, second = self._rank(backend, place)
            entry = (place.failed, first, second, place.chosen)
            if entry > entered:
                place.entered = entry
                heapreplace(heap, (entry, order, backend))
                if heap[0][0] is not entry:
                    continue
            if exclude and backend in exclude:
                held.append(heappop(heap))
                continue
            found = backend
            break
        for kept in held:
            heappush(heap, kept)
        return found

    def opened(self, backend: Backend) -> None:
        if backend.slot >= 0:
            self._place(backend).chosen = next(self._order)

    def closed(self, backend: Backend) -> None:
        if backend.slot >= 0:
            place = self._places.get(backend)
            self._enter(backend, self._place(backend) if place is None else place)

    def failed(self, backend: Backend) -> None:
        if backend.slot >= 0:
            self._place(backend).failed = True

    def reported(self, backend: Backend) -> None:
        if backend.slot < 0:
            self._forget(backend)
            return
        place = self._place(backend)
        place.failed = False
        self._enter(backend, place)

    def _place(self, backend: Backend) -> Place:
        place = self._places.get(backend)
        if place is None:
            place = self._places[backend] = Place()
        return place

    def _enter(self, backend: Backend, place: Place) -> None:
        first, second = self._rank(backend, place)
        entry = (place.failed, first, second, place.chosen)
        entered = place.entered
        if entered is not None:
            if entry >= entered:
                return
            top = self._heap[0]
            if top[0] is entered:  # the first place stays the first
                self._heap[0] = (entry, top[1], backend)
                place.entered = entry
                return
        if len(self._heap) > self._most:
            self._compact()
        heappush(self._heap, (entry, next(self._order), backend))
        place.entered = entry

    def _forget(self, backend: Backend) -> None:
        self._places.pop(backend, None)

    def _compact(self) -> None:
        """Also where nobody comes to choose, the heap does not keep what has been left behind."""
        for backend in [backend for backend in self._places if backend.slot < 0]:
            self._forget(backend)
        self._heap = [standing for standing in self._heap if self._stands(standing)]
        heapify(self._heap)
        self._most = 2 * len(self._heap) + 64

    def _stands(self, standing: _Standing) -> bool:
        entry, _, backend = standing
        place = self._places.get(backend)
        return place is not None and place.entered is entry

    def _rebuild(self, table: Table) -> None:
        self._compact()
        for backend in table.eligible:
            self._enter(backend, self._place(backend))
