"""One client's session, whatever carries its bytes.

A carrier opens a session for each client that it accepts, has it choose back-ends to connect to, and reports the
outcome::

    ACCEPTED --choose_backend--> CONNECTING --connected--> CONNECTED --ended--> ENDED
       ^   \\                      |                         |
       |    wait_for_backend      connect_failed            try_redispatch
       |     \\                    |                         |
       |      v                   v                         v
       +--- WAITING               ACCEPTED                  ACCEPTED

A session may end in any phase. It works in memory alone: no Deferred, no timer of its own, no string formatting.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from math import inf
from typing import Final

from rproxy.pool.backend import Backend
from rproxy.sessions.endings import Ending, Phase
from rproxy.sessions.link import NO_LINK, Link
from rproxy.sessions.record import SessionRecord
from rproxy.sessions.redispatch import EARLY_END_S, EarlyEnd, Verdict
from rproxy.sessions.service import Service
from rproxy.wire.proxy_header import Header

TRIES_MAX: Final = 3
"""Most back-ends tried for one client."""
CONNECT_TIMEOUT_S: Final = 2.0
"""For each attempt."""
CONNECT_TOTAL_S: Final = 4.8
"""For all attempts of a client together: at most 5 s, as a deadline may be late by a tick."""
FLUSH_CLIENT_S: Final = 30.0
"""How long data already read may take to reach the client after the back-end was reset; then it is reset, too."""
FLUSH_BACKEND_S: Final = 0.2
"""The same the other way round."""
_NUMBERS: Final = count(1)

_ACCEPTED, _WAITING, _CONNECTING, _CONNECTED, _ENDED = Phase  # an attribute of an enumeration takes 40 ns more


class Session:
    """One client and the lease on its back-end: `choose_backend` takes it, `connect_failed` and `ended` return it.

    `listener` is the name of the listener that accepted the client.
    """

    __slots__ = (
        "_admitted",
        "_failed",
        "_queued_at",
        "backend",
        "backend_spoke_first",
        "connect_deadline",
        "connected_at",
        "down",
        "early_data",
        "ending",
        "half_closed",
        "header",
        "id",
        "idle_sweeps",
        "link",
        "listener",
        "phase",
        "progress",
        "queue_s",
        "report_age_s",
        "score",
        "service",
        "started_at",
        "up",
        "waited",
    )

    def __init__(self, service: Service, link: Link, listener: str = "") -> None:
        self.id = next(_NUMBERS)
        self.service = service
        service.sessions += 1
        self.link = link
        """Its connections; `NO_LINK` once it has ended."""
        self.listener = listener
        self.phase = _ACCEPTED
        self._admitted: str | None = None
        """The client's IP address, if the service's gate has admitted and counted it."""
        self._failed: tuple[Backend, ...] = ()
        """Back-ends to which a connect failed."""
        self.backend: Backend | None = None
        self.started_at = service.seconds()
        """When the client was accepted, or had completed its PROXY header or TLS handshake."""
        self.score: float | None = None
        """What the policy compared of `backend` at the choice; None without one, or unless `Service.notes_choices`."""
        self.report_age_s: float | None = None
        """How old that back-end's report was at the choice, in s; None as for `score`, and where there is no report."""
        self.waited = False
        """Whether the client is or was in the wait queue."""
        self._queued_at = 0.0
        self.queue_s = 0.0
        """Time spent in the wait queue."""
        self.connect_deadline = 0.0
        """When to give up the present attempt to connect, on the service's clock."""
        self.connected_at: float | None = None
        self.ending: Ending | None = None
        self.header: Header | None = None
        """The PROXY header that the client's connection began with."""
        self.half_closed = False
        """Whether exactly one side has ended its stream."""
        self.idle_sweeps = self.progress = 0
        """Idle sweeps in a row, and the byte count at the last progress. Kept by `IdleTimeout`."""
        self.up = self.down = 0
        """Bytes carried from client to back-end, final when `ended` is called, and from back-end to client."""
        self.early_data = b""
        """What the client has sent, kept while it may have to be sent to another back-end."""
        self.backend_spoke_first = False

    @property
    def is_connected(self) -> bool:
        return self.phase is _CONNECTED

    def handshake_completed(self) -> None:
        """The client's PROXY header or TLS handshake is complete: its time starts now."""
        self.started_at = self.service.seconds()

    def admit(self) -> bool:
        """Whether the service takes this client. To be called before the first `choose_backend`, once its address is
        known, if the service has a `gate`. If not, the session has ended, and the carrier resets the client.
        """
        gate, client = self.service.gate, self.link.client()
        if gate is None or client is None:
            return True
        if gate.admit(client[0]):
            self._admitted = client[0]
            return True
        self.ended(Ending.DENIED)
        return False

    def count_client(self) -> None:
        """Have the service's gate count the client, if the gate is younger than the session."""
        gate, client = self.service.gate, self.link.client()
        if gate is not None and client is not None and self._admitted is None:
            gate.count(client[0])
            self._admitted = client[0]

    def choose_backend(self) -> Backend | None:
        """Take a lease on the back-end to connect to until `connect_deadline`.

        Returns None if no back-end can be chosen, others come first in the wait queue, or attempts or time have run
        out. The carrier then calls `wait_for_backend`, and `give_up` if that returns False.
        """
        service, failed = self.service, self._failed
        if not failed:
            queue = service.wait_queue
            if queue.waiting and not self.waited and queue.goes_first():
                return None
            deadline = self.started_at + self.queue_s + CONNECT_TIMEOUT_S
        elif self._may_retry(len(failed)):
            deadline = min(service.seconds() + CONNECT_TIMEOUT_S, self._connect_end())
        else:
            return None
        observers = service.observers
        if observers.choices:
            observers.choosing(self.link)
        client = self.link.client() if service.chooses_by_client else None
        now, recorder = service.seconds(), service.recorder
        if recorder is None or now < recorder.budget.due:
            backend = service.pool.choose(now, failed, client)
        else:
            backend = recorder.choose(self.id, self.link, now, failed, client)
        if observers.choices:
            observers.chosen(self.link, backend)
        if backend is None:
            return None
        if failed:
            observers.redispatched(failed[-1], backend)
        self.backend = backend
        if service.notes_choices:
            age_s = now - backend.probing.asked_at  # `Backend.report_age_s`, inlined: one call fewer for each client
            self.score, self.report_age_s = service.pool.chosen_value, age_s if -inf < age_s < inf else None
        self.connect_deadline = deadline
        self.phase = _CONNECTING
        return backend

    def _connect_end(self) -> float:
        return self.started_at + self.queue_s + CONNECT_TOTAL_S

    def _may_retry(self, tries: int) -> bool:
        """Whether another attempt is allowed after `tries` attempts."""
        return tries < TRIES_MAX and self.service.seconds() < self._connect_end()

    def connect_timeout_s(self) -> float:
        """Seconds left of the present attempt to connect."""
        return self.connect_deadline - self.service.seconds()

    def wait_for_backend(self, call: Callable[[], None]) -> bool:
        """Have `call` called as `WaitQueue.add` does; returns False if the client may not wait, or has no attempt left.

        The wait does not count towards its time for connecting.
        """
        service, failed = self.service, self._failed
        if failed and not self._may_retry(len(failed)):
            return False

        def resume() -> None:
            self._stop_waiting()
            call()

        if not service.wait_queue.add(self, resume, failed, self.queue_s if self.waited else None):
            return False
        self.waited, self._queued_at = True, service.seconds()
        self.phase = _WAITING
        return True

    def _stop_waiting(self) -> None:
        self.queue_s += self.service.seconds() - self._queued_at
        self.phase = _ACCEPTED

    def connected(self) -> None:
        """The connection to `backend` is established."""
        assert self.backend is not None
        service = self.service
        self.connected_at = service.seconds()
        self.phase = _CONNECTED
        service.pool.connected(self.backend)
        if service.first_byte is not None:
            service.first_byte.connected(self)
        if service.gate is not None and self._admitted is None:
            self.count_client()

    def connect_failed(self, *, backend_fault: bool = True) -> None:
        """The connect failed, through the back-end's fault or this host's. Returns the lease."""
        assert self.backend is not None
        if backend_fault:
            self.service.connect_failed(self.backend)
        self._failed += (self.backend,)
        self._return_lease(self.backend, self.service.seconds(), None)
        self.score = self.report_age_s = None
        self.phase = _ACCEPTED

    def settled(self) -> None:
        """`EARLY_END_S` have passed since the connect: from now on an end does not count as a failed connect."""
        self.early_data = b""
        if self.backend is not None:
            self.service.served(self.backend)

    def try_redispatch(self, sent: int, *, reset: bool) -> bool:
        """The back-end has ended the connection before it sent a byte; `sent` bytes have come from the client.

        Returns whether that counts as a failed connect and another back-end is to be chosen; if not, the client gets
        the end.
        """
        service, backend = self.service, self.backend
        if self.connected_at is None or backend is None:
            return False
        tried = (*self._failed, backend)
        client = self.link.client() if service.chooses_by_client else None
        end = EarlyEnd(
            service.seconds() - self.connected_at, reset, self.half_closed, sent=sent, kept=len(self.early_data)
        )
        verdict = end.verdict(
            service.terms.redispatch,
            has_other=lambda: service.has_other(tried, client),
            may_retry=self._may_retry(len(tried)),
        )
        if verdict is Verdict.SERVED:
            service.served(backend)
        elif verdict is Verdict.FAULT:
            service.connect_failed(backend)
        elif verdict is Verdict.RETRY:
            self.connect_failed()
            self.connected_at = None
            if service.first_byte is not None:
                service.first_byte.redispatched(self, backend)
            return True
        return False

    def half_close(self) -> None:
        """Exactly one side has ended its stream."""
        self.half_closed = True
        self.idle_sweeps = 0

    def give_up(self) -> Ending:
        """End the session, because no back-end can be chosen and the client may not wait; returns the ending."""
        ending = self.service.wait_queue.refusal(self._failed, waited=self.waited)
        self.ended(ending)
        return ending

    def ended(self, ending: Ending) -> None:
        """The session is over. Only the first call counts."""
        if self.ending is not None:
            return
        service, backend, now = self.service, self.backend, self.service.seconds()
        if self.phase is _WAITING:
            self._stop_waiting()
            service.wait_queue.leave(self)
        self.ending = ending
        self.phase = _ENDED
        service.sessions -= 1
        if backend is not None:
            if backend.health.refusals or service.first_byte is not None:
                self._report_service(backend)
            connected_at = self.connected_at
            self._return_lease(backend, now, None if connected_at is None else now - connected_at)
        if self._admitted is not None and service.gate is not None:
            service.gate.leave(self._admitted)
        service.observers.session_ended(self._record(backend, ending, now))
        self.link = NO_LINK  # session and link refer to each other: break the cycle

    def _record(self, backend: Backend | None, ending: Ending, now: float) -> SessionRecord:
        service, started_at, queue_s, connected_at = self.service, self.started_at, self.queue_s, self.connected_at
        return SessionRecord(
            service.name,
            self.listener,
            self.link,
            backend,
            len(self._failed) + (backend is not None),
            started_at,
            queue_s,
            None if connected_at is None else connected_at - started_at - queue_s,
            now - started_at,
            0 if connected_at is None else self.up,  # it may have been read in vain
            self.down,
            ending,
            self.id,
            self.score,
            self.report_age_s,
        )

    def _report_service(self, backend: Backend) -> None:
        """Report what the ended session shows about its back-end's service."""
        service = self.service
        if self.connected_at is None:
            return
        if backend.health.refusals and (self.down or service.seconds() - self.connected_at > EARLY_END_S):
            service.served(backend)
        if service.first_byte is not None:
            service.first_byte.ended(self, backend)

    def _return_lease(self, backend: Backend, now: float, served_s: float | None) -> None:
        """`served_s` is how long the back-end has served the session; None if it failed or was never connected."""
        self.backend = None
        connected = self.connected_at is not None
        carried = (self.up, self.down) if connected and self.ending is not None else (0, 0)  # the last one has got them
        events = self.service.pool.closed(backend, now, was_connected=connected, served_s=served_s, carried=carried)
        if events:
            self.service.publish(events)
