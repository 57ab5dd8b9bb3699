"""The checks of one static back-end: a connect to its port, its agent-check, or neither."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any, Final

import attrs
from twisted.logger import Logger

from rproxy.net.addresses import Address, written
from rproxy.pool.backend import Backend, StaticTerms
from rproxy.pool.events import Events
from rproxy.pool.pool import Pool
from rproxy.sources.static.dial import Connect, Dial, Outcome, connect
from rproxy.timing.rate_limit import RateLimit
from rproxy.timing.throttle import Throttle
from rproxy.timing.wheel import Wheel
from rproxy.wire.agent_check import MAINT, read

INTERVAL_S: Final = 2.0
JITTER: Final = 0.1
"""Each interval is up to this fraction shorter or longer, so that checks spread."""
LATE_S: Final = 0.5
"""After a stall all checks are due at once. So after a check this late, as after the first one, the next interval is up
to a half shorter, to spread them.
"""
DIALS_MAX: Final = 64
"""Connections of checks at once, in either lane; further ones wait for their turn."""
LOG_EVERY_S: Final = 60.0
"""At most one line in this time about an agent-check that cannot be reached or read."""


@attrs.frozen
class Entry:
    """A back-end as configured. The host of `address` may be a name."""

    address: Address
    terms: StaticTerms
    connects: bool = True
    """Whether connects check it; if not, only its clients' connects tell."""
    agent_port: int | None = None
    """The TCP port of its agent-check; None for none."""
    send_proxy: int | None = None
    """Version of the PROXY header that its connections begin with; None for the service's, 0 for none."""


@attrs.define
class _Lane:
    open: int = 0
    waiting: deque[Dial] = attrs.field(factory=deque)


class Dials:
    """Starts connections, at most `DIALS_MAX` at once in either of two lanes.

    Those to which the last one timed out have a lane of their own: many hosts that drop packets do not delay the checks
    of the others.
    """

    def __init__(self, reactor: Any, wheel: Wheel, connect: Connect = connect) -> None:
        self._reactor = reactor
        self._wheel = wheel
        self._connect = connect
        self._lanes = (_Lane(), _Lane())
        self._is_starting = False

    def make(
        self,
        address: Address,
        done: Callable[[Outcome], None],
        *,
        send_proxy: int = 0,
        reads: bool = False,
        after_silence: bool = False,
    ) -> Dial:
        """A connection that `start` starts, see `Dial`. `after_silence`: the last one to that port timed out."""
        lane = int(after_silence)
        ended = partial(self._done, done, lane)
        dial = Dial(
            self._reactor, self._wheel, address, ended, send_proxy=send_proxy, reads=reads, connect=self._connect
        )
        dial.lane = lane
        return dial

    def start(self, dial: Dial) -> None:
        """Start a connection, now or later. It may be done before this returns."""
        self._lanes[dial.lane].waiting.append(dial)
        self._start_next()

    def cancel(self, dial: Dial) -> None:
        """Close a connection that was started and is not done."""
        lane = self._lanes[dial.lane]
        if dial in lane.waiting:
            lane.waiting.remove(dial)
            return
        dial.cancel()
        lane.open -= 1
        self._start_next()

    def _done(self, done: Callable[[Outcome], None], lane: int, outcome: Outcome) -> None:
        self._lanes[lane].open -= 1
        self._start_next()
        done(outcome)

    def _start_next(self) -> None:
        if self._is_starting:  # one that was started just now has failed at once
            return
        self._is_starting = True
        try:
            while lane := next((each for each in self._lanes if each.waiting and each.open < DIALS_MAX), None):
                lane.open += 1
                lane.waiting.popleft().start()
        finally:
            self._is_starting = False


@attrs.frozen
class Checks:
    """What the rows of a service share.

    `leads_here` returns whether an address is this proxy itself. `send_proxy` returns the version of the PROXY header
    that the service's connections begin with, `connect` connects. `jitter` draws from 0..1.
    """

    reactor: Any
    wheel: Wheel
    pool: Pool
    publish: Callable[[Events], None]
    jitter: Callable[[], float]
    leads_here: Callable[[Address], bool] = lambda address: False
    send_proxy: Callable[[], int] = lambda: 0
    connect: Connect = connect
    log: Logger = Logger()
    dials: Dials = attrs.field()
    throttle: Throttle = attrs.field()
    """Of lines about single back-ends, and about this host."""

    @dials.default
    def _make_dials(self) -> Dials:
        return Dials(self.reactor, self.wheel, self.connect)

    @throttle.default
    def _make_throttle(self) -> Throttle:
        return Throttle(self.reactor, RateLimit.once_in(LOG_EVERY_S))


