"""When the monitor probes, and what answers, losses and silence come to."""

from __future__ import annotations

import pytest

from rproxy.pool.states import State
from rproxy.sources.agents.prober import Timing
from rproxy.wire.pdu import (
    ProbeRequest,
    ProbeResponse,
)
from tests.fakes import AGENT_PORT, logged, run, texts
from tests.sources.monitoring import AGENT, RTT_S, Bench, transitions, unchanged


def test_a_registration_is_probed_at_once_and_then_at_every_probe_interval() -> None:
    bench = Bench(timing=Timing(probe_interval_s=3, liveness_s=10))
    bench.register()
    assert bench.transport.sent == [(ProbeRequest(0, 1000, sessions=0, instance_tag=1), AGENT)]
    run(bench.clock, 10)
    assert bench.probed_at == pytest.approx([0, 3, 6, 9], abs=2 * RTT_S)
    assert [pdu.sequence for pdu, _ in bench.transport.sent if isinstance(pdu, ProbeRequest)] == [0, 1, 2, 3]


def test_a_backend_is_up_with_its_first_answer_and_not_before() -> None:
    bench = Bench()
    with logged() as events:
        backend = bench.register()
        assert (backend.state, bench.pool.eligible) == (State.REGISTERED, [])
        run(bench.clock, RTT_S)
    assert (backend.state, bench.pool.eligible) == (State.UP, [backend])
    assert (backend.report.cpu, backend.report.memory, backend.report.tcp) == (17, 89, 3)
    assert backend.rtt.last_ms == pytest.approx(10)
    assert transitions(events) == [("registered", "up")]


def test_a_registration_of_a_backend_that_is_down_is_probed_at_once() -> None:
    bench = Bench()
    bench.up()
    bench.silent.add(AGENT[0])
    run(bench.clock, 11.5)
    assert bench.backend().state is State.DOWN
    bench.silent.clear()
    bench.transport.take()
    bench.register()
    assert [address for _, address in bench.transport.sent] == [AGENT]


def test_the_policy_is_told_of_registrations_answers_and_losses() -> None:
    bench = Bench()
    told = bench.policy.told
    backend = bench.register()
    assert (told["reported"][backend], told["failed"][backend]) == (1, 0)
    run(bench.clock, RTT_S)
    assert (told["reported"][backend], told["failed"][backend]) == (2, 0)
    bench.silent.add(AGENT[0])
    run(bench.clock, 5.6)
    ramps = 5
    assert (told["reported"][backend], told["failed"][backend]) == (2 + ramps, 1)


def test_the_policy_is_not_told_of_a_candidate_that_does_not_answer() -> None:
    bench = Bench()
    backend = bench.up()
    bench.transport.on_write = lambda pdu, address: None
    bench.register((AGENT[0], 6666), instance=2)
    run(bench.clock, 0.6)
    assert bench.policy.told["failed"][backend] == 0


def test_an_unanswered_probe_is_lost_once_when_its_timeout_has_passed() -> None:
    bench = Bench()
    backend = bench.up()
    bench.silent.add(AGENT[0])
    run(bench.clock, 5.4)
    assert backend.health.misses == 0
    run(bench.clock, 0.2)
    assert (backend.health.misses, backend.losses.rate) == (1, 1 / 2)
    run(bench.clock, 0.8)
    assert (backend.health.misses, backend.losses.rate) == (1, 1 / 2)


def test_an_answer_after_the_timeout_is_dropped_counted_late_and_lost_only_once() -> None:
    bench = Bench()
    backend = bench.register()
    bench.silent.add(AGENT[0])
    run(bench.clock, 5.6)
    (pdu, _) = bench.transport.sent[-1]
    assert isinstance(pdu, ProbeRequest)
    with unchanged(bench):
        bench.receive(ProbeResponse(pdu.sequence, pdu.token, 1, 2, None, 3))
    assert bench.counters[1] == {"late": 1}
    assert backend.health.misses == 1
    assert backend.rtt.last_ms == pytest.approx(10)


def test_an_answer_just_within_the_timeout_counts() -> None:
    bench = Bench()
    bench.silent.add(AGENT[0])
    backend = bench.register()
    run(bench.clock, 0.499)
    bench.receive(ProbeResponse(0, 1000, 1, 2, None, 3))
    assert (backend.state, backend.losses.rate) == (State.UP, 0)
    run(bench.clock, 1)
    assert backend.losses.rate == 0


