"""Choices of any policy in a pool where everything happens: failures, weights, limits, exclusions, affinity."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final

import attrs

from rproxy.net.addresses import Address
from rproxy.policies.affinity import Affinity
from rproxy.policies.registry import POLICIES
from rproxy.pool.backend import Backend
from rproxy.pool.policy import Policy
from tests.fakes import UNLIMITED
from tests.policies.balancing import Balance, policy
from tests.pool.driving import agent

AFFINITY: Final = "affinity"
"""Affinity around `p2c`."""
NAMES: Final = (*sorted(POLICIES), AFFINITY)
HELD_MAX: Final = 4
"""Sessions for each back-end, on average at most."""


def policy_named(name: str) -> Policy:
    """A built-in policy, or affinity around one."""
    return Affinity(policy("p2c")) if name == AFFINITY else policy(name)


@attrs.frozen
class Client:
    """Who is next."""

    address: Address | None
    exclude: tuple[Backend, ...]


class Turmoil(Balance):
    """A pool of `size` back-ends under a policy, in which anything happens between two clients. `seed` is all of it."""

    def __init__(self, name: str, size: int, seed: int = 1) -> None:
        limits = attrs.evolve(UNLIMITED, confirmed=max(size, 1024))
        super().__init__(policy_named(name), limits=limits)
        self.rng = rng = Random(seed)
        weights, limits_each = (100, 100, 100, 50, 300, 7), (None, None, None, 1, 4)
        self.backends = [
            self.up(agent(number), weight=rng.choice(weights), max_connections=rng.choice(limits_each))
            for number in range(size)
        ]
        self.held: list[Backend] = []

    def clients(self, count: int) -> Iterator[Client]:
        """So many clients; the caller gives each of them to `take`, or to nobody."""
        rng = self.rng
        for _ in range(count):
            self.now += rng.expovariate(50)
            self._happen(rng.choice(self.backends))
            exclude = tuple(rng.sample(self.backends, rng.choice((0, 0, 0, 1, 2))))
            address = (f"10.9.0.{rng.randrange(60)}", 1024) if rng.random() < 0.9 else None
            yield Client(address, exclude)
            self._close()

    def _happen(self, backend: Backend) -> None:
        rng, kind = self.rng, self.rng.random()
        if kind < 0.15:
            self.report(
                backend,
                cpu=rng.choice((None, rng.randrange(101))),
                memory=rng.randrange(50, 101),
                load=rng.choice((None, 0, 40)),
                tcp=rng.randrange(20),
                others=rng.randrange(5),
                draining=rng.random() < 0.02,
            )
        elif kind < 0.17 and backend.eligible:
            self.refuse(backend)
        elif kind < 0.175 and backend.is_up:
            self.lose(self.probe(backend))
        elif kind < 0.18:
            self.recover(backend)
        elif kind < 0.20:
            self.pool.tick(self.now)
        elif kind < 0.201:
            self.down(backend)

    def take(self, backend: Backend | None) -> None:
        """The back-end that a client got; its session lasts until this class ends it."""
        if backend is not None:
            self.pool.connected(backend)
            self.held.append(backend)

    def _close(self) -> None:
        rng, held = self.rng, self.held
        while held and (len(held) > HELD_MAX * len(self.backends) or rng.random() < 0.45):
            backend = held.pop(rng.randrange(len(held)))
            self.close(backend, served_s=rng.choice((None, 0.001, 0.1, 3.0)))