class Row:
    """Adds the back-end of one address to the pool, and checks it until it is stopped.

    While the address is this proxy itself, there is no back-end.
    """

    def __init__(self, checks: Checks, key: Address, entry: Entry) -> None:
        self.entry = entry
        self._checks = checks
        self._key = key
        self._backend: Backend | None = None
        self._is_refused = False
        """Whether it is this proxy itself."""
        self._due = -inf
        """When the next checks are due, on the wheel's clock."""
        self._port: Dial | None = None
        self._agent: Dial | None = None
        self._port_is_silent = self._agent_is_silent = False
        """Whether the last connection to it timed out."""
        self._trouble = self._logged = ""
        """What is wrong with its agent-check, now and by the last line about it."""

    def start(self, delay_s: float) -> None:
        """Add it to the pool, and check it the first time after `delay_s`."""
        self._ensure()
        self._checks.wheel.arm(self, delay_s, self._tick)

    def change(self, entry: Entry) -> None:
        """It is configured in another way now."""
        if entry.agent_port != self.entry.agent_port:
            self._cancel(self._agent)
            self._agent, self._agent_is_silent = None, False
            self._trouble = self._logged = ""
        self.entry = entry
        self._ensure()

    def stop(self, reason: str | None = None) -> None:
        """Check it no more; with a `reason`, remove it from the pool as well."""
        checks = self._checks
        checks.wheel.disarm(self)
        self._cancel(self._port)
        self._cancel(self._agent)
        self._port = self._agent = None
        self._trouble = self._logged  # a line about it that is held back says nothing
        if reason is not None and self._backend is not None:
            checks.publish(checks.pool.static.remove(self._backend, reason, checks.wheel.seconds()))

    def _cancel(self, dial: Dial | None) -> None:
        if dial is not None:
            self._checks.dials.cancel(dial)

    def _ensure(self) -> bool:
        """Have it in the pool as it is configured, unless it is this proxy itself. Returns whether it is."""
        checks, now = self._checks, self._checks.wheel.seconds()
        if checks.leads_here(self._key):
            if self._backend is not None:
                checks.publish(checks.pool.static.remove(self._backend, "leads back to this proxy", now))
                self._backend = None
            if not self._is_refused:
                self._is_refused = True
                self._checks.log.warn("no back-end: {backend} leads to this proxy itself", backend=written(self._key))
            return False
        self._is_refused = False
        checks.publish(checks.pool.static.put(self._key, self.entry.terms, now))
        self._backend = checks.pool.get(*self._key)
        return self._backend is not None

    def _tick(self) -> None:
        wheel, jitter = self._checks.wheel, self._checks.jitter()
        share = (1 + jitter) / 2 if wheel.seconds() - self._due > LATE_S else 1 + JITTER * (2 * jitter - 1)
        self._due = wheel.arm(self, share * INTERVAL_S, self._tick)
        if self._ensure():
            self._check()

    def _check(self) -> None:
        """Begin what is not under way. In maintenance a back-end is not checked, as HAProxy has it."""
        entry, backend, checks = self.entry, self._backend, self._checks
        assert backend is not None
        if not entry.connects:
            checks.publish(checks.pool.static.checked(backend, checks.wheel.seconds()))
        elif self._port is None and (backend.static is None or backend.static.mode != MAINT):
            version = checks.send_proxy() if entry.send_proxy is None else entry.send_proxy
            self._port = checks.dials.make(
                self._key, self._port_done, send_proxy=version, after_silence=self._port_is_silent
            )
            checks.dials.start(self._port)
        if entry.agent_port is not None and self._agent is None:
            agent = (self._key[0], entry.agent_port)
            self._agent = checks.dials.make(agent, self._agent_done, reads=True, after_silence=self._agent_is_silent)
            checks.dials.start(self._agent)

    def _port_done(self, outcome: Outcome) -> None:
        self._port = None
        self._port_is_silent = outcome.is_silent
        checks, backend = self._checks, self._backend
        if outcome.is_local:
            checks.throttle.say("local", lambda times: checks.log.warn("cannot check: {why}", why=outcome.failure))
        elif backend is not None:
            now, failure, answered = checks.wheel.seconds(), outcome.failure, outcome.answered
            checks.publish(checks.pool.static.checked(backend, now, failure, rtt_ms=outcome.rtt_ms, refused=answered))

    def _agent_done(self, outcome: Outcome) -> None:
        """What an agent-check that cannot be reached said last stays in force: connects tell whether the host lives."""
        self._agent = None
        self._agent_is_silent = outcome.is_silent
        checks, backend, trouble = self._checks, self._backend, outcome.failure
        if not trouble and backend is not None:
            reply = read(outcome.line)
            if reply.unread:
                trouble = f'it says "{reply.unread}", which has no meaning'
            checks.publish(checks.pool.static.said(backend, reply, checks.wheel.seconds()))
        if trouble != self._trouble:
            self._trouble = trouble
            checks.throttle.say(self._key, lambda times: self._log_trouble())

    def _log_trouble(self) -> None:
        if self._trouble == self._logged:  # it has ended, or there is no such agent-check any more
            return
        self._logged = self._trouble
        assert self.entry.agent_port is not None
        address = written((self._key[0], self.entry.agent_port))
        if self._trouble:
            self._checks.log.warn(
                "back-end {backend}: its agent-check at {address}: {trouble}",
                backend=written(self._key),
                address=address,
                trouble=self._trouble,
            )
        else:
            self._checks.log.info(
                "back-end {backend}: its agent-check at {address} answers again",
                backend=written(self._key),
                address=address,
            )
