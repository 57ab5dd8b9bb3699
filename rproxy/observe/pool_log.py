"""Logs the pool's events at a bounded rate, whatever is received."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rproxy.net.addresses import written
from rproxy.pool.backend import Backend
from rproxy.pool.events import (
    Administered,
    AgentCheckChanged,
    AgentRestarted,
    Checked,
    DrainingChanged,
    Observers,
    PanicChanged,
    PassedOver,
    PoolEvent,
    ProbeLost,
    Reported,
    Transitioned,
    Weighed,
)
from rproxy.pool.states import Administration, State, is_lapse
from rproxy.timing.rate_limit import LOG_EVERY_S, RateLimit
from rproxy.timing.throttle import Throttle

HOST_BURST: Final = 100
"""Changes of state of one host's back-ends that are logged one by one before `LOG_EVERY_S` applies to that host."""
LINES_PER_S: Final = 1.0
"""Lines a second about all hosts, after a burst of twice as many lines as there may be back-ends."""
NAMED_MAX: Final = 8
"""Back-ends that one line names."""
PENDING_MAX: Final = 64
"""Back-ends of one host whose changes are remembered for its next line."""


class PoolLog:
    """Logs what happens in a pool of at most `backends`; with `trace`, also every probe lost and answered."""

    log = Logger()

    def __init__(self, clock: IReactorTime, backends: int, *, trace: bool) -> None:
        in_all = RateLimit(LINES_PER_S, 2 * backends)
        self._trace = trace
        self._changes = Throttle(clock, RateLimit.once_in(LOG_EVERY_S, HOST_BURST), in_all)
        self._others = Throttle(clock, RateLimit.once_in(LOG_EVERY_S), in_all)
        self._pending: dict[str, dict[str, State]] = {}
        """By host, the present states of the back-ends whose changes wait for a line."""
        self._draining: set[Backend] = set()
        """The back-ends that are draining according to the last lines about them."""
        self._passed_over: dict[Backend, str] = {}
        """The reasons for which back-ends are passed over according to the last lines about them."""
        self._panicking = False
        """Whether there is a panic according to the last line."""

    def observers(self) -> Observers:
        """The events that are logged."""
        observers: dict[type[PoolEvent], Callable[[Any], None]] = {
            Transitioned: self.changed,
            PanicChanged: self.panic,
            AgentRestarted: self.restarted,
            DrainingChanged: self.draining_changed,
            Administered: self.administered,
            Weighed: self.weighed,
            PassedOver: self.passed_over,
            AgentCheckChanged: self.agent_check_changed,
        }
        if self._trace:
            observers |= {Reported: self.reported, ProbeLost: self.lost, Checked: self.checked}
        return observers

    def stop(self) -> None:
        """Cancel the timers; pending changes are not logged."""
        for throttle in (self._changes, self._others):
            throttle.stop()

    def changed(self, transition: Transitioned) -> None:
        """A back-end's state has changed. UP to SUSPECT and back (one lost probe) is logged with `trace` only.

        Removals of unconfirmed back-ends share one throttled line.
        """
        backend, before, after = transition.backend, transition.before, transition.after
        if after in (State.DEPARTED, State.FORGOTTEN):
            self._draining.discard(backend)
            self._passed_over.pop(backend, None)
        if before is State.DOWN and after is State.UP and not self._is_logged(backend):
            self._log_draining_later(backend)
        if is_lapse(before, after) and not self._trace:
            return
        if (before, after) == (State.REGISTERED, State.FORGOTTEN):
            self._others.say("unanswered", lambda times: self._log_change(transition, times))
            return
        host = backend.address
        pending = self._pending.setdefault(host, {})
        if len(pending) < PENDING_MAX or backend.name in pending:
            pending[backend.name] = after
        if not self._changes.say(host, lambda times: self._log_changes(transition, times)):
            del self._pending[host]

    def _log_changes(self, transition: Transitioned, times: int) -> None:
        """Log the changes of one host's back-ends in one line."""
        host = transition.backend.address
        states = self._pending.pop(host)
        if times == 1:
            self._log_change(transition, times)
            return
        named = [f"{name} {state.value}" for name, state in list(states.items())[-NAMED_MAX:]]
        self.log.info(
            "back-ends on {host}: {times} changes of state since the last line; now {states}{more}",
            host=host,
            times=times,
            states=", ".join(named),
            more=f" and {len(states) - len(named)} more" if len(states) > len(named) else "",
        )

    def _log_change(self, transition: Transitioned, times: int) -> None:
        backend = transition.backend
        self.log.info(
            "back-end {backend}: {before} -> {after} ({reason}; {by}){sum}",
            backend=backend.name,
            before=transition.before.value,
            after=transition.after.value,
            reason=transition.reason,
            by=(f"agent {written(backend.registration.agent)}" if backend.has_agent else "static")
            + override_text(transition),
            sum=_times(times),
        )

    def restarted(self, event: AgentRestarted) -> None:
        """A back-end's agent is another instance than before."""
        name = event.backend.name
        self._others.say(
            (name, "restarted"),
            lambda times: self.log.info(
                "back-end {backend}: its agent was started again{sum}", backend=name, sum=_times(times)
            ),
        )

    def draining_changed(self, event: DrainingChanged) -> None:
        """A back-end's agent has begun or ceased to drain."""
        self._log_draining_later(event.backend)

    def _log_draining_later(self, backend: Backend) -> None:
        self._others.say((backend.name, "drains"), lambda times: self._log_draining(backend, times))

    def _is_logged(self, backend: Backend) -> bool:
        return backend.draining is (backend in self._draining)

    def _log_draining(self, backend: Backend, times: int) -> None:
        """Log whether it drains, unless that was logged already, or it is not up and gets no clients anyway."""
        if not backend.is_up or self._is_logged(backend):
            return
        if backend.draining:
            self._draining.add(backend)
        else:
            self._draining.discard(backend)
        self.log.info(
            "back-end {backend}: {request}{sum}", backend=backend.name, request=request_of(backend), sum=_times(times)
        )

    def agent_check_changed(self, event: AgentCheckChanged) -> None:
        """A back-end's agent-check says something else than before."""
        backend = event.backend
        self._others.say((backend.name, "says"), lambda times: self._log_agent_check(backend, times))

    def _log_agent_check(self, backend: Backend, times: int) -> None:
        """Log what is said by now, if the back-end is still one without an agent."""
        if backend.static is not None:
            self.log.info(
                "back-end {backend}: its agent-check says: {said}{sum}",
                backend=backend.name,
                said=backend.static.said or "ready",
                sum=_times(times),
            )

    def panic(self, event: PanicChanged) -> None:
        """A panic has begun or ended."""
        self._changes.say("panic", lambda times: self._log_panic(event.panicking))

    def _log_panic(self, panicking: bool) -> None:
        if panicking is self._panicking:
            return
        self._panicking = panicking
        if panicking:
            self.log.warn(
                "less than half of the back-ends are up: those that are down get clients, too, unless they refuse them"
            )
        else:
            self.log.info("at least half of the back-ends are up again")

    def administered(self, event: Administered) -> None:
        """An operator has made a back-end ready, or drains it."""
        self.log.info(
            "back-end {backend}: {administration} (by an operator)",
            backend=event.backend.name,
            administration=event.administration.value,
        )

    def weighed(self, event: Weighed) -> None:
        """An operator has given a back-end a weight, or its own one again."""
        weight = "its own weight again" if event.weight is None else f"weight {event.weight}"
        self.log.info("back-end {backend}: {weight} (by an operator)", backend=event.backend.name, weight=weight)

    def passed_over(self, event: PassedOver) -> None:
        """The policy passes over a back-end, or does not any more."""
        backend = event.backend
        self._others.say((backend.name, "passed over"), lambda times: self._log_passed_over(backend, times))

    def _log_passed_over(self, backend: Backend, times: int) -> None:
        """Log whether it is passed over now, unless that was logged already, or it has gone."""
        reason = backend.passed_over
        if backend.state in (State.DEPARTED, State.FORGOTTEN) or reason == self._passed_over.get(backend, ""):
            return
        if reason:
            self._passed_over[backend] = reason
            self.log.info(
                "back-end {backend}: passed over while others are better off: {reason}{sum}",
                backend=backend.name,
                reason=reason,
                sum=_times(times),
            )
        else:
            del self._passed_over[backend]
            self.log.info("back-end {backend}: no longer passed over{sum}", backend=backend.name, sum=_times(times))

    def reported(self, event: Reported) -> None:
        """For a trace: the measured round trip."""
        self.log.debug(
            ":: [{backend}] RTT sample {sample_ms:.3f} ms, smoothed {smoothed_ms:.3f} ms",
            backend=event.backend.name,
            sample_ms=event.sample_ms,
            smoothed_ms=event.backend.rtt.smoothed_ms,
        )

    def checked(self, event: Checked) -> None:
        """For a trace: the result of a check."""
        result = f"failed: {event.failure}" if event.failure else "passed"
        self.log.debug(":: [{backend}] check {result}", backend=event.backend.name, result=result)

    def lost(self, event: ProbeLost) -> None:
        """For a trace: a lost probe."""
        if event.on_demand:
            self.log.debug(":: [{backend}] probe on demand lost", backend=event.backend.name)
            return
        self.log.debug(":: [{backend}] probe lost, {misses} in a row", backend=event.backend.name, misses=event.misses)


def request_of(backend: Backend) -> str:
    """What the agent of a back-end asks for."""
    request = "no new clients: it drains, or its service fails its check" if backend.draining else "clients again"
    return f"its agent asks for {request}"


def override_text(transition: Transitioned) -> str:
    """The operator's drain or maint, for the end of a line; empty if there is none, or the back-end has gone."""
    administration = transition.backend.administration
    if administration is Administration.READY or transition.after in (State.DEPARTED, State.FORGOTTEN):
        return ""
    return f"; {administration.value}, by an operator"


def _times(times: int) -> str:
    return f" ({times} times since the last line)" if times > 1 else ""
