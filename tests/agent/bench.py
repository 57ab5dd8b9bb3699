"""An agent on a clock of its own, with names that resolve when the test says."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from rproxy.agent.agent import Agent
from rproxy.agent.environment import Environment, Resolve
from rproxy.agent.registrar import Registration
from rproxy.net.addresses import Address
from rproxy.wire.pdu import Pdu, ProbeRequest, Register, decode, encode
from rproxy.wire.seal import Key, Sealed
from tests.fakes import Datagrams, StubSampler, run

PROXY: Address = ("10.1.1.10", 5555)
OTHER: Address = ("10.1.1.11", 5556)
INSTANCE = 0x0102030405060708
REGISTER = Register(80, 20_000, INSTANCE, 150)
FOUR: Address = ("10.1.1.10", 5555)
FURTHER: Address = ("10.1.1.20", 5555)
SIX: Address = ("2001:db8::10", 5555)
KEY = Sealed((Key(1, bytes(range(32)), is_derived=False),))
OWN = {FOUR: "10.1.1.1", SIX: "2001:db8::1", FURTHER: "10.9.9.9"}
HINT = (
    "10.1.1.10:5555 does not probe this agent: is it running, does UDP pass both ways, do its --allow and --keyring "
    "fit this host, and does a service of it take this --service-port? trying on"
)


class Names:
    """A resolver. While `hold`, look-ups stay open in `held` until the test ends them."""

    def __init__(self, **hosts: str) -> None:
        self.hosts = {name: [address] for name, address in hosts.items()}
        self.asked: list[str] = []
        self.hold = False
        self.held: list[Deferred[Sequence[str]]] = []

    def resolve(self, host: str) -> Deferred[Sequence[str]]:
        self.asked.append(host)
        if self.hold:
            self.held.append(Deferred())
            return self.held[-1]
        if host in self.hosts:
            return succeed(self.hosts[host])
        return fail(socket.gaierror(-2, "Name or service not known"))


def is_address(host: str) -> Deferred[Sequence[str]]:
    return succeed([host])


def named(*addresses: Address) -> Names:
    names = Names()
    names.hosts["proxy"] = [host for host, _ in addresses]
    return names


class Bench:
    """An agent that has started; `times` are those of its registrations, with the proxies."""

    def __init__(
        self,
        *proxies: Address,
        interval_s: float = 20.0,
        resolve: Resolve = is_address,
        jitter: Callable[[], float] = lambda: 0.0,
        family: socket.AddressFamily = socket.AF_INET,
        trace: bool = False,
    ) -> None:
        self.clock = Clock()
        self.sampler = StubSampler()
        self.agent = Agent(
            Registration(interval_s, INSTANCE, 80, 150),
            proxies or (PROXY,),
            self.sampler,
            Environment(self.clock, resolve, jitter),
            trace=trace,
        )
        self.transport = Datagrams(family)
        self.transport.on_write = self._note
        self.times: list[tuple[float, Address]] = []
        self.agent.makeConnection(self.transport)

    def _note(self, pdu: Pdu, address: Address) -> None:
        if isinstance(pdu, Register):
            self.times.append((self.clock.seconds(), address))

    def registered(self, proxy: Address = PROXY) -> list[float]:
        return [at for at, address in self.times if address == proxy]

    def receive(self, pdu: Pdu, source: Address = PROXY) -> None:
        self.agent.datagramReceived(encode(pdu), source)

    def probe(self, source: Address = PROXY) -> None:
        self.receive(ProbeRequest(0, 1), source)


def run_probed(bench: Bench, seconds: float, *sources: Address) -> None:
    """Let time pass with a probe from each of `sources` every second."""
    for _ in range(int(seconds)):
        for source in sources or (PROXY,):
            bench.probe(source)
        run(bench.clock, 1)


class Sent(Datagrams):
    """Keeps datagrams as they are written: they are sealed."""

    def write(self, packet: bytes, addr: Any = None) -> None:
        self.written.append((packet, addr))


class KeyedBench:
    """A keyed agent that the proxy sees at another address on each route, and a record of the proxies' probes."""

    def __init__(self, names: Names, interval_s: float = 1000, *proxies: str) -> None:
        """`proxies` are names, only `proxy` by default."""
        self.clock = Clock()
        self.transport = Sent()
        self.agent = Agent(
            Registration(interval_s, INSTANCE, 80),
            [(name, 5555) for name in proxies or ("proxy",)],
            StubSampler(),
            Environment(self.clock, names.resolve, lambda: 0.0, lambda address, local: local or OWN[address]),
            envelope=KEY,
        )
        self.agent.makeConnection(self.transport)
        self.recorded: list[bytes] = []
        self._rng = random.Random(1)
        self._sequence = 0

    def probe(self, source: Address = FOUR, sessions: int | None = None) -> None:
        """A new one of the proxy's."""
        probe = ProbeRequest(self._sequence, self._rng.getrandbits(64), sessions)
        self._sequence += 1
        self.recorded.append(KEY.seal(encode(probe), OWN[source]))
        self.agent.datagramReceived(self.recorded[-1], source)

    def restart_proxy(self) -> None:
        self._sequence = 0

    def take(self) -> list[tuple[Pdu, Address]]:
        sent = [(decode(KEY.open(packet, OWN[address])), address) for packet, address in self.transport.written]
        self.transport.written.clear()
        return sent

    def registrations(self) -> int:
        return sum(isinstance(pdu, Register) for pdu, _ in self.take())
