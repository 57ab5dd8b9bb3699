"""A pool whose events are kept in a history, and whose choices are recorded."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from rproxy.observe.choices import ChoiceBook
from rproxy.observe.history import History
from rproxy.observe.publisher import Publisher
from rproxy.pool.backend import Backend, StaticTerms
from rproxy.pool.policy import Policy
from rproxy.pool.pool import Pool
from rproxy.timing.cpu_budget import CpuBudget
from rproxy.wire.agent_check import read
from tests.fakes import UNLIMITED, FakeLink
from tests.policies.balancing import Balance
from tests.pool.driving import agent

NOON: Final = datetime(2026, 6, 1, 12, 0, 0).timestamp()
"""Unix time at `STARTED`."""
STARTED: Final = 1000.0
"""On the pool's clock, in s."""


class Published:
    """What it is around, with the events that its methods return published."""

    def __init__(self, around: Any, publish: Publisher) -> None:
        self._around = around
        self._publish = publish

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._around, name)
        if name in ("static", "words"):
            return Published(found, self._publish)
        return self._publishing(found) if callable(found) else found

    def _publishing(self, method: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            returned = method(*args, **options)
            if isinstance(returned, tuple) and returned and hasattr(returned[0], "__attrs_attrs__"):
                self._publish(returned)
            return returned

        return call

    def __iter__(self) -> Any:
        return iter(self._around)

    def __len__(self) -> int:
        return len(self._around)


class Told(Balance):
    """Drives such a pool; `options` are the pool's."""

    def __init__(self, policy: Policy, **options: Any) -> None:
        super().__init__(policy, **(options or {"limits": UNLIMITED, "slow_start_s": 0, "panic_below": 0}))
        self.history = History(lambda: self.wall)
        self.book = ChoiceBook(lambda: self.wall, lambda: 0.0, CpuBudget(1e9, 1e9))
        self.log = self.book.add("default", self.pool)
        self.publish = Publisher()
        self.publish.subscribe(self.history.observers("default"))
        self.real: Pool = self.pool
        self.pool: Any = Published(self.real, self.publish)

    @property
    def wall(self) -> float:
        return NOON + self.now - STARTED

    def come(self, clients: int = 1) -> list[Backend]:
        """So many clients whose choices are recorded; their sessions stay."""
        chosen = [self.log.choose(number, FakeLink(), self.now, (), None) for number in range(clients)]
        for backend in chosen:
            if backend is not None:
                self.real.connected(backend)
        return [backend for backend in chosen if backend is not None]

    def put(self, number: int, *, weight: int = 100, check: str = "connect") -> Backend:
        """A back-end that the configuration names."""
        key = (agent(number)[0], 80)
        self.pool.static.put(key, StaticTerms(weight, check), self.now)
        backend: Backend | None = self.real.get(*key)
        assert backend is not None
        return backend

    def checked(self, backend: Backend, failure: str = "") -> None:
        self.pool.static.checked(backend, self.now, failure, rtt_ms=None if failure else 0.5)

    def say(self, backend: Backend, line: str) -> None:
        """Its agent-check says so."""
        self.pool.static.said(backend, read(line), self.now)
