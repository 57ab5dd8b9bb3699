"""Rows of an earlier life of the proxy."""

from __future__ import annotations

import attrs

from rproxy.pool.backend import Registration
from rproxy.pool.states import State
from tests.fakes import AGENT_PORT, run
from tests.sources.monitoring import AGENT, RTT_S, Bench

KNOWN = Registration(AGENT, instance=7, interval_s=20.0, weight=300)


def test_a_row_of_an_earlier_life_is_probed_at_once_and_up_with_its_answer() -> None:
    bench = Bench()
    bench.monitor.restore([(KNOWN, 80)])
    backend = bench.backend()
    assert (backend.state, bench.pool.eligible) == (State.REGISTERED, [])
    run(bench.clock, 2 * RTT_S)
    assert bench.pool.eligible == [backend]
    assert (backend.registration, backend.registration.weight) == (KNOWN, 300)


def test_one_that_does_not_answer_is_forgotten_with_all_its_timers() -> None:
    bench = Bench()
    bench.silent.add(AGENT[0])
    bench.monitor.restore([(KNOWN, 80)])
    run(bench.clock, 1.0)
    assert (len(bench.pool), bench.timers) == (0, 0)


def test_rows_of_an_earlier_life_are_probed_beside_the_budget_of_strangers() -> None:
    bench = Bench()
    strangers = [f"192.0.2.{number}" for number in range(1, 101)]
    bench.silent.update(strangers)
    for stranger in strangers:
        bench.register((stranger, AGENT_PORT))
    bench.monitor.restore((attrs.evolve(KNOWN, agent=(f"10.0.{n >> 8}.{n & 255}", AGENT_PORT)), 80) for n in range(900))
    run(bench.clock, 0.6)
    assert len(bench.pool.eligible) == 900


def test_what_is_in_the_table_already_is_not_restored() -> None:
    bench = Bench()
    backend = bench.up()
    bench.transport.take()
    bench.monitor.restore([(KNOWN, 80)])
    assert bench.transport.sent == []
    assert backend.registration.instance == 1
