"""The operators' HTTP server: Twisted's, with limits on work in one turn of the reactor, on memory and on time.

Requests are read, and answers rendered and written, piece by piece in a `WorkQueue` that all connections share.
"""

from __future__ import annotations

from collections.abc import Collection
from http import HTTPStatus
from typing import Any, Final

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.web import server
from twisted.web.resource import IResource

from rproxy.admin.access import Access, Denied
from rproxy.admin.answers import Refused, Server
from rproxy.admin.channel import ASTERISK, REQUEST_S, Channel, Request
from rproxy.admin.request_filter import is_permitted
from rproxy.timing.work_queue import WorkQueue

CONNECTIONS_MAX: Final = 64
"""Beyond it, the connection that has been idle or slow for longest is closed; if there is none, the new one is."""
OPEN: Final = (b"/healthz", b"/readyz", b"/")
"""Paths that need no token anywhere. The page shows nothing without it, but asks for it."""
OPEN_FOLDER: Final = b"/static/"
"""What the page loads."""
BACKLOG: Final = 16
"""Of listen(2). Small, because all of them are accepted in one turn of the reactor."""


class AdminSite(server.Site):
    """Serves `root` under this host's addresses and the given `names`."""

    noisy = False
    protocol = Channel  # type: ignore[assignment] # Twisted's own would also speak HTTP/2
    requestFactory = Request

    def __init__(
        self,
        root: IResource,
        clock: IReactorTime,
        work: WorkQueue,
        names: Collection[str] = (),
        connections_max: int = CONNECTIONS_MAX,
        access: Access | None = None,
    ) -> None:
        """Without `access`, everybody may read."""
        super().__init__(root, timeout=REQUEST_S, reactor=clock)
        self.work = work
        self._names = frozenset(name.lower().removesuffix(".") for name in names)
        self._connections_max = connections_max
        self._access = access
        self.connections: set[Channel] = set()
        self.awaited: dict[Channel, None] = {}
        """Connections that wait for their client, the longest first."""

    def startFactory(self) -> None:
        """Twisted's would start the clock of its access log."""

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if len(self.connections) >= self._connections_max:
            if not self.awaited:
                return None
            next(iter(self.awaited)).abort()
        return super().buildProtocol(addr)

    def getResourceFor(self, request: Request) -> Any:
        request.responseHeaders.removeHeader("server")  # would reveal Twisted's version
        request.setHeader("cache-control", "no-store")
        request.setHeader("x-content-type-options", "nosniff")
        if not is_permitted(request.requestHeaders, self._names):
            return Refused(
                HTTPStatus.FORBIDDEN,
                "another site's page, or a Host that is neither an IP address, localhost nor the listener's own name",
            )
        if request.uri == ASTERISK:
            return Server()
        denial = None if self._access is None or _is_open(request.path) else self._access.to_read(request)
        return super().getResourceFor(request) if denial is None else Denied(denial)

    def stop(self) -> None:
        """Abort all connections."""
        for channel in list(self.connections):
            channel.abort()


def _is_open(path: bytes) -> bool:
    return path in OPEN or path.startswith(OPEN_FOLDER)
