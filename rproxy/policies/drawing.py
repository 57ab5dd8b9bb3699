"""What the policies that draw at random share: candidates are drawn by weight, and the policy takes one of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import insort
from collections.abc import Collection, Sequence
from typing import Any, Final, Protocol

from rproxy.net.addresses import Address
from rproxy.policies.penalty import faded, is_penalised, with_another
from rproxy.policies.rules import DRAWN
from rproxy.policies.weight_tree import WeightTree
from rproxy.pool.backend import Backend
from rproxy.pool.comparison import OWN_RULE, Comparison, Key, Rule
from rproxy.pool.policy import Explanation

WEIGHT_SCALE: Final = 10
"""Weights are drawn in units of 1 / `WEIGHT_SCALE`: slow start grants tenths."""
QUEUE_PERCENT: Final = 10
"""This much application load counts as much as one failure."""
MANY: Final = 8
"""With fewer back-ends, at least `FEW_CHOICES` are compared: two of three would leave out the best one too often."""
FEW_CHOICES: Final = 4
_GOLDEN: Final = (5**0.5 - 1) / 2


class Rng(Protocol):
    """The source of randomness that policies are given: the part of `random.Random` that they use."""

    def random(self) -> float:
        """A number that is uniform in [0, 1)."""


class Record:
    """What is kept of a back-end: its index in the tree of weights that it is drawn from, and its failures.

    `drawn` is whether it has its weight there; while it is full, it has none. `figures` is for the policy.
    """

    __slots__ = ("backend", "drawn", "failed_at", "failures", "figures", "index", "tree")

    def __init__(self, backend: Backend, index: int, tree: WeightTree, figures: Any) -> None:
        self.backend = backend
        self.index = index
        self.tree = tree
        self.drawn = False
        self.failures = 0.0
        """As of `failed_at`, see `penalty.with_another`."""
        self.failed_at = 0.0
        self.figures = figures


class Drawing(ABC):
    """Draws distinct back-ends in proportion to their weights, and has its `rule` pick one by their `_keys`.

    Back-ends that have failed, see `penalty`, are drawn only if there are no others. The random numbers of a
    choice are kept until a session takes it, so that choosing again gives the same. Every method costs O(log n).

    Unless draws are `independent`, the first candidate is drawn by numbers that are the golden section apart, from a
    random one on (a Kronecker sequence): with few clients, shares are nearer to the weights.
    """

    rule: Rule = DRAWN
    _given: Key = ()
    """What the rule needs besides the keys."""

    def __init__(self, rng: Rng, choices: int = 1, *, independent: bool = False) -> None:
        self._rng = rng
        self._choices = choices
        self._independent = independent
        self._first = rng.random()
        self._numbers: list[float] = [self._first]
        """The random numbers of the next choice, as many as it needed so far."""
        self._records: dict[Backend, Record] = {}
        self._at: list[Record | None] = []
        """Records by index."""
        self._unused: list[int] = []
        """Indices that are None in `_at`."""
        self._sound, self._failed = WeightTree(), WeightTree()

    def value(self, backend: Backend, now: float) -> float:
        """See `Comparing`."""
        return self.explain(backend, now).value

    @abstractmethod
    def explain(self, backend: Backend, now: float) -> Explanation:
        """See `Policy`."""

    def _pick(self, drawn: list[Record], now: float) -> Record:
        """One of those that were drawn, in the order in which they were: at least two. It must change nothing."""
        picked = self.rule.pick(self._keys(drawn, now), self._given)
        return drawn[picked or 0]

    def _keys(self, drawn: list[Record], now: float) -> list[Key]:
        """What `rule` compares of those that were drawn."""
        raise NotImplementedError

    def _weight(self, backend: Backend, figures: Any, now: float) -> int:
        """The weight, at least 1, by which an eligible back-end is drawn until it next reports or fails."""
        return max(1, round(backend.weight * WEIGHT_SCALE))

    def _new_figures(self, now: float) -> Any:
        """`Record.figures` of a back-end that becomes eligible."""
        return None

    def choose(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float
    ) -> Backend | None:
        """See `Policy`."""
        if len(self._records) < len(eligible):
            for backend in eligible:
                self._enter(backend, now)
        drawn = self._draw(self._sound, exclude) or self._draw(self._failed, exclude)
        if not drawn:
            return None
        return (drawn[0] if len(drawn) == 1 else self._pick(drawn, now)).backend

    def compare(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float, most: int
    ) -> Comparison[Backend]:
        """See `Comparing`: those that are drawn."""
        self.choose(eligible, client, exclude, now)
        drawn = self._draw(self._sound, exclude) or self._draw(self._failed, exclude)
        rule, keys, given = self.rule, list[Key](), self._given
        if rule is not DRAWN:
            keys = self._keys(drawn, now) if drawn else keys
        elif not drawn:
            given = (0, 0)  # nobody has any weight
        elif self._choices == 1:
            drawn, keys, given = self._parts(drawn[0], exclude, most)
        else:  # it has a `_pick` of its own
            rule, keys = OWN_RULE, [(self.value(record.backend, now),) for record in drawn]
        more = len(eligible) - len(drawn) - sum(backend.slot >= 0 for backend in exclude)
        return Comparison(rule, [record.backend for record in drawn], keys, given, more)

    def _parts(self, drawn: Record, exclude: Collection[Backend], most: int) -> tuple[list[Record], list[Key], Key]:
        """For `DRAWN`: parts of the weights of all that may be drawn, or of the one `drawn` if they are many."""
        tree = drawn.tree
        taken = self._spans(tree, exclude) if exclude else []
        left = tree.total - sum(weight for _, weight in taken)
        listed = [drawn]
        if len(self._at) <= most:
            of_tree = [record for record in self._at if record is not None and record.tree is tree]
            listed = [record for record in of_tree if tree.weight(record.index) and record.backend not in exclude]
        starts = [tree.start(record.index) for record in listed]
        keys: list[Key] = [
            (start - sum(weight for other, weight in taken if other < start), tree.weight(record.index))
            for start, record in zip(starts, listed, strict=True)
        ]
        return listed, keys, (min(int(self._numbers[0] * left), left - 1), left)

    def _draw(self, tree: WeightTree, exclude: Collection[Backend]) -> list[Record]:
        """The candidates, in the order in which they were drawn; without those that turn out not to be eligible."""
        while tree.total:
            drawn = self._draw_any(tree, exclude)
            gone = [record for record in drawn if record.backend.slot < 0]
            if not gone:
                return drawn
            for record in gone:
                if record.backend.usable:
                    self._hide(record)
                else:
                    self._drop(record.backend)
        return []

    def _draw_any(self, tree: WeightTree, exclude: Collection[Backend]) -> list[Record]:
        taken = self._spans(tree, exclude) if exclude else []
        left = tree.total
        for _, weight in taken:
            left -= weight
        wanted = self._choices
        if 1 < wanted < FEW_CHOICES and tree.count < MANY:
            wanted = FEW_CHOICES
        numbers, drawn = self._numbers, list[Record]()
        while left > 0 and len(drawn) < wanted:
            if len(numbers) == len(drawn):
                numbers.append(self._rng.random())
            point = min(int(numbers[len(drawn)] * left), left - 1)
            for start, weight in taken:
                if point < start:
                    break
                point += weight
            index, start = tree.find(point)
            record = self._at[index]
            assert record is not None
            drawn.append(record)
            if len(drawn) < wanted:
                weight = tree.weight(index)
                insort(taken, (start, weight))
                left -= weight
        return drawn

    def _spans(self, tree: WeightTree, backends: Collection[Backend]) -> list[tuple[int, int]]:
        """Start and weight of those that are in the tree, the lowest start first."""
        records = [self._records.get(backend) for backend in set(backends)]
        return sorted(
            (tree.start(record.index), tree.weight(record.index))
            for record in records
            if record is not None and record.tree is tree
        )

    def opened(self, backend: Backend, now: float) -> None:
        """See `Policy`."""
        self._first = self._rng.random() if self._independent else (self._first + _GOLDEN) % 1
        self._numbers = [self._first]
        if backend.slot < 0 and backend in self._records:
            self._hide(self._records[backend])

    def closed(self, backend: Backend, now: float, served_s: float | None) -> None:
        """See `Policy`: one that was full is drawn again."""
        record = self._records.get(backend)
        if backend.slot >= 0 and (record is None or not record.drawn):
            record = record or self._enter(backend, now)
            self._place(record, record.tree, now)

    def failed(self, backend: Backend, now: float) -> None:
        """See `Policy`."""
        if not backend.usable:
            return
        record = self._enter(backend, now)
        record.failures = with_another(record.failures, record.failed_at, now)
        record.failed_at = now
        self._place(record, self._failed, now)

    def reported(self, backend: Backend, now: float) -> str | None:
        """See `Policy`."""
        if not backend.usable:
            self._drop(backend)
        else:
            record = self._enter(backend, now)
            penalised = record.tree is self._failed and is_penalised(backend, record.failed_at, now)
            self._place(record, self._failed if penalised else self._sound, now)
        return None

    def _enter(self, backend: Backend, now: float) -> Record:
        """The record of a back-end that is eligible or full, made if there is none."""
        record = self._records.get(backend)
        if record is None:
            if self._unused:
                index = self._unused.pop()
            else:
                index = len(self._at)
                self._at.append(None)
            record = Record(backend, index, self._sound, self._new_figures(now))
            self._records[backend] = self._at[index] = record
            self._place(record, self._sound, now)
        return record

    def _place(self, record: Record, tree: WeightTree, now: float) -> None:
        """Have it drawn from this tree, by its present weight; not while it is full."""
        if record.tree is not tree:
            record.tree.set(record.index, 0)
            record.tree = tree
        record.drawn = record.backend.slot >= 0
        tree.set(record.index, self._weight(record.backend, record.figures, now) if record.drawn else 0)

    def _hide(self, record: Record) -> None:
        """It is full: it is not drawn until a session on it ends."""
        record.tree.set(record.index, 0)
        record.drawn = False

    def _drop(self, backend: Backend) -> None:
        record = self._records.pop(backend, None)
        if record is not None:
            record.tree.set(record.index, 0)
            self._at[record.index] = None
            self._unused.append(record.index)


def failures(record: Record | None, now: float) -> float:
    """The back-end's failures, as far as they are not forgotten."""
    if record is None or not record.failures:
        return 0.0
    return faded(record.failures, record.failed_at, now)


def strained(sessions: float, record: Record | None, backend: Backend, now: float) -> float:
    """Sessions with failures and the application's load counted as sessions: each failure as many as are there.

    A back-end that fails fast, or whose accept queue fills, has few sessions and is not idle.
    """
    strain = (backend.report.load or 0 if backend.static is None else backend.load) / QUEUE_PERCENT
    if record is not None and record.failures:
        strain += failures(record, now)
    return sessions + strain * (sessions + 1) if strain else sessions
