"""The splice carrier's sockets by descriptor, and every way in which they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from socket import SocketType
from typing import Any, Final

from rproxy.carriers.splice.accept import Listener
from rproxy.carriers.splice.leg import BROKEN, CLIENT, CLOSED, CONNECTING, DYING, EOF, GONE, STALLED, Leg, Other
from rproxy.net.tcp_state import unsent
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.carrier import SLICE
from rproxy.sessions.endings import Ending
from rproxy.sessions.service import Service
from rproxy.sessions.session import FLUSH_BACKEND_S, FLUSH_CLIENT_S

LOOKS_MAX: Final = 512
"""Doomed legs looked at in one tick, a millisecond of work; the others have their turn in the next ones."""


class LegTable:
    """What every descriptor stands for. A deadline is kept with the precision of the ticks that `wake` asks for."""

    def __init__(self, service: Service, capacity: Capacity, wake: Callable[[], None]) -> None:
        self._service = service
        self._capacity = capacity
        self._wake = wake
        self.drop: Callable[[Leg], None]
        """The mover's."""
        self.legs: list[Leg | Listener | Other] = [GONE] * 64
        self.closing: list[SocketType] = []
        """Closed after the batch of events: before, a new socket could get the number of one with events to come."""
        self._left = 0
        """Sessions over whose room is free once their sockets are closed."""
        self.doomed: dict[Leg, float] = {}
        """Legs to be reset once they have what was read for them, and their deadlines."""

    def put(self, descriptor: int, what: Leg | Listener | Other) -> None:
        """Let events of the descriptor come to `what`."""
        try:
            self.legs[descriptor] = what
        except IndexError:
            self.legs.extend([GONE] * (descriptor + 1))
            self.legs[descriptor] = what

    def slices(self) -> Iterator[list[Leg]]:
        """One leg of each session, the client's while there is one, in slices. Between two, anything may change."""
        start = 0
        while start < len(self.legs):
            legs = self.legs[start : start + SLICE]
            yield [leg for leg in legs if isinstance(leg, Leg) and leg.state & (CLIENT | DYING)]
            start += SLICE

    def finished(self, leg: Leg) -> None:
        """Both streams have ended, and nothing is left to be written."""
        session = leg.session
        peer: Any = leg.peer
        if leg.state & CLIENT:
            session.up, session.down = leg.count, peer.count
        else:
            session.up, session.down = peer.count, leg.count
        session.ended(Ending.CLOSED)
        sock, other = leg.sock, peer.sock
        self.legs[sock.fileno()] = self.legs[other.fileno()] = GONE
        self.closing += (sock, other)
        leg.state = peer.state = CLOSED
        leg.peer = None  # breaks the cycle
        self._left += 1

    def end(self, leg: Leg, ending: Ending, *, reset: bool) -> None:
        """End a leg's session; both sides at once."""
        self._account(leg, ending)
        peer = leg.peer
        if peer is not None:
            if reset:
                peer.reset()
            self.forget(peer)
        self.close(leg, reset=reset)

    def _account(self, leg: Leg, ending: Ending) -> None:
        session, peer = leg.session, leg.peer
        if peer is not None:
            client, backend = (leg, peer) if leg.state & CLIENT else (peer, leg)
            session.up, session.down = client.count, backend.count
        session.ended(ending)

    def close(self, leg: Leg, *, reset: bool) -> None:
        """The last of a session's legs."""
        if reset:
            leg.reset()
        self.forget(leg)
        self._left += 1

    def forget(self, leg: Leg) -> None:
        """Close a leg, and break its references, which are circles."""
        self.legs[leg.sock.fileno()] = GONE
        self.closing.append(leg.sock)
        if leg.state & STALLED:
            self.drop(leg)
        if self.doomed:
            self.doomed.pop(leg, None)
        leg.state = CLOSED
        leg.peer = None

    def close_sockets(self) -> None:
        for sock in self.closing:
            sock.close()
        self.closing.clear()
        if self._left:
            left, self._left = self._left, 0
            self._capacity.leave(left)

    def stuck(self, leg: Leg) -> None:
        """A connection is dead, but its peer has yet to take what had arrived."""
        assert leg.peer is not None
        self._doom(leg.peer, leg.state)

    def _doom(self, leg: Leg, dead: int) -> None:
        """To be reset, as its peer, whose state was `dead`, is no more. One that had ended its stream before has left
        a client nothing less than the whole answer, and all the time to read it: as where a server has closed, and is
        asked by keepalive after a minute or two.
        """
        if not leg.state & CLIENT:
            grace_s = FLUSH_BACKEND_S
        else:
            grace_s = self._service.reader_timeout_s if dead & EOF else FLUSH_CLIENT_S
        self.doomed.setdefault(leg, self._service.seconds() + grace_s)
        self._wake()

    def lost(self, leg: Leg) -> None:
        """A connection is dead, and all that came from it is written or in a doomed peer's hands."""
        session, peer, state = leg.session, leg.peer, leg.state
        if peer is None:
            if session.ending is None:
                session.ended(Ending.CLIENT_GONE)
            self.close(leg, reset=False)
            return
        if peer.state & CONNECTING:
            self.end(leg, Ending.CLIENT_GONE, reset=False)
            return
        self._account(leg, Ending.CLIENT_RESET if leg.state & CLIENT else Ending.BACKEND_RESET)
        leg.reset()  # where it was but this host that did not let us write, say
        self.forget(leg)
        peer.peer = None
        peer.state |= DYING
        self._doom(peer, state)
        self._reset_if_flushed(peer)

    def _reset_if_flushed(self, leg: Leg) -> None:
        if leg.state & STALLED or not (leg.state & BROKEN or not unsent(leg.sock)):
            return
        if leg.peer is None:
            self.close(leg, reset=True)
        elif leg.peer.state & EOF and leg.peer.state & BROKEN:
            self._end(leg)

    def _end(self, leg: Leg) -> None:
        """Both sides of a doomed leg whose peer is dead."""
        self.end(leg, Ending.BACKEND_RESET if leg.state & CLIENT else Ending.CLIENT_RESET, reset=True)

    def _see_to(self, leg: Leg, *, overdue: bool) -> None:
        """A doomed leg: has it taken what came before its peer's reset?"""
        if not overdue:
            self._reset_if_flushed(leg)
        elif leg.peer is None:
            self.close(leg, reset=True)
        else:
            self._end(leg)

    def tick(self, now: float) -> None:
        for leg, deadline in list(islice(self.doomed.items(), LOOKS_MAX)):
            if not leg.state & CLOSED:
                self._see_to(leg, overdue=deadline <= now)
            if self.doomed.pop(leg, None) is not None and not leg.state & CLOSED:
                self.doomed[leg] = deadline  # the last to be looked at again
        self.close_sockets()
