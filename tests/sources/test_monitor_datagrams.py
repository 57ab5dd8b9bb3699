"""Which datagrams count, what becomes of those that cannot be sent, and floods of them."""

from __future__ import annotations

import gc
import json
import random
import socket
from collections import Counter
from ipaddress import ip_network
from itertools import count
from pathlib import Path

import attrs
import pytest
from twisted.internet.error import MessageLengthError

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend
from rproxy.pool.limits import Limits
from rproxy.pool.pool import Pool
from rproxy.pool.states import State
from rproxy.sources.agents.prober import Timing
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
from tests.fakes import AGENT_PORT, logged, run
from tests.sources.monitoring import AGENT, RTT_S, Bench, unchanged

VECTORS = Path(__file__).parents[1] / "data" / "vectors.json"
DROPPED = [pytest.param(vector["hex"], id=vector["name"]) for vector in json.loads(VECTORS.read_text())["dropped"]]


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
    assert bench.transport.sent[-1] == (ProbeRequest(1, 1001, sessions=0, instance_tag=1), AGENT)
    accepted = bench.counters[0]
    with logged() as events, unchanged(bench):
        bench.receive(pdu, source)
    assert bench.counters == (accepted, {reason: 1})
    assert list(events) == []


@pytest.mark.parametrize(
    ("pdu", "source"),
    [
        pytest.param(Register(80, 20_000, 1), ("192.0.2.1", AGENT_PORT), id="not allowed"),
        pytest.param(Register(80, 20_000, 2), AGENT, id="another instance"),
        pytest.param(Unregister(80, 2), AGENT, id="wrong instance"),
        pytest.param(Unregister(81, 1), AGENT, id="unknown"),
        pytest.param(ProbeResponse(0, 1000, 1, 1, 1, 1), AGENT, id="answer twice"),
        pytest.param(ProbeRequest(0, 1000), AGENT, id="probe request"),
    ],
)
def test_what_is_dropped_leaves_no_work_to_the_garbage_collector(pdu: Pdu, source: Address) -> None:
    """A flood of them would have it run all the time, while sessions wait."""
    bench = Bench(allow=[ip_network("10.0.0.0/8")])
    bench.up()
    gc.collect()
    bench.receive(pdu, source)
    assert gc.collect() == 0


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
    assert (backend.state, backend.health.misses) == (State.UP, 0)


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
    assert bench.transport.sent[-1] == (ProbeRequest(2, 2001, sessions=0, instance_tag=1), AGENT)


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
    assert bench.transport.sent == [(ProbeRequest(0, 1000, sessions=0, instance_tag=1), mapped)]
    run(bench.clock, RTT_S)
    assert (backend.state, backend.registration.agent) == (State.UP, AGENT)
    bench.receive(Unregister(80, 1), mapped)
    assert len(bench.pool) == 0


def test_an_ipv6_agent_is_known_and_reached_by_its_ipv6_address() -> None:
    bench = Bench(family=socket.AF_INET6)
    source = ("2001:db8::5", AGENT_PORT)
    backend = bench.up(source)
    assert (backend.name, bench.transport.sent[0][1]) == ("[2001:db8::5]:80", source)


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
