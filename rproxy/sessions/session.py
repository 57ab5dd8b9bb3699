"""One client's session, whatever carries its bytes: choose, connect, redispatch, account.

A carrier opens a session for every client it accepts, asks it where to connect to, and tells it how that went. All
of it is plain calls on memory: no Deferred, no timer of its own, and no text unless somebody reads it.
"""

from __future__ import annotations

import errno
import math
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rproxy.net.addresses import Address
from rproxy.policies.formula import score
from rproxy.pool.backend import Backend
from rproxy.pool.events import Transition
from rproxy.pool.policy import Policy
from rproxy.pool.table import Table
from rproxy.sessions.first_byte import FirstByte
from rproxy.sessions.turned_away import TurnedAway
from rproxy.sessions.wait_queue import WaitQueue

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


class Balancer:
    """The scoring service: opens sessions, and keeps table and policy told of them.

    `clock` is monotonic; `announce` is told of a back-end that failed connects have taken down, or that has gone with
    its last session. Clients wait for one for up to `wait_s` seconds. One of which no new session gets a byte for
    `first_byte_s` goes down, unless that is 0. With `trace` every choice logs the scores of the whole table, and every
    end its session.
    """

    log = Logger()

    def __init__(
        self,
        table: Table,
        policy: Policy,
        clock: IReactorTime,
        *,
        saturation: float | None = None,
        announce: Callable[[Transition], None] = lambda transition: None,
        wait_s: float = 0.0,
        redispatch: Redispatch = Redispatch.ALL,
        first_byte_s: float = 0.0,
        trace: bool = False,
    ) -> None:
        self.table = table
        self.announce = announce
        self.policy = policy
        self.seconds = clock.seconds
        self.may_meet_itself: Callable[[Address], bool] = lambda service: False
        """Whether a connect to it may be connected to itself: to a port here that is free, and is chosen for it."""
        self.waiting = WaitQueue(clock, table, wait_s)
        self.redispatch = redispatch
        self.first_byte = FirstByte(clock, table, first_byte_s, self._mute) if first_byte_s else None
        self.saturation = saturation
        self.trace = trace
        self.endings: Counter[Ending] = Counter()
        self.redispatches = 0
        self.up = 0
        self.down = 0
        """Bytes that the sessions now over carried from clients, and to them."""
        self.reader_s = math.inf
        """How long a client that does not read may keep a connection from which all has come for it."""
        self._turned_away = TurnedAway(clock, table)

    def open(self, client: object) -> Session:
        """A session for `client`, whose text is asked for only by a trace."""
        return Session(self, client, self.seconds())

    def score(self, backend: Backend) -> float:
        """The report's score of a back-end now, whichever policy is in use."""
        return score(
            rtt_ms=backend.rtt.last_ms or 0.0,
            tcp=backend.tcp,
            loss=backend.losses.rate,
            cpu=backend.cpu,
            memory=backend.memory,
            saturation=self.saturation,
        )

    def trace_choice(self, client: object, chosen: Backend | None) -> None:
        for backend in self.table:
            if backend.eligible:
                self.log.debug(
                    "{backend} score {score:.3f} RTT {rtt_ms:.3f} ms TCP {tcp} CPU {cpu} % memory {memory} % "
                    "loss {loss:.2f}",
                    backend=backend.name,
                    score=self.score(backend),
                    rtt_ms=backend.rtt.last_ms,
                    tcp=_told(backend.tcp, backend.report.tcp),
                    cpu=_told(backend.cpu, backend.report.cpu),
                    memory=_told(backend.memory, backend.report.memory),
                    loss=backend.losses.rate,
                )
        self.log.debug("client {client} -> {backend}", client=client, backend=chosen.name if chosen else "nobody")

    def blame(self, backend: Backend) -> None:
        """A connect failed, and not by this host's fault."""
        self.policy.failed(backend)
        self._announce(self.table.refused(backend, self.seconds()))

    def _mute(self, backend: Backend, sessions: int, silent_s: float) -> None:
        self.policy.failed(backend)
        self._announce(self.table.mute(backend, sessions, silent_s, self.seconds()))

    def _announce(self, transition: Transition | None) -> None:
        if transition is not None:
            self.announce(transition)

    def unserved(self, ending: Ending) -> None:
        """A client is being turned away."""
        self._turned_away.add(_UNSERVED[ending])

    def start(self, counts: Callable[[Session], tuple[int, int]]) -> None:
        """`counts` is the carrier's."""
        if self.first_byte is not None:
            self.first_byte.start(counts)

    def let_go(self) -> None:
        """The proxy stops: nobody waits for a back-end any more."""
        self.waiting.stop()

    def stop(self) -> None:
        """All sessions are over."""
        self.waiting.stop()
        self._turned_away.stop()
        if self.first_byte is not None:
            self.first_byte.stop()


