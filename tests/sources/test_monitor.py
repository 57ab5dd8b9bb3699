"""The proxy's side of the protocol, on a clock of its own and with a transport that keeps what it is given."""

from __future__ import annotations

import json
import random
import socket
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.error import MessageLengthError
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver

from rproxy.net.addresses import Address
from rproxy.observe.pool_log import PoolLog
from rproxy.observe.publisher import Publisher
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.limits import Limits
from rproxy.pool.policy import Policy
from rproxy.pool.pool import Pool
from rproxy.pool.states import State
from rproxy.sources.agents.monitor import Monitor, Network, Settings
from rproxy.sources.agents.prober import Timing
from rproxy.sources.slow_start import SlowStart
from rproxy.tap.policies import Complaints
from rproxy.wire.pdu import (
    COUNT_MAX,
    SIZE,
    UINT32_MAX,
    UINT64_MAX,
    Pdu,
    ProbeRequest,
    ProbeResponse,
    Register,
    Unregister,
    encode,
)
from rproxy.wire.seal import Unsealed
from tests.fakes import AGENT_PORT, CountingPolicy, Datagrams, logged, run, texts

VECTORS = Path(__file__).parents[1] / "data" / "vectors.json"
DROPPED = [pytest.param(vector["hex"], id=vector["name"]) for vector in json.loads(VECTORS.read_text())["dropped"]]
AGENT: Address = ("10.0.0.1", AGENT_PORT)
RTT_S = 0.010
MIDDLE = 0.5
"""Of the jitter: none."""
DEFAULTS = Timing()


class Bench:
    """A monitor, and agents that answer every probe 10 ms later, but for the `silent` ones."""

    def __init__(
        self,
        *,
        timing: Timing = DEFAULTS,
        allow: Collection[Network] = (),
        trace: bool = False,
        family: socket.AddressFamily = socket.AF_INET,
        panic_below: float = 0.0,
        policy: Policy | None = None,
    ) -> None:
        self.clock = Clock()
        self.policy = CountingPolicy()
        complaints = Complaints(self.clock.seconds)
        self.pool = Pool(policy or self.policy, complaints, timeout_s=timing.probe_timeout_s, panic_below=panic_below)
        self.tokens: Iterator[int] = count(1000)
        self.publish = Publisher()
        self.monitor = Monitor(
            self.pool,
            self.clock,
            self.publish,
            lambda: next(self.tokens),
            lambda: MIDDLE,
            Unsealed(),
            Settings(timing, tuple(allow), trace=trace),
        )
        self.log = PoolLog(self.clock, self.pool.limits.confirmed, trace=trace)
        self.slow_start = SlowStart(self.clock, self.pool)
        self.publish.subscribe(self.monitor.observers())
        self.publish.subscribe(self.slow_start.observers())
        self.publish.subscribe(self.log.observers())
        self.transport = Datagrams(family)
        self.transport.on_write = self._answer
        self.silent: set[str] = set()
        self.answer: dict[str, Any] = {"cpu": 17, "memory": 89, "load": None, "tcp": 3}
        self.probed_at: list[float] = []
        self.monitor.makeConnection(self.transport)

    def _answer(self, pdu: Pdu, address: Address) -> None:
        assert isinstance(pdu, ProbeRequest)
        self.probed_at.append(self.clock.seconds())
        if address[0] not in self.silent:
            response = ProbeResponse(pdu.sequence, pdu.token, **self.answer)
            self.clock.callLater(RTT_S, self.receive, response, address)

    def receive(self, pdu: Pdu, source: Address = AGENT) -> None:
        self.monitor.datagramReceived(encode(pdu), source)

    def register(self, source: Address = AGENT, *, instance: int = 1, interval_ms: int = 20_000) -> Backend:
        self.receive(Register(80, interval_ms, instance), source)
        return self.backend(source[0])

    def backend(self, address: str = AGENT[0]) -> Backend:
        backend = self.pool.get(address, 80)
        assert backend is not None
        return backend

    def up(self, source: Address = AGENT) -> Backend:
        """A back-end that has answered its first probe."""
        backend = self.register(source)
        run(self.clock, 2 * RTT_S)
        assert backend.state is State.UP
        return backend

    def stop(self) -> None:
        self.monitor.stopProtocol()
        self.slow_start.stop()
        self.log.stop()

    @property
    def timers(self) -> int:
        """Those of back-ends: the stall detector goes on, and the timers that serve all of them may be set."""
        shared = [self.monitor.timeouts._timer, self.monitor.wheel._timer, self.slow_start._timer]
        return len(self.clock.calls) - 1 - sum(timer is not None for timer in shared)

    @property
    def counters(self) -> tuple[dict[str, int], dict[str, int]]:
        return dict(self.monitor.counters.accepted), dict(self.monitor.counters.dropped)


