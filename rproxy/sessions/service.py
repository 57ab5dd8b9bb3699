"""What the clients of a listener get: a pool to be served from, and the terms on which they are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rproxy.net.addresses import Address
from rproxy.policies.formula import score
from rproxy.pool.backend import Backend
from rproxy.pool.pool import Events, Pool
from rproxy.sessions.endings import Ending
from rproxy.sessions.first_byte import FirstByte
from rproxy.sessions.redispatch import Redispatch
from rproxy.sessions.turned_away import TurnedAway
from rproxy.sessions.wait_queue import WaitQueue


class Service:
    """The scoring service: opens sessions on the back-ends of a pool.

    `clock` is monotonic; `publish` gets the events of the pool that sessions bring about. Clients wait for a back-end
    for up to `wait_s` seconds. One of which no new session gets a byte for
    `first_byte_s` goes down, unless that is 0. With `trace` every choice logs the scores of the whole table, and every
    end its session.
    """

    log = Logger()

    def __init__(
        self,
        pool: Pool,
        clock: IReactorTime,
        *,
        saturation: float | None = None,
        publish: Callable[[Events], None] = lambda events: None,
        wait_s: float = 0.0,
        redispatch: Redispatch = Redispatch.ALL,
        first_byte_s: float = 0.0,
        trace: bool = False,
    ) -> None:
        self.pool = pool
        self.publish = publish
        self.seconds = clock.seconds
        self.may_self_connect: Callable[[Address], bool] = lambda service: False
        """Whether a connect to it may be connected to itself: to a port here that is free, and is chosen for it."""
        self.wait_queue = WaitQueue(clock, pool, wait_s)
        self.redispatch = redispatch
        self.first_byte = FirstByte(clock, pool, first_byte_s, self._mute) if first_byte_s else None
        self.saturation = saturation
        self.trace = trace
        self.endings: Counter[Ending] = Counter()
        self.redispatches = 0
        self.up = 0
        self.down = 0
        """Bytes that the sessions now over carried from clients, and to them."""
        self.reader_timeout_s = math.inf
        """How long a client that does not read may keep a connection from which all has come for it."""
        self._turned_away = TurnedAway(clock, pool)

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

    def trace_choice(self, client: str, chosen: Backend | None) -> None:
        for backend in self.pool:
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

    def connect_failed(self, backend: Backend) -> None:
        """A connect to it failed, and not by this host's fault."""
        self.publish(self.pool.refused(backend, self.seconds()))

    def served(self, backend: Backend) -> None:
        """A session on it got a byte, or outlived `EARLY_END_S`."""
        self.publish(self.pool.served(backend))

    def trace_end(self, session: Any, ending: Ending) -> None:
        self.log.debug(
            "session {client} -> {backend}: {ending} after {seconds:.3f} s, {up} bytes up, {down} bytes down, "
            "{tries} tries",
            client=session.link.client_address(),
            backend=session.backend.name if session.backend else "nobody",
            ending=ending,
            seconds=self.seconds() - session.started_at - session.queue_s,
            up=session.up,
            down=session.down,
            tries=len(session._failed) + (session.backend is not None),
        )

    def _mute(self, backend: Backend, sessions: int, silent_s: float) -> None:
        self.publish(self.pool.mute(backend, sessions, silent_s, self.seconds()))

    def unserved(self, ending: Ending) -> None:
        """A client is being turned away."""
        self._turned_away.add(_UNSERVED[ending])

    def start(self) -> None:
        """Start the timers; to be called once, before the first client is accepted or soon after."""
        if self.first_byte is not None:
            self.first_byte.start()

    def stop_waiting(self) -> None:
        """The proxy stops: nobody waits for a back-end any more."""
        self.wait_queue.stop()

    def stop(self) -> None:
        """All sessions are over."""
        self.wait_queue.stop()
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
