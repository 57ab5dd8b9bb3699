"""The back-end's side of the monitoring protocol, the report's MonitorUDP: registers, and answers probes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from rproxy.agent.registrar import Registrar, Resolve, Service
from rproxy.agent.sampler import Load, Sampler
from rproxy.net.addresses import Address, plain, written
from rproxy.net.own_addresses import local_address
from rproxy.net.udp_port import SOURCE_GONE, send
from rproxy.wire.pdu import SIZE, MalformedPdu, Pdu, ProbeRequest, ProbeResponse, Unregister, decode, encode, tag_of
from rproxy.wire.seal import Envelope, Unsealed


class Agent(DatagramProtocol):
    """Registers one service with every proxy in `proxies` (host name or IP, port) and answers their probes.

    `clock` must be monotonic; `jitter` draws from 0..1; `resolve` looks names up. `envelope` is how PDUs are sealed,
    and may be replaced at any time; `own_address`, which only a sealing one needs, tells for a proxy's address, and
    for the one of ours that it asked at, if it did, the one at which it sees this agent; it raises `OSError` while
    there is none. With `trace` every PDU is logged. One that is `held_back` registers nothing before `begin`.
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
        held_back: bool = False,
    ) -> None:
        self.held_back = held_back
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
        self.stranger: Address | None = None
        self._registrars = [Registrar(self, proxy) for proxy in proxies]

    @property
    def is_keyed(self) -> bool:
        return not isinstance(self.envelope, Unsealed)

    @property
    def probed_at(self) -> float:
        """When any proxy last gave a sign of life, or when we began."""
        return max(registrar.probed_at for registrar in self._registrars)

    def own_addresses(self) -> list[str]:
        """Those of ours that the proxies have us at, as far as routes tell, and that clients therefore come to."""
        own = []
        for registrar in self._registrars:
            if registrar.address is not None:
                with suppress(OSError):
                    own.append(local_address(registrar.address))
        return own

    def startProtocol(self) -> None:
        if not self.held_back:
            for registrar in self._registrars:
                registrar.start()

    def begin(self) -> None:
        """Register from now on."""
        self.held_back = False
        if self.transport is not None:
            self.startProtocol()

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
        if not self.held_back and self.transport is not None:
            for registrar in self._registrars:
                registrar.register()

    def datagramReceived(self, datagram: bytes, addr: Sequence[object], local: str = "") -> None:
        """Answer a probe, from our address `local` that it was sent to, if that is known."""
        source = plain(addr)
        registrars = [each for each in self._registrars if each.knows(source)]
        if not registrars:
            self.counters["wrong-source"] += 1
            if _is_probe(datagram):
                self.stranger = source
            return
        registrar = registrars[0]
        try:
            pdu = decode(self.envelope.open(datagram, registrar.seen_at(source, local)))
        except MalformedPdu as error:
            self.counters[error.flaw.value] += 1
            return
        if not isinstance(pdu, ProbeRequest):
            self.counters["unexpected-type"] += 1
            return
        if pdu.instance_tag not in (0, tag_of(self.service.instance)):  # for an earlier start: no sign of life of ours
            self.counters["wrong-instance"] += 1
            return
        if self._trace:
            self.log.debug(">> [{proxy}] {pdu}", proxy=written(source), pdu=pdu)
        for each in registrars:  # more than one where two names are of one proxy
            each.probed(source, pdu)
        load = self._sample()
        answer = ProbeResponse(
            pdu.sequence, pdu.token, load.cpu, load.memory, load.application, load.tcp, self.draining
        )
        registrar.send_to(source, answer, local)

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


def _is_probe(datagram: bytes) -> bool:
    """Whether it looks like one, sealed or not, and whoever sealed it."""
    try:
        return isinstance(decode(datagram[:SIZE]), ProbeRequest)
    except MalformedPdu:
        return False
