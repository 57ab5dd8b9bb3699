"""The proxy's side of the monitoring protocol: takes registrations, and probes every agent.

Named after the report's Receptor, TimerProbeRequest, AlarmeTimeoutProbeRequest and AlarmeAgenteAtivo (chapter
4.1.2), which are here one `DatagramProtocol` and the timers of a `Prober` for each back-end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from rproxy.net.addresses import Address, Network, plain
from rproxy.net.udp_port import SOURCE_GONE, send
from rproxy.pool.admission import Refusal, Rejected
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.events import Events, Observers, Registered
from rproxy.pool.pool import Pool
from rproxy.pool.probes import Probe
from rproxy.pool.states import State
from rproxy.sources.agents.drop_log import DropLog
from rproxy.sources.agents.first_probes import FirstProbes
from rproxy.sources.agents.on_demand import OnDemand
from rproxy.sources.agents.probe_timeouts import ProbeTimeouts
from rproxy.sources.agents.prober import Probers, Timing
from rproxy.timing.stall_detector import StallDetector
from rproxy.timing.wheel import Wheel
from rproxy.wire.pdu import Flaw, MalformedPdu, Pdu, ProbeRequest, ProbeResponse, Register, Unregister, decode, encode
from rproxy.wire.seal import Envelope

TICK_S: Final = 0.01
"""Probes due in the same tick are sent in one turn of the reactor; short enough for probes to stay spread."""
TICKS_MIN: Final = 20
"""Ticks of the wheel in a probe interval, at least."""
SOURCES_MAX: Final = 16384
"""Size of the cache of source addresses, in agents: each sends from the same address again and again."""
PERIODIC: Final = "periodic"
REGISTRATION: Final = "registration"
ON_DEMAND: Final = "on_demand"
HELD_BACK: Final = "held_back"
"""Counters of probes, by what they were sent for, and of the times when the budget of those on demand was spent."""
_NAMES: Final[dict[type[Pdu], str]] = {
    Register: "register",
    ProbeRequest: "probe-request",
    ProbeResponse: "probe-response",
    Unregister: "unregister",
}


@attrs.frozen
class Counters:
    """Datagrams accepted by type, dropped by reason, those that could not be sent, and probes by what caused them."""

    accepted: Counter[str] = attrs.Factory(Counter)
    dropped: Counter[str] = attrs.Factory(Counter)
    send_errors: Counter[str] = attrs.Factory(Counter)
    probes: Counter[str] = attrs.Factory(
        lambda: Counter(dict.fromkeys((PERIODIC, REGISTRATION, ON_DEMAND, HELD_BACK), 0))
    )


@attrs.frozen
class Settings:
    """How agents are probed, and which services may be back-ends.

    `allow` lists the networks that may register, all when empty. `leads_here` returns whether a service is this
    proxy itself. With `trace` every PDU is logged.
    """

    timing: Timing = Timing()
    allow: tuple[Network, ...] = ()
    leads_here: Callable[[Address], bool] = lambda service: False
    trace: bool = False


class Monitor(DatagramProtocol):
    """A `Source`: the agents on one UDP port.

    A datagram passes through the envelope and `decode` to the pool, and the pool's events are published.
    The monitor's own timers follow the published events, so it must be subscribed before anything else.

    `clock` must be monotonic. `token` draws unpredictable 64-bit numbers, `jitter` from 0..1. `envelope`
    may be replaced at any time.
    """

    noisy = False
    log = Logger()

    def __init__(
        self,
        pool: Pool,
        clock: IReactorTime,
        publish: Callable[[Events], None],
        token: Callable[[], int],
        jitter: Callable[[], float],
        envelope: Envelope,
        settings: Settings,
    ) -> None:
        self.counters = Counters()
        self.envelope = envelope
        self.clock = clock
        self.jitter = jitter
        self.timing = settings.timing
        self._pool = pool
        self._publish = publish
        self._token = token
        self._settings = settings
        self._source = lru_cache(SOURCES_MAX)(plain)
        self._probers = Probers(self)
        self._first_probes = FirstProbes(clock, pool.limits.first_probes_s, pool, self._probe_once)
        self._on_demand = OnDemand(
            clock, pool, self.timing.freshness_s, self.timing.probe_budget, self._probe_on_demand, self._held_back
        )
        self._stall_detector = StallDetector(clock)
        self.timeouts = ProbeTimeouts(clock, self.timing.probe_timeout_s, self._stall_detector.lasted_s)
        self.wheel = Wheel(clock, min(TICK_S, self.timing.probe_interval_s / TICKS_MIN))
        self._drop_log = DropLog(clock)

    def startProtocol(self) -> None:
        self._stall_detector.start()
        self._on_demand.start()

    def stopProtocol(self) -> None:
        self._on_demand.stop()
        self._stall_detector.stop()
        self._first_probes.stop()
        self._drop_log.stop()
        self._probers.stop()
        self.timeouts.stop()
        self.wheel.stop()

    # Receiving.

    def datagramReceived(self, datagram: bytes, addr: Sequence[object], local: str = "") -> None:
        """Process a datagram, sent to our address `local`, if that is known."""
        source = self._source(addr)
        try:
            pdu = decode(self.envelope.open(datagram, source[0]))
            if self._settings.trace:
                self.log.debug(">> [{source}] {pdu}", source=source[0], pdu=pdu)
            now = self.clock.seconds()
            events: Events
            match pdu:
                case ProbeResponse():
                    events = self._pool.respond(source, pdu, now, self._stall_detector.lasted_s)
                case Register():
                    self._demand_allowed(source[0], pdu)
                    events = self._pool.register(source, pdu, now, local)
                case Unregister():
                    events = self._pool.unregister(source, pdu, now)
                case _:
                    raise Rejected(Refusal.UNEXPECTED_PROBE_REQUEST)
        except MalformedPdu as error:
            self._drop(source, error.flaw)
        except Rejected as error:
            self._drop(source, error.refusal)
        else:
            self.counters.accepted[_NAMES[type(pdu)]] += 1
            self._publish(events)

    def _demand_allowed(self, host: str, pdu: Register) -> None:
        """A back-end that is this proxy would be a loop. Raises `Rejected`."""
        if not self._is_allowed(host):
            raise Rejected(Refusal.NOT_ALLOWED)
        service = host, pdu.service_port or self._pool.default_port
        if self._settings.leads_here(service):
            backend = self._pool.get(*service)
            if backend is not None:  # the address has become ours since it registered
                self.exclude(backend)
            self._drop_log.leads_here(service)
            raise Rejected(Refusal.OWN_LISTENER)

    def _is_allowed(self, host: str) -> bool:
        allow = self._settings.allow
        return not allow or _within(host, allow)

    def _drop(self, source: Address, reason: Flaw | Refusal) -> None:
        self.counters.dropped[reason.value] += 1
        if self._settings.trace:
            self.log.debug(">> [{source}] dropped: {reason}", source=source[0], reason=reason.value)
        self._drop_log.dropped(source, reason)

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
        if self._pool.may_probe(backend, registration):
            self._send_probe(backend, registration, REGISTRATION)

    def _probe_on_demand(self, backend: Backend) -> None:
        self._send_probe(backend, backend.registration, ON_DEMAND)

    def _held_back(self) -> None:
        self.counters.probes[HELD_BACK] += 1

    def _send_probe(self, backend: Backend, registration: Registration, cause: str) -> None:
        on_demand = cause is ON_DEMAND
        probe = self._pool.probe(backend, registration, self._token(), self.clock.seconds(), on_demand=on_demand)
        self.counters.probes[cause] += 1
        self._probers.of(backend).sent(probe)
        assert self.transport is not None
        agent = registration.agent
        try:
            datagram = self.envelope.seal(encode(probe.request), agent[0])
            if not send(self.transport, datagram, agent, registration.local):
                self.counters.send_errors[SOURCE_GONE] += 1
        except Exception as error:
            self.counters.send_errors[error.__class__.__name__] += 1
        if self._settings.trace:
            on_demand_mark = " on demand" if on_demand else ""
            self.log.debug("<< [{backend}] {pdu}{mark}", backend=backend.name, pdu=probe.request, mark=on_demand_mark)

    def timed_out(self, probe: Probe) -> None:
        """A probe's timeout has passed without an answer; times in which this process was stalled do not count."""
        self._publish(self._pool.lost(probe.request.token, self.clock.seconds()))

    def check(self, backend: Backend) -> None:
        """The liveness check of one back-end; times in which this process was stalled do not count."""
        if self._settings.leads_here((backend.address, backend.port)):
            self.exclude(backend)
            return
        now, lasted_s = self.clock.seconds(), self._stall_detector.lasted_s
        self._publish(self._pool.check(backend, self.timing.liveness_s, lasted_s, now))

    # As a `Source`.

    def exclude(self, backend: Backend) -> None:
        """See `Source`."""
        self._publish(self._pool.exclude(backend, "leads back to this proxy", self.clock.seconds()))
        if backend.state is State.DEPARTED:  # for some time perhaps: no event tells of the candidates it had
            self._probers.end(backend)

    def restore(self, rows: Iterable[tuple[Registration, int]]) -> None:
        """See `Source`. The probes do not count toward the rate of first probes."""
        for registration, port in rows:
            host = registration.agent[0]
            if not self._is_allowed(host) or self._settings.leads_here((host, port)):
                continue
            backend = self._pool.restore(registration, port)
            if backend is not None:
                self._probers.of(backend)
                self._first_probes.add_restored(backend, registration)

    def is_restoring(self, backend: Backend, registration: Registration) -> bool:
        """See `Source`."""
        return self._first_probes.is_restoring(backend, registration) or self._pool.is_probed(backend, registration)


def _within(address: str, networks: Collection[Network]) -> bool:
    ip = ip_address(address)
    return any(ip in network for network in networks)
