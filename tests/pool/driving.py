"""Drives a table as the monitor does: with a clock, fresh tokens, and agents that answer or do not."""

from __future__ import annotations

from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import attrs

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.events import Confirmed, Probe, Registered, Transition
from rproxy.pool.health import FALL, HOLD_MAX_S, RISE
from rproxy.pool.table import Table
from rproxy.wire.pdu import ProbeResponse, Register, Unregister
from tests.fakes import UNLIMITED

AGENT: Address = ("10.0.0.1", 5555)
REGISTER = Register(service_port=80, interval_ms=20_000, instance=1)


def agent(number: int) -> Address:
    return (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 5555)


def response(probe: Probe, **fields: Any) -> ProbeResponse:
    """The valid answer to a probe, from an idle host unless `fields` say otherwise."""
    request = probe.request
    idle = ProbeResponse(request.sequence, request.token, cpu=0, memory=0, load=None, tcp=0)
    return attrs.evolve(idle, **fields)


class Driver:
    def __init__(self, table: Table | None = None) -> None:
        self.table = Table(limits=UNLIMITED, slow_start_s=0, panic_below=0) if table is None else table
        self.now = 1000.0
        self._tokens = count(1)
        self._candidates: WeakKeyDictionary[Backend, Registration] = WeakKeyDictionary()

    def register(self, source: Address = AGENT, **fields: Any) -> Backend:
        return self.take_in(source, **fields).backend

    def take_in(self, source: Address = AGENT, local: str = "", **fields: Any) -> Registered:
        """Whoever waits for a probe has its turn at once."""
        registered = self.table.register(source, attrs.evolve(REGISTER, **fields), self.now, local)
        while found := self.table.unconfirmed.next(self.now):
            backend, self._candidates[backend] = found
        return registered

    def probe(self, backend: Backend, registration: Registration | None = None) -> Probe:
        return self.table.probe(backend, registration or backend.registration, next(self._tokens), self.now)

    def candidate(self, backend: Backend) -> Registration:
        """The registration whose turn it was to be probed last."""
        return self._candidates.get(backend, backend.registration)

    def answer(
        self, probe: Probe, *, after_s: float = 0.001, source: Address | None = None, **fields: Any
    ) -> Confirmed:
        self.now += after_s
        return self.table.respond(source or probe.registration.agent, response(probe, **fields), self.now)

    def lose(self, probe: Probe) -> Transition | None:
        self.now += self.table.timeout_s
        return self.table.lost(probe.request.token, self.now)

    def unregister(self, source: Address = AGENT, *, port: int = 80, instance: int = 1) -> Transition | None:
        _, transition = self.table.unregister(source, Unregister(port, instance), self.now)
        return transition

    def check(self, backend: Backend, liveness_s: float = 10.0) -> Transition | None:
        """Nothing has kept this process from hearing what there was."""
        return self.table.check(backend, liveness_s, lambda moment: self.now - moment, self.now)

    def report(self, backend: Backend, *, after_s: float = 0.001, **fields: Any) -> Confirmed:
        """The agent tells its load, in answer to a probe."""
        return self.answer(self.probe(backend), after_s=after_s, **fields)

    def up(self, source: Address = AGENT, **fields: Any) -> Backend:
        """A back-end that has registered and answered its first probe."""
        backend = self.register(source, **fields)
        self.answer(self.probe(backend, self.candidate(backend)))
        return backend

    def down(self, backend: Backend) -> None:
        """It leaves as many probes in a row unanswered as take it down."""
        for _ in range(FALL):
            self.lose(self.probe(backend))

    def recover(self, backend: Backend) -> None:
        """It answers as often as brings it up, after any hold-down."""
        self.now += HOLD_MAX_S
        for _ in range(RISE):
            self.report(backend)

    def fail_connects(self, backend: Backend, connects: int = 1) -> Transition | None:
        """So many connects to it fail."""
        transition = None
        for _ in range(connects):
            self.table.opened(backend)
            transition = self.table.refused(backend, self.now)
            self.table.closed(backend, was_connected=False)
        return transition

    def opened(self, backend: Backend, sessions: int = 1, *, connected: bool = True) -> None:
        for _ in range(sessions):
            self.table.opened(backend)
            if connected:
                self.table.connected(backend)
                self.table.served(backend)
