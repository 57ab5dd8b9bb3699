"""The policies: which eligible back-end gets the next client.

All keep their back-ends in one order, lowest rank first, in a heap that is mended lazily: choosing, opening and
closing a session cost O(log n) amortised, whatever the number of back-ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Any, Final, Protocol

from rproxy.pool.backend import Backend
from rproxy.pool.states import State
from rproxy.pool.table import Table
from rproxy.scoring.formula import TCP_TERM, is_saturated, unsaturated
from rproxy.wire.pdu import WEIGHT_NORMAL

SCORE_RESOLUTION: Final = 0.01
"""Scores are compared in steps of this: two points of CPU, or a third of a connection."""

RTT_NOISE_MS: Final = 2.0
"""Round trips below this rank as this: on a LAN their differences tell of wake-ups, not of paths, and would send every
client to one host until the next report. Its term is as large as that of one connection."""
_ROUNDING: Final = 1e-6

Rank = tuple[float, float]


class Rng(Protocol):
    """The part of `random.Random` that policies use."""

    def expovariate(self, lambd: float) -> float: ...


class Policy(Protocol):
    """The seam for a way of choosing.

    `choose` changes nothing that a second call would notice; the session says with `opened` that it follows the
    choice. `failed` says that the back-end did not answer: a probe, or an `opened` session, before its `closed`.
    `reported` comes after everything else that changed the back-end: a datagram, or its growing share.
    """

    def choose(self, table: Table, exclude: Collection[Backend]) -> Backend | None: ...
    def opened(self, backend: Backend) -> None: ...
    def closed(self, backend: Backend) -> None: ...
    def failed(self, backend: Backend) -> None: ...
    def reported(self, backend: Backend) -> None: ...


_SATURATED: Final = 1e13
"""More than any sum: what comes first in the rank of a saturated back-end."""
_Entry = tuple[bool, float, float, int]
"""A rank between what comes before it, a failure, and after it, the turn in which the back-end was chosen last."""
_Standing = tuple[_Entry, int, Backend]
"""One of the heap. A back-end's place holds the very entry under which it stands; any other is left behind."""


class _Place:
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
        self._places: dict[Backend, _Place] = {}
        self._order = count(1)

    def rank(self, backend: Backend) -> Rank:
        """Lower goes first."""
        return self._rank(backend, self._place(backend))

    def _rank(self, backend: Backend, place: _Place) -> Rank:
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

    def _place(self, backend: Backend) -> _Place:
        place = self._places.get(backend)
        if place is None:
            place = self._places[backend] = _Place()
        return place

    def _enter(self, backend: Backend, place: _Place) -> None:
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


_Settled = tuple[float, float, float, float, float, bool]


class ReportPolicy(Ranked):
    """The report's choice (figure 4.4) with the live TCP term; see `formula`.

    Round trips below `RTT_NOISE_MS` count as that. Equal scores go to the back-end with fewest of our sessions, then
    to the one that has waited longest. A weight divides the score, and so does the share of one that starts slowly,
    but only after steps have been made of it: back-ends that start together take turns as ever. When all are
    saturated, they are told apart by the unsaturated formula.
    """

    def __init__(self, saturation: float | None) -> None:
        super().__init__()
        self._saturation = saturation

    def reported(self, backend: Backend) -> None:
        if backend.slot >= 0:
            self._place(backend).own = self._settle(backend)
        super().reported(backend)

    def _settle(self, backend: Backend) -> _Settled:
        """What stays of the score until the next report: the sum without its TCP term, that term's factor, the host's
        connections that are not our sessions, the weight, the share of it while the back-end starts slowly, and whether
        the pool's usual figures stand in for any that are unknown.
        """
        report, weight = backend.report, backend.registration.weight
        cpu, memory = backend.cpu, backend.memory
        loss = 0.0 if backend.state is State.DOWN else backend.losses.rate  # in a panic it tells nothing of the host
        scale = WEIGHT_NORMAL / (weight * SCORE_RESOLUTION)
        rtt_ms = max(backend.rtt.last_ms or 0.0, RTT_NOISE_MS)
        rest = unsaturated(rtt_ms=rtt_ms, tcp=0, loss=loss, cpu=cpu, memory=memory)
        steps = rest * scale + _ROUNDING
        if is_saturated(self._saturation, loss=loss, cpu=cpu, memory=memory):
            steps += _SATURATED
        unknown = report.tcp is None or report.cpu is None or report.memory is None
        return steps, TCP_TERM * scale, backend.others, backend.weight, backend.share, unknown

    def _rank(self, backend: Backend, place: _Place) -> Rank:
        if place.own is None:
            place.own = self._settle(backend)
        elif place.own[5]:
            place.own = self._raised(backend, place.own)
        steps, term, others, weight, share, _ = place.own
        ours = backend.pending + backend.established
        tcp = others + ours
        return (int(steps + term * tcp if tcp > 0 else steps) / share, ours / weight)

    def _raised(self, backend: Backend, own: _Settled) -> _Settled:
        """What is usual changes with everybody's reports. Until its own next one it only rises here: a rank that falls
        would have to be entered anew.
        """
        steps, term, others, weight, share, unknown = own
        now = self._settle(backend)
        return max(steps, now[0]), term, max(others, now[2]), weight, share, unknown


class LeastConnectionsPolicy(Ranked):
    """The back-end with the fewest of our own sessions for its weight."""

    def _rank(self, backend: Backend, place: _Place) -> Rank:
        return ((backend.pending + backend.established + 1) / backend.weight, 0.0)


class TurnPolicy(Ranked):
    """Every back-end has its next turn on one virtual time line; `step` says how far ahead the turn after it lies.

    Equal steps of 1/weight make a weighted round robin. Exponential steps of that mean make the weighted random
    choice: the next event of independent Poisson processes falls to each in proportion to its rate, whatever came
    before.
    """

    def __init__(self, step: Callable[[float], float]) -> None:
        super().__init__()
        self._step = step
        self._time = 0.0

    def _rank(self, backend: Backend, place: _Place) -> Rank:
        if place.own is None:
            place.own = self._turn(backend)
        return (place.own[0], 0.0)

    def _turn(self, backend: Backend) -> tuple[float, float]:
        """Its next turn from now, and the weight for which it was drawn."""
        return self._time + self._step(backend.weight), backend.weight

    def reported(self, backend: Backend) -> None:
        if backend.slot >= 0:
            place = self._place(backend)
            if place.own is not None and place.own[1] != backend.weight:
                turn, weight = place.own
                place.own = self._time + max(0.0, turn - self._time) * weight / backend.weight, backend.weight
        super().reported(backend)

    def opened(self, backend: Backend) -> None:
        super().opened(backend)
        if backend.slot >= 0:
            place = self._place(backend)
            turn, _ = self._rank(backend, place)
            self._time = max(self._time, turn)
            place.own = self._turn(backend)


PolicyFactory = Callable[[float | None, Rng], Policy]
"""Makes a policy from the saturation threshold (a fraction, or None) and a source of randomness."""

POLICIES: Final[dict[str, PolicyFactory]] = {
    "report": lambda saturation, rng: ReportPolicy(saturation),
    "round-robin": lambda saturation, rng: TurnPolicy(lambda weight: 1 / weight),
    "least-connections": lambda saturation, rng: LeastConnectionsPolicy(),
    "random": lambda saturation, rng: TurnPolicy(rng.expovariate),
}
