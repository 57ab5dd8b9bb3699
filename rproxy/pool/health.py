"""What probes, connects and silence make of one back-end: how many are enough, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rproxy.pool.backend import Backend
from rproxy.pool.estimators import LossWindow
from rproxy.pool.states import Event, State

FALL: Final = 3
"""Probes lost in a row that take a back-end down."""
RISE: Final = 2
"""Probes answered in a row that bring it up again."""
REFUSALS: Final = 3
"""Connects failed in a row that take a back-end down."""
HOLD_MIN_S: Final = 10.0
HOLD_MAX_S: Final = 300.0
"""How long a back-end stays down at least: twice as long each time, until it has been up for this long."""
FORGET_INTERVALS: Final = 3
"""Registration intervals in which no probe was answered: it has gone."""
FORGET_MAX_S: Final = 3600.0
STALE_INTERVALS: Final = 10
"""Registration intervals after which even one that is up is no back-end any more: whoever answers is another."""

LastedS = Callable[[float], float]
"""How long, in seconds, this process has been there to hear anything since a moment."""


def hold_down(backend: Backend, connects: int, now: float) -> None:
    """It fails: it stays down at least twice as long as the last time, unless that is long past.

    As long as then where connects fail and none has succeeded since, to whomever: then that is not its own fault.
    `connects` is how many have succeeded, to any back-end.
    """
    steady = now - max(backend.up_since, backend.held_until) >= HOLD_MAX_S
    if steady or not backend.hold_s:
        backend.hold_s = HOLD_MIN_S
    elif not backend.refusing or connects > backend.connects_then:
        backend.hold_s = min(2 * backend.hold_s, HOLD_MAX_S)
    backend.connects_then = connects
    backend.held_until = now + backend.hold_s
    backend.answers = 0


def begin_anew(backend: Backend) -> None:
    """It has departed: whoever takes it over begins anew, but for its sessions and their counts."""
    backend.losses = LossWindow()
    backend.misses = backend.answers = backend.refusals = 0
    backend.refusing = backend.draining = False


def share_after(lasted_s: float, slow_start_s: float) -> float:
    """Of its weight, so long after it came up: in tenths, so that back-ends that start together have equal shares and
    take turns.
    """
    tenths = round(10 * lasted_s / slow_start_s) if lasted_s < slow_start_s else 10
    return max(tenths, 1) / 10


def overdue(backend: Backend, liveness_s: float, lasted_s: LastedS, now: float) -> tuple[Event, str] | None:
    """What a back-end's silence has come to by now, and the reason in words; None if nothing."""
    if backend.state is State.FORGOTTEN or backend.state is State.DEPARTED:
        return None
    if backend.state is State.REGISTERED:
        return None if backend.awaited else (Event.SILENT, "never answered a probe")
    assert backend.answered_at is not None
    if not backend.is_up:
        patience_s = min(backend.intervals_s(FORGET_INTERVALS), FORGET_MAX_S)
        return _expired("no probe answered", backend.answered_at, patience_s, lasted_s, now)
    if now - backend.answered_at > liveness_s and (silent_s := lasted_s(backend.answered_at)) > liveness_s:
        return Event.SILENT, f"silent for {silent_s:.1f} s"
    # an agent that was started again for another service may answer, but does not register this one any more
    return _expired("not registered again", backend.registered_at, backend.intervals_s(STALE_INTERVALS), lasted_s, now)


def _expired(what: str, since: float, patience_s: float, lasted_s: LastedS, now: float) -> tuple[Event, str] | None:
    if now - since < patience_s or (silent_s := lasted_s(since)) < patience_s:
        return None
    return Event.EXPIRED, f"{what} for {silent_s:.0f} s"
