"""The one timer that ends all probes which are not answered."""

from __future__ import annotations

from itertools import count

import pytest
from twisted.internet.task import Clock

from rproxy.pool.probes import Probe
from rproxy.sources.agents.probe_timeouts import ProbeTimeouts
from tests.fakes import logged, run
from tests.pool.driving import Driver

TIMEOUT_S = 0.5


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.away_s = 0.0
        self.timeouts = ProbeTimeouts(self.clock, TIMEOUT_S, lambda since: self.clock.seconds() - since - self.away_s)
        self.expired: list[tuple[int, float]] = []
        driver = Driver()
        self._pool, self._backend = driver.pool, driver.register()
        self._tokens = count(1)

    def add(self) -> int:
        token, backend = next(self._tokens), self._backend
        self.timeouts.add(self._pool.probe(backend, backend.registration, token, self.clock.seconds()), self.on_expired)
        return token

    def on_expired(self, probe: Probe) -> None:
        self.expired.append((probe.request.token, self.clock.seconds()))


def test_each_ends_when_its_own_time_is_over() -> None:
    bench = Bench()
    for pause_s in (0.1, 0.3, 0.05, 2.0):
        bench.add()
        run(bench.clock, pause_s)
    assert bench.expired == [(1, 0.5), (2, 0.6), (3, 0.9), (4, 0.95)]


def test_one_that_was_ended_does_not_expire() -> None:
    bench = Bench()
    first, second = bench.add(), bench.add()
    run(bench.clock, 0.2)
    bench.timeouts.end(first)
    run(bench.clock, 1)
    assert [token for token, _ in bench.expired] == [second]


def test_one_timer_is_enough_for_any_number_and_is_seldom_set() -> None:
    bench = Bench()
    set_anew = 0
    timer = None
    for _ in range(1000):
        bench.timeouts.end(bench.add())
        assert len(bench.clock.calls) == 1
        set_anew += bench.clock.calls[0] is not timer
        timer = bench.clock.calls[0]
        run(bench.clock, 0.01)
    assert bench.expired == []
    assert set_anew <= 10 / TIMEOUT_S + 1
    assert len(bench.timeouts._open) == len(bench.timeouts._ended) <= 2 * TIMEOUT_S / 0.01
    run(bench.clock, TIMEOUT_S)
    assert (bench.timeouts._open, bench.timeouts._ended, bench.clock.calls) == ({}, set(), [])


def broken(probe: Probe) -> None:
    raise ZeroDivisionError(probe)


def test_an_error_of_one_does_not_keep_the_next_from_expiring() -> None:
    bench = Bench()
    bench.timeouts.add(bench._pool.probe(bench._backend, bench._backend.registration, 0, 0.0), broken)
    second = bench.add()
    with logged() as events:
        run(bench.clock, 1)
    assert [event["log_failure"].type for event in events] == [ZeroDivisionError]
    assert [token for token, _ in bench.expired] == [second]


def test_one_that_is_added_while_another_expires_has_its_whole_time() -> None:
    bench = Bench()
    added: list[int] = []
    bench.timeouts.add(
        bench._pool.probe(bench._backend, bench._backend.registration, 0, 0.0), lambda probe: added.append(bench.add())
    )
    run(bench.clock, 2)
    assert bench.expired == [(added[0], 1.0)]


def test_a_stop_leaves_nothing_and_may_come_twice() -> None:
    bench = Bench()
    bench.add()
    for _ in range(2):
        bench.timeouts.stop()
        assert bench.clock.getDelayedCalls() == []
    run(bench.clock, 1)
    assert bench.expired == []


def test_what_was_open_at_a_stop_does_not_expire_later() -> None:
    bench = Bench()
    bench.add()
    bench.timeouts.stop()
    later = bench.add()
    run(bench.clock, 2)
    assert [token for token, _ in bench.expired] == [later]


def test_a_time_away_does_not_count() -> None:
    bench = Bench()
    bench.add()
    bench.away_s = 0.3
    run(bench.clock, 0.79)
    assert bench.expired == []
    run(bench.clock, 0.02)
    ((token, at),) = bench.expired
    assert token == 1
    assert at == pytest.approx(0.8)
