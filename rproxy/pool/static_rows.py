"""Back-ends without an agent, which the configuration names: what checks of them find, and what their agent-checks say.

A check is to such a back-end what a probe is to one with an agent: states, thresholds, hold-down and slow start are the
same.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

import attrs

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend, Registration, Static, StaticTerms
from rproxy.pool.estimators import RTT_MEAN_GAIN, Report, SmoothedRtt
from rproxy.pool.events import NOTHING, AgentCheckChanged, Checked, Events
from rproxy.pool.health import FALL, RISE, miss, rises
from rproxy.pool.registrations import Registrations
from rproxy.pool.rows import Rows
from rproxy.pool.states import Event, Override, State
from rproxy.wire.agent_check import READY, UP, Reply

_UNTRIED: Final = "it is not checked"
"""Why a back-end without checks comes up: at the start, and after its hold-down."""
_WEIGHT_MIN: Final = 1
"""Of a registration: one whose weight is 0 drains."""


@attrs.define(eq=False)
class StaticRows:
    """The pool's rows without an agent. The callables are the pool's own: what has changed passes through them."""

    _rows: Rows
    _registrations: Registrations
    _propagate: Callable[[Events, float], Events]
    _reported: Callable[[Backend, float], Events]
    _failed: Callable[[Backend, float], None]

    def put(self, key: Address, terms: StaticTerms, now: float) -> Events:
        """Add a back-end, or give one that is there other terms; with another `check`, what was said of it is void.

        One that an agent has registered is replaced: the agent's registrations are refused from now on. It gets no
        client until a check has been answered.
        """
        events = NOTHING
        backend = self._rows.get(key)
        if backend is not None and (backend.has_agent or backend.state is State.DEPARTED):
            events = self._propagate(self._registrations.exclude(backend, "replaced by a static one", now), now)
            backend = self._rows.get(key)
        if backend is None:
            backend = self._rows.add(key, _registration(key, terms.weight), Static(terms))
            backend.probing.asked_at = inf
        elif backend.state is State.DEPARTED:
            backend.static, backend.registration = Static(terms), _registration(key, terms.weight)
            backend.report, backend.rtt, backend.answered_at = Report(), SmoothedRtt(), None
            backend.probing.asked_at = inf
            events += self._transition(backend, Event.ADDED, now, "configured")
        elif backend.static is not None and terms != backend.static.configured:
            if terms.check == backend.static.configured.check:
                backend.static.configured = terms
            else:
                backend.static = Static(terms)
            events += self._settle(backend, backend.static, now)
        return events

    def remove(self, backend: Backend, reason: str, now: float) -> Events:
        """Remove a back-end; while sessions are on it, it drains."""
        if backend.has_agent or backend.state in (State.DEPARTED, State.FORGOTTEN):
            return NOTHING
        return self._transition(backend, Event.UNREGISTERED, now, reason)

    def checked(
        self, backend: Backend, now: float, failure: str = "", *, rtt_ms: float | None = None, refused: bool = False
    ) -> Events:
        """A check has ended: `failure` says why it failed, in a few words; `refused` is whether the host did answer.

        `rtt_ms` is how long a connect took that succeeded; None where none was tried. The first event is its `Checked`.
        Nothing changes if the back-end has been removed, or has an agent by now.
        """
        static = backend.static
        if static is None or backend.state in (State.DEPARTED, State.FORGOTTEN):
            return NOTHING
        event, reason = self._miss(backend, now, failure) if failure else self._answer(backend, now, rtt_ms)
        refused_before, static.refuses = static.refuses, refused and bool(failure)
        backend.losses.rate = backend.means.loss  # checks are too few to tell of single packets
        events: Events = (Checked(backend, failure),)
        if event is not None:
            events += self._rows.transition(backend, event, now, reason)
        elif static.refuses is not refused_before:
            events += self._rows.update(backend)
        if failure and backend.is_up:
            self._failed(backend, now)
        else:
            events += self._reported(backend, now)
        return self._propagate(events, now)

    def _answer(self, backend: Backend, now: float, rtt_ms: float | None) -> tuple[Event | None, str]:
        health = backend.health
        health.misses = 0
        health.answers += 1
        backend.report.counted = backend.counts.established
        risen = self._may_rise(backend, now)
        if rtt_ms is not None:
            means = backend.means
            means.rtt_ms += (rtt_ms - means.rtt_ms) * RTT_MEAN_GAIN if means.rtt_ms else rtt_ms
            backend.answered_at = now
            backend.rtt.add(rtt_ms, now)
        if risen:
            return Event.RISEN, _UNTRIED if rtt_ms is None else f"passed {RISE} checks in a row"
        event = None if backend.state is State.UP else Event.ANSWERED
        return event, _UNTRIED if rtt_ms is None else "passed a check"

    def _miss(self, backend: Backend, now: float, failure: str) -> tuple[Event | None, str]:
        event, misses = miss(backend, now), backend.health.misses
        reason = f"{misses} check{'s' if misses > 1 else ''} in a row failed: {failure}"
        if backend.state is not State.REGISTERED:
            return event, reason
        return (Event.FALLEN if misses >= FALL else None), reason

    def _may_rise(self, backend: Backend, now: float) -> bool:
        static = backend.static
        return backend.state is State.DOWN and static is not None and not static.stopped and rises(backend, now)

    def said(self, backend: Backend, reply: Reply, now: float) -> Events:
        """The back-end's agent-check has said something. What it does not mention stays as it was.

        ``up`` brings a back-end that was said to be down up at once if its checks pass.
        """
        static = backend.static
        if static is None or backend.state in (State.DEPARTED, State.FORGOTTEN):
            return NOTHING
        before, weight = static.orders, static.weight
        if reply.administration is not None:
            static.mode = reply.administration
        if reply.weight is not None:
            static.said_weight = reply.weight
        if reply.max_connections is not None:
            static.said_max_connections = reply.max_connections
        if reply.health == UP:
            static.stopped = ""
        elif reply.health is not None:
            static.stopped = f"{reply.health} ({reply.description})" if reply.description else reply.health
        if static.orders == before:
            return NOTHING if static.weight == weight else self._settle(backend, static, now)
        return (AgentCheckChanged(backend), *self._settle(backend, static, now))

    def _settle(self, backend: Backend, static: Static, now: float) -> Events:
        """Its terms, or what its agent-check says, have changed."""
        weight = static.weight
        backend.draining = drains(static, backend.override)
        backend.registration = attrs.evolve(backend.registration, weight=max(weight, _WEIGHT_MIN))
        if static.stopped:
            events = self._rows.transition(backend, Event.STOPPED, now, f"its agent-check says {static.stopped}")
        elif self._may_rise(backend, now):
            events = self._rows.transition(backend, Event.RISEN, now, "no longer said to be down")
        else:
            events = self._rows.update(backend)
        return self._propagate(events + self._reported(backend, now), now)

    def _transition(self, backend: Backend, event: Event, now: float, reason: str) -> Events:
        return self._propagate(self._rows.transition(backend, event, now, reason), now)


def drains(static: Static, override: Override) -> bool:
    """Whether a back-end without an agent is to get no clients. A weight of 0 counts unless an operator sets one."""
    return static.mode != READY or (static.weight == 0 and override.weight is None)


def _registration(key: Address, weight: int) -> Registration:
    """In place of an agent's: port 0 is nobody's."""
    return Registration((key[0], 0), instance=0, interval_s=0.0, weight=weight)
