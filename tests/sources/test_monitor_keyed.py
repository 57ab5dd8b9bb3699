"""A monitor whose PDUs are sealed, with an agent of the same keys, on a clock."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import attrs
import pytest
from twisted.internet.defer import succeed
from twisted.internet.task import Clock

from rproxy.agent.agent import Agent
from rproxy.agent.environment import Environment
from rproxy.agent.registrar import Registration
from rproxy.net.addresses import Address
from rproxy.observe.publisher import Publisher
from rproxy.pool.states import State
from rproxy.sources.agents.monitor import Monitor, Settings
from rproxy.tap.key_rotation import HasEnvelope
from rproxy.wire.pdu import ProbeRequest, Register, encode
from rproxy.wire.seal import Envelope, Key, Sealed, Unsealed
from tests.fakes import Datagrams, StubSampler, logged, pool_of, run, texts

PROXY: Address = ("10.1.1.10", 5555)
AGENT: Address = ("10.1.1.1", 5555)
OLD, NEW = Key(1, bytes(range(32))), Key(2, bytes(range(1, 33)))


class Wire:
    """Carries datagrams from one end to the other, in 1 ms, and keeps them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.carried: list[bytes] = []


class End(Datagrams):
    """One end's transport."""

    def __init__(self, wire: Wire, own: Address) -> None:
        super().__init__()
        self.wire = wire
        self.own = own
        self.other: Agent | Monitor | None = None

    def write(self, packet: bytes, addr: Any = None) -> None:
        assert self.other is not None
        self.wire.carried.append(packet)
        self.wire.clock.callLater(0.001, self.other.datagramReceived, packet, self.own)


class Pair:
    def __init__(self, proxys: Envelope, agents: Envelope, *, own: str = AGENT[0]) -> None:
        self.clock = Clock()
        tokens: Iterator[int] = count(1000)
        self.pool = pool_of()
        publish = Publisher()
        self.monitor = Monitor(self.clock, lambda: next(tokens), lambda: 0.5, proxys, Settings())
        publish.subscribe(self.monitor.add(self.pool, publish).observers())
        self.agent = Agent(
            Registration(20, 1, 80),
            [PROXY],
            StubSampler(),
            Environment(self.clock, lambda host: succeed([host]), lambda: 0.0, lambda proxy, probed_at: own),
            envelope=agents,
        )
        self.wire = Wire(self.clock)
        proxy_end, agent_end = End(self.wire, PROXY), End(self.wire, AGENT)
        proxy_end.other, agent_end.other = self.agent, self.monitor
        self.monitor.makeConnection(proxy_end)
        self.agent.makeConnection(agent_end)

    @property
    def is_up(self) -> bool:
        backend = self.pool.get(AGENT[0], 80)
        return backend is not None and backend.state is State.UP

    @property
    def losses(self) -> float:
        backend = self.pool.get(AGENT[0], 80)
        assert backend is not None
        return backend.losses.rate


def derived(key: Key) -> Key:
    return Key(key.id, key.derive(AGENT[0]), is_derived=True)


@pytest.mark.parametrize("agents", [OLD, derived(OLD)], ids=["master", "derived"])
def test_an_agent_with_its_key_is_up(agents: Key) -> None:
    pair = Pair(Sealed((OLD,)), Sealed((agents,)))
    run(pair.clock, 30)
    assert pair.is_up
    assert {len(datagram) for datagram in pair.wire.carried} == {44}
    assert not pair.monitor.counters.dropped
    assert not pair.agent.counters


