"""The proxy's side of the monitoring protocol: takes registrations, probes every agent, keeps the table.

Named after the report's Receptor, TimerProbeRequest, AlarmeTimeoutProbeRequest and AlarmeAgenteAtivo (chapter
4.1.2), which are here one `DatagramProtocol` and the timers of a `Prober` for each back-end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from rproxy.monitoring.addresses import plain, reachable, speaks_ipv6
from rproxy.monitoring.introductions import Introductions
from rproxy.monitoring.prober import Prober, Timing
from rproxy.monitoring.pulse import Pulse
from rproxy.monitoring.timeouts import Timeouts
from rproxy.monitoring.wheel import TICK_S, Wheel
from rproxy.pool.admission import Refusal, Rejected
from rproxy.pool.backend import Address, Backend, Registration, written
from rproxy.pool.limits import RateLimit
from rproxy.pool.states import Administration, State
from rproxy.pool.table import Confirmed, Probe, Table, Transition
from rproxy.scoring.policies import Policy
from rproxy.wire.pdu import Flaw, MalformedPdu, PduType, ProbeResponse, Register, Unregister, decode, encode
from rproxy.wire.seal import Envelope, Unsealed

SELDOM_S: Final = 10.0
"""At most one line in this time about each thing that anybody can bring about, or that a broken policy would repeat."""
DROPPED_LOG_S: Final = 60.0
"""The same for datagrams dropped for a reason that may be a mistake in somebody's options."""
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
    are sealed, and may be replaced at any time. `allow` lists the networks that may register, all when empty. With
    `trace` every PDU is logged.
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
        self._trace = trace
        self._probers: dict[Backend, Prober] = {}
        self._introductions = Introductions(clock, table.limits.introductions_s, self._introduce)
        self.timeouts = Timeouts(clock, timing.probe_timeout_s)
        self.wheel = Wheel(clock, min(TICK_S, timing.probe_interval_s / TICKS_MIN))
        self._pulse = Pulse(clock)
        self._panicking = False
        self.heed: Callable[[Transition], None] = lambda transition: None
        """Told of every transition once the monitor has done what it is to do."""
        self._seldom = RateLimit(1 / SELDOM_S)
        self._drops_told = RateLimit(1 / DROPPED_LOG_S)
        self._dropped: Counter[str] = Counter()

    def startProtocol(self) -> None:
        self._pulse.start()

    def stopProtocol(self) -> None:
        self._pulse.stop()
        self._introductions.stop()
        self.timeouts.stop()
        self.wheel.stop()
        for prober in self._probers.values():
            prober.stop()
        self._probers.clear()

    def datagramReceived(self, datagram: bytes, addr: Sequence[object]) -> None:
        source = plain(addr)
        try:
            self._take(source, datagram)
        except MalformedPdu as error:
            self._drop(source, error.flaw)
        except Rejected as error:
            self._drop(source, error.refusal)

    def _take(self, source: Address, datagram: bytes) -> None:
        """Act on one datagram. Raises `MalformedPdu` or `Rejected` if it is to be dropped."""
        pdu = decode(self.envelope.open(datagram, source[0]))
        if self._trace:
            self.log.debug(">> [{source}] {pdu}", source=source[0], pdu=pdu)
        match pdu:
            case ProbeResponse():
                self._respond(source, pdu)
                kind = PduType.PROBE_RESPONSE
            case Register():
                self._register(source, pdu)
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
        if reason not in _TELLING:
            return
        self._dropped[reason.value] += 1
        if self._drops_told.admit(self.clock.seconds()):
            self.log.warn(
                "dropped {dropped}; the last one came from {source}",
                dropped=", ".join(f"{count} datagram(s): {each}" for each, count in self._dropped.items()),
                source=source[0],
            )
            self._dropped.clear()

    def _register(self, source: Address, pdu: Register) -> None:
        if self._allow and not _within(source[0], self._allow):
            raise Rejected(Refusal.NOT_ALLOWED)
        registered = self._table.register(source, pdu, self.clock.seconds())
        backend = registered.backend
        if backend not in self._probers:
            self._probers[backend] = Prober(self, backend)
        if registered.unproven is not None and self._table.may_probe(backend, registered.unproven):
            self._introductions.add(backend, registered.unproven)
        if registered.unproven is None or registered.unproven is not backend.candidate:  # that is no news of it yet
            self._tell(self._policy.reported, backend)

    def _unregister(self, source: Address, pdu: Unregister) -> None:
        backend, transition = self._table.unregister(source, pdu, self.clock.seconds())
        if transition is not None:
            self.announce(transition)
            return
        self._heed_panic()
        self._introduce(backend, backend.registration)

    def _introduce(self, backend: Backend, registration: Registration) -> None:
        if self._table.may_probe(backend, registration):
            self._send_probe(backend, registration)

    def _respond(self, source: Address, pdu: ProbeResponse) -> None:
        confirmed = self._table.respond(source, pdu, self.clock.seconds())
        backend = confirmed.backend
        self._probers[backend].answered(pdu.token)
        self._tell(self._policy.reported, backend)
        if confirmed.transition is not None:
            self.announce(confirmed.transition)
        self._heed_panic()
        self._log_answer(confirmed)

    def _log_answer(self, confirmed: Confirmed) -> None:
        backend = confirmed.backend
        if confirmed.restarted and self._may_say("restarted"):
            self.log.info("back-end {backend}: its agent was started again", backend=backend.name)
        if confirmed.turned and self._may_say(f"{backend.name} has turned"):
            wish = "no new clients" if backend.draining else "clients again"
            self.log.info("back-end {backend}: its agent asks for {wish}", backend=backend.name, wish=wish)
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
        self._probers[backend].sent(probe)
        assert self.transport is not None
        agent = registration.agent
        try:
            datagram = self.envelope.seal(encode(probe.request), agent[0])
            self.transport.write(datagram, reachable(agent, over_ipv6=speaks_ipv6(self.transport)))
        except Exception as error:
            self.counters.send_errors[error.__class__.__name__] += 1
        if self._trace:
            self.log.debug("<< [{backend}] {pdu}", backend=backend.name, pdu=probe.request)

    def timed_out(self, probe: Probe) -> None:
        """A probe was not answered in time: lost, unless this process had no time to see the answer."""
        backend, token = probe.backend, probe.request.token
        if probe.sent_at <= self._pulse.back_at:
            self._table.annul(token)
            if backend.state is not State.REGISTERED:
                self._probers[backend].probe_soon()
            return
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

    def check(self, backend: Backend) -> None:
        """The liveness check of one back-end; a time when this process was away does not count."""
        liveness_s, now = self.timing.liveness_s, self.clock.seconds()
        transition = self._table.check(backend, liveness_s, self._pulse.lasted_s, now)
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
        if transition.after is State.FORGOTTEN:
            self._probers.pop(backend).stop()
            self._introductions.drop(backend)
            self._tell(self._policy.reported, backend)
        elif transition.after is State.UP and backend.share < 1:
            self._probers[backend].rose()
        if self._worth_a_line(transition):
            self.log.info(
                "back-end {backend}: {before} -> {after} ({reason}; agent {agent})",
                backend=backend.name,
                before=transition.before.value,
                after=transition.after.value,
                reason=transition.reason,
                agent=written(backend.registration.agent),
            )
        self._heed_panic()
        self.heed(transition)

    def _worth_a_line(self, transition: Transition) -> bool:
        """Not every lost probe, and not every registration that comes to nothing."""
        if {transition.before, transition.after} == {State.UP, State.SUSPECT}:
            return self._trace
        if (transition.before, transition.after) != (State.REGISTERED, State.FORGOTTEN):
            return True
        return self._may_say("unanswered")

    def _may_say(self, what: str) -> bool:
        return self._seldom.admit(self.clock.seconds(), what)

    def _tell(self, tell: Callable[[Backend], None], backend: Backend) -> None:
        """The policy, which may be somebody's own: what it raises does not keep us from what is to be done."""
        try:
            tell(backend)
        except Exception:
            if self._may_say("policy"):
                self.log.failure("the policy failed; further failures in the next seconds are not logged")

    def _heed_panic(self) -> None:
        """Where a panic has begun or ended, the policy is told of every back-end that may get a client now."""
        if self._table.panicking is self._panicking:
            return
        self._panicking = self._table.panicking
        for backend in self._table.eligible:
            self._tell(self._policy.reported, backend)
        if self._panicking:
            self.log.warn(
                "less than half of the back-ends are up: those that are down get clients, too, unless they refuse them"
            )
        else:
            self.log.info("at least half of the back-ends are up again")


_NAMES: Final = {kind: kind.name.lower().replace("_", "-") for kind in PduType}


def _within(address: str, networks: Collection[Network]) -> bool:
    ip = ip_address(address)
    return any(ip in network for network in networks)