@contextmanager
def unchanged(bench: Bench) -> Iterator[None]:
    """No back-end changes meanwhile, nothing is sent, and no timer is set."""

    def state() -> object:
        return [attrs.asdict(backend) for backend in bench.pool], list(bench.transport.written), len(bench.clock.calls)

    before = state()
    yield
    assert state() == before


def transitions(events: EventLoggingObserver) -> list[tuple[str, str]]:
    return [(event["before"], event["after"]) for event in events if "after" in event]


def test_a_registration_is_probed_at_once_and_then_at_every_probe_interval() -> None:
    bench = Bench(timing=Timing(probe_interval_s=3, liveness_s=10))
    bench.register()
    assert bench.transport.sent == [(ProbeRequest(0, 1000, instance_tag=1), AGENT)]
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


def test_registering_again_neither_doubles_the_probing_nor_restarts_it() -> None:
    bench = Bench()
    backend = bench.up()
    run(bench.clock, 2)
    assert bench.register(interval_ms=30_000) is backend
    run(bench.clock, 9)
    assert bench.probed_at == pytest.approx([0, 5, 10], abs=2 * RTT_S)
    assert backend.registration.interval_s == 30


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
    assert backend.misses == 0
    run(bench.clock, 0.2)
    assert (backend.misses, backend.losses.rate) == (1, 1 / 2)
    run(bench.clock, 0.8)
    assert (backend.misses, backend.losses.rate) == (1, 1 / 2)


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
    assert backend.misses == 1
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
    assert (backend.state, backend.misses) == (State.UP, 0)


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
    assert backend.held_until == pytest.approx(18, abs=3 * RTT_S)
    assert bench.pool.eligible == []
    bench.silent.clear()
    bench.register()
    run(bench.clock, backend.held_until - 8.2 + 2 * RTT_S)
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
    assert (backend.state, backend.misses) == (State.DOWN, 2)
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


@pytest.mark.parametrize("source", [(AGENT[0], 6666), AGENT], ids=["on another port", "on the same port"])
def test_a_restarted_agent_replaces_the_old_one_only_with_its_answer(source: Address) -> None:
    bench = Bench()
    backend = bench.up()
    bench.transport.take()
    bench.register(source, instance=2)
    assert bench.transport.sent == [(ProbeRequest(1, 1001, instance_tag=2), source)]
    assert (backend.registration.agent, backend.registration.instance) == (AGENT, 1)
    with logged() as events:
        run(bench.clock, RTT_S)
    assert (backend.registration.agent, backend.registration.instance) == (source, 2)
    assert backend.state is State.UP
    assert texts(events) == ["back-end 10.0.0.1:80: its agent was started again"]
    run(bench.clock, 5)
    assert bench.transport.sent[-1] == (ProbeRequest(2, 1002, instance_tag=2), source)


