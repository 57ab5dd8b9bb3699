"""The agents of one service: which registrations it accepts, and the probes of its back-ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rproxy.net.addresses import Address, Network, within
from rproxy.net.udp_port import SOURCE_GONE, send
from rproxy.pool.admission import Refusal, Rejected
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.events import Events, Observers, Registered
from rproxy.pool.pool import Pool
from rproxy.pool.probes import Elsewhere, Probe
from rproxy.pool.states import State
from rproxy.sources.agents.counters import HELD_BACK, ON_DEMAND, PERIODIC, REGISTRATION, Counters
from rproxy.sources.agents.drop_log import DropLog
from rproxy.sources.agents.first_probes import FirstProbes
from rproxy.sources.agents.on_demand import OnDemand
from rproxy.sources.agents.probe_timeouts import ProbeTimeouts
from rproxy.sources.agents.prober import Probers, Timing
from rproxy.timing.rate_limit import RateLimit
from rproxy.timing.wheel import Wheel
from rproxy.wire.pdu import Register, Unregister, encode
from rproxy.wire.seal import Envelope

TOKEN_BITS: Final = 52
"""Random bits of a token, the lower ones. The others are the service's number."""
SERVICES_MAX: Final = 1 << 64 - TOKEN_BITS
"""Services of one process."""


@attrs.frozen
class AgentFilter:
    """Which registrations a service accepts."""

    service_port: int | None = None
    """The service port that they name; None for any. Port 0 is that of the first service that takes the agent."""
    networks: tuple[Network, ...] = ()
    """Where they come from; empty for anywhere."""
    takes_agents: bool = True
    """Whether it accepts any."""

    def takes_port(self, service_port: int) -> bool:
        """Whether it accepts agents that register this service port."""
        return self.takes_agents and (not service_port or self.service_port in (None, service_port))

    def takes_host(self, host: str) -> bool:
        """Whether it accepts agents on this host."""
        return not self.networks or within(host, self.networks)


class Monitoring(Protocol):
    """What the services' agents share. The monitor implements it."""

    clock: IReactorTime
    timing: Timing
    timeouts: ProbeTimeouts
    wheel: Wheel
    jitter: Callable[[], float]
    """Draws from 0..1."""
    token: Callable[[], int]
    """Draws an unpredictable number of `TOKEN_BITS`."""
    demand_limit: RateLimit
    """Of the probes on demand of all services together."""
    envelope: Envelope
    counters: Counters
    drop_log: DropLog
    trace: bool
    transport: Any
    """Of the port for agents, or the first one."""
    are_several: bool
    """Whether there is more than one service."""

    def lasted_s(self, since: float) -> float:
        """Seconds since a moment, without those in which this process was stalled."""

    def leads_here(self, service: Address) -> bool:
        """Whether a service is this proxy itself."""

    def elsewhere(self, agents: ServiceAgents, backend: Backend) -> Sequence[Elsewhere]:
        """The very same back-end in other services."""

    def way(self, local: str) -> tuple[Any, str]:
        """The transport and the source address to send from, for a registration that came by a further port.

        `local` has the mark of that port, see `FurtherPort`.
        """


