"""The rows of the pool, and the one place where a back-end's state changes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

import attrs

from rproxy.net.addresses import Address
from rproxy.pool.admission import Admission
from rproxy.pool.backend import Backend, Registration, Static
from rproxy.pool.eligibility import Eligibility
from rproxy.pool.estimators import PoolMeans
from rproxy.pool.events import Events, Transitioned
from rproxy.pool.health import SLOW_START_STEP_S, hold_down, reset, share_after
from rproxy.pool.states import NO_OVERRIDE, Event, Override, State, after, is_lapse

_TOLERANCE_S: Final = 1e-9


@attrs.define(eq=False)
class Rows:
    """All back-ends by (address, service port), and the totals over all of them."""

    admission: Admission
    eligibility: Eligibility
    slow_start_s: float
    connects: int = attrs.field(init=False, default=0)
    """Connects that have succeeded, to any back-end."""
    ramping: OrderedDict[str, tuple[Backend, float]] = attrs.field(init=False, factory=OrderedDict)
    """By name, the back-ends whose share slow start limits, and when each gets its next one; the earliest first."""
    overrides: dict[Address, Override] = attrs.field(init=False, factory=dict)
    """What operators have set for back-ends, whether these have a row or not."""
    _by_key: dict[Address, Backend] = attrs.field(init=False, factory=dict)
    _means: PoolMeans = attrs.field(init=False, factory=PoolMeans)

    def __iter__(self) -> Iterator[Backend]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: Address) -> Backend | None:
        """The back-end of that address and service port, if there is one."""
        return self._by_key.get(key)

    def add(self, key: Address, registration: Registration, static: Static | None = None) -> Backend:
        """Add an unconfirmed back-end; with `static`, one without an agent."""
        backend = self._by_key[key] = Backend(*key, registration, means=self._means, static=static)
        backend.override = self.overrides.get(key, NO_OVERRIDE)
        _weigh(backend)
        self.admission.moved(backend.address, None, _limited(backend, backend.state))
        return backend

    def transition(self, backend: Backend, event: Event, now: float, reason: str) -> Events:
        """Apply `event` to a back-end's state, and update everything derived from it."""
        if event in (Event.UNREGISTERED, Event.EXPIRED) and backend.connections:
            event = Event.LEFT
        before = backend.state
        backend.state = after(before, event)
        if backend.state is before:
            return self.update(backend)
        self.admission.moved(backend.address, _limited(backend, before), _limited(backend, backend.state))
        self._entered(backend, before, now)
        return (Transitioned(backend, before, backend.state, event, reason), *self.update(backend))

    def _entered(self, backend: Backend, before: State, now: float) -> None:
        if not is_lapse(before, backend.state):
            backend.state_since = now
        match backend.state:
            case State.FORGOTTEN:
                del self._by_key[backend.address, backend.port]
                self.ramping.pop(backend.name, None)
            case State.DEPARTED:
                reset(backend)
                self.ramping.pop(backend.name, None)
            case State.DOWN:
                if backend.static is None or not backend.static.stopped:
                    hold_down(backend, self.connects, now)
                self.ramping.pop(backend.name, None)
            case State.UP if before is not State.SUSPECT:
                backend.health.refusing = False
                self.start_slowly(backend, now)

    def start_slowly(self, backend: Backend, now: float) -> None:
        """Begin its slow start: it gets clients again, and may have been restarted meanwhile."""
        backend.health.up_since = now
        self.ramping.pop(backend.name, None)
        self._ramp(backend, now, now + SLOW_START_STEP_S)

    def next_ramped(self, now: float) -> Backend | None:
        """Set the share of a back-end that is due for its next one by now; None once none is."""
        if not self.ramping:
            return None
        backend, due = next(iter(self.ramping.values()))
        if due - now > _TOLERANCE_S:
            return None
        del self.ramping[backend.name]
        self._ramp(backend, now, due + SLOW_START_STEP_S)
        return backend

    def _ramp(self, backend: Backend, now: float, due: float) -> None:
        """Set the share that slow start grants by now to a back-end that is up; the next one is `due` then."""
        backend.share = share_after(now - backend.health.up_since, self.slow_start_s)
        if backend.share < 1:
            self.ramping[backend.name] = backend, due

    def update(self, backend: Backend) -> Events:
        """The back-end's state, figures, registration, draining or override have changed."""
        _weigh(backend)
        backend.report.contribute(self._means, backend.is_up)
        return self.eligibility.update(backend, self._by_key.values())


def _weigh(backend: Backend) -> None:
    weight = backend.override.weight
    backend.base_weight = backend.registration.weight if weight is None else weight


def _limited(backend: Backend, state: State) -> State | None:
    """The state that counts toward the limits on what datagrams may cause; None for none.

    One that has departed counts as any other, since an agent may take it over.
    """
    return state if backend.has_agent or state is State.DEPARTED else None
