"""Moves bytes between the two sockets of a session with as few system calls as possible.

Written for edge-triggered epoll: a readable socket is read until it is empty, and what the other socket does not accept
waits for the event that says it is writable.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from rproxy.carriers.splice.leg import EVENTS, Leg
from rproxy.carriers.splice.pipes import UNSUPPORTED, Pipe, Pipes
from rproxy.carriers.splice.states import (
    BULK,
    CLOSED,
    DEAD,
    EARLY,
    EOF,
    FIRST_WRITES,
    HUNG_UP,
    NAGLE,
    READABLE,
    SHUT,
    STALLED,
    UNSPLICEABLE,
    UNWRITABLE,
    WROTE,
)
from rproxy.net.tcp_state import is_closed
from rproxy.sessions.redispatch import EARLY_DATA_MAX

SIZE: Final = 65536
"""Bytes read at once, and the most kept outside of a pipe for a slow reader."""
ROUNDS: Final = 16
"""Most reads of one leg in a row; then others get their turn."""
DONTWAIT: Final = int(socket.MSG_DONTWAIT)
DONTWAIT_MORE: Final = int(socket.MSG_DONTWAIT | getattr(socket, "MSG_MORE", 0))
"""The end of stream follows: it leaves in the packet of the data."""
BULK_READS: Final = 2
"""Full reads in a row after which a pipe is used."""
_BULK_MIN: Final = 16384
"""Bytes: a transfer that brings less before the socket is empty ceases to be a bulk transfer."""
_SMALL: Final = 1024
"""Bytes of a first write to a back-end for which TCP_NODELAY need not be set."""
_LAST: Final = HUNG_UP | UNSPLICEABLE | DEAD
"""If HUNG_UP alone of these is set, a short read has read everything before the end of stream."""


class Transfer:
    """Moves bytes from leg to leg, and reports what becomes of the legs. Each callback may close the leg.

    - `finished(leg)`: both streams of the session have ended, and everything is written.
    - `failed(leg)`: its connection has failed, and nothing is left to be read from it.
    - `undelivered(leg)`: its connection has failed, and its peer has not accepted all that was read from it.
    - `redispatched(leg)`: it has ended its stream without having sent a byte; returns True if its client is being
      redispatched to another back-end, and the end is not to be passed on.
    """

    def __init__(
        self,
        epoll: select.epoll,
        pipes: Pipes,
        *,
        finished: Callable[[Leg], None],
        failed: Callable[[Leg], None],
        undelivered: Callable[[Leg], None],
        redispatched: Callable[[Leg], bool],
    ) -> None:
        self._epoll = epoll
        self._pipes = pipes
        self._finished = finished
        self._failed = failed
        self._undelivered = undelivered
        self._redispatched = redispatched
        self.spliced = False
        """Whether a pipe has been used since this was last set to False."""
        self.buffer = bytearray(SIZE)
        self.view = memoryview(self.buffer)

    def pump(self, source: Leg) -> None:
        """Move data from `source` to its peer until there is no more, or the peer accepts no more."""
        target = source.peer
        if target is None or target.state & UNWRITABLE:
            return
        full = BULK_READS if source.state & BULK else 0
        for _ in range(ROUNDS):
            if full >= BULK_READS and not source.state & UNSPLICEABLE and (pipe := self._pipes.take()) is not None:
                self._splice(source, target, pipe)
                return
            try:
                size = source.sock.recv_into(self.buffer, SIZE, DONTWAIT)
            except BlockingIOError:
                self._read_all(source)
                return
            except OSError:
                self._failed(source)
                return
            if not size:
                self.end_of_stream(source)
                return
            source.count += size
            state = source.state
            last = size < SIZE and state & _LAST == HUNG_UP
            if not self._write(target, size, DONTWAIT_MORE if last else DONTWAIT):
                return
            if last:
                self.end_of_stream(source)
                return
            if target.state & STALLED:
                return
            if size == SIZE:
                full += 1
            elif not state & (UNSPLICEABLE | DEAD):
                source.state = state & ~READABLE
                return
        self._rearm(source)

    def _write(self, target: Leg, size: int, flags: int) -> bool:
        """Write the first `size` bytes of the buffer, or keep them in the backlog; False when `target` has failed."""
        if target.state & FIRST_WRITES:
            self.before_write(target, size)
        return self._send(target, size, flags)

    def _send(self, target: Leg, size: int, flags: int) -> bool:
        try:
            sent = target.sock.send(self.view[:size], flags)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._write_failed(target)
            return False
        if sent < size:
            self._keep(target, sent, size)
        return True

    def write_later(self, target: Leg, sent: int, size: int) -> None:
        """Only `sent` of the first `size` bytes of the buffer were accepted: keep the rest.

        0 also stands for an error, so the write is tried again to see which.
        """
        if sent:
            self._keep(target, sent, size)
        else:
            self._send(target, size, DONTWAIT)

    def before_write(self, backend: Leg, size: int) -> None:
        """The first `size` bytes of the buffer are about to be sent to a leg with a bit of `FIRST_WRITES`."""
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
            self.set_no_delay(backend, size)

    def _keep(self, target: Leg, sent: int, size: int) -> None:
        target.backlog = bytes(self.view[sent:size])
        target.state |= STALLED

    def set_no_delay(self, backend: Leg, size: int) -> None:
        """Set TCP_NODELAY before the second write, or one of several packets: most sessions have one small write."""
        if size > _SMALL or backend.state & WROTE:
            backend.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            backend.state &= ~NAGLE
        else:
            backend.state |= WROTE

    def _read_all(self, source: Leg) -> None:
        if source.state & DEAD:
            self._failed(source)
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
                if moved < _BULK_MIN:
                    source.state &= ~BULK
                self._release_pipe(target)
                self._read_all(source)
                return
            except OSError as error:
                self._release_pipe(target)
                if self._is_unsupported(error, source):
                    self._read_instead(source)
                else:
                    self._failed(source)
                return
            if not size:  # the end of stream, or urgent data: recv(2) distinguishes them
                self._release_pipe(target)
                self._read_instead(source)
                return
            moved += size
            source.count += size
            if not self._drain_pipe(target):
                return
            if target.state & STALLED:
                return
        self._release_pipe(target)
        self._rearm(source)

    def _is_unsupported(self, error: OSError, leg: Leg) -> bool:
        """Whether an error of splice(2) is about splicing. A dead connection may raise the same error, but only once:
        it must not be mistaken for a connection that goes on.
        """
        if error.errno not in UNSUPPORTED or is_closed(leg.sock):
            return False
        self._pipes.refused(error)
        return True

    def _read_instead(self, source: Leg) -> None:
        """`source` cannot be spliced from: read it."""
        source.state = (source.state | UNSPLICEABLE) & ~BULK
        self.pump(source)

    def _drain_pipe(self, target: Leg) -> bool:
        """Write what the target's pipe holds; False when the caller has nothing more to do."""
        pipe = target.pipe
        assert pipe is not None
        try:
            pipe.drain(target.sock.fileno())
        except OSError as error:
            if self._is_unsupported(error, target):
                self._write_instead(target, pipe)
            else:
                self._write_failed(target)
            return False
        if pipe.held:
            target.state |= STALLED
        return True

    def _write_instead(self, target: Leg, pipe: Pipe) -> None:
        """`target` cannot be spliced to: write what the pipe holds."""
        target.backlog = pipe.empty()
        target.state |= STALLED
        self._release_pipe(target)
        if target.peer is not None:
            target.peer.state |= UNSPLICEABLE
        self.flush(target)

    def _release_pipe(self, target: Leg) -> None:
        if target.pipe is not None:
            self._pipes.release(target.pipe)
            target.pipe = None

    def flush(self, target: Leg, flags: int = DONTWAIT) -> None:
        """Write what is kept for a stalled leg, then go on reading for it."""
        backlog = target.backlog
        if backlog is not None:
            try:
                sent = target.sock.send(backlog, flags)
            except BlockingIOError:
                return
            except OSError:
                self._write_failed(target)
                return
            if sent < len(backlog):
                target.backlog = backlog[sent:]
                return
            target.backlog = None
        if target.pipe is not None:
            if not self._drain_pipe(target) or target.pipe.held:
                return
            self._release_pipe(target)
        target.state &= ~STALLED
        source = target.peer
        if source is None:
            return
        if source.state & EOF:
            self._pass_end(source, target)
        elif source.state & READABLE:
            self.pump(source)

    def _write_failed(self, target: Leg) -> None:
        """Its connection has failed: discard what was to be written to it, and read what arrived from it before."""
        target.discard_unsent(self._pipes)
        target.state |= DEAD | READABLE
        source = target.peer
        if source is None or source.state & DEAD:
            self._failed(target)
            return
        self.pump(target)
        if not target.state & CLOSED:  # callbacks may close the leg: check CLOSED again
            self._undelivered(target)

    def end_of_stream(self, source: Leg) -> None:
        """`source` has been read to the end of its stream."""
        if source.state & DEAD:
            self._failed(source)
            return
        if not source.count and self._redispatched(source):
            return
        source.state = (source.state | EOF) & ~READABLE
        target = source.peer
        if target is not None and not target.state & STALLED:
            self._pass_end(source, target)

    def _pass_end(self, source: Leg, target: Leg) -> None:
        """Everything from `source` has been sent to `target`: shut it down for writing, or finish the session."""
        if target.state & EOF and not source.state & STALLED:
            self._finished(target)
            return
        with suppress(OSError):  # it was reset: an event reports that
            target.sock.shutdown(socket.SHUT_WR)
        target.state |= SHUT
        target.session.half_close()

    def _rearm(self, source: Leg) -> None:
        """There may be more to read, but others get their turn: have epoll report `source` again."""
        self._epoll.modify(source.sock.fileno(), EVENTS)
