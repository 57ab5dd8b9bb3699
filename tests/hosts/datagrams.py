"""Capturing datagrams on a network, and sending them with forged source addresses."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any, Final, TypeVar

import attrs

from rproxy.net.addresses import Address
from rproxy.wire.pdu import PduType
from tests.hosts.net import PORT, Host
from tests.hosts.system import System
from tests.hosts.test_ports import run_inside
from tests.integration.polling import READY_S, poll

INCOMING: Final = 0x0800
"""ETH_P_IP: packets received."""
EVERYTHING: Final = 0x0003
"""ETH_P_ALL: packets sent as well."""
_IP: Final = struct.Struct("!BxHxxxxBBxx4s4s")
_UDP: Final = struct.Struct("!HHHxx")
_VERSION_AND_LENGTH: Final = 0x45
_TTL: Final = 64

T = TypeVar("T")


def within(host: Host, call: Callable[[], T]) -> T:
    """Run `call` in the host's namespace. Sockets that it opens stay there."""
    results: list[T] = []
    run_inside(host, lambda: results.append(call()))
    return results[0]


@attrs.frozen
class Letter:
    """A datagram with its addresses."""

    source: Address
    destination: Address
    datagram: bytes

    @property
    def kind(self) -> int:
        return self.datagram[0] >> 5 if self.datagram else 0


class Tap:
    """Captures all datagrams at a host's port from now on."""

    def __init__(self, host: Host, what: int = EVERYTHING) -> None:
        self._socket = within(host, lambda: _packets(what))
        self._heard: list[Letter] = []

    def close(self) -> None:
        self._socket.close()

    def take(self) -> list[Letter]:
        """The captured datagrams not returned yet."""
        self._listen()
        heard, self._heard = self._heard, []
        return heard

    def _listen(self) -> None:
        while True:
            try:
                packet, (_, protocol, *_) = self._socket.recvfrom(65_535)
            except BlockingIOError:
                return
            if protocol == INCOMING and (letter := _opened(packet)):
                self._heard.append(letter)

    def first(self, kind: PduType) -> Letter:
        """The next datagram not returned yet; waits for one."""

        def find() -> Letter | None:
            self._listen()
            return next((letter for letter in self._heard if letter.kind == kind), None)

        return poll(find, READY_S, f"a {kind.name} passes")


def _packets(what: int) -> socket.socket:
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
    packets.bind((PORT, what))
    packets.setblocking(False)
    return packets


def _opened(packet: bytes) -> Letter | None:
    first, length, _, protocol, source, destination = _IP.unpack_from(packet)
    if protocol != socket.IPPROTO_UDP:
        return None
    begin = 4 * (first & 0x0F)
    source_port, destination_port, _ = _UDP.unpack_from(packet, begin)
    datagram = packet[begin + _UDP.size : length]
    return Letter((socket.inet_ntoa(source), source_port), (socket.inet_ntoa(destination), destination_port), datagram)


class Forger:
    """Sends raw datagrams from a host, with any source address."""

    def __init__(self, host: Host) -> None:
        self._socket = within(host, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))

    def close(self) -> None:
        self._socket.close()

    def send(self, letter: Letter) -> None:
        self._socket.sendto(packet(letter), (letter.destination[0], 0))


def packet(letter: Letter) -> bytes:
    """The kernel fills in the header's checksum; UDP's is optional."""
    (source, source_port), (destination, destination_port) = letter.source, letter.destination
    udp = _UDP.pack(source_port, destination_port, _UDP.size + len(letter.datagram)) + letter.datagram
    ends = socket.inet_aton(source), socket.inet_aton(destination)
    return _IP.pack(_VERSION_AND_LENGTH, _IP.size + len(udp), _TTL, socket.IPPROTO_UDP, *ends) + udp


@attrs.frozen
class SystemsProxy:
    """The proxy of a `System`, queried as that does, which is faster."""

    system: System

    @property
    def log(self) -> str:
        return self.system.proxy.log

    def status(self) -> dict[str, Any]:
        return self.system.status()
