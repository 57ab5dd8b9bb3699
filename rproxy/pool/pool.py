"""The pool: the back-ends, and the policy that chooses among them. Nobody else writes to either.

Every method takes the time as a number of seconds from any monotonic origin, and returns what it has changed as
frozen events, for the caller to publish.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Final

from rproxy.pool.backend import Backend
from rproxy.pool.events import Transition
from rproxy.pool.policy import Policy
from rproxy.pool.table import Table

Events = tuple[Transition, ...]
NOTHING: Final[Events] = ()


class Pool:
    """Back-ends and their policy, as one object."""

    def __init__(self, table: Table, policy: Policy) -> None:
        self.table = table
        self.policy = policy

    def __iter__(self) -> Iterator[Backend]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def eligible(self) -> list[Backend]:
        """The back-ends that may get a client, in no order."""
        return self.table.eligible

    @property
    def panicking(self) -> bool:
        """Whether back-ends that are down get clients as well."""
        return self.table.panicking

    def get(self, address: str, port: int) -> Backend | None:
        return self.table.get(address, port)

    def when_eligible(self, call: Callable[[], None]) -> None:
        self.table.when_eligible(call)

    def choose(self, exclude: Collection[Backend] = ()) -> Backend | None:
        """Take a lease on the back-end for the next client, none of `exclude`; None where there is none.

        It counts as connecting until `connected` or `closed`.
        """
        backend = self.policy.choose(self.table, exclude)
        if backend is not None:
            self.table.opened(backend)
            self.policy.opened(backend)
        return backend

    def would_choose(self, exclude: Collection[Backend] = ()) -> Backend | None:
        """What `choose` would return now."""
        return self.policy.choose(self.table, exclude)

    def connected(self, backend: Backend) -> None:
        """A lease's connection is established."""
        self.table.connected(backend)

    def served(self, backend: Backend) -> Events:
        """A session on it got a byte, or outlived the time in which its end would have been a failed connect."""
        self.table.served(backend)
        return NOTHING

    def refused(self, backend: Backend, now: float) -> Events:
        """A connect failed, and not by this host's fault. To be called before `closed`."""
        self.policy.failed(backend)
        return _told(self.table.refused(backend, now))

    def mute(self, backend: Backend, sessions: int, silent_s: float, now: float) -> Events:
        """None of its new sessions got a byte for so long, and those of others did: as if connects had failed."""
        self.policy.failed(backend)
        return _told(self.table.mute(backend, sessions, silent_s, now))

    def closed(self, backend: Backend, *, was_connected: bool) -> Events:
        """A lease is over; the last one of a departed back-end removes it."""
        transition = self.table.closed(backend, was_connected=was_connected)
        self.policy.closed(backend)
        return _told(transition)


def _told(transition: Transition | None) -> Events:
    return NOTHING if transition is None else (transition,)
