"""Host names, looked up in threads that do not keep the process from ending."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from threading import Thread
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure


class Lookups:
    """Resolves host names in threads, at most one a name; concurrent requests for a name share its result.

    The reactor's own thread pool would delay its stop for as long as a name server is silent.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pending: dict[str, list[Deferred[Sequence[str]]]] = {}

    def resolve(self, host: str) -> Deferred[Sequence[str]]:
        """The IP addresses of a host in the resolver's order; an IP address is returned as it is.

        Fails with what `socket.getaddrinfo` raises. May be cancelled; the thread still runs to its end.
        """
        with suppress(ValueError):
            return succeed([str(ip_address(host))])
        waiting: Deferred[Sequence[str]] = Deferred(lambda cancelled: self._forget(host, cancelled))
        if host not in self._pending:
            self._pending[host] = []
            Thread(target=self._look_up, args=(host,), daemon=True).start()
        self._pending[host].append(waiting)
        return waiting

    def _forget(self, host: str, cancelled: Deferred[Sequence[str]]) -> None:
        self._pending[host].remove(cancelled)

    def _look_up(self, host: str) -> None:
        """Runs in a thread."""
        found: list[str] | Failure
        try:
            infos = socket.getaddrinfo(host, None, socket.AF_UNSPEC, socket.SOCK_DGRAM)
            found = list(dict.fromkeys(str(info[4][0]) for info in infos))
        except Exception:
            found = Failure()
        with suppress(RuntimeError):  # the asyncio reactor's loop is closed already
            self._reactor.callFromThread(self._found, host, found)

    def _found(self, host: str, found: list[str] | Failure) -> None:
        for waiting in self._pending.pop(host):
            waiting.callback(found)
