"""Blocking sockets, and what the kernel shows of a connection."""

from __future__ import annotations

import fcntl
import hashlib
import random
import select
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from rproxy.net.addresses import Address
from tests.conftest import need
from tests.integration.addresses import family
from tests.integration.polling import SOCKET_S
from tests.integration.stopwatch import Stopwatch

MB: Final = 1_000_000
SMALL_BUFFER: Final = 16384
"""Receive buffer in bytes of a slow reader."""
_RESET: Final = struct.pack("ii", 1, 0)


def ordered(client: socket.socket, server: socket.socket, first: str) -> tuple[socket.socket, socket.socket]:
    """A session's sides, the "client" or the "server" first."""
    return (client, server) if first == "client" else (server, client)


def connect(address: Address | str, *, receive_buffer: int = 0) -> socket.socket:
    """A client at HOST, PORT or at the path of a UNIX socket. A small receive buffer makes a slow reader."""
    client = socket.socket(socket.AF_UNIX if isinstance(address, str) else family(address[0]))
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(SOCKET_S)
    client.connect(address)
    return client


def hang_up(sock: socket.socket) -> None:
    """Close, and wake threads blocked on it."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def reset(sock: socket.socket) -> None:
    """Close with a RST, which discards unsent data."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


def unsent(sock: socket.socket) -> int:
    """Bytes the peer's kernel has not acknowledged."""
    (held,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))
    return int(held)


def unread(*ports: int) -> int:
    """Bytes received on connections of these local ports and not read by their processes."""
    (ss,) = need("ss")
    chosen = " or ".join(f"sport = :{port}" for port in ports)
    command = [ss, "-Htn", "state", "established", f"( {chosen} )"]
    rows = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return sum(int(row.split()[0]) for row in rows)


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes, or fewer at the end of the stream."""
    return b"".join(_chunks(sock, size))


def receive_all(sock: socket.socket) -> bytes:
    """Receive to the end of the stream. Raises `ConnectionResetError`."""
    return b"".join(_chunks(sock, sys.maxsize))


def receive_until_reset(sock: socket.socket) -> bytes:
    """Receive up to a reset, which must come."""
    received: list[bytes] = []
    try:
        received.extend(_chunks(sock, sys.maxsize))
    except ConnectionResetError:
        return b"".join(received)
    raise AssertionError(f"a clean end after {sum(map(len, received))} bytes, and no reset")


def _chunks(sock: socket.socket, size: int) -> Iterator[bytes]:
    while size and (chunk := sock.recv(min(size, 1 << 18))):
        size -= len(chunk)
        yield chunk


def receive_now(sock: socket.socket, size: int) -> bytes:
    """Up to `size` bytes of those that have arrived."""
    return sock.recv(size) if is_readable(sock) else b""


def is_readable(sock: socket.socket) -> bool:
    """Whether data, an end of stream or a reset has arrived."""
    poller = select.poll()  # which, unlike select, takes any descriptor
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(0))


def send_until_blocked(sock: socket.socket, quiet_s: float = 0.2, most: int = 200_000_000) -> int:
    """Send until nothing was accepted for `quiet_s`; returns the bytes sent. Fails above `most`: no back-pressure."""
    block, sent = payload(1 << 16), 0
    sock.settimeout(quiet_s)
    with suppress(TimeoutError):
        while True:
            sent += sock.send(block)
            assert sent <= most, f"{sent} bytes have been taken, and nobody reads them"
    sock.settimeout(SOCKET_S)
    return sent


def wait_for_reset(sock: socket.socket, within_s: float) -> float:
    """Seconds until the peer's reset arrived, without reading. Waiting for a CPU does not count to `within_s`."""
    watch = Stopwatch()
    poller = select.poll()
    poller.register(sock, 0)  # errors are reported unasked
    while not (events := poller.poll(max(1.0, (within_s - watch.own_s) * 1000))):
        assert watch.own_s < within_s, f"no reset within {within_s:g} s"
    took_s = watch.wall_s
    assert events[0][1] & select.POLLERR, "an end, but no reset"
    return took_s


NOISE: Final = random.Random(1).randbytes(1_000_003)
"""Of prime length, so that no two chunks of a stream made of it are equal."""


def payload(size: int) -> bytes:
    return (NOISE * (size // len(NOISE) + 1))[:size]


def digest(data: bytes) -> tuple[int, str]:
    """A digest, short enough to be shown in a failed assert."""
    return len(data), hashlib.blake2b(data, digest_size=8).hexdigest()
