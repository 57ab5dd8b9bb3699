"""The wait of an agent that is stopped: until its proxies have no session on its service any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.agent.agent import Agent
from rproxy.net.addresses import Address
from rproxy.timing.loops import keep_looping
from rproxy.timing.rate_limit import LOG_EVERY_S

LOOK_S: Final = 0.1
REMIND_S: Final = 1.1
"""Interval of registrations during the wait, in s. A proxy probes a draining agent as soon as it registers, and tells
its sessions in the probe. It accepts one such registration a second.
"""


class DrainWait:
    """Asks for no new clients, and waits until every proxy that probes has no session left, for `limit_s` at most.

    What a proxy says counts from the second probe on: the answer to the first one tells it that the agent drains. One
    that stops probing is not waited for. `tell` gets the number of sessions soon and then every `LOG_EVERY_S`.
    """

    log = Logger()

    def __init__(
        self, clock: IReactorTime, agent: Agent, limit_s: float, tell: Callable[[int], None] = lambda sessions: None
    ) -> None:
        self._clock = clock
        self._agent = agent
        self._limit_s = limit_s
        self._tell = tell
        self._began_at = self._log_at = 0.0
        self._first: dict[Address, float] = {}
        """When each proxy first probed since the beginning."""
        self._looking = LoopingCall(self._look)
        self._reminding = LoopingCall(agent.drain)
        self._looking.clock = self._reminding.clock = clock
        self._over: Deferred[None] | None = None

    def start(self) -> Deferred[None]:
        """Fires when the wait is over: at once without a limit, or if no proxy probes. The agent answers meanwhile."""
        now = self._clock.seconds()
        if not self._limit_s or not self._agent.echo.heard(now):
            return succeed(None)
        self._began_at = self._log_at = now
        self._over = over = Deferred[None]()
        keep_looping(self._reminding, REMIND_S, now=True, failed=self._failed)
        keep_looping(self._looking, LOOK_S, now=False, failed=self._failed)  # by then, most have probed
        return over

    def end(self) -> None:
        """End the wait now, if there is one."""
        for loop in (self._looking, self._reminding):
            if loop.running:
                loop.stop()
        over, self._over = self._over, None
        if over is not None:
            over.callback(None)

    def _failed(self, failure: Failure) -> None:
        self.log.failure("waiting for sessions to end", failure)

    def _look(self) -> None:
        now = self._clock.seconds()
        heard = self._agent.echo.heard(now)
        drained = [self._is_drained(proxy, at, sessions) for proxy, (at, sessions) in heard.items()]
        if all(drained):
            self.log.info("stopping: no proxy has a session left")
            self.end()
        elif now - self._began_at >= self._limit_s:
            self.log.warn("stopping: {left}, after {limit_s:g} s", left=_left(heard), limit_s=self._limit_s)
            self.end()
        elif now >= self._log_at:
            self._log_at += LOG_EVERY_S
            left_s = self._limit_s - (now - self._began_at)
            self.log.info("stopping: {left}, for up to {left_s:.0f} s", left=_left(heard), left_s=left_s)
            self._tell(_known(heard))

    def _is_drained(self, proxy: Address, at: float, sessions: int | None) -> bool:
        """Whether a proxy that last probed `at`, with this number of sessions, has none left and opens none."""
        if at <= self._began_at:
            return False
        first_at = self._first.setdefault(proxy, at)
        return at > first_at and sessions == 0


Heard = dict[Address, tuple[float, int | None]]
"""As `Echo.heard` returns it."""


def _known(heard: Heard) -> int:
    return sum(sessions or 0 for _, sessions in heard.values())


def _left(heard: Heard) -> str:
    """What is left, in words: a proxy of the first edition does not tell how many sessions it has."""
    silent = sum(sessions is None for _, sessions in heard.values())
    return f"{_known(heard)} session(s) left" + (
        f" besides those of {silent} proxies that do not say" if silent else ""
    )
