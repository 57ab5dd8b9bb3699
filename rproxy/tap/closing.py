"""Closing listening ports so that no client is lost who has been let in by the kernel already."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IListeningPort

from rproxy.net import handover
from rproxy.net.tcp_port import TcpPort
from rproxy.tap.parts import closed

QUEUE_S: Final = 1.0
"""How long clients in the accept queues may delay the close: while sessions are as many as fit, none is accepted."""
_POLL_S: Final = 0.01


class Closing:
    """Closes `ports` once their accept queues are empty.

    Where another process listens at the same address, which takes SO_REUSEPORT, it gets all new clients from the start,
    and the ports stay open for as long as a handshake may take.
    """

    def __init__(self, reactor: Any, ports: Sequence[IListeningPort]) -> None:
        self._reactor = reactor
        self._ports = ports
        self._sockets = [sock for port in ports if (sock := _socket(port)) is not None]
        self._shared = [port.socket for port in ports if isinstance(port, TcpPort) and port.binding.reuse_port]
        self._earliest = self._latest = reactor.seconds()
        self._timer: IDelayedCall | None = None
        self._closed: Deferred[Any] = Deferred()

    def start(self) -> Deferred[Any]:
        """Fires when all are closed: at once where there is nothing to wait for."""
        handed_over = [sock for sock in self._shared if handover.give_to_newest(sock)]
        for sock in handed_over:
            handover.refuse_syns(sock)
        self._earliest += handover.LAST_HANDSHAKES_S if handed_over else 0.0
        self._latest = self._earliest + QUEUE_S
        self._look()
        return self._closed

    def _look(self) -> None:
        self._timer = None
        now = self._reactor.seconds()
        if now < self._earliest or (now < self._latest and any(map(handover.has_queued, self._sockets))):
            self._timer = self._reactor.callLater(_POLL_S, self._look)
        else:
            self.finish()

    def finish(self) -> None:
        """Close them now. May be called again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ports, self._ports = self._ports, ()
        for sock in self._shared:
            handover.give_to_all(sock)
        self._shared = []
        if not self._closed.called:
            closed(*ports).addBoth(self._closed.callback)


def _socket(port: IListeningPort) -> socket.socket | None:
    """A port's own socket; None where it has none, or it is closed."""
    sock = getattr(port, "socket", None)
    return sock if isinstance(sock, socket.socket) and sock.fileno() >= 0 else None
