"""What one session costs the policy: run by hand, `python -m tests.benchmarks.choosing`.

Microseconds of CPU to choose, open, connect and close a session, with two sessions held on every back-end and one
report for every ten sessions; what the policy does with a report is counted, the pool's own work on it is not. Every
client has another address, which matters to one line alone: that is affinity around the default policy. In the last
lines, of the default policy, the value of each back-end that is chosen is noted, as for an access log with scores, and
one choice is recorded in full. Exits with status 1 when the default policy exceeds its limits, or affinity its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from random import Random
from statistics import median
from time import process_time, time
from typing import Final, cast

from attrs import evolve

from rproxy.config.model import ServiceConfig
from rproxy.observe.choices import ChoiceBook
from rproxy.policies.affinity import Affinity
from rproxy.policies.registry import POLICIES
from rproxy.pool.backend import Backend
from rproxy.pool.policy import Comparing, Policy
from tests.fakes import UNLIMITED, FakeLink
from tests.policies.balancing import policy
from tests.pool.driving import Driver, agent

SIZES: Final = (10, 100, 1_000, 10_000)
ROUNDS: Final = 7
SESSIONS: Final = 20_000
SESSIONS_PER_REPORT: Final = 10
HELD_PER_BACKEND: Final = 2

CHECKED: Final = ServiceConfig().policy
RATIO_MAX: Final = 3.0
MICROSECONDS_MAX: Final = 10.0
NOTED: Final = "its value noted"
RECORDED: Final = "one record"
RECORDS: Final = 200
AFFINITY: Final = "affinity"
AFFINITY_MAX: Final = 100.0
"""Microseconds, for pools of any size: the most are needed for some 100 back-ends, see `affinity.SMALL`."""


class Metered:
    """A policy whose work on reports is measured: `seconds` of CPU in all."""

    def __init__(self, policy: Policy) -> None:
        self._reported = policy.reported
        self.choose, self.opened, self.closed, self.failed = policy.choose, policy.opened, policy.closed, policy.failed
        self.explain = policy.explain
        self.value, self.compare = cast(Comparing, policy).value, cast(Comparing, policy).compare
        self.seconds = 0.0

    def reported(self, backend: Backend, now: float) -> str | None:
        started = process_time()
        reason = self._reported(backend, now)
        self.seconds += process_time() - started
        return reason


class Bench:
    """A pool of one size under one policy, in a steady state."""

    def __init__(self, name: str, size: int, rng: Random) -> None:
        limits = evolve(UNLIMITED, unconfirmed=size, confirmed=size)
        chooses = Affinity(policy(CHECKED)) if name == AFFINITY else policy(name if name in POLICIES else CHECKED)
        self._policy = Metered(chooses)
        self._driver = Driver(self._policy, limits=limits, slow_start_s=0)
        self._driver.pool.notes_values = name == NOTED
        self._rng = rng
        self._backends = [self._driver.register(agent(number)) for number in range(size)]
        self._others = [rng.randrange(30) for _ in self._backends]
        self._held: list[Backend] = []
        self._clients = 0
        for number in range(size):
            self._report(number)
        for _ in range(HELD_PER_BACKEND * size):
            self._open()

    def _report(self, number: int) -> None:
        """The next report of one back-end: its round trip and CPU vary, its connections are those of its sessions."""
        backend, rng = self._backends[number], self._rng
        self._driver.report(
            backend,
            after_s=rng.random() * 0.002,
            cpu=rng.randrange(100),
            memory=rng.randrange(60),
            tcp=self._others[number] + backend.counts.established,
        )

    def _open(self) -> None:
        pool = self._driver.pool
        self._clients += 1
        client = (f"10.{self._clients >> 16 & 255}.{self._clients >> 8 & 255}.{self._clients & 255}", 1024)
        backend = pool.choose(self._driver.now, (), client)
        assert backend is not None
        pool.connected(backend)
        self._held.append(backend)

    def _close(self, position: int) -> None:
        """Swap with the last one and pop: the benchmark's own cost must not grow with the pool."""
        held = self._held
        backend, held[position] = held[position], held[-1]
        held.pop()
        self._driver.pool.closed(backend, self._driver.now, was_connected=True, served_s=0.1)

    def microseconds(self) -> float:
        """The mean cost of a session over one round."""
        rng, elapsed = self._rng, -self._policy.seconds
        for _ in range(SESSIONS // SESSIONS_PER_REPORT):
            self._report(rng.randrange(len(self._backends)))
            closing = [rng.randrange(len(self._held)) for _ in range(SESSIONS_PER_REPORT)]
            started = process_time()
            for position in closing:
                self._open()
                self._close(position)
            elapsed += process_time() - started
        return (elapsed + self._policy.seconds) / SESSIONS * 1e6

    def microseconds_of_a_record(self) -> float:
        """The mean cost of recording a choice, beyond that of the choice."""
        pool, now, link = self._driver.pool, self._driver.now, FakeLink()
        log = ChoiceBook(time).add(RECORDED, pool)
        costs = []
        for choose in (lambda number: log.choose(number, link, now, (), None), lambda _: pool.choose(now)):
            started = process_time()
            for number in range(RECORDS):
                backend = choose(number)
                assert backend is not None
                pool.closed(backend, now, was_connected=False, served_s=None)
            costs.append(process_time() - started)
        return (costs[0] - costs[1]) / RECORDS * 1e6


def measure(name: str) -> list[float]:
    """The median cost for each size; rounds alternate between sizes, so that a slow moment hits all alike."""
    benches = [Bench(name, size, Random(size)) for size in SIZES]
    cost = Bench.microseconds_of_a_record if name == RECORDED else Bench.microseconds
    rounds = [[cost(bench) for bench in benches] for _ in range(ROUNDS)]
    return [median(costs) for costs in zip(*rounds, strict=True)]


def exceeded(costs: list[float]) -> list[str]:
    """The limits that are exceeded, in words."""
    smallest, largest = costs[0], costs[-1]
    broken = []
    if largest > MICROSECONDS_MAX:
        broken.append(f"{largest:.1f} µs for {SIZES[-1]:,} back-ends, at most {MICROSECONDS_MAX:.0f} µs are allowed")
    if largest > RATIO_MAX * smallest:
        broken.append(f"{largest / smallest:.2f} times the cost for {SIZES[0]}, at most {RATIO_MAX:.0f} are allowed")
    return broken


def too_dear(costs: list[float]) -> list[str]:
    """The sizes for which affinity exceeds its limit, in words."""
    limit = f"at most {AFFINITY_MAX:.0f} µs are allowed"
    return [
        f"{cost:.1f} µs for {size:,} back-ends, {limit}"
        for size, cost in zip(SIZES, costs, strict=True)
        if cost > AFFINITY_MAX
    ]


def main(write: Callable[[str], object] = print) -> int:
    write(f"{'µs a session, back-ends:':<26}" + "".join(f"{size:>9,}" for size in SIZES) + f"{'ratio':>9}")
    broken: list[str] = []
    for name in (*POLICIES, AFFINITY, NOTED, RECORDED):
        costs = measure(name)
        write(f"{name:<26}" + "".join(f"{cost:>9.2f}" for cost in costs) + f"{costs[-1] / costs[0]:>9.2f}")
        if name == CHECKED:
            broken += [f"{name}: {limit}" for limit in exceeded(costs)]
        elif name == AFFINITY:
            broken += [f"{name}: {limit}" for limit in too_dear(costs)]
    for limit in broken:
        write(limit)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
