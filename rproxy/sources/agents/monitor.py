"""The proxy's side of the monitoring protocol: takes registrations, probes every agent, keeps the table.

Named after the report's Receptor, TimerProbeRequest, AlarmeTimeoutProbeRequest and AlarmeAgenteAtivo (chapter
4.1.2), which are here one `DatagramProtocol` and the timers of a `Prober` for each back-end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from rproxy.net.addresses import Address, plain
from rproxy.net.udp_port import SOURCE_GONE, send
from rproxy.pool.admission import Refusal, Rejected
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.events import Confirmed, Probe, Transition
from rproxy.pool.policy import Policy
from rproxy.pool.states import Administration, State
from rproxy.pool.table import Table
from rproxy.sources.agents.announcements import Announcements
from rproxy.sources.agents.first_probes import FirstProbes
from rproxy.sources.agents.probe_timeouts import ProbeTimeouts
from rproxy.sources.agents.prober import Prober, Timing
from rproxy.timing.stall_detector import StallDetector
from rproxy.timing.wheel import Wheel
from rproxy.wire.pdu import Flaw, MalformedPdu, PduType, ProbeResponse, Register, Unregister, decode, encode
from rproxy.wire.seal import Envelope, Unsealed

TICK_S: Final = 0.01
"""Probes due in the same tick are sent in one turn of the reactor; short enough for probes to stay spread."""
TICKS_MIN: Final = 20
"""In a probe interval, however short it is."""
_TELLING: Final = frozenset(
    {Flaw.SEALED, Flaw.UNSEALED, Flaw.KEY_ID, Flaw.SEAL, Refusal.NOT_ALLOWED, Refusal.TABLE_FULL, Refusal.RATE_LIMITED}
)

DEFAULT_TIMING: Final = Timing()
Network = IPv4Network | IPv6Network


@attrs.frozen
class Counters:
    """Datagrams accepted by type, dropped by reason, and those that could not be sent."""

    accepted: Counter[str] = attrs.Factory(Counter)
    dropped: Counter[str] = attrs.Factory(Counter)
    send_errors: Counter[str] = attrs.Factory(Counter)


class Monitor(DatagramProtocol):
    """Listens for agents on one UDP port.

    `clock` must be monotonic. `token` draws unpredictable 64-bit numbers, `jitter` from 0..1. `envelope` is how PDUs
    are sealed, and may be replaced at any time. `allow` lists the networks that may register, all when empty;
    `leads_here` tells of a service whether it is this proxy itself, and no back-end. With `trace` every PDU is logged.
    """

    noisy = False
    log = Logger()

    def __init__(
        self,
        table: Table,
        policy: Policy,
        clock: IReactorTime,
        token: Callable[[], int],
        jitter: Callable[[], float],
        *,
        envelope: Envelope | None = None,
        timing: Timing = DEFAULT_TIMING,
        allow: Collection[Network] = (),
        leads_here: Callable[[Address], bool] = lambda service: False,
        trace: bool = False,
    ) -> None:
        self.counters = Counters()
        self.envelope: Envelope = envelope or Unsealed()
        self.clock = clock
        self.jitter = jitter
        self.timing = timing
        self._table = table
        self._policy = policy
        self._token = token
        self._allow = tuple(allow)
        self._leads_here = leads_here
        self._trace = trace
        self._probers: dict[Backend, Prober] = {}
        self._first_probes = FirstProbes(clock, table.limits.first_probes_s, table.unconfirmed, self._introduce)
        self._stall_detector = StallDetector(clock)
        self.timeouts = ProbeTimeouts(clock, timing.probe_timeout_s, self._stall_detector.lasted_s)
        self.wheel = Wheel(clock, min(TICK_S, timing.probe_interval_s / TICKS_MIN))
        self._panicking = False
        self._announcements = Announcements(clock, table.limits.confirmed, trace=trace)
        self.heed: Callable[[Transition], None] = lambda transition: None
        """Told of every transition once the monitor has done what it is to do."""

    def startProtocol(self) -> None:
        self._stall_detector.start()

    def stopProtocol(self) -> None:
        self._stall_detector.stop()
        self._first_probes.stop()
        self._announcements.stop()
        self.timeouts.stop()
        self.wheel.stop()
        for prober in self._probers.values():
            prober.stop()
        self._probers.clear()

    def datagramReceived(self, datagram: bytes, addr: Sequence[object], local: str = "") -> None:
        """Take in a datagram, sent to our address `local`, if that is known."""
        source = plain(addr)
        try:
            self._take(source, datagram, local)
        except MalformedPdu as error:
            self._drop(source, error.flaw)
        except Rejected as error:
            self._drop(source, error.refusal)

    def _take(self, source: Address, datagram: bytes, local: str) -> None:
        """Act on one datagram. Raises `MalformedPdu` or `Rejected` if it is to be dropped."""
        pdu = decode(self.envelope.open(datagram, source[0]))
        if self._trace:
            self.log.debug(">> [{source}] {pdu}", source=source[0], pdu=pdu)
        match pdu:
            case ProbeResponse():
                self._respond(source, pdu)
                kind = PduType.PROBE_RESPONSE
            case Register():
                self._register(source, pdu, local)
                kind = PduType.REGISTER
            case Unregister():
                kind = PduType.UNREGISTER
                self._unregister(source, pdu)
            case _:
                raise Rejected(Refusal.UNEXPECTED_PROBE_REQUEST)
        self.counters.accepted[_NAMES[kind]] += 1

    def _drop(self, source: Address, reason: Flaw | Refusal) -> None:
        self.counters.dropped[reason.value] += 1
        if self._trace:
            self.log.debug(">> [{source}] dropped: {reason}", source=source[0], reason=reason.value)
        if reason in _TELLING:
            self._announcements.dropped(source, reason.value)

    def _register(self, source: Address, pdu: Register, local: str) -> None:
        if self._allow and not _within(source[0], self._allow):
            raise Rejected(Refusal.NOT_ALLOWED)
        self._demand_other(source[0], pdu.service_port or self._table.default_port)
        registered = self._table.register(source, pdu, self.clock.seconds(), local)
        backend = registered.backend
        self._prober(backend)
        if registered.asks:  # its agent has answered a probe before, and is up: no stranger's budget
            self._introduce(backend, backend.registration)
        self._first_probes.proceed()
        if registered.news:
            self._tell(self._policy.reported, backend)

    def _demand_other(self, host: str, port: int) -> None:
        """A back-end that is this proxy would be a loop. Raises `Rejected`."""
        if not self._leads_here((host, port)):
            return
        backend = self._table.get(host, port)
        if backend is not None:  # the address is ours since it registered
            self.exclude(backend)
        self._announcements.leads_here((host, port))
        raise Rejected(Refusal.OWN_LISTENER)

    def exclude(self, backend: Backend) -> None:
        """It leads back to this proxy: whatever its agent says, it is no back-end any more."""
        if (transition := self._table.exclude(backend, "leads back to this proxy", self.clock.seconds())) is not None:
            self.announce(transition)

    def _prober(self, backend: Backend) -> Prober:
        prober = self._probers.get(backend)
        if prober is None:
            prober = self._probers[backend] = Prober(self, backend)
        return prober

    def restore(self, rows: Iterable[tuple[Registration, int]]) -> None:
        """Rows of an earlier life of this proxy: what was registered, and for which service port. Those that may
        register are probed at once, beside the budget of strangers, and forgotten if they do not answer. To be called
        once the port is open.
        """
        for registration, port in rows:
            host = registration.agent[0]
            if (self._allow and not _within(host, self._allow)) or self._leads_here((host, port)):
                continue
            backend = self._table.restore(registration, port)
            if backend is not None:
                self._prober(backend)
                self._first_probes.add_known(backend, registration)

    def restores(self, backend: Backend, registration: Registration) -> bool:
        """Whether a row of an earlier life is being probed, or is to be."""
        return self._first_probes.is_due(backend, registration) or self._table.asks(backend, registration)

    def _unregister(self, source: Address, pdu: Unregister) -> None:
        _, transition = self._table.unregister(source, pdu, self.clock.seconds())
        if transition is not None:
            self.announce(transition)

    def _introduce(self, backend: Backend, registration: Registration) -> None:
        if self._table.may_probe(backend, registration):
            self._send_probe(backend, registration)

    def _respond(self, source: Address, pdu: ProbeResponse) -> None:
        confirmed = self._table.respond(source, pdu, self.clock.seconds(), self._stall_detector.lasted_s)
        backend = confirmed.backend
        self._prober(backend).answered(pdu.token)
        self._tell(self._policy.reported, backend)
        if confirmed.transition is not None:
            self.announce(confirmed.transition)
        self._heed_panic()
        self._log_answer(confirmed)

    def _log_answer(self, confirmed: Confirmed) -> None:
        backend = confirmed.backend
        if confirmed.restarted:
            self._announcements.restarted(backend)
        if confirmed.turned:
            self._announcements.turned(backend)
        if self._trace:
            self.log.debug(
                ":: [{backend}] RTT sample {sample_ms:.3f} ms, smoothed {smoothed_ms:.3f} ms",
                backend=backend.name,
                sample_ms=confirmed.sample_ms,
                smoothed_ms=backend.rtt.smoothed_ms,
            )

    def probe(self, backend: Backend) -> None:
        """Ask its agent, and count the request lost unless it is answered in time."""
        self._send_probe(backend, backend.registration)

    def _send_probe(self, backend: Backend, registration: Registration) -> None:
        probe = self._table.probe(backend, registration, self._token(), self.clock.seconds())
        self._prober(backend).sent(probe)
        assert self.transport is not None
        agent = registration.agent
        try:
            datagram = self.envelope.seal(encode(probe.request), agent[0])
            if not send(self.transport, datagram, agent, registration.local):
                self.counters.send_errors[SOURCE_GONE] += 1
        except Exception as error:
            self.counters.send_errors[error.__class__.__name__] += 1
        if self._trace:
            self.log.debug("<< [{backend}] {pdu}", backend=backend.name, pdu=probe.request)

    def timed_out(self, probe: Probe) -> None:
        """A probe was not answered while its time has passed, in which this process would have seen that."""
        backend, token = probe.backend, probe.request.token
        misses = backend.misses
        transition = self._table.lost(token, self.clock.seconds())
        if backend.misses > misses and backend.is_up:
            self._tell(self._policy.failed, backend)
        elif backend.eligible:  # in a panic, when no answer will ever come to say that it may be tried again
            self._tell(self._policy.reported, backend)
        if self._trace:
            self.log.debug(":: [{backend}] probe lost, {misses} in a row", backend=backend.name, misses=backend.misses)
        if transition is not None:
            self.announce(transition)
        elif backend.state is State.DEPARTED and not backend.outstanding:
            self._end_probing(backend)

    def _end_probing(self, backend: Backend) -> None:
        """Until somebody registers it again."""
        prober = self._probers.pop(backend, None)
        if prober is not None:
            prober.stop()

    def check(self, backend: Backend) -> None:
        """The liveness check of one back-end; a time when this process was away does not count."""
        if self._leads_here((backend.address, backend.port)):
            self.exclude(backend)
            return
        liveness_s, now = self.timing.liveness_s, self.clock.seconds()
        transition = self._table.check(backend, liveness_s, self._stall_detector.lasted_s, now)
        if transition is not None:
            self.announce(transition)

    def ramp(self, backend: Backend) -> bool:
        """Give a back-end that starts slowly its next share. Whether there is more to come."""
        if not backend.is_up:
            return False
        grows = self._table.ramp(backend, self.clock.seconds())
        self._tell(self._policy.reported, backend)
        return grows

    def administer(self, backend: Backend, administration: Administration) -> None:
        """An operator's word on one back-end."""
        self._table.administer(backend, administration)
        self.log.info("back-end {backend}: {administration}", backend=backend.name, administration=administration.value)
        self._tell(self._policy.reported, backend)
        self._heed_panic()

    def announce(self, transition: Transition) -> None:
        """A back-end's state has changed: see to its timers, and say so."""
        backend = transition.backend
        if transition.after in (State.DEPARTED, State.FORGOTTEN):
            self._end_probing(backend)
            self._tell(self._policy.reported, backend)
        elif transition.after is State.UP and backend.share < 1:
            self._prober(backend).rose()
        self._announcements.changed(transition)
        self._heed_panic()
        self.heed(transition)

    def _tell(self, tell: Callable[[Backend], None], backend: Backend) -> None:
        """The policy, which may be somebody's own: what it raises does not keep us from what is to be done."""
        try:
            tell(backend)
        except Exception:
            self._announcements.policy_failed()

    def _heed_panic(self) -> None:
        """Where a panic has begun or ended, the policy is told of every back-end that may get a client now."""
        if self._table.panicking is self._panicking:
            return
        self._panicking = self._table.panicking
        for backend in self._table.eligible:
            self._tell(self._policy.reported, backend)
        self._announcements.panic(self._panicking)


_NAMES: Final = {kind: kind.name.lower().replace("_", "-") for kind in PduType}


def _within(address: str, networks: Collection[Network]) -> bool:
    ip = ip_address(address)
    return any(ip in network for network in networks)
