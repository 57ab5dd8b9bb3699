"""Real sockets on loopback within one process: pairs, back-ends, and functions that fill or drain them."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

SMALL: Final = 4096
WAIT_S: Final = 10.0
QUIET_MS: Final = 45
"""Longer than the kernel delays an ACK on loopback."""
RESET: Final = struct.pack("ii", 1, 0)


def descriptors() -> dict[int, str]:
    """The open descriptors and their files, without Twisted's reserve descriptor, opened with its first port."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the folder's own
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return {number: file for number, file in found.items() if file != os.devnull}


def stream(size: int) -> bytes:
    """Bytes in which a lost, repeated or displaced piece can be seen."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def listening(
    address: str = "127.0.0.1", *, buffer: int | None = None, backlog: int = 16, ports: Iterable[int] = (0,)
) -> socket.socket:
    """A socket that listens on the first of `ports` that is free."""
    sock = socket.socket()
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    for port in ports:
        with suppress(OSError):
            sock.bind((address, port))
            break
    else:
        raise OSError(errno.EADDRINUSE, "none of the ports is free")
    sock.listen(backlog)
    sock.setblocking(False)
    return sock


def refusing(address: str) -> socket.socket:
    """A bound socket that does not listen: connects to it are refused."""
    sock = socket.socket()
    sock.bind((address, 0))
    return sock


@contextmanager
def tcp_pair(*, buffer: int | None = None) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected non-blocking sockets."""
    with listening(buffer=buffer) as listener, socket.socket() as near:
        if buffer is not None:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        near.connect(listener.getsockname())
        with listener.accept()[0] as far:
            near.setblocking(False)
            far.setblocking(False)
            yield near, far


@contextmanager
def small_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A pair with small buffers."""
    with tcp_pair(buffer=SMALL) as pair:
        yield pair


def wait_for(sock: socket.socket, events: int = select.POLLIN) -> None:
    """Wait until one of `events` is ready."""
    poll = select.poll()
    poll.register(sock, events)
    assert poll.poll(WAIT_S * 1000), "nothing has come"


def received(sock: socket.socket, size: int) -> bytes:
    """The next `size` bytes; fewer if the stream ends."""
    data = bytearray()
    while len(data) < size:
        wait_for(sock)
        piece = sock.recv(size - len(data))
        if not piece:
            break
        data += piece
    return bytes(data)


def ends(sock: socket.socket) -> bool:
    """Whether the end of the stream is the next thing to arrive."""
    wait_for(sock)
    return sock.recv(1) == b""


def fill(sock: socket.socket, piece: bytes = b"x" * 65536) -> int:
    """Send until the kernel accepts no more for `QUIET_MS`; returns the bytes sent."""
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    sent = 0
    while poll.poll(QUIET_MS):
        with suppress(BlockingIOError):
            sent += sock.send(piece, socket.MSG_DONTWAIT)
    return sent


def reset(sock: socket.socket) -> None:
    """Close it with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()
