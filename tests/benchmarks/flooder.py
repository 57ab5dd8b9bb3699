"""Sends datagrams at a fixed rate until its stdin ends: `... HOST PORT RATE SERVICES KEYRING`, the last may be "".

In turns: empty ones, such that are too short, PDUs of an unknown type or version, registrations under a seal that is
not theirs, or under any where there are none, and registrations that are as they should be: some of services that do
not exist, some of the ports SERVICES at 127.0.0.1 that do, as if their agents had been started again. Prints JSON: how
many were sent, in how many seconds.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain, cycle, islice
from random import Random
from typing import Final

from rproxy.config.keyfile import Keyring, envelope
from rproxy.net.addresses import Address
from rproxy.wire.pdu import SIZE, Register, encode
from rproxy.wire.seal import KEY_BYTES_MIN, Envelope, Key, Sealed

KINDS: Final = 5
SOURCES: Final = tuple(f"127.0.0.{number}" for number in range(1, 17))
"""The back-ends have the first one."""
DATAGRAMS: Final = 40
"""Prepared for each source, and sent repeatedly."""
TICK_S: Final = 0.0002
"""Seconds between two batches."""
BATCH_MAX: Final = 2000
"""If the sender falls behind by more, the rest is skipped."""
INTERVAL_MS: Final = 20_000
_UNKNOWN: Final = (0b111_00_000, 0b001_11_000)
"""First bytes: a type and a version that do not exist."""


def datagrams(rng: Random, sealing: Envelope, source: str, services: Sequence[int]) -> Iterator[bytes]:
    """Yield one of each kind in turn."""
    stranger = Sealed((Key(1, rng.randbytes(KEY_BYTES_MIN)),))
    ports = cycle([*services, 0])
    unknown = cycle(_UNKNOWN)
    while True:
        registration = encode(Register(next(ports) or rng.randrange(1, 65536), INTERVAL_MS, rng.getrandbits(64)))
        yield b""
        yield rng.randbytes(rng.randrange(1, SIZE))
        yield sealing.seal(bytes([next(unknown)]) + rng.randbytes(SIZE - 1), source)
        yield stranger.seal(registration, source)
        yield sealing.seal(registration, source)


def _open(source: str, target: Address) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((source, 0))
    sock.connect(target)
    return sock


def _ended(within_s: float) -> bool:
    readable, _, _ = select.select([sys.stdin], [], [], within_s)
    return bool(readable)


def flood(target: Address, rate: float, services: Sequence[int], sealing: Envelope, rng: Random) -> tuple[int, float]:
    """Returns how many datagrams were sent, and in how many seconds."""
    socks = {source: _open(source, target) for source in SOURCES}
    made = [
        [(sock.send, datagram) for datagram in islice(datagrams(rng, sealing, source, services), DATAGRAMS)]
        for source, sock in socks.items()
    ]
    sends = cycle(chain.from_iterable(zip(*made, strict=True)))
    started = time.perf_counter()
    sent, due = 0, 0.0
    while not _ended(TICK_S):
        elapsed_s = time.perf_counter() - started
        batch = min(int(elapsed_s * rate - due), BATCH_MAX)
        for send, datagram in islice(sends, batch):
            send(datagram)
        sent += batch
        due = max(due + batch, elapsed_s * rate - BATCH_MAX)
    elapsed_s = time.perf_counter() - started
    for sock in socks.values():
        sock.close()
    return sent, elapsed_s


def main(host: str, port: str, rate: str, services: str, keyring: str) -> None:
    sealing = envelope(Keyring.read(keyring, derived=False) if keyring else None)
    ports = [int(service) for service in services.split(",")]
    sent, seconds = flood((host, int(port)), float(rate), ports, sealing, Random(1))
    print(json.dumps({"sent": sent, "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
