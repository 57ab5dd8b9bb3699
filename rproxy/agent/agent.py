"""The back-end's side of the monitoring protocol, the report's MonitorUDP: registers, and answers probes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from rproxy.agent.echo import Echo
from rproxy.agent.environment import Environment
from rproxy.agent.registrar import STALE_PROBE, Registrar, Registration
from rproxy.agent.replay_guard import TokenFilter
from rproxy.agent.sampler import Load, Sampler
from rproxy.net.addresses import Address, plain, written
from rproxy.net.own_addresses import local_address
from rproxy.net.udp_port import SOURCE_GONE, send
from rproxy.wire.pdu import SIZE, MalformedPdu, Pdu, ProbeRequest, ProbeResponse, Unregister, decode, encode, tag_of
from rproxy.wire.seal import Envelope, Unsealed


class Agent(DatagramProtocol):
    """Registers one service with every proxy, and answers their probes.

    `counters` counts datagrams that were dropped and what failed, by cause; nothing that is received raises.
    """

    noisy = False
    log = Logger()

    def __init__(
        self,
        registration: Registration,
        proxies: Sequence[Address],
        sampler: Sampler,
        environment: Environment,
        *,
        envelope: Envelope | None = None,
        trace: bool = False,
    ) -> None:
        """`proxies` are host names or IP addresses, with ports. With `trace`, every PDU is logged.

        `envelope` is None for plain PDUs; one that seals needs `environment.own_address`.
        """
        self.registration = registration
        self.environment = environment
        self.envelope: Envelope = envelope or Unsealed()
        """May be replaced at any time."""
        self.draining = False
        """Whether the host asks for no new clients. `drain` also notifies the proxies."""
        self.held_back = False
        """Whether nothing is registered until `release` is called. To be set before the port opens."""
        self.counters: Counter[str] = Counter()
        self.unknown_prober: Address | None = None
        """The host that last sent a probe without being one of the proxies."""
        self._sampler = sampler
        self._trace = trace
        self._registrars = [Registrar(self, proxy) for proxy in proxies]
        self._tokens: TokenFilter | None = None
        """Created with the first keyed probe: it takes a megabyte for each proxy."""
        self.echo = Echo(lambda: [registrar.address for registrar in self._registrars])

    @property
    def is_keyed(self) -> bool:
        """Whether PDUs are sealed."""
        return not isinstance(self.envelope, Unsealed)

    @property
    def probed_at(self) -> float:
        """When a proxy last probed; before that, when the agent was constructed."""
        return max(registrar.probed_at for registrar in self._registrars)

    def own_addresses(self) -> list[str]:
        """This host's addresses on the routes to the proxies, which are those that clients are sent to."""
        own = []
        for registrar in self._registrars:
            if registrar.address is not None:
                with suppress(OSError):
                    own.append(local_address(registrar.address))
        return own

    def startProtocol(self) -> None:
        """The port has opened."""
        if not self.held_back:
            for registrar in self._registrars:
                registrar.start()

    def release(self) -> None:
        """End `held_back`: register from now on."""
        self.held_back = False
        if self.transport is not None:
            self.startProtocol()

    def stopProtocol(self) -> None:
        """The port has closed. It may open again."""
        for registrar in self._registrars:
            registrar.stop()

    def unregister(self) -> None:
        """Unregister with every proxy. To be called before the port closes, when stopping cleanly."""
        for registrar in self._registrars:
            registrar.stop()
            registrar.send(Unregister(self.registration.port, self.registration.instance))

    def drain(self, draining: bool = True) -> None:
        """Ask every proxy for no new clients, or, with False, for new clients again. Sessions go on in either case."""
        self.draining = draining
        if not self.held_back and self.transport is not None:
            for registrar in self._registrars:
                registrar.register()

    def datagramReceived(self, datagram: bytes, addr: Sequence[object], local: str = "") -> None:
        """Answer a probe; count and drop anything else.

        `local` is the local address that it was sent to, empty if unknown. The answer leaves from there.
        """
        source = plain(addr)
        registrars = [each for each in self._registrars if each.accepts(source)]
        if not registrars:
            self.counters["wrong-source"] += 1
            if _looks_like_probe(datagram):
                self.unknown_prober = source
            return
        probe = self._open_probe(datagram, registrars[0].own_address(source, local))
        if probe is None:
            return
        if self._trace:
            self.log.debug(">> [{proxy}] {pdu}", proxy=written(source), pdu=probe)
        now = self.environment.clock.seconds()
        if self._probed(source, probe, registrars):
            self.echo.record(source, probe, now)
        load, others = self._sample(), self.echo.others(source, now)
        answer = ProbeResponse(
            probe.sequence, probe.token, load.cpu, load.memory, load.application, load.tcp, self.draining, others
        )
        registrars[0].send_to(source, answer, local)

    def _probed(self, source: Address, probe: ProbeRequest, registrars: Sequence[Registrar]) -> bool:
        """Pass a probe to `registrars`: several if their names resolve to one proxy. Returns False if it is replayed.

        The tokens of all proxies are checked together: the seal does not cover the source address, so that a probe of
        one proxy can be replayed from the address of another.
        """
        if self.is_keyed:
            self._tokens = self._tokens or TokenFilter(len(self._registrars))
            if not self._tokens.add(probe.token):
                self.counters[STALE_PROBE] += 1
                return False
        accepted = [each.probed(source, probe) for each in registrars]
        return all(accepted)

    def _open_probe(self, datagram: bytes, own: str) -> ProbeRequest | None:
        """The probe in a datagram that was sent to this host's address `own`; None, and counted, if it holds none.

        A probe for another instance (an earlier start of this agent) is not answered, and does not show that the proxy
        knows this one.
        """
        try:
            pdu = decode(self.envelope.open(datagram, own))
        except MalformedPdu as error:
            self.counters[error.flaw.value] += 1
            return None
        if not isinstance(pdu, ProbeRequest):
            self.counters["unexpected-type"] += 1
            return None
        if pdu.instance_tag not in (0, tag_of(self.registration.instance)):
            self.counters["wrong-instance"] += 1
            return None
        return pdu

    def _sample(self) -> Load:
        """An unknown load if the sampler fails: the host is up all the same."""
        try:
            return self._sampler.sample()
        except Exception:
            if not self.counters["sample-failed"]:
                self.log.failure("the host's load cannot be read; reporting it as unknown")
            self.counters["sample-failed"] += 1
            return Load()

    def send(self, pdu: Pdu, address: Address, own: str, source: str = "") -> None:
        """As `RegisteringAgent.send`. A failure (no route, full buffers) is left to the next registration or probe."""
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


def _looks_like_probe(datagram: bytes) -> bool:
    """Whether it begins like a probe, plain or keyed. The seal, if any, is not checked."""
    try:
        return isinstance(decode(datagram[:SIZE]), ProbeRequest)
    except MalformedPdu:
        return False
