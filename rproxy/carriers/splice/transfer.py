"""Moving bytes between a session's two sockets with as few system calls as can be.

Written for edge-triggered epoll: what is readable is read until it is empty, and what the other side does not take at
once waits for the next event that says it is writable.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from rproxy.carriers.splice.leg import (
    BROKEN,
    BULK,
    CLOSED,
    DEAF,
    EARLY,
    EOF,
    EVENTS,
    FRESH,
    HUNG_UP,
    MORE,
    NAGLE,
    NOW,
    PLAIN,
    READABLE,
    ROUNDS,
    SHUT,
    SIZE,
    STALLED,
    WROTE,
    Leg,
)
from rproxy.carriers.splice.pipes import NOT_HERE, Pipe, Pipes
from rproxy.net.tcp_state import is_closed
from rproxy.sessions.redispatch import EARLY_DATA_MAX

BULK_READS: Final = 2
"""Full reads in a row after which the kernel moves the rest."""
_LITTLE: Final = 16384
"""Less than this at once is no bulk any more."""
_SMALL: Final = 1024
"""A back-end is sent up to this much at first without TCP_NODELAY."""
_LAST: Final = HUNG_UP | PLAIN | BROKEN


class Transfer:
    """Moves bytes from leg to leg. Tells the carrier when a session is `finished`, that is both streams have ended
    and all is written; of a leg that is `lost`, with nothing left to read from it; of one that is `stuck`, lost but for
    data its peer does not take yet; and of one that has ended and brought nothing (`unused`), which need not be told
    to its peer if the answer is true. Whatever it tells may close the leg.
    """

    def __init__(
        self,
        epoll: select.epoll,
        pipes: Pipes,
        *,
        finished: Callable[[Leg], None],
        lost: Callable[[Leg], None],
        stuck: Callable[[Leg], None],
        unused: Callable[[Leg], bool],
    ) -> None:
        self._epoll = epoll
        self._pipes = pipes
        self._finished = finished
        self._lost = lost
        self._stuck = stuck
        self._unused = unused
        self.spliced = False
        self.buffer = bytearray(SIZE)
        self.view = memoryview(self.buffer)

    def pump(self, source: Leg) -> None:
        """Move what `source` has to its peer, until there is no more or the peer takes no more."""
        target = source.peer
        if target is None or target.state & DEAF:
            return
        full = BULK_READS if source.state & BULK else 0
        for _ in range(ROUNDS):
            if full >= BULK_READS and not source.state & PLAIN and (pipe := self._pipes.take()) is not None:
                self._splice(source, target, pipe)
                return
            try:
                size = source.sock.recv_into(self.buffer, SIZE, NOW)
            except BlockingIOError:
                self._drained(source)
                return
            except OSError:
                self._lost(source)
                return
            if not size:
                self.end_of_stream(source)
                return
            source.count += size
            state = source.state
            last = size < SIZE and state & _LAST == HUNG_UP
            if not self._write(target, size, MORE if last else NOW):
                return
            if last:
                self.end_of_stream(source)
                return
            if target.state & STALLED:
                return
            if size == SIZE:
                full += 1
            elif not state & (PLAIN | BROKEN):
                source.state = state & ~READABLE
                return
        self._again(source)

    def _write(self, target: Leg, size: int, flags: int) -> bool:
        """Write the first bytes of the buffer, or keep them as the backlog; False when `target` is lost."""
        if target.state & FRESH:
            self.begin(target, size)
        return self._send(target, size, flags)

    def _send(self, target: Leg, size: int, flags: int) -> bool:
        try:
            sent = target.sock.send(self.view[:size], flags)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._unwritable(target)
            return False
        if sent < size:
            self._keep(target, sent, size)
        return True

    def write_later(self, target: Leg, sent: int, size: int) -> None:
        """`target` took but `sent` of the first bytes of the buffer, or gave an error: see which, or keep the rest."""
        if sent:
            self._keep(target, sent, size)
        else:
            self._send(target, size, NOW)

    def begin(self, backend: Leg, size: int) -> None:
        """The first bytes of the buffer are about to be sent to a back-end that is fresh."""
        state = backend.state
        if state & EARLY:
            session = backend.session
            sent = backend.peer.count  # type: ignore[union-attr]
            if not backend.count and len(session.early_data) + size == sent <= EARLY_DATA_MAX:
                session.early_data = (
                    session.early_data + self.view[:size] if session.early_data else bytes(self.view[:size])
                )
            else:
                session.backend_spoke_first |= bool(backend.count) and sent == size
                session.early_data = b""
                backend.state = state & ~EARLY
        if state & NAGLE:
            self.settle(backend, size)

    def _keep(self, target: Leg, sent: int, size: int) -> None:
        target.backlog = bytes(self.view[sent:size])
        target.state |= STALLED

    def settle(self, backend: Leg, size: int) -> None:
        """Set TCP_NODELAY for the second write, or for one of several packets; most sessions have but one small."""
        if size > _SMALL or backend.state & WROTE:
            backend.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            backend.state &= ~NAGLE
        else:
            backend.state |= WROTE

    def _drained(self, source: Leg) -> None:
        if source.state & BROKEN:
            self._lost(source)
        else:
            source.state &= ~READABLE

    def _splice(self, source: Leg, target: Leg, pipe: Pipe) -> None:
        target.pipe = pipe
        source.state |= BULK
        self.spliced = True
        for leg in (source, target):
            if leg.sock.gettimeout() != 0.0:
                leg.sock.setblocking(False)
        moved = 0
        for _ in range(ROUNDS):
            try:
                size = pipe.fill(source.sock.fileno())
            except BlockingIOError:
                if moved < _LITTLE:
                    source.state &= ~BULK
                self._release(target)
                self._drained(source)
                return
            except OSError as error:
                self._release(target)
                if self._is_refused(error, source):
                    self._unspliceable(source)
                else:
                    self._lost(source)
                return
            if not size:  # the end, or an urgent mark: recv will tell
                self._release(target)
                self._unspliceable(source)
                return
            moved += size
            source.count += size
            if not self._drain(target):
                return
            if target.state & STALLED:
                return
        self._release(target)
        self._again(source)

    def _is_refused(self, error: OSError, leg: Leg) -> bool:
        """Whether it is splicing that is at fault. A dead connection may give the same error, and but once: it must
        not be taken for one that goes on.
        """
        if error.errno not in NOT_HERE or is_closed(leg.sock):
            return False
        self._pipes.refused(error)
        return True

    def _unspliceable(self, source: Leg) -> None:
        source.state = (source.state | PLAIN) & ~BULK
        self.pump(source)

    def _drain(self, target: Leg) -> bool:
        """Write what the target's pipe holds; False when there is no more to be done, `target` being lost, say."""
        pipe = target.pipe
        assert pipe is not None
        try:
            pipe.drain(target.sock.fileno())
        except OSError as error:
            if self._is_refused(error, target):
                self._empty(target, pipe)
            else:
                self._unwritable(target)
            return False
        if pipe.held:
            target.state |= STALLED
        return True

    def _empty(self, target: Leg, pipe: Pipe) -> None:
        """`target` does not splice: write what the pipe holds."""
        target.backlog = pipe.empty()
        target.state |= STALLED
        self._release(target)
        if target.peer is not None:
            target.peer.state |= PLAIN
        self.flush(target)

    def _release(self, target: Leg) -> None:
        if target.pipe is not None:
            self._pipes.release(target.pipe)
            target.pipe = None

    def drop(self, leg: Leg) -> None:
        """Forget what was to be written to it."""
        leg.backlog = None
        leg.state &= ~STALLED
        self._release(leg)

    def flush(self, target: Leg) -> None:
        """Write what waits for a stalled leg, then go on with its peer."""
        backlog = target.backlog
        if backlog is not None:
            try:
                sent = target.sock.send(backlog, NOW)
            except BlockingIOError:
                return
            except OSError:
                self._unwritable(target)
                return
            if sent < len(backlog):
                target.backlog = backlog[sent:]
                return
            target.backlog = None
        if target.pipe is not None:
            if not self._drain(target) or target.pipe.held:
                return
            self._release(target)
        target.state &= ~STALLED
        source = target.peer
        if source is None:
            return
        if source.state & EOF:
            self._finish(source, target)
        elif source.state & READABLE:
            self.pump(source)

    def _unwritable(self, target: Leg) -> None:
        """Its connection is dead, and what was to be written to it void; what it sent before is not."""
        self.drop(target)
        target.state |= BROKEN | READABLE
        source = target.peer
        if source is None or source.state & BROKEN:
            self._lost(target)
            return
        self.pump(target)
        if not target.state & CLOSED:
            self._stuck(target)

    def end_of_stream(self, source: Leg) -> None:
        """`source` has been read to its end."""
        if source.state & BROKEN:
            self._lost(source)
            return
        if not source.count and self._unused(source):
            return
        source.state = (source.state | EOF) & ~READABLE
        target = source.peer
        if target is not None and not target.state & STALLED:
            self._finish(source, target)

    def _finish(self, source: Leg, target: Leg) -> None:
        """`target` has all that `source` will ever send."""
        if target.state & EOF and not source.state & STALLED:
            self._finished(target)
            return
        with suppress(OSError):  # reset: an event tells
            target.sock.shutdown(socket.SHUT_WR)
        target.state |= SHUT
        target.session.half_close()

    def _again(self, source: Leg) -> None:
        """There is more, but others have their turn: let epoll tell of it again."""
        self._epoll.modify(source.sock.fileno(), EVENTS)
