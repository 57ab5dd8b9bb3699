"""Long streams of bytes, made and checked a chunk at a time."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Mapping
from typing import Final

from tests.integration.polling import SOCKET_S
from tests.integration.sockets import NOISE, payload

CHUNK: Final = 1 << 18
_RING: Final = payload(len(NOISE) + CHUNK)


class Stream:
    """A pseudo-random stream: `take` returns its next bytes, `check` compares them with received ones.

    Every byte is compared, so that a stream that differs is told from the first wrong byte on.
    """

    def __init__(self, start: int = 0) -> None:
        self._start = start
        self.size = 0
        """Bytes taken or checked so far."""

    def take(self, size: int) -> bytes:
        """At most CHUNK bytes."""
        at = (self._start + self.size) % len(NOISE)
        self.size += size
        return _RING[at : at + size]

    def check(self, data: bytes) -> None:
        at = self.size
        if data != self.take(len(data)):
            raise AssertionError(f"a wrong byte in the {len(data)} after the first {at}")


def send_some(sock: socket.socket, stream: Stream, size: int) -> None:
    """The next `size` bytes of the stream."""
    end = stream.size + size
    while stream.size < end:
        sock.sendall(stream.take(min(CHUNK, end - stream.size)))


def send_stream(sock: socket.socket, size: int, start: int = 0) -> int:
    """Send the first `size` bytes of a stream and end it; returns `size`."""
    send_some(sock, Stream(start), size)
    sock.shutdown(socket.SHUT_WR)
    return size


def send_paced(sock: socket.socket, rate: int, seconds: float, start: int = 0) -> int:
    """Send `rate` bytes a second, in steps of 1 ms, then the end; returns the bytes sent."""
    stream = Stream(start)
    began = time.monotonic()
    while (elapsed_s := time.monotonic() - began) < seconds:
        while stream.size < rate * elapsed_s:
            sock.sendall(stream.take(rate // 1000))
        time.sleep(0.001)
    sock.shutdown(socket.SHUT_WR)
    return stream.size


def send_single_bytes(sock: socket.socket, count: int, start: int = 0) -> int:
    """Send bytes in one packet each, then the end; returns their number."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = Stream(start)
    for _ in range(count):
        sock.sendall(stream.take(1))
    sock.shutdown(socket.SHUT_WR)
    return count


def check_some(sock: socket.socket, stream: Stream, size: int) -> None:
    """Receive the next `size` bytes of the stream."""
    end = stream.size + size
    while stream.size < end:
        data = sock.recv(min(CHUNK, end - stream.size))
        assert data, f"the end after {stream.size} bytes, before {end}"
        stream.check(data)


def check_stream(sock: socket.socket, start: int = 0) -> int:
    """Receive and compare to the end of the stream; returns the bytes. Raises `ConnectionResetError`."""
    return check_rest(sock, Stream(start))


def check_rest(sock: socket.socket, stream: Stream) -> int:
    """As `check_stream`; the result includes the bytes checked before."""
    while data := sock.recv(CHUNK):
        stream.check(data)
    return stream.size


def check_until_reset(sock: socket.socket, stream: Stream) -> int:
    """As `check_rest`, but a reset must end it."""
    try:
        check_rest(sock, stream)
    except ConnectionResetError:
        return stream.size
    raise AssertionError(f"a clean end after {stream.size} bytes, and no reset")


def check_all(streams: Mapping[socket.socket, Stream]) -> None:
    """Read and compare all streams concurrently, each to its end."""
    poller = select.poll()
    left = {sock.fileno(): (sock, stream) for sock, stream in streams.items()}
    for descriptor in left:
        poller.register(descriptor, select.POLLIN)
    while left:
        events = poller.poll(SOCKET_S * 1000)
        assert events, f"{len(left)} streams have stopped"
        for descriptor, _ in events:
            sock, stream = left[descriptor]
            if data := sock.recv(CHUNK):
                stream.check(data)
            else:
                poller.unregister(descriptor)
                del left[descriptor]


def flood(streams: Mapping[socket.socket, Stream], quiet_s: float = 0.3, most: int = 100_000_000) -> None:
    """Send to all, each its own stream, until none has taken anything for `quiet_s`. More than `most` bytes to one is
    no back-pressure."""
    for sock in streams:
        sock.settimeout(0)
    progressed = time.monotonic()
    while time.monotonic() - progressed < quiet_s:
        for sock, stream in streams.items():
            if _send_now(sock, stream):
                progressed = time.monotonic()
            assert stream.size < most, f"{stream.size} bytes have been taken, and nobody reads them"
    for sock in streams:
        sock.settimeout(SOCKET_S)


def _send_now(sock: socket.socket, stream: Stream) -> bool:
    """Send as much as is accepted now. Returns whether anything was."""
    chunk = stream.take(CHUNK)
    stream.size -= len(chunk)
    try:
        stream.size += sock.send(chunk)
    except BlockingIOError:
        return False
    return True
