"""`/status.json`: the back-ends and the counters, for people and monitoring."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import isfinite, isinf
from typing import Any, Final

import attrs

from rproxy.observe.json_list import in_parts, json_list
from rproxy.observe.service_figures import UNSEEN, ServiceFigures
from rproxy.observe.session_counters import SessionCounters
from rproxy.pool.backend import Backend
from rproxy.pool.policy import NO_EXPLANATION, Explanation
from rproxy.pool.states import Administration, State
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.sessions.service import Service
from rproxy.sources.agents.counters import Counters

DRAINING: Final = "draining"
MAINT: Final = Administration.MAINT.value
SHOWN_STATES: Final = (*(state.value for state in State if state is not State.FORGOTTEN), DRAINING, MAINT)
"""The states of a back-end as operators see them."""
ROWS: Final = 25
"""Back-ends rendered in one go."""
AGES: Final = ("last_seen_s", "report_age", "since")
"""Of a row: times that grow while nothing else changes."""


@attrs.frozen
class ProcessFacts:
    """What does not change while the process runs."""

    version: str = ""
    started: float = 0.0
    """Unix time, in s."""
    pid: int = 0


@attrs.frozen
class Ended:
    """Totals over sessions that have ended, and clients that were refused."""

    endings: Counter[Ending] = attrs.Factory(Counter)
    refused: Counter[str] = attrs.Factory(Counter)
    redispatches: int = 0
    tls_connect_failures: int = 0
    up: int = 0
    """Bytes."""
    down: int = 0
    """Bytes."""

    def __add__(self, other: Ended) -> Ended:
        return Ended(
            self.endings + other.endings,
            self.refused + other.refused,
            self.redispatches + other.redispatches,
            self.tls_connect_failures + other.tls_connect_failures,
            self.up + other.up,
            self.down + other.down,
        )

    def document(self) -> dict[str, Any]:
        """As `/status.json` has it."""
        return {
            "sessions": {ending.value: count for ending, count in self.endings.items()},
            "refused": dict(self.refused),
            "redispatches": self.redispatches,
            "tls_connect_failures": self.tls_connect_failures,
            "bytes": {"up": self.up, "down": self.down},
        }


@attrs.frozen
class ServiceView:
    """A service and what is shown with it; `report_score` computes the report's score of a back-end."""

    service: Service
    counters: SessionCounters
    report_score: Callable[[Backend], float]
    figures: ServiceFigures = attrs.field()
    """They stay as they are unless they observe the service."""

    @figures.default
    def _make_figures(self) -> ServiceFigures:
        return ServiceFigures(self.service.seconds)

    def rows(self, backends: Iterable[Backend]) -> list[dict[str, Any]]:
        """The rows of these back-ends of the service."""
        now = self.service.seconds()
        return [self._row(backend, now) for backend in backends]

    def _row(self, backend: Backend, now: float) -> dict[str, Any]:
        explanation, score = NO_EXPLANATION, None
        if backend.state is not State.REGISTERED:
            explanation, score = self.service.pool.explain(backend, now), self.report_score(backend)
        figures = self.figures.backends.get(backend, UNSEEN)
        return {
            **backend_status(backend, explanation, score, now),
            "redispatched": figures.redispatched,
            "checks_failed": figures.failures,
            "downs": figures.downs,
            "down_s": round(figures.down_s, 3),
            "service": self.service.name,
        }

    def totals(self) -> dict[str, Any]:
        """Everything about the service but its rows."""
        service = self.service
        return {
            "name": service.name,
            "leaving": service.is_leaving,
            "panic": service.pool.panicking,
            "known": len(service.pool),
            "eligible": len(service.pool.eligible),
            "sessions": service.sessions,
            "full": service.pool.full,
            "waiting": service.wait_queue.waiting,
            "waiting_s": _rounded(service.wait_queue.longest_s()),
            "counters": self.ended().document(),
        }

    def ended(self) -> Ended:
        """Totals over its sessions that have ended."""
        counters, gate = self.counters, self.service.gate
        return Ended(
            counters.endings.copy(),
            Counter() if gate is None else Counter(gate.refused),
            counters.redispatches,
            self.service.tls_failures.with_backends,
            counters.up,
            counters.down,
        )


Part = tuple[ServiceView, Sequence[Backend]]
"""Some back-ends of a service."""