@pytest.mark.parametrize(
    ("proxys", "agents", "own", "reason"),
    [
        (Sealed((OLD,)), Unsealed(), AGENT[0], "unsealed"),
        (Unsealed(), Sealed((OLD,)), AGENT[0], "sealed"),
        (Sealed((OLD,)), Sealed((Key(1, bytes(32)),)), AGENT[0], "seal"),
        (Sealed((OLD,)), Sealed((NEW,)), AGENT[0], "key-id"),
        (Sealed((OLD,)), Sealed((OLD,)), "10.1.1.2", "seal"),
    ],
    ids=["plain agent", "plain proxy", "wrong key", "unknown key", "another address"],
)
def test_any_other_is_not_and_one_line_a_minute_says_why(
    proxys: Envelope, agents: Envelope, own: str, reason: str
) -> None:
    with logged() as events:
        pair = Pair(proxys, agents, own=own)
        run(pair.clock, 100)
    assert len(pair.pool) == 0
    assert set(pair.monitor.counters.dropped) == {reason}
    assert all(len(datagram) == len(pair.wire.carried[0]) for datagram in pair.wire.carried)
    lines = [text for text in texts(events) if text.startswith("dropped")]
    assert lines[0] == f"dropped 1 datagram(s): {reason}; the last one came from {AGENT[0]}"
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("own", "sealing", "size", "reason"),
    [
        (Sealed((OLD,)), Unsealed(), 24, "unsealed"),
        (Unsealed(), Sealed((OLD,)), 44, "sealed"),
        (Sealed((OLD,)), Sealed((Key(1, bytes(32)),)), 44, "seal"),
        (Sealed((OLD,)), Sealed((NEW,)), 44, "key-id"),
        (Sealed((OLD,)), Sealed((OLD,)), 43, "length"),
        (Unsealed(), Unsealed(), 23, "length"),
    ],
)
def test_an_agent_counts_a_probe_under_another_seal_and_does_not_answer(
    own: Envelope, sealing: Envelope, size: int, reason: str
) -> None:
    pair = Pair(own, own)
    run(pair.clock, 1)
    carried = len(pair.wire.carried)
    pair.agent.datagramReceived(sealing.seal(encode(ProbeRequest(0, 1)), AGENT[0])[:size], PROXY)
    run(pair.clock, 1)
    assert pair.agent.counters == {reason: 1}
    assert len(pair.wire.carried) == carried


def test_keys_are_replaced_step_by_step_without_losing_a_probe() -> None:
    pair = Pair(Sealed((OLD,)), Sealed((OLD,)))
    run(pair.clock, 12)
    sides: list[tuple[HasEnvelope, tuple[Key, ...]]] = [
        (pair.monitor, (OLD, NEW)),
        (pair.agent, (NEW, OLD)),
        (pair.monitor, (NEW, OLD)),
        (pair.agent, (NEW,)),
        (pair.monitor, (NEW,)),
    ]
    for side, keys in sides:
        side.envelope = Sealed(keys)
        run(pair.clock, 13.1)
    assert (pair.is_up, pair.losses) == (True, 0)
    assert not pair.monitor.counters.dropped
    assert not pair.agent.counters
    assert {datagram[24] for datagram in pair.wire.carried[-4:]} == {2}


def test_an_agent_that_drains_says_so_at_once_and_is_believed_by_its_answer() -> None:
    pair = Pair(Sealed((OLD,)), Sealed((OLD,)))
    run(pair.clock, 1)
    pair.agent.drain()
    run(pair.clock, 0.1)
    assert (pair.is_up, pair.pool.eligible) == (True, [])
    pair.agent.drain(False)
    run(pair.clock, 0.1)
    assert len(pair.pool.eligible) == 1


def test_an_agent_without_a_route_counts_that_and_tries_again() -> None:
    pair = Pair(Sealed((OLD,)), Sealed((OLD,)))
    routed = pair.agent.environment

    def unroutable(*_: object) -> str:
        raise OSError(101, "Network is unreachable")

    pair.agent.environment = attrs.evolve(routed, own_address=unroutable)
    run(pair.clock, 30)
    assert pair.agent.counters["OSError"] > 3
    pair.agent.environment = routed
    run(pair.clock, 21)
    assert pair.is_up


def test_a_datagram_before_the_agents_own_address_is_known_is_dropped() -> None:
    pair = Pair(Sealed((OLD,)), Sealed((OLD,)))
    pair.agent._registrars[0]._own_addresses.clear()
    pair.agent.datagramReceived(Sealed((OLD,)).seal(encode(Register(80, 1, 1)), AGENT[0]), PROXY)
    assert pair.agent.counters == {"seal": 1}
