"""Figures of runs, their medians, and their ratios to HAProxy's best, round by round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Final

import attrs

from tests.benchmarks.outcomes import Outcome, at_most
from tests.benchmarks.peers.pacing import percentile

HAPROXY: Final = "haproxy-"
"""What the names of HAProxy's contenders begin with."""
AIMS: Final = {("short", 1): 0.7, ("short", 4): 0.6}
"""The default policy's p99 by that of HAProxy's best, by pool and number of proxies."""
LATE_MAX_S: Final = 0.01
"""The client's p99 of sending late in a run that counts."""
DELIVERED_MIN: Final = 0.95
"""The least share of its quota that a host had while it had work, and a hog of what it wanted, in a run that counts."""
COLUMNS: Final = ("p50 ms", "p99 ms", "mean ms", "p50/best", "p99/best", "mean/best", "failed", "p99/best by round")
NOT_MEASURED: Final = "n/a"

Answers = Sequence[tuple[float, float | None, str]]
"""Of each piece of work: when it was due, the response time in s or None, the name of the host. See `client`."""


@attrs.frozen
class Figures:
    """Of one run. Times in ms."""

    p50: float
    p99: float
    mean: float
    requests: int
    failures: int
    """Pieces of work that were not answered. They count among the response times, with the patience for it."""
    shares: Mapping[str, float]
    """Of the answers, by host."""

    @classmethod
    def of(cls, answers: Answers, begins_s: float, patience_s: float) -> Figures:
        """The figures of what was due from `begins_s` on. Raises `ValueError` if that is nothing."""
        counted = [(took_s, host) for due_s, took_s, host in answers if due_s >= begins_s]
        if not counted:
            raise ValueError("no piece of work was due")
        times_ms = sorted(1000 * (patience_s if took_s is None else took_s) for took_s, _ in counted)
        hosts = [host for took_s, host in counted if took_s is not None]
        return cls(
            p50=percentile(times_ms, 0.5),
            p99=percentile(times_ms, 0.99),
            mean=fmean(times_ms),
            requests=len(counted),
            failures=len(counted) - len(hosts),
            shares={host: hosts.count(host) / len(hosts) for host in sorted(set(hosts))},
        )


@attrs.frozen
class Conditions:
    """What a run must have to count."""

    late_s: float
    """The client's p99 of sending late."""
    delivered: Mapping[str, float]
    """The share of its quota that each host had while it had work; 1 if that was never for long."""
    hogged: Mapping[str, float]
    """The share of what each host's hog wanted that it had."""

    @property
    def flaw(self) -> str:
        """Why the run does not count; empty if it does."""
        if self.late_s > LATE_MAX_S:
            return f"the client was {1000 * self.late_s:.0f} ms late"
        for whose, shares in [("", self.delivered), ("'s hog", self.hogged)]:
            host = min(shares, key=shares.__getitem__)
            if shares[host] < DELIVERED_MIN:
                return f"{host}{whose} had {shares[host]:.0%} of its CPU time"
        return ""


def delivered(busy_s: float, used_s: float, quota: float) -> float:
    """The share of `quota` cores that a host used in the time in which it had work throughout."""
    return used_s / (busy_s * quota) if busy_s else 1.0


@attrs.frozen
class Case:
    """What all contenders are compared in."""

    pool: str
    """A key of `schedule.SESSIONS`."""
    proxies: int

    def __str__(self) -> str:
        return f"{self.pool}, {self.proxies} prox{'y' if self.proxies == 1 else 'ies'}"


@attrs.define
class Results:
    """The figures of all rounds."""

    contenders: Sequence[str]
    default: str
    """The contender that runs the default policy; it need not be among them."""
    rounds: list[dict[Case, dict[str, Figures]]] = attrs.field(init=False, factory=list)
    """One without figures for a contender has failed for it."""
    left: list[float] = attrs.field(init=False, factory=list)
    """The cores that the hogs leave, by round."""
    conditions: list[Conditions] = attrs.field(init=False, factory=list)
    """Of the runs that counted."""
    failures: list[str] = attrs.field(init=False, factory=list)
    rejected: list[str] = attrs.field(init=False, factory=list)
    """Runs that did not count, and why."""

    def begin_round(self) -> int:
        """Begin a round; returns its number, from 1."""
        self.rounds.append({})
        return len(self.rounds)

    def add(self, case: Case, contender: str, figures: Figures) -> None:
        self.rounds[-1].setdefault(case, {})[contender] = figures

    def fail(self, what: str, error: object) -> None:
        self.failures.append(self._line(what, error))

    def reject(self, what: str, flaw: str) -> None:
        self.rejected.append(self._line(what, flaw))

    def _line(self, what: str, why: object) -> str:
        return f"round {len(self.rounds)}, {what}: {' '.join(str(why).split())}"

    @property
    def cases(self) -> list[Case]:
        return list(dict.fromkeys(case for measured in self.rounds for case in measured))

    def values(self, case: Case, contender: str, figure: str) -> list[float | None]:
        """Round by round."""
        found = [measured.get(case, {}).get(contender) for measured in self.rounds]
        return [None if figures is None else getattr(figures, figure) for figures in found]

    def median(self, case: Case, contender: str, figure: str) -> float | None:
        return known_median(self.values(case, contender, figure))

    def best(self, case: Case, figure: str) -> str | None:
        """HAProxy's contender with the least median."""
        medians = {
            contender: value
            for contender in self.contenders
            if contender.startswith(HAPROXY) and (value := self.median(case, contender, figure)) is not None
        }
        return min(medians, key=medians.__getitem__) if medians else None

    def ratios(self, case: Case, contender: str, figure: str) -> list[float]:
        """To HAProxy's best, of the rounds in which both have figures: what disturbs a round affects both."""
        best = self.best(case, figure)
        if best is None:
            return []
        pairs = zip(self.values(case, contender, figure), self.values(case, best, figure), strict=True)
        return [ours / theirs for ours, theirs in pairs if ours is not None and theirs]

    def outcomes(self, case: Case) -> list[Outcome]:
        """A row for each contender."""
        return [self._outcome(case, contender) for contender in self.contenders]

    def _outcome(self, case: Case, contender: str) -> Outcome:
        names = ("p50", "p99", "mean")
        p99s = self.ratios(case, contender, "p99")
        cells = [
            *(_cell(self.median(case, contender, name), ",.0f") for name in names),
            *(_cell(known_median(self.ratios(case, contender, name)), ".2f") for name in names),
            _cell(sum(filter(None, self.values(case, contender, "failures"))), ","),
            " ".join(f"{ratio:.2f}" for ratio in p99s) or NOT_MEASURED,
        ]
        aim = AIMS.get((case.pool, case.proxies))
        if contender != self.default or aim is None or not p99s:
            return Outcome(contender, cells)
        return at_most(contender, cells, median(p99s), aim)


def known_median(values: Iterable[float | None]) -> float | None:
    """The median of those that are known; None if there are none."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _cell(value: float | None, form: str) -> str:
    return NOT_MEASURED if value is None else format(value, form)