def test_a_false_restart_that_cannot_answer_changes_nothing() -> None:
    bench = Bench(timing=Timing(liveness_s=60))
    backend = bench.up()
    stranger = (AGENT[0], 6666)
    bench.transport.on_write = lambda pdu, address: None
    bench.register(stranger, instance=2)
    bench.transport.on_write = bench._answer
    run(bench.clock, 5)
    assert (backend.registration.agent, backend.registration.instance) == (AGENT, 1)
    assert (backend.state, backend.misses, backend.losses.rate) == (State.UP, 0, 0)


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


def test_backends_are_probed_independently() -> None:
    bench = Bench(timing=Timing(liveness_s=60))
    first = bench.up()
    run(bench.clock, 1)
    second = bench.up(("10.0.0.2", AGENT_PORT))
    bench.silent.add(AGENT[0])
    run(bench.clock, 12)
    assert (first.state, second.state) == (State.DOWN, State.UP)
    assert second.losses.rate == 0


@pytest.mark.parametrize(
    ("networks", "source", "allowed"),
    [
        pytest.param([], "192.0.2.1", True, id="no limit"),
        pytest.param(["10.0.0.0/8"], "10.255.0.1", True, id="inside"),
        pytest.param(["10.0.0.0/8"], "11.0.0.1", False, id="outside"),
        pytest.param(["10.0.0.0/8", "192.0.2.1/32"], "192.0.2.1", True, id="in the second"),
        pytest.param(["10.0.0.0/8"], "::ffff:10.0.0.1", True, id="IPv4-mapped"),
        pytest.param(["2001:db8::/32"], "2001:db8::5", True, id="IPv6 inside"),
        pytest.param(["2001:db8::/32"], "10.0.0.1", False, id="the other family"),
    ],
)
def test_only_allowed_networks_may_register(networks: list[str], source: str, allowed: bool) -> None:
    bench = Bench(allow=[ip_network(network) for network in networks])
    bench.receive(Register(80, 20_000, 1), (source, AGENT_PORT))
    assert (len(bench.pool), bool(bench.transport.sent)) == (allowed, allowed)
    assert bench.counters == (({"register": 1}, {}) if allowed else ({}, {"not-allowed": 1}))


def test_datagrams_are_counted_by_type_when_accepted() -> None:
    bench = Bench()
    bench.up()
    bench.register()
    bench.receive(Unregister(80, 1))
    assert bench.counters == ({"register": 2, "probe-response": 1, "unregister": 1}, {})


@pytest.mark.parametrize(
    ("pdu", "source", "reason"),
    [
        pytest.param(ProbeRequest(0, 1000), AGENT, "unexpected-probe-request", id="probe request"),
        pytest.param(ProbeResponse(0, 1000, 1, 1, 1, 1), AGENT, "duplicate", id="answer twice"),
        pytest.param(ProbeResponse(0, 77, 1, 1, 1, 1), AGENT, "unknown", id="answer never asked for"),
        pytest.param(ProbeResponse(2, 1001, 1, 1, 1, 1), AGENT, "unknown", id="right token, wrong sequence number"),
        pytest.param(ProbeResponse(1, 1001, 1, 1, 1, 1), ("10.0.0.9", AGENT_PORT), "wrong-source", id="other host"),
        pytest.param(ProbeResponse(1, 1001, 1, 1, 1, 1), (AGENT[0], 6666), "wrong-source", id="other port"),
        pytest.param(Unregister(80, 2), AGENT, "wrong-instance", id="unregister another instance"),
        pytest.param(Unregister(81, 1), AGENT, "unknown", id="unregister another service"),
    ],
)
def test_what_may_not_count_is_counted_by_reason_and_changes_nothing(pdu: Pdu, source: Address, reason: str) -> None:
    bench = Bench()
    bench.up()
    bench.silent.add(AGENT[0])
    run(bench.clock, 5.1 - 2 * RTT_S)
    assert bench.transport.sent[-1] == (ProbeRequest(1, 1001, instance_tag=1), AGENT)
    accepted = bench.counters[0]
    with logged() as events, unchanged(bench):
        bench.receive(pdu, source)
    assert bench.counters == (accepted, {reason: 1})
    assert list(events) == []


