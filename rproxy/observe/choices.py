"""The last choices of every service: what was compared, and why the winner won."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import chain, count
from math import nan
from time import perf_counter
from typing import Final

import attrs
from twisted.logger import Logger

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend
from rproxy.pool.comparison import OWN_RULE, Candidate, Comparison, Key, Rule
from rproxy.pool.policy import Explanation
from rproxy.pool.pool import Pool
from rproxy.sessions.link import Link
from rproxy.timing.cpu_budget import CpuBudget
from rproxy.timing.rate_limit import LOG_EVERY_S, RateLimit

KEPT: Final = 1000
"""Choices kept of each service."""
CANDIDATES_MAX: Final = 64
"""Most candidates recorded where a policy ranks them: those with the lowest entries."""


@attrs.frozen
class Compared:
    """One comparison as it was recorded; in arrays, since there are many."""

    rule: Rule
    names: tuple[str, ...]
    """Of the candidates."""
    given: Key
    more: int
    floor: Key | None
    _keys: array[float]
    values: array[float]
    """What `Policy.explain` said of each candidate."""
    ages_s: array[float]
    """How old its report was, in s; not a number where there was none."""
    _terms: array[float]
    _term_names: tuple[tuple[str, ...], ...]

    @classmethod
    def of(
        cls,
        comparison: Comparison[Backend],
        explanations: Sequence[Explanation],
        ages_s: Sequence[float | None],
    ) -> Compared:
        """The record of a comparison, with the explanation of each candidate. Raises `ValueError` or `TypeError`."""
        rule, candidates, terms = comparison.rule, comparison.candidates, [each.terms for each in explanations]
        names: dict[tuple[str, ...], tuple[str, ...]] = {}  # one object for all that are equal
        keys = array("d", chain.from_iterable(comparison.keys))
        if len(keys) != len(candidates) * len(rule.parts) or len(comparison.given) != len(rule.given):
            raise ValueError(f"the rule {rule.name} has other numbers than {rule.parts} and {rule.given}")
        return cls(
            rule,
            tuple(backend.name for backend in candidates),
            tuple(map(float, comparison.given)),
            int(comparison.more),
            None if comparison.floor is None else tuple(map(float, comparison.floor)),
            keys,
            array("d", (explanation.value for explanation in explanations)),
            array("d", (nan if age_s is None else age_s for age_s in ages_s)),
            array("d", chain.from_iterable(each.values() for each in terms)),
            tuple(names.setdefault(each, each) for each in map(tuple, terms)),
        )

    @property
    def keys(self) -> list[Key]:
        """What the rule compared of each candidate."""
        width, keys = len(self.rule.parts), self._keys
        return [tuple(keys[start : start + width]) for start in range(0, len(keys), width)]

    @property
    def seen(self) -> list[Candidate]:
        """The candidates with their values and keys."""
        return list(map(Candidate, self.names, self.values, self.keys))

    @property
    def picked(self) -> int | None:
        """The index of the one that the rule picks; None if it picks none."""
        return self.rule.pick(self.keys, self.given) if self.names else None

    @property
    def terms(self) -> list[dict[str, float]]:
        """The parts of each candidate's value, by name."""
        numbers = iter(self._terms)
        return [dict(zip(names, numbers, strict=False)) for names in self._term_names]


@attrs.frozen
class Choice:
    """One choice, as it was recorded."""

    id: int
    """Counts up from 1 over all services."""
    at: float
    """Unix time, in s."""
    session: int
    """`Session.id`."""
    client: str
    """As `Link.client_address` has it."""
    host: str | None
    """The client's IP address; None where it has none."""
    chosen: str | None
    """The name of the back-end that got the client; None if there was none."""
    compared: tuple[Compared, ...]
    """In order: each one decides if those before it picked none. Empty if the policy failed."""
    tried: tuple[str, ...]
    """Back-ends that were left out because the connect to them had failed."""
    full: int
    """Back-ends that had as many sessions as they may."""
    ineligible: int
    """Back-ends that were not up, or drained."""

    def recomputed(self) -> str | None:
        """The winner, computed anew from the record alone; None if the policy does not tell its rule, or has failed."""
        comparison: Comparison[str] | None = None
        for each in reversed(self.compared):
            comparison = Comparison(each.rule, each.names, each.keys, each.given, each.more, each.floor, comparison)
        return None if comparison is None else comparison.winner()

    def why(self) -> str:
        """Why this back-end: one sentence for operators."""
        if self.chosen is None:
            return "no back-end could get the client"
        if not self.compared:
            return "not known: the policy failed to tell what it compares"
        if any(each.rule is OWN_RULE for each in self.compared):
            return "by a rule that the policy does not tell"
        recomputed = self.recomputed()
        if self.chosen != recomputed:
            return f"the policy failed to choose {recomputed}, so another eligible back-end was taken"
        passed = ""
        for each in self.compared:
            if each.picked is not None:
                return passed + each.rule.say(each.seen, each.given, each.picked)
            if each.names:
                passed += f"no room by {each.rule.name} on {', '.join(each.names)}, so the policy decided: "
        raise AssertionError("a choice that was recomputed has a rule that picks one")

    def concerns(self, backend: str) -> bool:
        """Whether a back-end was chosen, or among the candidates."""
        return backend == self.chosen or any(backend in each.names for each in self.compared)


