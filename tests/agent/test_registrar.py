"""How an agent finds its proxy among the addresses of a name, and whom it believes that the proxy lives."""

from __future__ import annotations

import random
from typing import Any

import pytest
from twisted.internet.task import Clock

from rproxy.agent.agent import Agent
from rproxy.agent.environment import Environment
from rproxy.agent.registrar import LOOKUP_S, Registration
from rproxy.net.addresses import Address
from rproxy.wire.pdu import Pdu, ProbeRequest, ProbeResponse, Register, decode, encode
from rproxy.wire.seal import Key, Sealed
from tests.agent.test_agent import HINT, INSTANCE, OTHER, PROXY, Bench, Names, run_probed
from tests.fakes import Datagrams, StubSampler, logged, run, texts

FOUR: Address = ("10.1.1.10", 5555)
FURTHER: Address = ("10.1.1.20", 5555)
SIX: Address = ("2001:db8::10", 5555)
KEY = Sealed((Key(1, bytes(range(32)), is_derived=False),))
OWN = {FOUR: "10.1.1.1", SIX: "2001:db8::1", FURTHER: "10.9.9.9"}


def named(*addresses: Address) -> Names:
    names = Names()
    names.hosts["proxy"] = [host for host, _ in addresses]
    return names


def bench_of(names: Names, interval_s: float = 20) -> Bench:
    return Bench(("proxy", 5555), interval_s=interval_s, resolve=names.resolve)


def tried(bench: Bench) -> list[tuple[float, str]]:
    return [(at, host) for at, (host, _) in bench.times]


def test_all_addresses_of_a_name_are_tried_in_turn_and_the_waits_grow_by_the_round() -> None:
    bench = bench_of(named(FOUR, SIX, FURTHER), interval_s=1000)
    run(bench.clock, 9.5)
    four, six, further = FOUR[0], SIX[0], FURTHER[0]
    assert tried(bench) == [(0, four), (1, six), (2, further), (3, four), (5, six), (7, further), (9, four)]


def test_the_first_address_that_probes_is_kept_to() -> None:
    bench = bench_of(named(FOUR, SIX), interval_s=10)
    run(bench.clock, 1.5)
    with logged() as events:
        run_probed(bench, 40, SIX)
    assert [host for _, host in tried(bench)] == [FOUR[0], SIX[0], SIX[0], SIX[0], SIX[0], SIX[0]]
    assert texts(events) == ["proxy:5555 ([2001:db8::10]:5555) probes this agent"]


def test_an_address_that_was_tried_before_may_still_answer() -> None:
    bench = bench_of(named(FOUR, SIX), interval_s=1000)
    run(bench.clock, 1.5)
    bench.transport.take()
    bench.probe(FOUR)
    assert [address for _, address in bench.transport.take()] == [FOUR]
    bench.probe(SIX)  # late: it would be a second back-end, of the same host
    assert bench.transport.take() == []
    assert bench.agent.counters == {"wrong-source": 1}


def test_after_a_silence_the_address_that_probed_has_the_first_turn() -> None:
    bench = bench_of(named(FOUR, SIX), interval_s=1000)
    run(bench.clock, 1.5)
    bench.probe(SIX)
    bench.times.clear()
    run(bench.clock, 15)
    assert tried(bench) == [(13.5, SIX[0]), (14.5, FOUR[0]), (15.5, SIX[0])]


def test_an_order_that_changes_changes_nothing() -> None:
    names = named(FOUR, SIX)
    bench = bench_of(names, interval_s=1000)
    names.hosts["proxy"].reverse()
    run(bench.clock, 3.5)
    assert [host for _, host in tried(bench)] == [FOUR[0], SIX[0], FOUR[0]]


def test_no_more_than_some_addresses_are_tried() -> None:
    names = Names()
    names.hosts["proxy"] = [f"10.0.{number // 256}.{number % 256}" for number in range(1000)]
    bench = bench_of(names, interval_s=1000)
    run(bench.clock, 40)
    assert {host for _, host in tried(bench)} == set(names.hosts["proxy"][:16])


def test_a_name_is_looked_up_every_5_minutes_also_while_its_proxy_probes() -> None:
    names = named(FOUR)
    bench = bench_of(names)
    run_probed(bench, 3 * LOOKUP_S + 1)
    assert len(names.asked) == 4


def test_a_proxy_that_has_moved_is_followed_once_it_probes_from_its_new_address() -> None:
    names = named(FOUR)
    bench = bench_of(names, interval_s=10)
    run_probed(bench, LOOKUP_S - 1, FOUR)
    names.hosts["proxy"] = [FURTHER[0]]
    bench.times.clear()
    run_probed(bench, 22, FOUR)
    assert {host for _, host in tried(bench)} == {FOUR[0], FURTHER[0]}
    bench.transport.take()
    with logged() as events:
        bench.probe(FURTHER)
        bench.probe(FOUR)
    assert [address for _, address in bench.transport.take()] == [FURTHER]
    assert texts(events) == ["proxy:5555 (10.1.1.20:5555) probes this agent"]
    bench.times.clear()
    run_probed(bench, 21, FURTHER)
    assert {host for _, host in tried(bench)} == {FURTHER[0]}


def test_a_name_that_is_not_found_any_more_costs_a_proxy_that_probes_nothing() -> None:
    names = named(FOUR)
    bench = bench_of(names)
    run_probed(bench, LOOKUP_S - 1, FOUR)
    names.hosts.clear()
    bench.transport.take()
    run_probed(bench, 2 * LOOKUP_S, FOUR)
    assert {address for _, address in bench.transport.take()} == {FOUR}


class Sent(Datagrams):
    """Keeps what is written as it is."""

    def write(self, packet: bytes, addr: Any = None) -> None:
        self.written.append((packet, addr))