@pytest.mark.parametrize("datagram", DROPPED)
def test_a_malformed_datagram_is_counted_and_changes_nothing(datagram: str) -> None:
    bench = Bench()
    bench.up()
    accepted = bench.counters[0]
    with logged() as events, unchanged(bench):
        bench.monitor.datagramReceived(bytes.fromhex(datagram), AGENT)
    assert bench.counters[0] == accepted
    assert sum(bench.counters[1].values()) == 1
    assert list(events) == []


@pytest.mark.parametrize(
    "error",
    [OSError(11, "would block"), OSError(101, "no route"), PermissionError(1, "refused"), MessageLengthError("long")],
    ids=repr,
)
def test_a_send_that_fails_is_counted_and_the_probing_goes_on(error: Exception) -> None:
    bench = Bench(timing=Timing(liveness_s=60))
    backend = bench.up()
    bench.transport.error = error
    with logged() as events:
        run(bench.clock, 7)
    assert sum(bench.monitor.counters.send_errors.values()) == 2
    assert list(events) == []
    bench.transport.error = None
    run(bench.clock, 1)
    assert (backend.state, backend.misses) == (State.UP, 0)


def test_an_exception_in_the_probing_loop_is_logged_and_does_not_end_it() -> None:
    bench = Bench(timing=Timing(liveness_s=60))
    backend = bench.up()
    bench.tokens = iter([])
    with logged() as events:
        run(bench.clock, 5.1)
    assert [event["log_failure"].type for event in events] == [StopIteration]
    assert events[0]["backend"] == backend.name
    bench.tokens = count(2000)
    run(bench.clock, 10)
    assert bench.transport.sent[-1] == (ProbeRequest(2, 2001, instance_tag=1), AGENT)


def test_an_exception_in_the_liveness_loop_is_logged_and_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(timing=Timing(probe_interval_s=9, liveness_s=10))
    bench.up()
    bench.silent.add(AGENT[0])
    with monkeypatch.context() as broken, logged() as events:
        broken.setattr(Pool, "check", lambda *args: 1 / 0)
        run(bench.clock, 9.2)
    assert [event["log_failure"].type for event in events] == [ZeroDivisionError]
    assert bench.backend().state is State.UP
    monkeypatch.setattr(Pool, "lost", lambda *args: ())
    run(bench.clock, 10)
    assert bench.backend().state is State.DOWN


@pytest.mark.parametrize("after_s", [0, 0.2, 5.2, 6.0, 11.0])
def test_no_timer_is_left_when_the_port_closes(after_s: float) -> None:
    bench = Bench()
    for number in range(1, 4):
        bench.register((f"10.0.0.{number}", AGENT_PORT))
    bench.silent.update({"10.0.0.1", "10.0.0.2"} if after_s else set())
    run(bench.clock, after_s)
    bench.transport.on_write = lambda pdu, address: None
    run(bench.clock, RTT_S)
    bench.stop()
    assert bench.clock.getDelayedCalls() == []


def test_an_ipv4_agent_on_an_ipv6_socket_is_known_by_its_ipv4_address() -> None:
    bench = Bench(family=socket.AF_INET6)
    mapped = ("::ffff:10.0.0.1", AGENT_PORT)
    bench.receive(Register(80, 20_000, 1), mapped)
    backend = bench.backend("10.0.0.1")
    assert bench.transport.sent == [(ProbeRequest(0, 1000, instance_tag=1), mapped)]
    run(bench.clock, RTT_S)
    assert (backend.state, backend.registration.agent) == (State.UP, AGENT)
    bench.receive(Unregister(80, 1), mapped)
    assert len(bench.pool) == 0


