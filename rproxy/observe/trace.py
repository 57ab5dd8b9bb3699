"""What --trace logs of sessions: every choice with what was compared of all eligible back-ends, and every end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from rproxy.pool.backend import Backend
from rproxy.pool.pool import Pool
from rproxy.sessions.endings import Ending
from rproxy.sessions.link import Link
from rproxy.sessions.record import SessionRecord

_REFUSED: Final = {Ending.NO_BACKEND, Ending.QUEUE_FULL, Ending.QUEUE_TIMEOUT}


class SessionTrace:
    """A `ChoiceObserver` and `SessionObserver` that logs. Its cost grows with the pool.

    Of each eligible back-end, a choice has two lines: the report's score with the figures that it is made of, and what
    the policy in use compares. `now` is the pool's clock, in s.
    """

    log = Logger()

    def __init__(self, pool: Pool, report_score: Callable[[Backend], float], now: Callable[[], float]) -> None:
        self._pool = pool
        self._report_score = report_score
        self._now = now

    def choosing(self, link: Link) -> None:
        now = self._now()
        for backend in self._pool:
            if backend.eligible:
                self._log_figures(backend)
                self._log_explanation(backend, now)

    def chosen(self, link: Link, backend: Backend | None) -> None:
        self.log.debug(
            "client {client} -> {backend}",
            client=link.client_address(),
            backend="nobody" if backend is None else backend.name,
        )

    def _log_figures(self, backend: Backend) -> None:
        self.log.debug(
            "{backend} score {score:.3f} RTT {rtt_ms:.3f} ms TCP {tcp} CPU {cpu} % memory {memory} % loss {loss:.2f}",
            backend=backend.name,
            score=self._report_score(backend),
            rtt_ms=backend.rtt.last_ms,
            tcp=_figure(backend.tcp, backend.report.tcp),
            cpu=_figure(backend.cpu, backend.report.cpu),
            memory=_figure(backend.memory, backend.report.memory),
            loss=backend.losses.rate,
        )

    def _log_explanation(self, backend: Backend, now: float) -> None:
        explanation = self._pool.explain(backend, now)
        self.log.debug(
            "{backend} is compared by {value:.6g}: {terms}",
            backend=backend.name,
            value=explanation.value,
            terms=", ".join(f"{name} {term:.6g}" for name, term in explanation.terms.items()) or "no terms",
        )

    def session_ended(self, record: SessionRecord) -> None:
        left_while_waiting = not record.tries and record.ending not in _REFUSED
        self.log.debug(
            "session {client} -> {backend}: {ending} after {seconds:.3f} s, {up} bytes up, {down} bytes down, "
            "{tries} tries",
            client=record.client,
            backend="nobody" if record.backend is None else record.backend.name,
            ending=record.ending,
            seconds=record.duration_s - (0.0 if left_while_waiting else record.queue_s),
            up=record.up,
            down=record.down,
            tries=record.tries,
        )


def _figure(used: float, reported: int | None) -> object:
    """A figure, or the default used where the agent does not report it."""
    return used if reported is not None else f"unknown, taken for {used:.1f},"
