"""The proxy's side of the monitoring protocol: takes registrations, probes every agent, keeps the table.

Named after the report's Receptor, TimerProbeRequest, AlarmeTimeoutProbeRequest and AlarmeAgenteAtivo (chapter
4.1.2), which are here one `DatagramProtocol` and, per back-end, two `LoopingCall`s and a `callLater` a probe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.monitoring.addresses import plain, reachable, speaks_ipv6
from rproxy.monitoring.loops import keep_looping
from rproxy.pool.backend import Address, Backend, Registration, State, written
from rproxy.pool.table import Refusal, Rejected, Table, Transition
from rproxy.scoring.policies import Policy
from rproxy.wire.pdu import MalformedPdu, PduType, ProbeResponse, Register, Unregister, decode, encode

REPROBE_S: Final = (1.0, 2.0)
"""How soon after the first and the second miss in a row the next probe follows."""
UNANSWERED_LOG_S: Final = 10.0
"""At most one line in this time about registrations that never answer, which anybody can send."""

Network = IPv4Network | IPv6Network


@attrs.frozen
class Timing:
    """In seconds: how often to probe, how long to wait for the answer, how often to check for life."""

    probe_interval_s: float = 5.0
    probe_timeout_s: float = 0.5
    liveness_s: float = 10.0


@attrs.frozen
class Counters:
    """Datagrams accepted by type, dropped by reason, and those that could not be sent."""

    accepted: Counter[str] = attrs.Factory(Counter)
    dropped: Counter[str] = attrs.Factory(Counter)
    send_errors: Counter[str] = attrs.Factory(Counter)


class Monitor(DatagramProtocol):
    """Listens for agents on one UDP port.

    `clock` must be monotonic. `token` draws unpredictable 64-bit numbers. `allow` lists the networks that may
    register, all when empty. With `trace` every PDU is logged.
    """

    noisy = False
    log = Logger()

    def __init__(
        self,
        table: Table,
        policy: Policy,
        clock: IReactorTime,
        token: Callable[[], int],
        *,
        timing: Timing = Timing(),
        allow: Collection[Network] = (),
        trace: bool = False,
    ) -> None:
        self.counters = Counters()
        self._table = table
        self._policy = policy
        self.clock = clock
        self._token = token
        self.timing = timing
        self._allow = tuple(allow)
        self._trace = trace
        self._probers: dict[Backend, _Prober] = {}
        self._unanswered_logged = -UNANSWERED_LOG_S

    def stopProtocol(self) -> None:
        for prober in self._probers.values():
            prober.stop()
        self._probers.clear()

    def datagramReceived(self, datagram: bytes, addr: Sequence[object]) -> None:
        source = plain(addr)
        dropped = self._take(source, datagram)
        if dropped is not None:
            self.counters.dropped[dropped] += 1
            if self._trace:
                self.log.debug(">> [{source}] dropped: {reason}", source=source[0], reason=dropped)

    def _take(self, source: Address, datagram: bytes) -> str | None:
        """Act on one datagram; the reason if it is dropped."""
        try:
            pdu = decode(datagram)
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
                    self._announce(self._table.unregister(source, pdu))
                case _:
                    raise Rejected(Refusal.UNEXPECTED_PROBE_REQUEST)
        except MalformedPdu as error:
            return error.flaw.value
        except Rejected as error:
            return error.refusal.value
        self.counters.accepted[kind.name.lower().replace("_", "-")] += 1
        return None

    def _register(self, source: Address, pdu: Register) -> None:
        if self._allow and not _within(source[0], self._allow):
            raise Rejected(Refusal.NOT_ALLOWED)
        backend = self._table.register(source, pdu, self.clock.seconds())
        prober = self._probers.get(backend)
        if prober is None:
            prober = self._probers[backend] = _Prober(self, backend)
            prober.start()
        else:
            registration = backend.candidate or backend.registration
            confirmed = backend.candidate is None and backend.state is State.UP
            if not confirmed and self._table.may_probe(backend, registration):
                self.send_probe(backend, registration)
        self._policy.reported(backend)

    def _respond(self, source: Address, pdu: ProbeResponse) -> None:
        confirmed = self._table.respond(source, pdu, self.clock.seconds())
        backend = confirmed.backend
        prober = self._probers[backend]
        prober.answered(pdu.token)
        self._policy.reported(backend)
        if confirmed.transition is not None:
            self._announce(confirmed.transition)
        if confirmed.restarted:
            self.log.info("back-end {backend}: its agent was started again", backend=backend.name)
        if self._trace:
            self.log.debug(
                ":: [{backend}] RTT sample {sample_ms:.3f} ms, smoothed {smoothed_ms:.3f} ms",
                backend=backend.name,
                sample_ms=confirmed.sample_ms,
                smoothed_ms=backend.rtt.smoothed_ms,
            )

    def send_probe(self, backend: Backend, registration: Registration) -> None:
        """Ask one agent, and count the request lost unless it is answered in time."""
        probe = self._table.probe(backend, registration, self._token(), self.clock.seconds())
        self._probers[backend].expect(probe.request.token)
        assert self.transport is not None
        try:
            over_ipv6 = speaks_ipv6(self.transport)
            self.transport.write(encode(probe.request), reachable(registration.agent, over_ipv6=over_ipv6))
        except Exception as error:
            self.counters.send_errors[error.__class__.__name__] += 1
        if self._trace:
            self.log.debug("<< [{backend}] {pdu}", backend=backend.name, pdu=probe.request)

    def timed_out(self, backend: Backend, token: int) -> None:
        misses = backend.misses
        transition = self._table.lost(token)
        if backend.misses > misses:
            self._policy.failed(backend)
        if self._trace:
            self.log.debug(":: [{backend}] probe lost, {misses} in a row", backend=backend.name, misses=backend.misses)
        if transition is not None:
            self._announce(transition)

    def check(self, backend: Backend) -> None:
        """The liveness check of one back-end."""
        now = self.clock.seconds()
        transition = self._table.check(backend, now - self.timing.liveness_s, now)
        if transition is not None:
            self._announce(transition)

    def _announce(self, transition: Transition) -> None:
        backend = transition.backend
        if transition.after is State.FORGOTTEN:
            self._probers.pop(backend).stop()
            if transition.before is State.REGISTERED and not self._may_log_unanswered():
                return
        self.log.info(
            "back-end {backend}: {before} -> {after} ({reason}; agent {agent})",
            backend=backend.name,
            before=transition.before.value if transition.before else "new",
            after=transition.after.value,
            reason=transition.reason,
            agent=written(backend.registration.agent),
        )

    def _may_log_unanswered(self) -> bool:
        now = self.clock.seconds()
        if now - self._unanswered_logged < UNANSWERED_LOG_S:
            return False
        self._unanswered_logged = now
        return True


def _within(address: str, networks: Collection[Network]) -> bool:
    ip = ip_address(address)
    return any(ip in network for network in networks)


class _Prober:
    """The timers of one back-end."""

    def __init__(self, monitor: Monitor, backend: Backend) -> None:
        self._monitor = monitor
        self._backend = backend
        self._probing = self._loop(self._probe)
        self._liveness = self._loop(self._check)
        self._timeouts: dict[int, IDelayedCall] = {}
        self._reprobe: IDelayedCall | None = None

    def _loop(self, call: Callable[[], None]) -> LoopingCall:
        loop = LoopingCall(call)
        loop.clock = self._monitor.clock
        return loop

    def start(self) -> None:
        timing = self._monitor.timing
        keep_looping(self._probing, timing.probe_interval_s, now=True, failed=self._failed)
        keep_looping(self._liveness, timing.liveness_s, now=False, failed=self._failed)

    def _failed(self, failure: Failure) -> None:
        self._monitor.log.failure("monitoring {backend}", failure, backend=self._backend.name)

    def stop(self) -> None:
        for loop in (self._probing, self._liveness):
            if loop.running:
                loop.stop()
        for timeout in self._timeouts.values():
            timeout.cancel()
        self._timeouts.clear()
        self._cancel_reprobe()

    def expect(self, token: int) -> None:
        timeout_s = self._monitor.timing.probe_timeout_s
        self._timeouts[token] = self._monitor.clock.callLater(timeout_s, self._timed_out, token)

    def answered(self, token: int) -> None:
        self._timeouts.pop(token).cancel()
        self._cancel_reprobe()

    def _probe(self) -> None:
        self._monitor.send_probe(self._backend, self._backend.registration)

    def _check(self) -> None:
        self._monitor.check(self._backend)

    def _timed_out(self, token: int) -> None:
        del self._timeouts[token]
        self._monitor.timed_out(self._backend, token)
        backend = self._backend
        if backend.state is State.UP and 0 < backend.misses <= len(REPROBE_S) and self._reprobe is None:
            self._reprobe = self._monitor.clock.callLater(REPROBE_S[backend.misses - 1], self._probe_again)

    def _probe_again(self) -> None:
        self._reprobe = None
        self._probe()

    def _cancel_reprobe(self) -> None:
        if self._reprobe is not None:
            self._reprobe.cancel()
            self._reprobe = None