def test_an_ipv6_agent_is_known_and_reached_by_its_ipv6_address() -> None:
    bench = Bench(family=socket.AF_INET6)
    source = ("2001:db8::5", AGENT_PORT)
    backend = bench.up(source)
    assert (backend.name, bench.transport.sent[0][1]) == ("[2001:db8::5]:80", source)


def test_a_trace_logs_every_pdu_in_and_out_and_what_the_round_trip_came_to() -> None:
    """The lines of the report's figures 5.2 to 5.10."""
    bench = Bench(trace=True)
    with logged() as events:
        bench.up()
    request, response = ProbeRequest(0, 1000, instance_tag=1), ProbeResponse(0, 1000, 17, 89, None, 3)
    assert [event["pdu"] for event in events if "pdu" in event] == [Register(80, 20_000, 1), request, response]
    assert [event["source"] for event in events if "source" in event] == [AGENT[0], AGENT[0]]
    measured = next(event for event in events if "sample_ms" in event)
    assert (measured["sample_ms"], measured["smoothed_ms"]) == (pytest.approx(10), pytest.approx(176.25))
    lines = texts(events)
    assert f">> [10.0.0.1] {Register(80, 20_000, 1)}" in lines
    assert f"<< [10.0.0.1:80] {request}" in lines
    assert ":: [10.0.0.1:80] RTT sample 10.000 ms, smoothed 176.250 ms" in lines


def test_a_trace_logs_losses_and_what_was_dropped_and_why() -> None:
    bench = Bench(trace=True)
    bench.silent.add(AGENT[0])
    bench.register()
    with logged() as events:
        run(bench.clock, 0.5)
        bench.monitor.datagramReceived(b"garbage", AGENT)
    assert ":: [10.0.0.1:80] probe lost, 1 in a row" in texts(events)
    assert texts(events)[-1] == ">> [10.0.0.1] dropped: length"


def test_without_a_trace_no_pdu_is_logged() -> None:
    bench = Bench()
    bench.up()
    with logged() as events:
        bench.register()
        bench.receive(ProbeRequest(0, 1))
        run(bench.clock, 20)
    assert list(events) == []


def snapshot(backend: Backend) -> object:
    return (
        backend.state,
        backend.registration,
        attrs.astuple(backend.report),
        backend.draining,
        backend.losses.rate,
        backend.slot,
    )


@attrs.define
class Crowd:
    """Three back-ends that are up, and any number of strangers who send from anywhere, the back-ends' hosts too."""

    bench: Bench
    random: random.Random
    confirmed: list[Backend]
    most_timers: int = 0

    @classmethod
    def gather(cls, seed: int) -> Crowd:
        bench = Bench()
        confirmed = [bench.up((f"10.0.0.{number}", AGENT_PORT)) for number in range(1, 4)]
        bench.transport.on_write = lambda pdu, address: (
            bench._answer(pdu, address) if address in {each.registration.agent for each in confirmed} else None
        )
        return cls(bench, random.Random(seed), confirmed)

    def source(self) -> Address:
        host = self.random.choice(self.confirmed).address if self.random.random() < 0.1 else self._anywhere()
        return host, self.random.choice([AGENT_PORT, self.random.randrange(1, 65536)])

    def _anywhere(self) -> str:
        return socket.inet_ntoa(self.random.randbytes(4))

    def send(self, datagram: bytes, source: Address, pause_s: float) -> None:
        self.bench.monitor.datagramReceived(datagram, source)
        run(self.bench.clock, pause_s)
        self.most_timers = max(self.most_timers, len(self.bench.clock.calls))


