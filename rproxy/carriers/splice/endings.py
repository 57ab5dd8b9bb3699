"""The splice carrier's table of descriptors, and every way in which a leg ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from socket import SocketType
from typing import Any, Final

from twisted.logger import Logger

from rproxy.carriers.carrier import SLICE
from rproxy.carriers.splice.leg import CLOSED_SLOT, Leg, Listener, Other
from rproxy.carriers.splice.pipes import Pipes
from rproxy.carriers.splice.states import CLIENT, CLOSED, CONNECTING, DEAD, EOF, ORPHANED, STALLED
from rproxy.net.tcp_state import unsent
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.sessions.session import FLUSH_BACKEND_S, FLUSH_CLIENT_S

CHECKS_MAX: Final = 512
"""Flushing legs checked in one tick, about a millisecond of work; the others are checked in the next ticks."""


class LegTable:
    """What each descriptor stands for. Deadlines are as precise as the ticks that `wake` schedules."""

    log = Logger()

    def __init__(
        self, capacity: Capacity, pipes: Pipes, seconds: Callable[[], float], wake: Callable[[], None]
    ) -> None:
        self._capacity = capacity
        self._pipes = pipes
        self._seconds = seconds
        self.wake = wake
        self.legs: list[Leg | Listener | Other] = [CLOSED_SLOT] * 64
        """By descriptor."""
        self.closing: list[SocketType] = []
        """Close after the batch: a reused descriptor could receive stale events."""
        self._ended = 0
        """Ended sessions whose capacity is released once their sockets close."""
        self.flushing: dict[Leg, float] = {}
        """Legs to be reset once they have acknowledged what was read for them, with the latest time for it."""

    def put(self, descriptor: int, entry: Leg | Listener | Other) -> None:
        """Pass the events of `descriptor` to `entry` from now on."""
        try:
            self.legs[descriptor] = entry
        except IndexError:
            self.legs.extend([CLOSED_SLOT] * (descriptor + 1))
            self.legs[descriptor] = entry

    def slices(self) -> Iterator[list[Leg]]:
        """One leg of each session, the client's unless it is closed, in slices. Anything may change between slices."""
        start = 0
        while start < len(self.legs):
            legs = self.legs[start : start + SLICE]
            yield [leg for leg in legs if isinstance(leg, Leg) and leg.state & (CLIENT | ORPHANED)]
            start += SLICE

    def finished(self, leg: Leg) -> None:
        """Both streams have ended, and everything is written: close both sockets."""
        session = leg.session
        peer: Any = leg.peer
        if leg.state & CLIENT:
            session.up, session.down = leg.count, peer.count
        else:
            session.up, session.down = peer.count, leg.count
        session.ended(Ending.CLOSED)
        sock, other = leg.sock, peer.sock
        self.legs[sock.fileno()] = self.legs[other.fileno()] = CLOSED_SLOT
        self.closing += (sock, other)
        leg.state = peer.state = CLOSED
        leg.peer = None  # breaks the reference cycle
        self._ended += 1
        own = session.service.capacity  # `Capacity.leave` is inlined: one call fewer for each client
        own.sessions -= 1
        if own.waiting:
            own.resume()

    def fail(self, leg: Leg) -> None:
        """End a leg's session because of the exception that is being handled, which is logged."""
        self.log.failure("a client's session failed")
        self.end(leg, Ending.STOPPED, reset=True)

    def cut(self, leg: Leg, ending: Ending) -> None:
        """End a leg's session at once, with resets. To be called outside of a batch of events."""
        self.end(leg, ending, reset=True)
        self.close_sockets()

    def end(self, leg: Leg, ending: Ending, *, reset: bool) -> None:
        """End a leg's session, and close both of its legs."""
        self._account(leg, ending)
        peer = leg.peer
        if peer is not None:
            if reset:
                peer.reset_on_close()
            self.close_leg(peer)
        self.close_last(leg, reset=reset)

    def _account(self, leg: Leg, ending: Ending) -> None:
        session, peer = leg.session, leg.peer
        if peer is not None:
            client, backend = (leg, peer) if leg.state & CLIENT else (peer, leg)
            session.up, session.down = client.count, backend.count
        session.ended(ending)

    def close_last(self, leg: Leg, *, reset: bool) -> None:
        """Close a leg that is the last one of its session, which has ended."""
        if reset:
            leg.reset_on_close()
        self.close_leg(leg)
        self._ended += 1
        leg.session.service.capacity.leave()

    def close_leg(self, leg: Leg) -> None:
        self.legs[leg.sock.fileno()] = CLOSED_SLOT
        self.closing.append(leg.sock)
        if leg.state & STALLED:
            leg.discard_unsent(self._pipes)
        if self.flushing:
            self.flushing.pop(leg, None)
        leg.state = CLOSED
        leg.peer = None  # breaks the reference cycle

    def close_sockets(self) -> None:
        """After a batch of events, a tick or a `cut`."""
        for sock in self.closing:
            sock.close()
        self.closing.clear()
        if self._ended:
            ended, self._ended = self._ended, 0
            self._capacity.leave(ended)

    def connection_failed_undelivered(self, leg: Leg) -> None:
        """A connection has failed, and its peer has not accepted all that arrived from it before."""
        assert leg.peer is not None
        self._flush(leg.peer, leg.state)

    def _flush(self, leg: Leg, peer_state: int) -> None:
        """Give a leg time to acknowledge what was read for it, then reset it. Its peer, in `peer_state`, has failed.

        If the back-end had ended its stream, the whole answer is on its way: the client gets as long as any slow reader
        (`ServiceTerms.reader_timeout_s`).
        """
        if not leg.state & CLIENT:
            timeout_s = FLUSH_BACKEND_S
        else:
            timeout_s = leg.session.service.terms.reader_timeout_s if peer_state & EOF else FLUSH_CLIENT_S
        self.flushing.setdefault(leg, self._seconds() + timeout_s)
        self.wake()

    def connection_failed(self, leg: Leg) -> None:
        """A connection has failed, and all that arrived from it has been passed on, or is to be discarded."""
        session, peer, state = leg.session, leg.peer, leg.state
        if peer is None:
            if session.ending is None:
                session.ended(Ending.CLIENT_GONE)
            self.close_last(leg, reset=False)
            return
        if peer.state & CONNECTING:
            self.end(leg, Ending.CLIENT_GONE, reset=False)
            return
        self._account(leg, Ending.CLIENT_RESET if leg.state & CLIENT else Ending.BACKEND_RESET)
        leg.reset_on_close()  # the error may be local, such as a firewall's, and unknown to the other end
        self.close_leg(leg)
        peer.peer = None
        peer.state |= ORPHANED
        self._flush(peer, state)
        self._reset_if_flushed(peer)

    def _reset_if_flushed(self, leg: Leg) -> None:
        if leg.state & STALLED or not (leg.state & DEAD or not unsent(leg.sock)):
            return
        if leg.peer is None:
            self.close_last(leg, reset=True)
        elif leg.peer.state & EOF and leg.peer.state & DEAD:
            self._reset_both(leg)

    def _reset_both(self, leg: Leg) -> None:
        """End the session of a flushing leg whose failed peer is still in the table."""
        self.end(leg, Ending.BACKEND_RESET if leg.state & CLIENT else Ending.CLIENT_RESET, reset=True)

    def _check_flushing(self, leg: Leg, *, overdue: bool) -> None:
        if not overdue:
            self._reset_if_flushed(leg)
        elif leg.peer is None:
            self.close_last(leg, reset=True)
        else:
            self._reset_both(leg)

    def tick(self, now: float) -> None:
        """Check the flushing legs, at most `CHECKS_MAX` in turn."""
        for leg, deadline in list(islice(self.flushing.items(), CHECKS_MAX)):
            if not leg.state & CLOSED:
                self._check_flushing(leg, overdue=deadline <= now)
            if self.flushing.pop(leg, None) is not None and not leg.state & CLOSED:
                self.flushing[leg] = deadline  # to the end of the queue
        self.close_sockets()