class Status:
    """The document, of all services together. `views` returns those of the present ones, `doubts` what looks wrong."""

    def __init__(
        self,
        views: Callable[[], Sequence[ServiceView]],
        datagrams: Counters,
        capacity: Capacity,
        process: ProcessFacts = ProcessFacts(),
        doubts: Callable[[], Sequence[dict[str, Any]]] = list,
    ) -> None:
        self.views = views
        self.process = process
        self.doubts = doubts
        self._past = Ended()
        self.datagrams = datagrams
        self.capacity = capacity

    def removed(self, view: ServiceView) -> None:
        """A service has gone, and `views` does not return it any more; the totals keep it."""
        self._past += view.ended()

    def ended(self) -> Ended:
        """Totals over all services, those that have gone included."""
        return sum((view.ended() for view in self.views()), self._past)

    def facts(self) -> dict[str, Any]:
        """Of the process: version, started (Unix time, in s), pid, sessions_max."""
        return {**attrs.asdict(self.process), "sessions_max": self.capacity.sessions_max}

    def document(self) -> dict[str, Any]:
        """The whole document."""
        return {"backends": [row for view in self.views() for row in view.rows(view.service.pool)]} | self._totals()

    def rendered(self) -> Iterator[bytes]:
        """The document as JSON, a back-end a line, in pieces that take a fraction of a millisecond each.

        Back-ends may change between two pieces: those listed are the ones at the first, except the forgotten.
        """
        return json_list(
            "backends", [part for each in self.views() for part in parts(each)], present_rows, self._totals
        )

    def _totals(self) -> dict[str, Any]:
        """Everything but the back-ends; `bytes` are those of the sessions that have ended."""
        views = self.views()
        return {
            **attrs.asdict(self.process),
            "services": [view.totals() for view in views],
            "doubts": self.doubts(),
            "panic": any(view.service.pool.panicking for view in views),
            "connections": {"now": self.capacity.sessions, "max": self.capacity.sessions_max},
            "counters": {
                "accepted": dict(self.datagrams.accepted),
                "dropped": dict(self.datagrams.dropped),
                "send_errors": dict(self.datagrams.send_errors),
                "probes": dict(self.datagrams.probes),
                **self.ended().document(),
            },
        }


def parts(view: ServiceView) -> Iterator[Part]:
    """The service's back-ends, `ROWS` at a time."""
    return ((view, some) for some in in_parts(list(view.service.pool), ROWS))


def present_rows(part: Part) -> list[dict[str, Any]]:
    """The rows of a part, without the back-ends that have been forgotten since."""
    view, backends = part
    return view.rows(backend for backend in backends if backend.state is not State.FORGOTTEN)


def backend_status(
    backend: Backend, explanation: Explanation, report_score: float | None, now: float
) -> dict[str, Any]:
    """One back-end. None for what it has not reported; `tcp` is the live count; times in s or ms as named."""
    static = backend.static
    return {
        "address": backend.address,
        "port": backend.port,
        "state": shown_state(backend),
        "passed_over": backend.passed_over or _failure(backend),
        "score": significant(explanation.value),
        "terms": {name: significant(term) for name, term in explanation.terms.items()},
        "report_score": _rounded(report_score),
        "rtt_ms": _rounded(backend.rtt.last_ms),
        "srtt_ms": _rounded(backend.rtt.average_ms),
        "loss": round(backend.losses.rate, 4) if static is None else None,
        "tcp": None if backend.report.tcp is None else backend.tcp,
        "cpu": backend.report.cpu,
        "memory": backend.report.memory,
        "load": backend.report.load,
        "others": backend.report.others,
        "administration": backend.administration.value,
        "weight": shown_weight(backend),
        "own_weight": _own_weight(backend),
        "share": round(backend.share, 2),
        "eligible": backend.eligible,
        "full": backend.usable and not backend.eligible,
        "since": _rounded(_in_state_s(backend, now)),
        "refusals": backend.health.refusals,
        "connect_errors": backend.health.refused,
        "interval_s": backend.registration.interval_s if static is None else None,
        "check": "agent" if static is None else static.configured.check,
        "said": "" if static is None else static.said,
        "connections": backend.connections,
        "max_connections": None if isinf(backend.limit) else int(backend.limit),
        "total": backend.counts.total,
        "bytes_up": backend.counts.bytes_up,
        "bytes_down": backend.counts.bytes_down,
        "report_age": _rounded(backend.report_age_s(now)),
        "last_seen_s": None if backend.answered_at is None else _rounded(now - backend.answered_at),
    }


def shown_state(backend: Backend) -> str:
    """One of `SHOWN_STATES`."""
    if backend.administration is Administration.MAINT and backend.state is not State.DEPARTED:
        return MAINT
    return DRAINING if backend.is_up and not backend.available else backend.state.value


def _in_state_s(backend: Backend, now: float) -> float | None:
    """Time in the state that is shown, in s; None for the first one. What an operator says is dated by the clock."""
    override = backend.override
    if override.since and shown_state(backend) in (MAINT, DRAINING):
        return max(0.0, time.time() - override.since)
    return None if backend.state_since is None else now - backend.state_since


def shown_weight(backend: Backend) -> int:
    """The weight in force, without slow start: an operator's, else its own."""
    return _own_weight(backend) if backend.override.weight is None else backend.override.weight


def _own_weight(backend: Backend) -> int:
    """The agent's, or the configuration's with what the agent-check says."""
    return backend.registration.weight if backend.static is None else backend.static.weight


def significant(value: float) -> float | None:
    """Rounded to six digits: a policy's values may have any size. None for what JSON has no number for."""
    return float(f"{value:.6g}") if isfinite(value) else None


def _failure(backend: Backend) -> str:
    """What it has just failed at, for which most policies put it last; empty for nothing."""
    if backend.state is State.SUSPECT:
        return "its last probe was lost"
    refusals = backend.health.refusals
    return f"connects failed in a row: {refusals}" if refusals and backend.is_up else ""


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
