"""A service: the pool that serves the clients of its listeners, and the terms on which it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Final

import attrs
from twisted.internet.interfaces import IReactorTime

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend
from rproxy.pool.events import Events
from rproxy.pool.pool import Pool
from rproxy.sessions.capacity import SESSIONS_MAX, Capacity
from rproxy.sessions.first_byte import FirstByte
from rproxy.sessions.gate import Gate
from rproxy.sessions.observers import ChoiceRecorder, Observers
from rproxy.sessions.outbound import PLAIN, Outbound
from rproxy.sessions.proxy_headers import ProxyHeaders
from rproxy.sessions.redispatch import Redispatch
from rproxy.sessions.tls_failures import TlsFailures
from rproxy.sessions.wait_queue import WaitQueue

DEFAULT: Final = "default"
"""Name of the service that the command line describes."""


@attrs.frozen
class ServiceTerms:
    """How a service treats its clients; times in seconds."""

    wait_s: float = 0.0
    """How long a client waits while no back-end is up; 0 for not at all."""
    queue: int = 1000
    """Most clients that wait for each back-end that is full."""
    queue_timeout_s: float = 5.0
    """How long a client waits while those that are up are full; 0 for not at all."""
    redispatch: Redispatch = Redispatch.ALL
    first_byte_s: float = 0.0
    """A back-end goes down if no new session on it gets a byte for this long; 0 for never."""
    reader_timeout_s: float = math.inf
    """How long a client that does not read may keep a connection whose back-end has sent everything and has failed."""


DEFAULT_TERMS: Final = ServiceTerms()


class Service:
    """A pool, the terms for its clients, and the queue of clients that wait for a back-end.

    `clock` is monotonic. `publish` gets the pool's events that sessions cause. `may_self_connect` returns whether a
    connect to the given address could end up connected to itself (a TCP simultaneous open): the port is one of this
    host's ephemeral ports, and nothing listens on it.
    """

    def __init__(
        self,
        pool: Pool,
        clock: IReactorTime,
        terms: ServiceTerms = DEFAULT_TERMS,
        *,
        name: str = DEFAULT,
        observers: Observers | None = None,
        publish: Callable[[Events], None] = lambda events: None,
        may_self_connect: Callable[[Address], bool] = lambda address: False,
    ) -> None:
        self.name = name
        self.pool = pool
        self.terms = terms
        self.seconds = clock.seconds
        self.observers = Observers(clock.seconds) if observers is None else observers
        self.publish = publish
        self.may_self_connect = may_self_connect
        self.outbound = PLAIN
        """How to connect to back-ends other than the `special` ones."""
        self.special: Mapping[Address, Outbound] = {}
        """The same of single back-ends, by address and port."""
        full = f"as many as the service {name} may have (max-connections)"
        self.capacity = Capacity(SESSIONS_MAX, clock.seconds, full)
        """Its own sessions, which carriers count in addition to those of the process."""
        self.gate: Gate | None = None
        """None where every client is admitted."""
        self.sessions = 0
        """Those that have begun and not ended, the waiting ones included. Kept by `Session`."""
        self.proxy_headers: ProxyHeaders | None = None
        """None where clients' connections begin with no PROXY header."""
        self.chooses_by_client = False
        """Whether the policy is to get the client's address."""
        self.recorder: ChoiceRecorder | None = None
        """None where nobody looks at choices."""
        self.notes_choices = False
        """Whether sessions note how old the report of their back-end was, and its value if the pool notes that."""
        self.tls_failures = TlsFailures(clock)
        self.is_leaving = False
        """Whether it is no longer configured: it only has the sessions that it had."""
        self.wait_queue = WaitQueue(clock, pool, lambda: self.terms)
        self.first_byte: FirstByte | None = None
        self._clock = clock
        self._started = False
        self._limit_first_bytes()

    def use_terms(self, terms: ServiceTerms) -> None:
        """Treat clients on these terms from now on, those that are there included."""
        self.terms = terms
        self.wait_queue.terms_changed()
        self._limit_first_bytes()

    def _limit_first_bytes(self) -> None:
        limit_s, first_byte = self.terms.first_byte_s, self.first_byte
        if first_byte is not None and limit_s:
            first_byte.limit(limit_s)
        elif first_byte is not None:
            first_byte.stop()
            self.first_byte = None
        elif limit_s:
            self.first_byte = FirstByte(self._clock, limit_s, self._unresponsive)
            if self._started:
                self.first_byte.start()

    def outbound_to(self, backend: Backend) -> Outbound:
        """How to connect to `backend`."""
        return self.special.get((backend.address, backend.port), self.outbound) if self.special else self.outbound

    def has_other(self, tried: Collection[Backend], client: Address | None) -> bool:
        """Whether there is a back-end for this client that is none of `tried`, even if it has to wait for it."""
        chosen = self.pool.would_choose(self.seconds(), tried, client)
        return chosen is not None or self.wait_queue.is_full_besides(tried)

    def connect_failed(self, backend: Backend) -> None:
        """A connect to `backend` failed, and not through this host's fault."""
        self.publish(self.pool.refused(backend, self.seconds()))

    def served(self, backend: Backend) -> None:
        """A session on `backend` got a byte, or outlived `EARLY_END_S`."""
        self.publish(self.pool.served(backend, self.seconds()))

    def _unresponsive(self, backend: Backend, sessions: int, silent_s: float) -> None:
        self.publish(self.pool.unresponsive(backend, sessions, silent_s, self.seconds()))

    def start(self) -> None:
        """Start the timers. To be called once, before the first client is accepted or soon after."""
        self._started = True
        if self.first_byte is not None:
            self.first_byte.start()

    def stop_waiting(self) -> None:
        """To be called when the listeners are closed: only for full back-ends do clients wait from now on."""
        self.wait_queue.drain()

    def stop(self) -> None:
        """Stop the timers. To be called when all sessions have ended."""
        self.wait_queue.stop()
        self.tls_failures.stop()
        if self.first_byte is not None:
            self.first_byte.stop()
