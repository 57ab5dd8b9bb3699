"""Thresholds and timeouts of state changes: lost probes, failed connects, silence, hold-down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rproxy.pool.backend import Backend
from rproxy.pool.estimators import LossWindow
from rproxy.pool.states import Event, State

FALL: Final = 3
"""Probes lost, or checks failed, in a row that take a back-end down."""
URGENT: Final = 2
"""Probes on demand lost in a row after which the next periodic probe does not wait."""
RISE: Final = 2
"""Probes or checks answered in a row that bring it up again."""
REFUSALS: Final = 3
"""Connects failed in a row that take a back-end down."""
HOLD_MIN_S: Final = 10.0
HOLD_MAX_S: Final = 300.0
"""A back-end stays down for at least `HOLD_MIN_S`, and twice as long each time, until it has been up for this long."""
FORGET_INTERVALS: Final = 3
"""Registration intervals without an answered probe after which a back-end that is down is forgotten."""
FORGET_MAX_S: Final = 3600.0
STALE_INTERVALS: Final = 10
"""Registration intervals without a registration after which even a back-end that is up is forgotten: another agent
answers its probes.
"""
SLOW_START_S: Final = 10.0
SLOW_START_STEP_S: Final = 1.0
"""How often slow start raises the share of a back-end, counted from when it came up."""

LastedS = Callable[[float], float]
"""Seconds since a moment, without those in which this process was stalled."""


def hold_down(backend: Backend, connects: int, now: float) -> None:
    """Begin its hold-down: twice as long as the last one, unless it has been up for `HOLD_MAX_S` since.

    Do not double while no connect to any back-end succeeds: the fault is likely ours. `connects` is how many have
    succeeded so far, to any back-end.
    """
    health = backend.health
    steady = now - max(health.up_since, health.held_until) >= HOLD_MAX_S
    if steady or not health.hold_s:
        health.hold_s = HOLD_MIN_S
    elif not health.refusing or connects > health.connects_then:
        health.hold_s = min(2 * health.hold_s, HOLD_MAX_S)
    health.connects_then = connects
    health.held_until = now + health.hold_s
    health.answers = 0


def is_silent(backend: Backend) -> bool:
    """Whether a back-end that is down leaves probes, or checks, unanswered.

    If failed connects took it down, it may still answer them. If its host has vanished, connects may fail first. One
    that refuses checks, or says that it is down, may still serve the sessions that it has.
    """
    if backend.static is not None:
        return backend.health.misses >= FALL and not backend.static.refuses
    return not backend.health.refusing or backend.health.misses >= FALL


def miss(backend: Backend, now: float) -> Event:
    """Count a probe that was lost, or a check that failed; returns the event that it is."""
    health = backend.health
    health.misses += 1
    health.answers = 0
    if health.refusing and now >= health.held_until:
        health.refusing = False
    return Event.FALLEN if backend.state is State.SUSPECT and health.misses >= FALL else Event.MISSED


def rises(backend: Backend, now: float) -> bool:
    """Whether enough probes or checks have been answered to bring up a back-end that is down."""
    return backend.health.answers >= RISE and now >= backend.health.held_until


def reset(backend: Backend) -> None:
    """Reset a departed back-end: an agent that takes it over inherits only its sessions, counts and hold-down."""
    backend.losses = LossWindow()
    health = backend.health
    health.misses = health.answers = health.lost_on_demand = health.refusals = 0
    health.refusing = backend.draining = False


def share_after(lasted_s: float, slow_start_s: float) -> float:
    """The fraction of its weight, `lasted_s` seconds after it came up.

    In tenths, so that back-ends that start together have equal shares and take turns.
    """
    tenths = round(10 * lasted_s / slow_start_s) if lasted_s < slow_start_s else 10
    return max(tenths, 1) / 10


def overdue(backend: Backend, liveness_s: float, lasted_s: LastedS, now: float) -> tuple[Event, str] | None:
    """The event that a back-end's silence has caused by now, and the reason for the log; None if none."""
    if backend.static is not None or backend.state is State.FORGOTTEN or backend.state is State.DEPARTED:
        return None
    if backend.state is State.REGISTERED:
        return None if backend.awaited else (Event.SILENT, "never answered a probe")
    assert backend.answered_at is not None
    if not backend.is_up:
        patience_s = min(backend.intervals_s(FORGET_INTERVALS), FORGET_MAX_S)
        return _expired("no probe answered", backend.answered_at, patience_s, lasted_s, now)
    if now - backend.answered_at > liveness_s and (silent_s := lasted_s(backend.answered_at)) > liveness_s:
        return Event.SILENT, f"silent for {silent_s:.1f} s"
    # an agent restarted for another service still answers, but does not register this one any more
    return _expired("not registered again", backend.registered_at, backend.intervals_s(STALE_INTERVALS), lasted_s, now)


def _expired(what: str, since: float, patience_s: float, lasted_s: LastedS, now: float) -> tuple[Event, str] | None:
    if now - since < patience_s or (silent_s := lasted_s(since)) < patience_s:
        return None
    return Event.EXPIRED, f"{what} for {silent_s:.0f} s"
