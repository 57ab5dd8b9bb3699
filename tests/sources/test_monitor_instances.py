"""Agents that restart, unregister, or are replaced."""

from __future__ import annotations

import pytest

from rproxy.net.addresses import Address
from rproxy.pool.states import State
from rproxy.sources.agents.prober import Timing
from rproxy.wire.pdu import (
    ProbeRequest,
    Register,
    Unregister,
)
from tests.fakes import logged, run, texts
from tests.sources.monitoring import AGENT, RTT_S, Bench, transitions, unchanged


def test_registering_again_neither_doubles_the_probing_nor_restarts_it() -> None:
    bench = Bench()
    backend = bench.up()
    run(bench.clock, 2)
    assert bench.register(interval_ms=30_000) is backend
    run(bench.clock, 9)
    assert bench.probed_at == pytest.approx([0, 5, 10], abs=2 * RTT_S)
    assert backend.registration.interval_s == 30


@pytest.mark.parametrize("source", [(AGENT[0], 6666), AGENT], ids=["on another port", "on the same port"])
def test_a_restarted_agent_replaces_the_old_one_only_with_its_answer(source: Address) -> None:
    bench = Bench()
    backend = bench.up()
    bench.transport.take()
    bench.register(source, instance=2)
    assert bench.transport.sent == [(ProbeRequest(1, 1001, sessions=0, instance_tag=2), source)]
    assert (backend.registration.agent, backend.registration.instance) == (AGENT, 1)
    with logged() as events:
        run(bench.clock, RTT_S)
    assert (backend.registration.agent, backend.registration.instance) == (source, 2)
    assert backend.state is State.UP
    assert texts(events) == ["back-end 10.0.0.1:80: its agent was started again"]
    run(bench.clock, 5)
    assert bench.transport.sent[-1] == (ProbeRequest(2, 1002, sessions=0, instance_tag=2), source)


def test_a_false_restart_that_cannot_answer_changes_nothing() -> None:
    bench = Bench(timing=Timing(liveness_s=60))
    backend = bench.up()
    stranger = (AGENT[0], 6666)
    bench.transport.on_write = lambda pdu, address: None
    bench.register(stranger, instance=2)
    bench.transport.on_write = bench._answer
    run(bench.clock, 5)
    assert (backend.registration.agent, backend.registration.instance) == (AGENT, 1)
    assert (backend.state, backend.health.misses, backend.losses.rate) == (State.UP, 0, 0)


def test_a_false_restart_does_not_keep_a_backend_that_was_down_from_being_probed_at_once() -> None:
    bench = Bench()
    backend = bench.up()
    bench.silent.add(AGENT[0])
    bench.register((AGENT[0], 6666), instance=2)
    run(bench.clock, 11.5)
    assert backend.state is State.DOWN
    bench.transport.take()
    bench.register()
    assert [address for _, address in bench.transport.sent] == [AGENT]


def test_unregister_stops_every_timer_at_once_and_nothing_more_is_sent() -> None:
    bench = Bench()
    backend = bench.up()
    bench.silent.add(AGENT[0])
    run(bench.clock, 5.2)
    bench.transport.take()
    with logged() as events:
        bench.receive(Unregister(80, 1))
    assert (backend.state, len(bench.pool), bench.pool.eligible) == (State.FORGOTTEN, 0, [])
    assert bench.timers == 0
    run(bench.clock, 60)
    assert bench.transport.sent == []
    assert transitions(events) == [("up", "forgotten")]


def test_unregister_stops_a_fast_probe_that_is_due() -> None:
    bench = Bench()
    bench.up()
    bench.silent.add(AGENT[0])
    run(bench.clock, 6)
    bench.receive(Unregister(80, 1))
    assert bench.timers == 0


def test_unregister_of_another_instance_is_dropped() -> None:
    bench = Bench()
    bench.up()
    with unchanged(bench):
        bench.receive(Unregister(80, 2))
    assert bench.counters[1] == {"wrong-instance": 1}


def test_an_instance_that_unregistered_cannot_register_again_and_a_new_one_can() -> None:
    bench = Bench()
    bench.up()
    bench.receive(Unregister(80, 1))
    with unchanged(bench):
        bench.receive(Register(80, 20_000, 1))
    assert bench.counters[1] == {"retired-instance": 1}
    bench.register(instance=2)
    run(bench.clock, RTT_S)
    assert bench.backend().state is State.UP


def test_a_candidate_is_not_probed_again_while_a_probe_of_it_is_outstanding() -> None:
    """Or as many timers run as datagrams come in half a second."""
    bench = Bench()
    bench.up()
    bench.silent.add(AGENT[0])
    timers = len(bench.clock.calls)
    for instance in range(2, 1002):
        bench.register((AGENT[0], 6666), instance=instance)
    assert len(bench.clock.calls) <= timers + 10


def test_one_that_is_excluded_after_it_has_departed_is_not_probed_nor_checked_any_more() -> None:
    """It registered again while sessions were still on it, and turned out to lead back to this proxy."""
    bench = Bench()
    backend = bench.up()
    assert bench.pool.choose(bench.clock.seconds()) is backend
    bench.receive(Unregister(80, 1))
    bench.silent.add(AGENT[0])
    bench.register(instance=2)
    assert (backend.state, backend.awaited) == (State.DEPARTED, True)
    bench.monitor.exclude(backend)
    run(bench.clock, 1.0)
    assert (backend.awaited, bench.timers) == (False, 0)
