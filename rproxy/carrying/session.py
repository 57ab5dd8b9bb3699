"""One client's session, whatever carries its bytes: choose, connect, redispatch, account.

A carrier opens a session for every client it accepts, asks it where to connect to, and tells it how that went. All
of it is plain calls on memory: no Deferred, no timer, and no text unless somebody reads it.
"""

from __future__ import annotations

import errno
import math
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from twisted.logger import Logger

from rproxy.pool.backend import Backend
from rproxy.pool.events import Transition
from rproxy.pool.table import Table
from rproxy.scoring.formula import score
from rproxy.scoring.policies import Policy

TRIES_MAX: Final = 3
UNPRIVILEGED: Final = 1024
"""The first port that the kernel may choose to connect from."""
CONNECT_TIMEOUT_S: Final = 2.0
CONNECT_TOTAL_S: Final = 4.8
"""A client waits at most 5 s: this, and the ticks by which a deadline may be late."""
FLUSH_CLIENT_S: Final = 30.0
FLUSH_BACKEND_S: Final = 0.2
"""How long bytes already read may take to reach a side whose peer was reset, before it is reset too."""
LOCAL_ERRORS: Final = frozenset(
    {errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EACCES, errno.EPERM}
)
"""Connect errors of this host's own: no fault of the back-end."""
_LOG_EVERY_S: Final = 10.0


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


class Balancer:
    """The scoring service: opens sessions, and keeps table and policy told of them.

    `seconds` is a monotonic clock; `announce` is told of a back-end that failed connects have taken down, or
    that has gone with its last session. With
    `trace` every choice logs the scores of the whole table, and every end its session.
    """

    log = Logger()

    def __init__(
        self,
        table: Table,
        policy: Policy,
        seconds: Callable[[], float],
        *,
        saturation: float | None = None,
        announce: Callable[[Transition], None] = lambda transition: None,
        trace: bool = False,
    ) -> None:
        self.table = table
        self.announce = announce
        self.policy = policy
        self.seconds = seconds
        self.is_local: Callable[[str], bool] = lambda host: False
        """Whether an address is one of this host's."""
        self.saturation = saturation
        self.trace = trace
        self.endings: Counter[Ending] = Counter()
        self.redispatches = 0
        self.up = 0
        self.down = 0
        """Bytes that the sessions now over carried from clients, and to them."""
        self.reader_s = math.inf
        """How long a client that does not read may keep a connection from which all has come for it."""
        self._policy_failed = float("-inf")
        self._unserved = 0
        self._unserved_logged = float("-inf")

    def may_meet_itself(self, backend: Backend) -> bool:
        """Whether a connect to it may be connected to itself: to a port here that is free, and is chosen for it."""
        return backend.port >= UNPRIVILEGED and self.is_local(backend.address)

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
        try:
            self.policy.failed(backend)
        except Exception:
            self.policy_failed()
        transition = self.table.refused(backend, self.seconds())
        if transition is not None:
            self.announce(transition)

    def policy_failed(self) -> None:
        """A policy raised an exception, as somebody's own may: the session goes on without it."""
        now = self.seconds()
        if now - self._policy_failed >= _LOG_EVERY_S:
            self._policy_failed = now
            self.log.failure("the policy failed; further failures in the next seconds are not logged")

    def unserved(self, ending: Ending) -> None:
        """Clients are being turned away: one line in ten seconds says how many."""
        self._unserved += 1
        now = self.seconds()
        if now - self._unserved_logged >= _LOG_EVERY_S:
            self.log.warn(
                "{count} client(s) turned away: {reason}; {eligible} of {known} back-ends may be used",
                count=self._unserved,
                reason=_UNSERVED[ending],
                eligible=len(self.table.eligible),
                known=len(self.table),
            )
            self._unserved_logged = now
            self._unserved = 0


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
        "ended_as",
        "half_closed",
        "quiet",
        "seen",
        "started_at",
        "up",
    )

    def __init__(self, balancer: Balancer, client: object, now: float) -> None:
        self._balancer = balancer
        self._failed: tuple[Backend, ...] = ()
        self.client = client
        self.backend: Backend | None = None
        self.started_at = now
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

    def begin(self) -> None:
        """The client is ready for its back-end, later than it was accepted: its patience starts now."""
        self.started_at = self._balancer.seconds()

    def next(self) -> Backend | None:
        """The back-end to connect to now, or None when there is none to try, or no more tries or time are left."""
        balancer, failed = self._balancer, self._failed
        if failed and (len(failed) >= TRIES_MAX or self._left_s() <= 0):
            return None
        try:
            backend = balancer.policy.choose(balancer.table, failed)
        except Exception:
            balancer.policy_failed()
            backend = None
        if balancer.trace:
            balancer.trace_choice(self.client, backend)
        if backend is None:
            return None
        if failed:
            balancer.redispatches += 1
        self.backend = backend
        balancer.table.opened(backend)
        try:
            balancer.policy.opened(backend)
        except Exception:
            balancer.policy_failed()
        return backend

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
        self.connected_at = self._balancer.seconds()
        self._balancer.table.connected(self.backend)

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
        if self.backend is not None:
            self._release()
        balancer.endings[ending] += 1
        balancer.up += self.up
        balancer.down += self.down

    def _release(self) -> None:
        backend, balancer = self.backend, self._balancer
        assert backend is not None
        self.backend = None
        transition = balancer.table.closed(backend, was_connected=self.connected_at is not None)
        try:
            balancer.policy.closed(backend)
        except Exception:
            balancer.policy_failed()
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
