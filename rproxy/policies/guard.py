"""Keeps what is wrong with a policy, which may be somebody's own, from clients and from the process."""

from __future__ import annotations

from collections.abc import Callable, Collection

from rproxy.pool.backend import Backend
from rproxy.pool.policy import Policy
from rproxy.pool.table import Table


class NotEligible(Exception):
    """A policy chose what is no back-end, or none that may get this client."""


class Guarded:
    """A `Policy` around another one, which may raise anything at all, SystemExit included, and choose anything.

    `complain` is called, while the exception is being handled, whenever it has. Somebody is chosen all the same: any
    back-end that may get the client, each in its turn. A Ctrl-C is the reactor's business, and comes by no exception.
    """

    def __init__(self, policy: Policy, complain: Callable[[], None]) -> None:
        self._policy = policy
        self._complain = complain
        self._turn = 0

    def choose(self, table: Table, exclude: Collection[Backend]) -> Backend | None:
        try:
            chosen = self._policy.choose(table, exclude)
            if chosen is None or (table.eligible[chosen.slot] is chosen and chosen not in exclude):
                return chosen
            raise NotEligible(f"the policy chose {chosen.name}, which may not get this client")
        except BaseException:
            self._complain()
            return self._any(table, exclude)

    def _any(self, table: Table, exclude: Collection[Backend]) -> Backend | None:
        eligible = table.eligible
        for _ in range(min(len(exclude) + 1, len(eligible))):
            self._turn = (self._turn + 1) % len(eligible)
            if eligible[self._turn] not in exclude:
                return eligible[self._turn]
        return None

    def opened(self, backend: Backend) -> None:
        try:
            self._policy.opened(backend)
        except BaseException:
            self._complain()

    def closed(self, backend: Backend) -> None:
        try:
            self._policy.closed(backend)
        except BaseException:
            self._complain()

    def failed(self, backend: Backend) -> None:
        try:
            self._policy.failed(backend)
        except BaseException:
            self._complain()

    def reported(self, backend: Backend) -> None:
        try:
            self._policy.reported(backend)
        except BaseException:
            self._complain()
