"""The proxy's side of the monitoring protocol: takes registrations for all services, and has every agent probed.

Named after the report's Receptor, TimerProbeRequest, AlarmeTimeoutProbeRequest and AlarmeAgenteAtivo (chapter
4.1.2), which are here one `DatagramProtocol` and the timers of a `Prober` for each back-end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from rproxy.net.addresses import Address, Network, plain, within
from rproxy.pool.admission import Refusal, Rejected
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.events import Events
from rproxy.pool.pool import Pool
from rproxy.pool.probes import Elsewhere
from rproxy.pool.states import State
from rproxy.sources.agents.counters import Counters
from rproxy.sources.agents.drop_log import DropLog
from rproxy.sources.agents.on_demand import budget_limit
from rproxy.sources.agents.probe_timeouts import ProbeTimeouts
from rproxy.sources.agents.prober import Timing
from rproxy.sources.agents.service_agents import SERVICES_MAX, TOKEN_BITS, AgentFilter, ServiceAgents
from rproxy.timing.stall_detector import StallDetector
from rproxy.timing.wheel import Wheel
from rproxy.wire.pdu import Flaw, MalformedPdu, Pdu, ProbeRequest, ProbeResponse, Register, Unregister, decode
from rproxy.wire.seal import Envelope

TICK_S: Final = 0.01
"""Probes due in the same tick are sent in one turn of the reactor; short enough for probes to stay spread."""
TICKS_MIN: Final = 20
"""Ticks of the wheel in a probe interval, at least."""
SOURCES_MAX: Final = 16384
"""Size of the cache of source addresses, in agents: each sends from the same address again and again."""
_NAMES: Final[dict[type[Pdu], str]] = {
    Register: "register",
    ProbeRequest: "probe-request",
    ProbeResponse: "probe-response",
    Unregister: "unregister",
}


@attrs.frozen
class Settings:
    """How agents are probed, and which services may be back-ends.

    `allow` lists the networks that may register with any service, all when empty. `leads_here` returns whether a
    service is this proxy itself. With `trace` every PDU is logged.
    """

    timing: Timing = Timing()
    allow: tuple[Network, ...] = ()
    leads_here: Callable[[Address], bool] = lambda service: False
    trace: bool = False


class Monitor(DatagramProtocol):
    """A `Source`: the agents of all services, on one UDP port or on several.

    A datagram passes through the envelope and `decode` to the pools that it concerns: a REGISTER to that of every
    service that accepts it, an answer to the one whose number its token bears.

    `clock` must be monotonic. `token` draws unpredictable numbers of `TOKEN_BITS`, `jitter` from 0..1. `envelope` and
    `allow` may be replaced at any time.
    """

    noisy = False
    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        token: Callable[[], int],
        jitter: Callable[[], float],
        envelope: Envelope,
        settings: Settings,
    ) -> None:
        self.counters = Counters()
        self.envelope = envelope
        self.clock = clock
        self.token = token
        self.jitter = jitter
        self.timing = timing = settings.timing
        self.allow = settings.allow
        self.leads_here = settings.leads_here
        self.trace = settings.trace
        self.timeout_s = timing.probe_timeout_s
        self._source = lru_cache(SOURCES_MAX)(plain)
        self._stall_detector = StallDetector(clock)
        self.lasted_s = self._stall_detector.lasted_s
        self.timeouts = ProbeTimeouts(clock, timing.probe_timeout_s, self.lasted_s)
        self.wheel = Wheel(clock, min(TICK_S, timing.probe_interval_s / TICKS_MIN))
        self.demand_limit = budget_limit(timing.freshness_s, timing.probe_budget)
        self.drop_log = DropLog(clock)
        self.ways: dict[str, Any] = {}
        """The transports of further ports, see `FurtherPort`."""
        self._services: list[ServiceAgents] = []
        """In the order in which the configuration names them; those that are leaving come last."""
        self._by_number: dict[int, ServiceAgents] = {}
        self.are_several = False
        self._started = False

    def startProtocol(self) -> None:
        self._started = True
        self._stall_detector.start()
        for agents in self._services:
            agents.start()

    def stopProtocol(self) -> None:
        self._started = False
        for agents in self._services:
            agents.stop()
        self._stall_detector.stop()
        self.drop_log.stop()
        self.timeouts.stop()
        self.wheel.stop()

    # Services.

    def add(self, pool: Pool, publish: Callable[[Events], None], accepts: AgentFilter | None = None) -> ServiceAgents:
        """Fill another service's pool from now on, after the others in order.

        The agents' timers follow the published events, so the caller subscribes them before anything else.
        """
        number = next(number for number in range(SERVICES_MAX) if number not in self._by_number)
        agents = ServiceAgents(self, number, pool, publish, accepts or AgentFilter())
        self._by_number[number] = agents
        self._services.append(agents)
        self.are_several = len(self._services) > 1
        if self._started:
            agents.start()
        return agents

    def remove(self, agents: ServiceAgents) -> None:
        """Cease to probe a service's back-ends, and forget the service."""
        agents.stop()
        self._services.remove(agents)
        del self._by_number[agents.number]
        self.are_several = len(self._services) > 1

    def arrange(self, services: Sequence[ServiceAgents]) -> None:
        """Put these first, in this order."""
        rest = [agents for agents in self._services if agents not in services]
        self._services = [*services, *rest]

    def exclude_others(self) -> None:
        """Exclude the back-ends that would not be taken any more where they are, since `allow` or a filter has changed.

        The registration of one that another service takes now comes there with the agent's next REGISTER.
        """
        for agents in self._services:
            for backend in list(agents.pool):
                host, port = backend.address, backend.port
                is_present = backend.has_agent and backend.state is not State.DEPARTED
                if is_present and not (self._is_allowed(host) and agents.takes(host, port)):
                    agents.exclude(backend, "it is not this service's any more")

    def elsewhere(self, agents: ServiceAgents, backend: Backend) -> Sequence[Elsewhere]:
        """See `Monitoring`."""
        pools = [other.pool for other in self._services if other is not agents]
        found = ((pool, pool.get(backend.address, backend.port)) for pool in pools)
        return [(row, pool.claimed(row)) for pool, row in found if row is not None]

    # Receiving.

    def datagramReceived(self, datagram: bytes, addr: Sequence[object], local: str = "") -> None:
        """Process a datagram, sent to our address `local`, if that is known."""
        source = self._source(addr)
        try:
            pdu = decode(self.envelope.open(datagram, source[0]))
            if self.trace:
                self.log.debug(">> [{source}] {pdu}", source=source[0], pdu=pdu)
            now = self.clock.seconds()
            match pdu:
                case ProbeResponse():
                    agents = self._by_number.get(pdu.token >> TOKEN_BITS)
                    if agents is None:
                        raise Rejected(Refusal.UNKNOWN)
                    agents.publish(agents.pool.respond(source, pdu, now, self.lasted_s))
                case Register():
                    _all(self._takers(source[0], pdu.service_port), lambda each: each.register(source, pdu, now, local))
                case Unregister():
                    has = [each for each in self._services if each.has(source[0], pdu.service_port)]
                    _all(has, lambda each: each.unregister(source, pdu, now))
                case _:
                    raise Rejected(Refusal.UNEXPECTED_PROBE_REQUEST)
        except MalformedPdu as error:
            self._drop(source, error.flaw)
        except Rejected as error:
            self._drop(source, error.refusal)
        else:
            self.counters.accepted[_NAMES[type(pdu)]] += 1

    def _takers(self, host: str, service_port: int) -> list[ServiceAgents]:
        """The services that accept a registration; port 0 is only the first one's. Raises `Rejected` if none is."""
        if not self._is_allowed(host):
            raise Rejected(Refusal.NOT_ALLOWED)
        takers = [agents for agents in self._services if agents.takes(host, service_port)]
        if not takers:
            on_port = any(not each.is_leaving and each.accepts.takes_port(service_port) for each in self._services)
            raise Rejected(Refusal.NOT_ALLOWED if on_port else Refusal.NO_SERVICE)
        if not service_port:
            return [agents for agents in takers if agents is takers[0] or agents.is_leaving]
        return takers

    def _is_allowed(self, host: str) -> bool:
        return not self.allow or within(host, self.allow)

    def _drop(self, source: Address, reason: Flaw | Refusal) -> None:
        self.counters.dropped[reason.value] += 1
        if self.trace:
            self.log.debug(">> [{source}] dropped: {reason}", source=source[0], reason=reason.value)
        self.drop_log.dropped(source, reason)

    # Sending.

    def way(self, local: str) -> tuple[Any, str]:
        """See `Monitoring`."""
        host, _, port = local.partition("@")
        transport = self.ways.get(port)
        return (self.transport, "") if transport is None else (transport, host)

    # As a `Source`.

    def exclude(self, backend: Backend) -> None:
        """See `Source`."""
        for agents in self._services:
            row = agents.pool.get(backend.address, backend.port)
            if row is not None:
                agents.exclude(row)

    def restore(self, rows: Iterable[tuple[Registration, int]]) -> None:
        """See `Source`."""
        for registration, port in rows:
            host = registration.agent[0]
            if self._is_allowed(host) and not self.leads_here((host, port)):
                for agents in self._takers_of(registration, port):
                    agents.restore([(registration, port)])

    def is_restoring(self, registration: Registration, port: int) -> bool:
        """See `Source`."""
        return any(agents.is_restoring(registration, port) for agents in self._takers_of(registration, port))

    def is_unconfirmed(self, registration: Registration, port: int) -> bool:
        """See `Source`."""
        return any(agents.is_unconfirmed(registration, port) for agents in self._takers_of(registration, port))

    def _takers_of(self, registration: Registration, port: int) -> list[ServiceAgents]:
        return [agents for agents in self._services if agents.takes(registration.agent[0], port)]


def _all(services: Sequence[ServiceAgents], process: Callable[[ServiceAgents], None]) -> None:
    """Have each of these services process a PDU. Raises `Rejected` with the first reason if all do, or there is none.

    Not the exception itself, which holds this frame: a reference cycle for each datagram of a flood.
    """
    refusals: list[Refusal] = []
    for agents in services:
        try:
            process(agents)
        except Rejected as error:
            refusals.append(error.refusal)
    if len(refusals) == len(services):
        raise Rejected(refusals[0] if refusals else Refusal.UNKNOWN)
