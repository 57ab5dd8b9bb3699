"""What most policies share: back-ends in the order of a rank, the lowest first, and turns by weight among equals.

They are in a heap with lazy deletion: choosing, opening and closing a session cost O(log n) amortised, whatever the
number of back-ends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Any, Final

from rproxy.net.addresses import Address
from rproxy.policies.penalty import is_penalised
from rproxy.policies.rules import LOWEST
from rproxy.pool.backend import Backend
from rproxy.pool.comparison import Comparison, Key
from rproxy.pool.policy import Explanation

Rank = tuple[float, float]

_Entry = tuple[bool, float, float, int, "Place"]
"""Of the heap: (failed, rank, rank, last chosen, place). Live only if it is the `Place.entry` of that place.

The fourth differs between back-ends, so that two places are never compared.
"""
_NEVER_CHOSEN: Final = -(1 << 52)
"""Back-ends that were never chosen are numbered from here, and so precede all others. Exact as a float."""
LOOKS: Final = 4
"""Entries of the heap that are looked at for each candidate of a comparison, dead ones included."""


class Place:
    """What is kept of a back-end: its live entry, when it was last chosen, and whether it failed and when (in s).

    `turn` is the virtual time of its next turn, see `Ranked`, and `step` how far apart its turns are. `figures` caches
    values derived from a report, and is dropped at the next one.
    """

    __slots__ = ("backend", "chosen", "entry", "failed", "failed_at", "figures", "step", "turn")

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.entry: _Entry | None = None
        self.chosen = 0
        self.failed = False
        self.failed_at = 0.0
        self.figures: Any = None
        self.turn = 0.0
        self.step = 1.0


class Ranked(ABC):
    """Chooses the eligible back-end of the lowest rank; one that failed comes after all others, see `penalty`.

    Invariant: every eligible back-end has a live entry in the heap that is not above its rank. So one whose rank rises
    is left alone until it reaches the top, and only one whose rank falls is pushed anew. A full one loses its entry
    when it reaches the top, and is entered again when a session on it ends.

    For turns by weight there is a virtual time, as in start-time fair queuing (Goyal, Vin and Cheng, SIGCOMM 1996): it
    advances to the turn of each back-end that is chosen, whose next turn comes a `Place.step` later. One that was
    passed over does not catch up. A rank may use `turn`, and the maximum of `turn` and `_time`, which both only rise.
    """

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._most = 0
        """The heap's length above which most of its entries are dead."""
        self._places: dict[Backend, Any] = {}
        self._order = count(1)
        self._arrivals = count(_NEVER_CHOSEN)
        self._now = 0.0
        """When a method was last called, in s."""
        self._time = 0.0
        """Virtual time: the latest turn that was taken."""

    def rank(self, backend: Backend) -> Rank:
        """The rank of a back-end when a method was last called: the lowest is chosen."""
        return self._rank(backend, self._places.get(backend) or self._new_place(backend))

    @abstractmethod
    def _rank(self, backend: Backend, place: Any) -> Rank:
        """The rank of a back-end. It may fall only when one of the `Policy` methods is called for the back-end, and
        rise at any time.
        """

    def _new_place(self, backend: Backend) -> Place:
        """Of a back-end that is seen for the first time, or again."""
        place = Place(backend)
        place.turn = self._time
        return place

    def _dropped(self, place: Any) -> None:
        """Called when a back-end is kept no more: sums over all have to leave out its part."""
        return

    def choose(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float
    ) -> Backend | None:
        """See `Policy`."""
        self._now = now
        if len(self._heap) > self._most:
            self._compact()
        if len(self._heap) < len(eligible):
            self._enter_all(eligible)
        heap = self._heap
        held: list[_Entry] | None = None
        found = None
        while heap:
            old = heap[0]
            place = old[4]
            if place.entry is not old:
                heappop(heap)
                continue
            backend = place.backend
            if backend.slot < 0:
                heappop(heap)
                if backend.usable:
                    place.entry = None
                else:
                    self._drop(backend)
                continue
            first, second = self._rank(backend, place)
            entry = (place.failed, first, second, place.chosen, place)
            if entry > old:
                place.entry = entry
                heapreplace(heap, entry)
                if heap[0] is not entry:
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
        if backend.usable:
            self._take_turn(self._places.get(backend) or self._place(backend))

    def _take_turn(self, place: Place) -> None:
        place.chosen = next(self._order)
        if place.turn > self._time:
            self._time = place.turn
        place.turn = self._time + place.step

    def _set_step(self, place: Place, step: float) -> None:
        """Set how far apart its turns are from now on; the time left until its next one is scaled."""
        left = place.turn - self._time
        if left > 0:
            place.turn = self._time + left * step / place.step
        place.step = step

    def failed(self, backend: Backend, now: float) -> None:
        """See `Policy`."""
        if backend.usable:
            place = self._place(backend)
            place.failed, place.failed_at = True, now

    def reported(self, backend: Backend, now: float) -> str | None:
        """See `Policy`."""
        self._now = now
        if not backend.usable:
            self._drop(backend)
            return None
        place = self._places.get(backend) or self._place(backend)
        if place.failed:
            place.failed = is_penalised(backend, place.failed_at, now)
        place.figures = None
        self._enter(place)
        return None

    def _place(self, backend: Backend) -> Any:
        """Hot paths look `_places` up themselves first, which saves a call."""
        place = self._places.get(backend)
        if place is None:
            place = self._places[backend] = self._new_place(backend)
            place.chosen = next(self._arrivals)
        return place

    def _enter(self, place: Place) -> None:
        """Push a back-end whose rank has fallen; nothing if it is not eligible."""
        backend = place.backend
        if backend.slot < 0:
            return
        first, second = self._rank(backend, place)
        entry = (place.failed, first, second, place.chosen, place)
        old = place.entry
        if old is not None:
            if entry >= old:
                return
            if self._heap[0] is old:  # the first one stays the first
                self._heap[0] = place.entry = entry
                return
        if len(self._heap) > self._most:
            self._compact()
        heappush(self._heap, entry)
        place.entry = entry

    def closed(self, backend: Backend, now: float, served_s: float | None) -> None:
        """See `Policy`."""
        self._now = now
        place = self._places.get(backend)
        if place is not None:
            self._enter(place)
        elif backend.slot >= 0:
            self._enter(self._place(backend))

    def compare(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float, most: int
    ) -> Comparison[Backend]:
        """See `Comparing`: of more back-ends those with the lowest entries, since none has a rank below its entry."""
        self.choose(eligible, client, exclude, now)
        heap, looks = self._heap, LOOKS * most
        candidates, keys = list[Backend](), list[Key]()
        ahead = [(heap[0], 0)] if heap else []
        while ahead and looks and len(candidates) < most:
            looks -= 1
            entry, index = heappop(ahead)
            place = entry[4]
            if place.entry is entry and place.backend.slot >= 0 and place.backend not in exclude:
                candidates.append(place.backend)
                keys.append((place.failed, *self._peek(place.backend, place), place.chosen))
            for child in (2 * index + 1, 2 * index + 2):
                if child < len(heap):
                    heappush(ahead, (heap[child], child))
        more = len(eligible) - len(candidates) - sum(backend.slot >= 0 for backend in exclude)
        return Comparison(LOWEST, candidates, keys, more=more, floor=ahead[0][0][:4] if ahead else None)

    def _peek(self, backend: Backend, place: Any) -> Rank:
        """A back-end's rank, computed without side effects: only choices may age and cache figures."""
        figures = place.figures
        rank = self._rank(backend, place)
        place.figures = figures
        return rank

    def value(self, backend: Backend, now: float) -> float:
        """See `Comparing`."""
        self._now = now
        return self._peek(backend, self._places.get(backend) or self._new_place(backend))[0]

    def explain(self, backend: Backend, now: float) -> Explanation:
        """See `Policy`: the first part of the rank; the second one decides only between equal ones."""
        self._now = now
        first, second = self._peek(backend, self._places.get(backend) or self._new_place(backend))
        return Explanation(first, {"then by": second})

    def _drop(self, backend: Backend) -> None:
        place = self._places.pop(backend, None)
        if place is not None:
            place.entry = None
            self._dropped(place)

    def _compact(self) -> None:
        """Remove dead entries. Also called when nothing is chosen for long, so that the heap stays bounded."""
        for backend in [backend for backend in self._places if not backend.usable]:
            self._drop(backend)
        self._heap = [entry for entry in self._heap if entry[4].entry is entry]
        heapify(self._heap)
        self._most = 2 * len(self._heap) + 64

    def _enter_all(self, backends: Iterable[Backend]) -> None:
        """Enter many at once: their ranks have changed, or they are not known yet."""
        for backend in list(backends):
            self._enter(self._place(backend))
