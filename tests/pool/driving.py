"""Drives a pool as the monitor does: with a clock, fresh tokens, and agents that answer or do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import attrs
import pytest

from rproxy.net.addresses import Address
from rproxy.pool.admission import Refusal, Rejected
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.events import AgentRestarted, Events, Registered, Reported, Transitioned
from rproxy.pool.health import FALL, HOLD_MAX_S, RISE
from rproxy.pool.policy import Policy
from rproxy.pool.pool import Pool
from rproxy.pool.probes import Probe
from rproxy.wire.pdu import ProbeResponse, Register, Unregister
from tests.fakes import UNLIMITED, pool_of

AGENT: Address = ("10.0.0.1", 5555)
REGISTER = Register(service_port=80, interval_ms=20_000, instance=1)


def agent(number: int) -> Address:
    return (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 5555)


def response(probe: Probe, **fields: Any) -> ProbeResponse:
    """The valid answer to a probe, from an idle host unless `fields` say otherwise."""
    request = probe.request
    idle = ProbeResponse(request.sequence, request.token, cpu=0, memory=0, load=None, tcp=0)
    return attrs.evolve(idle, **fields)


def transition_of(events: Events) -> Transitioned | None:
    """The change of state among the events of one call, at most one."""
    found = [event for event in events if isinstance(event, Transitioned)]
    assert len(found) <= 1
    return found[0] if found else None


@attrs.frozen
class Answered:
    """What one valid response came to."""

    events: Events

    @property
    def sample_ms(self) -> float:
        (reported,) = (event for event in self.events if isinstance(event, Reported))
        return reported.sample_ms

    @property
    def restarted(self) -> bool:
        return any(isinstance(event, AgentRestarted) for event in self.events)

    @property
    def transition(self) -> Transitioned | None:
        return transition_of(self.events)


@contextmanager
def refused(pool: Pool, refusal: Refusal) -> Iterator[None]:
    """What runs inside is rejected for `refusal`, and leaves the pool as it was."""
    before = attrs.asdict(pool)
    with pytest.raises(Rejected) as caught:
        yield
    assert caught.value.refusal is refusal
    assert attrs.asdict(pool) == before


class Driver:
    """`options` are the pool's; unless they say otherwise nothing is limited, starts slowly, or panics."""

    def __init__(self, policy: Policy | None = None, **options: Any) -> None:
        self.pool = pool_of(policy, **(options or {"limits": UNLIMITED, "slow_start_s": 0, "panic_below": 0}))
        self.now = 1000.0
        self._tokens = count(1)
        self._candidates: WeakKeyDictionary[Backend, Registration] = WeakKeyDictionary()

    def register(self, source: Address = AGENT, **fields: Any) -> Backend:
        return self.take_in(source, **fields).backend

    def take_in(self, source: Address = AGENT, local: str = "", **fields: Any) -> Registered:
        """Whoever waits for a probe has its turn at once."""
        event, *_ = self.pool.register(source, attrs.evolve(REGISTER, **fields), self.now, local)
        assert isinstance(event, Registered)
        while found := self.pool.next_candidate(self.now):
            backend, self._candidates[backend] = found
        return event

    def probe(self, backend: Backend, registration: Registration | None = None) -> Probe:
        return self.pool.probe(backend, registration or backend.registration, next(self._tokens), self.now)

    def candidate(self, backend: Backend) -> Registration:
        """The registration whose turn it was to be probed last."""
        return self._candidates.get(backend, backend.registration)

    def answer(self, probe: Probe, *, after_s: float = 0.001, source: Address | None = None, **fields: Any) -> Answered:
        self.now += after_s
        pdu = response(probe, **fields)
        return Answered(self.pool.respond(source or probe.registration.agent, pdu, self.now))

    def lose(self, probe: Probe) -> Transitioned | None:
        self.now += self.pool.timeout_s
        return transition_of(self.pool.lost(probe.request.token, self.now))

    def unregister(self, source: Address = AGENT, *, port: int = 80, instance: int = 1) -> Transitioned | None:
        return transition_of(self.pool.unregister(source, Unregister(port, instance), self.now))

    def check(self, backend: Backend, liveness_s: float = 10.0) -> Transitioned | None:
        """Nothing has kept this process from hearing what there was."""
        return transition_of(self.pool.check(backend, liveness_s, lambda moment: self.now - moment, self.now))

    def report(self, backend: Backend, *, after_s: float = 0.001, **fields: Any) -> Answered:
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

    def fail_connects(self, backend: Backend, connects: int = 1) -> Transitioned | None:
        """So many connects to it fail. What the last one came to."""
        events: Events = ()
        for _ in range(connects):
            self.lease(backend)
            events = self.pool.refused(backend, self.now)
            self.pool.closed(backend, self.now, was_connected=False, served_s=None)
        return transition_of(events)

    def lease(self, backend: Backend) -> None:
        """A session starts to connect to it: now if it is eligible, otherwise it is one that was chosen before."""
        if backend.eligible:
            assert self.pool.choose(self.now, [each for each in self.pool if each is not backend]) is backend
        else:
            backend.counts.pending += 1

    def opened(self, backend: Backend, sessions: int = 1, *, connected: bool = True) -> None:
        """So many sessions have opened on it."""
        for _ in range(sessions):
            self.lease(backend)
            if connected:
                self.pool.connected(backend)
                self.pool.served(backend, self.now)

    def close(
        self, backend: Backend, *, was_connected: bool = True, served_s: float | None = 0.001
    ) -> Transitioned | None:
        """One of its sessions is over."""
        served = served_s if was_connected else None
        return transition_of(self.pool.closed(backend, self.now, was_connected=was_connected, served_s=served))
