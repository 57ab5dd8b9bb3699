"""The timers of one back-end: probes of its agent, and its liveness checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.pool.backend import Backend
from rproxy.pool.events import Observers, ProbeLost, Reported, Transitioned
from rproxy.pool.probes import Probe
from rproxy.pool.states import Event, State
from rproxy.sources.agents.probe_timeouts import ProbeTimeouts
from rproxy.timing.wheel import Wheel

REPROBE_S: Final = (1.0, 2.0)
"""How soon after a first lost probe the next two follow."""
JITTER: Final = 0.1
"""Each interval is up to this fraction shorter or longer, so that probes of many back-ends spread."""


@attrs.frozen
class Timing:
    """In seconds: how often to probe, how long to wait for the answer, and the silence that takes a back-end down.

    While clients come, reports older than `freshness_s` are asked for as well, by at most `probe_budget` probes a
    second; None for only the periodic ones.
    """

    probe_interval_s: float = 5.0
    probe_timeout_s: float = 0.5
    liveness_s: float = 10.0
    freshness_s: float | None = 0.1
    probe_budget: float = 500.0


class Probing(Protocol):
    """Shared by all probers, and called by their timers. The monitor implements it."""

    clock: IReactorTime
    timing: Timing
    timeouts: ProbeTimeouts
    wheel: Wheel
    jitter: Callable[[], float]
    """Draws from 0..1."""

    def probe(self, backend: Backend) -> None:
        """Send a probe, and call the prober's `sent`. May raise: that is logged, and probing continues."""

    def timed_out(self, probe: Probe) -> None:
        """A probe's timeout has passed without an answer."""

    def check(self, backend: Backend) -> None:
        """The liveness check: before every periodic probe, and until then every `liveness_s` seconds. May raise."""


class Prober:
    """Makes liveness checks of a back-end from the start, and probes it periodically once it has answered."""

    log = Logger()

    def __init__(self, probing: Probing, backend: Backend) -> None:
        self._probing = probing
        self._backend = backend
        self._next_s: float | None = None
        """When the next periodic probe is due; None before the first answer."""
        self._open: set[int] = set()
        """Tokens of outstanding probes."""
        self._reprobes: list[IDelayedCall] = []
        self._liveness: IDelayedCall | None = None
        """The next check, while there are no periodic probes."""
        self._await_check()

    def stop(self) -> None:
        """Cancel all timers, and end the timeouts of outstanding probes."""
        for token in self._open:
            self._probing.timeouts.end(token)
        self._open.clear()
        self._cancel_reprobes()
        self._probing.wheel.disarm(self)
        self._next_s = None
        if self._liveness is not None:
            self._liveness.cancel()
            self._liveness = None

    def sent(self, probe: Probe) -> None:
        """A probe was sent."""
        self._open.add(probe.request.token)
        self._probing.timeouts.add(probe, self._timed_out)

    def answered(self, token: int) -> None:
        """A probe was answered in time."""
        self._open.discard(token)
        self._probing.timeouts.end(token)
        if self._reprobes:
            self._cancel_reprobes()
        if self._next_s is None:
            self._next_s = self._probing.wheel.arm(self, self._interval_s(), self._probe_periodically)
            if self._liveness is not None:
                self._liveness.cancel()
                self._liveness = None
        elif self._backend.state is State.DOWN:
            self._probe_after_hold_down(self._next_s)

    def reprobe(self) -> None:
        """The first probe in a row was lost: the next two follow soon."""
        self._cancel_reprobes()
        for delay_s in REPROBE_S:
            self._reprobe_after(delay_s)

    def hasten(self) -> None:
        """Probes on demand were lost: send the next periodic one now, unless those after a miss are due anyway."""
        if self._next_s is not None and not self._reprobes:
            self._next_s = self._probing.wheel.arm(self, 0.0, self._probe_periodically)

    def _interval_s(self) -> float:
        return self._probing.timing.probe_interval_s * (1 + JITTER * (2 * self._probing.jitter() - 1))

    def _probe_after_hold_down(self, next_s: float) -> None:
        """Probe a back-end that answers again as soon as its hold-down is over, not an interval later."""
        now = self._probing.clock.seconds()
        wait_s = max(self._backend.health.held_until - now, REPROBE_S[0])
        if now + wait_s < next_s:
            self._next_s = self._probing.wheel.arm(self, wait_s, self._probe_periodically)

    def _probe_periodically(self) -> None:
        """Includes the liveness check, which spares a second timer."""
        self._next_s = self._probing.wheel.arm(self, self._interval_s(), self._probe_periodically)
        self._check()
        if self._next_s is not None:
            self._probe()

    def _probe(self) -> None:
        """An exception must not keep the next probe from being sent."""
        try:
            self._probing.probe(self._backend)
        except Exception:
            self.log.failure("probing {backend}", backend=self._backend.name)

    def _timed_out(self, probe: Probe) -> None:
        self._open.discard(probe.request.token)
        self._probing.timed_out(probe)

    def _reprobe_after(self, delay_s: float) -> None:
        self._reprobes.append(self._probing.clock.callLater(delay_s, self._reprobe))

    def _reprobe(self) -> None:
        self._reprobes.pop(0)
        self._probe()

    def _cancel_reprobes(self) -> None:
        for call in self._reprobes:
            call.cancel()
        self._reprobes.clear()

    def _await_check(self) -> None:
        self._liveness = self._probing.clock.callLater(self._probing.timing.liveness_s, self._check_alone)

    def _check_alone(self) -> None:
        self._await_check()
        self._check()

    def _check(self) -> None:
        try:
            self._probing.check(self._backend)
        except Exception:
            self.log.failure("monitoring {backend}", backend=self._backend.name)


class Probers:
    """The probers of all back-ends, which follow the pool's events."""

    def __init__(self, probing: Probing) -> None:
        self._probing = probing
        self._probers: dict[Backend, Prober] = {}

    def observers(self) -> Observers:
        """The events that set and cancel timers."""
        return {Reported: self.reported, ProbeLost: self.lost, Transitioned: self.transitioned}

    def of(self, backend: Backend) -> Prober:
        """The prober of a back-end; a new one if it has none."""
        prober = self._probers.get(backend)
        if prober is None:
            prober = self._probers[backend] = Prober(self._probing, backend)
        return prober

    def stop(self) -> None:
        """Cancel all timers."""
        for prober in self._probers.values():
            prober.stop()
        self._probers.clear()

    def reported(self, event: Reported) -> None:
        """A probe was answered in time."""
        self.of(event.backend).answered(event.token)

    def lost(self, event: ProbeLost) -> None:
        """The timeout of a probe has passed."""
        backend = event.backend
        if event.first:
            self.of(backend).reprobe()
        elif event.urgent:
            self.of(backend).hasten()
        elif backend.state is State.DEPARTED and not backend.probing.outstanding:
            self.end(backend)

    def transitioned(self, event: Transitioned) -> None:
        """A back-end's state has changed: one that has gone, or is configured now, is probed no more."""
        if event.after is State.DEPARTED or event.after is State.FORGOTTEN or event.event is Event.ADDED:
            self.end(event.backend)

    def end(self, backend: Backend) -> None:
        """Stop probing a back-end, until it is registered again. It may be one that is not probed."""
        prober = self._probers.pop(backend, None)
        if prober is not None:
            prober.stop()