def _told(used: float, reported: int | None) -> object:
    """A figure, and if its agent cannot tell, that it only stands in for that."""
    return used if reported is not None else f"unknown, taken for {used:.1f},"


_UNSERVED: Final = {
    Ending.NO_BACKEND: "no back-end is up",
    Ending.UNREACHABLE: "no back-end could be connected to",
}


class Session:
    """One client, and the back-end it holds: `next` takes one, `failed` and `ended` give it back."""

    __slots__ = (
        "_balancer",
        "_failed",
        "backend",
        "client",
        "connected_at",
        "down",
        "early",
        "ended_as",
        "greeted",
        "half_closed",
        "quiet",
        "seen",
        "started_at",
        "up",
        "waited",
    )

    def __init__(self, balancer: Balancer, client: object, now: float) -> None:
        self._balancer = balancer
        self._failed: tuple[Backend, ...] = ()
        self.client = client
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
        self.started_at = self._balancer.seconds()

    def next(self) -> Backend | None:
        """The back-end to connect to now, or None when there is none to try, or no more tries or time are left."""
        balancer, failed = self._balancer, self._failed
        if failed and (len(failed) >= TRIES_MAX or self._left_s() <= 0):
            return None
        if balancer.waiting.queue and not failed and not self.waited:
            return None
        backend = balancer.policy.choose(balancer.table, failed)
        if balancer.trace:
            balancer.trace_choice(self.client, backend)
        if backend is None:
            return None
        if failed:
            balancer.redispatches += 1
        self.backend = backend
        balancer.table.opened(backend)
        balancer.policy.opened(backend)
        return backend

    def wait(self, call: Callable[[], None]) -> bool:
        """After `next` returned None: whether `call` will be called, when there is a back-end or no more time.

        That time does not count for its tries. A client waits once.
        """
        if self.waited:
            return False
        began = self._balancer.seconds()

        def served() -> None:
            self.started_at += self._balancer.seconds() - began
            call()

        self.waited = self._balancer.waiting.add(self, served)
        return self.waited

    def patience_s(self) -> float:
        """How long the present try to connect may take, in seconds."""
        return self.connect_by() - self._balancer.seconds()

    def connect_by(self) -> float:
        """When the present try to connect ends, on the balancer's clock."""
        if not self._failed:
            return self.started_at + CONNECT_TIMEOUT_S
        return min(self._balancer.seconds() + CONNECT_TIMEOUT_S, self.started_at + CONNECT_TOTAL_S)

    def _left_s(self) -> float:
        return self.started_at + CONNECT_TOTAL_S - self._balancer.seconds()

    @property
    def is_connected(self) -> bool:
        """Has its back-end, and is not over."""
        return self.connected_at is not None and self.ended_as is None

    def connected(self) -> None:
        assert self.backend is not None
        balancer = self._balancer
        self.connected_at = balancer.seconds()
        balancer.table.connected(self.backend)
        if balancer.first_byte is not None:
            balancer.first_byte.connected(self)

    def grown(self) -> None:
        """`EARLY_S` after the connect, or later: its end will not be a failed connect any more."""
        self.early = b""
        if self.backend is not None:
            self._balancer.table.served(self.backend)

    def ended_early(self, sent: int, *, reset: bool) -> bool:
        """Its back-end has ended the connection before any byte. Whether that was a failed connect and another
        back-end may be tried, so that `next` is to be asked; else the client gets the end as what it was.

        `sent` is how many bytes came from the client: nothing of it may be lost. To a client that has ended, too, a
        clean end is an answer, and to one that has not said a word, as a port check, any. Where there is no other
        back-end, it is no evidence: then the service may well be so.
        """
        balancer, backend = self._balancer, self.backend
        if self.connected_at is None or backend is None or balancer.redispatch is Redispatch.OFF:
            return False
        if self.half_closed and not reset:
            balancer.table.served(backend)
            return False
        if self.half_closed and not sent:
            return False
        if balancer.seconds() - self.connected_at > EARLY_S or not sent == len(self.early) <= EARLY_MAX:
            return False
        tried = (*self._failed, backend)
        if balancer.policy.choose(balancer.table, tried) is None:
            return False
        if len(tried) >= TRIES_MAX or self._left_s() <= 0 or (sent and balancer.redispatch is Redispatch.UNSENT):
            balancer.blame(backend)
            return False
        self.failed()
        self.connected_at = None
        if balancer.first_byte is not None:
            balancer.first_byte.left(self, backend)
        return True

    def half_close(self) -> None:
        """One side, and only one, has ended its stream."""
        self.half_closed = True
        self.quiet = 0

    def failed(self, *, blame: bool = True) -> None:
        """The connect failed; `blame` is whether the back-end, not this host, is the cause."""
        assert self.backend is not None
        if blame:
            self._balancer.blame(self.backend)
        self._failed += (self.backend,)
        self._release()

    def give_up(self) -> Ending:
        """After `next` returned None: ends the session, and says why."""
        ending = Ending.UNREACHABLE if self._failed else Ending.NO_BACKEND
        self._balancer.unserved(ending)
        self.ended(ending)
        return ending

    def ended(self, ending: Ending) -> None:
        """The session is over. Only the first call counts."""
        if self.ended_as is not None:
            return
        self.ended_as = ending
        balancer = self._balancer
        if balancer.trace:
            self._trace_end()
        if self.waited:
            balancer.waiting.leave(self)
        if self.backend is not None:
            if self.backend.refusals or balancer.first_byte is not None:
                self._tell_service(self.backend)
            self._release()
        balancer.endings[ending] += 1
        balancer.up += self.up
        balancer.down += self.down

    def _tell_service(self, backend: Backend) -> None:
        """What the session, which is over, says of its back-end's service."""
        balancer = self._balancer
        if self.connected_at is None:
            return
        if backend.refusals and (self.down or balancer.seconds() - self.connected_at > EARLY_S):
            balancer.table.served(backend)
        if balancer.first_byte is not None:
            balancer.first_byte.ended(self, backend)

    def _release(self) -> None:
        backend, balancer = self.backend, self._balancer
        assert backend is not None
        self.backend = None
        transition = balancer.table.closed(backend, was_connected=self.connected_at is not None)
        balancer.policy.closed(backend)
        if transition is not None:
            balancer.announce(transition)

    def _trace_end(self) -> None:
        now = self._balancer.seconds()
        self._balancer.log.debug(
            "session {client} -> {backend}: {ending} after {seconds:.3f} s, {up} bytes up, {down} bytes down, "
            "{tries} tries",
            client=self.client,
            backend=self.backend.name if self.backend else "nobody",
            ending=self.ended_as,
            seconds=now - self.started_at,
            up=self.up,
            down=self.down,
            tries=len(self._failed) + (self.backend is not None),
        )