def test_a_hundred_thousand_random_datagrams_leave_table_log_and_timers_unharmed() -> None:
    crowd = Crowd.gather(seed=2)
    before = [snapshot(backend) for backend in crowd.confirmed]
    rng = crowd.random
    with logged() as events:
        for number in range(100_000):
            length = SIZE if number % 2 else rng.randrange(65)
            crowd.bench.monitor.datagramReceived(rng.randbytes(length), crowd.source())
            if number % 1000 == 0:
                run(crowd.bench.clock, 0.2)
    assert len(events) <= 5
    assert list(crowd.bench.pool) == crowd.confirmed
    assert [snapshot(backend) for backend in crowd.confirmed] == before
    assert len(crowd.bench.clock.calls) <= 5 * len(crowd.confirmed)
    accepted, dropped = crowd.bench.counters
    assert sum(dropped.values()) == 100_000
    assert accepted["register"] == len(crowd.confirmed)


def random_pdu(rng: random.Random) -> Pdu:
    match rng.randrange(4):
        case 0:
            return ProbeRequest(rng.randrange(4), rng.getrandbits(64))
        case 1:
            return ProbeResponse(rng.randrange(4), rng.getrandbits(64), 1, 2, 3, 4)
        case 2:
            return Unregister(80, rng.getrandbits(64))
        case _:
            return Register(80, rng.randrange(1, UINT32_MAX), rng.getrandbits(64), rng.randrange(1, 65536))


def test_a_flood_of_well_formed_datagrams_from_strangers_leaves_table_log_and_timers_bounded() -> None:
    crowd = Crowd.gather(seed=3)
    with logged() as events:
        for _ in range(20_000):
            crowd.send(encode(random_pdu(crowd.random)), (crowd._anywhere(), AGENT_PORT), 0.001)
    assert len(events) <= 10
    assert len(crowd.bench.pool) <= len(crowd.confirmed) + Limits().unconfirmed
    assert crowd.bench.counters[1]["table-full"] > 0
    assert crowd.most_timers <= 4 * (len(crowd.confirmed) + Limits().unconfirmed)
    for backend in crowd.confirmed:
        assert (backend.state, backend.losses.rate, backend.registration.instance) == (State.UP, 0, 1)


def test_a_flood_in_the_name_of_the_backends_hosts_leaves_them_up_with_their_agents() -> None:
    crowd = Crowd.gather(seed=4)
    agents = [backend.registration for backend in crowd.confirmed]
    with logged() as events:
        for _ in range(5_000):
            host = crowd.random.choice(crowd.confirmed).address
            crowd.send(encode(random_pdu(crowd.random)), (host, crowd.random.randrange(6000, 7000)), 0.002)
    assert len(events) <= 1
    assert [backend.state for backend in crowd.confirmed] == [State.UP] * 3
    assert [backend.registration for backend in crowd.confirmed] == agents


def test_a_candidate_is_not_probed_again_while_a_probe_of_it_is_outstanding() -> None:
    """Or as many timers run as datagrams come in half a second."""
    bench = Bench()
    bench.up()
    bench.silent.add(AGENT[0])
    timers = len(bench.clock.calls)
    for instance in range(2, 1002):
        bench.register((AGENT[0], 6666), instance=instance)
    assert len(bench.clock.calls) <= timers + 10


@pytest.mark.parametrize(
    "pdu",
    [
        Register(65535, UINT32_MAX, UINT64_MAX, 65535, True),
        Register(0, 1, 0, 1),
        Unregister(65535, UINT64_MAX),
        Unregister(0, 0),
        ProbeResponse(UINT32_MAX, UINT64_MAX, 100, 100, 100, COUNT_MAX, True, COUNT_MAX),
        ProbeRequest(UINT32_MAX, UINT64_MAX, COUNT_MAX, UINT32_MAX),
    ],
    ids=lambda pdu: type(pdu).__name__,
)
def test_extreme_values_are_taken_or_dropped_without_an_exception(pdu: Pdu) -> None:
    bench = Bench()
    bench.receive(pdu, ("192.0.2.1", 65535))
    run(bench.clock, 30)
    accepted, dropped = bench.counters
    assert Counter(accepted).total() + Counter(dropped).total() >= 1


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
