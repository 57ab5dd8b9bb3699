"""The seam between the proxy and the ways of carrying the bytes of its sessions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint

from rproxy.sessions.capacity import Capacity
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session
from rproxy.timing.wheel import Wheel

SLICE: Final = 128
"""Entries of a carrier's table of sessions, in use or not, in one slice."""


@attrs.frozen
class Resources:
    """What a carrier shares with the rest of the process."""

    reactor: Any
    deadlines: Wheel
    capacity: Capacity
    """Each session counts from accept until its descriptors are closed. At the limit the carrier stops accepting."""
    pipes_max: int
    """Most pipes that may be open at once."""


class Carrier(Protocol):
    """Accepts clients on any number of listeners, and carries their sessions.

    For each client it makes a `Session` with a `Link`, has it choose back-ends, connects to them, moves the bytes both
    ways, and reports the ending.
    """

    def serve(
        self, endpoint: IStreamServerEndpoint, service: Service, name: str = "", tls: Any = None
    ) -> Deferred[IListeningPort]:
        """Accept clients on `endpoint` for `service`; `name` becomes their `Session.listener`.

        With `tls`, a `net.tls_server.ServerTls`, they speak TLS, after the PROXY header if there is one; None for TCP.

        May be called at any time before `abort`, for several services. Fires with the open port, which the caller stops
        with `stopListening`. Fails as `endpoint.listen` does, or with `ValueError` if the carrier cannot carry what
        such an endpoint accepts; then nothing is left open.
        """
        ...

    def reassign(self, port: IListeningPort, service: Service, name: str, tls: Any = None) -> None:
        """Have clients that `port`, with which `serve` fired, accepts from now on be `service`'s; the rest as `serve`.

        Also called when the service's `outbound` has changed. Clients that were accepted before stay as they are. The
        port stays open, and with it the kernel's queue. What the port's endpoint is made of stays, too.
        """
        ...

    def watch(self, descriptor: int) -> None:
        """Return to the reactor as soon as `descriptor`, which the reactor reads, is readable.

        Clients could otherwise delay it by some milliseconds. The caller keeps the descriptor open at least until
        `unwatch`.
        """
        ...

    def unwatch(self, descriptor: int) -> None:
        """Stop watching a descriptor because it is not read for now; `watch` follows when it is read again."""
        ...

    def slices(self) -> Iterator[list[Session]]:
        """The sessions of all services, in slices short enough to be visited in one turn of the reactor.

        A slice holds those that have begun and not ended when it is produced, in every phase: those whose TLS handshake
        or PROXY header is awaited, those that wait or connect, and those that are connected. Between slices, sessions
        may begin and end.
        """
        ...

    def abort(self) -> None:
        """End all sessions as `STOPPED`, with resets, and release everything.

        Called last, when all ports are stopped; may be called again.
        """
        ...
