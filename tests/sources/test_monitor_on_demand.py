"""Probes on demand with the real pool: what their answers and losses come to, and that detection stays what it is."""

from __future__ import annotations

import pytest

from rproxy.pool.events import ProbeLost
from rproxy.pool.health import FALL, HOLD_MIN_S
from rproxy.pool.states import State
from rproxy.sources.agents.prober import REPROBE_S, Timing
from rproxy.wire.pdu import ProbeRequest, ProbeResponse
from tests.fakes import logged, run, texts
from tests.sources.monitoring import AGENT, RTT_S, Bench

TIMEOUT_S = 0.5


def serve(bench: Bench, seconds: float, every_s: float = 0.05) -> None:
    """Clients come and go for so long."""
    for _ in range(round(seconds / every_s)):
        backend = bench.pool.choose(bench.clock.seconds())
        if backend is not None:
            bench.pool.connected(backend)
            bench.publish(bench.pool.closed(backend, bench.clock.seconds(), was_connected=True, served_s=0.0))
        run(bench.clock, every_s)


def probes(bench: Bench) -> dict[str, int]:
    return dict(bench.monitor.counters.probes)


def test_an_idle_proxy_probes_as_it_always_did() -> None:
    bench = Bench()
    bench.up()
    run(bench.clock, 100)
    assert len(bench.probed_at) == pytest.approx(21, abs=1)
    assert probes(bench) == {"periodic": 20, "registration": 1, "on_demand": 0, "held_back": 0}
    assert bench.agents._on_demand._timer is None


def test_a_busy_one_knows_its_pool_to_a_tenth_of_a_second_and_an_idle_one_has_no_timer_for_it() -> None:
    bench = Bench()
    backend = bench.up()
    serve(bench, 20.0)
    assert probes(bench)["on_demand"] == pytest.approx(200, abs=5)
    assert probes(bench)["periodic"] == pytest.approx(4, abs=1)
    assert backend.answered_at == pytest.approx(bench.clock.seconds(), abs=0.12)
    run(bench.clock, 2.0)
    sent = len(bench.probed_at)
    run(bench.clock, 100)
    assert len(bench.probed_at) == sent + 20
    assert (bench.agents._on_demand._timer, bench.timers) == (None, 0)


def test_the_policy_is_told_of_every_answer() -> None:
    bench = Bench()
    backend = bench.up()
    told = bench.policy.told["reported"][backend]
    bench.answer["cpu"] = 55
    serve(bench, 1.0)
    assert bench.policy.told["reported"][backend] >= told + 9
    assert backend.report.cpu == 55


def test_with_freshness_off_clients_cause_no_probe() -> None:
    bench = Bench(timing=Timing(freshness_s=None))
    bench.up()
    serve(bench, 20.0)
    assert probes(bench)["on_demand"] == 0


def test_the_budget_is_counted_when_it_is_spent() -> None:
    bench = Bench(timing=Timing(probe_budget=2))
    for number in range(1, 4):
        bench.up((f"10.0.0.{number}", 5555))
    serve(bench, 10.0)
    assert probes(bench)["on_demand"] == pytest.approx(20, abs=2)
    assert probes(bench)["held_back"] > 50
    assert probes(bench)["periodic"] == pytest.approx(6, abs=3), "these are not held back"


def test_a_lost_probe_on_demand_is_a_loss_but_no_miss() -> None:
    bench = Bench()
    backend = bench.up()
    serve(bench, 1.0)
    lost: list[ProbeLost] = []
    bench.publish.subscribe({ProbeLost: lost.append})
    bench.silent.add(AGENT[0])
    serve(bench, 0.1)
    bench.silent.clear()
    serve(bench, 1.0)
    (event,) = lost
    assert (event.on_demand, event.counted, event.first, event.urgent) == (True, False, False, False)
    assert (backend.state, backend.health.misses) == (State.UP, 0)
    assert 0 < backend.losses.rate < 0.1
    assert bench.policy.told["failed"][backend] == 0


def test_many_lost_in_a_second_do_not_take_it_down() -> None:
    """Less than a timeout and both waits of detection."""
    bench = Bench()
    backend = bench.up()
    serve(bench, 1.0)
    bench.silent.add(AGENT[0])
    serve(bench, sum(REPROBE_S) - 0.05)
    assert backend.is_up
    bench.silent.clear()
    serve(bench, 0.7)
    assert (backend.state, backend.health.misses, backend.health.lost_on_demand) == (State.UP, 0, 0)


def test_an_agent_that_dies_is_detected_sooner_while_clients_come() -> None:
    bench = Bench()
    backend = bench.up()
    run(bench.clock, 10.1)  # the next periodic probe is almost 5 s away
    serve(bench, 0.2)
    bench.silent.add(AGENT[0])
    died_at = bench.clock.seconds()
    while backend.is_up:
        serve(bench, 0.05)
    took_s = bench.clock.seconds() - died_at
    assert 2 * TIMEOUT_S + TIMEOUT_S + REPROBE_S[1] + TIMEOUT_S < took_s < 4.5
    assert backend.health.misses == FALL


def test_a_periodic_probe_is_hastened_once_and_others_go_on_at_their_interval() -> None:
    bench = Bench(timing=Timing(liveness_s=60))
    bench.up()
    serve(bench, 1.0)
    periodic = probes(bench)["periodic"]
    bench.silent.add(AGENT[0])
    serve(bench, 1.3)
    assert probes(bench)["periodic"] == periodic + 1
    bench.silent.clear()
    serve(bench, 4.0)
    assert probes(bench)["periodic"] == periodic + 1
    serve(bench, 1.5)
    assert probes(bench)["periodic"] == periodic + 2


