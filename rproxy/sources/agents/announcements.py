"""What the monitor writes into the log: of what strangers and agents bring about, a bounded number of lines."""

from __future__ import annotations

from collections import Counter
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.net.addresses import Address, written
from rproxy.pool.backend import Backend
from rproxy.pool.events import Transition
from rproxy.pool.states import State
from rproxy.timing.rate_limit import RateLimit
from rproxy.timing.throttle import Throttle

SELDOM_S: Final = 10.0
"""At most one line in this time about each thing that anybody can bring about, or that a broken policy would repeat."""
DROPPED_LOG_S: Final = 60.0
"""The same for datagrams dropped for a reason that may be a mistake in somebody's options."""
HOST_BURST: Final = 100
"""Changes of state at once on one host, a line each, before `SELDOM_S` applies to it."""
LINES_S: Final = 1.0
"""Lines a second, about all hosts, before which twice as many as back-ends may come at once."""
NAMED_MAX: Final = 8
"""Back-ends that one line names."""
UNSAID_MAX: Final = 64
"""Back-ends of one host of which it is remembered that they have changed."""
_LOST_AND_BACK: Final = {State.UP, State.SUSPECT}


class Announcements:
    """`backends` is how many there may be; with `trace`, lost probes have lines as well."""

    log = Logger()

    def __init__(self, clock: IReactorTime, backends: int, *, trace: bool) -> None:
        in_all = RateLimit(LINES_S, 2 * backends)
        self._trace = trace
        self._changes = Throttle(clock, RateLimit.once_in(SELDOM_S, HOST_BURST), in_all)
        self._others = Throttle(clock, RateLimit.once_in(SELDOM_S), in_all)
        self._drops = Throttle(clock, RateLimit.once_in(DROPPED_LOG_S))
        self._unsaid: dict[str, dict[str, State]] = {}
        """By host, the present states of those whose changes wait for a line."""
        self._drains: set[Backend] = set()
        """Those whose agents ask for no new clients, as the log has it."""
        self._panicking = False
        """As the log has it."""
        self._dropped: Counter[str] = Counter()

    def stop(self) -> None:
        for throttle in (self._changes, self._others, self._drops):
            throttle.stop()

    def changed(self, transition: Transition) -> None:
        """A back-end's state; not for every lost probe, nor for every registration that comes to nothing."""
        backend, before, after = transition.backend, transition.before, transition.after
        if after in (State.DEPARTED, State.FORGOTTEN):
            self._drains.discard(backend)
        if before is State.DOWN and after is State.UP and not self._is_told(backend):
            self.turned(backend)
        if {before, after} == _LOST_AND_BACK and not self._trace:
            return
        if (before, after) == (State.REGISTERED, State.FORGOTTEN):
            self._others.say("unanswered", lambda times: self._tell_change(transition, times))
            return
        host = backend.address
        unsaid = self._unsaid.setdefault(host, {})
        if len(unsaid) < UNSAID_MAX or backend.name in unsaid:
            unsaid[backend.name] = after
        if not self._changes.say(host, lambda times: self._tell_changes(transition, times)):
            del self._unsaid[host]

    def _tell_changes(self, transition: Transition, times: int) -> None:
        """Of one host."""
        host = transition.backend.address
        states = self._unsaid.pop(host)
        if times == 1:
            self._tell_change(transition, times)
            return
        named = [f"{name} {state.value}" for name, state in list(states.items())[-NAMED_MAX:]]
        self.log.info(
            "back-ends on {host}: {times} changes of state since the last line; now {states}{more}",
            host=host,
            times=times,
            states=", ".join(named),
            more=f" and {len(states) - len(named)} more" if len(states) > len(named) else "",
        )

    def _tell_change(self, transition: Transition, times: int) -> None:
        backend = transition.backend
        self.log.info(
            "back-end {backend}: {before} -> {after} ({reason}; agent {agent}){sum}",
            backend=backend.name,
            before=transition.before.value,
            after=transition.after.value,
            reason=transition.reason,
            agent=written(backend.registration.agent),
            sum=_times(times),
        )

    def restarted(self, backend: Backend) -> None:
        """Its agent is another instance than before."""
        self._others.say(
            (backend.name, "restarted"),
            lambda times: self.log.info(
                "back-end {backend}: its agent was started again{sum}", backend=backend.name, sum=_times(times)
            ),
        )

    def turned(self, backend: Backend) -> None:
        """Its agent begins to drain, or ceases to."""
        self._others.say((backend.name, "drains"), lambda times: self._tell_wish(backend, times))

    def _is_told(self, backend: Backend) -> bool:
        return backend.draining is (backend in self._drains)

    def _tell_wish(self, backend: Backend, times: int) -> None:
        """If it is not what the log says, and of interest: what is not up gets no client in any case."""
        if not backend.is_up or self._is_told(backend):
            return
        if backend.draining:
            self._drains.add(backend)
        else:
            self._drains.discard(backend)
        wish = "no new clients: it drains, or its service fails its check" if backend.draining else "clients again"
        self.log.info(
            "back-end {backend}: its agent asks for {wish}{sum}", backend=backend.name, wish=wish, sum=_times(times)
        )

    def panic(self, panicking: bool) -> None:
        """Whether less than half of the pool is up."""
        self._changes.say("panic", lambda times: self._tell_panic(panicking))

    def _tell_panic(self, panicking: bool) -> None:
        if panicking is self._panicking:
            return
        self._panicking = panicking
        if panicking:
            self.log.warn(
                "less than half of the back-ends are up: those that are down get clients, too, unless they refuse them"
            )
        else:
            self.log.info("at least half of the back-ends are up again")

    def policy_failed(self) -> None:
        """To be called where its exception is handled."""
        failure = Failure()
        self._others.say("policy", lambda times: self.log.failure("the policy failed{sum}", failure, sum=_times(times)))

    def leads_here(self, service: Address) -> None:
        """An agent has registered a service that is this proxy itself."""
        self._others.say(
            "own listener",
            lambda times: self.log.warn(
                "no back-end: {service}, registered by an agent, leads to this proxy itself; has it no --service-port?"
                "{sum}",
                service=written(service),
                sum=_times(times),
            ),
        )

    def dropped(self, source: Address, reason: str) -> None:
        """A datagram, for a reason that somebody may want to know of."""
        self._dropped[reason] += 1
        self._drops.say("dropped", lambda times: self._tell_dropped(source))

    def _tell_dropped(self, source: Address) -> None:
        self.log.warn(
            "dropped {dropped}; the last one came from {source}",
            dropped=", ".join(f"{count} datagram(s): {each}" for each, count in self._dropped.items()),
            source=source[0],
        )
        self._dropped.clear()


def _times(times: int) -> str:
    return f" ({times} times since the last line)" if times > 1 else ""
