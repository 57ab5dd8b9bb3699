"""Checks of the simulator against queueing theory: what is known must come out.

The mean response time of 0.1 s of work at load r is 0.1 / (1 - r) s under processor sharing on one core, whatever the
distribution of the work (Kleinrock 1967), and Erlang's C formula gives it for n cores. With the shorter of two queues
drawn out of many, the fraction r^(2^i - 1) of the queues has i or more jobs (Mitzenmacher's fixed point, 2001).
Where reports get older, choosing the least of what they say gets worse (Mitzenmacher 2000: "How useful is old
information?").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import attrs

from rproxy.study.hosts import HostSpec
from rproxy.study.policies import Choice
from rproxy.study.proxies import Probing
from rproxy.study.runs import Run, execute_all
from rproxy.study.scenarios import WORK_S, Scenario, equal
from rproxy.study.statistics import Interval, interval
from rproxy.study.traffic import Draw, Exponential, Pareto, Poisson, Short

WARM_MIN_S: Final = 10.0
CLIENTS: Final = 60_000
"""Of a run, on average."""
PROBE_S: Final = 50.0
"""Reports mean nothing to the policies used; fewer of them save time."""
TAIL_S: Final = 20.0
"""Nearly all sessions end in this time: without those that take long, means would be too low."""
TOLERANCE: Final = 2.0
"""Half widths of the interval that a mean may be away: of many checks, one in twenty is beyond one by chance."""
AGES_S: Final = (0.1, 1.0, 5.0)
"""Intervals of reports whose means must come in this order."""


@attrs.frozen
class Check:
    """A mean response time that theory knows."""

    text: str
    scenario: Scenario
    policy: str
    expected_s: float


@attrs.frozen
class Outcome:
    """Of a check: what was measured, over seeds."""

    text: str
    measured: Interval
    expected: str
    holds: bool

    def __str__(self) -> str:
        bounds = f"[{self.measured.low:.4f} {self.measured.high:.4f}]"
        return f"{'holds' if self.holds else 'FAILS'}  {self.text}: {self.measured.mean:.4f} {bounds}, {self.expected}"


def queue(hosts: int, load: float, *, cores: int = 1, work: Draw | None = None, clients: int = CLIENTS) -> Scenario:
    """Equal hosts without hogs."""
    rate = load * hosts * cores / WORK_S
    warm_s = max(WARM_MIN_S, 3 * WORK_S / (1 - math.sqrt(load)) ** 2)  # three times the time in which a queue forgets
    return Scenario(
        text=f"{hosts} hosts of {cores} cores, load {load}",
        hosts=(HostSpec(cores=cores),) * hosts,
        traffic=Short(Poisson(rate), work or Exponential(WORK_S)),
        hog=None,
        probing=Probing(PROBE_S, None),
        seconds=warm_s + clients / rate,
        warm_s=warm_s,
        tail_s=TAIL_S,
    )


def sharing_s(load: float) -> float:
    """M/G/1 under processor sharing: the mean response time."""
    return WORK_S / (1 - load)


def erlang_s(cores: int, load: float) -> float:
    """M/M/n: the mean response time."""
    offered = cores * load
    waiting = offered**cores / math.factorial(cores) / (1 - load)
    waits = waiting / (sum(offered**k / math.factorial(k) for k in range(cores)) + waiting)
    return WORK_S + waits * WORK_S / (cores * (1 - load))


def two_choices_s(load: float) -> float:
    """The shorter of two queues out of infinitely many: the mean response time."""
    return WORK_S * sum(math.pow(load, 2**i - 2) for i in range(1, 30))


def checks(clients: int = CLIENTS) -> Iterator[Check]:
    """All with a known mean."""
    tail = Pareto(WORK_S, 2.5, 1000.0)
    for load in (0.5, 0.8):
        for name, work in (("exponential", None), ("Pareto 2.5", tail)):
            text = f"M/G/1-PS, load {load}, work {name}"
            yield Check(text, queue(1, load, work=work, clients=clients), "round-robin", sharing_s(load))
    for cores, load in ((4, 0.5), (4, 0.8), (8, 0.9)):
        text = f"M/M/{cores}, load {load}"
        yield Check(text, queue(1, load, cores=cores, clients=clients), "round-robin", erlang_s(cores, load))
    for load in (0.7, 0.9):
        hosts = queue(100, load, clients=2 * clients)
        yield Check(f"two choices of 100, load {load}", hosts, "two-choices", two_choices_s(load))
        yield Check(f"random of 100, load {load}", hosts, "random", sharing_s(load))


def verify(checked: Sequence[Check], seeds: Sequence[int], workers: int) -> Iterator[Outcome]:
    """One outcome for each check, see `TOLERANCE`."""
    runs = [
        Run(check.text, check.policy, seed, check.scenario, Choice(check.policy)) for check in checked for seed in seeds
    ]
    found = execute_all(runs, workers)
    for check in checked:
        measured = interval([next(found)[1].mean for _ in seeds])
        yield Outcome(check.text, measured, f"theory {check.expected_s:.4f}", _agrees(measured, check.expected_s))


def _agrees(measured: Interval, expected: float) -> bool:
    return abs(measured.mean - expected) <= TOLERANCE * (measured.high - measured.mean)


def verify_ages(seeds: Sequence[int], workers: int, seconds: float = 160.0) -> Outcome:
    """Whether the least of the reports' CPU gets worse with their age: means over seeds come in the order of ages."""
    policy = "formula:rtt=0:tcp=0:loss=0:memory=0:saturation=off"
    scenarios = [equal("", 10, seconds=seconds, probing=Probing(age_s, None), load=0.6) for age_s in AGES_S]
    runs = [
        Run(f"reports every {age_s} s", policy, seed, scenario, Choice.parse(policy))
        for age_s, scenario in zip(AGES_S, scenarios, strict=True)
        for seed in seeds
    ]
    found = execute_all(runs, workers)
    means = [interval([next(found)[1].mean for _ in seeds]) for _ in AGES_S]
    in_order = all(newer.mean < older.mean for newer, older in pairwise(means))
    shown = ", ".join(f"{age_s} s {mean.mean:.3f}" for age_s, mean in zip(AGES_S, means, strict=True))
    return Outcome("least CPU reported, means by age of the reports", means[-1], shown, in_order)
