"""The timers of one back-end: when its agent is probed, and until when it must have answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.monitoring.loops import keep_looping
from rproxy.pool.backend import Backend
from rproxy.pool.states import State
from rproxy.pool.table import Probe

REPROBE_S: Final = (1.0, 2.0)
"""How soon after a first miss the next two probes follow."""
JITTER: Final = 0.1
"""Probes come this share of the interval earlier or later, so that those of many back-ends spread."""
RAMP_S: Final = 1.0
"""How often the share of a back-end that starts slowly grows."""


@attrs.frozen
class Timing:
    """In seconds: how often to probe, how long to wait for the answer, how often to check for life."""

    probe_interval_s: float = 5.0
    probe_timeout_s: float = 0.5
    liveness_s: float = 10.0


class Probing(Protocol):
    """What a prober's timers do; the monitor does it."""

    clock: IReactorTime
    timing: Timing
    jitter: Callable[[], float]
    """Draws from 0..1."""

    def probe(self, backend: Backend) -> None: ...
    def timed_out(self, probe: Probe) -> None: ...
    def check(self, backend: Backend) -> None: ...
    def ramp(self, backend: Backend) -> bool: ...


class Prober:
    """Checks a back-end for life from the start, and probes it periodically once it has answered."""

    log = Logger()

    def __init__(self, probing: Probing, backend: Backend) -> None:
        self._probing = probing
        self._backend = backend
        self._next: IDelayedCall | None = None
        self._timeouts: dict[int, IDelayedCall] = {}
        self._reprobes: list[IDelayedCall] = []
        self._liveness = self._loop(probing.check)
        self._ramping = self._loop(self._ramp)
        keep_looping(self._liveness, probing.timing.liveness_s, now=False, failed=self._failed)

    def _loop(self, call: Callable[[Backend], None]) -> LoopingCall:
        loop = LoopingCall(call, self._backend)
        loop.clock = self._probing.clock
        return loop

    def _failed(self, failure: Failure) -> None:
        self.log.failure("monitoring {backend}", failure, backend=self._backend.name)

    def stop(self) -> None:
        for loop in (self._liveness, self._ramping):
            if loop.running:
                loop.stop()
        for timeout in self._timeouts.values():
            timeout.cancel()
        self._timeouts.clear()
        self._cancel_reprobes()
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def sent(self, probe: Probe) -> None:
        """A probe has left."""
        timeout_s = self._probing.timing.probe_timeout_s
        self._timeouts[probe.request.token] = self._probing.clock.callLater(timeout_s, self._timed_out, probe)

    def answered(self, token: int) -> None:
        """A probe was answered in time."""
        self._timeouts.pop(token).cancel()
        if self._reprobes:
            self._cancel_reprobes()
        if self._next is None:
            self._next = self._probing.clock.callLater(self._interval_s(), self._probe_and_go_on)
        elif self._backend.state is State.DOWN:
            self._meet_hold_down(self._next)

    def rose(self) -> None:
        """The back-end came up: its share is to grow."""
        if not self._ramping.running:
            keep_looping(self._ramping, RAMP_S, now=False, failed=self._failed)

    def probe_soon(self) -> None:
        """Nothing is known of a probe's end: the next one need not wait its turn."""
        if not self._reprobes:
            self._reprobe_after(REPROBE_S[0])

    def _interval_s(self) -> float:
        return self._probing.timing.probe_interval_s * (1 + JITTER * (2 * self._probing.jitter() - 1))

    def _meet_hold_down(self, following: IDelayedCall) -> None:
        """One that answers again need not wait for a whole interval after its hold-down."""
        now = self._probing.clock.seconds()
        wait_s = max(self._backend.held_until - now, REPROBE_S[0])
        if now + wait_s < following.getTime():
            following.reset(wait_s)

    def _probe_and_go_on(self) -> None:
        self._next = self._probing.clock.callLater(self._interval_s(), self._probe_and_go_on)
        self._probe()

    def _probe(self) -> None:
        """One that fails is no reason not to send the next."""
        try:
            self._probing.probe(self._backend)
        except Exception:
            self.log.failure("probing {backend}", backend=self._backend.name)

    def _timed_out(self, probe: Probe) -> None:
        del self._timeouts[probe.request.token]
        backend = self._backend
        misses = backend.misses
        self._probing.timed_out(probe)
        if backend.is_up and backend.misses == 1 > misses:
            self._cancel_reprobes()
            for delay_s in REPROBE_S:
                self._reprobe_after(delay_s)

    def _reprobe_after(self, delay_s: float) -> None:
        self._reprobes.append(self._probing.clock.callLater(delay_s, self._reprobe))

    def _reprobe(self) -> None:
        self._reprobes.pop(0)
        self._probe()

    def _cancel_reprobes(self) -> None:
        for call in self._reprobes:
            call.cancel()
        self._reprobes.clear()

    def _ramp(self, backend: Backend) -> None:
        if not self._probing.ramp(backend):
            self._ramping.stop()
