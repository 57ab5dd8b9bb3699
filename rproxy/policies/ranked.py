"""What most policies share: back-ends in the order of a rank, the lowest first.

They are in a heap with lazy deletion: choosing, opening and closing a session cost O(log n) amortised, whatever the
number of back-ends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Any

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend
from rproxy.pool.policy import Explanation

Rank = tuple[float, float]

_Key = tuple[bool, float, float, int]
"""Heap key: (failed, rank, rank, last chosen)."""
_Entry = tuple[_Key, int, Backend]
"""Lazy deletion: live only if its key is identical to `place.key`. The number breaks ties."""


class Place:
    """A back-end's place in the order: its live key, the turn in which it was last chosen, and whether it failed.

    `figures` caches values derived from a report, and is dropped at the next one. `turn` is for the policy.
    """

    __slots__ = ("chosen", "failed", "figures", "key", "turn")

    def __init__(self) -> None:
        self.key: _Key | None = None
        self.chosen = 0
        self.failed = False
        self.figures: Any = None
        self.turn: Any = None


class Ranked(ABC):
    """Chooses the eligible back-end of the lowest rank; one that failed comes after all others until it next reports.

    Invariant: every eligible back-end has a live entry in the heap whose key is not above its own. So one whose rank
    rises is left alone until it reaches the top, and only one whose rank falls is pushed anew.
    """

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._most = 0
        """The heap's length above which most of its entries are dead."""
        self._places: dict[Backend, Place] = {}
        self._order = count(1)

    def rank(self, backend: Backend) -> Rank:
        """The rank of a back-end now: the lowest is chosen."""
        return self._rank(backend, self._place(backend))

    @abstractmethod
    def _rank(self, backend: Backend, place: Place) -> Rank:
        """The rank of a back-end. It may fall only when one of the `Policy` methods is called for the back-end, and
        rise at any time.
        """

    def choose(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float
    ) -> Backend | None:
        """See `Policy`."""
        if len(self._heap) > self._most or not self._heap:
            self._rebuild(eligible)
        heap, places = self._heap, self._places
        held: list[_Entry] | None = None
        found = None
        while heap:
            old, order, backend = heap[0]
            place = places.get(backend)
            if place is None or place.key is not old:
                heappop(heap)
                continue
            if backend.slot < 0:
                heappop(heap)
                del places[backend]
                continue
            first, second = self._rank(backend, place)
            key = (place.failed, first, second, place.chosen)
            if key > old:
                place.key = key
                heapreplace(heap, (key, order, backend))
                if heap[0][0] is not key:
                    continue
            if exclude and backend in exclude:
                held = held or []
                held.append(heappop(heap))
                continue
            found = backend
            break
        if held is not None:
            for kept in held:
                heappush(heap, kept)
        return found

    def opened(self, backend: Backend, now: float) -> None:
        """See `Policy`."""
        if backend.slot >= 0:
            place = self._places.get(backend) or self._place(backend)
            place.chosen = next(self._order)

    def failed(self, backend: Backend, now: float) -> None:
        """See `Policy`."""
        if backend.slot >= 0:
            self._place(backend).failed = True

    def reported(self, backend: Backend, now: float) -> str | None:
        """See `Policy`."""
        if backend.slot < 0:
            self._places.pop(backend, None)
            return None
        place = self._places.get(backend) or self._place(backend)
        place.failed = False
        place.figures = None
        self._enter(backend)
        return None

    def _place(self, backend: Backend) -> Place:
        """Hot paths look `_places` up themselves first, which saves a call."""
        place = self._places.get(backend)
        if place is None:
            place = self._places[backend] = Place()
        return place

    def _enter(self, backend: Backend) -> None:
        """Push a back-end whose key has fallen; nothing if it is not eligible."""
        if backend.slot < 0:
            return
        place = self._places.get(backend) or self._place(backend)
        first, second = self._rank(backend, place)
        key = (place.failed, first, second, place.chosen)
        old = place.key
        if old is not None:
            if key >= old:
                return
            top = self._heap[0]
            if top[0] is old:  # the first one stays the first
                self._heap[0] = (key, top[1], backend)
                place.key = key
                return
        if len(self._heap) > self._most:
            self._compact()
        heappush(self._heap, (key, next(self._order), backend))
        place.key = key

    def closed(self, backend: Backend, now: float, served_s: float | None) -> None:
        """See `Policy`."""
        self._enter(backend)

    def explain(self, backend: Backend, now: float) -> Explanation:
        """See `Policy`: the first part of the rank; the second one decides only between equal ones."""
        first, second = self.rank(backend)
        return Explanation(first, {"then by": second})

    def _compact(self) -> None:
        """Remove dead entries. Also called when nothing is chosen for long, so that the heap stays bounded."""
        for backend in [backend for backend in self._places if backend.slot < 0]:
            del self._places[backend]
        self._heap = [entry for entry in self._heap if self._is_live(entry)]
        heapify(self._heap)
        self._most = 2 * len(self._heap) + 64

    def _is_live(self, entry: _Entry) -> bool:
        key, _, backend = entry
        place = self._places.get(backend)
        return place is not None and place.key is key

    def _rebuild(self, eligible: Sequence[Backend]) -> None:
        self._compact()
        for backend in eligible:
            self._enter(backend)
