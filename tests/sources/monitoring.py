"""A monitor on a clock of its own, whose transport has the agents."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import attrs
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver

from rproxy.net.addresses import Address, Network
from rproxy.observe.pool_log import PoolLog
from rproxy.observe.publisher import Publisher
from rproxy.pool.backend import Backend
from rproxy.pool.policy import Policy
from rproxy.pool.pool import Pool
from rproxy.pool.states import State
from rproxy.sources.agents.monitor import Monitor, Settings
from rproxy.sources.agents.prober import Timing
from rproxy.sources.slow_start import SlowStart
from rproxy.tap.policies import PolicyFailureLog
from rproxy.wire.pdu import (
    Pdu,
    ProbeRequest,
    ProbeResponse,
    Register,
    encode,
)
from rproxy.wire.seal import Unsealed
from tests.fakes import AGENT_PORT, CountingPolicy, Datagrams, run

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
        complaints = PolicyFailureLog(self.clock.seconds)
        self.pool = Pool(policy or self.policy, complaints, timeout_s=timing.probe_timeout_s, panic_below=panic_below)
        self.tokens: Iterator[int] = count(1000)
        self.publish = Publisher()
        self.monitor = Monitor(
            self.clock,
            lambda: next(self.tokens),
            lambda: MIDDLE,
            Unsealed(),
            Settings(timing, tuple(allow), trace=trace),
        )
        self.log = PoolLog(self.clock, self.pool.limits.confirmed, trace=trace)
        self.slow_start = SlowStart(self.clock, self.pool)
        self.agents = self.monitor.add(self.pool, self.publish)
        self.publish.subscribe(self.agents.observers())
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
        monitor = self.monitor
        shared = [
            monitor.timeouts._timer,
            monitor.wheel._timer,
            self.agents._on_demand._timer,
            self.slow_start._timer,
        ]
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
