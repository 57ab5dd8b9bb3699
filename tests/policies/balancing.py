"""Drives a pool by a policy, as the monitor and the sessions do."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from random import Random
from typing import Any, Final

from rproxy.policies.formula import SATURATION
from rproxy.policies.penalty import PENALTY_S
from rproxy.policies.registry import POLICIES
from rproxy.pool.backend import Backend
from rproxy.pool.policy import Policy
from tests.pool.driving import Driver, agent


def policy(name: str, *, saturation: float | None = SATURATION, seed: int = 1) -> Policy:
    return POLICIES[name]({"saturation": saturation} if name == "report" else {}, Random(seed))


class Balance(Driver):
    """Opens and closes sessions where the policy chooses."""

    def __init__(self, policy: Policy, **options: Any) -> None:
        super().__init__(policy, **options)
        self.policy = policy

    def all_up(self, size: int, **fields: Any) -> list[Backend]:
        """So many back-ends that are up."""
        return [self.up(agent(number), **fields) for number in range(size)]

    def choose(self, *exclude: Backend) -> Backend | None:
        return self.pool.would_choose(self.now, exclude)

    def open(self, *exclude: Backend) -> Backend:
        """A session on the back-end chosen, which is held until it is closed."""
        backend = self.pool.choose(self.now, exclude)
        assert backend is not None
        self.pool.connected(backend)
        return backend

    def refuse(self, backend: Backend) -> None:
        """A session that could not connect to it."""
        self.fail_connects(backend)

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


def balance_by(name: str, **options: Any) -> Balance:
    return Balance(policy(name, **options))


ABSENCES: Final = ("down", "draining", "failed")
"""How a back-end may get no client for a while; a report ends each of them."""


def leave(balance: Balance, backend: Backend, way: str) -> None:
    match way:
        case "down":
            balance.down(backend)
        case "draining":
            balance.report(backend, draining=True)
        case _:
            balance.refuse(backend)


def come_back(balance: Balance, backend: Backend, way: str) -> None:
    if way == "down":
        balance.recover(backend)
        return
    balance.now += PENALTY_S
    balance.report(backend)