class ChoiceLog:
    """A `ChoiceRecorder`: the last choices of one service. `name` is the service's."""

    log = Logger()

    def __init__(self, name: str, pool: Pool, shared: ChoiceBook) -> None:
        self.name = name
        self.budget = shared.budget
        self.kept: deque[Choice] = deque(maxlen=KEPT)
        """The newest last."""
        self.pool = pool
        self._shared = shared
        self._failures = RateLimit.once_in(LOG_EVERY_S)
        self._before = pool.choices
        self._recorded = 0
        """Choices of a back-end that were recorded so far."""

    @property
    def unrecorded(self) -> int:
        """Choices of a back-end for which the budget did not suffice."""
        return self.pool.choices - self._before - self._recorded

    def choose(
        self, session: int, link: Link, now: float, exclude: Collection[Backend], client: Address | None
    ) -> Backend | None:
        """See `ChoiceRecorder`."""
        pool, cpu = self.pool, self._shared.cpu
        started = cpu()
        full, ineligible = pool.full, len(pool) - len(pool.eligible) - pool.full
        compared: tuple[Compared, ...] = ()
        try:
            compared = self._compare(now, exclude, client)
        except BaseException:  # it may be the policy's
            self.pool.guard.failures += 1
            self._log_failure(now)
        backend = pool.choose(now, exclude, client)
        address = link.client()
        self.kept.append(
            Choice(
                next(self._shared.numbers),
                self._shared.wall(),
                session,
                link.client_address(),
                None if address is None else address[0],
                None if backend is None else backend.name,
                compared,
                tuple(each.name for each in exclude),
                full,
                ineligible,
            )
        )
        self._recorded += backend is not None
        self.budget.spend(cpu() - started, now)
        return backend

    def _compare(self, now: float, exclude: Collection[Backend], client: Address | None) -> tuple[Compared, ...]:
        pool, compared = self.pool, list[Compared]()
        comparison = pool.compare(pool.eligible, client, exclude, now, CANDIDATES_MAX)
        while comparison is not None:
            explanations = [pool.explain(backend, now) for backend in comparison.candidates]
            ages_s = [backend.report_age_s(now) for backend in comparison.candidates]
            compared.append(Compared.of(comparison, explanations, ages_s))
            comparison = comparison.otherwise
        return tuple(compared)

    def cannot_tell(self, choice: Choice) -> None:
        """While an exception of the policy's rule is handled: keep the choice without what the policy has compared."""
        self.pool.guard.complain()
        for index, each in enumerate(self.kept):
            if each is choice:
                self.kept[index] = attrs.evolve(choice, compared=())

    def _log_failure(self, now: float) -> None:
        if self._failures.admit(now):
            self.log.failure("a choice could not be recorded; further failures in the next seconds are not logged")


class ChoiceBook:
    """The choices of all services, within one budget. `wall` returns Unix time in s, `cpu` any time in s."""

    def __init__(
        self, wall: Callable[[], float], cpu: Callable[[], float] = perf_counter, budget: CpuBudget | None = None
    ) -> None:
        self.wall = wall
        self.cpu = cpu
        self.budget = CpuBudget() if budget is None else budget
        self.numbers = count(1)
        self.logs: list[ChoiceLog] = []
        """Of the present services."""

    def add(self, name: str, pool: Pool) -> ChoiceLog:
        """Keep the choices of one more service."""
        log = ChoiceLog(name, pool, self)
        self.logs.append(log)
        return log

    def remove(self, pool: Pool) -> None:
        """Its service has gone."""
        self.logs = [log for log in self.logs if log.pool is not pool]
