"""One client's session, whatever carries its bytes: choose, connect, redispatch, account.

A carrier opens a session for every client it accepts, asks it where to connect to, and tells it how that went. All
of it is plain calls on memory: no Deferred, no timer of its own, and no text unless somebody reads it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from rproxy.pool.backend import Backend
from rproxy.sessions.link import NO_LINK, Link

if TYPE_CHECKING:
    from rproxy.sessions.service import Service

TRIES_MAX: Final = 3
CONNECT_TIMEOUT_S: Final = 2.0
CONNECT_TOTAL_S: Final = 4.8
"""A client's tries take at most 5 s: this, and the ticks by which a deadline may be late."""
EARLY_S: Final = 0.1
"""An end that comes this soon after a connect, before any byte, is the listener's and no service's: a process that
dies at start, a port forwarder or a load balancer with nothing behind it, a full queue. They close within their own
accept; a service that has read a request and decided takes as long only where it means it."""
EARLY_MAX: Final = 65536
"""Bytes of a client kept for a back-end: before it is connected, and until it shows that it has taken them."""
FLUSH_CLIENT_S: Final = 30.0
FLUSH_BACKEND_S: Final = 0.2
"""How long bytes already read may take to reach a side whose peer was reset, before it is reset too."""
LOCAL_ERRORS: Final = frozenset(
    {errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EACCES, errno.EPERM}
)
"""Connect errors of this host's own: no fault of the back-end."""


class Ending(StrEnum):
    """How a session ended; each is a counter's name."""

    CLOSED = "closed"
    """Both sides said they were done."""
    CLIENT_RESET = "client-reset"
    BACKEND_RESET = "backend-reset"
    CLIENT_GONE = "client-gone"
    """The client gave up before it was connected."""
    NO_BACKEND = "no-backend"
    UNREACHABLE = "unreachable"
    """No try to connect succeeded."""
    IDLE = "idle"
    HALF_CLOSED = "half-closed"
    """One side had ended its stream, and the other was silent for too long."""
    VANISHED = "vanished"
    """One side took nothing more, and gave no sign of life, although it was sent something."""
    BACKEND_DOWN = "backend-down"
    """Its back-end fell silent, and nothing moved any more."""
    STOPPED = "stopped"
    """The proxy itself ended it."""

    __hash__ = str.__hash__  # an enumeration's own is Python code


class Redispatch(StrEnum):
    """Whose back-end may end the connection at once, before any byte, and be replaced by another."""

    ALL = "all"
    UNSENT = "unsent"
    """Clients of whom nothing has been sent yet: no request is ever sent twice."""
    OFF = "off"


