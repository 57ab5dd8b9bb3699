"""The back-end's side of the monitoring protocol, the report's MonitorUDP: registers, and answers probes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.monitoring.addresses import plain
from rproxy.monitoring.loops import keep_looping
from rproxy.monitoring.sampler import Load, Sampler
from rproxy.monitoring.udp import SOURCE_GONE, send
from rproxy.pool.backend import Address, written
from rproxy.wire.pdu import (
    WEIGHT_NORMAL,
    MalformedPdu,
    Pdu,
    ProbeRequest,
    ProbeResponse,
    Register,
    Unregister,
    decode,
    encode,
)
from rproxy.wire.seal import Envelope, Unsealed

SILENCE_S: Final = 12.0
"""An agent that no probe has reached for so long takes it that its proxy was restarted."""
RETRY_S: Final = 1.0
"""The first of the waits between registrations that no probe answers; each next one is twice as long."""
JITTER: Final = 0.1
UNKNOWN: Final = "::"
"""Stands for an address of ours that nothing has told yet: no proxy has a key for it."""
HINT_S: Final = 10.0
"""An agent that no proxy has probed for so long says what may be wrong."""

Resolve = Callable[[str], "Deferred[str]"]
"""A host name's IP address in text; fails when there is none now."""


@attrs.frozen
class Service:
    """What an agent registers: `port` 0 is the proxy's default back-end port, `interval_s` in seconds."""

    interval_s: float
    instance: int
    port: int = 0
    weight: int = WEIGHT_NORMAL

    @property
    def interval_ms(self) -> int:
        return max(1, round(self.interval_s * 1000))


class Agent(DatagramProtocol):
    """Registers one service with every proxy in `proxies` (host name or IP, port) and answers their probes.

    `clock` must be monotonic; `jitter` draws from 0..1; `resolve` looks names up. `envelope` is how PDUs are sealed,
    and may be replaced at any time; `own_address`, which only a sealing one needs, tells for a proxy's address, and
    for the one of ours that it asked at, if it did, the one at which it sees this agent; it raises `OSError` while
    there is none. With `trace` every PDU is logged.
    """

    noisy = False
    log = Logger()

    def __init__(
        self,
        service: Service,
        proxies: Sequence[Address],
        sampler: Sampler,
        clock: IReactorTime,
        resolve: Resolve,
        jitter: Callable[[], float],
        *,
        envelope: Envelope | None = None,
        own_address: Callable[[Address, str], str] | None = None,
        trace: bool = False,
    ) -> None:
        self.service = service
        self.envelope: Envelope = envelope or Unsealed()
        self.own_address = own_address
        self.draining = False
        self.clock = clock
        self.resolve = resolve
        self.jitter = jitter
        self.counters: Counter[str] = Counter()
        self._sampler = sampler
        self._trace = trace
        self._registrars = [_Registrar(self, proxy) for proxy in proxies]

    def startProtocol(self) -> None:
        for registrar in self._registrars:
            registrar.start()

    def stopProtocol(self) -> None:
        for registrar in self._registrars:
            registrar.stop()

    def unregister(self) -> None:
        """Tell every proxy that this instance stops; a clean stop calls it before the port closes."""
        for registrar in self._registrars:
            registrar.stop()
            registrar.send(Unregister(self.service.port, self.service.instance))

    def drain(self, draining: bool = True) -> None:
        """Ask every proxy for no new client, or for new clients again; sessions go on."""
        self.draining = draining
        for registrar in self._registrars:
            registrar.register()

    def datagramReceived(self, datagram: bytes, addr: Sequence[object], local: str = "") -> None:
        """Answer a probe, from our address `local` that it was sent to, if that is known."""
        source = plain(addr)
        registrars = [each for each in self._registrars if each.address == source]
        if not registrars:
            self.counters["wrong-source"] += 1
            return
        registrar = registrars[0]
        try:
            pdu = decode(self.envelope.open(datagram, registrar.seen_at(local)))
        except MalformedPdu as error:
            self.counters[error.flaw.value] += 1
            return
        if not isinstance(pdu, ProbeRequest):
            self.counters["unexpected-type"] += 1
            return
        if self._trace:
            self.log.debug(">> [{proxy}] {pdu}", proxy=written(source), pdu=pdu)
        for each in registrars:  # more than one where two names are of one proxy
            each.probed()
        load = self._sample()
        answer = ProbeResponse(
            pdu.sequence, pdu.token, load.cpu, load.memory, load.application, load.tcp, self.draining
        )
        registrar.send(answer, local)

    def _sample(self) -> Load:
        """A host whose figures cannot be read is up all the same: they are unknown."""
        try:
            return self._sampler.sample()
        except Exception:
            if not self.counters["sample-failed"]:
                self.log.failure("the host's load cannot be read; reporting it as unknown")
            self.counters["sample-failed"] += 1
            return Load()

    def send(self, pdu: Pdu, address: Address, own: str, source: str = "") -> None:
        """Sends can fail for a while (no route, full buffers): counted, and the next one tries again."""
        assert self.transport is not None
        try:
            datagram = self.envelope.seal(encode(pdu), own)
            if not send(self.transport, datagram, address, source):
                self.counters[SOURCE_GONE] += 1
        except Exception as error:
            self.counters[error.__class__.__name__] += 1
            if self._trace:
                self.log.debug("<< [{proxy}] not sent: {error}", proxy=written(address), error=error)
            return
        if self._trace:
            self.log.debug("<< [{proxy}] {pdu}", proxy=written(address), pdu=pdu)


