"""Drives a table and a policy together, as the monitor and the sessions do."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from random import Random
from typing import Any

from rproxy.net.addresses import Address
from rproxy.policies.formula import SATURATION
from rproxy.policies.registry import POLICIES
from rproxy.pool.backend import Backend
from rproxy.pool.events import Confirmed, Probe, Transition
from rproxy.pool.policy import Policy
from rproxy.pool.table import Table
from tests.pool.driving import AGENT, Driver, agent


def policy(name: str, *, saturation: float | None = SATURATION, seed: int = 1) -> Policy:
    return POLICIES[name](saturation, Random(seed))


class Balance(Driver):
    """Every change of the table is told to the policy."""

    def __init__(self, policy: Policy, table: Table | None = None) -> None:
        super().__init__(table)
        self.policy = policy

    def register(self, source: Address = AGENT, **fields: Any) -> Backend:
        backend = super().register(source, **fields)
        self.policy.reported(backend)
        return backend

    def answer(
        self, probe: Probe, *, after_s: float = 0.001, source: Address | None = None, **fields: Any
    ) -> Confirmed:
        confirmed = super().answer(probe, after_s=after_s, source=source, **fields)
        self.policy.reported(confirmed.backend)
        return confirmed

    def lose(self, probe: Probe) -> Transition | None:
        transition = super().lose(probe)
        self.policy.failed(probe.backend)
        return transition

    def ramp(self, backend: Backend) -> None:
        """Its share becomes what it may be by now."""
        self.table.ramp(backend, self.now)
        self.policy.reported(backend)

    def pool(self, size: int, **fields: Any) -> list[Backend]:
        return [self.up(agent(number), **fields) for number in range(size)]

    def choose(self, *exclude: Backend) -> Backend | None:
        return self.policy.choose(self.table, exclude)

    def open(self, *exclude: Backend) -> Backend:
        """A session on the back-end chosen, which is held until it is closed."""
        backend = self.choose(*exclude)
        assert backend is not None
        self.table.opened(backend)
        self.policy.opened(backend)
        self.table.connected(backend)
        return backend

    def close(self, backend: Backend) -> None:
        self.table.closed(backend, was_connected=True)
        self.policy.closed(backend)

    def refuse(self, backend: Backend) -> None:
        """A session that could not connect to it."""
        self.table.opened(backend)
        self.policy.opened(backend)
        self.policy.failed(backend)
        self.table.closed(backend, was_connected=False)
        self.policy.closed(backend)

    def serve(self, sessions: int, *, held: bool) -> list[Backend]:
        """Who served each of them; not held, a session ends before the next begins."""
        served = []
        for _ in range(sessions):
            backend = self.open()
            served.append(backend)
            if not held:
                self.close(backend)
        return served


def shares(served: Iterable[Backend], backends: Collection[Backend]) -> list[int]:
    served = list(served)
    return [served.count(backend) for backend in backends]
