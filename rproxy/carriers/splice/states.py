"""The states of the splice carrier's descriptors: bits and their names."""

from __future__ import annotations

from typing import Final

# Long-lived bits get low values: CPython caches small ints.
CLIENT: Final = 1 << 0
"""The connection that was accepted; a leg without this bit is the connection to the back-end."""
NAGLE: Final = 1 << 1
"""TCP_NODELAY is not set yet. Back-ends only."""
WROTE: Final = 1 << 2
"""Data was sent while TCP_NODELAY was not set. Back-ends only."""
EOF: Final = 1 << 3
"""Its stream has been read to the end."""
SHUT: Final = 1 << 4
"""Shut down for writing: its peer's end of stream has been sent to it."""
HUNG_UP: Final = 1 << 5
"""Its end of stream has arrived (EPOLLRDHUP), possibly behind data that has not been read."""
EARLY: Final = 1 << 6
"""Just connected: data sent to it is kept, because the client may have to be redispatched. Back-ends only."""
READABLE: Final = 1 << 7
"""It may have unread data. Edge-triggered epoll does not report that again."""
CONNECTING: Final = 1 << 8
"""Its connect is not complete. Back-ends only."""
STALLED: Final = 1 << 9
"""It has not accepted all that was read for it; the rest is in `Leg.backlog` and `Leg.pipe`."""
BULK: Final = 1 << 10
"""It sends bulk data: its next data is moved through a pipe at once."""
UNSPLICEABLE: Final = 1 << 11
"""To be read with recv(2), until EAGAIN: it has urgent data, or splice(2) refuses it."""
DEAD: Final = 1 << 12
"""Its connection has failed. Data that arrived before may still be read."""
LISTENING: Final = 1 << 13
"""A listening socket."""
CLOSED: Final = 1 << 14
"""Its session or connection is over; the socket is closed after the batch of events."""
ORPHANED: Final = 1 << 15
"""Its peer is gone: to be reset once it has acknowledged what was read for it."""
WATCHED: Final = 1 << 16
"""A descriptor of another part of the process; when it is readable, the reactor gets its turn."""
WAITING: Final = 1 << 17
"""A client in the wait queue."""
HEADER: Final = 1 << 18
"""A client whose PROXY header has not been read yet."""

SLOW_PATH: Final = ~(CLIENT | NAGLE | WROTE | SHUT | HUNG_UP | EARLY)
"""An event of a leg with any of these bits is not handled by the dispatcher's inlined read and write."""
FIRST_WRITES: Final = NAGLE | EARLY
"""Before data is sent to a leg with any of these bits, `Transfer.before_write` has to be called."""
UNWRITABLE: Final = CONNECTING | STALLED | DEAD
"""Nothing is read for a leg with any of these bits."""

NAMES: Final = {
    CLIENT: "CLIENT",
    NAGLE: "NAGLE",
    WROTE: "WROTE",
    EOF: "EOF",
    SHUT: "SHUT",
    HUNG_UP: "HUNG_UP",
    EARLY: "EARLY",
    READABLE: "READABLE",
    CONNECTING: "CONNECTING",
    STALLED: "STALLED",
    BULK: "BULK",
    UNSPLICEABLE: "UNSPLICEABLE",
    DEAD: "DEAD",
    LISTENING: "LISTENING",
    CLOSED: "CLOSED",
    ORPHANED: "ORPHANED",
    WATCHED: "WATCHED",
    WAITING: "WAITING",
    HEADER: "HEADER",
}


def describe(state: int) -> str:
    """The names of the bits that are set, such as ``CLIENT|READABLE``; ``0`` for none."""
    names = [name for bit, name in NAMES.items() if state & bit]
    unknown = state & ~sum(NAMES)
    return "|".join([*names, *([hex(unknown)] if unknown else [])]) or "0"