class Session:
    """One client, and the back-end it holds: `next` takes one, `failed` and `ended` give it back."""

    __slots__ = (
        "_failed",
        "_service",
        "backend",
        "connected_at",
        "down",
        "early",
        "ended_as",
        "greeted",
        "half_closed",
        "link",
        "quiet",
        "seen",
        "started_at",
        "up",
        "waited",
    )

    def __init__(self, service: Service, link: Link, now: float) -> None:
        self._service = service
        self._failed: tuple[Backend, ...] = ()
        self.link = link
        """The connections of this session, until it has ended."""
        self.backend: Backend | None = None
        self.started_at = now
        """When it was accepted; later by the time for which it waited for a back-end to come."""
        self.waited = False
        self.connected_at: float | None = None
        self.ended_as: Ending | None = None
        self.half_closed = False
        """Whether one side, and only one, has ended its stream."""
        self.quiet = 0
        """For `Silence`: sweeps since any byte was taken, and how many had been then."""
        self.seen = 0
        self.up = 0
        """Bytes carried from client to back-end; the carrier says so at the end at the latest."""
        self.down = 0
        """Bytes carried from back-end to client."""
        self.early = b""
        """What the client has sent to a back-end that has not answered yet, while it may have to be sent again."""
        self.greeted = False
        """Whether the back-end spoke before its client did."""

    def begin(self) -> None:
        """The client is ready for its back-end, later than it was accepted: its patience starts now."""
        self.started_at = self._service.seconds()

    def next(self) -> Backend | None:
        """The back-end to connect to now, or None when there is none to try, or no more tries or time are left."""
        service, failed = self._service, self._failed
        if failed and (len(failed) >= TRIES_MAX or self._left_s() <= 0):
            return None
        if service.waiting.queue and not failed and not self.waited:
            return None
        backend = service.pool.choose(failed)
        if service.trace:
            service.trace_choice(self.link.client_address(), backend)
        if backend is None:
            return None
        if failed:
            service.redispatches += 1
        self.backend = backend
        return backend

    def wait(self, call: Callable[[], None]) -> bool:
        """After `next` returned None: whether `call` will be called, when there is a back-end or no more time.

        That time does not count for its tries. A client waits once.
        """
        if self.waited:
            return False
        began = self._service.seconds()

        def served() -> None:
            self.started_at += self._service.seconds() - began
            call()

        self.waited = self._service.waiting.add(self, served)
        return self.waited

    def patience_s(self) -> float:
        """How long the present try to connect may take, in seconds."""
        return self.connect_by() - self._service.seconds()

    def connect_by(self) -> float:
        """When the present try to connect ends, on the service's clock."""
        if not self._failed:
            return self.started_at + CONNECT_TIMEOUT_S
        return min(self._service.seconds() + CONNECT_TIMEOUT_S, self.started_at + CONNECT_TOTAL_S)

    def _left_s(self) -> float:
        return self.started_at + CONNECT_TOTAL_S - self._service.seconds()

    @property
    def is_connected(self) -> bool:
        """Has its back-end, and is not over."""
        return self.connected_at is not None and self.ended_as is None

    def connected(self) -> None:
        assert self.backend is not None
        service = self._service
        self.connected_at = service.seconds()
        service.pool.connected(self.backend)
        if service.first_byte is not None:
            service.first_byte.connected(self)

    def grown(self) -> None:
        """`EARLY_S` after the connect, or later: its end will not be a failed connect any more."""
        self.early = b""
        if self.backend is not None:
            self._service.publish(self._service.pool.served(self.backend))

    def ended_early(self, sent: int, *, reset: bool) -> bool:
        """Its back-end has ended the connection before any byte. Whether that was a failed connect and another
        back-end may be tried, so that `next` is to be asked; else the client gets the end as what it was.

        `sent` is how many bytes came from the client: nothing of it may be lost. To a client that has ended, too, a
        clean end is an answer, and to one that has not said a word, as a port check, any. Where there is no other
        back-end, it is no evidence: then the service may well be so.
        """
        service, backend = self._service, self.backend
        if self.connected_at is None or backend is None or service.redispatch is Redispatch.OFF:
            return False
        if self.half_closed and not reset:
            service.publish(service.pool.served(backend))
            return False
        if self.half_closed and not sent:
            return False
        if service.seconds() - self.connected_at > EARLY_S or not sent == len(self.early) <= EARLY_MAX:
            return False
        tried = (*self._failed, backend)
        if service.pool.would_choose(tried) is None:
            return False
        if len(tried) >= TRIES_MAX or self._left_s() <= 0 or (sent and service.redispatch is Redispatch.UNSENT):
            service.blame(backend)
            return False
        self.failed()
        self.connected_at = None
        if service.first_byte is not None:
            service.first_byte.left(self, backend)
        return True

    def half_close(self) -> None:
        """One side, and only one, has ended its stream."""
        self.half_closed = True
        self.quiet = 0

    def failed(self, *, blame: bool = True) -> None:
        """The connect failed; `blame` is whether the back-end, not this host, is the cause."""
        assert self.backend is not None
        if blame:
            self._service.blame(self.backend)
        self._failed += (self.backend,)
        self._release()

    def give_up(self) -> Ending:
        """After `next` returned None: ends the session, and says why."""
        ending = Ending.UNREACHABLE if self._failed else Ending.NO_BACKEND
        self._service.unserved(ending)
        self.ended(ending)
        return ending

    def ended(self, ending: Ending) -> None:
        """The session is over. Only the first call counts."""
        if self.ended_as is not None:
            return
        self.ended_as = ending
        service = self._service
        if service.trace:
            self._trace_end()
        if self.waited:
            service.waiting.leave(self)
        if self.backend is not None:
            if self.backend.refusals or service.first_byte is not None:
                self._tell_service(self.backend)
            self._release()
        service.endings[ending] += 1
        service.up += self.up
        service.down += self.down
        self.link = NO_LINK  # session and link refer to each other: break the cycle

    def _tell_service(self, backend: Backend) -> None:
        """What the session, which is over, says of its back-end's service."""
        service = self._service
        if self.connected_at is None:
            return
        if backend.refusals and (self.down or service.seconds() - self.connected_at > EARLY_S):
            service.publish(service.pool.served(backend))
        if service.first_byte is not None:
            service.first_byte.ended(self, backend)

    def _release(self) -> None:
        backend, service = self.backend, self._service
        assert backend is not None
        self.backend = None
        events = service.pool.closed(backend, was_connected=self.connected_at is not None)
        if events:
            service.publish(events)

    def _trace_end(self) -> None:
        now = self._service.seconds()
        self._service.log.debug(
            "session {client} -> {backend}: {ending} after {seconds:.3f} s, {up} bytes up, {down} bytes down, "
            "{tries} tries",
            client=self.link.client_address(),
            backend=self.backend.name if self.backend else "nobody",
            ending=self.ended_as,
            seconds=now - self.started_at,
            up=self.up,
            down=self.down,
            tries=len(self._failed) + (self.backend is not None),
        )