class ServiceAgents:
    """A `Source`: the agents of one service, whose pool it fills. `number` is below `SERVICES_MAX`.

    Its timers follow the pool's events: before any other observer, subscribe `observers`.
    """

    log = Logger()

    def __init__(
        self, monitoring: Monitoring, number: int, pool: Pool, publish: Callable[[Events], None], accepts: AgentFilter
    ) -> None:
        self.clock = monitoring.clock
        self.timing = monitoring.timing
        self.timeouts = monitoring.timeouts
        self.wheel = monitoring.wheel
        self.jitter = monitoring.jitter
        self.number = number
        self.pool = pool
        self.publish = publish
        self.accepts = accepts
        self.is_leaving = False
        """Whether its service is no longer configured: it takes registrations of those back-ends that it has."""
        self._monitoring = monitoring
        self._probers = Probers(self)
        self._first_probes = FirstProbes(self.clock, pool.limits.first_probes_per_s, pool, self._probe_once)
        self._on_demand = OnDemand(
            self.clock,
            pool,
            self.timing.freshness_s,
            monitoring.demand_limit,
            self._probe_on_demand,
            self._held_back,
        )

    def start(self) -> None:
        """The port for agents is open."""
        self._on_demand.start()

    def stop(self) -> None:
        """Cancel all timers. May be called twice, and before `start`."""
        self._on_demand.stop()
        self._first_probes.stop()
        self._probers.stop()

    # Receiving.

    def takes(self, host: str, service_port: int) -> bool:
        """Whether the registration of an agent on `host` may be this service's."""
        if self.is_leaving:
            return self.has(host, service_port)
        return self.accepts.takes_port(service_port) and self.accepts.takes_host(host)

    def has(self, host: str, service_port: int) -> bool:
        """Whether it has a row for what an agent on `host` registers."""
        return self.pool.get(host, service_port or self.pool.default_port) is not None

    def register(self, source: Address, pdu: Register, now: float, local: str) -> None:
        """Process a REGISTER. Raises `Rejected`, also for a back-end that is this proxy, which would be a loop."""
        host, port = source[0], pdu.service_port or self.pool.default_port
        if self._monitoring.leads_here((host, port)):
            backend = self.pool.get(host, port)
            if backend is not None:  # the address has become ours since it registered
                self.exclude(backend)
            self._monitoring.drop_log.leads_here((host, port))
            raise Rejected(Refusal.OWN_LISTENER)
        self.publish(self.pool.register(source, pdu, now, local))

    def unregister(self, source: Address, pdu: Unregister, now: float) -> None:
        """Process an UNREGISTER. Raises `Rejected`."""
        self.publish(self.pool.unregister(source, pdu, now))

    def observers(self) -> Observers:
        """The events that the timers follow."""
        return {Registered: self.registered, **self._probers.observers()}

    def registered(self, event: Registered) -> None:
        """A REGISTER was accepted: its agent may have to be probed at once."""
        backend = event.backend
        self._probers.of(backend)
        if event.probe_now:  # a confirmed agent: not subject to the limits of unknown hosts
            self._probe_once(backend, backend.registration)
        self._first_probes.proceed()

    # Sending.

    def probe(self, backend: Backend) -> None:
        """Probe its agent; the probe counts as lost unless it is answered in time."""
        self._send_probe(backend, backend.registration, PERIODIC)

    def _probe_once(self, backend: Backend, registration: Registration) -> None:
        if self.pool.may_probe(backend, registration):
            self._send_probe(backend, registration, REGISTRATION)

    def _probe_on_demand(self, backend: Backend) -> None:
        self._send_probe(backend, backend.registration, ON_DEMAND)

    def _held_back(self) -> None:
        self._monitoring.counters.probes[HELD_BACK] += 1

    def _send_probe(self, backend: Backend, registration: Registration, cause: str) -> None:
        shared, on_demand = self._monitoring, cause is ON_DEMAND
        token = self.number << TOKEN_BITS | shared.token()
        probe = self.pool.probe(
            backend,
            registration,
            token,
            self.clock.seconds(),
            on_demand=on_demand,
            elsewhere=shared.elsewhere(self, backend) if shared.are_several else (),
        )
        counters = shared.counters
        counters.probes[cause] += 1
        self._probers.of(backend).sent(probe)
        agent, local, transport = registration.agent, registration.local, shared.transport
        if "@" in local:
            transport, local = shared.way(local)
        try:
            datagram = shared.envelope.seal(encode(probe.request), agent[0])
            if not send(transport, datagram, agent, local):
                counters.send_errors[SOURCE_GONE] += 1
        except Exception as error:
            counters.send_errors[error.__class__.__name__] += 1
        if shared.trace:
            on_demand_mark = " on demand" if on_demand else ""
            self.log.debug("<< [{backend}] {pdu}{mark}", backend=backend.name, pdu=probe.request, mark=on_demand_mark)

    def timed_out(self, probe: Probe) -> None:
        """A probe's timeout has passed without an answer; times in which this process was stalled do not count."""
        self.publish(self.pool.lost(probe.request.token, self.clock.seconds()))

    def check(self, backend: Backend) -> None:
        """The liveness check of one back-end; times in which this process was stalled do not count."""
        if self._monitoring.leads_here((backend.address, backend.port)):
            self.exclude(backend)
            return
        now = self.clock.seconds()
        self.publish(self.pool.check(backend, self.timing.liveness_s, self._monitoring.lasted_s, now))

    # As a `Source`.

    def exclude(self, backend: Backend, reason: str = "leads back to this proxy") -> None:
        """See `Source`."""
        self.publish(self.pool.exclude(backend, reason, self.clock.seconds()))
        if backend.state is State.DEPARTED:  # for some time perhaps: no event tells of the candidates it had
            self._probers.end(backend)

    def restore(self, rows: Iterable[tuple[Registration, int]]) -> None:
        """See `Source`. The probes do not count toward the rate of first probes."""
        for registration, port in rows:
            backend = self.pool.restore(registration, port)
            if backend is not None:
                self._probers.of(backend)
                self._first_probes.add_restored(backend, registration)

    def is_restoring(self, registration: Registration, port: int) -> bool:
        """See `Source`."""
        backend = self.pool.get(registration.agent[0], port)
        if backend is None:
            return False
        return self._first_probes.is_restoring(backend, registration) or self.pool.is_probed(backend, registration)

    def is_unconfirmed(self, registration: Registration, port: int) -> bool:
        """See `Source`."""
        backend = self.pool.get(registration.agent[0], port)
        return backend is None or backend.state is State.REGISTERED
