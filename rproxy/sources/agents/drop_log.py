"""Log lines about dropped datagrams, at a bounded rate."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rproxy.net.addresses import Address, written
from rproxy.pool.admission import Refusal
from rproxy.timing.rate_limit import RateLimit, trim
from rproxy.timing.throttle import Throttle
from rproxy.wire.pdu import Flaw

DROPPED_LOG_S: Final = 60.0
OWN_LISTENER_LOG_S: Final = 10.0
"""At most one line in this time, about datagrams dropped, and about services that are this proxy itself."""
HOSTS_MAX: Final = 1024
"""Hosts of whose datagrams the last drop is kept."""
_LOGGED: Final = frozenset(
    {
        *(Flaw.SEALED, Flaw.UNSEALED, Flaw.KEY_ID, Flaw.SEAL),
        *(Refusal.NOT_ALLOWED, Refusal.NO_SERVICE, Refusal.TABLE_FULL, Refusal.RATE_LIMITED, Refusal.STATIC),
    }
)
"""Reasons that suggest a configuration error."""


class DropLog:
    """Logs datagrams dropped for reasons that concern operators."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._drops = Throttle(clock, RateLimit.once_in(DROPPED_LOG_S))
        self._own = Throttle(clock, RateLimit.once_in(OWN_LISTENER_LOG_S))
        self._dropped: Counter[str] = Counter()
        self._seconds = clock.seconds
        self._last: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def stop(self) -> None:
        """Cancel the timers; held-back lines are dropped."""
        self._drops.stop()
        self._own.stop()

    def dropped(self, source: Address, reason: Flaw | Refusal) -> None:
        """A datagram from `source` was dropped."""
        self._last[source[0]] = self._seconds(), reason.value
        self._last.move_to_end(source[0])
        trim(self._last, HOSTS_MAX)
        if reason in _LOGGED:
            self._dropped[reason.value] += 1
            self._drops.say("dropped", lambda times: self._log_dropped(source))

    def last_of(self, host: str) -> tuple[float, str] | None:
        """When, on the clock, the last datagram from a host was dropped, and the reason's name; None if none was, or
        those of many other hosts were later.
        """
        return self._last.get(host)

    def _log_dropped(self, source: Address) -> None:
        self.log.warn(
            "dropped {dropped}; the last one came from {source}",
            dropped=", ".join(f"{count} datagram(s): {each}" for each, count in self._dropped.items()),
            source=source[0],
        )
        self._dropped.clear()

    def leads_here(self, service: Address) -> None:
        """An agent has registered a service that is this proxy itself."""
        self._own.say(
            "own listener",
            lambda times: self.log.warn(
                "no back-end: {service}, registered by an agent, leads to this proxy itself; has it no --service-port?"
                "{sum}",
                service=written(service),
                sum=f" ({times} times since the last line)" if times > 1 else "",
            ),
        )
