"""Thousands of agents in one process, each with an address of its own."""

from __future__ import annotations

import random
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import Final

import attrs

from rproxy.agent.registrar import JITTER, RETRY_S
from rproxy.net.addresses import Address
from rproxy.pool.backend import Registration
from rproxy.pool.limits import Limits
from rproxy.sources.saved.rows import Rows
from rproxy.wire.pdu import ProbeRequest, ProbeResponse, Register, decode, encode
from rproxy.wire.seal import Envelope

REGISTER_S: Final = 20.0
SERVICE_PORT: Final = 80
EVENTS_MAX: Final = 256
LOOK_S: Final = 0.1
"""How often `until` is evaluated while nothing is due."""
RAMP_MIN_S: Final = 30.0
"""First probes of all agents may take this plus twice the time that their rate limit allows at best."""
_TIMESTAMP: Final = 35
"""SO_TIMESTAMPNS and SCM_TIMESTAMPNS (socket(7)), which Python does not name."""
_TIMESPEC: Final = struct.Struct("qq")
S_NS: Final = 1_000_000_000


@attrs.define(eq=False)
class SimulatedAgent:
    address: str
    socket: socket.socket
    instance: int
    probes: int = 0
    wait_s: float = RETRY_S
    """Between registrations while no probe has arrived."""


@attrs.define
class Seen:
    """The probes of one period."""

    arrivals_ns: list[int] = attrs.Factory(list)
    """The kernel's wall-clock times."""
    delays_ns: list[int] = attrs.Factory(list)
    """From a probe's arrival to its answer: what the simulation adds to a round trip."""


class Simulator:
    """Agents at addresses of their own, 127.1.0.0 and up, that answer what they are asked while it `run`s.

    With `draining` they get no clients: nothing listens at these addresses unless it does on all, at `service_port`.
    """

    def __init__(
        self,
        monitor: Address,
        envelope: Envelope,
        agents: int,
        rng: random.Random,
        *,
        draining: bool = False,
        service_port: int = SERVICE_PORT,
    ) -> None:
        self.unprobed = agents
        self.registrations = 0
        self.seen = Seen()
        self._envelope = envelope
        self._draining = draining
        self._service_port = service_port
        self._rng = rng
        self._epoll = select.epoll()
        self._agents: dict[int, SimulatedAgent] = {}
        self._due: list[tuple[float, int, bool]] = []
        """Heap of (due time, descriptor, whether to register only if not probed yet)."""
        for number in range(agents):
            self._add(f"127.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}", monitor)

    def _add(self, address: str, monitor: Address) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, _TIMESTAMP, 1)
        sock.bind((address, 0))
        sock.connect(monitor)
        self._epoll.register(sock, select.EPOLLIN)
        self._agents[sock.fileno()] = SimulatedAgent(address, sock, self._rng.getrandbits(64))

    def rows(self) -> Rows:
        """The rows that a proxy would save for them."""
        return {
            (agent.address, self._service_port): Registration(
                agent.socket.getsockname(), agent.instance, REGISTER_S, 100
            )
            for agent in self._agents.values()
        }

    def close(self) -> None:
        self._epoll.close()
        for agent in self._agents.values():
            agent.socket.close()

    def start(self) -> None:
        """Register all within a second, and retry until they are probed; then each every 20 s, at random offsets."""
        now = time.monotonic()
        soon = [(now + RETRY_S * self._rng.random(), descriptor, True) for descriptor in self._agents]
        later = [(now + REGISTER_S * self._rng.random(), descriptor, False) for descriptor in self._agents]
        self._due = soon + later
        heapify(self._due)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Answer probes and register for `seconds`, or until `until` returns True."""
        now = time.monotonic()
        end = now + seconds
        while now < end and not until():
            next_s = min(self._due[0][0], end) if self._due else min(now + LOOK_S, end)
            for descriptor, _ in self._epoll.poll(max(next_s - now, 0.0), EVENTS_MAX):
                self._answer(self._agents[descriptor])
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                self._register(*heappop(self._due))

    def _answer(self, agent: SimulatedAgent) -> None:
        datagram, ancillary, _, _ = agent.socket.recvmsg(64, 64)
        request = decode(self._envelope.open(datagram, agent.address))
        assert isinstance(request, ProbeRequest)
        answer = ProbeResponse(
            request.sequence, request.token, cpu=10, memory=20, load=None, tcp=0, draining=self._draining
        )
        agent.socket.send(self._envelope.seal(encode(answer), agent.address))
        answered_ns = time.time_ns()
        arrival_ns = _arrival_ns(ancillary)
        self.seen.arrivals_ns.append(arrival_ns)
        self.seen.delays_ns.append(answered_ns - arrival_ns)
        self.unprobed -= not agent.probes
        agent.probes += 1

    def _register(self, due: float, descriptor: int, retries: bool) -> None:
        agent = self._agents[descriptor]
        if retries and agent.probes:
            return
        registration = Register(self._service_port, int(REGISTER_S * 1000), agent.instance)
        agent.socket.send(self._envelope.seal(encode(registration), agent.address))
        self.registrations += 1
        wait_s = REGISTER_S
        if retries:
            wait_s = agent.wait_s * (1 - JITTER * self._rng.random())
            agent.wait_s = min(2 * agent.wait_s, REGISTER_S)
        heappush(self._due, (due + wait_s, descriptor, retries))


def _arrival_ns(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _TIMESTAMP:
            seconds, nanoseconds = _TIMESPEC.unpack(data[: _TIMESPEC.size])
            return int(seconds) * S_NS + int(nanoseconds)
    raise AssertionError("a datagram without the kernel's time")


def register_all(simulator: Simulator, agents: int) -> float:
    """Register all agents; returns the seconds until all had been probed."""
    started = time.monotonic()
    simulator.start()
    ramp_max_s = RAMP_MIN_S + 2 * agents / Limits.for_pool(agents).first_probes_per_s
    simulator.run(ramp_max_s, until=lambda: not simulator.unprobed)
    ramp_s = time.monotonic() - started
    assert not simulator.unprobed, f"{simulator.unprobed} agents have not been probed after {ramp_s:.0f} s"
    return ramp_s