class _Registrar:
    """Keeps one proxy told: at every interval, and sooner while it does not probe."""

    def __init__(self, agent: Agent, proxy: Address) -> None:
        self.address: Address | None = None
        self.own = UNKNOWN
        """Our address as the proxy sees it."""
        self._agent = agent
        self._proxy = proxy
        self._loop = LoopingCall(self.register)
        self._loop.clock = agent.clock
        self._retry: IDelayedCall | None = None
        self._retry_s = RETRY_S
        self._known = False
        self._unprobed_since = agent.clock.seconds()
        self._hinted = False
        self._lookup: Deferred[str] | None = None

    def start(self) -> None:
        keep_looping(self._loop, self._agent.service.interval_s, now=True, failed=self._failed)
        self._retry_after(RETRY_S)

    def _failed(self, failure: Failure) -> None:
        self._agent.log.failure("registering with {proxy}", failure, proxy=written(self._proxy))

    def stop(self) -> None:
        if self._loop.running:
            self._loop.stop()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._lookup is not None:
            self._lookup.cancel()

    def probed(self) -> None:
        """The proxy knows us, until it has been silent for `SILENCE_S`."""
        if not self._known:
            self._known = True
            self._hinted = False
            self._agent.log.info("{proxy} probes this agent", proxy=written(self._proxy))
        self._retry_s = RETRY_S
        self._retry_after(SILENCE_S)

    def _retry_after(self, delay_s: float) -> None:
        """Jitter only shortens, so that the waits keep what they promise; agents of one proxy drift apart."""
        delay_s *= 1 - JITTER * self._agent.jitter()
        if self._retry is None:
            self._retry = self._agent.clock.callLater(delay_s, self._unprobed)
        else:
            self._retry.reset(delay_s)

    def _unprobed(self) -> None:
        self._retry = None
        if self._known:
            self._known = False
            self._unprobed_since = self._agent.clock.seconds()
            self._agent.log.info("{proxy} has stopped probing; registering again", proxy=written(self._proxy))
        else:
            self._retry_s = min(self._retry_s * 2, self._agent.service.interval_s)
            self._hint()
        self._retry_after(self._retry_s)
        self.register()

    def _hint(self) -> None:
        """Once, what may be wrong: no proxy says so to a stranger."""
        if self._hinted or self.address is None or self._agent.clock.seconds() - self._unprobed_since < HINT_S:
            return
        self._hinted = True
        self._agent.log.warn(
            "{proxy} does not probe this agent: is it running, does UDP pass both ways, do its --allow and --keyring "
            "fit this host? trying on",
            proxy=written(self._proxy),
        )

    def register(self) -> None:
        """Send at once where the address is known; while the proxy is silent, look its name up again as well."""
        self._send_registration()
        if not self._known and self._lookup is None:
            self._lookup = self._agent.resolve(self._proxy[0])
            self._lookup.addCallbacks(self._resolved, self._unresolved)

    def _resolved(self, host: str) -> None:
        self._lookup = None
        address = (host, self._proxy[1])
        if address != self.address:
            self.address = address
            self._send_registration()

    def _unresolved(self, failure: Failure) -> None:
        self._lookup = None
        if failure.check(CancelledError):
            return
        self._agent.counters["unresolved"] += 1
        if self._agent.counters["unresolved"] == 1:
            self._agent.log.warn(
                "{proxy} has no address now ({error}); trying again",
                proxy=written(self._proxy),
                error=failure.getErrorMessage(),
            )

    def seen_at(self, local: str) -> str:
        """Our address as the proxy sees it that has asked at `local`, which is empty if not known."""
        if not local or self.address is None or self._agent.own_address is None:
            return self.own
        return self._agent.own_address(self.address, local)

    def send(self, pdu: Pdu, source: str = "") -> None:
        """To the proxy, if its address is known; from `source` where it asked there."""
        if self.address is None:
            return
        if self._agent.own_address is not None:
            try:
                self.own = self._agent.own_address(self.address, source)
            except OSError as error:  # no route: what we send would not arrive anyhow
                self._agent.counters[error.__class__.__name__] += 1
                return
        self._agent.send(pdu, self.address, self.own, source)

    def _send_registration(self) -> None:
        service, draining = self._agent.service, self._agent.draining
        self.send(Register(service.port, service.interval_ms, service.instance, service.weight, draining))
