"""A proxy: the program's own pool, policy, monitor and slow start, wired as `tap.service` does, in virtual time."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from random import Random
from typing import Any, Final

import attrs

from rproxy.net.addresses import Address
from rproxy.observe.publisher import Publisher
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.events import Events
from rproxy.pool.limits import Limits
from rproxy.pool.policy import Policy
from rproxy.pool.pool import Pool
from rproxy.sources.agents.monitor import Monitor, Settings
from rproxy.sources.agents.prober import Timing
from rproxy.sources.agents.service_agents import TOKEN_BITS
from rproxy.sources.slow_start import SlowStart
from rproxy.study.agents import REGISTER_S, SERVICE_PORT, Agent, Transport
from rproxy.study.engine import Engine
from rproxy.wire.seal import Unsealed

FIRST_PROBES_MIN_S: Final = 50.0
"""Confirmations of unknown agents a second, at least: a study is about choosing, not about filling the pool."""

LIVENESS_MIN_S: Final = 10.0
"""A back-end that has been silent for this time, or for 2.5 intervals, goes down."""


@attrs.frozen
class Probing:
    """How a proxy probes: every `interval_s`, and on demand what is older than `freshness_s` (None: never)."""

    interval_s: float = 5.0
    freshness_s: float | None = 0.1

    @property
    def timing(self) -> Timing:
        """For the monitor."""
        liveness_s = max(LIVENESS_MIN_S, 2.5 * self.interval_s)
        return Timing(self.interval_s, liveness_s=liveness_s, freshness_s=self.freshness_s)


class Proxy:
    """One run of a proxy process. Sessions call `choose`, `connected`, for one that failed `refused`, and `closed`."""

    def __init__(self, engine: Engine, policy: Policy, agents: dict[Address, Agent], transport: Transport, rng: Random):
        self._engine = engine
        self._agents = {agent.address[0]: agent for agent in agents.values()}
        self._transport = transport
        self._rng = rng
        self.failure: BaseException | None = None
        """What the policy first raised: the pool goes on without it, and the study must not."""
        size = len(agents)
        limits = Limits(size, size, first_probes_per_s=max(FIRST_PROBES_MIN_S, size))
        self.pool = Pool(policy, self._complain, SERVICE_PORT, limits=limits)
        self._publish = Publisher()
        self._slow_start = SlowStart(engine, self.pool)
        self._monitor: Monitor | None = None

    def start(self, probing: Probing) -> None:
        """Begin to take registrations and to probe."""
        rng, publish = self._rng, self._publish
        settings = Settings(probing.timing)
        monitor = Monitor(self._engine, lambda: rng.getrandbits(TOKEN_BITS), rng.random, Unsealed(), settings)
        for observing in (monitor.add(self.pool, publish), self._slow_start):
            publish.subscribe(observing.observers())
        transport: Any = self._transport
        monitor.makeConnection(transport)
        self._transport.monitor = self._monitor = monitor

    def stop(self) -> None:
        """Cancel all timers; its sessions may go on."""
        if self._monitor is not None:
            self._transport.monitor = None
            self._monitor.stopProtocol()
        self._slow_start.stop()

    def restore(self, agents: Iterable[Agent]) -> None:
        """It was restarted, and has the rows of its earlier run (see `Source.restore`)."""
        assert self._monitor is not None
        rows = [
            (Registration(agent.address, agent.instance, REGISTER_S, agent.host.spec.weight), SERVICE_PORT)
            for agent in agents
        ]
        self._monitor.restore(rows)

    def register(self, agent: Agent) -> None:
        """The agent registers."""
        if self._monitor is not None:
            self._monitor.datagramReceived(agent.registration(), agent.address)

    def _complain(self) -> None:
        if self.failure is None:
            self.failure = sys.exc_info()[1]

    # Called by sessions.

    def choose(self, exclude: Collection[Backend] = ()) -> Backend | None:
        """As `Pool.choose`."""
        return self.pool.choose(self._engine.now, exclude)

    def agent_of(self, backend: Backend) -> Agent:
        """The agent on a back-end's host."""
        return self._agents[backend.address]

    def backend_of(self, agent: Agent) -> Backend | None:
        """The back-end on an agent's host; None while it is not registered."""
        return self.pool.get(agent.address[0], SERVICE_PORT)

    def connected(self, backend: Backend, *, answers: bool = True) -> None:
        """The session's connection is established; `answers`: the client will get a byte."""
        self.pool.connected(backend)
        if answers and backend.health.refusals:
            self._published(self.pool.served(backend, self._engine.now))

    def refused(self, backend: Backend) -> None:
        """The session's connect failed, or its connection ended at once without a byte."""
        self._published(self.pool.refused(backend, self._engine.now))

    def closed(self, backend: Backend, served_s: float | None) -> None:
        """The session has ended, `served_s` after it was connected; None if the back-end failed it."""
        self._published(self.pool.closed(backend, self._engine.now, was_connected=True, served_s=served_s))

    def _published(self, events: Events) -> None:
        if events:
            self._publish(events)
