"""`/status.json`: the table and the counters, for people and programs that watch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from rproxy.pool.backend import Backend
from rproxy.pool.states import State
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.service import Service
from rproxy.sources.agents.monitor import Counters

CONTENT_TYPE: Final = "application/json"
ROWS: Final = 25
"""Rendered in one go."""


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def backend_status(backend: Backend, score: float, now: float) -> dict[str, Any]:
    """One back-end. What it has not told yet is None; `tcp` is the live count; times in s or ms as named."""
    told = backend.answered_at is not None
    state = "draining" if backend.is_up and not backend.available else backend.state.value
    return {
        "address": backend.address,
        "port": backend.port,
        "state": state,
        "score": _rounded(score) if told else None,
        "rtt_ms": _rounded(backend.rtt.last_ms),
        "srtt_ms": _rounded(backend.rtt.average_ms),
        "loss": round(backend.losses.rate, 4),
        "tcp": None if backend.report.tcp is None else backend.tcp,
        "cpu": backend.report.cpu,
        "memory": backend.report.memory,
        "weight": backend.registration.weight,
        "share": round(backend.share, 2),
        "interval_s": backend.registration.interval_s,
        "connections": backend.connections,
        "total": backend.total,
        "last_seen_s": None if backend.answered_at is None else _rounded(now - backend.answered_at),
    }


def totals(service: Service, counters: Counters, capacity: Capacity) -> dict[str, Any]:
    """What `/status.json` tells besides the back-ends; `bytes` are those of the sessions that are over."""
    return {
        "panic": service.pool.panicking,
        "connections": {"now": capacity.sessions, "max": capacity.sessions_max},
        "counters": {
            "accepted": dict(counters.accepted),
            "dropped": dict(counters.dropped),
            "send_errors": dict(counters.send_errors),
            "sessions": {ending.value: count for ending, count in service.endings.items()},
            "redispatches": service.redispatches,
            "bytes": {"up": service.up, "down": service.down},
        },
    }


def rows(service: Service, backends: Iterable[Backend]) -> list[dict[str, Any]]:
    now = service.seconds()
    return [backend_status(backend, service.score(backend), now) for backend in backends]


def status(service: Service, counters: Counters, capacity: Capacity) -> dict[str, Any]:
    """The whole of `/status.json`."""
    return {"backends": rows(service, service.pool)} | totals(service, counters, capacity)


def rendered(service: Service, counters: Counters, capacity: Capacity) -> Iterator[bytes]:
    """`status` as JSON, a back-end a line, in pieces that take a fraction of a millisecond each.

    The table may change between two of them: who was in it at the first one is listed, unless forgotten since.
    """
    backends = list(service.pool)
    text, separator = '{"backends": [\n', ""
    for start in range(0, len(backends), ROWS):
        if start and text:
            yield text.encode()
            text = ""
        there = [backend for backend in backends[start : start + ROWS] if backend.state is not State.FORGOTTEN]
        for row in rows(service, there):
            text += separator + json.dumps(row)
            separator = ",\n"
    yield f"{text}\n], {json.dumps(totals(service, counters, capacity))[1:]}\n".encode()
