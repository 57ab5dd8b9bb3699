"""PROXY headers of the splice carrier: those that clients' connections begin with, and those sent to back-ends."""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Callable
from select import EPOLLERR, EPOLLHUP, EPOLLRDHUP
from typing import Final

from rproxy.carriers.splice.endings import LegTable
from rproxy.carriers.splice.leg import ClientLeg, Leg
from rproxy.carriers.splice.states import CLOSED, DEAD, HEADER, HUNG_UP, READABLE, STALLED, UNSPLICEABLE
from rproxy.carriers.splice.transfer import DONTWAIT, DONTWAIT_MORE, SIZE, Transfer
from rproxy.sessions.endings import Ending
from rproxy.sessions.proxy_headers import HEADER_S, ProxyHeaders
from rproxy.wire.proxy_header import SIZE_MAX, Header, MalformedHeader, parse

_PEEK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


class HeaderReader:
    """Reads clients' headers. What follows a header stays in the kernel, to be spliced.

    `begin` is called with the leg of a client whose header is complete. Timeouts are as precise as the ticks that
    `table.wake` schedules.
    """

    def __init__(self, table: LegTable, begin: Callable[[ClientLeg], None]) -> None:
        self._table = table
        self._begin = begin
        self.awaited: OrderedDict[ClientLeg, float] = OrderedDict()
        """When the header has to be complete, by client; the order of arrival is also that of the deadlines."""

    def expect(self, client: ClientLeg, rules: ProxyHeaders) -> None:
        """Await the header of a client that has just been accepted, or refuse the client."""
        if not rules.trusts(client.peer_address()):
            self._refuse(client, Ending.UNTRUSTED)
            return
        client.state |= HEADER
        if not self.awaited:
            self._table.wake()
        self.awaited[client] = client.session.started_at + HEADER_S

    def event(self, client: ClientLeg, event: int) -> None:
        """An event of a client whose header is awaited."""
        try:
            data = b"" if event & (EPOLLERR | EPOLLHUP) else client.sock.recv(SIZE_MAX, _PEEK)
            header = parse(data)
        except BlockingIOError:
            return
        except OSError:
            self._gone(client)
        except MalformedHeader as flaw:
            self._refuse(client, Ending.BAD_HEADER, str(flaw))
        else:
            if header is not None:
                self._complete(client, header, len(data), event)
            elif not data:
                self._gone(client)
            elif event & EPOLLRDHUP:
                self._refuse(client, Ending.BAD_HEADER, "the connection ends within it")

    def _complete(self, client: ClientLeg, header: Header, seen: int, event: int) -> None:
        """`seen` bytes are known to have come, the header included."""
        left = header.size
        while left:
            left -= len(client.sock.recv(left, DONTWAIT))
        self.awaited.pop(client, None)
        client.state &= ~HEADER
        if event & EPOLLRDHUP:
            client.state |= READABLE | HUNG_UP
        elif seen > header.size or seen == SIZE_MAX:
            client.state |= READABLE
        session = client.session
        session.header = header
        session.handshake_completed()
        self._begin(client)

    def _gone(self, client: ClientLeg) -> None:
        self.awaited.pop(client, None)
        self._table.end(client, Ending.CLIENT_GONE, reset=False)

    def _refuse(self, client: ClientLeg, ending: Ending, why: str = "") -> None:
        rules = client.session.service.proxy_headers
        if rules is not None:
            rules.refused(ending, client.peer_address(), why)
        self.awaited.pop(client, None)
        self._table.end(client, ending, reset=True)

    def tick(self, now: float) -> bool:
        """Expire deadlines; return whether another tick is needed."""
        while self.awaited:
            client, deadline = next(iter(self.awaited.items()))
            if client.state & CLOSED:
                del self.awaited[client]
            elif deadline <= now:
                self._refuse(client, Ending.HEADER_TIMEOUT)
            else:
                return True
        return False


def send_header(transfer: Transfer, backend: Leg, client: Leg) -> None:
    """Send the header in the backlog of a leg that has just connected: in one packet with the client's first data if
    there are any, alone if there are none.
    """
    header = backend.backlog
    assert header is not None
    size = _read_first(transfer, client)
    client.count += size
    transfer.before_write(backend, size)
    packet = header + transfer.view[:size] if size else header
    more = client.state & (READABLE | HUNG_UP) == READABLE | HUNG_UP
    backend.backlog = packet
    backend.state |= STALLED
    transfer.flush(backend, DONTWAIT_MORE if more else DONTWAIT)


def _read_first(transfer: Transfer, client: Leg) -> int:
    """Read a client's first data into the buffer of `transfer`, also if the event that reports them is still to come;
    returns their bytes. READABLE stays set unless nothing more is known to have come.
    """
    try:
        size = client.sock.recv_into(transfer.buffer, SIZE, DONTWAIT)
    except BlockingIOError:
        size = 0
        client.state &= ~(0 if client.state & DEAD else READABLE)
    except OSError:
        size = 0
        client.state |= DEAD
    if 0 < size < SIZE and not client.state & (HUNG_UP | UNSPLICEABLE | DEAD):
        client.state &= ~READABLE
    return size
