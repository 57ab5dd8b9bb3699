"""`/status.json`: the table and the counters, for people and programs that watch."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.web.http import Request as HttpRequest
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from rproxy.carrying.room import Room
from rproxy.carrying.session import Balancer
from rproxy.monitoring.monitor import Counters
from rproxy.pool.backend import Backend


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


def status(balancer: Balancer, counters: Counters, room: Room) -> dict[str, Any]:
    """The whole of `/status.json`; `bytes` are those of the sessions that are over."""
    now = balancer.seconds()
    return {
        "backends": [backend_status(backend, balancer.score(backend), now) for backend in balancer.table],
        "panic": balancer.table.panicking,
        "connections": {"now": room.sessions, "max": room.sessions_max},
        "counters": {
            "accepted": dict(counters.accepted),
            "dropped": dict(counters.dropped),
            "send_errors": dict(counters.send_errors),
            "sessions": {ending.value: count for ending, count in balancer.endings.items()},
            "redispatches": balancer.redispatches,
            "bytes": {"up": balancer.up, "down": balancer.down},
        },
    }


class StatusResource(Resource):
    """Renders what `read` returns as JSON."""

    isLeaf = True

    def __init__(self, read: Callable[[], dict[str, Any]]) -> None:
        super().__init__()
        self._read = read

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"content-type", b"application/json")
        request.setHeader(b"cache-control", b"no-store")
        return json.dumps(self._read(), indent=1).encode() + b"\n"


class QuietSite(Site):
    """A site that does not log its requests."""

    noisy = False

    def log(self, request: HttpRequest) -> None:
        pass


def admin_site(read: Callable[[], dict[str, Any]]) -> Site:
    root = Resource()
    root.putChild(b"status.json", StatusResource(read))
    return QuietSite(root)