def test_an_answer_on_demand_ends_the_suspicion() -> None:
    """A single periodic probe is lost: it is not passed over for a second."""
    bench = Bench()
    backend = bench.up()
    run(bench.clock, 4.9)
    bench.silent.add(AGENT[0])
    run(bench.clock, 0.2)
    bench.silent.clear()
    run(bench.clock, 0.45)
    assert backend.state is State.SUSPECT
    serve(bench, 0.1)
    assert (backend.state, backend.health.misses) == (State.UP, 0)
    sent = probes(bench)["periodic"]
    run(bench.clock, 3.0)
    assert probes(bench)["periodic"] == sent, "no probe follows the first miss any more"


def test_answers_on_demand_do_not_shorten_a_hold_down() -> None:
    bench = Bench(panic_below=0.5)
    backend = bench.up()
    serve(bench, 1.0)
    bench.silent.add(AGENT[0])
    while backend.is_up:
        serve(bench, 0.05)
    down_at = bench.clock.seconds()
    bench.silent.clear()
    on_demand = probes(bench)["on_demand"]
    while not backend.is_up:
        serve(bench, 0.05)
    assert bench.clock.seconds() - down_at >= HOLD_MIN_S
    assert probes(bench)["on_demand"] == on_demand, "in a panic it got clients, but no probes on demand"


def test_one_that_refused_its_clients_does_not_rise_by_an_answer_that_was_still_on_its_way() -> None:
    bench = Bench()
    backend = bench.up()
    serve(bench, 1.0)
    bench.publish(bench.pool.unresponsive(backend, 3, 10.0, bench.clock.seconds()))
    assert backend.state is State.DOWN
    answers = backend.health.answers
    run(bench.clock, 2 * RTT_S)
    assert (backend.state, backend.health.answers) == (State.DOWN, answers)


def test_a_late_answer_does_not_count_and_is_counted_as_late() -> None:
    bench = Bench()
    backend = bench.up()
    run(bench.clock, 1.0)
    bench.silent.add(AGENT[0])
    serve(bench, 0.05)
    request = bench.transport.sent[-1][0]
    assert isinstance(request, ProbeRequest)
    run(bench.clock, 2.0)
    before = backend.answered_at
    bench.receive(ProbeResponse(request.sequence, request.token, 1, 2, None, 3))
    assert bench.counters[1] == {"late": 1}
    assert backend.answered_at == before


def test_late_answers_are_told_from_unknown_ones_while_many_are_asked_ten_times_a_second() -> None:
    bench = Bench()
    hosts = [(f"10.0.0.{number}", 5555) for number in range(1, 11)]
    for host in hosts:
        bench.up(host)
    run(bench.clock, 1.0)
    bench.silent.add(hosts[0][0])
    serve(bench, 0.1)
    request = next(pdu for pdu, address in reversed(bench.transport.sent) if address == hosts[0])
    assert isinstance(request, ProbeRequest)
    serve(bench, 3.0)
    bench.receive(ProbeResponse(request.sequence, request.token, 1, 2, None, 3), hosts[0])
    assert bench.counters[1] == {"late": 1}


def test_outstanding_probes_are_bounded_to_one_on_demand_for_each_agent() -> None:
    bench = Bench()
    hosts = [(f"10.0.0.{number}", 5555) for number in range(1, 11)]
    backends = [bench.up(host) for host in hosts]
    bench.silent |= {host[0] for host in hosts}
    for _ in range(60):
        serve(bench, 0.05)
        assert max(len(backend.probing.outstanding) for backend in backends) <= 2


def test_while_this_process_is_stalled_no_probe_on_demand_is_lost() -> None:
    bench = Bench()
    backend = bench.up()
    serve(bench, 1.0)
    bench.clock.rightNow += 20.0
    serve(bench, 2.0)
    assert (backend.state, backend.losses.rate) == (State.UP, 0)


def test_departed_and_draining_ones_are_not_asked() -> None:
    bench = Bench()
    bench.up()
    other = bench.up(("10.0.0.2", 5555))
    bench.answer["draining"] = True
    run(bench.clock, 5.2)
    bench.answer["draining"] = False
    assert not other.eligible
    sent = probes(bench)["on_demand"]
    for _ in range(20):
        bench.pool.choose(bench.clock.seconds())
        run(bench.clock, 0.05)
    assert probes(bench)["on_demand"] == sent


def test_a_stop_while_busy_leaves_no_timer() -> None:
    bench = Bench()
    bench.up()
    serve(bench, 1.0)
    run(bench.clock, 2 * RTT_S)
    assert bench.agents._on_demand._timer is not None
    bench.stop()
    assert (bench.clock.calls, bench.pool.wake) == ([], None)


def test_a_trace_tells_probes_on_demand_from_others() -> None:
    bench = Bench(trace=True)
    bench.up()
    run(bench.clock, 1.0)
    bench.silent.add(AGENT[0])
    with logged() as events:
        serve(bench, 0.05)
        request = bench.transport.sent[-1][0]
        run(bench.clock, 0.5)
    assert f"<< [10.0.0.1:80] {request} on demand" in texts(events)
    assert ":: [10.0.0.1:80] probe on demand lost" in texts(events)