class KeyedBench:
    """A keyed agent that has an address of its own for each of its proxy's, and one that records what it hears."""

    def __init__(self, names: Names, interval_s: float = 1000) -> None:
        self.clock = Clock()
        self.transport = Sent()
        self.agent = Agent(
            Registration(interval_s, INSTANCE, 80),
            [("proxy", 5555)],
            StubSampler(),
            Environment(self.clock, names.resolve, lambda: 0.0, lambda address, local: local or OWN[address]),
            envelope=KEY,
        )
        self.agent.makeConnection(self.transport)
        self.recorded: list[bytes] = []
        self._rng = random.Random(1)
        self._sequence = 0

    def probe(self, source: Address = FOUR) -> None:
        """A new one of the proxy's."""
        probe = ProbeRequest(self._sequence, self._rng.getrandbits(64))
        self._sequence += 1
        self.recorded.append(KEY.seal(encode(probe), OWN[source]))
        self.agent.datagramReceived(self.recorded[-1], source)

    def restart_proxy(self) -> None:
        self._sequence = 0

    def take(self) -> list[tuple[Pdu, Address]]:
        sent = [(decode(KEY.open(packet, OWN[address])), address) for packet, address in self.transport.written]
        self.transport.written.clear()
        return sent

    def registrations(self) -> int:
        return sum(isinstance(pdu, Register) for pdu, _ in self.take())


def test_what_goes_to_each_address_is_sealed_for_the_one_of_ours_that_it_sees() -> None:
    bench = KeyedBench(named(FOUR, SIX))
    run(bench.clock, 1.5)
    assert [address for _, address in bench.take()] == [FOUR, SIX]
    bench.probe(SIX)
    ((answer, address),) = bench.take()
    assert (type(answer), address) == (ProbeResponse, SIX)
    run(bench.clock, 12.5)
    assert [address for _, address in bench.take()] == [SIX]


def test_an_old_probe_that_is_sent_again_does_not_pass_for_a_proxy_that_lives() -> None:
    bench = KeyedBench(named(FOUR))
    for _ in range(10):
        bench.probe()
        run(bench.clock, 5)
    bench.take()
    with logged() as events:
        for _ in range(5):
            bench.agent.datagramReceived(bench.recorded[3], FOUR)
            assert ProbeResponse in {type(pdu) for pdu, _ in bench.take()}
            run(bench.clock, 4)
    assert "proxy:5555 has stopped probing; registering again" in texts(events)
    assert bench.agent.counters["stale-probe"] == 5


def test_a_restarted_proxy_is_registered_with_in_time_while_its_whole_former_life_is_sent_again_in_order() -> None:
    names = named(FOUR)
    bench = KeyedBench(names)
    for _ in range(100):
        bench.probe()
        run(bench.clock, 5)
    former = bench.recorded.copy()
    bench.restart_proxy()
    for _ in range(3):  # it is started again, and again
        bench.probe()
        run(bench.clock, 5)
    bench.take()
    names.asked.clear()
    for datagram in former[:40]:
        bench.agent.datagramReceived(datagram, FOUR)
        run(bench.clock, 1)
    assert bench.registrations() >= 40 / 12
    assert len(names.asked) >= 40 / 12
    bench.restart_proxy()
    with logged() as events:
        bench.probe()
    assert texts(events) == ["proxy:5555 (10.1.1.10:5555) probes this agent"]


def test_an_old_probe_of_another_address_of_the_name_is_no_reason_to_go_there() -> None:
    bench = KeyedBench(named(FOUR, SIX))
    run(bench.clock, 1.5)
    bench.probe(SIX)
    old = bench.recorded[-1]
    run(bench.clock, 12.5)
    run(bench.clock, 1)
    bench.take()
    bench.agent.datagramReceived(old, SIX)
    bench.take()
    bench.probe(FOUR)
    run(bench.clock, 1)
    bench.agent.datagramReceived(old, SIX)
    assert [address for _, address in bench.take()] == [FOUR]


def test_the_hint_tells_who_probes_instead_and_once_more_where_that_is_seen_late() -> None:
    with logged() as events:
        bench = Bench()
        run(bench.clock, 20)
        assert texts(events) == [HINT]
        for _ in range(100):
            bench.probe(OTHER)
            run(bench.clock, 1)
    assert texts(events) == [HINT, f"{HINT}; probes come from 10.1.1.11:5556, which no --proxy names"]


@pytest.mark.parametrize("seal", [Sealed((Key(9, bytes(32), is_derived=False),)), None])
def test_the_hint_tells_of_a_strangers_probe_whatever_its_seal(seal: Sealed | None) -> None:
    probe = encode(ProbeRequest(0, 1))
    with logged() as events:
        bench = Bench()
        bench.agent.datagramReceived(b"garbage", ("10.1.1.66", 1))
        bench.agent.datagramReceived(seal.seal(probe, "::") if seal else probe, OTHER)
        bench.agent.datagramReceived(encode(Register(80, 1, 1)), ("10.1.1.67", 1))
        run(bench.clock, 1000)
    assert texts(events) == [f"{HINT}; probes come from 10.1.1.11:5556, which no --proxy names"]


def test_strangers_fill_no_log() -> None:
    with logged() as events:
        bench = Bench()
        for number in range(20_000):
            bench.probe(("10.1.1.11", number))
            run(bench.clock, 0.1)
    assert len(texts(events)) == 1


def test_a_proxy_that_probes_makes_the_stranger_forgotten() -> None:
    bench = Bench()
    bench.probe(OTHER)
    bench.probe()
    with logged() as events:
        run(bench.clock, 100)
    assert texts(events)[-1] == HINT
    assert bench.times[0][1] == PROXY
