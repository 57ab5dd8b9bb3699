"""Datagrams as they pass through a network: overheard on their way, and sent in anybody's name."""

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
"""ETH_P_IP: what a host receives."""
EVERYTHING: Final = 0x0003
"""ETH_P_ALL: what it sends, too."""
_IP: Final = struct.Struct("!BxHxxxxBBxx4s4s")
_UDP: Final = struct.Struct("!HHHxx")
_VERSION_AND_LENGTH: Final = 0x45
_TTL: Final = 64

T = TypeVar("T")


def within(host: Host, call: Callable[[], T]) -> T:
    """What `call` returns in the host's namespace. A socket that it opens is there for good."""
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
    """Overhears all that passes a host's port from now on."""

    def __init__(self, host: Host, what: int = EVERYTHING) -> None:
        self._socket = within(host, lambda: _packets(what))
        self._heard: list[Letter] = []

    def close(self) -> None:
        self._socket.close()

    def take(self) -> list[Letter]:
        """The datagrams that nobody has taken yet."""
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
        """Of those that nobody has taken yet; waits until there is one."""

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
    """Sends from a host whatever it is given, in whoever's name."""

    def __init__(self, host: Host) -> None:
        self._socket = within(host, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))

    def close(self) -> None:
        self._socket.close()

    def send(self, letter: Letter) -> None:
        self._socket.sendto(packet(letter), (letter.destination[0], 0))


def packet(letter: Letter) -> bytes:
    """The kernel sees to the header's checksum; UDP's may be missing."""
    (source, source_port), (destination, destination_port) = letter.source, letter.destination
    udp = _UDP.pack(source_port, destination_port, _UDP.size + len(letter.datagram)) + letter.datagram
    ends = socket.inet_aton(source), socket.inet_aton(destination)
    return _IP.pack(_VERSION_AND_LENGTH, _IP.size + len(udp), _TTL, socket.IPPROTO_UDP, *ends) + udp


@attrs.frozen
class SystemsProxy:
    """Asked as the system asks it, which takes less time."""

    system: System

    @property
    def log(self) -> str:
        return self.system.proxy.log

    def status(self) -> dict[str, Any]:
        return self.system.status()
