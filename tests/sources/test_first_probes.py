"""Probes of what nothing confirms: few in a second, in their order."""

from __future__ import annotations

import attrs
import pytest
from twisted.internet.task import Clock

from rproxy.pool.backend import Backend, Registration
from rproxy.pool.candidates import OUTSTANDING_MAX, Candidates
from rproxy.sources.agents.first_probes import RESTORED_PER_S, TICK_S, FirstProbes
from tests.fakes import run
from tests.pool.driving import agent

REGISTRATION = Registration(("10.0.0.1", 5555), instance=1, interval_s=20.0, weight=100)


def backends(number: int) -> list[Backend]:
    return [
        Backend(agent(each)[0], 80, attrs.evolve(REGISTRATION, agent=agent(each), instance=each))
        for each in range(number)
    ]


class Bench:
    """What was probed, and when."""

    def __init__(self, rate: float = 50.0) -> None:
        self.clock = Clock()
        self.candidates = Candidates()
        self.first_probes = FirstProbes(self.clock, rate, self, self._probe)
        self.probed: list[tuple[float, Backend, Registration]] = []

    @property
    def has_candidates(self) -> bool:
        return bool(self.candidates)

    def next_candidate(self, now: float) -> tuple[Backend, Registration] | None:
        return self.candidates.next(now)

    def _probe(self, backend: Backend, registration: Registration) -> None:
        self.probed.append((self.clock.seconds(), backend, registration))

    def add(self, *several: Backend) -> None:
        for backend in several:
            self.candidates.add(backend, backend.registration)
            self.first_probes.proceed()

    @property
    def times(self) -> list[float]:
        return [at for at, _, _ in self.probed]

    @property
    def order(self) -> list[Backend]:
        return [backend for _, backend, _ in self.probed]

    def wake_ups(self) -> int:
        """Run every timer that there is, and those that follow from them."""
        count = 0
        while (calls := self.clock.getDelayedCalls()) and count < 10_000:
            self.clock.advance(min(call.getTime() for call in calls) - self.clock.seconds())
            count += 1
        return count


def test_the_first_is_probed_at_once_with_its_registration_and_leaves_no_timer() -> None:
    bench = Bench()
    (backend,) = backends(1)
    bench.add(backend)
    assert bench.probed == [(0.0, backend, backend.registration)]
    assert bench.clock.getDelayedCalls() == []


@pytest.mark.parametrize("rate", [10.0, 50.0])
def test_of_many_at_once_each_waits_for_its_turn(rate: float) -> None:
    bench = Bench(rate)
    several = backends(200)
    bench.add(*several)
    run(bench.clock, 200 / rate)
    assert bench.times == pytest.approx([number / rate for number in range(200)])
    assert bench.order == several


def test_a_flood_earns_no_more_than_the_rate_and_every_one_its_probe_in_the_end() -> None:
    bench = Bench()
    several = backends(400)
    for backend in several:
        bench.add(backend)
        run(bench.clock, 0.005)
    assert len(bench.probed) == pytest.approx(2 * 50, abs=1)
    run(bench.clock, 6.0)
    assert bench.order == several
    for begin in bench.times:
        assert sum(begin <= at < begin + 0.999 for at in bench.times) <= 50


def test_what_comes_slowly_never_waits() -> None:
    bench = Bench()
    several = backends(20)
    for backend in several:
        bench.add(backend)
        run(bench.clock, 0.021)
    assert bench.times == pytest.approx([0.021 * number for number in range(20)])


def test_after_the_last_one_the_next_still_keeps_its_distance() -> None:
    bench = Bench()
    one, other = backends(2)
    bench.add(one)
    run(bench.clock, 0.005)
    bench.add(other)
    assert bench.order == [one]
    run(bench.clock, 1.0)
    assert bench.times == pytest.approx([0.0, 0.02])


def test_once_nobody_waits_any_more_the_next_is_probed_at_once_again() -> None:
    bench = Bench()
    several = backends(4)
    for early, late in (several[:2], several[2:]):
        bench.add(early, late)
        run(bench.clock, 1.0)
    assert bench.times == pytest.approx([0.0, 0.02, 1.0, 1.02])


@pytest.mark.parametrize(("rate", "together"), [(500.0, 10), (4882.8125, 98)])
def test_above_one_a_tick_as_many_go_together_and_the_rate_is_kept(rate: float, together: int) -> None:
    bench = Bench(rate)
    bench.add(*backends(10 * together))
    assert len(bench.probed) == together
    run(bench.clock, 5 * TICK_S - 1e-6)
    assert 0.99 * rate * 5 * TICK_S <= len(bench.probed) <= together + rate * 5 * TICK_S


def test_no_timer_is_finer_than_a_tick() -> None:
    bench = Bench(500.0)
    bench.add(*backends(1000))
    assert bench.wake_ups() == pytest.approx(1000 / 500 / TICK_S, abs=2)


def test_a_backend_that_had_its_probe_may_wait_for_another() -> None:
    bench = Bench()
    one, other = backends(2)
    bench.add(one, other, one)
    run(bench.clock, 1.0)
    assert bench.order == [one, other, one]


def test_one_that_is_dropped_is_not_probed_and_takes_nobodys_turn() -> None:
    bench = Bench()
    first, second, third = backends(3)
    bench.add(first, second, third)
    bench.candidates.drop(second)
    run(bench.clock, 1.0)
    assert bench.order == [first, third]
    assert bench.times == pytest.approx([0.0, 0.02])


def test_to_drop_what_does_not_wait_changes_nothing() -> None:
    bench = Bench()
    first, second, third = backends(3)
    bench.add(first, second)
    bench.candidates.drop(first)
    bench.candidates.drop(third)
    run(bench.clock, 1.0)
    assert bench.order == [first, second]


def test_the_last_one_that_is_dropped_leaves_no_timer_behind() -> None:
    bench = Bench()
    one, other = backends(2)
    bench.add(one, other)
    bench.candidates.drop(other)
    run(bench.clock, 0.02)
    assert bench.order == [one]
    assert bench.clock.getDelayedCalls() == []


def test_a_stop_ends_the_timer_and_may_come_twice() -> None:
    bench = Bench()
    bench.add(*backends(10))
    for _ in range(2):
        bench.first_probes.stop()
        assert bench.clock.getDelayedCalls() == []
    run(bench.clock, 1.0)
    assert len(bench.probed) == 1


def test_what_is_known_goes_first_and_takes_nobodys_turn() -> None:
    bench = Bench()
    several = backends(400)
    strangers, known = several[:20], several[20:]
    bench.add(*strangers)
    for backend in known:
        bench.first_probes.add_restored(backend, backend.registration)
    run(bench.clock, 380 / RESTORED_PER_S + TICK_S)
    assert set(known) <= set(bench.order)
    run(bench.clock, 1.0)
    assert [backend for backend in bench.order if backend in set(strangers)] == strangers
    assert bench.clock.getDelayedCalls() == []


def test_one_with_too_many_probes_on_their_way_waits_for_their_ends_and_holds_up_nobody() -> None:
    bench = Bench()
    busy, other = backends(2)
    busy.probing.outstanding.update(range(OUTSTANDING_MAX))
    bench.add(busy, other)
    run(bench.clock, 1.0)
    assert bench.order == [other]
    busy.probing.outstanding.clear()
    run(bench.clock, 0.1)
    assert bench.order == [other, busy]
    assert bench.clock.getDelayedCalls() == []
