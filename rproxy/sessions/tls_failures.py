"""Counts a service's TLS handshakes that failed, and logs some of them."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rproxy.net.addresses import written
from rproxy.pool.backend import Backend
from rproxy.timing.rate_limit import LOG_EVERY_S, RateLimit
from rproxy.timing.throttle import Throttle

_IN_ALL_BURST: Final = 8


class TlsFailures:
    """Those with clients are counted as `Ending.HANDSHAKE`, too."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self.with_backends = 0
        """A handshake that fails is a failed connect."""
        in_all = RateLimit.once_in(LOG_EVERY_S / _IN_ALL_BURST, _IN_ALL_BURST)
        self._throttle = Throttle(clock, RateLimit.once_in(LOG_EVERY_S), in_all)

    def with_client(self, address: str, reason: str) -> None:
        """The handshake with the client at `address` failed."""

        def write(times: int) -> None:
            self.log.warn("{client}: TLS handshake failed: {reason}{of}", client=address, reason=reason, of=_of(times))

        self._throttle.say(None, write)

    def with_backend(self, backend: Backend, reason: str) -> None:
        """The handshake with `backend` failed, or it ended the connection right after it."""
        address = backend.address, backend.port
        self.with_backends += 1

        def write(times: int) -> None:
            self.log.warn(
                "back-end {backend}: TLS handshake failed: {reason}{of}",
                backend=written(address),
                reason=reason,
                of=_of(times),
            )

        self._throttle.say(address, write)

    def stop(self) -> None:
        """Drop held-back lines. May be called twice."""
        self._throttle.stop()


def _of(times: int) -> str:
    return f" (the last of {times} since the line before)" if times > 1 else ""