def test_the_third_miss_in_a_row_takes_a_backend_down_with_probes_1_s_and_2_s_after_the_first() -> None:
    bench = Bench(timing=Timing(liveness_s=60))
    backend = bench.up()
    bench.silent.add(AGENT[0])
    run(bench.clock, 7.9)
    assert backend.state is State.SUSPECT
    with logged() as events:
        run(bench.clock, 0.2)
    assert bench.probed_at == pytest.approx([0, 5, 5.5 + 1, 5.5 + 2], abs=2 * RTT_S)
    assert transitions(events) == [("suspect", "down")]
    assert bench.pool.eligible == []


def test_an_answer_ends_the_row_of_misses_and_the_fast_probes() -> None:
    bench = Bench(timing=Timing(liveness_s=60))
    backend = bench.up()
    bench.silent.add(AGENT[0])
    run(bench.clock, 6)
    bench.silent.clear()
    run(bench.clock, 8)
    assert bench.probed_at == pytest.approx([0, 5, 6.5, 10], abs=2 * RTT_S)
    assert (backend.state, backend.health.misses) == (State.UP, 0)


def test_a_backend_that_is_down_is_probed_on_at_the_interval_and_comes_back_with_its_second_answer() -> None:
    bench = Bench(timing=Timing(liveness_s=60))
    backend = bench.up()
    bench.silent.add(AGENT[0])
    run(bench.clock, 20)
    assert bench.probed_at[-2:] == pytest.approx([15, 20], abs=2 * RTT_S)
    bench.silent.clear()
    run(bench.clock, 5.1)
    assert bench.pool.eligible == []
    run(bench.clock, 1)
    assert bench.pool.eligible == [backend]
    assert bench.probed_at[-1] == pytest.approx(26, abs=3 * RTT_S)


def test_one_that_answers_again_is_probed_as_soon_as_its_hold_down_is_over() -> None:
    bench = Bench()
    backend = bench.up()
    bench.silent.add(AGENT[0])
    run(bench.clock, 8.2)
    assert backend.health.held_until == pytest.approx(18, abs=3 * RTT_S)
    assert bench.pool.eligible == []
    bench.silent.clear()
    bench.register()
    run(bench.clock, backend.health.held_until - 8.2 + 2 * RTT_S)
    assert backend.state is State.UP


def test_the_liveness_check_takes_a_backend_down_that_has_answered_nothing_since_the_last_one() -> None:
    bench = Bench(timing=Timing(probe_interval_s=5, probe_timeout_s=20, liveness_s=25))
    backend = bench.up()
    run(bench.clock, 10.1)
    bench.silent.add(AGENT[0])
    with logged() as events:
        run(bench.clock, 29.8)
        assert backend.state is State.SUSPECT
        run(bench.clock, 0.2)
    assert (backend.state, backend.health.misses) == (State.DOWN, 2)
    assert transitions(events) == [("suspect", "down")]
    assert "silent for 30.0 s" in texts(events)[0]


def test_the_liveness_check_leaves_a_backend_that_answers_alone() -> None:
    bench = Bench()
    backend = bench.up()
    with logged() as events:
        run(bench.clock, 100)
    assert backend.state is State.UP
    assert list(events) == []


def test_a_registration_that_never_answers_is_forgotten_and_its_timers_end() -> None:
    bench = Bench()
    bench.silent.add(AGENT[0])
    bench.register()
    run(bench.clock, 0.6)
    assert len(bench.transport.sent) == 1
    assert (len(bench.pool), bench.timers) == (0, 0)


def test_registrations_that_never_answer_cost_one_log_line_in_ten_seconds() -> None:
    bench = Bench()
    addresses = [f"192.0.2.{number}" for number in range(1, 101)]
    bench.silent.update(addresses)
    with logged() as events:
        for address in addresses:
            bench.register((address, AGENT_PORT))
            run(bench.clock, 0.15)
        run(bench.clock, 10)
    assert len(bench.pool) == 0
    assert 1 <= len(events) <= 3
    assert "times since the last line" in texts(events)[-1]


def test_a_backend_that_was_up_is_forgotten_after_lasting_silence() -> None:
    bench = Bench()
    backend = bench.up()
    bench.silent.add(AGENT[0])
    with logged() as events:
        run(bench.clock, 80)
    assert backend.state is State.FORGOTTEN
    assert transitions(events) == [("suspect", "down"), ("down", "forgotten")]
    assert bench.timers == 0


def test_backends_are_probed_independently() -> None:
    bench = Bench(timing=Timing(liveness_s=60))
    first = bench.up()
    run(bench.clock, 1)
    second = bench.up(("10.0.0.2", AGENT_PORT))
    bench.silent.add(AGENT[0])
    run(bench.clock, 12)
    assert (first.state, second.state) == (State.DOWN, State.UP)
    assert second.losses.rate == 0
